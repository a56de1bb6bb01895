//! One data-plane thread: its event loop, its sessions, its share of each pool, its mailbox.
//!
//! The loop waits for events and messages, and drives the state machines: [`relay`] moves bytes
//! between a session and its lease, [`checkout`] gives backends out and takes them back, [`greet`]
//! welcomes new clients, [`chores`] runs our own queries, [`ends`] closes things, [`timers`] looks at
//! the clock, [`balance`] shares backends with other workers, [`list`] tells what there is, [`log`]
//! says why things end, [`channels`] has notifications reach who listens.
//!
//! Nothing is shared with other threads but the pools' ledgers. Per message there is no lock, no
//! allocation, no log line, no timer and no change to epoll.
//!
//! Budget per simple-query transaction: 2 receives, 2 sends, at most 1.1 `epoll_wait` at 16 clients.

mod backend;
mod balance;
mod channels;
mod checkout;
mod chores;
mod ends;
mod gates;
mod greet;
mod list;
mod log;
mod mailbox;
mod pipe;
mod pool;
mod relay;
pub mod report;
mod session;
mod slab;
mod timers;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc;

pub use list::{ClientReport, ClientState, Held, HeldFor, Page, ServerReport, ServerState};
pub use mailbox::{
    Arrival, ChannelChange, Done, Failed, Grant, MESSAGES_MAX, Teller, ToControl, ToWorker,
    WorkerHandle,
};

use backend::Backend;
use pipe::Wire;
use pool::Pool;
use session::Session;
use slab::{Key, Slab};

use crate::config::General;
use crate::net::Socket;
use crate::pool::gate::Gate;
use crate::pool::spec::{PoolNumber, Spec};
use crate::wire::header::MESSAGE_BYTES_MAX;

/// The token of the mailbox; sockets have their place doubled, and 1 more for backends.
const MAILBOX: Token = Token(usize::MAX - 1);

/// Bytes read at a time. Large enough for results to be cheap, small enough for the cache.
const READ_BYTES: usize = 64 << 10;

/// Most turns that one connection gets before others have theirs.
const TURNS_MAX: usize = 16;

/// Most events taken from the system at a time.
const EVENTS_MAX: usize = 1024;

/// Numbers sessions and backends; unique in the process.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

/// Returns a number that no client and no backend of this process has had.
pub fn next_serial() -> u64 {
    NEXT_SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Whether there may be more to do for a connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Try again.
    Again,
    /// Something has to happen first: an event, a hand-off, the end.
    Blocked,
}

/// One data-plane thread's world.
struct Worker {
    number: usize,
    poll: Poll,
    inbox: mpsc::Receiver<ToWorker>,
    control: mpsc::Sender<ToControl>,
    /// All workers, this one too.
    workers: Vec<WorkerHandle>,
    general: Arc<General>,
    /// Closed while nobody is to be read from.
    suspension: Arc<Gate>,
    sessions: Slab<Session>,
    backends: Slab<Backend>,
    pools: Vec<Option<Pool>>,
    shared: crate::session::relay::Shared,
    audiences: channels::Audiences,
    /// Where input is read to; used within one turn.
    scratch: Vec<u8>,
    /// Where records of TLS are; used within one read or write.
    wire: Wire,
    /// Where changed output is built; used within one turn.
    out: Vec<u8>,
    /// Sessions that may go on without an event.
    runnable: VecDeque<Key<Session>>,
    /// Backends that may go on without an event.
    runnable_backends: VecDeque<Key<Backend>>,
    /// The common zero of all workers' milliseconds.
    epoch: Instant,
    /// When this turn began; the one reading of the clock in it.
    now_us: u64,
    now_ms: u64,
    next_tick_ms: u64,
    /// When other workers may be asked to close idle backends again.
    next_eviction_ms: u64,
    /// Since when nobody is read from.
    suspended_us: u64,
    is_busy: bool,
    is_draining: bool,
    /// How often the loop has gone round.
    turns: u64,
    /// Events that the system has reported.
    events_seen: u64,
    is_suspended: bool,
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    number: usize,
    poll: Poll,
    inbox: mpsc::Receiver<ToWorker>,
}

/// Makes the mailboxes of `count` workers, so that each can be told about all.
///
/// # Errors
/// The system has no descriptors left.
pub fn prepare(count: usize) -> io::Result<(Vec<Start>, Vec<WorkerHandle>)> {
    let mut starts = Vec::new();
    let mut handles = Vec::new();
    for number in 0..count {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), MAILBOX)?);
        let (sender, inbox) = mpsc::channel(MESSAGES_MAX);
        starts.push(Start { number, poll, inbox });
        handles.push(WorkerHandle::new(sender, waker));
    }
    Ok((starts, handles))
}

/// What a worker works with.
#[derive(Debug)]
pub struct Surroundings {
    /// All workers, this one too.
    pub workers: Vec<WorkerHandle>,
    /// The way to the control plane.
    pub control: mpsc::Sender<ToControl>,
    /// `[general]` as it is in force.
    pub general: Arc<General>,
    /// Closed while nobody is to be read from.
    pub suspension: Arc<Gate>,
    /// The common zero of all workers' milliseconds.
    pub epoch: Instant,
}

/// Starts a worker's thread; it ends when it has been drained.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(start: Start, with: Surroundings) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{}", start.number);
    std::thread::Builder::new().name(name).spawn(move || {
        Worker::new(start, with).run();
    })
}

impl Worker {
    fn new(start: Start, with: Surroundings) -> Self {
        Self {
            number: start.number,
            poll: start.poll,
            inbox: start.inbox,
            control: with.control,
            workers: with.workers,
            general: with.general,
            suspension: with.suspension,
            sessions: Slab::default(),
            backends: Slab::default(),
            pools: Vec::new(),
            shared: crate::session::relay::Shared::default(),
            audiences: channels::Audiences::default(),
            scratch: vec![0; READ_BYTES],
            wire: Wire::default(),
            out: Vec::new(),
            runnable: VecDeque::new(),
            runnable_backends: VecDeque::new(),
            epoch: with.epoch,
            now_us: 0,
            now_ms: 0,
            next_tick_ms: 0,
            next_eviction_ms: 0,
            suspended_us: 0,
            is_busy: false,
            is_draining: false,
            turns: 0,
            events_seen: 0,
            is_suspended: false,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !(self.is_draining && self.sessions.is_empty()) {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, worker = self.number, "event loop failed");
                return;
            }
            self.turn(&events);
        }
        self.close_all_backends();
    }

    /// Does what a batch of events asks for, and whatever else can be done now.
    fn turn(&mut self, events: &Events) {
        self.now_us = micros(self.epoch.elapsed());
        self.now_ms = self.now_us / 1000;
        self.turns += 1;
        let mut has_mail = false;
        for event in events {
            self.events_seen += 1;
            has_mail |= event.token() == MAILBOX;
            self.dispatch(event);
        }
        if has_mail {
            // Last: what is new takes places that events of this batch may still be about.
            self.read_mail();
        }
        self.run_runnable();
        self.tick_if_due();
    }

    /// How long to wait for events.
    fn patience(&self) -> Option<Duration> {
        if !self.runnable.is_empty() || !self.runnable_backends.is_empty() {
            return Some(Duration::ZERO);
        }
        self.next_tick().map(|at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms)))
    }

    fn dispatch(&mut self, event: &Event) {
        let Token(token) = event.token();
        if token == MAILBOX.0 {
            return;
        }
        let Ok(place) = u32::try_from(token / 2) else { return };
        if token % 2 == 0 {
            self.client_event(Key::new(place), event);
        } else {
            self.server_event(Key::new(place), event);
        }
    }

    fn client_event(&mut self, key: Key<Session>, event: &Event) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.pipe.note(event);
        // One that takes nothing any more is found out by a write: no other event comes.
        let is_over = event.is_write_closed() || event.is_error();
        if (event.is_writable() || is_over) && session.pipe.has_unsent() {
            self.client_writable(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.pump_client(key);
        }
    }

    fn server_event(&mut self, key: Key<Backend>, event: &Event) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        backend.pipe.note(event);
        if event.is_writable() && backend.pipe.has_unsent() {
            self.server_writable(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.pump_server(key);
        }
    }

    /// Gives everybody a turn who can go on; those who still can wait for the next round.
    fn run_runnable(&mut self) {
        for _ in 0..self.runnable_backends.len() {
            if let Some(key) = self.runnable_backends.pop_front() {
                self.pump_server(key);
            }
        }
        // Handing a backend on makes the next session runnable: so long as that goes on, it is
        // the cheapest work there is.
        for _ in 0..EVENTS_MAX {
            let Some(key) = self.runnable.pop_front() else { return };
            self.pump_client(key);
        }
    }

    fn read_mail(&mut self) {
        // LIMIT: as many as fit; what comes meanwhile wakes us again.
        for _ in 0..MESSAGES_MAX {
            let Ok(message) = self.inbox.try_recv() else { return };
            self.act_on(message);
        }
        // The mailbox may hold more without waking us again.
        self.next_tick_ms = self.now_ms;
        self.is_busy = true;
    }

    fn act_on(&mut self, message: ToWorker) {
        match message {
            ToWorker::Client { spec, client } => self.welcome(&spec, *client),
            ToWorker::Opened { spec, arrival } => self.opened(&spec, *arrival),
            ToWorker::OpenFailed { spec, fault, failed, lost_since } => {
                let since = lost_since.saturating_duration_since(self.epoch);
                self.open_failed(spec.number, fault, failed, millis(since));
            }
            ToWorker::Backend { spec, backend } => self.receive_backend(&spec, *backend),
            ToWorker::Beg { spec, worker, since_ms } => self.begged(&spec, worker, since_ms),
            ToWorker::Evict { bound } => {
                if bound.is_full() {
                    self.evict_idle(&bound);
                }
            }
            ToWorker::Cancel { pid, secret, done } => self.cancel(pid, &secret, done),
            ToWorker::CancelDone { backend, serial, is_certain } => {
                self.cancel_done(Key::new(backend), serial, is_certain);
            }
            ToWorker::List { from, reply } => {
                // Nobody listens any more if the command was given up.
                let _ = reply.send(self.list(from));
            }
            ToWorker::Report { reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.report());
            }
            ToWorker::ChannelsGranted { spec, grant } => self.channels_granted(&spec, *grant),
            ToWorker::MarkerReceived { session, serial, payload } => {
                self.marker_received(session, serial, &payload);
            }
            ToWorker::Notified { spec, notification } => self.notified(&spec, &notification),
            ToWorker::ListenerLost { spec } => self.listener_lost(&spec),
            ToWorker::OpenAbandoned { spec } => self.open_abandoned(spec.number),
            ToWorker::Reload { general, done } => {
                self.reload(general);
                drop(done);
            }
            ToWorker::Review { done } => {
                self.review();
                drop(done);
            }
            ToWorker::Kill { gate, done } => {
                self.kill(&gate);
                drop(done);
            }
            ToWorker::KillClient { id, reply } => {
                // Nobody listens any more if the command was given up.
                let _ = reply.send(self.kill_client(id));
            }
            ToWorker::Unsent { reply } => {
                let _ = reply.send(self.unsent());
            }
            ToWorker::CloseUnsent { done } => {
                self.close_unsent();
                drop(done);
            }
            ToWorker::Forget { pools, done } => {
                self.forget(&pools);
                drop(done);
            }
            ToWorker::Drain => self.drain(),
        }
    }

    fn pool(&self, number: PoolNumber) -> Option<&Pool> {
        self.pools.get(usize::try_from(number.0).ok()?)?.as_ref()
    }

    fn pool_mut(&mut self, number: PoolNumber) -> Option<&mut Pool> {
        self.pools.get_mut(usize::try_from(number.0).ok()?)?.as_mut()
    }

    /// Returns the share of a pool, which begins with the first client or backend of it.
    fn pool_of(&mut self, spec: &Arc<Spec>) -> Option<&mut Pool> {
        let at = usize::try_from(spec.number.0).ok()?;
        if self.pools.len() <= at {
            self.pools.resize_with(at + 1, || None);
        }
        let now_us = self.now_us;
        let place = self.pools.get_mut(at)?;
        Some(place.get_or_insert_with(|| Pool::new(Arc::clone(spec), now_us)))
    }

    /// Registers a socket, once and for both directions.
    fn register(&self, socket: &mut Socket, token: usize) -> io::Result<()> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(socket, Token(token), interests)
    }

    fn reload(&mut self, general: Arc<General>) {
        self.general = general;
        for pool in self.pools.iter_mut().flatten() {
            pool.settings = pool.spec.settings();
            pool.definitions = pool.spec.definitions();
        }
        for key in self.sessions.keys() {
            self.update_limits(key);
        }
        self.review();
    }

    /// Puts limits of a new configuration in force for a session that has begun.
    fn update_limits(&mut self, key: Key<Session>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let at = usize::try_from(session.pool.0).unwrap_or(usize::MAX);
        let Some(pool) = self.pools.get(at).and_then(Option::as_ref) else { return };
        let rules = pool.statement_rules();
        if rules.renames() && session.front.rules.renames() {
            session.front.rules = rules;
        }
        session.front.length_max = MESSAGE_BYTES_MAX.min(pool.settings.max_packet_size);
    }
}

fn session_token(key: Key<Session>) -> usize {
    usize::try_from(key.index()).unwrap_or(0) * 2
}

fn backend_token(key: Key<Backend>) -> usize {
    usize::try_from(key.index()).unwrap_or(0) * 2 + 1
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many bytes these are, as they are counted.
fn bytes(buffer: &[u8]) -> u64 {
    length(buffer.len())
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
