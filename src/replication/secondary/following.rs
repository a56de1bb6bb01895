//! Applies batch after batch, and does between them what is due: reports, sequences, checks.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Keeper;
use super::halt::Halt;
use super::ready::Ready;
use crate::replication::apply::ApplyError;
use crate::replication::batch::Position;
use crate::replication::capture::check;
use crate::replication::connect::connect;
use crate::replication::follow::{Follower, Stepped};
use crate::replication::primary;
use crate::replication::sequences;
use crate::replication::status::{FRESH, State};
use crate::replication::verify::hold;

/// Between two reports to the primary.
const REPORT: Duration = Duration::from_secs(1);

/// Between two looks at the sequences.
const SEQUENCES: Duration = Duration::from_secs(5);

/// Between two looks at what is installed on the primary.
const CHECK: Duration = Duration::from_secs(5);

/// How long to wait before the next batch: not at all while there is something to apply, and longer
/// and longer while there is nothing, so that lag is short under load and an idle primary is asked
/// seldom.
struct Pause {
    next: Duration,
    longest: Duration,
}

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(1);

    fn new(longest: Duration) -> Self {
        Self { next: Self::SHORTEST.min(longest), longest }
    }

    fn after(&mut self, changes: u64) -> Duration {
        if changes > 0 {
            *self = Self::new(self.longest);
            return Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

impl Keeper {
    /// Applies batch after batch.
    pub(super) async fn follow(
        &mut self,
        primary: &mut Client,
        ready: Ready,
    ) -> Result<Infallible, Halt> {
        let Ready { mut follower, mut copying, since, diverged, is_behind } = ready;
        let mut clock = Clock::default();
        let mut has_skips = follower.has_skips();
        let mut pause = Pause::new(self.assignment.settings.poll_interval);
        loop {
            let stepped = match self.step(primary, &mut follower, diverged.as_ref()).await {
                Ok(stepped) => stepped,
                Err(halt) => return Err(self.explain(halt, &since).await),
            };
            self.failures = 0;
            if is_behind || follower.has_to_copy() {
                return Err(Halt::Again);
            }
            if clock.reported.is_over(REPORT) {
                follower.store(primary).await?;
                self.report(primary, follower.stored()).await?;
            }
            if clock.sequences.is_over(SEQUENCES) {
                sequences::follow(primary, follower.applier.client(), sequences::MARGIN).await?;
            }
            if clock.checked.is_over(CHECK) {
                self.check(primary, &since).await?;
            }
            if let Some(done) = copying.try_join_next() {
                // A copy that panicked is not one that was made.
                done.map_err(|error| Halt::Failed(error.to_string()))??;
                return Err(Halt::Again);
            }
            if std::mem::replace(&mut has_skips, follower.has_skips()) && !has_skips {
                return Err(Halt::Again);
            }
            let pause = pause.after(stepped.changes);
            tokio::select! {
                biased;
                request = self.requests.recv() => {
                    return Err(request.map_or(Halt::Over, Halt::Asked));
                }
                hold = self.holds.next() => {
                    let stand = async |upto| follower.stand_at(primary, &upto).await;
                    hold.serve(hold::PATIENCE, stand).await?;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Applies one batch, and says how that went.
    async fn step(
        &self,
        primary: &Client,
        follower: &mut Follower,
        diverged: Option<&String>,
    ) -> Result<Stepped, Halt> {
        let began = Instant::now();
        let tell = |changes, bytes| {
            self.status.send_modify(|status| {
                (status.lag_changes, status.lag_bytes) = (changes, bytes);
                if began.elapsed() > FRESH {
                    status.enter(State::CatchingUp);
                }
            });
        };
        let stepped = match follower.step(primary, None, tell).await {
            Ok(stepped) => stepped,
            Err(error) => {
                if let ApplyError::Unlike { number, .. } = &error {
                    // The other connection is in the middle of a batch.
                    let primary = connect(&self.assignment.primary).await?;
                    primary::distrust(&primary, *number).await?;
                }
                return Err(error.into());
            }
        };
        self.status.send_modify(|status| {
            status.as_of = Some(stepped.as_of);
            status.changes += stepped.changes;
            if stepped.changes > 0 {
                status.batches += 1;
                let took_us = stepped.as_of.elapsed().as_micros();
                status.apply.record(u64::try_from(took_us).unwrap_or(u64::MAX));
            }
            (status.lag_changes, status.lag_bytes) = (0, 0);
            let found = self.found.borrow();
            status.enter(match diverged.or(found.as_ref()) {
                Some(why) => State::Diverged(why.clone()),
                None if follower.stored().waiting.is_empty() && stepped.as_of.elapsed() < FRESH => {
                    State::InSync
                }
                None => State::CatchingUp,
            });
            status.snapshot = Some(follower.stored().snapshot.to_string());
        });
        Ok(stepped)
    }

    /// Looks at what is installed on the primary. Begins again where something is new or can be put
    /// right: tables of which changes may have been missed are copied anew then. Stops where it is
    /// not for us to do that.
    async fn check(&self, primary: &mut Client, since: &HashMap<i32, String>) -> Result<(), Halt> {
        let now = primary::captured_since(primary).await?;
        if since.iter().any(|(number, since)| now.get(number) != Some(since)) {
            return Err(Halt::Again);
        }
        let findings = match check::check(primary, &self.selection).await {
            // A definition is under way, which may take hours. It is looked at when it is over.
            Err(error) if error.is_about_locks() => return Ok(()),
            findings => findings?,
        };
        let missed = findings.iter().filter(|finding| finding.what.may_have_missed());
        let missed: Vec<_> = missed.collect();
        let is_ours = |finding: &&check::Finding| {
            self.assignment.settings.auto && finding.what.is_mended_by_capture()
        };
        if !missed.iter().copied().all(|finding| is_ours(&finding)) {
            let all: Vec<_> = missed.iter().map(ToString::to_string).collect();
            return Err(Halt::Stuck(State::Paused(all.join("; "))));
        }
        let is_new = |finding: &check::Finding| {
            matches!(finding.what, check::Trouble::NotCaptured | check::Trouble::Renamed { .. })
        };
        if self.assignment.settings.auto && (!missed.is_empty() || findings.iter().any(is_new)) {
            return Err(Halt::Again);
        }
        Ok(())
    }

    /// A change that cannot be applied may be one of a table that is another one now: then the work
    /// begins again.
    async fn explain(&self, halt: Halt, since: &HashMap<i32, String>) -> Halt {
        if !matches!(halt, Halt::Stuck(State::Paused(_)) | Halt::Poison { .. }) {
            return halt;
        }
        // The other connection may be in the middle of a batch.
        let Ok(mut primary) = connect(&self.assignment.primary).await else { return halt };
        match self.check(&mut primary, since).await {
            Err(Halt::Again) => Halt::Again,
            Ok(()) | Err(_) => halt,
        }
    }

    async fn report(&self, primary: &Client, position: &Position) -> Result<(), Halt> {
        let (state, error) = {
            let status = self.status.borrow();
            (status.state.clone(), status.last_error.clone())
        };
        let name = &self.assignment.name;
        let told = primary::report(primary, name, &state, Some(position), error.as_deref()).await?;
        if told {
            return Ok(());
        }
        let (_, why) = primary::reported(primary, name).await?.unwrap_or_default();
        Err(Halt::Stuck(State::Detached(why.unwrap_or_else(|| "the primary says so".to_owned()))))
    }
}

/// When something was done last.
#[derive(Default)]
struct Last(Option<Instant>);

impl Last {
    /// Whether it is due once more; then it counts as done now.
    fn is_over(&mut self, interval: Duration) -> bool {
        let is_over = self.0.is_none_or(|last| last.elapsed() >= interval);
        if is_over {
            self.0 = Some(Instant::now());
        }
        is_over
    }
}

/// What is done from time to time.
#[derive(Default)]
struct Clock {
    reported: Last,
    sequences: Last,
    checked: Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_nothing_happens() {
        let mut pause = Pause::new(Duration::from_millis(5));
        let pauses: Vec<u128> =
            [0, 0, 0, 0, 0, 3, 0, 0].map(|changes| pause.after(changes).as_millis()).to_vec();
        assert_eq!(pauses, [1, 2, 4, 5, 5, 0, 1, 2]);
        assert_eq!(Pause::new(Duration::ZERO).after(0), Duration::ZERO);
    }
}
