//! Asking a server to cancel what one of its backends runs.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::{CancelKey, ConnectError, dial};
use crate::config::Host;
use crate::net::tls::Connector;
use crate::wire::startup;

/// LIMIT: bytes a server may send back; PostgreSQL sends none.
const ANSWER_BYTES_MAX: usize = 4096;

/// Sends a `CancelRequest` on a connection of its own and waits until the server closes it.
///
/// Only then has the signal been sent, so only then may the backend be given to somebody else.
/// The key is as good as a password, so it goes over TLS wherever the backend's own login did.
/// Whether anything was running, the server does not say. `limit` bounds the whole.
/// Cancel safe: no, because a request that may have been sent is forgotten.
///
/// # Errors
/// Those of dialling; `TimedOut` after `limit`; `InvalidInput` if the server gave no key;
/// `InvalidData` if it sends something back.
///
/// Source: PostgreSQL manual, protocol-flow, "Canceling Requests in Progress".
pub async fn cancel(
    host: &Host,
    port: u16,
    key: &CancelKey,
    connector: Option<&Connector>,
    limit: Option<Duration>,
) -> io::Result<()> {
    if key.secret.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match limit {
        Some(limit) => timeout(limit, request(host, port, key, connector)).await?,
        None => request(host, port, key, connector).await,
    }
}

async fn request(
    host: &Host,
    port: u16,
    key: &CancelKey,
    connector: Option<&Connector>,
) -> io::Result<()> {
    let mut stream = dial(host, port, connector).await.map_err(|error| {
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
    use tokio::net::TcpListener;

    use super::*;

    fn key() -> CancelKey {
        CancelKey { pid: 7, secret: vec![1, 2, 3, 4] }
    }

    async fn listener() -> (TcpListener, Host, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, Host::Tcp("127.0.0.1".to_owned()), port)
    }

    #[tokio::test]
    async fn sends_the_key_and_returns_when_the_server_closes() {
        let (listener, host, port) = listener().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut packet = [0; 16];
            stream.read_exact(&mut packet).await.unwrap();
            packet
        };
        let key = key();
        let (outcome, packet) =
            tokio::join!(cancel(&host, port, &key, None, Some(Duration::from_secs(10))), server);
        outcome.unwrap();
        assert_eq!(packet, *b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04");
    }

    #[tokio::test]
    async fn a_server_that_does_not_close_is_given_up() {
        let (_listener, host, port) = listener().await;
        let limit = Some(Duration::from_millis(50));
        let error = cancel(&host, port, &key(), None, limit).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_server_that_talks_is_given_up() {
        let (listener, host, port) = listener().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(&[0; 2 * ANSWER_BYTES_MAX]).await;
            let _ = stream.read(&mut [0; 64]).await;
            stream
        };
        let key = key();
        let (outcome, _) =
            tokio::join!(cancel(&host, port, &key, None, Some(Duration::from_secs(10))), server);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn without_a_key_nothing_is_sent() {
        let key = CancelKey { pid: 0, secret: Vec::new() };
        let error =
            cancel(&Host::Tcp("127.0.0.1".to_owned()), 1, &key, None, None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
