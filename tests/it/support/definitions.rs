//! What is defined in a database, for comparisons.

use super::login::Address;
use super::tools::{psql, successful, tool};

/// What `pg_dump` says of a database's schema, but for what differs each time. Of a server that is too
/// new for it, the catalog says as much.
pub fn definitions(address: &Address, database: &str, options: &[&str]) -> Vec<String> {
    let version =
        psql(address, database, "SELECT current_setting('server_version_num')::int / 10000");
    let text = if version.trim().parse::<u32>().expect("a number") > pg_dump_version() {
        psql(address, database, include_str!("definitions.sql"))
    } else {
        let mut dump = tool("pg_dump", address, database);
        dump.arg("--schema-only").args(options);
        successful(dump.output().expect("pg_dump runs"))
    };
    // The key of \restrict is another one each time.
    let says_something =
        |line: &&str| !line.is_empty() && !line.starts_with("--") && !line.starts_with('\\');
    text.lines().filter(says_something).map(str::to_owned).collect()
}

/// The major version of the `pg_dump` that tests run.
fn pg_dump_version() -> u32 {
    let mut command = tool("pg_dump", &Address::Tcp(0), "");
    let text = successful(command.arg("--version").output().expect("pg_dump runs"));
    let number = text.split_whitespace().nth(2).and_then(|version| version.split('.').next());
    number.and_then(|major| major.parse().ok()).expect("pg_dump (PostgreSQL) 15.1")
}
