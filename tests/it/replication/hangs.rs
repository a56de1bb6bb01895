//! Servers, networks and processes that stop without a word, and go on later.

use super::inside::{Inside, LONG};
use super::pair::{self, Pair};
use crate::support::{cluster::Cluster, poll_within, proxy::Proxy};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i";

/// Whoever looks after the secondary has noticed that something does not answer.
fn await_failure(inside: &Inside) {
    poll_within(LONG, "it is not called in sync", || inside.state().word() == "catching_up");
    poll_within(LONG, "it is noticed", || inside.status().last_error.is_some());
}

#[test]
fn a_primary_that_hangs() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    let frozen = inside.primary.freeze();
    await_failure(&inside);
    drop(frozen);
    inside.run("UPDATE t SET x = 'y'");
    inside.assert_equal();
}

#[test]
fn a_secondary_that_hangs() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    let frozen = inside.secondary.freeze();
    inside.run("UPDATE t SET x = 'y'");
    await_failure(&inside);
    drop(frozen);
    inside.assert_equal();
}

/// A long silence is no failure if the server knows the connection.
#[test]
fn a_secondary_that_is_slow() {
    let inside = Inside::start(SCHEMA, ROWS, "");
    inside.assert_equal();
    let mut holder = inside.secondary.superuser(&inside.other);
    holder.rows("BEGIN; LOCK TABLE t");
    inside.run("UPDATE t SET x = 'y'");
    crate::support::let_pass(std::time::Duration::from_secs(13));
    assert_eq!(inside.status().last_error, None);
    holder.rows("COMMIT");
    inside.assert_equal();
}

#[test]
fn a_process_that_hangs_loses_its_place() {
    let (primary, secondary) = (Cluster::start(), Cluster::start());
    let (database, other) = (primary.new_database(), secondary.new_database());
    primary.superuser(&database).rows(&format!("{SCHEMA}; {ROWS}"));
    secondary.superuser(&other).rows(SCHEMA);
    let config = Pair::config(&primary, &database, &secondary, &other, "");
    let first = Proxy::start(&primary, config.clone());
    let (here, there) = ((&primary, database.as_str()), (&secondary, other.as_str()));
    pair::assert_equal(here, there);
    let second = Proxy::start(&primary, config);
    first.signal("STOP");
    primary.superuser(&database).rows("UPDATE t SET x = 'y'");
    poll_within(LONG, "the other takes over", || {
        secondary.superuser(&other).value("SELECT count(*) FROM t WHERE x = 'y'") == "100"
    });
    assert!(second.log().contains("who applied is silent"), "{}", second.log());
    // It wakes up, and finds that it has lost its place.
    first.signal("CONT");
    for n in 0..20 {
        primary
            .superuser(&database)
            .rows(&format!("UPDATE t SET x = x || {n} WHERE id % 20 = {n}"));
    }
    pair::assert_equal(here, there);
}
