//! Parameters of a session that drivers ask for by SHOW, and what they are told at the login.
//!
//! Nothing here has an effect: the console speaks UTF-8 and ISO dates, whatever it is asked for.

use crate::wire::rows::{Column, Type};

/// A parameter with a fixed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// In lower case, as the column of its SHOW is called.
    name: &'static str,
    value: &'static str,
    column: &'static [Column],
}

/// Makes a list of parameters, each with the one column that its SHOW has.
macro_rules! parameters {
    ($($name:literal = $value:expr),+ $(,)?) => {
        &[$(Parameter {
            name: $name,
            value: $value,
            column: &[Column { name: $name, kind: Type::Text }],
        }),+]
    };
}

/// The version that drivers are told: numbers first, because they read them.
pub const SERVER_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/pgtandem");

/// What can be asked for. The first five are those that PgBouncer answers.
const KNOWN: &[Parameter] = parameters! {
    "client_encoding" = "UTF8",
    "datestyle" = "ISO, MDY",
    "timezone" = "GMT",
    "standard_conforming_strings" = "on",
    "default_transaction_isolation" = "read committed",
    "transaction_isolation" = "read committed",
    "transaction_read_only" = "off",
    "default_transaction_read_only" = "off",
    "server_version" = SERVER_VERSION,
    "server_encoding" = "UTF8",
    "integer_datetimes" = "on",
    "intervalstyle" = "postgres",
    "extra_float_digits" = "1",
    "search_path" = "",
    "in_hot_standby" = "off",
};

/// What is reported at the login, in PostgreSQL's spelling; the application's name, the user and
/// whether it may command are reported beside these.
pub const REPORTED: [(&str, &str); 10] = [
    ("server_version", SERVER_VERSION),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("IntervalStyle", "postgres"),
    ("integer_datetimes", "on"),
    ("in_hot_standby", "off"),
    ("default_transaction_read_only", "off"),
];

impl Parameter {
    /// Finds the parameter that is called so, in any case.
    pub fn named(name: &str) -> Option<Self> {
        KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name)).copied()
    }

    /// Returns its value.
    pub fn value(self) -> &'static str {
        self.value
    }

    /// Returns the one column of its SHOW.
    pub fn columns(self) -> &'static [Column] {
        self.column
    }
}
