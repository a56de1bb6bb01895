//! Writes `proxy.toml`: each line is shown to our own configuration before it is taken.

use std::path::{Path, PathBuf};

use super::ini::{self, Place};
use super::settings::{DATABASE, GENERAL, Setting, Shape, USER, integer, quoted, text};
use super::{Given, Imported, Note, Source, located};
use crate::config::{Config, ConfigError, General, Reason, Unavailable};

/// PgBouncer's default.
const MAX_CLIENT_CONN: u32 = 100;

/// LIMIT: how often the whole text is mended and read again.
const ROUNDS_MAX: usize = 8;

/// A line of the result.
struct Line {
    text: String,
    /// The setting it came from; `None` for what is ours.
    origin: Option<(Option<Place>, String)>,
}

/// What our configuration says to one line.
enum Verdict {
    Fits(Box<Config>),
    /// There is no such key.
    Lacks,
    /// There is, and it does not take this value.
    Refused(String),
}

/// Shows a section with at most one key to our configuration. Variables do not exist.
fn try_out(header: &str, line: &str) -> Verdict {
    match Config::parse(&format!("{header}\n{line}\n"), "", &|_| None) {
        Ok(config) => Verdict::Fits(Box::new(config)),
        Err(ConfigError::Invalid { problems }) => {
            let mut reasons = problems.into_iter().map(|problem| problem.reason);
            let reason = reasons.next();
            // Whether it fits with the rest is seen when the rest is there.
            if matches!(
                reason,
                Some(Reason::Needs { .. } | Reason::CertWithoutCa | Reason::NoSuchDatabase(_))
            ) {
                return Verdict::Fits(Box::default());
            }
            let is_lacking = |reason: &Reason| {
                matches!(reason, Reason::UnknownKey(_) | Reason::Unavailable(Unavailable::This))
            };
            reason
                .filter(|reason| !is_lacking(reason))
                .map_or(Verdict::Lacks, |reason| Verdict::Refused(reason.to_string()))
        }
        Err(error @ ConfigError::Read { .. }) => Verdict::Refused(error.to_string()),
    }
}

/// Writes everything.
pub(super) fn write(top: &Path, source: &Source, notes: Vec<Note>) -> Imported {
    let clients_max = source
        .general("max_client_conn")
        .and_then(integer)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number > 0)
        .unwrap_or(MAX_CLIENT_CONN);
    let mut writer =
        Writer { top, source, notes, lines: Vec::new(), clients_max, has_secrets: false };
    writer.general();
    for (name, given) in &source.databases {
        writer.database(name, given);
    }
    for (name, given) in &source.users {
        writer.user(name, given);
    }
    writer.finish()
}

struct Writer<'a> {
    top: &'a Path,
    source: &'a Source,
    notes: Vec<Note>,
    lines: Vec<Line>,
    /// `max_client_conn`.
    clients_max: u32,
    has_secrets: bool,
}

impl Writer<'_> {
    fn note(&mut self, place: Option<&Place>, key: &str, reason: impl Into<String>) {
        let note = Note { place: place.cloned(), key: key.to_owned(), reason: reason.into() };
        self.notes.push(note);
    }

    fn push(&mut self, text: impl Into<String>) {
        self.lines.push(Line { text: text.into(), origin: None });
    }

    fn general(&mut self) {
        self.push("");
        self.push("[general]");
        for setting in GENERAL {
            if let Some((place, value)) = self.source.general.get(setting.name) {
                self.general_key(setting, place, value);
            }
        }
        for (key, (place, _)) in &self.source.general {
            if GENERAL.iter().all(|setting| setting.name != key) {
                self.note(Some(place), key, "unknown key; PgBouncer refuses it too");
            }
        }
        let defaults: Vec<String> =
            GENERAL.iter().filter_map(|setting| self.other_default(setting)).collect();
        if !defaults.is_empty() {
            self.push("# Defaults of PgBouncer that are others here:");
            for line in defaults {
                self.push(line);
            }
        }
    }

    /// Writes a key that was given in `[pgbouncer]`.
    fn general_key(&mut self, setting: &Setting, place: &Place, value: &str) {
        match setting.name {
            "server_check_query" if value.is_empty() => {
                // To PgBouncer that means no check, to us the empty query.
                let text = "server_check_delay = \"3650d\"  # no server_check_query: never check";
                let origin = Some((Some(place.clone()), setting.name.to_owned()));
                self.lines.push(Line { text: text.to_owned(), origin });
            }
            "server_check_query" if value == "<empty>" => {
                self.take(setting, "[general]", "", Some(place), "");
            }
            // Checking is switched off altogether.
            "server_check_delay" if self.source.general("server_check_query") == Some("") => {}
            "auth_type" => {
                let value = self.auth_type(place, value);
                self.take(setting, "[general]", "", Some(place), value);
            }
            // Nobody looks into them otherwise.
            "auth_hba_file" | "auth_ident_file" if !self.has_rules() => {}
            // Nobody is looked up without it.
            "auth_query" | "auth_dbname" if !self.has_auth_user() => {}
            name if name.starts_with("client_tls_") && self.is_tls_off("client_tls_sslmode") => {}
            // It says that TLS is off.
            "server_tls_sslmode" => self.take(setting, "[general]", "", Some(place), value),
            name if name.starts_with("server_tls_") && self.is_tls_off("server_tls_sslmode") => {}
            _ => self.take(setting, "[general]", "", Some(place), value),
        }
    }

    fn has_rules(&self) -> bool {
        self.source.general("auth_type").is_some_and(|value| value.eq_ignore_ascii_case("hba"))
    }

    fn has_auth_user(&self) -> bool {
        let is_given = |text: &str| text.contains("auth_user");
        self.source.general("auth_user").is_some_and(|user| !user.is_empty())
            || self.source.databases.iter().any(|(_, (_, line))| is_given(line))
    }

    fn is_tls_off(&self, key: &str) -> bool {
        let is_off = |mode: &str| mode.eq_ignore_ascii_case("disable");
        self.source.general(key).map_or(key == "client_tls_sslmode", is_off)
    }

    /// Writes one setting, or says why not. `prefix` goes before its name in messages.
    fn take(
        &mut self,
        setting: &Setting,
        header: &str,
        prefix: &str,
        place: Option<&Place>,
        value: &str,
    ) {
        let key = format!("{prefix}{}", setting.name);
        if value.contains('\u{fffd}') {
            return self.note(place, &key, "it is not UTF-8");
        }
        let found;
        let value = if setting.shape == Shape::File && !value.is_empty() {
            found = located(value, self.top).display().to_string();
            &found
        } else {
            value
        };
        let toml = match setting.toml(value, self.clients_max) {
            Ok(Some(toml)) => toml,
            Ok(None) => return,
            Err(reason) => {
                return self.note(place, &key, format!("{reason}; PgBouncer refuses it too"));
            }
        };
        let text = format!("{} = {toml}", setting.here);
        match try_out(header, &text) {
            Verdict::Fits(_) => {
                self.lines.push(Line { text, origin: Some((place.cloned(), key)) });
            }
            Verdict::Lacks if setting.is_same(value) => {}
            Verdict::Lacks => self.note(place, &key, setting.lack),
            Verdict::Refused(reason) => self.note(place, &key, reason),
        }
    }

    /// Returns the line for a key that was not given and whose default is another here.
    fn other_default(&self, setting: &Setting) -> Option<String> {
        let is_given = self.source.general.contains_key(setting.name);
        let has_effect = setting.name != "syslog_ident"
            || self.source.general("syslog").and_then(integer).is_some_and(|on| on != 0);
        if is_given || !has_effect || setting.name == "server_check_query" {
            return None;
        }
        let toml = setting.toml(setting.default, self.clients_max).ok()??;
        let text = format!("{} = {toml}", setting.here);
        match try_out("[general]", &text) {
            Verdict::Fits(config) if config.general != General::default() => Some(text),
            Verdict::Fits(_) | Verdict::Lacks | Verdict::Refused(_) => None,
        }
    }

    /// Finds the `auth_type` for one of PgBouncer's.
    fn auth_type<'v>(&mut self, place: &Place, value: &'v str) -> &'v str {
        match value.to_ascii_lowercase().as_str() {
            "any" => {
                let without = self.source.databases.iter().find(|(_, (_, line))| {
                    ini::pairs(line).is_ok_and(|pairs| pairs.iter().all(|(key, _)| key != "user"))
                });
                if let Some((name, _)) = without {
                    let reason = format!(
                        "\"trust\" was taken for \"any\"; unlike in PgBouncer, clients can use \
                         databases without user, such as {name:?}, under any name that the server \
                         lets in"
                    );
                    self.note(Some(place), "auth_type", reason);
                }
                "trust"
            }
            "trust" => {
                let reason = "everybody is let in, as the server allows; PgBouncer lets in only \
                              users of auth_file";
                self.note(Some(place), "auth_type", reason);
                value
            }
            _ => value,
        }
    }

    fn database(&mut self, name: &str, (place, line): &Given) {
        let source = self.source;
        let path = format!("databases.{}", section_name(name));
        let header = format!("[{path}]");
        let left_out = |reason: &str| format!("{reason}: the database is left out");
        let pairs = match ini::pairs(line) {
            Ok(pairs) => pairs,
            Err(reason) => return self.note(Some(place), &path, left_out(reason)),
        };
        if let Verdict::Refused(reason) = try_out(&header, "") {
            return self.note(Some(place), &path, left_out(&reason));
        }
        let find = |key: &str| pairs.iter().rev().find(|(k, v)| k == key && !v.is_empty());
        let host = match find("host") {
            Some((_, host)) => host.as_str(),
            None => source.socket_dir(),
        };
        let is_list = host.contains(',');
        let host = format!("host = {}", text(host));
        if let Verdict::Refused(reason) = try_out(&header, &host) {
            return self.note(Some(place), &format!("{path}.host"), left_out(&reason));
        }
        self.push("");
        self.push(header.clone());
        self.lines.push(Line { text: host, origin: Some((Some(place.clone()), path.clone())) });
        for setting in DATABASE {
            let Some((_, value)) = find(setting.name) else { continue };
            if setting.name == "password" && find("user").is_none() {
                let reason = "without user it has no effect in PgBouncer";
                self.note(Some(place), &format!("{path}.password"), reason);
                continue;
            }
            self.has_secrets |= setting.name == "password";
            if setting.name == "load_balance_hosts" && !is_list {
                continue;
            }
            self.take(setting, &header, &format!("{path}."), Some(place), value);
        }
        self.note_unknown(&pairs, DATABASE, place, &path);
        self.bound_minimum(&pairs);
    }

    /// PgBouncer never keeps more connections open than the pool may have; we refuse to be told so.
    fn bound_minimum(&mut self, pairs: &[(String, String)]) {
        let number = |key: &str, general: &str, default: i64| {
            let own = pairs.iter().rev().find(|(k, _)| k == key).and_then(|(_, v)| integer(v));
            own.filter(|n| *n >= 0)
                .or_else(|| self.source.general(general).and_then(integer))
                .unwrap_or(default)
        };
        let size = number("pool_size", "default_pool_size", 20);
        let min = number("min_pool_size", "min_pool_size", 0);
        if size > 0 && min > size {
            drop_from_last_section(&mut self.lines, "min_pool_size");
            self.push(format!("min_pool_size = {size}"));
        }
    }

    fn note_unknown(
        &mut self,
        pairs: &[(String, String)],
        known: &[Setting],
        place: &Place,
        path: &str,
    ) {
        for (key, _) in pairs {
            if key != "host" && known.iter().all(|setting| setting.name != key) {
                let key = format!("{path}.{key}");
                self.note(Some(place), &key, "unknown key; PgBouncer refuses it too");
            }
        }
    }

    fn user(&mut self, name: &str, (place, line): &Given) {
        let path = format!("users.{}", section_name(name));
        let header = format!("[{path}]");
        if let Verdict::Refused(reason) = try_out(&header, "") {
            return self.note(Some(place), &path, format!("{reason}: the user is left out"));
        }
        self.push("");
        self.push(header.clone());
        let pairs = match ini::pairs(line) {
            Ok(pairs) => pairs,
            Err(reason) => return self.note(Some(place), &path, reason),
        };
        for setting in USER {
            let value = pairs.iter().rev().find(|(k, v)| k == setting.name && !v.is_empty());
            if let Some((_, value)) = value {
                self.take(setting, &header, &format!("{path}."), Some(place), value);
            }
        }
        self.note_unknown(&pairs, USER, place, &path);
    }

    /// Puts the text together, and takes out what does not fit with the rest.
    fn finish(mut self) -> Imported {
        let mut head = vec![format!("# Made by `pgtandem import {}`.", self.top.display())];
        if self.has_secrets {
            head.push("# Holds passwords: let nobody else read it (chmod 600).".to_owned());
        }
        let head = head.into_iter().map(|text| Line { text, origin: None });
        self.lines.splice(0..0, head);
        let mut mismatch = None;
        for _ in 0..ROUNDS_MAX {
            mismatch = self.mend();
            if mismatch.is_none() {
                break;
            }
        }
        self.look_into_files();
        self.notes.sort();
        Imported { text: self.text(), notes: self.notes, has_secrets: self.has_secrets, mismatch }
    }

    /// Lists what is wrong in the files about users: PgBouncer leaves such lines out, we refuse them.
    fn look_into_files(&mut self) {
        let Err(ConfigError::Invalid { problems }) =
            Config::parse_with_files(&self.text(), "proxy.toml", &|_| None)
        else {
            return;
        };
        for problem in problems {
            let key = problem.key.strip_prefix("general.").unwrap_or("auth_file");
            let is_in_file = problem.key.is_empty();
            // Other files need not be there yet.
            if !is_in_file && !key.starts_with("auth_") {
                continue;
            }
            let place = if is_in_file {
                Some(Place { file: PathBuf::from(&problem.file), line: problem.line })
            } else {
                self.source.general.get(key).map(|(place, _)| place.clone())
            };
            let key = if is_in_file { "auth files" } else { key };
            let reason = format!("{}: mend it, `pgtandem` does not start without", problem.reason);
            self.note(place.as_ref(), key, reason);
        }
    }

    fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect()
    }

    /// Reads the text as `run` would; takes lines out that it complains about. `None` if it is good.
    fn mend(&mut self) -> Option<String> {
        let error = Config::parse(&self.text(), "proxy.toml", &|_| None).err()?;
        let text = error.to_string();
        if let ConfigError::Invalid { problems } = error {
            for problem in problems {
                let line = problem.line.checked_sub(1).and_then(|at| self.lines.get_mut(at));
                let Some((line, (place, key))) =
                    line.and_then(|line| line.origin.take().map(|origin| (line, origin)))
                else {
                    continue;
                };
                line.text = format!("# {}", line.text);
                self.note(place.as_ref(), &key, problem.reason.to_string());
            }
        }
        Some(text)
    }
}

/// Takes a key out of the last section.
fn drop_from_last_section(lines: &mut Vec<Line>, key: &str) {
    let header = lines.iter().rposition(|line| line.text.starts_with('[')).unwrap_or(0);
    let section = lines.split_off(header);
    lines.extend(section.into_iter().filter(|line| line.text.split(' ').next() != Some(key)));
}

/// Writes a name as the last part of a section's name.
fn section_name(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { quoted(name) }
}
