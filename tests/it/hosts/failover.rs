//! The primary is lost: who is between two transactions waits, bounded, and goes on.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{WHO, config, connect, console, pair, start};
use crate::support::{
    EndsWith, cluster::Cluster, http, let_pass, login::Login, message::query, poll, poll_within,
    proxy::Proxy,
};

const PRIMARY: [&str; 2] = ["target_session_attrs = \"primary\"", "failover_timeout = 60"];

/// Waits until so many clients wait because there is no server.
fn await_held(proxy: &Proxy, count: usize) {
    let mut console = console(proxy);
    poll("the clients are held", || {
        let waits = console.rows("SHOW WAITS");
        waits.iter().filter(|row| row[2] == "waits" && row[5] == "server_lost").count() == count
    });
}

#[test]
fn clients_go_on_with_the_successor() {
    let (mut primary, standby) = pair();
    let ports = [primary.port(), standby.port()];
    let metrics = crate::support::cluster::free_port();
    let config = config(&ports, &PRIMARY).general("default_pool_size = 5");
    let config = config.metrics(&format!("listen = \"127.0.0.1:{metrics}\""));
    let Some(proxy) = start(config) else { return };
    let mut clients: Vec<_> = (0..5).map(|_| connect(&proxy, "app")).collect();
    for client in &mut clients {
        assert_eq!(client.value(WHO), ports[0].to_string());
    }
    let mut open = connect(&proxy, "app");
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    primary.stop();
    // Who is in a transaction is told by the server itself. Pooling point B21.
    assert_eq!(open.until_end(), "E FATAL 57P01 | EOF");
    for client in &mut clients {
        client.send(&[query(WHO)]);
    }
    await_held(&proxy, 5);
    clients.push(connect(&proxy, "app"));
    clients[5].send(&[query(WHO)]);
    await_held(&proxy, 6);
    let ready = http::get(metrics, "/readyz");
    assert!(ready.body.starts_with("ready\ndatabase app: no server for"), "{}", ready.body);
    let lost = "pgtandem_pool_server_lost{database=\"app\",user=\"postgres\"} 1";
    assert!(http::get(metrics, "/metrics").body.contains(lost));
    standby.promote();
    let answer = format!("T | D {} | C SELECT 1 | Z I", ports[1]);
    for client in &mut clients {
        assert_eq!(client.ready(1), answer.as_str());
    }
    assert_eq!(http::get(metrics, "/readyz").body, "ready\n");
}

#[test]
fn clients_go_on_when_the_server_is_back() {
    let mut cluster = Cluster::start();
    let keys = ["failover_timeout = 60"];
    let Some(proxy) = start(config(&[cluster.port()], &keys)) else { return };
    let mut client = connect(&proxy, "app");
    assert_eq!(client.value("select 1"), "1");
    cluster.crash();
    client.send(&[query("select 2")]);
    await_held(&proxy, 1);
    cluster.restart();
    assert_eq!(client.ready(1), "T | D 2 | C SELECT 1 | Z I");
}

#[test]
fn the_wait_is_bounded_from_the_loss_on() {
    let mut cluster = Cluster::start();
    let keys = ["failover_timeout = 2"];
    let Some(proxy) = start(config(&[cluster.port()], &keys)) else { return };
    let mut clients: Vec<_> = (0..3).map(|_| connect(&proxy, "app")).collect();
    assert_eq!(clients[0].value("select 1"), "1");
    cluster.crash();
    let began = Instant::now();
    clients[0].send(&[query("select 2")]);
    assert_eq!(clients[0].until_end(), "E FATAL 08001 | EOF");
    let waited = began.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    // Nobody waits again for what is known to be lost.
    let began = Instant::now();
    clients[1].send(&[query("select 2")]);
    assert_eq!(clients[1].until_end(), "E FATAL 08001 | EOF");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    cluster.restart();
    poll("it is found again", || {
        Login::new("postgres", "app").connect(&proxy.tcp()).is_ok_and(|mut client| {
            client.send(&[query("select 3")]);
            client.ready(1) == "T | D 3 | C SELECT 1 | Z I"
        })
    });
}

#[test]
fn a_login_that_the_server_refuses_waits_for_nothing() {
    let cluster = Cluster::shared();
    let keys = ["failover_timeout = 60", "dbname = \"no such\""];
    let Some(proxy) = start(config(&[cluster.port()], &keys)) else { return };
    let began = Instant::now();
    let said = Login::new("postgres", "app").connect(&proxy.tcp()).err().expect("there is none");
    assert!(format!("{said:?}").contains("3D000"), "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Clients that work all the time: whoever has a query at the server when that is lost sees the
/// server's error, once; nobody sees another.
#[test]
fn under_load_only_what_was_under_way_fails() {
    let (mut primary, standby) = pair();
    let ports = [primary.port(), standby.port()];
    let config = config(&ports, &PRIMARY).general("default_pool_size = 4").general("workers = 2");
    let Some(proxy) = start(config) else { return };
    let over = AtomicBool::new(false);
    let (done, on_the_new) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = EndsWith(&over);
        let clients: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let (mut failures, mut client) = (0, connect(&proxy, "app"));
                    while !over.load(Ordering::Relaxed) {
                        client.send(&[query(WHO)]);
                        let answers = client.ready(1).to_string();
                        if answers.ends_with("Z I") {
                            done.fetch_add(1, Ordering::Relaxed);
                            if answers.contains(&ports[1].to_string()) {
                                on_the_new.fetch_add(1, Ordering::Relaxed);
                            }
                            continue;
                        }
                        failures += 1;
                        assert!(
                            answers.contains("57P01") || answers.contains("08006"),
                            "{answers}"
                        );
                        client = connect(&proxy, "app");
                    }
                    failures
                })
            })
            .collect();
        poll("they work", || done.load(Ordering::Relaxed) > 500);
        primary.stop();
        let_pass(Duration::from_millis(300));
        let before = done.load(Ordering::Relaxed);
        let_pass(Duration::from_millis(300));
        assert_eq!(done.load(Ordering::Relaxed), before, "there is no server");
        standby.promote();
        let limit = Duration::from_secs(20);
        poll_within(limit, "all go on", || on_the_new.load(Ordering::Relaxed) > 500);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            let failures = client.join().expect("no other error");
            assert!(failures <= 1, "{failures} failures of one client");
        }
    });
}

/// The replication mode has the same list, and finds the one that takes writes.
#[test]
fn secondaries_follow_the_successor() {
    const LONG: Duration = Duration::from_mins(1);
    let (mut primary, standby) = pair();
    let secondary = Cluster::start();
    for cluster in [&primary, &secondary] {
        cluster.superuser("t1").rows("CREATE TABLE f (id int PRIMARY KEY)");
    }
    let config = config(&[standby.port(), primary.port()], &[]).extra(&format!(
        "\n[databases.app.replication]\nadmin_user = \"postgres\"\n\
         [databases.app.secondaries.copy]\nhost = \"127.0.0.1\"\nport = {}\n",
        secondary.port()
    ));
    let Some(proxy) = start(config) else { return };
    let arrives = |id: u32| {
        let sql = format!("SELECT count(*) FROM f WHERE id = {id}");
        poll_within(LONG, "it follows", || secondary.superuser("t1").value(&sql) == "1");
    };
    primary.superuser("t1").rows("INSERT INTO f VALUES (1)");
    arrives(1);
    // The standby must have what the primary was told of the secondary, or the secondary is "ahead".
    let told = "SELECT count(*) FROM pgtandem.secondaries WHERE state = 'in_sync'";
    poll_within(LONG, "the primary knows", || primary.superuser("t1").value(told) == "1");
    poll_within(LONG, "the standby knows", || standby.superuser("t1").value(told) == "1");
    primary.crash();
    standby.promote();
    standby.superuser("t1").rows("INSERT INTO f VALUES (2)");
    arrives(2);
    drop(proxy);
}
