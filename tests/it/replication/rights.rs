//! Roles that are no superusers on either side.

use super::pair::{self, Pair};
use crate::support::{
    cluster::{ALICE, Cluster},
    login::Login,
    proxy::Proxy,
};

const SCHEMA: &str = "CREATE TABLE p (id int PRIMARY KEY, x text); \
    CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)";
const ROWS: &str = "INSERT INTO p SELECT i, 'x' FROM generate_series(1, 50) i; \
    INSERT INTO c SELECT i, 1 + i % 50 FROM generate_series(1, 200) i";

/// Both databases belong to alice, and the proxy comes as her.
fn start(on_secondary: &str) -> (&'static Cluster, String, Cluster, String, Proxy) {
    let (primary, secondary) = (Cluster::shared(), Cluster::start());
    let (database, other) = (primary.new_database(), secondary.new_database());
    for (cluster, name, sql) in [
        (primary, &database, format!("{SCHEMA}; {ROWS}")),
        (&secondary, &other, format!("{SCHEMA}; {on_secondary}")),
    ] {
        cluster.superuser(name).rows(&format!("ALTER DATABASE {name} OWNER TO alice"));
        let alice = Login::new(ALICE.0, name).password(ALICE.1);
        alice.connect(&cluster.unix()).expect("alice may").rows(&sql);
    }
    let config = Pair::config(primary, &database, &secondary, &other, "");
    let text = config.to_toml().replace(
        "admin_user = \"postgres\"",
        &format!("admin_user = \"alice\"\nadmin_password = \"{}\"", ALICE.1),
    );
    let (_, sections) =
        text.split_once(&format!("[databases.{database}.replication]")).expect("it");
    let config = crate::support::fixture::Fixture::config(primary, &database)
        .extra(&format!("\n[databases.{database}.replication]{sections}"));
    let proxy = Proxy::start(primary, config);
    (primary, database, secondary, other, proxy)
}

#[test]
fn foreign_keys_that_can_be_deferred() {
    let deferrable = "ALTER TABLE c ALTER CONSTRAINT c_p_fkey DEFERRABLE";
    let (primary, database, secondary, other, _proxy) = start(deferrable);
    let (here, there) = ((primary, database.as_str()), (&secondary, other.as_str()));
    pair::assert_equal(here, there);
    let mut client = primary.superuser(&database);
    client.rows(
        "BEGIN; INSERT INTO c VALUES (1000, NULL); INSERT INTO p VALUES (1000, 'y'); \
                 UPDATE c SET p = 1000 WHERE id > 100; DELETE FROM c WHERE p = 1; \
                 DELETE FROM p WHERE id = 1; COMMIT",
    );
    pair::assert_equal(here, there);
    client.rows(
        "BEGIN; DELETE FROM c; DELETE FROM p; INSERT INTO p VALUES (1, 'z'); \
                 INSERT INTO c VALUES (1, 1); COMMIT",
    );
    pair::assert_equal(here, there);
}

#[test]
fn foreign_keys_that_cannot_be_deferred() {
    let (primary, database, _secondary, _other, proxy) = start("");
    crate::support::poll("it says so", || proxy.log().contains("secondary has stopped"));
    let log = proxy.log();
    assert!(
        log.contains("public.c: foreign key c_p_fkey: ALTER TABLE … ALTER CONSTRAINT"),
        "{log}"
    );
    assert!(!log.contains(ALICE.1), "{log}");
    let state = "SELECT state FROM pgtandem.secondaries";
    crate::support::poll("the primary is told", || {
        primary.superuser(&database).value(state) == "paused"
    });
}
