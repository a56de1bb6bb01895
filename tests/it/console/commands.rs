//! Commands of the console, and what undoes those that wait.

use std::{
    io::{BufReader, Read},
    process::Stdio,
};

use crate::support::{
    cluster::signal,
    fixture::Fixture,
    login::Login,
    message::*,
    poll,
    tools::{Running, tool},
    wire::Client,
};

use super::{as_user, column, console, fixture, table, with_console};

/// The value of a row of SHOW STATE.
fn state(client: &mut Client, key: &str) -> String {
    let (_, rows) = table(client, "show state");
    rows.into_iter().find(|row| row[0] == key).expect("there is such a key").swap_remove(1)
}

/// A column of SHOW DATABASES for our database.
fn database(client: &mut Client, fixture: &Fixture, name: &str) -> String {
    let (names, rows) = table(client, "show databases");
    let at = names.iter().position(|known| known == name).expect("a column");
    let row = rows.into_iter().find(|row| row[0] == fixture.database);
    row.expect("our database is listed").swap_remove(at)
}

#[test]
fn g53_a_pause_that_waits_is_undone_by_a_cancel_request() {
    let fixture = fixture();
    let (mut admin, mut watcher) = (console(&fixture), as_user(&fixture, "stats"));
    let (mut busy, mut idle) = (fixture.connect(), fixture.connect());
    for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
        for command in ["pause".to_owned(), format!("pause {}", fixture.database)] {
            assert_eq!(busy.query("begin").last(), "Z T");
            admin.send(&[query(&command)]);
            poll("it has begun", || {
                state(&mut watcher, "paused") == "yes"
                    || database(&mut watcher, &fixture, "paused") == "1"
            });
            idle.send(&[query("select 1")]);
            admin.assert_quiet();
            idle.assert_quiet();
            // The key of another session is of no use.
            address.cancel(watcher.key);
            address.cancel((admin.key.0, !admin.key.1));
            admin.assert_quiet();
            address.cancel(admin.key);
            assert_eq!(admin.ready(1), "E 57014 | Z I", "{command}");
            assert_eq!(state(&mut watcher, "active"), "yes");
            assert_eq!(database(&mut watcher, &fixture, "paused"), "0");
            assert_eq!(busy.query("commit").last(), "Z I");
            assert_eq!(idle.ready(1), "T | D 1 | C SELECT 1 | Z I", "{command}");
        }
    }
    // Nothing waits: nothing happens, also not to the next command.
    fixture.proxy.tcp().cancel(admin.key);
    assert_eq!(admin.query("pause"), "C PAUSE | Z I");
    assert_eq!(admin.query("resume"), "C RESUME | Z I");
}

#[test]
fn g53_a_pause_that_waits_is_undone_when_its_client_leaves() {
    let fixture = fixture();
    let mut watcher = as_user(&fixture, "stats");
    let mut busy = fixture.connect();
    assert_eq!(busy.query("begin").last(), "Z T");
    for is_polite in [false, true] {
        let mut admin = console(&fixture);
        admin.send(&[query("pause")]);
        poll("it has begun", || state(&mut watcher, "paused") == "yes");
        if is_polite {
            admin.send(&[terminate()]);
        }
        drop(admin);
        poll("it is undone", || state(&mut watcher, "active") == "yes");
    }
    let mut admin = console(&fixture);
    admin.send(&[query("pause")]);
    poll("it has begun", || state(&mut watcher, "paused") == "yes");
    let mut other = console(&fixture);
    let (names, rows) = table(&mut other, "show clients");
    let at = |name: &str| names.iter().position(|known| known == name).expect("a column");
    let user_of = |row: &Vec<String>| row[at("user")] == "admin";
    let id = rows.into_iter().find(user_of).expect("it is at the console").swap_remove(at("id"));
    assert_eq!(other.query(&format!("kill_client {id}")), "C KILL_CLIENT | Z I");
    assert_eq!(admin.until_end(), "E FATAL 57P01 | EOF");
    poll("it is undone", || state(&mut watcher, "active") == "yes");
    assert_eq!(busy.query("commit").last(), "Z I");
}

#[test]
fn g53_a_suspend_that_waits_is_undone_by_a_cancel_request() {
    let fixture = fixture();
    let (mut admin, mut watcher) = (console(&fixture), as_user(&fixture, "stats"));
    let mut client = fixture.connect();
    // More than the sockets hold, and nobody reads it.
    client.send(&[query("select repeat('x', 100000) from generate_series(1, 500)")]);
    let at = |name: &str, client: &mut Client| column(client, "show sockets", name);
    poll("its output is stuck", || at("send_avail", &mut watcher).iter().any(|bytes| bytes != "0"));
    admin.send(&[query("suspend")]);
    poll("it has begun", || state(&mut watcher, "suspended") == "yes");
    fixture.proxy.tcp().cancel(admin.key);
    assert_eq!(admin.ready(1), "E 57014 | Z I");
    assert_eq!(state(&mut watcher, "active"), "yes");
    assert_eq!(client.ready(1).len(), 1 + 500 + 2);
}

#[test]
fn g53_what_was_paused_stays_paused() {
    let fixture = fixture();
    let mut watcher = as_user(&fixture, "stats");
    let mut client = fixture.connect();
    assert_eq!(console(&fixture).query("pause"), "C PAUSE | Z I");
    client.send(&[query("select 1")]);
    client.assert_quiet();
    assert_eq!(state(&mut watcher, "paused"), "yes");
    let mut admin = console(&fixture);
    assert_eq!(admin.query("PAUSE"), "E 55000 | Z I");
    let waits = column(&mut watcher, "show waits", "reason");
    assert_eq!(waits, ["paused"]);
    assert_eq!(admin.query("RESUME"), "C RESUME | Z I");
    assert_eq!(client.ready(1), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(admin.query("RESUME"), "E 55000 | Z I");
}

#[test]
fn g53_resume_ends_a_pause_that_waits() {
    let fixture = fixture();
    let (mut admin, mut other) = (console(&fixture), console(&fixture));
    let mut busy = fixture.connect();
    assert_eq!(busy.query("begin").last(), "Z T");
    admin.send(&[parse("", "PAUSE"), bind("", ""), execute(""), sync()]);
    poll("it has begun", || state(&mut other, "paused") == "yes");
    assert_eq!(other.query("resume"), "C RESUME | Z I");
    assert_eq!(admin.ready(1), "1 | 2 | E 57014 | Z I");
    assert_eq!(busy.query("commit").last(), "Z I");
}

#[test]
fn databases_are_named_as_in_pgbouncer() {
    let fixture = Fixture::start(|config| {
        with_console(config)
            .database("Odd-Name", &["host = \"127.0.0.1\""])
            .database("two words", &["host = \"127.0.0.1\""])
    });
    let mut admin = console(&fixture);
    let name = &fixture.database;
    for (sql, expected) in [
        (format!("PAUSE {name}"), "C PAUSE | Z I"),
        (format!("pause \"{name}\";"), "C PAUSE | Z I"),
        (format!("RESUME {name}"), "C RESUME | Z I"),
        (format!("RESUME {name}"), "E 55000 | Z I"),
        ("pause Odd-Name".to_owned(), "C PAUSE | Z I"),
        ("resume \"Odd-Name\"".to_owned(), "C RESUME | Z I"),
        ("pause odd-name".to_owned(), "E 3D000 | Z I"),
        ("pause \"two words\"".to_owned(), "C PAUSE | Z I"),
        ("resume \"two words\"".to_owned(), "C RESUME | Z I"),
        ("pause two words".to_owned(), "E 42601 | Z I"),
        ("pause nowhere".to_owned(), "E 3D000 | Z I"),
        ("resume nowhere".to_owned(), "E 3D000 | Z I"),
        ("kill nowhere".to_owned(), "E 3D000 | Z I"),
        ("disable nowhere".to_owned(), "E 3D000 | Z I"),
        ("enable nowhere".to_owned(), "E 3D000 | Z I"),
        ("reconnect nowhere".to_owned(), "E 3D000 | Z I"),
        ("wait_close nowhere".to_owned(), "E 3D000 | Z I"),
        ("disable".to_owned(), "E 42601 | Z I"),
        ("kill".to_owned(), "E 42601 | Z I"),
        ("kill_client 999999".to_owned(), "E 42704 | Z I"),
        ("kill_client one".to_owned(), "E 42601 | Z I"),
        (format!("DISABLE {name}"), "C DISABLE | Z I"),
        (format!("ENABLE {name}"), "C ENABLE | Z I"),
        ("RECONNECT".to_owned(), "C RECONNECT | Z I"),
        (format!("reconnect {name}"), "C RECONNECT | Z I"),
        ("WAIT_CLOSE".to_owned(), "C WAIT_CLOSE | Z I"),
        ("SUSPEND".to_owned(), "C SUSPEND | Z I"),
        ("resume".to_owned(), "C RESUME | Z I"),
    ] {
        assert_eq!(admin.query(&sql), expected, "{sql}");
    }
}

#[test]
fn disable_refuses_new_clients_only() {
    let fixture = fixture();
    let mut admin = console(&fixture);
    let mut client = fixture.connect();
    admin.query(&format!("disable {}", fixture.database));
    assert_eq!(database(&mut admin, &fixture, "disabled"), "1");
    assert!(fixture.login().connect(&fixture.proxy.tcp()).is_err());
    assert_eq!(client.query("select 1").last(), "Z I");
    admin.query(&format!("enable {}", fixture.database));
    assert_eq!(database(&mut admin, &fixture, "disabled"), "0");
    assert_eq!(fixture.connect().query("select 1").last(), "Z I");
}

#[test]
fn kill_closes_everybody_and_pauses() {
    let fixture = fixture();
    let mut admin = console(&fixture);
    let mut client = fixture.connect();
    assert_eq!(client.query("begin").last(), "Z T");
    assert_eq!(admin.query(&format!("kill {}", fixture.database)), "C KILL | Z I");
    assert_eq!(client.until_end().last(), "EOF");
    assert_eq!(database(&mut admin, &fixture, "paused"), "1");
    assert_eq!(admin.query(&format!("resume {}", fixture.database)), "C RESUME | Z I");
    assert_eq!(fixture.connect().value("select 1"), "1");
}

#[test]
fn kill_client_takes_what_show_clients_says() {
    let fixture = fixture();
    let mut admin = console(&fixture);
    for name in ["id", "ptr"] {
        let mut client = fixture.connect();
        let (names, rows) = table(&mut admin, "show clients");
        let at = |name: &str| names.iter().position(|known| known == name).expect("a column");
        let row = rows.iter().find(|row| row[at("database")] == fixture.database);
        let number = &row.expect("it is in")[at(name)];
        assert_eq!(admin.query(&format!("kill_client {number}")), "C KILL_CLIENT | Z I");
        assert_eq!(client.until_end(), "E FATAL 57P01 | EOF");
        assert_eq!(admin.query(&format!("kill_client {number}")), "E 42704 | Z I");
    }
}

#[test]
fn g54_wait_close_waits_for_backends_from_before() {
    let fixture = fixture();
    let (mut admin, mut other) = (console(&fixture), console(&fixture));
    let mut client = fixture.connect();
    assert_eq!(client.query("begin").last(), "Z T");
    let old = client.backend_pid();
    assert_eq!(admin.query("reconnect"), "C RECONNECT | Z I");
    assert_eq!(column(&mut other, "show servers", "close_needed"), ["1"]);
    admin.send(&[query("wait_close")]);
    admin.assert_quiet();
    fixture.proxy.tcp().cancel(admin.key);
    assert_eq!(admin.ready(1), "E 57014 | Z I");
    admin.send(&[query("wait_close")]);
    admin.assert_quiet();
    assert_eq!(client.query("commit").last(), "Z I");
    assert_eq!(admin.ready(1), "C WAIT_CLOSE | Z I");
    assert_ne!(client.backend_pid(), old);
}

#[test]
fn reload_says_what_is_wrong_and_what_would_change() {
    let fixture = fixture();
    let mut admin = console(&fixture);
    let path = fixture.proxy.file("proxy.toml");
    assert_eq!(admin.query("reload dry run"), "T | C RELOAD | Z I");
    let good = std::fs::read_to_string(&path).expect("it is there");
    let broken = good.replace("default_pool_size = 1", "default_pool_size = 0\nno_such_key = 1");
    std::fs::write(&path, broken).expect("the folder is ours");
    for sql in ["reload", "reload dry run"] {
        admin.send(&[query(sql)]);
        let error = admin.reply();
        assert_eq!(error.sqlstate(), "F0000");
        let detail = error.field(b'D').expect("it says why");
        assert_eq!(detail.lines().count(), 2, "{detail}");
        assert!(detail.contains("proxy.toml:") && detail.contains("no_such_key"), "{detail}");
        assert_eq!(admin.until(b'Z'), "Z I");
    }
    std::fs::write(&path, &good).expect("the folder is ours");
    assert_eq!(fixture.connect().value("select 1"), "1");
    let other = good
        .replace("default_pool_size = 1", "default_pool_size = 2\nquery_timeout = 7")
        .replace("workers = ", "workers = 1")
        + "\n[databases.further]\n[users.further]\n";
    std::fs::write(&path, other).expect("the folder is ours");
    let (names, rows) = table(&mut admin, "reload dry run");
    assert_eq!(names, ["kind", "name", "change"]);
    let rows: Vec<String> = rows.into_iter().map(|row| row.join("|")).collect();
    for row in [
        "general|default_pool_size|changed".to_owned(),
        "general|query_timeout|changed".to_owned(),
        "general|workers|changed at the next start".to_owned(),
        "database|further|added".to_owned(),
        "user|further|added".to_owned(),
        format!("pool|{}/postgres|updated", fixture.database),
    ] {
        assert!(rows.contains(&row), "{row} is not in {rows:?}");
    }
    assert_eq!(rows.len(), 6, "{rows:?}");
    // It was dry: only now is it done, and what is not is said.
    assert!(!column(&mut admin, "show databases", "name").contains(&"further".to_owned()));
    assert_eq!(admin.query("reload"), "N 01000 | C RELOAD | Z I");
    assert!(column(&mut admin, "show databases", "name").contains(&"further".to_owned()));
}

#[test]
fn set_changes_one_key_until_the_next_reload() {
    let fixture = fixture();
    let mut admin = console(&fixture);
    let value = |admin: &mut Client, key: &str| {
        let (_, rows) = table(admin, "show config");
        rows.into_iter().find(|row| row[0] == key).expect("there is such a key").swap_remove(1)
    };
    for (sql, key, shown) in [
        ("SET query_timeout = 5", "query_timeout", "5"),
        ("set query_timeout='250ms';", "query_timeout", "0.25"),
        ("SET Query_Timeout TO 1.5", "query_timeout", "1.5"),
        ("SET pool_mode = session", "pool_mode", "session"),
        (
            "SET server_reset_query = 'DISCARD ALL; SELECT 1'",
            "server_reset_query",
            "DISCARD ALL; SELECT 1",
        ),
        ("SET server_reset_query = ''", "server_reset_query", ""),
        ("SET stats_users = stats, 'someone'", "stats_users", "stats,someone"),
        ("SET max_client_conn = 7", "max_client_conn", "7"),
    ] {
        assert_eq!(admin.query(sql), "C SET | Z I", "{sql}");
        assert_eq!(value(&mut admin, key), shown, "{sql}");
    }
    for (sql, sqlstate) in [
        ("SET no_such_key = 1", "42704"),
        ("SET query_timeout = soon", "22023"),
        ("SET default_pool_size = 0", "22023"),
        ("SET workers = 2", "55P02"),
        ("SET query_timeout", "42601"),
    ] {
        assert_eq!(admin.query(sql), format!("E {sqlstate} | Z I"), "{sql}");
    }
    admin.send(&[query("SET query_timeout = soon")]);
    let error = admin.reply();
    assert_eq!(error.field(b'M').as_deref(), Some("SET failed"));
    assert!(error.field(b'D').is_some_and(|detail| detail.contains("query_timeout")), "{error:?}");
    admin.until(b'Z');
    assert_eq!(admin.query("reload"), "C RELOAD | Z I");
    assert_eq!(value(&mut admin, "query_timeout"), "0");
}

#[test]
fn shutdown_leaves_the_console_open_on_the_unix_socket() {
    let mut fixture = fixture();
    let mut admin = console(&fixture);
    let mut client = fixture.connect();
    assert_eq!(client.query("begin").last(), "Z T");
    assert_eq!(admin.query("shutdown wait_for_clients"), "C SHUTDOWN | Z I");
    poll("TCP is closed", || fixture.proxy.tcp().try_open().is_err());
    let login = |user: &str| Login::new(user, "pgtandem").connect(&fixture.proxy.unix());
    let mut late = login("admin").expect("administrators are let in");
    assert_eq!(state(&mut late, "shutting_down"), "yes");
    let refused = login("stats").err().expect("watchers are not");
    assert_eq!(refused[refused.len() - 2].sqlstate(), "57P03");
    let refused = fixture.login().connect(&fixture.proxy.unix()).err().expect("nor are clients");
    assert_eq!(refused[refused.len() - 2].sqlstate(), "57P03");
    assert_eq!(late.query("shutdown wait_for_clients"), "E 55000 | Z I");
    assert_eq!(client.query("commit").last(), "Z I");
    drop(client);
    assert!(fixture.proxy.wait().success());
}

#[test]
fn shutdown_variants_end_the_proxy() {
    for sql in ["shutdown", "SHUTDOWN WAIT_FOR_SERVERS;"] {
        let mut fixture = fixture();
        let mut admin = console(&fixture);
        let _idle = fixture.connect();
        admin.send(&[query(sql)]);
        assert!(fixture.proxy.wait().success(), "{sql}");
        assert_eq!(admin.until_end().last(), "EOF");
    }
}

#[test]
fn ctrl_c_in_psql_undoes_a_pause() {
    let fixture =
        Fixture::start(|config| with_console(config).general("admin_users = \"postgres\""));
    let mut watcher = as_user(&fixture, "stats");
    let mut busy = fixture.connect();
    assert_eq!(busy.query("begin").last(), "Z T");
    let mut command = tool("psql", &fixture.proxy.unix(), "pgtandem");
    command.args(["-X", "-c", "PAUSE"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut psql = Running::start(&mut command);
    poll("it waits", || state(&mut watcher, "paused") == "yes");
    signal(psql.0.id(), "INT");
    poll("it ends", || psql.0.try_wait().is_ok_and(|end| end.is_some()));
    let mut complaint = String::new();
    let stderr = psql.0.stderr.take().expect("it is piped");
    BufReader::new(stderr).read_to_string(&mut complaint).expect("UTF-8");
    assert!(complaint.contains("canceling statement due to user request"), "{complaint}");
    assert_eq!(state(&mut watcher, "active"), "yes");
    assert_eq!(busy.query("commit").last(), "Z I");
}
