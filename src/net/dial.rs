//! Connecting to a server: resolve, try every address, set socket options.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::Stream;
use crate::config::Host;

/// Time for one address if there are others behind it: one that swallows packets must not use up
/// the time in which another would have answered.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before a Unix socket whose queue is full is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// LIMIT: tries at a Unix socket whose queue is full; about a second.
const FULL_QUEUE_TRIES: u32 = 100;

/// Connects to `host`, over TCP or through the Unix socket `.s.PGSQL.<port>` in its directory.
///
/// A name is resolved and its addresses are tried in the resolver's order. TCP connections send at
/// once (no delay) and notice a vanished peer (keepalive). The caller bounds the whole.
/// Cancel safe: yes, a half-made connection is dropped.
///
/// # Errors
/// That of the last address tried; `NotFound` if the name has none.
pub async fn dial(host: &Host, port: u16) -> io::Result<Stream> {
    match host {
        Host::Tcp(name) => dial_tcp(name, port).await.map(Stream::Tcp),
        Host::Unix(directory) => dial_unix(directory, port).await.map(Stream::Unix),
    }
}

async fn dial_tcp(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    let mut addresses = tokio::net::lookup_host((name, port)).await?.peekable();
    while let Some(address) = addresses.next() {
        let attempt = TcpStream::connect(address);
        let outcome = if addresses.peek().is_some() {
            timeout(ADDRESS_TIMEOUT, attempt).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
        } else {
            attempt.await
        };
        match outcome.and_then(|tcp| prepared(tcp, address)) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn prepared(tcp: TcpStream, address: SocketAddr) -> io::Result<TcpStream> {
    // A port of the ephemeral range with nobody listening can be connected to itself (TCP
    // simultaneous open); that is nobody's server.
    if tcp.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    tcp.set_nodelay(true)?;
    SockRef::from(&tcp).set_keepalive(true)?;
    Ok(tcp)
}

async fn dial_unix(directory: &Path, port: u16) -> io::Result<UnixStream> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    // Unlike TCP, a Unix socket with a full queue does not let us wait in the kernel.
    for _ in 1..FULL_QUEUE_TRIES {
        match UnixStream::connect(&path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(FULL_QUEUE_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
    UnixStream::connect(&path).await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn tcp_connections_have_their_options() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let Stream::Tcp(tcp) = dial(&Host::Tcp("127.0.0.1".to_owned()), port).await.unwrap() else {
            unreachable!("a TCP host gives a TCP stream");
        };
        assert!(tcp.nodelay().unwrap());
        assert!(SockRef::from(&tcp).keepalive().unwrap());
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        // `localhost` may resolve to ::1 first, where nobody listens.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        dial(&Host::Tcp("localhost".to_owned()), port).await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_port_is_an_error() {
        let port = {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = dial(&Host::Tcp("127.0.0.1".to_owned()), port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn unix_sockets_are_found_by_port() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::Unix(directory.path().to_owned());
        let error = dial(&host, 5432).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let path = directory.path().join(".s.PGSQL.5432");
        let _listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        assert!(matches!(dial(&host, 5432).await, Ok(Stream::Unix(_))));
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.5432");
        let address = socket2::SockAddr::unix(path).unwrap();
        let listener =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let host = Host::Unix(directory.path().to_owned());
        let _first = dial(&host, 5432).await.unwrap();
        // Both run on this thread, so the second has met the full queue before it is emptied.
        let (second, accepted) =
            tokio::join!(dial(&host, 5432), async { listener.accept().map(drop) });
        accepted.unwrap();
        second.unwrap();
    }
}
