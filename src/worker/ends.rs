//! How sessions and backends end, and how what they run is cancelled.

use std::sync::Arc;

use super::backend::{Backend, Chore, ChoreKind, Role};
use super::checkout::{DISCARD_ALL, Growth};
use super::greet::from_cancel_pid;
use super::mailbox::{Done, Teller, ToControl};
use super::pool::cells_of;
use super::session::{Cancel, Departure, Phase, Session};
use super::slab::Key;
use super::{Worker, bytes, millis};
use crate::config::PoolMode;
use crate::fault::{Fault, SqlState};
use crate::log::{Kind, admit};
use crate::metrics::labels::{ClientEnd, ServerClose, SqlClass};
use crate::pool::spec::PoolNumber;
use crate::secret::Secret;
use crate::session::front::StatementRules;
use crate::session::pins::Pins;
use crate::session::refuse;
use crate::session::relay::{self, Owed, ServerFailure};
use crate::wire::encode;

/// How long a client may take to accept our last words.
const FAREWELL_MS: u64 = 5_000;

/// How long what a client sent may take, from then on, if the client goes without a goodbye. So what is
/// short is carried out, as PostgreSQL does, and nobody's long query runs on for nobody. LIMIT.
pub(super) const PARTING_MS: u64 = 5_000;

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// It said Terminate: what it sent before is still carried out.
    Terminate,
    /// Its connection ended: what it sent is cancelled when it takes long. Pooling point B20.
    Lost,
}

impl Leave {
    fn end(self) -> ClientEnd {
        match self {
            Self::Terminate => ClientEnd::Terminate,
            Self::Lost => ClientEnd::Lost,
        }
    }

    /// PgBouncer's words.
    fn reason(self) -> &'static str {
        match self {
            Self::Terminate => "client close request",
            Self::Lost => "client unexpected eof",
        }
    }
}

/// Says whether the server was told that the client has gone.
fn is_told(session: &Session) -> bool {
    matches!(&session.phase, Phase::Leaving(_, departure) if departure.is_passed_on)
}

impl Worker {
    /// A client is gone.
    pub(super) fn client_leaves(&mut self, key: Key<Session>, how: Leave) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if matches!(session.phase, Phase::Leaving(..)) {
            return;
        }
        self.log_client_end(key, how.reason());
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Phase::Leased(lease) = session.phase {
            let Some(backend) = self.backends.get_mut(lease) else { return };
            if relay::owed(&session.front, &backend.link) != Owed::Nothing {
                self.leave_behind(key, lease, how);
                return;
            }
        }
        let is_queued = matches!(session.phase, Phase::Waiting);
        if let Some(cells) = cells_of(&mut self.pools, session.pool) {
            cells.client_ends.add(how.end());
        }
        if is_queued && how == Leave::Terminate {
            self.want_no_backend(key);
        }
        self.remove_session(key);
    }

    /// A client has gone that the server still owes answers: they are waited for.
    fn leave_behind(&mut self, key: Key<Session>, lease: Key<Backend>, how: Leave) {
        let limit_ms = self.general.cancel_wait_timeout.map_or(u64::MAX / 2, millis);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(backend) = self.backends.get(lease) else { return };
        if let Some(cells) = cells_of(&mut self.pools, session.pool) {
            cells.client_ends.add(how.end());
        }
        self.is_busy = true;
        session.idle_ms = self.now_ms;
        let from_ms = backend.times.query_ms.saturating_add(PARTING_MS).max(self.now_ms);
        let cancel = match how {
            Leave::Terminate => None,
            Leave::Lost => Some(Cancel { from_ms, until_ms: from_ms.saturating_add(limit_ms) }),
        };
        session.phase = Phase::Leaving(lease, Box::new(Departure { cancel, is_passed_on: false }));
        self.tick_leaving(key, lease, cancel);
        self.leaving_turn_done(lease, key);
        self.runnable_backends.push_back(lease);
    }

    /// Looks after the requests of a client that has gone. One cancel request ends one of them, or
    /// none if it comes between two, so another is sent when it has been carried out.
    pub(super) fn tick_leaving(
        &mut self,
        key: Key<Session>,
        lease: Key<Backend>,
        cancel: Option<Cancel>,
    ) {
        self.is_busy = true;
        let owes_nothing = self.backends.get(lease).is_none_or(|b| b.link.expect.is_empty());
        if let Some(session) = self.sessions.get_mut(key)
            && self.now_ms.saturating_sub(session.idle_ms) >= FAREWELL_MS
        {
            if session.pipe.has_unsent() {
                // Who does not take its answers must not hold up the others.
                session.pipe.drop_output();
                self.runnable_backends.push_back(lease);
            } else if is_told(session) && owes_nothing {
                // Nor must a server that does not go: before version 14 it takes a goodbye inside a COPY
                // for an error of that, and waits for more.
                self.remove_session(key);
                return;
            }
        }
        let Some(Cancel { from_ms, until_ms }) = cancel else { return };
        if self.now_ms >= until_ms {
            self.remove_session(key);
        } else if self.now_ms >= from_ms
            && self.backends.get(lease).is_some_and(|backend| backend.cancels == 0)
        {
            self.send_cancel(lease, None);
        }
    }

    /// Takes a session out, and gives back or closes what it has.
    pub(super) fn remove_session(&mut self, key: Key<Session>) {
        let Some(mut session) = self.sessions.remove(key) else { return };
        session.pipe.send_end(&mut self.wire);
        if session.front.state.has_channels() {
            self.leave_channels(key, &mut session);
        }
        self.count_client_out();
        if let Some(pool) = self.pool_mut(session.pool) {
            pool.sessions = pool.sessions.saturating_sub(1);
        }
        match &session.phase {
            Phase::Leased(lease) | Phase::Leaving(lease, _) => self.end_lease(&session, *lease),
            Phase::Waiting => self.leave_queue(key, session.pool),
            Phase::Greeting(greeting) => match greeting.backend {
                Some(backend) => self.orphan_greeting(backend),
                None => {
                    if let Some(pool) = self.pool_mut(session.pool) {
                        pool.slots.leave(key);
                    }
                }
            },
            Phase::Idle | Phase::Refusing(_) | Phase::Closing { .. } => {}
        }
    }

    /// Takes a session out of the queue: it has waited in vain.
    pub(super) fn leave_queue(&mut self, key: Key<Session>, number: PoolNumber) {
        let now_us = self.now_us;
        let Some(pool) = self.pool_mut(number) else { return };
        if let Some(waiter) = pool.slots.leave(key) {
            pool.cells.wait.record(now_us.saturating_sub(waiter.since_us));
        }
    }

    /// Takes a session out of the queue that needs no backend after all: that was no wait for one.
    pub(super) fn want_no_backend(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.phase = Phase::Idle;
        let number = session.pool;
        if let Some(pool) = self.pool_mut(number) {
            pool.slots.leave(key);
        }
    }

    /// The session of a lease is gone: the backend goes back only if nothing is under way on it.
    fn end_lease(&mut self, session: &Session, lease: Key<Backend>) {
        let Some(backend) = self.backends.get_mut(lease) else { return };
        let is_at_rest = !is_told(session)
            && relay::is_at_rest(&session.front, &backend.link)
            && backend.pipe.stash.is_empty()
            && !backend.pipe.has_unsent();
        let unwanted = self.backends.get(lease).and_then(|backend| self.why_unwanted(backend));
        let why = if is_at_rest { unwanted } else { Some(ServerClose::Unclean) };
        if let Some(why) = why {
            let Some(backend) = self.backends.get(lease) else { return };
            if !backend.link.expect.is_empty() {
                self.cancel_and_forget(lease);
            }
            self.close_backend(lease, why);
            return;
        }
        let Some(pool) = self.pool(session.pool) else { return };
        let needs_reset =
            pool.settings.mode == PoolMode::Session || session.front.rules == StatementRules::Pass;
        let query = pool.settings.server_reset_query.clone();
        let state = &session.front.state;
        if state.pins.has(Pins::LASTING) {
            self.close_backend(lease, ServerClose::Unclean);
        } else if needs_reset && !query.is_empty() {
            self.start_chore(lease, ChoreKind::Reset, query.as_bytes());
        } else if !needs_reset && !state.is_clean() {
            // Whatever the configuration says: nobody else may find it.
            self.start_chore(lease, ChoreKind::Reset, DISCARD_ALL);
        } else {
            self.check_in(lease);
        }
    }

    /// Closes a client with a last message; `end` is for statistics.
    pub(super) fn fail_session(&mut self, key: Key<Session>, end: ClientEnd, fault: &Fault) {
        let until_ms = self.now_ms.saturating_add(FAREWELL_MS);
        let Some(session) = self.sessions.get(key) else { return };
        let mut message = Vec::new();
        fault.encode(&mut message);
        // Whoever has left already was counted then.
        let is_there = !matches!(session.phase, Phase::Leaving(..) | Phase::Closing { .. });
        if is_there {
            self.log_fault(key, end, fault);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if is_there && let Some(cells) = cells_of(&mut self.pools, session.pool) {
            cells.client_ends.add(end);
            cells.pooler_errors.add(SqlClass::of(fault.sqlstate.0));
            cells.sent_bytes += bytes(&message);
        }
        let is_sent = session.pipe.send(&message, &mut self.wire).is_ok();
        if !is_sent || !session.pipe.has_unsent() {
            session.pipe.discard_input(&mut self.scratch);
            self.remove_session(key);
            return;
        }
        let pool = session.pool;
        let phase = std::mem::replace(&mut session.phase, Phase::Closing { until_ms });
        self.is_busy = true;
        match phase {
            Phase::Leased(lease) | Phase::Leaving(lease, _) => {
                self.cancel_and_forget(lease);
                self.close_backend(lease, ServerClose::Unclean);
            }
            Phase::Waiting => self.leave_queue(key, pool),
            Phase::Greeting(greeting) => {
                if let Some(backend) = greeting.backend {
                    self.orphan_greeting(backend);
                }
                if let Some(pool) = self.pool_mut(pool) {
                    pool.slots.leave(key);
                }
            }
            Phase::Idle | Phase::Refusing(_) | Phase::Closing { .. } => {}
        }
    }

    /// A session has nothing under way while we shut down.
    pub(super) fn send_off(&mut self, key: Key<Session>) {
        let text = "terminating connection due to administrator command";
        self.fail_session(key, ClientEnd::Admin, &Fault::fatal(SqlState::ADMIN_SHUTDOWN, text));
    }

    /// Closes clients between transactions now; the others when they are done.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.review_suspension();
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let is_idle = match session.phase {
                Phase::Idle => !session.has_backlog,
                Phase::Leased(lease) => self.backends.get_mut(lease).is_some_and(|backend| {
                    relay::is_at_rest(&session.front, &backend.link) && !session.is_fresh
                }),
                Phase::Greeting(_)
                | Phase::Waiting
                | Phase::Refusing(_)
                | Phase::Leaving(..)
                | Phase::Closing { .. } => false,
            };
            if is_idle {
                self.send_off(key);
            }
        }
        for at in 0..self.pools.len() {
            if let Ok(number) = u32::try_from(at) {
                self.send_off_stranded(PoolNumber(number));
            }
        }
    }

    /// The connection to a server has ended.
    pub(super) fn backend_gone(&mut self, key: Key<Backend>) {
        let session = match self.backends.get(key).map(|backend| &backend.role) {
            Some(Role::Leased(session)) => self.sessions.get(*session),
            Some(Role::Idle | Role::Chore(_) | Role::Cancelling) | None => None,
        };
        let was_told = session.is_some_and(is_told);
        self.backend_ends(key, if was_told { ServerClose::Unclean } else { ServerClose::Lost });
    }

    /// The connection to a server takes nothing any more: what the server has said by then is read first.
    pub(super) fn backend_takes_nothing(&mut self, key: Key<Backend>) {
        if let Some(backend) = self.backends.get_mut(key) {
            backend.pipe.hear_out();
            self.runnable_backends.push_back(key);
        }
    }

    /// The connection to a server has ended, or must.
    pub(super) fn backend_ends(&mut self, key: Key<Backend>, why: ServerClose) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        let has_said_why = backend.link.has_said_why;
        let session = match &backend.role {
            Role::Leased(session)
            | Role::Chore(Chore { kind: ChoreKind::Greet(Some(session)), .. }) => Some(*session),
            Role::Idle | Role::Chore(_) | Role::Cancelling => None,
        };
        // Detached first: the session must not touch it any more.
        self.close_backend(key, why);
        let Some(session) = session else { return };
        let Some(client) = self.sessions.get_mut(session) else { return };
        if matches!(client.phase, Phase::Leaving(..)) {
            self.close_when_sent(session);
        } else if has_said_why {
            // The client has been told in the server's own words. Pooling point B21.
            self.log_client_end(session, "server conn crashed?");
            let Some(client) = self.sessions.get(session) else { return };
            if let Some(cells) = cells_of(&mut self.pools, client.pool) {
                cells.client_ends.add(ClientEnd::ServerLost);
            }
            self.close_when_sent(session);
        } else {
            let text = "server closed the connection unexpectedly";
            let fault = Fault::fatal(SqlState::CONNECTION_FAILURE, text);
            self.fail_session(session, ClientEnd::ServerLost, &fault);
        }
    }

    fn close_when_sent(&mut self, key: Key<Session>) {
        let until_ms = self.now_ms.saturating_add(FAREWELL_MS);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.pipe.has_unsent() {
            session.phase = Phase::Closing { until_ms };
            self.is_busy = true;
        } else {
            session.pipe.discard_input(&mut self.scratch);
            self.remove_session(key);
        }
    }

    /// A server broke the protocol, or refused what we must set on it.
    pub(super) fn server_failed(
        &mut self,
        key: Key<Backend>,
        session: Key<Session>,
        failure: &ServerFailure,
    ) {
        if admit(Kind::ServerMisbehaved) {
            tracing::warn!(error = %failure, "server connection closed");
        }
        let (end, why, fault) = match failure {
            ServerFailure::ParameterRefused { sqlstate, message } => {
                let message = String::from_utf8_lossy(message);
                let text = format!("cannot restore session state: {message}");
                let fault = Fault::fatal(SqlState(*sqlstate), text);
                (ClientEnd::Refused, ServerClose::Chore, fault)
            }
            ServerFailure::Desync(_)
            | ServerFailure::BadLength(_)
            | ServerFailure::Malformed { .. } => {
                let fault = Fault::fatal(SqlState::PROTOCOL_VIOLATION, "server broke the protocol");
                (ClientEnd::ServerLost, ServerClose::Protocol, fault)
            }
        };
        self.cancel_and_forget(key);
        self.close_backend(key, why);
        self.fail_session(session, end, &fault);
    }

    /// Closes a backend, whatever it is used for; the place it had is free. `why` is for statistics.
    ///
    /// Its session, if it has one, must be told by the caller.
    pub(super) fn close_backend(&mut self, key: Key<Backend>, why: ServerClose) {
        let Some(mut backend) = self.backends.remove(key) else { return };
        self.log_server_end(&backend, why);
        let number = backend.pool;
        let mut goodbye = Vec::new();
        encode::terminate(&mut goodbye);
        // Best effort: a server that does not take it sees the end of the connection.
        let _ = backend.pipe.send(&goodbye, &mut self.wire);
        backend.pipe.send_end(&mut self.wire);
        if let Some(pool) = self.pool_mut(number) {
            pool.cells.server_closes.add(why);
            match backend.role {
                Role::Idle => {
                    pool.slots.remove_idle(key);
                }
                Role::Chore(Chore { kind: ChoreKind::Check, .. }) => {
                    pool.checking = pool.checking.saturating_sub(1);
                    pool.slots.remove_busy();
                }
                Role::Leased(_) | Role::Chore(_) | Role::Cancelling => pool.slots.remove_busy(),
            }
        }
        if let Role::Leased(session) = backend.role
            && let Some(session) = self.sessions.get_mut(session)
            && matches!(session.phase, Phase::Leased(lease) if lease == key)
        {
            session.phase = Phase::Idle;
        }
        drop(backend);
        self.open_wanted(number, Growth::Share);
    }

    /// Closes every backend, at the end.
    pub(super) fn close_all_backends(&mut self) {
        for key in self.backends.keys() {
            self.close_backend(key, ServerClose::Admin);
        }
    }

    /// Closes idle backends that have become useless; busy ones go when they come back.
    pub(super) fn retire_old_backends(&mut self) {
        for key in self.backends.keys() {
            let Some(backend) = self.backends.get(key) else { continue };
            let Some(why) = self.why_unwanted(backend) else { continue };
            if matches!(backend.role, Role::Idle) {
                self.close_backend(key, why);
            }
        }
    }

    /// Finds the session with this cancel key.
    fn find_by_key(&self, pid: i32, secret: &Secret) -> Option<Key<Session>> {
        let is_it = |key: &Key<Session>, keeps_backend| {
            self.sessions.get(*key).is_some_and(|session| {
                session.secret == *secret && session.keeps_first_backend() == keeps_backend
            })
        };
        let place = from_cancel_pid(pid).filter(|(worker, _)| *worker == self.number);
        if let Some(key) = place.map(|(_, place)| Key::new(place)).filter(|key| is_it(key, false)) {
            return Some(key);
        }
        // Or it is the process id of a backend that is its client's own.
        self.backends.range(0, self.backends.places()).find_map(|(_, backend)| match backend.role {
            Role::Leased(key) if backend.process() == pid && is_it(&key, true) => Some(key),
            Role::Leased(_) | Role::Idle | Role::Chore(_) | Role::Cancelling => None,
        })
    }

    /// A client asks to cancel what the session with this key runs.
    pub(super) fn cancel(&mut self, pid: i32, secret: &Secret, done: Done) {
        let Some(key) = self.find_by_key(pid, secret) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let number = session.pool;
        if let Some(cells) = cells_of(&mut self.pools, number) {
            cells.cancel_requests += 1;
        }
        match session.phase {
            Phase::Waiting => {
                session.phase = Phase::Refusing(refuse::Progress::Unanswered);
                self.leave_queue(key, number);
                self.pump_client(key);
            }
            Phase::Leased(lease) => {
                let Some(backend) = self.backends.get_mut(lease) else { return };
                if backend.link.expect.runs_query_of_ours() {
                    // What runs now is ours, not the client's. Pooling point D38.
                    backend.cancel_due = Some(done);
                } else if !backend.link.expect.is_empty() {
                    self.send_cancel(lease, Some(done));
                }
            }
            Phase::Greeting(_)
            | Phase::Idle
            | Phase::Refusing(_)
            | Phase::Leaving(..)
            | Phase::Closing { .. } => {}
        }
    }

    /// Has the server cancel what a leased backend runs. The backend goes to nobody else before
    /// that is done. Pooling point D34.
    pub(super) fn send_cancel(&mut self, lease: Key<Backend>, done: Option<Done>) {
        let worker = self.number;
        let Some(backend) = self.backends.get_mut(lease) else { return };
        let tell = Teller { worker, backend: lease.index(), serial: backend.serial };
        let cancel_key = Arc::clone(&backend.cancel_key);
        let number = backend.pool;
        let (origin, settings) = (Arc::clone(&backend.origin), Arc::clone(&backend.opened_with));
        let (key, tell) = (cancel_key, Some(tell));
        let message = ToControl::Cancel { origin, settings, key, tell, done };
        if self.control.try_send(message).is_ok()
            && let Some(backend) = self.backends.get_mut(lease)
        {
            backend.cancels += 1;
            if let Some(cells) = cells_of(&mut self.pools, number) {
                cells.cancels_sent += 1;
            }
        }
    }

    /// Has the server cancel what a backend runs that is about to be closed.
    pub(super) fn cancel_and_forget(&mut self, key: Key<Backend>) {
        let Some(backend) = self.backends.get(key) else { return };
        if backend.link.expect.is_empty() {
            return;
        }
        let number = backend.pool;
        let (origin, settings) = (Arc::clone(&backend.origin), Arc::clone(&backend.opened_with));
        let key = Arc::clone(&backend.cancel_key);
        let message = ToControl::Cancel { origin, settings, key, tell: None, done: None };
        if self.control.try_send(message).is_err() && admit(Kind::Cancel) {
            tracing::warn!("too busy to cancel an abandoned query");
        } else if let Some(cells) = cells_of(&mut self.pools, number) {
            cells.cancels_sent += 1;
        }
    }

    /// A cancel request has been carried out.
    pub(super) fn cancel_done(&mut self, key: Key<Backend>, serial: u64, is_certain: bool) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        if backend.serial != serial {
            return;
        }
        backend.cancels = backend.cancels.saturating_sub(1);
        if !is_certain {
            // The server may act on it when somebody else has the backend: nobody else gets it.
            backend.link.expect.taint();
        }
        if backend.cancels == 0 && matches!(backend.role, Role::Cancelling) {
            self.check_in(key);
        }
    }
}
