//! `proxy.toml` → checked, immutable [`Config`].
//!
//! A file is taken whole or not at all: every problem is reported at once, with its line, the
//! offending key, and what was probably meant. After that nothing in the crate meets a value it
//! would have to check again. Opens the file and those that it names, looks up environment variables
//! for `${NAME}`, and does nothing else outside its memory; changes nothing in force.
//!
//! The way of a value: `raw` finds it in the text, `value` fills in variables, `read` checks
//! it for one kind of key, `keys` lists all keys with their defaults, `checked` is the result.

mod advice;
mod auth;
mod checked;
mod diff;
mod entries;
mod file;
mod hba;
mod keys;
mod kind;
mod network;
mod problem;
mod raw;
mod read;
mod servers;
mod source;
mod suggest;
mod tls;
mod units;
mod userlist;
mod value;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use auth::{AuthLookup, AuthSettings, DatabaseAuth};
pub use checked::{
    ANY_DATABASE, AuthType, Capture, Config, Consistency, Database, Ddl, FollowingRules, General,
    LogFormat, Logging, Metrics, PoolDefaults, PoolMode, PoolSettings, Replication, Secondary,
    SessionState, User, is_reserved,
};
pub use diff::{Difference, Sections, is_for_start};
pub use entries::Entry;
pub use file::NamedFile;
pub use hba::{
    Addresses, CertificateDemand, Connection, DatabaseNames, HbaFile, IdentFile, LineFile,
    MapEntry, Pattern, Rule, RuleMethod, UserNames,
};
pub use network::Network;
pub use problem::{ConfigError, Hint, Problem, Reason, Unavailable};
pub use servers::{Host, LoadBalance, Server, SessionAttrs};
pub use source::Source;
pub use tls::{
    Ciphers, ClientTls, DatabaseTls, ServerTls, SslMode, TLS12_CIPHERS, TLS13_CIPHERS, TlsProtocols,
};
pub use units::duration;
pub use userlist::{UserFile, Users};

use source::Overlay;

/// Reads and checks the configuration at `path`, with the variables of our environment.
///
/// A variable that is not UTF-8 counts as not set.
///
/// # Errors
/// [`ConfigError::Read`] if there is no such file or it is not UTF-8; [`ConfigError::Invalid`] with
/// every problem in it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Source::read(path)?.parse()
}

/// What becomes of files that keys name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// They are read, and those that cannot be are problems.
    Read,
    /// They need not even be there: the configuration is for another time or place.
    Unread,
}

impl Config {
    /// Checks the configuration in `text`; `file_name` is for messages, `env` finds variables. Files
    /// that keys name are not looked at.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem. Where the text is not TOML, problems on later
    /// lines are left out, because what these lines mean is a guess.
    pub fn parse(
        text: &str,
        file_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::parse_with(text, file_name, env, &Overlay::new(), Files::Unread)
    }

    /// Checks the configuration in `text`, and reads the files that its keys name.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_with_files(
        text: &str,
        file_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::parse_with(text, file_name, env, &Overlay::new(), Files::Read)
    }

    /// Checks the configuration in `text` with some keys of `[general]` set on top of it.
    fn parse_with(
        text: &str,
        file_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
        overlay: &Overlay,
        files: Files,
    ) -> Result<Self, ConfigError> {
        let mut walk = raw::Walk::new(file_name, text, env);
        walk.overlay = Some(overlay);
        let (root, first_error) = walk.parse();
        let mut config = keys::config(&mut walk, &root);
        if let Some(line) = first_error {
            walk.keep_before(line);
        } else {
            keys::check_together(&mut walk, &config);
            if files == Files::Read {
                auth::read_files(&mut walk, &mut config);
                tls::read_files(&mut walk, &mut config);
            }
        }
        let problems = walk.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { problems }) }
    }
}
