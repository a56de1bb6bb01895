//! Point E 42 of the acceptance list: messages of any size, and bytes that are no messages.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::differential::everywhere;
use crate::support::{fixture::Fixture, let_pass, message::*, poll, reply::Reply, wire::Client};

/// Memory a connection may cost, however much passes through it.
const MEMORY_MAX_KIB: u64 = 24 * 1024;

#[test]
fn e42_large_results_pass() {
    everywhere(|peer| {
        let mut a = peer.connect("a");
        a.send(&[query("select repeat('x', 30000000), 1")]);
        let replies = a.replies_until(|reply| reply.tag() == b'Z');
        assert_eq!(replies[1].columns()[0].len(), 30_000_000);
        assert_eq!(replies.len(), 4);
    });
}

#[test]
fn e42_large_messages_of_the_client_pass() {
    let fixture = Fixture::transaction();
    let mut a = fixture.connect();
    let big = "y".repeat(20_000_000);
    assert_eq!(a.value(&format!("select length('{big}')")), "20000000");
    let answers = a.run(&[
        parse("big", "select length($1)"),
        bind_values("", "big", &[&big]),
        execute(""),
        sync(),
    ]);
    assert_eq!(answers, "1 | 2 | D 20000000 | C SELECT 1 | Z I");
    let text = format!("select length('{}')", &big[..10_000_000]);
    let answers = a.run(&[parse("long text", &text), bind("", "long text"), execute(""), sync()]);
    assert_eq!(answers, "1 | 2 | D 10000000 | C SELECT 1 | Z I");
    a.query("create table t (x text)");
    a.send(&[query("copy t from stdin"), copy_data(&big), copy_data("\n"), copy_done()]);
    assert_eq!(a.ready(1), "G | C COPY 1 | Z I");
}

#[test]
fn e42_slow_reader_costs_little_memory() {
    let fixture = Fixture::transaction();
    let mut warm = fixture.connect();
    assert_eq!(warm.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    let before = fixture.proxy.memory_kib();
    let mut a = fixture.connect();
    let sql = "select repeat('x', 1000) from generate_series(1, 200000)";
    a.send(&[query(sql), query("select 'after'")]);
    // The server produces 200 MB; what nobody reads must wait in the server.
    assert_eq!(a.take(1), "T");
    let_pass(Duration::from_secs(1));
    let growth = fixture.proxy.memory_kib().saturating_sub(before);
    assert!(growth < MEMORY_MAX_KIB, "{growth} KiB for one slow reader");
    let mut rows = 0_u32;
    let rest = a.replies_until(|reply| {
        rows += u32::from(reply.tag() == b'D');
        reply.tag() == b'Z'
    });
    assert_eq!((rows, rest.len()), (200_000, 200_002));
    assert_eq!(a.ready(1), "T | D after | C SELECT 1 | Z I");
    let growth = fixture.proxy.memory_kib().saturating_sub(before);
    assert!(growth < MEMORY_MAX_KIB, "{growth} KiB after a large result");
}

#[test]
fn e42_flood_of_a_client_that_waits_costs_little_memory() {
    let fixture = Fixture::transaction();
    let (mut holder, mut flood) = (fixture.connect(), fixture.connect());
    assert_eq!(holder.query("begin"), "C BEGIN | Z T");
    let before = fixture.proxy.memory_kib();
    let text = "y".repeat(1_000_000);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let sql = format!("select length('{text}')");
            // Blocks until the backend is free; the answers are small enough to be read afterwards.
            flood.send(&vec![query(&sql); 100]);
            flood
        });
        let_pass(Duration::from_millis(700));
        let growth = fixture.proxy.memory_kib().saturating_sub(before);
        assert!(growth < MEMORY_MAX_KIB, "{growth} KiB for one waiting client");
        assert_eq!(holder.query("commit"), "C COMMIT | Z I");
        let mut flood = writer.join().expect("the flood is taken in the end");
        assert_eq!(flood.ready(100).len(), 400);
    });
}

#[test]
fn e42_client_that_pipelines_without_reading_stops_only_itself() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    let (mut deaf, mut b) = (fixture.connect(), fixture.connect());
    let before = fixture.proxy.memory_kib();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let sql = "select repeat('x', 100000)";
            let messages: Vec<_> = (0..2000).map(|_| query(sql)).collect();
            deaf.send(&messages);
            deaf
        });
        for _ in 0..20 {
            assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
        let growth = fixture.proxy.memory_kib().saturating_sub(before);
        assert!(growth < MEMORY_MAX_KIB, "{growth} KiB for one deaf client");
        let mut deaf = writer.join().expect("the queries are small");
        let mut ready = 0;
        deaf.replies_until(|reply| {
            ready += usize::from(reply.tag() == b'Z');
            ready == 2000
        });
        assert_eq!(ready, 2000);
    });
}

#[test]
fn e42_wrong_messages_end_the_connection_with_08p01() {
    let mut wrong = vec![
        ("unknown type", message(b'?', b"what")),
        ("a backend's type", message(b'Z', b"I")),
        ("length below four", vec![b'Q', 0, 0, 0, 3]),
        ("length zero", vec![b'Q', 0, 0, 0, 0]),
        ("negative length", vec![b'Q', 0xff, 0xff, 0xff, 0xff]),
        ("smallest length", vec![b'Q', 0x80, 0, 0, 0]),
        ("too long a Sync", vec![b'S', 0x7f, 0xff, 0xff, 0xff]),
    ];
    wrong.push(("zeros", vec![0; 64]));
    let fixture = Fixture::transaction();
    let mut bystander = fixture.connect();
    for (what, bytes) in wrong {
        for before in [&[][..], &[query("begin")]] {
            let mut a = fixture.connect();
            a.send(before);
            a.ready(before.len());
            a.send(std::slice::from_ref(&bytes));
            assert_eq!(a.until_end(), "E FATAL 08P01 | EOF", "{what}");
        }
        assert_eq!(bystander.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn e42_wrong_bodies_are_answered_as_by_the_server() {
    let fixture = Fixture::transaction();
    let bodies = [
        message(b'P', b"no end"),
        message(b'P', b""),
        message(b'B', b"p\0s\0"),
        message(b'D', b"X\0"),
        message(b'D', b""),
        message(b'C', b"X\0"),
        message(b'E', b"p"),
        message(b'Q', b"no end"),
        message(b'Q', b"an end\0and more"),
    ];
    for body in bodies {
        let mut answers = Vec::new();
        for address in [fixture.cluster.tcp(), fixture.proxy.tcp()] {
            let mut a = fixture.login().connect(&address).expect("trusted");
            a.send(&[body.clone(), sync()]);
            let answer = a.reply();
            assert!(answer.tag() == b'E', "{answer:?} to {body:?}");
            answers.push(answer.sqlstate());
        }
        assert_eq!(
            answers[0], answers[1],
            "left: PostgreSQL itself, right: the proxy, to {body:?}"
        );
    }
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn e42_message_over_the_limit_is_refused() {
    let fixture = Fixture::start(|config| config.general("max_packet_size = 100000"));
    let mut a = fixture.connect();
    let fits = "x".repeat(90_000);
    assert_eq!(a.value(&format!("select length('{fits}')")), "90000");
    a.send(&[query(&format!("select length('{fits}{fits}')"))]);
    let end = a.reply();
    assert!(end == Reply::Eof || ["08P01", "54000"].contains(&end.sqlstate().as_str()), "{end:?}");
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn e42_header_may_arrive_late() {
    let fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    let bytes = query("select 'late'");
    for cut in 1..8 {
        a.send(&[bytes[..cut].to_vec()]);
        // A piece of a message takes no backend.
        assert_eq!(b.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        let_pass(Duration::from_millis(20));
        a.send(&[bytes[cut..].to_vec()]);
        assert_eq!(a.ready(1), "T | D late | C SELECT 1 | Z I");
    }
}

#[test]
fn e42_message_may_arrive_in_pieces_while_its_client_waits() {
    for pool_size in [1, 3] {
        let size = format!("default_pool_size = {pool_size}");
        let fixture = Fixture::start(|config| config.general(&size));
        let (mut holder, mut waiter) = (fixture.connect(), fixture.connect());
        for piece in [1, 2, 4, 5, 6, 7, 13, 19] {
            assert_eq!(holder.query("begin"), "C BEGIN | Z T");
            // Waits for the backend to come free, or for another one to be opened.
            waiter.send_in_pieces(&[query("select 'in pieces'")], piece);
            if pool_size == 1 {
                let_pass(Duration::from_millis(20));
            }
            assert_eq!(holder.query("commit"), "C COMMIT | Z I");
            assert_eq!(waiter.ready(1), "T | D in pieces | C SELECT 1 | Z I", "pieces of {piece}");
        }
    }
}

#[test]
fn e42_garbage_before_login_is_refused() {
    let fixture = Fixture::transaction();
    let mut http = String::new();
    let _ = write!(http, "GET / HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.database);
    for bytes in [http.into_bytes(), vec![0; 8], vec![0xff; 64], vec![0, 0, 0, 4], vec![22, 3, 1]] {
        let mut client = fixture.proxy.tcp().open();
        client.send_last(&bytes);
        poll("the proxy hangs up", || client.until_end().last() == "EOF");
    }
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn e42_client_that_never_reads_our_own_answers_stops_only_itself() {
    // What the proxy answers itself: the server has nothing to hold back.
    let held_up = "while another client has the backend";
    let (close, prepare) = (close_statement("s"), parse("s", "select 1"));
    for (case, segment, answers) in [
        ("without a Sync", [close.clone(), flush()].concat(), "3"),
        ("with a Sync", [close.clone(), sync()].concat(), "3 | Z I"),
        (held_up, [close.clone(), sync()].concat(), "3 | Z I"),
        (held_up, [prepare, sync(), close, sync()].concat(), "1 | Z I | 3 | Z I"),
    ] {
        let replies = answers.split(" | ").count();
        let fixture = Fixture::transaction();
        let mut holder = fixture.connect();
        let mut deaf = fixture.login().connect(&fixture.proxy.unix()).expect("trusted");
        let prepared = deaf.run(&[parse("s", "select 1"), sync(), close_statement("s"), sync()]);
        assert_eq!(prepared, "1 | Z I | 3 | Z I");
        if case == held_up {
            assert_eq!(holder.query("begin"), "C BEGIN | Z T");
        }
        let before = fixture.proxy.memory_kib();
        // Small, so that it can be seen whether the proxy still takes any.
        let block = segment.repeat((1 << 14) / segment.len());
        let sent = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let mut writer = deaf.another_end();
            let (block, sent) = (&block, &sent);
            scope.spawn(move || {
                // Blocks for good as soon as nobody reads what it sends.
                while writer.try_send(block).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _end = HangsUp(deaf.another_end());
            let mut stuck_at = 0;
            poll("the proxy reads no more", || {
                let growth = fixture.proxy.memory_kib().saturating_sub(before);
                assert!(growth < MEMORY_MAX_KIB, "{growth} KiB for one deaf client, {case}");
                let_pass(Duration::from_millis(500));
                let now = sent.load(Ordering::Relaxed);
                now == std::mem::replace(&mut stuck_at, now)
            });
            // What it did not read is there, in order.
            for _ in 0..1000 {
                assert_eq!(deaf.take(replies), answers, "{case}");
            }
        });
        // Nor does it hold anybody up when it is gone.
        if case == held_up {
            assert_eq!(holder.query("commit"), "C COMMIT | Z I");
        }
        assert_eq!(holder.query("select 1"), "T | D 1 | C SELECT 1 | Z I", "{case}");
    }
}

/// Ends a connection when dropped, so that a thread which writes to it ends too.
struct HangsUp(Client);

impl Drop for HangsUp {
    fn drop(&mut self) {
        self.0.hang_up();
    }
}
