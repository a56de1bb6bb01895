//! Verification in the background: the table that was not verified for longest, one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::replication::catalog::Table;
use crate::replication::error::Error;
use crate::replication::status::Status;

use super::desk::Desk;
use super::findings::Verified;
use super::report::Verdict;

/// Shortest sleep between two looks, and how long after a failure it is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// Longest sleep, after which it is looked again: tables come, and other proxies verify too.
const LOOK_AGAIN: Duration = Duration::from_mins(5);

/// Verifies every table of a secondary again and again, each `interval` after the last time, while
/// `status` says that this process applies to it.
///
/// Ends when nobody asks [`Desk::diverged`] any more. A table that could not be compared is tried again
/// like the others when the interval has passed. Cancel safe: yes.
pub async fn verify_forever(
    desk: Arc<Desk>,
    mut status: watch::Receiver<Status>,
    interval: Duration,
) {
    let work = async {
        loop {
            let follows = |status: &Status| status.is_leader && status.snapshot.is_some();
            if status.wait_for(follows).await.is_err() {
                return;
            }
            let pause = step(&desk, interval).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "verification in the background is tried again");
                PAUSE
            });
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = desk.closed() => {}
    }
}

/// Verifies the table that is due, if any is; returns how long to sleep then.
async fn step(desk: &Desk, interval: Duration) -> Result<Duration, Error> {
    let tables = desk.tables(None).await?;
    let verified = desk.recall().await?;
    let table = match due(&tables, &verified, interval) {
        Due::Now(table) => table,
        Due::In(pause) => return Ok(pause.clamp(PAUSE, LOOK_AGAIN)),
    };
    let report = desk.verify_in_turn(Some(&table.name)).await?;
    // An applier that is not there will not be there for the next table either.
    let is_told = report.verdict() != Verdict::CouldNotTell;
    Ok(if is_told { Duration::ZERO } else { PAUSE })
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
    let age = |table: &Table| verified.get(&table.name).map_or(Duration::MAX, |known| known.age);
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

    use super::super::findings::Known;
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
        let (hour, interval) = (Duration::from_hours(1), Duration::from_hours(2));
        let tables = [table("a"), table("b"), table("c")];
        let mut verified = Verified::new();
        let know = |verified: &mut Verified, name: &str, age: Duration| {
            let (verdict, detail) = ("equal".to_owned(), "equal".to_owned());
            verified.insert(table(name).name, Known { age, verdict, detail });
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
