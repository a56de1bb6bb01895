//! How often the configuration has changed, and whom that concerns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;

/// Counts reloads, and tells those who follow the configuration by themselves.
#[derive(Debug)]
pub struct Reloads {
    started: SystemTime,
    /// When the configuration in force was put in force.
    last: watch::Sender<SystemTime>,
    successes: AtomicU64,
    failures: AtomicU64,
    has_failed: AtomicBool,
}

impl Default for Reloads {
    fn default() -> Self {
        let started = SystemTime::now();
        Self {
            started,
            last: watch::Sender::new(started),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        }
    }
}

impl Reloads {
    /// Takes note of an attempt.
    pub fn note<T, E>(&self, outcome: &Result<T, E>) {
        self.has_failed.store(outcome.is_err(), Ordering::Relaxed);
        if outcome.is_ok() {
            // Relaxed: the counts guard no other memory.
            self.successes.fetch_add(1, Ordering::Relaxed);
            self.last.send_replace(SystemTime::now());
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns what changes whenever another configuration is in force.
    pub fn watch(&self) -> watch::Receiver<SystemTime> {
        self.last.subscribe()
    }

    /// Returns when the process began.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Returns when the configuration in force was put in force.
    pub fn last_success(&self) -> SystemTime {
        *self.last.borrow()
    }

    /// Says whether the last attempt put a configuration in force; the start counts as one.
    pub fn was_last_successful(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed)
    }

    /// Returns how many configurations were put in force since the start.
    pub fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    /// Returns how many were refused.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}
