//! What all logins share: the bound on clients, and the SCRAM secrets derived from plain passwords.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::scram::ScramSecret;
use crate::config::Config;
use crate::metrics::labels::{Label as _, LoginOutcome, SharedCounts};
use crate::secret::Secret;

/// The clients that are in, against `max_client_conn`.
#[derive(Default)]
pub struct Admission {
    clients: AtomicU32,
    outcomes: Outcomes,
    /// Deriving a secret takes milliseconds, so it is done once per user and password. Held only
    /// for a look-up or an insertion; at most one entry per configured user.
    derived: Mutex<HashMap<String, Derived>>,
}

/// How logins ended.
pub type Outcomes = SharedCounts<LoginOutcome, { LoginOutcome::ALL.len() }>;

struct Derived {
    password: Secret,
    secret: ScramSecret,
}

impl Admission {
    /// Makes an empty house.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Lets one more client in, unless `max` are in already.
    pub fn admit(self: &Arc<Self>, max: u32) -> Option<Admitted> {
        let one_more = |clients| (clients < max).then_some(clients + 1);
        // Relaxed: the count guards no other memory.
        self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Admitted { admission: Arc::clone(self) })
    }

    /// Returns how many clients are in.
    pub fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    /// Returns how logins ended so far.
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Returns the secret that was derived from this password of this user, if it was.
    pub(super) fn derived(&self, user: &str, password: &Secret) -> Option<ScramSecret> {
        let derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let known = derived.get(user).filter(|known| known.password == *password)?;
        Some(known.secret.clone())
    }

    /// Keeps a derived secret, and forgets those of users who are not configured any more.
    pub(super) fn keep_derived(
        &self,
        config: &Config,
        user: &str,
        password: Secret,
        secret: ScramSecret,
    ) {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        derived.retain(|user, _| config.knows_user(user));
        derived.insert(user.to_owned(), Derived { password, secret });
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// One client's place; given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_clients_than_the_bound() {
        let admission = Admission::new();
        assert!(admission.admit(0).is_none());
        let first = admission.admit(2);
        let second = admission.admit(2);
        assert!(first.is_some() && second.is_some());
        assert!(admission.admit(2).is_none());
        assert_eq!(admission.clients(), 2);
        drop(first);
        assert!(admission.admit(1).is_none(), "the bound may shrink below what is in");
        let third = admission.admit(2);
        assert!(third.is_some());
        drop((second, third));
        assert_eq!(admission.clients(), 0);
    }

    #[test]
    fn a_derived_secret_belongs_to_one_password() {
        let admission = Admission::new();
        let secret = ScramSecret::from_password(b"a", b"salt", 1);
        let config = Config::default();
        admission.keep_derived(&config, "x", Secret::new("a"), secret.clone());
        assert_eq!(admission.derived("x", &Secret::new("a")), Some(secret.clone()));
        assert_eq!(admission.derived("x", &Secret::new("b")), None);
        assert_eq!(admission.derived("y", &Secret::new("a")), None);
        admission.keep_derived(&config, "y", Secret::new("a"), secret);
        assert_eq!(admission.derived("x", &Secret::new("a")), None, "x is not configured");
    }
}
