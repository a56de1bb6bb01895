//! What is about single buffers: where they are cut, what is in them, whether they are copied.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::message::encoded;
use super::*;
use crate::backend::link::{Effect, Link};
use crate::backend::params::ParamSet;
use crate::backend::statements::Scope;
use crate::fault::{Fault, SqlState};
use crate::session::front::Front;
use crate::session::pins::Pins;
use crate::session::refuse::{Progress, refuse};
use crate::session::relay::{ServerFailure, Shared, from_client, from_server};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};
use crate::wire::header;
use crate::wire::passage::Passage;
use crate::wire::tag::backend as tag;

/// One client and the backend it leases.
struct Pair {
    front: Front,
    link: Link,
    shared: Shared,
}

impl Pair {
    fn new(rules: StatementRules) -> Self {
        let params = Arc::new(ParamSet::default());
        Self {
            front: Front::new(rules, Scope::fresh(), Arc::clone(&params)),
            link: Link::new(params),
            shared: Shared::default(),
        }
    }

    fn renaming() -> Self {
        Self::new(StatementRules::Rename { limit: 2 })
    }

    /// Returns what goes to the server, and what we answer at once.
    fn client(&mut self, input: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let (mut out, mut replies) = (Vec::new(), Vec::new());
        let Self { front, link, shared } = self;
        let turn = from_client(input, front, link, shared, &mut out, &mut replies)?;
        assert!(turn.consumed <= input.len());
        Ok((turn.to_server.to_vec(), replies))
    }

    fn send(&mut self, burst: &[Message]) -> Vec<u8> {
        let (_, replies) = self.client(&encoded(burst)).expect("messages that are allowed");
        replies
    }

    fn server(&mut self, input: &[u8]) -> Result<Vec<u8>, ServerFailure> {
        let mut out = Vec::new();
        let Self { front, link, shared } = self;
        let turn = from_server(input, front, link, shared, &mut out)?;
        assert!(turn.consumed <= input.len());
        Ok(turn.to_client.to_vec())
    }
}

fn error(severity: &str, sqlstate: [u8; 5], text: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    encode::report(&mut message, tag::ERROR_RESPONSE, severity, &sqlstate, text, &[]);
    message
}

const READY: &[u8] = b"Z\0\0\0\x05I";

#[test]
fn what_is_not_changed_is_not_copied() {
    let mut pair = Pair::renaming();
    let (mut out, mut replies) = (Vec::new(), Vec::new());
    let input = encoded(&[
        Parse("", "select 1"),
        Bind("", "", ""),
        Execute("", 0),
        Sync,
        Query("select 2"),
    ]);
    let Pair { front, link, shared } = &mut pair;
    let turn =
        from_client(&input, front, link, shared, &mut out, &mut replies).expect("well-formed");
    assert_eq!(turn.to_server.as_ptr(), input.as_ptr());
    assert_eq!(turn.to_server.len(), input.len());
    let mut out = Vec::new();
    let answer = b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x05\0Z\0\0\0\x05I";
    let turn = from_server(answer, front, link, shared, &mut out).expect("awaited");
    assert_eq!(turn.to_client.as_ptr(), answer.as_ptr());
    assert_eq!(turn.to_client.len(), answer.len());
    assert!(turn.was_ready);
}

#[test]
fn e42_a_large_body_is_not_waited_for() {
    let mut pair = Pair::renaming();
    pair.send(&[Parse("s", "select 1"), Sync]);
    pair.server(b"1\0\0\0\x04Z\0\0\0\x05I").expect("awaited");
    let bind = encoded(&[Bind("", "s", "0123456789")]);
    let (first, second) = bind.split_at(bind.len() - 8);
    let (sent, _) = pair.client(first).expect("well-formed");
    let header = header::read(&sent, 1000).expect("a possible length").expect("a header");
    assert_eq!(sent.len(), header.message_bytes() - 8, "it goes out once the names are known");
    assert_eq!(pair.client(second).expect("well-formed").0, second);
}

#[test]
fn a06_an_answer_of_ours_does_not_land_inside_a_message() {
    let mut pair = Pair::renaming();
    pair.send(&[Query("begin")]);
    pair.server(b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T").expect("awaited");
    pair.send(&[Parse("s", "select 1"), DescribeStatement("s"), CloseStatement("x"), Flush]);
    let mut got = pair.server(b"1\0\0\0\x04t\0\0\0\x06\0\0T\0\0\0\x08ab").expect("awaited");
    got.extend(pair.send(&[Flush]));
    got.extend(pair.server(b"cd").expect("awaited"));
    assert_eq!(got, b"1\0\0\0\x04t\0\0\0\x06\0\0T\0\0\0\x08abcd3\0\0\0\x04");
}

#[test]
fn a04_only_the_error_that_was_provoked_is_replaced() {
    let mut pair = Pair::renaming();
    pair.send(&[Bind("", "pgtandem_9", ""), Sync]);
    let shutdown = error("FATAL", *b"57P01", b"terminating connection");
    assert_eq!(pair.server(&shutdown).expect("awaited"), shutdown);
    let mut pair = Pair::renaming();
    pair.send(&[Bind("", "pgtandem_9", ""), Sync]);
    let provoked = error("ERROR", *b"26000", b"prepared statement \"pgtandem_\" does not exist");
    let expected = error("ERROR", *b"26000", b"prepared statement \"pgtandem_9\" does not exist");
    assert_eq!(pair.server(&provoked).expect("awaited"), expected);
}

#[test]
fn b21_the_servers_last_words_pass() {
    let fatal = error("FATAL", *b"57P01", b"terminating connection");
    for burst in [vec![], vec![Query("select 1")], vec![Parse("s", "select 1"), Sync]] {
        let mut pair = Pair::renaming();
        pair.send(&burst);
        assert_eq!(pair.server(&fatal).expect("an error may come at any time"), fatal);
        assert!(
            !super::super::is_at_rest(&pair.front, &pair.link) || pair.link.expect.is_tainted()
        );
    }
}

#[test]
fn c26_a_refused_parameter_is_a_failure_of_the_backend() {
    let mut pair = Pair::renaming();
    pair.link.expect.push(Awaited::Query, Reply::Swallow, Effect::None);
    pair.send(&[Query("select 1")]);
    let refused = error("ERROR", *b"22023", b"invalid value");
    match pair.server(&refused) {
        Err(ServerFailure::ParameterRefused { sqlstate, message }) => {
            assert_eq!((sqlstate, message.as_slice()), (*b"22023", b"invalid value".as_slice()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn e40_notifications_come_only_to_who_listens() {
    let notification = b"A\0\0\0\x0c\0\0\0\x01a\0b\0";
    let mut pair = Pair::renaming();
    assert_eq!(pair.server(notification).expect("asynchronous"), b"");
    pair.send(&[Query("listen a")]);
    pair.server(b"C\0\0\0\x0bLISTEN\0Z\0\0\0\x05I").expect("awaited");
    assert!(pair.front.state.pins.has(Pins::LISTEN));
    assert_eq!(pair.server(notification).expect("asynchronous"), notification);
    let mut session = Pair::new(StatementRules::Pass);
    assert_eq!(session.server(notification).expect("asynchronous"), notification);
}

#[test]
fn e41_notices_pass_unless_they_are_about_messages_of_ours() {
    let mut notice = error("WARNING", *b"01000", b"careful");
    notice[0] = tag::NOTICE_RESPONSE;
    let mut pair = Pair::renaming();
    assert_eq!(pair.server(&notice).expect("asynchronous"), notice);
    pair.link.expect.push(Awaited::Query, Reply::Swallow, Effect::None);
    assert_eq!(pair.server(&notice).expect("asynchronous"), b"");
}

#[test]
fn e42_bad_lengths_and_tags_end_the_client() {
    for input in [
        b"Q\0\0\0\x03".as_slice(),
        b"Q\xff\xff\xff\xff",
        b"Q\x40\0\0\0",
        b"\0\0\0\0\x08",
        b"p\0\0\0\x05x",
        b"R\0\0\0\x04",
        b"C\0\0\x30\0S",
        b"D\0\0\x30\0S",
    ] {
        let mut pair = Pair::renaming();
        let fault = pair.client(input).expect_err("a violation");
        assert_eq!(fault.sqlstate, SqlState::PROTOCOL_VIOLATION, "{input:?}");
    }
}

#[test]
fn e42_a_flush_with_a_body_does_not_spoil_the_backend() {
    // The server would answer with an error that nothing awaits, and skip up to a Sync.
    let mut pair = Pair::renaming();
    if pair.client(b"H\0\0\0\x05x").is_ok() {
        let malformed = error("ERROR", *b"08P01", b"invalid message format");
        pair.server(&malformed).expect("an error may come at any time");
        assert!(pair.link.expect.is_tainted());
    }
}

#[test]
fn e42_names_are_bounded() {
    for tag in [b'B', b'P'] {
        let mut pair = Pair::renaming();
        let mut input = vec![tag, 0, 1, 0, 0];
        input.resize(60_005, b'n');
        let fault = pair.client(&input).expect_err("a name without an end");
        assert_eq!(fault.sqlstate, SqlState::PROGRAM_LIMIT_EXCEEDED);
    }
}

#[test]
fn session_mode_changes_nothing() {
    let mut pair = Pair::new(StatementRules::Pass);
    let input = encoded(&[
        Parse("pgtandem_1", "select 1"),
        Bind("p", "pgtandem_1", "x"),
        DescribeStatement("pgtandem_1"),
        CloseStatement("nosuch"),
        Parse("", "select 1"),
        Sync,
        Bind("", "", ""),
        Sync,
    ]);
    assert_eq!(pair.client(&input).expect("well-formed"), (input, Vec::new()));
}

#[test]
fn d35_a_refused_request_may_come_in_pieces() {
    let one = [Parse("", "select 1"), Bind("", "", "x"), Execute("", 0), CopyData("1"), Sync];
    let mut input = encoded(&one);
    let request = input.len();
    input.extend(encoded(&[Query("select 2")]));
    let fault = Fault::error(SqlState::QUERY_CANCELED, "canceled");
    let mut expected = Vec::new();
    fault.encode(&mut expected);
    expected.extend_from_slice(READY);
    for cut in 0..=request {
        let (mut progress, mut passage) = (Progress::default(), Passage::default());
        let mut replies = Vec::new();
        let mut done = 0;
        for end in [cut, input.len()] {
            done += refuse(&input[done..end], &mut progress, &mut passage, &fault, &mut replies)
                .expect("well-formed");
        }
        assert_eq!((progress, done), (Progress::Answered, request));
        assert_eq!(replies, expected);
    }
}

/// Bytes that look a little like messages.
fn nearly_messages(tags: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let body = vec(
        prop_oneof![Just(0u8), any::<u8>(), prop::sample::select(b"SPabs\x01".to_vec())],
        0..24,
    );
    let message = (prop::sample::select(tags), body, 0..8u8).prop_map(|(tag, body, slip)| {
        let mut message = Vec::new();
        encode::message(&mut message, tag, |out| out.extend_from_slice(&body));
        match slip {
            0 => message[4] ^= 3,
            1 => message[2] = 1,
            _ => {}
        }
        message
    });
    let soup = vec(any::<u8>(), 0..16);
    vec(prop_oneof![12 => message, 1 => soup], 0..12).prop_map(|pieces| pieces.concat())
}

fn rules() -> impl Strategy<Value = StatementRules> {
    prop_oneof![
        Just(StatementRules::Pass),
        Just(StatementRules::Unnamed),
        (1..3usize).prop_map(|limit| StatementRules::Rename { limit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn e42_no_input_panics(
        rules in rules(),
        turns in vec(
            (nearly_messages(b"QPBDECSHFdcfX"), nearly_messages(b"123CDEGHIKNRSTVWZAcdnstv")),
            1..6,
        ),
    ) {
        let mut pair = Pair::new(rules);
        for (from_client, from_server) in turns {
            if pair.client(&from_client).is_err() || pair.server(&from_server).is_err() {
                break;
            }
        }
    }

    #[test]
    fn e42_no_refused_input_panics(pieces in vec(nearly_messages(b"QPBDECSHFdcfX"), 1..4)) {
        let fault = Fault::error(SqlState::QUERY_CANCELED, "canceled");
        let (mut progress, mut passage) = (Progress::default(), Passage::default());
        let mut replies = Vec::new();
        for piece in pieces {
            match refuse(&piece, &mut progress, &mut passage, &fault, &mut replies) {
                Ok(done) => prop_assert!(done <= piece.len()),
                Err(_) => break,
            }
        }
        prop_assert!(replies.len() <= 100, "one error and one ReadyForQuery at most");
    }
}
