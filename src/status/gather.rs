//! Collects what metrics show: from the workers, the control plane and the system.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::control::Control;
use crate::metrics::exposition::{ANY, PoolLabels, Share, Snapshot};
use crate::metrics::process;
use crate::metrics::table::{ProcessSample, WorkerSample};
use crate::pool::spec::Spec;
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
    snapshot
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
        is_paused: spec.is_paused(),
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
