//! How a secondary is, put together from what this process knows and what the primary was told: the
//! same on every proxy, whoever applies. Pure.

use std::time::{Duration, Instant};

use super::observe::{Behind, Look, Reported};
use super::status::{State, Status};
use super::verify::desk::Results;
use super::verify::progress::Progress;

/// A secondary that is said to be in sync, and of which nothing was heard for so long, is not.
const SILENT: Duration = Duration::from_secs(10);

/// How a secondary is.
#[derive(Debug, Clone)]
pub struct View {
    /// What this process knows. Of what follows, it may know less.
    pub status: Status,
    /// What it is doing.
    pub state: State,
    /// For how long the primary has gone on since what the secondary has; `None`: it has nothing.
    pub lag: Option<Duration>,
    /// Changes that it lacks; `None` if it is not known.
    pub behind: Option<Behind>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The verification under way, if one is.
    pub verification: Option<Progress>,
    /// What came of the verifications by this process.
    pub results: Results,
    /// Whether the configuration has it; others are those that the primary still keeps its log for.
    pub is_configured: bool,
}

impl View {
    /// Puts together what is known at `now`.
    pub fn new(
        status: Status,
        look: &Look,
        (verification, results): (Progress, Results),
        now: Instant,
    ) -> Self {
        let observed = look.observed.as_deref();
        let reported = observed.and_then(|observed| {
            observed.secondaries.iter().find(|known| known.name == status.secondary)
        });
        // What the primary was told has grown older since.
        let since = observed.map_or(Duration::ZERO, |seen| now.saturating_duration_since(seen.at));
        let told_age = reported.and_then(|told| told.age).map(|age| age.saturating_add(since));
        let own_age = status.as_of.map(|as_of| now.saturating_duration_since(as_of));
        let is_own = status.is_leader || status.state.has_stopped() || reported.is_none();
        let (state, lag) = if is_own {
            (status.state.clone(), own_age.or(told_age))
        } else {
            (told_state(reported, told_age), told_age)
        };
        let has_nothing = matches!(state, State::Copying | State::Detached(_));
        let behind = reported.and_then(|told| told.behind).filter(|_| !has_nothing);
        let told_error = || reported.and_then(|told| told.last_error.clone());
        let last_error = if is_own { None } else { told_error() };
        let last_error = last_error.or(status.last_error.clone());
        let last_error = state.why().map(str::to_owned).or(last_error);
        let is_verified = verification.tables_total > 0;
        Self {
            state,
            lag: lag.filter(|_| !has_nothing),
            behind,
            last_error,
            verification: is_verified.then_some(verification),
            results,
            is_configured: true,
            status,
        }
    }

    /// A secondary that the primary knows and the configuration does not.
    pub fn unknown(database: &str, told: &Reported, look: &Look, now: Instant) -> Self {
        let status = Status::new(database, &told.name);
        let view = Self::new(status, look, Default::default(), now);
        Self { is_configured: false, ..view }
    }
}

/// The state that the primary was told, unless it is too long ago to be true.
fn told_state(reported: Option<&Reported>, age: Option<Duration>) -> State {
    match reported.map(|told| told.state.clone()) {
        Some(State::InSync) if age.is_none_or(|age| age > SILENT) => State::CatchingUp,
        Some(state) => state,
        None => State::CatchingUp,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::replication::observe::{Capture, Observed};

    fn status(state: State, is_leader: bool, as_of: Option<Instant>) -> Status {
        Status { state, is_leader, as_of, ..Status::new("app", "new") }
    }

    fn look(at: Instant, state: State, age: u64) -> Look {
        let behind = Behind { changes: 5, bytes: 50, is_estimate: false };
        let reported = Reported {
            name: "new".to_owned(),
            state,
            progress: None,
            age: Some(Duration::from_secs(age)),
            last_error: Some("told".to_owned()),
            behind: Some(behind),
        };
        let observed = Observed {
            at,
            capture: Capture::Active,
            group: None,
            log_bytes: 0,
            tables: 1,
            refused: Arc::default(),
            secondaries: vec![reported],
        };
        Look { observed: Some(Arc::new(observed)), ..Look::default() }
    }

    #[test]
    fn who_applies_knows_best() {
        let began = Instant::now();
        let now = began + Duration::from_secs(100);
        let check = |status: Status, look: &Look, state: &State, lag: Option<u64>| {
            let view = View::new(status, look, Default::default(), now);
            assert_eq!((&view.state, view.lag), (state, lag.map(Duration::from_secs)));
        };
        let ten = || now.checked_sub(Duration::from_secs(10));
        let fresh = look(now, State::InSync, 1);
        check(status(State::CatchingUp, true, ten()), &fresh, &State::CatchingUp, Some(10));
        check(status(State::CatchingUp, true, None), &fresh, &State::CatchingUp, Some(1));
        check(status(State::CatchingUp, false, ten()), &fresh, &State::InSync, Some(1));
        // Nobody has said anything for long: whoever applied is gone.
        let old = look(began, State::InSync, 1);
        check(status(State::CatchingUp, false, None), &old, &State::CatchingUp, Some(101));
        let paused = State::Paused("lunch".to_owned());
        check(status(paused.clone(), false, ten()), &fresh, &paused, Some(10));
        let told = look(now, paused.clone(), 30);
        check(status(State::CatchingUp, false, None), &told, &paused, Some(30));
        check(status(State::CatchingUp, false, None), &Look::default(), &State::CatchingUp, None);
    }

    #[test]
    fn what_is_copied_lacks_no_changes() {
        let now = Instant::now();
        let view = |state: State| {
            let told = look(now, State::InSync, 1);
            View::new(status(state, true, Some(now)), &told, Default::default(), now)
        };
        assert_eq!(view(State::Copying).behind, None);
        assert_eq!(view(State::Copying).lag, None);
        assert_eq!(view(State::InSync).behind.map(|behind| behind.changes), Some(5));
        assert_eq!(view(State::InSync).last_error, None, "our own, and not what others told");
    }
}
