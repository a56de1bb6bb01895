//! `target_session_attrs`: what servers are, and what happens when they become something else.

use super::{WHO, base, connect, console, database, logged, pair, start};
use crate::support::{
    config::Config,
    fake::{Caller, FakeServer, complete, ready},
    login::Login,
    message::{Bytes, message},
    poll,
    reply::Reply,
    wire::Client,
};

const ATTRS: [&str; 6] = ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];

/// One database for each kind of server that can be wanted, under its name.
fn wishes(ports: &[u16]) -> Config {
    ATTRS.into_iter().fold(base(), |config, attrs| {
        let key = format!("target_session_attrs = \"{attrs}\"");
        database(config, attrs, ports, &[&key])
    })
}

fn number(client: &mut Client) -> u16 {
    client.value(WHO).parse().expect("a port")
}

#[test]
fn each_wish_finds_its_server() {
    let (primary, standby) = pair();
    for ports in [[primary.port(), standby.port()], [standby.port(), primary.port()]] {
        let Some(proxy) = start(wishes(&ports)) else { return };
        for (attrs, expected) in [
            ("read-write", primary.port()),
            ("read-only", standby.port()),
            ("primary", primary.port()),
            ("standby", standby.port()),
            ("prefer-standby", standby.port()),
        ] {
            for _ in 0..2 {
                assert_eq!(number(&mut connect(&proxy, attrs)), expected, "{attrs}");
                console(&proxy).rows(&format!("RECONNECT \"{attrs}\""));
            }
        }
    }
}

#[test]
fn what_no_server_is_is_said_at_once() {
    let (primary, standby) = pair();
    let read_only = "ALTER DATABASE t1 SET default_transaction_read_only = on";
    primary.superuser("postgres").rows(read_only);
    for (attrs, port, words) in [
        ("read-write", primary.port(), "session is read-only"),
        ("primary", standby.port(), "server is in hot standby mode"),
        ("standby", primary.port(), "server is not in hot standby mode"),
    ] {
        let Some(proxy) = start(wishes(&[port])) else { return };
        let said =
            Login::new("postgres", attrs).connect(&proxy.tcp()).err().expect("there is none");
        let last = said.iter().rev().find(|reply| reply.tag() == b'E').expect("an error");
        assert_eq!(last.sqlstate(), "08001");
        let text = last.field(b'M').expect("a message");
        assert_eq!(text, format!("cannot connect to server: {words}"));
        assert_eq!(number(&mut connect(&proxy, "prefer-standby")), port);
    }
}

/// What a fresh session is told of the server.
fn in_hot_standby(proxy: &crate::support::proxy::Proxy, database: &str) -> String {
    let login = Login::new("postgres", database);
    let (_, said) = login.over_with_greeting(proxy.tcp().open()).expect("trusted");
    let facts = said.iter().filter(|reply| reply.tag() == b'S').map(Reply::parameter);
    facts.filter(|(name, _)| name == "in_hot_standby").map(|(_, value)| value).collect()
}

#[test]
fn a_promoted_standby_is_left_by_those_who_want_one() {
    let (mut primary, standby) = pair();
    let ports = [standby.port(), primary.port()];
    let Some(proxy) = start(wishes(&ports).general("server_role_check_period = 0")) else { return };
    let mut client = connect(&proxy, "standby");
    assert_eq!(number(&mut client), standby.port());
    let mut spare = connect(&proxy, "prefer-standby");
    assert_eq!(number(&mut spare), standby.port());
    assert_eq!(in_hot_standby(&proxy, "standby"), "on");
    primary.crash();
    standby.promote();
    // The server says so with its next answer; then nobody has it any more.
    assert_eq!(number(&mut client), standby.port());
    assert_eq!(in_hot_standby(&proxy, "standby"), "off");
    poll("its backend goes", || {
        let rows = console(&proxy).rows("SHOW SERVERS");
        rows.iter().all(|row| row[2] != "standby")
    });
    client.send(&[crate::support::message::query(WHO)]);
    assert_eq!(client.until_end(), "E FATAL 08001 | EOF");
    assert_eq!(number(&mut spare), standby.port(), "there is no other");
    assert_eq!(number(&mut connect(&proxy, "primary")), standby.port());
    assert!(logged(&proxy, "server is now a primary, it was a standby") > 0, "{}", proxy.log());
}

#[test]
fn a_standby_that_comes_back_is_preferred_again() {
    let (primary, mut standby) = pair();
    let ports = [primary.port(), standby.port()];
    let config = wishes(&ports).general("server_role_check_period = 1");
    let Some(proxy) = start(config.general("server_login_retry = 1")) else { return };
    standby.crash();
    let mut client = connect(&proxy, "prefer-standby");
    assert_eq!(number(&mut client), primary.port());
    standby.restart();
    poll("the standby is used", || number(&mut client) == standby.port());
}

/// A server of before version 14, which does not report what it is.
fn old_server(is_standby: &'static str) -> FakeServer {
    FakeServer::start(move |mut caller: Caller| {
        caller.welcome();
        while let Some(sql) = caller.query() {
            let read_only = if is_standby == "t" { "on" } else { "off" };
            let is_our_own = sql.contains("pg_is_in_recovery");
            let values = [is_standby, read_only];
            let values = if is_our_own { &values[..] } else { &values[..1] };
            caller.send(&[values_row(values), complete("SELECT 1"), ready(b'I')]);
        }
    })
}

fn values_row(values: &[&str]) -> Bytes {
    let mut body = u16::try_from(values.len()).expect("few").to_be_bytes().to_vec();
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend(value.as_bytes());
    }
    message(b'D', &body)
}

#[test]
fn a_server_that_does_not_say_is_asked() {
    let (standby, primary) = (old_server("t"), old_server("f"));
    let Some(proxy) = start(wishes(&[standby.port(), primary.port()])) else { return };
    for (attrs, expected) in
        [("read-write", "f"), ("read-only", "t"), ("primary", "f"), ("standby", "t")]
    {
        let answer = connect(&proxy, attrs).query("select 1");
        assert_eq!(answer, format!("D {expected} | C SELECT 1 | Z I").as_str(), "{attrs}");
    }
}
