//! Real sockets on loopback addresses and in temporary folders.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;

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
    let listeners = Listeners::bind(&general).unwrap();
    let addresses = listeners.local_addresses();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.iter().all(|address| address.port() == listeners.port()));
    let path = listeners.unix_path().unwrap();
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
    let listeners = Listeners::bind(&general).unwrap();
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
    let listeners = Listeners::bind(&general(&["127.0.0.1", "*"], None)).unwrap();
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
    let path = listeners.unix_path().unwrap();
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
    let listeners = Listeners::bind(&general(&["127.0.0.1"], None)).unwrap();
    let exhausted = io::Error::from(Errno::MFILE);
    assert!(!concerns_one_connection(&exhausted));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        listeners.state().pause(&exhausted);
        pauses.push(listeners.state().paused.unwrap().length.as_millis());
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    assert!(concerns_one_connection(&Errno::CONNABORTED.into()));
}

/// Whether somebody listens there.
fn is_open(address: impl std::net::ToSocketAddrs) -> bool {
    std::net::TcpStream::connect(address).is_ok()
}

#[tokio::test]
async fn another_configuration_touches_only_what_changes() {
    let directory = tempfile::tempdir().unwrap();
    let mut general = general(&["127.0.0.1", "127.0.0.2"], Some(directory.path()));
    let listeners = Listeners::bind(&general).unwrap();
    let port = listeners.port();
    let path = listeners.unix_path().unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    general.listen_addr = vec!["127.0.0.3".to_owned(), "127.0.0.1".to_owned()];
    general.unix_socket_mode = 0o700;
    let expected = Rebound {
        opened: vec![format!("127.0.0.3:{port}")],
        closed: vec![format!("127.0.0.2:{port}")],
    };
    assert_eq!(listeners.try_out(&general).unwrap(), expected);
    assert!(!is_open(("127.0.0.3", port)), "a trial opens nothing");
    // They come to a door that stays, and to one that goes.
    let _stays = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let goes = TcpStream::connect(("127.0.0.2", port)).await.unwrap();
    let rebind = listeners.prepare(&general).unwrap();
    assert_eq!(listeners.apply(rebind), expected);
    let mut peers = [listeners.accept().await.1, listeners.accept().await.1];
    peers.sort_by_key(ToString::to_string);
    assert!(peers.contains(&Peer::Tcp(goes.local_addr().unwrap())), "{peers:?}");
    assert!(is_open(("127.0.0.3", port)) && !is_open(("127.0.0.2", port)));
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.ino(), metadata.mode() & 0o7777), (inode, 0o700));
    let rebind = listeners.prepare(&general).unwrap();
    assert_eq!(listeners.apply(rebind), Rebound::default());
}

#[tokio::test]
async fn a_wildcard_and_an_address_take_turns_on_one_port() {
    let mut general = general(&["127.0.0.1"], None);
    let listeners = Listeners::bind(&general).unwrap();
    let port = listeners.port();
    for names in [["*"], ["127.0.0.1"], ["0.0.0.0"], ["127.0.0.2"]] {
        general.listen_addr = names.map(str::to_owned).to_vec();
        let rebind = listeners.prepare(&general).unwrap();
        listeners.apply(rebind);
        assert_eq!(listeners.port(), port);
        assert_eq!(is_open(("127.0.0.1", port)), names != ["127.0.0.2"], "{names:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_bound_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut general = general(&["127.0.0.1"], Some(directory.path()));
    let listeners = Listeners::bind(&general).unwrap();
    let (before, path) = (listeners.local_addresses(), listeners.unix_path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    general.listen_port = taken.local_addr().unwrap().port();
    assert!(listeners.try_out(&general).is_err());
    let error = listeners.prepare(&general).unwrap_err();
    assert!(matches!(error, ListenError::Tcp { .. }), "{error:?}");
    // The address could be had, the path could not.
    general.listen_port = 0;
    general.listen_addr = vec!["127.0.0.2".to_owned()];
    general.unix_socket_dir = Some(PathBuf::from("/no/such/directory"));
    assert!(listeners.prepare(&general).is_err());
    assert!(!is_open(("127.0.0.2", listeners.port())), "it is given back");
    assert_eq!((listeners.local_addresses(), listeners.unix_path()), (before, path));
    assert!(is_open(listeners.local_addresses()[0]));
}

#[tokio::test]
async fn another_port_moves_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut general = general(&["127.0.0.1"], Some(directory.path()));
    let listeners = Listeners::bind(&general).unwrap();
    let old = (listeners.local_addresses()[0], listeners.unix_path().unwrap());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    general.listen_port = free.local_addr().unwrap().port();
    drop(free);
    let rebind = listeners.prepare(&general).unwrap();
    listeners.apply(rebind);
    assert_eq!(listeners.port(), general.listen_port);
    assert!(is_open(("127.0.0.1", general.listen_port)) && !is_open(old.0));
    assert!(!old.1.exists() && listeners.unix_path().unwrap().exists());
}

#[tokio::test]
async fn a_shutdown_leaves_the_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let general = general(&["127.0.0.1"], Some(directory.path()));
    let listeners = Listeners::bind(&general).unwrap();
    let address = listeners.local_addresses()[0];
    let late = TcpStream::connect(address).await.unwrap();
    listeners.close_tcp();
    assert_eq!(listeners.accept().await.1, Peer::Tcp(late.local_addr().unwrap()));
    assert!(!is_open(address));
    // A reload does not open it again.
    let rebind = listeners.prepare(&general).unwrap();
    assert_eq!(listeners.apply(rebind), Rebound::default());
    assert!(!is_open(address));
    let path = listeners.unix_path().unwrap();
    let _client = UnixStream::connect(&path).await.unwrap();
    assert_eq!(listeners.accept().await.1, Peer::Unix);
    listeners.close();
    assert!(!path.exists());
}
