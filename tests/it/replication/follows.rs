//! What is done on the primary is found on the secondary.

use super::pair::Pair;

#[test]
fn rows_are_copied_and_changes_follow() {
    let pair = Pair::start(
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000) i",
    );
    pair.assert_equal();
    assert_eq!(pair.there().value("SELECT count(*) FROM t"), "1000");
    pair.run("UPDATE t SET x = x || '!' WHERE id % 3 = 0");
    pair.run("DELETE FROM t WHERE id % 7 = 0");
    pair.run("INSERT INTO t SELECT i, 'new' FROM generate_series(2000, 2100) i");
    pair.run("UPDATE t SET id = id + 10000 WHERE id < 50");
    pair.assert_equal();
    assert_eq!(
        pair.there().value("SELECT count(*) FROM t"),
        pair.here().value("SELECT count(*) FROM t")
    );
}
