//! The initial copy, and that of single tables, while the primary is written to.
//!
//! All tables are read in one exported snapshot of the primary, by as many connections as allowed.
//! Each table is a transaction on the secondary, with a row in `pgtandem.copied` that says what it
//! has: what was done is not done again after a crash, and a table copied under an earlier snapshot
//! catches up by itself. Rows stream through; nothing here grows with them.
//!
//! In the first copy, which nobody can rely on before it is complete, large tables are copied in parts
//! by several connections (`parts`), each of them a transaction; `worker` copies one table or part.

mod parts;
mod worker;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio_postgres::Client;

use self::parts::Part;
use self::worker::Worker;
use super::apply::Treatment;
use super::catalog::{Table, TableName};
use super::connect::{Target, connect};
use super::error::Error;
use super::primary::make_durable;
use super::schema_copy::Made;
use super::snapshot::Snapshot;

/// Time between two looks at who waits for what is being copied.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A definition of a table came between, on either side.
    #[error("{table} has just been changed")]
    Changed {
        /// The table.
        table: TableName,
    },
    /// An application waits for a table that is being copied, and goes first.
    #[error("somebody waits for a table that is being copied")]
    InTheWay,
    /// A table that should be empty has rows.
    #[error("{table} is not empty; RESYNC replaces what it has")]
    NotEmpty {
        /// The table.
        table: TableName,
    },
    /// Somebody else has begun to copy a table.
    #[error("{table} is being copied by another process")]
    Fenced {
        /// The table.
        table: TableName,
    },
    /// The copy of a table failed.
    #[error("copy {table}: {source}")]
    Table {
        /// The table.
        table: TableName,
        /// What failed.
        source: Error,
    },
    /// Something failed that has nothing to do with a table.
    #[error(transparent)]
    Other(#[from] Error),
}

impl CopyError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotEmpty { .. } => false,
            Self::Fenced { .. } | Self::Changed { .. } | Self::InTheWay => true,
            Self::Table { source: error, .. } | Self::Other(error) => error.is_transient(),
        }
    }
}

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyProgress {
    /// Tables that are done.
    pub tables_done: usize,
    /// All tables of this copy.
    pub tables: usize,
    /// Rows that went through.
    pub rows: u64,
    /// Rows of all tables, as the primary guesses.
    pub rows_estimate: u64,
    /// Bytes that went through.
    pub bytes: u64,
    /// Bytes that all tables take on the primary, nearly what will go through.
    pub bytes_estimate: u64,
    /// Of a schema that is made too, what comes after the rows.
    pub schema: Option<Made>,
    /// When it began.
    pub began: Instant,
}

impl CopyProgress {
    /// One that has copied all rows, and makes the rest of the schema.
    pub fn of_schema(made: Made, began: Instant) -> Self {
        let (tables_done, tables, rows, rows_estimate, bytes, bytes_estimate) = (0, 0, 0, 0, 0, 0);
        let schema = Some(made);
        Self { tables_done, tables, rows, rows_estimate, bytes, bytes_estimate, schema, began }
    }
}

/// What a copy does with rows that the secondary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuses to begin.
    Refuse,
    /// Replaces them.
    Replace,
}

/// What to copy, and how.
#[derive(Debug)]
pub struct Plan {
    /// Where to read.
    pub primary: Target,
    /// Where to write.
    pub secondary: Target,
    /// What to copy.
    pub tables: Vec<Job>,
    /// How many tables or parts of tables at a time.
    pub workers: usize,
    /// Whether nothing on the secondary follows yet, so that a table may be there in part.
    pub is_first: bool,
    /// Whether foreign keys are checked at the end of a transaction: then there is only one.
    pub treatment: Treatment,
}

/// A table to copy.
#[derive(Debug, Clone)]
pub struct Job {
    /// The table as the primary has it.
    pub table: Table,
    /// Its oid on the secondary.
    pub oid: u32,
    /// What to do with rows that are there.
    pub existing: Existing,
}

/// What a worker does next.
#[derive(Debug)]
enum Task {
    Table(Job),
    Part(Part),
}

impl Task {
    fn table(&self) -> &TableName {
        match self {
            Self::Table(job) => &job.table.name,
            Self::Part(part) => part.table(),
        }
    }
}

/// Copies tables, and says under which snapshot of the primary.
///
/// The tables must be under capture already. Cancel safe: yes; what was being copied is rolled back, or
/// noted as still to be copied.
///
/// # Errors
/// [`CopyError`]. Tables that are done stay done.
pub async fn copy(
    mut plan: Plan,
    progress: &watch::Sender<Option<CopyProgress>>,
) -> Result<Snapshot, CopyError> {
    let holder = connect(&plan.primary).await?;
    let Exported { name, snapshot, written, has_ranges } = export(&holder).await?;
    // Over another connection: this one's transaction must stay as it is.
    make_durable(&connect(&plan.primary).await?, &written, "").await?;
    let mut tables = std::mem::take(&mut plan.tables);
    // The largest first, so that no worker is left alone with it at the end.
    tables.sort_by_key(|job| std::cmp::Reverse(job.table.bytes));
    progress.send_replace(Some(CopyProgress {
        tables_done: 0,
        tables: tables.len(),
        rows: 0,
        rows_estimate: tables.iter().map(|job| job.table.rows_estimate).sum(),
        bytes: 0,
        bytes_estimate: tables.iter().map(|job| job.table.bytes).sum(),
        schema: None,
        began: Instant::now(),
    }));
    let is_one = plan.treatment == Treatment::Deferred;
    let can_part = plan.is_first && has_ranges && !is_one && plan.workers > 1;
    let tasks = tasks(&plan, &holder, tables, can_part).await?;
    let count = if is_one { 1 } else { plan.workers.clamp(1, tasks.len().max(1)) };
    let queue = Mutex::new(tasks);
    let pids = Mutex::new(Vec::new());
    let workers = (0..count).map(|_| async {
        let worker = Worker::start(&plan, &name).await?;
        pids.lock().unwrap_or_else(PoisonError::into_inner).push(worker.pid);
        if is_one {
            worker.begin().await?;
        }
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(task) = next else { break };
            let done = match &task {
                Task::Table(job) => worker.copy(job, &snapshot, progress).await,
                Task::Part(part) => worker.copy_part(part, &snapshot, progress).await,
            };
            done.map_err(about(task.table()))?;
        }
        if is_one {
            worker.commit().await?;
        }
        Ok::<(), CopyError>(())
    });
    let watcher = connect(&plan.primary).await?;
    tokio::select! {
        biased;
        copied = try_join_all(workers) => copied.map(drop)?,
        stopped = watch_for_waiters(&watcher, &pids) => return Err(stopped),
    }
    drop(holder);
    Ok(snapshot)
}

/// Looks whether somebody waits for a table that is being read: an application that changes one
/// never waits for a copy to end, which may take hours. What is copied by then stays copied.
async fn watch_for_waiters(client: &Client, pids: &Mutex<Vec<i32>>) -> CopyError {
    let sql = "SELECT EXISTS (SELECT FROM pg_locks w WHERE NOT w.granted \
               AND pg_blocking_pids(w.pid) && $1)";
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let ours = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let row = client.query_one(sql, &[&ours]).await.and_then(|row| row.try_get(0));
        match row.map_err(Error::sql("look who waits")) {
            Ok(false) => {}
            Ok(true) => return CopyError::InTheWay,
            Err(error) => return error.into(),
        }
    }
}

/// Names the table that an error is about.
fn about(table: &TableName) -> impl FnOnce(CopyError) -> CopyError {
    let table = table.clone();
    move |error| match error {
        CopyError::Other(source) => CopyError::Table { table, source },
        error @ (CopyError::NotEmpty { .. }
        | CopyError::Fenced { .. }
        | CopyError::Changed { .. }
        | CopyError::InTheWay
        | CopyError::Table { .. }) => error,
    }
}

/// Makes the tasks of tables, which are sorted; large ones are cut in parts if that `can_part`.
async fn tasks(
    plan: &Plan,
    holder: &Client,
    tables: Vec<Job>,
    can_part: bool,
) -> Result<VecDeque<Task>, CopyError> {
    let mut tasks = VecDeque::with_capacity(tables.len());
    let mut secondary = None;
    for job in tables {
        let count = if can_part { parts::count(&job.table) } else { 1 };
        if count < 2 {
            tasks.push_back(Task::Table(job));
            continue;
        }
        let client = match &mut secondary {
            Some(client) => client,
            None => secondary.insert(connect(&plan.secondary).await?),
        };
        let name = job.table.name.clone();
        let parts = parts::cut(job, count, holder, client).await.map_err(about(&name))?;
        tasks.extend(parts.into_iter().map(Task::Part));
    }
    Ok(tasks)
}

/// A snapshot of the primary that others can use.
struct Exported {
    name: String,
    snapshot: Snapshot,
    /// Everything that it sees was written before this place of the log.
    written: String,
    /// Whether the server reads a range of a table without reading the rest: since PostgreSQL 14.
    has_ranges: bool,
}

/// Begins a transaction whose snapshot others can use.
async fn export(holder: &Client) -> Result<Exported, Error> {
    let wrong = || Error::sql("export a snapshot");
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    holder.batch_execute(begin).await.map_err(wrong())?;
    let sql = "SELECT pg_export_snapshot(), pg_current_snapshot()::text, \
               pg_current_wal_insert_lsn()::text, \
               current_setting('server_version_num')::int >= 140000";
    let row = holder.query_one(sql, &[]).await.map_err(wrong())?;
    let snapshot: String = row.try_get(1).map_err(wrong())?;
    let snapshot =
        snapshot.parse().map_err(|error| Error::Unexpected { what: format!("{error}") })?;
    Ok(Exported {
        name: row.try_get(0).map_err(wrong())?,
        snapshot,
        written: row.try_get(2).map_err(wrong())?,
        has_ranges: row.try_get(3).map_err(wrong())?,
    })
}

/// Empties a table of the secondary, or makes sure that it is empty.
async fn make_room(client: &Client, table: &Table, existing: Existing) -> Result<(), CopyError> {
    let wrong = || Error::sql("make room for the copy");
    if existing == Existing::Refuse {
        return expect_empty(client, table).await;
    }
    // TRUNCATE refuses a table that another one refers to, even one that is empty.
    let sql = "SELECT EXISTS (SELECT FROM pg_constraint \
               WHERE confrelid = $1 AND conrelid <> $1 AND contype = 'f')";
    let row = client.query_one(sql, &[&table.oid]).await.map_err(wrong())?;
    let is_referred_to: bool = row.try_get(0).map_err(wrong())?;
    let verb = if is_referred_to { "DELETE FROM" } else { "TRUNCATE" };
    let clear = client.batch_execute(&format!("{verb} {}", table.only())).await;
    Ok(clear.map_err(wrong())?)
}

/// Makes sure that a table of the secondary is empty.
///
/// # Errors
/// [`CopyError::NotEmpty`], [`Error::Sql`].
pub async fn expect_empty(client: &Client, table: &Table) -> Result<(), CopyError> {
    let wrong = || Error::sql("look whether a table is empty");
    let sql = format!("SELECT EXISTS (SELECT FROM {})", table.only());
    let row = client.query_one(&sql, &[]).await.map_err(wrong())?;
    if row.try_get(0).map_err(wrong())? {
        return Err(CopyError::NotEmpty { table: table.name.clone() });
    }
    Ok(())
}
