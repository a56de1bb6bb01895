//! Whether the clients of a database may have backends, and whether new clients may come.
//!
//! A gate is changed by the control plane. Workers look at it when they are told to, and once a
//! second: what they do between two looks costs them nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Numbers the pauses of one gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn(u64);

/// What stands between clients and backends.
#[derive(Debug, Default)]
pub struct Gate {
    /// Counts changes: paused while it is odd. So a pause that was undone is never taken for a
    /// later one.
    turns: AtomicU64,
    is_disabled: AtomicBool,
    is_removed: AtomicBool,
    changed: Notify,
}

impl Gate {
    /// Says whether nobody may have a backend.
    pub fn is_paused(&self) -> bool {
        Self::is_pause(self.turns.load(Ordering::Acquire))
    }

    /// Closes the gate; `None` if it is closed already.
    pub fn pause(&self) -> Option<Turn> {
        let closed = self.turns.fetch_update(Ordering::AcqRel, Ordering::Acquire, |turns| {
            (!Self::is_pause(turns)).then_some(turns + 1)
        });
        self.changed.notify_waiters();
        closed.ok().map(|turns| Turn(turns + 1))
    }

    /// Closes the gate by a pause that no earlier one can undo, whether it is closed or not.
    pub fn hold(&self) {
        // An odd number stays odd.
        let next = |turns| Some(if Self::is_pause(turns) { turns + 2 } else { turns + 1 });
        let _ = self.turns.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        self.changed.notify_waiters();
    }

    /// Opens the gate; says whether it was closed.
    pub fn resume(&self) -> bool {
        let opened = self.turns.fetch_update(Ordering::AcqRel, Ordering::Acquire, |turns| {
            Self::is_pause(turns).then_some(turns + 1)
        });
        self.changed.notify_waiters();
        opened.is_ok()
    }

    /// Opens the gate if it is still closed by this very pause; says whether it was.
    pub fn undo(&self, Turn(pause): Turn) -> bool {
        let opened =
            self.turns.compare_exchange(pause, pause + 1, Ordering::AcqRel, Ordering::Acquire);
        self.changed.notify_waiters();
        opened.is_ok()
    }

    /// Returns the pause that holds.
    pub fn turn(&self) -> Option<Turn> {
        let turns = self.turns.load(Ordering::Acquire);
        Self::is_pause(turns).then_some(Turn(turns))
    }

    /// Says whether new clients are refused.
    pub fn is_disabled(&self) -> bool {
        self.is_disabled.load(Ordering::Acquire)
    }

    /// Refuses new clients, or lets them in again.
    pub fn set_disabled(&self, is_disabled: bool) {
        self.is_disabled.store(is_disabled, Ordering::Release);
    }

    /// Says whether the configuration has no such database any more.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    /// Notes whether the configuration has such a database.
    pub fn set_removed(&self, is_removed: bool) {
        self.is_removed.store(is_removed, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits for the next change of anything that backends depend on.
    ///
    /// A change behind this call is not missed, even if it comes before the future is polled.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Wakes those who wait for [`changed`](Self::changed).
    pub fn touch(&self) {
        self.changed.notify_waiters();
    }

    fn is_pause(turns: u64) -> bool {
        turns % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_undone_once_and_only_by_its_own_number() {
        let gate = Gate::default();
        assert!(!gate.is_paused() && !gate.resume());
        let first = gate.pause().unwrap();
        assert!(gate.is_paused());
        assert_eq!((gate.pause(), gate.turn()), (None, Some(first)));
        assert!(gate.resume());
        let second = gate.pause().unwrap();
        assert!(!gate.undo(first), "the first pause is over");
        assert!(gate.is_paused());
        assert!(gate.undo(second));
        let third = gate.pause().unwrap();
        gate.hold();
        assert!(gate.is_paused() && !gate.undo(third), "held by somebody else now");
        assert!(gate.resume());
        gate.hold();
        assert!(gate.is_paused() && gate.resume());
        assert!(!gate.is_paused() && gate.turn().is_none());
    }

    #[tokio::test]
    async fn a_change_between_the_look_and_the_wait_is_not_missed() {
        let gate = Gate::default();
        let changed = gate.changed();
        gate.pause();
        changed.await;
        let changed = gate.changed();
        gate.set_removed(true);
        changed.await;
    }
}
