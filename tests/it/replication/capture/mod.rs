//! Capture on the primary: what is in the change log is what happened to the tables.

mod exact;
mod life;
mod limits;
mod rights;
mod texts;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pgtandem::replication::capture::{self, CaptureError, Captured, Finding};
use pgtandem::replication::catalog::{self, Selection, Table};
use pgtandem::replication::connect::{Target, connect};
use pgtandem::secret::Secret;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use crate::support::cluster::{ALICE, Cluster};
use crate::support::login::Login;
use crate::support::tools::psql;
use crate::support::{self, PATIENCE};

/// A database whose tables belong to `alice`, who is no superuser; `dave` is the application.
pub struct Primary {
    pub database: String,
    runtime: Runtime,
    cluster: &'static Cluster,
}

/// Replays the change log into copies of the tables, and compares.
const REPLAY: &str = include_str!("replay.sql");

impl Primary {
    /// Makes a database with the tables of `setup`, which runs as `alice`.
    pub fn new(setup: &str) -> Self {
        let cluster = Cluster::shared();
        let database = cluster.new_database();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let primary = Self { database, runtime, cluster };
        primary.superuser(&format!(
            "GRANT ALL ON SCHEMA public TO PUBLIC; GRANT CREATE ON DATABASE {} TO alice; {REPLAY}",
            primary.database
        ));
        primary.alice(setup);
        primary
    }

    /// The same, with all tables under capture and copies to replay into.
    pub fn captured(setup: &str) -> Self {
        let primary = Self::new(setup);
        primary.capture();
        primary.begin();
        primary
    }

    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A connection of `admin_user`, as the product makes it.
    pub fn admin(&self) -> Client {
        let target = Target {
            servers: Arc::new([self.cluster.server()]),
            is_primary: true,
            dbname: self.database.clone(),
            user: ALICE.0.to_owned(),
            password: Some(Secret::new(ALICE.1)),
            timeout: PATIENCE,
        };
        self.run(connect(&target)).expect("alice may log in")
    }

    pub fn superuser(&self, script: &str) -> String {
        psql(&self.cluster.unix(), &self.database, script)
    }

    pub fn alice(&self, script: &str) -> String {
        self.superuser(&format!("SET SESSION AUTHORIZATION alice;\n{script}"))
    }

    /// Runs a script as the application, which may use the tables of `public`, no more.
    pub fn dave(&self, script: &str) -> String {
        self.superuser(&format!("SET SESSION AUTHORIZATION dave;\n{script}"))
    }

    /// A session of `user`, who needs no password.
    pub fn session(&self, user: &str) -> support::wire::Client {
        Login::new(user, &self.database).connect(&self.cluster.unix()).expect("no password needed")
    }

    pub fn tables(&self) -> Vec<Table> {
        let admin = self.admin();
        self.run(catalog::tables(&admin, &everything())).expect("the catalog can be read")
    }

    /// Puts all tables under capture.
    pub fn capture(&self) -> Vec<Captured> {
        let mut admin = self.admin();
        self.run(capture::install(&mut admin)).expect("alice may install");
        let tables = self.tables();
        tables.iter().map(|table| self.try_capture(table).expect("it can be captured")).collect()
    }

    pub fn try_capture(&self, table: &Table) -> Result<Captured, CaptureError> {
        let mut admin = self.admin();
        self.run(capture::capture(&mut admin, table, Duration::from_secs(5)))
    }

    pub fn check(&self) -> Vec<Finding> {
        let mut admin = self.admin();
        self.run(capture::check(&mut admin, &everything())).expect("capture is installed")
    }

    /// What [`Primary::check`] finds, in words.
    pub fn findings(&self) -> Vec<String> {
        self.check().iter().map(ToString::to_string).collect()
    }

    /// Copies the tables as they are now.
    pub fn begin(&self) {
        self.superuser("SELECT replay.begin()");
    }

    /// Applies the log to the copies, and compares them with the tables.
    pub fn assert_equal(&self) {
        let differences = self.superuser("SELECT * FROM replay.compare()");
        assert_eq!(differences, "", "the log does not say what happened");
    }

    /// Rows in the log, all of it.
    pub fn logged(&self) -> usize {
        let count = self.superuser(
            "SELECT (SELECT count(*) FROM pgtandem.log_0) + (SELECT count(*) FROM pgtandem.log_1) \
             + (SELECT count(*) FROM pgtandem.log_2)",
        );
        count.trim().parse().expect("count(*) is a number")
    }

    /// Version of the server, such as 15.
    pub fn version(&self) -> u32 {
        let number = self.superuser("SHOW server_version_num");
        number.trim().parse::<u32>().expect("it is a number") / 10_000
    }
}

pub fn everything() -> Selection {
    Selection::new(&["*.*".to_owned()], &["replay.*".to_owned()])
}
