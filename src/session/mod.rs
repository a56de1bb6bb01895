//! The life of one client, top to bottom: [`startup`] → [`login`] in the control plane, then
//! [`relay`] in a worker, transaction by transaction.

pub mod admission;
pub mod front;
pub mod login;
pub mod lookup;
pub mod options;
pub mod pins;
pub mod refuse;
pub mod relay;
pub mod startup;
pub mod state;
