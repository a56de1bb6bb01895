//! PgBouncer's `auth_hba_file`, as far as one way to log in for everybody can stand for it.
//!
//! This version has one `auth_type` for all. It is the strictest that the file asks of anybody, so
//! that nobody gets in who would have been kept out by a password; every rule that says something
//! else is reported. Source: PgBouncer `src/hba.c`.

/// What a rule demands, as far as there is an `auth_type` for it; from loose to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Nothing.
    Trust,
    /// The password itself.
    Plain,
    /// An MD5 challenge, or SCRAM.
    Md5,
    /// SCRAM.
    Scram,
}

impl Method {
    /// Returns the `auth_type` that demands the same.
    pub fn auth_type(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Plain => "plain",
            Self::Md5 => "md5",
            Self::Scram => "scram-sha-256",
        }
    }
}

/// One rule.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    line: usize,
    /// What is narrower about it than "everybody", in words; `None` if nothing is.
    narrow: Option<&'static str>,
    /// As it was written.
    method: String,
    /// Whether it can match a client that uses no TLS.
    is_for_plaintext: bool,
}

impl Rule {
    fn known_method(&self) -> Option<Method> {
        Some(match self.method.as_str() {
            "trust" => Method::Trust,
            "password" => Method::Plain,
            "md5" => Method::Md5,
            "scram-sha-256" => Method::Scram,
            _ => return None,
        })
    }
}

/// What becomes of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What to demand of everybody.
    pub method: Method,
    /// Lines that say something else, and what is lost.
    pub lost: Vec<(usize, String)>,
}

/// Reads the rules and finds the one `auth_type` for them.
pub fn outcome(text: &str) -> Outcome {
    let mut lost = Vec::new();
    let mut rules = Vec::new();
    for (at, line) in text.lines().enumerate() {
        match rule(at + 1, line) {
            Ok(None) => {}
            Ok(Some(rule)) if !rule.is_for_plaintext => {
                lost.push((rule.line, "hostssl: rules are not available in this version, client_tls_sslmode \"require\" is for everybody".to_owned()));
            }
            Ok(Some(rule)) => rules.push(rule),
            Err(reason) => lost.push((at + 1, reason.to_owned())),
        }
    }
    let strictest = rules.iter().filter_map(Rule::known_method).max();
    // A file that lets nobody in by a password must not let everybody in.
    let lets_all_in = rules.iter().all(|rule| rule.known_method() == Some(Method::Trust))
        && rules.iter().any(|rule| rule.narrow.is_none());
    let method = match strictest {
        Some(Method::Trust) if !lets_all_in => Method::Md5,
        None => Method::Md5,
        Some(method) => method,
    };
    let chosen = method.auth_type();
    for rule in &rules {
        let reason = match (rule.known_method(), rule.narrow) {
            (Some(same), None) if same == method => continue,
            (Some(same), Some(narrow)) if same == method => format!(
                "{narrow}: rules are not available in this version, auth_type {chosen:?} is for \
                 everybody from everywhere"
            ),
            (Some(_), _) => format!(
                "method {:?} instead of {chosen:?}: this version has one auth_type for everybody, \
                 and the strictest was taken",
                rule.method
            ),
            (None, _) if rule.method == "reject" => format!(
                "reject: rules are not available in this version, those it keeps out can log in \
                 with a password (auth_type {chosen:?})"
            ),
            (None, _) => format!("method {:?} is not available in this version", rule.method),
        };
        lost.push((rule.line, reason));
    }
    lost.sort();
    Outcome { method, lost }
}

fn rule(line: usize, text: &str) -> Result<Option<Rule>, &'static str> {
    let fields = fields(text).ok_or("a quoted name has no end")?;
    let mut fields = fields.iter();
    let Some(kind) = fields.next() else { return Ok(None) };
    let is_local = match kind.as_str() {
        "local" => true,
        "host" | "hostssl" | "hostnossl" => false,
        _ => return Err("unknown type of rule; PgBouncer ignores the line too"),
    };
    let mut next = || fields.next().ok_or("the rule is not complete; PgBouncer ignores it too");
    let (databases, users) = (next()?, next()?);
    let mut narrow = None;
    if databases != "all" {
        narrow = Some("only for some databases");
    } else if users != "all" {
        narrow = Some("only for some users");
    }
    if !is_local {
        let address = next()?;
        let has_mask = !address.contains('/') && address != "all";
        let is_everywhere = matches!(address.as_str(), "all" | "0.0.0.0/0" | "::/0" | "::0/0");
        let is_open_mask = has_mask && matches!(next()?.as_str(), "0.0.0.0" | "::");
        if !is_everywhere && !is_open_mask {
            narrow = narrow.or(Some("only for some addresses"));
        }
    }
    let method = next()?.clone();
    if fields.next().is_some() {
        narrow = narrow.or(Some("it has options"));
    }
    Ok(Some(Rule { line, narrow, method, is_for_plaintext: kind != "hostssl" }))
}

/// Splits a line at blanks; lists with commas stay together. `"all"` in quotes is a name.
fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields: Vec<String> = Vec::new();
    let mut rest = text.trim_start();
    let mut goes_on = false;
    while let Some(first) = rest.chars().next() {
        let (token, behind) = match first {
            '#' => break,
            ',' => (",".to_owned(), rest.get(1..)?),
            '"' => {
                let end = rest.get(1..)?.find('"')? + 2;
                (rest.get(..end)?.to_owned(), rest.get(end..)?)
            }
            _ => {
                let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | '#' | '"');
                let end = rest.find(is_end).unwrap_or(rest.len());
                (rest.get(..end)?.to_owned(), rest.get(end..)?)
            }
        };
        let is_comma = token == ",";
        match fields.last_mut() {
            Some(field) if goes_on || is_comma => field.push_str(&token),
            _ => fields.push(token),
        }
        goes_on = is_comma;
        rest = behind.trim_start();
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, method: Method, lost: &[usize]) {
        let outcome = outcome(text);
        let lines: Vec<usize> = outcome.lost.iter().map(|(line, _)| *line).collect();
        assert_eq!((outcome.method, &lines[..]), (method, lost), "{text}\n{outcome:?}");
    }

    #[test]
    fn rules_for_everybody_are_an_auth_type() {
        check("local all all trust\nhost all all 0.0.0.0/0 trust", Method::Trust, &[]);
        check("# nothing\n\nhost all all all md5 # for all\n", Method::Md5, &[]);
        check("host all all 0.0.0.0 0.0.0.0 scram-sha-256", Method::Scram, &[]);
        check("hostnossl all all ::/0 password", Method::Plain, &[]);
    }

    #[test]
    fn the_strictest_is_taken_and_the_others_are_reported() {
        check("local all all trust\nhost all all 0.0.0.0/0 md5", Method::Md5, &[1]);
        check(
            "host all all 0.0.0.0/0 md5\nhost app bob ::/0 scram-sha-256",
            Method::Scram,
            &[1, 2],
        );
        check("host all all 10.0.0.0/8 md5", Method::Md5, &[1]);
        check("host a,b all all md5\nhost all \"all\" all md5", Method::Md5, &[1, 2]);
    }

    #[test]
    fn nobody_is_let_in_without_a_password_who_was_not() {
        check("host app all 0.0.0.0/0 trust", Method::Md5, &[1]);
        check("host all all 10.0.0.0/8 reject\nhost all all all trust", Method::Md5, &[1, 2]);
        check("host all all all cert", Method::Md5, &[1]);
        check("hostssl all all all trust", Method::Md5, &[1]);
        check("", Method::Md5, &[]);
    }

    #[test]
    fn what_pgbouncer_ignores_is_reported() {
        check("hosts all all all md5\nhost all all\nhost all all all md5", Method::Md5, &[1, 2]);
        check("host \"all all all md5", Method::Md5, &[1]);
    }

    #[test]
    fn lists_stay_together() {
        assert_eq!(fields("host a, b ,\"c d\" all").unwrap(), ["host", "a,b,\"c d\"", "all"]);
    }
}
