//! Writes the functions and triggers of one table, as SQL. Pure: the same for the same input.
//!
//! Each operation has a function of its own with static SQL and no branch, so that a change costs
//! one cached plan. All of them run as their owner (`SECURITY DEFINER`), so that nobody else needs a
//! right on the log. Every name in them is qualified, and those for rows have no operator: they mean
//! the same under any `search_path`, and pin it only where a type prints by it, as that would be a
//! third of the cost of an update's capture.
//!
//! - A transition table is found before any other name.
//! - A key is printed by the output functions of its types, never by a cast: a cast may be another
//!   role's function, and `inet`, `bool` and `char(n)` print otherwise when cast.
//! - `NEW` and the rows of a transition table are anonymous records, so that no cast of the table's
//!   row type is ever looked for.
//! - Rows of a partitioned table are written column by column in the order of the root: a partition
//!   may have them in another one.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::shape::{Inserts, Leaf, Pin, Shape};
use crate::replication::catalog::{Column, Kind, Table};
use crate::replication::literal;

/// What sorts before the names that people give. Triggers of one event fire in the order of their
/// names, and ours should see each change before theirs make others.
const PREFIX: &str = "!pgtandem";

/// Types of `pg_catalog` whose cast to text is their output function, by oid.
///
/// int8 int2 int4 text oid float4 float8 varchar date timestamp timestamptz numeric uuid
const PRINTED_BY_CAST: [u32; 13] =
    [20, 21, 23, 25, 26, 700, 701, 1043, 1082, 1114, 1184, 1700, 2950];

/// Numbers from here on are of tables that definitions have put under capture; `sql/step_2.sql` gives
/// them out. Their triggers have the number in their names: such a table can become the partition of
/// another one, whose triggers come to it.
pub const DEFINED: i32 = 1_000_000_000;

// Bits of `pg_trigger.tgtype`; `src/include/catalog/pg_trigger.h`.
const ROW: i16 = 1;
const BEFORE: i16 = 2;
const INSERT: i16 = 4;
const DELETE: i16 = 8;
const UPDATE: i16 = 16;
const TRUNCATE: i16 = 32;

/// One of our trigger functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name in our schema, unquoted.
    pub name: String,
    /// Its source, to the byte as `pg_proc.prosrc` has it.
    pub body: String,
    /// Its settings, in the form of `pg_proc.proconfig`.
    pub settings: Vec<String>,
    /// Who may have a trigger call it, beside us: whoever makes a partition needs that for the copies of
    /// the row triggers that it gets.
    pub caller: Option<String>,
}

/// One of our triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name, unquoted.
    pub name: String,
    /// The oid of the table that it is on.
    pub relid: u32,
    /// That table, in quotes.
    pub relation: String,
    /// The function that it calls.
    pub function: String,
    /// When it fires, in the form of `pg_trigger.tgtype`.
    pub kind: i16,
    /// Whether PostgreSQL makes it, as the copy of a trigger of the partitioned table.
    pub is_copy: bool,
}

/// Everything that captures one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The functions.
    pub functions: Vec<Function>,
    /// The triggers, those on partitions after those that they are copies of.
    pub triggers: Vec<Trigger>,
}

impl Installation {
    /// Plans the capture of a table that has `number` in `pgtandem.tables`, into log `active`.
    pub fn new(table: &Table, shape: &Shape, number: i32, active: i32) -> Self {
        let writer = Writer { table, shape, number, active };
        Self { functions: writer.functions(), triggers: writer.triggers() }
    }
}

impl Function {
    /// Writes the statement that makes the function, or replaces it where it is. Takes no lock on a
    /// table.
    pub fn create(&self) -> String {
        let mut sql = format!(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER",
            literal::qualified("pgtandem", &self.name)
        );
        for setting in &self.settings {
            // Written by us, in the form "name=value".
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let value = if name == "search_path" { value.to_owned() } else { literal::text(value) };
            // Writing to a string does not fail.
            let _ = write!(sql, "\n    SET {} TO {value}", literal::identifier(name));
        }
        let _ = write!(sql, "\n    AS {}", literal::text(&self.body));
        sql
    }

    /// Writes the statement that lets its caller have triggers call it, if it has one.
    pub fn open(&self) -> Option<String> {
        let caller = self.caller.as_deref()?;
        let function = literal::qualified("pgtandem", &self.name);
        Some(format!("GRANT EXECUTE ON FUNCTION {function}() TO {}", literal::identifier(caller)))
    }
}

impl Trigger {
    /// Writes the statement that makes the trigger. Waits for the table's running writers.
    pub fn create(&self) -> String {
        let when = if self.kind & BEFORE == 0 { "AFTER" } else { "BEFORE" };
        let each = if self.kind & ROW == 0 { "STATEMENT" } else { "ROW" };
        let (event, rows) = match self.kind & (INSERT | DELETE | UPDATE | TRUNCATE) {
            INSERT if self.kind & ROW == 0 => ("INSERT", " REFERENCING NEW TABLE AS pgtandem_new"),
            INSERT => ("INSERT", ""),
            DELETE => ("DELETE", ""),
            UPDATE => ("UPDATE", ""),
            _ => ("TRUNCATE", ""),
        };
        format!(
            "CREATE TRIGGER {} {when} {event} ON {}{rows} FOR EACH {each} EXECUTE FUNCTION {}()",
            literal::identifier(&self.name),
            self.relation,
            literal::qualified("pgtandem", &self.function)
        )
    }

    /// Writes the statement that makes it fire under `session_replication_role = replica` too.
    pub fn enable_always(&self) -> String {
        format!(
            "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}",
            self.relation,
            literal::identifier(&self.name)
        )
    }
}

struct Writer<'a> {
    table: &'a Table,
    shape: &'a Shape,
    number: i32,
    active: i32,
}

impl Writer<'_> {
    fn is_partitioned(&self) -> bool {
        self.table.kind == Kind::Partitioned
    }

    fn named(&self, what: &str) -> String {
        format!("{what}_{}", self.number)
    }

    fn trigger_named(&self, what: &str) -> String {
        if self.number < DEFINED {
            format!("{PREFIX}_{what}")
        } else {
            format!("{PREFIX}_{what}_{}", self.number)
        }
    }

    fn functions(&self) -> Vec<Function> {
        let pins = &self.shape.pins;
        // These are rare, and name tables.
        let with_path: BTreeSet<Pin> = pins.iter().copied().chain([Pin::SearchPath]).collect();
        let mut functions = vec![
            self.function("insert", &self.on_insert(), pins),
            self.function("update", &self.on_update(), pins),
            self.function("delete", &self.on_delete(), pins),
            self.function("truncate", &self.on_truncate(), &with_path),
        ];
        if self.is_partitioned() {
            functions.push(self.function("truncate_leaf", &self.on_truncate_leaf(), &with_path));
        }
        functions
    }

    fn function(&self, what: &str, statement: &str, pins: &BTreeSet<Pin>) -> Function {
        let setting = |pin: &Pin| {
            let (name, value) = pin.setting();
            format!("{name}={value}")
        };
        let settings = pins.iter().map(setting).collect();
        let body = format!("\nBEGIN\n    {statement};\n    RETURN NULL;\nEND\n");
        let is_copied = self.is_partitioned() && !what.starts_with("truncate");
        let caller = self.shape.caller.clone().filter(|_| is_copied);
        Function { name: self.named(what), body, settings, caller }
    }

    /// `INSERT INTO log (…)`, in the one form that a rotation looks for.
    fn into(&self, columns: &str) -> String {
        format!("INSERT INTO pgtandem.log_{} ({columns})", self.active)
    }

    /// The key of `row` as `text[]`.
    fn key(&self, row: &str) -> String {
        let printed: Vec<_> = self.table.key_columns().map(|column| printed(row, column)).collect();
        format!("ARRAY[{}]", printed.join(", "))
    }

    /// The whole row `NEW`, as a composite literal.
    fn new_row(&self) -> String {
        if self.is_partitioned() {
            let columns = self.table.columns.iter();
            let columns: Vec<_> =
                columns.map(|c| format!("NEW.{}", literal::identifier(&c.name))).collect();
            format!("ROW({})::pg_catalog.text", columns.join(", "))
        } else {
            "NEW::pg_catalog.text".to_owned()
        }
    }

    /// The partition that `row` is in, where that is not the table itself.
    fn leaf(&self, row: &str) -> String {
        if self.is_partitioned() { format!("{row}.tableoid") } else { "NULL".to_owned() }
    }

    fn on_insert(&self) -> String {
        match self.shape.inserts {
            Inserts::Statement => format!(
                "{}\n    SELECT {}, 'I', {}, (n.*)::pg_catalog.text FROM pgtandem_new AS n",
                self.into("rel, op, key, new"),
                self.number,
                self.key("n")
            ),
            Inserts::Row => format!(
                "{}\n    VALUES ({}, 'I', {}, {}, {}, NEW.ctid)",
                self.into("rel, op, key, new, leaf, now"),
                self.number,
                self.key("NEW"),
                self.new_row(),
                self.leaf("NEW")
            ),
        }
    }

    fn on_update(&self) -> String {
        format!(
            "{}\n    VALUES ({}, 'U', {}, {}, {}, OLD.ctid, NEW.ctid)",
            self.into("rel, op, key, new, leaf, was, now"),
            self.number,
            self.key("OLD"),
            self.new_row(),
            self.leaf("NEW")
        )
    }

    fn on_delete(&self) -> String {
        format!(
            "{}\n    VALUES ({}, 'D', {}, {}, OLD.ctid)",
            self.into("rel, op, key, leaf, was"),
            self.number,
            self.key("OLD"),
            self.leaf("OLD")
        )
    }

    /// `TRUNCATE`. Rows that triggers of a command over several tables have written meanwhile are
    /// still there, and are written once more after it; as a rule there are none.
    fn on_truncate(&self) -> String {
        let truncate = format!("{} VALUES ({}, 'T')", self.into("rel, op"), self.number);
        if self.is_partitioned() {
            return truncate;
        }
        format!(
            "{truncate};\n    {}\n    SELECT {}, 'I', {}, pg_catalog.concat(t.*), t.ctid FROM {} AS t",
            self.into("rel, op, key, new, now"),
            self.number,
            self.key("t"),
            self.table.only()
        )
    }

    /// `TRUNCATE` of one partition: a secondary may have others, so that its rows are deleted. If
    /// the whole table is truncated, its own trigger has just said so.
    fn on_truncate_leaf(&self) -> String {
        let rows = format!(
            "{} SELECT {}, 'D', {}, t.tableoid, t.ctid FROM ONLY ",
            self.into("rel, op, key, leaf, was"),
            self.number,
            self.key("t")
        );
        let logs: Vec<_> = (0..3)
            .map(|log| {
                format!(
                    "SELECT l.id, l.op FROM pgtandem.log_{log} AS l \
                     WHERE l.xid = pg_current_xact_id() AND l.rel = {}",
                    self.number
                )
            })
            .collect();
        format!(
            "IF 'T' IS DISTINCT FROM (SELECT l.op FROM (\n        {}\n    ) l \
             ORDER BY l.id DESC LIMIT 1) THEN\n        \
             EXECUTE {} || TG_RELID::regclass::text || ' AS t';\n    END IF",
            logs.join("\n        UNION ALL "),
            literal::text(&rows)
        )
    }

    fn triggers(&self) -> Vec<Trigger> {
        let table = self.table.name.quoted();
        let trigger = |what: &str, kind| Trigger {
            name: self.trigger_named(what),
            relid: self.table.oid,
            relation: table.clone(),
            function: self.named(what),
            kind,
            is_copy: false,
        };
        let inserts = if self.shape.inserts == Inserts::Row { ROW | INSERT } else { INSERT };
        let truncates = if self.is_partitioned() { BEFORE | TRUNCATE } else { TRUNCATE };
        let own = vec![
            trigger("insert", inserts),
            trigger("update", ROW | UPDATE),
            trigger("delete", ROW | DELETE),
            trigger("truncate", truncates),
        ];
        let leaves = self.shape.leaves.iter().flat_map(|leaf| self.leaf_triggers(leaf, &own));
        let leaves: Vec<_> = leaves.collect();
        own.into_iter().chain(leaves).collect()
    }

    fn leaf_triggers(&self, leaf: &Leaf, own: &[Trigger]) -> Vec<Trigger> {
        let on_leaf = |trigger: &Trigger| Trigger {
            relid: leaf.oid,
            relation: leaf.name.clone(),
            ..trigger.clone()
        };
        let copies = own.iter().filter(|trigger| trigger.kind & ROW != 0);
        let copies = copies.map(|trigger| Trigger { is_copy: true, ..on_leaf(trigger) });
        let truncate = Trigger {
            name: self.trigger_named("truncate"),
            relid: leaf.oid,
            relation: leaf.name.clone(),
            function: self.named("truncate_leaf"),
            kind: BEFORE | TRUNCATE,
            is_copy: false,
        };
        copies.chain([truncate]).collect()
    }
}

/// A column of `row` as its type's output function prints it.
fn printed(row: &str, column: &Column) -> String {
    let value = format!("{row}.{}", literal::identifier(&column.name));
    if PRINTED_BY_CAST.contains(&column.type_oid) {
        format!("{value}::pg_catalog.text")
    } else {
        format!("pg_catalog.concat({value})")
    }
}
