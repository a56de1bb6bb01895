//! All secondaries of the configuration: their tasks, and the way to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::capture::error::CaptureError;
use super::capture::mend;
use super::capture::rotation::{self, Limits};
use super::catalog::Selection;
use super::connect::{Target, connect};
use super::secondary::{Assignment, Keeper};
use super::status::{Command, CommandError, Request, Status};
use super::verify::desk::Desk;
use super::verify::hold::{HoldRequests, holds};
use super::verify::schedule::verify_forever;
use super::verify::{self, Verifier};
use crate::config::{Config, Database, Replication, Secondary};

/// LIMIT: commands that wait for one secondary.
const COMMANDS_MAX: usize = 16;

/// Between two looks at the change log.
const TEND: Duration = Duration::from_secs(5);

/// Between two looks at the keys of the tables under capture.
const MEND: Duration = Duration::from_secs(1);

/// How long connecting may take where `server_connect_timeout` is off.
const CONNECT_TIMEOUT: Duration = Duration::from_mins(1);

/// The way to all secondaries.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    secondaries: Arc<Links>,
}

/// The ways to all secondaries, and what ends with them.
#[derive(Debug, Default)]
struct Links {
    all: Vec<Link>,
    /// Keep the change logs small.
    _tenders: Vec<AbortOnDropHandle<()>>,
}

/// The way to one secondary.
#[derive(Debug)]
struct Link {
    status: watch::Receiver<Status>,
    requests: mpsc::Sender<Request>,
    desk: Arc<Desk>,
}

impl Supervisor {
    /// Starts a task for each secondary of the configuration. They end when this is dropped.
    pub fn start(config: &Config) -> Self {
        let assignments: Vec<Assignment> = assignments(config).collect();
        let mut seen = BTreeSet::new();
        let firsts = assignments.iter().filter(|first| seen.insert(first.database.clone()));
        let tenders: Vec<_> = firsts.map(|first| tokio::spawn(tend(first.clone()))).collect();
        let secondaries = assignments.into_iter().map(|assignment| {
            let (say, status) = watch::channel(Status::new(&assignment.database, &assignment.name));
            let (requests, receiver) = mpsc::channel(COMMANDS_MAX);
            let (desk, stands) = desk(&assignment);
            let interval = assignment.settings.verify_interval;
            tokio::spawn(Keeper::new(assignment, say, receiver, stands, desk.diverged()).run());
            if !interval.is_zero() {
                tokio::spawn(verify_forever(Arc::clone(&desk), interval));
            }
            Link { status, requests, desk }
        });
        let secondaries = secondaries.collect();
        let ends = tenders.into_iter().map(AbortOnDropHandle::new).collect();
        Self { secondaries: Arc::new(Links { all: secondaries, _tenders: ends }) }
    }

    /// How all secondaries are, by database and name.
    pub fn status(&self) -> Vec<Status> {
        self.secondaries
            .all
            .iter()
            .map(|link| link.status.borrow().clone().into_current())
            .collect()
    }

    /// Where a secondary is verified and repaired; `None` if there is no such secondary.
    pub fn desk(&self, database: &str, secondary: &str) -> Option<Arc<Desk>> {
        self.link(database, secondary).map(|link| Arc::clone(&link.desk))
    }

    fn link(&self, database: &str, secondary: &str) -> Option<&Link> {
        self.secondaries.all.iter().find(|link| {
            let status = link.status.borrow();
            status.database == database && status.secondary == secondary
        })
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
            let (database, secondary) = (database.to_owned(), secondary.to_owned());
            return Err(CommandError::NoSecondary { database, secondary });
        };
        let (answer, answered) = oneshot::channel();
        let sent = link.requests.try_send(Request { command, answer });
        sent.map_err(|_| CommandError::Busy)?;
        answered.await.unwrap_or(Err(CommandError::Busy))
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

/// Keeps the change log of one primary small, detaches who makes it too large, and keeps writes going
/// where the key of a table has changed.
async fn tend(assignment: Assignment) {
    let limits = Limits::of(&assignment.settings);
    let database = &assignment.database;
    let (began, mut tended_at, mut client) = (Instant::now(), None::<Instant>, None);
    loop {
        let outcome = async {
            let client = match &mut client {
                Some(client) => client,
                None => client.insert(connect(&assignment.primary).await?),
            };
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
            Ok(()) | Err(CaptureError::NotInstalled) => {}
            Err(error) => {
                tracing::warn!(database, %error, "cannot keep the change log small");
                client = None;
            }
        }
        tokio::time::sleep(MEND).await;
    }
}

fn assignments(config: &Config) -> impl Iterator<Item = Assignment> {
    let timeout = config.general.pool.server_connect_timeout;
    let timeout = if timeout.is_zero() { CONNECT_TIMEOUT } else { timeout };
    config.databases.iter().flat_map(move |(name, database)| {
        let replication = database.replication.iter();
        replication.flat_map(move |replication| {
            let primary = primary(name, database, replication, timeout);
            database.secondaries.iter().map(move |(secondary_name, secondary)| Assignment {
                database: name.clone(),
                name: secondary_name.clone(),
                secondary: target(&primary, secondary),
                primary: primary.clone(),
                settings: replication.clone(),
                pool_size: usize::try_from(secondary.pool_size).unwrap_or(2),
            })
        })
    })
}

fn primary(
    name: &str,
    database: &Database,
    replication: &Replication,
    timeout: Duration,
) -> Target {
    let user = replication.admin_user.as_ref().or(database.user.as_ref());
    let has_own_user = replication.admin_user.is_some();
    let password = replication.admin_password.as_ref();
    let password = password.or(database.password.as_ref().filter(|_| !has_own_user));
    Target {
        host: database.host.clone(),
        port: database.port,
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
        host: secondary.host.clone(),
        port: secondary.port,
        dbname: secondary.dbname.clone().unwrap_or_else(|| primary.dbname.clone()),
        user: secondary.user.clone().unwrap_or_else(|| primary.user.clone()),
        password: password.or(primary.password.as_ref().filter(|_| !has_own_user)).cloned(),
        timeout: primary.timeout,
    }
}
