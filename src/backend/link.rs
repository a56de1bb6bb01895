//! The protocol state of one server connection, without its socket.

use std::sync::Arc;

use super::params::ParamSet;
use super::standing::IN_HOT_STANDBY;
use super::statements::{HeldStatements, Statement, StatementId};
use crate::wire::expect::Expect;
use crate::wire::passage::Passage;

/// A client's unnamed statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unnamed {
    /// There is none.
    #[default]
    None,
    /// Its definition: it can be prepared again on any backend.
    Kept(Arc<[u8]>),
    /// It is too long to be kept: the client keeps the backend that has it.
    TooLong,
}

/// Tells a client's names of one statement apart (FNV-1a).
pub fn mark(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |mark, byte| (mark ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// What a forwarded message did to the books, to be undone if the server skips it.
#[derive(Debug, Default)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// A Bind or Describe used this statement, under the client's name with this [`mark`].
    Bound(StatementId, u32),
    /// A client prepared a statement under its own name.
    Prepared {
        /// The client's name for it.
        name: Box<[u8]>,
        /// The statement.
        id: StatementId,
        /// Whether the server was asked to prepare it, or held it already.
        was_sent: bool,
    },
    /// We had the server prepare a statement.
    Injected(StatementId),
    /// We had the server prepare the client's unnamed statement again, or close somebody else's.
    InjectedUnnamed,
    /// We had the server write a definition down.
    Noted,
    /// We had the server close a statement.
    Evicted(Arc<Statement>),
    /// A client closed a statement.
    Closed {
        /// The client's name for it.
        name: Box<[u8]>,
        /// The statement.
        statement: Arc<Statement>,
    },
    /// A Query dropped the statement that the client calls so, if it succeeds.
    Deallocated(Box<[u8]>),
    /// A query of ours about the channels that the client listens to.
    Channels(ChannelQuery),
    /// A message replaced or dropped the client's unnamed statement.
    Unnamed {
        /// What it was before.
        before: Unnamed,
        /// Whether the backend had it before: it has it still if it skips the message.
        was_there: bool,
    },
}

impl Effect {
    /// Says whether it is about named statements: what a name means, or what the server holds.
    pub fn is_about_named(&self) -> bool {
        match self {
            Self::Prepared { .. } | Self::Injected(_) | Self::Evicted(_) | Self::Closed { .. } => {
                true
            }
            Self::None
            | Self::Bound(..)
            | Self::InjectedUnnamed
            | Self::Noted
            | Self::Channels(_)
            | Self::Deallocated(_)
            | Self::Unnamed { .. } => false,
        }
    }

    /// Says whether it is about the unnamed statement.
    fn is_about_unnamed(&self) -> bool {
        match self {
            Self::InjectedUnnamed | Self::Unnamed { .. } => true,
            Self::None
            | Self::Bound(..)
            | Self::Prepared { .. }
            | Self::Injected(_)
            | Self::Noted
            | Self::Evicted(_)
            | Self::Closed { .. }
            | Self::Channels(_)
            | Self::Deallocated(_) => false,
        }
    }
}

/// A query of ours about the channels that a client listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelQuery {
    /// Makes the backend listen to what the client listens to, in front of the client's UNLISTEN. It
    /// may fail, where that fails too.
    Take,
    /// Notifies a marker.
    Mark,
    /// Makes the backend listen to nothing.
    Release,
}

/// The protocol state of one server connection.
#[derive(Debug)]
pub struct Link {
    /// The replies it owes, and its transaction status.
    pub expect: Expect<Effect>,
    /// The tracked parameters as the server last reported them.
    pub params: Arc<ParamSet>,
    /// The statements of ours that it holds.
    pub held: HeldStatements,
    /// Whether its unnamed statement is the one of the session that leases it.
    pub has_unnamed: bool,
    /// The segment in which the named statements were last changed, on either side.
    pub named_changed_in: u64,
    /// The segment in which the unnamed statement was last changed, on either side.
    pub unnamed_changed_in: u64,
    /// Its server process; 0 if it did not say.
    pub pid: i32,
    /// Where its output stands.
    pub passage: Passage,
    /// Whether it said that it is no standby any more, and nobody has acted on that.
    pub is_promoted: bool,
    /// Whether it said itself why it ends (an ErrorResponse of severity FATAL or PANIC).
    pub has_said_why: bool,
}

impl Link {
    /// Starts with a connection that has just logged in.
    pub fn new(params: Arc<ParamSet>) -> Self {
        Self {
            expect: Expect::default(),
            params,
            held: HeldStatements::default(),
            has_unnamed: false,
            named_changed_in: 0,
            unnamed_changed_in: 0,
            pid: 0,
            passage: Passage::Boundary,
            is_promoted: false,
            has_said_why: false,
        }
    }

    /// Notes what a server says of itself, if that is news: that it has been promoted.
    pub fn note_fact(&mut self, name: &[u8], value: &[u8]) {
        self.is_promoted |= name == IN_HOT_STANDBY && value == b"off";
    }

    /// Says whether an earlier segment may still take back what it changed about named statements.
    pub fn named_may_change_back(&mut self) -> bool {
        may_change_back(&self.expect, &mut self.named_changed_in, Effect::is_about_named)
    }

    /// Says whether an earlier segment may still take back what it changed about the unnamed statement.
    pub fn unnamed_may_change_back(&mut self) -> bool {
        may_change_back(&self.expect, &mut self.unnamed_changed_in, Effect::is_about_unnamed)
    }

    /// Says whether nothing is under way, also not the rest of a message.
    pub fn is_at_rest(&self) -> bool {
        self.expect.is_at_rest() && self.passage.is_boundary()
    }
}

/// Is in the place of a segment in which something was changed, if nothing can be undone.
const NO_SEGMENT: u64 = u64::MAX;

/// Says whether what was changed in the segment `changed_in` may still be undone. Once it cannot, that is
/// noted, so that nobody looks through what is awaited again.
fn may_change_back(
    expect: &Expect<Effect>,
    changed_in: &mut u64,
    is_meant: impl Fn(&Effect) -> bool,
) -> bool {
    if !expect.may_fail_yet(*changed_in) {
        return false;
    }
    let may_change = expect.may_undo(is_meant);
    if !may_change {
        *changed_in = NO_SEGMENT;
    }
    may_change
}
