//! The second half of the demo: two secondaries that follow while the primary is written to, a proxy
//! that is killed meanwhile, and the proof that all are equal.
//!
//! What is shown is what a user would do: `SHOW SECONDARIES` on the console, and the commands of
//! `pgtandem replication`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cluster::{Cluster, DATABASE, Role};
use super::error::{DemoError, Tail};
use super::load::{Bench, SCALE};
use super::proxy::Proxy;
use super::screen::{Progress, Screen};
use super::table::grouped;
use super::tools::Tools;
use super::workspace::{Workspace, shown};
use super::{SPARE_CONNECTIONS, indented};

/// The secondaries' names, in `proxy.toml` and of their clusters.
const SECONDARIES: [&str; 2] = ["one", "two"];

/// The proxies: both look after the secondaries, and one of them applies.
const PROXIES: [&str; 2] = ["pgtandem-a", "pgtandem-b"];

/// What the load is called among the processes.
const LOAD: &str = "load";

/// Transactions that the load begins per second.
const RATE: u32 = 300;

/// How long the load goes on, in seconds.
const LOAD_SECONDS: u32 = 20;

/// Between two looks at the secondaries.
const LOOK: Duration = Duration::from_millis(500);

/// How long the secondaries may take to come in sync.
const PATIENCE: Duration = Duration::from_mins(3);

/// `pgbench` gives this table no key, and rows that nothing tells apart cannot be followed.
const KEY: &str = "alter table pgbench_history add column id bigint \
                   generated always as identity primary key";

/// One secondary, as `SHOW SECONDARIES` tells it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    name: String,
    state: String,
    lag_seconds: Option<f64>,
    why: String,
}

/// The second half, step by step.
pub(super) async fn perform(
    bench: &Bench<'_>,
    program: &Path,
    workspace: &mut Workspace,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    let another = bench.tools.of_another_version().await;
    let tools = [another.as_ref().unwrap_or(bench.tools), bench.tools];
    screen.say("\nNow two secondaries, copied and followed while the primary is written to.\n")?;
    let secondaries = screen
        .step("start two more PostgreSQLs", async |progress| {
            let secondaries = create(bench, tools, workspace).await?;
            progress.note(format!("versions {}", versions(&secondaries)));
            Ok(secondaries)
        })
        .await?;
    let more = configuration(bench.role, &secondaries);
    let proxies = screen
        .step("start two pgtandems that replicate", async |_| {
            let [a, b] = PROXIES;
            let (cluster, role) = (bench.cluster, bench.role);
            let a = Proxy::start(workspace, program, a, cluster, role, &more).await?;
            let b = Proxy::start(workspace, program, b, cluster, role, &more).await?;
            Ok([a, b])
        })
        .await?;
    screen.say(&explanation(&more, bench.role))?;
    let [first, other] = &proxies;
    let watch = Watch { bench, proxy: other };
    let (written, failed) = write(&watch, first, workspace, screen).await?;
    let verdict = prove(&watch, workspace, screen).await?;
    screen.say(&format!(
        "\n`pgtandem replication verify` says:\n\n{}\n\
         {} transactions were written meanwhile, {failed} of them failed. Both secondaries are\n\
         equal to the primary, row by row.",
        indented(verdict.trim_end()),
        grouped_count(written),
    ))
}

/// Copies and follows under load, which goes through the proxy of `watch`, while `first` is killed;
/// returns how many transactions were written, and how many failed.
async fn write(
    watch: &Watch<'_>,
    first: &Proxy,
    workspace: &mut Workspace,
    screen: &mut Screen,
) -> Result<(u64, u64), DemoError> {
    let pgbench = watch.bench.write(watch.proxy.port(), LOAD_SECONDS, RATE);
    let command = shown(&pgbench);
    workspace.serve(LOAD, pgbench, Signal::INT, async || true).await?;
    screen
        .step("copy all to both, under load", async |progress| {
            watch.until_in_sync(workspace, progress).await
        })
        .await?;
    screen
        .step("kill -9 one pgtandem: other goes on", async |progress| {
            workspace.kill(first.name()).await?;
            // Whoever applied may have been seen in sync a moment ago.
            workspace.pause(LOOK * 2).await?;
            watch.until_in_sync(workspace, progress).await
        })
        .await?;
    screen.step("start it again", async |_| first.run(workspace).await).await?;
    screen
        .step("follow, until the load is over", async |progress| {
            watch.until_over(workspace, progress).await
        })
        .await?;
    let said = workspace.said(LOAD);
    Bench::written(&said).map_err(|what| DemoError::Unreadable {
        command,
        what,
        output: Tail::of(&said),
    })
}

/// Waits until the secondaries have everything, and has every row compared; returns the verdict.
async fn prove(
    watch: &Watch<'_>,
    workspace: &Workspace,
    screen: &mut Screen,
) -> Result<String, DemoError> {
    let command = |arguments: &[&str]| {
        let mut command = watch.proxy.command();
        command.arg("replication").args(arguments);
        command.env("PGPASSWORD", watch.bench.role.password());
        command
    };
    screen
        .step("wait until they have everything", async |_| {
            workspace.run(command(&["wait", "--timeout", "60s"]), "", |_| ()).await.map(drop)
        })
        .await?;
    screen
        .step("compare every row of every table", async |_| {
            workspace.run(command(&["verify"]), "", |_| ()).await
        })
        .await
}

/// Makes the secondaries: empty tables like those of the primary.
async fn create<'a>(
    bench: &Bench<'_>,
    tools: [&'a Tools; 2],
    workspace: &mut Workspace,
) -> Result<[Cluster<'a>; 2], DemoError> {
    let [one, two] = SECONDARIES;
    let [of_one, of_two] = tools;
    let one = Cluster::create(workspace, of_one, one, SPARE_CONNECTIONS).await?;
    let two = Cluster::create(workspace, of_two, two, SPARE_CONNECTIONS).await?;
    for cluster in [&one, &two] {
        cluster.create_same_role(workspace, bench.role).await?;
        let mut tables = bench.role.client(bench.tools, "pgbench", cluster.port());
        // The tables and their keys, without rows.
        tables.args(["-i", "-I", "tp", "-s", SCALE, DATABASE]);
        workspace.run(tables, "", |_| ()).await?;
    }
    for cluster in [bench.cluster, &one, &two] {
        let alter = format!("set role {}; {KEY};", bench.role.name());
        cluster.sql(workspace, DATABASE, &alter).await?;
    }
    Ok([one, two])
}

fn versions(clusters: &[Cluster<'_>]) -> String {
    clusters.iter().map(Cluster::version).collect::<Vec<_>>().join(" and ")
}

/// What makes a pooler a replicator.
fn configuration(role: &Role, secondaries: &[Cluster<'_>]) -> String {
    let (name, password) = (role.name(), role.password());
    let mut text = format!(
        "\n[databases.{DATABASE}.replication]\nadmin_user = \"{name}\"\n\
         admin_password = \"{password}\"\n"
    );
    for (name, cluster) in SECONDARIES.iter().zip(secondaries) {
        let port = cluster.port();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[databases.{DATABASE}.secondaries.{name}]\nhost = \"127.0.0.1\"\nport = {port}\n"
        );
    }
    text
}

fn explanation(more: &str, role: &Role) -> String {
    format!(
        "\nTheir proxy.toml has this more:\n\n{}\n\
         pgbench writes {RATE} transactions per second through the second pgtandem for\n\
         {LOAD_SECONDS} s. In the meantime:\n",
        indented(more.replace(role.password(), "…").trim_start())
    )
}

/// Looks at the secondaries through one proxy's console.
struct Watch<'a> {
    bench: &'a Bench<'a>,
    proxy: &'a Proxy,
}

impl Watch<'_> {
    async fn look(&self, workspace: &Workspace) -> Result<Vec<Seen>, DemoError> {
        let mut psql = self.bench.role.client(self.bench.tools, "psql", self.proxy.port());
        psql.args(["-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", "SHOW SECONDARIES"]);
        psql.arg("pgtandem");
        let command = shown(&psql);
        let said = workspace.run(psql, "", |_| ()).await?;
        let seen: Option<Vec<Seen>> = said.lines().map(seen).collect();
        let unreadable = || DemoError::Unreadable {
            command,
            what: "list of secondaries",
            output: Tail::of(&said),
        };
        seen.filter(|seen| seen.len() == SECONDARIES.len()).ok_or_else(unreadable)
    }

    /// Looks once; a secondary that waits for somebody ends the demo.
    async fn show(
        &self,
        workspace: &Workspace,
        progress: &Progress,
    ) -> Result<Vec<Seen>, DemoError> {
        let seen = self.look(workspace).await?;
        if let Some(bad) = seen.iter().find(|seen| seen.is_stuck()) {
            let Seen { name, state, why, .. } = bad.clone();
            return Err(DemoError::Secondary { name, state, why });
        }
        progress.note(line(&seen));
        Ok(seen)
    }

    async fn until_in_sync(
        &self,
        workspace: &Workspace,
        progress: &Progress,
    ) -> Result<(), DemoError> {
        let began = Instant::now();
        loop {
            let seen = self.show(workspace, progress).await?;
            if seen.iter().all(|seen| seen.state == "in_sync") {
                progress.note(format!("{:.1} s", began.elapsed().as_secs_f64()));
                return Ok(());
            }
            if began.elapsed() >= PATIENCE {
                return Err(DemoError::NotInSync { waited: PATIENCE, last: line(&seen) });
            }
            workspace.pause(LOOK).await?;
        }
    }

    /// Watches until the load has ended; notes how far behind they were at most.
    async fn until_over(
        &self,
        workspace: &mut Workspace,
        progress: &Progress,
    ) -> Result<(), DemoError> {
        let mut worst = 0.0_f64;
        while workspace.is_running(LOAD)? {
            let seen = self.show(workspace, progress).await?;
            worst = seen.iter().filter_map(|seen| seen.lag_seconds).fold(worst, f64::max);
            workspace.pause(LOOK).await?;
        }
        progress.note(format!("at most {worst:.1} s behind"));
        Ok(())
    }
}

impl Seen {
    /// Whether it will not go on by itself.
    fn is_stuck(&self) -> bool {
        ["paused", "detached", "ahead", "diverged"].contains(&self.state.as_str())
    }
}

/// Reads a line of `SHOW SECONDARIES`.
fn seen(line: &str) -> Option<Seen> {
    let mut columns = line.split('\t');
    let (_database, name, state) = (columns.next()?, columns.next()?, columns.next()?);
    let lag_seconds = columns.next()?.parse().ok();
    let (_changes, _bytes, why) = (columns.next()?, columns.next()?, columns.next()?);
    let [name, state, why] = [name, state, why].map(str::to_owned);
    Some(Seen { name, state, lag_seconds, why })
}

/// The secondaries in a few words, as `one in_sync 0.1 s  two copying`.
fn line(seen: &[Seen]) -> String {
    let words = seen.iter().map(|Seen { name, state, lag_seconds, .. }| match lag_seconds {
        Some(lag) => format!("{name} {state} {lag:.1} s"),
        None => format!("{name} {state}"),
    });
    words.collect::<Vec<_>>().join("  ")
}

fn grouped_count(count: u64) -> String {
    // It fits: nobody waits for 2⁵² transactions.
    grouped(u32::try_from(count).map_or(f64::INFINITY, f64::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secondaries_are_read() {
        let said = "app\tone\tin_sync\t0.05\t12\t3400\t\tt\t99";
        let one = seen(said).expect("it has the columns");
        assert_eq!((one.name.as_str(), one.lag_seconds), ("one", Some(0.05)));
        assert!(!one.is_stuck());
        let two = seen("app\ttwo\tpaused\t\t0\t0\tduplicate key").expect("it has the columns");
        assert!(two.is_stuck());
        assert_eq!(line(&[one, two]), "one in_sync 0.1 s  two paused");
        assert_eq!(seen("app\tone"), None);
    }
}
