//! What we run on backends ourselves, and what backends say that nobody leases.

use std::collections::HashSet;
use std::sync::Arc;

use super::backend::{Backend, Chore, ChoreKind, Role};
use super::pipe::{Gone, Input};
use super::slab::Key;
use super::{Flow, Worker};
use crate::backend::link::Link;
use crate::backend::params::{Interner, is_fact};
use crate::fault::{Fault, Severity, SqlState};
use crate::log::{Kind, admit};
use crate::metrics::labels::ServerClose;
use crate::wire::expect::TransactionStatus;
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::backend as tag;
use crate::wire::{backend as view, encode};

/// Longest message of a server that nobody leases. LIMIT: it answers our own short queries.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// What a backend without a lease has said.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing that matters, or not all of it yet.
    Nothing,
    /// A part of the answer to a query.
    Answer,
    /// An error.
    Error(Fault),
    /// ReadyForQuery.
    Ready(TransactionStatus),
    /// Something that cannot be.
    Nonsense,
}

impl Worker {
    /// Runs one query of our own on a busy backend.
    pub(super) fn start_chore(&mut self, key: Key<Backend>, kind: ChoreKind, sql: &[u8]) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        backend.role = Role::Chore(Chore { kind, error: None });
        backend.times.query_ms = self.now_ms;
        self.is_busy = true;
        let mut query = Vec::with_capacity(sql.len() + 8);
        encode::query(&mut query, sql);
        if backend.pipe.send(&query, &mut self.wire).is_err() {
            self.backend_gone(key);
        }
    }

    /// Reads what a backend says that nobody leases.
    pub(super) fn read_unleased(&mut self, key: Key<Backend>) -> Flow {
        let Some(backend) = self.backends.get_mut(key) else { return Flow::Blocked };
        match backend.pipe.read(&mut self.scratch, &mut self.wire) {
            Ok(Input::Later) => return Flow::Blocked,
            Ok(Input::Bytes(count)) => {
                let bytes = self.scratch.get(..count).unwrap_or_default();
                backend.pipe.stash.extend_from_slice(bytes);
            }
            Err(Gone) => {
                self.backend_gone(key);
                return Flow::Blocked;
            }
        }
        let mut consumed = 0;
        let stash = std::mem::take(&mut backend.pipe.stash);
        while let Some(rest) = stash.get(consumed..).filter(|rest| !rest.is_empty()) {
            let (heard, count) = hear(rest, &mut backend.link, &mut self.shared.interner);
            if count == 0 && heard == Heard::Nothing {
                break;
            }
            consumed += count;
            match (heard, &mut backend.role) {
                (Heard::Nothing, _) | (Heard::Answer, Role::Chore(_)) => {}
                (Heard::Error(error), Role::Chore(chore)) => chore.error = Some(error),
                (Heard::Ready(status), Role::Chore(_)) => {
                    backend.pipe.stash.extend_from_slice(stash.get(consumed..).unwrap_or_default());
                    self.chore_done(key, status);
                    return Flow::Again;
                }
                // Whatever else it says, nobody asked for it. Pooling point E41.
                (Heard::Error(error), _) => {
                    if admit(Kind::ServerMisbehaved) {
                        tracing::info!(sqlstate = %error.sqlstate, "idle server connection ended");
                    }
                    self.backend_gone(key);
                    return Flow::Blocked;
                }
                (Heard::Answer | Heard::Ready(_) | Heard::Nonsense, _) => {
                    warn_of_nonsense();
                    self.backend_ends(key, ServerClose::Protocol);
                    return Flow::Blocked;
                }
            }
        }
        backend.pipe.keep_rest(&stash, consumed);
        if matches!(backend.role, Role::Idle) && !may_be_asynchronous(&backend.pipe.stash) {
            warn_of_nonsense();
            self.backend_ends(key, ServerClose::Protocol);
            return Flow::Blocked;
        }
        if backend.pipe.is_readable() { Flow::Again } else { Flow::Blocked }
    }

    fn chore_done(&mut self, key: Key<Backend>, status: TransactionStatus) {
        let Some(backend) = self.backends.get_mut(key) else { return };
        let number = backend.pool;
        let Role::Chore(chore) = &mut backend.role else { return };
        let kind = chore.kind;
        let error = chore.error.take();
        if kind == ChoreKind::Check {
            // Counted out here, so that closing it does not count it again.
            backend.role = Role::Cancelling;
            if let Some(pool) = self.pool_mut(number) {
                pool.checking = pool.checking.saturating_sub(1);
            }
        }
        if let ChoreKind::Greet(session) = kind {
            self.greeting_tried(key, session, error);
            return;
        }
        if error.is_some() || status != TransactionStatus::Idle {
            if admit(Kind::ServerMisbehaved) {
                tracing::warn!(?kind, ?error, "server connection closed: our own query failed");
            }
            self.close_backend(key, ServerClose::Chore);
            return;
        }
        self.check_in(key);
    }
}

fn warn_of_nonsense() {
    if admit(Kind::ServerMisbehaved) {
        tracing::warn!("unexpected message on an idle server connection");
    }
}

/// Says whether a message that is not all there yet is one that a server may send unasked.
fn may_be_asynchronous(stash: &[u8]) -> bool {
    matches!(
        stash.first(),
        None | Some(
            &(tag::NOTICE_RESPONSE
                | tag::NOTIFICATION_RESPONSE
                | tag::PARAMETER_STATUS
                | tag::ERROR_RESPONSE)
        )
    )
}

/// Reads one message; returns how many bytes it has, 0 if it is not all there.
fn hear(bytes: &[u8], link: &mut Link, interner: &mut Interner) -> (Heard, usize) {
    let header = match header::read(bytes, MESSAGE_BYTES_MAX) {
        Ok(Some(header)) => header,
        Ok(None) => return (Heard::Nothing, 0),
        Err(_) => return (Heard::Nonsense, 0),
    };
    let Some(body) = bytes.get(HEADER_BYTES..header.message_bytes()) else {
        return (Heard::Nothing, 0);
    };
    let heard = match header.tag {
        tag::PARAMETER_STATUS => match view::parameter_status(body) {
            Ok(reported) if is_fact(reported.name) => {
                link.note_fact(reported.name, reported.value);
                Heard::Nothing
            }
            Ok(reported) => {
                if let Some(changed) = link.params.with(reported.name, reported.value) {
                    link.params = interner.intern(changed);
                }
                Heard::Nothing
            }
            Err(_) => Heard::Nonsense,
        },
        tag::COMMAND_COMPLETE => {
            if matches!(body, b"DISCARD ALL\0" | b"DEALLOCATE ALL\0") {
                link.held.clear_except(&HashSet::new());
            }
            if !link.params.carried().is_empty() {
                match body {
                    b"DISCARD ALL\0" => {
                        link.params = interner.intern(link.params.carrying(Vec::new()));
                    }
                    b"RESET\0" | b"SET\0" => {
                        link.params = interner.intern(link.params.carrying_uncertain());
                    }
                    _ => {}
                }
            }
            Heard::Answer
        }
        tag::ERROR_RESPONSE => {
            let error = view::error_response(body);
            Heard::Error(Fault {
                severity: Severity::Fatal,
                sqlstate: SqlState(error.sqlstate),
                message: String::from_utf8_lossy(error.message).into_owned().into(),
                hint: None,
            })
        }
        tag::READY_FOR_QUERY => match body {
            [byte] => TransactionStatus::from_byte(*byte).map_or(Heard::Nonsense, Heard::Ready),
            _ => Heard::Nonsense,
        },
        tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => Heard::Nothing,
        tag::ROW_DESCRIPTION | tag::DATA_ROW | tag::EMPTY_QUERY_RESPONSE => Heard::Answer,
        _ => Heard::Nonsense,
    };
    (heard, header.message_bytes())
}

/// Moves a link's parameters to the interner of the worker that has it now.
pub(super) fn adopt(link: &mut Link, interner: &mut Interner) {
    link.params = interner.intern_shared(Arc::clone(&link.params));
}
