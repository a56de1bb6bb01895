//! One connection of ours to a server process.
//!
//! The control plane opens it ([`connect`]: dial, startup, authentication, up to the first
//! ReadyForQuery) and cancels what it runs ([`cancel`]); a worker then owns the bare socket together
//! with its protocol state ([`link`]), the parameters the server reported ([`params`]) and the
//! prepared statements it holds ([`statements`]). What its server is, primary or standby, says
//! [`standing`]. What the proxy itself wants to know it asks over a connection that stays in the control
//! plane ([`ask`]).

pub mod ask;
pub mod cancel;
pub mod connect;
pub mod link;
pub mod params;
pub mod standing;
pub mod statements;
