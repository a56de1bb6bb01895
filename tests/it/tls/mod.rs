//! TLS, with clients and with servers.

mod attacks;
mod clients;
mod data;
mod logins;
mod servers;
mod support;
