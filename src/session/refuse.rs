//! Answers one request of a client with an error, without a server.
//!
//! A client that waits for a backend and cancels gets 57014 for the request it waits with. That
//! request is still unread: it is read off and answered as PostgreSQL would, so that the client can
//! go on. Pooling point D35.

use crate::fault::{Fault, SqlState};
use crate::wire::encode;
use crate::wire::header::{self, MESSAGE_BYTES_MAX};
use crate::wire::passage::Passage;
use crate::wire::splice::Splice;
use crate::wire::tag::frontend as tag;

/// How far the request has been read off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// Nothing was answered yet.
    #[default]
    Unanswered,
    /// The error was sent; the rest is skipped to the next Sync.
    Skipping,
    /// The request is answered, the client may go on.
    Answered,
}

/// Reads the request off `input`; returns how many bytes of it are done.
///
/// # Errors
/// A [`Fault`] (08P01) behind which the client is closed.
pub fn refuse(
    input: &[u8],
    progress: &mut Progress,
    passage: &mut Passage,
    fault: &Fault,
    replies: &mut Vec<u8>,
) -> Result<usize, Fault> {
    let mut nowhere = Vec::new();
    let mut splice = Splice::new(input, &mut nowhere);
    let mut consumed = passage.resume(input.len(), &mut splice);
    while *progress != Progress::Answered || !passage.is_boundary() {
        let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) else { break };
        let header = header::read(rest, MESSAGE_BYTES_MAX)
            .map_err(|_| Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"))?;
        let Some(header) = header else { break };
        if header.tag == tag::TERMINATE {
            break;
        }
        consumed += passage.skip(header.message_bytes(), rest.len(), &mut splice);
        let is_first = *progress == Progress::Unanswered;
        match header.tag {
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH => continue,
            tag::QUERY | tag::FUNCTION_CALL if !is_first => continue,
            _ => {}
        }
        if is_first {
            fault.encode(replies);
        }
        *progress = match header.tag {
            tag::QUERY | tag::FUNCTION_CALL | tag::SYNC => {
                encode::ready_for_query(replies, b'I');
                Progress::Answered
            }
            _ => Progress::Skipping,
        };
    }
    Ok(consumed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], consumed: usize, tags: &str) {
        let (mut progress, mut passage) = (Progress::default(), Passage::default());
        let mut replies = Vec::new();
        let fault = Fault::error(SqlState::QUERY_CANCELED, "canceling statement");
        let done = refuse(input, &mut progress, &mut passage, &fault, &mut replies);
        assert_eq!(done, Ok(consumed));
        let mut seen = String::new();
        let mut rest = replies.as_slice();
        while let Ok(Some(header)) = header::read(rest, MESSAGE_BYTES_MAX) {
            seen.push(char::from(header.tag));
            rest = &rest[header.message_bytes()..];
        }
        assert_eq!(seen, tags);
    }

    #[test]
    fn d35_one_request_is_read_off_and_answered() {
        check(b"Q\0\0\0\x06a\0Q\0\0\0\x06b\0", 7, "EZ");
        check(b"P\0\0\0\x04B\0\0\0\x04S\0\0\0\x04Q\0\0\0\x04", 15, "EZ");
        check(b"P\0\0\0\x04B\0\0\0\x04", 10, "E");
        check(b"S\0\0\0\x04", 5, "EZ");
        check(b"X\0\0\0\x04", 0, "");
    }
}
