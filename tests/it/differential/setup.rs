//! The proxies in between, in all the ways that matter to what a client may see.

use super::{
    generate::{Keeps, TABLES},
    play::Side,
    script::Script,
};
use crate::support::{
    cluster::Cluster,
    config::Config,
    fixture::{Fixture, first_difference},
    login::{Address, Login},
    proxy::Proxy,
    wire::Client,
};

/// One way of pooling.
pub struct Setup {
    /// Also the name of the database that the proxy offers.
    pub name: &'static str,
    pub keeps: Keeps,
    pub pool_size: usize,
    proxy: usize,
}

const fn setup(name: &'static str, keeps: Keeps, pool_size: usize, proxy: usize) -> Setup {
    Setup { name, keeps, pool_size, proxy }
}

/// What a sequence may be played through; its seed says which.
pub static SETUPS: [Setup; 8] = [
    setup("transaction_1", Keeps::Transaction, 1, 0),
    setup("transaction_2", Keeps::Transaction, 2, 0),
    setup("session_1", Keeps::Session, 1, 0),
    setup("session_2", Keeps::Session, 2, 0),
    setup("evicting_1", Keeps::Transaction, 1, 1),
    setup("evicting_2", Keeps::Transaction, 2, 1),
    setup("session_1_of_two_workers", Keeps::Session, 1, 1),
    setup("session_2_of_two_workers", Keeps::Session, 2, 1),
];

impl Setup {
    /// The setup of a seed.
    pub fn of(seed: u64) -> &'static Self {
        &SETUPS[usize::try_from(seed).expect("64-bit") % SETUPS.len()]
    }

    /// Clients that can be in the middle of something at the same time. The other client, who
    /// interferes, waits for its turn where there is a queue; in session mode it needs a backend.
    pub fn clients(&self) -> usize {
        match self.keeps {
            Keeps::Transaction => self.pool_size,
            Keeps::Session => 1,
        }
    }
}

/// A server, and the proxies of all setups in front of it.
pub struct World {
    cluster: &'static Cluster,
    proxies: Vec<Proxy>,
}

/// The database that PostgreSQL itself is asked in; the proxy's is named like the setup. Two, so that
/// neither side waits for what the other has left behind.
fn direct_database(setup: &Setup) -> String {
    format!("{}_direct", setup.name)
}

impl World {
    pub fn start() -> Self {
        let cluster = Cluster::shared();
        let (first, others) = SETUPS.split_first().expect("there are some");
        make_database(cluster, first.name);
        let copies = others.iter().map(|setup| setup.name.to_owned());
        let mut observer = cluster.superuser("postgres");
        for name in copies.chain(SETUPS.iter().map(direct_database)) {
            observer.rows(&format!("CREATE DATABASE {name} TEMPLATE {}", first.name));
        }
        let settings: [&[&str]; 2] =
            [&["workers = 1"], &["workers = 2", "max_prepared_statements = 1"]];
        let proxies = settings.iter().enumerate();
        let proxies = proxies.map(|(number, lines)| start_proxy(cluster, number, lines)).collect();
        Self { cluster, proxies }
    }

    /// The two sides that the sequences of a setup are played on.
    pub fn lane(&self, setup: &'static Setup) -> Lane {
        let databases = [&direct_database(setup), setup.name];
        let lane = Lane::between(self.cluster, databases, self.proxy(setup).tcp());
        Lane { keeps: setup.keeps, ..lane }
    }

    pub fn proxy(&self, setup: &Setup) -> &Proxy {
        &self.proxies[setup.proxy]
    }
}

fn start_proxy(cluster: &Cluster, number: usize, settings: &[&str]) -> Proxy {
    let mut config = Config::default()
        .general("listen_addr = \"127.0.0.1\"")
        .general("auth_type = \"trust\"")
        .user("postgres", &[]);
    for line in settings {
        config = config.general(line);
    }
    for setup in SETUPS.iter().filter(|setup| setup.proxy == number) {
        let mode = match setup.keeps {
            Keeps::Transaction => "transaction",
            Keeps::Session => "session",
        };
        let mut lines = Fixture::place(cluster, setup.name).to_vec();
        lines.extend([
            format!("pool_mode = \"{mode}\""),
            format!("pool_size = {}", setup.pool_size),
        ]);
        config = config.database(setup.name, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
    Proxy::start(cluster, config)
}

/// Makes a database with the tables that scripts use.
pub fn make_database(cluster: &Cluster, name: &str) {
    cluster.superuser("postgres").rows(&format!("CREATE DATABASE {name}"));
    let tables = (0..TABLES)
        .map(|table| format!("CREATE TABLE s{table} (id int CHECK (id < 100), v text); "));
    cluster.superuser(name).rows(&tables.collect::<String>());
}

/// Both sides of one setup.
pub struct Lane {
    direct: Side,
    proxied: Side,
    keeps: Keeps,
    /// Connections past the proxy that empty the tables.
    grounds: [Client; 2],
}

impl Lane {
    /// Compares PostgreSQL's first database with whoever offers the second at `address`.
    pub fn between(cluster: &Cluster, databases: [&str; 2], address: Address) -> Self {
        let [direct, proxied] = databases.map(|name| Login::new("postgres", name));
        Self {
            direct: Side::new(cluster.tcp(), direct),
            proxied: Side::new(address, proxied),
            keeps: Keeps::Session,
            grounds: databases.map(|name| cluster.superuser(name)),
        }
    }

    /// Plays a script on both sides; the first difference, if there is one.
    pub fn differ(&mut self, script: &Script) -> Option<String> {
        self.empty_tables(script);
        let direct = self.direct.play(script, None);
        let proxied = self.proxied.play(script, Some(&direct));
        let keeps = self.keeps;
        let answers = direct.answers.into_iter().zip(proxied.answers);
        answers.enumerate().find_map(|(client, (mut direct, mut proxied))| {
            for answers in [&mut direct, &mut proxied] {
                leave_out_last_words(answers);
            }
            if keeps == Keeps::Transaction {
                leave_out_unprepared(&mut direct, &mut proxied);
            }
            let difference = first_difference(&direct, &proxied)?;
            Some(format!("client {client} got from {difference}"))
        })
    }

    /// Says whether PostgreSQL answers a script alike each time.
    pub fn is_steady(&mut self, script: &Script) -> bool {
        // What was given up in the middle may have locks.
        self.proxied.hang_up();
        let mut play = || {
            self.empty_tables(script);
            self.direct.play(script, None).answers
        };
        let first = play();
        (0..3).all(|_| play() == first)
    }

    fn empty_tables(&mut self, script: &Script) {
        if !script.tables.is_empty() {
            let tables: Vec<_> = script.tables.iter().map(|table| format!("s{table}")).collect();
            for ground in &mut self.grounds {
                ground.rows(&format!("TRUNCATE {}", tables.join(", ")));
            }
        }
    }

    /// The same over new connections, so that what was played before does not matter.
    pub fn differ_afresh(&mut self, script: &Script) -> Option<String> {
        self.direct.hang_up();
        self.proxied.hang_up();
        self.differ(script)
    }
}

/// Leaves out that PostgreSQL ends the connection for the error in front of that: who sends it more than it
/// reads resets the connection, and may not get that any more.
fn leave_out_last_words(answers: &mut Vec<String>) {
    let is_last = |words: &[String]| words == ["E 08P01", "E 08P01", "EOF"];
    while let Some(at) = answers.windows(3).position(is_last) {
        answers.remove(at);
    }
}

/// Leaves out what is left of segments about a prepared statement in a transaction that has failed, where
/// the backend does not hold that (any more): it would have to be prepared there first, and in such a
/// transaction nothing can be. PostgreSQL still describes one without columns, and says first that a Bind
/// has not as many values as that needs (`exec_bind_message` of postgres.c).
fn leave_out_unprepared(direct: &mut Vec<String>, proxied: &mut Vec<String>) {
    let mut at = 0;
    while let Some(more) = direct[at..].iter().zip(&proxied[at..]).position(|(a, b)| a != b) {
        at += more;
        let is_described =
            direct[at].starts_with('t') && direct.get(at + 1) == Some(&"n".to_owned());
        let has_failed = direct[..at].iter().rfind(|answer| answer.starts_with('Z'));
        let is_limit = has_failed.is_some_and(|status| status == "Z E")
            && proxied[at].contains("C25P02")
            && (is_described || direct[at] == "E 08P01");
        if !is_limit {
            return;
        }
        for answers in [&mut *direct, &mut *proxied] {
            let end = answers[at..].iter().position(|answer| answer.starts_with('Z'));
            answers.drain(at..at + end.unwrap_or(answers.len() - at));
        }
    }
}
