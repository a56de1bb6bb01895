//! The task that looks after one secondary: connects, copies, follows, waits, and takes commands.
//!
//! Any number of processes may run this for the same secondary. One holds an advisory lock there and
//! does the work; when its connection ends, so does its lock, and another takes over (`lead`).
//!
//! One life goes through the files in this order: `origin` looks at both sides, `ready` copies,
//! `following` applies batch after batch; why it ended is a [`Halt`], and `waiting` or `commands`
//! deal with it.

mod commands;
mod following;
mod halt;
mod lead;
mod origin;
mod ready;
mod waiting;

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use self::halt::Halt;
use self::ready::Known;
use super::apply::Poison;
use super::capture::schema;
use super::catalog::Selection;
use super::connect::{Target, connect};
use super::error::Error;
use super::primary;
use super::progress::{self, Origin};
use super::schema_copy;
use super::status::{Request, State, Status};
use super::verify::hold::HoldRequests;
use crate::config::Replication;
use crate::pool::definitions::Seal;

/// What a secondary is, as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The database it belongs to.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Where the primary is.
    pub primary: Target,
    /// Where the secondary is.
    pub secondary: Target,
    /// What holds for all secondaries of the database.
    pub settings: Replication,
    /// Connections that may be open to the secondary.
    pub pool_size: usize,
}

/// Looks after one secondary until it is told to stop.
pub struct Keeper {
    assignment: Assignment,
    selection: Selection,
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<Request>,
    /// Verifiers that want it to stand still.
    holds: HoldRequests,
    /// What they have found.
    found: watch::Receiver<Option<String>>,
    /// Whether somebody has asked for a copy, though `auto` is off or the secondary is detached.
    wants_copy: bool,
    /// What could not be applied.
    poison: Option<Poison>,
    /// What somebody wants to be skipped.
    skips: Vec<Poison>,
    failures: u32,
    /// Takes the secret by which definitions are proved.
    seal: Arc<Seal>,
}

impl Keeper {
    /// Takes an assignment; `status` is kept up to date, `requests` and `holds` are answered.
    pub fn new(
        assignment: Assignment,
        status: watch::Sender<Status>,
        requests: mpsc::Receiver<Request>,
        holds: HoldRequests,
        found: watch::Receiver<Option<String>>,
        seal: Arc<Seal>,
    ) -> Self {
        let settings = &assignment.settings;
        let selection = Selection::new(&settings.tables, &settings.exclude);
        let (wants_copy, poison, skips, failures) = (false, None, Vec::new(), 0);
        Self {
            assignment,
            selection,
            status,
            requests,
            holds,
            found,
            wants_copy,
            poison,
            skips,
            failures,
            seal,
        }
    }

    /// Does all there is to do. Ends when nobody can send requests any more.
    pub async fn run(mut self) {
        loop {
            let Err(halt) = self.live().await;
            let goes_on = match halt {
                Halt::Failed(why) => self.fail(why).await,
                Halt::Stuck(state) => self.wait(state).await,
                Halt::Poison { why, what } => {
                    self.poison = Some(what);
                    self.wait(State::Paused(why)).await
                }
                Halt::Asked(request) => self.answer(request).await,
                Halt::Again => true,
                Halt::Over => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Everything from connecting on; returns only with a reason.
    async fn live(&mut self) -> Result<Infallible, Halt> {
        let secondary = Arc::new(connect(&self.assignment.secondary).await?);
        self.lead(&secondary).await?;
        let mut primary = connect(&self.assignment.primary).await?;
        // Reading the catalog of a table takes a lock on it, and may queue behind a definition that
        // waits for somebody who waits for us.
        let limit = primary.batch_execute("SET lock_timeout = '2s'").await;
        limit.map_err(Error::sql("prepare the session"))?;
        let group = self.prepare_primary(&mut primary, &secondary).await?;
        // Before anybody is told that it follows.
        self.seal.set(schema::secret(&primary).await?);
        let origin = Origin::of_primary(&primary, &group).await?;
        progress::install(&secondary, &origin).await?;
        let progress = self.known(&primary, &secondary, &origin).await?;
        let followed = progress::followed(&*secondary).await?;
        if let Some(snapshot) = &progress.snapshot
            && !followed.is_empty()
            && primary::has_definitions(&mut primary, snapshot).await?
        {
            // The primary's tables are others than those that the next changes are of.
            let ready = self.catch_up(secondary, snapshot.clone(), followed).await?;
            return self.follow(&mut primary, ready).await;
        }
        // Before the tables are read: one that comes in between is not to be ignored.
        let next_number = primary::next_number(&primary).await?;
        let is_unfinished = schema_copy::is_unfinished(&secondary).await?;
        let compared = self.compare(&primary, &secondary, is_unfinished).await;
        if compared.is_err()
            && let Some(snapshot) = &progress.snapshot
            && !followed.is_empty()
            && primary::has_definitions(&mut primary, snapshot).await?
        {
            // One has come meanwhile.
            return Err(Halt::Again);
        }
        let tables = compared?;
        let known = Known { progress, tables, next_number, followed, is_unfinished };
        let ready = self.make_ready(&primary, secondary, known).await?;
        self.follow(&mut primary, ready).await
    }
}
