//! PostgreSQL's programs: where they are, and how they are run.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::error::{DemoError, Tail};
use super::workspace::shown;

/// The programs that must be in one folder.
const PROGRAMS: [&str; 4] = ["initdb", "postgres", "psql", "pgbench"];
/// Those of them that a server needs.
const SERVER: [&str; 2] = ["initdb", "postgres"];

/// An installed PostgreSQL.
#[derive(Debug)]
pub(super) struct Tools {
    folder: PathBuf,
    /// Where the programs are that are not of the server.
    clients: PathBuf,
    version: String,
    account: Option<Account>,
}

impl Tools {
    /// Finds them: on the PATH, where `pg_config` says, or where distributions put them, newest first.
    ///
    /// # Errors
    /// [`DemoError::NoPostgres`] says what to install.
    pub(super) async fn find() -> Result<Self, DemoError> {
        let mut looked_in = Vec::new();
        for folder in candidates().await {
            if has(&folder, &PROGRAMS) {
                let version = version(&folder).await?;
                let clients = folder.clone();
                return Ok(Self { folder, clients, version, account: Account::to_become() });
            }
            looked_in.push(folder);
        }
        Err(DemoError::NoPostgres { looked_in })
    }

    /// Finds the servers of another major version, if any is installed; the clients stay the same.
    pub(super) async fn of_another_version(&self) -> Option<Self> {
        for folder in candidates().await.into_iter().filter(|folder| has(folder, &SERVER)) {
            if let Ok(version) = version(&folder).await
                && major(&version) != major(&self.version)
            {
                let (clients, account) = (self.clients.clone(), self.account.clone());
                return Some(Self { folder, clients, version, account });
            }
        }
        None
    }

    /// Names the folder they are in.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names their version, as in `15.13`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Names the account they run as, if that is not our own.
    pub(super) fn account(&self) -> Option<&str> {
        self.account.as_ref().map(|account| account.name.as_str())
    }

    /// Prepares one of them to run, as somebody PostgreSQL accepts and without our settings for it.
    pub(super) fn command(&self, program: &str) -> Command {
        let folder = if SERVER.contains(&program) { &self.folder } else { &self.clients };
        let mut command = Command::new(folder.join(program));
        command.current_dir("/").env("LC_ALL", "C").env("PGPASSFILE", "/dev/null");
        for (name, _) in env::vars_os() {
            // PGHOST, PGOPTIONS and their like would lead elsewhere.
            if name.as_bytes().starts_with(b"PG") && name != "PGPASSFILE" {
                command.env_remove(name);
            }
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Hands a folder of ours to the account they run as.
    pub(super) fn hand_over(&self, folder: &Path) -> Result<(), DemoError> {
        let Some(account) = &self.account else { return Ok(()) };
        chown(folder, Some(account.uid), Some(account.gid)).map_err(|source| DemoError::File {
            action: "change the owner of",
            path: folder.to_owned(),
            source,
        })
    }
}

fn has(folder: &Path, programs: &[&str]) -> bool {
    programs.iter().all(|program| folder.join(program).is_file())
}

/// The part of a version before its first dot, as `15` of `15.13` and of `15beta2`.
fn major(version: &str) -> &str {
    version.split_once(|c: char| !c.is_ascii_digit()).map_or(version, |(major, _)| major)
}

/// Folders to look into, best first, each once.
async fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    folders.extend(configured().await);
    // Debian and Ubuntu; Red Hat's packages from postgresql.org.
    let mut packaged = packages(Path::new("/usr/lib/postgresql"), "");
    packaged.extend(packages(Path::new("/usr"), "pgsql-"));
    // Stable: folders of the same version stay in the order above.
    packaged.sort_by(|a, b| b.0.cmp(&a.0));
    folders.extend(packaged.into_iter().map(|(_, folder)| folder));
    folders.push(PathBuf::from("/usr/local/pgsql/bin"));

    let mut seen = BTreeSet::new();
    folders.retain(|folder| folder.is_absolute() && seen.insert(folder.clone()));
    folders
}

/// The folder that `pg_config` names, if there is one.
async fn configured() -> Option<PathBuf> {
    let output =
        Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().await.ok()?;
    let line = output.stdout.trim_ascii();
    (output.status.success() && !line.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(line)))
}

/// Finds every `parent/prefixVERSION/bin`.
fn packages(parent: &Path, prefix: &str) -> Vec<(Vec<u32>, PathBuf)> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = numbers(name.to_str()?.strip_prefix(prefix)?)?;
            Some((version, entry.path().join("bin")))
        })
        .collect()
}

/// Reads a version such as `17` or `9.6`, so that it compares as people expect.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}

/// Asks the server for its version.
async fn version(folder: &Path) -> Result<String, DemoError> {
    let mut command = Command::new(folder.join("postgres"));
    command.arg("--version").stdin(Stdio::null());
    let output = command
        .output()
        .await
        .map_err(|source| DemoError::Start { command: shown(&command), source })?;
    let said = String::from_utf8_lossy(&output.stdout);
    version_in(&said).map(str::to_owned).ok_or_else(|| DemoError::Unreadable {
        command: shown(&command),
        what: "version",
        output: Tail::of(&said),
    })
}

/// Reads `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`.
fn version_in(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

/// Somebody who is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Chooses whom to run PostgreSQL as: nobody else, unless we are root, whom it refuses.
    fn to_become() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let list = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let nobody = || Self { name: "nobody".to_owned(), uid: 65534, gid: 65534 };
        let found = Self::in_list(&list, "postgres").or_else(|| Self::in_list(&list, "nobody"));
        Some(found.unwrap_or_else(nobody))
    }

    /// Finds `name` in the text of `/etc/passwd`.
    fn in_list(list: &str, name: &str) -> Option<Self> {
        list.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { name: name.to_owned(), uid, gid })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compare_as_numbers() {
        let debian = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n";
        assert_eq!(version_in(debian), Some("15.13"));
        assert_eq!(version_in("postgres (PostgreSQL) 19devel\n"), Some("19devel"));
        assert_eq!(version_in("no such thing"), None);
        assert!(numbers("9.6") < numbers("10") && numbers("9") < numbers("17"));
        assert_eq!(numbers("17-old"), None);
    }

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let list = "root:x:0:0:root:/root:/bin/sh\npostgresql:x:7:8::/:\npostgres:x:101:104::/:\n";
        let postgres = Account { name: "postgres".to_owned(), uid: 101, gid: 104 };
        assert_eq!(Account::in_list(list, "postgres"), Some(postgres));
        assert_eq!(Account::in_list(list, "nobody"), None);
        assert_eq!(Account::in_list("nobody:x:many:4\n", "nobody"), None);
    }
}
