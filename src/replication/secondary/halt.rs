//! Why the work for a secondary stopped, and which errors mean which.

use super::State;
use crate::replication::apply::{ApplyError, Poison};
use crate::replication::capture::error::CaptureError;
use crate::replication::checks::Obstacle;
use crate::replication::copy::CopyError;
use crate::replication::error::Error;
use crate::replication::schema_copy::SchemaError;
use crate::replication::status::Request;

/// Why the work stopped.
pub(super) enum Halt {
    /// Something that may be better next time.
    Failed(String),
    /// Something that somebody has to look at.
    Stuck(State),
    /// A row or definition that cannot be applied: somebody may look at it, or skip it.
    Poison {
        /// What happened.
        why: String,
        /// What could be skipped.
        what: Poison,
    },
    /// A command.
    Asked(Request),
    /// What was found out at the beginning is no longer so.
    Again,
    /// Nobody wants the work done any more.
    Over,
}

impl Halt {
    fn new(why: String, is_transient: bool) -> Self {
        if is_transient { Self::Failed(why) } else { Self::Stuck(State::Paused(why)) }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
}

impl From<ApplyError> for Halt {
    fn from(error: ApplyError) -> Self {
        let (why, is_transient) = (error.to_string(), error.is_transient());
        match (error.poison(), error) {
            (_, ApplyError::Detached { why }) => Self::Stuck(State::Detached(why)),
            (Some(what), _) if !is_transient => Self::Poison { why, what },
            (Some(_) | None, _) => Self::new(why, is_transient),
        }
    }
}

impl From<CopyError> for Halt {
    fn from(error: CopyError) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
}

impl From<SchemaError> for Halt {
    fn from(error: SchemaError) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
}

impl From<CaptureError> for Halt {
    fn from(error: CaptureError) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
}

/// Stops where something stands in the way.
pub(super) fn refuse(obstacles: &[Obstacle]) -> Result<(), Halt> {
    if obstacles.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = obstacles.iter().map(Obstacle::to_string).collect();
    Err(Halt::Stuck(State::Paused(all.join("; "))))
}
