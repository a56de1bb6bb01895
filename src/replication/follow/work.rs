//! A batch that is applied while it is read: the transaction on the secondary is open from the first
//! definition on, or from where the changes have become too large for memory.
//!
//! At a definition, what happened before to the tables that it has to do with is applied, and to no
//! others: a transaction may have changes on both sides of it that are not in the order of their ids,
//! but never of a table that the definition had locked ([`super::super::definition::Shaped::is_cut`]).

use std::collections::HashSet;
use std::time::Instant;

use tokio_postgres::Client;

use super::{Count, Follower, Stepped};
use crate::replication::apply::{ApplyError, Followed, Poison, Ready};
use crate::replication::batch::{Batch, Entry};
use crate::replication::catalog::TableName;
use crate::replication::change::Change;
use crate::replication::coalesce::NetEffect;
use crate::replication::define;
use crate::replication::definition::Definition;
use crate::replication::hook;
use crate::replication::progress;
use crate::replication::stage;

/// What was read of a batch before it turned out that it has to be applied while it is read.
pub(super) struct Read {
    pub(super) net: NetEffect,
    pub(super) skipped: Vec<Change>,
    pub(super) count: Count,
    pub(super) as_of: Instant,
}

/// Why a batch is applied while it is read.
pub(super) enum Cause {
    /// It is too large for memory.
    Size,
    /// It has a definition, which is not in what was read.
    Definition(Box<Definition>),
}

/// What is read and not applied.
enum Held {
    Memory(NetEffect),
    /// In the table of [`stage`].
    Staged(stage::Writer),
}

/// Tables that a definition looks at without a lock that keeps others from changing them: what happened
/// to them before is applied, too. A transaction that goes on to change one has changes on both sides;
/// as a rule none does.
enum Divided {
    None,
    /// Rows are checked, perhaps against those of another table.
    Some(Vec<i32>),
    /// What rows are written as depends on it, whatever tables they are in.
    All,
}

impl Divided {
    fn by(definition: &Definition) -> Self {
        if definition.how.contains("type") {
            Self::All
        } else if definition.how.contains("validate") {
            Self::Some(definition.tables.iter().map(|shaped| shaped.number).collect())
        } else {
            Self::None
        }
    }

    fn has(&self, number: i32) -> bool {
        match self {
            Self::None => false,
            Self::Some(numbers) => numbers.contains(&number),
            Self::All => true,
        }
    }
}

/// A batch while it is read and applied.
struct Work {
    held: Held,
    skipped: Vec<Change>,
    count: Count,
    /// Tables that were cut although nobody had them locked, and the transactions that have changed
    /// them before; those of what was staged by then are in the table of [`stage::note_divided`].
    divided: HashSet<(i32, u64)>,
    /// Tables that are to be copied afterwards, whatever is held of them.
    given_up: Vec<(i32, TableName)>,
}

impl Follower {
    /// Reads the rest of a batch, and applies it meanwhile.
    pub(super) async fn step_while_reading(
        &mut self,
        primary: &Client,
        mut batch: Batch<'_>,
        read: Read,
        cause: Cause,
        tell: impl Fn(u64, u64),
    ) -> Result<Stepped, ApplyError> {
        let Read { net, skipped, count, as_of } = read;
        self.applier.start().await?;
        self.applier.claim(&self.stored).await?;
        let (held, divided, given_up) = (Held::Memory(net), HashSet::new(), Vec::new());
        let mut work = Work { held, skipped, count, divided, given_up };
        match cause {
            Cause::Size => self.stage(&mut work).await?,
            Cause::Definition(definition) => self.define(&mut work, &definition).await?,
        }
        while let Some(entry) = batch.next().await? {
            match entry {
                Entry::Change(change) => self.hold(&mut work, change).await?,
                Entry::Definition(definition) => self.define(&mut work, &definition).await?,
            }
            if work.count.changes.is_multiple_of(1024) {
                tell(work.count.changes, work.count.bytes);
            }
        }
        let written = std::mem::take(&mut batch.written);
        let until = batch.close().await?;
        self.make_durable(primary, &written).await?;
        let Work { held, skipped, count, divided: _, given_up } = work;
        let (mut numbers, mut names): (Vec<i32>, Vec<TableName>) = given_up.into_iter().unzip();
        let Count { changes, bytes, ids, last } = count;
        tell(changes, bytes);
        match held {
            Held::Memory(net) => {
                let nets = net.finish().map_err(Box::new)?;
                self.applier.apply_part(&self.tables, nets).await?;
            }
            Held::Staged(writer) => {
                hook::reached("staged");
                writer.finish().await?;
                for number in stage::torn(self.applier.client()).await? {
                    let Some(followed) = self.tables.remove(&number) else { continue };
                    numbers.push(number);
                    names.push(followed.table.name.clone());
                    self.has_to_copy = true;
                }
                stage::forget(self.applier.client(), &numbers).await?;
                tracing::info!(changes, bytes, "large batch goes through a table on the secondary");
                stage::apply(&self.applier, &self.tables).await?;
            }
        }
        progress::await_copy(self.applier.client(), &names).await?;
        let ready =
            Ready { from: self.stored.clone(), until, tables: vec![], changes, ids, last, skipped };
        self.stored = self.applier.finish(&self.tables, ready).await?;
        self.position = self.stored.clone();
        self.written = None;
        self.skips.clear();
        Ok(Stepped { changes, as_of })
    }

    /// Holds a change until it can be applied.
    async fn hold(&mut self, work: &mut Work, change: Change) -> Result<(), ApplyError> {
        work.count.add(&change);
        if work.divided.contains(&(change.table, change.xid)) {
            // It has changes on both sides, of which the order is not known.
            self.give_up_table(work, change.table);
            return Ok(());
        }
        for (part, place) in self.split(change)?.zip(0..) {
            if self.is_skipped(&part) {
                work.skipped.push(part);
                continue;
            }
            match &mut work.held {
                Held::Memory(net) => net.add(part).map_err(Box::new)?,
                Held::Staged(writer) => writer.write(&part, place).await?,
            }
        }
        match &work.held {
            Held::Memory(net) if self.is_too_large(net) => self.stage(work).await,
            Held::Memory(_) | Held::Staged(_) => Ok(()),
        }
    }

    /// Puts what is in memory into the table, and what is still to be read after it.
    async fn stage(&mut self, work: &mut Work) -> Result<(), ApplyError> {
        let held = std::mem::replace(&mut work.held, Held::Memory(NetEffect::default()));
        let Held::Memory(net) = held else { return Ok(()) };
        stage::create(self.applier.client()).await?;
        let mut writer = stage::Writer::start(self.applier.client()).await?;
        let (mut before, mut place) = (None, 0_u8);
        for change in net.into_changes() {
            // The parts of one change have its id, and come one after the other.
            place = if before == Some(change.id) { place.saturating_add(1) } else { 0 };
            writer.write(&change, place).await?;
            before = Some(change.id);
        }
        work.held = Held::Staged(writer);
        Ok(())
    }

    /// Makes a definition, behind what happened before it to the tables that it has to do with.
    async fn define(&mut self, work: &mut Work, definition: &Definition) -> Result<(), ApplyError> {
        work.count.add_definition(definition);
        let is_staged = self.apply_before(work, definition).await?;
        let client = self.applier.client();
        let is_skipped = self.skips.contains(&Poison::Definition(definition.id));
        let mut unusable = Vec::new();
        if is_skipped {
            define::bury(client, definition).await?;
        } else if !define::ahead(&self.rules.target, definition).await? {
            define::run(client, definition).await?;
            if definition.how.contains("label") {
                unusable = define::users_of_new_labels(client).await?;
            }
        }
        let selection = &self.rules.selection;
        for settled in define::settle(client, definition, selection, is_skipped).await? {
            self.has_to_copy |= settled.is_copied;
            match settled.followed {
                Some(followed) => drop(self.tables.insert(settled.number, followed)),
                None => drop(self.tables.remove(&settled.number)),
            }
        }
        let is_unusable = |followed: &Followed| unusable.contains(&followed.table.name);
        let numbers: Vec<i32> = self
            .tables
            .iter()
            .filter(|(_, followed)| is_unusable(followed))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.give_up_table(work, number);
        }
        self.applier.forget_prepared();
        hook::reached("defined");
        if is_staged {
            work.held = Held::Staged(stage::Writer::start(self.applier.client()).await?);
        }
        Ok(())
    }

    /// Applies what has to be there before a definition is made. If the rest is in the table of
    /// [`stage`], nobody writes to that any more, and it says so.
    async fn apply_before(
        &mut self,
        work: &mut Work,
        definition: &Definition,
    ) -> Result<bool, ApplyError> {
        let cut = definition.tables.iter().filter(|shaped| shaped.is_cut());
        let mut cut: Vec<i32> = cut.map(|shaped| shaped.number).collect();
        let divided = Divided::by(definition);
        match std::mem::replace(&mut work.held, Held::Memory(NetEffect::default())) {
            Held::Memory(mut net) => {
                for number in net.numbers().filter(|number| divided.has(*number)) {
                    if !cut.contains(&number) {
                        work.divided.extend(net.transactions(number).map(|xid| (number, xid)));
                        cut.push(number);
                    }
                }
                let nets = net.take(&cut).map_err(Box::new)?;
                work.held = Held::Memory(net);
                self.applier.apply_part(&self.tables, nets).await?;
                Ok(false)
            }
            Held::Staged(writer) => {
                writer.finish().await?;
                let client = self.applier.client();
                let numbers = match &divided {
                    Divided::None => vec![],
                    Divided::Some(numbers) => stage::note_divided(client, Some(numbers)).await?,
                    Divided::All => stage::note_divided(client, None).await?,
                };
                cut.extend(numbers);
                if !cut.is_empty() {
                    stage::divide(client, &cut).await?;
                    stage::apply(&self.applier, &self.tables).await?;
                    stage::unite(client).await?;
                }
                Ok(true)
            }
        }
    }

    /// Leaves a table to be copied: what becomes of its rows cannot be told, or not be written.
    fn give_up_table(&mut self, work: &mut Work, number: i32) {
        let Some(followed) = self.tables.remove(&number) else { return };
        work.given_up.push((number, followed.table.name.clone()));
        self.has_to_copy = true;
        if let Held::Memory(net) = &mut work.held {
            net.forget(number);
        }
    }
}
