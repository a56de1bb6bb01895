//! Points D of the acceptance list: cancel requests.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::support::{
    EndsWith, fixture::Fixture, let_pass, login::Login, message::*, poll, wire::Client,
};

#[test]
fn d33_keys_are_random_and_not_the_servers() {
    let fixture = Fixture::transaction();
    let mut keys = Vec::new();
    for _ in 0..8 {
        let mut client = fixture.connect();
        assert_ne!(client.backend_pid(), client.key.0.to_string());
        assert!(client.key.0.cast_signed() >= 0, "{:?}", client.key);
        keys.push(client.key);
    }
    keys.sort_unstable();
    keys.dedup_by_key(|key| key.1);
    assert_eq!(keys.len(), 8, "{keys:?}");
}

#[test]
fn d33_in_session_mode_the_key_names_the_server_process() {
    for workers in [1, 3] {
        let fixture = Fixture::start(|config| {
            config
                .general("pool_mode = \"session\"")
                .general("default_pool_size = 4")
                .general(&format!("workers = {workers}"))
        });
        let mut clients: Vec<_> = (0..4).map(|_| fixture.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.backend_pid(), client.key.0.to_string());
            client.send(&[query("select pg_sleep(600)")]);
        }
        let running = || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                       AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
            fixture.observer().value(sql)
        };
        poll("they run", || running() == "4");
        // The secret is ours: the server does not know it, and nobody may guess.
        let (pid, secret) = clients[0].key;
        fixture.cluster.tcp().cancel((pid, secret));
        fixture.proxy.tcp().cancel((pid, !secret));
        fixture.proxy.tcp().cancel((clients[1].key.0, secret));
        assert_eq!(running(), "4");
        for client in &mut clients {
            fixture.proxy.tcp().cancel(client.key);
            assert_eq!(client.ready(1), "T | E 57014 | Z I");
        }
        // Whoever has the process next has another secret.
        drop(clients.pop());
        let mut next = fixture.connect();
        assert_eq!(next.backend_pid(), next.key.0.to_string());
    }
}

#[test]
fn d33_in_session_mode_a_login_waits_for_its_process() {
    let fixture = Fixture::session();
    let first = fixture.connect();
    let mut second = fixture.login().begin(&fixture.proxy.tcp());
    second.assert_quiet();
    drop(first);
    assert_eq!(second.until(b'Z').last(), "Z I");
    assert_eq!(second.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn d34_cancel_ends_the_query_and_nothing_else() {
    for mode in ["session", "transaction", "statement"] {
        let fixture = Fixture::start(|config| config.general(&format!("pool_mode = \"{mode}\"")));
        for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
            let mut a = fixture.connect();
            a.send(&[query("select pg_sleep(600)")]);
            poll("the query runs", || fixture.is_running("pg_sleep"));
            address.cancel(a.key);
            assert_eq!(a.ready(1), "T | E 57014 | Z I");
            assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
    }
}

#[test]
fn d34_cancel_in_a_transaction_fails_it() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    a.send(&[
        parse("", "select pg_sleep(600)"),
        bind("", ""),
        execute(""),
        sync(),
        query("select 1"),
    ]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    fixture.proxy.tcp().cancel(a.key);
    assert_eq!(a.ready(2), "1 | 2 | E 57014 | Z E | E 25P02 | Z E");
    assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
}

#[test]
fn d34_cancel_ends_a_query_whose_statement_is_prepared_in_front_of_it() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 1"));
    let mut client = fixture.connect();
    for round in 0..3 {
        client.run(&[parse("sleep", "select pg_sleep(600)"), sync()]);
        client.run(&[parse("other", "select 1"), sync()]);
        // The server has forgotten the first, and keeps to itself that it is prepared again.
        client.send(&[bind("", "sleep"), execute(""), sync()]);
        poll("the query runs", || fixture.is_running("pg_sleep"));
        fixture.proxy.tcp().cancel(client.key);
        assert_eq!(client.ready(1), "2 | E 57014 | Z I", "round {round}");
        client.run(&[close_statement("sleep"), close_statement("other"), sync()]);
    }
}

#[test]
fn d34_cancel_with_an_idle_or_unknown_key_is_closed_silently() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    b.send(&[query("select pg_sleep(1)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    let (pid, secret) = b.key;
    for key in [a.key, (pid, secret ^ 1), (pid ^ 1, secret), (0, 0), (u32::MAX, u32::MAX)] {
        fixture.proxy.tcp().cancel(key);
    }
    assert_eq!(b.ready(1), "T | D  | C SELECT 1 | Z I");
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn d34_malformed_cancel_requests_are_closed() {
    let fixture = Fixture::transaction();
    for body in [&b""[..], b"1234", b"12345678x", &[0; 300]] {
        let mut client = fixture.proxy.tcp().open();
        client.send(&[untagged(CANCEL_REQUEST, body)]);
        assert_eq!(client.until_end().last(), "EOF");
    }
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn d34_cancel_never_reaches_another_client() {
    for workers in [1, 2] {
        let fixture = Fixture::start(|config| config.general(&format!("workers = {workers}")));
        let mut victim = fixture.connect();
        let key = victim.key;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _end = EndsWith(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fixture.proxy.tcp().cancel(key);
                }
            });
            let bystanders: Vec<_> = (0..3)
                .map(|_| {
                    let mut client = fixture.connect();
                    scope.spawn(move || sleep_again_and_again(&mut client))
                })
                .collect();
            let cancelled = sleep_again_and_again(&mut victim);
            for bystander in bystanders {
                assert_eq!(
                    bystander.join().expect("it is served"),
                    0,
                    "the wrong one was cancelled"
                );
            }
            assert!(cancelled > 0, "no cancel ever arrived");
        });
    }
}

/// Runs short queries for a while; how many of them were cancelled.
fn sleep_again_and_again(client: &mut Client) -> u32 {
    let (started, mut cancelled) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(3) {
        match client.query("select pg_sleep(0.002)").to_string().as_str() {
            "T | D  | C SELECT 1 | Z I" => {}
            // Before, while and after it runs.
            "E 57014 | Z I" | "T | E 57014 | Z I" | "T | D  | E 57014 | Z I" => cancelled += 1,
            other => panic!("{other}"),
        }
    }
    cancelled
}

#[test]
fn d34_cancel_after_the_release_is_dropped() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    b.send(&[query("select pg_sleep(1.5)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    for _ in 0..20 {
        fixture.proxy.tcp().cancel(a.key);
    }
    assert_eq!(b.ready(1), "T | D  | C SELECT 1 | Z I");
}

#[test]
fn d34_a_hundred_cancels_at_once_do_no_harm() {
    let fixture = Fixture::transaction();
    for _ in 0..3 {
        let mut a = fixture.connect();
        a.send(&[query("select pg_sleep(600)")]);
        poll("the query runs", || fixture.is_running("pg_sleep"));
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| fixture.proxy.tcp().cancel(a.key));
            }
        });
        // It may be cancelled while it is planned, too.
        let answer = a.ready(1).to_string();
        assert!(["T | E 57014 | Z I", "E 57014 | Z I"].contains(&&*answer), "{answer}");
        let mut b = fixture.connect();
        for _ in 0..20 {
            assert_eq!(b.query("select pg_sleep(0.001)"), "T | D  | C SELECT 1 | Z I");
        }
    }
}

#[test]
fn d35_cancel_of_a_waiting_client_ends_its_wait() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[query("select 'b'")]);
    b.assert_quiet();
    fixture.proxy.tcp().cancel(b.key);
    assert_eq!(b.ready(1), "E 57014 | Z I");
    b.send(&[parse("s", "select 1"), bind("", "s"), execute(""), sync()]);
    b.assert_quiet();
    fixture.proxy.tcp().cancel(b.key);
    assert_eq!(b.ready(1), "E 57014 | Z I");
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    // The cancelled Parse has left nothing behind.
    assert_eq!(b.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
    assert_eq!(b.query("select 'b'"), "T | D b | C SELECT 1 | Z I");
}

#[test]
fn d36_cancels_need_no_free_place() {
    let fixture = Fixture::start(|config| {
        config
            .general("max_client_conn = 2")
            .general("max_db_connections = 1")
            .general("max_user_connections = 1")
    });
    let (mut a, _b) = (fixture.connect(), fixture.connect());
    let refused = fixture.login().connect(&fixture.proxy.tcp()).err().expect("the proxy is full");
    assert_eq!(refused[0].sqlstate(), "53300");
    a.send(&[query("select pg_sleep(600)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    fixture.proxy.tcp().cancel(a.key);
    assert_eq!(a.ready(1), "T | E 57014 | Z I");
}

#[test]
fn d36_cancels_pass_a_storm_of_logins() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    a.send(&[query("select pg_sleep(600)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    let stalled: Vec<_> = (0..200).map(|_| fixture.proxy.tcp().open()).collect();
    fixture.proxy.tcp().cancel(a.key);
    assert_eq!(a.ready(1), "T | E 57014 | Z I");
    drop(stalled);
}

#[test]
fn d38_cancel_never_hits_what_the_proxy_runs_itself() {
    let fixture = Fixture::transaction();
    let login = |name: &str| {
        let login = Login::new("postgres", &fixture.database).parameter("application_name", name);
        login.connect(&fixture.proxy.tcp()).expect("trusted")
    };
    // Differing parameters make the proxy restore them at every change of the client.
    let (mut a, mut b) = (login("a"), login("b"));
    let key = a.key;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = EndsWith(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fixture.proxy.tcp().cancel(key);
            }
        });
        scope.spawn(|| {
            for _ in 0..300 {
                let answers = b.query("show application_name");
                assert_eq!(answers, "T | D b | C SHOW | Z I");
            }
        });
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            let answers = a.query("show application_name");
            match answers.to_string().as_str() {
                "T | D a | C SHOW | Z I" | "E 57014 | Z I" | "T | E 57014 | Z I" => {}
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
fn d38_cancel_during_the_reset_spares_the_next_client() {
    let fixture = Fixture::start(|config| {
        let reset = "server_reset_query = \"select pg_sleep(0.2); discard all\"";
        config.general("pool_mode = \"session\"").general(reset)
    });
    for _ in 0..5 {
        let mut a = fixture.connect();
        a.query("set search_path = nowhere");
        let key = a.key;
        drop(a);
        for _ in 0..10 {
            fixture.proxy.tcp().cancel(key);
            let_pass(Duration::from_millis(5));
        }
        let mut b = fixture.connect();
        assert_eq!(b.value("show search_path"), "\"$user\", public");
    }
}
