//! Server → client.

use std::collections::HashSet;
use std::sync::Arc;

use super::client::{synthesized_tag, unknown_statement};
use super::{Books, ServerFailure, Shared, restore_unnamed, undo};
use crate::backend::link::{ChannelQuery, Effect, Link, mark};
use crate::backend::params;
use crate::backend::statements::StatementId;
use crate::fault::SqlState;
use crate::metrics::labels::SqlClass;
use crate::session::channels::Heard;
use crate::session::front::{Front, StatementRules};
use crate::session::pins::Pins;
use crate::wire::backend as view;
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply, TransactionStatus, Verdict};
use crate::wire::header::{self, HEADER_BYTES, Header};
use crate::wire::splice::Splice;
use crate::wire::tag::backend as tag;

/// Longest message that is waited for as a whole; a longer one passes unread. LIMIT: such messages
/// are small, except for errors with a long context.
const READ_BYTES_MAX: usize = 32 << 10;

/// Longest message of a server; it is trusted up to what the protocol can say.
const LENGTH_MAX: u32 = i32::MAX.cast_unsigned();

/// What became of a server's output.
#[derive(Debug)]
pub struct ServerTurn<'a> {
    /// Goes to the client.
    pub to_client: &'a [u8],
    /// So many bytes of the input are done; what is behind them must be given again.
    pub consumed: usize,
    /// Whether a ReadyForQuery was among them.
    pub was_ready: bool,
    /// Queries of the client that ended: each ReadyForQuery that it is sent.
    pub queries: u32,
    /// Transactions of the client that ended: each of those that says idle.
    pub transactions: u32,
}

/// Relays `input` of the backend.
///
/// `out` is an empty buffer to build changed output in.
///
/// # Errors
/// [`ServerFailure`]: the backend must be closed, and its client too.
pub fn from_server<'a>(
    input: &'a [u8],
    front: &mut Front,
    link: &mut Link,
    shared: &mut Shared,
    out: &'a mut Vec<u8>,
) -> Result<ServerTurn<'a>, ServerFailure> {
    let mut turn = Turn {
        front,
        link,
        shared,
        splice: Splice::new(input, out),
        was_ready: false,
        queries: 0,
        transactions: 0,
    };
    let mut consumed = turn.link.passage.resume(input.len(), &mut turn.splice);
    loop {
        if turn.link.passage.is_boundary() {
            turn.answer_synthesized();
        }
        let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) else { break };
        let Some(header) = header::read(rest, LENGTH_MAX)? else { break };
        match turn.relay(header, rest)? {
            Some(count) => consumed += count,
            None => break,
        }
    }
    let Turn { splice, was_ready, queries, transactions, .. } = turn;
    Ok(ServerTurn { to_client: splice.finish(), consumed, was_ready, queries, transactions })
}

/// Appends the reply to a message that we answer ourselves.
pub(super) fn write_synthesized(awaited: Awaited, out: &mut Vec<u8>) {
    if let Some(tag) = synthesized_tag(awaited) {
        out.extend_from_slice(&[tag, 0, 0, 0, 4]);
    }
}

struct Turn<'a, 'b> {
    front: &'b mut Front,
    link: &'b mut Link,
    shared: &'b mut Shared,
    splice: Splice<'a>,
    was_ready: bool,
    queries: u32,
    transactions: u32,
}

impl<'a> Turn<'a, '_> {
    /// Handles one message; returns how many bytes of it are done, `None` if more are needed.
    fn relay(&mut self, header: Header, rest: &'a [u8]) -> Result<Option<usize>, ServerFailure> {
        let needs_body = matches!(
            header.tag,
            tag::READY_FOR_QUERY
                | tag::PARAMETER_STATUS
                | tag::ERROR_RESPONSE
                | tag::COMMAND_COMPLETE
        ) || (header.tag == tag::NOTIFICATION_RESPONSE
            && self.front.state.has_channels())
            || (header.tag == tag::DATA_ROW && self.is_answer());
        let body = if needs_body {
            match rest.get(HEADER_BYTES..header.message_bytes()) {
                Some(body) => body,
                None if header.message_bytes() <= READ_BYTES_MAX => return Ok(None),
                None => &[],
            }
        } else {
            &[]
        };
        let verdict = match header.tag {
            tag::READY_FOR_QUERY => self.ready(body)?,
            tag::PARAMETER_STATUS => self.parameter(body)?,
            tag::ERROR_RESPONSE => self.error(body)?,
            tag::COMMAND_COMPLETE => {
                self.command(body);
                self.link.expect.reply(header.tag)?.0
            }
            tag::NOTICE_RESPONSE => self.unless_swallowed(),
            tag::NOTIFICATION_RESPONSE => self.notification(body),
            tag::PARSE_COMPLETE => self.parsed()?,
            tag::DATA_ROW if self.is_answer() => {
                self.front.state.answer(body);
                self.link.expect.reply(header.tag)?.0
            }
            _ if self.link.expect.is_at_rest() => {
                // Nobody asked for it. The client has all its answers; nobody else gets this backend.
                self.link.expect.taint();
                Verdict::Drop
            }
            _ => self.link.expect.reply(header.tag)?.0,
        };
        let (wanted, available) = (header.message_bytes(), rest.len());
        let passage = &mut self.link.passage;
        Ok(Some(match verdict {
            Verdict::Forward => passage.forward(wanted, available, &mut self.splice),
            Verdict::Drop => passage.skip(wanted, available, &mut self.splice),
            Verdict::Replace(message) => {
                self.splice.insert().extend_from_slice(&message);
                passage.skip(wanted, available, &mut self.splice)
            }
        }))
    }

    fn answer_synthesized(&mut self) {
        while let Some(entry) = self.link.expect.pop_synthesized() {
            write_synthesized(entry.awaited, self.splice.insert());
        }
    }

    /// Says whether what comes now answers a question of ours about the state of the session.
    fn is_answer(&self) -> bool {
        self.front.state.is_asking() && self.link.expect.head_is_swallowed()
    }

    fn unless_swallowed(&self) -> Verdict {
        if self.link.expect.head_is_swallowed() { Verdict::Drop } else { Verdict::Forward }
    }

    fn ready(&mut self, body: &[u8]) -> Result<Verdict, ServerFailure> {
        let status = match body {
            [byte] => TransactionStatus::from_byte(*byte),
            _ => None,
        };
        let status = status.ok_or(ServerFailure::Malformed { tag: tag::READY_FOR_QUERY })?;
        self.was_ready = true;
        let is_answer = self.is_answer();
        let mut rest = Vec::new();
        let verdict = self.link.expect.ready(status)?;
        if verdict == Verdict::Forward {
            self.queries += 1;
            self.transactions += u32::from(status == TransactionStatus::Idle);
        } else if is_answer
            && let Some(changed) = self.front.state.settle(&self.front.params, &mut rest)
        {
            let is_same = Arc::ptr_eq(&self.link.params, &self.front.params);
            let carried = changed.carried().to_vec();
            self.front.params = self.shared.interner.intern(changed);
            self.link.params = if is_same {
                Arc::clone(&self.front.params)
            } else {
                self.shared.interner.intern(self.link.params.carrying(carried))
            };
        }
        for notification in rest {
            self.splice.insert().extend_from_slice(notification.message());
        }
        Ok(verdict)
    }

    fn parameter(&mut self, body: &[u8]) -> Result<Verdict, ServerFailure> {
        if body.is_empty() {
            // Too long to be waited for, so it cannot be restored later.
            self.link.expect.taint();
            return Ok(self.unless_swallowed());
        }
        let reported = view::parameter_status(body)
            .map_err(|_| ServerFailure::Malformed { tag: tag::PARAMETER_STATUS })?;
        let verdict = self.unless_swallowed();
        if params::is_fact(reported.name) {
            self.link.note_fact(reported.name, reported.value);
            return Ok(verdict);
        }
        let was_same = Arc::ptr_eq(&self.link.params, &self.front.params);
        let interner = &mut self.shared.interner;
        if let Some(changed) = self.link.params.with(reported.name, reported.value) {
            self.link.params = interner.intern(changed);
        }
        if verdict == Verdict::Forward {
            if was_same {
                self.front.params = Arc::clone(&self.link.params);
            } else if let Some(changed) = self.front.params.with(reported.name, reported.value) {
                self.front.params = interner.intern(changed);
            }
        }
        Ok(verdict)
    }

    fn error(&mut self, body: &[u8]) -> Result<Verdict, ServerFailure> {
        let error = view::error_response(body);
        self.link.has_said_why |= matches!(error.severity, b"FATAL" | b"PANIC");
        let is_last = self.link.has_said_why;
        if self.link.expect.head_is_swallowed() && self.front.state.is_asking() {
            self.front.state.answer_failed();
            // The client must know why it ends.
            return Ok(if is_last { Verdict::Forward } else { Verdict::Drop });
        }
        if let Some(verdict) = self.channels_failed(is_last) {
            return Ok(verdict);
        }
        let Link { expect, held, .. } = &mut *self.link;
        if expect.runs_query_of_ours() {
            return Err(ServerFailure::ParameterRefused {
                sqlstate: error.sqlstate,
                message: error.message.to_vec(),
            });
        }
        let is_ours = expect.entries().next().is_some_and(|entry| is_noted(&entry.effect));
        let front = &mut *self.front;
        let mut books = Books { held, unnamed: None, unnamed_was_there: None };
        let was_provoked = error.sqlstate == SqlState::INVALID_SQL_STATEMENT_NAME.0;
        let is_duplicate = error.sqlstate == SqlState::DUPLICATE_PREPARED_STATEMENT.0;
        let mut is_confused = false;
        let verdict = expect.error(was_provoked || is_duplicate, |entry, has_failed| {
            match &entry.effect {
                // "cached plan must not change result type": prepare it anew. Pooling point A13.
                Effect::Bound(id, _)
                    if has_failed && error.sqlstate == SqlState::FEATURE_NOT_SUPPORTED.0 =>
                {
                    books.held.mark_stale(*id);
                }
                // The server does not have what we think it has.
                Effect::Bound(id, _) if has_failed && was_provoked => books.held.remove(*id),
                Effect::Injected(_) | Effect::Prepared { was_sent: true, .. } => {
                    is_confused |= has_failed && is_duplicate;
                }
                Effect::None
                | Effect::Bound(..)
                | Effect::Channels(_)
                | Effect::Deallocated(_)
                | Effect::Noted
                | Effect::Prepared { .. }
                | Effect::InjectedUnnamed
                | Effect::Evicted(_)
                | Effect::Closed { .. }
                | Effect::Unnamed { .. } => {}
            }
            undo(entry, has_failed, front, &mut books);
        });
        if is_confused {
            expect.taint();
        }
        let noted = &mut self.shared.noted;
        if let Verdict::Replace(message) = &verdict {
            let body = message.get(HEADER_BYTES..).unwrap_or_default();
            noted.pooler_errors.push(SqlClass::of(view::error_response(body).sqlstate));
        } else {
            noted.server_errors.push(SqlClass::of(error.sqlstate));
        }
        let Books { unnamed, unnamed_was_there, .. } = books;
        if unnamed_was_there.is_some() {
            restore_unnamed(unnamed, unnamed_was_there, self.front, self.link);
        }
        if is_ours && verdict == Verdict::Forward {
            return Ok(Verdict::Replace(plain(&error)));
        }
        Ok(verdict)
    }

    /// Takes an error of a query of ours about channels; `None` if it is of something else, or has to be
    /// known all the same.
    fn channels_failed(&mut self, is_last: bool) -> Option<Verdict> {
        let expect = &self.link.expect;
        let Some(Effect::Channels(query)) = expect.head_effect() else { return None };
        match query {
            // What it was in front of fails, too.
            ChannelQuery::Take if expect.status() == TransactionStatus::Failed => {}
            ChannelQuery::Mark if !is_last => {
                if let Some(channels) = self.front.state.channels_mut() {
                    channels.keep();
                }
            }
            ChannelQuery::Take | ChannelQuery::Mark | ChannelQuery::Release => return None,
        }
        Some(Verdict::Drop)
    }

    fn parsed(&mut self) -> Result<Verdict, ServerFailure> {
        let (verdict, entry) = self.link.expect.reply(tag::PARSE_COMPLETE)?;
        if let Some(Effect::Prepared { id, .. } | Effect::Injected(id)) = entry.map(|e| e.effect) {
            self.link.held.prove(id);
        }
        Ok(verdict)
    }

    /// Notifications belong to the client whose LISTEN asked for them. Pooling point E40.
    fn notification(&mut self, body: &[u8]) -> Verdict {
        if self.front.rules == StatementRules::Pass {
            return Verdict::Forward;
        }
        match self.front.state.hear(body) {
            Heard::Forward => Verdict::Forward,
            Heard::Drop => Verdict::Drop,
        }
    }

    /// Notes commands that change what the session keeps on the backend.
    fn command(&mut self, body: &[u8]) {
        if self.front.rules == StatementRules::Pass || self.link.expect.head_is_swallowed() {
            return;
        }
        match body {
            b"DISCARD ALL\0" => {
                self.forget_statements();
                self.front.state.discarded_all();
            }
            b"DEALLOCATE ALL\0" => {
                self.forget_statements();
                self.front.state.pins.remove(Pins::PREPARE);
            }
            b"DEALLOCATE\0" => {
                if let Some(Effect::Deallocated(name)) = self.link.expect.head_effect() {
                    self.front.prepared_mut().remove(name);
                }
            }
            b"PREPARE\0" => self.front.state.pins.add(Pins::PREPARE),
            b"LISTEN\0" => self.front.state.pins.add(Pins::LISTEN),
            _ => {}
        }
    }

    /// The server dropped all statements. Those that it has yet to read of stay. Point A10.
    fn forget_statements(&mut self) {
        let mut names: HashSet<Box<[u8]>> = HashSet::new();
        let mut ids: HashSet<StatementId> = HashSet::new();
        for entry in self.link.expect.entries_mut() {
            match &entry.effect {
                Effect::Prepared { name, id, was_sent } => {
                    names.insert(name.clone());
                    if *was_sent {
                        ids.insert(*id);
                    }
                }
                Effect::Injected(id) => {
                    ids.insert(*id);
                }
                // What is gone, nothing brings back.
                Effect::Evicted(statement) if !ids.contains(&statement.id()) => {
                    entry.effect = Effect::None;
                }
                Effect::Closed { name, .. } if !names.contains(name) => {
                    entry.effect = Effect::None;
                }
                Effect::None
                | Effect::Bound(..)
                | Effect::Channels(_)
                | Effect::Deallocated(_)
                | Effect::Noted
                | Effect::InjectedUnnamed
                | Effect::Evicted(_)
                | Effect::Closed { .. }
                | Effect::Unnamed { .. } => {}
            }
        }
        let names: HashSet<&[u8]> = names.iter().map(|name| &**name).collect();
        let prepared = self.front.prepared_mut();
        let forgotten: Vec<(StatementId, Box<[u8]>)> = prepared
            .names()
            .filter(|(name, statement)| !names.contains(name) && !ids.contains(&statement.id()))
            .map(|(name, statement)| (statement.id(), name.into()))
            .collect();
        prepared.clear_except(&names);
        self.link.held.clear_except(&ids);
        // What is under way for them fails; the client must read its own name in that.
        for entry in self.link.expect.entries_mut() {
            let Effect::Bound(id, name) = entry.effect else { continue };
            let is_it = |(known, known_name): &&(StatementId, Box<[u8]>)| {
                *known == id && mark(known_name) == name
            };
            let known = forgotten.iter().find(is_it);
            if let Some((_, name)) = known.filter(|_| entry.reply == Reply::Forward) {
                let mut error = Vec::new();
                unknown_statement(name).encode(&mut error);
                entry.reply = Reply::Replace(error.into());
            }
        }
    }
}

/// Whether this is what we have the server do for a definition.
fn is_noted(effect: &Effect) -> bool {
    match effect {
        Effect::Noted => true,
        Effect::None
        | Effect::Bound(..)
        | Effect::Channels(_)
        | Effect::Deallocated(_)
        | Effect::Prepared { .. }
        | Effect::Injected(_)
        | Effect::InjectedUnnamed
        | Effect::Evicted(_)
        | Effect::Closed { .. }
        | Effect::Unnamed { .. } => false,
    }
}

/// An error of a statement of ours as the client may see it: not where it was, nor with which parameters.
fn plain(error: &view::ServerError<'_>) -> Box<[u8]> {
    let severity = std::str::from_utf8(error.severity).unwrap_or("ERROR");
    let mut message = Vec::new();
    encode::report(
        &mut message,
        tag::ERROR_RESPONSE,
        severity,
        &error.sqlstate,
        error.message,
        &[],
    );
    message.into()
}
