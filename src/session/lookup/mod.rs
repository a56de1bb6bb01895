//! Asks servers for the secrets of users who are not configured: `auth_query`.
//!
//! Job: one answer per login, over connections of its own that no client ever uses and on which
//! nothing of a client is set (CVE-2025-12819). They are few, they are kept for some seconds, and
//! they belong to no pool. Whoever is not known to the server is no error: the login must go on as
//! if there was a secret that nothing matches.
//!
//! Source: PgBouncer `src/client.c`, `start_auth_query`, `handle_auth_query_response`.

mod cache;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use crate::auth::Credentials;
use crate::backend::ask::{AskError, Asker, Row};
use crate::backend::connect::{self, ConnectError, Lack, Opened, Site};
use crate::config::{AuthLookup, PoolSettings, Server, SessionAttrs};
use crate::fault::{Fault, SqlState};
use crate::log::{Kind, Plain, admit};
use crate::net::names::Names;
use crate::net::tls::Connectors;
use crate::pool::registry::Registry;
use crate::secret::Secret;

use cache::Cache;

/// LIMIT: questions under way at one target, and connections kept to it.
const TARGET_PLACES: usize = 8;

/// LIMIT: questions under way at all targets.
const PLACES: usize = 64;

/// How long a connection may wait for the next question.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// LIMIT: how long connecting, and one question, may take where `server_connect_timeout` sets none.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a server knows of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A secret: plain, md5 or SCRAM.
    Secret(Secret),
    /// Nothing.
    NoUser,
    /// That the user cannot log in by a password, or not any more.
    NoPassword,
    /// The database that was to be asked does not exist.
    NoDatabase,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No connection to the server.
    #[error("cannot log in for auth_query")]
    Connect(#[from] ConnectError),
    /// No answer to the query.
    #[error("auth_query failed")]
    Ask(#[from] AskError),
    /// The server takes too long.
    #[error("auth_query got no answer within {limit:?}")]
    TimedOut {
        /// As long as was waited.
        limit: Duration,
    },
    /// The query gives something else than one user and one secret.
    #[error("auth_query must return at most one row, with a user and a secret")]
    Shape,
}

impl LookupError {
    /// Says what the client is told: nothing of what the server said to us, as it is about somebody
    /// else's login, but that the server is only starting.
    pub fn fault(&self) -> Fault {
        if let Self::Connect(error) = self
            && error.lack() == Lack::Starting
        {
            return error.fault();
        }
        Fault::fatal(SqlState::CANNOT_CONNECT, "cannot connect to server: authentication failed")
    }
}

/// Who asks where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    servers: Arc<[Server]>,
    /// As clients call it.
    database: String,
    /// As the server calls it.
    dbname: String,
    user: String,
}

impl Target {
    fn of(lookup: &AuthLookup) -> Self {
        Self {
            servers: Arc::clone(&lookup.settings.servers),
            database: lookup.database.clone(),
            dbname: lookup.settings.dbname.clone(),
            user: lookup.settings.user.clone(),
        }
    }
}

/// The connections to one target.
struct Line {
    places: Semaphore,
    idle: Mutex<Vec<(Asker, Instant)>>,
}

impl Default for Line {
    fn default() -> Self {
        Self { places: Semaphore::new(TARGET_PLACES), idle: Mutex::default() }
    }
}

/// All questions to servers, and their answers of late.
pub struct Lookups {
    registry: Arc<Registry>,
    places: Semaphore,
    /// Those that are in use or have connections. Locked for a look-up, never across a wait.
    lines: Mutex<HashMap<Target, Arc<Line>>>,
    cache: Mutex<Cache>,
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").finish_non_exhaustive()
    }
}

impl Lookups {
    /// Starts without connections. While a database is paused, it is not asked.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            places: Semaphore::new(PLACES),
            lines: Mutex::default(),
            cache: Mutex::default(),
        }
    }

    /// Finds out what the server knows of `user`.
    ///
    /// Waits for a place, and while the database is paused, for as long as the caller does. Cancel
    /// safe: a connection in use is closed.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub async fn find(
        &self,
        lookup: &AuthLookup,
        connectors: &Connectors,
        user: &str,
    ) -> Result<Found, LookupError> {
        let target = Target::of(lookup);
        if !lookup.lifetime.is_zero()
            && let Some(known) = self.cache().get(&target, &lookup.query, user, Instant::now())
        {
            return Ok(known);
        }
        let found = self.ask(&target, lookup, connectors, user).await.inspect_err(|error| {
            if admit(Kind::ServerFailed) {
                let database = &lookup.database;
                let source = std::error::Error::source(error).map(tracing::field::display);
                warn!(database, user = target.user, source, "{}", Plain(&error.to_string()));
            }
        })?;
        if !lookup.lifetime.is_zero() {
            let until = Instant::now() + lookup.lifetime;
            self.cache().put(target, &lookup.query, user, found.clone(), until);
        }
        Ok(found)
    }

    /// Forgets what was found of `user`: it does not work any more, so it may have changed.
    pub fn forget(&self, lookup: &AuthLookup, user: &str) {
        self.cache().remove(&Target::of(lookup), &lookup.query, user);
    }

    /// Forgets all answers: another configuration has come into force.
    pub fn forget_all(&self) {
        self.cache().clear();
        // Those in use come back to lines that nobody knows.
        self.lines().clear();
    }

    /// Waits until nothing is asked of a database, or of any, and closes the connections to it.
    pub async fn drain(&self, database: Option<&str>) {
        for line in self.lines_of(database) {
            let places = u32::try_from(TARGET_PLACES).unwrap_or(u32::MAX);
            // It is never closed. Whoever comes meanwhile sees that the database is paused.
            let _all = line.places.acquire_many(places).await;
            line.close_idle().await;
        }
    }

    /// Closes the connections to a database, or to any, that are not in use.
    pub async fn close_idle(&self, database: Option<&str>) {
        for line in self.lines_of(database) {
            line.close_idle().await;
        }
    }

    /// Closes connections that nobody has used for a while, and forgets old answers.
    pub async fn sweep(&self, now: Instant) {
        self.cache().sweep(now);
        let mut closing = Vec::new();
        self.lines().retain(|_, line| {
            let mut idle = line.idle();
            closing.extend(idle.extract_if(.., |(_, since)| now >= *since + IDLE_MAX));
            !idle.is_empty() || Arc::strong_count(line) > 1
        });
        for (asker, _) in closing {
            asker.close().await;
        }
    }

    async fn ask(
        &self,
        target: &Target,
        lookup: &AuthLookup,
        connectors: &Connectors,
        user: &str,
    ) -> Result<Found, LookupError> {
        let line = Arc::clone(self.lines().entry(target.clone()).or_default());
        let (_of_line, _of_all) = loop {
            self.registry.until_open(&lookup.database).await;
            // In this order: who waits for one server takes no place from others. None is ever closed.
            let places = (line.places.acquire().await, self.places.acquire().await);
            if !self.registry.is_paused(&lookup.database) {
                break places;
            }
        };
        let limit = lookup.settings.server_connect_timeout.unwrap_or(PATIENCE);
        let parameters = [user.as_bytes()];
        while let Some(mut asker) = line.take() {
            match timeout(limit, asker.ask(&lookup.query, &parameters)).await {
                // The server may have closed it long ago.
                Ok(Err(AskError::Lost(_) | AskError::NoAnswer)) => {}
                Ok(answer) => return line.finish(asker, answer, user),
                Err(_) => return Err(LookupError::TimedOut { limit }),
            }
        }
        let opened = match open(&lookup.settings, connectors, limit).await {
            Err(ConnectError::Refused { sqlstate: SqlState::UNKNOWN_DATABASE, .. }) => {
                return Ok(Found::NoDatabase);
            }
            opened => opened?,
        };
        let mut asker = Asker::new(opened).map_err(AskError::Lost)?;
        let answer = timeout(limit, asker.ask(&lookup.query, &parameters)).await;
        let answer = answer.map_err(|_| LookupError::TimedOut { limit })?;
        line.finish(asker, answer, user)
    }

    fn lines_of(&self, database: Option<&str>) -> Vec<Arc<Line>> {
        let lines = self.lines();
        let of = lines.iter().filter(|(target, _)| database.is_none_or(|d| target.database == d));
        of.map(|(_, line)| Arc::clone(line)).collect()
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Target, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Takes the connection that was used last.
    fn take(&self) -> Option<Asker> {
        self.idle().pop().map(|(asker, _)| asker)
    }

    /// Reads an answer, and keeps the connection if it can be used again.
    fn finish(
        &self,
        asker: Asker,
        answer: Result<Vec<Row>, AskError>,
        user: &str,
    ) -> Result<Found, LookupError> {
        if matches!(answer, Ok(_) | Err(AskError::Refused { .. })) {
            self.idle().push((asker, Instant::now()));
        }
        found(&answer?, user)
    }

    async fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for (asker, _) in idle {
            asker.close().await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Asker, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a connection to the first server that can be reached; all together take `limit` at most.
///
/// Primary or standby: each can be asked.
async fn open(
    settings: &PoolSettings,
    connectors: &Connectors,
    limit: Duration,
) -> Result<Opened, ConnectError> {
    let settings = PoolSettings { attrs: SessionAttrs::Any, ..settings.clone() };
    let credentials = Credentials { stored: settings.password.clone(), ..Credentials::default() };
    let limit = limit / u32::try_from(settings.servers.len()).unwrap_or(u32::MAX).max(1);
    let mut first = None;
    for server in &*settings.servers {
        let opened = async {
            let connector =
                connectors.of(&server.host, &settings.tls).map_err(ConnectError::Setup)?;
            // Asked anew each time: this is seldom.
            let places = Names::default().places(server, Duration::ZERO).await;
            let places = places.map_err(|source| ConnectError::Dial { source })?;
            let connector = connector.as_ref();
            let site = Site { server, places: &places, connector, limit: Some(limit) };
            connect::open(site, &settings, &credentials).await
        };
        match opened.await {
            Err(error) if error.lack() != Lack::Refused => first = first.or(Some(error)),
            outcome => return outcome,
        }
    }
    Err(first.unwrap_or(ConnectError::WrongRole { reason: "no server" }))
}

/// Reads what the query gave. A row about somebody else is none: the server cuts long names off, and
/// must not let `x` in with what belongs to `y`.
fn found(rows: &[Row], user: &str) -> Result<Found, LookupError> {
    let (name, secret) = match rows {
        [] => return Ok(Found::NoUser),
        [row] => match row.as_slice() {
            [name, secret] => (name, secret),
            _ => return Err(LookupError::Shape),
        },
        _ => return Err(LookupError::Shape),
    };
    if name.as_ref().is_none_or(|name| name.expose() != user.as_bytes()) {
        return Ok(Found::NoUser);
    }
    let secret = secret.as_ref().filter(|secret| !secret.expose().is_empty());
    Ok(secret.map_or(Found::NoPassword, |secret| Found::Secret(secret.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Row {
        values.iter().map(|value| value.map(Secret::new)).collect()
    }

    #[test]
    fn an_answer_is_one_row_about_the_user() {
        let read = |rows: &[Row]| found(rows, "bob");
        let ok = |rows: &[Row]| read(rows).expect("it has the right shape");
        assert_eq!(ok(&[]), Found::NoUser);
        let secret = row(&[Some("bob"), Some("x")]);
        assert_eq!(ok(std::slice::from_ref(&secret)), Found::Secret(Secret::new("x")));
        assert_eq!(ok(&[row(&[Some("bob"), None])]), Found::NoPassword);
        assert_eq!(ok(&[row(&[Some("bob"), Some("")])]), Found::NoPassword);
        assert_eq!(ok(&[row(&[None, None])]), Found::NoUser);
        assert_eq!(ok(&[row(&[Some("ann"), Some("x")])]), Found::NoUser);
        assert!(matches!(read(&[secret.clone(), secret]), Err(LookupError::Shape)));
        assert!(matches!(read(&[row(&[Some("bob")])]), Err(LookupError::Shape)));
    }
}
