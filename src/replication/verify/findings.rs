//! What verifications have found, kept on the secondary: it belongs to that copy, wherever the proxy
//! runs, and is restored with it.
//!
//! `pgtandem.verified` says when each table was last compared, and with what result;
//! `pgtandem.divergence` lists the keys that differ, at most [`KEYS_MAX`] for each table.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::replication::catalog::TableName;
use crate::replication::error::Error;

use super::report::{KEYS_MAX, Kind, Outcome, TableReport, Verdict};
use super::view::Key;

/// Makes the tables, where they are not there yet. The schema is the applier's.
pub const INSTALL: &str = "\
CREATE TABLE IF NOT EXISTS pgtandem.verified (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    verdict text NOT NULL,
    detail text NOT NULL,
    rows bigint NOT NULL,
    snapshot text,
    verified_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schema_name, table_name)
);
CREATE TABLE IF NOT EXISTS pgtandem.divergence (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key text[] NOT NULL,
    kind text NOT NULL,
    snapshot text,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schema_name, table_name, key, kind)
)";

/// A row of SHOW DIVERGENCE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The table.
    pub table: TableName,
    /// The row's key; empty if the table as a whole is meant.
    pub key: Key,
    /// `missing`, `extra`, `different`; for a table as a whole what is wrong with it.
    pub kind: String,
    /// The primary's snapshot at which it was found.
    pub snapshot: Option<String>,
    /// When it was found, as PostgreSQL prints it, in UTC.
    pub found_at: String,
}

/// What is known of a table since it was last compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// How long ago that was.
    pub age: Duration,
    /// The verdict's word.
    pub verdict: String,
    /// The outcome in words.
    pub detail: String,
}

/// What is known of the tables that were ever compared.
pub type Verified = HashMap<TableName, Known>;

/// Makes the tables of this module.
///
/// # Errors
/// [`Error::Sql`].
pub async fn install(secondary: &Client) -> Result<(), Error> {
    secondary.batch_execute(INSTALL).await.map_err(Error::sql("prepare for findings"))
}

/// Replaces what is known of a table by a new result.
///
/// A result that could not be told leaves the keys that are known to differ.
///
/// # Errors
/// [`Error::Sql`].
pub async fn record(secondary: &Client, report: &TableReport) -> Result<(), Error> {
    const WHAT: &str = "record a verification";
    let TableReport { table, outcome, rows, snapshot, .. } = report;
    let (kinds, keys) = differing(outcome);
    let verdict = outcome.verdict();
    let is_told = verdict != Verdict::CouldNotTell;
    let rows = i64::try_from(*rows).unwrap_or(i64::MAX);
    let (word, detail) = (verdict.word(), outcome.to_string());
    let parameters: [(&(dyn ToSql + Sync), Type); 9] = [
        (&table.schema, Type::TEXT),
        (&table.name, Type::TEXT),
        (&word, Type::TEXT),
        (&detail, Type::TEXT),
        (&rows, Type::INT8),
        (snapshot, Type::TEXT),
        (&is_told, Type::BOOL),
        (&keys, Type::TEXT_ARRAY),
        (&kinds, Type::TEXT_ARRAY),
    ];
    secondary.query_typed(RECORD, &parameters).await.map_err(Error::sql(WHAT))?;
    Ok(())
}

/// One statement, so that it is one transaction. Rows that stay are left alone: they keep the time at
/// which they were first found.
const RECORD: &str = "\
WITH found AS (
    SELECT f.key::text[] AS key, f.kind
    FROM unnest($8::text[], $9::text[]) AS f(key, kind)
), gone AS (
    DELETE FROM pgtandem.divergence d
    WHERE $7 AND d.schema_name = $1 AND d.table_name = $2
      AND NOT EXISTS (SELECT FROM found f WHERE f.key = d.key AND f.kind = d.kind)
), come AS (
    INSERT INTO pgtandem.divergence (schema_name, table_name, key, kind, snapshot)
    SELECT $1, $2, f.key, f.kind, $6 FROM found f
    ON CONFLICT DO NOTHING
)
INSERT INTO pgtandem.verified (schema_name, table_name, verdict, detail, rows, snapshot)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (schema_name, table_name) DO UPDATE
SET verdict = excluded.verdict, detail = excluded.detail, rows = excluded.rows,
    snapshot = excluded.snapshot, verified_at = excluded.verified_at";

/// The kinds and the keys, these as array literals, of what differs.
fn differing(outcome: &Outcome) -> (Vec<String>, Vec<String>) {
    match outcome {
        Outcome::Equal | Outcome::CouldNotTell(_) => (Vec::new(), Vec::new()),
        Outcome::Rows(found) if found.rows.is_empty() => {
            (vec!["rows differ".to_owned()], vec!["{}".to_owned()])
        }
        Outcome::Rows(found) => found
            .rows
            .iter()
            .map(|row| {
                let key = row.key.iter().map(|text| Some(text.as_str()));
                (row.kind.word().to_owned(), crate::replication::literal::array(key))
            })
            .unzip(),
        Outcome::Schema(mismatch) => (vec![mismatch.to_string()], vec!["{}".to_owned()]),
    }
}

/// Lists what differs, for SHOW DIVERGENCE; the first `limit` rows.
///
/// # Errors
/// [`Error::Sql`].
pub async fn divergence(secondary: &Client, limit: usize) -> Result<Vec<Finding>, Error> {
    const WHAT: &str = "read the findings";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = secondary.query_typed(DIVERGENCE, &[(&limit, Type::INT8)]).await;
    let read = |row: &Row| {
        Ok(Finding {
            table: TableName { schema: row.try_get(0)?, name: row.try_get(1)? },
            key: row.try_get::<_, Vec<String>>(2)?.into_boxed_slice(),
            kind: row.try_get(3)?,
            snapshot: row.try_get(4)?,
            found_at: row.try_get(5)?,
        })
    };
    let rows = rows.map_err(Error::sql(WHAT))?;
    rows.iter().map(read).collect::<Result<_, _>>().map_err(Error::sql(WHAT))
}

const DIVERGENCE: &str = "\
SELECT schema_name, table_name, key, kind, snapshot, found_at::text
FROM pgtandem.divergence
ORDER BY schema_name, table_name, found_at, key, kind
LIMIT $1";

/// Lists the keys of a table that are known to differ, for a repair.
///
/// # Errors
/// [`Error::Sql`].
pub async fn keys(secondary: &Client, table: &TableName) -> Result<Vec<Key>, Error> {
    let found = divergence(secondary, usize::MAX).await?;
    let own = found
        .into_iter()
        .filter(|finding| finding.table == *table && Kind::from_word(&finding.kind).is_some());
    let mut keys: Vec<Key> = own.map(|finding| finding.key).collect();
    keys.sort();
    keys.dedup();
    keys.truncate(KEYS_MAX);
    Ok(keys)
}

/// Reads what is known of the tables.
///
/// # Errors
/// [`Error::Sql`].
pub async fn verified(secondary: &Client) -> Result<Verified, Error> {
    const WHAT: &str = "read when tables were verified";
    let rows = secondary.query_typed(VERIFIED, &[]).await.map_err(Error::sql(WHAT))?;
    let read = |row: &Row| {
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let seconds: i64 = row.try_get(2)?;
        let age = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Ok((table, Known { age, verdict: row.try_get(3)?, detail: row.try_get(4)? }))
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(Error::sql(WHAT))
}

/// The age is told by the clock that wrote the time.
const VERIFIED: &str = "\
SELECT schema_name, table_name, EXTRACT(epoch FROM now() - verified_at)::int8, verdict, detail
FROM pgtandem.verified";
