//! The admin console: who gets in, what it answers, byte by byte and to real drivers.

mod access;
mod commands;
mod drivers;
mod extended;
mod shows;
mod simple;

use crate::support::{config::Config, fixture::Fixture, login::Login, reply::Reply, wire::Client};

/// A proxy with an administrator `admin` and a watcher `stats`.
fn fixture() -> Fixture {
    Fixture::start(with_console)
}

fn with_console(config: Config) -> Config {
    config
        .general("admin_users = \"admin\"")
        .general("stats_users = \"stats\"")
        .user("admin", &[])
        .user("stats", &[])
}

/// A session of the administrator.
fn console(fixture: &Fixture) -> Client {
    as_user(fixture, "admin")
}

fn as_user(fixture: &Fixture, user: &str) -> Client {
    Login::new(user, "pgtandem").connect(&fixture.proxy.tcp()).expect("everybody is trusted")
}

/// A column of a result by its name: the values of all rows.
fn column(client: &mut Client, show: &str, name: &str) -> Vec<String> {
    let (names, rows) = table(client, show);
    let at = names.iter().position(|known| known == name).expect("there is such a column");
    rows.into_iter().map(|mut row| row.swap_remove(at)).collect()
}

/// The rows of a result as text, and the names of its columns.
fn table(client: &mut Client, sql: &str) -> (Vec<String>, Vec<Vec<String>>) {
    client.send(&[crate::support::message::query(sql)]);
    let replies = client.replies_until(|reply| b"Z\0".contains(&reply.tag()));
    let error = replies.iter().find(|reply| b"E\0".contains(&reply.tag()));
    assert!(error.is_none(), "{sql}: {error:?}");
    let columns =
        replies.iter().find(|reply| reply.tag() == b'T').expect("a result").column_names();
    let rows = replies.iter().filter(|reply| reply.tag() == b'D').map(Reply::columns);
    (columns, rows.collect())
}
