//! Logging in: every method on both sides, and every way to fail.

use crate::support::{
    cluster::{ALICE, BOB, CAROL, Cluster},
    config::Config,
    fixture::Fixture,
    login::Login,
    message::*,
    poll,
    proxy::Proxy,
    reply::{Answers, Reply},
    wire::Client,
};

/// The secret PostgreSQL stores for a role.
fn stored_secret(role: &str) -> String {
    let sql = format!("select rolpassword from pg_authid where rolname = '{role}'");
    Cluster::shared().superuser("postgres").value(&sql)
}

fn with_password(config: Config, user: &str, secret: &str) -> Config {
    config.user(user, &[&format!("password = \"{secret}\"")])
}

fn assert_served(fixture: &Fixture, (user, password): (&str, &str), method: &str) {
    let login = Login::new(user, &fixture.database).password(password);
    for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
        let mut client = login.connect(&address).unwrap_or_else(|said| panic!("{user}: {said:?}"));
        assert_eq!(client.login_method, method, "{user}");
        assert_eq!(client.value("select current_user"), user);
    }
}

fn assert_refused(fixture: &Fixture, login: &Login, sqlstate: &str) -> Vec<Reply> {
    let said = login.connect(&fixture.proxy.tcp()).err().expect("this login is to be refused");
    let end = said[said.len() - 2..].iter().cloned().collect::<Answers>();
    assert_eq!(end, format!("E FATAL {sqlstate} | EOF"), "{said:?}");
    said
}

#[test]
fn plain_passwords_open_every_kind_of_server() {
    for auth_type in ["trust", "plain", "md5", "scram-sha-256"] {
        let fixture = Fixture::start(|config| {
            let config = config.general(&format!("auth_type = \"{auth_type}\""));
            [ALICE, BOB, CAROL]
                .iter()
                .fold(config, |config, (user, password)| with_password(config, user, password))
        });
        let method = match auth_type {
            "plain" => "password",
            "scram-sha-256" => "scram",
            other => other,
        };
        for role in [ALICE, BOB, CAROL] {
            assert_served(&fixture, role, method);
        }
    }
}

#[test]
fn scram_secrets_pass_through_to_the_server() {
    let fixture = Fixture::start(|config| {
        let config = config.general("auth_type = \"scram-sha-256\"").general("server_lifetime = 1");
        with_password(config, ALICE.0, &stored_secret(ALICE.0))
    });
    assert_served(&fixture, ALICE, "scram");
    // What was learnt opens further backends, also when the first ones are gone.
    poll("the backends have expired", || fixture.backends() == 0);
    assert_served(&fixture, ALICE, "scram");
}

#[test]
fn md5_secrets_open_md5_servers() {
    let fixture = Fixture::start(|config| {
        with_password(config.general("auth_type = \"md5\""), BOB.0, &stored_secret(BOB.0))
    });
    assert_served(&fixture, BOB, "md5");
}

#[test]
fn md5_asks_for_scram_where_that_is_what_is_stored() {
    let fixture = Fixture::start(|config| {
        with_password(config.general("auth_type = \"md5\""), ALICE.0, &stored_secret(ALICE.0))
    });
    assert_served(&fixture, ALICE, "scram");
}

#[test]
fn a_database_may_name_its_own_user() {
    let fixture = Fixture::start(|config| config);
    let (host, port) = ("host = \"127.0.0.1\"", format!("port = {}", fixture.cluster.port()));
    let dbname = format!("dbname = \"{}\"", fixture.database);
    let user = [&port, &dbname, host, "user = \"alice\"", "password = \"alice-pw\""];
    let config = Fixture::config(fixture.cluster, "unused").database("alias", &user);
    let proxy = Proxy::start(fixture.cluster, config);
    for user in ["postgres", "dave"] {
        let mut client = Login::new(user, "alias").connect(&proxy.tcp()).expect("trusted");
        assert_eq!(client.value("select current_user"), "alice");
        assert_eq!(client.value("select current_database()"), fixture.database);
    }
}

#[test]
fn servers_are_reached_over_unix_sockets() {
    let fixture = Fixture::start(|config| {
        let cluster = Cluster::shared();
        let config = config
            .general("auth_type = \"scram-sha-256\"")
            .database("socket", &[&format!("host = \"{}\"", cluster.socket_dir().display())])
            .database("socket", &[&format!("port = {}", cluster.port()), "dbname = \"t1\""]);
        [ALICE, BOB, CAROL]
            .iter()
            .fold(config, |config, (user, password)| with_password(config, user, password))
    });
    for (user, password) in [ALICE, BOB, CAROL] {
        let login = Login::new(user, "socket").password(password);
        let mut client = login.connect(&fixture.proxy.unix()).expect("the password is right");
        assert_eq!(client.value("select current_user"), user);
        assert_eq!(client.value("select inet_server_port() is null"), "t");
    }
}

#[test]
fn f46_wrong_password_and_unknown_user_look_the_same() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let fixture = Fixture::start(|config| {
            let config = config.general(&format!("auth_type = \"{auth_type}\""));
            with_password(config, ALICE.0, ALICE.1)
        });
        let describe = |user: &str, password: &str| {
            let login = Login::new(user, &fixture.database).password(password);
            let said = assert_refused(&fixture, &login, "28P01");
            let text: Vec<_> =
                said.iter().map(|reply| reply.detail().replace(user, "USER")).collect();
            text
        };
        let wrong = describe("alice", "wrong");
        assert_eq!(describe("nobody", "wrong"), wrong, "{auth_type}");
        assert_eq!(describe("alice", ""), wrong, "{auth_type}");
        assert_eq!(describe("nobody", "alice-pw"), wrong, "{auth_type}");
        // A user that trust would know, but has no password.
        assert_eq!(describe("dave", ""), wrong, "{auth_type}");
    }
}

#[test]
fn f46_unknown_database_is_told_after_authentication_only() {
    let fixture = Fixture::start(|config| {
        with_password(config.general("auth_type = \"scram-sha-256\""), ALICE.0, ALICE.1)
    });
    assert_refused(&fixture, &Login::new("alice", "nowhere").password("wrong"), "28P01");
    assert_refused(&fixture, &Login::new("alice", "nowhere").password(ALICE.1), "3D000");
}

#[test]
fn f46_salts_of_unknown_users_do_not_change() {
    let fixture = Fixture::start(|config| {
        with_password(config.general("auth_type = \"scram-sha-256\""), ALICE.0, ALICE.1)
    });
    let salt = |user: &str| {
        let mut client = fixture.proxy.tcp().open();
        client.send(&[startup(PROTOCOL_3_0, &[("user", user), ("database", &fixture.database)])]);
        assert_eq!(client.take(1), "R 10");
        let first = b"n,,n=,r=0123456789";
        let length = u32::try_from(first.len()).expect("short").to_be_bytes();
        client.send(&[message(b'p', &[b"SCRAM-SHA-256\0", &length[..], first].concat())]);
        let reply = String::from_utf8_lossy(client.reply().body()).into_owned();
        let fields: Vec<_> = reply.split(',').skip(1).map(str::to_owned).collect();
        fields
    };
    assert_eq!(salt("nobody"), salt("nobody"));
    assert_eq!(salt("alice"), salt("alice"));
    assert_ne!(salt("nobody"), salt("somebody"));
    assert_eq!(salt("nobody").len(), salt("alice").len());
    assert_eq!(salt("nobody")[1], salt("alice")[1], "the number of iterations gives it away");
}

#[test]
fn f47_broken_authentication_is_refused() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let fixture = Fixture::start(|config| {
            let config = config.general(&format!("auth_type = \"{auth_type}\""));
            with_password(config, ALICE.0, ALICE.1)
        });
        let begin = || -> Client {
            let mut client = fixture.proxy.tcp().open();
            let parameters = [("user", "alice"), ("database", fixture.database.as_str())];
            client.send(&[startup(PROTOCOL_3_0, &parameters)]);
            assert_eq!(client.reply().tag(), b'R');
            client
        };
        for answer in [
            query("select 1"),
            message(b'p', b""),
            message(b'p', b"no end"),
            message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
            message(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xff"),
            message(b'p', b"SCRAM-SHA-256\0\0\0\0\x03n,,"),
            message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0en,,n=,r=\xff\xfe\xfd\xfc\xfb"),
            message(b'p', b"SCRAM-SHA-999\0\0\0\0\x03n,,"),
            message(b'p', &vec![b'x'; 100_000]),
            vec![b'p', 0xff, 0xff, 0xff, 0xff],
            vec![b'p', 0, 0, 0, 3],
            terminate(),
        ] {
            let mut client = begin();
            client.send_last(&answer);
            let said = client.until_end();
            assert!(!said.iter().any(|text| text.starts_with(['Z', 'K'])), "{auth_type}: {said:?}");
        }
        // Gone in the middle.
        drop(begin());
        assert_served(
            &fixture,
            ALICE,
            if auth_type == "plain" { "password" } else { method(auth_type) },
        );
    }
}

fn method(auth_type: &str) -> &'static str {
    if auth_type == "md5" { "md5" } else { "scram" }
}

#[test]
fn what_follows_the_login_at_once_is_answered() {
    let fixture = Fixture::transaction();
    let mut client = fixture.proxy.tcp().open();
    let parameters = [("user", "postgres"), ("database", fixture.database.as_str())];
    client.send(&[startup(PROTOCOL_3_0, &parameters), query("select 'early'"), query("select 2")]);
    client.until(b'Z');
    let answers = client.ready(2);
    assert_eq!(answers, "T | D early | C SELECT 1 | Z I | T | D 2 | C SELECT 1 | Z I");
}

#[test]
fn startup_may_arrive_in_pieces() {
    let fixture =
        Fixture::start(|config| with_password(config.general("auth_type = \"md5\""), BOB.0, BOB.1));
    let mut client = fixture.proxy.tcp().open();
    let parameters = [("user", "bob"), ("database", fixture.database.as_str())];
    client.send_in_pieces(&[untagged(SSL_REQUEST, b"")], 1);
    assert_eq!(client.byte(), Some(b'N'));
    client.send_in_pieces(&[startup(PROTOCOL_3_0, &parameters)], 1);
    let salt = client.reply();
    let salt = salt.body()[4..8].try_into().expect("an md5 request");
    let hash = postgres_protocol::authentication::md5_hash(b"bob", b"bob-pw", salt);
    client.send_in_pieces(&[password(&hash)], 1);
    assert_eq!(client.until(b'Z').last(), "Z I");
    assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn a_hundred_logins_at_once_succeed() {
    let fixture = Fixture::start(|config| {
        let config =
            config.general("auth_type = \"scram-sha-256\"").general("default_pool_size = 3");
        with_password(config, ALICE.0, ALICE.1)
    });
    let login = Login::new(ALICE.0, &fixture.database).password(ALICE.1);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let mut client =
                    login.connect(&fixture.proxy.tcp()).expect("the password is right");
                assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
            });
        }
    });
}
