//! The task that looks after one secondary: connects, copies, follows, waits, and takes commands.
//!
//! Any number of processes may run this for the same secondary. One holds an advisory lock there and
//! does the work; when its connection ends, so does its lock, and another takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;

use super::apply::{Applier, ApplyError, Followed, Tables};
use super::batch::Position;
use super::capture::{schema, table as capture};
use super::catalog::{self, Selection, Table};
use super::checks::{self, Obstacle};
use super::connect::{Target, connect};
use super::copy::{self, CopyError, Existing, Plan};
use super::error::Error;
use super::follow::Follower;
use super::primary;
use super::progress::{self, Origin};
use super::sequences;
use super::status::{Command, CommandError, Request, State, Status};
use crate::config::Replication;

/// Between two looks at whether the process that applies still does.
const STANDBY: Duration = Duration::from_secs(1);

/// Between two reports to the primary.
const REPORT: Duration = Duration::from_secs(1);

/// Between two looks at the sequences.
const SEQUENCES: Duration = Duration::from_secs(5);

/// A secondary whose last batch was read longer ago than this is not in sync.
const FRESH: Duration = Duration::from_secs(2);

/// How long a table may be locked by others when it is put under capture.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pauses after failures: doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

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
    pub(super) assignment: Assignment,
    selection: Selection,
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<Request>,
    /// Whether to copy once, though there are rows or `auto` is off.
    wants_copy: Option<Existing>,
    failures: u32,
}

/// Why the work stopped.
enum Halt {
    /// Something that may be better next time.
    Failed(String),
    /// Something that somebody has to look at.
    Stuck(State),
    /// A command.
    Asked(Request),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        if error.is_transient() {
            Self::Failed(error.to_string())
        } else {
            Self::Stuck(State::Paused(error.to_string()))
        }
    }
}

impl From<ApplyError> for Halt {
    fn from(error: ApplyError) -> Self {
        if error.is_transient() {
            Self::Failed(error.to_string())
        } else {
            Self::Stuck(State::Paused(error.to_string()))
        }
    }
}

impl From<CopyError> for Halt {
    fn from(error: CopyError) -> Self {
        if error.is_transient() {
            Self::Failed(error.to_string())
        } else {
            Self::Stuck(State::Paused(error.to_string()))
        }
    }
}

impl From<super::capture::error::CaptureError> for Halt {
    fn from(error: super::capture::error::CaptureError) -> Self {
        if error.is_transient() {
            Self::Failed(error.to_string())
        } else {
            Self::Stuck(State::Paused(error.to_string()))
        }
    }
}

impl Keeper {
    /// Takes an assignment; `status` is kept up to date, `requests` are answered.
    pub fn new(
        assignment: Assignment,
        status: watch::Sender<Status>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let settings = &assignment.settings;
        let selection = Selection::new(&settings.tables, &settings.exclude);
        Self { assignment, selection, status, requests, wants_copy: None, failures: 0 }
    }

    /// Does all there is to do, for ever. Ends when nobody can send requests any more.
    pub async fn run(mut self) {
        loop {
            let halt = match self.live().await {
                Ok(never) => match never {},
                Err(halt) => halt,
            };
            let goes_on = match halt {
                Halt::Failed(why) => self.fail(why).await,
                Halt::Stuck(state) => self.wait(state).await,
                Halt::Asked(request) => self.answer(request).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Everything from connecting on; returns only with a reason.
    async fn live(&mut self) -> Result<std::convert::Infallible, Halt> {
        let secondary = connect(&self.assignment.secondary).await?;
        self.lead(&secondary).await?;
        let mut primary = connect(&self.assignment.primary).await?;
        let group = self.prepare_primary(&mut primary).await?;
        let origin = Origin::of_primary(&primary, &group).await?;
        progress::install(&secondary, &origin).await?;
        let tables = self.compare(&primary, &secondary).await?;
        let progress = progress::read(&secondary).await?;
        let Some(progress) = progress else {
            return Err(Error::Unexpected { what: "no progress".to_owned() }.into());
        };
        if progress.origin.group != origin.group {
            let why = format!("it follows another primary, group {}", progress.origin.group);
            return Err(Halt::Stuck(State::Paused(why)));
        }
        if let Some(why) = primary::is_behind(&primary, &origin, &progress).await? {
            return Err(Halt::Stuck(State::Ahead(why)));
        }
        if let Some(why) = progress.paused {
            return Err(Halt::Stuck(State::Paused(why)));
        }
        let snapshot = match progress.snapshot {
            Some(snapshot) if self.wants_copy.is_none() => snapshot,
            _ => self.copy(&primary, &secondary, &tables).await?,
        };
        let copied = progress::copied(&secondary).await?;
        let position = progress::position(snapshot, &copied, |name| {
            tables.iter().find(|(_, table)| table.name == *name).map(|(number, _)| *number)
        });
        let there: Vec<&Table> = tables.iter().map(|(_, table)| table).collect();
        let (treatment, obstacles) = checks::treatment(&secondary, &there).await?;
        refuse(&obstacles)?;
        let followed: Tables = tables
            .into_iter()
            .filter_map(|(number, table)| Some((number, Arc::new(Followed::new(table)?))))
            .collect();
        let applier = Applier::new(secondary, treatment);
        let mut follower = Follower::new(applier, Arc::new(followed), position);
        self.failures = 0;
        self.follow(&primary, &mut follower).await
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
                request = self.requests.recv() => if let Some(request) = request {
                    // Nobody may be waiting any more.
                    let _ = request.answer.send(Err(CommandError::NotHere));
                },
                () = tokio::time::sleep(STANDBY) => {}
            }
        }
    }

    /// Installs capture if we may, and says which group the primary leads.
    async fn prepare_primary(&mut self, client: &mut Client) -> Result<String, Halt> {
        if !self.assignment.settings.auto && self.wants_copy.is_none() {
            return Ok(schema::read(client).await?.group);
        }
        let meta = schema::install(client).await?;
        let state = State::Copying;
        if primary::reported(client, &self.assignment.name).await?.is_none() {
            // From now on the change log is kept for this secondary.
            primary::report(client, &self.assignment.name, &state, None, None).await?;
        }
        for table in catalog::tables(client, &self.selection).await? {
            capture::capture(client, &table, PATIENCE).await?;
        }
        Ok(meta.group)
    }

    /// Compares both sides; returns the tables of the secondary by their number in the log.
    async fn compare(
        &mut self,
        primary: &Client,
        secondary: &Client,
    ) -> Result<Vec<(i32, Table)>, Halt> {
        let captured = primary::captured(primary, &self.selection).await?;
        let here = catalog::tables(secondary, &self.selection).await?;
        let there: Vec<Table> = captured.iter().map(|captured| captured.table.clone()).collect();
        refuse(&checks::definitions(&there, &here))?;
        let find = |captured: &primary::Captured| {
            let table = here.iter().find(|table| table.name == captured.table.name)?;
            Some((captured.number, table.clone()))
        };
        Ok(captured.iter().filter_map(find).collect())
    }

    /// Copies what the secondary does not have yet.
    async fn copy(
        &mut self,
        primary: &Client,
        secondary: &Client,
        tables: &[(i32, Table)],
    ) -> Result<super::snapshot::Snapshot, Halt> {
        if !self.assignment.settings.auto && self.wants_copy.is_none() {
            let why = "it has no copy yet, and auto is off".to_owned();
            return Err(Halt::Stuck(State::Paused(why)));
        }
        self.say(State::Copying);
        let existing = self.wants_copy.unwrap_or(Existing::Refuse);
        if existing == Existing::Replace {
            let forget = "BEGIN; UPDATE pgtandem.progress SET snapshot = NULL; \
                          DELETE FROM pgtandem.copied; COMMIT";
            secondary.batch_execute(forget).await.map_err(Error::sql("forget the last copy"))?;
        }
        let name = &self.assignment.name;
        primary::report(primary, name, &State::Copying, None, None).await?;
        let done = progress::copied(secondary).await?;
        let is_done = |table: &Table| {
            done.iter().any(|copied| copied.table == table.name && copied.snapshot.is_some())
        };
        let captured = primary::captured(primary, &self.selection).await?.into_iter();
        let missing = captured.map(|captured| captured.table).filter(|table| !is_done(table));
        let find = |table: Table| {
            let oid = tables.iter().find(|(_, there)| there.name == table.name)?.1.oid;
            Some((table, oid))
        };
        let plan = Plan {
            primary: &self.assignment.primary,
            secondary: &self.assignment.secondary,
            tables: missing.filter_map(find).collect(),
            workers: usize::try_from(self.assignment.settings.copy_workers)
                .unwrap_or(1)
                .min(self.assignment.pool_size.saturating_sub(1)),
            existing,
        };
        let (told, mut heard) = watch::channel(None);
        let mut copying = std::pin::pin!(copy::copy(plan, &told));
        let snapshot = loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => return Err(Halt::Asked(request)),
                    None => return Err(Halt::Failed("stopped".to_owned())),
                },
                result = &mut copying => break result?,
                _ = heard.changed() => {
                    let progress = heard.borrow_and_update().clone();
                    self.status.send_modify(|status| status.copy = progress);
                }
            }
        };
        progress::complete(secondary, &snapshot).await?;
        self.wants_copy = None;
        self.status.send_modify(|status| status.copy = None);
        Ok(snapshot)
    }

    /// Applies batch after batch.
    async fn follow(
        &mut self,
        primary: &Client,
        follower: &mut Follower,
    ) -> Result<std::convert::Infallible, Halt> {
        let mut reported: Option<Instant> = None;
        let mut looked: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let status = &self.status;
            let stepped = follower
                .step(primary, |changes, bytes| {
                    status.send_modify(|status| {
                        (status.lag_changes, status.lag_bytes) = (changes, bytes);
                        if began.elapsed() > FRESH {
                            status.state = State::CatchingUp;
                        }
                    });
                })
                .await?;
            self.status.send_modify(|status| {
                status.as_of = Some(stepped.as_of);
                status.changes += stepped.changes;
                status.batches += u64::from(stepped.changes > 0);
                (status.lag_changes, status.lag_bytes) = (0, 0);
                let is_fresh = stepped.as_of.elapsed() < FRESH;
                status.state = if is_fresh { State::InSync } else { State::CatchingUp };
                status.snapshot = Some(follower.stored().snapshot.to_string());
            });
            if reported.is_none_or(|reported| reported.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                follower.store().await?;
                self.report(primary, follower.stored()).await?;
            }
            if looked.is_none_or(|looked| looked.elapsed() >= SEQUENCES) {
                looked = Some(Instant::now());
                sequences::follow(primary, follower.applier.client(), sequences::MARGIN).await?;
            }
            let pause = if stepped.changes == 0 {
                self.assignment.settings.poll_interval
            } else {
                Duration::ZERO
            };
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => return Err(Halt::Asked(request)),
                    None => return Err(Halt::Failed("stopped".to_owned())),
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn report(&self, primary: &Client, position: &Position) -> Result<(), Halt> {
        let (state, error) = {
            let status = self.status.borrow();
            (status.state.clone(), status.last_error.clone())
        };
        let name = &self.assignment.name;
        let told = primary::report(primary, name, &state, Some(position), error.as_deref()).await?;
        if told {
            return Ok(());
        }
        let (_, why) = primary::reported(primary, name).await?.unwrap_or_default();
        Err(Halt::Stuck(State::Detached(why.unwrap_or_else(|| "the primary says so".to_owned()))))
    }

    fn say(&self, state: State) {
        let (database, secondary) = (&self.assignment.database, &self.assignment.name);
        let why = state.why();
        tracing::info!(database, secondary, %state, why, "secondary");
        self.status.send_modify(|status| status.state = state);
    }

    /// Notes a failure, and waits a while; false if it is time to end.
    async fn fail(&mut self, why: String) -> bool {
        let (database, secondary) = (&self.assignment.database, &self.assignment.name);
        tracing::warn!(database, secondary, why, "secondary does not follow now");
        self.status.send_modify(|status| {
            status.last_error = Some(why);
            if status.state == State::InSync {
                status.state = State::CatchingUp;
            }
        });
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(10)).min(PAUSES.1);
        self.failures = self.failures.saturating_add(1);
        tokio::select! {
            biased;
            request = self.requests.recv() => match request {
                Some(request) => self.answer(request).await,
                None => false,
            },
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Waits in a state that only a command ends; false if it is time to end.
    async fn wait(&mut self, state: State) -> bool {
        let (database, secondary) = (&self.assignment.database, &self.assignment.name);
        tracing::error!(database, secondary, %state, why = state.why(), "secondary has stopped");
        self.status.send_modify(|status| {
            status.last_error = state.why().map(str::to_owned);
            status.state = state.clone();
        });
        if let Err(error) = self.tell_primary(&state).await {
            tracing::warn!(database = self.assignment.database, %error, "primary not told");
        }
        match self.requests.recv().await {
            Some(request) => self.answer(request).await,
            None => false,
        }
    }

    /// Says on the primary what became of the secondary, which keeps what it needs of the log.
    async fn tell_primary(&self, state: &State) -> Result<(), Error> {
        let client = connect(&self.assignment.primary).await?;
        let sql = "UPDATE pgtandem.secondaries SET state = $2, last_error = $3 WHERE name = $1";
        let (name, word, why) = (&self.assignment.name, state.word(), state.why());
        let told = client.execute(sql, &[name, &word, &why]).await;
        told.map(drop).map_err(Error::sql("tell the primary how the secondary is"))
    }

    /// Carries out a command; false if it is time to end.
    async fn answer(&mut self, request: Request) -> bool {
        let outcome = match self.carry_out(request.command).await {
            Ok(()) => Ok(()),
            Err(error) => Err(CommandError::Failed { what: error.to_string() }),
        };
        // Nobody may be waiting any more.
        let _ = request.answer.send(outcome);
        true
    }

    async fn carry_out(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Copy => {
                self.wants_copy.get_or_insert(Existing::Refuse);
                self.set_paused(None).await
            }
            Command::Pause(why) => self.set_paused(Some(&why)).await,
            Command::Resume => self.set_paused(None).await,
            Command::Resync(_) => {
                self.wants_copy = Some(Existing::Replace);
                self.set_paused(None).await
            }
            Command::Skip | Command::Detach(_) => {
                Err(Error::Unexpected { what: "not in this version".to_owned() })
            }
        }
    }

    async fn set_paused(&self, why: Option<&str>) -> Result<(), Error> {
        let client = connect(&self.assignment.secondary).await?;
        let sql = "UPDATE pgtandem.progress SET paused = $1";
        client.execute(sql, &[&why]).await.map_err(Error::sql("pause or resume"))?;
        Ok(())
    }
}

/// Stops where something stands in the way.
fn refuse(obstacles: &[Obstacle]) -> Result<(), Halt> {
    if obstacles.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = obstacles.iter().map(Obstacle::to_string).collect();
    Err(Halt::Stuck(State::Paused(all.join("; "))))
}
