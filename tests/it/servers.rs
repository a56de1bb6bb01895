//! Points C, D, E and G that need a server to do what PostgreSQL does too seldom.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, Instant},
};

use crate::support::{
    PATIENCE,
    cluster::Cluster,
    config::Config,
    fake::{Caller, FakeServer, parameter, ready, report, row},
    fixture::Fixture,
    let_pass,
    login::Login,
    message::*,
    poll,
    proxy::{Proxy, Subject},
    wire::Client,
};

/// A proxy in front of a fake server; nothing if PostgreSQL itself is under test.
fn front(server: &FakeServer, configure: impl FnOnce(Config) -> Config) -> Option<Proxy> {
    if matches!(Subject::current(), Subject::Postgres) {
        return None;
    }
    let cluster = Cluster::shared();
    let [host, port] = server.database();
    let config = Fixture::config(cluster, "t1").database("fake", &[&host, &port]);
    Some(Proxy::start(cluster, configure(config)))
}

fn connect(proxy: &Proxy) -> Client {
    Login::new("postgres", "fake").connect(&proxy.tcp()).expect("trusted")
}

const SERVED: &str = "D served | C SELECT 1 | Z I";

/// After its first answer, the server says something unasked; then it serves on, if it is let.
fn says_unasked(unasked: Bytes) -> FakeServer {
    FakeServer::start(move |mut caller: Caller| {
        caller.welcome();
        if caller.query().is_some() {
            caller.answer("served");
            if caller.number == 0 {
                let_pass(Duration::from_millis(100));
                caller.send(std::slice::from_ref(&unasked));
            }
        }
        caller.serve();
    })
}

#[test]
fn e41_harmless_words_to_an_idle_backend_are_dropped() {
    for unasked in [
        report(b'N', "NOTICE", "00000"),
        parameter("in_hot_standby", "off"),
        message(b'A', &[&7_u32.to_be_bytes()[..], &cstr("news"), &cstr("for nobody")].concat()),
    ] {
        let server = says_unasked(unasked);
        let Some(proxy) = front(&server, |config| config) else { return };
        let (mut a, mut b) = (connect(&proxy), connect(&proxy));
        assert_eq!(a.query("select 1"), SERVED);
        let_pass(Duration::from_millis(300));
        b.assert_quiet();
        for client in [&mut b, &mut a] {
            let answers = client.query("select 1").to_string();
            // Nobody listens, and nobody has asked.
            assert!(!answers.contains("A news") && !answers.contains("N 00000"), "{answers}");
            assert!(answers.ends_with(SERVED), "{answers}");
        }
    }
}

#[test]
fn e41_other_words_to_an_idle_backend_retire_it() {
    for unasked in [
        report(b'E', "FATAL", "57P01"),
        report(b'E', "ERROR", "XX000"),
        row("for nobody"),
        ready(b'T'),
        b"?!".to_vec(),
        vec![b'D', 0xff, 0xff, 0xff, 0xff],
    ] {
        eprintln!("unasked: {}", unasked.escape_ascii());
        let server = says_unasked(unasked);
        let Some(proxy) = front(&server, |config| config) else { return };
        let (mut a, mut b) = (connect(&proxy), connect(&proxy));
        assert_eq!(a.query("select 1"), SERVED);
        let_pass(Duration::from_millis(300));
        for client in [&mut b, &mut a] {
            client.assert_quiet();
            assert_eq!(client.query("select 1"), SERVED);
        }
        assert!(server.connections() >= 2, "the first connection was used again");
    }
}

#[test]
fn e42_nonsense_of_a_server_ends_only_its_own_client() {
    for nonsense in [
        vec![b'D', 0, 0, 0, 3],
        vec![b'D', 0xff, 0xff, 0xff, 0xff],
        message(b'?', b"what"),
        message(b'Z', b""),
        message(b'R', &3_u32.to_be_bytes()),
        // Half a message, then the end.
        row("cut")[..7].to_vec(),
    ] {
        let server = FakeServer::start(move |mut caller: Caller| {
            caller.welcome();
            if caller.number == 0 && caller.query().is_some() {
                caller.send(std::slice::from_ref(&nonsense));
                return;
            }
            caller.serve();
        });
        let Some(proxy) = front(&server, |config| config) else { return };
        let (mut a, mut b) = (connect(&proxy), connect(&proxy));
        a.send(&[query("select 1")]);
        let mut last = None;
        while let Some(byte) = a.byte() {
            last = Some(byte);
        }
        assert!(last.is_some(), "something must be said");
        assert_eq!(b.query("select 1"), SERVED);
        assert_eq!(connect(&proxy).query("select 1"), SERVED);
    }
}

#[test]
fn b21_server_that_goes_without_a_word_is_reported() {
    let server = FakeServer::start(|mut caller: Caller| {
        caller.welcome();
        if caller.number == 0 && caller.query().is_some() {
            caller.send(&[row("half")]);
            return;
        }
        caller.serve();
    });
    let Some(proxy) = front(&server, |config| config) else { return };
    let mut a = connect(&proxy);
    a.send(&[query("select 1")]);
    assert_eq!(a.until_end(), "D half | E FATAL 08006 | EOF");
    assert_eq!(connect(&proxy).query("select 1"), SERVED);
}

#[test]
fn g50_server_that_is_not_ready_yet_is_tried_again() {
    let server = FakeServer::start(|mut caller: Caller| {
        if caller.number < 2 {
            caller.send(&[report(b'E', "FATAL", "57P03")]);
            return;
        }
        caller.welcome();
        caller.serve();
    });
    let Some(proxy) = front(&server, |config| config.general("server_login_retry = 1")) else {
        return;
    };
    let answer = Login::new("postgres", "fake")
        .connect(&proxy.tcp())
        .map(|mut client| client.query("select 1").to_string());
    assert_eq!(answer.expect("it waits until the server is ready"), SERVED);
}

#[test]
fn g50_last_word_of_the_server_is_passed_on() {
    for (sqlstate, severity) in [("53300", "FATAL"), ("28000", "FATAL"), ("XX002", "PANIC")] {
        let server = FakeServer::start(move |mut caller: Caller| {
            caller.send(&[report(b'E', severity, sqlstate)]);
        });
        let Some(proxy) = front(&server, |config| config) else { return };
        let said = match Login::new("postgres", "fake").connect(&proxy.tcp()) {
            Ok(mut client) => client.query("select 1").to_string(),
            Err(said) => format!("{said:?}"),
        };
        assert!(said.contains(sqlstate), "{said}");
    }
}

#[test]
fn g51_unknown_kinds_of_login_fail_fast() {
    // GSSAPI, SSPI, SASL without a mechanism we know, and nonsense.
    let unknown = [
        7_u32.to_be_bytes().to_vec(),
        9_u32.to_be_bytes().to_vec(),
        [&10_u32.to_be_bytes()[..], b"UNHEARD-OF\0\0"].concat(),
        vec![0, 0],
    ];
    for request in unknown {
        let server = FakeServer::start(move |mut caller: Caller| {
            caller.send(&[message(b'R', &request)]);
            let_pass(Duration::from_secs(1));
        });
        let Some(proxy) = front(&server, |config| config) else { return };
        let started = Instant::now();
        let said = match Login::new("postgres", "fake").connect(&proxy.tcp()) {
            Ok(mut client) => client.query("select 1").to_string(),
            Err(said) => format!("{said:?}"),
        };
        assert!(said.contains('E') && !said.contains("served"), "{said}");
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    }
}

#[test]
fn g52_slow_logins_run_side_by_side() {
    let server = FakeServer::start(|mut caller: Caller| {
        let_pass(Duration::from_millis(500));
        caller.welcome();
        while caller.query().is_some() {
            caller.send(&[row("served"), ready(b'T')]);
        }
    });
    let Some(proxy) = front(&server, |config| config.general("default_pool_size = 10")) else {
        return;
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(connect(&proxy).query("begin"), "D served | Z T"));
        }
    });
    // One after the other, it would take five seconds.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn d34_backend_is_not_given_on_while_its_cancel_is_under_way() {
    let cancelling = Arc::new(AtomicBool::new(false));
    let early = Arc::new(AtomicU32::new(0));
    let server = FakeServer::start({
        let (cancelling, early) = (Arc::clone(&cancelling), Arc::clone(&early));
        move |mut caller: Caller| {
            if caller.is_cancel {
                cancelling.store(true, Ordering::SeqCst);
                let_pass(Duration::from_secs(1));
                cancelling.store(false, Ordering::SeqCst);
                return;
            }
            caller.welcome();
            while let Some(sql) = caller.query() {
                if sql == "wait for the cancel" {
                    // The query ends before the server has dealt with the cancel request.
                    poll("the cancel arrives", || cancelling.load(Ordering::SeqCst));
                } else if cancelling.load(Ordering::SeqCst) {
                    early.fetch_add(1, Ordering::SeqCst);
                }
                caller.answer("served");
            }
        }
    });
    let Some(proxy) = front(&server, |config| config) else { return };
    let (mut a, mut b) = (connect(&proxy), connect(&proxy));
    a.send(&[query("wait for the cancel")]);
    poll("it runs", || server.connections() == 1);
    let_pass(Duration::from_millis(100));
    proxy.tcp().cancel(a.key);
    assert_eq!(a.ready(1), SERVED);
    assert_eq!(b.query("select 1"), SERVED);
    assert_eq!(early.load(Ordering::SeqCst), 0, "another client's query could have been cancelled");
}

#[test]
fn d36_cancel_that_hangs_is_given_up() {
    let (tell, told) = sync_channel(1);
    let server = FakeServer::start(move |mut caller: Caller| {
        if caller.is_cancel {
            let _ = tell.send(());
            let_pass(Duration::from_secs(20));
            return;
        }
        caller.welcome();
        while let Some(sql) = caller.query() {
            if sql == "wait" {
                let_pass(Duration::from_secs(1));
            }
            caller.answer("served");
        }
    });
    let Some(proxy) = front(&server, |config| config.general("cancel_wait_timeout = 1")) else {
        return;
    };
    let (mut a, mut b) = (connect(&proxy), connect(&proxy));
    a.send(&[query("wait")]);
    poll("it runs", || server.connections() == 1);
    let_pass(Duration::from_millis(100));
    proxy.tcp().cancel(a.key);
    told.recv_timeout(PATIENCE).expect("the cancel arrives");
    assert_eq!(a.ready(1), SERVED);
    assert_eq!(b.query("select 1"), SERVED);
}

#[test]
fn b20_client_that_goes_is_cancelled_with_the_servers_key() {
    let (tell, told) = sync_channel(8);
    let server = FakeServer::start(move |mut caller: Caller| {
        if caller.is_cancel {
            let _ = tell.send(());
            return;
        }
        caller.welcome();
        if caller.query().is_some() {
            caller.query();
        }
    });
    let Some(proxy) = front(&server, |config| config) else { return };
    let mut a = connect(&proxy);
    a.send(&[query("select forever")]);
    poll("it runs", || server.connections() == 1);
    let_pass(Duration::from_millis(100));
    drop(a);
    told.recv_timeout(PATIENCE).expect("the query is cancelled");
}

#[test]
fn c26_parameters_the_server_does_not_report_are_left_alone() {
    let server = FakeServer::start(|mut caller: Caller| {
        caller.welcome();
        while let Some(sql) = caller.query() {
            caller.answer(&sql);
        }
    });
    let Some(proxy) = front(&server, |config| config) else { return };
    // This server reports no IntervalStyle: a client that asks for one must be told, or served without a lie.
    let login = Login::new("postgres", "fake").parameter("IntervalStyle", "iso_8601");
    match login.connect(&proxy.tcp()) {
        Ok(mut client) => {
            let answers = client.query("select 1").to_string();
            assert!(answers.contains("D select 1"), "{answers}");
        }
        Err(said) => assert!(format!("{said:?}").contains("E S"), "{said:?}"),
    }
    assert_eq!(connect(&proxy).query("select 2"), "D select 2 | C SELECT 1 | Z I");
}

#[test]
fn d34_backend_of_a_cancel_that_may_come_late_goes_to_nobody_else() {
    let served_by = Arc::new(Mutex::new(Vec::new()));
    let (tell, told) = sync_channel(1);
    let server = FakeServer::start({
        let served_by = Arc::clone(&served_by);
        move |mut caller: Caller| {
            if caller.is_cancel {
                // Taken, and not acted on yet: nobody knows when it will be.
                let _ = tell.send(());
                let_pass(Duration::from_secs(20));
                return;
            }
            caller.welcome();
            while let Some(sql) = caller.query() {
                let mut served_by = served_by.lock().unwrap_or_else(PoisonError::into_inner);
                served_by.push((sql.clone(), caller.number));
                drop(served_by);
                if sql == "wait" {
                    let_pass(Duration::from_secs(1));
                }
                caller.answer("served");
            }
        }
    });
    for kept_for_a_transaction in [false, true] {
        let configure = |config: Config| config.general("cancel_wait_timeout = \"500ms\"");
        let Some(proxy) = front(&server, configure) else { return };
        let (mut a, mut b) = (connect(&proxy), connect(&proxy));
        let by = |sql: &str| {
            let served_by = served_by.lock().unwrap_or_else(PoisonError::into_inner);
            served_by.iter().rev().find(|(asked, _)| asked == sql).map(|(_, number)| *number)
        };
        served_by.lock().unwrap_or_else(PoisonError::into_inner).clear();
        a.send(&[query("wait")]);
        if kept_for_a_transaction {
            // The lease outlives the request that failed.
            a.send(&[query("wait"), query("wait")]);
        }
        poll("it runs", || by("wait").is_some());
        proxy.tcp().cancel(a.key);
        told.recv_timeout(PATIENCE).expect("the cancel arrives");
        for _ in 0..if kept_for_a_transaction { 3 } else { 1 } {
            assert_eq!(a.ready(1), SERVED);
        }
        assert_eq!(b.query("another client's"), SERVED);
        assert_ne!(by("another client's"), by("wait"), "the cancel request may hit it yet");
    }
}

#[test]
fn c29_server_that_never_says_what_it_makes_of_a_parameter_is_given_up() {
    let server = FakeServer::start(|mut caller: Caller| {
        caller.welcome();
        while let Some(sql) = caller.query() {
            if sql.contains("hang") {
                // Says nothing, and stays.
                caller.query();
                return;
            }
            caller.answer("served");
        }
    });
    let configure = |config: Config| config.general("server_connect_timeout = 1");
    let Some(proxy) = front(&server, configure) else { return };
    // One backend, and it hangs: the next one is opened for whoever waits.
    let hanging = Login::new("postgres", "fake").parameter("application_name", "hang");
    let address = proxy.tcp();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let said = hanging.connect(&address).err().expect("nobody knows whether it may");
                let said: Vec<_> = said.iter().map(ToString::to_string).collect();
                assert_eq!(said[said.len() - 2..], ["E FATAL 08006", "EOF"], "{said:?}");
            });
        }
        let mut other = connect(&proxy);
        for _ in 0..3 {
            assert_eq!(other.query("select 1"), SERVED);
        }
    });
    assert_eq!(connect(&proxy).query("select 1"), SERVED);
}
