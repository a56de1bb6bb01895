//! Concurrent transactions whose outcome depends on who comes first: re-executed statements would
//! give another one on the secondary, at every isolation level.

use super::pair::Pair;
use crate::support::wire::Client;

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

const SCHEMA: &str = "\
CREATE TABLE t (id int PRIMARY KEY, grp text, v int);
CREATE TABLE s (id serial PRIMARY KEY, total bigint, who text);
CREATE TABLE i (id serial PRIMARY KEY, i int);";

const ROWS: &str = "\
INSERT INTO t SELECT n, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 100 FROM generate_series(1, 10) n;
INSERT INTO i (i) VALUES (0), (1), (1)";

/// A step: which of the two transactions, and what it does.
type Step = (usize, &'static str);

/// The scenarios; a step that must wait for the other transaction is the last of its own before that
/// one ends.
const SCENARIOS: [(&str, &[Step]); 9] = [
    (
        "a predicate and an insert of such a row",
        &[
            (0, "UPDATE t SET v = v + 1 WHERE grp = 'a'"),
            (1, "INSERT INTO t VALUES (20, 'a', 100)"),
            (1, "COMMIT"),
            (0, "COMMIT"),
        ],
    ),
    (
        "an update that finds nothing, and an insert of what it looked for",
        &[
            (0, "UPDATE t SET v = 1 WHERE id = 50"),
            (1, "INSERT INTO t VALUES (50, 'b', 5)"),
            (1, "COMMIT"),
            (0, "INSERT INTO t VALUES (51, 'b', 5)"),
            (0, "COMMIT"),
        ],
    ),
    (
        "a sum and an update",
        &[
            (0, "INSERT INTO s (total, who) SELECT sum(v), 'first' FROM t"),
            (1, "UPDATE t SET v = v * 2"),
            (1, "COMMIT"),
            (0, "COMMIT"),
        ],
    ),
    (
        "an update and a delete of what it makes",
        &[
            (0, "UPDATE i SET i = i + 1 WHERE i = 0"),
            (1, "DELETE FROM i WHERE i = 1"),
            (1, "COMMIT"),
            (0, "COMMIT"),
        ],
    ),
    (
        "write skew",
        &[
            (0, "UPDATE t SET v = (SELECT v FROM t WHERE id = 2) + 7 WHERE id = 1"),
            (1, "UPDATE t SET v = (SELECT v FROM t WHERE id = 1) + 9 WHERE id = 2"),
            (1, "COMMIT"),
            (0, "COMMIT"),
        ],
    ),
    (
        "two sums on one row",
        &[
            (0, "UPDATE t SET v = v + 5 WHERE id = 3"),
            (0, "COMMIT"),
            (1, "UPDATE t SET v = v * 2 WHERE id = 3"),
            (1, "COMMIT"),
        ],
    ),
    (
        "a sub-select that is looked at again",
        &[
            (0, "UPDATE t SET v = v + 1 WHERE id = 4"),
            (1, "INSERT INTO s (total, who) SELECT max(v), 'second' FROM t"),
            (0, "UPDATE t SET v = v + (SELECT count(*) FROM s) WHERE id = 5"),
            (1, "COMMIT"),
            (0, "COMMIT"),
        ],
    ),
    (
        "a queue",
        &[
            (
                0,
                "DELETE FROM t WHERE id = (SELECT id FROM t ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)",
            ),
            (
                1,
                "DELETE FROM t WHERE id = (SELECT id FROM t ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)",
            ),
            (1, "COMMIT"),
            (0, "ROLLBACK"),
        ],
    ),
    (
        "serial numbers, the second one commits first",
        &[
            (0, "INSERT INTO s (who) VALUES ('slow')"),
            (1, "INSERT INTO s (who) VALUES ('quick')"),
            (1, "COMMIT"),
            (0, "COMMIT"),
        ],
    ),
];

#[test]
fn concurrent_transactions() {
    let pair = Pair::start(SCHEMA, ROWS);
    pair.assert_equal();
    for level in LEVELS {
        for (what, steps) in SCENARIOS {
            pair.run(&format!("TRUNCATE t, s, i; {ROWS}"));
            let mut clients: [Client; 2] = [pair.here(), pair.here()];
            for client in &mut clients {
                client.rows(&format!("BEGIN ISOLATION LEVEL {level}"));
                // Its snapshot is taken now.
                client.rows("SELECT 1 FROM t LIMIT 1");
            }
            for (who, sql) in steps {
                // A transaction may fail at the stricter levels; then it ends by ROLLBACK.
                clients[*who].query(sql);
            }
            eprintln!("{level}: {what}");
            pair.assert_equal();
        }
    }
}

#[test]
fn transactions_that_stay_open_lose_nothing() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, x int)", "");
    pair.settle();
    let mut open: Vec<Client> = (0..5).map(|_| pair.here()).collect();
    for (number, client) in open.iter_mut().enumerate() {
        client.rows(&format!("BEGIN; INSERT INTO t VALUES ({number}, 0)"));
    }
    for number in 100..130 {
        pair.run(&format!("INSERT INTO t VALUES ({number}, 0)"));
    }
    pair.assert_equal();
    assert_eq!(pair.there().value("SELECT count(*) FROM t"), "30");
    open[3].rows("UPDATE t SET x = 1 WHERE id = 3; COMMIT");
    pair.assert_equal();
    open[0].rows("ROLLBACK");
    for client in &mut open[1..3] {
        client.rows("COMMIT");
    }
    pair.assert_equal();
    open[4].rows("COMMIT");
    pair.assert_equal();
    assert_eq!(pair.there().value("SELECT count(*) FROM t"), "34");
}
