//! What the tasks of the control plane share, and what they do to the running proxy.
//!
//! All state of sessions and backends is the workers'; what is here is the way to them, the
//! configuration in force, and the registry of pools.

mod carry;
mod command;
mod inspect;
mod reload;
mod reloads;
mod shutdown;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use carry::carry;
pub use command::CommandError;
pub use inspect::{DatabaseReport, Inventory, PoolInfo, UserReport};
pub use reload::{Changes, PoolChange, PoolEffect, ReloadError, Sections, SetError};
pub use reloads::Reloads;
pub use shutdown::Mode;

use crate::config::Config;
use crate::net::Stream;
use crate::pool::registry::Registry;
use crate::session::login::Admission;
use crate::worker::report::{PoolReport, WorkerReport, by_pool, collect};
use crate::worker::{self, ToWorker, WorkerHandle};

/// How long workers may take to say how things stand.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// The running proxy, as the control plane sees it.
#[derive(Debug)]
pub struct Control {
    config_path: PathBuf,
    config: ArcSwap<Config>,
    /// All pools.
    pub registry: Registry,
    /// All workers.
    pub workers: Vec<WorkerHandle>,
    /// The clients that are in.
    pub admission: Arc<Admission>,
    /// How often the configuration has changed.
    pub reloads: Reloads,
    /// Makes challenges for unknown users the same each time; never leaves the process.
    pub process_secret: [u8; 32],
}

impl Control {
    /// Starts with no pools and no clients.
    pub fn new(config_path: &Path, config: Config, workers: Vec<WorkerHandle>) -> Self {
        Self {
            config_path: config_path.to_owned(),
            config: ArcSwap::from_pointee(config),
            registry: Registry::default(),
            workers,
            admission: Admission::new(),
            reloads: Reloads::default(),
            process_secret: rand::random(),
        }
    }

    /// Returns the configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Asks all workers how things stand; `None` for one that does not say so in time.
    pub async fn reports(&self) -> Vec<Option<WorkerReport>> {
        collect(&self.workers, REPORT_LIMIT).await
    }

    /// Asks all workers, and adds up what they say of each pool; ordered by database and user.
    pub async fn pool_reports(&self) -> Vec<PoolReport> {
        by_pool(self.reports().await.iter().flatten())
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
