//! How the proxy ends.

use super::{CommandError, Control};

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
    /// # Errors
    /// [`CommandError::ShuttingDown`] if it ends at least as fast already.
    pub fn shutdown(&self, _mode: Mode) -> Result<(), CommandError> {
        Err(CommandError::Unavailable)
    }

    /// Says how the proxy ends; `None` while it is not asked to. New clients are refused then, but
    /// for administrators on the Unix socket.
    pub fn shutting_down(&self) -> Option<Mode> {
        None
    }
}
