//! The client sees what PostgreSQL itself would have answered, byte for byte in all that matters.

use super::connect;
use crate::replication::pair::Pair;
use crate::support::{cluster::Cluster, message as m, wire::Client};

/// What a client is answered to a script.
fn script(client: &mut Client) -> Vec<String> {
    let mut seen = Vec::new();
    for sql in [
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE IF NOT EXISTS a (id int)",
        "",
        "; ;",
        "ALTER TABLE a ADD COLUMN x text; INSERT INTO a VALUES (1, 'y') RETURNING *; SELECT 1 AS one",
        "ALTER TABLE a ADD COLUMN y nothing",
        "\n  ALTER TABLE a\n  ADD COLUMN 1",
        "SELECT 'é'; ALTER TABLE a ADD COLUMN z nothing; SELECT 2",
        "BEGIN; ALTER TABLE a ADD z int; COMMIT; SELECT z FROM a",
        "BEGIN; SELECT 1 / 0",
        "ALTER TABLE a DROP z",
        "ROLLBACK; DROP TABLE a; CREATE TABLE b (id int PRIMARY KEY)",
        "SHOW search_path; COMMENT ON TABLE b IS 'x'; EXPLAIN (COSTS OFF) SELECT 1",
        "SELECT 1 AS id INTO c; COPY c TO STDOUT; DROP TABLE c, b",
        "DROP TABLE IF EXISTS b; SELECT count(*) FROM pg_prepared_statements",
        "CREATE INDEX CONCURRENTLY i ON nothing (id)",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) CREATE TABLE e AS SELECT 1 AS one",
        "EXPLAIN (COSTS OFF) CREATE TABLE nothing AS SELECT 1 AS one",
        "SELECT * FROM e; DROP TABLE e",
        "ALTER TABLE a ADD;",
        "ALTER TABLE a ADD COLUMN; -- behind",
    ] {
        seen.push(format!("{sql}: {}", client.query(sql)));
    }
    let run = |client: &mut Client, messages: &[Vec<u8>]| client.run(messages).to_string();
    let create = "CREATE TABLE d (id int PRIMARY KEY)";
    seen.push(run(client, &[m::parse("", create), m::bind("", ""), m::execute(""), m::sync()]));
    // The unnamed statement and portal are still the client's.
    seen.push(run(client, &[m::bind("", ""), m::execute(""), m::sync()]));
    seen.push(run(
        client,
        &[
            m::parse("drop", "DROP TABLE d"),
            m::describe_statement("drop"),
            m::bind("p", "drop"),
            m::execute("p"),
            m::execute("p"),
            m::sync(),
        ],
    ));
    seen.push(run(client, &[m::bind("", "drop"), m::execute(""), m::sync()]));
    seen.push(run(client, &[m::bind("", ""), m::execute(""), m::sync()]));
    seen.push(run(client, &[m::close_statement("drop"), m::sync()]));
    seen.push(client.query("SELECT count(*) FROM pg_cursors").to_string());
    seen
}

fn check(mode: &'static str) {
    if Cluster::shared().version() < 140_000 {
        // It reports the settings of our functions.
        return;
    }
    let pair = Pair::start_configured("", "", "", |config| {
        config.general("default_pool_size = 1").general(mode)
    });
    pair.await_state("in_sync");
    let proxied = script(&mut connect(&pair));
    let elsewhere = pair.primary.new_database();
    let direct = script(&mut pair.primary.superuser(&elsewhere));
    for (direct, proxied) in direct.iter().zip(&proxied) {
        assert_eq!(direct, proxied);
    }
}

#[test]
fn in_transaction_mode() {
    check("pool_mode = \"transaction\"");
}

#[test]
fn in_session_mode() {
    check("pool_mode = \"session\"");
}

#[test]
fn without_managed_statements() {
    check("max_prepared_statements = 0");
}
