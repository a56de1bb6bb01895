//! What is asked of a primary, capture aside: which tables are under capture, what we tell it of a
//! secondary, and whether it is still the one that the secondary followed.

use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::batch::Position;
use super::capture::error::CaptureError;
use super::capture::rotation;
use super::catalog::{self, Selection, Table};
use super::error::Error;
use super::progress::{Origin, Progress};
use super::snapshot::Snapshot;
use super::status::State;

/// A table under capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its number in the change log.
    pub number: i32,
    /// What it is.
    pub table: Table,
    /// All changes that this does not see are in the log.
    pub since: Snapshot,
}

/// Lists the tables under capture that are selected and still there.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`].
pub async fn captured(client: &Client, selection: &Selection) -> Result<Vec<Captured>, Error> {
    let wrong = || Error::sql("read the tables under capture");
    let sql = "SELECT relid, number, since::text FROM pgtandem.tables";
    let mut numbers = HashMap::new();
    for row in client.query(sql, &[]).await.map_err(wrong())? {
        let (oid, number): (u32, i32) =
            (row.try_get(0).map_err(wrong())?, row.try_get(1).map_err(wrong())?);
        let since: String = row.try_get(2).map_err(wrong())?;
        numbers.insert(oid, (number, parse(&since)?));
    }
    let tables = catalog::tables(client, selection).await?.into_iter();
    let captured = tables.filter_map(|table| {
        let (number, since) = numbers.remove(&table.oid)?;
        Some(Captured { number, table, since })
    });
    Ok(captured.collect())
}

/// Says which number the next table under capture will have.
///
/// # Errors
/// [`Error::Sql`].
pub async fn next_number(client: &Client) -> Result<i32, Error> {
    let row = client.query_one("SELECT next_number FROM pgtandem.meta", &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(Error::sql("read pgtandem.meta"))
}

fn parse(text: &str) -> Result<Snapshot, Error> {
    text.parse().map_err(|error| Error::Unexpected { what: format!("{error}") })
}

/// Tells the primary how a secondary is; the change log is kept for what it still needs.
///
/// Returns false if the primary has detached it meanwhile: then it is told nothing.
///
/// # Errors
/// [`Error::Sql`].
pub async fn report(
    client: &Client,
    secondary: &str,
    state: &State,
    position: Option<&Position>,
    last_error: Option<&str>,
) -> Result<bool, Error> {
    // The time is that of the last progress: a secondary that stands still grows old.
    let sql = "INSERT INTO pgtandem.secondaries AS s \
                   (name, state, progress, applied_at, last_error) \
               VALUES ($1, $2, $3::pg_snapshot, clock_timestamp(), $4) \
               ON CONFLICT (name) DO UPDATE SET state = excluded.state, \
                   progress = excluded.progress, last_error = excluded.last_error, \
                   applied_at = CASE WHEN s.progress::text = excluded.progress::text \
                                THEN s.applied_at ELSE excluded.applied_at END \
               WHERE s.state <> 'detached' OR excluded.state IN ('copying', 'detached') \
               RETURNING 1";
    let needed = position.map(|position| position.oldest().to_string());
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] = [
        (&secondary, Type::TEXT),
        (&state.word(), Type::TEXT),
        (&needed, Type::TEXT),
        (&last_error, Type::TEXT),
    ];
    let told = client.query_typed(sql, &parameters).await;
    Ok(!told.map_err(Error::sql("tell the primary how the secondary is"))?.is_empty())
}

/// Notes that a secondary is detached: nothing of the log is kept for it any more. Stops capture if it
/// was the last one.
///
/// # Errors
/// [`CaptureError`].
pub async fn detach(client: &mut Client, secondary: &str, why: &str) -> Result<(), CaptureError> {
    let wrong = || Error::sql("detach a secondary");
    let sql = "INSERT INTO pgtandem.secondaries (name, state, last_error) \
               VALUES ($1, 'detached', $2) ON CONFLICT (name) DO UPDATE \
               SET state = excluded.state, last_error = excluded.last_error";
    client.execute(sql, &[&secondary, &why]).await.map_err(wrong())?;
    let rest = "SELECT EXISTS (SELECT FROM pgtandem.secondaries WHERE state <> 'detached')";
    let row = client.query_one(rest, &[]).await;
    if !row.and_then(|row| row.try_get::<_, bool>(0)).map_err(wrong())? {
        rotation::stop(client, why).await?;
    }
    Ok(())
}

/// Reads what another process has told the primary of a secondary: its state and its last error.
///
/// # Errors
/// [`Error::Sql`].
pub async fn reported(
    client: &Client,
    secondary: &str,
) -> Result<Option<(String, Option<String>)>, Error> {
    let wrong = || Error::sql("ask the primary how the secondary is");
    let sql = "SELECT state, last_error FROM pgtandem.secondaries WHERE name = $1";
    let Some(row) = client.query_opt(sql, &[&secondary]).await.map_err(wrong())? else {
        return Ok(None);
    };
    let state = row.try_get(0).map_err(wrong())?;
    Ok(Some((state, row.try_get(1).map_err(wrong())?)))
}

/// Finds out whether the primary may have lost what the secondary has; says why, if so.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`].
pub async fn is_behind(
    client: &Client,
    origin: &Origin,
    progress: &Progress,
) -> Result<Option<String>, Error> {
    let wrong = || Error::sql("look whether the primary has lost anything");
    let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await;
    let now: String = row.and_then(|row| row.try_get(0)).map_err(wrong())?;
    let now = parse(&now)?;
    if let Some(snapshot) = &progress.snapshot
        && !now.covers(snapshot)
    {
        return Ok(Some(format!("it stands at snapshot {snapshot}, the primary at {now}")));
    }
    let (true, Some((id, xid))) = (origin.timeline != progress.origin.timeline, progress.last)
    else {
        return Ok(None);
    };
    let sql = "SELECT FROM pgtandem.log_0 WHERE id = $1 AND xid = $2::text::xid8 UNION ALL \
               SELECT FROM pgtandem.log_1 WHERE id = $1 AND xid = $2::text::xid8 UNION ALL \
               SELECT FROM pgtandem.log_2 WHERE id = $1 AND xid = $2::text::xid8";
    let found = client.query(sql, &[&id, &xid.to_string()]).await.map_err(wrong())?;
    let lost = || {
        let (was, is) = (progress.origin.timeline, origin.timeline);
        format!(
            "the primary went from timeline {was} to {is}, and its change log does not have the \
             last change that was applied"
        )
    };
    Ok(found.is_empty().then(lost))
}
