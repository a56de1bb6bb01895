//! A query of our own over a connection that was just opened.
//!
//! For the control plane: one question at a time, small answers, everything bounded. Nothing of any
//! client is ever set on such a connection.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::connect::Opened;
use crate::fault::SqlState;
use crate::net::Stream;
use crate::secret::Secret;
use crate::wire::cursor::Cursor;
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::backend as tag;
use crate::wire::{backend, encode};

/// LIMIT: bytes of one answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Room for what is read at a time.
const READ_BYTES: usize = 4096;

/// A row, column by column; `None` is NULL. A value may be a secret.
pub type Row = Vec<Option<Secret>>;

/// Why there are no rows.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection is lost.
    #[error("connection to the server lost")]
    Lost(#[source] io::Error),
    /// The server refuses to answer.
    #[error("{message}")]
    Refused {
        /// Its code.
        sqlstate: SqlState,
        /// Its text.
        message: String,
    },
    /// The answer is too long, or none at all.
    #[error("no proper answer to a query")]
    NoAnswer,
}

/// A tag, and what is behind it.
type Message = (u8, Zeroizing<Vec<u8>>);

/// A connection that answers questions.
#[derive(Debug)]
pub struct Asker {
    stream: Stream,
    /// Read, and not looked at yet.
    inbox: Zeroizing<Vec<u8>>,
}

impl Asker {
    /// Takes a fresh connection.
    ///
    /// # Errors
    /// There is no tokio runtime around us.
    pub fn new(opened: Opened) -> io::Result<Self> {
        Ok(Self { stream: opened.raw.into_stream()?, inbox: Zeroizing::new(opened.unread) })
    }

    /// Runs one query with parameters and results as text. Whoever calls it bounds the time.
    ///
    /// Not cancel safe: the connection is of no use then, nor behind any error but
    /// [`AskError::Refused`].
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&mut self, sql: &str, parameters: &[&[u8]]) -> Result<Vec<Row>, AskError> {
        let mut out = Vec::new();
        encode::question(&mut out, sql.as_bytes(), parameters);
        self.stream.write_all(&out).await.map_err(AskError::Lost)?;
        self.stream.flush().await.map_err(AskError::Lost)?;
        let (mut rows, mut refusal, mut received) = (Vec::new(), None, 0);
        loop {
            let Some((tag, body)) = self.cut()? else {
                received += self.fill().await?;
                if received > ANSWER_BYTES_MAX {
                    return Err(AskError::NoAnswer);
                }
                continue;
            };
            match tag {
                tag::DATA_ROW => rows.push(columns(&body).ok_or(AskError::NoAnswer)?),
                tag::ERROR_RESPONSE => {
                    let error = backend::error_response(&body);
                    let message = String::from_utf8_lossy(error.message).into_owned();
                    refusal =
                        Some(AskError::Refused { sqlstate: SqlState(error.sqlstate), message });
                }
                tag::READY_FOR_QUERY => return refusal.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Says goodbye, if that can be sent at once.
    pub async fn close(mut self) {
        let mut out = Vec::new();
        encode::terminate(&mut out);
        // Best effort: the server sees the end of the connection anyway.
        let _ = self.stream.write_all(&out).await;
        let _ = self.stream.flush().await;
    }

    /// Takes the next whole message.
    fn cut(&mut self) -> Result<Option<Message>, AskError> {
        let limit = u32::try_from(ANSWER_BYTES_MAX).unwrap_or(u32::MAX);
        let header = header::read(&self.inbox, limit).map_err(|_| AskError::NoAnswer)?;
        let Some(header) = header else { return Ok(None) };
        let Some(body) = self.inbox.get(HEADER_BYTES..header.message_bytes()) else {
            return Ok(None);
        };
        let body = Zeroizing::new(body.to_vec());
        self.inbox.drain(..header.message_bytes());
        Ok(Some((header.tag, body)))
    }

    async fn fill(&mut self) -> Result<usize, AskError> {
        self.inbox.reserve(READ_BYTES);
        match self.stream.read_buf(&mut *self.inbox).await.map_err(AskError::Lost)? {
            0 => Err(AskError::Lost(io::ErrorKind::UnexpectedEof.into())),
            count => Ok(count),
        }
    }
}

/// Reads the columns of a DataRow.
fn columns(body: &[u8]) -> Option<Row> {
    let mut cursor = Cursor::new(body);
    let count = usize::try_from(cursor.i16().ok()?).ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(match usize::try_from(cursor.i32().ok()?) {
            Ok(length) => Some(Secret::new(cursor.bytes(length).ok()?)),
            Err(_) => None,
        });
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_within_their_bounds() {
        let row = columns(b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff").unwrap();
        assert_eq!(row, [Some(Secret::new("ab")), None]);
        for bad in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x09ab", b"\xff\xff\0\0\0\x01a"] {
            assert_eq!(columns(bad), None, "{bad:?}");
        }
    }
}
