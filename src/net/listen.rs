//! Listening on TCP addresses and on a Unix socket.
//!
//! Job: bind what `[general]` names, hand out accepted connections one by one, and stay calm when
//! the system cannot give us another one. It never reads from a connection.

use std::fs::{self, Permissions};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::config::General;

use super::stream::{Peer, Stream};

/// How long accepting pauses when the system is out of something; doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often a free port is looked for that is free on all addresses.
const FREE_PORT_ATTEMPTS: u32 = 16;

/// Something named in the configuration cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A name in `listen_addr` has no address.
    #[error("cannot resolve listen_addr {name:?}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// A TCP address cannot be bound.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on {path}")]
    Unix {
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the Unix socket.
    #[error("another process listens on {path}")]
    UnixInUse {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The path of the Unix socket is taken by a file that is no socket.
    #[error("{path} exists and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Neither an address nor a directory for a Unix socket is configured.
    #[error("nothing to listen on: listen_addr and unix_socket_dir are both empty")]
    Nothing,
}

/// Every socket that we accept clients on.
///
/// Dropping it closes them and removes the file of the Unix socket.
#[derive(Debug)]
pub struct Listeners {
    doors: Vec<Door>,
    /// The door that is looked at first: the one behind the last that let somebody in.
    next: usize,
    paused: Option<Pause>,
    port: u16,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: SocketFile },
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Listeners {
    /// Binds every address of `listen_addr` and the Unix socket; `*` is all of IPv4 and IPv6.
    ///
    /// Port 0 is any port that is free on all addresses. An address family that this machine does
    /// not have is forgiven where another address stands for the same name. Names are resolved
    /// here, which may block. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// See [`ListenError`]. Nothing stays bound then.
    pub fn bind(general: &General) -> Result<Self, ListenError> {
        let names = resolve(&general.listen_addr)?;
        let tcp = bind_all(&names, general)?;
        let port = tcp.first().map_or(general.listen_port, |(address, _)| address.port());
        let mut doors = Vec::new();
        for (address, socket) in tcp {
            let listener = TcpListener::from_std(socket.into())
                .map_err(|source| ListenError::Tcp { address, source })?;
            info!(%address, "listening");
            doors.push(Door::Tcp(listener));
        }
        // TCP first: of two processes with the same settings only one comes this far, so that they
        // cannot take each other's socket file for a stale one.
        if let Some(directory) = &general.unix_socket_dir {
            doors.push(bind_unix(directory.join(format!(".s.PGSQL.{port}")), general)?);
        }
        if doors.is_empty() {
            return Err(ListenError::Nothing);
        }
        Ok(Self { doors, next: 0, paused: None, port })
    }

    /// Waits for the next client.
    ///
    /// When the system has no descriptors or memory left, waits for up to a second before asking
    /// again; the clients stay in the system's queue. Cancel safe: a connection is taken only by
    /// the call that returns it.
    pub async fn accept(&mut self) -> (Stream, Peer) {
        loop {
            if let Some(pause) = self.paused {
                sleep_until(pause.until).await;
            }
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(accepted) => {
                    self.paused = None;
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {
                    debug!(%error, "connection lost before it was accepted");
                }
                Err(error) => self.pause(&error),
            }
        }
    }

    /// Returns the TCP addresses that are bound, with the port that was found for port 0.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let address = |door: &Door| match door {
            Door::Tcp(listener) => listener.local_addr().ok(),
            Door::Unix { .. } => None,
        };
        self.doors.iter().filter_map(address).collect()
    }

    /// Returns the path of the Unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        self.doors.iter().find_map(|door| match door {
            Door::Tcp(_) => None,
            Door::Unix { file, .. } => Some(file.path.as_path()),
        })
    }

    /// Returns the port of all addresses, which is also in the name of the Unix socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let count = self.doors.len();
        for step in 0..count {
            let at = (self.next + step) % count.max(1);
            let Some(door) = self.doors.get(at) else { continue };
            if let Poll::Ready(accepted) = door.poll_accept(cx) {
                self.next = at + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    fn pause(&mut self, error: &io::Error) {
        let (shortest, longest) = PAUSES;
        if self.paused.is_none() {
            warn!(%error, "cannot accept clients now");
        }
        let length = self.paused.map_or(shortest, |pause| (pause.length * 2).min(longest));
        self.paused = Some(Pause { until: Instant::now() + length, length });
    }
}

impl Door {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, address)| (Stream::Tcp(stream), Peer::Tcp(address))),
            Self::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (Stream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// Says whether only the connection that would have come next is lost.
///
/// Source: accept(2), "Error handling": Linux passes pending network errors of the new socket.
fn concerns_one_connection(error: &io::Error) -> bool {
    const OF_THE_CONNECTION: [Errno; 10] = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OF_THE_CONNECTION.contains(&errno))
}

/// Returns the addresses behind each name of `listen_addr`, each address once.
fn resolve(listen_addr: &[String]) -> Result<Vec<Vec<SocketAddr>>, ListenError> {
    let mut names = Vec::new();
    for name in listen_addr {
        let addresses = match name.as_str() {
            "*" => vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            ],
            name => {
                let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
                (bare.unwrap_or(name), 0)
                    .to_socket_addrs()
                    .map_err(|source| ListenError::Resolve { name: name.to_owned(), source })?
                    .collect()
            }
        };
        names.push(addresses);
    }
    Ok(names)
}

/// Binds all names to one port.
fn bind_all(
    names: &[Vec<SocketAddr>],
    general: &General,
) -> Result<Vec<(SocketAddr, Socket)>, ListenError> {
    let mut attempts = 1;
    loop {
        match bind_once(names, general) {
            // A port that was free on the first address may be taken on the second.
            Err(ListenError::Tcp { source, .. })
                if general.listen_port == 0
                    && source.kind() == ErrorKind::AddrInUse
                    && attempts < FREE_PORT_ATTEMPTS =>
            {
                attempts += 1;
            }
            result => return result,
        }
    }
}

fn bind_once(
    names: &[Vec<SocketAddr>],
    general: &General,
) -> Result<Vec<(SocketAddr, Socket)>, ListenError> {
    let is_wild = |ip: IpAddr| names.iter().flatten().any(|other| covers(other.ip(), ip));
    let mut bound: Vec<(SocketAddr, Socket)> = Vec::new();
    let mut port = general.listen_port;
    for addresses in names {
        let (mut has_one, mut missing) = (false, None);
        for address in addresses {
            let is_bound =
                bound.iter().any(|(other, _)| SocketAddr::new(other.ip(), 0) == *address);
            if is_bound || is_wild(address.ip()) {
                has_one = true;
                continue;
            }
            let mut address = *address;
            address.set_port(port);
            match bind_tcp(address, general) {
                Ok((address, socket)) => {
                    port = address.port();
                    bound.push((address, socket));
                    has_one = true;
                }
                Err(source) if addresses.len() > 1 && is_family_missing(&source) => {
                    debug!(%address, error = %source, "address is not available");
                    missing = Some(ListenError::Tcp { address, source });
                }
                Err(source) => return Err(ListenError::Tcp { address, source }),
            }
        }
        if let (false, Some(error)) = (has_one, missing) {
            return Err(error);
        }
    }
    Ok(bound)
}

/// Says whether listening on `wild` is listening on `ip` too.
fn covers(wild: IpAddr, ip: IpAddr) -> bool {
    wild.is_unspecified() && !ip.is_unspecified() && wild.is_ipv4() == ip.is_ipv4()
}

fn is_family_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Makes a listening socket; accepted connections inherit its options.
fn bind_tcp(address: SocketAddr, general: &General) -> io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // IPv4 clients come in by the IPv4 address, and only if it is named.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    set_options(&socket, general)?;
    socket.bind(&address.into())?;
    socket.listen(backlog(general))?;
    let bound = socket.local_addr()?.as_socket();
    Ok((bound.unwrap_or(address), socket))
}

fn set_options(socket: &Socket, general: &General) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if general.tcp_keepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(time) = general.tcp_keepidle {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = general.tcp_keepintvl {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = general.tcp_keepcnt {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(general.tcp_user_timeout)?;
    Ok(())
}

/// The system cuts off at its own limit (`net.core.somaxconn`).
fn backlog(general: &General) -> i32 {
    i32::try_from(general.listen_backlog).unwrap_or(i32::MAX)
}

fn bind_unix(path: PathBuf, general: &General) -> Result<Door, ListenError> {
    remove_stale(&path)?;
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        let file = SocketFile::new(&path)?;
        // Nobody can connect before `listen`, so nobody slips in under the permissions of umask.
        fs::set_permissions(&path, Permissions::from_mode(general.unix_socket_mode))?;
        socket.listen(backlog(general))?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Door::Unix { listener, file })
    };
    match bind() {
        Ok(door) => {
            info!(path = %path.display(), "listening");
            Ok(door)
        }
        Err(source) => Err(ListenError::Unix { path, source }),
    }
}

/// Removes the socket file of a process that is gone.
///
/// It asks by connecting: a file that refuses has no listener. The attempt never waits, not even
/// for a listener whose queue is full.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    probe.set_nonblocking(true).map_err(failed)?;
    let asked = probe.connect(&SockAddr::unix(path).map_err(failed)?);
    match asked.map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionRefused) => {
            info!(path = %path.display(), "removing a stale socket file");
            fs::remove_file(path).map_err(failed)
        }
        Err(ErrorKind::NotFound) => Ok(()),
        Ok(()) | Err(ErrorKind::WouldBlock) => {
            Err(ListenError::UnixInUse { path: path.to_owned() })
        }
        Err(kind) => Err(failed(kind.into())),
    }
}

/// The file of a Unix socket, removed on drop if it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdUnixListener;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;

    fn general(listen_addr: &[&str], directory: Option<&Path>) -> General {
        General {
            listen_addr: listen_addr.iter().map(|name| (*name).to_owned()).collect(),
            listen_port: 0,
            unix_socket_dir: directory.map(Path::to_owned),
            ..General::default()
        }
    }

    #[tokio::test]
    async fn clients_come_in_by_every_door() {
        let directory = tempfile::tempdir().unwrap();
        let general = general(&["127.0.0.1", "127.0.0.2"], Some(directory.path()));
        let mut listeners = Listeners::bind(&general).unwrap();
        let addresses = listeners.local_addresses();
        assert_eq!(addresses.len(), 2);
        assert!(addresses.iter().all(|address| address.port() == listeners.port()));
        let path = listeners.unix_path().unwrap().to_owned();
        assert_eq!(path, directory.path().join(format!(".s.PGSQL.{}", listeners.port())));
        for _ in 0..2 {
            for address in &addresses {
                let mut client = TcpStream::connect(address).await.unwrap();
                let (mut stream, peer) = listeners.accept().await;
                assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
                stream.write_all(b"x").await.unwrap();
                assert_eq!(client.read_u8().await.unwrap(), b'x');
            }
            let mut client = UnixStream::connect(&path).await.unwrap();
            let (mut stream, peer) = listeners.accept().await;
            assert_eq!(peer, Peer::Unix);
            stream.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn accepted_connections_have_the_options() {
        let mut general = general(&["localhost"], None);
        general.tcp_keepalive = true;
        general.tcp_keepidle = Some(Duration::from_secs(77));
        general.tcp_keepintvl = Some(Duration::from_secs(7));
        general.tcp_keepcnt = Some(3);
        general.tcp_user_timeout = Some(Duration::from_secs(9));
        let mut listeners = Listeners::bind(&general).unwrap();
        let _client = TcpStream::connect(listeners.local_addresses()[0]).await.unwrap();
        let (stream, _) = listeners.accept().await;
        let Stream::Tcp(stream) = stream else { unreachable!("no Unix socket") };
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
    }

    #[tokio::test]
    async fn the_wildcard_is_everything_and_swallows_the_rest() {
        let mut listeners = Listeners::bind(&general(&["127.0.0.1", "*"], None)).unwrap();
        let addresses = listeners.local_addresses();
        assert!(addresses.iter().all(|address| address.ip().is_unspecified()), "{addresses:?}");
        let to = (Ipv4Addr::LOCALHOST, listeners.port());
        let _client = TcpStream::connect(to).await.unwrap();
        listeners.accept().await;
    }

    #[tokio::test]
    async fn the_socket_file_comes_with_its_mode_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut general = general(&[], Some(directory.path()));
        general.unix_socket_mode = 0o710;
        general.listen_port = 6432;
        let listeners = Listeners::bind(&general).unwrap();
        assert_eq!((listeners.local_addresses(), listeners.port()), (vec![], 6432));
        let path = listeners.unix_path().unwrap().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o710);
        drop(listeners);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_stale_socket_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let mut general = general(&[], Some(directory.path()));
        general.listen_port = 6432;
        let path = directory.path().join(".s.PGSQL.6432");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Listeners::bind(&general).unwrap();
        let second = Listeners::bind(&general);
        assert!(matches!(second, Err(ListenError::UnixInUse { .. })), "{second:?}");
        // A file that somebody else put there in the meantime stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(first);
        assert!(path.exists());
        let third = Listeners::bind(&general);
        assert!(matches!(third, Err(ListenError::NotASocket { .. })), "{third:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_bound_is_named() {
        let error = |general: &General| Listeners::bind(general).unwrap_err();
        assert!(matches!(error(&general(&[], None)), ListenError::Nothing));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut general = general(&["127.0.0.1"], None);
        general.listen_port = taken.local_addr().unwrap().port();
        let text = error(&general).to_string();
        assert_eq!(text, format!("cannot listen on {}", taken.local_addr().unwrap()));
        general.listen_addr = vec!["no.such.host.invalid".to_owned()];
        let text = error(&general).to_string();
        assert_eq!(text, "cannot resolve listen_addr \"no.such.host.invalid\"");
        general.listen_addr = vec![];
        general.unix_socket_dir = Some(PathBuf::from("/no/such/directory"));
        assert!(matches!(error(&general), ListenError::Unix { .. }));
    }

    #[tokio::test]
    async fn without_descriptors_it_pauses_longer_each_time() {
        let mut listeners = Listeners::bind(&general(&["127.0.0.1"], None)).unwrap();
        let exhausted = io::Error::from(Errno::MFILE);
        assert!(!concerns_one_connection(&exhausted));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            listeners.pause(&exhausted);
            pauses.push(listeners.paused.unwrap().length.as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(concerns_one_connection(&Errno::CONNABORTED.into()));
    }
}
