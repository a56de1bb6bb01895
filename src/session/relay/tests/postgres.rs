//! A PostgreSQL of one connection: all that its protocol shows, and next to nothing behind it.
//!
//! Source: `PostgresMain`, `exec_*_message` of postgres.c, `CopyGetData` of copyfromparse.c,
//! `CreatePortal` of portalmem.c.
//!
//! Its SQL, several statements divided by `;`: `select …` and `rows N` give rows that repeat the
//! text, `wide N` one whose description has N bytes; `begin`, `commit`, `rollback`; `fail` fails
//! when it runs and `syntax` when it is parsed; `copy in`, `copy in trigger` (fails before it
//! reads) and `copy out`; `set N = V` changes a parameter; `deallocate all`, `discard all`,
//! `prepare N`, `listen N`; `alter` changes the type of all results.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashMap, VecDeque};

use crate::wire::cursor::Cursor;
use crate::wire::encode;
use crate::wire::expect::TransactionStatus;
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::{backend, frontend as tag};

#[derive(Debug, Clone)]
struct Statement {
    sql: String,
    types: u16,
    /// The type of its result.
    version: u32,
}

#[derive(Debug)]
struct Portal {
    sql: String,
    parameter: String,
    rows_left: u32,
    is_done: bool,
}

/// Who gets the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
}

#[derive(Debug)]
struct Copying {
    protocol: Protocol,
    /// What else the Query asked for.
    rest: VecDeque<String>,
}

struct Refusal([u8; 5], String);

type Outcome<T = ()> = Result<T, Refusal>;

fn refuse<T>(sqlstate: [u8; 5], message: impl Into<String>) -> Outcome<T> {
    Err(Refusal(sqlstate, message.into()))
}

/// The server.
#[derive(Debug)]
pub(super) struct Postgres {
    statements: BTreeMap<String, Statement>,
    unnamed: Option<Statement>,
    portals: HashMap<String, Portal>,
    status: TransactionStatus,
    /// `ignore_till_sync`.
    is_skipping: bool,
    /// An implicit transaction is open that only a Sync ends.
    is_open: bool,
    copying: Option<Copying>,
    version: u32,
    reports: Vec<(String, String)>,
    input: Vec<u8>,
    /// Written but not flushed.
    buffered: Vec<u8>,
    /// On its way to the client.
    pub(super) output: Vec<u8>,
    /// It has closed the connection.
    pub(super) is_gone: bool,
    /// Tags of all messages read.
    pub(super) has_read: Vec<u8>,
}

/// Bytes that PostgreSQL buffers before it sends (`PQ_SEND_BUFFER_SIZE`).
const SEND_BUFFER_BYTES: usize = 8192;

impl Default for Postgres {
    fn default() -> Self {
        Self {
            statements: BTreeMap::new(),
            unnamed: None,
            portals: HashMap::new(),
            status: TransactionStatus::Idle,
            is_skipping: false,
            is_open: false,
            copying: None,
            version: 0,
            reports: Vec::new(),
            input: Vec::new(),
            buffered: Vec::new(),
            output: Vec::new(),
            is_gone: false,
            has_read: Vec::new(),
        }
    }
}

impl Postgres {
    /// Takes bytes from the client.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Says whether a whole message waits to be read.
    pub(super) fn has_input(&self) -> bool {
        let next = header::read(&self.input, u32::MAX >> 1).expect("a possible length");
        !self.is_gone && next.is_some_and(|next| self.input.len() >= next.message_bytes())
    }

    /// Reads one message.
    pub(super) fn step(&mut self) {
        let header = header::read(&self.input, u32::MAX >> 1).expect("checked").expect("checked");
        let message: Vec<u8> = self.input.drain(..header.message_bytes()).collect();
        let body = message.get(HEADER_BYTES..).expect("a body");
        self.has_read.push(header.tag);
        if let Some(copying) = self.copying.take() {
            self.read_copying(header.tag, body, copying);
        } else {
            self.read(header.tag, body);
        }
        if self.buffered.len() >= SEND_BUFFER_BYTES {
            self.flush();
        }
    }

    /// Says whether somebody else could use the connection now.
    pub(super) fn is_at_rest(&self) -> bool {
        // The rest of a COPY that failed is read and forgotten.
        let mut rest = self.input.as_slice();
        while let Some(next) = header::read(rest, u32::MAX >> 1).expect("a possible length") {
            let is_ignored =
                matches!(next.tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH);
            match rest.get(next.message_bytes()..) {
                Some(behind) if is_ignored => rest = behind,
                Some(_) | None => return false,
            }
        }
        rest.is_empty()
            && self.output.is_empty()
            && self.buffered.is_empty()
            && self.copying.is_none()
            && !self.is_skipping
            && !self.is_open
            && self.status == TransactionStatus::Idle
    }

    /// Names of the statements that it holds.
    pub(super) fn statement_names(&self) -> Vec<&str> {
        self.statements.keys().map(String::as_str).collect()
    }

    fn flush(&mut self) {
        self.output.append(&mut self.buffered);
    }

    fn read(&mut self, tag: u8, body: &[u8]) {
        if tag == tag::SYNC {
            self.is_skipping = false;
            return self.ready();
        }
        if self.is_skipping {
            return;
        }
        let is_extended = matches!(
            tag,
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE | tag::FLUSH
        );
        self.is_open |= is_extended && tag != tag::FLUSH;
        let outcome = match tag {
            tag::QUERY => {
                self.unnamed = None;
                let sql = text(body.split_last().map_or(body, |(_, text)| text));
                let statements: VecDeque<String> =
                    sql.split(';').map(|part| part.trim().to_owned()).collect();
                return self.run_all(statements);
            }
            tag::FUNCTION_CALL => self.function_call(),
            tag::PARSE => self.parse(body),
            tag::BIND => self.bind(body),
            tag::DESCRIBE => self.describe(body),
            tag::EXECUTE => self.execute(body),
            tag::CLOSE => self.close(body),
            tag::FLUSH if body.is_empty() => {
                self.flush();
                Ok(())
            }
            tag::FLUSH => refuse(*b"08P01", "invalid message format"),
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(()),
            _ => {
                self.is_gone = true;
                refuse(*b"08P01", "invalid frontend message type")
            }
        };
        if let Err(refusal) = outcome {
            self.fail(&refusal, if is_extended { Protocol::Extended } else { Protocol::Simple });
            if !is_extended {
                self.ready();
            }
        } else if tag == tag::FUNCTION_CALL {
            self.ready();
        }
    }

    fn fail(&mut self, refusal: &Refusal, protocol: Protocol) {
        let Refusal(sqlstate, message) = refusal;
        let out = &mut self.buffered;
        encode::report(out, backend::ERROR_RESPONSE, "ERROR", sqlstate, message.as_bytes(), &[]);
        if self.status == TransactionStatus::Active {
            self.status = TransactionStatus::Failed;
        }
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.is_skipping = protocol == Protocol::Extended;
        self.flush();
    }

    fn ready(&mut self) {
        let status = match self.status {
            TransactionStatus::Idle => b'I',
            TransactionStatus::Active => b'T',
            TransactionStatus::Failed => b'E',
        };
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.is_open = false;
        for (name, value) in std::mem::take(&mut self.reports) {
            encode::parameter_status(&mut self.buffered, name.as_bytes(), value.as_bytes());
        }
        encode::ready_for_query(&mut self.buffered, status);
        self.flush();
    }

    fn empty(&mut self, tag: u8) {
        encode::message(&mut self.buffered, tag, |_| {});
    }

    fn answer(&mut self, tag: u8, text: &str) {
        encode::message(&mut self.buffered, tag, |out| encode::cstr(out, text.as_bytes()));
    }

    fn refuse_if_failed(&self, sql: &str) -> Outcome {
        if self.status == TransactionStatus::Failed && !matches!(sql, "commit" | "rollback") {
            let text = "current transaction is aborted, commands ignored until end of \
                        transaction block";
            return refuse(*b"25P02", text);
        }
        Ok(())
    }

    fn function_call(&mut self) -> Outcome {
        self.refuse_if_failed("")?;
        self.answer(backend::FUNCTION_CALL_RESPONSE, "");
        Ok(())
    }

    fn parse(&mut self, body: &[u8]) -> Outcome {
        let mut cursor = Cursor::new(body);
        let malformed = |_| Refusal(*b"08P01", "invalid message format".to_owned());
        let name = text(cursor.cstr().map_err(malformed)?);
        let sql = text(cursor.cstr().map_err(malformed)?);
        let types = cursor.i16().map_err(malformed)?.cast_unsigned();
        cursor.bytes(usize::from(types) * 4).map_err(malformed)?;
        cursor.finish().map_err(malformed)?;
        // Comments are no part of what a statement says.
        let sql = sql.split("--").next().unwrap_or_default().to_owned();
        if name.is_empty() {
            self.unnamed = None;
        }
        if sql == "syntax" {
            return refuse(*b"42601", "syntax error");
        }
        if !sql.is_empty() {
            self.refuse_if_failed(&sql)?;
        }
        let statement = Statement { sql, types, version: self.version };
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            self.keep(name, statement)?;
        }
        self.empty(backend::PARSE_COMPLETE);
        Ok(())
    }

    /// `StorePreparedStatement`.
    fn keep(&mut self, name: String, statement: Statement) -> Outcome {
        match self.statements.entry(name) {
            Entry::Vacant(place) => {
                place.insert(statement);
                Ok(())
            }
            Entry::Occupied(taken) => {
                let name = taken.key();
                refuse(*b"42P05", format!("prepared statement \"{name}\" already exists"))
            }
        }
    }

    fn statement(&self, name: &str) -> Outcome<Statement> {
        let found = if name.is_empty() { self.unnamed.as_ref() } else { self.statements.get(name) };
        match found {
            Some(statement) => Ok(statement.clone()),
            None if name.is_empty() => {
                refuse(*b"26000", "unnamed prepared statement does not exist")
            }
            None => refuse(*b"26000", format!("prepared statement \"{name}\" does not exist")),
        }
    }

    fn bind(&mut self, body: &[u8]) -> Outcome {
        let parts: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
        let [portal, name, parameter, ..] = parts.as_slice() else {
            return refuse(*b"08P01", "invalid string in message");
        };
        let (portal, parameter) = (text(portal), text(parameter));
        let statement = self.statement(&text(name))?;
        self.refuse_if_failed(&statement.sql)?;
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return refuse(*b"42P03", format!("cursor \"{portal}\" already exists"));
        }
        self.refuse_if_altered(&statement)?;
        let sql = statement.sql;
        let rows_left = rows(&sql);
        let new = Portal { sql, parameter, rows_left, is_done: false };
        self.portals.insert(portal, new);
        self.empty(backend::BIND_COMPLETE);
        Ok(())
    }

    fn refuse_if_altered(&self, statement: &Statement) -> Outcome {
        if statement.version == self.version {
            return Ok(());
        }
        refuse(*b"0A000", "cached plan must not change result type")
    }

    fn describe(&mut self, body: &[u8]) -> Outcome {
        let name = text(body.get(1..body.len().saturating_sub(1)).unwrap_or_default());
        let sql = match body.first() {
            Some(b'S') => {
                let statement = self.statement(&name)?;
                self.refuse_if_altered(&statement)?;
                self.refuse_if_failed(&statement.sql)?;
                self.answer(backend::PARAMETER_DESCRIPTION, &statement.types.to_string());
                statement.sql
            }
            Some(b'P') => {
                let sql = self.portal(&name)?.sql.clone();
                self.refuse_if_failed(&sql)?;
                sql
            }
            Some(_) | None => return refuse(*b"08P01", "invalid DESCRIBE message subtype"),
        };
        self.row_description(&sql);
        Ok(())
    }

    fn row_description(&mut self, sql: &str) {
        if rows(sql) == 0 {
            self.empty(backend::NO_DATA);
            return;
        }
        let width = sql.strip_prefix("wide ").map_or(0, |bytes| bytes.parse().expect("a number"));
        self.answer(backend::ROW_DESCRIPTION, &format!("{sql}{}", "_".repeat(width)));
    }

    fn portal(&mut self, name: &str) -> Outcome<&mut Portal> {
        match self.portals.get_mut(name) {
            Some(portal) => Ok(portal),
            None => refuse(*b"34000", format!("portal \"{name}\" does not exist")),
        }
    }

    fn execute(&mut self, body: &[u8]) -> Outcome {
        let mut cursor = Cursor::new(body);
        let name = text(cursor.cstr().unwrap_or_default());
        let limit = cursor.i32().unwrap_or_default().cast_unsigned();
        let sql = self.portal(&name)?.sql.clone();
        self.refuse_if_failed(&sql)?;
        let portal = self.portal(&name)?;
        if rows(&sql) == 0 {
            if std::mem::replace(&mut portal.is_done, true) {
                return refuse(*b"55000", format!("portal \"{name}\" cannot be run"));
            }
            return self.run(&sql, Protocol::Extended, VecDeque::new());
        }
        let limit = if limit == 0 { u32::MAX } else { limit };
        let now = portal.rows_left.min(limit);
        portal.rows_left -= now;
        // Whether there is more is found out only by asking for one row too many.
        let is_suspended = now == limit;
        let row = format!("{sql} {}", portal.parameter);
        for _ in 0..now {
            self.answer(backend::DATA_ROW, &row);
        }
        if is_suspended {
            self.empty(backend::PORTAL_SUSPENDED);
        } else {
            self.answer(backend::COMMAND_COMPLETE, &format!("SELECT {now}"));
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Outcome {
        let name = text(body.get(1..body.len().saturating_sub(1)).unwrap_or_default());
        match body.first() {
            Some(b'S') if name.is_empty() => self.unnamed = None,
            Some(b'S') => drop(self.statements.remove(&name)),
            Some(b'P') => drop(self.portals.remove(&name)),
            Some(_) | None => return refuse(*b"08P01", "invalid CLOSE message subtype"),
        }
        self.empty(backend::CLOSE_COMPLETE);
        Ok(())
    }

    /// Runs the statements of a Query, up to a COPY.
    fn run_all(&mut self, mut statements: VecDeque<String>) {
        while let Some(sql) = statements.pop_front() {
            let rest = std::mem::take(&mut statements);
            let outcome = self.run_simple(&sql, &rest);
            if self.copying.is_some() {
                return;
            }
            if let Err(refusal) = outcome {
                self.fail(&refusal, Protocol::Simple);
                break;
            }
            statements = rest;
        }
        self.ready();
    }

    fn run_simple(&mut self, sql: &str, rest: &VecDeque<String>) -> Outcome {
        if sql == "syntax" {
            return refuse(*b"42601", "syntax error");
        }
        if !sql.is_empty() {
            self.refuse_if_failed(sql)?;
        }
        // It runs in the unnamed portal.
        self.portals.remove("");
        for row in 0..rows(sql) {
            if row == 0 {
                self.row_description(sql);
            }
            self.answer(backend::DATA_ROW, sql);
        }
        if rows(sql) > 0 {
            self.answer(backend::COMMAND_COMPLETE, &format!("SELECT {}", rows(sql)));
            return Ok(());
        }
        self.run(sql, Protocol::Simple, rest.clone())
    }

    /// Runs a statement without rows.
    fn run(&mut self, sql: &str, protocol: Protocol, rest: VecDeque<String>) -> Outcome {
        let words: Vec<&str> = sql.split([' ', '=']).filter(|word| !word.is_empty()).collect();
        let done = match words.as_slice() {
            [] => {
                self.empty(backend::EMPTY_QUERY_RESPONSE);
                return Ok(());
            }
            ["begin"] => {
                self.status = TransactionStatus::Active;
                "BEGIN"
            }
            [end @ ("commit" | "rollback")] => {
                let was_failed = self.status == TransactionStatus::Failed;
                self.status = TransactionStatus::Idle;
                self.portals.clear();
                if was_failed || *end == "rollback" { "ROLLBACK" } else { "COMMIT" }
            }
            ["fail"] => return refuse(*b"22012", "division by zero"),
            ["copy", "in", kind @ ..] => {
                self.empty(backend::COPY_IN_RESPONSE);
                self.flush();
                if *kind == ["trigger"] {
                    return refuse(*b"P0001", "no, says the trigger");
                }
                self.copying = Some(Copying { protocol, rest });
                return Ok(());
            }
            ["copy", "out"] => {
                self.empty(backend::COPY_OUT_RESPONSE);
                self.answer(backend::COPY_DATA, "data");
                self.empty(backend::COPY_DONE);
                "COPY 1"
            }
            ["set" | "SET", name, value] => {
                let bare = |text: &str| text.replace(['"', '\''], "");
                self.reports.push((bare(name), bare(value)));
                "SET"
            }
            ["deallocate", "all"] => {
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            ["discard", "all"] => {
                self.statements.clear();
                "DISCARD ALL"
            }
            ["prepare", name] => {
                let prepared = Statement { sql: sql.to_owned(), types: 0, version: self.version };
                self.keep((*name).to_owned(), prepared)?;
                "PREPARE"
            }
            ["listen", _] => "LISTEN",
            ["alter"] => {
                self.version += 1;
                "ALTER TABLE"
            }
            _ => return refuse(*b"42601", format!("no such statement: {sql}")),
        };
        self.answer(backend::COMMAND_COMPLETE, done);
        Ok(())
    }

    fn read_copying(&mut self, tag: u8, body: &[u8], copying: Copying) {
        let refusal = match tag {
            tag::COPY_DATA if body == b"bad" => Refusal(*b"22P04", "bad data".to_owned()),
            tag::COPY_DATA | tag::FLUSH | tag::SYNC => {
                self.copying = Some(copying);
                return;
            }
            tag::COPY_DONE => {
                self.answer(backend::COMMAND_COMPLETE, "COPY 1");
                if copying.protocol == Protocol::Simple {
                    self.run_all_or_ready(copying.rest);
                }
                return;
            }
            tag::COPY_FAIL => Refusal(*b"57014", "COPY from stdin failed".to_owned()),
            _ => {
                self.is_gone = true;
                Refusal(*b"08P01", "unexpected message type during COPY from stdin".to_owned())
            }
        };
        self.fail(&refusal, copying.protocol);
        if copying.protocol == Protocol::Simple {
            self.ready();
        }
    }

    fn run_all_or_ready(&mut self, rest: VecDeque<String>) {
        if rest.is_empty() { self.ready() } else { self.run_all(rest) }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many rows a statement gives.
fn rows(sql: &str) -> u32 {
    match sql.split_once(' ') {
        Some(("select" | "wide", _)) => 1,
        Some(("rows", count)) => count.parse().expect("a number"),
        Some(_) | None => 0,
    }
}
