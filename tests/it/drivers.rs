//! Programs that do what users of a driver do, directly and through the proxy: what they print must be
//! the same. The programs are in `tests/drivers/programs`.

use std::process::Command;

use crate::support::{
    config::Config,
    drivers::{built_program, java_program, node_program, python_program, source},
    fixture::Fixture,
    login::Address,
    poll,
    tools::tool,
};
use crate::tls::support::Authority;

/// How a program comes to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Six clients and more share two backends, of which each keeps three statements.
    Transactions,
    /// The same, through the Unix socket.
    Socket,
    /// A backend each, with TLS and a password, so that drivers use SCRAM as they know it.
    Sessions,
}

/// The backends that the clients of a program share.
const SHARED: usize = 2;

const PASSWORD: &str = "drivers-pw";

impl Way {
    fn configure(self, authority: &Authority, config: Config) -> Config {
        match self {
            Self::Transactions | Self::Socket => config
                .general(&format!("default_pool_size = {SHARED}"))
                .general("max_prepared_statements = 3"),
            Self::Sessions => authority.for_clients("require")(config)
                .general("pool_mode = \"session\"")
                .general("default_pool_size = 12")
                .general("auth_type = \"scram-sha-256\"")
                .user("postgres", &[&format!("password = \"{PASSWORD}\"")]),
        }
    }

    /// Where the program is to connect to, instead of these.
    fn address(self, tcp: Address, unix: Address) -> Address {
        match self {
            Self::Transactions | Self::Sessions => tcp,
            Self::Socket => unix,
        }
    }
}

/// Runs a program against PostgreSQL and through the proxy, in each of these ways.
fn same_in(ways: &[Way], program: impl Fn() -> Command) {
    let authority = Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    for way in ways {
        let fixture = Fixture::start(|config| way.configure(&authority, config));
        let direct = way.address(fixture.cluster.tcp(), fixture.cluster.unix());
        let direct = run(&fixture, *way, program(), &direct, "disable");
        assert!(direct.lines().count() >= 10, "{way:?}: hardly a check in\n{direct}");
        let sslmode = if *way == Way::Sessions { "require" } else { "disable" };
        let proxied = way.address(fixture.proxy.tcp(), fixture.proxy.unix());
        let proxied = run(&fixture, *way, program(), &proxied, sslmode);
        for (direct, proxied) in direct.lines().zip(proxied.lines()) {
            assert_eq!(direct, proxied, "{way:?}: PostgreSQL itself, and the proxy");
        }
        assert_eq!(direct, proxied, "{way:?}: PostgreSQL itself, and the proxy");
        if *way != Way::Sessions {
            // One more listens for all clients that do.
            assert!(fixture.backends() <= SHARED + 1, "{way:?}");
            poll("all backends are free again", || fixture.connect().value("select 1") == "1");
        }
    }
}

fn same_in_every_way(program: impl Fn() -> Command) {
    same_in(&[Way::Transactions, Way::Socket, Way::Sessions], program);
}

/// What a program prints when it connects there, to an empty database.
fn run(
    fixture: &Fixture,
    way: Way,
    mut program: Command,
    address: &Address,
    sslmode: &str,
) -> String {
    fixture.observer().rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let libpq = tool("psql", address, &fixture.database);
    for (name, value) in libpq.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        program.env(name, value);
    }
    // Nobody's home has certificates of its own.
    program.env("PGSSLMODE", sslmode).env("PGPASSWORD", PASSWORD).env("HOME", "/nonexistent");
    if way == Way::Sessions {
        program.arg("listen");
    }
    let output = program.output().unwrap_or_else(|error| panic!("{program:?}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{way:?} to {address:?}: {}\n{printed}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

#[test]
fn psycopg() {
    same_in_every_way(|| python_program("programs/with_psycopg.py"));
}

#[test]
fn asyncpg() {
    same_in_every_way(|| python_program("programs/with_asyncpg.py"));
}

#[test]
fn sqlalchemy_with_psycopg() {
    same_in_every_way(|| sqlalchemy("psycopg"));
}

#[test]
fn sqlalchemy_with_asyncpg() {
    same_in_every_way(|| sqlalchemy("asyncpg"));
}

fn sqlalchemy(dialect: &str) -> Command {
    let mut command = python_program("programs/with_sqlalchemy.py");
    command.arg(dialect);
    command
}

#[test]
fn node_postgres() {
    same_in_every_way(|| node_program("programs/with_pg.js"));
}

#[test]
fn postgres_js() {
    same_in_every_way(|| node_program("programs/with_postgres_js.js"));
}

#[test]
fn pgjdbc() {
    // It knows no Unix sockets.
    let program = || java_program("programs/WithPgjdbc.java");
    same_in(&[Way::Transactions, Way::Sessions], program);
}

#[test]
fn pgx() {
    same_in_every_way(|| built_program("go", "with_pgx"));
}

#[test]
fn php_pdo() {
    same_in_every_way(|| interpreted("php", "programs/with_pdo.php"));
}

#[test]
fn perl_dbd_pg() {
    same_in_every_way(|| interpreted("perl", "programs/with_dbd_pg.pl"));
}

#[test]
fn psql() {
    same_in_every_way(|| interpreted("sh", "programs/with_psql.sh"));
}

/// A program of `tests/drivers` for an interpreter that Debian has.
fn interpreted(interpreter: &str, name: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(source(name));
    command
}

/// Built with crates that nothing else needs, which takes a minute: only by `make drivers`.
#[test]
fn sqlx() {
    if std::env::var_os("PGTANDEM_IT_SQLX").is_none() {
        return eprintln!("left out: PGTANDEM_IT_SQLX is not set, as `make drivers` does");
    }
    same_in_every_way(|| built_program("rust", "debug/with_sqlx"));
}
