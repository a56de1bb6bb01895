//! Pools: the bounded set of backends of one (database, user).
//!
//! [`spec`] says what a pool is and is shared by all workers; [`gate`] says whether its clients may have
//! backends now; [`definitions`] what becomes of definitions that they send; [`ledger`] counts backends against
//! every bound that holds for them, across workers; [`slots`] is one worker's share of one pool as
//! pure bookkeeping. [`roster`] knows the servers of a database, [`dead`] those that nobody reaches.
//! Nothing here does I/O.

pub mod dead;
pub mod definitions;
pub mod gate;
pub mod ledger;
pub mod registry;
pub mod roster;
pub mod slots;
pub mod spec;
