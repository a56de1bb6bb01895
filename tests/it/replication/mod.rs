//! A primary, a secondary and the proxy between them: whatever happens on the first is found on the
//! second.

mod pair;

mod capture;
mod chaos;
mod commands;
mod crashes;
mod follows;
mod library;
mod rights;
mod scenarios;
mod stops;
mod verify;
