//! The connection of one console: whole messages in, buffered messages out.

use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fault::{Fault, SqlState};
use crate::net::Stream;
use crate::wire::header::{self, MESSAGE_BYTES_MAX};

/// LIMIT: bytes of one message, header and all; commands are short.
const MESSAGE_MAX: usize = 16 * 1024;

/// Output is sent when there is more of it than this.
const OUTPUT_BYTES: usize = 64 * 1024;

/// How long a client may take nothing of what it is sent.
const STALL_LIMIT: Duration = Duration::from_mins(1);

/// One message of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What kind it is.
    pub tag: u8,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why a session of the console ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// It said so, or closed the connection.
    #[error("client close request")]
    Closed,
    /// The connection broke.
    #[error("connection lost")]
    Lost(#[from] io::Error),
    /// It does not read what it asked for.
    #[error("client does not read")]
    Stalled,
    /// It broke the protocol, or an administrator ended it; it is told so.
    #[error("{}", .0.message)]
    Fault(Fault),
}

/// A connection to a client.
#[derive(Debug)]
pub struct Line {
    stream: Stream,
    /// At most [`MESSAGE_MAX`] bytes that came and were not looked at.
    input: Vec<u8>,
    /// What is to be sent; the first `sent` bytes have been.
    pub output: Vec<u8>,
    sent: usize,
}

impl Line {
    /// Takes over a connection with what it has sent already and what it is to be sent.
    pub fn new(stream: Stream, input: Vec<u8>, output: Vec<u8>) -> Self {
        Self { stream, input, output, sent: 0 }
    }

    /// Waits for the next message; what is to be sent goes out first if it has not come yet.
    ///
    /// Cancel safe: what came stays here.
    ///
    /// # Errors
    /// [`End`].
    pub async fn message(&mut self) -> Result<Message, End> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(message);
            }
            self.flush().await?;
            self.fill().await?;
        }
    }

    /// Waits until the client leaves, while it is not being listened to.
    ///
    /// Cancel safe: what came stays here.
    pub async fn departure(&mut self) -> End {
        loop {
            if self.input.len() >= MESSAGE_MAX {
                // It goes on talking; what it says next is told apart from its end later.
                return pending().await;
            }
            if let Err(end) = self.fill().await {
                return end;
            }
        }
    }

    /// Sends what is to be sent if that is much.
    ///
    /// # Errors
    /// [`End`].
    pub async fn flush_if_much(&mut self) -> Result<(), End> {
        if self.output.len() < OUTPUT_BYTES { Ok(()) } else { self.flush().await }
    }

    /// Sends what is to be sent.
    ///
    /// Cancel safe: what was not sent stays here.
    ///
    /// # Errors
    /// [`End::Lost`], [`End::Stalled`].
    pub async fn flush(&mut self) -> Result<(), End> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = timeout(STALL_LIMIT, self.stream.write(rest));
            match written.await.map_err(|_| End::Stalled)?? {
                0 => return Err(End::Lost(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.output.clear();
        self.sent = 0;
        timeout(STALL_LIMIT, self.stream.flush()).await.map_err(|_| End::Stalled)??;
        Ok(())
    }

    /// Sends last words and closes the connection; nobody waits for a client that takes its time.
    pub async fn close(mut self, end: &End) {
        if let End::Fault(fault) = end {
            fault.encode(&mut self.output);
        }
        if matches!(end, End::Fault(_) | End::Closed) {
            let farewell = async {
                self.flush().await?;
                self.stream.shutdown().await.map_err(End::Lost)
            };
            // Whether it got them is its own affair.
            let _ = timeout(Duration::from_secs(1), farewell).await;
        }
    }

    /// Reads more; at most [`MESSAGE_MAX`] bytes are held.
    async fn fill(&mut self) -> Result<(), End> {
        let room = MESSAGE_MAX.saturating_sub(self.input.len());
        let mut spare = (&mut self.input).limit(room);
        match self.stream.read_buf(&mut spare).await? {
            0 => Err(End::Closed),
            _ => Ok(()),
        }
    }

    /// Takes the first message out of the input, if it is there.
    fn cut(&mut self) -> Result<Option<Message>, End> {
        let fault = |sqlstate, text| Err(End::Fault(Fault::fatal(sqlstate, text)));
        let Ok(header) = header::read(&self.input, MESSAGE_BYTES_MAX) else {
            return fault(SqlState::PROTOCOL_VIOLATION, "invalid message length");
        };
        let Some(header) = header else { return Ok(None) };
        let bytes = header.message_bytes();
        if bytes > MESSAGE_MAX {
            return fault(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "message too long for the admin console",
            );
        }
        let Some(body) = self.input.get(header::HEADER_BYTES..bytes) else { return Ok(None) };
        let message = Message { tag: header.tag, body: body.to_vec() };
        self.input.drain(..bytes);
        Ok(Some(message))
    }
}
