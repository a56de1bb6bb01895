//! Verification in the background: the table that was not verified for longest, one after the other.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::replication::catalog::{Selection, Table, tables};
use crate::replication::connect::connect;
use crate::replication::error::Error;

use super::Verifier;
use super::findings::{self, Verified};
use super::progress::Progress;
use super::report::{TableReport, Verdict};

/// Shortest sleep between two tables, and how long after a failure it is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// Longest sleep, after which it is looked again: tables come, and other proxies verify too.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Verifies every table again and again.
#[derive(Debug, Clone)]
pub struct Background {
    /// Who verifies.
    pub verifier: Verifier,
    /// Which tables follow.
    pub selection: Selection,
    /// The age at which a result is too old; must not be zero.
    pub interval: Duration,
}

impl Background {
    /// Verifies until nobody takes the reports any more. Each is recorded on the secondary first.
    ///
    /// A report with [`Verdict::Different`] makes the secondary *diverged*; one that could not tell
    /// means nothing, and is tried again when the interval has passed.
    /// Cancel safe: yes.
    pub async fn run(self, reports: mpsc::Sender<TableReport>, watched: watch::Sender<Progress>) {
        while !reports.is_closed() {
            let pause = match self.step(&reports, &watched).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "verification in the background is tried again");
                    PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = reports.closed() => {}
            }
        }
    }

    /// Verifies the table that is due, if any is; returns how long to sleep then.
    async fn step(
        &self,
        reports: &mpsc::Sender<TableReport>,
        watched: &watch::Sender<Progress>,
    ) -> Result<Duration, Error> {
        let primary = connect(&self.verifier.primary).await?;
        let tables = tables(&primary, &self.selection).await?;
        drop(primary);
        let secondary = connect(&self.verifier.secondary).await?;
        let verified = findings::verified(&secondary).await?;
        let table = match due(&tables, &verified, self.interval) {
            Due::Now(table) => table,
            Due::In(pause) => return Ok(pause.clamp(PAUSE, LOOK_AGAIN)),
        };
        let report = self.verifier.verify(std::slice::from_ref(table), watched).await;
        for table in report.tables {
            findings::record(&secondary, &table).await?;
            announce(&table);
            // Nobody takes it: the loop above ends.
            let _ = reports.send(table).await;
        }
        Ok(Duration::ZERO)
    }
}

fn announce(report: &TableReport) {
    let TableReport { table, outcome, rows, .. } = report;
    match outcome.verdict() {
        Verdict::Equal => tracing::debug!(%table, rows, "table verified"),
        Verdict::Different => tracing::error!(%table, rows, %outcome, "table has diverged"),
        Verdict::CouldNotTell => tracing::warn!(%table, %outcome, "table was not verified"),
    }
}

/// What to verify next.
#[derive(Debug, PartialEq, Eq)]
enum Due<'a> {
    /// This table: never verified, or for longest.
    Now(&'a Table),
    /// None before this time has passed.
    In(Duration),
}

fn due<'a>(tables: &'a [Table], verified: &Verified, interval: Duration) -> Due<'a> {
    // The age of what was never verified is without end.
    let age = |table: &Table| verified.get(&table.name).map_or(Duration::MAX, |(age, _)| *age);
    let Some((oldest, age)) =
        tables.iter().map(|table| (table, age(table))).max_by_key(|(_, age)| *age)
    else {
        return Due::In(interval);
    };
    match interval.checked_sub(age) {
        Some(left) if !left.is_zero() => Due::In(left),
        _ => Due::Now(oldest),
    }
}

#[cfg(test)]
mod tests {
    use crate::replication::catalog::{Kind, TableName};

    use super::*;

    fn table(name: &str) -> Table {
        Table {
            name: TableName { schema: "s".to_owned(), name: name.to_owned() },
            oid: 1,
            kind: Kind::Ordinary,
            columns: Vec::new(),
            key: None,
            has_other_unique: false,
            rows_estimate: 0,
            bytes: 0,
        }
    }

    #[test]
    fn the_oldest_result_is_renewed_first() {
        let (hour, interval) = (Duration::from_secs(3600), Duration::from_secs(7200));
        let tables = [table("a"), table("b"), table("c")];
        let mut verified = Verified::new();
        let know = |verified: &mut Verified, name: &str, age: Duration| {
            verified.insert(table(name).name, (age, "equal".to_owned()));
        };
        know(&mut verified, "a", 3 * hour);
        know(&mut verified, "c", hour);
        assert_eq!(due(&tables, &verified, interval), Due::Now(&tables[1]));
        know(&mut verified, "b", Duration::ZERO);
        assert_eq!(due(&tables, &verified, interval), Due::Now(&tables[0]));
        know(&mut verified, "a", Duration::ZERO);
        assert_eq!(due(&tables, &verified, interval), Due::In(hour));
        know(&mut verified, "c", interval);
        assert_eq!(due(&tables, &verified, interval), Due::Now(&tables[2]));
        assert_eq!(due(&[], &verified, interval), Due::In(interval));
    }
}
