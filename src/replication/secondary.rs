//! The task that looks after one secondary: connects, copies, follows, waits, and takes commands.
//!
//! Any number of processes may run this for the same secondary. One holds an advisory lock there and
//! does the work; when its connection ends, so does its lock, and another takes over.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::apply::{Applier, ApplyError, Followed, Tables, Treatment};
use super::batch::Position;
use super::capture::error::CaptureError;
use super::capture::{check, rotation, schema, table as capture};
use super::catalog::{self, Selection, Table, TableName};
use super::change::RowKey;
use super::checks::{self, Obstacle};
use super::connect::{Target, connect};
use super::copy::{self, CopyError, Existing, Job, Plan};
use super::error::Error;
use super::follow::{Follower, Limits};
use super::hook;
use super::primary::{self, Captured};
use super::progress::{self, Copied, Origin, Progress};
use super::sequences;
use super::snapshot::Snapshot;
use super::status::{CommandError, Request, State, Status};
use super::verify::hold::{self, HoldRequests};
use crate::config::Replication;

/// Between two looks at whether the process that applies still does.
const STANDBY: Duration = Duration::from_millis(250);

/// Between two reports to the primary.
const REPORT: Duration = Duration::from_secs(1);

/// Between two looks at the sequences.
const SEQUENCES: Duration = Duration::from_secs(5);

/// Between two looks at whether a stopped secondary goes on with another process.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks at what is installed on the primary.
const CHECK: Duration = Duration::from_secs(5);

/// A secondary whose last batch was read longer ago than this is not in sync.
const FRESH: Duration = Duration::from_secs(2);

/// How long a table may be locked by others when it is put under capture.
const PATIENCE: Duration = Duration::from_mins(1);

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
    pub(super) selection: Selection,
    pub(super) status: watch::Sender<Status>,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Verifiers that want it to stand still.
    holds: HoldRequests,
    /// What they have found.
    found: watch::Receiver<Option<String>>,
    /// Whether somebody has asked for a copy, though `auto` is off or the secondary is detached.
    pub(super) wants_copy: bool,
    /// The row that could not be applied.
    pub(super) poison: Option<(TableName, RowKey)>,
    /// Rows whose changes somebody wants to be skipped.
    pub(super) skips: Vec<(TableName, RowKey)>,
    failures: u32,
}

/// What both sides say.
struct Known {
    progress: Progress,
    /// The tables of the secondary with what captures them.
    tables: Vec<(Captured, Table)>,
    next_number: i32,
}

/// A secondary that is ready to follow, and what is still to be copied.
struct Ready {
    follower: Follower,
    copying: JoinSet<Result<Snapshot, CopyError>>,
    /// What is known to be different, if anything.
    diverged: Option<String>,
}

/// Why the work stopped.
pub(super) enum Halt {
    /// Something that may be better next time.
    Failed(String),
    /// Something that somebody has to look at.
    Stuck(State),
    /// A row that cannot be applied: somebody may look at it, or skip it.
    Poison {
        /// What happened.
        why: String,
        /// The row.
        row: (TableName, RowKey),
    },
    /// A command.
    Asked(Request),
    /// What was found out at the beginning is no longer so.
    Again,
    /// Nobody wants the work done any more.
    Over,
}

impl Halt {
    fn new(why: String, is_transient: bool) -> Self {
        if is_transient { Self::Failed(why) } else { Self::Stuck(State::Paused(why)) }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
}

impl From<ApplyError> for Halt {
    fn from(error: ApplyError) -> Self {
        let (why, is_transient) = (error.to_string(), error.is_transient());
        match error {
            ApplyError::Missing { table, key, .. }
            | ApplyError::Refused { table, key: Some(key), .. }
                if !is_transient =>
            {
                Self::Poison { why, row: (table, key) }
            }
            ApplyError::Missing { .. }
            | ApplyError::Refused { .. }
            | ApplyError::Fenced
            | ApplyError::Impossible(_)
            | ApplyError::Unknown { .. }
            | ApplyError::Other(_) => Self::new(why, is_transient),
        }
    }
}

impl From<CopyError> for Halt {
    fn from(error: CopyError) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
}

impl From<CaptureError> for Halt {
    fn from(error: CaptureError) -> Self {
        Self::new(error.to_string(), error.is_transient())
    }
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

    /// Installs capture if we may, and says which group the primary leads.
    async fn prepare_primary(&mut self, client: &mut Client) -> Result<String, Halt> {
        let (name, may_install) =
            (&self.assignment.name, self.assignment.settings.auto || self.wants_copy);
        if !may_install {
            return Ok(schema::read(client).await?.group);
        }
        let meta = schema::install(client).await?;
        let reported = primary::reported(client, name).await?;
        match &reported {
            Some((state, why)) if state == "detached" && !self.wants_copy => {
                let why = why.clone().unwrap_or_default();
                return Err(Halt::Stuck(State::Detached(why)));
            }
            Some((state, _)) if state != "detached" => {}
            // From now on the change log is kept for this secondary.
            Some(_) | None => {
                primary::report(client, name, &State::Copying, None, None).await?;
            }
        }
        if meta.stopped.is_some() {
            rotation::restart(client).await?;
        }
        for table in catalog::tables(client, &self.selection).await? {
            capture::capture(client, &table, PATIENCE).await?;
        }
        Ok(meta.group)
    }

    /// Reads where the secondary stands, and whether that makes sense.
    async fn known(
        &mut self,
        primary: &Client,
        secondary: &Client,
        origin: &Origin,
    ) -> Result<Progress, Halt> {
        let progress = progress::read(secondary).await?;
        let Some(progress) = progress else {
            return Err(Error::Unexpected { what: "no progress".to_owned() }.into());
        };
        if progress.origin.group != origin.group {
            let why = format!("it follows another primary, group {}", progress.origin.group);
            return Err(Halt::Stuck(State::Paused(why)));
        }
        if progress.origin.system != origin.system {
            let why = "the primary is another cluster than before".to_owned();
            return Err(Halt::Stuck(State::Ahead(why)));
        }
        if let Some(why) = primary::is_behind(primary, origin, &progress).await? {
            return Err(Halt::Stuck(State::Ahead(why)));
        }
        if progress.origin.timeline != origin.timeline {
            progress::note_timeline(secondary, origin.timeline).await?;
        }
        match progress.paused {
            Some(why) => Err(Halt::Stuck(State::Paused(why))),
            None => Ok(progress),
        }
    }

    /// Compares both sides; returns the tables of the secondary with what captures them.
    async fn compare(
        &mut self,
        primary: &Client,
        secondary: &Client,
    ) -> Result<Vec<(Captured, Table)>, Halt> {
        let captured = primary::captured(primary, &self.selection).await?;
        let here = catalog::tables(secondary, &self.selection).await?;
        let there: Vec<Table> = captured.iter().map(|captured| captured.table.clone()).collect();
        refuse(&checks::definitions(&there, &here))?;
        let pair = |captured: Captured| {
            let table = here.iter().find(|table| table.name == captured.table.name)?.clone();
            Some((captured, table))
        };
        Ok(captured.into_iter().filter_map(pair).collect())
    }

    /// Copies what has to be there before anything can follow, and begins to copy the rest.
    async fn make_ready(
        &mut self,
        primary: &Client,
        secondary: Client,
        known: Known,
    ) -> Result<Ready, Halt> {
        let Known { progress, tables, next_number } = known;
        let there: Vec<&Table> = tables.iter().map(|(_, table)| table).collect();
        let (treatment, obstacles) = checks::treatment(&secondary, &there).await?;
        refuse(&obstacles)?;
        let copied = progress::copied(&secondary).await?;
        let is_first = progress.snapshot.is_none();
        let jobs = jobs(&progress, &copied, &tables);
        if !jobs.is_empty() && !self.assignment.settings.auto && !self.wants_copy {
            let why = "tables are to be copied, and auto is off".to_owned();
            return Err(Halt::Stuck(State::Paused(why)));
        }
        let mut copying = JoinSet::new();
        let snapshot = match progress.snapshot {
            Some(snapshot) => {
                for job in jobs.iter().filter(|job| job.existing == Existing::Refuse) {
                    // Once it is noted that it is to be copied, it may be emptied.
                    copy::expect_empty(&secondary, &job.table).await?;
                }
                let names: Vec<_> = jobs.iter().map(|job| job.table.name.clone()).collect();
                progress::await_copy(&secondary, &names).await?;
                if !jobs.is_empty() {
                    let (told, _) = watch::channel(None);
                    let plan = self.plan(jobs, treatment);
                    copying.spawn(async move { copy::copy(plan, &told).await });
                }
                snapshot
            }
            None => self.copy(primary, &secondary, self.plan(jobs, treatment)).await?,
        };
        self.wants_copy = false;
        let copied = if is_first || !copying.is_empty() {
            progress::copied(&secondary).await?
        } else {
            copied
        };
        let number = |name: &TableName| {
            let is_it = |(captured, _): &&(Captured, Table)| captured.table.name == *name;
            tables.iter().find(is_it).map(|(captured, _)| captured.number)
        };
        let position = progress::position(snapshot, &copied, number);
        let diverged = progress::skipped(&secondary).await?;
        let by_number: Tables = tables
            .into_iter()
            .filter_map(|(captured, table)| {
                Some((captured.number, Arc::new(Followed::new(table)?)))
            })
            .collect();
        let applier = Applier::new(secondary, treatment);
        let settings = &self.assignment.settings;
        let limits =
            Limits { rows: settings.batch_rows.into(), bytes: settings.batch_bytes.into() };
        let mut follower = Follower::new(applier, by_number, next_number, position, limits);
        follower.skip(std::mem::take(&mut self.skips));
        Ok(Ready { follower, copying, diverged })
    }

    fn plan(&self, tables: Vec<Job>, treatment: Treatment) -> Plan {
        Plan {
            primary: self.assignment.primary.clone(),
            secondary: self.assignment.secondary.clone(),
            tables,
            workers: usize::try_from(self.assignment.settings.copy_workers)
                .unwrap_or(1)
                .min(self.assignment.pool_size.saturating_sub(1)),
            treatment,
        }
    }

    /// Makes the first copy, and notes that it is complete.
    async fn copy(
        &mut self,
        primary: &Client,
        secondary: &Client,
        plan: Plan,
    ) -> Result<Snapshot, Halt> {
        self.say(State::Copying);
        let name = &self.assignment.name;
        primary::report(primary, name, &State::Copying, None, None).await?;
        let (told, mut heard) = watch::channel(None);
        let mut copying = std::pin::pin!(copy::copy(plan, &told));
        let snapshot = loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => {
                    return Err(request.map_or(Halt::Over, Halt::Asked));
                }
                result = &mut copying => break result?,
                _ = heard.changed() => {
                    let progress = heard.borrow_and_update().clone();
                    self.status.send_modify(|status| status.copy = progress);
                }
            }
        };
        hook::reached("copy_done");
        progress::complete(secondary, &snapshot).await?;
        hook::reached("copy_complete");
        self.status.send_modify(|status| status.copy = None);
        Ok(snapshot)
    }

    /// Applies batch after batch.
    async fn follow(&mut self, primary: &mut Client, ready: Ready) -> Result<Infallible, Halt> {
        let Ready { mut follower, mut copying, diverged } = ready;
        let mut clock = Clock::default();
        let mut has_skips = follower.has_skips();
        loop {
            let changes = self.step(primary, &mut follower, diverged.as_ref()).await?;
            if clock.reported.is_over(REPORT) {
                follower.store().await?;
                self.report(primary, follower.stored()).await?;
            }
            if clock.sequences.is_over(SEQUENCES) {
                sequences::follow(primary, follower.applier.client(), sequences::MARGIN).await?;
            }
            if clock.checked.is_over(CHECK) {
                self.check(primary).await?;
            }
            if let Some(done) = copying.try_join_next() {
                // A copy that panicked is not one that was made.
                done.map_err(|error| Halt::Failed(error.to_string()))??;
                return Err(Halt::Again);
            }
            if std::mem::replace(&mut has_skips, follower.has_skips()) && !has_skips {
                return Err(Halt::Again);
            }
            let poll_interval = self.assignment.settings.poll_interval;
            let pause = if changes == 0 { poll_interval } else { Duration::ZERO };
            tokio::select! {
                biased;
                request = self.requests.recv() => {
                    return Err(request.map_or(Halt::Over, Halt::Asked));
                }
                hold = self.holds.next() => {
                    let stand = async |upto| follower.stand_at(primary, &upto).await;
                    hold.serve(hold::PATIENCE, stand).await?;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Applies one batch, and says how that went; returns its changes.
    async fn step(
        &self,
        primary: &Client,
        follower: &mut Follower,
        diverged: Option<&String>,
    ) -> Result<u64, Halt> {
        let began = Instant::now();
        let tell = |changes, bytes| {
            self.status.send_modify(|status| {
                (status.lag_changes, status.lag_bytes) = (changes, bytes);
                if began.elapsed() > FRESH {
                    status.state = State::CatchingUp;
                }
            });
        };
        let stepped = follower.step(primary, None, tell).await?;
        self.status.send_modify(|status| {
            status.as_of = Some(stepped.as_of);
            status.changes += stepped.changes;
            status.batches += u64::from(stepped.changes > 0);
            (status.lag_changes, status.lag_bytes) = (0, 0);
            let found = self.found.borrow();
            status.state = match diverged.or(found.as_ref()) {
                Some(why) => State::Diverged(why.clone()),
                None if follower.stored().waiting.is_empty() && stepped.as_of.elapsed() < FRESH => {
                    State::InSync
                }
                None => State::CatchingUp,
            };
            status.snapshot = Some(follower.stored().snapshot.to_string());
        });
        Ok(stepped.changes)
    }

    /// Stops where changes may have been missed; begins again where there is something new.
    async fn check(&self, primary: &mut Client) -> Result<(), Halt> {
        let findings = check::check(primary, &self.selection).await?;
        let missed = findings.iter().filter(|finding| finding.what.may_have_missed());
        let missed: Vec<_> = missed.map(ToString::to_string).collect();
        if !missed.is_empty() {
            return Err(Halt::Stuck(State::Paused(missed.join("; "))));
        }
        let is_new = |finding: &check::Finding| {
            matches!(finding.what, check::Trouble::NotCaptured | check::Trouble::Renamed { .. })
        };
        if self.assignment.settings.auto && findings.iter().any(is_new) {
            return Err(Halt::Again);
        }
        Ok(())
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
        loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => return match request {
                    Some(request) => self.answer(request).await,
                    None => false,
                },
                _ = self.holds.next() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.goes_on_elsewhere(&state).await {
                return true;
            }
        }
    }

    /// Whether another process has told the primary that the secondary is better off.
    async fn goes_on_elsewhere(&self, state: &State) -> bool {
        let reported = async {
            let client = connect(&self.assignment.primary).await?;
            primary::reported(&client, &self.assignment.name).await
        };
        matches!(reported.await, Ok(Some((word, _))) if word != state.word())
    }

    /// Says on the primary what became of the secondary, which keeps what it needs of the log.
    async fn tell_primary(&self, state: &State) -> Result<(), Error> {
        let client = connect(&self.assignment.primary).await?;
        let sql = "UPDATE pgtandem.secondaries SET state = $2, last_error = $3 WHERE name = $1";
        let (name, word, why) = (&self.assignment.name, state.word(), state.why());
        let told = client.execute(sql, &[name, &word, &why]).await;
        told.map(drop).map_err(Error::sql("tell the primary how the secondary is"))
    }
}

/// When something was done last.
#[derive(Default)]
struct Last(Option<Instant>);

impl Last {
    /// Whether it is due once more; then it counts as done now.
    fn is_over(&mut self, interval: Duration) -> bool {
        let is_over = self.0.is_none_or(|last| last.elapsed() >= interval);
        if is_over {
            self.0 = Some(Instant::now());
        }
        is_over
    }
}

/// What is done from time to time.
#[derive(Default)]
struct Clock {
    reported: Last,
    sequences: Last,
    checked: Last,
}

/// Lists the tables that the secondary does not have as of a snapshot from which on all changes
/// are in the log.
fn jobs(progress: &Progress, copied: &[Copied], tables: &[(Captured, Table)]) -> Vec<Job> {
    let job = |(captured, table): &(Captured, Table)| {
        let own = copied.iter().find(|copied| copied.table == table.name);
        let has = match own {
            Some(own) => own.snapshot.as_ref(),
            None => progress.snapshot.as_ref(),
        };
        if has.is_some_and(|has| has.covers(&captured.since)) {
            return None;
        }
        // Somebody has asked for it, or it was empty when its copy began.
        let may_replace = own.is_some_and(|own| own.snapshot.is_none());
        let existing = if may_replace { Existing::Replace } else { Existing::Refuse };
        Some(Job { table: captured.table.clone(), oid: table.oid, existing })
    };
    tables.iter().filter_map(job).collect()
}

/// Stops where something stands in the way.
fn refuse(obstacles: &[Obstacle]) -> Result<(), Halt> {
    if obstacles.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = obstacles.iter().map(Obstacle::to_string).collect();
    Err(Halt::Stuck(State::Paused(all.join("; "))))
}
