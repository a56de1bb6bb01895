//! PostgreSQL's own programs through the proxy: pgbench, psql, `pg_dump`.

use std::{io::Write, process::Command};

use crate::support::{
    cluster::Cluster,
    fixture::Fixture,
    message::*,
    poll,
    tools::{feed, psql, spawn, successful, tool},
};

fn pgbench(fixture: &Fixture, arguments: &[&str]) -> String {
    let mut command = tool("pgbench", &fixture.proxy.tcp(), &fixture.database);
    successful(command.args(arguments).output().expect("pgbench is installed"))
}

/// A database with pgbench's tables, behind a pool of five.
fn benched(workers: u32) -> Fixture {
    let fixture = Fixture::start(|config| {
        config.general("default_pool_size = 5").general(&format!("workers = {workers}"))
    });
    let mut command = tool("pgbench", &fixture.cluster.tcp(), &fixture.database);
    successful(command.args(["-i", "-q", "-s", "1"]).output().expect("pgbench is installed"));
    fixture
}

#[test]
fn pgbench_in_every_protocol_mode() {
    for workers in [1, 2] {
        let fixture = benched(workers);
        for mode in ["simple", "extended", "prepared"] {
            let report =
                pgbench(&fixture, &["-n", "-S", "-M", mode, "-c", "50", "-j", "2", "-T", "2"]);
            assert!(report.contains("number of failed transactions: 0 "), "{mode}: {report}");
            let report = pgbench(&fixture, &["-n", "-M", mode, "-c", "20", "-j", "2", "-T", "1"]);
            assert!(report.contains("number of failed transactions: 0 "), "{mode}: {report}");
        }
        assert!(fixture.backends() <= 5);
        let totals = "select (select sum(abalance) from pgbench_accounts) = \
                      (select sum(bbalance) from pgbench_branches)";
        assert_eq!(fixture.connect().value(totals), "t");
    }
}

#[test]
fn pgbench_with_a_connection_per_transaction() {
    for mode in ["transaction", "session"] {
        let fixture = benched(1);
        let report = pgbench(&fixture, &["-n", "-S", "-C", "-c", "10", "-T", "1"]);
        assert!(report.contains("number of failed transactions: 0 "), "{mode}: {report}");
    }
}

#[test]
fn pgbench_in_a_pipeline() {
    let fixture = benched(1);
    let script = fixture.proxy.file("pipeline.sql");
    let text = "\\startpipeline\nselect 1;\nselect abalance from pgbench_accounts where aid = 1;\n\
                select 2;\n\\endpipeline\n";
    std::fs::write(&script, text).expect("the folder is ours");
    let script = script.display().to_string();
    for mode in ["extended", "prepared"] {
        let arguments = ["-n", "-f", &script, "-M", mode, "-c", "20", "-j", "2", "-T", "1"];
        let report = pgbench(&fixture, &arguments);
        assert!(report.contains("number of failed transactions: 0 "), "{mode}: {report}");
    }
}

#[test]
fn psql_describes_and_copies() {
    let fixture = Fixture::transaction();
    for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
        let run = |script: &str| psql(&address, &fixture.database, script);
        run("drop table if exists t; create table t (x int primary key, y text);");
        assert!(run("\\d t").contains("x|integer||not null|"));
        assert!(run("\\dt").contains("public|t|table|postgres"));
        assert!(run("\\l").contains(&fixture.database));
        run("\\copy t from stdin\n1\tone\n2\ttwo\n\\.\n");
        assert_eq!(run("\\copy t to stdout"), "1\tone\n2\ttwo\n");
        let file = fixture.proxy.file("rows.tsv");
        std::fs::write(&file, "3\tthree\n").expect("the folder is ours");
        run(&format!("\\copy t from '{}'", file.display()));
        assert_eq!(run("select count(*) from t;"), "3\n");
        assert_eq!(run("select 1 \\gdesc"), "?column?|integer\n");
        assert!(run("\\conninfo").contains("postgres"));
    }
}

#[test]
fn psql_is_interrupted_and_goes_on() {
    let fixture = Fixture::transaction();
    // Only at a terminal does psql survive Ctrl-C; `script` gives it one. `exec`: a shell between
    // the two would get the signal as well.
    let psql = tool("psql", &fixture.proxy.tcp(), &fixture.database);
    let mut command = Command::new("script");
    command.args(["-qec", &format!("exec {} -X", psql.get_program().display()), "/dev/null"]);
    command.env("TERM", "dumb").env("PAGER", "cat");
    for (name, value) in psql.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    let mut child = spawn(&mut command);
    let mut terminal = child.stdin.take().expect("stdin is piped");
    let mut say = |text: &str| {
        terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush()).expect("psql reads");
    };
    for _ in 0..3 {
        say("select pg_sleep(600);\n");
        poll("the query runs", || fixture.is_running("pg_sleep"));
        say("\x03");
        poll("the query is cancelled", || !fixture.is_running("pg_sleep"));
    }
    say("select 'after' || 'wards';\n\\q\n");
    let output = successful(child.wait_with_output().expect("it is our child"));
    assert_eq!(output.matches("canceling statement due to user request").count(), 3, "{output}");
    assert!(output.contains("afterwards"), "{output}");
}

#[test]
fn psql_watch_repeats() {
    let fixture = Fixture::transaction();
    let mut command = tool("psql", &fixture.proxy.tcp(), &fixture.database);
    command.args(["-X", "-A", "-t", "-q", "-c", "create sequence s"]);
    successful(feed(command, b""));
    let mut command = tool("psql", &fixture.proxy.tcp(), &fixture.database);
    let mut child = spawn(command.args(["-X", "-A", "-t", "-q"]));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(b"select nextval('s') \\watch 0.05\n").expect("psql reads");
    poll("it has been repeated", || {
        fixture.observer().value("select last_value >= 5 from s") == "t"
    });
    child.kill().expect("it runs");
    child.wait().expect("it is our child");
    assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn dump_and_restore() {
    for mode in ["transaction", "session"] {
        let cluster = Cluster::shared();
        let target = cluster.new_database();
        let fixture = Fixture::start(|config| {
            let port = format!("port = {}", cluster.port());
            config
                .general(&format!("pool_mode = \"{mode}\""))
                .database(&target, &["host = \"127.0.0.1\"", &port])
        });
        fixture.observer().rows(
            "create table t (x int primary key, y text, z timestamptz default now());
             insert into t select g, repeat('r', g % 100), now() from generate_series(1, 5000) g;
             create view v as select x from t; create sequence s start 5;
             create function f() returns int language sql as 'select 1';
             create index on t (y)",
        );
        let dump = |address, database: &str| -> String {
            let mut command = tool("pg_dump", &address, database);
            successful(command.output().expect("pg_dump is installed"))
        };
        let through = dump(fixture.proxy.tcp(), &fixture.database);
        let restore = psql(&fixture.proxy.tcp(), &target, &through);
        assert!(!restore.contains("ERROR"), "{restore}");
        let comparable = |text: String| -> Vec<String> {
            // Newer versions mark each dump with a random key.
            let lines = text.lines().filter(|line| !line.starts_with("\\restrict"));
            lines.filter(|line| !line.starts_with("\\unrestrict")).map(str::to_owned).collect()
        };
        let source = comparable(dump(fixture.cluster.tcp(), &fixture.database));
        assert_eq!(comparable(through), source, "{mode} mode");
        assert_eq!(comparable(dump(fixture.cluster.tcp(), &target)), source, "{mode} mode");
    }
}

#[test]
fn many_psql_at_once() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    std::thread::scope(|scope| {
        for number in 0..10 {
            let fixture = &fixture;
            scope.spawn(move || {
                let script = format!("begin; select {number}; commit; select {number};");
                let output = psql(&fixture.proxy.tcp(), &fixture.database, &script);
                assert_eq!(output, format!("{number}\n{number}\n"));
            });
        }
    });
    assert_eq!(fixture.connect().run(&[query("select 1")]), "T | D 1 | C SELECT 1 | Z I");
}
