//! What the tasks of the control plane share, and what they do to the running proxy.
//!
//! All state of sessions and backends is the workers'; what is here is the way to them, the
//! configuration in force, and the registry of pools.

mod carry;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use carry::carry;

use crate::config::{self, Config};
use crate::net::Stream;
use crate::pool::registry::Registry;
use crate::replication::supervisor::Supervisor;
use crate::session::login::Admission;
use crate::worker::{self, ToWorker, WorkerHandle};

/// The running proxy, as the control plane sees it.
#[derive(Debug)]
pub struct Control {
    config_path: PathBuf,
    config: ArcSwap<Config>,
    /// All pools.
    pub registry: Registry,
    /// All workers.
    pub workers: Vec<WorkerHandle>,
    /// The secondaries of all databases.
    pub secondaries: Supervisor,
    /// The clients that are in.
    pub admission: Arc<Admission>,
    /// Makes challenges for unknown users the same each time; never leaves the process.
    pub process_secret: [u8; 32],
}

impl Control {
    /// Starts with no pools and no clients, and with a task for each secondary.
    pub fn new(config_path: &Path, config: Config, workers: Vec<WorkerHandle>) -> Self {
        Self {
            config_path: config_path.to_owned(),
            secondaries: Supervisor::start(&config),
            config: ArcSwap::from_pointee(config),
            registry: Registry::default(),
            workers,
            admission: Admission::new(),
            process_secret: rand::random(),
        }
    }

    /// Returns the configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Reads the configuration again. A bad one changes nothing and says everything that is wrong.
    pub async fn reload(&self) {
        let config = match config::load(&self.config_path) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded");
                return;
            }
        };
        let changed = self.registry.reload(&config);
        let general = Arc::new(config.general.clone());
        self.config.store(Arc::new(config));
        for worker in &self.workers {
            // An ended worker has nothing to change.
            let _ = worker.send(ToWorker::Reload { general: Arc::clone(&general) }).await;
        }
        tracing::info!(changed_pools = changed, "configuration reloaded");
    }

    /// Passes a client's cancel request to the worker that its key names.
    pub async fn cancel_for_client(&self, pid: i32, secret: &[u8], client: Stream) {
        let Some((worker, session)) = worker::from_cancel_pid(pid) else { return };
        let Ok(secret) = <[u8; 4]>::try_from(secret) else { return };
        if let Some(worker) = self.workers.get(worker) {
            // An ended worker has no session to cancel.
            let _ = worker.send(ToWorker::Cancel { session, secret, client }).await;
        }
    }
}
