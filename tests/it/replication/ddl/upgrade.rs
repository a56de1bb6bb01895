//! A change log of the format before, with changes in it, by a version that knew no definitions.

use super::{Pair, assert_same, connect, each, start};
use crate::support::proxy::Proxy;

/// What the format has more than the one before, on the primary.
const BACK: &str = "
    ALTER TABLE pgtandem.meta DROP COLUMN secret;
    ALTER TABLE pgtandem.tables DROP COLUMN columns, DROP COLUMN shaped, DROP COLUMN is_plain;
    DROP SEQUENCE pgtandem.number;
    DROP TABLE pgtandem.proofs;
    DO $$
    DECLARE f regprocedure;
    BEGIN
        FOR f IN SELECT p.oid::regprocedure FROM pg_proc p
                 WHERE p.pronamespace = 'pgtandem'::regnamespace AND p.prorettype <> 'trigger'::regtype
                   AND p.proname = ANY (ARRAY['shape', 'make_function', 'make_functions', 'make_trigger',
                                              'make_triggers', 'open_functions', 'release', 'with_us',
                                              'is_meant', 'define'])
        LOOP
            EXECUTE 'DROP FUNCTION ' || f;
        END LOOP;
    END$$;
    REVOKE ALL ON SCHEMA pgtandem FROM PUBLIC;
    UPDATE pgtandem.meta SET format = 1";

#[test]
fn a_log_of_the_format_before_is_brought_up() {
    let mut pair = start(
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 50) i",
    );
    pair.proxy.signal("KILL");
    pair.proxy.wait();
    pair.run(BACK);
    pair.there().rows("DROP TABLE pgtandem.followed; UPDATE pgtandem.progress SET format = 1");
    pair.run("UPDATE t SET x = 'meanwhile' WHERE id < 10");
    // Somebody has changed a table, and goes on to do so while the log is brought up.
    let mut writer = pair.here();
    writer.rows("BEGIN");
    writer.rows("UPDATE t SET x = 'before' WHERE id < 5");
    let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
    pair.proxy = Proxy::start(pair.primary, config);
    pair.await_state("in_sync");
    writer.rows("UPDATE t SET x = 'behind' WHERE id > 3");
    writer.rows("COMMIT");
    each(&mut connect(&pair), &["ALTER TABLE t ADD COLUMN y int DEFAULT 1", "UPDATE t SET y = 2"]);
    assert_same(&pair);
}
