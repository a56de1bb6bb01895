//! The console over the extended protocol, message by message.

use crate::support::{message::*, wire::Client};

use super::{console, fixture};

/// Bind of an unnamed statement to an unnamed portal, with these result formats.
fn bind_formats(formats: &[u16]) -> Bytes {
    let mut body = b"\0\0\0\0\0\0".to_vec();
    body.extend(u16::try_from(formats.len()).expect("few").to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    message(b'B', &body)
}

#[test]
fn a17_a_show_is_prepared_described_and_executed() {
    let fixture = fixture();
    let mut client = console(&fixture);
    client.send(&[
        parse("s", "SHOW STATE"),
        describe_statement("s"),
        bind("p", "s"),
        describe_portal("p"),
        execute("p"),
        sync(),
    ]);
    let replies = client.replies_until(|reply| reply.tag() == b'Z');
    let tags: String = replies.iter().map(|reply| char::from(reply.tag())).collect();
    assert_eq!(tags, "1tT2TDDDDCZ");
    let described = replies[2].column_types();
    assert_eq!(described, [("key".to_owned(), 25, 0), ("value".to_owned(), 25, 0)]);
    assert_eq!(replies[4].column_types(), described);
    assert_eq!(replies[5].columns(), ["active", "yes"]);
    // And again, as drivers do that cache statements.
    let answers = client.run(&[bind("", "s"), execute(""), sync()]);
    assert_eq!(answers.len(), 1 + 4 + 2, "{answers}");
    assert_eq!(client.run(&[close_statement("s"), sync()]), "3 | Z I");
    assert_eq!(client.run(&[bind("", "s"), sync()]), "E 26000 | Z I");
}

#[test]
fn numbers_and_texts_come_in_binary_if_they_are_asked_for() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let mut row_of = |show: &str, formats: &[u16]| {
        let messages =
            [parse("", show), bind_formats(formats), describe_portal(""), execute(""), sync()];
        client.send(&messages);
        let replies = client.replies_until(|reply| b"Z\0".contains(&reply.tag()));
        assert_eq!(replies[2].tag(), b'T', "{show}: {replies:?}");
        (replies[2].column_types(), replies[3].body().to_vec())
    };
    let (columns, row) = row_of("select 258", &[1]);
    assert_eq!(columns, [("?column?".to_owned(), 23, 1)]);
    assert_eq!(row, b"\0\x01\0\0\0\x04\0\0\x01\x02");
    let (_, row) = row_of("select 258", &[0]);
    assert_eq!(row, b"\0\x01\0\0\0\x03258");
    let (_, row) = row_of("select pg_is_in_recovery()", &[1]);
    assert_eq!(row, b"\0\x01\0\0\0\x01\0");
    // One format for each column: a text, a number as text, a number in binary, …
    let (columns, row) = row_of("show mem", &[0, 0, 1, 1, 0]);
    let formats: Vec<u16> = columns.iter().map(|(.., format)| *format).collect();
    assert_eq!(formats, [0, 0, 1, 1, 0]);
    assert!(row.starts_with(b"\0\x05\0\0\0\x08resident\0\0\0\x041024\0\0\0\x04"), "{row:?}");
    // SHOW STATS has numerics, as in PgBouncer: 0 has no digits at all.
    let (columns, row) = row_of("show stats", &[1]);
    assert_eq!((columns[3].1, columns[3].2), (1700, 1));
    assert!(row.ends_with(b"\0\0\0\x08\0\0\0\0\0\0\0\0"), "{row:?}");
}

#[test]
fn a01_an_error_skips_to_sync() {
    let fixture = fixture();
    let mut client = console(&fixture);
    // Also a query is skipped, as in PostgreSQL.
    client.send(&[
        parse("a", "select 1"),
        parse("b", "nonsense"),
        parse("c", "select 3"),
        bind("", "a"),
        execute(""),
        query("select 4"),
        flush(),
        sync(),
        bind("", "a"),
        execute(""),
        sync(),
    ]);
    assert_eq!(client.ready(2), "1 | E 42601 | Z I | 2 | D 1 | C SELECT 1 | Z I");
    assert_eq!(client.run(&[describe_statement("c"), sync()]), "E 26000 | Z I");
    // A Sync too many is answered too.
    assert_eq!(client.run(&[sync(), sync()]), "Z I | Z I");
}

#[test]
fn a02_a_statement_that_failed_does_not_exist() {
    let fixture = fixture();
    let mut client = console(&fixture);
    assert_eq!(client.run(&[parse("s", "nonsense"), sync()]), "E 42601 | Z I");
    assert_eq!(client.run(&[parse("s", "select 1"), sync()]), "1 | Z I");
    assert_eq!(client.run(&[parse("s", "select 2"), sync()]), "E 42P05 | Z I");
    assert_eq!(client.run(&[bind("", "s"), execute(""), sync()]), "2 | D 1 | C SELECT 1 | Z I");
    // The unnamed one is replaced, and gone if the new one cannot be read.
    assert_eq!(client.run(&[parse("", "select 3"), parse("", "select 4"), sync()]), "1 | 1 | Z I");
    assert_eq!(client.run(&[bind("", ""), execute(""), sync()]), "2 | D 4 | C SELECT 1 | Z I");
    assert_eq!(client.run(&[parse("", "nonsense"), sync()]), "E 42601 | Z I");
    assert_eq!(client.run(&[bind("", ""), sync()]), "E 26000 | Z I");
    assert_eq!(
        client.run(&[close_statement("never"), close_portal("never"), sync()]),
        "3 | 3 | Z I"
    );
    // A simple query ends the unnamed statement.
    assert_eq!(client.run(&[parse("", "select 5"), sync()]), "1 | Z I");
    assert_eq!(client.query("select 6").last(), "Z I");
    assert_eq!(client.run(&[bind("", ""), sync()]), "E 26000 | Z I");
}

#[test]
fn a10_deallocate_and_discard_forget_statements() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let prepare = |client: &mut Client, name: &str| {
        assert_eq!(client.run(&[parse(name, "select 1"), sync()]), "1 | Z I");
    };
    let is_there = |client: &mut Client, name: &str| {
        client.run(&[describe_statement(name), sync()]).len() == 3
    };
    prepare(&mut client, "a");
    assert_eq!(client.query("deallocate A"), "C DEALLOCATE | Z I");
    assert!(!is_there(&mut client, "a"));
    assert_eq!(client.query("deallocate a"), "E 26000 | Z I");
    for sql in ["deallocate all", "DISCARD ALL"] {
        prepare(&mut client, "a");
        prepare(&mut client, "B");
        assert!(is_there(&mut client, "B"));
        client.query(sql);
        assert!(!is_there(&mut client, "a") && !is_there(&mut client, "B"), "{sql}");
    }
}

#[test]
fn a16_rows_are_fetched_in_portions() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let portion = |rows: u32| execute_rows("p", rows);
    let answers = client.run(&[
        parse("s", "show state"),
        bind("p", "s"),
        portion(1),
        portion(2),
        portion(2),
        portion(0),
        sync(),
    ]);
    let expected = "1 | 2 | D active,yes | s | D paused,no | D suspended,no | s | \
                    D shutting_down,no | C SHOW | C SHOW | Z I";
    assert_eq!(answers, expected);
    // Exactly as many as there are: whether there are more is not looked at.
    let answers = client.run(&[bind("p", "s"), portion(4), portion(4), sync()]);
    let rows = "D active,yes | D paused,no | D suspended,no | D shutting_down,no";
    assert_eq!(answers, format!("2 | {rows} | s | C SHOW | Z I"));
    // Outside a transaction a portal ends with Sync, in one it does not.
    assert_eq!(client.run(&[portion(1), sync()]), "E 34000 | Z I");
    assert_eq!(client.query("begin"), "C BEGIN | Z T");
    assert_eq!(client.run(&[bind("p", "s"), portion(1), sync()]), "2 | D active,yes | s | Z T");
    assert_eq!(client.run(&[portion(1), sync()]), "D paused,no | s | Z T");
    assert_eq!(client.run(&[bind("p", "s"), sync()]), "E 42P03 | Z T");
    assert_eq!(client.query("commit"), "C COMMIT | Z I");
    assert_eq!(client.run(&[portion(1), sync()]), "E 34000 | Z I");
}

#[test]
fn what_returns_no_rows_is_described_as_such_and_runs_once() {
    let fixture = fixture();
    let mut client = console(&fixture);
    for (sql, answer) in [
        ("begin", "C BEGIN"),
        ("rollback", "C ROLLBACK"),
        ("show help", "N 00000 | C SHOW"),
        ("set datestyle = iso", "N 00000 | C SET"),
        ("reload", "C RELOAD"),
    ] {
        let messages = [
            parse("", sql),
            describe_statement(""),
            bind("", ""),
            describe_portal(""),
            execute(""),
        ];
        client.send(&[&messages[..], &[sync()]].concat());
        let answers = client.until(b'Z').to_string();
        assert!(answers.starts_with(&format!("1 | t | n | 2 | n | {answer} | Z ")), "{answers}");
    }
    assert_eq!(client.run(&[parse("", ""), bind("", ""), execute(""), sync()]), "1 | 2 | I | Z I");
    let twice = [parse("", "begin"), bind("", ""), execute(""), execute(""), sync()];
    assert_eq!(client.run(&twice), "1 | 2 | C BEGIN | E 55000 | Z T");
}

#[test]
fn bind_must_fit() {
    let fixture = fixture();
    let mut client = console(&fixture);
    let with = |bind: Bytes| [parse("", "show state"), bind, sync()];
    assert_eq!(client.run(&with(bind_values("", "", &["x"]))), "1 | E 08P01 | Z I");
    assert_eq!(client.run(&with(bind_formats(&[0, 0, 0]))), "1 | E 08P01 | Z I");
    assert_eq!(client.run(&with(bind_formats(&[0, 1]))), "1 | 2 | Z I");
    // Of what returns no rows nothing is formatted.
    let messages = [parse("", "begin"), bind_formats(&[0, 1]), sync()];
    assert_eq!(client.run(&messages), "1 | 2 | Z I");
    // Announced parameters must come; what they are does not matter.
    let typed =
        |bind: Bytes| [parse_typed("", "select 1", &[25]), describe_statement(""), bind, sync()];
    assert_eq!(client.run(&typed(bind_values("", "", &["x"]))), "1 | t | T | 2 | Z I");
    assert_eq!(client.run(&typed(bind("", ""))), "1 | t | T | E 08P01 | Z I");
}

#[test]
fn a14_statements_and_portals_are_bounded() {
    let fixture = fixture();
    let mut client = console(&fixture);
    for number in 0..1024 {
        assert_eq!(client.run(&[parse(&number.to_string(), "select 1"), sync()]), "1 | Z I");
    }
    assert_eq!(client.run(&[parse("more", "select 1"), sync()]), "E 54000 | Z I");
    assert_eq!(
        client.run(&[close_statement("7"), parse("more", "select 1"), sync()]),
        "3 | 1 | Z I"
    );
    let mut binds: Vec<Bytes> = (0..17).map(|number| bind(&number.to_string(), "more")).collect();
    binds.push(sync());
    assert_eq!(client.run(&binds), format!("{} | E 54000 | Z I", ["2"; 16].join(" | ")));
}

#[test]
fn a15_flush_sends_what_there_is() {
    let fixture = fixture();
    let mut client = console(&fixture);
    client.send(&[parse("", "select 1"), describe_statement(""), flush()]);
    assert_eq!(client.take(3), "1 | t | T");
    client.send(&[bind("", ""), execute(""), flush()]);
    assert_eq!(client.take(3), "2 | D 1 | C SELECT 1");
    assert_eq!(client.run(&[sync()]), "Z I");
}
