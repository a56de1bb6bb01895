//! A backend as its worker has it: socket, protocol state, and what it is used for now.

use std::sync::Arc;

use super::mailbox::Done;
use super::pipe::Pipe;
use super::session::Session;
use super::slab::Key;
use crate::backend::connect::CancelKey;
use crate::backend::link::Link;
use crate::config::PoolSettings;
use crate::fault::Fault;
use crate::pool::ledger::Permit;
use crate::pool::roster::Origin;
use crate::pool::spec::PoolNumber;

/// What a backend is used for.
#[derive(Debug)]
pub enum Role {
    /// It is in its pool's list of idle backends.
    Idle,
    /// A session has it.
    Leased(Key<Session>),
    /// We run something of our own on it.
    Chore(Chore),
    /// It must not be used before the cancel requests sent for it have been carried out.
    Cancelling,
}

/// Something of our own that runs on a backend: one Query, up to its ReadyForQuery.
#[derive(Debug)]
pub struct Chore {
    /// What for.
    pub kind: ChoreKind,
    /// The server's error, if there was one.
    pub error: Option<Fault>,
}

/// What a chore is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChoreKind {
    /// Finds out whether the server accepts a client's startup parameters, and their canonical
    /// values. `None` if that client has left.
    Greet(Option<Key<Session>>),
    /// `server_reset_query`: removes what a session left behind.
    Reset,
    /// `server_check_query`: finds out whether a long idle backend still works.
    Check,
}

/// Moments in the life of a backend, in the worker's milliseconds or microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// When it was opened.
    pub opened_ms: u64,
    /// When it was leased last.
    pub leased_ms: u64,
    /// When it must be closed (`server_lifetime`).
    pub expires_ms: u64,
    /// When it became idle.
    pub idle_ms: u64,
    /// When the query under way began.
    pub query_ms: u64,
    /// When the last ReadyForQuery came.
    pub ready_ms: u64,
    /// When the transaction under way began.
    pub transaction_us: u64,
    /// When the segment under way began, or the one before it in a pipeline ended.
    pub segment_us: u64,
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// Its socket.
    pub pipe: Pipe,
    /// Its protocol state.
    pub link: Link,
    /// Its pool.
    pub pool: PoolNumber,
    /// What it is used for.
    pub role: Role,
    /// Its place in the pool.
    pub permit: Permit,
    /// The pool's generation that it belongs to.
    pub generation: u64,
    /// Where its server is.
    pub origin: Arc<Origin>,
    /// How to reach it: a reload may have changed that since.
    pub opened_with: Arc<PoolSettings>,
    /// The server's key to cancel what it runs.
    pub cancel_key: Arc<CancelKey>,
    /// Tells it from others that had its place before.
    pub serial: u64,
    /// Moments in its life.
    pub times: Times,
    /// Cancel requests that were sent for it and are not carried out yet.
    pub cancels: u32,
    /// A cancel request that waits until the server works for the client, not for us.
    pub cancel_due: Option<Done>,
}

impl Backend {
    /// Returns the number of its server process.
    pub fn process(&self) -> i32 {
        self.cancel_key.pid
    }
}
