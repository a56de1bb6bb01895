//! Capture.
pub mod check;
pub mod error;
pub mod installed;
pub mod rotation;
pub mod schema;
pub mod shape;
pub mod table;
pub mod triggers;
