//! Binding: names to addresses, addresses to sockets, and the file of the Unix socket.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, info, warn};

use super::{Door, ListenError};
use crate::config::General;

/// How often a free port is looked for that is free on all addresses.
const FREE_PORT_ATTEMPTS: u32 = 16;

/// What doors are bound for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be used.
    Use,
    /// To see whether they could be: nobody can connect to what is bound.
    Trial,
}

/// A door of another configuration.
#[derive(Debug)]
pub(super) enum Bound {
    /// The door of this number stays.
    Kept(usize),
    /// A new address.
    Tcp { socket: Socket, address: SocketAddr },
    /// A new path.
    Unix { socket: Socket, file: SocketFile },
    /// A new path that was not bound, because this is a trial.
    Possible(PathBuf),
}

impl Bound {
    /// Names what is new.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Kept(_) => None,
            Self::Tcp { address, .. } => Some(address.to_string()),
            Self::Unix { file: SocketFile { path, .. }, .. } | Self::Possible(path) => {
                Some(path.display().to_string())
            }
        }
    }
}

/// Returns the addresses behind each name of `listen_addr`, each address once.
pub(super) fn resolve(listen_addr: &[String]) -> Result<Vec<Vec<SocketAddr>>, ListenError> {
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

/// Binds all names to one port, and the Unix socket that has it in its name. What is open already
/// is kept; port 0 is the port in use, if there is one.
pub(super) fn bind_all(
    names: &[Vec<SocketAddr>],
    general: &General,
    open: &[Door],
    port_in_use: u16,
    purpose: Purpose,
) -> Result<(Vec<Bound>, u16), ListenError> {
    let port = if general.listen_port == 0 { port_in_use } else { general.listen_port };
    let mut attempts = 1;
    let (mut bound, port) = loop {
        match bind_once(names, general, (open, purpose), port) {
            // A port that was free on the first address may be taken on the second.
            Err(ListenError::Tcp { source, .. })
                if port == 0
                    && source.kind() == ErrorKind::AddrInUse
                    && attempts < FREE_PORT_ATTEMPTS =>
            {
                attempts += 1;
            }
            result => break result?,
        }
    };
    // TCP first: of two processes with the same settings only one comes this far, so that they
    // cannot take each other's socket file for a stale one.
    if let Some(directory) = &general.unix_socket_dir {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let is_there = |door: &Door| matches!(door, Door::Unix { file, .. } if file.path == path);
        match open.iter().position(is_there) {
            Some(at) => bound.push(Bound::Kept(at)),
            None if purpose == Purpose::Use => bound.push(bind_unix(&path, general)?),
            None => {
                is_stale(&path)?;
                bound.push(Bound::Possible(path));
            }
        }
    }
    Ok((bound, port))
}

fn bind_once(
    names: &[Vec<SocketAddr>],
    general: &General,
    (open, purpose): (&[Door], Purpose),
    mut port: u16,
) -> Result<(Vec<Bound>, u16), ListenError> {
    let is_wild = |ip: IpAddr| names.iter().flatten().any(|other| covers(other.ip(), ip));
    let mut bound = Vec::new();
    let mut addresses_bound: Vec<IpAddr> = Vec::new();
    for addresses in names {
        let (mut has_one, mut missing) = (false, None);
        for address in addresses {
            if addresses_bound.contains(&address.ip()) || is_wild(address.ip()) {
                has_one = true;
                continue;
            }
            let mut address = *address;
            address.set_port(port);
            let is_there =
                |door: &Door| matches!(door, Door::Tcp { address: known, .. } if *known == address);
            let result = match open.iter().position(is_there) {
                Some(at) => Ok((Bound::Kept(at), port)),
                None => bind_beside(address, general, open, purpose),
            };
            match result {
                Ok((door, found)) => {
                    port = found;
                    bound.push(door);
                    addresses_bound.push(address.ip());
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
    Ok((bound, port))
}

/// Binds an address, also where a door of ours is in its way that is still in use: a wildcard and
/// an address that it covers.
fn bind_beside(
    address: SocketAddr,
    general: &General,
    open: &[Door],
    purpose: Purpose,
) -> io::Result<(Bound, u16)> {
    let in_its_way = open.iter().filter_map(|door| match door {
        Door::Tcp { listener, address: known }
            if known.port() == address.port()
                && (covers(known.ip(), address.ip()) || covers(address.ip(), known.ip())) =>
        {
            Some(SockRef::from(listener))
        }
        Door::Tcp { .. } | Door::Unix { .. } => None,
    });
    let in_its_way: Vec<_> = in_its_way.collect();
    // Linux lets sockets of one user share a port if all of them say so, also afterwards. Nobody
    // else can join without saying so too.
    let shares = !in_its_way.is_empty();
    for socket in in_its_way {
        socket.set_reuse_port(true)?;
    }
    let (socket, address) = bind_tcp(address, general, shares)?;
    if purpose == Purpose::Use {
        socket.listen(backlog(general))?;
    }
    Ok((Bound::Tcp { socket, address }, address.port()))
}

/// Says whether listening on `wild` is listening on `ip` too.
fn covers(wild: IpAddr, ip: IpAddr) -> bool {
    wild.is_unspecified() && !ip.is_unspecified() && wild.is_ipv4() == ip.is_ipv4()
}

fn is_family_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Binds a socket; accepted connections inherit its options.
fn bind_tcp(
    address: SocketAddr,
    general: &General,
    shares_port: bool,
) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // IPv4 clients come in by the IPv4 address, and only if it is named.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares_port)?;
    socket.set_nonblocking(true)?;
    set_options(&SockRef::from(&socket), general)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket();
    Ok((socket, bound.unwrap_or(address)))
}

fn set_options(socket: &SockRef<'_>, general: &General) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(general.tcp_keepalive)?;
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

/// Changes the options of a socket that listens.
///
/// LIMIT: a keep-alive time that is not given any more stays as it was until the next start; the
/// system has no way to say "your own choice again".
pub(super) fn change_tcp(listener: &TcpListener, general: &General) -> io::Result<()> {
    let socket = SockRef::from(listener);
    set_options(&socket, general)?;
    socket.listen(backlog(general))
}

/// Changes the options of a socket that listens, and the mode of its file.
pub(super) fn change_unix(
    listener: &UnixListener,
    file: &SocketFile,
    general: &General,
) -> io::Result<()> {
    fs::set_permissions(&file.path, Permissions::from_mode(general.unix_socket_mode))?;
    SockRef::from(listener).listen(backlog(general))
}

/// The system cuts off at its own limit (`net.core.somaxconn`).
fn backlog(general: &General) -> i32 {
    i32::try_from(general.listen_backlog).unwrap_or(i32::MAX)
}

fn bind_unix(path: &Path, general: &General) -> Result<Bound, ListenError> {
    remove_stale(path)?;
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile::new(path)?;
        // Nobody can connect before `listen`, so nobody slips in under the permissions of umask.
        fs::set_permissions(path, Permissions::from_mode(general.unix_socket_mode))?;
        socket.listen(backlog(general))?;
        Ok(Bound::Unix { socket, file })
    };
    bind().map_err(|source| ListenError::Unix { path: path.to_owned(), source })
}

/// Removes the socket file of a process that is gone.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    if is_stale(path)? {
        info!(path = %path.display(), "removing a stale socket file");
        fs::remove_file(path)
            .map_err(|source| ListenError::Unix { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// Says whether the path is taken by the socket file of a process that is gone.
///
/// It asks by connecting: a file that refuses has no listener. The attempt never waits, not even
/// for a listener whose queue is full.
///
/// # Errors
/// The path is taken by something else.
fn is_stale(path: &Path) -> Result<bool, ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    probe.set_nonblocking(true).map_err(failed)?;
    let asked = probe.connect(&SockAddr::unix(path).map_err(failed)?);
    match asked.map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionRefused) => Ok(true),
        Err(ErrorKind::NotFound) => Ok(false),
        Ok(()) | Err(ErrorKind::WouldBlock) => {
            Err(ListenError::UnixInUse { path: path.to_owned() })
        }
        Err(kind) => Err(failed(kind.into())),
    }
}

/// The file of a Unix socket, removed on drop if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

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
