//! `auth_file`: who may log in, and with which secret. The format is PgBouncer's.
//!
//! Source: PgBouncer `src/loader.c`, `load_auth_file`. It stops at a mistake, and goes on with the
//! users above it; here that is a problem, as everywhere else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::file::NamedFile;
use super::problem::Reason;
use super::raw::Walk;
use crate::secret::Secret;

/// LIMIT: bytes of a user's name. Source: PgBouncer, `MAX_USERNAME`.
const NAME_BYTES_MAX: usize = 128;

/// LIMIT: bytes of a password. Source: PgBouncer, `MAX_PASSWORD`.
const SECRET_BYTES_MAX: usize = 2048;

/// Users by name. An empty password is none: such a user cannot log in by it.
pub type Users = BTreeMap<String, Secret>;

/// The file with the users, and who is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserFile {
    /// The file itself.
    pub file: NamedFile,
    /// As of when it was read.
    users: Arc<Users>,
}

impl UserFile {
    pub(super) fn new(file: NamedFile) -> Self {
        Self { file, users: Arc::default() }
    }

    /// Returns the users in it, once it has been read.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Reads the file, and reports a mistake in it.
    pub(super) fn read(&mut self, walk: &mut Walk<'_>, key: &str) {
        self.file.read(walk, "general", key);
        let Some(content) = self.file.content() else { return };
        match parse(&String::from_utf8_lossy(content)) {
            Ok(users) => self.users = Arc::new(users),
            Err((line, reason)) => {
                walk.report_in(self.file.path(), line, Reason::Line(reason.to_owned()));
            }
        }
    }
}

/// A mistake, and its line counted from 1.
type Mistake = (usize, &'static str);

/// Reads `"name" "secret"` lines; `;` begins a comment line. Of several with one name the last
/// counts.
fn parse(text: &str) -> Result<Users, Mistake> {
    let mut users = Users::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(users);
        }
        if !rest.starts_with(';') {
            let line = 1 + text.len().checked_sub(rest.len()).map_or(0, |at| newlines(text, at));
            let (name, secret, behind) = login(rest).map_err(|reason| (line, reason))?;
            users.insert(name, secret);
            rest = behind;
        }
        // PgBouncer ignores what is behind the second pair of quotes.
        rest = rest.split_once('\n').map_or("", |(_, next)| next);
    }
}

fn newlines(text: &str, end: usize) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes().get(..end).unwrap_or_default()).count()
}

fn login(text: &str) -> Result<(String, Secret, &str), &'static str> {
    const MISSING: &str = "expected \"name\" \"password\"";
    let inside = text.strip_prefix('"').ok_or(MISSING)?;
    let (name, behind) = quoted(inside).ok_or(MISSING)?;
    let (_, inside) = behind.split_once('"').ok_or(MISSING)?;
    let (secret, behind) = quoted(inside).ok_or(MISSING)?;
    if name.len() >= NAME_BYTES_MAX {
        return Err("the name is too long");
    }
    if name.contains('\u{fffd}') || secret.contains('\u{fffd}') {
        return Err("it is not UTF-8");
    }
    if name.contains('\0') || secret.contains('\0') {
        return Err("must not contain a NUL character");
    }
    if secret.len() >= SECRET_BYTES_MAX {
        return Err("the password is too long");
    }
    Ok((name, Secret::new(secret), behind))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut found = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        found.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                found.push('"');
                rest = more;
            }
            None => return Some((found, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Vec<(String, String)> {
        let shown = |(name, secret): (String, Secret)| {
            (name, String::from_utf8_lossy(secret.expose()).into_owned())
        };
        parse(text).expect("it is correct").into_iter().map(shown).collect()
    }

    fn user(name: &str, secret: &str) -> (String, String) {
        (name.to_owned(), secret.to_owned())
    }

    #[test]
    fn names_and_secrets() {
        let text = "\"a\" \"x\"\n; \"no\" \"no\"\n\n  \"b b\"\t\"y \"\"z\"\"\" ignored \"w\"\n\
            \"c\" \"\"\n\"a\" \"last\"";
        assert_eq!(users(text), [user("a", "last"), user("b b", "y \"z\""), user("c", "")]);
        assert_eq!(users(""), []);
    }

    #[test]
    fn a_mistake_has_a_line() {
        for bad in ["user \"x\"", "\"user", "\"user\"", "\"user\" \"x", "# comment"] {
            let mistake = parse(&format!("\"a\" \"x\"\n{bad}")).expect_err("it is wrong");
            assert_eq!(mistake.0, 2, "{bad}");
        }
        let long = format!("\"{}\" \"x\"", "n".repeat(NAME_BYTES_MAX));
        assert_eq!(parse(&long), Err((1, "the name is too long")));
        let foreign = String::from_utf8_lossy(b"\n\n\"m\xfcller\" \"x\"").into_owned();
        assert_eq!(parse(&foreign), Err((3, "it is not UTF-8")));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", parse("\"a\" \"hunter2\"")).contains("hunter2"));
    }
}
