//! Signals: draining, leaving at once, reading the settings again.

use std::{os::unix::process::ExitStatusExt, time::Instant};

use crate::support::{PATIENCE, fixture::Fixture, message::*, poll};

#[test]
fn sigterm_lets_transactions_finish() {
    let mut fixture = Fixture::start(|config| config.general("default_pool_size = 3"));
    let (mut idle, mut open, mut busy) = (fixture.connect(), fixture.connect(), fixture.connect());
    fixture.observer().rows("create table t (x int)");
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(open.query("begin; insert into t values (1)").last(), "Z T");
    busy.send(&[query("insert into t select 2 from pg_sleep(1)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    fixture.proxy.signal("TERM");
    assert_eq!(idle.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(busy.until_end(), "C INSERT 0 1 | Z I | E FATAL 57P01 | EOF");
    assert!(fixture.proxy.is_running());
    // Nobody new is let in.
    let late = fixture.login().connect(&fixture.proxy.tcp());
    assert!(late.is_err(), "a login during the shutdown");
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

#[test]
fn sigterm_lets_copies_and_pipelines_finish() {
    let mut fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    fixture.observer().rows("create table t (x int)");
    let (mut copy, mut pipeline) = (fixture.connect(), fixture.connect());
    copy.send(&[query("copy t from stdin"), copy_data("1\n")]);
    assert_eq!(copy.take(1), "G");
    pipeline.send(&[parse("", "insert into t values (2)"), bind("", ""), execute(""), flush()]);
    assert_eq!(pipeline.take(3), "1 | 2 | C INSERT 0 1");
    fixture.proxy.signal("TERM");
    copy.send(&[copy_data("3\n"), copy_done()]);
    assert_eq!(copy.until_end(), "C COPY 2 | Z I | E FATAL 57P01 | EOF");
    pipeline.send(&[sync()]);
    assert_eq!(pipeline.until_end(), "Z I | E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
    assert_eq!(fixture.observer().value("select count(*) from t"), "3");
}

#[test]
fn sigterm_ends_idle_sessions() {
    let mut fixture = Fixture::session();
    let mut idle = fixture.connect();
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    fixture.proxy.signal("TERM");
    assert_eq!(idle.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}

#[test]
fn sigterm_without_clients_ends_at_once() {
    let mut fixture = Fixture::transaction();
    fixture.proxy.signal("TERM");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
}

#[test]
fn sigterm_takes_the_sockets_away() {
    let mut fixture = Fixture::transaction();
    let (tcp, unix) = (fixture.proxy.tcp(), fixture.proxy.unix());
    assert!(unix.try_open().is_ok());
    fixture.proxy.signal("TERM");
    assert_eq!(fixture.proxy.wait().code(), Some(0));
    assert!(tcp.try_open().is_err());
    assert!(unix.try_open().is_err());
}

#[test]
fn second_sigterm_leaves_at_once() {
    let mut fixture = Fixture::transaction();
    let mut open = fixture.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    fixture.proxy.signal("TERM");
    open.assert_quiet();
    assert!(fixture.proxy.is_running());
    fixture.proxy.signal("TERM");
    let started = Instant::now();
    let status = fixture.proxy.wait();
    assert!(status.signal().is_none(), "{status}");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(open.until_end().last(), "EOF");
    poll("no backend is left", || fixture.backends() == 0);
}

#[test]
fn shutdown_timeout_bounds_the_wait() {
    let mut fixture = Fixture::start(|config| config.general("shutdown_timeout = 1"));
    let mut open = fixture.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    fixture.proxy.signal("TERM");
    fixture.proxy.wait();
    assert_eq!(open.until_end().last(), "EOF");
}

#[test]
fn sigint_and_sigquit_end_the_proxy() {
    for name in ["INT", "QUIT"] {
        let mut fixture = Fixture::transaction();
        let mut idle = fixture.connect();
        assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        fixture.proxy.signal(name);
        assert_eq!(idle.until_end().last(), "EOF");
        let status = fixture.proxy.wait();
        assert!(status.signal().is_none(), "SIG{name}: {status}");
    }
}

#[test]
fn sighup_takes_new_settings_without_losing_anybody() {
    let mut fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[query("begin")]);
    b.assert_quiet();
    fixture.proxy.reload(|config| config.general("default_pool_size = 2"));
    // The second backend is there for the one who already waits.
    assert_eq!(b.ready(1), "C BEGIN | Z T");
    assert_eq!(fixture.backends(), 2);
    for client in [&mut a, &mut b] {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
}

#[test]
fn sighup_adds_databases_and_users() {
    let mut fixture = Fixture::transaction();
    let connect = |fixture: &Fixture| {
        crate::support::login::Login::new("alice", "added").connect(&fixture.proxy.tcp())
    };
    assert!(connect(&fixture).is_err());
    let mut old = fixture.connect();
    let port = format!("port = {}", fixture.cluster.port());
    fixture.proxy.reload(|config| {
        config
            .database("added", &["host = \"127.0.0.1\"", &port, "dbname = \"t1\""])
            .user("alice", &["password = \"alice-pw\""])
    });
    poll("the new database is known", || connect(&fixture).is_ok());
    let mut new = connect(&fixture).expect("it was");
    assert_eq!(new.value("select current_user"), "alice");
    assert_eq!(old.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn sighup_with_a_broken_file_keeps_the_old_settings() {
    let mut fixture = Fixture::transaction();
    let mut a = fixture.connect();
    let before = fixture.proxy.log().len();
    fixture.proxy.reload(|config| config.extra("\n[general\nnonsense"));
    poll("the failure is logged", || fixture.proxy.log()[before..].lines().count() > 0);
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(fixture.connect().query("select 2"), "T | D 2 | C SELECT 1 | Z I");
    assert!(fixture.proxy.is_running());
}
