//! Client ↔ lease: the hot loop, as two pure functions over bytes.
//!
//! [`from_client`] takes what a client sent and says what goes to its backend; [`from_server`] takes
//! what the backend sent and says what goes to the client. Both cut whole headers, keep the FIFO of
//! awaited replies, and return a slice of their input unless a message had to be changed. Neither
//! knows a socket or a clock: the worker reads and writes.
//!
//! Budget per simple-query transaction: one pass over each header, no allocation, no copy.
//! A body is parsed only for the tags that are named in the two `match`es.

mod alone;
mod client;
mod server;

pub use alone::{answer_alone, may_begin, says_goodbye};
pub use client::{ClientTurn, Stop, from_client};
pub use server::{ServerTurn, from_server};

use crate::backend::link::{Effect, Link, Unnamed};
use crate::backend::params::Interner;
use crate::backend::statements::Catalog;
use crate::metrics::cells::{Cells, Statements};
use crate::metrics::labels::SqlClass;
use crate::session::front::Front;
use crate::wire::expect::{Awaited, Desync, Entry};
use crate::wire::header::BadLength;

/// The name of a statement that nobody has: to close it is a question that means nothing.
pub const NOTHING_NAME: &[u8] = b"pgtandem.nothing";

/// What all sessions of a worker share: definitions and parameter sets, each kept once.
#[derive(Debug, Default)]
pub struct Shared {
    /// Prepared statements by definition.
    pub catalog: Catalog,
    /// Parameter sets.
    pub interner: Interner,
    /// What was done since the last [`count_into`](Noted::count_into).
    pub noted: Noted,
}

/// What the relay has seen and its caller counts.
#[derive(Debug, Default)]
pub struct Noted {
    /// Prepared statements.
    pub statements: Statements,
    /// Errors of the server that the client is sent; no more than one read has.
    pub server_errors: Vec<SqlClass>,
    /// Errors that the client is sent instead.
    pub pooler_errors: Vec<SqlClass>,
}

impl Noted {
    /// Adds what was noted to the counters of a pool, and forgets it.
    #[inline]
    pub fn count_into(&mut self, cells: &mut Cells) {
        if self.statements != Statements::default() {
            cells.statements.absorb(&mut self.statements);
        }
        for class in self.server_errors.drain(..) {
            cells.server_errors.add(class);
        }
        for class in self.pooler_errors.drain(..) {
            cells.pooler_errors.add(class);
        }
    }
}

/// The server cannot be relayed any more.
#[derive(Debug, thiserror::Error)]
pub enum ServerFailure {
    /// It sent a reply that nothing awaits.
    #[error(transparent)]
    Desync(#[from] Desync),
    /// It sent a message of impossible length.
    #[error(transparent)]
    BadLength(#[from] BadLength),
    /// It sent a body that its tag does not allow.
    #[error("malformed message {tag:#04x}")]
    Malformed {
        /// The message's tag.
        tag: u8,
    },
    /// It refused a parameter of the client that we restored.
    #[error("the server refused a session parameter ({})", String::from_utf8_lossy(.sqlstate))]
    ParameterRefused {
        /// The server's own SQLSTATE.
        sqlstate: [u8; 5],
        /// The server's own message.
        message: Vec<u8>,
    },
}

/// Takes back what a skipped or failed message did to the books.
fn undo(entry: Entry<Effect>, has_failed: bool, front: &mut Front, link: &mut Books<'_>) {
    match entry.effect {
        Effect::None
        | Effect::Bound(..)
        | Effect::Channels(_)
        | Effect::Deallocated(_)
        | Effect::Noted => {}
        Effect::Prepared { name, id, was_sent } => {
            let prepared = front.prepared_mut();
            if prepared.find(&name).is_some_and(|statement| statement.id() == id) {
                prepared.remove(&name);
            }
            if was_sent {
                link.held.remove(id);
            }
        }
        Effect::Injected(id) => link.held.remove(id),
        Effect::InjectedUnnamed => link.unnamed_was_there = Some(false),
        Effect::Evicted(statement) => link.held.insert(statement),
        Effect::Closed { name, statement } => front.prepared_mut().insert(name, statement),
        Effect::Unnamed { before, was_there } => {
            // A Parse that fails has dropped the unnamed statement first; one that is skipped has
            // not. `exec_parse_message` of postgres.c.
            let is_dropped = has_failed && entry.awaited == Awaited::Parse;
            link.unnamed = Some(if is_dropped { Unnamed::None } else { before });
            link.unnamed_was_there = Some(was_there && !is_dropped);
        }
    }
}

/// What an undo changes, borrowed beside the FIFO, and what is left to be restored behind it.
struct Books<'a> {
    held: &'a mut crate::backend::statements::HeldStatements,
    /// The unnamed statement as it was before the messages that were undone.
    unnamed: Option<Unnamed>,
    /// Whether the backend had it.
    unnamed_was_there: Option<bool>,
}

/// Makes the unnamed statement what it was before the messages that were undone. If a message in
/// flight has changed it since, that one now stands behind what was restored.
fn restore_unnamed(
    unnamed: Option<Unnamed>,
    was_there: Option<bool>,
    front: &mut Front,
    link: &mut Link,
) {
    let later = link.expect.entries_mut().find_map(|entry| match &mut entry.effect {
        Effect::Unnamed { before, was_there } => Some((before, was_there)),
        Effect::None
        | Effect::Bound(..)
        | Effect::Channels(_)
        | Effect::Deallocated(_)
        | Effect::Noted
        | Effect::Prepared { .. }
        | Effect::Injected(_)
        | Effect::InjectedUnnamed
        | Effect::Evicted(_)
        | Effect::Closed { .. } => None,
    });
    let (place, has_it) = match later {
        Some(later) => later,
        None => (&mut front.prepared_mut().unnamed, &mut link.has_unnamed),
    };
    if let Some(unnamed) = unnamed {
        *place = unnamed;
    }
    if let Some(was_there) = was_there {
        *has_it = was_there;
    }
}

/// What a client that will send nothing more is still owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// Nothing.
    Nothing,
    /// Answers that end in ReadyForQuery.
    Answers,
    /// Answers that the server may hold back, as a segment or a COPY has no end. If it is told that
    /// nothing will come, it says what is left to say.
    LastWords,
}

/// Says what a client is owed that will send nothing more.
pub fn owed(front: &Front, link: &Link) -> Owed {
    let expect = &link.expect;
    let is_whole = front.passage.is_boundary();
    if expect.is_empty() {
        Owed::Nothing
    } else if is_whole {
        if expect.will_be_ready() { Owed::Answers } else { Owed::LastWords }
    } else if expect.owes_ready_before_last() {
        Owed::Answers
    } else {
        Owed::Nothing
    }
}

/// Says whether the backend can be given back: nothing is under way on either side.
pub fn is_at_rest(front: &Front, link: &Link) -> bool {
    link.is_at_rest() && front.passage.is_boundary()
}

#[cfg(test)]
mod tests;
