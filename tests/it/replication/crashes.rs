//! Whoever dies, nothing is lost and nothing is applied twice.

use std::time::Duration;

use super::pair::Pair;
use crate::support::{EndsWith, cluster::Cluster, let_pass, proxy::Proxy};

const SCHEMA: &str = "CREATE TABLE a (id int PRIMARY KEY, v bigint);
    CREATE TABLE log (id serial PRIMARY KEY, u uuid DEFAULT gen_random_uuid(), n bigint)";
const ROWS: &str = "INSERT INTO a SELECT i, 1000 FROM generate_series(1, 50) i";

/// A transfer and what is written about it.
const TRANSFER: &str = "BEGIN; \
    UPDATE a SET v = v - 1 WHERE id = (SELECT 1 + (random() * 24)::int); \
    UPDATE a SET v = v + 1 WHERE id = (SELECT 26 + (random() * 24)::int); \
    INSERT INTO log (n) SELECT sum(v) FROM a; COMMIT";

/// Runs transfers on the primary while `events` happens.
fn under_load(primary: &'static Cluster, database: &str, events: impl FnOnce()) {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = primary.superuser(database);
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    client.rows(TRANSFER);
                }
            });
        }
        let _ends = EndsWith(&over);
        events();
    });
}

#[test]
fn the_proxy_is_killed_again_and_again() {
    let mut pair = Pair::start(SCHEMA, ROWS);
    let (primary, database) = (pair.primary, pair.database.clone());
    let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
    under_load(primary, &database, || {
        for round in 0..6_u64 {
            let_pass(Duration::from_millis(150 + 97 * round));
            // Dropped is killed.
            pair.proxy = Proxy::start(primary, config.clone());
        }
    });
    pair.assert_equal();
}

#[test]
fn two_proxies_take_turns() {
    let mut pair = Pair::start(SCHEMA, ROWS);
    let (primary, database) = (pair.primary, pair.database.clone());
    let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
    let _second = Proxy::start(primary, config.clone());
    under_load(primary, &database, || {
        let_pass(Duration::from_millis(500));
        pair.proxy = Proxy::start(primary, config.clone());
        let_pass(Duration::from_millis(500));
    });
    pair.assert_equal();
}

#[test]
fn the_proxy_dies_at_every_step_of_a_batch() {
    let mut pair = Pair::start_with(SCHEMA, ROWS, "batch_rows = 200");
    pair.assert_equal();
    for place in ["apply_begun", "apply_some", "apply_done:3", "apply_committed:2", "staged"] {
        let config = Pair::config(
            pair.primary,
            &pair.database,
            pair.secondary,
            &pair.other,
            "batch_rows = 200",
        );
        pair.proxy = Proxy::start(pair.primary, config.clone().env("PGTANDEM_FAULT", place));
        for _ in 0..5 {
            pair.run(TRANSFER);
        }
        pair.run("INSERT INTO log (n) SELECT i FROM generate_series(1, 500) i");
        while pair.proxy.is_running() {
            pair.run(TRANSFER);
        }
        pair.proxy.wait();
        pair.proxy = Proxy::start(pair.primary, config);
        pair.assert_equal();
    }
}

#[test]
fn the_proxy_dies_at_every_step_of_the_copy() {
    for place in
        ["copy_table:1", "copy_table:2", "copy_table_committed:1", "copy_done", "copy_complete"]
    {
        let config = |config: crate::support::config::Config| config.env("PGTANDEM_FAULT", place);
        let mut pair = Pair::start_configured(SCHEMA, ROWS, "", config);
        while pair.proxy.is_running() {
            pair.run(TRANSFER);
        }
        pair.proxy.wait();
        let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
        pair.proxy = Proxy::start(pair.primary, config);
        pair.run(TRANSFER);
        pair.assert_equal();
    }
}

/// A table of some 80 MB, though it has few rows.
const LARGE: &str =
    "CREATE TABLE a (id int PRIMARY KEY, v bigint, note text) WITH (fillfactor = 10)";
const LARGE_ROWS: &str =
    "INSERT INTO a SELECT i, 0, repeat('x', 300) FROM generate_series(1, 20000) i";

#[test]
fn the_proxy_dies_while_a_large_table_comes_in_parts() {
    for place in ["copy_part:1", "copy_part:2", "copy_table:1"] {
        let config = |config: crate::support::config::Config| config.env("PGTANDEM_FAULT", place);
        let mut pair = Pair::start_configured(LARGE, LARGE_ROWS, "", config);
        let change = "UPDATE a SET v = v + 1 WHERE id % 1000 = (random() * 999)::int";
        while pair.proxy.is_running() {
            pair.run(change);
        }
        pair.proxy.wait();
        let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
        pair.proxy = Proxy::start(pair.primary, config);
        pair.run(change);
        pair.assert_equal();
    }
}

#[test]
fn of_two_copies_in_parts_one_gives_way() {
    if Cluster::shared().version() < 140_000 {
        eprintln!("SKIPPED: this version of PostgreSQL reads no parts");
        return;
    }
    // As soon as the first has begun, there is what another process would write: the table as pgtandem
    // makes it, with a trigger.
    let schema = format!(
        "{LARGE}; CREATE SCHEMA pgtandem; CREATE TABLE pgtandem.copied (schema text, name text, \
         snapshot pg_snapshot, rows bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0, \
         copied_at timestamptz, PRIMARY KEY (schema, name)); \
         CREATE FUNCTION begins() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE pgtandem.copied SET copied_at = copied_at + interval '1 s'; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER begins AFTER INSERT ON pgtandem.copied DEFERRABLE INITIALLY \
         DEFERRED FOR EACH ROW EXECUTE FUNCTION begins()"
    );
    let pair = Pair::start(&schema, LARGE_ROWS);
    pair.assert_equal();
    assert!(pair.proxy.log().contains("being copied by another process"), "{}", pair.proxy.log());
}

#[test]
fn the_secondary_crashes_and_comes_back() {
    let mut secondary = Cluster::start();
    let other = secondary.new_database();
    let primary = Cluster::shared();
    let database = primary.new_database();
    primary.superuser(&database).rows(&format!("{SCHEMA}; {ROWS}"));
    secondary.superuser(&other).rows(SCHEMA);
    // Clusters of tests commit asynchronously: the first crash would take the tables along.
    secondary.superuser(&other).rows("checkpoint");
    let config = Pair::config(primary, &database, &secondary, &other, "");
    let _proxy = Proxy::start(primary, config);
    under_load(primary, &database, || {
        for round in 0..3_u64 {
            let_pass(Duration::from_millis(300 + 120 * round));
            secondary.crash();
            let_pass(Duration::from_millis(200));
            secondary.restart();
        }
    });
    super::pair::assert_equal((primary, &database), (&secondary, &other));
}
