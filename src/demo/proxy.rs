//! The proxy that is shown: this program again, as a process of its own, with its own `proxy.toml`.

use std::net::Ipv4Addr;
use std::path::Path;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::cluster::{Cluster, DATABASE, Role, free_port};
use super::error::DemoError;
use super::workspace::Workspace;

/// The name of the configuration file in the demo's folder.
const FILE: &str = "proxy.toml";

/// A running proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    server_port: u16,
    configuration: String,
}

impl Proxy {
    /// Writes a `proxy.toml` for `cluster` and starts `program` with it.
    ///
    /// It runs until the workspace is closed.
    pub(super) async fn start(
        workspace: &mut Workspace,
        program: &Path,
        cluster: &Cluster<'_>,
        role: &Role,
        pool_size: u32,
    ) -> Result<Self, DemoError> {
        let port = free_port()?;
        let configuration = configuration(port, cluster.port(), role, pool_size);
        let file = workspace.file(FILE, &configuration)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(file).arg("run");
        let accepts = async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok();
        workspace.serve("pgtandem", command, Signal::INT, accepts).await?;
        // Long, and not for every eye.
        let configuration = configuration.replace(role.secret(), "SCRAM-SHA-256$…");
        Ok(Self { port, server_port: cluster.port(), configuration })
    }

    /// Tells its TCP port on the loopback address.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Tells the TCP port of the server behind it.
    pub(super) fn server_port(&self) -> u16 {
        self.server_port
    }

    /// Shows its `proxy.toml`, the secret in it cut short.
    pub(super) fn configuration(&self) -> &str {
        &self.configuration
    }
}

fn configuration(port: u16, server_port: u16, role: &Role, pool_size: u32) -> String {
    let (name, secret) = (role.name(), role.secret());
    format!(
        r#"[general]
listen_addr = "127.0.0.1"
listen_port = {port}
unix_socket_dir = ""
auth_type = "scram-sha-256"
pool_mode = "transaction"
default_pool_size = {pool_size}
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
