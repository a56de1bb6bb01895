//! The replication mode between real servers.

mod verify;
