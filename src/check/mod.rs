//! `pgtandem check`: what is wrong with a configuration, what is probably not meant, and whether its
//! servers let us in.

mod probe;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

pub use probe::{Answer, ProbeError};

use crate::auth::Stored;
use crate::backend::ask::AskError;
use crate::backend::standing::Fit;
use crate::config::{ANY_DATABASE, Config, PoolSettings, Server};
use crate::fault::SqlState;
use crate::net::tls::{Acceptor, Connectors, SetupError};

/// LIMIT: servers that are logged in to at a time.
const PROBES_MAX: usize = 16;

/// The database that stands for those that `"*"` allows; every cluster is made with it.
const MAINTENANCE_DATABASE: &str = "postgres";

/// What to do besides reading the file.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {
    /// Log in at every server of every database, with what is stored
    #[arg(long)]
    pub connect: bool,
}

/// Lists what is allowed and probably not meant about the files themselves.
pub fn file_advice(path: &Path, config: &Config) -> Vec<String> {
    let mut advice = mode_advice(path, config.has_secrets());
    let users = &config.general.auth.auth_file;
    if !users.file.is_none() {
        advice.extend(mode_advice(users.file.path(), !users.users().is_empty()));
    }
    let rules = &config.general.auth.auth_hba_file.file;
    if !rules.is_none() {
        advice.extend(mode_advice(rules.path(), false));
    }
    advice
}

fn mode_advice(path: &Path, has_secrets: bool) -> Vec<String> {
    let Ok(metadata) = path.metadata() else { return Vec::new() };
    let mode = metadata.permissions().mode() & 0o777;
    let mut advice = Vec::new();
    if mode & 0o004 != 0 && has_secrets {
        advice.push(format!(
            "{} holds passwords and can be read by everybody (mode {mode:04o}): chmod 600",
            path.display()
        ));
    }
    if mode & 0o002 != 0 {
        advice.push(format!(
            "{} can be changed by everybody (mode {mode:04o}): chmod 600",
            path.display()
        ));
    }
    advice
}

/// Says whether the keys and certificates of a configuration can be used.
///
/// # Errors
/// See [`SetupError`].
pub fn tls(config: &Config) -> Result<(), SetupError> {
    Acceptor::new(&config.general)?;
    Connectors::new(config)?;
    Ok(())
}

/// What came of logging in for one database.
#[derive(Debug)]
pub struct Report {
    /// As clients call it.
    pub database: String,
    /// Where, and as whom.
    pub target: Option<Target>,
    /// What the server said.
    pub outcome: Outcome,
}

/// Where somebody logs in, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Host and port.
    pub server: String,
    /// The user at the server.
    pub user: String,
}

/// What came of logging in.
#[derive(Debug)]
pub enum Outcome {
    /// The server let us in.
    In(Answer),
    /// It did not.
    Out(ProbeError),
    /// There is nothing to log in with before a client has.
    Skipped(&'static str),
}

impl Report {
    /// Says whether something must be mended.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Out(_))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.database)?;
        match &self.outcome {
            Outcome::In(answer) => {
                write!(f, "ok: PostgreSQL {}", answer.version)?;
                if let Some((standing, fit)) = answer.standing {
                    let left = matches!(fit, Fit::Wrong(_));
                    write!(f, ", {standing}{}", if left { " (not wanted)" } else { "" })?;
                }
                write!(
                    f,
                    ", max_connections {}, login {:.1} ms, query {:.1} ms",
                    answer.connections_max,
                    answer.login.as_secs_f64() * 1000.0,
                    answer.query.as_secs_f64() * 1000.0
                )?;
            }
            Outcome::Out(error) => {
                write!(f, "FAILED: {}: {error}", error.sqlstate())?;
                let causes =
                    std::iter::successors(std::error::Error::source(error), |e| e.source());
                for cause in causes {
                    write!(f, ": {cause}")?;
                }
            }
            Outcome::Skipped(reason) => write!(f, "skipped: {reason}")?,
        }
        match &self.target {
            Some(Target { server, user }) => write!(f, " (as {user:?} at {server})"),
            None => Ok(()),
        }
    }
}

/// Logs in for every database at each of its servers, several at a time; in the order of their names.
///
/// Each is bounded; see [`probe::probe`]. Must be called inside a tokio runtime.
pub async fn connect(config: &Config) -> Vec<Report> {
    let places = Arc::new(Semaphore::new(PROBES_MAX));
    let mut probes = Vec::new();
    for name in config.databases.keys() {
        match choose(config, name) {
            Ok(settings) => {
                for server in settings.servers.iter() {
                    let probe = try_out(settings.clone(), server.clone(), Arc::clone(&places));
                    probes.push((name.clone(), tokio::spawn(probe)));
                }
            }
            Err(reason) => {
                let skipped = async move { (None, Outcome::Skipped(reason)) };
                probes.push((name.clone(), tokio::spawn(skipped)));
            }
        }
    }
    let mut reports = Vec::new();
    for (database, probe) in probes {
        // One that panicked has no answer.
        let (target, outcome) =
            probe.await.unwrap_or((None, Outcome::Out(ProbeError::Ask(AskError::NoAnswer))));
        let outcome = forgive_any(config, &database, outcome);
        reports.push(Report { database, target, outcome });
    }
    reports
}

async fn try_out(
    settings: PoolSettings,
    server: Server,
    places: Arc<Semaphore>,
) -> (Option<Target>, Outcome) {
    let target = Target { server: server.to_string(), user: settings.user.clone() };
    // It is never closed.
    let _place = places.acquire().await;
    let outcome = match probe::probe(settings, &server).await {
        Ok(answer) => Outcome::In(answer),
        Err(error) => Outcome::Out(error),
    };
    (Some(target), outcome)
}

/// A server that lets us in but has no maintenance database is in order.
fn forgive_any(config: &Config, database: &str, outcome: Outcome) -> Outcome {
    let is_named = config.database(database).is_some_and(|entry| entry.dbname.is_some());
    if let Outcome::Out(error) = &outcome
        && database == ANY_DATABASE
        && !is_named
        && error.sqlstate() == SqlState::UNKNOWN_DATABASE
    {
        return Outcome::Skipped("the server answers, and has no database \"postgres\" to try");
    }
    outcome
}

/// Finds somebody who can log in for a database: the user it forces, else the first user with a
/// stored password that opens a server, else the first user, whom the server may trust.
fn choose(config: &Config, database: &str) -> Result<PoolSettings, &'static str> {
    let name = if database == ANY_DATABASE { MAINTENANCE_DATABASE } else { database };
    let settings = |user: &str| {
        let mut settings = config.pool_settings(name, user)?;
        // `"*"` has its own entry, even where a database is called as the one that stands for it.
        if let Some(entry) = config.databases.get(database) {
            settings.servers = entry.servers().into();
            if let Some(dbname) = &entry.dbname {
                settings.dbname.clone_from(dbname);
            }
        }
        Some(settings)
    };
    let opens = |settings: &PoolSettings| {
        let stored = settings.password.as_ref().map(Stored::parse);
        matches!(stored, Some(Stored::Plain(_) | Stored::Md5(_)))
    };
    let forced = config.database(database).is_some_and(|entry| entry.user.is_some());
    // Whoever looks up others logs in there anyway.
    let asks = config.auth_lookup(name).map(|lookup| lookup.settings.user);
    let listed = config.users.keys().chain(config.general.auth.auth_file.users().keys());
    let users = || asks.iter().chain(listed.clone()).filter_map(|user| settings(user));
    if forced {
        return settings("").ok_or("there is no such database");
    }
    if let Some(settings) = users().find(opens) {
        return Ok(settings);
    }
    let has_secrets = users().any(|settings| settings.password.is_some());
    match users().next() {
        Some(settings) if !has_secrets => Ok(settings),
        Some(_) => Err("users have SCRAM secrets only, which open a server once they log in"),
        None => Err("there is no user to log in as"),
    }
}

/// Lists servers whose connections the pools could use up.
pub fn capacity_advice(config: &Config, reports: &[Report]) -> Vec<String> {
    let mut servers: BTreeMap<String, (u64, &Answer, Vec<&str>)> = BTreeMap::new();
    for report in reports {
        let (Some(target), Outcome::In(answer)) = (&report.target, &report.outcome) else {
            continue;
        };
        let entry = servers.entry(target.server.clone()).or_insert((0, answer, Vec::new()));
        entry.0 += connections_max(config, &report.database);
        entry.2.push(&report.database);
    }
    let exceeding = servers.into_iter().filter_map(|(server, (sum, answer, databases))| {
        let allowed = answer.connections_max.saturating_sub(answer.reserved);
        let is_any = databases.contains(&ANY_DATABASE);
        (sum > u64::from(allowed)).then(|| {
            format!(
                "{server}: the pools of {} can grow to {sum} connections{}, the server allows \
                 {allowed} (max_connections {}, {} of them reserved): lower pool sizes or set \
                 max_db_connections",
                databases.join(", "),
                if is_any { " for each database that \"*\" stands for" } else { "" },
                answer.connections_max,
                answer.reserved
            )
        })
    });
    exceeding.collect()
}

/// Connections that the pools of one database can have: one pool per user, or one if it forces one.
fn connections_max(config: &Config, database: &str) -> u64 {
    let is_forced = config.database(database).is_some_and(|entry| entry.user.is_some());
    let nobody = String::new();
    let users: Vec<&String> = match config.users.keys() {
        _ if is_forced => vec![&nobody],
        users if users.len() == 0 => vec![&nobody],
        users => users.collect(),
    };
    let pools: Vec<PoolSettings> =
        users.into_iter().filter_map(|user| config.pool_settings(database, user)).collect();
    let size = |pool: &PoolSettings| u64::from(pool.size) + u64::from(pool.reserve_size);
    let bounded = |pool: &PoolSettings| {
        pool.max_user_connections.map_or(size(pool), |max| size(pool).min(u64::from(max)))
    };
    let sum = pools.iter().map(bounded).sum();
    let bound = pools.first().and_then(|pool| pool.max_db_connections).map(u64::from);
    bound.map_or(sum, |bound| bound.min(sum))
}

#[cfg(test)]
mod tests;
