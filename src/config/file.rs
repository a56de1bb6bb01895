//! Files that keys name. Their bytes are a part of the configuration, so that something else in the
//! same file is a difference.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::Reason;
use super::raw::{Walk, join};
use super::read;
use super::value::Value;
use crate::secret::Secret;

/// LIMIT: bytes of a file. That of all public authorities has 220 kB, one with 100,000 users and
/// their SCRAM secrets 15 MB.
const BYTES_MAX: u64 = 64 << 20;

/// A file that a key names; or none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct NamedFile {
    path: PathBuf,
    /// What is in it, once it has been read.
    content: Option<Arc<Secret>>,
}

impl NamedFile {
    /// Says whether none is named.
    pub fn is_none(&self) -> bool {
        self.path.as_os_str().is_empty()
    }

    /// Returns where it is; empty if there is none.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is in it; `None` if there is none, or it was not read.
    pub fn content(&self) -> Option<&[u8]> {
        self.content.as_ref().map(|content| content.expose())
    }

    /// Reads it, if there is one; that it cannot be read is a problem of its key.
    pub(super) fn read(&mut self, walk: &mut Walk<'_>, section: &str, key: &str) {
        if self.is_none() {
            return;
        }
        match content(&self.path) {
            Ok(content) => self.content = Some(Arc::new(content)),
            Err(error) => {
                let (path, error) = (self.path.display().to_string(), error.to_string());
                walk.report(join(section, key), Reason::Unreadable { path, error });
            }
        }
    }
}

impl fmt::Debug for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.path, f)
    }
}

/// A file to read; empty means none.
pub(super) fn file(value: &Value) -> Result<NamedFile, Reason> {
    Ok(NamedFile { path: PathBuf::from(read::text(value)?), content: None })
}

/// Reads a whole file within its bound.
pub(super) fn content(path: &Path) -> io::Result<Secret> {
    let mut content = Vec::new();
    let count = File::open(path)?.take(BYTES_MAX).read_to_end(&mut content)?;
    if u64::try_from(count).is_ok_and(|count| count == BYTES_MAX) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Secret::new(content))
}
