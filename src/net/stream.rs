//! TCP and Unix sockets, and TLS over TCP, behind one type, in both planes.
//!
//! [`Stream`] belongs to the control plane (tokio); [`Stream::into_raw`] takes it out of tokio
//! and makes the [`Socket`] that a worker's own event loop reads and writes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tls::{Acceptor, Channel, HandshakeError, Parts, TlsStream};

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket; its clients have no address.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A connection of the control plane.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(tokio::net::TcpStream),
    /// Over TLS over TCP. What is written may stay here until it is flushed.
    Tls(Box<TlsStream>),
    /// Over a Unix socket.
    Unix(tokio::net::UnixStream),
    /// None any more: a handshake has failed. Reads as its end.
    Closed,
}

/// A connection that has been taken out of tokio.
#[derive(Debug)]
pub struct Raw {
    /// What is read and written.
    pub socket: Socket,
    /// What lies between that and the protocol; `None` if nothing does.
    pub tls: Option<Box<Channel>>,
    /// What the peer said and nobody has read.
    pub unread: Vec<u8>,
    /// What must be sent before anything else, as it is.
    pub unsent: Vec<u8>,
}

impl Stream {
    /// Asks the system for our own end.
    pub fn local(&self) -> Option<Peer> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(Peer::Tcp),
            Self::Tls(tls) => tls.tcp().local_addr().ok().map(Peer::Tcp),
            Self::Unix(_) => Some(Peer::Unix),
            Self::Closed => None,
        }
    }

    /// Asks the system which user the process at the other end of a Unix socket ran as when it
    /// connected.
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Closed => None,
            Self::Unix(unix) => unix.peer_cred().ok().map(|credentials| credentials.uid()),
        }
    }

    /// Returns the TLS around it.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => None,
        }
    }

    /// Shakes hands with a client that asked for TLS on a plain connection, and has sent `fresh` of
    /// it. Where that fails, the connection is closed. Not cancel safe: the same.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn secure(
        &mut self,
        acceptor: &Acceptor,
        fresh: Vec<u8>,
    ) -> Result<(), HandshakeError> {
        if let Self::Tcp(tcp) = std::mem::replace(self, Self::Closed) {
            *self = Self::Tls(Box::new(acceptor.accept(tcp, fresh).await?));
        }
        Ok(())
    }

    /// Says to the peer that nothing follows, where there is a way to say that besides closing.
    pub fn try_close(&mut self) {
        match self {
            Self::Tls(tls) => tls.try_close(),
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => {}
        }
    }

    /// Takes the connection out of tokio, for an event loop of the data plane.
    pub fn into_raw(self) -> io::Result<Raw> {
        let plain = |socket| Raw { socket, tls: None, unread: Vec::new(), unsent: Vec::new() };
        let tcp = |tcp: tokio::net::TcpStream| -> io::Result<Socket> {
            Ok(Socket::Tcp(mio::net::TcpStream::from_std(tcp.into_std()?)))
        };
        Ok(match self {
            Self::Tcp(stream) => plain(tcp(stream)?),
            Self::Tls(tls) => {
                let parts = tls.into_parts();
                Raw {
                    socket: tcp(parts.tcp)?,
                    tls: Some(parts.channel),
                    unread: parts.plain,
                    unsent: parts.sealed,
                }
            }
            Self::Unix(unix) => {
                plain(Socket::Unix(mio::net::UnixStream::from_std(unix.into_std()?)))
            }
            Self::Closed => return Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl Raw {
    /// Gives the connection to tokio; the other way round is [`Stream::into_raw`]. Its `unread` is
    /// left out if there is no TLS.
    ///
    /// # Errors
    /// There is no tokio runtime with I/O around us.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match (self.socket, self.tls) {
            (Socket::Tcp(tcp), None) => Stream::Tcp(tokio::net::TcpStream::from_std(tcp.into())?),
            (Socket::Tcp(tcp), Some(channel)) => {
                let tcp = tokio::net::TcpStream::from_std(tcp.into())?;
                let (plain, sealed) = (self.unread, self.unsent);
                let parts = Parts { tcp, channel, plain, sealed };
                Stream::Tls(Box::new(TlsStream::from_parts(parts)))
            }
            (Socket::Unix(unix), _) => Stream::Unix(tokio::net::UnixStream::from_std(unix.into())?),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// A connection of the data plane: non-blocking, registered with one event loop.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(mio::net::TcpStream),
    /// Over a Unix socket.
    Unix(mio::net::UnixStream),
}

impl Socket {
    /// Asks the system who is at the other end; `None` if the connection is lost already.
    pub fn peer(&self) -> Option<Peer> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr().ok().map(Peer::Tcp),
            Self::Unix(_) => Some(Peer::Unix),
        }
    }

    /// Asks the system for our own end.
    pub fn local(&self) -> Option<Peer> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(Peer::Tcp),
            Self::Unix(_) => Some(Peer::Unix),
        }
    }

    /// Asks the system for the process at the other end of a Unix socket.
    pub fn peer_process(&self) -> Option<i32> {
        match self {
            Self::Tcp(_) => None,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::Unix(unix) => {
                let credentials = rustix::net::sockopt::socket_peercred(unix).ok()?;
                Some(credentials.pid.as_raw_nonzero().get())
            }
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Self::Unix(_) => None,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buf),
            Self::Unix(unix) => unix.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(buf),
            Self::Unix(unix) => unix.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Socket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.register(registry, token, interests),
            Self::Unix(unix) => unix.register(registry, token, interests),
        }
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.reregister(registry, token, interests),
            Self::Unix(unix) => unix.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.deregister(registry),
            Self::Unix(unix) => unix.deregister(registry),
        }
    }
}
