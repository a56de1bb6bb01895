//! All pools: (database, user) → [`Spec`]. Control plane only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::ledger::{Bound, Ledger};
use super::spec::{PoolNumber, Spec};
use crate::config::{Config, PoolSettings};

/// All pools that a client has asked for.
#[derive(Debug, Default)]
pub struct Registry {
    // Locked for a lookup at each login and at reload; never across a wait.
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    pools: HashMap<(String, String), Arc<Spec>>,
    databases: HashMap<String, Arc<Bound>>,
    users: HashMap<String, Arc<Bound>>,
    next_number: u32,
}

impl Registry {
    /// Returns the pool of (`database`, `user`); makes it if this is the first client of it.
    ///
    /// `None` if the configuration has no such database.
    pub fn pool(&self, config: &Config, database: &str, user: &str) -> Option<Arc<Spec>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (database.to_owned(), user.to_owned());
        if let Some(known) = tables.pools.get(&key) {
            return Some(Arc::clone(known));
        }
        let settings = config.pool_settings(database, user)?;
        let number = PoolNumber(tables.next_number);
        tables.next_number += 1;
        let ledger = Arc::new(tables.ledger(database, &settings));
        let spec = Arc::new(Spec::new(number, database, user, settings, ledger));
        tables.pools.insert(key, Arc::clone(&spec));
        tracing::debug!(database, user, "new pool");
        Some(spec)
    }

    /// Puts the settings of a new configuration in force; returns how many pools changed.
    ///
    /// Pools of databases that are gone keep their settings for the clients they still have; new
    /// clients are refused at login.
    pub fn reload(&self, config: &Config) -> usize {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = 0;
        for ((database, user), spec) in &tables.pools {
            let Some(settings) = config.pool_settings(database, user) else { continue };
            spec.ledger.database().set_limit(settings.max_db_connections);
            spec.ledger.user().set_limit(settings.max_user_connections);
            changed += usize::from(spec.update(settings));
        }
        changed
    }
}

impl Tables {
    fn ledger(&mut self, database: &str, settings: &PoolSettings) -> Ledger {
        let database = self
            .databases
            .entry(database.to_owned())
            .or_insert_with(|| Arc::new(Bound::new(settings.max_db_connections)));
        let user = self
            .users
            .entry(settings.user.clone())
            .or_insert_with(|| Arc::new(Bound::new(settings.max_user_connections)));
        Ledger::new(settings.size, Arc::clone(database), Arc::clone(user))
    }
}
