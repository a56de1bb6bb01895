//! Definitions that clients send through the proxy are found on the secondary, between the very
//! changes that they were made between.

mod exact;
mod forging;
mod migration;
mod policy;
mod replies;
mod stops;
mod upgrade;

use std::time::Duration;

use super::operate::{console_of, with_console};
use super::pair::Pair;
use crate::support::definitions;
use crate::support::login::{Address, Login};
use crate::support::wire::Client;

/// A pair that follows already, with room for clients.
pub fn start(schema: &str, rows: &str) -> Pair {
    start_with(schema, rows, "")
}

/// The same, with further keys of the replication section.
pub fn start_with(schema: &str, rows: &str, keys: &str) -> Pair {
    let pair = Pair::start_configured(schema, rows, keys, |config| {
        with_console(config).general("default_pool_size = 8")
    });
    pair.await_state("in_sync");
    pair
}

/// Gives a command about the secondary at the console.
pub fn command(pair: &Pair, command: &str) {
    let sql = format!("{command} SECONDARY {}.copy", pair.database);
    let answers = console_of(&pair.proxy).query(&sql).to_string();
    assert!(answers.starts_with("C "), "{sql}: {answers}");
}

/// Logs in through the proxy.
pub fn connect(pair: &Pair) -> Client {
    Login::new("postgres", &pair.database).connect(&pair.proxy.tcp()).expect("we are trusted")
}

/// Runs statements through the proxy, each as a Query of its own.
pub fn each(client: &mut Client, statements: &[&str]) {
    for statement in statements {
        let answers = client.query(statement).to_string();
        assert!(!answers.split(" | ").any(|a| a.starts_with('E')), "{statement}: {answers}");
    }
}

/// Makes sure that both sides have the same data and the same definitions, and that nobody stopped.
pub fn assert_same(pair: &Pair) {
    pair.assert_equal();
    let here = definitions(&pair.primary.unix(), &pair.database);
    let there = definitions(&pair.secondary.unix(), &pair.other);
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(here, there);
    }
    assert_eq!(here.len(), there.len());
    let log = pair.proxy.log();
    let has_stopped =
        |line: &str| line.contains("secondary has stopped") && !line.contains("why=\"by command\"");
    assert!(!log.lines().any(has_stopped), "{log}");
}

/// The definitions of everything but our own.
pub fn definitions(address: &Address, database: &str) -> Vec<String> {
    let all =
        definitions::definitions(address, database, &["--exclude-schema=pgtandem", "--no-acl"]);
    let is_ours = |line: &String| line.contains("pgtandem") || line.starts_with("acl ");
    all.into_iter().filter(|line| !is_ours(line)).collect()
}

/// How long a copy of a table may take on a slow machine.
pub const LONG: Duration = Duration::from_secs(40);
