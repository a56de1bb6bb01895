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

use crate::admin::Admin;
use crate::config::{Config, ConfigError, Source};
use crate::control::{Changes, Control, Mode, Parts, PoolEffect, carry, janitor, watch_servers};
use crate::fault::{Fault, SqlState};
use crate::net::listen::{ListenError, Listeners};
use crate::net::tls::{Acceptor, Connectors, SetupError};
use crate::net::{Peer, Stream};
use crate::session::login::{Accepted, Authenticated, Reception, accept};
use crate::signals::{Signal, Signals};
use crate::status;
use crate::worker::{self, MESSAGES_MAX, ToWorker};

/// Most clients that are in their login at a time. LIMIT: the others stay in the system's queue.
const LOGINS_MAX: usize = 4096;

/// Between two looks at whether all workers still run.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at whether the end has come, once it was asked for.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong or cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What is in a file with keys or certificates is wrong.
    #[error(transparent)]
    Tls(#[from] SetupError),
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
pub fn run(config_path: &Path, source: Source, config: Config) -> Result<ExitCode, StartError> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(system("start the control plane"))?;
    let exit = runtime.block_on(async {
        let signals = Signals::new().map_err(system("listen to signals"))?;
        let app = App::start(config_path, source, config)?;
        Ok(app.until_the_end(Some(signals)).await)
    });
    // Logins and connects under way are not waited for.
    runtime.shutdown_background();
    exit
}

/// The running proxy, from its first client to its end.
#[derive(Debug)]
pub struct App {
    control: Arc<Control>,
    admin: Arc<Admin>,
    threads: Vec<JoinHandle<()>>,
}

impl App {
    /// Binds the addresses and starts the workers; must be called inside a tokio runtime. Clients
    /// are let in by [`until_the_end`](Self::until_the_end).
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config_path: &Path, source: Source, config: Config) -> Result<Self, StartError> {
        let acceptor = Acceptor::new(&config.general)?;
        let connectors = Connectors::new(&config)?;
        let listeners = Listeners::bind(&config.general)?;
        let count = worker_count(config.general.workers);
        let (starts, workers) = worker::prepare(count).map_err(system("make an event loop"))?;
        let (to_control, from_workers) = mpsc::channel(MESSAGES_MAX);
        let epoch = Instant::now();
        let general = Arc::new(config.general.clone());
        let suspension = Arc::default();
        let mut threads = Vec::new();
        for start in starts {
            let with = worker::Surroundings {
                workers: workers.clone(),
                control: to_control.clone(),
                general: Arc::clone(&general),
                suspension: Arc::clone(&suspension),
                epoch,
            };
            threads.push(worker::spawn(start, with).map_err(system("start a worker"))?);
        }
        drop(to_control);
        let config_path = config_path.to_owned();
        let parts = Parts {
            config_path,
            source,
            config,
            workers,
            listeners,
            acceptor,
            connectors,
            suspension,
        };
        let control = Arc::new(Control::new(parts));
        tokio::spawn(carry(Arc::clone(&control), from_workers));
        tokio::spawn(janitor(Arc::clone(&control)));
        tokio::spawn(watch_servers(Arc::clone(&control)));
        status::start(Arc::clone(&control))?;
        let admin = Admin::new(Arc::clone(&control));
        tokio::spawn(Arc::clone(&admin).take_samples());
        tracing::info!(workers = count, version = env!("CARGO_PKG_VERSION"), "ready");
        Ok(Self { control, admin, threads })
    }

    /// Returns what operators do to it.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Accepts clients until somebody asks for the end, by a signal or by
    /// [`Control::shutdown`], and then until that has come.
    pub async fn until_the_end(self, signals: Option<Signals>) -> ExitCode {
        let exit = self.serve(signals).await;
        // Tasks may outlive us; the file of the Unix socket must not.
        self.control.listeners.close();
        exit
    }

    async fn serve(&self, mut signals: Option<Signals>) -> ExitCode {
        let mut ending = self.control.ending();
        let logins = Arc::new(Semaphore::new(LOGINS_MAX));
        let mut ends: Option<End> = None;
        loop {
            let asked = *ending.borrow_and_update();
            if let Some(mode) = asked {
                let end = ends.get_or_insert_with(End::begin);
                if let Some(exit) = self.go_on_ending(end, mode).await {
                    return exit;
                }
            } else if self.threads.iter().any(JoinHandle::is_finished) {
                // Its clients are lost; a service manager starts us again for the others.
                tracing::error!("a worker has ended: giving up");
                return ExitCode::FAILURE;
            }
            let patience = if ends.is_some() { END_INTERVAL } else { HEALTH_INTERVAL };
            tokio::select! {
                // Cancel safe: a connection or a signal is taken only by the call that returns it.
                signal = next_signal(&mut signals) => if let Some(exit) = self.on_signal(signal) {
                    return exit;
                },
                // Its sender lives in `control`.
                _ = ending.changed() => {}
                () = tokio::time::sleep(patience) => {}
                (permit, (stream, peer)) = next_client(&logins, &self.control.listeners) => {
                    let (control, admin) = (Arc::clone(&self.control), Arc::clone(&self.admin));
                    tokio::spawn(async move {
                        lead_in(&control, &admin, stream, peer).await;
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Does what a signal asks for, as PgBouncer does; says how to end if that is now.
    fn on_signal(&self, signal: Signal) -> Option<ExitCode> {
        let control = Arc::clone(&self.control);
        match signal {
            Signal::Quit => return Some(ExitCode::SUCCESS),
            Signal::Terminate | Signal::Interrupt if control.shutting_down().is_some() => {
                tracing::warn!("second signal: closing what is left");
                return Some(ExitCode::FAILURE);
            }
            // Neither can fail: nobody has asked for the end yet.
            Signal::Terminate => drop(control.shutdown(Mode::WaitForClients)),
            Signal::Interrupt => drop(control.shutdown(Mode::WaitForServers)),
            Signal::Hangup => drop(tokio::spawn(async move {
                match control.reload().await {
                    Ok(changes) => log_changes(&changes),
                    Err(error) => tracing::error!(%error, "configuration not reloaded"),
                }
            })),
            Signal::Pause => drop(tokio::spawn(async move {
                match control.pause(None).await {
                    Ok(()) => tracing::info!("paused"),
                    Err(error) => tracing::warn!(%error, "not paused"),
                }
            })),
            Signal::Resume => drop(tokio::spawn(async move {
                match control.resume(None).await {
                    Ok(()) => tracing::info!("resumed"),
                    Err(error) => tracing::warn!(%error, "not resumed"),
                }
            })),
        }
        None
    }

    /// Takes the next step towards the end; says how to end if that is now.
    async fn go_on_ending(&self, end: &mut End, mode: Mode) -> Option<ExitCode> {
        let control = &self.control;
        let are_clients_gone = control.admission.clients() == 0;
        match mode {
            Mode::Immediate => return Some(ExitCode::SUCCESS),
            Mode::WaitForClients if !are_clients_gone => {
                end.announce(mode, "shutting down when the clients have left");
                if self.threads.iter().any(JoinHandle::is_finished) {
                    tracing::error!("a worker has ended: giving up");
                    return Some(ExitCode::FAILURE);
                }
            }
            Mode::WaitForClients | Mode::WaitForServers => {
                if end.announce(
                    Mode::WaitForServers,
                    "shutting down: clients may finish their transactions",
                ) {
                    for worker in &control.workers {
                        // One that has ended has nobody to drain.
                        let _ = worker.send(ToWorker::Drain).await;
                    }
                }
                if self.threads.iter().all(JoinHandle::is_finished) {
                    tracing::info!("shut down");
                    return Some(ExitCode::SUCCESS);
                }
            }
        }
        let limit = control.config().general.shutdown_timeout;
        if limit.is_some_and(|limit| end.since.elapsed() >= limit) {
            tracing::warn!("shutdown_timeout is over: closing what is left");
            return Some(ExitCode::FAILURE);
        }
        None
    }
}

/// Waits for the next signal; for ever if nobody listens to signals.
async fn next_signal(signals: &mut Option<Signals>) -> Signal {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// How many workers there are: as configured, or one per core but one.
fn worker_count(configured: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // LIMIT: the number of a worker has seven bits in a cancel key.
    (if configured == 0 { cores - 1 } else { configured }).clamp(1, 127)
}

/// The end, once it has begun.
struct End {
    since: Instant,
    /// What was said and done last.
    announced: Option<Mode>,
}

impl End {
    fn begin() -> Self {
        Self { since: Instant::now(), announced: None }
    }

    /// Says what is waited for, once; says whether it was new.
    fn announce(&mut self, mode: Mode, text: &'static str) -> bool {
        let is_new = self.announced != Some(mode);
        if is_new {
            tracing::info!("{text}");
            self.announced = Some(mode);
        }
        is_new
    }
}

fn log_changes(changes: &Changes) {
    let recycled = changes.pools.iter().filter(|pool| pool.effect == PoolEffect::Recycled);
    tracing::info!(
        general = ?changes.general,
        databases = ?changes.databases,
        users = ?changes.users,
        changed_pools = changes.pools.len(),
        recycled_pools = recycled.count(),
        "configuration reloaded"
    );
    if !changes.restart.is_empty() {
        tracing::warn!(keys = ?changes.restart, "these keys come into force at the next start");
    }
}

/// Waits for a place among the logins, then for the next client.
///
/// Cancel safe: a place is given back, and a connection is taken only by the call that returns it.
async fn next_client(
    logins: &Arc<Semaphore>,
    listeners: &Listeners,
) -> (Option<OwnedSemaphorePermit>, (Stream, Peer)) {
    // The semaphore is never closed, so there always is a permit.
    let permit = Arc::clone(logins).acquire_owned().await.ok();
    (permit, listeners.accept().await)
}

/// Leads one new connection through its login, and hands it to the least loaded worker, or to the
/// admin console.
async fn lead_in(control: &Arc<Control>, admin: &Arc<Admin>, stream: Stream, peer: Peer) {
    let config = control.config();
    let acceptor = control.acceptor.load_full();
    let reception = Reception {
        config: &config,
        acceptor: &acceptor,
        connectors: &control.connectors,
        lookups: &control.lookups,
        admission: &control.admission,
        process_secret: &control.process_secret,
    };
    match accept(stream, peer, reception).await {
        Accepted::Gone => {}
        Accepted::Cancel { pid, secret, stream } => {
            if !admin.cancel(pid, &secret) {
                control.cancel_for_client(pid, &secret, stream).await;
            }
        }
        Accepted::Console(visitor) => {
            // LIMIT: the console has a bounded number of seats.
            tokio::spawn(Arc::clone(admin).serve(visitor));
        }
        Accepted::Login(client) => hand_over(control, client).await,
    }
}

async fn hand_over(control: &Arc<Control>, mut client: Box<Authenticated>) {
    control.secondaries.first_look(&client.database).await;
    if let Some(fault) = control.refusal(&client.database) {
        client.turn_away(&fault).await;
        return;
    }
    let Some(spec) = control.pool(&client.database, &client.user) else {
        // The login has checked it; a reload has taken it away in the meantime.
        let text = format!("database \"{}\" does not exist", client.database);
        client.turn_away(&Fault::fatal(SqlState::UNKNOWN_DATABASE, text)).await;
        return;
    };
    if let Some(learned) = client.learned.take() {
        spec.learn(learned);
    }
    if client.replication.is_some() {
        let control = Arc::clone(control);
        // LIMIT: each is a client, and bounded with them.
        tokio::spawn(async move { control.replicate(client, spec).await });
        return;
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
