//! Opening a backend: dial, TLS, startup, authentication, up to the first `ReadyForQuery`.
//!
//! One call of [`open`] is one attempt; when to try again is the pool's decision. The server is
//! not trusted: everything it sends before `ReadyForQuery` is bounded, and one that was logged in
//! to with SCRAM must prove that it knows the secret too.
//!
//! Source: PostgreSQL manual, protocol-flow, "Start-up".

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::auth::Credentials;
use crate::auth::scram::{self, Binding, ClientExchange, ScramError};
use crate::backend::standing::Standing;
use crate::config::{PoolSettings, Server as ServerName, SessionAttrs};
use crate::fault::SqlState;
use crate::net::tls::{Connector, TlsStream};
use crate::net::{Place, Raw, Stream};
use crate::wire::cursor::{Cursor, Malformed};
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::startup::{Parameter, Version};
use crate::wire::tag::backend as tag;
use crate::wire::{backend, encode, startup};

mod error;
mod role;
mod secure;

pub use error::{ConnectError, Lack};
pub(super) use secure::dial;

/// LIMIT: the length word of one message before `ReadyForQuery`.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024;
/// LIMIT: bytes of all messages before `ReadyForQuery`; bounds notices too, which are not kept.
const LOGIN_BYTES_MAX: usize = 1024 * 1024;
/// LIMIT: parameters that a server reports; PostgreSQL 18 has 15.
const PARAMETERS_MAX: usize = 256;
/// LIMIT: bytes of the notices that are kept for clients; the others are dropped.
const NOTICE_BYTES_MAX: usize = 8 * 1024;
/// LIMIT: bytes of the secret half of a cancel key, as of protocol 3.2; before, it has four.
const CANCEL_SECRET_BYTES_MAX: usize = startup::MAX_CANCEL_SECRET_BYTES;
/// What servers say that do not negotiate: `feature_not_supported`, or a violation of the protocol.
const REFUSES_VERSION: [SqlState; 2] =
    [SqlState::FEATURE_NOT_SUPPORTED, SqlState::PROTOCOL_VIOLATION];
/// Bytes that are read at a time; a whole greeting of PostgreSQL has about 400.
const READ_BYTES: usize = 4096;

/// Codes of the authentication requests: PostgreSQL `src/include/libpq/protocol.h`.
mod request {
    pub(super) const OK: i32 = 0;
    pub(super) const PASSWORD: i32 = 3;
    pub(super) const MD5: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

/// A backend that is idle outside a transaction, ready for its first query.
#[derive(Debug)]
pub struct Opened {
    /// The connection, out of tokio.
    pub raw: Raw,
    /// What the server sent behind its first `ReadyForQuery`; usually nothing.
    pub unread: Vec<u8>,
    /// What the server reported, in order of first appearance, each name once.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where that is.
    pub place: Place,
    /// What the server is; `None` if it does not say, and nobody has asked.
    pub standing: Option<Standing>,
    /// What a cancel request must show; without a secret if the server gave none.
    pub cancel_key: CancelKey,
    /// What the server wanted its client to know: whole messages.
    pub notices: Vec<u8>,
    /// How long it took to connect and to log in.
    pub took: Duration,
}

impl Opened {
    /// Closes a connection that is not wanted after all, so that the server need not log it as lost.
    pub async fn close(self) {
        let mut goodbye = Vec::new();
        encode::terminate(&mut goodbye);
        if let Ok(mut stream) = self.raw.into_stream()
            && stream.write_all(&goodbye).await.is_ok()
        {
            // Best effort: it sees the end of the connection anyway.
            let _ = stream.flush().await;
        }
    }
}

/// Where a backend is opened.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The server.
    pub server: &'a ServerName,
    /// Where it may be reached; tried in this order.
    pub places: &'a [Place],
    /// Begins TLS with it; `None` goes without.
    pub connector: Option<&'a Connector>,
    /// The bound on all of it.
    pub limit: Option<Duration>,
}

/// What a cancel request must show to the server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CancelKey {
    /// Process of the backend.
    pub pid: i32,
    /// Up to 256 bytes.
    pub secret: Vec<u8>,
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Opens one backend of the pool that `settings` describe, at one of its servers.
///
/// The startup packet has only user and database: whatever else a session wants is set when the
/// session gets the backend. A server that does not say what it is (before version 14) is asked if
/// that matters.
/// Cancel safe: yes, a connection that is not finished is closed.
///
/// # Errors
/// See [`ConnectError`]; [`ConnectError::fault`] has the SQLSTATE.
pub async fn open(
    site: Site<'_>,
    settings: &PoolSettings,
    credentials: &Credentials,
) -> Result<Opened, ConnectError> {
    open_with(&[], site, settings, credentials).await
}

/// Opens a connection for a client of its own, with that client's startup parameters.
///
/// Cancel safe, and failing, as [`open`].
pub async fn open_with(
    parameters: &[(Vec<u8>, Vec<u8>)],
    site: Site<'_>,
    settings: &PoolSettings,
    credentials: &Credentials,
) -> Result<Opened, ConnectError> {
    let opening = open_unbounded(parameters, site, settings, credentials);
    match site.limit {
        Some(limit) => {
            timeout(limit, opening).await.unwrap_or(Err(ConnectError::TimedOut { limit }))
        }
        None => opening.await,
    }
}

async fn open_unbounded(
    parameters: &[(Vec<u8>, Vec<u8>)],
    site: Site<'_>,
    settings: &PoolSettings,
    credentials: &Credentials,
) -> Result<Opened, ConnectError> {
    let started = Instant::now();
    let by = |protocol| log_in_by(protocol, parameters, site, settings, credentials);
    let newest = by(Version::NEWEST).await;
    let (mut server, place, greeting) = match newest {
        // PostgreSQL names the version that it speaks; what only looks like it may refuse.
        Err(ConnectError::Refused { sqlstate, .. }) if REFUSES_VERSION.contains(&sqlstate) => {
            by(Version::OLDEST).await?
        }
        outcome => outcome?,
    };
    let Greeting { parameters, cancel_key, notices } = greeting;
    let standing = match Standing::reported(&parameters) {
        None if settings.attrs != SessionAttrs::Any => Some(role::ask(&mut server).await?),
        reported => reported,
    };
    let unread = server.inbox.to_vec();
    let raw = server.stream.into_raw().map_err(|source| ConnectError::Lost { source })?;
    let took = started.elapsed();
    Ok(Opened { raw, unread, parameters, place, standing, cancel_key, notices, took })
}

/// Connects and logs in, asking for this version of the protocol.
async fn log_in_by(
    protocol: Version,
    parameters: &[(Vec<u8>, Vec<u8>)],
    site: Site<'_>,
    settings: &PoolSettings,
    credentials: &Credentials,
) -> Result<(Server<Stream>, Place, Greeting), ConnectError> {
    let (stream, place) = dial(site).await?;
    let place = place.clone();
    let binding = stream.tls().and_then(TlsStream::binding);
    let mut server = Server::new(stream);
    server.binding = binding.map_or(Binding::Unsupported, Binding::EndPoint);
    let names =
        [(&b"user"[..], settings.user.as_bytes()), (b"database", settings.dbname.as_bytes())];
    let parameters = parameters.iter().map(|(name, value)| (&name[..], &value[..]));
    let parameters: Vec<Parameter<'_>> = names.into_iter().chain(parameters).collect();
    let greeting = log_in(&mut server, protocol, &parameters, &settings.user, credentials).await?;
    Ok((server, place, greeting))
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut Server<S>,
    protocol: Version,
    parameters: &[Parameter<'_>],
    user: &str,
    credentials: &Credentials,
) -> Result<Greeting, ConnectError> {
    server.send(|out| startup::write_startup(out, protocol, parameters)).await?;
    authenticate(server, user, credentials).await?;
    Greeting::receive(server).await
}

/// Answers the server's one authentication request and waits for `AuthenticationOk`.
async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut Server<S>,
    user: &str,
    credentials: &Credentials,
) -> Result<(), ConnectError> {
    let (request, data) = server.request().await?;
    let unusable = || ConnectError::NoUsableCredential { user: user.into(), request };
    match request {
        request::OK => return Ok(()),
        request::PASSWORD => {
            let password = credentials.password().ok_or_else(unusable)?;
            server.answer(|out| encode::cstr(out, password.expose())).await?;
        }
        request::MD5 => {
            let salt = md5_salt(&data)
                .map_err(|source| ConnectError::Malformed { tag: tag::AUTHENTICATION, source })?;
            let response = credentials.md5_response(user.as_bytes(), salt).ok_or_else(unusable)?;
            server.answer(|out| encode::cstr(out, response.as_bytes())).await?;
        }
        request::SASL => {
            let binding =
                binding(&data, &server.binding).ok_or(ConnectError::UnsupportedMechanism)?;
            let credential = credentials.scram().ok_or_else(unusable)?;
            let exchange = ClientExchange::new(credential, scram::nonce())
                .with_derived(Arc::clone(&credentials.derived))
                .with_binding(binding.clone());
            authenticate_scram(server, exchange, &binding).await?;
        }
        _ => return Err(ConnectError::UnsupportedMethod { request }),
    }
    server.expect_request(request::OK).await.map(drop)
}

async fn authenticate_scram<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut Server<S>,
    exchange: ClientExchange,
    binding: &Binding,
) -> Result<(), ConnectError> {
    let failed = |source| ConnectError::Scram { source };
    let client_first = exchange.first();
    server
        .answer(|out| {
            encode::cstr(out, binding.mechanism().as_bytes());
            let length = u32::try_from(client_first.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&client_first);
        })
        .await?;
    let server_first = server.expect_request(request::SASL_CONTINUE).await?;
    let (exchange, client_final) = prove(exchange, server_first).await?;
    let client_final = client_final.map_err(failed)?;
    server.answer(|out| out.extend_from_slice(&client_final)).await?;
    let server_final = server.expect_request(request::SASL_FINAL).await?;
    exchange.verify(&server_final).map_err(failed)
}

/// Computes the proof on a thread where it holds up nobody: a server may demand a million rounds.
async fn prove(
    mut exchange: ClientExchange,
    server_first: BytesMut,
) -> Result<(ClientExchange, Result<Vec<u8>, ScramError>), ConnectError> {
    tokio::task::spawn_blocking(move || {
        let client_final = exchange.last(&server_first);
        (exchange, client_final)
    })
    .await
    .map_err(|error| ConnectError::Lost { source: error.into() })
}

fn md5_salt(data: &[u8]) -> Result<[u8; 4], Malformed> {
    data.try_into().map_err(|_| Malformed::Truncated)
}

/// Decides what to bind a SCRAM proof to, from the list of `AuthenticationSASL`; `None` if the server
/// offers no mechanism of ours. `own` is what there is to bind to.
///
/// Source: PostgreSQL `src/interfaces/libpq/fe-auth.c`, `pg_SASL_init`.
fn binding(names: &[u8], own: &Binding) -> Option<Binding> {
    let mut cursor = Cursor::new(names);
    let (mut has_plain, mut has_plus) = (false, false);
    while let Ok(name) = cursor.cstr() {
        has_plain |= name == scram::MECHANISM.as_bytes();
        has_plus |= name == scram::MECHANISM_PLUS.as_bytes();
    }
    match own {
        Binding::EndPoint(data) if has_plus => Some(Binding::EndPoint(Arc::clone(data))),
        Binding::EndPoint(_) | Binding::NotOffered | Binding::Unsupported if !has_plain => None,
        // Where the server does offer it, this says that somebody has hidden it.
        Binding::EndPoint(_) | Binding::NotOffered => Some(Binding::NotOffered),
        Binding::Unsupported => Some(Binding::Unsupported),
    }
}

/// What a server says between `AuthenticationOk` and `ReadyForQuery`.
#[derive(Debug, Default)]
struct Greeting {
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
    cancel_key: CancelKey,
    notices: Vec<u8>,
}

impl Greeting {
    async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        server: &mut Server<S>,
    ) -> Result<Self, ConnectError> {
        let mut greeting = Self::default();
        loop {
            let Message { tag, body } = server.message().await?;
            let malformed = |source| ConnectError::Malformed { tag, source };
            match tag {
                tag::NOTICE_RESPONSE => greeting.keep_notice(&body),
                tag::PARAMETER_STATUS => {
                    let reported = backend::parameter_status(&body).map_err(malformed)?;
                    greeting.keep(reported.name, reported.value)?;
                }
                tag::BACKEND_KEY_DATA => {
                    greeting.cancel_key = cancel_key(&body).map_err(malformed)?;
                }
                // A new backend cannot be inside a transaction.
                tag::READY_FOR_QUERY if &*body == b"I" => return Ok(greeting),
                tag::READY_FOR_QUERY => return Err(malformed(Malformed::UnknownValue)),
                _ => return Err(ConnectError::Unexpected { tag }),
            }
        }
    }

    fn keep_notice(&mut self, body: &[u8]) {
        if self.notices.len() + HEADER_BYTES + body.len() <= NOTICE_BYTES_MAX {
            encode::message(&mut self.notices, tag::NOTICE_RESPONSE, |out| {
                out.extend_from_slice(body);
            });
        }
    }

    fn keep(&mut self, name: &[u8], value: &[u8]) -> Result<(), ConnectError> {
        if let Some((_, known)) = self.parameters.iter_mut().find(|(known, _)| known == name) {
            *known = value.to_vec();
        } else if self.parameters.len() < PARAMETERS_MAX {
            self.parameters.push((name.to_vec(), value.to_vec()));
        } else {
            return Err(ConnectError::TooMuch);
        }
        Ok(())
    }
}

fn cancel_key(body: &[u8]) -> Result<CancelKey, Malformed> {
    let mut cursor = Cursor::new(body);
    let pid = cursor.i32()?;
    match cursor.rest() {
        secret if secret.len() < 4 => Err(Malformed::Truncated),
        secret if secret.len() > CANCEL_SECRET_BYTES_MAX => Err(Malformed::Trailing),
        secret => Ok(CancelKey { pid, secret: secret.to_vec() }),
    }
}

/// A server during the login, one message at a time.
struct Server<S> {
    stream: S,
    inbox: BytesMut,
    /// Bytes of all messages so far.
    received: usize,
    /// What a proof can be bound to.
    binding: Binding,
}

struct Message {
    tag: u8,
    body: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    fn new(stream: S) -> Self {
        let inbox = BytesMut::with_capacity(READ_BYTES);
        Self { stream, inbox, received: 0, binding: Binding::Unsupported }
    }

    /// Sends what `write` appends; it may hold a password, so it is wiped.
    async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), ConnectError> {
        let mut out = Zeroizing::new(Vec::with_capacity(READ_BYTES));
        write(&mut out);
        let sent = match self.stream.write_all(&out).await {
            Ok(()) => self.stream.flush().await,
            failed => failed,
        };
        match sent {
            // The server may have said why before it closed; the next read tells.
            Err(error) if is_closed(&error) => Ok(()),
            outcome => outcome.map_err(|source| ConnectError::Lost { source }),
        }
    }

    /// Sends an answer to an authentication request; `body` appends what is behind the header.
    async fn answer(&mut self, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), ConnectError> {
        self.send(|out| encode::message(out, crate::wire::tag::frontend::PASSWORD, body)).await
    }

    /// Receives an authentication request that must have this code; returns its data.
    async fn expect_request(&mut self, code: i32) -> Result<BytesMut, ConnectError> {
        match self.request().await? {
            (request, data) if request == code => Ok(data),
            (request, _) => Err(ConnectError::UnexpectedRequest { request }),
        }
    }

    /// Receives an authentication request: its code and its data.
    async fn request(&mut self) -> Result<(i32, BytesMut), ConnectError> {
        let Message { tag, mut body } = loop {
            let message = self.message().await?;
            // Nobody has a client yet to be told.
            if message.tag != tag::NOTICE_RESPONSE {
                break message;
            }
        };
        if tag != tag::AUTHENTICATION {
            return Err(ConnectError::Unexpected { tag });
        }
        let code =
            Cursor::new(&body).i32().map_err(|source| ConnectError::Malformed { tag, source })?;
        let data = body.split_off(size_of::<i32>());
        Ok((code, data))
    }

    /// Receives the next message that matters: not an older version that is offered
    /// instead of ours (they differ in the length of the cancel key, which is read as it comes). An
    /// error ends the login.
    async fn message(&mut self) -> Result<Message, ConnectError> {
        loop {
            let message = self.any_message().await?;
            match message.tag {
                tag::NEGOTIATE_PROTOCOL_VERSION => {}
                tag::ERROR_RESPONSE => return Err(refusal(&message.body)),
                _ => return Ok(message),
            }
        }
    }

    async fn any_message(&mut self) -> Result<Message, ConnectError> {
        loop {
            let header = header::read(&self.inbox, MESSAGE_BYTES_MAX)
                .map_err(|source| ConnectError::Header { source })?;
            if let Some(header) = header
                && header.message_bytes() <= self.inbox.len()
            {
                self.received += header.message_bytes();
                if self.received > LOGIN_BYTES_MAX {
                    return Err(ConnectError::TooMuch);
                }
                let mut message = self.inbox.split_to(header.message_bytes());
                return Ok(Message { tag: header.tag, body: message.split_off(HEADER_BYTES) });
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ConnectError> {
        self.inbox.reserve(READ_BYTES);
        let lost = |source| ConnectError::Lost { source };
        match self.stream.read_buf(&mut self.inbox).await.map_err(lost)? {
            0 => Err(lost(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Takes code and text out of an `ErrorResponse`, whichever of them it has.
fn refusal(body: &[u8]) -> ConnectError {
    let error = backend::error_response(body);
    let sqlstate = if error.sqlstate.iter().all(u8::is_ascii_alphanumeric) {
        SqlState(error.sqlstate)
    } else {
        SqlState::CANNOT_CONNECT
    };
    let message: Box<str> = match String::from_utf8_lossy(error.message) {
        text if text.is_empty() => "server refused the login".into(),
        text => text.into(),
    };
    ConnectError::Refused { sqlstate, message }
}

#[cfg(test)]
mod tests;
