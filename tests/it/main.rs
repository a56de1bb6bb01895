//! The proxy in front of a real PostgreSQL, seen from outside.
//!
//! Tests named after a letter and a number prove that point of the acceptance list for poolers. The
//! expected answer is always PostgreSQL's own: scripts run by [`support::fixture::Fixture::both`]
//! are run against both.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and its output is shown then"
)]

mod asynchronous;
mod auth;
mod cancel;
mod command_line;
mod console;
mod copy;
mod differential;
mod driver;
mod drivers;
mod extended;
mod hosts;
mod import;
mod leaks;
mod login;
mod logs;
mod metrics;
mod negotiation;
mod operations;
mod parameters;
mod pools;
mod prepared;
mod programs;
mod queue;
mod release;
mod reload;
mod replication;
mod servers;
mod shutdown;
mod sizes;
mod sql;
mod statement_mode;
mod support;
mod tidy;
mod timeouts;
mod tls;
mod walsender;
mod workers;
