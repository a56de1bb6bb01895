//! `pg_snapshot`: which transactions are over.
//!
//! A secondary stands at a snapshot of its primary. Pure: parses, prints and compares.
//!
//! Source: `src/backend/utils/adt/xid8funcs.c`.

use std::fmt;
use std::str::FromStr;

/// A snapshot: every transaction below `xmin` is over, none from `xmax` on, and of those between all
/// but the listed ones.
///
/// The snapshots that one server makes are a chain: of two, one covers the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// Sorted, all in `xmin..xmax`, each once.
    in_progress: Vec<u64>,
}

/// A text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot")]
pub struct BadSnapshot(String);

impl Snapshot {
    /// Whether a transaction of this number is over, so that what it did is seen if it committed.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// Whether everything that `earlier` sees is seen here too.
    pub fn covers(&self, earlier: &Self) -> bool {
        let is_seen_there = |xid: &u64| earlier.sees(*xid);
        earlier.xmax <= self.xmax && !self.in_progress.iter().any(is_seen_there)
    }

    /// The number from which on no transaction is over.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Below [`Self::xmax`], the transactions that are not over.
    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }
}

impl FromStr for Snapshot {
    type Err = BadSnapshot;

    fn from_str(text: &str) -> Result<Self, BadSnapshot> {
        parse(text).ok_or_else(|| BadSnapshot(text.chars().take(100).collect()))
    }
}

fn parse(text: &str) -> Option<Snapshot> {
    let mut parts = text.splitn(3, ':');
    let xmin = number(parts.next()?)?;
    let xmax = number(parts.next()?)?;
    let numbers = parts.next()?;
    let mut in_progress = Vec::new();
    if !numbers.is_empty() {
        for xid in numbers.split(',') {
            let xid = number(xid)?;
            let before = in_progress.last().copied();
            if xid < xmin || xid >= xmax || before.is_some_and(|before| xid < before) {
                return None;
            }
            // The server skips repeated numbers too.
            if before != Some(xid) {
                in_progress.push(xid);
            }
        }
    }
    (xmin > 0 && xmin <= xmax).then_some(Snapshot { xmin, xmax, in_progress })
}

/// A number in the one way in which the server prints it.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (position, xid) in self.in_progress.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parsing() {
        for good in ["1:1:", "10:20:10,14,19", "3:18446744073709551615:5", "7:9:7"] {
            assert_eq!(good.parse::<Snapshot>().unwrap().to_string(), good);
        }
        assert_eq!("10:20:11,11,12".parse::<Snapshot>().unwrap().to_string(), "10:20:11,12");
        for bad in [
            "",
            ":",
            "::",
            "0:1:",
            "2:1:",
            "1:2",
            "1:2:2",
            "5:9:4",
            "5:9:9",
            "5:9:7,6",
            "5:9:6,",
            "+1:2:",
            "1:2:,",
            " 1:2:",
            "1:18446744073709551616:",
            "a:b:c",
            "1:2:3:4",
        ] {
            assert!(bad.parse::<Snapshot>().is_err(), "{bad}");
        }
    }

    #[test]
    fn visibility() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        let seen: Vec<u64> = (8..22).filter(|&xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        (1_u64..40, 0_u64..40).prop_flat_map(|(xmin, length)| {
            prop::collection::btree_set(xmin..=xmin + length, 0..10).prop_map(move |mut set| {
                let xmax = xmin + length;
                set.remove(&xmax);
                Snapshot { xmin, xmax, in_progress: set.into_iter().collect() }
            })
        })
    }

    proptest! {
        #[test]
        fn printing_is_parsed_back(snapshot in snapshots()) {
            prop_assert_eq!(snapshot.to_string().parse::<Snapshot>(), Ok(snapshot));
        }

        #[test]
        fn covering_is_seeing_all_that_the_other_sees(a in snapshots(), b in snapshots()) {
            let expected = (0..100).all(|xid| !b.sees(xid) || a.sees(xid));
            // A greater xmax with nobody seen up there covers no more; the chain does not have that.
            if b.sees(b.xmax.saturating_sub(1)) || b.xmax <= a.xmax {
                prop_assert_eq!(a.covers(&b), expected);
            }
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = text.parse::<Snapshot>();
        }
    }
}
