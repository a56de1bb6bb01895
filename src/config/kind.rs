//! The kinds of sections, and what to say about a key that a kind does not have.

use super::keys;
use super::problem::{Hint, Reason, Unavailable};
use super::raw::{Section, Walk, unknown};
use super::suggest;

/// A kind of section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What is in no section.
    Root,
    /// `[general]`
    General,
    /// `[metrics]`
    Metrics,
    /// `[databases.NAME]`
    Database,
    /// `[users.NAME]`
    User,
    /// `[databases.NAME.replication]`
    Replication,
    /// `[databases.NAME.secondaries.NAME]`
    Secondary,
}

/// Keys of PgBouncer's main section that have no counterpart yet, separated by spaces.
const LATER_GENERAL: &str = "application_name_add_host client_tls_dheparams client_tls_ecdhcurve disable_pqexec dns_nxdomain_ttl \
    dns_zone_check_period login_notify_message max_db_client_connections \
    max_user_client_connections peer_id pidfile pkt_buf pool_idle_timeout query_wait_notify \
    resolv_conf sbuf_loopcnt scram_iterations server_fast_close so_reuseport \
    tcp_defer_accept tcp_socket_buffer track_extra_parameters \
    unix_socket_group user";

/// Keys of PgBouncer's database lines that have no counterpart yet.
const LATER_DATABASE: &str = "application_name client_encoding \
    connect_query datestyle max_db_client_connections timezone";

impl Kind {
    /// The kinds whose keys are settings.
    pub(super) const WITH_KEYS: [Self; 6] = [
        Self::General,
        Self::Metrics,
        Self::Database,
        Self::User,
        Self::Replication,
        Self::Secondary,
    ];

    /// The names of the section, for people.
    fn name(self) -> &'static str {
        match self {
            Self::Root => "the top level",
            Self::General => "[general]",
            Self::Metrics => "[metrics]",
            Self::Database => "[databases.NAME]",
            Self::User => "[users.NAME]",
            Self::Replication => "[databases.NAME.replication]",
            Self::Secondary => "[databases.NAME.secondaries.NAME]",
        }
    }

    /// Lists the keys of this kind, in the order in which they are read.
    pub(super) fn keys(self) -> Vec<&'static str> {
        let mut walk = Walk::new("", "", &|_| None);
        let mut section = Section::new(&mut walk, String::new(), None);
        match self {
            Self::Root => return vec!["general", "metrics", "databases", "users"],
            Self::General => drop(keys::general(&mut section)),
            Self::Metrics => drop(keys::metrics(&mut section)),
            Self::Database => drop(keys::database(&mut section)),
            Self::User => drop(keys::user(&mut section)),
            Self::Replication => drop(keys::replication(&mut section)),
            Self::Secondary => drop(keys::secondary(&mut section)),
        }
        section.finish(|_, _| unknown(false, Hint::None))
    }

    /// Lists what a later version will understand.
    fn later(self) -> impl Iterator<Item = &'static str> {
        let names = match self {
            Self::Root => "peers",
            Self::General => LATER_GENERAL,
            Self::Database => LATER_DATABASE,
            Self::User => "max_user_client_connections",
            Self::Metrics | Self::Replication | Self::Secondary => "",
        };
        names.split_ascii_whitespace()
    }

    /// Pairs names of PgBouncer, of libpq and of other sections with what they are called here.
    fn renamed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Root => &[("pgbouncer", "general")],
            Self::Metrics => &[("listen_addr", "listen"), ("address", "listen")],
            Self::General => &[
                ("pool_size", "default_pool_size"),
                ("reserve_pool", "reserve_pool_size"),
                ("host", "listen_addr"),
                ("port", "listen_port"),
            ],
            Self::Database => &[
                ("default_pool_size", "pool_size"),
                ("reserve_pool", "reserve_pool_size"),
                ("database", "dbname"),
                ("hostname", "host"),
                ("hostaddr", "host"),
                ("username", "user"),
                ("hosts", "host"),
                ("ports", "port"),
            ],
            Self::Replication => &[("user", "admin_user"), ("password", "admin_password")],
            Self::Secondary => &[
                ("default_pool_size", "pool_size"),
                ("database", "dbname"),
                ("hostname", "host"),
                ("hostaddr", "host"),
                ("username", "user"),
            ],
            Self::User => {
                &[("default_pool_size", "pool_size"), ("reserve_pool", "reserve_pool_size")]
            }
        }
    }

    /// Says what is wrong with a key or section that this kind does not have.
    pub(super) fn explain(self, key: &str, is_section: bool) -> Reason {
        if self.later().any(|later| later == key) {
            return Reason::Unavailable(Unavailable::This);
        }
        if let Some((_, here)) = self.renamed().iter().find(|(there, _)| *there == key) {
            return unknown(is_section, Hint::Word(here));
        }
        let has_key = |kind: &Self| *kind != self && kind.keys().contains(&key);
        if let Some(kind) = Self::WITH_KEYS.into_iter().find(has_key) {
            return unknown(is_section, Hint::Section(kind.name()));
        }
        let sections: &[&str] = match self {
            Self::Database => &["replication", "secondaries"],
            Self::Root
            | Self::General
            | Self::Metrics
            | Self::User
            | Self::Replication
            | Self::Secondary => &[],
        };
        let candidates =
            self.keys().into_iter().chain(sections.iter().copied()).chain(self.later());
        unknown(is_section, suggest::nearest(key, candidates).map_or(Hint::None, Hint::Word))
    }
}
