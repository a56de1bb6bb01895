//! Peers who mean no good, or have lost their minds.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use super::support::{fixture, shake};
use crate::support::{
    PATIENCE,
    message::{PROTOCOL_3_0, SSL_REQUEST, query, startup, terminate, untagged},
    poll,
    reply::Reply,
};

#[test]
fn f44_plaintext_behind_the_request_is_refused() {
    let (_authority, fixture) = fixture("prefer", |config| config);
    let hello = startup(PROTOCOL_3_0, &[("user", "postgres")]);
    let mut client = fixture.proxy.tcp().open();
    client.send(&[[untagged(SSL_REQUEST, b""), hello].concat()]);
    assert_eq!(client.byte(), Some(b'S'));
    let said = client.reply();
    assert_eq!(said.sqlstate(), "08P01");
    assert_eq!(said.field(b'M').as_deref(), Some("received unencrypted data after SSL request"));
    assert_eq!(client.reply(), Reply::Eof);
    // Sent later, it is no handshake.
    let mut client = fixture.proxy.tcp().open();
    client.send(&[untagged(SSL_REQUEST, b"")]);
    assert_eq!(client.byte(), Some(b'S'));
    client.send(&[startup(PROTOCOL_3_0, &[("user", "postgres")])]);
    let mut tcp = client.into_tcp();
    let mut said = Vec::new();
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket has one");
    let _ = tcp.read_to_end(&mut said);
    assert!(said.len() <= 7 && said.first().is_none_or(|first| *first == 0x15), "{said:?}");
}

#[test]
fn garbage_is_no_handshake() {
    let (_authority, fixture) = fixture("prefer", |config| config);
    let mut seed: u64 = 42;
    let mut garbage = |length: usize| -> Vec<u8> {
        let byte = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        };
        (0..length).map(byte).collect()
    };
    for length in [1, 5, 6, 50, 1000, 20_000, 200_000] {
        for starts_as_hello in [false, true] {
            let mut client = fixture.proxy.tcp().open();
            let mut bytes = garbage(length);
            if starts_as_hello {
                // Straight away, as a record of a handshake.
                bytes.splice(0..0, [0x16, 3, 1]);
            } else {
                client.send(&[untagged(SSL_REQUEST, b"")]);
                assert_eq!(client.byte(), Some(b'S'));
            }
            let mut tcp = client.into_tcp();
            let _ = tcp.write_all(&bytes);
            let _ = tcp.shutdown(std::net::Shutdown::Write);
            tcp.set_read_timeout(Some(PATIENCE)).expect("a socket has one");
            let mut said = Vec::new();
            let end = tcp.read_to_end(&mut said);
            let is_time_out =
                |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
            assert!(!end.as_ref().is_err_and(is_time_out), "{length} bytes: it stays open");
            assert!(said.len() < 100, "{length} bytes: {said:?}");
        }
    }
    assert_eq!(fixture.connect().value("select 1"), "1");
}

#[test]
fn f45_a_slow_handshake_does_not_last() {
    let (authority, fixture) = fixture("prefer", |config| {
        config.general("client_login_timeout = 2").general("max_client_conn = 5")
    });
    let begun = Instant::now();
    let slow: Vec<_> = (0..20)
        .map(|number| {
            let mut client = fixture.proxy.tcp().open();
            client.send(&[untagged(SSL_REQUEST, b"")]);
            assert_eq!(client.byte(), Some(b'S'));
            let mut tcp = client.into_tcp();
            if number % 2 == 0 {
                tcp.write_all(&[0x16, 3, 1]).expect("it is open");
            }
            tcp
        })
        .collect();
    // They hold up nobody, and take no place of a client.
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    assert_eq!(client.value("select 1"), "1");
    for mut tcp in slow {
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket has one");
        let mut said = Vec::new();
        let end = tcp.read_to_end(&mut said);
        assert!(end.is_ok() && said.len() <= 7, "{end:?} {said:?}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn what_is_cut_off_is_not_carried_out() {
    let (authority, fixture) = fixture("require", |config| config);
    let connect = || {
        let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
        fixture.login().over(client).expect("trusted")
    };
    let mut observer = fixture.observer();
    connect().rows("create table t (i int)");
    // Cut off between two messages of a transaction, without a word of TLS.
    let mut client = connect();
    assert_eq!(client.query("begin; insert into t values (1)"), "C BEGIN | C INSERT 0 1 | Z T");
    client.hang_up();
    // Cut off in the middle of a message, at the end of a record.
    let mut client = connect();
    let insert = query("insert into t values (2)");
    client.try_send(&insert[..insert.len() - 5]).expect("it is open");
    client.hang_up();
    poll("both are gone", || {
        observer.value(
            "select count(*) from pg_stat_activity where datname = current_database() \
             and state like 'idle in%'",
        ) == "0"
    });
    assert_eq!(observer.value("select count(*) from t"), "0");
    assert_eq!(connect().value("select 1"), "1");
}

#[test]
fn what_was_sent_before_the_end_is_carried_out() {
    let (authority, fixture) = fixture("require", |config| config);
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    // What it sent was whole, and it said goodbye: it is carried out, as without TLS.
    client.send_last(&[query("create table t (i int)"), terminate()].concat());
    let mut observer = fixture.observer();
    poll("the table is there", || observer.value("select to_regclass('t') is not null") == "t");
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    assert_eq!(client.value("select count(*) from t"), "0");
}

#[test]
fn changed_records_end_the_session() {
    let (authority, fixture) = fixture("require", |config| config);
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let client = fixture.login().over(client).expect("trusted");
    let mut raw = client.raw();
    raw.write_all(&[0x17, 3, 3, 0, 30]).expect("it is open");
    raw.write_all(&[7; 30]).expect("it is open");
    let mut said = Vec::new();
    raw.set_read_timeout(Some(PATIENCE)).expect("a socket has one");
    let _ = raw.read_to_end(&mut said);
    // An alert, encrypted.
    assert!(said.len() < 100, "{said:?}");
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    assert_eq!(fixture.login().over(client).expect("trusted").value("select 1"), "1");
}
