//! What cannot be made on the secondary stops it and says so; somebody can go past it.

use super::{LONG, assert_same, connect, each, start};
use crate::support::poll_within;
use crate::support::tools::psql;

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
    assert_eq!(pair.there().value("SELECT count(*) FROM t"), "0");
    pair.there().rows("DROP VIEW v; CREATE VIEW v AS SELECT 1 AS one");
    let console = |command: &str| psql(&pair.proxy.unix(), "pgtandem", command);
    console(&format!("SKIP SECONDARY {}.copy", pair.database));
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
    let console = |command: &str| psql(&pair.proxy.unix(), "pgtandem", command);
    console(&format!("RESUME SECONDARY {}.copy", pair.database));
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
