//! How the proxy ends.

use tokio::sync::watch;

use super::{CommandError, Control};
use crate::fault::{Fault, SqlState};

/// How the proxy ends; a later one is faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// No new clients; those who are in go on until they leave (SIGTERM).
    WaitForClients,
    /// Clients finish their transactions and are closed (SIGINT).
    WaitForServers,
    /// At once (SIGQUIT).
    Immediate,
}

impl Control {
    /// Begins the end of the proxy, or makes it come faster; returns at once.
    ///
    /// TCP is closed; the Unix socket stays, for administrators.
    ///
    /// # Errors
    /// [`CommandError::ShuttingDown`] if it ends at least as fast already.
    pub fn shutdown(&self, mode: Mode) -> Result<(), CommandError> {
        let is_faster = self.ending.send_if_modified(|ending| {
            let is_faster = ending.is_none_or(|before| before < mode);
            if is_faster {
                *ending = Some(mode);
            }
            is_faster
        });
        if !is_faster {
            return Err(CommandError::ShuttingDown);
        }
        self.listeners.close_tcp();
        Ok(())
    }

    /// Says how the proxy ends; `None` while it is not asked to. New clients are refused then, but
    /// for administrators on the Unix socket.
    pub fn shutting_down(&self) -> Option<Mode> {
        *self.ending.borrow()
    }

    /// Tells of every [`shutdown`](Self::shutdown).
    pub fn ending(&self) -> watch::Receiver<Option<Mode>> {
        self.ending.subscribe()
    }

    /// Says why a client that has logged in may not have a session of `database` now, if so. For
    /// everybody but administrators.
    pub fn refusal(&self, database: &str) -> Option<Fault> {
        if self.shutting_down().is_some() {
            let text = "the database system is shutting down";
            return Some(Fault::fatal(SqlState::CANNOT_CONNECT_NOW, text));
        }
        if self.registry.is_disabled(database) {
            // As PostgreSQL where `datallowconn` is off, in PgBouncer's words.
            let text = format!("database \"{database}\" is disabled");
            return Some(Fault::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text));
        }
        None
    }
}
