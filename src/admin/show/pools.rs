//! What pools do: SHOW POOLS, and who waits for whom: SHOW WAITS.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::rows::{
    OWN_DATABASE, address, balance, flag, int, mode, owned, seconds_and_micros, text,
};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::admin::clock::utc;
use crate::config::PoolMode;
use crate::control::{Inventory, PoolInfo};
use crate::metrics::cells::States;
use crate::pool::spec::PoolNumber;
use crate::wire::rows::Value;
use crate::worker::{ClientReport, ServerReport};

impl Admin {
    pub(super) async fn list_pools(&self) -> Rows {
        let reports = self.control.pool_reports().await;
        let states: BTreeMap<PoolNumber, States> =
            reports.iter().map(|report| (report.spec.number, report.states)).collect();
        let pools = self.control.pools();
        let mut rows: Vec<((String, String), Vec<Value>)> = pools
            .iter()
            .map(|pool| {
                // A pool that no worker has seen yet does nothing.
                let states = states.get(&pool.spec.number).copied().unwrap_or_default();
                let row = Row {
                    database: &pool.spec.database,
                    user: &pool.spec.user,
                    states,
                    mode: pool.settings.mode,
                    balance: balance(pool.settings.servers.len(), pool.settings.load_balance),
                    size: pool.settings.size,
                    is_paused: pool.is_paused,
                    is_lost: pool.is_lost(),
                };
                ((pool.spec.database.clone(), pool.spec.user.clone()), row.columns())
            })
            .collect();
        let consoles = u64::try_from(self.seats.occupants().len()).unwrap_or(u64::MAX);
        let own = Row {
            database: OWN_DATABASE,
            user: OWN_DATABASE,
            states: States { clients_leased: consoles, ..States::default() },
            mode: PoolMode::Statement,
            balance: Value::Null,
            size: 2,
            is_paused: false,
            is_lost: false,
        };
        rows.push(((OWN_DATABASE.to_owned(), OWN_DATABASE.to_owned()), own.columns()));
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.into_iter().map(|(_, row)| row).collect()
    }

    pub(super) async fn list_waits(&self) -> Rows {
        let inventory = self.control.list().await;
        let pools = self.control.pools();
        let port = self.control.config().general.listen_port;
        let is_suspended = self.control.is_suspended();
        let waiters = inventory.clients.iter().filter(|client| client.wait.is_some());
        let waited_for: BTreeSet<PoolNumber> = waiters.map(|client| client.spec.number).collect();
        pools
            .iter()
            .filter(|pool| waited_for.contains(&pool.spec.number))
            .flat_map(|pool| waits_of(pool, &inventory, is_suspended, port))
            .collect()
    }
}

/// One row of SHOW POOLS.
struct Row<'a> {
    database: &'a str,
    user: &'a str,
    states: States,
    mode: PoolMode,
    balance: Value,
    size: u32,
    is_paused: bool,
    is_lost: bool,
}

impl Row<'_> {
    fn columns(self) -> Vec<Value> {
        let states = self.states;
        let [wait, wait_us] = seconds_and_micros(Duration::from_micros(states.wait_longest_us));
        vec![
            owned(self.database),
            owned(self.user),
            int(states.clients_active()),
            int(states.clients_waiting),
            int(states.cancels_active),
            int(states.cancels_waiting),
            int(states.servers_active),
            int(states.servers_cancelling),
            int(states.servers_being_cancelled),
            int(states.servers_idle),
            int(states.servers_stale),
            int(states.servers_tested),
            int(states.servers_opening),
            wait,
            wait_us,
            mode(self.mode),
            self.balance,
            int(states.clients_idle),
            int(self.size),
            flag(self.is_paused),
            flag(self.is_lost),
        ]
    }
}

/// What keeps the waiters of a pool waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Paused,
    Suspended,
    PoolSize,
    DatabaseBound,
    UserBound,
    /// No server would do when one was asked for last.
    ServerLost,
    /// Nothing but the time it takes, or a server that does not let us in.
    Connecting,
}

impl Obstacle {
    fn of(pool: &PoolInfo, is_suspended: bool) -> Self {
        let ledger = &pool.spec.ledger;
        if is_suspended {
            Self::Suspended
        } else if pool.is_paused {
            Self::Paused
        } else if pool.is_lost() {
            Self::ServerLost
        } else if ledger.pool().count() >= pool.settings.size {
            Self::PoolSize
        } else if ledger.database().is_full() {
            Self::DatabaseBound
        } else if ledger.user().is_full() {
            Self::UserBound
        } else {
            Self::Connecting
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::PoolSize => "pool_size",
            Self::DatabaseBound => "max_db_connections",
            Self::UserBound => "max_user_connections",
            Self::ServerLost => "server_lost",
            Self::Connecting => "connecting",
        }
    }

    /// Says whether a backend of `server` is one that the waiters of `pool` could have.
    fn concerns(self, pool: &PoolInfo, server: &ServerReport) -> bool {
        let (own, other) = (&pool.spec, &server.spec);
        match self {
            Self::DatabaseBound => own.database == other.database,
            Self::UserBound => pool.settings.user == other.settings().user,
            Self::Paused
            | Self::Suspended
            | Self::PoolSize
            | Self::ServerLost
            | Self::Connecting => own.number == other.number,
        }
    }
}

/// Lists who waits in a pool, the first in the queue first, and then who holds what they wait for,
/// for longest first.
fn waits_of(pool: &PoolInfo, inventory: &Inventory, is_suspended: bool, port: u16) -> Rows {
    let mut waiters: Vec<(Duration, &ClientReport)> = inventory
        .clients
        .iter()
        .filter(|client| client.spec.number == pool.spec.number)
        .filter_map(|client| Some((client.wait?, client)))
        .collect();
    waiters.sort_by_key(|(wait, client)| (std::cmp::Reverse(*wait), client.id));
    let obstacle = Obstacle::of(pool, is_suspended);
    let mut holders: Vec<(Duration, &ServerReport, &'static str)> = inventory
        .servers
        .iter()
        .filter(|server| obstacle.concerns(pool, server))
        .filter_map(|server| {
            let held = server.held?;
            Some((held.since, server, held.reason.as_str()))
        })
        .collect();
    holders.sort_by_key(|(since, server, _)| (std::cmp::Reverse(*since), server.id));
    let now = SystemTime::now();
    let names = |database: &str, user: &str| [owned(database), owned(user)];
    let waiting = waiters.into_iter().map(|(wait, client)| {
        let spec = &client.spec;
        let who = who(Some(client), port);
        let mut row = names(&spec.database, &spec.user).to_vec();
        row.extend(times("waits", wait, now, obstacle.as_str()));
        row.extend(who);
        row.extend([Value::Null, Value::Null]);
        row
    });
    let holding = holders.into_iter().map(|(since, server, reason)| {
        let spec = &server.spec;
        let client = inventory.clients.iter().find(|client| Some(client.id) == server.link);
        let mut row = names(&spec.database, &spec.user).to_vec();
        row.extend(times("holds", since, now, reason));
        row.extend(who(client, port));
        row.extend([int(server.id), int(server.process)]);
        row
    });
    waiting.chain(holding).collect()
}

fn times(kind: &'static str, since: Duration, now: SystemTime, reason: &'static str) -> [Value; 4] {
    let began = now.checked_sub(since).unwrap_or(now);
    [text(kind), Value::Float(since.as_secs_f64()), owned(utc(began)), text(reason)]
}

/// A client: number, address, port, what it calls itself. Nothing if there is none.
fn who(client: Option<&ClientReport>, port: u16) -> [Value; 4] {
    let Some(client) = client else { return [const { Value::Null }; 4] };
    let [addr, port] = address(client.peer, port);
    [int(client.id), addr, port, owned(&client.application_name)]
}
