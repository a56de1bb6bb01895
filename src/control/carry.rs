//! Opens backends and carries cancel requests for the workers.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Control;
use crate::auth::Learned;
use crate::backend::connect::{ConnectError, Opened};
use crate::backend::{cancel, connect};
use crate::config::PoolSettings;
use crate::log::{Kind, Plain, admit};
use crate::net::Peer;
use crate::pool::ledger::Permit;
use crate::pool::spec::Spec;
use crate::worker::{ToControl, ToWorker};

/// Does what workers ask for, each in a task of its own.
///
/// LIMIT: each backend under way holds a place in its pool, each cancel request a session or a
/// backend, so the tasks are bounded by those.
pub async fn carry(control: Arc<Control>, mut from_workers: mpsc::Receiver<ToControl>) {
    while let Some(message) = from_workers.recv().await {
        let control = Arc::clone(&control);
        tokio::spawn(async move { carry_out(&control, message).await });
    }
}

async fn carry_out(control: &Control, message: ToControl) {
    match message {
        ToControl::Open { spec, permit, worker } => {
            let Some(worker) = control.workers.get(worker) else { return };
            // An ended worker drops the connection and its place.
            let _ = worker.send(open(control, spec, permit).await).await;
        }
        ToControl::Cancel { settings, key, tell, done: told } => {
            let limit = control.config().general.cancel_wait_timeout;
            let connector = control.connectors.of(&settings.host, &settings.tls);
            let done = match connector.map_err(io::Error::other) {
                Ok(connector) => {
                    let (host, port) = (&settings.host, settings.port);
                    cancel::cancel(host, port, &key, connector.as_ref(), limit).await
                }
                Err(error) => Err(error),
            };
            let is_certain = done.is_ok();
            if let Err(error) = done
                && admit(Kind::Cancel)
            {
                tracing::warn!(%error, "cannot cancel a query");
            }
            // The server has been told: now the client may go on.
            drop(told);
            if let Some(tell) = tell
                && let Some(worker) = control.workers.get(tell.worker)
            {
                let (backend, serial) = (tell.backend, tell.serial);
                let done = ToWorker::CancelDone { backend, serial, is_certain };
                let _ = worker.send(done).await;
            }
        }
    }
}

/// Opens a backend, in a place of its pool.
///
/// A connection that becomes useless while it is opened is given up: PAUSE and WAIT_CLOSE need not
/// wait for a server that does not answer.
async fn open(control: &Control, spec: Arc<Spec>, mut permit: Permit) -> ToWorker {
    let since = Instant::now();
    let (generation, settings, learned, opened) = loop {
        let changed = spec.changed();
        if spec.is_paused() || spec.is_removed() {
            return ToWorker::OpenAbandoned { spec: Arc::clone(&spec) };
        }
        let generation = spec.generation();
        permit.begin(generation);
        let (settings, credentials) = (spec.settings(), spec.credentials());
        let opening = async {
            let connector = control.connectors.of(&settings.host, &settings.tls)?;
            connect::open(&settings, &credentials, connector.as_ref()).await
        };
        tokio::select! {
            opened = opening => break (generation, settings, credentials.learned, opened),
            () = changed => {}
        }
    };
    match opened {
        Ok(opened) => {
            if control.config().general.log_connections {
                log_opened(&spec, &settings, &opened);
            }
            ToWorker::Opened {
                spec: Arc::clone(&spec),
                generation,
                settings,
                opened: Box::new(opened),
                permit,
            }
        }
        Err(error) => {
            log_failed(&spec, &settings, &error, since.elapsed());
            if let Some(learned) = learned.filter(|_| error.is_wrong_password()) {
                control.unlearn(&spec, &learned);
            }
            let is_starting = error.is_retryable();
            ToWorker::OpenFailed { spec: Arc::clone(&spec), fault: error.fault(), is_starting }
        }
    }
}

impl Control {
    /// Forgets what the server does not take any more: the password has been changed there. The next
    /// login teaches us the new one, if what we know of the user is not the old one too.
    fn unlearn(&self, spec: &Spec, learned: &Learned) {
        if spec.unlearn(learned)
            && let Some(lookup) = self.config().auth_lookup(&spec.database)
        {
            self.lookups.forget(&lookup, &spec.user);
        }
    }
}

fn log_opened(spec: &Spec, settings: &PoolSettings, opened: &Opened) {
    let from = match opened.raw.socket.local() {
        Some(local @ Peer::Tcp(_)) => format!(" (from {local})"),
        Some(Peer::Unix) | None => String::new(),
    };
    tracing::info!(
        database = spec.database,
        user = spec.user,
        server = settings.server(),
        backend_pid = opened.cancel_key.pid,
        tls = opened.raw.tls.as_ref().map(|tls| tls.describe()),
        "new connection to server{from}"
    );
}

fn log_failed(spec: &Spec, settings: &PoolSettings, error: &ConnectError, age: Duration) {
    if !admit(Kind::ServerFailed) {
        return;
    }
    let age = age.as_secs();
    let reason = if let ConnectError::Refused { message, .. } = error {
        format!("server login failed: FATAL {}", Plain(message))
    } else if let ConnectError::TimedOut { .. } = error {
        format!("closing because: connect timeout (age={age}s)")
    } else {
        format!("closing because: connect failed (age={age}s)")
    };
    tracing::warn!(
        database = spec.database,
        user = spec.user,
        server = settings.server(),
        sqlstate = %error.fault().sqlstate,
        %error,
        source = std::error::Error::source(error).map(tracing::field::display),
        "{reason}"
    );
}
