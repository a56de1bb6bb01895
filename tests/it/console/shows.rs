//! Every SHOW beside PgBouncer's in the same run: names, types and order of columns, and what they
//! say of the same load.

use crate::support::{
    fixture::Fixture, login::Login, message::*, poll, proxy::Proxy, reply::Reply, wire::Client,
};

use super::{column, console, fixture, table, with_console};

/// A database behind two proxies with the same settings.
struct Pair {
    ours: Fixture,
    theirs: Proxy,
}

impl Pair {
    fn start() -> Self {
        let ours = fixture();
        let config = with_console(Fixture::config(ours.cluster, &ours.database));
        Self { theirs: Proxy::start_bouncer(ours.cluster, config), ours }
    }

    /// Runs the same for both, and gives what came of it.
    fn both<T>(&self, run: impl Fn(&Proxy) -> T) -> (T, T) {
        (run(&self.ours.proxy), run(&self.theirs))
    }
}

fn console_of(proxy: &Proxy) -> Client {
    Login::new("admin", "pgbouncer").connect(&proxy.tcp()).expect("everybody is trusted")
}

/// Everything that PgBouncer's HELP says can be shown.
fn names_of(client: &mut Client) -> Vec<String> {
    client.send(&[query("SHOW HELP")]);
    let help = client.reply().field(b'D').expect("a list of commands");
    client.until(b'Z');
    let lines = help.lines().filter_map(|line| line.trim().strip_prefix("SHOW "));
    lines.flat_map(|names| names.split('|').map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_show_begins_with_pgbouncers_columns() {
    let pair = Pair::start();
    let (mut ours, mut theirs) = pair.both(console_of);
    let names = names_of(&mut theirs);
    assert!(names.len() >= 18, "{names:?}");
    let described = |client: &mut Client, name: &str| {
        client.send(&[query(&format!("SHOW {name}"))]);
        let replies = client.replies_until(|reply| b"Z\0".contains(&reply.tag()));
        let tags: String = replies.iter().map(|reply| char::from(reply.tag())).collect();
        let columns = replies.iter().find(|reply| reply.tag() == b'T').map(Reply::column_types);
        (columns.unwrap_or_default(), tags.chars().next(), replies[replies.len() - 2].to_string())
    };
    for name in names {
        let (expected, first, end) = described(&mut theirs, &name);
        let (columns, our_first, our_end) = described(&mut ours, &name);
        if name == "FDS" {
            assert_eq!(our_end, "E 0A000", "it would show passwords");
            continue;
        }
        assert_eq!((our_first, our_end), (first, end), "{name}");
        assert_eq!(columns.get(..expected.len()), Some(&expected[..]), "{name}");
    }
    // What PgBouncer answers without listing it.
    for name in [
        "client_encoding",
        "datestyle",
        "timezone",
        "standard_conforming_strings",
        "default_transaction_isolation",
    ] {
        assert_eq!(described(&mut ours, name), described(&mut theirs, name), "{name}");
    }
}

#[test]
fn rows_of_lists_begin_with_pgbouncers() {
    let pair = Pair::start();
    let (mut ours, mut theirs) = pair.both(console_of);
    for (show, name) in [("LISTS", "list"), ("TOTALS", "name")] {
        let show = format!("show {show}");
        let (names, expected) = (column(&mut ours, &show, name), column(&mut theirs, &show, name));
        assert_eq!(names[..expected.len()], expected, "{show}");
    }
}

/// The first columns of the row of our database, as many as PgBouncer has.
fn row_of(client: &mut Client, show: &str, database: &str, columns: usize) -> Vec<String> {
    let (names, rows) = table(client, show);
    let key = if show == "show databases" { "name" } else { "database" };
    let at = names.iter().position(|name| name == key).expect("it has a name");
    let row = rows.into_iter().find(|row| row[at] == database).unwrap_or_default();
    row.into_iter().take(columns).collect()
}

#[test]
fn pools_say_the_same_of_the_same_load() {
    let pair = Pair::start();
    let (mut our_console, mut their_console) = pair.both(console_of);
    let login = |proxy: &Proxy| pair.ours.login().connect(&proxy.tcp()).expect("trusted");
    let compare = |ours: &mut Client, theirs: &mut Client, what: &str| {
        // Without the time of the longest wait.
        let of = |client: &mut Client| {
            let mut row = row_of(client, "show pools", &pair.ours.database, 16);
            if row.len() == 16 {
                row.drain(13..15);
            }
            row
        };
        let mut seen = (Vec::new(), Vec::new());
        poll(what, || {
            seen = (of(ours), of(theirs));
            seen.0 == seen.1
        });
        seen.0
    };
    let mut idle = pair.both(login);
    for client in [&mut idle.0, &mut idle.1] {
        assert_eq!(client.query("select 1").last(), "Z I");
    }
    let row = compare(&mut our_console, &mut their_console, "an idle client, an idle backend");
    assert_eq!(row[2..], ["1", "0", "0", "0", "0", "0", "0", "1", "0", "0", "0", "transaction"]);
    let mut busy = pair.both(login);
    for client in [&mut busy.0, &mut busy.1] {
        assert_eq!(client.query("begin").last(), "Z T");
    }
    let row = compare(&mut our_console, &mut their_console, "two clients, a busy backend");
    assert_eq!(row[2..], ["2", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0", "transaction"]);
    for client in [&mut idle.0, &mut idle.1] {
        client.send(&[query("select 2")]);
    }
    let row = compare(&mut our_console, &mut their_console, "one of them waits");
    assert_eq!(row[2..], ["1", "1", "0", "0", "1", "0", "0", "0", "0", "0", "0", "transaction"]);
}

#[test]
fn databases_and_stats_say_the_same() {
    let pair = Pair::start();
    let (mut our_console, mut their_console) = pair.both(console_of);
    let database = &pair.ours.database;
    let row = row_of(&mut our_console, "show databases", database, 13);
    assert_eq!(row, row_of(&mut their_console, "show databases", database, 13));
    assert_eq!(row[0], *database);
    for proxy in [&pair.ours.proxy, &pair.theirs] {
        let mut client = pair.ours.login().connect(&proxy.tcp()).expect("trusted");
        for sql in ["select 1", "begin", "select 2", "select 3", "commit"] {
            assert_eq!(client.query(sql).last().split(' ').next(), Some("Z"));
        }
    }
    // Transactions, queries, and the bytes of both directions.
    let mut seen = Vec::new();
    poll("both have counted", || {
        seen = [&mut our_console, &mut their_console]
            .map(|client| row_of(client, "show stats_totals", database, 3))
            .into();
        seen[0] == seen[1]
    });
    assert_eq!(seen[0][1..], ["2", "5"], "transactions and queries");
    let received = |client: &mut Client| row_of(client, "show stats", database, 5)[3].clone();
    assert!(received(&mut our_console).parse::<u64>().expect("a number") > 50);
}

#[test]
fn clients_and_servers_are_linked_by_their_ptr() {
    let fixture = fixture();
    let mut watcher = console(&fixture);
    let mut client = fixture
        .login()
        .parameter("application_name", "it")
        .connect(&fixture.proxy.tcp())
        .expect("trusted");
    assert_eq!(client.query("begin").last(), "Z T");
    let pid = client.backend_pid();
    let (names, clients) = table(&mut watcher, "show clients");
    let (same_names, servers) = table(&mut watcher, "show servers");
    assert_eq!(names, same_names);
    let at = |name: &str| names.iter().position(|known| known == name).expect("a column");
    let ours = clients.iter().find(|row| row[at("application_name")] == "it").expect("it is in");
    let [server] = &servers[..] else { panic!("one backend: {servers:?}") };
    for (name, client, of_server) in [
        ("type", "C", "S"),
        ("user", "postgres", "postgres"),
        ("database", &*fixture.database, &*fixture.database),
        ("state", "active", "active"),
        ("application_name", "it", "it"),
        ("close_needed", "0", "0"),
        ("addr", "127.0.0.1", "127.0.0.1"),
    ] {
        assert_eq!((&*ours[at(name)], &*server[at(name)]), (client, of_server), "{name}");
    }
    assert_eq!(ours[at("link")], server[at("ptr")]);
    assert_eq!(server[at("link")], ours[at("ptr")]);
    assert_eq!(server[at("remote_pid")], pid);
    assert_eq!(server[at("port")], fixture.cluster.port().to_string());
    assert!(ours[at("connect_time")].ends_with(" UTC"));
    let (names, active) = table(&mut watcher, "show active_sockets");
    let state = names.iter().position(|name| name == "state").expect("a column");
    let states: Vec<&str> = active.iter().map(|row| &*row[state]).collect();
    assert_eq!(states, ["cl_active", "cl_active", "sv_active"]);
    drop(client);
}

#[test]
fn waits_says_who_waits_for_whom_and_why() {
    let fixture = fixture();
    let mut watcher = console(&fixture);
    let login = |name: &str| {
        fixture
            .login()
            .parameter("application_name", name)
            .connect(&fixture.proxy.tcp())
            .expect("trusted")
    };
    assert_eq!(table(&mut watcher, "show waits").1, Vec::<Vec<String>>::new());
    // A name that no server has seen yet takes a backend to log in with.
    let (mut holder, mut first, mut second) = (login("holder"), login("first"), login("second"));
    let pid = {
        holder.query("begin");
        holder.backend_pid()
    };
    first.send(&[query("select 1")]);
    poll("the first waits", || table(&mut watcher, "show waits").1.len() == 2);
    second.send(&[query("select 2")]);
    let mut seen = (Vec::new(), Vec::new());
    poll("the second waits", || {
        seen = table(&mut watcher, "show waits");
        seen.1.len() == 3
    });
    let (names, rows) = seen;
    let at = |name: &str| names.iter().position(|known| known == name).expect("a column");
    let shown: Vec<String> = rows
        .iter()
        .map(|row| {
            ["kind", "application_name", "reason", "server_pid"]
                .map(|name| row[at(name)].clone())
                .join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "waits first pool_size NULL".to_owned(),
            "waits second pool_size NULL".to_owned(),
            format!("holds holder transaction {pid}"),
        ]
    );
    let seconds = |row: &[String]| row[at("seconds")].parse::<f64>().expect("a number");
    assert!(seconds(&rows[0]) >= seconds(&rows[1]));
    assert!(rows.iter().all(|row| row[at("database")] == fixture.database));
    let ids = column(&mut watcher, "show clients", "id");
    assert!(rows.iter().all(|row| ids.contains(&row[at("client")])));
    assert_eq!(holder.query("commit").last(), "Z I");
    for client in [&mut first, &mut second] {
        assert_eq!(client.ready(1).last(), "Z I");
    }
    assert_eq!(table(&mut watcher, "show waits").1, Vec::<Vec<String>>::new());
}

#[test]
fn waits_looks_past_the_pool_where_another_bound_is_reached() {
    let fixture = Fixture::start(|config| with_console(config).general("max_db_connections = 1"));
    let mut watcher = console(&fixture);
    let login = |user: &str| Login::new(user, &fixture.database).connect(&fixture.proxy.tcp());
    let mut waiter = login("dave").expect("trusted");
    let mut holder = login("postgres").expect("trusted");
    assert_eq!(holder.query("begin").last(), "Z T");
    waiter.send(&[query("select 1")]);
    poll("it waits", || table(&mut watcher, "show waits").1.len() == 2);
    assert_eq!(column(&mut watcher, "show waits", "user"), ["dave", "postgres"]);
    assert_eq!(column(&mut watcher, "show waits", "kind"), ["waits", "holds"]);
    let reasons = column(&mut watcher, "show waits", "reason");
    assert_eq!(reasons, ["max_db_connections", "transaction"]);
    assert_eq!(holder.query("commit").last(), "Z I");
    assert_eq!(waiter.ready(1).last(), "Z I");
}

#[test]
fn config_shows_what_is_in_force() {
    let mut fixture = fixture();
    let mut watcher = console(&fixture);
    let value = |client: &mut Client, key: &str| {
        let (_, rows) = table(client, "show config");
        rows.into_iter().find(|row| row[0] == key).expect("there is such a key")
    };
    assert_eq!(value(&mut watcher, "query_timeout"), ["query_timeout", "0", "0", "yes"]);
    assert_eq!(value(&mut watcher, "default_pool_size")[1], "1");
    assert_eq!(value(&mut watcher, "workers")[3], "no");
    fixture.proxy.reload(|config| config.general("query_timeout = \"1500ms\""));
    poll("it is in force", || value(&mut watcher, "query_timeout")[1] == "1.5");
}

#[test]
fn averages_look_back_over_stats_period() {
    let fixture = Fixture::start(|config| with_console(config).general("stats_period = 1"));
    let mut watcher = console(&fixture);
    let mut client = fixture.connect();
    let average = |client: &mut Client| {
        let (names, rows) = table(client, "show stats");
        let at = names.iter().position(|name| name == "avg_query_count").expect("a column");
        let row = rows.into_iter().find(|row| row[0] == fixture.database);
        row.map_or(0, |row| row[at].parse::<u64>().expect("a number"))
    };
    poll("queries are seen in the average", || {
        for _ in 0..100 {
            assert_eq!(client.query("select 1").last(), "Z I");
        }
        average(&mut watcher) > 0
    });
    poll("they are forgotten", || average(&mut watcher) == 0);
}

#[test]
fn shows_that_have_nothing_to_show_are_empty() {
    let fixture = fixture();
    let mut watcher = console(&fixture);
    for show in ["peers", "peer_pools", "dns_hosts", "dns_zones", "waits"] {
        assert_eq!(watcher.query(&format!("show {show}")), "T | C SHOW | Z I", "{show}");
    }
    assert!(column(&mut watcher, "show mem", "name").contains(&"resident".to_owned()));
}
