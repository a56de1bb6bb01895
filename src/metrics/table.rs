//! Every metric: name, unit, labels, and where its value comes from.
//!
//! Names are `pgtandem_<noun>_<unit>[_total]` in base units; the `process_` ones are Prometheus'
//! own. Labels come from the configuration or are fixed words, so that no client can make series
//! without end. Each series of a counter is there from the start, at 0.

use std::time::Duration;

use super::cells::{Cells, States};
use super::histogram::Histogram;
use super::labels::{Counts, Label, LoginOutcome};

/// One metric of something that is sampled as an `S`.
#[derive(Debug)]
pub struct Metric<S: 'static> {
    /// Its full name.
    pub name: &'static str,
    /// What it is, for people.
    pub help: &'static str,
    /// Labels that tell it from other rows of the same name.
    pub fixed: &'static [(&'static str, &'static str)],
    /// Its kind and values.
    pub reading: Reading<S>,
}

/// What kind a metric is, and how to read it.
#[derive(Debug)]
pub enum Reading<S: 'static> {
    /// Something counted.
    Counter(fn(&S) -> u64),
    /// Something counted, for each word of a label.
    Counters(&'static str, fn(&S) -> Vec<(&'static str, u64)>),
    /// Time that adds up, in seconds.
    Seconds(fn(&S) -> f64),
    /// How something stands.
    Gauge(fn(&S) -> f64),
    /// How something stands, for each word of a label.
    Gauges(&'static str, fn(&S) -> Vec<(&'static str, f64)>),
    /// How long things take, in seconds.
    Histogram(fn(&S) -> &Histogram),
}

/// One pool, or all pools that share labels: `database` and `user`.
#[derive(Debug, Clone, Default)]
pub struct PoolSample {
    /// What was done.
    pub cells: Cells,
    /// How things stand.
    pub states: States,
    /// Server connections it may have.
    pub size: u64,
    /// Server connections it may have on top when clients wait.
    pub reserve: u64,
    /// Whether PAUSE or KILL holds.
    pub is_paused: bool,
    /// Whether no server would do when one was asked for last.
    pub is_lost: bool,
}

/// One worker: label `worker`.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkerSample {
    /// Whether it answered in time.
    pub is_up: bool,
    /// How often its loop has gone round.
    pub turns: u64,
    /// Events that the system has reported to it.
    pub events: u64,
    /// CPU time that its thread has used.
    pub cpu: Duration,
}

/// The process as a whole.
#[derive(Debug, Clone, Default)]
pub struct ProcessSample {
    /// CPU time of all its threads.
    pub cpu: Duration,
    /// Memory it has in RAM.
    pub resident_bytes: u64,
    /// Memory it has mapped.
    pub virtual_bytes: u64,
    /// Descriptors it has open.
    pub open_fds: u64,
    /// Descriptors it may have open.
    pub max_fds: u64,
    /// When it started, since 1970.
    pub started: Duration,
    /// Addresses and paths that clients are accepted on.
    pub listeners: u64,
    /// Clients that are in, or in their login.
    pub clients: u64,
    /// Clients that may be in.
    pub clients_max: u64,
    /// Logins that ended, by how.
    pub logins: Counts<LoginOutcome, { LoginOutcome::ALL.len() }>,
    /// Configurations that were put in force after the start.
    pub reloads: u64,
    /// Configurations that were not.
    pub reload_failures: u64,
    /// Whether the last attempt put one in force.
    pub is_reloaded: bool,
    /// When the configuration in force was, since 1970.
    pub configured: Duration,
    /// Whether new clients are let in and served.
    pub is_ready: bool,
}

pub(super) const fn row<S>(
    name: &'static str,
    help: &'static str,
    reading: Reading<S>,
) -> Metric<S> {
    Metric { name, help, fixed: &[], reading }
}

/// The metrics of a pool.
pub static POOL: &[Metric<PoolSample>] = &[
    row(
        "pgtandem_client_received_bytes_total",
        "Bytes that clients sent and that were relayed or answered.",
        Reading::Counter(|pool| pool.cells.received_bytes),
    ),
    row(
        "pgtandem_client_sent_bytes_total",
        "Bytes that clients were sent after their login.",
        Reading::Counter(|pool| pool.cells.sent_bytes),
    ),
    row(
        "pgtandem_server_assignments_total",
        "Server connections given to clients.",
        Reading::Counter(|pool| pool.cells.assignments),
    ),
    row(
        "pgtandem_session_state_questions_total",
        "Queries that asked a server what a client left behind in its session.",
        Reading::Counter(|pool| pool.cells.state_questions),
    ),
    row(
        "pgtandem_pinned_clients",
        "Clients that session state keeps at their server connection.",
        Reading::Gauge(|pool| float(pool.states.clients_pinned)),
    ),
    row(
        "pgtandem_client_wait_seconds",
        "How long clients waited for a server connection, successfully or not.",
        Reading::Histogram(|pool| &pool.cells.wait),
    ),
    row(
        "pgtandem_query_seconds",
        "From the first message of a query to the server's ReadyForQuery.",
        Reading::Histogram(|pool| &pool.cells.query),
    ),
    row(
        "pgtandem_transaction_seconds",
        "From the first message of a transaction to its end.",
        Reading::Histogram(|pool| &pool.cells.transaction),
    ),
    row(
        "pgtandem_client_login_seconds",
        "From an accepted connection to the end of its login.",
        Reading::Histogram(|pool| &pool.cells.login),
    ),
    row(
        "pgtandem_server_connect_seconds",
        "How long it took to open server connections, with their logins.",
        Reading::Histogram(|pool| &pool.cells.connect),
    ),
    row(
        "pgtandem_server_connect_failures_total",
        "Server connections that could not be opened, by class of SQLSTATE.",
        Reading::Counters("class", |pool| each(&pool.cells.connect_failures)),
    ),
    row(
        "pgtandem_server_disconnects_total",
        "Server connections that were closed, by why.",
        Reading::Counters("reason", |pool| each(&pool.cells.server_closes)),
    ),
    row(
        "pgtandem_client_disconnects_total",
        "Clients that are gone, by why.",
        Reading::Counters("reason", |pool| each(&pool.cells.client_ends)),
    ),
    Metric {
        name: "pgtandem_errors_total",
        help: "Errors that clients were sent, by who made them and class of SQLSTATE.",
        fixed: &[("origin", "server")],
        reading: Reading::Counters("class", |pool| each(&pool.cells.server_errors)),
    },
    Metric {
        name: "pgtandem_errors_total",
        help: "Errors that clients were sent, by who made them and class of SQLSTATE.",
        fixed: &[("origin", "pooler")],
        reading: Reading::Counters("class", |pool| each(&pool.cells.pooler_errors)),
    },
    row(
        "pgtandem_timeouts_total",
        "Time-outs that struck, by which.",
        Reading::Counters("timeout", |pool| each(&pool.cells.timeouts)),
    ),
    row(
        "pgtandem_client_cancel_requests_total",
        "Cancel requests of clients that met a session.",
        Reading::Counter(|pool| pool.cells.cancel_requests),
    ),
    row(
        "pgtandem_server_cancel_requests_total",
        "Cancel requests for servers, for clients that asked and for those that were lost.",
        Reading::Counter(|pool| pool.cells.cancels_sent),
    ),
    row(
        "pgtandem_client_parses_total",
        "Parse messages of clients.",
        Reading::Counter(|pool| pool.cells.statements.client_parses),
    ),
    row(
        "pgtandem_server_parses_total",
        "Parse messages that servers were sent.",
        Reading::Counter(|pool| pool.cells.statements.server_parses),
    ),
    row(
        "pgtandem_client_binds_total",
        "Bind messages of clients.",
        Reading::Counter(|pool| pool.cells.statements.binds),
    ),
    row(
        "pgtandem_prepared_statement_lookups_total",
        "Uses of named statements, by whether the server connection held them already.",
        Reading::Counters("result", |pool| {
            let statements = &pool.cells.statements;
            vec![("hit", statements.hits), ("miss", statements.misses)]
        }),
    ),
    row(
        "pgtandem_prepared_statement_evictions_total",
        "Named statements closed on server connections to make room for others.",
        Reading::Counter(|pool| pool.cells.statements.evictions),
    ),
    row(
        "pgtandem_clients",
        "Clients, by what they do.",
        Reading::Gauges("state", |pool| {
            let states = &pool.states;
            vec![
                ("idle", float(states.clients_idle)),
                ("active", float(states.clients_leased)),
                ("waiting", float(states.clients_waiting)),
            ]
        }),
    ),
    row(
        "pgtandem_client_wait_longest_seconds",
        "How long the first client in the queue has waited.",
        Reading::Gauge(|pool| Duration::from_micros(pool.states.wait_longest_us).as_secs_f64()),
    ),
    row(
        "pgtandem_servers",
        "Server connections, by what they do.",
        Reading::Gauges("state", |pool| {
            let states = &pool.states;
            vec![
                ("active", float(states.servers_active)),
                ("idle", float(states.servers_idle)),
                ("used", float(states.servers_stale)),
                ("tested", float(states.servers_tested)),
                ("being_canceled", float(states.servers_being_cancelled)),
                ("opening", float(states.servers_opening)),
            ]
        }),
    ),
    row(
        "pgtandem_cancels",
        "Cancel requests under way: to servers, and waiting until the server works for the client.",
        Reading::Gauges("state", |pool| {
            let states = &pool.states;
            vec![
                ("sent", float(states.servers_cancelling)),
                ("waiting", float(states.cancels_waiting)),
            ]
        }),
    ),
    row(
        "pgtandem_pool_size",
        "Server connections that the pool may have.",
        Reading::Gauge(|pool| float(pool.size)),
    ),
    row(
        "pgtandem_pool_reserve_size",
        "Server connections that the pool may have on top when clients wait for too long.",
        Reading::Gauge(|pool| float(pool.reserve)),
    ),
    row(
        "pgtandem_pool_paused",
        "Whether clients wait because of PAUSE or KILL.",
        Reading::Gauge(|pool| truth(pool.is_paused)),
    ),
    row(
        "pgtandem_pool_server_lost",
        "Whether no server could be reached that is what the database wants.",
        Reading::Gauge(|pool| truth(pool.is_lost)),
    ),
];

/// The metrics of a worker.
pub static WORKER: &[Metric<WorkerSample>] = &[
    row(
        "pgtandem_worker_up",
        "Whether the worker answers.",
        Reading::Gauge(|worker| truth(worker.is_up)),
    ),
    row(
        "pgtandem_worker_turns_total",
        "How often the worker's event loop has gone round.",
        Reading::Counter(|worker| worker.turns),
    ),
    row(
        "pgtandem_worker_events_total",
        "Events that the system has reported to the worker.",
        Reading::Counter(|worker| worker.events),
    ),
    row(
        "pgtandem_worker_cpu_seconds_total",
        "CPU time of the worker's thread.",
        Reading::Seconds(|worker| worker.cpu.as_secs_f64()),
    ),
];

/// The metrics of the process.
pub static PROCESS: &[Metric<ProcessSample>] = &[
    Metric {
        name: "pgtandem_build_info",
        help: "Always 1; the labels say what runs.",
        fixed: &[("version", env!("CARGO_PKG_VERSION"))],
        reading: Reading::Gauge(|_| 1.0),
    },
    row(
        "pgtandem_ready",
        "Whether new clients are let in and served.",
        Reading::Gauge(|process| truth(process.is_ready)),
    ),
    row(
        "pgtandem_listeners",
        "Addresses and paths that clients are accepted on.",
        Reading::Gauge(|process| float(process.listeners)),
    ),
    row(
        "pgtandem_client_connections",
        "Clients that are in, or in their login.",
        Reading::Gauge(|process| float(process.clients)),
    ),
    row(
        "pgtandem_client_connections_max",
        "Clients that may be in at a time.",
        Reading::Gauge(|process| float(process.clients_max)),
    ),
    row(
        "pgtandem_logins_total",
        "Logins that ended, by how.",
        Reading::Counters("outcome", |process| each(&process.logins)),
    ),
    row(
        "pgtandem_config_reloads_total",
        "Attempts to put another configuration in force, by result.",
        Reading::Counters("result", |process| {
            vec![("success", process.reloads), ("failure", process.reload_failures)]
        }),
    ),
    row(
        "pgtandem_config_last_reload_successful",
        "Whether the last attempt succeeded: if not, the file and what is in force differ.",
        Reading::Gauge(|process| truth(process.is_reloaded)),
    ),
    row(
        "pgtandem_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was put in force.",
        Reading::Gauge(|process| process.configured.as_secs_f64()),
    ),
    row(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        Reading::Seconds(|process| process.cpu.as_secs_f64()),
    ),
    row(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        Reading::Gauge(|process| float(process.resident_bytes)),
    ),
    row(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        Reading::Gauge(|process| float(process.virtual_bytes)),
    ),
    row(
        "process_open_fds",
        "Number of open file descriptors.",
        Reading::Gauge(|process| float(process.open_fds)),
    ),
    row(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        Reading::Gauge(|process| float(process.max_fds)),
    ),
    row(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        Reading::Gauge(|process| process.started.as_secs_f64()),
    ),
];

/// Reads the count of each word of a label.
fn each<L: Label, const N: usize>(counts: &Counts<L, N>) -> Vec<(&'static str, u64)> {
    L::ALL.iter().map(|label| (label.as_str(), counts.of(*label))).collect()
}

/// 1 for true.
pub(super) fn truth(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

/// A number as Prometheus has them: exact up to 2^53.
pub fn float(number: u64) -> f64 {
    let half = |bits: u64| u32::try_from(bits & 0xffff_ffff).map_or(0.0, f64::from);
    half(number >> 32) * 4_294_967_296.0 + half(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_value() {
        for (number, expected) in [
            (0, 0.0),
            (1, 1.0),
            (u64::from(u32::MAX), 4_294_967_295.0),
            (1 << 32, 4_294_967_296.0),
            ((1 << 53) - 1, 9_007_199_254_740_991.0_f64),
        ] {
            assert_eq!(float(number).to_bits(), expected.to_bits(), "{number}");
        }
    }
}
