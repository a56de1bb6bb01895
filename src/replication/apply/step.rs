//! The step of a secondary from one snapshot to the next: its row in `pgtandem.progress`, which is
//! the fence, and what else must be noted in the same transaction.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::{ApplyError, Tables};
use crate::replication::batch::Position;
use crate::replication::catalog::TableName;
use crate::replication::change::{Action, Change};
use crate::replication::error::Error;
use crate::replication::snapshot::Snapshot;

/// Where a batch leads, as the row in `pgtandem.progress` will say.
pub(super) struct Step<'a> {
    pub(super) from: &'a Position,
    pub(super) until: &'a Snapshot,
    pub(super) after: &'a Position,
    pub(super) changes: u64,
    pub(super) last: Option<(i64, u64)>,
    pub(super) skipped: Vec<Change>,
}

impl Step<'_> {
    /// Moves the row on, if it says what we expect: then it is locked until the end of the
    /// transaction, and no other applier can have done the same.
    pub(super) async fn take(&self, client: &Client, tables: &Tables) -> Result<(), ApplyError> {
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
