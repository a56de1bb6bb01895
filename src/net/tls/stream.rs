//! A TLS connection of the control plane.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::channel::Progress;
use super::{Channel, ChannelError, HandshakeError, x509};

/// Bytes read at a time: a hello has some hundred, and post-quantum keys a thousand more.
const READ_BYTES: usize = 4096;

/// Most plaintext that is sealed at a time.
const SEAL_BYTES: usize = 16 << 10;

/// A connection whose handshake is over.
///
/// What was written is sealed at once, and may stay here until it is flushed; see
/// [`AsyncWriteExt::flush`].
#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    channel: Box<Channel>,
    /// What the peer said and nobody has read; passwords pass through it.
    plain: Zeroizing<Vec<u8>>,
    /// Records that are to be sent; the first `sent` bytes have been.
    sealed: Vec<u8>,
    sent: usize,
    is_closed: bool,
    binding: Option<Arc<[u8]>>,
}

/// What a [`TlsStream`] is made of, to be taken elsewhere.
#[derive(Debug)]
pub struct Parts {
    /// The connection.
    pub tcp: TcpStream,
    /// Its records.
    pub channel: Box<Channel>,
    /// What the peer said and nobody has read.
    pub plain: Vec<u8>,
    /// Records that have not been sent.
    pub sealed: Vec<u8>,
}

/// A handshake, as it is taken to a thread where it holds up nobody: a signature takes up to some
/// milliseconds.
struct Shake {
    channel: Box<Channel>,
    fresh: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
    out: Vec<u8>,
}

impl TlsStream {
    pub(super) async fn shake(
        mut tcp: TcpStream,
        channel: Box<Channel>,
        fresh: Vec<u8>,
        binding: Option<Arc<[u8]>>,
    ) -> Result<Self, HandshakeError> {
        let plain = Zeroizing::default();
        let mut shake = Shake { channel, fresh, plain, out: Vec::new() };
        loop {
            let (moved, progress) = spawn_blocking(move || shake.step())
                .await
                .map_err(|_| HandshakeError::Abandoned)?;
            shake = moved;
            let sent = tcp.write_all(&shake.out).await;
            // Why it failed says more than that the peer does not listen.
            let progress = progress.map_err(HandshakeError::Tls)?;
            sent.map_err(HandshakeError::Lost)?;
            shake.out.clear();
            if progress == Progress::Done {
                return Ok(Self {
                    tcp,
                    channel: shake.channel,
                    plain: shake.plain,
                    sealed: Vec::new(),
                    sent: 0,
                    is_closed: false,
                    binding,
                });
            }
            shake.fresh.clear();
            shake.fresh.reserve(READ_BYTES);
            if tcp.read_buf(&mut shake.fresh).await.map_err(HandshakeError::Lost)? == 0 {
                return Err(HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    pub(super) fn with_binding(self, binding: Option<Arc<[u8]>>) -> Self {
        Self { binding, ..self }
    }

    /// Returns its records.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the connection below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Returns the channel binding data `tls-server-end-point`; `None` if the server's certificate
    /// has none.
    pub fn binding(&self) -> Option<Arc<[u8]>> {
        self.binding.clone()
    }

    /// Returns the common name of the peer's certificate. It says who the peer is only if
    /// certificates are verified.
    pub fn peer_common_name(&self) -> Option<&str> {
        x509::common_name(self.channel.peer_certificate()?)
    }

    /// Takes it apart.
    pub fn into_parts(mut self) -> Parts {
        self.sealed.drain(..self.sent);
        let plain = std::mem::take(&mut *self.plain);
        Parts { tcp: self.tcp, channel: self.channel, plain, sealed: self.sealed }
    }

    /// Puts together what was taken apart.
    pub fn from_parts(parts: Parts) -> Self {
        let Parts { tcp, channel, plain, sealed } = parts;
        let plain = Zeroizing::new(plain);
        Self { tcp, channel, plain, sealed, sent: 0, is_closed: false, binding: None }
    }

    /// Says to the peer that nothing follows, if that can be sent at once.
    pub fn try_close(&mut self) {
        if !self.is_closed && self.sealed.is_empty() {
            self.is_closed = true;
            let mut goodbye = Vec::new();
            if self.channel.close(&mut goodbye).is_ok() {
                // Best effort: the peer sees the end of the connection anyway.
                let _ = self.tcp.try_write(&goodbye);
            }
        }
    }

    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.sealed.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.tcp).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.sealed.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl Shake {
    fn step(mut self) -> (Self, Result<Progress, ChannelError>) {
        let progress = self.channel.shake(&self.fresh, &mut self.plain, &mut self.out);
        (self, progress)
    }
}

fn broken(error: ChannelError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        while stream.plain.is_empty() && !stream.channel.is_peer_closed() {
            let mut bytes = [0; READ_BYTES];
            let mut fresh = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut stream.tcp).poll_read(cx, &mut fresh))?;
            if fresh.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let fed = stream.channel.feed(fresh.filled(), &mut stream.plain, &mut stream.sealed);
            if !stream.sealed.is_empty() {
                // An answer or an alert of rustls' own; what does not go out now goes with the rest.
                let _ = stream.poll_sealed(cx)?;
            }
            fed.map_err(broken)?;
        }
        let count = stream.plain.len().min(buf.remaining());
        buf.put_slice(stream.plain.get(..count).unwrap_or_default());
        stream.plain.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(stream.poll_sealed(cx))?;
        let count = buf.len().min(SEAL_BYTES);
        let plain = buf.get(..count).unwrap_or_default();
        stream.channel.seal(plain, &mut stream.sealed).map_err(broken)?;
        // Taken is taken: what does not go out now goes with the next write or flush.
        if let Poll::Ready(Err(error)) = stream.poll_sealed(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sealed(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_sealed(cx))?;
        if !stream.is_closed {
            stream.is_closed = true;
            stream.channel.close(&mut stream.sealed).map_err(broken)?;
            ready!(stream.poll_sealed(cx))?;
        }
        Pin::new(&mut stream.tcp).poll_shutdown(cx)
    }
}
