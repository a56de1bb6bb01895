//! Prepared statements and portals of one console; no I/O.
//!
//! Source: PostgreSQL manual, "Extended Query", and `src/backend/tcop/postgres.c` for what comes to
//! an end when.

use std::collections::HashMap;

use super::command::{Action, Command, Order, Probe};
use super::refusal::Refusal;
use super::show::{self, Show};
use crate::wire::frontend::Binding;
use crate::wire::rows::{Column, Formats, Type, Value};

/// LIMIT: more than the statement cache of any driver holds.
const STATEMENTS_MAX: usize = 1024;

/// LIMIT: portals may hold results.
const PORTALS_MAX: usize = 16;

/// Rows of a result.
pub type Rows = Vec<Vec<Value>>;

/// A prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it does.
    pub command: Command,
    /// Types of parameters, as Parse stated them; their values are never looked at.
    pub types: Vec<u32>,
}

/// A statement that is ready to be carried out.
#[derive(Debug)]
pub struct Portal {
    /// What it does.
    pub command: Command,
    /// How its columns are sent.
    pub formats: Formats,
    /// How far it has been carried out.
    pub progress: Progress,
}

/// How far a portal has been carried out.
#[derive(Debug)]
pub enum Progress {
    /// Not at all.
    Fresh,
    /// Its result is being fetched.
    Fetching(std::vec::IntoIter<Vec<Value>>),
    /// All that it does is done.
    Done,
}

/// What one console has prepared.
#[derive(Debug, Default)]
pub struct Books {
    statements: HashMap<Vec<u8>, Statement>,
    portals: HashMap<Vec<u8>, Portal>,
}

impl Books {
    /// Keeps a statement; the unnamed one takes the place of the one before it.
    ///
    /// # Errors
    /// [`Refusal::DuplicateStatement`], [`Refusal::TooMany`].
    pub fn prepare(&mut self, name: &[u8], statement: Statement) -> Result<(), Refusal> {
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(Refusal::DuplicateStatement(lossy(name)));
        }
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(name) {
            return Err(Refusal::TooMany { what: "prepared statements", max: STATEMENTS_MAX });
        }
        self.statements.insert(name.to_vec(), statement);
        Ok(())
    }

    /// Makes a portal of a statement; the unnamed one takes the place of the one before it.
    ///
    /// # Errors
    /// [`Refusal::NoStatement`], [`Refusal::DuplicatePortal`], [`Refusal::TooMany`],
    /// [`Refusal::Parameters`], [`Refusal::ResultFormats`].
    pub fn bind(&mut self, portal: &[u8], name: &[u8], binding: Binding) -> Result<(), Refusal> {
        let statement = self.statement(name)?;
        let (expected, found) = (statement.types.len(), binding.parameters);
        if expected != found {
            return Err(Refusal::Parameters { found, expected });
        }
        let (columns, found) = (columns(&statement.command).len(), binding.formats.len());
        let formats = match Formats::new(binding.formats, columns) {
            Some(formats) => formats,
            // As PostgreSQL: formats of nothing mean nothing.
            None if columns == 0 => Formats::default(),
            None => return Err(Refusal::ResultFormats { found, expected: columns }),
        };
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err(Refusal::DuplicatePortal(lossy(portal)));
        }
        if self.portals.len() >= PORTALS_MAX && !self.portals.contains_key(portal) {
            return Err(Refusal::TooMany { what: "portals", max: PORTALS_MAX });
        }
        let command = statement.command.clone();
        let made = Portal { command, formats, progress: Progress::Fresh };
        self.portals.insert(portal.to_vec(), made);
        Ok(())
    }

    /// Finds a statement.
    ///
    /// # Errors
    /// [`Refusal::NoStatement`].
    pub fn statement(&self, name: &[u8]) -> Result<&Statement, Refusal> {
        self.statements.get(name).ok_or_else(|| Refusal::NoStatement(lossy(name)))
    }

    /// Finds a portal.
    ///
    /// # Errors
    /// [`Refusal::NoPortal`].
    pub fn portal(&self, name: &[u8]) -> Result<&Portal, Refusal> {
        self.portals.get(name).ok_or_else(|| Refusal::NoPortal(lossy(name)))
    }

    /// Takes a portal out, to be carried out; [`put_back`](Self::put_back) it then.
    ///
    /// # Errors
    /// [`Refusal::NoPortal`].
    pub fn take_portal(&mut self, name: &[u8]) -> Result<Portal, Refusal> {
        self.portals.remove(name).ok_or_else(|| Refusal::NoPortal(lossy(name)))
    }

    /// Puts a portal back.
    pub fn put_back(&mut self, name: &[u8], portal: Portal) {
        self.portals.insert(name.to_vec(), portal);
    }

    /// Forgets a statement, if it is there.
    pub fn close_statement(&mut self, name: &[u8]) -> bool {
        self.statements.remove(name).is_some()
    }

    /// Forgets a portal, if it is there.
    pub fn close_portal(&mut self, name: &[u8]) {
        self.portals.remove(name);
    }

    /// Forgets all statements.
    pub fn close_statements(&mut self) {
        self.statements.clear();
    }

    /// Forgets what a simple query ends: the unnamed statement and the unnamed portal.
    pub fn begin_simple(&mut self) {
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
    }

    /// Forgets what the end of a transaction ends: all portals.
    pub fn end_transaction(&mut self) {
        self.portals.clear();
    }
}

/// Returns the columns of what a command returns; none if it returns no rows.
pub fn columns(command: &Command) -> &'static [Column] {
    const NUMBER: &[Column] = &[Column { name: "?column?", kind: Type::Int4 }];
    const TEXT: &[Column] = &[Column { name: "?column?", kind: Type::Text }];
    const VERSION: &[Column] = &[Column { name: "version", kind: Type::Text }];
    const RECOVERY: &[Column] = &[Column { name: "pg_is_in_recovery", kind: Type::Bool }];
    match command {
        Command::Show(show) => Show::columns(*show),
        Command::Probe(Probe::Number(_)) => NUMBER,
        Command::Probe(Probe::Text(_)) => TEXT,
        Command::Probe(Probe::Version) => VERSION,
        Command::Probe(Probe::IsInRecovery) => RECOVERY,
        Command::Act(Action::ReloadDryRun) => show::CHANGES,
        Command::Act(Action::Order(Order::Verify(..))) => show::VERIFIED,
        Command::Act(Action::Order(Order::Repair { .. })) => show::REPAIRED,
        Command::Empty
        | Command::Begin
        | Command::End { .. }
        | Command::Ignored { .. }
        | Command::SetApplicationName(_)
        | Command::Deallocate { .. }
        | Command::Act(_) => &[],
    }
}

/// A name as it is told in an error message.
fn lossy(name: &[u8]) -> String {
    /// PostgreSQL's bound of names.
    const NAME_MAX: usize = 63;
    String::from_utf8_lossy(name).chars().take(NAME_MAX).collect()
}
