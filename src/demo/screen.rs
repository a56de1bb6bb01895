//! What the person in front of the demo sees: steps with progress, and lines of text.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::DemoError;

/// How wide the names of steps are, so that what is said about them lines up.
///
/// With the bar and the longest note, a line has 77 columns: one that wraps cannot be drawn again.
const NAME_WIDTH: usize = 36;

/// Where the demo says things: moving bars on a terminal, plain lines otherwise.
pub(super) struct Screen {
    out: Box<dyn Write>,
    is_terminal: bool,
}

impl Screen {
    /// Takes standard output.
    pub(super) fn stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { out: Box::new(io::stdout()), is_terminal }
    }

    /// Prints lines.
    pub(super) fn say(&mut self, text: &str) -> Result<(), DemoError> {
        let written = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        written.map_err(|source| DemoError::System { action: "write to standard output", source })
    }

    /// Does one step of the demo, and shows that it goes on, for how long, and how it ended.
    ///
    /// # Errors
    /// That of `work`.
    pub(super) async fn step<T>(
        &mut self,
        name: &str,
        work: impl AsyncFnOnce(&Progress) -> Result<T, DemoError>,
    ) -> Result<T, DemoError> {
        let progress = self.begin(name)?;
        let result = work(&progress).await;
        progress.bar.finish_and_clear();
        let note = match progress.bar.message() {
            note if note.is_empty() => format!("{:.1} s", progress.bar.elapsed().as_secs_f64()),
            note => note,
        };
        match result {
            Ok(done) => self.say(&format!("ok {name:<NAME_WIDTH$} {note}")).map(|()| done),
            Err(error) => {
                let end = if error.is_interrupt() { "interrupted" } else { "failed" };
                // The step's own error matters more than that it cannot be shown.
                let _ = self.say(&format!("-- {name:<NAME_WIDTH$} {end}"));
                Err(error)
            }
        }
    }

    fn begin(&mut self, name: &str) -> Result<Progress, DemoError> {
        let bar = ProgressBar::no_length();
        if self.is_terminal {
            bar.set_draw_target(ProgressDrawTarget::stdout());
            bar.set_style(style("{spinner} {prefix} {elapsed} {msg}"));
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            self.say(&format!(".. {name}"))?;
        }
        bar.set_prefix(format!("{name:<NAME_WIDTH$}"));
        Ok(Progress { bar })
    }
}

/// A step that goes on.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows that `done` parts of `total` are done.
    pub(super) fn advance(&self, done: u64, total: u64) {
        if self.bar.length().is_none() {
            self.bar.set_style(style("{spinner} {prefix} [{bar:12}] {msg}"));
        }
        self.bar.set_length(total);
        self.bar.set_position(done.min(total));
    }

    /// Shows a note; the last one stays when the step is over.
    pub(super) fn note(&self, text: String) {
        self.bar.set_message(text);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are right; and a wrong one would be no reason to fail.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
