//! `pgbouncer.ini` → the text of a `proxy.toml` that behaves the same, and a list of what is lost.
//!
//! Every setting is written as a line of TOML and shown to our own configuration, which decides
//! whether it exists here and fits; what does not is reported with its place and the reason. What
//! PgBouncer does by default and we do not is written out. Lists of users, rules and maps stay the
//! files that they are. Passwords go into the result and nowhere else. Reads files, writes none.

mod ini;
mod settings;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ini::Entry;
pub use ini::{IniError, Place};

/// What became of a configuration of PgBouncer's.
pub struct Imported {
    /// The text of `proxy.toml`; may hold passwords.
    pub text: String,
    /// What is not in it, in the order of its places.
    pub notes: Vec<Note>,
    /// Whether there are passwords in the text.
    pub has_secrets: bool,
    /// What our own configuration has against the text; anything here is a mistake of ours.
    pub mismatch: Option<String>,
}

impl fmt::Debug for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imported").field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// Something that was not carried over, or not as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Where it was written; `None` for something that was not.
    pub place: Option<Place>,
    /// The key, with its section where that is not `[pgbouncer]`.
    pub key: String,
    /// What is lost, and why; without values that may be secret.
    pub reason: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.key, self.reason)
    }
}

/// Reads PgBouncer's configuration at `path` and the files that it names.
///
/// # Errors
/// [`IniError`] where PgBouncer could not read the file either. What is wrong in an `auth_file` or
/// `auth_hba_file` is a [`Note`], as it is only a message in PgBouncer's log.
pub fn import(path: &Path) -> Result<Imported, IniError> {
    let entries = ini::read(path)?;
    let mut notes = Vec::new();
    let source = Source::collect(entries, &mut notes);
    Ok(write::write(path, &source, notes))
}

/// A value, and where it was written.
type Given = (Place, String);

/// PgBouncer's settings as they were written; the last of several counts.
#[derive(Default)]
struct Source {
    general: BTreeMap<String, Given>,
    /// In the order of the file.
    databases: Vec<(String, Given)>,
    /// In the order of the file.
    users: Vec<(String, Given)>,
}

impl Source {
    fn collect(entries: Vec<(Place, Entry)>, notes: &mut Vec<Note>) -> Self {
        let mut source = Self::default();
        let mut section = None;
        for (place, entry) in entries {
            match entry {
                Entry::Section(name) => {
                    source.begin(&name, &place, notes);
                    section = Some(name);
                }
                Entry::Setting { key, value } => match section.as_deref() {
                    Some("pgbouncer") => drop(source.general.insert(key, (place, value))),
                    Some("databases") => replace(&mut source.databases, key, (place, value)),
                    Some("users") => replace(&mut source.users, key, (place, value)),
                    Some("peers") => notes.push(Note {
                        place: Some(place),
                        key: format!("peers.{key}"),
                        reason: "not available in this version".to_owned(),
                    }),
                    Some(_) => {}
                    None => notes.push(Note {
                        place: Some(place),
                        key,
                        reason: "it is in no section; PgBouncer refuses it too".to_owned(),
                    }),
                },
            }
        }
        source
    }

    fn begin(&mut self, section: &str, place: &Place, notes: &mut Vec<Note>) {
        let reason = match section {
            "pgbouncer" if !self.general.is_empty() => {
                // Source: libusual `usual/cfparser.c`, `fill_defaults`.
                self.general.clear();
                "begins again: as in PgBouncer, what was set above in this section is forgotten"
            }
            "pgbouncer" | "databases" | "users" | "peers" => return,
            _ => "unknown section; PgBouncer refuses it too",
        };
        let key = format!("[{section}]");
        notes.push(Note { place: Some(place.clone()), key, reason: reason.to_owned() });
    }

    /// Returns what was given for a key of `[pgbouncer]`.
    fn general(&self, key: &str) -> Option<&str> {
        self.general.get(key).map(|(_, value)| value.as_str())
    }

    /// The directory of the Unix socket through which PgBouncer reaches a server without host.
    fn socket_dir(&self) -> &str {
        match self.general("unix_socket_dir") {
            None | Some("") => "/tmp",
            Some(directory) => directory,
        }
    }
}

fn replace(all: &mut Vec<(String, Given)>, name: String, given: Given) {
    match all.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = given,
        None => all.push((name, given)),
    }
}

/// Finds a file that PgBouncer would look for where it was started; if it is not where we were, it
/// may be beside the configuration at `top`.
fn located(path: &str, top: &Path) -> PathBuf {
    let path = Path::new(path);
    match top.parent() {
        Some(folder) if path.is_relative() && !path.exists() && folder.join(path).exists() => {
            folder.join(path)
        }
        _ => path.to_owned(),
    }
}

/// Reads a file that is looked for like that.
fn read_near(path: &Path, top: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(located(&path.to_string_lossy(), top))
}

#[cfg(test)]
mod tests;
