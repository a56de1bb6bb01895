//! One TLS connection without its socket: records in, plaintext out, and the other way round.
//!
//! rustls' unbuffered interface: all buffers are the caller's, so that an idle connection has none.
//! What a [`Channel`] itself holds is the start of a record, at most [`RECORD_BYTES_MAX`] bytes.
//!
//! INVARIANT: rustls may refer to places in what it was given and has not taken, so it is always
//! given that again; see [`Channel::seal`].

use std::fmt;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, ProtocolVersion};

use super::ciphers;

/// LIMIT: bytes of a record, header and all, that rustls takes: RFC 5246 allows 2048 on top of the
/// plaintext's 16,384.
pub const RECORD_BYTES_MAX: usize = 5 + 16_384 + 2_048;

/// LIMIT: bytes of handshake messages that are not all there yet, before anybody has logged in. A hello
/// has less than 2 kB, a chain of certificates some kB.
const HANDSHAKE_BYTES_MAX: usize = (32 << 10) + RECORD_BYTES_MAX;

/// The plaintext of a full record.
const FRAGMENT_BYTES: usize = 16_384;

/// No cipher suite adds more to a record: 5 of header, 8 of nonce, 16 of tag, 1 of type.
const OVERHEAD_BYTES: usize = 32;

/// Room for an answer of rustls' own that goes in front: a KeyUpdate or an alert.
const ANSWER_BYTES: usize = 128;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer broke the protocol, shows no good certificate, or somebody is in between.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The keys have protected as much as they may.
    #[error("keys are exhausted")]
    Exhausted,
    /// A message that needs more memory than any peer has a reason for.
    #[error("a handshake message is too long")]
    TooLong,
    /// It has not come to be, or is over.
    #[error("connection is closed")]
    Closed,
}

/// One TLS connection.
pub struct Channel {
    side: Side,
    /// What has come and is not a whole record.
    held: Vec<u8>,
    is_handshaking: bool,
    /// Whether the peer said that nothing follows.
    is_peer_closed: bool,
    /// Whether an error has ended it: rustls must not be asked again.
    is_broken: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// How far a handshake has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The peer's turn.
    Waiting,
    /// Over: data may be sent.
    Done,
}

/// What rustls says that there is to do.
enum Next {
    Again,
    PeerClosed,
    Waiting,
    Ready,
    Closed,
}

impl Channel {
    pub(super) fn client(connection: UnbufferedClientConnection) -> Self {
        Self::new(Side::Client(connection))
    }

    pub(super) fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(Side::Server(connection))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            held: Vec::new(),
            is_handshaking: true,
            is_peer_closed: false,
            is_broken: false,
        }
    }

    /// Takes what has come during the handshake; appends what is to be sent to `out`, and what the
    /// peer said behind its handshake to `plain`. On an error, `out` holds the alert for the peer.
    pub(super) fn shake(
        &mut self,
        fresh: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Progress, ChannelError> {
        self.feed(fresh, plain, out)?;
        Ok(if self.is_handshaking { Progress::Waiting } else { Progress::Done })
    }

    /// Takes what has come, where there is no need to hurry: as [`open`](Self::open).
    pub(super) fn feed(
        &mut self,
        fresh: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), ChannelError> {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(fresh);
        self.open(&mut input, out, &mut |payload| plain.extend_from_slice(payload))
    }

    /// Returns how many bytes of earlier input are held.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Moves what is held to the start of `input`, which must have room for it.
    pub fn release_held(&mut self, input: &mut [u8]) {
        if let Some(start) = input.get_mut(..self.held.len()) {
            start.copy_from_slice(&self.held);
        }
        self.held = Vec::new();
    }

    /// Takes `input`, which begins with what was held: gives the plaintext of whole records to
    /// `deliver`, holds the rest, and appends what is to be sent in answer to `out`. Altogether
    /// fewer bytes are delivered than came in.
    ///
    /// # Errors
    /// See [`ChannelError`]; nothing more can be read or sent but `out`, which may hold an alert.
    pub fn open(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        deliver: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ChannelError> {
        if self.is_broken {
            return Err(ChannelError::Closed);
        }
        let mut used = 0;
        loop {
            let Some(rest) = input.get_mut(used..) else { return Err(ChannelError::Closed) };
            let (discard, next) = self.step(rest, out, deliver);
            used += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::PeerClosed) => self.is_peer_closed = true,
                Ok(Next::Waiting) => break,
                Ok(Next::Ready) => {
                    self.is_handshaking = false;
                    break;
                }
                Ok(Next::Closed) => return Err(self.broken(ChannelError::Closed)),
                Err(error) => {
                    // The alert that tells the peer is queued, or is made by a second look. Not
                    // more than one: rustls must not be asked to send another.
                    let rest = input.get_mut(used..).unwrap_or_default();
                    let _ = self.step(rest, out, &mut |_| {});
                    return Err(self.broken(error));
                }
            }
        }
        if self.is_peer_closed {
            // Nothing that follows was sent by the peer.
            return Ok(());
        }
        let rest = input.get(used..).unwrap_or_default();
        let limit = if self.is_handshaking { HANDSHAKE_BYTES_MAX } else { RECORD_BYTES_MAX };
        if rest.len() > limit {
            return Err(self.broken(ChannelError::TooLong));
        }
        if !rest.is_empty() {
            self.held = rest.to_vec();
        }
        Ok(())
    }

    /// Says whether the peer has said that nothing follows.
    pub fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Appends the records that carry `plain` to `out`.
    ///
    /// # Errors
    /// See [`ChannelError`]; the connection is of no use then.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), ChannelError> {
        let records = plain.len() / FRAGMENT_BYTES + 1;
        self.append(plain.len() + records * OVERHEAD_BYTES, &Content::Data(plain), out)
    }

    /// Appends what says to the peer that nothing follows to `out`.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), ChannelError> {
        self.append(ANSWER_BYTES, &Content::Goodbye, out)
    }

    fn append(
        &mut self,
        room: usize,
        content: &Content<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ChannelError> {
        if self.is_broken {
            return Err(ChannelError::Closed);
        }
        let at = out.len();
        out.resize(at + room + ANSWER_BYTES, 0);
        let written = self.write(out.get_mut(at..).unwrap_or_default(), content);
        out.truncate(at + written.as_ref().map_or(0, |count| *count));
        written.map(drop).map_err(|error| self.broken(error))
    }

    /// Notes that it is over.
    fn broken(&mut self, error: ChannelError) -> ChannelError {
        self.is_broken = true;
        self.held = Vec::new();
        error
    }

    /// Says version and cipher suite, as PgBouncer does: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
    pub fn describe(&self) -> String {
        let common = self.common();
        let version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(_) | None => "TLS",
        };
        let suite = common.negotiated_cipher_suite().map_or("", |suite| ciphers::name(&suite));
        format!("{version}/{suite}")
    }

    /// Returns the application protocol that was agreed upon.
    pub fn application_protocol(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// Returns the peer's own certificate.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates()?.first()
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(client) => client,
            Side::Server(server) => server,
        }
    }

    /// Lets rustls do one thing.
    fn step(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        deliver: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Next, ChannelError>) {
        match &mut self.side {
            Side::Client(client) => advance(client.process_tls_records(input), out, deliver),
            Side::Server(server) => advance(server.process_tls_records(input), out, deliver),
        }
    }

    /// Writes to the start of `out`. What is held is shown to rustls again, because that is where a
    /// handshake message may begin which it remembers.
    fn write(&mut self, out: &mut [u8], content: &Content<'_>) -> Result<usize, ChannelError> {
        let mut at = 0;
        loop {
            let held = &mut self.held;
            let room = out.get_mut(at..).unwrap_or_default();
            let wrote = match &mut self.side {
                Side::Client(client) => write(client.process_tls_records(held), room, content),
                Side::Server(server) => write(server.process_tls_records(held), room, content),
            }?;
            match wrote {
                Wrote::All(count) => return Ok(at + count),
                Wrote::Answer(count) => at += count,
                Wrote::PeerClosed => self.is_peer_closed = true,
            }
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

/// What is to be written.
enum Content<'a> {
    Data(&'a [u8]),
    Goodbye,
}

/// What was written.
enum Wrote {
    /// All of it.
    All(usize),
    /// Something of rustls' own that goes in front.
    Answer(usize),
    /// Nothing: the peer turns out to have closed its side.
    PeerClosed,
}

fn advance<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
    deliver: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Next, ChannelError>) {
    let mut discard = status.discard;
    let next = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut outcome = Ok(Next::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        deliver(record.payload);
                    }
                    Err(error) => {
                        outcome = Err(error.into());
                        break;
                    }
                }
            }
            outcome
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let at = out.len();
            let mut room = ANSWER_BYTES;
            loop {
                out.resize(at + room, 0);
                match data.encode(out.get_mut(at..).unwrap_or_default()) {
                    Ok(count) => {
                        out.truncate(at + count);
                        break Ok(Next::Again);
                    }
                    Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                        if required_size > room =>
                    {
                        room = required_size;
                    }
                    Err(_) => break Err(ChannelError::Closed),
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is in `out`, which the caller sends before anything else.
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::PeerClosed),
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Waiting),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Ready),
        // Early data is never accepted.
        Ok(_) => Ok(Next::Closed),
    };
    (discard, next)
}

/// Lets rustls write one thing. There always is room for it: what does not fit would be lost.
fn write<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut [u8],
    content: &Content<'_>,
) -> Result<Wrote, ChannelError> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            let written = match content {
                Content::Data(plain) => traffic.encrypt(plain, out),
                Content::Goodbye => traffic.queue_close_notify(out),
            };
            match written {
                Ok(count) => Ok(Wrote::All(count)),
                Err(EncryptError::EncryptExhausted) => Err(ChannelError::Exhausted),
                Err(EncryptError::InsufficientSize(_)) => Err(ChannelError::Closed),
            }
        }
        ConnectionState::EncodeTlsData(mut data) => {
            data.encode(out).map(Wrote::Answer).map_err(|_| ChannelError::Closed)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Wrote::Answer(0))
        }
        ConnectionState::PeerClosed => Ok(Wrote::PeerClosed),
        ConnectionState::ReadTraffic(_)
        | ConnectionState::ReadEarlyData(_)
        | ConnectionState::BlockedHandshake
        | ConnectionState::Closed
        | _ => Err(ChannelError::Closed),
    }
}

#[cfg(test)]
mod tests;
