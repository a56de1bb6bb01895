//! What becomes of definitions (CREATE, ALTER, DROP and their like) that clients of a database with
//! secondaries send, and the proof that they were seen by us.
//!
//! The settings come with those of the pool. The secret is in the primary's change log, where only we
//! can read it; whoever looks after the secondaries brings it here ([`Seals`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};

use crate::config::{Ddl, FollowingRules};
use crate::secret::Secret;

/// How definitions of one database's clients are treated.
#[derive(Debug)]
pub struct Definitions {
    /// What becomes of them.
    pub policy: Ddl,
    /// Patterns of the tables that follow, one on a line.
    pub include: String,
    /// Patterns of those that do not all the same, one on a line.
    pub exclude: String,
    seal: Arc<Seal>,
}

/// The secret of one database's change log, once it is known.
#[derive(Debug, Default)]
pub struct Seal {
    secret: ArcSwapOption<Secret>,
}

/// The secrets of all databases.
#[derive(Debug, Clone, Default)]
pub struct Seals {
    // Locked when a pool is made or a secondary connects, never across a wait.
    by_database: Arc<Mutex<HashMap<String, Arc<Seal>>>>,
}

impl Seals {
    /// The place of a database's secret.
    pub fn of(&self, database: &str) -> Arc<Seal> {
        let mut seals = self.by_database.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(seals.entry(database.to_owned()).or_default())
    }
}

impl Seal {
    /// Puts a secret in its place; none if definitions cannot be written down.
    pub fn set(&self, secret: Option<Secret>) {
        self.secret.store(secret.map(Arc::new));
    }
}

/// A proof that a definition was seen by whoever knows the secret: good once, on one server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// What makes it another one each time: microseconds, and twelve bits of chance.
    pub nonce: i64,
    /// SHA-256 over the rest.
    pub digest: [u8; 32],
}

impl Definitions {
    /// Takes the settings of a pool.
    pub fn new(rules: &FollowingRules, seal: Arc<Seal>) -> Self {
        let lines = |patterns: &[String]| patterns.join("\n");
        Self {
            policy: rules.ddl,
            include: lines(&rules.tables),
            exclude: lines(&rules.exclude),
            seal,
        }
    }

    /// Makes a proof for a statement that server process `pid` runs; `how` is what we say about it.
    /// None as long as the secret is not known.
    pub fn prove(&self, pid: i32, how: &str, statement: &[u8]) -> Option<Proof> {
        let secret = self.seal.secret.load_full()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(now.as_micros()).unwrap_or_default();
        let nonce = (micros << 12) | i64::from(rand::random::<u16>() & 0xfff);
        let mut inner = Sha256::new();
        inner.update(secret.expose());
        inner.update(format!("{pid} {nonce} {how}"));
        for part in [statement, self.include.as_bytes(), self.exclude.as_bytes()] {
            inner.update(Sha256::digest(part));
        }
        let mut outer = Sha256::new();
        outer.update(secret.expose());
        outer.update(inner.finalize());
        Some(Proof { nonce, digest: outer.finalize().into() })
    }
}
