//! All secondaries of the configuration: their tasks, and the way to them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::connect::Target;
use super::secondary::{Assignment, Keeper};
use super::status::{Command, CommandError, Request, Status};
use crate::config::{Config, Database, Replication, Secondary};

/// LIMIT: commands that wait for one secondary.
const COMMANDS_MAX: usize = 16;

/// How long connecting may take where `server_connect_timeout` is off.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// The way to all secondaries.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    secondaries: Arc<Vec<Link>>,
}

/// The way to one secondary.
#[derive(Debug)]
struct Link {
    status: watch::Receiver<Status>,
    requests: mpsc::Sender<Request>,
}

impl Supervisor {
    /// Starts a task for each secondary of the configuration. They end when this is dropped.
    pub fn start(config: &Config) -> Self {
        let secondaries = assignments(config).map(|assignment| {
            let (say, status) = watch::channel(Status::new(&assignment.database, &assignment.name));
            let (requests, receiver) = mpsc::channel(COMMANDS_MAX);
            tokio::spawn(Keeper::new(assignment, say, receiver).run());
            Link { status, requests }
        });
        Self { secondaries: Arc::new(secondaries.collect()) }
    }

    /// How all secondaries are, by database and name.
    pub fn status(&self) -> Vec<Status> {
        self.secondaries.iter().map(|link| link.status.borrow().clone()).collect()
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
        let is_it = |link: &&Link| {
            let status = link.status.borrow();
            status.database == database && status.secondary == secondary
        };
        let Some(link) = self.secondaries.iter().find(is_it) else {
            let (database, secondary) = (database.to_owned(), secondary.to_owned());
            return Err(CommandError::NoSecondary { database, secondary });
        };
        let (answer, answered) = oneshot::channel();
        let sent = link.requests.try_send(Request { command, answer });
        sent.map_err(|_| CommandError::Busy)?;
        answered.await.unwrap_or(Err(CommandError::Busy))
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
