//! Random clients over a few backends, against servers of their own.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const NAMES: &[&str] = &["", "a", "b", "long name"];
const PORTALS: &[&str] = &["", "p"];
const VALUES: &[&str] = &["", "x", "a longer value, so that a cut may fall into it"];
const PLAIN: &[&str] = &[
    "select 1",
    "select 2",
    "rows 3",
    "fail",
    "syntax",
    "",
    "copy out",
    "set application_name = me",
    "set application_name = you",
    "set DateStyle = SQL",
];
const QUERIES: &[&str] = &["syntax", "select 1; rows 2; select 3", "select 1; fail; select 2"];
const FORGETTING: &[&str] =
    &["deallocate all", "discard all", "select 1; deallocate all; fail; select 2"];
const TRANSACTION: &[&str] = &["begin", "begin", "begin", "commit", "rollback"];

/// Whether statements that begin and end transactions are among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transactions {
    Implicit,
    Explicit,
}

fn sql(transactions: Transactions) -> BoxedStrategy<&'static str> {
    match transactions {
        Transactions::Implicit => select(PLAIN).boxed(),
        Transactions::Explicit => prop_oneof![3 => select(PLAIN), 1 => select(TRANSACTION)].boxed(),
    }
}

/// A message of the extended protocol.
fn extended(transactions: Transactions) -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => (select(NAMES), sql(transactions)).prop_map(|(name, sql)| Parse(name, sql)),
        1 => (select(NAMES), sql(transactions), 0..2u16)
            .prop_map(|(name, sql, types)| ParseTypes(name, sql, types)),
        5 => (select(PORTALS), select(NAMES), select(VALUES))
            .prop_map(|(portal, name, value)| Bind(portal, name, value)),
        2 => select(NAMES).prop_map(DescribeStatement),
        1 => select(PORTALS).prop_map(DescribePortal),
        4 => (select(PORTALS), 0..3u8).prop_map(|(portal, rows)| Execute(portal, rows)),
        2 => select(NAMES).prop_map(CloseStatement),
        1 => select(PORTALS).prop_map(ClosePortal),
        1 => Just(Flush),
    ]
}

/// A COPY whose data comes at once, from a statement and a portal that nothing else uses.
fn copy_in() -> impl Strategy<Value = Burst> {
    let sql = prop_oneof![3 => Just("copy in"), 1 => Just("copy in trigger")];
    let data = vec(prop_oneof![3 => Just("data"), 1 => Just("bad")].prop_map(CopyData), 0..4);
    let end = prop_oneof![3 => Just(CopyDone), 1 => Just(CopyFail)];
    (sql, data, end).prop_map(|(sql, data, end)| {
        let start = vec![
            ClosePortal("c"),
            CloseStatement("c"),
            Parse("c", sql),
            Bind("c", "c", ""),
            Execute("c", 0),
        ];
        [start, data, vec![end]].concat()
    })
}

/// What ends with one ReadyForQuery.
fn segment(transactions: Transactions) -> impl Strategy<Value = Burst> {
    let with_sync = vec(extended(transactions), 0..8).prop_map(|mut messages| {
        messages.push(Sync);
        messages
    });
    let query = prop_oneof![
        3 => sql(transactions).prop_map(Query),
        1 => select(QUERIES).prop_map(Query),
        1 => Just(FunctionCall),
    ];
    let with_query = (vec(extended(transactions), 0..2), query, Just(Sync)).prop_map(
        |(mut messages, query, sync)| {
            // If the messages fail, only a Sync ends the segment.
            let has_messages = !messages.is_empty();
            messages.push(query);
            messages.extend(has_messages.then_some(sync));
            messages
        },
    );
    let with_copy = (vec(extended(transactions), 0..3), copy_in())
        .prop_map(|(messages, copy)| [messages, copy, vec![Sync]].concat());
    prop_oneof![6 => with_sync, 3 => with_query, 1 => with_copy]
}

/// What one client sends: in one burst one or several segments.
fn script(
    transactions: Transactions,
    segments: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<Burst>> {
    let burst = vec(segment(transactions), segments).prop_map(|segments| segments.concat());
    // LIMIT: what is pipelined behind these does not know yet that its statements are gone.
    let forgetting = select(FORGETTING).prop_map(|sql| vec![Query(sql)]);
    vec(prop_oneof![9 => burst, 1 => forgetting], 1..8).prop_map(|mut bursts| {
        // Nobody keeps a backend for ever.
        bursts.push(vec![Sync, Query("rollback")]);
        bursts
    })
}

fn check_random(
    scripts: &[Vec<Burst>],
    rules: StatementRules,
    backends: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let expected = direct(scripts);
    let mut pool = Pool::new(rules, scripts.len(), backends, Dice::seeded(seed));
    for (client, script) in scripts.iter().enumerate() {
        let mut after = 0;
        for (burst, expected) in script.iter().zip(&expected[client]) {
            pool.plan(client, after, burst);
            after += expected.len();
        }
    }
    pool.run();
    for (client, expected) in expected.iter().enumerate() {
        prop_assert_eq!(pool.received(client), expected.concat(), "client {}", client);
    }
    prop_assert!(pool.is_free());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn clients_that_wait_get_what_a_server_of_their_own_says(
        scripts in vec(script(Transactions::Explicit, 1..2), 1..4),
        limit in 1..4usize,
        backends in 1..3usize,
        seed in any::<u64>(),
    ) {
        check_random(&scripts, StatementRules::Rename { limit }, backends, seed)?;
    }

    #[test]
    fn clients_that_pipeline_get_what_a_server_of_their_own_says(
        scripts in vec(script(Transactions::Implicit, 1..4), 1..4),
        limit in 1..4usize,
        backends in 1..3usize,
        seed in any::<u64>(),
    ) {
        check_random(&scripts, StatementRules::Rename { limit }, backends, seed)?;
    }

    #[test]
    fn clients_that_keep_a_backend_get_what_it_says(
        script in script(Transactions::Explicit, 1..4),
        seed in any::<u64>(),
    ) {
        let expected = direct(std::slice::from_ref(&script));
        let mut pool = Pool::new(StatementRules::Pass, 1, 1, Dice::seeded(seed));
        pool.plan(0, 0, &script.concat());
        pool.run();
        prop_assert_eq!(pool.received(0), expected[0].concat());
    }
}
