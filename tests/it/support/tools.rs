//! Runs PostgreSQL's own programs against an address.

use std::{
    io::Write,
    process::{Child, Command, Output, Stdio},
};

use super::{
    cluster::{program, unprivileged},
    login::Address,
    reaper,
};

/// `program`, told by its environment where to connect as `postgres`.
pub fn tool(name: &str, address: &Address, database: &str) -> Command {
    let mut command = unprivileged(program(name));
    match address {
        Address::Tcp(port) => {
            command.env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string());
        }
        Address::Unix(path) => {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a socket");
            let port = name.rsplit('.').next().expect("it ends in the port");
            command.env("PGHOST", path.parent().expect("in a folder")).env("PGPORT", port);
        }
    }
    command.env("PGUSER", "postgres").env("PGDATABASE", database).env("PGCONNECT_TIMEOUT", "10");
    command
}

/// Runs `psql` on a script and gives what it printed, unaligned.
///
/// # Panics
/// If it fails.
pub fn psql(address: &Address, database: &str, script: &str) -> String {
    let mut command = tool("psql", address, database);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
    successful(feed(command, script.as_bytes()))
}

/// Starts a program, gives it `input`, and collects what it prints.
pub fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = spawn(&mut command);
    let mut stdin = child.stdin.take().expect("stdin is piped");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that ends early says so by its status.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("it is our child")
    })
}

/// Starts a program with all three of its streams piped.
pub fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("PostgreSQL's programs are installed")
}

/// A program that is ended when the test ends, in whichever way.
pub struct Running(pub Child);

impl Running {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().expect("it is installed");
        reaper::adopt_process(child.id(), "KILL");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        reaper::release_process(self.0.id());
    }
}

/// What a program printed.
///
/// # Panics
/// If it failed.
pub fn successful(output: Output) -> String {
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaints}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}
