//! Signals of the operating system as values; what they mean is decided by who reads them.

use std::future::pending;
use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// A signal that we know what to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: stop when the clients have left.
    Terminate,
    /// SIGINT, as a rule Ctrl-C: stop when the transactions are over.
    Interrupt,
    /// SIGQUIT: stop at once.
    Quit,
    /// SIGHUP: read the configuration again.
    Hangup,
    /// SIGUSR1: pause everything.
    Pause,
    /// SIGUSR2: go on.
    Resume,
}

/// The signals sent to this process, one at a time.
///
/// While it lives, none of them ends the process by itself; tokio never gives a signal back to the
/// system, so that holds after it was dropped too.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    pause: unix::Signal,
    resume: unix::Signal,
}

impl Signals {
    /// Begins to listen; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system refused to install a signal handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            pause: signal(SignalKind::user_defined1())?,
            resume: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal; the same signal sent several times meanwhile may count once.
    ///
    /// The more urgent signal comes first. Cancel safe: a signal is taken only by the call that
    /// returns it.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            Some(()) = self.quit.recv() => Signal::Quit,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.hangup.recv() => Signal::Hangup,
            Some(()) = self.pause.recv() => Signal::Pause,
            Some(()) = self.resume.recv() => Signal::Resume,
            // `recv` returns `None` only when the runtime is shutting down.
            else => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal as Raw, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn signals_come_as_values() {
        let mut signals = Signals::new().unwrap();
        let send = |raw| kill_process(getpid(), raw).unwrap();
        for (raw, signal) in [
            (Raw::HUP, Signal::Hangup),
            (Raw::TERM, Signal::Terminate),
            (Raw::INT, Signal::Interrupt),
            (Raw::QUIT, Signal::Quit),
            (Raw::USR1, Signal::Pause),
            (Raw::USR2, Signal::Resume),
        ] {
            send(raw);
            assert_eq!(timeout(Duration::from_secs(10), signals.next()).await, Ok(signal));
        }
        let nothing = timeout(Duration::from_millis(1), signals.next()).await;
        assert!(nothing.is_err(), "a cancelled wait takes nothing");
        send(Raw::HUP);
        let next = timeout(Duration::from_secs(10), signals.next()).await;
        assert_eq!(next, Ok(Signal::Hangup));
    }
}
