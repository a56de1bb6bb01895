//! Proving who a client is: one exchange per way of authentication.
//!
//! Source: PostgreSQL `src/backend/libpq/auth.c`; the upgrade from md5 to SCRAM is PgBouncer's too.

use std::mem;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use tokio::task::{JoinError, spawn_blocking};
use zeroize::Zeroizing;

use crate::auth::scram::{self, Offer, ScramError, ScramSecret, ServerExchange};
use crate::auth::{Learned, Stored, md5};
use crate::config::{AuthLookup, AuthType};
use crate::fault::{Fault, SqlState};
use crate::net::tls::TlsStream;
use crate::secret::Secret;
use crate::session::lookup::{Found, LookupError};
use crate::session::startup::{Conversation, OpeningError, Request};
use crate::wire::cursor::{Cursor, Malformed};
use crate::wire::{encode, tag};

use super::Login;
use super::rules::{Demand, RuledOut};

/// Longest accepted password or SASL message, in bytes without tag and length word.
const MAX_PROOF_BYTES: usize = 8 * 1024;

/// Bytes of a tag and a length word.
const HEADER_BYTES: usize = 5;

/// The list of SASL mechanisms offered.
const MECHANISMS: &[u8] = b"SCRAM-SHA-256\0\0";

/// That offered to a client which uses TLS: channel binding goes first.
const MECHANISMS_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

/// Authentication requests.
///
/// Source: PostgreSQL `src/include/libpq/protocol.h`, `AUTH_REQ_*`.
const CLEARTEXT_PASSWORD: u32 = 3;
const MD5_PASSWORD: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Why a client has not proven who it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    #[error(transparent)]
    Transport(#[from] OpeningError),
    #[error("expected {expected} response, got message type {tag}")]
    Unexpected { expected: Expected, tag: u8 },
    #[error("{expected} response has a bad length of {length} bytes")]
    Length { expected: Expected, length: i32 },
    #[error("malformed {expected} response")]
    Malformed {
        expected: Expected,
        #[source]
        source: Malformed,
    },
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error("malformed SCRAM message")]
    Scram(#[source] ScramError),
    #[error("{reason}")]
    Denied { user: String, reason: Reason },
    #[error("no client certificate in the name of the user")]
    Certificate { user: String },
    #[error("deriving a key from a password failed")]
    Derivation(#[source] JoinError),
    #[error(transparent)]
    RuledOut(#[from] RuledOut),
    #[error("the user could not be looked up")]
    Lookup(#[from] LookupError),
}

/// Why a password was not accepted; only our log says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason {
    #[error("user is not configured")]
    UnknownUser,
    #[error("auth_query does not find the user")]
    NotFound,
    #[error("the database for auth_query does not exist")]
    NoDatabase,
    #[error("user has no password")]
    NoPassword,
    #[error("stored md5 secret cannot answer scram-sha-256")]
    Md5Stored,
    #[error("wrong password")]
    WrongPassword,
    #[error("empty password")]
    EmptyPassword,
    #[error("the certificate is not in the name of the user")]
    Certificate,
}

/// What a client was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Expected {
    #[error("password")]
    Password,
    #[error("SASL")]
    Sasl,
}

impl ProofError {
    /// Says what the client is told; `None` closes without a word.
    pub(super) fn fault(&self) -> Option<Fault> {
        let (sqlstate, message) = match self {
            Self::Transport(error) => return error.fault(),
            Self::Unexpected { .. }
            | Self::Length { .. }
            | Self::Malformed { .. }
            | Self::Mechanism => (SqlState::PROTOCOL_VIOLATION, self.to_string()),
            // Source: PostgreSQL `src/backend/libpq/auth-scram.c`.
            Self::Scram(error) => {
                let message = if *error == ScramError::Downgrade {
                    "SCRAM channel binding negotiation error".to_owned()
                } else if *error == ScramError::BindingMismatch {
                    "SCRAM channel binding check failed".to_owned()
                } else {
                    self.to_string()
                };
                (error.sqlstate(), message)
            }
            Self::Denied { user, reason: _ } => (
                SqlState::INVALID_PASSWORD,
                format!("password authentication failed for user \"{user}\""),
            ),
            Self::Certificate { user } => (
                SqlState::INVALID_AUTHORIZATION,
                format!("certificate authentication failed for user \"{user}\""),
            ),
            Self::Derivation(_) => (SqlState::INTERNAL_ERROR, "internal error".to_owned()),
            Self::RuledOut(error) => return Some(error.fault()),
            Self::Lookup(error) => return Some(error.fault()),
        };
        Some(Fault::fatal(sqlstate, message))
    }
}

/// Who a client says it is, and what that is checked against.
struct Claim<'a> {
    user: &'a str,
    /// Or why no proof will do.
    stored: Result<Stored, Reason>,
    /// Where it was found, if that was not the configuration.
    lookup: Option<AuthLookup>,
}

impl Claim<'_> {
    fn denied(&self, reason: Reason) -> ProofError {
        // Why the claim could not hold says more than that the password did not match.
        let reason = self.stored.as_ref().err().copied().unwrap_or(reason);
        ProofError::Denied { user: self.user.to_owned(), reason }
    }
}

impl<'a> Login<'a> {
    /// Makes the client prove that it is the user it says, and returns what its proof taught us.
    ///
    /// Leaves `AuthenticationSASLFinal` unsent in `conversation`. Not cancel safe.
    ///
    /// # Errors
    /// [`ProofError::Denied`] (28P01) for every proof that does not hold, whatever the reason.
    pub(super) async fn prove(
        self,
        request: &'a Request,
        conversation: &mut Conversation,
    ) -> Result<Option<Learned>, ProofError> {
        let (method, rule) = match self.config.general.auth_type {
            AuthType::Trust => return Ok(None),
            AuthType::Cert => return certificate(&request.user, conversation),
            AuthType::Plain => (Method::Plain, None),
            AuthType::Md5 => (Method::Md5, None),
            AuthType::ScramSha256 => (Method::Scram, None),
            AuthType::Hba => match self.by_rule(request, conversation).await? {
                Demand::Nothing => return Ok(None),
                Demand::Password(method, rule) => (method, Some(rule)),
            },
        };
        let claim = self.claim(request).await?;
        let proven = match method {
            Method::Plain => self.plain(&claim, conversation).await,
            Method::Md5 if self.asks_for_md5(&claim) => self.md5(&claim, conversation).await,
            Method::Md5 | Method::Scram => self.scram(&claim, conversation).await,
        };
        if let (Err(ProofError::Denied { .. }), Some(lookup)) = (&proven, &claim.lookup) {
            // It may have been changed at the server: the next login asks again.
            self.lookups.forget(lookup, claim.user);
        }
        let learned = proven?;
        if let Some(rule) = rule {
            self.after(rule, request, conversation)?;
        }
        Ok(learned)
    }

    /// Finds out what the user must know: in the configuration, else at a server.
    async fn claim(self, request: &'a Request) -> Result<Claim<'a>, ProofError> {
        let user = request.user.as_str();
        let mut lookup = None;
        let secret = match self.config.secret(user) {
            Some(secret) => Ok(secret.clone()),
            // Whom the list knows without a password, it keeps out.
            None if self.config.general.auth.auth_file.users().contains_key(user) => {
                Err(Reason::NoPassword)
            }
            None => {
                lookup = self.config.auth_lookup(&request.database);
                match &lookup {
                    Some(lookup) => self.look_up(lookup, user).await?,
                    None if self.config.knows_user(user) => Err(Reason::NoPassword),
                    None => Err(Reason::UnknownUser),
                }
            }
        };
        let stored = secret.and_then(|secret| usable(&secret, user));
        Ok(Claim { user, stored, lookup })
    }

    async fn look_up(
        self,
        lookup: &AuthLookup,
        user: &str,
    ) -> Result<Result<Secret, Reason>, LookupError> {
        Ok(match Box::pin(self.lookups.find(lookup, self.connectors, user)).await? {
            Found::Secret(secret) => Ok(secret),
            Found::NoUser => Err(Reason::NotFound),
            Found::NoPassword => Err(Reason::NoPassword),
            Found::NoDatabase => Err(Reason::NoDatabase),
        })
    }

    /// Says whether md5 can be asked for. A stored SCRAM secret cannot answer it, and where all are
    /// of that kind, asking would give an unknown user away; so are those of servers, by default.
    fn asks_for_md5(self, claim: &Claim<'_>) -> bool {
        match &claim.stored {
            Ok(stored) => !matches!(stored, Stored::Scram(_)),
            Err(_) if claim.lookup.is_some() => false,
            Err(_) => self.config.secrets().any(|secret| !is_scram(secret)),
        }
    }

    /// Compares the password itself.
    async fn plain(
        self,
        claim: &Claim<'_>,
        conversation: &mut Conversation,
    ) -> Result<Option<Learned>, ProofError> {
        encode::authentication(&mut conversation.output, CLEARTEXT_PASSWORD, &[]);
        let password = Secret::new(mem::take(&mut *password(conversation).await?));
        if password.expose().is_empty() {
            return Err(claim.denied(Reason::EmptyPassword));
        }
        let is_right = match &claim.stored {
            Ok(Stored::Plain(stored)) => *stored == password,
            Ok(Stored::Md5(stored)) => {
                let shadow = md5::shadow(password.expose(), claim.user.as_bytes());
                shadow.as_bytes().ct_eq(stored.expose()).into()
            }
            Ok(Stored::Scram(stored)) => derive(&password, stored).await? == *stored,
            // Nothing matches the mock, but finding out takes as long as with a SCRAM secret.
            Err(_) => {
                let mock = self.mock(claim.user);
                derive(&password, &mock).await? == mock
            }
        };
        if !is_right {
            return Err(claim.denied(Reason::WrongPassword));
        }
        Ok(Some(Learned::Password(password)))
    }

    /// Compares the MD5 of what is stored and a salt.
    async fn md5(
        self,
        claim: &Claim<'_>,
        conversation: &mut Conversation,
    ) -> Result<Option<Learned>, ProofError> {
        let salt: [u8; 4] = rand::random();
        encode::authentication(&mut conversation.output, MD5_PASSWORD, &salt);
        let response = password(conversation).await?;
        let shadow = match &claim.stored {
            Ok(Stored::Plain(password)) => {
                Some(md5::shadow(password.expose(), claim.user.as_bytes()))
            }
            Ok(Stored::Md5(shadow)) => String::from_utf8(shadow.expose().to_vec()).ok(),
            Ok(Stored::Scram(_)) | Err(_) => None,
        };
        let expected = shadow.and_then(|shadow| md5::response(&shadow, salt));
        if !expected.is_some_and(|expected| expected.as_bytes().ct_eq(&response).into()) {
            return Err(claim.denied(Reason::WrongPassword));
        }
        Ok(match &claim.stored {
            Ok(Stored::Plain(password)) => Some(Learned::Password(password.clone())),
            Ok(Stored::Md5(shadow)) => Some(Learned::Shadow(shadow.clone())),
            Ok(Stored::Scram(_)) | Err(_) => None,
        })
    }

    /// Runs SCRAM-SHA-256; who cannot succeed gets as far as giving a proof.
    async fn scram(
        self,
        claim: &Claim<'_>,
        conversation: &mut Conversation,
    ) -> Result<Option<Learned>, ProofError> {
        let (secret, is_genuine) = match &claim.stored {
            Ok(Stored::Scram(secret)) => (secret.clone(), true),
            Ok(Stored::Plain(password)) => (self.derived(claim.user, password).await?, true),
            Ok(Stored::Md5(_)) | Err(_) => (self.mock(claim.user), false),
        };
        let binding = conversation.stream.tls().and_then(TlsStream::binding);
        let mechanisms = if binding.is_some() { MECHANISMS_PLUS } else { MECHANISMS };
        encode::authentication(&mut conversation.output, SASL, mechanisms);
        let initial = response(conversation, Expected::Sasl).await?;
        let (offer, client_first) = client_first(&initial, binding)?;
        let exchange = ServerExchange::new(secret, is_genuine, scram::nonce());
        let mut exchange = exchange.with_offer(offer);
        let challenge = exchange.first(client_first).map_err(ProofError::Scram)?;
        encode::authentication(&mut conversation.output, SASL_CONTINUE, &challenge);
        let client_final = response(conversation, Expected::Sasl).await?;
        let (server_final, keys) = match exchange.last(&client_final) {
            Err(ScramError::WrongProof) if matches!(claim.stored, Ok(Stored::Md5(_))) => {
                return Err(claim.denied(Reason::Md5Stored));
            }
            Err(ScramError::WrongProof) => return Err(claim.denied(Reason::WrongPassword)),
            finished => finished.map_err(ProofError::Scram)?,
        };
        encode::authentication(&mut conversation.output, SASL_FINAL, &server_final);
        Ok(Some(match &claim.stored {
            // The salt was ours, so the keys open nothing but this proxy.
            Ok(Stored::Plain(password)) => Learned::Password(password.clone()),
            Ok(Stored::Md5(_) | Stored::Scram(_)) | Err(_) => Learned::Keys(keys),
        }))
    }

    /// Returns the secret of a user whose password is stored plain.
    ///
    /// Salt and iterations are those of the mock secret, so they tell nothing about the user.
    async fn derived(self, user: &str, password: &Secret) -> Result<ScramSecret, ProofError> {
        if let Some(known) = self.admission.derived(user, password) {
            return Ok(known);
        }
        let mock = self.mock(user);
        let secret = derive(password, &mock).await?;
        self.admission.keep_derived(self.config, user, password.clone(), secret.clone());
        Ok(secret)
    }

    fn mock(self, user: &str) -> ScramSecret {
        ScramSecret::mock(user.as_bytes(), self.process_secret)
    }
}

/// A way to prove a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// By sending it.
    Plain,
    /// By an MD5 challenge; by SCRAM where a SCRAM secret is stored.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
}

/// Tells the form of a secret; one that everybody knows is none.
fn usable(secret: &Secret, user: &str) -> Result<Stored, Reason> {
    let stored = Stored::parse(secret);
    let is_empty = match &stored {
        Stored::Plain(password) => password.expose().is_empty(),
        Stored::Md5(shadow) => shadow.expose() == md5::shadow(b"", user.as_bytes()).as_bytes(),
        // Telling would take a derivation at every login, and PostgreSQL stores no such secret.
        Stored::Scram(_) => false,
    };
    if is_empty { Err(Reason::NoPassword) } else { Ok(stored) }
}

/// Says whether a secret looks like one of SCRAM; of many, each is looked at.
fn is_scram(secret: &Secret) -> bool {
    secret.expose().starts_with(scram::MECHANISM.as_bytes())
}

/// Compares the name in the certificate that the client showed in its TLS handshake.
fn certificate(user: &str, conversation: &Conversation) -> Result<Option<Learned>, ProofError> {
    let tls = conversation.stream.tls();
    if tls.and_then(TlsStream::peer_common_name) == Some(user) {
        return Ok(None);
    }
    Err(ProofError::Certificate { user: user.to_owned() })
}

/// Derives a secret from `password` with the salt and the iterations of `like`, away from the
/// threads that serve others meanwhile.
async fn derive(password: &Secret, like: &ScramSecret) -> Result<ScramSecret, ProofError> {
    let (password, salt, iterations) = (password.clone(), like.salt.clone(), like.iterations);
    spawn_blocking(move || ScramSecret::from_password(password.expose(), &salt, iterations))
        .await
        .map_err(ProofError::Derivation)
}

/// Says what a client chose of what it was offered.
fn offer(mechanism: &[u8], binding: Option<Arc<[u8]>>) -> Result<Offer, ProofError> {
    let is_plus = mechanism == scram::MECHANISM_PLUS.as_bytes();
    match binding {
        Some(data) if is_plus => Ok(Offer::Chosen(data)),
        _ if mechanism != scram::MECHANISM.as_bytes() => Err(ProofError::Mechanism),
        Some(_) => Ok(Offer::Declined),
        None => Ok(Offer::Nothing),
    }
}

/// Cuts client-first-message out of a `SASLInitialResponse`, and says what the client chose.
fn client_first(body: &[u8], binding: Option<Arc<[u8]>>) -> Result<(Offer, &[u8]), ProofError> {
    let malformed = |source| ProofError::Malformed { expected: Expected::Sasl, source };
    let mut cursor = Cursor::new(body);
    let offer = offer(cursor.cstr().map_err(malformed)?, binding)?;
    // -1 would be a client that wants to be asked first; with SCRAM none does.
    let length = cursor.i32().map_err(malformed)?;
    let length = usize::try_from(length).map_err(|_| malformed(Malformed::UnknownValue))?;
    let message = cursor.bytes(length).map_err(malformed)?;
    cursor.finish().map_err(malformed)?;
    Ok((offer, message))
}

/// Reads a `PasswordMessage`, without its terminator.
async fn password(conversation: &mut Conversation) -> Result<Zeroizing<Vec<u8>>, ProofError> {
    let mut body = response(conversation, Expected::Password).await?;
    let malformed = |source| ProofError::Malformed { expected: Expected::Password, source };
    let mut cursor = Cursor::new(&body);
    let length = cursor.cstr().map_err(malformed)?.len();
    cursor.finish().map_err(malformed)?;
    body.truncate(length);
    Ok(body)
}

/// Sends what is due and reads the answer; returns its body.
async fn response(
    conversation: &mut Conversation,
    expected: Expected,
) -> Result<Zeroizing<Vec<u8>>, ProofError> {
    conversation.flush().await?;
    conversation.fill(HEADER_BYTES).await?;
    let mut header = Cursor::new(&conversation.input);
    let (tag, length) = header
        .u8()
        .and_then(|tag| Ok((tag, header.i32()?)))
        .map_err(|source| ProofError::Malformed { expected, source })?;
    match tag {
        tag::frontend::PASSWORD => {}
        tag::frontend::TERMINATE => return Err(OpeningError::Closed.into()),
        tag => return Err(ProofError::Unexpected { expected, tag }),
    }
    let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    let body = body.filter(|body| *body <= MAX_PROOF_BYTES);
    let total = HEADER_BYTES + body.ok_or(ProofError::Length { expected, length })?;
    conversation.fill(total).await?;
    Ok(conversation.take(HEADER_BYTES, total))
}
