//! Reads batches: the changes that are visible in a new snapshot of the primary and not in the one
//! that the secondary stands at.
//!
//! A batch is read in a transaction that sees exactly its snapshot, so that a change is either in it
//! or in a later one, however long transactions take. It is a stream: nothing here grows with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::pin::Pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, RowStream};

use super::change::{Change, Logged};
use super::definition::{Definition, Shaped};
use super::error::Error;
use super::snapshot::Snapshot;

/// Where a secondary stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// What has been applied to all tables but those named here.
    pub snapshot: Snapshot,
    /// Tables that were copied by themselves, by number, and what is in them.
    pub own: BTreeMap<i32, Snapshot>,
    /// Tables that are not followed now: they are still to be copied.
    pub waiting: BTreeSet<i32>,
}

impl Position {
    /// A secondary that stands at one snapshot.
    pub fn at(snapshot: Snapshot) -> Self {
        Self { snapshot, own: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    /// Where it stands once everything up to `until` is applied.
    #[must_use]
    pub fn moved_to(&self, until: &Snapshot) -> Self {
        let ahead = self.own.iter().filter(|(_, own)| !until.covers(own));
        Self {
            snapshot: until.clone(),
            own: ahead.map(|(number, own)| (*number, own.clone())).collect(),
            waiting: self.waiting.clone(),
        }
    }

    /// Of the snapshots of the tables, the one that sees least.
    pub fn oldest(&self) -> &Snapshot {
        self.own.values().fold(
            &self.snapshot,
            |oldest, own| {
                if own.covers(oldest) { oldest } else { own }
            },
        )
    }

    /// Whether a change is still to be applied.
    fn needs(&self, table: i32, xid: u64) -> bool {
        let applied = self.own.get(&table).unwrap_or(&self.snapshot);
        !self.waiting.contains(&table) && !applied.sees(xid)
    }

    /// A condition on `xid` that all changes fulfil that are still to be applied.
    ///
    /// Numbers are written out, so that the planner knows how few they are and takes the index.
    pub(super) fn condition(&self) -> String {
        let snapshots = || std::iter::once(&self.snapshot).chain(self.own.values());
        let xmax = snapshots().map(Snapshot::xmax).min().unwrap_or_default();
        let mut condition = format!("xid >= '{xmax}'::xid8");
        let in_progress = snapshots().flat_map(Snapshot::in_progress);
        let below: BTreeSet<u64> = in_progress.copied().filter(|xid| *xid < xmax).collect();
        if !below.is_empty() {
            condition.push_str(" OR xid = ANY ('{");
            for (position, xid) in below.into_iter().enumerate() {
                // Writing to a string does not fail.
                let _ = write!(condition, "{}{xid}", if position > 0 { "," } else { "" });
            }
            condition.push_str("}'::xid8[])");
        }
        condition
    }
}

/// Begins to read. Nothing is known of how a log that has just been truncated is filled, and what
/// the planner assumes then makes it read the whole log for each batch, not what the index leads to.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off";

/// The log tables; a change is in one of them.
const LOGS: [&str; 3] = ["pgtandem.log_0", "pgtandem.log_1", "pgtandem.log_2"];

/// The snapshot is taken when the statement begins, and so before the place in the log is read.
const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text";

/// A batch while it is read.
///
/// It must be read to its end and closed; a connection on which that did not happen is of no use any
/// more.
pub struct Batch<'a> {
    client: &'a Client,
    position: &'a Position,
    /// The snapshot that the secondary stands at once the batch is applied.
    pub until: Snapshot,
    /// Everything that `until` sees, and every transaction that it takes for ended, was written to
    /// the primary's log before this place.
    pub written: String,
    /// What the batch is cut off at, if not at the snapshot that it is read in.
    upto: Option<Snapshot>,
    rows: Pin<Box<RowStream>>,
    /// What was read of definitions whose text is still to come, by transaction.
    shaped: HashMap<u64, Forming>,
}

/// A definition of which the text is still to come.
#[derive(Default)]
struct Forming {
    tables: Vec<Shaped>,
    rows: (u64, u128),
}

/// What a batch consists of.
pub enum Entry {
    /// A change of rows.
    Change(Change),
    /// A definition.
    Definition(Box<Definition>),
}

/// One row of the log.
struct Line {
    id: i64,
    xid: u64,
    table: i32,
    logged: Logged,
}

impl<'a> Batch<'a> {
    /// Takes a new snapshot of the primary, and begins to read what is in it and not in `position`.
    ///
    /// With `upto`, a snapshot of this primary, what that one does not see is left for the next batch.
    ///
    /// # Errors
    /// [`Error::Sql`]; the connection is of no use any more then.
    pub async fn open(
        client: &'a Client,
        position: &'a Position,
        upto: Option<&Snapshot>,
    ) -> Result<Self, Error> {
        let sql = changes(position);
        let nothing: [(&(dyn ToSql + Sync), _); 0] = [];
        // All three are on their way at once.
        let (begun, snapshot, rows) = tokio::join!(
            biased;
            client.batch_execute(BEGIN),
            client.query_typed(SNAPSHOT, &[]),
            client.query_typed_raw(&sql, nothing),
        );
        begun.map_err(Error::sql("begin to read the change log"))?;
        let snapshot = snapshot.map_err(Error::sql("take a snapshot"))?;
        let rows = rows.map_err(Error::sql("read the change log"))?;
        let [row] = snapshot.as_slice() else {
            return Err(Error::Unexpected { what: "no snapshot".to_owned() });
        };
        let until: String = row.try_get(0).map_err(Error::sql("take a snapshot"))?;
        let written = row.try_get(1).map_err(Error::sql("take a snapshot"))?;
        let now: Snapshot =
            until.parse().map_err(|error| Error::Unexpected { what: format!("{error}") })?;
        let until = match upto {
            Some(upto) if now.covers(upto) => upto.clone(),
            Some(upto) => {
                return Err(Error::Unexpected { what: format!("snapshot {upto} at {now}") });
            }
            None => now,
        };
        let (upto, rows) = (upto.cloned(), Box::pin(rows));
        Ok(Self { client, position, until, written, upto, rows, shaped: HashMap::new() })
    }

    /// Returns what is still to be applied next, in the order of the ids.
    ///
    /// # Errors
    /// [`Error::Sql`], or [`Error::Unexpected`] for a change that we do not understand.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        let failed = || Error::sql("read the change log");
        while let Some(row) = self.rows.try_next().await.map_err(failed())? {
            let line = line(&row)?;
            if self.upto.as_ref().is_some_and(|upto| !upto.sees(line.xid)) {
                continue;
            }
            if matches!(line.logged.op, b'S' | b'X') {
                // A table that was copied by itself has its own changes, and no definition.
                if !self.position.snapshot.sees(line.xid)
                    && let Some(definition) = self.definition(line)?
                {
                    return Ok(Some(Entry::Definition(Box::new(definition))));
                }
            } else if self.position.needs(line.table, line.xid) {
                return line.change().map(|change| Some(Entry::Change(change)));
            }
        }
        Ok(None)
    }

    /// Takes a part of a definition; returns the definition if it is the last.
    fn definition(&mut self, line: Line) -> Result<Option<Definition>, Error> {
        let Line { id, xid, table, logged } = line;
        let facts = logged.key.unwrap_or_default();
        let forming = self.shaped.entry(xid).or_default();
        forming.rows = (forming.rows.0 + 1, forming.rows.1 + u128::from(id.cast_unsigned()));
        if logged.op == b'S' {
            forming.tables.push(Shaped::read(table, &facts)?);
            return Ok(None);
        }
        let Forming { tables, rows } = std::mem::take(forming);
        let text = logged.new.unwrap_or_default();
        Definition::read((id, xid), text, &facts, tables, rows).map(Some)
    }

    /// Ends the transaction on the primary, after the last change.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn close(self) -> Result<Snapshot, Error> {
        let end = self.client.batch_execute("COMMIT").await;
        end.map_err(Error::sql("end reading the change log"))?;
        Ok(self.until)
    }
}

fn changes(position: &Position) -> String {
    let condition = position.condition();
    let parts = LOGS.map(|log| {
        format!(
            "SELECT id, xid::text::int8, rel, op, key, new, leaf, was::text, now::text \
             FROM {log} WHERE {condition}"
        )
    });
    format!("{} ORDER BY 1", parts.join(" UNION ALL "))
}

impl Line {
    fn change(self) -> Result<Change, Error> {
        let Self { id, xid, table, logged } = self;
        let action = logged.action();
        let action =
            action.ok_or_else(|| Error::Unexpected { what: format!("change {id} is odd") })?;
        Ok(Change { id, xid, table, action })
    }
}

fn line(row: &Row) -> Result<Line, Error> {
    let read = || -> Result<_, tokio_postgres::Error> {
        let logged = Logged {
            op: row.try_get::<_, i8>(3)?.cast_unsigned(),
            key: row.try_get(4)?,
            new: row.try_get(5)?,
            leaf: row.try_get(6)?,
            was: row.try_get(7)?,
            now: row.try_get(8)?,
        };
        let xid = row.try_get::<_, i64>(1)?.cast_unsigned();
        Ok(Line { id: row.try_get(0)?, xid, table: row.try_get(2)?, logged })
    };
    read().map_err(Error::sql("understand a change"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_names_the_numbers() {
        let mut position = Position::at("10:20:10,14".parse().unwrap());
        assert_eq!(position.condition(), "xid >= '20'::xid8 OR xid = ANY ('{10,14}'::xid8[])");
        position.own.insert(3, "15:30:15,22".parse().unwrap());
        assert_eq!(position.condition(), "xid >= '20'::xid8 OR xid = ANY ('{10,14,15}'::xid8[])");
        assert!(position.needs(1, 14) && position.needs(1, 20) && !position.needs(1, 15));
        assert!(position.needs(3, 15) && position.needs(3, 30) && !position.needs(3, 14));
        position.waiting.insert(3);
        assert!(!position.needs(3, 30));
        let position = Position::at("10:10:".parse().unwrap());
        assert_eq!(position.condition(), "xid >= '10'::xid8");
    }
}
