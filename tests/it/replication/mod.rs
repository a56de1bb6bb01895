//! A primary, a secondary and the proxy between them: whatever happens on the first is found on the
//! second.

mod pair;

mod follows;
mod verify;
