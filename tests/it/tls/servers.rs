//! Servers that use TLS: real ones.

use std::fs;

use super::support::{Authority, psql, server, shake};
use crate::support::{
    cluster::{ALICE, Cluster},
    config::Config,
    fixture::Fixture,
    login::Login,
    message::query,
    poll,
    proxy::Proxy,
    tools::{feed, successful},
};

/// Rules of a server: TLS for everybody, with these ways to log in.
const RULES: &str = "\
local all all trust
hostssl all alice 127.0.0.1/32 scram-sha-256
hostssl all dave 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 trust
";

/// An authority, a server with TLS and a proxy in front of it.
fn behind(
    rules: &str,
    configure: impl FnOnce(&Authority, Config) -> Config,
) -> (Authority, Cluster, Proxy) {
    let authority = Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    let cluster = server(&authority, rules);
    let config = Fixture::config(&cluster, "postgres").general("admin_users = [\"postgres\"]");
    let proxy = Proxy::start(&cluster, configure(&authority, config));
    (authority, cluster, proxy)
}

/// Whether our server's connection is encrypted, as it says itself.
const IS_ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

/// What a client is told that gets no server: code and text.
fn refusal(login: &Login, proxy: &Proxy) -> String {
    let said = login.connect(&proxy.tcp()).err().expect("no server");
    let error = said.iter().find(|reply| reply.tag() == b'E').expect("it is told why");
    format!("{} {}", error.sqlstate(), error.field(b'M').unwrap_or_default())
}

#[test]
fn servers_that_can_are_used_with_tls() {
    let (_authority, cluster, proxy) = behind(RULES, |_, config| config);
    let login = Login::new("postgres", "postgres");
    let mut client = login.connect(&proxy.tcp()).expect("trusted");
    assert_eq!(client.value(IS_ENCRYPTED), "t");
    let mut console = Login::new("postgres", "pgtandem").connect(&proxy.tcp()).expect("in");
    let servers = console.rows("SHOW SERVERS");
    assert_eq!(servers[0][16], "TLSv1.3/TLS_AES_256_GCM_SHA384");
    assert_eq!(console.rows("SHOW CLIENTS")[0][16], "");
    // What runs is cancelled over TLS: this server takes nothing else.
    client.send(&[query("select pg_sleep(600)")]);
    let running = "select count(*) from pg_stat_activity where state = 'active' \
        and query like '%pg_sleep(600)%' and application_name <> 'observer'";
    poll("the query runs", || cluster.superuser("postgres").value(running) != "0");
    proxy.tcp().cancel(client.key);
    assert_eq!(client.ready(1), "T | E 57014 | Z I");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn servers_that_cannot_are_used_without_unless_that_is_forbidden() {
    let plain = Fixture::start(|config| config.general("server_tls_sslmode = \"prefer\""));
    assert_eq!(plain.connect().value(IS_ENCRYPTED), "f");
    let strict = Fixture::start(|config| config.general("server_tls_sslmode = \"require\""));
    let refused = refusal(&strict.login(), &strict.proxy);
    assert_eq!(refused, "08001 cannot connect to server: it does not support TLS");
}

#[test]
fn tls_can_be_off_for_servers() {
    let (_authority, cluster, proxy) =
        behind("local all all trust\nhost all all 127.0.0.1/32 trust\n", |_, config| {
            config.general("server_tls_sslmode = \"disable\"")
        });
    let mut client = Login::new("postgres", "postgres").connect(&proxy.tcp()).expect("trusted");
    assert_eq!(client.value(IS_ENCRYPTED), "f");
    drop(cluster);
}

#[test]
fn servers_must_be_who_they_should_be() {
    let check = |host: &str, name: &str, names: &[&str], mode: &str, trusts: bool| -> String {
        let authority = Authority::new();
        authority.sign("server", name, names);
        let cluster = server(&authority, RULES);
        let other = Authority::new();
        let trusted = if trusts { &authority } else { &other };
        let config = Fixture::config(&cluster, "postgres")
            .general(&format!("server_tls_sslmode = \"{mode}\""))
            .general(&trusted.line("server_tls_ca_file", "ca.crt"))
            .database("postgres", &[&format!("host = \"{host}\"")]);
        let proxy = Proxy::start(&cluster, config);
        let login = Login::new("postgres", "postgres");
        match login.connect(&proxy.tcp()) {
            Ok(mut client) => client.value(IS_ENCRYPTED),
            Err(_) => refusal(&login, &proxy),
        }
    };
    let failed = "08001 cannot connect to server: TLS failed";
    for (host, name, names, mode, trusts, expected) in [
        ("localhost", "x", &["localhost"][..], "verify-full", true, "t"),
        ("127.0.0.1", "x", &["127.0.0.1"], "verify-full", true, "t"),
        // As those that PostgreSQL's manual has one make.
        ("localhost", "localhost", &[], "verify-full", true, "t"),
        ("localhost", "localhost", &["elsewhere"], "verify-full", true, failed),
        ("127.0.0.1", "x", &["localhost"], "verify-full", true, failed),
        ("localhost", "x", &["127.0.0.1"], "verify-full", true, failed),
        ("localhost", "x", &["elsewhere"], "verify-ca", true, "t"),
        ("localhost", "x", &["localhost"], "verify-ca", false, failed),
        ("localhost", "x", &["localhost"], "verify-full", false, failed),
        ("localhost", "x", &["elsewhere"], "require", false, "t"),
    ] {
        let said = check(host, name, names, mode, trusts);
        assert_eq!(said, expected, "{host} {name} {names:?} {mode} {trusts}");
    }
}

#[test]
fn databases_have_tls_of_their_own() {
    let (_authority, cluster, proxy) = behind(RULES, |authority, config| {
        authority.sign("dave", "dave", &[]);
        let port = "host = \"localhost\"".to_owned();
        config.general("server_tls_sslmode = \"disable\"").database(
            "postgres",
            &[
                &port,
                "server_tls_sslmode = \"verify-full\"",
                &authority.line("server_tls_ca_file", "ca.crt"),
                &authority.line("server_tls_cert_file", "dave.crt"),
                &authority.line("server_tls_key_file", "dave.key"),
            ],
        )
    });
    // The server asks for a certificate in the user's name.
    let mut client = Login::new("dave", "postgres").connect(&proxy.tcp()).expect("a certificate");
    assert_eq!(client.value("select current_user"), "dave");
    drop(cluster);
}

#[test]
fn scram_is_bound_to_the_server_and_passed_through() {
    let secret = {
        let (_authority, cluster, _proxy) = behind(RULES, |_, config| config);
        cluster
            .superuser("postgres")
            .value("select rolpassword from pg_authid where rolname = 'alice'")
    };
    // Neither side has the password: the client's proof opens the server.
    let (authority, _cluster, proxy) = behind(RULES, |authority, config| {
        let config = authority.for_clients("require")(config);
        config
            .general("auth_type = \"scram-sha-256\"")
            .general("server_tls_sslmode = \"require\"")
            .user("alice", &[&format!("password = \"{secret}\"")])
    });
    let _ = &authority;
    for settings in
        ["sslmode=require channel_binding=require", "sslmode=require channel_binding=disable"]
    {
        let mut psql = psql(&proxy.tcp(), "postgres", settings);
        psql.env("PGUSER", ALICE.0).env("PGPASSWORD", ALICE.1);
        assert_eq!(
            successful(feed(psql, format!("{IS_ENCRYPTED}; select current_user").as_bytes())),
            "t\nalice\n"
        );
    }
}

#[test]
fn changed_tls_recycles_the_pools_it_is_about() {
    let (authority, cluster, mut proxy) = behind(RULES, |authority, config| {
        let ca = authority.line("server_tls_ca_file", "ca.crt");
        config
            .general("server_tls_sslmode = \"verify-ca\"")
            .general(&ca)
            .database("other", &["host = \"127.0.0.1\"", "port = 1"])
    });
    let port = cluster.port();
    proxy.reload(|config| {
        config.database(
            "other",
            &[
                &format!("port = {port}"),
                "dbname = \"postgres\"",
                "server_tls_sslmode = \"require\"",
            ],
        )
    });
    let login = |database: &str| Login::new("postgres", database);
    poll("the other database is there", || login("other").connect(&proxy.tcp()).is_ok());
    let mut one = login("postgres").connect(&proxy.tcp()).expect("trusted");
    let mut other = login("other").connect(&proxy.tcp()).expect("trusted");
    let (one_pid, other_pid) = (one.backend_pid(), other.backend_pid());
    // Nothing new: nothing changes.
    let reloads = |proxy: &Proxy| proxy.log().matches("configuration reloaded").count();
    let before = reloads(&proxy);
    proxy.reload(|config| config);
    poll("it is read again", || reloads(&proxy) > before);
    assert_eq!((one.backend_pid(), other.backend_pid()), (one_pid.clone(), other_pid.clone()));
    // A way of TLS of its own.
    proxy.reload(|config| config.database("other", &["server_tls_protocols = \"tlsv1.2\""]));
    poll("it is used", || other.backend_pid() != other_pid);
    assert_eq!(one.backend_pid(), one_pid);
    let version = "select version from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(other.value(version), "TLSv1.2");
    // Another authority in the same file: the server's certificate is none of its.
    assert_eq!(one.query("begin"), "C BEGIN | Z T");
    let stranger = Authority::new();
    fs::copy(stranger.file("ca.crt"), authority.file("ca.crt")).expect("both are ours");
    let before = reloads(&proxy);
    proxy.signal("HUP");
    poll("it is read again", || reloads(&proxy) > before);
    assert_eq!(one.query("commit"), "C COMMIT | Z I", "nobody is dropped");
    let refused = one.query("select 1");
    assert_ne!(refused.last(), "Z I", "{refused:?}");
    assert!(shake(&proxy.tcp(), authority.client_config(None)).is_err(), "clients have no TLS");
}
