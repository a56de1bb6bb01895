//! Runs the proxy under test.
//!
//! `PGTANDEM_IT_SUBJECT` names what is tested instead: `postgres` connects straight to the server
//! (this proves that a script expects what PostgreSQL answers), `pgbouncer` runs PgBouncer with the
//! same settings (this shows that a test can fail), anything else is the path of a `pgtandem`
//! program.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::{
    cluster::{Cluster, free_port, private_dir, signal, unprivileged},
    config::Config,
    login::Address,
    poll, reaper,
};

/// What stands between the tests and PostgreSQL.
pub enum Subject {
    Pgtandem(PathBuf),
    Bouncer,
    Postgres,
}

impl Subject {
    /// The one of this test run.
    pub fn current() -> Self {
        let named = std::env::var("PGTANDEM_IT_SUBJECT").ok();
        let built = option_env!("CARGO_BIN_EXE_pgtandem").map(str::to_owned);
        match named.or(built).expect("PGTANDEM_IT_SUBJECT is set").as_str() {
            "postgres" => Self::Postgres,
            "pgbouncer" => Self::Bouncer,
            path => Self::Pgtandem(path.into()),
        }
    }
}

/// A running proxy; ended when dropped.
pub struct Proxy {
    child: Option<Child>,
    dir: PathBuf,
    port: u16,
    socket: PathBuf,
    config: Config,
}

impl Proxy {
    /// Starts one with these settings and waits until it accepts connections.
    pub fn start(cluster: &Cluster, config: Config) -> Self {
        Self::start_subject(&Subject::current(), cluster, config)
    }

    /// Starts PgBouncer with these settings, to be compared with.
    pub fn start_bouncer(cluster: &Cluster, config: Config) -> Self {
        Self::start_subject(&Subject::Bouncer, cluster, config)
    }

    fn start_subject(subject: &Subject, cluster: &Cluster, config: Config) -> Self {
        let dir = private_dir("pgtandem-it-proxy-");
        reaper::adopt_dir(&dir);
        let port = free_port();
        let config = config
            .general(&format!("listen_port = {port}"))
            .general(&format!("unix_socket_dir = \"{}\"", dir.display()));
        let socket = dir.join(format!(".s.PGSQL.{port}"));
        let mut proxy = Self { child: None, dir, port, socket, config };
        proxy.write_files();
        let command = match subject {
            Subject::Postgres => {
                let Address::Unix(socket) = cluster.unix() else { unreachable!("unix() is Unix") };
                (proxy.port, proxy.socket) = (cluster.port(), socket);
                return proxy;
            }
            Subject::Pgtandem(program) => {
                let mut command = Command::new(program);
                command.arg("--config").arg(proxy.file("proxy.toml")).arg("run");
                command
            }
            Subject::Bouncer => {
                let mut command = unprivileged("pgbouncer");
                command.arg(proxy.file("pgbouncer.ini"));
                command
            }
        };
        proxy.spawn(command);
        proxy
    }

    /// Its loopback address.
    pub fn tcp(&self) -> Address {
        Address::Tcp(self.port)
    }

    /// Its Unix socket.
    pub fn unix(&self) -> Address {
        Address::Unix(self.socket.clone())
    }

    /// The file of its Unix socket.
    pub fn socket_file(&self) -> &Path {
        &self.socket
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a proxy runs").id()
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Sends it a signal, by name without `SIG`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Changes its settings and makes it read them.
    pub fn reload(&mut self, change: impl FnOnce(Config) -> Config) {
        self.rewrite(change);
        self.signal("HUP");
    }

    /// Changes its settings, in the file only.
    pub fn rewrite(&mut self, change: impl FnOnce(Config) -> Config) {
        self.config = change(self.config.clone());
        self.write_files();
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_none()))
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        poll("the proxy ends", || !self.is_running());
        let mut child = self.child.take().expect("a proxy was started");
        reaper::release_process(child.id());
        child.wait().expect("it is our child")
    }

    /// Its resident memory.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the proxy runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("proxy.log")).unwrap_or_default()
    }

    fn spawn(&mut self, mut command: Command) {
        let log = File::create(self.file("proxy.log")).expect("the folder is ours");
        let child = command
            .envs(self.config.envs().iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("the proxy is built");
        reaper::adopt_process(child.id(), "KILL");
        self.child = Some(child);
        poll("the proxy accepts connections", || {
            assert!(self.is_running(), "the proxy ended at once:\n{}", self.log());
            self.tcp().try_open().is_ok() && self.unix().try_open().is_ok()
        });
    }

    fn write_files(&self) {
        let dir = self.dir.display().to_string();
        for (name, text) in [
            ("proxy.toml", self.config.to_toml()),
            ("pgbouncer.ini", self.config.to_ini(&dir)),
            ("users.txt", self.config.to_user_list()),
        ] {
            fs::write(self.file(name), text).expect("the folder is ours");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let was_running = self.is_running();
        let had_child = self.child.is_some();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            reaper::release_process(child.id());
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of the proxy ---\n{log}--- end of the log ---");
        }
        remove(&self.dir);
        if !std::thread::panicking() {
            assert!(!log.contains("panicked at"), "the proxy panicked:\n{log}");
            assert!(was_running || !had_child, "the proxy ended by itself:\n{log}");
        }
    }
}

fn remove(dir: &Path) {
    if fs::remove_dir_all(dir).is_ok() {
        reaper::release_dir(dir);
    }
}
