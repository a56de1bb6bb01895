//! Statement mode: a backend per statement, and no transaction blocks.

use crate::support::{fixture::Fixture, message::*};

#[test]
fn statement_mode_refuses_transaction_blocks() {
    for begin in [
        vec![query("begin")],
        vec![query("start transaction; select 1")],
        vec![parse("", "begin"), bind("", ""), execute(""), sync()],
    ] {
        let fixture = Fixture::statement();
        let (mut a, mut b) = (fixture.connect(), fixture.connect());
        a.send(&begin);
        let said = a.until_end();
        assert!(said.to_string().ends_with("E FATAL 0A000 | EOF"), "{said}");
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn statement_mode_leaves_nothing_of_a_refused_block() {
    let fixture = Fixture::statement();
    fixture.observer().rows("create table t (x int)");
    let mut a = fixture.connect();
    a.send(&[query("begin; insert into t values (1)")]);
    a.until_end();
    let mut b = fixture.connect();
    assert_eq!(b.query("select count(*) from t"), "T | D 0 | C SELECT 1 | Z I");
    assert_eq!(b.query("commit"), "N 25P01 | C COMMIT | Z I");
}

#[test]
fn statement_mode_allows_a_block_in_one_query() {
    Fixture::statement().both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        let answers = a.query("begin; select 1; commit");
        assert_eq!(answers, "C BEGIN | T | D 1 | C SELECT 1 | C COMMIT | Z I");
        assert_eq!(b.query("select 2"), "T | D 2 | C SELECT 1 | Z I");
        assert_eq!(a.query("select 1/0"), "E 22012 | Z I");
        assert_eq!(a.query("select 3"), "T | D 3 | C SELECT 1 | Z I");
    });
}

#[test]
fn statement_mode_frees_the_backend_after_each_statement() {
    let fixture = Fixture::statement();
    let mut clients: Vec<_> = (0..5).map(|_| fixture.connect()).collect();
    for round in 0..10 {
        for client in &mut clients {
            let answers = client.run(&[
                parse("s", &format!("select {round}")),
                bind("", "s"),
                execute(""),
                close_statement("s"),
                sync(),
            ]);
            assert_eq!(answers, format!("1 | 2 | D {round} | C SELECT 1 | 3 | Z I"));
        }
    }
    assert_eq!(fixture.backends(), 1);
}

#[test]
fn statement_mode_copies() {
    Fixture::statement().both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin"), copy_data("1\n"), copy_done()]);
        assert_eq!(a.ready(1), "G | C COPY 1 | Z I");
        assert_eq!(b.query("copy t to stdout"), "H | d 1 | c | C COPY 1 | Z I");
    });
}
