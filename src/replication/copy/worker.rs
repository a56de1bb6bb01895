//! One of the workers of a copy: reads a table or a part of one from the primary, and writes it to the
//! secondary.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::parts::Part;
use super::{CopyError, CopyProgress, Job, Plan, make_room};
use crate::replication::apply::Treatment;
use crate::replication::catalog::{self, Kind, Table, TableName};
use crate::replication::connect::connect;
use crate::replication::error::Error;
use crate::replication::hook;
use crate::replication::literal::{identifier, text};
use crate::replication::snapshot::Snapshot;

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

type Progress = watch::Sender<Option<CopyProgress>>;

/// A pair of connections, and one that sees what the first does not see in its snapshot.
pub(super) struct Worker {
    primary: Client,
    /// Its process.
    pub(super) pid: i32,
    fresh: Client,
    secondary: Client,
    treatment: Treatment,
}

impl Worker {
    pub(super) async fn start(plan: &Plan, name: &str) -> Result<Self, Error> {
        let (primary, secondary) = (connect(&plan.primary).await?, connect(&plan.secondary).await?);
        let fresh = connect(&plan.primary).await?;
        let row = primary.query_one("SELECT pg_backend_pid()", &[]).await;
        let pid = row.and_then(|row| row.try_get(0)).map_err(Error::sql("begin to copy"))?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            text(name)
        );
        primary.batch_execute(&begin).await.map_err(Error::sql("use the exported snapshot"))?;
        if plan.treatment == Treatment::Off {
            // Refused where there are no foreign keys either.
            let _ = secondary.batch_execute("SET session_replication_role = replica").await;
        }
        Ok(Self { primary, pid, fresh, secondary, treatment: plan.treatment })
    }

    pub(super) async fn begin(&self) -> Result<(), Error> {
        let begin = match self.treatment {
            Treatment::Off => "BEGIN",
            Treatment::Deferred => "BEGIN; SET CONSTRAINTS ALL DEFERRED",
        };
        self.secondary.batch_execute(begin).await.map_err(Error::sql("begin to copy"))
    }

    pub(super) async fn commit(&self) -> Result<(), Error> {
        self.secondary.batch_execute("COMMIT").await.map_err(Error::sql("commit copied tables"))
    }

    /// Copies a table, in one transaction.
    pub(super) async fn copy(
        &self,
        job: &Job,
        snapshot: &Snapshot,
        progress: &Progress,
    ) -> Result<(), CopyError> {
        let Job { table, oid, existing } = job;
        let there = Table { oid: *oid, ..table.clone() };
        if self.treatment == Treatment::Off {
            self.begin().await?;
        }
        self.lock(table, snapshot).await?;
        make_room(&self.secondary, &there, *existing).await?;
        self.expect_alike(&there).await?;
        let copied = self.stream(table, None, progress).await?;
        self.note(&table.name, snapshot, copied).await?;
        hook::reached("copy_table");
        if self.treatment == Treatment::Off {
            self.commit().await?;
        }
        self.finish(&table.name, progress).await
    }

    /// Copies a part of a table; with the last one the table is there.
    pub(super) async fn copy_part(
        &self,
        part: &Part,
        snapshot: &Snapshot,
        progress: &Progress,
    ) -> Result<(), CopyError> {
        let table = &part.whole.table;
        self.lock(table, snapshot).await?;
        self.begin().await?;
        part.whole.hold(&self.secondary).await?;
        let (rows, bytes) = self.stream(table, Some(part), progress).await?;
        hook::reached("copy_part");
        self.commit().await?;
        let Some(copied) = part.done(rows, bytes) else { return Ok(()) };
        self.begin().await?;
        part.whole.hold(&self.secondary).await?;
        self.note(&table.name, snapshot, copied).await?;
        hook::reached("copy_table");
        self.commit().await?;
        self.finish(&table.name, progress).await
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
            // Keys may come after the rows.
            there.name == table.name && there.has_columns_of(table)
        });
        if is_alike { Ok(()) } else { Err(CopyError::Changed { table: table.name.clone() }) }
    }

    /// Notes that a table is there as of `snapshot`, with so many rows and bytes.
    async fn note(
        &self,
        table: &TableName,
        snapshot: &Snapshot,
        (rows, bytes): (u64, u64),
    ) -> Result<(), Error> {
        let done = "INSERT INTO pgtandem.copied AS c \
                    (schema, name, snapshot, rows, bytes, copied_at) \
                    VALUES ($1, $2, $3::text::pg_snapshot, $4, $5, clock_timestamp()) \
                    ON CONFLICT (schema, name) DO UPDATE SET snapshot = excluded.snapshot, \
                    rows = excluded.rows, bytes = excluded.bytes, copied_at = excluded.copied_at";
        let TableName { schema, name } = table;
        let (rows, bytes, snapshot) =
            (rows.cast_signed(), bytes.cast_signed(), snapshot.to_string());
        let noted = self.secondary.execute(done, &[schema, name, &snapshot, &rows, &bytes]).await;
        noted.map_err(Error::sql("note that a table is copied"))?;
        let forget = "DELETE FROM pgtandem.dead_letters WHERE schema = $1 AND name = $2";
        let forgotten = self.secondary.execute(forget, &[schema, name]).await;
        forgotten.map(drop).map_err(Error::sql("forget skipped changes"))
    }

    /// What comes after a table is there.
    async fn finish(&self, table: &TableName, progress: &Progress) -> Result<(), CopyError> {
        let analyze = format!("ANALYZE {}", table.quoted());
        let analyzed = self.secondary.batch_execute(&analyze).await;
        analyzed.map_err(Error::sql("analyze a copied table"))?;
        hook::reached("copy_table_committed");
        progress.send_modify(|progress| {
            if let Some(progress) = progress {
                progress.tables_done += 1;
            }
        });
        Ok(())
    }

    /// Streams the rows; returns how many they were, and their bytes.
    async fn stream(
        &self,
        table: &Table,
        part: Option<&Part>,
        progress: &Progress,
    ) -> Result<(u64, u64), Error> {
        let columns: Vec<_> = table.stored().map(|c| identifier(&c.name)).collect();
        let (name, columns) = (table.name.quoted(), columns.join(", "));
        let is_binary = table.stored().all(|column| BINARY.contains(&column.type_oid));
        let format = if is_binary { "WITH (FORMAT binary)" } else { "" };
        let out = match (part, table.kind) {
            (Some(part), _) => {
                let (only, condition) = (table.only(), part.condition());
                format!("COPY (SELECT {columns} FROM {only} WHERE {condition}) TO STDOUT {format}")
            }
            (None, Kind::Ordinary) => format!("COPY {name} ({columns}) TO STDOUT {format}"),
            (None, Kind::Partitioned) => {
                format!("COPY (SELECT {columns} FROM {name}) TO STDOUT {format}")
            }
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

/// Counts what is handed on.
fn hand_on(chunk: &BytesMut, rows: u64, progress: &Progress) -> u64 {
    let bytes = u64::try_from(chunk.len()).unwrap_or_default();
    progress.send_modify(|progress| {
        if let Some(progress) = progress {
            progress.bytes += bytes;
            progress.rows += rows;
        }
    });
    bytes
}
