//! Points G of the acceptance list: who waits, for how long, and what a server that fails means for
//! them.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use crate::support::{
    PATIENCE,
    cluster::{Cluster, free_port},
    fixture::Fixture,
    login::Login,
    message::*,
    poll,
    proxy::Proxy,
    reply::Reply,
};

/// Something that names a server which fails, and the SQLSTATEs a client may hear for it.
fn failing(name: &str, lines: &[&str], user: &str) -> (Fixture, Login) {
    let fixture = Fixture::start(|config| {
        let port = format!("port = {}", Cluster::shared().port());
        config
            .database(name, &["host = \"127.0.0.1\"", &port])
            .database(name, lines)
            .user("single", &[])
            .user("lonely", &[])
            .user("locked", &[])
            .user("alice", &["password = \"wrong\""])
            .general("server_login_retry = 1")
    });
    let login = Login::new(user, name);
    (fixture, login)
}

/// Many clients at once: all are told the same, and soon.
fn assert_all_fail(fixture: &Fixture, login: &Login, sqlstates: &[&str]) {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let said = match login.connect(&fixture.proxy.tcp()) {
                    Ok(mut client) => {
                        client.send(&[query("select 1")]);
                        client.replies_until(|reply| [b'Z', 0].contains(&reply.tag()))
                    }
                    Err(said) => said,
                };
                let error = said.iter().find(|reply| reply.tag() == b'E');
                let state = error.map(Reply::sqlstate).unwrap_or_default();
                assert!(sqlstates.contains(&state.as_str()), "{said:?}");
            });
        }
    });
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

#[test]
fn g50_refusal_by_the_server_is_told_with_its_own_code() {
    for (lines, user, sqlstate) in [
        (&["dbname = \"missing\""][..], "postgres", "3D000"),
        (&["dbname = \"forbidden\""], "postgres", "28000"),
        (&["dbname = \"t1\""], "locked", "28000"),
        (&["dbname = \"t1\""], "alice", "28P01"),
    ] {
        let (fixture, login) = failing("app", lines, user);
        for _ in 0..2 {
            assert_all_fail(&fixture, &login, &[sqlstate]);
        }
        // Other pools are none the worse for it.
        assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn g50_refusal_spares_those_whom_another_backend_can_serve() {
    let (fixture, login) = failing("app", &["dbname = \"t1\"", "pool_size = 2"], "single");
    // The role may have one connection; the pool would like two.
    let mut a = login.connect(&fixture.proxy.tcp()).expect("trusted");
    let mut b = login.connect(&fixture.proxy.tcp()).expect("trusted");
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[query("select 'b'")]);
    b.assert_quiet();
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    assert_eq!(b.ready(1), "T | D b | C SELECT 1 | Z I");
}

#[test]
fn g50_too_many_connections_is_told_as_such() {
    let (fixture, login) = failing("app", &["dbname = \"t1\""], "lonely");
    let only = Login::new("lonely", "t1").connect(&fixture.cluster.tcp());
    let _only = only.expect("the first one");
    assert_all_fail(&fixture, &login, &["53300"]);
}

#[test]
fn g50_server_that_is_starting_up_is_waited_for() {
    let mut cluster = Cluster::start();
    let database = cluster.new_database();
    let config = Fixture::config(&cluster, &database).general("server_login_retry = 1");
    let proxy = Proxy::start(&cluster, config);
    let login = Login::new("postgres", &database);
    let attempt = || match login.connect(&proxy.tcp()) {
        Ok(mut client) => client.query("select 1"),
        Err(said) => said.into_iter().collect(),
    };
    cluster.crash();
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.restart());
        poll("clients are served again", || {
            let answers = attempt();
            assert!(!answers.to_string().contains("57P03"), "{answers}");
            answers == "T | D 1 | C SELECT 1 | Z I"
        });
    });
}

#[test]
fn g51_refused_connections_fail_fast() {
    let closed = format!("port = {}", free_port());
    let (fixture, login) = failing("app", &[&closed], "postgres");
    for _ in 0..2 {
        assert_all_fail(&fixture, &login, &["08001", "08006", "57P03"]);
    }
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn g51_missing_socket_and_unknown_host_fail_fast() {
    for host in ["host = \"/nonexistent\"", "host = \"does-not-exist.invalid\""] {
        let (fixture, login) = failing("app", &[host], "postgres");
        assert_all_fail(&fixture, &login, &["08001", "08006", "57P03"]);
    }
}

#[test]
fn g51_server_that_never_answers_fails_at_the_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = silent.local_addr().expect("bound").port();
    let fixture = Fixture::start(|config| {
        config
            .general("server_connect_timeout = 1")
            .database("silent", &["host = \"127.0.0.1\"", &format!("port = {port}")])
    });
    let login = Login::new("postgres", "silent");
    assert_all_fail(&fixture, &login, &["08001", "08006", "57P03"]);
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn g51_recovery_needs_no_restart() {
    let mut cluster = Cluster::start();
    let database = cluster.new_database();
    let config = Fixture::config(&cluster, &database).general("server_login_retry = 1");
    cluster.crash();
    let proxy = Proxy::start(&cluster, config);
    let login = Login::new("postgres", &database);
    let attempt = || match login.connect(&proxy.tcp()) {
        Ok(mut client) => client.query("select 1"),
        Err(said) => said.into_iter().collect(),
    };
    assert!(attempt().iter().any(|text| text.starts_with('E')), "the server is down");
    cluster.restart();
    poll("clients are served", || attempt() == "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn g52_a_failing_server_does_not_slow_down_another_pool() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = silent.local_addr().expect("bound").port();
    let fixture = Fixture::start(|config| {
        config.database("silent", &["host = \"127.0.0.1\"", &format!("port = {port}")])
    });
    let mut stuck: Vec<_> = (0..20).map(|_| fixture.proxy.tcp().open()).collect();
    for client in &mut stuck {
        let parameters = [("user", "postgres"), ("database", "silent")];
        client.send(&[startup(PROTOCOL_3_0, &parameters), query("select 1")]);
    }
    let started = Instant::now();
    for _ in 0..10 {
        assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn g52_backends_are_opened_side_by_side() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 8"));
    let mut clients: Vec<_> = (0..8).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client.send(&[query("begin")]);
    }
    for client in &mut clients {
        assert_eq!(client.ready(1), "C BEGIN | Z T");
    }
    assert_eq!(fixture.backends(), 8);
}

#[test]
fn waiters_are_served_in_the_order_of_their_arrival() {
    // Several workers take turns among each other.
    let fixture = Fixture::start(|config| config.general("workers = 1"));
    fixture.observer().rows("create sequence arrival");
    for _ in 0..3 {
        let mut holder = fixture.connect();
        assert_eq!(holder.query("begin"), "C BEGIN | Z T");
        let mut waiters: Vec<_> = (0..8).map(|_| fixture.connect()).collect();
        for waiter in &mut waiters {
            waiter.send(&[query("select nextval('arrival')")]);
            // The next one comes noticeably later.
            crate::support::let_pass(Duration::from_millis(30));
        }
        assert_eq!(holder.query("commit"), "C COMMIT | Z I");
        let served: Vec<u32> = waiters
            .iter_mut()
            .map(|waiter| waiter.ready(1)[1].trim_start_matches("D ").parse().expect("a number"))
            .collect();
        assert!(served.is_sorted(), "{served:?}");
    }
}

#[test]
fn a_waiter_that_leaves_holds_up_nobody() {
    let fixture = Fixture::transaction();
    let mut holder = fixture.connect();
    assert_eq!(holder.query("begin"), "C BEGIN | Z T");
    let mut waiters: Vec<_> = (0..6).map(|_| fixture.connect()).collect();
    for waiter in &mut waiters {
        waiter.send(&[query("select 1")]);
    }
    let mut rest: Vec<_> = waiters.into_iter().skip(3).collect();
    assert_eq!(holder.query("commit"), "C COMMIT | Z I");
    for waiter in &mut rest {
        assert_eq!(waiter.ready(1), "T | D 1 | C SELECT 1 | Z I");
    }
}
