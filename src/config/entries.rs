//! The keys of `[general]` with their values as text, for people and for `SHOW CONFIG`.

use std::time::Duration;

use super::auth::AuthSettings;
use super::checked::{AuthType, General, LogFormat, Logging, PoolDefaults, PoolMode};
use super::diff::is_for_start;
use super::file::NamedFile;
use super::network::Network;
use super::tls::{Ciphers, ClientTls, ServerTls};

/// One key of `[general]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is called.
    pub key: &'static str,
    /// As it is written in the file, without quotes; lists have commas, durations are seconds.
    pub value: String,
    /// Whether a reload, or SET, puts another value in force.
    pub is_changeable: bool,
}

impl General {
    /// Lists all keys by name.
    #[expect(clippy::too_many_lines, reason = "a line per key")]
    pub fn entries(&self) -> Vec<Entry> {
        // By name, so that a new key cannot be forgotten here.
        let Self {
            listen_addr,
            listen_port,
            unix_socket_dir,
            unix_socket_mode,
            listen_backlog,
            workers,
            pool_mode,
            proxy_protocol_from,
            auth_type,
            auth,
            max_client_conn,
            client_login_timeout,
            cancel_wait_timeout,
            tcp_keepalive,
            tcp_keepidle,
            tcp_keepintvl,
            tcp_keepcnt,
            tcp_user_timeout,
            ignore_startup_parameters,
            admin_users,
            stats_users,
            log_level,
            log_connections,
            log_disconnections,
            log,
            stats_period,
            shutdown_timeout,
            suspend_timeout,
            dns_max_ttl,
            server_role_check_period,
            autodb_idle_timeout,
            client_tls,
            server_tls,
            pool,
        } = self;
        let socket_dir = unix_socket_dir.as_ref().map(|path| path.display().to_string());
        let mut entries = vec![
            ("listen_addr", listen_addr.join(",")),
            ("listen_port", listen_port.to_string()),
            ("unix_socket_dir", socket_dir.unwrap_or_default()),
            ("unix_socket_mode", format!("{unix_socket_mode:04o}")),
            ("listen_backlog", listen_backlog.to_string()),
            ("workers", workers.to_string()),
            ("pool_mode", mode(*pool_mode)),
            ("proxy_protocol_from", networks(proxy_protocol_from)),
            ("auth_type", method(*auth_type)),
            ("max_client_conn", max_client_conn.to_string()),
            ("client_login_timeout", timeout(*client_login_timeout)),
            ("cancel_wait_timeout", timeout(*cancel_wait_timeout)),
            ("tcp_keepalive", tcp_keepalive.to_string()),
            ("tcp_keepidle", timeout(*tcp_keepidle)),
            ("tcp_keepintvl", timeout(*tcp_keepintvl)),
            ("tcp_keepcnt", tcp_keepcnt.unwrap_or_default().to_string()),
            ("tcp_user_timeout", tcp_user_timeout.unwrap_or_default().as_millis().to_string()),
            ("ignore_startup_parameters", ignore_startup_parameters.join(",")),
            ("admin_users", admin_users.join(",")),
            ("stats_users", stats_users.join(",")),
            ("log_level", log_level.clone()),
            ("log_connections", log_connections.to_string()),
            ("log_disconnections", log_disconnections.to_string()),
            ("stats_period", seconds(*stats_period)),
            ("shutdown_timeout", timeout(*shutdown_timeout)),
            ("suspend_timeout", seconds(*suspend_timeout)),
            ("dns_max_ttl", seconds(*dns_max_ttl)),
            ("server_role_check_period", timeout(*server_role_check_period)),
            ("autodb_idle_timeout", timeout(*autodb_idle_timeout)),
        ];
        let more = [auth_entries(auth), log_entries(log), pool_entries(pool)];
        let tls = [client_tls_entries(client_tls), server_tls_entries(server_tls)];
        entries.extend(more.into_iter().chain(tls).flatten());
        entries.sort_unstable();
        let entry = |(key, value)| Entry { key, value, is_changeable: !is_for_start(key) };
        entries.into_iter().map(entry).collect()
    }
}

fn auth_entries(auth: &AuthSettings) -> Vec<(&'static str, String)> {
    let AuthSettings {
        auth_file,
        auth_hba_file,
        auth_ident_file,
        auth_user,
        auth_query,
        auth_dbname,
        auth_query_lifetime,
    } = auth;
    vec![
        ("auth_file", path(&auth_file.file)),
        ("auth_hba_file", path(&auth_hba_file.file)),
        ("auth_ident_file", path(&auth_ident_file.file)),
        ("auth_user", auth_user.clone()),
        ("auth_query", auth_query.clone()),
        ("auth_dbname", auth_dbname.clone()),
        ("auth_query_lifetime", seconds(*auth_query_lifetime)),
    ]
}

fn log_entries(log: &Logging) -> Vec<(&'static str, String)> {
    let Logging {
        log_format,
        logfile,
        syslog,
        syslog_ident,
        syslog_facility,
        verbose,
        log_pooler_errors,
        log_stats,
    } = log;
    let format = match log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let file = logfile.as_ref().map(|path| path.display().to_string());
    vec![
        ("log_format", format.to_owned()),
        ("logfile", file.unwrap_or_default()),
        ("syslog", syslog.to_string()),
        ("syslog_ident", syslog_ident.clone()),
        ("syslog_facility", syslog_facility.clone()),
        ("verbose", verbose.to_string()),
        ("log_pooler_errors", log_pooler_errors.to_string()),
        ("log_stats", log_stats.to_string()),
    ]
}

fn pool_entries(pool: &PoolDefaults) -> Vec<(&'static str, String)> {
    let PoolDefaults {
        default_pool_size,
        min_pool_size,
        reserve_pool_size,
        reserve_pool_timeout,
        max_db_connections,
        max_user_connections,
        query_wait_timeout,
        server_lifetime,
        server_idle_timeout,
        server_connect_timeout,
        server_login_retry,
        failover_timeout,
        server_check_delay,
        server_check_query,
        server_reset_query,
        server_reset_query_always,
        server_round_robin,
        client_idle_timeout,
        idle_transaction_timeout,
        query_timeout,
        transaction_timeout,
        max_prepared_statements,
        max_packet_size,
        session_state,
        max_pinned_connections,
    } = pool;
    vec![
        ("default_pool_size", default_pool_size.to_string()),
        ("min_pool_size", min_pool_size.to_string()),
        ("reserve_pool_size", reserve_pool_size.to_string()),
        ("reserve_pool_timeout", seconds(*reserve_pool_timeout)),
        ("max_db_connections", max_db_connections.to_string()),
        ("max_user_connections", max_user_connections.to_string()),
        ("query_wait_timeout", seconds(*query_wait_timeout)),
        ("server_lifetime", seconds(*server_lifetime)),
        ("server_idle_timeout", seconds(*server_idle_timeout)),
        ("server_connect_timeout", seconds(*server_connect_timeout)),
        ("server_login_retry", seconds(*server_login_retry)),
        ("failover_timeout", seconds(*failover_timeout)),
        ("server_check_delay", seconds(*server_check_delay)),
        ("server_check_query", server_check_query.clone()),
        ("server_reset_query", server_reset_query.clone()),
        ("server_reset_query_always", server_reset_query_always.to_string()),
        ("server_round_robin", server_round_robin.to_string()),
        ("client_idle_timeout", seconds(*client_idle_timeout)),
        ("idle_transaction_timeout", seconds(*idle_transaction_timeout)),
        ("query_timeout", seconds(*query_timeout)),
        ("transaction_timeout", seconds(*transaction_timeout)),
        ("max_prepared_statements", max_prepared_statements.to_string()),
        ("max_packet_size", max_packet_size.to_string()),
        ("session_state", session_state.as_str().to_owned()),
        ("max_pinned_connections", max_pinned_connections.to_string()),
    ]
}

fn client_tls_entries(tls: &ClientTls) -> Vec<(&'static str, String)> {
    let ClientTls {
        client_tls_sslmode,
        client_tls_key_file,
        client_tls_cert_file,
        client_tls_ca_file,
        client_tls_crl_file,
        client_tls_protocols,
        client_tls_ciphers,
        client_tls13_ciphers,
    } = tls;
    vec![
        ("client_tls_sslmode", client_tls_sslmode.as_str().to_owned()),
        ("client_tls_key_file", path(client_tls_key_file)),
        ("client_tls_cert_file", path(client_tls_cert_file)),
        ("client_tls_ca_file", path(client_tls_ca_file)),
        ("client_tls_crl_file", path(client_tls_crl_file)),
        ("client_tls_protocols", client_tls_protocols.as_str().to_owned()),
        ("client_tls_ciphers", ciphers(client_tls_ciphers)),
        ("client_tls13_ciphers", client_tls13_ciphers.join(":")),
    ]
}

fn server_tls_entries(tls: &ServerTls) -> Vec<(&'static str, String)> {
    let ServerTls {
        server_tls_sslmode,
        server_tls_ca_file,
        server_tls_crl_file,
        server_tls_key_file,
        server_tls_cert_file,
        server_tls_protocols,
        server_tls_ciphers,
        server_tls13_ciphers,
    } = tls;
    vec![
        ("server_tls_sslmode", server_tls_sslmode.as_str().to_owned()),
        ("server_tls_ca_file", path(server_tls_ca_file)),
        ("server_tls_crl_file", path(server_tls_crl_file)),
        ("server_tls_key_file", path(server_tls_key_file)),
        ("server_tls_cert_file", path(server_tls_cert_file)),
        ("server_tls_protocols", server_tls_protocols.as_str().to_owned()),
        ("server_tls_ciphers", ciphers(server_tls_ciphers)),
        ("server_tls13_ciphers", server_tls13_ciphers.join(":")),
    ]
}

fn path(file: &NamedFile) -> String {
    file.path().display().to_string()
}

fn ciphers(ciphers: &Ciphers) -> String {
    if ciphers.is_empty() { "default".to_owned() } else { ciphers.join(":") }
}

fn mode(mode: PoolMode) -> String {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
    .to_owned()
}

fn method(auth: AuthType) -> String {
    match auth {
        AuthType::Trust => "trust",
        AuthType::Plain => "plain",
        AuthType::Md5 => "md5",
        AuthType::ScramSha256 => "scram-sha-256",
        AuthType::Cert => "cert",
        AuthType::Hba => "hba",
    }
    .to_owned()
}

fn networks(networks: &[Network]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Seconds, with a fraction only where there is one.
fn seconds(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}

/// What is off is 0.
fn timeout(duration: Option<Duration>) -> String {
    seconds(duration.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::kind::Kind;

    #[test]
    fn every_key_is_listed_once_and_in_order() {
        let mut keys = Kind::General.keys();
        keys.sort_unstable();
        let listed: Vec<&str> =
            General::default().entries().iter().map(|entry| entry.key).collect();
        assert_eq!(listed, keys);
        let is_changeable = |key: &str| {
            General::default().entries().iter().any(|entry| entry.key == key && entry.is_changeable)
        };
        assert!(is_changeable("query_timeout") && !is_changeable("workers"));
    }

    #[test]
    fn what_is_listed_can_be_written_into_the_file_again() {
        let text = "[general]\nquery_timeout = \"250ms\"\ntcp_user_timeout = 1500\n\
            unix_socket_mode = \"0700\"\nadmin_users = [\"a\", \"b\"]\nlisten_addr = \"\"\n\
            pool_mode = \"session\"\nauth_type = \"md5\"\nserver_round_robin = true\n\
            server_reset_query = \"RESET ALL\"\nunix_socket_dir = \"/run/x\"\n";
        let config = Config::parse(text, "", &|_| None).expect("it is a good one");
        let is_bare = |value: &str| value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok();
        let lines = config.general.entries().into_iter().map(|Entry { key, value, .. }| {
            let is_bare = is_bare(&value) && key != "unix_socket_mode";
            if is_bare { format!("{key} = {value}\n") } else { format!("{key} = {value:?}\n") }
        });
        let again = format!("[general]\n{}", lines.collect::<String>());
        assert_eq!(Config::parse(&again, "", &|_| None).expect("it is a good one too"), config);
    }
}
