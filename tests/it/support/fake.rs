//! A server that behaves as a test tells it to, for what PostgreSQL does too seldom.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use super::{
    message::{Bytes, CANCEL_REQUEST, SSL_REQUEST, cstr, message},
    reply::Reply,
    wire::{Client, Stream},
};

/// Listens on a loopback port and hands every connection to the script, in a thread of its own.
pub struct FakeServer {
    address: SocketAddr,
    port: u16,
    over: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    listening: Option<JoinHandle<()>>,
}

/// One connection to the fake server whose startup packet has been read.
pub struct Caller {
    /// How many connections came before this one, cancel requests included.
    pub number: usize,
    /// Whether this is a cancel request.
    pub is_cancel: bool,
    /// The version of the protocol that it asks for.
    pub version: u32,
    /// What was behind that; the key of a cancel request.
    pub packet: Vec<u8>,
    pub connection: Client,
}

impl FakeServer {
    /// Starts one; `script` is called for each connection and may end it by returning.
    pub fn start(script: impl Fn(Caller) + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script)
    }

    /// Starts one at an address of its own.
    pub fn start_at(address: &str, script: impl Fn(Caller) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("loopback");
        let address = listener.local_addr().expect("it is bound");
        let port = listener.local_addr().expect("it is bound").port();
        let over = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let script = Arc::new(script);
        let listening = std::thread::spawn({
            let (over, connections) = (Arc::clone(&over), Arc::clone(&connections));
            move || {
                for stream in listener.incoming().flatten() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = connections.fetch_add(1, Ordering::Relaxed);
                    let script = Arc::clone(&script);
                    std::thread::spawn(move || {
                        let mut connection = Client::over(Stream::Tcp(stream));
                        let mut first = connection.first_packet();
                        if first.as_ref().is_some_and(|(code, _)| *code == SSL_REQUEST) {
                            connection.try_send(b"N").expect("the proxy waits for an answer");
                            first = connection.first_packet();
                        }
                        if let Some((version, packet)) = first {
                            let is_cancel = version == CANCEL_REQUEST;
                            script(Caller { number, is_cancel, version, packet, connection });
                        }
                    });
                }
            }
        });
        Self { address, port, over, connections, listening: Some(listening) }
    }

    /// The lines of a `[databases.NAME]` section that lead here.
    pub fn database(&self) -> [String; 2] {
        ["host = \"127.0.0.1\"".to_owned(), format!("port = {}", self.port)]
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listening thread.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Caller {
    /// Lets the client in without a password.
    pub fn welcome(&mut self) {
        self.welcome_with_key(&[7_u32.to_be_bytes(), 42_u32.to_be_bytes()].concat());
    }

    /// The same with a cancel key of any length.
    pub fn welcome_with_key(&mut self, key: &[u8]) {
        self.send(&[
            message(b'R', &0_u32.to_be_bytes()),
            parameter("server_version", "15.0"),
            parameter("client_encoding", "UTF8"),
            parameter("DateStyle", "ISO, MDY"),
            parameter("TimeZone", "UTC"),
            parameter("application_name", ""),
            parameter("standard_conforming_strings", "on"),
            message(b'K', key),
            ready(b'I'),
        ]);
    }

    /// Sends to a proxy that may have gone.
    pub fn send(&mut self, messages: &[Bytes]) {
        let _ = self.connection.try_send(&messages.concat());
    }

    /// Waits for the next query; `None` when the proxy has gone. Anything else is passed over.
    pub fn query(&mut self) -> Option<String> {
        loop {
            match self.connection.reply() {
                Reply::Eof | Reply::Message { tag: b'X', .. } => return None,
                Reply::Message { tag: b'Q', body } => {
                    return Some(String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned());
                }
                Reply::Message { .. } => {}
            }
        }
    }

    /// Answers every query with one row until the proxy goes.
    pub fn serve(&mut self) {
        while self.query().is_some() {
            self.answer("served");
        }
    }

    /// Answers a query with one row.
    pub fn answer(&mut self, value: &str) {
        self.send(&[row(value), complete("SELECT 1"), ready(b'I')]);
    }
}

pub fn parameter(name: &str, value: &str) -> Bytes {
    message(b'S', &[cstr(name), cstr(value)].concat())
}

pub fn ready(status: u8) -> Bytes {
    message(b'Z', &[status])
}

pub fn complete(tag: &str) -> Bytes {
    message(b'C', &cstr(tag))
}

/// A `DataRow` of one column.
pub fn row(value: &str) -> Bytes {
    let length = u32::try_from(value.len()).expect("short").to_be_bytes();
    message(b'D', &[&1_u16.to_be_bytes()[..], &length, value.as_bytes()].concat())
}

/// `ErrorResponse` (`E`) or `NoticeResponse` (`N`).
pub fn report(tag: u8, severity: &str, sqlstate: &str) -> Bytes {
    let fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", "as told")];
    let fields = fields.map(|(code, value)| cstr(&format!("{code}{value}")));
    message(tag, &[fields.concat(), vec![0]].concat())
}
