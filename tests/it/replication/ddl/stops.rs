//! What cannot be made on the secondary stops it and says so; somebody can go past it.

use super::{LONG, assert_same, command, connect, each, start};
use crate::support::cluster::Cluster;
use crate::support::poll_within;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";

#[test]
fn a_definition_that_fails_there() {
    let pair = start(SCHEMA, "");
    pair.there().rows("CREATE VIEW v AS SELECT 1 AS other");
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "INSERT INTO t VALUES (1, 'x')",
            "CREATE VIEW v AS SELECT 1 AS one",
            "INSERT INTO t VALUES (2, 'y')",
        ],
    );
    let why = pair.await_state("paused");
    assert!(why.contains("CREATE VIEW v") && why.contains("42P07"), "{why}");
    assert_eq!(pair.there().value("SELECT count(*) FROM t WHERE id = 2"), "0");
    pair.there().rows("DROP VIEW v; CREATE VIEW v AS SELECT 1 AS one");
    command(&pair, "SKIP");
    poll_within(LONG, "it goes on", || pair.there().value("SELECT count(*) FROM t") == "2");
    let kept = "SELECT op, image FROM pgtandem.dead_letters";
    assert_eq!(pair.there().rows(kept), [["definition", "CREATE VIEW v AS SELECT 1 AS one"]]);
}

/// What somebody did past the proxy is not taken for ours.
#[test]
fn a_table_that_was_changed_past_the_proxy_too() {
    let pair = start(SCHEMA, "INSERT INTO t VALUES (1, 'x')");
    let mut client = connect(&pair);
    pair.run("ALTER TABLE t ADD COLUMN hidden int DEFAULT 5");
    each(&mut client, &["ALTER TABLE t ADD COLUMN y int DEFAULT 1"]);
    let why = pair.await_state("paused");
    assert!(why.contains("public.t"), "{why}");
    // Past it again, in the order of the primary.
    pair.there().rows("ALTER TABLE t ADD COLUMN hidden int");
    command(&pair, "RESUME");
    poll_within(LONG, "it is copied anew", || {
        pair.there().rows("SELECT * FROM t") == [["1", "x", "5", "1"]]
    });
}

#[test]
fn the_proxy_dies_in_the_middle() {
    for place in ["defined", "apply_done", "apply_committed"] {
        let mut pair = start(SCHEMA, "INSERT INTO t VALUES (1, 'x')");
        pair.proxy.signal("KILL");
        pair.proxy.wait();
        let config =
            super::Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
        let fault = config.clone().env("PGTANDEM_FAULT", place);
        pair.proxy = crate::support::proxy::Proxy::start(pair.primary, fault);
        pair.await_state("in_sync");
        let mut client = connect(&pair);
        each(&mut client, &["BEGIN", "ALTER TABLE t ADD y int", "UPDATE t SET y = 1", "COMMIT"]);
        drop(client);
        pair.proxy.wait();
        pair.proxy = crate::support::proxy::Proxy::start(pair.primary, config);
        assert_same(&pair);
    }
}

/// What a function does inside is not seen as it happens, and found.
#[test]
fn definitions_in_a_block_are_found() {
    let pair = start(SCHEMA, "INSERT INTO t VALUES (1, 'x')");
    let mut client = connect(&pair);
    let create = "CREATE TABLE u (id int PRIMARY KEY, x text)";
    each(&mut client, &[&format!("DO $$BEGIN {create}; INSERT INTO u VALUES (1, 'y'); END$$")]);
    let why = pair.await_state("paused");
    assert!(why.contains("public.u"), "{why}");
    each(&mut client, &["INSERT INTO u VALUES (2, 'z')", "INSERT INTO t VALUES (2, 'z')"]);
    pair.there().rows(create);
    command(&pair, "RESUME");
    poll_within(LONG, "it is copied", || pair.there().value("SELECT count(*) FROM u") == "2");
    pair.assert_equal();
}

/// A definition past the proxy leads to a copy, or stops the secondary; nothing goes wrong silently.
#[test]
fn definitions_past_the_proxy_are_found() {
    let pair = start(SCHEMA, "INSERT INTO t VALUES (1, 'x')");
    pair.run("ALTER TABLE t ADD COLUMN y int DEFAULT 5");
    pair.run("INSERT INTO t VALUES (2, 'y', 6)");
    let why = pair.await_state("paused");
    assert!(why.contains("public.t"), "{why}");
    pair.there().rows("ALTER TABLE t ADD COLUMN y int DEFAULT 7");
    command(&pair, "RESUME");
    poll_within(LONG, "it is copied anew", || {
        pair.there().rows("SELECT * FROM t ORDER BY id") == [["1", "x", "5"], ["2", "y", "6"]]
    });
    // And what goes through it follows again.
    each(&mut connect(&pair), &["ALTER TABLE t DROP COLUMN y", "UPDATE t SET x = 'z'"]);
    pair.assert_equal();
}

/// The primary dies before a definition is committed, and once it is on its way.
#[test]
fn the_primary_dies_in_the_middle() {
    let mut primary = Cluster::start();
    let secondary: &'static Cluster = Box::leak(Box::new(Cluster::start()));
    let (here, there) = (primary.new_database(), secondary.new_database());
    primary.superuser(&here).rows(SCHEMA);
    secondary.superuser(&there).rows(SCHEMA);
    primary.superuser(&here).rows("CHECKPOINT");
    let config = super::Pair::config(&primary, &here, secondary, &there, "");
    let proxy = crate::support::proxy::Proxy::start(&primary, config);
    poll_within(LONG, "it follows", || {
        let there = "SELECT to_regclass('pgtandem.secondaries') IS NOT NULL";
        let state = "SELECT count(*) FROM pgtandem.secondaries WHERE state = 'in_sync'";
        let mut client = primary.superuser(&here);
        client.value(there) == "t" && client.value(state) == "1"
    });
    let login = || {
        crate::support::login::Login::new("postgres", &here).connect(&proxy.tcp()).expect("trusted")
    };
    let mut client = login();
    each(&mut client, &["SET synchronous_commit = on", "CREATE TABLE u (id int PRIMARY KEY)"]);
    each(&mut client, &["INSERT INTO u VALUES (1)", "BEGIN", "ALTER TABLE u ADD COLUMN gone int"]);
    each(&mut client, &["UPDATE u SET gone = 1"]);
    primary.crash();
    primary.restart();
    let mut client = login();
    each(
        &mut client,
        &["SET synchronous_commit = on", "ALTER TABLE u ADD COLUMN kept int DEFAULT 3"],
    );
    each(&mut client, &["UPDATE u SET kept = 2"]);
    primary.crash();
    primary.restart();
    each(&mut login(), &["INSERT INTO u VALUES (2, 4)"]);
    crate::replication::pair::assert_equal((&primary, &here), (secondary, &there));
    assert_eq!(
        secondary.superuser(&there).rows("SELECT * FROM u ORDER BY 1"),
        [["1", "2"], ["2", "4"]]
    );
}
