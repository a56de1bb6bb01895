//! Sequences: their values are not part of any row, so they are asked for, and set with a margin.
//!
//! A secondary's sequences are ahead of all values that its rows have, as long as no more than the
//! margin is drawn between two looks; at a cutover, with nobody drawing, they are made exact.

use tokio_postgres::Client;

use super::catalog::{SCHEMA, TableName};
use super::error::Error;
use super::literal;

/// Values that a sequence of a secondary is ahead.
pub const MARGIN: i64 = 1000;

/// Sets the sequences of the secondary to what the primary's have reached, and `margin` values more.
///
/// Sequences that the primary has not used, that the secondary does not have, or that are further
/// there already, are left alone. Returns how many were set.
///
/// # Errors
/// [`Error::Sql`].
pub async fn follow(primary: &Client, secondary: &Client, margin: i64) -> Result<usize, Error> {
    let (reached, there) = (reached(primary).await?, reached(secondary).await?);
    let mut set = 0;
    for (name, sequence) in reached {
        let Some(last) = sequence.last else { continue };
        let Some((_, other)) = there.iter().find(|(other, _)| *other == name) else { continue };
        let target = sequence.beyond(last, margin);
        let is_there = other.last.is_some_and(|found| {
            if sequence.increment > 0 { found >= target } else { found <= target }
        });
        if is_there {
            continue;
        }
        let sql = format!(
            "SELECT setval({}::regclass, {target})",
            literal::text(&literal::qualified(&name.schema, &name.name))
        );
        secondary.batch_execute(&sql).await.map_err(Error::sql("set a sequence"))?;
        set += 1;
    }
    Ok(set)
}

/// What is known of a sequence.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// The value drawn last; `None` before the first, or if we may not look.
    last: Option<i64>,
    increment: i64,
    min: i64,
    max: i64,
}

impl Sequence {
    /// `steps` values after `last`, within the bounds.
    fn beyond(&self, last: i64, steps: i64) -> i64 {
        last.saturating_add(self.increment.saturating_mul(steps)).clamp(self.min, self.max)
    }
}

async fn reached(client: &Client) -> Result<Vec<(TableName, Sequence)>, Error> {
    let wrong = || Error::sql("read the sequences");
    let sql = "SELECT schemaname::text, sequencename::text, last_value, increment_by, min_value, \
               max_value FROM pg_sequences WHERE schemaname <> $1";
    let rows = client.query(sql, &[&SCHEMA]).await.map_err(wrong())?;
    let read = |row: &tokio_postgres::Row| {
        let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let (last, increment) = (row.try_get(2)?, row.try_get(3)?);
        Ok((name, Sequence { last, increment, min: row.try_get(4)?, max: row.try_get(5)? }))
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept() {
        let up = Sequence { last: None, increment: 5, min: 1, max: 100 };
        assert_eq!((up.beyond(10, 3), up.beyond(90, 3), up.beyond(100, 3)), (25, 100, 100));
        let down = Sequence { last: None, increment: -1, min: i64::MIN, max: -1 };
        assert_eq!((down.beyond(-5, 3), down.beyond(i64::MIN + 1, 3)), (-8, i64::MIN));
    }
}
