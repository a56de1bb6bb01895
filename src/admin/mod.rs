//! The admin console: the virtual databases `pgtandem` and `pgbouncer`.
//!
//! Job: answer SHOW and carry out commands for `admin_users` and `stats_users`, over the simple and
//! the extended protocol, so that the tools of PgBouncer's users work as they are. Each session is a
//! task of the control plane; all that it knows it asks [`Control`] for, and nothing here touches
//! the data plane in another way. A session holds at most one short message of input; results are
//! sent as they are encoded.
//!
//! [`console`] reads messages and answers them, [`books`] holds what was prepared, [`command`]
//! understands texts, [`act`] does what is commanded, of secondaries [`secondaries`], [`show`] lists
//! what there is.

mod act;
mod books;
mod clock;
mod command;
mod console;
mod line;
mod refusal;
mod seats;
mod secondaries;
mod show;
mod token;
mod totals;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use books::Rows;
use console::Console;
use refusal::Refusal;
use seats::{Ends, Seat, Seats};
use show::Show;
use totals::{Samples, Totals};

use crate::control::Control;
use crate::fault::{Fault, SqlState};
use crate::session::login::{ConsoleRole, Visitor};

/// How long a SHOW waits for the workers.
const SHOW_LIMIT: Duration = Duration::from_secs(10);

/// What all sessions of the console share.
#[derive(Debug)]
pub struct Admin {
    control: Arc<Control>,
    seats: Arc<Seats>,
    samples: Samples,
    /// Commands so far: they count as the console's own transactions.
    commands: AtomicU64,
}

impl Admin {
    /// Makes the console of a proxy that starts now.
    pub fn new(control: Arc<Control>) -> Arc<Self> {
        Arc::new(Self {
            control,
            seats: Arc::default(),
            samples: Samples::new(Instant::now()),
            commands: AtomicU64::new(0),
        })
    }

    /// Serves somebody who has logged in to the console, until the session ends.
    ///
    /// Never fails: what goes wrong is told to the client and logged. Dropping the future closes the
    /// connection, and undoes a command that waits.
    pub async fn serve(self: Arc<Self>, visitor: Box<Visitor>) {
        Console::serve(self, *visitor).await;
    }

    /// Cancels what the console with this key waits for; says whether the key is a console's.
    pub fn cancel(&self, pid: i32, secret: &[u8]) -> bool {
        self.seats.cancel(pid, secret)
    }

    /// Takes a sample of all counters every `stats_period`, for averages; never returns.
    pub async fn take_samples(self: Arc<Self>) {
        let mut last = (Totals::default(), Instant::now());
        loop {
            tokio::time::sleep(self.control.config().general.stats_period).await;
            let databases = self.done_by_database().await;
            let done = databases.values().fold(Totals::default(), |sum, one| sum.plus(one));
            let now = Instant::now();
            self.samples.take(databases, now);
            if self.control.config().general.log.log_stats {
                done.averages(&last.0, now.saturating_duration_since(last.1)).log();
            }
            last = (done, now);
        }
    }

    /// Gives a visitor a seat.
    ///
    /// # Errors
    /// What it is told if there is none (53300), or if the proxy shuts down (57P03), when only
    /// administrators get one.
    fn seat(&self, visitor: &Visitor) -> Result<Seat, Fault> {
        let Visitor { stream, peer, database, user, role, .. } = visitor;
        if *role == ConsoleRole::Stats && self.control.shutting_down().is_some() {
            let message = "the database system is shutting down";
            return Err(Fault::fatal(SqlState::CANNOT_CONNECT_NOW, message));
        }
        let tls = stream.tls().map(|tls| tls.channel().describe());
        let ends = Ends { peer: *peer, local: stream.local(), tls };
        self.seats.take(user, database, *role, ends).ok_or_else(|| {
            let message = "too many sessions of the admin console";
            Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
        })
    }

    fn count_command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the rows of a SHOW.
    ///
    /// # Errors
    /// [`Refusal::Stuck`] if the workers do not say in time what they have.
    async fn rows(&self, show: Show) -> Result<Rows, Refusal> {
        let stuck = |_| Refusal::Stuck { seconds: SHOW_LIMIT.as_secs() };
        if show == Show::Divergence {
            // It is the databases that are asked, and they say themselves if they do not answer.
            return Ok(self.list_divergence().await?);
        }
        timeout(SHOW_LIMIT, self.list(show)).await.map_err(stuck)
    }
}
