//! The parts put together: control plane, workers, signals, and the order of the end.
//!
//! The control plane is this module's tasks: one accepts clients and leads them through their login,
//! one opens backends and carries cancel requests for the workers, one listens to signals. All state
//! of sessions and backends is the workers'.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::{Config, ConfigError};
use crate::control::{Control, carry};
use crate::net::listen::{ListenError, Listeners};
use crate::net::{Peer, Stream};
use crate::session::login::{Accepted, Authenticated, accept};
use crate::signals::{Signal, Signals};
use crate::status;
use crate::worker::{self, MESSAGES_MAX, ToWorker};

/// Most clients that are in their login at a time. LIMIT: the others stay in the system's queue.
const LOGINS_MAX: usize = 4096;

/// Between two looks at whether all workers still run.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at whether the workers have ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong or cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address for metrics cannot be listened on.
    #[error(transparent)]
    Status(#[from] status::ListenError),
    /// The system refuses something that we cannot do without.
    #[error("cannot {what}")]
    System {
        /// What we tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Runs the proxy until a signal ends it.
///
/// # Errors
/// See [`StartError`]; once it serves, nothing but a signal ends it.
pub fn run(config_path: &Path, config: Config) -> Result<ExitCode, StartError> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(system("start the control plane"))?;
    let exit = runtime.block_on(serve(config_path, config));
    // Logins and connects under way are not waited for.
    runtime.shutdown_background();
    exit
}

async fn serve(config_path: &Path, config: Config) -> Result<ExitCode, StartError> {
    let signals = Signals::new().map_err(system("listen to signals"))?;
    let listeners = Listeners::bind(&config.general)?;
    let count = worker_count(config.general.workers);
    let (starts, workers) = worker::prepare(count).map_err(system("make an event loop"))?;
    let (to_control, from_workers) = mpsc::channel(MESSAGES_MAX);
    let epoch = Instant::now();
    let general = Arc::new(config.general.clone());
    let mut threads = Vec::new();
    for start in starts {
        let (handles, to_control) = (workers.clone(), to_control.clone());
        let thread = worker::spawn(start, handles, to_control, Arc::clone(&general), epoch)
            .map_err(system("start a worker"))?;
        threads.push(thread);
    }
    drop(to_control);
    let control = Arc::new(Control::new(config_path, config, workers));
    tokio::spawn(carry(Arc::clone(&control), from_workers));
    status::start(Arc::clone(&control)).await?;
    tracing::info!(workers = count, version = env!("CARGO_PKG_VERSION"), "ready");
    Ok(run_until_signal(&control, listeners, signals, threads).await)
}

/// How many workers there are: as configured, or one per core but one.
fn worker_count(configured: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // LIMIT: the number of a worker has seven bits in a cancel key.
    (if configured == 0 { cores - 1 } else { configured }).clamp(1, 127)
}

/// Accepts clients until a signal says to stop, then waits for the workers to finish.
async fn run_until_signal(
    control: &Arc<Control>,
    mut listeners: Listeners,
    mut signals: Signals,
    threads: Vec<JoinHandle<()>>,
) -> ExitCode {
    let logins = Arc::new(Semaphore::new(LOGINS_MAX));
    let mut health = tokio::time::interval(HEALTH_INTERVAL);
    loop {
        tokio::select! {
            // Cancel safe: a connection or a signal is taken only by the call that returns it.
            signal = signals.next() => match signal {
                Signal::Hangup => match control.reload().await {
                    Ok(_) => tracing::info!("configuration reloaded"),
                    Err(error) => tracing::error!(%error, "configuration not reloaded"),
                },
                Signal::Quit => return ExitCode::SUCCESS,
                Signal::Terminate | Signal::Interrupt => break,
            },
            _ = health.tick() => if threads.iter().any(JoinHandle::is_finished) {
                // Its clients are lost; a service manager starts us again for the others.
                tracing::error!("a worker has ended: giving up");
                return ExitCode::FAILURE;
            },
            (permit, (stream, peer)) = next_client(&logins, &mut listeners) => {
                let control = Arc::clone(control);
                tokio::spawn(async move {
                    lead_in(&control, stream, peer).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listeners);
    drain(control, &mut signals, &threads).await
}

/// Waits for a place among the logins, then for the next client.
///
/// Cancel safe: a place is given back, and a connection is taken only by the call that returns it.
async fn next_client(
    logins: &Arc<Semaphore>,
    listeners: &mut Listeners,
) -> (Option<OwnedSemaphorePermit>, (Stream, Peer)) {
    // The semaphore is never closed, so there always is a permit.
    let permit = Arc::clone(logins).acquire_owned().await.ok();
    (permit, listeners.accept().await)
}

/// Lets clients finish; a second signal, or `shutdown_timeout`, ends that.
async fn drain(control: &Control, signals: &mut Signals, threads: &[JoinHandle<()>]) -> ExitCode {
    tracing::info!("shutting down: clients may finish their transactions");
    for worker in &control.workers {
        // One that has ended has nobody to drain.
        let _ = worker.send(ToWorker::Drain).await;
    }
    let limit = control.config().general.shutdown_timeout;
    let started = Instant::now();
    while !threads.iter().all(JoinHandle::is_finished) {
        let late = limit.is_some_and(|limit| started.elapsed() >= limit);
        if late {
            tracing::warn!("shutdown_timeout is over: closing what is left");
            return ExitCode::FAILURE;
        }
        tokio::select! {
            signal = signals.next() => if signal != Signal::Hangup {
                tracing::warn!("second signal: closing what is left");
                return ExitCode::FAILURE;
            },
            () = tokio::time::sleep(DRAIN_POLL) => {}
        }
    }
    tracing::info!("shut down");
    ExitCode::SUCCESS
}

/// Leads one new connection through its login, and hands it to the least loaded worker.
async fn lead_in(control: &Control, stream: Stream, peer: Peer) {
    let config = control.config();
    let accepted = accept(stream, peer, &config, &control.process_secret, &control.admission).await;
    match accepted {
        Accepted::Gone => {}
        Accepted::Cancel { pid, secret, stream } => {
            control.cancel_for_client(pid, &secret, stream).await;
        }
        Accepted::Login(client) => hand_over(control, &config, client).await,
    }
}

async fn hand_over(control: &Control, config: &Config, mut client: Box<Authenticated>) {
    let pool = control.registry.pool(config, &client.database, &client.user);
    let Some(spec) = pool else {
        // The login has checked it; only a reload in this moment can have taken it away.
        tracing::warn!(database = client.database, "database is gone since the login");
        return;
    };
    if let Some(learned) = client.learned.take() {
        spec.learn(learned);
    }
    let Some(worker) = control.workers.iter().min_by_key(|worker| worker.clients()) else {
        return;
    };
    if worker.send(ToWorker::Client { spec, client }).await.is_err() {
        tracing::debug!("client came too late: shutting down");
    }
}

/// Allows as many descriptors as the system lets us have: each client and each backend is one.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
