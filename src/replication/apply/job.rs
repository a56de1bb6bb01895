//! The statements of a batch: which rows go with which of them, and in what order.

use std::sync::Arc;

use tokio_postgres::Client;

use super::{ApplyError, Followed, Tables};
use crate::replication::change::RowKey;
use crate::replication::coalesce::NetTable;
use crate::replication::error::Error;

/// LIMIT: rows of one statement.
const ROWS_MAX: usize = 10_000;

/// LIMIT: bytes of one statement, unless a single row is longer.
const BYTES_MAX: usize = 8 << 20;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Delete,
    Update,
    Insert,
}

/// Rows for one statement.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) followed: Arc<Followed>,
    pub(super) verb: Verb,
    pub(super) keys: Vec<RowKey>,
    /// What the statement takes: for deletes an array for each column of the key, else the images.
    pub(super) parameters: Vec<Vec<String>>,
}

impl Job {
    fn deletes(followed: &Arc<Followed>, keys: Vec<RowKey>) -> Self {
        let columns = followed.key.columns.len();
        let mut parameters = vec![Vec::with_capacity(keys.len()); columns];
        for key in &keys {
            for (list, part) in parameters.iter_mut().zip(key) {
                list.push(part.clone());
            }
        }
        Self { followed: Arc::clone(followed), verb: Verb::Delete, keys, parameters }
    }

    fn images(followed: &Arc<Followed>, verb: Verb, rows: Vec<(RowKey, String)>) -> Self {
        let (keys, images) = rows.into_iter().unzip();
        Self { followed: Arc::clone(followed), verb, keys, parameters: vec![images] }
    }

    pub(super) fn sql(&self) -> &str {
        let statements = &self.followed.statements;
        match self.verb {
            Verb::Delete => &statements.delete,
            Verb::Update => &statements.update,
            Verb::Insert => &statements.insert,
        }
    }

    pub(super) fn action(&self) -> &'static str {
        match self.verb {
            Verb::Delete => "delete from",
            Verb::Update => "update",
            Verb::Insert => "insert into",
        }
    }

    /// Splits the rows in two.
    pub(super) fn halves(&self) -> (Self, Self) {
        let middle = self.keys.len() / 2;
        let part = |start: usize, end: usize| Self {
            followed: Arc::clone(&self.followed),
            verb: self.verb,
            keys: self.keys.get(start..end).unwrap_or_default().to_vec(),
            parameters: self
                .parameters
                .iter()
                .map(|list| list.get(start..end).unwrap_or_default().to_vec())
                .collect(),
        };
        (part(0, middle), part(middle, self.keys.len()))
    }

    /// Says whether a result is as it must be; the key is the first one, where there is only one.
    pub(super) fn judge(
        &self,
        result: Result<u64, tokio_postgres::Error>,
    ) -> Result<(), ApplyError> {
        let table = || self.followed.table.name.clone();
        match result {
            Ok(rows) if usize::try_from(rows) == Ok(self.keys.len()) => Ok(()),
            Ok(_) => Err(ApplyError::Missing {
                table: table(),
                key: self.keys.first().cloned().unwrap_or_default(),
                action: self.action(),
            }),
            Err(source) => Err(ApplyError::Refused {
                table: table(),
                key: self.keys.first().filter(|_| self.keys.len() == 1).cloned(),
                action: self.action(),
                source: Box::new(Error::Sql { what: "apply", source }),
            }),
        }
    }
}

/// Makes a plan: the tables to empty, and the statements in their order.
pub(super) fn plan(
    tables: &Tables,
    nets: Vec<(i32, NetTable)>,
) -> Result<(Vec<Arc<Followed>>, Vec<Job>), ApplyError> {
    let mut truncated = Vec::new();
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    for (number, net) in nets {
        let followed = tables.get(&number).ok_or(ApplyError::Unknown { number })?;
        if net.is_truncated {
            truncated.push(Arc::clone(followed));
        }
        let work = net.into_work(followed.statements.how);
        for keys in chunks(work.deletes, |key| key.iter().map(String::len).sum()) {
            deletes.push(Job::deletes(followed, keys));
        }
        for rows in chunks(work.updates, |(_, image)| image.len()) {
            updates.push(Job::images(followed, Verb::Update, rows));
        }
        for rows in chunks(work.inserts, |(_, image)| image.len()) {
            inserts.push(Job::images(followed, Verb::Insert, rows));
        }
    }
    deletes.append(&mut updates);
    deletes.append(&mut inserts);
    Ok((truncated, deletes))
}

/// Empties tables, all in one statement: they may refer to each other.
pub(in crate::replication) async fn truncate(
    client: &Client,
    tables: &[Arc<Followed>],
) -> Result<(), ApplyError> {
    let Some(first) = tables.first() else { return Ok(()) };
    let names: Vec<_> = tables.iter().map(|followed| followed.table.only()).collect();
    let truncate = client.batch_execute(&format!("TRUNCATE {}", names.join(", "))).await;
    truncate.map_err(|source| ApplyError::Refused {
        table: first.table.name.clone(),
        key: None,
        action: "truncate",
        source: Box::new(Error::Sql { what: "truncate", source }),
    })
}

/// Cuts a list into pieces of at most [`ROWS_MAX`] rows and, where they have more than one row,
/// [`BYTES_MAX`] bytes.
fn chunks<T>(list: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for row in list {
        let more = size(&row);
        if !chunk.is_empty() && (chunk.len() == ROWS_MAX || bytes + more > BYTES_MAX) {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += more;
        chunk.push(row);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_by_rows_and_bytes() {
        let lengths = |list: Vec<usize>| {
            chunks(list, |bytes| *bytes).into_iter().map(|chunk| chunk.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(vec![]), Vec::<usize>::new());
        assert_eq!(lengths(vec![1; ROWS_MAX + 1]), [ROWS_MAX, 1]);
        assert_eq!(lengths(vec![BYTES_MAX / 2; 5]), [2, 2, 1]);
        assert_eq!(lengths(vec![2 * BYTES_MAX, 2 * BYTES_MAX, 1]), [1, 1, 1]);
    }
}
