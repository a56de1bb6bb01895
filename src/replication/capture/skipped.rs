//! Tables that were meant by the configuration, and that capture does not know: what cannot follow by
//! its nature is reported, not forgotten.

use std::fmt;

use tokio_postgres::{GenericClient, Row};

use crate::replication::catalog::{Selection, TableName};
use crate::replication::error::Error;

/// A table or something like one that does not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub name: TableName,
    /// Why it does not.
    pub nature: Nature,
}

/// What something is that does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// A table that a crash empties.
    Unlogged,
    /// A table whose rows are elsewhere.
    Foreign,
    /// A view with rows of its own; they are computed anew by REFRESH on each side.
    MaterializedView,
    /// A table that belongs to an extension, which fills it on each side.
    OfExtension,
    /// A table without columns.
    Empty,
}

impl fmt::Display for Nature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlogged => "it is UNLOGGED",
            Self::Foreign => "it is a foreign table",
            Self::MaterializedView => "it is a materialized view",
            Self::OfExtension => "it belongs to an extension",
            Self::Empty => "it has no columns",
        })
    }
}

/// Lists what the selection means and capture leaves out, by schema and name.
///
/// Views are not listed: they hold nothing. Temporary tables are nobody else's business.
///
/// # Errors
/// [`Error::Sql`].
pub async fn skipped(
    client: &impl GenericClient,
    selection: &Selection,
) -> Result<Vec<Skipped>, Error> {
    let wrong = || Error::sql("list what does not follow");
    let rows = client.query(SKIPPED, &[]).await.map_err(wrong())?;
    let all: Result<Vec<_>, _> = rows.iter().map(read).collect();
    let all = all.map_err(wrong())?;
    Ok(all.into_iter().filter(|skipped| selection.has(&skipped.name)).collect())
}

const SKIPPED: &str = "\
SELECT n.nspname::text, c.relname::text,
       CASE WHEN e.is_of_extension THEN 'e' WHEN c.relkind = 'f' THEN 'f'
            WHEN c.relkind = 'm' THEN 'm' WHEN c.relpersistence = 'u' THEN 'u' ELSE '-' END
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
    AND d.deptype = 'e') AS is_of_extension) e
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND (e.is_of_extension OR c.relkind IN ('f', 'm') OR c.relpersistence = 'u'
       OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                      AND NOT a.attisdropped))
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

fn read(row: &Row) -> Result<Skipped, tokio_postgres::Error> {
    let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
    let nature = match row.try_get(2)? {
        "e" => Nature::OfExtension,
        "f" => Nature::Foreign,
        "m" => Nature::MaterializedView,
        "u" => Nature::Unlogged,
        _ => Nature::Empty,
    };
    Ok(Skipped { name, nature })
}
