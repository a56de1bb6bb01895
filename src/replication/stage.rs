//! Applies a batch that is too large for memory: through a table on the secondary, in the same one
//! transaction.
//!
//! The changes are copied into a temporary table, and SQL works out their net effect by the rules of
//! [`super::coalesce`]. Rows that stay are deleted and inserted.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, CopyInSink, Row};

use super::apply::{Applier, ApplyError, Followed, Tables, truncate};
use super::change::{Action, Change, Version};
use super::coalesce::Impossible;
use super::error::Error;
use super::literal;
use super::statements;

/// Bytes that are handed on at a time.
const CHUNK: usize = 128 << 10;

const CREATE: &str = "\
CREATE TEMP TABLE pgtandem_stage (
    id bigint NOT NULL, place int NOT NULL, xid bigint NOT NULL, rel int NOT NULL,
    op \"char\" NOT NULL, key text[] COLLATE \"C\", new text COLLATE \"C\",
    was text COLLATE \"C\", now text COLLATE \"C\"
) ON COMMIT DROP";

const DIVIDED: &str = "\
CREATE TEMP TABLE IF NOT EXISTS pgtandem_divided (rel int NOT NULL, xid bigint NOT NULL) ON COMMIT DROP";

const COPY: &str = "COPY pg_temp.pgtandem_stage FROM STDIN";

/// What happened to each key in each transaction: whether a row was there before, and the one that is
/// there afterwards.
///
/// Of the versions of a row, one that nobody made was there before, and one that nobody replaced is
/// there afterwards. Where a version is not known, the order of the ids says it.
const NET: &str = "\
ANALYZE pg_temp.pgtandem_stage;
CREATE TEMP TABLE pgtandem_steps ON COMMIT DROP AS
WITH g AS MATERIALIZED (
    SELECT *, bool_or(op <> 'D' AND now IS NULL OR op <> 'I' AND was IS NULL) OVER same AS by_order,
           row_number() OVER (PARTITION BY rel, key, xid ORDER BY id, place) AS first,
           row_number() OVER (PARTITION BY rel, key, xid ORDER BY id DESC, place DESC) AS last
    FROM pg_temp.pgtandem_stage WINDOW same AS (PARTITION BY rel, key, xid)
), versions AS (
    SELECT rel, key, xid, id, was AS version, true AS is_replaced, false AS is_made, NULL AS new
    FROM g WHERE NOT by_order AND op <> 'I'
  UNION ALL
    SELECT rel, key, xid, id, now, false, true, new FROM g WHERE NOT by_order AND op <> 'D'
)
SELECT s.rel, s.key, s.xid, min(s.id) AS id,
       count(*) FILTER (WHERE s.is_head) AS heads,
       count(*) FILTER (WHERE s.is_tail) AS tails,
       max(s.new) FILTER (WHERE s.is_tail) AS image
FROM (
    SELECT rel, key, xid, id, op <> 'I' AND first = 1 AS is_head,
           op <> 'D' AND last = 1 AS is_tail, new
    FROM g WHERE by_order
  UNION ALL
    SELECT rel, key, xid, min(id), NOT bool_or(is_made), NOT bool_or(is_replaced), max(new)
    FROM versions GROUP BY rel, key, xid, version
) s
GROUP BY s.rel, s.key, s.xid;
CREATE TEMP TABLE pgtandem_net ON COMMIT DROP AS
SELECT * FROM (
    SELECT rel, key, id,
           first_value(heads) OVER same > 0 AS was_there,
           image,
           row_number() OVER (PARTITION BY rel, key ORDER BY id DESC) AS last
    FROM pg_temp.pgtandem_steps WINDOW same AS (PARTITION BY rel, key ORDER BY id)
) n WHERE last = 1;
ANALYZE pg_temp.pgtandem_net";

/// A step that cannot follow the one before it.
const IMPOSSIBLE: &str = "\
SELECT rel, key, id FROM (
    SELECT *, lag(image IS NOT NULL) OVER (PARTITION BY rel, key ORDER BY id) AS is_there
    FROM pg_temp.pgtandem_steps
) s
WHERE heads > 1 OR tails > 1 OR is_there <> (heads = 1) AND NOT (NOT is_there AND heads = 0)
   AND NOT (heads = 0 AND tails = 0)
   OR is_there IS NULL AND heads = 1 AND rel = ANY ($1)
LIMIT 1";

/// Begins: makes the table, and waits for rows. The transaction is open already.
pub(super) async fn create(client: &Client) -> Result<(), Error> {
    client.batch_execute(CREATE).await.map_err(Error::sql("make a table for a large batch"))
}

/// Leaves in the table what is to be applied before a definition that has to do with `numbers`: these
/// tables, and if one of them is emptied, all that are. The rest is put aside.
pub(super) async fn divide(client: &Client, numbers: &[i32]) -> Result<(), Error> {
    let wrong = || Error::sql("divide a large batch");
    let aside = "ALTER TABLE pg_temp.pgtandem_stage RENAME TO pgtandem_later";
    client.batch_execute(aside).await.map_err(wrong())?;
    create(client).await?;
    let sql = "WITH d AS (DELETE FROM pg_temp.pgtandem_later WHERE rel = ANY ($1) \
               OR rel IN (SELECT rel FROM pg_temp.pgtandem_later WHERE op = 'T') \
               AND EXISTS (SELECT FROM pg_temp.pgtandem_later WHERE op = 'T' AND rel = ANY ($1)) \
               RETURNING *) INSERT INTO pg_temp.pgtandem_stage SELECT * FROM d";
    client.execute(sql, &[&numbers]).await.map(drop).map_err(wrong())
}

/// Notes of tables that are divided, of all if there are no `numbers`, which transactions have changed
/// them by now; returns the tables.
pub(super) async fn note_divided(
    client: &Client,
    numbers: Option<&[i32]>,
) -> Result<Vec<i32>, Error> {
    let wrong = || Error::sql("divide a large batch");
    client.batch_execute(DIVIDED).await.map_err(wrong())?;
    let note = "WITH d AS (INSERT INTO pg_temp.pgtandem_divided SELECT DISTINCT rel, xid \
                FROM pg_temp.pgtandem_stage WHERE $1::int[] IS NULL OR rel = ANY ($1) RETURNING rel) \
                SELECT DISTINCT rel FROM d";
    let rows = client.query_typed(note, &[(&numbers, Type::INT4_ARRAY)]).await.map_err(wrong())?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(wrong())
}

/// The tables that were divided by [`note_divided`] and have changes in the table of transactions that
/// had changed them before.
pub(super) async fn torn(client: &Client) -> Result<Vec<i32>, Error> {
    let wrong = || Error::sql("look at a divided batch");
    client.batch_execute(DIVIDED).await.map_err(wrong())?;
    let sql = "SELECT DISTINCT rel FROM pg_temp.pgtandem_stage \
               JOIN pg_temp.pgtandem_divided USING (rel, xid)";
    let rows = client.query_typed(sql, &[]).await.map_err(wrong())?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(wrong())
}

/// Forgets what is in the table of some tables.
pub(super) async fn forget(client: &Client, numbers: &[i32]) -> Result<(), Error> {
    if numbers.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM pg_temp.pgtandem_stage WHERE rel = ANY ($1)";
    let forgotten = client.execute(sql, &[&numbers]).await;
    forgotten.map(drop).map_err(Error::sql("forget a part of a large batch"))
}

/// Takes back what was put aside; what was in the table is applied.
pub(super) async fn unite(client: &Client) -> Result<(), Error> {
    let sql = "DROP TABLE pg_temp.pgtandem_stage, pg_temp.pgtandem_steps, pg_temp.pgtandem_net; \
               ALTER TABLE pg_temp.pgtandem_later RENAME TO pgtandem_stage";
    client.batch_execute(sql).await.map_err(Error::sql("unite a large batch"))
}

/// Writes changes into the table.
pub(super) struct Writer {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    chunk: BytesMut,
}

impl Writer {
    /// Begins to write.
    pub(super) async fn start(client: &Client) -> Result<Self, Error> {
        let sink = client.copy_in(COPY).await.map_err(Error::sql("stage a large batch"))?;
        Ok(Self { sink: Box::pin(sink), chunk: BytesMut::with_capacity(CHUNK) })
    }

    /// Writes a change; updates must leave the key as it is. `place` tells the parts of one apart.
    pub(super) async fn write(&mut self, change: &Change, place: u8) -> Result<(), Error> {
        let Change { id, xid, table, action } = change;
        let (op, key, image, was, now) = match action {
            Action::Insert { key, image, now } => ('I', Some(key), Some(image), &None, now),
            Action::Update { key, image, was, now } => ('U', Some(key), Some(image), was, now),
            Action::Delete { key, was } => ('D', Some(key), None, was, &None),
            Action::Truncate => ('T', None, None, &None, &None),
        };
        let key = key.map(|key| literal::array(key.iter().map(|part| Some(part.as_str()))));
        let version = |version: &Option<Version>| {
            version.map(|Version { leaf, place: (block, line) }| format!("{leaf}.{block}.{line}"))
        };
        self.chunk.put_slice(format!("{id}\t{place}\t{xid}\t{table}\t{op}").as_bytes());
        for field in [key.as_ref(), image, version(was).as_ref(), version(now).as_ref()] {
            self.chunk.put_u8(b'\t');
            put_field(&mut self.chunk, field.map(String::as_str));
        }
        self.chunk.put_u8(b'\n');
        if self.chunk.len() >= CHUNK {
            let chunk = self.chunk.split().freeze();
            self.sink.send(chunk).await.map_err(Error::sql("stage a large batch"))?;
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        let wrong = || Error::sql("stage a large batch");
        self.sink.send(self.chunk.freeze()).await.map_err(wrong())?;
        self.sink.as_mut().finish().await.map(drop).map_err(wrong())
    }
}

/// Writes a field of COPY's text format.
fn put_field(to: &mut BytesMut, field: Option<&str>) {
    let Some(field) = field else { return to.put_slice(b"\\N") };
    for byte in field.bytes() {
        match byte {
            b'\\' => to.put_slice(b"\\\\"),
            b'\n' => to.put_slice(b"\\n"),
            b'\r' => to.put_slice(b"\\r"),
            b'\t' => to.put_slice(b"\\t"),
            byte => to.put_u8(byte),
        }
    }
}

/// Applies what the table holds, up to but without COMMIT.
pub(super) async fn apply(applier: &Applier, tables: &Tables) -> Result<(), ApplyError> {
    let client = applier.client();
    let wrong = || Error::sql("apply a large batch");
    let truncated = truncated(client, tables).await?;
    client.batch_execute(NET).await.map_err(wrong())?;
    let numbers: Vec<i32> = truncated.iter().map(|(number, _)| *number).collect();
    let odd = client.query_typed(IMPOSSIBLE, &[(&numbers, Type::INT4_ARRAY)]).await;
    if let Some(row) = odd.map_err(wrong())?.first() {
        return Err(Box::new(impossible(row).map_err(wrong())?).into());
    }
    let emptied: Vec<Arc<Followed>> = truncated.into_iter().map(|(_, table)| table).collect();
    truncate(client, &emptied).await?;
    let counts = "SELECT rel, count(*) FILTER (WHERE was_there), \
                  count(*) FILTER (WHERE image IS NOT NULL) FROM pg_temp.pgtandem_net \
                  GROUP BY rel ORDER BY rel";
    let mut work = Vec::new();
    for row in client.query_typed(counts, &[]).await.map_err(wrong())? {
        let number: i32 = row.try_get(0).map_err(wrong())?;
        let followed = tables.get(&number).ok_or(ApplyError::Unknown { number })?;
        let (deletes, inserts): (i64, i64) =
            (row.try_get(1).map_err(wrong())?, row.try_get(2).map_err(wrong())?);
        work.push((number, followed, deletes, inserts));
    }
    for (number, followed, count, _) in &work {
        delete(client, *number, followed, *count).await?;
    }
    for (number, followed, _, count) in &work {
        insert(client, *number, followed, *count).await?;
    }
    Ok(())
}

/// Forgets what was changed before tables were emptied; returns these tables.
async fn truncated(
    client: &Client,
    tables: &Tables,
) -> Result<Vec<(i32, Arc<Followed>)>, ApplyError> {
    let wrong = || Error::sql("apply a large batch");
    let sql = "WITH t AS (SELECT rel, max(id) AS id FROM pg_temp.pgtandem_stage WHERE op = 'T' \
                          GROUP BY rel), \
               d AS (DELETE FROM pg_temp.pgtandem_stage s USING t \
                     WHERE s.rel = t.rel AND s.id <= t.id) \
               SELECT rel FROM t ORDER BY rel";
    let mut truncated = Vec::new();
    for row in client.query_typed(sql, &[]).await.map_err(wrong())? {
        let number: i32 = row.try_get(0).map_err(wrong())?;
        let followed = tables.get(&number).ok_or(ApplyError::Unknown { number })?;
        truncated.push((number, Arc::clone(followed)));
    }
    Ok(truncated)
}

fn impossible(row: &Row) -> Result<Impossible, tokio_postgres::Error> {
    let (table, key, id) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Impossible { id, table, key, what: "two rows of this key, or none where one was changed" })
}

/// The keys of the rows that were there, as a table `k` with the names of the key's columns.
fn keys(number: i32, followed: &Followed) -> String {
    let columns = followed.table.key_columns().zip(1..).map(|(column, place)| {
        format!("key[{place}]::{} AS {}", column.type_sql, literal::identifier(&column.name))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    format!(
        "(SELECT {columns}, key AS \"pgtandem key\" FROM pg_temp.pgtandem_net \
         WHERE rel = {number} AND was_there) AS k"
    )
}

async fn delete(
    client: &Client,
    number: i32,
    followed: &Followed,
    count: i64,
) -> Result<(), ApplyError> {
    let wrong = || Error::sql("apply a large batch");
    let (only, keys) = (followed.table.only(), keys(number, followed));
    let same = statements::same_key(&followed.table, &followed.key, "t", "k");
    let sql = format!("DELETE FROM {only} AS t USING {keys} WHERE {same}");
    client.batch_execute("SAVEPOINT rows").await.map_err(wrong())?;
    let deleted = client.execute(&sql, &[]).await.map_err(refused(followed, "delete from"))?;
    if i64::try_from(deleted) == Ok(count) {
        return Ok(());
    }
    client.batch_execute("ROLLBACK TO rows").await.map_err(wrong())?;
    let sql = format!(
        "SELECT \"pgtandem key\" FROM {keys} WHERE NOT EXISTS (SELECT FROM {only} AS t WHERE {same}) \
         LIMIT 1"
    );
    let missing = client.query_typed(&sql, &[]).await.map_err(wrong())?;
    let key = missing.first().map(|row| row.try_get(0)).transpose().map_err(wrong())?;
    let (table, key) = (followed.table.name.clone(), key.unwrap_or_default());
    Err(ApplyError::Missing { table, key, action: "delete from" })
}

async fn insert(
    client: &Client,
    number: i32,
    followed: &Followed,
    count: i64,
) -> Result<(), ApplyError> {
    // Each image is read once: OFFSET keeps the planner from reading it for each column.
    let rows = format!(
        "(SELECT image::{} AS r FROM pg_temp.pgtandem_net \
          WHERE rel = {number} AND image IS NOT NULL OFFSET 0) AS q, LATERAL (SELECT (q.r).*) AS n",
        followed.table.name.quoted()
    );
    let sql = statements::insert(&followed.table, &rows);
    let inserted = client.execute(&sql, &[]).await.map_err(refused(followed, "insert into"))?;
    if i64::try_from(inserted) == Ok(count) {
        return Ok(());
    }
    let what = format!("{inserted} rows inserted into {}, not {count}", followed.table.name);
    Err(Error::Unexpected { what }.into())
}

fn refused(
    followed: &Followed,
    action: &'static str,
) -> impl FnOnce(tokio_postgres::Error) -> ApplyError {
    let table = followed.table.name.clone();
    move |source| ApplyError::Refused {
        table,
        key: None,
        action,
        source: Box::new(Error::Sql { what: "apply", source }),
    }
}
