//! Carries out what the workers ask for: backends are opened, queries cancelled.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Control;
use super::open::open;
use crate::backend::cancel;
use crate::backend::connect::{CancelKey, Site};
use crate::config::PoolSettings;
use crate::log::{Kind, admit};
use crate::pool::roster::Origin;
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
        ToControl::Promoted { spec, origin } => control.promoted(&spec, &origin),
        ToControl::Cancel { origin, settings, key, tell, done: told } => {
            let done = cancel_at(control, &origin, &settings, &key).await;
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

/// Asks the very server that a backend is at, wherever its name leads now.
pub(super) async fn cancel_at(
    control: &Control,
    origin: &Origin,
    settings: &PoolSettings,
    key: &CancelKey,
) -> io::Result<()> {
    let connector = control.connectors.of(&origin.server.host, &settings.tls);
    let connector = connector.map_err(io::Error::other)?;
    let site = Site {
        server: &origin.server,
        places: std::slice::from_ref(&origin.place),
        connector: connector.as_ref(),
        limit: control.config().general.cancel_wait_timeout,
    };
    cancel::cancel(site, key).await
}
