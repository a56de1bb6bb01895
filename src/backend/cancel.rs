//! Asking a server to cancel what one of its backends runs.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::{CancelKey, ConnectError, Site, dial};
use crate::wire::startup;

/// LIMIT: bytes a server may send back; PostgreSQL sends none.
const ANSWER_BYTES_MAX: usize = 4096;

/// Sends a `CancelRequest` on a connection of its own and waits until the server closes it.
///
/// Only then has the signal been sent, so only then may the backend be given to somebody else.
/// The key is as good as a password, so it goes over TLS wherever the backend's own login did.
/// Whether anything was running, the server does not say. `site` must have the one place where the
/// backend is: a name may stand for several servers.
/// Cancel safe: no, because a request that may have been sent is forgotten.
///
/// # Errors
/// Those of dialling; `TimedOut` after `limit`; `InvalidInput` if the server gave no key;
/// `InvalidData` if it sends something back.
///
/// Source: PostgreSQL manual, protocol-flow, "Canceling Requests in Progress".
pub async fn cancel(site: Site<'_>, key: &CancelKey) -> io::Result<()> {
    if key.secret.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match site.limit {
        Some(limit) => timeout(limit, request(site, key)).await?,
        None => request(site, key).await,
    }
}

async fn request(site: Site<'_>, key: &CancelKey) -> io::Result<()> {
    let (mut stream, _) = dial(site).await.map_err(|error| {
        if let ConnectError::Dial { source } | ConnectError::Lost { source } = error {
            return source;
        }
        io::Error::other(error)
    })?;
    let mut packet = Vec::new();
    startup::write_cancel(&mut packet, key.pid, &key.secret);
    stream.write_all(&packet).await?;
    stream.flush().await?;
    let mut answer = [0; 256];
    let mut answered = 0;
    while answered < ANSWER_BYTES_MAX {
        match stream.read(&mut answer).await {
            Ok(0) => return Ok(()),
            Ok(count) => answered += count,
            // The server closed without reading what it need not read; it has acted all the same.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Host, Server};
    use crate::net::Place;

    fn key() -> CancelKey {
        CancelKey { pid: 7, secret: vec![1, 2, 3, 4] }
    }

    async fn listener() -> (TcpListener, Server, [Place; 1]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server { host: Host::Tcp("127.0.0.1".to_owned()), port: address.port() };
        (listener, server, [Place::Tcp(address)])
    }

    fn site<'a>(server: &'a Server, places: &'a [Place], limit: Duration) -> Site<'a> {
        Site { server, places, connector: None, limit: Some(limit) }
    }

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn sends_the_key_and_returns_when_the_server_closes() {
        let (listener, name, places) = listener().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut packet = [0; 16];
            stream.read_exact(&mut packet).await.unwrap();
            packet
        };
        let key = key();
        let (outcome, packet) = tokio::join!(cancel(site(&name, &places, LONG), &key), server);
        outcome.unwrap();
        assert_eq!(packet, *b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04");
    }

    #[tokio::test]
    async fn a_server_that_does_not_close_is_given_up() {
        let (_listener, name, places) = listener().await;
        let site = site(&name, &places, Duration::from_millis(50));
        let error = cancel(site, &key()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_server_that_talks_is_given_up() {
        let (listener, name, places) = listener().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(&[0; 2 * ANSWER_BYTES_MAX]).await;
            let _ = stream.read(&mut [0; 64]).await;
            stream
        };
        let key = key();
        let (outcome, _) = tokio::join!(cancel(site(&name, &places, LONG), &key), server);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn without_a_key_nothing_is_sent() {
        let key = CancelKey { pid: 0, secret: Vec::new() };
        let name = Server { host: Host::Tcp("127.0.0.1".to_owned()), port: 1 };
        let error = cancel(site(&name, &[], LONG), &key).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
