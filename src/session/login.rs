//! The login of a client: from the accepted socket to a session that may begin.
//!
//! Job: let in at most `max_client_conn`, prove that the client is who it says, and only then tell
//! whether its database exists. The greeting is composed here but not sent: what follows
//! `AuthenticationOk` (parameters, cancel key, `ReadyForQuery`) depends on the pool. No backend is
//! touched here.
//!
//! A user that does not exist goes through the same exchange as one with a wrong password and is
//! told the same.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info, info_span};

use crate::auth::Learned;
use crate::config::Config;
use crate::fault::{Fault, SqlState};
use crate::net::{Peer, Stream};
use crate::wire::encode;

pub use super::admission::{Admission, Admitted};
use super::startup::{self, Conversation, Opening, OpeningError, Request};

mod proof;

use proof::ProofError;

/// How long a client that is turned away may take to read why and to close the connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// What became of an accepted connection.
pub enum Accepted {
    /// It asks to cancel what a session runs, and expects no answer but the end of the connection.
    Cancel {
        /// The first half of the cancel key.
        pid: i32,
        /// The second half, 1 to 256 bytes.
        secret: Vec<u8>,
        /// The connection; the client waits for its end, which says that the request was acted on.
        stream: Stream,
    },
    /// The client has proven who it is.
    Login(Box<Authenticated>),
    /// It was closed or refused; everything has been said and logged.
    Gone,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancel { pid, .. } => {
                f.debug_struct("Cancel").field("pid", pid).finish_non_exhaustive()
            }
            Self::Login(authenticated) => f.debug_tuple("Login").field(authenticated).finish(),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// A client that may have a session.
#[derive(Debug)]
pub struct Authenticated {
    /// The connection.
    pub stream: Stream,
    /// Who is at its other end.
    pub peer: Peer,
    /// The database it asked for, which is configured.
    pub database: String,
    /// The user it is.
    pub user: String,
    /// Startup parameters without user, database and protocol options, in order, each name once.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// What its login taught us that opens servers too.
    pub learned: Option<Learned>,
    /// Not yet sent: `NegotiateProtocolVersion` and `AuthenticationSASLFinal` where due, then
    /// `AuthenticationOk`.
    pub greeting: Vec<u8>,
    /// What the client sent behind its login.
    pub unread: Vec<u8>,
    /// Its place among the clients; to be kept as long as its session.
    pub admitted: Admitted,
    /// When its connection was accepted.
    pub accepted_at: Instant,
}

impl Authenticated {
    /// Refuses the client a session after all, and waits for up to a second until it has read why.
    pub async fn turn_away(self, fault: &Fault) {
        let sqlstate = fault.sqlstate;
        info!(database = self.database, user = self.user, %sqlstate, "login refused");
        // Its place is free although it may take its time to leave.
        drop(self.admitted);
        let mut conversation = Conversation::new(self.stream);
        fault.encode(&mut conversation.output);
        match timeout(FAREWELL, conversation.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "client did not take the message"),
            Err(_) => debug!("client did not close the connection"),
        }
    }
}

/// Leads a new connection through its login.
///
/// Never fails: what goes wrong is told to the client, as far as PostgreSQL would tell it, and
/// logged. Takes at most `client_login_timeout` and a second. `process_secret` makes the salts
/// of unknown users; it must be the same for the life of the process. Cancel safe in that dropping
/// the future closes the connection.
pub async fn accept(
    stream: Stream,
    peer: Peer,
    config: &Config,
    process_secret: &[u8; 32],
    admission: &Arc<Admission>,
) -> Accepted {
    let accepted_at = Instant::now();
    let span = info_span!("login", client = %peer, user = Empty, database = Empty);
    let login = Login { config, process_secret, admission };
    async {
        let mut conversation = Conversation::new(stream);
        match login.run(&mut conversation).await {
            Ok(Outcome::Cancel { pid, secret }) => {
                Accepted::Cancel { pid, secret, stream: conversation.stream }
            }
            Ok(Outcome::Login { request, learned, admitted }) => {
                if config.general.log_connections {
                    info!("client logged in");
                }
                let Conversation { stream, mut input, output } = conversation;
                Accepted::Login(Box::new(Authenticated {
                    stream,
                    peer,
                    database: request.database,
                    user: request.user,
                    parameters: request.parameters,
                    learned,
                    greeting: output,
                    unread: std::mem::take(&mut *input),
                    admitted,
                    accepted_at,
                }))
            }
            Err(error) => {
                turn_away(conversation, &error).await;
                Accepted::Gone
            }
        }
    }
    .instrument(span)
    .await
}

enum Outcome {
    Cancel { pid: i32, secret: Vec<u8> },
    Login { request: Request, learned: Option<Learned>, admitted: Admitted },
}

/// Logs why a connection ends and tells the client what it may know.
async fn turn_away(mut conversation: Conversation, error: &LoginError) {
    let Some(fault) = error.fault() else {
        if error.is_unremarkable() {
            debug!(%error, "connection ended before login");
        } else {
            info!(error = %chain(error), "connection ended before login");
        }
        return;
    };
    let sqlstate = String::from_utf8_lossy(&fault.sqlstate.0);
    info!(%sqlstate, error = %chain(error), "login refused");
    fault.encode(&mut conversation.output);
    match timeout(FAREWELL, conversation.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "client did not take the message"),
        Err(_) => debug!("client did not close the connection"),
    }
}

/// Joins an error and its causes for the log.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Why a client may not have a session.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error(transparent)]
    Opening(#[from] OpeningError),
    #[error("client_login_timeout expired")]
    TimedOut {
        /// Whether the client had sent its startup message.
        has_started: bool,
    },
    #[error("max_client_conn is reached")]
    TooManyClients,
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("no such database")]
    UnknownDatabase { database: String },
}

impl LoginError {
    /// Says what the client is told; `None` closes without a word.
    ///
    /// Source: PostgreSQL `src/backend/utils/init/postinit.c` and `storage/lmgr/proc.c`.
    fn fault(&self) -> Option<Fault> {
        let (sqlstate, message) = match self {
            Self::Opening(error) => return error.fault(),
            Self::TimedOut { has_started: false } => return None,
            Self::TimedOut { has_started: true } => {
                (SqlState::QUERY_CANCELED, "canceling authentication due to timeout".to_owned())
            }
            Self::TooManyClients => {
                (SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already".to_owned())
            }
            Self::Proof(error) => return error.fault(),
            Self::UnknownDatabase { database } => {
                (SqlState::UNKNOWN_DATABASE, format!("database \"{database}\" does not exist"))
            }
        };
        Some(Fault::fatal(sqlstate, message))
    }

    /// Says whether this is everyday life: port probes, and clients that ask for a password and
    /// come again.
    fn is_unremarkable(&self) -> bool {
        match self {
            Self::Opening(error) | Self::Proof(ProofError::Transport(error)) => {
                error.is_departure()
            }
            Self::TimedOut { .. }
            | Self::TooManyClients
            | Self::Proof(_)
            | Self::UnknownDatabase { .. } => false,
        }
    }
}

/// What a login needs to know.
#[derive(Clone, Copy)]
struct Login<'a> {
    config: &'a Config,
    process_secret: &'a [u8; 32],
    admission: &'a Arc<Admission>,
}

impl Login<'_> {
    async fn run(self, conversation: &mut Conversation) -> Result<Outcome, LoginError> {
        let mut has_started = false;
        let outcome = async {
            let request = match startup::open(conversation).await? {
                Opening::Cancel { pid, secret } => return Ok(Outcome::Cancel { pid, secret }),
                Opening::Login(request) => request,
            };
            has_started = true;
            let span = Span::current();
            span.record("user", &request.user).record("database", &request.database);
            self.admit(request, conversation).await
        };
        let limit = self.config.general.client_login_timeout;
        let outcome = within(limit, outcome).await;
        outcome.unwrap_or(Err(LoginError::TimedOut { has_started }))
    }

    async fn admit(
        self,
        request: Request,
        conversation: &mut Conversation,
    ) -> Result<Outcome, LoginError> {
        let admitted = self
            .admission
            .admit(self.config.general.max_client_conn)
            .ok_or(LoginError::TooManyClients)?;
        let learned = self.prove(&request.user, conversation).await?;
        encode::authentication_ok(&mut conversation.output);
        if self.config.database(&request.database).is_none() {
            return Err(LoginError::UnknownDatabase { database: request.database });
        }
        Ok(Outcome::Login { request, learned, admitted })
    }
}

/// Awaits `future` for at most `limit`; `None` waits for ever.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests;
