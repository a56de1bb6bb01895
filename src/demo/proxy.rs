//! The proxy that is shown: this program again, as a process of its own, with its own `proxy.toml`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::cluster::{Cluster, DATABASE, Role, free_port};
use super::error::DemoError;
use super::workspace::Workspace;

/// A proxy with its configuration.
#[derive(Debug)]
pub(super) struct Proxy {
    name: &'static str,
    program: PathBuf,
    file: PathBuf,
    port: u16,
    configuration: String,
}

impl Proxy {
    /// Writes a `proxy.toml` for `cluster`, with `more` behind it, and starts `program` with it.
    ///
    /// It runs until the workspace is closed.
    pub(super) async fn start(
        workspace: &mut Workspace,
        program: &Path,
        name: &'static str,
        cluster: &Cluster<'_>,
        role: &Role,
        more: &str,
    ) -> Result<Self, DemoError> {
        let port = free_port()?;
        let configuration = configuration(port, cluster.port(), role) + more;
        let file = workspace.file(&format!("{name}.toml"), &configuration)?;
        // Long, and not for every eye.
        let configuration =
            configuration.replace(role.secret(), "SCRAM-SHA-256$…").replace(role.password(), "…");
        let proxy = Self { name, program: program.to_owned(), file, port, configuration };
        proxy.run(workspace).await?;
        Ok(proxy)
    }

    /// Starts it once more, after it has ended.
    pub(super) async fn run(&self, workspace: &mut Workspace) -> Result<(), DemoError> {
        let mut command = self.command();
        command.arg("run");
        let accepts = async || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok();
        workspace.serve(self.name, command, Signal::INT, accepts).await
    }

    /// Prepares one of the program's commands for this proxy.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.file);
        command
    }

    /// Tells what its process is called.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Tells its TCP port on the loopback address.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Shows its `proxy.toml`, the secrets in it cut short.
    pub(super) fn configuration(&self) -> &str {
        &self.configuration
    }
}

fn configuration(port: u16, server_port: u16, role: &Role) -> String {
    let (name, secret) = (role.name(), role.secret());
    format!(
        r#"[general]
listen_addr = "127.0.0.1"
listen_port = {port}
unix_socket_dir = ""
auth_type = "scram-sha-256"
admin_users = ["{name}"]
pool_mode = "transaction"
log_connections = false
log_disconnections = false

[metrics]
listen = ""

[users.{name}]
password = "{secret}"

[databases.{DATABASE}]
host = "127.0.0.1"
port = {server_port}
"#
    )
}
