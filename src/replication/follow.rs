//! One batch after the other: from the change log of the primary to the secondary.

use std::time::Instant;

use tokio_postgres::Client;

use super::apply::{Applier, ApplyError, Ready, Tables};
use super::batch::{Batch, Position};
use super::catalog::TableName;
use super::change::{Change, RowKey};
use super::coalesce::NetEffect;
use super::error::Error;
use super::hook;
use super::primary;
use super::snapshot::Snapshot;
use super::stage;

/// Where a secondary stands, as it says itself and as we know.
#[derive(Debug)]
pub struct Follower {
    /// The connection that applies.
    pub applier: Applier,
    /// The tables that follow.
    pub tables: Tables,
    /// Numbers below are of these tables, or of tables that do not follow.
    next_number: i32,
    /// What the secondary says: its row in `pgtandem.progress`.
    stored: Position,
    /// Where it stands: nothing happened on the primary since `stored`.
    position: Position,
    /// Where the primary's log must be durable before it may say that it stands at `position`.
    written: Option<String>,
    limits: Limits,
    /// The secondary's name.
    name: String,
    /// Rows whose changes are left out of the next batch that has any.
    skips: Vec<(TableName, RowKey)>,
}

/// What may be held in memory at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows that were changed, each once.
    pub rows: u64,
    /// Their bytes, nearly.
    pub bytes: u64,
}

/// What was read of a batch.
#[derive(Debug, Default)]
struct Count {
    changes: u64,
    bytes: u64,
    ids: u128,
    last: Option<(i64, u64)>,
}

impl Count {
    fn add(&mut self, change: &Change) {
        self.changes += 1;
        self.bytes += u64::try_from(change.action.size()).unwrap_or_default();
        self.ids += u128::from(change.id.cast_unsigned());
        self.last = Some((change.id, change.xid));
    }
}

/// What was read of a batch before it turned out to be large.
struct Read {
    net: NetEffect,
    skipped: Vec<Change>,
    count: Count,
    as_of: Instant,
}

/// What a step did.
#[derive(Debug, Clone, Copy)]
pub struct Stepped {
    /// Changes applied.
    pub changes: u64,
    /// When the primary was as the secondary is now.
    pub as_of: Instant,
}

impl Follower {
    /// Begins where the secondary says that it stands.
    ///
    /// Changes of tables that are not among `tables`, and whose number is below `next_number`, are
    /// nobody's business.
    pub fn new(
        name: String,
        applier: Applier,
        tables: Tables,
        next_number: i32,
        position: Position,
        limits: Limits,
    ) -> Self {
        let (stored, skips) = (position.clone(), Vec::new());
        Self { applier, tables, next_number, stored, position, written: None, limits, name, skips }
    }

    /// Leaves the changes of these rows out of the next batch that has any.
    pub fn skip(&mut self, rows: Vec<(TableName, RowKey)>) {
        self.skips = rows;
    }

    /// Whether there are changes still to be left out.
    pub fn has_skips(&self) -> bool {
        !self.skips.is_empty()
    }

    /// Whether a change is one of those to be left out.
    fn is_skipped(&self, change: &Change) -> bool {
        let Some(followed) = self.tables.get(&change.table) else { return false };
        let is_it = |(table, key): &(TableName, RowKey)| {
            *table == followed.table.name && change.action.key() == Some(key)
        };
        self.skips.iter().any(is_it)
    }

    /// Where the secondary stands, and will be found to stand after a crash.
    pub fn stored(&self) -> &Position {
        &self.stored
    }

    /// Reads what has happened since the last step, and applies it; with `upto`, no more than that
    /// snapshot sees.
    ///
    /// `tell` is told of what is read and not yet applied: changes and bytes. Not cancel safe: both
    /// connections must be dropped then, as after an error.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn step(
        &mut self,
        primary: &Client,
        upto: Option<&Snapshot>,
        tell: impl Fn(u64, u64),
    ) -> Result<Stepped, ApplyError> {
        let as_of = Instant::now();
        let position = self.position.clone();
        let mut batch = Batch::open(primary, &position, upto).await?;
        if !batch.until.covers(&position.snapshot) {
            let what = format!("snapshot {} after {}", batch.until, position.snapshot);
            return Err(Error::Unexpected { what }.into());
        }
        let (mut net, mut skipped) = (NetEffect::default(), Vec::new());
        let mut count = Count::default();
        while let Some(change) = batch.next().await? {
            count.add(&change);
            for part in self.split(change)? {
                if self.is_skipped(&part) {
                    skipped.push(part);
                } else {
                    net.add(part).map_err(Box::new)?;
                }
            }
            if count.changes.is_multiple_of(1024) {
                tell(count.changes, count.bytes);
            }
            if net.rows() > self.limits.rows || net.bytes() > self.limits.bytes {
                let read = Read { net, skipped, count, as_of };
                return self.step_through_table(primary, batch, read, tell).await;
            }
        }
        let Count { changes, bytes, ids, last } = count;
        let written = std::mem::take(&mut batch.written);
        let until = batch.close().await?;
        if changes == 0 {
            self.position = self.position.moved_to(&until);
            self.written = Some(written);
        } else {
            tell(changes, bytes);
            let tables = net.finish().map_err(Box::new)?;
            self.make_durable(primary, &written).await?;
            let from = self.stored.clone();
            let ready = Ready { from, until, tables, changes, ids, last, skipped };
            self.stored = self.applier.apply(&self.tables, ready).await?;
            self.position = self.stored.clone();
            self.written = None;
            self.skips.clear();
        }
        Ok(Stepped { changes, as_of })
    }

    /// Makes the secondary stand at exactly `upto`, and say so.
    ///
    /// # Errors
    /// [`ApplyError`]; also if it is past that.
    pub async fn stand_at(&mut self, primary: &Client, upto: &Snapshot) -> Result<(), ApplyError> {
        self.step(primary, Some(upto), |_, _| {}).await?;
        self.store(primary).await
    }

    /// The same for a batch that is too large for memory: what is held, and the rest of it, goes into
    /// a table first.
    async fn step_through_table(
        &mut self,
        primary: &Client,
        mut batch: Batch<'_>,
        read: Read,
        tell: impl Fn(u64, u64),
    ) -> Result<Stepped, ApplyError> {
        let Read { net, mut skipped, mut count, as_of } = read;
        self.applier.start().await?;
        stage::create(self.applier.client()).await?;
        let mut writer = stage::Writer::start(self.applier.client()).await?;
        let (mut before, mut place) = (None, 0_u8);
        for change in net.into_changes() {
            // The parts of one change have its id, and come one after the other.
            place = if before == Some(change.id) { place.saturating_add(1) } else { 0 };
            writer.write(&change, place).await?;
            before = Some(change.id);
        }
        while let Some(change) = batch.next().await? {
            count.add(&change);
            for (part, place) in self.split(change)?.zip(0..) {
                if self.is_skipped(&part) {
                    skipped.push(part);
                } else {
                    writer.write(&part, place).await?;
                }
            }
            if count.changes.is_multiple_of(1024) {
                tell(count.changes, count.bytes);
            }
        }
        let written = std::mem::take(&mut batch.written);
        let until = batch.close().await?;
        self.make_durable(primary, &written).await?;
        hook::reached("staged");
        writer.finish().await?;
        let Count { changes, bytes, ids, last } = count;
        tell(changes, bytes);
        tracing::info!(changes, bytes, "large batch goes through a table on the secondary");
        let ready =
            Ready { from: self.stored.clone(), until, tables: vec![], changes, ids, last, skipped };
        self.stored = self.applier.apply_staged(&self.tables, ready).await?;
        self.position = self.stored.clone();
        self.written = None;
        Ok(Stepped { changes, as_of })
    }

    /// Splits an update that changes the key in two; nothing is left of changes of tables that do not
    /// follow.
    fn split(&self, change: Change) -> Result<impl Iterator<Item = Change> + use<>, ApplyError> {
        let (id, number) = (change.id, change.table);
        let parts = match self.tables.get(&number) {
            Some(followed) => {
                let split = change.split(&followed.key.columns);
                let (first, second) = split.ok_or_else(|| Error::Unexpected {
                    what: format!("the image of change {id} has no key"),
                })?;
                [Some(first), second]
            }
            None if number < self.next_number => [None, None],
            None => return Err(ApplyError::Unknown { number }),
        };
        Ok(parts.into_iter().flatten())
    }

    /// See [`primary::make_durable`].
    async fn make_durable(&self, primary: &Client, written: &str) -> Result<(), ApplyError> {
        match primary::make_durable(primary, written, &self.name).await? {
            Some(why) => Err(ApplyError::Detached { why }),
            None => Ok(()),
        }
    }

    /// Makes the secondary say where it stands, if that is not what it says.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn store(&mut self, primary: &Client) -> Result<(), ApplyError> {
        if self.stored != self.position {
            if let Some(written) = self.written.take() {
                self.make_durable(primary, &written).await?;
            }
            let (from, until) = (self.stored.clone(), self.position.snapshot.clone());
            let ready = Ready {
                from,
                until,
                tables: vec![],
                changes: 0,
                ids: 0,
                last: None,
                skipped: vec![],
            };
            self.stored = self.applier.apply(&self.tables, ready).await?;
            self.position = self.stored.clone();
        }
        Ok(())
    }
}
