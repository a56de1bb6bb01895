//! One batch after the other: from the change log of the primary to the secondary.

use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::Client;

use super::apply::{Applier, ApplyError, Ready, Tables};
use super::batch::{Batch, Position};
use super::coalesce::NetEffect;
use super::error::Error;

/// Where a secondary stands, as it says itself and as we know.
#[derive(Debug)]
pub struct Follower {
    /// The connection that applies.
    pub applier: Applier,
    /// The tables that follow.
    pub tables: Arc<Tables>,
    /// What the secondary says: its row in `pgtandem.progress`.
    stored: Position,
    /// Where it stands: nothing happened on the primary since `stored`.
    position: Position,
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
    pub fn new(applier: Applier, tables: Arc<Tables>, position: Position) -> Self {
        Self { applier, tables, stored: position.clone(), position }
    }

    /// Where the secondary stands, and will be found to stand after a crash.
    pub fn stored(&self) -> &Position {
        &self.stored
    }

    /// Reads what has happened since the last step, and applies it.
    ///
    /// `tell` is told of what is read and not yet applied: changes and bytes. Not cancel safe: both
    /// connections must be dropped then, as after an error.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn step(
        &mut self,
        primary: &Client,
        tell: impl Fn(u64, u64),
    ) -> Result<Stepped, ApplyError> {
        let as_of = Instant::now();
        let position = self.position.clone();
        let mut batch = Batch::open(primary, &position).await?;
        if !batch.until.covers(&position.snapshot) {
            let what = format!("snapshot {} after {}", batch.until, position.snapshot);
            return Err(Error::Unexpected { what }.into());
        }
        let mut net = NetEffect::default();
        let (mut changes, mut bytes, mut last) = (0_u64, 0_u64, None);
        while let Some(change) = batch.next().await? {
            let number = change.table;
            let followed = self.tables.get(&number).ok_or(ApplyError::Unknown { number })?;
            changes += 1;
            bytes += u64::try_from(change.action.size()).unwrap_or_default();
            last = Some((change.id, change.xid));
            let id = change.id;
            let (first, second) = change.split(&followed.key.columns).ok_or_else(|| {
                Error::Unexpected { what: format!("the image of change {id} has no key") }
            })?;
            net.add(first)?;
            if let Some(second) = second {
                net.add(second)?;
            }
            if changes.is_multiple_of(1024) {
                tell(changes, bytes);
            }
        }
        let until = batch.close().await?;
        if changes == 0 {
            self.position = self.position.moved_to(&until);
        } else {
            tell(changes, bytes);
            let tables = net.finish()?;
            let from = self.stored.clone();
            let ready = Ready { from, until, tables, changes, last };
            self.stored = self.applier.apply(&self.tables, ready).await?;
            self.position = self.stored.clone();
        }
        Ok(Stepped { changes, as_of })
    }

    /// Makes the secondary say where it stands, if that is not what it says.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn store(&mut self) -> Result<(), ApplyError> {
        if self.stored != self.position {
            let (from, until) = (self.stored.clone(), self.position.snapshot.clone());
            let ready = Ready { from, until, tables: vec![], changes: 0, last: None };
            self.stored = self.applier.apply(&self.tables, ready).await?;
            self.position = self.stored.clone();
        }
        Ok(())
    }
}
