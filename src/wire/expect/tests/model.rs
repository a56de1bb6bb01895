//! A PostgreSQL of which only the order of messages is left.
//!
//! Source: `PostgresMain`, `SocketBackend` of postgres.c and `CopyGetData` of copyfromparse.c.

use std::fmt;

use super::super::{Awaited, TransactionStatus};

/// What a message has the server do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// What it is there for.
    Succeed,
    /// It fails.
    Fail,
    /// Query and Execute: some rows.
    Rows,
    /// Query and Execute: an empty statement.
    Empty,
    /// Execute: it stops at its limit of rows.
    Suspend,
    /// Query and Execute: data to the client.
    CopyOut,
    /// Query and Execute: data from the client.
    CopyIn,
    /// Query and Execute: data from the client is asked for, then it fails before it reads any.
    CopyInFails,
    /// Query and Execute: begins a transaction.
    Begin,
    /// Query and Execute: ends it.
    End,
}

/// A message of the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// One that is awaited (not CopyEnd).
    Message(Awaited, Act),
    /// CopyData; fails or not.
    Data(Act),
    /// CopyDone (that fails or not) or CopyFail.
    End(Act),
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(awaited, act) => write!(f, "{awaited:?}:{act:?}"),
            Self::Data(act) => write!(f, "CopyData:{act:?}"),
            Self::End(act) => write!(f, "CopyEnd:{act:?}"),
        }
    }
}

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) status: TransactionStatus,
    /// `ignore_till_sync`.
    pub(super) is_skipping: bool,
    /// It reads CopyData, for an Execute or a Query.
    pub(super) copies_for: Option<Awaited>,
    /// An implicit transaction is open that only a Sync ends.
    pub(super) is_open: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            status: TransactionStatus::Idle,
            is_skipping: false,
            copies_for: None,
            is_open: false,
        }
    }
}

impl Server {
    /// Reads one message; returns the tags of the replies, with the status behind each `Z`.
    pub(super) fn read(&mut self, sent: Sent) -> Vec<u8> {
        if let Some(copies_for) = self.copies_for {
            return self.read_copying(sent, copies_for);
        }
        let Sent::Message(awaited, act) = sent else { return Vec::new() };
        if awaited == Awaited::Sync {
            self.is_skipping = false;
            return if act == Act::Fail { self.failed(awaited) } else { self.ready() };
        }
        if self.is_skipping {
            return Vec::new();
        }
        self.is_open = true;
        let is_refused = self.status == TransactionStatus::Failed && act != Act::End;
        if act == Act::Fail || (is_refused && awaited != Awaited::Close) {
            return self.failed(awaited);
        }
        match awaited {
            Awaited::Parse => b"1".into(),
            Awaited::Bind => b"2".into(),
            Awaited::Close => b"3".into(),
            Awaited::Describe if act == Act::Rows => b"tT".into(),
            Awaited::Describe => b"n".into(),
            Awaited::FunctionCall => [b"V".as_slice(), &self.ready()].concat(),
            Awaited::Execute => self.run(awaited, act),
            Awaited::Query => {
                let header: &[u8] = if act == Act::Rows { b"T" } else { b"" };
                let mut replies = [header, &self.run(awaited, act)].concat();
                if act != Act::CopyIn && act != Act::CopyInFails {
                    replies.extend(self.ready());
                }
                replies
            }
            Awaited::Sync | Awaited::CopyEnd => unreachable!("handled before"),
        }
    }

    fn run(&mut self, awaited: Awaited, act: Act) -> Vec<u8> {
        match act {
            Act::Rows => b"DDC".into(),
            Act::Empty => b"I".into(),
            Act::Suspend if awaited == Awaited::Execute => b"Ds".into(),
            Act::CopyOut => b"HddcC".into(),
            Act::CopyIn => {
                self.copies_for = Some(awaited);
                b"G".into()
            }
            Act::CopyInFails => [b"G".as_slice(), &self.failed(awaited)].concat(),
            Act::Begin => {
                self.status = TransactionStatus::Active;
                b"C".into()
            }
            Act::End => {
                self.status = TransactionStatus::Idle;
                b"C".into()
            }
            Act::Succeed | Act::Suspend | Act::Fail => b"C".into(),
        }
    }

    fn read_copying(&mut self, sent: Sent, copies_for: Awaited) -> Vec<u8> {
        let is_failed = match sent {
            Sent::Message(Awaited::Sync, _) => return Vec::new(),
            Sent::Message(..) => unreachable!("the client keeps to the protocol"),
            Sent::Data(Act::Fail) => true,
            Sent::Data(_) => return Vec::new(),
            Sent::End(act) => act == Act::Fail,
        };
        self.copies_for = None;
        if is_failed {
            return self.failed(copies_for);
        }
        let mut replies = b"C".to_vec();
        if copies_for == Awaited::Query {
            replies.extend(self.ready());
        }
        replies
    }

    fn failed(&mut self, awaited: Awaited) -> Vec<u8> {
        if self.status == TransactionStatus::Active {
            self.status = TransactionStatus::Failed;
        }
        self.is_skipping = awaited.skips_on_error();
        let mut replies = b"E".to_vec();
        if !self.is_skipping {
            replies.extend(self.ready());
        }
        replies
    }

    fn ready(&mut self) -> Vec<u8> {
        self.is_open = false;
        let status = match self.status {
            TransactionStatus::Idle => b'I',
            TransactionStatus::Active => b'T',
            TransactionStatus::Failed => b'E',
        };
        vec![b'Z', status]
    }
}
