//! A connection to a server, with TLS if it is wanted.
//!
//! Source: PostgreSQL manual, protocol-flow, "SSL Session Encryption".

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ConnectError, Site};
use crate::config::Host;
use crate::net::dial::dial_first;
use crate::net::{Place, Stream};
use crate::wire::startup;

/// Connects to a server, at the first of its places that answers; asks it for TLS if there is a
/// connector, and goes on without where both sides would rather not.
///
/// The answer is read alone: what a stranger may have put behind it is taken for records, and fails.
/// Cancel safe: yes, the connection is closed.
///
/// # Errors
/// [`ConnectError::Dial`], [`ConnectError::Lost`], [`ConnectError::NoTls`],
/// [`ConnectError::Handshake`].
pub(in crate::backend) async fn dial(site: Site<'_>) -> Result<(Stream, &Place), ConnectError> {
    let Site { server, places, connector, limit } = site;
    let lost = |source| ConnectError::Lost { source };
    let dialled = dial_first(places, limit).await;
    let (stream, place) = dialled.map_err(|source| ConnectError::Dial { source })?;
    let (Some(connector), Host::Tcp(name)) = (connector, &server.host) else {
        return Ok((stream, place));
    };
    let Stream::Tcp(mut tcp) = stream else { return Ok((stream, place)) };
    let mut request = Vec::new();
    startup::write_ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(lost)?;
    match tcp.read_u8().await.map_err(lost)? {
        b'S' => {
            let connected = connector.connect(tcp, name).await;
            let tls = connected.map_err(|source| ConnectError::Handshake { source })?;
            Ok((Stream::Tls(Box::new(tls)), place))
        }
        b'N' if connector.is_required() => Err(ConnectError::NoTls),
        b'N' => Ok((Stream::Tcp(tcp), place)),
        // An error: a server from before there was TLS, or one with no room for us.
        tag => Err(ConnectError::Unexpected { tag }),
    }
}
