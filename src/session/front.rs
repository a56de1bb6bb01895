//! The protocol state of one client, without its socket.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::backend::link::Unnamed;
use crate::backend::params::ParamSet;
use crate::backend::statements::{Scope, Statement, text_of};
use crate::fault::Fault;
use crate::pool::definitions::Definitions;
use crate::session::state::{State, Taking};
use crate::wire::header::MESSAGE_BYTES_MAX;
use crate::wire::passage::Passage;

/// Most statements that one client may have prepared. LIMIT: pooling point A14.
pub const STATEMENTS_MAX: usize = 65_536;

/// Most bytes of names and definitions that one client may have prepared. LIMIT: point A14.
pub const STATEMENT_BYTES_MAX: usize = 64 << 20;

/// How statements of this client are treated; follows from the pool's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementRules {
    /// The client keeps one backend: everything passes as it is.
    Pass,
    /// Backends change between transactions: the unnamed statement is prepared again where it is
    /// missing; named ones pass as they are (`max_prepared_statements = 0`).
    Unnamed,
    /// As before, and named statements get names of ours; a backend holds so many at most.
    Rename {
        /// `max_prepared_statements`.
        limit: usize,
    },
}

impl StatementRules {
    /// Says whether named statements get names of ours.
    pub fn renames(self) -> bool {
        matches!(self, Self::Rename { .. })
    }
}

/// The statements that one client has prepared.
#[derive(Debug, Default)]
pub struct Prepared {
    named: HashMap<Box<[u8]>, Arc<Statement>>,
    named_bytes: usize,
    /// The unnamed statement.
    pub unnamed: Unnamed,
    /// The definitions among them, and among its portals.
    defining: Option<Box<Defining>>,
}

impl Prepared {
    /// Returns the statement that the client calls `name`.
    pub fn find(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.named.get(name)
    }

    /// Returns the named statements.
    pub fn names(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.named.iter().map(|(name, statement)| (&**name, statement))
    }

    /// Returns how many named statements there are.
    pub fn count(&self) -> usize {
        self.named.len()
    }

    /// Says whether one more statement of this size is above the limits.
    pub fn is_full_for(&self, name: &[u8], definition: &[u8]) -> bool {
        self.named.len() >= STATEMENTS_MAX
            || self.named_bytes + name.len() + definition.len() > STATEMENT_BYTES_MAX
    }

    /// Notes that the client calls `statement` `name`.
    pub fn insert(&mut self, name: Box<[u8]>, statement: Arc<Statement>) {
        self.remove(&name);
        self.named_bytes += name.len() + statement.definition().len();
        self.named.insert(name, statement);
    }

    /// Forgets `name`.
    pub fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        let statement = self.named.remove(name)?;
        self.named_bytes -= name.len() + statement.definition().len();
        Some(statement)
    }

    /// Forgets all names but those of `kept`.
    pub fn clear_except(&mut self, kept: &HashSet<&[u8]>) {
        let named_bytes = &mut self.named_bytes;
        self.named.retain(|name, statement| {
            let stays = kept.contains(&**name);
            if !stays {
                *named_bytes -= name.len() + statement.definition().len();
            }
            stays
        });
    }
}

/// Most statements and portals with definitions that one client may have. LIMIT: the others do not
/// follow.
const DEFINING_MAX: usize = 256;

/// Most bytes of their texts, for statements and portals each. LIMIT: as above.
const DEFINING_BYTES_MAX: usize = 16 << 20;

/// The definitions among the statements and portals of one client.
#[derive(Debug, Default)]
pub struct Defining {
    /// Texts of statements that keep their names, by these.
    pub statements: Texts,
    /// Texts of portals, by their names.
    pub portals: Texts,
}

/// Texts by names.
#[derive(Debug, Default)]
pub struct Texts(Vec<NamedText>);

/// A name, and the text that it stands for.
type NamedText = (Box<[u8]>, Arc<[u8]>);

impl Texts {
    /// Notes that `name` stands for a text, or for something else.
    pub fn set(&mut self, name: &[u8], text: Option<Arc<[u8]>>) {
        self.0.retain(|(known, _)| **known != *name);
        let bytes: usize = self.0.iter().map(|(_, known)| known.len()).sum();
        if let Some(text) = text
            && self.0.len() < DEFINING_MAX
            && bytes + text.len() <= DEFINING_BYTES_MAX
        {
            self.0.push((name.into(), text));
        }
    }

    /// Returns the text that `name` stands for.
    pub fn find(&self, name: &[u8]) -> Option<&Arc<[u8]>> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, text)| text)
    }
}

/// The protocol state of one client.
#[derive(Debug)]
pub struct Front {
    /// How its statements are treated.
    pub rules: StatementRules,
    /// Which of the worker's statements are those of its pool.
    pub scope: Scope,
    /// Longest message it may send (`max_packet_size`, and PostgreSQL's own bound).
    pub length_max: u32,
    /// Where its input stands.
    pub passage: Passage,
    /// The tracked parameters as it expects them.
    pub params: Arc<ParamSet>,
    /// What it leaves at its backend.
    pub state: State,
    /// How its definitions are treated, if they are looked for; as of the lease.
    pub definitions: Option<Arc<Definitions>>,
    /// Its prepared statements; boxed, so that clients without any cost nothing.
    prepared: Option<Box<Prepared>>,
}

impl Front {
    /// Starts with a client that has just logged in.
    pub fn new(rules: StatementRules, scope: Scope, params: Arc<ParamSet>) -> Self {
        Self {
            rules,
            scope,
            length_max: MESSAGE_BYTES_MAX,
            passage: Passage::Boundary,
            params,
            state: State::default(),
            definitions: None,
            prepared: None,
        }
    }

    /// Looks at a text that it is about to run: see [`State::inspect`].
    pub fn inspect(&mut self, text: &[u8]) -> Result<(), Fault> {
        self.state.inspect(text, &self.params)
    }

    /// Says whether its backend must be made to listen in front of a text.
    pub fn taking(&self, text: &[u8]) -> Taking {
        self.state.taking(text, &self.params)
    }

    /// Looks at the unnamed statement, which it is about to run.
    pub fn inspect_unnamed(&mut self) -> Result<Taking, Fault> {
        match self.prepared.as_deref().map(|prepared| &prepared.unnamed) {
            Some(Unnamed::Kept(definition)) => {
                let text = text_of(definition);
                let taking = self.state.taking(text, &self.params);
                self.state.inspect(text, &self.params).map(|()| taking)
            }
            Some(Unnamed::TooLong) => {
                self.state.doubt_everything();
                Ok(Taking::Nothing)
            }
            Some(Unnamed::None) | None => Ok(Taking::Nothing),
        }
    }

    /// Returns its definitions, if it ever had any.
    pub fn defining(&self) -> Option<&Defining> {
        self.prepared()?.defining.as_deref()
    }

    /// Returns its definitions, to be changed.
    pub fn defining_mut(&mut self) -> &mut Defining {
        self.prepared_mut().defining.get_or_insert_default()
    }

    /// Returns its prepared statements, if it ever had any.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_deref()
    }

    /// Returns its prepared statements, to be changed.
    pub fn prepared_mut(&mut self) -> &mut Prepared {
        self.prepared.get_or_insert_default()
    }

    /// Takes the unnamed statement away.
    pub fn take_unnamed(&mut self) -> Unnamed {
        self.prepared
            .as_mut()
            .map(|prepared| std::mem::take(&mut prepared.unnamed))
            .unwrap_or_default()
    }

    /// Says whether the client keeps its backend between transactions.
    pub fn is_pinned(&self) -> bool {
        !self.state.pins.is_empty() || self.has_long_unnamed()
    }

    /// Says whether its unnamed statement is known to its backend only.
    pub fn has_long_unnamed(&self) -> bool {
        let is_long = |prepared: &Prepared| prepared.unnamed == Unnamed::TooLong;
        self.prepared().is_some_and(is_long)
    }
}
