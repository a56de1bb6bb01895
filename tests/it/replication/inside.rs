//! Two clusters of one's own and a supervisor in this process, which can be asked and told.

use std::time::{Duration, Instant};

use pgtandem::config::Config;
use pgtandem::pool::definitions::Seals;
use pgtandem::replication::status::{Command, CommandError, State, Status};
use pgtandem::replication::supervisor::Supervisor;

use super::pair::{self, Pair, Place};
use crate::support::{PATIENCE, cluster::Cluster, let_pass, poll_within};

/// How long it takes to find out that somebody hangs, and to go on, on a slow machine.
pub const LONG: Duration = Duration::from_secs(40);

/// Both clusters, and who looks after them.
pub struct Inside {
    pub primary: Cluster,
    pub secondary: Cluster,
    pub database: String,
    pub other: String,
    keys: String,
    runtime: tokio::runtime::Runtime,
    supervisor: Supervisor,
}

impl Inside {
    /// Makes both databases, runs `schema` in both and `rows` in the primary, and begins.
    pub fn start(schema: &str, rows: &str, keys: &str) -> Self {
        Self::start_with(Cluster::start(), schema, rows, keys)
    }

    /// The same, with a primary that is there already.
    pub fn start_with(primary: Cluster, schema: &str, rows: &str, keys: &str) -> Self {
        let secondary = Cluster::start();
        let (database, other) = (primary.new_database(), secondary.new_database());
        primary.superuser(&database).rows(&format!("{schema}; {rows}"));
        secondary.superuser(&other).rows(schema);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let (keys, supervisor) = (keys.to_owned(), Supervisor::default());
        let mut inside = Self { primary, secondary, database, other, keys, runtime, supervisor };
        inside.begin();
        inside
    }

    /// Begins to look after the secondary, as a process does that has just started.
    pub fn begin(&mut self) {
        let Self { primary, database, secondary, other, keys, .. } = self;
        let text = Pair::config(primary, database, secondary, other, keys).to_toml();
        let config = Config::parse(&text, "proxy.toml", &|_| None).expect("it is right");
        let _in_it = self.runtime.enter();
        self.supervisor = Supervisor::start(&config, Seals::default());
    }

    /// Looks after nothing any more.
    pub fn end(&mut self) {
        self.supervisor = Supervisor::default();
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE application_name LIKE 'pgtandem replication%'";
        for cluster in [&self.primary, &self.secondary] {
            poll_within(LONG, "it ends", || cluster.superuser("postgres").value(sql) == "0");
        }
    }

    pub fn here(&self) -> Place<'_> {
        (&self.primary, &self.database)
    }

    pub fn there(&self) -> Place<'_> {
        (&self.secondary, &self.other)
    }

    pub fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.primary.superuser(&self.database).rows(sql)
    }

    pub fn run_there(&self, sql: &str) -> Vec<Vec<String>> {
        self.secondary.superuser(&self.other).rows(sql)
    }

    pub fn ask(&self, command: Command) -> Result<(), CommandError> {
        let asked = self.supervisor.command(&self.database, "copy", command);
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, asked).await })
            .expect("in time")
    }

    pub fn status(&self) -> Status {
        self.supervisor.status()[0].clone()
    }

    pub fn state(&self) -> State {
        self.status().state
    }

    /// Waits for a state; returns why.
    pub fn await_word(&self, word: &str) -> String {
        let began = Instant::now();
        while self.state().word() != word {
            assert!(began.elapsed() < LONG, "it is not {word}: {:?}", self.status());
            let_pass(Duration::from_millis(10));
        }
        self.state().why().unwrap_or_default().to_owned()
    }

    pub fn assert_equal(&self) {
        self.await_word("in_sync");
        pair::assert_equal(self.here(), self.there());
    }
}
