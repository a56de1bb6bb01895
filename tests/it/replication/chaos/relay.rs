//! A small TCP relay before the secondary, to lose connections the ways that networks do.

use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the relay does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// It keeps all connections, takes new ones, and lets nothing through.
    Swallow,
    /// It resets all connections and refuses new ones.
    Reset,
}

/// The relay; it ends with the runtime.
pub struct Relay {
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
}

impl Relay {
    /// Listens, and relays to a port of the loopback address.
    pub async fn start(to: u16) -> Self {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.expect("the loopback address is there");
        let port = listener.local_addr().expect("it is bound").port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = Arc::clone(&mode);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                tokio::spawn(relay(client, to, modes.subscribe()));
            }
        });
        Self { port, mode }
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.mode.send_replace(Mode::Reset);
        std::thread::park_timeout(Duration::from_millis(20));
        self.mode.send_replace(Mode::Pass);
    }

    /// Lets nothing through.
    pub fn swallow(&self) {
        self.mode.send_replace(Mode::Swallow);
    }

    /// Lets everything through; connections that have lost nothing go on.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

async fn relay(mut client: TcpStream, to: u16, mut modes: watch::Receiver<Mode>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let is_reset = loop {
        let mode = *modes.borrow_and_update();
        let ended = match mode {
            Mode::Reset => break true,
            Mode::Swallow => modes.changed().await.is_err(),
            Mode::Pass => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => true,
                changed = modes.changed() => changed.is_err(),
            },
        };
        if ended {
            break false;
        }
    };
    if is_reset {
        for stream in [&client, &server] {
            // Closed without a farewell.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
