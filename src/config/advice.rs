//! What is allowed and probably not meant: `pgtandem check` prints it beside the errors.

use super::checked::{AuthType, Config, Database, General};
use super::hba::{Connection, Rule, RuleMethod};
use super::raw::join;
use super::read::SCRAM_PREFIX;
use super::tls::SslMode;
use crate::secret::Secret;

impl Config {
    /// Lists what is probably not meant: keys without effect, logins that cannot work, open doors.
    ///
    /// One sentence each, for people; empty if there is nothing to say.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        self.advise_login(&mut advice);
        self.advise_general_with_sections(&mut advice);
        advise_general(&self.general, &mut advice);
        self.advise_users(&mut advice);
        if self.databases.is_empty() {
            advice.push("there is no [databases.NAME]: every login will be refused".to_owned());
        }
        for (name, database) in &self.databases {
            self.advise_database(&join("databases", name), database, &mut advice);
        }
        advice
    }

    /// Says whether any password is in the file, or in a variable that it names.
    pub fn has_secrets(&self) -> bool {
        // Those of auth_file are elsewhere.
        self.users.values().any(|user| user.password.is_some())
            || self.databases.values().any(|database| database.password.is_some())
    }

    /// Users whose section changes nothing, because nobody can be them.
    fn advise_users(&self, advice: &mut Vec<String>) {
        if matches!(self.general.auth_type, AuthType::Trust | AuthType::Cert)
            || self.has_other_ways()
        {
            return;
        }
        if self.looks_up() {
            return;
        }
        let is_forced = |name: &String| {
            self.databases.values().any(|database| database.user.as_ref() == Some(name))
        };
        for (name, user) in &self.users {
            if user.password.is_none() && self.secret(name).is_none() && !is_forced(name) {
                advice.push(format!(
                    "{} has no password and is no database's user: nobody can log in with this name",
                    join("users", name)
                ));
            }
        }
    }

    /// Says whether some rule asks for no password.
    fn has_other_ways(&self) -> bool {
        let is_other = |rule: &Rule| {
            matches!(rule.method, RuleMethod::Trust | RuleMethod::Cert | RuleMethod::Peer)
        };
        let general = &self.general;
        general.auth_type == AuthType::Hba
            && general.auth.auth_hba_file.entries().iter().any(is_other)
    }

    fn advise_rules(&self, advice: &mut Vec<String>) {
        if self.general.client_tls.client_tls_sslmode != SslMode::Disable {
            return;
        }
        for rule in self.general.auth.auth_hba_file.entries() {
            if rule.connection == Connection::HostSsl {
                advice.push(format!(
                    "{}:{}: hostssl record cannot match because client_tls_sslmode is \"disable\"",
                    rule.file.display(),
                    rule.line
                ));
            }
        }
    }

    /// Says whether servers are asked for the secrets of some users.
    fn looks_up(&self) -> bool {
        let own = self.databases.values().filter_map(|database| database.auth.auth_user.as_ref());
        own.chain([&self.general.auth.auth_user]).any(|user| !user.is_empty())
    }

    fn advise_login(&self, advice: &mut Vec<String>) {
        let general = &self.general;
        if general.auth_type == AuthType::Trust {
            if !general.listen_addr.iter().all(|address| is_loopback(address)) {
                advice.push(
                    "general.auth_type is \"trust\" and listen_addr is not only this machine: \
                     whoever reaches the port is let in"
                        .to_owned(),
                );
            }
            return;
        }
        if general.auth_type == AuthType::Hba {
            self.advise_rules(advice);
        }
        if general.auth_type == AuthType::Cert || self.has_other_ways() {
            return;
        }
        let can_log_in = |user: &str| self.looks_up() || self.secret(user).is_some();
        if !self.looks_up() && self.secrets().next().is_none() {
            advice.push(
                "no [users.NAME] has a password, and there is neither auth_file nor auth_user: \
                 nobody can log in"
                    .to_owned(),
            );
        }
        for (key, users) in
            [("admin_users", &general.admin_users), ("stats_users", &general.stats_users)]
        {
            for user in users.iter().filter(|user| !can_log_in(user)) {
                advice.push(format!(
                    "general.{key} names {user:?}, who has no password and cannot log in"
                ));
            }
        }
        for (name, user) in &self.users {
            let is_md5 = user.password.as_ref().is_some_and(is_md5_hash);
            if is_md5 && general.auth_type == AuthType::ScramSha256 {
                advice.push(format!(
                    "{}.password is an md5 hash, which cannot be checked with auth_type \
                     \"scram-sha-256\": this user cannot log in",
                    join("users", name)
                ));
            }
        }
    }

    fn advise_general_with_sections(&self, advice: &mut Vec<String>) {
        let pool = &self.general.pool;
        let has_reserve = pool.reserve_pool_size > 0
            || self.databases.values().any(|database| database.reserve_pool_size > Some(0))
            || self.users.values().any(|user| user.reserve_pool_size > Some(0));
        if !has_reserve && pool.reserve_pool_timeout != General::default().pool.reserve_pool_timeout
        {
            advice.push(
                "general.reserve_pool_timeout has no effect, because no reserve_pool_size is set"
                    .to_owned(),
            );
        }
        let (admins, others) = (&self.general.admin_users, &self.general.stats_users);
        for user in others.iter().filter(|user| admins.contains(user)) {
            advice.push(format!(
                "general.stats_users names {user:?}, who is in admin_users and may do more"
            ));
        }
    }

    fn advise_database(&self, path: &str, database: &Database, advice: &mut Vec<String>) {
        if database.password.is_some() && database.user.is_none() {
            advice.push(format!(
                "{path}.password without user: every client's own user logs in at the server with \
                 this one password"
            ));
        }
        if database.password.as_ref().is_some_and(|p| p.expose().starts_with(SCRAM_PREFIX)) {
            advice.push(format!(
                "{path}.password is a SCRAM secret, which can check a password but not stand for \
                 it: logging in at the server needs the plain password"
            ));
        }
        if let Some(user) = &database.user
            && database.password.is_none()
            && self.secret(user).is_some_and(|password| password.expose().starts_with(SCRAM_PREFIX))
        {
            advice.push(format!(
                "{path}.user is {user:?}, of whom only a SCRAM secret is stored: logging in at the \
                 server needs {path}.password"
            ));
        }
        let pool = &self.general.pool;
        let size = database.pool_size.unwrap_or(pool.default_pool_size);
        let max = database.max_db_connections.unwrap_or(pool.max_db_connections);
        if max > 0 && max < size {
            advice.push(format!(
                "{path}: max_db_connections {max} is below the pool's size of {size}, which is \
                 never reached"
            ));
        }
    }
}

fn advise_general(general: &General, advice: &mut Vec<String>) {
    let mut without_effect = |key: &str, because: &str| {
        advice.push(format!("general.{key} has no effect, because {because}"));
    };
    if !general.tcp_keepalive {
        let keys = [
            ("tcp_keepidle", general.tcp_keepidle.is_some()),
            ("tcp_keepintvl", general.tcp_keepintvl.is_some()),
            ("tcp_keepcnt", general.tcp_keepcnt.is_some()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
            without_effect(key, "tcp_keepalive is false");
        }
    }
    let pool = &general.pool;
    if pool.reserve_pool_size > 0 && pool.reserve_pool_timeout.is_zero() {
        without_effect("reserve_pool_size", "reserve_pool_timeout is 0");
    }
    let (log, usual) = (&general.log, General::default().log);
    if !log.syslog {
        let keys = [
            ("syslog_ident", log.syslog_ident != usual.syslog_ident),
            ("syslog_facility", log.syslog_facility != usual.syslog_facility),
        ];
        for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
            without_effect(key, "syslog is false");
        }
    }
    if pool.server_reset_query_always && pool.server_reset_query.is_empty() {
        without_effect("server_reset_query_always", "server_reset_query is empty");
    }
}

/// Whether only this machine can reach the address; names other than `localhost` are taken to be open.
fn is_loopback(address: &str) -> bool {
    address == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether PostgreSQL would take the password for an MD5 hash (`get_password_type` in `crypt.c`).
fn is_md5_hash(password: &Secret) -> bool {
    password.expose().strip_prefix(b"md5").is_some_and(|digits| {
        digits.len() == 32 && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
