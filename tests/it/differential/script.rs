//! What the clients of one sequence send, and when they look at the answers.

use std::{collections::BTreeSet, fmt};

use crate::support::message::{
    self as encoded, Bytes, bind_values, close_portal, close_statement, copy_done, copy_fail,
    describe_portal, describe_statement, execute_rows, flush, function_call, sync,
};

/// One frontend message.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    Parse { name: &'static str, sql: String },
    Bind { portal: &'static str, name: &'static str, values: Vec<&'static str> },
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    Execute { portal: &'static str, rows: u32 },
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Query(String),
    FunctionCall { oid: u32, arguments: Vec<&'static str> },
    CopyData(&'static str),
    CopyDone,
    CopyFail,
    Flush,
    Sync,
}

impl Message {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Parse { name, sql } => encoded::parse(name, sql),
            Self::Bind { portal, name, values } => bind_values(portal, name, values),
            Self::DescribeStatement(name) => describe_statement(name),
            Self::DescribePortal(name) => describe_portal(name),
            Self::Execute { portal, rows } => execute_rows(portal, *rows),
            Self::CloseStatement(name) => close_statement(name),
            Self::ClosePortal(name) => close_portal(name),
            Self::Query(sql) => encoded::query(sql),
            Self::FunctionCall { oid, arguments } => function_call(*oid, arguments),
            Self::CopyData(data) => encoded::copy_data(data),
            Self::CopyDone => copy_done(),
            Self::CopyFail => copy_fail("given up"),
            Self::Flush => flush(),
            Self::Sync => sync(),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse { name, sql } => write!(f, "Parse {name:?} {sql:?}"),
            Self::Bind { portal, name, values } => {
                write!(f, "Bind {portal:?} {name:?} {values:?}")
            }
            Self::DescribeStatement(name) => write!(f, "Describe S {name:?}"),
            Self::DescribePortal(name) => write!(f, "Describe P {name:?}"),
            Self::Execute { portal, rows } => write!(f, "Execute {portal:?} {rows}"),
            Self::CloseStatement(name) => write!(f, "Close S {name:?}"),
            Self::ClosePortal(name) => write!(f, "Close P {name:?}"),
            Self::Query(sql) => write!(f, "Query {sql:?}"),
            Self::FunctionCall { oid, arguments } => write!(f, "FunctionCall {oid} {arguments:?}"),
            Self::CopyData(data) => write!(f, "CopyData {data:?}"),
            Self::CopyDone => write!(f, "CopyDone"),
            Self::CopyFail => write!(f, "CopyFail"),
            Self::Flush => write!(f, "Flush"),
            Self::Sync => write!(f, "Sync"),
        }
    }
}

/// Which protocol a statement is run by.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Simple,
    Extended,
}

/// What a client does next.
#[derive(Clone)]
pub enum What {
    /// Sends these messages, in packets that end at these bytes (modulo the number of bytes).
    Send { messages: Vec<Message>, cuts: Vec<usize> },
    /// Waits for what PostgreSQL answers without being sent anything more.
    Await,
    /// Ends COPY and segment, and reads all that is left of the answers.
    Fence,
    /// Runs a statement that lasts, and cancels it once it has begun.
    CancelRunning(Way),
    /// Asks to cancel when nothing runs.
    CancelIdle,
    /// Says goodbye behind everything it has sent, and reads to the end.
    Terminate,
    /// Goes without a word.
    HangUp,
}

/// One client's next step.
#[derive(Clone)]
pub struct Act {
    pub client: usize,
    pub what: What,
}

/// A sequence: the steps of all its clients, in order.
#[derive(Clone)]
pub struct Script {
    pub clients: usize,
    /// The numbers of the tables that it uses; they are to be empty.
    pub tables: BTreeSet<usize>,
    pub acts: Vec<Act>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Act { client, what } in &self.acts {
            write!(f, "  client {client}: ")?;
            match what {
                What::Send { messages, cuts } => {
                    let texts: Vec<_> = messages.iter().map(ToString::to_string).collect();
                    write!(f, "{}", texts.join(", "))?;
                    if !cuts.is_empty() {
                        write!(f, " (cut at {cuts:?})")?;
                    }
                    writeln!(f)?;
                }
                What::Await => writeln!(f, "(waits)")?,
                What::Fence => writeln!(f, "(reads everything)")?,
                What::CancelRunning(way) => writeln!(f, "(cancels what runs, {way:?})")?,
                What::CancelIdle => writeln!(f, "(cancels nothing)")?,
                What::Terminate => writeln!(f, "Terminate")?,
                What::HangUp => writeln!(f, "(hangs up)")?,
            }
        }
        Ok(())
    }
}
