//! TCP and Unix sockets behind one type, in both planes.
//!
//! [`Stream`] belongs to the control plane (tokio); [`Stream::into_socket`] takes it out of tokio
//! and makes the [`Socket`] that a worker's own event loop reads and writes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
    /// Over a Unix socket.
    Unix(tokio::net::UnixStream),
}

impl Stream {
    /// Asks the system for our own end.
    pub fn local(&self) -> Option<Peer> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(Peer::Tcp),
            Self::Unix(_) => Some(Peer::Unix),
        }
    }

    /// Asks the system which user the process at the other end of a Unix socket ran as when it
    /// connected.
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(unix) => unix.peer_cred().ok().map(|credentials| credentials.uid()),
        }
    }

    /// Takes the connection out of tokio, for an event loop of the data plane.
    pub fn into_socket(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(tcp) => Socket::Tcp(mio::net::TcpStream::from_std(tcp.into_std()?)),
            Self::Unix(unix) => Socket::Unix(mio::net::UnixStream::from_std(unix.into_std()?)),
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
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
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
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
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
    /// Gives the connection to tokio; the other way round is [`Stream::into_socket`].
    ///
    /// # Errors
    /// There is no tokio runtime with I/O around us.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(tcp) => Stream::Tcp(tokio::net::TcpStream::from_std(tcp.into())?),
            Self::Unix(unix) => Stream::Unix(tokio::net::UnixStream::from_std(unix.into())?),
        })
    }

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
