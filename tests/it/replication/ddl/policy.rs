//! What becomes of definitions is the operator's choice.

use super::{assert_same, connect, each, start, start_with};
use crate::support::message as m;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";

#[test]
fn refused() {
    let pair = start_with(SCHEMA, "", "ddl = \"refuse\"");
    let mut client = connect(&pair);
    let answers = client.query("CREATE TABLE u (id int)").to_string();
    assert!(answers.starts_with("E 0A000") && answers.ends_with("Z I"), "{answers}");
    each(&mut client, &["BEGIN", "INSERT INTO t VALUES (1, 'x')"]);
    let answers = client.run(&[m::parse("", "DROP TABLE t"), m::sync()]).to_string();
    assert!(answers.starts_with("E 0A000") && answers.ends_with("Z E"), "{answers}");
    each(
        &mut client,
        &["ROLLBACK", "CREATE TEMP TABLE u (id int)", "INSERT INTO t VALUES (2, 'y')"],
    );
    assert_same(&pair);
}

#[test]
fn ignored() {
    let pair = start_with(SCHEMA, "", "ddl = \"ignore\"");
    let mut client = connect(&pair);
    each(&mut client, &["CREATE TABLE u (id int PRIMARY KEY)"]);
    let why = pair.await_state("paused");
    assert!(why.contains("public.u does not exist"), "{why}");
}

/// What is the primary's alone leaves the secondary as it is.
#[test]
fn not_followed() {
    let pair = start(SCHEMA, "");
    let mut client = connect(&pair);
    each(
        &mut client,
        &[
            "VACUUM t",
            "ANALYZE t",
            "CREATE INDEX CONCURRENTLY i ON t (x)",
            "REINDEX TABLE t",
            "DROP INDEX CONCURRENTLY i",
            "GRANT SELECT ON t TO dave",
            "REVOKE ALL ON t FROM dave",
            "INSERT INTO t VALUES (1, 'x')",
        ],
    );
    assert_same(&pair);
}
