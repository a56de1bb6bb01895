//! What happens while a secondary does not follow: failures are tried again, other stops wait for
//! somebody.

use std::time::Duration;

use super::Keeper;
use crate::replication::connect::connect;
use crate::replication::error::Error;
use crate::replication::primary;
use crate::replication::status::State;

/// Between two looks at whether a stopped secondary goes on with another process.
const LOOK: Duration = Duration::from_secs(5);

/// Pauses after failures: doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

impl Keeper {
    pub(super) fn say(&self, state: State) {
        let (database, secondary) = (&self.assignment.database, &self.assignment.name);
        let why = state.why();
        tracing::info!(database, secondary, %state, why, "secondary");
        self.status.send_modify(|status| status.state = state);
    }

    /// Notes a failure, and waits a while; false if it is time to end.
    pub(super) async fn fail(&mut self, why: String) -> bool {
        let (database, secondary) = (&self.assignment.database, &self.assignment.name);
        tracing::warn!(database, secondary, why, "secondary does not follow now");
        self.status.send_modify(|status| {
            status.last_error = Some(why);
            if status.state == State::InSync {
                status.state = State::CatchingUp;
            }
        });
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(10)).min(PAUSES.1);
        self.failures = self.failures.saturating_add(1);
        tokio::select! {
            biased;
            request = self.requests.recv() => match request {
                Some(request) => self.answer(request).await,
                None => false,
            },
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Waits in a state that only a command ends; false if it is time to end.
    pub(super) async fn wait(&mut self, state: State) -> bool {
        let (database, secondary) = (&self.assignment.database, &self.assignment.name);
        tracing::error!(database, secondary, %state, why = state.why(), "secondary has stopped");
        self.status.send_modify(|status| {
            status.last_error = state.why().map(str::to_owned);
            status.state = state.clone();
        });
        if let Err(error) = self.tell_primary(&state).await {
            tracing::warn!(database = self.assignment.database, %error, "primary not told");
        }
        loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => return match request {
                    Some(request) => self.answer(request).await,
                    None => false,
                },
                _ = self.holds.next() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.goes_on_elsewhere(&state).await {
                return true;
            }
        }
    }

    /// Whether another process has told the primary that the secondary is better off.
    async fn goes_on_elsewhere(&self, state: &State) -> bool {
        let reported = async {
            let client = connect(&self.assignment.primary).await?;
            primary::reported(&client, &self.assignment.name).await
        };
        matches!(reported.await, Ok(Some((word, _))) if word != state.word())
    }

    /// Says on the primary what became of the secondary, which keeps what it needs of the log.
    async fn tell_primary(&self, state: &State) -> Result<(), Error> {
        let client = connect(&self.assignment.primary).await?;
        let sql = "UPDATE pgtandem.secondaries SET state = $2, last_error = $3 WHERE name = $1";
        let (name, word, why) = (&self.assignment.name, state.word(), state.why());
        let told = client.execute(sql, &[name, &word, &why]).await;
        told.map(drop).map_err(Error::sql("tell the primary how the secondary is"))
    }
}
