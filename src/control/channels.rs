//! The connections that listen: one per database that has clients which listen in transaction mode,
//! shared by all of them.
//!
//! Workers say which channels their clients listen to. A task per database keeps a connection of its
//! own that listens to those, grants what was asked for when PostgreSQL has confirmed it, and passes on
//! what is notified, in order; [`session::channels`](crate::session::channels) says what that is for.
//! The connection logs in as a user of a pool of the database. It is in none of the bounds of pools; it
//! ends when nobody has listened for a while.
//!
//! When it is lost, nobody knows what was notified meanwhile. The workers are told, and another one is
//! opened; whatever is asked for until then waits, with its client at a backend.
//!
//! Everything is bounded: what is asked for by the clients there are, what is passed on by the
//! workers' mailboxes. While one is full, the connection is not read from, and PostgreSQL keeps the
//! notifications.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Control;
use crate::backend::connect::Opened;
use crate::config::Server;
use crate::log::{Kind, admit};
use crate::net::Stream;
use crate::pool::roster::Origin;
use crate::pool::spec::Spec;
use crate::session::channels::{MARKER_PREFIX, Marker, Name, Notification, write_identifier};
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::backend as tag;
use crate::wire::{backend, encode};
use crate::worker::{ChannelChange, Grant, ToWorker};

/// What makes the connection one that listens: it is named, and idle for as long as it takes.
const SETUP: &[u8] = b"SET application_name = 'pgtandem listener'; \
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) 'idle_session_timeout'; ";

/// How long a connection is kept that listens to nothing.
const LINGER: Duration = Duration::from_secs(10);

/// The first pause after a connection could not be had; doubles.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The longest such pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(15);

/// Between two looks at whether the connection is still what is wanted.
const REVIEW: Duration = Duration::from_secs(1);

/// How long nothing may come before the server is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);

/// How long it may take to answer, or to take a query.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// LIMIT: channels that one query is about.
const AT_A_TIME: usize = 500;

/// LIMIT: bytes of one message. A notification has up to 8,000 bytes and two names.
const MESSAGE_BYTES_MAX: u32 = 64 << 10;

/// Room for what is read at a time.
const READ_BYTES: usize = 64 << 10;

/// The listeners of all databases.
#[derive(Debug, Default)]
pub struct Hubs {
    by_database: Mutex<BTreeMap<String, Arc<Hub>>>,
}

/// How a listener stands.
#[derive(Debug, Clone)]
pub struct ListenerReport {
    /// The database, as clients call it.
    pub database: String,
    /// The connection; `None` while there is none.
    pub connection: Option<ListenerConnection>,
    /// How many channels are listened to, or are to be.
    pub channels: usize,
    /// Notifications received.
    pub notifications: u64,
    /// How often a connection was lost that clients relied on.
    pub losses: u64,
}

/// A connection that listens.
#[derive(Debug, Clone)]
pub struct ListenerConnection {
    /// As whom it has logged in.
    pub user: String,
    /// Where.
    pub server: Server,
    /// Process of the server.
    pub pid: i32,
    /// Since when.
    pub connected: SystemTime,
}

/// The listener of one database.
#[derive(Debug)]
struct Hub {
    database: String,
    wants: Mutex<Wants>,
    changed: Notify,
    notifications: AtomicU64,
    losses: AtomicU64,
}

/// What is wanted of a listener.
#[derive(Debug, Default)]
struct Wants {
    /// Which workers want a channel.
    channels: BTreeMap<Name, BTreeSet<usize>>,
    /// What is to be granted, by worker and session.
    asks: BTreeMap<(usize, u32), Ask>,
    connection: Option<ListenerConnection>,
}

/// What a session has asked for.
#[derive(Debug)]
struct Ask {
    serial: u64,
    names: Arc<[Name]>,
}

impl Hubs {
    /// Takes what a worker says of the channels that its clients listen to. Never waits.
    pub(super) fn change(
        &self,
        control: &Arc<Control>,
        spec: &Arc<Spec>,
        worker: usize,
        change: ChannelChange,
    ) {
        // Held to the end: a task that ends takes itself out under it.
        let mut hubs = self.lock();
        let hub = match (hubs.get(&spec.database), &change) {
            (Some(hub), _) => Arc::clone(hub),
            (None, ChannelChange::Unlisten { .. }) => return,
            (None, ChannelChange::Listen { .. }) => {
                let hub = Arc::new(Hub::new(&spec.database));
                hubs.insert(spec.database.clone(), Arc::clone(&hub));
                tokio::spawn(run(Arc::clone(control), Arc::clone(&hub)));
                hub
            }
        };
        let mut wants = hub.wants();
        match change {
            ChannelChange::Listen { session, serial, names } => {
                for name in names.iter() {
                    wants.channels.entry(Arc::clone(name)).or_default().insert(worker);
                }
                wants.asks.insert((worker, session), Ask { serial, names });
            }
            ChannelChange::Unlisten { names } => {
                for name in names.iter() {
                    if let Some(workers) = wants.channels.get_mut(name) {
                        workers.remove(&worker);
                        if workers.is_empty() {
                            wants.channels.remove(name);
                        }
                    }
                }
                let Wants { channels, asks, .. } = &mut *wants;
                asks.retain(|_, ask| ask.names.iter().all(|name| channels.contains_key(name)));
            }
        }
        drop(wants);
        hub.changed.notify_one();
    }

    /// Says how all listeners stand, by database.
    pub fn reports(&self) -> Vec<ListenerReport> {
        self.lock().values().map(|hub| hub.report()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Hub>>> {
        self.by_database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a listener out that nobody wants; says whether that is so.
    fn remove_if_unwanted(&self, hub: &Hub) -> bool {
        let mut hubs = self.lock();
        let is_unwanted = hub.wants().channels.is_empty();
        if is_unwanted {
            hubs.remove(&hub.database);
        }
        is_unwanted
    }
}

impl Hub {
    fn new(database: &str) -> Self {
        Self {
            database: database.to_owned(),
            wants: Mutex::default(),
            changed: Notify::new(),
            notifications: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        !self.wants().channels.is_empty()
    }

    fn report(&self) -> ListenerReport {
        let wants = self.wants();
        ListenerReport {
            database: self.database.clone(),
            connection: wants.connection.clone(),
            channels: wants.channels.len(),
            notifications: self.notifications.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
        }
    }
}

/// Listens for a database until nobody wants that any more.
async fn run(control: Arc<Control>, hub: Arc<Hub>) {
    let mut pause = BACK_OFF;
    while hub.is_wanted() || !control.hubs.remove_if_unwanted(&hub) {
        let Some(spec) = control.someone_of(&hub.database, false) else {
            // Paused, or the last client is about to leave.
            sleep(REVIEW).await;
            continue;
        };
        if let Some(mut line) = connect(&control, &hub, &spec).await {
            match line.serve(&control, &hub, &spec).await {
                Ok(()) => line.close().await,
                Err(error) => lost(&control, &hub, &spec, &error).await,
            }
            hub.wants().connection = None;
            if line.since.elapsed() > SILENCE {
                // One that lasted was no failure to connect.
                pause = BACK_OFF;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
}

/// Tells everybody that the connection is lost.
async fn lost(control: &Control, hub: &Hub, spec: &Arc<Spec>, error: &LineError) {
    hub.losses.fetch_add(1, Ordering::Relaxed);
    if admit(Kind::ServerFailed) {
        tracing::warn!(database = hub.database, %error, "shared listener lost");
    }
    for worker in &control.workers {
        // One that has ended has no clients.
        let _ = worker.send(ToWorker::ListenerLost { spec: Arc::clone(spec) }).await;
    }
}

/// Opens a connection; `None` if none could be had, which has been logged.
async fn connect(control: &Control, hub: &Hub, spec: &Arc<Spec>) -> Option<Line> {
    let settings = spec.settings();
    let generation = spec.generation();
    let (server, opened) = control.find(spec, &settings, &[]).await.ok()?;
    let origin = spec.roster.opened(&server, &opened.place, opened.standing);
    let connection = ListenerConnection {
        user: settings.user.clone(),
        server,
        pid: opened.cancel_key.pid,
        connected: SystemTime::now(),
    };
    let line = Line::new(opened, origin, generation).ok()?;
    hub.wants().connection = Some(connection);
    Some(line)
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
enum LineError {
    /// It has ended.
    #[error("connection to the server lost")]
    Lost(#[from] io::Error),
    /// The server refuses what it was asked.
    #[error("the server says: {0}")]
    Refused(String),
    /// It has sent what is no message.
    #[error("server broke the protocol")]
    Protocol,
    /// It does not answer.
    #[error("no answer from the server")]
    Silent,
    /// It is not where backends are opened now.
    #[error("the database is elsewhere now")]
    Moved,
}

/// What a query that is under way is about.
#[derive(Debug)]
enum Query {
    /// The first one.
    Setup,
    /// The server is asked whether it is there.
    Probe,
    /// Channels that are listened to behind it, and those that are not.
    Change { added: Vec<Name>, removed: Vec<Name> },
}

/// A connection that listens.
#[derive(Debug)]
struct Line {
    stream: Stream,
    inbox: Vec<u8>,
    origin: Arc<Origin>,
    generation: u64,
    since: Instant,
    /// What it listens to, apart from the markers' channel.
    listening: BTreeSet<Name>,
    markers: Name,
    granted: u64,
    has_any_encoding: bool,
    under_way: Option<(Query, Instant)>,
    /// When something came last.
    heard: Instant,
}

impl Line {
    fn new(opened: Opened, origin: Arc<Origin>, generation: u64) -> io::Result<Self> {
        let mut markers = MARKER_PREFIX.to_vec();
        markers.extend_from_slice(format!("{:032x}", rand::random::<u128>()).as_bytes());
        let encoding = opened.parameters.iter().find(|(name, _)| name == b"server_encoding");
        Ok(Self {
            has_any_encoding: encoding.is_some_and(|(_, value)| value == b"SQL_ASCII"),
            stream: opened.raw.into_stream()?,
            inbox: opened.unread,
            origin,
            generation,
            since: Instant::now(),
            listening: BTreeSet::new(),
            markers: markers.into(),
            granted: 0,
            under_way: None,
            heard: Instant::now(),
        })
    }

    /// Listens until nobody wants that any more.
    async fn serve(
        &mut self,
        control: &Control,
        hub: &Hub,
        spec: &Arc<Spec>,
    ) -> Result<(), LineError> {
        let encoding: &[u8] = if self.has_any_encoding { b"SQL_ASCII" } else { b"UTF8" };
        let mut sql = SETUP.to_vec();
        sql.extend_from_slice(b"SET client_encoding = ");
        sql.extend_from_slice(encoding);
        sql.extend_from_slice(b"; LISTEN ");
        write_identifier(&mut sql, &self.markers);
        self.ask(&sql, Query::Setup).await?;
        let mut wanted = Instant::now();
        loop {
            if self.under_way.is_none() {
                self.follow(control, hub, spec).await?;
            }
            let review = sleep_until(Instant::now() + REVIEW);
            tokio::select! {
                // All are cancel safe: what was read is in the inbox.
                read = self.stream.read_buf(&mut self.inbox) => {
                    if read? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    self.heard = Instant::now();
                    self.read_inbox(control, hub, spec).await?;
                }
                () = hub.changed.notified() => {}
                () = review => {}
            }
            if hub.is_wanted() {
                wanted = Instant::now();
            } else if wanted.elapsed() >= LINGER || spec.is_paused() {
                return Ok(());
            }
            self.review(spec).await?;
        }
    }

    /// Has the server listen to what is wanted, and grants what was asked for.
    async fn follow(
        &mut self,
        control: &Control,
        hub: &Hub,
        spec: &Arc<Spec>,
    ) -> Result<(), LineError> {
        let (added, removed, asks) = {
            let mut wants = hub.wants();
            let missing = wants.channels.keys().filter(|name| !self.listening.contains(*name));
            let added: Vec<Name> = missing.take(AT_A_TIME).cloned().collect();
            let unwanted = self.listening.iter().filter(|name| !wants.channels.contains_key(*name));
            let removed: Vec<Name> = unwanted.take(AT_A_TIME).cloned().collect();
            let listening = &self.listening;
            let is_done = |ask: &Ask| ask.names.iter().all(|name| listening.contains(name));
            let asks: Vec<_> = wants.asks.extract_if(.., |_, ask| is_done(ask)).collect();
            (added, removed, asks)
        };
        for ((worker, session), Ask { serial, names }) in asks {
            self.granted += 1;
            let payload = format!("{worker} {session} {serial} {}", self.granted);
            let marker =
                Marker { channel: Arc::clone(&self.markers), payload: payload.into_bytes().into() };
            let has_any_encoding = self.has_any_encoding;
            let grant = Grant { session, serial, names, marker, has_any_encoding };
            if let Some(worker) = control.workers.get(worker) {
                let granted =
                    ToWorker::ChannelsGranted { spec: Arc::clone(spec), grant: Box::new(grant) };
                // One that has ended has no clients.
                let _ = worker.send(granted).await;
            }
        }
        if added.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let mut sql = Vec::new();
        for (command, names) in [(&b"LISTEN "[..], &added), (&b"UNLISTEN "[..], &removed)] {
            for name in names {
                sql.extend_from_slice(command);
                write_identifier(&mut sql, name);
                sql.extend_from_slice(b"; ");
            }
        }
        self.ask(&sql, Query::Change { added, removed }).await
    }

    async fn ask(&mut self, sql: &[u8], query: Query) -> Result<(), LineError> {
        let mut out = Vec::new();
        encode::query(&mut out, sql);
        self.under_way = Some((query, Instant::now()));
        let sent = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        timeout(ANSWER_LIMIT, sent).await.map_err(|_| LineError::Silent)?.map_err(LineError::Lost)
    }

    /// Acts on a message of the server.
    async fn act(
        &mut self,
        control: &Control,
        hub: &Hub,
        spec: &Arc<Spec>,
        tag: u8,
        body: &[u8],
    ) -> Result<(), LineError> {
        match tag {
            tag::NOTIFICATION_RESPONSE => {
                let notification = Notification::new(body).map_err(|_| LineError::Protocol)?;
                self.pass_on(control, hub, spec, notification).await;
            }
            tag::READY_FOR_QUERY => {
                if let Some((Query::Change { added, removed }, _)) = self.under_way.take() {
                    self.listening.extend(added);
                    self.listening.retain(|name| !removed.contains(name));
                }
            }
            tag::ERROR_RESPONSE => {
                let message = backend::error_response(body).message;
                return Err(LineError::Refused(String::from_utf8_lossy(message).into_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Passes a notification on to the workers whose clients listen; waits while one has no room.
    async fn pass_on(
        &self,
        control: &Control,
        hub: &Hub,
        spec: &Arc<Spec>,
        notification: Notification,
    ) {
        if *notification.channel() == *self.markers {
            let Some((worker, session, serial)) = read_marker(notification.payload()) else {
                return;
            };
            if let Some(worker) = control.workers.get(worker) {
                let payload = notification.payload().into();
                let _ = worker.send(ToWorker::MarkerReceived { session, serial, payload }).await;
            }
            return;
        }
        hub.notifications.fetch_add(1, Ordering::Relaxed);
        let workers: Vec<usize> = {
            let wants = hub.wants();
            let workers = wants.channels.get(notification.channel());
            workers.into_iter().flatten().copied().collect()
        };
        let notification = Arc::new(notification);
        for worker in workers {
            if let Some(worker) = control.workers.get(worker) {
                let (spec, notification) = (Arc::clone(spec), Arc::clone(&notification));
                let _ = worker.send(ToWorker::Notified { spec, notification }).await;
            }
        }
    }

    /// Looks whether the connection is still where it should be, and alive.
    async fn review(&mut self, spec: &Spec) -> Result<(), LineError> {
        let is_there = !self.origin.is_retired() && spec.generation() == self.generation;
        if !is_there || spec.is_removed() {
            return Err(LineError::Moved);
        }
        match &self.under_way {
            Some((_, since)) if since.elapsed() >= ANSWER_LIMIT => Err(LineError::Silent),
            None if self.heard.elapsed() >= SILENCE => self.ask(b"", Query::Probe).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Acts on all whole messages that have come.
    async fn read_inbox(
        &mut self,
        control: &Control,
        hub: &Hub,
        spec: &Arc<Spec>,
    ) -> Result<(), LineError> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut done = 0;
        while let Some(rest) = inbox.get(done..)
            && let Some(header) =
                header::read(rest, MESSAGE_BYTES_MAX).map_err(|_| LineError::Protocol)?
            && let Some(body) = rest.get(HEADER_BYTES..header.message_bytes())
        {
            self.act(control, hub, spec, header.tag, body).await?;
            done += header.message_bytes();
        }
        inbox.drain(..done);
        inbox.reserve(READ_BYTES);
        self.inbox = inbox;
        Ok(())
    }

    async fn close(&mut self) {
        let mut out = Vec::new();
        encode::terminate(&mut out);
        // Best effort: the server sees the end of the connection anyway.
        let _ = timeout(ANSWER_LIMIT, self.stream.write_all(&out)).await;
        let _ = timeout(ANSWER_LIMIT, self.stream.flush()).await;
    }
}

/// Reads whose marker it is: worker, place and number of the session.
fn read_marker(payload: &[u8]) -> Option<(usize, u32, u64)> {
    let mut parts = std::str::from_utf8(payload).ok()?.split(' ');
    let worker = parts.next()?.parse().ok()?;
    let session = parts.next()?.parse().ok()?;
    Some((worker, session, parts.next()?.parse().ok()?))
}
