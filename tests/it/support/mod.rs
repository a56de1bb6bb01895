//! What the tests stand on: throw-away PostgreSQL servers, a running proxy, and a client that
//! speaks raw protocol.

pub mod cluster;
pub mod config;
pub mod definitions;
pub mod drivers;
pub mod fake;
pub mod fixture;
pub mod http;
pub mod inside;
pub mod login;
pub mod message;
pub mod proxy;
pub mod reaper;
pub mod reply;
pub mod tmpfs;
pub mod tools;
pub mod wire;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Longest wait for anything that must happen; far more than any of it takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub fn poll(what: &str, condition: impl FnMut() -> bool) {
    poll_within(PATIENCE, what, condition);
}

/// Waits for what takes long by its nature.
///
/// # Panics
/// If it takes longer than `limit`.
pub fn poll_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Lets `time` pass, where a test is about time itself (idle time-outs, something that must not
/// happen).
pub fn let_pass(time: Duration) {
    let started = Instant::now();
    while let Some(rest) = time.checked_sub(started.elapsed()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}

/// Set when dropped, so that helper threads end whether or not the test fails.
pub struct EndsWith<'a>(pub &'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
