//! Proves that a secondary is equal to its primary, or says where it is not, while everybody goes on
//! writing.
//!
//! One table at a time: lock it against changes of its definition ([`sides`]), stop the applier, take
//! a snapshot X on the primary, have the applier apply up to exactly X ([`hold`]), take a snapshot of
//! the secondary, whose progress row must say X, and let the applier go on. Then both snapshots are
//! compared ([`walk`]); neither sees what is written meanwhile. A snapshot is held for a bounded number of
//! rows and time, and given up as soon as somebody waits for the table; the next one goes on from the
//! key that the last one reached.
//!
//! What is equal: the text of the whole row, with generated columns, under settings that are the same
//! on both sides. It is compared as a count and a sum of 64-bit hashes for each range of keys; what
//! differs is then found row by row.
//!
//! Cost, measured on two cores that both servers, the comparison and other work shared: 1,000,000 rows
//! of six columns in 5.2 to 5.8 s (about 180,000 rows/s) for both sides together, three runs. In the
//! same runs on one side alone: the hashes in one statement 3.1 to 4.6 s, `COPY … TO '/dev/null'` 1.3 to
//! 2.0 s, `count(*)` 0.14 to 0.18 s. `sha256` in place of `hashtextextended` is four times as slow.
//!
//! Nothing here decides anything about the secondary: findings go to whoever asked, and to the
//! secondary's own `pgtandem.divergence` ([`findings`]).

pub mod desk;
pub mod findings;
pub mod hold;
pub mod pace;
pub mod progress;
pub mod repair;
pub mod report;
pub mod schedule;
pub mod shape;
pub mod sides;
pub mod sql;
pub mod view;
pub mod walk;

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::error::SqlState;

use crate::replication::catalog::Table;
use crate::replication::checks::Obstacle;
use crate::replication::connect::Target;
use crate::replication::error::Error;
use crate::replication::snapshot::Snapshot;

use hold::{HoldError, Holds};
use pace::{Budget, Chunk, Pace};
use progress::{Meter, Progress};
use report::{Differences, Outcome, Report, TableReport};
use shape::Shape;
use sides::{Opened, Purpose, Sides};
use sql::Form;
use view::Range;
use walk::{Ledger, Position, Walk};

/// Why something could not be compared or repaired.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A database did not do what it was asked.
    #[error(transparent)]
    Database(#[from] Error),
    /// The applier did not stand still.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The secondary's progress row says something else than the applier.
    #[error("the secondary stands at {found}, not at {expected}")]
    Elsewhere {
        /// Where it should stand.
        expected: Snapshot,
        /// Where it stands.
        found: Snapshot,
    },
    /// Somebody waits for the table, and goes first.
    #[error("somebody waits for the table")]
    InTheWay,
    /// The primary has no such table any more.
    #[error("the table is gone from the primary")]
    Gone,
    /// The table is being copied: it does not stand where the others stand.
    #[error("the table is being copied")]
    Copying,
    /// Triggers, rules or foreign keys of the secondary would act on what is repaired.
    #[error("{0}")]
    Obstacle(Obstacle),
    /// Rows of this table cannot be named, so they cannot be repaired one by one.
    #[error("the table has no key")]
    NoKey,
    /// The definitions differ.
    #[error("the schema differs: {0}")]
    Schema(shape::Mismatch),
    /// A repair changed another number of rows than it had to.
    #[error("cannot {what}: {affected} rows instead of {expected}")]
    Miscount {
        /// What it was doing.
        what: &'static str,
        /// Rows that it had to change.
        expected: u64,
        /// Rows that it changed.
        affected: u64,
    },
    /// A repair took too long, and was undone.
    #[error("not repaired within {limit:?}; a resync of the table is the better way")]
    TooLong {
        /// How long it had.
        limit: Duration,
    },
    /// Rows still differ after the repair, which was undone.
    #[error("{rows} rows would still differ")]
    NotRepaired {
        /// How many.
        rows: u64,
    },
}

impl VerifyError {
    /// Whether the same may succeed in a new snapshot.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => error.is_transient(),
            Self::Elsewhere { .. } | Self::InTheWay => true,
            Self::Hold(error) => match error {
                HoldError::NoApplier => false,
                HoldError::TimedOut { .. } | HoldError::WentOn => true,
            },
            Self::Gone
            | Self::Copying
            | Self::Obstacle(_)
            | Self::NoKey
            | Self::Schema(_)
            | Self::Miscount { .. }
            | Self::TooLong { .. }
            | Self::NotRepaired { .. } => false,
        }
    }

    /// Whether the text of a row may have been too long for the server.
    ///
    /// A row of 1 GiB or more fails with 54000, or as an allocation that is refused (XX000, 53200).
    fn is_too_large(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let codes =
            [SqlState::PROGRAM_LIMIT_EXCEEDED, SqlState::INTERNAL_ERROR, SqlState::OUT_OF_MEMORY];
        error.server_said().is_some_and(|said| codes.contains(said.code()))
    }
}

/// How much a verification may ask of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rows per second; 0 means no limit.
    pub rate: u64,
    /// Rows that are compared in one snapshot.
    pub snapshot_rows: u64,
    /// Time that one snapshot is held; a chunk that is under way is finished.
    pub snapshot_time: Duration,
    /// Time that the applier has to stop, and to get to the snapshot.
    pub hold: Duration,
    /// Tries of one snapshot, before it is said that it could not be told.
    pub tries: u32,
    /// Pause before the second try; each further one takes twice as long.
    pub retry_pause: Duration,
    /// Time that one repair may take; the applier waits for it.
    pub repair: Duration,
}

impl Limits {
    /// The chunks that fit into a snapshot, and into a second.
    fn chunk(&self, shape: &Shape) -> Chunk {
        let second = if self.rate == 0 { u64::MAX } else { self.rate };
        Chunk::new(shape.rows_estimate, shape.bytes, second.min(self.snapshot_rows))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: 0,
            snapshot_rows: 50_000_000,
            snapshot_time: Duration::from_mins(2),
            hold: Duration::from_secs(30),
            tries: 4,
            retry_pause: Duration::from_millis(500),
            repair: Duration::from_mins(1),
        }
    }
}

/// Compares a secondary with its primary.
#[derive(Debug, Clone)]
pub struct Verifier {
    /// Where the primary is, and who may read all tables there.
    pub primary: Target,
    /// Where the secondary is, and who may read and write all tables there.
    pub secondary: Target,
    /// Who applies to the secondary.
    pub holds: Holds,
    /// How much may be asked of them.
    pub limits: Limits,
}

impl Verifier {
    /// Compares tables, one after the other, and says how far it is.
    ///
    /// `tables` are the primary's.
    /// Cancel safe: yes; both transactions end, and an applier that stands goes on.
    pub async fn verify(&self, tables: &[Table], watched: &watch::Sender<Progress>) -> Report {
        let mut meter = Meter::new(watched, tables, Instant::now());
        let mut pace = Pace::new(self.limits.rate, Instant::now());
        let mut sides = None;
        let mut report = Report::default();
        for table in tables {
            meter.begin(table);
            let outcome = self.table(&mut sides, table, &mut pace, &mut meter).await;
            meter.end();
            report.tables.push(outcome);
        }
        report
    }

    /// Compares one table, snapshot by snapshot.
    async fn table(
        &self,
        sides: &mut Option<Sides>,
        table: &Table,
        pace: &mut Pace,
        meter: &mut Meter<'_>,
    ) -> TableReport {
        let began = Instant::now();
        let mut course = Course::default();
        let mut failures = 0;
        let outcome = loop {
            // What a snapshot has found counts if it came to its end.
            let before = (course.found.clone(), course.rows);
            // What is owed is waited for without a snapshot.
            tokio::time::sleep(pace.owed(Instant::now())).await;
            match self.snapshot(sides, table, &mut course, (pace, meter)).await {
                Ok(None) if course.position == Some(Position::End) => break course.outcome(),
                Ok(None) => failures = 0,
                Ok(Some(mismatch)) => break Outcome::Schema(mismatch),
                Err(error) => {
                    *sides = None;
                    (course.found, course.rows) = before;
                    if error.is_too_large() && course.form == Form::Row {
                        course.form = Form::Columns;
                        continue;
                    }
                    failures += 1;
                    if !error.is_transient() || failures >= self.limits.tries {
                        break course.failed(error);
                    }
                    tracing::debug!(table = %table.name, %error, "comparison is tried again");
                    let pause = self.limits.retry_pause.saturating_mul(1 << failures.min(6));
                    tokio::time::sleep(pause / 2).await;
                }
            }
        };
        let Course { rows, snapshot, .. } = course;
        let snapshot = snapshot.map(|snapshot| snapshot.to_string());
        TableReport { table: table.name.clone(), outcome, rows, snapshot, took: began.elapsed() }
    }

    /// Compares as much of a table as one snapshot allows.
    async fn snapshot(
        &self,
        sides: &mut Option<Sides>,
        table: &Table,
        course: &mut Course,
        (pace, meter): (&mut Pace, &mut Meter<'_>),
    ) -> Result<Option<shape::Mismatch>, VerifyError> {
        let sides = match sides {
            Some(sides) => sides,
            None => sides.insert(Sides::connect(&self.primary, &self.secondary).await?),
        };
        let opened = sides.open(&self.holds, table, Purpose::Compare, self.limits.hold).await?;
        let state = match opened {
            // Both snapshots are taken: the applier may go on.
            Opened::At(state, standing) => {
                drop(standing);
                state
            }
            Opened::Unlike(mismatch) => {
                sides.close().await?;
                return Ok(Some(mismatch));
            }
        };
        let (primary, secondary) = state.views(sides);
        let now = Instant::now();
        let Course { found, rows, .. } = course;
        let mut walk = Walk {
            primary,
            secondary,
            form: course.form,
            within: Range::default(),
            budget: Budget::new(self.limits.snapshot_rows, self.limits.snapshot_time, now),
            ledger: Ledger { found, pace, meter, rows },
            chunk: self.limits.chunk(&state.shape),
            looked_at: now,
        };
        let reached = if state.shape.key.is_empty() {
            walk.whole().await?
        } else {
            let start = course.position.clone();
            walk.go(start.unwrap_or_else(|| Position::start(state.order, None))).await?
        };
        course.position = Some(reached);
        course.snapshot = Some(state.snapshot.clone());
        sides.close().await?;
        Ok(None)
    }
}

/// How far the comparison of a table is.
struct Course {
    position: Option<Position>,
    form: Form,
    found: Differences,
    rows: u64,
    snapshot: Option<Snapshot>,
}

impl Default for Course {
    fn default() -> Self {
        let found = Differences::default();
        Self { position: None, form: Form::Row, found, rows: 0, snapshot: None }
    }
}

impl Course {
    fn outcome(&mut self) -> Outcome {
        match std::mem::take(&mut self.found) {
            found if found.is_empty() => Outcome::Equal,
            found => Outcome::Rows(found),
        }
    }

    /// What was found stays true, whatever happened afterwards.
    fn failed(&mut self, error: VerifyError) -> Outcome {
        if self.found.is_empty() { Outcome::CouldNotTell(error) } else { self.outcome() }
    }
}
