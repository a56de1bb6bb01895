//! Makes a secondary ready to follow: copies what has to be there before anything can follow, and
//! begins to copy the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::halt::{Halt, refuse};
use super::{Assignment, Keeper};
use crate::replication::apply::{Applier, Followed, Tables, Treatment};
use crate::replication::batch::Position;
use crate::replication::capture::triggers::DEFINED;
use crate::replication::catalog::{self, Table, TableName};
use crate::replication::checks;
use crate::replication::connect::connect;
use crate::replication::copy::{self, CopyError, CopyProgress, Existing, Job, Plan};
use crate::replication::follow::{Follower, Limits, Rules};
use crate::replication::hook;
use crate::replication::primary::{self, Captured};
use crate::replication::progress::{self, Copied, Progress};
use crate::replication::schema_copy;
use crate::replication::snapshot::Snapshot;
use crate::replication::status::{State, Status};

/// What both sides say.
pub(super) struct Known {
    pub(super) progress: Progress,
    /// The tables of the secondary with what captures them.
    pub(super) tables: Vec<(Captured, Table)>,
    pub(super) next_number: i32,
    /// What the secondary knows the tables as that follow; none if it does not know yet.
    pub(super) followed: HashMap<i32, TableName>,
    /// Whether some of the secondary's schema is still to be made.
    pub(super) is_unfinished: bool,
}

/// A secondary that is ready to follow, and what is still to be copied.
pub(super) struct Ready {
    pub(super) follower: Follower,
    pub(super) copying: JoinSet<Result<Snapshot, CopyError>>,
    /// Since when the changes of the tables that follow are in the log, by number.
    pub(super) since: HashMap<i32, String>,
    /// What is known to be different, if anything.
    pub(super) diverged: Option<String>,
    /// Whether there are definitions to be made before both sides can be compared.
    pub(super) is_behind: bool,
}

impl Keeper {
    /// Copies what has to be there before anything can follow, and begins to copy the rest.
    pub(super) async fn make_ready(
        &mut self,
        primary: &Client,
        secondary: Arc<Client>,
        known: Known,
    ) -> Result<Ready, Halt> {
        let Known { progress, tables, next_number, is_unfinished, followed } = known;
        let there: Vec<&Table> = tables.iter().map(|(_, table)| table).collect();
        if is_unfinished && progress.snapshot.is_some() {
            self.finish_schema(primary, &there).await?;
            return Err(Halt::Again);
        }
        let (treatment, obstacles) = checks::treatment(&secondary, &there).await?;
        refuse(&obstacles)?;
        let copied = progress::copied(&*secondary).await?;
        let is_first = progress.snapshot.is_none();
        let jobs = jobs(&progress, &copied, &tables, &followed);
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
                    let plan = self.plan(jobs, treatment, false);
                    copying.spawn(copy_and_tell(plan, self.status.clone()));
                }
                snapshot
            }
            None => self.copy(primary, &secondary, self.plan(jobs, treatment, true)).await?,
        };
        if is_unfinished {
            return Err(Halt::Again);
        }
        self.wants_copy = false;
        let named = tables.iter().map(|(captured, table)| (captured.number, &table.name));
        progress::note_followed(&secondary, &named.collect::<Vec<_>>()).await?;
        let copied = if is_first || !copying.is_empty() {
            progress::copied(&*secondary).await?
        } else {
            copied
        };
        let number = |name: &TableName| {
            let is_it = |(captured, _): &&(Captured, Table)| captured.table.name == *name;
            tables.iter().find(is_it).map(|(captured, _)| captured.number)
        };
        let position = progress::position(snapshot, &copied, number);
        let diverged = progress::skipped(&secondary).await?;
        let since =
            tables.iter().map(|(captured, _)| (captured.number, captured.since.to_string()));
        let since = since.collect();
        let by_number: Tables = tables
            .into_iter()
            .filter_map(|(captured, table)| {
                Some((captured.number, Arc::new(Followed::new(table)?)))
            })
            .collect();
        let follower = self.follower(secondary, treatment, by_number, next_number, position);
        Ok(Ready { follower, copying, since, diverged, is_behind: false })
    }

    fn follower(
        &mut self,
        secondary: Arc<Client>,
        treatment: Treatment,
        tables: Tables,
        next_number: i32,
        position: Position,
    ) -> Follower {
        let Assignment { name, secondary: target, settings, .. } = &self.assignment;
        let rules = Rules {
            name: name.clone(),
            selection: self.selection.clone(),
            limits: Limits { rows: settings.batch_rows.into(), bytes: settings.batch_bytes.into() },
            target: target.clone(),
        };
        let applier = Applier::new(secondary, treatment);
        let mut follower = Follower::new(rules, applier, tables, next_number, position);
        follower.skip(std::mem::take(&mut self.skips));
        follower
    }

    /// Makes a secondary ready to follow up to where it has all definitions that there are: by what it
    /// knows itself.
    ///
    /// Changes of other tables are nobody's business: such tables are copied afterwards, or come by a
    /// definition.
    pub(super) async fn catch_up(
        &mut self,
        secondary: Arc<Client>,
        snapshot: Snapshot,
        followed: HashMap<i32, TableName>,
    ) -> Result<Ready, Halt> {
        let here = catalog::tables(&secondary, &self.selection).await?;
        let there: Vec<&Table> = here.iter().collect();
        let (treatment, obstacles) = checks::treatment(&secondary, &there).await?;
        refuse(&obstacles)?;
        let copied = progress::copied(&*secondary).await?;
        let number = |name: &TableName| {
            followed.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
        };
        let position = progress::position(snapshot, &copied, number);
        let diverged = progress::skipped(&secondary).await?;
        let mut tables = Tables::new();
        for table in here {
            if let Some(number) = number(&table.name)
                && let Some(followed) = Followed::new(table)
            {
                tables.insert(number, Arc::new(followed));
            }
        }
        let (copying, since) = (JoinSet::new(), HashMap::new());
        Ok(Ready {
            follower: self.follower(secondary, treatment, tables, i32::MAX, position),
            copying,
            since,
            diverged,
            is_behind: true,
        })
    }

    fn plan(&self, tables: Vec<Job>, treatment: Treatment, is_first: bool) -> Plan {
        Plan {
            primary: self.assignment.primary.clone(),
            secondary: self.assignment.secondary.clone(),
            tables,
            workers: usize::try_from(self.assignment.settings.copy_workers)
                .unwrap_or(1)
                .min(self.assignment.pool_size.saturating_sub(1)),
            is_first,
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
        if !primary::report(primary, name, &State::Copying, None, None).await? {
            return Err(Halt::Again);
        }
        let snapshot = tokio::select! {
            biased;
            request = self.requests.recv() => {
                return Err(request.map_or(Halt::Over, Halt::Asked));
            }
            result = copy_and_tell(plan, self.status.clone()) => result?,
        };
        hook::reached("copy_done");
        progress::complete(secondary, &snapshot).await?;
        hook::reached("copy_complete");
        Ok(snapshot)
    }
}

impl Keeper {
    /// Makes what is better made over rows that are there: the copy is complete.
    async fn finish_schema(&mut self, primary: &Client, tables: &[&Table]) -> Result<(), Halt> {
        self.say(State::Copying);
        let name = &self.assignment.name;
        if !primary::report(primary, name, &State::Copying, None, None).await? {
            return Err(Halt::Again);
        }
        // Its settings are those of the dump.
        let client = connect(&self.assignment.secondary).await?;
        let status = self.status.clone();
        let telling = Telling(&status);
        let began = Instant::now();
        let make = async {
            let tell = |made| telling.tell(Some(CopyProgress::of_schema(made, began)));
            schema_copy::make(&client, tell).await?;
            Ok::<(), Halt>(schema_copy::fit(&client, tables).await?)
        };
        tokio::select! {
            biased;
            request = self.requests.recv() => Err(request.map_or(Halt::Over, Halt::Asked)),
            outcome = make => outcome,
        }
    }
}

/// Copies, and says meanwhile how far it is.
///
/// Cancel safe: yes, as [`copy::copy`].
async fn copy_and_tell(plan: Plan, status: watch::Sender<Status>) -> Result<Snapshot, CopyError> {
    let telling = Telling(&status);
    let (told, mut heard) = watch::channel(None);
    let mut copying = std::pin::pin!(copy::copy(plan, &told));
    let copied = loop {
        tokio::select! {
            biased;
            copied = &mut copying => break copied,
            _ = heard.changed() => telling.tell(heard.borrow_and_update().clone()),
        }
    };
    telling.tell(heard.borrow().clone());
    copied
}

/// Says how far a copy is, and that there is none any more when it is dropped.
struct Telling<'a>(&'a watch::Sender<Status>);

impl Telling<'_> {
    fn tell(&self, progress: Option<CopyProgress>) {
        self.0.send_modify(|status| status.note_copy(progress));
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.tell(None);
    }
}

/// Lists the tables that the secondary does not have as of a snapshot from which on all changes
/// are in the log.
fn jobs(
    progress: &Progress,
    copied: &[Copied],
    tables: &[(Captured, Table)],
    followed: &HashMap<i32, TableName>,
) -> Vec<Job> {
    let job = |(captured, table): &(Captured, Table)| {
        let own = copied.iter().find(|copied| copied.table == table.name);
        let has = match own {
            Some(own) => own.snapshot.as_ref(),
            None => progress.snapshot.as_ref(),
        };
        // A table that a definition has made is known since; if not, the definition was skipped.
        let is_known = followed.is_empty()
            || followed.contains_key(&captured.number)
            || captured.number < DEFINED;
        if is_known && has.is_some_and(|has| has.covers(&captured.since)) {
            return None;
        }
        // Somebody has asked for it, or it was empty when its copy began, or it had a copy once, and
        // changes of it were missed.
        let had_copy = has.is_some_and(|has| has.covers(&captured.first));
        let may_replace = had_copy || own.is_some_and(|own| own.snapshot.is_none());
        let existing = if may_replace { Existing::Replace } else { Existing::Refuse };
        Some(Job { table: captured.table.clone(), oid: table.oid, existing })
    };
    tables.iter().filter_map(job).collect()
}
