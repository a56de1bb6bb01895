//! What differs is found, by exactly its keys, whatever the keys are.

use super::pair::Pair;

/// A key type: the column, and an expression that makes the `g`th key.
struct KeyType {
    columns: &'static str,
    key: &'static str,
    values: &'static str,
}

const KEY_TYPES: [KeyType; 12] = [
    KeyType { columns: "k int", key: "k", values: "g" },
    KeyType { columns: "k text", key: "k", values: "'k' || g" },
    KeyType { columns: "k varchar(20)", key: "k", values: "md5(g::text)::varchar(20)" },
    KeyType { columns: "k char(12)", key: "k", values: "'k' || g" },
    KeyType { columns: "k uuid", key: "k", values: "md5(g::text)::uuid" },
    KeyType { columns: "k numeric", key: "k", values: "g / 8.0" },
    KeyType { columns: "k bytea", key: "k", values: "decode(md5(g::text), 'hex')" },
    KeyType {
        columns: "k timestamptz",
        key: "k",
        values: "'2020-02-02'::timestamptz + g * '1s'::interval",
    },
    KeyType { columns: "k bit varying", key: "k", values: "g::bit(20)::bit varying" },
    KeyType { columns: "k float8", key: "k", values: "g / 3::float8" },
    KeyType { columns: "k int[]", key: "k", values: "ARRAY[g % 7, g]" },
    KeyType {
        columns: "a int, b text, c date",
        key: "b, a, c",
        values: "g % 3, 'x' || g, '2020-01-01'::date + g",
    },
];

/// Flips, deletes and inserts one row; the keys are those of g = 2500, 1 and 5001.
#[test]
fn one_row_of_each_kind_by_any_key() {
    for KeyType { columns, key, values } in KEY_TYPES {
        let pair = Pair::new(&format!(
            "CREATE TABLE t (v text, {columns}, PRIMARY KEY ({key})); \
             INSERT INTO t SELECT 'v' || g, {values} FROM generate_series(1, 5000) g"
        ));
        assert_eq!(pair.found(), "", "{columns}");
        pair.secondary(&format!(
            "UPDATE t SET v = 'flipped' WHERE v = 'v2500'; \
             DELETE FROM t WHERE v = 'v1'; \
             INSERT INTO t SELECT 'v' || g, {values} FROM generate_series(5001, 5001) g"
        ));
        let names: Vec<&str> = key.split(", ").collect();
        let texts = names.iter().map(|name| format!("{name}::text")).collect::<Vec<_>>().join(", ");
        let row = |kind: &str, v: &str| {
            let query = format!(
                "SET timezone = 'UTC'; SELECT '{kind} (' || concat_ws(', ', {texts}) || ')' \
                 FROM public.t WHERE v = '{v}'"
            );
            let on_primary = kind == "missing";
            if on_primary { pair.primary_value(&query) } else { pair.secondary_value(&query) }
        };
        let mut expected =
            vec![row("missing", "v1"), row("different", "flipped"), row("extra", "v5001")];
        let found = pair.found();
        let found =
            found.strip_prefix("public.t: ").unwrap_or_else(|| panic!("{columns}: {found}"));
        let mut found: Vec<&str> =
            found.split("), ").map(|row| row.trim_end_matches(')')).collect();
        for row in &mut expected {
            row.pop();
        }
        expected.sort();
        found.sort_unstable();
        assert_eq!(found, expected, "{columns}");
    }
}

/// Both sides order texts differently, as their catalogs say.
#[test]
fn keys_that_are_ordered_differently() {
    let schema = |collation: &str| {
        format!(
            "CREATE TABLE t (k text COLLATE \"{collation}\" PRIMARY KEY, v int); \
             INSERT INTO t SELECT CASE WHEN g % 2 = 0 THEN 'a' ELSE 'B' END || g, g \
             FROM generate_series(1, 20000) g"
        )
    };
    let pair = Pair::with(&schema("C"), &schema("en-x-icu"));
    assert_eq!(pair.found(), "");
    pair.secondary("DELETE FROM t WHERE v = 7; UPDATE t SET v = 0 WHERE v = 8");
    pair.secondary("INSERT INTO t VALUES ('extra', 1), ('b7', 7)");
    let expected = [("B7", "missing"), ("a8", "different"), ("b7", "extra"), ("extra", "extra")];
    assert_eq!(pair.found(), format!("public.t: {}", sorted(&expected)));
}

/// Both sides order an enum differently, which no catalog entry that is looked at says.
#[test]
fn keys_that_turn_out_to_be_ordered_differently() {
    let labels = |order: &str| {
        format!(
            "DO $$ BEGIN EXECUTE (SELECT 'CREATE TYPE label AS ENUM (' || string_agg(quote_literal('l' || g), ',' ORDER BY {order}) || ')' FROM generate_series(1, 3000) g); END $$; \
             CREATE TABLE t (k label PRIMARY KEY, v int); \
             INSERT INTO t SELECT ('l' || g)::label, g FROM generate_series(1, 3000) g"
        )
    };
    let pair = Pair::with(&labels("g"), &labels("md5(g::text)"));
    assert_eq!(pair.found(), "");
    pair.secondary("UPDATE t SET v = 0 WHERE v = 1500; DELETE FROM t WHERE v = 3");
    assert_eq!(
        pair.found(),
        format!("public.t: {}", sorted(&[("l1500", "different"), ("l3", "missing")]))
    );
}

fn sorted(rows: &[(&str, &str)]) -> String {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    let rows: Vec<String> = rows.iter().map(|(key, kind)| format!("{kind} ({key})")).collect();
    rows.join(", ")
}

#[test]
fn operators_outside_pg_catalog() {
    let pair = Pair::new(
        "CREATE EXTENSION citext; CREATE TABLE t (a citext, b int, v int, PRIMARY KEY (a, b)); \
         INSERT INTO t SELECT 'k' || g % 5, g, g FROM generate_series(1, 5000) g",
    );
    assert_eq!(pair.found(), "");
    // The same key to the operator, another text: the row is there, and different.
    pair.secondary("UPDATE t SET a = 'K3' WHERE b = 8; DELETE FROM t WHERE b = 10");
    assert_eq!(
        pair.found(),
        format!("public.t: {}", sorted(&[("k3, 8", "different"), ("k0, 10", "missing")]))
    );
}

#[test]
fn nothing_and_everything() {
    let pair = Pair::new("CREATE TABLE t (k int PRIMARY KEY, v int)");
    assert_eq!(pair.found(), "");
    pair.secondary("INSERT INTO t VALUES (1, 1)");
    assert_eq!(pair.found(), "public.t: extra (1)");
    pair.primary("INSERT INTO t VALUES (2, 2)");
    assert_eq!(pair.found(), "public.t: extra (1), missing (2)");

    // Keys are kept up to a bound, rows are counted to the end.
    pair.both("DELETE FROM t");
    pair.primary("INSERT INTO t SELECT g, g FROM generate_series(1, 7000) g");
    pair.secondary("INSERT INTO t SELECT g, -g FROM generate_series(6001, 70000) g");
    let report = pair.verify();
    let outcome = &report.tables.first().expect("there is a table").outcome;
    assert_eq!(outcome.to_string(), "6000 missing, 63000 extra, 1000 different");
    assert_eq!(report.verdict().exit_code(), 1);
}

#[test]
fn a_table_without_key() {
    let pair = Pair::new("CREATE TABLE t (v int); INSERT INTO t VALUES (1), (1), (2)");
    assert_eq!(pair.found(), "");
    pair.secondary("DELETE FROM t; INSERT INTO t VALUES (1), (2), (2)");
    assert_eq!(pair.found(), "public.t: rows differ");
}

#[test]
fn generated_columns_are_compared_too() {
    let schema = |expression: &str| {
        format!(
            "CREATE TABLE t (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, \
             w int GENERATED ALWAYS AS ({expression}) STORED); INSERT INTO t (v) VALUES (1), (2)"
        )
    };
    let pair = Pair::with(&schema("v * 2"), &schema("v + v"));
    assert_eq!(pair.found(), "");
    let pair = Pair::with(&schema("v * 2"), &schema("v + 1"));
    assert_eq!(pair.found(), "public.t: different (2)");
}

/// Partitions are compared through their root, parents without their children.
#[test]
fn partitions_and_children() {
    let schema = |bound: u32| {
        format!(
            "CREATE TABLE p (k int PRIMARY KEY, v text) PARTITION BY RANGE (k); \
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO ({bound}); \
             CREATE TABLE p2 (v text, gone int, k int NOT NULL); \
             ALTER TABLE p2 DROP COLUMN gone; \
             ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM ({bound}) TO (9999); \
             INSERT INTO p SELECT g, g FROM generate_series(1, 5000) g; \
             CREATE TABLE parent (k int PRIMARY KEY); \
             CREATE TABLE child (PRIMARY KEY (k)) INHERITS (parent); \
             INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2)"
        )
    };
    let pair = Pair::with(&schema(1000), &schema(3000));
    assert_eq!(pair.found(), "");
    pair.secondary(
        "UPDATE p SET v = '' WHERE k = 2000; DELETE FROM child; INSERT INTO parent VALUES (2)",
    );
    assert_eq!(
        pair.found(),
        "public.child: missing (2); public.p: different (2000); public.parent: extra (2)"
    );
}

#[test]
fn definitions_that_differ() {
    let check = |secondary: &str, expected: &str| {
        let pair = Pair::with("CREATE TABLE t (k int PRIMARY KEY, v text)", secondary);
        assert_eq!(pair.found(), expected);
        assert_eq!(pair.verify().verdict().exit_code(), 1);
    };
    check("", "public.t: the schema differs: there is no such table");
    check(
        "CREATE VIEW t AS SELECT 1 k, ''::text v",
        "public.t: the schema differs: there is no such table",
    );
    check(
        "CREATE TABLE t (k bigint PRIMARY KEY, v text)",
        "public.t: the schema differs: column k is bigint, not integer",
    );
    check(
        "CREATE TABLE t (k int, v text)",
        "public.t: the schema differs: no unique index over the key (k)",
    );
    check(
        "CREATE TABLE t (k int PRIMARY KEY, w text, v text)",
        "public.t: the schema differs: column w is not on the primary",
    );
}

/// Rows of many megabytes are compared, and a difference at their end is found.
#[test]
fn large_rows() {
    let pair = Pair::new(
        "CREATE TABLE t (k int PRIMARY KEY, v text, b bytea); ALTER TABLE t ALTER v SET STORAGE EXTERNAL; \
         INSERT INTO t SELECT g, repeat('x', 9000000), decode(repeat('0a', 3000000), 'hex') \
         FROM generate_series(1, 3) g",
    );
    assert_eq!(pair.found(), "");
    pair.secondary("UPDATE t SET v = v || '.' WHERE k = 3");
    assert_eq!(pair.found(), "public.t: different (3)");
}
