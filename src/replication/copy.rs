//! The initial copy, and that of single tables, while the primary is written to.
//!
//! All tables are read in one exported snapshot of the primary, by as many connections as allowed.
//! Each table is a transaction on the secondary, with a row in `pgtandem.copied` that says what it
//! has: what was done is not done again after a crash, and a table copied under an earlier snapshot
//! catches up by itself. Rows stream through; nothing here grows with them.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::apply::Treatment;
use super::catalog::{self, Kind, Table, TableName};
use super::connect::{Target, connect};
use super::error::Error;
use super::hook;
use super::literal::identifier;
use super::primary::make_durable;
use super::snapshot::Snapshot;

/// Bytes that are handed on at a time.
const CHUNK: usize = 128 << 10;

/// Time between two looks at who waits for what is being copied.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Types whose binary form is the same in PostgreSQL 13 to 18, by oid.
///
/// bool bytea char name int8 int2 int4 text oid json float4 float8 macaddr inet bpchar varchar date
/// time timestamp timestamptz interval timetz bit varbit numeric uuid jsonb
const BINARY: [u32; 27] = [
    16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 700, 701, 829, 869, 1042, 1043, 1082, 1083, 1114,
    1184, 1186, 1266, 1560, 1562, 1700, 2950, 3802,
];

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A table that should be empty has rows.
    #[error("{table} is not empty; RESYNC replaces what it has")]
    NotEmpty {
        /// The table.
        table: TableName,
    },
    /// The copy of a table failed.
    #[error("copy {table}: {source}")]
    Table {
        /// The table.
        table: TableName,
        /// What failed.
        source: Error,
    },
    /// A definition of a table came between, on either side.
    #[error("{table} has just been changed")]
    Changed {
        /// The table.
        table: TableName,
    },
    /// An application waits for a table that is being copied, and goes first.
    #[error("somebody waits for a table that is being copied")]
    InTheWay,
    /// Something failed that has nothing to do with a table.
    #[error(transparent)]
    Other(#[from] Error),
}

impl CopyError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotEmpty { .. } => false,
            Self::Changed { .. } | Self::InTheWay => true,
            Self::Table { source: error, .. } | Self::Other(error) => error.is_transient(),
        }
    }
}

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyProgress {
    /// Tables that are done.
    pub tables_done: usize,
    /// All tables of this copy.
    pub tables: usize,
    /// Rows that went through.
    pub rows: u64,
    /// Rows of all tables, as the primary guesses.
    pub rows_estimate: u64,
    /// Bytes that went through.
    pub bytes: u64,
    /// Bytes that all tables take on the primary, nearly what will go through.
    pub bytes_estimate: u64,
    /// When it began.
    pub began: Instant,
}

/// What a copy does with rows that the secondary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuses to begin.
    Refuse,
    /// Replaces them.
    Replace,
}

/// What to copy, and how.
#[derive(Debug)]
pub struct Plan {
    /// Where to read.
    pub primary: Target,
    /// Where to write.
    pub secondary: Target,
    /// What to copy.
    pub tables: Vec<Job>,
    /// How many tables at a time.
    pub workers: usize,
    /// Whether foreign keys are checked at the end of a transaction: then there is only one.
    pub treatment: Treatment,
}

/// A table to copy.
#[derive(Debug, Clone)]
pub struct Job {
    /// The table as the primary has it.
    pub table: Table,
    /// Its oid on the secondary.
    pub oid: u32,
    /// What to do with rows that are there.
    pub existing: Existing,
}

/// Copies tables, and says under which snapshot of the primary.
///
/// The tables must be under capture already. Cancel safe: yes; what was being copied is rolled back.
///
/// # Errors
/// [`CopyError`]. Tables that are done stay done.
pub async fn copy(
    plan: Plan,
    progress: &watch::Sender<Option<CopyProgress>>,
) -> Result<Snapshot, CopyError> {
    let holder = connect(&plan.primary).await?;
    let (name, snapshot, written) = export(&holder).await?;
    // Over another connection: this one's transaction must stay as it is.
    make_durable(&connect(&plan.primary).await?, &written, "").await?;
    let mut plan = plan;
    let mut tables = std::mem::take(&mut plan.tables);
    // The largest first, so that no worker is left alone with it at the end.
    tables.sort_by_key(|job| job.table.bytes);
    progress.send_replace(Some(CopyProgress {
        tables_done: 0,
        tables: tables.len(),
        rows: 0,
        rows_estimate: tables.iter().map(|job| job.table.rows_estimate).sum(),
        bytes: 0,
        bytes_estimate: tables.iter().map(|job| job.table.bytes).sum(),
        began: Instant::now(),
    }));
    let is_one = plan.treatment == Treatment::Deferred;
    let count = if is_one { 1 } else { plan.workers.clamp(1, tables.len().max(1)) };
    let queue = Mutex::new(tables);
    let pids = Mutex::new(Vec::new());
    let workers = (0..count).map(|_| async {
        let worker = Worker::start(&plan, &name).await?;
        pids.lock().unwrap_or_else(PoisonError::into_inner).push(worker.pid);
        if is_one {
            worker.begin().await?;
        }
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(job) = next else { break };
            let done = worker.copy(&job, &snapshot, progress).await;
            done.map_err(|error| match error {
                CopyError::Other(source) => CopyError::Table { table: job.table.name, source },
                error @ (CopyError::NotEmpty { .. }
                | CopyError::Changed { .. }
                | CopyError::InTheWay
                | CopyError::Table { .. }) => error,
            })?;
        }
        if is_one {
            worker.commit().await?;
        }
        Ok::<(), CopyError>(())
    });
    let watcher = connect(&plan.primary).await?;
    tokio::select! {
        biased;
        copied = try_join_all(workers) => copied.map(drop)?,
        stopped = watch_for_waiters(&watcher, &pids) => return Err(stopped),
    }
    drop(holder);
    Ok(snapshot)
}

/// Looks whether somebody waits for a table that is being read: an application that changes one
/// never waits for a copy to end, which may take hours. What is copied by then stays copied.
async fn watch_for_waiters(client: &Client, pids: &Mutex<Vec<i32>>) -> CopyError {
    let sql = "SELECT EXISTS (SELECT FROM pg_locks w WHERE NOT w.granted \
               AND pg_blocking_pids(w.pid) && $1)";
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let ours = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let row = client.query_one(sql, &[&ours]).await.and_then(|row| row.try_get(0));
        match row.map_err(Error::sql("look who waits")) {
            Ok(false) => {}
            Ok(true) => return CopyError::InTheWay,
            Err(error) => return error.into(),
        }
    }
}

/// Begins a transaction whose snapshot others can use, and says what it sees, and before which place
/// of the log that was written.
async fn export(holder: &Client) -> Result<(String, Snapshot, String), Error> {
    let wrong = || Error::sql("export a snapshot");
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    holder.batch_execute(begin).await.map_err(wrong())?;
    let sql = "SELECT pg_export_snapshot(), pg_current_snapshot()::text, \
               pg_current_wal_insert_lsn()::text";
    let row = holder.query_one(sql, &[]).await.map_err(wrong())?;
    let snapshot: String = row.try_get(1).map_err(wrong())?;
    let snapshot =
        snapshot.parse().map_err(|error| Error::Unexpected { what: format!("{error}") })?;
    Ok((row.try_get(0).map_err(wrong())?, snapshot, row.try_get(2).map_err(wrong())?))
}

/// A pair of connections, and one that sees what the first does not see in its snapshot.
struct Worker {
    primary: Client,
    /// Its process.
    pid: i32,
    fresh: Client,
    secondary: Client,
    treatment: Treatment,
}

impl Worker {
    async fn start(plan: &Plan, name: &str) -> Result<Self, Error> {
        let (primary, secondary) = (connect(&plan.primary).await?, connect(&plan.secondary).await?);
        let fresh = connect(&plan.primary).await?;
        let row = primary.query_one("SELECT pg_backend_pid()", &[]).await;
        let pid = row.and_then(|row| row.try_get(0)).map_err(Error::sql("begin to copy"))?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            super::literal::text(name)
        );
        primary.batch_execute(&begin).await.map_err(Error::sql("use the exported snapshot"))?;
        if plan.treatment == Treatment::Off {
            // Refused where there are no foreign keys either.
            let _ = secondary.batch_execute("SET session_replication_role = replica").await;
        }
        Ok(Self { primary, pid, fresh, secondary, treatment: plan.treatment })
    }

    async fn begin(&self) -> Result<(), Error> {
        let begin = match self.treatment {
            Treatment::Off => "BEGIN",
            Treatment::Deferred => "BEGIN; SET CONSTRAINTS ALL DEFERRED",
        };
        self.secondary.batch_execute(begin).await.map_err(Error::sql("begin to copy"))
    }

    async fn commit(&self) -> Result<(), Error> {
        self.secondary.batch_execute("COMMIT").await.map_err(Error::sql("commit copied tables"))
    }

    async fn copy(
        &self,
        job: &Job,
        snapshot: &Snapshot,
        progress: &watch::Sender<Option<CopyProgress>>,
    ) -> Result<(), CopyError> {
        let Job { table, oid, existing } = job;
        let there = Table { oid: *oid, ..table.clone() };
        if self.treatment == Treatment::Off {
            self.begin().await?;
        }
        self.lock(table, snapshot).await?;
        self.make_room(&there, *existing).await?;
        self.expect_alike(&there).await?;
        let (rows, bytes) = self.stream(table, progress).await?;
        let done = "INSERT INTO pgtandem.copied AS c \
                    (schema, name, snapshot, rows, bytes, copied_at) \
                    VALUES ($1, $2, $3::text::pg_snapshot, $4, $5, clock_timestamp()) \
                    ON CONFLICT (schema, name) DO UPDATE SET snapshot = excluded.snapshot, \
                    rows = excluded.rows, bytes = excluded.bytes, copied_at = excluded.copied_at";
        let TableName { schema, name } = &table.name;
        let (rows_done, bytes_done) = (rows.cast_signed(), bytes.cast_signed());
        self.secondary
            .execute(done, &[schema, name, &snapshot.to_string(), &rows_done, &bytes_done])
            .await
            .map_err(Error::sql("note that a table is copied"))?;
        let forget = "DELETE FROM pgtandem.dead_letters WHERE schema = $1 AND name = $2";
        let forgotten = self.secondary.execute(forget, &[schema, name]).await;
        forgotten.map_err(Error::sql("forget skipped changes"))?;
        hook::reached("copy_table");
        if self.treatment == Treatment::Off {
            self.commit().await?;
        }
        let analyze = format!("ANALYZE {}", table.name.quoted());
        self.secondary
            .batch_execute(&analyze)
            .await
            .map_err(Error::sql("analyze a copied table"))?;
        hook::reached("copy_table_committed");
        progress.send_modify(|progress| {
            if let Some(progress) = progress {
                progress.tables_done += 1;
            }
        });
        Ok(())
    }

    /// Locks the table on the primary, and makes sure that no definition of it came since the snapshot
    /// was taken.
    ///
    /// An ALTER TABLE that rewrites is not bound to snapshots: an older one sees an empty table.
    async fn lock(&self, table: &Table, snapshot: &Snapshot) -> Result<(), CopyError> {
        let changed = || CopyError::Changed { table: table.name.clone() };
        let wrong = || Error::sql("lock the table that is copied");
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", table.name.quoted());
        match self.primary.batch_execute(&lock).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Err(changed()),
            locked => locked.map_err(wrong())?,
        }
        // Whatever is noted now holds until we let go.
        let sql = "SELECT EXISTS (SELECT FROM pgtandem.tables WHERE relid = $1 AND fingerprint = $2 \
                   AND (shaped IS NULL OR pg_visible_in_snapshot(shaped, $3::text::pg_snapshot)))";
        let fingerprint = table.fingerprint();
        let row =
            self.fresh.query_one(sql, &[&table.oid, &fingerprint, &snapshot.to_string()]).await;
        let is_same: bool = row.and_then(|row| row.try_get(0)).map_err(wrong())?;
        if is_same { Ok(()) } else { Err(changed()) }
    }

    /// Makes sure that the secondary has made the same definitions of the table.
    async fn expect_alike(&self, table: &Table) -> Result<(), CopyError> {
        let there = catalog::table_of(&self.secondary, table.oid).await?;
        let is_alike = there.is_some_and(|there| {
            there.name == table.name && there.fingerprint() == table.fingerprint()
        });
        if is_alike { Ok(()) } else { Err(CopyError::Changed { table: table.name.clone() }) }
    }

    /// Empties the table, or makes sure that it is empty.
    async fn make_room(&self, table: &Table, existing: Existing) -> Result<(), CopyError> {
        let wrong = || Error::sql("make room for the copy");
        if existing == Existing::Refuse {
            return expect_empty(&self.secondary, table).await;
        }
        // TRUNCATE refuses a table that another one refers to, even one that is empty.
        let sql = "SELECT EXISTS (SELECT FROM pg_constraint \
                   WHERE confrelid = $1 AND conrelid <> $1 AND contype = 'f')";
        let row = self.secondary.query_one(sql, &[&table.oid]).await.map_err(wrong())?;
        let is_referred_to: bool = row.try_get(0).map_err(wrong())?;
        let verb = if is_referred_to { "DELETE FROM" } else { "TRUNCATE" };
        let clear = self.secondary.batch_execute(&format!("{verb} {}", table.only())).await;
        Ok(clear.map_err(wrong())?)
    }

    /// Streams the rows; returns how many they were, and their bytes.
    async fn stream(
        &self,
        table: &Table,
        progress: &watch::Sender<Option<CopyProgress>>,
    ) -> Result<(u64, u64), Error> {
        let columns: Vec<_> = table.stored().map(|c| identifier(&c.name)).collect();
        let (name, columns) = (table.name.quoted(), columns.join(", "));
        let is_binary = table.stored().all(|column| BINARY.contains(&column.type_oid));
        let format = if is_binary { "WITH (FORMAT binary)" } else { "" };
        let out = match table.kind {
            Kind::Ordinary => format!("COPY {name} ({columns}) TO STDOUT {format}"),
            Kind::Partitioned => format!("COPY (SELECT {columns} FROM {name}) TO STDOUT {format}"),
        };
        let into = format!("COPY {name} ({columns}) FROM STDIN {format}");
        let reading = || Error::sql("read the copy");
        let writing = || Error::sql("write the copy");
        let mut rows = pin!(self.primary.copy_out(&out).await.map_err(reading())?);
        let mut sink = pin!(self.secondary.copy_in::<_, Bytes>(&into).await.map_err(writing())?);
        let mut chunk = BytesMut::with_capacity(CHUNK);
        // The server sends each row as a message of its own, and the end of the binary format too: a
        // message is counted when another one comes.
        let (mut bytes, mut held, mut last) = (0, 0, 0);
        while let Some(row) = rows.next().await {
            chunk.extend_from_slice(&row.map_err(reading())?);
            held += std::mem::replace(&mut last, 1);
            if chunk.len() >= CHUNK {
                bytes += hand_on(&chunk, std::mem::take(&mut held), progress);
                sink.as_mut().send(chunk.split().freeze()).await.map_err(writing())?;
            }
        }
        held += if is_binary { 0 } else { last };
        bytes += hand_on(&chunk, held, progress);
        sink.as_mut().send(chunk.freeze()).await.map_err(writing())?;
        let rows = sink.as_mut().finish().await.map_err(writing())?;
        Ok((rows, bytes))
    }
}

/// Makes sure that a table of the secondary is empty.
///
/// # Errors
/// [`CopyError::NotEmpty`], [`Error::Sql`].
pub async fn expect_empty(client: &Client, table: &Table) -> Result<(), CopyError> {
    let wrong = || Error::sql("look whether a table is empty");
    let sql = format!("SELECT EXISTS (SELECT FROM {})", table.only());
    let row = client.query_one(&sql, &[]).await.map_err(wrong())?;
    if row.try_get(0).map_err(wrong())? {
        return Err(CopyError::NotEmpty { table: table.name.clone() });
    }
    Ok(())
}

/// Counts what is handed on.
fn hand_on(chunk: &BytesMut, rows: u64, progress: &watch::Sender<Option<CopyProgress>>) -> u64 {
    let bytes = u64::try_from(chunk.len()).unwrap_or_default();
    progress.send_modify(|progress| {
        if let Some(progress) = progress {
            progress.bytes += bytes;
            progress.rows += rows;
        }
    });
    bytes
}
