//! Applies one batch to a secondary, in one transaction with the row that says where it stands.
//!
//! All truncates, then all deletes, updates and inserts: with nothing that refers to other rows
//! checked in between, the order among tables does not matter. Each statement must change as many
//! rows as it was given; if one does not, nothing stays, and the row is found that is to blame.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::batch::Position;
use super::catalog::{Key, Table, TableName};
use super::change::{Action, Change, RowKey};
use super::coalesce::{Impossible, NetTable};
use super::diagnose;
use super::error::Error;
use super::hook;
use super::snapshot::Snapshot;
use super::stage;
use super::statements::Statements;

/// LIMIT: rows of one statement.
const ROWS_MAX: usize = 10_000;

/// LIMIT: bytes of one statement, unless a single row is longer.
const BYTES_MAX: usize = 8 << 20;

/// LIMIT: statements on their way at a time; `join_all` polls so few in their order.
const IN_FLIGHT_MAX: usize = 16;

/// A table of the secondary that follows.
#[derive(Debug)]
pub struct Followed {
    /// The table as it is on the secondary.
    pub table: Table,
    /// The key of its rows, the same as on the primary.
    pub key: Key,
    /// What changes it.
    pub statements: Statements,
}

impl Followed {
    /// Takes a table of the secondary; `None` if it has no key.
    pub fn new(table: Table) -> Option<Self> {
        let key = table.key.clone()?;
        let statements = Statements::new(&table, &key);
        Some(Self { table, key, statements })
    }
}

/// The tables that follow, by their number in the change log.
pub type Tables = HashMap<i32, Arc<Followed>>;

/// What foreign keys and triggers of the secondary would do to what we apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Nothing: the session is one of a replica, or there are none.
    Off,
    /// Foreign keys are checked at the end of our transactions; there are no triggers.
    Deferred,
}

/// A batch that is ready to be applied.
#[derive(Debug)]
pub struct Ready {
    /// Where the secondary stands, before and after.
    pub from: Position,
    /// See [`Self::from`].
    pub until: Snapshot,
    /// What to do in each table, by its number.
    pub tables: Vec<(i32, NetTable)>,
    /// The changes that this is the net effect of.
    pub changes: u64,
    /// Id and transaction of the last of them.
    pub last: Option<(i64, u64)>,
    /// Changes that are left out, on somebody's word.
    pub skipped: Vec<Change>,
}

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else has applied something meanwhile.
    #[error("another applier has moved this secondary on")]
    Fenced,
    /// The change log contradicts itself.
    #[error(transparent)]
    Impossible(#[from] Box<Impossible>),
    /// The change log names a table that does not follow.
    #[error("the change log has changes of table number {number}, which does not follow")]
    Unknown {
        /// Its number.
        number: i32,
    },
    /// The secondary has no such row; it is not what it should be.
    #[error("{action} {table}: no row has the key {key:?}")]
    Missing {
        /// The table.
        table: TableName,
        /// The row's key.
        key: RowKey,
        /// What was to be done.
        action: &'static str,
    },
    /// The secondary refuses a change.
    #[error("{action} {table}, key {key:?}: {source}")]
    Refused {
        /// The table.
        table: TableName,
        /// The row's key, where it is known.
        key: Option<RowKey>,
        /// What was to be done.
        action: &'static str,
        /// What the server said.
        source: Box<Error>,
    },
    /// Something failed that has nothing to do with a row.
    #[error(transparent)]
    Other(#[from] Error),
}

impl ApplyError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.is_transient(),
            Self::Other(error) => error.is_transient(),
            // Another process may have put the table under capture.
            Self::Fenced | Self::Unknown { .. } => true,
            Self::Impossible(_) | Self::Missing { .. } => false,
        }
    }
}

/// Applies batches over one connection.
#[derive(Debug)]
pub struct Applier {
    pub(super) client: Client,
    pub(super) treatment: Treatment,
    prepared: HashMap<String, Statement>,
}

impl Applier {
    /// Takes over a connection to the secondary.
    pub fn new(client: Client, treatment: Treatment) -> Self {
        Self { client, treatment, prepared: HashMap::new() }
    }

    /// The connection, for what is no batch.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Applies a batch, and moves the secondary on.
    ///
    /// Not cancel safe: the transaction stays open; the connection must be dropped then. If the
    /// answer to COMMIT is lost, only the secondary knows whether it stands at `from` or `until`.
    ///
    /// # Errors
    /// [`ApplyError`]; except for [`Error`]s about the connection, nothing has happened.
    pub async fn apply(&mut self, tables: &Tables, batch: Ready) -> Result<Position, ApplyError> {
        let Ready { from, until, tables: nets, changes, last, skipped } = batch;
        let (truncated, jobs) = plan(tables, nets)?;
        for job in &jobs {
            self.prepare(job).await?;
        }
        let after = from.moved_to(&until);
        let step = Step { from: &from, until: &until, after: &after, changes, last, skipped };
        if let Err(error) = self.run(tables, &step, &truncated, &jobs).await {
            return Err(self.give_up(&truncated, &jobs, error).await);
        }
        self.commit().await?;
        Ok(after)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub(super) async fn start(&self) -> Result<(), Error> {
        self.client.batch_execute(self.begin()).await.map_err(Error::sql("begin a batch"))
    }

    /// Applies a batch whose changes are in the table of [`stage`], in the transaction that has begun.
    ///
    /// # Errors
    /// As those of [`Self::apply`].
    pub(super) async fn apply_staged(
        &self,
        tables: &Tables,
        batch: Ready,
    ) -> Result<Position, ApplyError> {
        let Ready { from, until, changes, last, skipped, .. } = batch;
        let after = from.moved_to(&until);
        let step = Step { from: &from, until: &until, after: &after, changes, last, skipped };
        let applied = match step.take(&self.client, tables).await {
            Ok(()) => stage::apply(self, tables).await,
            Err(error) => Err(error),
        };
        if let Err(error) = applied {
            let undone = self.client.batch_execute("ROLLBACK").await;
            undone.map_err(Error::sql("roll back a batch"))?;
            return Err(error);
        }
        self.commit().await?;
        Ok(after)
    }

    /// Everything up to COMMIT, which must not be sent before all is well.
    async fn run(
        &self,
        tables: &Tables,
        step: &Step<'_>,
        truncated: &[Arc<Followed>],
        jobs: &[Job],
    ) -> Result<(), ApplyError> {
        let (begun, moved) = tokio::join!(
            biased;
            self.client.batch_execute(self.begin()),
            step.take(&self.client, tables),
        );
        begun.map_err(Error::sql("begin a batch"))?;
        moved?;
        hook::reached("apply_begun");
        truncate(&self.client, truncated).await?;
        for some in jobs.chunks(IN_FLIGHT_MAX) {
            let results = join_all(some.iter().map(|job| self.execute(job))).await;
            for (job, result) in some.iter().zip(results) {
                job.judge(result)?;
            }
            hook::reached("apply_some");
        }
        Ok(())
    }

    pub(super) fn begin(&self) -> &'static str {
        match self.treatment {
            Treatment::Off => "BEGIN",
            Treatment::Deferred => "BEGIN; SET CONSTRAINTS ALL DEFERRED",
        }
    }

    async fn commit(&self) -> Result<(), Error> {
        hook::reached("apply_done");
        let commit = self.client.batch_execute("COMMIT").await;
        hook::reached("apply_committed");
        commit.map_err(Error::sql("commit a batch"))
    }

    /// Undoes the transaction, and finds the row that a failure is about.
    async fn give_up(
        &self,
        truncated: &[Arc<Followed>],
        jobs: &[Job],
        error: ApplyError,
    ) -> ApplyError {
        if let Err(error) = self.client.batch_execute("ROLLBACK").await {
            return Error::sql("roll back a batch")(error).into();
        }
        let is_about_rows =
            matches!(error, ApplyError::Refused { .. } | ApplyError::Missing { .. });
        if !is_about_rows || error.is_transient() {
            return error;
        }
        match diagnose::find(self, truncated, jobs).await {
            Ok(Some(found)) => found,
            Ok(None) => error,
            Err(failed) => failed.into(),
        }
    }

    async fn prepare(&mut self, job: &Job) -> Result<(), Error> {
        let sql = job.sql();
        if !self.prepared.contains_key(sql) {
            let types = vec![Type::TEXT_ARRAY; job.parameters.len()];
            let statement = self.client.prepare_typed(sql, &types).await;
            let statement = statement.map_err(Error::sql("prepare to apply"))?;
            self.prepared.insert(sql.to_owned(), statement);
        }
        Ok(())
    }

    pub(super) async fn execute(&self, job: &Job) -> Result<u64, tokio_postgres::Error> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            job.parameters.iter().map(|list| -> &(dyn ToSql + Sync) { list }).collect();
        match self.prepared.get(job.sql()) {
            Some(statement) => self.client.execute(statement, &parameters).await,
            None => self.client.execute(job.sql(), &parameters).await,
        }
    }
}

/// Where a batch leads, as the row in `pgtandem.progress` will say.
struct Step<'a> {
    from: &'a Position,
    until: &'a Snapshot,
    after: &'a Position,
    changes: u64,
    last: Option<(i64, u64)>,
    skipped: Vec<Change>,
}

impl Step<'_> {
    /// Moves the row on, if it says what we expect: then it is locked until the end of the
    /// transaction, and no other applier can have done the same.
    async fn take(&self, client: &Client, tables: &Tables) -> Result<(), ApplyError> {
        let wrong = || Error::sql("move the secondary on");
        let sql = "UPDATE pgtandem.progress SET snapshot = $1::pg_snapshot, \
                   last_id = coalesce($2, last_id), last_xid = coalesce($3::xid8, last_xid), \
                   changes = changes + $4, batches = batches + 1, applied_at = clock_timestamp() \
                   WHERE snapshot::text = $5";
        let (id, xid) = self.last.unzip();
        let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
            (&self.until.to_string(), Type::TEXT),
            (&id, Type::INT8),
            (&xid.map(|xid| xid.to_string()), Type::TEXT),
            (&self.changes.cast_signed(), Type::INT8),
            (&self.from.snapshot.to_string(), Type::TEXT),
        ];
        let moved = client.query_typed(&format!("{sql} RETURNING 1"), &parameters).await;
        if moved.map_err(wrong())?.len() != 1 {
            return Err(ApplyError::Fenced);
        }
        for number in self.from.own.keys().filter(|number| !self.after.own.contains_key(number)) {
            let Some(followed) = tables.get(number) else { continue };
            let TableName { schema, name } = &followed.table.name;
            let sql = "DELETE FROM pgtandem.copied WHERE schema = $1 AND name = $2";
            client.execute(sql, &[schema, name]).await.map_err(wrong())?;
        }
        for change in &self.skipped {
            let Some(followed) = tables.get(&change.table) else { continue };
            bury(client, &followed.table.name, change).await?;
        }
        Ok(())
    }
}

/// Keeps a change that is left out.
async fn bury(client: &Client, table: &TableName, change: &Change) -> Result<(), Error> {
    let sql = "INSERT INTO pgtandem.dead_letters (schema, name, key, op, image, reason) \
               VALUES ($1, $2, $3, $4, $5, $6)";
    let (op, image) = match &change.action {
        Action::Insert { image, .. } => ("insert", Some(image)),
        Action::Update { image, .. } => ("update", Some(image)),
        Action::Delete { .. } => ("delete", None),
        Action::Truncate => ("truncate", None),
    };
    let reason = format!("change {} of transaction {} was skipped", change.id, change.xid);
    let TableName { schema, name } = table;
    let key = change.action.key();
    let buried = client.execute(sql, &[schema, name, &key, &op, &image, &reason]).await;
    buried.map(drop).map_err(Error::sql("keep a skipped change"))
}

/// Empties tables, all in one statement: they may refer to each other.
pub(super) async fn truncate(client: &Client, tables: &[Arc<Followed>]) -> Result<(), ApplyError> {
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

    fn sql(&self) -> &str {
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
fn plan(
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
