//! Says which clients and backends a worker has, and who waits for whom.
//!
//! Everything is asked of the system or worked out when somebody wants to know: it costs an idle
//! client nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Worker;
use super::backend::{Backend, Chore, ChoreKind, Role};
use super::session::{Phase, Session};
use super::slab::Key;
use crate::backend::params::ParamSet;
use crate::config::PoolMode;
use crate::net::Peer;
use crate::net::tls::Channel;
use crate::pool::roster::Origin;
use crate::pool::spec::Spec;
use crate::session::front::{Prepared, StatementRules};
use crate::session::pins::Pins;
use crate::session::relay;
use crate::wire::expect::TransactionStatus;

/// How many places one answer covers. LIMIT: a few system calls each, so that nobody who is served
/// meanwhile notices.
const PLACES: usize = 512;

/// A part of what a worker has: some of its clients and some of its backends.
#[derive(Debug, Default)]
pub struct Page {
    /// Clients that have logged in.
    pub clients: Vec<ClientReport>,
    /// Backends that are open.
    pub servers: Vec<ServerReport>,
    /// Where the next part begins; `None` if this was the last.
    pub next: Option<usize>,
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Has logged in, and is not told so before a server has said what it thinks of it.
    WaitingLogin,
    /// Between two transactions, without a backend.
    Idle,
    /// Waits for a backend.
    Waiting,
    /// Has a backend.
    Active,
    /// Its cancelled request is being read off.
    Refused,
    /// Has gone; a backend still works on what it sent.
    Leaving,
    /// Gets its last words.
    Closing,
}

/// What a backend is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Ready for anybody.
    Idle,
    /// Idle for so long that it will be checked before it is used (`server_check_delay`).
    Used,
    /// A client has it.
    Active,
    /// Runs a query of ours: a reset, a check, or a trial of startup parameters.
    Tested,
    /// Nobody may have it before the cancel requests sent for it have been carried out.
    BeingCanceled,
}

/// Why a client keeps a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldFor {
    /// A query runs.
    Query,
    /// A transaction is open; nothing runs.
    Transaction,
    /// Its pool is in session mode, or was when it logged in.
    Session,
    /// It ran SQL `PREPARE`, whose name exists on that backend only.
    Prepare,
    /// It ran `LISTEN`: notifications come to that backend only.
    Listen,
    /// It holds advisory locks of the session.
    AdvisoryLock,
    /// It has temporary objects.
    Temporary,
    /// It has cursors `WITH HOLD`.
    Cursor,
    /// It has set parameters that do not go with it.
    Parameter,
    /// It did something that only the end of the session takes back.
    Lasting,
    /// It may have left something that nobody can look for.
    Unknown,
    /// Its unnamed statement is too long to be kept by us.
    LongStatement,
    /// It has gone; what it had sent is still carried out.
    Departed,
    /// A query of ours runs.
    OwnQuery,
    /// Cancel requests for it are under way.
    Cancel,
}

impl HeldFor {
    /// Says whether it is something that the client has left in its session.
    pub fn is_pin(self) -> bool {
        self == Self::LongStatement || PINS.iter().any(|(_, reason)| *reason == self)
    }

    /// Says it in the words of `SHOW WAITS`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Prepare => "prepare",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory lock",
            Self::Temporary => "temporary object",
            Self::Cursor => "cursor",
            Self::Parameter => "parameter",
            Self::Lasting => "lasting state",
            Self::Unknown => "unknown state",
            Self::LongStatement => "long statement",
            Self::Departed => "departed",
            Self::OwnQuery => "own query",
            Self::Cancel => "cancel",
        }
    }
}

/// Why a backend is not free, and for how long that has been so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Why.
    pub reason: HeldFor,
    /// For how long.
    pub since: Duration,
}

/// One client.
#[derive(Debug, Clone)]
pub struct ClientReport {
    /// Its number; no other client or backend of this process ever has it.
    pub id: u64,
    /// Its pool, which has the names of database and user as the client gave them.
    pub spec: Arc<Spec>,
    /// What it is doing.
    pub state: ClientState,
    /// Its address; `None` if its connection is lost already.
    pub peer: Option<Peer>,
    /// Our own end of the connection.
    pub local: Option<Peer>,
    /// The process at the other end of a Unix socket.
    pub process: Option<i32>,
    /// When it logged in.
    pub connected: SystemTime,
    /// When it last asked for a backend; when it logged in if it never did.
    pub requested: SystemTime,
    /// How long it has waited for a backend; `None` if it does not wait.
    pub wait: Option<Duration>,
    /// Whether it will be closed as soon as it has nothing under way.
    pub is_close_needed: bool,
    /// The backend it has.
    pub link: Option<u64>,
    /// Why it would keep its backend past the end of a transaction.
    pub keeps: Option<HeldFor>,
    /// As it is set now.
    pub application_name: String,
    /// How many named statements it has prepared.
    pub prepared_statements: usize,
    /// Version and cipher suite of TLS; `None` without.
    pub tls: Option<String>,
    /// Bytes that it has not taken yet.
    pub unsent_bytes: usize,
    /// Bytes of it that we hold: the start of a message.
    pub held_bytes: usize,
}

/// One backend.
#[derive(Debug, Clone)]
pub struct ServerReport {
    /// Its number; no other client or backend of this process ever has it.
    pub id: u64,
    /// Its pool; the user at the server is in its settings.
    pub spec: Arc<Spec>,
    /// Where it was opened.
    pub origin: Arc<Origin>,
    /// What it is doing.
    pub state: ServerState,
    /// Address of the server; `None` if the connection is lost already.
    pub peer: Option<Peer>,
    /// Our own end of the connection.
    pub local: Option<Peer>,
    /// Process of the server.
    pub process: i32,
    /// When it was opened.
    pub connected: SystemTime,
    /// When a client last got it, or sent a query on it.
    pub requested: SystemTime,
    /// Whether it will be closed as soon as it comes back.
    pub is_close_needed: bool,
    /// The client that has it.
    pub link: Option<u64>,
    /// Why it is not free; `None` if it is.
    pub held: Option<Held>,
    /// As it is set now.
    pub application_name: String,
    /// How many named statements it holds.
    pub prepared_statements: usize,
    /// Version and cipher suite of TLS; `None` without.
    pub tls: Option<String>,
    /// Bytes that it has not taken yet.
    pub unsent_bytes: usize,
    /// Bytes of it that we hold: the start of a message.
    pub held_bytes: usize,
}

impl Worker {
    /// Says what is at some places, from the place `from` on.
    pub(super) fn list(&self, from: usize) -> Page {
        let clients = self.sessions.range(from, PLACES);
        let servers = self.backends.range(from, PLACES);
        let end = from.saturating_add(PLACES);
        let is_last = end >= self.sessions.places() && end >= self.backends.places();
        Page {
            clients: clients.filter_map(|(_, session)| self.client_report(session)).collect(),
            servers: servers.filter_map(|(_, backend)| self.server_report(backend)).collect(),
            next: (!is_last).then_some(end),
        }
    }

    fn client_report(&self, session: &Session) -> Option<ClientReport> {
        let pool = self.pool(session.pool)?;
        let socket = session.pipe.socket();
        let (state, lease) = client_state(&session.phase);
        let does_wait = state == ClientState::Waiting
            || (state == ClientState::WaitingLogin && lease.is_none());
        Some(ClientReport {
            id: session.serial,
            spec: Arc::clone(&pool.spec),
            state,
            // What a balancer said, if one did.
            peer: Some(session.peer),
            local: socket.local(),
            process: socket.peer_process(),
            connected: self.moment(session.login_ms),
            requested: self.moment(session.request_ms),
            wait: does_wait.then(|| self.since(session.request_ms)),
            is_close_needed: self.must_go(session),
            link: lease.and_then(|lease| Some(self.backends.get(lease)?.serial)),
            keeps: keeps(session, pool.settings.mode),
            application_name: application_name(&session.front.params),
            prepared_statements: session.front.prepared().map_or(0, Prepared::count),
            tls: session.pipe.tls().map(Channel::describe),
            unsent_bytes: session.pipe.unsent_bytes(),
            held_bytes: session.pipe.held_bytes(),
        })
    }

    fn server_report(&self, backend: &Backend) -> Option<ServerReport> {
        let pool = self.pool(backend.pool)?;
        let socket = backend.pipe.socket();
        let times = &backend.times;
        let session = lessee(&backend.role);
        let check_delay = pool.settings.server_check_delay;
        let state = match &backend.role {
            Role::Idle if self.since(times.idle_ms) >= check_delay => ServerState::Used,
            Role::Idle => ServerState::Idle,
            Role::Leased(_) => ServerState::Active,
            Role::Chore(_) => ServerState::Tested,
            Role::Cancelling => ServerState::BeingCanceled,
        };
        Some(ServerReport {
            id: backend.serial,
            spec: Arc::clone(&pool.spec),
            origin: Arc::clone(&backend.origin),
            state,
            peer: socket.peer(),
            local: socket.local(),
            process: backend.cancel_key.pid,
            connected: self.moment(times.opened_ms),
            requested: self.moment(times.leased_ms.max(times.query_ms).max(times.opened_ms)),
            is_close_needed: self.is_draining || self.why_unwanted(backend).is_some(),
            link: session.and_then(|key| Some(self.sessions.get(key)?.serial)),
            held: self.held(backend, pool.settings.mode),
            application_name: application_name(&backend.link.params),
            prepared_statements: backend.link.held.len(),
            tls: backend.pipe.tls().map(Channel::describe),
            unsent_bytes: backend.pipe.unsent_bytes(),
            held_bytes: backend.pipe.held_bytes(),
        })
    }

    /// Why a backend is not free.
    fn held(&self, backend: &Backend, mode: PoolMode) -> Option<Held> {
        let times = &backend.times;
        let (reason, since_ms) = match &backend.role {
            Role::Idle => return None,
            Role::Chore(_) => (HeldFor::OwnQuery, times.query_ms),
            Role::Cancelling => (HeldFor::Cancel, times.query_ms.max(times.opened_ms)),
            Role::Leased(key) => {
                let session = self.sessions.get(*key)?;
                let is_at_rest = relay::is_at_rest(&session.front, &backend.link);
                if matches!(session.phase, Phase::Leaving(..)) {
                    (HeldFor::Departed, times.query_ms)
                } else if !backend.link.expect.is_empty() {
                    (HeldFor::Query, times.query_ms)
                } else if backend.link.expect.status() != TransactionStatus::Idle || !is_at_rest {
                    (HeldFor::Transaction, times.transaction_us / 1000)
                } else {
                    (keeps(session, mode).unwrap_or(HeldFor::Query), times.leased_ms)
                }
            }
        };
        Some(Held { reason, since: self.since(since_ms) })
    }

    fn since(&self, at_ms: u64) -> Duration {
        Duration::from_millis(self.now_ms.saturating_sub(at_ms))
    }

    fn moment(&self, at_ms: u64) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.since(at_ms)).unwrap_or(now)
    }
}

fn client_state(phase: &Phase) -> (ClientState, Option<Key<Backend>>) {
    match phase {
        Phase::Greeting(greeting) => (ClientState::WaitingLogin, greeting.backend),
        Phase::Idle => (ClientState::Idle, None),
        Phase::Waiting => (ClientState::Waiting, None),
        Phase::Refusing(_) => (ClientState::Refused, None),
        Phase::Leased(lease) => (ClientState::Active, Some(*lease)),
        Phase::Leaving(lease, _) => (ClientState::Leaving, Some(*lease)),
        Phase::Closing { .. } => (ClientState::Closing, None),
    }
}

fn lessee(role: &Role) -> Option<Key<Session>> {
    match role {
        Role::Leased(session) => Some(*session),
        Role::Chore(Chore { kind: ChoreKind::Greet(session), .. }) => *session,
        Role::Idle | Role::Chore(_) | Role::Cancelling => None,
    }
}

/// Why a session keeps its backend between transactions.
fn keeps(session: &Session, mode: PoolMode) -> Option<HeldFor> {
    let front = &session.front;
    if front.rules == StatementRules::Pass || mode == PoolMode::Session {
        Some(HeldFor::Session)
    } else {
        let given = PINS.iter().find(|(pin, _)| front.state.pins.has(*pin));
        let long = front.has_long_unnamed().then_some(HeldFor::LongStatement);
        given.map(|(_, reason)| *reason).or(long)
    }
}

/// The reasons of session state; where there are several, the first is shown.
const PINS: [(Pins, HeldFor); 8] = [
    (Pins::LISTEN, HeldFor::Listen),
    (Pins::PREPARE, HeldFor::Prepare),
    (Pins::LOCK, HeldFor::AdvisoryLock),
    (Pins::TEMPORARY, HeldFor::Temporary),
    (Pins::CURSOR, HeldFor::Cursor),
    (Pins::PARAMETER, HeldFor::Parameter),
    (Pins::LASTING, HeldFor::Lasting),
    (Pins::UNKNOWN, HeldFor::Unknown),
];

fn application_name(params: &ParamSet) -> String {
    let value = params.value(b"application_name").unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}
