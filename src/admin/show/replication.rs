//! How secondaries follow: SHOW SECONDARIES, SHOW REPLICATION.

use std::time::{Duration, Instant};

use super::rows::{flag, float, int, owned, text};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::admin::clock;
use crate::config::Consistency;
use crate::replication::observe::{Capture, Observed};
use crate::replication::status::State;
use crate::replication::supervisor::GroupView;
use crate::replication::view::View;
use crate::wire::rows::Value;

impl Admin {
    pub(super) async fn list_secondaries(&self) -> Rows {
        let groups = self.control.secondaries.look().await;
        groups.iter().flat_map(|group| group.secondaries.iter().map(of_secondary)).collect()
    }

    pub(super) async fn list_replication(&self) -> Rows {
        self.control.secondaries.look().await.iter().map(of_group).collect()
    }
}

fn seconds(time: Option<Duration>) -> Value {
    time.map_or(Value::Null, |time| float(time.as_secs_f64()))
}

fn number(number: Option<u64>) -> Value {
    number.map_or(Value::Null, int)
}

fn of_secondary(view: &View) -> Vec<Value> {
    let View { status, state, lag, behind, last_error, verification, is_configured, .. } = view;
    let (copy, verification) = (status.copy.as_ref(), verification.as_ref());
    let table = verification.and_then(|progress| progress.table.as_ref());
    let schema = copy.and_then(|copy| copy.schema);
    let natural = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    vec![
        owned(&status.database),
        owned(&status.secondary),
        text(state.word()),
        seconds(*lag),
        number(behind.map(|behind| behind.changes)),
        number(behind.map(|behind| behind.bytes)),
        last_error.as_ref().map_or(Value::Null, owned),
        owned(clock::utc(status.since)),
        flag(status.is_leader),
        flag(behind.is_some_and(|behind| behind.is_estimate)),
        int(status.changes),
        int(status.batches),
        status.snapshot.as_ref().map_or(Value::Null, owned),
        number(copy.map(|copy| natural(copy.tables_done))),
        number(copy.map(|copy| natural(copy.tables))),
        number(copy.map(|copy| copy.rows)),
        number(copy.map(|copy| copy.rows_estimate)),
        number(copy.map(|copy| copy.bytes)),
        number(copy.map(|copy| copy.bytes_estimate)),
        seconds(copy.map(|copy| copy.began.elapsed())),
        table.map_or(Value::Null, |table| owned(table.to_string())),
        number(verification.map(|progress| natural(progress.tables_done))),
        number(verification.map(|progress| natural(progress.tables_total))),
        number(verification.map(|progress| progress.rows_done)),
        number(verification.map(|progress| progress.rows_estimate)),
        number(verification.map(|progress| progress.rows_different)),
        seconds(verification.and_then(|progress| progress.remaining)),
        flag(*is_configured),
        number(schema.map(|made| natural(made.done))),
        number(schema.map(|made| natural(made.all))),
    ]
}

fn of_group(group: &GroupView) -> Vec<Value> {
    let GroupView { database, settings, look, secondaries } = group;
    let observed = look.observed.as_deref();
    let (capture, why) = match observed.map(|observed| &observed.capture) {
        None => ("unknown", None),
        Some(Capture::NotInstalled) => ("not_installed", None),
        Some(Capture::Active) => ("active", None),
        Some(Capture::Stopped(why)) => ("stopped", Some(why)),
    };
    let refused = observed.map(|observed| &observed.refused);
    let count = |state: &State| secondaries.iter().filter(|view| view.state == *state).count();
    vec![
        owned(database),
        text(capture),
        number(observed.map(|observed| observed.log_bytes)),
        int(settings.log_limit_bytes),
        seconds(observed.and_then(Observed::log_age)),
        float(settings.log_limit_age.as_secs_f64()),
        number(observed.map(|observed| observed.tables)),
        refused.map_or(Value::Null, |refused| int(refused.len())),
        refused.filter(|all| !all.is_empty()).map_or(Value::Null, |all| owned(all.join("; "))),
        int(secondaries.len()),
        int(count(&State::InSync)),
        text(match settings.consistency {
            Consistency::Async => "async",
        }),
        observed.and_then(|observed| observed.group.as_ref()).map_or(Value::Null, owned),
        look.error.as_ref().or(why).map_or(Value::Null, owned),
        seconds(observed.map(|observed| Instant::now().saturating_duration_since(observed.at))),
    ]
}
