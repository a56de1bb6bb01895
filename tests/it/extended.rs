//! Points A of the acceptance list that are about pipelines: errors, order of answers, Flush,
//! portals.

use std::{fmt::Write, time::Duration};

use crate::differential::everywhere;
use crate::support::{fixture::Fixture, message::*};

#[test]
fn a01_error_in_a_pipeline_skips_to_sync() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        let answers = a.run(&[
            parse("", "select 1"),
            bind("", ""),
            execute(""),
            parse("", "select 1/g from generate_series(0, 0) g"),
            bind("", ""),
            execute(""),
            parse("", "select 'skipped'"),
            bind("", ""),
            execute(""),
            sync(),
            parse("", "select 2"),
            bind("", ""),
            execute(""),
            sync(),
        ]);
        assert_eq!(
            answers,
            "1 | 2 | D 1 | C SELECT 1 | 1 | 2 | E 22012 | Z I | 1 | 2 | D 2 | \
                 C SELECT 1 | Z I"
        );
    });
}

#[test]
fn a01_error_skips_what_arrives_after_it() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.send(&[parse("late", "select nothing_like_it"), flush()]);
        assert_eq!(a.take(1), "E 42703");
        // The error has been answered; these are still to be skipped, a simple query among them
        // excepted: PostgreSQL skips that too.
        a.send(&[parse("later", "select 1"), close_statement("x"), query("select 'skipped'")]);
        a.assert_quiet();
        assert_eq!(a.run(&[sync()]), "Z I");
        assert_eq!(a.run(&[bind("", "later"), sync()]), "E 26000 | Z I");
    });
}

#[test]
fn a01_error_undoes_the_bookkeeping_of_what_it_skips() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.run(&[parse("kept", "select 'kept'"), sync()]), "1 | Z I");
        let answers = a.run(&[
            bind("", "nowhere"),
            close_statement("kept"),
            parse("never", "select 'never'"),
            parse("kept", "select 'another'"),
            sync(),
        ]);
        assert_eq!(answers, "E 26000 | Z I");
        let kept = a.run(&[bind("", "kept"), execute(""), sync()]);
        assert_eq!(kept, "2 | D kept | C SELECT 1 | Z I");
        assert_eq!(a.run(&[describe_statement("never"), sync()]), "E 26000 | Z I");
        let never = a.run(&[parse("never", "select 7"), bind("", "never"), execute(""), sync()]);
        assert_eq!(never, "1 | 2 | D 7 | C SELECT 1 | Z I");
    });
}

#[test]
fn a01_each_segment_of_a_pipeline_fails_alone() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        let segment = |sql| [parse("", sql), bind("", ""), execute(""), sync()].concat();
        a.send(&[
            segment("select 1"),
            segment("select 1/0"),
            segment("selec"),
            segment("select 2"),
            query("select 3; select 1/0; select 4"),
            segment("select 5"),
        ]);
        assert_eq!(
            a.ready(6),
            "1 | 2 | D 1 | C SELECT 1 | Z I | 1 | E 22012 | Z I | E 42601 | Z I | 1 | \
                 2 | D 2 | C SELECT 1 | Z I | T | D 3 | C SELECT 1 | E 22012 | Z I | 1 | 2 | \
                 D 5 | C SELECT 1 | Z I"
        );
    });
}

#[test]
fn a01_error_in_a_transaction_leaves_it_failed() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        let answers = a.run(&[parse("", "select 1/0"), bind("", ""), execute(""), sync()]);
        assert_eq!(answers, "1 | E 22012 | Z E");
        assert_eq!(a.run(&[parse("", "select 1"), sync()]), "E 25P02 | Z E");
        assert_eq!(a.run(&[sync()]), "Z E");
        assert_eq!(a.query("commit"), "C ROLLBACK | Z I");
    });
}

#[test]
fn a06_answers_keep_their_order_when_the_proxy_gives_some_itself() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.run(&[parse("s", "select 1"), sync()]), "1 | Z I");
        let mut b = peer.connect("b");
        assert_eq!(b.run(&[parse("t", "select 1"), close_statement("t"), sync()]), "1 | 3 | Z I");
        let answers = b.run(&[
            parse("u", "select 1"),
            bind("", "u"),
            describe_portal(""),
            execute(""),
            close_statement("u"),
            parse("u", "select 2"),
            describe_statement("u"),
            bind("p", "u"),
            close_portal("p"),
            close_statement("u"),
            close_statement("nowhere"),
            parse("u", "select 3"),
            bind("", "u"),
            execute(""),
            sync(),
        ]);
        assert_eq!(
            answers,
            "1 | 2 | T | D 1 | C SELECT 1 | 3 | 1 | t | T | 2 | 3 | 3 | 3 | 1 | 2 | \
                 D 3 | C SELECT 1 | Z I"
        );
    });
}

#[test]
fn a06_answers_keep_their_order_when_statements_are_evicted() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 2"));
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for round in 0..3 {
            for client in [&mut a, &mut b] {
                let mut messages = Vec::new();
                let mut expected = String::new();
                for number in 0..5 {
                    let name = format!("s{round}{number}");
                    messages.push(parse(&name, &format!("select {number} as round{round}")));
                    messages.push(bind("", &name));
                    messages.push(execute(""));
                    let _ = write!(expected, "1 | 2 | D {number} | C SELECT 1 | ");
                }
                messages.extend([close_statement("s00"), describe_statement("s11"), sync()]);
                let described = if round == 0 { "E 26000" } else { "t | T" };
                let _ = write!(expected, "3 | {described} | Z I");
                assert_eq!(client.run(&messages), expected);
            }
        }
    });
}

#[test]
fn a12_unnamed_statement_stays_with_its_client() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(a.run(&[parse("", "select 1"), sync()]), "1 | Z I");
        assert_eq!(b.run(&[parse("", "select 99"), sync()]), "1 | Z I");
        let answers = a.run(&[describe_statement(""), bind("", ""), execute(""), sync()]);
        assert_eq!(answers, "t | T | 2 | D 1 | C SELECT 1 | Z I");
        let answers = b.run(&[bind("", ""), execute(""), sync()]);
        assert_eq!(answers, "2 | D 99 | C SELECT 1 | Z I");
    });
}

#[test]
fn a12_simple_query_drops_the_unnamed_statement() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(a.run(&[parse("", "select 1"), sync()]), "1 | Z I");
        assert_eq!(b.query("select 2"), "T | D 2 | C SELECT 1 | Z I");
        assert_eq!(a.run(&[bind("", ""), sync()]), "2 | Z I");
        assert_eq!(a.query("select 3"), "T | D 3 | C SELECT 1 | Z I");
        assert_eq!(a.run(&[bind("", ""), sync()]), "E 26000 | Z I");
        assert_eq!(a.run(&[parse("", "select"), sync()]), "1 | Z I");
        assert_eq!(a.run(&[parse("", "selec"), sync()]), "E 42601 | Z I");
        assert_eq!(a.run(&[bind("", ""), sync()]), "E 26000 | Z I");
    });
}

#[test]
fn a12_skipped_unnamed_statement_does_not_exist() {
    everywhere(|peer| {
        for piece in [1, 2, 3, 7, 13, 29, 1000] {
            let mut a = peer.connect(&format!("pieces of {piece}"));
            let skipped = |sql| [bind("", "nowhere"), parse("", sql), sync()].concat();
            a.send_in_pieces(&[skipped("select 1"), skipped("select 2")], piece);
            assert_eq!(a.ready(2), "E 26000 | Z I | E 26000 | Z I");
            assert_eq!(a.run(&[bind("", ""), execute(""), sync()]), "E 26000 | Z I");
            assert_eq!(a.run(&[parse("", "select 3"), sync()]), "1 | Z I");
            a.send_in_pieces(&[skipped("select 4"), skipped("select 5")], piece);
            assert_eq!(a.ready(2), "E 26000 | Z I | E 26000 | Z I");
            // A Parse that is skipped does not even drop its predecessor.
            let answers = a.run(&[bind("", ""), execute(""), sync()]);
            assert_eq!(answers, "2 | D 3 | C SELECT 1 | Z I");
        }
    });
}

#[test]
fn a15_flush_answers_without_sync() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.send(&[parse("", "select 1"), bind("", ""), flush()]);
        assert_eq!(a.take(2), "1 | 2");
        a.send(&[execute(""), flush()]);
        assert_eq!(a.take(2), "D 1 | C SELECT 1");
        a.assert_quiet();
        assert_eq!(a.run(&[sync()]), "Z I");
    });
}

#[test]
fn a15_flush_keeps_the_backend_until_sync() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        // The transaction is open, although no `ReadyForQuery` has told so.
        a.send(&[parse("", "begin"), bind("", ""), execute(""), flush()]);
        assert_eq!(a.take(3), "1 | 2 | C BEGIN");
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        a.send(&[parse("", "create table flushed ()"), bind("", ""), execute(""), flush()]);
        assert_eq!(a.take(3), "1 | 2 | C CREATE TABLE");
        assert_eq!(a.run(&[sync()]), "Z T");
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
        assert_eq!(b.query("select 'flushed'::regclass"), "E 42P01 | Z I");
    });
}

#[test]
fn a15_lone_flush_takes_no_backend() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.send(&[flush()]);
    a.assert_quiet();
    assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(a.query("select 2"), "T | D 2 | C SELECT 1 | Z I");
}

#[test]
fn a15_parse_without_sync_does_not_hold_a_backend_forever() {
    let fixture = Fixture::start(|config| config.general("idle_transaction_timeout = \"500ms\""));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.send(&[parse("", "select 1"), flush()]);
    assert_eq!(a.take(1), "1");
    assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn a16_row_limit_suspends_a_portal() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        let answers = a.run(&[
            parse("", "select generate_series(1, 5)"),
            bind("p", ""),
            execute_rows("p", 2),
            execute_rows("p", 2),
            execute_rows("p", 2),
            sync(),
        ]);
        assert_eq!(answers, "1 | 2 | D 1 | D 2 | s | D 3 | D 4 | s | D 5 | C SELECT 1 | Z I");
        // Outside a transaction, Sync ends the portal.
        assert_eq!(a.run(&[bind("p", ""), execute_rows("p", 1), sync()]), "2 | D 1 | s | Z I");
        assert_eq!(a.run(&[execute_rows("p", 1), sync()]), "E 34000 | Z I");
        // Inside, it does not.
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        assert_eq!(
            a.run(&[
                parse("", "select generate_series(1, 5)"),
                bind("p", ""),
                execute_rows("p", 1),
                sync()
            ]),
            "1 | 2 | D 1 | s | Z T"
        );
        assert_eq!(a.run(&[execute_rows("p", 1), sync()]), "D 2 | s | Z T");
        assert_eq!(a.run(&[close_portal("p"), execute("p"), sync()]), "3 | E 34000 | Z E");
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
    });
}

#[test]
fn a17_ready_between_pipelined_segments_releases_nothing() {
    let fixture = Fixture::transaction();
    let rounds = 300;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                let mut client = fixture.connect();
                let mut messages = Vec::new();
                let mut expected = Vec::new();
                for round in 0..rounds {
                    let value = format!("{worker}-{round}");
                    messages.push(parse("", &format!("select '{value}'")));
                    messages.extend([sync(), bind("", ""), execute(""), sync(), query("begin")]);
                    messages.extend([query("select 'in'"), sync(), query("commit")]);
                    expected.push(format!(
                        "1 | Z I | 2 | D {value} | C SELECT 1 | Z I | C BEGIN | Z T | T | D in | \
                         C SELECT 1 | Z T | Z T | C COMMIT | Z I"
                    ));
                }
                assert_eq!(client.run(&messages), expected.join(" | "));
            });
        }
    });
}

#[test]
fn a17_messages_cut_anywhere_mean_the_same() {
    everywhere(|peer| {
        for size in [1, 2, 3, 4, 5, 6, 7, 11, 64] {
            let mut a = peer.connect(&format!("pieces of {size}"));
            a.send_in_pieces(
                &[
                    parse_typed("named", "select $1 + 1", &[23]),
                    bind_values("", "named", &["41"]),
                    describe_portal(""),
                    execute(""),
                    close_statement("named"),
                    sync(),
                    query("select 'simple'"),
                    parse("", "select 1/0"),
                    bind("", ""),
                    execute(""),
                    sync(),
                ],
                size,
            );
            assert_eq!(
                a.ready(3),
                "1 | 2 | T | D 42 | C SELECT 1 | 3 | Z I | T | D simple | C SELECT 1 | Z I | \
                     1 | E 22012 | Z I"
            );
        }
    });
}

#[test]
fn function_call_is_answered() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        // 1397 is abs(int4).
        assert_eq!(a.run(&[function_call(1397, &["-5"])]), "V 5 | Z I");
        assert_eq!(a.run(&[function_call(1397, &["x"])]), "E 22P02 | Z I");
        assert_eq!(a.run(&[function_call(0, &[])]), "E 42883 | Z I");
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        assert_eq!(a.run(&[function_call(1397, &["-5"])]), "V 5 | Z T");
        assert_eq!(a.query("commit"), "C COMMIT | Z I");
    });
}

#[test]
fn empty_and_several_statements_in_one_query() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.query(""), "I | Z I");
        assert_eq!(a.query(" ; -- nothing"), "I | Z I");
        let answers =
            a.run(&[parse("", ""), bind("", ""), describe_portal(""), execute(""), sync()]);
        assert_eq!(answers, "1 | 2 | n | I | Z I");
        let answers = a.query("select 1; begin; select 2");
        assert_eq!(answers, "T | D 1 | C SELECT 1 | C BEGIN | T | D 2 | C SELECT 1 | Z T");
        assert_eq!(a.query("commit; select 3"), "C COMMIT | T | D 3 | C SELECT 1 | Z I");
    });
}

#[test]
fn quiet_clients_stay_connected() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    let mut b = fixture.connect();
    for _ in 0..3 {
        crate::support::let_pass(Duration::from_millis(200));
        assert_eq!(a.run(&[sync()]), "Z I");
        assert_eq!(b.run(&[sync(), sync()]), "Z I | Z I");
    }
}
