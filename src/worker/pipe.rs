//! One socket of the event loop, with the little it must remember.
//!
//! Sockets are registered once, for both directions, edge-triggered: a pipe remembers that it is
//! readable until a read comes back short. What the other side does not take is kept, and nobody
//! reads the peer that produced it until it is gone: so each direction holds one read at most.
//!
//! With TLS, what is read goes through the worker's [`Wire`], and what is written is sealed before it
//! is kept. Of what has come only the start of a record is held, by the [`Channel`]. Without, TLS
//! costs one branch.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use mio::event::Event;

use crate::net::tls::Channel;
use crate::net::{Raw, Socket};

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

/// Bytes of records that are read at a time. What is in them always fits into a buffer of the same
/// size.
const RECORDS_BYTES: usize = super::READ_BYTES;

/// Most plaintext that is sealed before it is written.
const SEAL_BYTES: usize = 64 << 10;

/// Where a worker's TLS connections have their records while they are opened or sealed; used within
/// one read or write. Empty until there is TLS.
#[derive(Debug, Default)]
pub struct Wire {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

/// A socket and what it must remember. Owns no buffer while nothing is pending.
#[derive(Debug)]
pub struct Pipe {
    socket: Socket,
    /// What lies between the socket and the protocol.
    tls: Option<Box<Channel>>,
    is_readable: bool,
    is_read_closed: bool,
    /// Input that could not be handled yet: the start of a message.
    pub stash: Vec<u8>,
    /// Output that the peer has not taken yet. Boxed, as most take all at once: idle clients would
    /// pay for it.
    unsent: Option<Box<Unsent>>,
    /// Whether it takes nothing any more: output is dropped.
    is_deaf: bool,
}

/// Output that waits for its peer; sealed if there is TLS. Never empty.
#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of them the peer has taken.
    sent: usize,
}

impl Unsent {
    fn of(bytes: Vec<u8>) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { bytes, sent: 0 }))
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

impl Pipe {
    /// Wraps a connection whose socket is registered; `unread` was sent before what it has unread
    /// itself. If something is there to be read already, an event tells.
    pub fn new(raw: Raw, mut unread: Vec<u8>) -> Self {
        unread.extend_from_slice(&raw.unread);
        let is_read_closed = raw.tls.as_ref().is_some_and(|tls| tls.is_peer_closed());
        Self {
            socket: raw.socket,
            tls: raw.tls,
            is_readable: is_read_closed,
            is_read_closed,
            stash: unread,
            unsent: Unsent::of(raw.unsent),
            is_deaf: false,
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

    /// Returns what lies between the socket and the protocol.
    pub fn tls(&self) -> Option<&Channel> {
        self.tls.as_deref()
    }

    /// Returns how many bytes that have come are held: the start of a message or of a record.
    pub fn held_bytes(&self) -> usize {
        self.stash.len() + self.tls.as_ref().map_or(0, |tls| tls.held_bytes())
    }

    /// Returns how many bytes the peer has not taken yet.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| unsent.rest().len())
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
        self.unsent.is_some()
    }

    /// Reads once into `buffer`.
    ///
    /// A short read means that nothing is left (epoll(7), edge-triggered, question 9), except that
    /// the end of the stream still has to be read.
    pub fn read(&mut self, buffer: &mut [u8], wire: &mut Wire) -> Result<Input, Gone> {
        match &self.tls {
            None => self.read_raw(buffer),
            Some(_) => self.read_sealed(buffer, wire),
        }
    }

    fn read_raw(&mut self, buffer: &mut [u8]) -> Result<Input, Gone> {
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

    /// Reads records until they bring something; `buffer` has room for all that is in them.
    fn read_sealed(&mut self, buffer: &mut [u8], wire: &mut Wire) -> Result<Input, Gone> {
        wire.incoming.resize(RECORDS_BYTES, 0);
        loop {
            let Some(tls) = self.tls.as_mut().filter(|tls| !tls.is_peer_closed()) else {
                return Err(Gone);
            };
            // Behind what is held: it is moved only if something comes.
            let held = tls.held_bytes();
            let Some(room) = wire.incoming.get_mut(held..) else { return Err(Gone) };
            let Input::Bytes(count) = self.read_raw(room)? else { return Ok(Input::Later) };
            let Some(tls) = self.tls.as_mut() else { return Err(Gone) };
            let Some(records) = wire.incoming.get_mut(..held + count) else { return Err(Gone) };
            tls.release_held(records);
            wire.outgoing.clear();
            let (mut filled, mut is_lost) = (0, false);
            let opened = tls.open(records, &mut wire.outgoing, &mut |payload| {
                if let Some(room) = buffer.get_mut(filled..filled + payload.len()) {
                    room.copy_from_slice(payload);
                    filled += payload.len();
                } else {
                    // Records never grow when they are opened; if one did, nothing may go on.
                    is_lost = true;
                }
            });
            if is_lost {
                return Err(Gone);
            }
            let is_peer_closed = tls.is_peer_closed();
            if !wire.outgoing.is_empty() {
                // An answer or an alert of rustls' own.
                self.send_raw(&wire.outgoing)?;
            }
            opened.map_err(|_| Gone)?;
            if is_peer_closed {
                // The next read finds the end.
                self.is_readable = true;
                self.is_read_closed = true;
            }
            if filled > 0 {
                return Ok(Input::Bytes(filled));
            }
            if !self.is_readable {
                return Ok(Input::Later);
            }
        }
    }

    /// Reads once, and returns that together with what was left of earlier reads. `None` if nothing
    /// has come.
    pub fn next_input<'a>(
        &mut self,
        buffer: &'a mut [u8],
        wire: &mut Wire,
    ) -> Result<Option<Cow<'a, [u8]>>, Gone> {
        let Input::Bytes(count) = self.read(buffer, wire)? else { return Ok(None) };
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
    pub fn send(&mut self, bytes: &[u8], wire: &mut Wire) -> Result<(), Gone> {
        if self.tls.is_none() {
            return self.send_raw(bytes);
        }
        for part in bytes.chunks(SEAL_BYTES) {
            let Some(tls) = &mut self.tls else { return Err(Gone) };
            wire.outgoing.clear();
            tls.seal(part, &mut wire.outgoing).map_err(|_| Gone)?;
            self.send_raw(&wire.outgoing)?;
        }
        Ok(())
    }

    /// Drops what the peer has not taken, and whatever it is sent from now on.
    pub fn drop_output(&mut self) {
        self.unsent = None;
        self.is_deaf = true;
    }

    /// Says whether whatever it is sent is dropped.
    pub fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// Has what has come be read to the end, of a peer that takes nothing any more.
    pub fn hear_out(&mut self) {
        self.drop_output();
        self.is_readable = true;
        self.is_read_closed = true;
    }

    /// Says that nothing follows, if that can be said at once and there is a way to say it.
    pub fn send_end(&mut self, wire: &mut Wire) {
        let Some(tls) = self.tls.as_mut().filter(|_| self.unsent.is_none()) else { return };
        wire.outgoing.clear();
        if tls.close(&mut wire.outgoing).is_ok() {
            // Best effort: the peer sees the end of the connection anyway.
            let _ = self.write(&wire.outgoing);
        }
    }

    fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        if self.is_deaf {
            return Ok(());
        }
        if let Some(unsent) = &mut self.unsent {
            unsent.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        let taken = self.write(bytes)?;
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            self.unsent = Unsent::of(rest.to_vec());
        }
        Ok(())
    }

    /// Sends what is kept; says whether everything is gone.
    pub fn flush(&mut self) -> Result<bool, Gone> {
        let Some(mut unsent) = self.unsent.take() else { return Ok(true) };
        unsent.sent += self.write(unsent.rest())?;
        if !unsent.rest().is_empty() {
            self.unsent = Some(unsent);
        }
        Ok(self.unsent.is_none())
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
            match self.read_raw(buffer) {
                Ok(Input::Bytes(_)) if self.is_readable => {}
                Ok(_) | Err(Gone) => return,
            }
        }
    }
}
