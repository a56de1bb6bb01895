//! PgBouncer's `auth_file`: who may log in, and with which secret.
//!
//! Source: PgBouncer `src/loader.c`, `load_auth_file`.

use crate::secret::Secret;

/// LIMIT: bytes of a user's name. Source: PgBouncer, `MAX_USERNAME`.
const NAME_BYTES_MAX: usize = 128;

/// LIMIT: bytes of a password. Source: PgBouncer, `MAX_PASSWORD`.
const SECRET_BYTES_MAX: usize = 2048;

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Login {
    /// Counted from 1.
    pub line: usize,
    /// Who.
    pub name: String,
    /// Plain, md5 or SCRAM; empty for one who cannot log in by password.
    pub secret: Secret,
}

/// The file up to its end, or up to where PgBouncer would stop reading.
#[derive(Debug, Default)]
pub struct UserList {
    /// In order; of several with one name the last counts.
    pub logins: Vec<Login>,
    /// Line of the first mistake, and what it is. What is behind it does not count.
    pub broken: Option<(usize, &'static str)>,
}

/// Reads `"name" "secret"` lines; `;` begins a comment line.
pub fn parse(text: &str) -> UserList {
    let mut list = UserList::default();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return list;
        }
        let line = 1 + text.len().checked_sub(rest.len()).map_or(0, |at| newlines(text, at));
        if !rest.starts_with(';') {
            match login(rest) {
                Ok((name, secret, behind)) => {
                    list.logins.push(Login { line, name, secret });
                    rest = behind;
                }
                Err(reason) => {
                    list.broken = Some((line, reason));
                    return list;
                }
            }
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

    fn logins(text: &str) -> Vec<(usize, String, String)> {
        let shown = |login: Login| {
            (login.line, login.name, String::from_utf8_lossy(login.secret.expose()).into_owned())
        };
        parse(text).logins.into_iter().map(shown).collect()
    }

    fn login(line: usize, name: &str, secret: &str) -> (usize, String, String) {
        (line, name.to_owned(), secret.to_owned())
    }

    #[test]
    fn names_and_secrets() {
        let text =
            "\"a\" \"x\"\n; \"no\" \"no\"\n\n  \"b b\"\t\"y \"\"z\"\"\" ignored \"w\"\n\"c\" \"\"";
        let expected = [login(1, "a", "x"), login(4, "b b", "y \"z\""), login(5, "c", "")];
        assert_eq!(logins(text), expected);
        assert_eq!(logins(""), []);
    }

    #[test]
    fn reading_stops_at_a_mistake() {
        for bad in ["user \"x\"", "\"user", "\"user\"", "\"user\" \"x", "# comment"] {
            let list = parse(&format!("\"a\" \"x\"\n{bad}"));
            assert_eq!(list.logins.len(), 1, "{bad}");
            assert_eq!(list.broken.map(|(line, _)| line), Some(2), "{bad}");
        }
        let long = format!("\"{}\" \"x\"", "n".repeat(NAME_BYTES_MAX));
        assert_eq!(parse(&long).broken, Some((1, "the name is too long")));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", parse("\"a\" \"hunter2\"")).contains("hunter2"));
    }
}
