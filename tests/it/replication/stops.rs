//! What cannot be kept exact stops the secondary, and says why.

use super::pair::Pair;
use crate::support::poll;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i";

#[test]
fn a_row_that_is_not_there() {
    let pair = Pair::start(SCHEMA, ROWS);
    pair.assert_equal();
    pair.there().rows("DELETE FROM t WHERE id = 42");
    pair.run("UPDATE t SET x = 'y'");
    let why = pair.await_state("paused");
    assert_eq!(why, "update public.t: no row has the key [\"42\"]");
    assert_eq!(pair.there().value("SELECT count(*) FROM t WHERE x = 'y'"), "0");
}

#[test]
fn a_row_that_is_there_already() {
    let pair = Pair::start(SCHEMA, ROWS);
    pair.assert_equal();
    pair.there().rows("INSERT INTO t VALUES (1000, 'own')");
    pair.run("INSERT INTO t SELECT i, 'z' FROM generate_series(900, 1100) i");
    let why = pair.await_state("paused");
    assert!(why.starts_with("insert into public.t, key Some([\"1000\"]): "), "{why}");
    assert!(why.ends_with("[23505]"), "{why}");
}

#[test]
fn definitions_that_differ() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, x text)", "");
    pair.assert_equal();
    let other = Pair::start("", "");
    other.run("CREATE TABLE t (id int PRIMARY KEY, x text); CREATE TABLE u (id int PRIMARY KEY)");
    drop(other);
    let second = Pair::start("", "");
    drop(second);
}

#[test]
fn a_secondary_that_is_not_empty() {
    let pair = Pair::start(&format!("{SCHEMA}; {ROWS}"), "");
    let why = pair.await_state("paused");
    assert!(why.starts_with("public.t is not empty"), "{why}");
}

#[test]
fn triggers_that_would_fire() {
    let pair = Pair::start(
        &format!(
            "{SCHEMA}; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RETURN NULL; END'; CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW \
             EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER g"
        ),
        "",
    );
    let why = pair.await_state("paused");
    assert!(why.starts_with("public.t: trigger g would fire"), "{why}");
}

#[test]
fn a_table_that_the_secondary_does_not_have() {
    let pair = Pair::start(SCHEMA, ROWS);
    pair.assert_equal();
    poll("it says in sync", || {
        pair.here().value("SELECT state FROM pgtandem.secondaries") == "in_sync"
    });
}
