//! The task that looks after one secondary: connects, copies, follows, waits, and takes commands.
//!
//! Any number of processes may run this for the same secondary. One holds an advisory lock there and
//! does the work; when its connection ends, so does its lock, and another takes over.
//!
//! One life goes through the files in this order: `origin` looks at both sides, `ready` copies,
//! `following` applies batch after batch; why it ended is a [`Halt`], and `waiting` or `commands`
//! deal with it.

mod commands;
mod following;
mod halt;
mod origin;
mod ready;
mod waiting;

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;

use self::halt::Halt;
use self::ready::Known;
use super::catalog::{Selection, TableName};
use super::change::RowKey;
use super::connect::{Target, connect};
use super::error::Error;
use super::primary;
use super::progress::{self, Origin};
use super::status::{CommandError, Request, State, Status};
use super::verify::hold::HoldRequests;
use crate::config::Replication;

/// Between two looks at whether the process that applies still does.
const STANDBY: Duration = Duration::from_millis(250);

/// The advisory lock of whoever applies: two numbers, so as not to meet those of applications.
const LEADER: &str = "SELECT pg_try_advisory_lock(1886872681, 1634627693)";

/// What a secondary is, as the configuration says.
#[derive(Debug, Clone)]
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
    /// The row that could not be applied.
    poison: Option<(TableName, RowKey)>,
    /// Rows whose changes somebody wants to be skipped.
    skips: Vec<(TableName, RowKey)>,
    failures: u32,
}

impl Keeper {
    /// Takes an assignment; `status` is kept up to date, `requests` and `holds` are answered.
    pub fn new(
        assignment: Assignment,
        status: watch::Sender<Status>,
        requests: mpsc::Receiver<Request>,
        holds: HoldRequests,
        found: watch::Receiver<Option<String>>,
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
        }
    }

    /// Does all there is to do. Ends when nobody can send requests any more.
    pub async fn run(mut self) {
        loop {
            let Err(halt) = self.live().await;
            let goes_on = match halt {
                Halt::Failed(why) => self.fail(why).await,
                Halt::Stuck(state) => self.wait(state).await,
                Halt::Poison { why, row } => {
                    self.poison = Some(row);
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
        let secondary = connect(&self.assignment.secondary).await?;
        self.lead(&secondary).await?;
        let mut primary = connect(&self.assignment.primary).await?;
        let group = self.prepare_primary(&mut primary).await?;
        let origin = Origin::of_primary(&primary, &group).await?;
        progress::install(&secondary, &origin).await?;
        let progress = self.known(&primary, &secondary, &origin).await?;
        // Before the tables are read: one that comes in between is not to be ignored.
        let next_number = primary::next_number(&primary).await?;
        let tables = self.compare(&primary, &secondary).await?;
        let known = Known { progress, tables, next_number };
        let ready = self.make_ready(&primary, secondary, known).await?;
        self.failures = 0;
        self.follow(&mut primary, ready).await
    }

    /// Waits until no other process applies.
    async fn lead(&mut self, secondary: &Client) -> Result<(), Halt> {
        loop {
            let row = secondary.query_one(LEADER, &[]).await;
            let is_ours = row.and_then(|row| row.try_get(0));
            if is_ours.map_err(Error::sql("ask who applies"))? {
                self.status.send_modify(|status| status.is_leader = true);
                return Ok(());
            }
            self.status.send_modify(|status| status.is_leader = false);
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    // Nobody may be waiting any more.
                    Some(request) => drop(request.answer.send(Err(CommandError::NotHere))),
                    None => return Err(Halt::Over),
                },
                // Dropped: whoever wants to verify is told that nobody applies here.
                _ = self.holds.next() => {}
                () = tokio::time::sleep(STANDBY) => {}
            }
        }
    }
}
