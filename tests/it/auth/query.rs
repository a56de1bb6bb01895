//! `auth_query`: users that only the server knows.

use crate::{
    support::{
        cluster::Cluster, config::Config, fixture::Fixture, login::Login, poll, proxy::Proxy,
        reply::Reply, tools::feed, wire::Client,
    },
    tls::support::{fixture as tls_fixture, psql},
};

/// Asks the server as its superuser, whom it trusts.
fn asking(config: Config) -> Config {
    config.general("auth_type = \"scram-sha-256\"").general("auth_user = \"postgres\"")
}

fn try_login(proxy: &Proxy, user: &str, database: &str, password: &str) -> Result<Client, String> {
    Login::new(user, database).password(password).connect(&proxy.tcp()).map_err(|said| {
        let last = said.iter().rev().nth(1);
        last.map_or("EOF".to_owned(), ToString::to_string)
    })
}

/// The code that a login is refused with, or who the server says we are.
fn outcome(proxy: &Proxy, user: &str, database: &str, password: &str) -> String {
    match try_login(proxy, user, database, password) {
        Ok(mut client) => match client.query("select current_user").to_string() {
            said if said.contains("E FATAL") => said,
            said => said.split(" | ").nth(1).unwrap_or(&said).to_owned(),
        },
        Err(code) => code,
    }
}

/// Connections that ask for secrets.
fn askers(cluster: &Cluster) -> String {
    cluster.superuser("postgres").value(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE usename = 'postgres' AND application_name = '' AND backend_type = 'client backend'",
    )
}

#[test]
fn users_of_the_server_log_in_with_its_secrets() {
    let fixture = Fixture::start(|config| asking(config).general("server_lifetime = 1"));
    let (proxy, database) = (&fixture.proxy, fixture.database.as_str());
    assert_eq!(outcome(proxy, "alice", database, "alice-pw"), "D alice");
    // What her login taught us opens further connections.
    poll("the backend has expired", || {
        fixture.observer().value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'")
            == "0"
    });
    assert_eq!(outcome(proxy, "alice", database, "alice-pw"), "D alice");
    for (user, password) in
        [("alice", "x"), ("nobody", "x"), ("dave", ""), ("dave", "x"), ("locked", "x")]
    {
        assert_eq!(outcome(proxy, user, database, password), "E FATAL 28P01", "{user}");
    }
    // A stored md5 secret cannot answer SCRAM.
    assert_eq!(outcome(proxy, "bob", database, "bob-pw"), "E FATAL 28P01");
}

#[test]
fn md5_secrets_of_the_server_open_it() {
    let fixture = Fixture::start(|config| asking(config).general("auth_type = \"md5\""));
    let (proxy, database) = (&fixture.proxy, fixture.database.as_str());
    assert_eq!(outcome(proxy, "bob", database, "bob-pw"), "D bob");
    assert_eq!(outcome(proxy, "alice", database, "alice-pw"), "D alice");
    assert_eq!(outcome(proxy, "bob", database, "x"), "E FATAL 28P01");
}

#[test]
fn valid_until_is_honoured() {
    let fixture = Fixture::start(asking);
    let (proxy, database) = (&fixture.proxy, fixture.database.as_str());
    let mut observer = fixture.observer();
    for (role, until) in [("past", "yesterday"), ("future", "tomorrow"), ("ever", "infinity")] {
        observer.rows(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x' VALID UNTIL '{until}'"));
    }
    assert_eq!(outcome(proxy, "past", database, "x"), "E FATAL 28P01");
    assert_eq!(outcome(proxy, "future", database, "x"), "D future");
    assert_eq!(outcome(proxy, "ever", database, "x"), "D ever");
    observer.rows("ALTER ROLE ever VALID UNTIL 'yesterday'");
    assert_eq!(outcome(proxy, "ever", database, "x"), "E FATAL 28P01");
}

#[test]
fn a_function_may_be_asked_by_somebody_with_a_password() {
    let fixture = Fixture::start(|config| {
        asking(config)
            .general("pool_mode = \"session\"")
            .general("auth_user = \"carol\"")
            .general("auth_query = \"SELECT usename, secret FROM public.user_lookup($1)\"")
            .user("carol", &["password = \"carol-pw\""])
    });
    let mut observer = fixture.observer();
    observer.rows(
        "CREATE TABLE seen (path text, name text, encoding text);
         CREATE FUNCTION user_lookup(asked text, OUT usename text, OUT secret text)
         LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
           INSERT INTO public.seen SELECT current_setting('search_path'),
             current_setting('application_name'), current_setting('client_encoding');
           SELECT rolname, rolpassword INTO usename, secret FROM pg_catalog.pg_authid
           WHERE rolname = asked; END $$",
    );
    // What a client sets is not set where secrets are read (CVE-2025-12819).
    let login = Login::new("alice", &fixture.database)
        .password("alice-pw")
        .parameter("search_path", "evil")
        .parameter("application_name", "evil")
        .parameter("client_encoding", "LATIN1");
    let mut client = login.connect(&fixture.proxy.tcp()).expect("the password is right");
    assert_eq!(client.value("SHOW search_path"), "evil");
    let seen = observer.rows("SELECT DISTINCT path, name, encoding FROM seen");
    assert_eq!(seen, [["\"$user\", public", "", "UTF8"].map(str::to_owned)]);
    assert_eq!(outcome(&fixture.proxy, "nobody", &fixture.database, "x"), "E FATAL 28P01");
}

#[test]
fn a_query_that_gives_something_else_lets_nobody_in() {
    for query in [
        "SELECT rolname FROM pg_authid WHERE rolname = $1",
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname > $1",
        "SELECT nonsense, $1",
        "SELECT 1 / (length($1) - length($1)), 2",
    ] {
        let fixture =
            Fixture::start(|config| asking(config).general(&format!("auth_query = \"{query}\"")));
        let said = outcome(&fixture.proxy, "alice", &fixture.database, "alice-pw");
        assert_eq!(said, "E FATAL 08001", "{query}");
    }
    // The secret of another user opens nothing.
    let other = "SELECT 'alice', rolpassword FROM pg_authid WHERE rolname = 'alice' AND $1 <> ''";
    let fixture =
        Fixture::start(|config| asking(config).general(&format!("auth_query = \"{other}\"")));
    let said = outcome(&fixture.proxy, "mallory", &fixture.database, "alice-pw");
    assert_eq!(said, "E FATAL 28P01");
}

#[test]
fn a_changed_password_works_at_once() {
    let cluster = Cluster::start();
    let database = cluster.new_database();
    let start = |lifetime: u32| {
        let config = asking(Fixture::config(&cluster, &database));
        let config = config.general(&format!("auth_query_lifetime = {lifetime}"));
        Proxy::start(&cluster, config.general("default_pool_size = 2"))
    };
    let (exact, lasting) = (start(0), start(600));
    for proxy in [&exact, &lasting] {
        assert_eq!(outcome(proxy, "alice", &database, "alice-pw"), "D alice");
    }
    cluster.superuser("postgres").rows("ALTER ROLE alice PASSWORD 'changed'");
    assert_eq!(outcome(&exact, "alice", &database, "alice-pw"), "E FATAL 28P01");
    assert_eq!(outcome(&exact, "alice", &database, "changed"), "D alice");
    // An answer that is used again is forgotten with the first login that fails.
    assert_eq!(outcome(&lasting, "alice", &database, "alice-pw"), "D alice");
    assert_eq!(outcome(&lasting, "alice", &database, "changed"), "E FATAL 28P01");
    assert_eq!(outcome(&lasting, "alice", &database, "changed"), "D alice");
}

#[test]
fn any_database_can_be_asked_for_in_another() {
    let fixture = Fixture::start(|config| config);
    let port = format!("port = {}", fixture.cluster.port());
    let any = ["host = \"127.0.0.1\"", port.as_str()];
    let config = || {
        asking(Fixture::config(fixture.cluster, "unused"))
            .without_database("unused")
            .database("*", &any)
    };
    let own = Proxy::start(fixture.cluster, config());
    assert_eq!(outcome(&own, "alice", &fixture.database, "alice-pw"), "D alice");
    // Whether a database exists is not told to who has not proven anything.
    assert_eq!(outcome(&own, "alice", "nonesuch", "alice-pw"), "E FATAL 28P01");
    let config = config()
        .database("users", &["host = \"127.0.0.1\"", &port, "dbname = \"postgres\""])
        .general("auth_dbname = \"users\"");
    let one = Proxy::start(fixture.cluster, config);
    assert_eq!(outcome(&one, "alice", &fixture.database, "alice-pw"), "D alice");
    assert_eq!(outcome(&one, "alice", "nonesuch", "x"), "E FATAL 28P01");
    assert_eq!(outcome(&one, "alice", "nonesuch", "alice-pw"), "E FATAL 3D000");
}

#[test]
fn databases_may_ask_otherwise() {
    let fixture = Fixture::start(|config| {
        let port = format!("port = {}", Cluster::shared().port());
        let elsewhere = ["host = \"127.0.0.1\"", &port, "dbname = \"t1\"", "auth_user = \"\""];
        asking(config).database("closed", &elsewhere).general("stats_users = [\"alice\"]")
    });
    assert_eq!(outcome(&fixture.proxy, "alice", &fixture.database, "alice-pw"), "D alice");
    assert_eq!(outcome(&fixture.proxy, "alice", "closed", "alice-pw"), "E FATAL 28P01");
    // The console is no database that could be asked.
    assert_eq!(outcome(&fixture.proxy, "alice", "pgbouncer", "alice-pw"), "E FATAL 28P01");
}

#[test]
fn few_connections_ask_and_none_while_paused() {
    let fixture = Fixture::start(|config| {
        asking(config)
            .user("admin", &["password = \"admin-pw\""])
            .general("admin_users = [\"admin\"]")
            .general("default_pool_size = 3")
    });
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let said = outcome(&fixture.proxy, "nobody", &fixture.database, "x");
                assert_eq!(said, "E FATAL 28P01");
            });
        }
    });
    let count: u32 = askers(fixture.cluster).parse().expect("a number");
    assert!((1..=8).contains(&count), "{count}");
    let mut admin = try_login(&fixture.proxy, "admin", "pgtandem", "admin-pw").expect("an admin");
    assert_eq!(admin.query("PAUSE"), "C PAUSE | Z I");
    poll("nobody asks", || askers(fixture.cluster) == "0");
    let waiting = Login::new("alice", &fixture.database).begin(&fixture.proxy.tcp());
    let mut waiting = waiting;
    waiting.assert_quiet();
    assert_eq!(askers(fixture.cluster), "0");
    assert_eq!(admin.query("RESUME"), "C RESUME | Z I");
    assert_eq!(waiting.reply().tag(), b'R', "the server has been asked");
}

#[test]
fn a_server_that_cannot_be_asked_is_no_wrong_password() {
    let mut cluster = Cluster::start();
    let database = cluster.new_database();
    let proxy = Proxy::start(&cluster, asking(Fixture::config(&cluster, &database)));
    assert_eq!(outcome(&proxy, "alice", &database, "alice-pw"), "D alice");
    cluster.crash();
    assert_eq!(outcome(&proxy, "alice", &database, "alice-pw"), "E FATAL 08001");
    cluster.restart();
    assert_eq!(outcome(&proxy, "alice", &database, "alice-pw"), "D alice");
}

/// All that a login with a wrong password is told, but for nonce and salt.
fn told(proxy: &Proxy, user: &str, database: &str) -> Vec<Vec<u8>> {
    let login = Login::new(user, database).password("wrong");
    let said = login.connect(&proxy.tcp()).err().expect("the password is wrong");
    said.iter().map(|reply| masked(reply, user)).collect()
}

/// Nonces are as long as each other, and so are salts and names: what is masked keeps its length.
fn masked(reply: &Reply, user: &str) -> Vec<u8> {
    let parts = reply.body().split(|byte| *byte == b',').map(|part| {
        // A nonce follows the code of the request, or stands alone.
        let value = [&b"\0\0\0\x0br="[..], b"r=", b"s="]
            .iter()
            .find_map(|key| part.strip_prefix(*key).map(|value| (*key, value.len())));
        value.map_or(part.to_vec(), |(key, length)| [key, &vec![b'x'; length]].concat())
    });
    let body = parts.collect::<Vec<_>>().join(&b',');
    let at = body.windows(user.len()).position(|window| window == user.as_bytes());
    let body = match at {
        Some(at) => [&body[..at], b"*****", &body[at + user.len()..]].concat(),
        None => body,
    };
    [&[reply.tag()], &body[..]].concat()
}

#[test]
fn who_does_not_exist_is_told_what_a_wrong_password_is_told() {
    let cluster = Cluster::shared();
    let database = cluster.new_database();
    let mut observer = cluster.superuser("postgres");
    for (role, rest) in [
        ("known", "LOGIN PASSWORD 'x'"),
        ("older", "LOGIN PASSWORD 'x' VALID UNTIL 'yesterday'"),
        ("notin", "NOLOGIN PASSWORD 'x'"),
        ("nopas", "LOGIN"),
    ] {
        observer.rows(&format!("CREATE ROLE {role} {rest}"));
    }
    observer.rows("SET password_encryption = 'md5'; CREATE ROLE withm LOGIN PASSWORD 'x'");
    for auth_type in ["scram-sha-256", "plain"] {
        for lifetime in [0, 600] {
            let config = asking(Fixture::config(cluster, &database))
                .general(&format!("auth_type = \"{auth_type}\""))
                .general(&format!("auth_query_lifetime = {lifetime}"))
                .user("filed", &["password = \"x\""]);
            let proxy = Proxy::start(cluster, config);
            let expected = told(&proxy, "known", &database);
            assert!(expected.len() >= 2, "{expected:?}");
            for user in ["nouse", "older", "notin", "nopas", "withm", "filed", "nouse"] {
                assert_eq!(told(&proxy, user, &database), expected, "{user} {auth_type}");
            }
            assert_eq!(told(&proxy, "known", "nonesuch"), expected, "{auth_type}");
        }
    }
}

#[test]
fn the_salt_of_who_does_not_exist_is_always_the_same() {
    let fixture = Fixture::start(asking);
    let salt = |user: &str| {
        let login = Login::new(user, &fixture.database).password("x");
        let said = login.connect(&fixture.proxy.tcp()).err().expect("nobody is called so");
        let challenge = said[1].body().escape_ascii().to_string();
        challenge.split(",s=").nth(1).expect("a salt").to_owned()
    };
    assert_eq!(salt("nouse"), salt("nouse"));
    assert_ne!(salt("nouse"), salt("other"));
}

#[test]
fn keys_that_the_server_refuses_are_dropped_and_the_next_login_brings_new_ones() {
    let cluster = Cluster::start();
    let database = cluster.new_database();
    for lifetime in [0, 600] {
        let config = asking(Fixture::config(&cluster, &database))
            .general(&format!("auth_query_lifetime = {lifetime}"))
            .general("server_login_retry = 600");
        let proxy = Proxy::start(&cluster, config);
        let mut observer = cluster.superuser(&database);
        observer.rows("ALTER ROLE alice PASSWORD 'old'");
        let connect = |password: &str| try_login(&proxy, "alice", &database, password);
        let mut clients: Vec<Client> =
            (0..8).map(|_| connect("old").expect("the password is right")).collect();
        assert_eq!(clients[0].value("select 1"), "1");
        observer.rows("ALTER ROLE alice PASSWORD 'new'");
        observer
            .rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'alice'");
        poll("she has no connection", || {
            observer.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'") == "0"
        });
        // Nothing that is known opens the server any more; each attempt makes the next one wait.
        for client in &mut clients {
            let said = client.query("select 1").to_string();
            assert!(said.starts_with("E FATAL 28P01"), "{said}");
        }
        let mut client = connect("new").expect("the server has been asked again");
        assert_eq!(client.value("select current_user"), "alice");
    }
}

#[test]
fn libpq_binds_its_proof_to_the_connection() {
    let (_authority, fixture) = tls_fixture("require", asking);
    for (password, is_right) in [("alice-pw", true), ("wrong", false)] {
        let settings =
            format!("user=alice password={password} sslmode=require channel_binding=require");
        let output = feed(psql(&fixture.proxy.tcp(), &fixture.database, &settings), b"select 6*7");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success() && said.trim() == "42", is_right, "{output:?}");
    }
}
