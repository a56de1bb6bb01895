//! COPY (E39).

use super::*;

fn start(sql: &'static str) -> Burst {
    vec![Parse("", sql), Bind("", "", ""), Execute("", 0)]
}

fn data(text: &'static str) -> Burst {
    vec![CopyData("1"), CopyData(text), CopyDone]
}

#[test]
fn e39_copy_in_of_a_query() {
    let bursts: [(usize, Burst); 9] = [
        (0, vec![Query("copy in")]),
        (0, data("2")),
        (0, vec![Query("copy in")]),
        (0, data("bad")),
        (0, vec![Query("copy in")]),
        (0, vec![CopyData("1"), CopyFail]),
        (0, [vec![Query("copy in; select 1; copy in")], data("2"), data("3")].concat()),
        (0, [vec![Query("copy in; select 1")], data("bad"), vec![Query("select 2")]].concat()),
        (0, [vec![Query("copy in trigger")], data("2"), vec![Query("select 2")]].concat()),
    ];
    check(2, &bursts);
}

#[test]
fn e39_copy_in_of_an_execute() {
    let pipelined = |sql, text| [start(sql), data(text), vec![Sync]].concat();
    check(
        2,
        &[
            (0, pipelined("copy in", "2")),
            (0, pipelined("copy in", "bad")),
            (0, pipelined("copy in trigger", "2")),
            (0, pipelined("select 1", "2")),
            (0, [start("copy in"), vec![CopyFail, Sync]].concat()),
            (0, [start("copy in"), vec![Flush]].concat()),
            (0, vec![CopyData("1"), Flush]),
            (0, vec![CopyDone, Flush]),
            (0, vec![Sync]),
            (0, vec![Query("select 1")]),
        ],
    );
}

#[test]
fn e39_a_sync_inside_copy_is_ignored() {
    let early = |sql| [start(sql), vec![Sync]].concat();
    check(
        2,
        &[
            (0, early("copy in")),
            (0, data("2")),
            (0, vec![Sync]),
            (1, vec![Query("select 1")]),
            (0, early("copy in")),
            (0, [vec![Sync, Sync], data("2"), vec![Sync]].concat()),
            (0, early("copy in")),
            (0, [data("bad"), vec![Sync]].concat()),
            (0, vec![Query("select 1")]),
            (0, early("copy in trigger")),
            (0, vec![Query("select 1")]),
            (0, early("copy in trigger")),
            (0, [data("2"), vec![Sync]].concat()),
            (0, vec![Query("select 1")]),
        ],
    );
}

#[test]
fn e39_what_is_sent_behind_a_copy_that_fails_is_no_part_of_it() {
    let failing = vec![CopyData("bad"), Sync];
    let first = |messages: &[Message]| [messages, &start("copy in"), &failing].concat();
    let lasts: [Burst; 8] = [
        vec![Parse("d", "select 3"), Sync],
        vec![Parse("e", "select 3"), Sync],
        vec![Bind("", "d", "x"), Execute("", 0), Sync],
        vec![DescribeStatement(""), Sync],
        vec![DescribeStatement("d"), Sync],
        vec![CloseStatement("d"), Parse("d", "select 3"), Sync],
        vec![Parse("e", "select 3"), Sync, Bind("", "e", "x"), Execute("", 0), Sync],
        vec![Query("copy in"), CopyData("2"), CopyDone, Sync, CopyData("3"), Sync],
    ];
    for last in lasts {
        let known = [Parse("d", "select 1")];
        check(1, &[(0, known.to_vec()), (0, [first(&[]), last.clone()].concat()), (0, run("d"))]);
        check(1, &[(0, [first(&known), last.clone()].concat()), (0, run("d"))]);
        check(2, &[(0, [known.as_slice(), &[Sync]].concat()), (0, first(&[])), (0, last)]);
    }
}

#[test]
fn e39_copy_in_of_a_prepared_statement_on_a_full_backend() {
    let copy = vec![Bind("", "copy", ""), Execute("", 0), Sync];
    check(
        1,
        &[
            (0, vec![Parse("copy", "copy in"), DescribeStatement("copy"), Sync]),
            (1, prepare("a", "select 1")),
            (0, copy.clone()),
            (0, [data("2"), vec![Sync]].concat()),
            (1, run("a")),
            (1, prepare("b", "select 2")),
            (0, copy),
            (0, [data("2"), vec![Sync]].concat()),
        ],
    );
}

#[test]
fn e39_strays_are_ignored() {
    let strays = || vec![CopyData("1"), CopyDone, CopyFail];
    check(
        2,
        &[
            (0, strays()),
            (0, [strays(), vec![Query("select 1")], strays()].concat()),
            (0, [strays(), prepare("s", "select 1"), strays(), vec![Sync]].concat()),
            (0, [vec![Bind("", "nosuch", "")], strays(), vec![Sync], strays()].concat()),
            (0, vec![Query("fail"), CopyDone, Query("select 1")]),
        ],
    );
}
