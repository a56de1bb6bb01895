//! Point B 25 and the other clocks that run on clients.

use std::time::{Duration, Instant};

use crate::support::{PATIENCE, fixture::Fixture, let_pass, login::Login, message::*, poll};

#[test]
fn b25_idle_transaction_timeout_counts_from_the_last_answer() {
    let fixture = Fixture::start(|config| config.general("idle_transaction_timeout = 1"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    // Neither a busy transaction nor a long statement is idle.
    for _ in 0..5 {
        let_pass(Duration::from_millis(300));
        assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    }
    assert_eq!(a.query("select pg_sleep(2.5)"), "T | D  | C SELECT 1 | Z T");
    b.send(&[query("select 1")]);
    assert_eq!(a.until_end(), "E FATAL 25P03 | EOF");
    assert_eq!(b.ready(1), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn b25_idle_transaction_timeout_spares_idle_sessions() {
    let fixture = Fixture::start(|config| {
        config.general("idle_transaction_timeout = \"300ms\"").general("pool_mode = \"session\"")
    });
    let mut a = fixture.connect();
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    let_pass(Duration::from_millis(1500));
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn b25_query_timeout_ends_a_running_query() {
    let fixture = Fixture::start(|config| config.general("query_timeout = 1"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.send(&[query("select pg_sleep(600)")]);
    poll("the query runs", || fixture.is_running("pg_sleep"));
    b.send(&[query("select 1")]);
    let answers = a.until(b'E');
    assert!(["E 57014", "E FATAL 57014"].contains(&answers.last()), "{answers}");
    poll("the query is cancelled", || !fixture.is_running("pg_sleep"));
    assert_eq!(b.ready(1), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn b25_query_timeout_spares_idle_transactions() {
    let fixture = Fixture::start(|config| config.general("query_timeout = 1"));
    let mut a = fixture.connect();
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    let_pass(Duration::from_millis(2500));
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
}

#[test]
fn b25_transaction_timeout_counts_from_the_first_message() {
    let fixture = Fixture::start(|config| config.general("transaction_timeout = 1"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    // Many short transactions are none of its business.
    for _ in 0..8 {
        let_pass(Duration::from_millis(200));
        assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
    let started = Instant::now();
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[query("select 1")]);
    let ended = loop {
        if let Some(reply) = a.reply_within(Duration::from_millis(200)) {
            break reply;
        }
        let answers = a.query("select 1");
        if answers != "T | D 1 | C SELECT 1 | Z T" {
            assert_eq!(answers, "E FATAL 25P04 | EOF");
            assert!(started.elapsed() >= Duration::from_millis(900));
            assert_eq!(b.ready(1), "T | D 1 | C SELECT 1 | Z I");
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "never timed out");
    };
    assert_eq!(ended.to_string(), "E FATAL 25P04");
    assert!(started.elapsed() >= Duration::from_millis(900));
    assert_eq!(b.ready(1), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn b25_transaction_timeout_ends_a_running_statement() {
    let fixture = Fixture::start(|config| config.general("transaction_timeout = 1"));
    let mut a = fixture.connect();
    a.send(&[query("begin"), query("select pg_sleep(600)")]);
    let answers = a.until_end();
    assert!(answers.contains(&"E FATAL 25P04".to_owned()), "{answers:?}");
    poll("the statement is cancelled", || !fixture.is_running("pg_sleep"));
}

#[test]
fn b25_timeouts_of_a_user_win() {
    let fixture = Fixture::start(|config| {
        config
            .general("idle_transaction_timeout = 600")
            .user("dave", &["idle_transaction_timeout = \"500ms\""])
    });
    let dave = Login::new("dave", &fixture.database);
    let mut a = dave.connect(&fixture.proxy.tcp()).expect("trusted");
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    assert_eq!(a.until_end(), "E FATAL 25P03 | EOF");
}

#[test]
fn client_idle_timeout_closes_idle_clients() {
    let fixture = Fixture::start(|config| config.general("client_idle_timeout = 1"));
    let (mut idle, mut busy) = (fixture.connect(), fixture.connect());
    for _ in 0..5 {
        let_pass(Duration::from_millis(400));
        assert_eq!(busy.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
    assert_eq!(busy.query("select pg_sleep(2.5)"), "T | D  | C SELECT 1 | Z I");
    assert_eq!(idle.until_end(), "E FATAL 57P05 | EOF");
    assert_eq!(busy.until_end(), "E FATAL 57P05 | EOF");
}

#[test]
fn query_wait_timeout_ends_the_wait() {
    let fixture = Fixture::start(|config| config.general("query_wait_timeout = 1"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    let started = Instant::now();
    b.send(&[query("select 1")]);
    let answers = b.until(b'E');
    assert!(["E 53300", "E FATAL 53300"].contains(&answers.last()), "{answers}");
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    // Who holds the backend has nothing to fear.
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn client_login_timeout_ends_stalled_logins() {
    let fixture = Fixture::start(|config| config.general("client_login_timeout = 1"));
    let mut silent = fixture.proxy.tcp().open();
    let mut half = fixture.proxy.tcp().open();
    half.send(&[startup(PROTOCOL_3_0, &[("user", "postgres")])[..9].to_vec()]);
    for client in [&mut silent, &mut half] {
        assert_eq!(client.until_end().last(), "EOF");
    }
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn client_login_timeout_counts_from_the_first_byte_however_slowly_the_others_come() {
    let fixture = Fixture::start(|config| {
        config
            .general("client_login_timeout = 1")
            .general("auth_type = \"scram-sha-256\"")
            .user("alice", &["password = \"alice-pw\""])
    });
    let greeting = startup(PROTOCOL_3_0, &[("user", "alice"), ("database", &fixture.database)]);
    // A name of this length takes longer than the test has patience for.
    let endless = startup(PROTOCOL_3_0, &[("user", &"x".repeat(9_000))]);
    let first = message(b'p', &[&b"SCRAM-SHA-256\0"[..], &[0; 4], &b"n,,n=,r=x"[..]].concat());
    for (stage, at_once, slowly) in [
        ("the startup packet", &b""[..], &endless),
        ("the first SCRAM message", &greeting[..], &first),
    ] {
        let mut slow = fixture.proxy.tcp().open();
        slow.send(&[at_once.to_vec()]);
        let started = Instant::now();
        let mut bytes = slowly.iter().cycle();
        // Each byte is a sign of life; together they are no login.
        while slow.try_send(&[*bytes.next().expect("it is a circle")]).is_ok() {
            assert!(started.elapsed() < PATIENCE, "still in its login at {stage}");
            let_pass(Duration::from_millis(50));
        }
        assert!(started.elapsed() >= Duration::from_millis(900), "{stage}: too soon");
        let alice = Login::new("alice", &fixture.database).password("alice-pw");
        let mut other = alice.connect(&fixture.proxy.tcp()).expect("the password is right");
        assert_eq!(other.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}
