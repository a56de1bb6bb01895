//! What a worker says of itself: its pools' counters and states, and how busy its loop is.
//!
//! Costs a worker a copy of its counters, and one look at each of its backends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Worker;
use super::backend::{Backend, Role};
use super::mailbox::{ToWorker, WorkerHandle};
use super::session::Phase;
use super::slab::Key;
use crate::metrics::cells::{Cells, States};
use crate::pool::spec::{PoolNumber, Spec};

/// What one worker has done for one pool; or all of them, once [summed](by_pool).
#[derive(Debug, Clone)]
pub struct PoolReport {
    /// The pool.
    pub spec: Arc<Spec>,
    /// What was done so far.
    pub cells: Cells,
    /// How things stand.
    pub states: States,
}

/// How busy the loop of a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoopReport {
    /// How often the loop has gone round.
    pub turns: u64,
    /// Events that the system has reported to it.
    pub events: u64,
    /// CPU time that its thread has used.
    pub cpu: Duration,
}

/// What one worker says of itself.
#[derive(Debug, Clone, Default)]
pub struct WorkerReport {
    /// Its share of each pool that it has seen a client or a backend of.
    pub pools: Vec<PoolReport>,
    /// Its loop.
    pub event_loop: LoopReport,
}

/// Asks all workers at once, and waits until `limit` for their answers. One that does not answer in
/// time, or has ended, is `None`.
///
/// Cancel safe: answers that nobody waits for are dropped.
pub async fn collect(workers: &[WorkerHandle], limit: Duration) -> Vec<Option<WorkerReport>> {
    let deadline = Instant::now() + limit;
    let mut questions = JoinSet::new();
    for (at, worker) in workers.iter().cloned().enumerate() {
        questions
            .spawn(async move { (at, timeout_at(deadline, ask(worker)).await.ok().flatten()) });
    }
    let mut answers = vec![None; workers.len()];
    while let Some(answer) = questions.join_next().await {
        if let Ok((at, report)) = answer
            && let Some(place) = answers.get_mut(at)
        {
            *place = report;
        }
    }
    answers
}

async fn ask(worker: WorkerHandle) -> Option<WorkerReport> {
    let (reply, answer) = oneshot::channel();
    worker.send(ToWorker::Report { reply }).await.ok()?;
    answer.await.ok()
}

/// Adds up what the workers say of each pool; ordered by database and user.
pub fn by_pool<'a>(reports: impl IntoIterator<Item = &'a WorkerReport>) -> Vec<PoolReport> {
    let mut sums: BTreeMap<PoolNumber, PoolReport> = BTreeMap::new();
    for report in reports.into_iter().flat_map(|worker| &worker.pools) {
        if let Some(sum) = sums.get_mut(&report.spec.number) {
            sum.cells.add(&report.cells);
            sum.states.add(&report.states);
        } else {
            sums.insert(report.spec.number, report.clone());
        }
    }
    let mut pools: Vec<PoolReport> = sums.into_values().collect();
    pools.sort_by(|a, b| (&a.spec.database, &a.spec.user).cmp(&(&b.spec.database, &b.spec.user)));
    pools
}

impl Worker {
    /// Answers what [`collect`] asks.
    pub(super) fn report(&self) -> WorkerReport {
        let mut states: Vec<States> = vec![States::default(); self.pools.len()];
        for key in self.backends.keys() {
            let Some(backend) = self.backends.get(key) else { continue };
            let at = usize::try_from(backend.pool.0).unwrap_or(usize::MAX);
            if let Some(states) = states.get_mut(at) {
                self.count_backend(key, backend, states);
            }
        }
        let pools = self.pools.iter().zip(states).filter_map(|(pool, mut states)| {
            let pool = pool.as_ref()?;
            states.servers_opening = count(pool.slots.opening());
            states.clients_waiting = count(pool.slots.waiting());
            states.clients_idle =
                count(pool.sessions).saturating_sub(states.clients_leased + states.clients_waiting);
            if let Some(first) = pool.slots.first_waiter() {
                states.wait_longest_us = self.now_us.saturating_sub(first.since_us);
            }
            let spec = Arc::clone(&pool.spec);
            Some(PoolReport { spec, cells: (*pool.cells).clone(), states })
        });
        WorkerReport { pools: pools.collect(), event_loop: self.report_loop() }
    }

    fn report_loop(&self) -> LoopReport {
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        LoopReport { turns: self.turns, events: self.events_seen, cpu }
    }

    fn count_backend(&self, key: Key<Backend>, backend: &Backend, states: &mut States) {
        states.servers_cancelling += u64::from(backend.cancels);
        match &backend.role {
            Role::Idle if self.is_stale(key) => states.servers_stale += 1,
            Role::Idle => states.servers_idle += 1,
            Role::Cancelling => states.servers_being_cancelled += 1,
            Role::Chore(_) => states.servers_tested += 1,
            Role::Leased(session) => {
                states.servers_active += 1;
                let Some(session) = self.sessions.get(*session) else { return };
                if matches!(session.phase, Phase::Leased(_)) {
                    states.clients_leased += 1;
                    states.clients_pinned += u64::from(!session.front.state.pins.is_empty());
                    states.cancels_active += u64::from(backend.cancels);
                    states.cancels_waiting += u64::from(backend.cancel_due.is_some());
                }
            }
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
