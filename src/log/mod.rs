//! The log: one line per event, set up once; where it goes can be changed.
//!
//! Field names are agreed for the whole crate: `client`, `database`, `user`, `server`,
//! `backend_pid`, `reason`, `age`, `sqlstate`, `error`, `wait_us`. Messages are constant lower-case
//! phrases and values are fields, except where scripts look for PgBouncer's words: there the phrase
//! has the values in it as well. Nothing of a password is ever logged, and nothing of a statement
//! above debug.
//!
//! No event waits to be written: see [`sink`]. Lines that repeat ask [`admit`] first.

mod limit;
mod sink;
mod syslog;

use std::env::{self, VarError};
use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

pub use limit::Kind;
pub use sink::Target;
pub use syslog::Tag;

use limit::Limits;
use sink::Sink;

/// Environment variable that overrides the configured level, in the same syntax.
pub const VARIABLE: &str = "PGTANDEM_LOG";

/// How long the end of the process waits for the last lines to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

static LIMITS: Limits = Limits::new();

/// The log of this process, once it is set up.
static LOG: OnceLock<Log> = OnceLock::new();

#[derive(Debug)]
struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    sink: Sink,
}

/// What is logged, how, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A level such as `info`, or `target=level` directives separated by commas.
    pub level: String,
    /// Whether lines are JSON objects; cannot be changed later.
    pub is_json: bool,
    /// Where lines go.
    pub target: Target,
}

/// The log could not be set up, or not be changed.
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
    /// The file cannot be opened.
    #[error("cannot open logfile {}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said; part of the message, therefore not a `#[source]`.
        error: io::Error,
    },
    /// Somebody set up a log before.
    #[error("the log is set up already")]
    Installed(#[source] TryInitError),
}

/// Begins to log the events of this process.
///
/// [`VARIABLE`] wins over the level. Colours are used only on a terminal.
///
/// # Errors
/// See [`LogError`]. Nothing is set up then.
pub fn init(settings: &Settings) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(configured_filter(&settings.level)?);
    let target = &settings.target;
    let sink = Sink::start(target, &LIMITS).map_err(cannot_open(target))?;
    let is_on_stderr = target.file.is_none() && target.syslog.is_none();
    let style = match settings.is_json {
        true => Style::Json,
        false if is_on_stderr && io::stderr().is_terminal() => Style::Coloured,
        false => Style::Plain,
    };
    subscriber(filter, sink.clone(), style).try_init().map_err(LogError::Installed)?;
    let _ = LOG.set(Log { filter: handle, sink });
    Ok(())
}

/// Puts other settings in force, and opens the file anew, so that it can be rotated.
///
/// Does nothing where no log was set up.
///
/// # Errors
/// See [`LogError`]. Nothing has changed then.
pub fn change(settings: &Settings) -> Result<(), LogError> {
    let Some(log) = LOG.get() else { return Ok(()) };
    let filter = configured_filter(&settings.level)?;
    let target = &settings.target;
    log.sink.retarget(target).map_err(cannot_open(target))?;
    // It fails only when the subscriber is gone, which lives as long as the process.
    let _ = log.filter.reload(filter);
    Ok(())
}

/// Waits until everything is written, for a second at most.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_LIMIT);
    }
}

/// Text from outside in the middle of a message: as it is, but on one line.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { c.escape_default().fmt(f)? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// Says whether a line about something that repeats may be written now: at most ten of a kind in ten
/// seconds. How many were left out is said afterwards.
pub fn admit(kind: Kind) -> bool {
    LIMITS.admit(kind, Instant::now())
}

fn cannot_open(target: &Target) -> impl FnOnce(io::Error) -> LogError {
    move |error| LogError::Open { path: target.file.clone().unwrap_or_default(), error }
}

fn configured_filter(level: &str) -> Result<EnvFilter, LogError> {
    match env::var(VARIABLE) {
        Ok(directives) => filter(VARIABLE, &directives),
        Err(VarError::NotPresent) => filter("log_level", level),
        Err(VarError::NotUnicode(_)) => Err(LogError::Encoding),
    }
}

fn filter(origin: &'static str, directives: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(directives).map_err(|source| LogError::Directives {
        origin,
        directives: directives.to_owned(),
        source,
    })
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Coloured,
    Json,
}

fn subscriber<F, W>(filter: F, writer: W, style: Style) -> impl Subscriber + Send + Sync
where
    F: Layer<Registry> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        .with_ansi(style == Style::Coloured);
    let lines = if style == Style::Json {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines)
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

    fn logged(directives: &str, style: Style) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let filter = filter("log_level", directives).unwrap();
        let log = subscriber(filter, move || writer.clone(), style);
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
        let line = logged("info", Style::Plain);
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.starts_with("20"), "{line}");
        assert_eq!(rest, " INFO login{client=\"unix\"}: login refused sqlstate=\"28P01\"\n");
    }

    #[test]
    fn a_line_can_be_json() {
        let line = logged("info", Style::Json);
        assert!(line.starts_with("{\"timestamp\":\"20") && line.ends_with("}\n"), "{line}");
        for part in [
            r#""level":"INFO""#,
            r#""message":"login refused""#,
            r#""sqlstate":"28P01""#,
            r#""span":{"client":"unix","name":"login"}"#,
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn the_level_is_kept() {
        for (directives, lines) in
            [("warn", 0), ("info", 1), ("debug", 2), ("off", 0), ("warn,nobody=trace", 0)]
        {
            assert_eq!(logged(directives, Style::Plain).lines().count(), lines, "{directives}");
        }
    }

    #[test]
    fn a_bad_level_is_refused() {
        let error = filter("log_level", "info,x=loud").unwrap_err();
        assert_eq!(error.to_string(), r#"log_level is not a log level: "info,x=loud""#);
    }
}
