//! The PROXY protocol: who a client is, in the words of the balancer in front of us.

use super::refusal;
use crate::{
    support::{
        fixture::Fixture,
        login::Login,
        message::{SSL_REQUEST, cancel_request, query, untagged},
        poll,
        proxy::Proxy,
        reply::Reply,
        wire::Client,
    },
    tls::support::{fixture as tls_fixture, shake_over},
};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 6432\r\n";

/// Version 2 with an address and one thing more that nobody here knows.
fn v2(source: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13".to_vec();
    header.extend_from_slice(&source);
    header.extend_from_slice(&[127, 0, 0, 1]);
    header.extend_from_slice(&port.to_be_bytes());
    header.extend_from_slice(&[0x19, 0x20, 0xe0, 0, 4, b'a', b'b', b'c', b'd']);
    header
}

fn behind(proxy: &Proxy, header: &[u8]) -> Client {
    let mut client = proxy.tcp().open();
    let _ = client.try_send(header);
    client
}

/// What SHOW CLIENTS says of a user: addresses and ports.
fn shown(fixture: &Fixture, user: &str) -> Vec<String> {
    let mut console = Login::new("postgres", "pgtandem").connect(&fixture.proxy.unix());
    let console = console.as_mut().expect("it may");
    console.send(&[query("SHOW CLIENTS")]);
    let replies = console.replies_until(|reply| reply.tag() == b'Z');
    let names = replies[0].column_names();
    let at = |name: &str| names.iter().position(|known| known == name).expect("it is there");
    let (of, addr, port) = (at("user"), at("addr"), at("port"));
    let rows = replies.iter().filter(|reply| reply.tag() == b'D').map(Reply::columns);
    rows.filter(|row| row[of] == user).map(|row| format!("{}:{}", row[addr], row[port])).collect()
}

fn listed() -> Fixture {
    Fixture::start(|config| {
        config
            .general("proxy_protocol_from = [\"10.0.0.0/8\", \"127.0.0.1\"]")
            .general("admin_users = [\"postgres\"]")
    })
}

#[test]
fn a_balancer_says_who_the_client_is() {
    let fixture = listed();
    let login = Login::new("dave", &fixture.database);
    let mut first = login.over(behind(&fixture.proxy, V1)).expect("everybody is trusted");
    assert_eq!(first.value("select 1"), "1");
    assert_eq!(shown(&fixture, "dave"), ["192.0.2.7:5000"]);
    assert!(fixture.proxy.log().contains("192.0.2.7:5000"));
    drop(first);
    poll("it has left", || shown(&fixture, "dave").is_empty());
    // Piece by piece, and version 2.
    let mut client = fixture.proxy.tcp().open();
    client.send_in_pieces(&[v2([198, 51, 100, 1], 77)], 1);
    let _second = login.over(client).expect("everybody is trusted");
    assert_eq!(shown(&fixture, "dave"), ["198.51.100.1:77"]);
    // The balancer itself looks whether we are there.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let mut own = login.over(behind(&fixture.proxy, local)).expect("everybody is trusted");
    assert_eq!(own.value("select 1"), "1");
    // Nobody balances what comes through the Unix socket.
    let mut unix = login.connect(&fixture.proxy.unix()).expect("everybody is trusted");
    assert_eq!(unix.value("select 1"), "1");
}

#[test]
fn cancel_requests_come_behind_a_header_too() {
    let fixture = listed();
    let login = Login::new("dave", &fixture.database);
    let mut client = login.over(behind(&fixture.proxy, V1)).expect("everybody is trusted");
    client.send(&[query("select pg_sleep(60)")]);
    poll("the query runs", || fixture.is_running("pg_sleep(60)"));
    let mut cancel = behind(&fixture.proxy, V1);
    cancel.send(&[cancel_request(client.key)]);
    assert_eq!(cancel.reply(), Reply::Eof);
    assert_eq!(client.ready(1), "T | E 57014 | Z I");
}

#[test]
fn a_balancer_must_and_nobody_else_may() {
    let fixture = listed();
    let login = Login::new("dave", &fixture.database);
    let ending = |client| login.over(client).map_or_else(|said| refusal(&said), |_| "ok".into());
    assert_eq!(ending(fixture.proxy.tcp().open()), "EOF");
    assert_eq!(ending(behind(&fixture.proxy, b"PROXY TCP4 nonsense\r\n")), "EOF");
    assert_eq!(ending(behind(&fixture.proxy, &[b'P'; 300])), "EOF");
    poll("both are logged", || {
        let log = fixture.proxy.log();
        log.contains("no PROXY protocol from an address in proxy_protocol_from")
            && log.contains("malformed header of the PROXY protocol")
    });
    for list in ["[]", "[\"10.0.0.0/8\"]"] {
        let other =
            Fixture::start(|config| config.general(&format!("proxy_protocol_from = {list}")));
        let login = Login::new("dave", &other.database);
        for header in [V1, &v2([192, 0, 2, 7], 1)] {
            assert!(login.over(behind(&other.proxy, header)).is_err());
        }
        assert!(login.connect(&other.proxy.tcp()).is_ok());
        let said = "PROXY protocol from an address that is not in proxy_protocol_from";
        poll("it is logged", || other.proxy.log().contains(said));
    }
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for() {
    let fixture = Fixture::start(|config| {
        config
            .general("proxy_protocol_from = [\"127.0.0.1\"]")
            .general("client_login_timeout = \"300ms\"")
    });
    for start in [&b""[..], &V1[..9], &v2([1, 2, 3, 4], 5)[..20]] {
        assert_eq!(behind(&fixture.proxy, start).reply(), Reply::Eof);
    }
}

#[test]
fn rules_go_by_the_client_and_not_by_the_balancer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let hba = folder.path().join("hba");
    let rules = "local all all trust\nhost all all 192.0.2.0/24 trust\nhost all all all reject\n";
    std::fs::write(&hba, rules).expect("the folder is ours");
    let fixture = Fixture::start(|config| {
        config
            .general("proxy_protocol_from = [\"127.0.0.1\"]")
            .general("auth_type = \"hba\"")
            .general(&format!("auth_hba_file = \"{}\"", hba.display()))
    });
    let login = Login::new("dave", &fixture.database);
    let ending = |header: &[u8]| {
        login
            .over(behind(&fixture.proxy, header))
            .map_or_else(|said| refusal(&said), |_| "ok".to_owned())
    };
    assert_eq!(ending(V1), "ok");
    let refused = format!(
        "28000 pg_hba.conf rejects connection for host \"198.51.100.1\", user \"dave\", \
         database \"{}\", no encryption",
        fixture.database
    );
    assert_eq!(ending(&v2([198, 51, 100, 1], 5)), refused);
}

#[test]
fn tls_begins_behind_the_header() {
    let (authority, fixture) =
        tls_fixture("require", |config| config.general("proxy_protocol_from = [\"127.0.0.1\"]"));
    let request = untagged(SSL_REQUEST, b"");
    let mut client = behind(&fixture.proxy, V1);
    client.send(&[request]);
    assert_eq!(client.byte(), Some(b'S'));
    let client = shake_over(client, authority.client_config(None)).expect("TLS");
    let login = Login::new("dave", &fixture.database);
    assert_eq!(login.over(client).expect("everybody is trusted").value("select 1"), "1");
    // A header inside TLS is none.
    let mut client = behind(&fixture.proxy, V1);
    client.send(&[untagged(SSL_REQUEST, b"")]);
    assert_eq!(client.byte(), Some(b'S'));
    let mut client = shake_over(client, authority.client_config(None)).expect("TLS");
    let _ = client.try_send(V1);
    assert!(login.over(client).is_err());
}
