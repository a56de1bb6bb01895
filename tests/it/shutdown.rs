//! The end: SIGTERM waits for clients, SIGINT for transactions, SIGQUIT for nobody.

use std::{
    os::unix::process::ExitStatusExt,
    sync::{Mutex, PoisonError, mpsc::sync_channel},
    time::{Duration, Instant},
};

use crate::support::{
    PATIENCE,
    fake::{Caller, FakeServer},
    fixture::Fixture,
    message::*,
    poll,
    proxy::Subject,
};

#[test]
fn sigint_lets_transactions_finish() {
    let mut fixture = Fixture::start(|config| config.general("default_pool_size = 3"));
    let (mut idle, mut open, mut busy) = (fixture.connect(), fixture.connect(), fixture.connect());
    fixture.observer().rows("create table t (x int)");
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(open.query("begin; insert into t values (1)").last(), "Z T");
    busy.send(&[query("insert into t select 2 from pg_sleep(1)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    fixture.proxy.signal("INT");
    assert_eq!(idle.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(busy.until_end(), "C INSERT 0 1 | Z I | E FATAL 57P01 | EOF");
    assert!(fixture.proxy.is_running());
    // Nobody new is let in; the Unix socket is there for administrators.
    let late = fixture.login().connect(&fixture.proxy.tcp());
    assert!(late.is_err(), "a login during the shutdown");
    assert_eq!(refusal(&fixture), "E FATAL 57P03 | EOF");
    // As many statements as the transaction needs.
    for _ in 0..3 {
        assert_eq!(open.query("insert into t values (3)"), "C INSERT 0 1 | Z T");
    }
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(open.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
    assert_eq!(fixture.observer().value("select count(*) from t"), "5");
    poll("no backend is left", || fixture.backends() == 0);
}

/// What somebody is told who comes by the Unix socket.
fn refusal(fixture: &Fixture) -> String {
    match fixture.login().connect(&fixture.proxy.unix()) {
        Ok(_) => "let in".to_owned(),
        Err(said) => {
            let said: Vec<_> = said.iter().map(ToString::to_string).collect();
            said.join(" | ")
        }
    }
}

#[test]
fn sigint_lets_copies_and_pipelines_finish() {
    let mut fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    fixture.observer().rows("create table t (x int)");
    let (mut copy, mut pipeline) = (fixture.connect(), fixture.connect());
    copy.send(&[query("copy t from stdin"), copy_data("1\n")]);
    assert_eq!(copy.take(1), "G");
    pipeline.send(&[parse("", "insert into t values (2)"), bind("", ""), execute(""), flush()]);
    assert_eq!(pipeline.take(3), "1 | 2 | C INSERT 0 1");
    fixture.proxy.signal("INT");
    copy.send(&[copy_data("3\n"), copy_done()]);
    assert_eq!(copy.until_end(), "C COPY 2 | Z I | E FATAL 57P01 | EOF");
    pipeline.send(&[sync()]);
    assert_eq!(pipeline.until_end(), "Z I | E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
    assert_eq!(fixture.observer().value("select count(*) from t"), "3");
}

#[test]
fn sigint_ends_idle_sessions() {
    let mut fixture = Fixture::session();
    let mut idle = fixture.connect();
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    fixture.proxy.signal("INT");
    assert_eq!(idle.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}

#[test]
fn sigint_does_not_wait_for_who_is_paused() {
    let mut fixture = Fixture::transaction();
    let (mut open, mut waits) = (fixture.connect(), fixture.connect());
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    fixture.proxy.signal("USR1");
    waits.send(&[query("select 1")]);
    waits.assert_quiet();
    fixture.proxy.signal("INT");
    assert_eq!(waits.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(open.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}

#[test]
fn sigterm_waits_until_the_clients_have_left() {
    let mut fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    let (mut idle, mut open) = (fixture.connect(), fixture.connect());
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    fixture.proxy.signal("TERM");
    poll("TCP is closed", || fixture.proxy.tcp().try_open().is_err());
    assert_eq!(refusal(&fixture), "E FATAL 57P03 | EOF");
    // Those who are in go on as long as they like.
    for _ in 0..3 {
        assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        assert_eq!(open.query("commit"), "C COMMIT | Z I");
        assert_eq!(open.query("begin"), "C BEGIN | Z T");
    }
    drop(open);
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert!(fixture.proxy.is_running());
    idle.send(&[terminate()]);
    assert_eq!(fixture.proxy.wait().code(), Some(0));
    poll("no backend is left", || fixture.backends() == 0);
}

#[test]
fn g54_resume_works_while_sigterm_waits() {
    let mut fixture = Fixture::transaction();
    let mut client = fixture.connect();
    assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    fixture.proxy.signal("USR1");
    poll("everything is paused", || fixture.backends() == 0);
    client.send(&[query("select 2")]);
    client.assert_quiet();
    fixture.proxy.signal("TERM");
    poll("TCP is closed", || fixture.proxy.tcp().try_open().is_err());
    client.assert_quiet();
    fixture.proxy.signal("USR2");
    assert_eq!(client.ready(1), "T | D 2 | C SELECT 1 | Z I");
    assert_eq!(client.query("select 3"), "T | D 3 | C SELECT 1 | Z I");
    drop(client);
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}

#[test]
fn sigterm_and_sigint_without_clients_end_at_once() {
    for name in ["TERM", "INT"] {
        let mut fixture = Fixture::transaction();
        fixture.proxy.signal(name);
        assert_eq!(fixture.proxy.wait().code(), Some(0), "SIG{name}");
    }
}

#[test]
fn the_end_takes_the_sockets_away() {
    let mut fixture = Fixture::transaction();
    let (tcp, unix) = (fixture.proxy.tcp(), fixture.proxy.unix());
    assert!(unix.try_open().is_ok());
    fixture.proxy.signal("TERM");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
    assert!(tcp.try_open().is_err());
    assert!(unix.try_open().is_err());
    assert!(!fixture.proxy.socket_file().exists());
}

#[test]
fn a_second_signal_ends_at_once() {
    for names in [["TERM", "TERM"], ["INT", "INT"], ["TERM", "INT"]] {
        let mut fixture = Fixture::transaction();
        let mut open = fixture.connect();
        assert_eq!(open.query("begin"), "C BEGIN | Z T");
        fixture.proxy.signal(names[0]);
        open.assert_quiet();
        assert!(fixture.proxy.is_running());
        fixture.proxy.signal(names[1]);
        let started = Instant::now();
        let status = fixture.proxy.wait();
        assert!(status.signal().is_none(), "{names:?}: {status}");
        assert!(started.elapsed() < PATIENCE);
        assert_eq!(open.until_end().last(), "EOF");
        poll("no backend is left", || fixture.backends() == 0);
    }
}

#[test]
fn shutdown_timeout_bounds_the_wait() {
    for name in ["TERM", "INT"] {
        let mut fixture = Fixture::start(|config| config.general("shutdown_timeout = 1"));
        let mut open = fixture.connect();
        assert_eq!(open.query("begin"), "C BEGIN | Z T");
        fixture.proxy.signal(name);
        fixture.proxy.wait();
        assert_eq!(open.until_end().last(), "EOF", "SIG{name}");
    }
}

#[test]
fn sigquit_waits_for_nobody() {
    let mut fixture = Fixture::transaction();
    let mut open = fixture.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    fixture.proxy.signal("QUIT");
    assert_eq!(open.until_end().last(), "EOF");
    let status = fixture.proxy.wait();
    assert!(status.signal().is_none(), "{status}");
}

#[test]
fn sigint_while_a_client_is_greeted_ends_it_all_the_same() {
    let (let_in, may_enter) = sync_channel(2);
    let may_enter = Mutex::new(may_enter);
    let server = FakeServer::start(move |mut caller: Caller| {
        // The first client of a pool is greeted when its first backend is there.
        let told = may_enter.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PATIENCE);
        if told.is_ok() {
            caller.welcome();
            caller.serve();
        }
    });
    let [host, port] = server.database();
    let mut fixture = Fixture::start(|config| {
        config.database("fake", &[&host, &port]).general("default_pool_size = 2")
    });
    if matches!(Subject::current(), Subject::Postgres) {
        return;
    }
    let login = |messages: &[Bytes]| {
        let mut client = fixture.proxy.tcp().open();
        client.send(&[startup(PROTOCOL_3_0, &[("user", "postgres"), ("database", "fake")])]);
        client.send(messages);
        client
    };
    let mut silent = login(&[]);
    let mut eager = login(&[query("select 1")]);
    poll("they wait for their greeting", || server.connections() == 2);
    fixture.proxy.signal("INT");
    assert!(silent.reply_within(Duration::from_millis(300)).is_none(), "nothing can be said yet");
    assert!(fixture.proxy.is_running());
    for _ in 0..2 {
        let_in.send(()).expect("the server waits for it");
    }
    assert_eq!(silent.until_end().last(), "EOF");
    // What was sent with the login may be served, or not: but nobody is left hanging.
    assert_eq!(eager.until_end().last(), "EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}

#[test]
fn signals_are_heard_while_the_house_is_full_of_stalled_logins() {
    let mut fixture = Fixture::start(|config| config.general("client_login_timeout = 600"));
    let mut inside = fixture.connect();
    // More than are led in at a time: the last ones are not even accepted.
    let stalled: Vec<_> = (0..4200).filter_map(|_| fixture.proxy.tcp().try_open().ok()).collect();
    assert!(stalled.len() > 4096, "{} clients could connect", stalled.len());
    let before = fixture.proxy.log().len();
    fixture.proxy.signal("HUP");
    poll("it reads its settings", || fixture.proxy.log()[before..].contains("reloaded"));
    assert_eq!(inside.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    fixture.proxy.signal("INT");
    assert_eq!(inside.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}
