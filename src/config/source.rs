//! The text of a configuration, kept so that single keys can be set on top of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{Config, ConfigError, Files};

/// The text of a configuration file. It may hold passwords: wiped when dropped, never printed.
#[derive(Clone, Default)]
pub struct Source {
    file_name: String,
    text: Zeroizing<String>,
    overlay: Overlay,
}

/// Keys of `[general]` that were set by hand, with their values as text.
pub(super) type Overlay = BTreeMap<String, String>;

impl Source {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if there is no such file or it is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Ok(Self {
            file_name: path.display().to_string(),
            text: Zeroizing::new(text),
            overlay: Overlay::new(),
        })
    }

    /// Checks it, with the variables of our environment. A variable that is not UTF-8 counts as not
    /// set.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem in it.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        let env = |name: &str| std::env::var(name).ok();
        Config::parse_with(&self.text, &self.file_name, &env, &self.overlay, Files::Read)
    }

    /// Returns the same with a key of `[general]` set; `value` is written as in the file without
    /// the quotes, lists with commas.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.overlay.insert(key.to_owned(), value.to_owned());
        changed
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("file_name", &self.file_name)
            .field("overlay", &self.overlay)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it is ours");
        Source::read(file.path()).expect("it is there")
    }

    fn error(source: &Source) -> String {
        source.parse().expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_key_is_set_on_top_of_the_file() {
        let file = source("[general]\ndefault_pool_size = 7\n[databases.a]\n");
        let set = file
            .with("default_pool_size", "8")
            .with("query_timeout", "250ms")
            .with("log_connections", "0")
            .with("admin_users", "ann, bob");
        let config = set.parse().expect("it is correct");
        assert_eq!(config.general.pool.default_pool_size, 8);
        assert_eq!(config.general.pool.query_timeout.as_millis(), 250);
        assert!(!config.general.log_connections);
        assert_eq!(config.general.admin_users, ["ann", "bob"]);
        assert!(config.databases.contains_key("a"));
        assert_eq!(file.parse().expect("unchanged").general.pool.default_pool_size, 7);
        let later = set.with("default_pool_size", "9").parse().expect("it is correct");
        assert_eq!(later.general.pool.default_pool_size, 9);
    }

    #[test]
    fn a_file_without_the_section_can_be_set_too() {
        let config = source("").with("listen_port", "1").parse().expect("it is correct");
        assert_eq!(config.general.listen_port, 1);
    }

    #[test]
    fn what_is_wrong_is_said_without_a_line() {
        let file = source("[general]\ndefault_pool_size = 7\n");
        assert_eq!(
            error(&file.with("default_pool_size", "x")),
            "default_pool_size: \"x\" is not a whole number"
        );
        assert_eq!(
            error(&file.with("default_pool_sice", "1")),
            "default_pool_sice: unknown key; did you mean \"default_pool_size\"?"
        );
        assert!(error(&source("").with("listen_prot", "1")).contains("listen_port"));
        // Together with what the file says.
        let text = error(&file.with("min_pool_size", "8"));
        assert!(text.contains("min_pool_size"), "{text}");
        assert!(!format!("{:?}", source("secret")).contains("secret"));
    }
}
