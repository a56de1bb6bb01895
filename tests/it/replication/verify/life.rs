//! Verifications that are cancelled, in the way, refused, or go on in the background.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgtandem::replication::catalog::Selection;
use pgtandem::replication::connect::connect;
use pgtandem::replication::verify::findings;
use pgtandem::replication::verify::progress::Progress;
use pgtandem::replication::verify::report::Verdict;
use pgtandem::replication::verify::schedule::Background;
use tokio::sync::{mpsc, watch};

use crate::support::poll;

use super::pair::{CAPTURE, Pair, captured};

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); \
                    INSERT INTO t SELECT g, g FROM generate_series(1, 3000) g";

/// Our sessions in transactions, without the one that asks.
const OPEN: &str = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND application_name = 'pgtandem replication' AND state <> 'idle'";

#[test]
fn a_cancelled_verification_leaves_nothing_behind() {
    let mut pair = Pair::new(ROWS);
    // So slow that it would take hours.
    pair.verifier.limits.rate = 1;
    let (verifier, tables) = (pair.verifier.clone(), pair.tables());
    let (watched, watches) = watch::channel(Progress::default());
    let task =
        pair.runtime.spawn(async move { verifier.verify(&tables, &watched).await.tables.len() });
    poll("it is under way", || watches.borrow().rows_done > 0);
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
    let (watched, watches) = watch::channel(Progress::default());
    let task = pair.runtime.spawn(async move {
        let report = verifier.verify(&[table], &watched).await;
        report.tables.into_iter().map(|table| table.outcome.to_string()).collect::<Vec<_>>()
    });
    poll("it is under way", || watches.borrow().rows_done > 0);
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

    pair.verifier.secondary.port += 1;
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
    let background = Background {
        verifier: pair.verifier.clone(),
        selection: Selection::new(&["public.*".to_owned()], &["*.log".to_owned()]),
        interval: Duration::from_secs(3600),
    };
    let secondary = pair.runtime.block_on(connect(&pair.secondary)).expect("it is trusted");
    pair.runtime.block_on(findings::install(&secondary)).expect("it can be installed");
    pair.secondary("DELETE FROM t WHERE id = 7; UPDATE t SET v = 0 WHERE id IN (8, 3000)");
    let (reports, mut received) = mpsc::channel(4);
    let (watched, _watches) = watch::channel(Progress::default());
    let task = pair.runtime.spawn(background.clone().run(reports, watched));
    let mut next = || {
        let report = pair.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), received.recv()).await
        });
        let report = report.expect("in time").expect("it goes on");
        (report.table.name, report.outcome.verdict())
    };
    let mut both = [next(), next()];
    both.sort();
    let expected = [("t".to_owned(), Verdict::Different), ("u".to_owned(), Verdict::Equal)];
    assert_eq!(both, expected);
    drop(received);
    pair.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .expect("it ends")
            .expect("no panic");
    });

    let kept = |limit| {
        let found = pair.runtime.block_on(findings::divergence(&secondary, limit));
        let found = found.expect("it is readable").into_iter();
        found
            .map(|row| format!("{} {} {}", row.table, row.kind, row.key.join(",")))
            .collect::<Vec<_>>()
    };
    let all = ["public.t different 3000", "public.t missing 7", "public.t different 8"];
    let mut listed = kept(100);
    listed.sort();
    let mut all = all.map(str::to_owned).to_vec();
    all.sort();
    assert_eq!(listed, all);
    assert_eq!(kept(2).len(), 2);
    let verified = pair.runtime.block_on(findings::verified(&secondary)).expect("it is readable");
    let mut words: Vec<&str> = verified.values().map(|(_, word)| word.as_str()).collect();
    words.sort_unstable();
    assert_eq!(words, ["different", "equal"]);

    // Once it is equal again, nothing is kept of it.
    pair.secondary("UPDATE t SET v = id WHERE v = 0; INSERT INTO t VALUES (7, 7)");
    let report = pair.verify();
    for table in &report.tables {
        pair.runtime.block_on(findings::record(&secondary, table)).expect("it is recorded");
    }
    assert_eq!(kept(100), Vec::<String>::new());
}
