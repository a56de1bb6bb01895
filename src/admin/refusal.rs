//! Why the console does not do what it was asked to, and how that is told.

use super::command::SyntaxError;
use super::secondaries::OrderError;
use super::show::Show;
use crate::config::{ConfigError, Reason};
use crate::control::{CommandError, ReloadError, SetError};
use crate::fault::SqlState;
use crate::wire::{encode, tag};

/// What HELP says of commands, in one line.
const COMMANDS: &str = "Commands are SHOW, SET, PAUSE, RESUME, SUSPEND, KILL, KILL_CLIENT, \
                        DISABLE, ENABLE, RECONNECT, WAIT_CLOSE, RELOAD, SHUTDOWN; for secondaries \
                        COPY, PAUSE, RESUME, SKIP, RESYNC, DETACH, WAIT SECONDARY, VERIFY, REPAIR.";

/// Why a request of a console was not carried out; the console goes on.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// It is not UTF-8.
    #[error("invalid byte sequence for encoding \"UTF8\"")]
    Encoding,
    /// A member of `stats_users` asked for something to be done.
    #[error("permission denied: only admin_users may do this")]
    Forbidden,
    /// It was not possible.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The new configuration is not in force; what is wrong is told in the detail.
    #[error("configuration not reloaded")]
    Reload(#[from] ReloadError),
    /// The key has its old value.
    #[error("SET failed")]
    Set(#[from] SetError),
    /// A cancel request came while the command waited; it was undone.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// A cancel request came while the command was carried out; it is not undone.
    #[error("canceling the wait for the command due to user request")]
    GoesOn,
    /// Something about a secondary was not possible.
    #[error(transparent)]
    Order(Box<OrderError>),
    /// SHOW FDS.
    #[error("SHOW FDS is not supported: it would show passwords")]
    Descriptors,
    /// A worker does not say how things stand.
    #[error("no answer from the workers within {seconds} s")]
    Stuck {
        /// How long we waited.
        seconds: u64,
    },
    /// The statement is not there.
    #[error("prepared statement \"{0}\" does not exist")]
    NoStatement(String),
    /// The statement is there already.
    #[error("prepared statement \"{0}\" already exists")]
    DuplicateStatement(String),
    /// The portal is not there.
    #[error("portal \"{0}\" does not exist")]
    NoPortal(String),
    /// The portal is there already.
    #[error("portal \"{0}\" already exists")]
    DuplicatePortal(String),
    /// What was carried out once is not carried out again.
    #[error("portal \"{0}\" cannot be run anymore")]
    PortalDone(String),
    /// LIMIT: a console has few of them.
    #[error("too many {what} in this session: at most {max}")]
    TooMany {
        /// Statements or portals.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// Bind does not pass what Parse announced.
    #[error("bind message supplies {found} parameters, but prepared statement requires {expected}")]
    Parameters {
        /// How many came.
        found: usize,
        /// How many were announced.
        expected: usize,
    },
    /// Bind states formats for another number of columns.
    #[error("bind message has {found} result formats but query has {expected} columns")]
    ResultFormats {
        /// How many came.
        found: usize,
        /// How many columns there are.
        expected: usize,
    },
    /// FunctionCall.
    #[error("function calls are not supported by the admin console")]
    FunctionCall,
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        Self::Order(Box::new(error))
    }
}

impl Refusal {
    /// Returns the code that programs look at.
    pub fn sqlstate(&self) -> SqlState {
        SqlState(*match self {
            Self::Syntax(_) => b"42601",
            Self::Encoding => b"22021",
            Self::Forbidden => b"42501",
            Self::Command(error) => match error {
                CommandError::NoSuchDatabase(_) => b"3D000",
                CommandError::AlreadyPaused
                | CommandError::NotPaused
                | CommandError::DatabaseNotPaused(_)
                | CommandError::ShuttingDown => b"55000",
                CommandError::Resumed => b"57014",
                CommandError::NoSuchClient(_) => b"42704",
            },
            Self::Reload(ReloadError::Ending)
            | Self::Set(SetError::Reload(ReloadError::Ending))
            | Self::PortalDone(_) => b"55000",
            // config_file_error, as PgBouncer.
            Self::Reload(_) => b"F0000",
            Self::Set(SetError::Reload(ReloadError::Config(error))) if is_unknown_key(error) => {
                b"42704"
            }
            Self::Set(SetError::Reload(_)) => b"22023",
            Self::Set(SetError::NeedsRestart { .. }) => b"55P02",
            Self::Cancelled | Self::GoesOn => b"57014",
            Self::Order(error) => return error.sqlstate(),
            Self::Descriptors | Self::FunctionCall => b"0A000",
            Self::Stuck { .. } => b"XX000",
            Self::NoStatement(_) => b"26000",
            Self::DuplicateStatement(_) => b"42P05",
            Self::NoPortal(_) => b"34000",
            Self::DuplicatePortal(_) => b"42P03",
            Self::TooMany { .. } => b"54000",
            Self::Parameters { .. } | Self::ResultFormats { .. } => b"08P01",
        })
    }

    /// Returns what is known beyond the message.
    fn detail(&self) -> Option<String> {
        if let Self::Reload(error) = self {
            Some(chain(error))
        } else if let Self::Set(error) = self {
            Some(chain(error))
        } else if let Self::GoesOn = self {
            Some("It is carried out all the same.".to_owned())
        } else {
            None
        }
    }

    /// Returns what would do instead.
    fn hint(&self) -> Option<String> {
        if let Self::Order(error) = self {
            return error.hint();
        }
        let Self::Syntax(error) = self else { return None };
        match error {
            SyntaxError::Unknown { .. } => Some(COMMANDS.to_owned()),
            SyntaxError::UnknownShow { .. } => {
                let names = Show::NAMES.map(|(name, _)| name);
                Some(format!("SHOW can show {}.", names.join(", ")))
            }
            SyntaxError::Unterminated { .. }
            | SyntaxError::Expected { .. }
            | SyntaxError::Several
            | SyntaxError::NoDatabase => None,
        }
    }

    /// Appends it as an ErrorResponse.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (detail, hint) = (self.detail(), self.hint());
        let mut extra: Vec<(u8, &[u8])> = Vec::new();
        extra.extend(detail.as_ref().map(|text| (b'D', text.as_bytes())));
        extra.extend(hint.as_ref().map(|text| (b'H', text.as_bytes())));
        let message = self.to_string();
        let sqlstate = self.sqlstate().0;
        let tag = tag::backend::ERROR_RESPONSE;
        encode::report(out, tag, "ERROR", &sqlstate, message.as_bytes(), &extra);
    }
}

fn is_unknown_key(error: &ConfigError) -> bool {
    match error {
        ConfigError::Read { .. } => false,
        ConfigError::Invalid { problems } => {
            problems.iter().any(|problem| matches!(problem.reason, Reason::UnknownKey(_)))
        }
    }
}

/// Joins an error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
