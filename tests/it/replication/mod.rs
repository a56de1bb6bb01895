//! A primary, a secondary and the proxy between them: whatever happens on the first is found on the
//! second.

mod pair;

mod capture;
mod commands;
mod crashes;
mod follows;
mod library;
mod operate;
mod rights;
mod scenarios;
mod shell;
mod stops;
mod verify;
