//! The messages of a client that are about prepared statements: renamed, prepared where they are
//! missing, answered by us, refused. Pooling points A.

use std::sync::Arc;

use super::{Message, Step, invalid_length};
use crate::backend::link::{Effect, Unnamed, mark};
use crate::backend::statements::{Held, NAME_PREFIX, Statement, text_of};
use crate::fault::{Fault, SqlState};
use crate::session::front::StatementRules;
use crate::session::pins::Pins;
use crate::session::state::Taking;
use crate::sql;
use crate::wire::expect::{Awaited, Reply, TransactionStatus};
use crate::wire::frontend::{self, Target};
use crate::wire::header::HEADER_BYTES;
use crate::wire::tag::frontend as tag;
use crate::wire::{cursor::Cursor, encode};

/// Longest statement or portal name, and longest Close or Describe. LIMIT: PostgreSQL's own for
/// such messages is `PQ_SMALL_MESSAGE_LIMIT`.
const NAME_BYTES_MAX: usize = 10_000;

/// Longest definition of an unnamed statement that is kept to be prepared again. LIMIT: the client
/// of a longer one keeps its backend instead.
const UNNAMED_KEPT_BYTES_MAX: usize = 256 << 10;

/// Prepared twice to have the server refuse a duplicate. No client reaches it: it has our prefix.
const DUPLICATE_NAME: &[u8] = b"pgtandem_duplicate";

/// The statement and the portal of ours that make a backend listen. No client reaches them.
const CHANNELS_NAME: &[u8] = b"pgtandem_channels";

/// Longest Parse of a named statement. LIMIT.
const NAMED_BYTES_MAX: usize = 16 << 20;

impl<'a> Message<'a, '_> {
    /// Cleans up in front of a segment: not within one, so that no portal loses its statement, and
    /// no COPY reads a Close. Pooling point A9.
    pub(super) fn tidy(&mut self) {
        let StatementRules::Rename { limit } = self.front.rules else { return };
        if matches!(self.header.tag, tag::PARSE | tag::BIND | tag::DESCRIBE)
            && !self.must_wait_for_named()
        {
            // The Sync of this segment brings the replies.
            self.evict_above(limit);
        }
    }

    fn evict_above(&mut self, limit: usize) {
        for statement in self.link.held.evict_above(limit) {
            self.shared.noted.statements.evictions += 1;
            self.inject_close(&statement);
        }
    }

    /// Makes room for one statement, if this is the start of a segment.
    fn make_room_for_one(&mut self) {
        if let StatementRules::Rename { limit } = self.front.rules
            && self.link.expect.is_at_segment_start()
        {
            self.evict_above(limit.saturating_sub(1));
        }
    }

    /// Notes that the unnamed statement changes with the segment under way; returns how to take
    /// that back.
    pub(super) fn unnamed_changed(&mut self, before: Unnamed, is_there: bool) -> Effect {
        self.link.unnamed_changed_in = self.link.expect.segment();
        let was_there = std::mem::replace(&mut self.link.has_unnamed, is_there);
        Effect::Unnamed { before, was_there }
    }

    /// Adds a message of ours, or one that changes what names mean.
    fn push_named(&mut self, awaited: Awaited, reply: Reply, effect: Effect) {
        if effect.is_about_named() {
            self.link.named_changed_in = self.link.expect.segment();
        }
        self.link.expect.push(awaited, reply, effect);
    }

    /// Says whether an earlier segment may still fail that changed what names mean: then nobody
    /// knows yet what this message is about.
    pub(super) fn must_wait_for_named(&mut self) -> bool {
        self.link.named_may_change_back()
    }

    /// Says whether the client may have no statements any more when the server comes to this message: what
    /// is under way may be `DEALLOCATE`. Its answer tells, and the server may hold that back.
    pub(super) fn must_wait_for_deallocation(&mut self) -> bool {
        let expect = &self.link.expect;
        if expect.is_at_rest() {
            self.front.state.nothing_deallocates();
        }
        let must_wait = self.front.state.may_deallocate() && expect.may_be_running();
        if must_wait {
            encode::flush(self.splice.insert());
        }
        must_wait
    }

    pub(super) fn parse(&mut self) -> Result<Step, Fault> {
        if self.front.rules == StatementRules::Pass {
            return Ok(self.extended(Awaited::Parse, Effect::None));
        }
        let Some(name) = self.name_at_start()? else { return Ok(Step::Incomplete) };
        if name.is_empty() {
            return Ok(self.parse_unnamed());
        }
        if !self.front.rules.renames() {
            return Ok(self.parse_raw());
        }
        if self.header.message_bytes() > NAMED_BYTES_MAX {
            return Ok(self.refuse(&Fault::error(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "prepared statement is too long",
            )));
        }
        let Some(body) = self.body() else { return Ok(Step::Incomplete) };
        if self.must_wait_for_named() {
            return Ok(Step::Wait);
        }
        let Ok(parse) = frontend::parse(body) else {
            // The server knows best what is wrong with it; it cannot succeed.
            return Ok(self.extended(Awaited::Parse, Effect::None));
        };
        Ok(self.parse_named(parse))
    }

    /// A named statement that passes as it is, and may be run at any time from now on.
    fn parse_raw(&mut self) -> Step {
        let body = match self.body() {
            Some(body) => body,
            None if self.header.message_bytes() <= NAMED_BYTES_MAX => return Step::Incomplete,
            None => &[],
        };
        let text = frontend::parse(body).map(|parse| text_of(parse.definition)).unwrap_or_default();
        if body.is_empty() || !sql::is_plain(text, self.front.params.lexical()) {
            if let Err(fault) = self.front.inspect(text) {
                return self.refuse(&fault);
            }
            self.front.state.pins.add(Pins::UNKNOWN);
        }
        self.extended(Awaited::Parse, Effect::None)
    }

    fn parse_unnamed(&mut self) -> Step {
        let mut definition = None;
        if self.header.message_bytes() <= UNNAMED_KEPT_BYTES_MAX {
            let Some(body) = self.body() else { return Step::Incomplete };
            let Ok(parse) = frontend::parse(body) else {
                // The server refuses it before it drops the one that is there.
                return self.extended(Awaited::Parse, Effect::None);
            };
            definition = Some(parse.definition);
        }
        let unnamed = &mut self.front.prepared_mut().unnamed;
        let before = std::mem::take(unnamed);
        *unnamed = match (definition, &before) {
            (Some(definition), Unnamed::Kept(same)) if **same == *definition => before.clone(),
            (Some(definition), _) => Unnamed::Kept(definition.into()),
            (None, _) => Unnamed::TooLong,
        };
        let effect = self.unnamed_changed(before, true);
        self.extended(Awaited::Parse, effect)
    }

    fn parse_named(&mut self, parse: frontend::Parse<'a>) -> Step {
        let prepared = self.front.prepared_mut();
        if prepared.find(parse.name).is_some() {
            return self.parse_duplicate(parse);
        }
        if prepared.is_full_for(parse.name, parse.definition) {
            return self.refuse(&Fault::error(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "too many prepared statements in this session",
            ));
        }
        let dialect = self.front.params.dialect();
        let statement = self.shared.catalog.intern(self.front.scope, parse.definition, dialect);
        let prepared = self.front.prepared_mut();
        prepared.insert(parse.name.into(), Arc::clone(&statement));
        let held = self.link.held.touch(statement.id());
        let name = Box::from(parse.name);
        let id = statement.id();
        let is_failed = self.link.expect.status() == TransactionStatus::Failed;
        let must_be_read = is_failed
            || self.link.expect.has_open_segments()
            || self.link.expect.may_be_copying_in();
        if held == Held::Ready && !must_be_read {
            let effect = Effect::Prepared { name, id, was_sent: false };
            self.push_named(Awaited::Parse, Reply::Synthesize, effect);
            return self.skip();
        }
        if held != Held::Missing {
            // In a transaction that has failed, or may fail yet, or in a COPY, only the server can
            // say.
            self.inject_close(&statement);
        }
        self.make_room_for_one();
        self.shared.noted.statements.server_parses += 1;
        write_parse(&statement, self.splice.insert());
        let effect = Effect::Prepared { name, id, was_sent: true };
        self.push_named(Awaited::Parse, Reply::Forward, effect);
        self.link.held.insert(statement);
        self.skip()
    }

    /// The client has a statement of this name already. What else is wrong with the new one only
    /// the server can say, and it looks at that first: so it gets it twice, under a name that is
    /// for nothing else.
    fn parse_duplicate(&mut self, parse: frontend::Parse<'a>) -> Step {
        if self.must_wait_for_deallocation() {
            return Step::Wait;
        }
        let out = self.splice.insert();
        encode::close_statement(out, DUPLICATE_NAME);
        encode::parse(out, DUPLICATE_NAME, parse.definition);
        encode::parse(out, DUPLICATE_NAME, parse.definition);
        self.shared.noted.statements.server_parses += 2;
        let name = String::from_utf8_lossy(parse.name);
        let fault = Fault::error(
            SqlState::DUPLICATE_PREPARED_STATEMENT,
            format!("prepared statement \"{name}\" already exists"),
        );
        let mut error = Vec::new();
        fault.encode(&mut error);
        self.link.expect.push(Awaited::Close, Reply::Swallow, Effect::None);
        self.link.expect.push(Awaited::Parse, Reply::Swallow, Effect::None);
        self.link.expect.push(Awaited::Parse, Reply::Replace(error.into()), Effect::None);
        self.skip()
    }

    pub(super) fn bind(&mut self) -> Result<Step, Fault> {
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
            if self.link.unnamed_may_change_back() {
                return Ok(Step::Wait);
            }
            return Ok(match self.front.inspect_unnamed() {
                Ok(taking) => {
                    self.take_channels(taking);
                    self.with_unnamed(Awaited::Bind)
                }
                Err(fault) => self.refuse(&fault),
            });
        }
        match self.find(bind.statement) {
            Lookup::Unknown => Ok(Step::Wait),
            Lookup::Raw => Ok(self.extended(Awaited::Bind, Effect::None)),
            Lookup::Refused(fault) => Ok(self.refuse(&fault)),
            Lookup::Found(statement) => {
                if !statement.is_plain() {
                    let taking = self.front.taking(statement.text());
                    if let Err(fault) = self.front.inspect(statement.text()) {
                        return Ok(self.refuse(&fault));
                    }
                    self.take_channels(taking);
                }
                Ok(self.bind_renamed(bind, &statement))
            }
        }
    }

    fn bind_renamed(&mut self, bind: frontend::Bind<'a>, statement: &Arc<Statement>) -> Step {
        let statement = &self.ensure(statement);
        let effect = Effect::Bound(statement.id(), mark(bind.statement));
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

    /// Has the backend listen to what the client listens to, in front of an UNLISTEN, as a part of
    /// the client's segment. If that fails, the client is told, as it would be of its own message.
    fn take_channels(&mut self, taking: Taking) {
        if taking == Taking::Nothing {
            return;
        }
        let Some(sql) = self.front.state.take_channels() else { return };
        let out = self.splice.insert();
        encode::close_statement(out, CHANNELS_NAME);
        let mut definition = sql;
        definition.extend_from_slice(&[0, 0, 0]);
        encode::parse(out, CHANNELS_NAME, &definition);
        encode::run(out, CHANNELS_NAME);
        encode::close_portal(out, CHANNELS_NAME);
        encode::close_statement(out, CHANNELS_NAME);
        for awaited in [
            Awaited::Close,
            Awaited::Parse,
            Awaited::Bind,
            Awaited::Execute,
            Awaited::Close,
            Awaited::Close,
        ] {
            self.link.expect.push(awaited, Reply::Swallow, Effect::None);
        }
    }

    pub(super) fn describe(&mut self) -> Result<Step, Fault> {
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
                return Ok(self.with_unnamed(Awaited::Describe));
            }
            Target::Statement => {}
        }
        match self.find(described.name) {
            Lookup::Unknown => Ok(Step::Wait),
            Lookup::Raw => Ok(self.extended(Awaited::Describe, Effect::None)),
            Lookup::Refused(fault) => Ok(self.refuse(&fault)),
            Lookup::Found(statement) => {
                let statement = self.ensure(&statement);
                let effect = Effect::Bound(statement.id(), mark(described.name));
                self.link.expect.push(Awaited::Describe, Reply::Forward, effect);
                encode::message(self.splice.insert(), tag::DESCRIBE, |out| {
                    out.push(b'S');
                    statement.write_name(out);
                    out.push(0);
                });
                Ok(self.skip())
            }
        }
    }

    pub(super) fn close(&mut self) -> Result<Step, Fault> {
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
            let effect = self.unnamed_changed(before, false);
            return Ok(self.extended(Awaited::Close, effect));
        }
        if !self.front.rules.renames() {
            return Ok(self.extended(Awaited::Close, Effect::None));
        }
        if self.must_wait_for_named() {
            return Ok(Step::Wait);
        }
        // The backend keeps it: another client, or this one again, may want it.
        let effect = match self.front.prepared_mut().remove(closed.name) {
            Some(statement) => Effect::Closed { name: closed.name.into(), statement },
            None => Effect::None,
        };
        if self.link.expect.may_be_copying_in() {
            // Nothing but the data of a COPY may come in one.
            encode::close_statement(self.splice.insert(), DUPLICATE_NAME);
            self.push_named(Awaited::Close, Reply::Forward, effect);
        } else {
            self.push_named(Awaited::Close, Reply::Synthesize, effect);
        }
        Ok(self.skip())
    }

    /// Has the server prepare `statement` in front of this message, if it does not hold it; returns
    /// the one to use.
    ///
    /// That is another one if the client has changed a parameter since that decides what texts mean:
    /// what is prepared now is prepared under the new ones, and shared with those who have them.
    fn ensure(&mut self, statement: &Arc<Statement>) -> Arc<Statement> {
        let mut statement = Arc::clone(statement);
        match self.link.held.touch(statement.id()) {
            Held::Ready => {
                self.shared.noted.statements.hits += 1;
                return statement;
            }
            Held::Stale => self.inject_close(&statement),
            Held::Missing if statement.dialect() != self.front.params.dialect() => {
                let dialect = self.front.params.dialect();
                statement =
                    self.shared.catalog.intern(self.front.scope, statement.definition(), dialect);
                if self.link.held.touch(statement.id()) == Held::Ready {
                    self.shared.noted.statements.hits += 1;
                    return statement;
                }
            }
            Held::Missing => {}
        }
        self.make_room_for_one();
        self.shared.noted.statements.server_parses += 1;
        self.shared.noted.statements.misses += 1;
        write_parse(&statement, self.splice.insert());
        let effect = Effect::Injected(statement.id());
        self.push_named(Awaited::Parse, Reply::Swallow, effect);
        self.link.held.insert(Arc::clone(&statement));
        statement
    }

    /// Forwards a message about the unnamed statement, and has the server prepare that in front of
    /// it if need be. If the client has none, the one that another client left there must not be
    /// found. Pooling point A12.
    fn with_unnamed(&mut self, awaited: Awaited) -> Step {
        if self.link.unnamed_may_change_back() {
            return Step::Wait;
        }
        if !self.link.has_unnamed {
            match self.front.prepared().map(|prepared| &prepared.unnamed) {
                Some(Unnamed::Kept(definition)) => {
                    self.shared.noted.statements.server_parses += 1;
                    encode::parse(self.splice.insert(), b"", definition);
                    let effect = Effect::InjectedUnnamed;
                    self.link.expect.push(Awaited::Parse, Reply::Swallow, effect);
                }
                Some(Unnamed::None | Unnamed::TooLong) | None => {
                    encode::close_statement(self.splice.insert(), b"");
                    let effect = Effect::InjectedUnnamed;
                    self.link.expect.push(Awaited::Close, Reply::Swallow, effect);
                }
            }
            self.link.has_unnamed = true;
            self.link.unnamed_changed_in = self.link.expect.segment();
        }
        self.extended(awaited, Effect::None)
    }

    fn inject_close(&mut self, statement: &Arc<Statement>) {
        self.link.held.remove(statement.id());
        encode::message(self.splice.insert(), tag::CLOSE, |out| {
            out.push(b'S');
            statement.write_name(out);
            out.push(0);
        });
        let effect = Effect::Evicted(Arc::clone(statement));
        self.push_named(Awaited::Close, Reply::Swallow, effect);
    }

    /// Makes the server fail here, and the client see `fault` for it: so the transaction fails, the
    /// rest is skipped, and everything stays in order, as if the server had found out itself.
    pub(super) fn refuse(&mut self, fault: &Fault) -> Step {
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

    fn find(&mut self, name: &[u8]) -> Lookup {
        if !self.front.rules.renames() {
            return Lookup::Raw;
        }
        if self.must_wait_for_named() {
            return Lookup::Unknown;
        }
        if let Some(known) = self.front.prepared().and_then(|prepared| prepared.find(name)) {
            let known = Arc::clone(known);
            if self.must_wait_for_deallocation() {
                return Lookup::Unknown;
            }
            return Lookup::Found(known);
        }
        if !name.starts_with(NAME_PREFIX) {
            return Lookup::Raw;
        }
        // On the server this name might be a statement of somebody else.
        Lookup::Refused(unknown_statement(name))
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
            return Err(invalid_length());
        }
        Ok(self.body())
    }
}

/// What PostgreSQL says of a statement that is not there.
pub(in crate::session::relay) fn unknown_statement(name: &[u8]) -> Fault {
    let name = String::from_utf8_lossy(name);
    let text = format!("prepared statement \"{name}\" does not exist");
    Fault::error(SqlState::INVALID_SQL_STATEMENT_NAME, text)
}

/// What a statement name of the client means.
enum Lookup {
    /// A statement that it prepared.
    Found(Arc<Statement>),
    /// Nothing we know: the server will say so, or knows it from SQL `PREPARE`.
    Raw,
    /// Nothing we know, and the server must not be asked.
    Refused(Fault),
    /// That depends on an answer which has not come yet.
    Unknown,
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
