//! What is configured, and what its names stand for: SHOW DATABASES, USERS, LISTS, CONFIG, DNS_HOSTS.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rows::{OWN_DATABASE, balance, flag, int, mode, owned, text};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::config::{Database, General, PoolMode};
use crate::control::{DatabaseReport, UserReport};
use crate::wire::rows::Value;
use crate::worker::ClientState;

impl Admin {
    pub(super) fn list_databases(&self) -> Rows {
        let config = self.control.config();
        let reports = self.control.databases();
        let databases = reports.iter().map(|report| of_database(report, &config.general));
        let mut rows: Vec<(String, Vec<Value>)> = databases.collect();
        rows.push((OWN_DATABASE.to_owned(), self.own_database(&config.general)));
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// The console itself, as PgBouncer lists it.
    fn own_database(&self, general: &General) -> Vec<Value> {
        vec![
            text(OWN_DATABASE),
            Value::Null,
            int(general.listen_port),
            text(OWN_DATABASE),
            text(OWN_DATABASE),
            int(2),
            int(0),
            int(0),
            mode(PoolMode::Statement),
            int(0),
            int(0),
            flag(false),
            flag(false),
            int(0),
            int(0),
            Value::Null,
            int(0),
            int(self.seats.occupants().len()),
            flag(false),
            Value::Null,
            Value::Null,
            int(0),
        ]
    }

    pub(super) fn list_users(&self) -> Rows {
        let config = self.control.config();
        let row = |report: UserReport| {
            let user = config.users.get(&report.name);
            let number = |number: Option<u32>| number.map_or(Value::Null, int);
            vec![
                owned(&report.name),
                user.and_then(|user| user.pool_mode).map_or(Value::Null, mode),
                number(user.and_then(|user| user.pool_size)),
                number(user.and_then(|user| user.reserve_pool_size)),
                int(report.connections_max),
                int(report.connections),
                int(0),
                int(report.clients),
            ]
        };
        self.control.users().into_iter().map(row).collect()
    }

    pub(super) fn list_names(&self) -> Rows {
        let ttl = self.control.config().general.dns_max_ttl;
        let row = |(name, looked_up, addresses): (String, Option<Instant>, Arc<[IpAddr]>)| {
            let left = looked_up.map_or(Duration::ZERO, |at| ttl.saturating_sub(at.elapsed()));
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            vec![owned(name), int(left.as_secs()), owned(addresses.join(","))]
        };
        self.control.names().into_iter().map(row).collect()
    }

    pub(super) async fn list_lists(&self) -> Rows {
        let inventory = self.control.list().await;
        let is_login = |state| state == ClientState::WaitingLogin;
        let logins = inventory.clients.iter().filter(|client| is_login(client.state)).count();
        let consoles = self.seats.occupants().len();
        let clients = inventory.clients.len() + consoles - logins.min(inventory.clients.len());
        let lists = [
            // With the console, as PgBouncer counts.
            ("databases", self.control.databases().len() + 1),
            ("users", self.control.users().len()),
            ("pools", self.control.pools().len() + 1),
            // Nothing is kept for clients and backends that are not there.
            ("free_clients", 0),
            ("used_clients", clients),
            ("login_clients", logins),
            ("free_servers", 0),
            ("used_servers", inventory.servers.len()),
            ("dns_names", self.control.names().len()),
            ("dns_zones", 0),
            ("dns_queries", 0),
            ("dns_pending", 0),
            // Later versions.
            ("peers", 0),
            ("peer_pools", 0),
        ];
        lists.into_iter().map(|(name, items)| vec![text(name), int(items)]).collect()
    }

    pub(super) fn list_config(&self) -> Rows {
        let config = self.control.config();
        let defaults = General::default().entries();
        let row = |entry: crate::config::Entry| {
            let default = defaults.iter().find(|default| default.key == entry.key);
            vec![
                text(entry.key),
                owned(entry.value),
                default.map_or(Value::Null, |default| owned(&default.value)),
                text(if entry.is_changeable { "yes" } else { "no" }),
            ]
        };
        config.general.entries().into_iter().map(row).collect()
    }
}

fn of_database(report: &DatabaseReport, general: &General) -> (String, Vec<Value>) {
    let nothing = Database::default();
    let entry = report.entry.as_ref().unwrap_or(&nothing);
    let pool = &general.pool;
    let hosts: Vec<String> = entry.host.iter().map(ToString::to_string).collect();
    let servers: Vec<String> = entry.servers().iter().map(ToString::to_string).collect();
    // One for all of them, or the first.
    let port = entry.port.first().copied().unwrap_or_default();
    let failover = entry.failover_timeout.unwrap_or(pool.failover_timeout);
    let reserve = entry.reserve_pool_size.unwrap_or(pool.reserve_pool_size);
    let lifetime = entry.server_lifetime.unwrap_or(pool.server_lifetime);
    let row = vec![
        owned(&report.name),
        owned(hosts.join(",")),
        int(port),
        owned(entry.dbname.as_ref().unwrap_or(&report.name)),
        entry.user.as_ref().map_or(Value::Null, owned),
        int(entry.pool_size.unwrap_or(pool.default_pool_size)),
        int(entry.min_pool_size.unwrap_or(pool.min_pool_size)),
        int(reserve),
        entry.pool_mode.map_or(Value::Null, mode),
        int(report.connections_max),
        int(report.connections),
        flag(report.is_paused),
        flag(report.is_disabled),
        int(reserve),
        int(lifetime.as_secs()),
        balance(entry.host.len(), entry.load_balance_hosts),
        // There is no such bound.
        int(0),
        int(report.clients),
        flag(report.is_auto),
        owned(servers.join(",")),
        text(entry.target_session_attrs.as_str()),
        int(failover.as_secs()),
    ];
    (report.name.clone(), row)
}
