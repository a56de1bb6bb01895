//! The checked configuration, and what it means for one database and user.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::auth::{AuthSettings, DatabaseAuth};
use super::hba::Rule;
use super::network::Network;
use super::read::unless_zero;
use super::servers::{Host, LoadBalance, Server, SessionAttrs};
use super::tls::{ClientTls, DatabaseTls, ServerTls};
use crate::secret::Secret;

/// The name of the database entry that stands for all others.
pub const ANY_DATABASE: &str = "*";

/// The databases of the admin console.
const RESERVED_DATABASES: [&str; 2] = ["pgtandem", "pgbouncer"];

/// Says whether a name is that of the admin console.
pub fn is_reserved(database: &str) -> bool {
    RESERVED_DATABASES.contains(&database)
}
/// Where a PostgreSQL server listens unless somebody says otherwise.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// The configuration as it is in force; never changes, a reload makes another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[general]`.
    pub general: General,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[databases.*]` by the name clients ask for; `"*"` stands for all others.
    pub databases: BTreeMap<String, Database>,
    /// `[users.*]` by the name clients log in with.
    pub users: BTreeMap<String, User>,
}

/// `[metrics]`: what a monitoring system asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where to answer HTTP; `None` is nowhere.
    pub listen: Option<SocketAddr>,
}

/// `[general]`: the process as a whole, and what holds for pools that say nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct General {
    /// IP addresses, host names or `*` for all; empty means no TCP.
    pub listen_addr: Vec<String>,
    /// 0 lets the system choose.
    pub listen_port: u16,
    /// Where to put our Unix socket.
    pub unix_socket_dir: Option<PathBuf>,
    /// Permissions of our Unix socket, at most `0o777`.
    pub unix_socket_mode: u32,
    /// Connections the system holds for us until we accept them.
    pub listen_backlog: u32,
    /// Event-loop threads; 0 means one per core but one.
    pub workers: usize,
    /// When a backend goes back to its pool.
    pub pool_mode: PoolMode,
    /// Balancers that say whose a connection is, and must.
    pub proxy_protocol_from: Vec<Network>,
    /// How clients prove who they are.
    pub auth_type: AuthType,
    /// Where secrets are looked for.
    pub auth: AuthSettings,
    /// Clients that may be connected at a time.
    pub max_client_conn: u32,
    /// From accepting a client to the end of its login.
    pub client_login_timeout: Option<Duration>,
    /// How long a cancel request may wait for its connection to the server.
    pub cancel_wait_timeout: Option<Duration>,
    /// How long SUSPEND waits for connections that do not take what they are sent.
    pub suspend_timeout: Duration,
    /// Age at which the addresses of a name are looked up again.
    pub dns_max_ttl: Duration,
    /// Between two looks at what servers are, primary or standby; `None` is never.
    pub server_role_check_period: Option<Duration>,
    /// How long a pool without clients and backends is remembered; `None` is for ever.
    pub autodb_idle_timeout: Option<Duration>,
    /// Whether the system probes idle connections.
    pub tcp_keepalive: bool,
    /// Whole seconds until the first probe; `None` leaves it to the system.
    pub tcp_keepidle: Option<Duration>,
    /// Whole seconds between probes; `None` leaves it to the system.
    pub tcp_keepintvl: Option<Duration>,
    /// Unanswered probes until the connection is given up; `None` leaves it to the system.
    pub tcp_keepcnt: Option<u32>,
    /// How long sent data may stay unacknowledged; `None` leaves it to the system.
    pub tcp_user_timeout: Option<Duration>,
    /// Startup parameters that are accepted and not acted upon.
    pub ignore_startup_parameters: Vec<String>,
    /// Users who may use the admin console.
    pub admin_users: Vec<String>,
    /// Users who may look, but not act, in the admin console.
    pub stats_users: Vec<String>,
    /// A level, or `target=level` directives with commas.
    pub log_level: String,
    /// Whether each login is logged.
    pub log_connections: bool,
    /// Whether each end of a session is logged.
    pub log_disconnections: bool,
    /// What else is logged, how, and where to.
    pub log: Logging,
    /// How long averages in the admin console look back, at least a second.
    pub stats_period: Duration,
    /// How long SIGTERM waits for running transactions; `None` is as long as they need.
    pub shutdown_timeout: Option<Duration>,
    /// TLS with clients.
    pub client_tls: ClientTls,
    /// TLS with servers, unless their database says otherwise.
    pub server_tls: ServerTls,
    /// What pools do unless their database or user says otherwise.
    pub pool: PoolDefaults,
}

/// The keys of `[general]` about the log, apart from those that switch single lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// How a line is written; as of the start.
    pub log_format: LogFormat,
    /// A file to append to; opened anew by a reload.
    pub logfile: Option<PathBuf>,
    /// Whether lines go to the system's log.
    pub syslog: bool,
    /// What they are said to be from there.
    pub syslog_ident: String,
    /// A facility's name.
    pub syslog_facility: String,
    /// 1 is the level debug, 2 and more trace; 0 leaves it to [`General::log_level`].
    pub verbose: u32,
    /// Whether errors of ours that clients are told are logged.
    pub log_pooler_errors: bool,
    /// Whether a line about the traffic is logged every now and then.
    pub log_stats: bool,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object.
    Json,
}

/// The keys of `[general]` about pools, as they are written: 0 stays 0.
///
/// [`Config::pool_settings`] says what they mean for one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDefaults {
    /// Backends of one pool.
    pub default_pool_size: u32,
    /// Backends to keep open.
    pub min_pool_size: u32,
    /// Backends on top, for waiters of `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// 0 keeps the reserve closed.
    pub reserve_pool_timeout: Duration,
    /// Backends of one database over all its pools; 0 means no bound.
    pub max_db_connections: u32,
    /// Backends of one user over all its pools; 0 means no bound.
    pub max_user_connections: u32,
    /// 0 means off.
    pub query_wait_timeout: Duration,
    /// 0 means that a backend is used once.
    pub server_lifetime: Duration,
    /// 0 means off.
    pub server_idle_timeout: Duration,
    /// 0 means off.
    pub server_connect_timeout: Duration,
    /// The pause after a failed connect.
    pub server_login_retry: Duration,
    /// How long clients are held while there is no server; 0 means not at all.
    pub failover_timeout: Duration,
    /// Idle time after which a backend is checked before use; 0 means always.
    pub server_check_delay: Duration,
    /// May be empty, which is a query too.
    pub server_check_query: String,
    /// Empty means none.
    pub server_reset_query: String,
    /// Whether to reset in every pool mode instead of `session` only.
    pub server_reset_query_always: bool,
    /// Whether the backend idle for longest is used next, instead of the one idle for shortest.
    pub server_round_robin: bool,
    /// 0 means off.
    pub client_idle_timeout: Duration,
    /// 0 means off.
    pub idle_transaction_timeout: Duration,
    /// 0 means off.
    pub query_timeout: Duration,
    /// 0 means off.
    pub transaction_timeout: Duration,
    /// Named statements a backend holds; 0 means that we do not manage them.
    pub max_prepared_statements: u32,
    /// Bytes of one message.
    pub max_packet_size: u32,
    /// Bytes of notifications that may wait for one client.
    pub listen_queue: u32,
    /// What becomes of session state where backends change.
    pub session_state: SessionState,
    /// Backends of a pool that may be pinned at a time; 0 means all of them.
    pub max_pinned_connections: u32,
}

/// What becomes of what a client leaves in its session, where its backends change between
/// transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Parameters go with the client; whatever else is left keeps it at its backend.
    Track,
    /// Whatever is left keeps it at its backend.
    Pin,
    /// Statements that would leave something are refused.
    Reject,
}

impl SessionState {
    /// Returns the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Pin => "pin",
            Self::Reject => "reject",
        }
    }
}

/// `[databases.NAME]`: where a database is, and what overrides `[general]`; zero stays zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Where its servers are; at least one.
    pub host: Vec<Host>,
    /// The port of each, also for a Unix socket; or one for all of them.
    pub port: Vec<u16>,
    /// How one of several is chosen.
    pub load_balance_hosts: LoadBalance,
    /// Which of them will do.
    pub target_session_attrs: SessionAttrs,
    /// The database at the server; the name the client asked for unless given.
    pub dbname: Option<String>,
    /// The user at the server for all clients; each client's own unless given.
    pub user: Option<String>,
    /// What to log in with at the server.
    pub password: Option<Secret>,
    /// See [`General::pool_mode`].
    pub pool_mode: Option<PoolMode>,
    /// See [`PoolDefaults::default_pool_size`].
    pub pool_size: Option<u32>,
    /// See [`PoolDefaults::min_pool_size`].
    pub min_pool_size: Option<u32>,
    /// See [`PoolDefaults::reserve_pool_size`].
    pub reserve_pool_size: Option<u32>,
    /// See [`PoolDefaults::max_db_connections`].
    pub max_db_connections: Option<u32>,
    /// See [`PoolDefaults::server_lifetime`].
    pub server_lifetime: Option<Duration>,
    /// See [`PoolDefaults::query_wait_timeout`].
    pub query_wait_timeout: Option<Duration>,
    /// See [`PoolDefaults::failover_timeout`].
    pub failover_timeout: Option<Duration>,
    /// See [`PoolDefaults::session_state`].
    pub session_state: Option<SessionState>,
    /// See [`PoolDefaults::max_pinned_connections`].
    pub max_pinned_connections: Option<u32>,
    /// How users are looked up.
    pub auth: DatabaseAuth,
    /// TLS with its server.
    pub tls: DatabaseTls,
    /// `[databases.NAME.replication]`; without it the database is only pooled.
    pub replication: Option<Replication>,
    /// `[databases.NAME.secondaries.*]` by name.
    pub secondaries: BTreeMap<String, Secondary>,
}

/// `[databases.NAME.replication]`: how the secondaries of a database follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// What is promised.
    pub consistency: Consistency,
    /// How changes are noticed.
    pub capture: Capture,
    /// Who installs capture and reads the change log; the database's `user` unless given.
    pub admin_user: Option<String>,
    /// What to log in with as `admin_user`.
    pub admin_password: Option<Secret>,
    /// Whether capture is installed and an empty secondary copied without a command.
    pub auto: bool,
    /// Patterns `schema.table` of the tables that follow; `*` stands for any text.
    pub tables: Vec<String>,
    /// Patterns of tables that do not follow all the same.
    pub exclude: Vec<String>,
    /// What becomes of definitions that clients send.
    pub ddl: Ddl,
    /// The pause after a batch that was empty.
    pub poll_interval: Duration,
    /// Changes of a batch held in memory; more go through a table on the secondary.
    pub batch_rows: u32,
    /// Bytes of a batch held in memory; more go through a table on the secondary.
    pub batch_bytes: u32,
    /// Tables copied at a time.
    pub copy_workers: u32,
    /// The program that reads the primary's schema; `None` means one that is found.
    pub pg_dump: Option<PathBuf>,
    /// Bytes of the change log that detach the secondaries; 0 means no limit.
    pub log_limit_bytes: u64,
    /// Age of the oldest change not applied that detaches a secondary; 0 means no limit.
    pub log_limit_age: Duration,
    /// Time between two verifications in the background; 0 means off.
    pub verify_interval: Duration,
    /// Rows per second that a comparison may read on each side; 0 means no limit.
    pub verify_rate: u32,
}

/// What is promised about the secondaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// A secondary is always an exact earlier state of the primary.
    Async,
}

/// How changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capture {
    /// By triggers on the primary's tables.
    Trigger,
}

/// What becomes of definitions (CREATE, ALTER, DROP and their like) that clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ddl {
    /// They follow to the secondaries.
    Follow,
    /// They are refused.
    Refuse,
    /// They are made on the primary; secondaries find out, and stop or copy.
    Ignore,
}

/// What a pool needs to know to have definitions follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowingRules {
    /// See [`Replication::ddl`]; never [`Ddl::Ignore`].
    pub ddl: Ddl,
    /// See [`Replication::tables`].
    pub tables: Vec<String>,
    /// See [`Replication::exclude`].
    pub exclude: Vec<String>,
}

/// `[databases.NAME.secondaries.NAME]`: where a secondary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secondary {
    /// Where its server is.
    pub host: Host,
    /// The server's port, also for a Unix socket.
    pub port: u16,
    /// The database at that server; the primary's unless given.
    pub dbname: Option<String>,
    /// Who applies, owner of the tables there; the primary's `admin_user` unless given.
    pub user: Option<String>,
    /// What to log in with; that of `admin_user` if neither this nor `user` is given.
    pub password: Option<Secret>,
    /// Connections that may be open to it.
    pub pool_size: u32,
}

/// `[users.NAME]`: the password, and what overrides database and `[general]`; zero stays zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Plain, `md5…` or `SCRAM-SHA-256$…`; never empty.
    pub password: Option<Secret>,
    /// See [`General::pool_mode`].
    pub pool_mode: Option<PoolMode>,
    /// See [`PoolDefaults::default_pool_size`].
    pub pool_size: Option<u32>,
    /// See [`PoolDefaults::reserve_pool_size`].
    pub reserve_pool_size: Option<u32>,
    /// See [`PoolDefaults::max_user_connections`].
    pub max_user_connections: Option<u32>,
    /// See [`PoolDefaults::query_timeout`].
    pub query_timeout: Option<Duration>,
    /// See [`PoolDefaults::query_wait_timeout`].
    pub query_wait_timeout: Option<Duration>,
    /// See [`PoolDefaults::idle_transaction_timeout`].
    pub idle_transaction_timeout: Option<Duration>,
    /// See [`PoolDefaults::transaction_timeout`].
    pub transaction_timeout: Option<Duration>,
    /// See [`PoolDefaults::client_idle_timeout`].
    pub client_idle_timeout: Option<Duration>,
}

/// When a backend goes back to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// When its transaction ends.
    Transaction,
    /// After each statement; transactions of several statements are refused.
    Statement,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthType {
    /// Not at all.
    Trust,
    /// By sending the password.
    Plain,
    /// By an MD5 challenge, or SCRAM where a SCRAM secret is stored.
    Md5,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By a certificate in their name.
    Cert,
    /// As rules say.
    Hba,
}

/// Everything that holds for the sessions of one (database, user), and for their pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Where the servers are; at least one.
    pub servers: Arc<[Server]>,
    /// How one of several is chosen.
    pub load_balance: LoadBalance,
    /// Which of them will do.
    pub attrs: SessionAttrs,
    /// The database at the server.
    pub dbname: String,
    /// The user at the server: the database's, else the client's.
    pub user: String,
    /// Whether the database gave `user`, so that all its clients share one pool.
    pub forced_user: bool,
    /// TLS with the server.
    pub tls: Arc<ServerTls>,
    /// What to log in with at the server, if it is stored: the database's, else that of `user`.
    pub password: Option<Secret>,
    /// When a backend goes back to its pool.
    pub mode: PoolMode,
    /// The bound on backends, at least 1.
    pub size: u32,
    /// Backends to keep open, at most `size`.
    pub min_size: u32,
    /// Backends on top of `size`.
    pub reserve_size: u32,
    /// How long a waiter waits for the reserve; `None` keeps the reserve closed.
    pub reserve_timeout: Option<Duration>,
    /// The bound on backends of this database over all its pools.
    pub max_db_connections: Option<u32>,
    /// The bound on backends of `user` over all its pools.
    pub max_user_connections: Option<u32>,
    /// How long a client may wait for a backend.
    pub query_wait_timeout: Option<Duration>,
    /// The age at which an unused backend is closed: always some, zero means after one use.
    pub server_lifetime: Option<Duration>,
    /// How long a backend may be unused.
    pub server_idle_timeout: Option<Duration>,
    /// The bound on connecting and logging in.
    pub server_connect_timeout: Option<Duration>,
    /// How long a client may be idle outside a transaction.
    pub client_idle_timeout: Option<Duration>,
    /// How long a client may be idle inside a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// How long one query may run.
    pub query_timeout: Option<Duration>,
    /// How long one transaction may take.
    pub transaction_timeout: Option<Duration>,
    /// The pause after a failed connect.
    pub server_login_retry: Duration,
    /// How long clients are held while there is no server.
    pub failover_timeout: Option<Duration>,
    /// Idle time after which a backend is checked before use; zero means always.
    pub server_check_delay: Duration,
    /// Empty means the empty query.
    pub server_check_query: String,
    /// Empty means none.
    pub server_reset_query: String,
    /// Whether to reset in every pool mode instead of `session` only.
    pub server_reset_query_always: bool,
    /// Whether the backend idle for longest is used next.
    pub server_round_robin: bool,
    /// Named statements a backend holds; 0 means that we do not manage them.
    pub max_prepared_statements: u32,
    /// Bytes of one message.
    pub max_packet_size: u32,
    /// Bytes of notifications that may wait for one client.
    pub listen_queue: u32,
    /// What becomes of definitions, where they are looked for at all.
    pub definitions: Option<FollowingRules>,
    /// What becomes of session state.
    pub session_state: SessionState,
    /// Backends that may be pinned at a time.
    pub max_pinned_connections: Option<u32>,
}

impl General {
    /// Says whether rules ask clients for certificates.
    pub fn asks_for_certificates(&self) -> bool {
        let mut rules = self.auth.auth_hba_file.entries().iter();
        self.auth_type == AuthType::Hba && rules.any(Rule::wants_certificate)
    }
}

impl Database {
    /// Lists its servers.
    pub fn servers(&self) -> Vec<Server> {
        let hosts = self.host.iter().enumerate();
        let server = |(at, host): (usize, &Host)| {
            let port = self.port.get(at).or(self.port.first()).copied().unwrap_or(DEFAULT_PORT);
            Server { host: host.clone(), port }
        };
        hosts.map(server).collect()
    }

    /// Says whether some server of it is reached over TCP.
    pub fn is_over_tcp(&self) -> bool {
        self.host.iter().any(|host| matches!(host, Host::Tcp(_)))
    }
}

impl Config {
    /// Finds the entry for a database: its own, else `"*"`.
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or_else(|| self.databases.get(ANY_DATABASE))
    }

    /// Says how many backends a database may have over all its pools; `None` means no bound.
    pub fn max_db_connections(&self, entry: &Database) -> Option<u32> {
        bound(entry.max_db_connections.unwrap_or(self.general.pool.max_db_connections))
    }

    /// Says how many backends may log in as `user`; `None` means no bound.
    pub fn max_user_connections(&self, user: &str) -> Option<u32> {
        let own = self.users.get(user).and_then(|user| user.max_user_connections);
        bound(own.unwrap_or(self.general.pool.max_user_connections))
    }

    /// Works out what holds when `user` asks for `database`; `None` if there is no such database.
    ///
    /// What a user says goes before what the database says, and that before `[general]`. Where the
    /// database forces a user, the keys about the pool are those of the forced user, because all
    /// clients share it, and the keys about the session (mode and time-outs) those of `user`.
    pub fn pool_settings(&self, database: &str, user: &str) -> Option<PoolSettings> {
        let entry = self.database(database)?;
        Some(self.settings_of(database, entry, user, entry.user.as_deref().unwrap_or(user)))
    }

    /// Works out what holds when we ask for `database` ourselves, as `user`; `None` if there is no
    /// such database.
    pub(super) fn settings_as(&self, database: &str, user: &str) -> Option<PoolSettings> {
        let entry = self.database(database)?;
        let mut settings = self.settings_of(database, entry, user, user);
        if entry.user.as_deref() != Some(user) {
            // What the database says is another's.
            settings.password = self.secret(user).cloned();
        }
        Some(settings)
    }

    fn settings_of(
        &self,
        database: &str,
        entry: &Database,
        user: &str,
        server_user: &str,
    ) -> PoolSettings {
        let nobody = User::default();
        let session = self.users.get(user).unwrap_or(&nobody);
        let owner = self.users.get(server_user).unwrap_or(&nobody);
        let general = &self.general.pool;

        let size = owner.pool_size.or(entry.pool_size).unwrap_or(general.default_pool_size);
        let timeout = |user: Option<Duration>, general| unless_zero(user.unwrap_or(general));
        let password = entry.password.as_ref().or_else(|| self.secret(server_user));
        PoolSettings {
            servers: entry.servers().into(),
            load_balance: entry.load_balance_hosts,
            attrs: entry.target_session_attrs,
            dbname: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
            user: server_user.to_owned(),
            forced_user: entry.user.is_some(),
            tls: Arc::new(self.general.server_tls.with(&entry.tls)),
            password: password.cloned(),
            mode: session.pool_mode.or(entry.pool_mode).unwrap_or(self.general.pool_mode),
            size,
            min_size: entry.min_pool_size.unwrap_or(general.min_pool_size).min(size),
            reserve_size: owner
                .reserve_pool_size
                .or(entry.reserve_pool_size)
                .unwrap_or(general.reserve_pool_size),
            reserve_timeout: unless_zero(general.reserve_pool_timeout),
            max_db_connections: self.max_db_connections(entry),
            max_user_connections: self.max_user_connections(server_user),
            query_wait_timeout: timeout(
                session.query_wait_timeout.or(entry.query_wait_timeout),
                general.query_wait_timeout,
            ),
            server_lifetime: Some(entry.server_lifetime.unwrap_or(general.server_lifetime)),
            server_idle_timeout: unless_zero(general.server_idle_timeout),
            server_connect_timeout: unless_zero(general.server_connect_timeout),
            client_idle_timeout: timeout(session.client_idle_timeout, general.client_idle_timeout),
            idle_transaction_timeout: timeout(
                session.idle_transaction_timeout,
                general.idle_transaction_timeout,
            ),
            query_timeout: timeout(session.query_timeout, general.query_timeout),
            transaction_timeout: timeout(session.transaction_timeout, general.transaction_timeout),
            server_login_retry: general.server_login_retry,
            failover_timeout: timeout(entry.failover_timeout, general.failover_timeout),
            server_check_delay: general.server_check_delay,
            server_check_query: general.server_check_query.clone(),
            server_reset_query: general.server_reset_query.clone(),
            server_reset_query_always: general.server_reset_query_always,
            server_round_robin: general.server_round_robin,
            max_prepared_statements: general.max_prepared_statements,
            max_packet_size: general.max_packet_size,
            listen_queue: general.listen_queue,
            definitions: entry
                .replication
                .as_ref()
                .filter(|_| !entry.secondaries.is_empty())
                .and_then(Replication::following_rules),
            session_state: entry.session_state.unwrap_or(general.session_state),
            max_pinned_connections: bound(
                entry.max_pinned_connections.unwrap_or(general.max_pinned_connections),
            ),
        }
    }
}

impl Replication {
    /// What pools need to know; none if they need not look for definitions.
    fn following_rules(&self) -> Option<FollowingRules> {
        let (tables, exclude) = (self.tables.clone(), self.exclude.clone());
        (self.ddl != Ddl::Ignore).then_some(FollowingRules { ddl: self.ddl, tables, exclude })
    }
}

fn bound(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}
