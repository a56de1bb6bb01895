//! What goes through a connection with TLS: much of it, slowly, or nothing at all.

use std::{fmt::Write, process::Stdio, slice, time::Duration};

use super::support::{Authority, fixture, psql, server, shake};
use crate::support::{
    fixture::Fixture,
    let_pass,
    message::{query, sync, terminate},
    proxy::Proxy,
    tools::{feed, successful},
    wire::Client,
};

/// Both sides with TLS: an authority, a database behind a server with TLS, and a proxy whose
/// clients must use it too.
fn both_sides() -> (Authority, crate::support::cluster::Cluster, Proxy) {
    let authority = Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    let cluster = server(&authority, "local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
    let config = authority.for_clients("require")(Fixture::config(&cluster, "postgres"))
        .general("server_tls_sslmode = \"verify-full\"")
        .general(&authority.line("server_tls_ca_file", "ca.crt"));
    let proxy = Proxy::start(&cluster, config);
    (authority, cluster, proxy)
}

#[test]
fn much_is_copied_both_ways() {
    let (_authority, _cluster, proxy) = both_sides();
    let run =
        |script: &[u8]| successful(feed(psql(&proxy.tcp(), "postgres", "sslmode=require"), script));
    run(b"create table t (i int, filling text)");
    let mut rows = String::new();
    for (row, letter) in (0..40_000).zip(('a'..='z').cycle()) {
        let _ = writeln!(rows, "{row}\t{}", letter.to_string().repeat(500));
    }
    run(format!("copy t from stdin;\n{rows}\\.\n").as_bytes());
    assert_eq!(run(b"copy t to stdout"), rows);
    let sum = "select count(*), sum(length(filling)), sum(i::bigint) from t";
    assert_eq!(run(sum.as_bytes()), "40000|20000000|799980000\n");
    // One value, many records of TLS long.
    let long = run(b"select repeat('x', 5000000)");
    assert!(long.len() == 5_000_001 && long.trim_end().bytes().all(|byte| byte == b'x'));
}

#[test]
fn who_does_not_read_is_not_read_for() {
    let (authority, fixture) = fixture("require", |config| config);
    let connect = || {
        let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
        fixture.login().over(client).expect("trusted")
    };
    let mut slow = connect();
    slow.value("select 1");
    let before = fixture.proxy.memory_kib();
    let rows = 200_000;
    let sql = format!("select repeat('x', 1000) from generate_series(1, {rows})");
    slow.send(&[query(&sql)]);
    slow.assert_backed_up();
    let grown = fixture.proxy.memory_kib().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB for a client that does not read");
    let replies = slow.replies_until(|reply| reply.tag() == b'Z');
    assert_eq!(replies.iter().filter(|reply| reply.tag() == b'D').count(), rows);
    assert_eq!(slow.value("select 2"), "2");
}

#[test]
fn a_server_that_does_not_read_is_not_flooded() {
    let (authority, fixture) = fixture("require", |config| config);
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    client.rows("create table t (filling text)");
    // The server sleeps while it has a COPY to read.
    client.rows(
        "create function wait() returns trigger language plpgsql as \
         $$ begin perform pg_sleep(1); return null; end $$; \
         create trigger t before insert on t for each statement execute function wait()",
    );
    let before = fixture.proxy.memory_kib();
    client.send(&[query("copy t from stdin")]);
    assert_eq!(client.reply().tag(), b'G');
    let line = format!("{}\n", "y".repeat(999));
    let chunk = crate::support::message::copy_data(&line.repeat(60));
    for _ in 0..300 {
        client.send(slice::from_ref(&chunk));
    }
    let grown = fixture.proxy.memory_kib().saturating_sub(before);
    client.send(&[crate::support::message::copy_done()]);
    assert_eq!(client.ready(1), "C COPY 18000 | Z I");
    assert!(grown < 8 << 10, "{grown} KiB for a server that does not read");
}

#[test]
fn pipelines_and_pieces_arrive_whole() {
    let (authority, fixture) = fixture("require", |config| config);
    let client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
    let mut client = fixture.login().over(client).expect("trusted");
    let queries: Vec<_> = (0..500).map(|number| query(&format!("select {number}"))).collect();
    let said = client.run(&queries);
    assert_eq!(said.len(), 4 * queries.len());
    // Each byte in a record of its own.
    client.send_in_pieces(&[query("select 1"), query("select 2"), sync()], 1);
    let said = client.ready(3);
    assert_eq!(said, "T | D 1 | C SELECT 1 | Z I | T | D 2 | C SELECT 1 | Z I | Z I");
    client.send(&[terminate()]);
    assert_eq!(client.until_end(), "EOF");
}

#[test]
fn pgbench_runs_on_both_sides() {
    let (authority, _cluster, proxy) = both_sides();
    let bench = |arguments: &[&str]| {
        let mut command = crate::support::tools::tool("pgbench", &proxy.tcp(), "postgres");
        command.env("PGSSLMODE", "verify-full").env("HOME", "/nowhere");
        command.env("PGSSLROOTCERT", authority.file("ca.crt"));
        successful(command.args(arguments).stdin(Stdio::null()).output().expect("it is installed"))
    };
    bench(&["-i", "-q", "-s", "1"]);
    for mode in ["simple", "extended", "prepared"] {
        let said = bench(&["-M", mode, "-c", "8", "-j", "2", "-t", "50", "-C"]);
        assert!(said.contains("400/400"), "{mode}: {said}");
        let said = bench(&["-M", mode, "-c", "8", "-t", "100"]);
        assert!(said.contains("800/800"), "{mode}: {said}");
    }
}

#[test]
fn a_thousand_idle_clients_cost_little() {
    const CLIENTS: u32 = 1000;
    let (authority, fixture) = fixture("require", |config| config);
    let config = authority.client_config(None);
    let connect = || {
        let client = shake(&fixture.proxy.tcp(), config.clone()).expect("TLS");
        let mut client = fixture.login().over(client).expect("trusted");
        assert_eq!(client.value("select 1"), "1");
        client
    };
    let warm: Vec<Client> = (0..50).map(|_| connect()).collect();
    // Memory that was needed meanwhile is given back after a second.
    let_pass(Duration::from_secs(2));
    let before = fixture.proxy.memory_kib();
    let mut idle: Vec<Client> = (0..CLIENTS).map(|_| connect()).collect();
    let_pass(Duration::from_secs(2));
    let each = fixture.proxy.memory_kib().saturating_sub(before) * 1024 / u64::from(CLIENTS);
    eprintln!("{each} bytes per idle client");
    assert!(each < 16 << 10, "{each} bytes per idle client");
    // They are all there.
    for client in idle.iter_mut().step_by(100) {
        assert_eq!(client.value("select 2"), "2");
    }
    drop(warm);
}
