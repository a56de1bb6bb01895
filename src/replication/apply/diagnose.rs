//! Finds the row that a batch cannot be applied for: does the batch once more in a transaction that
//! is rolled back, and halves the statement that fails.

use std::sync::Arc;

use super::job::{Job, truncate};
use super::{Applier, ApplyError, Followed};
use crate::replication::error::Error;

/// Finds the first row that cannot be applied; `None` if all can be, this time.
///
/// # Errors
/// [`Error`] if the connection fails; it is of no use any more then.
pub(super) async fn find(
    applier: &Applier,
    truncated: &[Arc<Followed>],
    jobs: &[Job],
) -> Result<Option<ApplyError>, Error> {
    let wrong = || Error::sql("find the row that cannot be applied");
    applier.client.batch_execute(applier.begin()).await.map_err(wrong())?;
    let mut found = truncate(&applier.client, truncated).await.err();
    for job in jobs {
        if found.is_some() {
            break;
        }
        found = match attempt(applier, job).await? {
            Ok(()) => None,
            Err(error) => Some(narrow(applier, job, error).await?),
        };
    }
    applier.client.batch_execute("ROLLBACK").await.map_err(wrong())?;
    Ok(found)
}

/// Does a job within the transaction that is open; if it fails, finds the row.
pub(super) async fn exactly(applier: &Applier, job: &Job) -> Result<(), ApplyError> {
    match attempt(applier, job).await? {
        Ok(()) => Ok(()),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => Err(narrow(applier, job, error).await?),
    }
}

/// Halves a job that fails until one row is left; `error` is what it failed with.
async fn narrow(applier: &Applier, job: &Job, error: ApplyError) -> Result<ApplyError, Error> {
    let mut error = error;
    let (mut first, mut second) = job.halves();
    // Each round halves a list.
    while !first.keys.is_empty() {
        let (failed, reason) = match attempt(applier, &first).await? {
            Err(reason) => (first, reason),
            Ok(()) => match attempt(applier, &second).await? {
                Err(reason) => (second, reason),
                // Only together do they fail: what is known is all there is to know.
                Ok(()) => return Ok(error),
            },
        };
        error = reason;
        (first, second) = failed.halves();
    }
    Ok(error)
}

/// Does a job; if it fails, it has not happened.
async fn attempt(applier: &Applier, job: &Job) -> Result<Result<(), ApplyError>, Error> {
    let wrong = || Error::sql("find the row that cannot be applied");
    applier.client.batch_execute("SAVEPOINT job").await.map_err(wrong())?;
    let outcome = job.judge(applier.execute(job).await);
    let end = if outcome.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    applier.client.batch_execute(end).await.map_err(wrong())?;
    Ok(outcome)
}
