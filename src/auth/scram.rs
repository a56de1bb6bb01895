//! SCRAM-SHA-256, both sides, without I/O.
//!
//! Job: the stored secret, and one exchange as server ([`ServerExchange`]) or as client
//! ([`ClientExchange`]). A client that logs in here proves itself with its `ClientKey`, and thereby
//! hands it over; with [`ClientKeys`] we log in at any server that stores the same secret, so that
//! no password has to be kept; channel binding does not change that, because the keys are the same.
//!
//! The messages are those of the mechanism; framing them is the caller's part.
//!
//! Source: RFC 5802, RFC 7677; PostgreSQL `src/backend/libpq/auth-scram.c`,
//! `src/interfaces/libpq/fe-auth-scram.c`, `src/common/scram-common.c`.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use subtle::{Choice, ConstantTimeEq};

use crate::fault::SqlState;
use crate::secret::Secret;

mod binding;
mod grammar;
mod keys;
mod prepare;

pub use binding::{Binding, Offer};
use grammar::{Attributes, Challenge};
pub use keys::{ClientKeys, DEFAULT_ITERATIONS, DerivedKeys, ScramSecret};
use keys::{KEY_LEN, hmac, sha256, xor};

/// Name of the mechanism, as a server offers it.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Name of the mechanism with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// LIMIT: bytes of a message that a client sends us.
///
/// Source: PostgreSQL `PG_MAX_SASL_MESSAGE_LENGTH`.
pub const MAX_CLIENT_MESSAGE_BYTES: usize = 1024;

/// LIMIT: bytes of a message that a server sends us.
///
/// Source: PostgreSQL `src/interfaces/libpq/fe-connect.c`, which refuses longer requests.
pub const MAX_SERVER_MESSAGE_BYTES: usize = 2000;

/// LIMIT: iterations that a server may make us compute: about a second of one core.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Source: PostgreSQL `SCRAM_RAW_NONCE_LEN`.
const RAW_NONCE_LEN: usize = 18;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The message is longer than the mechanism needs.
    #[error("message of {len} bytes where at most {max} are allowed")]
    TooLong {
        /// Bytes of the message.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The message does not follow the grammar.
    #[error("malformed message: {what}")]
    Malformed {
        /// The part that is wrong.
        what: &'static str,
    },
    /// The client demands channel binding, which was not offered.
    #[error("channel binding was not offered")]
    ChannelBinding,
    /// The client has not seen that channel binding was offered: somebody has hidden it.
    #[error("channel binding was offered, and the client was not told")]
    Downgrade,
    /// The client wants to bind to something else than the server's certificate.
    #[error("unsupported type of channel binding")]
    BindingType,
    /// The client's connection ends somewhere else than ours.
    #[error("channel binding does not match")]
    BindingMismatch,
    /// The client wants to act as somebody else (authzid).
    #[error("authorization identity is not supported")]
    AuthorizationIdentity,
    /// The peer demands an extension that does not exist here.
    #[error("mandatory extension is not supported")]
    Extension,
    /// The nonce is not the one of this exchange.
    #[error("nonce does not belong to this exchange")]
    Nonce,
    /// The client does not know the password, or does not exist.
    #[error("proof does not match")]
    WrongProof,
    /// The server demands more work than [`MAX_ITERATIONS`].
    #[error("server demands {iterations} iterations")]
    TooManyIterations {
        /// Iterations demanded.
        iterations: u32,
    },
    /// The server does not know the password: it is not the one we wanted.
    #[error("server signature does not match")]
    WrongSignature,
    /// The server ended the exchange with an error.
    #[error("server refused the proof")]
    Refused,
    /// A message came before the one that must precede it.
    #[error("message out of order")]
    OutOfOrder,
}

impl ScramError {
    /// Returns the code for the client that caused the failure.
    ///
    /// 28P01 for a wrong proof, 28000 where somebody seems to be in between, 0A000 for what does not
    /// exist here, 08P01 for everything else.
    /// Source: PostgreSQL `src/backend/libpq/auth-scram.c`.
    pub fn sqlstate(self) -> SqlState {
        match self {
            Self::WrongProof => SqlState::INVALID_PASSWORD,
            Self::AuthorizationIdentity | Self::Extension => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Downgrade | Self::BindingMismatch => SqlState::INVALID_AUTHORIZATION,
            Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::ChannelBinding
            | Self::BindingType
            | Self::Nonce
            | Self::TooManyIterations { .. }
            | Self::WrongSignature
            | Self::Refused
            | Self::OutOfOrder => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

/// One exchange in which we are the server: [`first`](Self::first), then [`last`](Self::last).
#[derive(Debug)]
pub struct ServerExchange {
    secret: ScramSecret,
    genuine: bool,
    server_nonce: String,
    offer: Offer,
    challenged: Option<Challenged>,
}

/// What [`ServerExchange::last`] needs to know of the first half.
#[derive(Debug)]
struct Challenged {
    /// What the client's last message must repeat: its gs2 header, and what it binds to, in base64.
    channel_binding: Vec<u8>,
    /// Both nonces.
    nonce: Vec<u8>,
    /// Beginning of the text that is signed: both first messages, each with a comma behind it.
    signed: Vec<u8>,
}

impl ServerExchange {
    /// Prepares to check a client against `secret`.
    ///
    /// Without `genuine` the client is refused at the very end, whatever it proves.
    /// `server_nonce` must be fresh; see [`nonce`].
    pub fn new(secret: ScramSecret, genuine: bool, server_nonce: String) -> Self {
        Self { secret, genuine, server_nonce, offer: Offer::Nothing, challenged: None }
    }

    /// Has it demand what was offered about channel binding.
    #[must_use]
    pub fn with_offer(self, offer: Offer) -> Self {
        Self { offer, ..self }
    }

    /// Takes client-first-message and returns server-first-message.
    ///
    /// The name in the message is ignored, as PostgreSQL does: the startup packet has it.
    pub fn first(&mut self, client_first: &[u8]) -> Result<Vec<u8>, ScramError> {
        check_len(client_first, MAX_CLIENT_MESSAGE_BYTES)?;
        let (header, bare) = grammar::gs2_header(client_first)?;
        let channel_binding = self.offer.check(header)?;
        let mut attributes = Attributes::new(bare);
        attributes.take(b'n')?;
        let mut nonce = attributes.take(b'r')?.to_vec();
        if !grammar::is_nonce(&nonce) {
            return Err(ScramError::Malformed { what: "nonce" });
        }
        attributes.skip_optional()?;

        nonce.extend_from_slice(self.server_nonce.as_bytes());
        let mut server_first = b"r=".to_vec();
        server_first.extend_from_slice(&nonce);
        let salt = BASE64.encode(&self.secret.salt);
        server_first.extend(format!(",s={salt},i={}", self.secret.iterations).into_bytes());
        let signed = [bare, &server_first, b""].join(&b',');
        self.challenged = Some(Challenged { channel_binding, nonce, signed });
        Ok(server_first)
    }

    /// Takes client-final-message; returns server-final-message and the keys it gave away.
    ///
    /// # Errors
    /// [`ScramError::WrongProof`] if the client does not know the password or is not genuine.
    pub fn last(self, client_final: &[u8]) -> Result<(Vec<u8>, ClientKeys), ScramError> {
        let challenged = self.challenged.as_ref().ok_or(ScramError::OutOfOrder)?;
        check_len(client_final, MAX_CLIENT_MESSAGE_BYTES)?;
        let (without_proof, proof) = grammar::split_proof(client_final)?;
        let mut attributes = Attributes::new(without_proof);
        if attributes.take(b'c')? != challenged.channel_binding {
            return Err(self.offer.mismatch());
        }
        if attributes.take(b'r')? != challenged.nonce {
            return Err(ScramError::Nonce);
        }
        attributes.skip_optional()?;

        let signed = [&challenged.signed, without_proof].concat();
        let client_key = xor(proof, hmac(&self.secret.stored_key, &[&signed]));
        let keys = ClientKeys { client_key, server_key: self.secret.server_key };
        // The proof of somebody who does not exist is checked too, so that it takes as long.
        let matches = sha256(&keys.client_key).ct_eq(&self.secret.stored_key)
            & Choice::from(u8::from(self.genuine));
        if !bool::from(matches) {
            return Err(ScramError::WrongProof);
        }
        let signature = hmac(&self.secret.server_key, &[&signed]);
        Ok((format!("v={}", BASE64.encode(signature)).into_bytes(), keys))
    }
}

/// What we can be a client with.
#[derive(Debug, Clone)]
pub enum ClientCredential {
    /// The password itself.
    Password(Secret),
    /// Keys learned from a client; salt and iterations of the server do not matter then.
    Keys(ClientKeys),
}

/// One exchange in which we are the client: [`first`](Self::first), [`last`](Self::last), then
/// [`verify`](Self::verify), without which the server has proved nothing.
#[derive(Debug)]
pub struct ClientExchange {
    credential: ClientCredential,
    derived: Arc<DerivedKeys>,
    client_nonce: String,
    binding: Binding,
    /// The signature that the server owes us, once the proof is made.
    owed_signature: Option<[u8; KEY_LEN]>,
}

impl ClientExchange {
    /// Prepares to log in with `credential`; `client_nonce` must be fresh, see [`nonce`].
    pub fn new(credential: ClientCredential, client_nonce: String) -> Self {
        let binding = Binding::Unsupported;
        Self { credential, derived: Arc::default(), client_nonce, binding, owed_signature: None }
    }

    /// Has it bind its proof to the connection.
    #[must_use]
    pub fn with_binding(self, binding: Binding) -> Self {
        Self { binding, ..self }
    }

    /// Has it use, and leave behind for the next exchange, what the password is derived to.
    #[must_use]
    pub fn with_derived(self, derived: Arc<DerivedKeys>) -> Self {
        Self { derived, ..self }
    }

    /// Returns client-first-message. It names no user: the startup packet does.
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.binding.header(), self.first_bare()).into_bytes()
    }

    /// Takes server-first-message and returns client-final-message.
    ///
    /// With a password this takes as long as the server's iterations say, at most about a second.
    pub fn last(&mut self, server_first: &[u8]) -> Result<Vec<u8>, ScramError> {
        check_len(server_first, MAX_SERVER_MESSAGE_BYTES)?;
        let challenge = Challenge::parse(server_first)?;
        let own = self.client_nonce.as_bytes();
        if !challenge.nonce.starts_with(own) || challenge.nonce.len() == own.len() {
            return Err(ScramError::Nonce);
        }
        let keys = self.keys(&challenge)?;

        let mut message = format!("c={},r=", self.binding.attribute()).into_bytes();
        message.extend_from_slice(challenge.nonce);
        let signed = [self.first_bare().as_bytes(), server_first, &message].join(&b',');
        let proof = xor(keys.client_key, hmac(&sha256(&keys.client_key), &[&signed]));
        message.extend(format!(",p={}", BASE64.encode(proof)).into_bytes());
        self.owed_signature = Some(hmac(&keys.server_key, &[&signed]));
        Ok(message)
    }

    /// Takes server-final-message and checks that the server knows the secret too.
    ///
    /// # Errors
    /// [`ScramError::WrongSignature`] if it does not: then nothing may be said to it any more.
    pub fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        let owed = self.owed_signature.ok_or(ScramError::OutOfOrder)?;
        check_len(server_final, MAX_SERVER_MESSAGE_BYTES)?;
        if server_final.starts_with(b"e=") {
            return Err(ScramError::Refused);
        }
        let mut attributes = Attributes::new(server_final);
        let signature = keys::decode(attributes.take(b'v')?)
            .ok_or(ScramError::Malformed { what: "signature" })?;
        attributes.skip_optional()?;
        if bool::from(signature.ct_eq(&owed)) { Ok(()) } else { Err(ScramError::WrongSignature) }
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.client_nonce)
    }

    fn keys(&self, challenge: &Challenge<'_>) -> Result<ClientKeys, ScramError> {
        let iterations = challenge.iterations;
        match &self.credential {
            ClientCredential::Keys(keys) => Ok(keys.clone()),
            ClientCredential::Password(_) if iterations > MAX_ITERATIONS => {
                Err(ScramError::TooManyIterations { iterations })
            }
            ClientCredential::Password(password) => {
                Ok(self.derived.of(password, &challenge.salt, iterations))
            }
        }
    }
}

/// Makes a nonce: 144 random bits in base64.
pub fn nonce() -> String {
    let mut raw = [0; RAW_NONCE_LEN];
    rand::fill(&mut raw);
    BASE64.encode(raw)
}

fn check_len(message: &[u8], max: usize) -> Result<(), ScramError> {
    if message.len() > max {
        return Err(ScramError::TooLong { len: message.len(), max });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
