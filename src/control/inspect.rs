//! What there is: databases, pools, clients, servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Control;
use crate::config::{ANY_DATABASE, Config, Database, PoolSettings};
use crate::pool::registry::{DatabaseUse, UserUse};
use crate::pool::spec::Spec;
use crate::worker::{ClientReport, ServerReport, ToWorker};

/// All clients and backends of all workers.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Clients that have logged in.
    pub clients: Vec<ClientReport>,
    /// Backends that are open.
    pub servers: Vec<ServerReport>,
}

/// One database that clients can ask for, or have asked for.
#[derive(Debug, Clone)]
pub struct DatabaseReport {
    /// As clients call it.
    pub name: String,
    /// What the configuration says of it; `None` if a reload has removed it and clients are left.
    pub entry: Option<Database>,
    /// Whether `"*"` made it.
    pub is_auto: bool,
    /// Backends that exist or are on their way.
    pub connections: u32,
    /// `max_db_connections`; 0 means no bound.
    pub connections_max: u32,
    /// Clients that have logged in.
    pub clients: u32,
    /// Whether PAUSE or KILL holds.
    pub is_paused: bool,
    /// Whether DISABLE holds.
    pub is_disabled: bool,
}

/// One pool.
#[derive(Debug, Clone)]
pub struct PoolInfo {
    /// What it is.
    pub spec: Arc<Spec>,
    /// Its settings.
    pub settings: Arc<PoolSettings>,
    /// Backends that exist or are on their way.
    pub connections: u32,
    /// Clients that have logged in.
    pub clients: u32,
    /// Whether PAUSE or KILL holds.
    pub is_paused: bool,
}

impl PoolInfo {
    /// Says whether no server would do when one was asked for last.
    pub fn is_lost(&self) -> bool {
        self.spec.roster.lost_since().is_some()
    }
}

/// One user: those with a section of their own, and those who have a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserReport {
    /// As clients log in, and as backends do.
    pub name: String,
    /// Backends that log in with this name.
    pub connections: u32,
    /// `max_user_connections`; 0 means no bound.
    pub connections_max: u32,
    /// Clients that have logged in with this name.
    pub clients: u32,
}

impl Control {
    /// Asks all workers what they have.
    ///
    /// It is no snapshot: who comes or goes meanwhile may be missing or be in it. Cancel safe: yes.
    pub async fn list(&self) -> Inventory {
        let mut inventory = Inventory::default();
        for worker in &self.workers {
            let mut from = Some(0);
            while let Some(at) = from {
                let (reply, page) = oneshot::channel();
                // A worker that has ended has nobody.
                if worker.send(ToWorker::List { from: at, reply }).await.is_err() {
                    break;
                }
                let Ok(page) = page.await else { break };
                inventory.clients.extend(page.clients);
                inventory.servers.extend(page.servers);
                from = page.next;
            }
        }
        inventory
    }

    /// Returns all databases, by name; `"*"` is not one of them.
    pub fn databases(&self) -> Vec<DatabaseReport> {
        let config = self.config();
        let mut used = self.registry.databases();
        let mut reports = BTreeMap::new();
        for (name, entry) in config.databases.iter().filter(|(name, _)| *name != ANY_DATABASE) {
            let known = used.remove(name);
            reports
                .insert(name.clone(), database(&config, name, Some(entry), known.as_ref(), false));
        }
        for (name, known) in used {
            let entry = config.database(&name).filter(|_| !known.gate.is_removed());
            let is_auto = entry.is_some();
            reports.insert(name.clone(), database(&config, &name, entry, Some(&known), is_auto));
        }
        reports.into_values().collect()
    }

    /// Returns all pools, by database and user.
    pub fn pools(&self) -> Vec<PoolInfo> {
        let mut specs = self.registry.pools(None);
        specs.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
        let info = |spec: Arc<Spec>| PoolInfo {
            settings: spec.settings(),
            connections: spec.ledger.pool().count(),
            clients: spec.clients(),
            is_paused: spec.is_paused(),
            spec,
        };
        specs.into_iter().map(info).collect()
    }

    /// Returns all users, by name.
    pub fn users(&self) -> Vec<UserReport> {
        let config = self.config();
        let mut used = self.registry.users();
        let listed = config.general.auth.auth_file.users().keys();
        for name in config.users.keys().chain(listed) {
            used.entry(name.clone()).or_default();
        }
        let report = |(name, known): (String, UserUse)| UserReport {
            connections: known.connections,
            connections_max: config.max_user_connections(&name).unwrap_or(0),
            clients: known.clients,
            name,
        };
        used.into_iter().map(report).collect()
    }

    /// Says whether PAUSE of everything holds.
    pub fn is_paused(&self) -> bool {
        self.registry.pooler().is_paused()
    }

    /// Says whether SUSPEND holds.
    pub fn is_suspended(&self) -> bool {
        self.suspension.is_paused()
    }
}

fn database(
    config: &Config,
    name: &str,
    entry: Option<&Database>,
    known: Option<&DatabaseUse>,
    is_auto: bool,
) -> DatabaseReport {
    let limit = entry.and_then(|entry| config.max_db_connections(entry));
    DatabaseReport {
        name: name.to_owned(),
        entry: entry.cloned(),
        is_auto,
        connections: known.map_or(0, |known| known.bound.count()),
        connections_max: limit.unwrap_or(0),
        clients: known.map_or(0, |known| known.clients),
        is_paused: known.is_some_and(|known| known.gate.is_paused()),
        is_disabled: known.is_some_and(|known| known.gate.is_disabled()),
    }
}
