//! Why capture cannot be installed, changed or removed.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::shape::Refusal;
use crate::replication::catalog::TableName;
use crate::replication::error::Error;

/// Why capture cannot be installed, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The schema `pgtandem` is somebody else's.
    #[error("the schema pgtandem belongs to {owner}, and admin_user is not that role")]
    Foreign {
        /// Its owner.
        owner: String,
    },
    /// A later version of pgtandem has installed it.
    #[error("the change log has format {found}, and this version knows {known}: upgrade pgtandem")]
    Newer {
        /// What is installed.
        found: i32,
        /// The newest format of this version.
        known: i32,
    },
    /// An earlier version of pgtandem has installed it, and nobody has brought it up to date.
    #[error("the change log has format {found}, and this version needs {known}: COPY upgrades it")]
    Older {
        /// What is installed.
        found: i32,
        /// The format of this version.
        known: i32,
    },
    /// Nothing is installed.
    #[error("no capture is installed")]
    NotInstalled,
    /// The table cannot be captured.
    #[error("table {table} cannot follow: {why}")]
    Refused {
        /// The table.
        table: TableName,
        /// Why not.
        why: Refusal,
    },
    /// The table's definition changed while it was looked at.
    #[error("table {table} has just changed")]
    Changed {
        /// The table.
        table: TableName,
    },
    /// The table's writers left no moment to create or drop a trigger.
    #[error("table {table} was locked by others for {waited:?}")]
    Busy {
        /// The table.
        table: String,
        /// How long was tried.
        waited: Duration,
    },
    /// Transactions of clients that hold definitions have not ended, or another process changes
    /// the schema.
    #[error("the schema pgtandem was locked by definitions for {waited:?}")]
    Defining {
        /// How long was tried.
        waited: Duration,
    },
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] Error),
}

impl CaptureError {
    /// Whether somebody else's lock was in the way.
    pub fn is_about_locks(&self) -> bool {
        match self {
            Self::Defining { .. } => true,
            Self::Sql(error) => error.server_said().is_some_and(|said| {
                let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
                codes.contains(said.code())
            }),
            Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Changed { .. }
            | Self::NotInstalled
            | Self::Refused { .. }
            | Self::Busy { .. } => false,
        }
    }

    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Defining { .. }
            | Self::Changed { .. }
            // It was there when the tables were listed: a definition that follows has dropped it since.
            | Self::Refused { why: Refusal::Gone, .. } => true,
            Self::Sql(error) => error.is_transient(),
            Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::NotInstalled
            | Self::Refused { .. } => false,
        }
    }
}
