//! `session_state = "track"`, and what is left in doubt.

use super::{KINDS, Kind, PROTOCOLS, Protocol, pinned, pool_of, send};
use crate::support::{fixture::Fixture, login::Login, message::*, poll, wire::Client};

/// How the transaction of a statement goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is one of its own.
    Alone,
    Commit,
    Rollback,
    /// Another statement fails.
    Error,
    Savepoint,
    /// It is not even run: one before it fails.
    Skipped,
    /// All in one Query, which fails at its end.
    InOneQuery,
}

const ENDINGS: [Ending; 7] = [
    Ending::Alone,
    Ending::Commit,
    Ending::Rollback,
    Ending::Error,
    Ending::Savepoint,
    Ending::Skipped,
    Ending::InOneQuery,
];

/// Leaves it, or nearly; says whether it is there behind that.
fn leave(client: &mut Client, kind: &Kind, protocol: Protocol, ending: Ending) -> bool {
    match ending {
        Ending::Alone => {}
        Ending::InOneQuery => {
            client.query(&format!("{}; select 1/0", kind.leave));
            return kind.survives_rollback;
        }
        Ending::Skipped => {
            client.query("begin; select 1/0");
        }
        Ending::Savepoint => {
            client.query("begin; savepoint s");
        }
        Ending::Commit | Ending::Rollback | Ending::Error => {
            client.query("begin");
        }
    }
    send(client, protocol, kind.leave);
    match ending {
        Ending::Alone | Ending::InOneQuery => return true,
        Ending::Commit => client.query("commit"),
        Ending::Rollback | Ending::Skipped => client.query("rollback"),
        Ending::Error => client.query("select 1/0; commit").then(client, "rollback"),
        Ending::Savepoint => client.query("rollback to s; commit"),
    };
    match ending {
        Ending::Commit => true,
        Ending::Skipped => false,
        Ending::Alone
        | Ending::Rollback
        | Ending::Error
        | Ending::Savepoint
        | Ending::InOneQuery => kind.survives_rollback,
    }
}

/// One statement after another.
trait Then {
    fn then(self, client: &mut Client, sql: &str) -> Self;
}

impl Then for crate::support::reply::Answers {
    fn then(self, client: &mut Client, sql: &str) -> Self {
        client.query(sql)
    }
}

/// Looks at every backend of the pool at once.
fn assert_nobody_sees(fixture: &Fixture, kind: &Kind, size: usize, story: &str) {
    let mut clients: Vec<Client> = (0..size).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client.query("begin");
        assert_eq!(client.value(kind.look), kind.other, "a new client, {story}");
    }
    for client in &mut clients {
        client.query("commit");
    }
}

fn each(size: usize, check: impl Fn(&Fixture, &Kind, Protocol, Ending, &str)) {
    let fixture = pool_of(size);
    for kind in KINDS {
        for protocol in PROTOCOLS {
            for ending in ENDINGS {
                let story = format!("{protocol:?}, {ending:?}, pool of {size}: {}", kind.leave);
                check(&fixture, kind, protocol, ending, &story);
                assert_nobody_sees(&fixture, kind, size, &story);
            }
        }
    }
}

#[test]
fn c27_session_state_is_its_clients_with_a_pool_of_two() {
    each(2, |fixture, kind, protocol, ending, story| {
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        let is_there = leave(&mut a, kind, protocol, ending);
        let mine = if is_there { kind.mine } else { kind.other };
        for _ in 0..3 {
            assert_eq!(b.value(kind.look), kind.other, "the other, {story}");
            assert_eq!(a.value(kind.look), mine, "whoever left it, {story}");
        }
        // Both at once, so that both backends are seen.
        b.query("begin");
        assert_eq!(b.value(kind.look), kind.other, "the other, {story}");
        assert_eq!(a.value(kind.look), mine, "whoever left it, {story}");
        b.query("commit");
    });
}

#[test]
fn c27_session_state_is_its_clients_with_a_pool_of_one() {
    each(1, |fixture, kind, protocol, ending, story| {
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        let is_there = leave(&mut a, kind, protocol, ending);
        if !is_there || kind.pinned.is_empty() {
            // It keeps no backend, also if it nearly did.
            let mine = if is_there { kind.mine } else { kind.other };
            for _ in 0..2 {
                assert_eq!(b.value(kind.look), kind.other, "the other, {story}");
                assert_eq!(a.value(kind.look), mine, "whoever left it, {story}");
            }
            return;
        }
        // The other waits until the first has gone.
        b.send(&[query(kind.look)]);
        assert_eq!(a.value(kind.look), kind.mine, "whoever left it, {story}");
        a.send(&[terminate()]);
        drop(a);
        let seen = b.replies_until(|reply| reply.tag() == b'Z');
        let row = seen.iter().find(|reply| reply.tag() == b'D').expect("a row");
        assert_eq!(row.columns(), [kind.other], "the other, {story}");
    });
}

#[test]
fn b22_what_is_taken_back_keeps_no_backend() {
    let fixture = pool_of(1);
    for kind in KINDS {
        for take_back in [kind.take_back, "discard all"] {
            for protocol in PROTOCOLS {
                let story = format!("{protocol:?}: {}; {take_back}", kind.leave);
                let (mut a, mut b) = (fixture.connect(), fixture.connect());
                send(&mut a, protocol, kind.leave);
                assert_eq!(a.value(kind.look), kind.mine, "{story}");
                send(&mut a, protocol, take_back);
                assert_eq!(b.value(kind.look), kind.other, "the other, {story}");
                assert_eq!(a.value(kind.look), kind.other, "whoever took it back, {story}");
                assert!(pinned(&fixture).is_empty(), "{story}");
            }
        }
    }
}

#[test]
fn b19_what_a_lost_client_left_is_gone() {
    let fixture = pool_of(1);
    for kind in KINDS {
        let mut a = fixture.connect();
        send(&mut a, Protocol::Simple, kind.leave);
        assert_eq!(a.value(kind.look), kind.mine, "{}", kind.leave);
        drop(a);
        assert_eq!(fixture.connect().value(kind.look), kind.other, "{}", kind.leave);
        let mut a = fixture.connect();
        a.send(&[query(kind.leave), terminate()]);
        drop(a);
        assert_eq!(fixture.connect().value(kind.look), kind.other, "{}", kind.leave);
    }
}

#[test]
fn why_a_client_is_pinned_is_shown() {
    let fixture = pool_of(2);
    for kind in KINDS {
        let mut a = fixture.connect();
        send(&mut a, Protocol::Simple, kind.leave);
        let expected: &[&str] = if kind.pinned.is_empty() { &[] } else { &[kind.pinned] };
        poll(kind.leave, || pinned(&fixture) == expected);
    }
}

#[test]
fn what_ends_with_the_transaction_neither_pins_nor_leaks() {
    let fixture = pool_of(1);
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    for text in [
        "begin; set local statement_timeout = '77s'; commit",
        "begin; set local role dave; commit",
        "begin; select set_config('my.x', '1', true); commit",
        "begin; select pg_advisory_xact_lock(77); commit",
        "begin; create temp table leak (a int) on commit drop; commit",
        "begin; declare leak cursor for select 1; fetch leak; commit",
        "begin; set transaction isolation level serializable; commit",
        "begin; set transaction_isolation = 'serializable'; commit",
        "begin; set constraints all deferred; commit",
    ] {
        a.query(text);
        for kind in KINDS {
            assert_eq!(b.value(kind.look), kind.other, "{text}: {}", kind.look);
            assert_eq!(a.value(kind.look), kind.other, "{text}: {}", kind.look);
        }
    }
    assert!(pinned(&fixture).is_empty());
}

#[test]
fn what_only_the_end_of_the_session_takes_back_ends_the_connection() {
    let fixture = pool_of(2);
    for text in ["select setseed(0.5)", "set seed = 0.5", "load 'plpgsql'"] {
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        a.query(text);
        let pid = a.backend_pid();
        assert_ne!(b.backend_pid(), pid, "{text}");
        a.query("discard all");
        assert_eq!(a.backend_pid(), pid, "{text}");
        assert_eq!(pinned(&fixture), ["lasting state"]);
        drop(a);
        let sql = format!("select count(*) from pg_stat_activity where pid = {pid}");
        poll(text, || fixture.observer().value(&sql) == "0");
    }
}

#[test]
fn an_order_that_matters_is_kept() {
    let fixture = pool_of(1);
    fixture.observer().rows("GRANT CREATE ON SCHEMA public TO dave");
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    // Only a superuser may set the first; dave is none.
    a.query("set log_min_messages = 'error'; set role dave; set statement_timeout = '77s'");
    for _ in 0..2 {
        b.query("set lock_timeout = '5s'; set log_min_messages = 'fatal'");
        let seen = a.rows(
            "select current_user, current_setting('log_min_messages'), \
             current_setting('statement_timeout'), current_setting('lock_timeout')",
        );
        assert_eq!(seen, [["dave", "error", "77s", "0"]]);
        let seen = b.rows(
            "select current_user, current_setting('log_min_messages'), \
             current_setting('statement_timeout'), current_setting('lock_timeout')",
        );
        assert_eq!(seen, [["postgres", "fatal", "0", "5s"]]);
    }
}

#[test]
fn pipelines_are_followed_to_their_end() {
    let fixture = pool_of(1);
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    let run = |sql: &str| [parse("", sql), bind("", ""), execute("")].concat();
    a.run(&[
        run("set statement_timeout = '1s'"),
        sync(),
        run("select 1/0"),
        run("set statement_timeout = '2s'"),
        sync(),
        query("begin"),
        run("set statement_timeout = '3s'"),
        sync(),
        query("rollback"),
        run("set lock_timeout = '4s'"),
        sync(),
    ]);
    for _ in 0..2 {
        assert_eq!(b.value("show statement_timeout"), "0");
        assert_eq!(b.value("show lock_timeout"), "0");
        assert_eq!(a.value("show statement_timeout"), "1s");
        assert_eq!(a.value("show lock_timeout"), "4s");
    }
}

#[test]
fn a_statement_that_sets_something_does_so_wherever_it_is_run() {
    let fixture = pool_of(2);
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    let sql = "select set_config('my.x', $1, false)";
    for client in [&mut a, &mut b] {
        client.run(&[parse("s", sql), parse("", sql), sync()]);
    }
    for round in 0..4 {
        let (of_a, of_b) = (format!("a{round}"), format!("b{round}"));
        let statement = if round % 2 == 0 { "s" } else { "" };
        a.run(&[parse("", sql), bind_values("", statement, &[&of_a]), execute(""), sync()]);
        b.run(&[parse("", sql), bind_values("", statement, &[&of_b]), execute(""), sync()]);
        assert_eq!(a.value("show my.x"), of_a);
        assert_eq!(b.value("show my.x"), of_b);
        // Where it sits is no matter.
        b.query("begin");
        assert_eq!(b.value("show my.x"), of_b);
        assert_eq!(a.value("show my.x"), of_a);
        b.query("commit");
    }
}

#[test]
fn startup_parameters_that_are_not_reported_go_with_their_client() {
    let fixture = pool_of(1);
    let login =
        fixture.login().parameter("statement_timeout", "77s").parameter("options", "-c my.x=5");
    let mut a = login.connect(&fixture.proxy.tcp()).expect("PostgreSQL takes them");
    let mut b = fixture.connect();
    for _ in 0..2 {
        assert_eq!(b.value("show statement_timeout"), "0");
        assert_eq!(a.value("show statement_timeout"), "77s");
        assert_eq!(a.value("show my.x"), "5");
    }
    let wrong = fixture.login().parameter("statement_timeout", "soon");
    let refused = wrong.connect(&fixture.proxy.tcp()).err().expect("it is no time");
    assert!(format!("{refused:?}").contains("22023"), "{refused:?}");
}

#[test]
fn c28_values_are_carried_in_their_clients_encoding() {
    let fixture = pool_of(1);
    let mut a = fixture.connect();
    let latin = fixture.login().parameter("client_encoding", "LATIN1");
    let mut b = latin.connect(&fixture.proxy.tcp()).expect("PostgreSQL knows it");
    let look = "select length(current_setting('my.x')), octet_length(current_setting('my.x'))";
    a.query("set my.x = 'é'");
    for _ in 0..2 {
        assert_eq!(b.value("show client_encoding"), "LATIN1");
        assert_eq!(a.rows(look), [["1", "2"]]);
    }
    // What is two bytes to this client is two characters.
    b.query("set my.x = 'é'");
    for _ in 0..2 {
        assert_eq!(a.rows(look), [["1", "2"]]);
        assert_eq!(b.rows(look), [["2", "4"]]);
    }
    a.query("set client_encoding = 'LATIN1'");
    assert_eq!(b.rows(look), [["2", "4"]]);
    assert_eq!(a.rows(look), [["1", "2"]]);
}

#[test]
fn a_reset_query_of_ones_own_takes_nothing_from_its_client() {
    let fixture = Fixture::start(|config| {
        config
            .general("server_reset_query = \"RESET ALL\"")
            .general("server_reset_query_always = true")
    });
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.query("set statement_timeout = '77s'; set role dave");
    for _ in 0..2 {
        assert_eq!(a.value("show statement_timeout"), "77s");
        assert_eq!(a.value("select current_user"), "dave");
        assert_eq!(b.value("select current_user"), "postgres");
    }
}

#[test]
fn a_failed_discard_takes_nothing_back() {
    let fixture = pool_of(2);
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.query("select set_config(chr(109) || 'y.x', '1', false)");
    assert_eq!(pinned(&fixture), ["unknown state"]);
    a.query("begin; discard all");
    a.query("rollback");
    assert_eq!(a.value("show my.x"), "1");
    b.query("begin");
    assert_eq!(b.value("select coalesce(nullif(current_setting('my.x', true), ''), '-')"), "-");
    assert_eq!(pinned(&fixture), ["unknown state"]);
    b.query("commit");
    a.query("discard all");
    assert!(pinned(&fixture).is_empty());
}

#[test]
fn a_long_query_leaves_nothing_to_others() {
    let fixture = pool_of(1);
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    let padding = "x".repeat(3 << 20);
    a.query(&format!("select length('{padding}'); set statement_timeout = '77s'; set my.x = '1'"));
    assert_eq!(b.value("show statement_timeout"), "0");
    assert_eq!(b.value("select coalesce(nullif(current_setting('my.x', true), ''), '-')"), "-");
    assert_eq!(a.value("show statement_timeout"), "77s");
}

/// A server that does not say what is left, here for want of a right, may have anything left.
#[test]
fn what_cannot_be_asked_keeps_its_client() {
    let fixture = pool_of(2);
    fixture.observer().rows("REVOKE SELECT ON pg_locks FROM PUBLIC");
    let login = Login::new("dave", &fixture.database);
    let connect = || login.connect(&fixture.proxy.tcp()).expect("everybody is trusted");
    let (mut a, mut b) = (connect(), connect());
    a.query("select pg_advisory_lock(1)");
    let pid = a.backend_pid();
    assert_ne!(b.backend_pid(), pid);
    assert_eq!(a.backend_pid(), pid);
    assert_eq!(pinned(&fixture), ["unknown state"]);
    drop(a);
    poll("the lock is free", || b.value("select pg_try_advisory_xact_lock(1)") == "t");
}
