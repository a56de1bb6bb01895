//! What the comparison must know of a table, read on both sides inside the transactions that compare:
//! the lock that they hold keeps the definition as it is until they end.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::replication::catalog::{Table, TableName};
use crate::replication::error::Error;

/// A table as the comparison sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its name, the same on both sides.
    pub name: TableName,
    /// Its columns in their order.
    pub columns: Vec<Column>,
    /// The columns of its key in the order of the primary's index; empty: it has none.
    pub key: Vec<KeyColumn>,
    /// Rows, as the primary guesses; 0 if it does not know.
    pub rows_estimate: u64,
    /// Bytes of its main storage on the primary.
    pub bytes: u64,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// Its type as SQL, with modifiers.
    pub type_sql: String,
    /// Whether its value is computed from others.
    pub generated: bool,
    /// Whether it is `GENERATED ALWAYS AS IDENTITY`, which no UPDATE can set.
    pub always_identity: bool,
    /// Whether it is a bytea, the text of which is twice as long as its value.
    pub is_bytea: bool,
}

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name, unquoted.
    pub name: String,
    /// Its type as SQL for a cast: without modifiers, so that no value is cut off.
    pub cast: String,
    /// How the index compares it: `OPERATOR(schema.name)` for `<`, `<=`, `=`, `>=`, `>`.
    pub operators: [String; 5],
}

impl KeyColumn {
    /// Returns one of the five by the name that it usually has.
    pub fn operator(&self, name: &str) -> &str {
        let position = ["<", "<=", "=", ">=", ">"].iter().position(|usual| *usual == name);
        position.and_then(|position| self.operators.get(position)).map_or("", String::as_str)
    }
}

impl Shape {
    /// Whether one operator compares all columns of the key.
    pub fn is_row_comparable(&self) -> bool {
        self.key.windows(2).all(|pair| match pair {
            [one, other] => one.operators == other.operators,
            _ => true,
        })
    }
}

/// How the two sides order the keys of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Alike, as far as their catalogs tell: a range of keys is the same rows on both.
    Alike,
    /// Differently, or nobody knows: rows are found by equality only.
    Unlike,
}

/// Both sides define the table differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The secondary has no such table.
    #[error("there is no such table")]
    Missing,
    /// A column is missing on the secondary.
    #[error("column {column} is missing")]
    ColumnMissing {
        /// Its name.
        column: String,
    },
    /// The secondary has a column more.
    #[error("column {column} is not on the primary")]
    ColumnExtra {
        /// Its name.
        column: String,
    },
    /// The columns stand in another order.
    #[error("its columns are in another order, from {column} on")]
    ColumnOrder {
        /// The first that stands elsewhere.
        column: String,
    },
    /// A column has another type.
    #[error("column {column} is {secondary}, not {primary}")]
    ColumnType {
        /// Its name.
        column: String,
        /// Its type on the primary.
        primary: String,
        /// Its type on the secondary.
        secondary: String,
    },
    /// A column is computed on one side only.
    #[error("column {column} is generated on one side only")]
    ColumnGenerated {
        /// Its name.
        column: String,
    },
    /// Nothing on the secondary keeps the key unique, so that rows could not be told apart.
    #[error("no unique index over the key ({key})")]
    KeyNotUnique {
        /// Names of its columns.
        key: String,
    },
}

/// One side's definition of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Whether it stands for its partitions.
    pub is_partitioned: bool,
    /// Its columns in their order.
    pub columns: Vec<Column>,
    /// For each column how its texts are ordered: empty if it has no collation, `None` if unknown.
    collations: Vec<Option<String>>,
    /// Whether a unique index covers exactly the key.
    is_key_unique: bool,
}

impl Definition {
    /// Compares with the definition of the secondary, and says how the sides order the key.
    ///
    /// # Errors
    /// The first difference that the rows' texts would show.
    pub fn compare(&self, secondary: &Self, key: &[KeyColumn]) -> Result<Order, Mismatch> {
        compare_columns(&self.columns, &secondary.columns)?;
        if !secondary.is_key_unique && !key.is_empty() {
            let names: Vec<&str> = key.iter().map(|key| key.name.as_str()).collect();
            return Err(Mismatch::KeyNotUnique { key: names.join(", ") });
        }
        let is_alike = key.iter().all(|key| {
            let position = self.columns.iter().position(|column| column.name == key.name);
            let collation = |side: &Self| side.collations.get(position?).cloned().flatten();
            collation(self).is_some_and(|own| collation(secondary) == Some(own))
        });
        Ok(if is_alike { Order::Alike } else { Order::Unlike })
    }
}

fn compare_columns(primary: &[Column], secondary: &[Column]) -> Result<(), Mismatch> {
    let lacks = |columns: &[Column], name: &str| !columns.iter().any(|other| other.name == name);
    for Column { name, .. } in primary {
        if lacks(secondary, name) {
            return Err(Mismatch::ColumnMissing { column: name.clone() });
        }
    }
    for Column { name, .. } in secondary {
        if lacks(primary, name) {
            return Err(Mismatch::ColumnExtra { column: name.clone() });
        }
    }
    for (own, other) in primary.iter().zip(secondary) {
        let column = own.name.clone();
        if own.name != other.name {
            return Err(Mismatch::ColumnOrder { column });
        }
        if own.type_sql != other.type_sql {
            return Err(Mismatch::ColumnType {
                column,
                primary: own.type_sql.clone(),
                secondary: other.type_sql.clone(),
            });
        }
        if own.generated != other.generated {
            return Err(Mismatch::ColumnGenerated { column });
        }
    }
    Ok(())
}

/// Reads how a side defines a table with this key; `None` if it has no such table.
///
/// # Errors
/// [`Error::Sql`].
pub async fn define(
    client: &Client,
    name: &TableName,
    key: &[KeyColumn],
) -> Result<Option<Definition>, Error> {
    let key: Vec<&str> = key.iter().map(|key| key.name.as_str()).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&name.schema, Type::TEXT), (&name.name, Type::TEXT), (&key, Type::TEXT_ARRAY)];
    let rows = client.query_typed(DEFINITION, &parameters).await;
    let rows = rows.map_err(Error::sql("read a table's definition"))?;
    let definition = rows.first().map(definition).transpose();
    definition.map_err(Error::sql("understand a table's definition"))
}

/// How a text is ordered is told by provider, locale and the locale's version; PostgreSQL itself
/// takes `C`, `POSIX` and `C.*` for the order of bytes, and so for never changing
/// (`get_collation_actual_version` in `pg_locale.c`). The columns of `pg_database` and `pg_collation`
/// were renamed in 15 and 17, hence the detour through JSON.
const DEFINITION: &str = "\
SELECT c.relkind = 'p',
       array_agg(a.attname::text ORDER BY a.attnum),
       array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum),
       array_agg(a.attgenerated <> '' ORDER BY a.attnum),
       array_agg(a.attidentity = 'a' ORDER BY a.attnum),
       array_agg(COALESCE(b.typbasetype, a.atttypid) = 'bytea'::regtype ORDER BY a.attnum),
       array_agg(CASE WHEN a.attcollation = 0 THEN '' ELSE l.identity END ORDER BY a.attnum),
       EXISTS (
           SELECT FROM pg_index i
           WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
             AND i.indpred IS NULL AND i.indexprs IS NULL
             AND i.indnkeyatts = cardinality($3::text[])
             AND NOT EXISTS (
                 SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS p(attnum, position)
                 JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = p.attnum
                 WHERE p.position <= i.indnkeyatts AND k.attname::text <> ALL ($3::text[])))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type b ON b.oid = a.atttypid AND b.typtype = 'd'
LEFT JOIN LATERAL (
    SELECT CASE WHEN w.provider = 'b' OR w.locale IN ('c', 'posix') OR w.locale LIKE 'c.%'
                THEN 'bytes ' || getdatabaseencoding()
                ELSE w.provider || ' ' || w.locale || ' ' || w.rules || ' ' || (
                    SELECT pg_collation_actual_version(v.oid) FROM pg_collation v
                    WHERE v.collprovider = w.provider::\"char\"
                      AND w.locale = replace(lower(COALESCE(
                          to_jsonb(v) ->> 'colllocale', to_jsonb(v) ->> 'colliculocale',
                          v.collcollate)), 'utf-8', 'utf8')
                    ORDER BY v.oid LIMIT 1)
           END AS identity
    FROM (
        SELECT x.provider, x.rules, replace(lower(x.locale), 'utf-8', 'utf8') AS locale
        FROM pg_collation o
        JOIN pg_database d ON d.datname = current_database()
        CROSS JOIN LATERAL (
            SELECT COALESCE(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
                   COALESCE(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale',
                            d.datcollate) AS locale,
                   COALESCE(to_jsonb(d) ->> 'daticurules', '') AS rules
            WHERE o.collprovider = 'd'
            UNION ALL
            SELECT o.collprovider::text,
                   COALESCE(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale',
                            o.collcollate),
                   COALESCE(to_jsonb(o) ->> 'collicurules', '')
            WHERE o.collprovider <> 'd'
        ) x
        WHERE o.oid = a.attcollation
    ) w
) l ON true
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
GROUP BY c.oid, c.relkind";

fn definition(row: &Row) -> Result<Definition, tokio_postgres::Error> {
    let names: Vec<String> = row.try_get(1)?;
    // The arrays are aggregates over the same rows, so they are equally long.
    let mut types = row.try_get::<_, Vec<String>>(2)?.into_iter();
    let mut generated = row.try_get::<_, Vec<bool>>(3)?.into_iter();
    let mut identities = row.try_get::<_, Vec<bool>>(4)?.into_iter();
    let mut bytea = row.try_get::<_, Vec<bool>>(5)?.into_iter();
    let columns = names.into_iter().map(|name| Column {
        name,
        type_sql: types.next().unwrap_or_default(),
        generated: generated.next().unwrap_or_default(),
        always_identity: identities.next().unwrap_or_default(),
        is_bytea: bytea.next().unwrap_or_default(),
    });
    Ok(Definition {
        is_partitioned: row.try_get(0)?,
        columns: columns.collect(),
        collations: row.try_get(6)?,
        is_key_unique: row.try_get(7)?,
    })
}

/// Reads how the primary's index compares the key of a table; empty if the table has none.
///
/// # Errors
/// [`Error::Sql`], or [`Error::Unexpected`] if the index is not as it was.
pub async fn key(client: &Client, table: &Table) -> Result<Vec<KeyColumn>, Error> {
    let Some(key) = &table.key else { return Ok(Vec::new()) };
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&table.oid, Type::OID), (&key.index, Type::TEXT)];
    let rows = client.query_typed(KEY, &parameters).await;
    let rows = rows.map_err(Error::sql("read a table's key"))?;
    let columns: Result<Vec<_>, _> = rows.iter().map(key_column).collect();
    let columns = columns.map_err(Error::sql("understand a table's key"))?;
    let columns: Option<Vec<_>> = columns.into_iter().collect();
    columns.filter(|columns| columns.len() == key.columns.len()).ok_or_else(|| Error::Unexpected {
        what: format!("index {} of {} is not as it was", key.index, table.name),
    })
}

/// `format_type` with -1: without a modifier `character` would be one character, `bpchar` is any.
const KEY: &str = "\
SELECT a.attname::text, format_type(a.atttypid, -1),
       array_agg('OPERATOR(' || quote_ident(q.nspname) || '.' || r.oprname || ')'
                 ORDER BY g.amopstrategy)
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
CROSS JOIN unnest(i.indkey::int2[], i.indclass::oid[])
     WITH ORDINALITY AS p(attnum, opclass, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.attnum
JOIN pg_opclass f ON f.oid = p.opclass
JOIN pg_amop g ON g.amopfamily = f.opcfamily AND g.amopstrategy BETWEEN 1 AND 5
     AND g.amoplefttype = f.opcintype AND g.amoprighttype = f.opcintype
JOIN pg_operator r ON r.oid = g.amopopr
JOIN pg_namespace q ON q.oid = r.oprnamespace
WHERE i.indrelid = $1 AND x.relname = $2 AND p.position <= i.indnkeyatts
GROUP BY p.position, a.attname, a.atttypid
ORDER BY p.position";

fn key_column(row: &Row) -> Result<Option<KeyColumn>, tokio_postgres::Error> {
    let operators: Vec<String> = row.try_get(2)?;
    let (name, cast) = (row.try_get(0)?, row.try_get(1)?);
    Ok(operators.try_into().ok().map(|operators| KeyColumn { name, cast, operators }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_sql: &str) -> Column {
        Column {
            name: name.to_owned(),
            type_sql: type_sql.to_owned(),
            generated: false,
            always_identity: false,
            is_bytea: false,
        }
    }

    fn definition(columns: &[(&str, &str, Option<&str>)]) -> Definition {
        Definition {
            is_partitioned: false,
            columns: columns.iter().map(|(name, type_sql, _)| column(name, type_sql)).collect(),
            collations: columns.iter().map(|(.., order)| order.map(str::to_owned)).collect(),
            is_key_unique: true,
        }
    }

    fn key(name: &str) -> KeyColumn {
        let operators = ["<", "<=", "=", ">=", ">"].map(str::to_owned);
        KeyColumn { name: name.to_owned(), cast: "text".to_owned(), operators }
    }

    #[test]
    fn order_of_the_key() {
        let check = |own: Option<&str>, other: Option<&str>, expected: Order| {
            let own = definition(&[("a", "int4", Some("")), ("b", "text", own)]);
            let other = definition(&[("a", "int4", Some("")), ("b", "text", other)]);
            assert_eq!(own.compare(&other, &[key("a")]), Ok(Order::Alike));
            assert_eq!(own.compare(&other, &[key("a"), key("b")]), Ok(expected));
        };
        check(Some("bytes UTF8"), Some("bytes UTF8"), Order::Alike);
        check(Some("c de_de.utf8  2.36"), Some("c de_de.utf8  2.31"), Order::Unlike);
        // Neither side knows the version: that is no agreement.
        check(None, None, Order::Unlike);
    }

    #[test]
    fn differences() {
        let own = definition(&[("a", "int4", Some("")), ("b", "text", Some("x"))]);
        let check = |other: &[(&str, &str, Option<&str>)], expected: &str| {
            let found = own.compare(&definition(other), &[key("a")]).expect_err("they differ");
            assert_eq!(found.to_string(), expected);
        };
        let (a, b) = (("a", "int4", Some("")), ("b", "text", Some("x")));
        check(&[a], "column b is missing");
        check(&[a, b, ("c", "text", None)], "column c is not on the primary");
        check(&[b, a], "its columns are in another order, from a on");
        check(&[("a", "int8", Some("")), b], "column a is int8, not int4");
        let mut other = own.clone();
        other.is_key_unique = false;
        assert_eq!(other.compare(&own, &[key("a")]), Ok(Order::Alike));
        let found = own.compare(&other, &[key("a")]).expect_err("they differ");
        assert_eq!(found.to_string(), "no unique index over the key (a)");
    }
}
