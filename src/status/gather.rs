//! Collects what metrics show: from the workers, the control plane and the system.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::config::Config;
use crate::control::Control;
use crate::metrics::exposition::{ANY, Hindered, PoolLabels, Share, Snapshot};
use crate::metrics::process;
use crate::metrics::replication::{PrimarySample, SecondarySample};
use crate::metrics::table::{ProcessSample, WorkerSample, float};
use crate::pool::spec::Spec;
use crate::replication::observe::{Behind, Capture, Observed};
use crate::replication::supervisor::GroupView;
use crate::replication::view::View;
use crate::worker::report::{PoolReport, WorkerReport};

/// Combinations of configured databases and users that have series from the start. LIMIT: with more
/// of them, the series of a pool begin with its first client.
const CONFIGURED_MAX: usize = 64;

/// Asks everybody.
pub(super) async fn snapshot(control: &Control) -> Snapshot {
    let config = control.config();
    let reports = control.reports().await;
    let mut snapshot = Snapshot {
        configured: configured(&config),
        process: process_sample(control, &config),
        ..Snapshot::default()
    };
    for (worker, report) in reports.into_iter().enumerate() {
        snapshot.workers.push(worker_sample(report.as_ref()));
        let pools = report.into_iter().flat_map(|report| report.pools);
        snapshot.shares.extend(pools.map(|pool| share(&config, worker, pool)));
    }
    for group in control.secondaries.last_seen() {
        let views = group.secondaries.iter().filter(|view| view.is_configured);
        snapshot.secondaries.extend(views.map(secondary));
        snapshot.primaries.push((group.database.clone(), primary(&group)));
    }
    snapshot
}

fn primary(group: &GroupView) -> PrimarySample {
    let GroupView { settings, look, .. } = group;
    let observed = look.observed.as_deref();
    let known = |read: fn(&Observed) -> u64| observed.map_or(f64::NAN, |seen| float(read(seen)));
    PrimarySample {
        is_up: observed.is_some() && look.error.is_none(),
        is_captured: observed.is_some_and(|seen| seen.capture == Capture::Active),
        log_bytes: known(|seen| seen.log_bytes),
        log_limit_bytes: settings.log_limit_bytes,
        log_age_seconds: seconds(observed.and_then(Observed::log_age)),
        log_limit_seconds: settings.log_limit_age.as_secs_f64(),
        tables: known(|seen| seen.tables),
        refused: known(|seen| u64::try_from(seen.refused.len()).unwrap_or(u64::MAX)),
    }
}

fn secondary(view: &View) -> (String, String, SecondarySample) {
    let View { status, state, lag, behind, results, .. } = view;
    let behind =
        |read: fn(&Behind) -> u64| behind.as_ref().map_or(f64::NAN, |behind| float(read(behind)));
    let sample = SecondarySample {
        state: state.word(),
        is_leader: status.is_leader,
        lag_seconds: seconds(*lag),
        lag_changes: behind(|behind| behind.changes),
        lag_bytes: behind(|behind| behind.bytes),
        changes: status.changes,
        batches: status.batches,
        apply: status.apply,
        copied_rows: status.copied_rows,
        copied_bytes: status.copied_bytes,
        verified_rows: results.rows,
        equal: results.equal,
        different: results.different,
        could_not_tell: results.could_not_tell,
    };
    (status.database.clone(), status.secondary.clone(), sample)
}

fn seconds(time: Option<Duration>) -> f64 {
    time.map_or(f64::NAN, |time| time.as_secs_f64())
}

/// Says how secondaries are, a line for each. Not why: that may name keys of rows.
pub(super) fn secondaries(control: &Control) -> String {
    let mut words = String::new();
    for view in control.secondaries.last_seen().iter().flat_map(|group| &group.secondaries) {
        let View { status, state, lag, .. } = view;
        // Writing to a string does not fail.
        let _ = write!(words, "secondary {}.{}: {state}", status.database, status.secondary);
        if let Some(lag) = lag {
            let _ = write!(words, ", {:.1} s behind", lag.as_secs_f64());
        }
        words.push('\n');
    }
    words
}

/// Says which databases have no server, a line for each. Clients are let in all the same: a proxy
/// that is taken out does not bring a server back.
pub(super) fn lost(control: &Control) -> String {
    let mut words = String::new();
    for (name, database) in control.registry.databases() {
        if let Some(since) = database.roster.lost_since() {
            // Writing to a string does not fail.
            let _ =
                writeln!(words, "database {name}: no server for {} s", since.elapsed().as_secs());
        }
    }
    words
}

/// Says why no clients should be sent here, if that is so.
pub(super) fn obstacle(control: &Control) -> Option<&'static str> {
    if control.shutting_down().is_some() {
        Some("shutting down")
    } else if control.is_suspended() {
        Some("suspended")
    } else if control.is_paused() {
        Some("paused")
    } else {
        None
    }
}

fn configured(config: &Config) -> BTreeSet<PoolLabels> {
    let databases = || config.databases.keys().filter(|name| *name != ANY);
    if databases().count() * config.users.len() > CONFIGURED_MAX {
        return BTreeSet::new();
    }
    let with_users = |database: &String| {
        let database = database.clone();
        config
            .users
            .keys()
            .map(move |user| PoolLabels { database: database.clone(), user: user.clone() })
    };
    databases().flat_map(with_users).collect()
}

fn share(config: &Config, worker: usize, report: PoolReport) -> Share {
    let PoolReport { spec, cells, states } = report;
    let settings = spec.settings();
    Share {
        worker,
        pool: spec.number.0,
        configured: configured_labels(config, &spec),
        names: PoolLabels { database: spec.database.clone(), user: spec.user.clone() },
        is_proven: spec.welcome().is_some(),
        cells,
        states,
        size: settings.size,
        reserve: settings.reserve_size,
        hindered: Hindered {
            is_paused: spec.is_paused(),
            is_lost: spec.roster.lost_since().is_some(),
        },
    }
}

fn configured_labels(config: &Config, spec: &Spec) -> PoolLabels {
    let or_any = |name: &str, is_known: bool| if is_known { name } else { ANY }.to_owned();
    PoolLabels {
        database: or_any(&spec.database, config.databases.contains_key(&spec.database)),
        user: or_any(&spec.user, config.users.contains_key(&spec.user)),
    }
}

fn worker_sample(report: Option<&WorkerReport>) -> WorkerSample {
    let Some(report) = report else { return WorkerSample::default() };
    let event_loop = report.event_loop;
    WorkerSample {
        is_up: true,
        turns: event_loop.turns,
        events: event_loop.events,
        cpu: event_loop.cpu,
    }
}

fn listeners(control: &Control) -> u64 {
    let addresses = control.listeners.local_addresses().len();
    let paths = usize::from(control.listeners.unix_path().is_some());
    u64::try_from(addresses + paths).unwrap_or(u64::MAX)
}

fn process_sample(control: &Control, config: &Config) -> ProcessSample {
    let mut sample = ProcessSample {
        started: process::since_1970(control.reloads.started()),
        listeners: listeners(control),
        clients: control.admission.clients().into(),
        clients_max: config.general.max_client_conn.into(),
        logins: control.admission.outcomes().load(),
        reloads: control.reloads.successes(),
        reload_failures: control.reloads.failures(),
        is_reloaded: control.reloads.was_last_successful(),
        configured: process::since_1970(control.reloads.last_success()),
        is_ready: obstacle(control).is_none(),
        ..ProcessSample::default()
    };
    process::observe(&mut sample);
    sample
}
