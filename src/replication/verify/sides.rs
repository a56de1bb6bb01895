//! Both sides at the same state of one table: a snapshot of the primary, and the secondary standing
//! exactly there.

use std::pin::pin;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::replication::catalog::{SCHEMA, Table};
use crate::replication::connect::{Target, connect};
use crate::replication::error::Error;
use crate::replication::literal;
use crate::replication::progress;
use crate::replication::snapshot::Snapshot;

use super::VerifyError;
use super::hold::{HoldError, Holds, Standing};
use super::shape::{self, Definition, Mismatch, Order, Shape};
use super::sql::{Digest, Statements};
use super::view::View;

/// Longest wait for the lock on a table; whoever queues behind us waits as long.
const LOCK_TIMEOUT: &str = "2s";

/// Time between two looks at who waits for our locks while we wait for the applier.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether somebody waits for a lock of process `$1`.
const WAITED_FOR: &str = "SELECT EXISTS (SELECT FROM pg_locks w WHERE NOT w.granted \
                          AND $1 = ANY (pg_blocking_pids(w.pid)))";

/// Settings of the sessions beyond those of [`connect`].
///
/// A server notices within seconds that we are gone (PostgreSQL 14 and later), and one comparison
/// takes one process of the primary, not all it has.
const SETTINGS: &str = "\
SET max_parallel_workers_per_gather = 0;
SELECT pg_catalog.set_config(name, '5s', false) FROM pg_catalog.pg_settings
WHERE name = 'client_connection_check_interval'";

/// A connection to each side.
pub struct Sides {
    /// To the primary.
    pub primary: Client,
    /// To the secondary.
    pub secondary: Client,
    /// What both hash alike with.
    pub digest: Digest,
    /// Where the primary is, and our process there.
    at: (Target, i32),
}

/// What the secondary's transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To compare.
    Compare,
    /// To compare and to write.
    Repair,
}

/// A table at one state of both sides.
pub struct State {
    /// What is compared.
    pub shape: Shape,
    /// How the sides order its keys.
    pub order: Order,
    /// Which state it is.
    pub snapshot: Snapshot,
    is_partitioned: [bool; 2],
    digest: Digest,
}

/// What came of [`Sides::open`].
pub enum Opened {
    /// Both sides can be compared; the applier stands as long as this is held.
    At(Box<State>, Standing),
    /// The table is not the same kind of thing on both sides.
    Unlike(Mismatch),
}

impl Sides {
    /// Connects to both, and finds out how to hash.
    ///
    /// # Errors
    /// [`Error`] of either side.
    pub async fn connect(primary: &Target, secondary: &Target) -> Result<Self, Error> {
        let at = primary;
        let (primary, secondary) = tokio::try_join!(connect(primary), connect(secondary))?;
        let wrong = || Error::sql("prepare the session");
        let row = primary.query_one("SELECT pg_backend_pid()", &[]).await;
        let at = (at.clone(), row.and_then(|row| row.try_get(0)).map_err(wrong())?);
        let (own, other) = tokio::try_join!(prepare(&primary), prepare(&secondary))?;
        let digest = if own == other { Digest::Fast } else { Digest::Strong };
        Ok(Self { primary, secondary, digest, at })
    }

    /// Opens a transaction on each side, so that both see the table in the same state.
    ///
    /// The table is locked before the snapshot is taken: TRUNCATE and an ALTER TABLE that rewrites are
    /// not bound to snapshots, and would leave an older one with an empty table. The applier is stopped
    /// after that, so that it never waits for our locks.
    /// Cancel safe: no; drop this as well, which ends both transactions.
    ///
    /// # Errors
    /// [`VerifyError`]; the transactions are as they are then, see [`Sides::close`].
    pub async fn open(
        &self,
        holds: &Holds,
        table: &Table,
        purpose: Purpose,
        limit: Duration,
    ) -> Result<Opened, VerifyError> {
        if !begin(&self.primary, table, Purpose::Compare).await? {
            return Err(VerifyError::Gone);
        }
        let stopped = self.unless_in_the_way(holds.stop(limit)).await?;
        let snapshot = current_snapshot(&self.primary).await?;
        let stands = stopped.apply_up_to(snapshot.clone(), limit);
        let standing = self.unless_in_the_way(stands).await?;
        if !begin(&self.secondary, table, purpose).await? {
            return Ok(Opened::Unlike(Mismatch::Missing));
        }
        let found = stands_at(&self.secondary, purpose).await?;
        if found != snapshot {
            return Err(VerifyError::Elsewhere { expected: snapshot, found });
        }
        if is_copying(&self.secondary, table, &snapshot).await? {
            return Err(VerifyError::Copying);
        }
        let key = shape::key(&self.primary, table).await?;
        let (own, other) = tokio::try_join!(
            shape::define(&self.primary, &table.name, &key),
            shape::define(&self.secondary, &table.name, &key),
        )?;
        let own = own.ok_or(VerifyError::Gone)?;
        let Some(other) = other else { return Ok(Opened::Unlike(Mismatch::Missing)) };
        let order = match own.compare(&other, &key) {
            Ok(order) => order,
            Err(mismatch) => return Ok(Opened::Unlike(mismatch)),
        };
        let is_partitioned = [own.is_partitioned, other.is_partitioned];
        let Definition { columns, .. } = own;
        let (name, rows_estimate, bytes) = (table.name.clone(), table.rows_estimate, table.bytes);
        let shape = Shape { name, columns, key, rows_estimate, bytes };
        let digest = self.digest;
        let state = State { shape, order, snapshot, is_partitioned, digest };
        Ok(Opened::At(Box::new(state), standing))
    }

    /// Waits for the applier, unless somebody waits for our lock on the primary: an application that
    /// changes a table never waits for whoever we wait for.
    async fn unless_in_the_way<T>(
        &self,
        wait: impl Future<Output = Result<T, HoldError>>,
    ) -> Result<T, VerifyError> {
        let mut wait = pin!(wait);
        // Over another connection: what this one asks first is what its snapshot is of.
        let (target, pid) = &self.at;
        let mut looker = None;
        loop {
            tokio::select! {
                biased;
                waited = &mut wait => return Ok(waited?),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let client = match &looker {
                Some(client) => client,
                None => looker.insert(connect(target).await?),
            };
            let wrong = || Error::sql("look who waits");
            let rows = client.query_typed(WAITED_FOR, &[(pid, Type::INT4)]).await;
            let rows = rows.map_err(wrong())?;
            let is_waited_for = rows.first().map_or(Ok(false), |row| row.try_get(0));
            if is_waited_for.map_err(wrong())? {
                return Err(VerifyError::InTheWay);
            }
        }
    }

    /// Ends both transactions, whatever they did.
    ///
    /// # Errors
    /// [`Error::Sql`] if a connection is broken.
    pub async fn close(&self) -> Result<(), Error> {
        let end = async |client: &Client| {
            client.batch_execute("ROLLBACK").await.map_err(Error::sql("end a transaction"))
        };
        tokio::try_join!(end(&self.primary), end(&self.secondary))?;
        Ok(())
    }
}

impl State {
    /// The rows of both sides: the primary's, the secondary's.
    pub fn views<'a>(&'a self, sides: &'a Sides) -> (View<'a>, View<'a>) {
        let [own, other] = self.is_partitioned;
        let view = |client: &'a Client, is_partitioned: bool| View {
            client,
            sql: Statements { shape: &self.shape, is_partitioned, digest: self.digest },
        };
        (view(&sides.primary, own), view(&sides.secondary, other))
    }
}

/// Prepares a session, and returns what tells whether another one hashes alike.
///
/// That versions differ is no reason to expect different hashes, nor is that they are equal one to
/// expect the same (byte orders differ): so texts of many lengths are hashed.
async fn prepare(client: &Client) -> Result<(String, String), Error> {
    const WHAT: &str = "prepare the session";
    client.batch_execute(SETTINGS).await.map_err(Error::sql(WHAT))?;
    let rows = client.query_typed(
        "SELECT getdatabaseencoding()::text, \
         sum(hashtextextended(md5(n::text) || repeat('x', n), 0))::text FROM generate_series(0, 300) n",
        &[],
    );
    let rows = rows.await.map_err(Error::sql(WHAT))?;
    let row = rows.first().ok_or_else(|| Error::Unexpected { what: WHAT.to_owned() })?;
    let read = |position| row.try_get(position).map_err(Error::sql(WHAT));
    Ok((read(0)?, read(1)?))
}

/// Begins a transaction and locks the table; returns whether there is one.
async fn begin(client: &Client, table: &Table, purpose: Purpose) -> Result<bool, Error> {
    let (mode, lock) = match purpose {
        Purpose::Compare => ("REPEATABLE READ READ ONLY", "ACCESS SHARE"),
        Purpose::Repair => ("READ COMMITTED READ WRITE", "ROW EXCLUSIVE"),
    };
    let statements = format!(
        "BEGIN ISOLATION LEVEL {mode}; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; \
         LOCK TABLE {} IN {lock} MODE",
        table.name.quoted()
    );
    match client.batch_execute(&statements).await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(false),
        Err(error) => Err(Error::sql("lock the table")(error)),
    }
}

/// Takes the snapshot of the transaction, or returns the one it has.
async fn current_snapshot(client: &Client) -> Result<Snapshot, Error> {
    read_snapshot(client, "take a snapshot", "SELECT pg_current_snapshot()::text").await
}

/// Reads where the secondary stands; a transaction that repairs keeps it there.
async fn stands_at(client: &Client, purpose: Purpose) -> Result<Snapshot, Error> {
    let fence = match purpose {
        Purpose::Compare => "",
        Purpose::Repair => " FOR UPDATE",
    };
    let table = literal::qualified(SCHEMA, "progress");
    let statement = format!("SELECT snapshot::text FROM {table}{fence}");
    read_snapshot(client, "read the progress", &statement).await
}

/// Whether the table does not stand where the secondary stands.
///
/// A table that has caught up keeps its row: then what it was copied with is seen by `snapshot`.
async fn is_copying(client: &Client, table: &Table, snapshot: &Snapshot) -> Result<bool, Error> {
    let copied = progress::copied(client).await?;
    let own = copied.into_iter().find(|copied| copied.table == table.name);
    Ok(own.is_some_and(|own| !own.snapshot.is_some_and(|own| snapshot.covers(&own))))
}

async fn read_snapshot(
    client: &Client,
    what: &'static str,
    statement: &str,
) -> Result<Snapshot, Error> {
    let rows = client.query_typed(statement, &[]).await.map_err(Error::sql(what))?;
    let row = rows.first().ok_or_else(|| Error::Unexpected { what: format!("cannot {what}") })?;
    let text: Option<String> = row.try_get(0).map_err(Error::sql(what))?;
    // The secondary's is null until its copy is complete.
    let text = text.unwrap_or_default();
    text.parse().map_err(|_invalid| Error::Unexpected { what: format!("snapshot {text:?}") })
}
