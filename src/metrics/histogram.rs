//! How long things take, by fixed buckets.

/// Upper bounds of the buckets, in microseconds; what takes longer is in one more.
///
/// 1, 2.5, 5 per decade: from the quickest query on a local server to what somebody will have
/// noticed. Fixed, so that histograms of all pools, workers and versions can be added up.
pub const BOUNDS_US: [u64; 19] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

/// The same bounds as Prometheus wants them: in seconds.
pub const BOUNDS_SECONDS: [&str; 19] = [
    "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1",
    "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "300",
];

/// Buckets of a [`Histogram`].
const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Durations by bucket, and their exact sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn record(&mut self, took_us: u64) {
        // Most of what is measured is short, so the first few comparisons decide.
        let at = BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum_us += took_us;
    }

    /// Returns how many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns their sum in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Returns how many are in each bucket: one for each of [`BOUNDS_US`], then the longer ones.
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    pub(super) fn zip(&mut self, other: &Self, combine: &mut impl FnMut(&mut u64, u64)) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            combine(mine, theirs);
        }
        combine(&mut self.sum_us, other.sum_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for took_us in [0, 100, 101, 250, 300_000_000, 300_000_001, 1 << 40] {
            histogram.record(took_us);
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[2]), (2, 2, 0));
        assert_eq!((buckets[18], buckets[19]), (1, 2));
        assert_eq!(histogram.count(), 7);
        assert_eq!(histogram.sum_us(), 451 + 600_000_001 + (1 << 40));
    }

    #[test]
    fn both_lists_of_bounds_are_the_same() {
        for (us, seconds) in BOUNDS_US.iter().zip(BOUNDS_SECONDS) {
            let expected = std::time::Duration::from_micros(*us).as_secs_f64();
            assert_eq!(seconds.parse::<f64>().map(f64::to_bits), Ok(expected.to_bits()));
        }
        assert!(BOUNDS_US.is_sorted());
    }
}
