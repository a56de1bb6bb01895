//! Connections of our own to a primary or a secondary, with the settings that texts depend on.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Connection, NoTls, SimpleQueryMessage};

use super::error::Error;
use super::watch::{ANSWER, Heard, Watched};
use crate::config::Server;
use crate::net::Stream;
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
const SESSION_SETTINGS: [(&str, &str); 17] = [
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
    // What a secondary says of itself must survive its crash: the change log goes by it. And what we
    // write on a primary makes sure that all before it is durable, see `primary::make_durable`.
    ("synchronous_commit", "on"),
];

/// The name under which servers see us, followed by a word that differs from process to process.
pub const APPLICATION_NAME: &str = "pgtandem replication";

/// The whole name: all connections of one process have it, and nobody else's.
static FULL_NAME: LazyLock<String> = LazyLock::new(|| {
    format!("{APPLICATION_NAME} {:016x}", RandomState::new().build_hasher().finish())
});

/// How long TCP waits for a sign of life before it asks for one, between two questions, and for what
/// was sent to be acknowledged.
const KEEPALIVE: (Duration, Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(3), Duration::from_secs(20));

/// Where to connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where its server is, or may be; at least one.
    pub servers: Arc<[Server]>,
    /// Whether it is the one of them that is no standby.
    pub is_primary: bool,
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
        for (at, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if at > 0 { "," } else { "" })?;
        }
        write!(f, "/{}", self.dbname)
    }
}

impl Target {
    /// The same at one of its servers.
    fn at(&self, server: &Server) -> Self {
        Self { servers: Arc::new([server.clone()]), ..self.clone() }
    }
}

/// Connects, logs in, and pins the settings of [`TEXT_SETTINGS`] and others.
///
/// Of several servers the first is taken that answers, and is no standby if it must be the primary.
/// The connection ends when the client is dropped; what it still runs then is not waited for. It
/// ends, too, when the server does not answer any more ([`super::watch`]).
/// Cancel safe: yes, a half-made connection is dropped.
///
/// # Errors
/// [`Error::Dial`], [`Error::Login`] or [`Error::TimedOut`]; [`Error::Sql`] if a setting is refused;
/// [`Error::Standby`] if nothing is worse than that.
pub async fn connect(target: &Target) -> Result<Client, Error> {
    let parts = u32::try_from(target.servers.len()).unwrap_or(u32::MAX).max(1);
    let mut worst: Option<Error> = None;
    for server in target.servers.iter() {
        match connect_at(&target.at(server), target.timeout / parts, parts > 1).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                let is_worse = worst.as_ref().is_none_or(|known| weight(known) < weight(&error));
                worst = if is_worse { Some(error) } else { worst };
            }
        }
    }
    Err(worst.unwrap_or_else(|| Error::Unexpected { what: "no server".to_owned() }))
}

/// How much an error of one server says about why there is none.
fn weight(error: &Error) -> u8 {
    if matches!(error, Error::Standby { .. }) { 0 } else { 2 - u8::from(error.is_transient()) }
}

async fn connect_at(target: &Target, limit: Duration, has_others: bool) -> Result<Client, Error> {
    let connecting = async {
        let heard = Heard::new();
        let (client, connection) = log_in(target, &heard).await?;
        let (asked, watched) = (target.clone(), Arc::clone(&heard));
        // Errors of the connection reach whoever waits for an answer; it ends when the client is
        // dropped.
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "connection of the replication mode ended");
                },
                () = watched.until_lost(|pid| is_known(asked.clone(), pid)) => {
                    let server = asked.to_string();
                    tracing::warn!(server, "server does not answer, connection given up");
                }
            }
        });
        heard.know(pin_settings(&client).await?);
        if target.is_primary && has_others && is_standby(&client).await? {
            return Err(Error::Standby { server: target.to_string() });
        }
        Ok(client)
    };
    let timed_out = |_elapsed| Err(Error::TimedOut { server: target.to_string(), limit });
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(timed_out)
}

type Driver = Connection<Watched<Stream>, NoTlsStream>;

async fn log_in(target: &Target, heard: &Arc<Heard>) -> Result<(Client, Driver), Error> {
    let dialled = |source| Error::Dial { server: target.to_string(), source };
    let server = target.servers.first().ok_or_else(|| dialled(io::ErrorKind::NotFound.into()))?;
    let stream = dial(&server.host, server.port).await.map_err(dialled)?;
    keep_alive(&stream).map_err(dialled)?;
    let mut config = tokio_postgres::Config::new();
    config.dbname(&target.dbname).user(&target.user).application_name(FULL_NAME.as_str());
    if let Some(password) = &target.password {
        config.password(password.expose());
    }
    config
        .connect_raw(Watched::new(stream, Arc::clone(heard)), NoTls)
        .await
        .map_err(|source| Error::Login { server: target.to_string(), source })
}

async fn is_standby(client: &Client) -> Result<bool, Error> {
    let wrong = || Error::sql("ask whether it is a standby");
    let row = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
    row.map_err(wrong())?.try_get(0).map_err(wrong())
}

/// Has TCP find out that a path is gone, which a server that answers others says nothing about.
fn keep_alive(stream: &Stream) -> io::Result<()> {
    let Stream::Tcp(tcp) = stream else { return Ok(()) };
    let (idle, interval, unacknowledged) = KEEPALIVE;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval))?;
    socket.set_tcp_user_timeout(Some(unacknowledged))
}

/// Pins all settings; returns the server process at the other end.
async fn pin_settings(client: &Client) -> Result<i32, Error> {
    let wrong = || Error::sql("prepare the session");
    let answers = client.simple_query(&settings()).await.map_err(wrong())?;
    let last = answers.iter().rev().find_map(|answer| {
        let SimpleQueryMessage::Row(row) = answer else { return None };
        row.get(0)?.parse().ok()
    });
    last.ok_or_else(|| Error::Unexpected { what: "no process at the other end".to_owned() })
}

/// Asks a server, over a connection of its own, whether `pid` is one of its processes; false if it
/// does not answer. A server that refuses us, answers.
async fn is_known(target: Target, pid: i32) -> bool {
    let (client, connection) = match log_in(&target, &Heard::new()).await {
        Ok(connected) => connected,
        Err(error) => return error.server_said().is_some(),
    };
    let sql = "SELECT $1 = 0 OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = $1)";
    let asked = async {
        match client.query_typed(sql, &[(&pid, Type::INT4)]).await {
            Ok(rows) => rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(true),
            Err(error) => error.as_db_error().is_some(),
        }
    };
    tokio::select! {
        is_known = asked => is_known,
        _ = connection => false,
        () = tokio::time::sleep(ANSWER.min(target.timeout)) => false,
    }
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
         WHERE name IN ('transaction_timeout', 'idle_session_timeout'); \
         SELECT pg_catalog.pg_backend_pid()",
    );
    sql
}
