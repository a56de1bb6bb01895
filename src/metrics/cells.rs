//! One worker's share of what one pool has done.
//!
//! Plain numbers in the worker's own memory: no atomics, no locks. They only grow.

use super::histogram::Histogram;
use super::labels::{ClientEnd, Counts, Label, ServerClose, SqlClass, Timeout};

/// What the clients of one pool did with statements, and what that cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statements {
    /// Parse messages of clients. PgBouncer: `client_parse_count`.
    pub client_parses: u64,
    /// Parse messages that servers were sent. PgBouncer: `server_parse_count`.
    pub server_parses: u64,
    /// Bind messages of clients. PgBouncer: `bind_count`.
    pub binds: u64,
    /// Uses of a named statement that its backend held.
    pub hits: u64,
    /// Uses of a named statement that had to be prepared on its backend first.
    pub misses: u64,
    /// Named statements that were closed on a backend, to make room for others.
    pub evictions: u64,
}

/// The counters. Names in comments are those of PgBouncer's SHOW STATS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells {
    /// Bytes of clients that were relayed or answered: `received`.
    pub received_bytes: u64,
    /// Bytes that clients were sent after their login: `sent`.
    pub sent_bytes: u64,
    /// Backends given to clients: `server_assignment_count`.
    pub assignments: u64,
    /// How long clients waited for a backend, also those who waited in vain. One that found a
    /// backend at once has waited 0. Sum: `wait_time`.
    pub wait: Histogram,
    /// From the first forwarded message of a query to its ReadyForQuery. Queries in a pipeline
    /// follow each other: one begins where the one before it ends. Count and sum: `query_count`,
    /// `query_time`.
    pub query: Histogram,
    /// From the lease, or the first message where a client keeps its backend, to the ReadyForQuery
    /// that says idle. Count and sum: `xact_count`, `xact_time`.
    pub transaction: Histogram,
    /// Prepared statements.
    pub statements: Statements,
    /// From the accepted connection to the end of the login. Count: `client_login_count`.
    pub login: Histogram,
    /// How long it took to open server connections, with their logins; only those that succeeded.
    pub connect: Histogram,
    /// Server connections that could not be opened, by what clients are told of it.
    pub connect_failures: Counts<SqlClass, { SqlClass::ALL.len() }>,
    /// Cancel requests of clients that met a session.
    pub cancel_requests: u64,
    /// Cancel requests that servers were to be sent, for clients that asked and for those lost.
    pub cancels_sent: u64,
    /// Errors of servers that clients were sent, by class.
    pub server_errors: Counts<SqlClass, { SqlClass::ALL.len() }>,
    /// Errors of ours that clients were sent, by class.
    pub pooler_errors: Counts<SqlClass, { SqlClass::ALL.len() }>,
    /// Clients that are gone.
    pub client_ends: Counts<ClientEnd, { ClientEnd::ALL.len() }>,
    /// Server connections that were closed.
    pub server_closes: Counts<ServerClose, { ServerClose::ALL.len() }>,
    /// Times that a server was asked what a client left behind.
    pub state_questions: u64,
    /// Time-outs that struck.
    pub timeouts: Counts<Timeout, { Timeout::ALL.len() }>,
}

impl Statements {
    fn zip(&mut self, other: &Self, combine: &mut impl FnMut(&mut u64, u64)) {
        let Self { client_parses, server_parses, binds, hits, misses, evictions } = self;
        combine(client_parses, other.client_parses);
        combine(server_parses, other.server_parses);
        combine(binds, other.binds);
        combine(hits, other.hits);
        combine(misses, other.misses);
        combine(evictions, other.evictions);
    }

    /// Adds what another has counted, and leaves it empty.
    pub fn absorb(&mut self, other: &mut Self) {
        self.zip(&std::mem::take(other), &mut |mine, theirs| *mine += theirs);
    }
}

impl Cells {
    /// Adds what other cells have counted.
    pub fn add(&mut self, other: &Self) {
        self.zip(other, &mut |mine, theirs| *mine = mine.saturating_add(theirs));
    }

    /// Returns what was counted since these were `earlier`. If they cannot have been `earlier`, they
    /// began anew, and all of it is since then.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        let mut began_anew = false;
        since.zip(earlier, &mut |now, before| {
            began_anew |= *now < before;
            *now = now.saturating_sub(before);
        });
        if began_anew { self.clone() } else { since }
    }

    /// Combines each number with the other's; the one place that knows all of them.
    fn zip(&mut self, other: &Self, combine: &mut impl FnMut(&mut u64, u64)) {
        let Self {
            received_bytes,
            sent_bytes,
            assignments,
            wait,
            query,
            transaction,
            statements,
            login,
            connect,
            connect_failures,
            cancel_requests,
            cancels_sent,
            server_errors,
            pooler_errors,
            client_ends,
            server_closes,
            state_questions,
            timeouts,
        } = self;
        combine(received_bytes, other.received_bytes);
        combine(sent_bytes, other.sent_bytes);
        combine(assignments, other.assignments);
        wait.zip(&other.wait, combine);
        query.zip(&other.query, combine);
        transaction.zip(&other.transaction, combine);
        statements.zip(&other.statements, combine);
        login.zip(&other.login, combine);
        connect.zip(&other.connect, combine);
        connect_failures.zip(&other.connect_failures, combine);
        combine(cancel_requests, other.cancel_requests);
        combine(cancels_sent, other.cancels_sent);
        server_errors.zip(&other.server_errors, combine);
        pooler_errors.zip(&other.pooler_errors, combine);
        client_ends.zip(&other.client_ends, combine);
        server_closes.zip(&other.server_closes, combine);
        combine(state_questions, other.state_questions);
        timeouts.zip(&other.timeouts, combine);
    }
}

/// What the clients and server connections of a pool do at this moment.
///
/// Names in comments are those of PgBouncer's SHOW POOLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct States {
    /// Clients between two transactions, without a backend. PgBouncer counts them in `cl_active`.
    pub clients_idle: u64,
    /// Clients that have a backend: the rest of `cl_active`.
    pub clients_leased: u64,
    /// Of those, the ones that session state keeps at their server connection.
    pub clients_pinned: u64,
    /// Clients in the queue: `cl_waiting`.
    pub clients_waiting: u64,
    /// Cancel requests of clients that the server is being told of: `cl_active_cancel_req`.
    pub cancels_active: u64,
    /// Cancel requests of clients that wait until the server works for their client:
    /// `cl_waiting_cancel_req`.
    pub cancels_waiting: u64,
    /// Server connections that clients have: `sv_active`.
    pub servers_active: u64,
    /// Connections to servers that carry cancel requests: `sv_active_cancel`.
    pub servers_cancelling: u64,
    /// Server connections that wait until cancel requests for them are carried out:
    /// `sv_being_canceled`.
    pub servers_being_cancelled: u64,
    /// Unused server connections, ready at once: `sv_idle`.
    pub servers_idle: u64,
    /// Unused server connections that must be checked first (`server_check_delay`): `sv_used`.
    pub servers_stale: u64,
    /// Server connections on which a query of ours runs: `sv_tested`.
    pub servers_tested: u64,
    /// Server connections that are being opened: `sv_login`.
    pub servers_opening: u64,
    /// How long the first client in the queue has waited, in microseconds: `maxwait`, `maxwait_us`.
    pub wait_longest_us: u64,
}

impl States {
    /// Returns PgBouncer's `cl_active`: clients that have a backend, or need none now.
    pub fn clients_active(&self) -> u64 {
        self.clients_idle + self.clients_leased
    }

    /// Adds the share of another worker.
    pub fn add(&mut self, other: &Self) {
        let Self {
            clients_idle,
            clients_leased,
            clients_pinned,
            clients_waiting,
            cancels_active,
            cancels_waiting,
            servers_active,
            servers_cancelling,
            servers_being_cancelled,
            servers_idle,
            servers_stale,
            servers_tested,
            servers_opening,
            wait_longest_us,
        } = self;
        *clients_idle += other.clients_idle;
        *clients_leased += other.clients_leased;
        *clients_pinned += other.clients_pinned;
        *clients_waiting += other.clients_waiting;
        *cancels_active += other.cancels_active;
        *cancels_waiting += other.cancels_waiting;
        *servers_active += other.servers_active;
        *servers_cancelling += other.servers_cancelling;
        *servers_being_cancelled += other.servers_being_cancelled;
        *servers_idle += other.servers_idle;
        *servers_stale += other.servers_stale;
        *servers_tested += other.servers_tested;
        *servers_opening += other.servers_opening;
        *wait_longest_us = (*wait_longest_us).max(other.wait_longest_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Cells {
        let mut cells = Cells { received_bytes: 5, ..Cells::default() };
        cells.query.record(300);
        cells.server_errors.add(SqlClass::Syntax);
        cells.statements.hits = 2;
        cells
    }

    #[test]
    fn what_is_added_can_be_told_apart_again() {
        let before = some();
        let mut after = before.clone();
        after.add(&some());
        assert_eq!(after.received_bytes, 10);
        assert_eq!(after.query.count(), 2);
        assert_eq!(after.since(&before), some());
        assert_eq!(after.since(&after), Cells::default());
    }

    #[test]
    fn cells_that_began_anew_count_from_nothing() {
        let mut fresh = some();
        fresh.sent_bytes = 7;
        let mut earlier = some();
        earlier.timeouts.add(Timeout::Query);
        assert_eq!(fresh.since(&earlier), fresh);
    }

    #[test]
    fn states_add_up_but_for_the_longest_wait() {
        let mut states = States { clients_idle: 1, wait_longest_us: 5, ..States::default() };
        states.add(&States { clients_idle: 2, wait_longest_us: 3, ..States::default() });
        assert_eq!((states.clients_idle, states.wait_longest_us), (3, 5));
        states.clients_leased = 4;
        assert_eq!(states.clients_active(), 7);
    }
}
