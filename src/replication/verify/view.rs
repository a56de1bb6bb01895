//! One side's rows of one table, as its transaction sees them.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::replication::error::Error;

use super::sql::{Bounds, Form, Statements};

/// The texts of a key's columns.
pub type Key = Box<[String]>;

/// Rows by their key: after one key, up to another; open where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Range {
    /// The key before the first row.
    pub after: Option<Key>,
    /// The key of the last row, or what stands for it.
    pub upto: Option<Key>,
}

/// What is compared of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// Rows.
    pub rows: u64,
    /// Sum of the rows' hashes, as PostgreSQL prints it.
    pub hashes: String,
}

/// What is known of a key on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is no such row.
    Nothing,
    /// There is one, with this hash.
    One(i64),
    /// There is more than one: nothing keeps the key unique.
    Several,
}

/// One side's rows of one table.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The connection, inside its transaction.
    pub client: &'a Client,
    /// The statements about the table.
    pub sql: Statements<'a>,
}

/// A parameter and its type, for statements that are not prepared first.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl View<'_> {
    /// Counts the rows of a range and sums up their hashes.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn sums(&self, range: &Range, form: Form) -> Result<Sums, Error> {
        const WHAT: &str = "sum up rows";
        let statement = self.sql.sums(range.bounds(), form);
        let rows = self.client.query_typed(&statement, &range.parameters()).await;
        let rows = rows.map_err(Error::sql(WHAT))?;
        let row = rows.first().ok_or_else(|| nothing(WHAT))?;
        let count: i64 = row.try_get(0).map_err(Error::sql(WHAT))?;
        let hashes = row.try_get(1).map_err(Error::sql(WHAT))?;
        Ok(Sums { rows: u64::try_from(count).unwrap_or_default(), hashes })
    }

    /// Finds the key of the `rows`th row of a range, if it has so many.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn boundary(&self, range: &Range, rows: u64) -> Result<Option<Key>, Error> {
        const WHAT: &str = "find the end of a range";
        let statement = self.sql.boundary(range.bounds(), rows);
        let rows = self.client.query_typed(&statement, &range.parameters()).await;
        let rows = rows.map_err(Error::sql(WHAT))?;
        rows.first().map(|row| self.key(row)).transpose().map_err(Error::sql(WHAT))
    }

    /// Lists the first `rows` keys of a range with the hashes of their rows.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn list(
        &self,
        range: &Range,
        form: Form,
        rows: u64,
    ) -> Result<Vec<(Key, i64)>, Error> {
        const WHAT: &str = "list keys";
        let statement = self.sql.list(range.bounds(), form, rows);
        let rows = self.client.query_typed(&statement, &range.parameters()).await;
        let rows = rows.map_err(Error::sql(WHAT))?;
        let hash = self.sql.shape.key.len();
        let read = |row: &Row| Ok((self.key(row)?, row.try_get(hash)?));
        rows.iter().map(read).collect::<Result<_, _>>().map_err(Error::sql(WHAT))
    }

    /// Finds rows by their keys, in the order of the keys.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn lookup(&self, keys: &[Key], form: Form) -> Result<Vec<Found>, Error> {
        const WHAT: &str = "look up keys";
        let columns = self.columns(keys);
        let statement = self.sql.lookup(form);
        let rows = self.client.query_typed(&statement, &arrays(&columns)).await;
        let mut found = vec![Found::Nothing; keys.len()];
        for row in rows.map_err(Error::sql(WHAT))? {
            let hash = row.try_get(1).map_err(Error::sql(WHAT))?;
            let position: i64 = row.try_get(0).map_err(Error::sql(WHAT))?;
            let position = usize::try_from(position - 1).unwrap_or(usize::MAX);
            let found = found.get_mut(position).ok_or_else(|| nothing(WHAT))?;
            *found = if *found == Found::Nothing { Found::One(hash) } else { Found::Several };
        }
        Ok(found)
    }

    /// Whether somebody waits for a lock on a table that this transaction holds.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn is_in_the_way(&self) -> Result<bool, Error> {
        const WHAT: &str = "look who waits";
        let rows = self.client.query_typed(WAITED_FOR, &[]).await.map_err(Error::sql(WHAT))?;
        rows.first().ok_or_else(|| nothing(WHAT))?.try_get(0).map_err(Error::sql(WHAT))
    }

    /// Turns keys into one list of texts for each column.
    pub fn columns<'k>(&self, keys: &'k [Key]) -> Vec<Vec<&'k str>> {
        let column = |position: usize| {
            let texts = keys.iter().map(|key| key.get(position).map_or("", String::as_str));
            texts.collect::<Vec<&str>>()
        };
        (0..self.sql.shape.key.len()).map(column).collect()
    }

    fn key(&self, row: &Row) -> Result<Key, tokio_postgres::Error> {
        (0..self.sql.shape.key.len()).map(|position| row.try_get(position)).collect()
    }
}

const WAITED_FOR: &str = "\
SELECT EXISTS (
    SELECT FROM pg_locks held
    JOIN pg_locks waited USING (locktype, database, relation)
    WHERE held.locktype = 'relation' AND held.granted AND held.pid = pg_backend_pid()
      AND NOT waited.granted)";

/// Lists of [`View::columns`] as parameters.
pub fn arrays<'a>(columns: &'a [Vec<&'a str>]) -> Vec<Parameter<'a>> {
    columns.iter().map(|column| -> Parameter<'a> { (column, Type::TEXT_ARRAY) }).collect()
}

fn nothing(what: &'static str) -> Error {
    Error::Unexpected { what: format!("cannot {what}: the answer does not fit the question") }
}

impl Range {
    fn bounds(&self) -> Bounds {
        Bounds { after: self.after.is_some(), upto: self.upto.is_some() }
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        let texts = self.after.iter().chain(&self.upto).flatten();
        texts.map(|text| -> Parameter<'_> { (text, Type::TEXT) }).collect()
    }
}
