//! Notifications of the listener that all clients of a database share: who listens to what, the steps
//! by which a client's channels are handed over ([`session::channels`](crate::session::channels)
//! says why nothing is lost by them), and delivery between transactions.
//!
//! Clients that do not listen are in none of this.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::backend::Backend;
use super::ends::Leave;
use super::mailbox::{ChannelChange, Grant, ToControl};
use super::pool::cells_of;
use super::session::{Phase, Session};
use super::slab::Key;
use super::{Worker, bytes, length};
use crate::backend::link::{ChannelQuery, Effect};
use crate::backend::params::ParamSet;
use crate::fault::{Fault, SqlState};
use crate::metrics::labels::ClientEnd;
use crate::pool::spec::Spec;
use crate::session::channels::{Ending, Name, Next, Notification};
use crate::session::relay;
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};

/// How long a marker may take. Then the shared listener is not connected to where the client's
/// backend is, or is stuck.
const MARKER_MS: u64 = 10_000;

/// The encoding that the shared listener has everything in.
const ENCODING: &[u8] = b"UTF8";

/// Who listens to what.
#[derive(Debug, Default)]
pub(super) struct Audiences {
    by_database: HashMap<String, Audience>,
    /// Markers under way, in order.
    markings: VecDeque<Marking>,
}

/// The clients of one database that listen.
#[derive(Debug, Default)]
struct Audience {
    sessions: BTreeMap<Name, BTreeSet<u32>>,
    /// The server converts nothing: all encodings look the same.
    has_any_encoding: bool,
}

/// A marker under way.
#[derive(Debug)]
struct Marking {
    due_ms: u64,
    session: Key<Session>,
    serial: u64,
    payload: Box<[u8]>,
}

impl Worker {
    /// Does what is to be done about the channels of a session, at rest; says whether nothing of ours
    /// is under way because of that. The session may be gone behind it.
    pub(super) fn go_on_listening(&mut self, key: Key<Session>, lease: Key<Backend>) -> bool {
        loop {
            let Some(session) = self.sessions.get_mut(key) else { return false };
            // A query of ours would drop a long unnamed statement, which nobody else has.
            let may_ask = !session.front.has_long_unnamed();
            let Some(channels) = session.front.state.channels_mut() else { return true };
            if let Some(ending) = channels.ending() {
                self.end_listener(key, ending);
                return false;
            }
            match if may_ask { channels.go_on() } else { Next::Nothing } {
                Next::Say(notifications) => {
                    if !self.send_notifications(key, &notifications) {
                        return false;
                    }
                }
                Next::Ask(names) => {
                    self.ask_to_listen(key, names);
                    break;
                }
                Next::Mark(sql, payload) => {
                    let serial = session.serial;
                    let due_ms = self.now_ms.saturating_add(MARKER_MS);
                    let marking = Marking { due_ms, session: key, serial, payload };
                    self.audiences.markings.push_back(marking);
                    self.run_for_channels(lease, &sql, ChannelQuery::Mark);
                    return false;
                }
                Next::Release(sql) => {
                    session.front.state.release_channels();
                    self.register_channels(key);
                    self.run_for_channels(lease, &sql, ChannelQuery::Release);
                    return false;
                }
                Next::Nothing => break,
            }
        }
        self.register_channels(key);
        self.deliver(key);
        self.sessions.get(key).is_some()
    }

    fn run_for_channels(&mut self, lease: Key<Backend>, sql: &[u8], query: ChannelQuery) {
        let Some(backend) = self.backends.get_mut(lease) else { return };
        let mut message = Vec::with_capacity(sql.len() + 8);
        encode::query(&mut message, sql);
        backend.link.has_unnamed = false;
        backend.link.expect.push(Awaited::Query, Reply::Swallow, Effect::Channels(query));
        backend.times.query_ms = self.now_ms;
        if backend.pipe.send(&message, &mut self.wire).is_err() {
            self.backend_gone(lease);
        }
    }

    /// Asks the control plane to have the shared listener listen to these.
    fn ask_to_listen(&mut self, key: Key<Session>, names: Vec<Name>) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(pool) = self.pool(session.pool) else { return };
        let spec = Arc::clone(&pool.spec);
        let (session, serial) = (key.index(), session.serial);
        let change = ChannelChange::Listen { session, serial, names: names.into() };
        let message = ToControl::Channels { spec, worker: self.number, change };
        if self.control.try_send(message).is_err()
            && let Some(session) = self.sessions.get_mut(key)
            && let Some(channels) = session.front.state.channels_mut()
        {
            // Thousands of connections are under way. Asked again when the client does something.
            channels.not_asked();
        }
    }

    /// Notes which channels a session listens to now, and forgets that it ever did if there are none.
    fn register_channels(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let number = session.pool;
        let state = &mut session.front.state;
        let Some(channels) = state.channels_mut() else { return };
        let (added, removed) = channels.register();
        state.drop_channels_if_over();
        let Some(spec) = self.pool(number).map(|pool| Arc::clone(&pool.spec)) else { return };
        if !added.is_empty() {
            let audience = self.audiences.by_database.entry(spec.database.clone()).or_default();
            for name in added {
                audience.sessions.entry(name).or_default().insert(key.index());
            }
        }
        self.forget_channels(&spec, key, removed);
    }

    /// A session is going that may have listened.
    pub(super) fn leave_channels(&mut self, key: Key<Session>, session: &mut Session) {
        let Some(channels) = session.front.state.channels_mut() else { return };
        let names = channels.unregister();
        let Some(pool) = self.pool(session.pool) else { return };
        let spec = Arc::clone(&pool.spec);
        self.forget_channels(&spec, key, names);
    }

    /// A session does not listen to these any more.
    fn forget_channels(&mut self, spec: &Arc<Spec>, key: Key<Session>, names: Vec<Name>) {
        let Some(audience) = self.audiences.by_database.get_mut(&spec.database) else { return };
        let mut unwanted = Vec::new();
        for name in names {
            let Some(sessions) = audience.sessions.get_mut(&name) else { continue };
            sessions.remove(&key.index());
            if sessions.is_empty() {
                audience.sessions.remove(&name);
                unwanted.push(name);
            }
        }
        if !unwanted.is_empty() {
            self.unlisten(Arc::clone(spec), unwanted);
        }
    }

    /// Tells the control plane that nobody here listens to these. If it cannot be told now, it is when
    /// something is notified there.
    fn unlisten(&self, spec: Arc<Spec>, names: Vec<Name>) {
        let change = ChannelChange::Unlisten { names: names.into() };
        let _ = self.control.try_send(ToControl::Channels { spec, worker: self.number, change });
    }

    /// The shared listener listens to what a session has asked for.
    pub(super) fn channels_granted(&mut self, spec: &Spec, grant: Grant) {
        let Grant { session, serial, names, marker, has_any_encoding } = grant;
        let Some(audience) = self.audiences.by_database.get_mut(&spec.database) else { return };
        audience.has_any_encoding = has_any_encoding;
        let key = Key::new(session);
        let Some(session) = self.sessions.get_mut(key).filter(|s| s.serial == serial) else {
            return;
        };
        let is_possible = has_any_encoding || has_encoding(&session.front.params);
        let Some(channels) = session.front.state.channels_mut() else { return };
        if is_possible {
            channels.granted(&names, marker);
        } else {
            // Only the server can convert: it stays at its backend.
            channels.keep();
        }
        self.go_on_if_at_rest(key);
    }

    /// The shared listener has received a session's marker.
    pub(super) fn marker_received(&mut self, session: u32, serial: u64, payload: &[u8]) {
        let key = Key::new(session);
        let Some(session) = self.sessions.get_mut(key).filter(|s| s.serial == serial) else {
            return;
        };
        if let Some(channels) = session.front.state.channels_mut() {
            channels.marked(payload);
            self.go_on_if_at_rest(key);
        }
    }

    /// Goes on where a client has nothing under way.
    fn go_on_if_at_rest(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get(key) else { return };
        if let Phase::Leased(lease) = session.phase
            && session.front.state.is_settled()
            && self.is_between_transactions(session)
        {
            self.go_on_listening(key, lease);
        }
    }

    /// Gives up markers that do not arrive.
    pub(super) fn tick_channels(&mut self) {
        while let Some(first) = self.audiences.markings.front()
            && first.due_ms <= self.now_ms
            && let Some(late) = self.audiences.markings.pop_front()
        {
            let Some(session) = self.sessions.get_mut(late.session) else { continue };
            let is_it = session.serial == late.serial;
            if is_it
                && let Some(channels) = session.front.state.channels_mut()
                && channels.is_marking(&late.payload)
            {
                tracing::warn!(
                    client = late.serial,
                    "a marker did not reach the shared listener: the client keeps its server connection"
                );
                channels.keep();
                self.go_on_if_at_rest(late.session);
            }
        }
    }

    /// The shared listener has received a notification.
    pub(super) fn notified(&mut self, spec: &Arc<Spec>, notification: &Arc<Notification>) {
        let audience = self.audiences.by_database.get(&spec.database);
        let sessions = audience.and_then(|one| one.sessions.get(notification.channel()));
        let Some(sessions) = sessions else {
            return self.unlisten(Arc::clone(spec), vec![notification.channel().into()]);
        };
        let sessions: Vec<u32> = sessions.iter().copied().collect();
        for session in sessions {
            self.receive(Key::new(session), notification);
        }
    }

    /// A session receives a notification.
    fn receive(&mut self, key: Key<Session>, notification: &Arc<Notification>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let number = session.pool;
        let Some(channels) = session.front.state.channels_mut() else { return };
        if !channels.receive(notification) {
            return;
        }
        let held_bytes = channels.held_bytes() + session.pipe.unsent_bytes();
        let limit = self.pool(number).map_or(0, |pool| pool.settings.listen_queue);
        if length(held_bytes) > u64::from(limit) {
            self.end_when_at_rest(key, Ending::Overflow);
        } else {
            self.deliver(key);
        }
    }

    /// The shared listener is lost: whoever relied on it may have missed something.
    pub(super) fn listener_lost(&mut self, spec: &Spec) {
        let Some(audience) = self.audiences.by_database.get(&spec.database) else { return };
        let sessions: BTreeSet<u32> = audience.sessions.values().flatten().copied().collect();
        for session in sessions {
            let key = Key::new(session);
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let Some(channels) = session.front.state.channels_mut() else { continue };
            if channels.is_shared() {
                self.end_when_at_rest(key, Ending::Lost);
            } else {
                channels.lost();
                self.go_on_if_at_rest(key);
            }
        }
    }

    /// Closes a client that cannot go on listening, but not within a transaction.
    fn end_when_at_rest(&mut self, key: Key<Session>, why: Ending) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(channels) = session.front.state.channels_mut() {
            channels.end(why);
        }
        self.register_channels(key);
        let Some(session) = self.sessions.get(key) else { return };
        if self.may_be_told(session) {
            self.end_listener(key, why);
        }
    }

    fn end_listener(&mut self, key: Key<Session>, why: Ending) {
        let (end, fault) = match why {
            Ending::Overflow => {
                let text = "too many notifications wait for this client";
                let fault = Fault::fatal(SqlState::CONFIGURATION_LIMIT_EXCEEDED, text)
                    .with_hint("listen_queue bounds how many bytes of them wait for one client.");
                (ClientEnd::Notifications, fault)
            }
            Ending::Lost => {
                let text =
                    "the server connection that listens was lost: notifications may be missing";
                (ClientEnd::ServerLost, Fault::fatal(SqlState::CONNECTION_FAILURE, text))
            }
        };
        self.fail_session(key, end, &fault);
    }

    /// Says whether a client is where PostgreSQL would tell it of notifications: between two
    /// transactions.
    fn may_be_told(&self, session: &Session) -> bool {
        match session.phase {
            Phase::Idle | Phase::Waiting => true,
            Phase::Leased(lease) => {
                session.front.state.is_settled()
                    && self
                        .backends
                        .get(lease)
                        .is_some_and(|backend| relay::is_at_rest(&session.front, &backend.link))
            }
            Phase::Greeting(_)
            | Phase::Refusing(_)
            | Phase::Leaving(..)
            | Phase::Closing { .. } => false,
        }
    }

    /// Sends a client what waits for it, if it is between two transactions and takes what it is sent.
    pub(super) fn deliver(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(channels) = session.front.state.channels() else { return };
        let (ending, has_news) = (channels.ending(), channels.has_news());
        if (!has_news && ending.is_none()) || self.is_suspended || !self.may_be_told(session) {
            return;
        }
        if let Some(ending) = ending {
            return self.end_listener(key, ending);
        }
        if session.pipe.has_unsent() {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(channels) = session.front.state.channels_mut() else { return };
        let notifications: Vec<_> = channels.drain().collect();
        self.send_notifications(key, &notifications);
    }

    /// Sends a client notifications; says whether it is still there.
    fn send_notifications(&mut self, key: Key<Session>, news: &[Arc<Notification>]) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let number = session.pool;
        let audience = self
            .pools
            .get(usize::try_from(number.0).unwrap_or(usize::MAX))
            .and_then(Option::as_ref)
            .and_then(|pool| self.audiences.by_database.get(&pool.spec.database));
        let is_readable = has_encoding(&session.front.params)
            || audience.is_some_and(|audience| audience.has_any_encoding)
            || news.iter().all(|one| one.is_ascii());
        if !is_readable {
            let text = "cannot convert a notification to another client_encoding than UTF8";
            let fault = Fault::fatal(SqlState::FEATURE_NOT_SUPPORTED, text);
            self.fail_session(key, ClientEnd::Refused, &fault);
            return false;
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        for one in news {
            out.extend_from_slice(one.message());
        }
        let is_sent = session.pipe.send(&out, &mut self.wire).is_ok();
        if let Some(cells) = cells_of(&mut self.pools, number) {
            cells.notifications += u64::try_from(news.len()).unwrap_or(u64::MAX);
            cells.sent_bytes += bytes(&out);
        }
        self.out = out;
        if !is_sent {
            self.client_leaves(key, Leave::Lost);
        }
        is_sent
    }

    /// Sends all clients that listen what has waited.
    pub(super) fn deliver_to_all(&mut self) {
        let audiences = self.audiences.by_database.values();
        let sessions: BTreeSet<u32> =
            audiences.flat_map(|audience| audience.sessions.values().flatten()).copied().collect();
        for session in sessions {
            self.deliver(Key::new(session));
        }
    }
}

fn has_encoding(params: &ParamSet) -> bool {
    params.value(b"client_encoding") == Some(ENCODING)
}
