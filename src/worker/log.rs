//! Lines about the end of sessions and backends, in PgBouncer's words. Never per query.

use super::Worker;
use super::backend::Backend;
use super::session::Session;
use super::slab::Key;
use crate::fault::{Fault, SqlState};
use crate::log::{Kind, Plain, admit};
use crate::metrics::labels::{ClientEnd, ServerClose};

impl Worker {
    /// Logs why a client's connection is closed.
    pub(super) fn log_client_end(&self, key: Key<Session>, reason: &str) {
        if !self.general.log_disconnections {
            return;
        }
        let Some(session) = self.sessions.get(key) else { return };
        let Some(pool) = self.pool(session.pool) else { return };
        let age = self.now_ms.saturating_sub(session.login_ms) / 1000;
        tracing::info!(
            database = pool.spec.database,
            user = pool.spec.user,
            client = %session.peer,
            reason,
            age,
            "closing because: {} (age={age}s)",
            Plain(reason)
        );
    }

    /// Logs an error of ours that ends a client's connection.
    pub(super) fn log_fault(&self, key: Key<Session>, end: ClientEnd, fault: &Fault) {
        self.log_client_end(key, reason(end, fault));
        let Some(session) = self.sessions.get(key) else { return };
        let Some(pool) = self.pool(session.pool) else { return };
        if self.general.log.log_pooler_errors && admit(Kind::PoolerError) {
            tracing::warn!(
                database = pool.spec.database,
                user = pool.spec.user,
                client = %session.peer,
                sqlstate = %fault.sqlstate,
                "pooler error: {}",
                Plain(&fault.message)
            );
        }
    }

    /// Logs why a backend is closed.
    pub(super) fn log_server_end(&self, backend: &Backend, why: ServerClose) {
        if !self.general.log_disconnections {
            return;
        }
        let Some(pool) = self.pool(backend.pool) else { return };
        let age = self.now_ms.saturating_sub(backend.times.opened_ms) / 1000;
        let reason = words(why);
        tracing::info!(
            database = pool.spec.database,
            user = pool.spec.user,
            server = %backend.origin.server,
            backend_pid = backend.cancel_key.pid,
            reason,
            age,
            "closing because: {reason} (age={age}s)"
        );
    }
}

/// PgBouncer's words for the faults that it has words for.
fn reason(end: ClientEnd, fault: &Fault) -> &str {
    if end != ClientEnd::Timeout {
        return &fault.message;
    }
    match fault.sqlstate {
        SqlState::IDLE_IN_TRANSACTION_TIMEOUT => "idle transaction timeout",
        SqlState::TRANSACTION_TIMEOUT => "transaction timeout",
        SqlState::IDLE_SESSION_TIMEOUT => "client_idle_timeout",
        SqlState::QUERY_CANCELED => "query timeout",
        SqlState::TOO_MANY_CONNECTIONS => "query_wait_timeout",
        _ => &fault.message,
    }
}

/// PgBouncer's words for the ends of server connections that it has words for.
fn words(why: ServerClose) -> &'static str {
    match why {
        ServerClose::Idle => "server idle timeout",
        ServerClose::Lifetime => "server lifetime over",
        ServerClose::Lost => "server conn crashed?",
        ServerClose::Unclean => "client disconnect while server was not ready",
        ServerClose::Tainted => "unclean server",
        ServerClose::Protocol => "bad packet from server",
        ServerClose::Chore => "our own query failed",
        ServerClose::Replaced => "obsolete connection",
        ServerClose::Surplus => "too many servers in the pool",
        ServerClose::Evicted => "evicted",
        ServerClose::Admin => "administrator's command",
    }
}
