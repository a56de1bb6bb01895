//! Points A of the acceptance list that are about prepared statements shared between clients.

use crate::differential::everywhere;
use crate::support::{
    fixture::{Fixture, Peer},
    message::*,
    poll,
    wire::Client,
};

#[test]
fn a02_failed_parse_leaves_its_name_free() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.run(&[parse("s", "selec"), sync()]), "E 42601 | Z I");
        assert_eq!(a.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
        assert_eq!(a.run(&[parse("s", "select 1"), sync()]), "1 | Z I");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "2 | D 1 | C SELECT 1 | Z I");
    });
}

#[test]
fn a02_failed_parse_fails_for_the_next_client_too() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for client in [&mut a, &mut b] {
            assert_eq!(client.run(&[parse("s", "select * from later"), sync()]), "E 42P01 | Z I");
        }
        assert_eq!(b.query("create table later ()"), "C CREATE TABLE | Z I");
        for client in [&mut a, &mut b] {
            assert_eq!(client.run(&[parse("s", "select * from later"), sync()]), "1 | Z I");
        }
    });
}

#[test]
fn a03_skipped_parse_makes_no_statement() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        let answers = a.run(&[parse("", "selec"), parse("s", "select 1"), sync()]);
        assert_eq!(answers, "E 42601 | Z I");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "E 26000 | Z I");
        assert_eq!(a.run(&[describe_statement("s"), sync()]), "E 26000 | Z I");
        assert_eq!(a.run(&[parse("s", "select 2"), sync()]), "1 | Z I");
    });
}

#[test]
fn a03_skipped_parse_of_a_known_text_makes_no_statement() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(a.run(&[parse("known", "select 1"), sync()]), "1 | Z I");
        for client in [&mut a, &mut b] {
            let skipped = [parse("new", "select 1"), close_statement("known"), sync()];
            let answers = client.run(&[&[execute("nowhere")][..], &skipped].concat());
            assert_eq!(answers, "E 34000 | Z I");
            assert_eq!(client.run(&[bind("", "new"), sync()]), "E 26000 | Z I");
            // The same, sent when the error is already known.
            client.send(&[execute("nowhere"), flush()]);
            assert_eq!(client.take(1), "E 34000");
            assert_eq!(client.run(&skipped), "Z I");
            assert_eq!(client.run(&[bind("", "new"), sync()]), "E 26000 | Z I");
            let answers = client.run(&[parse("new", "select 1"), close_statement("new"), sync()]);
            assert_eq!(answers, "1 | 3 | Z I");
        }
        let answers = a.run(&[bind("", "known"), execute(""), sync()]);
        assert_eq!(answers, "2 | D 1 | C SELECT 1 | Z I");
    });
}

#[test]
fn a03_parse_of_a_known_text_in_a_failed_transaction_fails() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.run(&[parse("known", "select 1"), sync()]), "1 | Z I");
        assert_eq!(a.query("begin; select 1/0"), "C BEGIN | E 22012 | Z E");
        assert_eq!(a.run(&[parse("new", "select 1"), sync()]), "E 25P02 | Z E");
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
        assert_eq!(a.run(&[bind("", "new"), sync()]), "E 26000 | Z I");
    });
}

#[test]
fn a03_parse_in_a_rolled_back_transaction_stays() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        assert_eq!(a.run(&[parse("s", "select 1"), sync()]), "1 | Z T");
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "2 | D 1 | C SELECT 1 | Z I");
    });
}

#[test]
fn a04_unknown_and_duplicate_names_are_plain_errors() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "E 26000 | Z I");
        assert_eq!(a.run(&[describe_statement("s"), sync()]), "E 26000 | Z I");
        assert_eq!(a.run(&[describe_portal("p"), sync()]), "E 34000 | Z I");
        assert_eq!(a.run(&[execute("p"), sync()]), "E 34000 | Z I");
        assert_eq!(a.run(&[parse("s", "select 1"), sync()]), "1 | Z I");
        assert_eq!(a.run(&[parse("s", "select 1"), sync()]), "E 42P05 | Z I");
        let answers = a.run(&[parse("t", "select 2"), parse("t", "select 3"), sync(), sync()]);
        assert_eq!(answers, "1 | E 42P05 | Z I | Z I");
        assert_eq!(a.run(&[bind("", "t"), execute(""), sync()]), "2 | D 2 | C SELECT 1 | Z I");
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        assert_eq!(a.run(&[bind("", "nowhere"), sync()]), "E 26000 | Z E");
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
    });
}

#[test]
fn a05_close_of_an_unknown_name_succeeds() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        let answers =
            a.run(&[close_statement("s"), close_portal("p"), close_statement(""), sync()]);
        assert_eq!(answers, "3 | 3 | 3 | Z I");
    });
}

#[test]
fn a05_close_needs_no_backend() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(b.run(&[parse("s", "select 1"), sync()]), "1 | Z I");
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    assert_eq!(b.run(&[close_statement("s"), sync()]), "3 | Z I");
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    assert_eq!(b.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
}

#[test]
fn a07_repeated_parse_that_fails_answers_the_bind() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 1"));
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(b.query("create table gone ()"), "C CREATE TABLE | Z I");
        assert_eq!(a.run(&[parse("s", "select * from gone"), sync()]), "1 | Z I");
        // Pushes a's statement out of the backend.
        assert_eq!(b.run(&[parse("t", "select 1"), sync()]), "1 | Z I");
        assert_eq!(b.query("drop table gone"), "C DROP TABLE | Z I");
        let answers = a.run(&[bind("", "s"), execute(""), sync(), parse("u", "select 2"), sync()]);
        assert_eq!(answers, "E 42P01 | Z I | 1 | Z I");
        assert_eq!(b.query("create table gone (x int)"), "C CREATE TABLE | Z I");
        assert_eq!(b.run(&[bind("", "t"), execute(""), sync()]), "2 | D 1 | C SELECT 1 | Z I");
    });
}

#[test]
fn a07_what_the_proxy_adds_is_never_seen() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 1"));
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(a.run(&[parse("s", "select 1"), sync()]), "1 | Z I");
        assert_eq!(b.run(&[parse("s", "select 2"), sync()]), "1 | Z I");
        for _ in 0..5 {
            let answers = a.run(&[bind("", "s"), execute(""), sync()]);
            assert_eq!(answers, "2 | D 1 | C SELECT 1 | Z I");
            let answers = b.run(&[describe_statement("s"), bind("", "s"), execute(""), sync()]);
            assert_eq!(answers, "t | T | 2 | D 2 | C SELECT 1 | Z I");
        }
    });
}

#[test]
fn a08_same_text_and_types_share_a_server_statement() {
    // Every worker has names of its own.
    let fixture = Fixture::start(|config| config.general("workers = 1"));
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let name = format!("name{number}");
        assert_eq!(client.run(&[parse(&name, "select 'shared'"), sync()]), "1 | Z I");
        let answers = client.run(&[bind("", &name), execute(""), sync()]);
        assert_eq!(answers, "2 | D shared | C SELECT 1 | Z I");
    }
    let held = server_statements(&mut clients[0], "select ''shared''");
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(!held[0].starts_with("name"), "{held:?} is derived from a client's name");
}

#[test]
fn a08_different_types_do_not_share() {
    let fixture = Fixture::transaction();
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        let sql = "select pg_typeof($1)::text";
        assert_eq!(a.run(&[parse_typed("s", sql, &[23]), sync()]), "1 | Z I");
        assert_eq!(b.run(&[parse_typed("s", sql, &[25]), sync()]), "1 | Z I");
        let answers = a.run(&[bind_values("", "s", &["1"]), execute(""), sync()]);
        assert_eq!(answers, "2 | D integer | C SELECT 1 | Z I");
        let answers = b.run(&[bind_values("", "s", &["1"]), execute(""), sync()]);
        assert_eq!(answers, "2 | D text | C SELECT 1 | Z I");
    });
}

#[test]
fn a08_a_client_may_use_the_names_the_proxy_uses() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    assert_eq!(a.run(&[parse("s", "select 'a'"), sync()]), "1 | Z I");
    let inner = server_statements(&mut a, "select ''a''").pop().expect("it was prepared");
    let mut b = fixture.connect();
    for name in [inner.as_str(), "PGBOUNCER_1"] {
        assert_eq!(b.run(&[bind("", name), sync()]), "E 26000 | Z I");
        assert_eq!(b.run(&[parse(name, "select 'b'"), sync()]), "1 | Z I");
        let answers = b.run(&[bind("", name), execute(""), sync()]);
        assert_eq!(answers, "2 | D b | C SELECT 1 | Z I");
    }
    let answers = a.run(&[bind("", "s"), execute(""), sync()]);
    assert_eq!(answers, "2 | D a | C SELECT 1 | Z I");
}

#[test]
fn a09_eviction_between_bind_and_execute_keeps_the_portal() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 1"));
    fixture.both(|peer| {
        let mut a = peer.connect("a");
        let answers = a.run(&[
            parse("s", "select 1"),
            bind("p", "s"),
            parse("t", "select 2"),
            bind("q", "t"),
            parse("u", "select 3"),
            execute("p"),
            execute("q"),
            bind("", "s"),
            execute(""),
            sync(),
        ]);
        assert_eq!(
            answers,
            "1 | 2 | 1 | 2 | 1 | D 1 | C SELECT 1 | D 2 | C SELECT 1 | 2 | D 1 | \
                 C SELECT 1 | Z I"
        );
    });
}

#[test]
fn a09_the_backend_holds_no_more_than_the_limit() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 3"));
    let mut a = fixture.connect();
    for number in 0..20 {
        let name = format!("s{number}");
        assert_eq!(a.run(&[parse(&name, &format!("select {number}")), sync()]), "1 | Z I");
    }
    let held = a.value("select count(*) from pg_prepared_statements");
    // The limit, and what the last pipeline has added.
    assert!(held.parse::<u32>().expect("a number") <= 3 + 1, "{held} statements");
    for number in 0..20 {
        let answers = a.run(&[bind("", &format!("s{number}")), execute(""), sync()]);
        assert_eq!(answers, format!("2 | D {number} | C SELECT 1 | Z I"));
    }
}

#[test]
fn a09_lowering_the_limit_at_run_time_converges() {
    let mut fixture = Fixture::start(|config| config.general("max_prepared_statements = 20"));
    let mut a = fixture.connect();
    for number in 0..20 {
        let name = format!("s{number}");
        assert_eq!(a.run(&[parse(&name, &format!("select {number}")), sync()]), "1 | Z I");
    }
    for limit in [5, 0] {
        fixture
            .proxy
            .reload(|config| config.general(&format!("max_prepared_statements = {limit}")));
        for _ in 0..20 {
            for number in 0..20 {
                let answers = a.run(&[bind("", &format!("s{number}")), execute(""), sync()]);
                assert_eq!(answers, format!("2 | D {number} | C SELECT 1 | Z I"));
            }
        }
        if limit > 0 {
            // The limit is that of the sessions that begin after the change.
            poll("the backend forgets statements over the new limit", || {
                let mut b = fixture.connect();
                b.run(&[parse("s", "select 'b'"), sync()]);
                b.value("select count(*) <= 5 + 1 from pg_prepared_statements") == "t"
            });
        }
    }
}

/// The ways to say it; each is one message or several.
fn deallocations() -> Vec<Vec<Bytes>> {
    let extended = |sql| vec![parse("", sql), bind("", ""), execute(""), sync()];
    vec![
        vec![query("DEALLOCATE ALL")],
        vec![query("deallocate prepare all")],
        vec![query("DiScArD aLL")],
        vec![query("select 1; /* all of them */ deallocate all")],
        extended("DEALLOCATE ALL"),
        extended("discard all"),
    ]
}

#[test]
fn a10_deallocate_all_clears_this_client_only() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(b.run(&[parse("s", "select 'b'"), sync()]), "1 | Z I");
        for messages in deallocations() {
            assert_eq!(a.run(&[parse("s", "select 'a'"), sync()]), "1 | Z I");
            a.run(&messages);
            assert_eq!(a.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
            let answers = b.run(&[bind("", "s"), execute(""), sync()]);
            assert_eq!(answers, "2 | D b | C SELECT 1 | Z I");
        }
    });
}

#[test]
fn a10_a_name_is_free_right_behind_deallocate_all() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        for sql in ["deallocate all", "discard all"] {
            let run = [parse("s", sql), bind("", "s"), execute("")].concat();
            a.send(&[run, parse("s", "select 1"), bind("", "s"), execute(""), sync()]);
            assert_eq!(a.ready(1).without_parameters().len(), 8, "nothing fails");
            a.send(&[close_statement("s"), sync()]);
            assert_eq!(a.ready(1), "3 | Z I");
        }
    });
}

#[test]
fn a10_what_is_under_way_for_a_name_that_is_gone_fails_with_that_name() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.run(&[parse("s", "select 1"), sync()]);
        a.send(&[query("deallocate all"), bind("", "s"), sync()]);
        assert_eq!(a.ready(2), "C DEALLOCATE ALL | Z I | E 26000 | Z I");
        a.run(&[parse("s", "select 1"), parse("", "discard all"), bind("", ""), sync()]);
        a.send(&[bind("", ""), execute(""), describe_statement("s"), sync()]);
        assert_eq!(a.ready(1).without_parameters(), "2 | C DISCARD ALL | E 26000 | Z I");
    });
}

#[test]
fn a10_deallocate_finds_what_the_protocol_prepared() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for text in ["deallocate s", "DEALLOCATE PREPARE \"s\";", " deallocate S -- gone"] {
            a.run(&[parse("s", "select 1"), sync()]);
            b.run(&[parse("s", "select 1"), sync()]);
            for failed in ["begin; select 1/0", "begin; deallocate nothing"] {
                a.query(failed);
                assert_eq!(a.query(text), "E 25P02 | Z E");
                a.query("rollback");
            }
            assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "2 | D 1 | C SELECT 1 | Z I");
            assert_eq!(a.query(text), "C DEALLOCATE | Z I");
            assert_eq!(a.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
            assert_eq!(a.query(text), "E 26000 | Z I");
            assert_eq!(b.run(&[bind("", "s"), execute(""), sync()]), "2 | D 1 | C SELECT 1 | Z I");
            b.query(text);
        }
        // In one go with what uses the name, and with an unnamed statement that it drops.
        a.run(&[parse("s", "select 1"), parse("", "select 2"), sync()]);
        a.send(&[query("deallocate s"), bind("", "s"), sync(), bind("", ""), sync()]);
        assert_eq!(a.ready(3), "C DEALLOCATE | Z I | E 26000 | Z I | E 26000 | Z I");
        a.send(&[parse("s", "select 3"), sync(), query("deallocate s"), parse("s", "select 4")]);
        a.send(&[bind("", "s"), execute(""), query("deallocate s"), sync()]);
        let answers = "1 | Z I | C DEALLOCATE | Z I | 1 | 2 | D 4 | C SELECT 1 | \
                       C DEALLOCATE | Z I | Z I";
        assert_eq!(a.ready(4), answers);
        // Behind an error it is skipped.
        a.run(&[parse("s", "select 5"), sync()]);
        a.send(&[bind("", "nothing"), query("deallocate s"), sync()]);
        assert_eq!(a.ready(1), "E 26000 | Z I");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "2 | D 5 | C SELECT 1 | Z I");
    });
}

#[test]
fn a10_deallocate_all_is_known_on_other_backends() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for messages in deallocations() {
            assert_eq!(a.run(&[parse("s", "select 'a'"), sync()]), "1 | Z I");
            // One of the two backends is taken away, so that a meets the other one.
            assert_eq!(b.query("begin"), "C BEGIN | Z T");
            let answers = a.run(&[bind("", "s"), execute(""), sync()]);
            assert_eq!(answers, "2 | D a | C SELECT 1 | Z I");
            a.run(&messages);
            assert_eq!(b.query("commit"), "C COMMIT | Z I");
            assert_eq!(a.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
            assert_eq!(a.run(&[parse("s", "select 'a'"), sync()]), "1 | Z I");
            let answers = a.run(&[bind("", "s"), execute(""), close_statement("s"), sync()]);
            assert_eq!(answers, "2 | D a | C SELECT 1 | 3 | Z I");
        }
    });
}

#[test]
fn a11_names_of_sql_prepare_do_not_leak() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    for (client, value) in [(&mut a, 1), (&mut b, 2)] {
        let answers = client.query(&format!("prepare p as select {value}"));
        // It may be refused in this mode; it may not collide.
        if answers == "C PREPARE | Z I" {
            let answers = client.query("execute p");
            assert_eq!(answers, format!("T | D {value} | C SELECT 1 | Z I"));
        } else {
            assert_eq!(answers, "E 0A000 | Z I");
        }
    }
    drop((a, b));
    let mut c = fixture.connect();
    for _ in 0..4 {
        assert_eq!(c.query("execute p"), "E 26000 | Z I");
    }
}

#[test]
fn a13_changed_result_type_can_be_prepared_again() {
    // One backend: another would prepare it anew, and have nothing to complain of.
    let fixture = Fixture::transaction();
    for address in [fixture.cluster.tcp(), fixture.proxy.tcp()] {
        let connect = || fixture.login().connect(&address).expect("everybody is trusted");
        let (mut a, mut b) = (connect(), connect());
        assert_eq!(b.query("create table t (x int)"), "C CREATE TABLE | Z I");
        assert_eq!(a.run(&[parse("s", "select * from t"), sync()]), "1 | Z I");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "2 | C SELECT 0 | Z I");
        assert_eq!(b.query("alter table t add y int"), "C ALTER TABLE | Z I");
        assert_eq!(a.run(&[bind("", "s"), execute(""), sync()]), "E 0A000 | Z I");
        let answers = a.run(&[
            close_statement("s"),
            parse("s", "select * from t"),
            bind("", "s"),
            describe_portal(""),
            execute(""),
            sync(),
        ]);
        assert_eq!(answers, "3 | 1 | 2 | T | C SELECT 0 | Z I");
        let answers = b.run(&[parse("s", "select * from t"), bind("", "s"), execute(""), sync()]);
        assert_eq!(answers, "1 | 2 | C SELECT 0 | Z I");
        assert_eq!(b.query("drop table t"), "C DROP TABLE | Z I");
    }
}

#[test]
fn a14_thousands_of_statements_of_one_client_stay_usable() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        for start in (0..2000).step_by(100) {
            let mut messages: Vec<_> = (start..start + 100)
                .map(|number| parse(&format!("s{number}"), &format!("select {number}")))
                .collect();
            messages.push(sync());
            assert_eq!(a.run(&messages).len(), 101);
        }
        for number in (0..2000).step_by(7) {
            let answers = a.run(&[bind("", &format!("s{number}")), execute(""), sync()]);
            assert_eq!(answers, format!("2 | D {number} | C SELECT 1 | Z I"));
        }
    });
}

#[test]
fn a12_malformed_parse_leaves_the_unnamed_statement_alone() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for other in [false, true] {
            assert_eq!(a.run(&[parse("", "select 'kept'"), sync()]), "1 | Z I");
            // A parameter type is promised and missing; no end of the text.
            for body in [&b"\0select 1\0\0\x01"[..], b"\0select 1"] {
                assert_eq!(a.run(&[message(b'P', body), sync()]), "E 08P01 | Z I");
                if other {
                    assert_eq!(b.run(&[parse("", "select 'of b'"), sync()]), "1 | Z I");
                }
                let answers = a.run(&[bind("", ""), execute(""), sync()]);
                assert_eq!(answers, "2 | D kept | C SELECT 1 | Z I");
            }
        }
    });
}

#[test]
fn a14_memory_of_one_clients_statements_is_bounded() {
    let fixture = Fixture::start(|config| config.general("max_prepared_statements = 2"));
    let (mut greedy, mut other) = (fixture.connect(), fixture.connect());
    let before = fixture.proxy.memory_kib();
    // 64 MiB in all, of names and texts.
    let long = |number: usize| format!("select {number} /*{}*/", "x".repeat(8_000_000));
    let mut kept = 0;
    let refused = loop {
        let answers = greedy.run(&[parse(&format!("s{kept}"), &long(kept)), sync()]);
        if answers != "1 | Z I" {
            break answers;
        }
        kept += 1;
    };
    assert_eq!((refused.to_string().as_str(), kept), ("E 54000 | Z I", 8));
    // The allocator gives memory back within a second or so of its own.
    let growth = || fixture.proxy.memory_kib().saturating_sub(before);
    poll("64 MiB of statements and their copies on the way are gone", || growth() < 128 * 1024);
    // Nothing else is refused: not to it, nor to others, and room that is given back is room.
    assert_eq!(greedy.run(&[bind("", "s0"), execute(""), sync()]), "2 | D 0 | C SELECT 1 | Z I");
    assert_eq!(greedy.run(&[parse("small", "select 1"), sync()]), "1 | Z I");
    assert_eq!(other.run(&[parse("s8", &long(8)), sync()]), "1 | Z I");
    assert_eq!(greedy.run(&[close_statement("s7"), sync()]), "3 | Z I");
    assert_eq!(greedy.run(&[parse("s8", &long(8)), sync()]), "1 | Z I");
    // What nobody has any more does not pile up.
    assert_eq!(greedy.run(&[close_statement("s0"), sync()]), "3 | Z I");
    for number in 0..24 {
        let messages = [parse("other", &long(100 + number)), close_statement("other"), sync()];
        assert_eq!(greedy.run(&messages), "1 | 3 | Z I");
    }
    poll("64 MiB of statements, and the others are gone", || growth() < 192 * 1024);
}

#[test]
fn statements_survive_the_loss_of_a_backend() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    assert_eq!(a.run(&[parse("s", "select 'still here'"), sync()]), "1 | Z I");
    let pid = a.backend_pid();
    fixture.observer().rows(&format!("select pg_terminate_backend({pid})"));
    poll("the proxy notices", || fixture.backends() == 0);
    let answers = a.run(&[bind("", "s"), execute(""), sync()]);
    assert_eq!(answers, "2 | D still here | C SELECT 1 | Z I");
}

#[test]
fn statements_work_in_every_pool_mode() {
    let script = |peer: &Peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        assert_eq!(a.run(&[parse("s", "select 'a'"), sync()]), "1 | Z I");
        assert_eq!(b.run(&[parse("s", "select 'b'"), sync()]), "1 | Z I");
        for (client, value) in [(&mut a, "D a"), (&mut b, "D b")] {
            let answers =
                client.run(&[describe_statement("s"), bind("", "s"), execute(""), sync()]);
            assert_eq!(answers, format!("t | T | 2 | {value} | C SELECT 1 | Z I"));
        }
    };
    for mode in ["session", "transaction", "statement"] {
        let fixture = Fixture::start(|config| {
            config.general(&format!("pool_mode = \"{mode}\"")).general("default_pool_size = 2")
        });
        fixture.both(script);
    }
}

/// Names under which the backend that answers holds statements of this text.
fn server_statements(client: &mut Client, text: &str) -> Vec<String> {
    let sql = format!("select name from pg_prepared_statements where statement = '{text}'");
    client.rows(&sql).into_iter().map(|mut row| row.remove(0)).collect()
}
