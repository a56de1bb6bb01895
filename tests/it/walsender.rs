//! Replication connections: each has a server connection of its own, and both say what they like.

use std::path::{Path, PathBuf};

use crate::support::reply::Reply;
use crate::support::{
    cluster::{Cluster, private_dir, program, unprivileged},
    fixture::Fixture,
    login::{Address, Login},
    message::*,
    poll,
    proxy::Proxy,
    reaper,
    tools::{successful, tool},
    wire::Client,
};

const SETTINGS: &str = "wal_level = logical\nmax_wal_senders = 4\nmax_replication_slots = 4\n";

/// A server that has walsenders, and a proxy in front of it.
struct World {
    cluster: Cluster,
    proxy: Proxy,
    dir: PathBuf,
}

impl World {
    fn start() -> Self {
        let cluster = Cluster::start_with(SETTINGS);
        cluster.allow_replication();
        let config = Fixture::config(&cluster, "postgres");
        // What physical replication calls its database.
        let place = Fixture::place(&cluster, "postgres");
        let config = config.database("replication", &place.each_ref().map(String::as_str));
        let proxy = Proxy::start(&cluster, config);
        let dir = private_dir("pgtandem-it-walsender-");
        reaper::adopt_dir(&dir);
        Self { cluster, proxy, dir }
    }

    fn login(&self, replication: &str) -> Client {
        let login = Login::new("postgres", "postgres").parameter("replication", replication);
        login.connect(&self.proxy.tcp()).expect("everybody is trusted")
    }

    fn run(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = tool(name, &self.proxy.tcp(), "postgres");
        successful(command.args(arguments).current_dir(&self.dir).output().expect("installed"))
    }

    /// Server processes by what they are.
    fn processes(&self, kind: &str) -> Vec<Vec<String>> {
        self.cluster.superuser("postgres").rows(&format!(
            "SELECT pid, application_name FROM pg_stat_activity WHERE backend_type = '{kind}' \
             AND application_name <> 'observer'"
        ))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::fs::remove_dir_all(&self.dir).is_ok() {
            reaper::release_dir(&self.dir);
        }
    }
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn a_base_backup_through_the_proxy_is_whole() {
    let world = World::start();
    world
        .cluster
        .superuser("postgres")
        .rows("CREATE TABLE t AS SELECT generate_series(1, 50000) x");
    let backup = path(&world.dir, "backup");
    world.run("pg_basebackup", &["-D", &backup, "-c", "fast", "-X", "stream"]);
    let mut verify = unprivileged(program("pg_verifybackup"));
    successful(verify.arg(&backup).output().expect("it is installed"));
    poll("the walsenders have ended", || world.processes("walsender").is_empty());
}

#[test]
fn wal_is_received_through_the_proxy() {
    let world = World::start();
    let mut observer = world.cluster.superuser("postgres");
    let segment = observer.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let received = path(&world.dir, "wal");
    std::fs::create_dir(&received).expect("the folder is ours");
    world.run("pg_receivewal", &["-D", &received, "--slot", "made", "--create-slot"]);
    // One that keeps what comes before anybody has read it.
    observer.rows("SELECT pg_create_physical_replication_slot('s', true)");
    std::fs::set_permissions(&received, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("it is ours");
    observer.rows("CREATE TABLE t AS SELECT generate_series(1, 20000) x");
    observer.rows("SELECT pg_switch_wal()");
    let end = observer.value("SELECT pg_current_wal_lsn()");
    observer.rows("CREATE TABLE u AS SELECT generate_series(1, 20000) x");
    let arguments = ["-D", &received, "--slot", "s", "--endpos", &end, "--no-loop"];
    world.run("pg_receivewal", &arguments);
    let there = std::fs::read(world.cluster.socket_dir().join("data/pg_wal").join(&segment));
    let here = std::fs::read(Path::new(&received).join(&segment));
    assert!(there.expect("the server has it") == here.expect("it was received"), "{segment}");
}

#[test]
fn changes_are_received_through_the_proxy() {
    let world = World::start();
    let mut client = Login::new("postgres", "postgres")
        .connect(&world.proxy.tcp())
        .expect("everybody is trusted");
    world.run(
        "pg_recvlogical",
        &["-d", "postgres", "--slot", "s", "--create-slot", "-P", "test_decoding"],
    );
    client.query("create table t (x int)");
    client.query("insert into t select generate_series(1, 500)");
    let end = client.value("select pg_current_wal_insert_lsn()");
    let file = path(&world.dir, "changes");
    world.run(
        "pg_recvlogical",
        &["-d", "postgres", "--slot", "s", "--start", "--endpos", &end, "--no-loop", "-f", &file],
    );
    let changes = std::fs::read_to_string(file).expect("it was written");
    assert_eq!(changes.lines().filter(|line| line.contains("INSERT")).count(), 500);
}

#[test]
fn a_replication_connection_is_nobody_elses() {
    let world = World::start();
    let mut pooled = Login::new("postgres", "postgres")
        .connect(&world.proxy.tcp())
        .expect("everybody is trusted");
    pooled.query("begin");
    let pooled_pid = pooled.backend_pid();
    // The one place of the pool is taken.
    let mut walsender = world.login("database");
    let said = walsender.query("IDENTIFY_SYSTEM");
    assert!(said[1].contains("postgres"), "{said}");
    let pid = walsender.key.0.to_string();
    let found = world.processes("walsender");
    assert_eq!((found.len(), &found[0][0]), (1, &pid), "the key names the server process");
    assert_ne!(pid, pooled_pid);
    assert_eq!(walsender.value("select 1"), "1");
    walsender.send(&[terminate()]);
    assert_eq!(walsender.until_end(), "EOF");
    poll("the walsender has ended", || world.processes("walsender").is_empty());
    assert_eq!(pooled.backend_pid(), pooled_pid);
    assert_eq!(pooled.query("commit"), "C COMMIT | Z I");
}

#[test]
fn a_replication_connection_has_its_clients_parameters() {
    let world = World::start();
    let login = Login::new("postgres", "postgres")
        .parameter("replication", "database")
        .parameter("application_name", "standby 1")
        .parameter("options", "-c statement_timeout=5s");
    let mut walsender = login.connect(&world.proxy.tcp()).expect("everybody is trusted");
    assert_eq!(walsender.value("show statement_timeout"), "5s");
    assert_eq!(world.processes("walsender")[0][1], "standby 1");
    assert_eq!(walsender.parameters["application_name"], "standby 1");
    // Lost without a word.
    walsender.hang_up();
    poll("the walsender has ended", || world.processes("walsender").is_empty());
}

#[test]
fn a_replication_command_is_cancelled_by_our_own_key() {
    let world = World::start();
    let mut walsender = world.login("database");
    walsender.send(&[query("select pg_sleep(60)")]);
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND \
                backend_type = 'walsender' AND query LIKE '%pg_sleep%'";
    let mut observer = world.cluster.superuser("postgres");
    poll("it runs", || observer.value(runs) == "1");
    let (pid, secret) = walsender.key;
    world.cluster.tcp().cancel((pid, secret));
    world.proxy.tcp().cancel((pid, !secret));
    world.proxy.tcp().cancel((pid ^ 1, secret));
    assert_eq!(observer.value(runs), "1", "the server does not know the key, nor do we the others");
    world.proxy.tcp().cancel((pid, secret));
    assert_eq!(walsender.ready(1), "T | E 57014 | Z I");
}

#[test]
fn replication_connections_end_with_their_database_and_their_server() {
    let mut world = World::start();
    let mut walsender = world.login("database");
    let mut console =
        Login::new("pgtandem", "pgtandem").connect(&world.proxy.unix()).expect("we are its user");
    console.query("kill postgres");
    assert_eq!(walsender.until_end(), "EOF");
    poll("the walsender has ended", || world.processes("walsender").is_empty());
    console.query("resume postgres");
    let mut walsender = world.login("database");
    assert_eq!(walsender.value("select 1"), "1");
    world.cluster.crash();
    assert!(walsender.until_end().last().ends_with("EOF"));
}

#[test]
fn what_the_server_says_against_replication_is_passed_on() {
    let world = World::start();
    let answers = |address: &Address, user: &str| {
        let login = Login::new(user, "postgres").parameter("replication", "database");
        let said = login.connect(address).err().expect("it is refused");
        // AuthenticationOk may be left out in front of a refusal.
        let said = said.iter().filter(|reply| reply.tag() != b'R');
        said.map(Reply::detail).collect::<Vec<_>>()
    };
    let direct = answers(&world.cluster.tcp(), "dave");
    assert!(direct.iter().any(|line| line.contains("C42501")), "{direct:?}");
    assert_eq!(answers(&world.proxy.tcp(), "dave"), direct);
}
