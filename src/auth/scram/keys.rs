//! What a password becomes: the stored secret of a server, the keys of a client.
//!
//! Source: RFC 5802, section 3; PostgreSQL `src/common/scram-common.c`.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{MECHANISM, grammar, prepare};
use crate::secret::Secret;

/// Iterations of a secret that we make ourselves.
///
/// Source: PostgreSQL `SCRAM_SHA_256_DEFAULT_ITERATIONS`.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// Bytes of every key: a SHA-256.
pub(super) const KEY_LEN: usize = 32;

/// Source: PostgreSQL `SCRAM_DEFAULT_SALT_LEN`.
const SALT_LEN: usize = 16;

/// What a server keeps of a password: enough to check a client, not enough to be one.
#[derive(Clone)]
pub struct ScramSecret {
    /// Rounds of the key derivation, at least one.
    pub iterations: u32,
    /// Salt of the key derivation.
    pub salt: Vec<u8>,
    /// Hash of the `ClientKey`.
    pub stored_key: [u8; KEY_LEN],
    /// Key that the server signs with.
    pub server_key: [u8; KEY_LEN],
}

impl ScramSecret {
    /// Reads the stored form, `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    ///
    /// Source: PostgreSQL `src/backend/libpq/auth-scram.c`, `parse_scram_secret`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (iterations, text) =
            text.strip_prefix(MECHANISM)?.strip_prefix('$')?.split_once(':')?;
        let (salt, keys) = text.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: grammar::decimal(iterations.as_bytes())?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: decode(stored_key.as_bytes())?,
            server_key: decode(server_key.as_bytes())?,
        })
    }

    /// Derives the secret of `password`; takes as long as `iterations` say (4096: about 1 ms).
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let keys = ClientKeys::from_password(password, salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&keys.client_key),
            server_key: keys.server_key,
        }
    }

    /// Makes a secret for a user that does not exist, so that the exchange looks like any other.
    ///
    /// The salt is the same at every attempt, and cannot be told from a genuine one without
    /// `process_secret`. No proof matches; [`ServerExchange`](super::ServerExchange) must still be
    /// told so.
    ///
    /// Source: PostgreSQL `src/backend/libpq/auth-scram.c`, `mock_scram_secret`.
    pub fn mock(user: &[u8], process_secret: &[u8; 32]) -> Self {
        let part = |label: &[u8]| hmac(process_secret, &[b"scram mock ", label, b"\0", user]);
        let mut salt = part(b"salt").to_vec();
        salt.truncate(SALT_LEN);
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt,
            stored_key: part(b"stored key"),
            server_key: part(b"server key"),
        }
    }
}

impl fmt::Display for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MECHANISM}${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key),
        )
    }
}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramSecret").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl PartialEq for ScramSecret {
    fn eq(&self, other: &Self) -> bool {
        let keys_match =
            self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        self.iterations == other.iterations && self.salt == other.salt && keys_match.into()
    }
}

impl Eq for ScramSecret {}

impl Drop for ScramSecret {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

/// What a client's own login teaches us: enough to log in wherever the same secret is stored.
#[derive(Clone)]
pub struct ClientKeys {
    /// Key that the client proves itself with.
    pub client_key: [u8; KEY_LEN],
    /// Key that the server proves itself with.
    pub server_key: [u8; KEY_LEN],
}

impl ClientKeys {
    pub(super) fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(&prepare::password(password), salt, iterations);
        Self {
            client_key: hmac(&*salted, &[b"Client Key"]),
            server_key: hmac(&*salted, &[b"Server Key"]),
        }
    }
}

impl PartialEq for ClientKeys {
    fn eq(&self, other: &Self) -> bool {
        let keys_match =
            self.client_key.ct_eq(&other.client_key) & self.server_key.ct_eq(&other.server_key);
        keys_match.into()
    }
}

impl Eq for ClientKeys {}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys(***)")
    }
}

impl Drop for ClientKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

/// The keys that a password became where it was used last. Deriving them takes milliseconds of a
/// core or more, and a pool logs in with the same password again and again.
#[derive(Default)]
pub struct DerivedKeys(Mutex<Option<Derived>>);

struct Derived {
    password: Secret,
    salt: Vec<u8>,
    iterations: u32,
    keys: ClientKeys,
}

impl DerivedKeys {
    /// Returns the keys of `password`; derives them if salt, iterations or password are others than
    /// last time.
    pub(super) fn of(&self, password: &Secret, salt: &[u8], iterations: u32) -> ClientKeys {
        if let Some(keys) = self.known(password, salt, iterations) {
            return keys;
        }
        // Not locked meanwhile: nobody waits for somebody else's server.
        let keys = ClientKeys::from_password(password.expose(), salt, iterations);
        let derived = Derived {
            password: password.clone(),
            salt: salt.to_vec(),
            iterations,
            keys: keys.clone(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(derived);
        keys
    }

    fn known(&self, password: &Secret, salt: &[u8], iterations: u32) -> Option<ClientKeys> {
        let derived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &&Derived| {
            known.iterations == iterations && known.salt == salt && known.password == *password
        };
        derived.as_ref().filter(is_same).map(|known| known.keys.clone())
    }
}

impl fmt::Debug for DerivedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKeys(***)")
    }
}

/// Reads a key of 32 bytes from base64.
pub(super) fn decode(text: &[u8]) -> Option<[u8; KEY_LEN]> {
    Zeroizing::new(BASE64.decode(text).ok()?).as_slice().try_into().ok()
}

pub(super) fn xor(mut left: [u8; KEY_LEN], right: [u8; KEY_LEN]) -> [u8; KEY_LEN] {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
    left
}

pub(super) fn sha256(data: &[u8]) -> [u8; KEY_LEN] {
    Sha256::digest(data).into()
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[expect(clippy::expect_used, reason = "cannot fail, see the message")]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// PBKDF2 with one block of output: RFC 5802, section 2.2, `Hi`.
///
/// The state after the key is computed once and cloned, which halves the work of a round.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<[u8; KEY_LEN]> {
    let keyed = keyed(password);
    let first = keyed.clone().chain_update(salt).chain_update(1_u32.to_be_bytes());
    let mut block: [u8; KEY_LEN] = first.finalize().into_bytes().into();
    let mut sum = Zeroizing::new(block);
    for _ in 1..iterations {
        block = keyed.clone().chain_update(block).finalize().into_bytes().into();
        *sum = xor(*sum, block);
    }
    block.zeroize();
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_again_only_for_another_password_salt_or_number_of_rounds() {
        let cache = DerivedKeys::default();
        let password = Secret::new("p");
        let keys = cache.of(&password, b"salt", 3);
        assert_eq!(keys.client_key, ClientKeys::from_password(b"p", b"salt", 3).client_key);
        // What is kept is what is used.
        let forged = ClientKeys { client_key: [1; KEY_LEN], server_key: [2; KEY_LEN] };
        if let Some(derived) = cache.0.lock().unwrap().as_mut() {
            derived.keys = forged;
        }
        assert_eq!(cache.of(&password, b"salt", 3).client_key, [1; KEY_LEN]);
        for (password, salt, iterations) in [("q", "salt", 3), ("p", "pepper", 3), ("p", "salt", 4)]
        {
            let expected =
                ClientKeys::from_password(password.as_bytes(), salt.as_bytes(), iterations);
            let derived = cache.of(&Secret::new(password), salt.as_bytes(), iterations);
            assert_eq!(derived.client_key, expected.client_key);
        }
        assert_eq!(format!("{cache:?}"), "DerivedKeys(***)");
    }
}
