//! What can go wrong between us and the databases, and whether it is worth another try.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

/// Why something of the replication mode failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered at the server's address.
    #[error("cannot connect to {server}: {source}")]
    Dial {
        /// Who was called.
        server: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server took longer than it may.
    #[error("{server} did not answer within {limit:?}")]
    TimedOut {
        /// Who was called.
        server: String,
        /// How long it had.
        limit: Duration,
    },
    /// The server refused the login.
    #[error("cannot log in at {server}: {}", Described(source))]
    Login {
        /// Who was called.
        server: String,
        /// What it said.
        source: tokio_postgres::Error,
    },
    /// A statement failed, or the connection under it.
    #[error("cannot {what}: {}", Described(source))]
    Sql {
        /// What the statement was for.
        what: &'static str,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// There is a server, and it is not the primary; another one may be.
    #[error("{server} is a standby")]
    Standby {
        /// Who was called.
        server: String,
    },
    /// The server answered something that makes no sense to us.
    #[error("unexpected answer: {what}")]
    Unexpected {
        /// What we cannot make sense of.
        what: String,
    },
}

impl Error {
    /// Makes an error of a failed statement, for `map_err`.
    pub fn sql(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Sql { what, source }
    }

    /// Returns what the server said, if it said anything.
    pub fn server_said(&self) -> Option<&DbError> {
        match self {
            Self::Sql { source, .. } | Self::Login { source, .. } => source.as_db_error(),
            Self::Dial { .. }
            | Self::TimedOut { .. }
            | Self::Standby { .. }
            | Self::Unexpected { .. } => None,
        }
    }

    /// Whether the same may succeed later without anybody doing anything.
    ///
    /// That is so for everything about connections, and for SQLSTATE 40001, 40P01, 55P03, 57P0x, 08xxx
    /// and 53xxx.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Dial { .. } | Self::TimedOut { .. } | Self::Standby { .. } => true,
            Self::Unexpected { .. } => false,
            Self::Login { source, .. } | Self::Sql { source, .. } => is_transient(source),
        }
    }
}

/// Whether the same may succeed later, by what a server said.
pub(super) fn is_transient(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // No SQLSTATE: the connection broke. A value that does not fit its type is our mistake, and
        // is met again at the next try.
        let source = std::error::Error::source(error);
        return error.is_closed() || source.is_some_and(<dyn std::error::Error>::is::<io::Error>);
    };
    let retried = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    retried.contains(code)
        || ["57P0", "08", "53"].iter().any(|class| code.code().starts_with(class))
}

/// What a server said, on one line: message, detail, SQLSTATE.
pub struct Described<'a>(pub &'a tokio_postgres::Error);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(said) = self.0.as_db_error() else {
            write!(f, "{}", self.0)?;
            return match std::error::Error::source(self.0) {
                Some(source) => write!(f, ": {source}"),
                None => Ok(()),
            };
        };
        write!(f, "{}", said.message())?;
        if let Some(detail) = said.detail() {
            write!(f, " ({detail})")?;
        }
        write!(f, " [{}]", said.code().code())
    }
}
