//! The metrics of secondaries, and of the primaries that they follow.

use super::histogram::Histogram;
use super::table::{Metric, Reading, float, row, truth};

/// One secondary: labels `database` and `secondary`.
#[derive(Debug, Clone, Default)]
pub struct SecondarySample {
    /// The word for what it is doing, and all words that there are.
    pub state: &'static str,
    /// Whether this process applies.
    pub is_leader: bool,
    /// For how long the primary has gone on since what it has; not a number where it has nothing.
    pub lag_seconds: f64,
    /// Changes that it lacks; not a number where it is not known.
    pub lag_changes: f64,
    /// Bytes of these changes; not a number where it is not known.
    pub lag_bytes: f64,
    /// Changes applied by this process.
    pub changes: u64,
    /// Batches applied by this process.
    pub batches: u64,
    /// How long batches took.
    pub apply: Histogram,
    /// Rows copied by this process.
    pub copied_rows: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Rows compared by this process.
    pub verified_rows: u64,
    /// Tables found equal.
    pub equal: u64,
    /// Tables found different.
    pub different: u64,
    /// Tables that could not be compared.
    pub could_not_tell: u64,
}

/// One primary: label `database`.
#[derive(Debug, Clone, Default)]
pub struct PrimarySample {
    /// Whether it said how things stand when it was last asked.
    pub is_up: bool,
    /// Whether changes are captured.
    pub is_captured: bool,
    /// Bytes of the change log.
    pub log_bytes: f64,
    /// Bytes at which secondaries are detached; 0 means no limit.
    pub log_limit_bytes: u64,
    /// For how long the log is kept.
    pub log_age_seconds: f64,
    /// Age at which secondaries are detached; 0 means no limit.
    pub log_limit_seconds: f64,
    /// Tables under capture.
    pub tables: f64,
    /// Tables that are meant and cannot follow.
    pub refused: f64,
}

/// All states of a secondary.
const STATES: [&str; 7] =
    ["copying", "catching_up", "in_sync", "paused", "detached", "ahead", "diverged"];

/// The metrics of a secondary.
pub static SECONDARY: &[Metric<SecondarySample>] = &[
    row(
        "pgtandem_secondary_state",
        "What the secondary is doing: 1 for that state, 0 for the others.",
        Reading::Gauges("state", |secondary| {
            STATES.iter().map(|state| (*state, truth(secondary.state == *state))).collect()
        }),
    ),
    row(
        "pgtandem_secondary_applying",
        "Whether it is this process that applies to the secondary.",
        Reading::Gauge(|secondary| truth(secondary.is_leader)),
    ),
    row(
        "pgtandem_secondary_lag_seconds",
        "Time since the primary was as the secondary is; NaN while there is no copy.",
        Reading::Gauge(|secondary| secondary.lag_seconds),
    ),
    row(
        "pgtandem_secondary_lag_changes",
        "Changes of the log that the secondary lacks, beyond 10000 estimated; NaN: not known.",
        Reading::Gauge(|secondary| secondary.lag_changes),
    ),
    row(
        "pgtandem_secondary_lag_bytes",
        "Bytes of the changes that the secondary lacks; NaN: not known.",
        Reading::Gauge(|secondary| secondary.lag_bytes),
    ),
    row(
        "pgtandem_secondary_changes_total",
        "Changes applied to the secondary by this process.",
        Reading::Counter(|secondary| secondary.changes),
    ),
    row(
        "pgtandem_secondary_batches_total",
        "Batches applied to the secondary by this process.",
        Reading::Counter(|secondary| secondary.batches),
    ),
    row(
        "pgtandem_secondary_apply_seconds",
        "From a batch's snapshot of the primary to its commit on the secondary.",
        Reading::Histogram(|secondary| &secondary.apply),
    ),
    row(
        "pgtandem_secondary_copied_rows_total",
        "Rows copied to the secondary by this process.",
        Reading::Counter(|secondary| secondary.copied_rows),
    ),
    row(
        "pgtandem_secondary_copied_bytes_total",
        "Bytes copied to the secondary by this process.",
        Reading::Counter(|secondary| secondary.copied_bytes),
    ),
    row(
        "pgtandem_secondary_verified_rows_total",
        "Rows that this process has compared.",
        Reading::Counter(|secondary| secondary.verified_rows),
    ),
    row(
        "pgtandem_secondary_verifications_total",
        "Tables that this process has compared, by result.",
        Reading::Counters("result", |secondary| {
            vec![
                ("equal", secondary.equal),
                ("different", secondary.different),
                ("could_not_tell", secondary.could_not_tell),
            ]
        }),
    ),
];

/// The metrics of a primary with secondaries.
pub static PRIMARY: &[Metric<PrimarySample>] = &[
    row(
        "pgtandem_primary_up",
        "Whether the primary says how its secondaries are.",
        Reading::Gauge(|primary| truth(primary.is_up)),
    ),
    row(
        "pgtandem_capture_active",
        "Whether changes of the primary are captured.",
        Reading::Gauge(|primary| truth(primary.is_captured)),
    ),
    row(
        "pgtandem_captured_tables",
        "Tables of the primary under capture.",
        Reading::Gauge(|primary| primary.tables),
    ),
    row(
        "pgtandem_refused_tables",
        "Tables of the primary that are meant to follow and cannot by their nature.",
        Reading::Gauge(|primary| primary.refused),
    ),
    row(
        "pgtandem_change_log_bytes",
        "Bytes of the change log on the primary.",
        Reading::Gauge(|primary| primary.log_bytes),
    ),
    row(
        "pgtandem_change_log_limit_bytes",
        "Bytes at which secondaries are detached; 0: no limit.",
        Reading::Gauge(|primary| float(primary.log_limit_bytes)),
    ),
    row(
        "pgtandem_change_log_age_seconds",
        "For how long the change log is kept for the secondary that is farthest behind.",
        Reading::Gauge(|primary| primary.log_age_seconds),
    ),
    row(
        "pgtandem_change_log_limit_seconds",
        "Age at which secondaries are detached; 0: no limit.",
        Reading::Gauge(|primary| primary.log_limit_seconds),
    ),
];
