//! Client → server.

use std::sync::Arc;

use super::Shared;
use crate::backend::link::{Effect, Link};
use crate::backend::statements::{Held, NAME_PREFIX, Statement};
use crate::fault::{Fault, SqlState};
use crate::session::front::{Front, Pins, StatementRules};
use crate::wire::expect::{Awaited, Reply, TransactionStatus};
use crate::wire::frontend::{self, Target};
use crate::wire::header::{self, HEADER_BYTES, Header, MESSAGE_BYTES_MAX};
use crate::wire::splice::Splice;
use crate::wire::tag::{backend, frontend as tag};
use crate::wire::{cursor::Cursor, encode};

/// Longest statement or portal name, and longest Close or Describe. LIMIT: PostgreSQL's own for
/// such messages is `PQ_SMALL_MESSAGE_LIMIT`.
const NAME_BYTES_MAX: usize = 10_000;

/// Longest definition of an unnamed statement that is kept to be prepared again. LIMIT: the client
/// of a longer one keeps its backend instead.
const UNNAMED_KEPT_BYTES_MAX: usize = 256 << 10;

/// Longest Parse of a named statement. LIMIT.
const NAMED_BYTES_MAX: usize = 16 << 20;

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All whole messages are done.
    Drained,
    /// Too many replies are awaited: go on when some have come.
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
        if link.expect.is_full() {
            stop = Stop::Full;
            break;
        }
        let Some(header) = header::read(rest, MESSAGE_BYTES_MAX).map_err(bad_length)? else {
            break;
        };
        let mut message = Message { header, rest, front, link, shared, splice: &mut splice };
        match message.relay(replies)? {
            Step::Done(count) => consumed += count,
            Step::Incomplete => break,
            Step::Terminate => {
                stop = Stop::Terminate;
                break;
            }
        }
    }
    Ok(ClientTurn { to_server: splice.finish(), consumed, stop })
}

fn bad_length(error: header::BadLength) -> Fault {
    tracing::debug!(%error, "client message refused");
    Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length")
}

enum Step {
    /// So many bytes of the input are done.
    Done(usize),
    /// More of the message is needed.
    Incomplete,
    Terminate,
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
    fn relay(&mut self, replies: &mut Vec<u8>) -> Result<Step, Fault> {
        let tag = self.header.tag;
        if self.link.expect.is_skipping() && !matches!(tag, tag::SYNC | tag::TERMINATE) {
            return known(tag).map(|()| self.skip());
        }
        match tag {
            tag::QUERY => Ok(self.query()),
            tag::PARSE => self.parse(),
            tag::BIND => self.bind(),
            tag::DESCRIBE => self.describe(),
            tag::EXECUTE => Ok(self.extended(Awaited::Execute, Effect::None)),
            tag::CLOSE => self.close(),
            tag::SYNC => Ok(self.sync()),
            tag::FLUSH => Ok(self.flush(replies)),
            tag::FUNCTION_CALL => {
                self.front.has_unsynced = false;
                self.link.expect.push(Awaited::FunctionCall, Reply::Forward, Effect::None);
                Ok(self.forward())
            }
            tag::COPY_DATA => Ok(self.copy()),
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
        self.front.has_unsynced = true;
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
        let mut effect = Effect::None;
        if self.front.rules != StatementRules::Pass {
            // `exec_simple_query` drops the unnamed statement.
            self.link.has_unnamed = false;
            self.front.pins.remove(Pins::UNNAMED);
            if let Some(before) = self.front.take_unnamed() {
                effect = Effect::Unnamed { before: Some(before) };
            }
        }
        self.front.has_unsynced = false;
        self.link.expect.push(Awaited::Query, Reply::Forward, effect);
        self.forward()
    }

    fn sync(&mut self) -> Step {
        // Before the Sync, so that the replies come with its own; and only here, so that no portal
        // of this pipeline loses its statement. Pooling point A9.
        if let StatementRules::Rename { limit } = self.front.rules
            && !self.link.expect.is_skipping()
            && !self.link.expect.is_copying_in()
        {
            while let Some(statement) = self.link.held.evict_above(limit) {
                self.inject_close(&statement);
            }
        }
        self.front.has_unsynced = false;
        self.link.expect.push(Awaited::Sync, Reply::Forward, Effect::None);
        self.forward()
    }

    fn flush(&mut self, replies: &mut Vec<u8>) -> Step {
        while let Some(entry) = self.link.expect.pop_synthesized() {
            super::server::write_synthesized(entry.awaited, replies);
        }
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

    fn parse(&mut self) -> Result<Step, Fault> {
        if self.front.rules == StatementRules::Pass {
            return Ok(self.extended(Awaited::Parse, Effect::None));
        }
        let Some(name) = self.name_at_start()? else { return Ok(Step::Incomplete) };
        if name.is_empty() {
            return Ok(self.parse_unnamed());
        }
        if !self.front.rules.renames() {
            return Ok(self.extended(Awaited::Parse, Effect::None));
        }
        if self.header.message_bytes() > NAMED_BYTES_MAX {
            return Ok(self.refuse(&Fault::error(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "prepared statement is too long",
            )));
        }
        let Some(body) = self.body() else { return Ok(Step::Incomplete) };
        let Ok(parse) = frontend::parse(body) else {
            // The server knows best what is wrong with it; it cannot succeed.
            return Ok(self.extended(Awaited::Parse, Effect::None));
        };
        Ok(self.parse_named(parse))
    }

    fn parse_unnamed(&mut self) -> Step {
        let mut definition = None;
        if self.header.message_bytes() <= UNNAMED_KEPT_BYTES_MAX {
            let Some(body) = self.body() else { return Step::Incomplete };
            definition = frontend::parse(body).ok().map(|parse| parse.definition);
            self.front.pins.remove(Pins::UNNAMED);
        } else {
            self.front.pins.add(Pins::UNNAMED);
        }
        let unnamed = &mut self.front.prepared_mut().unnamed;
        let before = unnamed.take();
        *unnamed = match (&before, definition) {
            (Some(same), Some(definition)) if **same == *definition => Some(Arc::clone(same)),
            (_, definition) => definition.map(Arc::from),
        };
        self.link.has_unnamed = true;
        self.extended(Awaited::Parse, Effect::Unnamed { before })
    }

    fn parse_named(&mut self, parse: frontend::Parse<'a>) -> Step {
        let prepared = self.front.prepared_mut();
        if prepared.find(parse.name).is_some() {
            let name = String::from_utf8_lossy(parse.name).into_owned();
            return self.refuse(&Fault::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        if prepared.is_full_for(parse.name, parse.definition) {
            return self.refuse(&Fault::error(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "too many prepared statements in this session",
            ));
        }
        let statement = self.shared.catalog.intern(parse.definition);
        prepared.insert(parse.name.into(), Arc::clone(&statement));
        self.front.has_unsynced = true;
        let held = self.link.held.touch(statement.id());
        let name = Box::from(parse.name);
        let id = statement.id();
        let is_failed = self.link.expect.status() == TransactionStatus::Failed;
        if held == Held::Ready && !is_failed {
            let effect = Effect::Prepared { name, id, was_sent: false };
            self.link.expect.push(Awaited::Parse, Reply::Synthesize, effect);
            return self.skip();
        }
        if held != Held::Missing {
            // In a failed transaction only the server can say what it accepts.
            self.inject_close(&statement);
        }
        write_parse(&statement, self.splice.insert());
        let effect = Effect::Prepared { name, id, was_sent: true };
        self.link.expect.push(Awaited::Parse, Reply::Forward, effect);
        self.link.held.insert(statement);
        self.skip()
    }

    fn bind(&mut self) -> Result<Step, Fault> {
        if self.front.rules == StatementRules::Pass {
            return Ok(self.extended(Awaited::Bind, Effect::None));
        }
        let so_far = self.body_so_far();
        let Some(bind) = frontend::bind(so_far) else {
            return if so_far.len() + HEADER_BYTES == self.header.message_bytes() {
                // No names in the whole body: the server will say so.
                Ok(self.extended(Awaited::Bind, Effect::None))
            } else {
                within_name_limit(so_far).map(|()| Step::Incomplete)
            };
        };
        if bind.statement.is_empty() {
            self.ensure_unnamed();
            return Ok(self.extended(Awaited::Bind, Effect::None));
        }
        match self.find(bind.statement) {
            Lookup::Raw => Ok(self.extended(Awaited::Bind, Effect::None)),
            Lookup::Refused(fault) => Ok(self.refuse(&fault)),
            Lookup::Found(statement) => Ok(self.bind_renamed(bind, &statement)),
        }
    }

    fn bind_renamed(&mut self, bind: frontend::Bind<'a>, statement: &Arc<Statement>) -> Step {
        self.ensure(statement);
        self.front.has_unsynced = true;
        let effect = Effect::Bound(statement.id());
        self.link.expect.push(Awaited::Bind, Reply::Forward, effect);
        let names = bind.portal.len() + 1 + bind.statement.len() + 1;
        let values = self.header.message_bytes() - HEADER_BYTES - names;
        let out = self.splice.insert();
        let start = out.len();
        encode::message(out, tag::BIND, |out| {
            encode::cstr(out, bind.portal);
            statement.write_name(out);
            out.push(0);
        });
        lengthen(out, start, values);
        let prefix = HEADER_BYTES + names;
        self.splice.skip(prefix);
        let available = self.rest.len() - prefix;
        Step::Done(prefix + self.front.passage.forward(values, available, self.splice))
    }

    fn describe(&mut self) -> Result<Step, Fault> {
        if self.front.rules == StatementRules::Pass {
            return Ok(self.extended(Awaited::Describe, Effect::None));
        }
        let Some(body) = self.small_body()? else { return Ok(Step::Incomplete) };
        let Ok(described) = frontend::named(body) else {
            return Ok(self.extended(Awaited::Describe, Effect::None));
        };
        match described.target {
            Target::Portal => return Ok(self.extended(Awaited::Describe, Effect::None)),
            Target::Statement if described.name.is_empty() => {
                self.ensure_unnamed();
                return Ok(self.extended(Awaited::Describe, Effect::None));
            }
            Target::Statement => {}
        }
        match self.find(described.name) {
            Lookup::Raw => Ok(self.extended(Awaited::Describe, Effect::None)),
            Lookup::Refused(fault) => Ok(self.refuse(&fault)),
            Lookup::Found(statement) => {
                self.ensure(&statement);
                self.front.has_unsynced = true;
                self.link.expect.push(Awaited::Describe, Reply::Forward, Effect::None);
                encode::message(self.splice.insert(), tag::DESCRIBE, |out| {
                    out.push(b'S');
                    statement.write_name(out);
                    out.push(0);
                });
                Ok(self.skip())
            }
        }
    }

    fn close(&mut self) -> Result<Step, Fault> {
        if self.front.rules == StatementRules::Pass {
            return Ok(self.extended(Awaited::Close, Effect::None));
        }
        let Some(body) = self.small_body()? else { return Ok(Step::Incomplete) };
        let closed = match frontend::named(body) {
            Ok(closed) if closed.target == Target::Statement => closed,
            Ok(_) | Err(_) => return Ok(self.extended(Awaited::Close, Effect::None)),
        };
        if closed.name.is_empty() {
            let before = self.front.take_unnamed();
            self.link.has_unnamed = false;
            self.front.pins.remove(Pins::UNNAMED);
            return Ok(self.extended(Awaited::Close, Effect::Unnamed { before }));
        }
        if !self.front.rules.renames() {
            return Ok(self.extended(Awaited::Close, Effect::None));
        }
        // The backend keeps it: another client, or this one again, may want it.
        let effect = match self.front.prepared_mut().remove(closed.name) {
            Some(statement) => Effect::Closed { name: closed.name.into(), statement },
            None => Effect::None,
        };
        self.front.has_unsynced = true;
        self.link.expect.push(Awaited::Close, Reply::Synthesize, effect);
        Ok(self.skip())
    }

    /// Has the server prepare `statement` in front of this message, if it does not hold it.
    fn ensure(&mut self, statement: &Arc<Statement>) {
        match self.link.held.touch(statement.id()) {
            Held::Ready => return,
            Held::Stale => self.inject_close(statement),
            Held::Missing => {}
        }
        write_parse(statement, self.splice.insert());
        let effect = Effect::Injected(statement.id());
        self.link.expect.push(Awaited::Parse, Reply::Swallow, effect);
        self.link.held.insert(Arc::clone(statement));
    }

    /// Has the server prepare this client's unnamed statement in front of this message. If it has
    /// none, the one that another client left there must not be found. Pooling point A12.
    fn ensure_unnamed(&mut self) {
        if self.link.has_unnamed {
            return;
        }
        let unnamed = self.front.prepared().and_then(|prepared| prepared.unnamed.as_ref());
        if let Some(definition) = unnamed {
            encode::parse(self.splice.insert(), b"", definition);
            self.link.expect.push(Awaited::Parse, Reply::Swallow, Effect::InjectedUnnamed);
        } else {
            encode::close_statement(self.splice.insert(), b"");
            self.link.expect.push(Awaited::Close, Reply::Swallow, Effect::None);
        }
        self.link.has_unnamed = true;
    }

    fn inject_close(&mut self, statement: &Arc<Statement>) {
        self.link.held.remove(statement.id());
        encode::message(self.splice.insert(), tag::CLOSE, |out| {
            out.push(b'S');
            statement.write_name(out);
            out.push(0);
        });
        let effect = Effect::Evicted(Arc::clone(statement));
        self.link.expect.push(Awaited::Close, Reply::Swallow, effect);
    }

    /// Makes the server fail here, and the client see `fault` for it: so the transaction fails, the
    /// rest is skipped, and everything stays in order, as if the server had found out itself.
    fn refuse(&mut self, fault: &Fault) -> Step {
        self.front.has_unsynced = true;
        encode::message(self.splice.insert(), tag::BIND, |out| {
            encode::cstr(out, b"");
            encode::cstr(out, NAME_PREFIX);
            out.extend_from_slice(&[0; 6]);
        });
        let mut error = Vec::new();
        fault.encode(&mut error);
        self.link.expect.push(Awaited::Bind, Reply::Replace(error.into()), Effect::None);
        self.skip()
    }

    fn find(&self, name: &[u8]) -> Lookup {
        if !self.front.rules.renames() {
            return Lookup::Raw;
        }
        if let Some(known) = self.front.prepared().and_then(|prepared| prepared.find(name)) {
            return Lookup::Found(Arc::clone(known));
        }
        if !name.starts_with(NAME_PREFIX) {
            return Lookup::Raw;
        }
        // On the server this name might be a statement of somebody else.
        let name = String::from_utf8_lossy(name);
        Lookup::Refused(Fault::error(
            SqlState::INVALID_SQL_STATEMENT_NAME,
            format!("prepared statement \"{name}\" does not exist"),
        ))
    }

    /// The name at the start of the body; `None` if it is not all there yet.
    fn name_at_start(&self) -> Result<Option<&'a [u8]>, Fault> {
        let so_far = self.body_so_far();
        match Cursor::new(so_far).cstr() {
            Ok(name) => within_name_limit(name).map(|()| Some(name)),
            Err(_) if so_far.len() + HEADER_BYTES == self.header.message_bytes() => {
                Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid string in message"))
            }
            Err(_) => within_name_limit(so_far).map(|()| None),
        }
    }

    /// The whole body of a message that PostgreSQL keeps small too.
    fn small_body(&self) -> Result<Option<&'a [u8]>, Fault> {
        if self.header.message_bytes() > NAME_BYTES_MAX {
            return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"));
        }
        Ok(self.body())
    }
}

/// What a statement name of the client means.
enum Lookup {
    /// A statement that it prepared.
    Found(Arc<Statement>),
    /// Nothing we know: the server will say so, or knows it from SQL `PREPARE`.
    Raw,
    /// Nothing we know, and the server must not be asked.
    Refused(Fault),
}

fn write_parse(statement: &Statement, out: &mut Vec<u8>) {
    encode::message(out, tag::PARSE, |out| {
        statement.write_name(out);
        out.push(0);
        out.extend_from_slice(statement.definition());
    });
}

/// Adds `more` to the length of the message that starts at `start`: its body goes on elsewhere.
fn lengthen(out: &mut [u8], start: usize, more: usize) {
    if let Some(field) = out.get_mut(start + 1..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        let length = u32::from_be_bytes(*field);
        let longer = length.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        *field = longer.to_be_bytes();
    }
}

fn within_name_limit(name: &[u8]) -> Result<(), Fault> {
    if name.len() <= 2 * NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Fault::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "statement or portal name is too long"))
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
