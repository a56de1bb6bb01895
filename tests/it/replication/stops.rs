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
    let pair = Pair::start(
        SCHEMA,
        "ALTER TABLE t ALTER x TYPE varchar; CREATE TABLE u (id int PRIMARY KEY);",
    );
    assert_eq!(
        pair.await_state("paused"),
        "public.t: column x is text, not character varying; public.u does not exist"
    );
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
fn a_table_that_comes_later() {
    let pair = Pair::start(SCHEMA, ROWS);
    pair.assert_equal();
    pair.there().rows("CREATE TABLE u (id int PRIMARY KEY)");
    pair.run("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)");
    poll("it is copied", || pair.there().value("SELECT count(*) FROM u") == "1");
    pair.run("INSERT INTO u VALUES (2)");
    pair.assert_equal();
    pair.run("CREATE TABLE v (id int PRIMARY KEY)");
    assert_eq!(pair.await_state("paused"), "public.v does not exist");
}

#[test]
fn a_column_that_comes_later() {
    let pair = Pair::start(SCHEMA, ROWS);
    pair.assert_equal();
    pair.run("ALTER TABLE t ADD y int; UPDATE t SET y = 1");
    let why = pair.await_state("paused");
    let by_apply = why.contains("malformed record literal");
    let by_check = why.contains("column y");
    assert!(by_apply || by_check, "{why}");
}
