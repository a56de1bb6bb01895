//! Several workers: a pool is one pool, wherever its clients and its backends happen to live.

use std::time::{Duration, Instant};

use crate::support::{fixture::Fixture, let_pass, message::*, poll, wire::Client};

fn with_workers(workers: u32, size: u32) -> Fixture {
    Fixture::start(|config| {
        config
            .general(&format!("workers = {workers}"))
            .general(&format!("default_pool_size = {size}"))
    })
}

#[test]
fn an_idle_backend_serves_clients_of_every_worker() {
    for workers in [2, 4] {
        let fixture = with_workers(workers, 1);
        let mut clients: Vec<_> = (0..12).map(|_| fixture.connect()).collect();
        let pid = clients[0].backend_pid();
        for _ in 0..3 {
            for client in &mut clients {
                assert_eq!(client.backend_pid(), pid);
            }
        }
        assert_eq!(fixture.backends(), 1);
    }
}

#[test]
fn a_waiter_gets_the_backend_that_another_worker_gives_back() {
    let fixture = with_workers(2, 1);
    let mut clients: Vec<_> = (0..8).map(|_| fixture.connect()).collect();
    for holder in 0..clients.len() {
        assert_eq!(clients[holder].query("begin"), "C BEGIN | Z T");
        for (number, client) in clients.iter_mut().enumerate() {
            if number != holder {
                client.send(&[query("select 'waited'")]);
            }
        }
        clients[(holder + 1) % 8].assert_quiet();
        assert_eq!(clients[holder].query("commit"), "C COMMIT | Z I");
        for (number, client) in clients.iter_mut().enumerate() {
            if number != holder {
                assert_eq!(client.ready(1), "T | D waited | C SELECT 1 | Z I");
            }
        }
    }
}

#[test]
fn nobody_starves_beside_busy_clients() {
    for (workers, size) in [(2, 1), (2, 2), (2, 3), (3, 2)] {
        let fixture = with_workers(workers, size);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..24)
                .map(|_| {
                    let client = fixture.connect();
                    scope.spawn(move || ask_again_and_again(client))
                })
                .collect();
            for client in clients {
                let (rounds, longest) = client.join().expect("everybody is served");
                let setting = format!("{workers} workers and {size} backends");
                // Who starves has no round at all, or one that lasts to the end; a busy machine is
                // slow for everybody.
                assert!(rounds > 1, "{rounds} rounds with {setting}, the longest {longest:?}");
            }
        });
        assert!(fixture.backends() <= usize::try_from(size).expect("small"));
    }
}

/// Runs short queries for a while; how many, and the longest time one took.
fn ask_again_and_again(mut client: Client) -> (u32, Duration) {
    let (started, mut rounds, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        longest = longest.max(asked.elapsed());
        rounds += 1;
    }
    (rounds, longest)
}

#[test]
fn transactions_of_many_workers_never_mix() {
    let fixture = with_workers(2, 2);
    fixture.observer().rows("create table t (client int, round int)");
    std::thread::scope(|scope| {
        for number in 0..10 {
            let fixture = &fixture;
            scope.spawn(move || insert_every_other(fixture.connect(), number));
        }
    });
    let kept = "select count(*) = 300 and bool_and(round % 2 = 0) from t";
    assert_eq!(fixture.observer().value(kept), "t");
}

/// Inserts sixty rows in a transaction each, and rolls every other one back.
fn insert_every_other(mut client: Client, number: u32) {
    let insert = parse("i", "insert into t values ($1::int4, $2::int4)");
    assert_eq!(client.run(&[insert, sync()]), "1 | Z I");
    for round in 0..60 {
        let values = [number.to_string(), round.to_string()];
        let values = [values[0].as_str(), values[1].as_str()];
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
        let answers = client.run(&[bind_values("", "i", &values), execute(""), sync()]);
        assert_eq!(answers, "2 | C INSERT 0 1 | Z T");
        let end = if round % 2 == 0 { "commit" } else { "rollback" };
        assert_eq!(client.query(end), format!("C {} | Z I", end.to_uppercase()));
    }
}

#[test]
fn cancels_find_their_client_on_every_worker() {
    let fixture = with_workers(2, 4);
    let mut clients: Vec<_> = (0..4).map(|_| fixture.connect()).collect();
    for number in 0..4 {
        for client in &mut clients {
            client.send(&[query("select pg_sleep(2)")]);
        }
        poll("all run", || {
            let sql = format!(
                "select count(*) = 4 from pg_stat_activity where datname = '{}' \
                 and state = 'active' and query like '%pg_sleep(2)%' and pid <> pg_backend_pid()",
                fixture.database
            );
            fixture.observer().value(&sql) == "t"
        });
        fixture.proxy.tcp().cancel(clients[number].key);
        for (other, client) in clients.iter_mut().enumerate() {
            let expected = if other == number { "E 57014" } else { "D " };
            assert_eq!(client.ready(1)[1], expected);
        }
    }
}

#[test]
fn clients_that_vanish_leave_room_on_every_worker() {
    let fixture = with_workers(2, 1);
    for round in 0..20 {
        let mut gone: Vec<_> = (0..4).map(|_| fixture.connect()).collect();
        gone[0].send(&[query("begin")]);
        assert_eq!(gone[0].ready(1), "C BEGIN | Z T");
        for client in &mut gone[1..] {
            client.send(&[query("select pg_sleep(0.01)")]);
        }
        if round % 2 == 0 {
            let_pass(Duration::from_millis(5));
        }
        drop(gone);
        assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
    assert!(fixture.backends() <= 1);
}

#[test]
fn session_mode_with_many_workers() {
    let fixture = Fixture::start(|config| {
        config
            .general("workers = 2")
            .general("default_pool_size = 2")
            .general("pool_mode = \"session\"")
    });
    std::thread::scope(|scope| {
        for number in 0..12 {
            let fixture = &fixture;
            scope.spawn(move || {
                for _ in 0..5 {
                    let mut client = fixture.connect();
                    client.query(&format!("create temp table mine as select {number} as x"));
                    assert_eq!(client.value("select x from mine"), number.to_string());
                }
            });
        }
    });
    assert!(fixture.backends() <= 2);
}

#[test]
fn pool_of_every_size_with_more_workers_than_backends() {
    for size in 1..=5 {
        let fixture = with_workers(4, size);
        let mut clients: Vec<_> = (0..size).map(|_| fixture.connect()).collect();
        // The whole pool can be held by whichever clients come.
        for client in &mut clients {
            assert_eq!(client.query("begin"), "C BEGIN | Z T");
        }
        let mut one_more = fixture.connect();
        one_more.send(&[query("select 1")]);
        one_more.assert_quiet();
        assert_eq!(fixture.backends(), clients.len());
        for client in &mut clients {
            assert_eq!(client.query("commit"), "C COMMIT | Z I");
        }
        assert_eq!(one_more.ready(1), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn workers_that_need_room_under_a_full_bound_do_not_keep_each_other_awake() {
    let fixture = Fixture::start(|config| {
        config
            .general("workers = 2")
            .general("default_pool_size = 4")
            .general("max_db_connections = 1")
    });
    let mut holder = fixture.connect();
    assert_eq!(holder.query("begin"), "C BEGIN | Z T");
    // Another pool of the same database, with clients on both workers: nothing can be evicted.
    let mut waiting: Vec<_> = (0..6)
        .map(|_| {
            let mut client = fixture.proxy.tcp().open();
            let login = [("user", "dave"), ("database", fixture.database.as_str())];
            client.send(&[startup(PROTOCOL_3_0, &login), query("select 'dave'")]);
            client
        })
        .collect();
    let_pass(Duration::from_millis(500));
    // A look at the clock every 50 ms makes 20 wake-ups a second for each thread, and next to no
    // work. Workers that wake each other up may also never sleep.
    let (wake_ups, work_ms) = effort(fixture.proxy.pid());
    let_pass(Duration::from_secs(2));
    let (wake_ups_then, work_ms_then) = effort(fixture.proxy.pid());
    let (wake_ups, work_ms) = (wake_ups_then - wake_ups, work_ms_then - work_ms);
    assert!(wake_ups < 1_000, "{wake_ups} wake-ups in two seconds of waiting");
    assert!(work_ms < 500, "{work_ms} ms of work in two seconds of waiting");
    assert_eq!(holder.query("commit"), "C COMMIT | Z I");
    for client in &mut waiting {
        // The login's ReadyForQuery, then the query's.
        assert_eq!(client.ready(2).last(), "Z I");
    }
    assert_eq!(fixture.backends(), 1);
}

/// How often the threads of a process have woken up, and for how many milliseconds they have run.
fn effort(pid: u32) -> (u64, u64) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux");
    let of_thread = |entry: std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        let run = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
        let run_ns: u64 = run.split(' ').next()?.parse().ok()?;
        Some((line.trim().parse::<u64>().ok()?, run_ns / 1_000_000))
    };
    let efforts = threads.flatten().filter_map(of_thread);
    efforts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}
