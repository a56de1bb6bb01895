//! LISTEN in transaction mode: clients share one listener, and miss nothing.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::support::{
    EndsWith, config::Config, fixture::Fixture, let_pass, login::Login, message::*, poll,
    wire::Client,
};

/// A pool of one backend, and an administrator.
fn start(configure: impl FnOnce(Config) -> Config) -> Fixture {
    Fixture::start(|config| configure(config.general("admin_users = [\"postgres\"]")))
}

fn console(fixture: &Fixture) -> Client {
    Login::new("postgres", "pgtandem").connect(&fixture.proxy.tcp()).expect("everybody is trusted")
}

/// Connections of the proxy that listen, as PostgreSQL sees them.
fn listeners(fixture: &Fixture) -> Vec<String> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{}' \
         AND application_name = 'pgtandem listener'",
        fixture.database
    );
    fixture.observer().rows(&sql).into_iter().map(|row| row[0].clone()).collect()
}

/// How many channels the shared listener listens to.
fn shared(fixture: &Fixture) -> usize {
    let rows = console(fixture).rows("show listeners");
    rows.iter().map(|row| row[6].parse::<usize>().expect("a number")).sum()
}

/// How many clients keep a backend because they listen.
fn kept(fixture: &Fixture) -> usize {
    let clients = console(fixture).rows("show clients");
    clients.iter().filter(|row| row.iter().any(|column| column == "listen")).count()
}

/// Waits until nobody keeps a backend, and so many channels are listened to.
fn handed_over(fixture: &Fixture, channels: usize) {
    poll("the channels are handed over", || kept(fixture) == 0 && shared(fixture) == channels);
}

/// Notifies all of these channels, past the proxy.
fn notify(fixture: &Fixture, channels: &[&str]) {
    let mut observer = fixture.observer();
    for channel in channels {
        observer.rows(&format!("notify {channel}, 'hello'"));
    }
}

/// Proves that of these channels the client hears exactly those of `heard`.
fn hears(fixture: &Fixture, client: &mut Client, channels: &[&str], heard: &[&str]) {
    notify(fixture, channels);
    for channel in heard {
        assert_eq!(client.take(1), format!("A {channel} hello"));
    }
    client.assert_quiet();
}

#[test]
fn clients_that_listen_share_one_connection() {
    let fixture = start(|config| config);
    let mut clients: Vec<Client> = (0..20).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("listen news"), "C LISTEN | Z I");
    }
    // There is one backend, and everybody can have it.
    for client in &mut clients {
        assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
    assert_eq!(listeners(&fixture).len(), 1);
    assert_eq!(shared(&fixture), 1);
    let mut observer = fixture.observer();
    for number in 0..50 {
        observer.rows(&format!("notify news, 'number {number}'"));
    }
    for client in &mut clients {
        for number in 0..50 {
            assert_eq!(client.take(1), format!("A news number {number}"));
        }
    }
    for client in &mut clients {
        client.assert_quiet();
    }
    assert_eq!(fixture.backends(), 2);
    drop(clients);
    poll("nobody listens any more", || shared(&fixture) == 0);
}

#[test]
fn a_listener_is_told_between_its_transactions() {
    let fixture = start(|config| config.general("default_pool_size = 2"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("listen news"), "C LISTEN | Z I");
    handed_over(&fixture, 1);
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    assert_eq!(b.query("notify news, 'one'"), "C NOTIFY | Z I");
    assert_eq!(b.query("begin; notify news, 'two'; notify news, 'two'; notify news"), {
        "C BEGIN | C NOTIFY | C NOTIFY | C NOTIFY | Z T"
    });
    a.assert_quiet();
    assert_eq!(b.query("commit"), "C COMMIT | Z I");
    a.assert_quiet();
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    // PostgreSQL folds equal ones of a transaction.
    assert_eq!(a.take(3), "A news one | A news two | A news ");
    a.assert_quiet();
    // Its own come, too, and say which server process notified.
    assert_eq!(a.query("notify news, 'own'"), "C NOTIFY | Z I");
    assert_eq!(a.take(1), "A news own");
    // An open segment is no place to be told either.
    a.send(&[parse("", "select 1"), bind("", ""), execute(""), flush()]);
    assert_eq!(a.take(4), "1 | 2 | D 1 | C SELECT 1");
    notify(&fixture, &["news"]);
    a.assert_quiet();
    a.send(&[sync()]);
    assert_eq!(a.take(2), "Z I | A news hello");
}

#[test]
fn listen_holds_as_its_transaction_does() {
    let fixture = start(|config| config);
    let mut a = fixture.connect();
    a.query("begin; listen never");
    assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
    a.query("begin; savepoint s; listen never; rollback to s; listen saved; savepoint s");
    assert_eq!(
        a.query("listen released; release s; commit"),
        "C LISTEN | C RELEASE | C COMMIT | Z I"
    );
    a.query("begin; listen never");
    assert_eq!(a.query("select 1 / 0"), "E 22012 | Z E");
    assert_eq!(a.query("listen never"), "E 25P02 | Z E");
    assert_eq!(a.query("commit"), "C ROLLBACK | Z I");
    let answers = a.run(&[
        parse("", "listen never"),
        bind("", ""),
        execute(""),
        parse("", "select 1 / 0"),
        bind("", ""),
        execute(""),
        sync(),
    ]);
    assert_eq!(answers, "1 | 2 | C LISTEN | 1 | E 22012 | Z I");
    let answers = a.run(&[parse("l", "listen extended"), bind("", "l"), execute(""), sync()]);
    assert_eq!(answers, "1 | 2 | C LISTEN | Z I");
    a.query("do $$ begin listen hidden; end $$");
    handed_over(&fixture, 4);
    let all = ["never", "saved", "released", "extended", "hidden"];
    hears(&fixture, &mut a, &all, &all[1..]);
}

#[test]
fn unlisten_holds_as_its_transaction_does() {
    let fixture = start(|config| config);
    let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut a = fixture.connect();
    a.query(&all.map(|channel| format!("listen {channel}")).join("; "));
    handed_over(&fixture, all.len());
    hears(&fixture, &mut a, &all, &all);
    a.query("begin; select 1");
    assert_eq!(a.query("unlisten a"), "C UNLISTEN | Z T");
    assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
    hears(&fixture, &mut a, &all, &all);
    a.query("begin");
    a.query("savepoint s");
    assert_eq!(a.query("unlisten *"), "C UNLISTEN | Z T");
    a.query("rollback to s");
    assert_eq!(a.query("unlisten a"), "C UNLISTEN | Z T");
    assert_eq!(a.query("unlisten b"), "C UNLISTEN | Z T");
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    hears(&fixture, &mut a, &all, &all[2..]);
    // By itself, and as one of several statements outside a transaction.
    assert_eq!(a.query("unlisten c"), "C UNLISTEN | Z I");
    assert_eq!(a.query("begin; unlisten d; commit"), "C BEGIN | C UNLISTEN | C COMMIT | Z I");
    assert_eq!(a.query("begin; unlisten e; rollback"), "C BEGIN | C UNLISTEN | C ROLLBACK | Z I");
    hears(&fixture, &mut a, &all, &all[4..]);
    // By the extended protocol, by itself and in a transaction of one segment.
    let unlisten = |name: &str, channel: &str| {
        [parse(name, &format!("unlisten {channel}")), bind("", name), execute(""), sync()]
    };
    assert_eq!(a.run(&unlisten("", "e")), "1 | 2 | C UNLISTEN | Z I");
    assert_eq!(a.run(&unlisten("named", "f")), "1 | 2 | C UNLISTEN | Z I");
    let segment = [
        parse("", "begin"),
        bind("", ""),
        execute(""),
        parse("", "unlisten g"),
        bind("", ""),
        execute(""),
        sync(),
    ];
    assert_eq!(a.run(&segment), "1 | 2 | C BEGIN | 1 | 2 | C UNLISTEN | Z T");
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    hears(&fixture, &mut a, &all, &all[7..]);
    // In a failed transaction.
    a.query("begin");
    assert_eq!(a.query("select 1 / 0"), "E 22012 | Z E");
    assert_eq!(a.query("unlisten h"), "E 25P02 | Z E");
    assert_eq!(a.run(&unlisten("", "h")), "E 25P02 | Z E");
    assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
    hears(&fixture, &mut a, &all, &all[7..]);
    // Nobody could say what it did.
    a.query("begin");
    assert_eq!(a.query("rollback; begin; unlisten h"), "E 0A000 | Z E");
    assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
    // What is unlistened and listened to again goes on.
    assert_eq!(a.query("begin; unlisten h; listen h; commit"), {
        "C BEGIN | C UNLISTEN | C LISTEN | C COMMIT | Z I"
    });
    handed_over(&fixture, 2);
    hears(&fixture, &mut a, &all, &all[7..]);
    assert_eq!(a.query("unlisten *"), "C UNLISTEN | Z I");
    poll("nothing is listened to", || shared(&fixture) == 0);
    hears(&fixture, &mut a, &all, &[]);
    // What was there for it is gone.
    let parameter = a.value("select coalesce(current_setting('pgtandem.listening', true), '')");
    assert_eq!(parameter, "");
}

#[test]
fn what_a_client_did_not_wait_for_is_unlistened_too() {
    let fixture = start(|config| config);
    let mut a = fixture.connect();
    // Before, during and behind the hand-over.
    for _ in 0..30 {
        a.send(&[query("listen a"), query("listen b"), query("unlisten a"), query("listen c")]);
        assert_eq!(
            a.ready(4),
            "C LISTEN | Z I | C LISTEN | Z I | C UNLISTEN | Z I | C LISTEN | Z I"
        );
        a.send(&[query("begin"), query("unlisten b"), query("rollback"), query("unlisten c")]);
        assert_eq!(a.ready(4), {
            "C BEGIN | Z T | C UNLISTEN | Z T | C ROLLBACK | Z I | C UNLISTEN | Z I"
        });
    }
    handed_over(&fixture, 1);
    hears(&fixture, &mut a, &["a", "b", "c"], &["b"]);
}

#[test]
fn discard_all_ends_listening() {
    let fixture = start(|config| config);
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.query("listen news");
    b.query("listen news");
    handed_over(&fixture, 1);
    assert_eq!(a.query("discard all"), "C DISCARD ALL | Z I");
    notify(&fixture, &["news"]);
    assert_eq!(b.take(1), "A news hello");
    a.assert_quiet();
    assert_eq!(a.query("begin; discard all"), "C BEGIN | E 25001 | Z E");
    a.query("rollback");
    assert_eq!(b.query("begin; discard all"), "C BEGIN | E 25001 | Z E");
    b.query("rollback");
    hears(&fixture, &mut b, &["news"], &["news"]);
    b.query("discard all");
    poll("nothing is listened to", || shared(&fixture) == 0);
}

#[test]
fn channels_are_called_as_in_postgresql() {
    let fixture = start(|config| config);
    let mut a = fixture.connect();
    let long = "x".repeat(80);
    a.query(
        "listen FoLdEd; listen \"Quoted Name\"; listen \"it's \"\"so\"\"\\\"; listen \"Grüße\"",
    );
    a.query(&format!("listen {long}"));
    handed_over(&fixture, 5);
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    let channels = [
        "folded",
        "\"Quoted Name\"",
        "\"it's \"\"so\"\"\\\"",
        "\"Grüße\"",
        &long[..63],
        "\"FoLdEd\"",
    ];
    let heard = ["folded", "Quoted Name", "it's \"so\"\\", "Grüße", &long[..63]];
    hears(&fixture, &mut a, &channels, &heard);
    let payload = "p".repeat(7999);
    fixture.observer().rows(&format!("notify folded, '{payload}'"));
    assert_eq!(a.take(1), format!("A folded {payload}"));
    a.query("unlisten \"it's \"\"so\"\"\\\"");
    hears(&fixture, &mut a, &channels[2..4], &["Grüße"]);
}

#[test]
fn nothing_is_lost_or_doubled_while_channels_are_handed_over() {
    let fixture = start(|config| config.general("default_pool_size = 2"));
    let (begun, done, is_over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = EndsWith(&is_over);
        scope.spawn(|| {
            let mut notifier = fixture.observer();
            while !is_over.load(Ordering::Relaxed) {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                notifier.rows(&format!("notify numbers, '{number}'; notify others, '{number}'"));
                done.store(number, Ordering::SeqCst);
            }
        });
        let listeners: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| (0..50).for_each(|_| listen_once(&fixture, &begun, &done))))
            .collect();
        for listener in listeners {
            listener.join().expect("nothing is lost");
        }
    });
}

/// Listens, and proves that what is heard is what PostgreSQL would have sent: all that was notified
/// behind the answer, nothing from before the question, in order, once.
fn listen_once(fixture: &Fixture, begun: &AtomicU64, done: &AtomicU64) {
    let mut client = fixture.connect();
    let before = done.load(Ordering::SeqCst);
    client.send(&[query("listen numbers")]);
    let replies = client.replies_until(|reply| reply.tag() == b'Z');
    let behind = begun.load(Ordering::SeqCst);
    let mut heard: Vec<u64> = replies.iter().filter_map(number).collect();
    // Some ask for something meanwhile.
    if before.is_multiple_of(2) {
        client.send(&[query("begin"), query("listen unused"), query("commit")]);
        let replies = [(); 3].map(|()| client.replies_until(|reply| reply.tag() == b'Z'));
        heard.extend(replies.iter().flatten().filter_map(number));
    }
    while heard.last().is_none_or(|last| *last < behind + 100) {
        heard.extend(number(&client.reply()));
    }
    let first = heard[0];
    assert!(first > before && first <= behind + 1, "{first} is not in {before}..={behind}");
    let expected: Vec<u64> = (first..).take(heard.len()).collect();
    assert_eq!(heard, expected, "listening began between {before} and {behind}");
}

/// The number that is notified.
fn number(reply: &crate::support::reply::Reply) -> Option<u64> {
    let text = reply.to_string();
    text.strip_prefix("A numbers ").map(|number| number.parse().expect("a number"))
}

#[test]
fn who_relied_on_a_lost_listener_is_told() {
    let fixture = start(|config| config.general("default_pool_size = 2"));
    let (mut a, mut b, mut c) = (fixture.connect(), fixture.connect(), fixture.connect());
    a.query("listen news");
    b.query("listen news");
    handed_over(&fixture, 1);
    assert_eq!(b.query("begin"), "C BEGIN | Z T");
    let pids = listeners(&fixture);
    fixture.observer().rows(&format!("select pg_terminate_backend({})", pids[0]));
    assert_eq!(a.until_end(), "E FATAL 08006 | EOF");
    // A transaction is not disturbed.
    b.assert_quiet();
    assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    b.send(&[query("commit")]);
    assert_eq!(b.until_end(), "C COMMIT | Z I | E FATAL 08006 | EOF");
    assert_eq!(c.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    c.assert_quiet();
    // Everything is as before for who comes again.
    let mut a = fixture.connect();
    assert_eq!(a.query("listen news"), "C LISTEN | Z I");
    handed_over(&fixture, 1);
    hears(&fixture, &mut a, &["news"], &["news"]);
    assert_ne!(listeners(&fixture), pids);
}

#[test]
fn a_client_keeps_its_backend_until_there_is_a_listener() {
    let fixture = start(|config| config.user("few", &[]));
    let mut observer = fixture.observer();
    observer.rows("create role few login connection limit 1");
    let login = Login::new("few", &fixture.database);
    let mut a = login.connect(&fixture.proxy.tcp()).expect("the proxy trusts us");
    assert_eq!(a.query("listen news"), "C LISTEN | Z I");
    let mut hear = |expected: &str| {
        observer.rows(&format!("notify news, '{expected}'"));
        assert_eq!(a.take(1), format!("A news {expected}"));
    };
    // There is no second connection.
    for number in 0..20 {
        hear(&format!("kept {number}"));
        let_pass(Duration::from_millis(20));
    }
    assert!(listeners(&fixture).is_empty());
    fixture.observer().rows("alter role few connection limit 2");
    for number in 0.. {
        hear(&format!("on the way {number}"));
        if shared(&fixture) == 1 && listeners(&fixture).len() == 1 {
            break;
        }
    }
    handed_over(&fixture, 1);
    hear("handed over");
    a.assert_quiet();
}

#[test]
fn a_client_that_does_not_read_is_closed_and_slows_nobody() {
    let fixture = start(|config| config.general("listen_queue = \"64KiB\""));
    let (mut slow, mut busy, mut quick) = (fixture.connect(), fixture.connect(), fixture.connect());
    for client in [&mut slow, &mut busy, &mut quick] {
        client.query("listen news");
    }
    handed_over(&fixture, 1);
    let before = fixture.proxy.memory_kib();
    assert_eq!(busy.query("begin"), "C BEGIN | Z T");
    let mut observer = fixture.observer();
    let payload = "p".repeat(7000);
    for number in 0..2000 {
        observer.rows(&format!("notify news, '{number} {payload}'"));
        assert_eq!(quick.take(1), format!("A news {number} {payload}"));
    }
    let growth = fixture.proxy.memory_kib().saturating_sub(before);
    assert!(growth < 8 * 1024, "{growth} KiB for those who do not read");
    // What it was sent before comes, and then why it is the last.
    let replies = slow.replies_until(|reply| reply.tag() == 0);
    let heard = replies.iter().filter(|reply| reply.tag() == b'A').count();
    assert!(heard < 2000 && heard > 0, "{heard}");
    assert!(
        replies.iter().filter(|reply| reply.tag() == b'E').all(|one| one.sqlstate() == "53400")
    );
    // A transaction is not disturbed.
    assert_eq!(busy.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    busy.send(&[query("commit")]);
    assert_eq!(busy.until_end(), "C COMMIT | Z I | E FATAL 53400 | EOF");
    assert_eq!(quick.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn listening_goes_on_while_the_database_is_paused_or_reloaded() {
    let mut fixture = start(|config| config);
    let mut a = fixture.connect();
    a.query("listen news");
    handed_over(&fixture, 1);
    let mut admin = console(&fixture);
    assert_eq!(admin.query("pause").to_string().chars().next(), Some('C'));
    hears(&fixture, &mut a, &["news"], &["news"]);
    a.send(&[query("select 1")]);
    hears(&fixture, &mut a, &["news"], &["news"]);
    admin.query("resume");
    assert_eq!(a.ready(1), "T | D 1 | C SELECT 1 | Z I");
    fixture.proxy.reload(|config| config.general("query_wait_timeout = 60"));
    hears(&fixture, &mut a, &["news"], &["news"]);
    admin.query("suspend");
    notify(&fixture, &["news"]);
    a.assert_quiet();
    admin.query("resume");
    assert_eq!(a.take(1), "A news hello");
    admin.query("reconnect");
    assert_eq!(a.until_end(), "E FATAL 08006 | EOF");
}

#[test]
fn other_encodings_and_rules_keep_their_backends() {
    let fixture = start(|config| config.general("default_pool_size = 3"));
    let login = fixture.login().parameter("client_encoding", "LATIN1");
    let mut latin = login.connect(&fixture.proxy.tcp()).expect("the proxy trusts us");
    let mut other = fixture.connect();
    latin.query("listen news");
    other.query("listen news");
    poll("one is handed over", || kept(&fixture) == 1 && shared(&fixture) == 1);
    fixture.observer().rows("notify news, 'Grüße'");
    assert_eq!(other.take(1), "A news Grüße");
    assert_eq!(&latin.reply().body()[4..], b"news\0Gr\xfc\xdfe\0");
    // Who takes another encoding later is not sent what it cannot read.
    assert_eq!(
        other.query("set client_encoding = 'LATIN1'"),
        "C SET | S client_encoding=LATIN1 | Z I"
    );
    fixture.observer().rows("notify news, 'plain'");
    assert_eq!(other.take(1), "A news plain");
    fixture.observer().rows("notify news, 'Grüße'");
    assert_eq!(other.until_end(), "E FATAL 0A000 | EOF");
    for setting in ["session_state = \"pin\"", "max_prepared_statements = 0"] {
        let fixture = start(|config| config.general(setting));
        let mut a = fixture.connect();
        assert_eq!(a.query("listen news"), "C LISTEN | Z I");
        hears(&fixture, &mut a, &["news"], &["news"]);
        assert!(listeners(&fixture).is_empty(), "{setting}");
    }
}

#[test]
fn a_marker_is_not_heard_by_clients() {
    let fixture = start(|config| config);
    let mut a = fixture.connect();
    for number in 0..20 {
        assert_eq!(a.query(&format!("listen c{number}")), "C LISTEN | Z I");
        let_pass(Duration::from_millis(5));
    }
    handed_over(&fixture, 20);
    a.assert_quiet();
    // Nothing is left on the backend.
    assert_eq!(a.value("select count(*) from pg_listening_channels()"), "0");
}

#[test]
fn what_one_listens_to_is_on_nobody_elses_backend() {
    let look = "select count(*) from pg_listening_channels()";
    for size in [1, 2] {
        let fixture = start(|config| config.general(&format!("default_pool_size = {size}")));
        for round in 0..60 {
            let (mut a, mut b) = (fixture.connect(), fixture.connect());
            match round % 6 {
                0 => a.send(&[query("listen leak")]),
                1 => a.send(&[query("begin; listen leak"), query("commit")]),
                2 => a.send(&[query("begin; listen leak"), query("rollback")]),
                3 => a.send(&[parse("", "listen leak"), bind("", ""), execute(""), sync()]),
                4 => a.send(&[query("listen leak"), query("unlisten leak"), query("listen other")]),
                _ => {
                    a.send(&[
                        query("listen leak; select 1 / 0"),
                        query("listen leak"),
                        terminate(),
                    ]);
                }
            }
            assert_eq!(b.value(look), "0", "round {round}, pool of {size}");
            drop(a);
            assert_eq!(b.value(look), "0", "round {round}, pool of {size}");
            notify(&fixture, &["leak", "other"]);
            let mut c = fixture.connect();
            c.query("begin");
            if size == 2 {
                // Both at once, so that both backends are seen.
                assert_eq!(b.value(look), "0", "round {round}, pool of {size}");
            }
            assert_eq!(c.query("commit"), "C COMMIT | Z I", "round {round}, pool of {size}");
            assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
    }
}
