//! Where the servers of a database are, which of them are wanted, and how one is chosen.

use std::fmt;
use std::path::PathBuf;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A host name or an IP address.
    Tcp(String),
    /// The directory of a Unix socket, as an absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => f.write_str(name),
            Self::Unix(directory) => directory.display().fmt(f),
        }
    }
}

/// A server: host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server {
    /// Where it listens.
    pub host: Host,
    /// Its port, also for a Unix socket.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            host @ (Host::Tcp(_) | Host::Unix(_)) => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Which server of a list the next connection goes to; PgBouncer's `load_balance_hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LoadBalance {
    /// The next in the list.
    #[default]
    RoundRobin,
    /// That of the last connection, until it fails.
    Disable,
}

impl LoadBalance {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Disable => "disable",
        }
    }
}

/// What a server must be for connections to go there; libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SessionAttrs {
    /// Whatever it is.
    #[default]
    Any,
    /// Sessions can write by default.
    ReadWrite,
    /// Sessions cannot.
    ReadOnly,
    /// It is not in recovery.
    Primary,
    /// It is in recovery.
    Standby,
    /// It is in recovery; whatever it is if none is.
    PreferStandby,
}

impl SessionAttrs {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }
}
