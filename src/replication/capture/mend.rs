//! Keeps an application's writes going when the key of a captured table changes under capture.
//!
//! The trigger functions name the columns of the key. If one of them is renamed or dropped, every
//! write to the table fails until the functions are made anew. So this is looked at every second by
//! every process that knows the primary, whatever became of the secondaries: they get a new copy of
//! the table, or stop and say why; the application does not stop.
//!
//! What a definition has put under capture in its own transaction is made faster here, too.

use std::time::Duration;

use tokio_postgres::Client;

use super::error::CaptureError;
use super::table;
use crate::replication::catalog::{self, Selection, TableName};
use crate::replication::error::Error;

/// How long a table may be locked by others before it is left to the next look.
const PATIENCE: Duration = Duration::from_secs(1);

/// Captured tables that are there, and have not all columns of their key, or functions that were
/// written by a definition.
const BROKEN: &str = "\
SELECT t.number, t.relid, k.is_broken
FROM pgtandem.tables t
JOIN pg_class c ON c.oid = t.relid
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM unnest(t.key) AS k(name)
        WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.relid
                          AND a.attname = k.name AND NOT a.attisdropped)) AS is_broken) k
WHERE k.is_broken OR t.is_plain";

/// Puts tables under capture again whose functions name a column that is gone, or takes them out of
/// capture if they have no key any more; returns which.
///
/// Does nothing where nothing is installed. Cancel safe: yes.
///
/// # Errors
/// [`CaptureError`].
pub async fn mend(client: &mut Client) -> Result<Vec<TableName>, CaptureError> {
    let wrong = || Error::sql("look for tables whose key has changed");
    let installed = "SELECT to_regclass('pgtandem.proofs') IS NOT NULL";
    let installed = client.query_one(installed, &[]).await.and_then(|row| row.try_get(0));
    if !installed.map_err(wrong())? {
        return Ok(Vec::new());
    }
    let broken = client.query(BROKEN, &[]).await.map_err(wrong())?;
    if broken.is_empty() {
        return Ok(Vec::new());
    }
    let all = Selection::new(&["*.*".to_owned()], &[]);
    let tables = catalog::tables(client, &all).await?;
    let mut mended = Vec::new();
    for row in broken {
        let number: i32 = row.try_get(0).map_err(wrong())?;
        let oid: u32 = row.try_get(1).map_err(wrong())?;
        let is_broken: bool = row.try_get(2).map_err(wrong())?;
        let Some(table) = tables.iter().find(|table| table.oid == oid) else {
            table::release(client, number, PATIENCE).await?;
            continue;
        };
        match table::capture(client, table, PATIENCE).await {
            Err(CaptureError::Refused { .. }) => table::release(client, number, PATIENCE).await?,
            Err(error) if !is_broken && error.is_transient() => continue,
            captured => drop(captured?),
        }
        if is_broken {
            mended.push(table.name.clone());
        }
    }
    Ok(mended)
}
