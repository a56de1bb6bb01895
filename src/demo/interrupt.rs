//! The wish to stop early: any signal that would end the process, seen by whoever waits.

use std::io;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::signals::{Signal, Signals};

/// Turns the first signal into a value that every wait of the demo also waits for.
///
/// So an interrupted step fails like any other, and there is one way out for all of them.
#[derive(Debug)]
pub(super) struct Interrupt {
    received: watch::Receiver<Option<Signal>>,
    _listener: AbortOnDropHandle<()>,
}

impl Interrupt {
    /// Begins to listen; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system refused to install a signal handler.
    pub(super) fn listen() -> io::Result<Self> {
        let mut signals = Signals::new()?;
        let (sender, received) = watch::channel(None);
        let listener = tokio::spawn(async move {
            let signal = signals.next().await;
            sender.send_replace(Some(signal));
            // Later signals change nothing: all that remains is to clean up, which has deadlines.
            sender.closed().await;
        });
        Ok(Self { received, _listener: AbortOnDropHandle::new(listener) })
    }

    /// Waits until the process was asked to stop, and says how; at once if it was already.
    ///
    /// Cancel safe: nothing is taken.
    pub(super) async fn wait(&self) -> Signal {
        let mut received = self.received.clone();
        // The sender goes away only with the runtime; then it is high time to stop, too.
        match received.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or(Signal::Terminate),
            Err(_) => Signal::Terminate,
        }
    }
    /// An interrupt that never comes.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        let (sender, received) = watch::channel(None);
        let listener = tokio::spawn(async move { sender.closed().await });
        Self { received, _listener: AbortOnDropHandle::new(listener) }
    }
}
