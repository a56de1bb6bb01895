//! What a secondary knows of itself: schema `pgtandem` with the row that says where it stands.
//!
//! The row is changed in the transaction that applies a batch, so that the two cannot disagree. It is
//! also the fence: of two appliers, one finds that the row says something else than it expected.

use std::collections::HashMap;

use tokio_postgres::{Client, GenericClient, Row};

use super::batch::Position;
use super::catalog::TableName;
use super::error::Error;
use super::literal;
use super::snapshot::Snapshot;

/// The format of the tables that [`install`] makes.
pub const FORMAT: i32 = 2;

/// `pgtandem` may be there already: a secondary can itself be a primary.
const SCHEMA: &str = "\
BEGIN;
SELECT pg_advisory_xact_lock(5138094512386598247);
CREATE SCHEMA IF NOT EXISTS pgtandem;
CREATE TABLE IF NOT EXISTS pgtandem.progress (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    format     int NOT NULL,
    group_id   uuid NOT NULL,
    -- Whose xids the snapshots speak of, and where its history branched last.
    system     bigint NOT NULL,
    timeline   int NOT NULL,
    -- Null until the copy is complete.
    snapshot   pg_snapshot,
    -- The last change that was applied, to find it again after a failover.
    last_id    bigint,
    last_xid   xid8,
    -- The last batch: what it began at, how many changes it had, and the sum of their ids. Null if
    -- not all tables stood at the same snapshot.
    batch_from    pg_snapshot,
    batch_changes bigint,
    batch_ids     numeric,
    changes    bigint NOT NULL DEFAULT 0,
    batches    bigint NOT NULL DEFAULT 0,
    applied_at timestamptz,
    paused     text
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS pgtandem.copied (
    schema     text NOT NULL,
    name       text NOT NULL,
    -- What the table has; null while its copy is still to be made.
    snapshot   pg_snapshot,
    rows       bigint NOT NULL DEFAULT 0,
    bytes      bigint NOT NULL DEFAULT 0,
    copied_at  timestamptz,
    PRIMARY KEY (schema, name)
);
-- What the tables that follow are called here, by their numbers in the change log. Empty until it
-- is known.
CREATE TABLE IF NOT EXISTS pgtandem.followed (
    number     int PRIMARY KEY,
    schema     text NOT NULL,
    name       text NOT NULL
);
CREATE TABLE IF NOT EXISTS pgtandem.dead_letters (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    skipped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    schema     text NOT NULL,
    name       text NOT NULL,
    key        text[],
    op         text NOT NULL,
    image      text,
    reason     text NOT NULL
);
-- Format 1 had not all of these tables.
UPDATE pgtandem.progress SET format = 2 WHERE format = 1;
COMMIT;";

/// Who the primary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The group of the primary and its secondaries; a UUID.
    pub group: String,
    /// The system identifier of its cluster.
    pub system: i64,
    /// Its timeline, which a failover changes.
    pub timeline: i32,
}

impl Origin {
    /// Asks a primary that belongs to `group`.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn of_primary(client: &Client, group: &str) -> Result<Self, Error> {
        // The timeline in the control file is that of the last checkpoint; this is the current one.
        let sql = "SELECT system_identifier, \
                   ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int \
                   FROM pg_control_system()";
        let wrong = || Error::sql("ask the primary who it is");
        let row = client.query_one(sql, &[]).await.map_err(wrong())?;
        let (system, timeline) = (row.try_get(0), row.try_get(1));
        let group = group.to_owned();
        Ok(Self { group, system: system.map_err(wrong())?, timeline: timeline.map_err(wrong())? })
    }
}

/// What the row in `pgtandem.progress` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Whom it follows.
    pub origin: Origin,
    /// Where it stands; `None` until its copy is complete.
    pub snapshot: Option<Snapshot>,
    /// Id and transaction of the last change applied.
    pub last: Option<(i64, u64)>,
    /// The last batch that had changes, or the copy if there was none yet; `None` if it cannot be told
    /// from others.
    pub last_batch: Option<LastBatch>,
    /// Changes applied since the copy.
    pub changes: i64,
    /// Why somebody has paused it.
    pub paused: Option<String>,
}

/// What tells a batch from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastBatch {
    /// The snapshot that the secondary stood at before.
    pub from: String,
    /// How many changes it had; 0 for the copy.
    pub changes: i64,
    /// The sum of their ids, which does not fit into a `u64`.
    pub ids: String,
}

/// A table that was copied, or is still to be, under a snapshot that is not the group's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The table.
    pub table: TableName,
    /// What it has; `None` while its copy is still to be made.
    pub snapshot: Option<Snapshot>,
    /// Rows copied.
    pub rows: i64,
    /// Bytes copied.
    pub bytes: i64,
}

/// Makes what is missing in schema `pgtandem`, for a secondary of this origin.
///
/// A secondary that follows somebody already keeps its row.
///
/// # Errors
/// [`Error::Sql`].
pub async fn install(client: &Client, origin: &Origin) -> Result<(), Error> {
    let wrong = || Error::sql("install the progress of the secondary");
    client.batch_execute(SCHEMA).await.map_err(wrong())?;
    let sql = "INSERT INTO pgtandem.progress (format, group_id, system, timeline) \
               VALUES ($1, $2::text::uuid, $3, $4) ON CONFLICT (one) DO NOTHING";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&FORMAT, &origin.group, &origin.system, &origin.timeline];
    client.execute(sql, &parameters).await.map_err(wrong())?;
    Ok(())
}

/// Reads the row of the secondary; `None` if nothing is installed there.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`] for a row of another format.
pub async fn read(client: &impl GenericClient) -> Result<Option<Progress>, Error> {
    let wrong = || Error::sql("read the progress of the secondary");
    let exists = "SELECT to_regclass('pgtandem.progress') IS NOT NULL";
    let exists = client.query_one(exists, &[]).await.and_then(|row| row.try_get::<_, bool>(0));
    if !exists.map_err(wrong())? {
        return Ok(None);
    }
    let sql = "SELECT group_id::text, system, timeline, snapshot::text, last_id, \
               last_xid::text::int8, changes, paused, format, batch_from::text, \
               batch_changes, batch_ids::text FROM pgtandem.progress";
    match client.query_opt(sql, &[]).await.map_err(wrong())? {
        None => Ok(None),
        Some(row) => progress(&row).map(Some),
    }
}

fn progress(row: &Row) -> Result<Progress, Error> {
    let wrong = || Error::sql("understand the progress of the secondary");
    let format: i32 = row.try_get(8).map_err(wrong())?;
    if format != FORMAT {
        return Err(Error::Unexpected { what: format!("progress of format {format}") });
    }
    let snapshot: Option<String> = row.try_get(3).map_err(wrong())?;
    let read = || -> Result<Progress, tokio_postgres::Error> {
        let last_xid: Option<i64> = row.try_get(5)?;
        let (from, changes, ids) = (row.try_get(9)?, row.try_get(10)?, row.try_get(11)?);
        let last_batch = match (from, changes, ids) {
            (Some(from), Some(changes), Some(ids)) => Some(LastBatch { from, changes, ids }),
            _ => None,
        };
        Ok(Progress {
            origin: Origin {
                group: row.try_get(0)?,
                system: row.try_get(1)?,
                timeline: row.try_get(2)?,
            },
            snapshot: None,
            last_batch,
            last: row.try_get::<_, Option<i64>>(4)?.zip(last_xid.map(i64::cast_unsigned)),
            changes: row.try_get(6)?,
            paused: row.try_get(7)?,
        })
    };
    let progress = read().map_err(wrong())?;
    Ok(Progress { snapshot: snapshot.map(|text| parse(&text)).transpose()?, ..progress })
}

fn parse(text: &str) -> Result<Snapshot, Error> {
    text.parse().map_err(|error| Error::Unexpected { what: format!("{error}") })
}

/// Lists the tables that do not stand where the group stands.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`].
pub async fn copied(client: &impl GenericClient) -> Result<Vec<Copied>, Error> {
    let wrong = || Error::sql("read the progress of the copy");
    let sql = "SELECT schema, name, snapshot::text, rows, bytes FROM pgtandem.copied";
    let rows = client.query(sql, &[]).await.map_err(wrong())?;
    let read = |row: &Row| -> Result<_, tokio_postgres::Error> {
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let snapshot: Option<String> = row.try_get(2)?;
        Ok((
            Copied { table, snapshot: None, rows: row.try_get(3)?, bytes: row.try_get(4)? },
            snapshot,
        ))
    };
    let mut list = Vec::with_capacity(rows.len());
    for row in &rows {
        let (copied, snapshot) = read(row).map_err(wrong())?;
        list.push(Copied { snapshot: snapshot.map(|text| parse(&text)).transpose()?, ..copied });
    }
    Ok(list)
}

/// Reads what the tables that follow are called, by number; none if that is not known.
///
/// # Errors
/// [`Error::Sql`].
pub async fn followed(client: &impl GenericClient) -> Result<HashMap<i32, TableName>, Error> {
    let wrong = || Error::sql("read what follows");
    let rows = client.query("SELECT number, schema, name FROM pgtandem.followed", &[]).await;
    let read = |row: &Row| {
        Ok((row.try_get(0)?, TableName { schema: row.try_get(1)?, name: row.try_get(2)? }))
    };
    rows.map_err(wrong())?.iter().map(read).collect::<Result<_, _>>().map_err(wrong())
}

/// Notes what the tables that follow are called, by number: these, and no others.
///
/// # Errors
/// [`Error::Sql`].
pub async fn note_followed(client: &Client, tables: &[(i32, &TableName)]) -> Result<(), Error> {
    let sql = "WITH f AS (SELECT * FROM unnest($1::int[], $2::text[], $3::text[]) \
                          AS f(number, schema, name)), \
               g AS (DELETE FROM pgtandem.followed WHERE number NOT IN (SELECT number FROM f)) \
               INSERT INTO pgtandem.followed SELECT * FROM f \
               ON CONFLICT (number) DO UPDATE SET schema = excluded.schema, name = excluded.name";
    let (numbers, names): (Vec<i32>, Vec<&TableName>) = tables.iter().copied().unzip();
    let schemas: Vec<&str> = names.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = names.iter().map(|table| table.name.as_str()).collect();
    let noted = client.execute(sql, &[&numbers, &schemas, &names]).await;
    noted.map(drop).map_err(Error::sql("note what follows"))
}

/// Notes that the copy is complete, and that the secondary stands at this snapshot.
///
/// Tables that were copied under an earlier one keep that. The copy counts as a batch without changes.
///
/// # Errors
/// [`Error::Sql`].
pub async fn complete(client: &Client, snapshot: &Snapshot) -> Result<(), Error> {
    let snapshot = literal::text(&snapshot.to_string());
    let sql = format!(
        "BEGIN; UPDATE pgtandem.progress SET snapshot = {snapshot}, applied_at = clock_timestamp(), \
         batch_from = {snapshot}, batch_changes = 0, batch_ids = 0; \
         DELETE FROM pgtandem.copied WHERE snapshot::text = {snapshot}; COMMIT"
    );
    client.batch_execute(&sql).await.map_err(Error::sql("note that the copy is complete"))
}

/// Notes the timeline of a primary that has been found to have lost nothing.
///
/// # Errors
/// [`Error::Sql`].
pub async fn note_timeline(client: &Client, timeline: i32) -> Result<(), Error> {
    let sql = "UPDATE pgtandem.progress SET timeline = $1";
    let noted = client.execute(sql, &[&timeline]).await;
    noted.map(drop).map_err(Error::sql("note the timeline"))
}

/// Notes that tables are to be copied anew.
///
/// # Errors
/// [`Error::Sql`].
pub async fn await_copy(client: &Client, tables: &[TableName]) -> Result<(), Error> {
    let sql = "INSERT INTO pgtandem.copied (schema, name) VALUES ($1, $2) \
               ON CONFLICT (schema, name) DO UPDATE SET snapshot = NULL";
    for TableName { schema, name } in tables {
        let noted = client.execute(sql, &[schema, name]).await;
        noted.map_err(Error::sql("note that a table is to be copied"))?;
    }
    Ok(())
}

/// Forgets where the secondary stands: tables are to be copied anew, and what they have is replaced.
///
/// Does nothing where nothing is installed.
///
/// # Errors
/// [`Error::Sql`].
pub async fn forget(client: &Client, tables: &[TableName]) -> Result<(), Error> {
    if read(client).await?.is_none() {
        return Ok(());
    }
    let sql = "UPDATE pgtandem.progress SET snapshot = NULL, last_id = NULL, last_xid = NULL, \
               batch_from = NULL, batch_changes = NULL, batch_ids = NULL";
    let forgotten = client.execute(sql, &[]).await;
    forgotten.map_err(Error::sql("forget the last copy"))?;
    await_copy(client, tables).await
}

/// Says in which tables changes were skipped, and how many; `None` if in none.
///
/// # Errors
/// [`Error::Sql`].
pub async fn skipped(client: &Client) -> Result<Option<String>, Error> {
    let sql = "SELECT string_agg(CASE name WHEN '' THEN format('%s definitions were skipped', n) \
                   ELSE format('%s changes of %s.%s were skipped', n, schema, name) END, ', ') \
               FROM (SELECT schema, name, count(*) AS n FROM pgtandem.dead_letters \
                     GROUP BY 1, 2 ORDER BY 1, 2) t";
    let row = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0));
    row.map_err(Error::sql("look for skipped changes"))
}

/// Works out where the secondary stands, of what [`read`] and [`copied`] say.
///
/// `number` finds a table's number in the log. A table that is not captured is nobody's business.
pub fn position(
    snapshot: Snapshot,
    copied: &[Copied],
    number: impl Fn(&TableName) -> Option<i32>,
) -> Position {
    let mut position = Position::at(snapshot);
    for copied in copied {
        let Some(number) = number(&copied.table) else { continue };
        match &copied.snapshot {
            Some(own) => drop(position.own.insert(number, own.clone())),
            None => drop(position.waiting.insert(number)),
        }
    }
    position
}
