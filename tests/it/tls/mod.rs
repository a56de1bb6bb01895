//! TLS, with clients and with servers.

mod attacks;
mod clients;
mod data;
mod logins;
mod servers;
pub mod support;
