//! Why a backend could not be opened, and what the clients that wait for it hear.

use std::io;
use std::time::Duration;

use crate::auth::scram::ScramError;
use crate::fault::{Fault, SqlState};
use crate::net::tls::{HandshakeError, SetupError};
use crate::wire::cursor::Malformed;
use crate::wire::header::BadLength;

/// Why a backend could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address of the server answered.
    #[error("cannot dial the server")]
    Dial {
        /// That of the last address.
        #[source]
        source: io::Error,
    },
    /// The server does not want TLS, and we do.
    #[error("server does not support TLS, which server_tls_sslmode demands")]
    NoTls,
    /// There is no TLS that both sides accept.
    #[error("cannot begin TLS")]
    Handshake {
        /// Why.
        #[source]
        source: HandshakeError,
    },
    /// A file that the configuration names cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The connection broke during the login.
    #[error("connection lost during login")]
    Lost {
        /// `UnexpectedEof` if the server closed it.
        #[source]
        source: io::Error,
    },
    /// The server did not get as far as `ReadyForQuery` in time.
    #[error("not logged in within {limit:?}")]
    TimedOut {
        /// The configured bound.
        limit: Duration,
    },
    /// The server said no.
    #[error("server refused the login: {code}: {message}", code = sqlstate.0.escape_ascii())]
    Refused {
        /// The server's code.
        sqlstate: SqlState,
        /// The server's text.
        message: Box<str>,
    },
    /// The server asks for something that the stored and learned credentials cannot answer.
    #[error("no usable credential for user {user:?} and request {request}")]
    NoUsableCredential {
        /// Who should have been logged in.
        user: Box<str>,
        /// Code of the server's request.
        request: i32,
    },
    /// The server asks for a method that does not exist here, such as GSSAPI.
    #[error("authentication request {request} is not supported")]
    UnsupportedMethod {
        /// Code of the server's request.
        request: i32,
    },
    /// The server offers SASL, but not SCRAM-SHA-256.
    #[error("server does not offer SCRAM-SHA-256")]
    UnsupportedMechanism,
    /// The SCRAM exchange failed on our side.
    #[error("SCRAM exchange failed")]
    Scram {
        /// Why.
        #[source]
        source: ScramError,
    },
    /// The server is not what is wanted: it is a standby, or is none.
    #[error("{reason}")]
    WrongRole {
        /// What it is instead, in libpq's words.
        reason: &'static str,
    },
    /// A length word that no login needs; often not a PostgreSQL server at all.
    #[error("server sent a bad header")]
    Header {
        /// The header.
        #[source]
        source: BadLength,
    },
    /// A message that is not what its tag promises.
    #[error("server sent a malformed message {tag:?}", tag = char::from(*tag))]
    Malformed {
        /// The message's tag.
        tag: u8,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// A message that has no place in a login.
    #[error("server sent an unexpected message {tag:?}", tag = char::from(*tag))]
    Unexpected {
        /// The message's tag.
        tag: u8,
    },
    /// An authentication request that does not belong behind the one before it.
    #[error("server sent an unexpected authentication request {request}")]
    UnexpectedRequest {
        /// Its code.
        request: i32,
    },
    /// The server sends and sends, but never `ReadyForQuery`.
    #[error("server sent too much before it was ready")]
    TooMuch,
}

/// What a failure means for whoever wants a server, from what nothing mends to what will pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// It is there, and does not want us; nor will another one. libpq does not try others, either.
    Refused,
    /// It is there, and not what is wanted.
    WrongRole,
    /// It cannot be reached.
    Lost,
    /// It will accept connections soon (57P03).
    Starting,
}

impl ConnectError {
    /// Returns what the waiting clients hear: FATAL, with the server's own code and text if it
    /// gave some, else 08001, or 28P01 if we have nothing to log in with. No address.
    pub fn fault(&self) -> Fault {
        let reason = match self {
            Self::Refused { sqlstate, message } => {
                return Fault::fatal(*sqlstate, String::from(&**message));
            }
            Self::NoUsableCredential { user, .. } => {
                let message = format!("no password to log in to the server as user \"{user}\"");
                return Fault::fatal(SqlState::INVALID_PASSWORD, message);
            }
            Self::Dial { source } => dial_reason(source),
            Self::NoTls => "it does not support TLS",
            Self::Handshake { source: HandshakeError::Lost(_) } | Self::Lost { .. } => {
                "connection lost during login"
            }
            Self::Handshake { .. } | Self::Setup(_) => "TLS failed",
            Self::TimedOut { .. } => "timed out",
            Self::UnsupportedMethod { .. } | Self::UnsupportedMechanism => {
                "it demands an authentication method that is not supported"
            }
            Self::Scram { .. } => "authentication failed",
            Self::WrongRole { reason } => reason,
            Self::Header { .. }
            | Self::Malformed { .. }
            | Self::Unexpected { .. }
            | Self::UnexpectedRequest { .. }
            | Self::TooMuch => "it broke the protocol",
        };
        Fault::fatal(SqlState::CANNOT_CONNECT, format!("cannot connect to server: {reason}"))
    }

    /// Says whether the server knows the user by another password.
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Refused { sqlstate: SqlState::INVALID_PASSWORD, .. })
    }

    /// Says what it means for whoever wants a server.
    pub fn lack(&self) -> Lack {
        match self {
            Self::Refused { sqlstate: SqlState::CANNOT_CONNECT_NOW, .. } => Lack::Starting,
            Self::Refused {
                sqlstate: SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN, ..
            }
            | Self::Dial { .. }
            | Self::Lost { .. }
            | Self::Handshake { source: HandshakeError::Lost(_) }
            | Self::TimedOut { .. } => Lack::Lost,
            Self::WrongRole { .. } => Lack::WrongRole,
            Self::NoTls
            | Self::Handshake { .. }
            | Self::Setup(_)
            | Self::Refused { .. }
            | Self::NoUsableCredential { .. }
            | Self::UnsupportedMethod { .. }
            | Self::UnsupportedMechanism
            | Self::Scram { .. }
            | Self::Header { .. }
            | Self::Malformed { .. }
            | Self::Unexpected { .. }
            | Self::UnexpectedRequest { .. }
            | Self::TooMuch => Lack::Refused,
        }
    }
}

/// The error's own text could name the socket's path or the host.
#[expect(clippy::wildcard_enum_match_arm, reason = "only these five say something to a user")]
fn dial_reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::TimedOut => "timed out",
        io::ErrorKind::NotFound => "no such server",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        _ => "connecting failed",
    }
}
