//! Puts one table under capture, and takes it out again.
//!
//! Each table has a transaction of its own. CREATE TRIGGER waits for the table's running writers,
//! and later writers wait behind it: so it waits for no lock longer than [`LOCK_WAIT`], gives way,
//! and comes back.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::error::CaptureError;
use super::installed::Installed;
use super::schema;
use super::shape::{Inserts, Shape};
use super::triggers::{Installation, Trigger};
use crate::replication::catalog::{Table, TableName};
use crate::replication::error::Error;
use crate::replication::literal;

/// Longest time that writers of a table wait behind us.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// Pauses between two tries to lock a table: doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What [`capture`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured {
    /// All was as it should be.
    Unchanged,
    /// Triggers or functions were changed without missing a row: a trigger of somebody else came or
    /// went.
    Adapted,
    /// A partition came, and its rows are captured from when it came. Rows that it brought along are
    /// not in the log, nor is a TRUNCATE of it alone: as after [`Captured::Began`], the table needs a
    /// new copy.
    Extended,
    /// Capture begins here: rows changed before may not be in the log. The table needs a new copy
    /// from a snapshot that is not older than `pgtandem.tables.since`.
    Began,
}

/// Puts a table under capture, or repairs its capture.
///
/// `table` must have been read lately; [`super::check()`] finds out if it has changed meanwhile.
/// Cancel safe: yes, the transaction under way is rolled back.
///
/// # Errors
/// [`CaptureError::Refused`], [`CaptureError::NotInstalled`], [`CaptureError::Sql`];
/// [`CaptureError::Busy`] if others held locks on the table for `patience`.
pub async fn capture(
    client: &mut Client,
    table: &Table,
    patience: Duration,
) -> Result<Captured, CaptureError> {
    let shapes = Shape::read(client, &[table]).await?;
    let shape = match shapes.into_values().next() {
        Some(Ok(shape)) => shape,
        Some(Err(why)) => return Err(CaptureError::Refused { table: table.name.clone(), why }),
        None => return Err(CaptureError::NotInstalled),
    };
    let mut tries = Tries::new(patience);
    loop {
        let result = try_capture(client, table, &shape).await;
        match result {
            Err(error) if error.is_about_locks() => tries.pause(&table.name.to_string()).await?,
            result => return result,
        }
    }
}

async fn try_capture(
    client: &mut Client,
    table: &Table,
    shape: &Shape,
) -> Result<Captured, CaptureError> {
    let wrong = || Error::sql("capture a table");
    if look(&*client, table, shape).await?.is_some_and(|look| look.is_settled) {
        // As a rule; it needs no lock, for which definitions of clients would have to end.
        return Ok(Captured::Unchanged);
    }
    let transaction = schema::begin(client, LOCK_WAIT).await?;
    let meta = schema::read(&transaction).await?;
    expect_same(&transaction, table).await?;
    let Look { number, installed, captured, is_open, .. } =
        match look(&transaction, table, shape).await? {
            Some(look) => look,
            None => Look::of_new(next_number(&transaction).await?),
        };
    let wanted = Installation::new(table, shape, number, meta.active);
    if captured != Captured::Unchanged || is_open {
        put(&transaction, &wanted, &installed, shape.is_owner).await?;
    }
    register(&transaction, table, shape, number, captured).await?;
    transaction.commit().await.map_err(wrong())?;
    Ok(captured)
}

/// What a table that is registered has, and what has to be done about it.
struct Look {
    number: i32,
    installed: Installed,
    captured: Captured,
    /// Whether others may call the functions than should.
    is_open: bool,
    /// Whether there is nothing to do at all.
    is_settled: bool,
}

impl Look {
    /// A table that is registered now.
    fn of_new(number: i32) -> Self {
        let (installed, captured) = (Installed::default(), Captured::Began);
        Self { number, installed, captured, is_open: false, is_settled: false }
    }
}

async fn look(
    client: &impl GenericClient,
    table: &Table,
    shape: &Shape,
) -> Result<Option<Look>, CaptureError> {
    let before = Before::read(client, table).await.map_err(Error::sql("capture a table"))?;
    let Some(before) = before else { return Ok(None) };
    let active = schema::read(client).await?.active;
    let wanted = Installation::new(table, shape, before.number, active);
    let names: Vec<String> = wanted.functions.iter().map(|f| f.name.clone()).collect();
    let installed = Installed::read_some(client, &names).await?;
    let state = State { table, shape, installed: &installed, active };
    let captured = state.since(&before);
    let is_open = wanted.functions.iter().any(|function| {
        installed.functions.get(&function.name).is_some_and(|found| !found.is_open_as(function))
    });
    let is_settled = captured == Captured::Unchanged && before.name == table.name && !is_open;
    Ok(Some(Look { number: before.number, installed, captured, is_open, is_settled }))
}

/// Makes sure that the table still is what was read. Nobody defines anything through us now, and past
/// us it is found by [`super::check()`].
async fn expect_same(transaction: &Transaction<'_>, table: &Table) -> Result<(), CaptureError> {
    let wrong = || Error::sql("look whether a table has changed");
    let sql = "SELECT fingerprint, schema, name FROM pgtandem.shape($1)";
    let row = transaction.query_opt(sql, &[&table.oid]).await.map_err(wrong())?;
    let is_same = match row {
        None => false,
        Some(row) => {
            let fingerprint: String = row.try_get(0).map_err(wrong())?;
            let schema = row.try_get(1).map_err(wrong())?;
            let name = TableName { schema, name: row.try_get(2).map_err(wrong())? };
            fingerprint == table.fingerprint() && name == table.name
        }
    };
    if is_same { Ok(()) } else { Err(CaptureError::Changed { table: table.name.clone() }) }
}

async fn next_number(transaction: &Transaction<'_>) -> Result<i32, CaptureError> {
    let next = "UPDATE pgtandem.meta SET next_number = next_number + 1 RETURNING next_number - 1";
    let row = transaction.query_one(next, &[]).await;
    Ok(row.and_then(|row| row.try_get(0)).map_err(Error::sql("number a table"))?)
}

/// How a table was captured so far.
struct Before {
    number: i32,
    inserts: Inserts,
    leaves: Vec<u32>,
    fingerprint: String,
    name: TableName,
    /// Whether a definition has written its functions, which pin all settings.
    is_plain: bool,
}

impl Before {
    async fn read(
        client: &impl GenericClient,
        table: &Table,
    ) -> Result<Option<Self>, tokio_postgres::Error> {
        let sql = "SELECT number, inserts, leaves, fingerprint, schema, name, is_plain
                   FROM pgtandem.tables WHERE relid = $1";
        let Some(row) = client.query_opt(sql, &[&table.oid]).await? else { return Ok(None) };
        Ok(Some(Self {
            number: row.try_get(0)?,
            inserts: Inserts::written(row.try_get(1)?),
            leaves: row.try_get(2)?,
            fingerprint: row.try_get(3)?,
            name: TableName { schema: row.try_get(4)?, name: row.try_get(5)? },
            is_plain: row.try_get(6)?,
        }))
    }
}

/// What the catalog shows of a table and its capture.
struct State<'a> {
    table: &'a Table,
    shape: &'a Shape,
    installed: &'a Installed,
    active: i32,
}

impl State<'_> {
    /// What has to be done to a table that was captured before.
    fn since(&self, before: &Before) -> Captured {
        let was_known = |oid: u32| before.leaves.contains(&oid);
        let kept: Vec<_> =
            self.shape.leaves.iter().filter(|leaf| was_known(leaf.oid)).cloned().collect();
        let is_whole = kept.len() == before.leaves.len();
        if self.table.fingerprint() != before.fingerprint || !is_whole {
            return Captured::Began;
        }
        if before.inserts == self.shape.inserts
            && kept.len() == self.shape.leaves.len()
            && self.is_complete(self.shape, before.number)
        {
            return if before.is_plain { Captured::Adapted } else { Captured::Unchanged };
        }
        let copies = self.shape.leaves.iter().filter(|leaf| !was_known(leaf.oid)).cloned();
        let added =
            Shape { inserts: before.inserts, leaves: copies.collect(), ..self.shape.clone() };
        let old = Shape { inserts: before.inserts, leaves: kept, ..self.shape.clone() };
        let is_as_defined = || before.is_plain && self.is_complete(&old.plain(), before.number);
        if !self.is_complete(&old, before.number) && !is_as_defined() {
            Captured::Began
        } else if added.leaves.is_empty() {
            Captured::Adapted
        } else if self.has_copies(&added, before.number) {
            Captured::Extended
        } else {
            Captured::Began
        }
    }

    /// Whether all triggers of a table are in place and fire, and call what they should.
    fn is_complete(&self, shape: &Shape, number: i32) -> bool {
        let wanted = Installation::new(self.table, shape, number, self.active);
        wanted.functions.iter().all(|function| self.installed.has(function))
            && wanted.triggers.iter().all(|trigger| self.has(trigger))
    }

    /// Whether PostgreSQL has put copies of the row triggers on all partitions.
    fn has_copies(&self, shape: &Shape, number: i32) -> bool {
        let wanted = Installation::new(self.table, shape, number, self.active);
        wanted.triggers.iter().filter(|trigger| trigger.is_copy).all(|trigger| self.has(trigger))
    }

    fn has(&self, trigger: &Trigger) -> bool {
        self.installed
            .trigger(trigger)
            .is_some_and(|found| found.is(trigger) && fires(found.enabled, self.shape.is_owner))
    }
}

/// Whether a trigger fires as often as we can make it.
pub(super) fn fires(enabled: char, is_owner: bool) -> bool {
    enabled == 'A' || (enabled == 'O' && !is_owner)
}

/// Makes what is missing, and replaces what is otherwise.
async fn put(
    transaction: &Transaction<'_>,
    wanted: &Installation,
    installed: &Installed,
    is_owner: bool,
) -> Result<(), CaptureError> {
    let run =
        async |sql: String, what| transaction.batch_execute(&sql).await.map_err(Error::sql(what));
    let is_wrong =
        |trigger: &&Trigger| installed.trigger(trigger).is_some_and(|found| !found.is(trigger));
    let wrong: Vec<&Trigger> = wanted.triggers.iter().filter(is_wrong).collect();
    for trigger in &wrong {
        // Dropping the function drops the trigger, without being the table's owner.
        run(drop_function(&trigger.function), "drop a trigger of capture").await?;
    }
    for function in &wanted.functions {
        run(function.create(), "create a function of capture").await?;
    }
    // PUBLIC may use new functions, and default privileges may have let in others.
    let names: Vec<String> = wanted.functions.iter().map(|f| f.name.clone()).collect();
    for (name, function) in Installed::read_some(transaction, &names).await?.functions {
        for grantee in function.grantees {
            run(revoke(&name, &grantee), "close a function of capture").await?;
        }
    }
    for function in &wanted.functions {
        if let Some(sql) = function.open() {
            run(sql, "open a function of capture to the owner of its table").await?;
        }
    }
    for trigger in &wanted.triggers {
        let is_dropped = wrong.iter().any(|gone| gone.function == trigger.function);
        let found = installed.trigger(trigger).filter(|_| !is_dropped);
        if found.is_none() && !trigger.is_copy {
            run(trigger.create(), "create a trigger of capture").await?;
        }
        if is_owner && found.is_none_or(|found| found.enabled != 'A') && !trigger.is_copy {
            run(trigger.enable_always(), "enable a trigger of capture").await?;
        }
    }
    Ok(())
}

/// Drops a function and the triggers that call it. Waits for everybody who uses their tables.
fn drop_function(name: &str) -> String {
    format!("DROP FUNCTION IF EXISTS {}() CASCADE;", literal::qualified("pgtandem", name))
}

fn revoke(function: &str, grantee: &str) -> String {
    let function = literal::qualified("pgtandem", function);
    // An upper-case name in quotes is a role's; PUBLIC without is everybody.
    let grantee =
        if grantee == "PUBLIC" { grantee.to_owned() } else { literal::identifier(grantee) };
    format!("REVOKE ALL ON FUNCTION {function}() FROM {grantee}")
}

/// Writes the table's row. The triggers' locks are held: whoever still changes the table unseen by
/// the triggers has ended, and a snapshot taken now sees it.
async fn register(
    transaction: &Transaction<'_>,
    table: &Table,
    shape: &Shape,
    number: i32,
    captured: Captured,
) -> Result<(), CaptureError> {
    let key: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    let leaves: Vec<u32> = shape.leaves.iter().map(|leaf| leaf.oid).collect();
    let sql = "INSERT INTO pgtandem.tables AS t
                   (number, relid, schema, name, key, fingerprint, inserts, leaves, since, first,
                    columns)
               SELECT $1, $2, $3, $4, $5, $6, $7, $8, pg_current_snapshot(),
                      pg_current_snapshot(), (SELECT relnatts FROM pg_class WHERE oid = $2)
               ON CONFLICT (number) DO UPDATE
               SET schema = excluded.schema, name = excluded.name, key = excluded.key,
                   fingerprint = excluded.fingerprint, inserts = excluded.inserts,
                   leaves = excluded.leaves, columns = excluded.columns, is_plain = false,
                   since = CASE WHEN $9 THEN excluded.since ELSE t.since END";
    let began = matches!(captured, Captured::Began | Captured::Extended);
    transaction
        .execute(
            sql,
            &[
                &number,
                &table.oid,
                &table.name.schema,
                &table.name.name,
                &key,
                &table.fingerprint(),
                &shape.inserts.as_str(),
                &leaves,
                &began,
            ],
        )
        .await
        .map_err(Error::sql("register a table"))?;
    Ok(())
}

/// Takes a table out of capture, by its number in `pgtandem.tables`.
///
/// Waits for everybody who uses the table, readers too, in short tries up to `patience`. Its rows in
/// the log stay until the log is truncated. Cancel safe: yes.
///
/// # Errors
/// [`CaptureError::Busy`], [`CaptureError::Sql`].
pub async fn release(
    client: &mut Client,
    number: i32,
    patience: Duration,
) -> Result<(), CaptureError> {
    let mut tries = Tries::new(patience);
    loop {
        let result = try_release(client, number).await;
        match result {
            Err(error) if error.is_about_locks() => {
                tries.pause(&format!("number {number}")).await?;
            }
            result => return result,
        }
    }
}

async fn try_release(client: &mut Client, number: i32) -> Result<(), CaptureError> {
    let wrong = || Error::sql("release a table");
    let transaction = schema::begin(client, LOCK_WAIT).await?;
    let mut sql: String = ["insert", "update", "delete", "truncate", "truncate_leaf"]
        .iter()
        .map(|what| drop_function(&format!("{what}_{number}")))
        .collect();
    sql.push_str("DELETE FROM pgtandem.tables WHERE number = ");
    sql.push_str(&number.to_string());
    transaction.batch_execute(&sql).await.map_err(wrong())?;
    transaction.commit().await.map_err(wrong())?;
    Ok(())
}

/// Takes all tables out of capture, those without an entry in `pgtandem.tables` too.
pub(super) async fn release_all(
    client: &mut Client,
    patience: Duration,
) -> Result<(), CaptureError> {
    let numbers = "SELECT DISTINCT substring(p.proname FROM '_([0-9]+)$')::int
                   FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                   WHERE n.nspname = 'pgtandem' AND p.prorettype = 'trigger'::regtype
                     AND pg_has_role(n.nspowner, 'USAGE') AND p.proname ~ '_[0-9]{1,9}$'";
    let rows = client.query(numbers, &[]).await.map_err(Error::sql("list captured tables"))?;
    for row in rows {
        let number = row.try_get(0).map_err(Error::sql("list captured tables"))?;
        release(client, number, patience).await?;
    }
    Ok(())
}

/// Tries that come less and less often until patience is out.
struct Tries {
    began: Instant,
    patience: Duration,
    pause: Duration,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self { began: Instant::now(), patience, pause: PAUSES.0 }
    }

    async fn pause(&mut self, table: &str) -> Result<(), CaptureError> {
        let waited = self.began.elapsed();
        if waited + self.pause > self.patience {
            return Err(CaptureError::Busy { table: table.to_owned(), waited });
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}
