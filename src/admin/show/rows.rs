//! The rows of each SHOW.

use std::time::Duration;

use super::{Parameter, Show};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::config::{LoadBalance, PoolMode};
use crate::net::Peer;
use crate::wire::rows::Value;

/// What the console calls itself among databases, as PgBouncer does.
pub const OWN_DATABASE: &str = "pgbouncer";

impl Admin {
    /// Lists what a SHOW shows.
    pub(in crate::admin) async fn list(&self, show: Show) -> Rows {
        match show {
            // The first three are told in another way. Of the others there are none: zones are not
            // asked for, and other poolers are not known of.
            Show::Fds
            | Show::Help
            | Show::Divergence
            | Show::DnsZones
            | Show::PeerPools
            | Show::Peers => Rows::new(),
            Show::Clients => self.list_clients().await,
            Show::Servers => self.list_servers().await,
            Show::Sockets => self.list_sockets(false).await,
            Show::ActiveSockets => self.list_sockets(true).await,
            Show::Config => self.list_config(),
            Show::Databases => self.list_databases(),
            Show::DnsHosts => self.list_names(),
            Show::Lists => self.list_lists().await,
            Show::Mem => list_memory(),
            Show::Pools => self.list_pools().await,
            Show::Replication => self.list_replication().await,
            Show::Secondaries => self.list_secondaries().await,
            Show::State => self.list_state(),
            Show::Stats => self.list_stats().await,
            Show::StatsAverages => self.list_averages().await,
            Show::StatsTotals => self.list_totals_by_database().await,
            Show::Totals => self.list_totals().await,
            Show::Users => self.list_users(),
            Show::Version => vec![vec![text(concat!("pgtandem ", env!("CARGO_PKG_VERSION")))]],
            Show::Waits => self.list_waits().await,
            Show::Parameter(parameter) => vec![vec![text(Parameter::value(parameter))]],
        }
    }

    fn list_state(&self) -> Rows {
        let (is_paused, is_suspended) = (self.control.is_paused(), self.control.is_suspended());
        let state = |key, holds: bool| vec![text(key), text(if holds { "yes" } else { "no" })];
        vec![
            state("active", !is_paused && !is_suspended),
            state("paused", is_paused),
            state("suspended", is_suspended),
            state("shutting_down", self.control.shutting_down().is_some()),
        ]
    }
}

/// Says what memory the process has, as far as the system tells: kilobytes, and bytes in the last
/// column.
fn list_memory() -> Rows {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<i64>().ok()
    };
    let row = |(name, field)| {
        let used = kilobytes(field)?;
        Some(vec![text(name), int(1024), int(used), int(0), int(used.saturating_mul(1024))])
    };
    let fields = [("resident", "VmRSS"), ("resident_peak", "VmHWM"), ("swapped", "VmSwap")];
    fields.into_iter().filter_map(row).collect()
}

/// A text that we wrote.
pub fn text(text: &'static str) -> Value {
    Value::Text(text.into())
}

/// A text that we were given.
pub fn owned(text: impl Into<String>) -> Value {
    Value::Text(text.into().into())
}

/// A whole number; what is too large stops at the greatest.
pub fn int<T: TryInto<i64>>(number: T) -> Value {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// A number with a fraction.
pub fn float(number: f64) -> Value {
    Value::Float(number)
}

/// As PgBouncer shows what is true: 1 and 0.
pub fn flag(holds: bool) -> Value {
    Value::Int(i64::from(holds))
}

/// The name of a pool mode.
pub fn mode(mode: PoolMode) -> Value {
    text(match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    })
}

/// How one of several servers is chosen; NULL where there is one.
pub fn balance(servers: usize, balance: LoadBalance) -> Value {
    if servers > 1 { text(balance.as_str()) } else { Value::Null }
}

/// A duration in whole seconds, and the microseconds beyond them.
pub fn seconds_and_micros(duration: Duration) -> [Value; 2] {
    [int(duration.as_secs()), int(duration.subsec_micros())]
}

/// An address and a port; a Unix socket has the port that its name ends in.
pub fn address(peer: Option<Peer>, port: u16) -> [Value; 2] {
    match peer {
        Some(Peer::Tcp(address)) => [owned(address.ip().to_string()), int(address.port())],
        Some(Peer::Unix) => [text("unix"), int(port)],
        None => [Value::Null, int(0)],
    }
}
