//! What the text of a statement says that it does, without I/O and without a parser.
//!
//! Job: cut a query into its statements as PostgreSQL's grammar does, and tell which of them control
//! transactions, change objects, or leave something behind in the session. Nothing here understands
//! expressions or knows the catalog: what a function does inside is not seen.
//!
//! Texts are bytes in the client's encoding. Everything takes time linear in them, allocates
//! nothing, and gives some answer for every input; a text that PostgreSQL refuses may get any.
//!
//! The order of use: [`glance()`] on every text, which costs next to nothing for what applications
//! send all the time; [`statements`] and [`classify()`] for the rest.
//!
//! Source: PostgreSQL `src/backend/parser/{scan.l,gram.y}`, `src/fe_utils/psqlscan.l`.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one token or statement is looked for among many, and what is new is like all others"
)]

mod calls;
mod classify;
mod definition;
mod glance;
mod lexer;
mod name;
mod place;
mod setting;
mod split;

pub use calls::{Traces, settings_of};
pub use classify::{Action, Class, Discard, Names, Transaction, classify, is_plain};
pub use definition::{Definition, Object, Temporary, Verb};
pub use glance::{Glance, glance};
pub use lexer::{Charset, Dialect, Kind, Lexer, Token};
pub use name::{Name, text_of};
pub use place::tablespaces;
pub use setting::{Scope, Setting, Target, Value};
pub use split::{Part, Statements, statements};

#[cfg(test)]
mod tests;
