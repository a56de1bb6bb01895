//! The servers of one database: which to try for the next backend, what is known of each, and which
//! backends are of no use any more.
//!
//! Pure bookkeeping. The control plane writes it; workers only read the mark of an [`Origin`] when a
//! backend comes back.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::dead::DeadServers;
use crate::backend::standing::{Fit, Standing};
use crate::config::{Database, Host, LoadBalance, Server, SessionAttrs};
use crate::net::Place;

/// Where backends were opened: all that have the same origin become useless together.
#[derive(Debug)]
pub struct Origin {
    /// The server.
    pub server: Server,
    /// Which of its addresses.
    pub place: Place,
    /// What it was then.
    pub standing: Option<Standing>,
    is_retired: AtomicBool,
}

impl Origin {
    /// Makes one that is in no roster.
    pub fn new(server: Server, place: Place, standing: Option<Standing>) -> Self {
        Self { server, place, standing, is_retired: AtomicBool::new(false) }
    }

    /// Says whether backends of it are of no use any more: they go when they come back.
    #[inline]
    pub fn is_retired(&self) -> bool {
        // Relaxed: the mark guards no other memory, and whoever sets it tells the workers.
        self.is_retired.load(Ordering::Relaxed)
    }

    fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }
}

/// What the configuration says of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// At least one.
    pub servers: Arc<[Server]>,
    /// How one is chosen.
    pub balance: LoadBalance,
    /// Which will do.
    pub attrs: SessionAttrs,
}

impl Plan {
    /// Says whether there is anything to find out about the servers.
    pub fn is_plain(&self) -> bool {
        self.servers.len() < 2 && self.attrs == SessionAttrs::Any
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::from(&Database::default())
    }
}

impl From<&Database> for Plan {
    fn from(entry: &Database) -> Self {
        let (balance, attrs) = (entry.load_balance_hosts, entry.target_session_attrs);
        Self { servers: entry.servers().into(), balance, attrs }
    }
}

/// The servers of one database.
#[derive(Debug)]
pub struct Roster {
    // Locked when a backend is opened, and when something about a server changes.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// What each server of the plan is to all sessions, as far as is known.
    standings: Vec<Option<Standing>>,
    /// Counts the backends asked for, to go round; or is the server that sticks.
    turn: usize,
    origins: Vec<Arc<Origin>>,
    lost_since: Option<Instant>,
}

/// What somebody knows of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The server.
    pub server: Server,
    /// What it is, if that is known.
    pub standing: Option<Standing>,
}

/// What a note has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// What the server was before, if that is known and another.
    pub was: Option<Standing>,
    /// How many origins are of no use any more: workers must be told to look.
    pub retired: usize,
}

impl Roster {
    /// Starts with nothing known.
    pub fn new(plan: Plan) -> Self {
        let standings = vec![None; plan.servers.len()];
        let state = State { plan, standings, turn: 0, origins: Vec::new(), lost_since: None };
        Self { state: Mutex::new(state) }
    }

    /// Returns what the configuration says.
    pub fn plan(&self) -> Plan {
        self.state().plan.clone()
    }

    /// Returns what is known of each server, in the order of the configuration.
    pub fn known(&self) -> Vec<Known> {
        let state = self.state();
        let servers = state.plan.servers.iter().cloned().zip(state.standings.iter().copied());
        servers.map(|(server, standing)| Known { server, standing }).collect()
    }

    /// Lists the servers to try for one backend, the best first.
    ///
    /// Dead ones are left out, unless there are no others; those known not to be what is wanted come
    /// last, since that may have changed.
    pub fn order(&self, dead: &DeadServers) -> Vec<Server> {
        let mut state = self.state();
        let turn = state.turn;
        if state.plan.balance == LoadBalance::RoundRobin {
            state.turn = turn.wrapping_add(1);
        }
        let all = 0..state.plan.servers.len();
        let is_dead = |at: &usize| state.plan.servers.get(*at).is_some_and(|at| dead.is_dead(at));
        let mut wanted: Vec<usize> = all.clone().filter(|at| !is_dead(at)).collect();
        if wanted.is_empty() {
            wanted = all.collect();
        }
        let fits = |fit: fn(Fit) -> bool| {
            let mut some: Vec<usize> =
                wanted.iter().copied().filter(|at| fit(state.fit(*at))).collect();
            let first = match state.plan.balance {
                LoadBalance::RoundRobin => turn.checked_rem(some.len()),
                LoadBalance::Disable => some.iter().position(|at| *at >= turn),
            };
            some.rotate_left(first.unwrap_or(0));
            some
        };
        let order = [
            fits(|fit| fit == Fit::Wanted),
            fits(|fit| fit == Fit::Spare),
            fits(|fit| matches!(fit, Fit::Wrong(_))),
        ];
        order.concat().into_iter().filter_map(|at| state.plan.servers.get(at).cloned()).collect()
    }

    /// Notes that a backend was opened, and returns where it comes from.
    pub fn opened(
        &self,
        server: &Server,
        place: &Place,
        standing: Option<Standing>,
    ) -> Arc<Origin> {
        let mut state = self.state();
        let at = state.at(server);
        if let Some(at) = at
            && state.plan.balance == LoadBalance::Disable
        {
            state.turn = at;
        }
        let same = state.origins.iter().find(|origin| {
            !origin.is_retired()
                && origin.server == *server
                && origin.place == *place
                && origin.standing == standing
        });
        if let Some(same) = same {
            return Arc::clone(same);
        }
        let origin = Arc::new(Origin::new(server.clone(), place.clone(), standing));
        // Whoever holds none of its backends any more holds no mark, either.
        state.origins.retain(|origin| Arc::strong_count(origin) > 1);
        if at.is_none() {
            // A reload has taken it away meanwhile.
            origin.retire();
        }
        state.origins.push(Arc::clone(&origin));
        origin
    }

    /// Notes that no server would do; returns since when that is so.
    pub fn lost(&self, now: Instant) -> Instant {
        *self.state().lost_since.get_or_insert(now)
    }

    /// Notes that a server will do, or at least that one is there.
    pub fn found(&self) {
        self.state().lost_since = None;
    }

    /// Returns since when no server would do, if that was so when one was asked for last.
    pub fn lost_since(&self) -> Option<Instant> {
        self.state().lost_since
    }

    /// Notes what a server is, or that it cannot be reached and may become anything (`None`).
    pub fn note(&self, server: &Server, standing: Option<Standing>, dead: &DeadServers) -> Noted {
        let mut state = self.state();
        let Some(at) = state.at(server) else { return Noted::default() };
        let Some(place) = state.standings.get_mut(at) else { return Noted::default() };
        let standing = standing.map(Standing::of_server);
        let was = std::mem::replace(place, standing);
        let was = was.filter(|_| standing.is_some() && was != standing);
        Noted { was, retired: state.retire_useless(dead) }
    }

    /// Notes which addresses a name has now; returns how many origins are of no use any more.
    pub fn note_addresses(&self, host: &Host, addresses: &[IpAddr]) -> usize {
        self.state().retire(|origin| {
            origin.server.host == *host
                && matches!(&origin.place, Place::Tcp(at) if !addresses.contains(&at.ip()))
        })
    }

    /// Puts another configuration in force; says whether it is another. Workers must be told to look.
    pub fn follow(&self, plan: Plan, dead: &DeadServers) -> bool {
        let mut state = self.state();
        if state.plan == plan {
            return false;
        }
        let standing = |server: &Server| state.standings.get(state.at(server)?).copied().flatten();
        let standings = plan.servers.iter().map(standing).collect();
        if state.plan.servers != plan.servers || state.plan.balance != plan.balance {
            state.turn = 0;
        }
        (state.plan, state.standings) = (plan, standings);
        state.retire_useless(dead);
        true
    }

    /// Lists the hosts that backends were opened at and that still are of use.
    pub fn hosts_in_use(&self) -> Vec<Host> {
        let state = self.state();
        let mut hosts: Vec<Host> = Vec::new();
        for origin in state.origins.iter().filter(|origin| Arc::strong_count(origin) > 1) {
            if !origin.is_retired() && !hosts.contains(&origin.server.host) {
                hosts.push(origin.server.host.clone());
            }
        }
        hosts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn at(&self, server: &Server) -> Option<usize> {
        self.plan.servers.iter().position(|known| known == server)
    }

    /// Says how a server goes with what is wanted; one that is not known is worth a try.
    fn fit(&self, at: usize) -> Fit {
        match self.standings.get(at).copied().flatten() {
            Some(standing) => Standing::fit(Some(standing), self.plan.attrs),
            None => Fit::Wanted,
        }
    }

    /// Marks what a change of plan, or of a server, has made useless.
    fn retire_useless(&mut self, dead: &DeadServers) -> usize {
        let has_better = (0..self.standings.len()).any(|at| {
            let is_known = self.standings.get(at).is_some_and(Option::is_some);
            let is_dead = self.plan.servers.get(at).is_some_and(|server| dead.is_dead(server));
            is_known && !is_dead && self.fit(at) == Fit::Wanted
        });
        let (plan, standings) = (self.plan.clone(), self.standings.clone());
        self.retire(|origin| {
            let Some(at) = plan.servers.iter().position(|server| *server == origin.server) else {
                return true;
            };
            let standing = match (standings.get(at).copied().flatten(), origin.standing) {
                (Some(is), Some(was)) if is.is_standby != was.is_standby => Some(is),
                (is, was) => was.or(is),
            };
            match Standing::fit(standing, plan.attrs) {
                Fit::Wanted => false,
                Fit::Spare => has_better,
                Fit::Wrong(_) => true,
            }
        })
    }

    fn retire(&mut self, is_useless: impl Fn(&Origin) -> bool) -> usize {
        let useless =
            self.origins.iter().filter(|origin| !origin.is_retired() && is_useless(origin));
        let mut count = 0;
        for origin in useless {
            origin.retire();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests;
