//! Forgets pools that nobody uses any more, and closes connections of `auth_query`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Control;
use crate::pool::spec::PoolNumber;
use crate::worker::ToWorker;

/// Between two looks at the pools: a tenth of the time-out, within these.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Looks after the registry for as long as the process lives.
pub async fn janitor(control: Arc<Control>) {
    let (shortest, longest) = INTERVALS;
    loop {
        let timeout = control.config().general.autodb_idle_timeout;
        let interval = timeout.map_or(longest, |timeout| timeout / 10).clamp(shortest, longest);
        sleep(interval).await;
        control.sweep(timeout).await;
        control.lookups.sweep(Instant::now()).await;
    }
}

impl Control {
    /// Forgets pools that nobody has used for `timeout`, and those of removed databases.
    async fn sweep(&self, timeout: Option<Duration>) {
        let unused: Arc<[PoolNumber]> = self.registry.unused(timeout, Instant::now()).into();
        if unused.is_empty() {
            return;
        }
        self.tell_all(|done| ToWorker::Forget { pools: Arc::clone(&unused), done }).await;
        let forgotten = self.registry.sweep(&self.config(), timeout, Instant::now());
        if forgotten > 0 {
            tracing::info!(pools = forgotten, "unused pools dropped");
        }
    }
}
