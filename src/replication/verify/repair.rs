//! Makes rows of a secondary what they are on the primary.
//!
//! One transaction on the secondary, which holds the progress row from its start: the secondary
//! stands at exactly the primary's snapshot X until it ends, whoever applies, and whether or not the
//! applier still waits for us. Everything is compared and written inside it, and compared again before
//! it commits: it repairs all that it was asked to, or nothing.
//!
//! First pass: what is not to be there is deleted. Second: what is missing is inserted, and what is
//! different is updated; an UPDATE leaves rows that refer to it alone, whatever their foreign keys
//! say. Where further unique columns could change hands among the rows, different ones are deleted in
//! the first pass and inserted in the second.
//!
//! Triggers, rules and foreign keys of the secondary are treated as by the applier, or are in the way.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::replication::apply::Treatment;
use crate::replication::catalog::{Selection, Table, tables};
use crate::replication::checks;
use crate::replication::error::Error;

use super::pace::{Budget, Chunk, Pace};
use super::progress::{Meter, Progress};
use super::report::{Differences, Kind};
use super::sides::{Opened, Purpose, Sides, State};
use super::sql::Form;
use super::view::{Key, Range, View, arrays};
use super::walk::{Ledger, Position, Walk};
use super::{Verifier, VerifyError};

/// Rows that are compared at a time, and keys that are repaired at a time.
const ROWS_MAX: u64 = 50_000;
const KEYS_MAX: usize = 50_000;

/// Keys whose rows are asked for in one statement.
const PAGE: usize = 1000;

/// Bytes of rows that are held at a time, beyond which a single row may go.
const BYTES_MAX: usize = 4 << 20;

/// What to repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// The whole table.
    Table,
    /// The rows of a range of keys.
    Range(Range),
    /// The rows of these keys.
    Keys(Vec<Key>),
}

/// What a repair has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Rows that were deleted.
    pub deleted: u64,
    /// Rows that were updated.
    pub updated: u64,
    /// Rows that were inserted.
    pub inserted: u64,
}

/// What is done in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Deletes what is extra.
    Delete,
    /// Deletes what is extra or different.
    DeleteDifferent,
    /// Inserts what is missing, and updates what is different.
    Put,
    /// Looks that nothing differs any more.
    Prove,
}

impl Pass {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Delete => &[Kind::Extra],
            Self::DeleteDifferent => &[Kind::Extra, Kind::Different],
            Self::Put => &[Kind::Missing, Kind::Different],
            Self::Prove => &[Kind::Missing, Kind::Extra, Kind::Different],
        }
    }
}

impl Verifier {
    /// Makes rows of the secondary what they are on the primary, at the state where it stands.
    ///
    /// The applier waits meanwhile, for as long as [`super::Limits::repair`].
    /// Cancel safe: yes, up to the COMMIT nothing is changed.
    ///
    /// # Errors
    /// [`VerifyError`]; then nothing was changed, unless the answer to COMMIT was lost: compare again.
    pub async fn repair(&self, table: &Table, extent: &Extent) -> Result<Repaired, VerifyError> {
        let limit = self.limits.repair;
        let sides = Sides::connect(&self.primary, &self.secondary).await?;
        let treatment = treatment(&sides.secondary, table).await?;
        let opened = sides.open(&self.holds, table, Purpose::Repair, self.limits.hold).await?;
        let (state, standing) = match opened {
            Opened::At(state, standing) => (state, standing),
            Opened::Unlike(mismatch) => return Err(VerifyError::Schema(mismatch)),
        };
        if state.shape.key.is_empty() {
            return Err(VerifyError::NoKey);
        }
        if treatment == Treatment::Deferred {
            let deferred = sides.secondary.batch_execute("SET CONSTRAINTS ALL DEFERRED").await;
            deferred.map_err(Error::sql("defer foreign keys"))?;
        }
        let repair = Repair { sides: &sides, state: &state, table, extent };
        let repaired = tokio::time::timeout(limit, repair.run()).await;
        let repaired = repaired.map_err(|_elapsed| VerifyError::TooLong { limit })??;
        let committed = sides.secondary.batch_execute("COMMIT").await;
        committed.map_err(Error::sql("commit the repair"))?;
        drop(standing);
        Ok(repaired)
    }
}

/// Finds out how triggers and foreign keys are kept from acting, as the applier does; refuses where
/// they cannot be.
async fn treatment(secondary: &Client, table: &Table) -> Result<Treatment, VerifyError> {
    let exact = Selection::new(&[table.name.to_string()], &[]);
    let there = tables(secondary, &exact).await?;
    let there: Vec<&Table> = there.iter().filter(|there| there.name == table.name).collect();
    let (treatment, obstacles) = checks::treatment(secondary, &there).await?;
    match obstacles.into_iter().next() {
        Some(obstacle) => Err(VerifyError::Obstacle(obstacle)),
        None => Ok(treatment),
    }
}

/// A repair under way.
struct Repair<'a> {
    sides: &'a Sides,
    state: &'a State,
    table: &'a Table,
    extent: &'a Extent,
}

impl Repair<'_> {
    async fn run(&self) -> Result<Repaired, VerifyError> {
        let mut repaired = Repaired::default();
        let columns = &self.state.shape.columns;
        let has_identity = columns.iter().any(|column| column.always_identity);
        let is_replaced = self.table.has_other_unique || has_identity;
        let first = if is_replaced { Pass::DeleteDifferent } else { Pass::Delete };
        for pass in [first, Pass::Put, Pass::Prove] {
            self.sweep(pass, &mut repaired).await?;
        }
        Ok(repaired)
    }

    /// Goes over the extent once.
    async fn sweep(&self, pass: Pass, repaired: &mut Repaired) -> Result<(), VerifyError> {
        let mut found = Differences::of(pass.kinds(), KEYS_MAX);
        let within = match self.extent {
            Extent::Table => Range::default(),
            Extent::Range(range) => range.clone(),
            Extent::Keys(keys) => {
                for keys in keys.chunks(KEYS_MAX) {
                    found.clear();
                    self.compare(&mut found, Place::Keys(keys)).await?;
                    self.act(pass, &found, repaired).await?;
                }
                return Ok(());
            }
        };
        let mut position = Position::start(self.state.order, within.after.clone());
        while position != Position::End {
            found.clear();
            let place = Place::Within(&within, position.clone());
            let next = self.compare(&mut found, place).await?;
            self.act(pass, &found, repaired).await?;
            // What there was no room for is found again.
            if found.dropped == 0 {
                position = next;
            }
        }
        Ok(())
    }

    /// Finds out what differs, of some rows; returns where it stopped.
    async fn compare(
        &self,
        found: &mut Differences,
        place: Place<'_>,
    ) -> Result<Position, VerifyError> {
        let now = Instant::now();
        let (watched, _) = watch::channel(Progress::default());
        let (mut meter, mut unlimited, mut rows) =
            (Meter::new(&watched, &[], now), Pace::new(0, now), 0);
        let (primary, secondary) = self.state.views(self.sides);
        let ledger = Ledger { found, pace: &mut unlimited, meter: &mut meter, rows: &mut rows };
        let mut walk = Walk {
            primary,
            secondary,
            form: Form::Row,
            within: Range::default(),
            budget: Budget::new(ROWS_MAX, Duration::MAX, now),
            ledger,
            chunk: Chunk::new(self.state.shape.rows_estimate, self.state.shape.bytes, ROWS_MAX),
            looked_at: now,
        };
        match place {
            Place::Keys(keys) => {
                walk.named(keys).await?;
                Ok(Position::End)
            }
            Place::Within(within, position) => {
                walk.within = within.clone();
                Ok(walk.go(position).await?)
            }
        }
    }

    /// Does what the pass is for with what it has found.
    async fn act(
        &self,
        pass: Pass,
        found: &Differences,
        repaired: &mut Repaired,
    ) -> Result<(), VerifyError> {
        let of = |kind: Kind| {
            let rows = found.rows.iter().filter(move |row| row.kind == kind);
            rows.map(|row| row.key.clone()).collect::<Vec<Key>>()
        };
        match pass {
            Pass::Delete | Pass::DeleteDifferent => {
                let mut keys = of(Kind::Extra);
                keys.append(&mut of(Kind::Different));
                repaired.deleted += self.delete(&keys).await?;
            }
            Pass::Put => {
                let (primary, secondary) = self.state.views(self.sides);
                if let Some(update) = secondary.sql.update() {
                    repaired.updated += self.put(primary, &update, &of(Kind::Different)).await?;
                }
                let insert = secondary.sql.insert();
                repaired.inserted += self.put(primary, &insert, &of(Kind::Missing)).await?;
            }
            Pass::Prove if found.is_empty() => {}
            Pass::Prove => return Err(VerifyError::NotRepaired { rows: found.total() }),
        }
        Ok(())
    }

    async fn delete(&self, keys: &[Key]) -> Result<u64, VerifyError> {
        const WHAT: &str = "delete rows";
        let (_, secondary) = self.state.views(self.sides);
        let statement = secondary.sql.delete();
        let mut deleted = 0;
        for keys in keys.chunks(PAGE) {
            let columns = secondary.columns(keys);
            let affected = secondary.client.execute_typed(&statement, &arrays(&columns)).await;
            let affected = affected.map_err(Error::sql(WHAT))?;
            let expected = u64::try_from(keys.len()).unwrap_or(u64::MAX);
            // More only where nothing kept the key unique.
            if affected < expected {
                return Err(VerifyError::Miscount { what: WHAT, expected, affected });
            }
            deleted += affected;
        }
        Ok(deleted)
    }

    /// Fetches rows from the primary, and inserts or updates them with `statement`.
    async fn put(
        &self,
        primary: View<'_>,
        statement: &str,
        keys: &[Key],
    ) -> Result<u64, VerifyError> {
        const WHAT: &str = "fetch rows";
        let mut put = 0;
        for keys in keys.chunks(PAGE) {
            let columns = primary.columns(keys);
            let parameters = columns.iter().map(|column| (column, Type::TEXT_ARRAY));
            let rows = primary.client.query_typed_raw(&primary.sql.images(), parameters).await;
            let mut rows = pin!(rows.map_err(Error::sql(WHAT))?);
            let (mut images, mut bytes, mut fetched) = (Vec::new(), 0, 0);
            while let Some(row) = rows.try_next().await.map_err(Error::sql(WHAT))? {
                let image: String = row.try_get(1).map_err(Error::sql(WHAT))?;
                bytes += image.len();
                fetched += 1;
                images.push(image);
                if bytes >= BYTES_MAX {
                    put += self.write(statement, &images).await?;
                    (images, bytes) = (Vec::new(), 0);
                }
            }
            put += self.write(statement, &images).await?;
            let expected = u64::try_from(keys.len()).unwrap_or(u64::MAX);
            if fetched != expected {
                return Err(VerifyError::Miscount { what: WHAT, expected, affected: fetched });
            }
        }
        Ok(put)
    }

    async fn write(&self, statement: &str, images: &[String]) -> Result<u64, VerifyError> {
        const WHAT: &str = "write rows";
        if images.is_empty() {
            return Ok(0);
        }
        let written =
            self.sides.secondary.execute_typed(statement, &[(&images, Type::TEXT_ARRAY)]).await;
        let affected = written.map_err(Error::sql(WHAT))?;
        let expected = u64::try_from(images.len()).unwrap_or(u64::MAX);
        if affected != expected {
            return Err(VerifyError::Miscount { what: WHAT, expected, affected });
        }
        Ok(affected)
    }
}

/// Which rows are compared.
enum Place<'a> {
    /// Those of these keys.
    Keys(&'a [Key]),
    /// Those of a range, from a position on.
    Within(&'a Range, Position),
}
