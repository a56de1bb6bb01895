//! Says how far long work is: a line that moves on a terminal, plain lines now and then otherwise.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// Where it is said: on standard error, so that the result can be redirected.
pub struct Screen {
    bar: ProgressBar,
    is_terminal: bool,
    /// What was said last, and when.
    said: Option<(Instant, String)>,
}

impl Screen {
    /// Takes standard error.
    pub fn stderr() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target =
            if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, is_terminal, said: None }
    }

    /// Says how far it is.
    pub fn progress(&mut self, text: &str) {
        if self.is_terminal {
            self.bar.set_message(text.to_owned());
            self.bar.tick();
            return;
        }
        let is_due =
            self.said.as_ref().is_none_or(|(when, last)| when.elapsed() >= LINES && last != text);
        if is_due {
            // Nobody is left to tell if that fails.
            let _ = writeln!(io::stderr(), "{text}");
            self.said = Some((Instant::now(), text.to_owned()));
        }
    }

    /// Whether somebody can be asked.
    pub fn can_ask(&self) -> bool {
        self.is_terminal && io::stdin().is_terminal()
    }

    /// Asks something that is answered with y, or not.
    pub fn ask(question: &str) -> bool {
        let mut answer = String::new();
        let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush());
        asked.is_ok()
            && io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
