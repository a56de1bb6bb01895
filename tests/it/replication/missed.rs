//! Where changes may have been missed, tables are copied anew; where somebody else decided something,
//! nobody decides otherwise; and the application goes on in any case.

use pgtandem::replication::catalog::TableName;
use pgtandem::replication::status::Command;

use super::inside::{Inside, LONG};
use crate::support::{let_pass, poll_within};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text); \
                      CREATE TABLE u (id int PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i; \
                    INSERT INTO u SELECT i, 'x' FROM generate_series(1, 100) i";

/// Whether a statement succeeds on the primary.
fn succeeds(inside: &Inside, sql: &str) -> bool {
    let answers = inside.primary.superuser(&inside.database).query(sql).to_string();
    answers.split(" | ").all(|answer| !answer.starts_with('E'))
}

#[test]
fn a_column_of_the_key_is_renamed() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    inside.run_there("ALTER TABLE t RENAME id TO ident");
    inside.run("ALTER TABLE t RENAME id TO ident");
    poll_within(LONG, "the application can write", || {
        succeeds(&inside, "UPDATE t SET x = 'y' WHERE ident < 50")
    });
    poll_within(LONG, "it is applied", || {
        inside.run_there("SELECT count(*) FROM t WHERE x = 'y'") == [["49"]]
    });
    inside.run("UPDATE t SET x = 'z' WHERE ident > 90; DELETE FROM u WHERE id < 10");
    inside.assert_equal();
}

#[test]
fn a_column_of_the_key_is_dropped() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    inside.run("ALTER TABLE t DROP COLUMN id");
    poll_within(LONG, "the application can write", || succeeds(&inside, "UPDATE t SET x = 'y'"));
    let why = inside.await_word("paused");
    assert!(why.contains("public.t") && why.contains("no primary key"), "{why}");
}

/// Also while nobody follows.
#[test]
fn a_column_of_the_key_is_renamed_while_the_secondary_is_away() {
    let mut inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    // The crash must not take it along.
    inside.run_there("SET synchronous_commit = on; ALTER TABLE t RENAME id TO ident");
    inside.secondary.crash();
    inside.run("ALTER TABLE t RENAME id TO ident");
    poll_within(LONG, "the application can write", || succeeds(&inside, "UPDATE t SET x = 'y'"));
    inside.secondary.restart();
    inside.assert_equal();
}

#[test]
fn a_partition_that_brings_rows_along() {
    let schema = "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id); \
                  CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100)";
    let inside = Inside::start(schema, "INSERT INTO p VALUES (1, 'a')", "");
    inside.assert_equal();
    inside.run_there("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (100) TO (200)");
    inside.run(
        "CREATE TABLE p1 (id int PRIMARY KEY, x text); \
         INSERT INTO p1 SELECT i, 'brought' FROM generate_series(100, 150) i; \
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (100) TO (200); \
         UPDATE p SET x = 'changed' WHERE id IN (1, 120)",
    );
    poll_within(LONG, "it is copied", || inside.run_there("SELECT count(*) FROM p1") == [["51"]]);
    inside.run("UPDATE p SET x = x || '!'");
    inside.assert_equal();
}

/// Who is detached by the primary stays so, whatever is reported; and what the log has lost
/// meanwhile is not skipped when it is taken up again.
#[test]
fn a_secondary_that_the_primary_has_detached() {
    let mut inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    // Somebody else keeps capture alive.
    inside.run("INSERT INTO pgtandem.secondaries (name, state) VALUES ('other', 'copying')");
    let detach = "UPDATE pgtandem.secondaries SET state = 'detached', last_error = 'too slow' \
                  WHERE name = 'copy'";
    inside.run(detach);
    assert_eq!(inside.await_word("detached"), "too slow");
    inside
        .run("UPDATE t SET x = 'missed'; TRUNCATE pgtandem.log_0, pgtandem.log_1, pgtandem.log_2");
    inside.end();
    inside.begin();
    assert_eq!(inside.await_word("detached"), "too slow");
    let state = "SELECT state, last_error FROM pgtandem.secondaries WHERE name = 'copy'";
    assert_eq!(inside.run(state), [["detached", "too slow"]]);
    inside.ask(Command::Copy).expect("it is taken");
    inside.assert_equal();
    assert_eq!(inside.run_there("SELECT count(*) FROM t WHERE x = 'missed'"), [["100"]]);
}

/// Detached in the very moment in which it applies: the log may be truncated already.
#[test]
fn nothing_is_applied_to_one_that_is_detached() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    // What is read afterwards is not all that there was.
    inside.run(
        "BEGIN; UPDATE pgtandem.secondaries SET state = 'detached'; \
         UPDATE t SET x = 'gone' WHERE id = 1; DELETE FROM pgtandem.log_0; \
         UPDATE t SET x = 'left' WHERE id = 2; COMMIT",
    );
    inside.await_word("detached");
    let_pass(std::time::Duration::from_secs(2));
    assert_eq!(inside.run_there("SELECT count(*) FROM t WHERE x = 'left'"), [["0"]]);
}

#[test]
fn a_secondary_that_was_set_back() {
    let mut inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    let before = inside.run_there("SELECT snapshot FROM pgtandem.progress")[0][0].clone();
    inside.run("UPDATE t SET x = 'y'");
    inside.assert_equal();
    let reported = "SELECT pg_snapshot_xmax(progress) FROM pgtandem.secondaries";
    let was = inside.run(reported);
    inside.run("UPDATE t SET x = 'z'");
    poll_within(LONG, "it is reported", || inside.run(reported) != was);
    inside.end();
    // As a restored backup would have it, and the log has what came since no more.
    inside.run_there(&format!("UPDATE pgtandem.progress SET snapshot = '{before}'"));
    inside.run("TRUNCATE pgtandem.log_0, pgtandem.log_1, pgtandem.log_2");
    inside.begin();
    let why = inside.await_word("paused");
    assert!(why.contains("which it had reported"), "{why}");
    inside.ask(Command::Resync(vec![])).expect("it is taken");
    inside.assert_equal();
}

/// The log may have grown while nobody looked.
#[test]
fn limits_hold_from_the_start() {
    let mut inside = Inside::start(SCHEMA, ROWS, "log_limit_bytes = \"2MiB\"");
    inside.assert_equal();
    inside.end();
    inside.run("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1000, 30000) i");
    inside.begin();
    let why = inside.await_word("detached");
    assert!(why.contains("log_limit_bytes"), "{why}");
    assert_eq!(inside.run_there("SELECT count(*) FROM t"), [["100"]]);
    let bytes = "SELECT sum(pg_relation_size(c)) < 1000000 FROM unnest(ARRAY['pgtandem.log_0', \
                 'pgtandem.log_1', 'pgtandem.log_2']::regclass[]) c";
    poll_within(LONG, "the log is small again", || inside.run(bytes) == [["t"]]);
    inside.ask(Command::Copy).expect("it is taken");
    inside.assert_equal();
}

/// One table is copied anew while the rest goes on.
#[test]
fn one_table_is_copied_anew() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    inside.run_there("DELETE FROM u WHERE id < 50");
    let u = TableName { schema: "public".to_owned(), name: "u".to_owned() };
    inside.ask(Command::Resync(vec![u])).expect("it is taken");
    inside.run("UPDATE t SET x = 'y'");
    poll_within(LONG, "it is copied", || inside.run_there("SELECT count(*) FROM u") == [["100"]]);
    inside.assert_equal();
}
