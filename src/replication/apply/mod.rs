//! Applies one batch to a secondary, in one transaction with the row that says where it stands.
//!
//! All truncates, then all deletes, updates and inserts: with nothing that refers to other rows
//! checked in between, the order among tables does not matter. Each statement must change as many
//! rows as it was given; if one does not, nothing stays, and the row is found that is to blame.
//!
//! `transaction` runs it, `job` cuts it into statements, `step` moves the row on.

mod diagnose;
mod job;
mod step;
mod transaction;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use self::job::truncate;
pub use self::transaction::Applier;
use super::batch::Position;
use super::catalog::{Key, Table, TableName};
use super::change::{Change, RowKey};
use super::coalesce::{Impossible, NetTable};
use super::error::Error;
use super::snapshot::Snapshot;
use super::statements::Statements;

/// A table of the secondary that follows.
#[derive(Debug)]
pub struct Followed {
    /// The table as it is on the secondary.
    pub table: Table,
    /// The key of its rows, the same as on the primary.
    pub key: Key,
    /// What changes it.
    pub statements: Statements,
}

impl Followed {
    /// Takes a table of the secondary; `None` if it has no key.
    pub fn new(table: Table) -> Option<Self> {
        let key = table.key.clone()?;
        let statements = Statements::new(&table, &key);
        Some(Self { table, key, statements })
    }
}

/// The tables that follow, by their number in the change log.
pub type Tables = HashMap<i32, Arc<Followed>>;

/// What foreign keys and triggers of the secondary would do to what we apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Nothing: the session is one of a replica, or there are none.
    Off,
    /// Foreign keys are checked at the end of our transactions; there are no triggers.
    Deferred,
}

/// A batch that is ready to be applied.
#[derive(Debug)]
pub struct Ready {
    /// Where the secondary stands, before and after.
    pub from: Position,
    /// See [`Self::from`].
    pub until: Snapshot,
    /// What to do in each table, by its number.
    pub tables: Vec<(i32, NetTable)>,
    /// The changes that this is the net effect of.
    pub changes: u64,
    /// The sum of their ids.
    pub ids: u128,
    /// Id and transaction of the last of them.
    pub last: Option<(i64, u64)>,
    /// Changes that are left out, on somebody's word.
    pub skipped: Vec<Change>,
}

/// What cannot be applied, and is left out on somebody's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poison {
    /// The changes of a row.
    Row(TableName, RowKey),
    /// A definition, by its place in the log.
    Definition(i64),
}

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else has applied something meanwhile.
    #[error("another applier has moved this secondary on")]
    Fenced,
    /// The change log is not kept for this secondary any more, and may have lost what it needs.
    #[error("the primary has detached this secondary: {why}")]
    Detached {
        /// Why it has.
        why: String,
    },
    /// The change log contradicts itself.
    #[error(transparent)]
    Impossible(#[from] Box<Impossible>),
    /// The change log names a table that does not follow.
    #[error("the change log has changes of table number {number}, which does not follow")]
    Unknown {
        /// Its number.
        number: i32,
    },
    /// The secondary has no such row; it is not what it should be.
    #[error("{action} {table}: no row has the key {key:?}")]
    Missing {
        /// The table.
        table: TableName,
        /// The row's key.
        key: RowKey,
        /// What was to be done.
        action: &'static str,
    },
    /// The secondary refuses a change.
    #[error("{action} {table}, key {key:?}: {source}")]
    Refused {
        /// The table.
        table: TableName,
        /// The row's key, where it is known.
        key: Option<RowKey>,
        /// What was to be done.
        action: &'static str,
        /// What the server said.
        source: Box<Error>,
    },
    /// A definition cannot be made on the secondary.
    #[error("definition {id}, {text:?}: {source}")]
    Undefined {
        /// Its place in the log.
        id: i64,
        /// How its text begins.
        text: String,
        /// What the server said.
        source: Box<Error>,
    },
    /// A definition has made something else of a table than on the primary.
    #[error(
        "definition {id}, {text:?}: {table} looks otherwise than on the primary behind it; make \
         it alike, and it is copied anew"
    )]
    Unlike {
        /// Its place in the log.
        id: i64,
        /// How its text begins.
        text: String,
        /// The table.
        table: TableName,
        /// The table's number.
        number: i32,
    },
    /// Something failed that has nothing to do with a row.
    #[error(transparent)]
    Other(#[from] Error),
}

impl ApplyError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { source, .. } | Self::Undefined { source, .. } => source.is_transient(),
            Self::Other(error) => error.is_transient(),
            // Another process may have put the table under capture.
            Self::Fenced | Self::Unknown { .. } => true,
            Self::Detached { .. }
            | Self::Impossible(_)
            | Self::Missing { .. }
            | Self::Unlike { .. } => false,
        }
    }

    /// What could be left out so that the rest can be applied, if that is known.
    pub fn poison(&self) -> Option<Poison> {
        match self {
            Self::Missing { table, key, .. } | Self::Refused { table, key: Some(key), .. } => {
                Some(Poison::Row(table.clone(), key.clone()))
            }
            Self::Undefined { id, .. } | Self::Unlike { id, .. } => Some(Poison::Definition(*id)),
            Self::Refused { key: None, .. }
            | Self::Fenced
            | Self::Detached { .. }
            | Self::Impossible(_)
            | Self::Unknown { .. }
            | Self::Other(_) => None,
        }
    }
}
