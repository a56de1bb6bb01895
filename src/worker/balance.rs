//! Shares backends with other workers, so that nobody starves beside somebody who has plenty.
//!
//! Each worker opens backends up to its share of the pool. Whoever has none, or whose first client
//! has waited too long, asks the others; one that has an idle backend gives it at once, one that
//! has none gives the next that comes back, if the other's client has waited longer than its own.

use std::sync::Arc;

use super::backend::{Backend, Role};
use super::chores::adopt;
use super::mailbox::ToWorker;
use super::pool::Beggar;
use super::slab::Key;
use super::timers::STARVING_MS;
use super::{Worker, backend_token};
use crate::metrics::labels::ServerClose;
use crate::pool::ledger::Bound;
use crate::pool::spec::{PoolNumber, Spec};

impl Worker {
    /// Asks other workers for a backend if this one has none of the pool.
    pub(super) fn beg_if_poor(&mut self, number: PoolNumber) {
        if self.pool(number).is_some_and(|pool| pool.slots.total() == 0) {
            self.beg(number);
        }
    }

    /// Asks other workers for a backend, not too often.
    pub(super) fn beg(&mut self, number: PoolNumber) {
        let (me, now_ms) = (self.number, self.now_ms);
        if self.workers.len() < 2 {
            return;
        }
        let Some(pool) = self.pool_mut(number) else { return };
        let Some(first) = pool.slots.first_waiter().filter(|_| pool.passage.is_open()) else {
            return;
        };
        if now_ms.saturating_sub(pool.begged_ms) < STARVING_MS / 2 && pool.begged_ms > 0 {
            return;
        }
        pool.begged_ms = now_ms;
        let spec = Arc::clone(&pool.spec);
        for (at, worker) in self.workers.iter().enumerate() {
            if at != me {
                let spec = Arc::clone(&spec);
                let since_ms = first.since_us / 1000;
                let message = ToWorker::Beg { spec, worker: me, since_ms };
                // A worker that is too busy to be asked is asked again at the next tick.
                let _ = worker.try_send(message);
            }
        }
    }

    /// Another worker asks for a backend.
    pub(super) fn begged(&mut self, spec: &Arc<Spec>, worker: usize, since_ms: u64) {
        let number = spec.number;
        let Some(pool) = self.pool_mut(number) else { return };
        if !pool.passage.is_open() {
            return;
        }
        pool.beggar = Some(Beggar { worker, since_ms });
        let Some(idle) = pool.slots.idle().next() else { return };
        pool.slots.take_idle(idle);
        if self.is_stale(idle) {
            return self.start_check(idle, number);
        }
        if let Some(backend) = self.backends.get_mut(idle) {
            backend.role = Role::Cancelling;
        }
        self.put_back(idle, number);
    }

    /// Gives a busy backend at rest to the worker that asked, if its clients need it more.
    pub(super) fn give_to_beggar(&mut self, key: Key<Backend>, number: PoolNumber) -> bool {
        let Some(pool) = self.pool_mut(number) else { return false };
        let Some(beggar) = pool.beggar else { return false };
        let is_older =
            |first: crate::pool::slots::Waiter<_>| first.since_us / 1000 <= beggar.since_ms;
        if pool.slots.first_waiter().is_some_and(is_older) {
            return false;
        }
        pool.beggar = None;
        pool.slots.remove_busy();
        let spec = Arc::clone(&pool.spec);
        let Some(mut backend) = self.backends.remove(key) else { return true };
        if let Err(error) = self.poll.registry().deregister(backend.pipe.socket_mut()) {
            tracing::error!(%error, "cannot give a server connection away");
            return true;
        }
        let message = ToWorker::Backend { spec, backend: Box::new(backend) };
        if let Some(worker) = self.workers.get(beggar.worker) {
            // A worker that cannot take it any more closes it.
            let _ = worker.try_send(message);
        }
        true
    }

    /// Another worker has given us a backend.
    pub(super) fn receive_backend(&mut self, spec: &Arc<Spec>, mut backend: Backend) {
        let key = self.backends.next_key();
        if let Err(error) = self.register(backend.pipe.socket_mut(), backend_token(key)) {
            tracing::error!(%error, "cannot watch a server connection");
            return;
        }
        adopt(&mut backend.link, &mut self.shared.interner);
        backend.role = Role::Cancelling;
        let Some(pool) = self.pool_of(spec) else { return };
        pool.slots.add_busy();
        self.backends.insert(backend);
        self.check_in(key);
        self.pump_server(key);
    }

    /// Makes room within a bound: closes an idle backend here, or asks the other workers to.
    ///
    /// Says whether there is room now.
    pub(super) fn evict_or_ask(&mut self, bound: &Arc<Bound>) -> bool {
        if self.evict_idle(bound) {
            return true;
        }
        if self.now_ms < self.next_eviction_ms {
            return false;
        }
        self.next_eviction_ms = self.now_ms.saturating_add(STARVING_MS);
        for (at, worker) in self.workers.iter().enumerate() {
            if at != self.number {
                // Tried again at the next tick.
                let _ = worker.try_send(ToWorker::Evict { bound: Arc::clone(bound) });
            }
        }
        false
    }

    /// Closes the backend under `bound` that is idle for longest, of whatever pool.
    pub(super) fn evict_idle(&mut self, bound: &Arc<Bound>) -> bool {
        let oldest = self
            .pools
            .iter()
            .flatten()
            .filter(|pool| {
                let ledger = &pool.spec.ledger;
                Arc::ptr_eq(ledger.database(), bound) || Arc::ptr_eq(&ledger.user(), bound)
            })
            .filter_map(|pool| pool.slots.idle().next())
            .min_by_key(|key| self.backends.get(*key).map(|backend| backend.times.idle_ms));
        if let Some(key) = oldest {
            self.close_backend(key, ServerClose::Evicted);
        }
        oldest.is_some()
    }
}
