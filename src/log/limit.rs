//! Lines about the same thing: a few at a time, then one that says how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// LIMIT: lines of one kind within [`PERIOD`].
pub const LINES_MAX: u32 = 10;

/// How long a kind that has used up its lines is silent at most.
pub const PERIOD: Duration = Duration::from_secs(10);

/// What lines that repeat are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Clients that were not let in.
    LoginFailed,
    /// Errors of ours that clients were told.
    PoolerError,
    /// Servers that could not be connected or logged in to.
    ServerFailed,
    /// Connections taken from the reserve.
    Reserve,
    /// Server connections that ended or behaved unexpectedly.
    ServerMisbehaved,
    /// Cancel requests that could not be carried out.
    Cancel,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::LoginFailed,
        Self::PoolerError,
        Self::ServerFailed,
        Self::Reserve,
        Self::ServerMisbehaved,
        Self::Cancel,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::LoginFailed => "login failed",
            Self::PoolerError => "pooler error",
            Self::ServerFailed => "server failed",
            Self::Reserve => "reserve pool",
            Self::ServerMisbehaved => "server misbehaved",
            Self::Cancel => "cancel",
        }
    }
}

/// Lines of one kind.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

const EMPTY: Window = Window { since: None, lines: 0, left_out: 0 };

/// Counts lines of every kind.
#[derive(Debug)]
pub struct Limits(Mutex<[Window; Kind::ALL.len()]>);

impl Limits {
    /// Starts with nothing counted.
    pub const fn new() -> Self {
        Self(Mutex::new([EMPTY; Kind::ALL.len()]))
    }

    /// Says whether a line of this kind may be written now; counts it either way.
    pub fn admit(&self, kind: Kind, now: Instant) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Kind::ALL.iter().position(|known| *known == kind);
        let Some(window) = at.and_then(|at| windows.get_mut(at)) else { return true };
        if window.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            // What was left out before stays counted until somebody says so.
            (window.since, window.lines) = (Some(now), 0);
        }
        let is_admitted = window.lines < LINES_MAX;
        if is_admitted {
            window.lines += 1;
        } else {
            window.left_out = window.left_out.saturating_add(1);
        }
        is_admitted
    }

    /// Returns the kinds that are over their time with how many lines were left out, and when the
    /// next one will be; its kind may still be silent because nothing more comes.
    pub fn take_overdue(&self, now: Instant) -> (Vec<(&'static str, u64)>, Option<Instant>) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut overdue, mut next) = (Vec::new(), None::<Instant>);
        for (kind, window) in Kind::ALL.iter().zip(windows.iter_mut()) {
            let Some(end) = window.since.and_then(|since| since.checked_add(PERIOD)) else {
                continue;
            };
            if now >= end {
                if window.left_out > 0 {
                    overdue.push((kind.name(), window.left_out));
                }
                *window = EMPTY;
            } else if window.lines >= LINES_MAX {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        (overdue, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_then_a_sum() {
        let limits = Limits::new();
        let start = Instant::now();
        let admitted =
            |now: Instant| (0..100).filter(|_| limits.admit(Kind::LoginFailed, now)).count();
        assert_eq!(admitted(start), 10);
        assert!(limits.admit(Kind::Reserve, start), "other kinds are counted apart");
        let (overdue, next) = limits.take_overdue(start + PERIOD / 2);
        assert_eq!((overdue, next), (vec![], Some(start + PERIOD)));
        let (overdue, next) = limits.take_overdue(start + PERIOD);
        assert_eq!((overdue, next), (vec![("login failed", 90)], None));
        assert_eq!(limits.take_overdue(start + PERIOD), (vec![], None));
        assert_eq!(admitted(start + PERIOD), 10);
    }

    #[test]
    fn nothing_is_forgotten_if_lines_come_before_the_sum() {
        let limits = Limits::new();
        let start = Instant::now();
        for _ in 0..30 {
            limits.admit(Kind::Cancel, start);
        }
        assert!(limits.admit(Kind::Cancel, start + PERIOD));
        let (overdue, _) = limits.take_overdue(start + PERIOD * 2);
        assert_eq!(overdue, [("cancel", 20)]);
    }
}
