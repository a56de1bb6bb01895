//! The command line.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::{check, demo, operator, password};

/// Where the configuration is looked for, in this order.
const DEFAULT_PATHS: [&str; 2] = ["proxy.toml", "/etc/pgtandem/proxy.toml"];

/// A PostgreSQL connection pooler that also keeps other databases exact copies of the first.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    /// Configuration file [default: ./proxy.toml, then /etc/pgtandem/proxy.toml]
    #[arg(long, short, global = true, value_name = "FILE", env = "PGTANDEM_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to do; without it: run
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy in the foreground
    ///
    /// SIGINT lets clients finish their transactions and ends; SIGTERM ends when the clients have
    /// left; a second one, and SIGQUIT, end at once. SIGHUP reads the configuration again. SIGUSR1
    /// pauses, SIGUSR2 resumes.
    Run,
    /// Read the configuration, say everything that is wrong with it, and give advice
    ///
    /// With --connect also log in at every server, and say how many connections it allows. Exit
    /// codes: 0 in order, with or without advice; 1 a server did not let us in; 2 the configuration
    /// is wrong.
    Check(check::Args),
    /// Ask for a password and print its SCRAM secret, for proxy.toml or for CREATE ROLE ... PASSWORD
    ///
    /// Reads the terminal without showing what is typed, or one line of standard input.
    Password(password::Args),
    /// Turn PgBouncer's configuration into a proxy.toml on standard output
    ///
    /// The files it includes, its auth_file and its auth_hba_file are read too, so the output may
    /// hold passwords. What is not carried over is listed on standard error, with its place and the
    /// reason. Exit codes: 0 done, whatever is on that list; 2 the file cannot be read or parsed.
    Import {
        /// PgBouncer's configuration, such as /etc/pgbouncer/pgbouncer.ini
        file: PathBuf,
    },
    /// Show how secondaries are, and command them: copy, verify, repair, pause, resume, …
    ///
    /// Talks to the running proxy of the same configuration file through its admin console: as the
    /// account that the proxy runs as, through its Unix socket, without a password.
    Replication(operator::Args),
    /// Show the whole product on throw-away databases
    Demo(demo::Args),
}

impl Cli {
    /// Returns the configuration file to read.
    pub fn config_path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        let found = DEFAULT_PATHS.iter().map(Path::new).find(|path| path.exists());
        found.unwrap_or(Path::new(DEFAULT_PATHS[0])).to_owned()
    }
}
