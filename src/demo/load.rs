//! Load, made and measured by `pgbench`.

use std::thread;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::cluster::{Cluster, DATABASE, Role};
use super::error::{DemoError, Tail};
use super::screen::Progress;
use super::table::grouped;
use super::tools::Tools;
use super::workspace::{Workspace, shown};

/// How many rows the demo's database has, in `pgbench`'s unit of 100,000 accounts.
pub(super) const SCALE: &str = "10";

/// A kind of load.
#[derive(Debug)]
pub(super) struct Workload {
    /// What people read.
    pub(super) name: &'static str,
    arguments: &'static [&'static str],
}

/// What is measured, in this order.
pub(super) const WORKLOADS: [Workload; 4] = [
    Workload { name: "select, simple", arguments: &["-S", "-M", "simple"] },
    Workload { name: "select, extended", arguments: &["-S", "-M", "extended"] },
    Workload { name: "select, prepared", arguments: &["-S", "-M", "prepared"] },
    Workload { name: "TPC-B, simple", arguments: &["-b", "tpcb-like", "-M", "simple"] },
];

/// The way that a load takes to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// One server connection for each client.
    Direct,
    /// Through the proxy's pool.
    Proxy {
        /// The proxy's TCP port.
        port: u16,
    },
}

/// What a run showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// Transactions per second.
    pub(super) tps: f64,
    /// Average latency of a transaction in milliseconds.
    pub(super) latency_ms: f64,
    /// Transactions that failed.
    pub(super) failed: u64,
    /// Server connections in use, counted at the server halfway through.
    pub(super) connections: u32,
}

/// Who makes load, on which server, and how much.
pub(super) struct Bench<'a> {
    pub(super) tools: &'a Tools,
    pub(super) cluster: &'a Cluster<'a>,
    pub(super) role: &'a Role,
    pub(super) clients: u32,
    pub(super) seconds: u32,
    /// Extra time for the clients to connect, which `pgbench` counts as part of its run but not in
    /// its results. [`fill`](Self::fill) finds it.
    pub(super) connect_seconds: u32,
}

impl Bench<'_> {
    /// Fills the database with `pgbench`'s tables, and finds out how long the clients need to connect.
    pub(super) async fn fill(
        &mut self,
        workspace: &Workspace,
        progress: &Progress,
    ) -> Result<(), DemoError> {
        let mut fill = self.role.client(self.tools, "pgbench", self.cluster.port());
        fill.args(["-i", "-s", SCALE, DATABASE]);
        let watch = |line: &str| {
            if let Some((done, total)) = filled(line) {
                progress.advance(done, total);
            }
        };
        workspace.run(fill, "", watch).await?;
        // Not in the middle of a measurement.
        self.cluster.sql(workspace, "postgres", "checkpoint").await?;

        let started = Instant::now();
        let mut connect = self.role.client(self.tools, "pgbench", self.cluster.port());
        connect.args(["-n", "-S", "-t", "1", "-c", &self.clients.to_string()]);
        connect.args(["-j", &self.threads().to_string(), DATABASE]);
        workspace.run(connect, "", |_| ()).await?;
        // It may take twice as long next time; with few clients it is no time at all.
        let twice = started.elapsed() * 2;
        self.connect_seconds = u32::try_from(twice.as_secs()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Makes a load for some seconds and measures it.
    pub(super) async fn measure(
        &self,
        workspace: &Workspace,
        workload: &Workload,
        route: Route,
        progress: &Progress,
    ) -> Result<Measured, DemoError> {
        let port = match route {
            Route::Direct => self.cluster.port(),
            Route::Proxy { port } => port,
        };
        let mut pgbench = self.role.client(self.tools, "pgbench", port);
        pgbench.args(["-n", "-P", "1"]).args(workload.arguments);
        let seconds = self.seconds.saturating_add(self.connect_seconds);
        pgbench.args(["-T", &seconds.to_string(), "-c", &self.clients.to_string()]);
        pgbench.args(["-j", &self.threads().to_string(), DATABASE]);
        let command = shown(&pgbench);

        progress.advance(0, seconds.into());
        let mut elapsed = 0;
        let watch = |line: &str| {
            if let Some(tps) = progressed(line) {
                elapsed += 1;
                progress.advance(elapsed, seconds.into());
                progress.note(format!("{:>7} tps", grouped(tps)));
            }
        };
        // The pool keeps its connections from run to run; they are idle while a direct one goes on.
        let others = match route {
            Route::Direct => self.cluster.connections(workspace, self.role).await?,
            Route::Proxy { .. } => 0,
        };
        let (said, connections) =
            tokio::join!(workspace.run(pgbench, "", watch), self.connections_halfway(workspace));
        let said = said?;
        let report = Report::read(&said).map_err(|what| DemoError::Unreadable {
            command,
            what,
            output: Tail::of(&said),
        })?;
        progress.note(format!("{:>7} tps  {:>7.3} ms", grouped(report.tps), report.latency_ms));
        Ok(Measured {
            tps: report.tps,
            latency_ms: report.latency_ms,
            failed: report.failed,
            connections: connections?.saturating_sub(others),
        })
    }

    /// Prepares a load of TPC-B that writes through a proxy, at a rate that leaves others some time.
    pub(super) fn write(&self, port: u16, seconds: u32, rate: u32) -> Command {
        let mut pgbench = self.role.client(self.tools, "pgbench", port);
        pgbench.args(["-n", "-b", "tpcb-like", "-M", "prepared", "-c", "4"]);
        pgbench.args(["-R", &rate.to_string(), "-T", &seconds.to_string(), DATABASE]);
        pgbench
    }

    /// Reads how many transactions such a load has made, and how many of them failed.
    pub(super) fn written(output: &str) -> Result<(u64, u64), &'static str> {
        let count = last_number(output, "number of transactions actually processed: ");
        let count = count.ok_or("number of transactions")?;
        Ok((count, last_number(output, "number of failed transactions: ").unwrap_or(0)))
    }

    async fn connections_halfway(&self, workspace: &Workspace) -> Result<u32, DemoError> {
        let connect = Duration::from_secs(self.connect_seconds.into());
        workspace.pause(connect + Duration::from_secs(self.seconds.into()) / 2).await?;
        self.cluster.connections(workspace, self.role).await
    }

    /// Threads for `pgbench`: one per core, and at most one per client.
    fn threads(&self) -> u32 {
        let cores = thread::available_parallelism().ok().and_then(|n| u32::try_from(n.get()).ok());
        cores.unwrap_or(1).min(self.clients)
    }
}

/// The end of `pgbench`'s output, as far as the demo shows it.
#[derive(Debug, PartialEq)]
struct Report {
    tps: f64,
    latency_ms: f64,
    failed: u64,
}

impl Report {
    /// Reads the output of a run; the error names what is missing.
    fn read(output: &str) -> Result<Self, &'static str> {
        Ok(Self {
            // Before PostgreSQL 14 there are two: the second leaves out the time to connect, too.
            tps: last_number(output, "tps = ").ok_or("transactions per second")?,
            latency_ms: last_number(output, "latency average = ").ok_or("average latency")?,
            // Before PostgreSQL 15 there is none: whatever fails then ends the whole run.
            failed: last_number(output, "number of failed transactions: ").unwrap_or(0),
        })
    }
}

/// Reads the number behind `label` in the last line that begins with it.
fn last_number<T: std::str::FromStr>(output: &str, label: &str) -> Option<T> {
    let rest = output.lines().filter_map(|line| line.strip_prefix(label)).next_back()?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Reads the transactions per second in `progress: 1.0 s, 31234.5 tps, lat 0.5 ms stddev 0.1`.
fn progressed(line: &str) -> Option<f64> {
    let (_, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
    rest.split_once(" tps")?.0.parse().ok()
}

/// Reads how far `pgbench -i` is: `100000 of 1000000 tuples (10%) done (elapsed 0.08 s, …`.
fn filled(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let done = words.next()?.parse().ok()?;
    if words.next() != Some("of") {
        return None;
    }
    let total = words.next()?.parse().ok()?;
    (words.next() == Some("tuples")).then_some((done, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_all_versions_are_read() {
        let version_15 = "transaction type: <builtin: select only>\nscaling factor: 10\n\
            number of transactions actually processed: 93717\n\
            number of failed transactions: 3 (0.003%)\nlatency average = 0.512 ms\n\
            initial connection time = 21.1 ms\ntps = 31234.567891 (without initial connection time)\n";
        let read = Report { tps: 31_234.567_891, latency_ms: 0.512, failed: 3 };
        assert_eq!(Report::read(version_15), Ok(read));
        let version_13 = "latency average = 1.5 ms\ntps = 600.1 (including connections establishing)\n\
            tps = 700.2 (excluding connections establishing)\n";
        assert_eq!(Report::read(version_13), Ok(Report { tps: 700.2, latency_ms: 1.5, failed: 0 }));
        assert_eq!(Report::read("latency average = 1.5 ms\n"), Err("transactions per second"));
    }

    #[test]
    fn progress_is_read() {
        for (line, tps) in [
            ("progress: 1.0 s, 31234.5 tps, lat 0.512 ms stddev 0.100, 0 failed", Some(31234.5)),
            ("progress: 12.0 s, 0.0 tps, lat 0.000 ms stddev 0.000", Some(0.0)),
            ("pgbench: error: connection refused", None),
        ] {
            assert_eq!(progressed(line), tps, "{line}");
        }
        for (line, part) in [
            (
                "100000 of 1000000 tuples (10%) done (elapsed 0.1 s, remaining 1 s)",
                Some((100_000, 1_000_000)),
            ),
            ("100000 of 1000000 tuples (10%) of pgbench_accounts done", Some((100_000, 1_000_000))),
            ("vacuuming...", None),
            ("done in 2.28 s (drop tables 0.00 s, …).", None),
        ] {
            assert_eq!(filled(line), part, "{line}");
        }
    }
}
