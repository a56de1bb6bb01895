//! All pools: (database, user) → [`Spec`], and what their databases and users share. Control plane
//! only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dead::DeadServers;
use super::definitions::Seals;
use super::gate::Gate;
use super::ledger::{Bound, Ledger};
use super::roster::{Plan, Roster};
use super::spec::{Change, Gates, PoolNumber, Spec};
use crate::config::{self, Config, PoolSettings, Server};
use crate::log::Plain;

/// All pools that a client has asked for.
#[derive(Debug, Default)]
pub struct Registry {
    // Locked for a lookup at each login, at reload and by commands; never across a wait.
    tables: Mutex<Tables>,
    pooler: Arc<Gate>,
    seals: Seals,
    /// Servers that nobody reaches, of whatever database.
    pub dead: DeadServers,
}

#[derive(Debug, Default)]
struct Tables {
    pools: HashMap<(String, String), Entry>,
    databases: HashMap<String, Database>,
    /// By the name at the server.
    users: HashMap<String, Arc<Bound>>,
    next_number: u32,
    /// Numbers that no worker knows any more.
    free_numbers: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    spec: Arc<Spec>,
    /// Since when it has neither clients nor backends, as far as anybody has looked.
    unused_since: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Database {
    bound: Arc<Bound>,
    gate: Arc<Gate>,
    roster: Arc<Roster>,
}

/// What becomes of one pool when another configuration comes into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolChange {
    /// Its database.
    pub database: String,
    /// Its user.
    pub user: String,
    /// What becomes of it.
    pub effect: PoolEffect,
}

/// What becomes of a pool whose settings change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolEffect {
    /// It keeps its backends.
    Updated,
    /// Its backends are replaced as they become free.
    Recycled,
    /// Its database is gone: its clients are closed when they have nothing under way.
    Removed,
}

/// What the registry knows of one database.
#[derive(Debug, Clone)]
pub struct DatabaseUse {
    /// Its backends, against `max_db_connections`.
    pub bound: Arc<Bound>,
    /// Its gate.
    pub gate: Arc<Gate>,
    /// Its servers.
    pub roster: Arc<Roster>,
    /// Its clients.
    pub clients: u32,
}

/// What the registry knows of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserUse {
    /// Backends that log in with this name.
    pub connections: u32,
    /// Clients that have logged in with this name.
    pub clients: u32,
}

impl Registry {
    /// Returns the secrets that prove definitions.
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// Returns the gate of everything.
    pub fn pooler(&self) -> &Arc<Gate> {
        &self.pooler
    }

    /// Returns the gate of a database that is configured by its own name or that has been used.
    pub fn gate(&self, config: &Config, database: &str) -> Option<Arc<Gate>> {
        let mut tables = self.tables();
        let is_known =
            config.databases.contains_key(database) || tables.databases.contains_key(database);
        is_known.then(|| tables.database(config, database).gate)
    }

    /// Says whether nobody may have a connection to a database: PAUSE of it, or of everything.
    pub fn is_paused(&self, database: &str) -> bool {
        let is_paused = |known: &Database| known.gate.is_paused();
        self.pooler.is_paused() || self.tables().databases.get(database).is_some_and(is_paused)
    }

    /// Waits until a database is not paused. Cancel safe: yes.
    pub async fn until_open(&self, database: &str) {
        loop {
            let known = self.tables().databases.get(database).map(|known| Arc::clone(&known.gate));
            let gate = known.unwrap_or_default();
            let (of_database, of_all) = (gate.changed(), self.pooler.changed());
            if !gate.is_paused() && !self.pooler.is_paused() {
                return;
            }
            tokio::select! {
                () = of_database => {}
                () = of_all => {}
            }
        }
    }

    /// Says whether new clients of a database are refused by DISABLE.
    pub fn is_disabled(&self, database: &str) -> bool {
        self.tables().databases.get(database).is_some_and(|known| known.gate.is_disabled())
    }

    /// Returns the pool of (`database`, `user`); makes it if this is the first client of it.
    ///
    /// `None` if the configuration has no such database. The configuration is asked for while the
    /// tables are locked, so that no pool has settings that a reload has replaced meanwhile.
    pub fn pool(
        &self,
        config: impl FnOnce() -> Arc<Config>,
        database: &str,
        user: &str,
    ) -> Option<Arc<Spec>> {
        let mut tables = self.tables();
        let config = &*config();
        let settings = config.pool_settings(database, user)?;
        let key = (database.to_owned(), user.to_owned());
        if let Some(known) = tables.pools.get_mut(&key) {
            known.unused_since = None;
            return (!known.spec.is_removed()).then(|| Arc::clone(&known.spec));
        }
        if !config.databases.contains_key(database) && !tables.databases.contains_key(database) {
            tracing::info!(database, "registered new auto-database: db={}", Plain(database));
        }
        let shared = tables.database(config, database);
        let user_bound = tables.user(&settings);
        let roster = shared.roster;
        let gates = Gates { database: shared.gate, pooler: Arc::clone(&self.pooler) };
        let ledger = Arc::new(Ledger::new(settings.size, shared.bound, user_bound));
        let number = tables.take_number();
        let shared = (gates, self.seals.of(database));
        let spec = Arc::new(Spec::new(number, (database, user), settings, ledger, roster, shared));
        tables.pools.insert(key, Entry { spec: Arc::clone(&spec), unused_since: None });
        tracing::debug!(database, user, "new pool");
        Some(spec)
    }

    /// Returns all pools, or those of one database.
    pub fn pools(&self, database: Option<&str>) -> Vec<Arc<Spec>> {
        let tables = self.tables();
        let specs = tables.pools.values().map(|entry| &entry.spec);
        specs.filter(|spec| database.is_none_or(|name| spec.database == name)).cloned().collect()
    }

    /// Returns all databases that have been used, or that a command was about.
    pub fn databases(&self) -> BTreeMap<String, DatabaseUse> {
        let tables = self.tables();
        let known = tables.databases.iter().map(|(name, Database { bound, gate, roster })| {
            let (bound, gate) = (Arc::clone(bound), Arc::clone(gate));
            (name.clone(), DatabaseUse { bound, gate, roster: Arc::clone(roster), clients: 0 })
        });
        let mut databases: BTreeMap<_, _> = known.collect();
        for entry in tables.pools.values() {
            if let Some(database) = databases.get_mut(&entry.spec.database) {
                database.clients += entry.spec.clients();
            }
        }
        databases
    }

    /// Returns all users who have a pool, and all that backends log in with.
    pub fn users(&self) -> BTreeMap<String, UserUse> {
        let tables = self.tables();
        let mut users: BTreeMap<String, UserUse> = BTreeMap::new();
        for (name, bound) in &tables.users {
            users.entry(name.clone()).or_default().connections = bound.count();
        }
        for entry in tables.pools.values() {
            users.entry(entry.spec.user.clone()).or_default().clients += entry.spec.clients();
        }
        users
    }

    /// Says what [`reload`](Self::reload) would do; pools that do not change are left out.
    pub fn changes(&self, config: &Config) -> Vec<PoolChange> {
        let tables = self.tables();
        let mut changes: Vec<_> = tables
            .pools
            .values()
            .filter_map(|Entry { spec, .. }| {
                let effect = effect(spec, config)?;
                let (database, user) = (spec.database.clone(), spec.user.clone());
                Some(PoolChange { database, user, effect })
            })
            .collect();
        changes.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
        changes
    }

    /// Puts the settings of a new configuration in force.
    pub fn reload(&self, config: &Config) {
        let mut tables = self.tables();
        let mut moved = Vec::new();
        for (name, database) in &tables.databases {
            let entry = config.database(name);
            database.gate.set_removed(entry.is_none());
            if let Some(entry) = entry {
                database.bound.set_limit(config.max_db_connections(entry));
                if database.roster.follow(Plan::from(entry), &self.dead) {
                    moved.push(Arc::clone(&database.gate));
                }
            }
        }
        let entries = config.databases.values();
        let servers: BTreeSet<Server> = entries.flat_map(config::Database::servers).collect();
        self.dead.keep_only(|server| servers.contains(server));
        for (name, bound) in &tables.users {
            bound.set_limit(config.max_user_connections(name));
        }
        let specs: Vec<Arc<Spec>> =
            tables.pools.values().map(|entry| Arc::clone(&entry.spec)).collect();
        for spec in specs {
            let Some(settings) = config.pool_settings(&spec.database, &spec.user) else { continue };
            if settings.user != spec.settings().user {
                spec.ledger.set_user(tables.user(&settings));
            }
            spec.update(settings);
        }
        // Whatever is being opened for them begins anew.
        for gate in &moved {
            gate.touch();
        }
    }

    /// Returns the pools that nobody has used for `timeout`, or whose database is gone and that
    /// nobody uses. `None` keeps the others for ever.
    pub fn unused(&self, timeout: Option<Duration>, now: Instant) -> Vec<PoolNumber> {
        let mut tables = self.tables();
        let mut unused = Vec::new();
        for entry in tables.pools.values_mut() {
            entry.note_use(now);
            if entry.is_over(timeout, now) {
                unused.push(entry.spec.number);
            }
        }
        unused
    }

    /// Forgets those pools, as far as no worker knows them any more, and databases and users that
    /// have no pools; returns how many pools that were.
    ///
    /// A database that is paused or disabled is remembered.
    pub fn sweep(&self, config: &Config, timeout: Option<Duration>, now: Instant) -> usize {
        let mut tables = self.tables();
        let tables = &mut *tables;
        let mut freed = Vec::new();
        tables.pools.retain(|_, entry| {
            entry.note_use(now);
            // Whoever has it besides us may use it again: a worker, or a message on its way.
            let is_over = entry.is_over(timeout, now) && Arc::strong_count(&entry.spec) == 1;
            if is_over {
                freed.push(entry.spec.number.0);
            }
            !is_over
        });
        let count = freed.len();
        tables.free_numbers.append(&mut freed);
        let used: BTreeSet<&str> =
            tables.pools.values().map(|entry| entry.spec.database.as_str()).collect();
        tables.databases.retain(|name, database| {
            let gate = &database.gate;
            used.contains(name.as_str())
                || config.databases.contains_key(name)
                || (!gate.is_removed() && (gate.is_paused() || gate.is_disabled()))
        });
        tables.users.retain(|_, bound| Arc::strong_count(bound) > 1);
        count
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a configuration does to a pool.
fn effect(spec: &Spec, config: &Config) -> Option<PoolEffect> {
    let Some(settings) = config.pool_settings(&spec.database, &spec.user) else {
        return (!spec.is_removed()).then_some(PoolEffect::Removed);
    };
    match Change::between(&spec.settings(), &settings) {
        Change::None => None,
        Change::Settings => Some(PoolEffect::Updated),
        Change::Backends => Some(PoolEffect::Recycled),
    }
}

impl Entry {
    fn note_use(&mut self, now: Instant) {
        let is_used = self.spec.clients() > 0 || self.spec.ledger.pool().count() > 0;
        if is_used {
            self.unused_since = None;
        } else {
            self.unused_since.get_or_insert(now);
        }
    }

    fn is_over(&self, timeout: Option<Duration>, now: Instant) -> bool {
        let Some(since) = self.unused_since else { return false };
        self.spec.is_removed()
            || timeout.is_some_and(|timeout| now.duration_since(since) >= timeout)
    }
}

impl Tables {
    fn database(&mut self, config: &Config, name: &str) -> Database {
        let entry = config.database(name);
        let limit = entry.and_then(|entry| config.max_db_connections(entry));
        let made = || Database {
            bound: Arc::new(Bound::new(limit)),
            gate: Arc::default(),
            roster: Arc::new(Roster::new(entry.map_or_else(Plan::default, Plan::from))),
        };
        self.databases.entry(name.to_owned()).or_insert_with(made).clone()
    }

    fn user(&mut self, settings: &PoolSettings) -> Arc<Bound> {
        let made = || Arc::new(Bound::new(settings.max_user_connections));
        Arc::clone(self.users.entry(settings.user.clone()).or_insert_with(made))
    }

    fn take_number(&mut self) -> PoolNumber {
        PoolNumber(self.free_numbers.pop().unwrap_or_else(|| {
            let fresh = self.next_number;
            self.next_number += 1;
            fresh
        }))
    }
}

#[cfg(test)]
mod tests;
