//! How fast the comparison goes, and for how long it stays in one snapshot. No clock of its own.

use std::time::{Duration, Instant};

/// Spreads rows over time.
#[derive(Debug)]
pub struct Pace {
    /// Rows per second; 0 means no limit.
    rate: u64,
    /// When the rows so far are paid for.
    free_at: Instant,
}

impl Pace {
    /// Allows `rate` rows per second from `now` on; 0 means no limit.
    pub fn new(rate: u64, now: Instant) -> Self {
        Self { rate, free_at: now }
    }

    /// Counts rows, and returns how long to wait before the next ones.
    ///
    /// Time that was not used is lost: after a pause rows do not come faster than the rate.
    pub fn spend(&mut self, rows: u64, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let nanoseconds = u128::from(rows) * 1_000_000_000 / u128::from(self.rate);
        let price = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now).checked_add(price).unwrap_or(self.free_at);
        self.owed(now)
    }

    /// Returns how long to wait for the rows so far.
    pub fn owed(&self, now: Instant) -> Duration {
        self.free_at.saturating_duration_since(now)
    }
}

/// How much one snapshot may be used for.
///
/// A snapshot holds back vacuum on the primary, and the lock on the table holds back DDL.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    rows_left: u64,
    /// `None` if there is no such time.
    until: Option<Instant>,
}

impl Budget {
    /// Allows `rows` rows and `time` from `now` on.
    pub fn new(rows: u64, time: Duration, now: Instant) -> Self {
        Self { rows_left: rows, until: now.checked_add(time) }
    }

    /// Counts rows, and returns whether there may be more in this snapshot.
    pub fn spend(&mut self, rows: u64, now: Instant) -> bool {
        self.rows_left = self.rows_left.saturating_sub(rows);
        self.rows_left > 0 && self.until.is_none_or(|until| now < until)
    }

    /// Uses up all that is left.
    pub fn exhaust(&mut self) {
        self.rows_left = 0;
    }
}

/// How many rows are compared in one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Rows of the next one.
    pub rows: u64,
    rows_max: u64,
}

impl Chunk {
    /// Least and most rows, whatever else is asked for.
    const ROWS: (u64, u64) = (100, 50_000);

    /// Storage of the first chunk, whatever TOAST adds.
    const BYTES: u64 = 2 << 20;

    /// A chunk that takes longer is followed by a smaller one; one of less than a quarter, by a larger.
    const TIME: Duration = Duration::from_millis(400);

    /// Chooses the first chunk of a table of so many rows and bytes; none is to have more than
    /// `rows_max` rows, or 100.
    pub fn new(rows_estimate: u64, bytes: u64, rows_max: u64) -> Self {
        let rows_max = rows_max.clamp(Self::ROWS.0, Self::ROWS.1);
        let width = bytes.checked_div(rows_estimate).unwrap_or(200).max(1);
        Self { rows: (Self::BYTES / width).clamp(Self::ROWS.0, rows_max), rows_max }
    }

    /// Chooses the next chunk after one that took so long.
    pub fn adapt(&mut self, took: Duration) {
        let next = if took > Self::TIME {
            self.rows / 2
        } else if took < Self::TIME / 4 {
            self.rows * 2
        } else {
            self.rows
        };
        self.rows = next.clamp(Self::ROWS.0, self.rows_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spread() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.spend(500, start), Duration::from_millis(500));
        assert_eq!(pace.spend(500, start), Duration::from_secs(1));
        // A pause is not made up for.
        let later = start + Duration::from_mins(1);
        assert_eq!(pace.spend(100, later), Duration::from_millis(100));
        assert!(pace.spend(u64::MAX, later) > Duration::from_secs(1));
        assert_eq!(Pace::new(0, start).spend(u64::MAX, start), Duration::ZERO);
    }

    #[test]
    fn a_snapshot_ends() {
        let start = Instant::now();
        let mut budget = Budget::new(100, Duration::from_secs(1), start);
        assert!(budget.spend(99, start));
        assert!(!budget.spend(1, start));
        let mut budget = Budget::new(100, Duration::from_secs(1), start);
        assert!(!budget.spend(0, start + Duration::from_secs(1)));
        budget = Budget::new(100, Duration::from_secs(1), start);
        budget.exhaust();
        assert!(Budget::new(1, Duration::MAX, start).spend(0, start));
        assert!(!budget.spend(0, start));
    }

    #[test]
    fn chunks() {
        let rows = |estimate, bytes, max| Chunk::new(estimate, bytes, max).rows;
        assert_eq!(rows(0, 0, u64::MAX), 10_485);
        assert_eq!(rows(1_000_000, 90_000_000, u64::MAX), 23_301);
        assert_eq!(rows(1_000_000, 90_000_000, 1000), 1000);
        assert_eq!(rows(1_000_000, 90_000_000, 1), 100);
        assert_eq!(rows(10, u64::MAX, u64::MAX), 100);
        let mut chunk = Chunk::new(1000, 2 << 20, 3000);
        let mut next = |milliseconds| {
            chunk.adapt(Duration::from_millis(milliseconds));
            chunk.rows
        };
        assert_eq!([next(10), next(10), next(200)], [2000, 3000, 3000]);
        assert_eq!([next(500), next(500), next(500)], [1500, 750, 375]);
        assert_eq!([next(500), next(500), next(500)], [187, 100, 100]);
    }
}
