//! What can go wrong in the demo, in words for the person who runs it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::signals::Signal;

/// How many lines of a command's output an error shows.
const TAIL_LINES: usize = 12;

/// The demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// PostgreSQL's programs were not found.
    #[error("{}", NotInstalled(looked_in))]
    NoPostgres {
        /// The folders that were looked into.
        looked_in: Vec<PathBuf>,
    },
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {status}{output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: Tail,
    },
    /// A server ended before it was asked to.
    #[error("`{command}` ended by itself: {status}{output}")]
    Ended {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: Tail,
    },
    /// A server did not come up.
    #[error("`{command}` does not accept connections after {} s{output}", waited.as_secs())]
    NotReady {
        /// The command line.
        command: String,
        /// How long it had.
        waited: Duration,
        /// The end of what it said.
        output: Tail,
    },
    /// A server did not stop when asked, and was killed.
    #[error("`{command}` did not stop within {} s and was killed{output}", waited.as_secs())]
    NotStopped {
        /// The command line.
        command: String,
        /// How long it had.
        waited: Duration,
        /// The end of what it said.
        output: Tail,
    },
    /// A program's output does not say what it should.
    #[error("`{command}` does not say its {what}{output}")]
    Unreadable {
        /// The command line.
        command: String,
        /// What was looked for.
        what: &'static str,
        /// The end of what it said.
        output: Tail,
    },
    /// A secondary does not do what it should.
    #[error("secondary {name:?} is {state}{}", because(why))]
    Secondary {
        /// Its name.
        name: String,
        /// Its state.
        state: String,
        /// Why, if anything was said.
        why: String,
    },
    /// A secondary does not come to where it should be.
    #[error("the secondaries are not in sync after {} s: {last}", waited.as_secs())]
    NotInSync {
        /// How long they had.
        waited: Duration,
        /// How they were last.
        last: String,
    },
    /// The demo's own files gave trouble.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system refused something that does not concern a file or a program.
    #[error("cannot {action}")]
    System {
        /// What was tried: a verb and its object.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody stopped the demo.
    #[error("stopped by {}", signal_name(*signal))]
    Interrupted {
        /// With which signal.
        signal: Signal,
    },
}

impl DemoError {
    /// Tells the exit code to leave with: as a shell would report it after a signal, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted { signal: Signal::Hangup } => 129,
            Self::Interrupted { signal: Signal::Interrupt } => 130,
            Self::Interrupted { signal: Signal::Quit } => 131,
            Self::Interrupted { signal: Signal::Pause } => 138,
            Self::Interrupted { signal: Signal::Resume } => 140,
            Self::Interrupted { signal: Signal::Terminate } => 143,
            Self::NoPostgres { .. }
            | Self::Start { .. }
            | Self::Failed { .. }
            | Self::Ended { .. }
            | Self::NotReady { .. }
            | Self::NotStopped { .. }
            | Self::Unreadable { .. }
            | Self::Secondary { .. }
            | Self::NotInSync { .. }
            | Self::File { .. }
            | Self::System { .. } => 1,
        }
    }

    /// Tells whether somebody wanted it so.
    pub(super) fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Terminate => "SIGTERM",
        Signal::Interrupt => "Ctrl-C (SIGINT)",
        Signal::Quit => "SIGQUIT",
        Signal::Hangup => "SIGHUP",
        Signal::Pause => "SIGUSR1",
        Signal::Resume => "SIGUSR2",
    }
}

/// The last lines of what a program said.
///
/// Displays as indented lines, each on a new line, so that it can follow a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail(Vec<String>);

impl Tail {
    pub(super) fn of(text: &str) -> Self {
        let lines: Vec<_> =
            text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let skipped = lines.len().saturating_sub(TAIL_LINES);
        Self(lines.into_iter().skip(skipped).map(str::to_owned).collect())
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// Says what to install.
struct NotInstalled<'a>(&'a [PathBuf]);

impl fmt::Display for NotInstalled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "PostgreSQL is not installed: no folder holds all of initdb, postgres, psql and pgbench.\n\
             Install it, as root, and run this again:\n    \
             Debian, Ubuntu:  apt-get install postgresql\n    \
             Fedora, RHEL:    dnf install postgresql-server postgresql-contrib\n    \
             Alpine:          apk add postgresql postgresql-contrib\n    \
             Arch:            pacman -S postgresql\n\
             (`make demo` as root does it for you on Debian and Ubuntu.) Looked in:",
        )?;
        self.0.iter().try_for_each(|folder| write!(f, "\n    {}", folder.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_short_and_indented() {
        assert_eq!(Tail::of("").to_string(), "");
        assert_eq!(Tail::of("one\n\ntwo  \n").to_string(), "\n    one\n    two");
        let long: Vec<_> = (0..100).map(|line| line.to_string()).collect();
        let shown = Tail::of(&long.join("\n")).to_string();
        assert_eq!(shown.lines().count(), TAIL_LINES + 1);
        assert!(shown.ends_with("    99"));
    }

    #[test]
    fn a_missing_postgresql_says_what_to_install() {
        let error = DemoError::NoPostgres { looked_in: vec![PathBuf::from("/usr/bin")] };
        let said = error.to_string();
        assert!(said.contains("    Debian, Ubuntu:  apt-get install postgresql\n"), "{said}");
        assert!(said.ends_with("Looked in:\n    /usr/bin"), "{said}");
    }
}
