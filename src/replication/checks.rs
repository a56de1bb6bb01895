//! What must be right on a secondary before anything is applied there. Everything that is not is
//! said at once, with what to do about it.

use std::collections::BTreeMap;
use std::fmt;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::apply::Treatment;
use super::catalog::{Table, TableName};
use super::error::Error;
use super::literal::identifier;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A table of the primary does not exist.
    NoTable(TableName),
    /// A table has other columns, in another order or of other types.
    Columns {
        /// The table.
        table: TableName,
        /// The first difference, in words.
        difference: String,
    },
    /// Nothing makes the primary's key unique.
    Key {
        /// The table.
        table: TableName,
        /// The columns of the primary's key.
        primary: Vec<String>,
    },
    /// A trigger would fire for what we apply.
    Trigger {
        /// The table.
        table: TableName,
        /// The trigger.
        trigger: String,
    },
    /// A rule would rewrite what we apply.
    Rule {
        /// The table.
        table: TableName,
        /// The rule.
        rule: String,
    },
    /// A foreign key would refuse rows in the order in which we apply them, or change others.
    ForeignKey {
        /// The table that refers to another.
        table: TableName,
        /// The constraint.
        constraint: String,
        /// What would have to be done about it.
        remedy: Remedy,
    },
}

/// What can be done about a foreign key, besides being allowed to switch it off for our sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Its owner may have it checked later.
    Defer,
    /// It changes rows.
    Drop,
}

impl Obstacle {
    /// Writes the statement with which the owner of the table removes it, if that loses nothing.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Trigger { table, trigger } => Some(format!(
                "ALTER TABLE {} DISABLE TRIGGER {}",
                table.quoted(),
                identifier(trigger)
            )),
            Self::ForeignKey { table, constraint, remedy: Remedy::Defer } => Some(format!(
                "ALTER TABLE {} ALTER CONSTRAINT {} DEFERRABLE",
                table.quoted(),
                identifier(constraint)
            )),
            Self::ForeignKey { remedy: Remedy::Drop, .. }
            | Self::NoTable(_)
            | Self::Columns { .. }
            | Self::Key { .. }
            | Self::Rule { .. } => None,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable(table) => write!(f, "{table} does not exist"),
            Self::Columns { table, difference } => write!(f, "{table}: {difference}"),
            Self::Key { table, primary } => {
                write!(f, "{table} has no unique index over ({}) as its key", primary.join(", "))
            }
            Self::Trigger { table, trigger } => write!(
                f,
                "{table}: trigger {trigger} would fire; ALTER TABLE … DISABLE TRIGGER USER, or \
                 GRANT SET ON PARAMETER session_replication_role"
            ),
            Self::Rule { table, rule } => write!(f, "{table}: rule {rule} would rewrite changes"),
            Self::ForeignKey { table, constraint, remedy } => {
                let remedy = match remedy {
                    Remedy::Defer => "ALTER TABLE … ALTER CONSTRAINT … DEFERRABLE",
                    Remedy::Drop => {
                        "its action would change rows once more; drop it until the cutover"
                    }
                };
                write!(
                    f,
                    "{table}: foreign key {constraint}: {remedy}, or GRANT SET ON PARAMETER \
                     session_replication_role"
                )
            }
        }
    }
}

/// Compares the definitions of the tables that follow on both sides.
pub fn definitions(primary: &[Table], secondary: &[Table]) -> Vec<Obstacle> {
    let there: BTreeMap<&TableName, &Table> =
        secondary.iter().map(|table| (&table.name, table)).collect();
    let check = |table: &Table| match there.get(&table.name) {
        None => Some(Obstacle::NoTable(table.name.clone())),
        Some(other) => columns(table, other).or_else(|| key(table, other)),
    };
    primary.iter().filter_map(check).collect()
}

fn columns(primary: &Table, secondary: &Table) -> Option<Obstacle> {
    let obstacle = |difference| Some(Obstacle::Columns { table: primary.name.clone(), difference });
    let mut others = secondary.columns.iter();
    for (column, number) in primary.columns.iter().zip(1..) {
        let name = &column.name;
        let Some(other) = others.next() else {
            return obstacle(format!("column {name} is missing"));
        };
        if other.name != *name {
            return obstacle(format!("column {number} is {}, not {name}", other.name));
        }
        if other.type_sql != column.type_sql {
            let (found, wanted) = (&other.type_sql, &column.type_sql);
            return obstacle(format!("column {name} is {found}, not {wanted}"));
        }
        if other.generated != column.generated {
            return obstacle(format!("column {name} is generated on one side only"));
        }
    }
    let extra = others.next()?;
    obstacle(format!("column {} is not on the primary", extra.name))
}

fn key(primary: &Table, secondary: &Table) -> Option<Obstacle> {
    let names = |table: &Table| -> Vec<String> {
        table.key_columns().map(|column| column.name.clone()).collect()
    };
    let is_same = names(primary) == names(secondary);
    (!is_same).then(|| Obstacle::Key { table: primary.name.clone(), primary: names(primary) })
}

/// Makes the session one of a replica, if the role may do that, and finds out what else stands in
/// the way of applying changes to these tables.
///
/// # Errors
/// [`Error::Sql`].
pub async fn treatment(
    client: &Client,
    tables: &[&Table],
) -> Result<(Treatment, Vec<Obstacle>), Error> {
    let wrong = || Error::sql("look for triggers and foreign keys");
    let is_replica = match client.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => false,
        Err(error) => return Err(Error::sql("set session_replication_role")(error)),
    };
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let fires = if is_replica { "RA" } else { "OA" };
    let mut obstacles = Vec::new();
    for row in client.query(TRIGGERS, &[&oids, &fires]).await.map_err(wrong())? {
        let (table, trigger, is_rule) = named(&row).map_err(wrong())?;
        obstacles.push(if is_rule {
            Obstacle::Rule { table, rule: trigger }
        } else {
            Obstacle::Trigger { table, trigger }
        });
    }
    if is_replica {
        return Ok((Treatment::Off, obstacles));
    }
    let mut treatment = Treatment::Off;
    for row in client.query(FOREIGN_KEYS, &[&oids]).await.map_err(wrong())? {
        treatment = Treatment::Deferred;
        let (table, constraint, is_deferrable) = named(&row).map_err(wrong())?;
        let has_action: bool = row.try_get(4).map_err(wrong())?;
        let remedy = if has_action {
            Remedy::Drop
        } else if !is_deferrable {
            Remedy::Defer
        } else {
            continue;
        };
        obstacles.push(Obstacle::ForeignKey { table, constraint, remedy });
    }
    Ok((treatment, obstacles))
}

/// Schema, table, name, and a yes or no.
fn named(row: &Row) -> Result<(TableName, String, bool), tokio_postgres::Error> {
    let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
    Ok((table, row.try_get(2)?, row.try_get(3)?))
}

/// Triggers and rules on the tables of `$1` and their partitions that fire in a session like ours.
/// Capture's own only write down what happens.
const TRIGGERS: &str = "\
WITH tables AS (
    SELECT unnest($1::oid[]) AS oid
  UNION
    SELECT p.relid FROM unnest($1::oid[]) AS t(oid)
    CROSS JOIN LATERAL pg_partition_tree(t.oid) p
)
SELECT n.nspname::text, c.relname::text, g.tgname::text, false
FROM pg_trigger g
JOIN tables ON tables.oid = g.tgrelid
JOIN pg_class c ON c.oid = g.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_proc f ON f.oid = g.tgfoid
JOIN pg_namespace m ON m.oid = f.pronamespace
WHERE NOT g.tgisinternal AND strpos($2::text, g.tgenabled::text) > 0 AND m.nspname <> 'pgtandem'
UNION ALL
SELECT n.nspname::text, c.relname::text, r.rulename::text, true
FROM pg_rewrite r
JOIN tables ON tables.oid = r.ev_class
JOIN pg_class c ON c.oid = r.ev_class
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE strpos($2::text, r.ev_enabled::text) > 0 AND r.ev_type <> '1'
ORDER BY 1, 2, 3";

/// Foreign keys from or to the tables of `$1`.
const FOREIGN_KEYS: &str = "\
SELECT n.nspname::text, c.relname::text, k.conname::text, k.condeferrable,
       k.confupdtype <> 'a' OR k.confdeltype <> 'a'
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
  AND (k.conrelid = ANY ($1::oid[]) OR k.confrelid = ANY ($1::oid[]))
ORDER BY 1, 2, 3";
