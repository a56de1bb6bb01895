//! The first packets of a connection: versions, encryption requests, sizes.

use std::sync::mpsc;

use crate::support::{
    cluster::{Cluster, fetched},
    fake::{FakeServer, report},
    fixture::Fixture,
    login::{Address, Login},
    message::*,
    poll,
    proxy::Proxy,
    reply::{Answers, Reply},
    wire::Client,
};

/// What a side says to these bytes, up to the end of the connection or its first `ReadyForQuery`.
fn answers(address: &Address, bytes: &[Bytes]) -> Answers {
    let mut client = address.open();
    client.send(bytes);
    let replies = client.replies_until(|reply| [b'Z', 0].contains(&reply.tag()));
    replies.into_iter().filter(|reply| !b"SK".contains(&reply.tag())).collect()
}

#[test]
fn f43_newer_versions_are_negotiated_down_once() {
    let fixture = Fixture::transaction();
    let named = [("user", "postgres"), ("database", fixture.database.as_str())];
    let option = [named[0], named[1], ("_pq_.test_protocol_negotiation", "")];
    let two = [named[0], named[1], ("_pq_.one", "1"), ("_pq_.two", "2")];
    for (version, parameters, negotiated) in [
        (PROTOCOL_3_9999, &named[..], Some(PROTOCOL_3_2)),
        (PROTOCOL_3_2 + 1, &named[..], Some(PROTOCOL_3_2)),
        (PROTOCOL_3_2, &named[..], None),
        (PROTOCOL_3_0 + 1, &named[..], None),
        (PROTOCOL_3_0, &option[..], Some(PROTOCOL_3_0)),
        (PROTOCOL_3_2, &option[..], Some(PROTOCOL_3_2)),
        (PROTOCOL_3_9999, &option[..], Some(PROTOCOL_3_2)),
        (PROTOCOL_3_0, &two[..], Some(PROTOCOL_3_0)),
    ] {
        let [direct, proxied] = [fixture.cluster.tcp(), fixture.proxy.tcp()].map(|address| {
            let mut client = address.open();
            client.send(&[startup(version, parameters)]);
            let said = client.replies_until(|reply| reply.tag() == b'Z');
            let negotiated = said.iter().filter(|reply| reply.tag() == b'v');
            let negotiated: Vec<_> = negotiated.map(|reply| reply.body().to_vec()).collect();
            assert!(negotiated.len() < 2, "{said:?}");
            let is_first = said[0].tag() == b'v';
            assert_eq!(is_first, !negotiated.is_empty(), "it comes before authentication");
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
            negotiated
        });
        // Older PostgreSQL speaks older versions; the unknown options are the same.
        let proxied = proxied.first();
        if let (Some(direct), Some(proxied)) = (direct.first(), proxied) {
            assert_eq!(direct[4..], proxied[4..], "the unknown options");
        }
        let spoken = proxied.map(|body| body[..4].to_vec());
        assert_eq!(spoken, negotiated.map(|version| version.to_be_bytes().to_vec()));
    }
}

#[test]
fn f43_cancel_keys_are_as_long_as_the_protocol_allows() {
    let fixture = Fixture::transaction();
    let named = [("user", "postgres"), ("database", fixture.database.as_str())];
    for (version, length) in [(PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32), (PROTOCOL_3_9999, 32)] {
        let mut client = fixture.proxy.tcp().open();
        client.send(&[startup(version, &named)]);
        let said = client.replies_until(|reply| reply.tag() == b'Z');
        let key = said.iter().find(|reply| reply.tag() == b'K').expect("a key").body().to_vec();
        assert_eq!(key.len(), 4 + length);
        client.send(&[query("select pg_sleep(60)")]);
        poll("it runs", || fixture.is_running("pg_sleep"));
        let cancel = |key: &[u8]| {
            let mut request = fixture.proxy.tcp().open();
            request.send(&[untagged(CANCEL_REQUEST, key)]);
            assert_eq!(request.reply(), Reply::Eof);
        };
        // A part of the key is no key.
        cancel(&key[..key.len() - 1]);
        cancel(&[&key[..], b"x"].concat());
        assert!(fixture.is_running("pg_sleep"));
        cancel(&key);
        assert_eq!(client.ready(1), "T | E 57014 | Z I");
    }
}

#[test]
fn f43_servers_are_asked_for_long_keys_too() {
    let key: Vec<u8> = [7_u32.to_be_bytes().to_vec(), vec![42; 200]].concat();
    let (asked, cancelled) = mpsc::sync_channel(8);
    let server = FakeServer::start({
        let key = key.clone();
        move |mut caller| {
            if caller.is_cancel {
                let _ = asked.send(caller.packet);
                return;
            }
            assert_eq!(caller.version, PROTOCOL_3_2);
            caller.welcome_with_key(&key);
            caller.query();
            // Until it has been cancelled, and longer.
            caller.query();
        }
    });
    let fixture = Fixture::start(|config| {
        config.database("fake", &server.database().each_ref().map(String::as_str))
    });
    let mut client = Login::new("postgres", "fake").connect(&fixture.proxy.tcp()).expect("trusted");
    client.send(&[query("select pg_sleep(60)")]);
    poll("its query is cancelled with the whole key", || {
        fixture.proxy.tcp().cancel(client.key);
        cancelled.try_recv().is_ok_and(|packet| packet == key)
    });
}

#[test]
fn f43_servers_that_do_not_negotiate_are_asked_for_the_oldest_version() {
    for sqlstate in ["08P01", "0A000"] {
        let server = FakeServer::start(move |mut caller| {
            if caller.version == PROTOCOL_3_0 {
                caller.welcome();
                caller.serve();
            } else {
                caller.send(&[report(b'E', "FATAL", sqlstate)]);
            }
        });
        let fixture = Fixture::start(|config| {
            config.database("fake", &server.database().each_ref().map(String::as_str))
        });
        let login = Login::new("postgres", "fake");
        let mut client = login.connect(&fixture.proxy.tcp()).expect("trusted");
        assert_eq!(client.value("select 1"), "served");
        assert_eq!(server.connections(), 2);
    }
}

#[test]
fn f43_version_3_2_is_spoken_as_postgresql_18_does() {
    let Some(bin) = fetched("18") else {
        eprintln!("SKIPPED: no binaries of PostgreSQL 18 (.ci/fetch-postgres 18)");
        return;
    };
    let cluster = Cluster::start_from(&bin);
    let proxy = Proxy::start(&cluster, Fixture::config(&cluster, "postgres"));
    let named = [("user", "postgres"), ("database", "postgres")];
    let option = [named[0], named[1], ("_pq_.test_protocol_negotiation", "")];
    for parameters in [&named[..], &option[..]] {
        for version in (0..5).map(|minor| PROTOCOL_3_0 + minor).chain([PROTOCOL_3_9999]) {
            let [direct, proxied] = [cluster.tcp(), proxy.tcp()].map(|address| {
                let mut client = address.open();
                client.send(&[startup(version, parameters)]);
                let said = client.replies_until(|reply| b"Z\0".contains(&reply.tag()));
                let said = said.iter().filter(|reply| reply.tag() != b'S');
                said.map(|reply| match reply.tag() {
                    b'v' => format!("v {:?}", reply.body()),
                    b'K' => format!("K of {} bytes", reply.body().len()),
                    _ => reply.to_string(),
                })
                .collect::<Vec<_>>()
            });
            assert_eq!(direct, proxied, "version {version:#x}, {parameters:?}");
        }
    }
    // The server's key is a long one, and ours is what a client has.
    let mut client = proxy.tcp().open();
    client.send(&[startup(PROTOCOL_3_2, &named)]);
    let said = client.replies_until(|reply| reply.tag() == b'Z');
    let key = said.iter().find(|reply| reply.tag() == b'K').expect("a key").body().to_vec();
    client.send(&[query("select pg_sleep(60)")]);
    let mut observer = cluster.superuser("postgres");
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND \
                query = 'select pg_sleep(60)'";
    poll("it runs", || observer.value(runs) == "1");
    let mut request = proxy.tcp().open();
    request.send(&[untagged(CANCEL_REQUEST, &key)]);
    assert_eq!(client.ready(1).last(), "Z I");
}

#[test]
fn f43_version_3_0_is_not_negotiated() {
    let fixture = Fixture::transaction();
    let client = fixture.proxy.tcp().open();
    let said = fixture.login().over_with_greeting(client);
    let (_, said) = said.unwrap_or_else(|said| panic!("{said:?}"));
    assert!(said.iter().all(|reply| reply.tag() != b'v'), "{said:?}");
}

#[test]
fn f43_other_major_versions_are_refused() {
    let fixture = Fixture::transaction();
    for major in [4, 5, 1234, 65535] {
        let bytes = [startup(major << 16, &[("user", "postgres")])];
        let said = answers(&fixture.proxy.tcp(), &bytes);
        assert_eq!(said, answers(&fixture.cluster.tcp(), &bytes), "version {major}.0");
    }
    // PostgreSQL tells those who speak less than 3.0 in words of their time.
    for major in [0, 1, 2] {
        let mut client = fixture.proxy.tcp().open();
        client.send(&[startup(major << 16, &[("user", "postgres")])]);
        let first = client.byte();
        assert!([None, Some(b'E')].contains(&first), "version {major}.0: {first:?}");
    }
}

#[test]
fn f44_encryption_requests_are_declined_and_may_follow_each_other() {
    let fixture = Fixture::transaction();
    for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
        for requests in [
            &[SSL_REQUEST][..],
            &[GSSENC_REQUEST],
            &[SSL_REQUEST, GSSENC_REQUEST],
            &[GSSENC_REQUEST, SSL_REQUEST],
        ] {
            let mut client = address.open();
            for request in requests {
                client.send(&[untagged(*request, b"")]);
                assert_eq!(client.byte(), Some(b'N'), "{requests:?}");
            }
            let mut client = fixture.login().over(client).expect("trusted");
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
    }
}

#[test]
fn f44_encryption_request_then_cancel() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    a.send(&[query("select pg_sleep(600)")]);
    crate::support::poll("the query runs", || fixture.is_running("pg_sleep"));
    let mut client = fixture.proxy.tcp().open();
    client.send(&[untagged(SSL_REQUEST, b"")]);
    assert_eq!(client.byte(), Some(b'N'));
    client.send(&[cancel_request(a.key)]);
    assert_eq!(client.reply(), Reply::Eof);
    assert_eq!(a.ready(1), "T | E 57014 | Z I");
}

#[test]
fn f44_an_encryption_request_is_made_once() {
    let fixture = Fixture::transaction();
    let repeated = |address: Address, request: u32| -> Answers {
        let mut client: Client = address.open();
        client.send(&[untagged(request, b"")]);
        assert_eq!(client.byte(), Some(b'N'));
        client.send(&[untagged(request, b"")]);
        client.until_end()
    };
    let refused = repeated(fixture.cluster.tcp(), SSL_REQUEST);
    assert_eq!(repeated(fixture.proxy.tcp(), SSL_REQUEST), refused);
    // PostgreSQL itself may know GSSAPI.
    assert_eq!(repeated(fixture.proxy.tcp(), GSSENC_REQUEST), refused);
}

#[test]
fn e42_long_startup_packets_are_refused() {
    let fixture = Fixture::transaction();
    let login = |length: usize| {
        let padding = "x".repeat(length);
        [startup(PROTOCOL_3_0, &[("user", "postgres"), ("application_name", &padding)])]
    };
    for length in [10_001, 100_000, 1_000_000] {
        let mut client = fixture.proxy.tcp().open();
        let _ = client.try_send(&login(length).concat());
        let said = client.until_end();
        assert!(said.len() <= 2 && said[0].starts_with('E'), "{length} bytes: {said:?}");
    }
    // Only announced, never sent: the answer does not wait for it.
    let mut client = fixture.proxy.tcp().open();
    client.send(&[vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]]);
    assert_eq!(client.until_end().last(), "EOF");
}

#[test]
fn malformed_startup_packets_are_refused_as_by_the_server() {
    let fixture = Fixture::transaction();
    let database = fixture.database.as_str();
    let bodies = [
        startup(PROTOCOL_3_0, &[]),
        startup(PROTOCOL_3_0, &[("database", database)]),
        startup(PROTOCOL_3_0, &[("user", ""), ("database", database)]),
        untagged(PROTOCOL_3_0, b""),
        untagged(PROTOCOL_3_0, b"user\0postgres"),
        untagged(PROTOCOL_3_0, b"user\0postgres\0"),
        untagged(PROTOCOL_3_0, b"user\0postgres\0database"),
        untagged(PROTOCOL_3_0, b"user\0postgres\0\0trailing\0"),
        untagged(PROTOCOL_3_0, b"user\0"),
    ];
    for body in bodies {
        let proxied = answers(&fixture.proxy.tcp(), std::slice::from_ref(&body));
        let direct = answers(&fixture.cluster.tcp(), std::slice::from_ref(&body));
        assert_eq!(direct, proxied, "left: PostgreSQL itself, right: the proxy, to {body:?}");
    }
}

#[test]
fn startup_without_database_means_that_of_the_users_name() {
    let fixture = Fixture::start(|config| {
        let port = format!("port = {}", crate::support::cluster::Cluster::shared().port());
        config.database("dave", &["host = \"127.0.0.1\"", &port, "dbname = \"t1\""])
    });
    let mut client = fixture.proxy.tcp().open();
    client.send(&[startup(PROTOCOL_3_0, &[("user", "dave")])]);
    assert_eq!(client.until(b'Z').last(), "Z I");
    assert_eq!(client.value("select current_user || current_database()"), "davet1");
    let unknown = Login::new("postgres", "nowhere").connect(&fixture.proxy.tcp());
    let said = unknown.err().expect("no such database");
    assert_eq!(said[said.len() - 2].to_string(), "E FATAL 3D000");
}
