//! The console over the simple protocol.

use crate::support::{message::*, poll};

use super::{column, console, fixture};

#[test]
fn one_command_per_query_with_comments_and_semicolons() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let version = format!("T | D pgtandem {} | C SHOW | Z I", env!("CARGO_PKG_VERSION"));
    for sql in ["SHOW VERSION", "show version;", " -- what runs\n show /* which */ version ;; "] {
        assert_eq!(client.query(sql), version, "{sql}");
    }
    assert_eq!(client.query("select version"), version, "as PgBouncer takes it");
    for sql in ["", " ", ";", "-- nothing", "/* nothing */ ;"] {
        assert_eq!(client.query(sql), "I | Z I", "{sql:?}");
    }
    for sql in ["show version; show state", "nonsense", "show nonsense", "show", "show 'version"] {
        assert_eq!(client.query(sql), "E 42601 | Z I", "{sql}");
    }
    assert_eq!(client.run(&[message(b'Q', b"show \xff\0")]), "E 22021 | Z I");
    assert_eq!(client.query("show version"), version);
}

#[test]
fn errors_are_in_pgbouncers_words_and_say_what_there_is() {
    let fixture = fixture();
    let mut client = console(&fixture);
    client.send(&[query("show nonsense")]);
    let error = client.reply();
    assert_eq!(
        error.field(b'M').as_deref(),
        Some("invalid command 'show nonsense', use SHOW HELP;")
    );
    let hint = error.field(b'H').expect("it helps");
    assert!(hint.contains("POOLS") && hint.contains("WAITS"), "{hint}");
    client.until(b'Z');
    client.send(&[query("show help")]);
    let notice = client.reply();
    assert_eq!(notice.tag(), b'N');
    assert_eq!(notice.field(b'M').as_deref(), Some("Console usage"));
    let detail = notice.field(b'D').expect("it lists the commands");
    assert!(detail.contains("\tSHOW STATS|"), "{detail}");
    assert_eq!(client.until(b'Z'), "C SHOW | Z I");
}

#[test]
fn what_drivers_say_on_their_own_is_answered() {
    let fixture = fixture();
    let mut client = console(&fixture);
    for (sql, expected) in [
        ("select 1", "T | D 1 | C SELECT 1 | Z I"),
        ("SELECT 'x'", "T | D x | C SELECT 1 | Z I"),
        ("select pg_is_in_recovery()", "T | D f | C SELECT 1 | Z I"),
        ("show transaction_read_only", "T | D off | C SHOW | Z I"),
        ("show TRANSACTION ISOLATION LEVEL", "T | D read committed | C SHOW | Z I"),
        ("show client_encoding", "T | D UTF8 | C SHOW | Z I"),
        ("show standard_conforming_strings", "T | D on | C SHOW | Z I"),
        ("set client_encoding to 'UTF8'", "N 00000 | C SET | Z I"),
        ("SET extra_float_digits = 3", "N 00000 | C SET | Z I"),
        ("set session characteristics as transaction read only", "N 00000 | C SET | Z I"),
        ("SET application_name = 'it''s me'", "S application_name=it's me | C SET | Z I"),
        ("BEGIN", "C BEGIN | Z T"),
        ("show client_encoding", "T | D UTF8 | C SHOW | Z T"),
        ("nonsense", "E 42601 | Z T"),
        ("COMMIT", "C COMMIT | Z I"),
        ("begin isolation level read committed", "C BEGIN | Z T"),
        ("ROLLBACK", "C ROLLBACK | Z I"),
        ("DISCARD ALL", "C DISCARD ALL | Z I"),
        ("RESET ALL", "C RESET | Z I"),
    ] {
        assert_eq!(client.query(sql), expected, "{sql}");
    }
    assert_eq!(column(&mut client, "show clients", "application_name"), ["it's me"]);
}

#[test]
fn queries_in_one_write_are_answered_in_order() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let answers = client.run(&[query("select 1"), query("nonsense"), query("select 2"), query("")]);
    let expected =
        "T | D 1 | C SELECT 1 | Z I | E 42601 | Z I | T | D 2 | C SELECT 1 | Z I | I | Z I";
    assert_eq!(answers, expected);
    client.send_in_pieces(&[query("select 3")], 1);
    assert_eq!(client.ready(1), "T | D 3 | C SELECT 1 | Z I");
}

#[test]
fn what_is_no_command_of_the_protocol_is_refused() {
    let fixture = fixture();
    for (bytes, end) in [
        (message(b'Q', b"no end"), "E FATAL 08P01 | EOF"),
        (message(b'?', b""), "E FATAL 08P01 | EOF"),
        (message(b'p', b"secret\0"), "E FATAL 08P01 | EOF"),
        (vec![b'Q', 0, 0, 0, 3], "E FATAL 08P01 | EOF"),
        (vec![b'Q', 0xff, 0xff, 0xff, 0xff], "E FATAL 08P01 | EOF"),
        (query(&"x".repeat(100_000)), "E FATAL 54000 | EOF"),
        (message(b'B', b"\0"), "E FATAL 08P01 | EOF"),
        (message(b'D', b"X\0"), "E FATAL 08P01 | EOF"),
        (message(b'E', b"\0\0"), "E FATAL 08P01 | EOF"),
        (message(b'C', b"S"), "E FATAL 08P01 | EOF"),
        (message(b'P', b"\0select 1\0\0\x01"), "E FATAL 08P01 | EOF"),
        (terminate(), "EOF"),
    ] {
        let mut client = console(&fixture);
        let _ = client.try_send(&bytes);
        assert_eq!(client.until_end(), end, "{bytes:?}");
    }
    let mut client = console(&fixture);
    assert_eq!(client.run(&[function_call(1, &[])]), "E 0A000 | Z I");
    // Left over from a COPY that failed.
    let answers = client.run(&[copy_data("x"), copy_done(), copy_fail("x"), query("select 1")]);
    assert_eq!(answers, "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn a_client_that_says_goodbye_in_the_middle_is_forgotten() {
    let fixture = fixture();
    let mut client = console(&fixture);
    for part in [&b"Q"[..], b"Q\0\0", b"Q\0\0\0\x20show "] {
        let mut other = console(&fixture);
        other.try_send(part).expect("it is listened to");
        drop(other);
    }
    poll("they are gone", || column(&mut client, "show clients", "id").len() == 1);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_can_be_killed() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let mut lazy = console(&fixture);
    std::thread::scope(|scope| {
        // Answers are far more than the socket holds: the console stops listening to it.
        let stuck = scope.spawn(move || lazy.try_send(&query("show help").repeat(1_000_000)));
        for _ in 0..100 {
            assert_eq!(client.query("select 1").last(), "Z I");
        }
        let ids = column(&mut client, "show clients", "id");
        assert_eq!(client.query(&format!("kill_client {}", ids[1])), "C KILL_CLIENT | Z I");
        let sent = stuck.join().expect("it does not panic");
        assert!(sent.is_err(), "nobody has read all of that");
    });
    poll("it is gone", || column(&mut client, "show clients", "id").len() == 1);
}
