//! All secondaries of the configuration: their tasks, and the way to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::try_join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::capture::error::CaptureError;
use super::capture::mend;
use super::capture::rotation::{self, Limits};
use super::capture::schema;
use super::catalog::Selection;
use super::connect::{Target, connect};
use super::observe::{Look, Observer};
use super::primary;
use super::secondary::{Assignment, Keeper};
use super::status::{Command, CommandError, Request, Status};
use super::verify::desk::Desk;
use super::verify::hold::{HoldRequests, holds};
use super::verify::schedule::verify_forever;
use super::verify::{self, Verifier};
use super::view::View;
use super::wait::{Moment, WaitError, Waiter};
use crate::config::{Config, Database, Replication, Secondary, Server};
use crate::pool::definitions::{Seal, Seals};

/// LIMIT: commands that wait for one secondary.
const COMMANDS_MAX: usize = 16;

/// Between two looks at the change log.
const TEND: Duration = Duration::from_secs(5);

/// Between two looks at the keys of the tables under capture.
const MEND: Duration = Duration::from_secs(1);

/// How long clients of a new process wait for the primary's secret to be asked for. LIMIT.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// How long connecting may take where `server_connect_timeout` is off.
const CONNECT_TIMEOUT: Duration = Duration::from_mins(1);

/// The way to all secondaries.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    /// By database. Whoever works with one keeps it, also when there is another one in its place.
    groups: Arc<ArcSwap<Groups>>,
    seals: Seals,
}

type Groups = BTreeMap<String, Arc<Group>>;

/// A primary with its secondaries, and what ends with them.
#[derive(Debug)]
struct Group {
    primary: Target,
    settings: Replication,
    links: BTreeMap<String, Arc<Link>>,
    observer: Observer,
    tender: Arc<Tender>,
}

/// Keeps the change log of a primary small, and knows its secret.
#[derive(Debug)]
struct Tender {
    _task: AbortOnDropHandle<()>,
    /// Whether the secret was asked for.
    has_looked: watch::Receiver<bool>,
    began: Instant,
}

/// The way to one secondary.
#[derive(Debug)]
struct Link {
    assignment: Assignment,
    status: watch::Receiver<Status>,
    requests: mpsc::Sender<Request>,
    desk: Arc<Desk>,
}

/// A primary as it was last seen.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// The database as clients call it.
    pub database: String,
    /// How its secondaries follow.
    pub settings: Replication,
    /// What the primary says.
    pub look: Look,
    /// Its secondaries.
    pub secondaries: Vec<View>,
}

impl Supervisor {
    /// Starts a task for each secondary of the configuration. They end when this is dropped.
    ///
    /// `seals` are given the secrets by which definitions are proved.
    pub fn start(config: &Config, seals: Seals) -> Self {
        let supervisor = Self { seals, ..Self::default() };
        supervisor.apply(config);
        supervisor
    }

    /// Puts another configuration in force: starts what is new or has changed, and ends what is gone,
    /// after the batch that it applies now. What has not changed is not touched.
    ///
    /// Must be called inside a tokio runtime, and by one caller at a time. Two keepers of one
    /// secondary do no harm: the new one waits until the old one has given up its lock. Of a database
    /// that is gone the change log is kept small all the same, and within its limits, as long as the
    /// process runs: capture is still installed.
    pub fn apply(&self, config: &Config) {
        let old = self.groups.load_full();
        let mut new: Groups = config
            .databases
            .iter()
            .filter_map(|(name, database)| {
                let replication = database.replication.as_ref()?;
                let assignments = assignments(config, name, database, replication);
                Some((name.clone(), Group::start(assignments, old.get(name), &self.seals)?))
            })
            .collect();
        for (name, group) in old.iter().filter(|(name, _)| !has_secondaries(config, name)) {
            new.insert(name.clone(), group.without_secondaries());
        }
        for (database, group) in old.iter() {
            let kept = new.get(database).map(|group| &group.links);
            for secondary in group.links.keys() {
                if kept.is_none_or(|kept| !kept.contains_key(secondary)) {
                    tracing::warn!(
                        database,
                        secondary,
                        "secondary is not configured any more; the primary keeps its changes for \
                         it until DETACH SECONDARY, or the limits of the log"
                    );
                }
            }
        }
        self.groups.store(Arc::new(new));
    }

    /// Waits until the primary of a database was asked for its secret, if it has just begun to be looked
    /// after: a definition that a client sends before that could not follow.
    ///
    /// Cancel safe: yes.
    pub async fn first_look(&self, database: &str) {
        let tender = self.groups.load().get(database).map(|group| Arc::clone(&group.tender));
        let Some(tender) = tender else { return };
        let mut has_looked = tender.has_looked.clone();
        let until = tender.began + FIRST_LOOK;
        // Whoever does not answer by then holds nobody up.
        let _ = tokio::time::timeout_at(until.into(), has_looked.wait_for(|looked| *looked)).await;
    }

    /// How all secondaries are, as far as this process knows, by database and name.
    pub fn status(&self) -> Vec<Status> {
        let groups = self.groups.load();
        let links = groups.values().flat_map(|group| group.links.values());
        links.map(|link| link.status.borrow().clone().into_current()).collect()
    }

    /// How all databases with secondaries are, as they were last seen.
    pub fn last_seen(&self) -> Vec<GroupView> {
        let groups = self.groups.load();
        let view =
            |(database, group): (&String, &Arc<Group>)| group.view(database, group.observer.last());
        groups.iter().map(view).collect()
    }

    /// How all databases with secondaries are now, or have been within the last second; of a primary
    /// that does not answer within two seconds, what was last seen.
    ///
    /// Cancel safe: yes.
    pub async fn look(&self) -> Vec<GroupView> {
        let groups = self.groups.load_full();
        let looks = groups.values().map(|group| group.observer.now());
        let looks = futures_util::future::join_all(looks).await;
        let groups = groups.iter().zip(looks);
        groups.map(|((database, group), look)| group.view(database, look)).collect()
    }

    /// Where a secondary is verified and repaired; `None` if there is no such secondary.
    pub fn desk(&self, database: &str, secondary: &str) -> Option<Arc<Desk>> {
        self.link(database, secondary).map(|link| Arc::clone(&link.desk))
    }

    fn link(&self, database: &str, secondary: &str) -> Option<Arc<Link>> {
        self.groups.load().get(database)?.links.get(secondary).cloned()
    }

    /// Asks something of a secondary, and waits until it is done or refused.
    ///
    /// A command that takes long (a copy) is done when it has begun. Cancel safe: the command is
    /// carried out all the same.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn command(
        &self,
        database: &str,
        secondary: &str,
        command: Command,
    ) -> Result<(), CommandError> {
        let Some(link) = self.link(database, secondary) else {
            let group = self.groups.load().get(database).cloned();
            if let (Some(group), Command::Detach(why)) = (group, &command) {
                // It may have been configured once: then the primary still keeps its log for it.
                let mut client = connect(&group.primary).await?;
                return Ok(primary::detach(&mut client, secondary, why).await?);
            }
            let (database, secondary) = (database.to_owned(), secondary.to_owned());
            return Err(CommandError::NoSecondary { database, secondary });
        };
        let (answer, answered) = oneshot::channel();
        let sent = link.requests.try_send(Request { command, answer });
        sent.map_err(|_| CommandError::Busy)?;
        answered.await.unwrap_or(Err(CommandError::Busy))
    }

    /// Returns when these secondaries, by database and name, have everything that was committed on
    /// their primaries before the call.
    ///
    /// What is not there is not waited for. Cancel safe: yes, it only looks.
    ///
    /// # Errors
    /// [`WaitError`], of the first that it goes wrong with; [`WaitError::TimedOut`] after `limit`.
    pub async fn wait(
        &self,
        secondaries: &[(String, String)],
        limit: Option<Duration>,
    ) -> Result<(), WaitError> {
        let waiters = secondaries.iter().filter_map(|(database, secondary)| {
            let link = self.link(database, secondary)?;
            let Assignment { primary, secondary, .. } = link.assignment.clone();
            Some(Waiter { primary, secondary, status: link.status.clone() })
        });
        let limit = limit.unwrap_or(Duration::MAX);
        let waits = waiters.map(async |waiter| {
            let secondary = waiter.name();
            let primary = waiter.primary.clone();
            let wait = async {
                let moment = Moment::now(&primary).await?;
                waiter.until(&moment).await
            };
            let waited = tokio::time::timeout(limit, wait).await;
            waited.unwrap_or(Err(WaitError::TimedOut { secondary, limit }))
        });
        try_join_all(waits).await.map(drop)
    }
}

impl Group {
    /// Starts the tasks of a database's secondaries; `None` if there are none. Of the `old` ones those
    /// stay that are the same.
    fn start(
        assignments: Vec<Assignment>,
        old: Option<&Arc<Self>>,
        seals: &Seals,
    ) -> Option<Arc<Self>> {
        let first = assignments.first()?.clone();
        let link = |assignment: Assignment| {
            let known = old.and_then(|old| old.links.get(&assignment.name));
            let same = known.filter(|known| known.assignment == assignment).cloned();
            let name = assignment.name.clone();
            (name, same.unwrap_or_else(|| Arc::new(Link::start(assignment, seals))))
        };
        let links: BTreeMap<String, Arc<Link>> = assignments.into_iter().map(link).collect();
        let same = old
            .filter(|old| old.primary == first.primary && old.settings == first.settings)
            .filter(|old| !old.links.is_empty());
        if let Some(same) = same
            && same.links.len() == links.len()
            && links.iter().all(|(name, link)| {
                same.links.get(name).is_some_and(|known| Arc::ptr_eq(known, link))
            })
        {
            return Some(Arc::clone(same));
        }
        let tender = same.map(|same| Arc::clone(&same.tender));
        let Assignment { primary, settings, .. } = first.clone();
        let tender = tender.unwrap_or_else(|| {
            let seal = seals.of(&first.database);
            Arc::new(Tender::start(first, seal))
        });
        Some(Arc::new(Self::new(primary, settings, links, tender)))
    }

    fn new(
        primary: Target,
        settings: Replication,
        links: BTreeMap<String, Arc<Link>>,
        tender: Arc<Tender>,
    ) -> Self {
        let selection = Selection::new(&settings.tables, &settings.exclude);
        let statuses = links.values().map(|link| link.status.clone()).collect();
        let observer = Observer::start(primary.clone(), selection, statuses);
        Self { primary, settings, links, observer, tender }
    }

    /// The same for a database that is only pooled from now on.
    fn without_secondaries(self: &Arc<Self>) -> Arc<Self> {
        if self.links.is_empty() {
            return Arc::clone(self);
        }
        let (primary, settings) = (self.primary.clone(), self.settings.clone());
        Arc::new(Self::new(primary, settings, BTreeMap::new(), Arc::clone(&self.tender)))
    }

    fn view(&self, database: &str, look: Look) -> GroupView {
        let now = Instant::now();
        let view = |link: &Arc<Link>| {
            View::new(
                link.status.borrow().clone().into_current(),
                &look,
                (link.desk.progress(), link.desk.results()),
                now,
            )
        };
        let mut secondaries: Vec<View> = self.links.values().map(view).collect();
        for told in look.observed.iter().flat_map(|observed| &observed.secondaries) {
            if !self.links.contains_key(&told.name) {
                secondaries.push(View::unknown(database, told, &look, now));
            }
        }
        GroupView {
            database: database.to_owned(),
            settings: self.settings.clone(),
            look,
            secondaries,
        }
    }
}

impl Link {
    fn start(assignment: Assignment, seals: &Seals) -> Self {
        let (say, status) = watch::channel(Status::new(&assignment.database, &assignment.name));
        let (requests, receiver) = mpsc::channel(COMMANDS_MAX);
        let (desk, stands) = desk(&assignment);
        let interval = assignment.settings.verify_interval;
        let seal = seals.of(&assignment.database);
        let keeper = Keeper::new(assignment.clone(), say, receiver, stands, desk.diverged(), seal);
        tokio::spawn(keeper.run());
        if !interval.is_zero() {
            tokio::spawn(verify_forever(Arc::clone(&desk), status.clone(), interval));
        }
        Self { assignment, status, requests, desk }
    }
}

/// Makes the desk of a secondary, and the end that its keeper listens at.
fn desk(assignment: &Assignment) -> (Arc<Desk>, HoldRequests) {
    let (holds, stands) = holds();
    let settings = &assignment.settings;
    let rate = u64::from(settings.verify_rate);
    let limits = verify::Limits { rate, ..verify::Limits::default() };
    let (primary, secondary) = (assignment.primary.clone(), assignment.secondary.clone());
    let verifier = Verifier { primary, secondary, holds, limits };
    let selection = Selection::new(&settings.tables, &settings.exclude);
    (Arc::new(Desk::new(verifier, selection)), stands)
}

impl Tender {
    fn start(assignment: Assignment, seal: Arc<Seal>) -> Self {
        let (looked, has_looked) = watch::channel(false);
        let task = tokio::spawn(tend(assignment, seal, looked));
        Self { _task: AbortOnDropHandle::new(task), has_looked, began: Instant::now() }
    }
}

/// Keeps the change log of one primary small, detaches who makes it too large, and keeps writes going
/// where the key of a table has changed.
async fn tend(assignment: Assignment, seal: Arc<Seal>, looked: watch::Sender<bool>) {
    let limits = Limits::of(&assignment.settings);
    let database = &assignment.database;
    let (began, mut tended_at, mut client) = (Instant::now(), None::<Instant>, None);
    let mut is_sealed = false;
    loop {
        let outcome = async {
            let client = match &mut client {
                Some(client) => client,
                None => client.insert(connect(&assignment.primary).await?),
            };
            if !is_sealed {
                let secret = schema::secret(client).await?;
                is_sealed = secret.is_some();
                seal.set(secret);
            }
            let mended = mend::mend(client).await?;
            if !mended.is_empty() {
                let tables = mended.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tracing::warn!(database, tables, "key has changed, capture begins anew");
            }
            if tended_at.is_none_or(|at| at.elapsed() >= TEND) {
                let tended = rotation::tend(client, limits, began.elapsed()).await?;
                tracing::debug!(database, ?tended, "change log");
                tended_at = Some(Instant::now());
            }
            Ok(())
        };
        match outcome.await {
            Ok(()) | Err(CaptureError::NotInstalled) => drop(looked.send_replace(true)),
            // Whoever applies brings it up in a moment.
            Err(CaptureError::Older { .. }) if began.elapsed() < FIRST_LOOK => client = None,
            Err(error) => {
                tracing::warn!(database, %error, "cannot keep the change log small");
                (client, is_sealed) = (None, false);
                looked.send_replace(true);
            }
        }
        tokio::time::sleep(MEND).await;
    }
}

fn has_secondaries(config: &Config, name: &str) -> bool {
    let database = config.databases.get(name);
    database.is_some_and(|found| found.replication.is_some() && !found.secondaries.is_empty())
}

/// What the configuration says of the secondaries of one database.
fn assignments(
    config: &Config,
    name: &str,
    database: &Database,
    replication: &Replication,
) -> Vec<Assignment> {
    let primary = primary(config, name, database, replication);
    let secondaries = database.secondaries.iter();
    let assignment = |(secondary_name, secondary): (&String, &Secondary)| Assignment {
        database: name.to_owned(),
        name: secondary_name.clone(),
        secondary: target(&primary, secondary),
        primary: primary.clone(),
        settings: replication.clone(),
        pool_size: usize::try_from(secondary.pool_size).unwrap_or(2),
    };
    secondaries.map(assignment).collect()
}

/// Where a database is captured, and as whom.
pub fn primary(
    config: &Config,
    name: &str,
    database: &Database,
    replication: &Replication,
) -> Target {
    let timeout = config.general.pool.server_connect_timeout;
    let timeout = if timeout.is_zero() { CONNECT_TIMEOUT } else { timeout };
    let user = replication.admin_user.as_ref().or(database.user.as_ref());
    let has_own_user = replication.admin_user.is_some();
    let password = replication.admin_password.as_ref();
    let password = password.or(database.password.as_ref().filter(|_| !has_own_user));
    Target {
        servers: database.servers().into(),
        is_primary: true,
        dbname: database.dbname.clone().unwrap_or_else(|| name.to_owned()),
        user: user.cloned().unwrap_or_default(),
        password: password.cloned(),
        timeout,
    }
}

fn target(primary: &Target, secondary: &Secondary) -> Target {
    let has_own_user = secondary.user.is_some();
    let password = secondary.password.as_ref();
    Target {
        servers: Arc::new([Server { host: secondary.host.clone(), port: secondary.port }]),
        is_primary: false,
        dbname: secondary.dbname.clone().unwrap_or_else(|| primary.dbname.clone()),
        user: secondary.user.clone().unwrap_or_else(|| primary.user.clone()),
        password: password.or(primary.password.as_ref().filter(|_| !has_own_user)).cloned(),
        timeout: primary.timeout,
    }
}
