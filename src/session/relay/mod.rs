//! Client ↔ lease: the hot loop, as two pure functions over bytes.
//!
//! [`from_client`] takes what a client sent and says what goes to its backend; [`from_server`] takes
//! what the backend sent and says what goes to the client. Both cut whole headers, keep the FIFO of
//! awaited replies, and return a slice of their input unless a message had to be changed. Neither
//! knows a socket or a clock: the worker reads and writes.
//!
//! Budget per simple-query transaction: one pass over each header, no allocation, no copy.
//! A body is parsed only for the tags that are named in the two `match`es.

mod client;
mod server;

pub use client::{ClientTurn, Stop, answer_alone, from_client, may_begin};
pub use server::{ServerTurn, from_server};

use crate::backend::link::{Effect, Link, Unnamed};
use crate::backend::params::Interner;
use crate::backend::statements::Catalog;
use crate::session::front::Front;
use crate::wire::expect::{Awaited, Desync, Entry};
use crate::wire::header::BadLength;

/// What all sessions of a worker share: definitions and parameter sets, each kept once.
#[derive(Debug, Default)]
pub struct Shared {
    /// Prepared statements by definition.
    pub catalog: Catalog,
    /// Parameter sets.
    pub interner: Interner,
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
///
/// What a later segment has changed since stays: `Books` says in which they were changed last.
fn undo(entry: Entry<Effect>, has_failed: bool, front: &mut Front, link: &mut Books<'_>) {
    match entry.effect {
        Effect::None | Effect::Bound(_) => {}
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
        Effect::InjectedUnnamed => *link.has_unnamed = false,
        Effect::Evicted(statement) => link.held.insert(statement),
        Effect::Closed { name, statement } => front.prepared_mut().insert(name, statement),
        Effect::Unnamed { before, segment } => {
            // A Parse that fails has dropped the unnamed statement first; one that is skipped has
            // not. `exec_parse_message` of postgres.c.
            let is_dropped = has_failed && entry.awaited == Awaited::Parse;
            if link.unnamed_changed_in == segment {
                front.prepared_mut().unnamed = if is_dropped { Unnamed::None } else { before };
            }
            *link.has_unnamed = false;
        }
    }
}

/// The parts of a [`Link`] that an undo changes, borrowed beside its FIFO.
struct Books<'a> {
    held: &'a mut crate::backend::statements::HeldStatements,
    has_unnamed: &'a mut bool,
    unnamed_changed_in: u64,
}

/// Says whether the backend can be given back: nothing is under way on either side.
pub fn is_at_rest(front: &Front, link: &Link) -> bool {
    link.is_at_rest() && front.passage.is_boundary()
}

#[cfg(test)]
mod tests;
