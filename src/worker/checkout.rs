//! Gives backends out and takes them back; asks for new ones.

use std::sync::Arc;

use super::backend::{Backend, Chore, ChoreKind, Role, Times};
use super::gates::Passage;
use super::mailbox::{Arrival, Failed, ToControl};
use super::pipe::Pipe;
use super::pool::{Failure, cells_of};
use super::session::{Phase, Session};
use super::slab::Key;
use super::{Flow, Worker, backend_token, micros, millis, next_serial};
use crate::backend::link::{Effect, Link};
use crate::backend::params::{Param, ParamSet, is_fact};
use crate::backend::standing::IN_HOT_STANDBY;
use crate::config::PoolMode;
use crate::fault::Fault;
use crate::log::{Kind, admit};
use crate::metrics::labels::{ClientEnd, ServerClose, SqlClass};
use crate::pool::ledger::{Full, Permit};
use crate::pool::slots::{Checkout, Order};
use crate::pool::spec::{PoolNumber, Spec, Welcome};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};

/// The first pause after a backend could not be opened; doubles up to `server_login_retry`.
const BACK_OFF_MS: u64 = 50;

/// The longest such pause while clients are held.
const HELD_RETRY_MS: u64 = 500;

/// Takes back all that a session can leave behind, but for [`Pins::LASTING`].
///
/// [`Pins::LASTING`]: crate::session::pins::Pins::LASTING
pub(super) const DISCARD_ALL: &[u8] = b"DISCARD ALL";

/// How eagerly new backends are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    /// Up to this worker's share of the pool.
    Share,
    /// Up to the pool's size: somebody has waited long enough.
    Pool,
    /// Up to the pool's size and its reserve.
    Reserve,
}

impl Worker {
    /// Finds a backend for a client that has sent something, or puts it into the queue.
    pub(super) fn checkout(&mut self, key: Key<Session>) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        let number = session.pool;
        session.phase = Phase::Waiting;
        session.request_ms = self.now_ms;
        let renames = session.front.rules.renames();
        self.enqueue(key, number);
        match self.sessions.get_mut(key).map(|session| &session.phase) {
            Some(Phase::Leased(_)) => Flow::Again,
            Some(Phase::Waiting) if renames => self.peek_request(key),
            _ => Flow::Blocked,
        }
    }

    /// Leases an idle backend to a session that waits or is to be greeted, or queues it.
    pub(super) fn enqueue(&mut self, key: Key<Session>, number: PoolNumber) {
        self.check_stale(number);
        let (now_us, is_draining) = (self.now_us, self.is_draining);
        let Some(pool) = self.pool_mut(number) else { return };
        match pool.passage {
            Passage::Open => {}
            Passage::Paused { .. } if !is_draining => {
                pool.slots.queue(key, now_us);
                return;
            }
            Passage::Paused { .. } | Passage::Removed => return self.send_off(key),
        }
        let order = pool.order();
        match pool.slots.checkout(key, order, now_us) {
            Checkout::Leased(backend) => self.lease(key, backend, 0),
            Checkout::Queued => {
                self.is_busy = true;
                self.open_wanted(number, Growth::Share);
            }
        }
    }

    /// Takes backends that would be leased next out of the list if they were idle for so long that
    /// they must be checked first (`server_check_delay`).
    fn check_stale(&mut self, number: PoolNumber) {
        loop {
            let Some(pool) = self.pool(number) else { return };
            let next = match pool.order() {
                Order::NewestFirst => pool.slots.idle().next_back(),
                Order::OldestFirst => pool.slots.idle().next(),
            };
            let Some(next) = next else { return };
            if !self.is_stale(next) {
                return;
            }
            let Some(pool) = self.pool_mut(number) else { return };
            pool.slots.take_idle(next);
            self.start_check(next, number);
        }
    }

    /// Says whether an idle backend must be checked before it is used.
    pub(super) fn is_stale(&self, key: Key<Backend>) -> bool {
        let Some(backend) = self.backends.get(key) else { return false };
        let Some(pool) = self.pool(backend.pool) else { return false };
        let idle_ms = self.now_ms.saturating_sub(backend.times.idle_ms);
        idle_ms >= millis(pool.settings.server_check_delay)
    }

    /// Checks a busy backend; it is put back if it works.
    pub(super) fn start_check(&mut self, key: Key<Backend>, number: PoolNumber) {
        let Some(pool) = self.pool_mut(number) else { return };
        pool.checking += 1;
        let query = pool.settings.server_check_query.clone();
        self.start_chore(key, ChoreKind::Check, query.as_bytes());
    }

    /// Gives a busy backend to a session that has waited so long.
    fn lease(&mut self, key: Key<Session>, lease: Key<Backend>, waited_us: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(backend) = self.backends.get_mut(lease) else { return };
        let is_greeting = matches!(session.phase, Phase::Greeting(_));
        if (!is_greeting || session.keeps_first_backend())
            && let Some(cells) = cells_of(&mut self.pools, session.pool)
        {
            cells.assignments += 1;
            cells.wait.record(waited_us);
        }
        if is_greeting {
            // Busy, and nobody's: it may be closed or put back by what follows.
            backend.role = Role::Cancelling;
            self.try_greeting(key, lease);
        } else {
            session.is_fresh = true;
            self.begin_lease(key, lease);
        }
    }

    /// A busy backend is this session's from now on.
    pub(super) fn begin_lease(&mut self, key: Key<Session>, lease: Key<Backend>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(backend) = self.backends.get_mut(lease) else { return };
        session.phase = Phase::Leased(lease);
        backend.role = Role::Leased(key);
        backend.link.has_unnamed = false;
        backend.cancel_due = None;
        backend.times.leased_ms = self.now_ms;
        backend.times.transaction_us = self.now_us;
        backend.times.ready_ms = self.now_ms;
    }

    /// A session does not need its backend any more, unless its pool or a pin says that it keeps it.
    pub(super) fn release(&mut self, key: Key<Session>, lease: Key<Backend>) {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let number = session.pool;
        session.idle_ms = now_ms;
        // One that began in session mode keeps it: its statements have names of its own.
        let keeps = session.front.is_pinned() || session.keeps_first_backend();
        let Some(pool) = self.pool(number) else { return };
        let mode = pool.settings.mode;
        if self.is_draining || pool.passage == Passage::Removed {
            self.send_off(key);
            return;
        }
        if !self.settle_state(key, lease) {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.front.state.has_channels() && !self.go_on_listening(key, lease) {
            return;
        }
        if keeps || mode == PoolMode::Session {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.phase = Phase::Idle;
        if session.front.state.take_unseen() {
            self.start_chore(lease, ChoreKind::Reset, DISCARD_ALL);
        } else {
            self.check_in(lease);
        }
    }

    /// Asks the server what a session has left behind, if there is a doubt; says whether there is
    /// none.
    fn settle_state(&mut self, key: Key<Session>, lease: Key<Backend>) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let front = &mut session.front;
        // A query of ours would drop a long unnamed statement, which nobody else has.
        if front.state.is_settled() || front.has_long_unnamed() {
            return true;
        }
        let Some(question) = front.state.question(&front.params) else { return true };
        let Some(backend) = self.backends.get_mut(lease) else { return true };
        let mut query = Vec::with_capacity(question.len() + 8);
        encode::query(&mut query, &question);
        backend.link.has_unnamed = false;
        backend.link.expect.push(Awaited::Query, Reply::Swallow, Effect::None);
        backend.times.query_ms = self.now_ms;
        if let Some(cells) = cells_of(&mut self.pools, session.pool) {
            cells.state_questions += 1;
        }
        if backend.pipe.send(&query, &mut self.wire).is_err() {
            self.backend_gone(lease);
        }
        false
    }

    /// Takes a busy backend back at rest: closes, resets or hands it on.
    pub(super) fn check_in(&mut self, key: Key<Backend>) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        let number = backend.pool;
        if backend.link.is_promoted {
            self.promoted(key);
        }
        let Some(backend) = self.backends.get_mut(key) else { return };
        let is_reset = matches!(backend.role, Role::Chore(Chore { kind: ChoreKind::Reset, .. }));
        let is_tainted = backend.link.expect.is_tainted() || !backend.link.is_at_rest();
        let is_old = self.now_ms >= backend.times.expires_ms;
        let has_cancels = backend.cancels > 0;
        let why =
            match (is_tainted, self.backends.get(key).and_then(|b| self.why_unwanted(b)), is_old) {
                (true, ..) => Some(ServerClose::Tainted),
                (_, Some(why), _) => Some(why),
                (.., true) => Some(ServerClose::Lifetime),
                (false, None, false) => None,
            };
        if let Some(why) = why {
            self.close_backend(key, why);
            return;
        }
        let Some(pool) = self.pool(number) else { return };
        if pool.settings.server_reset_query_always
            && !is_reset
            && !pool.settings.server_reset_query.is_empty()
        {
            let query = pool.settings.server_reset_query.clone();
            self.start_chore(key, ChoreKind::Reset, query.as_bytes());
            return;
        }
        if has_cancels {
            if let Some(backend) = self.backends.get_mut(key) {
                backend.role = Role::Cancelling;
            }
            return;
        }
        self.put_back(key, number);
    }

    /// Hands a backend that anybody may use to whoever needs it most.
    pub(super) fn put_back(&mut self, key: Key<Backend>, number: PoolNumber) {
        if self.give_to_beggar(key, number) {
            return;
        }
        // Whoever needs no backend after all is not leased one. A loop: there may be thousands.
        let next = loop {
            let Some(pool) = self.pool_mut(number) else { return };
            match pool.slots.check_in(key) {
                Some(next)
                    if self.is_greeting(next.session) && self.greet_if_known(next.session) => {}
                next => break next,
            }
        };
        if let Some(next) = next {
            self.lease(next.session, key, self.now_us.saturating_sub(next.since_us));
            self.runnable.push_back(next.session);
        } else if let Some(backend) = self.backends.get_mut(key) {
            backend.role = Role::Idle;
            backend.times.idle_ms = self.now_ms;
        }
    }

    /// Asks for as many backends as there are clients without one, within all bounds.
    pub(super) fn open_wanted(&mut self, number: PoolNumber, growth: Growth) {
        let workers = self.workers.len().max(1);
        let now_ms = self.now_ms;
        loop {
            let Some(pool) = self.pool_mut(number) else { return };
            if !pool.passage.is_open() {
                return;
            }
            if pool.slots.waiting() <= pool.slots.opening() + pool.checking {
                return;
            }
            if pool.is_backing_off(now_ms) {
                self.fail_waiters_without_server(number);
                return;
            }
            if pool.last_failure().is_some() && pool.slots.opening() > 0 {
                // One attempt says enough; a server that is coming up need not meet all at once.
                return;
            }
            let size = usize::try_from(pool.settings.size).unwrap_or(usize::MAX);
            if growth == Growth::Share && pool.slots.total() >= size.div_ceil(workers) {
                return self.beg_if_poor(number);
            }
            let reserve = if growth == Growth::Reserve { pool.settings.reserve_size } else { 0 };
            let spec = Arc::clone(&pool.spec);
            let is_full = spec.ledger.pool().count() >= pool.settings.size;
            match spec.ledger.reserve(reserve) {
                Ok(permit) => {
                    if is_full && admit(Kind::Reserve) {
                        tracing::warn!(
                            database = spec.database,
                            user = spec.user,
                            "taking connection from reserve_pool"
                        );
                    }
                    if !self.ask_for_backend(spec, permit) {
                        return;
                    }
                }
                Err(Full::Pool) => return self.beg_if_poor(number),
                Err(Full::Database) => {
                    let bound = Arc::clone(spec.ledger.database());
                    if !self.evict_or_ask(&bound) {
                        return;
                    }
                }
                Err(Full::User) => {
                    let bound = spec.ledger.user();
                    if !self.evict_or_ask(&bound) {
                        return;
                    }
                }
            }
        }
    }

    /// Asks the control plane to open a backend; says whether it could be asked.
    pub(super) fn ask_for_backend(&mut self, spec: Arc<Spec>, permit: Permit) -> bool {
        let number = spec.number;
        let message = ToControl::Open { spec, permit, worker: self.number };
        // A full channel means thousands of connections under way: the next tick asks again.
        let was_asked = self.control.try_send(message).is_ok();
        if was_asked && let Some(pool) = self.pool_mut(number) {
            pool.slots.opening_started();
        }
        was_asked
    }

    /// A backend that was asked for is there.
    pub(super) fn opened(&mut self, spec: &Arc<Spec>, arrival: Arrival) {
        let Arrival { generation, settings: opened_with, origin, opened, permit } = arrival;
        let key = self.backends.next_key();
        let mut raw = opened.raw;
        let registered = self.register(&mut raw.socket, backend_token(key));
        let reported = opened.parameters.iter().map(|(name, value)| (&name[..], &value[..]));
        let base = self.shared.interner.intern(ParamSet::from_reported(reported));
        let facts: Vec<Param> = opened
            .parameters
            .iter()
            .filter(|(name, _)| is_fact(name))
            .map(|(name, value)| (name.as_slice().into(), value.as_slice().into()))
            .collect();
        let now_ms = self.now_ms;
        let Some(pool) = self.pool_of(spec) else { return };
        pool.slots.opening_ended();
        if let Err(error) = registered {
            tracing::error!(%error, "cannot watch a server connection");
            return;
        }
        pool.failure = None;
        pool.cells.connect.record(micros(opened.took));
        if generation == spec.generation() {
            let notices = opened.notices.into();
            spec.set_welcome(Welcome { notices, facts, base: Arc::clone(&base) });
        }
        pool.slots.add_busy();
        let serial = next_serial();
        let lifetime_ms = pool.settings.server_lifetime.map_or(u64::MAX / 2, millis);
        // Staggered by up to a tenth, so that a pool that opened at once does not close at once.
        let early_ms = lifetime_ms / 10 / 16 * (serial % 16);
        let times = Times {
            expires_ms: now_ms.saturating_add(lifetime_ms - early_ms),
            opened_ms: now_ms,
            idle_ms: now_ms,
            ..Times::default()
        };
        self.backends.insert(Backend {
            pipe: Pipe::new(raw, opened.unread),
            link: Link { pid: opened.cancel_key.pid, ..Link::new(base) },
            pool: spec.number,
            role: Role::Cancelling,
            permit,
            generation,
            origin,
            opened_with,
            cancel_key: Arc::new(opened.cancel_key),
            serial,
            times,
            cancels: 0,
            cancel_due: None,
        });
        self.greet_waiting(spec.number);
        self.check_in(key);
        // After a failure there was one attempt only; the others may follow now.
        self.open_wanted(spec.number, Growth::Share);
    }

    /// A server has said that it is no standby any more.
    fn promoted(&mut self, key: Key<Backend>) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        backend.link.is_promoted = false;
        let (number, origin) = (backend.pool, Arc::clone(&backend.origin));
        let Some(pool) = self.pool(number) else { return };
        let spec = Arc::clone(&pool.spec);
        spec.set_fact(IN_HOT_STANDBY, b"off");
        // Too busy to be told: it will find out when it opens a backend there, or looks.
        let _ = self.control.try_send(ToControl::Promoted { spec, origin });
    }

    /// A backend that was asked for will not come.
    pub(super) fn open_failed(
        &mut self,
        number: PoolNumber,
        fault: Fault,
        failed: Failed,
        lost_since_ms: u64,
    ) {
        let now_ms = self.now_ms;
        let Some(pool) = self.pool_mut(number) else { return };
        pool.slots.opening_ended();
        if !pool.passage.is_open() {
            // Nobody waits for it, and it says nothing about later. Pooling point G53.
            return;
        }
        pool.cells.connect_failures.add(SqlClass::of(fault.sqlstate.0));
        let lessons = pool.spec.lessons();
        let before = pool.last_failure().map(|known| (known.retry_at_ms, known.back_off_ms));
        pool.failure =
            Some(Failure { fault, failed, lost_since_ms, retry_at_ms: 0, back_off_ms: 0, lessons });
        let mut longest_ms = millis(pool.settings.server_login_retry).max(1);
        if pool.holds_waiters(now_ms) {
            longest_ms = longest_ms.min(HELD_RETRY_MS);
        }
        let back_off_ms = match before {
            Some((retry_at_ms, back_off_ms)) if now_ms < retry_at_ms => back_off_ms,
            Some((_, back_off_ms)) => (back_off_ms * 2).min(longest_ms),
            None => BACK_OFF_MS.min(longest_ms),
        };
        if let Some(failure) = &mut pool.failure {
            failure.back_off_ms = back_off_ms;
            failure.retry_at_ms = now_ms.saturating_add(back_off_ms);
        }
        self.is_busy = true;
        self.fail_waiters_without_server(number);
    }

    /// A backend that was asked for was not opened.
    pub(super) fn open_abandoned(&mut self, number: PoolNumber) {
        let Some(pool) = self.pool_mut(number) else { return };
        pool.slots.opening_ended();
        self.open_wanted(number, Growth::Share);
    }

    /// Tells everybody who waits for a pool without any server why, in the server's own words.
    ///
    /// A server that is starting up is waited for, and one that is lost for `failover_timeout`. Pooling
    /// points G50 and G51.
    fn fail_waiters_without_server(&mut self, number: PoolNumber) {
        let now_ms = self.now_ms;
        loop {
            let Some(pool) = self.pool_mut(number) else { return };
            if pool.holds_waiters(now_ms) {
                return;
            }
            let Some(failure) = &pool.failure else { return };
            if !pool.passage.is_open() {
                return;
            }
            let has_server = pool.slots.total() > 0 || pool.spec.ledger.pool().count() > 0;
            if has_server {
                return;
            }
            let fault = failure.fault.clone();
            let Some(waiter) = pool.slots.first_waiter() else { return };
            self.fail_session(waiter.session, ClientEnd::NoServer, &fault);
            self.leave_queue(waiter.session, number);
        }
    }
}
