//! Which columns each SHOW has: those of PgBouncer 1.18 in its order, then those that its later
//! versions have, then ours. Programs may go by place, so a column never moves.
//!
//! Source: the answers of PgBouncer 1.18; the manual of PgBouncer 1.25 for what came later.

use crate::wire::rows::{Column, Type};

const fn text(name: &'static str) -> Column {
    Column { name, kind: Type::Text }
}

const fn int(name: &'static str) -> Column {
    Column { name, kind: Type::Int4 }
}

const fn big(name: &'static str) -> Column {
    Column { name, kind: Type::Int8 }
}

const fn float(name: &'static str) -> Column {
    Column { name, kind: Type::Float8 }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: Type::Numeric }
}

pub const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    // Later versions.
    text("load_balance_hosts"),
    // Ours.
    int("cl_idle"),
    int("pool_size"),
    int("paused"),
    int("server_lost"),
];

pub const CLIENTS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    // Later versions.
    text("replication"),
    int("prepared_statements"),
    big("id"),
    // Ours.
    text("pinned"),
];

pub const SOCKETS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
    // Later versions.
    text("replication"),
    int("prepared_statements"),
    big("id"),
];

pub const STATS: &[Column] = &[
    text("database"),
    number("total_xact_count"),
    number("total_query_count"),
    number("total_received"),
    number("total_sent"),
    number("total_xact_time"),
    number("total_query_time"),
    number("total_wait_time"),
    number("avg_xact_count"),
    number("avg_query_count"),
    number("avg_recv"),
    number("avg_sent"),
    number("avg_xact_time"),
    number("avg_query_time"),
    number("avg_wait_time"),
    // Later versions.
    number("total_server_assignment_count"),
    number("total_client_parse_count"),
    number("total_server_parse_count"),
    number("total_bind_count"),
    number("total_client_login_count"),
    number("avg_server_assignment_count"),
    number("avg_client_parse_count"),
    number("avg_server_parse_count"),
    number("avg_bind_count"),
    number("avg_client_login_count"),
];

pub const STATS_TOTALS: &[Column] = &[
    text("database"),
    number("xact_count"),
    number("query_count"),
    number("bytes_received"),
    number("bytes_sent"),
    number("xact_time"),
    number("query_time"),
    number("wait_time"),
    // Later versions.
    number("server_assignment_count"),
    number("client_parse_count"),
    number("server_parse_count"),
    number("bind_count"),
    number("client_login_count"),
];

pub const STATS_AVERAGES: &[Column] = &[
    text("database"),
    number("xact_count"),
    number("query_count"),
    number("bytes_received"),
    number("bytes_sent"),
    number("xact_time"),
    number("query_time"),
    number("wait_time"),
    // Later versions; four of them have a prefix there.
    number("server_assignment_count"),
    number("avg_client_parse_count"),
    number("avg_server_parse_count"),
    number("avg_bind_count"),
    number("avg_client_login_count"),
];

pub const TOTALS: &[Column] = &[text("name"), number("value")];

pub const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool"),
    text("pool_mode"),
    int("max_connections"),
    int("current_connections"),
    int("paused"),
    int("disabled"),
    // Later versions; the first is `reserve_pool` under its new name.
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("load_balance_hosts"),
    int("max_client_connections"),
    int("current_client_connections"),
    // Ours.
    int("auto"),
    text("servers"),
    text("target_session_attrs"),
    int("failover_timeout"),
];

pub const USERS: &[Column] = &[
    text("name"),
    text("pool_mode"),
    // Later versions.
    int("pool_size"),
    int("reserve_pool_size"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

pub const LISTS: &[Column] = &[text("list"), int("items")];

pub const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];

pub const MEM: &[Column] = &[text("name"), int("size"), int("used"), int("free"), int("memtotal")];

pub const DNS_HOSTS: &[Column] = &[text("hostname"), big("ttl"), text("addrs")];

pub const DNS_ZONES: &[Column] = &[text("zonename"), big("serial"), int("count")];

pub const PEERS: &[Column] = &[int("peer_id"), text("host"), int("port"), int("pool_size")];

pub const PEER_POOLS: &[Column] = &[
    int("peer_id"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];

pub const STATE: &[Column] = &[text("key"), text("value")];

pub const VERSION: &[Column] = &[text("version")];

/// Ours: who waits, and who has what they wait for.
pub const WAITS: &[Column] = &[
    text("database"),
    text("user"),
    text("kind"),
    float("seconds"),
    text("since"),
    text("reason"),
    big("client"),
    text("addr"),
    int("port"),
    text("application_name"),
    big("server"),
    int("server_pid"),
];

/// Ours: what RELOAD would change.
pub const CHANGES: &[Column] = &[text("kind"), text("name"), text("change")];

/// Ours: how each secondary is.
pub const SECONDARIES: &[Column] = &[
    text("database"),
    text("secondary"),
    text("state"),
    float("lag_seconds"),
    big("lag_changes"),
    big("lag_bytes"),
    text("last_error"),
    text("since"),
    int("is_leader"),
    int("lag_is_estimate"),
    big("changes_applied"),
    big("batches_applied"),
    text("snapshot"),
    big("copy_tables_done"),
    big("copy_tables"),
    big("copy_rows"),
    big("copy_rows_estimate"),
    big("copy_bytes"),
    big("copy_bytes_estimate"),
    float("copy_seconds"),
    text("verify_table"),
    big("verify_tables_done"),
    big("verify_tables"),
    big("verify_rows"),
    big("verify_rows_estimate"),
    big("verify_rows_different"),
    float("verify_seconds_left"),
    int("is_configured"),
    big("copy_objects_done"),
    big("copy_objects"),
];

/// Ours: what is captured on each primary.
pub const REPLICATION: &[Column] = &[
    text("database"),
    text("capture"),
    big("log_bytes"),
    big("log_limit_bytes"),
    float("log_age_seconds"),
    float("log_limit_age_seconds"),
    big("tables"),
    int("tables_refused"),
    text("refused"),
    int("secondaries"),
    int("in_sync"),
    text("consistency"),
    text("group_id"),
    text("last_error"),
    float("seen_seconds"),
];

/// Ours: rows of secondaries that are known to differ.
pub const DIVERGENCE: &[Column] = &[
    text("database"),
    text("secondary"),
    text("table"),
    text("key"),
    text("kind"),
    text("snapshot"),
    text("found_at"),
];

/// Ours: what VERIFY has found, by table.
pub const VERIFIED: &[Column] = &[
    text("database"),
    text("secondary"),
    text("table"),
    text("verdict"),
    big("rows"),
    big("missing"),
    big("extra"),
    big("different"),
    text("detail"),
    text("snapshot"),
    float("seconds"),
];

/// Ours: what REPAIR has done.
pub const REPAIRED: &[Column] = &[
    text("database"),
    text("secondary"),
    text("table"),
    text("verdict"),
    big("deleted"),
    big("updated"),
    big("inserted"),
    text("detail"),
];
