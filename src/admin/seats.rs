//! Who is at the console: a bounded number of seats, each with a key for cancel requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use subtle::ConstantTimeEq;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::net::Peer;
use crate::session::login::ConsoleRole;
use crate::worker;

/// LIMIT: sessions of the console at a time.
const SEATS_MAX: usize = 100;

/// The number of the last seat.
const LAST_SEAT: i32 = 100;

/// Seats that only administrators get: programs that only look cannot take them all.
const SEATS_RESERVED: usize = 10;

/// Stands in the place of a worker's number in the cancel keys of consoles; there is no such worker.
const CANCEL_GROUP: i32 = 127;

/// All seats.
#[derive(Debug, Default)]
pub struct Seats {
    // Held for a look-up or an insertion, never across a wait.
    taken: Mutex<BTreeMap<i32, Arc<Occupant>>>,
}

/// Somebody at the console.
#[derive(Debug)]
pub struct Occupant {
    /// Tells it from all clients and backends of the process.
    pub id: u64,
    /// As it logged in.
    pub user: String,
    /// `pgtandem` or `pgbouncer`.
    pub database: String,
    /// Who is at the other end.
    pub peer: Peer,
    /// Our own end of the connection.
    pub local: Option<Peer>,
    /// Version and cipher suite of TLS; `None` without.
    pub tls: Option<String>,
    /// When it logged in.
    pub connected: SystemTime,
    /// Wakes the command that waits now, if one does, to be undone.
    pub cancel: Notify,
    /// Ends the session.
    pub kill: CancellationToken,
    secret: [u8; 4],
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    application_name: String,
    requested: SystemTime,
}

/// What a console's connection is between.
#[derive(Debug)]
pub struct Ends {
    /// Who is at the other end.
    pub peer: Peer,
    /// Our own end.
    pub local: Option<Peer>,
    /// Version and cipher suite of TLS; `None` without.
    pub tls: Option<String>,
}

/// A seat; given up when it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    number: i32,
    /// Who sits there.
    pub occupant: Arc<Occupant>,
}

impl Seats {
    /// Gives `user` a seat, unless all that its role may take are taken.
    pub fn take(
        self: &Arc<Self>,
        user: &str,
        database: &str,
        role: ConsoleRole,
        ends: Ends,
    ) -> Option<Seat> {
        let max = match role {
            ConsoleRole::Admin => SEATS_MAX,
            ConsoleRole::Stats => SEATS_MAX - SEATS_RESERVED,
        };
        let mut taken = self.lock();
        if taken.len() >= max {
            return None;
        }
        let number = (1..=LAST_SEAT).find(|number| !taken.contains_key(number))?;
        let now = SystemTime::now();
        let occupant = Arc::new(Occupant {
            id: worker::next_serial(),
            user: user.to_owned(),
            database: database.to_owned(),
            peer: ends.peer,
            local: ends.local,
            tls: ends.tls,
            connected: now,
            cancel: Notify::new(),
            kill: CancellationToken::new(),
            secret: rand::random(),
            state: Mutex::new(State { application_name: String::new(), requested: now }),
        });
        taken.insert(number, Arc::clone(&occupant));
        Some(Seat { seats: Arc::clone(self), number, occupant })
    }

    /// Cancels what the console with this key waits for; says whether the key is a console's.
    pub fn cancel(&self, pid: i32, secret: &[u8]) -> bool {
        if pid >> 24 != CANCEL_GROUP {
            return false;
        }
        if let Some(occupant) = self.lock().get(&(pid & 0x00ff_ffff))
            && bool::from(occupant.secret.ct_eq(secret))
        {
            // Only what waits now: nothing is kept for the next command.
            occupant.cancel.notify_waiters();
        }
        true
    }

    /// Ends the session of this number; says whether there is one.
    pub fn kill(&self, id: u64) -> bool {
        let taken = self.lock();
        let found = taken.values().find(|occupant| occupant.id == id);
        if let Some(occupant) = found {
            occupant.kill.cancel();
        }
        found.is_some()
    }

    /// Returns everybody, in the order of their seats.
    pub fn occupants(&self) -> Vec<Arc<Occupant>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<Occupant>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Returns the key for cancel requests.
    pub fn cancel_key(&self) -> (i32, [u8; 4]) {
        ((CANCEL_GROUP << 24) | self.number, self.occupant.secret)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
    }
}

impl Occupant {
    /// Returns the name that the application gave itself.
    pub fn application_name(&self) -> String {
        self.lock().application_name.clone()
    }

    /// Keeps the name that the application gives itself.
    pub fn set_application_name(&self, name: &str) {
        name.clone_into(&mut self.lock().application_name);
    }

    /// Returns when it last asked for something.
    pub fn requested(&self) -> SystemTime {
        self.lock().requested
    }

    /// Notes that it asks for something now.
    pub fn note_request(&self) {
        self.lock().requested = SystemTime::now();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(seats: &Arc<Seats>, role: ConsoleRole) -> Option<Seat> {
        seats.take("u", "pgtandem", role, Ends { peer: Peer::Unix, local: None, tls: None })
    }

    #[test]
    fn the_last_seats_are_for_administrators() {
        let seats = Arc::new(Seats::default());
        let mut taken: Vec<Seat> = Vec::new();
        taken.extend(std::iter::from_fn(|| take(&seats, ConsoleRole::Stats)));
        assert_eq!(taken.len(), SEATS_MAX - SEATS_RESERVED);
        taken.extend(std::iter::from_fn(|| take(&seats, ConsoleRole::Admin)));
        assert_eq!(taken.len(), SEATS_MAX);
        assert_eq!(seats.occupants().len(), SEATS_MAX);
        taken.pop();
        assert!(take(&seats, ConsoleRole::Stats).is_none());
        assert!(take(&seats, ConsoleRole::Admin).is_some(), "and given up at once again");
        taken.clear();
        assert!(seats.occupants().is_empty());
    }

    #[tokio::test]
    async fn a_cancel_request_needs_the_key_and_wakes_only_who_waits() {
        let seats = Arc::new(Seats::default());
        let seat = take(&seats, ConsoleRole::Admin).unwrap();
        let (pid, secret) = seat.cancel_key();
        assert!(pid > 0);
        assert!(!seats.cancel(pid & 0x00ff_ffff, &secret), "a worker's key");
        // Nobody waits: nothing is kept.
        assert!(seats.cancel(pid, &secret));
        let mut waiting = std::pin::pin!(seat.occupant.cancel.notified());
        assert!(!waiting.as_mut().enable());
        let wrong = secret.map(|byte| !byte);
        assert!(seats.cancel(pid, &wrong), "a console's key, but of nobody");
        assert!(seats.cancel(pid, &secret[..3]));
        assert!(!waiting.as_mut().enable());
        assert!(seats.cancel(pid, &secret));
        waiting.await;
    }

    #[test]
    fn a_console_is_killed_by_its_number() {
        let seats = Arc::new(Seats::default());
        let seat = take(&seats, ConsoleRole::Admin).unwrap();
        assert!(!seats.kill(seat.occupant.id + 1));
        assert!(!seat.occupant.kill.is_cancelled());
        assert!(seats.kill(seat.occupant.id));
        assert!(seat.occupant.kill.is_cancelled());
    }
}
