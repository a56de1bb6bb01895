//! What an operator does to the pools: pausing, killing, removing, suspending.
//!
//! The control plane changes a gate, a generation or the settings, and then tells every worker to
//! look. A pool remembers what it saw, so that checkout and check-in ask nobody.

use std::sync::Arc;

use super::Worker;
use super::backend::Backend;
use super::checkout::Growth;
use super::session::{Phase, Session};
use super::slab::Key;
use crate::metrics::labels::ServerClose;
use crate::pool::gate::Gate;
use crate::pool::spec::PoolNumber;
use crate::session::relay;

/// How a pool's gates stood when its worker looked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passage {
    /// Clients may have backends.
    #[default]
    Open,
    /// Nobody gets a backend, and none is kept.
    Paused {
        /// Since when, in the worker's microseconds.
        since_us: u64,
    },
    /// The database is gone: clients go as soon as they have nothing under way.
    Removed,
}

impl Passage {
    /// Says whether clients may have backends.
    pub fn is_open(self) -> bool {
        self == Self::Open
    }
}

impl Worker {
    /// Looks at the gates and generations of all pools.
    pub(super) fn review(&mut self) {
        self.review_suspension();
        for at in 0..self.pools.len() {
            if let Ok(number) = u32::try_from(at) {
                self.review_pool(PoolNumber(number));
            }
        }
        self.retire_old_backends();
    }

    /// Looks at the gates of a pool, and acts on what has changed.
    pub(super) fn review_pool(&mut self, number: PoolNumber) {
        let now_us = self.now_us;
        let Some(pool) = self.pool_mut(number) else { return };
        let was = pool.passage;
        let (is_removed, is_paused) = (pool.spec.is_removed(), pool.spec.is_paused());
        let is = match (is_removed, is_paused, was) {
            (true, _, _) => Passage::Removed,
            (false, true, Passage::Paused { .. }) => was,
            (false, true, Passage::Open | Passage::Removed) => Passage::Paused { since_us: now_us },
            (false, false, _) => Passage::Open,
        };
        if is == was {
            return;
        }
        pool.passage = is;
        if let Passage::Paused { since_us } = was {
            // Their time-outs stood still. Pooling point G53.
            pool.slots.postpone(now_us.saturating_sub(since_us), now_us);
        }
        match is {
            Passage::Open => {
                // What failed before may have been mended meanwhile.
                pool.failure = None;
                self.open_wanted(number, Growth::Share);
            }
            Passage::Paused { .. } => self.close_idle(number),
            Passage::Removed => {
                self.close_idle(number);
                self.send_off_pool(number);
            }
        }
        if self.is_draining {
            self.send_off_stranded(number);
        }
    }

    fn close_idle(&mut self, number: PoolNumber) {
        let Some(pool) = self.pool(number) else { return };
        let idle: Vec<Key<Backend>> = pool.slots.idle().collect();
        for key in idle {
            self.close_backend(key, ServerClose::Admin);
        }
    }

    /// Closes the clients of a pool that have nothing under way; the others are closed when they
    /// come to that.
    fn send_off_pool(&mut self, number: PoolNumber) {
        for key in self.sessions_of(number) {
            let Some(session) = self.sessions.get(key) else { continue };
            let is_over = match session.phase {
                Phase::Idle | Phase::Waiting => true,
                Phase::Greeting(ref greeting) => greeting.backend.is_none(),
                Phase::Leased(_) => self.is_between_transactions(session),
                Phase::Refusing(_) | Phase::Leaving(..) | Phase::Closing { .. } => false,
            };
            if is_over {
                self.send_off(key);
            }
        }
    }

    /// Closes clients that wait for a backend which will never come.
    pub(super) fn send_off_stranded(&mut self, number: PoolNumber) {
        if self.pool(number).is_none_or(|pool| pool.passage.is_open()) {
            return;
        }
        while let Some(waiter) = self.pool(number).and_then(|pool| pool.slots.first_waiter()) {
            self.send_off(waiter.session);
            self.leave_queue(waiter.session, number);
        }
    }

    /// Says whether a client must go as soon as it has nothing under way.
    pub(super) fn must_go(&self, session: &Session) -> bool {
        let is_removed = |pool: &super::pool::Pool| pool.passage == Passage::Removed;
        self.is_draining || self.pool(session.pool).is_some_and(is_removed)
    }

    /// Says whether a session with a lease could go now without losing anything.
    pub(super) fn is_between_transactions(&self, session: &Session) -> bool {
        let Phase::Leased(lease) = session.phase else { return false };
        self.backends.get(lease).is_some_and(|backend| {
            relay::is_at_rest(&session.front, &backend.link) && !session.is_fresh
        })
    }

    fn sessions_of(&self, number: PoolNumber) -> Vec<Key<Session>> {
        let sessions = self.sessions.range(0, self.sessions.places());
        sessions.filter(|(_, session)| session.pool == number).map(|(key, _)| key).collect()
    }

    /// Closes all clients and backends of a database, whatever they do.
    pub(super) fn kill(&mut self, gate: &Arc<Gate>) {
        // The gate is closed: nobody gets what is let go here.
        self.review();
        let pools = self.pools.iter().flatten();
        let numbers: Vec<PoolNumber> = pools
            .filter(|pool| Arc::ptr_eq(pool.spec.gate(), gate))
            .map(|pool| pool.spec.number)
            .collect();
        for number in numbers {
            for key in self.sessions_of(number) {
                self.kill_session(key);
            }
            for key in self.backends.keys() {
                if self.backends.get(key).is_some_and(|backend| backend.pool == number) {
                    self.cancel_and_forget(key);
                    self.close_backend(key, ServerClose::Admin);
                }
            }
        }
    }

    /// Closes the client of this number, with the backend it has; says whether there is one.
    pub(super) fn kill_client(&mut self, serial: u64) -> bool {
        let found = self
            .sessions
            .range(0, self.sessions.places())
            .find(|(_, session)| session.serial == serial)
            .map(|(key, _)| key);
        let Some(key) = found else { return false };
        self.kill_session(key);
        true
    }

    fn kill_session(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get(key) else { return };
        match session.phase {
            Phase::Leased(lease) => {
                self.cancel_and_forget(lease);
                // Detached first: it must not go back to the pool.
                self.close_backend(lease, ServerClose::Admin);
                self.send_off(key);
            }
            Phase::Leaving(lease, _) => {
                self.cancel_and_forget(lease);
                self.remove_session(key);
            }
            Phase::Greeting(_) | Phase::Idle | Phase::Waiting | Phase::Refusing(_) => {
                self.send_off(key);
            }
            Phase::Closing { .. } => self.remove_session(key),
        }
    }

    /// Says why a backend must not go back to its pool, if so: nobody may have it, or it is of no use.
    pub(super) fn why_unwanted(&self, backend: &Backend) -> Option<ServerClose> {
        let Some(pool) = self.pool(backend.pool) else { return Some(ServerClose::Admin) };
        if !pool.passage.is_open() {
            Some(ServerClose::Admin)
        } else if backend.generation != pool.spec.generation() || backend.origin.is_retired() {
            Some(ServerClose::Replaced)
        } else if pool.spec.ledger.pool().excess() > pool.settings.reserve_size {
            Some(ServerClose::Surplus)
        } else {
            None
        }
    }

    /// Stops reading, or goes on.
    pub(super) fn review_suspension(&mut self) {
        // Who shuts down wants everybody to finish.
        let is_suspended = self.suspension.is_paused() && !self.is_draining;
        if self.is_suspended == is_suspended {
            return;
        }
        self.is_suspended = is_suspended;
        if is_suspended {
            self.suspended_us = self.now_us;
            return;
        }
        let now_us = self.now_us;
        let stood_us = now_us.saturating_sub(self.suspended_us);
        for pool in self.pools.iter_mut().flatten() {
            pool.slots.postpone(stood_us, now_us);
        }
        // What came meanwhile has had its event already.
        self.runnable_backends.extend(self.backends.keys());
        self.runnable.extend(self.sessions.keys());
    }

    /// Returns how many connections have not taken everything yet.
    pub(super) fn unsent(&self) -> usize {
        let sessions = self.sessions.range(0, self.sessions.places());
        let backends = self.backends.range(0, self.backends.places());
        sessions.filter(|(_, session)| session.pipe.has_unsent()).count()
            + backends.filter(|(_, backend)| backend.pipe.has_unsent()).count()
    }

    /// Closes all connections that have not taken everything yet.
    pub(super) fn close_unsent(&mut self) {
        for key in self.backends.keys() {
            if self.backends.get(key).is_some_and(|backend| backend.pipe.has_unsent()) {
                tracing::warn!("closing a server connection that takes nothing: suspend_timeout");
                self.backend_gone(key);
            }
        }
        for key in self.sessions.keys() {
            if self.sessions.get(key).is_some_and(|session| session.pipe.has_unsent()) {
                tracing::warn!("closing a client that takes nothing: suspend_timeout");
                self.remove_session(key);
            }
        }
    }

    /// Forgets its shares of pools that nobody uses.
    pub(super) fn forget(&mut self, numbers: &[PoolNumber]) {
        for number in numbers {
            let is_used = self.pool(*number).is_some_and(|pool| {
                pool.sessions > 0
                    || pool.slots.total() > 0
                    || pool.spec.clients() > 0
                    || pool.spec.ledger.pool().count() > 0
            });
            let at = usize::try_from(number.0).unwrap_or(usize::MAX);
            if let Some(place) = self.pools.get_mut(at).filter(|_| !is_used) {
                *place = None;
            }
        }
        while self.pools.last().is_some_and(Option::is_none) {
            self.pools.pop();
        }
    }
}
