//! The wire protocol (3.0), without I/O.
//!
//! Job: cut byte streams into messages, read the few messages a pooler must understand, write the
//! ones it originates, and keep the FIFO of awaited replies. Nothing here knows sockets, clocks or
//! configuration; every function is a pure function of bytes, so all of it is property-tested.
//!
//! Source: PostgreSQL manual, chapters "Message Flow" and "Message Formats".

pub mod backend;
pub mod cursor;
pub mod encode;
pub mod expect;
pub mod frontend;
pub mod header;
pub mod passage;
pub mod proxied;
pub mod rows;
pub mod splice;
pub mod startup;
pub mod tag;
