//! Verifications that are cancelled, in the way, refused, or go on in the background.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgtandem::replication::catalog::Selection;
use pgtandem::replication::status::Status;
use pgtandem::replication::verify::desk::Desk;
use pgtandem::replication::verify::findings::Finding;
use pgtandem::replication::verify::progress::Progress;
use pgtandem::replication::verify::report::Verdict;
use pgtandem::replication::verify::schedule::verify_forever;
use tokio::sync::watch;

use crate::support::{let_pass, poll};

use super::pair::{CAPTURE, Pair, captured};

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); \
                    INSERT INTO t SELECT g, g FROM generate_series(1, 3000) g";

/// Our sessions in transactions, without the one that asks.
const OPEN: &str = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND application_name LIKE 'pgtandem replication %' AND state <> 'idle'";

#[test]
fn a_cancelled_verification_leaves_nothing_behind() {
    let mut pair = Pair::new(ROWS);
    // So slow that it would take hours.
    pair.verifier.limits.rate = 1;
    let (verifier, tables) = (pair.verifier.clone(), pair.tables());
    let (watched, seen) = watch::channel(Progress::default());
    let task =
        pair.runtime.spawn(async move { verifier.verify(&tables, &watched).await.tables.len() });
    poll("it is under way", || seen.borrow().rows_done > 0);
    assert_eq!(pair.primary_value(OPEN), "1");
    assert_eq!(pair.secondary_value(OPEN), "1");
    task.abort();
    poll("the transactions end", || {
        pair.primary_value(OPEN) == "0" && pair.secondary_value(OPEN) == "0"
    });
    pair.verifier.limits.rate = 0;
    assert_eq!(pair.found(), "");
}

/// DDL on the primary and a TRUNCATE that the applier has to carry out do not wait for the end.
#[test]
fn who_needs_the_table_gets_it() {
    let mut pair = Pair::new(ROWS);
    pair.primary(&format!("{CAPTURE} {}", captured("t")));
    pair.applier.follows.store(true, Ordering::Relaxed);
    pair.verifier.limits.rate = 100;
    let (verifier, table) = (pair.verifier.clone(), pair.table("t"));
    let (watched, seen) = watch::channel(Progress::default());
    let task = pair.runtime.spawn(async move {
        let report = verifier.verify(&[table], &watched).await;
        report.tables.into_iter().map(|table| table.outcome.to_string()).collect::<Vec<_>>()
    });
    poll("it is under way", || seen.borrow().rows_done > 0);
    pair.primary("ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)");
    assert!(!task.is_finished());
    pair.primary("TRUNCATE t; INSERT INTO t VALUES (1, 1)");
    poll("the applier gets through", || {
        pair.secondary_value("SELECT count(*) FROM public.t") == "1"
    });
    let outcomes = pair.runtime.block_on(task).expect("no panic");
    assert_eq!(outcomes, ["equal"]);
}

#[test]
fn nobody_applies() {
    let mut pair = Pair::new(ROWS);
    // A secondary that does not stand where its applier says.
    pair.applier.lies.store(true, Ordering::Relaxed);
    pair.verifier.limits.tries = 2;
    let found = pair.found();
    assert!(found.contains("could not tell: the secondary stands at 1:1:, not at "), "{found}");
    assert_eq!(pair.verify().verdict().exit_code(), 2);

    let (holds, requests) = pgtandem::replication::verify::hold::holds();
    drop(requests);
    pair.verifier.holds = holds;
    assert_eq!(pair.found(), "public.t: could not tell: nobody here applies to this secondary");

    let mut server = pair.verifier.secondary.servers[0].clone();
    server.port += 1;
    pair.verifier.secondary.servers = Arc::new([server]);
    assert_eq!(pair.verify().verdict().exit_code(), 2);
}

#[test]
fn the_applier_goes_on_when_the_verifier_dies() {
    let pair = Pair::new(ROWS);
    pair.primary(&format!("{CAPTURE} {}", captured("t")));
    pair.applier.follows.store(true, Ordering::Relaxed);
    pair.runtime.block_on(async {
        let stopped = pair.verifier.holds.stop(Duration::from_secs(10)).await.expect("it stops");
        drop(stopped);
    });
    pair.primary("INSERT INTO t VALUES (9999, 1)");
    poll("the applier goes on", || pair.secondary_value("SELECT count(*) FROM public.t") == "3001");
}

#[test]
fn in_the_background_and_kept() {
    let pair = Pair::new(&format!("{ROWS}; CREATE TABLE u (id int PRIMARY KEY)"));
    let selection = Selection::new(&["public.*".to_owned()], &["*.log".to_owned()]);
    let desk = Arc::new(Desk::new(pair.verifier.clone(), selection));
    pair.secondary("DELETE FROM t WHERE id = 7; UPDATE t SET v = 0 WHERE id IN (8, 3000)");
    let mut diverged = desk.diverged();
    let hour = Duration::from_hours(1);
    let status = Status::new("app", "copy");
    let (say, status) = watch::channel(status);
    let task = pair.runtime.spawn(verify_forever(Arc::clone(&desk), status, hour));
    let_pass(Duration::from_millis(300));
    let verified = pair.runtime.block_on(desk.recall()).expect("it is readable");
    assert!(verified.is_empty(), "another process applies, and verifies");
    say.send_modify(|status| {
        status.is_leader = true;
        status.snapshot = Some("3:3:".to_owned());
    });
    let mut next = || {
        pair.runtime.block_on(async {
            let changed = tokio::time::timeout(Duration::from_secs(20), diverged.changed()).await;
            changed.expect("in time").expect("it goes on");
            diverged.borrow_and_update().clone()
        })
    };
    assert_eq!(next().as_deref(), Some("public.t: 1 missing, 0 extra, 2 different"));

    let kept = |limit| {
        let found = pair.runtime.block_on(desk.divergence(limit));
        let found = found.expect("it is readable").into_iter();
        let line = |row: Finding| format!("{} {} {}", row.table, row.kind, row.key.join(","));
        let mut lines: Vec<String> = found.map(line).collect();
        lines.sort();
        lines
    };
    let all = ["public.t different 3000", "public.t different 8", "public.t missing 7"];
    assert_eq!(kept(100), all);
    assert_eq!(kept(2).len(), 2);
    poll("all tables are verified", || {
        let verified = pair.runtime.block_on(desk.recall()).expect("it is readable");
        let mut words: Vec<String> = verified.into_values().map(|known| known.verdict).collect();
        words.sort();
        words == ["different", "equal"]
    });

    // What is known to differ is repaired, and compared again; then nothing is kept of it.
    let (watched, _) = watch::channel(Progress::default());
    let table = pair.table("t").name;
    let repaired = pair.runtime.block_on(desk.repair(&table, None, &watched));
    let (repaired, report) = repaired.expect("it can be repaired");
    assert_eq!((repaired.deleted, repaired.updated, repaired.inserted), (0, 2, 1));
    assert_eq!(report.verdict(), Verdict::Equal);
    assert_eq!(next(), None);
    assert_eq!(kept(100), Vec::<String>::new());

    drop(diverged);
    pair.runtime.block_on(async {
        let ended = tokio::time::timeout(Duration::from_secs(20), task).await;
        ended.expect("it ends").expect("no panic");
    });
}
