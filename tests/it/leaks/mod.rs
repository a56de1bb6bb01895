//! Nothing that a client leaves in its session is visible to another, and the first still has it:
//! every kind of session state, by every way to leave it, however its transaction ends.

mod kinds;
mod limits;
mod tracking;

use crate::support::{fixture::Fixture, message::*, wire::Client};

pub use kinds::{KINDS, Kind};

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Simple,
    Unnamed,
    Named,
}

pub const PROTOCOLS: [Protocol; 3] = [Protocol::Simple, Protocol::Unnamed, Protocol::Named];

/// Sends one statement.
pub fn send(client: &mut Client, protocol: Protocol, sql: &str) -> String {
    let answers = match protocol {
        Protocol::Simple => client.query(sql),
        Protocol::Unnamed => client.run(&[parse("", sql), bind("", ""), execute(""), sync()]),
        Protocol::Named => {
            // Prepared in one transaction, run in another.
            client.run(&[parse("mine", sql), sync()]);
            let answers = client.run(&[bind("", "mine"), execute(""), sync()]);
            client.run(&[close_statement("mine"), sync()]);
            answers
        }
    };
    format!("{answers:?}")
}

/// A proxy whose pool has so many backends.
pub fn pool_of(size: usize) -> Fixture {
    let fixture = Fixture::start(|config| {
        config.general(&format!("default_pool_size = {size}")).general("admin_users = \"postgres\"")
    });
    fixture.observer().rows(kinds::SCHEMA);
    fixture
}

/// What the console says keeps clients at their backends.
pub fn pinned(fixture: &Fixture) -> Vec<String> {
    let mut console = crate::support::login::Login::new("postgres", "pgtandem")
        .connect(&fixture.proxy.tcp())
        .expect("everybody is trusted");
    let rows = console.rows("SHOW CLIENTS");
    let mut reasons: Vec<String> = rows.into_iter().filter_map(|mut row| row.pop()).collect();
    reasons.retain(|reason| !reason.is_empty());
    reasons
}
