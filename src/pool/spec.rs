//! What a pool is: shared by the control plane and all workers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::definitions::{Definitions, Seal};
use super::gate::Gate;
use super::ledger::{Bound, Ledger};
use super::roster::Roster;
use crate::auth::scram::DerivedKeys;
use crate::auth::{Credentials, Learned};
use crate::backend::params::{Param, ParamSet};
use crate::config::PoolSettings;

/// Numbers a pool; the same in all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolNumber(pub u32);

/// What servers of a pool say to a fresh session.
#[derive(Debug)]
pub struct Welcome {
    /// What it wants its clients to know: whole messages.
    pub notices: Box<[u8]>,
    /// Reported facts about the server.
    pub facts: Vec<Param>,
    /// The tracked parameters before any client changed them.
    pub base: Arc<ParamSet>,
}

/// The gates in front of a pool.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// Of its database.
    pub database: Arc<Gate>,
    /// Of all databases.
    pub pooler: Arc<Gate>,
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
    /// The servers of its database.
    pub roster: Arc<Roster>,
    /// Its clients that are pinned to a backend, or may be.
    pub pinned: Arc<Bound>,
    gates: Gates,
    clients: AtomicU32,
    settings: ArcSwap<PoolSettings>,
    /// Counts changes that make existing backends useless: another server, another login.
    generation: AtomicU64,
    learned: Mutex<Option<Learned>>,
    /// Counts what was learned and not known before.
    lessons: AtomicU64,
    derived: Arc<DerivedKeys>,
    seal: Arc<Seal>,
    /// As of the backend opened last, by whichever worker.
    welcome: ArcSwapOption<Welcome>,
}

/// What new settings do to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Its backends can go on.
    Settings,
    /// Its backends must be replaced.
    Backends,
}

impl Change {
    /// Compares settings.
    pub fn between(old: &PoolSettings, new: &PoolSettings) -> Self {
        if old == new {
            return Self::None;
        }
        let is_same_backend = is_same_server(old, new)
            && old.password == new.password
            && old.tls == new.tls
            && old.mode == new.mode
            && (old.max_prepared_statements == 0) == (new.max_prepared_statements == 0);
        if is_same_backend { Self::Settings } else { Self::Backends }
    }
}

/// Says whether backends may go on: some server is in both lists. Those to the others go by their
/// origin.
fn is_same_server(old: &PoolSettings, new: &PoolSettings) -> bool {
    old.servers.iter().any(|server| new.servers.contains(server))
        && old.dbname == new.dbname
        && old.user == new.user
}

impl Spec {
    /// Makes a pool with its first settings.
    pub fn new(
        number: PoolNumber,
        (database, user): (&str, &str),
        settings: PoolSettings,
        ledger: Arc<Ledger>,
        roster: Arc<Roster>,
        shared: (Gates, Arc<Seal>),
    ) -> Self {
        let (gates, seal) = shared;
        Self {
            number,
            database: database.to_owned(),
            user: user.to_owned(),
            ledger,
            roster,
            pinned: Arc::new(Bound::new(settings.max_pinned_connections)),
            gates,
            clients: AtomicU32::new(0),
            settings: ArcSwap::from_pointee(settings),
            generation: AtomicU64::new(0),
            learned: Mutex::new(None),
            lessons: AtomicU64::new(0),
            derived: Arc::default(),
            seal,
            welcome: ArcSwapOption::empty(),
        }
    }

    /// Returns the gate of its database.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gates.database
    }

    /// Says whether its clients may not have backends.
    pub fn is_paused(&self) -> bool {
        self.gates.database.is_paused() || self.gates.pooler.is_paused()
    }

    /// Says whether the configuration has no such database any more.
    pub fn is_removed(&self) -> bool {
        self.gates.database.is_removed()
    }

    /// Waits until a gate opens or closes, or another generation begins.
    ///
    /// A change behind this call is not missed, even if it comes before the future is polled. Cancel
    /// safe: yes.
    pub fn changed(&self) -> impl Future<Output = ()> {
        let (database, pooler) = (self.gates.database.changed(), self.gates.pooler.changed());
        async move {
            tokio::select! {
                () = database => {}
                () = pooler => {}
            }
        }
    }

    /// Returns how many clients have logged in.
    pub fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    /// Returns the settings in force.
    pub fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    /// Returns how definitions of its clients are treated, if they are looked for.
    pub fn definitions(&self) -> Option<Arc<Definitions>> {
        let settings = self.settings();
        let rules = settings.definitions.as_ref()?;
        Some(Arc::new(Definitions::new(rules, Arc::clone(&self.seal))))
    }

    /// Returns the generation of backends that is current.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes all backends that exist useless.
    pub fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.gates.database.touch();
    }

    /// Puts new settings in force.
    pub fn update(&self, settings: PoolSettings) -> Change {
        let old = self.settings();
        let change = Change::between(&old, &settings);
        if change == Change::None {
            return change;
        }
        if !is_same_server(&old, &settings) {
            // Another server may have another version, and other defaults.
            self.welcome.store(None);
        }
        self.ledger.pool().set_limit(Some(settings.size));
        self.pinned.set_limit(settings.max_pinned_connections);
        self.settings.store(Arc::new(settings));
        if change == Change::Backends {
            self.begin_generation();
        }
        change
    }

    /// Returns what servers say to a fresh session; `None` before the first has.
    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        self.welcome.load_full()
    }

    /// Keeps what a server said to a fresh session.
    pub fn set_welcome(&self, welcome: Welcome) {
        self.welcome.store(Some(Arc::new(welcome)));
    }

    /// Corrects what a fresh session is told about the server: one has become something else.
    pub fn set_fact(&self, name: &[u8], value: &[u8]) {
        self.welcome.rcu(|welcome| {
            let welcome = welcome.as_ref()?;
            let mut facts = welcome.facts.clone();
            if let Some(fact) = facts.iter_mut().find(|(known, _)| **known == *name) {
                fact.1 = value.into();
            }
            let (notices, base) = (welcome.notices.clone(), Arc::clone(&welcome.base));
            Some(Arc::new(Welcome { notices, facts, base }))
        });
    }

    /// Keeps what a client's login taught us.
    pub fn learn(&self, learned: Learned) {
        let mut known = self.learned();
        if known.as_ref() != Some(&learned) {
            *known = Some(learned);
            self.lessons.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Forgets what a login taught us, because the server does not take it any more; says whether
    /// nobody has taught us something else meanwhile.
    pub fn unlearn(&self, refused: &Learned) -> bool {
        let mut known = self.learned();
        let is_known = known.as_ref() == Some(refused);
        if is_known {
            *known = None;
        }
        is_known
    }

    /// Returns how often logins have taught us something else than before.
    pub fn lessons(&self) -> u64 {
        self.lessons.load(Ordering::Acquire)
    }

    /// Returns what there is to log in with at the server.
    pub fn credentials(&self) -> Credentials {
        let settings = self.settings();
        // What a client proved for its own name opens nothing for another user.
        let learned = if settings.forced_user { None } else { self.learned().clone() };
        let derived = Arc::clone(&self.derived);
        Credentials { stored: settings.password.clone(), learned, derived }
    }
}

impl Spec {
    fn learned(&self) -> MutexGuard<'_, Option<Learned>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of a pool; counted out when it is dropped.
#[derive(Debug)]
pub struct Seat {
    spec: Arc<Spec>,
}

impl Seat {
    /// Counts a client in.
    pub fn new(spec: &Arc<Spec>) -> Self {
        // Relaxed: the count guards no other memory.
        spec.clients.fetch_add(1, Ordering::Relaxed);
        Self { spec: Arc::clone(spec) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.spec.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
