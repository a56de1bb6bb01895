//! One row of the change log.

use super::literal;

/// A change as capture has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order of conflicts: of two transactions that change one row, the later one
    /// has the greater ids.
    pub id: i64,
    /// The transaction that made it.
    pub xid: u64,
    /// The number of its table, as `pgtandem.tables` on the primary gives it.
    pub table: i32,
    /// What was done.
    pub action: Action,
}

impl Change {
    /// Splits an update that changes the key, into the row that goes and the row that comes.
    ///
    /// `key` are the positions of the key's columns in the image. `None` if the image is none.
    pub fn split(self, key: &[usize]) -> Option<(Self, Option<Self>)> {
        let Action::Update { key: old, image, was, now } = self.action else {
            return Some((self, None));
        };
        let last = key.iter().max()?;
        let mut fields = literal::first_fields(&image, last + 1)?;
        let parts = key.iter().map(|&position| fields.get_mut(position)?.take());
        let new: RowKey = parts.collect::<Option<_>>()?;
        let with = |action| Self { action, ..self };
        if new == old {
            return Some((with(Action::Update { key: old, image, was, now }), None));
        }
        let goes = with(Action::Delete { key: old, was });
        Some((goes, Some(with(Action::Insert { key: new, image, now }))))
    }
}

/// The key of a row: each of its columns as its type's output function prints it.
pub type RowKey = Vec<String>;

/// One version of a row: the partition and the place in it.
///
/// Within a transaction no place is used twice, so that versions tell in which order the changes of
/// a row were made: a trigger that changes a row in the middle of a statement is logged before that
/// statement's own change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The oid of the partition; 0 for a table without.
    pub leaf: u32,
    /// Block and line pointer (`ctid`).
    pub place: (u32, u16),
}

/// What was done to a row, or to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A row that was not there before.
    Insert {
        /// The row's key.
        key: RowKey,
        /// The whole row as a composite literal.
        image: String,
        /// The version made; unknown for rows that are captured by statement.
        now: Option<Version>,
    },
    /// A row that stays, perhaps with another key.
    Update {
        /// The row's key before.
        key: RowKey,
        /// The whole row as a composite literal.
        image: String,
        /// The version replaced.
        was: Option<Version>,
        /// The version made.
        now: Option<Version>,
    },
    /// A row that is not there any more.
    Delete {
        /// The row's key.
        key: RowKey,
        /// The version deleted.
        was: Option<Version>,
    },
    /// All rows of the table.
    Truncate,
}

/// The columns of the change log that say what was done.
#[derive(Debug, Default)]
pub struct Logged {
    /// `I`, `U`, `D` or `T`.
    pub op: u8,
    /// The row's key.
    pub key: Option<Vec<Option<String>>>,
    /// The row's image.
    pub new: Option<String>,
    /// The partition.
    pub leaf: Option<u32>,
    /// The version replaced or deleted, as text.
    pub was: Option<String>,
    /// The version made, as text.
    pub now: Option<String>,
}

impl Logged {
    /// Understands the columns; `None` if they do not fit together.
    pub fn action(self) -> Option<Action> {
        let Self { op, key, new, leaf, was, now } = self;
        let version = |place: Option<String>| -> Option<Option<Version>> {
            let Some(place) = place else { return Some(None) };
            let (block, line) = place.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
            let place = (block.parse().ok()?, line.parse().ok()?);
            Some(Some(Version { leaf: leaf.unwrap_or_default(), place }))
        };
        let key = || key?.into_iter().collect::<Option<RowKey>>();
        Some(match op {
            b'I' => Action::Insert { key: key()?, image: new?, now: version(now)? },
            b'U' => {
                Action::Update { key: key()?, image: new?, was: version(was)?, now: version(now)? }
            }
            b'D' => Action::Delete { key: key()?, was: version(was)? },
            b'T' => Action::Truncate,
            _ => return None,
        })
    }
}

impl Action {
    /// The key of the row; none if it is about all rows.
    pub fn key(&self) -> Option<&RowKey> {
        match self {
            Self::Insert { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => {
                Some(key)
            }
            Self::Truncate => None,
        }
    }

    /// Bytes that this change takes in memory, nearly.
    pub fn size(&self) -> usize {
        const EACH: usize = 128;
        let key_size = |key: &RowKey| key.iter().map(|part| part.len() + 24).sum::<usize>();
        EACH + match self {
            Self::Insert { key, image, .. } | Self::Update { key, image, .. } => {
                key_size(key) + image.len()
            }
            Self::Delete { key, .. } => key_size(key),
            Self::Truncate => 0,
        }
    }
}
