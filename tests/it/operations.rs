//! What an operator does to the running proxy: PAUSE, RESUME, KILL and the like.

use std::sync::Arc;
use std::time::Duration;

use pgtandem::control::{CommandError, Mode};
use pgtandem::worker::{ClientState, HeldFor, ServerState};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::{inside::Inside, let_pass, message::*, poll};

const ONE: &str = "T | D 1 | C SELECT 1 | Z I";

/// Two names for one database, so that one can be operated and the other be watched.
fn two_names() -> Inside {
    let inside = Inside::start(|config| {
        let port = crate::support::cluster::Cluster::shared().port();
        let other = format!("dbname = \"{}\"", "postgres");
        config.database("other", &["host = \"127.0.0.1\"", &format!("port = {port}"), &other])
    });
    assert_eq!(inside.connect_to("other").query("select 1"), ONE);
    inside
}

/// PAUSE in the background.
fn begin_pause(
    inside: &Inside,
    database: Option<&str>,
) -> tokio::task::JoinHandle<Result<(), CommandError>> {
    let control = Arc::clone(&inside.control);
    let database = database.map(str::to_owned);
    inside.begin(async move { control.pause(database.as_deref()).await })
}

#[test]
fn g53_pause_closes_servers_and_keeps_clients() {
    let inside = two_names();
    let (mut client, mut other) = (inside.connect(), inside.connect_to("other"));
    assert_eq!(client.query("select 1"), ONE);
    assert_eq!(other.query("select 1"), ONE);
    let pid = other.backend_pid();
    inside.run(inside.control.pause(Some(&inside.database))).expect("it is there");
    // A server process that was told to end is listed for a moment.
    poll("done means done", || inside.backends() == 0);
    client.send(&[query("select 2")]);
    client.assert_quiet();
    // Nobody else is touched.
    assert_eq!(other.backend_pid(), pid);
    // Whoever comes now is greeted, because it is known what a server would say, and waits.
    let mut late = inside.connect();
    late.send(&[query("select 3")]);
    late.assert_quiet();
    poll("its servers have gone", || inside.backends() == 0);
    inside.run(inside.control.resume(Some(&inside.database))).expect("it is paused");
    assert_eq!(client.ready(1), "T | D 2 | C SELECT 1 | Z I");
    assert_eq!(late.ready(1), "T | D 3 | C SELECT 1 | Z I");
}

#[test]
fn g53_pause_waits_for_transactions() {
    let inside = Inside::start(|config| config.general("default_pool_size = 2"));
    let (mut open, mut waits) = (inside.connect(), inside.connect());
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let pause = begin_pause(&inside, Some(&inside.database));
    waits.send(&[query("select 1")]);
    waits.assert_quiet();
    // As many statements as it takes.
    assert_eq!(open.query("select 1"), "T | D 1 | C SELECT 1 | Z T");
    assert!(!pause.is_finished());
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(inside.finish(pause), Ok(()));
    poll("its servers have gone", || inside.backends() == 0);
    open.send(&[query("select 1")]);
    open.assert_quiet();
    waits.assert_quiet();
    inside.run(inside.control.resume(Some(&inside.database))).expect("it is paused");
    assert_eq!(open.ready(1), ONE);
    assert_eq!(waits.ready(1), ONE);
}

#[test]
fn g53_pause_waits_for_sessions_in_session_mode() {
    let inside = Inside::start(|config| config.general("pool_mode = \"session\""));
    let mut client = inside.connect();
    assert_eq!(client.query("select 1"), ONE);
    let pause = begin_pause(&inside, None);
    assert_eq!(client.query("select 1"), ONE, "its session goes on");
    assert!(!pause.is_finished());
    client.send(&[terminate()]);
    assert_eq!(inside.finish(pause), Ok(()));
    poll("its servers have gone", || inside.backends() == 0);
}

#[test]
fn g53_query_wait_timeout_stands_still() {
    let inside = Inside::start(|config| config.general("query_wait_timeout = 3"));
    let (mut first, mut second) = (inside.connect(), inside.connect());
    assert_eq!(first.query("select 1"), ONE);
    inside.run(inside.control.pause(None)).expect("it runs");
    first.send(&[query("select 1 from pg_sleep(0.5)")]);
    first.assert_quiet();
    second.send(&[query("select 1")]);
    let_pass(Duration::from_millis(3_100));
    second.assert_quiet();
    inside.run(inside.control.resume(None)).expect("it is paused");
    // The second goes on waiting, for longer than the clock would need to be looked at.
    assert_eq!(first.ready(1), ONE);
    assert_eq!(second.ready(1), ONE);
}

#[test]
fn g53_resume_ends_a_pending_pause_at_once() {
    let inside = Inside::transaction();
    let mut open = inside.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    for database in [None, Some(inside.database.as_str())] {
        let pause = begin_pause(&inside, database);
        inside.run(inside.control.resume(database)).expect("it is pending");
        assert_eq!(inside.finish(pause), Err(CommandError::Resumed));
    }
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(inside.connect().query("select 1"), ONE);
}

#[test]
fn g53_a_pause_whose_caller_goes_away_is_undone() {
    let inside = Inside::transaction();
    let (mut open, mut waits) = (inside.connect(), inside.connect());
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let pause = begin_pause(&inside, None);
    waits.send(&[query("select 1")]);
    waits.assert_quiet();
    pause.abort();
    poll("it is undone", || !inside.control.is_paused());
    let pid = open.backend_pid();
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(waits.ready(1), ONE);
    assert_eq!(waits.backend_pid(), pid, "its server was kept");
    assert_eq!(open.query("select 1"), ONE);
}

#[test]
fn g53_a_server_that_cannot_be_reached_does_not_count_while_paused() {
    // Nobody answers there: connects would wait for `server_connect_timeout`.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = format!("port = {}", silent.local_addr().expect("it is bound").port());
    let inside = Inside::start(|config| {
        config.database("silent", &["host = \"127.0.0.1\"", &port, "dbname = \"postgres\""])
    });
    let mut client = crate::support::login::Login::new("postgres", "silent")
        .parameter("application_name", "waits")
        .begin(&inside.tcp());
    poll("a server is being opened", || inside.control.pools().iter().any(|p| p.connections == 1));
    // The connect that is under way is given up.
    inside.run(inside.control.pause(Some("silent"))).expect("it is there");
    assert!(inside.control.pools().iter().all(|pool| pool.connections == 0));
    client.assert_quiet();
    inside.run(inside.control.resume(Some("silent"))).expect("it is paused");
    poll("it is tried again", || inside.control.pools().iter().any(|p| p.connections == 1));
    client.assert_quiet();
}

#[test]
fn pause_and_resume_say_what_pgbouncer_says() {
    let inside = Inside::transaction();
    let (control, name) = (&inside.control, inside.database.as_str());
    let pause = |database| inside.run(control.pause(database));
    let resume = |database| inside.run(control.resume(database));
    assert_eq!(resume(None), Err(CommandError::NotPaused));
    assert_eq!(resume(Some(name)), Err(CommandError::DatabaseNotPaused(name.to_owned())));
    assert_eq!(pause(Some("x")), Err(CommandError::NoSuchDatabase("x".to_owned())));
    assert_eq!(pause(None), Ok(()));
    assert_eq!(pause(None), Err(CommandError::AlreadyPaused));
    assert_eq!(pause(Some(name)), Err(CommandError::AlreadyPaused));
    assert_eq!(inside.run(control.suspend()), Err(CommandError::AlreadyPaused));
    assert_eq!(resume(None), Ok(()));
    // A database may be paused twice; one RESUME is enough.
    assert_eq!(pause(Some(name)), Ok(()));
    assert_eq!(pause(Some(name)), Ok(()));
    assert_eq!(resume(None), Err(CommandError::NotPaused));
    assert_eq!(resume(Some(name)), Ok(()));
    let texts = [
        (CommandError::AlreadyPaused, "already suspended/paused"),
        (CommandError::NotPaused, "pooler is not paused/suspended"),
        (CommandError::DatabaseNotPaused("a".to_owned()), "database a is not paused"),
        (CommandError::NoSuchDatabase("x".to_owned()), "no such database: x"),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn g54_reconnect_replaces_servers_and_wait_close_waits_for_the_old_ones() {
    let inside = Inside::start(|config| config.general("default_pool_size = 2"));
    let (mut open, mut idle) = (inside.connect(), inside.connect());
    let mut other = inside.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let (old_open, old_idle) = (open.backend_pid(), idle.backend_pid());
    assert_ne!(old_open, old_idle);
    inside.run(inside.control.reconnect(Some(&inside.database))).expect("it is there");
    let control = Arc::clone(&inside.control);
    let wait = inside.begin(async move { control.wait_close(None).await });
    // New ones are used meanwhile, and not waited for.
    let new = other.backend_pid();
    assert!(new != old_open && new != old_idle);
    assert_eq!(open.backend_pid(), old_open, "its transaction goes on");
    assert!(!wait.is_finished());
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(inside.finish(wait), Ok(()));
    assert_ne!(open.backend_pid(), old_open);
    assert_eq!(inside.run(inside.control.wait_close(Some(&inside.database))), Ok(()));
    let unknown = Err(CommandError::NoSuchDatabase("x".to_owned()));
    assert_eq!(inside.run(inside.control.reconnect(Some("x"))), unknown);
    assert_eq!(inside.run(inside.control.wait_close(Some("x"))), unknown);
}

#[test]
fn kill_closes_everybody_and_leaves_the_database_paused() {
    let inside = two_names();
    let (mut idle, mut open, mut waits) = (inside.connect(), inside.connect(), inside.connect());
    let mut other = inside.connect_to("other");
    let pid = other.backend_pid();
    assert_eq!(idle.query("select 1"), ONE);
    open.send(&[query("begin; select pg_sleep(1000)")]);
    poll("it runs", || inside.backends() == 1);
    waits.send(&[query("select 1")]);
    waits.assert_quiet();
    inside.run(inside.control.kill(&inside.database)).expect("it is there");
    assert_eq!(idle.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(open.until_end().last(), "EOF");
    assert_eq!(waits.until_end(), "E FATAL 57P01 | EOF");
    poll("the query is cancelled", || inside.backends() == 0);
    let report = |inside: &Inside| {
        let databases = inside.control.databases();
        databases.into_iter().find(|report| report.name == inside.database).expect("it is known")
    };
    assert!(report(&inside).is_paused);
    assert_eq!((report(&inside).clients, report(&inside).connections), (0, 0));
    let mut late = inside.connect();
    late.send(&[query("select 1")]);
    late.assert_quiet();
    assert_eq!(other.backend_pid(), pid, "nobody else is touched");
    inside.run(inside.control.resume(Some(&inside.database))).expect("it is paused");
    assert_eq!(late.ready(1), ONE);
    let unknown = Err(CommandError::NoSuchDatabase("x".to_owned()));
    assert_eq!(inside.run(inside.control.kill("x")), unknown);
}

#[test]
fn kill_is_not_undone_by_a_pause_that_was_given_up() {
    let inside = Inside::transaction();
    let mut open = inside.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let pause = begin_pause(&inside, Some(&inside.database));
    inside.run(inside.control.kill(&inside.database)).expect("it is there");
    assert_eq!(inside.finish(pause), Ok(()), "what it waited for has happened");
    assert_eq!(inside.run(inside.control.resume(Some(&inside.database))), Ok(()));
}

#[test]
fn g55_kill_client_closes_one_client_and_its_server() {
    let inside = Inside::start(|config| config.general("default_pool_size = 3"));
    let (mut victim, mut open, mut idle) = (inside.connect(), inside.connect(), inside.connect());
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    assert_eq!(idle.query("select 1"), ONE);
    victim.send(&[query("select 'victim' from pg_sleep(1000)")]);
    let busy = || {
        let clients = inside.run(inside.control.list()).clients;
        let active = clients.iter().filter(|client| client.state == ClientState::Active);
        active.map(|client| client.id).max().filter(|_| clients.len() == 3)
    };
    poll("it has a server", || inside.run(inside.control.list()).clients.len() == 3);
    let ids: Vec<u64> = inside.run(inside.control.list()).clients.iter().map(|c| c.id).collect();
    poll("it runs", || busy().is_some() && inside.backends() >= 2);
    let victim_id = *ids.iter().min().expect("three are there");
    inside.run(inside.control.kill_client(victim_id)).expect("it is there");
    assert_eq!(victim.until_end(), "E FATAL 57P01 | EOF");
    let error = inside.run(inside.control.kill_client(victim_id));
    assert_eq!(error, Err(CommandError::NoSuchClient(victim_id)), "numbers are not used again");
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(idle.query("select 1"), ONE);
    poll("its query is cancelled", || {
        let sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(1000)%' \
                   and pid <> pg_backend_pid()";
        inside.cluster.superuser(&inside.database).value(sql) == "0"
    });
}

#[test]
fn disable_refuses_new_clients_only() {
    let inside = two_names();
    let mut old = inside.connect();
    inside.control.disable(&inside.database).expect("it is there");
    assert_eq!(inside.refusal(&inside.database), "R | E FATAL 55000 | EOF".replace("R | ", ""));
    assert_eq!(old.query("select 1"), ONE);
    assert_eq!(inside.connect_to("other").query("select 1"), ONE);
    inside.control.enable(&inside.database).expect("it is there");
    assert_eq!(inside.connect().query("select 1"), ONE);
    let unknown = CommandError::NoSuchDatabase("x".to_owned());
    assert_eq!(inside.control.disable("x"), Err(unknown.clone()));
    assert_eq!(inside.control.enable("x"), Err(unknown));
}

#[test]
fn suspend_stops_everything_until_resume() {
    let inside = Inside::start(|config| config.general("default_pool_size = 2"));
    let (mut idle, mut open) = (inside.connect(), inside.connect());
    assert_eq!(idle.query("select 1"), ONE);
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let backends = inside.backends();
    inside.run(inside.control.suspend()).expect("nobody is stuck");
    assert!(inside.control.is_suspended());
    assert_eq!(inside.run(inside.control.suspend()), Err(CommandError::AlreadyPaused));
    assert_eq!(inside.run(inside.control.pause(None)), Err(CommandError::AlreadyPaused));
    for client in [&mut idle, &mut open] {
        client.send(&[query("select 1")]);
        client.assert_quiet();
    }
    assert_eq!(inside.backends(), backends, "servers are kept");
    inside.run(inside.control.resume(None)).expect("it is suspended");
    assert_eq!(idle.ready(1), ONE);
    assert_eq!(open.ready(1), "T | D 1 | C SELECT 1 | Z T");
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
}

#[test]
fn suspend_closes_who_takes_nothing_after_suspend_timeout() {
    let inside = Inside::start(|config| {
        config.general("suspend_timeout = 1").general("default_pool_size = 2")
    });
    let (mut stuck, mut good) = (inside.connect(), inside.connect());
    // More than fits into the buffers of the system: the proxy is left with a part of it.
    stuck.send(&[query("select repeat('x', 1000000) from generate_series(1, 100)")]);
    assert_eq!(good.query("select 1"), ONE);
    poll("it is stuck", || {
        inside.run(inside.control.list()).clients.iter().any(|client| client.unsent_bytes > 0)
    });
    let control = Arc::clone(&inside.control);
    let suspend = inside.begin(async move { control.suspend().await });
    assert_eq!(inside.finish(suspend), Ok(()));
    let clients = inside.run(inside.control.list()).clients;
    assert_eq!(clients.len(), 1, "{clients:?}");
    inside.run(inside.control.resume(None)).expect("it is suspended");
    assert_eq!(good.query("select 1"), ONE);
}

#[test]
fn a_pending_suspend_is_ended_by_resume() {
    let inside = Inside::transaction();
    let mut stuck = inside.connect();
    stuck.send(&[query("select repeat('x', 1000000) from generate_series(1, 100)")]);
    poll("it is stuck", || {
        inside.run(inside.control.list()).clients.iter().any(|client| client.unsent_bytes > 0)
    });
    let control = Arc::clone(&inside.control);
    let suspend = inside.begin(async move { control.suspend().await });
    inside.run(inside.control.resume(None)).expect("it is pending");
    assert_eq!(inside.finish(suspend), Err(CommandError::Resumed));
    let control = Arc::clone(&inside.control);
    let suspend = inside.begin(async move { control.suspend().await });
    suspend.abort();
    poll("it is undone", || !inside.control.is_suspended());
    assert_eq!(stuck.ready(1).last(), "Z I");
}

#[test]
fn list_says_who_waits_for_whom_and_why() {
    let inside = Inside::start(|config| config.general("workers = 2"));
    let mut holder = crate::support::login::Login::new("postgres", &inside.database)
        .parameter("application_name", "holder")
        .connect(&inside.tcp())
        .expect("the proxy trusts us");
    let (mut waits, _idle) = (inside.connect(), inside.connect());
    let pid = holder.backend_pid();
    holder.run(&[parse("s", "select 1"), sync()]);
    assert_eq!(holder.query("begin"), "C BEGIN | Z T");
    waits.send(&[query("select 1")]);
    let find = |state| {
        let clients = inside.run(inside.control.list()).clients;
        clients.into_iter().find(|client| client.state == state)
    };
    poll("somebody waits", || find(ClientState::Waiting).is_some());
    let_pass(Duration::from_millis(50));
    let waiter = find(ClientState::Waiting).expect("still");
    assert!(waiter.wait.expect("it waits") >= Duration::from_millis(50));
    assert_eq!(waiter.link, None);
    let client = find(ClientState::Active).expect("it has a server");
    assert_eq!((client.application_name.as_str(), client.prepared_statements), ("holder", 1));
    assert_eq!(client.spec.database, inside.database);
    assert!(client.peer.is_some() && client.local.is_some() && client.wait.is_none());
    let servers = inside.run(inside.control.list()).servers;
    let [server] = &servers[..] else { panic!("one server: {servers:?}") };
    assert_eq!((server.link, client.link), (Some(client.id), Some(server.id)));
    assert_eq!((server.process.to_string(), server.state), (pid, ServerState::Active));
    assert_eq!(server.application_name, "holder");
    let held = |inside: &Inside| inside.run(inside.control.list()).servers[0].held;
    assert_eq!(held(&inside).map(|held| held.reason), Some(HeldFor::Transaction));
    holder.send(&[query("select pg_sleep(1000)")]);
    poll("it runs", || held(&inside).is_some_and(|held| held.reason == HeldFor::Query));
    inside.tcp().cancel(holder.key);
    assert_eq!(holder.ready(1).last(), "Z E");
    assert_eq!(holder.query("rollback"), "C ROLLBACK | Z I");
    assert_eq!(waits.ready(1), ONE);
    holder.query("select pg_advisory_lock(1)");
    poll("it is pinned", || held(&inside).is_some_and(|held| held.reason == HeldFor::AdvisoryLock));
    let clients = inside.run(inside.control.list()).clients;
    assert!(clients.iter().any(|client| client.keeps == Some(HeldFor::AdvisoryLock)));
    let ids: std::collections::BTreeSet<u64> = clients.iter().map(|client| client.id).collect();
    assert_eq!(ids.len(), 3);
    drop(holder);
    poll("it is free", || held(&inside).is_none());
    assert_eq!(inside.run(inside.control.list()).servers[0].state, ServerState::Idle);
}

#[test]
fn shutdown_becomes_faster_and_never_slower() {
    let mut inside = Inside::transaction();
    let mut open = inside.connect();
    assert_eq!(open.query("begin"), "C BEGIN | Z T");
    let control = Arc::clone(&inside.control);
    assert_eq!(control.shutdown(Mode::WaitForClients), Ok(()));
    assert_eq!(control.shutdown(Mode::WaitForClients), Err(CommandError::ShuttingDown));
    // Paused and resumed as ever; not when clients are being closed.
    let pause = begin_pause(&inside, None);
    assert_eq!(inside.run(control.resume(None)), Ok(()));
    assert_eq!(inside.finish(pause), Err(CommandError::Resumed));
    assert_eq!(control.shutdown(Mode::WaitForServers), Ok(()));
    assert_eq!(inside.run(control.pause(None)), Err(CommandError::ShuttingDown));
    assert_eq!(control.shutdown(Mode::WaitForClients), Err(CommandError::ShuttingDown));
    assert_eq!(control.shutting_down(), Some(Mode::WaitForServers));
    assert_eq!(open.query("commit"), "C COMMIT | Z I");
    assert_eq!(open.until_end(), "E FATAL 57P01 | EOF");
    assert_eq!(inside.wait(), std::process::ExitCode::SUCCESS);
}

#[test]
fn g55_a_refused_login_gives_its_place_back() {
    let inside = Inside::start(|config| config.general("max_client_conn = 1"));
    let name = inside.database.as_str();
    inside.control.disable(name).expect("it is there");
    for _ in 0..3 {
        assert!(inside.refusal(name).ends_with("E FATAL 55000 | EOF"));
        assert!(inside.refusal("unknown").ends_with("E FATAL 3D000 | EOF"));
    }
    // Those who do not leave hold no place either.
    let mut lingering = crate::support::login::Login::new("postgres", name).begin(&inside.tcp());
    assert_eq!(lingering.until_end(), "E FATAL 55000 | EOF");
    inside.control.enable(name).expect("it is there");
    let mut only = inside.connect();
    drop(lingering);
    assert_eq!(only.query("select 1"), ONE);
    assert!(inside.refusal(name).ends_with("E FATAL 53300 | EOF"));
    inside.run(inside.control.kill(name)).expect("it is there");
    assert_eq!(inside.control.admission.clients(), 0);
    assert!(inside.control.pools().iter().all(|pool| (pool.clients, pool.connections) == (0, 0)));
}

#[test]
fn g56_eviction_makes_just_the_room_that_is_needed() {
    let inside = Inside::start(|config| {
        config.general("default_pool_size = 4").general("max_db_connections = 4")
    });
    let connections = |user: &str| {
        let pools = inside.control.pools();
        pools.iter().find(|pool| pool.spec.user == user).map_or(0, |pool| pool.connections)
    };
    let login = |user: &str| {
        let login = crate::support::login::Login::new(user, &inside.database);
        login.connect(&inside.tcp()).expect("the proxy trusts everybody")
    };
    let mut clients: Vec<_> = (0..4).map(|_| inside.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin"), "C BEGIN | Z T");
    }
    for client in &mut clients {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
    assert_eq!(connections("postgres"), 4);
    let mut dave = login("dave");
    assert_eq!(dave.query("begin"), "C BEGIN | Z T");
    assert_eq!((connections("postgres"), connections("dave")), (3, 1), "one had to go");
    // Far above the bound now: as many go as must, and nobody is let in above it.
    inside.run(inside.control.set("max_db_connections", "2")).expect("it may be set");
    let mut other = login("dave");
    assert_eq!(other.query("select 1"), ONE);
    assert_eq!((connections("postgres"), connections("dave")), (0, 2));
}

#[test]
fn thousands_who_want_the_same_are_greeted_without_calling_each_other() {
    // More than a worker's stack would have room for.
    const CLIENTS: u32 = 4_000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to its maximum it may be raised");
    let inside = Inside::transaction();
    let mut holder = inside.connect();
    assert_eq!(
        holder.query("set application_name = 'same'"),
        "C SET | S application_name=same | Z I"
    );
    assert_eq!(holder.query("begin"), "C BEGIN | Z T");
    // What the server makes of their name is not known, but it has it already.
    let login = crate::support::login::Login::new("postgres", &inside.database)
        .parameter("application_name", "same");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| login.begin(&inside.tcp())).collect();
    poll("they all wait", || {
        inside.control.pools().iter().map(|pool| pool.clients).sum::<u32>() == CLIENTS + 1
    });
    assert_eq!(holder.query("commit"), "C COMMIT | Z I");
    for client in &mut clients {
        assert_eq!(client.until(b'Z').last(), "Z I");
    }
}
