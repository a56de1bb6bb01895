//! What a pool is: shared by the control plane and all workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::ledger::Ledger;
use crate::auth::{Credentials, Learned};
use crate::backend::params::{Param, ParamSet};
use crate::config::PoolSettings;

/// Numbers a pool; the same in all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolNumber(pub u32);

/// What servers of a pool say to a fresh session.
#[derive(Debug)]
pub struct Welcome {
    /// Reported facts about the server.
    pub facts: Vec<Param>,
    /// The tracked parameters before any client changed them.
    pub base: Arc<ParamSet>,
}

/// One pool: (database, user).
#[derive(Debug)]
pub struct Spec {
    /// Its number.
    pub number: PoolNumber,
    /// The database as clients call it.
    pub database: String,
    /// The user as clients log in.
    pub user: String,
    /// Its places.
    pub ledger: Arc<Ledger>,
    settings: ArcSwap<PoolSettings>,
    /// Counts changes that make existing backends useless: another server, another login.
    generation: AtomicU64,
    learned: Mutex<Option<Learned>>,
    /// As of the backend opened last, by whichever worker.
    welcome: ArcSwapOption<Welcome>,
}

impl Spec {
    /// Makes a pool with its first settings.
    pub fn new(
        number: PoolNumber,
        database: &str,
        user: &str,
        settings: PoolSettings,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            number,
            database: database.to_owned(),
            user: user.to_owned(),
            ledger,
            settings: ArcSwap::from_pointee(settings),
            generation: AtomicU64::new(0),
            learned: Mutex::new(None),
            welcome: ArcSwapOption::empty(),
        }
    }

    /// Returns the settings in force.
    pub fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    /// Returns the generation of backends that is current.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts new settings in force; says whether anything changed.
    pub fn update(&self, settings: PoolSettings) -> bool {
        let old = self.settings();
        if *old == settings {
            return false;
        }
        let is_same_server = old.host == settings.host
            && old.port == settings.port
            && old.dbname == settings.dbname
            && old.user == settings.user
            && old.password == settings.password
            && old.mode == settings.mode
            && (old.max_prepared_statements == 0) == (settings.max_prepared_statements == 0);
        self.ledger.pool().set_limit(Some(settings.size));
        self.settings.store(Arc::new(settings));
        if !is_same_server {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        true
    }

    /// Returns what servers say to a fresh session; `None` before the first has.
    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        self.welcome.load_full()
    }

    /// Keeps what a server said to a fresh session.
    pub fn set_welcome(&self, welcome: Welcome) {
        self.welcome.store(Some(Arc::new(welcome)));
    }

    /// Keeps what a client's login taught us.
    pub fn learn(&self, learned: Learned) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(learned);
    }

    /// Returns what there is to log in with at the server.
    pub fn credentials(&self) -> Credentials {
        let settings = self.settings();
        // What a client proved for its own name opens nothing for another user.
        let learned = if settings.forced_user {
            None
        } else {
            self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        Credentials { stored: settings.password.clone(), learned }
    }
}
