//! Counts backends against the bounds that hold for them, across all workers.
//!
//! A backend, from the moment its connection is asked for, owns a [`Permit`]; dropping the permit
//! gives the place back. So no path can forget to count down, and no bound is ever exceeded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

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

    /// Returns the limit; `None` if there is none.
    pub fn limit(&self) -> Option<u32> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit < u32::MAX).then_some(limit)
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

    /// Takes one, unless the limit is reached.
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        self.take(0).then(|| Place { bound: Arc::clone(self) })
    }
}

/// One of what a [`Bound`] counts; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    bound: Arc<Bound>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bound.give();
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
    /// A reload may make the pool log in as somebody else.
    user: ArcSwap<Bound>,
    /// How many connections there are of each generation, open or being opened. Locked when one
    /// begins or ends; never across a wait.
    generations: Mutex<BTreeMap<u64, u32>>,
}

impl Ledger {
    /// Makes a ledger for a pool of `size` within the bounds of its database and its user.
    pub fn new(size: u32, database: Arc<Bound>, user: Arc<Bound>) -> Self {
        Self {
            pool: Bound::new(Some(size)),
            database,
            user: ArcSwap::new(user),
            generations: Mutex::default(),
        }
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
        let user = self.user();
        if !user.take(0) {
            self.database.give();
            self.pool.give();
            return Err(Full::User);
        }
        Ok(Permit { ledger: Arc::clone(self), user, generation: None })
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
    pub fn user(&self) -> Arc<Bound> {
        self.user.load_full()
    }

    /// Puts the pool under the bound of another user; what is taken stays with the old one.
    pub fn set_user(&self, user: Arc<Bound>) {
        self.user.store(user);
    }

    /// Says whether there is a connection of a generation before this one, open or being opened.
    pub fn has_older_than(&self, generation: u64) -> bool {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.first_key_value().is_some_and(|(oldest, _)| *oldest < generation)
    }

    fn leave(&self, generation: u64) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = generations.get_mut(&generation) {
            *count -= 1;
            if *count == 0 {
                generations.remove(&generation);
            }
        }
    }
}

/// One place in a pool; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    ledger: Arc<Ledger>,
    user: Arc<Bound>,
    generation: Option<u64>,
}

impl Permit {
    /// Notes of which generation the connection is that is opened in this place now.
    pub fn begin(&mut self, generation: u64) {
        {
            let generations = &self.ledger.generations;
            let mut generations = generations.lock().unwrap_or_else(PoisonError::into_inner);
            *generations.entry(generation).or_default() += 1;
        }
        if let Some(before) = self.generation.replace(generation) {
            self.ledger.leave(before);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(generation) = self.generation {
            self.ledger.leave(generation);
        }
        self.user.give();
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

    #[test]
    fn another_user_has_a_bound_of_his_own() {
        let (old, new) = (Arc::new(Bound::new(Some(1))), Arc::new(Bound::new(Some(1))));
        let ledger = Arc::new(Ledger::new(5, Arc::new(Bound::new(None)), Arc::clone(&old)));
        let before = ledger.reserve(0).expect("1 of 1");
        ledger.set_user(Arc::clone(&new));
        let after = ledger.reserve(0).expect("the other's first");
        assert_eq!((old.count(), new.count()), (1, 1));
        drop(before);
        assert_eq!((old.count(), new.count()), (0, 1));
        drop(after);
        assert_eq!((old.count(), new.count()), (0, 0));
    }

    #[test]
    fn a_generation_lives_as_long_as_a_connection_of_it() {
        let bound = || Arc::new(Bound::new(None));
        let ledger = Arc::new(Ledger::new(5, bound(), bound()));
        let mut first = ledger.reserve(0).expect("free");
        assert!(!ledger.has_older_than(9), "nothing is opened yet");
        first.begin(1);
        let mut second = ledger.reserve(0).expect("free");
        second.begin(1);
        assert!(ledger.has_older_than(2) && !ledger.has_older_than(1));
        first.begin(2);
        assert!(ledger.has_older_than(2), "the second is left");
        drop(second);
        assert!(!ledger.has_older_than(2) && ledger.has_older_than(3));
        drop(first);
        assert!(!ledger.has_older_than(3));
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
