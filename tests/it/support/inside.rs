//! A proxy inside the test's own process, so that a test can give the commands of an operator and
//! see what they return, and when.

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use pgtandem::{
    app::App,
    config::Source,
    control::{Control, Mode},
};
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};

use super::{
    PATIENCE,
    cluster::{Cluster, free_port, private_dir},
    config::Config,
    fixture::Fixture,
    login::{Address, Login},
    reaper,
    wire::Client,
};

/// A database of one test with a proxy in front of it, in this process.
pub struct Inside {
    pub cluster: &'static Cluster,
    pub database: String,
    pub control: Arc<Control>,
    config: Config,
    dir: PathBuf,
    port: u16,
    runtime: Option<Runtime>,
    end: Option<JoinHandle<ExitCode>>,
}

impl Inside {
    /// Starts one with the settings of [`Fixture::start`], changed by `configure`.
    pub fn start(configure: impl FnOnce(Config) -> Config) -> Self {
        let cluster = Cluster::shared();
        Self::start_for(cluster, cluster.new_database(), configure)
    }

    /// The same for a database that exists.
    pub fn start_for(
        cluster: &'static Cluster,
        database: String,
        configure: impl FnOnce(Config) -> Config,
    ) -> Self {
        let (dir, port) = (private_dir("pgtandem-it-inside-"), free_port());
        reaper::adopt_dir(&dir);
        let config = configure(Fixture::config(cluster, &database))
            .general(&format!("listen_port = {port}"))
            .general(&format!("unix_socket_dir = \"{}\"", dir.display()));
        let path = dir.join("proxy.toml");
        fs::write(&path, config.to_toml()).expect("the folder is ours");
        let runtime = Runtime::new().expect("there are threads");
        let app = {
            let _inside = runtime.enter();
            let source = Source::read(&path).expect("it is there");
            let parsed = source.parse().unwrap_or_else(|error| panic!("{error}"));
            App::start(&path, source, parsed).expect("the port is free")
        };
        let control = Arc::clone(app.control());
        let end = runtime.spawn(app.until_the_end(None));
        let (runtime, end) = (Some(runtime), Some(end));
        Self { cluster, database, control, config, dir, port, runtime, end }
    }

    /// Transaction mode, one backend.
    pub fn transaction() -> Self {
        Self::start(|config| config)
    }

    /// Its loopback address.
    pub fn tcp(&self) -> Address {
        Address::Tcp(self.port)
    }

    /// Logs in through the proxy.
    pub fn connect(&self) -> Client {
        self.connect_to(&self.database)
    }

    /// Logs in to another database through the proxy.
    pub fn connect_to(&self, database: &str) -> Client {
        Login::new("postgres", database).connect(&self.tcp()).expect("the proxy trusts us")
    }

    /// What somebody is told who tries to log in; `let in` if he is.
    pub fn refusal(&self, database: &str) -> String {
        match Login::new("postgres", database).connect(&self.tcp()) {
            Ok(_) => "let in".to_owned(),
            Err(said) => said.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "),
        }
    }

    /// Connections that the proxy holds to the database.
    pub fn backends(&self) -> usize {
        self.cluster.backends(&self.database)
    }

    /// Logs in to the database past the proxy.
    pub fn observer(&self) -> Client {
        self.cluster.superuser(&self.database)
    }

    /// Gives a command and waits until it is done.
    pub fn run<T>(&self, command: impl Future<Output = T>) -> T {
        let within = async { timeout(PATIENCE, command).await };
        self.runtime().block_on(within).expect("the command is done in time")
    }

    /// Gives a command, and comes back when it is clear that it waits.
    pub fn begin<T: Send + 'static>(
        &self,
        command: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let begun = self.runtime().spawn(command);
        super::let_pass(Duration::from_millis(200));
        assert!(!begun.is_finished(), "the command is done already");
        begun
    }

    /// Says what has become of a command.
    pub fn finish<T>(&self, begun: JoinHandle<T>) -> T {
        self.run(begun).expect("it does not panic")
    }

    /// Changes the settings, in the file only.
    pub fn write(&mut self, change: impl FnOnce(Config) -> Config) {
        self.config = change(self.config.clone());
        fs::write(self.dir.join("proxy.toml"), self.config.to_toml()).expect("the folder is ours");
    }

    /// Waits until the proxy has ended.
    pub fn wait(&mut self) -> ExitCode {
        let end = self.end.take().expect("it has not ended before");
        self.finish(end)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it lives as long as we do")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // Whoever is left is closed; a failed test must not wait for anybody.
            let databases = self.control.databases();
            for report in databases {
                let control = Arc::clone(&self.control);
                let killed = async move { control.kill(&report.name).await.is_ok() };
                let _ = self.runtime().block_on(async { timeout(PATIENCE, killed).await });
            }
            let _ = self.control.shutdown(Mode::WaitForServers);
            let ended = self.runtime().block_on(async { timeout(PATIENCE, end).await });
            assert!(ended.is_ok() || std::thread::panicking(), "the proxy does not end");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if fs::remove_dir_all(&self.dir).is_ok() {
            reaper::release_dir(&self.dir);
        }
    }
}
