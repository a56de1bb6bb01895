//! The channels that one client listens to in transaction mode, and how they are handed over from
//! its backend to the listener that all clients of the database share.
//!
//! A LISTEN runs on the client's backend, so that PostgreSQL judges it; the server is then asked what
//! the backend listens to, as about all session state. Until they are handed over, the client keeps
//! the backend, and has its notifications from there. A channel has one source at any time:
//!
//! 1. The shared listener listens to it, too ([`Next::Ask`], [`Channels::granted`]).
//! 2. The backend listens to a channel of ours, and notifies a marker on it ([`Next::Mark`]).
//! 3. What the backend sends before the marker goes to the client; what the shared listener receives
//!    behind the marker does, as soon as both have received it. Then the backend listens to nothing any
//!    more ([`Next::Release`]), and the client needs it no longer.
//!
//! PostgreSQL gives all listeners of a database the same notifications in the same order, that of
//! commits (they are read from one queue, whose entries are written under a lock that is held up to the
//! commit). So the marker is at the same place in both streams, and every notification is either
//! before it or behind it: none is lost, none comes twice, and those of one channel keep their order.
//! The marker also proves that both are connected to the same server. Where it does not arrive, the
//! client keeps its backend, and what that has sent since is passed on.
//!
//! An UNLISTEN would find nothing on a backend that does not listen. So the backend is made to listen
//! again in front of it, within the client's own transaction, together with a parameter that says
//! whether that has outlived the transaction ([`Channels::take`]): if so, what the backend listens to
//! then is what holds; if not, nothing has changed.
//!
//! Notifications wait here while the client is in a transaction or does not read.
//! The worker bounds that (`listen_queue`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::backend::params;
use crate::wire::backend as view;
use crate::wire::cursor::Malformed;
use crate::wire::encode;
use crate::wire::header::HEADER_BYTES;
use crate::wire::tag::backend as tag;

/// Begins the names of channels that markers are notified on.
pub const MARKER_PREFIX: &[u8] = b"pgtandem_handover_";

/// Most channels of one client that are handed over. LIMIT: one with more keeps its backend.
const CHANNELS_MAX: usize = 1_000;

/// The parameter that says whether a take-over has outlived its transaction.
pub const TAKEN: &str = "pgtandem.listening";

/// The name of a channel.
pub type Name = Arc<[u8]>;

/// A notification, as all clients get it that listen to its channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Notification {
    /// The whole message.
    message: Box<[u8]>,
    channel_bytes: usize,
    payload_bytes: usize,
}

impl Notification {
    /// Makes it from the body of the message.
    ///
    /// # Errors
    /// The body is no NotificationResponse.
    pub fn new(body: &[u8]) -> Result<Self, Malformed> {
        let view = view::notification(body)?;
        let (channel_bytes, payload_bytes) = (view.channel.len(), view.payload.len());
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        encode::message(&mut message, tag::NOTIFICATION_RESPONSE, |out| {
            out.extend_from_slice(body);
        });
        Ok(Self { message: message.into(), channel_bytes, payload_bytes })
    }

    /// Returns the whole message.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Returns its channel.
    pub fn channel(&self) -> &[u8] {
        let start = HEADER_BYTES + size_of::<i32>();
        self.message.get(start..start + self.channel_bytes).unwrap_or_default()
    }

    /// Returns what was said.
    pub fn payload(&self) -> &[u8] {
        let start = HEADER_BYTES + size_of::<i32>() + self.channel_bytes + 1;
        self.message.get(start..start + self.payload_bytes).unwrap_or_default()
    }

    /// Says whether it looks the same in all encodings.
    pub fn is_ascii(&self) -> bool {
        self.channel().is_ascii() && self.payload().is_ascii()
    }
}

/// What is notified on a channel of ours, and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The channel; the shared listener listens to it.
    pub channel: Name,
    /// Tells it from all other markers on that channel.
    pub payload: Box<[u8]>,
}

/// How far the channels are that the backend listens to.
#[derive(Debug, Default)]
enum Step {
    /// Nothing is under way.
    #[default]
    Settled,
    /// The shared listener was asked to listen to them.
    Asked,
    /// It does; a marker is to be notified.
    Granted(Marker),
    /// The marker is under way.
    Marking {
        marker: Marker,
        /// The backend has sent it.
        is_here: bool,
        /// The shared listener has received it.
        is_there: bool,
        /// It will not do any more: what comes then.
        instead: Option<Instead>,
        /// What the backend has sent behind it.
        tail: Vec<Arc<Notification>>,
    },
    /// The backend stays their source.
    Kept,
}

/// What comes instead of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// Another attempt.
    Retry,
    /// The backend stays the source.
    Keep,
}

/// What is to be done next, at rest.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, for now.
    Nothing,
    /// Send these to the client; then there may be more to do.
    Say(Vec<Arc<Notification>>),
    /// Have the shared listener listen to these.
    Ask(Vec<Name>),
    /// Run this on the backend: it notifies the marker with this payload.
    Mark(Vec<u8>, Box<[u8]>),
    /// Run this on the backend: it listens to nothing from then on.
    Release(Vec<u8>),
}

/// What becomes of a notification that the backend sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The client gets it.
    Forward,
    /// It has it from elsewhere, or does not listen.
    Drop,
}

/// Why a client cannot go on listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// More waits for it than may.
    Overflow,
    /// The shared listener was lost, and with it what was notified since.
    Lost,
}

/// The channels of one client.
#[derive(Debug, Default)]
pub struct Channels {
    /// Their source is the shared listener.
    shared: BTreeSet<Name>,
    /// Their source is the backend.
    local: BTreeSet<Name>,
    step: Step,
    /// The backend listens to something.
    is_backend_used: bool,
    /// The backend has our parameter.
    has_parameter: bool,
    /// The backend was made to listen to `shared`; whether that holds is not known yet.
    is_taken: bool,
    /// What the client has not been sent.
    queue: VecDeque<Arc<Notification>>,
    /// Bytes of the queue and of the tail.
    held_bytes: usize,
    /// Why the client must be closed.
    ending: Option<Ending>,
    /// Which of them the worker has been told of.
    registered: BTreeSet<Name>,
}

impl Channels {
    /// Says whether the client listens to nothing, and nothing of it is left.
    pub fn is_over(&self) -> bool {
        self.shared.is_empty()
            && self.local.is_empty()
            && self.registered.is_empty()
            && !self.is_backend_used()
            && self.ending.is_none()
    }

    /// Says whether something of them may be left on the backend.
    pub fn is_backend_used(&self) -> bool {
        self.is_backend_used || self.has_parameter || self.is_taken
    }

    /// Says whether the shared listener is a source.
    pub fn is_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Returns how many channels there are.
    pub fn count(&self) -> usize {
        self.shared.len() + self.local.len()
    }

    /// Returns how many bytes wait for the client.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Says whether the server must say if a take-over has held; that is known of those up to here then.
    pub fn ask_if_taken(&mut self) -> bool {
        std::mem::take(&mut self.is_taken)
    }

    /// Writes what makes the backend listen to what the client listens to, unless it does.
    pub fn take(&mut self) -> Vec<u8> {
        self.is_taken = true;
        let mut block = format!(
            "BEGIN IF pg_catalog.current_setting('{TAKEN}', true) IS DISTINCT FROM '1' THEN "
        )
        .into_bytes();
        for name in &self.shared {
            block.extend_from_slice(b"LISTEN ");
            write_identifier(&mut block, name);
            block.extend_from_slice(b"; ");
        }
        let set = format!("PERFORM pg_catalog.set_config('{TAKEN}', '1', false); END IF; END");
        block.extend_from_slice(set.as_bytes());
        let mut sql = b"DO LANGUAGE plpgsql ".to_vec();
        params::write_literal(&mut sql, &block);
        sql
    }

    /// Takes what the backend listens to now, as the server says, and whether a take-over has held.
    /// Returns what the client must be sent.
    pub fn conclude(&mut self, found: Vec<Name>, has_held: bool) -> Vec<Arc<Notification>> {
        self.is_backend_used = !found.is_empty();
        self.has_parameter |= has_held;
        let found: BTreeSet<Name> =
            found.into_iter().filter(|name| !name.starts_with(MARKER_PREFIX)).collect();
        if has_held {
            self.shared.retain(|name| found.contains(name));
        }
        let local: BTreeSet<Name> = found.difference(&self.shared).cloned().collect();
        let is_same = local == self.local;
        self.local = local;
        let rest = if is_same { Vec::new() } else { self.give_up(Instead::Retry) };
        self.forget_others();
        rest
    }

    /// The client has discarded all.
    pub fn discard(&mut self) {
        self.shared.clear();
        self.local.clear();
        self.is_backend_used = false;
        self.has_parameter = false;
        self.is_taken = false;
        self.step = Step::Settled;
        self.queue.clear();
        self.held_bytes = 0;
    }

    /// Says what is to be done next. At rest only, and not while the server is being asked.
    pub fn go_on(&mut self) -> Next {
        let count = self.count();
        match &mut self.step {
            Step::Settled if self.local.is_empty() => return self.release(),
            Step::Settled if count > CHANNELS_MAX => self.step = Step::Kept,
            Step::Settled => {
                self.step = Step::Asked;
                return Next::Ask(self.local.iter().cloned().collect());
            }
            Step::Granted(marker) => {
                let marker = marker.clone();
                let (sql, payload) = (mark(&marker), marker.payload.clone());
                self.step = Step::Marking {
                    marker,
                    is_here: false,
                    is_there: false,
                    instead: None,
                    tail: Vec::new(),
                };
                self.is_backend_used = true;
                return Next::Mark(sql, payload);
            }
            Step::Marking { instead: Some(instead), .. } => {
                let instead = *instead;
                return Next::Say(self.give_up(instead));
            }
            Step::Marking { is_here: true, is_there: true, tail, .. } => {
                // The shared listener has received these, too.
                self.held_bytes -= weight(tail);
                self.step = Step::Settled;
                self.shared.append(&mut self.local);
                return self.release();
            }
            Step::Asked | Step::Marking { .. } | Step::Kept => {}
        }
        Next::Nothing
    }

    fn release(&mut self) -> Next {
        match (std::mem::take(&mut self.is_backend_used), std::mem::take(&mut self.has_parameter)) {
            (false, false) => Next::Nothing,
            (_, false) => Next::Release(b"UNLISTEN *".to_vec()),
            (_, true) => Next::Release(format!("UNLISTEN *; SET {TAKEN} = ''").into_bytes()),
        }
    }

    /// Says that nobody could be asked to listen.
    pub fn not_asked(&mut self) {
        self.step = Step::Settled;
    }

    /// The shared listener listens to what it was asked for; says whether that is still of use.
    pub fn granted(&mut self, names: &[Name], marker: Marker) -> bool {
        let is_current =
            matches!(self.step, Step::Asked) && self.local.iter().all(|name| names.contains(name));
        if is_current {
            self.step = Step::Granted(marker);
        }
        is_current
    }

    /// The shared listener has received a marker.
    pub fn marked(&mut self, received: &[u8]) {
        if let Step::Marking { marker, is_there, .. } = &mut self.step
            && *marker.payload == *received
        {
            *is_there = true;
        }
    }

    /// Says whether a marker is still under way.
    pub fn is_marking(&self, payload: &[u8]) -> bool {
        matches!(&self.step, Step::Marking { marker, .. } if *marker.payload == *payload)
    }

    /// The marker does not come, or could not be notified: the backend stays the source.
    pub fn keep(&mut self) {
        self.fail(Instead::Keep);
    }

    /// The shared listener is lost. What was to be handed over is, some other time.
    pub fn lost(&mut self) {
        self.fail(Instead::Retry);
    }

    fn fail(&mut self, what: Instead) {
        if let Step::Marking { instead, .. } = &mut self.step {
            *instead = Some(what);
        } else {
            self.give_up(what);
        }
    }

    /// Gives up a hand-over that may be under way; returns what the client must be sent.
    fn give_up(&mut self, instead: Instead) -> Vec<Arc<Notification>> {
        let step = match instead {
            Instead::Retry => Step::Settled,
            Instead::Keep => Step::Kept,
        };
        let was = std::mem::replace(&mut self.step, step);
        let Step::Marking { mut tail, .. } = was else { return Vec::new() };
        self.held_bytes -= weight(&tail);
        tail.retain(|one| self.local.contains(one.channel()));
        self.forget_others();
        tail
    }

    /// Drops what waits of channels that are not shared.
    fn forget_others(&mut self) {
        let (shared, local) = (&self.shared, &self.local);
        let is_marked = matches!(self.step, Step::Marking { .. });
        let before = weight(self.queue.make_contiguous());
        self.queue.retain(|one| {
            let channel = one.channel();
            shared.contains(channel) || (is_marked && local.contains(channel))
        });
        self.held_bytes -= before - weight(self.queue.make_contiguous());
    }

    /// Takes a notification that the backend has sent.
    pub fn hear(&mut self, body: &[u8]) -> Heard {
        let Ok(notification) = Notification::new(body) else { return Heard::Forward };
        let channel = notification.channel();
        if channel.starts_with(MARKER_PREFIX) {
            if let Step::Marking { marker, is_here, .. } = &mut self.step
                && *marker.channel == *channel
                && *marker.payload == *notification.payload()
            {
                *is_here = true;
            }
            return Heard::Drop;
        }
        if self.shared.contains(channel) {
            return Heard::Drop;
        }
        if let Step::Marking { is_here: true, tail, .. } = &mut self.step {
            self.held_bytes += notification.message.len();
            tail.push(Arc::new(notification));
            return Heard::Drop;
        }
        Heard::Forward
    }

    /// Takes a notification that the shared listener has received; says whether it waits now.
    pub fn receive(&mut self, notification: &Arc<Notification>) -> bool {
        let channel = notification.channel();
        let is_ours = match &self.step {
            Step::Marking { is_there: true, .. } if self.local.contains(channel) => true,
            Step::Settled | Step::Asked | Step::Granted(_) | Step::Marking { .. } | Step::Kept => {
                self.shared.contains(channel)
            }
        };
        if is_ours {
            self.held_bytes += notification.message.len();
            self.queue.push_back(Arc::clone(notification));
        }
        is_ours
    }

    /// Says whether something may be sent, as far as it is known here: while a marker is under way,
    /// the backend may have something to say first.
    pub fn has_news(&self) -> bool {
        !self.queue.is_empty() && !matches!(self.step, Step::Marking { .. })
    }

    /// Takes all that waits.
    pub fn drain(&mut self) -> impl Iterator<Item = Arc<Notification>> {
        self.held_bytes -= weight(self.queue.make_contiguous());
        self.queue.drain(..)
    }

    /// Drops everything, so that nothing more is held: the client must be closed at rest.
    pub fn end(&mut self, why: Ending) {
        self.discard();
        self.ending = Some(why);
    }

    /// Says why the client must be closed.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Says which channels the worker has to be told of, and which not any more.
    pub fn register(&mut self) -> (Vec<Name>, Vec<Name>) {
        let is_asked = !matches!(self.step, Step::Settled | Step::Kept);
        let local = self.local.iter().filter(|_| is_asked);
        let wanted: BTreeSet<Name> = self.shared.iter().chain(local).cloned().collect();
        let added = wanted.difference(&self.registered).cloned().collect();
        let removed = self.registered.difference(&wanted).cloned().collect();
        self.registered = wanted;
        (added, removed)
    }

    /// Takes the channels that the worker has been told of: the client goes.
    pub fn unregister(&mut self) -> Vec<Name> {
        std::mem::take(&mut self.registered).into_iter().collect()
    }
}

/// Writes what notifies a marker, and has the backend hear it.
fn mark(marker: &Marker) -> Vec<u8> {
    let mut sql = b"LISTEN ".to_vec();
    write_identifier(&mut sql, &marker.channel);
    sql.extend_from_slice(b"; NOTIFY ");
    write_identifier(&mut sql, &marker.channel);
    sql.extend_from_slice(b", ");
    params::write_literal(&mut sql, &marker.payload);
    sql
}

/// Appends a quoted identifier.
pub fn write_identifier(sql: &mut Vec<u8>, name: &[u8]) {
    sql.push(b'"');
    for &byte in name {
        if byte == b'"' {
            sql.push(b'"');
        }
        sql.push(byte);
    }
    sql.push(b'"');
}

fn weight(notifications: &[Arc<Notification>]) -> usize {
    notifications.iter().map(|one| one.message.len()).sum()
}
