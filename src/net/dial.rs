//! Connecting to a server: resolve, try every address, set socket options.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::Stream;
use crate::config::Host;

/// Most time for one address if there are others behind it.
const PLACE_LIMIT: Duration = Duration::from_secs(3);

/// Pause before a Unix socket whose queue is full is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// LIMIT: tries at a Unix socket whose queue is full; about a second.
const FULL_QUEUE_TRIES: u32 = 100;

/// A place where a server may be reached: one address of its host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Through the Unix socket of this path.
    Unix(PathBuf),
}

impl Place {
    /// Returns the place in a directory of Unix sockets.
    pub fn in_directory(directory: &Path, port: u16) -> Self {
        Self::Unix(directory.join(format!(".s.PGSQL.{port}")))
    }
}

/// Connects to `host`, over TCP or through the Unix socket `.s.PGSQL.<port>` in its directory.
///
/// A name is resolved and its addresses are tried in the resolver's order. See [`dial_first`]; the
/// caller bounds the whole.
/// Cancel safe: yes, a half-made connection is dropped.
///
/// # Errors
/// That of the last address tried; `NotFound` if the name has none.
pub async fn dial(host: &Host, port: u16) -> io::Result<Stream> {
    let places: Vec<Place> = match host {
        Host::Tcp(name) => {
            tokio::net::lookup_host((name.as_str(), port)).await?.map(Place::Tcp).collect()
        }
        Host::Unix(directory) => vec![Place::in_directory(directory, port)],
    };
    dial_first(&places, None).await.map(|(stream, _)| stream)
}

/// Connects to the first of `places` that answers; says which that was.
///
/// One that has others behind it has at most 3 s, and its part of `limit`, so that one that swallows
/// packets does not use up the time in which another would answer. TCP connections send at once (no
/// delay) and notice a vanished peer (keepalive).
/// Cancel safe: yes, a half-made connection is dropped.
///
/// # Errors
/// That of the last place; `NotFound` if there is none.
pub async fn dial_first(places: &[Place], limit: Option<Duration>) -> io::Result<(Stream, &Place)> {
    let count = u32::try_from(places.len()).unwrap_or(u32::MAX).max(1);
    let part = limit.map_or(PLACE_LIMIT, |limit| (limit / count).min(PLACE_LIMIT));
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    let mut rest = places.iter().peekable();
    while let Some(place) = rest.next() {
        let attempt = dial_place(place);
        let outcome = if rest.peek().is_some() {
            timeout(part, attempt).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
        } else {
            attempt.await
        };
        match outcome {
            Ok(stream) => return Ok((stream, place)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects to one place, as [`dial_first`] does.
///
/// # Errors
/// The system's.
pub async fn dial_place(place: &Place) -> io::Result<Stream> {
    match place {
        Place::Tcp(address) => {
            prepared(TcpStream::connect(address).await?, *address).map(Stream::Tcp)
        }
        Place::Unix(path) => dial_unix(path).await.map(Stream::Unix),
    }
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

async fn dial_unix(path: &Path) -> io::Result<UnixStream> {
    // Unlike TCP, a Unix socket with a full queue does not let us wait in the kernel.
    for _ in 1..FULL_QUEUE_TRIES {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(FULL_QUEUE_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
    UnixStream::connect(path).await
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
    async fn the_first_place_that_answers_is_named() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            other.local_addr().unwrap()
        };
        let missing = Place::in_directory(Path::new("/nowhere"), 5432);
        let places = [missing, Place::Tcp(closed), Place::Tcp(open)];
        let (_, place) = dial_first(&places, None).await.unwrap();
        assert_eq!(*place, Place::Tcp(open));
        let error = dial_first(&[], None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_place_that_does_not_answer_has_its_part_of_the_time() {
        // A queue that is full lets nobody in.
        let deaf =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let Place::Unix(path) = Place::in_directory(directory.path(), 1) else { unreachable!() };
        deaf.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        deaf.listen(0).unwrap();
        let _filled = UnixStream::connect(&path).await.unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let places = [Place::Unix(path), Place::Tcp(listener.local_addr().unwrap())];
        let began = std::time::Instant::now();
        let limit = Duration::from_millis(200);
        let (_, place) = timeout(limit, dial_first(&places, Some(limit))).await.unwrap().unwrap();
        assert_eq!(place, &places[1]);
        assert!(began.elapsed() >= limit / 2);
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
