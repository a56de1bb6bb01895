//! Rows of the secondary are made what they are on the primary: all that was asked, or nothing.

use pgtandem::replication::verify::VerifyError;
use pgtandem::replication::verify::repair::{Extent, Repaired};
use pgtandem::replication::verify::view::{Key, Range};

use super::pair::Pair;

fn key(text: &str) -> Key {
    Box::new([text.to_owned()])
}

fn repair(pair: &Pair, table: &str, extent: &Extent) -> Result<Repaired, VerifyError> {
    let table = pair.table(table);
    pair.runtime.block_on(pair.verifier.repair(&table, extent))
}

fn counts(deleted: u64, updated: u64, inserted: u64) -> Repaired {
    Repaired { deleted, updated, inserted }
}

#[test]
fn a_table() {
    let pair = Pair::new(
        "CREATE TABLE t (a int, v text, b text, g int GENERATED ALWAYS AS (a * 2) STORED, \
         n numeric, x bytea, PRIMARY KEY (b, a)); \
         INSERT INTO t (a, v, b, n, x) SELECT g, 'v\"\\ ,(' || g, 'b' || g % 3, g / 7.0, '\\x00ff' \
         FROM generate_series(1, 6000) g",
    );
    pair.secondary(
        "DELETE FROM t WHERE a % 10 = 0; UPDATE t SET v = NULL WHERE a % 100 = 1; \
         INSERT INTO t (a, b) SELECT g, 'new' FROM generate_series(1, 700) g",
    );
    assert_eq!(repair(&pair, "t", &Extent::Table).expect("it works"), counts(700, 60, 600));
    assert_eq!(pair.found(), "");
    assert_eq!(repair(&pair, "t", &Extent::Table).expect("nothing is left"), counts(0, 0, 0));
}

/// More rows than are repaired at a time.
#[test]
fn many_rows() {
    let pair = Pair::new("CREATE TABLE t (k int PRIMARY KEY)");
    pair.primary("INSERT INTO t SELECT g FROM generate_series(1, 51000) g");
    pair.secondary("INSERT INTO t SELECT g FROM generate_series(100001, 151000) g");
    assert_eq!(repair(&pair, "t", &Extent::Table).expect("it works"), counts(51000, 0, 51000));
    assert_eq!(pair.found(), "");
}

#[test]
fn some_keys_and_a_range() {
    let pair = Pair::new(
        "CREATE TABLE t (k int PRIMARY KEY, v int); \
         INSERT INTO t SELECT g, g FROM generate_series(1, 5000) g",
    );
    pair.secondary(
        "UPDATE t SET v = 0 WHERE k IN (10, 20, 3000); DELETE FROM t WHERE k = 4000; \
         INSERT INTO t VALUES (6000, 1)",
    );
    let keys = ["10", "4000", "6000", "1", "777777"].map(key).to_vec();
    assert_eq!(repair(&pair, "t", &Extent::Keys(keys)).expect("it works"), counts(1, 1, 1));
    assert_eq!(pair.found(), "public.t: different (20), different (3000)");
    let range = Range { after: Some(key("20")), upto: Some(key("3000")) };
    assert_eq!(repair(&pair, "t", &Extent::Range(range)).expect("it works"), counts(0, 1, 0));
    assert_eq!(pair.found(), "public.t: different (20)");
    let range = Range { after: None, upto: Some(key("20")) };
    assert_eq!(repair(&pair, "t", &Extent::Range(range)).expect("it works"), counts(0, 1, 0));
    assert_eq!(pair.found(), "");
}

/// Unique values that have changed hands cannot be put right one row after the other.
#[test]
fn unique_values_that_changed_hands() {
    let pair = Pair::new(
        "CREATE TABLE t (k int PRIMARY KEY, u int UNIQUE, i int GENERATED ALWAYS AS IDENTITY); \
         INSERT INTO t SELECT g, g FROM generate_series(1, 100) g",
    );
    pair.secondary(
        "DELETE FROM t WHERE k = 1; UPDATE t SET u = 1 WHERE k = 2; UPDATE t SET u = 2 WHERE k = 3",
    );
    assert_eq!(repair(&pair, "t", &Extent::Table).expect("it works"), counts(2, 0, 3));
    assert_eq!(pair.found(), "");
}

#[test]
fn rows_that_others_refer_to() {
    let pair = Pair::new(
        "CREATE TABLE t (k int PRIMARY KEY, v int); \
         CREATE TABLE child (k int PRIMARY KEY REFERENCES t ON DELETE CASCADE); \
         INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO child VALUES (1), (2)",
    );
    pair.secondary(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         UPDATE t SET v = 0; CREATE TRIGGER no BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION no()",
    );
    assert_eq!(repair(&pair, "t", &Extent::Table).expect("it works"), counts(0, 2, 0));
    assert_eq!(pair.found(), "");
}

/// Whatever stands in the way undoes all of it.
#[test]
fn all_or_nothing() {
    let pair = Pair::new(
        "CREATE TABLE t (k int PRIMARY KEY, v int); \
         INSERT INTO t SELECT g, g FROM generate_series(1, 10) g; CREATE TABLE nokey (v int)",
    );
    pair.secondary(
        "DELETE FROM t; INSERT INTO t VALUES (11, 11); \
                    ALTER TABLE t ADD CHECK (v <> 5)",
    );
    let failed = repair(&pair, "t", &Extent::Table).expect_err("row 5 is refused");
    assert!(failed.to_string().contains("[23514]"), "{failed}");
    assert_eq!(pair.secondary_value("SELECT string_agg(k::text, ',') FROM public.t"), "11");

    // A trigger that not even session_replication_role silences.
    pair.secondary(
        "ALTER TABLE t DROP CONSTRAINT t_v_check; \
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.k = 7) EXECUTE FUNCTION no(); \
         ALTER TABLE t ENABLE ALWAYS TRIGGER no",
    );
    let failed = repair(&pair, "t", &Extent::Table).expect_err("row 7 would not be written");
    assert!(matches!(failed, VerifyError::Obstacle(_)), "{failed}");
    assert_eq!(pair.secondary_value("SELECT string_agg(k::text, ',') FROM public.t"), "11");

    let failed = repair(&pair, "nokey", &Extent::Table).expect_err("rows have no names");
    assert_eq!(failed.to_string(), "the table has no key");
    pair.secondary("DROP TABLE nokey");
    let failed = repair(&pair, "nokey", &Extent::Table).expect_err("there is nothing to repair");
    assert_eq!(failed.to_string(), "the schema differs: there is no such table");
}
