//! Verification beside the real capture and the real applier.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgtandem::config::Config;
use pgtandem::pool::definitions::Seals;
use pgtandem::replication::catalog::TableName;
use pgtandem::replication::status::State;
use pgtandem::replication::supervisor::Supervisor;
use pgtandem::replication::verify::desk::Desk;
use pgtandem::replication::verify::progress::Progress;
use pgtandem::replication::verify::report::Verdict;
use tokio::sync::watch;

use crate::support::{EndsWith, cluster::Cluster, let_pass, poll};

const SCHEMA: &str = "CREATE TABLE acc (id int PRIMARY KEY, bal int NOT NULL, note text); \
                      CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                      acc int REFERENCES acc ON DELETE CASCADE, what text); \
                      CREATE TABLE queue (id bigint PRIMARY KEY, what text); \
                      CREATE TABLE swept (id int PRIMARY KEY, v int)";

/// A primary, a secondary, and what keeps it alike, in this process.
struct Supervised {
    runtime: tokio::runtime::Runtime,
    primary: Cluster,
    secondary: Cluster,
    supervisor: Supervisor,
}

impl Supervised {
    fn start() -> Self {
        let (primary, secondary) = (Cluster::start(), Cluster::start());
        assert_eq!((primary.new_database(), secondary.new_database()), ("t1".into(), "t1".into()));
        primary.superuser("t1").rows(SCHEMA);
        secondary.superuser("t1").rows(SCHEMA);
        primary.superuser("t1").rows(
            "INSERT INTO acc SELECT g, 1000, md5(g::text) FROM generate_series(1, 3000) g; \
             INSERT INTO item (acc, what) SELECT g, 'x' FROM generate_series(1, 3000) g",
        );
        let address = |cluster: &Cluster| {
            format!("host = \"{}\"\nport = {}", cluster.socket_dir().display(), cluster.port())
        };
        let text = format!(
            "[databases.t1]\n{}\n[databases.t1.replication]\nadmin_user = \"postgres\"\n\
             poll_interval = \"5ms\"\nverify_interval = \"0s\"\n[databases.t1.secondaries.copy]\n{}\n",
            address(&primary),
            address(&secondary)
        );
        let config = Config::parse(&text, "test", &|_| None).expect("it is a configuration");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let supervisor = {
            let _inside = runtime.enter();
            Supervisor::start(&config, Seals::default())
        };
        Self { runtime, primary, secondary, supervisor }
    }

    fn desk(&self) -> Arc<Desk> {
        self.supervisor.desk("t1", "copy").expect("it is configured")
    }

    fn verify(&self) -> (Verdict, String) {
        let (watched, _) = watch::channel(Progress::default());
        let report = self.runtime.block_on(self.desk().verify(None, &watched));
        let report = report.expect("it can be asked");
        let tables = report.tables.iter();
        let lines: Vec<String> =
            tables.map(|table| format!("{}: {}", table.table, table.outcome)).collect();
        (report.verdict(), lines.join("; "))
    }

    fn await_copy(&self) {
        poll("the secondary has its copy", || {
            let state = self.state();
            let stopped = matches!(state, State::Paused(_) | State::Detached(_));
            assert!(!stopped, "{:?}", self.supervisor.status());
            state == State::InSync
        });
    }

    fn state(&self) -> State {
        self.supervisor.status().remove(0).state
    }
}

/// Predicate updates, cascades, a queue, keys that change, savepoints, clocks, TRUNCATE.
fn transaction(writer: u64, round: u64) -> String {
    let account = (round * 7 + writer * 13) % 3000 + 1;
    match round % 9 {
        0 => format!("UPDATE acc SET bal = bal + 1 WHERE bal % 97 = {}", account % 97),
        1 => format!(
            "INSERT INTO item (acc, what) SELECT {account}, md5(random()::text) \
             FROM generate_series(1, 20)"
        ),
        2 => format!("DELETE FROM acc WHERE id = {account}"),
        3 => format!(
            "INSERT INTO acc VALUES ({account}, 0, '') \
             ON CONFLICT (id) DO UPDATE SET note = clock_timestamp()::text"
        ),
        4 => format!(
            "INSERT INTO queue SELECT {round} * 100000 + {writer} * 1000 + g, repeat('x', g) \
             FROM generate_series(1, 40) g"
        ),
        5 => "DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id \
              FOR UPDATE SKIP LOCKED LIMIT 40)"
            .to_owned(),
        6 => format!("UPDATE queue SET id = -id WHERE id % 50 = {}", account % 50),
        7 if writer == 0 => format!(
            "BEGIN; TRUNCATE swept; INSERT INTO swept SELECT g, {round} \
             FROM generate_series(1, 300) g; COMMIT"
        ),
        _ => format!(
            "BEGIN; UPDATE item SET id = DEFAULT WHERE id = {account}; SAVEPOINT s; \
             DELETE FROM item WHERE id % 500 = {}; ROLLBACK TO s; COMMIT",
            account % 500
        ),
    }
}

#[test]
fn equal_under_load_then_different_then_repaired() {
    let it = Supervised::start();
    it.await_copy();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = EndsWith(&is_over);
        for writer in 0..2 {
            let (it, is_over) = (&it, &is_over);
            scope.spawn(move || {
                let mut client = it.primary.superuser("t1");
                let mut round = 0;
                while !is_over.load(Ordering::Relaxed) {
                    round += 1;
                    // Deadlocks are part of the load.
                    client.query(&transaction(writer, round));
                    client.query("ROLLBACK");
                    let_pass(Duration::from_millis(2));
                }
            });
        }
        for run in 0..10 {
            let (verdict, lines) = it.verify();
            assert_eq!(verdict, Verdict::Equal, "run {run}: {lines}");
        }
        it.secondary.superuser("t1").rows(
            "SET session_replication_role = replica; \
             DELETE FROM item WHERE id = 7; INSERT INTO item OVERRIDING SYSTEM VALUE VALUES (-1)",
        );
        assert_eq!(it.verify().0, Verdict::Different);
    });
    let expected = State::Diverged("public.item: 1 missing, 1 extra, 0 different".to_owned());
    poll("the secondary is known to differ", || it.state() == expected);
    let keys = it.runtime.block_on(it.desk().divergence(10)).expect("it can be asked");
    let mut keys: Vec<String> =
        keys.iter().map(|row| format!("{} {}", row.kind, row.key.join(","))).collect();
    keys.sort();
    assert_eq!(keys, ["extra -1", "missing 7"]);

    let (watched, _) = watch::channel(Progress::default());
    let table = TableName { schema: "public".to_owned(), name: "item".to_owned() };
    let repaired = it.runtime.block_on(it.desk().repair(&table, None, &watched));
    let (repaired, report) = repaired.expect("it can be repaired");
    assert_eq!((repaired.deleted, repaired.updated, repaired.inserted), (1, 0, 1));
    assert_eq!(report.verdict(), Verdict::Equal);
    poll("the secondary is in sync again", || it.state() == State::InSync);
    assert_eq!(it.verify().0, Verdict::Equal);
}

/// Nobody waits for an applier that is not there.
#[test]
fn a_paused_secondary_cannot_be_told() {
    let it = Supervised::start();
    it.await_copy();
    let pause = pgtandem::replication::status::Command::Pause("for a test".to_owned());
    it.runtime.block_on(it.supervisor.command("t1", "copy", pause)).expect("it pauses");
    poll("it has paused", || matches!(it.state(), State::Paused(_)));
    let began = std::time::Instant::now();
    let (verdict, lines) = it.verify();
    assert_eq!(verdict, Verdict::CouldNotTell);
    assert!(lines.contains("nobody here applies to this secondary"), "{lines}");
    assert!(began.elapsed() < Duration::from_secs(20));
}
