//! The primary fails over to a standby: one that has everything is followed on, one that lacks what
//! the secondary has is found out.

use pgtandem::replication::status::Command;

use super::inside::{Inside, LONG};
use crate::support::{
    cluster::{Cluster, REPLICATED},
    poll_within,
};

const SCHEMA: &str = "CREATE TABLE t (id serial PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t (x) SELECT 'x' FROM generate_series(1, 100)";

fn start() -> (Inside, Cluster) {
    let inside = Inside::start_with(Cluster::start_with(REPLICATED), SCHEMA, ROWS, "");
    inside.assert_equal();
    let standby = inside.primary.standby();
    (inside, standby)
}

/// Waits until the standby has what the primary has now.
fn await_standby(inside: &Inside, standby: &Cluster) {
    let written = inside.run("SELECT pg_current_wal_insert_lsn()")[0][0].clone();
    let has_it = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    poll_within(LONG, "the standby has it", || standby.superuser("postgres").value(&has_it) == "t");
}

/// The standby becomes the primary; the old one is gone.
fn fail_over(inside: &mut Inside, standby: Cluster) {
    inside.end();
    inside.primary.crash();
    standby.superuser("postgres").rows("SELECT pg_promote()");
    inside.primary = standby;
}

#[test]
fn a_standby_that_has_everything() {
    let (mut inside, standby) = start();
    for _ in 0..20 {
        inside.run("INSERT INTO t (x) VALUES ('more'); UPDATE t SET x = x || '+' WHERE id % 7 = 0");
    }
    inside.assert_equal();
    await_standby(&inside, &standby);
    fail_over(&mut inside, standby);
    inside.run("INSERT INTO t (x) VALUES ('on the new one')");
    inside.begin();
    inside.assert_equal();
}

#[test]
fn a_standby_that_lags_behind_the_secondary() {
    let (mut inside, standby) = start();
    await_standby(&inside, &standby);
    // From now on it gets nothing more.
    let mut alone = standby.superuser("postgres");
    alone.rows("ALTER SYSTEM SET primary_conninfo = ''");
    alone.rows("SELECT pg_reload_conf()");
    let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
    poll_within(LONG, "it is cut off", || alone.value(receives) == "0");
    drop(alone);
    inside.run("UPDATE t SET x = 'lost' WHERE id = 1");
    inside.assert_equal();
    fail_over(&mut inside, standby);
    // The new primary goes on, and uses the numbers of the lost transactions once more.
    for _ in 0..50 {
        inside.run("INSERT INTO t (x) VALUES ('new')");
    }
    inside.begin();
    let why = inside.await_word("ahead");
    assert!(why.contains("timeline 1 to 2"), "{why}");
    assert_eq!(inside.run_there("SELECT x FROM t WHERE id = 1"), [["lost"]]);
    // Nothing but a new copy leads out of that.
    inside.ask(Command::Resume).expect("it is taken");
    inside.await_word("ahead");
    inside.ask(Command::Resync(vec![])).expect("it is taken");
    inside.assert_equal();
    assert_eq!(inside.run_there("SELECT x FROM t WHERE id = 1"), [["x"]]);
}

/// A table that was copied under a later snapshot than the others have may have rows that the new
/// primary has lost: what is known of the others says nothing of it.
#[test]
fn a_table_that_is_ahead_of_the_others_is_copied_anew() {
    let (mut inside, standby) = start();
    await_standby(&inside, &standby);
    fail_over(&mut inside, standby);
    // As the copy of one table leaves it that a crash ends, before the others have caught up.
    inside.run_there("UPDATE t SET x = 'lost' WHERE id = 1");
    inside.run_there(
        "INSERT INTO pgtandem.copied (schema, name, snapshot) VALUES ('public', 't', '900000:900000:')",
    );
    inside.begin();
    inside.assert_equal();
    assert_eq!(inside.run_there("SELECT x FROM t WHERE id = 1"), [["x"]]);
}

/// With `synchronous_commit = off` others see what a crash may undo: the secondary must not have it.
#[test]
fn what_the_primary_can_lose_is_not_applied() {
    let settings = "synchronous_commit = off\nwal_writer_delay = 10s\nwal_writer_flush_after = 0";
    let primary = Cluster::start_with(&format!("{REPLICATED}{settings}"));
    let mut inside = Inside::start_with(primary, SCHEMA, ROWS, "");
    inside.assert_equal();
    for n in 0..3 {
        inside.run(&format!("INSERT INTO t (x) VALUES ('round {n}')"));
        let applied = format!("SELECT count(*) FROM t WHERE x = 'round {n}'");
        poll_within(LONG, "it is applied", || inside.run_there(&applied) == [["1"]]);
        inside.primary.crash();
        inside.primary.restart();
        assert_eq!(inside.run(&applied), [["1"]], "the secondary is ahead");
    }
    inside.run("INSERT INTO t (x) VALUES ('more')");
    inside.assert_equal();
}
