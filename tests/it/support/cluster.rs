//! Throw-away PostgreSQL servers: copied from a template that is made once, gone when the test
//! process is gone.
//!
//! Every process of the test run has at most one shared cluster, and every test its own database in
//! it. Making one costs about 0.2 s: the template is initialised once per build folder, and
//! durability is off.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use pgtandem::config::{Host, Server};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    login::{Address, Login},
    poll, reaper,
    wire::Client,
};

/// Roles of every cluster: name, password, and how `pg_hba.conf` makes them log in over TCP.
pub const ALICE: (&str, &str) = ("alice", "alice-pw"); // scram-sha-256
pub const BOB: (&str, &str) = ("bob", "bob-pw"); // md5
pub const CAROL: (&str, &str) = ("carol", "carol-pw"); // password, in clear text

/// Role creation, run in single-user mode; one statement per line.
const ROLES: &str = "\
SET password_encryption = 'scram-sha-256'
CREATE ROLE alice LOGIN PASSWORD 'alice-pw'
CREATE ROLE carol LOGIN PASSWORD 'carol-pw'
CREATE ROLE dave LOGIN
CREATE ROLE locked NOLOGIN
CREATE ROLE single LOGIN CONNECTION LIMIT 1
CREATE ROLE lonely LOGIN CONNECTION LIMIT 1
SET password_encryption = 'md5'
CREATE ROLE bob LOGIN PASSWORD 'bob-pw'
GRANT ALL ON SCHEMA public TO PUBLIC
CREATE DATABASE t1
CREATE DATABASE forbidden
";

const HBA: &str = "\
host  forbidden all    127.0.0.1/32 reject
host  all       alice  127.0.0.1/32 scram-sha-256
host  all       bob    127.0.0.1/32 md5
host  all       carol  127.0.0.1/32 password
host  all       all    127.0.0.1/32 trust
local all       alice               scram-sha-256
local all       bob                 md5
local all       carol               password
local all       all                 trust
";

const SETTINGS: &str = "\
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
shared_buffers = 16MB
max_connections = 120
max_wal_senders = 0
wal_level = minimal
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'ISO, MDY'
lc_messages = 'C'
jit = off
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %u@%d '
";

/// Further settings of a cluster that has standbys.
pub const REPLICATED: &str = "wal_level = replica\nmax_wal_senders = 4\n";

/// One running PostgreSQL server on a loopback port and a Unix socket.
pub struct Cluster {
    dir: PathBuf,
    port: u16,
    postgres: PathBuf,
    postmaster: Child,
    databases: AtomicU32,
}

impl Cluster {
    /// The one cluster that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a cluster of one's own, for tests that stop it or change its settings.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a cluster with further lines of `postgresql.conf`.
    pub fn start_with(settings: &str) -> Self {
        let dir = private_dir("pgtandem-it-pg-");
        reaper::adopt_dir(&dir);
        let data = dir.join("data");
        copy(&template(), &data);
        let conf = data.join("postgresql.conf");
        let base = fs::read_to_string(&conf).expect("the template has a configuration");
        fs::write(conf, format!("{base}\n{settings}\n")).expect("the configuration is writable");
        Self::over(dir, program("postgres"))
    }

    /// Starts a cluster of another version of PostgreSQL, whose programs are in `bin`.
    pub fn start_from(bin: &Path) -> Self {
        let dir = private_dir("pgtandem-it-pg-");
        reaper::adopt_dir(&dir);
        make_template(&dir.join("data"), &bin.join("initdb"), &bin.join("postgres"));
        Self::over(dir, bin.join("postgres"))
    }

    /// Starts a server over the data that is in a folder.
    fn over(dir: PathBuf, postgres: PathBuf) -> Self {
        let port = free_port();
        let postmaster = start_postmaster(&postgres, &dir, port);
        let databases = AtomicU32::new(0);
        let cluster = Self { dir, port, postgres, postmaster, databases };
        cluster.await_ready();
        cluster
    }

    /// Starts a hot standby of this cluster, which must have been started with [`REPLICATED`].
    pub fn standby(&self) -> Self {
        self.allow_replication();
        let dir = private_dir("pgtandem-it-pg-");
        reaper::adopt_dir(&dir);
        let output = unprivileged(program("pg_basebackup"))
            .args(["-U", "postgres", "-R", "-c", "fast", "-h"])
            .arg(&self.dir)
            .args(["-p", &self.port.to_string(), "-D"])
            .arg(dir.join("data"))
            .output()
            .expect("PostgreSQL is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self::over(dir, self.postgres.clone())
    }

    /// Lets everybody in who may replicate.
    pub fn allow_replication(&self) {
        let hba = self.dir.join("data/pg_hba.conf");
        let base = fs::read_to_string(&hba).expect("it has one");
        let lines = "local replication all trust\nhost replication all 127.0.0.1/32 trust\n";
        fs::write(hba, base + lines).expect("it is ours");
        self.superuser("postgres").rows("SELECT pg_reload_conf()");
    }

    /// Port of both the loopback address and the Unix socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket, as the product knows servers.
    pub fn server(&self) -> Server {
        Server { host: Host::Unix(self.dir.clone()), port: self.port }
    }

    /// Folder that holds the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Its loopback address.
    pub fn tcp(&self) -> Address {
        Address::Tcp(self.port)
    }

    /// Its Unix socket.
    pub fn unix(&self) -> Address {
        Address::Unix(self.dir.join(format!(".s.PGSQL.{}", self.port)))
    }

    /// Makes an empty database and gives its name.
    pub fn new_database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("t{number}");
        if number > 1 {
            self.superuser("postgres").rows(&format!("CREATE DATABASE {name}"));
        }
        name
    }

    /// Which version of PostgreSQL it is, as `server_version_num` says.
    pub fn version(&self) -> u32 {
        self.superuser("postgres").value("SHOW server_version_num").parse().expect("a number")
    }

    /// Logs in as superuser, past any proxy.
    pub fn superuser(&self, database: &str) -> Client {
        Login::new("postgres", database)
            .parameter("application_name", "observer")
            .connect(&self.unix())
            .expect("the superuser is trusted")
    }

    /// Counts the client connections to `database`, those of [`Cluster::superuser`] excepted.
    pub fn backends(&self, database: &str) -> usize {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' \
             AND backend_type = 'client backend' AND application_name <> 'observer'"
        );
        self.superuser("postgres").value(&sql).parse().expect("count(*) is a number")
    }

    /// Stops the server at once, as a crash would; clients see their connections break.
    pub fn crash(&mut self) {
        signal(self.postmaster.id(), "QUIT");
        self.postmaster.wait().expect("the postmaster is our child");
        reaper::release_process(self.postmaster.id());
    }

    /// Shuts the server down; clients are told (57P01).
    pub fn stop(&mut self) {
        signal(self.postmaster.id(), "INT");
        self.postmaster.wait().expect("the postmaster is our child");
        reaper::release_process(self.postmaster.id());
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        let promoted = self.superuser("postgres").value("SELECT pg_promote()");
        assert_eq!(promoted, "t", "it was a standby");
    }

    /// Starts the server again after [`Cluster::crash`] or [`Cluster::stop`], on the same port.
    pub fn restart(&mut self) {
        self.postmaster = start_postmaster(&self.postgres, &self.dir, self.port);
        self.await_ready();
    }

    /// Stops all its processes, as a machine that hangs would, until what is returned is dropped.
    pub fn freeze(&self) -> Frozen {
        let postmaster = self.postmaster.id();
        // The postmaster first: it starts no more processes then.
        signal(postmaster, "STOP");
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = fs::read_to_string(children).expect("Linux lists them");
        let processes = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let frozen = Frozen(processes.chain([postmaster]).collect());
        frozen.signal(Signal::STOP);
        frozen
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("postgres.log")).unwrap_or_default()
    }

    fn await_ready(&self) {
        poll("PostgreSQL accepts connections", || {
            Login::new("postgres", "postgres").connect(&self.unix()).is_ok()
                // It may want TLS there, and says so.
                && Login::new("postgres", "postgres")
                    .connect(&self.tcp())
                    .map_or_else(|said| said.len() > 1, |_| true)
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.postmaster.try_wait().is_ok_and(|status| status.is_none()) {
            self.crash();
        }
        if fs::remove_dir_all(&self.dir).is_ok() {
            reaper::release_dir(&self.dir);
        }
    }
}

/// Processes that are stopped as long as this lives.
pub struct Frozen(Vec<u32>);

impl Frozen {
    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            // One that has just ended is nobody's yet: its parent is stopped.
            let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, signal));
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

/// Sends a signal, by name without `SIG`, to a process of ours.
pub fn signal(pid: u32, name: &str) {
    let number = match name {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        _ => panic!("no test sends SIG{name} yet"),
    };
    let process = Pid::from_raw(pid.cast_signed()).expect("a process has a number");
    kill_process(process, number).expect("it is ours, and has not been waited for");
}

/// Writes a file into a folder of [`private_dir`], for nobody but the user of [`unprivileged`]
/// commands and root.
pub fn private_file(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("we made it");
    if let Some((uid, gid)) = service_user() {
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("root may give it away");
    }
    path
}

/// A port of the loopback address that was free a moment ago.
pub fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("the loopback address can be bound");
    probe.local_addr().expect("a bound socket has an address").port()
}

/// A command that does not run as root (PostgreSQL and `PgBouncer` refuse to) and sees no `PG*`
/// settings of ours.
pub fn unprivileged(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.current_dir("/").env("LC_ALL", "C");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some((uid, gid)) = service_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Makes a folder below the temporary one, owned by the user that [`unprivileged`] commands run as.
pub fn private_dir(prefix: &str) -> PathBuf {
    let dir = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("the temporary folder is writable")
        .keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("we made it");
    if let Some((uid, gid)) = service_user() {
        std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).expect("root may give it away");
    }
    dir
}

/// A PostgreSQL program: that of the folder `PGTANDEM_IT_POSTGRES` if it has it, to test with another
/// version; else that of the newest version installed; else the one in `PATH`.
pub fn program(name: &str) -> PathBuf {
    let chosen = std::env::var_os("PGTANDEM_IT_POSTGRES").map(|dir| PathBuf::from(dir).join(name));
    if let Some(chosen) = chosen.filter(|path| path.exists()) {
        return chosen;
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")));
    newest.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}

/// The programs of a major version of PostgreSQL, from npm; `None` where they cannot be had.
pub fn fetched(version: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/fetch-postgres");
    let output = Command::new(script).arg(version).output().ok()?;
    let printed = String::from_utf8(output.stdout).expect("a path in UTF-8");
    output.status.success().then(|| PathBuf::from(printed.trim()))
}

/// User and group to run servers as: none unless we are root, then `postgres`, else `nobody`.
fn service_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else {
                return None;
            };
            (name == wanted).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
        })
    };
    find("postgres").or_else(|| find("nobody"))
}

fn start_postmaster(postgres: &Path, dir: &Path, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("postgres.log"));
    let log = log.expect("the folder is ours");
    let child = unprivileged(postgres)
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}")])
        .args(["-c", &format!("unix_socket_directories={}", dir.display())])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("PostgreSQL is installed");
    reaper::adopt_process(child.id(), "QUIT");
    child
}

/// The data folder every cluster is copied from; made by whoever comes first.
fn template() -> PathBuf {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&cache).expect("the build folder is writable");
    let lock = File::create(cache.join("cluster-template.lock")).expect("it is writable");
    lock.lock().expect("file locks work in the build folder");
    let ready = cache.join(format!("cluster-template-{:016x}", fingerprint()));
    if !ready.exists() {
        let scratch = private_dir("pgtandem-it-template-");
        reaper::adopt_dir(&scratch);
        make_template(&scratch.join("data"), &program("initdb"), &program("postgres"));
        let partial = cache.join("cluster-template.partial");
        let _ = fs::remove_dir_all(&partial);
        copy(&scratch.join("data"), &partial);
        fs::rename(&partial, &ready).expect("same folder");
        fs::remove_dir_all(&scratch).expect("we made it");
        reaper::release_dir(&scratch);
    }
    ready
}

fn make_template(data: &Path, initdb: &Path, postgres: &Path) {
    let output = unprivileged(initdb)
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
        .args(["--no-sync", "--wal-segsize=1", "-D"])
        .arg(data)
        .output()
        .expect("PostgreSQL is installed");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    let conf = data.join("postgresql.conf");
    let base = fs::read_to_string(&conf).expect("initdb wrote it");
    fs::write(conf, format!("{base}\n{SETTINGS}")).expect("initdb wrote it");
    fs::write(data.join("pg_hba.conf"), HBA).expect("initdb wrote it");
    let mut single = unprivileged(postgres)
        .args(["--single", "-D"])
        .arg(data)
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("PostgreSQL is installed");
    let mut input = single.stdin.take().expect("stdin was piped");
    input.write_all(ROLES.as_bytes()).expect("single-user mode reads");
    drop(input);
    assert!(single.wait().expect("it is our child").success(), "single-user mode");
}

/// Tells templates of different contents apart.
fn fingerprint() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (ROLES, HBA, SETTINGS, program("postgres")).hash(&mut hasher);
    hasher.finish()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.expect("cp runs").success(), "copy {} to {}", from.display(), to.display());
}
