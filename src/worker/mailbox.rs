//! What the control plane and the workers tell each other: bounded channels of enums.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mio::Waker;
use tokio::sync::{mpsc, oneshot};

use super::backend::Backend;
use super::list::Page;
use super::report::WorkerReport;
use crate::backend::connect::{CancelKey, Opened};
use crate::config::{General, PoolSettings};
use crate::fault::Fault;
use crate::pool::gate::Gate;
use crate::pool::ledger::{Bound, Permit};
use crate::pool::roster::Origin;
use crate::pool::spec::{PoolNumber, Spec};
use crate::secret::Secret;
use crate::session::login::Authenticated;

/// Most messages that wait for one worker, or for the control plane. LIMIT: senders of the control
/// plane wait, workers try again later.
pub const MESSAGES_MAX: usize = 4096;

/// Dropped when what was asked for is done; whoever waits for it holds the other half.
pub type Done = mpsc::Sender<()>;

/// Told to a worker.
#[derive(Debug)]
pub enum ToWorker {
    /// A client has logged in; it is yours.
    Client {
        /// The pool it uses.
        spec: Arc<Spec>,
        /// The client.
        client: Box<Authenticated>,
    },
    /// The backend you asked for is there.
    Opened {
        /// Its pool.
        spec: Arc<Spec>,
        /// The backend.
        arrival: Box<Arrival>,
    },
    /// The backend you asked for could not be opened.
    OpenFailed {
        /// Its pool.
        spec: Arc<Spec>,
        /// What clients are told.
        fault: Fault,
        /// Whether there is hope.
        failed: Failed,
        /// Since when no server of the database would do.
        lost_since: Instant,
    },
    /// The backend you asked for was not opened, because its pool is paused.
    OpenAbandoned {
        /// Its pool.
        spec: Arc<Spec>,
    },
    /// Another worker gives you a backend that you asked for.
    Backend {
        /// Its pool.
        spec: Arc<Spec>,
        /// The backend, idle and not registered.
        backend: Box<Backend>,
    },
    /// Another worker's clients of this pool starve: give it a backend when you can.
    Beg {
        /// The pool.
        spec: Arc<Spec>,
        /// Who asks.
        worker: usize,
        /// How long its first client waits, in the common milliseconds.
        since_ms: u64,
    },
    /// Somebody needs a place within this bound: close an idle backend.
    Evict {
        /// `max_db_connections` or `max_user_connections` of some database or user.
        bound: Arc<Bound>,
    },
    /// A client asks to cancel what the session with this key runs, if you have it.
    Cancel {
        /// The first half of the key.
        pid: i32,
        /// The second half.
        secret: Secret,
        /// Dropped when the request has been acted on.
        done: Done,
    },
    /// A cancel request that you sent has been carried out, or failed.
    CancelDone {
        /// Number of the backend's place.
        backend: u32,
        /// Which backend that was.
        serial: u64,
        /// Whether the server has acted on it: if not, it may do so any time later.
        is_certain: bool,
    },
    /// Say what you have done so far, and how things stand.
    Report {
        /// Where to.
        reply: oneshot::Sender<WorkerReport>,
    },
    /// Say which clients and backends you have; see [`Page`].
    List {
        /// The first place to look at; 0 to begin.
        from: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<Page>,
    },
    /// The configuration has changed; pools have their new settings.
    Reload {
        /// The new general settings.
        general: Arc<General>,
        /// Dropped when it is done.
        done: Done,
    },
    /// Gates or generations have changed, or SUSPEND: look at everything.
    Review {
        /// Dropped when it is done.
        done: Done,
    },
    /// Close all clients and backends of a database, whose gate is closed.
    Kill {
        /// The gate of the database.
        gate: Arc<Gate>,
        /// Dropped when it is done.
        done: Done,
    },
    /// Close the client of this number, and its backend.
    KillClient {
        /// Its number.
        id: u64,
        /// Is told whether you have it.
        reply: oneshot::Sender<bool>,
    },
    /// Say how many connections have not taken everything yet.
    Unsent {
        /// Where the answer goes.
        reply: oneshot::Sender<usize>,
    },
    /// Close the connections that have not taken everything yet.
    CloseUnsent {
        /// Dropped when it is done.
        done: Done,
    },
    /// Forget pools that nobody uses.
    Forget {
        /// These, unless somebody uses them again.
        pools: Arc<[PoolNumber]>,
        /// Dropped when it is done.
        done: Done,
    },
    /// Close idle clients now, the others when they are done, then end.
    Drain,
}

/// A backend that a worker has asked for.
#[derive(Debug)]
pub struct Arrival {
    /// The generation that it was opened for.
    pub generation: u64,
    /// The settings that it was opened with.
    pub settings: Arc<PoolSettings>,
    /// Where it was opened.
    pub origin: Arc<Origin>,
    /// The connection.
    pub opened: Opened,
    /// Its place in the pool.
    pub permit: Permit,
}

/// Why a backend could not be opened, as far as clients that wait for one are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The server does not want us: waiting does not help.
    Refused,
    /// It will accept connections soon (57P03).
    Starting,
    /// It is gone, or is not what is wanted any more: it or another one may come (`failover_timeout`).
    Lost,
}

/// Told to the control plane.
#[derive(Debug)]
pub enum ToControl {
    /// Open a backend.
    Open {
        /// Its pool.
        spec: Arc<Spec>,
        /// Its place in the pool.
        permit: Permit,
        /// Who asks.
        worker: usize,
    },
    /// A server has said that it is no standby any more.
    Promoted {
        /// A pool of its database.
        spec: Arc<Spec>,
        /// Where it is.
        origin: Arc<Origin>,
    },
    /// Ask a server to cancel what a backend runs.
    Cancel {
        /// Where the server is.
        origin: Arc<Origin>,
        /// What the backend was opened with.
        settings: Arc<PoolSettings>,
        /// The backend's own key.
        key: Arc<CancelKey>,
        /// Whom to tell when it is done; `None` if the backend is gone.
        tell: Option<Teller>,
        /// Dropped then: a client waits for it.
        done: Option<Done>,
    },
}

/// Whom to tell that a cancel request is done.
#[derive(Debug, Clone, Copy)]
pub struct Teller {
    /// The worker.
    pub worker: usize,
    /// Number of the backend's place.
    pub backend: u32,
    /// Which backend that is.
    pub serial: u64,
}

/// The way to a worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    sender: mpsc::Sender<ToWorker>,
    waker: Arc<Waker>,
    clients: Arc<AtomicUsize>,
}

impl WorkerHandle {
    pub(super) fn new(sender: mpsc::Sender<ToWorker>, waker: Arc<Waker>) -> Self {
        Self { sender, waker, clients: Arc::new(AtomicUsize::new(0)) }
    }

    /// Returns how many clients it serves.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    pub(super) fn client_counter(&self) -> &AtomicUsize {
        &self.clients
    }

    /// Tells it something; waits while its mailbox is full.
    ///
    /// Cancel safe: a message is sent whole or not at all.
    ///
    /// # Errors
    /// The message, if the worker has ended.
    pub async fn send(&self, message: ToWorker) -> Result<(), ToWorker> {
        if matches!(message, ToWorker::Client { .. }) {
            self.clients.fetch_add(1, Ordering::Relaxed);
        }
        self.sender.send(message).await.map_err(|refused| refused.0)?;
        self.wake();
        Ok(())
    }

    /// Tells it something, unless its mailbox is full or it has ended.
    pub(super) fn try_send(&self, message: ToWorker) -> Result<(), ToWorker> {
        self.sender.try_send(message).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(message)
            | mpsc::error::TrySendError::Closed(message) => message,
        })?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // Only a broken eventfd can fail; the worker then finds the message at its next tick.
        if let Err(error) = self.waker.wake()
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::error!(%error, "cannot wake a worker");
        }
    }
}
