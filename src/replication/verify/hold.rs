//! How the verifier makes the applier of a secondary stand at exactly one snapshot, and for how long.
//!
//! Three steps, because a snapshot cannot be asked for twice: were it taken while the applier is
//! under way, the applier's next batch might already go beyond it.
//!
//! 1. The verifier asks with [`Holds::stop`]; the applier finishes its batch and takes no new one.
//! 2. The verifier takes its snapshot X on the primary and passes it to [`Stopped::apply_up_to`]; the
//!    applier applies what is visible in X and not in its progress, and nothing else.
//! 3. The verifier opens its snapshot on the secondary, and drops [`Standing`]; the applier goes on.
//!
//! Nothing here can stop an applier for good: each step has a limit, and a verifier that is dropped,
//! whenever that is, has the applier go on at once. So a [`Standing`] proves nothing by itself; the
//! verifier looks at the progress row in its own snapshot of the secondary.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::replication::snapshot::Snapshot;

/// How long the applier waits for the verifier at each step.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why the applier did not stand.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// There is no applier: the secondary is paused or detached, or another proxy applies.
    #[error("nobody here applies to this secondary")]
    NoApplier,
    /// The applier took too long.
    #[error("the applier did not get there within {limit:?}")]
    TimedOut {
        /// How long it had.
        limit: Duration,
    },
    /// The applier gave up: it failed, or the verifier took too long.
    #[error("the applier went on by itself")]
    WentOn,
}

/// Makes the two ends: the verifier's, and the applier's.
pub fn holds() -> (Holds, HoldRequests) {
    // One waits in the channel while one is served; others wait for their turn.
    let (sender, receiver) = mpsc::channel(1);
    (Holds { requests: sender }, HoldRequests { requests: receiver })
}

/// The verifier's end; it can be cloned.
#[derive(Debug, Clone)]
pub struct Holds {
    requests: mpsc::Sender<HoldRequest>,
}

impl Holds {
    /// Asks the applier to take no further batch, and waits until it has finished the present one.
    ///
    /// Others that hold it are waited for.
    /// Cancel safe: yes, the applier goes on.
    ///
    /// # Errors
    /// [`HoldError::NoApplier`], or [`HoldError::TimedOut`] after `limit` at each of both.
    pub async fn stop(&self, limit: Duration) -> Result<Stopped, HoldError> {
        let (stopped, stops) = oneshot::channel();
        // What others gave up waiting for is still in the channel until the applier looks.
        match timeout(limit, self.requests.send(HoldRequest { stopped })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(HoldError::NoApplier),
            Err(_) => return Err(HoldError::TimedOut { limit }),
        }
        match timeout(limit, stops).await {
            Ok(Ok(stopped)) => Ok(stopped),
            Ok(Err(_)) => Err(HoldError::NoApplier),
            Err(_) => Err(HoldError::TimedOut { limit }),
        }
    }
}

/// The applier takes no further batch as long as this lives, within [`PATIENCE`].
#[derive(Debug)]
pub struct Stopped {
    aim: oneshot::Sender<Aim>,
}

/// Where the applier is to stand.
#[derive(Debug)]
struct Aim {
    upto: Snapshot,
    standing: oneshot::Sender<Standing>,
}

impl Stopped {
    /// Has the applier apply what `upto` sees, and nothing else, and waits until it has.
    ///
    /// `upto` must have been taken while the applier was stopped.
    /// Cancel safe: yes, the applier goes on.
    ///
    /// # Errors
    /// [`HoldError::WentOn`] if it could not, or [`HoldError::TimedOut`] after `limit`.
    pub async fn apply_up_to(self, upto: Snapshot, limit: Duration) -> Result<Standing, HoldError> {
        let (standing, stands) = oneshot::channel();
        self.aim.send(Aim { upto, standing }).map_err(|_refused| HoldError::WentOn)?;
        match timeout(limit, stands).await {
            Ok(stands) => stands.map_err(|_dropped| HoldError::WentOn),
            Err(_) => Err(HoldError::TimedOut { limit }),
        }
    }
}

/// The applier stands still as long as this lives, within [`PATIENCE`].
#[derive(Debug)]
pub struct Standing {
    release: oneshot::Sender<()>,
}

impl Standing {
    /// Whether the applier still stands; once it has gone on, it stays so.
    pub fn is_standing(&self) -> bool {
        !self.release.is_closed()
    }
}

/// The applier's end.
#[derive(Debug)]
pub struct HoldRequests {
    requests: mpsc::Receiver<HoldRequest>,
}

impl HoldRequests {
    /// Waits for the next request; for ever, once no verifier is left.
    ///
    /// Cancel safe: yes, no request is lost.
    pub async fn next(&mut self) -> HoldRequest {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }

    /// Takes a request that has come already.
    pub fn take(&mut self) -> Option<HoldRequest> {
        self.requests.try_recv().ok()
    }
}

/// A verifier wants the applier to stand.
#[derive(Debug)]
pub struct HoldRequest {
    stopped: oneshot::Sender<Stopped>,
}

impl HoldRequest {
    /// Stands where the verifier wants, until it lets go, is gone, or `patience` has passed at a step.
    ///
    /// To be called between two batches; `apply` applies up to exactly the snapshot it is given, and
    /// its error is returned. That the verifier went away is no error.
    /// Cancel safe: if `apply` is.
    pub async fn serve<E>(
        self,
        patience: Duration,
        apply: impl AsyncFnOnce(Snapshot) -> Result<(), E>,
    ) -> Result<(), E> {
        let (aim, aims) = oneshot::channel();
        if self.stopped.send(Stopped { aim }).is_err() {
            return Ok(());
        }
        let Ok(Ok(Aim { upto, standing })) = timeout(patience, aims).await else {
            return Ok(());
        };
        apply(upto).await?;
        let (release, released) = oneshot::channel();
        if standing.send(Standing { release }).is_ok() {
            // Let go, dropped or late: all the same.
            let _ = timeout(patience, released).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_mins(1);

    fn snapshot() -> Snapshot {
        "10:20:10,14".parse().expect("it is one")
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("it can be built").block_on(async {
            timeout(LONG, test).await.expect("nothing waits for ever");
        });
    }

    /// An applier that serves one request and says where it stood.
    async fn serve_one(mut requests: HoldRequests, patience: Duration) -> Option<Snapshot> {
        let mut stood = None;
        let request = requests.next().await;
        let served = request.serve(patience, async |upto| {
            stood = Some(upto);
            Ok::<(), ()>(())
        });
        served.await.expect("applying succeeds");
        stood
    }

    #[test]
    fn stands_until_let_go() {
        run(async {
            let (holds, requests) = holds();
            let applier = tokio::spawn(serve_one(requests, LONG));
            let stopped = holds.stop(LONG).await.expect("it stops");
            let standing = stopped.apply_up_to(snapshot(), LONG).await.expect("it stands");
            assert!(standing.is_standing() && !applier.is_finished());
            drop(standing);
            assert_eq!(applier.await.expect("no panic"), Some(snapshot()));
        });
    }

    #[test]
    fn goes_on_when_the_verifier_is_gone() {
        run(async {
            // Before it stopped, after it stopped, while it applies.
            let (holds, requests) = holds();
            drop(holds.stop(LONG));
            let asked = holds.clone();
            let gone = tokio::spawn(async move { asked.stop(LONG).await });
            tokio::task::yield_now().await;
            gone.abort();
            assert!(gone.await.is_err_and(|error| error.is_cancelled()));
            assert_eq!(serve_one(requests, LONG).await, None);

            let (holds, requests) = super::holds();
            let applier = tokio::spawn(serve_one(requests, LONG));
            drop(holds.stop(LONG).await.expect("it stops"));
            assert_eq!(applier.await.expect("no panic"), None);

            let (holds, mut requests) = super::holds();
            let verifier = tokio::spawn(async move {
                let stopped = holds.stop(LONG).await.expect("it stops");
                stopped.apply_up_to(snapshot(), LONG).await.map(drop)
            });
            let served = requests.next().await.serve(LONG, async |_| {
                verifier.abort();
                assert!(verifier.await.is_err_and(|error| error.is_cancelled()));
                Ok::<(), ()>(())
            });
            served.await.expect("applying succeeds");
        });
    }

    #[test]
    fn a_verifier_that_hangs_is_ignored() {
        run(async {
            let (holds, requests) = holds();
            let applier = tokio::spawn(serve_one(requests, SHORT));
            let stopped = holds.stop(LONG).await.expect("it stops");
            assert_eq!(applier.await.expect("no panic"), None);
            let late = stopped.apply_up_to(snapshot(), LONG).await;
            assert!(matches!(late, Err(HoldError::WentOn)), "{late:?}");

            let (holds, requests) = super::holds();
            let applier = tokio::spawn(serve_one(requests, SHORT));
            let stopped = holds.stop(LONG).await.expect("it stops");
            let standing = stopped.apply_up_to(snapshot(), LONG).await.expect("it stands");
            assert_eq!(applier.await.expect("no panic"), Some(snapshot()));
            assert!(!standing.is_standing());
        });
    }

    #[test]
    fn an_applier_that_fails_or_hangs_is_told() {
        run(async {
            let (holds, mut requests) = holds();
            let applier = tokio::spawn(async move {
                requests.next().await.serve(LONG, async |_| Err("cannot")).await
            });
            let stopped = holds.stop(LONG).await.expect("it stops");
            let failed = stopped.apply_up_to(snapshot(), LONG).await;
            assert!(matches!(failed, Err(HoldError::WentOn)), "{failed:?}");
            assert_eq!(applier.await.expect("no panic"), Err("cannot"));
            assert!(matches!(holds.stop(LONG).await, Err(HoldError::NoApplier)));

            // The first request is never looked at, the second finds no room.
            let (holds, _requests) = super::holds();
            assert!(matches!(holds.stop(SHORT).await, Err(HoldError::TimedOut { .. })));
            assert!(matches!(holds.stop(SHORT).await, Err(HoldError::TimedOut { .. })));
        });
    }
}
