//! Sockets: listening, dialling and TLS for the control plane, raw sockets for the data plane.

pub mod dial;
pub mod listen;
pub mod names;
pub mod stream;
pub mod tls;

pub use dial::Place;
pub use stream::{Peer, Raw, Socket, Stream};
