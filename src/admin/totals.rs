//! What databases have done so far, and what that is per second.
//!
//! One task takes a sample every `stats_period`. Averages are from the sample before the last to
//! now, as in PgBouncer: over one period at least once the first two have passed, and over two at
//! most.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::cells::Cells;
use crate::worker::report::PoolReport;

/// What was done, by what PgBouncer counts; times are microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Transactions.
    pub xacts: u64,
    /// Queries.
    pub queries: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Time in transactions.
    pub xact_us: u64,
    /// Time in queries.
    pub query_us: u64,
    /// Time that clients waited for backends.
    pub wait_us: u64,
    /// Backends that clients got.
    pub assignments: u64,
    /// Parse messages of clients.
    pub client_parses: u64,
    /// Parse messages to servers.
    pub server_parses: u64,
    /// Bind messages of clients.
    pub binds: u64,
    /// Logins.
    pub logins: u64,
}

/// What was done by each database.
pub type ByDatabase = BTreeMap<String, Totals>;

impl Totals {
    /// Reads what a pool has counted.
    fn of(cells: &Cells) -> Self {
        Self {
            xacts: cells.transaction.count(),
            queries: cells.query.count(),
            received_bytes: cells.received_bytes,
            sent_bytes: cells.sent_bytes,
            xact_us: cells.transaction.sum_us(),
            query_us: cells.query.sum_us(),
            wait_us: cells.wait.sum_us(),
            assignments: cells.assignments,
            client_parses: cells.statements.client_parses,
            server_parses: cells.statements.server_parses,
            binds: cells.statements.binds,
            logins: cells.login.count(),
        }
    }

    /// Combines each number with the other's; the one place that knows all of them.
    fn zip(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            xacts: combine(self.xacts, other.xacts),
            queries: combine(self.queries, other.queries),
            received_bytes: combine(self.received_bytes, other.received_bytes),
            sent_bytes: combine(self.sent_bytes, other.sent_bytes),
            xact_us: combine(self.xact_us, other.xact_us),
            query_us: combine(self.query_us, other.query_us),
            wait_us: combine(self.wait_us, other.wait_us),
            assignments: combine(self.assignments, other.assignments),
            client_parses: combine(self.client_parses, other.client_parses),
            server_parses: combine(self.server_parses, other.server_parses),
            binds: combine(self.binds, other.binds),
            logins: combine(self.logins, other.logins),
        }
    }

    /// Adds what somebody else has done.
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// Returns counts and bytes per second since it was `earlier`, `elapsed` ago; times are per
    /// transaction, per query, and per backend that a client got.
    pub fn averages(&self, earlier: &Self, elapsed: Duration) -> Self {
        // What is fewer than before was begun anew.
        let since = self.zip(earlier, u64::saturating_sub);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let per_second = since.zip(&since, |count, _| {
            let scaled = u128::from(count) * 1_000_000 / u128::from(elapsed_us);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        });
        Self {
            xact_us: since.xact_us / since.xacts.max(1),
            query_us: since.query_us / since.queries.max(1),
            wait_us: since.wait_us / since.assignments.max(1),
            ..per_second
        }
    }
}

impl Totals {
    /// Logs averages, in PgBouncer's words.
    pub fn log(&self) {
        let Self { xacts, queries, received_bytes, sent_bytes, xact_us, query_us, wait_us, .. } =
            self;
        tracing::info!(
            xacts,
            queries,
            received_bytes,
            sent_bytes,
            xact_us,
            query_us,
            wait_us,
            "stats: {xacts} xacts/s, {queries} queries/s, in {received_bytes} B/s, out \
             {sent_bytes} B/s, xact {xact_us} us, query {query_us} us, wait {wait_us} us"
        );
    }
}

/// Adds up what the pools of each database have done.
pub fn by_database(pools: &[PoolReport]) -> ByDatabase {
    let mut databases = ByDatabase::new();
    for pool in pools {
        let totals = databases.entry(pool.spec.database.clone()).or_default();
        *totals = totals.plus(&Totals::of(&pool.cells));
    }
    databases
}

/// The two samples that were taken last.
#[derive(Debug)]
pub struct Samples {
    // Held for a look or an exchange, never across a wait.
    taken: Mutex<[Sample; 2]>,
}

#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    databases: ByDatabase,
}

impl Samples {
    /// Begins with nothing done at `start`.
    pub fn new(start: Instant) -> Self {
        let nothing = Sample { at: start, databases: ByDatabase::new() };
        Self { taken: Mutex::new([nothing.clone(), nothing]) }
    }

    /// Takes a sample; the older one of the two is forgotten.
    pub fn take(&self, databases: ByDatabase, at: Instant) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.swap(0, 1);
        let [_, newer] = &mut *taken;
        *newer = Sample { at, databases };
    }

    /// Returns the averages of each database up to `now`.
    pub fn averages(&self, databases: &ByDatabase, now: Instant) -> ByDatabase {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let [older, _] = &*taken;
        let elapsed = now.saturating_duration_since(older.at);
        let averages = databases.iter().map(|(name, totals)| {
            let earlier = older.databases.get(name).copied().unwrap_or_default();
            (name.clone(), totals.averages(&earlier, elapsed))
        });
        averages.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(xacts: u64, xact_us: u64) -> ByDatabase {
        let totals = Totals { xacts, xact_us, sent_bytes: xacts * 100, ..Totals::default() };
        ByDatabase::from([("d".to_owned(), totals)])
    }

    #[test]
    fn averages_are_from_the_sample_before_the_last_to_now() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let samples = Samples::new(start);
        let shown = |databases: &ByDatabase, now| {
            let averages = samples.averages(databases, now);
            let average = averages.get("d").expect("it was asked for");
            (average.xacts, average.xact_us, average.sent_bytes)
        };
        // Before the first sample: since the start.
        assert_eq!(shown(&done(20, 200), at(10)), (2, 10, 200));
        samples.take(done(60, 600), at(60));
        assert_eq!(shown(&done(180, 1800), at(90)), (2, 10, 200));
        // Then from the last but one: 60 transactions at 60 s.
        samples.take(done(360, 3600), at(120));
        assert_eq!(shown(&done(960, 33_600), at(150)), (10, 36, 1000));
        // Nothing was done, no time has passed, or it was begun anew.
        samples.take(done(960, 33_600), at(180));
        samples.take(done(960, 33_600), at(240));
        assert_eq!(shown(&done(960, 33_600), at(240)), (0, 0, 0));
        assert_eq!(shown(&done(0, 0), at(241)), (0, 0, 0));
        samples.take(done(0, 0), at(241));
        samples.take(done(0, 0), at(241));
        assert_eq!(shown(&done(1, 5), at(241)), (1_000_000, 5, 100_000_000));
    }
}
