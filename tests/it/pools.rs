//! How many backends there are, and for how long.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::support::{
    EndsWith, cluster::Cluster, fixture::Fixture, let_pass, login::Login, poll, wire::Client,
};

/// Runs fifty clients for a while and gives the greatest number of backends seen meanwhile.
fn most_backends(fixture: &Fixture, logins: &[Login]) -> usize {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = EndsWith(&over);
        let workers: Vec<_> = (0..50)
            .map(|number| {
                let login = &logins[number % logins.len()];
                scope.spawn(move || {
                    let mut client = login.connect(&fixture.proxy.tcp()).expect("trusted");
                    for _ in 0..40 {
                        let answers = client.query("select pg_sleep(0.001)");
                        assert_eq!(answers, "T | D  | C SELECT 1 | Z I");
                    }
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut most = 0;
            let mut observer = fixture.observer();
            let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                       and application_name <> 'observer'";
            while !over.load(Ordering::Relaxed) {
                most = most.max(observer.value(sql).parse().expect("a number"));
            }
            most
        });
        for worker in workers {
            worker.join().expect("every client is served");
        }
        over.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher only looks")
    })
}

#[test]
fn never_more_backends_than_the_pool_allows() {
    for (workers, size) in [(1, 1), (1, 5), (2, 5), (2, 1)] {
        let fixture = Fixture::start(|config| {
            config
                .general(&format!("workers = {workers}"))
                .general(&format!("default_pool_size = {size}"))
        });
        let most = most_backends(&fixture, &[fixture.login()]);
        assert!((1..=size).contains(&most), "{most} backends, {workers} workers, size {size}");
    }
}

#[test]
fn never_more_backends_than_the_database_allows() {
    for workers in [1, 2] {
        let fixture = Fixture::start(|config| {
            config
                .general(&format!("workers = {workers}"))
                .general("default_pool_size = 5")
                .general("max_db_connections = 3")
        });
        let dave = Login::new("dave", &fixture.database);
        let most = most_backends(&fixture, &[fixture.login(), dave]);
        assert!((1..=3).contains(&most), "{most} backends with {workers} workers");
    }
}

#[test]
fn idle_backend_of_another_user_gives_way() {
    let fixture = Fixture::start(|config| config.general("max_db_connections = 1"));
    let mut a = fixture.connect();
    let mut b =
        Login::new("dave", &fixture.database).connect(&fixture.proxy.tcp()).expect("trusted");
    for _ in 0..5 {
        assert_eq!(a.value("select current_user"), "postgres");
        assert_eq!(b.value("select current_user"), "dave");
        // A server process that was told to end is still listed for a moment.
        poll("the other backend has gone", || fixture.backends() <= 1);
    }
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[crate::support::message::query("select 1")]);
    b.assert_quiet();
    assert_eq!(a.query("commit"), "C COMMIT | Z I");
    assert_eq!(b.ready(1), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn never_more_backends_than_the_user_allows() {
    let cluster = Cluster::shared();
    let other = cluster.new_database();
    let fixture = Fixture::start(|config| {
        let (port, dbname) =
            (format!("port = {}", cluster.port()), format!("dbname = \"{other}\""));
        config
            .general("default_pool_size = 3")
            .database(&other, &["host = \"127.0.0.1\"", &port, &dbname])
            .user("dave", &["max_user_connections = 2"])
    });
    let connect = |database: &str| -> Client {
        Login::new("dave", database).connect(&fixture.proxy.tcp()).expect("trusted")
    };
    let mut here = [connect(&fixture.database), connect(&fixture.database)];
    let mut there = [connect(&other), connect(&other)];
    for client in &mut here {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
    for client in &mut there {
        client.send(&[crate::support::message::query("select 1")]);
        client.assert_quiet();
    }
    assert_eq!(fixture.backends() + cluster.backends(&other), 2);
    for client in &mut here {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
    for client in &mut there {
        assert_eq!(client.ready(1), "T | D 1 | C SELECT 1 | Z I");
    }
    assert!(fixture.backends() + cluster.backends(&other) <= 2);
}

#[test]
fn pool_size_of_database_and_user() {
    let cluster = Cluster::shared();
    for (database_size, user_size, expected) in [("1", "3", 3), ("2", "", 2), ("", "2", 2)] {
        let database = cluster.new_database();
        let mut config = Fixture::config(cluster, &database).general("default_pool_size = 1");
        if !database_size.is_empty() {
            config = config.database(&database, &[&format!("pool_size = {database_size}")]);
        }
        if !user_size.is_empty() {
            config = config.user("dave", &[&format!("pool_size = {user_size}")]);
        }
        let proxy = crate::support::proxy::Proxy::start(cluster, config);
        let login = Login::new("dave", &database);
        let mut clients: Vec<_> =
            (0..4).map(|_| login.connect(&proxy.tcp()).expect("trusted")).collect();
        for client in &mut clients {
            client.send(&[crate::support::message::query("begin")]);
        }
        poll("the pool is full", || cluster.backends(&database) == expected);
        let_pass(Duration::from_millis(300));
        assert_eq!(cluster.backends(&database), expected);
    }
}

#[test]
fn min_pool_size_is_kept_ready() {
    let fixture = Fixture::start(|config| {
        config
            .general("default_pool_size = 5")
            .general("min_pool_size = 3")
            .general("server_idle_timeout = 1")
    });
    let mut a = fixture.connect();
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    poll("three backends are open", || fixture.backends() >= 3);
    let_pass(Duration::from_millis(2500));
    poll("three backends stay", || fixture.backends() == 3);
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn reserve_pool_opens_after_its_timeout() {
    let fixture = Fixture::start(|config| {
        config.general("reserve_pool_size = 1").general("reserve_pool_timeout = 1")
    });
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    assert_eq!(clients[0].query("begin"), "C BEGIN | Z T");
    clients[1].send(&[crate::support::message::query("begin")]);
    clients[1].assert_quiet();
    assert_eq!(fixture.backends(), 1);
    // It has waited long enough: one more backend, and not two.
    assert_eq!(clients[1].ready(1), "C BEGIN | Z T");
    clients[2].send(&[crate::support::message::query("select 1")]);
    let_pass(Duration::from_millis(1500));
    clients[2].assert_quiet();
    assert_eq!(fixture.backends(), 2);
    assert_eq!(clients[0].query("commit"), "C COMMIT | Z I");
    assert_eq!(clients[2].ready(1), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn idle_backends_are_closed() {
    let fixture = Fixture::start(|config| {
        config.general("default_pool_size = 3").general("server_idle_timeout = 1")
    });
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
    assert_eq!(fixture.backends(), 3);
    for client in &mut clients {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
    poll("nothing is open", || fixture.backends() == 0);
    for client in &mut clients {
        assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn idle_clients_hold_no_backend() {
    let fixture =
        Fixture::start(|config| config.general("workers = 1").general("default_pool_size = 5"));
    let mut clients: Vec<_> = (0..40).map(|_| fixture.connect()).collect();
    for _ in 0..2 {
        for client in &mut clients {
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
    }
    // One after the other, they all fit on one.
    assert!(fixture.backends() <= 2, "{}", fixture.backends());
}

#[test]
fn backends_are_checked_after_a_long_rest() {
    let fixture = Fixture::start(|config| {
        config.general("server_check_delay = 0").general("server_check_query = \"select 1\"")
    });
    fixture.both(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for _ in 0..5 {
            assert_eq!(a.query("select 'a'"), "T | D a | C SELECT 1 | Z I");
            assert_eq!(b.query("begin; select 'b'; commit").len(), 6);
        }
    });
}

#[test]
fn server_round_robin_uses_all_backends() {
    let fixture = Fixture::start(|config| {
        config
            .general("workers = 1")
            .general("default_pool_size = 3")
            .general("server_round_robin = true")
    });
    let mut clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
    for client in &mut clients {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
    let mut pids: Vec<_> = (0..6).map(|_| clients[0].backend_pid()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3);
}

#[test]
fn max_client_conn_refuses_the_next_client() {
    let fixture = Fixture::start(|config| config.general("max_client_conn = 3"));
    for _ in 0..3 {
        let clients: Vec<_> = (0..3).map(|_| fixture.connect()).collect();
        let said = fixture.login().connect(&fixture.proxy.tcp()).err().expect("it is full");
        let refusal = &said[said.len() - 2];
        assert_eq!(refusal.to_string(), "E FATAL 53300");
        assert_eq!(refusal.field(b'M').as_deref(), Some("sorry, too many clients already"));
        drop(clients);
        poll("the places are free again", || fixture.login().connect(&fixture.proxy.tcp()).is_ok());
        let_pass(Duration::from_millis(100));
    }
}
