//! Builds `proxy.toml`, and PgBouncer's `pgbouncer.ini` from the same settings.

use std::fmt::Write;

/// The settings of one proxy; a later setting of a key replaces the earlier one.
#[derive(Clone, Default)]
pub struct Config {
    general: Section,
    metrics: Section,
    databases: Vec<(String, Section)>,
    users: Vec<(String, Section)>,
    extra: String,
    env: Section,
}

/// Keys and values as written in TOML.
type Section = Vec<(String, String)>;

impl Config {
    /// Sets a key of `[general]`, written as in the file: `default_pool_size = 1`.
    pub fn general(mut self, line: &str) -> Self {
        set(&mut self.general, line);
        self
    }

    /// Sets a key of `[metrics]`; they are off unless a test wants them.
    pub fn metrics(mut self, line: &str) -> Self {
        set(&mut self.metrics, line);
        self
    }

    /// Sets keys of `[databases.NAME]`.
    pub fn database(mut self, name: &str, lines: &[&str]) -> Self {
        let section = named(&mut self.databases, name);
        for line in lines {
            set(section, line);
        }
        self
    }

    /// Takes `[databases.NAME]` away.
    pub fn without_database(mut self, name: &str) -> Self {
        self.databases.retain(|(known, _)| known != name);
        self
    }

    /// Sets keys of `[users.NAME]`.
    pub fn user(mut self, name: &str, lines: &[&str]) -> Self {
        let section = named(&mut self.users, name);
        for line in lines {
            set(section, line);
        }
        self
    }

    /// Appends text to the file as it is.
    pub fn extra(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self
    }

    /// Sets an environment variable of the proxy.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The environment variables that were set.
    pub fn envs(&self) -> &[(String, String)] {
        &self.env
    }

    /// The text of `proxy.toml`.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("[general]\n");
        write_lines(&mut text, &self.general);
        text.push_str("\n[metrics]\n");
        let off: Section = vec![("listen".to_owned(), "\"\"".to_owned())];
        write_lines(&mut text, if self.metrics.is_empty() { &off } else { &self.metrics });
        for (kind, sections) in [("databases", &self.databases), ("users", &self.users)] {
            for (name, section) in sections {
                let _ = writeln!(text, "\n[{kind}.\"{name}\"]");
                write_lines(&mut text, section);
            }
        }
        text + &self.extra
    }

    /// The text of `pgbouncer.ini`, which names its user list `users.txt` in `dir`.
    pub fn to_ini(&self, dir: &str) -> String {
        let mut text = String::from("[databases]\n");
        for (name, section) in &self.databases {
            let _ = writeln!(text, "{name} = {}", ini_pairs(section));
        }
        text.push_str("[users]\n");
        for (name, section) in &self.users {
            let keys: Section =
                section.iter().filter(|(key, _)| key != "password").cloned().collect();
            if !keys.is_empty() {
                let _ = writeln!(text, "{name} = {}", ini_pairs(&keys));
            }
        }
        let _ = writeln!(text, "[pgbouncer]\nauth_file = {dir}/users.txt");
        for (key, value) in &self.general {
            if key != "workers" {
                let _ = writeln!(text, "{key} = {}", ini_value(value));
            }
        }
        text
    }

    /// The text of PgBouncer's user list.
    pub fn to_user_list(&self) -> String {
        let users = self.users.iter().map(|(name, section)| {
            let password = section.iter().find(|(key, _)| key == "password");
            let password = password.map_or("", |(_, value)| value.trim_matches('"'));
            format!("\"{name}\" \"{password}\"\n")
        });
        users.collect()
    }
}

fn named<'a>(sections: &'a mut Vec<(String, Section)>, name: &str) -> &'a mut Section {
    let position = sections.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        sections.push((name.to_owned(), Section::new()));
        sections.len() - 1
    });
    &mut sections[position].1
}

fn set(section: &mut Section, line: &str) {
    let (key, value) = line.split_once('=').expect("key = value");
    let (key, value) = (key.trim(), value.trim());
    section.retain(|(known, _)| known != key);
    section.push((key.to_owned(), value.to_owned()));
}

fn write_lines(text: &mut String, section: &Section) {
    for (key, value) in section {
        let _ = writeln!(text, "{key} = {value}");
    }
}

fn ini_pairs(section: &Section) -> String {
    let pairs: Vec<_> =
        section.iter().map(|(key, value)| format!("{key}={}", ini_value(value))).collect();
    pairs.join(" ")
}

/// PgBouncer knows no quotes, and no unit of time but the second.
fn ini_value(value: &str) -> String {
    let value = value.trim_matches('"');
    match value.strip_suffix("ms").map(str::parse::<f64>) {
        Some(Ok(milliseconds)) => (milliseconds / 1000.0).to_string(),
        _ => value.to_owned(),
    }
}
