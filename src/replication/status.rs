//! The life of a secondary in the words that are used everywhere, and what can be asked of it.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::catalog::TableName;
use super::copy::CopyProgress;

/// What a secondary is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It gets its first copy.
    Copying,
    /// It follows, and is not there yet; also while a server cannot be reached.
    CatchingUp,
    /// It has all that the primary had when it was last asked.
    InSync,
    /// It waits for somebody to look at it. The change log is kept.
    Paused(String),
    /// It follows no more, and needs a new copy. The change log is not kept for it.
    Detached(String),
    /// It has what the primary has lost in a failover.
    Ahead(String),
    /// It follows, and is known to differ.
    Diverged(String),
}

impl State {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::CatchingUp => "catching_up",
            Self::InSync => "in_sync",
            Self::Paused(_) => "paused",
            Self::Detached(_) => "detached",
            Self::Ahead(_) => "ahead",
            Self::Diverged(_) => "diverged",
        }
    }

    /// Why it is so, where there is something to say.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Copying | Self::CatchingUp | Self::InSync => None,
            Self::Paused(why) | Self::Detached(why) | Self::Ahead(why) | Self::Diverged(why) => {
                Some(why)
            }
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a secondary is, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The database it belongs to.
    pub database: String,
    /// Its name.
    pub secondary: String,
    /// What it is doing.
    pub state: State,
    /// Whether this process applies; otherwise another does, and what is here is what that one said.
    pub is_leader: bool,
    /// When the primary had what the secondary has now.
    pub as_of: Option<Instant>,
    /// Changes that are read and not applied.
    pub lag_changes: u64,
    /// Bytes of these changes.
    pub lag_bytes: u64,
    /// Changes applied by this process.
    pub changes: u64,
    /// Batches applied by this process.
    pub batches: u64,
    /// The snapshot that the secondary stands at.
    pub snapshot: Option<String>,
    /// What went wrong last; stays until something else does.
    pub last_error: Option<String>,
    /// How far the copy under way is.
    pub copy: Option<CopyProgress>,
}

impl Status {
    /// A secondary about which nothing is known yet.
    pub fn new(database: &str, secondary: &str) -> Self {
        Self {
            database: database.to_owned(),
            secondary: secondary.to_owned(),
            state: State::CatchingUp,
            is_leader: false,
            as_of: None,
            lag_changes: 0,
            lag_bytes: 0,
            changes: 0,
            batches: 0,
            snapshot: None,
            last_error: None,
            copy: None,
        }
    }
}

/// A secondary whose last batch was read longer ago than this is not in sync.
pub(super) const FRESH: Duration = Duration::from_secs(2);

impl Status {
    /// What can be said now: one that was in sync, and has not been heard of since, is not.
    #[must_use]
    pub(super) fn into_current(mut self) -> Self {
        let is_old = self.as_of.is_none_or(|as_of| as_of.elapsed() > FRESH);
        if self.state == State::InSync && is_old {
            self.state = State::CatchingUp;
        }
        self
    }
}

/// What can be asked of a secondary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To copy what it has not, though `auto` is off.
    Copy,
    /// To stop applying, and to stay so over restarts.
    Pause(String),
    /// To go on after a pause, or to try again what failed.
    Resume,
    /// To leave out what it could not apply, which is kept in `pgtandem.dead_letters`.
    Skip,
    /// To copy tables anew; all if none is named.
    Resync(Vec<TableName>),
    /// To give up following, so that the change log need not be kept.
    Detach(String),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such secondary.
    #[error("there is no secondary {secondary:?} of database {database:?}")]
    NoSecondary {
        /// The database named.
        database: String,
        /// The secondary named.
        secondary: String,
    },
    /// Another process applies to it.
    #[error("another process applies to this secondary: ask that one")]
    NotHere,
    /// It makes no sense in the state that the secondary is in.
    #[error("{what}")]
    Senseless {
        /// Why.
        what: &'static str,
    },
    /// A table does not follow.
    #[error("table {table} does not follow")]
    NoTable {
        /// The table.
        table: TableName,
    },
    /// A database refused its part.
    #[error("{what}")]
    Failed {
        /// What it said.
        what: String,
    },
    /// Too many commands wait, or the process is about to end.
    #[error("the secondary takes no commands now")]
    Busy,
}

/// A command with the way to answer it.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where the answer goes; nobody may be waiting for it any more.
    pub answer: oneshot::Sender<Result<(), CommandError>>,
}
