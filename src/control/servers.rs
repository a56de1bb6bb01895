//! Looks after servers in the background: tries dead ones again, asks what those are that must be
//! something, and follows names to other addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Control;
use crate::config::{Host, Server, SessionAttrs};
use crate::net::names::is_address;
use crate::pool::registry::DatabaseUse;
use crate::pool::spec::Spec;

/// Between two looks at what is to be done.
const INTERVAL: Duration = Duration::from_secs(1);

/// LIMIT: servers that are asked, and names that are looked up, at a time.
const AT_A_TIME: usize = 16;

/// LIMIT: how long one server may take where `server_connect_timeout` sets nothing shorter.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Looks after servers for as long as the process lives.
pub async fn watch_servers(control: Arc<Control>) {
    let (mut asked, mut resolved) = (Instant::now(), Instant::now());
    loop {
        sleep(INTERVAL).await;
        let config = control.config();
        let period = config.general.server_role_check_period;
        let is_round = period.is_some_and(|period| asked.elapsed() >= period);
        if is_round {
            asked = Instant::now();
        }
        control.ask_servers(is_round).await;
        if resolved.elapsed() >= config.general.dns_max_ttl {
            resolved = Instant::now();
            control.follow_names().await;
        }
    }
}

impl Control {
    /// Returns the names of servers that were looked up, when that was, and their addresses.
    pub fn names(&self) -> Vec<(String, Option<Instant>, Arc<[IpAddr]>)> {
        self.names.list()
    }

    /// Asks dead servers whether they live, and in a round all whose role matters what they are.
    async fn ask_servers(self: &Arc<Self>, is_round: bool) {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let mut tasks = JoinSet::new();
        for (name, DatabaseUse { roster, .. }) in self.registry.databases() {
            let plan = roster.plan();
            // Whether a lost database is still lost is found out, so that it is not shown for ever.
            let is_lost = roster.lost_since().is_some();
            if plan.is_plain() && !is_lost {
                continue;
            }
            let Some(spec) = self.someone_of(&name, is_lost) else { continue };
            let has_role = is_round && plan.attrs != SessionAttrs::Any;
            let now = Instant::now();
            for server in plan.servers.iter() {
                let dead = &self.registry.dead;
                if dead.is_due(server, now) || (has_role && !dead.is_dead(server)) {
                    let (control, places) = (Arc::clone(self), Arc::clone(&places));
                    let (spec, server) = (Arc::clone(&spec), server.clone());
                    tasks.spawn(async move {
                        // It is never closed.
                        let _place = places.acquire().await;
                        control.ask(&spec, &server).await;
                    });
                }
            }
        }
        // Each is bounded; one that panics has nothing to say.
        while tasks.join_next().await.is_some() {}
    }

    /// Finds a pool that can log in at the servers of a database, if that is used or lost.
    fn someone_of(&self, database: &str, is_lost: bool) -> Option<Arc<Spec>> {
        let pools = self.registry.pools(Some(database));
        let is_used =
            |spec: &Arc<Spec>| is_lost || spec.clients() > 0 || spec.ledger.pool().count() > 0;
        let mut used: Vec<Arc<Spec>> = pools.into_iter().filter(is_used).collect();
        // One whose login is known to work, if there is one; always the same.
        used.sort_by_key(|spec| (spec.welcome().is_none(), spec.number));
        used.into_iter().find(|spec| !spec.is_paused() && !spec.is_removed())
    }

    /// Asks one server, over a connection of its own; what it says is noted by the attempt.
    async fn ask(&self, spec: &Spec, server: &Server) {
        let settings = spec.settings();
        let limit = settings.server_connect_timeout.map_or(PROBE_LIMIT, |t| t.min(PROBE_LIMIT));
        match self.attempt(spec, &settings, &[], (server, Some(limit))).await {
            Ok(opened) => opened.close().await,
            Err(error) => tracing::debug!(server = %server, %error, "server asked in vain"),
        }
    }

    /// Looks up all names of servers that backends are at; backends at addresses that a name has lost
    /// go when they come back.
    async fn follow_names(self: &Arc<Self>) {
        let rosters: Vec<_> = self.registry.databases().into_iter().collect();
        let hosts = rosters.iter().flat_map(|(_, database)| database.roster.hosts_in_use());
        let names: BTreeSet<String> = hosts
            .filter_map(|host| match host {
                Host::Tcp(name) if !is_address(&name) => Some(name),
                Host::Tcp(_) | Host::Unix(_) => None,
            })
            .collect();
        let found = self.look_up(names).await;
        let mut retired = 0;
        for (name, addresses) in &found {
            let host = Host::Tcp(name.clone());
            for (database, DatabaseUse { roster, .. }) in &rosters {
                let count = roster.note_addresses(&host, addresses);
                if count > 0 {
                    tracing::info!(database, name, ?addresses, "name has other addresses now");
                }
                retired += count;
            }
        }
        if retired > 0 {
            self.review_soon();
        }
    }

    async fn look_up(self: &Arc<Self>, names: BTreeSet<String>) -> BTreeMap<String, Arc<[IpAddr]>> {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let mut tasks = JoinSet::new();
        for name in names {
            let (control, places) = (Arc::clone(self), Arc::clone(&places));
            tasks.spawn(async move {
                // It is never closed.
                let _place = places.acquire().await;
                let addresses = control.names.look_up(&name).await;
                (name, addresses)
            });
        }
        let mut found = BTreeMap::new();
        while let Some(done) = tasks.join_next().await {
            // A name without addresses moves nobody; nor does a task that panicked.
            if let Ok((name, Ok(addresses))) = done {
                found.insert(name, addresses);
            }
        }
        found
    }
}
