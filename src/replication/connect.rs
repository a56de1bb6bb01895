//! Connections of our own to a primary or a secondary, with the settings that texts depend on.

use std::fmt;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::error::Error;
use crate::config::Host;
use crate::net::dial::dial;
use crate::secret::Secret;

/// What the text of a value depends on; the trigger functions of capture are bound to the same.
///
/// An image is written by the primary's output functions and read by the secondary's input
/// functions. Both must mean the same, whatever the client, role or database has set.
/// Source: the `GUC`s that PostgreSQL's `*_out` functions read; `pg_dump` pins the same.
pub const TEXT_SETTINGS: [(&str, &str); 8] = [
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("lc_monetary", "C"),
    // Names of types, functions and tables in values (`regclass`) are printed with their schema.
    ("search_path", "pg_catalog, pg_temp"),
];

/// What else our sessions depend on, and what a role's or database's defaults must not change.
const SESSION_SETTINGS: [(&str, &str); 16] = [
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
    ("transform_null_equals", "off"),
    // A policy that would hide rows makes the statement fail instead.
    ("row_security", "off"),
    ("check_function_bodies", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    // Compiling our statements costs more than it brings, for estimates that are guesses.
    ("jit", "off"),
    ("client_min_messages", "warning"),
];

/// The name under which servers see us.
pub const APPLICATION_NAME: &str = "pgtandem replication";

/// Where to connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the server is.
    pub host: Host,
    /// Its port, also for a Unix socket.
    pub port: u16,
    /// The database.
    pub dbname: String,
    /// The role.
    pub user: String,
    /// What to log in with, if it is asked for.
    pub password: Option<Secret>,
    /// How long connecting and logging in may take.
    pub timeout: Duration,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) => write!(f, "{name}:{}/{}", self.port, self.dbname),
            Host::Unix(path) => write!(f, "{}:{}/{}", path.display(), self.port, self.dbname),
        }
    }
}

/// Connects, logs in, and pins the settings of [`TEXT_SETTINGS`] and others.
///
/// The connection ends when the client is dropped; what it still runs then is not waited for.
/// Cancel safe: yes, a half-made connection is dropped.
///
/// # Errors
/// [`Error::Dial`], [`Error::Login`] or [`Error::TimedOut`]; [`Error::Sql`] if a setting is refused.
pub async fn connect(target: &Target) -> Result<Client, Error> {
    let server = || target.to_string();
    tokio::time::timeout(target.timeout, log_in(target))
        .await
        .unwrap_or_else(|_| Err(Error::TimedOut { server: server(), limit: target.timeout }))
}

async fn log_in(target: &Target) -> Result<Client, Error> {
    let stream = dial(&target.host, target.port)
        .await
        .map_err(|source| Error::Dial { server: target.to_string(), source })?;
    let mut config = tokio_postgres::Config::new();
    config.dbname(&target.dbname).user(&target.user).application_name(APPLICATION_NAME);
    if let Some(password) = &target.password {
        config.password(password.expose());
    }
    let (client, connection) = config
        .connect_raw(stream, NoTls)
        .await
        .map_err(|source| Error::Login { server: target.to_string(), source })?;
    // Its errors reach whoever waits for an answer; it ends when the client is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection of the replication mode ended");
        }
    });
    client.batch_execute(&settings()).await.map_err(Error::sql("prepare the session"))?;
    Ok(client)
}

/// The statements that pin all settings; none of them fails on PostgreSQL 13 to 18.
fn settings() -> String {
    let settings = TEXT_SETTINGS.iter().chain(&SESSION_SETTINGS);
    let mut sql: String = settings
        .map(|(name, value)| {
            // A list is given as a list: quoted as a whole it would be one odd name.
            if *name == "search_path" {
                format!("SET {name} = {value};")
            } else {
                format!("SET {name} = '{value}';")
            }
        })
        .collect();
    // PostgreSQL 17 and later.
    sql.push_str(
        "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
         WHERE name IN ('transaction_timeout', 'idle_session_timeout')",
    );
    sql
}
