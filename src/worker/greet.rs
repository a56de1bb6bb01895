//! Welcomes clients that have just logged in.
//!
//! A client is told what the server says of its session, so somebody must have asked one: the first
//! client of a pool waits for its first backend. Startup parameters are tried on a backend before
//! the client is told that all is well, so that a bad value fails the login, as PostgreSQL does it;
//! what the server makes of them is remembered, so that later clients need not wait. Pooling points
//! C29 to C31.
//!
//! A client in session mode has one backend for all its life, and is told its process id: tools look
//! that up. So it waits for its backend before it is greeted, as it would wait for a connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backend::{Backend, Chore, ChoreKind, Role};
use super::pipe::Pipe;
use super::pool::Pool;
use super::session::{Greeting, Phase, Session};
use super::slab::Key;
use super::{Worker, micros, next_serial, session_token};
use crate::backend::params::{self, Param, ParamSet};
use crate::config::{PoolMode, SessionState};
use crate::fault::{Fault, SqlState};
use crate::metrics::labels::{ClientEnd, ServerClose};
use crate::pool::spec::{PoolNumber, Seat, Spec, Welcome};
use crate::session::front::Front;
use crate::session::login::Authenticated;
use crate::session::options;
use crate::session::state::State;
use crate::wire::encode;

impl Worker {
    /// Takes a client that has logged in.
    pub(super) fn welcome(&mut self, spec: &Arc<Spec>, client: Authenticated) {
        let key = self.sessions.next_key();
        let secret = client.cancel_secret();
        let Authenticated {
            stream, peer, parameters, greeting, unread, admitted, accepted_at, ..
        } = client;
        let registered = stream
            .into_raw()
            .and_then(|mut raw| self.register(&mut raw.socket, session_token(key)).map(|()| raw));
        let raw = match registered {
            Ok(raw) => raw,
            Err(error) => {
                tracing::error!(%error, "cannot watch a client connection");
                self.count_client_out();
                return;
            }
        };
        let now_ms = self.now_ms;
        let Some(pool) = self.pool_of(spec) else { return };
        pool.sessions += 1;
        let mut front = Front::new(pool.statement_rules(), pool.scope, Arc::default());
        front.state = State::new(pool.settings.session_state, Some(Arc::clone(&pool.spec.pinned)));
        front.length_max = front.length_max.min(pool.settings.max_packet_size);
        let greeting = Greeting {
            hello: greeting,
            accepted_at,
            parameters,
            wanted: None,
            foreign: Vec::new(),
            backend: None,
        };
        let pipe = Pipe::new(raw, unread);
        let session = Session {
            has_backlog: !pipe.stash.is_empty(),
            pipe,
            front,
            serial: next_serial(),
            peer,
            pool: spec.number,
            phase: Phase::Greeting(Box::new(greeting)),
            secret,
            is_fresh: false,
            login_ms: now_ms,
            request_ms: now_ms,
            idle_ms: now_ms,
            admitted,
            seat: Seat::new(spec),
        };
        let key = self.sessions.insert(session);
        if self.sessions.get(key).is_some_and(|session| self.must_go(session)) {
            self.send_off(key);
        } else if !self.greet_if_known(key) {
            self.enqueue(key, spec.number);
        }
    }

    /// Greets a client if all it must be told is known; says whether that was so.
    pub(super) fn greet_if_known(&mut self, key: Key<Session>) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let Phase::Greeting(greeting) = &mut session.phase else { return true };
        let at = usize::try_from(session.pool.0).unwrap_or(usize::MAX);
        let Some(pool) = self.pools.get_mut(at).and_then(Option::as_mut) else { return true };
        let Some(welcome) = pool.spec.welcome() else { return false };
        let ignored = &self.general.ignore_startup_parameters;
        let (wanted, foreign) = wanted(&welcome, &greeting.parameters, ignored);
        let wanted = self.shared.interner.intern_shared(wanted);
        let canonical = pool.canonical(&welcome.base, &wanted);
        greeting.wanted = Some(wanted);
        greeting.foreign = foreign;
        let is_known = greeting.foreign.is_empty() && !session.keeps_first_backend();
        match canonical {
            Some(params) if is_known => {
                self.greet(key, params, None);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Says whether a session has not been greeted yet.
    pub(super) fn is_greeting(&self, key: Key<Session>) -> bool {
        self.sessions.get(key).is_some_and(|session| matches!(session.phase, Phase::Greeting(_)))
    }

    /// Counts a client of this worker out.
    pub(super) fn count_client_out(&self) {
        if let Some(me) = self.workers.get(self.number) {
            me.client_counter().fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The first backend of a pool has brought what its clients were waiting to be told.
    pub(super) fn greet_waiting(&mut self, number: PoolNumber) {
        let Some(pool) = self.pool(number) else { return };
        // Everybody in the queue of a pool that had no welcome waits for it.
        let waiting: Vec<Key<Session>> = pool.slots.waiting_sessions().collect();
        for key in waiting {
            if self.is_greeting(key)
                && self.greet_if_known(key)
                && let Some(pool) = self.pool_mut(number)
            {
                pool.slots.leave(key);
            }
        }
    }

    /// Tries a client's startup parameters on a backend that was leased for it.
    pub(super) fn try_greeting(&mut self, key: Key<Session>, lease: Key<Backend>) {
        if self.greet_if_known(key) {
            return self.check_in(lease);
        }
        let now_us = self.now_us;
        let sets_foreign = self.may_set_foreign(key);
        let pool = self.sessions.get(key).and_then(|session| self.pool(session.pool));
        let welcome = pool.and_then(|pool| pool.spec.welcome());
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Phase::Greeting(greeting) = &mut session.phase else { return };
        let Some(backend) = self.backends.get_mut(lease) else { return };
        let Some(wanted) = greeting.wanted.clone() else {
            // A reload has just made this backend useless, and all that was known of its server.
            let number = session.pool;
            if let Some(pool) = self.pool_mut(number) {
                pool.slots.queue(key, now_us);
            }
            return self.close_backend(lease, ServerClose::Replaced);
        };
        let mut sql = Vec::new();
        match welcome.as_deref() {
            // A value may be a part of one (`DateStyle = 'sql'`): it is that of a fresh session which
            // it changes, not what the client before has left.
            Some(Welcome { base, .. }) if **base != *backend.link.params => {
                backend.link.params.write_changes_to(base, &mut sql);
                base.write_changes_to(&wanted, &mut sql);
            }
            Some(_) | None => backend.link.params.write_changes_to(&wanted, &mut sql),
        }
        for (name, value) in &greeting.foreign {
            if sets_foreign {
                params::write_set_config(&mut sql, name, value);
            } else {
                params::write_trial(&mut sql, name, value);
            }
        }
        if sql.is_empty() {
            return self.greet_on(key, Arc::clone(&wanted), (wanted, lease));
        }
        greeting.backend = Some(lease);
        self.start_chore(lease, ChoreKind::Greet(Some(key)), &sql);
    }

    /// The server has said what it makes of a client's startup parameters.
    pub(super) fn greeting_tried(
        &mut self,
        lease: Key<Backend>,
        session: Option<Key<Session>>,
        error: Option<Fault>,
    ) {
        let was_set = error.is_none();
        if error.is_none()
            && let Some(backend) = self.backends.get_mut(lease)
            && !backend.link.params.carried().is_empty()
        {
            // What the client before had set was taken back in front.
            let fresh = backend.link.params.carrying(Vec::new());
            backend.link.params = self.shared.interner.intern(fresh);
        }
        let canonical =
            self.backends.get_mut(lease).map(|backend| Arc::clone(&backend.link.params));
        if let (Some(key), Some(canonical)) = (session, canonical) {
            let refused = error.or_else(|| self.unsupported(key));
            let wanted = self.detach_greeting(key);
            match (refused, wanted) {
                (None, Some(wanted)) => return self.greet_on(key, wanted, (canonical, lease)),
                (Some(fault), _) => self.fail_session(key, ClientEnd::Refused, &fault),
                (None, None) => {}
            }
        }
        // What was set for a client in session mode stands, and it has not come to use it.
        if was_set
            && let Some(backend) = self.backends.get_mut(lease)
            && backend.opened_with.mode == PoolMode::Session
        {
            backend.link.expect.taint();
        }
        self.check_in(lease);
    }

    /// Greets a client on the backend that has made `canonical` of what it wanted, which it keeps
    /// or gives back.
    fn greet_on(
        &mut self,
        key: Key<Session>,
        wanted: Arc<ParamSet>,
        (canonical, lease): (Arc<ParamSet>, Key<Backend>),
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return self.check_in(lease) };
        let (number, keeps) = (session.pool, session.keeps_first_backend());
        if let Some(pool) = self.pool_mut(number) {
            pool.learn_canonical(wanted, Arc::clone(&canonical));
        }
        self.greet(key, canonical, keeps.then_some(lease));
        // Whoever else waited to learn that is greeted here: neither one by one, nor by way of the
        // check-in, which would call this again for each.
        self.greet_waiting(number);
        if !keeps {
            self.check_in(lease);
        }
    }

    /// What to tell a client that wants a parameter which the server knows, but does not report, and
    /// that cannot go with it to the next backend. A client that has only one gets it set there,
    /// provided that it will be taken back before the next client.
    fn unsupported(&mut self, key: Key<Session>) -> Option<Fault> {
        let session = self.sessions.get(key)?;
        let Phase::Greeting(greeting) = &session.phase else { return None };
        let pool = self.pool(session.pool)?;
        let is_possible = if session.keeps_first_backend() {
            self.may_set_foreign(key)
        } else {
            pool.settings.session_state == SessionState::Track
        };
        if is_possible {
            return None;
        }
        let (name, _) = greeting.foreign.first()?;
        let name = String::from_utf8_lossy(name);
        let text = format!("unsupported startup parameter: {name}");
        Some(Fault::fatal(SqlState::FEATURE_NOT_SUPPORTED, text))
    }

    fn may_set_foreign(&self, key: Key<Session>) -> bool {
        let resets = |pool: &Pool| !pool.settings.server_reset_query.is_empty();
        self.sessions.get(key).is_some_and(|session| {
            session.keeps_first_backend() && self.pool(session.pool).is_some_and(resets)
        })
    }

    fn detach_greeting(&mut self, key: Key<Session>) -> Option<Arc<ParamSet>> {
        let session = self.sessions.get_mut(key)?;
        let Phase::Greeting(greeting) = &mut session.phase else { return None };
        greeting.backend = None;
        greeting.wanted.take()
    }

    /// Forgets the client that a greeting on this backend is for: it has left.
    pub(super) fn orphan_greeting(&mut self, lease: Key<Backend>) {
        if let Some(backend) = self.backends.get_mut(lease)
            && let Role::Chore(Chore { kind: ChoreKind::Greet(session), .. }) = &mut backend.role
        {
            *session = None;
        }
    }

    /// Tells a client that its session has begun, perhaps with a backend.
    fn greet(&mut self, key: Key<Session>, params: Arc<ParamSet>, lease: Option<Key<Backend>>) {
        let process = lease.and_then(|lease| self.backends.get(lease)).map(Backend::process);
        let pid = process.unwrap_or_else(|| cancel_pid(self.number, key));
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Phase::Greeting(greeting) = std::mem::replace(&mut session.phase, Phase::Idle) else {
            return;
        };
        let pool =
            usize::try_from(session.pool.0).ok().and_then(|at| self.pools.get_mut(at)?.as_mut());
        let took_us = self
            .now_us
            .saturating_sub(micros(greeting.accepted_at.saturating_duration_since(self.epoch)));
        let mut params = params;
        if lease.is_none() && !greeting.foreign.is_empty() {
            let lower = |(name, value): Wish| (name.to_ascii_lowercase().into(), value.into());
            let carried: Vec<Param> = greeting.foreign.into_iter().map(lower).collect();
            params = self.shared.interner.intern(params.carrying(carried));
        }
        let mut hello = greeting.hello;
        if let Some(pool) = pool {
            pool.cells.login.record(took_us);
            let welcome = pool.spec.welcome();
            hello.extend(welcome.iter().flat_map(|welcome| &*welcome.notices));
            for (name, value) in welcome.iter().flat_map(|welcome| &welcome.facts) {
                encode::parameter_status(&mut hello, name, value);
            }
        }
        for (name, value) in params.iter() {
            encode::parameter_status(&mut hello, name, value);
        }
        encode::backend_key_data(&mut hello, pid, session.secret.expose());
        encode::ready_for_query(&mut hello, b'I');
        session.front.params = params;
        session.idle_ms = now_ms;
        if let Some(lease) = lease {
            self.begin_lease(key, lease);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.pipe.send(&hello, &mut self.wire).is_err() {
            self.client_leaves(key, super::ends::Leave::Lost);
        } else if session.has_input() {
            self.runnable.push_back(key);
        }
    }
}

/// A startup parameter: name and value.
type Wish = (Vec<u8>, Vec<u8>);

/// The parameters that a client wants: those of a fresh session with its own startup parameters in
/// them, and those of its own that the server does not report.
fn wanted(
    welcome: &Welcome,
    parameters: &[Wish],
    ignored: &[String],
) -> (Arc<ParamSet>, Vec<Wish>) {
    let mut wanted = Arc::clone(&welcome.base);
    let mut foreign = Vec::new();
    // As PostgreSQL does it: `options` first, then the parameters by name (`process_startup_options`).
    let options = parameters.iter().filter(|(name, _)| name == b"options");
    let named = parameters.iter().filter(|(name, _)| name != b"options").cloned();
    let given = options.flat_map(|(_, value)| options::settings(value)).chain(named);
    for (name, value) in given {
        if wanted.value(&name).is_some() {
            if let Some(changed) = wanted.with(&name, &value) {
                wanted = Arc::new(changed);
            }
        } else if !ignored.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(&name)) {
            foreign.push((name, value));
        }
    }
    (wanted, foreign)
}

/// The first half of a client's cancel key: which worker, and which place there. It is no secret,
/// like PostgreSQL's process id; never 0 or negative.
fn cancel_pid(worker: usize, key: Key<Session>) -> i32 {
    let worker = i32::try_from(worker & 0x7f).unwrap_or(0);
    let place = i32::try_from(key.index() & 0x00ff_ffff).unwrap_or(0);
    (worker << 24) | ((place + 1) & 0x00ff_ffff)
}

/// Reads a `pid` that [`cancel_pid`] made: worker and place of the session.
pub(super) fn from_cancel_pid(pid: i32) -> Option<(usize, u32)> {
    let worker = usize::try_from(pid >> 24).ok()?;
    let place = u32::try_from(pid & 0x00ff_ffff).ok()?.checked_sub(1)?;
    Some((worker, place))
}
