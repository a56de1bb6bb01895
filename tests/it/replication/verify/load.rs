//! A comparison that takes long, while somebody writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgtandem::replication::verify::progress::Progress;
use tokio::sync::watch;

use crate::support::{EndsWith, let_pass};

use super::pair::{CAPTURE, Pair, captured};

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
                pair.primary(&format!(
                    "UPDATE acc SET v = {round} WHERE id % 300 = {}",
                    round % 300
                ));
                let_pass(Duration::from_millis(20));
            }
        });
        let report = {
            let table = pair.table("acc");
            let (watched, seen) = watch::channel(Progress::default());
            let report = pair.runtime.block_on(pair.verifier.verify(&[table], &watched));
            let progress = seen.borrow().clone();
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
