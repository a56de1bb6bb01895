//! The form that `pg_hba.conf` and `pg_ident.conf` share: lines of fields of tokens, and files that
//! include others.
//!
//! Source: PostgreSQL `src/backend/libpq/hba.c`, `next_token`, `next_field_expand`,
//! `tokenize_auth_file`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::file;
use crate::config::problem::Reason;
use crate::config::raw::Walk;

/// LIMIT: files in files. Source: PostgreSQL, `CONF_FILE_MAX_DEPTH`.
const DEPTH_MAX: usize = 10;

/// LIMIT: files that are read for one key, those that are read twice counted twice.
const FILES_MAX: usize = 1000;

/// A word, or what is in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Whether it began with a quote: then it is a name, whatever it says.
    pub(super) is_quoted: bool,
}

impl Token {
    /// Says whether it is this word of the language.
    pub(super) fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text == word
    }
}

/// What stands between blanks: tokens with commas.
pub(super) type Field = Vec<Token>;

/// A line that says something, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: PathBuf,
    /// Counted from 1; of several that were joined, the first.
    pub(super) number: usize,
    pub(super) fields: Vec<Field>,
}

/// Reads a file and those that it includes, and reports what is wrong with their form.
pub(super) fn read(walk: &mut Walk<'_>, path: &Path, text: &str) -> Vec<Line> {
    let mut reader = Reader { walk, lines: Vec::new(), files: 1 };
    reader.text(path, text, 0);
    reader.lines
}

struct Reader<'w, 'a> {
    walk: &'w mut Walk<'a>,
    lines: Vec<Line>,
    files: usize,
}

impl Reader<'_, '_> {
    fn text(&mut self, path: &Path, text: &str, depth: usize) {
        for (number, text) in joined(text) {
            let fields = match fields(&text) {
                Ok(fields) => fields,
                Err(reason) => {
                    self.report(path, number, reason.to_owned());
                    continue;
                }
            };
            if let Some(include) = Include::of(&fields) {
                self.include(path, number, &include, depth);
                continue;
            }
            let mut expanded = Vec::new();
            for field in fields {
                expanded.push(self.expand(path, number, field, depth));
            }
            if !expanded.is_empty() {
                let file = path.to_owned();
                self.lines.push(Line { file, number, fields: expanded });
            }
        }
    }

    fn include(&mut self, path: &Path, number: usize, include: &Include, depth: usize) {
        let named = beside(path, &include.path);
        let files = match include.kind {
            IncludeKind::IfExists if !named.exists() => vec![],
            IncludeKind::File | IncludeKind::IfExists => vec![named],
            IncludeKind::Folder => match configurations(&named) {
                Ok(files) => files,
                Err(error) => {
                    return self.report(path, number, format!("{}: {error}", named.display()));
                }
            },
        };
        for file in files {
            if let Some(text) = self.open(path, number, &file, depth) {
                self.text(&file, &text, depth + 1);
            }
        }
    }

    /// Puts what is in files in the place of `@file`.
    fn expand(&mut self, path: &Path, number: usize, field: Field, depth: usize) -> Field {
        let mut expanded = Field::new();
        for token in field {
            let Some(name) =
                token.text.strip_prefix('@').filter(|name| !name.is_empty() && !token.is_quoted)
            else {
                expanded.push(token);
                continue;
            };
            let file = beside(path, name);
            let Some(text) = self.open(path, number, &file, depth) else { continue };
            for (line, text) in joined(&text) {
                match fields(&text) {
                    Ok(fields) => {
                        for field in fields {
                            expanded.extend(self.expand(&file, line, field, depth + 1));
                        }
                    }
                    Err(reason) => self.report(&file, line, reason.to_owned()),
                }
            }
        }
        expanded
    }

    fn open(&mut self, from: &Path, number: usize, file: &Path, depth: usize) -> Option<String> {
        self.files += 1;
        if depth >= DEPTH_MAX || self.files > FILES_MAX {
            let reason = format!("{}: too many files in files", file.display());
            self.report(from, number, reason);
            return None;
        }
        match file::content(file) {
            Ok(content) => Some(String::from_utf8_lossy(content.expose()).into_owned()),
            Err(error) => {
                let reason = format!("{}: cannot be read: {error}", file.display());
                self.report(from, number, reason);
                None
            }
        }
    }

    fn report(&mut self, path: &Path, number: usize, reason: String) {
        self.walk.report_in(path, number, Reason::Line(reason));
    }
}

/// A line that stands for other files.
struct Include {
    kind: IncludeKind,
    path: String,
}

#[derive(Clone, Copy)]
enum IncludeKind {
    File,
    IfExists,
    Folder,
}

impl Include {
    fn of(fields: &[Field]) -> Option<Self> {
        let [first, path] = fields else { return None };
        let ([first], [path]) = (first.as_slice(), path.as_slice()) else { return None };
        let kind = match first.text.as_str() {
            _ if first.is_quoted => return None,
            "include" => IncludeKind::File,
            "include_if_exists" => IncludeKind::IfExists,
            "include_dir" => IncludeKind::Folder,
            _ => return None,
        };
        Some(Self { kind, path: path.text.clone() })
    }
}

/// Returns the path of a file that another names.
fn beside(path: &Path, named: &str) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from(named), |folder| folder.join(named))
}

/// Lists the `.conf` files of a folder by name. Source: PostgreSQL, `GetConfFilesInDir`.
fn configurations(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_one = path.extension().is_some_and(|ending| ending == "conf");
        if is_one && !name.starts_with('.') && !path.is_dir() {
            files.insert(name, path);
        }
    }
    Ok(files.into_values().collect())
}

/// Cuts a text into lines with their numbers; one that ends in a backslash goes on in the next.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let (number, before) = begun.take().unwrap_or((at + 1, String::new()));
        let line = line.trim_end_matches('\r');
        match line.strip_suffix('\\') {
            Some(line) => begun = Some((number, before + line)),
            None => lines.push((number, before + line)),
        }
    }
    lines.extend(begun);
    lines
}

/// Splits a line at blanks; what commas join stays together.
fn fields(text: &str) -> Result<Vec<Field>, &'static str> {
    let mut fields: Vec<Field> = Vec::new();
    let mut goes_on = false;
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '#' => break,
            ',' => {
                goes_on = true;
                rest = rest.get(1..).unwrap_or_default();
            }
            _ => {
                let (token, behind) = token(rest)?;
                match fields.last_mut() {
                    Some(field) if goes_on => field.push(token),
                    _ => fields.push(vec![token]),
                }
                goes_on = false;
                rest = behind;
            }
        }
        rest = rest.trim_start();
    }
    Ok(fields)
}

/// Takes a token, which may have quotes inside; two of them there are one.
fn token(text: &str) -> Result<(Token, &str), &'static str> {
    let is_quoted = text.starts_with('"');
    let mut token = String::new();
    let mut chars = text.char_indices().peekable();
    let mut in_quotes = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if in_quotes && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                token.push('"');
                chars.next();
            }
            '"' => in_quotes = !in_quotes,
            c if !in_quotes && (c.is_whitespace() || matches!(c, ',' | '#')) => {
                let behind = text.get(at..).unwrap_or_default();
                return Ok((Token { text: token, is_quoted }, behind));
            }
            '\u{fffd}' => return Err("it is not UTF-8"),
            '\0' => return Err("must not contain a NUL character"),
            c => token.push(c),
        }
    }
    if in_quotes {
        return Err("a quoted name has no end");
    }
    Ok((Token { text: token, is_quoted }, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let fields = fields(text).expect("it has a form");
        let token = |token: &Token| {
            if token.is_quoted { format!("{:?}", token.text) } else { token.text.clone() }
        };
        let field = |field: &Field| field.iter().map(token).collect::<Vec<_>>().join("+");
        fields.iter().map(field).collect()
    }

    #[test]
    fn lines_have_fields_and_fields_have_tokens() {
        assert_eq!(shown("host all a,b ::/0 md5 # x"), ["host", "all", "a+b", "::/0", "md5"]);
        assert_eq!(shown("host a, b ,\"c d\" all"), ["host", "a+b+\"c d\"", "all"]);
        assert_eq!(shown("  \"a\"\"b\"\t\"\" x\"y z\"#c"), ["\"a\\\"b\"", "\"\"", "xy z"]);
        assert_eq!(shown("# host"), Vec::<String>::new());
        assert_eq!(fields("host \"all"), Err("a quoted name has no end"));
    }

    #[test]
    fn a_backslash_joins_lines() {
        let lines = joined("a \\\n b\\\r\nc\n\nd\\");
        let expected = [(1, "a  bc"), (4, ""), (5, "d")];
        assert_eq!(lines, expected.map(|(number, text)| (number, text.to_owned())));
    }
}
