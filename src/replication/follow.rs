//! One batch after the other: from the change log of the primary to the secondary.
//!
//! As a rule a batch is read, and then applied. One with definitions in it, or one that is too large
//! for memory, is applied while it is read (`work`).

mod work;

use std::time::Instant;

use tokio_postgres::Client;

use self::work::{Cause, Read};
use super::apply::{Applier, ApplyError, Poison, Ready, Tables};
use super::batch::{Batch, Entry, Position};
use super::capture::triggers::DEFINED;
use super::catalog::Selection;
use super::change::Change;
use super::coalesce::NetEffect;
use super::connect::Target;
use super::definition::Definition;
use super::error::Error;
use super::primary;
use super::snapshot::Snapshot;

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
    rules: Rules,
    /// What is left out of the next batch that has anything.
    skips: Vec<Poison>,
    /// Whether definitions have left tables to be copied.
    has_to_copy: bool,
}

/// What a secondary is, as its follower needs to know.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The secondary's name.
    pub name: String,
    /// Which tables are meant.
    pub selection: Selection,
    /// What may be held in memory.
    pub limits: Limits,
    /// Where it is, for what cannot be done in the transaction of a batch.
    pub target: Target,
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

    fn add_definition(&mut self, definition: &Definition) {
        let (rows, ids) = definition.rows;
        self.changes += rows;
        self.bytes += u64::try_from(definition.text.len()).unwrap_or_default();
        self.ids += ids;
        self.last = Some((definition.id, definition.xid));
    }
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
        rules: Rules,
        applier: Applier,
        tables: Tables,
        next_number: i32,
        position: Position,
    ) -> Self {
        Self {
            applier,
            tables,
            next_number,
            stored: position.clone(),
            position,
            written: None,
            rules,
            skips: Vec::new(),
            has_to_copy: false,
        }
    }

    /// Whether there are tables that have to be copied now: then it must begin anew.
    pub fn has_to_copy(&self) -> bool {
        self.has_to_copy
    }

    /// Leaves this out of the next batch that has anything.
    pub fn skip(&mut self, skips: Vec<Poison>) {
        self.skips = skips;
    }

    /// Whether there are changes still to be left out.
    pub fn has_skips(&self) -> bool {
        !self.skips.is_empty()
    }

    /// Whether a change is one of those to be left out.
    fn is_skipped(&self, change: &Change) -> bool {
        let Some(followed) = self.tables.get(&change.table) else { return false };
        let is_it = |skip: &Poison| match skip {
            Poison::Row(table, key) => {
                *table == followed.table.name && change.action.key() == Some(key)
            }
            Poison::Definition(_) => false,
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
        while let Some(entry) = batch.next().await? {
            let cause = match entry {
                Entry::Definition(definition) => Cause::Definition(definition),
                Entry::Change(change) => {
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
                    if !self.is_too_large(&net) {
                        continue;
                    }
                    Cause::Size
                }
            };
            let read = Read { net, skipped, count, as_of };
            return self.step_while_reading(primary, batch, read, cause, tell).await;
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

    fn is_too_large(&self, net: &NetEffect) -> bool {
        let limits = &self.rules.limits;
        net.rows() > limits.rows || net.bytes() > limits.bytes
    }

    /// Makes the secondary stand at exactly `upto`, and say so.
    ///
    /// # Errors
    /// [`ApplyError`]; also if it is past that.
    pub async fn stand_at(&mut self, primary: &Client, upto: &Snapshot) -> Result<(), ApplyError> {
        self.step(primary, Some(upto), |_, _| {}).await?;
        self.store(primary).await
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
            // What a definition has put under capture is known from the definition on, unless it
            // is to be copied, or does not follow.
            None if number < self.next_number || number >= DEFINED => [None, None],
            None => return Err(ApplyError::Unknown { number }),
        };
        Ok(parts.into_iter().flatten())
    }

    /// See [`primary::make_durable`].
    async fn make_durable(&self, primary: &Client, written: &str) -> Result<(), ApplyError> {
        match primary::make_durable(primary, written, &self.rules.name).await? {
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
