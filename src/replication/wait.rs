//! Waits until secondaries have all that was committed on the primary at one moment.
//!
//! The moment is a snapshot of the primary, taken when the wait begins. A process that applies itself
//! need not even look at it: a batch that was begun to be read afterwards contains all of it.
//! Otherwise the row in `pgtandem.progress` says so.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::Client;

use super::connect::{Target, connect};
use super::error::Error;
use super::primary;
use super::progress;
use super::snapshot::Snapshot;
use super::status::{State, Status};

/// Between two looks at a secondary that another process applies to.
const LOOK: Duration = Duration::from_millis(100);

/// Between two looks where this process applies, in case that tables are still to be copied.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a wait has not come to its good end.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// It takes no more changes until somebody does something.
    #[error("secondary {secondary} is {state}: {}", state.why().unwrap_or_default())]
    Stopped {
        /// `database.secondary`.
        secondary: String,
        /// What it is doing.
        state: State,
    },
    /// The time is over.
    #[error("secondary {secondary} has not caught up within {limit:?}")]
    TimedOut {
        /// `database.secondary`.
        secondary: String,
        /// How long it had.
        limit: Duration,
    },
    /// A database does not answer.
    #[error(transparent)]
    Database(#[from] Error),
}

/// A moment of a primary.
#[derive(Debug, Clone)]
pub struct Moment {
    /// All transactions that are over at it.
    pub snapshot: Snapshot,
    /// A time at which it was over.
    pub until: Instant,
}

impl Moment {
    /// Takes the present one: it sees everything that was committed before the call.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn now(primary: &Target) -> Result<Self, Error> {
        let client = connect(primary).await?;
        let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await;
        let text: String = row
            .and_then(|row| row.try_get(0))
            .map_err(Error::sql("take a snapshot of the primary"))?;
        let wrong = |error| Error::Unexpected { what: format!("{error}") };
        Ok(Self { snapshot: text.parse().map_err(wrong)?, until: Instant::now() })
    }
}

/// Where to ask about one secondary.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Its primary.
    pub primary: Target,
    /// Itself.
    pub secondary: Target,
    /// What this process knows of it.
    pub status: watch::Receiver<Status>,
}

impl Waiter {
    /// Returns when the secondary has all of `moment`.
    ///
    /// A database that cannot be reached for the moment is asked again. Cancel safe: yes, it only looks.
    ///
    /// # Errors
    /// [`WaitError::Stopped`] as soon as the secondary is known to go on only when somebody does
    /// something, and if it is known to differ.
    pub async fn until(mut self, moment: &Moment) -> Result<(), WaitError> {
        let (mut here, mut there) = (None, None);
        loop {
            let (is_here, state, as_of) = {
                let status = self.status.borrow_and_update();
                (status.is_leader, status.state.clone(), status.as_of)
            };
            if is_here || state.has_stopped() {
                self.refuse(state.clone())?;
                if is_past(&state, as_of, moment) {
                    return Ok(());
                }
                if self.is_told(moment).await {
                    continue;
                }
                // It may have all of it, and be about to copy something else.
            } else {
                match self.told(&mut here).await {
                    Ok(Some(state)) => self.refuse(state)?,
                    Ok(None) => {}
                    Err(error) => self.tolerate(&mut here, error)?,
                }
                tokio::time::sleep(LOOK).await;
            }
            match self.has(&mut there, &moment.snapshot).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => self.tolerate(&mut there, error)?,
            }
        }
    }

    /// Waits for a while until this process knows that it is worth another look; says whether it does.
    async fn is_told(&mut self, moment: &Moment) -> bool {
        let has_news = |status: &Status| {
            status.state.has_stopped() || is_past(&status.state, status.as_of, moment)
        };
        let told = tokio::time::timeout(LOOK_AGAIN, self.status.wait_for(has_news)).await;
        let told = told.map(|told| told.is_ok());
        if told == Ok(false) {
            // Nobody applies here any more: a reload has put another keeper in this one's place.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        told == Ok(true)
    }

    /// What was told the primary.
    async fn told(&self, client: &mut Option<Client>) -> Result<Option<State>, Error> {
        let client = connected(client, &self.primary).await?;
        let name = self.status.borrow().secondary.clone();
        let told = primary::reported(client, &name).await?;
        Ok(told.and_then(|(word, why)| State::from_word(&word, &why.unwrap_or_default())))
    }

    /// Whether all tables of the secondary have all that a snapshot sees.
    async fn has(&self, client: &mut Option<Client>, snapshot: &Snapshot) -> Result<bool, Error> {
        let client = connected(client, &self.secondary).await?;
        let Some(progress) = progress::read(client).await? else { return Ok(false) };
        let covers = |own: Option<&Snapshot>| own.is_some_and(|own| own.covers(snapshot));
        if !covers(progress.snapshot.as_ref()) {
            return Ok(false);
        }
        let copied = progress::copied(client).await?;
        Ok(copied.iter().all(|table| covers(table.snapshot.as_ref())))
    }

    fn refuse(&self, state: State) -> Result<(), WaitError> {
        if state.has_stopped() || matches!(state, State::Diverged(_)) {
            let secondary = self.name();
            return Err(WaitError::Stopped { secondary, state });
        }
        Ok(())
    }

    /// Forgets a connection that failed, if it may be better next time.
    fn tolerate(&self, client: &mut Option<Client>, error: Error) -> Result<(), WaitError> {
        *client = None;
        let secondary = self.name();
        if error.is_transient() {
            tracing::debug!(secondary, %error, "asked again whether it has caught up");
            Ok(())
        } else {
            Err(error.into())
        }
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        let status = self.status.borrow();
        format!("{}.{}", status.database, status.secondary)
    }
}

/// Whether a secondary in this state, and with all that the primary had then, has all of a moment: then
/// its last batch was begun to be read afterwards, and no table is still to be copied.
fn is_past(state: &State, as_of: Option<Instant>, moment: &Moment) -> bool {
    *state == State::InSync && as_of.is_some_and(|as_of| as_of >= moment.until)
}

async fn connected<'a>(
    client: &'a mut Option<Client>,
    target: &Target,
) -> Result<&'a Client, Error> {
    match client {
        Some(client) => Ok(client),
        None => Ok(client.insert(connect(target).await?)),
    }
}
