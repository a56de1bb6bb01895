//! The keys about how clients prove who they are, and where their secrets are looked for.
//!
//! In this order: the password in `[users.NAME]`, `auth_file`, and `auth_query`, which is asked of a
//! server. Names, defaults and meanings are PgBouncer's.

use std::sync::Arc;
use std::time::Duration;

use super::checked::{AuthType, Config, PoolSettings};
use super::file::{NamedFile, file};
use super::hba::{HbaFile, IdentFile};
use super::problem::Reason;
use super::raw::{Section, Walk, join};
use super::read;
use super::tls::SslMode;
use super::userlist::UserFile;
use crate::secret::Secret;

/// PgBouncer's query. One whose `VALID UNTIL` is over has no password.
const QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
     FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// The keys of `[general]` about authentication, apart from `auth_type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// Users and their secrets.
    pub auth_file: UserFile,
    /// Rules that say who must prove what, for [`AuthType::Hba`].
    pub auth_hba_file: HbaFile,
    /// Who may be whom, for those rules.
    pub auth_ident_file: IdentFile,
    /// Who asks servers for the secrets of others; empty asks nobody.
    pub auth_user: String,
    /// What is asked: one row with a user and a secret, for the user `$1`.
    pub auth_query: String,
    /// The database that is asked; empty is the one that the client wants.
    pub auth_dbname: String,
    /// How long an answer is used again; zero asks at each login.
    pub auth_query_lifetime: Duration,
}

/// The keys of `[databases.NAME]` about authentication.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseAuth {
    /// See [`AuthSettings::auth_user`].
    pub auth_user: Option<String>,
    /// See [`AuthSettings::auth_query`].
    pub auth_query: Option<String>,
    /// See [`AuthSettings::auth_dbname`].
    pub auth_dbname: Option<String>,
}

/// How a server is asked for the secret of somebody who is not configured.
#[derive(Debug, Clone)]
pub struct AuthLookup {
    /// The database, as clients call it.
    pub database: String,
    /// Where it is, and who asks.
    pub settings: PoolSettings,
    /// What is asked.
    pub query: Arc<str>,
    /// How long an answer is used again.
    pub lifetime: Duration,
}

pub(super) fn general(section: &mut Section<'_, '_>) -> AuthSettings {
    let none = NamedFile::default;
    AuthSettings {
        auth_file: UserFile::new(section.get("auth_file", none(), file)),
        auth_hba_file: HbaFile::new(section.get("auth_hba_file", none(), file)),
        auth_ident_file: IdentFile::new(section.get("auth_ident_file", none(), file)),
        auth_user: section.get("auth_user", String::new(), read::text),
        auth_query: section.get("auth_query", QUERY.to_owned(), read::name),
        auth_dbname: section.get("auth_dbname", String::new(), read::text),
        auth_query_lifetime: section.get("auth_query_lifetime", Duration::ZERO, read::duration),
    }
}

pub(super) fn database(section: &mut Section<'_, '_>) -> DatabaseAuth {
    DatabaseAuth {
        auth_user: section.find("auth_user", read::text),
        auth_query: section.find("auth_query", read::name),
        auth_dbname: section.find("auth_dbname", read::text),
    }
}

/// Checks keys against each other; says nothing if there is any other problem.
pub(super) fn check_together(walk: &mut Walk<'_>, config: &Config) {
    if !walk.is_all_clean() {
        return;
    }
    let auth = &config.general.auth;
    if config.general.auth_type == AuthType::Hba && auth.auth_hba_file.file.is_none() {
        walk.report(join("general", "auth_type"), Reason::Needs { key: "auth_hba_file" });
    }
    let general = ("general".to_owned(), Some(&auth.auth_dbname));
    let databases = config.databases.iter();
    let databases = databases
        .map(|(name, database)| (join("databases", name), database.auth.auth_dbname.as_ref()));
    for (section, name) in std::iter::once(general).chain(databases) {
        if let Some(name) = name.filter(|name| !name.is_empty())
            && config.database(name).is_none()
        {
            let reason = Reason::NoSuchDatabase(name.clone());
            walk.report(join(&section, "auth_dbname"), reason);
        }
    }
}

/// Reads the files that are in use, and reports what is wrong with them.
pub(super) fn read_files(walk: &mut Walk<'_>, config: &mut Config) {
    let general = &mut config.general;
    general.auth.auth_file.read(walk, "auth_file");
    if general.auth_type == AuthType::Hba {
        let tls = &general.client_tls;
        let has_authorities =
            tls.client_tls_sslmode != SslMode::Disable && !tls.client_tls_ca_file.is_none();
        general.auth.auth_hba_file.read(walk, has_authorities);
        general.auth.auth_ident_file.read(walk);
    }
}

impl Config {
    /// Returns the secret that is configured for a user: in a section of its own, else in
    /// `auth_file`.
    pub fn secret(&self, user: &str) -> Option<&Secret> {
        let own = self.users.get(user).and_then(|user| user.password.as_ref());
        own.or_else(|| {
            let listed = self.general.auth.auth_file.users().get(user);
            listed.filter(|secret| !secret.expose().is_empty())
        })
    }

    /// Says whether a user is configured, with a secret or without.
    pub fn knows_user(&self, user: &str) -> bool {
        self.users.contains_key(user) || self.general.auth.auth_file.users().contains_key(user)
    }

    /// Returns all configured secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let own = self.users.values().filter_map(|user| user.password.as_ref());
        let listed = self.general.auth.auth_file.users().values();
        own.chain(listed.filter(|secret| !secret.expose().is_empty()))
    }

    /// Says how to ask for the secrets of users who are not configured, when they want `database`;
    /// `None` if nobody is asked, or there is no database to ask in.
    pub fn auth_lookup(&self, database: &str) -> Option<AuthLookup> {
        let general = &self.general.auth;
        let entry = self.database(database);
        let own = |key: fn(&DatabaseAuth) -> Option<&String>, all| {
            entry.and_then(|entry| key(&entry.auth)).unwrap_or(all)
        };
        let user = own(|auth| auth.auth_user.as_ref(), &general.auth_user);
        let asked = own(|auth| auth.auth_dbname.as_ref(), &general.auth_dbname);
        if user.is_empty() {
            return None;
        }
        let asked = if asked.is_empty() { database } else { asked };
        // A name of the console is that of no database, though `"*"` stands for all others.
        let settings = self.settings_as(asked, user).filter(|_| !super::is_reserved(asked))?;
        let query = own(|auth| auth.auth_query.as_ref(), &general.auth_query);
        Some(AuthLookup {
            database: asked.to_owned(),
            settings,
            query: Arc::from(query.as_str()),
            lifetime: general.auth_query_lifetime,
        })
    }
}
