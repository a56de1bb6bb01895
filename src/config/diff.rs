//! What one configuration says otherwise than another, key by key.

use std::collections::BTreeMap;

use super::auth::{AuthSettings, DatabaseAuth};
use super::checked::{Config, Database, General, Logging, PoolDefaults, User};
use super::tls::{ClientTls, DatabaseTls, ServerTls};

/// Keys of `[general]` that come into force at a start only.
const AT_START: [&str; 2] = ["workers", "log_format"];

/// What another configuration changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Keys of `[general]`.
    pub general: Vec<&'static str>,
    /// `[databases.NAME]`.
    pub databases: Sections,
    /// `[users.NAME]`.
    pub users: Sections,
}

/// Sections of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sections {
    /// Those that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that have other keys, with the names of these.
    pub changed: Vec<(String, Vec<&'static str>)>,
}

/// Names the fields that differ. Every field must be listed, so a new key cannot be forgotten.
macro_rules! differing {
    ($type:ident, $old:expr, $new:expr, [$($field:ident),* $(,)?]) => {{
        let $type { $($field),* } = $old;
        let mut keys: Vec<&'static str> = Vec::new();
        $(if *$field != $new.$field {
            keys.push(stringify!($field));
        })*
        keys
    }};
}

impl Config {
    /// Says what `new` changes. Passwords are compared, and not shown.
    pub fn difference(&self, new: &Self) -> Difference {
        let mut general = general_keys(&self.general, &new.general);
        general.extend(auth_keys(&self.general.auth, &new.general.auth));
        general.extend(log_keys(&self.general.log, &new.general.log));
        general.extend(pool_keys(&self.general.pool, &new.general.pool));
        general.extend(client_tls_keys(&self.general.client_tls, &new.general.client_tls));
        general.extend(server_tls_keys(&self.general.server_tls, &new.general.server_tls));
        // Their fields are listed by name.
        general
            .retain(|key| !matches!(*key, "auth" | "log" | "pool" | "client_tls" | "server_tls"));
        Difference {
            general,
            databases: sections(&self.databases, &new.databases, database_keys),
            users: sections(&self.users, &new.users, user_keys),
        }
    }
}

/// Says whether a key of `[general]` comes into force at a start only.
pub fn is_for_start(key: &str) -> bool {
    AT_START.contains(&key)
}

fn sections<T: PartialEq>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    differing: fn(&T, &T) -> Vec<&'static str>,
) -> Sections {
    let without = |from: &BTreeMap<String, T>, other: &BTreeMap<String, T>| {
        from.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let changed = new.iter().filter_map(|(name, new)| {
        let keys = differing(old.get(name)?, new);
        (!keys.is_empty()).then(|| (name.clone(), keys))
    });
    Sections { added: without(new, old), removed: without(old, new), changed: changed.collect() }
}

fn general_keys(old: &General, new: &General) -> Vec<&'static str> {
    differing!(
        General,
        old,
        new,
        [
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
            suspend_timeout,
            dns_max_ttl,
            server_role_check_period,
            autodb_idle_timeout,
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
            client_tls,
            server_tls,
            pool,
        ]
    )
}

/// A file counts as another one if there is something else in it.
fn auth_keys(old: &AuthSettings, new: &AuthSettings) -> Vec<&'static str> {
    differing!(
        AuthSettings,
        old,
        new,
        [
            auth_file,
            auth_hba_file,
            auth_ident_file,
            auth_user,
            auth_query,
            auth_dbname,
            auth_query_lifetime,
        ]
    )
}

fn database_auth_keys(old: &DatabaseAuth, new: &DatabaseAuth) -> Vec<&'static str> {
    differing!(DatabaseAuth, old, new, [auth_user, auth_query, auth_dbname])
}

fn log_keys(old: &Logging, new: &Logging) -> Vec<&'static str> {
    differing!(
        Logging,
        old,
        new,
        [
            log_format,
            logfile,
            syslog,
            syslog_ident,
            syslog_facility,
            verbose,
            log_pooler_errors,
            log_stats,
        ]
    )
}

fn pool_keys(old: &PoolDefaults, new: &PoolDefaults) -> Vec<&'static str> {
    differing!(
        PoolDefaults,
        old,
        new,
        [
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
        ]
    )
}

/// A file counts as another one if there is something else in it.
fn client_tls_keys(old: &ClientTls, new: &ClientTls) -> Vec<&'static str> {
    differing!(
        ClientTls,
        old,
        new,
        [
            client_tls_sslmode,
            client_tls_key_file,
            client_tls_cert_file,
            client_tls_ca_file,
            client_tls_crl_file,
            client_tls_protocols,
            client_tls_ciphers,
            client_tls13_ciphers,
        ]
    )
}

fn server_tls_keys(old: &ServerTls, new: &ServerTls) -> Vec<&'static str> {
    differing!(
        ServerTls,
        old,
        new,
        [
            server_tls_sslmode,
            server_tls_ca_file,
            server_tls_crl_file,
            server_tls_key_file,
            server_tls_cert_file,
            server_tls_protocols,
            server_tls_ciphers,
            server_tls13_ciphers,
        ]
    )
}

fn database_tls_keys(old: &DatabaseTls, new: &DatabaseTls) -> Vec<&'static str> {
    differing!(
        DatabaseTls,
        old,
        new,
        [
            server_tls_sslmode,
            server_tls_ca_file,
            server_tls_crl_file,
            server_tls_key_file,
            server_tls_cert_file,
            server_tls_protocols,
        ]
    )
}

fn database_keys(old: &Database, new: &Database) -> Vec<&'static str> {
    let mut keys = database_own_keys(old, new);
    keys.extend(database_auth_keys(&old.auth, &new.auth));
    keys.extend(database_tls_keys(&old.tls, &new.tls));
    // Their fields are listed by name.
    keys.retain(|key| !matches!(*key, "auth" | "tls"));
    keys
}

fn database_own_keys(old: &Database, new: &Database) -> Vec<&'static str> {
    differing!(
        Database,
        old,
        new,
        [
            host,
            port,
            load_balance_hosts,
            target_session_attrs,
            dbname,
            user,
            password,
            pool_mode,
            pool_size,
            min_pool_size,
            reserve_pool_size,
            max_db_connections,
            server_lifetime,
            query_wait_timeout,
            failover_timeout,
            session_state,
            max_pinned_connections,
            auth,
            tls,
            replication,
            secondaries,
        ]
    )
}

fn user_keys(old: &User, new: &User) -> Vec<&'static str> {
    differing!(
        User,
        old,
        new,
        [
            password,
            pool_mode,
            pool_size,
            reserve_pool_size,
            max_user_connections,
            query_timeout,
            query_wait_timeout,
            idle_transaction_timeout,
            transaction_timeout,
            client_idle_timeout,
        ]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, "proxy.toml", &|_| None).expect("it is correct")
    }

    #[test]
    fn what_says_the_same_is_no_difference() {
        let long = parse("[general]\ndefault_pool_size = 20\nquery_timeout = \"0s\"\n");
        assert_eq!(parse("").difference(&long), Difference::default());
    }

    #[test]
    fn keys_and_sections_are_named() {
        let old = parse(
            "[general]\nlisten_port = 1\n[databases.a]\n[databases.b]\n[databases.c]\nport = 1\n\
             [users.u]\npassword = \"old\"\n",
        );
        let new = parse(
            "[general]\nlisten_port = 2\nquery_timeout = 3\n[databases.b]\n\
             [databases.c]\nport = 2\nhost = \"x\"\n[databases.d]\n[users.u]\npassword = \"new\"\n",
        );
        let difference = old.difference(&new);
        assert_eq!(difference.general, ["listen_port", "query_timeout"]);
        assert_eq!(difference.databases.added, ["d"]);
        assert_eq!(difference.databases.removed, ["a"]);
        assert_eq!(difference.databases.changed, [("c".to_owned(), vec!["host", "port"])]);
        assert_eq!(difference.users.changed, [("u".to_owned(), vec!["password"])]);
        assert!(!format!("{difference:?}").contains("new"), "secrets are not shown");
        assert!(is_for_start("workers") && !is_for_start("listen_port"));
    }
}
