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
use super::progress::{LastBatch, Origin, Progress};
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
    /// When it came under capture for the first time: whoever has that has had a copy of the table.
    pub first: Snapshot,
}

/// Lists the tables under capture that are selected and still there.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`].
pub async fn captured(client: &Client, selection: &Selection) -> Result<Vec<Captured>, Error> {
    let wrong = || Error::sql("read the tables under capture");
    let sql = "SELECT relid, number, since::text, first::text FROM pgtandem.tables";
    let mut numbers = HashMap::new();
    for row in client.query(sql, &[]).await.map_err(wrong())? {
        let (oid, number): (u32, i32) =
            (row.try_get(0).map_err(wrong())?, row.try_get(1).map_err(wrong())?);
        let since: String = row.try_get(2).map_err(wrong())?;
        let first: String = row.try_get(3).map_err(wrong())?;
        numbers.insert(oid, (number, parse(&since)?, parse(&first)?));
    }
    let tables = catalog::tables(client, selection).await?.into_iter();
    let captured = tables.filter_map(|table| {
        let (number, since, first) = numbers.remove(&table.oid)?;
        Some(Captured { number, table, since, first })
    });
    Ok(captured.collect())
}

/// Reads since when the changes of the tables under capture are in the log, by number.
///
/// # Errors
/// [`Error::Sql`].
pub async fn captured_since(client: &Client) -> Result<HashMap<i32, String>, Error> {
    let wrong = || Error::sql("look since when tables are under capture");
    let rows = client.query_typed("SELECT number, since::text FROM pgtandem.tables", &[]).await;
    let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.map_err(wrong())?.iter().map(read).collect::<Result<_, _>>().map_err(wrong())
}

/// Says which number the next table under capture will have.
///
/// # Errors
/// [`Error::Sql`].
pub async fn next_number(client: &Client) -> Result<i32, Error> {
    let row = client.query_one("SELECT next_number FROM pgtandem.meta", &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(Error::sql("read pgtandem.meta"))
}

/// Whether the change log has definitions that a secondary has not made which stands at `snapshot`.
///
/// # Errors
/// [`Error::Sql`].
pub async fn has_definitions(client: &mut Client, snapshot: &Snapshot) -> Result<bool, Error> {
    let wrong = || Error::sql("look for definitions");
    let condition = Position::at(snapshot.clone()).condition();
    let parts = ["log_0", "log_1", "log_2"].map(|log| {
        format!(
            "EXISTS (SELECT FROM pgtandem.{log} WHERE op = 'X' AND ({condition}) \
             AND NOT pg_visible_in_snapshot(xid, '{snapshot}'))"
        )
    });
    let transaction = client.transaction().await.map_err(wrong())?;
    let by_index = "SET LOCAL enable_seqscan = off";
    transaction.batch_execute(by_index).await.map_err(wrong())?;
    let row = transaction.query_one(&format!("SELECT {}", parts.join(" OR ")), &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(wrong())
}

/// Forgets that the log has all changes of a table: it looks otherwise than it should, so that it is
/// copied anew.
///
/// # Errors
/// [`Error::Sql`].
pub async fn distrust(client: &Client, number: i32) -> Result<(), Error> {
    let sql = "UPDATE pgtandem.tables SET since = pg_current_snapshot() WHERE number = $1";
    let noted = client.execute(sql, &[&number]).await;
    noted.map(drop).map_err(Error::sql("note that a table is to be copied anew"))
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
               WHERE s.state <> 'detached' RETURNING 1";
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

/// Has the change log kept for a secondary from now on, also if it was detached.
///
/// # Errors
/// [`Error::Sql`].
pub async fn attach(client: &Client, secondary: &str) -> Result<(), Error> {
    let sql = "INSERT INTO pgtandem.secondaries (name, state) VALUES ($1, 'copying') \
               ON CONFLICT (name) DO UPDATE SET state = excluded.state, progress = NULL, \
               applied_at = NULL, last_error = NULL, registered_at = clock_timestamp()";
    let attached = client.execute(sql, &[&secondary]).await;
    attached.map(drop).map_err(Error::sql("attach a secondary"))
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

/// Makes sure that what was written to the primary's log before `written` survives a crash; returns
/// why the secondary is detached, if it is.
///
/// With `synchronous_commit = off`, others see a transaction before it is durable, and what aborted is
/// never waited for. After a crash, the numbers of transactions that left no durable trace are given
/// out once more. A secondary must neither have what the primary can lose, nor take a number for used
/// up that can come again: so nothing is applied, and no progress noted, before this.
///
/// Whoever detaches a secondary truncates the change log afterwards. What was read before this was
/// read from all of the log, if the secondary is still attached now.
///
/// # Errors
/// [`Error::Sql`].
pub async fn make_durable(
    client: &Client,
    written: &str,
    secondary: &str,
) -> Result<Option<String>, Error> {
    let wrong = || Error::sql("make the primary's log durable");
    let sql = "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn, (\
               SELECT coalesce(last_error, '') FROM pgtandem.secondaries \
               WHERE name = $2 AND state = 'detached')";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&written, Type::TEXT), (&secondary, Type::TEXT)];
    let rows = client.query_typed(sql, &parameters).await.map_err(wrong())?;
    let [row] = rows.as_slice() else {
        return Err(Error::Unexpected { what: "no place in the log".to_owned() });
    };
    if !row.try_get::<_, bool>(0).map_err(wrong())? {
        // Its commit waits for everything that was written before it.
        let flush = "SELECT pg_logical_emit_message(true, 'pgtandem', '')";
        client.batch_execute(flush).await.map_err(wrong())?;
    }
    row.try_get(1).map_err(wrong())
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

/// Reads where a secondary was when it was reported last.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`].
pub async fn reported_progress(
    client: &Client,
    secondary: &str,
) -> Result<Option<Snapshot>, Error> {
    let wrong = || Error::sql("ask the primary where the secondary was");
    let sql = "SELECT progress::text FROM pgtandem.secondaries \
               WHERE name = $1 AND progress IS NOT NULL";
    let Some(row) = client.query_opt(sql, &[&secondary]).await.map_err(wrong())? else {
        return Ok(None);
    };
    parse(row.try_get(0).map_err(wrong())?).map(Some)
}

/// Finds out whether the primary may have lost what the secondary has; says why, if so.
///
/// What a primary that did not fail over can lose is never applied ([`make_durable`]). One that did
/// has a beginning of the old one's log: all of it up to a place. It has everything if it has the
/// report of where the secondary stands, or, after that, all changes of the last batch and no others
/// under their transactions' numbers. A batch without changes, which is the copy, proves nothing by
/// itself: the report of the copy must be there, and no changes since.
///
/// # Errors
/// [`Error::Sql`], [`Error::Unexpected`].
pub async fn is_behind(
    client: &Client,
    origin: &Origin,
    progress: &Progress,
    reported: Option<&Snapshot>,
) -> Result<Option<String>, Error> {
    let wrong = || Error::sql("look whether the primary has lost anything");
    let Some(stands) = &progress.snapshot else { return Ok(None) };
    let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await;
    let now: String = row.and_then(|row| row.try_get(0)).map_err(wrong())?;
    let now = parse(&now)?;
    if !now.covers(stands) {
        return Ok(Some(format!("it stands at snapshot {stands}, the primary at {now}")));
    }
    let has_report = reported.is_some_and(|reported| reported.covers(stands));
    let (was, is) = (progress.origin.timeline, origin.timeline);
    if was == is || has_report {
        return Ok(None);
    }
    let proves = |batch: &LastBatch| -> Result<bool, Error> {
        let copy = parse(&batch.from)?;
        Ok(batch.changes > 0 || reported.is_some_and(|reported| reported.covers(&copy)))
    };
    if let Some(batch) = &progress.last_batch
        && proves(batch)?
    {
        let LastBatch { from, changes, ids } = batch;
        let parts = ["log_0", "log_1", "log_2"].map(|log| {
            format!(
                "SELECT id FROM pgtandem.{log} \
                 WHERE pg_visible_in_snapshot(xid, $1::text::pg_snapshot) \
                 AND NOT pg_visible_in_snapshot(xid, $2::text::pg_snapshot)"
            )
        });
        let sql = format!(
            "SELECT count(*), coalesce(sum(id), 0)::text FROM ({}) l",
            parts.join(" UNION ALL ")
        );
        let row = client.query_one(&sql, &[&stands.to_string(), from]).await.map_err(wrong())?;
        let found: (i64, String) =
            (row.try_get(0).map_err(wrong())?, row.try_get(1).map_err(wrong())?);
        if found == (*changes, ids.clone()) {
            return Ok(None);
        }
    }
    Ok(Some(format!(
        "the primary went from timeline {was} to {is}, and its change log is not the one that was \
         applied last"
    )))
}
