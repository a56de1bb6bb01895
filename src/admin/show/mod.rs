//! Everything that can be shown: what it is called, which columns it has, and its rows.

mod columns;
mod databases;
mod listeners;
mod parameters;
mod pools;
mod replication;
mod rows;
mod sockets;
mod stats;

pub use columns::{CHANGES, REPAIRED, VERIFIED};
pub use parameters::{Parameter, REPORTED, SERVER_VERSION};
pub use rows::{float, int, owned, text};

use crate::wire::rows::Column;

/// What HELP says, behind the notice's first line; the layout is PgBouncer's.
pub const HELP: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW STATE|WAITS|LISTENERS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM
\tSHOW PEERS|PEER_POOLS|DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW SECONDARIES|REPLICATION|DIVERGENCE
\tSET key = arg
\tRELOAD [DRY RUN]
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL <db>
\tKILL_CLIENT <client_id>
\tSUSPEND
\tWAIT_CLOSE [<db>]
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tCOPY|RESUME|SKIP SECONDARY <db>.<secondary>
\tPAUSE|DETACH SECONDARY <db>.<secondary> ['<why>']
\tRESYNC SECONDARY <db>.<secondary> [<table>, ...]
\tWAIT SECONDARY <db>.<secondary> [TIMEOUT <time>]
\tWAIT SECONDARIES [TIMEOUT <time>]
\tVERIFY <db>[.<secondary>] [<table>]
\tREPAIR <db>.<secondary> <table> [ALL]";

/// A SHOW of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Backends and clients that do something, with the state of their buffers.
    ActiveSockets,
    /// Clients.
    Clients,
    /// Keys of `[general]`.
    Config,
    /// Databases that clients can ask for.
    Databases,
    /// Host names that were looked up.
    DnsHosts,
    /// Rows of secondaries that are known to differ.
    Divergence,
    /// DNS zones.
    DnsZones,
    /// File descriptors with passwords, for an online restart: refused.
    Fds,
    /// The list of commands, as a notice.
    Help,
    /// Connections that listen for all clients of a database.
    Listeners,
    /// How many there are of everything.
    Lists,
    /// Memory.
    Mem,
    /// Queues of cancel requests for other poolers.
    PeerPools,
    /// Other poolers.
    Peers,
    /// Pools: what their clients and backends do.
    Pools,
    /// What is captured on each primary.
    Replication,
    /// How each secondary is.
    Secondaries,
    /// Backends.
    Servers,
    /// Clients and backends, with the state of their buffers.
    Sockets,
    /// Whether everything is paused or suspended.
    State,
    /// What was done, and per second, by database.
    Stats,
    /// The second half of it.
    StatsAverages,
    /// The first half of it.
    StatsTotals,
    /// What was done by all databases together.
    Totals,
    /// Users.
    Users,
    /// Which version runs.
    Version,
    /// Who waits, and who has what they wait for.
    Waits,
    /// A parameter that drivers ask for.
    Parameter(Parameter),
}

impl Show {
    /// All that HELP lists, in its order.
    pub const NAMES: [(&'static str, Self); 27] = [
        ("HELP", Self::Help),
        ("CONFIG", Self::Config),
        ("DATABASES", Self::Databases),
        ("POOLS", Self::Pools),
        ("CLIENTS", Self::Clients),
        ("SERVERS", Self::Servers),
        ("USERS", Self::Users),
        ("VERSION", Self::Version),
        ("STATE", Self::State),
        ("WAITS", Self::Waits),
        ("LISTENERS", Self::Listeners),
        ("FDS", Self::Fds),
        ("SOCKETS", Self::Sockets),
        ("ACTIVE_SOCKETS", Self::ActiveSockets),
        ("LISTS", Self::Lists),
        ("MEM", Self::Mem),
        ("PEERS", Self::Peers),
        ("PEER_POOLS", Self::PeerPools),
        ("DNS_HOSTS", Self::DnsHosts),
        ("DNS_ZONES", Self::DnsZones),
        ("STATS", Self::Stats),
        ("STATS_TOTALS", Self::StatsTotals),
        ("STATS_AVERAGES", Self::StatsAverages),
        ("TOTALS", Self::Totals),
        ("SECONDARIES", Self::Secondaries),
        ("REPLICATION", Self::Replication),
        ("DIVERGENCE", Self::Divergence),
    ];

    /// Finds what is called so, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let known = Self::NAMES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, show)| show).or_else(|| Parameter::named(name).map(Self::Parameter))
    }

    /// Returns its columns; none for what is told in another way.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Fds | Self::Help => &[],
            Self::Clients | Self::Servers => columns::CLIENTS,
            Self::Sockets | Self::ActiveSockets => columns::SOCKETS,
            Self::Config => columns::CONFIG,
            Self::Databases => columns::DATABASES,
            Self::Divergence => columns::DIVERGENCE,
            Self::DnsHosts => columns::DNS_HOSTS,
            Self::DnsZones => columns::DNS_ZONES,
            Self::Listeners => columns::LISTENERS,
            Self::Lists => columns::LISTS,
            Self::Mem => columns::MEM,
            Self::PeerPools => columns::PEER_POOLS,
            Self::Peers => columns::PEERS,
            Self::Replication => columns::REPLICATION,
            Self::Secondaries => columns::SECONDARIES,
            Self::Pools => columns::POOLS,
            Self::State => columns::STATE,
            Self::Stats => columns::STATS,
            Self::StatsAverages => columns::STATS_AVERAGES,
            Self::StatsTotals => columns::STATS_TOTALS,
            Self::Totals => columns::TOTALS,
            Self::Users => columns::USERS,
            Self::Version => columns::VERSION,
            Self::Waits => columns::WAITS,
            Self::Parameter(parameter) => parameter.columns(),
        }
    }
}
