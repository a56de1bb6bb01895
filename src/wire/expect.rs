//! The FIFO of awaited replies of one backend: the one owner of the transaction status.
//!
//! Every message forwarded to a server that has a reply is an [`Entry`] here, in order. The entry
//! says which reply it awaits, what becomes of that reply (forward, drop, replace, or "we answer
//! ourselves when its turn comes"), and carries an effect `E`: what has to be undone if the server
//! skips the message because of an earlier error. From this FIFO alone follow: whether the backend
//! may be given back, in which order synthesized replies go out, and what an error takes with it.
//!
//! INVARIANT: an entry whose reply we synthesize is never at the head for longer than the caller
//! needs to send it; a marker of CopyDone/CopyFail is never at the head.
//!
//! Source: protocol-flow, "Extended Query", "Pipelining", "COPY Operations"; PostgreSQL
//! `src/backend/tcop/postgres.c` (`ignore_till_sync`, `doing_extended_query_message`).

use std::collections::VecDeque;

use super::tag::backend;

/// Most replies awaited at a time; the client is not read from above it. LIMIT.
pub const AWAITED_MAX: usize = 16_384;

/// The transaction status of ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: not in a transaction.
    Idle,
    /// `T`: in a transaction.
    Active,
    /// `E`: in a failed transaction.
    Failed,
}

impl TransactionStatus {
    /// Reads the byte of ReadyForQuery.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Active),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// A message whose reply is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Parse → ParseComplete.
    Parse,
    /// Bind → BindComplete.
    Bind,
    /// Describe → (ParameterDescription) RowDescription or NoData.
    Describe,
    /// Execute → … CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close → CloseComplete.
    Close,
    /// Sync → ReadyForQuery.
    Sync,
    /// Query → … ReadyForQuery.
    Query,
    /// FunctionCall → … ReadyForQuery.
    FunctionCall,
    /// CopyDone or CopyFail: no reply of its own; marks where a COPY that has not been announced
    /// yet ends, so that a Sync behind it counts.
    CopyEnd,
}

impl Awaited {
    /// Says whether the server answers it with ReadyForQuery.
    fn ends_segment(self) -> bool {
        matches!(self, Self::Sync | Self::Query | Self::FunctionCall)
    }

    /// Says whether an error at this message makes the server skip to the next Sync.
    fn skips_on_error(self) -> bool {
        match self {
            Self::Parse | Self::Bind | Self::Describe | Self::Execute | Self::Close => true,
            Self::Sync | Self::Query | Self::FunctionCall | Self::CopyEnd => false,
        }
    }
}

/// What becomes of the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The client gets it.
    Forward,
    /// The message was ours: the client does not see the reply, unless it is an error.
    Swallow,
    /// A Describe of ours, for what was sent as a Query: the client sees rows described, but not
    /// that there are none.
    Rows,
    /// The server never saw the message: we answer when its turn comes.
    Synthesize,
    /// The server was made to fail at this place; the client gets this error instead.
    /// It is a whole ErrorResponse.
    Replace(Box<[u8]>),
}

/// One awaited reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<E> {
    /// The message that was sent.
    pub awaited: Awaited,
    /// What becomes of its reply.
    pub reply: Reply,
    /// What to undo if the server never acts on the message.
    pub effect: E,
}

/// What to do with one server message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on.
    Forward,
    /// Leave it out.
    Drop,
    /// Leave it out and send this whole message instead.
    Replace(Box<[u8]>),
}

/// The server sent a reply that nothing awaits: the connection cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("server message {tag:#04x} while awaiting {awaited:?}")]
pub struct Desync {
    /// Tag of the message that came.
    pub tag: u8,
    /// What was awaited instead; `None` if nothing was.
    pub awaited: Option<Awaited>,
}

/// How far the server has come since its last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but what is in the FIFO.
    Between,
    /// It has answered a message of the extended protocol: it is inside an implicit transaction
    /// that only a Sync ends.
    Open,
    /// It reads CopyData: Sync is ignored until CopyDone or CopyFail.
    CopyIn,
    /// It has answered with an error, and was sent no Sync since: it skips whatever comes.
    Skipping,
}

/// The FIFO. See the module.
#[derive(Debug)]
pub struct Expect<E> {
    entries: VecDeque<Entry<E>>,
    status: TransactionStatus,
    stage: Stage,
    /// A Sync was taken for ignored by the COPY under way.
    has_ignored_sync: bool,
    /// The server may send something that belongs to what is over: an error came that nothing
    /// awaited, or a COPY failed that seemed to have ignored a Sync (whether the server really
    /// ignored it depends on when it failed, so one ReadyForQuery too many may follow).
    is_tainted: bool,
    /// Number of the segment that is being sent: segments end with Sync, Query or FunctionCall.
    segment: u64,
    /// All segments before this one have been answered.
    answered: u64,
}

impl<E> Default for Expect<E> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            status: TransactionStatus::Idle,
            stage: Stage::Between,
            has_ignored_sync: false,
            is_tainted: false,
            segment: 0,
            answered: 0,
        }
    }
}

impl<E> Expect<E> {
    /// Returns the status of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Says whether no reply is awaited.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Says whether the client must not be read from until replies have come.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= AWAITED_MAX
    }

    /// Says whether the server skips messages until the next Sync.
    pub fn is_skipping(&self) -> bool {
        self.stage == Stage::Skipping
    }

    /// Says whether the server reads CopyData.
    pub fn is_copying_in(&self) -> bool {
        self.stage == Stage::CopyIn
    }

    /// Says whether nothing is under way: no reply, no COPY, no transaction.
    pub fn is_at_rest(&self) -> bool {
        self.is_between_segments() && self.status == TransactionStatus::Idle
    }

    /// Says whether nothing is under way but perhaps a transaction.
    pub fn is_between_segments(&self) -> bool {
        self.entries.is_empty() && self.stage == Stage::Between
    }

    /// Returns the number of the segment that is being sent.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Says whether a segment is over that the server may still fail.
    pub fn has_open_segments(&self) -> bool {
        self.answered < self.segment
    }

    /// Says whether the next message begins a segment.
    pub fn is_at_segment_start(&self) -> bool {
        self.is_between_segments() || self.will_be_ready()
    }

    /// Says whether everything that was sent ends in a ReadyForQuery, without the client.
    pub fn will_be_ready(&self) -> bool {
        let is_last = |entry: &Entry<E>| entry.awaited.ends_segment();
        self.stage != Stage::CopyIn && self.entries.back().is_some_and(is_last)
    }

    /// Says whether `segment` is over, but the server may still fail it.
    pub fn may_fail_yet(&self, segment: u64) -> bool {
        self.answered <= segment && segment < self.segment
    }

    /// Says whether the connection must not be used by another client, although it is at rest.
    pub fn is_tainted(&self) -> bool {
        self.is_tainted
    }

    /// Says that the connection must not be used by another client.
    pub fn taint(&mut self) {
        self.is_tainted = true;
    }

    /// Says whether the reply awaited first is to a message of ours.
    pub fn head_is_swallowed(&self) -> bool {
        self.entries.front().is_some_and(|entry| entry.reply == Reply::Swallow)
    }

    /// Says whether the server runs a query of ours, and not the client's.
    ///
    /// A message of ours within a client's segment is part of that: the server may keep its reply to
    /// itself until the segment is done, so that the reply says nothing about what runs.
    pub fn runs_query_of_ours(&self) -> bool {
        let is_ours = |entry: &Entry<E>| {
            entry.reply == Reply::Swallow && matches!(entry.awaited, Awaited::Query)
        };
        self.entries.front().is_some_and(is_ours)
    }

    /// Returns the awaited entries, oldest first, to be changed.
    pub fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry<E>> {
        self.entries.iter_mut()
    }

    /// Returns the awaited entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry<E>> {
        self.entries.iter()
    }

    /// Adds a message that was sent to the server or is answered by us.
    ///
    /// A Sync that the server ignores (it reads CopyData) is not added.
    pub fn push(&mut self, awaited: Awaited, reply: Reply, effect: E) {
        match awaited {
            Awaited::Sync if self.stage == Stage::CopyIn => {
                self.has_ignored_sync = true;
                return;
            }
            Awaited::Sync if self.stage == Stage::Skipping => self.stage = Stage::Open,
            Awaited::CopyEnd => {
                if self.stage == Stage::CopyIn {
                    self.stage = Stage::Open;
                    return;
                }
                if self.entries.is_empty() {
                    return;
                }
            }
            Awaited::Parse
            | Awaited::Bind
            | Awaited::Describe
            | Awaited::Execute
            | Awaited::Close
            | Awaited::Sync
            | Awaited::Query
            | Awaited::FunctionCall => {}
        }
        self.segment += u64::from(awaited.ends_segment());
        self.entries.push_back(Entry { awaited, reply, effect });
    }

    /// Takes the head if we are to answer it now.
    pub fn pop_synthesized(&mut self) -> Option<Entry<E>> {
        if self.entries.front()?.reply != Reply::Synthesize {
            return None;
        }
        self.pop()
    }

    /// Handles a server message that is not ErrorResponse, ReadyForQuery, or asynchronous.
    ///
    /// Returns the verdict, and the entry if the message completes it.
    #[inline]
    pub fn reply(&mut self, tag: u8) -> Result<(Verdict, Option<Entry<E>>), Desync> {
        let Some(head) = self.entries.front() else {
            return Err(Desync { tag, awaited: None });
        };
        let verdict = match head.reply {
            Reply::Swallow => Verdict::Drop,
            Reply::Rows if matches!(tag, backend::NO_DATA | backend::PARAMETER_DESCRIPTION) => {
                Verdict::Drop
            }
            Reply::Forward | Reply::Rows | Reply::Synthesize | Reply::Replace(_) => {
                Verdict::Forward
            }
        };
        let is_whole = match (head.awaited, tag) {
            (
                Awaited::Query | Awaited::Execute,
                backend::DATA_ROW
                | backend::COPY_DATA
                | backend::COPY_DONE
                | backend::COPY_OUT_RESPONSE,
            )
            | (
                Awaited::Query,
                backend::ROW_DESCRIPTION
                | backend::COMMAND_COMPLETE
                | backend::EMPTY_QUERY_RESPONSE,
            )
            | (Awaited::Describe, backend::PARAMETER_DESCRIPTION)
            | (Awaited::FunctionCall, backend::FUNCTION_CALL_RESPONSE) => false,
            (
                Awaited::Query | Awaited::Execute,
                backend::COPY_IN_RESPONSE | backend::COPY_BOTH_RESPONSE,
            ) => {
                self.begin_copy_in();
                false
            }
            (Awaited::Parse, backend::PARSE_COMPLETE)
            | (Awaited::Bind, backend::BIND_COMPLETE)
            | (Awaited::Close, backend::CLOSE_COMPLETE)
            | (Awaited::Describe, backend::ROW_DESCRIPTION | backend::NO_DATA)
            | (
                Awaited::Execute,
                backend::COMMAND_COMPLETE
                | backend::EMPTY_QUERY_RESPONSE
                | backend::PORTAL_SUSPENDED,
            ) => true,
            (awaited, _) => return Err(Desync { tag, awaited: Some(awaited) }),
        };
        if !is_whole {
            return Ok((verdict, None));
        }
        self.stage = Stage::Open;
        self.has_ignored_sync = false;
        Ok((verdict, self.pop()))
    }

    /// Handles ErrorResponse.
    ///
    /// `was_provoked` says whether it is the error that [`Reply::Replace`] had the server make.
    /// `undo` is called for the message that failed (`true`) and for every one that the server
    /// skips because of it (`false`), the latest first.
    pub fn error(&mut self, was_provoked: bool, mut undo: impl FnMut(Entry<E>, bool)) -> Verdict {
        let Some(head) = self.entries.front() else {
            self.is_tainted = true;
            return Verdict::Forward;
        };
        if self.stage == Stage::CopyIn {
            self.stage = Stage::Open;
        }
        self.is_tainted |= std::mem::take(&mut self.has_ignored_sync);
        if !head.awaited.skips_on_error() {
            return Verdict::Forward;
        }
        let verdict = match &head.reply {
            Reply::Replace(message) if was_provoked => Verdict::Replace(message.clone()),
            Reply::Replace(_)
            | Reply::Forward
            | Reply::Rows
            | Reply::Swallow
            | Reply::Synthesize => Verdict::Forward,
        };
        let sync_at = self.entries.iter().position(|entry| entry.awaited == Awaited::Sync);
        let skipped = sync_at.unwrap_or(self.entries.len());
        self.stage = if sync_at.is_some() { Stage::Open } else { Stage::Skipping };
        let mut gone: Vec<Entry<E>> = self.entries.drain(..skipped).collect();
        for entry in &gone {
            // A Query that is skipped gets no ReadyForQuery of its own.
            self.answered += u64::from(entry.awaited.ends_segment());
        }
        while let Some(entry) = gone.pop() {
            let has_failed = gone.is_empty();
            undo(entry, has_failed);
        }
        verdict
    }

    /// Handles ReadyForQuery.
    ///
    /// One that nothing awaits is passed on, as PostgreSQL sends it too, and taints the
    /// connection.
    pub fn ready(&mut self, status: TransactionStatus) -> Result<Verdict, Desync> {
        let tag = backend::READY_FOR_QUERY;
        self.status = status;
        self.stage = Stage::Between;
        self.has_ignored_sync = false;
        match self.entries.front() {
            None => {
                self.is_tainted = true;
                Ok(Verdict::Forward)
            }
            Some(head) if head.awaited.ends_segment() => {
                let is_ours = head.reply == Reply::Swallow;
                self.answered += 1;
                self.pop();
                Ok(if is_ours { Verdict::Drop } else { Verdict::Forward })
            }
            Some(head) => Err(Desync { tag, awaited: Some(head.awaited) }),
        }
    }

    fn pop(&mut self) -> Option<Entry<E>> {
        let entry = self.entries.pop_front();
        let is_extended = entry.as_ref().is_some_and(|entry| entry.awaited.skips_on_error());
        if is_extended && self.stage == Stage::Between {
            self.stage = Stage::Open;
        }
        while self.entries.front().is_some_and(|head| head.awaited == Awaited::CopyEnd) {
            self.entries.pop_front();
        }
        entry
    }

    /// The server starts to read CopyData. What was sent behind the COPY already is read as part
    /// of it: Syncs are ignored up to the CopyDone or CopyFail, which ends it.
    fn begin_copy_in(&mut self) {
        self.stage = Stage::CopyIn;
        while let Some(next) = self.entries.get(1).map(|entry| entry.awaited) {
            match next {
                Awaited::Sync => {
                    self.has_ignored_sync = true;
                    self.answered += 1;
                }
                Awaited::CopyEnd => self.stage = Stage::Open,
                Awaited::Parse
                | Awaited::Bind
                | Awaited::Describe
                | Awaited::Execute
                | Awaited::Close
                | Awaited::Query
                | Awaited::FunctionCall => return,
            }
            self.entries.remove(1);
            if next == Awaited::CopyEnd {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
