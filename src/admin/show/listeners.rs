//! The connections that listen for all clients of a database: SHOW LISTENERS.

use super::rows::{int, owned, text};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::admin::clock::utc;
use crate::control::ListenerReport;
use crate::wire::rows::Value;

impl Admin {
    pub(super) fn list_listeners(&self) -> Rows {
        self.control.hubs.reports().into_iter().map(row).collect()
    }
}

fn row(report: ListenerReport) -> Vec<Value> {
    let connection = report.connection.as_ref();
    vec![
        owned(report.database),
        connection.map_or(Value::Null, |connection| owned(&connection.user)),
        text(if connection.is_some() { "listening" } else { "connecting" }),
        connection.map_or(Value::Null, |connection| owned(connection.server.host.to_string())),
        connection.map_or(Value::Null, |connection| int(connection.server.port)),
        connection.map_or(Value::Null, |connection| int(connection.pid)),
        int(report.channels),
        int(report.notifications),
        int(report.losses),
        connection.map_or(Value::Null, |connection| owned(utc(connection.connected))),
    ]
}
