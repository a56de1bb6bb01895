//! Things that are rare in clients, and must be right all the same.

use super::inside::{Inside, LONG};
use crate::support::cluster::Cluster;
use crate::support::poll_within;

#[test]
fn prepared_transactions() {
    let primary = Cluster::start_with("max_prepared_transactions = 5");
    let schema = "CREATE TABLE t (id int PRIMARY KEY, x text)";
    let rows = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i";
    let mut inside = Inside::start_with(primary, schema, rows, "");
    inside.assert_equal();
    inside.run("BEGIN; UPDATE t SET x = 'one' WHERE id = 1; PREPARE TRANSACTION 'one'");
    inside.run("BEGIN; UPDATE t SET x = 'two' WHERE id = 2; PREPARE TRANSACTION 'two'");
    inside.run("UPDATE t SET x = 'later' WHERE id = 3");
    poll_within(LONG, "what comes later is applied", || {
        inside.run_there("SELECT x FROM t WHERE id <= 3 ORDER BY id") == [["x"], ["x"], ["later"]]
    });
    // They outlive a crash, and whoever follows.
    inside.end();
    inside.primary.crash();
    inside.primary.restart();
    inside.run("COMMIT PREPARED 'one'");
    inside.begin();
    inside.assert_equal();
    inside.run("ROLLBACK PREPARED 'two'");
    inside.run("UPDATE t SET x = 'again' WHERE id = 2");
    inside.assert_equal();
}

#[test]
fn rows_of_many_megabytes() {
    let inside = Inside::start(
        "CREATE TABLE t (id int PRIMARY KEY, x text, b bytea)",
        "INSERT INTO t SELECT 1, repeat('long ', 1000000), decode(repeat('00ff', 3000000), 'hex')",
        "batch_bytes = \"1MiB\"",
    );
    inside.assert_equal();
    inside.run("INSERT INTO t SELECT 2, repeat('x', 20000000), NULL; UPDATE t SET id = id + 10");
    inside.run("UPDATE t SET b = decode(repeat('5c', 4000000), 'hex')");
    inside.assert_equal();
}

/// The text of a row goes from one encoding to another by way of UTF-8.
#[test]
fn a_primary_in_latin_1() {
    let mut inside = Inside::start("CREATE TABLE none (id int PRIMARY KEY)", "", "");
    inside.end();
    let create =
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    inside.primary.superuser("postgres").rows(create);
    inside.database = "latin".to_owned();
    inside.other = inside.secondary.new_database();
    let schema = "CREATE TABLE t (k text PRIMARY KEY, x text)";
    inside.run(schema);
    inside.run_there(schema);
    // The server turns into LATIN1 what this client sends.
    let mut client = inside.primary.superuser(&inside.database);
    client.rows("SET client_encoding = 'UTF8'");
    client.rows(r#"INSERT INTO t VALUES ('über', 'été \ "ß"')"#);
    inside.begin();
    inside.await_word("in_sync");
    client.rows("INSERT INTO t VALUES ('ñ', '§'); UPDATE t SET k = 'ÜBER' WHERE k = 'über'");
    client.rows("UPDATE t SET x = x || chr(233)");
    let sql = r#"SELECT k, x FROM t ORDER BY k COLLATE "C""#;
    let wanted = [["ÜBER", r#"été \ "ß"é"#], ["ñ", "§é"]];
    poll_within(LONG, "it is applied", || inside.run_there(sql) == wanted);
}

/// A trigger of the application on TRUNCATE of a partitioned table writes other tables: it fires on
/// the primary only.
#[test]
fn triggers_on_truncate_of_partitioned_tables() {
    let inside = Inside::start(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100); \
         CREATE TABLE p1 PARTITION OF p DEFAULT; CREATE TABLE audit (id serial PRIMARY KEY, what text); \
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO audit (what) VALUES (TG_TABLE_NAME); RETURN NULL; END $$; \
         CREATE TRIGGER a AFTER TRUNCATE ON p EXECUTE FUNCTION f(); \
         CREATE TRIGGER b BEFORE TRUNCATE ON p0 EXECUTE FUNCTION f()",
        "INSERT INTO p SELECT generate_series(1, 200)",
        "",
    );
    inside.assert_equal();
    inside.run("TRUNCATE p0");
    inside.run(
        "BEGIN; INSERT INTO p VALUES (5); TRUNCATE p; INSERT INTO p VALUES (6), (600); COMMIT",
    );
    inside.assert_equal();
    assert_eq!(inside.run_there("SELECT count(*) FROM p"), [["2"]]);
}
