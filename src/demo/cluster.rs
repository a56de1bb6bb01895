//! Throw-away PostgreSQL clusters.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::distr::Alphanumeric;
use rustix::process::Signal;
use tokio::process::Command;

use super::error::{DemoError, Tail};
use super::tools::Tools;
use super::workspace::{Workspace, shown};

/// The database that the demo works in.
pub(super) const DATABASE: &str = "app";

/// The cluster's superuser, who gets in only through the Unix socket in the cluster's own folder.
const SUPERUSER: &str = "postgres";

/// A running PostgreSQL with an empty cluster of its own.
///
/// TCP on the loopback address asks for SCRAM passwords, like any serious server.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    tools: &'a Tools,
    folder: PathBuf,
    port: u16,
}

impl<'a> Cluster<'a> {
    /// Makes the cluster `name` and starts it for up to `connections` clients.
    ///
    /// It runs until the workspace is closed.
    pub(super) async fn create(
        workspace: &mut Workspace,
        tools: &'a Tools,
        name: &'static str,
        connections: u32,
    ) -> Result<Self, DemoError> {
        let folder = workspace.folder(name)?;
        tools.hand_over(&folder)?;
        let data = folder.join("data");
        workspace.run(initdb(tools, &data), "", |_| ()).await?;

        let port = free_port()?;
        let mut server = tools.command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&folder);
        for setting in [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "password_encryption=scram-sha-256".to_owned(),
            format!("max_connections={connections}"),
            "shared_buffers=256MB".to_owned(),
            // The data is thrown away anyway, and other people's disks are not ours to wear out.
            "fsync=off".to_owned(),
            "full_page_writes=off".to_owned(),
        ] {
            server.arg("-c").arg(setting);
        }
        let pid_file = data.join("postmaster.pid");
        // INT is PostgreSQL's "fast shutdown": disconnect everybody, write everything down, end.
        workspace.serve(name, server, Signal::INT, async || is_ready(&pid_file)).await?;
        Ok(Self { tools, folder, port })
    }

    /// Tells its TCP port on the loopback address.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Tells the version of the server, as in `15.13`.
    pub(super) fn version(&self) -> &str {
        self.tools.version()
    }

    /// Runs SQL in `database` as superuser; returns the result's rows, columns parted by `|`.
    pub(super) async fn sql(
        &self,
        workspace: &Workspace,
        database: &str,
        sql: &str,
    ) -> Result<String, DemoError> {
        let mut psql = self.tools.command("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", database]);
        psql.arg("-h").arg(&self.folder).arg("-p").arg(self.port.to_string());
        let output = workspace.run(psql, sql, |_| ()).await?;
        Ok(output.trim_end().to_owned())
    }

    /// Makes a role with a password, and [`DATABASE`] that belongs to it.
    pub(super) async fn create_role(
        &self,
        workspace: &Workspace,
        name: &'static str,
    ) -> Result<Role, DemoError> {
        let password: String =
            rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect();
        self.create_role_with(workspace, name, password).await
    }

    /// Makes the role that another cluster has, with the same password, and its [`DATABASE`].
    pub(super) async fn create_same_role(
        &self,
        workspace: &Workspace,
        role: &Role,
    ) -> Result<(), DemoError> {
        self.create_role_with(workspace, role.name, role.password.clone()).await.map(drop)
    }

    async fn create_role_with(
        &self,
        workspace: &Workspace,
        name: &'static str,
        password: String,
    ) -> Result<Role, DemoError> {
        let create = format!(
            "create role {name} login password '{password}';\n\
             create database {DATABASE} owner {name};\n"
        );
        self.sql(workspace, "postgres", &create).await?;
        let stored = format!("select rolpassword from pg_authid where rolname = '{name}'");
        let secret = self.sql(workspace, "postgres", &stored).await?;
        Ok(Role { name, password, secret })
    }

    /// Counts the connections that `role` has at this moment.
    pub(super) async fn connections(
        &self,
        workspace: &Workspace,
        role: &Role,
    ) -> Result<u32, DemoError> {
        let count =
            format!("select count(*) from pg_stat_activity where usename = '{}'", role.name);
        let said = self.sql(workspace, "postgres", &count).await?;
        said.parse().map_err(|_| DemoError::Unreadable {
            command: shown(&self.tools.command("psql")),
            what: "number of connections",
            output: Tail::of(&said),
        })
    }
}

/// Somebody who logs in with a password.
pub(super) struct Role {
    name: &'static str,
    password: String,
    secret: String,
}

impl Role {
    /// Tells its name.
    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// Tells its password.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Tells what the server stores instead of the password.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Prepares a program to connect to `port` of the loopback address as this role.
    pub(super) fn client(&self, tools: &Tools, program: &str, port: u16) -> Command {
        let mut command = tools.command(program);
        command.env("PGPASSWORD", &self.password);
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", self.name]);
        command
    }
}

/// Finds a TCP port on the loopback address that nobody uses.
///
/// LIMIT: it is not reserved; somebody may take it before it is used, and the demo fails then.
pub(super) fn free_port() -> Result<u16, DemoError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| DemoError::System { action: "find a free TCP port", source })
}

fn initdb(tools: &Tools, data: &Path) -> Command {
    let mut command = tools.command("initdb");
    command.arg("-D").arg(data).args([
        "--username",
        SUPERUSER,
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    ]);
    command
}

/// Tells whether the server that wrote `pid_file` accepts connections: its eighth line says so, as
/// for `pg_ctl` (`LOCK_FILE_LINE_PM_STATUS` in PostgreSQL's `pidfile.h`).
fn is_ready(pid_file: &Path) -> bool {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
}
