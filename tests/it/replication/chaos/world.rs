//! Both clusters, the proxy between them, who writes and who reads.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::relay::Relay;
use super::workload::{self, Gate, INVARIANTS};
use crate::replication::ddl::definitions;
use crate::replication::pair::contents;
use crate::support::cluster::Cluster;
use crate::support::config::Config;
use crate::support::fixture::Fixture;
use crate::support::proxy::Proxy;
use crate::support::tmpfs::Tmpfs;

/// Writers past the proxy, and through it.
const WRITERS: (u64, u64) = (1, 4);

/// How long the secondary may take to catch up on this machine.
const CATCH_UP: Duration = Duration::from_mins(1);

pub struct World {
    pub primary: Cluster,
    pub secondary: Cluster,
    pub relay: Relay,
    pub proxy: Proxy,
    /// Where the secondary's database is, if a small file system can be made; or why it cannot.
    pub disk: Result<Tmpfs, String>,
    pub database: String,
    pub other: String,
    port: Arc<AtomicU16>,
    gate: Arc<Gate>,
    seen: Arc<Seen>,
    runtime: Runtime,
}

/// What the reader has seen.
#[derive(Default)]
struct Seen {
    snapshots: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl World {
    /// Makes everything, and lets the writers begin while the first copy is made.
    pub fn start() -> Self {
        // Long runs update the same rows again and again.
        let settings = "autovacuum = on\nautovacuum_naptime = 5s";
        let (primary, secondary) = (Cluster::start_with(settings), Cluster::start_with(settings));
        let (database, other) = (primary.new_database(), secondary.new_database());
        let disk = Tmpfs::mount(200 << 20);
        if let Ok(disk) = &disk {
            let place = disk.path().display();
            let mut superuser = secondary.superuser("postgres");
            superuser.rows(&format!("CREATE TABLESPACE small LOCATION '{place}'"));
            superuser.rows(&format!("ALTER DATABASE {other} SET TABLESPACE small"));
        }
        primary.superuser(&database).rows(&format!("{}{}", workload::SCHEMA, workload::ROWS));
        secondary.superuser(&other).rows(workload::SCHEMA);
        // Clusters of tests commit asynchronously: the first crash may come before that is on disk.
        primary.superuser(&database).rows("CHECKPOINT");
        secondary.superuser(&other).rows("CHECKPOINT");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        let relay = runtime.block_on(Relay::start(secondary.port()));
        let proxy = Proxy::start(&primary, config(&primary, &database, relay.port, &other));
        let port = Arc::new(AtomicU16::new(port_of(&proxy)));
        let (gate, seen) = (Arc::new(Gate::default()), Arc::new(Seen::default()));
        let world = Self {
            primary,
            secondary,
            relay,
            proxy,
            disk,
            database,
            other,
            port,
            gate,
            seen,
            runtime,
        };
        world.begin();
        world
    }

    fn begin(&self) {
        let (past, through) = WRITERS;
        for worker in 0..past + through {
            let (port, direct) = (Arc::clone(&self.port), self.primary.port());
            let port = move || if worker < past { direct } else { port.load(Ordering::Relaxed) };
            let database = self.database.clone();
            let is_definer = worker + 1 == past + through;
            let gate = Arc::clone(&self.gate);
            self.runtime.spawn(workload::write(gate, port, database, worker, 7, is_definer));
        }
        let read = read(Arc::clone(&self.seen), self.secondary.port(), self.other.clone());
        self.runtime.spawn(read);
    }

    /// The settings of every proxy here.
    pub fn config(&self) -> Config {
        config(&self.primary, &self.database, self.relay.port, &self.other)
    }

    /// Puts another proxy in the place of the one that runs, which is killed if it still does.
    pub fn replace_proxy(&mut self, proxy: Proxy) {
        self.port.store(port_of(&proxy), Ordering::Relaxed);
        self.proxy = proxy;
    }

    /// Kills the proxy and starts another.
    pub fn restart_proxy(&mut self) {
        self.replace_proxy(Proxy::start(&self.primary, self.config()));
    }

    /// Stops the writers, waits for the secondary, and compares.
    pub fn assert_equal(&self) {
        let _closed = self.runtime.block_on(self.gate.lock.write());
        self.await_secondary();
        let (mut here, mut there) =
            (self.primary.superuser(&self.database), self.secondary.superuser(&self.other));
        let (ours, theirs) = (contents(&mut here), contents(&mut there));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "table {} differs\n{}", ours.0, self.proxy.log());
        }
        assert_eq!(ours.len(), theirs.len());
        let ours = definitions(&self.primary.unix(), &self.database);
        let theirs = definitions(&self.secondary.unix(), &self.other);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "definitions differ\n{}", self.proxy.log());
        }
        assert_eq!(ours.len(), theirs.len());
        assert_eq!(here.rows(INVARIANTS), Vec::<Vec<String>>::new(), "on the primary");
        assert_eq!(there.value("SELECT count(*) FROM pgtandem.dead_letters"), "0");
        self.gate.may_define.store(true, Ordering::Relaxed);
        let wrong = self.seen.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "the secondary was read: {wrong:?}");
    }

    fn await_secondary(&self) {
        let began = Instant::now();
        let xid = self.primary.superuser(&self.database).value("SELECT pg_current_xact_id()");
        let there = self.secondary.superuser(&self.other);
        let mut there = there;
        let installed = "SELECT to_regclass('pgtandem.progress') IS NOT NULL";
        let sql = format!(
            "SELECT coalesce((SELECT pg_visible_in_snapshot('{xid}'::xid8, snapshot) \
             FROM pgtandem.progress), false) AND NOT EXISTS (SELECT FROM pgtandem.copied)"
        );
        while there.value(installed) != "t" || there.value(&sql) != "t" {
            assert!(
                began.elapsed() < CATCH_UP,
                "the secondary does not catch up: {:?}\n{}",
                self.reported(),
                self.proxy.log()
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// What the primary was told of the secondary.
    fn reported(&self) -> Vec<Vec<String>> {
        let sql = "SELECT state, last_error, progress, applied_at FROM pgtandem.secondaries";
        self.primary.superuser(&self.database).rows(sql)
    }

    /// Ends everything; says what was done.
    pub fn end(self) -> String {
        let mut said = String::new();
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        write!(
            said,
            "{} transactions committed, {} of them with definitions, {} failed, {} snapshots of the secondary read",
            count(&self.gate.committed),
            count(&self.gate.defined),
            count(&self.gate.failed),
            count(&self.seen.snapshots)
        )
        .expect("a string takes it");
        assert!(count(&self.gate.defined) > 0, "nobody has defined anything");
        assert!(count(&self.seen.snapshots) > 0, "nobody has read the secondary");
        self.runtime.shutdown_background();
        said
    }
}

fn port_of(proxy: &Proxy) -> u16 {
    match proxy.tcp() {
        crate::support::login::Address::Tcp(port) => port,
        crate::support::login::Address::Unix(_) => unreachable!("tcp() is TCP"),
    }
}

fn config(primary: &Cluster, database: &str, port: u16, other: &str) -> Config {
    // Small batches, so that those of the load go both ways.
    Fixture::config(primary, database).general("default_pool_size = 3").extra(&format!(
        "\n[databases.{database}.replication]\nadmin_user = \"postgres\"\npoll_interval = \"20ms\"\n\
         batch_rows = 500\nlog_limit_bytes = \"256MiB\"\n\
         [databases.{database}.secondaries.copy]\nhost = \"127.0.0.1\"\nport = {port}\n\
         dbname = \"{other}\"\n"
    ))
}

/// Checks the invariants in snapshot after snapshot of the secondary, once it has its first copy.
async fn read(seen: Arc<Seen>, port: u16, database: String) {
    let pause = || tokio::time::sleep(Duration::from_millis(20));
    loop {
        pause().await;
        let Some(client) = workload::connect(port, &database).await else { continue };
        let installed = "SELECT to_regclass('pgtandem.copied') IS NOT NULL";
        let installed = client.query_one(installed, &[]).await.and_then(|row| row.try_get(0));
        if !installed.unwrap_or(false) {
            continue;
        }
        let is_copied = "SELECT coalesce(bool_and(snapshot IS NOT NULL), false) AND \
                         NOT EXISTS (SELECT FROM pgtandem.copied) FROM pgtandem.progress";
        loop {
            pause().await;
            let look = async {
                client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
                let copied: bool = client.query_one(is_copied, &[]).await?.try_get(0)?;
                let wrong = if copied { client.query(INVARIANTS, &[]).await? } else { Vec::new() };
                client.batch_execute("COMMIT").await?;
                Ok::<_, tokio_postgres::Error>((copied, wrong))
            };
            let Ok((copied, wrong)) = look.await else { break };
            seen.snapshots.fetch_add(u64::from(copied), Ordering::Relaxed);
            let wrong = wrong.iter().filter_map(|row| row.try_get(0).ok());
            seen.wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(wrong);
        }
    }
}

/// A file that fills what is left of a file system, for a while.
pub struct Filler(PathBuf);

impl Filler {
    pub fn fill(disk: &Tmpfs) -> Self {
        let path = disk.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("the file system is ours");
        let block = vec![0_u8; 64 << 10];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
