//! The schema `pgtandem` on a primary: made, upgraded by numbered steps, and removed.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, GenericClient, Transaction};

use super::error::CaptureError;
use super::table;
use crate::replication::error::Error;
use crate::secret::Secret;

/// Steps from nothing to the newest format; step `n` leads from format `n` to `n + 1`. A step that
/// has been released is never changed.
pub(super) const STEPS: [&str; 2] =
    [include_str!("sql/step_1.sql"), include_str!("sql/step_2.sql")];

/// Takes back rights on our objects that default privileges gave away.
pub(super) const CLOSE: &str = include_str!("sql/close.sql");

const REMOVE: &str = include_str!("sql/uninstall.sql");

/// Whoever changes anything in the schema holds this advisory lock of the database meanwhile, so
/// that two proxies do not do it at once.
pub(super) const LOCK: i64 = 0x7067_7461_6e64_656d;

/// Between two tries to get it.
const PAUSE: Duration = Duration::from_millis(20);

/// The newest format, that of this version.
pub const FORMAT: i32 = 2;

/// What `pgtandem.meta` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Identifies the primary with all its secondaries; a UUID.
    pub group: String,
    /// The log that is written to: 0, 1 or 2.
    pub active: i32,
    /// Why nothing is captured, if that is so.
    pub stopped: Option<String>,
}

/// Makes the schema, or brings it to the newest format.
///
/// One transaction; does nothing where all is as it should be, and does not wait for definitions of
/// clients then. Needs CREATE on the database the first time. Cancel safe: yes, the transaction is
/// rolled back.
///
/// # Errors
/// [`CaptureError::Foreign`], [`CaptureError::Newer`], [`CaptureError::Defining`],
/// [`CaptureError::Sql`].
pub async fn install(client: &mut Client) -> Result<Meta, CaptureError> {
    let newest = match format(&*client).await? {
        FORMAT => Some(read(client).await?),
        _ => None,
    };
    let patience = if newest.is_some() { Duration::ZERO } else { Duration::from_secs(10) };
    let transaction = match (begin(client, patience).await, newest) {
        (Err(CaptureError::Defining { .. }), Some(meta)) => return Ok(meta),
        (begun, _) => begun?,
    };
    let format = format(&transaction).await?;
    if format > FORMAT {
        return Err(CaptureError::Newer { found: format, known: FORMAT });
    }
    let missing = STEPS.iter().skip(usize::try_from(format).unwrap_or_default());
    for step in missing {
        transaction.batch_execute(step).await.map_err(Error::sql("install capture"))?;
    }
    if format < FORMAT {
        let stamp = "UPDATE pgtandem.meta SET format = $1";
        transaction.execute(stamp, &[&FORMAT]).await.map_err(Error::sql("install capture"))?;
    }
    transaction.batch_execute(CLOSE).await.map_err(Error::sql("close the schema pgtandem"))?;
    let meta = read(&transaction).await?;
    transaction.commit().await.map_err(Error::sql("install capture"))?;
    Ok(meta)
}

/// Reads what `pgtandem.meta` says.
///
/// # Errors
/// [`CaptureError::NotInstalled`], [`CaptureError::Older`], [`CaptureError::Sql`].
pub async fn read(client: &impl GenericClient) -> Result<Meta, CaptureError> {
    let exists =
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                 WHERE n.nspname = 'pgtandem' AND c.relname = 'meta')";
    let exists = client.query_one(exists, &[]).await.and_then(|row| row.try_get::<_, bool>(0));
    if !exists.map_err(Error::sql("look for capture"))? {
        return Err(CaptureError::NotInstalled);
    }
    let row = client
        .query_one("SELECT group_id::text, active, stopped_why, format FROM pgtandem.meta", &[])
        .await
        .map_err(Error::sql("read pgtandem.meta"))?;
    let meta =
        || Ok(Meta { group: row.try_get(0)?, active: row.try_get(1)?, stopped: row.try_get(2)? });
    let wrong = || Error::sql("read pgtandem.meta");
    let found: i32 = row.try_get(3).map_err(wrong())?;
    if found < FORMAT {
        return Err(CaptureError::Older { found, known: FORMAT });
    }
    Ok(meta().map_err(wrong())?)
}

/// Reads the secret that proves definitions; `None` if nothing is installed that would take them.
///
/// # Errors
/// [`CaptureError::Sql`].
pub async fn secret(client: &impl GenericClient) -> Result<Option<Secret>, CaptureError> {
    if format(client).await? != FORMAT {
        return Ok(None);
    }
    let row = client.query_one("SELECT secret FROM pgtandem.meta", &[]).await;
    let secret: Vec<u8> =
        row.and_then(|row| row.try_get(0)).map_err(Error::sql("read the secret of definitions"))?;
    Ok(Some(Secret::new(secret)))
}

/// Removes capture without a trace: triggers, functions, logs, state.
///
/// First each table's triggers in a transaction of its own, with `patience` for a moment at which
/// nobody uses the table; then the rest. What is left after an error is removed by the next call.
/// Cancel safe: yes, in that sense.
///
/// # Errors
/// [`CaptureError::Busy`], [`CaptureError::Foreign`], [`CaptureError::Sql`]. Nothing to remove is
/// not an error.
pub async fn uninstall(client: &mut Client, patience: Duration) -> Result<(), CaptureError> {
    table::release_all(client, patience).await?;
    let transaction = begin(client, Duration::from_secs(10)).await?;
    if format(&transaction).await? > 0 {
        transaction.batch_execute(REMOVE).await.map_err(Error::sql("remove capture"))?;
    }
    transaction.commit().await.map_err(Error::sql("remove capture"))?;
    Ok(())
}

/// Begins a transaction that changes the schema: others wait for it, and it waits for no lock longer
/// than `patience`.
///
/// Definitions of clients share the lock until their transactions end. So it is asked for, and never
/// queued for: whoever came behind us would wait for them too.
pub(super) async fn begin(
    client: &mut Client,
    patience: Duration,
) -> Result<Transaction<'_>, CaptureError> {
    let began = Instant::now();
    let wrong = Error::sql("begin a change of the schema pgtandem");
    let transaction = client.transaction().await.map_err(wrong)?;
    let limit = format!("SET LOCAL lock_timeout = {}", patience.as_millis());
    let wrong = || Error::sql("lock the schema pgtandem");
    transaction.batch_execute(&limit).await.map_err(wrong())?;
    let lock = "SELECT pg_try_advisory_xact_lock($1)";
    loop {
        let row = transaction.query_one(lock, &[&LOCK]).await;
        if row.and_then(|row| row.try_get(0)).map_err(wrong())? {
            return Ok(transaction);
        }
        let waited = began.elapsed();
        if waited >= patience {
            return Err(CaptureError::Defining { waited });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The format that is installed; 0 if none is.
async fn format(client: &impl GenericClient) -> Result<i32, CaptureError> {
    let wrong = || Error::sql("look for the schema pgtandem");
    let look = "SELECT pg_get_userbyid(nspowner)::text, pg_has_role(nspowner, 'USAGE'),
                       EXISTS (SELECT FROM pg_class c
                               WHERE c.relnamespace = n.oid AND c.relname = 'meta')
                FROM pg_namespace n WHERE nspname = 'pgtandem'";
    let Some(row) = client.query_opt(look, &[]).await.map_err(wrong())? else {
        return Ok(0);
    };
    if !row.try_get::<_, bool>(1).map_err(wrong())? {
        return Err(CaptureError::Foreign { owner: row.try_get(0).map_err(wrong())? });
    }
    if !row.try_get::<_, bool>(2).map_err(wrong())? {
        return Ok(0);
    }
    let format = client.query_one("SELECT format FROM pgtandem.meta", &[]).await;
    Ok(format.and_then(|row| row.try_get(0)).map_err(wrong())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_step() {
        assert_eq!(usize::try_from(FORMAT).expect("small"), STEPS.len());
    }
}
