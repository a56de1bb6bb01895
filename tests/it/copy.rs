//! Point E 39 of the acceptance list: COPY in both directions, and all that can go wrong in it.

use crate::differential::everywhere;
use crate::support::{cluster::Cluster, fixture::Fixture, message::*};

#[test]
fn e39_copy_in_and_out() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin"), copy_data("1\n2\n"), copy_data("3\n"), copy_done()]);
        assert_eq!(a.ready(1), "G | C COPY 3 | Z I");
        assert_eq!(b.query("copy t to stdout"), "H | d 1 | d 2 | d 3 | c | C COPY 3 | Z I");
        let answers = b.run(&[parse("", "copy t to stdout"), bind("", ""), execute(""), sync()]);
        assert_eq!(answers, "1 | 2 | H | d 1 | d 2 | d 3 | c | C COPY 3 | Z I");
        let answers = b.query("copy t to stdout; select count(*) from t; copy t to stdout");
        assert_eq!(answers.len(), 16);
    });
}

#[test]
fn e39_copy_in_waits_for_its_data() {
    let fixture = Fixture::transaction();
    fixture.both(|peer| {
        let mut a = peer.connect("a");
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin")]);
        assert_eq!(a.take(1), "G");
        for value in 0..10 {
            a.send(&[copy_data(&format!("{value}\n"))]);
        }
        a.assert_quiet();
        a.send(&[copy_done()]);
        assert_eq!(a.ready(1), "C COPY 10 | Z I");
    });
}

#[test]
fn e39_extended_copy_in() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.query("create table t (x int)");
        a.send(&[
            parse("c", "copy t from stdin"),
            bind("", "c"),
            execute(""),
            copy_data("1\n"),
            copy_done(),
            sync(),
        ]);
        assert_eq!(a.ready(1), "1 | 2 | G | C COPY 1 | Z I");
        // A driver that sends Sync right behind Execute: PostgreSQL ignores it inside the COPY.
        a.send(&[bind("", "c"), execute(""), sync()]);
        assert_eq!(a.take(2), "2 | G");
        a.send(&[copy_data("2\n"), copy_done(), sync()]);
        assert_eq!(a.ready(1), "C COPY 1 | Z I");
        a.assert_quiet();
        assert_eq!(a.query("select count(*) from t"), "T | D 2 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_error_before_the_data_ends() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        // Simple: what still comes is discarded.
        a.send(&[query("copy t from stdin"), copy_data("1\n"), copy_data("nonsense\n")]);
        assert_eq!(a.ready(1), "G | E 22P02 | Z I");
        a.send(&[copy_data("2\n"), copy_done()]);
        assert_eq!(b.query("select count(*) from t"), "T | D 0 | C SELECT 1 | Z I");
        assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        // Extended and prepared: the same, up to Sync.
        for name in ["", "named"] {
            a.send(&[parse(name, "copy t from stdin"), bind("", name), execute("")]);
            assert_eq!(a.take(3), "1 | 2 | G");
            a.send(&[copy_data("nonsense\n"), copy_data("3\n"), copy_done(), sync()]);
            assert_eq!(a.ready(1), "E 22P02 | Z I");
            assert_eq!(b.query("select count(*) from t"), "T | D 0 | C SELECT 1 | Z I");
        }
        // In a transaction.
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        a.send(&[query("copy t from stdin"), copy_data("nonsense\n"), copy_done()]);
        assert_eq!(a.ready(1), "G | E 22P02 | Z E");
        a.send(&[copy_data("4\n"), copy_done(), copy_fail("late")]);
        assert_eq!(a.query("rollback"), "C ROLLBACK | Z I");
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_copy_that_cannot_begin() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.send(&[query("copy nowhere from stdin"), copy_data("1\n"), copy_done()]);
        assert_eq!(a.ready(1), "E 42P01 | Z I");
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        assert_eq!(a.query("select 2"), "T | D 2 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_copy_given_up_by_the_client() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin"), copy_data("1\n"), copy_fail("no more")]);
        assert_eq!(a.ready(1), "G | E 57014 | Z I");
        a.send(&[
            parse("", "copy t from stdin"),
            bind("", ""),
            execute(""),
            copy_data("1\n"),
            copy_fail("no more"),
            sync(),
        ]);
        assert_eq!(a.ready(1), "1 | 2 | G | E 57014 | Z I");
        assert_eq!(b.query("select count(*) from t"), "T | D 0 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_several_copies_in_one_query() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin; copy t from stdin; select count(*) from t")]);
        assert_eq!(a.take(1), "G");
        a.send(&[copy_data("1\n"), copy_done()]);
        assert_eq!(a.take(2), "C COPY 1 | G");
        a.send(&[copy_data("2\n3\n"), copy_done()]);
        assert_eq!(a.ready(1), "C COPY 2 | T | D 3 | C SELECT 1 | Z I");
        a.send(&[query("copy t from stdin; copy t to stdout"), copy_data("4\n"), copy_done()]);
        assert_eq!(a.ready(1), "G | C COPY 1 | H | d 1 | d 2 | d 3 | d 4 | c | C COPY 4 | Z I");
        assert_eq!(b.query("select count(*) from t"), "T | D 4 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_stray_copy_messages_are_ignored() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.send(&[copy_data("1\n"), copy_done(), copy_fail("stray")]);
        a.assert_quiet();
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        assert_eq!(a.query("select 2"), "T | D 2 | C SELECT 1 | Z I");
        let answers =
            a.run(&[parse("", "select 3"), copy_done(), bind("", ""), execute(""), sync()]);
        assert_eq!(answers, "1 | 2 | D 3 | C SELECT 1 | Z I");
        assert_eq!(a.query("begin"), "C BEGIN | Z T");
        a.send(&[copy_done(), copy_data("x")]);
        assert_eq!(a.query("commit"), "C COMMIT | Z I");
    });
}

#[test]
fn e39_other_messages_inside_copy_in_fail_it() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin"), copy_data("1\n"), flush(), sync(), flush()]);
        assert_eq!(a.take(1), "G");
        a.send(&[copy_done()]);
        assert_eq!(a.ready(1), "C COPY 1 | Z I");
        a.assert_quiet();
        assert_eq!(b.query("select count(*) from t"), "T | D 1 | C SELECT 1 | Z I");
    });
}

/// PostgreSQL ends the connection; so do messages that would wait for an answer at any other place.
#[test]
fn e39_what_waits_elsewhere_ends_the_connection_inside_copy_in() {
    if Cluster::shared().version() < 140_000 {
        // It goes on behind such a message.
        return;
    }
    let messages = [
        parse("new", "select 2"),
        parse("known", "select 2"),
        bind("", "known"),
        bind("", "unknown"),
        bind("", ""),
        describe_statement("unknown"),
        close_statement("known"),
    ];
    everywhere(|peer| {
        let mut b = peer.connect("b");
        for (number, message) in messages.iter().enumerate() {
            let mut a = peer.connect(&format!("a{number}"));
            a.query("drop table if exists t; create table t (x int)");
            a.run(&[parse("known", "select 1"), sync()]);
            a.send(&[query("copy t from stdin"), message.clone()]);
            assert_eq!(a.take(1), "G");
            assert!(a.until_end().to_string().ends_with("EOF"));
        }
        assert_eq!(b.query("drop table t"), "C DROP TABLE | Z I");
    });
}

/// What comes behind the Sync that ends a COPY is no part of it, also if the COPY is over already.
#[test]
fn e39_what_is_sent_behind_a_copy_that_fails_is_no_part_of_it() {
    let segments = [
        vec![parse("known", "select 2"), sync()],
        vec![parse("new", "select 2"), sync(), bind("", "new"), execute(""), sync()],
        vec![bind("", "known"), execute(""), sync()],
        vec![describe_statement(""), sync()],
        vec![close_statement("known"), parse("known", "select 2"), sync()],
    ];
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.query("create table t (x int)");
        for segment in &segments {
            a.run(&[close_statement("known"), close_statement("new"), sync()]);
            a.send(&[parse("known", "select 1")]);
            let copy = [parse("", "copy t from stdin"), bind("", ""), execute("")];
            let copied = [copy_data("bad\n"), sync()];
            a.send(&[copy.as_slice(), &copied, segment].concat());
            let ends = segment.iter().filter(|message| message[0] == b'S').count();
            a.ready(1 + ends);
        }
    });
}

#[test]
fn e39_copy_in_pieces_of_any_size() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        for size in [1, 3, 5, 17] {
            a.query("drop table if exists t; create table t (x int)");
            let messages =
                [query("copy t from stdin"), copy_data("1\n2"), copy_data("2\n"), copy_done()];
            a.send_in_pieces(&[&messages[..], &[query("table t")]].concat(), size);
            assert_eq!(a.ready(2), "G | C COPY 2 | Z I | T | D 1 | D 22 | C SELECT 2 | Z I");
        }
    });
}

#[test]
fn e39_client_gone_in_a_copy_leaves_nothing() {
    let fixture = Fixture::transaction();
    fixture.observer().rows("create table t (x int)");
    for (how, end) in [
        ("silently", vec![]),
        ("between two halves of a message", vec![copy_data("2\n")[..4].to_vec()]),
        ("with Terminate", vec![terminate()]),
    ] {
        eprintln!("gone {how}");
        let mut a = fixture.connect();
        a.send(&[query("copy t from stdin"), copy_data("1\n")]);
        assert_eq!(a.take(1), "G");
        a.send(&end);
        drop(a);
        let mut b = fixture.connect();
        assert_eq!(b.query("select count(*) from t"), "T | D 0 | C SELECT 1 | Z I");
    }
}

#[test]
fn e39_syncs_inside_a_copy_that_fails() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        let extended = || [parse("", "copy t from stdin"), bind("", ""), execute("")].concat();
        let bad = || copy_data("nonsense\n");
        // It has failed before it comes to the Sync, which is therefore answered.
        a.send(&[query("copy t from stdin"), bad(), sync(), copy_done(), sync()]);
        assert_eq!(a.ready(3), "G | E 22P02 | Z I | Z I | Z I");
        a.send(&[extended(), bad(), sync(), copy_done(), sync()]);
        assert_eq!(a.ready(2), "1 | 2 | G | E 22P02 | Z I | Z I");
        // It has not, and ignores it.
        a.send(&[query("copy t from stdin"), copy_data("1\n"), sync(), bad(), copy_done()]);
        assert_eq!(a.ready(1), "G | E 22P02 | Z I");
        a.send(&[extended(), copy_data("1\n"), sync(), bad(), query("select 1"), sync()]);
        assert_eq!(a.ready(1), "1 | 2 | G | E 22P02 | Z I");
        // What comes behind is not mixed up with that.
        a.send(&[query("copy t from stdin"), bad(), sync(), copy_done(), query("select 2")]);
        assert_eq!(a.ready(3), "G | E 22P02 | Z I | Z I | T | D 2 | C SELECT 1 | Z I");
        for next in [query("select 3"), [parse("", "select 3"), sync()].concat()] {
            a.send(&[extended(), bad(), sync(), next]);
            a.ready(2);
        }
        a.assert_quiet();
        assert_eq!(b.query("select 4"), "T | D 4 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_a_sync_is_counted_whenever_it_comes() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("create table t (x int)");
        a.send(&[query("copy t from stdin")]);
        assert_eq!(a.take(1), "G");
        a.send(&[copy_data("1\n"), sync()]);
        a.assert_quiet();
        a.send(&[copy_data("nonsense\n")]);
        assert_eq!(a.ready(1), "E 22P02 | Z I");
        a.send(&[sync(), copy_done(), sync()]);
        assert_eq!(a.ready(2), "Z I | Z I");
        a.send(&[parse("", "copy t from stdin"), bind("", ""), execute(""), flush()]);
        assert_eq!(a.take(3), "1 | 2 | G");
        a.send(&[sync(), copy_data("nonsense\n")]);
        assert_eq!(a.take(1), "E 22P02");
        // Skipped up to the next Sync.
        a.send(&[query("select 1"), copy_done(), sync(), query("select 2")]);
        assert_eq!(a.ready(2), "Z I | T | D 2 | C SELECT 1 | Z I");
        // In the middle of a message.
        a.send(&[query("copy t from stdin")]);
        assert_eq!(a.take(1), "G");
        let data = copy_data("3\n");
        let (start, end) = (data[..6].to_vec(), data[6..].to_vec());
        a.send(&[copy_data("nonsense\n"), sync(), start]);
        assert_eq!(a.ready(2), "E 22P02 | Z I | Z I");
        a.send(&[end, copy_done(), query("select 2")]);
        assert_eq!(a.ready(1), "T | D 2 | C SELECT 1 | Z I");
        a.assert_quiet();
        assert_eq!(b.query("select 3"), "T | D 3 | C SELECT 1 | Z I");
    });
}

#[test]
fn e39_no_message_that_is_answered_without_the_server_hides_in_a_copy() {
    if Cluster::shared().version() < 140_000 {
        // It goes on behind such a message.
        return;
    }
    everywhere(|peer| {
        let mut b = peer.connect("b");
        b.query("create table t (x int)");
        for message in [close_statement("s"), parse("s", "select 1")] {
            for is_known in [false, true] {
                let mut a = peer.connect("a");
                a.run(&[parse("s", "select 1"), sync()]);
                a.run(&[close_statement("s"), sync()]);
                a.send(&[query("copy t from stdin")]);
                if is_known {
                    assert_eq!(a.take(1), "G");
                }
                a.send(std::slice::from_ref(&message));
                let said = a.until_end().to_string();
                assert!(said.ends_with("E 08P01 | E FATAL 08P01 | EOF"), "{said}");
            }
        }
        // Where there is no COPY any more, they are what they always are.
        let mut a = peer.connect("a");
        a.send(&[query("copy t from stdin"), copy_data("x\n"), close_statement("s"), sync()]);
        assert_eq!(a.ready(2), "G | E 22P02 | Z I | 3 | Z I");
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    });
}
