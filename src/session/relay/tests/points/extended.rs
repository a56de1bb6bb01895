//! The extended protocol: errors, order, portals (A1 to A7, A15 to A17, B18).

use super::*;

#[test]
fn plain_pipelines_pass() {
    check(
        2,
        &[
            (0, vec![Query("select 1")]),
            (1, vec![Query("select 1; rows 3; select 2")]),
            (0, vec![Query("")]),
            (0, vec![Parse("", "select 1"), Bind("", "", "a"), Execute("", 0), Sync]),
            (1, vec![Parse("", ""), Bind("", "", ""), Execute("", 0), Sync]),
            (0, prepare("s", "select 3")),
            (1, prepare("s", "copy out")),
            (0, vec![FunctionCall, Query("copy out"), FunctionCall]),
            (1, vec![Sync, Sync]),
            (0, vec![Parse("", "select 1"), Bind("p", "", ""), DescribePortal("p"), Sync]),
        ],
    );
}

#[test]
fn a01_an_error_forgets_what_was_skipped() {
    check(
        2,
        &[
            (0, prepare("kept", "select 1")),
            (
                0,
                vec![
                    Parse("before", "select 2"),
                    Bind("", "nosuch", ""),
                    Parse("behind", "select 3"),
                    CloseStatement("kept"),
                    CloseStatement("before"),
                    Query("select 9"),
                    Sync,
                ],
            ),
            (0, run("kept")),
            (0, run("before")),
            (0, run("behind")),
            (0, prepare("behind", "select 4")),
            (0, run("behind")),
        ],
    );
}

#[test]
fn a01_an_evicted_statement_that_was_not_closed_is_known() {
    check(
        1,
        &[
            (0, prepare("a", "select 1")),
            (0, vec![Parse("b", "select 2"), Bind("", "nosuch", ""), Sync]),
            (0, run("a")),
            (0, run("b")),
            (0, vec![Bind("", "nosuch", ""), Parse("c", "select 3"), Sync]),
            (0, run("a")),
            (0, run("b")),
        ],
    );
}

#[test]
fn a02_a_parse_that_failed_leaves_its_name_free() {
    check(
        2,
        &[
            (0, vec![Parse("s", "syntax"), Bind("", "s", ""), Execute("", 0), Sync]),
            (0, vec![Parse("s", "syntax"), Sync]),
            (1, vec![Parse("s", "syntax"), Sync]),
            (0, prepare("s", "select 1")),
            (0, run("s")),
        ],
    );
}

#[test]
fn a02_also_when_the_next_segment_is_on_its_way() {
    check(
        2,
        &[
            (0, [vec![Parse("s", "syntax"), Sync], prepare("s", "select 1")].concat()),
            (0, run("s")),
        ],
    );
}

#[test]
fn a03_a_parse_that_was_skipped_leaves_no_statement() {
    check(
        2,
        &[
            (1, prepare("t", "select 1")),
            (0, vec![Bind("", "nosuch", ""), Parse("s", "select 1"), Sync]),
            (0, run("s")),
            (0, vec![DescribeStatement("s"), Sync]),
            (0, prepare("s", "select 1")),
        ],
    );
}

#[test]
fn a04_unknown_and_duplicate_names_are_errors_that_one_survives() {
    check(
        2,
        &[
            (0, vec![Bind("", "nosuch", ""), Execute("", 0), Sync]),
            (0, vec![DescribeStatement("nosuch"), Sync]),
            (0, vec![Bind("", "", ""), Execute("", 0), Sync]),
            (0, vec![DescribeStatement(""), DescribePortal("nosuch"), Sync]),
            (0, vec![Execute("nosuch", 0), Sync]),
            (0, prepare("s", "select 1")),
            (0, vec![Parse("s", "select 2"), Bind("", "s", ""), Execute("", 0), Sync]),
            (0, vec![Parse("s", "select 1"), Sync]),
            (0, run("s")),
            (1, prepare("s", "select 2")),
        ],
    );
}

#[test]
fn a04_a_duplicate_in_a_failed_transaction_is_an_aborted_statement() {
    check(
        2,
        &[
            (0, prepare("s", "select 1")),
            (0, vec![Query("begin; fail")]),
            (0, vec![Parse("s", "select 1"), Sync]),
            (0, vec![Parse("t", "rollback"), Bind("", "t", ""), Execute("", 0), Sync]),
            (0, run("s")),
        ],
    );
}

#[test]
fn a04_what_is_malformed_is_the_servers_to_refuse() {
    check(
        2,
        &[
            (0, prepare("s", "select 1")),
            (0, vec![Raw(b'B', b"\0s"), Sync]),
            (0, vec![Raw(b'D', b"Xs\0"), Execute("", 0), Sync]),
            (0, vec![Raw(b'C', b"Xs\0"), CloseStatement("s"), Sync]),
            (0, vec![Raw(b'P', b"t\0select 1\0\0\x01"), Bind("", "t", ""), Sync]),
            (0, vec![Raw(b'P', b"\0select 1\0\0\x01"), Sync]),
            (0, run("s")),
        ],
    );
}

#[test]
fn a05_closing_what_is_not_there_succeeds() {
    check(
        2,
        &[
            (0, vec![CloseStatement("nosuch"), CloseStatement(""), ClosePortal("p"), Sync]),
            (0, prepare("s", "select 1")),
            (0, vec![CloseStatement("s"), CloseStatement("s"), Sync]),
            (0, run("s")),
            (0, vec![CloseStatement("s"), Query("select 1")]),
        ],
    );
}

#[test]
fn a06_replies_of_ours_come_in_their_turn() {
    check(
        1,
        &[
            (0, prepare("s", "select 1")),
            (1, vec![Parse("t", "select 1"), CloseStatement("t"), Sync]),
            (1, vec![CloseStatement("x"), Parse("t", "select 2"), CloseStatement("y"), Sync]),
            (1, vec![Parse("u", "select 2"), CloseStatement("t"), Parse("t", "rows 2"), Sync]),
            (0, vec![CloseStatement("s"), CloseStatement("t"), Query("select 1")]),
            (0, vec![CloseStatement("s"), FunctionCall, Parse("s", "select 1"), Sync]),
            (
                0,
                vec![
                    Bind("", "s", ""),
                    CloseStatement("a"),
                    Execute("", 0),
                    CloseStatement("b"),
                    DescribePortal(""),
                    CloseStatement("c"),
                    Sync,
                    CloseStatement("d"),
                    Sync,
                ],
            ),
        ],
    );
}

#[test]
fn a07_what_we_prepare_is_not_seen() {
    check(
        1,
        &[
            (0, prepare("a", "select 1")),
            (0, run("a")),
            (1, prepare("b", "select 2")),
            (0, run("a")),
            (1, run("b")),
            (0, [run("a"), run("a")].concat()),
            (0, vec![DescribeStatement("a"), Bind("", "a", ""), Execute("", 0), Sync]),
        ],
    );
}

#[test]
fn a07_when_it_fails_there_is_one_error() {
    check(
        2,
        &[
            (0, prepare("s", "select 1")),
            (0, vec![Query("begin; fail")]),
            (0, run("s")),
            (0, vec![DescribeStatement("s"), Bind("", "s", ""), Sync]),
            (0, vec![Query("rollback")]),
            (0, run("s")),
        ],
    );
}

#[test]
fn a15_flush_brings_the_replies() {
    check(
        2,
        &[
            (0, vec![Flush]),
            (0, vec![Parse("s", "select 1"), Flush]),
            (0, vec![Bind("", "s", ""), DescribePortal(""), Flush]),
            (0, vec![CloseStatement("x"), Flush]),
            (0, vec![Execute("", 0), CloseStatement("x"), Flush]),
            (0, vec![Sync]),
            (0, vec![Parse("s", "select 1"), CloseStatement("x"), Flush]),
            (0, vec![Flush, CloseStatement("x"), Flush, Sync]),
            (0, run("s")),
        ],
    );
}

#[test]
fn a15_a_lone_flush_keeps_no_backend() {
    let mut pool = pool(2, 1, 1);
    go(&mut pool, 0, &[Flush, Flush]);
    assert!(pool.is_free());
    go(&mut pool, 0, &[Parse("", "select 1"), Flush]);
    assert!(!pool.is_free());
    go(&mut pool, 0, &[Sync]);
    assert!(pool.is_free());
}

#[test]
fn a16_a_suspended_portal_ends_with_its_transaction() {
    check(
        2,
        &[
            (0, prepare("s", "rows 5")),
            (0, vec![Bind("", "s", ""), Execute("", 2), Execute("", 2), Sync]),
            (0, vec![Execute("", 2), Sync]),
            (0, vec![Query("begin")]),
            (0, vec![Bind("p", "s", ""), Execute("p", 2), Sync]),
            (0, vec![Execute("p", 2), Sync]),
            (0, vec![Execute("p", 2), Execute("p", 2), Sync]),
            (0, vec![Query("commit")]),
            (0, vec![Execute("p", 2), Sync]),
        ],
    );
}

#[test]
fn a17_more_in_flight_keeps_the_backend() {
    let burst = [
        vec![Query("select 1"), Query("select 2")],
        prepare("s", "rows 3"),
        vec![Query("fail"), Query("select 3"), FunctionCall],
        run("s"),
    ];
    check(2, &[(0, burst.concat()), (1, vec![Query("select 4")]), (0, burst[3].clone())]);
}

#[test]
fn b18_a_transaction_keeps_the_backend() {
    let mut pool = pool(2, 2, 1);
    go(&mut pool, 0, &[Query("begin; select 1")]);
    assert!(!pool.is_free());
    go(&mut pool, 1, &[Query("select 2")]);
    assert!(pool.received(1).is_empty());
    go(&mut pool, 0, &[Query("fail")]);
    assert!(!pool.is_free());
    go(&mut pool, 0, &[Query("rollback")]);
    assert!(pool.is_free());
    assert_eq!(pool.received(1).len(), 4);
}
