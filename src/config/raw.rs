//! Walks the TOML text section by section and key by key, and collects every problem on the way.
//!
//! Which keys exist is not known here: a section knows a key once it was asked for it, so that the
//! code which reads a key is also the list of keys.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::problem::{Hint, Problem, Reason};
use super::source::Overlay;
use super::value::{Env, Value};

/// The text that is being read, and what was found wrong with it so far.
pub(super) struct Walk<'a> {
    file: &'a str,
    text: &'a str,
    env: &'a Env<'a>,
    /// Where each key and section that was met begins, in bytes, by full path.
    offsets: BTreeMap<String, usize>,
    problems: Vec<Problem>,
    /// Keys of `[general]` that stand above those of the text.
    pub(super) overlay: Option<&'a Overlay>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, env: &'a Env<'a>) -> Self {
        Self { file, text, env, offsets: BTreeMap::new(), problems: Vec::new(), overlay: None }
    }

    /// Parses the text as TOML, and reports what is no TOML.
    ///
    /// What the parser could make sense of is returned all the same, with the line of the first
    /// error: from there on the structure of the text is a guess.
    pub(super) fn parse(&mut self) -> (DeTable<'a>, Option<usize>) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let mut message = error.message().replace('\n', " ");
            let around = self.text.get(span.clone()).unwrap_or_default();
            if !around.is_empty() && !around.contains('\n') && error.message() == DUPLICATE_KEY {
                message = format!("{message} {around}");
            }
            self.report_at(span.start, String::new(), Reason::Syntax(message));
        }
        let first = self.problems.iter().map(|problem| problem.line).min();
        (table.into_inner(), first)
    }

    /// Reports a problem with the key or section of this path; one that is not in the file is
    /// reported at the nearest section around it.
    pub(super) fn report(&mut self, path: String, reason: Reason) {
        let mut around = path.as_str();
        let offset = loop {
            match (self.offsets.get(around), around.rsplit_once('.')) {
                (Some(&offset), _) => break offset,
                (None, Some((parent, _))) => around = parent,
                (None, None) => break 0,
            }
        };
        self.report_at(offset, path, reason);
    }

    fn report_at(&mut self, offset: usize, key: String, reason: Reason) {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        self.problems.push(Problem { file: self.file.to_owned(), line, key, reason });
    }

    /// Reports a problem with a line, counted from 1, of a file that a key names.
    pub(super) fn report_in(&mut self, file: &Path, line: usize, reason: Reason) {
        let file = file.display().to_string();
        self.problems.push(Problem { file, line, key: String::new(), reason });
    }

    /// Whether nothing was reported for this very key.
    pub(super) fn is_clean(&self, path: &str) -> bool {
        self.problems.iter().all(|problem| problem.key != path)
    }

    /// Whether nothing was reported at all.
    pub(super) fn is_all_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns what stands above a key of the text.
    fn set_value(&self, path: &str) -> Option<&'a str> {
        let key = path.strip_prefix("general.")?;
        self.overlay?.get(key).map(String::as_str)
    }

    /// Reports a problem with a key that stands above the text.
    fn report_set(&mut self, key: &str, reason: Reason) {
        self.problems.push(Problem { file: String::new(), line: 0, key: key.to_owned(), reason });
    }

    /// Forgets what was reported for lines from `line` on, except about syntax.
    pub(super) fn keep_before(&mut self, line: usize) {
        self.problems
            .retain(|problem| problem.line < line || matches!(problem.reason, Reason::Syntax(_)));
    }

    /// Remembers where a key or section begins.
    pub(super) fn remember(&mut self, path: &str, offset: usize) {
        self.offsets.insert(path.to_owned(), offset);
    }

    /// Takes a value for a section, or reports that it is none.
    pub(super) fn section<'t>(
        &mut self,
        path: &str,
        value: &'t DeValue<'a>,
    ) -> Option<&'t DeTable<'a>> {
        if let DeValue::Table(table) = value {
            return Some(table);
        }
        // Variables are not looked at: the type is wrong, whatever is in them.
        let reason = match Value::new(value, &|_| Some(String::new())) {
            Ok(value) => value.wrong_type("a section"),
            Err(reason) => reason,
        };
        self.report(path.to_owned(), reason);
        None
    }

    /// Ends the walk with all problems in the order of their lines, ours before those of files that
    /// it names.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        let own = self.file;
        // Of a key that was set by hand, the file is empty.
        self.problems.sort_by_cached_key(|problem| {
            let named = Some(&problem.file).filter(|file| !file.is_empty() && *file != own);
            (named.cloned(), problem.line, problem.key.clone())
        });
        self.problems
    }
}

/// The one message of the parser that does not say what it is about.
const DUPLICATE_KEY: &str = "duplicate key";

/// One section while its keys are read.
pub(super) struct Section<'w, 'a> {
    walk: &'w mut Walk<'a>,
    /// `None` for a section that is not in the file.
    table: Option<&'w DeTable<'a>>,
    path: String,
    /// Every key that was asked for.
    known: Vec<&'static str>,
    /// Every section below this one that was asked for.
    below: Vec<&'static str>,
}

impl<'w, 'a> Section<'w, 'a> {
    pub(super) fn new(
        walk: &'w mut Walk<'a>,
        path: String,
        table: Option<&'w DeTable<'a>>,
    ) -> Self {
        Self { walk, table, path, known: Vec::new(), below: Vec::new() }
    }

    /// Reads a key that has a default; a bad value is reported, and the default stands in for it.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Value) -> Result<T, Reason>,
    ) -> T {
        self.find(key, read).unwrap_or(default)
    }

    /// Reads a key that may be absent; a bad value is reported, and counts as absent.
    pub(super) fn find<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Reason>,
    ) -> Option<T> {
        self.known.push(key);
        let path = join(&self.path, key);
        if let Some(text) = self.walk.set_value(&path) {
            let text = Zeroizing::new(text.to_owned());
            return match read(&Value::Text { text, from_env: true }) {
                Ok(value) => Some(value),
                Err(reason) => {
                    self.walk.report_set(key, reason);
                    None
                }
            };
        }
        let (spanned, value) = self.table?.get_key_value(key)?;
        self.walk.remember(&path, spanned.span().start);
        match Value::new(value.get_ref(), self.walk.env).and_then(|value| read(&value)) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.walk.report(path, reason);
                None
            }
        }
    }

    /// Enters a section below this one, if it is there; the way to it is its full path.
    pub(super) fn below(&mut self, key: &'static str) -> Option<(&mut Walk<'a>, Below<'w, 'a>)> {
        self.below.push(key);
        let (spanned, value) = self.table?.get_key_value(key)?;
        let path = join(&self.path, key);
        self.walk.remember(&path, spanned.span().start);
        Some((self.walk, Below { path, value: value.get_ref() }))
    }

    /// Reports every key that nobody asked for, and returns those that were asked for.
    ///
    /// `explain` is given the key, and whether it is the name of a section.
    pub(super) fn finish(self, explain: impl Fn(&str, bool) -> Reason) -> Vec<&'static str> {
        for (key, value) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) && !self.below.contains(&name) {
                let reason = explain(name, is_section(value));
                self.walk.report_at(key.span().start, join(&self.path, name), reason);
            }
        }
        if self.path == "general" {
            for key in self.walk.overlay.into_iter().flat_map(Overlay::keys) {
                if !self.known.contains(&key.as_str()) {
                    self.walk.report_set(key, explain(key, false));
                }
            }
        }
        self.known
    }
}

/// What stands where a section below another one should be.
pub(super) struct Below<'t, 'a> {
    pub(super) path: String,
    pub(super) value: &'t DeValue<'a>,
}

pub(super) fn is_section(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}

/// Says that a key or section is unknown.
pub(super) fn unknown(is_section: bool, hint: Hint) -> Reason {
    if is_section { Reason::UnknownSection(hint) } else { Reason::UnknownKey(hint) }
}

/// Appends a key to a path, in quotes where TOML needs them.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let quoted;
    let key = if !key.is_empty() && key.chars().all(is_bare) {
        key
    } else {
        quoted = format!("{key:?}");
        &quoted
    };
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
