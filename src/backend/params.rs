//! The parameters of a session, and how to make them what a client expects.
//!
//! PostgreSQL reports some parameters (`GUC_REPORT`) by ParameterStatus whenever they change. Those
//! that can be SET are tracked here, and so are others that a client has SET: those are *carried*,
//! and were asked for (`session::state`). Each backend has a [`ParamSet`] that says where it stands,
//! each session one that says where it wants to stand. Sets are immutable and interned, so that the
//! usual checkout compares two pointers and does nothing else.
//!
//! Source: protocol-flow, "Asynchronous Operations"; PostgreSQL `src/backend/utils/misc/guc.c`
//! (`BeginReportingGUCOptions`).

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::sql;

/// Reported by the server, but not to be SET: facts about it, not state of the session.
const FACTS: [&[u8]; 5] = [
    b"server_version",
    b"server_encoding",
    b"integer_datetimes",
    b"is_superuser",
    b"in_hot_standby",
];

/// One parameter: name and value as the server spells them.
pub type Param = (Box<[u8]>, Box<[u8]>);

/// Parameters that decide what the text of a statement means: `'01/02/2020'::date` becomes a
/// constant when it is parsed.
const DIALECT: [&[u8]; 5] = [
    b"DateStyle",
    b"IntervalStyle",
    b"TimeZone",
    b"client_encoding",
    b"standard_conforming_strings",
];

/// The same among those that are not reported.
const CARRIED_DIALECT: [&[u8]; 5] = [
    b"array_nulls",
    b"lc_monetary",
    b"timezone_abbreviations",
    b"transform_null_equals",
    b"xmloption",
];

/// What texts are written in.
const ENCODING: &[u8] = b"client_encoding";

/// The user that a session acts as; others can be set only by who it was before.
const ROLE: &[u8] = b"role";

/// The tracked parameters of a session, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ParamSet {
    params: Vec<Param>,
    /// What is not reported, and has not the value that a fresh session has; names in lower case.
    carried: Vec<Param>,
    /// The values of those that decide what statements mean; follows from the others.
    dialect: Box<[u8]>,
}

impl ParamSet {
    /// Makes a set of those of `reported` that can be SET.
    pub fn from_reported<'a>(reported: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut set = Self::default();
        for (name, value) in reported.filter(|(name, _)| !is_fact(name)) {
            set.insert(name, value);
        }
        set.dialect = set.write_dialect();
        set
    }

    /// Returns what decides the meaning of statements: two sessions may share a prepared statement
    /// only if these bytes are the same.
    pub fn dialect(&self) -> &[u8] {
        &self.dialect
    }

    /// Returns the value of `name`, which is compared as PostgreSQL does: without case.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.find(name).map(|(_, value)| &**value)
    }

    /// Returns a set with one value changed or added; `None` if it has that value already.
    pub fn with(&self, name: &[u8], value: &[u8]) -> Option<Self> {
        let known = self.find(name);
        if is_fact(name) || known.is_some_and(|(_, current)| **current == *value) {
            return None;
        }
        let name = known.map_or(name, |(name, _)| name);
        let mut changed = self.clone();
        changed.insert(name, value);
        changed.dialect = changed.write_dialect();
        Some(changed)
    }

    /// Returns the carried parameters in order of their names.
    pub fn carried(&self) -> &[Param] {
        &self.carried
    }

    /// Returns a set that carries `carried`, whose names are in lower case.
    #[must_use]
    pub fn carrying(&self, carried: impl IntoIterator<Item = Param>) -> Self {
        let mut carried: Vec<Param> = carried.into_iter().collect();
        carried.sort_unstable();
        let mut changed = Self { params: self.params.clone(), carried, dialect: Box::default() };
        changed.dialect = changed.write_dialect();
        changed
    }

    /// Returns a set that carries the same parameters, but with values that nobody wants: something
    /// has happened to them.
    #[must_use]
    pub fn carrying_uncertain(&self) -> Self {
        let uncertain = |(name, _): &Param| (name.clone(), Box::from(*b"\0"));
        self.carrying(self.carried.iter().map(uncertain))
    }

    /// Returns how statements are read under these parameters.
    pub fn lexical(&self) -> sql::Dialect {
        lexical(&self.dialect)
    }

    /// Returns the parameters in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.params.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Writes the statement that has to come before any other that takes a session standing at `self`
    /// to `wanted`: its encoding, if there are texts that need it.
    pub fn write_encoding_of(&self, wanted: &Self, sql: &mut Vec<u8>) {
        let is_needed = wanted.carried.iter().any(|(_, value)| !value.is_ascii());
        if let Some(encoding) = wanted.value(ENCODING).filter(|_| is_needed)
            && self.value(ENCODING) != Some(encoding)
        {
            write_set(sql, ENCODING, encoding);
        }
    }

    /// Writes the statements that take a session standing at `self` to `wanted`, or nothing.
    ///
    /// Parameters that are reported and that only one side knows are left alone: what the server
    /// does not report cannot be restored later, so it must not be set either.
    pub fn write_changes_to(&self, wanted: &Self, sql: &mut Vec<u8>) {
        let start = sql.len();
        for (name, value) in wanted.iter() {
            if self.value(name).is_some_and(|current| current != value) {
                write_set(sql, name, value);
            }
        }
        let is_other = |name: &[u8]| name != ROLE;
        for (name, _) in self.carried.iter().filter(|(name, _)| is_other(name)) {
            if wanted.carries(name).is_none() {
                write_reset(sql, name);
            }
        }
        // The same bytes mean something else in another encoding.
        let is_same_encoding = self.value(ENCODING) == wanted.value(ENCODING);
        for (name, value) in wanted.carried.iter().filter(|(name, _)| is_other(name)) {
            let is_same_text = is_same_encoding || value.is_ascii();
            if self.carries(name) != Some(value) || !is_same_text {
                write_set_config(sql, name, value);
            }
        }
        let (before, after) = (self.carries(ROLE), wanted.carries(ROLE));
        if sql.len() == start && before == after {
            return;
        }
        if before.is_some() {
            // What only the user of the session may set is set as that user.
            let mut changes = sql.split_off(start);
            write_reset(sql, ROLE);
            sql.append(&mut changes);
        }
        if let Some(role) = after {
            write_set_config(sql, ROLE, role);
        }
    }

    fn carries(&self, name: &[u8]) -> Option<&[u8]> {
        self.carried.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }

    fn write_dialect(&self) -> Box<[u8]> {
        let mut dialect = Vec::new();
        for name in DIALECT {
            dialect.extend_from_slice(self.value(name).unwrap_or_default());
            dialect.push(0);
        }
        for (name, value) in &self.carried {
            if CARRIED_DIALECT.contains(&&**name) {
                dialect.extend_from_slice(name);
                dialect.push(b'=');
                dialect.extend_from_slice(value);
                dialect.push(0);
            }
        }
        dialect.into()
    }

    fn find(&self, name: &[u8]) -> Option<&Param> {
        self.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        match self.params.binary_search_by(|(known, _)| known.as_ref().cmp(name)) {
            Ok(at) => {
                if let Some(param) = self.params.get_mut(at) {
                    param.1 = value.into();
                }
            }
            Err(at) => self.params.insert(at, (name.into(), value.into())),
        }
    }
}

/// Returns how statements are read in a [dialect](ParamSet::dialect).
pub fn lexical(dialect: &[u8]) -> sql::Dialect {
    let mut values = dialect.split(|byte| *byte == 0).skip(3);
    let charset = sql::Charset::of(values.next().unwrap_or_default());
    let is_backslash_escape = values.next() == Some(b"off");
    sql::Dialect { charset, is_backslash_escape }
}

/// Says whether `name` is reported by servers but describes them, not the session.
pub fn is_fact(name: &[u8]) -> bool {
    FACTS.contains(&name)
}

/// Writes one SET. `set_config` takes any value as the server reports it; SET would quote a list
/// (`search_path`) as if it were one name.
pub fn write_set(sql: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if name.eq_ignore_ascii_case(b"search_path") {
        write_set_config(sql, name, value);
    } else {
        sql.extend_from_slice(b"SET ");
        write_identifier(sql, name);
        sql.extend_from_slice(b" = ");
        write_literal(sql, value);
        sql.push(b';');
    }
}

fn write_reset(sql: &mut Vec<u8>, name: &[u8]) {
    sql.extend_from_slice(b"RESET ");
    write_identifier(sql, name);
    sql.push(b';');
}

/// Writes a statement that fails exactly if the server refuses the value, and changes nothing.
pub fn write_trial(sql: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    // Local to the transaction of this query.
    write_call(sql, name, value, b"true");
}

/// Writes a statement that sets any parameter to any value, and returns a row.
pub fn write_set_config(sql: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    write_call(sql, name, value, b"false");
}

fn write_call(sql: &mut Vec<u8>, name: &[u8], value: &[u8], is_local: &[u8]) {
    sql.extend_from_slice(b"SELECT pg_catalog.set_config(");
    write_literal(sql, name);
    sql.extend_from_slice(b", ");
    write_literal(sql, value);
    sql.extend_from_slice(b", ");
    sql.extend_from_slice(is_local);
    sql.extend_from_slice(b");");
}

/// Writes `text` so that it is one string literal whatever `standard_conforming_strings` says.
pub fn write_literal(sql: &mut Vec<u8>, text: &[u8]) {
    if text.contains(&b'\\') {
        sql.push(b'E');
    }
    write_quoted(sql, text, b'\'', b"\\'");
}

fn write_identifier(sql: &mut Vec<u8>, name: &[u8]) {
    // A dot separates the parts of a custom parameter's name; it is not part of an identifier.
    for (at, part) in name.split(|byte| *byte == b'.').enumerate() {
        if at > 0 {
            sql.push(b'.');
        }
        write_quoted(sql, part, b'"', b"\"");
    }
}

fn write_quoted(sql: &mut Vec<u8>, text: &[u8], quote: u8, doubled: &[u8]) {
    sql.push(quote);
    for byte in text {
        if doubled.contains(byte) {
            sql.push(*byte);
        }
        sql.push(*byte);
    }
    sql.push(quote);
}

/// Keeps one copy of each distinct set, so that equal sets are the same pointer.
///
/// LIMIT: sets that nobody uses any more are dropped whenever the number has doubled.
#[derive(Debug)]
pub struct Interner {
    sets: HashSet<Shared>,
    purge_at: usize,
}

#[derive(Debug)]
struct Shared(Arc<ParamSet>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Shared {}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Default for Interner {
    fn default() -> Self {
        Self { sets: HashSet::new(), purge_at: 64 }
    }
}

impl Interner {
    /// Returns the one copy of `set`.
    pub fn intern(&mut self, set: ParamSet) -> Arc<ParamSet> {
        self.intern_shared(Arc::new(set))
    }

    /// Returns the one copy of `set`, which may come from another worker.
    pub fn intern_shared(&mut self, set: Arc<ParamSet>) -> Arc<ParamSet> {
        let candidate = Shared(set);
        if let Some(known) = self.sets.get(&candidate) {
            return Arc::clone(&known.0);
        }
        if self.sets.len() >= self.purge_at {
            self.sets.retain(|shared| Arc::strong_count(&shared.0) > 1);
            self.purge_at = (self.sets.len() * 2).max(64);
        }
        let set = Arc::clone(&candidate.0);
        self.sets.insert(candidate);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(params: &[(&str, &str)]) -> ParamSet {
        ParamSet::from_reported(params.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    fn changes(from: &[(&str, &str)], to: &[(&str, &str)]) -> String {
        let mut sql = Vec::new();
        set(from).write_changes_to(&set(to), &mut sql);
        String::from_utf8(sql).expect("ASCII")
    }

    #[test]
    fn only_differences_are_set() {
        let at = [("TimeZone", "UTC"), ("application_name", "a"), ("server_version", "15")];
        assert_eq!(changes(&at, &at), "");
        assert_eq!(
            changes(&at, &[("TimeZone", "UTC"), ("application_name", "b'\\")]),
            "SET \"application_name\" = E'b''\\\\';"
        );
    }

    #[test]
    fn c26_a_parameter_the_server_does_not_report_is_not_set() {
        assert_eq!(changes(&[("TimeZone", "UTC")], &[("TimeZone", "UTC"), ("x.y", "1")]), "");
    }

    #[test]
    fn c28_a_list_is_passed_as_it_was_reported() {
        assert_eq!(
            changes(&[("search_path", "\"$user\", public")], &[("search_path", "\"\"")]),
            "SELECT pg_catalog.set_config('search_path', '\"\"', false);"
        );
    }

    fn carried(params: &[(&str, &str)]) -> ParamSet {
        let param =
            |(name, value): &(&str, &str)| (name.as_bytes().into(), value.as_bytes().into());
        set(&[("TimeZone", "UTC")]).carrying(params.iter().map(param))
    }

    #[test]
    fn what_is_carried_is_set_and_taken_back() {
        let changes = |from: &[(&str, &str)], to: &[(&str, &str)]| {
            let mut sql = Vec::new();
            carried(from).write_changes_to(&carried(to), &mut sql);
            String::from_utf8(sql).expect("ASCII")
        };
        let call = |name: &str, value: &str| {
            format!("SELECT pg_catalog.set_config('{name}', '{value}', false);")
        };
        let (timeout, role) = (("statement_timeout", "5s"), ("role", "alice"));
        assert_eq!(changes(&[], &[timeout]), call("statement_timeout", "5s"));
        assert_eq!(changes(&[("my.x", "1")], &[]), "RESET \"my\".\"x\";");
        assert_eq!(changes(&[timeout], &[timeout]), "");
        assert_eq!(changes(&[role], &[role]), "");
        let both = changes(&[role], &[role, timeout]);
        let (before, after) = (call("statement_timeout", "5s"), call("role", "alice"));
        assert_eq!(both, format!("RESET \"role\";{before}{after}"));
        assert_eq!(changes(&[role], &[]), "RESET \"role\";");
    }

    #[test]
    fn what_is_carried_belongs_to_the_dialect_if_it_decides_what_texts_mean() {
        assert_eq!(carried(&[]).dialect(), carried(&[("statement_timeout", "5s")]).dialect());
        assert_ne!(carried(&[]).dialect(), carried(&[("array_nulls", "off")]).dialect());
    }

    #[test]
    fn equal_sets_are_one_pointer_and_unused_ones_go() {
        let mut interner = Interner::default();
        let first = interner.intern(set(&[("a", "1")]));
        assert!(Arc::ptr_eq(&first, &interner.intern(set(&[("a", "1")]))));
        for value in 0..1_000 {
            interner.intern(set(&[("a", &format!("v{value}"))]));
        }
        assert!(interner.sets.len() <= 65, "{} sets are kept", interner.sets.len());
        assert!(Arc::ptr_eq(&first, &interner.intern(set(&[("a", "1")]))));
    }
}
