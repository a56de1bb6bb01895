//! Verification while writers never stop: no false alarm, and no difference that is overlooked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgtandem::replication::connect::connect;
use pgtandem::replication::verify::report::Verdict;

use crate::support::{EndsWith, poll};

use super::pair::{CAPTURE, Pair, captured};

/// Verifications that must all say "equal".
const RUNS: u64 = 25;

const WRITERS: i32 = 3;

fn schema() -> String {
    "CREATE TABLE acc (id int PRIMARY KEY, bal int NOT NULL, note text); \
     CREATE TABLE queue (id bigint PRIMARY KEY, what text); \
     CREATE TABLE swept (id int PRIMARY KEY, v int)"
        .to_owned()
}

/// Transfers, predicate updates, a moving window of inserts and deletes, keys that change, TRUNCATE.
fn transaction(writer: i32, round: i32) -> String {
    let (one, other) = ((round * 7 + writer * 13) % 4000 + 1, (round * 11 + writer) % 4000 + 1);
    match round % 6 {
        0 | 1 => format!(
            "BEGIN; UPDATE acc SET bal = bal - 1 WHERE id = {low}; \
             UPDATE acc SET bal = bal + 1 WHERE id = {high}; COMMIT",
            low = one.min(other),
            high = one.max(other),
        ),
        2 => format!(
            "INSERT INTO queue SELECT nextval('ids'), repeat(md5(random()::text), 3) \
             FROM generate_series(1, 40)"
        ),
        3 => "DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id \
              FOR UPDATE SKIP LOCKED LIMIT 40)"
            .to_owned(),
        4 => format!("UPDATE queue SET id = nextval('ids') WHERE id % 1000 = {}", one % 1000),
        _ if writer == 0 => format!(
            "TRUNCATE swept; INSERT INTO swept SELECT g, {round} FROM generate_series(1, 500) g"
        ),
        _ => format!("UPDATE acc SET note = md5('{round}') WHERE bal % 97 = {}", one % 97),
    }
}

#[test]
fn equal_whatever_is_written_meanwhile() {
    let pair = Pair::new(&schema());
    pair.both(
        "INSERT INTO acc SELECT g, 1000, md5(g::text) FROM generate_series(1, 4000) g; \
         INSERT INTO queue SELECT g, '' FROM generate_series(1, 2000) g",
    );
    pair.primary("CREATE SEQUENCE ids START 2001");
    pair.primary(CAPTURE);
    for table in ["acc", "queue", "swept"] {
        pair.primary(&captured(table));
    }
    pair.applier.follows.store(true, Ordering::Relaxed);
    let (is_over, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _ends = EndsWith(&is_over);
        for writer in 0..WRITERS {
            let (pair, is_over, commits) = (&pair, &is_over, &commits);
            scope.spawn(move || {
                pair.runtime.block_on(async {
                    let client = connect(&pair.primary).await.expect("it is trusted");
                    client.batch_execute("SET search_path = public").await.expect("it can be set");
                    let mut round = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        round += 1;
                        if client.batch_execute(&transaction(writer, round)).await.is_ok() {
                            commits.fetch_add(1, Ordering::Relaxed);
                        } else {
                            // Deadlocks are part of the load.
                            client.batch_execute("ROLLBACK").await.expect("it goes on");
                        }
                    }
                });
            });
        }
        let mut seen = 0;
        for run in 0..RUNS {
            let report = pair.verify();
            let tables: Vec<String> = report
                .tables
                .iter()
                .filter(|table| !["log"].contains(&table.table.name.as_str()))
                .filter(|table| table.outcome.verdict() != Verdict::Equal)
                .map(|table| format!("{}: {}", table.table, table.outcome))
                .collect();
            assert_eq!(tables, Vec::<String>::new(), "run {run}");
            poll("writers go on", || commits.load(Ordering::Relaxed) > seen);
            seen = commits.load(Ordering::Relaxed);
        }
        // And what does differ is found under the same load.
        pair.secondary(
            "UPDATE acc SET note = 'flipped' WHERE id = 4000 - 1; \
                        INSERT INTO queue VALUES (-1, 'extra')",
        );
        let found = pair.found();
        assert!(found.contains("public.queue: extra (-1)"), "{found}");
    });
    assert!(pair.applier.batches.load(Ordering::Relaxed) > RUNS);
}

/// A comparison that is slower than what is written meanwhile is still one of two equal states.
#[test]
fn equal_however_slow() {
    let mut pair = Pair::new("CREATE TABLE acc (id int PRIMARY KEY, v int)");
    pair.both("INSERT INTO acc SELECT g, 0 FROM generate_series(1, 3000) g");
    pair.primary(&format!("{CAPTURE} {}", captured("acc")));
    pair.applier.follows.store(true, Ordering::Relaxed);
    pair.verifier.limits.rate = 3000;
    // Many snapshots for one table: each goes on where the last one ended.
    pair.verifier.limits.snapshot_rows = 400;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = EndsWith(&is_over);
        scope.spawn(|| {
            let mut round = 0;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                pair.primary(&format!("UPDATE acc SET v = {round} WHERE id % 3 = {}", round % 3));
            }
        });
        let report = {
            let table = pair.table("acc");
            let (watched, watches) = tokio::sync::watch::channel(Default::default());
            let report = pair.runtime.block_on(pair.verifier.verify(&[table], &watched));
            let progress: pgtandem::replication::verify::progress::Progress =
                watches.borrow().clone();
            assert_eq!((progress.tables_done, progress.rows_done), (1, 3000));
            report
        };
        let table = report.tables.first().expect("there is one");
        assert_eq!(table.outcome.to_string(), "equal");
        assert_eq!(table.rows, 3000);
        // At 3000 rows per second, one second is the least it may take.
        assert!(table.took > Duration::from_millis(800), "{:?}", table.took);
    });
    assert!(pair.applier.held.load(Ordering::Relaxed) >= 3);
}
