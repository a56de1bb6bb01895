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

    /// Says whether it may begin a COPY.
    fn runs(self) -> bool {
        matches!(self, Self::Query | Self::Execute)
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
    /// A Sync with CopyData, CopyDone or CopyFail behind it: if there is a COPY, it may ignore it.
    is_before_data: bool,
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

/// Whether it is known how many ReadyForQuery are still to come.
///
/// A COPY ignores the Syncs that it reads. When it fails, nobody but the server knows which of them it
/// had read by then: each of the others has a ReadyForQuery. So the server is asked: a message of ours
/// whose reply can be told from ReadyForQuery comes behind all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// So many may come that nothing awaits; the server is to be asked.
    Open(u32),
    /// The same; it has been asked.
    Asked(u32),
}

impl Doubt {
    /// Takes one ReadyForQuery that nothing awaits, if there may be one.
    fn take(&mut self) -> bool {
        match self {
            Self::None | Self::Open(0) | Self::Asked(0) => false,
            Self::Open(count) | Self::Asked(count) => {
                *count -= 1;
                true
            }
        }
    }

    fn may_take(mut self) -> bool {
        self.take()
    }
}

/// The FIFO. See the module.
#[derive(Debug)]
pub struct Expect<E> {
    entries: VecDeque<Entry<E>>,
    /// How many of them may begin a COPY.
    runs: usize,
    status: TransactionStatus,
    stage: Stage,
    /// Syncs that are taken for ignored by the COPY under way.
    ignored_syncs: u32,
    doubt: Doubt,
    /// The server may send something that belongs to what is over: it has sent what nothing awaited.
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
            runs: 0,
            status: TransactionStatus::Idle,
            stage: Stage::Between,
            ignored_syncs: 0,
            doubt: Doubt::None,
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

    /// Says whether the server may read CopyData when it comes to the next message.
    pub fn may_be_copying_in(&self) -> bool {
        self.runs > 0
    }

    /// Says whether a Query or an Execute is under way that may do anything before the server comes to the
    /// next message. A COPY that reads data does nothing else.
    pub fn may_be_running(&self) -> bool {
        self.runs > usize::from(self.stage == Stage::CopyIn)
    }

    /// Says whether the server reads CopyData, and has nothing else to read: no answer comes by itself,
    /// unless the COPY has failed.
    pub fn only_copies_in(&self) -> bool {
        self.stage == Stage::CopyIn
            && self.entries.iter().skip(1).all(|entry| entry.awaited == Awaited::Sync)
    }

    /// Says whether nothing is under way: no reply, no COPY, no transaction.
    pub fn is_at_rest(&self) -> bool {
        self.is_between_segments() && self.status == TransactionStatus::Idle
    }

    /// Says whether nothing is under way but perhaps a transaction.
    pub fn is_between_segments(&self) -> bool {
        self.entries.is_empty() && self.stage == Stage::Between && self.doubt == Doubt::None
    }

    /// Says whether the client must not be read from before the server has told how many ReadyForQuery
    /// are still to come. Where something else is awaited, its reply will tell.
    pub fn is_in_doubt(&self) -> bool {
        match self.doubt {
            Doubt::None => false,
            Doubt::Open(_) => self.entries.iter().all(|entry| entry.awaited == Awaited::Sync),
            Doubt::Asked(_) => true,
        }
    }

    /// Says whether the server is to be asked that now: by a Sync, a Close and a Sync of ours, which are
    /// to be pushed.
    pub fn must_ask(&mut self) -> bool {
        match self.doubt {
            Doubt::Open(count) if self.is_in_doubt() => {
                self.doubt = Doubt::Asked(count);
                true
            }
            Doubt::None | Doubt::Open(_) | Doubt::Asked(_) => false,
        }
    }

    /// Returns the number of the segment that is being sent.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Says whether a segment is over that the server may still fail.
    pub fn has_open_segments(&self) -> bool {
        self.answered < self.segment
    }

    /// Says whether a ReadyForQuery will come without the client, although the message that was pushed
    /// last never comes to its end.
    pub fn owes_ready_before_last(&self) -> bool {
        let ends_segment = |entry: &Entry<E>| entry.awaited.ends_segment();
        let is_last = self.entries.back().is_some_and(ends_segment);
        self.stage != Stage::CopyIn && self.segment > self.answered + u64::from(is_last)
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

    /// Says whether something with such an effect is under way that the server may not act on. A Query
    /// that comes next is not skipped any more.
    pub fn may_undo(&self, is_meant: impl Fn(&E) -> bool) -> bool {
        let is_certain = |entry: &Entry<E>| !entry.awaited.skips_on_error();
        let certain = usize::from(self.entries.front().is_some_and(is_certain));
        self.entries.iter().skip(certain).any(|entry| is_meant(&entry.effect))
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

    /// Returns what the message does whose reply is awaited first.
    pub fn head_effect(&self) -> Option<&E> {
        self.entries.front().map(|entry| &entry.effect)
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
    pub fn push(&mut self, awaited: Awaited, reply: Reply, effect: E) {
        match awaited {
            // Behind one of ours, we skip in the server's place.
            Awaited::Sync if self.stage == Stage::Skipping && reply == Reply::Forward => {
                self.stage = Stage::Open;
            }
            Awaited::CopyEnd => {
                self.data_sent();
                // Behind another message, it is that one's: the COPY has failed.
                if self.only_copies_in() {
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
        self.runs += usize::from(awaited.runs());
        self.entries.push_back(Entry { awaited, reply, effect, is_before_data: false });
    }

    /// Notes that CopyData, CopyDone or CopyFail was sent. A COPY that fails has read no further than
    /// to one of these: so Syncs behind the last of them are answered for certain.
    #[inline]
    pub fn data_sent(&mut self) {
        let is_sync = |entry: &&mut Entry<E>| entry.awaited == Awaited::Sync;
        let syncs = self.entries.iter_mut().rev().take_while(is_sync);
        let count = syncs.map(|sync| sync.is_before_data = true).count();
        if count > 0 && self.stage == Stage::CopyIn && self.entries.len() == count + 1 {
            self.entries.truncate(1);
            self.ignore_syncs(count);
        }
    }

    fn ignore_syncs(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.ignored_syncs = self.ignored_syncs.saturating_add(count);
        self.answered += u64::from(count);
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
        // What was in doubt would have come before.
        self.doubt = Doubt::None;
        if is_whole || tag == backend::COMMAND_COMPLETE {
            // A COPY that was a success has ignored them for certain.
            self.ignored_syncs = 0;
        }
        if !is_whole {
            return Ok((verdict, None));
        }
        if self.stage != Stage::Skipping {
            self.stage = Stage::Open;
        }
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
        self.doubt = Doubt::None;
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
        self.doubt_ignored_syncs();
        let sync_at = self.entries.iter().position(|entry| entry.awaited == Awaited::Sync);
        let skipped = sync_at.unwrap_or(self.entries.len());
        self.stage = if sync_at.is_some() { Stage::Open } else { Stage::Skipping };
        let mut gone: Vec<Entry<E>> = self.entries.drain(..skipped).collect();
        for entry in &gone {
            // A Query that is skipped gets no ReadyForQuery of its own.
            self.answered += u64::from(entry.awaited.ends_segment());
            self.runs -= usize::from(entry.awaited.runs());
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
        let Some(head) = self.entries.front() else {
            self.stage = Stage::Between;
            self.is_tainted |= !self.doubt.take();
            return Ok(Verdict::Forward);
        };
        // All other messages are answered by something else first.
        let is_its_own = head.awaited == Awaited::Sync || !self.doubt.may_take();
        if !is_its_own {
            self.stage = Stage::Between;
            self.doubt.take();
            return Ok(Verdict::Forward);
        }
        if !head.awaited.ends_segment() {
            return Err(Desync { tag, awaited: Some(head.awaited) });
        }
        let is_ours = head.reply == Reply::Swallow;
        if self.stage != Stage::Skipping || !is_ours {
            self.stage = Stage::Between;
        }
        self.answered += 1;
        self.pop();
        self.doubt_ignored_syncs();
        Ok(if is_ours { Verdict::Drop } else { Verdict::Forward })
    }

    /// The COPY that seemed to ignore Syncs has failed, if there was one.
    fn doubt_ignored_syncs(&mut self) {
        if self.ignored_syncs > 0 {
            self.doubt = Doubt::Open(std::mem::take(&mut self.ignored_syncs));
        }
    }

    fn pop(&mut self) -> Option<Entry<E>> {
        let entry = self.entries.pop_front();
        self.runs -= usize::from(entry.as_ref().is_some_and(|entry| entry.awaited.runs()));
        let is_extended = entry.as_ref().is_some_and(|entry| entry.awaited.skips_on_error());
        if is_extended && self.stage == Stage::Between {
            self.stage = Stage::Open;
        }
        while self.entries.front().is_some_and(|head| head.awaited == Awaited::CopyEnd) {
            self.entries.pop_front();
        }
        entry
    }

    /// The server starts to read CopyData. What was sent behind the COPY already is read as part of
    /// it, up to the CopyDone or CopyFail, which ends it: Syncs are ignored, unless it fails before.
    fn begin_copy_in(&mut self) {
        self.stage = Stage::CopyIn;
        while let Some(next) = self.entries.get(1) {
            match next.awaited {
                Awaited::Sync if next.is_before_data => {
                    self.entries.remove(1);
                    self.ignore_syncs(1);
                }
                Awaited::CopyEnd => {
                    self.entries.remove(1);
                    self.stage = Stage::Open;
                    return;
                }
                Awaited::Sync
                | Awaited::Parse
                | Awaited::Bind
                | Awaited::Describe
                | Awaited::Execute
                | Awaited::Close
                | Awaited::Query
                | Awaited::FunctionCall => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
