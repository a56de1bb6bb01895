//! `auth_hba_file` and `auth_ident_file`: PostgreSQL's own files, as far as a pooler can follow them.
//!
//! What it cannot follow is a problem of the file, and never left out: a rule that is skipped lets
//! in whom it was to keep out. Which rule decides about a client is found out elsewhere.

mod map;
mod rule;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use map::MapEntry;
pub use rule::{
    Addresses, CertificateDemand, Connection, DatabaseNames, Pattern, Rule, RuleMethod, UserNames,
};

use super::file::NamedFile;
use super::problem::Reason;
use super::raw::Walk;
use text::Line;

/// A file that is read line by line, each of which is a `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFile<T> {
    /// The file itself; those that it names are looked at by what they say.
    pub file: NamedFile,
    /// As of when it was read.
    entries: Arc<[T]>,
}

/// The rules that say who must prove what; the first that fits decides.
pub type HbaFile = LineFile<Rule>;

/// The maps of users.
pub type IdentFile = LineFile<MapEntry>;

impl<T> LineFile<T> {
    pub(super) fn new(file: NamedFile) -> Self {
        Self { file, entries: Arc::from([]) }
    }

    /// Returns what is in it, in its order, once it has been read.
    pub fn entries(&self) -> &[T] {
        &self.entries
    }

    fn read_each(
        &mut self,
        walk: &mut Walk<'_>,
        key: &str,
        parse: impl Fn(&Line) -> Result<T, String>,
    ) {
        self.file.read(walk, "general", key);
        let Some(content) = self.file.content() else { return };
        let text = String::from_utf8_lossy(content).into_owned();
        let mut entries = Vec::new();
        for line in text::read(walk, self.file.path(), &text) {
            match parse(&line) {
                Ok(entry) => entries.push(entry),
                Err(reason) => walk.report_in(&line.file, line.number, Reason::Line(reason)),
            }
        }
        self.entries = Arc::from(entries);
    }
}

impl HbaFile {
    /// Reads the file and those that it names, and reports all that is wrong with them.
    /// `has_authorities` says whether certificates can be checked.
    pub(super) fn read(&mut self, walk: &mut Walk<'_>, has_authorities: bool) {
        self.read_each(walk, "auth_hba_file", |line| {
            let rule = Rule::parse(line)?;
            if rule.wants_certificate() && !has_authorities {
                let reason = "client certificates can only be checked with client_tls_ca_file, and \
                              client_tls_sslmode other than \"disable\"";
                return Err(reason.to_owned());
            }
            Ok(rule)
        });
        // It would let nobody in, which is never meant. Source: PostgreSQL, `load_hba`.
        if self.file.content().is_some() && self.entries.is_empty() && walk.is_all_clean() {
            let reason = Reason::Line("there is no rule in it: nobody could log in".to_owned());
            walk.report_in(self.file.path(), 1, reason);
        }
    }
}

impl IdentFile {
    /// Reads the file and those that it names, and reports all that is wrong with them.
    pub(super) fn read(&mut self, walk: &mut Walk<'_>) {
        self.read_each(walk, "auth_ident_file", MapEntry::parse);
    }

    /// Says whether a map lets `system_user` be `user`; without a map only who is called so.
    pub fn allows(&self, map: &str, system_user: &str, user: &str) -> bool {
        if map.is_empty() {
            return system_user == user;
        }
        self.entries.iter().any(|entry| entry.allows(map, system_user, user))
    }
}
