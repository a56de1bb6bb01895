//! `pgtandem demo`: the whole product on throw-away databases, with nothing left behind.
//!
//! A script of steps ([`perform`]) on parts that know nothing of each other's order: [`cluster`]
//! makes databases, [`proxy`] starts this program in front of them, [`load`] runs `pgbench`, and
//! [`follow`] tells the second half of the story: secondaries. Every process and file belongs to a
//! [`workspace`], which ends them all whatever happens.

mod cluster;
mod error;
mod follow;
mod interrupt;
mod load;
mod proxy;
mod screen;
mod table;
mod tools;
mod workspace;

use std::env;
use std::path::Path;

use clap::value_parser;

pub use self::error::{DemoError, Tail};

use self::cluster::Cluster;
use self::interrupt::Interrupt;
use self::load::{Bench, Measured, Route, WORKLOADS, Workload};
use self::proxy::Proxy;
use self::screen::{Progress, Screen};
use self::table::{Table, grouped};
use self::tools::Tools;
use self::workspace::Workspace;

/// Server connections beside those of the load: for the demo itself, and those PostgreSQL reserves.
const SPARE_CONNECTIONS: u32 = 20;

/// What the proxy of the first half is called.
const POOLER: &str = "pgtandem";

/// Options of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// How many seconds to measure each kind of load, directly and through the proxy.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// How many clients connect at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=1000))]
    pub clients: u32,
    /// How many server connections the proxy may open for them.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=1000))]
    pub pool_size: u32,
}

/// Shows the product on throw-away databases: measures `pgbench` directly and through the proxy, then
/// has two secondaries follow under load.
///
/// Prints to standard output. Needs PostgreSQL's programs, and a tokio runtime with all drivers.
/// When it returns, its processes are gone and its files are removed, whatever the result is;
/// signals that end a process end it early in the same way.
///
/// # Errors
/// See [`DemoError`]; its chain of sources has more to say. The step that failed, and the ends of
/// the servers' logs, are on standard output.
pub async fn run(args: Args) -> Result<(), DemoError> {
    let interrupt = Interrupt::listen()
        .map_err(|source| DemoError::System { action: "listen for signals", source })?;
    let program = env::current_exe()
        .map_err(|source| DemoError::System { action: "find this program", source })?;
    let tools = Tools::find().await?;
    let mut workspace = Workspace::create(interrupt)?;
    let mut screen = Screen::stdout();

    let performed = perform(args, &program, &tools, &mut workspace, &mut screen).await;
    let is_failure = performed.as_ref().is_err_and(|error| !error.is_interrupt());
    let explained = if is_failure { show_logs(&workspace, &mut screen) } else { Ok(()) };
    let path = workspace.path().display().to_string();
    let closed = workspace.close().await;
    let said = match &closed {
        Ok(()) => screen.say(&format!("\nStopped the servers and removed {path}.")),
        Err(error) if performed.is_err() => {
            // The rest of it are the logs again.
            let error = error.to_string();
            screen.say(&format!("\nThen, too: {}", error.lines().next().unwrap_or_default()))
        }
        Err(_) => Ok(()),
    };
    performed.and(closed).and(explained).and(said)
}

/// The demo, step by step.
async fn perform(
    args: Args,
    program: &Path,
    tools: &Tools,
    workspace: &mut Workspace,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    introduce(tools, workspace, screen)?;

    let connections = args.clients.saturating_add(args.pool_size).saturating_add(SPARE_CONNECTIONS);
    let cluster = screen
        .step("create and start a PostgreSQL", async |_| {
            Cluster::create(workspace, tools, "primary", connections).await
        })
        .await?;
    let role = screen
        .step("create role and database \"app\"", async |_| {
            cluster.create_role(workspace, "app").await
        })
        .await?;
    let Args { clients, seconds, .. } = args;
    let mut bench =
        Bench { tools, cluster: &cluster, role: &role, clients, seconds, connect_seconds: 0 };
    screen
        .step("fill it: pgbench -i, 1,000,000 rows", async |progress| {
            bench.fill(workspace, progress).await
        })
        .await?;
    let proxy = screen
        .step("start pgtandem in front of it", async |_| {
            let pool = format!("pool_size = {}\n", args.pool_size);
            Proxy::start(workspace, program, POOLER, &cluster, &role, &pool).await
        })
        .await?;
    explain_proxy(&proxy, &cluster, screen)?;

    let results = measure(&bench, &proxy, workspace, screen).await?;
    screen.say(&summary(args, &results))?;
    workspace.stop(POOLER).await?;
    follow::perform(&bench, program, workspace, screen).await
}

fn introduce(tools: &Tools, workspace: &Workspace, screen: &mut Screen) -> Result<(), DemoError> {
    let account = tools.account().map(|name| format!(" as user {name}")).unwrap_or_default();
    screen.say(&format!(
        "pgtandem demo: a pooler in front of PostgreSQL, measured with pgbench; then two\n\
         secondaries that follow it while it is written to.\n\
         PostgreSQL {} of {}{account}.\n\
         Everything happens in {}, which goes away at the end.\n\
         Ctrl-C ends it at any time.\n",
        tools.version(),
        tools.folder().display(),
        workspace.path().display(),
    ))
}

fn explain_proxy(
    proxy: &Proxy,
    cluster: &Cluster<'_>,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    let lines = indented(proxy.configuration());
    screen.say(&format!(
        "\nThis is its whole proxy.toml. It holds no password, only the SCRAM secret from\n\
         pg_authid; what a client proves with its password opens the server, too.\n\n\
         {lines}\n\
         The same pgbench, directly on port {} and through pgtandem on port {}:\n",
        cluster.port(),
        proxy.port(),
    ))
}

/// Text that stands apart.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n").replace("    \n", "\n")).collect()
}

/// One line of the results.
struct Comparison {
    workload: &'static Workload,
    direct: Measured,
    proxy: Measured,
}

async fn measure(
    bench: &Bench<'_>,
    proxy: &Proxy,
    workspace: &Workspace,
    screen: &mut Screen,
) -> Result<Vec<Comparison>, DemoError> {
    let mut results = Vec::with_capacity(WORKLOADS.len());
    for workload in &WORKLOADS {
        let name = format!("{}, directly", workload.name);
        let run = async |progress: &Progress| {
            bench.measure(workspace, workload, Route::Direct, progress).await
        };
        let direct = screen.step(&name, run).await?;

        let name = format!("{}, through pgtandem", workload.name);
        let route = Route::Proxy { port: proxy.port() };
        let run =
            async |progress: &Progress| bench.measure(workspace, workload, route, progress).await;
        let proxy = screen.step(&name, run).await?;
        results.push(Comparison { workload, direct, proxy });
    }
    Ok(results)
}

/// The table of the results, and what it says.
fn summary(args: Args, results: &[Comparison]) -> String {
    let mut table = Table::new(&[
        ["", "tps", "tps", "ms", "ms", "failed", "conns", "conns"],
        ["load", "direct", "proxy", "direct", "proxy", "", "direct", "proxy"],
    ]);
    for Comparison { workload, direct, proxy } in results {
        table.row([
            workload.name.to_owned(),
            grouped(direct.tps),
            grouped(proxy.tps),
            format!("{:.3}", direct.latency_ms),
            format!("{:.3}", proxy.latency_ms),
            direct.failed.saturating_add(proxy.failed).to_string(),
            direct.connections.to_string(),
            proxy.connections.to_string(),
        ]);
    }
    format!(
        "\n{}\n\n\
         {} clients for {} s each. ms: average latency of a transaction. conns: connections\n\
         that the server counted halfway through; directly each client needs its own,\n\
         through pgtandem at most {} serve them all. pgbench, pgtandem and PostgreSQL share\n\
         the cores of this machine: what one of them uses, the others lack.",
        table.render(),
        args.clients,
        args.seconds,
        args.pool_size,
    )
}

/// Shows what the servers said last: a failure's cause may be on the other end of the line.
fn show_logs(workspace: &Workspace, screen: &mut Screen) -> Result<(), DemoError> {
    for (name, tail) in workspace.logs() {
        screen.say(&format!("\nThe end of the log of {name}:{tail}"))?;
    }
    Ok(())
}
