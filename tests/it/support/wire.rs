//! A blocking client that sends exactly the bytes it is told to, and shows every message it gets.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::io::ioctl_fionread;

use super::{
    PATIENCE, let_pass,
    message::{Bytes, query},
    poll,
    reply::{Answers, Reply},
};

/// Every message the clients of one script sent and got, in order, with the name of the client.
pub type Transcript = Arc<Mutex<Vec<String>>>;

/// One connection that speaks the protocol.
pub struct Client {
    stream: Stream,
    received: Vec<u8>,
    name: String,
    transcript: Option<Transcript>,
    /// Key for cancel requests, from `BackendKeyData`.
    pub key: (u32, u32),
    /// Last reported value of every reported parameter.
    pub parameters: BTreeMap<String, String>,
    /// How the login went: `trust`, `password`, `md5`, `scram`.
    pub login_method: &'static str,
}

/// The socket below a [`Client`].
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// TLS by rustls' own stream, which shares no code with ours.
pub type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

impl Client {
    /// Takes over a connected socket.
    pub fn over(stream: Stream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            name: String::new(),
            transcript: None,
            key: (0, 0),
            parameters: BTreeMap::new(),
            login_method: "trust",
        }
    }

    /// Writes what is sent and what arrives from now on into `transcript`, under `name`.
    pub fn record(&mut self, name: &str, transcript: Transcript) {
        name.clone_into(&mut self.name);
        self.transcript = Some(transcript);
    }

    /// Sends these messages in one write.
    pub fn send(&mut self, messages: &[Bytes]) {
        self.note_sent(messages);
        self.try_send(&messages.concat()).expect("the other side reads");
    }

    /// Sends bytes, to a side that may have gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes),
        }
    }

    /// Sends these messages cut into pieces of `size` bytes, each in its own packet.
    pub fn send_in_pieces(&mut self, messages: &[Bytes], size: usize) {
        self.note_sent(messages);
        for piece in messages.concat().chunks(size) {
            self.try_send(piece).expect("the other side reads");
            let_pass(Duration::from_micros(200));
        }
    }

    /// Sends these messages in one write and gives the answers to all of them.
    ///
    /// Every Query, Sync and `FunctionCall` among them is answered by one `ReadyForQuery`.
    pub fn run(&mut self, messages: &[Bytes]) -> Answers {
        self.send(messages);
        let answered = messages.iter().filter(|message| b"QSF".contains(&message[0])).count();
        self.ready(answered)
    }

    /// Runs one simple query.
    pub fn query(&mut self, sql: &str) -> Answers {
        self.run(&[query(sql)])
    }

    /// The rows of one simple query.
    ///
    /// # Panics
    /// If it fails.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        self.send(&[query(sql)]);
        let replies = self.replies_until(|reply| b"Z\0".contains(&reply.tag()));
        let error = replies.iter().find(|reply| b"E\0".contains(&reply.tag()));
        assert!(error.is_none(), "{sql}: {error:?}");
        replies.iter().filter(|reply| reply.tag() == b'D').map(Reply::columns).collect()
    }

    /// The single value of one simple query.
    pub fn value(&mut self, sql: &str) -> String {
        match &self.rows(sql)[..] {
            [row] if row.len() == 1 => row[0].clone(),
            rows => panic!("{sql}: one value was expected, got {rows:?}"),
        }
    }

    /// Process id of the server process that answers now.
    pub fn backend_pid(&mut self) -> String {
        self.value("SELECT pg_backend_pid()")
    }

    /// Reads up to and including the `count`th `ReadyForQuery`, or to the end of the connection.
    pub fn ready(&mut self, count: usize) -> Answers {
        let mut open = count;
        if open == 0 {
            return Answers::from_iter([]);
        }
        Answers::from_iter(self.replies_until(|reply| {
            open -= usize::from(reply.tag() == b'Z');
            open == 0 || reply.tag() == 0
        }))
    }

    /// Reads up to and including the first message with this tag, or to the end of the connection.
    pub fn until(&mut self, tag: u8) -> Answers {
        Answers::from_iter(self.replies_until(|reply| reply.tag() == tag || reply.tag() == 0))
    }

    /// Reads `count` messages.
    pub fn take(&mut self, count: usize) -> Answers {
        (0..count).map(|_| self.reply()).collect()
    }

    /// Reads to the end of the connection; the last element is `EOF`.
    pub fn until_end(&mut self) -> Answers {
        Answers::from_iter(self.replies_until(|reply| reply.tag() == 0))
    }

    /// Reads until `is_last` says so.
    pub fn replies_until(&mut self, mut is_last: impl FnMut(&Reply) -> bool) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            let reply = self.reply();
            let done = is_last(&reply);
            let is_end = reply == Reply::Eof;
            replies.push(reply);
            if done || is_end {
                return replies;
            }
        }
    }

    /// Reads one message.
    ///
    /// # Panics
    /// If none arrives within [`PATIENCE`].
    pub fn reply(&mut self) -> Reply {
        self.reply_within(PATIENCE).unwrap_or_else(|| {
            let story = self.transcript.as_ref().map_or_else(String::new, |transcript| {
                let lines = transcript.lock().unwrap_or_else(PoisonError::into_inner);
                lines[lines.len().saturating_sub(25)..].join("\n  ")
            });
            panic!("client {:?}: no message within {PATIENCE:?}\n  {story}", self.name);
        })
    }

    /// Reads one message, if one arrives in time.
    pub fn reply_within(&mut self, time: Duration) -> Option<Reply> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(reply) = self.cut() {
                self.note(&reply);
                return Some(reply);
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return None;
            }
            if self.fill(rest) == Some(0) {
                assert!(self.received.is_empty(), "ended in a message: {:?}", self.received);
                self.note(&Reply::Eof);
                return Some(Reply::Eof);
            }
        }
    }

    /// Proves that nothing arrives for a while.
    pub fn assert_quiet(&mut self) {
        let reply = self.reply_within(Duration::from_millis(300));
        assert!(reply.is_none(), "client {:?} got {reply:?} unasked", self.name);
    }

    /// Waits, without reading, until the other side has sent all that the system takes for us.
    pub fn assert_backed_up(&self) {
        let waiting = || match &self.stream {
            Stream::Tcp(stream) => ioctl_fionread(stream),
            Stream::Unix(stream) => ioctl_fionread(stream),
            Stream::Tls(stream) => ioctl_fionread(&stream.sock),
        };
        let mut before = 0;
        poll("nothing more comes", || {
            let_pass(Duration::from_millis(100));
            let now = waiting().expect("a socket says how much it holds");
            now > 0 && now == std::mem::replace(&mut before, now)
        });
    }

    /// Reads exactly one byte, as after `SSLRequest`; `None` at the end of the connection.
    pub fn byte(&mut self) -> Option<u8> {
        let deadline = Instant::now() + PATIENCE;
        while self.received.is_empty() {
            let rest = deadline.saturating_duration_since(Instant::now());
            assert!(!rest.is_zero(), "no byte within {PATIENCE:?}");
            if self.fill(rest) == Some(0) {
                return None;
            }
        }
        Some(self.received.remove(0))
    }

    /// Reads a first packet, which has no tag: its code and the rest; `None` at the end.
    pub fn first_packet(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut packet = Vec::new();
        while packet.len() < 8 || packet.len() < length_of(&packet) {
            packet.push(self.byte()?);
        }
        let code = packet[4..8].try_into().expect("four bytes");
        Some((u32::from_be_bytes(code), packet.split_off(8)))
    }

    /// Sends bytes to a side that may hang up on them, and says that nothing more will come.
    pub fn send_last(&mut self, bytes: &[u8]) {
        let _ = self.try_send(bytes);
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => stream.sock.shutdown(Shutdown::Write),
        };
    }

    /// The same connection, to be written to from another thread.
    pub fn another_end(&self) -> Self {
        Self::over(match &self.stream {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().expect("descriptors are left")),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().expect("descriptors are left")),
            Stream::Tls(_) => panic!("a TLS connection has one state"),
        })
    }

    /// Returns the socket below TLS, for those who write there what they should not.
    ///
    /// # Panics
    /// If there is no TLS.
    pub fn raw(&self) -> TcpStream {
        match &self.stream {
            Stream::Tls(stream) => stream.sock.try_clone().expect("descriptors are left"),
            Stream::Tcp(_) | Stream::Unix(_) => panic!("no TLS"),
        }
    }

    /// Returns the socket, to put something else around it.
    ///
    /// # Panics
    /// If it is none of TCP, or something has come that was not read.
    pub fn into_tcp(self) -> TcpStream {
        assert!(self.received.is_empty(), "unread: {:?}", self.received);
        match self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) | Stream::Tls(_) => panic!("not plain TCP"),
        }
    }

    /// Ends the connection for everybody who writes to it or reads from it.
    pub fn hang_up(&self) {
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tls(stream) => stream.sock.shutdown(Shutdown::Both),
        };
    }

    /// Reads once; the number of bytes, or nothing if the time is over.
    fn fill(&mut self, time: Duration) -> Option<usize> {
        let mut chunk = [0; 16 * 1024];
        let result = match &mut self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(time)).and_then(|()| stream.read(&mut chunk))
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(time)).and_then(|()| stream.read(&mut chunk))
            }
            Stream::Tls(stream) => {
                stream.sock.set_read_timeout(Some(time)).and_then(|()| stream.read(&mut chunk))
            }
        };
        match result {
            Ok(length) => {
                self.received.extend_from_slice(&chunk[..length]);
                Some(length)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            // A reset tells no more than an end.
            Err(_) => Some(0),
        }
    }

    fn cut(&mut self) -> Option<Reply> {
        let (&[tag, a, b, c, d], _) = self.received.split_first_chunk::<5>()?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("64-bit") + 1;
        if self.received.len() < length {
            return None;
        }
        let body = self.received[5..length].to_vec();
        self.received.drain(..length);
        Some(Reply::Message { tag, body })
    }

    fn note_sent(&self, messages: &[Bytes]) {
        for sent in messages {
            self.write_down(|| {
                let start = &sent[..sent.len().min(80)];
                format!("{} sends {}", self.name, start.escape_ascii())
            });
        }
    }

    fn write_down(&self, line: impl Fn() -> String) {
        if let Some(transcript) = &self.transcript {
            transcript.lock().unwrap_or_else(PoisonError::into_inner).push(line());
        }
    }

    fn note(&mut self, reply: &Reply) {
        if reply.tag() == b'S' {
            let (name, value) = reply.parameter();
            self.parameters.insert(name, value);
        }
        self.write_down(|| format!("{}: {}", self.name, reply.detail()));
    }
}

/// What the length word at the start of an untagged packet says.
fn length_of(packet: &[u8]) -> usize {
    let (length, _) = packet.split_first_chunk().expect("the caller has read it");
    usize::try_from(u32::from_be_bytes(*length)).expect("64-bit")
}
