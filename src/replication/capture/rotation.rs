//! Keeps the change log small: rotates it over three tables, truncates what everybody has read, and
//! detaches secondaries that hold more than the primary can spare.
//!
//! Writers append to the active table. Another becomes active by replacing the trigger functions,
//! which locks no table. A retired table is truncated under a lock that is taken only if nobody is in
//! the way, and after looking, under that lock, that no row in it is missing on any attached
//! secondary. Whoever still writes to a retired table (a transaction that had read the old function)
//! holds a lock on it; if it comes later, its rows stay there for readers, who read all three.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::error::CaptureError;
use super::schema;
use crate::config::Replication;
use crate::replication::error::Error;

const RETARGET: &str = include_str!("sql/retarget.sql");
const SILENCE: &str = include_str!("sql/silence.sql");

/// Bytes of a log table at which another is written to, unless the limit asks for less.
const ROTATE_BYTES: u64 = 64 << 20;

/// Number of log tables.
const LOGS: i32 = 3;

/// How long a change of the schema waits for other proxies.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the change log may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the active table at which another becomes active.
    pub rotate_bytes: u64,
    /// Bytes of all three at which secondaries are detached; 0 means no limit.
    pub bytes: u64,
    /// Age of a secondary's progress at which it is detached while there is something to apply; zero
    /// means no limit.
    pub age: Duration,
}

impl Limits {
    /// The limits that the configuration sets.
    ///
    /// Another table becomes active early enough for what everybody has read to go well before them.
    pub fn of(settings: &Replication) -> Self {
        let bytes = settings.log_limit_bytes;
        let rotate_bytes =
            if bytes == 0 { ROTATE_BYTES } else { (bytes / 8).clamp(1 << 20, ROTATE_BYTES) };
        Self { rotate_bytes, bytes, age: settings.log_limit_age }
    }
}

/// Why a secondary was detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// The change log has grown too large.
    #[error("the change log has {bytes} bytes, more than log_limit_bytes = {limit}")]
    Bytes {
        /// Its size.
        bytes: u64,
        /// `log_limit_bytes`.
        limit: u64,
    },
    /// Its progress has stood still for too long.
    #[error("it has applied nothing for longer than log_limit_age = {limit:?}")]
    Age {
        /// `log_limit_age`.
        limit: Duration,
    },
}

/// What [`tend`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tended {
    /// Bytes of the log afterwards, with indexes and TOAST.
    pub bytes: u64,
    /// The log that became active, if one did.
    pub rotated_to: Option<i32>,
    /// Logs that were truncated.
    pub truncated: Vec<i32>,
    /// Secondaries that were detached, and why.
    pub detached: Vec<(String, Excess)>,
    /// Whether nothing is captured any more, since no secondary is left.
    pub has_stopped: bool,
}

/// Truncates, rotates and enforces the limits, in this order. Meant to be called every few seconds.
///
/// `watched` is for how long secondaries have had the chance to apply: a progress that is old because
/// no proxy was running is no reason to detach. Nothing waits for a lock that users hold. Cancel
/// safe: yes, what has been done stays done.
///
/// # Errors
/// [`CaptureError::NotInstalled`], [`CaptureError::Sql`].
pub async fn tend(
    client: &mut Client,
    limits: Limits,
    watched: Duration,
) -> Result<Tended, CaptureError> {
    let mut tended = Tended::default();
    let logs = logs(client).await?;
    for log in logs.iter().filter(|log| !log.is_empty() && (!log.is_active || log.is_stopped)) {
        if truncate(client, log.number).await? {
            tended.truncated.push(log.number);
        }
    }
    if logs.iter().any(|log| log.is_active && !log.is_stopped && log.bytes >= limits.rotate_bytes) {
        tended.rotated_to = rotate(client).await?;
    }
    // A proof is good for a day; see `pgtandem.define`.
    let old = "DELETE FROM pgtandem.proofs WHERE used_at < clock_timestamp() - interval '2 days'";
    client.execute(old, &[]).await.map_err(Error::sql("forget old proofs"))?;
    let bytes = self::logs(client).await?.iter().map(|log| log.bytes_total).sum();
    tended.detached = excess(client, limits, bytes, watched).await?;
    if !tended.detached.is_empty() {
        tended.has_stopped = detach(client, &tended.detached).await?;
    }
    tended.bytes = bytes;
    Ok(tended)
}

/// One of the three tables.
struct Log {
    number: i32,
    is_active: bool,
    is_stopped: bool,
    bytes: u64,
    bytes_total: u64,
}

impl Log {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

async fn logs(client: &Client) -> Result<Vec<Log>, CaptureError> {
    let meta = schema::read(client).await?;
    let sql = "SELECT n, pg_relation_size(c), pg_total_relation_size(c)
               FROM generate_series(0, 2) AS n
               CROSS JOIN LATERAL (SELECT to_regclass('pgtandem.log_' || n) AS c) t ORDER BY n";
    let rows = client.query(sql, &[]).await.map_err(Error::sql("measure the change log"))?;
    let read = |row: &tokio_postgres::Row| {
        let number = row.try_get(0)?;
        let bytes = |index| row.try_get::<_, i64>(index).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Log {
            number,
            is_active: number == meta.active,
            is_stopped: meta.stopped.is_some(),
            bytes: bytes(1)?,
            bytes_total: bytes(2)?,
        })
    };
    let logs: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
    Ok(logs.map_err(Error::sql("measure the change log"))?)
}

/// The attached secondaries that miss a row of log `n`. The index on `xid` leads to it.
fn holders(n: i32) -> String {
    format!(
        "SELECT s.name FROM pgtandem.secondaries s WHERE s.state <> 'detached' AND (
             s.progress IS NULL OR EXISTS (
                 SELECT FROM pgtandem.log_{n} l
                 WHERE l.xid >= pg_snapshot_xmin(s.progress)
                   AND NOT pg_visible_in_snapshot(l.xid, s.progress)))"
    )
}

/// Truncates a log if nobody uses it and everybody has read it.
///
/// The lock excludes everybody who has written to the table in a transaction that has not ended,
/// prepared ones too; so what it holds now is all that can be in it, and can be looked at.
async fn truncate(client: &mut Client, log: i32) -> Result<bool, CaptureError> {
    let wrong = || Error::sql("truncate a change log");
    let transaction = client.transaction().await.map_err(wrong())?;
    let hold = format!("EXISTS ({})", holders(log));
    let local = "SET LOCAL enable_seqscan = off";
    transaction.batch_execute(local).await.map_err(wrong())?;
    let is_held = format!("SELECT {hold}");
    // Without the lock first: as a rule somebody does miss a row, and then there is no need for it.
    if is_true(&transaction, &is_held).await? {
        return Ok(false);
    }
    let lock = format!("LOCK TABLE pgtandem.log_{log} IN ACCESS EXCLUSIVE MODE NOWAIT");
    if let Err(error) = transaction.batch_execute(&lock).await {
        let is_busy = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
        return if is_busy { Ok(false) } else { Err(wrong()(error).into()) };
    }
    // Whoever begins to copy registers first, and takes the snapshot of the copy afterwards: either
    // its row is seen here, or its snapshot sees all that is truncated.
    if is_true(&transaction, &is_held).await? {
        return Ok(false);
    }
    let truncate = format!("TRUNCATE pgtandem.log_{log}");
    transaction.batch_execute(&truncate).await.map_err(wrong())?;
    transaction.commit().await.map_err(wrong())?;
    Ok(true)
}

async fn is_true(transaction: &Transaction<'_>, sql: &str) -> Result<bool, CaptureError> {
    let answer = transaction.query_one(sql, &[]).await.and_then(|row| row.try_get(0));
    Ok(answer.map_err(Error::sql("look what secondaries still need"))?)
}

/// Makes the next empty log the active one; none if both others still hold rows.
async fn rotate(client: &mut Client) -> Result<Option<i32>, CaptureError> {
    let wrong = || Error::sql("rotate the change log");
    let transaction = schema::begin(client, PATIENCE).await?;
    let active = schema::read(&transaction).await?.active;
    let mut next = None;
    for candidate in [(active + 1) % LOGS, (active + 2) % LOGS] {
        let is_empty = format!("SELECT pg_relation_size('pgtandem.log_{candidate}') = 0");
        if next.is_none() && is_true(&transaction, &is_empty).await? {
            next = Some(candidate);
        }
    }
    let Some(next) = next else { return Ok(None) };
    let retarget = RETARGET.replace("$from", &active.to_string()).replace("$to", &next.to_string());
    transaction.batch_execute(&retarget).await.map_err(wrong())?;
    let stamp = "UPDATE pgtandem.meta SET active = $1, rotated_at = clock_timestamp()";
    transaction.execute(stamp, &[&next]).await.map_err(wrong())?;
    transaction.commit().await.map_err(wrong())?;
    Ok(Some(next))
}

/// Who must go, so that the limits hold.
async fn excess(
    client: &mut Client,
    limits: Limits,
    bytes: u64,
    watched: Duration,
) -> Result<Vec<(String, Excess)>, CaptureError> {
    let wrong = || Error::sql("look for secondaries that hold too much");
    let is_old = !limits.age.is_zero() && watched >= limits.age;
    let is_large = limits.bytes > 0 && bytes > limits.bytes;
    if !is_old && !is_large {
        return Ok(Vec::new());
    }
    let transaction = client.transaction().await.map_err(wrong())?;
    transaction.batch_execute("SET LOCAL enable_seqscan = off").await.map_err(wrong())?;
    let mut excess: Vec<(String, Excess)> = Vec::new();
    if is_old {
        let any: Vec<_> = (0..LOGS).map(holders).collect();
        let old = format!(
            "SELECT name FROM pgtandem.secondaries WHERE name IN ({}) \
             AND COALESCE(applied_at, registered_at) < clock_timestamp() - $1::float8 * interval '1 s'",
            any.join(" UNION ")
        );
        let rows = transaction.query(&old, &[&limits.age.as_secs_f64()]).await.map_err(wrong())?;
        for row in rows {
            excess.push((row.try_get(0).map_err(wrong())?, Excess::Age { limit: limits.age }));
        }
    }
    if is_large && excess.is_empty() {
        let reason = Excess::Bytes { bytes, limit: limits.bytes };
        let names = largest_holders(&transaction).await?;
        excess.extend(names.into_iter().map(|name| (name, reason)));
    }
    Ok(excess)
}

/// The secondaries that miss rows of a retired log; if none does, those that miss rows of the active
/// one; if none does, all: then a transaction that has not ended is too large for the limit.
async fn largest_holders(transaction: &Transaction<'_>) -> Result<Vec<String>, CaptureError> {
    let wrong = || Error::sql("look for secondaries that hold too much");
    let active = schema::read(transaction).await?.active;
    let retired = [(active + 1) % LOGS, (active + 2) % LOGS].map(holders).join(" UNION ");
    let all = "SELECT name FROM pgtandem.secondaries WHERE state <> 'detached'".to_owned();
    for sql in [retired, holders(active), all] {
        let rows = transaction.query(&sql, &[]).await.map_err(wrong())?;
        if !rows.is_empty() {
            let names: Result<_, _> = rows.iter().map(|row| row.try_get(0)).collect();
            return Ok(names.map_err(wrong())?);
        }
    }
    Ok(Vec::new())
}

/// Writes that these secondaries are detached; stops capture if no other is left, and says whether.
async fn detach(client: &mut Client, excess: &[(String, Excess)]) -> Result<bool, CaptureError> {
    let wrong = || Error::sql("detach a secondary");
    let transaction = schema::begin(client, PATIENCE).await?;
    for (name, why) in excess {
        let sql = "UPDATE pgtandem.secondaries SET state = 'detached', last_error = $2
                   WHERE name = $1";
        transaction.execute(sql, &[name, &why.to_string()]).await.map_err(wrong())?;
    }
    let rest = "SELECT EXISTS (SELECT FROM pgtandem.secondaries WHERE state <> 'detached')";
    let has_stopped = !is_true(&transaction, rest).await?;
    if has_stopped {
        let why = excess.first().map(|(_, why)| why.to_string()).unwrap_or_default();
        silence(&transaction, &why).await?;
    }
    transaction.commit().await.map_err(wrong())?;
    for (secondary, why) in excess {
        tracing::error!(secondary, %why, has_stopped, "secondary detached, it needs a new copy");
    }
    Ok(has_stopped)
}

async fn silence(transaction: &Transaction<'_>, why: &str) -> Result<(), CaptureError> {
    let wrong = || Error::sql("stop capture");
    transaction.batch_execute(SILENCE).await.map_err(wrong())?;
    let stamp = "UPDATE pgtandem.meta SET stopped_at = clock_timestamp(), stopped_why = $1";
    transaction.execute(stamp, &[&why]).await.map_err(wrong())?;
    Ok(())
}

/// Stops capture: the trigger functions do nothing any more, and every secondary is detached.
///
/// [`tend`] truncates the log then. Cancel safe: yes.
///
/// # Errors
/// [`CaptureError::NotInstalled`], [`CaptureError::Sql`].
pub async fn stop(client: &mut Client, why: &str) -> Result<(), CaptureError> {
    let transaction = schema::begin(client, PATIENCE).await?;
    schema::read(&transaction).await?;
    silence(&transaction, why).await?;
    let all = "UPDATE pgtandem.secondaries SET state = 'detached', last_error = $1
               WHERE state <> 'detached'";
    transaction.execute(all, &[&why]).await.map_err(Error::sql("detach all secondaries"))?;
    transaction.commit().await.map_err(Error::sql("stop capture"))?;
    Ok(())
}

/// Forgets that capture was stopped. Each table must be put under capture again by
/// [`super::table::capture`], which finds that capture begins anew, and be copied.
///
/// # Errors
/// [`CaptureError::Sql`].
pub async fn restart(client: &mut Client) -> Result<(), CaptureError> {
    let transaction = schema::begin(client, PATIENCE).await?;
    let clear = "UPDATE pgtandem.meta SET stopped_at = NULL, stopped_why = NULL";
    transaction.execute(clear, &[]).await.map_err(Error::sql("restart capture"))?;
    transaction.commit().await.map_err(Error::sql("restart capture"))?;
    Ok(())
}
