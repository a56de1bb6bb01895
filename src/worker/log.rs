//! Lines about the end of sessions and backends, in PgBouncer's words. Never per query.

use super::Worker;
use super::backend::Backend;
use super::session::Session;
use super::slab::Key;
use crate::fault::{Fault, SqlState};
use crate::log::{Kind, Plain, admit};

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
    pub(super) fn log_fault(&self, key: Key<Session>, fault: &Fault) {
        self.log_client_end(key, reason(fault));
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
    pub(super) fn log_server_end(&self, backend: &Backend, reason: &str) {
        if !self.general.log_disconnections {
            return;
        }
        let Some(pool) = self.pool(backend.pool) else { return };
        let age = self.now_ms.saturating_sub(backend.times.opened_ms) / 1000;
        tracing::info!(
            database = pool.spec.database,
            user = pool.spec.user,
            server = pool.settings.server(),
            backend_pid = backend.cancel_key.pid,
            reason,
            age,
            "closing because: {reason} (age={age}s)"
        );
    }
}

/// PgBouncer's words for the faults it has words for.
fn reason(fault: &Fault) -> &str {
    match fault.sqlstate {
        SqlState::IDLE_IN_TRANSACTION_TIMEOUT => "idle transaction timeout",
        SqlState::TRANSACTION_TIMEOUT => "transaction timeout",
        SqlState::IDLE_SESSION_TIMEOUT => "client_idle_timeout",
        SqlState::QUERY_CANCELED => "query timeout",
        SqlState::TOO_MANY_CONNECTIONS if fault.message.starts_with("query_wait_timeout") => {
            "query_wait_timeout"
        }
        _ => &fault.message,
    }
}
