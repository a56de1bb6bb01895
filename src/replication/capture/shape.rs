//! What capture must know of a table beyond its definition: which triggers others put on it, which
//! settings the texts of its values depend on, its partitions, and what we may do with it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use tokio_postgres::{GenericClient, Row};

use crate::replication::catalog::Table;
use crate::replication::error::Error;

/// How inserted rows are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserts {
    /// All rows of a statement at its end, from its transition table: about twice as fast in bulk.
    Statement,
    /// Row by row, with the version of each row.
    Row,
}

impl Inserts {
    /// How it is written in `pgtandem.tables`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Row => "row",
        }
    }

    /// Reads what [`Inserts::as_str`] wrote.
    pub(super) fn written(text: &str) -> Self {
        if text == Self::Row.as_str() { Self::Row } else { Self::Statement }
    }
}

/// A partition that holds rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its oid.
    pub oid: u32,
    /// Its name with its schema, in quotes.
    pub name: String,
}

/// What capture must know of a table beyond [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// How inserted rows are captured, as its triggers are now.
    pub inserts: Inserts,
    /// The settings that the functions of its rows must pin.
    pub pins: BTreeSet<Pin>,
    /// The partitions that hold rows; none for an ordinary table.
    pub leaves: Vec<Leaf>,
    /// Whether we may decide that its triggers fire always.
    pub is_owner: bool,
    /// The owner of a partitioned table, if that is somebody else.
    pub caller: Option<String>,
}

/// Why a table cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing tells its rows apart.
    NoKey,
    /// Its only candidate for a key is checked at the end of the transaction: two rows may have the
    /// same key in between.
    DeferrableKey,
    /// We may not create triggers on it.
    NoTriggerRight,
    /// We may not read it.
    NoSelectRight,
    /// Its policies hide rows from us.
    RowSecurity,
    /// A partition holds its rows on another server.
    ForeignPartition {
        /// The partition.
        name: String,
    },
    /// A partition loses its rows in a crash.
    UnloggedPartition {
        /// The partition.
        name: String,
    },
    /// Its rows are not in PostgreSQL's own kind of storage, so that their versions cannot be told
    /// apart.
    Storage {
        /// The access method.
        method: String,
    },
    /// It is gone.
    Gone,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str(
                "it has no primary key, and no unique index over columns that are NOT NULL; add \
                 one, or ALTER TABLE … REPLICA IDENTITY USING INDEX",
            ),
            Self::DeferrableKey => f.write_str(
                "its key is DEFERRABLE: two rows may share it for a while; add a unique index \
                 over the same columns",
            ),
            Self::NoTriggerRight => f.write_str("admin_user may not create triggers on it"),
            Self::NoSelectRight => f.write_str("admin_user may not read it"),
            Self::RowSecurity => f.write_str(
                "its row level security hides rows from admin_user; make it the owner, or give \
                 it BYPASSRLS",
            ),
            Self::ForeignPartition { name } => {
                write!(f, "its partition {name} is a foreign table")
            }
            Self::UnloggedPartition { name } => write!(f, "its partition {name} is UNLOGGED"),
            Self::Storage { method } => write!(f, "it is stored by {method}, not by heap"),
            Self::Gone => f.write_str("it does not exist any more"),
        }
    }
}

/// A setting that output functions read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// Dates and times.
    DateStyle,
    /// Intervals.
    IntervalStyle,
    /// Times with a zone.
    TimeZone,
    /// Binary floating point, and geometry made of it.
    ExtraFloatDigits,
    /// `bytea`.
    ByteaOutput,
    /// `money`.
    LcMonetary,
    /// Names of objects: whether they are in quotes.
    QuoteAllIdentifiers,
    /// Names of objects: which are written without their schema.
    SearchPath,
}

impl Pin {
    /// All of them, for types that are not known.
    pub const ALL: [Self; 8] = [
        Self::DateStyle,
        Self::IntervalStyle,
        Self::TimeZone,
        Self::ExtraFloatDigits,
        Self::ByteaOutput,
        Self::LcMonetary,
        Self::QuoteAllIdentifiers,
        Self::SearchPath,
    ];

    /// The setting's name, as PostgreSQL spells it, and its value.
    pub fn setting(self) -> (&'static str, &'static str) {
        match self {
            Self::DateStyle => ("DateStyle", "ISO, MDY"),
            Self::IntervalStyle => ("IntervalStyle", "postgres"),
            Self::TimeZone => ("TimeZone", "UTC"),
            Self::ExtraFloatDigits => ("extra_float_digits", "3"),
            Self::ByteaOutput => ("bytea_output", "hex"),
            Self::LcMonetary => ("lc_monetary", "C"),
            Self::QuoteAllIdentifiers => ("quote_all_identifiers", "off"),
            Self::SearchPath => ("search_path", "pg_catalog, pg_temp"),
        }
    }

    /// What the output function of a type reads besides the value, by the type's oid.
    ///
    /// Arrays, domains, composites and ranges are known by what they are made of, and print it with
    /// its own output function; enums read nothing. A type that is not listed, such as one of an
    /// extension, gets all. Source: the `*_out` functions in `src/backend/utils/adt`.
    fn of(type_oid: u32) -> &'static [Self] {
        match type_oid {
            // bool "char" name int8 int2 int2vector int4 text oid tid xid cid oidvector json xml
            16 | 18..=23 | 25..=30 | 114 | 142
            // cidr macaddr8 macaddr inet bpchar varchar bit varbit numeric uuid pg_lsn tsvector
            | 650 | 774 | 829 | 869 | 1042 | 1043 | 1560 | 1562 | 1700 | 2950 | 3220 | 3614
            // tsquery jsonb jsonpath xid8
            | 3615 | 3802 | 4072 | 5069 => &[],
            // date time timestamp
            1082 | 1083 | 1114 => &[Self::DateStyle],
            // timestamptz timetz
            1184 | 1266 => &[Self::DateStyle, Self::TimeZone],
            1186 => &[Self::IntervalStyle],
            // point lseg path box polygon line float4 float8 circle
            600..=604 | 628 | 700 | 701 | 718 => &[Self::ExtraFloatDigits],
            17 => &[Self::ByteaOutput],
            790 => &[Self::LcMonetary],
            _ => &Self::ALL,
        }
    }
}

impl Shape {
    /// The same as a definition captures it, before anybody has looked at the types: all is pinned.
    pub(super) fn plain(&self) -> Self {
        Self { pins: Pin::ALL.into(), ..self.clone() }
    }

    /// Reads the shapes of tables by oid, or why one cannot be captured.
    ///
    /// Every table of `tables` is in the answer.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn read(
        client: &impl GenericClient,
        tables: &[&Table],
    ) -> Result<HashMap<u32, Result<Self, Refusal>>, Error> {
        let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
        let rows = client.query(SHAPES, &[&oids]).await;
        let rows = rows.map_err(Error::sql("read the triggers of the tables"))?;
        let mut shapes: HashMap<_, _> =
            oids.into_iter().map(|oid| (oid, Err(Refusal::Gone))).collect();
        for row in rows {
            let wrong = Error::sql("understand the triggers of the tables");
            let (oid, shape) = Self::understand(&row, tables).map_err(wrong)?;
            shapes.insert(oid, shape);
        }
        Ok(shapes)
    }

    fn understand(
        row: &Row,
        tables: &[&Table],
    ) -> Result<(u32, Result<Self, Refusal>), tokio_postgres::Error> {
        let oid: u32 = row.try_get("oid")?;
        let has_key = tables.iter().any(|table| table.oid == oid && table.key.is_some());
        Ok((
            oid,
            Self::refusal(row, has_key)?
                .map_or_else(|| Self::of(row).map(Ok), |why| Ok(Err(why)))?,
        ))
    }

    fn refusal(row: &Row, has_key: bool) -> Result<Option<Refusal>, tokio_postgres::Error> {
        // The catalog's functions say nothing of a table that has just gone.
        for what in ["may_trigger", "may_select", "is_row_security_active"] {
            if row.try_get::<_, Option<bool>>(what)?.is_none() {
                return Ok(Some(Refusal::Gone));
            }
        }
        let is = |what| row.try_get::<_, bool>(what);
        let name = |what| row.try_get::<_, Option<String>>(what);
        Ok(if !has_key && is("has_deferrable_key")? {
            Some(Refusal::DeferrableKey)
        } else if !has_key {
            Some(Refusal::NoKey)
        } else if !is("may_trigger")? {
            Some(Refusal::NoTriggerRight)
        } else if !is("may_select")? {
            Some(Refusal::NoSelectRight)
        } else if is("is_row_security_active")? {
            Some(Refusal::RowSecurity)
        } else if let Some(name) = name("foreign_leaf")? {
            Some(Refusal::ForeignPartition { name })
        } else if let Some(name) = name("unlogged_leaf")? {
            Some(Refusal::UnloggedPartition { name })
        } else {
            name("other_storage")?.map(|method| Refusal::Storage { method })
        })
    }

    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let types: Vec<u32> = row.try_get("types")?;
        let pins = types.into_iter().flat_map(Pin::of).copied().collect();
        let is_row = row.try_get("has_row_triggers")? || row.try_get("is_partitioned")?;
        let oids: Vec<u32> = row.try_get("leaf_oids")?;
        let names: Vec<String> = row.try_get("leaf_names")?;
        Ok(Self {
            inserts: if is_row { Inserts::Row } else { Inserts::Statement },
            pins,
            leaves: oids.into_iter().zip(names).map(|(oid, name)| Leaf { oid, name }).collect(),
            is_owner: row.try_get("is_owner")?,
            caller: row.try_get("caller")?,
        })
    }
}

/// Everything about the tables of `$1`; no row for one that is gone.
///
/// Our own triggers are known by the schema of their functions. Other people's triggers before or
/// after rows, or after statements, may write to the same table in the middle of a statement.
const SHAPES: &str = "\
SELECT c.oid, c.relkind = 'p' AS is_partitioned,
       pg_has_role(c.relowner, 'USAGE') AS is_owner,
       (SELECT pg_get_userbyid(c.relowner)::text FROM pg_namespace n
        WHERE n.nspname = 'pgtandem' AND c.relkind = 'p' AND n.nspowner <> c.relowner) AS caller,
       has_table_privilege(c.oid, 'TRIGGER') AS may_trigger,
       has_table_privilege(c.oid, 'SELECT') AND COALESCE(p.may_select, true) AS may_select,
       row_security_active(c.oid) OR COALESCE(p.is_row_security_active, false)
           AS is_row_security_active,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
               AND NOT i.indimmediate) AS has_deferrable_key,
       EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
               WHERE (g.tgrelid = c.oid OR g.tgrelid = ANY (p.oids))
                 AND f.pronamespace NOT IN (SELECT oid FROM pg_namespace
                                            WHERE nspname = 'pgtandem')
                 AND (NOT g.tgisinternal OR g.tgparentid <> 0)
                 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.oid = g.tgconstraint
                                 AND k.contype <> 't')
                 AND g.tgtype & 28 <> 0 AND g.tgtype & 3 <> 2) AS has_row_triggers,
       p.foreign_leaf, p.unlogged_leaf,
       (SELECT m.amname::text FROM pg_am m WHERE m.amname <> 'heap'
        AND (m.oid = ANY (p.methods) OR c.relkind = 'r' AND m.oid = c.relam) LIMIT 1)
           AS other_storage,
       t.types,
       COALESCE(p.leaf_oids, '{}') AS leaf_oids, COALESCE(p.leaf_names, '{}') AS leaf_names
FROM pg_class c
CROSS JOIN LATERAL (
    WITH RECURSIVE types(oid) AS (
        SELECT atttypid FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
      UNION
        SELECT part.oid
        FROM types JOIN pg_type t ON t.oid = types.oid
        CROSS JOIN LATERAL (
            SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
          UNION ALL
            SELECT t.typelem WHERE t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0
          UNION ALL
            SELECT rngsubtype FROM pg_range WHERE t.typtype = 'r' AND rngtypid = t.oid
          UNION ALL
            SELECT atttypid FROM pg_attribute
            WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
        ) part
    )
    SELECT COALESCE(array_agg(t.oid), '{}') AS types
    FROM types JOIN pg_type t ON t.oid = types.oid
    WHERE t.typtype NOT IN ('d', 'c', 'r', 'e')
      AND NOT (t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0)
) t
LEFT JOIN LATERAL (
    SELECT array_agg(l.oid) AS oids,
           bool_and(has_table_privilege(l.oid, 'SELECT')) AS may_select,
           bool_or(row_security_active(l.oid)) AS is_row_security_active,
           min(x.name) FILTER (WHERE p.isleaf AND l.relkind = 'f') AS foreign_leaf,
           min(x.name) FILTER (WHERE p.isleaf AND l.relpersistence = 'u') AS unlogged_leaf,
           array_agg(l.relam) FILTER (WHERE p.isleaf) AS methods,
           array_agg(l.oid ORDER BY l.oid) FILTER (WHERE p.isleaf) AS leaf_oids,
           array_agg(x.name ORDER BY l.oid) FILTER (WHERE p.isleaf) AS leaf_names
    FROM pg_partition_tree(c.oid) p
    JOIN pg_class l ON l.oid = p.relid
    JOIN pg_namespace n ON n.oid = l.relnamespace
    CROSS JOIN LATERAL (SELECT format('%I.%I', n.nspname, l.relname) AS name) x
    WHERE c.relkind = 'p'
) p ON true
WHERE c.oid = ANY ($1) AND c.relkind IN ('r', 'p')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_pin_what_they_print_with() {
        assert_eq!(Pin::of(23), &[]);
        assert_eq!(Pin::of(1184), &[Pin::DateStyle, Pin::TimeZone]);
        assert_eq!(Pin::of(790), &[Pin::LcMonetary]);
        // regclass, and a type of an extension.
        assert_eq!(Pin::of(2205), &Pin::ALL);
        assert_eq!(Pin::of(17_000), &Pin::ALL);
    }
}
