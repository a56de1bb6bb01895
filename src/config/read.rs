//! Readers: each checks a [`Value`] for one kind of key, and says why it does not fit.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checked::{AuthType, Capture, Consistency, Ddl, LogFormat, PoolMode, SessionState};
use super::network::Network;
use super::problem::{Hint, Reason, Unavailable};
use super::servers::{Host, LoadBalance, SessionAttrs};
use super::suggest;
use super::units;
use super::value::Value;
use crate::secret::Secret;

/// The size of `sockaddr_un::sun_path` on Linux, without the terminator.
const SOCKET_PATH_MAX: usize = 107;

/// The longest name PostgreSQL gives a socket, with the `/` in front.
const SOCKET_NAME_LEN: usize = "/.s.PGSQL.65535".len();

/// DNS allows 253; a bound keeps nonsense out of error messages.
const HOST_LEN_MAX: usize = 255;

/// LIMIT: servers of one database; each may be tried for every connection.
const SERVERS_MAX: usize = 32;

/// The greatest number of connections that makes sense: PostgreSQL's `MAX_BACKENDS`, 2^18 - 1.
pub(super) const BACKENDS_MAX: u32 = 262_143;

/// What every SCRAM secret begins with.
pub(super) const SCRAM_PREFIX: &[u8] = b"SCRAM-SHA-256$";

pub(super) fn text(value: &Value) -> Result<String, Reason> {
    let Value::Text { text, .. } = value else {
        return Err(value.wrong_type("a string"));
    };
    Ok(text.to_string())
}

pub(super) fn name(value: &Value) -> Result<String, Reason> {
    let text = text(value)?;
    if text.is_empty() { Err(Reason::Empty) } else { Ok(text) }
}

pub(super) fn boolean(value: &Value) -> Result<bool, Reason> {
    const EXPECTED: &str = "true or false";
    if let Value::Text { text, from_env: true } = value {
        let malformed = |_| Reason::Malformed { found: text.to_string(), expected: EXPECTED };
        return match text.trim() {
            // As PgBouncer writes them.
            "1" => Ok(true),
            "0" => Ok(false),
            text => text.parse().map_err(malformed),
        };
    }
    let Value::Bool(boolean) = value else {
        return Err(value.wrong_type(EXPECTED));
    };
    Ok(*boolean)
}

/// A list of words: a TOML array, or one string with commas.
pub(super) fn words(value: &Value) -> Result<Vec<String>, Reason> {
    if let Value::List(values) = value {
        return values.iter().map(name).collect();
    }
    let Value::Text { text, .. } = value else {
        return Err(value.wrong_type("a list of strings, or a string with commas"));
    };
    Ok(text.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect())
}

/// Patterns of tables with their schemas.
pub(super) fn table_patterns(value: &Value) -> Result<Vec<String>, Reason> {
    let patterns = words(value)?;
    match patterns.iter().find(|pattern| !pattern.contains('.')) {
        None => Ok(patterns),
        Some(pattern) => Err(Reason::Malformed {
            found: pattern.clone(),
            expected: "a pattern of tables such as \"public.orders\" or \"shop.*\"",
        }),
    }
}

/// Addresses to listen on: `*`, IP addresses, host names.
pub(super) fn addresses(value: &Value) -> Result<Vec<String>, Reason> {
    let addresses = words(value)?;
    match addresses.iter().find(|address| *address != "*" && !is_host(address)) {
        None => Ok(addresses),
        Some(address) => Err(Reason::Malformed {
            found: address.clone(),
            expected: "an address to listen on, such as \"127.0.0.1\", \"::1\" or \"*\"",
        }),
    }
}

/// Networks, or single addresses.
pub(super) fn networks(value: &Value) -> Result<Vec<Network>, Reason> {
    let read = |word: String| {
        Network::parse(&word).ok_or(Reason::Malformed {
            found: word,
            expected: "an IP address or a network such as \"10.0.0.0/8\" or \"::1\"",
        })
    };
    words(value)?.into_iter().map(read).collect()
}

/// An IP address and a port; empty is none.
pub(super) fn socket_address(value: &Value) -> Result<Option<SocketAddr>, Reason> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Reason::Malformed {
        found: text,
        expected: "an IP address and a port, such as \"127.0.0.1:9930\" or \"[::]:9930\"",
    })
}

fn integer(value: &Value) -> Result<i64, Reason> {
    const EXPECTED: &str = "a whole number";
    if let Value::Text { text, from_env: true } = value {
        let malformed = |_| Reason::Malformed { found: text.to_string(), expected: EXPECTED };
        return text.trim().parse().map_err(malformed);
    }
    let Value::Integer { number, .. } = value else {
        return Err(value.wrong_type(EXPECTED));
    };
    Ok(*number)
}

/// A whole number in `range`.
pub(super) fn count(range: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<u32, Reason> {
    move |value| {
        let number = integer(value)?;
        u32::try_from(number)
            .ok()
            .filter(|n| range.contains(n))
            .ok_or_else(|| out_of_range(&number, range.start(), range.end()))
    }
}

fn out_of_range(found: &impl ToString, min: &impl Display, max: &impl Display) -> Reason {
    Reason::OutOfRange { found: found.to_string(), expected: format!("{min} to {max}") }
}

/// A pool size, which has to be a bound.
pub(super) fn pool_size(value: &Value) -> Result<u32, Reason> {
    match integer(value)? {
        0 => Err(Reason::UnlimitedPool),
        _ => count(1..=BACKENDS_MAX)(value),
    }
}

pub(super) fn port(value: &Value) -> Result<u16, Reason> {
    port_from(value, 1)
}

/// Ports of servers: a number, a list of numbers, or one string with commas.
pub(super) fn ports(value: &Value) -> Result<Vec<u16>, Reason> {
    const EXPECTED: &str = "a whole number, or a list of them";
    let ports = match value {
        Value::List(values) => values.iter().map(port).collect::<Result<Vec<_>, _>>()?,
        Value::Text { text, .. } => {
            let malformed = |_| Reason::Malformed { found: text.to_string(), expected: EXPECTED };
            let number = |word: &str| word.trim().parse().map_err(malformed);
            let port = |number: i64| port(&Value::Integer { number, radix: 10 });
            text.split(',').map(|word| number(word).and_then(port)).collect::<Result<_, _>>()?
        }
        Value::Integer { .. } => vec![port(value)?],
        Value::Float(_) | Value::Bool(_) | Value::Other(_) => {
            return Err(value.wrong_type(EXPECTED));
        }
    };
    at_most_servers(ports)
}

/// A port to listen on; 0 lets the system choose.
pub(super) fn listen_port(value: &Value) -> Result<u16, Reason> {
    port_from(value, 0)
}

fn port_from(value: &Value, min: u16) -> Result<u16, Reason> {
    let number = integer(value)?;
    u16::try_from(number)
        .ok()
        .filter(|&port| port >= min)
        .ok_or_else(|| out_of_range(&number, &min, &u16::MAX))
}

pub(super) fn thread_count(value: &Value) -> Result<usize, Reason> {
    const THREADS_MAX: usize = 1024;
    let number = integer(value)?;
    usize::try_from(number)
        .ok()
        .filter(|&n| n <= THREADS_MAX)
        .ok_or_else(|| out_of_range(&number, &0, &THREADS_MAX))
}

/// A duration; a bare number counts seconds.
pub(super) fn duration(value: &Value) -> Result<Duration, Reason> {
    duration_in(value, Duration::from_secs(1))
}

/// A duration; a bare number counts milliseconds, as PgBouncer does for `tcp_user_timeout`.
pub(super) fn duration_millis(value: &Value) -> Result<Duration, Reason> {
    duration_in(value, Duration::from_millis(1))
}

fn duration_in(value: &Value, unit: Duration) -> Result<Duration, Reason> {
    match value {
        Value::Text { text, .. } => units::duration_from_text(text, unit),
        Value::Integer { number, .. } => units::duration_from_integer(*number, unit),
        Value::Float(number) => units::duration_from_float(*number, unit),
        Value::Bool(_) | Value::List(_) | Value::Other(_) => {
            Err(value.wrong_type("a duration such as 30 or \"250ms\""))
        }
    }
}

/// A duration that can be switched off with 0.
pub(super) fn timeout(value: &Value) -> Result<Option<Duration>, Reason> {
    duration(value).map(unless_zero)
}

/// A duration between things that are done again and again: not shorter than a second.
pub(super) fn period(value: &Value) -> Result<Duration, Reason> {
    let period = duration(value)?;
    if period < Duration::from_secs(1) {
        let found = format!("{period:?}");
        return Err(Reason::OutOfRange { found, expected: "1s to 3650d".to_owned() });
    }
    Ok(period)
}

/// As [`period`], or 0 for never.
pub(super) fn period_or_never(value: &Value) -> Result<Option<Duration>, Reason> {
    if duration(value)?.is_zero() { Ok(None) } else { period(value).map(Some) }
}

/// As [`timeout`], a bare number counting milliseconds.
pub(super) fn timeout_millis(value: &Value) -> Result<Option<Duration>, Reason> {
    duration_millis(value).map(unless_zero)
}

/// A TCP keepalive time, which the kernel takes in whole seconds; 0 leaves the choice to it.
pub(super) fn keepalive(value: &Value) -> Result<Option<Duration>, Reason> {
    /// Linux: `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`.
    const SECONDS_MAX: u64 = 32_767;
    let duration = duration(value)?;
    if duration.subsec_nanos() != 0 || duration.as_secs() > SECONDS_MAX {
        return Err(Reason::OutOfRange {
            found: format!("{duration:?}"),
            expected: format!("whole seconds, 0 to {SECONDS_MAX}"),
        });
    }
    Ok(unless_zero(duration))
}

/// The number of lost keepalive probes; 0 leaves the choice to the kernel.
pub(super) fn keepalive_count(value: &Value) -> Result<Option<u32>, Reason> {
    /// Linux: `MAX_TCP_KEEPCNT`.
    const PROBES_MAX: u32 = 127;
    count(0..=PROBES_MAX)(value).map(|count| (count > 0).then_some(count))
}

pub(super) fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// A size in `range` bytes; a bare number counts bytes.
pub(super) fn size(range: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<u32, Reason> {
    move |value| {
        let (found, bytes) = if let Value::Text { text, .. } = value {
            (text.to_string(), Some(units::size_from_text(text)?))
        } else if let Value::Integer { number, .. } = value {
            (number.to_string(), u64::try_from(*number).ok())
        } else {
            return Err(value.wrong_type("a size such as 65536 or \"64KiB\""));
        };
        bytes
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| out_of_range(&found, range.start(), range.end()))
    }
}

/// A size without a bound of ours; a bare number counts bytes.
pub(super) fn large_size(value: &Value) -> Result<u64, Reason> {
    /// As far as TOML's integers reach.
    const MAX: u64 = i64::MAX.unsigned_abs();
    let (found, bytes) = if let Value::Text { text, .. } = value {
        (text.to_string(), Some(units::size_from_text(text)?))
    } else if let Value::Integer { number, .. } = value {
        (number.to_string(), u64::try_from(*number).ok())
    } else {
        return Err(value.wrong_type("a size such as 65536 or \"8GiB\""));
    };
    bytes.filter(|bytes| *bytes <= MAX).ok_or_else(|| out_of_range(&found, &0, &MAX))
}

/// File permissions, in octal as `chmod` takes them: `"0777"` or `0o777`.
pub(super) fn file_mode(value: &Value) -> Result<u32, Reason> {
    const EXPECTED: &str = "an octal mode such as \"0770\"";
    const MODE_MAX: u32 = 0o777;
    let malformed = |found: String| Reason::Malformed { found, expected: EXPECTED };
    let mode = match value {
        Value::Text { text, .. } => {
            u32::from_str_radix(text, 8).map_err(|_| malformed(text.to_string()))?
        }
        Value::Integer { number, radix: 8 } => u32::try_from(*number).unwrap_or(u32::MAX),
        // 777 in decimal would be 0o1411; nobody means that.
        Value::Integer { number, .. } => return Err(malformed(number.to_string())),
        Value::Float(_) | Value::Bool(_) | Value::List(_) | Value::Other(_) => {
            return Err(value.wrong_type(EXPECTED));
        }
    };
    if mode > MODE_MAX {
        return Err(Reason::OutOfRange {
            found: format!("{mode:#o}"),
            expected: format!("0o0 to {MODE_MAX:#o}"),
        });
    }
    Ok(mode)
}

/// A directory for sockets of ours; empty means none.
pub(super) fn socket_dir(value: &Value) -> Result<Option<PathBuf>, Reason> {
    let text = text(value)?;
    if text.is_empty() { Ok(None) } else { checked_socket_dir(&text).map(Some) }
}

fn checked_socket_dir(text: &str) -> Result<PathBuf, Reason> {
    if text.starts_with('@') {
        return Err(unavailable("an abstract socket is"));
    }
    if !Path::new(text).is_absolute() {
        return Err(Reason::Malformed {
            found: text.to_owned(),
            expected: "an absolute path such as \"/run/postgresql\"",
        });
    }
    let bytes = text.trim_end_matches('/').len() + SOCKET_NAME_LEN;
    if bytes > SOCKET_PATH_MAX {
        return Err(Reason::SocketPathTooLong { bytes, max: SOCKET_PATH_MAX });
    }
    Ok(PathBuf::from(text))
}

/// Where servers are: as [`host`], a list of such, or one string with commas.
pub(super) fn hosts(value: &Value) -> Result<Vec<Host>, Reason> {
    let hosts = match value {
        Value::List(values) => values.iter().map(host).collect::<Result<Vec<_>, _>>()?,
        Value::Text { .. } => {
            name(value)?.split(',').map(|word| host_of(word.trim())).collect::<Result<_, _>>()?
        }
        Value::Integer { .. } | Value::Float(_) | Value::Bool(_) | Value::Other(_) => {
            return Err(value.wrong_type("a string, or a list of strings"));
        }
    };
    at_most_servers(hosts)
}

fn at_most_servers<T>(list: Vec<T>) -> Result<Vec<T>, Reason> {
    if list.is_empty() {
        return Err(Reason::Empty);
    }
    if list.len() > SERVERS_MAX {
        let found = format!("a list of {}", list.len());
        return Err(Reason::OutOfRange { found, expected: format!("at most {SERVERS_MAX}") });
    }
    Ok(list)
}

/// Where a server is: a host name, an IP address, or the directory of its Unix socket.
pub(super) fn host(value: &Value) -> Result<Host, Reason> {
    host_of(&name(value)?)
}

fn host_of(text: &str) -> Result<Host, Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.starts_with(['/', '@']) {
        return checked_socket_dir(text).map(Host::Unix);
    }
    if is_host(text) {
        return Ok(Host::Tcp(text.to_owned()));
    }
    Err(Reason::Malformed {
        found: text.to_owned(),
        expected: "a host name, an IP address or an absolute path; the port has its own key",
    })
}

/// Accepts a host name or an IP address, without looking it up.
fn is_host(text: &str) -> bool {
    let is_address = text.parse::<IpAddr>().is_ok();
    // `fe80::1%eth0` names an interface; a colon is otherwise a port that does not belong here.
    let is_scoped = text
        .split_once('%')
        .is_some_and(|(address, zone)| address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty());
    let is_name = text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.len() <= HOST_LEN_MAX && (is_address || is_scoped || is_name)
}

/// A password: plain, `md5…` or `SCRAM-SHA-256$…`. Its text appears in no [`Reason`].
pub(super) fn password(value: &Value) -> Result<Secret, Reason> {
    let Value::Text { text, .. } = value else {
        return Err(value.wrong_type("a string"));
    };
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    let secret = Secret::new(text.as_bytes());
    match secret.expose().strip_prefix(SCRAM_PREFIX) {
        Some(rest) if !is_scram_tail(rest) => Err(Reason::BadScramSecret),
        _ => Ok(secret),
    }
}

/// Checks the shape of `<iterations>:<salt>$<StoredKey>:<ServerKey>`.
fn is_scram_tail(tail: &[u8]) -> bool {
    /// A SHA-256 digest in base64.
    const KEY_LEN: usize = 44;
    let Ok(tail) = std::str::from_utf8(tail) else {
        return false;
    };
    let is_base64 = |text: &str| {
        !text.is_empty()
            && text.len().is_multiple_of(4)
            && text
                .trim_end_matches('=')
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    };
    let parts = tail
        .split_once('$')
        .and_then(|(head, keys)| Some((head.split_once(':')?, keys.split_once(':')?)));
    parts.is_some_and(|((iterations, salt), (stored_key, server_key))| {
        iterations.parse::<u32>().is_ok_and(|n| n > 0)
            && [salt, stored_key, server_key].into_iter().all(is_base64)
            && [stored_key, server_key].into_iter().all(|key| key.len() == KEY_LEN)
    })
}

pub(super) fn pool_mode(value: &Value) -> Result<PoolMode, Reason> {
    const CHOICES: &[&str] = &["session", "transaction", "statement"];
    match text(value)?.as_str() {
        "session" => Ok(PoolMode::Session),
        "transaction" => Ok(PoolMode::Transaction),
        "statement" => Ok(PoolMode::Statement),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn load_balance(value: &Value) -> Result<LoadBalance, Reason> {
    const CHOICES: &[&str] = &["round-robin", "disable"];
    match text(value)?.as_str() {
        "round-robin" => Ok(LoadBalance::RoundRobin),
        "disable" => Ok(LoadBalance::Disable),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn session_attrs(value: &Value) -> Result<SessionAttrs, Reason> {
    const CHOICES: &[&str] =
        &["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];
    match text(value)?.as_str() {
        "any" => Ok(SessionAttrs::Any),
        "read-write" => Ok(SessionAttrs::ReadWrite),
        "read-only" => Ok(SessionAttrs::ReadOnly),
        "primary" => Ok(SessionAttrs::Primary),
        "standby" => Ok(SessionAttrs::Standby),
        "prefer-standby" => Ok(SessionAttrs::PreferStandby),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn session_state(value: &Value) -> Result<SessionState, Reason> {
    const CHOICES: &[&str] = &["track", "pin", "reject"];
    match text(value)?.as_str() {
        "track" => Ok(SessionState::Track),
        "pin" => Ok(SessionState::Pin),
        "reject" => Ok(SessionState::Reject),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn auth_type(value: &Value) -> Result<AuthType, Reason> {
    const CHOICES: &[&str] = &["trust", "plain", "md5", "scram-sha-256", "cert", "hba"];
    match text(value)?.as_str() {
        "trust" => Ok(AuthType::Trust),
        "plain" => Ok(AuthType::Plain),
        "md5" => Ok(AuthType::Md5),
        "scram-sha-256" => Ok(AuthType::ScramSha256),
        "cert" => Ok(AuthType::Cert),
        "hba" => Ok(AuthType::Hba),
        later @ ("any" | "ldap" | "pam") => Err(unavailable(&format!("{later:?} is"))),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn consistency(value: &Value) -> Result<Consistency, Reason> {
    const CHOICES: &[&str] = &["async"];
    match text(value)?.as_str() {
        "async" => Ok(Consistency::Async),
        later @ ("shadow" | "sync" | "atomic") => Err(unavailable(&format!("{later:?} is"))),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn capture(value: &Value) -> Result<Capture, Reason> {
    const CHOICES: &[&str] = &["trigger"];
    match text(value)?.as_str() {
        "trigger" => Ok(Capture::Trigger),
        later @ ("logical" | "statement") => Err(unavailable(&format!("{later:?} is"))),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

pub(super) fn ddl(value: &Value) -> Result<Ddl, Reason> {
    const CHOICES: &[&str] = &["follow", "refuse", "ignore"];
    match text(value)?.as_str() {
        "follow" => Ok(Ddl::Follow),
        "refuse" => Ok(Ddl::Refuse),
        "ignore" => Ok(Ddl::Ignore),
        other => Err(not_a_choice(other, CHOICES)),
    }
}

/// What to log: a level, or a list of `level` and `target=level` with commas.
pub(super) fn log_filter(value: &Value) -> Result<String, Reason> {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    let filter = name(value)?;
    for directive in filter.split(',') {
        // A bare word would be taken for the name of a target, and log all of it.
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.contains(&level) {
            return Err(not_a_choice(level, LEVELS));
        }
    }
    Ok(filter)
}

/// A file to write; empty means none.
pub(super) fn file(value: &Value) -> Result<Option<PathBuf>, Reason> {
    let text = text(value)?;
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

pub(super) fn log_format(value: &Value) -> Result<LogFormat, Reason> {
    match text(value)?.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(not_a_choice(other, &["text", "json"])),
    }
}

/// A facility of the system's log. Source: RFC 3164, section 4.1.1.
pub(super) fn facility(value: &Value) -> Result<String, Reason> {
    const CHOICES: &[&str] = &[
        "auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog",
        "user", "uucp", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
        "local7",
    ];
    let name = text(value)?;
    if CHOICES.contains(&name.as_str()) { Ok(name) } else { Err(not_a_choice(&name, CHOICES)) }
}

fn not_a_choice(found: &str, choices: &'static [&'static str]) -> Reason {
    let nearest = suggest::nearest(found, choices.iter().copied());
    Reason::NotAChoice {
        found: found.to_owned(),
        choices,
        hint: nearest.map_or(Hint::None, Hint::Word),
    }
}

fn unavailable(phrase: &str) -> Reason {
    Reason::Unavailable(Unavailable::Value(phrase.to_owned()))
}
