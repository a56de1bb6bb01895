//! `pgtandem replication script`: capture as SQL, for whoever may not let the proxy install it.
//!
//! The only command that asks the primary itself: the proxy need not run.

use crate::config::{Config, Database, Replication};
use crate::replication::capture;
use crate::replication::catalog::{self, Selection};
use crate::replication::connect::connect;
use crate::replication::supervisor;

use super::OperatorError;

/// Writes the script for the tables of `database`, or of the only one that is replicated.
///
/// # Errors
/// [`OperatorError`].
pub async fn write(config: &Config, database: Option<&str>) -> Result<String, OperatorError> {
    let (name, database, replication) = only(config, database)?;
    let target = supervisor::primary(config, name, database, replication);
    let client = connect(&target).await.map_err(capture::CaptureError::from)?;
    let selection = Selection::new(&replication.tables, &replication.exclude);
    let tables = catalog::tables(&client, &selection).await.map_err(capture::CaptureError::from)?;
    Ok(capture::script(&client, &tables, &target.user).await?)
}

/// The one database that is meant, with how it is replicated.
fn only<'a>(
    config: &'a Config,
    wanted: Option<&str>,
) -> Result<(&'a String, &'a Database, &'a Replication), OperatorError> {
    let replicated = config.databases.iter().filter_map(|(name, database)| {
        let is_meant = wanted.is_none_or(|wanted| wanted == name);
        Some((name, database, database.replication.as_ref()?)).filter(|_| is_meant)
    });
    let mut replicated: Vec<_> = replicated.collect();
    match (replicated.pop(), replicated.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(OperatorError::NotReplicated(wanted.unwrap_or("*").to_owned())),
        (Some(last), false) => {
            let all = replicated.iter().chain([&last]).map(|(name, ..)| name.as_str());
            Err(OperatorError::Several(all.collect::<Vec<_>>().join(", ")))
        }
    }
}
