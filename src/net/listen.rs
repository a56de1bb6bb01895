//! Listening on TCP addresses and on a Unix socket.
//!
//! Job: bind what `[general]` names, hand out accepted connections one by one, follow the
//! configuration without touching what stays, and keep calm when the system cannot give us another
//! connection. It never reads from one.

mod bind;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use bind::{Bound, Purpose, SocketFile};

use super::stream::{Peer, Stream};
use crate::config::General;

/// How long accepting pauses when the system is out of something; doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Something named in the configuration cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A name in `listen_addr` has no address.
    #[error("cannot resolve listen_addr {name:?}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// A TCP address cannot be bound.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on {path}")]
    Unix {
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the Unix socket.
    #[error("another process listens on {path}")]
    UnixInUse {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The path of the Unix socket is taken by a file that is no socket.
    #[error("{path} exists and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Neither an address nor a directory for a Unix socket is configured.
    #[error("nothing to listen on: listen_addr and unix_socket_dir are both empty")]
    Nothing,
}

/// Every socket that we accept clients on. One task accepts; any may rebind.
///
/// Dropping it closes them and removes the file of the Unix socket.
#[derive(Debug)]
pub struct Listeners {
    // Locked for single system calls, never across a wait.
    state: Mutex<State>,
    /// Other doors are there than the ones that are waited at.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    doors: Vec<Door>,
    /// Connections that came to a door before it was closed.
    pending: VecDeque<(Stream, Peer)>,
    /// The door that is looked at first: the one behind the last that let somebody in.
    next: usize,
    paused: Option<Pause>,
    port: u16,
    /// Whether TCP is closed for good: the proxy shuts down.
    is_tcp_closed: bool,
}

#[derive(Debug)]
enum Door {
    Tcp { listener: TcpListener, address: SocketAddr },
    Unix { listener: UnixListener, file: SocketFile },
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

/// Other doors, bound and not used yet. Dropping it closes those that are new.
#[derive(Debug)]
pub struct Rebind {
    bound: Vec<Bound>,
    port: u16,
    general: General,
}

/// What is listened on from now on, and what is not any more: addresses and paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rebound {
    /// New ones.
    pub opened: Vec<String>,
    /// Closed ones.
    pub closed: Vec<String>,
}

impl Listeners {
    /// Binds every address of `listen_addr` and the Unix socket; `*` is all of IPv4 and IPv6.
    ///
    /// Port 0 is any port that is free on all addresses. An address family that this machine does
    /// not have is forgiven where another address stands for the same name. Names are resolved
    /// here, which may block. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// See [`ListenError`]. Nothing stays bound then.
    pub fn bind(general: &General) -> Result<Self, ListenError> {
        let listeners = Self {
            state: Mutex::new(State {
                doors: Vec::new(),
                pending: VecDeque::new(),
                next: 0,
                paused: None,
                port: 0,
                is_tcp_closed: false,
            }),
            changed: Notify::new(),
        };
        let rebind = listeners.prepare(general)?;
        listeners.apply(rebind);
        Ok(listeners)
    }

    /// Binds what another configuration names and is not bound yet; changes nothing that is in use.
    /// Who comes to what is new waits until it is applied.
    ///
    /// May block, and must be called inside a tokio runtime, like [`bind`](Self::bind).
    ///
    /// # Errors
    /// See [`ListenError`]. Nothing new stays bound then.
    pub fn prepare(&self, general: &General) -> Result<Rebind, ListenError> {
        self.bind_new(general, Purpose::Use)
    }

    /// Says what another configuration would open and close.
    ///
    /// May block, like [`bind`](Self::bind).
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn try_out(&self, general: &General) -> Result<Rebound, ListenError> {
        Ok(self.preview(&self.bind_new(general, Purpose::Trial)?))
    }

    fn bind_new(&self, general: &General, purpose: Purpose) -> Result<Rebind, ListenError> {
        let names = bind::resolve(&general.listen_addr)?;
        let state = self.state();
        let names = if state.is_tcp_closed { Vec::new() } else { names };
        let (bound, port) = bind::bind_all(&names, general, &state.doors, state.port, purpose)?;
        if bound.is_empty() && !state.is_tcp_closed {
            return Err(ListenError::Nothing);
        }
        Ok(Rebind { bound, port, general: general.clone() })
    }

    /// Says what [`apply`](Self::apply) would open and close.
    fn preview(&self, rebind: &Rebind) -> Rebound {
        let state = self.state();
        let is_kept = |at: usize| {
            rebind.bound.iter().any(|bound| matches!(bound, Bound::Kept(door) if *door == at))
        };
        let closed = state.doors.iter().enumerate().filter(|(at, _)| !is_kept(*at));
        Rebound {
            opened: rebind.bound.iter().filter_map(Bound::name).collect(),
            closed: closed.map(|(_, door)| door.name()).collect(),
        }
    }

    /// Puts other doors to use, and closes those that are not named any more; who waits at one of
    /// these is let in first. Doors that stay get the new options.
    ///
    /// Must be called inside a tokio runtime.
    pub fn apply(&self, rebind: Rebind) -> Rebound {
        let rebound = self.preview(&rebind);
        let mut state = self.state();
        let mut old: Vec<Option<Door>> =
            std::mem::take(&mut state.doors).into_iter().map(Some).collect();
        for bound in rebind.bound {
            let door = match bound {
                Bound::Kept(at) => {
                    let kept = old.get_mut(at).and_then(Option::take);
                    kept.inspect(|door| door.set_options(&rebind.general))
                }
                Bound::Tcp { socket, address } => TcpListener::from_std(socket.into())
                    .inspect_err(|error| warn!(%address, %error, "cannot listen"))
                    .ok()
                    .map(|listener| Door::Tcp { listener, address }),
                Bound::Unix { socket, file } => UnixListener::from_std(socket.into())
                    .inspect_err(|error| warn!(%error, "cannot listen"))
                    .ok()
                    .map(|listener| Door::Unix { listener, file }),
                Bound::Possible(_) => None,
            };
            state.doors.extend(door);
        }
        for door in old.into_iter().flatten() {
            door.close(&mut state.pending);
        }
        state.port = rebind.port;
        drop(state);
        for name in &rebound.opened {
            info!(address = name, "listening");
        }
        for name in &rebound.closed {
            info!(address = name, "not listening any more");
        }
        self.changed.notify_one();
        rebound
    }

    /// Closes all TCP addresses for good; who waits at one of them is let in first.
    pub fn close_tcp(&self) {
        let mut state = self.state();
        state.is_tcp_closed = true;
        let (tcp, unix) = std::mem::take(&mut state.doors)
            .into_iter()
            .partition(|door| matches!(door, Door::Tcp { .. }));
        state.doors = unix;
        let tcp: Vec<Door> = tcp;
        for door in tcp {
            door.close(&mut state.pending);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Closes everything, and removes the file of the Unix socket.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_tcp_closed = true;
        state.doors.clear();
        state.pending.clear();
    }

    /// Waits for the next client.
    ///
    /// When the system has no descriptors or memory left, waits for up to a second before asking
    /// again; the clients stay in the system's queue. Cancel safe: a connection is taken only by
    /// the call that returns it.
    pub async fn accept(&self) -> (Stream, Peer) {
        loop {
            let pause = self.state().paused;
            if let Some(pause) = pause {
                sleep_until(pause.until).await;
            }
            let accepted = tokio::select! {
                accepted = poll_fn(|cx| self.state().poll_accept(cx)) => accepted,
                () = self.changed.notified() => continue,
            };
            match accepted {
                Ok(accepted) => {
                    self.state().paused = None;
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {
                    debug!(%error, "connection lost before it was accepted");
                }
                Err(error) => self.state().pause(&error),
            }
        }
    }

    /// Returns the TCP addresses that are bound, with the port that was found for port 0.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let address = |door: &Door| match door {
            Door::Tcp { address, .. } => Some(*address),
            Door::Unix { .. } => None,
        };
        self.state().doors.iter().filter_map(address).collect()
    }

    /// Returns the path of the Unix socket.
    pub fn unix_path(&self) -> Option<PathBuf> {
        self.state().doors.iter().find_map(|door| match door {
            Door::Tcp { .. } => None,
            Door::Unix { file, .. } => Some(file.path().to_owned()),
        })
    }

    /// Returns the port of all addresses, which is also in the name of the Unix socket.
    pub fn port(&self) -> u16 {
        self.state().port
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        if let Some(first) = self.pending.pop_front() {
            return Poll::Ready(Ok(first));
        }
        let count = self.doors.len();
        for step in 0..count {
            let at = (self.next + step) % count.max(1);
            let Some(door) = self.doors.get(at) else { continue };
            if let Poll::Ready(accepted) = door.poll_accept(cx) {
                self.next = at + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    fn pause(&mut self, error: &io::Error) {
        let (shortest, longest) = PAUSES;
        if self.paused.is_none() {
            warn!(%error, "cannot accept clients now");
        }
        let length = self.paused.map_or(shortest, |pause| (pause.length * 2).min(longest));
        self.paused = Some(Pause { until: Instant::now() + length, length });
    }
}

impl Door {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        match self {
            Self::Tcp { listener, .. } => listener
                .poll_accept(cx)
                .map_ok(|(stream, address)| (Stream::Tcp(stream), Peer::Tcp(address))),
            Self::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (Stream::Unix(stream), Peer::Unix))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp { address, .. } => address.to_string(),
            Self::Unix { file, .. } => file.path().display().to_string(),
        }
    }

    /// Gives connections that come from now on the options of another configuration.
    fn set_options(&self, general: &General) {
        let result = match self {
            Self::Tcp { listener, .. } => bind::change_tcp(listener, general),
            Self::Unix { listener, file } => bind::change_unix(listener, file, general),
        };
        if let Err(error) = result {
            warn!(address = self.name(), %error, "cannot change the options of a listening socket");
        }
    }

    /// Closes it, and keeps the connections that wait there.
    fn close(self, pending: &mut VecDeque<(Stream, Peer)>) {
        match self {
            Self::Tcp { listener, .. } => {
                let Ok(listener) = listener.into_std() else { return };
                // LIMIT: `listen_backlog` of them.
                while let Ok((stream, address)) = listener.accept() {
                    let _ = stream.set_nonblocking(true);
                    if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
                        pending.push_back((Stream::Tcp(stream), Peer::Tcp(address)));
                    }
                }
            }
            Self::Unix { listener, file } => {
                let Ok(listener) = listener.into_std() else { return };
                // Gone first, so that nobody new comes.
                drop(file);
                while let Ok((stream, _)) = listener.accept() {
                    let _ = stream.set_nonblocking(true);
                    if let Ok(stream) = tokio::net::UnixStream::from_std(stream) {
                        pending.push_back((Stream::Unix(stream), Peer::Unix));
                    }
                }
            }
        }
    }
}

/// Says whether only the connection that would have come next is lost.
///
/// Source: accept(2), "Error handling": Linux passes pending network errors of the new socket.
fn concerns_one_connection(error: &io::Error) -> bool {
    const OF_THE_CONNECTION: [Errno; 10] = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OF_THE_CONNECTION.contains(&errno))
}

#[cfg(test)]
mod tests;
