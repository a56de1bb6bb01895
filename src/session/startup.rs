//! The first words of a connection: encryption requests, then a startup message or a cancel.
//!
//! Job: read the untagged packets and answer the encryption requests, as PostgreSQL does. It knows
//! nothing of databases, users or passwords beyond their names.
//!
//! Source: PostgreSQL `src/backend/postmaster/postmaster.c`, `ProcessStartupPacket`.

use std::fmt;
use std::io;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::config::Network;
use crate::fault::{Fault, SqlState};
use crate::net::tls::{Acceptor, Channel, HandshakeError, TlsStream};
use crate::net::{Peer, Stream};
use crate::wire::proxied::{self, Beginning};
use crate::wire::startup::{self, FirstPacket, LENGTH_BYTES, Parameter, StartupError, Version};

/// The one byte that answers an encryption request with "no".
const NO_ENCRYPTION: u8 = b'N';

/// The one byte that answers a request for TLS with "yes".
const TLS: u8 = b'S';

/// What TLS begins with, where a client does not ask first: the type of a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Room for what a client usually sends before it is logged in; more is reserved only for a length
/// that was checked.
const INPUT_BYTES: usize = 1024;

/// How much of what a client sends behind its refusal is read.
const LAST_BYTES: u64 = 64 * 1024;

/// What a connection was opened for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// To cancel what a session runs.
    Cancel { pid: i32, secret: Vec<u8> },
    /// To log in.
    Login(Request),
}

/// The startup message of a client that wants to log in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) database: String,
    pub(super) user: String,
    /// What is spoken from now on.
    pub(super) protocol: Version,
    /// Where it asks for replication: what is to be asked of the server.
    pub(super) replication: Option<Vec<u8>>,
    /// What is left for the session: settings and `options`, in order, each name once.
    pub(super) parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a connection did not get as far as a login.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpeningError {
    /// A port probe, or a client that thought better of it.
    #[error("client closed the connection")]
    Closed,
    #[error("connection ended inside a message")]
    Truncated,
    #[error("cannot read from the client")]
    Read(#[source] io::Error),
    #[error("cannot write to the client")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Packet(StartupError),
    #[error("PROXY protocol from an address that is not in proxy_protocol_from")]
    Uninvited,
    #[error("no PROXY protocol from an address in proxy_protocol_from")]
    Unannounced,
    #[error("malformed header of the PROXY protocol")]
    Announcement,
    /// Somebody in the middle could have put it there, to be taken for encrypted (CVE-2021-23214).
    #[error("received unencrypted data after {0} request")]
    Plaintext(Encryption),
    #[error("cannot accept TLS")]
    Handshake(#[source] HandshakeError),
    /// The protocol that this is about was not named, so it may be another one.
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoApplicationProtocol,
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("{field} name is not UTF-8")]
    Encoding { field: &'static str },
    #[error("replication parameter is not a boolean")]
    ReplicationValue { value: Vec<u8> },
}

impl OpeningError {
    /// Says whether the client left between two messages; health checks do it by a reset.
    pub(super) fn is_departure(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Read(error) => error.kind() == io::ErrorKind::ConnectionReset,
            Self::Truncated
            | Self::Write(_)
            | Self::Packet(_)
            | Self::Uninvited
            | Self::Unannounced
            | Self::Announcement
            | Self::Plaintext(_)
            | Self::Handshake(_)
            | Self::NoApplicationProtocol
            | Self::NoUser
            | Self::Encoding { .. }
            | Self::ReplicationValue { .. } => false,
        }
    }

    /// Says whether the connection was lost.
    pub(super) fn is_transport(&self) -> bool {
        match self {
            Self::Closed
            | Self::Truncated
            | Self::Read(_)
            | Self::Write(_)
            | Self::Handshake(HandshakeError::Lost(_)) => true,
            Self::Packet(_)
            | Self::Uninvited
            | Self::Unannounced
            | Self::Announcement
            | Self::Plaintext(_)
            | Self::Handshake(_)
            | Self::NoApplicationProtocol
            | Self::NoUser
            | Self::Encoding { .. }
            | Self::ReplicationValue { .. } => false,
        }
    }

    /// Says what the client is told; `None` closes without a word.
    pub(super) fn fault(&self) -> Option<Fault> {
        let (sqlstate, message) = match self {
            // PostgreSQL does not answer what may not be a PostgreSQL client at all.
            Self::Closed
            | Self::Truncated
            | Self::Read(_)
            | Self::Write(_)
            | Self::Handshake(_)
            | Self::Uninvited
            | Self::Unannounced
            | Self::Announcement
            | Self::Packet(StartupError::Length) => return None,
            Self::Packet(error @ StartupError::Protocol(_)) => {
                (SqlState::FEATURE_NOT_SUPPORTED, error.to_string())
            }
            Self::Packet(error @ StartupError::Layout) => {
                (SqlState::PROTOCOL_VIOLATION, error.to_string())
            }
            Self::Plaintext(_) | Self::NoApplicationProtocol => {
                (SqlState::PROTOCOL_VIOLATION, self.to_string())
            }
            Self::NoUser => (SqlState::INVALID_AUTHORIZATION, self.to_string()),
            Self::Encoding { field } => (
                // character_not_in_repertoire
                SqlState(*b"22021"),
                format!("invalid byte sequence for encoding \"UTF8\" in {field} name"),
            ),
            Self::ReplicationValue { value } => {
                let value = String::from_utf8_lossy(value);
                let message = format!("invalid value for parameter \"replication\": \"{value}\"");
                (SqlState::INVALID_PARAMETER_VALUE, message)
            }
        };
        Some(Fault::fatal(sqlstate, message))
    }
}

/// A kind of encryption that a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Tls,
    Gssapi,
}

impl Encryption {
    /// Returns what PostgreSQL says to a repeated request: it takes it for a protocol version.
    fn repeated(self) -> StartupError {
        StartupError::Protocol(match self {
            Self::Tls => Version::SSL_REQUEST,
            Self::Gssapi => Version::GSSENC_REQUEST,
        })
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "SSL",
            Self::Gssapi => "GSSAPI encryption",
        })
    }
}

/// Reads whose a connection is that came from `peer`, where a balancer of `from` says it.
///
/// It must, and nobody else may: what is in front of the connection decides who may log in. Not
/// cancel safe.
///
/// # Errors
/// See [`OpeningError`].
pub(super) async fn announced(
    conversation: &mut Conversation,
    peer: Peer,
    from: &[Network],
) -> Result<Peer, OpeningError> {
    let Peer::Tcp(address) = peer else { return Ok(peer) };
    let is_balancer = from.iter().any(|network| network.contains(address.ip()));
    conversation.fill(1).await?;
    if !is_balancer {
        // No length of a first packet that may be begins like this, nor does TLS.
        return match conversation.input.first() {
            Some(first) if proxied::FIRST_BYTES.contains(first) => Err(OpeningError::Uninvited),
            _ => Ok(peer),
        };
    }
    loop {
        match proxied::read(&conversation.input) {
            Beginning::Incomplete(total) => conversation.fill(total).await?,
            Beginning::Header(length, client) => {
                conversation.take(0, length);
                return Ok(client.map_or(peer, Peer::Tcp));
            }
            Beginning::Other => return Err(OpeningError::Unannounced),
            Beginning::Malformed => return Err(OpeningError::Announcement),
        }
    }
}

/// Reads until it is clear what the connection is for; TLS is begun where the client wants it.
///
/// A `NegotiateProtocolVersion` that is due stays unsent in `conversation`. Not cancel safe:
/// packets already read are lost.
///
/// # Errors
/// See [`OpeningError`].
pub(super) async fn open(
    conversation: &mut Conversation,
    acceptor: &Acceptor,
) -> Result<Opening, OpeningError> {
    // What may not be asked for any more: at most one of each kind.
    let mut settled: Vec<Encryption> = Vec::new();
    conversation.fill(1).await?;
    if conversation.input.first() == Some(&TLS_HANDSHAKE) {
        direct(conversation, acceptor).await?;
        settled = vec![Encryption::Tls, Encryption::Gssapi];
    }
    loop {
        let body = conversation.first_packet().await?;
        let encryption = match startup::parse(&body).map_err(OpeningError::Packet)? {
            FirstPacket::Startup { protocol, parameters } => {
                let output = &mut conversation.output;
                let protocol = startup::negotiate(output, protocol, &parameters);
                return Request::new(protocol, &parameters).map(Opening::Login);
            }
            FirstPacket::Cancel { pid, secret } => {
                return Ok(Opening::Cancel { pid, secret: secret.to_vec() });
            }
            FirstPacket::SslRequest => Encryption::Tls,
            FirstPacket::GssEncRequest => Encryption::Gssapi,
        };
        if settled.contains(&encryption) {
            return Err(OpeningError::Packet(encryption.repeated()));
        }
        settled.push(encryption);
        // There is nobody between the ends of a Unix socket.
        let is_accepted = encryption == Encryption::Tls
            && acceptor.is_on()
            && matches!(conversation.stream, Stream::Tcp(_));
        conversation.output.push(if is_accepted { TLS } else { NO_ENCRYPTION });
        conversation.flush().await?;
        if !conversation.input.is_empty() {
            return Err(OpeningError::Plaintext(encryption));
        }
        if is_accepted {
            let secured = conversation.stream.secure(acceptor, Vec::new()).await;
            secured.map_err(OpeningError::Handshake)?;
            // Who has TLS needs no GSSAPI encryption either.
            settled = vec![Encryption::Tls, Encryption::Gssapi];
        }
    }
}

/// Begins TLS with a client that did not ask before it sent its hello, as of PostgreSQL 17.
///
/// Source: PostgreSQL `src/backend/tcop/backend_startup.c`, `ProcessSSLStartup`.
async fn direct(conversation: &mut Conversation, acceptor: &Acceptor) -> Result<(), OpeningError> {
    if !acceptor.is_on() || !matches!(conversation.stream, Stream::Tcp(_)) {
        // It looks like a packet of a length that cannot be.
        return Err(OpeningError::Packet(StartupError::Length));
    }
    let hello = std::mem::take(&mut *conversation.input);
    let secured = conversation.stream.secure(acceptor, hello).await;
    secured.map_err(OpeningError::Handshake)?;
    let channel = conversation.stream.tls().map(TlsStream::channel);
    if channel.and_then(Channel::application_protocol).is_none() {
        return Err(OpeningError::NoApplicationProtocol);
    }
    Ok(())
}

impl Request {
    /// Says whether it asks for physical replication, which is of no database.
    pub(super) fn is_physical(&self) -> bool {
        self.replication.as_ref().is_some_and(|value| value != b"database")
    }

    fn new(protocol: Version, parameters: &[Parameter<'_>]) -> Result<Self, OpeningError> {
        let (mut database, mut user, mut replication) = (&b""[..], &b""[..], None);
        let mut rest = Vec::new();
        for &(name, value) in parameters {
            match name {
                b"database" => database = value,
                b"user" => user = value,
                b"replication" => replication = is_replication(value)?.then(|| value.to_vec()),
                name if startup::is_protocol_option(name) => {}
                name => rest.push((name.to_vec(), value.to_vec())),
            }
        }
        if user.is_empty() {
            return Err(OpeningError::NoUser);
        }
        if database.is_empty() {
            database = user;
        }
        let text = |field, name: &[u8]| {
            String::from_utf8(name.to_vec()).map_err(|_| OpeningError::Encoding { field })
        };
        let user = text("user", user)?;
        Ok(Self {
            database: text("database", database)?,
            user,
            protocol,
            replication,
            parameters: rest,
        })
    }
}

/// Reads the value of `replication`: `database`, or a boolean that may be abbreviated.
///
/// Source: PostgreSQL `src/backend/utils/adt/bool.c`, `parse_bool_with_len`.
fn is_replication(value: &[u8]) -> Result<bool, OpeningError> {
    let is = |word: &str, least| {
        value.len() >= least
            && word
                .get(..value.len())
                .is_some_and(|start| value.eq_ignore_ascii_case(start.as_bytes()))
    };
    if value == b"database" || is("true", 1) || is("yes", 1) || is("on", 2) || is("1", 1) {
        return Ok(true);
    }
    if is("false", 1) || is("no", 1) || is("off", 2) || is("0", 1) {
        return Ok(false);
    }
    Err(OpeningError::ReplicationValue { value: value.to_vec() })
}

/// A connection before its login: what the client sent and we did not look at yet, and what we
/// want to say and did not send yet.
///
/// INVARIANT: `input` never holds more than the longest message its reader allows, or
/// [`INPUT_BYTES`]. Passwords pass through it, so it is wiped when it is replaced or dropped.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) stream: Stream,
    pub(super) input: Zeroizing<Vec<u8>>,
    pub(super) output: Vec<u8>,
}

impl Conversation {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, input: Zeroizing::default(), output: Vec::new() }
    }

    /// Sends `output`.
    ///
    /// Cancel safe: what was not sent stays in `output`.
    pub(super) async fn flush(&mut self) -> Result<(), OpeningError> {
        while !self.output.is_empty() {
            let sent = self.stream.write(&self.output).await.map_err(OpeningError::Write)?;
            if sent == 0 {
                return Err(OpeningError::Write(io::ErrorKind::WriteZero.into()));
            }
            self.output.drain(..sent);
        }
        self.stream.flush().await.map_err(OpeningError::Write)
    }

    /// Sends `output`, ends the connection, and waits until the client does the same.
    ///
    /// What the client still sends is read and dropped, up to [`LAST_BYTES`]: closing a socket with
    /// unread bytes resets the connection, and the client might never see our last words.
    pub(super) async fn close(mut self) -> Result<(), OpeningError> {
        self.flush().await?;
        self.stream.shutdown().await.map_err(OpeningError::Write)?;
        let mut last = self.stream.take(LAST_BYTES);
        let mut scratch = Zeroizing::new([0; INPUT_BYTES]);
        while last.read(&mut *scratch).await.map_err(OpeningError::Read)? > 0 {}
        Ok(())
    }

    /// Waits until `input` holds at least `total` bytes; the caller has checked `total`.
    ///
    /// Cancel safe: what was read stays in `input`.
    ///
    /// # Errors
    /// [`OpeningError::Closed`] if the connection ended before the first of them.
    pub(super) async fn fill(&mut self, total: usize) -> Result<(), OpeningError> {
        while self.input.len() < total {
            let room = total.max(INPUT_BYTES) - self.input.len();
            self.input.reserve_exact(room);
            let mut spare = (&mut *self.input).limit(room);
            if self.stream.read_buf(&mut spare).await.map_err(OpeningError::Read)? == 0 {
                return Err(match self.input.len() {
                    0 => OpeningError::Closed,
                    _ => OpeningError::Truncated,
                });
            }
        }
        Ok(())
    }

    /// Takes the first `total` bytes of `input` without its first `head` bytes, and wipes them.
    pub(super) fn take(&mut self, head: usize, total: usize) -> Zeroizing<Vec<u8>> {
        let taken = self.input.get(head..total).unwrap_or_default().to_vec();
        let rest = self.input.get(total..).unwrap_or_default().to_vec();
        self.input = Zeroizing::new(rest);
        Zeroizing::new(taken)
    }

    /// Reads one untagged packet and returns it without its length word.
    async fn first_packet(&mut self) -> Result<Zeroizing<Vec<u8>>, OpeningError> {
        self.fill(LENGTH_BYTES).await?;
        let head = self.input.first_chunk().copied().unwrap_or_default();
        let total = LENGTH_BYTES + startup::body_length(head).map_err(OpeningError::Packet)?;
        self.fill(total).await?;
        Ok(self.take(LENGTH_BYTES, total))
    }
}
