//! Single definitions, and what is exact about them.

use super::{assert_same, command, connect, each, start, start_with};
use crate::support::message as m;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i";

#[test]
fn a_table_and_a_column() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "CREATE TABLE u (id int PRIMARY KEY, x text)",
            "INSERT INTO u VALUES (1, 'a'), (2, 'b')",
            "UPDATE t SET x = 'before' WHERE id < 50",
            "ALTER TABLE t ADD COLUMN y int DEFAULT 7",
            "UPDATE t SET y = 8 WHERE id > 50",
            "DELETE FROM u WHERE id = 1",
        ],
    );
    assert_same(&pair);
}

/// Between the changes of its own transaction, and rows of a new table from the first one on.
#[test]
fn within_a_transaction() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "BEGIN",
            "UPDATE t SET x = 'before'",
            "ALTER TABLE t RENAME x TO z",
            "UPDATE t SET z = 'between' WHERE id < 50",
            "ALTER TABLE t ADD COLUMN d date NOT NULL DEFAULT '2020-01-01'",
            "CREATE TABLE u (id int PRIMARY KEY REFERENCES t)",
            "INSERT INTO u SELECT id FROM t",
            "UPDATE t SET d = '2021-02-03' WHERE id = 5",
            "ALTER TABLE t DROP COLUMN z",
            "COMMIT",
        ],
    );
    assert_same(&pair);
    let mut one = String::from("BEGIN;");
    one.push_str(" ALTER TABLE t ADD w text; UPDATE t SET w = 'a;b' WHERE id = 1;");
    one.push_str(" CREATE INDEX ON t (w); -- and;\n ALTER TABLE u RENAME TO v; COMMIT");
    each(&mut client, &[&one, "INSERT INTO t (id, d) VALUES (1000, now())"]);
    assert_same(&pair);
}

#[test]
fn by_the_extended_protocol() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    let create = "CREATE TABLE u (id int PRIMARY KEY, x text)";
    let answers = client.run(&[m::parse("", create), m::bind("", ""), m::execute(""), m::sync()]);
    assert_eq!(answers.to_string(), "1 | 2 | C CREATE TABLE | Z I");
    let answers = client.run(&[
        m::parse("s", "ALTER TABLE u ADD COLUMN y int"),
        m::bind("p", "s"),
        m::describe_portal("p"),
        m::execute("p"),
        m::parse("i", "INSERT INTO u VALUES (1, 'a', 2)"),
        m::bind("", "i"),
        m::execute(""),
        m::sync(),
    ]);
    let answers = answers.without_parameters();
    assert_eq!(answers.to_string(), "1 | 2 | n | C ALTER TABLE | 1 | 2 | C INSERT 0 1 | Z I");
    assert_same(&pair);
}

#[test]
fn what_is_rolled_back_is_not_made() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "BEGIN",
            "CREATE TABLE gone (id int PRIMARY KEY)",
            "ROLLBACK",
            "BEGIN",
            "CREATE TABLE kept (id int PRIMARY KEY)",
            "SAVEPOINT s",
            "INSERT INTO kept VALUES (1)",
            "ALTER TABLE t ADD COLUMN gone int",
            "UPDATE t SET gone = 1",
            "ROLLBACK TO s",
            "INSERT INTO kept VALUES (2)",
            "UPDATE t SET x = 'y'",
            "COMMIT",
        ],
    );
    let failed = client.query("CREATE TABLE gone (id int PRIMARY KEY); SELECT 1 / 0");
    assert!(failed.to_string().contains("22012"), "{failed}");
    assert_same(&pair);
}

/// What a default is computed to when the column comes, it is on both sides.
#[test]
fn defaults_that_are_computed() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "ALTER TABLE t ADD COLUMN made timestamptz NOT NULL DEFAULT now()",
            "UPDATE t SET x = 'y' WHERE id < 10",
            "ALTER TABLE t ADD COLUMN by name DEFAULT current_user, ADD COLUMN c int DEFAULT 5",
            "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
            "CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100)",
            "INSERT INTO p SELECT i, 'x' FROM generate_series(1, 50) i",
            "ALTER TABLE p ADD COLUMN made timestamptz DEFAULT clock_timestamp()::date + time '0:00'",
        ],
    );
    assert_same(&pair);
    // Each row has another value: copied.
    each(
        &mut client,
        &[
            "ALTER TABLE t ADD COLUMN u uuid NOT NULL DEFAULT gen_random_uuid()",
            "ALTER TABLE t ADD COLUMN s serial",
            "UPDATE t SET x = 'z' WHERE id > 90",
            "ALTER TABLE t ALTER COLUMN x TYPE text USING x || random()",
        ],
    );
    assert_same(&pair);
}

#[test]
fn labels_of_enums() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "CREATE TABLE m (id int PRIMARY KEY, m mood)",
            "INSERT INTO m VALUES (1, 'sad')",
            "ALTER TYPE mood ADD VALUE 'happy' AFTER 'ok'",
            "INSERT INTO m VALUES (2, 'happy')",
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
            "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'fine' BEFORE 'happy'",
            "UPDATE m SET m = 'fine' WHERE m = 'blue'",
        ],
    );
    assert_same(&pair);
}

#[test]
fn partitions_and_other_names() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "CREATE SCHEMA \"S a\"",
            "CREATE TABLE \"S a\".\"P \"\"1\" (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
            "CREATE TABLE p0 PARTITION OF \"S a\".\"P \"\"1\" FOR VALUES FROM (0) TO (100)",
            "INSERT INTO \"S a\".\"P \"\"1\" SELECT i, 'x' FROM generate_series(1, 50) i",
            "CREATE TABLE p1 (x text, id int PRIMARY KEY)",
            "INSERT INTO p1 VALUES ('brought', 150)",
            "ALTER TABLE \"S a\".\"P \"\"1\" ATTACH PARTITION p1 FOR VALUES FROM (100) TO (200)",
            "UPDATE \"S a\".\"P \"\"1\" SET id = id + 100, x = 'moved' WHERE id = 20",
            "ALTER SCHEMA \"S a\" RENAME TO other",
            "ALTER TABLE other.\"P \"\"1\" RENAME TO p",
            "ALTER TABLE other.p SET SCHEMA public",
            "ALTER TABLE p RENAME COLUMN id TO ident",
            "DELETE FROM p WHERE ident = 150",
            "TRUNCATE p0",
            "ALTER TABLE p DETACH PARTITION p0",
            "INSERT INTO p0 VALUES (1, 'alone')",
            "DROP TABLE p",
            "SET search_path = other",
            "CREATE TABLE here (id int PRIMARY KEY)",
            "INSERT INTO here VALUES (1)",
            "RESET search_path",
        ],
    );
    assert_same(&pair);
}

/// Temporary objects are the client's own, whatever they are called.
#[test]
fn temporary_objects_stay_here() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "BEGIN",
            "CREATE TEMP TABLE t (id int PRIMARY KEY)",
            "ALTER TABLE t ADD COLUMN y int",
            "CREATE INDEX ON t (y)",
            "DROP TABLE t",
            "CREATE TEMP TABLE t AS SELECT 1 AS id",
            "DROP TABLE pg_temp.t",
            "DROP TABLE IF EXISTS nothing",
            "COMMIT",
            "UPDATE t SET x = 'y'",
        ],
    );
    assert_same(&pair);
}

/// Another client of the same backend must not find what came with a definition.
#[test]
fn settings_beside_a_definition_go_with_their_client() {
    let pair = start(SCHEMA, ROWS);
    let (mut one, mut other) = (connect(&pair), connect(&pair));
    each(
        &mut one,
        &["SET statement_timeout = '47min'; CREATE TABLE u (id int PRIMARY KEY); SELECT 1"],
    );
    assert_ne!(other.value("SHOW statement_timeout"), "47min");
    assert_eq!(one.value("SHOW statement_timeout"), "47min");
    each(&mut one, &["CREATE TABLE v (id int PRIMARY KEY); CREATE TEMP TABLE mine (id int)"]);
    assert!(other.query("SELECT * FROM mine").to_string().contains("42P01"));
    each(&mut one, &["INSERT INTO mine VALUES (1)", "DROP TABLE mine"]);
    assert_same(&pair);
}

/// Rows that a query makes are another query's on the secondary, or not to be had there.
#[test]
fn tables_that_a_query_fills() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "BEGIN",
            "CREATE TEMP TABLE w (id int, r float8) ON COMMIT DROP",
            "INSERT INTO w SELECT i, random() FROM generate_series(1, 50) i",
            "CREATE TABLE a AS SELECT id, r, 'é'::varchar(20) COLLATE \"C\" AS \"x y\" FROM w",
            "ALTER TABLE a ADD PRIMARY KEY (id)",
            "COMMIT",
            "BEGIN",
            "CREATE TABLE IF NOT EXISTS a AS SELECT 1",
            "SELECT id, random() AS r, ARRAY[x] AS xs INTO b FROM t",
            "EXPLAIN ANALYZE CREATE TABLE c AS SELECT id, clock_timestamp() AS at FROM t",
            "PREPARE p AS SELECT id FROM t",
            "CREATE TABLE d (ident) AS EXECUTE p",
            "DEALLOCATE p",
            "ALTER TABLE b ADD PRIMARY KEY (id)",
            "ALTER TABLE c ADD PRIMARY KEY (id)",
            "ALTER TABLE d ADD PRIMARY KEY (ident)",
            "COMMIT",
            "UPDATE a SET r = 2 WHERE id = 7",
            "CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t",
            "REFRESH MATERIALIZED VIEW m",
        ],
    );
    assert_same(&pair);
    assert_eq!(pair.there().value("SELECT count(*) FROM b"), "100");
}

/// Rows that are mended before a constraint is checked are so on the secondary, too, although they come
/// at once.
#[test]
fn constraints_that_are_checked_later() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, x int); CREATE TABLE p (id int PRIMARY KEY)";
    for keys in ["", "batch_rows = 20"] {
        let pair =
            start_with(schema, "INSERT INTO t SELECT i, -i FROM generate_series(1, 90) i", keys);
        let (mut client, mut other) = (connect(&pair), connect(&pair));
        command(&pair, "PAUSE");
        each(
            &mut client,
            &[
                "ALTER TABLE t ADD CONSTRAINT positive CHECK (x > 0) NOT VALID",
                "UPDATE t SET x = id",
                "ALTER TABLE t VALIDATE CONSTRAINT positive",
                "ALTER TABLE t ADD CONSTRAINT known FOREIGN KEY (x) REFERENCES p NOT VALID",
                "INSERT INTO p SELECT id FROM t",
            ],
        );
        // It changes the same row before and behind: nobody knows in which order.
        each(&mut other, &["BEGIN", "UPDATE t SET x = 1 WHERE id = 5"]);
        each(&mut client, &["ALTER TABLE t VALIDATE CONSTRAINT known"]);
        each(&mut other, &["UPDATE t SET x = 2 WHERE id = 5", "COMMIT"]);
        command(&pair, "RESUME");
        assert_same(&pair);
    }
}

/// Where something is kept is not part of what it is.
#[test]
fn tablespaces_are_the_servers_own() {
    let pair = start(SCHEMA, ROWS);
    let mut client = connect(&pair);
    let place = format!("\"Place of {}\"", pair.database);
    let create = format!("CREATE TABLESPACE {place} LOCATION ''");
    each(&mut client, &["SET allow_in_place_tablespaces = on", &create]);
    each(
        &mut client,
        &[
            &format!("ALTER TABLE t SET TABLESPACE {place}, ADD COLUMN tablespace text"),
            &format!(
                "CREATE TABLE u (id int PRIMARY KEY USING INDEX TABLESPACE {place}) TABLESPACE {place}"
            ),
            &format!("CREATE INDEX i ON t (x) TABLESPACE {place}"),
            "INSERT INTO u VALUES (1)",
        ],
    );
    pair.assert_equal();
    assert_eq!(pair.there().value("SELECT count(*) FROM pg_indexes WHERE indexname = 'i'"), "1");
    assert!(!pair.proxy.log().contains("secondary has stopped"), "{}", pair.proxy.log());
}

/// Changes and definitions that go through a table on the secondary.
#[test]
fn in_batches_that_are_too_large_for_memory() {
    let pair = start_with(SCHEMA, ROWS, "batch_rows = 10");
    let mut client = connect(&pair);
    command(&pair, "PAUSE");
    each(
        &mut client,
        &[
            "UPDATE t SET x = 'a' || id",
            "BEGIN",
            "UPDATE t SET x = x || 'b'",
            "ALTER TABLE t ADD COLUMN made timestamptz NOT NULL DEFAULT now()",
            "UPDATE t SET x = x || 'c', made = clock_timestamp() WHERE id % 2 = 0",
            "CREATE TABLE u (id int PRIMARY KEY, x text)",
            "INSERT INTO u SELECT id, x FROM t",
            "ALTER TABLE u RENAME x TO y",
            "DELETE FROM u WHERE id % 3 = 0",
            "COMMIT",
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "ALTER TABLE u ADD COLUMN mood mood NOT NULL DEFAULT 'ok'",
            "UPDATE u SET mood = 'sad' WHERE id < 50",
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
            "UPDATE u SET y = 'last' WHERE mood = 'blue'",
            "TRUNCATE t",
            "INSERT INTO t SELECT i, 'z' FROM generate_series(1, 50) i",
            "ALTER TABLE t DROP COLUMN x",
            "UPDATE t SET made = now()",
        ],
    );
    command(&pair, "RESUME");
    assert_same(&pair);
    assert!(pair.proxy.log().contains("goes through a table"), "{}", pair.proxy.log());
}

/// A role that only owns its tables makes partitions of those that are captured.
#[test]
fn by_a_role_without_rights_on_the_log() {
    let pair = start(SCHEMA, ROWS);
    each(&mut connect(&pair), &["GRANT ALL ON SCHEMA public TO dave"]);
    pair.there().rows("GRANT ALL ON SCHEMA public TO dave");
    let login = crate::support::login::Login::new("dave", &pair.database);
    let mut dave = login.connect(&pair.proxy.tcp()).expect("he is trusted");
    each(
        &mut dave,
        &[
            "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
            "CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE p1 PARTITION OF p DEFAULT",
            "INSERT INTO p SELECT i, 'x' FROM generate_series(1, 200) i",
        ],
    );
    assert_same(&pair);
    each(
        &mut dave,
        &[
            "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (500) TO (600)",
            "INSERT INTO p VALUES (555)",
        ],
    );
    assert_same(&pair);
    let mine = "CREATE TABLE mine (id int PRIMARY KEY, x text); CREATE TRIGGER forged AFTER DELETE ON mine \
                FOR EACH STATEMENT EXECUTE FUNCTION pgtandem.";
    let plain = pair.here().value("SELECT number FROM pgtandem.tables WHERE name = 't'");
    let refused = dave.query(&format!("{mine}delete_{plain}()")).to_string();
    assert!(refused.contains("42501"), "{refused}");
}

/// Rows that come with a partition are known, or copied.
#[test]
fn partitions_that_bring_rows() {
    let schema = "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
                  CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100);
                  CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (100) TO (200)";
    let pair = start(schema, "INSERT INTO p SELECT i, 'x' FROM generate_series(1, 150) i");
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            // It has no key before it is a partition, so that nothing of it follows.
            "CREATE TABLE p2 (id int NOT NULL, x text)",
            "INSERT INTO p2 SELECT i, 'brought' FROM generate_series(200, 250) i",
            "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (200) TO (300)",
            "UPDATE p SET x = 'behind' WHERE id > 240",
        ],
    );
    assert_same(&pair);
    each(
        &mut client,
        &[
            "BEGIN",
            "ALTER TABLE p DETACH PARTITION p1",
            "UPDATE p1 SET x = 'alone' WHERE id < 120",
            "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (100) TO (200)",
            "COMMIT",
            "UPDATE p SET x = 'behind' WHERE id > 140",
            "CREATE TABLE p3 (LIKE p INCLUDING ALL)",
            "INSERT INTO p3 SELECT i, 'known' FROM generate_series(300, 350) i",
            "ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (300) TO (400)",
        ],
    );
    assert_same(&pair);
}
