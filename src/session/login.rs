//! The login of a client: from the accepted socket to a session that may begin.
//!
//! Job: let in at most `max_client_conn`, prove that the client is who it says, and only then tell
//! whether its database exists. The greeting is composed here but not sent: what follows
//! `AuthenticationOk` (parameters, cancel key, `ReadyForQuery`) depends on the pool. No backend of a
//! pool is touched here; a server is asked only about a user that is not configured.
//!
//! The admin console has its own door: who asks for one of its databases never counts as a client.
//!
//! A user that does not exist goes through the same exchange as one with a wrong password and is
//! told the same.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use tokio::time::timeout;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info, info_span};

use crate::auth::Learned;
use crate::config::{Config, is_reserved};
use crate::fault::{Fault, SqlState};
use crate::log::{Kind, Plain, admit};
use crate::metrics::labels::LoginOutcome;
use crate::net::tls::{Acceptor, Connectors};
use crate::net::{Peer, Stream};
use crate::secret::Secret;
use crate::wire::encode;
use crate::wire::startup::Version;

pub use super::admission::{Admission, Admitted};
use super::lookup::Lookups;
use super::startup::{self, Conversation, Opening, OpeningError, Request};

mod proof;
mod rules;

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
    /// Somebody who may use the admin console asked for it.
    Console(Box<Visitor>),
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
            Self::Console(visitor) => f.debug_tuple("Console").field(visitor).finish(),
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
    /// What is spoken with it.
    pub protocol: Version,
    /// Where it asks for replication: what is to be asked of the server. Such a client gets no
    /// session, but a connection to the server of its own.
    pub replication: Option<Vec<u8>>,
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
    /// Makes the second half of its cancel key, as long as its protocol allows and anybody needs.
    pub fn cancel_secret(&self) -> Secret {
        if self.protocol.has_long_keys() {
            Secret::new(rand::random::<[u8; 32]>())
        } else {
            Secret::new(rand::random::<[u8; 4]>())
        }
    }

    /// Refuses the client a session after all, and waits for up to a second until it has read why.
    pub async fn turn_away(self, fault: &Fault) {
        let sqlstate = fault.sqlstate;
        if admit(Kind::LoginFailed) {
            let reason = Plain(&fault.message);
            info!(
                database = self.database,
                user = self.user,
                client = %self.peer,
                %sqlstate,
                "login failed: {reason}"
            );
        }
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

/// Somebody who may use the admin console; counts as no client.
#[derive(Debug)]
pub struct Visitor {
    /// The connection.
    pub stream: Stream,
    /// Who is at its other end.
    pub peer: Peer,
    /// The name that the console was asked for by.
    pub database: String,
    /// The user it is.
    pub user: String,
    /// What it may do.
    pub role: ConsoleRole,
    /// Startup parameters, as those of a client.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Not yet sent, as that of a client.
    pub greeting: Vec<u8>,
    /// What was sent behind the login.
    pub unread: Vec<u8>,
}

/// What somebody may do at the admin console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleRole {
    /// Everything.
    Admin,
    /// Look at things.
    Stats,
}

/// What all logins go by.
#[derive(Debug, Clone, Copy)]
pub struct Reception<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// Begins TLS with clients.
    pub acceptor: &'a Acceptor,
    /// Begins TLS with servers that are asked for secrets.
    pub connectors: &'a Connectors,
    /// Asks them.
    pub lookups: &'a Lookups,
    /// The bound on clients.
    pub admission: &'a Arc<Admission>,
    /// Makes the salts of unknown users; must be the same for the life of the process.
    pub process_secret: &'a [u8; 32],
}

/// Leads a new connection through its login.
///
/// Never fails: what goes wrong is told to the client, as far as PostgreSQL would tell it, and
/// logged. Takes at most `client_login_timeout` and a second. Cancel safe in that dropping the
/// future closes the connection.
pub async fn accept(stream: Stream, peer: Peer, reception: Reception<'_>) -> Accepted {
    let accepted_at = Instant::now();
    let admission = reception.admission;
    let span = info_span!("login", client = Empty, user = Empty, database = Empty);
    let (names, announced) = (OnceLock::new(), OnceLock::new());
    let login = Login { reception, accepted: peer, announced: &announced, names: &names };
    async {
        let mut conversation = Conversation::new(stream);
        match login.run(&mut conversation).await {
            Ok(Outcome::Cancel { pid, secret }) => {
                Accepted::Cancel { pid, secret, stream: conversation.stream }
            }
            Ok(Outcome::Console { request, role }) => {
                if reception.config.general.log_connections {
                    info!("logged in to the admin console");
                }
                let Conversation { stream, mut input, output } = conversation;
                Accepted::Console(Box::new(Visitor {
                    stream,
                    peer: login.peer(),
                    database: request.database,
                    user: request.user,
                    role,
                    parameters: request.parameters,
                    greeting: output,
                    unread: std::mem::take(&mut *input),
                }))
            }
            Ok(Outcome::Login { request, learned, admitted }) => {
                admission.outcomes().add(LoginOutcome::Success);
                debug!("client logged in");
                let Conversation { stream, mut input, output } = conversation;
                Accepted::Login(Box::new(Authenticated {
                    stream,
                    peer: login.peer(),
                    database: request.database,
                    user: request.user,
                    protocol: request.protocol,
                    replication: request.replication,
                    parameters: request.parameters,
                    learned,
                    greeting: output,
                    unread: std::mem::take(&mut *input),
                    admitted,
                    accepted_at,
                }))
            }
            Err(error) => {
                admission.outcomes().add(error.outcome());
                login.log(&error);
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
    Console { request: Request, role: ConsoleRole },
    Login { request: Request, learned: Option<Learned>, admitted: Admitted },
}

/// Tells a client that is turned away what it may know.
async fn turn_away(mut conversation: Conversation, error: &LoginError) {
    let Some(fault) = error.fault() else { return };
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
    #[error("SSL required")]
    TlsRequired,
    #[error("max_client_conn is reached")]
    TooManyClients,
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("no such database")]
    UnknownDatabase { database: String },
    #[error("neither in admin_users nor in stats_users")]
    NotForConsole { database: String },
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
            // PgBouncer's words, with the code of PostgreSQL's `no pg_hba.conf entry … no encryption`.
            Self::TlsRequired => (SqlState::INVALID_AUTHORIZATION, self.to_string()),
            Self::TooManyClients => {
                (SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already".to_owned())
            }
            Self::Proof(error) => return error.fault(),
            Self::UnknownDatabase { database } => {
                (SqlState::UNKNOWN_DATABASE, format!("database \"{database}\" does not exist"))
            }
            // As PostgreSQL says it of a database that one may not connect to.
            Self::NotForConsole { database } => (
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("permission denied for database \"{database}\""),
            ),
        };
        Some(Fault::fatal(sqlstate, message))
    }

    /// Says how the login ended, for statistics.
    fn outcome(&self) -> LoginOutcome {
        match self {
            Self::Opening(error) | Self::Proof(ProofError::Transport(error))
                if error.is_transport() =>
            {
                LoginOutcome::Departed
            }
            Self::TimedOut { .. } => LoginOutcome::Timeout,
            Self::TooManyClients => LoginOutcome::TooMany,
            Self::Proof(ProofError::Denied { .. } | ProofError::Certificate { .. }) => {
                LoginOutcome::Authentication
            }
            Self::Proof(ProofError::Lookup(_)) => LoginOutcome::Lookup,
            Self::UnknownDatabase { .. } => LoginOutcome::Database,
            Self::Proof(ProofError::RuledOut(_))
            | Self::TlsRequired
            | Self::NotForConsole { .. } => LoginOutcome::Denied,
            Self::Opening(_) | Self::Proof(_) => LoginOutcome::Protocol,
        }
    }

    /// Says whether this is everyday life: port probes, and clients that ask for a password and
    /// come again.
    fn is_unremarkable(&self) -> bool {
        match self {
            Self::Opening(error) | Self::Proof(ProofError::Transport(error)) => {
                error.is_departure()
            }
            Self::TimedOut { .. }
            | Self::TlsRequired
            | Self::TooManyClients
            | Self::Proof(_)
            | Self::UnknownDatabase { .. }
            | Self::NotForConsole { .. } => false,
        }
    }
}

/// What a login needs to know.
#[derive(Clone, Copy)]
struct Login<'a> {
    reception: Reception<'a>,
    /// Who connected: the client, or a balancer.
    accepted: Peer,
    /// Set once it is known whose the connection is.
    announced: &'a OnceLock<Peer>,
    /// Set once the client has said them.
    names: &'a OnceLock<Names>,
}

impl<'a> Deref for Login<'a> {
    type Target = Reception<'a>;

    fn deref(&self) -> &Self::Target {
        &self.reception
    }
}

/// What a client calls itself and its database.
struct Names {
    user: String,
    database: String,
}

impl Login<'_> {
    /// Returns the client, as far as it is known.
    fn peer(self) -> Peer {
        self.announced.get().copied().unwrap_or(self.accepted)
    }

    /// Logs that a client begins to log in, in PgBouncer's words.
    fn log_attempt(self, request: &Request, stream: &Stream) {
        let Request { user, database, .. } = request;
        let names = Names { user: user.clone(), database: database.clone() };
        // It is set here only.
        let _ = self.names.set(names);
        Span::current().record("user", user).record("database", database);
        if self.config.general.log_connections {
            info!(
                parent: None,
                database,
                user,
                client = %self.peer(),
                "login attempt: db={} user={} tls={}",
                Plain(database),
                Plain(user),
                stream.tls().map_or("no".to_owned(), |tls| tls.channel().describe())
            );
        }
    }

    /// Logs why a client was not let in.
    fn log(self, error: &LoginError) {
        if error.is_unremarkable() {
            debug!(%error, "connection ended before login");
            return;
        }
        if !self.config.general.log.log_pooler_errors || !admit(Kind::LoginFailed) {
            return;
        }
        let names = self.names.get();
        let sqlstate = error.fault().map(|fault| fault.sqlstate.to_string());
        info!(
            parent: None,
            database = names.map(|names| names.database.as_str()),
            user = names.map(|names| names.user.as_str()),
            client = %self.peer(),
            sqlstate,
            "login failed: {}",
            Plain(&chain(error))
        );
    }

    async fn run(self, conversation: &mut Conversation) -> Result<Outcome, LoginError> {
        let mut has_started = false;
        let outcome = async {
            let balancers = &self.config.general.proxy_protocol_from;
            let client = startup::announced(conversation, self.accepted, balancers).await?;
            // It is set here only.
            let _ = self.announced.set(client);
            Span::current().record("client", tracing::field::display(client));
            let request = match startup::open(conversation, self.acceptor).await? {
                Opening::Cancel { pid, secret } => return Ok(Outcome::Cancel { pid, secret }),
                Opening::Login(request) => request,
            };
            has_started = true;
            self.log_attempt(&request, &conversation.stream);
            if self.acceptor.is_required() && matches!(conversation.stream, Stream::Tcp(_)) {
                return Err(LoginError::TlsRequired);
            }
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
        if is_reserved(&request.database) {
            return self.admit_to_console(request, conversation).await;
        }
        let admitted = self
            .admission
            .admit(self.config.general.max_client_conn)
            .ok_or(LoginError::TooManyClients)?;
        let learned = self.prove(&request, conversation).await?;
        encode::authentication_ok(&mut conversation.output);
        if self.config.database(&request.database).is_none() {
            return Err(LoginError::UnknownDatabase { database: request.database });
        }
        Ok(Outcome::Login { request, learned, admitted })
    }

    /// Lets somebody in to the admin console, however many clients there are (pooling point G55).
    async fn admit_to_console(
        self,
        request: Request,
        conversation: &mut Conversation,
    ) -> Result<Outcome, LoginError> {
        if is_ourselves(&request.user, &conversation.stream) {
            encode::authentication_ok(&mut conversation.output);
            return Ok(Outcome::Console { request, role: ConsoleRole::Admin });
        }
        self.prove(&request, conversation).await?;
        encode::authentication_ok(&mut conversation.output);
        match console_role(self.config, &request.user) {
            Some(role) => Ok(Outcome::Console { request, role }),
            None => Err(LoginError::NotForConsole { database: request.database }),
        }
    }
}

/// Says what a user may do at the admin console; `None` may not use it.
fn console_role(config: &Config, user: &str) -> Option<ConsoleRole> {
    let general = &config.general;
    let is_in = |users: &[String]| users.iter().any(|known| known == user);
    if is_in(&general.admin_users) {
        Some(ConsoleRole::Admin)
    } else if is_in(&general.stats_users) {
        Some(ConsoleRole::Stats)
    } else {
        None
    }
}

/// Says whether this is a process of the user we run as, which could do anything to us anyway: it
/// needs no password, if it says by its user, who is called like the console, that this is what it means. As in PgBouncer.
fn is_ourselves(user: &str, stream: &Stream) -> bool {
    is_reserved(user) && stream.peer_uid() == Some(geteuid().as_raw())
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
