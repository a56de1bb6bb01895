//! Puts another configuration in force, and touches only what has changed.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task;

use super::{Control, log_settings, tell_all};
use crate::config::{Config, ConfigError, General, Source, is_for_start};
use crate::log::{self, LogError};
use crate::net::listen::{ListenError, Rebind, Rebound};
use crate::net::tls::{Acceptor, Connectors, SetupError};
use crate::pool::registry::PoolChange;
use crate::worker::ToWorker;

pub use crate::config::Sections;

/// What a configuration changes, or would change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Keys of `[general]`.
    pub general: Vec<&'static str>,
    /// Those of them that come into force at the next start.
    pub restart: Vec<&'static str>,
    /// `[databases.NAME]`.
    pub databases: Sections,
    /// `[users.NAME]`.
    pub users: Sections,
    /// Addresses and paths that are listened on, and that are not any more.
    pub listening: Rebound,
    /// Pools whose settings change, by database and user.
    pub pools: Vec<PoolChange>,
}

impl Changes {
    /// Says whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a configuration was not put in force. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The log's file cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The file is wrong or cannot be read; says everything that is wrong, with lines.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is in a file with keys or certificates is wrong.
    #[error(transparent)]
    Tls(#[from] SetupError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The proxy is ending.
    #[error("the proxy is shutting down")]
    Ending,
}

/// Why a key was not set. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The key or its value is wrong, or does not go together with others; or an address cannot be
    /// listened on.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// The key comes into force at a start only.
    #[error("{key} cannot be changed without a restart")]
    NeedsRestart {
        /// The key.
        key: String,
    },
}

impl Control {
    /// Reads the configuration again, and puts it in force.
    ///
    /// Undoes every [`set`](Self::set). Cancel safe: it comes into force whole or not at all.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub async fn reload(&self) -> Result<Changes, ReloadError> {
        let outcome = self.read_again().await;
        self.reloads.note(&outcome);
        outcome
    }

    async fn read_again(&self) -> Result<Changes, ReloadError> {
        let turn = self.turn().await?;
        let source = Source::read(&self.config_path)?;
        self.put_in_force(turn, source).await
    }

    /// Reads the configuration again, and says what [`reload`](Self::reload) would do.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub async fn reload_dry_run(&self) -> Result<Changes, ReloadError> {
        let _turn = self.turn().await?;
        let config = Source::read(&self.config_path)?.parse()?;
        tls(&config)?;
        let listening = if listens_alike(&self.config().general, &config.general) {
            Rebound::default()
        } else {
            let (listeners, general) = (Arc::clone(&self.listeners), config.general.clone());
            // Names are looked up.
            task::spawn_blocking(move || listeners.try_out(&general))
                .await
                .map_err(|_| ReloadError::Ending)??
        };
        Ok(self.changes(&config, listening))
    }

    /// Sets a key of `[general]` until the next [`reload`](Self::reload). `value` is written as in
    /// `proxy.toml`, the quotes left out; lists have commas.
    ///
    /// Cancel safe: it comes into force whole or not at all.
    ///
    /// # Errors
    /// See [`SetError`].
    pub async fn set(&self, key: &str, value: &str) -> Result<Changes, SetError> {
        if is_for_start(key) {
            return Err(SetError::NeedsRestart { key: key.to_owned() });
        }
        let turn = self.turn().await?;
        let source = self.source.load().with(key, value);
        Ok(self.put_in_force(turn, source).await?)
    }

    /// Waits until no other configuration is on its way.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, ReloadError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        // It is never closed.
        turn.map_err(|_| ReloadError::Ending)
    }

    /// Nothing is changed before all that can fail is done; nothing waits between the changes.
    async fn put_in_force(
        &self,
        turn: OwnedSemaphorePermit,
        source: Source,
    ) -> Result<Changes, ReloadError> {
        let config = source.parse()?;
        let (acceptor, connectors) = tls(&config)?;
        let rebind = self.prepare(&config.general).await?;
        // The last that can fail. It also opens the log's file anew, for whoever rotates it.
        log::change(&log_settings(&config.general))?;
        let listening = rebind.map_or_else(Rebound::default, |rebind| self.listeners.apply(rebind));
        let changes = self.changes(&config, listening);
        let general = Arc::new(config.general.clone());
        let config = Arc::new(config);
        self.source.store(Arc::new(source));
        // In this order: who makes a pool meanwhile reads the old configuration before the registry
        // follows, or the new one.
        self.acceptor.store(Arc::new(acceptor));
        self.connectors.replace(connectors);
        self.config.store(Arc::clone(&config));
        self.registry.reload(&config);
        self.secondaries.apply(&config);
        self.lookups.forget_all();
        let told = tell_all(&self.workers, |done| ToWorker::Reload {
            general: Arc::clone(&general),
            done,
        });
        // The next one waits for this, also if nobody else does.
        let told = tokio::spawn(async move {
            told.until_done().await;
            drop(turn);
        });
        told.await.map_err(|_| ReloadError::Ending)?;
        Ok(changes)
    }

    /// Binds what is new; `None` if that is nothing.
    async fn prepare(&self, general: &General) -> Result<Option<Rebind>, ReloadError> {
        if listens_alike(&self.config().general, general) {
            return Ok(None);
        }
        let (listeners, general) = (Arc::clone(&self.listeners), general.clone());
        // Names are looked up.
        let prepared = task::spawn_blocking(move || listeners.prepare(&general)).await;
        Ok(Some(prepared.map_err(|_| ReloadError::Ending)??))
    }

    fn changes(&self, config: &Config, listening: Rebound) -> Changes {
        let difference = self.config().difference(config);
        let for_start = difference.general.iter().copied().filter(|key| is_for_start(key));
        Changes {
            restart: for_start.collect(),
            general: difference.general,
            databases: difference.databases,
            users: difference.users,
            listening,
            pools: self.registry.changes(config),
        }
    }
}

/// Makes what a configuration needs for TLS.
fn tls(config: &Config) -> Result<(Acceptor, Connectors), SetupError> {
    Ok((Acceptor::new(&config.general)?, Connectors::new(config)?))
}

/// Says whether two configurations listen at the same places in the same way.
fn listens_alike(a: &General, b: &General) -> bool {
    a.listen_addr == b.listen_addr
        && a.listen_port == b.listen_port
        && a.unix_socket_dir == b.unix_socket_dir
        && a.unix_socket_mode == b.unix_socket_mode
        && a.listen_backlog == b.listen_backlog
        && a.tcp_keepalive == b.tcp_keepalive
        && a.tcp_keepidle == b.tcp_keepidle
        && a.tcp_keepintvl == b.tcp_keepintvl
        && a.tcp_keepcnt == b.tcp_keepcnt
        && a.tcp_user_timeout == b.tcp_user_timeout
}
