//! What of a schema is still to be made: rows of `pgtandem.schema_rest` on the secondary, each of which
//! goes in the transaction that makes it.

use tokio_postgres::Client;

use super::entry::Dump;
use super::{Entry, SchemaError, prepare};
use crate::replication::catalog::Table;
use crate::replication::checks;
use crate::replication::error::Error;
use crate::replication::hook;

/// The same lock as that of [`crate::replication::progress::install`].
const TABLE: &str = "\
SELECT pg_advisory_xact_lock(5138094512386598247);
CREATE SCHEMA IF NOT EXISTS pgtandem;
CREATE TABLE pgtandem.schema_rest (
    number int PRIMARY KEY,
    kind   text NOT NULL,
    name   text NOT NULL,
    sql    text NOT NULL
)";

/// The kind of the rows that say with which settings the others are made.
const SETTING: &str = "setting";

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Objects that are there.
    pub done: usize,
    /// All that there are to be.
    pub all: usize,
}

/// Keeps what is to be made later, in the transaction that is open.
pub(super) async fn keep(client: &Client, dump: &Dump) -> Result<(), Error> {
    let wrong = || Error::sql("keep what is to be made later");
    client.batch_execute(TABLE).await.map_err(wrong())?;
    let setting = |sql: &String| (SETTING.to_owned(), String::new(), sql.clone());
    let entry = |entry: &Entry| (entry.kind.clone(), entry.name.clone(), entry.sql.clone());
    let rows = dump.settings.iter().map(setting).chain(dump.entries.iter().map(entry));
    let sql = "INSERT INTO pgtandem.schema_rest VALUES ($1, $2, $3, $4)";
    let insert = client.prepare(sql).await.map_err(wrong())?;
    for (number, (kind, name, sql)) in (1_i32..).zip(rows) {
        client.execute(&insert, &[&number, &kind, &name, &sql]).await.map_err(wrong())?;
    }
    Ok(())
}

/// Whether something of the schema is still to be made.
///
/// # Errors
/// [`Error::Sql`].
pub async fn is_unfinished(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT to_regclass('pgtandem.schema_rest') IS NOT NULL";
    let row = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0));
    row.map_err(Error::sql("look for what is to be made of the schema"))
}

/// Makes all that is still to be made, one after the other.
///
/// Cancel safe: yes; the server may finish what it is at, and that is noticed then.
///
/// # Errors
/// [`SchemaError`]; what is made stays.
pub async fn make(client: &Client, tell: impl Fn(Made)) -> Result<(), SchemaError> {
    let wrong = || Error::sql("read what is to be made of the schema");
    let sql = "SELECT number, kind, name, sql FROM pgtandem.schema_rest ORDER BY number";
    let rows = client.query(sql, &[]).await.map_err(wrong())?;
    let mut settings = Vec::new();
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        let entry = Entry {
            kind: row.try_get(1).map_err(wrong())?,
            name: row.try_get(2).map_err(wrong())?,
            sql: row.try_get(3).map_err(wrong())?,
        };
        if entry.kind == SETTING {
            settings.push(entry.sql);
        } else {
            entries.push((row.try_get::<_, i32>(0).map_err(wrong())?, entry));
        }
    }
    prepare(client, &settings).await?;
    let all = entries.len();
    for (done, (number, entry)) in entries.into_iter().enumerate() {
        tell(Made { done, all });
        make_one(client, number, &entry).await?;
        hook::reached("schema_made");
    }
    tell(Made { done: all, all });
    Ok(())
}

async fn make_one(client: &Client, number: i32, entry: &Entry) -> Result<(), SchemaError> {
    let wrong = || Error::sql("make the rest of the schema");
    client.batch_execute("BEGIN").await.map_err(wrong())?;
    // Waits for one who has been given up, and whose server still works at it.
    let sql = "DELETE FROM pgtandem.schema_rest WHERE number = $1";
    if client.execute(sql, &[&number]).await.map_err(wrong())? == 1 {
        let began = std::time::Instant::now();
        let made = client.batch_execute(&entry.sql).await;
        made.map_err(|source| SchemaError::Refused { what: entry.to_string(), source })?;
        tracing::debug!(kind = entry.kind, name = entry.name, took = ?began.elapsed(), "made");
    }
    Ok(client.batch_execute("COMMIT").await.map_err(wrong())?)
}

/// Switches off on the secondary what would act on what is applied, as far as its owner may, and
/// notes that the schema is complete.
///
/// What stands in the way still is found by whoever begins to follow.
///
/// # Errors
/// [`Error::Sql`].
pub async fn fit(client: &Client, tables: &[&Table]) -> Result<(), Error> {
    let wrong = || Error::sql("switch off what would act on what is applied");
    let (_, obstacles) = checks::treatment(client, tables).await?;
    for obstacle in &obstacles {
        if let Some(sql) = obstacle.remedy() {
            client.batch_execute(&sql).await.map_err(wrong())?;
            tracing::warn!(sql, "changed on the secondary, so that it can follow");
        }
    }
    let done = client.batch_execute("DROP TABLE pgtandem.schema_rest").await;
    done.map_err(Error::sql("note that the schema is complete"))
}
