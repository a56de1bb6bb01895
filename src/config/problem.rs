//! What can be wrong with a configuration, said so that it can be put right without the manual.
//!
//! A [`Reason`] never carries the value of a password.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Says why there is no configuration; prints every problem, one per line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Read {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said; part of the message, therefore not a `#[source]`.
        error: io::Error,
    },
    /// The file was read, and has at least one problem.
    #[error("{}", OnePerLine(problems))]
    Invalid {
        /// All problems in the order of their lines.
        problems: Vec<Problem>,
    },
}

/// One problem, with the place to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named to us; empty for a key that was set by hand.
    pub file: String,
    /// Counted from 1; 0 for a key that was set by hand.
    pub line: usize,
    /// Full path of the offending key, such as `databases.app.port`; empty if the text is not TOML.
    pub key: String,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.file, self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.reason.fmt(f)
    }
}

/// What is wrong with one key or its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not TOML; the text is the parser's.
    #[error("{0}")]
    Syntax(String),
    /// A key that does not exist here.
    #[error("unknown key{0}")]
    UnknownKey(Hint),
    /// A section that does not exist.
    #[error("unknown section{0}")]
    UnknownSection(Hint),
    /// A key, section or value that a later version will understand.
    #[error("{0} not available in this version")]
    Unavailable(Unavailable),
    /// A value of the wrong TOML type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// With an example where it helps.
        expected: &'static str,
        /// The TOML type that was found.
        found: &'static str,
    },
    /// A word that is not one of the choices.
    #[error("{found:?} is not one of {}{hint}", choices.join(", "))]
    NotAChoice {
        /// The word that was found.
        found: String,
        /// All words that would do.
        choices: &'static [&'static str],
        /// The choice that was probably meant.
        hint: Hint,
    },
    /// A number, duration or size outside its bounds.
    #[error("{found} is out of range, expected {expected}")]
    OutOfRange {
        /// As it was written.
        found: String,
        /// The bounds in words.
        expected: String,
    },
    /// A text that does not have the shape its key needs.
    #[error("{found:?} is not {expected}")]
    Malformed {
        /// As it was written, after `${…}` was filled in.
        found: String,
        /// The shape in words, with an example.
        expected: &'static str,
    },
    /// A pool without bound.
    #[error(
        "0 would mean an unlimited pool, which is refused because the bound is what protects the \
         server; set the greatest number of connections to open"
    )]
    UnlimitedPool,
    /// Replication of the entry that stands for all databases.
    #[error("a secondary follows one database: give it a section of its own")]
    ReplicationOfAny,
    /// Secondaries that nothing leads.
    #[error("secondaries need a section \"replication\" beside them")]
    SecondariesAlone,
    /// Nobody to install capture.
    #[error("needed, unless the database has a user: the role that owns the tables")]
    NoAdminUser,
    /// A text that must not be empty.
    #[error("must not be empty")]
    Empty,
    /// A NUL byte, which would end a string of the wire protocol early.
    #[error("must not contain a NUL character")]
    Nul,
    /// A path that would make a socket address longer than the system's bound.
    #[error("a socket in this directory would have a path of {bytes} bytes, the limit is {max}")]
    SocketPathTooLong {
        /// With the longest file name we or PostgreSQL put there.
        bytes: usize,
        /// `sun_path` without its terminator.
        max: usize,
    },
    /// Begins like a SCRAM secret and is none.
    #[error(
        "begins like a SCRAM secret and is not SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
    )]
    BadScramSecret,
    /// `${NAME}` of a variable that is not set.
    #[error("environment variable {name} is not set")]
    MissingVariable {
        /// Without `${}`.
        name: String,
    },
    /// `${` that is not followed by a name and `}`.
    #[error("bad reference to an environment variable: write ${{NAME}}, or $${{ for a plain ${{")]
    BadReference,
    /// A database name the proxy keeps for its admin console.
    #[error("this name is reserved for the admin console")]
    ReservedName,
    /// More connections to keep open than the pool may have.
    #[error("min_pool_size {min} is above the pool's size of {size}")]
    MinAboveSize {
        /// The `min_pool_size` in force.
        min: u32,
        /// The pool size in force.
        size: u32,
    },
    /// A list of ports that does not go with the list of hosts.
    #[error("{ports} ports for {hosts} hosts: give one for each, or one for all")]
    PortsOfHosts {
        /// How many hosts there are.
        hosts: usize,
        /// How many ports there are.
        ports: usize,
    },
    /// A file that a key names, and that is needed now.
    #[error("{path}: cannot be read: {error}")]
    Unreadable {
        /// As it was written.
        path: String,
        /// What the system said.
        error: String,
    },
    /// A key, or what it says, that cannot do without another key.
    #[error("needs {key} too")]
    Needs {
        /// The other key.
        key: &'static str,
    },
    /// Logins by certificates that nobody checks.
    #[error("\"cert\" needs client_tls_sslmode = \"verify-ca\" or \"verify-full\"")]
    CertWithoutCa,
    /// A database that others are to be asked about, and that is not configured.
    #[error("{0:?} is no database of this file")]
    NoSuchDatabase(String),
    /// A line of a file that a key names.
    #[error("{0}")]
    Line(String),
    /// Neither TCP nor a Unix socket.
    #[error("nothing to listen on: both listen_addr and unix_socket_dir are empty")]
    NothingToListenOn,
}

/// What a later version will understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// The whole key or section.
    This,
    /// Only this value or way to write it; a phrase with its verb, such as `"cert" is`.
    Value(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::This => f.write_str("is"),
            Self::Value(phrase) => f.write_str(phrase),
        }
    }
}

/// What was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// No idea.
    None,
    /// A similar word that exists, or the name that is used here.
    Word(&'static str),
    /// The key exists, in this other section.
    Section(&'static str),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Word(word) => write!(f, "; did you mean {word:?}?"),
            Self::Section(section) => write!(f, "; it belongs in {section}"),
        }
    }
}

struct OnePerLine<'a>(&'a [Problem]);

impl fmt::Display for OnePerLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
