//! PgBouncer's dialect of ini files, with its includes.
//!
//! Source: libusual `usual/cfparser.c`, `parse_ini_file`; PgBouncer's manual for quoted names and
//! `%include`. What PgBouncer only documents (quoted names) is read too.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// LIMIT: files that include each other.
const INCLUDE_DEPTH_MAX: usize = 10;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One line that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `[name]`
    Section(String),
    /// `key = value`; both may be empty.
    Setting {
        /// Without quotes.
        key: String,
        /// Without blanks around it; may be a secret.
        value: String,
    },
}

/// A file cannot be read as PgBouncer would.
#[derive(Debug, thiserror::Error)]
pub enum IniError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said; part of the message, therefore not a `#[source]`.
        error: io::Error,
    },
    /// A line that is neither a section, a setting nor a comment.
    #[error("{place}: syntax error: expected {expected}")]
    Syntax {
        /// Where.
        place: Place,
        /// What would have been right.
        expected: &'static str,
    },
    /// Files include each other without end.
    #[error("{place}: more than {INCLUDE_DEPTH_MAX} files include each other")]
    TooDeep {
        /// The last include.
        place: Place,
    },
}

/// Reads `path` and everything it includes, in order.
///
/// A file with bytes that are no UTF-8 is read; those bytes become U+FFFD.
///
/// # Errors
/// See [`IniError`]; PgBouncer refuses such a file too.
pub fn read(path: &Path) -> Result<Vec<(Place, Entry)>, IniError> {
    let mut entries = Vec::new();
    read_into(path, path, 1, &mut entries)?;
    Ok(entries)
}

fn read_into(
    path: &Path,
    top: &Path,
    depth: usize,
    entries: &mut Vec<(Place, Entry)>,
) -> Result<(), IniError> {
    let bytes = super::read_near(path, top)
        .map_err(|error| IniError::Read { path: path.to_owned(), error })?;
    let text = String::from_utf8_lossy(&bytes);
    for (at, line) in text.lines().enumerate() {
        let place = Place { file: path.to_owned(), line: at + 1 };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix("%include").filter(|r| r.starts_with([' ', '\t'])) {
            if depth >= INCLUDE_DEPTH_MAX {
                return Err(IniError::TooDeep { place });
            }
            read_into(Path::new(rest.trim()), top, depth + 1, entries)?;
            continue;
        }
        let entry =
            entry(line).map_err(|expected| IniError::Syntax { place: place.clone(), expected })?;
        entries.push((place, entry));
    }
    Ok(())
}

fn entry(line: &str) -> Result<Entry, &'static str> {
    if let Some(rest) = line.strip_prefix('[') {
        let (name, _) = rest.split_once(']').ok_or("a ] behind the name of the section")?;
        return Ok(Entry::Section(name.to_owned()));
    }
    let (key, rest) = if let Some(rest) = line.strip_prefix('"') {
        quoted(rest).ok_or("a \" behind the name")?
    } else {
        let is_key = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
        let end = line.find(|c| !is_key(c)).unwrap_or(line.len());
        let (key, rest) = line.split_at_checked(end).unwrap_or((line, ""));
        (key.to_owned(), rest)
    };
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix('=');
    let value = value.ok_or("a section, or a name and =")?.trim();
    Ok(Entry::Setting { key, value: value.to_owned() })
}

/// Reads a name up to its closing `"`; `""` stands for one. Returns what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// Reads the `key=value` pairs of a database's or user's line.
///
/// Values may stand in `''`, where `''` stands for one `'`. Source: PgBouncer `src/loader.c`,
/// `cstr_get_pair`.
///
/// # Errors
/// What is wrong; no text of the line, which may hold a password.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_blank(c)).unwrap_or(rest.len());
        let (key, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let after = after.trim_start_matches(is_blank).strip_prefix('=');
        let (false, Some(after)) = (key.is_empty(), after) else {
            return Err("it is not a list of key=value");
        };
        let after = after.trim_start_matches(is_blank);
        let (value, after) = if let Some(inside) = after.strip_prefix('\'') {
            unquoted(inside).ok_or("a quoted value has no end")?
        } else {
            let end = after.find(is_blank).unwrap_or(after.len());
            let (value, after) = after.split_at_checked(end).unwrap_or((after, ""));
            (value.to_owned(), after)
        };
        pairs.push((key.to_owned(), value));
        rest = after.trim_start_matches(is_blank);
    }
    Ok(pairs)
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// Reads a value up to its closing `'`; `''` stands for one. Returns what is behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, key: &str, value: &str) {
        let expected = Entry::Setting { key: key.to_owned(), value: value.to_owned() };
        assert_eq!(entry(line), Ok(expected), "{line}");
    }

    #[test]
    fn lines() {
        assert_eq!(entry("[databases]"), Ok(Entry::Section("databases".to_owned())));
        check("a=b", "a", "b");
        check("a = b c ; no comment", "a", "b c ; no comment");
        check("a =", "a", "");
        check("* = host=x", "*", "host=x");
        check("a.b-c_d\t= x", "a.b-c_d", "x");
        check("\"we \"\"ird\" = x", "we \"ird", "x");
        for bad in ["[databases", "a", "a b = c", "\"a = b", "%include", "ä = b"] {
            assert!(entry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn connection_strings() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> =
                expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(pairs(text).as_ref(), Ok(&expected), "{text}");
        };
        check("", &[]);
        check("  host=a   port = 5  ", &[("host", "a"), ("port", "5")]);
        check("password='it''s' user=u", &[("password", "it's"), ("user", "u")]);
        check("password='' user=u", &[("password", ""), ("user", "u")]);
        check("connect_query='SELECT 1'", &[("connect_query", "SELECT 1")]);
        check("password=a=b", &[("password", "a=b")]);
        check("pool_size=", &[("pool_size", "")]);
        for bad in ["host", "=x", "a b=c", "a='b", "# comment"] {
            assert!(pairs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn includes_are_read_in_place_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let top = file("top.ini", "[pgbouncer]\na = 1\n%include inner.ini\nb = 2\n");
        let inner = file("inner.ini", "; nothing\n\nc = 3\n");
        let seen: Vec<String> = read(&top)
            .unwrap()
            .into_iter()
            .map(|(place, entry)| format!("{}:{} {entry:?}", place.file.display(), place.line))
            .collect();
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert!(seen[2].starts_with("inner.ini:3"), "{seen:?}");
        std::fs::write(&inner, "%include inner.ini\n").unwrap();
        assert!(matches!(read(&top), Err(IniError::TooDeep { .. })));
        std::fs::remove_file(&inner).unwrap();
        assert!(matches!(read(&top), Err(IniError::Read { .. })));
        let bad = file("bad.ini", "[pgbouncer]\nnonsense\n");
        let error = read(&bad).unwrap_err().to_string();
        assert!(error.ends_with("bad.ini:2: syntax error: expected a section, or a name and ="));
    }
}
