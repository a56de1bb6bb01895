//! Commands, and what they leave behind.

use std::time::Duration;

use pgtandem::config::Config;
use pgtandem::pool::definitions::Seals;
use pgtandem::replication::catalog::TableName;
use pgtandem::replication::status::{Command, CommandError, State};
use pgtandem::replication::supervisor::Supervisor;

use super::pair::{self, Place};
use crate::support::{PATIENCE, cluster::Cluster};

const SCHEMA: &str =
    "CREATE TABLE t (id int PRIMARY KEY, x text); CREATE TABLE u (id int PRIMARY KEY)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i; \
                    INSERT INTO u SELECT generate_series(1, 10)";

/// Two databases, and a supervisor in this process.
struct Commands {
    primary: &'static Cluster,
    secondary: Cluster,
    database: String,
    other: String,
    runtime: tokio::runtime::Runtime,
    supervisor: Supervisor,
}

impl Commands {
    fn start(keys: &str) -> Self {
        let (primary, secondary) = (Cluster::shared(), Cluster::start());
        let (database, other) = (primary.new_database(), secondary.new_database());
        primary.superuser(&database).rows(&format!("{SCHEMA}; {ROWS}"));
        secondary.superuser(&other).rows(SCHEMA);
        let text = pair::Pair::config(primary, &database, &secondary, &other, keys).to_toml();
        let config = Config::parse(&text, "proxy.toml", &|_| None).expect("it is right");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let supervisor = {
            let _in_it = runtime.enter();
            Supervisor::start(&config, Seals::default())
        };
        Self { primary, secondary, database, other, runtime, supervisor }
    }

    fn here(&self) -> Place<'_> {
        (self.primary, &self.database)
    }

    fn there(&self) -> Place<'_> {
        (&self.secondary, &self.other)
    }

    fn run(&self, sql: &str) {
        self.primary.superuser(&self.database).rows(sql);
    }

    fn run_there(&self, sql: &str) -> Vec<Vec<String>> {
        self.secondary.superuser(&self.other).rows(sql)
    }

    fn ask(&self, command: Command) -> Result<(), CommandError> {
        let asked = self.supervisor.command(&self.database, "copy", command);
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, asked).await })
            .expect("in time")
    }

    fn state(&self) -> State {
        self.supervisor.status()[0].state.clone()
    }

    fn await_word(&self, word: &str) -> String {
        crate::support::poll(word, || self.state().word() == word);
        self.state().why().unwrap_or_default().to_owned()
    }
}

fn table(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

#[test]
fn pause_and_resume() {
    let commands = Commands::start("");
    commands.await_word("in_sync");
    commands.ask(Command::Pause("for lunch".to_owned())).expect("it is taken");
    assert_eq!(commands.await_word("paused"), "for lunch");
    commands.run("UPDATE t SET x = 'y'");
    crate::support::let_pass(Duration::from_millis(300));
    assert_eq!(commands.run_there("SELECT count(*) FROM t WHERE x = 'y'"), [["0"]]);
    commands.ask(Command::Resume).expect("it is taken");
    commands.await_word("in_sync");
    pair::assert_equal(commands.here(), commands.there());
    let unknown =
        commands.runtime.block_on(commands.supervisor.command("app", "x", Command::Resume));
    assert!(matches!(unknown, Err(CommandError::NoSecondary { .. })));
}

#[test]
fn skip_buries_a_change_and_resync_makes_it_good() {
    let commands = Commands::start("");
    commands.await_word("in_sync");
    let senseless = commands.ask(Command::Skip);
    assert!(matches!(senseless, Err(CommandError::Senseless { .. })), "{senseless:?}");
    commands.run_there("DELETE FROM t WHERE id = 7");
    commands.run("UPDATE t SET x = 'y'");
    let why = commands.await_word("paused");
    assert_eq!(why, "update public.t: no row has the key [\"7\"]");
    commands.ask(Command::Skip).expect("it is taken");
    let why = commands.await_word("diverged");
    assert_eq!(why, "1 changes of public.t were skipped");
    assert_eq!(commands.run_there("SELECT count(*) FROM t WHERE x = 'y'"), [["99"]]);
    let letters = commands.run_there("SELECT name, key, op, image FROM pgtandem.dead_letters");
    assert_eq!(letters, [["t", "{7}", "update", "(7,y)"]]);
    commands.run("INSERT INTO u VALUES (11)");
    commands.ask(Command::Resync(vec![table("t")])).expect("it is taken");
    commands.run("UPDATE t SET x = 'z' WHERE id > 50; INSERT INTO u VALUES (12)");
    commands.await_word("in_sync");
    pair::assert_equal(commands.here(), commands.there());
    let unknown = commands.ask(Command::Resync(vec![table("v")]));
    assert_eq!(unknown, Err(CommandError::NoTable { table: table("v") }));
}

#[test]
fn detach_stops_capture_and_resync_begins_anew() {
    let commands = Commands::start("");
    commands.await_word("in_sync");
    commands.ask(Command::Detach("enough".to_owned())).expect("it is taken");
    assert_eq!(commands.await_word("detached"), "enough");
    commands.run("UPDATE t SET x = 'unseen' WHERE id < 10; DELETE FROM u");
    assert_eq!(
        commands.primary.superuser(&commands.database).value("SELECT count(*) FROM pgtandem.log_0"),
        "0"
    );
    // Somebody who only wants to go on is told that this is not possible.
    commands.ask(Command::Resume).expect("it is taken");
    commands.await_word("detached");
    commands.ask(Command::Resync(vec![])).expect("it is taken");
    commands.await_word("in_sync");
    commands.run("UPDATE t SET x = 'seen' WHERE id > 90");
    pair::assert_equal(commands.here(), commands.there());
}

#[test]
fn without_auto_each_step_waits_for_its_command() {
    let commands = Commands::start("auto = false");
    assert_eq!(commands.await_word("paused"), "no capture is installed");
    commands.ask(Command::Copy).expect("it is taken");
    commands.await_word("in_sync");
    commands.run("UPDATE t SET x = 'y'");
    pair::assert_equal(commands.here(), commands.there());
}

#[test]
fn what_bypasses_capture_is_found() {
    let commands = Commands::start("");
    commands.await_word("in_sync");
    commands.run("ALTER TABLE t DISABLE TRIGGER ALL");
    crate::support::poll("it is found", || matches!(commands.state(), State::Paused(_)));
    let why = commands.await_word("paused");
    assert!(why.contains("is disabled"), "{why}");
}
