//! The initial copy, and that of single tables, while the primary is written to.
//!
//! All tables are read in one exported snapshot of the primary, by as many connections as allowed.
//! Each table is a transaction on the secondary, with a row in `pgtandem.copied` that says what it
//! has: what was done is not done again after a crash, and a table copied under an earlier snapshot
//! catches up by itself. Rows stream through; nothing here grows with them.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::apply::Treatment;
use super::catalog::{Kind, Table, TableName};
use super::checks;
use super::connect::{Target, connect};
use super::error::Error;
use super::literal::identifier;
use super::snapshot::Snapshot;

/// Bytes that are handed on at a time.
const CHUNK: usize = 128 << 10;

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
    /// Something failed that has nothing to do with a table.
    #[error(transparent)]
    Other(#[from] Error),
}

impl CopyError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotEmpty { .. } => false,
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
    /// Rows of tables that are done.
    pub rows: u64,
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
pub struct Plan<'a> {
    /// Where to read.
    pub primary: &'a Target,
    /// Where to write.
    pub secondary: &'a Target,
    /// Tables as the primary has them, with their oids on the secondary.
    pub tables: Vec<(Table, u32)>,
    /// How many tables at a time.
    pub workers: usize,
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
    plan: Plan<'_>,
    progress: &watch::Sender<Option<CopyProgress>>,
) -> Result<Snapshot, CopyError> {
    let holder = connect(plan.primary).await?;
    let (name, snapshot) = export(&holder).await?;
    let mut tables = plan.tables;
    // The largest first, so that no worker is left alone with it at the end.
    tables.sort_by_key(|(table, _)| table.bytes);
    progress.send_replace(Some(CopyProgress {
        tables_done: 0,
        tables: tables.len(),
        rows: 0,
        bytes: 0,
        bytes_estimate: tables.iter().map(|(table, _)| table.bytes).sum(),
        began: Instant::now(),
    }));
    let count = plan.workers.clamp(1, tables.len().max(1));
    let queue = Mutex::new(tables);
    let workers = (0..count).map(|_| async {
        let mut worker = None;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((table, oid)) = next else { return Ok::<(), CopyError>(()) };
            let worker = match &mut worker {
                Some(worker) => worker,
                None => worker.insert(Worker::start(plan.primary, plan.secondary, &name).await?),
            };
            let done = worker.copy(&table, oid, plan.existing, &snapshot, progress).await;
            done.map_err(|error| match error {
                CopyError::Other(source) => CopyError::Table { table: table.name, source },
                error => error,
            })?;
        }
    });
    try_join_all(workers).await.map(drop)?;
    drop(holder);
    Ok(snapshot)
}

/// Begins a transaction whose snapshot others can use, and says what it sees.
async fn export(holder: &Client) -> Result<(String, Snapshot), Error> {
    let wrong = || Error::sql("export a snapshot");
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    holder.batch_execute(begin).await.map_err(wrong())?;
    let sql = "SELECT pg_export_snapshot(), pg_current_snapshot()::text";
    let row = holder.query_one(sql, &[]).await.map_err(wrong())?;
    let snapshot: String = row.try_get(1).map_err(wrong())?;
    let snapshot =
        snapshot.parse().map_err(|error| Error::Unexpected { what: format!("{error}") })?;
    Ok((row.try_get(0).map_err(wrong())?, snapshot))
}

/// A pair of connections.
struct Worker {
    primary: Client,
    secondary: Client,
}

impl Worker {
    async fn start(primary: &Target, secondary: &Target, name: &str) -> Result<Self, Error> {
        let (primary, secondary) = (connect(primary).await?, connect(secondary).await?);
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            super::literal::text(name)
        );
        primary.batch_execute(&begin).await.map_err(Error::sql("use the exported snapshot"))?;
        Ok(Self { primary, secondary })
    }

    async fn copy(
        &self,
        table: &Table,
        oid: u32,
        existing: Existing,
        snapshot: &Snapshot,
        progress: &watch::Sender<Option<CopyProgress>>,
    ) -> Result<(), CopyError> {
        let there = Table { oid, ..table.clone() };
        let (treatment, _) = checks::treatment(&self.secondary, &[&there]).await?;
        let begin = match treatment {
            Treatment::Off => "BEGIN",
            Treatment::Deferred => "BEGIN; SET CONSTRAINTS ALL DEFERRED",
        };
        self.secondary.batch_execute(begin).await.map_err(Error::sql("begin to copy"))?;
        self.make_room(&there, existing).await?;
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
        let commit = format!("COMMIT; ANALYZE {}", table.name.quoted());
        self.secondary.batch_execute(&commit).await.map_err(Error::sql("commit a copied table"))?;
        progress.send_modify(|progress| {
            if let Some(progress) = progress {
                progress.tables_done += 1;
                progress.rows += rows;
            }
        });
        Ok(())
    }

    /// Empties the table, or makes sure that it is empty.
    async fn make_room(&self, table: &Table, existing: Existing) -> Result<(), CopyError> {
        let wrong = || Error::sql("make room for the copy");
        let only = table.only();
        if existing == Existing::Refuse {
            let sql = format!("SELECT EXISTS (SELECT FROM {only})");
            let row = self.secondary.query_one(&sql, &[]).await.map_err(wrong())?;
            if row.try_get(0).map_err(wrong())? {
                return Err(CopyError::NotEmpty { table: table.name.clone() });
            }
            return Ok(());
        }
        // TRUNCATE refuses a table that another one refers to, even one that is empty.
        let sql = "SELECT EXISTS (SELECT FROM pg_constraint \
                   WHERE confrelid = $1 AND conrelid <> $1 AND contype = 'f')";
        let row = self.secondary.query_one(sql, &[&table.oid]).await.map_err(wrong())?;
        let is_referred_to: bool = row.try_get(0).map_err(wrong())?;
        let verb = if is_referred_to { "DELETE FROM" } else { "TRUNCATE" };
        let clear = self.secondary.batch_execute(&format!("{verb} {only}")).await;
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
        let mut bytes = 0;
        while let Some(row) = rows.next().await {
            chunk.extend_from_slice(&row.map_err(reading())?);
            if chunk.len() >= CHUNK {
                bytes += hand_on(&mut chunk, progress);
                sink.as_mut().send(chunk.split().freeze()).await.map_err(writing())?;
            }
        }
        bytes += hand_on(&mut chunk, progress);
        sink.as_mut().send(chunk.freeze()).await.map_err(writing())?;
        let rows = sink.as_mut().finish().await.map_err(writing())?;
        Ok((rows, bytes))
    }
}

/// Counts what is handed on.
fn hand_on(chunk: &mut BytesMut, progress: &watch::Sender<Option<CopyProgress>>) -> u64 {
    let bytes = u64::try_from(chunk.len()).unwrap_or_default();
    progress.send_modify(|progress| {
        if let Some(progress) = progress {
            progress.bytes += bytes;
        }
    });
    bytes
}
