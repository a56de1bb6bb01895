//! Prepared statements: what they are, and which of them a backend holds.
//!
//! A statement is its definition (text and parameter types), the dialect it was written in (the
//! parameters that decide what its text means) and the pool it is for; whoever prepares the same there
//! shares it. On servers it has a name of ours, never one of a client. Pooling point A8.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::params::lexical;
use crate::sql;

/// Prefix of every statement name of ours on a server.
pub const NAME_PREFIX: &[u8] = b"pgtandem_";

/// Numbers statements; unique in the process, also across workers.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Numbers scopes; unique in the process.
static NEXT_SCOPE: AtomicU32 = AtomicU32::new(1);

/// A pool, as far as statements are concerned: what a server has accepted in one says nothing of another
/// database, or of what another role finds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u32);

impl Scope {
    /// Returns one that nobody else has.
    pub fn fresh() -> Self {
        Self(NEXT_SCOPE.fetch_add(1, Ordering::Relaxed))
    }
}

/// A statement's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatementId(u64);

/// Bytes of a scope in a key.
const SCOPE_BYTES: usize = size_of::<u32>();

/// One definition that a client prepared.
#[derive(Debug)]
pub struct Statement {
    id: StatementId,
    /// Text and parameter types, as in Parse behind the name; then the dialect, and the scope.
    key: Box<[u8]>,
    /// Bytes of `key` that are the definition.
    definition_bytes: usize,
    /// Whether a server has accepted it.
    is_proven: AtomicBool,
    /// Whether it has to be looked at whenever it is used.
    is_plain: bool,
}

impl Statement {
    /// Returns its number.
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// Returns text and parameter types, as in Parse behind the name.
    pub fn definition(&self) -> &[u8] {
        self.key.get(..self.definition_bytes).unwrap_or_default()
    }

    /// Returns the dialect it was written in.
    pub fn dialect(&self) -> &[u8] {
        let end = self.key.len().saturating_sub(SCOPE_BYTES);
        self.key.get(self.definition_bytes..end).unwrap_or_default()
    }

    /// Says whether it leaves nothing behind in the session it is used in, as far as its text says.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Returns its text.
    pub fn text(&self) -> &[u8] {
        text_of(self.definition())
    }

    /// Says whether a server has accepted it.
    pub fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    /// Appends its name on servers, without a terminator.
    pub fn write_name(&self, out: &mut Vec<u8>) {
        write_name(self.id, out);
    }
}

/// Returns the text of a definition, which types of parameters follow.
pub fn text_of(definition: &[u8]) -> &[u8] {
    definition.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Appends the name that the statement `id` has on servers, without a terminator.
pub fn write_name(id: StatementId, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut rest = id.0;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(NAME_PREFIX);
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        // A definition says itself where it ends, so equal keys are equal in both parts.
        self.key == other.key
    }
}

impl Eq for Statement {}

#[derive(Debug)]
struct ByDefinition(Arc<Statement>);

impl PartialEq for ByDefinition {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for ByDefinition {}

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl std::borrow::Borrow<[u8]> for ByDefinition {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

/// So many statements are kept at least, although nobody uses them: somebody may prepare them again.
const UNUSED_KEPT_MAX: usize = 1024;

/// Of so many bytes at most, unless those in use have more.
const UNUSED_KEPT_BYTES_MAX: usize = 16 << 20;

/// Every statement that sessions of one worker have prepared, by definition.
///
/// LIMIT: statements that nobody uses any more are dropped whenever their number or their length has
/// doubled.
#[derive(Debug)]
pub struct Catalog {
    statements: HashSet<ByDefinition>,
    /// Bytes of all their keys.
    bytes: usize,
    purge_at: usize,
    purge_at_bytes: usize,
    /// Where the key of a look-up is built.
    key: Vec<u8>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            statements: HashSet::new(),
            bytes: 0,
            purge_at: UNUSED_KEPT_MAX,
            purge_at_bytes: UNUSED_KEPT_BYTES_MAX,
            key: Vec::new(),
        }
    }
}

impl Catalog {
    /// Returns the statement with this definition in this dialect, if a server of this pool has accepted
    /// it.
    pub fn find(
        &mut self,
        scope: Scope,
        definition: &[u8],
        dialect: &[u8],
    ) -> Option<Arc<Statement>> {
        self.write_key(scope, definition, dialect);
        let known = self.statements.get(self.key.as_slice())?;
        known.0.is_proven().then(|| Arc::clone(&known.0))
    }

    fn write_key(&mut self, scope: Scope, definition: &[u8], dialect: &[u8]) {
        // A definition says itself where it ends, and a scope is of one length: together they are one key.
        self.key.clear();
        self.key.extend_from_slice(definition);
        self.key.extend_from_slice(dialect);
        self.key.extend_from_slice(&scope.0.to_be_bytes());
    }

    /// Returns the statement with this definition in this dialect, for this pool; makes it if there is
    /// none.
    pub fn intern(&mut self, scope: Scope, definition: &[u8], dialect: &[u8]) -> Arc<Statement> {
        self.write_key(scope, definition, dialect);
        if let Some(known) = self.statements.get(self.key.as_slice()) {
            return Arc::clone(&known.0);
        }
        let is_full = self.bytes + self.key.len() > self.purge_at_bytes;
        if is_full || self.statements.len() >= self.purge_at {
            self.purge();
        }
        self.bytes += self.key.len();
        let id = StatementId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let key = self.key.as_slice().into();
        let definition_bytes = definition.len();
        let is_proven = AtomicBool::new(false);
        let is_plain = sql::is_plain(text_of(definition), lexical(dialect));
        let statement = Arc::new(Statement { id, key, definition_bytes, is_proven, is_plain });
        self.statements.insert(ByDefinition(Arc::clone(&statement)));
        statement
    }

    fn purge(&mut self) {
        let mut bytes = 0;
        self.statements.retain(|known| {
            let is_used = Arc::strong_count(&known.0) > 1;
            bytes += if is_used { known.0.key.len() } else { 0 };
            is_used
        });
        self.bytes = bytes;
        self.purge_at = (self.statements.len() * 2).max(UNUSED_KEPT_MAX);
        self.purge_at_bytes = (bytes * 2).max(UNUSED_KEPT_BYTES_MAX);
    }
}

/// Whether a statement of ours can be used on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is prepared.
    Ready,
    /// It must be prepared first.
    Missing,
    /// It is prepared, but the server refuses to run it any more (its result type changed): close
    /// and prepare it again. Pooling point A13.
    Stale,
}

#[derive(Debug)]
struct Slot {
    statement: Arc<Statement>,
    last_use: u64,
    is_stale: bool,
}

/// The prepared statements that one backend holds; the least recently used are evicted.
#[derive(Debug, Default)]
pub struct HeldStatements {
    slots: HashMap<StatementId, Slot, foldhash::fast::FixedState>,
    uses: u64,
}

impl HeldStatements {
    /// Says whether `id` can be used, and counts the use.
    pub fn touch(&mut self, id: StatementId) -> Held {
        self.uses += 1;
        match self.slots.get_mut(&id) {
            None => Held::Missing,
            Some(slot) => {
                slot.last_use = self.uses;
                if slot.is_stale { Held::Stale } else { Held::Ready }
            }
        }
    }

    /// Notes that `statement` is prepared.
    pub fn insert(&mut self, statement: Arc<Statement>) {
        self.uses += 1;
        let slot = Slot { last_use: self.uses, is_stale: false, statement };
        self.slots.insert(slot.statement.id, slot);
    }

    /// Notes that the server has accepted `id`.
    pub fn prove(&self, id: StatementId) {
        if let Some(slot) = self.slots.get(&id) {
            slot.statement.is_proven.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that `id` is not prepared any more.
    pub fn remove(&mut self, id: StatementId) {
        self.slots.remove(&id);
    }

    /// Notes that the server refuses to run `id` any more.
    pub fn mark_stale(&mut self, id: StatementId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_stale = true;
        }
    }

    /// Takes out the statements that were not used for longest, so that `limit` are left.
    pub fn evict_above(&mut self, limit: usize) -> Vec<Arc<Statement>> {
        let excess = self.slots.len().saturating_sub(limit);
        if excess == 0 {
            return Vec::new();
        }
        let mut by_use: Vec<(u64, StatementId)> =
            self.slots.iter().map(|(id, slot)| (slot.last_use, *id)).collect();
        by_use.sort_unstable();
        let oldest = by_use.into_iter().take(excess);
        oldest.filter_map(|(_, id)| self.slots.remove(&id)).map(|slot| slot.statement).collect()
    }

    /// Notes that the server dropped all statements but those of `kept`, which it had not seen yet.
    pub fn clear_except(&mut self, kept: &HashSet<StatementId>) {
        self.slots.retain(|id, _| kept.contains(id));
    }

    /// Returns how many are held.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Says whether none is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = Scope(0);

    #[test]
    fn a08_same_text_and_types_share_a_statement() {
        let mut catalog = Catalog::default();
        let first = catalog.intern(SCOPE, b"select $1\0\0\x01\0\0\0\x17", b"");
        let same = catalog.intern(SCOPE, b"select $1\0\0\x01\0\0\0\x17", b"");
        let other = catalog.intern(SCOPE, b"select $1\0\0\x01\0\0\0\x19", b"");
        assert!(Arc::ptr_eq(&first, &same));
        assert_ne!(first.id(), other.id());
        let elsewhere = catalog.intern(SCOPE, b"select $1\0\0\x01\0\0\0\x17", b"SQL, DMY");
        assert_ne!(first.id(), elsewhere.id(), "literals mean something else there");
        assert_eq!(elsewhere.dialect(), b"SQL, DMY");
    }

    #[test]
    fn what_one_pool_has_proven_is_not_proven_in_another() {
        let mut catalog = Catalog::default();
        let (here, there) = (Scope::fresh(), Scope::fresh());
        let known = catalog.intern(here, b"select\0\0\0", b"MDY");
        known.is_proven.store(true, Ordering::Relaxed);
        assert!(catalog.find(here, b"select\0\0\0", b"MDY").is_some());
        assert!(catalog.find(there, b"select\0\0\0", b"MDY").is_none());
        assert_ne!(known.id(), catalog.intern(there, b"select\0\0\0", b"MDY").id());
    }

    #[test]
    fn names_are_numbers_behind_our_prefix() {
        let mut name = Vec::new();
        write_name(StatementId(0), &mut name);
        name.push(b' ');
        write_name(StatementId(u64::MAX), &mut name);
        assert_eq!(name, b"pgtandem_0 pgtandem_18446744073709551615");
    }

    #[test]
    fn the_least_recently_used_statement_is_evicted() {
        let mut catalog = Catalog::default();
        let mut held = HeldStatements::default();
        let all: Vec<_> = (0u8..3).map(|n| catalog.intern(SCOPE, &[n], b"")).collect();
        for statement in &all {
            held.insert(Arc::clone(statement));
        }
        let [first, second, _] = all.as_slice() else { unreachable!() };
        assert_eq!(held.touch(first.id()), Held::Ready);
        let evicted: Vec<_> = held.evict_above(2).iter().map(|evicted| evicted.id()).collect();
        assert_eq!(evicted, [second.id()]);
        assert!(held.evict_above(2).is_empty());
        assert_eq!(held.touch(second.id()), Held::Missing);
        held.mark_stale(first.id());
        assert_eq!(held.touch(first.id()), Held::Stale);
    }

    #[test]
    fn a14_unused_statements_are_forgotten() {
        let mut catalog = Catalog::default();
        let kept = catalog.intern(SCOPE, b"kept", b"MDY");
        for number in 0u32..10_000 {
            catalog.intern(SCOPE, &number.to_be_bytes(), b"");
        }
        assert!(catalog.statements.len() <= 1025);
        assert!(Arc::ptr_eq(&kept, &catalog.intern(SCOPE, b"kept", b"MDY")));
    }

    #[test]
    fn a14_few_long_statements_that_nobody_uses_are_too_many() {
        let mut catalog = Catalog::default();
        let long = |number: usize| format!("{number:04}").repeat(1 << 18);
        let kept: Vec<_> =
            (0..20).map(|n| catalog.intern(SCOPE, long(n).as_bytes(), b"")).collect();
        for number in 100..140 {
            catalog.intern(SCOPE, long(number).as_bytes(), b"");
        }
        let kept_bytes: usize = kept.iter().map(|statement| statement.key.len()).sum();
        let bytes: usize = catalog.statements.iter().map(|known| known.0.key.len()).sum();
        assert_eq!(bytes, catalog.bytes);
        assert!(bytes <= 2 * kept_bytes, "{bytes} bytes, of which {kept_bytes} are used");
        drop(kept);
        for number in 200..220 {
            catalog.intern(SCOPE, long(number).as_bytes(), b"");
        }
        assert!(catalog.bytes <= UNUSED_KEPT_BYTES_MAX, "{} bytes", catalog.bytes);
    }
}
