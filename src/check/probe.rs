//! Logs in at one server, and asks it what it allows.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::auth::Credentials;
use crate::backend::ask::{AskError, Asker};
use crate::backend::connect::{self, ConnectError, Site};
use crate::backend::standing::{Fit, Standing};
use crate::config::{PoolSettings, Server};
use crate::fault::SqlState;
use crate::net::names::Names;
use crate::net::tls::Connectors;

/// LIMIT: how long one server may take where `server_connect_timeout` sets none.
const LIMIT: Duration = Duration::from_secs(15);

/// What is asked. Both settings can be read by everybody.
const QUERY: &str = "SELECT current_setting('max_connections'), \
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
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl ProbeError {
    /// Returns the code of what went wrong.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Connect(error) => error.fault().sqlstate,
            Self::Ask(AskError::Refused { sqlstate, .. }) => *sqlstate,
            Self::Ask(AskError::Lost(_) | AskError::NoAnswer) => SqlState::CONNECTION_FAILURE,
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
    let mut asker = Asker::new(opened).map_err(AskError::Lost)?;
    let rows = timeout(limit, asker.ask(QUERY, &[])).await.map_err(|_| AskError::NoAnswer)??;
    asker.close().await;
    let number = |at: usize| {
        let value = rows.first().and_then(|row| row.get(at)).and_then(Option::as_ref);
        let text = value.and_then(|value| std::str::from_utf8(value.expose()).ok());
        text.and_then(|text| text.parse().ok()).ok_or(AskError::NoAnswer)
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
