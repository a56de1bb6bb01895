//! Opens a backend at one of the servers of its database.
//!
//! Servers are tried one after the other until one is what is wanted. One that cannot be reached is
//! left alone by everybody until it answers again ([`super::servers`] looks after that). A server
//! that answers and refuses the login ends the search, as in libpq: another would refuse it, too.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Control;
use crate::auth::Learned;
use crate::backend::connect::{self, ConnectError, Lack, Opened, Site};
use crate::backend::standing::{Fit, Standing};
use crate::config::{PoolSettings, Server};
use crate::log::{Kind, Plain, admit};
use crate::net::Peer;
use crate::pool::ledger::Permit;
use crate::pool::roster::Origin;
use crate::pool::spec::Spec;
use crate::worker::{Arrival, Failed, ToWorker};

/// Opens a backend, in a place of its pool.
///
/// A connection that becomes useless while it is opened is given up: PAUSE and WAIT_CLOSE need not
/// wait for a server that does not answer.
pub(super) async fn open(control: &Control, spec: Arc<Spec>, mut permit: Permit) -> ToWorker {
    let (generation, settings, found) = loop {
        let changed = spec.changed();
        if spec.is_paused() || spec.is_removed() {
            return ToWorker::OpenAbandoned { spec: Arc::clone(&spec) };
        }
        let generation = spec.generation();
        permit.begin(generation);
        let settings = spec.settings();
        tokio::select! {
            found = control.find(&spec, &settings, &[]) => break (generation, settings, found),
            () = changed => {}
        }
    };
    match found {
        Ok((server, opened)) => {
            if control.config().general.log_connections {
                log_opened(&spec, &server, &opened);
            }
            let origin = spec.roster.opened(&server, &opened.place, opened.standing);
            let arrival = Arrival { generation, settings, origin, opened, permit };
            ToWorker::Opened { spec: Arc::clone(&spec), arrival: Box::new(arrival) }
        }
        Err(error) => {
            let failed = match error.lack() {
                Lack::Refused => Failed::Refused,
                Lack::Starting => Failed::Starting,
                Lack::WrongRole | Lack::Lost => Failed::Lost,
            };
            let lost_since = spec.roster.lost_since().unwrap_or_else(Instant::now);
            let fault = error.fault();
            ToWorker::OpenFailed { spec: Arc::clone(&spec), fault, failed, lost_since }
        }
    }
}

impl Control {
    /// Tries servers until one will do, with these startup parameters. All together take
    /// `server_connect_timeout` at most.
    ///
    /// Cancel safe: yes, a connection that is not finished is closed.
    pub(super) async fn find(
        &self,
        spec: &Spec,
        settings: &PoolSettings,
        parameters: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(Server, Opened), ConnectError> {
        let order = spec.roster.order(&self.registry.dead);
        let parts = u32::try_from(order.len()).unwrap_or(u32::MAX).max(1);
        let limit = settings.server_connect_timeout.map(|limit| limit / parts);
        let mut spare = None;
        let mut failures: Vec<ConnectError> = Vec::new();
        for server in order {
            let since = Instant::now();
            let error = match self.attempt(spec, settings, parameters, (&server, limit)).await {
                Ok(opened) => match Standing::fit(opened.standing, settings.attrs) {
                    Fit::Wanted => {
                        close(spare).await;
                        return Ok((server, opened));
                    }
                    Fit::Spare if spare.is_none() => {
                        spare = Some((server, opened));
                        continue;
                    }
                    Fit::Spare => {
                        opened.close().await;
                        continue;
                    }
                    Fit::Wrong(reason) => {
                        opened.close().await;
                        ConnectError::WrongRole { reason }
                    }
                },
                Err(error) => error,
            };
            log_failed(spec, &server, &error, since.elapsed());
            if error.lack() == Lack::Refused {
                close(spare).await;
                return Err(error);
            }
            failures.push(error);
        }
        if let Some(spare) = spare {
            return Ok(spare);
        }
        spec.roster.lost(Instant::now());
        // What says most about when there will be one; of those, what was tried first.
        failures.sort_by_key(|error| Reverse(error.lack()));
        let never_tried = || ConnectError::WrongRole { reason: "no server" };
        Err(failures.into_iter().next().unwrap_or_else(never_tried))
    }

    /// Opens one connection to one server, and notes what that says about the server.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(super) async fn attempt(
        &self,
        spec: &Spec,
        settings: &PoolSettings,
        parameters: &[(Vec<u8>, Vec<u8>)],
        (server, limit): (&Server, Option<Duration>),
    ) -> Result<Opened, ConnectError> {
        let credentials = spec.credentials();
        let opened = async {
            let connector = self.connectors.of(&server.host, &settings.tls)?;
            let ttl = self.config().general.dns_max_ttl;
            let resolved = self.names.places(server, ttl).await;
            let places = resolved.map_err(|source| ConnectError::Dial { source })?;
            let site = Site { server, places: &places, connector: connector.as_ref(), limit };
            connect::open_with(parameters, site, settings, &credentials).await
        };
        let opened = opened.await;
        match &opened {
            Ok(opened) => {
                self.note_alive(spec, server);
                self.note_standing(spec, server, opened.standing);
                if !matches!(Standing::fit(opened.standing, settings.attrs), Fit::Wrong(_)) {
                    spec.roster.found();
                }
            }
            Err(error) => match error.lack() {
                Lack::Lost | Lack::Starting => self.note_dead(spec, settings, server),
                Lack::Refused | Lack::WrongRole => {
                    // It answers, and that is all that can be found out.
                    self.note_alive(spec, server);
                    spec.roster.found();
                    if let Some(learned) = &credentials.learned
                        && error.is_wrong_password()
                    {
                        self.unlearn(spec, learned);
                    }
                }
            },
        }
        opened
    }

    /// Forgets what the server does not take any more: the password has been changed there. The next
    /// login teaches us the new one, if what we know of the user is not the old one too.
    fn unlearn(&self, spec: &Spec, learned: &Learned) {
        if spec.unlearn(learned)
            && let Some(lookup) = self.config().auth_lookup(&spec.database)
        {
            self.lookups.forget(&lookup, &spec.user);
        }
    }

    fn note_dead(&self, spec: &Spec, settings: &PoolSettings, server: &Server) {
        self.names.doubt(&server.host);
        let dead = &self.registry.dead;
        let was_alive = dead.died(server, settings.server_login_retry, Instant::now());
        spec.roster.note(server, None, dead);
        if was_alive && settings.servers.len() > 1 {
            tracing::warn!(
                database = spec.database,
                server = server.to_string(),
                "server is left alone until it answers again"
            );
        }
    }

    fn note_alive(&self, spec: &Spec, server: &Server) {
        let dead = &self.registry.dead;
        if dead.lives(server) && spec.settings().servers.len() > 1 {
            tracing::info!(
                database = spec.database,
                server = server.to_string(),
                "server answers again"
            );
        }
    }

    /// Notes what a server is now, and has backends go that are of no use any more.
    fn note_standing(&self, spec: &Spec, server: &Server, standing: Option<Standing>) {
        let Some(is) = standing else { return };
        let noted = spec.roster.note(server, standing, &self.registry.dead);
        if let Some(was) = noted.was {
            tracing::warn!(
                database = spec.database,
                server = server.to_string(),
                retired = noted.retired > 0,
                "server is now a {is}, it was a {was}"
            );
        }
        if noted.retired > 0 {
            self.review_soon();
        }
    }

    /// A server has told one of its backends that it is no standby any more.
    pub(super) fn promoted(&self, spec: &Spec, origin: &Origin) {
        let is = Standing { is_standby: false, is_read_only: false };
        self.note_standing(spec, &origin.server, Some(is));
    }
}

/// Closes a connection that was kept in case there is no better one.
async fn close(spare: Option<(Server, Opened)>) {
    if let Some((_, spare)) = spare {
        spare.close().await;
    }
}

fn log_opened(spec: &Spec, server: &Server, opened: &Opened) {
    let from = match opened.raw.socket.local() {
        Some(local @ Peer::Tcp(_)) => format!(" (from {local})"),
        Some(Peer::Unix) | None => String::new(),
    };
    tracing::info!(
        database = spec.database,
        user = spec.user,
        server = server.to_string(),
        backend_pid = opened.cancel_key.pid,
        tls = opened.raw.tls.as_ref().map(|tls| tls.describe()),
        "new connection to server{from}"
    );
}

fn log_failed(spec: &Spec, server: &Server, error: &ConnectError, age: Duration) {
    if !admit(Kind::ServerFailed) {
        return;
    }
    let age = age.as_secs();
    let reason = if let ConnectError::Refused { message, .. } = error {
        format!("server login failed: FATAL {}", Plain(message))
    } else if let ConnectError::TimedOut { .. } = error {
        format!("closing because: connect timeout (age={age}s)")
    } else {
        format!("closing because: connect failed (age={age}s)")
    };
    tracing::warn!(
        database = spec.database,
        user = spec.user,
        server = server.to_string(),
        sqlstate = %error.fault().sqlstate,
        %error,
        source = std::error::Error::source(error).map(tracing::field::display),
        "{reason}"
    );
}
