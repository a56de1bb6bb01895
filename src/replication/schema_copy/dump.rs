//! Finds `pg_dump`, and runs it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::config::{Host, Server};
use crate::replication::connect::Target;

/// Where packages put PostgreSQL's programs: `<here>/<version>/bin`, or `<here><version>/bin`.
const PLACES: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// LIMIT: bytes of a schema.
const SCHEMA_MAX: u64 = 256 << 20;

/// LIMIT: bytes of what `pg_dump` complains about.
const COMPLAINT_MAX: u64 = 4 << 10;

/// How long reading a schema may take, locks that others hold included.
const PATIENCE: Duration = Duration::from_mins(30);

/// How long a program may take to say its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);

/// Why a schema could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// No program is new enough.
    #[error(
        "no pg_dump of PostgreSQL {wanted} or later{found}: install it, or name it as pg_dump \
             in the replication section"
    )]
    TooOld {
        /// The primary's version.
        wanted: u32,
        /// What was found, in words.
        found: String,
    },
    /// It cannot be run.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It failed.
    #[error("{} failed with {status}: {complaint}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        complaint: String,
    },
    /// It took too long.
    #[error("{} has not ended within {PATIENCE:?}", program.display())]
    TimedOut {
        /// The program.
        program: PathBuf,
    },
    /// It printed what we cannot use.
    #[error("{} printed {what}", program.display())]
    Unusable {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A part of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// What there must be before rows.
    PreData,
    /// What is better made over rows that are there.
    PostData,
}

/// A `pg_dump`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(PathBuf);

impl Program {
    /// Finds one that knows servers of version `wanted`: the configured one, else the oldest that
    /// does, since what it prints is also for a secondary that may be older.
    pub(super) async fn find(configured: Option<&Path>, wanted: u32) -> Result<Self, DumpError> {
        let candidates = configured.map_or_else(candidates, |path| vec![path.to_owned()]);
        let mut known = Vec::new();
        for path in candidates {
            match version(&path).await {
                Ok(version) => known.push((version, path)),
                Err(error) if configured.is_some() => return Err(error),
                Err(_) => {}
            }
        }
        let new_enough = known.iter().filter(|(version, _)| *version >= wanted);
        if let Some((_, path)) = new_enough.min_by_key(|(version, _)| *version) {
            return Ok(Self(path.clone()));
        }
        let name = |(version, path): &(u32, PathBuf)| format!("{version} at {}", path.display());
        let found = known.iter().map(name).collect::<Vec<_>>().join(", ");
        let found = if found.is_empty() { found } else { format!(" (found {found})") };
        Err(DumpError::TooOld { wanted, found })
    }

    /// Reads a part of a schema, as it is in an exported snapshot of `target`.
    ///
    /// Cancel safe: yes, the program is killed.
    pub(super) async fn dump(
        &self,
        target: &Target,
        section: Section,
        snapshot: &str,
    ) -> Result<String, DumpError> {
        let mut command = command(&self.0);
        let section = match section {
            Section::PreData => "--section=pre-data",
            Section::PostData => "--section=post-data",
        };
        command.args([section, "--no-password", "--encoding=UTF8", "--lock-wait-timeout=60s"]);
        // What subscribes there would compete with us, and tablespaces are other places there.
        command.args(["--no-publications", "--no-subscriptions", "--no-tablespaces"]);
        command.args(["--exclude-schema=pgtandem", "--snapshot", snapshot]);
        command.arg("--dbname").arg(conninfo(target));
        if let Some(password) = &target.password {
            command.env("PGPASSWORD", std::ffi::OsStr::from_bytes(password.expose()));
        }
        let output = self.run(command).await?;
        String::from_utf8(output).map_err(|_| self.unusable("text that is not UTF-8"))
    }

    async fn run(&self, command: Command) -> Result<Vec<u8>, DumpError> {
        let timed_out = |_| DumpError::TimedOut { program: self.0.clone() };
        let (output, complaint, status) =
            tokio::time::timeout(PATIENCE, run(command, &self.0)).await.map_err(timed_out)??;
        if !status.success() {
            let lines = complaint.lines().map(str::trim).filter(|line| !line.is_empty());
            let complaint = lines.collect::<Vec<_>>().join("; ");
            return Err(DumpError::Failed { program: self.0.clone(), status, complaint });
        }
        if u64::try_from(output.len()).is_ok_and(|length| length >= SCHEMA_MAX) {
            return Err(self.unusable("a schema that is too large"));
        }
        Ok(output)
    }

    fn unusable(&self, what: &'static str) -> DumpError {
        DumpError::Unusable { program: self.0.clone(), what }
    }
}

/// A program that sees none of our settings for libpq: what it needs is said.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.as_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a program; what it prints is cut off at the limits.
async fn run(
    mut command: Command,
    program: &Path,
) -> Result<(Vec<u8>, String, ExitStatus), DumpError> {
    let wrong = |source| DumpError::Run { program: program.to_owned(), source };
    let mut child = command.spawn().map_err(wrong)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let read_out = async {
        match out {
            Some(out) => out.take(SCHEMA_MAX).read_to_end(&mut output).await,
            None => Ok(0),
        }
    };
    let read_err = async {
        match err {
            Some(err) => err.take(COMPLAINT_MAX).read_to_end(&mut complaint).await,
            None => Ok(0),
        }
    };
    // Pipes that nobody reads any more end the program.
    let (out, err) = tokio::join!(read_out, read_err);
    out.and(err).map_err(wrong)?;
    let status = child.wait().await.map_err(wrong)?;
    Ok((output, String::from_utf8_lossy(&complaint).into_owned(), status))
}

/// Asks a program for its version: `pg_dump (PostgreSQL) 15.18 (Debian …)`.
async fn version(path: &Path) -> Result<u32, DumpError> {
    let unusable = |what| DumpError::Unusable { program: path.to_owned(), what };
    let mut command = command(path);
    command.arg("--version");
    let asked = tokio::time::timeout(VERSION_PATIENCE, run(command, path)).await;
    let (output, ..) = asked.map_err(|_| unusable("no version in time"))??;
    let text = String::from_utf8_lossy(&output);
    let number = text.strip_prefix("pg_dump (PostgreSQL) ").unwrap_or_default();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| unusable("something else than the version of a pg_dump"))
}

/// Where one may be: a real one is better than a wrapper in PATH that chooses one.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (place, prefix) in PLACES {
        let folders = std::fs::read_dir(place).into_iter().flatten().flatten();
        let is_one = |name: &std::ffi::OsStr| {
            let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let folders = folders.filter(|folder| is_one(&folder.file_name()));
        found.extend(folders.map(|folder| folder.path().join("bin/pg_dump")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|folder| folder.join("pg_dump")));
    found.retain(|path| path.is_file());
    found
}

/// Where to connect, in libpq's words; the password is not for everybody's eyes.
fn conninfo(target: &Target) -> String {
    let host = |server: &Server| match &server.host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    };
    let hosts: Vec<String> = target.servers.iter().map(host).collect();
    let ports: Vec<String> = target.servers.iter().map(|server| server.port.to_string()).collect();
    // What a standby shows is not the present. Older libpqs know no word for a primary.
    let attrs = if target.is_primary && hosts.len() > 1 { "read-write" } else { "any" };
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    format!(
        "host='{}' port='{}' target_session_attrs='{attrs}' user='{}' dbname='{}' \
         application_name='{}' connect_timeout='{}'",
        quoted(&hosts.join(",")),
        ports.join(","),
        quoted(&target.user),
        quoted(&target.dbname),
        crate::replication::connect::APPLICATION_NAME,
        target.timeout.as_secs().clamp(2, 600),
    )
}
