//! Prepared statements: what they are, and which of them a backend holds.
//!
//! A statement is its definition (text and parameter types); whoever prepares the same definition
//! shares it. On servers it has a name of ours, never one of a client. Pooling point A8.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix of every statement name of ours on a server.
pub const NAME_PREFIX: &[u8] = b"pgtandem_";

/// Numbers statements; unique in the process, also across workers.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A statement's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatementId(u64);

/// One definition that a client prepared.
#[derive(Debug)]
pub struct Statement {
    id: StatementId,
    /// Text and parameter types, as in Parse behind the name.
    definition: Box<[u8]>,
}

impl Statement {
    /// Returns its number.
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// Returns text and parameter types, as in Parse behind the name.
    pub fn definition(&self) -> &[u8] {
        &self.definition
    }

    /// Appends its name on servers, without a terminator.
    pub fn write_name(&self, out: &mut Vec<u8>) {
        write_name(self.id, out);
    }
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

#[derive(Debug)]
struct ByDefinition(Arc<Statement>);

impl PartialEq for ByDefinition {
    fn eq(&self, other: &Self) -> bool {
        self.0.definition == other.0.definition
    }
}

impl Eq for ByDefinition {}

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.definition.hash(state);
    }
}

impl std::borrow::Borrow<[u8]> for ByDefinition {
    fn borrow(&self) -> &[u8] {
        &self.0.definition
    }
}

/// Every statement that sessions of one worker have prepared, by definition.
///
/// LIMIT: statements that nobody uses any more are dropped whenever the number has doubled.
#[derive(Debug)]
pub struct Catalog {
    statements: HashSet<ByDefinition>,
    purge_at: usize,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { statements: HashSet::new(), purge_at: 1024 }
    }
}

impl Catalog {
    /// Returns the statement with this definition; makes it if there is none.
    pub fn intern(&mut self, definition: &[u8]) -> Arc<Statement> {
        if let Some(known) = self.statements.get(definition) {
            return Arc::clone(&known.0);
        }
        if self.statements.len() >= self.purge_at {
            self.statements.retain(|known| Arc::strong_count(&known.0) > 1);
            self.purge_at = (self.statements.len() * 2).max(1024);
        }
        let id = StatementId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let statement = Arc::new(Statement { id, definition: definition.into() });
        self.statements.insert(ByDefinition(Arc::clone(&statement)));
        statement
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

    /// Takes out the statement that was not used for longest, if there are more than `limit`.
    pub fn evict_above(&mut self, limit: usize) -> Option<Arc<Statement>> {
        if self.slots.len() <= limit {
            return None;
        }
        let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.last_use)?.0;
        let oldest = *oldest;
        self.slots.remove(&oldest).map(|slot| slot.statement)
    }

    /// Notes that the server dropped all statements but those of `kept`, which it had not seen yet.
    pub fn clear_except(&mut self, kept: &[StatementId]) {
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

    #[test]
    fn a08_same_text_and_types_share_a_statement() {
        let mut catalog = Catalog::default();
        let first = catalog.intern(b"select $1\0\0\x01\0\0\0\x17");
        let same = catalog.intern(b"select $1\0\0\x01\0\0\0\x17");
        let other = catalog.intern(b"select $1\0\0\x01\0\0\0\x19");
        assert!(Arc::ptr_eq(&first, &same));
        assert_ne!(first.id(), other.id());
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
        let all: Vec<_> = (0u8..3).map(|n| catalog.intern(&[n])).collect();
        for statement in &all {
            held.insert(Arc::clone(statement));
        }
        let [first, second, _] = all.as_slice() else { unreachable!() };
        assert_eq!(held.touch(first.id()), Held::Ready);
        assert_eq!(held.evict_above(2).map(|s| s.id()), Some(second.id()));
        assert_eq!(held.evict_above(2).map(|s| s.id()), None);
        assert_eq!(held.touch(second.id()), Held::Missing);
        held.mark_stale(first.id());
        assert_eq!(held.touch(first.id()), Held::Stale);
    }

    #[test]
    fn a14_unused_statements_are_forgotten() {
        let mut catalog = Catalog::default();
        let kept = catalog.intern(b"kept");
        for number in 0u32..10_000 {
            catalog.intern(&number.to_be_bytes());
        }
        assert!(catalog.statements.len() <= 1025);
        assert!(Arc::ptr_eq(&kept, &catalog.intern(b"kept")));
    }
}
