//! Points E 40 and E 41 of the acceptance list: what the server says unasked.

use std::time::Duration;

use crate::differential::everywhere;
use crate::support::{
    cluster::Cluster, fixture::Fixture, login::Login, message::*, poll, proxy::Proxy,
};

#[test]
fn e40_notifications_reach_their_listener_in_session_mode() {
    let fixture = Fixture::start(|config| {
        config.general("pool_mode = \"session\"").general("default_pool_size = 2")
    });
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(a.query("listen news"), "C LISTEN | Z I");
        assert_eq!(b.query("notify news, 'first'"), "C NOTIFY | Z I");
        // The listener says nothing, and is told nevertheless.
        assert_eq!(a.take(1), "A news first");
        assert_eq!(a.query("notify news, 'own'"), "C NOTIFY | A news own | Z I");
        assert_eq!(a.query("begin; notify news, 'late'"), "C BEGIN | C NOTIFY | Z T");
        assert_eq!(a.query("commit"), "C COMMIT | A news late | Z I");
        assert_eq!(a.query("unlisten *"), "C UNLISTEN | Z I");
        assert_eq!(b.query("notify news, 'unheard'"), "C NOTIFY | Z I");
        assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        a.assert_quiet();
    });
}

#[test]
fn e40_notifications_never_reach_another_client() {
    for mode in ["transaction", "session", "statement"] {
        let fixture = Fixture::start(|config| config.general(&format!("pool_mode = \"{mode}\"")));
        let mut a = fixture.connect();
        a.query("listen news");
        drop(a);
        let (mut b, mut observer) = (fixture.connect(), fixture.observer());
        for number in 0..20 {
            observer.rows(&format!("notify news, '{number}'"));
            let answers = b.query("select 1");
            assert_eq!(answers, "T | D 1 | C SELECT 1 | Z I", "{mode} mode");
        }
        b.assert_quiet();
    }
}

#[test]
fn e40_notifications_never_reach_another_client_beside_the_listener() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.query("listen news");
    let mut observer = fixture.observer();
    for number in 0..20 {
        observer.rows(&format!("notify news, '{number}'"));
        let answers = b.query("select 1");
        assert_eq!(answers, "T | D 1 | C SELECT 1 | Z I");
        let answers = b.query("begin; select 2; commit");
        assert_eq!(answers, "C BEGIN | T | D 2 | C SELECT 1 | C COMMIT | Z I");
    }
    b.assert_quiet();
}

#[test]
fn e41_notices_are_passed_on() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        let sql = "do $$ begin raise notice 'one'; raise warning 'two'; end $$";
        assert_eq!(a.query(sql), "N 00000 | N 01000 | C DO | Z I");
        assert_eq!(b.query("rollback"), "N 25P01 | C ROLLBACK | Z I");
        assert_eq!(b.query("begin; begin"), "C BEGIN | N 25001 | C BEGIN | Z T");
        assert_eq!(b.query("commit"), "C COMMIT | Z I");
        let answers = a.run(&[parse("", sql), bind("", ""), execute(""), sync()]);
        assert_eq!(answers, "1 | 2 | N 00000 | N 01000 | C DO | Z I");
    });
}

#[test]
fn e41_notice_of_a_deferred_trigger_comes_with_its_commit() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.query("create table t (x int)");
        a.query(
            "create function tell() returns trigger language plpgsql as
             $$ begin raise notice 'now'; return null; end $$",
        );
        a.query(
            "create constraint trigger late after insert on t deferrable initially deferred
             for each row execute function tell()",
        );
        assert_eq!(a.query("begin; insert into t values (1)"), "C BEGIN | C INSERT 0 1 | Z T");
        assert_eq!(a.query("commit"), "N 00000 | C COMMIT | Z I");
    });
}

#[test]
fn e41_parameters_changed_by_the_server_break_nothing() {
    let cluster = Cluster::start();
    let database = cluster.new_database();
    let proxy = Proxy::start(&cluster, Fixture::config(&cluster, &database));
    let login = Login::new("postgres", &database);
    let (mut a, mut b) = (
        login.connect(&proxy.tcp()).expect("trusted"),
        login.connect(&proxy.tcp()).expect("trusted"),
    );
    let pid = a.backend_pid();
    let mut observer = cluster.superuser(&database);
    for (name, value) in
        [("timezone", "Europe/Paris"), ("datestyle", "German"), ("timezone", "UTC")]
    {
        observer.rows(&format!("alter system set {name} = '{value}'"));
        // The idle backend reports the change, at the latest behind its next answer.
        observer.rows("select pg_reload_conf()");
        poll("the change is known", || {
            cluster.superuser(&database).value(&format!("show {name}")).starts_with(value)
        });
        crate::support::let_pass(Duration::from_millis(100));
        for client in [&mut a, &mut b] {
            let answers = client.query("select 1");
            let answers: Vec<_> =
                answers.iter().filter(|text| !text.starts_with("S ")).map(String::as_str).collect();
            assert_eq!(answers, ["T", "D 1", "C SELECT 1", "Z I"]);
        }
    }
    assert_eq!(a.backend_pid(), pid, "a harmless message costs no backend");
}

#[test]
fn e41_unasked_error_retires_an_idle_backend() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 3"));
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
    for client in &mut clients {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' \
         and pid <> pg_backend_pid() and application_name <> 'observer'",
        fixture.database
    );
    fixture.observer().rows(&sql);
    poll("the backends are gone", || fixture.backends() == 0);
    for client in &mut clients {
        assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}
