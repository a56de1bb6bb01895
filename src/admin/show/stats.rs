//! What was done: SHOW STATS and its relatives.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::rows::{OWN_DATABASE, int, owned, text};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::admin::totals::{ByDatabase, Totals, by_database};
use crate::wire::rows::Value;

impl Admin {
    /// Returns what each database has done, and the console itself, as in PgBouncer.
    pub(in crate::admin) async fn done_by_database(&self) -> ByDatabase {
        let mut databases = by_database(&self.control.pool_reports().await);
        let commands = self.commands.load(Ordering::Relaxed);
        let own = Totals { xacts: commands, queries: commands, ..Totals::default() };
        databases.insert(OWN_DATABASE.to_owned(), own);
        databases
    }

    pub(super) async fn list_stats(&self) -> Rows {
        let totals = self.done_by_database().await;
        let averages = self.samples.averages(&totals, Instant::now());
        let row = |(database, totals): (&String, &Totals)| {
            let averages = averages.get(database).copied().unwrap_or_default();
            let (total, total_later) = columns(totals);
            let (average, average_later) = columns(&averages);
            let values = total.into_iter().chain(average);
            let values = values.chain(total_later).chain(average_later);
            [owned(database)].into_iter().chain(values).collect()
        };
        totals.iter().map(row).collect()
    }

    pub(super) async fn list_totals_by_database(&self) -> Rows {
        list(&self.done_by_database().await)
    }

    pub(super) async fn list_averages(&self) -> Rows {
        let totals = self.done_by_database().await;
        list(&self.samples.averages(&totals, Instant::now()))
    }

    pub(super) async fn list_totals(&self) -> Rows {
        const FIRST: [[&str; 2]; 7] = [
            ["total_xact_count", "avg_xact_count"],
            ["total_query_count", "avg_query_count"],
            ["total_client_bytes", "avg_client_bytes"],
            ["total_server_bytes", "avg_server_bytes"],
            ["total_xact_time", "avg_xact_time"],
            ["total_query_time", "avg_query_time"],
            ["total_wait_time", "avg_wait_time"],
        ];
        const LATER: [[&str; 2]; 5] = [
            ["total_server_assignment_count", "avg_server_assignment_count"],
            ["total_client_parse_count", "avg_client_parse_count"],
            ["total_server_parse_count", "avg_server_parse_count"],
            ["total_bind_count", "avg_bind_count"],
            ["total_client_login_count", "avg_client_login_count"],
        ];
        let databases = self.done_by_database().await;
        let averages = self.samples.averages(&databases, Instant::now());
        let sum = |databases: &ByDatabase| {
            columns(&databases.values().fold(Totals::default(), |sum, totals| sum.plus(totals)))
        };
        let ((total, total_later), (average, average_later)) = (sum(&databases), sum(&averages));
        let row = |(name, value): (&'static str, Value)| vec![text(name), value];
        FIRST
            .map(|[total, _]| total)
            .into_iter()
            .zip(total)
            .chain(FIRST.map(|[_, average]| average).into_iter().zip(average))
            .chain(LATER.map(|[total, _]| total).into_iter().zip(total_later))
            .chain(LATER.map(|[_, average]| average).into_iter().zip(average_later))
            .map(row)
            .collect()
    }
}

fn list(databases: &ByDatabase) -> Rows {
    let row = |(database, totals): (&String, &Totals)| {
        let (first, later) = columns(totals);
        [owned(database)].into_iter().chain(first).chain(later).collect()
    };
    databases.iter().map(row).collect()
}

/// The numbers in the order of PgBouncer's columns: those of 1.18, and those that came later.
fn columns(totals: &Totals) -> ([Value; 7], [Value; 5]) {
    (
        [
            int(totals.xacts),
            int(totals.queries),
            int(totals.received_bytes),
            int(totals.sent_bytes),
            int(totals.xact_us),
            int(totals.query_us),
            int(totals.wait_us),
        ],
        [
            int(totals.assignments),
            int(totals.client_parses),
            int(totals.server_parses),
            int(totals.binds),
            int(totals.logins),
        ],
    )
}
