//! One socket of the event loop, with the little it must remember.
//!
//! Sockets are registered once, for both directions, edge-triggered: a pipe remembers that it is
//! readable until a read comes back short. What the other side does not take is kept, and nobody
//! reads the peer that produced it until it is gone: so each direction holds one read at most.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use mio::event::Event;

use crate::net::Socket;

/// The peer is gone, by EOF or by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// So many bytes at the start of the buffer.
    Bytes(usize),
    /// Nothing now; an event will tell.
    Later,
}

/// A socket and what it must remember. Owns no buffer while nothing is pending.
#[derive(Debug)]
pub struct Pipe {
    socket: Socket,
    is_readable: bool,
    is_read_closed: bool,
    /// Input that could not be handled yet: the start of a message.
    pub stash: Vec<u8>,
    /// Output that the peer has not taken yet.
    unsent: Vec<u8>,
    /// How much of `unsent` it has taken.
    sent: usize,
}

impl Pipe {
    /// Wraps a registered socket. If something is there to be read already, an event tells.
    pub fn new(socket: Socket, unread: Vec<u8>) -> Self {
        Self {
            socket,
            is_readable: false,
            is_read_closed: false,
            stash: unread,
            unsent: Vec::new(),
            sent: 0,
        }
    }

    /// Returns the socket, to be registered.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Returns the socket, to be asked about.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns how many bytes the peer has not taken yet.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len().saturating_sub(self.sent)
    }

    /// Takes note of an event.
    pub fn note(&mut self, event: &Event) {
        self.is_readable |= event.is_readable();
        self.is_read_closed |= event.is_read_closed() || event.is_error();
    }

    /// Says whether a read may bring something.
    pub fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Says whether the peer will not send any more.
    pub fn is_read_closed(&self) -> bool {
        self.is_read_closed
    }

    /// Says whether the peer has not taken everything yet.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads once into `buffer`.
    ///
    /// A short read means that nothing is left (epoll(7), edge-triggered, question 9), except that
    /// the end of the stream still has to be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Input, Gone> {
        if !self.is_readable {
            return Ok(Input::Later);
        }
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(Gone),
                Ok(count) => {
                    self.is_readable = count == buffer.len() || self.is_read_closed;
                    return Ok(Input::Bytes(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(Input::Later);
                }
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Reads once, and returns that together with what was left of earlier reads. `None` if nothing
    /// has come.
    pub fn next_input<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Cow<'a, [u8]>>, Gone> {
        let Input::Bytes(count) = self.read(buffer)? else { return Ok(None) };
        let bytes = buffer.get(..count).unwrap_or_default();
        if self.stash.is_empty() {
            return Ok(Some(Cow::Borrowed(bytes)));
        }
        self.stash.extend_from_slice(bytes);
        Ok(Some(Cow::Owned(std::mem::take(&mut self.stash))))
    }

    /// Keeps what of an input could not be handled yet.
    pub fn keep_rest(&mut self, input: &[u8], consumed: usize) {
        if let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            self.stash.extend_from_slice(rest);
        }
    }

    /// Sends `bytes`; keeps what the peer does not take now.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let taken = if self.unsent.is_empty() { self.write(bytes)? } else { 0 };
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            self.unsent.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Sends what is kept; says whether everything is gone.
    pub fn flush(&mut self) -> Result<bool, Gone> {
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let unsent = std::mem::take(&mut self.unsent);
        let taken = self.write(unsent.get(self.sent..).unwrap_or_default())?;
        self.sent += taken;
        if self.sent < unsent.len() {
            self.unsent = unsent;
            return Ok(false);
        }
        self.sent = 0;
        Ok(true)
    }

    /// Writes until the peer takes no more; returns how much it took.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Gone> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(0) => return Err(Gone),
                Ok(count) => {
                    taken += count;
                    if count < rest.len() {
                        // A short write: the socket is full, and an event will tell.
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Gone),
            }
        }
        Ok(taken)
    }

    /// Reads and forgets what the peer has sent, so that closing does not reset the connection and
    /// take our last message with it.
    pub fn discard_input(&mut self, buffer: &mut [u8]) {
        self.is_readable = true;
        // LIMIT: a peer that keeps sending is reset.
        for _ in 0..16 {
            match self.read(buffer) {
                Ok(Input::Bytes(_)) if self.is_readable => {}
                Ok(_) | Err(Gone) => return,
            }
        }
    }
}
