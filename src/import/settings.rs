//! Every key of PgBouncer: how its value is written, its default, and what is lost without it.
//!
//! Names and defaults: PgBouncer 1.25 `src/main.c`, `bouncer_params`, and `src/loader.c`. Which of
//! them exist here is not listed but found out by asking our own configuration, so that a key that
//! is added there is carried over from that day on.

use std::borrow::Cow;
use std::fmt::Write;

/// How a value is written in PgBouncer, and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A whole number as `strtol` reads it: decimal, `0x` or `0` for octal.
    Integer,
    /// A number that is 0 or not.
    Boolean,
    /// Seconds with a fraction.
    Seconds,
    /// Text as it is.
    Text,
    /// A file that is found before it is written down.
    File,
    /// A word whose letters may have any case.
    Word,
    /// Words with commas.
    Words,
    /// Permissions.
    Mode,
    /// A number of server connections of which 0 means no bound.
    PoolSize,
    /// A number as `atoi` reads it, where a negative one stands for "not given".
    Count,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in PgBouncer.
    pub name: &'static str,
    /// Its name here.
    pub here: &'static str,
    /// How its value is written.
    pub shape: Shape,
    /// PgBouncer's default; empty if that is the empty text or nothing.
    pub default: &'static str,
    /// Values that say what we do anyway; `*` for all.
    pub same: &'static [&'static str],
    /// Why it is not carried over, if we do not have it.
    pub lack: &'static str,
}

const LATER: &str = "not available in this version";
const INSIDE: &str = "not needed: it tunes the inside of PgBouncer";
const CURVES: &str =
    "not available: the curves X25519, P-256 and P-384 are used, and X25519MLKEM768";
const NAMES: &str = "not needed: what is not found is looked up again for the next connection";

const fn key(name: &'static str, shape: Shape, default: &'static str) -> Setting {
    Setting { name, here: name, shape, default, same: &[], lack: LATER }
}

const fn other(
    name: &'static str,
    shape: Shape,
    same: &'static [&'static str],
    lack: &'static str,
) -> Setting {
    Setting { name, here: name, shape, default: "", same, lack }
}

const ZERO: &[&str] = &["0"];
const EMPTY: &[&str] = &[""];
const ANY: &[&str] = &["*"];

use Shape::{Boolean, Count, File, Integer, Mode, PoolSize, Seconds, Text, Word, Words};

/// The keys of `[pgbouncer]`, in the order in which they are written.
pub const GENERAL: &[Setting] = &[
    key("listen_addr", Words, ""),
    key("listen_port", Integer, "6432"),
    key("unix_socket_dir", Text, "/tmp"),
    key("unix_socket_mode", Mode, "0777"),
    other("unix_socket_group", Text, EMPTY, LATER),
    key("listen_backlog", Integer, "128"),
    other("so_reuseport", Boolean, ZERO, LATER),
    other("peer_id", Integer, ZERO, LATER),
    key("auth_type", Word, "md5"),
    key("auth_file", File, ""),
    key("auth_hba_file", File, ""),
    key("auth_ident_file", File, ""),
    other("auth_ldap_options", Text, EMPTY, LATER),
    key("auth_user", Text, ""),
    key("auth_dbname", Text, ""),
    key("auth_query", Text, ""),
    other("scram_iterations", Integer, &["4096"], "not needed: `pgtandem password --iterations`"),
    key("admin_users", Words, ""),
    key("stats_users", Words, ""),
    key("max_client_conn", Integer, "100"),
    other("max_db_client_connections", Integer, ZERO, LATER),
    other("max_user_client_connections", Integer, ZERO, LATER),
    key("ignore_startup_parameters", Words, ""),
    other(
        "track_extra_parameters",
        Words,
        ANY,
        "not needed: every parameter that the server reports is tracked",
    ),
    other("application_name_add_host", Boolean, ZERO, LATER),
    other("login_notify_message", Text, EMPTY, LATER),
    other("disable_pqexec", Boolean, ZERO, LATER),
    key("max_packet_size", Integer, "2147483647"),
    key("pool_mode", Word, "session"),
    key("default_pool_size", PoolSize, "20"),
    key("min_pool_size", Integer, "0"),
    key("reserve_pool_size", Integer, "0"),
    key("reserve_pool_timeout", Seconds, "5"),
    key("max_db_connections", Integer, "0"),
    key("max_user_connections", Integer, "0"),
    key("max_prepared_statements", Integer, "200"),
    key("server_lifetime", Seconds, "3600"),
    key("server_idle_timeout", Seconds, "600"),
    key("server_connect_timeout", Seconds, "15"),
    key("server_login_retry", Seconds, "15"),
    key("server_check_delay", Seconds, "30"),
    key("server_check_query", Text, "<empty>"),
    key("server_reset_query", Text, "DISCARD ALL"),
    key("server_reset_query_always", Boolean, "0"),
    key("server_round_robin", Boolean, "0"),
    other("server_fast_close", Boolean, ZERO, LATER),
    key("query_wait_timeout", Seconds, "120"),
    other("query_wait_notify", Integer, ZERO, LATER),
    key("query_timeout", Seconds, "0"),
    key("transaction_timeout", Seconds, "0"),
    key("idle_transaction_timeout", Seconds, "0"),
    key("client_idle_timeout", Seconds, "0"),
    key("client_login_timeout", Seconds, "60"),
    key("cancel_wait_timeout", Seconds, "10"),
    key("suspend_timeout", Seconds, "10"),
    key("autodb_idle_timeout", Seconds, "3600"),
    other("pool_idle_timeout", Seconds, ZERO, LATER),
    key("tcp_keepalive", Boolean, "1"),
    key("tcp_keepidle", Integer, "0"),
    key("tcp_keepintvl", Integer, "0"),
    key("tcp_keepcnt", Integer, "0"),
    key("tcp_user_timeout", Integer, "0"),
    other("tcp_defer_accept", Integer, ANY, INSIDE),
    other("tcp_socket_buffer", Integer, ZERO, INSIDE),
    key("logfile", Text, ""),
    key("syslog", Boolean, "0"),
    key("syslog_ident", Text, "pgbouncer"),
    key("syslog_facility", Word, "daemon"),
    key("verbose", Integer, "0"),
    key("log_connections", Boolean, "1"),
    key("log_disconnections", Boolean, "1"),
    key("log_pooler_errors", Boolean, "1"),
    key("log_stats", Boolean, "1"),
    key("stats_period", Integer, "60"),
    key("client_tls_sslmode", Word, "disable"),
    key("client_tls_key_file", Text, ""),
    key("client_tls_cert_file", Text, ""),
    key("client_tls_ca_file", Text, ""),
    key("client_tls_protocols", Text, "secure"),
    key("client_tls_ciphers", Text, "default"),
    key("client_tls13_ciphers", Text, ""),
    other("client_tls_ecdhcurve", Text, &["", "auto"], CURVES),
    other("client_tls_dheparams", Text, &["", "auto", "none"], CURVES),
    key("server_tls_sslmode", Word, "prefer"),
    key("server_tls_ca_file", Text, ""),
    key("server_tls_key_file", Text, ""),
    key("server_tls_cert_file", Text, ""),
    key("server_tls_protocols", Text, "secure"),
    key("server_tls_ciphers", Text, "default"),
    key("server_tls13_ciphers", Text, ""),
    key("dns_max_ttl", Seconds, "15"),
    other("dns_nxdomain_ttl", Seconds, ANY, NAMES),
    other("dns_zone_check_period", Seconds, ZERO, NAMES),
    other("resolv_conf", Text, EMPTY, "not available: the system's resolver is used"),
    other("pkt_buf", Integer, ANY, INSIDE),
    other("sbuf_loopcnt", Integer, ANY, INSIDE),
    other("pidfile", Text, EMPTY, "not needed: the service manager knows the process"),
    other(
        "user",
        Text,
        EMPTY,
        "not available: have the service manager start pgtandem as this user",
    ),
    other("conffile", Text, ANY, "not needed: `pgtandem --config`"),
    other("job_name", Text, ANY, "not needed"),
    other("service_name", Text, ANY, "not needed"),
];

/// The keys of a line in `[databases]`; `host`, `password` and others with meanings of their own
/// are seen to apart.
pub const DATABASE: &[Setting] = &[
    key("port", Count, ""),
    key("dbname", Text, ""),
    key("user", Text, ""),
    key("password", Text, ""),
    key("pool_mode", Word, ""),
    key("pool_size", PoolSize, ""),
    key("min_pool_size", Count, ""),
    key("reserve_pool_size", Count, ""),
    Setting { here: "reserve_pool_size", ..key("reserve_pool", Count, "") },
    key("max_db_connections", Count, ""),
    other("max_db_client_connections", Count, ZERO, LATER),
    key("server_lifetime", Seconds, ""),
    key("query_wait_timeout", Seconds, ""),
    key("auth_user", Text, ""),
    key("auth_dbname", Text, ""),
    key("auth_query", Text, ""),
    other("client_encoding", Text, EMPTY, LATER),
    other("datestyle", Text, EMPTY, LATER),
    other("timezone", Text, EMPTY, LATER),
    other("application_name", Text, EMPTY, LATER),
    other("connect_query", Text, EMPTY, LATER),
    key("load_balance_hosts", Word, ""),
];

/// The keys of a line in `[users]`.
pub const USER: &[Setting] = &[
    key("pool_mode", Word, ""),
    key("pool_size", PoolSize, ""),
    key("reserve_pool_size", Count, ""),
    Setting { here: "reserve_pool_size", ..key("reserve_pool", Count, "") },
    key("max_user_connections", Count, ""),
    other("max_user_client_connections", Count, ZERO, LATER),
    key("query_wait_timeout", Seconds, ""),
    key("query_timeout", Seconds, ""),
    key("transaction_timeout", Seconds, ""),
    key("idle_transaction_timeout", Seconds, ""),
    key("client_idle_timeout", Seconds, ""),
];

impl Setting {
    /// Says whether `value` is what we do anyway.
    pub fn is_same(&self, value: &str) -> bool {
        self.same.iter().any(|same| *same == "*" || same.eq_ignore_ascii_case(value))
    }

    /// Writes a value of PgBouncer's as TOML; `None` says that the key counts as not given.
    ///
    /// `clients_max` stands for a pool without bound: each client uses one server connection at most.
    ///
    /// # Errors
    /// Why PgBouncer would not take the value either.
    pub fn toml(&self, value: &str, clients_max: u32) -> Result<Option<String>, Cow<'static, str>> {
        let integer = || integer(value).ok_or(Cow::Borrowed("not a whole number"));
        Ok(Some(match self.shape {
            Shape::Integer => integer()?.to_string(),
            Shape::Boolean => (integer()? != 0).to_string(),
            Shape::Seconds => seconds(value).ok_or("not a number of seconds")?,
            Shape::Text | Shape::File => text(value),
            Shape::Word => text(&value.to_ascii_lowercase()),
            Shape::Words => {
                let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
                let words: Vec<String> = words.map(text).collect();
                format!("[{}]", words.join(", "))
            }
            Shape::Mode => format!("\"{:04o}\"", integer()?),
            Shape::PoolSize => match leading(value) {
                0 => clients_max.to_string(),
                size if size < 0 => return Ok(None),
                size => size.to_string(),
            },
            Shape::Count => match leading(value) {
                count if count < 0 => return Ok(None),
                count => count.to_string(),
            },
        }))
    }
}

/// Reads a number as `strtol` does with base 0, all of the text.
pub fn integer(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        (None, _) => (lower.as_str(), 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if is_negative { -number } else { number })
}

/// Reads the number that a text begins with, as `atoi` does; 0 if there is none.
fn leading(text: &str) -> i64 {
    let text = text.trim_start();
    let signs = usize::from(text.starts_with(['-', '+']));
    let digits = text.bytes().skip(signs).take_while(u8::is_ascii_digit).count();
    text.get(..signs + digits).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Writes seconds as a whole number, or as milliseconds, rounded up to one.
fn seconds(text: &str) -> Option<String> {
    /// Ten years; more than our configuration takes, which then says so.
    const SECONDS_MAX: f64 = 1e10;
    let seconds: f64 = text.trim_start().parse().ok()?;
    let is_number = (0.0..=SECONDS_MAX).contains(&seconds);
    is_number.then(|| {
        if seconds.fract() == 0.0 {
            format!("{seconds:.0}")
        } else {
            format!("\"{:.0}ms\"", (seconds * 1000.0).max(1.0))
        }
    })
}

/// Writes a value as a TOML string in which nothing stands for an environment variable.
pub fn text(text: &str) -> String {
    quoted(&text.replace("${", "$${"))
}

/// Writes a text as a TOML string.
pub fn quoted(text: &str) -> String {
    let mut written = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => written.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(written, "\\u{:04X}", u32::from(c));
            }
            c => written.push(c),
        }
    }
    written.push('"');
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        let check =
            |text: &str, expected: Option<i64>| assert_eq!(integer(text), expected, "{text}");
        check("10", Some(10));
        check(" -3", Some(-3));
        check("0x1F", Some(31));
        check("0777", Some(511));
        check("0", Some(0));
        for bad in ["", "x", "5x", "1.5", "0x", "--1", "0x-1", "99999999999999999999", "089"] {
            check(bad, None);
        }
        for (text, expected) in [("5x", 5), ("-1", -1), ("x", 0), ("", 0), (" 7 ", 7), ("+2", 2)] {
            assert_eq!(leading(text), expected, "{text}");
        }
    }

    #[test]
    fn values_become_toml() {
        let check = |shape, value: &str, expected: Option<&str>| {
            let written = key("k", shape, "").toml(value, 77).ok().flatten();
            assert_eq!(written.as_deref(), expected, "{value}");
        };
        check(Integer, "0x10", Some("16"));
        check(Integer, "many", None);
        check(Boolean, "2", Some("true"));
        check(Boolean, "yes", None);
        check(Seconds, "90", Some("90"));
        check(Seconds, "1.5", Some("\"1500ms\""));
        check(Seconds, "1e3", Some("1000"));
        check(Seconds, "0.0001", Some("\"1ms\""));
        check(Seconds, "-1", None);
        check(Seconds, "inf", None);
        check(Seconds, "5s", None);
        check(Words, "a, b ,", Some(r#"["a", "b"]"#));
        check(Words, "", Some("[]"));
        check(Mode, "0770", Some("\"0770\""));
        check(Mode, "511", Some("\"0777\""));
        check(PoolSize, "0", Some("77"));
        check(PoolSize, "-1", None);
        check(Count, "4 ", Some("4"));
        check(Word, "Session", Some("\"session\""));
        check(Text, "a\"b\\c\n", Some(r#""a\"b\\c\u000A""#));
    }

    #[test]
    fn texts_are_read_back_as_they_were() {
        for raw in ["plain", "${HOME}", "$${", "a$", "$$${x}", "\"\\\t", "ünï", "#;'"] {
            let toml = format!("[users.a]\npassword = {}\n", text(raw));
            let config = crate::config::Config::parse(&toml, "", &|_| None).unwrap();
            let password = config.users["a"].password.clone().unwrap();
            assert_eq!(password.expose(), raw.as_bytes(), "{toml}");
        }
    }

    #[test]
    fn no_key_is_named_twice() {
        for keys in [GENERAL, DATABASE, USER] {
            let mut names: Vec<_> = keys.iter().map(|setting| setting.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }
}
