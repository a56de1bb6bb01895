//! The replication mode.

mod capture;
