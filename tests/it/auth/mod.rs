//! Who may log in: `auth_file`, `auth_query`, rules, and the protocol of balancers in front of us.

mod proxied;
mod query;
mod rules;
mod users;

use crate::support::{login::Address, login::Login, reply::Reply};

/// How a login ends: `ok`, or the code and the text of the refusal.
fn ending(login: &Login, address: &Address) -> String {
    login.connect(address).map_or_else(|said| refusal(&said), |_| "ok".to_owned())
}

/// The code and the text of a refusal.
fn refusal(said: &[Reply]) -> String {
    let error = said.iter().find(|reply| reply.tag() == b'E');
    error.map_or("EOF".to_owned(), |error| {
        format!("{} {}", error.sqlstate(), error.field(b'M').unwrap_or_default())
    })
}
