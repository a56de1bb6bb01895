//! A definition as the change log has it: a statement that made or changed objects, and what became of
//! the tables under capture by it.
//!
//! It is written by `pgtandem.define` (`capture/sql/step_2.sql`): a row `S` for each table whose locks
//! the transaction holds or whose name is another one, and then a row `X` with the text.

use super::catalog::TableName;
use super::error::Error;

/// A statement that made or changed objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its place among the changes.
    pub id: i64,
    /// The transaction that it was made in.
    pub xid: u64,
    /// What the proxy said of its text: words.
    pub how: String,
    /// The statement.
    pub text: String,
    /// The role that made it.
    pub role: String,
    /// Names and values of the settings that it depends on.
    pub settings: Vec<(String, String)>,
    /// The tables under capture that it has to do with.
    pub tables: Vec<Shaped>,
    /// Rows of the log that it takes, and the sum of their ids.
    pub rows: (u64, u128),
}

/// A table under capture behind a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shaped {
    /// Its number in the log.
    pub number: i32,
    /// What became of it.
    pub fate: Fate,
    /// What it is called.
    pub table: TableName,
    /// What it looks like on the primary; none if it is not under capture any more.
    pub fingerprint: Option<String>,
    /// Columns that came, and the value that rows have in them that were there before: as
    /// `pg_attribute.attmissingval` prints it.
    pub missing: Vec<(String, String)>,
}

/// What became of a table by a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is new and empty: all its changes follow.
    Made,
    /// It may look otherwise. Nobody has changed its rows meanwhile.
    Changed,
    /// It looks the same, perhaps under another name. Others may be changing its rows.
    Noted,
    /// Its rows may be other ones, and are not in the log: it is to be copied.
    Copied,
    /// It is not under capture any more.
    Released,
}

impl Fate {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "made" => Self::Made,
            "changed" => Self::Changed,
            "noted" => Self::Noted,
            "copied" => Self::Copied,
            "released" => Self::Released,
            _ => return None,
        })
    }
}

impl Shaped {
    /// Whether what happened to its rows before must be applied before the definition is.
    ///
    /// So it is where nobody else can have had a lock on it for changing rows: then no transaction
    /// has changes of it on both sides of the definition. Within a transaction ids are not in the
    /// order of the changes, so that those of other tables must not be divided.
    pub fn is_cut(&self) -> bool {
        match self.fate {
            Fate::Made | Fate::Changed | Fate::Copied | Fate::Released => true,
            Fate::Noted => false,
        }
    }

    /// Understands a row `S` by its table's number and its facts.
    ///
    /// # Errors
    /// [`Error::Unexpected`].
    pub fn read(number: i32, facts: &[Option<String>]) -> Result<Self, Error> {
        let [Some(fate), Some(schema), Some(name), fingerprint, missing @ ..] = facts else {
            return Err(odd());
        };
        let table = TableName { schema: schema.clone(), name: name.clone() };
        Ok(Self {
            number,
            fate: Fate::of(fate).ok_or_else(odd)?,
            table,
            fingerprint: fingerprint.clone(),
            missing: pairs(missing)?,
        })
    }
}

impl Definition {
    /// Understands a row `X` by its place, its text and its facts; `tables` and `rows` are those of
    /// the rows before it, and its own.
    ///
    /// # Errors
    /// [`Error::Unexpected`].
    pub fn read(
        (id, xid): (i64, u64),
        text: String,
        facts: &[Option<String>],
        tables: Vec<Shaped>,
        rows: (u64, u128),
    ) -> Result<Self, Error> {
        let [Some(how), Some(role), settings @ ..] = facts else { return Err(odd()) };
        let (how, role, settings) = (how.clone(), role.clone(), pairs(settings)?);
        Ok(Self { id, xid, how, text, role, settings, tables, rows })
    }
}

fn pairs(facts: &[Option<String>]) -> Result<Vec<(String, String)>, Error> {
    let pair = |pair: &[Option<String>]| match pair {
        [Some(name), Some(value)] => Ok((name.clone(), value.clone())),
        _ => Err(odd()),
    };
    facts.chunks(2).map(pair).collect()
}

fn odd() -> Error {
    Error::Unexpected { what: "a definition that is odd".to_owned() }
}
