//! What a verification has found, and the words for it.

use std::fmt;
use std::time::Duration;

use crate::replication::catalog::TableName;

use super::VerifyError;
use super::shape::Mismatch;
use super::view::Key;

/// Differing keys that are kept of a table; those beyond are only counted.
pub const KEYS_MAX: usize = 1000;

/// The answer to a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every table was compared and is the same.
    Equal,
    /// Something could not be compared, and nothing is known to differ.
    CouldNotTell,
    /// Something differs.
    Different,
}

impl Verdict {
    /// The word for it in tables and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::CouldNotTell => "could not tell",
            Self::Different => "different",
        }
    }

    /// What `replication verify` returns to the shell.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Equal => 0,
            Self::Different => 1,
            Self::CouldNotTell => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is on the primary only.
    Missing,
    /// It is on the secondary only, or there more than once.
    Extra,
    /// It is on both, and not the same.
    Different,
}

impl Kind {
    /// The word for it in tables and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }

    /// Reads a word of [`Kind::word`].
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Missing, Self::Extra, Self::Different].into_iter().find(|kind| kind.word() == word)
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The texts of its key's columns, in the order of the key.
    pub key: Key,
    /// How it differs.
    pub kind: Kind,
}

/// The rows of a table that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences {
    /// The first of them, of the kinds that are wanted.
    pub rows: Vec<Difference>,
    /// Rows that are missing.
    pub missing: u64,
    /// Rows that are extra.
    pub extra: u64,
    /// Rows that are there and not the same.
    pub different: u64,
    /// Whether rows differ that cannot be named, as the table has no key.
    pub has_unnamed: bool,
    /// Rows that were wanted and for which there was no room.
    pub dropped: u64,
    wanted: &'static [Kind],
    rows_max: usize,
}

impl Default for Differences {
    fn default() -> Self {
        Self::of(&[Kind::Missing, Kind::Extra, Kind::Different], KEYS_MAX)
    }
}

impl Differences {
    /// Keeps the first `rows_max` rows of these kinds, and counts all.
    pub fn of(wanted: &'static [Kind], rows_max: usize) -> Self {
        Self {
            rows: Vec::new(),
            missing: 0,
            extra: 0,
            different: 0,
            has_unnamed: false,
            dropped: 0,
            wanted,
            rows_max,
        }
    }

    /// Counts a difference, and keeps it if it is wanted and there is room.
    pub fn add(&mut self, key: Key, kind: Kind) {
        match kind {
            Kind::Missing => self.missing += 1,
            Kind::Extra => self.extra += 1,
            Kind::Different => self.different += 1,
        }
        if !self.wanted.contains(&kind) {
            return;
        }
        if self.rows.len() < self.rows_max {
            self.rows.push(Difference { key, kind });
        } else {
            self.dropped += 1;
        }
    }

    /// Forgets everything, and keeps what is wanted as before.
    pub fn clear(&mut self) {
        *self = Self::of(self.wanted, self.rows_max);
    }

    /// Rows that differ.
    pub fn total(&self) -> u64 {
        self.missing + self.extra + self.different
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.total() == 0 && !self.has_unnamed
    }
}

/// What came out for one table.
#[derive(Debug)]
pub enum Outcome {
    /// It is the same on both sides.
    Equal,
    /// Some of its rows differ.
    Rows(Differences),
    /// Its definitions differ, so that its rows were not compared.
    Schema(Mismatch),
    /// It could not be compared.
    CouldNotTell(VerifyError),
}

impl Outcome {
    /// The verdict about this table.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Equal => Verdict::Equal,
            Self::Rows(_) | Self::Schema(_) => Verdict::Different,
            Self::CouldNotTell(_) => Verdict::CouldNotTell,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal => f.write_str("equal"),
            Self::Rows(found) if found.total() == 0 => f.write_str("rows differ"),
            Self::Rows(found) => write!(
                f,
                "{} missing, {} extra, {} different",
                found.missing, found.extra, found.different
            ),
            Self::Schema(mismatch) => write!(f, "the schema differs: {mismatch}"),
            Self::CouldNotTell(error) => write!(f, "could not tell: {error}"),
        }
    }
}

/// One table of a report.
#[derive(Debug)]
pub struct TableReport {
    /// The table.
    pub table: TableName,
    /// What came out.
    pub outcome: Outcome,
    /// Rows of the primary that were compared.
    pub rows: u64,
    /// The last snapshot of the primary at which rows were compared.
    pub snapshot: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What a verification has found.
#[derive(Debug, Default)]
pub struct Report {
    /// The tables in the order in which they were compared.
    pub tables: Vec<TableReport>,
}

impl Report {
    /// The verdict about all tables.
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.tables.iter().map(|table| table.outcome.verdict());
        verdicts.max().unwrap_or(Verdict::Equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: Vec<Outcome>) -> Report {
        let table = |outcome| TableReport {
            table: TableName { schema: "s".to_owned(), name: "t".to_owned() },
            outcome,
            rows: 0,
            snapshot: None,
            took: Duration::ZERO,
        };
        Report { tables: outcomes.into_iter().map(table).collect() }
    }

    #[test]
    fn what_differs_outweighs_what_is_not_known() {
        let unknown = || Outcome::CouldNotTell(VerifyError::Gone);
        let different = || Outcome::Schema(Mismatch::Missing);
        let check = |outcomes, code| assert_eq!(report(outcomes).verdict().exit_code(), code);
        check(vec![], 0);
        check(vec![Outcome::Equal], 0);
        check(vec![Outcome::Equal, unknown()], 2);
        check(vec![unknown(), different(), Outcome::Equal], 1);
    }

    #[test]
    fn keys_are_bounded_and_rows_counted() {
        let mut found = Differences::default();
        assert!(found.is_empty());
        for number in 0..=KEYS_MAX {
            found.add(Box::new([number.to_string()]), Kind::Extra);
        }
        found.add(Box::new(["x".to_owned()]), Kind::Missing);
        assert_eq!((found.rows.len(), found.total()), (KEYS_MAX, 1002));
        assert_eq!(Outcome::Rows(found).to_string(), "1 missing, 1001 extra, 0 different");
    }

    #[test]
    fn words() {
        for kind in [Kind::Missing, Kind::Extra, Kind::Different] {
            assert_eq!(Kind::from_word(kind.word()), Some(kind));
        }
        assert_eq!(Kind::from_word("other"), None);
    }
}
