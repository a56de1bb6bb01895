//! How far a verification is.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::replication::catalog::{Table, TableName};

/// How far a verification is, for whoever watches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The table that is compared.
    pub table: Option<TableName>,
    /// Tables that are done.
    pub tables_done: usize,
    /// Tables in all.
    pub tables_total: usize,
    /// Rows that were compared, of all tables.
    pub rows_done: u64,
    /// Rows of all tables, as the primary guesses; never less than [`Progress::rows_done`].
    pub rows_estimate: u64,
    /// Rows that differ, so far.
    pub rows_different: u64,
    /// Rows per second since the beginning.
    pub rows_per_second: u64,
    /// How long it will take at that speed, as soon as there is one.
    pub remaining: Option<Duration>,
}

/// Publishes the progress of one verification.
#[derive(Debug)]
pub struct Meter<'a> {
    watched: &'a watch::Sender<Progress>,
    started: Instant,
    /// Rows of the tables that are done, and the guess for those that are not.
    rows_done: u64,
    rows_ahead: u64,
    /// Of the present table.
    table_estimate: u64,
    table_rows: u64,
}

impl<'a> Meter<'a> {
    /// Starts at zero.
    pub fn new(watched: &'a watch::Sender<Progress>, tables: &[Table], now: Instant) -> Self {
        let rows_ahead = tables.iter().map(|table| table.rows_estimate).sum();
        watched.send_replace(Progress {
            tables_total: tables.len(),
            rows_estimate: rows_ahead,
            ..Progress::default()
        });
        let (rows_done, table_estimate, table_rows) = (0, 0, 0);
        Self { watched, started: now, rows_done, rows_ahead, table_estimate, table_rows }
    }

    /// Begins with a table.
    pub fn begin(&mut self, table: &Table) {
        self.rows_ahead = self.rows_ahead.saturating_sub(table.rows_estimate);
        self.table_estimate = table.rows_estimate;
        self.table_rows = 0;
        self.watched.send_modify(|progress| progress.table = Some(table.name.clone()));
    }

    /// Adds rows of the present table that were compared, and how many are known to differ.
    pub fn add(&mut self, rows: u64, different: u64, now: Instant) {
        self.table_rows += rows;
        let done = self.rows_done + self.table_rows;
        let estimate = self.rows_done + self.table_estimate.max(self.table_rows) + self.rows_ahead;
        let elapsed = now.saturating_duration_since(self.started);
        let per_second = u128::from(done) * 1000 / elapsed.as_millis().max(1);
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        self.watched.send_modify(|progress| {
            progress.rows_done = done;
            progress.rows_estimate = estimate;
            progress.rows_different = different;
            progress.rows_per_second = per_second;
            progress.remaining = (estimate - done).checked_div(per_second).map(Duration::from_secs);
        });
    }

    /// Ends with the present table.
    pub fn end(&mut self) {
        self.rows_done += self.table_rows;
        (self.table_estimate, self.table_rows) = (0, 0);
        let estimate = self.rows_done + self.rows_ahead;
        self.watched.send_modify(|progress| {
            progress.table = None;
            progress.tables_done += 1;
            progress.rows_estimate = estimate;
        });
    }
}
