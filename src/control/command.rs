//! What an operator does to databases and clients of the running proxy.
//!
//! Names are those of `[databases.NAME]`, or of databases that `"*"` has made; the names of the
//! admin console never come here.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Control, Mode, tell_all};
use crate::pool::gate::{Gate, Turn};
use crate::worker::{ToWorker, WorkerHandle};

/// Between two looks at whether what is waited for has happened.
const LOOK: Duration = Duration::from_millis(10);

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
}

impl Control {
    /// Has all server connections of a database, or of all, closed as their clients finish; returns
    /// when none is left. Clients stay and wait; `query_wait_timeout` stands still.
    ///
    /// Dropping the future before it is done undoes it.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`]; [`CommandError::AlreadyPaused`] while everything is paused
    /// or suspended; [`CommandError::Resumed`] if RESUME comes before it is done;
    /// [`CommandError::ShuttingDown`] while clients are being closed.
    pub async fn pause(&self, database: Option<&str>) -> Result<(), CommandError> {
        self.check_not_draining()?;
        if self.is_paused() || self.is_suspended() {
            return Err(CommandError::AlreadyPaused);
        }
        let gate = match database {
            None => Arc::clone(self.registry.pooler()),
            Some(name) => self.gate(name)?,
        };
        // As in PgBouncer, a database may be paused again: that waits for the same.
        let undo = gate.pause().map(|turn| self.undo(&gate, turn));
        self.review().await;
        self.until_closed(&gate, database).await?;
        self.lookups.drain(database).await;
        if let Some(undo) = undo {
            undo.keep();
        }
        Ok(())
    }

    /// Undoes PAUSE and KILL of a database; without a name PAUSE or SUSPEND of everything.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`], [`CommandError::NotPaused`],
    /// [`CommandError::DatabaseNotPaused`]; [`CommandError::ShuttingDown`] while clients are being
    /// closed.
    pub async fn resume(&self, database: Option<&str>) -> Result<(), CommandError> {
        self.check_not_draining()?;
        match database {
            None => {
                let was_paused = self.registry.pooler().resume();
                let was_suspended = self.suspension.resume();
                if !was_paused && !was_suspended {
                    return Err(CommandError::NotPaused);
                }
            }
            Some(name) => {
                if !self.gate(name)?.resume() {
                    return Err(CommandError::DatabaseNotPaused(name.to_owned()));
                }
            }
        }
        self.review().await;
        Ok(())
    }

    /// Stops reading from all clients and servers; returns when everything that was read is passed
    /// on, after `suspend_timeout` at the latest: who has not taken it by then is closed.
    ///
    /// Clients may still log in; they are not read from after that. Dropping the future before it is
    /// done undoes it.
    ///
    /// # Errors
    /// [`CommandError::AlreadyPaused`], [`CommandError::Resumed`];
    /// [`CommandError::ShuttingDown`] while clients are being closed.
    pub async fn suspend(&self) -> Result<(), CommandError> {
        self.check_not_draining()?;
        if self.is_paused() {
            return Err(CommandError::AlreadyPaused);
        }
        let turn = self.suspension.pause().ok_or(CommandError::AlreadyPaused)?;
        let undo = self.undo(&self.suspension, turn);
        let deadline = Instant::now() + self.config().general.suspend_timeout;
        self.review().await;
        loop {
            let changed = self.suspension.changed();
            if !self.suspension.is_paused() {
                return Err(CommandError::Resumed);
            }
            if self.unsent().await == 0 {
                break;
            }
            if Instant::now() >= deadline {
                self.tell_all(|done| ToWorker::CloseUnsent { done }).await;
                break;
            }
            // Whichever comes first: another look is due, or somebody resumed.
            let _ = timeout_at(deadline.min(Instant::now() + LOOK), changed).await;
        }
        undo.keep();
        Ok(())
    }

    /// Closes all clients and server connections of a database at once; it is paused then. Returns
    /// when no server connection is left.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub async fn kill(&self, database: &str) -> Result<(), CommandError> {
        let gate = self.gate(database)?;
        gate.hold();
        self.walsenders.kill(&gate);
        self.tell_all(|done| ToWorker::Kill { gate: Arc::clone(&gate), done }).await;
        // If it is resumed meanwhile, what was to be killed is dead all the same.
        let _ = self.until_closed(&gate, Some(database)).await;
        self.lookups.drain(Some(database)).await;
        Ok(())
    }

    /// Closes the client of this number, and the server connection it has.
    ///
    /// # Errors
    /// [`CommandError::NoSuchClient`].
    pub async fn kill_client(&self, id: u64) -> Result<(), CommandError> {
        for worker in &self.workers {
            let (reply, was_there) = oneshot::channel();
            // A worker that has ended has no clients.
            let is_told = worker.send(ToWorker::KillClient { id, reply }).await.is_ok();
            if is_told && was_there.await.unwrap_or(false) {
                return Ok(());
            }
        }
        Err(CommandError::NoSuchClient(id))
    }

    /// Refuses new clients of a database; those it has go on.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub fn disable(&self, database: &str) -> Result<(), CommandError> {
        self.gate(database)?.set_disabled(true);
        Ok(())
    }

    /// Undoes [`disable`](Self::disable).
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub fn enable(&self, database: &str) -> Result<(), CommandError> {
        self.gate(database)?.set_disabled(false);
        Ok(())
    }

    /// Has all server connections that exist now replaced by new ones, as they become free.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub async fn reconnect(&self, database: Option<&str>) -> Result<(), CommandError> {
        if let Some(name) = database {
            self.gate(name)?;
        }
        for spec in self.registry.pools(database) {
            spec.begin_generation();
        }
        self.lookups.close_idle(database).await;
        self.review().await;
        Ok(())
    }

    /// Returns when no server connection is left that RECONNECT or a reload has made useless.
    ///
    /// Cancel safe: yes, it only looks.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDatabase`].
    pub async fn wait_close(&self, database: Option<&str>) -> Result<(), CommandError> {
        if let Some(name) = database {
            self.gate(name)?;
        }
        // What becomes useless while we wait is the next one's business.
        let pools = self.registry.pools(database).into_iter();
        let mut pools: Vec<_> = pools.map(|spec| (spec.generation(), spec)).collect();
        loop {
            pools.retain(|(generation, spec)| spec.ledger.has_older_than(*generation));
            if pools.is_empty() {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    fn check_not_draining(&self) -> Result<(), CommandError> {
        let is_draining = self.shutting_down().is_some_and(|mode| mode > Mode::WaitForClients);
        if is_draining { Err(CommandError::ShuttingDown) } else { Ok(()) }
    }

    fn gate(&self, database: &str) -> Result<Arc<Gate>, CommandError> {
        let gate = self.registry.gate(&self.config(), database);
        gate.ok_or_else(|| CommandError::NoSuchDatabase(database.to_owned()))
    }

    /// Has all workers look at gates and generations.
    async fn review(&self) {
        self.tell_all(|done| ToWorker::Review { done }).await;
    }

    /// Waits until no backend is left behind a gate.
    ///
    /// The workers have seen that it is closed: no backend is asked for any more, and each that was
    /// asked for before holds its place until it is closed.
    async fn until_closed(&self, gate: &Gate, database: Option<&str>) -> Result<(), CommandError> {
        loop {
            let changed = gate.changed();
            if !gate.is_paused() {
                return Err(CommandError::Resumed);
            }
            let pools = self.registry.pools(database);
            if pools.iter().all(|spec| spec.ledger.pool().count() == 0) {
                return Ok(());
            }
            let _ = timeout_at(Instant::now() + LOOK, changed).await;
        }
    }

    /// Asks all workers how many connections have not taken everything yet.
    async fn unsent(&self) -> usize {
        let mut unsent = 0;
        for worker in &self.workers {
            let (reply, count) = oneshot::channel();
            // A worker that has ended has nothing to send.
            if worker.send(ToWorker::Unsent { reply }).await.is_ok() {
                unsent += count.await.unwrap_or(0);
            }
        }
        unsent
    }

    fn undo(&self, gate: &Arc<Gate>, turn: Turn) -> Undo {
        Undo { pause: Some((Arc::clone(gate), turn)), workers: self.workers.clone() }
    }
}

/// Undoes a pause whose caller has gone away.
struct Undo {
    pause: Option<(Arc<Gate>, Turn)>,
    workers: Vec<WorkerHandle>,
}

impl Undo {
    /// The pause is to last.
    fn keep(mut self) {
        self.pause = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some((gate, turn)) = self.pause.take() else { return };
        // Where no runtime is left, no worker waits to be told.
        if gate.undo(turn)
            && let Ok(runtime) = Handle::try_current()
        {
            let workers = std::mem::take(&mut self.workers);
            runtime.spawn(async move {
                tell_all(&workers, |done| ToWorker::Review { done }).until_done().await;
            });
        }
    }
}
