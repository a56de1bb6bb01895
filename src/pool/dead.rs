//! Servers that could not be reached: remembered for the whole process, so that each is found out once
//! and not by every pool.
//!
//! Whoever has another server to go to leaves the dead ones alone; the control plane tries them again
//! in the background, with a pause that doubles.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Server;

/// LIMIT: servers that are remembered; beyond that the one to be tried soonest is forgotten, which
/// costs whoever goes there a time-out.
const SERVERS_MAX: usize = 1024;

/// The first pause before a server is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The servers that could not be reached when somebody tried last.
#[derive(Debug, Default)]
pub struct DeadServers {
    // Locked for a look or a note; never across a wait.
    dead: Mutex<HashMap<Server, Dead>>,
}

#[derive(Debug, Clone, Copy)]
struct Dead {
    pause: Duration,
    retry_at: Instant,
}

impl DeadServers {
    /// Notes that a server could not be reached; the pause before it is tried again is `longest` at most.
    /// Says whether it was reached before, as far as is known.
    pub fn died(&self, server: &Server, longest: Duration, now: Instant) -> bool {
        let mut dead = self.dead();
        if let Some(known) = dead.get_mut(server) {
            // Several attempts that were under way at a time count once.
            if now >= known.retry_at {
                known.pause = (known.pause * 2).min(longest).max(PAUSE);
                known.retry_at = now + known.pause;
            }
            return false;
        }
        if dead.len() >= SERVERS_MAX {
            let soonest = dead.iter().min_by_key(|(_, known)| known.retry_at);
            let soonest = soonest.map(|(server, _)| server.clone());
            soonest.and_then(|server| dead.remove(&server));
        }
        dead.insert(server.clone(), Dead { pause: PAUSE, retry_at: now + PAUSE });
        true
    }

    /// Notes that a server was reached; says whether it was taken for dead.
    pub fn lives(&self, server: &Server) -> bool {
        self.dead().remove(server).is_some()
    }

    /// Says whether a server could not be reached.
    pub fn is_dead(&self, server: &Server) -> bool {
        self.dead().contains_key(server)
    }

    /// Says whether a dead server is to be tried again now.
    pub fn is_due(&self, server: &Server, now: Instant) -> bool {
        self.dead().get(server).is_some_and(|known| now >= known.retry_at)
    }

    /// Forgets all that are not `wanted` any more.
    pub fn keep_only(&self, wanted: impl Fn(&Server) -> bool) {
        self.dead().retain(|server, _| wanted(server));
    }

    fn dead(&self) -> MutexGuard<'_, HashMap<Server, Dead>> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    fn server(port: u16) -> Server {
        Server { host: Host::Tcp("db".to_owned()), port }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (dead, one) = (DeadServers::default(), server(1));
        let longest = Duration::from_secs(5);
        let mut now = Instant::now();
        assert!(dead.died(&one, longest, now), "it was alive");
        for pause in [1, 2, 4, 5, 5] {
            assert!(dead.is_dead(&one) && !dead.is_due(&one, now));
            assert!(!dead.died(&one, longest, now), "one that was under way changes nothing");
            now += Duration::from_secs(pause);
            assert!(dead.is_due(&one, now), "{pause}");
            assert!(!dead.died(&one, longest, now));
        }
        assert!(dead.lives(&one) && !dead.is_dead(&one) && !dead.lives(&one));
    }

    #[test]
    fn the_memory_is_bounded() {
        let dead = DeadServers::default();
        let now = Instant::now();
        let ports = 1..=u16::try_from(SERVERS_MAX).unwrap() + 10;
        for port in ports.clone() {
            let at = now + Duration::from_millis(port.into());
            dead.died(&server(port), PAUSE, at);
        }
        assert_eq!(dead.dead().len(), SERVERS_MAX);
        assert!(!dead.is_dead(&server(1)) && dead.is_dead(&server(*ports.end())));
        dead.keep_only(|server| server.port == 500);
        assert_eq!(dead.dead().len(), 1);
    }
}
