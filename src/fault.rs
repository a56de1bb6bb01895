//! What a client may be told: severity, SQLSTATE, message. Nothing else leaves the process.
//!
//! Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".

use std::borrow::Cow;

use crate::wire::{encode, tag};

/// A five-character SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// 08006: a server connection was lost.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// 08001: a server connection could not be made.
    pub const CANNOT_CONNECT: Self = Self(*b"08001");
    /// 08P01: the peer broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// 0A000: not possible here, e.g. in this pool mode.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// 22023: a parameter has a bad value.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// 25P03: idle in a transaction for too long.
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self(*b"25P03");
    /// 25P04: a transaction ran for too long.
    pub const TRANSACTION_TIMEOUT: Self = Self(*b"25P04");
    /// 25P02: the transaction has failed and must be ended first.
    pub const IN_FAILED_TRANSACTION: Self = Self(*b"25P02");
    /// 26000: no such prepared statement.
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    /// 28000: refused by a rule.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// 28P01: wrong password.
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// 3D000: no such database.
    pub const UNKNOWN_DATABASE: Self = Self(*b"3D000");
    /// 42501: a user may not do this.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// 42P05: the prepared statement exists already.
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    /// 42704: an object (here: a parameter) does not exist.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// 53300: a limit of connections or of waiting is reached.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// 54000: a limit of the program is exceeded, e.g. the size of a message.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    /// 55000: the object is not in a state for this.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// 57014: cancelled, or a query ran for too long.
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// 57P01: shut down by the administrator.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// 57P02: shut down because another of the server's processes crashed.
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    /// 57P03: not accepting connections now.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// 57P05: an idle session was closed.
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    /// XX000: our own bug, nothing else.
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");
}

/// Whether the connection survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the connection goes on.
    Error,
    /// The connection is closed behind this message.
    Fatal,
}

impl Severity {
    /// Returns the word of the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// One ErrorResponse of ours, or one of a server that is passed on to other clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whether the connection survives.
    pub severity: Severity,
    /// The code that programs look at.
    pub sqlstate: SqlState,
    /// The text that people read; no addresses, no secrets.
    pub message: Cow<'static, str>,
    /// What to do about it.
    pub hint: Option<Cow<'static, str>>,
}

impl Fault {
    /// Makes a fault behind which the connection is closed.
    pub fn fatal(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, sqlstate, message: message.into(), hint: None }
    }

    /// Makes a fault that the connection survives.
    pub fn error(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Error, sqlstate, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends the fault as an ErrorResponse.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text: Vec<u8> = self.message.bytes().filter(|byte| *byte != 0).collect();
        let hint = self.hint.as_ref().map(|hint| (b'H', hint.as_bytes()));
        encode::report(
            out,
            tag::backend::ERROR_RESPONSE,
            self.severity.as_str(),
            &self.sqlstate.0,
            &text,
            hint.as_slice(),
        );
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{}", char::from(byte))?;
        }
        Ok(())
    }
}
