//! One worker's share of one pool, as pure bookkeeping: no I/O, no clock, no bounds.
//!
//! A backend is *idle* (listed here), *busy* (somebody owns it: a lease, a reset, a check) or
//! *opening* (asked for, not there yet). A session that finds none waits; whoever gives a backend
//! back is told whom to hand it to. Bounds are the [`ledger`](super::ledger)'s: whoever opens asks it.
//!
//! INVARIANT: while somebody waits, nothing is idle. Waiters are served in order of arrival.

use std::collections::VecDeque;

/// A session that waits for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter<S> {
    /// Who waits.
    pub session: S,
    /// Since when, in the worker's microseconds.
    pub since_us: u64,
}

/// The answer to a checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkout<B> {
    /// This backend is yours.
    Leased(B),
    /// You are in the queue.
    Queued,
}

/// Which idle backend goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one used last: its caches are warm, and the others can expire.
    NewestFirst,
    /// The one idle for longest (`server_round_robin`).
    OldestFirst,
}

/// The bookkeeping. `S` names sessions, `B` backends.
#[derive(Debug)]
pub struct Slots<S, B> {
    /// The one idle for longest is at the front.
    idle: VecDeque<B>,
    /// The one that waits for longest is at the front.
    waiters: VecDeque<Waiter<S>>,
    opening: usize,
    busy: usize,
}

impl<S, B> Default for Slots<S, B> {
    fn default() -> Self {
        Self { idle: VecDeque::new(), waiters: VecDeque::new(), opening: 0, busy: 0 }
    }
}

impl<S: Copy + PartialEq, B: Copy + PartialEq> Slots<S, B> {
    /// Leases an idle backend to `session`, or puts it into the queue.
    pub fn checkout(&mut self, session: S, order: Order, now_us: u64) -> Checkout<B> {
        let backend = match order {
            Order::NewestFirst => self.idle.pop_back(),
            Order::OldestFirst => self.idle.pop_front(),
        };
        if let Some(backend) = backend {
            self.busy += 1;
            return Checkout::Leased(backend);
        }
        self.queue(session, now_us);
        Checkout::Queued
    }

    /// Takes a busy backend back; returns who gets it now. It is idle if that is nobody.
    pub fn check_in(&mut self, backend: B) -> Option<Waiter<S>> {
        debug_assert!(self.busy > 0, "only a busy backend comes back");
        if let Some(waiter) = self.waiters.pop_front() {
            return Some(waiter);
        }
        self.busy = self.busy.saturating_sub(1);
        self.idle.push_back(backend);
        None
    }

    /// Takes an idle backend out for other work than a lease; it is busy then.
    pub fn take_idle(&mut self, backend: B) -> bool {
        let was_idle = self.remove_idle(backend);
        self.busy += usize::from(was_idle);
        was_idle
    }

    /// Forgets an idle backend: it was closed, or lent to another worker.
    pub fn remove_idle(&mut self, backend: B) -> bool {
        let found = self.idle.iter().position(|known| *known == backend);
        found.and_then(|at| self.idle.remove(at)).is_some()
    }

    /// Forgets a busy backend: it was closed, or given to another worker.
    pub fn remove_busy(&mut self) {
        debug_assert!(self.busy > 0, "only a busy backend can go");
        self.busy = self.busy.saturating_sub(1);
    }

    /// Adds a backend that somebody else made busy already: one opened, or given by another worker.
    /// [`check_in`](Self::check_in) puts it to use.
    pub fn add_busy(&mut self) {
        self.busy += 1;
    }

    /// Notes that a connection has been asked for.
    pub fn opening_started(&mut self) {
        self.opening += 1;
    }

    /// Notes that a connection that was asked for is there, or will not come.
    pub fn opening_ended(&mut self) {
        debug_assert!(self.opening > 0, "only what was started can end");
        self.opening = self.opening.saturating_sub(1);
    }

    /// Takes `session` out of the queue, if it is there.
    pub fn leave(&mut self, session: S) -> Option<Waiter<S>> {
        let found = self.waiters.iter().position(|waiter| waiter.session == session);
        found.and_then(|at| self.waiters.remove(at))
    }

    /// Puts `session` into the queue although a backend may be idle.
    pub fn queue(&mut self, session: S, now_us: u64) {
        self.waiters.push_back(Waiter { session, since_us: now_us });
    }

    /// Does not count `by_us` of everybody's waiting, which ended now.
    pub fn postpone(&mut self, by_us: u64, now_us: u64) {
        for waiter in &mut self.waiters {
            // Who came meanwhile begins to wait now.
            waiter.since_us = waiter.since_us.saturating_add(by_us).min(now_us);
        }
    }

    /// Takes the first waiter out of the queue.
    pub fn pop_waiter(&mut self) -> Option<Waiter<S>> {
        self.waiters.pop_front()
    }

    /// Returns the session that waits for longest.
    pub fn first_waiter(&self) -> Option<Waiter<S>> {
        self.waiters.front().copied()
    }

    /// Returns everybody in the queue, the one that waits for longest first.
    pub fn waiting_sessions(&self) -> impl Iterator<Item = S> {
        self.waiters.iter().map(|waiter| waiter.session)
    }

    /// Returns how many sessions wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Says whether more sessions wait than connections are on their way.
    pub fn wants_opening(&self) -> bool {
        self.waiters.len() > self.opening
    }

    /// Returns the idle backends, the one idle for longest first.
    pub fn idle(&self) -> impl DoubleEndedIterator<Item = B> + ExactSizeIterator {
        self.idle.iter().copied()
    }

    /// Returns how many backends exist here or are on their way.
    pub fn total(&self) -> usize {
        self.idle.len() + self.busy + self.opening
    }

    /// Returns how many backends can serve somebody: idle or busy.
    pub fn usable(&self) -> usize {
        self.idle.len() + self.busy
    }

    /// Returns how many connections are on their way.
    pub fn opening(&self) -> usize {
        self.opening
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use proptest::prelude::*;

    /// What can happen to a pool, in any order.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Arrive,
        Open,
        Opened,
        OpeningFails,
        CheckIn(u8),
        CloseBusy(u8),
        CloseIdle(u8),
        GiveUp(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Arrive),
            2 => Just(Step::Open),
            2 => Just(Step::Opened),
            1 => Just(Step::OpeningFails),
            4 => any::<u8>().prop_map(Step::CheckIn),
            1 => any::<u8>().prop_map(Step::CloseBusy),
            1 => any::<u8>().prop_map(Step::CloseIdle),
            1 => any::<u8>().prop_map(Step::GiveUp),
        ]
    }

    /// Follows the pool from outside: who holds what, who waits in which order.
    #[derive(Default)]
    struct World {
        slots: Slots<u32, u32>,
        leases: HashMap<u32, u32>,
        waiting: VecDeque<u32>,
        idle: BTreeSet<u32>,
        opening: usize,
        next: u32,
    }

    const BOUND: usize = 4;

    impl World {
        fn pick(&self, at: u8) -> Option<u32> {
            let mut busy: Vec<u32> = self.leases.keys().copied().collect();
            busy.sort_unstable();
            (!busy.is_empty()).then(|| busy[usize::from(at) % busy.len()])
        }

        fn give_back(&mut self, backend: u32) {
            if let Some(next) = self.slots.check_in(backend).map(|waiter| waiter.session) {
                assert_eq!(Some(next), self.waiting.pop_front(), "out of order");
                assert!(self.leases.insert(backend, next).is_none(), "in two hands");
            } else {
                assert!(self.waiting.is_empty(), "a waiter was forgotten");
                assert!(self.idle.insert(backend));
            }
        }

        fn apply(&mut self, step: Step) {
            match step {
                Step::Arrive => {
                    let session = self.next;
                    self.next += 1;
                    match self.slots.checkout(session, Order::NewestFirst, 0) {
                        Checkout::Leased(backend) => {
                            assert!(self.idle.remove(&backend), "not idle");
                            assert!(self.leases.insert(backend, session).is_none());
                        }
                        Checkout::Queued => {
                            assert!(self.idle.is_empty(), "waits beside an idle backend");
                            self.waiting.push_back(session);
                        }
                    }
                }
                Step::Open => {
                    if self.slots.wants_opening() && self.slots.total() < BOUND {
                        self.slots.opening_started();
                        self.opening += 1;
                    }
                }
                Step::Opened if self.opening > 0 => {
                    self.opening -= 1;
                    self.slots.opening_ended();
                    self.slots.add_busy();
                    let backend = self.next;
                    self.next += 1;
                    self.give_back(backend);
                }
                Step::OpeningFails if self.opening > 0 => {
                    self.opening -= 1;
                    self.slots.opening_ended();
                }
                Step::Opened | Step::OpeningFails => {}
                Step::CheckIn(at) => {
                    if let Some(backend) = self.pick(at) {
                        self.leases.remove(&backend);
                        self.give_back(backend);
                    }
                }
                Step::CloseBusy(at) => {
                    if let Some(backend) = self.pick(at) {
                        self.leases.remove(&backend);
                        self.slots.remove_busy();
                    }
                }
                Step::CloseIdle(at) => {
                    let at = usize::from(at) % self.idle.len().max(1);
                    if let Some(backend) = self.idle.iter().copied().nth(at) {
                        self.idle.remove(&backend);
                        assert!(self.slots.remove_idle(backend));
                    }
                }
                Step::GiveUp(at) => {
                    let at = usize::from(at) % self.waiting.len().max(1);
                    if let Some(session) = self.waiting.remove(at) {
                        assert!(self.slots.leave(session).is_some());
                        assert!(self.slots.leave(session).is_none());
                    }
                }
            }
        }
    }

    #[test]
    fn a_pause_is_not_waiting() {
        let mut slots: Slots<u32, u32> = Slots::default();
        slots.queue(1, 1_000);
        slots.queue(2, 5_000);
        // Paused from 2,000 to 6,000.
        slots.postpone(4_000, 6_000);
        assert_eq!(slots.pop_waiter().map(|first| first.since_us), Some(5_000), "waited 1 s");
        assert_eq!(slots.pop_waiter().map(|second| second.since_us), Some(6_000), "not at all");
    }

    proptest! {
        #[test]
        fn no_backend_in_two_hands_no_waiter_forgotten_no_bound_exceeded(
            steps in proptest::collection::vec(step(), 0..300)
        ) {
            let mut world = World::default();
            for step in steps {
                world.apply(step);
                prop_assert!(world.slots.total() <= BOUND);
                prop_assert_eq!(world.slots.waiting(), world.waiting.len());
                prop_assert_eq!(world.slots.usable(), world.idle.len() + world.leases.len());
                prop_assert_eq!(world.slots.opening(), world.opening);
            }
        }
    }
}
