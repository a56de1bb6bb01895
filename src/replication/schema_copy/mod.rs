//! Makes the schema of an empty secondary that of its primary, as `pg_dump` writes it.
//!
//! What tables need to hold rows is made at once, in one transaction. What goes faster over rows that
//! are there (keys, indexes, foreign keys, triggers) is kept in `pgtandem.schema_rest` on the secondary,
//! in that same transaction, and made when the first copy is complete: whoever looks after the secondary
//! then finds there what is still to be done.

mod dump;
mod entry;
mod pending;

use tokio_postgres::Client;

pub use self::dump::DumpError;
use self::dump::{Program, Section};
use self::entry::{Dump, Entry};
pub use self::pending::{Made, fit, is_unfinished, make};
use super::connect::{Target, connect};
use super::error::{Described, Error};
use super::literal;
use crate::config::Replication;

/// Why a schema was not made.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// There is something already.
    #[error("the secondary is not empty: it has {what}")]
    NotEmpty {
        /// The first thing found.
        what: String,
    },
    /// The schema could not be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Something could not be made on the secondary.
    #[error("cannot make {what} on the secondary: {}", Described(source))]
    Refused {
        /// Its kind and name.
        what: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// Something else failed.
    #[error(transparent)]
    Other(#[from] Error),
}

impl SchemaError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotEmpty { .. } | Self::Dump(_) => false,
            Self::Refused { source, .. } => super::error::is_transient(source),
            Self::Other(error) => error.is_transient(),
        }
    }
}

/// The first thing that somebody has made: relations, types, functions, schemas; no extensions.
const FIRST_OBJECT: &str = "\
WITH found AS (
    SELECT 'relation ' || oid::regclass AS what, relnamespace AS namespace,
           'pg_class'::regclass AS class, oid, 1 AS rank
    FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL
    SELECT 'type ' || oid::regtype, typnamespace, 'pg_type'::regclass, oid, 2
    FROM pg_type WHERE typtype IN ('e', 'd', 'r')
  UNION ALL
    SELECT 'function ' || oid::regprocedure, pronamespace, 'pg_proc'::regclass, oid, 3 FROM pg_proc
  UNION ALL
    SELECT 'schema ' || quote_ident(nspname), oid, 'pg_namespace'::regclass, oid, 4
    FROM pg_namespace WHERE nspname <> 'public'
)
SELECT what FROM found f JOIN pg_namespace n ON n.oid = namespace
WHERE nspname NOT IN ('pgtandem', 'information_schema') AND nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = f.class AND d.objid = f.oid AND d.deptype = 'e')
ORDER BY rank, what LIMIT 1";

/// Makes the primary's schema on an empty secondary: what rows need now, and a list of the rest.
///
/// The schema is the primary's at one moment. Cancel safe: yes; nothing stays of what was begun.
///
/// # Errors
/// [`SchemaError`]; then the secondary is as empty as before.
pub async fn begin(
    primary: &Target,
    secondary: &Target,
    settings: &Replication,
) -> Result<(), SchemaError> {
    let there = connect(secondary).await?;
    expect_empty(&there).await?;
    let holder = connect(primary).await?;
    let program = Program::find(settings.pg_dump.as_deref(), version(&holder).await?).await?;
    let snapshot = export(&holder).await?;
    let before = program.dump(primary, Section::PreData, &snapshot).await?;
    let after = program.dump(primary, Section::PostData, &snapshot).await?;
    drop(holder);
    let mut before = Dump::read(&before);
    let mut after = Dump::read(&after);
    for dump in [&mut before, &mut after] {
        dump.entries.retain(|entry| !entry.is_ours());
    }
    tracing::info!(
        secondary = %secondary,
        now = before.entries.len(),
        later = after.entries.len(),
        "making the primary's schema"
    );
    there.batch_execute("BEGIN").await.map_err(Error::sql("begin to make the schema"))?;
    prepare(&there, &before.settings).await?;
    for entry in &before.entries {
        let made = there.batch_execute(&entry.sql).await;
        made.map_err(|source| SchemaError::Refused { what: entry.to_string(), source })?;
    }
    pending::keep(&there, &after).await?;
    Ok(there.batch_execute("COMMIT").await.map_err(Error::sql("keep the schema"))?)
}

async fn expect_empty(client: &Client) -> Result<(), SchemaError> {
    let wrong = || Error::sql("look whether the secondary is empty");
    match client.query_opt(FIRST_OBJECT, &[]).await.map_err(wrong())? {
        None => Ok(()),
        Some(row) => Err(SchemaError::NotEmpty { what: row.try_get(0).map_err(wrong())? }),
    }
}

/// The major version of a server.
async fn version(client: &Client) -> Result<u32, Error> {
    let wrong = || Error::sql("ask for the version");
    let sql = "SELECT current_setting('server_version_num')::int4 / 10000";
    let row = client.query_one(sql, &[]).await.map_err(wrong())?;
    let version: i32 = row.try_get(0).map_err(wrong())?;
    Ok(version.unsigned_abs())
}

/// Begins a transaction whose snapshot others can use, and gives its name.
async fn export(holder: &Client) -> Result<String, Error> {
    let wrong = || Error::sql("export a snapshot");
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    holder.batch_execute(begin).await.map_err(wrong())?;
    let row = holder.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(wrong())?;
    row.try_get(0).map_err(wrong())
}

/// Makes the settings those that a dump begins with.
///
/// A newer `pg_dump` also sets what an older server has not got: that server does without.
async fn prepare(client: &Client, settings: &[String]) -> Result<(), Error> {
    let wrong = || Error::sql("prepare the session");
    for setting in settings {
        let statement = literal::text(setting);
        let sql = format!(
            "DO $do$ BEGIN EXECUTE {statement}; EXCEPTION WHEN undefined_object THEN NULL; END $do$"
        );
        client.batch_execute(&sql).await.map_err(wrong())?;
    }
    Ok(())
}
