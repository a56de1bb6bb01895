//! `pgtandem import`: what comes out of a `pgbouncer.ini` behaves as `PgBouncer` does with it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::support::{
    cluster::{Cluster, free_port, private_dir, unprivileged},
    login::{Address, Login},
    message::query,
    poll,
    proxy::Subject,
    reaper,
    wire::Client,
};

const SAMPLE: &str = include_str!("import/sample.ini");
/// What both poolers go by with `auth_type = hba`.
const RULES: &str = "\
# a comment
local all alice trust
host app alice 127.0.0.1/32 md5
host all bob 127.0.0.0/8 scram-sha-256
host forced, single carol 127.0.0.1 255.255.255.255 password
host \"app\" carol all reject
host all all 10.0.0.0/8 trust
";

const FORTY: &str = include_str!("import/forty.ini");

/// What the pooler of `config` logs in with; dave has no password and carol's is plain.
fn user_list() -> String {
    let secret = Cluster::shared()
        .superuser("postgres")
        .value("select rolpassword from pg_authid where rolname = 'bob'");
    format!(
        "\"alice\" \"alice-pw\"\n; \"mallory\" \"mallory-pw\"\n\"bob\" \"{secret}\"\n\
         \"carol\" \"carol-pw\" ignored\n\"dave\" \"\"\n"
    )
}

/// One pooler with a folder and a port of its own.
struct Pooler {
    name: &'static str,
    child: Child,
    dir: PathBuf,
    port: u16,
    /// The database behind it, which is its own, so that its backends can be counted.
    database: String,
}

impl Pooler {
    fn tcp(&self) -> Address {
        Address::Tcp(self.port)
    }

    fn unix(&self) -> Address {
        Address::Unix(self.dir.join(format!(".s.PGSQL.{}", self.port)))
    }

    /// Counts its backends of one user.
    fn backends(&self, user: &str) -> String {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename = '{user}'",
            self.database
        );
        Cluster::shared().superuser("postgres").value(&sql)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        reaper::release_process(self.child.id());
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            eprintln!("--- log of {} ---\n{log}--- end of the log ---", self.name);
        }
        if fs::remove_dir_all(&self.dir).is_ok() {
            reaper::release_dir(&self.dir);
        }
    }
}

/// Both poolers with one configuration.
struct Pair {
    bouncer: Pooler,
    tandem: Pooler,
    /// What the import said on standard error.
    notes: String,
}

impl Pair {
    /// Starts both; nothing where another pooler is under test than the one that was built.
    fn start(ini: &str) -> Option<Self> {
        let Subject::Pgtandem(program) = Subject::current() else {
            return None;
        };
        let database = Cluster::shared().new_database();
        let (dir, port, file) = prepare(ini, &database);
        let mut command = unprivileged("pgbouncer");
        command.arg(file);
        let bouncer = spawn("PgBouncer", command, dir, port, database);

        let database = Cluster::shared().new_database();
        let (dir, port, file) = prepare(ini, &database);
        let output = import(&program, &file);
        let notes = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(0), "{notes}");
        let toml = dir.join("proxy.toml");
        // Another test may have the port that ours is asked at by default.
        let mut text = output.stdout.clone();
        text.extend_from_slice(b"\n[metrics]\nlisten = \"\"\n");
        fs::write(&toml, &text).expect("the folder is ours");
        let check = Command::new(&program).arg("--config").arg(&toml).arg("check").output();
        let check = check.expect("our program is built");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        let mut command = Command::new(&program);
        command.arg("--config").arg(&toml).arg("run");
        let tandem = spawn("pgtandem", command, dir, port, database);
        Some(Self { bouncer, tandem, notes })
    }

    /// Asks both the same; the answer of `PgBouncer` is what is right.
    fn both(&self, what: &str, ask: impl Fn(&Pooler) -> String + Sync) -> String {
        let (right, ours) = std::thread::scope(|scope| {
            let right = scope.spawn(|| ask(&self.bouncer));
            let ours = ask(&self.tandem);
            (right.join().expect("PgBouncer answers"), ours)
        });
        assert_eq!(ours, right, "{what}: ours on the left, PgBouncer on the right");
        right
    }
}

/// Makes a folder with the configuration and the user list in it.
fn prepare(ini: &str, database: &str) -> (PathBuf, u16, PathBuf) {
    let cluster = Cluster::shared();
    let dir = private_dir("pgtandem-it-import-");
    reaper::adopt_dir(&dir);
    let port = free_port();
    let ini = ini
        .replace("@DIR@", &dir.display().to_string())
        .replace("@PORT@", &port.to_string())
        .replace("@PG_DIR@", &cluster.socket_dir().display().to_string())
        .replace("@PG_PORT@", &cluster.port().to_string())
        .replace("@DB@", database);
    let file = dir.join("pgbouncer.ini");
    fs::write(&file, ini).expect("the folder is ours");
    fs::write(dir.join("userlist.txt"), user_list()).expect("the folder is ours");
    fs::write(dir.join("hba.conf"), RULES).expect("the folder is ours");
    (dir, port, file)
}

fn import(program: &Path, file: &Path) -> Output {
    Command::new(program).arg("import").arg(file).output().expect("our program is built")
}

fn spawn(
    name: &'static str,
    mut command: Command,
    dir: PathBuf,
    port: u16,
    database: String,
) -> Pooler {
    let log = File::create(dir.join("log")).expect("the folder is ours");
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("both poolers are installed");
    reaper::adopt_process(child.id(), "KILL");
    let mut pooler = Pooler { name, child, dir, port, database };
    poll("the pooler accepts connections", || {
        assert!(pooler.child.try_wait().is_ok_and(|end| end.is_none()), "{name} ended at once");
        pooler.tcp().try_open().is_ok() && pooler.unix().try_open().is_ok()
    });
    pooler
}

/// Logs in, as soon as there is a place: clients that have left may still count.
fn connect(pooler: &Pooler, user: &str, database: &str) -> Client {
    let login = Login::new(user, database).password(&format!("{user}-pw"));
    let mut client = None;
    poll("a login", || {
        client = login.connect(&pooler.tcp()).ok();
        client.is_some()
    });
    client.expect("it has been polled for")
}

/// `ok` or `refused`; codes differ on purpose.
fn login(address: &Address, user: &str, password: &str, database: &str) -> &'static str {
    match Login::new(user, database).password(password).connect(address) {
        Ok(_) => "ok",
        Err(_) => "refused",
    }
}

/// What becomes of a query: its single value, `refused`, or `closed`.
fn outcome(client: &mut Client, sql: &str) -> String {
    let answers = client.query(sql).to_string();
    if answers.contains("EOF") {
        "closed".to_owned()
    } else if answers.contains("E ERROR") {
        "refused".to_owned()
    } else {
        "done".to_owned()
    }
}

#[test]
fn who_can_log_in_is_the_same() {
    let Some(pair) = Pair::start(FORTY) else { return };
    let mut seen = Vec::new();
    for (user, password) in [
        ("alice", "alice-pw"),
        ("alice", "wrong"),
        ("alice", ""),
        ("bob", "bob-pw"),
        ("carol", "carol-pw"),
        ("dave", ""),
        ("dave", "dave-pw"),
        ("mallory", "mallory-pw"),
        ("postgres", ""),
    ] {
        for is_unix in [false, true] {
            seen.push(pair.both(&format!("{user} {password:?}"), |pooler| {
                let address = if is_unix { pooler.unix() } else { pooler.tcp() };
                login(&address, user, password, "app").to_owned()
            }));
        }
    }
    assert_eq!(seen.iter().filter(|seen| *seen == "ok").count(), 6, "{seen:?}");
}

#[test]
fn users_of_the_server_log_in_the_same() {
    Cluster::shared().superuser("postgres").rows("CREATE ROLE erin LOGIN PASSWORD 'erin-pw'");
    let ini = FORTY.replace("auth_type = md5", "auth_type = md5\nauth_user = postgres");
    let Some(pair) = Pair::start(&ini) else { return };
    let mut seen = Vec::new();
    for (user, password) in [
        ("erin", "erin-pw"),
        ("erin", "wrong"),
        ("alice", "alice-pw"),
        ("dave", ""),
        ("nobody", "x"),
        ("locked", "x"),
    ] {
        for database in ["app", "single", "postgres"] {
            seen.push(pair.both(&format!("{user} {password:?} {database}"), |pooler| {
                login(&pooler.tcp(), user, password, database).to_owned()
            }));
        }
    }
    assert_eq!(seen.iter().filter(|seen| *seen == "ok").count(), 6, "{seen:?}");
}

#[test]
fn rules_let_the_same_in() {
    let ini = FORTY.replace("auth_type = md5", "auth_type = hba\nauth_hba_file = @DIR@/hba.conf");
    let Some(pair) = Pair::start(&ini) else { return };
    let mut seen = Vec::new();
    for user in ["alice", "bob", "carol", "dave"] {
        for password in [format!("{user}-pw"), "wrong".to_owned()] {
            for database in ["app", "forced", "single"] {
                for is_unix in [false, true] {
                    let what = format!("{user} {password} {database} {is_unix}");
                    seen.push(pair.both(&what, |pooler| {
                        let address = if is_unix { pooler.unix() } else { pooler.tcp() };
                        login(&address, user, &password, database).to_owned()
                    }));
                }
            }
        }
    }
    assert!(seen.iter().any(|seen| seen == "ok") && seen.iter().any(|seen| seen == "refused"));
}

#[test]
fn names_lead_to_the_same_databases_and_users() {
    let Some(pair) = Pair::start(FORTY) else { return };
    let sql = "SELECT concat_ws(' ', current_database(), session_user, inet_server_port() IS NULL)";
    for name in ["app", "forced", "reserved", "single", "socket", "postgres"] {
        let seen = pair.both(name, |pooler| {
            connect(pooler, "alice", name).value(sql).replace(&pooler.database, "its own")
        });
        let user = match name {
            "forced" => "bob",
            "reserved" => "dave",
            _ => "alice",
        };
        let database = if name == "postgres" { name } else { "its own" };
        let is_unix = if name == "socket" { "t" } else { "f" };
        assert_eq!(seen, format!("{database} {user} {is_unix}"));
    }
    for name in ["nonesuch", "forbidden"] {
        let seen = pair.both(name, |pooler| {
            let login = Login::new("alice", name).password("alice-pw");
            login
                .connect(&pooler.tcp())
                .map_or("refused".to_owned(), |mut client| outcome(&mut client, "SELECT 1"))
        });
        assert_ne!(seen, "done", "{name}");
    }
}

#[test]
fn pools_have_the_same_bounds_and_modes() {
    let Some(pair) = Pair::start(FORTY) else { return };
    // A third waits until the time-out: in its login, or in its first query as with PgBouncer.
    let held = pair.both("session mode, pool_size 2", |pooler| {
        let mut clients: Vec<Client> = (0..2).map(|_| connect(pooler, "alice", "app")).collect();
        let mut seen: Vec<String> =
            clients.iter_mut().map(|client| outcome(client, "SELECT 1")).collect();
        let third = Login::new("alice", "app").password("alice-pw").connect(&pooler.tcp());
        seen.push(third.map_or("closed".to_owned(), |mut client| outcome(&mut client, "SELECT 1")));
        seen.push(pooler.backends("alice"));
        seen.join(" ")
    });
    assert_eq!(held, "done done closed 2");
    let modes = pair.both("transaction mode, pool_size 1", |pooler| {
        let mut clients: Vec<Client> = (0..3).map(|_| connect(pooler, "alice", "forced")).collect();
        let pids: Vec<String> = clients.iter_mut().map(Client::backend_pid).collect();
        let began = outcome(&mut clients[0], "BEGIN");
        let waited = outcome(&mut clients[1], "SELECT 1");
        format!("{} {began} {waited}", pids[0] == pids[1] && pids[1] == pids[2])
    });
    assert_eq!(modes, "true done closed");
    let reserve = pair.both("reserve_pool 1 after 0.2 s", |pooler| {
        let mut clients: Vec<Client> =
            (0..3).map(|_| connect(pooler, "alice", "reserved")).collect();
        let mut seen: Vec<String> =
            clients.iter_mut().map(|client| outcome(client, "BEGIN")).collect();
        seen.push(pooler.backends("dave"));
        seen.join(" ")
    });
    assert_eq!(reserve, "done done closed 2");
    let statement = pair.both("statement mode", |pooler| {
        let mut client = connect(pooler, "alice", "single");
        let one = outcome(&mut client, "SELECT 1");
        client.send(&[query("BEGIN")]);
        format!("{one} {}", client.until_end().to_string().ends_with("EOF"))
    });
    assert_eq!(statement, "done true");
    let user = pair.both("a user's pool_mode and max_user_connections", |pooler| {
        let mut clients: Vec<Client> = (0..2).map(|_| connect(pooler, "carol", "app")).collect();
        let pids: Vec<String> = clients.iter_mut().map(Client::backend_pid).collect();
        let other = outcome(&mut connect(pooler, "alice", "app"), "SELECT 1");
        format!("{} {} {other}", pids[0] == pids[1], pooler.backends("carol"))
    });
    assert_eq!(user, "true 1 done");
}

#[test]
fn time_outs_are_the_same() {
    let Some(pair) = Pair::start(FORTY) else { return };
    let running = pair.both("query_timeout 4.5 s", |pooler| {
        outcome(&mut connect(pooler, "alice", "app"), "SELECT pg_sleep(30)")
    });
    assert_eq!(running, "closed");
    let idle = pair.both("idle_transaction_timeout 3 s", |pooler| {
        let mut client = connect(pooler, "alice", "app");
        let began = outcome(&mut client, "BEGIN");
        let end = client.until_end().to_string();
        format!("{began} {}", end.ends_with("EOF"))
    });
    assert_eq!(idle, "done true");
    let alive = pair.both("client_idle_timeout 0", |pooler| {
        let mut client = connect(pooler, "alice", "app");
        crate::support::let_pass(Duration::from_millis(2500));
        outcome(&mut client, "SELECT 1")
    });
    assert_eq!(alive, "done");
}

#[test]
fn sessions_are_reset_and_limits_hold() {
    let Some(pair) = Pair::start(FORTY) else { return };
    let reset = pair.both("server_reset_query", |pooler| {
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut client = connect(pooler, "alice", "app");
            seen.push(client.value("SHOW work_mem"));
            client.rows("SET work_mem = '77kB'");
        }
        seen.join(" ")
    });
    assert_eq!(reset, "4MB 4MB 4MB 4MB");
    let limit = pair.both("max_client_conn 6", |pooler| {
        let clients: Vec<Client> = (0..6).map(|_| connect(pooler, "alice", "forced")).collect();
        let more = login(&pooler.tcp(), "alice", "alice-pw", "forced");
        drop(clients);
        format!("{more}, then {}", connect(pooler, "alice", "forced").value("SELECT 1"))
    });
    assert_eq!(limit, "refused, then 1");
}

#[test]
fn the_documented_sample_behaves_the_same() {
    let Some(pair) = Pair::start(SAMPLE) else { return };
    let lost: Vec<&str> = pair.notes.lines().filter(|line| line.contains(".ini:")).collect();
    assert!(lost.iter().all(|line| line.contains("pidfile")), "{lost:?}");
    for (user, password) in [("alice", "alice-pw"), ("alice", "wrong"), ("nobody", "")] {
        pair.both(user, |pooler| login(&pooler.tcp(), user, password, &pooler.database).to_owned());
    }
    let session = pair.both("session mode is the default", |pooler| {
        let mut clients: Vec<Client> =
            (0..2).map(|_| connect(pooler, "alice", &pooler.database)).collect();
        let pids: Vec<String> = clients.iter_mut().map(Client::backend_pid).collect();
        let again = clients[0].backend_pid();
        drop(clients);
        format!("{} {}", pids[0] == pids[1], pids[0] == again)
    });
    assert_eq!(session, "false true");
}

#[test]
fn secrets_go_to_the_output_and_nowhere_else() {
    let Subject::Pgtandem(program) = Subject::current() else { return };
    let (dir, _, file) = prepare(FORTY, "t1");
    let output = import(&program, &file);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // That of a database line is copied; those of the list stay where they are.
    assert!(out.contains("bob-pw") && !err.contains("bob-pw"), "{out}\n{err}");
    for secret in ["alice-pw", "carol-pw"] {
        assert!(!out.contains(secret) && !err.contains(secret), "{out}\n{err}");
    }
    assert!(out.contains("chmod 600") && err.contains("chmod 600"), "{err}");
    fs::remove_dir_all(&dir).expect("the folder is ours");
    reaper::release_dir(&dir);
}

#[test]
fn files_that_cannot_be_read_or_parsed_are_refused() {
    let Subject::Pgtandem(program) = Subject::current() else { return };
    let dir = private_dir("pgtandem-it-import-");
    let file = dir.join("pgbouncer.ini");
    for text in [None, Some("[pgbouncer]\nnonsense\n"), Some("%include nowhere.ini\n")] {
        if let Some(text) = text {
            fs::write(&file, text).expect("the folder is ours");
        }
        let output = import(&program, &file);
        assert_eq!(output.status.code(), Some(2), "{text:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{text:?}");
    }
    fs::remove_dir_all(&dir).expect("the folder is ours");
}
