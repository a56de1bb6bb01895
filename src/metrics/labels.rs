//! What counters are told apart by: fixed words, never anything that a client says.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fixed set of words that a family of counters has one counter for each of.
pub trait Label: Copy + 'static {
    /// All words.
    const ALL: &'static [Self];

    /// Returns the place in [`ALL`](Self::ALL).
    fn index(self) -> usize;

    /// Returns the word.
    fn as_str(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn index(self) -> usize {
                #[expect(clippy::as_conversions, reason = "a variant without data is its place")]
                let index = self as usize;
                index
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

label! {
    /// Why a client is gone.
    ClientEnd {
        /// It said Terminate.
        Terminate = "terminate",
        /// Its connection ended without a word.
        Lost = "lost",
        /// It broke the protocol, or went beyond a limit of it.
        Protocol = "protocol",
        /// One of our time-outs.
        Timeout = "timeout",
        /// No server connection could be made for it, or not in time.
        NoServer = "no_server",
        /// The server connection that it used ended.
        ServerLost = "server_lost",
        /// The server or this pool refuses what it wants.
        Refused = "refused",
        /// An administrator, or the end of the proxy.
        Admin = "admin",
    }
}

label! {
    /// Why a server connection was closed.
    ServerClose {
        /// Unused for `server_idle_timeout`.
        Idle = "idle_timeout",
        /// Older than `server_lifetime`.
        Lifetime = "lifetime",
        /// The server closed it, or the network did.
        Lost = "lost",
        /// Its client left it in the middle of something.
        Unclean = "unclean",
        /// What the server still sends cannot be told from answers to the next client.
        Tainted = "tainted",
        /// The server broke the protocol.
        Protocol = "protocol",
        /// A query of our own failed on it or hung: a check, a reset, a client's parameters.
        Chore = "own_query",
        /// A reload or RECONNECT has made it useless.
        Replaced = "replaced",
        /// More than the pool may have now.
        Surplus = "surplus",
        /// Its place was needed for another pool of the same database or user.
        Evicted = "evicted",
        /// An administrator, or the end of the proxy.
        Admin = "admin",
    }
}

label! {
    /// Which time-out has struck.
    Timeout {
        /// `query_wait_timeout`.
        QueryWait = "query_wait",
        /// `query_timeout`.
        Query = "query",
        /// `transaction_timeout`.
        Transaction = "transaction",
        /// `idle_transaction_timeout`.
        IdleTransaction = "idle_transaction",
        /// `client_idle_timeout`.
        ClientIdle = "client_idle",
    }
}

label! {
    /// Classes of SQLSTATE that somebody on call can act on; all others are `Other`.
    ///
    /// Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".
    SqlClass {
        /// Connection exceptions.
        Connection = "08",
        /// Feature not supported.
        Feature = "0A",
        /// Data exceptions.
        Data = "22",
        /// Integrity constraint violations.
        Integrity = "23",
        /// Invalid transaction state.
        TransactionState = "25",
        /// Invalid SQL statement name.
        StatementName = "26",
        /// Invalid authorization specification.
        Authorization = "28",
        /// Invalid catalog name: no such database.
        Catalog = "3D",
        /// Transaction rollback: deadlocks, serialization failures.
        Rollback = "40",
        /// Syntax error or access rule violation.
        Syntax = "42",
        /// Insufficient resources.
        Resources = "53",
        /// Program limit exceeded.
        Limit = "54",
        /// Object not in prerequisite state; lock not available.
        Prerequisite = "55",
        /// Operator intervention: cancelled, shut down, not accepting connections.
        Intervention = "57",
        /// System error outside PostgreSQL.
        System = "58",
        /// Errors that PL/pgSQL raises.
        PlPgSql = "P0",
        /// Internal errors.
        Internal = "XX",
        /// Everything else.
        Other = "other",
    }
}

impl SqlClass {
    /// Returns the class of a SQLSTATE.
    pub fn of(sqlstate: [u8; 5]) -> Self {
        let [first, second, ..] = sqlstate;
        let is_it = |class: &&Self| class.as_str().as_bytes() == [first, second];
        Self::ALL.iter().find(is_it).copied().unwrap_or(Self::Other)
    }
}

label! {
    /// How a login ended.
    LoginOutcome {
        /// The client may have a session.
        Success = "success",
        /// It left, or its connection was lost.
        Departed = "departed",
        /// It broke the protocol, or wants what we do not have.
        Protocol = "protocol",
        /// `client_login_timeout`.
        Timeout = "timeout",
        /// `max_client_conn`.
        TooMany = "too_many_clients",
        /// It could not prove who it is.
        Authentication = "authentication",
        /// There is no such database.
        Database = "no_such_database",
        /// It may not use what it asked for.
        Denied = "denied",
        /// No server could be asked about its user.
        Lookup = "lookup_failed",
    }
}

/// One counter for each word of the label `L`; there are `N`.
#[derive(Debug)]
pub struct Counts<L, const N: usize>([u64; N], PhantomData<fn(L)>);

impl<L, const N: usize> Default for Counts<L, N> {
    fn default() -> Self {
        Self([0; N], PhantomData)
    }
}

impl<L, const N: usize> Clone for Counts<L, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L, const N: usize> Copy for Counts<L, N> {}

impl<L, const N: usize> PartialEq for Counts<L, N> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<L, const N: usize> Eq for Counts<L, N> {}

impl<L: Label, const N: usize> Counts<L, N> {
    /// Counts one more.
    pub fn add(&mut self, label: L) {
        if let Some(count) = self.0.get_mut(label.index()) {
            *count += 1;
        }
    }

    /// Returns the count of a label.
    pub fn of(&self, label: L) -> u64 {
        self.0.get(label.index()).copied().unwrap_or(0)
    }

    /// Returns the sum over all labels.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn zip(&mut self, other: &Self, combine: &mut impl FnMut(&mut u64, u64)) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            combine(mine, theirs);
        }
    }
}

/// The same, counted by many tasks at a time. For the control plane.
#[derive(Debug)]
pub struct SharedCounts<L, const N: usize>([AtomicU64; N], PhantomData<fn(L)>);

impl<L, const N: usize> Default for SharedCounts<L, N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N], PhantomData)
    }
}

impl<L: Label, const N: usize> SharedCounts<L, N> {
    /// Counts one more.
    pub fn add(&self, label: L) {
        if let Some(count) = self.0.get(label.index()) {
            // Relaxed: the count guards no other memory.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how things stand.
    pub fn load(&self) -> Counts<L, N> {
        Counts(std::array::from_fn(|at| self.0.get(at).map_or(0, load)), PhantomData)
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_first_two_characters() {
        assert_eq!(SqlClass::of(*b"40P01"), SqlClass::Rollback);
        assert_eq!(SqlClass::of(*b"0A000"), SqlClass::Feature);
        assert_eq!(SqlClass::of(*b"72000"), SqlClass::Other);
        assert_eq!(SqlClass::of(*b"other"), SqlClass::Other, "a word is no class");
        for class in SqlClass::ALL.iter().filter(|class| **class != SqlClass::Other) {
            let &[first, second] = class.as_str().as_bytes() else { panic!("{class:?}") };
            assert_eq!(SqlClass::of([first, second, b'0', b'0', b'0']), *class);
        }
    }

    #[test]
    fn each_label_has_a_count_of_its_own() {
        let mut counts: Counts<ClientEnd, { ClientEnd::ALL.len() }> = Counts::default();
        for (at, end) in ClientEnd::ALL.iter().enumerate() {
            assert_eq!(end.index(), at);
            for _ in 0..=at {
                counts.add(*end);
            }
        }
        assert_eq!(counts.of(ClientEnd::Terminate), 1);
        assert_eq!(counts.of(ClientEnd::Admin), 8);
        assert_eq!(counts.sum(), 36);
    }
}
