//! Databases with several servers: which one is used, what becomes of clients when it is lost, and how
//! names and reloads move them.

mod balance;
mod failover;
mod moves;
mod roles;

use crate::support::{
    cluster::{Cluster, REPLICATED},
    config::Config,
    fixture::Fixture,
    login::Login,
    proxy::{Proxy, Subject},
    wire::Client,
};

/// Which server answers.
const WHO: &str = "SELECT inet_server_port()";

/// Settings with one database `app` at these ports of the loopback address.
fn config(ports: &[u16], keys: &[&str]) -> Config {
    database(base(), "app", ports, keys)
}

fn base() -> Config {
    Fixture::config(Cluster::shared(), "t1").general("admin_users = \"admin\"").user("admin", &[])
}

fn database(config: Config, name: &str, ports: &[u16], keys: &[&str]) -> Config {
    let hosts = vec!["127.0.0.1"; ports.len()].join(",");
    let (hosts, ports) = (format!("host = \"{hosts}\""), format!("port = {ports:?}"));
    let lines = [&[hosts.as_str(), ports.as_str(), "dbname = \"t1\""], keys].concat();
    config.database(name, &lines)
}

fn start(config: Config) -> Option<Proxy> {
    // There is nothing to compare with: PostgreSQL has one server, PgBouncer knows no roles.
    matches!(Subject::current(), Subject::Pgtandem(_))
        .then(|| Proxy::start(Cluster::shared(), config))
}

fn connect(proxy: &Proxy, database: &str) -> Client {
    Login::new("postgres", database).connect(&proxy.tcp()).expect("trusted")
}

fn console(proxy: &Proxy) -> Client {
    Login::new("admin", "pgtandem").connect(&proxy.tcp()).expect("trusted")
}

/// A primary and its hot standby.
fn pair() -> (Cluster, Cluster) {
    let primary = Cluster::start_with(REPLICATED);
    let standby = primary.standby();
    (primary, standby)
}

/// How often a line of the log has this text.
fn logged(proxy: &Proxy, text: &str) -> usize {
    proxy.log().lines().filter(|line| line.contains(text)).count()
}
