//! The log: `PgBouncer`'s words, one line per event, bounded, without secrets.

use std::{fs, time::Duration};

use crate::support::{
    cluster::{ALICE, Cluster},
    config::Config,
    fixture::Fixture,
    let_pass,
    login::Login,
    message::*,
    poll,
    proxy::{Proxy, Subject},
    wire::Client,
};

/// A proxy that checks passwords, or nothing if another pooler is under test.
fn start(change: impl FnOnce(Config) -> Config) -> Option<Fixture> {
    let Subject::Pgtandem(_) = Subject::current() else { return None };
    Some(Fixture::start(|config| {
        let config = config.general("auth_type = \"md5\"").general("admin_users = \"alice\"");
        change(config.user(ALICE.0, &[&format!("password = \"{}\"", ALICE.1)]))
    }))
}

fn alice(fixture: &Fixture) -> Login {
    Login::new(ALICE.0, &fixture.database).password(ALICE.1)
}

fn connect(fixture: &Fixture) -> Client {
    alice(fixture).connect(&fixture.proxy.tcp()).expect("the password is right")
}

/// Waits for a line with all these parts.
fn await_line(log: impl Fn() -> String, parts: &[&str]) {
    let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
    poll(&format!("a line with {parts:?}"), || log().lines().any(has_all));
}

#[test]
fn events_are_logged_in_the_words_that_scripts_look_for() {
    let reserve = ["reserve_pool_size = 1", "reserve_pool_timeout = \"10ms\""];
    let Some(fixture) = start(|config| {
        let port = format!("port = {}", Cluster::shared().port());
        reserve
            .into_iter()
            .fold(config, Config::general)
            .general("query_wait_timeout = \"500ms\"")
            .general("server_idle_timeout = 1")
            .general("stats_period = 1")
            .database("*", &["host = \"127.0.0.1\"", &port])
    }) else {
        return;
    };
    let log = || fixture.proxy.log();
    let database = fixture.database.as_str();
    let names = format!("database=\"{database}\" user=\"alice\"");
    let mut clients: Vec<Client> = (0..3).map(|_| connect(&fixture)).collect();
    let attempt =
        format!("login attempt: db={database} user=alice tls=no {names} client=127.0.0.1:");
    await_line(log, &[" INFO ", &attempt]);
    await_line(
        log,
        &[" INFO ", "new connection to server (from 127.0.0.1:", &names, "server=\"127"],
    );
    clients[0].query("BEGIN");
    clients[1].query("BEGIN");
    await_line(log, &[" WARN ", "taking connection from reserve_pool", &names]);
    clients[2].send(&[query("SELECT 1")]);
    clients[2].until_end();
    await_line(log, &[" INFO ", "closing because: query_wait_timeout (age=", "client=127.0.0.1:"]);
    await_line(log, &[" WARN ", "pooler error: query_wait_timeout", &names, "sqlstate=53300"]);
    clients[0].send_last(&terminate());
    await_line(log, &["closing because: client close request (age=0s)", &names]);
    drop(clients);
    await_line(log, &["closing because: client unexpected eof (age=", &names]);
    connect(&fixture).query("SELECT 1");
    await_line(log, &["closing because: server idle timeout (age=", &names, "backend_pid="]);
    let mut busy = connect(&fixture);
    poll("a line with traffic", || {
        busy.query("SELECT 1");
        let is_some = |line: &str| line.contains("stats: ") && !line.contains("stats: 0 xacts/s");
        log().lines().any(is_some)
    });
    await_line(log, &[" INFO ", " xacts/s, ", " queries/s, in ", " B/s, out ", " us, wait "]);
    let refused = Login::new("alice", database).password("wrong");
    assert!(refused.connect(&fixture.proxy.tcp()).is_err());
    await_line(log, &["login failed: wrong password", &names, "client=127", "sqlstate=\"28P01\""]);
    let auto = Login::new(ALICE.0, "nonesuch").password(ALICE.1).connect(&fixture.proxy.tcp());
    assert!(auto.is_err());
    await_line(log, &["registered new auto-database: db=nonesuch", "database=\"nonesuch\""]);
    await_line(log, &[" WARN ", "server login failed: FATAL database", "sqlstate=3D000"]);
}

#[test]
fn what_is_switched_off_is_not_logged() {
    let off =
        ["log_connections = false", "log_disconnections = false", "log_pooler_errors = false"];
    let Some(mut fixture) = start(|config| off.into_iter().fold(config, Config::general)) else {
        return;
    };
    drop(connect(&fixture));
    assert!(alice(&fixture).password("wrong").connect(&fixture.proxy.tcp()).is_err());
    fixture.proxy.reload(|config| config.general("log_connections = true"));
    await_line(|| fixture.proxy.log(), &["configuration reloaded"]);
    drop(connect(&fixture));
    await_line(|| fixture.proxy.log(), &["login attempt"]);
    let log = fixture.proxy.log();
    assert_eq!(log.matches("login attempt").count(), 1, "{log}");
    for word in ["closing because", "login failed", "pooler error"] {
        assert!(!log.contains(word), "{log}");
    }
}

#[test]
fn lines_can_be_json() {
    let Some(fixture) = start(|config| config.general("log_format = \"json\"")) else { return };
    drop(connect(&fixture));
    // Quotes and line breaks in names must not break a line.
    let odd = Login::new("a\"\n\\b", &fixture.database).password("x");
    assert!(odd.connect(&fixture.proxy.tcp()).is_err());
    await_line(|| fixture.proxy.log(), &["login failed"]);
    await_line(|| fixture.proxy.log(), &["closing because"]);
    let log = fixture.proxy.log();
    let mut observer = fixture.observer();
    for line in log.lines() {
        let quoted = line.replace('\'', "''");
        // PostgreSQL reads them, and refuses what is no JSON.
        let sql = format!(
            "SELECT j ?& ARRAY['timestamp', 'level', 'message'] FROM (SELECT '{quoted}'::jsonb AS j) x"
        );
        assert_eq!(observer.value(&sql), "t", "{line}");
    }
    let end = log.lines().find(|line| line.contains("closing because")).expect("it was awaited");
    let sql =
        format!("SELECT j->>'user' || ' ' || (j->>'reason') FROM (SELECT '{end}'::jsonb j) x");
    assert_eq!(observer.value(&sql), "alice client unexpected eof");
}

#[test]
fn a_file_can_be_rotated() {
    let Subject::Pgtandem(_) = Subject::current() else { return };
    let dir = tempfile::tempdir().expect("the temporary folder is writable");
    let (file, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let Some(mut fixture) =
        start(|config| config.general(&format!("logfile = \"{}\"", file.display())))
    else {
        return;
    };
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    await_line(|| read(&file), &["ready"]);
    assert_eq!(fixture.proxy.log(), "", "nothing goes to standard error as well");
    fs::rename(&file, &old).expect("it exists");
    fixture.proxy.signal("HUP");
    await_line(|| read(&file), &["configuration reloaded"]);
    drop(connect(&fixture));
    await_line(|| read(&file), &["login attempt"]);
    assert!(!read(&old).contains("login attempt"));
    // A file that cannot be opened changes nothing.
    fixture.proxy.reload(|config| config.general("logfile = \"/nonexistent/log\""));
    await_line(
        || read(&file),
        &["configuration not reloaded", "cannot open logfile /nonexistent/log"],
    );
    // The level follows a reload, and the log can go back to standard error.
    fixture.proxy.reload(|config| config.general("logfile = \"\"").general("verbose = 1"));
    await_line(|| fixture.proxy.log(), &["configuration reloaded"]);
    drop(connect(&fixture));
    await_line(|| fixture.proxy.log(), &["DEBUG", "client logged in"]);
}

#[test]
fn repeats_are_left_out_and_counted() {
    let Some(fixture) = start(|config| config) else { return };
    for _ in 0..30 {
        assert!(alice(&fixture).password("wrong").connect(&fixture.proxy.tcp()).is_err());
    }
    let log = || fixture.proxy.log();
    await_line(log, &["login failed"]);
    let lines = || log().matches("login failed: ").count();
    // The sum comes when the ten seconds are over.
    let_pass(Duration::from_secs(10));
    await_line(log, &["similar lines left out", "kind=\"login failed\" count="]);
    let count: usize = log()
        .lines()
        .filter_map(|line| line.split("kind=\"login failed\" count=").nth(1)?.parse::<usize>().ok())
        .sum();
    assert_eq!(lines() + count, 30, "{}", log());
    assert!(count >= 10, "{}", log());
}

#[test]
fn neither_secrets_nor_statements_are_logged() {
    const MARKS: [&str; 3] = ["hush-secret", "hush-wrong", "hush_sql"];
    let Subject::Pgtandem(_) = Subject::current() else { return };
    let cluster = Cluster::shared();
    let mut superuser = cluster.superuser("postgres");
    superuser.rows("CREATE ROLE hush LOGIN PASSWORD 'hush-secret'");
    superuser.rows("CREATE ROLE forced LOGIN PASSWORD 'hush-secret'");
    for level in ["info", "debug", "trace"] {
        for auth_type in ["plain", "md5", "scram-sha-256"] {
            let database = cluster.new_database();
            let port = format!("port = {}", cluster.port());
            let dbname = format!("dbname = \"{database}\"");
            let config = Fixture::config(cluster, &database)
                .general(&format!("log_level = \"{level}\""))
                .general(&format!("auth_type = \"{auth_type}\""))
                .general("query_timeout = \"300ms\"")
                .user("hush", &["password = \"hush-secret\""])
                .database("forced", &["host = \"127.0.0.1\"", &port, &dbname])
                .database("forced", &["user = \"forced\"", "password = \"hush-wrong\""]);
            let proxy = Proxy::start(cluster, config);
            let login = |password: &str, database: &str| {
                Login::new("hush", database).password(password).connect(&proxy.tcp())
            };
            assert!(login("hush-wrong", &database).is_err());
            for sql in ["SELECT 'hush_sql'", "SELECT hush_sql", "SELECT 'hush_sql', pg_sleep(9)"] {
                let mut client = login("hush-secret", &database).expect("the password is right");
                client.send(&[parse("", sql), bind("", ""), execute(""), sync()]);
                let _ = client.ready(1);
                let mut client = login("hush-secret", &database).expect("the password is right");
                client.send(&[query(sql)]);
                let _ = client.ready(1);
            }
            let mut client = login("hush-secret", &database).expect("the password is right");
            // A statement that is broken off, a wrong one of ours, a message that is none.
            client.send_last(b"Q\0\0\0\x40SELECT 'hush_sql'");
            client.until_end();
            if let Ok(mut client) = login("hush-secret", "forced") {
                client.query("SELECT 'hush_sql'");
            }
            await_line(|| proxy.log(), &["login failed"]);
            let log = proxy.log();
            for mark in MARKS {
                let line = log.lines().find(|line| line.contains(mark));
                assert_eq!(line, None, "{level} {auth_type}");
            }
        }
    }
    superuser.rows("DROP ROLE hush; DROP ROLE forced");
}
