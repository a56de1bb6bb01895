//! Nobody but the proxy has a definition made on the secondary.

use super::{assert_same, connect, each, start};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text); GRANT ALL ON t TO PUBLIC; \
                      GRANT ALL ON SCHEMA public TO PUBLIC";

#[test]
fn a_call_without_the_secret_is_refused() {
    let pair = start(SCHEMA, "");
    let mut dave = crate::support::login::Login::new("dave", &pair.database)
        .connect(&pair.proxy.tcp())
        .expect("he is trusted");
    let call = |proof: &str, nonce: &str| {
        format!(
            "SELECT pgtandem.define({proof}, {nonce}, '', 'DROP TABLE t', '*.*', '', NULL, '', \
             'postgres', 'on')"
        )
    };
    let now = "(extract(epoch FROM now()) * 1000000)::bigint << 12";
    for (proof, nonce) in [("''", "1"), ("NULL", now), ("sha256('guess')", now), ("NULL", "NULL")] {
        let call = call(proof, nonce);
        // What is computed of null is null.
        for call in [call.replace("'*.*'", "NULL"), call.replace("'DROP TABLE t'", "NULL"), call] {
            let answers = dave.query(&call).to_string();
            assert!(answers.contains("42501"), "{call}: {answers}");
        }
    }
    for sql in [
        "SELECT * FROM pgtandem.meta",
        "SELECT secret FROM pgtandem.meta",
        "SELECT * FROM pgtandem.proofs",
        "SELECT pgtandem.release(1)",
        "SELECT pgtandem.make_function('x', 'y')",
        "SELECT pgtandem.shape(1)",
    ] {
        let answers = dave.query(sql).to_string();
        assert!(answers.contains("42501"), "{sql}: {answers}");
    }
    each(&mut dave, &["CREATE TABLE his (id int PRIMARY KEY)", "INSERT INTO his VALUES (1)"]);
    assert_same(&pair);
    let owner = "SELECT relowner::regrole FROM pg_class WHERE relname = 'his'";
    assert_eq!(pair.there().value(owner), "dave");
}

/// What is seen of the call in the server is not enough to repeat it; nor is the whole of it.
#[test]
fn a_proof_is_good_once() {
    let pair = start(SCHEMA, "");
    let mut client = connect(&pair);
    each(&mut client, &["BEGIN", "CREATE TABLE u (id int PRIMARY KEY)"]);
    let seen = client.value(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%define%' \
                             AND query LIKE '%\\x%' AND pid <> pg_backend_pid()",
    );
    assert_eq!(seen, "0");
    let secret = pair.here().value("SELECT secret FROM pgtandem.meta");
    each(&mut client, &["COMMIT"]);
    // Somebody who knows it can say it once.
    let call = format!(
        "SELECT pgtandem.define(sha256(s || sha256(s || convert_to(pg_backend_pid() || ' ' || n || ' ', \
         'UTF8') || sha256(''::bytea) || sha256('*.*'::bytea) || sha256(''::bytea))), n, '', '', '*.*', \
         '', NULL, '', 'postgres', 'on') FROM (SELECT '{secret}'::bytea AS s, {} AS n) t",
        "(1 + (extract(epoch FROM date_trunc('hour', now())) * 1000000)::bigint) << 12"
    );
    let mut direct = pair.here();
    direct.rows("BEGIN");
    assert!(!direct.query(&call).to_string().contains("42501"));
    assert!(direct.query(&call).to_string().contains("42501"));
    direct.rows("ROLLBACK");
    assert_same(&pair);
}
