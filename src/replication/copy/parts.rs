//! A large table in parts: ranges of its blocks on the primary, each a transaction on the secondary.
//!
//! While its parts come in, the table is one that is still to be copied, so that whoever goes on after
//! a crash empties it first. Of two processes that do this at a time, one finds that the table's row in
//! `pgtandem.copied` is not the one that it wrote: each part holds that row to its end.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio_postgres::Client;

use super::{CopyError, Job, make_room};
use crate::replication::catalog::{Kind, Table, TableName};
use crate::replication::error::Error;

/// Bytes of a part, at least.
const PART_BYTES: u64 = 32 << 20;

/// LIMIT: parts of one table.
const PARTS_MAX: u64 = 256;

/// One part of a table.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) whole: Arc<Whole>,
    /// Its blocks; the last part ends with the table.
    blocks: (u64, Option<u64>),
}

/// A table that is copied in parts.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) table: Table,
    /// What tells our row in `pgtandem.copied` from that of a later copy: when it was written.
    token: String,
    left: AtomicUsize,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Part {
    pub(super) fn table(&self) -> &TableName {
        &self.whole.table.name
    }

    /// The condition on the rows of the primary.
    pub(super) fn condition(&self) -> String {
        match self.blocks {
            (first, None) => format!("ctid >= '({first},0)'"),
            (first, Some(end)) => format!("ctid >= '({first},0)' AND ctid < '({end},0)'"),
        }
    }

    /// Notes that its rows are there; returns those of the table, and their bytes, if it was the last.
    pub(super) fn done(&self, rows: u64, bytes: u64) -> Option<(u64, u64)> {
        let Whole { left, rows: all, bytes: all_bytes, .. } = &*self.whole;
        let rows = all.fetch_add(rows, Ordering::AcqRel) + rows;
        let bytes = all_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        (left.fetch_sub(1, Ordering::AcqRel) == 1).then_some((rows, bytes))
    }
}

impl Whole {
    /// Makes sure that nobody begins another copy of the table before the transaction ends, or has.
    pub(super) async fn hold(&self, secondary: &Client) -> Result<(), CopyError> {
        let sql = "SELECT FROM pgtandem.copied WHERE schema = $1 AND name = $2 \
                   AND snapshot IS NULL AND extract(epoch FROM copied_at)::text = $3 FOR SHARE";
        let TableName { schema, name } = &self.table.name;
        let held = secondary.query(sql, &[schema, name, &self.token]).await;
        if held.map_err(Error::sql("hold a table that is copied in parts"))?.len() == 1 {
            return Ok(());
        }
        Err(CopyError::Fenced { table: self.table.name.clone() })
    }
}

/// Says in how many parts to copy a table.
pub(super) fn count(table: &Table) -> u64 {
    match table.kind {
        Kind::Ordinary => (table.bytes / PART_BYTES).clamp(1, PARTS_MAX),
        Kind::Partitioned => 1,
    }
}

/// Empties a table of the secondary, and cuts the one of the primary in `count` parts.
///
/// The connections are that which exported the snapshot, and one to the secondary that is in no
/// transaction.
pub(super) async fn cut(
    job: Job,
    count: u64,
    holder: &Client,
    secondary: &mut Client,
) -> Result<Vec<Part>, CopyError> {
    let Job { table, oid, existing } = job;
    let blocks = blocks(holder, &table).await?;
    let there = Table { oid, ..table.clone() };
    let wrong = || Error::sql("begin to copy a table in parts");
    let transaction = secondary.transaction().await.map_err(wrong())?;
    let sql = "INSERT INTO pgtandem.copied AS c (schema, name, copied_at) \
               VALUES ($1, $2, clock_timestamp()) ON CONFLICT (schema, name) \
               DO UPDATE SET snapshot = NULL, copied_at = excluded.copied_at \
               RETURNING extract(epoch FROM copied_at)::text";
    let TableName { schema, name } = &table.name;
    let row = transaction.query_one(sql, &[schema, name]).await;
    let token = row.and_then(|row| row.try_get(0)).map_err(wrong())?;
    make_room(transaction.client(), &there, existing).await?;
    transaction.commit().await.map_err(wrong())?;
    let ranges = ranges(blocks, count);
    let whole = Arc::new(Whole {
        table,
        token,
        left: AtomicUsize::new(ranges.len()),
        rows: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let last = ranges.len().saturating_sub(1);
    let part = |(position, range): (usize, Range<u64>)| Part {
        whole: Arc::clone(&whole),
        blocks: (range.start, (position < last).then_some(range.end)),
    };
    Ok(ranges.into_iter().enumerate().map(part).collect())
}

/// Counts the blocks of a table, whose rows stay in their places until the transaction ends.
///
/// A command that moves rows (VACUUM FULL, CLUSTER) needs the table for itself.
async fn blocks(holder: &Client, table: &Table) -> Result<u64, Error> {
    let wrong = || Error::sql("count the blocks of a table");
    let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", table.only());
    holder.batch_execute(&lock).await.map_err(wrong())?;
    let sql = "SELECT pg_relation_size($1::oid) / current_setting('block_size')::bigint";
    let row = holder.query_one(sql, &[&table.oid]).await;
    let blocks: i64 = row.and_then(|row| row.try_get(0)).map_err(wrong())?;
    Ok(u64::try_from(blocks).unwrap_or_default())
}

/// Cuts blocks in so many ranges, none of them empty but that of no blocks.
fn ranges(blocks: u64, count: u64) -> Vec<Range<u64>> {
    let each = blocks.div_ceil(count.max(1)).max(1);
    let starts = (0..blocks.max(1)).step_by(usize::try_from(each).unwrap_or(usize::MAX));
    starts.map(|start| start..(start + each).min(blocks.max(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_all_blocks_once() {
        for (blocks, count) in [(0, 2), (1, 4), (7, 2), (8, 3), (1000, 256), (10, 10), (4096, 1)] {
            let ranges = ranges(blocks, count);
            assert!(u64::try_from(ranges.len()).unwrap() <= count.max(1), "{blocks} in {count}");
            let mut next = 0;
            for range in ranges {
                assert_eq!(range.start, next, "{blocks} in {count}");
                assert!(range.end > range.start);
                next = range.end;
            }
            assert_eq!(next, blocks.max(1));
        }
    }
}
