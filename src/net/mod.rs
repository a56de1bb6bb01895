//! Sockets: listening and dialling for the control plane, raw sockets for the data plane.

pub mod dial;
pub mod listen;
pub mod stream;

pub use stream::{Peer, Socket, Stream};
