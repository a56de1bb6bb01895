//! The statements of the comparison, as text. No I/O.
//!
//! A *range* is `(after, upto]` by the key, either end may be open. It is written as a comparison of
//! rows, which PostgreSQL finds by the index. Keys travel as texts and are cast to the key's types;
//! every operator is named with its schema, so that `citext` is compared as `citext`.

use std::fmt::Write as _;

use crate::replication::literal::identifier;

use super::shape::Shape;

/// How a row becomes 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// `hashtextextended` over the row's text: the fastest there is.
    Fast,
    /// The first 64 bits of `sha256` over the row's text in UTF-8, where servers do not hash alike or
    /// have different encodings; four times slower. (md5 is as slow, and refused in FIPS mode.)
    Strong,
}

/// What of a row is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The text of the whole row: it must be shorter than 1 GiB.
    Row,
    /// The texts of the columns, each hashed by itself; half as fast.
    Columns,
}

/// Which ends of a range are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Whether there is a key that all rows are after.
    pub after: bool,
    /// Whether there is a key that no row is after.
    pub upto: bool,
}

/// Writes the statements about one table.
#[derive(Debug, Clone, Copy)]
pub struct Statements<'a> {
    /// The table.
    pub shape: &'a Shape,
    /// Whether the table stands for its partitions on the side that is asked.
    pub is_partitioned: bool,
    /// How a row becomes 64 bits.
    pub digest: Digest,
}

impl Statements<'_> {
    /// Counts the rows of a range and sums up their hashes: `count int8, sum text`.
    ///
    /// Parameters: the texts of `after`, then those of `upto`.
    pub fn sums(&self, bounds: Bounds, form: Form) -> String {
        format!(
            "SELECT pg_catalog.count(*), \
             COALESCE(pg_catalog.sum({hash}), 0::pg_catalog.numeric)::pg_catalog.text \
             FROM {table} AS r{filter}",
            hash = self.hash(form),
            table = self.table(),
            filter = self.filter(bounds),
        )
    }

    /// Finds the key of the `rows`th row of a range: the texts of the key, or no row.
    pub fn boundary(&self, bounds: Bounds, rows: u64) -> String {
        format!(
            "SELECT {key} FROM {table} AS r{filter} ORDER BY {order} OFFSET {offset} LIMIT 1",
            key = self.key_texts(),
            table = self.table(),
            filter = self.filter(bounds),
            order = self.order(),
            offset = rows.saturating_sub(1),
        )
    }

    /// Lists the first `rows` rows of a range: the texts of the key, then `hash int8`.
    pub fn list(&self, bounds: Bounds, form: Form, rows: u64) -> String {
        format!(
            "SELECT {key}, {hash} FROM {table} AS r{filter} ORDER BY {order} LIMIT {rows}",
            key = self.key_texts(),
            hash = self.hash(form),
            table = self.table(),
            filter = self.filter(bounds),
            order = self.order(),
        )
    }

    /// Finds rows by their keys: `position int8` among the keys from 1, then `hash int8`.
    ///
    /// Parameters: for each column of the key, the texts as an array.
    pub fn lookup(&self, form: Form) -> String {
        format!(
            "SELECT k.position, {hash} FROM {keys} JOIN {table} AS r ON {equal}",
            hash = self.hash(form),
            keys = self.keys(),
            table = self.table(),
            equal = self.equal(),
        )
    }

    /// Finds rows by their keys: `position int8` among the keys from 1, then the row's columns as the
    /// text of a composite value.
    pub fn images(&self) -> String {
        format!(
            "SELECT k.position, {row}::pg_catalog.text FROM {keys} JOIN {table} AS r ON {equal}",
            row = self.row(|column| column),
            keys = self.keys(),
            table = self.table(),
            equal = self.equal(),
        )
    }

    /// Deletes rows by their keys; parameters as for [`Statements::lookup`].
    pub fn delete(&self) -> String {
        format!(
            "DELETE FROM {table} AS r USING {keys} WHERE {equal}",
            table = self.table(),
            keys = self.keys(),
            equal = self.equal(),
        )
    }

    /// Inserts rows of [`Statements::images`]; parameter: the images as an array of texts.
    pub fn insert(&self) -> String {
        let stored: Vec<&str> = self.stored().collect();
        let names: Vec<String> = stored.iter().map(|name| identifier(name)).collect();
        let values: Vec<String> =
            stored.iter().map(|name| format!("(i.image).{}", identifier(name))).collect();
        format!(
            "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE \
             SELECT {values} FROM {images} AS i",
            table = self.shape.name.quoted(),
            names = names.join(", "),
            values = values.join(", "),
            images = self.given_images(),
        )
    }

    /// Gives rows the values of [`Statements::images`]; parameter: the images as an array of texts.
    ///
    /// `None` if there is nothing to set: all columns are the key's, an identity's or computed.
    pub fn update(&self) -> Option<String> {
        let settable: Vec<&str> = self
            .shape
            .columns
            .iter()
            .filter(|column| !column.generated && !column.always_identity)
            .map(|column| column.name.as_str())
            .collect();
        if settable.is_empty() {
            return None;
        }
        let set: Vec<String> = settable
            .iter()
            .map(|name| format!("{name} = (i.image).{name}", name = identifier(name)))
            .collect();
        let equal: Vec<String> = self
            .shape
            .key
            .iter()
            .map(|key| {
                let name = identifier(&key.name);
                format!("r.{name} {} (i.image).{name}", key.operator("="))
            })
            .collect();
        Some(format!(
            "UPDATE {table} AS r SET {set} FROM {images} AS i WHERE {equal}",
            table = self.table(),
            set = set.join(", "),
            images = self.given_images(),
            equal = equal.join(" AND "),
        ))
    }

    /// `OFFSET 0` keeps the cast from being repeated for every column.
    fn given_images(&self) -> String {
        format!(
            "(SELECT i.image::{row} AS image \
             FROM pg_catalog.unnest($1::pg_catalog.text[]) AS i(image) OFFSET 0)",
            row = self.shape.name.quoted()
        )
    }

    fn stored(&self) -> impl Iterator<Item = &str> {
        let columns = self.shape.columns.iter().filter(|column| !column.generated);
        columns.map(|column| column.name.as_str())
    }

    fn table(&self) -> String {
        let name = self.shape.name.quoted();
        if self.is_partitioned { name } else { format!("ONLY {name}") }
    }

    fn hash(&self, form: Form) -> String {
        let text = match form {
            Form::Row => self.row(|column| column),
            Form::Columns => self.columns_hashed(),
        };
        match self.digest {
            Digest::Fast => {
                format!("pg_catalog.hashtextextended({text}::pg_catalog.text, 0)")
            }
            Digest::Strong => format!(
                "('x' || pg_catalog.encode(pg_catalog.substr(pg_catalog.sha256(\
                 pg_catalog.convert_to({text}::pg_catalog.text, 'UTF8')), 1, 8), 'hex'))\
                 ::pg_catalog.bit(64)::pg_catalog.int8"
            ),
        }
    }

    /// The row with its columns in the order that the primary has them in.
    fn row(&self, write: impl Fn(String) -> String) -> String {
        let columns: Vec<String> = self
            .shape
            .columns
            .iter()
            .map(|column| write(format!("r.{}", identifier(&column.name))))
            .collect();
        format!("ROW({})", columns.join(", "))
    }

    /// The row with its columns hashed; bytea is hashed as it is, as its text is twice as long.
    fn columns_hashed(&self) -> String {
        let columns: Vec<String> = self
            .shape
            .columns
            .iter()
            .map(|column| {
                let name = format!("r.{}", identifier(&column.name));
                match (column.is_bytea, self.digest) {
                    (true, _) => format!("pg_catalog.sha256({name})"),
                    (false, Digest::Fast) => {
                        format!("pg_catalog.hashtextextended({name}::pg_catalog.text, 0)")
                    }
                    (false, Digest::Strong) => format!(
                        "pg_catalog.sha256(\
                         pg_catalog.convert_to({name}::pg_catalog.text, 'UTF8'))"
                    ),
                }
            })
            .collect();
        format!("ROW({})", columns.join(", "))
    }

    fn key_texts(&self) -> String {
        let columns: Vec<String> = self
            .shape
            .key
            .iter()
            .map(|key| format!("r.{}::pg_catalog.text", identifier(&key.name)))
            .collect();
        columns.join(", ")
    }

    fn order(&self) -> String {
        let columns: Vec<String> = self
            .shape
            .key
            .iter()
            .map(|key| format!("r.{} USING {}", identifier(&key.name), key.operator("<")))
            .collect();
        columns.join(", ")
    }

    /// The keys given as one array for each column.
    fn keys(&self) -> String {
        let arrays: Vec<String> = (1..=self.shape.key.len())
            .map(|number| format!("pg_catalog.unnest(${number}::pg_catalog.text[])"))
            .collect();
        let names: Vec<String> =
            (1..=self.shape.key.len()).map(|number| format!("k{number}")).collect();
        format!(
            "ROWS FROM ({}) WITH ORDINALITY AS k({}, position)",
            arrays.join(", "),
            names.join(", ")
        )
    }

    fn equal(&self) -> String {
        let columns: Vec<String> = self
            .shape
            .key
            .iter()
            .zip(1..)
            .map(|(key, number)| {
                let name = identifier(&key.name);
                format!("r.{name} {} k.k{number}::{}", key.operator("="), key.cast)
            })
            .collect();
        columns.join(" AND ")
    }

    fn filter(&self, bounds: Bounds) -> String {
        let mut filter = String::new();
        let mut first = 1;
        let ends = [(bounds.after, ">"), (bounds.upto, "<=")];
        for (_, operator) in ends.into_iter().filter(|(is_closed, _)| *is_closed) {
            let word = if filter.is_empty() { "WHERE" } else { "AND" };
            // Writing to a string does not fail.
            let _ = write!(filter, " {word} {}", self.compared(operator, first));
            first += self.shape.key.len();
        }
        filter
    }

    /// The key compared with the parameters from `$first` on.
    fn compared(&self, operator: &str, first: usize) -> String {
        let key = &self.shape.key;
        let value = |position: usize, cast: &str| {
            format!("(${}::pg_catalog.text)::{cast}", first + position)
        };
        let values = key.iter().enumerate().map(|(position, key)| value(position, &key.cast));
        if self.shape.is_row_comparable() {
            let columns: Vec<String> =
                key.iter().map(|key| format!("r.{}", identifier(&key.name))).collect();
            let values: Vec<String> = values.collect();
            let operator = key.first().map(|key| key.operator(operator)).unwrap_or_default();
            return format!("ROW({}) {operator} ROW({})", columns.join(", "), values.join(", "));
        }
        // LIMIT: a comparison of rows has one operator for all columns. Where they need different
        // ones (`citext` beside `int8`), only the first column is found by the index.
        let strict = operator.trim_end_matches('=');
        let mut written = String::new();
        for (position, (column, value)) in key.iter().zip(values).enumerate().rev() {
            let name = format!("r.{}", identifier(&column.name));
            let is_last = position + 1 == key.len();
            written = if is_last {
                format!("{name} {} {value}", column.operator(operator))
            } else {
                let loose = format!("{strict}=");
                format!(
                    "({name} {loose} {value} AND ({name} {strictly} {value} OR {written}))",
                    loose = column.operator(&loose),
                    strictly = column.operator(strict),
                )
            };
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use crate::replication::catalog::TableName;

    use super::super::shape::{Column, KeyColumn};
    use super::*;

    fn operators(schema: &str) -> [String; 5] {
        ["<", "<=", "=", ">=", ">"].map(|name| format!("OPERATOR({schema}.{name})"))
    }

    fn shape(second: &str) -> Shape {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_sql: "text".to_owned(),
            generated: name == "g",
            always_identity: false,
            is_bytea: name == "b",
        };
        let key = |name: &str, cast: &str, schema: &str| KeyColumn {
            name: name.to_owned(),
            cast: cast.to_owned(),
            operators: operators(schema),
        };
        Shape {
            name: TableName { schema: "s".to_owned(), name: "t".to_owned() },
            columns: ["a", "b", "c", "g"].map(column).to_vec(),
            key: vec![key("c", "bigint", "pg_catalog"), key("a", "x.y", second)],
            rows_estimate: 0,
            bytes: 0,
        }
    }

    fn statements(shape: &Shape) -> Statements<'_> {
        Statements { shape, is_partitioned: false, digest: Digest::Fast }
    }

    fn check(statement: &str, expected: &str) {
        assert_eq!(statement.replace("pg_catalog.", "").replace("OPERATOR", ""), expected);
    }

    #[test]
    fn ranges() {
        let shape = shape("pg_catalog");
        let sql = statements(&shape);
        check(
            &sql.sums(Bounds { after: true, upto: true }, Form::Row),
            "SELECT count(*), COALESCE(sum(hashtextextended(\
             ROW(r.\"a\", r.\"b\", r.\"c\", r.\"g\")::text, 0)), 0::numeric)::text \
             FROM ONLY \"s\".\"t\" AS r \
             WHERE ROW(r.\"c\", r.\"a\") (>) ROW(($1::text)::bigint, ($2::text)::x.y) \
             AND ROW(r.\"c\", r.\"a\") (<=) ROW(($3::text)::bigint, ($4::text)::x.y)",
        );
        check(
            &sql.boundary(Bounds { after: false, upto: true }, 10),
            "SELECT r.\"c\"::text, r.\"a\"::text FROM ONLY \"s\".\"t\" AS r \
             WHERE ROW(r.\"c\", r.\"a\") (<=) ROW(($1::text)::bigint, ($2::text)::x.y) \
             ORDER BY r.\"c\" USING (<), r.\"a\" USING (<) OFFSET 9 LIMIT 1",
        );
    }

    #[test]
    fn operators_of_different_schemas() {
        let shape = shape("ext");
        let sql = statements(&shape);
        check(
            &sql.filter(Bounds { after: true, upto: true }),
            " WHERE (r.\"c\" (>=) ($1::text)::bigint AND (r.\"c\" (>) ($1::text)::bigint \
             OR r.\"a\" (ext.>) ($2::text)::x.y)) \
             AND (r.\"c\" (<=) ($3::text)::bigint AND (r.\"c\" (<) ($3::text)::bigint \
             OR r.\"a\" (ext.<=) ($4::text)::x.y))",
        );
    }

    #[test]
    fn large_values_are_hashed_by_themselves() {
        let shape = shape("pg_catalog");
        let sql = statements(&shape);
        check(
            &sql.hash(Form::Columns),
            "hashtextextended(ROW(hashtextextended(r.\"a\"::text, 0), sha256(r.\"b\"), \
             hashtextextended(r.\"c\"::text, 0), hashtextextended(r.\"g\"::text, 0))::text, 0)",
        );
    }

    #[test]
    fn repairs() {
        let shape = shape("pg_catalog");
        let sql = statements(&shape);
        check(
            &sql.delete(),
            "DELETE FROM ONLY \"s\".\"t\" AS r USING ROWS FROM (unnest($1::text[]), \
             unnest($2::text[])) WITH ORDINALITY AS k(k1, k2, position) \
             WHERE r.\"c\" (=) k.k1::bigint AND r.\"a\" (=) k.k2::x.y",
        );
        check(
            &sql.insert(),
            "INSERT INTO \"s\".\"t\" (\"a\", \"b\", \"c\") OVERRIDING SYSTEM VALUE \
             SELECT (i.image).\"a\", (i.image).\"b\", (i.image).\"c\" FROM \
             (SELECT i.image::\"s\".\"t\" AS image FROM unnest($1::text[]) AS i(image) OFFSET 0) AS i",
        );
    }
}
