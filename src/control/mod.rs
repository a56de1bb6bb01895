//! What the tasks of the control plane share, and what they do to the running proxy.
//!
//! All state of sessions and backends is the workers'; what is here is the way to them, the
//! configuration in force, the registry of pools, and the commands of operators: [`command`] is
//! about databases and clients, [`reload`] about the configuration, [`shutdown`] about the end,
//! [`walsenders`] about replication connections, [`channels`] about those that listen, [`inspect`] only looks. [`open`] opens backends for
//! the workers, and [`servers`] looks after where.

mod carry;
mod channels;
mod command;
mod inspect;
mod janitor;
mod logging;
mod open;
mod reload;
mod reloads;
mod servers;
mod shutdown;
mod walsenders;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, watch};

pub use carry::carry;
pub use channels::{ListenerConnection, ListenerReport};
pub use command::CommandError;
pub use inspect::{DatabaseReport, Inventory, PoolInfo, UserReport};
pub use janitor::janitor;
pub use logging::log_settings;
pub use reload::{Changes, ReloadError, Sections, SetError};
pub use reloads::Reloads;
pub use servers::watch_servers;
pub use shutdown::Mode;

use channels::Hubs;
use walsenders::Walsenders;

pub use crate::pool::registry::{PoolChange, PoolEffect};

use crate::config::{Config, Source};
use crate::net::Stream;
use crate::net::listen::Listeners;
use crate::net::names::Names;
use crate::net::tls::{Acceptor, Connectors};
use crate::pool::gate::Gate;
use crate::pool::registry::Registry;
use crate::pool::spec::Spec;
use crate::replication::supervisor::Supervisor;
use crate::secret::Secret;
use crate::session::login::Admission;
use crate::session::lookup::Lookups;
use crate::worker::report::{PoolReport, WorkerReport, by_pool, collect};
use crate::worker::{Done, ToWorker, WorkerHandle};

/// How long workers may take to say how things stand.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// The running proxy, as the control plane sees it.
#[derive(Debug)]
pub struct Control {
    config_path: PathBuf,
    config: Arc<ArcSwap<Config>>,
    /// The text that the configuration in force was read from.
    source: ArcSwap<Source>,
    /// All pools.
    pub registry: Arc<Registry>,
    /// All workers.
    pub workers: Vec<WorkerHandle>,
    /// The secondaries of all databases.
    pub secondaries: Supervisor,
    /// Where clients come in.
    pub listeners: Arc<Listeners>,
    /// The clients that are in.
    pub admission: Arc<Admission>,
    /// Asks servers for the secrets of users.
    pub lookups: Lookups,
    /// Begins TLS with clients.
    pub acceptor: ArcSwap<Acceptor>,
    /// Begins TLS with servers.
    pub connectors: Connectors,
    /// The addresses of servers.
    names: Names,
    /// How often the configuration has changed.
    pub reloads: Reloads,
    /// Makes challenges for unknown users the same each time; never leaves the process.
    pub process_secret: [u8; 32],
    /// Replication connections.
    walsenders: Walsenders,
    /// Connections that listen.
    pub hubs: Hubs,
    /// Closed by SUSPEND.
    suspension: Arc<Gate>,
    ending: watch::Sender<Option<Mode>>,
    /// One configuration comes into force at a time.
    turns: Arc<Semaphore>,
}

/// What the control plane starts with.
#[derive(Debug)]
pub struct Parts {
    /// Where the configuration was read from.
    pub config_path: PathBuf,
    /// Its text.
    pub source: Source,
    /// What it says.
    pub config: Config,
    /// All workers.
    pub workers: Vec<WorkerHandle>,
    /// Where clients come in.
    pub listeners: Listeners,
    /// Begins TLS with clients.
    pub acceptor: Acceptor,
    /// Begins TLS with servers.
    pub connectors: Connectors,
    /// Closed by SUSPEND; the workers look at it.
    pub suspension: Arc<Gate>,
}

impl Control {
    /// Starts with no pools and no clients, and with a task for each secondary.
    pub fn new(parts: Parts) -> Self {
        let registry = Arc::<Registry>::default();
        Self {
            lookups: Lookups::new(Arc::clone(&registry)),
            config_path: parts.config_path,
            secondaries: Supervisor::start(&parts.config, registry.seals().clone()),
            config: Arc::new(ArcSwap::from_pointee(parts.config)),
            source: ArcSwap::from_pointee(parts.source),
            registry,
            workers: parts.workers,
            listeners: Arc::new(parts.listeners),
            admission: Admission::new(),
            acceptor: ArcSwap::from_pointee(parts.acceptor),
            connectors: parts.connectors,
            names: Names::default(),
            reloads: Reloads::default(),
            process_secret: rand::random(),
            walsenders: Walsenders::default(),
            hubs: Hubs::default(),
            suspension: parts.suspension,
            ending: watch::Sender::new(None),
            turns: Arc::new(Semaphore::new(1)),
        }
    }

    /// Returns the configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Returns the pool of (`database`, `user`); `None` if there is no such database now.
    pub fn pool(&self, database: &str, user: &str) -> Option<Arc<Spec>> {
        self.registry.pool(|| self.config(), database, user)
    }

    /// Asks all workers how things stand; `None` for one that does not say so in time.
    pub async fn reports(&self) -> Vec<Option<WorkerReport>> {
        collect(&self.workers, REPORT_LIMIT).await
    }

    /// Asks all workers, and adds up what they say of each pool; ordered by database and user.
    pub async fn pool_reports(&self) -> Vec<PoolReport> {
        by_pool(self.reports().await.iter().flatten())
    }

    /// Passes a client's cancel request to whoever has a session with this key, and ends the
    /// client's connection when the request has been acted on.
    pub async fn cancel_for_client(&self, pid: i32, secret: &[u8], mut client: Stream) {
        let secret = Secret::new(secret);
        if !self.cancel_walsender(pid, &secret).await {
            self.tell_all(|done| ToWorker::Cancel { pid, secret: secret.clone(), done }).await;
        }
        client.try_close();
    }

    /// Has all workers look at their backends, some of which are of no use any more.
    fn review_soon(&self) {
        drop(tell_all(&self.workers, |done| ToWorker::Review { done }));
    }

    /// Tells all workers something, and waits until all have done it.
    ///
    /// Cancel safe: all are told even if nobody waits for it.
    async fn tell_all(&self, message: impl Fn(Done) -> ToWorker) {
        tell_all(&self.workers, message).until_done().await;
    }
}

/// Tells all workers something, also if nobody waits until they have done it.
fn tell_all(workers: &[WorkerHandle], message: impl Fn(Done) -> ToWorker) -> Told {
    let (done, all_done) = mpsc::channel(1);
    let messages: Vec<_> =
        workers.iter().map(|worker| (worker.clone(), message(done.clone()))).collect();
    tokio::spawn(async move {
        for (worker, message) in messages {
            // One that has ended has nothing to do.
            let _ = worker.send(message).await;
        }
    });
    Told(all_done)
}

/// What all workers have been told to do.
struct Told(mpsc::Receiver<()>);

impl Told {
    async fn until_done(mut self) {
        // Nobody sends; it ends when the last worker has dropped its half.
        while self.0.recv().await.is_some() {}
    }
}
