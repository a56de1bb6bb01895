//! Prepared statements and parameters (A8 to A14, C26).

use super::*;

#[test]
fn a08_the_same_definition_is_one_statement() {
    let mut pool = pool(9, 2, 1);
    go(&mut pool, 0, &[Parse("a", "select 1"), Parse("b", "select 1"), Sync]);
    go(&mut pool, 1, &[Parse("a", "select 1"), Sync]);
    assert_eq!(pool.statements(), 1);
    go(&mut pool, 1, &[ParseTypes("c", "select 1", 1), Sync]);
    assert_eq!(pool.statements(), 2);
    go(&mut pool, 1, &[ParseTypes("d", "select 1", 2), ParseTypes("e", "select 1", 1), Sync]);
    assert_eq!(pool.statements(), 3);
}

#[test]
fn a08_literals_of_another_dialect_are_another_statement() {
    let mut pool = pool(9, 2, 1);
    go(&mut pool, 0, &[Query("set DateStyle = SQL")]);
    go(&mut pool, 0, &[Parse("a", "select 1"), Sync]);
    go(&mut pool, 1, &[Parse("a", "select 1"), Sync]);
    assert_eq!(pool.statements(), 2);
}

#[test]
fn a08_names_of_clients_and_ours_do_not_collide() {
    check(
        2,
        &[
            (1, prepare("a", "select 1")),
            (1, prepare("b", "select 2")),
            (0, prepare("pgtandem_1", "select 3")),
            (0, prepare("pgtandem_2", "select 4")),
            (0, vec![CloseStatement("pgtandem_1"), Sync]),
            (0, run("pgtandem_1")),
            (0, run("pgtandem_2")),
            (0, vec![Bind("", "pgtandem_", ""), Sync]),
            (0, vec![DescribeStatement("pgtandem_3"), Sync]),
            (1, run("a")),
            (1, run("b")),
        ],
    );
}

#[test]
fn a08_many_parameter_types_are_renamed_too() {
    let mut pool = pool(9, 2, 1);
    go(&mut pool, 0, &[ParseTypes("a", "select 1", 40_000), Sync]);
    go(&mut pool, 1, &[ParseTypes("a", "select 2", 65_535), Sync]);
    assert_eq!(pool.received(0), ["1", "Z I"]);
    assert_eq!(pool.received(1), ["1", "Z I"]);
}

#[test]
fn a09_eviction_leaves_portals_alone() {
    let portals = vec![
        Parse("a", "rows 2"),
        Parse("b", "select 2"),
        Bind("pa", "a", "x"),
        Bind("pb", "b", "y"),
        Parse("c", "select 3"),
        Execute("pa", 0),
        Execute("pb", 0),
        Sync,
    ];
    check(1, &[(0, portals.clone()), (0, run("a")), (0, run("b")), (0, run("c"))]);
    check(
        1,
        &[
            (0, vec![Query("begin")]),
            (0, portals),
            (0, vec![Bind("pa", "a", "x"), Execute("pa", 1), Sync]),
            (0, prepare("d", "select 4")),
            (0, prepare("e", "select 5")),
            (0, vec![Execute("pa", 0), Sync]),
            (0, vec![Query("commit")]),
        ],
    );
}

const MANY: [(&str, &str); 6] = [
    ("a", "select 1"),
    ("b", "select 2"),
    ("c", "select 3"),
    ("d", "select 4"),
    ("e", "select 5"),
    ("f", "select 6"),
];

#[test]
fn a09_the_limit_is_kept() {
    let mut pool = pool(2, 1, 1);
    for (name, sql) in MANY {
        go(&mut pool, 0, &prepare(name, sql));
    }
    for (name, _) in MANY {
        go(&mut pool, 0, &run(name));
        assert!(pool.statements() <= 3, "two, and the one that was just used");
    }
    assert_eq!(pool.received(0).iter().filter(|text| text.starts_with('E')).count(), 0);
}

#[test]
fn a09_the_limit_is_kept_when_parameters_differ_too() {
    let mut pool = pool(2, 2, 1);
    go(&mut pool, 0, &[Query("set application_name = me")]);
    go(&mut pool, 1, &[Query("set application_name = you")]);
    for (name, sql) in MANY {
        go(&mut pool, 0, &prepare(name, sql));
        go(&mut pool, 1, &prepare(name, sql));
    }
    for (name, _) in MANY {
        go(&mut pool, 0, &run(name));
        go(&mut pool, 1, &run(name));
        assert!(pool.statements() <= 3, "two, and the one that was just used");
    }
}

#[test]
fn a08_a_duplicate_leaves_nothing_to_others() {
    check(
        2,
        &[
            (1, vec![Query("set application_name = me")]),
            (0, prepare("s", "select 1")),
            (0, vec![Parse("s", "select 2"), Sync]),
            (1, run("s")),
            (1, prepare("s", "select 3")),
            (0, run("s")),
        ],
    );
}

#[test]
fn a10_deallocate_all_forgets_the_clients_statements() {
    for all in ["deallocate all", "discard all", "select 7; deallocate all; select 8"] {
        check(
            3,
            &[
                (0, prepare("s", "select 1")),
                (1, prepare("s", "select 1")),
                (1, prepare("t", "select 2")),
                (0, vec![Query(all)]),
                (0, run("s")),
                (1, run("s")),
                (1, run("t")),
                (0, prepare("s", "select 2")),
                (0, run("s")),
            ],
        );
    }
    let extended = vec![Parse("", "discard all"), Bind("", "", ""), Execute("", 0), Sync];
    check(
        3,
        &[
            (0, prepare("s", "select 1")),
            (1, prepare("s", "select 1")),
            (0, extended),
            (0, run("s")),
            (1, run("s")),
            (0, prepare("s", "select 1")),
        ],
    );
}

#[test]
fn a10_what_is_prepared_behind_it_stays() {
    check(
        3,
        &[
            (0, prepare("s", "select 1")),
            (0, vec![Query("deallocate all"), Parse("s", "select 2"), Sync]),
            (0, run("s")),
        ],
    );
}

#[test]
fn a10_what_was_held_before_it_is_prepared_again() {
    check(
        3,
        &[
            (1, prepare("t", "select 1")),
            (0, vec![Query("deallocate all"), Parse("s", "select 1"), Sync]),
            (0, run("s")),
            (1, run("t")),
        ],
    );
}

#[test]
fn a10_what_is_gone_is_not_prepared_again_for_what_was_sent_with_it() {
    // There is room for one, and "t" has it.
    let begin = || [(0, prepare("s", "select 1")), (0, prepare("t", "select 2"))];
    let end = || [(0, run("s")), (0, run("t")), (0, prepare("s", "select 3"))];
    for all in ["deallocate all", "discard all", "select 7; deallocate all; select 8"] {
        for last in [Bind("", "s", "x"), DescribeStatement("s"), Parse("s", "select 3")] {
            let burst = (0, vec![Query(all), last, Sync]);
            check(1, &[begin().as_slice(), &[burst], &end()].concat());
        }
        let burst = (0, vec![Query(all), Bind("", "u", "x"), CloseStatement("s"), Sync]);
        check(1, &[begin().as_slice(), &[burst], &end()].concat());
    }
    // Here it is skipped, and what was prepared behind stays.
    let burst =
        [Query("discard all"), Parse("s", "select 3"), Bind("", "u", ""), CloseStatement("s")];
    check(1, &[begin().as_slice(), &[(0, burst.to_vec()), (0, vec![Sync])], &end()].concat());
    let segment = [Parse("", "discard all"), Bind("", "", ""), Execute("", 0)];
    for last in [Bind("", "s", "x"), DescribeStatement("s"), Parse("s", "select 3")] {
        let burst = (0, [segment.as_slice(), &[last, Sync]].concat());
        check(1, &[begin().as_slice(), &[burst], &end()].concat());
    }
}

#[test]
fn a11_sql_prepare_keeps_the_backend() {
    let mut pool = pool(2, 2, 2);
    go(&mut pool, 0, &[Query("prepare x")]);
    go(&mut pool, 1, &[Query("prepare x")]);
    assert_eq!(pool.received(0), ["C PREPARE", "Z I"]);
    assert_eq!(pool.received(1), ["C PREPARE", "Z I"]);
    assert!(!pool.is_free());
    go(&mut pool, 0, &[Query("deallocate all")]);
    go(&mut pool, 1, &[Query("discard all")]);
    assert!(pool.is_free());
}

/// Another client has left a statement of its own on the backend.
fn check_unnamed(limit: usize, bursts: &[Burst]) {
    let left: Burst = vec![Parse("", "select 99"), Bind("", "", "secret"), Execute("", 0), Sync];
    let alternating: Vec<(usize, Burst)> =
        bursts.iter().flat_map(|burst| [(1, left.clone()), (0, burst.clone())]).collect();
    check(limit, &alternating);
    check_with(StatementRules::Unnamed, &[1, 2], &alternating);
}

#[test]
fn a12_the_unnamed_statement_is_the_clients_own() {
    check_unnamed(
        2,
        &[
            run(""),
            vec![DescribeStatement(""), Sync],
            vec![Parse("", "select 1"), Sync],
            run(""),
            run(""),
            vec![DescribeStatement(""), Sync],
            vec![Query("select 2")],
            run(""),
            vec![Parse("", "select 1"), Sync],
            vec![CloseStatement(""), Sync],
            run(""),
            vec![Parse("", "syntax"), Sync],
            run(""),
        ],
    );
}

#[test]
fn a12_what_was_skipped_did_not_change_it() {
    check_unnamed(
        2,
        &[
            vec![Parse("", "select 1"), Sync],
            vec![Bind("", "nosuch", ""), Parse("", "select 2"), Sync],
            run(""),
            vec![Bind("", "nosuch", ""), Query("select 3"), Sync],
            run(""),
            vec![Bind("", "nosuch", ""), CloseStatement(""), Sync],
            run(""),
            vec![Parse("", "select 4"), Parse("", "syntax"), Parse("", "select 5"), Sync],
            run(""),
        ],
    );
}

#[test]
fn a12_a_close_of_ours_that_was_skipped_hides_nothing() {
    check_unnamed(
        2,
        &[
            [vec![Bind("", "nosuch", ""), Bind("", "", ""), Sync], run("")].concat(),
            vec![Query("begin")],
            vec![Query("commit")],
        ],
    );
    // In a transaction the same backend stays.
    check_unnamed(
        2,
        &[vec![
            Bind("", "nosuch", ""),
            Bind("", "", ""),
            Sync,
            Bind("", "", ""),
            Execute("", 0),
            Sync,
        ]],
    );
}

#[test]
fn a12_nor_does_a_parse_that_was_skipped() {
    check_unnamed(
        2,
        &[[vec![Bind("", "nosuch", ""), Parse("", "select 1"), Sync], run("")].concat()],
    );
}

#[test]
fn a12_a_later_segment_is_not_undone() {
    check_unnamed(
        2,
        &[
            vec![Bind("", "nosuch", ""), Parse("", "select 1"), Sync, Parse("", "select 2"), Sync],
            run(""),
            vec![Parse("", "syntax"), Sync, Parse("", "select 3"), Sync],
            run(""),
        ],
    );
}

#[test]
fn a12_a_long_one_keeps_the_backend() {
    let long = |sql| ParseLong("", sql, 300 << 10);
    let bursts = [
        vec![long("select 1"), Sync],
        run(""),
        vec![Bind("", "nosuch", ""), Parse("", "select 2"), Sync],
        run(""),
        vec![Bind("", "nosuch", ""), Query("select 2"), Sync],
        run(""),
        vec![Query("select 2")],
        run(""),
    ];
    let rules = StatementRules::Rename { limit: 2 };
    let bursts: Vec<(usize, Burst)> = bursts.into_iter().map(|burst| (0, burst)).collect();
    let scripts = [bursts.iter().map(|(_, burst)| burst.clone()).collect()];
    let expected = direct(&scripts)[0].concat();
    let mut pool = Pool::new(rules, 1, 2, Dice::All);
    for (client, burst) in &bursts {
        go(&mut pool, *client, burst);
    }
    assert_eq!(pool.received(0), expected);
    assert!(pool.is_free());
    go(&mut pool, 0, &[long("select 1"), Sync]);
    assert!(!pool.is_free());
    go(&mut pool, 0, &[Query("select 1")]);
    assert!(pool.is_free());
    go(&mut pool, 0, &[long("syntax"), Sync]);
    go(&mut pool, 0, &[Bind("", "nosuch", ""), long("select 1"), Sync]);
    assert!(pool.is_free(), "there is no such statement");
}

#[test]
fn a13_a_statement_of_a_changed_type_works_at_the_second_try() {
    for probe in [run("s"), vec![DescribeStatement("s"), Bind("", "s", ""), Sync]] {
        let mut pool = pool(2, 2, 1);
        go(&mut pool, 0, &prepare("s", "select 1"));
        go(&mut pool, 1, &[Query("alter")]);
        let before = pool.received(0).len();
        go(&mut pool, 0, &probe);
        let error = "E 0A000 cached plan must not change result type";
        assert_eq!(pool.received(0)[before..], [error, "Z I"]);
        go(&mut pool, 0, &run("s"));
        assert_eq!(pool.received(0)[before + 2..], ["2", "D select 1 x", "C SELECT 1", "Z I"]);
    }
}

#[test]
fn a14_the_number_of_statements_is_bounded() {
    use crate::session::front::STATEMENTS_MAX;
    let mut pool = pool(2, 1, 1);
    for number in 0..=STATEMENTS_MAX {
        let name: &'static str = Box::leak(format!("s{number}").into_boxed_str());
        pool.plan(0, number * 2, &[Parse(name, "select 1"), Sync]);
    }
    pool.run();
    let received = pool.received(0);
    let (accepted, last) = received.split_at(received.len() - 2);
    assert!(accepted.iter().all(|text| text == "1" || text == "Z I"));
    assert_eq!(last, ["E 54000 too many prepared statements in this session", "Z I"]);
}

#[test]
fn a14_the_length_of_a_statement_is_bounded() {
    let mut pool = pool(2, 1, 1);
    go(&mut pool, 0, &[ParseLong("s", "select 1", 17 << 20), Sync]);
    assert_eq!(pool.received(0), ["E 54000 prepared statement is too long", "Z I"]);
    go(&mut pool, 0, &prepare("s", "select 1"));
    assert_eq!(pool.received(0).len(), 2 + 7);
}

#[test]
fn a01_a_failed_segment_does_not_mislead_the_next() {
    let skipped = |message: Message| vec![Bind("", "nosuch", ""), message, Sync];
    // Its Parse was skipped.
    let other = prepare("t", "select 1");
    check(2, &[(0, [skipped(Parse("s", "select 1")), other].concat()), (0, run("t"))]);
    let same = prepare("s", "select 1");
    check(2, &[(0, [skipped(Parse("s", "select 1")), same].concat()), (0, run("s"))]);
    check(2, &[(0, [skipped(Parse("s", "select 1")), run("s")].concat()), (0, run("s"))]);
    // It failed, for two names.
    let other = vec![Parse("t", "syntax"), Sync];
    check(2, &[(0, [vec![Parse("s", "syntax"), Sync], other].concat())]);
    // Its Close was skipped.
    check(
        2,
        &[
            (0, prepare("s", "select 1")),
            (0, [skipped(CloseStatement("s")), run("s")].concat()),
            (0, [skipped(CloseStatement("s")), prepare("s", "select 2")].concat()),
            (0, run("s")),
        ],
    );
    // A Close of ours was skipped.
    check(
        1,
        &[
            (0, prepare("a", "select 1")),
            (0, [skipped(Parse("b", "select 2")), run("a"), run("a")].concat()),
            (0, prepare("b", "select 2")),
            (0, [skipped(Parse("c", "select 3")), run("a"), run("b")].concat()),
        ],
    );
}

#[test]
fn a01_a_pipeline_of_closes_does_not_get_stuck() {
    let closes = |count| vec![CloseStatement("x"); count];
    let parse = vec![Parse("s", "select 1")];
    let bursts = [
        (0, [closes(20_000), vec![Sync]].concat()),
        (0, [parse, closes(20_000), vec![Sync]].concat()),
        (0, [closes(40_000), run("s")].concat()),
    ];
    let scripts = [bursts.iter().map(|(_, burst)| burst.clone()).collect()];
    let expected = direct(&scripts)[0].concat();
    let mut pool = pool(2, 1, 1);
    for (client, burst) in &bursts {
        go(&mut pool, *client, burst);
    }
    assert!(pool.received(0) == expected, "{} replies", pool.received(0).len());
}

#[test]
fn c26_parameters_follow_the_client() {
    check(
        2,
        &[
            (0, vec![Query("set application_name = me")]),
            (1, vec![Query("select 1")]),
            (0, vec![Parse("s", "select 1"), Sync]),
            (1, prepare("t", "set application_name = you")),
            (0, run("s")),
            (1, [run("t"), run("t")].concat()),
        ],
    );
    let mut pool = pool(2, 2, 1);
    go(&mut pool, 0, &[Query("set application_name = me")]);
    go(&mut pool, 1, &[Query("select 1")]);
    assert_eq!(pool.parameter(0, "application_name"), b"me");
    assert_eq!(pool.parameter(1, "application_name"), b"app");
}
