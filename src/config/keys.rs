//! The keys of `proxy.toml`: the code that reads a section is the list of its keys and defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::checked::{
    ANY_DATABASE, AuthType, Capture, Config, Consistency, DEFAULT_PORT, Database, Ddl, General,
    LogFormat, Logging, Metrics, PoolDefaults, PoolMode, Replication, Secondary, SessionState,
    User, is_reserved,
};
use super::kind::Kind;
use super::problem::{Reason, Unavailable};
use super::raw::{Section, Walk, is_section, join};
use super::read::{self, BACKENDS_MAX};
use super::servers::{Host, LoadBalance, SessionAttrs};
use super::{auth, tls};

const SECOND: Duration = Duration::from_secs(1);

/// Clients that can be allowed at a time; far above what one machine has memory for.
const CLIENTS_MAX: u32 = 10_000_000;

/// Named statements per backend; each costs the server memory.
const STATEMENTS_MAX: u32 = 100_000;

/// The smallest bound on a message that still lets ordinary queries pass.
const PACKET_MIN: u32 = 1024;

/// One notification has up to 8 KiB.
const LISTEN_QUEUE_MIN: u32 = 16 << 10;

const LISTEN_QUEUE: u32 = 1 << 20;

/// The greatest length a message can have: the protocol's length word is signed.
const PACKET_MAX: u32 = 0x7fff_ffff;

/// The greatest backlog; the system lowers it to its own bound.
const BACKLOG_MAX: u32 = 65_535;

const HOUR: Duration = Duration::from_hours(1);

/// Changes of one batch that can be held in memory.
const BATCH_ROWS_MAX: u32 = 1_000_000;

/// Bytes of one batch that can be held in memory.
const BATCH_BYTES: RangeInclusive<u32> = 64 << 10..=1 << 30;

/// Tables that can be copied at a time.
const COPY_WORKERS_MAX: u32 = 64;
const VERIFY_RATE_MAX: u32 = 1_000_000_000;

/// Connections to a secondary: one applies, and something else must be possible beside it.
const SECONDARY_POOL: RangeInclusive<u32> = 2..=1_000;
/// Higher levels of PgBouncer's mean no more than 2.
const VERBOSE_MAX: u32 = 9;

/// Reads the whole file.
pub(super) fn config<'a>(walk: &mut Walk<'a>, root: &DeTable<'a>) -> Config {
    let mut config = Config::default();
    for (key, value) in root {
        let name = key.get_ref().as_ref();
        let path = join("", name);
        walk.remember(&path, key.span().start);
        match name {
            "general" => {
                if let Some(table) = walk.section(&path, value.get_ref()) {
                    config.general = read_section(walk, path, table, Kind::General, general);
                }
            }
            "metrics" => {
                if let Some(table) = walk.section(&path, value.get_ref()) {
                    config.metrics = read_section(walk, path, table, Kind::Metrics, metrics);
                }
            }
            "databases" => {
                config.databases =
                    read_each(walk, &path, value.get_ref(), Kind::Database, database);
            }
            "users" => config.users = read_each(walk, &path, value.get_ref(), Kind::User, user),
            _ => walk.report(path, Kind::Root.explain(name, is_section(value))),
        }
    }
    if !root.iter().any(|(key, _)| key.get_ref().as_ref() == "general") {
        // Keys may have been set by hand although the file has no such section.
        let mut section = Section::new(walk, "general".to_owned(), None);
        config.general = general(&mut section);
        section.finish(|key, is_section| Kind::General.explain(key, is_section));
    }
    check_names(walk, &config);
    config
}

/// Reads the sections below `[databases]` or `[users]`.
fn read_each<'a, T>(
    walk: &mut Walk<'a>,
    path: &str,
    value: &DeValue<'a>,
    kind: Kind,
    read: fn(&mut Section<'_, 'a>) -> T,
) -> BTreeMap<String, T> {
    let mut entries = BTreeMap::new();
    for (key, value) in walk.section(path, value).into_iter().flatten() {
        let name = key.get_ref().as_ref();
        let path = join(path, name);
        walk.remember(&path, key.span().start);
        if let Some(table) = walk.section(&path, value.get_ref()) {
            entries.insert(name.to_owned(), read_section(walk, path, table, kind, read));
        }
    }
    entries
}

fn read_section<'a, T>(
    walk: &mut Walk<'a>,
    path: String,
    table: &DeTable<'a>,
    kind: Kind,
    read: fn(&mut Section<'_, 'a>) -> T,
) -> T {
    let mut section = Section::new(walk, path, Some(table));
    let read = read(&mut section);
    section.finish(|key, is_section| kind.explain(key, is_section));
    read
}

pub(super) fn general(section: &mut Section<'_, '_>) -> General {
    General {
        listen_addr: section.get("listen_addr", vec!["127.0.0.1".to_owned()], read::addresses),
        listen_port: section.get("listen_port", 6432, read::listen_port),
        unix_socket_dir: section.get(
            "unix_socket_dir",
            Some(PathBuf::from("/tmp")),
            read::socket_dir,
        ),
        unix_socket_mode: section.get("unix_socket_mode", 0o777, read::file_mode),
        listen_backlog: section.get("listen_backlog", 1024, read::count(1..=BACKLOG_MAX)),
        workers: section.get("workers", 0, read::thread_count),
        pool_mode: section.get("pool_mode", PoolMode::Transaction, read::pool_mode),
        proxy_protocol_from: section.get("proxy_protocol_from", vec![], read::networks),
        auth_type: section.get("auth_type", AuthType::ScramSha256, read::auth_type),
        auth: auth::general(section),
        max_client_conn: section.get("max_client_conn", 10_000, read::count(1..=CLIENTS_MAX)),
        client_login_timeout: section.get("client_login_timeout", Some(60 * SECOND), read::timeout),
        cancel_wait_timeout: section.get("cancel_wait_timeout", Some(10 * SECOND), read::timeout),
        suspend_timeout: section.get("suspend_timeout", 10 * SECOND, read::duration),
        dns_max_ttl: section.get("dns_max_ttl", 15 * SECOND, read::duration),
        server_role_check_period: section.get(
            "server_role_check_period",
            Some(10 * SECOND),
            read::period_or_never,
        ),
        autodb_idle_timeout: section.get("autodb_idle_timeout", Some(3600 * SECOND), read::timeout),
        tcp_keepalive: section.get("tcp_keepalive", true, read::boolean),
        tcp_keepidle: section.get("tcp_keepidle", None, read::keepalive),
        tcp_keepintvl: section.get("tcp_keepintvl", None, read::keepalive),
        tcp_keepcnt: section.get("tcp_keepcnt", None, read::keepalive_count),
        tcp_user_timeout: section.get("tcp_user_timeout", None, read::timeout_millis),
        ignore_startup_parameters: section.get(
            "ignore_startup_parameters",
            vec!["extra_float_digits".to_owned()],
            read::words,
        ),
        admin_users: section.get("admin_users", vec![], read::words),
        stats_users: section.get("stats_users", vec![], read::words),
        log_level: section.get("log_level", "info".to_owned(), read::log_filter),
        log_connections: section.get("log_connections", true, read::boolean),
        log_disconnections: section.get("log_disconnections", true, read::boolean),
        log: logging(section),
        stats_period: section.get("stats_period", 60 * SECOND, read::period),
        shutdown_timeout: section.get("shutdown_timeout", None, read::timeout),
        client_tls: tls::client(section),
        server_tls: tls::server(section),
        pool: pool_defaults(section),
    }
}

fn logging(section: &mut Section<'_, '_>) -> Logging {
    Logging {
        log_format: section.get("log_format", LogFormat::Text, read::log_format),
        logfile: section.get("logfile", None, read::file),
        syslog: section.get("syslog", false, read::boolean),
        syslog_ident: section.get("syslog_ident", "pgtandem".to_owned(), read::name),
        syslog_facility: section.get("syslog_facility", "daemon".to_owned(), read::facility),
        verbose: section.get("verbose", 0, read::count(0..=VERBOSE_MAX)),
        log_pooler_errors: section.get("log_pooler_errors", true, read::boolean),
        log_stats: section.get("log_stats", true, read::boolean),
    }
}

/// Where monitoring systems look by default: on this machine only.
const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9930);

pub(super) fn metrics(section: &mut Section<'_, '_>) -> Metrics {
    Metrics { listen: section.get("listen", Some(METRICS_ADDRESS), read::socket_address) }
}

fn pool_defaults(section: &mut Section<'_, '_>) -> PoolDefaults {
    let backends = || read::count(0..=BACKENDS_MAX);
    PoolDefaults {
        default_pool_size: section.get("default_pool_size", 20, read::pool_size),
        min_pool_size: section.get("min_pool_size", 0, backends()),
        reserve_pool_size: section.get("reserve_pool_size", 0, backends()),
        reserve_pool_timeout: section.get("reserve_pool_timeout", 5 * SECOND, read::duration),
        max_db_connections: section.get("max_db_connections", 0, backends()),
        max_user_connections: section.get("max_user_connections", 0, backends()),
        query_wait_timeout: section.get("query_wait_timeout", 120 * SECOND, read::duration),
        server_lifetime: section.get("server_lifetime", 3600 * SECOND, read::duration),
        server_idle_timeout: section.get("server_idle_timeout", 600 * SECOND, read::duration),
        server_connect_timeout: section.get("server_connect_timeout", 15 * SECOND, read::duration),
        server_login_retry: section.get("server_login_retry", 15 * SECOND, read::duration),
        failover_timeout: section.get("failover_timeout", Duration::ZERO, read::duration),
        server_check_delay: section.get("server_check_delay", 30 * SECOND, read::duration),
        server_check_query: section.get("server_check_query", String::new(), read::text),
        server_reset_query: section.get("server_reset_query", "DISCARD ALL".to_owned(), read::text),
        server_reset_query_always: section.get("server_reset_query_always", false, read::boolean),
        server_round_robin: section.get("server_round_robin", false, read::boolean),
        client_idle_timeout: section.get("client_idle_timeout", Duration::ZERO, read::duration),
        idle_transaction_timeout: section.get(
            "idle_transaction_timeout",
            Duration::ZERO,
            read::duration,
        ),
        query_timeout: section.get("query_timeout", Duration::ZERO, read::duration),
        transaction_timeout: section.get("transaction_timeout", Duration::ZERO, read::duration),
        max_prepared_statements: section.get(
            "max_prepared_statements",
            200,
            read::count(0..=STATEMENTS_MAX),
        ),
        max_packet_size: section.get(
            "max_packet_size",
            PACKET_MAX,
            read::size(PACKET_MIN..=PACKET_MAX),
        ),
        listen_queue: section.get(
            "listen_queue",
            LISTEN_QUEUE,
            read::size(LISTEN_QUEUE_MIN..=PACKET_MAX),
        ),
        session_state: section.get("session_state", SessionState::Track, read::session_state),
        max_pinned_connections: section.get("max_pinned_connections", 0, backends()),
    }
}

pub(super) fn database(section: &mut Section<'_, '_>) -> Database {
    let backends = || read::count(0..=BACKENDS_MAX);
    Database {
        host: section.get("host", vec![Host::Tcp("127.0.0.1".to_owned())], read::hosts),
        port: section.get("port", vec![DEFAULT_PORT], read::ports),
        load_balance_hosts: section.get(
            "load_balance_hosts",
            LoadBalance::RoundRobin,
            read::load_balance,
        ),
        target_session_attrs: section.get(
            "target_session_attrs",
            SessionAttrs::Any,
            read::session_attrs,
        ),
        dbname: section.find("dbname", read::name),
        user: section.find("user", read::name),
        password: section.find("password", read::password),
        pool_mode: section.find("pool_mode", read::pool_mode),
        pool_size: section.find("pool_size", read::pool_size),
        min_pool_size: section.find("min_pool_size", backends()),
        reserve_pool_size: section.find("reserve_pool_size", backends()),
        max_db_connections: section.find("max_db_connections", backends()),
        server_lifetime: section.find("server_lifetime", read::duration),
        query_wait_timeout: section.find("query_wait_timeout", read::duration),
        failover_timeout: section.find("failover_timeout", read::duration),
        session_state: section.find("session_state", read::session_state),
        max_pinned_connections: section.find("max_pinned_connections", backends()),
        auth: auth::database(section),
        tls: tls::database(section),
        replication: section.below("replication").and_then(|(walk, below)| {
            let table = walk.section(&below.path, below.value)?;
            Some(read_section(walk, below.path, table, Kind::Replication, replication))
        }),
        secondaries: section.below("secondaries").map_or_else(BTreeMap::new, |(walk, below)| {
            read_each(walk, &below.path, below.value, Kind::Secondary, secondary)
        }),
    }
}

pub(super) fn replication(section: &mut Section<'_, '_>) -> Replication {
    let pattern = |pattern: &str| vec![pattern.to_owned()];
    Replication {
        consistency: section.get("consistency", Consistency::Async, read::consistency),
        capture: section.get("capture", Capture::Trigger, read::capture),
        admin_user: section.find("admin_user", read::name),
        admin_password: section.find("admin_password", read::password),
        auto: section.get("auto", true, read::boolean),
        tables: section.get("tables", pattern("*.*"), read::table_patterns),
        exclude: section.get("exclude", vec![], read::table_patterns),
        ddl: section.get("ddl", Ddl::Follow, read::ddl),
        poll_interval: section.get("poll_interval", Duration::from_millis(50), read::duration),
        batch_rows: section.get("batch_rows", 500_000, read::count(1..=BATCH_ROWS_MAX)),
        batch_bytes: section.get("batch_bytes", 128 << 20, read::size(BATCH_BYTES)),
        copy_workers: section.get("copy_workers", 2, read::count(1..=COPY_WORKERS_MAX)),
        pg_dump: section.get("pg_dump", None, read::file),
        log_limit_bytes: section.get("log_limit_bytes", 8 << 30, read::large_size),
        log_limit_age: section.get("log_limit_age", 24 * HOUR, read::duration),
        verify_interval: section.get("verify_interval", 24 * HOUR, read::duration),
        verify_rate: section.get("verify_rate", 0, read::count(0..=VERIFY_RATE_MAX)),
    }
}

pub(super) fn secondary(section: &mut Section<'_, '_>) -> Secondary {
    Secondary {
        host: section.get("host", Host::Tcp("127.0.0.1".to_owned()), read::host),
        port: section.get("port", DEFAULT_PORT, read::port),
        dbname: section.find("dbname", read::name),
        user: section.find("user", read::name),
        password: section.find("password", read::password),
        pool_size: section.get("pool_size", 4, read::count(SECONDARY_POOL)),
    }
}

pub(super) fn user(section: &mut Section<'_, '_>) -> User {
    let backends = || read::count(0..=BACKENDS_MAX);
    User {
        password: section.find("password", read::password),
        pool_mode: section.find("pool_mode", read::pool_mode),
        pool_size: section.find("pool_size", read::pool_size),
        reserve_pool_size: section.find("reserve_pool_size", backends()),
        max_user_connections: section.find("max_user_connections", backends()),
        query_timeout: section.find("query_timeout", read::duration),
        query_wait_timeout: section.find("query_wait_timeout", read::duration),
        idle_transaction_timeout: section.find("idle_transaction_timeout", read::duration),
        transaction_timeout: section.find("transaction_timeout", read::duration),
        client_idle_timeout: section.find("client_idle_timeout", read::duration),
    }
}

impl Default for General {
    fn default() -> Self {
        let mut walk = Walk::new("", "", &|_| None);
        general(&mut Section::new(&mut walk, String::new(), None))
    }
}

impl Default for Replication {
    fn default() -> Self {
        let mut walk = Walk::new("", "", &|_| None);
        replication(&mut Section::new(&mut walk, String::new(), None))
    }
}

impl Default for Secondary {
    fn default() -> Self {
        let mut walk = Walk::new("", "", &|_| None);
        secondary(&mut Section::new(&mut walk, String::new(), None))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut walk = Walk::new("", "", &|_| None);
        metrics(&mut Section::new(&mut walk, String::new(), None))
    }
}

impl Default for Database {
    fn default() -> Self {
        let mut walk = Walk::new("", "", &|_| None);
        database(&mut Section::new(&mut walk, String::new(), None))
    }
}

/// Checks the names that sections have.
fn check_names(walk: &mut Walk<'_>, config: &Config) {
    let databases = config.databases.keys().map(|name| ("databases", name));
    let users = config.users.keys().map(|name| ("users", name));
    for (kind, name) in databases.chain(users) {
        let path = join(kind, name);
        if name.is_empty() {
            walk.report(path, Reason::Empty);
        } else if name.contains('\0') {
            walk.report(path, Reason::Nul);
        } else if kind == "databases" && is_reserved(name) {
            walk.report(path, Reason::ReservedName);
        } else if kind == "users" && name == ANY_DATABASE {
            let phrase = "a section for all other users is".to_owned();
            walk.report(path, Reason::Unavailable(Unavailable::Value(phrase)));
        }
    }
}

/// Checks keys against each other; says nothing about keys that have a problem of their own.
pub(super) fn check_together(walk: &mut Walk<'_>, config: &Config) {
    let general = &config.general;
    if general.listen_addr.is_empty()
        && general.unix_socket_dir.is_none()
        && walk.is_clean("general.listen_addr")
        && walk.is_clean("general.unix_socket_dir")
    {
        walk.report("general.listen_addr".to_owned(), Reason::NothingToListenOn);
    }
    let pool = &general.pool;
    check_min(walk, "general", "default_pool_size", pool.min_pool_size, pool.default_pool_size);
    for (name, database) in &config.databases {
        check_replication(walk, name, database);
        check_servers(walk, name, database);
        if database.min_pool_size.is_some() || database.pool_size.is_some() {
            let min = database.min_pool_size.unwrap_or(pool.min_pool_size);
            let size = database.pool_size.unwrap_or(pool.default_pool_size);
            check_min(walk, &join("databases", name), "pool_size", min, size);
        }
    }
    auth::check_together(walk, config);
    tls::check_together(walk, config);
}

/// Checks that there is a port for each host, or one for all.
fn check_servers(walk: &mut Walk<'_>, name: &str, database: &Database) {
    let (hosts, ports) = (database.host.len(), database.port.len());
    let path = |key| join(&join("databases", name), key);
    if ports != 1 && ports != hosts && walk.is_clean(&path("host")) && walk.is_clean(&path("port"))
    {
        walk.report(path("port"), Reason::PortsOfHosts { hosts, ports });
    }
}

/// Checks that replication and secondaries are there together, for one database by its name.
fn check_replication(walk: &mut Walk<'_>, name: &str, database: &Database) {
    let path = |key| join(&join("databases", name), key);
    let has_secondaries = !database.secondaries.is_empty();
    if name == ANY_DATABASE && (database.replication.is_some() || has_secondaries) {
        let key = if has_secondaries { "secondaries" } else { "replication" };
        walk.report(path(key), Reason::ReplicationOfAny);
    } else if has_secondaries && database.replication.is_none() && walk.is_all_clean() {
        walk.report(path("secondaries"), Reason::SecondariesAlone);
    } else if let Some(replication) = &database.replication
        && replication.admin_user.is_none()
        && database.user.is_none()
        && walk.is_all_clean()
    {
        walk.report(join(&path("replication"), "admin_user"), Reason::NoAdminUser);
    }
    for secondary in database.secondaries.keys().filter(|name| name.is_empty()) {
        walk.report(join(&path("secondaries"), secondary), Reason::Empty);
    }
}

fn check_min(walk: &mut Walk<'_>, section: &str, size_key: &str, min: u32, size: u32) {
    let path = join(section, "min_pool_size");
    let keys = [
        path.as_str(),
        &join(section, size_key),
        "general.min_pool_size",
        "general.default_pool_size",
    ];
    if min > size && keys.iter().all(|key| walk.is_clean(key)) {
        walk.report(path, Reason::MinAboveSize { min, size });
    }
}
