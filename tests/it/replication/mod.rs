//! A primary, a secondary and the proxy between them: whatever happens on the first is found on the
//! second.

mod pair;

mod capture;
mod chaos;
mod commands;
mod crashes;
mod ddl;
mod failover;
mod follows;
mod hangs;
mod inside;
mod library;
mod missed;
mod odd;
mod operate;
mod rights;
mod scenarios;
mod schema;
mod shell;
mod stops;
mod verify;
