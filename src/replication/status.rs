//! The life of a secondary in the words that are used everywhere, and what can be asked of it.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::catalog::TableName;
use super::copy::CopyProgress;
use crate::metrics::histogram::Histogram;

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

    /// Reads a [word](Self::word); `why` is kept where the state has a reason.
    pub fn from_word(word: &str, why: &str) -> Option<Self> {
        Some(match word {
            "copying" => Self::Copying,
            "catching_up" => Self::CatchingUp,
            "in_sync" => Self::InSync,
            "paused" => Self::Paused(why.to_owned()),
            "detached" => Self::Detached(why.to_owned()),
            "ahead" => Self::Ahead(why.to_owned()),
            "diverged" => Self::Diverged(why.to_owned()),
            _ => return None,
        })
    }

    /// Whether it stays so until somebody does something.
    pub fn has_stopped(&self) -> bool {
        match self {
            Self::Copying | Self::CatchingUp | Self::InSync | Self::Diverged(_) => false,
            Self::Paused(_) | Self::Detached(_) | Self::Ahead(_) => true,
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
    /// Since when.
    pub since: SystemTime,
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
    /// How long batches took, from their snapshot of the primary to their commit on the secondary.
    pub apply: Histogram,
    /// Rows copied by this process.
    pub copied_rows: u64,
    /// Their bytes.
    pub copied_bytes: u64,
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
            since: SystemTime::now(),
            is_leader: false,
            as_of: None,
            lag_changes: 0,
            lag_bytes: 0,
            changes: 0,
            batches: 0,
            apply: Histogram::default(),
            copied_rows: 0,
            copied_bytes: 0,
            snapshot: None,
            last_error: None,
            copy: None,
        }
    }

    /// Changes the state, and notes when, unless only its reason is another.
    pub fn enter(&mut self, state: State) {
        if self.state.word() != state.word() {
            self.since = SystemTime::now();
        }
        self.state = state;
    }

    /// Keeps how far the copy under way is, and adds what has come since the last time.
    pub fn note_copy(&mut self, progress: Option<CopyProgress>) {
        if let Some(now) = &progress {
            let before = self.copy.as_ref().filter(|before| before.began == now.began);
            let (rows, bytes) = before.map_or((0, 0), |before| (before.rows, before.bytes));
            self.copied_rows += now.rows.saturating_sub(rows);
            self.copied_bytes += now.bytes.saturating_sub(bytes);
        }
        self.copy = progress;
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
    /// The same, after its schema is made that of the primary; it must be empty.
    CopySchema,
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
    /// It has what should not be there.
    #[error("{what}")]
    InTheWay {
        /// What that is.
        what: String,
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
