//! Counts backends against the bounds that hold for them, across all workers.
//!
//! A backend, from the moment its connection is asked for, owns a [`Permit`]; dropping the permit
//! gives the place back. So no path can forget to count down, and no bound is ever exceeded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A number that never exceeds its limit.
#[derive(Debug)]
pub struct Bound {
    count: AtomicU32,
    limit: AtomicU32,
}

impl Bound {
    /// Starts at 0; no `limit` means as many as there may be.
    pub fn new(limit: Option<u32>) -> Self {
        Self { count: AtomicU32::new(0), limit: AtomicU32::new(limit.unwrap_or(u32::MAX)) }
    }

    /// Changes the limit; what is above it stays until it is given back.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Returns the number taken.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Says whether no more can be taken.
    pub fn is_full(&self) -> bool {
        self.count() >= self.limit.load(Ordering::Relaxed)
    }

    /// Returns how many are taken above the limit.
    pub fn excess(&self) -> u32 {
        self.count().saturating_sub(self.limit.load(Ordering::Relaxed))
    }

    fn take(&self, extra: u32) -> bool {
        let limit = self.limit.load(Ordering::Relaxed).saturating_add(extra);
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
                (count < limit).then(|| count + 1)
            })
            .is_ok()
    }

    fn give(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The pool's size.
    Pool,
    /// `max_db_connections`.
    Database,
    /// `max_user_connections`.
    User,
}

/// The bounds of one pool.
#[derive(Debug)]
pub struct Ledger {
    pool: Bound,
    database: Arc<Bound>,
    user: Arc<Bound>,
}

impl Ledger {
    /// Makes a ledger for a pool of `size` within the bounds of its database and its user.
    pub fn new(size: u32, database: Arc<Bound>, user: Arc<Bound>) -> Self {
        Self { pool: Bound::new(Some(size)), database, user }
    }

    /// Takes a place for one backend; `reserve` places more than the pool's size may be taken.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn reserve(self: &Arc<Self>, reserve: u32) -> Result<Permit, Full> {
        if !self.pool.take(reserve) {
            return Err(Full::Pool);
        }
        if !self.database.take(0) {
            self.pool.give();
            return Err(Full::Database);
        }
        if !self.user.take(0) {
            self.database.give();
            self.pool.give();
            return Err(Full::User);
        }
        Ok(Permit { ledger: Arc::clone(self) })
    }

    /// Returns the bound of the pool itself.
    pub fn pool(&self) -> &Bound {
        &self.pool
    }

    /// Returns the bound of the pool's database.
    pub fn database(&self) -> &Arc<Bound> {
        &self.database
    }

    /// Returns the bound of the pool's user.
    pub fn user(&self) -> &Arc<Bound> {
        &self.user
    }
}

/// One place in a pool; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    ledger: Arc<Ledger>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.ledger.user.give();
        self.ledger.database.give();
        self.ledger.pool.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_bound_holds_and_is_named() {
        let database = Arc::new(Bound::new(Some(3)));
        let user = Arc::new(Bound::new(None));
        let a = Arc::new(Ledger::new(2, Arc::clone(&database), Arc::clone(&user)));
        let b = Arc::new(Ledger::new(2, Arc::clone(&database), Arc::new(Bound::new(Some(0)))));
        let first = a.reserve(0).expect("1 of 2");
        let _second = a.reserve(0).expect("2 of 2");
        assert_eq!(a.reserve(0).err(), Some(Full::Pool));
        assert_eq!(b.reserve(0).err(), Some(Full::User));
        let _reserve = a.reserve(1).expect("one in reserve");
        assert_eq!(a.reserve(2).err(), Some(Full::Database));
        drop(first);
        assert_eq!((a.pool().count(), database.count(), user.count()), (2, 2, 2));
        assert_eq!(b.pool().count(), 0, "a refusal takes nothing");
    }

    proptest! {
        #[test]
        fn no_bound_is_ever_exceeded(size in 0u32..5, max in 0u32..8, steps in proptest::collection::vec(any::<(bool, bool, u8)>(), 0..200)) {
            let database = Arc::new(Bound::new(Some(max)));
            let user = Arc::new(Bound::new(None));
            let ledgers = [
                Arc::new(Ledger::new(size, Arc::clone(&database), Arc::clone(&user))),
                Arc::new(Ledger::new(size, Arc::clone(&database), user)),
            ];
            let mut permits: Vec<Permit> = Vec::new();
            for (takes, second, at) in steps {
                if takes {
                    permits.extend(ledgers[usize::from(second)].reserve(0));
                } else if !permits.is_empty() {
                    let at = usize::from(at) % permits.len();
                    permits.swap_remove(at);
                }
                prop_assert!(ledgers.iter().all(|ledger| ledger.pool().count() <= size));
                prop_assert!(database.count() <= max);
                prop_assert_eq!(usize::try_from(database.count()).expect("small"), permits.len());
            }
        }
    }
}
