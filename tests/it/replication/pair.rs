//! A primary and a secondary in clusters of their own, with a proxy that keeps them alike.

use std::sync::OnceLock;

use super::inside::LONG;
use crate::support::{
    cluster::Cluster, config::Config, fixture::Fixture, poll, poll_within, proxy::Proxy,
    wire::Client,
};

/// The two databases, and the proxy.
pub struct Pair {
    pub primary: &'static Cluster,
    pub secondary: &'static Cluster,
    pub database: String,
    pub other: String,
    pub proxy: Proxy,
}

/// The cluster of the secondaries.
fn second() -> &'static Cluster {
    static SECOND: OnceLock<Cluster> = OnceLock::new();
    SECOND.get_or_init(Cluster::start)
}

impl Pair {
    /// Makes both databases, runs `schema` in both and `rows` in the primary, and starts the proxy.
    pub fn start(schema: &str, rows: &str) -> Self {
        Self::start_with(schema, rows, "")
    }

    /// The same, with further keys of the replication section.
    pub fn start_with(schema: &str, rows: &str, keys: &str) -> Self {
        Self::start_configured(schema, rows, keys, |config| config)
    }

    /// The same, with the proxy's settings changed by `configure`.
    pub fn start_configured(
        schema: &str,
        rows: &str,
        keys: &str,
        configure: impl FnOnce(Config) -> Config,
    ) -> Self {
        let (primary, secondary) = (Cluster::shared(), second());
        let (database, other) = (primary.new_database(), secondary.new_database());
        for (cluster, name) in [(primary, &database), (secondary, &other)] {
            if !schema.is_empty() {
                cluster.superuser(name).rows(schema);
            }
        }
        if !rows.is_empty() {
            primary.superuser(&database).rows(rows);
        }
        let config = configure(Self::config(primary, &database, secondary, &other, keys));
        let proxy = Proxy::start(primary, config);
        Self { primary, secondary, database, other, proxy }
    }

    /// The same, with nothing in the database of the secondary.
    pub fn start_empty(schema: &str, keys: &str, configure: impl FnOnce(Config) -> Config) -> Self {
        Self::start_configured("", schema, keys, configure)
    }

    /// The proxy's settings.
    pub fn config(
        primary: &Cluster,
        database: &str,
        secondary: &Cluster,
        other: &str,
        keys: &str,
    ) -> Config {
        Fixture::config(primary, database).extra(&format!(
            "\n[databases.{database}.replication]\nadmin_user = \"postgres\"\n\
             poll_interval = \"5ms\"\n{keys}\n\
             [databases.{database}.secondaries.copy]\nhost = \"{}\"\nport = {}\n\
             dbname = \"{other}\"\n",
            secondary.socket_dir().display(),
            secondary.port(),
        ))
    }

    /// Logs in to the primary, past the proxy: it captures all the same.
    pub fn here(&self) -> Client {
        self.primary.superuser(&self.database)
    }

    /// Logs in to the secondary.
    pub fn there(&self) -> Client {
        self.secondary.superuser(&self.other)
    }

    /// Runs a script on the primary.
    pub fn run(&self, sql: &str) {
        self.here().rows(sql);
    }

    /// Waits until all that is committed now is on the secondary.
    pub fn settle(&self) {
        settle((self.primary, &self.database), (self.secondary, &self.other));
    }

    /// Settles, and compares all tables.
    pub fn assert_equal(&self) {
        assert_equal((self.primary, &self.database), (self.secondary, &self.other));
    }

    /// Waits for a state of the secondary, as the primary was told; returns why.
    pub fn await_state(&self, state: &str) -> String {
        let sql = format!(
            "SELECT coalesce(max(last_error), '') FROM pgtandem.secondaries WHERE state = '{state}' \
             HAVING count(*) > 0"
        );
        poll("capture is installed", || {
            self.here().value("SELECT to_regclass('pgtandem.secondaries') IS NOT NULL") == "t"
        });
        poll(state, || !self.here().rows(&sql).is_empty());
        self.here().value(&sql)
    }
}

/// A database and its cluster.
pub type Place<'a> = (&'a Cluster, &'a str);

/// Waits until all that is committed on the first now is on the second.
pub fn settle(here: Place<'_>, there: Place<'_>) {
    let xid = here.0.superuser(here.1).value("SELECT pg_current_xact_id()");
    let mut client = there.0.superuser(there.1);
    let exists = "SELECT to_regclass('pgtandem.progress') IS NOT NULL";
    poll("there is a row of progress", || client.value(exists) == "t");
    let sql = format!(
        "SELECT coalesce((SELECT pg_visible_in_snapshot('{xid}'::xid8, snapshot) \
         FROM pgtandem.progress), false)"
    );
    poll_within(LONG, "the secondary has caught up", || client.value(&sql) == "t");
    // What was copied before the rest (a proxy died in the middle) may still have to catch up.
    poll_within(LONG, "so have all of its tables", || {
        client.value("SELECT count(*) FROM pgtandem.copied") == "0"
    });
}

/// Settles, and compares all tables.
pub fn assert_equal(here: Place<'_>, there: Place<'_>) {
    settle(here, there);
    let (here, there) =
        (contents(&mut here.0.superuser(here.1)), contents(&mut there.0.superuser(there.1)));
    assert_eq!(here.len(), there.len(), "{here:?}\n{there:?}");
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(here, there);
    }
}

/// All rows of all tables that are not ours, in an order.
pub fn contents(client: &mut Client) -> Vec<(String, Vec<Vec<String>>)> {
    client.rows("SET TimeZone = 'UTC'; SET extra_float_digits = 3");
    let tables = client.rows(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname NOT LIKE 'pg\\_%' \
         AND nspname NOT IN ('pgtandem', 'information_schema') AND relpersistence = 'p' ORDER BY c.oid::regclass::text COLLATE \"C\"",
    );
    tables
        .into_iter()
        .map(|row| {
            let name = row[0].clone();
            let rows = client
                .rows(&format!("SELECT t::text FROM ONLY {name} t ORDER BY t::text COLLATE \"C\""));
            let partitioned = client
                .rows(&format!("SELECT t::text FROM {name} t ORDER BY t::text COLLATE \"C\""));
            (name, [rows, partitioned].concat())
        })
        .collect()
}
