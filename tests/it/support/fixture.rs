//! A database, a proxy in front of it, and scripts that must read the same through both.

use std::sync::PoisonError;

use super::{
    cluster::Cluster,
    config::Config,
    login::{Address, Login},
    proxy::Proxy,
    wire::{Client, Transcript},
};

/// A database of one test with a proxy in front of it.
pub struct Fixture {
    pub cluster: &'static Cluster,
    pub database: String,
    pub proxy: Proxy,
}

impl Fixture {
    /// Starts a proxy in transaction mode with a pool of one backend, `trust` for everybody and
    /// user `postgres`, changed by `configure`.
    pub fn start(configure: impl FnOnce(Config) -> Config) -> Self {
        let cluster = Cluster::shared();
        let database = cluster.new_database();
        let config = configure(Self::config(cluster, &database));
        Self { cluster, proxy: Proxy::start(cluster, config), database }
    }

    /// The settings that [`Fixture::start`] begins with.
    pub fn config(cluster: &Cluster, database: &str) -> Config {
        Config::default()
            .general("listen_addr = \"127.0.0.1\"")
            .general("auth_type = \"trust\"")
            .general("pool_mode = \"transaction\"")
            .general("default_pool_size = 1")
            .general(&format!("workers = {}", workers()))
            .database(database, &Self::place(cluster, database).each_ref().map(String::as_str))
            .user("postgres", &[])
            .user("dave", &[])
    }

    /// The lines of a `[databases.NAME]` section that say where this database is.
    pub fn place(cluster: &Cluster, dbname: &str) -> [String; 3] {
        let port = format!("port = {}", cluster.port());
        ["host = \"127.0.0.1\"".to_owned(), port, format!("dbname = \"{dbname}\"")]
    }

    /// Transaction mode, one backend.
    pub fn transaction() -> Self {
        Self::start(|config| config)
    }

    /// Session mode, one backend.
    pub fn session() -> Self {
        Self::start(|config| config.general("pool_mode = \"session\""))
    }

    /// Statement mode, one backend.
    pub fn statement() -> Self {
        Self::start(|config| config.general("pool_mode = \"statement\""))
    }

    /// Who logs in unless a test says otherwise.
    pub fn login(&self) -> Login {
        Login::new("postgres", &self.database)
    }

    /// Logs in through the proxy.
    pub fn connect(&self) -> Client {
        self.login().connect(&self.proxy.tcp()).expect("the proxy trusts us")
    }

    /// Logs in to the database past the proxy, as somebody [`Fixture::backends`] does not count.
    pub fn observer(&self) -> Client {
        self.cluster.superuser(&self.database)
    }

    /// Connections that the proxy holds to the database.
    pub fn backends(&self) -> usize {
        self.cluster.backends(&self.database)
    }

    /// Whether some statement containing `text` runs in the database now.
    pub fn is_running(&self, text: &str) -> bool {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'active' \
             AND query LIKE '%{text}%' AND application_name <> 'observer'",
            self.database
        );
        self.observer().value(&sql) != "0"
    }

    /// Runs a script against PostgreSQL and then through the proxy, and compares all that the
    /// clients got.
    ///
    /// What the script asserts is thereby proved to be PostgreSQL's own answer. Each run begins
    /// with an empty schema.
    pub fn both(&self, script: impl Fn(&Peer)) {
        if let Err(difference) = self.compare(script, |answer| answer) {
            panic!("{difference}");
        }
    }

    /// The same as [`Fixture::both`], with every answer put through `read` before it is compared.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn compare(
        &self,
        script: impl Fn(&Peer),
        read: fn(String) -> String,
    ) -> Result<(), String> {
        let login = self.login();
        let direct = self.run("PostgreSQL itself", login.clone(), self.cluster.tcp(), &script);
        let proxied = self.run("the proxy", login, self.proxy.tcp(), &script);
        let [direct, proxied] =
            [direct, proxied].map(|answers| answers.into_iter().map(read).collect::<Vec<_>>());
        first_difference(&direct, &proxied).map_or(Ok(()), Err)
    }

    /// Runs a script against one side, beginning with an empty schema; gives all that the clients
    /// got.
    pub fn run(
        &self,
        what: &str,
        login: Login,
        address: Address,
        script: &impl Fn(&Peer),
    ) -> Vec<String> {
        eprintln!("--- script against {what} ---");
        self.observer().rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        let transcript = Transcript::default();
        script(&Peer { login, address, transcript: Transcript::clone(&transcript) });
        std::mem::take(&mut transcript.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Workers of a test that does not care: `PGTANDEM_IT_WORKERS`, else one.
fn workers() -> u32 {
    std::env::var("PGTANDEM_IT_WORKERS").map_or(1, |text| text.parse().expect("a number"))
}

/// The first difference of two transcripts, with what led to it.
pub fn first_difference(direct: &[String], proxied: &[String]) -> Option<String> {
    let shared = direct.iter().zip(proxied).take_while(|(left, right)| left == right).count();
    if direct.len() == shared && proxied.len() == shared {
        return None;
    }
    let show = |lines: &[String]| {
        let end = lines.len().min(shared + 3);
        lines[shared.saturating_sub(25)..end].join("\n  ")
    };
    let (direct, proxied) = (show(direct), show(proxied));
    Some(format!("PostgreSQL itself:\n  {direct}\nthrough the proxy:\n  {proxied}"))
}

/// The side a script talks to: PostgreSQL, or the proxy.
pub struct Peer {
    pub login: Login,
    pub address: Address,
    transcript: Transcript,
}

impl Peer {
    /// Logs in; everything the client gets from then on is compared.
    pub fn connect(&self, name: &str) -> Client {
        self.connect_as(name, &self.login)
    }

    /// Logs in as somebody else, or with further startup parameters.
    pub fn connect_as(&self, name: &str, login: &Login) -> Client {
        let mut client = login.connect(&self.address).expect("everybody is trusted");
        client.record(name, Transcript::clone(&self.transcript));
        client
    }
}
