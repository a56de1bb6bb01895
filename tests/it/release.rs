//! Points B of the acceptance list: when a backend goes back to its pool, and in what state.

use std::time::Duration;

use crate::differential::everywhere;
use crate::support::{
    PATIENCE, cluster::Cluster, fixture::Fixture, let_pass, login::Login, message::*, poll,
    poll_within, proxy::Proxy, wire::Client,
};

#[test]
fn b18_a_transaction_keeps_its_backend() {
    for (begin, state) in [
        (query("begin"), "Z T"),
        (query("begin; select 1"), "Z T"),
        (query("begin; select 1/0"), "Z E"),
        ([parse("", "begin"), bind("", ""), execute(""), sync()].concat(), "Z T"),
    ] {
        let fixture = Fixture::transaction();
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        a.send(&[begin]);
        assert_eq!(a.ready(1).last(), state);
        b.send(&[query("select 'b'")]);
        b.assert_quiet();
        assert_eq!(a.run(&[sync()]), state);
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
        assert_eq!(b.ready(1), "T | D b | C SELECT 1 | Z I");
    }
}

#[test]
fn b18_the_end_of_a_transaction_frees_the_backend() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for end in ["commit", "rollback", "end", "abort", "select 1; commit"] {
            assert_eq!(a.query("begin"), "C BEGIN | Z T");
            a.query(end);
            assert_eq!(b.query("select 'b'"), "T | D b | C SELECT 1 | Z I");
        }
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        assert_eq!(a.query("commit and chain"), "C COMMIT | Z T");
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
        assert_eq!(b.query("select 'b'"), "T | D b | C SELECT 1 | Z I");
    });
}

/// What a client may leave behind, each as messages after which it just goes.
fn abandoned() -> Vec<(&'static str, Vec<Bytes>)> {
    let big = "select repeat('x', 1000) from generate_series(1, 50000)";
    vec![
        ("in a transaction", vec![query("begin; insert into t values (1)")]),
        ("in a failed transaction", vec![query("begin; insert into t values (1); select 1/0")]),
        ("after Terminate", vec![query("begin; insert into t values (1)"), terminate()]),
        (
            "while a query runs",
            vec![query("begin; insert into t values (1)"), query("select pg_sleep(600)")],
        ),
        ("without reading", vec![query("begin"), query("insert into t values (1)"), query(big)]),
        ("in the middle of COPY", vec![query("copy t from stdin"), copy_data("1\n")]),
        (
            "without Sync",
            vec![parse("", "insert into t values (1)"), bind("", ""), execute(""), flush()],
        ),
        (
            "between two halves of a message",
            vec![query("begin; insert into t values (1)"), query("commit")[..6].to_vec()],
        ),
    ]
}

#[test]
fn b19_client_gone_in_a_transaction_never_leaks_it() {
    for mode in ["transaction", "session"] {
        let fixture = Fixture::start(|config| config.general(&format!("pool_mode = \"{mode}\"")));
        fixture.observer().rows("create table t (x int)");
        for (how, messages) in abandoned() {
            let mut a = fixture.connect();
            a.send(&messages);
            a.reply();
            drop(a);
            let mut b = fixture.connect();
            let seen = b.query("select count(*) from t");
            assert_eq!(seen, "T | D 0 | C SELECT 1 | Z I", "{mode} mode, gone {how}");
        }
        poll("nothing stays open", || {
            let sql = "select count(*) from pg_locks where relation = 't'::regclass";
            fixture.observer().value(sql) == "0"
        });
    }
}

#[test]
fn b19_client_gone_frees_its_place_for_those_who_wait() {
    for (how, messages) in abandoned() {
        let fixture = Fixture::transaction();
        fixture.observer().rows("create table t (x int)");
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        a.send(&messages);
        a.reply();
        b.send(&[query("select count(*) from t")]);
        drop(a);
        assert_eq!(b.ready(1), "T | D 0 | C SELECT 1 | Z I", "gone {how}");
    }
}

#[test]
fn b20_query_of_a_client_that_is_gone_is_cancelled() {
    for mode in ["session", "transaction", "statement"] {
        let fixture = Fixture::start(|config| config.general(&format!("pool_mode = \"{mode}\"")));
        let mut a = fixture.connect();
        a.send(&[query("select pg_sleep(600)")]);
        poll("the query runs", || fixture.is_running("pg_sleep"));
        drop(a);
        poll_within(PATIENCE * 2, "the query is cancelled", || !fixture.is_running("pg_sleep"));
        assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn b20_pipeline_of_a_client_that_is_gone_is_cancelled_to_its_end() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 4"));
    for round in 0..40 {
        let mut a = fixture.connect();
        // A cancel request that comes between two of these has no effect on the next one.
        let mut messages = vec![query("select 1"); round % 8];
        messages.push(query("select pg_sleep(600)"));
        a.send(&messages);
        drop(a);
    }
    poll_within(PATIENCE * 3, "no query is left", || !fixture.is_running("pg_sleep"));
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    poll("no query is left", || !fixture.is_running("pg_sleep"));
}

#[test]
fn b21_loss_of_the_server_in_a_transaction_is_told_in_its_own_words() {
    everywhere(|peer| {
        let mut killer = peer.connect("killer");
        let mut a = peer.connect("a");
        // Through a pool of one, nobody else can kill: the backend ends itself.
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        a.send(&[query("select pg_terminate_backend(pg_backend_pid())")]);
        assert_eq!(a.until_end(), "T | D t | E FATAL 57P01 | EOF");
        assert_eq!(killer.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    });
}

#[test]
fn b21_loss_of_the_server_while_the_client_idles_in_its_transaction() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    let pid = a.backend_pid();
    fixture.observer().rows(&format!("select pg_terminate_backend({pid})"));
    assert_eq!(a.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn b21_loss_of_an_idle_backend_is_invisible() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    for _ in 0..3 {
        let pid = a.backend_pid();
        fixture.observer().rows(&format!("select pg_terminate_backend({pid})"));
        poll("the backend is gone", || fixture.backends() == 0);
        assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn b21_crash_of_the_server_is_invisible_to_idle_clients() {
    let mut cluster = Cluster::start();
    let database = cluster.new_database();
    let proxy = Proxy::start(&cluster, Fixture::config(&cluster, &database));
    let login = Login::new("postgres", &database);
    let mut busy = login.connect(&proxy.tcp()).expect("trusted");
    let mut idle = login.connect(&proxy.tcp()).expect("trusted");
    assert_eq!(idle.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(busy.query("begin"), "C BEGIN | Z T");
    cluster.crash();
    let last = busy.until_end();
    assert!(last[0].contains("57P0") || last[0] == "E FATAL 08006", "{last:?}");
    cluster.restart();
    // An error that tells so is fine while the server is away; the connection itself must live.
    poll("the idle client is served again", || {
        let answers = idle.query("select 1");
        assert_ne!(answers.last(), "EOF", "{answers:?}");
        answers == "T | D 1 | C SELECT 1 | Z I"
    });
}

#[test]
fn b22_session_state_is_gone_before_the_next_client() {
    let fixture = Fixture::session();
    for _ in 0..3 {
        let mut a = fixture.connect();
        let pid = a.backend_pid();
        a.query("create temp table mine ()");
        a.query("set search_path = nowhere; set statement_timeout = '1min'");
        a.query("listen news");
        a.query("select pg_advisory_lock(1)");
        a.query("declare c cursor with hold for select 1");
        a.query("prepare p as select 1");
        a.run(&[parse("s", "select 1"), sync()]);
        drop(a);
        let mut b = fixture.connect();
        assert_eq!(b.backend_pid(), pid, "a clean end keeps the backend");
        assert_eq!(b.query("select * from mine"), "E 42P01 | Z I");
        assert_eq!(b.value("show search_path"), "\"$user\", public");
        assert_eq!(b.value("show statement_timeout"), "0");
        assert_eq!(b.value("select count(*) from pg_listening_channels()"), "0");
        let locks = "select count(*) from pg_locks where locktype = 'advisory'";
        assert_eq!(b.value(locks), "0");
        assert_eq!(b.query("fetch c"), "E 34000 | Z I");
        assert_eq!(b.query("execute p"), "E 26000 | Z I");
        assert_eq!(b.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
    }
}

#[test]
fn b22_backend_whose_reset_fails_is_not_used_again() {
    let fixture = Fixture::start(|config| {
        config.general("pool_mode = \"session\"").general("server_reset_query = \"select 1/0\"")
    });
    let mut a = fixture.connect();
    let pid = a.backend_pid();
    a.query("create temp table mine ()");
    drop(a);
    let mut b = fixture.connect();
    assert_ne!(b.backend_pid(), pid);
    assert_eq!(b.query("select * from mine"), "E 42P01 | Z I");
}

#[test]
fn b22_reset_may_take_its_time() {
    let fixture = Fixture::start(|config| {
        let reset = "server_reset_query = \"select pg_sleep(0.5); discard all\"";
        config.general("pool_mode = \"session\"").general(reset)
    });
    let mut a = fixture.connect();
    a.query("set search_path = nowhere");
    drop(a);
    let mut b = fixture.connect();
    assert_eq!(b.value("show search_path"), "\"$user\", public");
    b.assert_quiet();
}

#[test]
fn b22_reset_in_transaction_mode_only_where_always_is_set() {
    for always in [false, true] {
        let fixture = Fixture::start(|config| {
            config
                .general("server_reset_query = \"select set_config('it.reset', 'yes', false)\"")
                .general(&format!("server_reset_query_always = {always}"))
        });
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        assert_eq!(a.query("begin; select 1; commit").last(), "Z I");
        let reset = b.value("select coalesce(current_setting('it.reset', true), '')");
        assert_eq!(reset, if always { "yes" } else { "" });
    }
}

#[test]
fn b23_change_from_session_to_transaction_mode_resets() {
    let mut fixture = Fixture::session();
    let mut a = fixture.connect();
    a.query("create temp table mine (); set search_path = nowhere");
    fixture.proxy.reload(|config| config.general("pool_mode = \"transaction\""));
    drop(a);
    let mut b = fixture.connect();
    for _ in 0..5 {
        assert_eq!(b.query("select * from pg_temp.mine"), "E 42P01 | Z I");
        assert_eq!(b.value("show search_path"), "\"$user\", public");
    }
}

#[test]
fn b23_users_of_both_modes_over_one_database() {
    let fixture = Fixture::start(|config| config.user("dave", &["pool_mode = \"session\""]));
    let dave = Login::new("dave", &fixture.database);
    let mut session = dave.connect(&fixture.proxy.tcp()).expect("trusted");
    session.query("set statement_timeout = '1min'");
    let mut transaction = fixture.connect();
    assert_eq!(transaction.value("show statement_timeout"), "0");
    assert_eq!(session.value("show statement_timeout"), "1min");
}

#[test]
fn b24_lifetime_ends_backends_only_at_release() {
    let fixture = Fixture::start(|config| config.general("server_lifetime = 1"));
    let mut a = fixture.connect();
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    let pid = a.backend_pid();
    let_pass(Duration::from_millis(2500));
    assert_eq!(a.backend_pid(), pid);
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    poll("the old backend is replaced", || a.backend_pid() != pid);
}

#[test]
fn b24_lowered_pool_size_is_reached_by_releases() {
    let mut fixture = Fixture::start(|config| config.general("default_pool_size = 3"));
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
    assert_eq!(fixture.backends(), 3);
    fixture.proxy.reload(|config| config.general("default_pool_size = 1"));
    for client in &mut clients {
        client.assert_quiet();
        assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    }
    for client in &mut clients {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
    poll("one backend is left", || {
        for client in &mut clients {
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
        fixture.backends() == 1
    });
}

#[test]
fn b20_terminate_behind_a_result_that_nobody_reads_is_a_goodbye() {
    for mode in ["session", "transaction"] {
        let fixture = Fixture::start(|config| config.general(&format!("pool_mode = \"{mode}\"")));
        fixture.observer().rows("create table t (x int)");
        for (round, address) in [fixture.proxy.tcp(), fixture.proxy.unix()].iter().enumerate() {
            let mut a = fixture.login().connect(address).expect("trusted");
            // More than all buffers between the server and us hold.
            let big = "select repeat('x', 1000) from generate_series(1, 50000)";
            a.send(&[query(big), query("insert into t values (1)")]);
            a.reply();
            a.assert_backed_up();
            a.send_last(&terminate());
            // Neither who waits nor what was asked for before the goodbye depends on our reading.
            let mut b = fixture.connect();
            assert_eq!(b.query("select 'b'"), "T | D b | C SELECT 1 | Z I", "{mode} mode");
            let inserted = (round + 1).to_string();
            assert_eq!(b.value("select count(*) from t"), inserted, "{mode} mode");
            drop(a);
        }
    }
}

#[test]
fn b20_what_came_before_the_goodbye_is_carried_out_and_answered() {
    everywhere(|peer| {
        let mut observer = peer.connect("observer");
        observer.query("create table t (x int)");
        let mut a = peer.connect("a");
        a.send(&[query("insert into t values (1)"), query("select count(*) from t"), terminate()]);
        assert_eq!(a.until_end(), "C INSERT 0 1 | Z I | T | D 1 | C SELECT 1 | Z I | EOF");
        // The end of the connection is one of what is sent, not of what is answered.
        let mut b = peer.connect("b");
        b.send_last(&[query("insert into t values (2)"), query("select 'b'")].concat());
        assert_eq!(b.until_end(), "C INSERT 0 1 | Z I | T | D b | C SELECT 1 | Z I | EOF");
        // A segment and a COPY that have no end.
        let mut c = peer.connect("c");
        c.send(&[query("insert into t values (3)"), parse("", "select 1"), bind("", ""), flush()]);
        c.send(&[execute("nowhere"), terminate()]);
        assert_eq!(c.until_end(), "C INSERT 0 1 | Z I | 1 | 2 | E 34000 | EOF");
        if Cluster::shared().version() < 140_000 {
            // It goes on behind a goodbye inside a COPY, which our clients do not wait for.
            return;
        }
        let mut d = peer.connect("d");
        d.send(&[query("copy t from stdin"), copy_data("4\n"), terminate()]);
        assert_eq!(d.until_end(), "G | E 08P01 | E FATAL 08P01 | EOF");
        assert_eq!(observer.query("select count(*) from t"), "T | D 3 | C SELECT 1 | Z I");
    });
}

/// How many clients wait for a backend.
fn waiting(console: &mut Client) -> usize {
    let rows = console.rows("SHOW POOLS");
    let waiting = rows.iter().filter_map(|row| row.get(3)?.parse::<usize>().ok());
    waiting.sum()
}

#[test]
fn b20_what_a_client_sent_that_went_while_it_waited_is_carried_out() {
    let fixture = Fixture::start(|config| config.general("admin_users = \"postgres\""));
    fixture.observer().rows("create table t (x int)");
    let mut console =
        Login::new("postgres", "pgtandem").connect(&fixture.proxy.tcp()).expect("trusted");
    let mut a = fixture.connect();
    a.query("begin");
    let insert = || query("insert into t values (1)");
    let begin = || query("begin; insert into t values (2)");
    for (number, last) in [
        // All of it in one packet, or the goodbye apart; what is begun is not committed.
        vec![insert(), terminate()],
        vec![query("begin"), insert(), query("commit"), terminate()],
        vec![begin(), terminate()],
        vec![insert()],
        vec![parse("", "insert into t values (1)"), bind("", ""), execute(""), sync()],
        vec![insert(), begin()],
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = fixture.connect();
        client.send_last(&last.concat());
        poll("it waits", || waiting(&mut console) == number + 1);
    }
    // What is not whole waits for nothing.
    let mut client = fixture.connect();
    client.send_last(&insert()[..10]);
    assert_eq!(client.until_end(), "EOF");
    a.query("commit");
    poll("all is done", || fixture.observer().value("select count(*) from t") == "5");
    assert_eq!(fixture.observer().value("select count(*) from t where x = 1"), "5");
}

#[test]
fn b20_a_client_that_went_without_a_goodbye_does_not_wait_for_long() {
    let fixture = Fixture::start(|config| config.general("admin_users = \"postgres\""));
    fixture.observer().rows("create table t (x int)");
    let mut console =
        Login::new("postgres", "pgtandem").connect(&fixture.proxy.tcp()).expect("trusted");
    let mut a = fixture.connect();
    a.query("begin");
    let (mut b, mut c) = (fixture.connect(), fixture.connect());
    b.send_last(&query("insert into t values (1)"));
    c.send_last(&[query("insert into t values (2)"), terminate()].concat());
    poll("both wait", || waiting(&mut console) == 2);
    poll_within(PATIENCE * 2, "one has waited in vain", || waiting(&mut console) == 1);
    a.query("commit");
    assert_eq!(c.until_end(), "C INSERT 0 1 | Z I | EOF");
    assert_eq!(fixture.observer().rows("select x from t"), [["2"]]);
}
