//! What there is: databases, pools, clients, servers.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Control;
use crate::config::{Database, PoolSettings};
use crate::pool::spec::Spec;
use crate::worker::{ClientReport, ServerReport, ToWorker};

/// All clients and backends of all workers.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Clients that have logged in.
    pub clients: Vec<ClientReport>,
    /// Backends that are open.
    pub servers: Vec<ServerReport>,
}

/// One database that clients can ask for, or have asked for.
#[derive(Debug, Clone)]
pub struct DatabaseReport {
    /// As clients call it.
    pub name: String,
    /// What the configuration says of it; `None` if a reload has removed it and clients are left.
    pub entry: Option<Database>,
    /// Whether `"*"` made it.
    pub is_auto: bool,
    /// Backends that exist or are on their way.
    pub connections: u32,
    /// `max_db_connections`; 0 means no bound.
    pub connections_max: u32,
    /// Clients that have logged in.
    pub clients: u32,
    /// Whether PAUSE or KILL holds.
    pub is_paused: bool,
    /// Whether DISABLE holds.
    pub is_disabled: bool,
}

/// One pool.
#[derive(Debug, Clone)]
pub struct PoolInfo {
    /// What it is.
    pub spec: Arc<Spec>,
    /// Its settings.
    pub settings: Arc<PoolSettings>,
    /// Backends that exist or are on their way.
    pub connections: u32,
    /// Clients that have logged in.
    pub clients: u32,
    /// Whether PAUSE or KILL holds.
    pub is_paused: bool,
}

/// One user: those with a section of their own, and those who have a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserReport {
    /// As clients log in, and as backends do.
    pub name: String,
    /// Backends that log in with this name.
    pub connections: u32,
    /// `max_user_connections`; 0 means no bound.
    pub connections_max: u32,
    /// Clients that have logged in with this name.
    pub clients: u32,
}

impl Control {
    /// Asks all workers what they have.
    ///
    /// It is no snapshot: who comes or goes meanwhile may be missing or be in it. Cancel safe: yes.
    pub async fn list(&self) -> Inventory {
        let mut inventory = Inventory::default();
        for worker in &self.workers {
            let mut from = Some(0);
            while let Some(at) = from {
                let (reply, page) = oneshot::channel();
                // A worker that has ended has nobody.
                if worker.send(ToWorker::List { from: at, reply }).await.is_err() {
                    break;
                }
                let Ok(page) = page.await else { break };
                inventory.clients.extend(page.clients);
                inventory.servers.extend(page.servers);
                from = page.next;
            }
        }
        inventory
    }

    /// Returns all databases, by name; `"*"` is not one of them.
    pub fn databases(&self) -> Vec<DatabaseReport> {
        Vec::new()
    }

    /// Returns all pools, by database and user.
    pub fn pools(&self) -> Vec<PoolInfo> {
        Vec::new()
    }

    /// Returns all users, by name.
    pub fn users(&self) -> Vec<UserReport> {
        Vec::new()
    }

    /// Says whether PAUSE of everything holds.
    pub fn is_paused(&self) -> bool {
        false
    }

    /// Says whether SUSPEND holds.
    pub fn is_suspended(&self) -> bool {
        false
    }
}
