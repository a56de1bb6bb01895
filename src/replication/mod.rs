//! Keeps secondaries exact copies of a primary: what a trigger captured there, in the client's own
//! transaction, is read as the difference of two snapshots and applied here in one transaction.
//!
//! Everything runs as tasks of the control plane and speaks to the servers with `tokio-postgres`.
//! The state that counts lives in the databases: the change log and `pgtandem.secondaries` on the
//! primary, `pgtandem.progress` on each secondary. What is held here can be lost at any time.

pub mod apply;
pub mod batch;
pub mod capture;
pub mod catalog;
pub mod change;
pub mod checks;
pub mod coalesce;
pub mod connect;
pub mod copy;
mod define;
pub mod definition;
pub mod error;
mod follow;
mod hook;
pub mod literal;
pub mod observe;
pub mod primary;
pub mod progress;
pub mod schema_copy;
mod secondary;
pub mod sequences;
pub mod snapshot;
mod stage;
pub mod statements;
pub mod status;
pub mod supervisor;
pub mod verify;
pub mod view;
pub mod wait;
mod watch;

pub use error::Error;
