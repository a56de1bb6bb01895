//! Compares one table within one pair of snapshots, from a position on, as far as the budget goes.
//!
//! Where both sides order the keys alike, range by range: count and sum of hashes of each side, three
//! ranges under way at a time. A range that differs is cut into smaller ones, down to [`LEAF_ROWS`]
//! rows; these are listed and *looked up by equality on the other side*, in the same snapshots, and
//! only what that says is reported.
//!
//! That is why the order is a matter of speed only. The ranges cover every row of a side whatever its
//! order is (a row is not after the last boundary, or it is), so that nothing that differs is passed
//! over; and if a range differs while each of its rows has its equal on the other side, the orders
//! differ: then the table is compared by looking up *all* keys of the primary on the secondary, and
//! after that all keys of the secondary on the primary.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::replication::error::Error;

use super::pace::{Budget, Chunk, Pace};
use super::progress::Meter;
use super::report::{Differences, Kind};
use super::shape::Order;
use super::sql::Form;
use super::view::{Found, Key, Range, Sums, View};

/// Ranges of at most so many rows are listed; also the keys of one look-up.
const LEAF_ROWS: u64 = 1000;

/// Parts that a larger range is cut into.
const FANOUT: u64 = 16;

/// Ranges under way at a time: neither side waits for the other, or for us.
///
/// INVARIANT: while they are, no other statement is sent. A connection hands out answers in order, and
/// stops where nobody takes the next one: behind an answer that is not taken, others wait for ever.
const UNDER_WAY: usize = 3;

/// Time between two looks at who waits for our locks; also the longest sleep.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where the comparison of a table stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Ranges up to this key are compared.
    Ranges(Option<Key>),
    /// The primary's keys up to this one are looked up on the secondary.
    Forward(Option<Key>),
    /// And the secondary's keys up to this one on the primary.
    Backward(Option<Key>),
    /// Everything is compared.
    End,
}

impl Position {
    /// The first position after a key, or of the table.
    pub fn start(order: Order, after: Option<Key>) -> Self {
        match order {
            Order::Alike => Self::Ranges(after),
            Order::Unlike => Self::Forward(after),
        }
    }
}

/// Which side's keys are looked up on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// The primary's: finds rows that are missing or different.
    Forward,
    /// The secondary's: finds rows that are extra.
    Backward,
}

/// What stays the same over all snapshots of a table.
pub struct Ledger<'a, 'm> {
    /// What differs.
    pub found: &'a mut Differences,
    /// How fast it may go.
    pub pace: &'a mut Pace,
    /// Who watches.
    pub meter: &'a mut Meter<'m>,
    /// Rows of the primary that were compared.
    pub rows: &'a mut u64,
}

/// The comparison of one table within one pair of snapshots.
pub struct Walk<'a, 'm> {
    /// The primary's rows.
    pub primary: View<'a>,
    /// The secondary's rows.
    pub secondary: View<'a>,
    /// What is hashed.
    pub form: Form,
    /// What is compared at all.
    pub within: Range,
    /// How much there may be in these snapshots.
    pub budget: Budget,
    /// The results.
    pub ledger: Ledger<'a, 'm>,
    /// How much is compared in one statement.
    pub chunk: Chunk,
    /// When it was last looked whether somebody waits for our locks.
    pub looked_at: Instant,
}

impl<'a> Walk<'a, '_> {
    /// Compares from `position` on, to the end or as far as the budget goes; returns where it stands.
    ///
    /// Cancel safe: yes; statements under way end by themselves.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn go(&mut self, position: Position) -> Result<Position, Error> {
        let mut position = position;
        loop {
            let next = match position {
                Position::Ranges(after) => self.ranges(after).await?,
                Position::Forward(after) => match self.keys(Direction::Forward, after).await? {
                    Some(after) => Position::Forward(Some(after)),
                    None => Position::Backward(self.within.after.clone()),
                },
                Position::Backward(after) => match self.keys(Direction::Backward, after).await? {
                    Some(after) => Position::Backward(Some(after)),
                    None => Position::End,
                },
                Position::End => Position::End,
            };
            self.rest().await?;
            if next == Position::End || !self.budget.spend(0, Instant::now()) {
                return Ok(next);
            }
            position = next;
        }
    }

    /// Compares a table that has no key, in one statement on each side.
    pub async fn whole(&mut self) -> Result<Position, Error> {
        let (own, other) = both(self.primary, self.secondary, &Range::default(), self.form).await?;
        self.ledger.found.has_unnamed = own != other;
        *self.ledger.rows += own.rows;
        self.ledger.meter.add(own.rows, self.ledger.found.total(), Instant::now());
        Ok(Position::End)
    }

    /// Compares range by range, until something is to be done that is not this.
    async fn ranges(&mut self, after: Option<Key>) -> Result<Position, Error> {
        let cutter = Cutter::new(self.chunk.rows, self.within.upto.clone());
        let mut summed = sums(self.primary, self.secondary, self.form, &cutter, after);
        // Bounded: the stream ends with those that are under way when the first one differs.
        let mut differing = Vec::new();
        let mut began = Instant::now();
        let mut next = Position::End;
        while let Some(Summed { range, is_last, own, other }) = summed.try_next().await? {
            self.chunk.adapt(began.elapsed());
            cutter.rows.store(self.chunk.rows, Ordering::Relaxed);
            if !self.may_go_on(own.rows) || own != other {
                cutter.stop();
            }
            next = if is_last { Position::End } else { Position::Ranges(range.upto.clone()) };
            if own != other {
                differing.push((range, own.rows));
            }
            began = Instant::now();
        }
        drop(summed);
        for (range, rows) in differing {
            if !self.drill(range, rows).await? {
                // Every row has its equal: the orders differ. What was found so far is found again.
                self.ledger.found.clear();
                return Ok(Position::Forward(self.within.after.clone()));
            }
        }
        Ok(next)
    }

    /// Finds out which rows of a range differ; returns whether any does.
    ///
    /// `rows` is how many the primary has there.
    async fn drill(&mut self, range: Range, rows: u64) -> Result<bool, Error> {
        let mut has_found = false;
        // Bounded: each level adds at most FANOUT + 1 ranges, and there are log16(rows) levels.
        let mut ahead = vec![(range, rows)];
        while let Some((range, rows)) = ahead.pop() {
            if rows <= LEAF_ROWS {
                has_found |= self.leaf(&range).await?;
            } else {
                let mut parts = self.cut(range, rows.div_ceil(FANOUT).max(LEAF_ROWS)).await?;
                // The first is looked at first.
                parts.reverse();
                ahead.append(&mut parts);
            }
        }
        Ok(has_found)
    }

    /// Cuts a range into parts of `rows` rows, and returns those that differ.
    async fn cut(&self, range: Range, rows: u64) -> Result<Vec<(Range, u64)>, Error> {
        let mut parts = Vec::new();
        let mut rest = range;
        loop {
            let boundary = self.primary.boundary(&rest, rows).await?;
            let is_last = boundary.is_none();
            let upto = boundary.clone().or_else(|| rest.upto.clone());
            let part = Range { after: rest.after.take(), upto };
            let (own, other) = both(self.primary, self.secondary, &part, self.form).await?;
            if own != other {
                parts.push((part, own.rows));
            }
            if is_last {
                return Ok(parts);
            }
            rest.after = boundary;
        }
    }

    /// Looks up given keys on both sides.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn named(&mut self, keys: &[Key]) -> Result<(), Error> {
        let (primary, secondary, form) = (self.primary, self.secondary, self.form);
        for keys in keys.chunks(usize::try_from(LEAF_ROWS).unwrap_or(usize::MAX)) {
            let both = tokio::try_join!(primary.lookup(keys, form), secondary.lookup(keys, form))?;
            for ((key, own), other) in keys.iter().zip(both.0).zip(both.1) {
                let kind = match (own, other) {
                    (own, other) if own == other => continue,
                    (Found::Nothing, _) | (_, Found::Several) => Kind::Extra,
                    (_, Found::Nothing) => Kind::Missing,
                    (Found::One(_) | Found::Several, Found::One(_)) => Kind::Different,
                };
                self.ledger.found.add(key.clone(), kind);
            }
        }
        Ok(())
    }

    /// Looks up all keys of a small range, both ways; returns whether any row differs.
    async fn leaf(&mut self, range: &Range) -> Result<bool, Error> {
        let before = self.ledger.found.total();
        for direction in [Direction::Forward, Direction::Backward] {
            let (from, to) = self.sides(direction);
            let mut rest = range.clone();
            loop {
                let page = from.list(&rest, self.form, LEAF_ROWS).await?;
                let Some((last, _)) = page.last() else { break };
                rest.after = Some(last.clone());
                let answers = look_up(to, page, self.form).await?;
                self.judge(direction, answers);
            }
        }
        Ok(self.ledger.found.total() > before)
    }

    /// Looks up the keys of one side on the other, until something is to be done that is not this;
    /// returns where it stopped, if not at the end.
    async fn keys(
        &mut self,
        direction: Direction,
        after: Option<Key>,
    ) -> Result<Option<Key>, Error> {
        let (from, to) = self.sides(direction);
        let cutter = Cutter::new(LEAF_ROWS, self.within.upto.clone());
        let mut answered = answers(from, to, self.form, &cutter, after);
        let mut done = None;
        while let Some(answers) = answered.try_next().await? {
            done = answers.last().map(|(key, ..)| key.clone());
            let rows = u64::try_from(answers.len()).unwrap_or(u64::MAX);
            self.judge(direction, answers);
            // The way back is over the secondary's rows; they were counted on the way forth.
            if !self.may_go_on(if direction == Direction::Forward { rows } else { 0 }) {
                cutter.stop();
            }
        }
        Ok(done.filter(|_| cutter.is_over()))
    }

    /// Adds to the findings what the answers for a page of keys mean.
    fn judge(&mut self, direction: Direction, answers: Answers) {
        for (key, hash, found) in answers {
            let kind = match (direction, found) {
                (Direction::Forward, Found::Nothing) => Kind::Missing,
                (Direction::Forward, Found::One(other)) if other != hash => Kind::Different,
                (Direction::Forward, Found::Several) | (Direction::Backward, Found::Nothing) => {
                    Kind::Extra
                }
                // What differs on the way back was found on the way forth, under the primary's key.
                (Direction::Forward | Direction::Backward, Found::One(_))
                | (Direction::Backward, Found::Several) => continue,
            };
            self.ledger.found.add(key, kind);
        }
    }

    /// Counts rows, and returns whether the next ones may come at once.
    fn may_go_on(&mut self, rows: u64) -> bool {
        let now = Instant::now();
        *self.ledger.rows += rows;
        self.ledger.meter.add(rows, self.ledger.found.total(), now);
        let is_within = self.budget.spend(rows, now);
        let is_owed = !self.ledger.pace.spend(rows, now).is_zero();
        is_within && !is_owed && now.saturating_duration_since(self.looked_at) < LOOK_INTERVAL
    }

    /// Waits as long as the pace asks for and the budget goes, and looks who waits for us.
    async fn rest(&mut self) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            if now.saturating_duration_since(self.looked_at) >= LOOK_INTERVAL {
                self.looked_at = now;
                if self.is_in_the_way().await? {
                    self.budget.exhaust();
                }
            }
            let owed = self.ledger.pace.owed(now);
            if owed.is_zero() || !self.budget.spend(0, now) {
                return Ok(());
            }
            tokio::time::sleep(owed.min(LOOK_INTERVAL)).await;
        }
    }

    /// Whether somebody waits for a lock of ours: an ALTER TABLE there, a TRUNCATE of the applier here.
    async fn is_in_the_way(&self) -> Result<bool, Error> {
        let sides = (self.primary.is_in_the_way(), self.secondary.is_in_the_way());
        let (own, other) = tokio::try_join!(sides.0, sides.1)?;
        Ok(own || other)
    }

    fn sides(&self, direction: Direction) -> (View<'a>, View<'a>) {
        match direction {
            Direction::Forward => (self.primary, self.secondary),
            Direction::Backward => (self.secondary, self.primary),
        }
    }
}

/// How ranges are cut off, told to the stream of them while it runs.
struct Cutter {
    /// Whether no more are wanted.
    is_over: AtomicBool,
    /// Rows of each.
    rows: AtomicU64,
    /// Where they end.
    upto: Option<Key>,
}

impl Cutter {
    fn new(rows: u64, upto: Option<Key>) -> Self {
        Self { is_over: AtomicBool::new(false), rows: AtomicU64::new(rows), upto }
    }

    /// Lets those that are under way be the last.
    fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// A range with the sums of both sides.
struct Summed {
    range: Range,
    is_last: bool,
    own: Sums,
    other: Sums,
}

/// Cuts what follows `after` into ranges, and sums up each on both sides.
fn sums<'a>(
    primary: View<'a>,
    secondary: View<'a>,
    form: Form,
    cutter: &'a Cutter,
    after: Option<Key>,
) -> BoxStream<'a, Result<Summed, Error>> {
    let ranges =
        stream::try_unfold(Next::After(after), move |next| next_range(primary, cutter, next));
    let summed = ranges.map_ok(move |(range, is_last)| async move {
        let (own, other) = both(primary, secondary, &range, form).await?;
        Ok(Summed { range, is_last, own, other })
    });
    summed.try_buffered(UNDER_WAY).boxed()
}

/// Where the next range begins.
enum Next {
    /// After this key, or with the first row.
    After(Option<Key>),
    /// There is no further range.
    Nowhere,
}

/// The next range and whether it is the last, and where the one after it begins.
type NextRange = Option<((Range, bool), Next)>;

async fn next_range(primary: View<'_>, cutter: &Cutter, next: Next) -> Result<NextRange, Error> {
    let Next::After(after) = next else { return Ok(None) };
    if cutter.is_over() {
        return Ok(None);
    }
    let rest = Range { after: after.clone(), upto: cutter.upto.clone() };
    let cut = primary.boundary(&rest, cutter.rows.load(Ordering::Relaxed)).await?;
    let range = Range { after, upto: cut.clone().or(rest.upto) };
    let is_last = cut.is_none();
    let next = cut.map_or(Next::Nowhere, |key| Next::After(Some(key)));
    Ok(Some(((range, is_last), next)))
}

/// Keys of one side with the hashes of their rows, and what the other side has.
type Answers = Vec<(Key, i64, Found)>;

/// Lists the keys of one side after `after`, page by page, and looks up each page on the other.
fn answers<'a>(
    from: View<'a>,
    to: View<'a>,
    form: Form,
    cutter: &'a Cutter,
    after: Option<Key>,
) -> BoxStream<'a, Result<Answers, Error>> {
    let pages = stream::try_unfold(after, move |after| next_page(from, form, cutter, after));
    pages.map_ok(move |page| look_up(to, page, form)).try_buffered(UNDER_WAY).boxed()
}

/// The next page of keys with the hashes of their rows, and the last key of it.
type NextPage = Option<(Vec<(Key, i64)>, Option<Key>)>;

async fn next_page(
    from: View<'_>,
    form: Form,
    cutter: &Cutter,
    after: Option<Key>,
) -> Result<NextPage, Error> {
    if cutter.is_over() {
        return Ok(None);
    }
    let rest = Range { after, upto: cutter.upto.clone() };
    let page = from.list(&rest, form, cutter.rows.load(Ordering::Relaxed)).await?;
    let last = page.last().map(|(last, _)| last.clone());
    Ok(last.map(|last| (page, Some(last))))
}

/// Sums up a range on both sides at the same time.
async fn both(
    primary: View<'_>,
    secondary: View<'_>,
    range: &Range,
    form: Form,
) -> Result<(Sums, Sums), Error> {
    tokio::try_join!(primary.sums(range, form), secondary.sums(range, form))
}

/// Finds the keys of a page on the other side.
async fn look_up(to: View<'_>, page: Vec<(Key, i64)>, form: Form) -> Result<Answers, Error> {
    let (keys, hashes): (Vec<Key>, Vec<i64>) = page.into_iter().unzip();
    let found = to.lookup(&keys, form).await?;
    let answers = keys.into_iter().zip(hashes).zip(found);
    Ok(answers.map(|((key, hash), found)| (key, hash, found)).collect())
}
