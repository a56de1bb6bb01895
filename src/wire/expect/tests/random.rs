//! Random pipelines against the model: nothing is refused, the client gets what the server says,
//! and the FIFO is at rest exactly when the server is.

use std::collections::VecDeque;
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{Awaited, Expect, Reply, TransactionStatus, Verdict};
use super::model::{Act, Sent, Server};
use crate::wire::tag::backend;

/// What a client does next.
#[derive(Clone)]
enum Step {
    Send(Sent, Reply),
    /// It waits until everything has been answered.
    Wait,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait => f.write_str("Wait"),
            Self::Send(sent, Reply::Forward) => write!(f, "{sent:?}"),
            Self::Send(sent, reply) => write!(f, "{sent:?} {reply:?}"),
        }
    }
}

fn message(awaited: Awaited, act: Act) -> Step {
    Step::Send(Sent::Message(awaited, act), Reply::Forward)
}

/// Some messages that keep to the protocol whatever the server answers.
fn phrase() -> impl Strategy<Value = Vec<Step>> {
    let plain = (
        prop::sample::select(vec![
            Awaited::Parse,
            Awaited::Bind,
            Awaited::Describe,
            Awaited::Execute,
            Awaited::Close,
            Awaited::Sync,
            Awaited::Query,
            Awaited::FunctionCall,
        ]),
        act(),
    );
    let ours =
        (prop::bool::ANY, prop::bool::ANY, act()).prop_map(|(is_parse, is_answered, act)| {
            let awaited = if is_parse { Awaited::Parse } else { Awaited::Close };
            let reply = if is_answered { Reply::Synthesize } else { Reply::Swallow };
            let act = if is_answered { Act::Succeed } else { act };
            vec![Step::Send(Sent::Message(awaited, act), reply)]
        });
    prop_oneof![
        8 => plain.prop_map(|(awaited, act)| vec![message(awaited, act)]),
        3 => ours,
        2 => Just(vec![Step::Wait]),
        2 => Just(vec![message(Awaited::Sync, Act::Succeed)]),
        3 => copy_in(),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Succeed),
        2 => Just(Act::Rows),
        1 => Just(Act::Empty),
        1 => Just(Act::Suspend),
        1 => Just(Act::CopyOut),
        1 => Just(Act::Begin),
        1 => Just(Act::End),
        2 => Just(Act::Fail),
    ]
}

/// A whole COPY, pipelined or not, with Syncs that the server may or may not read inside it.
fn copy_in() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop::sample::select(vec![Act::Succeed, Act::Succeed, Act::Fail]);
    let start = prop::sample::select(vec![Act::CopyIn, Act::CopyIn, Act::CopyIn, Act::CopyInFails]);
    let bools = (prop::bool::ANY, prop::bool::ANY);
    (bools, start, 0..2usize, vec(fate.clone(), 0..3), 0..2usize, fate).prop_map(
        |((is_query, is_followed), start, early, data, late, end)| {
            let awaited = if is_query { Awaited::Query } else { Awaited::Execute };
            let mut steps = vec![message(awaited, start)];
            let sync = || message(Awaited::Sync, Act::Succeed);
            steps.extend((0..early).map(|_| sync()));
            for act in data {
                steps.push(Step::Send(Sent::Data(act), Reply::Forward));
            }
            steps.extend((0..late).map(|_| sync()));
            steps.push(Step::Send(Sent::End(end), Reply::Forward));
            if !is_query {
                steps.push(sync());
            }
            if early + late > 0 {
                // LIMIT: answers of ours right behind may come before a ReadyForQuery that is in doubt.
                steps.push(if is_followed {
                    message(Awaited::Query, Act::Succeed)
                } else {
                    Step::Wait
                });
            }
            steps
        },
    )
}

/// An [`Expect`] between a client and the model.
#[derive(Default)]
struct Between {
    expect: Expect<bool>,
    server: Server,
    to_server: VecDeque<Sent>,
    from_server: VecDeque<u8>,
    received: Vec<u8>,
    /// Whether an extended message was answered by us since the last ReadyForQuery.
    has_answered: bool,
    /// Whether the server was asked where it stands: what a client must not have carried out is
    /// skipped in its place from then on.
    has_asked: bool,
}

impl Between {
    /// As the relay does it.
    fn send(&mut self, sent: Sent, reply: &Reply) {
        let awaited = match sent {
            Sent::Message(awaited, _) => awaited,
            Sent::Data(_) if self.expect.is_skipping() => return,
            Sent::Data(_) => {
                self.expect.data_sent();
                return self.to_server.push_back(sent);
            }
            Sent::End(_) => Awaited::CopyEnd,
        };
        if self.expect.is_skipping() && awaited != Awaited::Sync {
            return;
        }
        self.expect.push(awaited, reply.clone(), true);
        if *reply != Reply::Synthesize {
            self.to_server.push_back(sent);
        }
    }

    fn answer(&mut self) {
        while let Some(entry) = self.expect.pop_synthesized() {
            self.has_answered = true;
            self.received.push(answer_to(entry.awaited));
        }
    }

    /// Lets the server read one message; says whether there was one.
    fn serve(&mut self) -> bool {
        let Some(sent) = self.to_server.pop_front() else { return false };
        self.from_server.extend(self.server.read(sent));
        true
    }

    /// As the worker does it.
    fn ask(&mut self) {
        if self.expect.must_ask() {
            self.has_asked = true;
            for awaited in [Awaited::Sync, Awaited::Close, Awaited::Sync] {
                self.expect.push(awaited, Reply::Swallow, true);
                self.to_server.push_back(Sent::Message(awaited, Act::Succeed));
            }
        }
    }

    /// Takes one message from the server; says whether there was one.
    fn take(&mut self) -> Result<bool, TestCaseError> {
        self.answer();
        let Some(tag) = self.from_server.pop_front() else { return Ok(false) };
        let (verdict, shown) = match tag {
            backend::READY_FOR_QUERY => {
                let status = self.from_server.pop_front().expect("a status");
                self.has_answered = false;
                let known = TransactionStatus::from_byte(status).expect("a status");
                (self.expect.ready(known), vec![tag, status])
            }
            backend::ERROR_RESPONSE => (Ok(self.expect.error(false, |_, _| {})), vec![tag]),
            _ => (self.expect.reply(tag).map(|(verdict, _)| verdict), vec![tag]),
        };
        match verdict {
            Ok(Verdict::Forward) => self.received.extend(shown),
            Ok(Verdict::Drop) => {}
            Ok(Verdict::Replace(_)) => prop_assert!(false, "nothing is replaced here"),
            Err(desync) => prop_assert!(false, "{desync} with {:?}", self.expect),
        }
        self.answer();
        self.ask();
        Ok(true)
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        while self.serve() || self.take()? {}
        Ok(())
    }

    /// What the server has yet to read that is more than the rest of a COPY that failed.
    fn has_unread(&self) -> bool {
        self.to_server.iter().any(|sent| matches!(sent, Sent::Message(..)))
    }

    fn check(&self) -> Result<(), TestCaseError> {
        if self.expect.is_tainted() {
            return Ok(());
        }
        let is_quiet = !self.has_unread()
            && self.from_server.is_empty()
            && self.server.copies_for.is_none()
            && self.expect.entries().all(|entry| entry.reply != Reply::Synthesize);
        let server = &self.server;
        let is_skipping = server.is_skipping || self.has_asked && self.expect.is_skipping();
        let is_at_rest = is_quiet
            && !is_skipping
            && !server.is_open
            && !self.has_answered
            && server.status == TransactionStatus::Idle;
        prop_assert_eq!(self.expect.is_at_rest(), is_at_rest, "{:?} {:?}", self.expect, server);
        if is_quiet {
            prop_assert_eq!(self.expect.is_skipping(), is_skipping);
            let segment = self.expect.segment();
            prop_assert!((0..=segment).all(|earlier| !self.expect.may_fail_yet(earlier)));
        }
        Ok(())
    }
}

fn answer_to(awaited: Awaited) -> u8 {
    if awaited == Awaited::Parse { backend::PARSE_COMPLETE } else { backend::CLOSE_COMPLETE }
}

/// What a client gets that has the server for itself.
fn direct(steps: &[Step]) -> Vec<u8> {
    let mut server = Server::default();
    let mut received = Vec::new();
    for step in steps {
        let Step::Send(sent, reply) = step else { continue };
        let is_read = server.copies_for.is_none() && !server.is_skipping;
        match (sent, reply) {
            (Sent::Message(awaited, _), Reply::Synthesize) if is_read => {
                received.push(answer_to(*awaited));
            }
            (_, Reply::Synthesize) => {}
            (_, Reply::Swallow) => {
                let mut replies = server.read(*sent);
                replies.retain(|tag| *tag == backend::ERROR_RESPONSE);
                received.extend(replies);
            }
            (_, Reply::Forward | Reply::Rows | Reply::Replace(_)) => {
                received.extend(server.read(*sent));
            }
        }
    }
    received
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_fifo_knows_what_the_server_does(
        phrases in vec(phrase(), 1..12),
        schedule in vec(any::<Index>(), 1..40),
    ) {
        let mut steps: Vec<Step> = phrases.concat();
        steps.push(message(Awaited::Sync, Act::Succeed));
        let expected = direct(&steps);
        let mut between = Between::default();
        let mut schedule = schedule.iter().cycle();
        for step in &steps {
            match step {
                Step::Wait => between.settle()?,
                Step::Send(sent, reply) => {
                    if between.expect.is_in_doubt() {
                        between.settle()?;
                    }
                    between.send(*sent, reply);
                }
            }
            between.check()?;
            for _ in 0..schedule.next().map_or(0, |index| index.index(4)) {
                between.serve();
                between.check()?;
            }
            for _ in 0..schedule.next().map_or(0, |index| index.index(6)) {
                between.take()?;
                between.check()?;
            }
        }
        between.settle()?;
        between.check()?;
        prop_assert!(between.expect.is_empty(), "{:?}", between.expect);
        let text = |tags: &[u8]| String::from_utf8_lossy(tags).into_owned();
        prop_assert_eq!(text(&between.received), text(&expected));
    }
}
