//! Where verifications and repairs of one secondary are asked for, and what is known of it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, watch};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::replication::catalog::{Selection, Table, TableName, tables};
use crate::replication::connect::connect;
use crate::replication::error::Error;

use super::findings::{self, Finding};
use super::progress::Progress;
use super::repair::{Extent, Repaired};
use super::report::{Report, TableReport, Verdict};
use super::{Verifier, VerifyError};

/// Tables that are named as diverged; others are counted.
const NAMED_MAX: usize = 3;

/// Verifies and repairs one secondary, and keeps what comes out.
#[derive(Debug)]
pub struct Desk {
    verifier: Verifier,
    selection: Selection,
    diverged: watch::Sender<Option<String>>,
    /// How far the verification is that everybody may watch.
    progress: watch::Sender<Progress>,
    /// LIMIT: one such verification at a time; others wait for their turn.
    turn: Semaphore,
    counts: Counts,
}

/// What came of the verifications since the start, by table.
#[derive(Debug, Default)]
struct Counts {
    equal: AtomicU64,
    different: AtomicU64,
    could_not_tell: AtomicU64,
    rows: AtomicU64,
}

/// What came of the verifications since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Results {
    /// Tables found equal.
    pub equal: u64,
    /// Tables found different.
    pub different: u64,
    /// Tables that could not be compared.
    pub could_not_tell: u64,
    /// Rows compared.
    pub rows: u64,
}

/// Says that nothing is under way when it is dropped.
struct Watching<'a>(&'a watch::Sender<Progress>);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Progress::default());
    }
}

impl Desk {
    /// Takes over the verification of a secondary, of the tables that follow.
    pub fn new(verifier: Verifier, selection: Selection) -> Self {
        let (diverged, _) = watch::channel(None);
        let (progress, _) = watch::channel(Progress::default());
        let (turn, counts) = (Semaphore::new(1), Counts::default());
        Self { verifier, selection, diverged, progress, turn, counts }
    }

    /// How far the verification under way is; one of no tables: none is.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// What came of the verifications since the start.
    pub fn results(&self) -> Results {
        // Relaxed: they guard no other memory.
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Results {
            equal: load(&self.counts.equal),
            different: load(&self.counts.different),
            could_not_tell: load(&self.counts.could_not_tell),
            rows: load(&self.counts.rows),
        }
    }

    /// What is known to differ, in a few words; `None`: nothing.
    ///
    /// It is unknown, and so nothing, before [`Desk::recall`] or the first verification.
    pub fn diverged(&self) -> watch::Receiver<Option<String>> {
        self.diverged.subscribe()
    }

    /// Ends when nobody asks any more whether the secondary has diverged.
    pub async fn closed(&self) {
        self.diverged.closed().await;
    }

    /// Compares one table, or all, and keeps the result on the secondary.
    ///
    /// Cancel safe: yes; what was compared by then is not kept.
    ///
    /// # Errors
    /// [`Error`] if it is not even known what to compare, or the result cannot be kept. What concerns a
    /// single table is in the report.
    pub async fn verify(
        &self,
        only: Option<&TableName>,
        watched: &watch::Sender<Progress>,
    ) -> Result<Report, Error> {
        let tables = self.tables(only).await?;
        let report = self.verifier.verify(&tables, watched).await;
        let secondary = self.prepared().await?;
        for table in &report.tables {
            findings::record(&secondary, table).await?;
            self.count(table);
            announce(table);
        }
        self.refresh(&secondary).await?;
        Ok(report)
    }

    /// The same when no other one is under way; everybody may watch it by [`Desk::progress`].
    ///
    /// Cancel safe: yes, as [`Desk::verify`].
    ///
    /// # Errors
    /// As [`Desk::verify`].
    pub async fn verify_in_turn(&self, only: Option<&TableName>) -> Result<Report, Error> {
        // It is never closed.
        let _turn = self.turn.acquire().await.ok();
        let watching = Watching(&self.progress);
        self.verify(only, watching.0).await
    }

    /// Makes rows of a table what they are on the primary, and compares the whole table again.
    ///
    /// Without an `extent`, the rows that are known to differ are repaired.
    ///
    /// # Errors
    /// [`VerifyError`]; then nothing was changed, unless only the comparison afterwards failed.
    pub async fn repair(
        &self,
        table: &TableName,
        extent: Option<Extent>,
        watched: &watch::Sender<Progress>,
    ) -> Result<(Repaired, Report), VerifyError> {
        let found = self.tables(Some(table)).await?;
        let found = found.first().ok_or(VerifyError::Gone)?;
        let extent = match extent {
            Some(extent) => extent,
            None => Extent::Keys(findings::keys(&self.prepared().await?, table).await?),
        };
        let repaired = self.verifier.repair(found, &extent).await?;
        tracing::warn!(%table, ?repaired, "rows of the secondary were repaired");
        Ok((repaired, self.verify(Some(table), watched).await?))
    }

    /// The same without waiting for a verification that is under way; if none is, everybody may watch
    /// the comparison afterwards by [`Desk::progress`].
    ///
    /// # Errors
    /// As [`Desk::repair`].
    pub async fn repair_at_once(
        &self,
        table: &TableName,
        extent: Option<Extent>,
    ) -> Result<(Repaired, Report), VerifyError> {
        let Ok(_turn) = self.turn.try_acquire() else {
            let (unwatched, _) = watch::channel(Progress::default());
            return self.repair(table, extent, &unwatched).await;
        };
        let watching = Watching(&self.progress);
        self.repair(table, extent, watching.0).await
    }

    /// Lists rows that are known to differ, for SHOW DIVERGENCE; none where nothing was copied yet.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn divergence(&self, limit: usize) -> Result<Vec<Finding>, Error> {
        let secondary = connect(&self.verifier.secondary).await?;
        match findings::install(&secondary).await {
            Ok(()) => findings::divergence(&secondary, limit).await,
            Err(error) if is_missing_schema(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether a table of this name follows.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn follows(&self, table: &TableName) -> Result<bool, Error> {
        let primary = connect(&self.verifier.primary).await?;
        let all = tables(&primary, &self.selection).await?;
        Ok(all.iter().any(|known| known.name == *table))
    }

    /// Reads what earlier verifications have found.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn recall(&self) -> Result<findings::Verified, Error> {
        let secondary = self.prepared().await?;
        self.refresh(&secondary).await
    }

    /// Lists the tables that follow, or the one of this name if it does.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tables(&self, only: Option<&TableName>) -> Result<Vec<Table>, Error> {
        let primary = connect(&self.verifier.primary).await?;
        let mut tables = tables(&primary, &self.selection).await?;
        if let Some(only) = only {
            tables.retain(|table| table.name == *only);
            if tables.is_empty() {
                return Err(Error::Unexpected { what: format!("no table {only} follows") });
            }
        }
        Ok(tables)
    }

    fn count(&self, report: &TableReport) {
        let count = match report.outcome.verdict() {
            Verdict::Equal => &self.counts.equal,
            Verdict::Different => &self.counts.different,
            Verdict::CouldNotTell => &self.counts.could_not_tell,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.counts.rows.fetch_add(report.rows, Ordering::Relaxed);
    }

    async fn prepared(&self) -> Result<Client, Error> {
        let secondary = connect(&self.verifier.secondary).await?;
        findings::install(&secondary).await?;
        Ok(secondary)
    }

    async fn refresh(&self, secondary: &Client) -> Result<findings::Verified, Error> {
        let verified = findings::verified(secondary).await?;
        let word = Verdict::Different.word();
        let differ = verified.iter().filter(|(_, known)| known.verdict == word);
        let mut differ: Vec<String> =
            differ.map(|(table, known)| format!("{table}: {}", known.detail)).collect();
        differ.sort();
        let others = differ.len().saturating_sub(NAMED_MAX);
        differ.truncate(NAMED_MAX);
        if others > 0 {
            differ.push(format!("and {others} more tables"));
        }
        let words = (!differ.is_empty()).then(|| differ.join("; "));
        self.diverged.send_if_modified(|known| {
            let is_new = *known != words;
            *known = words;
            is_new
        });
        Ok(verified)
    }
}

fn is_missing_schema(error: &Error) -> bool {
    error.server_said().is_some_and(|said| *said.code() == SqlState::INVALID_SCHEMA_NAME)
}

fn announce(report: &TableReport) {
    let TableReport { table, outcome, rows, .. } = report;
    match outcome.verdict() {
        Verdict::Equal => tracing::debug!(%table, rows, "table verified"),
        Verdict::Different => tracing::error!(%table, rows, %outcome, "table has diverged"),
        Verdict::CouldNotTell => tracing::warn!(%table, %outcome, "table was not verified"),
    }
}
