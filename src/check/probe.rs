//! Logs in at one server, and asks it what it allows.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::auth::Credentials;
use crate::backend::connect::{self, ConnectError, Opened, Site};
use crate::backend::standing::{Fit, Standing};
use crate::config::{PoolSettings, Server};
use crate::fault::SqlState;
use crate::net::names::Names;
use crate::net::tls::Connectors;
use crate::wire::cursor::Cursor;
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::backend as tag;
use crate::wire::{backend, encode};

/// LIMIT: how long one server may take where `server_connect_timeout` sets none.
const LIMIT: Duration = Duration::from_secs(15);

/// LIMIT: bytes of the answer; two short columns have about 100.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is asked. Both settings can be read by everybody.
const QUERY: &[u8] = b"SELECT current_setting('max_connections'), \
    current_setting('superuser_reserved_connections')";

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its version, as it reports it.
    pub version: String,
    /// What it is, if it says so, and whether that is what the database wants.
    pub standing: Option<(Standing, Fit)>,
    /// Connections it allows.
    pub connections_max: u32,
    /// Those of them that ordinary users cannot have.
    pub reserved: u32,
    /// From dialling to the end of the login.
    pub login: Duration,
    /// One query.
    pub query: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No login.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The login worked, the query did not.
    #[error("{0}")]
    Refused(String, SqlState),
    /// The login worked, the query got no proper answer.
    #[error("no proper answer to a query")]
    NoAnswer,
}

impl ProbeError {
    /// Returns the code of what went wrong.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Connect(error) => error.fault().sqlstate,
            Self::Refused(_, sqlstate) => *sqlstate,
            Self::NoAnswer => SqlState::CONNECTION_FAILURE,
        }
    }
}

/// Logs in with what is stored, and asks.
///
/// Bounded by twice `server_connect_timeout`, or 15 s where there is none. Cancel safe: the
/// connection is closed.
///
/// # Errors
/// See [`ProbeError`].
pub async fn probe(settings: PoolSettings, server: &Server) -> Result<Answer, ProbeError> {
    let limit = settings.server_connect_timeout.unwrap_or(LIMIT);
    let credentials = Credentials { stored: settings.password.clone(), ..Credentials::default() };
    let began = Instant::now();
    let connector =
        Connectors::default().of(&server.host, &settings.tls).map_err(ConnectError::Setup)?;
    let resolved = Names::default().places(server, Duration::ZERO).await;
    let places = resolved.map_err(|source| ConnectError::Dial { source })?;
    let connector = connector.as_ref();
    let site = Site { server, places: &places, connector, limit: Some(limit) };
    let opened = connect::open(site, &settings, &credentials).await?;
    let login = began.elapsed();
    let version = opened.parameters.iter().find(|(name, _)| name == b"server_version");
    let version = version.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
    let began = Instant::now();
    let standing = opened.standing.map(|is| (is, Standing::fit(Some(is), settings.attrs)));
    let row = timeout(limit, ask(opened)).await.map_err(|_| ProbeError::NoAnswer)??;
    let number = |at: usize| {
        let text = row.get(at).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse().ok()).ok_or(ProbeError::NoAnswer)
    };
    Ok(Answer {
        version: version.unwrap_or_else(|| "unknown".to_owned()),
        standing,
        connections_max: number(0)?,
        reserved: number(1)?,
        login,
        query: began.elapsed(),
    })
}

/// Runs the query and returns its row.
async fn ask(opened: Opened) -> Result<Vec<Vec<u8>>, ProbeError> {
    let lost = |_| ProbeError::NoAnswer;
    let mut stream = opened.raw.into_stream().map_err(lost)?;
    let mut out = Vec::new();
    encode::query(&mut out, QUERY);
    stream.write_all(&out).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut answer = opened.unread;
    let (mut row, mut at) = (Vec::new(), 0);
    loop {
        while let Some(rest) = answer.get(at..).filter(|rest| !rest.is_empty()) {
            let limit = u32::try_from(ANSWER_BYTES_MAX).unwrap_or(u32::MAX);
            let Some(header) = header::read(rest, limit).map_err(|_| ProbeError::NoAnswer)? else {
                break;
            };
            let Some(body) = rest.get(HEADER_BYTES..header.message_bytes()) else { break };
            at += header.message_bytes();
            match header.tag {
                tag::DATA_ROW => row = columns(body).ok_or(ProbeError::NoAnswer)?,
                tag::ERROR_RESPONSE => {
                    let error = backend::error_response(body);
                    let message = String::from_utf8_lossy(error.message).into_owned();
                    return Err(ProbeError::Refused(message, SqlState(error.sqlstate)));
                }
                tag::READY_FOR_QUERY => {
                    let mut out = Vec::new();
                    encode::terminate(&mut out);
                    // Best effort: it has said all we need.
                    let _ = stream.write_all(&out).await;
                    return Ok(row);
                }
                _ => {}
            }
        }
        if answer.len() >= ANSWER_BYTES_MAX
            || stream.read_buf(&mut answer).await.map_err(lost)? == 0
        {
            return Err(ProbeError::NoAnswer);
        }
    }
}

/// Reads the columns of a DataRow; NULL is empty.
fn columns(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cursor = Cursor::new(body);
    let count = usize::try_from(cursor.i16().ok()?).ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = cursor.i32().ok()?;
        columns.push(match usize::try_from(length) {
            Ok(length) => cursor.bytes(length).ok()?.to_vec(),
            Err(_) => Vec::new(),
        });
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_within_their_bounds() {
        let row = columns(b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff").unwrap();
        assert_eq!(row, [b"ab".to_vec(), Vec::new()]);
        for bad in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x09ab", b"\xff\xff\0\0\0\x01a"] {
            assert_eq!(columns(bad), None, "{bad:?}");
        }
    }
}
