//! Moves bytes between a session and its lease: one read, the pure relay, one write.

use std::borrow::Cow;
use std::sync::Arc;

use super::backend::{Backend, Role, Times};
use super::ends::{Leave, PARTING_MS};
use super::pipe::{Gone, Input};
use super::pool::cells_of;
use super::session::{Phase, Session};
use super::slab::Key;
use super::{Flow, TURNS_MAX, Worker, bytes, length};
use crate::backend::link::Effect;
use crate::backend::params::Interner;
use crate::config::PoolMode;
use crate::fault::{Fault, SqlState};
use crate::metrics::cells::Cells;
use crate::metrics::labels::{ClientEnd, SqlClass};
use crate::session::refuse::{Progress, refuse};
use crate::session::relay::{
    self, Owed, ServerTurn, Stop, answer_alone, from_client, from_server, may_begin, says_goodbye,
};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply, TransactionStatus};
use crate::wire::tag::frontend as tag;

impl Worker {
    /// Does for a client whatever can be done now.
    pub(super) fn pump_client(&mut self, key: Key<Session>) {
        if self.is_suspended {
            // Whoever resumes comes back here.
            return;
        }
        for _ in 0..TURNS_MAX {
            let Some(session) = self.sessions.get_mut(key) else { return };
            if session.pipe.has_unsent() && !session.pipe.is_read_closed() {
                // Backpressure, as PostgreSQL does it: who does not read is not read from.
                return;
            }
            let flow = match session.phase {
                Phase::Leased(backend) => self.relay_client(key, backend),
                Phase::Idle if session.pipe.is_read_closed() => self.read_last(key),
                Phase::Idle if session.has_input() => self.checkout(key),
                Phase::Refusing(progress) => self.refuse(key, progress),
                Phase::Waiting if session.pipe.is_read_closed() => {
                    self.waits_no_more(key);
                    return;
                }
                Phase::Greeting(_) if session.pipe.is_read_closed() => {
                    self.client_leaves(key, Leave::Lost);
                    return;
                }
                Phase::Idle
                | Phase::Waiting
                | Phase::Greeting(_)
                | Phase::Leaving(..)
                | Phase::Closing { .. } => return,
            };
            if flow == Flow::Blocked {
                return;
            }
        }
        self.runnable.push_back(key);
    }

    /// Looks at the request of a client that has to wait: what needs no backend is answered.
    pub(super) fn peek_request(&mut self, key: Key<Session>) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        if !session.has_backlog {
            match session.pipe.next_input(&mut self.scratch, &mut self.wire) {
                Ok(Some(input)) => session.pipe.stash = input.into_owned(),
                Ok(None) => {}
                Err(Gone) => {
                    self.client_leaves(key, Leave::Lost);
                    return Flow::Blocked;
                }
            }
        }
        if session.pipe.stash.first() == Some(&tag::TERMINATE) {
            self.client_leaves(key, Leave::Terminate);
            return Flow::Blocked;
        }
        let stash = std::mem::take(&mut session.pipe.stash);
        let mut replies = Vec::new();
        let done = answer_alone(&stash, &mut session.front, &mut self.shared, &mut replies);
        session.pipe.keep_rest(&stash, done);
        session.has_backlog = !session.pipe.stash.is_empty();
        if done == 0 {
            return Flow::Blocked;
        }
        let number = session.pool;
        let is_sent = session.pipe.send(&replies, &mut self.wire).is_ok();
        if let Some(cells) = cells_of(&mut self.pools, number) {
            cells.received_bytes += bytes(stash.get(..done).unwrap_or_default());
            cells.sent_bytes += bytes(&replies);
            self.shared.noted.count_into(cells);
        }
        self.want_no_backend(key);
        if is_sent {
            return Flow::Again;
        }
        self.client_leaves(key, Leave::Lost);
        Flow::Blocked
    }

    /// A client that waits for a backend will send nothing more. What it has sent whole is carried
    /// out when its turn comes; without a goodbye, if that is soon. Pooling point B20.
    pub(super) fn waits_no_more(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        while !may_begin(&session.pipe.stash, &session.front) {
            let Ok(Input::Bytes(count)) = session.pipe.read(&mut self.scratch, &mut self.wire)
            else {
                self.client_leaves(key, Leave::Lost);
                return;
            };
            session.pipe.stash.extend_from_slice(self.scratch.get(..count).unwrap_or_default());
        }
        session.has_backlog = true;
        if session.pipe.stash.first() == Some(&tag::TERMINATE) {
            self.client_leaves(key, Leave::Terminate);
        } else if self.now_ms.saturating_sub(session.request_ms) >= PARTING_MS
            && !says_goodbye(&session.pipe.stash, &session.front)
        {
            self.client_leaves(key, Leave::Lost);
        }
    }

    /// A client without a lease has closed its side: what it sent before is looked at first, so
    /// that saying goodbye needs no backend.
    fn read_last(&mut self, key: Key<Session>) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        if session.has_backlog {
            return self.checkout(key);
        }
        match session.pipe.read(&mut self.scratch, &mut self.wire) {
            Ok(Input::Later) => return Flow::Blocked,
            Err(Gone) => {
                self.client_leaves(key, Leave::Lost);
                return Flow::Blocked;
            }
            Ok(Input::Bytes(count)) => {
                session.pipe.stash.extend_from_slice(self.scratch.get(..count).unwrap_or_default());
            }
        }
        if session.pipe.stash.first() == Some(&tag::TERMINATE) {
            self.client_leaves(key, Leave::Terminate);
            return Flow::Blocked;
        }
        session.has_backlog = true;
        self.checkout(key)
    }

    fn relay_client(&mut self, key: Key<Session>, lease: Key<Backend>) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        let Some(backend) = self.backends.get_mut(lease) else { return Flow::Blocked };
        if backend.pipe.has_unsent() {
            // Backpressure: the server's next writable event comes back here.
            return Flow::Blocked;
        }
        let input = if std::mem::take(&mut session.has_backlog) {
            Cow::Owned(std::mem::take(&mut session.pipe.stash))
        } else {
            match session.pipe.next_input(&mut self.scratch, &mut self.wire) {
                Ok(Some(input)) => input,
                Ok(None) => return self.unused(key, lease),
                Err(Gone) => {
                    self.client_leaves(key, Leave::Lost);
                    return Flow::Blocked;
                }
            }
        };
        if session.is_fresh && !may_begin(&input, &session.front) {
            session.pipe.keep_rest(&input, 0);
            return self.unused(key, lease);
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let was_empty = backend.link.expect.is_empty();
        let was_between = backend.link.expect.is_between_segments();
        let was_at_rest = backend.link.expect.is_at_rest();
        if std::mem::take(&mut session.is_fresh) {
            restore_parameters(session, backend, &mut self.shared.interner, &mut out);
            let at = usize::try_from(session.pool.0).unwrap_or(usize::MAX);
            let pool = self.pools.get(at).and_then(Option::as_ref);
            session.front.definitions = pool.and_then(|pool| pool.definitions.clone());
        }
        let mut replies = Vec::new();
        let (front, link) = (&mut session.front, &mut backend.link);
        let turn = from_client(&input, front, link, &mut self.shared, &mut out, &mut replies);
        let mut received = 0;
        let outcome = match turn {
            Ok(turn) => {
                received = turn.consumed;
                session.pipe.keep_rest(&input, turn.consumed);
                match backend.pipe.send(turn.to_server, &mut self.wire) {
                    Ok(()) => Ok(turn.stop),
                    Err(Gone) => Err(None),
                }
            }
            Err(fault) => Err(Some(fault)),
        };
        if was_empty {
            backend.times.query_ms = self.now_ms;
        }
        if was_between {
            backend.times.segment_us = self.now_us;
        }
        if was_at_rest {
            backend.times.transaction_us = self.now_us;
        }
        if let Some(cells) = cells_of(&mut self.pools, session.pool) {
            cells.received_bytes += length(received);
            cells.sent_bytes += bytes(&replies);
            self.shared.noted.count_into(cells);
        }
        self.out = out;
        let is_answered = session.pipe.send(&replies, &mut self.wire).is_ok();
        match outcome {
            Ok(stop) if is_answered => return self.client_turn_done(key, lease, stop),
            Ok(_) => self.client_leaves(key, Leave::Lost),
            Err(Some(fault)) => self.fail_session(key, ClientEnd::Protocol, &fault),
            Err(None) => self.backend_takes_nothing(lease),
        }
        Flow::Blocked
    }

    /// Decides what comes after a client's turn.
    fn client_turn_done(&mut self, key: Key<Session>, lease: Key<Backend>, stop: Stop) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        let Some(backend) = self.backends.get_mut(lease) else { return Flow::Blocked };
        match stop {
            Stop::Terminate => {
                self.client_leaves(key, Leave::Terminate);
                Flow::Blocked
            }
            Stop::Full => {
                session.has_backlog = true;
                self.settle_doubt(lease, key);
                Flow::Blocked
            }
            Stop::Drained => {
                if relay::is_at_rest(&session.front, &backend.link) {
                    // Nothing that has an answer was sent: a Flush, or late CopyData.
                    self.release(key, lease);
                    return Flow::Again;
                }
                if session.pipe.is_readable() { Flow::Again } else { Flow::Blocked }
            }
        }
    }

    /// A lease that was given for input which turned out not to be there.
    fn unused(&mut self, key: Key<Session>, lease: Key<Backend>) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        let Some(backend) = self.backends.get_mut(lease) else { return Flow::Blocked };
        if session.is_fresh && relay::is_at_rest(&session.front, &backend.link) {
            // More may have come while it waited.
            let flow = if session.pipe.is_readable() { Flow::Again } else { Flow::Blocked };
            self.release(key, lease);
            return flow;
        }
        Flow::Blocked
    }

    /// Does for a backend whatever can be done now.
    pub(super) fn pump_server(&mut self, key: Key<Backend>) {
        if self.is_suspended {
            return;
        }
        for _ in 0..TURNS_MAX {
            let Some(backend) = self.backends.get_mut(key) else { return };
            let flow = match backend.role {
                Role::Leased(session) => self.relay_server(key, session),
                Role::Idle | Role::Cancelling | Role::Chore(_) => self.read_unleased(key),
            };
            if flow == Flow::Blocked {
                return;
            }
        }
        self.runnable_backends.push_back(key);
    }

    fn relay_server(&mut self, key: Key<Backend>, lessee: Key<Session>) -> Flow {
        let Some(session) = self.sessions.get_mut(lessee) else { return Flow::Blocked };
        let Some(backend) = self.backends.get_mut(key) else { return Flow::Blocked };
        if session.pipe.has_unsent() {
            // Backpressure: the client's next writable event comes back here.
            return Flow::Blocked;
        }
        let input = match backend.pipe.next_input(&mut self.scratch, &mut self.wire) {
            Ok(Some(input)) => input,
            Ok(None) if !backend.pipe.is_deaf() => return Flow::Blocked,
            Ok(None) | Err(Gone) => {
                self.backend_gone(key);
                return Flow::Blocked;
            }
        };
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let ran_ours = backend.link.expect.runs_query_of_ours();
        let turn =
            from_server(&input, &mut session.front, &mut backend.link, &mut self.shared, &mut out);
        let (was_ready, is_heard) = match turn {
            Ok(turn) => {
                backend.pipe.keep_rest(&input, turn.consumed);
                let is_heard = session.pipe.send(turn.to_client, &mut self.wire).is_ok();
                if !is_heard {
                    session.pipe.drop_output();
                }
                if let Some(cells) = cells_of(&mut self.pools, backend.pool) {
                    cells.sent_bytes += bytes(turn.to_client);
                    if turn.queries > 0 {
                        count_queries(cells, &mut backend.times, &turn, self.now_us);
                    }
                    self.shared.noted.count_into(cells);
                }
                (turn.was_ready, is_heard)
            }
            Err(failure) => {
                if let Some(cells) = cells_of(&mut self.pools, backend.pool) {
                    self.shared.noted.count_into(cells);
                }
                self.out = out;
                self.server_failed(key, lessee, &failure);
                return Flow::Blocked;
            }
        };
        self.out = out;
        if ran_ours
            && !backend.link.expect.runs_query_of_ours()
            && let Some(done) = backend.cancel_due.take()
            && !backend.link.expect.is_empty()
        {
            self.send_cancel(key, Some(done));
        }
        self.settle_doubt(key, lessee);
        if !is_heard {
            self.client_leaves(lessee, Leave::Lost);
        }
        self.server_turn_done(key, lessee, was_ready)
    }

    /// Asks the server where it stands, if that is not known (behind a COPY that failed), and the client
    /// is not in the middle of a message.
    fn settle_doubt(&mut self, key: Key<Backend>, lessee: Key<Session>) {
        let Some(session) = self.sessions.get(lessee) else { return };
        let Some(backend) = self.backends.get_mut(key) else { return };
        if !session.front.passage.is_boundary() || !backend.link.expect.must_ask() {
            return;
        }
        let mut question = Vec::new();
        encode::sync(&mut question);
        encode::close_statement(&mut question, relay::NOTHING_NAME);
        encode::sync(&mut question);
        for awaited in [Awaited::Sync, Awaited::Close, Awaited::Sync] {
            backend.link.expect.push(awaited, Reply::Swallow, Effect::None);
        }
        if backend.pipe.send(&question, &mut self.wire).is_err() {
            self.backend_gone(key);
        }
    }

    /// Decides what comes after a server's turn.
    fn server_turn_done(
        &mut self,
        key: Key<Backend>,
        lessee: Key<Session>,
        was_ready: bool,
    ) -> Flow {
        let Some(session) = self.sessions.get_mut(lessee) else { return Flow::Blocked };
        let Some(backend) = self.backends.get_mut(key) else { return Flow::Blocked };
        if matches!(session.phase, Phase::Leaving(..)) {
            return self.leaving_turn_done(key, lessee);
        }
        if was_ready {
            backend.times.ready_ms = self.now_ms;
            let is_over = backend.link.is_at_rest() && backend.pipe.stash.is_empty();
            if is_over && session.front.passage.is_boundary() {
                if session.has_input() {
                    self.runnable.push_back(lessee);
                }
                self.release(lessee, key);
            } else if backend.link.expect.status() != TransactionStatus::Idle {
                self.refuse_transaction_block(lessee);
            }
        }
        if let Some(session) = self.sessions.get_mut(lessee)
            && session.has_backlog
        {
            self.runnable.push_back(lessee);
        }
        let may_go_on =
            self.backends.get_mut(key).is_some_and(|backend| backend.pipe.is_readable());
        if may_go_on { Flow::Again } else { Flow::Blocked }
    }

    /// Decides what comes after a server's turn for a client that will send nothing more.
    pub(super) fn leaving_turn_done(&mut self, key: Key<Backend>, lessee: Key<Session>) -> Flow {
        let Some(session) = self.sessions.get_mut(lessee) else { return Flow::Blocked };
        let Some(backend) = self.backends.get_mut(key) else { return Flow::Blocked };
        let Phase::Leaving(_, departure) = &mut session.phase else { return Flow::Blocked };
        session.idle_ms = self.now_ms;
        if session.pipe.has_unsent() {
            return Flow::Blocked;
        }
        match relay::owed(&session.front, &backend.link) {
            // Told goodbye, the server has the last word.
            Owed::Nothing if !departure.is_passed_on => {
                self.remove_session(lessee);
                return Flow::Blocked;
            }
            Owed::LastWords if !departure.is_passed_on => {
                departure.is_passed_on = true;
                let mut goodbye = Vec::new();
                encode::terminate(&mut goodbye);
                if backend.pipe.send(&goodbye, &mut self.wire).is_err() {
                    self.backend_gone(key);
                    return Flow::Blocked;
                }
            }
            Owed::Nothing | Owed::LastWords | Owed::Answers => {}
        }
        if backend.pipe.is_readable() { Flow::Again } else { Flow::Blocked }
    }

    /// Statement mode has no transactions of several messages.
    fn refuse_transaction_block(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let number = session.pool;
        let mode = self.pool(number).map(|pool| pool.settings.mode);
        if mode == Some(PoolMode::Statement) {
            let text = "transaction blocks not allowed in statement pooling mode";
            let fault = Fault::fatal(SqlState::FEATURE_NOT_SUPPORTED, text);
            self.fail_session(key, ClientEnd::Refused, &fault);
        }
    }

    /// The client has taken some of what it was sent.
    pub(super) fn client_writable(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match session.pipe.flush() {
            Err(Gone) => {
                session.pipe.drop_output();
                if let Phase::Leaving(lease, _) = session.phase {
                    self.leaving_turn_done(lease, key);
                } else {
                    self.client_leaves(key, Leave::Lost);
                }
            }
            Ok(false) => {}
            Ok(true) => {
                if session.front.state.has_channels() {
                    self.deliver(key);
                }
                self.client_took_all(key);
            }
        }
    }

    fn client_took_all(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match session.phase {
            Phase::Leased(backend) => {
                self.runnable.push_back(key);
                self.pump_server(backend);
            }
            Phase::Idle | Phase::Waiting | Phase::Refusing(_) => self.runnable.push_back(key),
            Phase::Closing { .. } => self.remove_session(key),
            Phase::Leaving(lease, _) => {
                self.runnable_backends.push_back(lease);
                self.leaving_turn_done(lease, key);
            }
            Phase::Greeting(_) => {}
        }
    }

    /// The server has taken some of what it was sent.
    pub(super) fn server_writable(&mut self, key: Key<Backend>) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        match backend.pipe.flush() {
            Err(Gone) => self.backend_gone(key),
            Ok(false) => {}
            Ok(true) => {
                if let Role::Leased(session) = backend.role {
                    self.runnable.push_back(session);
                }
            }
        }
    }

    /// Reads a cancelled request off its client and answers it.
    fn refuse(&mut self, key: Key<Session>, mut progress: Progress) -> Flow {
        let Some(session) = self.sessions.get_mut(key) else { return Flow::Blocked };
        if session.has_backlog {
            session.has_backlog = false;
        } else {
            match session.pipe.read(&mut self.scratch, &mut self.wire) {
                Ok(Input::Later) => return Flow::Blocked,
                Ok(Input::Bytes(count)) => {
                    let bytes = self.scratch.get(..count).unwrap_or_default();
                    session.pipe.stash.extend_from_slice(bytes);
                }
                Err(Gone) => {
                    self.client_leaves(key, Leave::Lost);
                    return Flow::Blocked;
                }
            }
        }
        let input = std::mem::take(&mut session.pipe.stash);
        let text = "canceling statement due to user request";
        let fault = Fault::error(SqlState::QUERY_CANCELED, text);
        let mut replies = Vec::new();
        let was_unanswered = progress == Progress::Unanswered;
        let passage = &mut session.front.passage;
        let done = match refuse(&input, &mut progress, passage, &fault, &mut replies) {
            Ok(done) => done,
            Err(fault) => {
                self.fail_session(key, ClientEnd::Protocol, &fault);
                return Flow::Blocked;
            }
        };
        session.pipe.stash.extend_from_slice(input.get(done..).unwrap_or_default());
        let is_answered = progress == Progress::Answered && session.front.passage.is_boundary();
        let is_leaving = session.pipe.stash.first() == Some(&tag::TERMINATE);
        session.has_backlog = is_answered && !session.pipe.stash.is_empty();
        session.phase = if is_answered { Phase::Idle } else { Phase::Refusing(progress) };
        if let Some(cells) = cells_of(&mut self.pools, session.pool) {
            cells.received_bytes += length(done);
            cells.sent_bytes += bytes(&replies);
            if was_unanswered && progress != Progress::Unanswered {
                cells.pooler_errors.add(SqlClass::of(fault.sqlstate.0));
            }
        }
        if session.pipe.send(&replies, &mut self.wire).is_err() || is_leaving {
            self.client_leaves(key, Leave::Lost);
            return Flow::Blocked;
        }
        self.deliver(key);
        Flow::Again
    }
}

/// Counts the queries and transactions that ended in a turn. What follows in a pipeline begins where
/// the one before it ends.
fn count_queries(cells: &mut Cells, times: &mut Times, turn: &ServerTurn<'_>, now_us: u64) {
    for _ in 0..turn.queries {
        cells.query.record(now_us.saturating_sub(times.segment_us));
        times.segment_us = now_us;
    }
    for _ in 0..turn.transactions {
        cells.transaction.record(now_us.saturating_sub(times.transaction_us));
        times.transaction_us = now_us;
    }
}

/// Puts in front of a lease's first message what takes the backend to the session's parameters. It
/// costs no round trip: the replies are dropped when they come.
fn restore_parameters(
    session: &Session,
    backend: &mut Backend,
    interner: &mut Interner,
    out: &mut Vec<u8>,
) {
    if Arc::ptr_eq(&session.front.params, &backend.link.params) {
        return;
    }
    let mut sql = Vec::new();
    backend.link.params.write_encoding_of(&session.front.params, &mut sql);
    if !sql.is_empty() {
        // A query is read in one encoding to its end.
        encode::query(out, &sql);
        backend.link.expect.push(Awaited::Query, Reply::Swallow, Effect::None);
        sql.clear();
    }
    backend.link.params.write_changes_to(&session.front.params, &mut sql);
    if !sql.is_empty() {
        encode::query(out, &sql);
        backend.link.expect.push(Awaited::Query, Reply::Swallow, Effect::None);
        // What is reported changes when that is reported; the rest holds, or the backend is closed.
        let (at, wanted) = (&backend.link.params, &session.front.params);
        if at.carried() != wanted.carried() {
            backend.link.params = interner.intern(at.carrying(wanted.carried().to_vec()));
        }
    }
}
