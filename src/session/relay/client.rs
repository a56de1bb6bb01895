//! Client → server.

mod deallocate;
mod definitions;
mod following;
mod statements;

pub(super) use statements::unknown_statement;

use self::definitions::LOOKED_AT_MAX;
use super::{NOTHING_NAME, Shared};
use crate::backend::link::{ChannelQuery, Effect, Link, Unnamed};
use crate::backend::statements::text_of;
use crate::fault::{Fault, SqlState};
use crate::session::front::{Front, StatementRules};
use crate::session::state::Taking;
use crate::sql::{self, Glance};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply, TransactionStatus};
use crate::wire::header::{self, HEADER_BYTES, Header};
use crate::wire::splice::Splice;
use crate::wire::tag::{backend, frontend as tag};

/// Longest Query whose text is waited for as a whole, to be looked at. LIMIT: a longer one is
/// streamed, and may have left anything.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// The functions of large objects that libpq calls (`lo_open` and so on, by `pg_proc.dat`): they
/// leave nothing behind their transaction.
const LARGE_OBJECT_CALLS: [u32; 13] =
    [715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All whole messages are done.
    Drained,
    /// Replies must come first: too many are awaited, a message depends on one that may still fail, or
    /// the server is asked where it stands. Go on when some have come.
    Full,
    /// The client said goodbye.
    Terminate,
}

/// What became of a client's input.
#[derive(Debug)]
pub struct ClientTurn<'a> {
    /// Goes to the server.
    pub to_server: &'a [u8],
    /// So many bytes of the input are done; what is behind them must be given again.
    pub consumed: usize,
    /// Why it ended.
    pub stop: Stop,
}

/// Relays `input` of the client.
///
/// `out` is a buffer to build changed output in; what it holds already goes first. Replies that we
/// give ourselves at a Flush are appended to `replies`.
///
/// # Errors
/// A [`Fault`] (08P01, 54000) behind which the client is closed.
pub fn from_client<'a>(
    input: &'a [u8],
    front: &mut Front,
    link: &mut Link,
    shared: &mut Shared,
    out: &'a mut Vec<u8>,
    replies: &mut Vec<u8>,
) -> Result<ClientTurn<'a>, Fault> {
    let mut splice = Splice::new(input, out);
    let mut consumed = front.passage.resume(input.len(), &mut splice);
    let mut stop = Stop::Drained;
    while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
        let must_wait = link.expect.is_full() && !make_room(link, &mut splice, replies);
        if must_wait || link.expect.is_in_doubt() {
            stop = Stop::Full;
            break;
        }
        let Some(header) = header::read(rest, front.length_max).map_err(bad_length)? else {
            break;
        };
        let mut message = Message { header, rest, front, link, shared, splice: &mut splice };
        match message.relay_in_turn(replies)? {
            Step::Done(count) => consumed += count,
            Step::Incomplete => break,
            Step::Wait => {
                stop = Stop::Full;
                break;
            }
            Step::Terminate => {
                stop = Stop::Terminate;
                break;
            }
        }
    }
    Ok(ClientTurn { to_server: splice.finish(), consumed, stop })
}

/// Sends what is ours to answer, and has the server send what it holds back; says whether there is
/// room now. So a pipeline of any length goes on, however few Syncs it has.
fn make_room(link: &mut Link, splice: &mut Splice<'_>, replies: &mut Vec<u8>) -> bool {
    answer_synthesized(link, replies);
    if link.expect.is_full() {
        encode::flush(splice.insert());
    }
    !link.expect.is_full()
}

/// Gives the answers whose turn it is, unless the client is in the middle of a message.
fn answer_synthesized(link: &mut Link, replies: &mut Vec<u8>) {
    while link.passage.is_boundary() {
        let Some(entry) = link.expect.pop_synthesized() else { return };
        super::server::write_synthesized(entry.awaited, replies);
    }
}

fn bad_length(error: header::BadLength) -> Fault {
    tracing::debug!(%error, "client message refused");
    invalid_length()
}

/// Nobody could say what the backend listens to behind such a text.
fn cannot_unlisten() -> Fault {
    let text = "cannot run UNLISTEN with other statements in one query within a transaction";
    Fault::error(SqlState::FEATURE_NOT_SUPPORTED, text)
        .with_hint("Send UNLISTEN in a query of its own.")
}

fn invalid_length() -> Fault {
    Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length")
}

enum Step {
    /// So many bytes of the input are done.
    Done(usize),
    /// More of the message is needed.
    Incomplete,
    /// An answer is needed first.
    Wait,
    Terminate,
}

/// What a look at the text of a Query has found.
enum Seen<'a> {
    /// Nothing to do in front of it.
    Nothing,
    /// What has to be done first depends on an answer that is under way.
    TooEarly,
    /// It has definitions that follow.
    Definitions(&'a [u8]),
    /// It drops this statement, which the client prepared through the protocol.
    Deallocation(Box<[u8]>),
}

/// One message at its turn.
struct Message<'a, 'b> {
    header: Header,
    /// The input from this message's header on.
    rest: &'a [u8],
    front: &'b mut Front,
    link: &'b mut Link,
    shared: &'b mut Shared,
    splice: &'b mut Splice<'a>,
}

impl<'a> Message<'a, '_> {
    /// Relays the message. If it waits for an answer, and the server for data: a message that means
    /// nothing tells whether the COPY had failed before. If not, the server ends the connection for it, as
    /// it would for the client's.
    fn relay_in_turn(&mut self, replies: &mut Vec<u8>) -> Result<Step, Fault> {
        let step = self.relay(replies)?;
        if matches!(step, Step::Wait) && self.link.expect.only_copies_in() {
            encode::close_statement(self.splice.insert(), NOTHING_NAME);
            self.link.expect.push(Awaited::Close, Reply::Swallow, Effect::None);
        }
        Ok(step)
    }

    fn relay(&mut self, replies: &mut Vec<u8>) -> Result<Step, Fault> {
        let tag = self.header.tag;
        if self.link.expect.is_skipping() && !matches!(tag, tag::SYNC | tag::TERMINATE) {
            return known(tag).map(|()| self.skip());
        }
        if self.link.expect.is_at_segment_start() {
            self.tidy();
        }
        match tag {
            tag::QUERY => Ok(self.query()),
            tag::PARSE => {
                if let Some(step) = self.note_parse() {
                    return Ok(step);
                }
                let step = self.parse()?;
                // One that waits comes again.
                let is_done = matches!(step, Step::Done(_));
                self.shared.noted.statements.client_parses += u64::from(is_done);
                Ok(step)
            }
            tag::BIND => {
                self.note_bind();
                let step = self.bind()?;
                let is_done = matches!(step, Step::Done(_));
                self.shared.noted.statements.binds += u64::from(is_done);
                Ok(step)
            }
            tag::DESCRIBE => self.describe(),
            tag::EXECUTE => {
                let defined = self.define_execute();
                Ok(defined.unwrap_or_else(|| self.extended(Awaited::Execute, Effect::None)))
            }
            tag::CLOSE => self.close(),
            tag::SYNC | tag::FLUSH if self.header.body_bytes > 0 => Err(invalid_length()),
            tag::SYNC => Ok(self.sync()),
            tag::FLUSH => {
                answer_synthesized(self.link, replies);
                Ok(self.forward())
            }
            tag::FUNCTION_CALL => {
                if self.front.rules != StatementRules::Pass && !self.is_large_object_call() {
                    self.front.state.doubt_everything();
                }
                self.link.expect.push(Awaited::FunctionCall, Reply::Forward, Effect::None);
                Ok(self.forward())
            }
            tag::COPY_DATA => {
                self.link.expect.data_sent();
                Ok(self.copy())
            }
            tag::COPY_DONE | tag::COPY_FAIL => {
                let step = self.copy();
                self.link.expect.push(Awaited::CopyEnd, Reply::Forward, Effect::None);
                Ok(step)
            }
            tag::TERMINATE => Ok(Step::Terminate),
            _ => known(tag).map(|()| self.skip()),
        }
    }

    fn forward(&mut self) -> Step {
        let wanted = self.header.message_bytes();
        Step::Done(self.front.passage.forward(wanted, self.rest.len(), self.splice))
    }

    fn skip(&mut self) -> Step {
        let wanted = self.header.message_bytes();
        Step::Done(self.front.passage.skip(wanted, self.rest.len(), self.splice))
    }

    /// Forwards a message of the extended protocol as it is.
    fn extended(&mut self, awaited: Awaited, effect: Effect) -> Step {
        if awaited == Awaited::Parse {
            self.shared.noted.statements.server_parses += 1;
        }
        self.link.expect.push(awaited, Reply::Forward, effect);
        self.forward()
    }

    /// The whole body, or `None` if it is not all there yet.
    fn body(&self) -> Option<&'a [u8]> {
        self.rest.get(HEADER_BYTES..self.header.message_bytes())
    }

    /// As much of the body as is there.
    fn body_so_far(&self) -> &'a [u8] {
        let end = self.header.message_bytes().min(self.rest.len());
        self.rest.get(HEADER_BYTES..end).unwrap_or_default()
    }

    fn query(&mut self) -> Step {
        let has_state = self.front.rules != StatementRules::Pass;
        let mut seen = Ok(Seen::Nothing);
        match self.body() {
            _ if !has_state && self.front.definitions.is_none() => {}
            Some(body) => seen = self.look_at(text_of(body)),
            None if self.header.message_bytes() <= self.text_bytes_max() => {
                return Step::Incomplete;
            }
            None if has_state => self.front.state.doubt_everything(),
            None => {}
        }
        if matches!(seen, Ok(Seen::TooEarly)) {
            return Step::Wait;
        }
        let effect = if has_state { self.drop_unnamed() } else { Effect::None };
        match seen {
            Err(fault) => self.refuse_query(&fault, effect),
            Ok(Seen::Definitions(query)) => self.define_query(query, effect),
            Ok(Seen::Deallocation(name)) => self.deallocate(name, effect),
            Ok(Seen::Nothing | Seen::TooEarly) => {
                self.link.expect.push(Awaited::Query, Reply::Forward, effect);
                self.forward()
            }
        }
    }

    /// Longest Query whose text is waited for.
    fn text_bytes_max(&self) -> usize {
        if self.front.definitions.is_some() { LOOKED_AT_MAX } else { TEXT_BYTES_MAX }
    }

    /// Looks at the text of a Query: what it may leave behind, and whether it has definitions that
    /// follow.
    fn look_at(&mut self, text: &'a [u8]) -> Result<Seen<'a>, Fault> {
        let deallocated = self.deallocated(text);
        if deallocated.is_some()
            && (self.must_wait_for_named() || self.must_wait_for_deallocation())
        {
            return Ok(Seen::TooEarly);
        }
        if self.front.rules != StatementRules::Pass && !self.inspect_query(text)? {
            return Ok(Seen::TooEarly);
        }
        if let Some(name) = deallocated {
            let prepared = self.front.prepared();
            let is_known = prepared.is_some_and(|prepared| prepared.find(&name).is_some());
            return Ok(if is_known { Seen::Deallocation(name) } else { Seen::Nothing });
        }
        let may_define = self.front.definitions.is_some() && sql::glance(text) == Glance::Unclear;
        Ok(if may_define && self.has_definitions(text)? {
            Seen::Definitions(text)
        } else {
            Seen::Nothing
        })
    }

    /// Notes that `exec_simple_query` drops the unnamed statement.
    fn drop_unnamed(&mut self) -> Effect {
        let before = self.front.take_unnamed();
        // What an earlier segment takes back may come back into this one.
        let may_come_back = self.link.expect.may_fail_yet(self.link.unnamed_changed_in);
        let is_changed = before != Unnamed::None || may_come_back;
        let effect = if is_changed { self.unnamed_changed(before, false) } else { Effect::None };
        self.link.has_unnamed = false;
        effect
    }

    /// Looks at the text of a Query, and has the backend listen in front of it if need be. Says
    /// whether it can be sent now.
    fn inspect_query(&mut self, text: &[u8]) -> Result<bool, Fault> {
        let taking = self.front.taking(text);
        if taking == Taking::Nothing {
            return self.front.inspect(text).map(|()| true);
        }
        let expect = &self.link.expect;
        if !expect.is_at_segment_start() {
            return Err(cannot_unlisten());
        }
        if taking == Taking::InFront && expect.has_open_segments() {
            // Whether it is in a transaction is not known yet.
            return Ok(false);
        }
        if taking == Taking::InFront && expect.status() != TransactionStatus::Idle {
            return Err(cannot_unlisten());
        }
        self.front.inspect(text)?;
        if let Some(sql) = self.front.state.take_channels() {
            encode::query(self.splice.insert(), &sql);
            let effect = Effect::Channels(ChannelQuery::Take);
            self.link.expect.push(Awaited::Query, Reply::Swallow, effect);
        }
        Ok(true)
    }

    /// Has the server fail in place of a query. What `effect` says was dropped is dropped.
    fn refuse_query(&mut self, fault: &Fault, effect: Effect) -> Step {
        drop(effect);
        let step = self.refuse(fault);
        encode::bare(self.splice.insert(), tag::SYNC);
        self.link.expect.push(Awaited::Sync, Reply::Forward, Effect::None);
        step
    }

    /// Says whether a FunctionCall is one of those that libpq makes for large objects.
    fn is_large_object_call(&self) -> bool {
        let oid = self.body_so_far().first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        oid.is_some_and(|oid| LARGE_OBJECT_CALLS.contains(&oid))
    }

    fn sync(&mut self) -> Step {
        self.link.expect.push(Awaited::Sync, Reply::Forward, Effect::None);
        self.forward()
    }

    /// CopyData, CopyDone and CopyFail outside COPY are ignored, as PostgreSQL does: they may come
    /// late, behind an error. Pooling point E39.
    fn copy(&mut self) -> Step {
        if self.link.expect.is_copying_in() || !self.link.expect.is_empty() {
            self.forward()
        } else {
            self.skip()
        }
    }
}

/// Refuses tags that no client may send here, as `SocketBackend` of postgres.c does.
fn known(tag: u8) -> Result<(), Fault> {
    match tag {
        tag::QUERY
        | tag::PARSE
        | tag::BIND
        | tag::DESCRIBE
        | tag::EXECUTE
        | tag::CLOSE
        | tag::SYNC
        | tag::FLUSH
        | tag::FUNCTION_CALL
        | tag::COPY_DATA
        | tag::COPY_DONE
        | tag::COPY_FAIL
        | tag::TERMINATE => Ok(()),
        _ => Err(Fault::fatal(
            SqlState::PROTOCOL_VIOLATION,
            format!("invalid frontend message type {tag}"),
        )),
    }
}

/// The reply that a message answered by us has.
pub(super) fn synthesized_tag(awaited: Awaited) -> Option<u8> {
    match awaited {
        Awaited::Parse => Some(backend::PARSE_COMPLETE),
        Awaited::Close => Some(backend::CLOSE_COMPLETE),
        Awaited::Bind
        | Awaited::Describe
        | Awaited::Execute
        | Awaited::Sync
        | Awaited::Query
        | Awaited::FunctionCall
        | Awaited::CopyEnd => None,
    }
}
