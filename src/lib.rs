#![doc = include_str!("ARCHITECTURE.md")]

pub mod app;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod fault;
pub mod log;
pub mod net;
pub mod pool;
pub mod secret;
pub mod session;
pub mod signals;
pub mod wire;
pub mod worker;
