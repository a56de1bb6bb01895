//! Sockets: listening, dialling and TLS for the control plane, raw sockets for the data plane; and what
//! the system knows of its accounts and addresses.

pub mod dial;
pub mod listen;
pub mod names;
pub mod stream;
pub mod system;
pub mod tls;

pub use dial::Place;
pub use stream::{Peer, Raw, Socket, Stream};
