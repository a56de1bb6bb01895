//! A worker's share of one pool.

use std::collections::HashMap;
use std::sync::Arc;

use super::backend::Backend;
use super::gates::Passage;
use super::mailbox::Failed;
use super::millis;
use super::session::Session;
use super::slab::Key;
use crate::backend::params::ParamSet;
use crate::backend::statements::Scope;
use crate::config::{PoolMode, PoolSettings};
use crate::fault::Fault;
use crate::metrics::cells::Cells;
use crate::pool::definitions::Definitions;
use crate::pool::slots::{Order, Slots};
use crate::pool::spec::{PoolNumber, Spec};
use crate::session::front::StatementRules;

/// Most combinations of startup parameters whose canonical form is remembered. LIMIT.
const GREETINGS_MAX: usize = 1000;

/// The last backend could not be opened.
#[derive(Debug)]
pub struct Failure {
    /// What clients are told while no backend is left.
    pub fault: Fault,
    /// Whether there is hope.
    pub failed: Failed,
    /// Since when no server would do, in the common milliseconds.
    pub lost_since_ms: u64,
    /// No attempt before this time, in the worker's milliseconds.
    pub retry_at_ms: u64,
    /// How long that was after the last attempt.
    pub back_off_ms: u64,
    /// What logins had taught us by then: [`Spec::lessons`].
    pub lessons: u64,
}

/// Returns the counters of a pool, apart from the rest of the worker.
#[inline]
pub fn cells_of(pools: &mut [Option<Pool>], number: PoolNumber) -> Option<&mut Cells> {
    let pool = pools.get_mut(usize::try_from(number.0).ok()?)?.as_mut()?;
    Some(&mut pool.cells)
}

/// Another worker whose clients starve.
#[derive(Debug, Clone, Copy)]
pub struct Beggar {
    /// Which one.
    pub worker: usize,
    /// How long its first client waits, in the common milliseconds.
    pub since_ms: u64,
}

/// One worker's share of one pool.
#[derive(Debug)]
pub struct Pool {
    /// What it is.
    pub spec: Arc<Spec>,
    /// Its settings, as of the last reload.
    pub settings: Arc<PoolSettings>,
    /// How definitions of its clients are treated, as of the last reload.
    pub definitions: Option<Arc<Definitions>>,
    /// Which of the worker's statements are its own.
    pub scope: Scope,
    /// Who has what, and who waits.
    pub slots: Slots<Key<Session>, Key<Backend>>,
    /// Idle backends that are being checked for a waiter.
    pub checking: usize,
    /// Why the last backend could not be opened.
    pub failure: Option<Failure>,
    /// A worker that asked for a backend of ours.
    pub beggar: Option<Beggar>,
    /// When we last asked other workers, in the worker's milliseconds.
    pub begged_ms: u64,
    /// How its gates stood when we looked last.
    pub passage: Passage,
    /// How many sessions of this worker use it.
    pub sessions: usize,
    /// What was done so far; apart, because the rest is small.
    pub cells: Box<Cells>,
    /// What servers said to a fresh session when `greetings` were learnt.
    base: Arc<ParamSet>,
    /// Startup parameters → what the server makes of them.
    greetings: HashMap<Arc<ParamSet>, Arc<ParamSet>>,
}

impl Pool {
    /// Starts with nothing.
    pub fn new(spec: Arc<Spec>, now_us: u64) -> Self {
        let passage = match (spec.is_removed(), spec.is_paused()) {
            (true, _) => Passage::Removed,
            (false, true) => Passage::Paused { since_us: now_us },
            (false, false) => Passage::Open,
        };
        Self {
            passage,
            settings: spec.settings(),
            definitions: spec.definitions(),
            scope: Scope::fresh(),
            spec,
            slots: Slots::default(),
            checking: 0,
            failure: None,
            beggar: None,
            begged_ms: 0,
            sessions: 0,
            cells: Box::default(),
            base: Arc::default(),
            greetings: HashMap::new(),
        }
    }

    /// How its clients' statements are treated.
    pub fn statement_rules(&self) -> StatementRules {
        match (self.settings.mode, self.settings.max_prepared_statements) {
            (PoolMode::Session, _) => StatementRules::Pass,
            (PoolMode::Transaction | PoolMode::Statement, 0) => StatementRules::Unnamed,
            (PoolMode::Transaction | PoolMode::Statement, limit) => {
                StatementRules::Rename { limit: usize::try_from(limit).unwrap_or(usize::MAX) }
            }
        }
    }

    /// Says whether no backend may be asked for yet, because the last could not be opened. What a
    /// login has taught us since may be just what was missing.
    pub fn is_backing_off(&self, now_ms: u64) -> bool {
        self.last_failure().is_some_and(|failure| now_ms < failure.retry_at_ms)
    }

    /// Returns the last failure, unless there is something else to log in with since.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.lessons == self.spec.lessons())
    }

    /// Says whether clients that need a backend wait for one although none could be opened.
    pub fn holds_waiters(&self, now_ms: u64) -> bool {
        let Some(failure) = &self.failure else { return false };
        match failure.failed {
            Failed::Refused => false,
            Failed::Starting => true,
            Failed::Lost => self
                .settings
                .failover_timeout
                .is_some_and(|limit| now_ms < failure.lost_since_ms.saturating_add(millis(limit))),
        }
    }

    /// Which idle backend goes first.
    pub fn order(&self) -> Order {
        if self.settings.server_round_robin { Order::OldestFirst } else { Order::NewestFirst }
    }

    /// Returns what the server makes of these startup parameters, if that is known. Whatever was
    /// known of a server that says something else to fresh sessions is forgotten.
    pub fn canonical(
        &mut self,
        base: &Arc<ParamSet>,
        wanted: &Arc<ParamSet>,
    ) -> Option<Arc<ParamSet>> {
        if *self.base != **base {
            self.greetings.clear();
            self.base = Arc::clone(base);
        }
        if **base == **wanted {
            return Some(Arc::clone(wanted));
        }
        self.greetings.get(wanted).cloned()
    }

    /// Remembers what the server made of startup parameters.
    pub fn learn_canonical(&mut self, wanted: Arc<ParamSet>, canonical: Arc<ParamSet>) {
        if self.greetings.len() >= GREETINGS_MAX {
            self.greetings.clear();
        }
        self.greetings.insert(wanted, canonical);
    }
}
