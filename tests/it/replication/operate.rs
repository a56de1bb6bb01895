//! What a person on call sees and does: the admin console of the proxy that applies, and of others.

use super::pair::{self, Pair};
use crate::support::{
    cluster::free_port,
    config::Config,
    fixture::Fixture,
    http,
    login::{Address, Login},
    message::query,
    poll,
    proxy::Proxy,
    reply::Reply,
    wire::Client,
};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, x text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i";

pub(super) fn with_console(config: Config) -> Config {
    config
        .general("admin_users = \"admin\"")
        .general("stats_users = \"stats\"")
        .user("admin", &[])
        .user("stats", &[])
}

fn start(keys: &str) -> Pair {
    Pair::start_configured(SCHEMA, ROWS, keys, with_console)
}

pub(super) fn console_of(proxy: &Proxy) -> Client {
    Login::new("admin", "pgtandem").connect(&proxy.tcp()).expect("everybody is trusted")
}

/// The rows of a result, by the names of its columns.
struct Table(Vec<String>, Vec<Vec<String>>);

impl Table {
    fn read(client: &mut Client, sql: &str) -> Self {
        client.send(&[query(sql)]);
        let replies = client.replies_until(|reply| b"Z\0".contains(&reply.tag()));
        let error = replies.iter().find(|reply| b"E\0".contains(&reply.tag()));
        assert!(error.is_none(), "{sql}: {error:?}");
        let head = replies.iter().find(|reply| reply.tag() == b'T').expect("a result");
        let rows = replies.iter().filter(|reply| reply.tag() == b'D').map(Reply::columns);
        Self(head.column_names(), rows.collect())
    }

    fn get(&self, row: usize, column: &str) -> &str {
        let at = self.0.iter().position(|name| name == column).expect("there is such a column");
        &self.1[row][at]
    }

    fn number(&self, row: usize, column: &str) -> f64 {
        self.get(row, column).parse().expect("a number")
    }
}

fn shown(client: &mut Client, column: &str) -> String {
    Table::read(client, "SHOW SECONDARIES").get(0, column).to_owned()
}

fn await_shown(client: &mut Client, column: &str, expected: &str) {
    poll(&format!("{column} is {expected}"), || shown(client, column) == expected);
}

/// What the console answers to something that it refuses: SQLSTATE and message.
pub(super) fn refusal(client: &mut Client, sql: &str) -> (String, String) {
    client.send(&[query(sql)]);
    let replies = client.replies_until(|reply| reply.tag() == b'Z');
    let error = replies.iter().find(|reply| reply.tag() == b'E');
    let error = error.unwrap_or_else(|| panic!("{sql} was not refused: {replies:?}"));
    (error.sqlstate(), error.detail())
}

#[test]
fn it_is_shown_how_a_secondary_is() {
    let pair = start("verify_interval = \"0s\"");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    let table = Table::read(&mut console, "SHOW SECONDARIES");
    let first = ["database", "secondary", "state", "lag_seconds", "lag_changes", "lag_bytes"];
    assert_eq!(table.0[..6], first);
    assert_eq!(table.0[6], "last_error");
    assert_eq!(table.get(0, "database"), pair.database);
    assert_eq!(table.get(0, "secondary"), "copy");
    assert_eq!(table.get(0, "is_leader"), "1");
    assert_eq!(table.get(0, "last_error"), "NULL");
    assert_eq!(table.get(0, "copy_rows"), "NULL");
    assert!(table.number(0, "lag_seconds") < 5.0);
    poll("the log is seen", || {
        Table::read(&mut console, "SHOW REPLICATION").get(0, "capture") == "active"
    });
    let replication = Table::read(&mut console, "SHOW REPLICATION");
    for (column, expected) in [
        ("database", pair.database.as_str()),
        ("capture", "active"),
        ("tables", "1"),
        ("tables_refused", "0"),
        ("secondaries", "1"),
        ("in_sync", "1"),
        ("consistency", "async"),
        ("last_error", "NULL"),
    ] {
        assert_eq!(replication.get(0, column), expected, "{column}");
    }
    assert!(replication.number(0, "log_bytes") > 0.0);
    assert!(Table::read(&mut console, "SHOW DIVERGENCE").1.is_empty());
}

#[test]
fn what_a_paused_secondary_lacks_is_counted_and_beyond_that_estimated() {
    let pair = start("");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    let place = format!("{}.copy", pair.database);
    assert_eq!(console.query(&format!("PAUSE SECONDARY {place} 'for lunch'")), "C PAUSE | Z I");
    await_shown(&mut console, "state", "paused");
    assert_eq!(shown(&mut console, "last_error"), "for lunch");
    pair.run("INSERT INTO t SELECT i, repeat('y', 100) FROM generate_series(1001, 1300) i");
    await_shown(&mut console, "lag_changes", "300");
    let table = Table::read(&mut console, "SHOW SECONDARIES");
    assert_eq!(table.get(0, "lag_is_estimate"), "0");
    assert!(table.number(0, "lag_bytes") > 300.0 * 100.0, "{}", table.get(0, "lag_bytes"));
    pair.run("INSERT INTO t SELECT i, 'y' FROM generate_series(2001, 32000) i");
    await_shown(&mut console, "lag_is_estimate", "1");
    let changes = Table::read(&mut console, "SHOW SECONDARIES").number(0, "lag_changes");
    assert!((30_300.0..31_000.0).contains(&changes), "{changes}");
    // It would wait for ever.
    let wait = format!("WAIT SECONDARY {place} TIMEOUT 60");
    let (sqlstate, words) = refusal(&mut console, &wait);
    assert_eq!(sqlstate, "55000");
    assert!(words.contains("is paused: for lunch"), "{words}");
    assert_eq!(console.query(&format!("RESUME SECONDARY {place}")), "C RESUME | Z I");
    assert_eq!(console.query(&wait), "C WAIT | Z I");
    assert_eq!(pair.there().value("SELECT count(*) FROM t"), "30400");
    await_shown(&mut console, "lag_changes", "0");
    pair.assert_equal();
}

#[test]
fn a_wait_ends_when_what_was_committed_before_is_there() {
    let pair = start("");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    for round in 0..20 {
        pair.run(&format!("INSERT INTO t VALUES ({})", 1000 + round));
        assert_eq!(console.query("WAIT SECONDARIES TIMEOUT '30s'"), "C WAIT | Z I");
        let sql = format!("SELECT count(*) FROM t WHERE id = {}", 1000 + round);
        assert_eq!(pair.there().value(&sql), "1", "round {round}");
    }
    // A table that is locked there cannot be changed.
    let mut holder = pair.there();
    holder.rows("BEGIN; LOCK TABLE t");
    pair.run("INSERT INTO t VALUES (2000)");
    let (sqlstate, words) =
        refusal(&mut console, &format!("WAIT SECONDARY {} TIMEOUT '300ms'", pair.database));
    assert_eq!(sqlstate, "57014");
    assert!(words.contains(&format!("{}.copy has not caught up", pair.database)), "{words}");
    console.send(&[query("WAIT SECONDARIES")]);
    console.assert_quiet();
    pair.proxy.tcp().cancel(console.key);
    assert_eq!(console.ready(1), "E 57014 | Z I");
    holder.rows("COMMIT");
    assert_eq!(console.query("WAIT SECONDARIES TIMEOUT '30s'"), "C WAIT | Z I");
    pair.assert_equal();
}

#[test]
fn a_proxy_that_does_not_apply_says_what_the_other_one_told() {
    let pair = start("");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, "");
    let other = Proxy::start(pair.primary, with_console(config));
    let mut there = console_of(&other);
    await_shown(&mut there, "state", "in_sync");
    assert_eq!(shown(&mut there, "is_leader"), "0");
    pair.run("INSERT INTO t VALUES (1000)");
    assert_eq!(there.query("WAIT SECONDARIES TIMEOUT '30s'"), "C WAIT | Z I");
    assert_eq!(pair.there().value("SELECT count(*) FROM t WHERE id = 1000"), "1");
    let (sqlstate, words) =
        refusal(&mut there, &format!("RESYNC SECONDARY {}.copy", pair.database));
    assert_eq!(sqlstate, "55000");
    assert!(words.contains("another process applies"), "{words}");
    // What stops there is seen here, and nobody waits for it.
    pair.there().rows("DELETE FROM t WHERE id = 5");
    pair.run("UPDATE t SET x = 'y' WHERE id = 5");
    await_shown(&mut there, "state", "paused");
    let error = shown(&mut there, "last_error");
    assert!(error.contains("no row has the key"), "{error}");
    assert_eq!(refusal(&mut there, "WAIT SECONDARIES TIMEOUT 60").0, "55000");
}

#[test]
fn verify_and_repair_from_the_console() {
    let pair = start("verify_interval = \"0s\"");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    let verify = format!("VERIFY {}", pair.database);
    let table = Table::read(&mut console, &verify);
    assert_eq!((table.get(0, "table"), table.get(0, "verdict")), ("public.t", "equal"));
    assert_eq!(table.get(0, "rows"), "100");
    pair.there().rows("DELETE FROM t WHERE id = 7; UPDATE t SET x = 'z' WHERE id = 8");
    let table = Table::read(&mut console, &format!("{verify}.copy t"));
    assert_eq!((table.get(0, "verdict"), table.get(0, "missing")), ("different", "1"));
    assert_eq!(table.get(0, "different"), "1");
    await_shown(&mut console, "state", "diverged");
    let error = shown(&mut console, "last_error");
    assert_eq!(error, "public.t: 1 missing, 0 extra, 1 different");
    let found = Table::read(&mut console, "SHOW DIVERGENCE");
    assert_eq!((found.get(0, "key"), found.get(0, "kind")), ("7", "missing"));
    assert_eq!((found.get(1, "key"), found.get(1, "kind")), ("8", "different"));
    let repaired = Table::read(&mut console, &format!("REPAIR {}.copy public.t", pair.database));
    assert_eq!((repaired.get(0, "verdict"), repaired.get(0, "inserted")), ("equal", "1"));
    assert_eq!(repaired.get(0, "updated"), "1");
    assert!(Table::read(&mut console, "SHOW DIVERGENCE").1.is_empty());
    await_shown(&mut console, "state", "in_sync");
    // What is not known to differ is found by comparing the whole table.
    pair.there().rows("DELETE FROM t WHERE id = 9");
    let whole = format!("REPAIR {}.copy public.t ALL", pair.database);
    assert_eq!(Table::read(&mut console, &whole).get(0, "inserted"), "1");
    pair.assert_equal();
}

#[test]
fn a_repair_goes_on_when_its_console_is_closed() {
    let pair = start("verify_interval = \"0s\"");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    pair.there().rows("UPDATE t SET x = 'z' WHERE id = 8");
    let mut holder = pair.there();
    holder.rows("BEGIN; SELECT FROM t WHERE id = 8 FOR UPDATE");
    let repair = format!("REPAIR {}.copy public.t ALL", pair.database);
    let mut first = console_of(&pair.proxy);
    first.send(&[query(&repair)]);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    poll("the repair waits for the row", || pair.there().value(waiting) == "1");
    pair.proxy.tcp().cancel(first.key);
    assert_eq!(first.ready(1), "E 57014 | Z I");
    drop(first);
    holder.rows("COMMIT");
    poll("it is repaired", || pair.there().value("SELECT x FROM t WHERE id = 8") == "x");
    pair.assert_equal();
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let pair = start("");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    let database = &pair.database;
    for (sql, sqlstate) in [
        ("PAUSE SECONDARY nix.copy".to_owned(), "3D000"),
        (format!("PAUSE SECONDARY {database}.nix"), "42704"),
        (format!("RESYNC SECONDARY {database}.copy nix"), "42P01"),
        // Behind the other: it may find the keeper on its way back, which is 55000 too.
        (format!("SKIP SECONDARY {database}.copy"), "55000"),
        (format!("VERIFY {database}.copy nix"), "42P01"),
        (format!("REPAIR {database}.copy nix"), "42P01"),
        (format!("VERIFY {database}.nix"), "42704"),
        ("VERIFY nix".to_owned(), "3D000"),
        (format!("COPY {database}.copy"), "42601"),
    ] {
        assert_eq!(refusal(&mut console, &sql).0, sqlstate, "{sql}");
    }
    let login = Login::new("stats", "pgtandem");
    let mut watcher = login.connect(&pair.proxy.tcp()).expect("everybody is trusted");
    assert_eq!(shown(&mut watcher, "state"), "in_sync");
    assert!(Table::read(&mut watcher, "SHOW DIVERGENCE").1.is_empty());
    for sql in [format!("VERIFY {database}"), "WAIT SECONDARIES".to_owned()] {
        assert_eq!(refusal(&mut watcher, &sql).0, "42501", "{sql}");
    }
}

#[test]
fn a_secondary_that_is_not_configured_any_more_can_be_detached() {
    let mut pair = start("");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    pair.here().rows("INSERT INTO pgtandem.secondaries (name, state) VALUES ('gone', 'paused')");
    let of = |console: &mut Client, column| {
        let table = Table::read(console, "SHOW SECONDARIES");
        assert_eq!(table.get(1, "secondary"), "gone");
        table.get(1, column).to_owned()
    };
    poll("it is seen", || Table::read(&mut console, "SHOW SECONDARIES").1.len() == 2);
    assert_eq!(of(&mut console, "is_configured"), "0");
    assert_eq!(of(&mut console, "state"), "paused");
    let detach = format!("DETACH SECONDARY {}.gone 'forgotten'", pair.database);
    assert_eq!(console.query(&detach), "C DETACH | Z I");
    poll("it is detached", || of(&mut console, "state") == "detached");
    assert_eq!(of(&mut console, "last_error"), "forgotten");
    assert!(pair.proxy.is_running());
    pair::settle((pair.primary, &pair.database), (pair.secondary, &pair.other));
}

#[test]
fn a_reload_starts_changes_and_ends_what_follows() {
    let mut pair = start("verify_interval = \"0s\"");
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    let since = shown(&mut console, "since");
    let appliers = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = \
                   (SELECT oid FROM pg_database WHERE datname = current_database())";
    let applier = pair.there().value(appliers);
    // What has not changed is not touched.
    assert_eq!(console.query("RELOAD"), "C RELOAD | Z I");
    assert_eq!(pair.there().value(appliers), applier);
    assert_eq!(shown(&mut console, "since"), since);
    // Another setting: another applier takes over, and nothing is lost.
    let of = |pair: &Pair, keys: &str| {
        let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, keys);
        with_console(config)
    };
    let changed = of(&pair, "batch_rows = 10");
    let Address::Tcp(port) = pair.proxy.tcp() else { unreachable!("tcp() is TCP") };
    let dir = pair.proxy.socket_file().parent().expect("it is in a folder").to_owned();
    let at_home = |config: Config| {
        config
            .general(&format!("listen_port = {port}"))
            .general(&format!("unix_socket_dir = \"{}\"", dir.display()))
    };
    pair.proxy.rewrite(|_| at_home(changed));
    assert_eq!(console.query("RELOAD"), "C RELOAD | Z I");
    pair.run("INSERT INTO t SELECT i, 'y' FROM generate_series(1001, 1100) i");
    poll("another session applies", || {
        let now = pair.there().rows(appliers);
        now.len() == 1 && now[0][0] != applier
    });
    pair.assert_equal();
    // Only pooled: nobody applies, the primary keeps the changes, and it is shown.
    let pooled = with_console(Fixture::config(pair.primary, &pair.database));
    pair.proxy.rewrite(|_| at_home(pooled));
    assert_eq!(console.query("RELOAD"), "C RELOAD | Z I");
    poll("nobody applies", || pair.there().rows(appliers).is_empty());
    assert_eq!(shown(&mut console, "is_configured"), "0");
    let detach = format!("DETACH SECONDARY {}.copy", pair.database);
    assert_eq!(console.query(&detach), "C DETACH | Z I");
    poll("nothing is captured", || {
        pair.here().value("SELECT stopped_at IS NOT NULL FROM pgtandem.meta") == "t"
    });
    // And back again.
    let again = of(&pair, "");
    pair.proxy.rewrite(|_| at_home(again));
    assert_eq!(console.query("RELOAD"), "C RELOAD | Z I");
    await_shown(&mut console, "state", "detached");
    let resync = format!("RESYNC SECONDARY {}.copy", pair.database);
    assert_eq!(console.query(&resync), "C RESYNC | Z I");
    await_shown(&mut console, "state", "in_sync");
    pair.assert_equal();
}

#[test]
fn metrics_count_what_was_copied_applied_and_verified() {
    let port = free_port();
    let pair = Pair::start_configured(SCHEMA, ROWS, "verify_interval = \"0s\"", |config| {
        with_console(config).metrics(&format!("listen = \"127.0.0.1:{port}\""))
    });
    let mut console = console_of(&pair.proxy);
    await_shown(&mut console, "state", "in_sync");
    pair.run("INSERT INTO t SELECT i, 'y' FROM generate_series(1001, 1050) i");
    assert_eq!(console.query("WAIT SECONDARIES TIMEOUT '30s'"), "C WAIT | Z I");
    pair.there().rows("DELETE FROM t WHERE id = 7");
    let table = Table::read(&mut console, &format!("VERIFY {}", pair.database));
    assert_eq!(table.get(0, "verdict"), "different");
    let value = |name: &str, more: &str| {
        let labels = format!("database=\"{}\",secondary=\"copy\"{more}", pair.database);
        let text = http::get(port, "/metrics").body;
        let series = format!("{name}{{{labels}}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("{series} in\n{text}")).to_owned()
    };
    assert_eq!(value("pgtandem_secondary_copied_rows_total", ""), "100");
    assert_ne!(value("pgtandem_secondary_copied_bytes_total", ""), "0");
    assert_eq!(value("pgtandem_secondary_changes_total", ""), "50");
    let batches = value("pgtandem_secondary_batches_total", "");
    assert_ne!(batches, "0");
    assert_eq!(value("pgtandem_secondary_apply_seconds_count", ""), batches);
    let verified = "pgtandem_secondary_verifications_total";
    assert_eq!(value(verified, ",result=\"different\""), "1");
    assert_eq!(value(verified, ",result=\"equal\""), "0");
    assert_eq!(value("pgtandem_secondary_verified_rows_total", ""), "150");
    poll("it is known to differ", || {
        value("pgtandem_secondary_state", ",state=\"diverged\"") == "1"
    });
    let ready = http::get(port, "/readyz");
    assert_eq!(ready.status, 200);
    let expected = format!("ready\nsecondary {}.copy: diverged, ", pair.database);
    assert!(ready.body.starts_with(&expected), "{}", ready.body);
}
