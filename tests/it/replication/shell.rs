//! `pgtandem replication …` against a running proxy: what it prints, and what the shell is told.

use std::process::{Command, Output};

use super::pair::Pair;
use crate::support::{
    config::Config,
    poll,
    proxy::Subject,
    tools::{feed, successful, tool},
};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i";

fn start(configure: impl FnOnce(Config) -> Config) -> Pair {
    Pair::start_configured(SCHEMA, ROWS, "verify_interval = \"0s\"", configure)
}

/// Runs our program with the proxy's configuration.
fn run(pair: &Pair, arguments: &[&str]) -> Output {
    run_with(pair, arguments, &[])
}

fn run_with(pair: &Pair, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let Subject::Pgtandem(program) = Subject::current() else {
        unreachable!("nothing else replicates");
    };
    let mut command = Command::new(program);
    command.arg("--config").arg(pair.proxy.file("proxy.toml")).arg("replication");
    command.args(arguments).env_remove("PGPASSWORD").envs(variables.iter().copied());
    feed(command, b"")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs it, and checks what the shell is told; gives what was printed.
#[track_caller]
fn returns(pair: &Pair, arguments: &[&str], code: i32) -> (String, String) {
    let output = run(pair, arguments);
    let (out, err) = (out(&output), err(&output));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

fn await_in_sync(pair: &Pair) {
    poll("the secondary is in sync", || out(&run(pair, &["status"])).contains(" in_sync "));
}

#[test]
fn an_operator_sees_pauses_and_waits() {
    let pair = start(|config| config);
    await_in_sync(&pair);
    let (status, _) = returns(&pair, &["status"], 0);
    assert!(status.starts_with("DATABASE  SECONDARY  STATE    LAG"), "{status}");
    let (json, _) = returns(&pair, &["status", "--json"], 0);
    let expected = format!(
        "[\n  {{\"database\": \"{}\", \"secondary\": \"copy\", \"state\": \"in_sync\", ",
        pair.database
    );
    assert!(json.starts_with(&expected), "{json}");
    assert!(json.contains("\"is_leader\": true"), "{json}");
    let place = format!("{}.copy", pair.database);
    pair.run("INSERT INTO t VALUES (1000, 'y')");
    let (waited, _) = returns(&pair, &["wait", "--timeout", "30s"], 0);
    assert_eq!(waited, format!("{place}: has everything\n"));
    assert_eq!(pair.there().value("SELECT count(*) FROM t"), "101");
    let (paused, _) = returns(&pair, &["pause", "--reason", "it's lunch"], 0);
    assert_eq!(paused, format!("{place}: paused\n"));
    let (_, complaint) = returns(&pair, &["wait"], 1);
    assert!(complaint.contains(&format!("secondary {place} is paused: it's lunch")), "{complaint}");
    let (resumed, _) = returns(&pair, &["resume"], 0);
    assert_eq!(resumed, format!("{place}: catching_up\n"));
    returns(&pair, &["wait", "--timeout", "30s", "--secondary", "copy"], 0);
    // It cannot be there in time: the table is locked.
    let mut holder = pair.there();
    holder.rows("BEGIN; LOCK TABLE t");
    pair.run("INSERT INTO t VALUES (1001, 'y')");
    let (_, complaint) = returns(&pair, &["wait", "--timeout", "300ms"], 1);
    assert!(complaint.contains(&format!("{place} has not caught up within")), "{complaint}");
    holder.rows("ROLLBACK");
    pair.assert_equal();
}

#[test]
fn verify_and_repair_tell_the_shell() {
    let pair = start(|config| config);
    await_in_sync(&pair);
    let (equal, _) = returns(&pair, &["verify"], 0);
    assert!(equal.ends_with("\nequal\n"), "{equal}");
    pair.there().rows("DELETE FROM t WHERE id = 7");
    let (different, _) = returns(&pair, &["verify", "--table", "public.t"], 1);
    assert!(different.contains("1 missing, 0 extra, 0 different"), "{different}");
    let (json, _) = returns(&pair, &["verify", "--json"], 1);
    assert!(json.contains("\"verdict\": \"different\", \"rows\": 100, \"missing\": 1"), "{json}");
    let (repaired, _) = returns(&pair, &["repair"], 0);
    assert!(repaired.ends_with("\nequal\n"), "{repaired}");
    pair.assert_equal();
    // Whether it is equal is not known where nobody applies.
    returns(&pair, &["pause"], 0);
    let (unknown, _) = returns(&pair, &["verify"], 2);
    assert!(unknown.ends_with("\ncould not tell\n"), "{unknown}");
    let (_, complaint) = returns(&pair, &["verify", "--table", "nix"], 2);
    assert!(complaint.contains("table public.nix does not follow"), "{complaint}");
}

#[test]
fn what_empties_tables_wants_to_be_meant() {
    let pair = start(|config| config);
    await_in_sync(&pair);
    for command in ["resync", "detach"] {
        let (_, complaint) = returns(&pair, &[command], 1);
        assert!(complaint.contains("--yes"), "{complaint}");
    }
    await_in_sync(&pair);
    let (detached, _) = returns(&pair, &["detach", "--yes"], 0);
    assert_eq!(detached, format!("{}.copy: detached\n", pair.database));
    pair.run("UPDATE t SET x = 'unseen'");
    let (copied, progress) = returns(&pair, &["resync", "--yes"], 0);
    assert_eq!(copied, format!("{}.copy: in_sync\n", pair.database), "{progress}");
    pair.assert_equal();
    pair.there().rows("DELETE FROM t WHERE id = 7");
    returns(&pair, &["resync", "--table", "t"], 0);
    pair.assert_equal();
    let (_, complaint) = returns(&pair, &["pause", "--secondary", "nix"], 1);
    assert!(complaint.contains("no secondary *.nix is configured"), "{complaint}");
}

#[test]
fn a_first_copy_is_asked_for_and_followed() {
    let pair = Pair::start_configured(SCHEMA, ROWS, "auto = false", |config| config);
    poll("it waits for somebody", || out(&run(&pair, &["status"])).contains("paused"));
    let (copied, progress) = returns(&pair, &["copy"], 0);
    assert_eq!(copied, format!("{}.copy: in_sync\n", pair.database), "{progress}");
    pair.assert_equal();
}

/// Where the proxy may install nothing, an administrator runs what it would have done.
#[test]
fn capture_can_be_installed_by_hand() {
    let pair = Pair::start_configured(SCHEMA, ROWS, "auto = false", |config| config);
    let (script, _) = returns(&pair, &["script"], 0);
    let (_, complaint) = returns(&pair, &["script", "--database", "nix"], 1);
    assert!(complaint.contains("no database nix with replication"), "{complaint}");
    poll("it waits for somebody", || out(&run(&pair, &["status"])).contains("paused"));
    assert_eq!(pair.here().value("SELECT to_regnamespace('pgtandem') IS NULL"), "t");
    let mut psql = tool("psql", &pair.primary.tcp(), &pair.database);
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]);
    successful(feed(psql, script.as_bytes()));
    let captured =
        pair.here().value("SELECT oid FROM pg_trigger WHERE tgname = '!pgtandem_insert'");
    returns(&pair, &["copy"], 0);
    pair.run("UPDATE t SET x = 'new' WHERE id % 3 = 0");
    pair.assert_equal();
    let same = format!("SELECT count(*) FROM pg_trigger WHERE oid = {captured}");
    assert_eq!(pair.here().value(&same), "1", "what was installed is what works");
}

#[test]
fn an_empty_secondary_gets_its_schema_first() {
    let pair = Pair::start_empty(&format!("{SCHEMA}; {ROWS}"), "", |config| config);
    poll("it waits for somebody", || out(&run(&pair, &["status"])).contains("paused"));
    let (copied, progress) = returns(&pair, &["copy", "--schema"], 0);
    assert_eq!(copied, format!("{}.copy: in_sync\n", pair.database), "{progress}");
    pair.assert_equal();
    let (_, complaint) = returns(&pair, &["copy", "--schema"], 1);
    assert!(complaint.contains("the secondary is not empty: it has relation"), "{complaint}");
}

#[test]
fn who_does_not_get_in_is_told_how() {
    let pair = start(|config| {
        config.general("auth_type = \"scram-sha-256\"").general("admin_users = \"alice\"").user(
            "alice",
            &["password = \"SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
                              AcbHP+GmHhmkvlCqBYOVrHUgWxC1iBGb5mhT/AUiTRk=:\
                              m0AfLwi2ArZ+kqvMNLEcbIC4Z7JTXGiRBcm9bqcBzkk=\""],
        )
    });
    await_in_sync(&pair);
    // Another name than our own, and no password, or a wrong one.
    for variables in [&[][..], &[("PGPASSWORD", "wrong")][..]] {
        let output = run_with(&pair, &["status", "--user", "alice"], variables);
        assert_eq!(output.status.code(), Some(1));
        let complaint = err(&output);
        assert!(complaint.contains("as alice: "), "{complaint}");
        assert!(
            complaint.contains("Run this as the account that the proxy runs as"),
            "{complaint}"
        );
        assert!(complaint.contains("PGPASSWORD"), "{complaint}");
    }
}

#[test]
fn a_proxy_that_is_not_there_is_missed() {
    let mut pair = start(|config| config);
    await_in_sync(&pair);
    let port = crate::support::cluster::free_port();
    pair.proxy.rewrite(|config| config.general(&format!("listen_port = {port}")));
    for (command, code) in [("status", 1), ("verify", 2)] {
        let (_, complaint) = returns(&pair, &[command], code);
        assert!(complaint.contains("is the proxy running"), "{complaint}");
    }
}
