//! Reading the settings again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use pgtandem::{
    control::Changes,
    worker::{Held, HeldFor},
};

use crate::support::{
    EndsWith,
    cluster::Cluster,
    config::Config,
    fixture::Fixture,
    inside::Inside,
    let_pass,
    login::{Address, Login},
    message::query,
    poll,
    tools::{successful, tool},
    wire::Client,
};

#[test]
fn sighup_takes_new_settings_without_losing_anybody() {
    let mut fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[query("begin")]);
    b.assert_quiet();
    fixture.proxy.reload(|config| config.general("default_pool_size = 2"));
    // The second backend is there for the one who already waits.
    assert_eq!(b.ready(1), "C BEGIN | Z T");
    assert_eq!(fixture.backends(), 2);
    for client in [&mut a, &mut b] {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
}

#[test]
fn sighup_adds_databases_and_users() {
    let mut fixture = Fixture::transaction();
    let connect = |fixture: &Fixture| {
        crate::support::login::Login::new("alice", "added").connect(&fixture.proxy.tcp())
    };
    assert!(connect(&fixture).is_err());
    let mut old = fixture.connect();
    let port = format!("port = {}", fixture.cluster.port());
    fixture.proxy.reload(|config| {
        config
            .database("added", &["host = \"127.0.0.1\"", &port, "dbname = \"t1\""])
            .user("alice", &["password = \"alice-pw\""])
    });
    poll("the new database is known", || connect(&fixture).is_ok());
    let mut new = connect(&fixture).expect("it was");
    assert_eq!(new.value("select current_user"), "alice");
    assert_eq!(old.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn sighup_with_a_broken_file_keeps_the_old_settings() {
    let mut fixture = Fixture::transaction();
    let mut a = fixture.connect();
    let before = fixture.proxy.log().len();
    fixture.proxy.reload(|config| config.extra("\n[general\nnonsense"));
    poll("the failure is logged", || fixture.proxy.log()[before..].lines().count() > 0);
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(fixture.connect().query("select 2"), "T | D 2 | C SELECT 1 | Z I");
    assert!(fixture.proxy.is_running());
}

/// Names of the changes, in one line.
fn summary(changes: &Changes) -> String {
    let pools: Vec<String> = changes
        .pools
        .iter()
        .map(|pool| format!("{}/{} {:?}", pool.database, pool.user, pool.effect))
        .collect();
    let Changes { general, restart, databases, users, .. } = changes;
    format!(
        "general {general:?} restart {restart:?} databases +{:?} -{:?} ~{:?} users +{:?} -{:?} \
         ~{:?} pools {pools:?}",
        databases.added,
        databases.removed,
        databases.changed,
        users.added,
        users.removed,
        users.changed,
    )
}

/// Lines that lead to the database `postgres` of the shared cluster.
fn to_postgres() -> [String; 3] {
    let port = format!("port = {}", Cluster::shared().port());
    ["host = \"127.0.0.1\"".to_owned(), port, "dbname = \"postgres\"".to_owned()]
}

/// Three names with different fates, beside the database of the test.
fn with_others(config: Config) -> Config {
    let lines = to_postgres();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    ["resized", "moved", "gone"]
        .into_iter()
        .fold(config, |config, name| config.database(name, &lines))
}

#[test]
fn a_reload_recycles_only_pools_that_need_it() {
    let mut inside = Inside::start(with_others);
    let mut clients = ["resized", "moved"].map(|name| inside.connect_to(name));
    let mut same = inside.connect();
    let before = clients.each_mut().map(Client::backend_pid);
    let same_pid = same.backend_pid();
    inside.write(|config| {
        config
            .database("resized", &["pool_size = 3"])
            .database("moved", &["dbname = \"template1\""])
            .database("new", &["pool_size = 1"])
            .user("eve", &["password = \"x\""])
            .user("dave", &["query_timeout = 7"])
            .general("workers = 2")
            .general("log_connections = false")
            .without_database("gone")
    });
    let expected = "general [\"workers\", \"log_connections\"] restart [\"workers\"] databases \
                    +[\"new\"] -[\"gone\"] ~[(\"moved\", [\"dbname\"]), (\"resized\", \
                    [\"pool_size\"])] users +[\"eve\"] -[] ~[(\"dave\", [\"query_timeout\"])] \
                    pools [\"moved/postgres Recycled\", \"resized/postgres Updated\"]";
    let dry = inside.run(inside.control.reload_dry_run()).expect("it is correct");
    assert_eq!(summary(&dry), expected);
    assert_eq!(clients.each_mut().map(Client::backend_pid), before, "a dry run changes nothing");
    assert_eq!(inside.run(inside.control.reload_dry_run()).expect("it is correct"), dry);
    let done = inside.run(inside.control.reload()).expect("it is correct");
    assert_eq!(done, dry);
    let [resized, moved] = clients.each_mut().map(Client::backend_pid);
    assert_eq!(resized, before[0]);
    assert_ne!(moved, before[1]);
    assert_eq!(clients[1].value("select current_database()"), "template1");
    assert_eq!(same.backend_pid(), same_pid);
    let again = inside.run(inside.control.reload()).expect("it is correct");
    assert_eq!(summary(&again).matches("[]").count(), 9, "{again:?}");
    // Two more fit in now.
    let mut more = [inside.connect_to("resized"), inside.connect_to("resized")];
    for client in more.iter_mut().chain([&mut clients[0]]) {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
}

#[test]
fn a_database_that_is_gone_lets_transactions_finish() {
    let mut inside = Inside::start(|config| with_others(config).general("default_pool_size = 2"));
    let (mut idle, mut open) = (inside.connect_to("gone"), inside.connect_to("gone"));
    assert_eq!(idle.query("select 1").last(), "Z I");
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let mut busy = inside.connect_to("gone");
    busy.send(&[query("select 1 from pg_sleep(0.5)")]);
    let runs = |held: Held| held.reason == HeldFor::Query;
    poll("it runs", || {
        let servers = inside.run(inside.control.list()).servers;
        servers.iter().any(|server| server.held.is_some_and(runs))
    });
    let mut waits = inside.connect_to("gone");
    waits.send(&[query("select 1")]);
    poll("somebody waits", || {
        inside.run(inside.control.list()).clients.iter().any(|client| client.wait.is_some())
    });
    inside.write(|config| config.without_database("gone"));
    inside.run(inside.control.reload()).expect("it is correct");
    assert_eq!(idle.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(waits.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(busy.until_end(), "T | D 1 | C SELECT 1 | Z I | E FATAL 57P01 | EOF");
    assert!(inside.refusal("gone").ends_with("E FATAL 3D000 | EOF"));
    assert_eq!(open.query("select 1").last(), "Z T");
    let names = || {
        let databases = inside.control.databases().into_iter();
        databases.map(|report| report.name).collect::<Vec<_>>()
    };
    assert!(names().contains(&"gone".to_owned()), "somebody still has it");
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(open.until_end(), "E FATAL 57P01 | EOF");
    poll("it is forgotten", || !names().contains(&"gone".to_owned()));
    assert_eq!(inside.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn a_database_can_come_back() {
    let mut inside = Inside::start(with_others);
    let mut open = inside.connect_to("gone");
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    inside.write(|config| config.without_database("gone"));
    inside.run(inside.control.reload()).expect("it is correct");
    inside.write(with_others);
    inside.run(inside.control.reload()).expect("it is correct");
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(open.query("select 1").last(), "Z I", "it may stay");
    assert_eq!(inside.connect_to("gone").query("select 1").last(), "Z I");
}

#[test]
fn a_bad_file_changes_nothing_and_says_everything() {
    let mut inside = Inside::transaction();
    let mut client = inside.connect();
    let pid = client.backend_pid();
    let config = inside.control.config();
    inside.write(|config| {
        config.general("default_pool_size = 0").general("listen_prot = 1").user("x", &["a = 1"])
    });
    for dry in [true, false] {
        let error = if dry {
            inside.run(inside.control.reload_dry_run()).expect_err("it is wrong")
        } else {
            inside.run(inside.control.reload()).expect_err("it is wrong")
        };
        let text = error.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().all(|line| line.contains("proxy.toml:")), "{text}");
        assert!(text.contains("did you mean \"listen_port\"?"), "{text}");
    }
    assert_eq!(inside.control.config(), config);
    assert_eq!(client.backend_pid(), pid);
}

#[test]
fn an_address_that_cannot_be_bound_changes_nothing() {
    let mut inside = Inside::transaction();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let old = inside.tcp();
    inside.write(|config| {
        config.general(&format!("listen_port = {port}")).general("max_client_conn = 1")
    });
    let text = format!("cannot listen on 127.0.0.1:{port}");
    let error = inside.run(inside.control.reload_dry_run()).expect_err("it is taken");
    assert_eq!(error.to_string(), text);
    let error = inside.run(inside.control.reload()).expect_err("it is taken");
    assert_eq!(error.to_string(), text);
    let clients: Vec<_> = (0..2).map(|_| inside.connect()).collect();
    assert_eq!(clients.len(), 2);
    drop(taken);
    let changes = inside.run(inside.control.reload()).expect("it is free now");
    assert!(changes.listening.opened.contains(&format!("127.0.0.1:{port}")), "{changes:?}");
    assert!(old.try_open().is_err());
    drop(clients);
    poll("they are gone", || inside.control.admission.clients() == 0);
    let new = Address::Tcp(port);
    let login = Login::new("postgres", &inside.database);
    let mut client = login.connect(&new).expect("it is there");
    assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert!(login.connect(&new).is_err(), "one is enough now");
}

#[test]
fn listeners_that_stay_are_not_touched() {
    let mut inside = Inside::transaction();
    let mut client = inside.connect();
    let (port, unix) = (inside.control.listeners.port(), inside.control.listeners.unix_path());
    // Somebody has come and is not accepted before the reload.
    inside.write(|config| config.general("listen_addr = \"127.0.0.2, 127.0.0.1\""));
    let changes = inside.run(inside.control.reload()).expect("it is free");
    assert_eq!(changes.listening.opened, [format!("127.0.0.2:{port}")]);
    assert_eq!(changes.listening.closed, [""; 0]);
    assert_eq!(inside.control.listeners.unix_path(), unix);
    assert!(std::net::TcpStream::connect(("127.0.0.2", port)).is_ok());
    inside.write(|config| config.general("listen_addr = \"127.0.0.2\""));
    let changes = inside.run(inside.control.reload()).expect("it is free");
    assert_eq!(changes.listening.closed, [format!("127.0.0.1:{port}")]);
    assert!(inside.tcp().try_open().is_err());
    assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I", "who is in stays");
}

#[test]
fn set_holds_until_the_next_reload() {
    let inside = Inside::transaction();
    let size = |inside: &Inside| inside.control.config().general.pool.default_pool_size;
    let set = |key, value| inside.run(inside.control.set(key, value));
    let changes = set("default_pool_size", "2").expect("it may be set");
    assert_eq!(changes.general, ["default_pool_size"]);
    set("query_timeout", "250ms").expect("it may be set");
    assert_eq!(size(&inside), 2, "what was set before stays");
    let (mut a, mut b) = (inside.connect(), inside.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    assert_eq!(b.query("begin"), "C BEGIN | Z T");
    assert_eq!(b.query("select pg_sleep(1000)"), "E FATAL 57014 | EOF");
    for (key, value, text) in [
        ("default_pool_size", "many", "default_pool_size: \"many\" is not a whole number"),
        (
            "default_pol_size",
            "1",
            "default_pol_size: unknown key; did you mean \"default_pool_size\"?",
        ),
        ("workers", "1", "workers cannot be changed without a restart"),
    ] {
        assert_eq!(set(key, value).expect_err("it may not").to_string(), text);
    }
    assert_eq!(size(&inside), 2);
    let changes = inside.run(inside.control.reload()).expect("the file is correct");
    assert_eq!(changes.general, ["default_pool_size", "query_timeout"]);
    assert_eq!(size(&inside), 1);
}

#[test]
fn databases_of_the_star_are_dropped_when_nobody_uses_them() {
    let inside = Inside::start(|config| {
        let port = format!("port = {}", Cluster::shared().port());
        config
            .database("*", &["host = \"127.0.0.1\"", &port])
            .general("autodb_idle_timeout = \"300ms\"")
            .general("server_idle_timeout = \"100ms\"")
    });
    let names = || {
        let databases = inside.control.databases().into_iter();
        databases.map(|report| (report.name, report.is_auto)).collect::<Vec<_>>()
    };
    let own = (inside.database.clone(), false);
    assert_eq!(names(), std::slice::from_ref(&own));
    let mut client = inside.connect_to("postgres");
    assert_eq!(client.query("select 1").last(), "Z I");
    let auto = ("postgres".to_owned(), true);
    assert_eq!(names(), [auto.clone(), own.clone()]);
    let_pass(Duration::from_millis(900));
    assert_eq!(names(), [auto, own.clone()], "somebody uses it");
    drop(client);
    poll("it is dropped", || names() == std::slice::from_ref(&own));
    assert!(inside.control.pools().is_empty());
    // It can be made again, and a paused one is remembered.
    assert_eq!(inside.connect_to("postgres").query("select 1").last(), "Z I");
    inside.run(inside.control.pause(Some("postgres"))).expect("it is there");
    poll("its pool is dropped", || inside.control.pools().is_empty());
    assert!(inside.control.databases().iter().any(|report| report.is_paused));
}

#[test]
fn without_the_star_its_databases_are_gone() {
    let mut inside = Inside::start(|config| {
        let port = format!("port = {}", Cluster::shared().port());
        config.database("*", &["host = \"127.0.0.1\"", &port])
    });
    let mut client = inside.connect_to("postgres");
    assert_eq!(client.query("select 1").last(), "Z I");
    inside.write(|config| config.without_database("*"));
    let changes = inside.run(inside.control.reload()).expect("it is correct");
    assert_eq!(changes.databases.removed, ["*"]);
    assert_eq!(changes.pools.len(), 1, "{changes:?}");
    assert_eq!(client.until_end(), "E FATAL 57P01 | EOF");
}

#[test]
fn a_query_is_cancelled_where_it_runs_although_the_pool_has_moved() {
    let mut inside = Inside::transaction();
    let mut client = inside.connect();
    client.send(&[query("select pg_sleep(1000)")]);
    poll("it runs", || {
        let sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(1000)%' \
                   and state = 'active' and pid <> pg_backend_pid()";
        inside.observer().value(sql) == "1"
    });
    let nobody = format!("port = {}", crate::support::cluster::free_port());
    let name = inside.database.clone();
    inside.write(|config| config.database(&name, &[&nobody]));
    inside.run(inside.control.reload()).expect("it is correct");
    inside.tcp().cancel(client.key);
    assert_eq!(client.ready(1).last(), "Z I");
}

/// How many rounds of reloads and commands; more with `make reload-under-load`.
fn rounds() -> usize {
    std::env::var("PGTANDEM_IT_RELOADS").map_or(5, |text| text.parse().expect("a number"))
}

#[test]
fn reload_under_load() {
    let mut fixture = Fixture::start(|config| {
        with_others(config).general("default_pool_size = 4").general("admin_users = \"postgres\"")
    });
    let pgbench = |address: &Address, arguments: &[&str]| {
        let mut command = tool("pgbench", address, &fixture.database);
        successful(command.args(arguments).output().expect("pgbench is installed"))
    };
    pgbench(&fixture.cluster.tcp(), &["-i", "-q", "-s", "1"]);
    pgbench(&fixture.proxy.tcp(), &["-n", "-c", "8", "-j", "2", "-t", "20"]);
    let pids = |fixture: &Fixture| {
        let sql = "select pid from pg_stat_activity where datname = current_database() and \
                   backend_type = 'client backend' and application_name <> 'observer' order by 1";
        fixture.observer().rows(sql)
    };
    let before = pids(&fixture);
    assert_eq!(before.len(), 4);
    let (address, database) = (fixture.proxy.tcp(), fixture.database.clone());
    let load = |mode: &str| {
        let mut command = tool("pgbench", &address, &database);
        command.args(["-n", "-c", "8", "-j", "2", "-T", "1", "-M", mode]);
        let report = successful(command.output().expect("pgbench is installed"));
        assert!(report.contains("number of failed transactions: 0 "), "{report}");
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| {
            for mode in ["simple", "extended", "prepared"].into_iter().cycle() {
                load(mode);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let ends = EndsWith(&is_over);
        for round in 0..rounds() {
            disturb(&mut fixture, round);
        }
        drop(ends);
        runs.join().expect("no transaction fails");
    });
    assert_eq!(pids(&fixture), before, "no unchanged pool is recycled");
    // The same for the database under load, whose servers are replaced: nobody notices either.
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let _ends = EndsWith(&is_over);
            load("simple");
        });
        let (mut client, mut admin) = (fixture.connect(), console(&fixture));
        while !is_over.load(Ordering::Relaxed) {
            for command in [format!("PAUSE {database}"), format!("RESUME {database}")] {
                operate(&mut admin, &command);
            }
            // Somebody must be served between two commands, or nobody is.
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
            for command in ["RECONNECT", "WAIT_CLOSE", "SUSPEND", "RESUME"] {
                operate(&mut admin, command);
            }
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
        run.join().expect("no transaction fails");
    });
    assert_ne!(pids(&fixture), before);
}

/// A session of the administrator.
fn console(fixture: &Fixture) -> Client {
    Login::new("postgres", "pgtandem").connect(&fixture.proxy.tcp()).expect("everybody is trusted")
}

/// Gives a command that succeeds.
fn operate(admin: &mut Client, command: &str) {
    let said = admin.query(command).to_string();
    assert!(said.split(" | ").all(|message| !message.starts_with('E')), "{command}: {said}");
}

/// Changes everything but the database under load, and operates another one.
fn disturb(fixture: &mut Fixture, round: usize) {
    let others = |fixture: &Fixture| {
        let login = Login::new("postgres", "moved");
        login.connect(&fixture.proxy.tcp()).expect("everybody is trusted")
    };
    let (mut admin, mut other) = (console(fixture), others(fixture));
    assert_eq!(other.query("select 1").last(), "Z I");
    fixture.proxy.rewrite(|config| {
        let dbname = ["dbname = \"postgres\"", "dbname = \"template1\""][round % 2];
        let size = format!("pool_size = {}", 1 + round % 5);
        let config = config
            .database("moved", &[dbname])
            .database("resized", &[&size])
            .database(&format!("new{}", round % 3), &["pool_size = 1"])
            .without_database(&format!("new{}", (round + 1) % 3))
            .user("dave", &[&format!("query_timeout = {}", 10 + round)])
            .general(&format!("max_client_conn = {}", 1000 + round))
            .general(&format!("client_login_timeout = {}", 60 + round));
        let address = ["127.0.0.1", "127.0.0.1, 127.0.0.2", "127.0.0.1, 127.0.0.3"][round % 3];
        config.general(&format!("listen_addr = \"{address}\""))
    });
    for command in ["RELOAD", "PAUSE moved", "RESUME moved", "RECONNECT moved"] {
        operate(&mut admin, command);
    }
    assert_eq!(other.query("select 1").last(), "Z I");
    operate(&mut admin, "KILL moved");
    assert_eq!(other.until_end(), "E FATAL 57P01 | EOF");
    operate(&mut admin, "RESUME moved");
    assert_eq!(others(fixture).query("select 1").last(), "Z I");
}
