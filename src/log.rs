//! The log: one line per event on standard error, set up once.
//!
//! Field names are agreed for the whole crate: `client`, `database`, `user`, `backend_pid`,
//! `sqlstate`, `error`, `wait_us`. Messages are constant lower-case phrases; values are fields.

use std::env::{self, VarError};
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Environment variable that overrides the configured level, in the same syntax.
pub const VARIABLE: &str = "PGTANDEM_LOG";

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a list of directives.
    #[error("{origin} is not a log level: {directives:?}")]
    Directives {
        /// Where the text came from.
        origin: &'static str,
        /// The text.
        directives: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The environment variable is not UTF-8.
    #[error("{VARIABLE} is not UTF-8")]
    Encoding,
    /// Somebody set up a log before.
    #[error("the log is set up already")]
    Installed(#[source] TryInitError),
}

/// Sends the events of this process to standard error.
///
/// `log_level` is a level such as `info`, or `target=level` directives separated by commas;
/// [`VARIABLE`] wins over it. Colours are used only on a terminal.
///
/// # Errors
/// See [`LogError`]. Nothing is set up then.
pub fn init(log_level: &str) -> Result<(), LogError> {
    let filter = match env::var(VARIABLE) {
        Ok(directives) => filter(VARIABLE, &directives)?,
        Err(VarError::NotPresent) => filter("log_level", log_level)?,
        Err(VarError::NotUnicode(_)) => return Err(LogError::Encoding),
    };
    subscriber(filter, io::stderr, io::stderr().is_terminal())
        .try_init()
        .map_err(LogError::Installed)
}

fn filter(origin: &'static str, directives: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(directives).map_err(|source| LogError::Directives {
        origin,
        directives: directives.to_owned(),
        source,
    })
}

fn subscriber<W>(filter: EnvFilter, writer: W, has_colours: bool) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(has_colours)
        .with_target(false)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(directives: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log =
            subscriber(filter("log_level", directives).unwrap(), move || writer.clone(), false);
        tracing::subscriber::with_default(log, || {
            tracing::info_span!("login", client = "unix").in_scope(|| {
                tracing::info!(sqlstate = "28P01", "login refused");
                tracing::debug!("details");
            });
        });
        let lines = lines.0.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    }

    #[test]
    fn a_line_has_time_level_span_and_fields() {
        let line = logged("info");
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.starts_with("20"), "{line}");
        assert_eq!(rest, " INFO login{client=\"unix\"}: login refused sqlstate=\"28P01\"\n");
    }

    #[test]
    fn the_level_is_kept() {
        for (directives, lines) in
            [("warn", 0), ("info", 1), ("debug", 2), ("off", 0), ("warn,nobody=trace", 0)]
        {
            assert_eq!(logged(directives).lines().count(), lines, "{directives}");
        }
    }

    #[test]
    fn a_bad_level_is_refused() {
        let error = filter("log_level", "info,x=loud").unwrap_err();
        assert_eq!(error.to_string(), r#"log_level is not a log level: "info,x=loud""#);
    }
}
