//! The log rotates without losing a row, and no secondary can make it grow for ever.

use std::time::Duration;

use pgtandem::replication::capture::{self, Captured, Excess, Limits, Tended};

use super::Primary;

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, v text);
    CREATE TABLE other (id int PRIMARY KEY);";

/// Rotates whenever there is anything to rotate.
const EAGER: Limits = Limits { rotate_bytes: 1, bytes: 0, age: Duration::ZERO };

impl Primary {
    fn tend(&self, limits: Limits) -> Tended {
        let mut admin = self.admin();
        self.run(capture::tend(&mut admin, limits, Duration::from_hours(1))).expect("it tends")
    }

    /// Says that a secondary has applied all that is committed now.
    fn progress(&self, name: &str) {
        self.superuser(&format!(
            "INSERT INTO pgtandem.secondaries (name, state, progress, applied_at)
             VALUES ('{name}', 'in_sync', pg_current_snapshot(), clock_timestamp())
             ON CONFLICT (name) DO UPDATE SET progress = excluded.progress,
                 applied_at = excluded.applied_at"
        ));
    }

    /// Rows in each of the three logs.
    fn rows_of_logs(&self) -> String {
        let rows = self.superuser(
            "SELECT (SELECT count(*) FROM pgtandem.log_0), (SELECT count(*) FROM pgtandem.log_1),
                    (SELECT count(*) FROM pgtandem.log_2)",
        );
        rows.trim().to_owned()
    }
}

#[test]
fn it_rotates_and_truncates_what_everybody_has() {
    let primary = Primary::captured(ITEMS);
    primary.progress("one");
    primary.progress("two");
    assert_eq!(primary.tend(EAGER).rotated_to, None, "nothing is in it");
    primary.alice("INSERT INTO items VALUES (1, 'a')");
    assert_eq!(primary.tend(EAGER).rotated_to, Some(1));
    primary.alice("INSERT INTO items VALUES (2, 'b')");
    primary.progress("one");
    let tended = primary.tend(EAGER);
    assert_eq!((tended.rotated_to, tended.truncated), (Some(2), vec![]), "two misses log 0");
    primary.alice("INSERT INTO items VALUES (3, 'c')");
    assert_eq!(primary.tend(EAGER).rotated_to, None, "no log is empty");
    assert_eq!(primary.rows_of_logs(), "1|1|1");
    assert!(primary.findings().is_empty());
    primary.progress("two");
    let tended = primary.tend(EAGER);
    assert_eq!((tended.truncated, tended.rotated_to), (vec![0, 1], Some(0)), "one misses log 2");
    primary.alice("UPDATE items SET v = 'd'; DELETE FROM items WHERE id = 1; TRUNCATE other");
    assert_eq!(primary.rows_of_logs(), "5|0|1");
    assert!(primary.findings().is_empty());
}

/// A transaction that began to write before a rotation, and one that is prepared.
#[test]
fn open_transactions_lose_nothing() {
    let primary = Primary::captured(ITEMS);
    let mut open = primary.session("postgres");
    open.rows("BEGIN; INSERT INTO items VALUES (1, 'open'); SAVEPOINT a");
    primary.progress("one");
    primary.alice("INSERT INTO items VALUES (2, 'b')");
    assert_eq!(primary.tend(EAGER).rotated_to, Some(1));
    open.rows("INSERT INTO items VALUES (3, 'still open')");
    primary.progress("one");
    // All that is committed is covered; what is not keeps the log.
    assert!(primary.tend(EAGER).truncated.is_empty());
    open.rows("INSERT INTO other VALUES (1); COMMIT");
    assert!(primary.tend(EAGER).truncated.is_empty(), "its rows are not covered");
    primary.assert_equal();
}

/// Writers never stop while the log is rotated and truncated under them: what is taken away by
/// progress and what is left make up all rows.
#[test]
fn rotation_under_load() {
    let primary = Primary::captured(ITEMS);
    primary.superuser("CREATE TABLE replay.taken AS SELECT * FROM pgtandem.log_0");
    primary.superuser(
        "INSERT INTO pgtandem.secondaries (name, state, progress)
         VALUES ('one', 'in_sync', pg_current_snapshot())",
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = crate::support::EndsWith(&stop);
        for writer in 0..3 {
            let mut session = primary.session("postgres");
            let stop = &stop;
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let id = writer * 1_000_000 + n;
                    session.rows(&format!(
                        "BEGIN; INSERT INTO items VALUES ({id}, 'x');
                         UPDATE items SET v = v || 'y' WHERE id = {id}; COMMIT"
                    ));
                    if n % 5 == 0 {
                        session.rows(&format!("DELETE FROM items WHERE id = {id}"));
                    }
                }
            });
        }
        let mut rotations = 0;
        let mut truncations = 0;
        for _ in 0..12 {
            // A batch: what is visible now and was not in the progress.
            primary.superuser(
                "BEGIN ISOLATION LEVEL REPEATABLE READ;
                 INSERT INTO replay.taken SELECT l.* FROM pgtandem.secondaries s, LATERAL (
                     SELECT * FROM pgtandem.log_0 UNION ALL SELECT * FROM pgtandem.log_1
                     UNION ALL SELECT * FROM pgtandem.log_2) l
                 WHERE NOT pg_visible_in_snapshot(l.xid, s.progress);
                 UPDATE pgtandem.secondaries SET progress = pg_current_snapshot(),
                     applied_at = clock_timestamp();
                 COMMIT",
            );
            let tended = primary.tend(EAGER);
            rotations += u32::from(tended.rotated_to.is_some());
            truncations += tended.truncated.len();
        }
        assert!(rotations > 3 && truncations > 3, "{rotations} {truncations}");
    });
    // The rest, and all of it into one table for the replayer.
    primary.superuser(
        "INSERT INTO replay.taken SELECT l.* FROM pgtandem.secondaries s, LATERAL (
             SELECT * FROM pgtandem.log_0 UNION ALL SELECT * FROM pgtandem.log_1
             UNION ALL SELECT * FROM pgtandem.log_2) l
         WHERE NOT pg_visible_in_snapshot(l.xid, s.progress);
         TRUNCATE pgtandem.log_0, pgtandem.log_1, pgtandem.log_2;
         INSERT INTO pgtandem.log_0 SELECT * FROM replay.taken;",
    );
    primary.assert_equal();
}

#[test]
fn too_large_a_log_detaches_who_holds_it() {
    let primary = Primary::captured(ITEMS);
    primary.progress("quick");
    primary.progress("slow");
    primary.alice("INSERT INTO items SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g");
    let limits = Limits { rotate_bytes: 1 << 16, bytes: 1 << 17, age: Duration::ZERO };
    primary.progress("quick");
    let tended = primary.tend(limits);
    assert_eq!(tended.rotated_to, Some(1));
    let [(name, Excess::Bytes { .. })] = &tended.detached[..] else { panic!("{tended:?}") };
    assert_eq!((name.as_str(), tended.has_stopped), ("slow", false));
    assert_eq!(primary.tend(limits).truncated, [0]);
    primary
        .alice("INSERT INTO items SELECT g, repeat('x', 100) FROM generate_series(5001, 8000) g");
    let tended = primary.tend(limits);
    assert_eq!((tended.detached.len(), tended.has_stopped), (1, true), "the last one");
    // From now on nothing is written, and what was is gone.
    primary.tend(limits);
    primary.tend(limits);
    primary
        .alice("INSERT INTO items VALUES (0, 'unseen'); UPDATE items SET v = ''; TRUNCATE items");
    assert_eq!(primary.rows_of_logs(), "0|0|0");
    assert!(primary.findings()[0].starts_with("capture is stopped: the change log has "));
    let states = primary.superuser("SELECT name, state FROM pgtandem.secondaries ORDER BY 1");
    assert_eq!(states, "quick|detached\nslow|detached\n");
    // Once more: capture begins anew for every table.
    let mut admin = primary.admin();
    primary.run(capture::restart(&mut admin)).expect("it can be restarted");
    assert!(!primary.findings().is_empty(), "the functions are still silent");
    assert_eq!(primary.capture(), [Captured::Began, Captured::Began]);
    assert!(primary.findings().is_empty());
    primary.begin();
    primary.alice("INSERT INTO items VALUES (0, 'seen')");
    primary.assert_equal();
}

#[test]
fn too_old_a_progress_detaches() {
    let primary = Primary::captured(ITEMS);
    let limits = Limits { rotate_bytes: 1 << 30, bytes: 0, age: Duration::from_mins(1) };
    primary.progress("one");
    primary.superuser("UPDATE pgtandem.secondaries SET applied_at = now() - interval '2 min'");
    assert_eq!(primary.tend(limits).detached, [], "it has nothing to apply");
    primary.alice("INSERT INTO items VALUES (1, 'a')");
    let mut admin = primary.admin();
    let young = primary.run(capture::tend(&mut admin, limits, Duration::from_secs(59)));
    assert_eq!(young.expect("it tends").detached, [], "nobody could have applied it");
    let tended = primary.tend(limits);
    let age = Excess::Age { limit: limits.age };
    assert_eq!(tended.detached, [("one".to_owned(), age)]);
    assert!(tended.has_stopped);
}
