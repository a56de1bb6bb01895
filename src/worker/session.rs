//! A client as its worker has it: socket, protocol state, and where in its life it is.

use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::pipe::Pipe;
use super::slab::Key;
use crate::backend::params::ParamSet;
use crate::net::Peer;
use crate::pool::spec::{PoolNumber, Seat};
use crate::secret::Secret;
use crate::session::admission::Admitted;
use crate::session::front::{Front, StatementRules};
use crate::session::refuse;

/// Where in its life a client is.
#[derive(Debug)]
pub enum Phase {
    /// Logged in, but not told so yet: its startup parameters are to be tried on a backend. It
    /// waits for one, or has one.
    Greeting(Box<Greeting>),
    /// Between two transactions.
    Idle,
    /// Has sent something and waits for a backend. What it sent is still in its socket.
    Waiting,
    /// Its request is being answered with an error.
    Refusing(refuse::Progress),
    /// Has a backend.
    Leased(Key<Backend>),
    /// Will send nothing more, but the server still works on what it sent; answers go to it as long
    /// as it takes them. Boxed, as few clients are: those that are idle would pay for it.
    Leaving(Key<Backend>, Box<Departure>),
    /// Nothing is left to do but to send what it has not taken yet.
    Closing {
        /// When to give up, in the worker's milliseconds.
        until_ms: u64,
    },
}

/// What becomes of the requests of a client that has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// When they are cancelled. `None` behind a goodbye: they are carried out, as PostgreSQL would.
    pub cancel: Option<Cancel>,
    /// Whether the server was told goodbye as well. It ends the connection behind all it was sent.
    pub is_passed_on: bool,
}

/// When the requests of a client that has gone without a goodbye are cancelled, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    /// When to begin, in the worker's milliseconds: what is short is carried out.
    pub from_ms: u64,
    /// When to give up and close the backend, in the worker's milliseconds.
    pub until_ms: u64,
}

/// What is to be said to a client that has just logged in.
#[derive(Debug)]
pub struct Greeting {
    /// Not yet sent: the end of its login.
    pub hello: Vec<u8>,
    /// When its connection was accepted.
    pub accepted_at: Instant,
    /// Its startup parameters.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// The parameters it wants, before the server has seen them.
    pub wanted: Option<Arc<ParamSet>>,
    /// Parameters it wants that the server does not report.
    pub foreign: Vec<(Vec<u8>, Vec<u8>)>,
    /// The backend that they are tried on.
    pub backend: Option<Key<Backend>>,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    /// Its socket.
    pub pipe: Pipe,
    /// Its protocol state.
    pub front: Front,
    /// Tells it from all other sessions and backends of the process.
    pub serial: u64,
    /// Where it comes from.
    pub peer: Peer,
    /// Its pool.
    pub pool: PoolNumber,
    /// Where in its life it is.
    pub phase: Phase,
    /// The secret half of its cancel key.
    pub secret: Secret,
    /// Whether the stash holds whole messages, so that no read is needed to go on.
    pub has_backlog: bool,
    /// Whether its lease has not been used yet.
    pub is_fresh: bool,
    /// When it logged in, in the worker's milliseconds.
    pub login_ms: u64,
    /// When it last asked for a backend, in the worker's milliseconds.
    pub request_ms: u64,
    /// When it was last given an answer or a backend, in the worker's milliseconds.
    pub idle_ms: u64,
    /// Its place among the clients.
    pub admitted: Admitted,
    /// Its place among the clients of its pool.
    pub seat: Seat,
}

impl Session {
    /// Says whether the backend that it is greeted on is its own until it leaves: it began in session
    /// mode.
    pub fn keeps_first_backend(&self) -> bool {
        self.front.rules == StatementRules::Pass
    }

    /// Says whether there may be something to relay.
    pub fn has_input(&self) -> bool {
        self.has_backlog || self.pipe.is_readable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is rarely there is boxed. Beside this an idle client costs its parameters, shared by all
    /// that have the same, and its secret.
    #[test]
    fn an_idle_client_is_small() {
        assert!(size_of::<Session>() <= 312, "{} bytes", size_of::<Session>());
    }
}
