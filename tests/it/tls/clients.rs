//! Clients that use TLS, by libpq and by hand.

use std::fs;

use super::support::{Authority, fixture, psql, shake, shake_over};
use crate::support::{
    fixture::Fixture,
    login::Login,
    message::{GSSENC_REQUEST, SSL_REQUEST, cancel_request, query, untagged},
    poll,
    reply::Reply,
    tools::{feed, successful},
};

#[test]
fn libpq_uses_tls_if_it_may() {
    let (authority, fixture) = fixture("prefer", |config| config);
    let ca = authority.file("ca.crt").display().to_string();
    for settings in [
        "sslmode=require".to_owned(),
        "sslmode=prefer".to_owned(),
        format!("sslmode=verify-ca sslrootcert={ca}"),
        format!("sslmode=verify-full sslrootcert={ca} host=localhost"),
        format!("sslmode=verify-full sslrootcert={ca}"),
        "sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(),
    ] {
        let psql = psql(&fixture.proxy.tcp(), &fixture.database, &settings);
        let script = "\\conninfo\nselect 'x' || repeat('y', 100000)";
        let said = successful(feed(psql, script.as_bytes()));
        assert!(said.contains("SSL connection (protocol: TLSv1."), "{settings}: {said}");
        assert!(said.len() > 100_000, "{settings}");
    }
    let plain = psql(&fixture.proxy.tcp(), &fixture.database, "sslmode=disable");
    let said = successful(feed(plain, b"\\conninfo\nselect 1"));
    assert!(!said.contains("SSL"), "{said}");
    let unix = psql(&fixture.proxy.unix(), &fixture.database, "sslmode=prefer");
    assert!(!successful(feed(unix, b"\\conninfo")).contains("SSL"));
}

#[test]
fn libpq_recognises_a_stranger() {
    let (_, fixture) = fixture("prefer", |config| config);
    let ca = Authority::new().file("ca.crt").display().to_string();
    for mode in ["verify-ca", "verify-full"] {
        let settings = format!("sslmode={mode} sslrootcert={ca}");
        let output = feed(psql(&fixture.proxy.tcp(), &fixture.database, &settings), b"select 1");
        assert!(!output.status.success());
    }
    // Nothing has happened to the others.
    assert_eq!(fixture.connect().value("select 1"), "1");
}

#[test]
fn tls_can_be_demanded() {
    let (authority, fixture) = fixture("require", |config| config);
    let refused = fixture.login().connect(&fixture.proxy.tcp()).err().expect("no TLS");
    assert_eq!(refused[0].to_string(), "E FATAL 28000");
    assert!(refused[0].detail().contains("SSL required"), "{:?}", refused[0]);
    // There is nobody between the ends of a Unix socket.
    let mut local = fixture.login().connect(&fixture.proxy.unix()).expect("no TLS needed");
    assert_eq!(local.value("select 1"), "1");
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    assert_eq!(client.value("select 1"), "1");
    // A cancel request proves itself by its key.
    client.send(&[query("select pg_sleep(600)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    fixture.proxy.tcp().cancel(client.key);
    assert_eq!(client.ready(1), "T | E 57014 | Z I");
}

#[test]
fn cancel_requests_come_over_tls_too() {
    let (authority, fixture) = fixture("require", |config| config);
    let connect = || shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(connect()).expect("trusted");
    client.send(&[query("select pg_sleep(600)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    let mut request = connect();
    request.send(&[cancel_request(client.key)]);
    assert_eq!(request.reply(), Reply::Eof);
    assert_eq!(client.ready(1), "T | E 57014 | Z I");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn f44_requests_for_encryption_follow_each_other_as_in_postgresql() {
    let (authority, fixture) = fixture("prefer", |config| config);
    // GSSAPI first, then TLS.
    let mut client = fixture.proxy.tcp().open();
    client.send(&[untagged(GSSENC_REQUEST, b"")]);
    assert_eq!(client.byte(), Some(b'N'));
    client.send(&[untagged(SSL_REQUEST, b"")]);
    assert_eq!(client.byte(), Some(b'S'));
    let client = shake_over(client, authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    assert_eq!(client.value("select 1"), "1");
    // Inside TLS neither can be asked for again.
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
        client.send(&[untagged(request, b"")]);
        let said = client.until_end();
        assert_eq!(said, "E FATAL 0A000 | EOF", "{request}");
    }
    // A Unix socket has no TLS.
    let mut client = fixture.proxy.unix().open();
    client.send(&[untagged(SSL_REQUEST, b"")]);
    assert_eq!(client.byte(), Some(b'N'));
}

#[test]
fn tls_begins_at_once_if_the_protocol_is_named() {
    let (authority, fixture) = fixture("require", |config| config);
    let direct = |protocols: &[&[u8]]| {
        let mut config = authority.client_config(None);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        shake_over(fixture.proxy.tcp().open(), config)
    };
    for protocols in [&[&b"postgresql"[..]][..], &[b"http/1.1", b"postgresql"]] {
        let mut client = fixture.login().over(direct(protocols).expect("TLS")).expect("trusted");
        assert_eq!(client.value("select 1"), "1");
    }
    let mut unnamed = direct(&[]).expect("TLS");
    assert_eq!(unnamed.until_end(), "E FATAL 08P01 | EOF");
    assert!(direct(&[b"http/1.1"]).is_err(), "another protocol");
    // One that asks first may name the protocol, or not; but no other.
    let asked = |protocol: &[u8]| {
        let mut config = authority.client_config(None);
        config.alpn_protocols = vec![protocol.to_vec()];
        shake(&fixture.proxy.tcp(), config)
    };
    assert!(asked(b"postgresql").is_ok());
    assert!(asked(b"http/1.1").is_err());
}

#[test]
fn without_tls_a_hello_is_nonsense() {
    let fixture = Fixture::transaction();
    let authority = Authority::new();
    assert!(shake_over(fixture.proxy.tcp().open(), authority.client_config(None)).is_err());
    let refused = shake(&fixture.proxy.tcp(), authority.client_config(None)).err();
    assert!(refused.is_some_and(|why| why.contains("no TLS")));
    assert_eq!(fixture.connect().value("select 1"), "1");
}

#[test]
fn the_console_says_who_uses_what() {
    let (authority, fixture) = fixture("prefer", |config| {
        config
            .general("admin_users = [\"postgres\"]")
            .general("client_tls13_ciphers = \"TLS_AES_128_GCM_SHA256\"")
            .general("client_tls_ciphers = \"ECDHE-ECDSA-CHACHA20-POLY1305\"")
    });
    let tls = |config| {
        let client = shake(&fixture.proxy.tcp(), config).expect("TLS");
        fixture.login().over(client).expect("trusted")
    };
    let _newer = tls(authority.client_config(None));
    let _older = psql(&fixture.proxy.tcp(), &fixture.database, "");
    let _plain = fixture.connect();
    let mut console = Login::new("postgres", "pgtandem").connect(&fixture.proxy.tcp()).expect("in");
    let shown = |console: &mut crate::support::wire::Client| -> Vec<String> {
        let rows = console.rows("SHOW CLIENTS");
        let mut tls: Vec<String> = rows.iter().map(|row| row[16].clone()).collect();
        tls.sort();
        tls
    };
    assert_eq!(shown(&mut console), ["", "", "TLSv1.3/TLS_AES_128_GCM_SHA256"]);
    let mut encrypted = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    encrypted = Login::new("postgres", "pgtandem").over(encrypted).expect("in");
    let suite = "TLSv1.3/TLS_AES_128_GCM_SHA256";
    assert_eq!(shown(&mut encrypted), ["", "", suite, suite]);
    let older =
        psql(&fixture.proxy.tcp(), "pgtandem", "sslmode=require ssl_max_protocol_version=TLSv1.2");
    let said = successful(feed(older, b"show clients"));
    assert!(said.contains("TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305"), "{said}");
    let log = fixture.proxy.log();
    assert!(log.contains(&format!("tls={suite}")) && log.contains("tls=no"), "{log}");
}

#[test]
fn versions_of_tls_can_be_chosen() {
    let (_authority, fixture) =
        fixture("require", |config| config.general("client_tls_protocols = \"tlsv1.3\""));
    let run =
        |settings: &str| feed(psql(&fixture.proxy.tcp(), &fixture.database, settings), b"select 1");
    let refused = run("sslmode=require ssl_max_protocol_version=TLSv1.2");
    assert!(!refused.status.success());
    assert_eq!(successful(run("sslmode=require ssl_min_protocol_version=TLSv1.3")), "1\n");
}

#[test]
fn certificates_are_renewed_without_losing_anybody() {
    let (authority, mut fixture) = fixture("require", |config| config);
    let config = || authority.client_config(None);
    let before = shake(&fixture.proxy.tcp(), config()).expect("TLS");
    let mut before = fixture.login().over(before).expect("trusted");
    assert_eq!(before.query("begin"), "C BEGIN | Z T");
    // Another authority, in the same files.
    let other = Authority::new();
    other.sign("server", "localhost", &["localhost"]);
    for file in ["server.crt", "server.key"] {
        fs::copy(other.file(file), authority.file(file)).expect("both are ours");
    }
    fixture.proxy.reload(|config| config);
    poll("the new certificate is shown", || {
        shake(&fixture.proxy.tcp(), other.client_config(None)).is_ok()
    });
    assert!(shake(&fixture.proxy.tcp(), config()).is_err(), "the old one is gone");
    assert_eq!(before.query("commit"), "C COMMIT | Z I");
    assert_eq!(before.value("select 1"), "1");
    // Then TLS is switched off: who has it keeps it.
    fixture.proxy.reload(|config| config.general("client_tls_sslmode = \"disable\""));
    poll("there is no TLS", || {
        shake(&fixture.proxy.tcp(), config()).is_err_and(|why| why.contains("no TLS"))
    });
    assert_eq!(fixture.connect().value("select 1"), "1");
    assert_eq!(before.value("select 1"), "1");
}

#[test]
fn f49_files_that_are_wrong_change_nothing() {
    let (authority, mut fixture) = fixture("require", |config| config);
    let other = Authority::new();
    other.sign("server", "localhost", &["localhost"]);
    // The key of another certificate, a file without one, and none at all.
    let key = authority.file("server.key");
    let good = fs::read(&key).expect("it is ours");
    let spoil: [&dyn Fn(); 3] = [
        &|| {
            fs::copy(other.file("server.key"), &key).expect("both are ours");
        },
        &|| fs::write(&key, "no key").expect("it is ours"),
        &|| fs::remove_file(&key).expect("it is ours"),
    ];
    for spoil in spoil {
        spoil();
        let before = fixture.proxy.log().len();
        fixture.proxy.reload(|config| config.general("default_pool_size = 2"));
        poll("the failure is logged", || {
            fixture.proxy.log()[before..].contains("configuration not reloaded")
        });
        assert!(fixture.proxy.log()[before..].contains("server.key"), "{}", fixture.proxy.log());
        shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("as before");
        fs::write(&key, &good).expect("it is ours");
    }
}

#[test]
fn a_cluster_of_postgresql_refuses_as_we_do() {
    let authority = Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
    let cluster = super::support::server(&authority, rules);
    let fixture = Fixture::start(authority.for_clients("prefer"));
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let said = [cluster.tcp(), fixture.proxy.tcp()].map(|address| {
            let mut client = shake(&address, authority.client_config(None)).expect("TLS");
            client.send(&[untagged(request, b"")]);
            client.until_end()
        });
        assert_eq!(said[0], said[1], "{request}");
    }
}
