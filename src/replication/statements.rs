//! The statements that change one table of a secondary, as SQL. Pure.
//!
//! Every name is qualified, every operator too, and values come as the texts of arrays: keys as one
//! array for each column, rows as an array of composite literals.

use super::catalog::{Column, Identity, Key, Table};
use super::coalesce::Update;
use super::literal::identifier;

/// The statements for one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statements {
    /// Deletes the rows of the keys `$1`, `$2`, …
    pub delete: String,
    /// Updates the rows of the images `$1` in place.
    pub update: String,
    /// Inserts the images `$1`.
    pub insert: String,
    /// How a row that stays is changed.
    pub how: Update,
}

impl Statements {
    /// Writes the statements for `table`, which has this key.
    pub fn new(table: &Table, key: &Key) -> Self {
        Self {
            delete: delete(table, key),
            update: update(table, key),
            insert: insert(table, &format!("unnest($1::text[]::{}[]) AS n", table.name.quoted())),
            how: how(table),
        }
    }
}

/// Chooses how rows that stay are changed.
///
/// An identity that is `GENERATED ALWAYS` cannot be updated, but a key that was deleted and came back
/// has a new one.
fn how(table: &Table) -> Update {
    let is_always = |column: &&Column| column.identity == Identity::Always;
    let is_key = |column: &&Column| table.key_columns().any(|key| key.number == column.number);
    let has_fixed = table.stored().any(|column| is_always(&column) && !is_key(&column));
    let has_free = table.stored().any(|column| !is_always(&column));
    if table.has_other_unique || has_fixed || !has_free {
        Update::ByReplacing
    } else {
        Update::InPlace
    }
}

/// `left = right` for each column of the key, by the operators of its index.
pub fn same_key(table: &Table, key: &Key, left: &str, right: &str) -> String {
    let columns = table.key_columns().zip(&key.equality);
    let conditions = columns.map(|(column, equality)| {
        let name = identifier(&column.name);
        format!("{left}.{name} {equality} {right}.{name}")
    });
    conditions.collect::<Vec<_>>().join(" AND ")
}

/// The keys of the parameters as a table `k` with the names of the key's columns.
pub fn keys(table: &Table) -> String {
    let columns = || table.key_columns().enumerate();
    let typed = columns().map(|(position, column)| {
        format!("x.k{position}::{} AS {}", column.type_sql, identifier(&column.name))
    });
    let arrays = columns().map(|(position, _)| format!("${}::text[]", position + 1));
    let names = columns().map(|(position, _)| format!("k{position}"));
    let list = |parts: Vec<String>| parts.join(", ");
    format!(
        "(SELECT {} FROM unnest({}) AS x({})) AS k",
        list(typed.collect()),
        list(arrays.collect()),
        list(names.collect())
    )
}

fn delete(table: &Table, key: &Key) -> String {
    let (from, keys) = (table.only(), keys(table));
    format!("DELETE FROM {from} AS t USING {keys} WHERE {}", same_key(table, key, "t", "k"))
}

fn update(table: &Table, key: &Key) -> String {
    let key_names: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    let data = || table.stored().filter(|column| column.identity != Identity::Always);
    let is_key = |name: &str| key_names.contains(&name);
    // The text of a key does not change, so its columns are left alone: that keeps HOT updates. A
    // table of nothing but its key still needs something to set.
    let has_more = data().any(|column| !is_key(&column.name));
    let set = data().filter(|column| !has_more || !is_key(&column.name)).map(|column| {
        let name = identifier(&column.name);
        format!("{name} = n.{name}")
    });
    let set = set.collect::<Vec<_>>().join(", ");
    let images = format!("unnest($1::text[]::{}[]) AS n", table.name.quoted());
    let same = same_key(table, key, "t", "n");
    format!("UPDATE {} AS t SET {set} FROM {images} WHERE {same}", table.only())
}

/// Inserts the rows `n` of `from`.
pub fn insert(table: &Table, from: &str) -> String {
    let names: Vec<_> = table.stored().map(|column| identifier(&column.name)).collect();
    let values: Vec<_> = names.iter().map(|name| format!("n.{name}")).collect();
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {from}",
        table.name.quoted(),
        names.join(", "),
        values.join(", ")
    )
}
