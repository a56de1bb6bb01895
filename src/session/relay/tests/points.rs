//! Scripts for the points of the acceptance list that can be seen at this level.

use super::*;

/// Uses a statement once, in a segment of its own.
fn run(name: &'static str) -> Burst {
    vec![Bind("", name, "x"), Execute("", 0), Sync]
}

/// Prepares a statement and uses it.
fn prepare(name: &'static str, sql: &'static str) -> Burst {
    let mut burst = vec![Parse(name, sql), DescribeStatement(name)];
    burst.extend(run(name));
    burst
}

fn pool(limit: usize, clients: usize, backends: usize) -> Pool {
    Pool::new(StatementRules::Rename { limit }, clients, backends, Dice::All)
}

fn go(pool: &mut Pool, client: usize, burst: &[Message]) {
    pool.plan(client, 0, burst);
    pool.run();
}

mod extended {
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
}

mod statements {
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

    #[test]
    fn a09_the_limit_is_kept() {
        let mut pool = pool(2, 1, 1);
        for (name, sql) in [("a", "select 1"), ("b", "select 2"), ("c", "select 3")] {
            go(&mut pool, 0, &prepare(name, sql));
        }
        for name in ["a", "b", "c", "a"] {
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
        for (name, sql) in [("a", "select 1"), ("b", "select 2"), ("c", "select 3")] {
            go(&mut pool, 0, &prepare(name, sql));
            go(&mut pool, 1, &prepare(name, sql));
        }
        for name in ["a", "b", "c", "a"] {
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
        let left: Burst =
            vec![Parse("", "select 99"), Bind("", "", "secret"), Execute("", 0), Sync];
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
                vec![
                    Bind("", "nosuch", ""),
                    Parse("", "select 1"),
                    Sync,
                    Parse("", "select 2"),
                    Sync,
                ],
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
}

mod copy {
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
}
