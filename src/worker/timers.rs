//! Looks at the clock: every 50 ms while somebody waits or runs something, once a second otherwise,
//! never while there is nothing at all. Nothing is armed per query.

use super::backend::{Backend, ChoreKind, Role};
use super::checkout::Growth;
use super::pool::cells_of;
use super::session::{Phase, Session};
use super::slab::Key;
use super::{Worker, millis};
use crate::backend::link::Link;
use crate::config::PoolSettings;
use crate::fault::{Fault, SqlState};
use crate::metrics::labels::{ClientEnd, ServerClose, Timeout};
use crate::pool::spec::PoolNumber;
use crate::session::relay;
use crate::wire::expect::TransactionStatus;

/// Between two looks at the clock while something is under way.
const BUSY_TICK_MS: u64 = 50;

/// Between two looks at the clock while nothing is.
const IDLE_TICK_MS: u64 = 1_000;

/// A query of our own that takes longer has failed; one that a login waits for must be done within
/// `server_connect_timeout` as well.
const CHORE_MS: u64 = 30_000;

/// Who has waited this long without a backend gets one beyond this worker's share.
pub(super) const STARVING_MS: u64 = BUSY_TICK_MS;

impl Worker {
    /// When to look at the clock next; `None` if there is nothing to look at it for.
    pub(super) fn next_tick(&self) -> Option<u64> {
        if self.sessions.is_empty() && self.backends.is_empty() {
            return None;
        }
        if self.is_busy {
            return Some(self.next_tick_ms.min(self.now_ms.saturating_add(BUSY_TICK_MS)));
        }
        Some(self.next_tick_ms)
    }

    pub(super) fn tick_if_due(&mut self) {
        let busy_since_ms = self.next_tick_ms.saturating_sub(IDLE_TICK_MS - BUSY_TICK_MS);
        let due_ms = if self.is_busy { busy_since_ms } else { self.next_tick_ms };
        if self.now_ms < due_ms {
            return;
        }
        self.is_busy = self.is_draining;
        self.next_tick_ms = self.now_ms.saturating_add(IDLE_TICK_MS);
        self.read_mail_if_missed();
        self.review_suspension();
        if self.is_suspended {
            // Nobody can be late who is not listened to.
            return;
        }
        self.tick_channels();
        for at in 0..self.pools.len() {
            if let Ok(number) = u32::try_from(at) {
                self.tick_pool(PoolNumber(number));
            }
        }
        for key in self.backends.keys() {
            self.tick_backend(key);
        }
        for key in self.sessions.keys() {
            self.tick_session(key);
        }
    }

    /// The mailbox is bounded in how much of it is read at a time; the rest is read here.
    fn read_mail_if_missed(&mut self) {
        if !self.inbox.is_empty() {
            self.read_mail();
        }
    }

    fn tick_pool(&mut self, number: PoolNumber) {
        let now_ms = self.now_ms;
        self.review_pool(number);
        if self.pool(number).is_none_or(|pool| !pool.passage.is_open()) {
            return;
        }
        self.time_out_waiters(number);
        let Some(pool) = self.pool_mut(number) else { return };
        if let Some(first) = pool.slots.first_waiter() {
            let waited_ms = now_ms.saturating_sub(first.since_us / 1000);
            let reserve_ms = pool.settings.reserve_timeout.map_or(0, millis);
            let growth = if pool.settings.reserve_size > 0 && waited_ms >= reserve_ms {
                Growth::Reserve
            } else if waited_ms >= STARVING_MS {
                Growth::Pool
            } else {
                Growth::Share
            };
            self.is_busy = true;
            self.open_wanted(number, growth);
            if waited_ms >= STARVING_MS {
                self.beg(number);
            }
        }
        self.expire_idle(number);
        self.fill_to_minimum(number);
    }

    fn time_out_waiters(&mut self, number: PoolNumber) {
        let now_ms = self.now_ms;
        loop {
            let Some(pool) = self.pool_mut(number) else { return };
            let Some(limit) = pool.settings.query_wait_timeout else { return };
            let Some(first) = pool.slots.first_waiter() else { return };
            if now_ms.saturating_sub(first.since_us / 1000) < millis(limit) {
                return;
            }
            let text = "query_wait_timeout: no server connection became free in time";
            let fault = Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, text);
            self.time_out(first.session, Timeout::QueryWait, &fault);
            self.leave_queue(first.session, number);
        }
    }

    /// Closes backends that were idle for too long (`server_idle_timeout`) or live for too long
    /// (`server_lifetime`), down to `min_pool_size`.
    fn expire_idle(&mut self, number: PoolNumber) {
        let now_ms = self.now_ms;
        let Some(pool) = self.pool(number) else { return };
        let limit_ms = pool.settings.server_idle_timeout.map_or(u64::MAX, millis);
        let spare = pool.spec.ledger.pool().count().saturating_sub(pool.settings.min_size);
        let mut idle_too_long = 0;
        let mut expired: Vec<(Key<Backend>, ServerClose)> = Vec::new();
        for key in pool.slots.idle() {
            let Some(backend) = self.backends.get(key) else { continue };
            let is_old = now_ms >= backend.times.expires_ms;
            let is_idle = now_ms.saturating_sub(backend.times.idle_ms) >= limit_ms;
            if is_idle && !is_old {
                idle_too_long += 1;
                if idle_too_long > spare {
                    continue;
                }
            }
            if is_old {
                expired.push((key, ServerClose::Lifetime));
            } else if is_idle {
                expired.push((key, ServerClose::Idle));
            }
        }
        for (key, why) in expired {
            self.close_backend(key, why);
        }
    }

    /// Opens backends up to `min_pool_size`, for pools that have clients.
    fn fill_to_minimum(&mut self, number: PoolNumber) {
        let now_ms = self.now_ms;
        loop {
            let Some(pool) = self.pool(number) else { return };
            let is_failing = pool.is_backing_off(now_ms);
            let is_used = pool.sessions > 0 || pool.settings.forced_user;
            let is_filled = pool.spec.ledger.pool().count() >= pool.settings.min_size;
            if !is_used || is_failing || is_filled {
                return;
            }
            let spec = std::sync::Arc::clone(&pool.spec);
            let Ok(permit) = spec.ledger.reserve(0) else { return };
            if !self.ask_for_backend(spec, permit) {
                return;
            }
        }
    }

    fn tick_backend(&mut self, key: Key<Backend>) {
        let now_ms = self.now_ms;
        let Some(backend) = self.backends.get(key) else { return };
        match &backend.role {
            Role::Idle | Role::Cancelling => {}
            Role::Chore(chore) => {
                self.is_busy = true;
                let took_ms = now_ms.saturating_sub(backend.times.query_ms);
                let limit = match chore.kind {
                    // A client's login is not done before.
                    ChoreKind::Greet(_) => self
                        .pool(backend.pool)
                        .and_then(|pool| pool.settings.server_connect_timeout),
                    ChoreKind::Reset | ChoreKind::Check => None,
                };
                if took_ms >= limit.map_or(CHORE_MS, millis).min(CHORE_MS) {
                    tracing::warn!(kind = ?chore.kind, "server connection closed: it hangs");
                    self.backend_ends(key, ServerClose::Chore);
                }
            }
            Role::Leased(session) => {
                let session = *session;
                let Some(client) = self.sessions.get(session) else { return };
                let Some(pool) = self.pool(backend.pool) else { return };
                let overdue = overdue(&pool.settings, backend, client, now_ms);
                self.is_busy = true;
                if let Some((timeout, fault)) = overdue {
                    self.time_out(session, timeout, &fault);
                }
            }
        }
    }

    fn tick_session(&mut self, key: Key<Session>) {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get(key) else { return };
        match session.phase {
            Phase::Closing { until_ms } => {
                self.is_busy = true;
                if now_ms >= until_ms {
                    self.remove_session(key);
                }
            }
            Phase::Idle if self.must_go(session) => self.send_off(key),
            Phase::Idle => {
                let limit = self.pool(session.pool).and_then(|p| p.settings.client_idle_timeout);
                let idle_ms = now_ms.saturating_sub(session.idle_ms);
                if limit.is_some_and(|limit| idle_ms >= millis(limit)) {
                    self.time_out(key, Timeout::ClientIdle, &idle_fault());
                } else if limit.is_some_and(|limit| millis(limit) < IDLE_TICK_MS * 4) {
                    self.is_busy = true;
                }
            }
            Phase::Leaving(lease, ref departure) => {
                let cancel = departure.cancel;
                self.tick_leaving(key, lease, cancel);
            }
            Phase::Waiting if session.pipe.is_read_closed() => self.waits_no_more(key),
            Phase::Greeting(_) | Phase::Waiting | Phase::Refusing(_) | Phase::Leased(_) => {}
        }
    }

    /// Closes a client because of a time-out.
    fn time_out(&mut self, key: Key<Session>, timeout: Timeout, fault: &Fault) {
        if let Some(session) = self.sessions.get(key)
            && let Some(cells) = cells_of(&mut self.pools, session.pool)
        {
            cells.timeouts.add(timeout);
        }
        self.fail_session(key, ClientEnd::Timeout, fault);
    }
}

fn idle_fault() -> Fault {
    Fault::fatal(
        SqlState::IDLE_SESSION_TIMEOUT,
        "terminating connection due to idle-session timeout",
    )
}

/// What a session with a lease has done for too long, if anything. Pooling point B25.
fn overdue(
    settings: &PoolSettings,
    backend: &Backend,
    session: &Session,
    now_ms: u64,
) -> Option<(Timeout, Fault)> {
    let Backend { link, times, .. } = backend;
    let is_over = |limit: Option<std::time::Duration>, since_ms: u64| {
        limit.is_some_and(|limit| now_ms.saturating_sub(since_ms) >= millis(limit))
    };
    let is_running = !link.expect.is_empty();
    if is_running && is_over(settings.query_timeout, times.query_ms) {
        let text = "canceling statement due to query timeout";
        return Some((Timeout::Query, Fault::fatal(SqlState::QUERY_CANCELED, text)));
    }
    let is_in_transaction = in_transaction(link, session);
    if (is_running || is_in_transaction)
        && is_over(settings.transaction_timeout, times.transaction_us / 1000)
    {
        let text = "terminating connection due to transaction timeout";
        return Some((Timeout::Transaction, Fault::fatal(SqlState::TRANSACTION_TIMEOUT, text)));
    }
    let waits_since_ms = times.ready_ms.max(times.query_ms);
    if !is_running
        && is_in_transaction
        && is_over(settings.idle_transaction_timeout, waits_since_ms)
    {
        let text = "terminating connection due to idle-in-transaction timeout";
        let fault = Fault::fatal(SqlState::IDLE_IN_TRANSACTION_TIMEOUT, text);
        return Some((Timeout::IdleTransaction, fault));
    }
    if !is_running && !is_in_transaction && is_over(settings.client_idle_timeout, waits_since_ms) {
        return Some((Timeout::ClientIdle, idle_fault()));
    }
    None
}

fn in_transaction(link: &Link, session: &Session) -> bool {
    link.expect.status() != TransactionStatus::Idle || !relay::is_at_rest(&session.front, link)
}
