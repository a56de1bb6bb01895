//! What an operator does to databases and clients of the running proxy.
//!
//! Names are those of `[databases.NAME]`, or of databases that `"*"` has made; the names of the
//! admin console never come here.

use super::Control;

/// Why a command was not carried out. The texts are PgBouncer's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No database of this name is configured, and `"*"` has made none.
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    /// PAUSE or SUSPEND while everything is paused or suspended.
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// RESUME while nothing is paused or suspended.
    #[error("pooler is not paused/suspended")]
    NotPaused,
    /// RESUME of a database that is not paused.
    #[error("database {0} is not paused")]
    DatabaseNotPaused(String),
    /// RESUME ended the PAUSE or SUSPEND while it waited.
    #[error("resumed by another command before it was done")]
    Resumed,
    /// There is no client of this number.
    #[error("client not found")]
    NoSuchClient(u64),
    /// The proxy shuts down already, at least as fast as asked for.
    #[error("already shutting down")]
    ShuttingDown,
    /// Not yet.
    #[error("not available in this version")]
    Unavailable,
}

impl Control {
    /// Has all server connections of a database, or of all, closed as their clients finish; returns
    /// when none is left. Clients stay and wait.
    ///
    /// Dropping the future undoes it.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`]; [`CommandError::AlreadyPaused`] while everything is paused
    /// or suspended; [`CommandError::Resumed`] if RESUME comes before it is done.
    pub async fn pause(&self, _database: Option<&str>) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }

    /// Undoes PAUSE and KILL of a database; without a name PAUSE or SUSPEND of everything.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`], [`CommandError::NotPaused`],
    /// [`CommandError::DatabaseNotPaused`]; [`CommandError::ShuttingDown`] while clients are being
    /// closed.
    pub async fn resume(&self, _database: Option<&str>) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }

    /// Stops reading from all clients and servers; returns when everything that was read is passed
    /// on, after `suspend_timeout` at the latest: who has not taken it by then is closed.
    ///
    /// Dropping the future undoes it.
    ///
    /// # Errors
    /// [`CommandError::AlreadyPaused`], [`CommandError::Resumed`].
    pub async fn suspend(&self) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }

    /// Closes all clients and server connections of a database at once; it is paused then.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub async fn kill(&self, _database: &str) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }

    /// Closes the client of this number, and the server connection it has.
    ///
    /// # Errors
    /// [`CommandError::NoSuchClient`].
    pub async fn kill_client(&self, _id: u64) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }

    /// Refuses new clients of a database; those it has go on.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub fn disable(&self, _database: &str) -> Result<(), CommandError> {
        Err(CommandError::Unavailable)
    }

    /// Undoes [`disable`](Self::disable).
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub fn enable(&self, _database: &str) -> Result<(), CommandError> {
        Err(CommandError::Unavailable)
    }

    /// Has all server connections that exist now replaced by new ones, as they become free.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub async fn reconnect(&self, _database: Option<&str>) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }

    /// Returns when no server connection is left that RECONNECT or a reload has made useless.
    ///
    /// Cancel safe: yes, it only looks.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub async fn wait_close(&self, _database: Option<&str>) -> Result<(), CommandError> {
        std::future::ready(Err(CommandError::Unavailable)).await
    }
}
