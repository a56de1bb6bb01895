//! Logins: what is said up to the first `ReadyForQuery`, or to the end, with all kinds of startup
//! parameters.

use crate::support::{
    cluster::Cluster,
    fixture::Fixture,
    login::{Address, Login},
    proxy::Proxy,
    reply::Reply,
};

/// What a side says to this login, in its order. Not compared: the order of parameters; what the key is;
/// of a refusal, whether AuthenticationOk is in front of it, and details and hints behind its message.
fn said(login: &Login, address: &Address) -> Vec<String> {
    let outcome = login.over_with_greeting(address.open());
    let is_in = outcome.is_ok();
    let mut said = outcome.map_or_else(|said| said, |(_, said)| said);
    said.retain(|reply| is_in || reply.tag() != b'R');
    said.sort_by_key(|reply| match reply.tag() {
        b'S' => (1, reply.detail()),
        b'R' | b'N' => (0, String::new()),
        _ => (2, String::new()),
    });
    let read = |reply: &Reply| match reply.tag() {
        b'K' => "K".to_owned(),
        b'E' => b"SCM".iter().filter_map(|code| reply.field(*code)).collect::<Vec<_>>().join(" "),
        _ => reply.detail(),
    };
    said.iter().map(read).collect()
}

/// A database behind a pool in each mode.
struct World {
    cluster: &'static Cluster,
    database: String,
    proxy: Proxy,
}

const MODES: [&str; 2] = ["transaction", "session"];

impl World {
    fn start() -> Self {
        let cluster = Cluster::shared();
        let database = cluster.new_database();
        let mut config = Fixture::config(cluster, &database);
        for mode in MODES {
            let mut lines = Fixture::place(cluster, &database).to_vec();
            lines.extend([format!("pool_mode = \"{mode}\""), "pool_size = 3".to_owned()]);
            config = config.database(mode, &lines.iter().map(String::as_str).collect::<Vec<_>>());
        }
        for user in ["locked", "nobody_at_all", "single"] {
            config = config.user(user, &[]);
        }
        for (alias, dbname) in [("missing", "no_such_database"), ("forbidden", "forbidden")] {
            let lines = Fixture::place(cluster, dbname);
            config = config.database(alias, &lines.each_ref().map(String::as_str));
        }
        Self { cluster, proxy: Proxy::start(cluster, config), database }
    }

    /// Compares a login in every mode, twice: the second time its outcome is known.
    fn compare(&self, user: &str, parameters: &[(&str, &str)]) -> Vec<String> {
        let login = |database: &str| {
            let login = Login::new(user, database);
            parameters.iter().fold(login, |login, (name, value)| login.parameter(name, value))
        };
        let direct = said(&login(&self.database), &self.cluster.tcp());
        for mode in MODES.iter().chain(&MODES) {
            let proxied = said(&login(mode), &self.proxy.tcp());
            assert_eq!(proxied, direct, "{user} {parameters:?} in {mode} mode");
        }
        direct
    }
}

#[test]
fn startup_parameters_are_read_as_postgresql_reads_them() {
    let world = World::start();
    let right: [&[(&str, &str)]; 9] = [
        &[],
        &[("client_encoding", "utf-8")],
        &[("client_encoding", "'UTF8'"), ("DateStyle", "iso"), ("TimeZone", "Europe/Paris")],
        &[("datestyle", "german"), ("intervalstyle", "ISO_8601"), ("application_name", "it's")],
        &[("options", "-c datestyle=sql --timezone=utc")],
        &[("options", "-cDateStyle=German -c application-name=a\\ b"), ("application_name", "b")],
        &[("standard_conforming_strings", "of")],
        &[("timezone", "utc"), ("TimeZone", "Asia/Tokyo")],
        &[("replication", "off")],
    ];
    for parameters in right {
        let said = world.compare("postgres", parameters);
        assert_eq!(said.last().map(String::as_str), Some("Z I"), "{parameters:?}");
    }
    let wrong: [(&[(&str, &str)], &str); 9] = [
        (&[("client_encoding", "nonsense")], "22023"),
        (&[("DateStyle", "nonsense")], "22023"),
        (&[("TimeZone", "Nowhere/Land")], "22023"),
        (&[("standard_conforming_strings", "perhaps")], "22023"),
        (&[("no_such_parameter", "1")], "42704"),
        (&[("options", "-c no_such_parameter=1")], "42704"),
        (&[("options", "--timezone=Nowhere")], "22023"),
        (&[("statement_timeout", "soon")], "22023"),
        (&[("shared_buffers", "1GB")], "55P02"),
    ];
    for (parameters, sqlstate) in wrong {
        let said = world.compare("postgres", parameters);
        assert!(said.iter().any(|line| line.contains(sqlstate)), "{parameters:?}: {said:?}");
    }
}

#[test]
fn users_and_databases_are_refused_in_the_servers_words() {
    let world = World::start();
    world.compare("locked", &[]);
    world.compare("nobody_at_all", &[]);
    for (alias, dbname) in [("missing", "no_such_database"), ("forbidden", "forbidden")] {
        let direct = said(&Login::new("postgres", dbname), &world.cluster.tcp());
        let proxied = said(&Login::new("postgres", alias), &world.proxy.tcp());
        assert_eq!(proxied, direct, "{dbname}");
    }
    // One that is not configured either.
    let direct = said(&Login::new("postgres", "nowhere"), &world.cluster.tcp());
    assert_eq!(said(&Login::new("postgres", "nowhere"), &world.proxy.tcp()), direct);
}

#[test]
fn notices_of_the_login_are_delivered() {
    let world = World::start();
    let exists = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'pg_database'::regclass \
                  AND attname = 'datcollversion'";
    if world.cluster.superuser("postgres").value(exists) == "0" {
        eprintln!("SKIPPED: this version of PostgreSQL warns of nothing at a login");
        return;
    }
    let set = |value: &str| {
        let sql = format!(
            "UPDATE pg_database SET datcollversion = {value} WHERE datname = '{}'",
            world.database
        );
        world.cluster.superuser("postgres").rows(&sql);
    };
    // What PostgreSQL warns of when the collations of the system have changed.
    set("'0'");
    let direct = said(&Login::new("postgres", &world.database), &world.cluster.tcp());
    if !direct.iter().any(|line| line.starts_with("N ")) {
        eprintln!("SKIPPED: this version of PostgreSQL, or its collation, has no versions");
        return;
    }
    world.compare("postgres", &[]);
}
