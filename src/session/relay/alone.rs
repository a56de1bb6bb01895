//! What can be said of a client's input before it has a backend, and what needs none.

use std::sync::Arc;

use super::Shared;
use super::server::write_synthesized;
use crate::backend::statements::{Catalog, Statement};
use crate::session::front::Front;
use crate::wire::encode;
use crate::wire::expect::Awaited;
use crate::wire::frontend::{self, Target};
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::frontend as tag;

/// Longest message that a client must have sent whole before a backend is leased for it: so a client
/// that stalls inside a message holds none. LIMIT: a longer one is streamed.
const WHOLE_BYTES_MAX: usize = 16 << 10;

/// Most messages that are answered without a backend at a time. LIMIT.
const ALONE_MAX: usize = 64;

/// Says whether what a client without a backend has sent is enough to begin with.
pub fn may_begin(input: &[u8], front: &Front) -> bool {
    match header::read(input, front.length_max) {
        Ok(Some(header)) => {
            let message = header.message_bytes();
            message <= input.len() || message > WHOLE_BYTES_MAX || !front.passage.is_boundary()
        }
        Ok(None) => !front.passage.is_boundary(),
        Err(_) => true,
    }
}

/// Answers what a client without a backend has sent, if that needs none: Close of statements, Parse
/// of statements that a server of its pool has accepted before, and Sync. Returns how many bytes are done: all
/// up to the first Sync, or nothing. Pooling point A5.
///
/// So a client that prepares what others have prepared never waits for them: it may be them who
/// wait for it, if a program drives all of them in one thread.
pub fn answer_alone(
    input: &[u8],
    front: &mut Front,
    shared: &mut Shared,
    replies: &mut Vec<u8>,
) -> usize {
    let Some((changes, done)) = alone(input, front, &mut shared.catalog) else { return 0 };
    let prepared = front.prepared_mut();
    for change in changes {
        let awaited = match change {
            Change::Close(name) => {
                prepared.remove(name);
                Awaited::Close
            }
            Change::Parse(name, statement) => {
                prepared.insert(name.into(), statement);
                shared.noted.statements.client_parses += 1;
                Awaited::Parse
            }
        };
        write_synthesized(awaited, replies);
    }
    encode::ready_for_query(replies, b'I');
    done
}

/// What a message that needs no backend does to the client's statements.
enum Change<'a> {
    Close(&'a [u8]),
    Parse(&'a [u8], Arc<Statement>),
}

/// Reads messages that need no backend up to a Sync; returns what they do, and their length.
fn alone<'a>(
    input: &'a [u8],
    front: &Front,
    catalog: &mut Catalog,
) -> Option<(Vec<Change<'a>>, usize)> {
    let mut changes = Vec::new();
    let mut names: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    loop {
        let rest = input.get(at..)?;
        let header = header::read(rest, front.length_max).ok()??;
        if !matches!(header.tag, tag::SYNC | tag::CLOSE | tag::PARSE) {
            return None;
        }
        let body = rest.get(HEADER_BYTES..header.message_bytes())?;
        at += header.message_bytes();
        let change = match header.tag {
            tag::SYNC if body.is_empty() => return Some((changes, at)),
            tag::CLOSE => match frontend::named(body).ok()? {
                closed if closed.target == Target::Statement => Change::Close(closed.name),
                _ => return None,
            },
            tag::PARSE => {
                let parse = frontend::parse(body).ok()?;
                let known = catalog.find(front.scope, parse.definition, front.params.dialect())?;
                Change::Parse(parse.name, known)
            }
            _ => return None,
        };
        let (Change::Close(name) | Change::Parse(name, _)) = &change;
        // Each name once: what several messages do to one name is the server's business.
        if name.is_empty() || names.contains(name) || names.len() >= ALONE_MAX {
            return None;
        }
        names.push(name);
        if let (Change::Parse(name, statement), Some(prepared)) = (&change, front.prepared())
            && (prepared.find(name).is_some() || prepared.is_full_for(name, statement.definition()))
        {
            return None;
        }
        changes.push(change);
    }
}
