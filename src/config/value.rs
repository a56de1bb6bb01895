//! One TOML value, with environment variables filled in and before its meaning is known.

use toml::de::{DeInteger, DeValue};
use zeroize::Zeroizing;

use super::problem::Reason;

/// Looks up an environment variable.
pub(super) type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A TOML value with `${NAME}` filled in.
pub(super) enum Value {
    Text {
        /// Wiped, because it may be a password.
        text: Zeroizing<String>,
        /// Whether a variable was filled in; such a text may stand for a number or a boolean.
        from_env: bool,
    },
    Integer {
        number: i64,
        radix: u32,
    },
    Float(f64),
    Bool(bool),
    List(Vec<Value>),
    /// A type that no key has, by its name.
    Other(&'static str),
}

impl Value {
    /// Takes a value over from TOML; `env` is asked for every `${NAME}` in strings.
    pub(super) fn new(value: &DeValue<'_>, env: &Env<'_>) -> Result<Self, Reason> {
        Ok(match value {
            DeValue::String(text) => {
                let (text, from_env) = fill_in(text, env)?;
                if text.contains('\0') {
                    return Err(Reason::Nul);
                }
                Self::Text { text, from_env }
            }
            DeValue::Integer(integer) => {
                Self::Integer { number: parse_integer(integer)?, radix: integer.radix() }
            }
            DeValue::Float(float) => Self::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(boolean) => Self::Bool(*boolean),
            DeValue::Array(array) => {
                let values = array.iter().map(|value| Self::new(value.get_ref(), env));
                Self::List(values.collect::<Result<_, _>>()?)
            }
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a section"),
        })
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "a string",
            Self::Integer { .. } => "an integer",
            Self::Float(_) => "a fraction",
            Self::Bool(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }

    pub(super) fn wrong_type(&self, expected: &'static str) -> Reason {
        Reason::WrongType { expected, found: self.type_name() }
    }
}

fn parse_integer(integer: &DeInteger<'_>) -> Result<i64, Reason> {
    i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| Reason::OutOfRange {
        found: integer.to_string(),
        expected: "a number of at most 64 bits".to_owned(),
    })
}

/// Replaces each `${NAME}` by its variable and each `$${` by `${`; says whether a variable was used.
fn fill_in(text: &str, env: &Env<'_>) -> Result<(Zeroizing<String>, bool), Reason> {
    let mut filled = Zeroizing::new(String::with_capacity(text.len()));
    let mut used = false;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        rest = after;
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            continue;
        }
        filled.push_str(before);
        let (name, after) = rest.split_once('}').ok_or(Reason::BadReference)?;
        if !is_variable_name(name) {
            return Err(Reason::BadReference);
        }
        let value = env(name).ok_or_else(|| Reason::MissingVariable { name: name.to_owned() })?;
        filled.push_str(&value);
        used = true;
        rest = after;
    }
    filled.push_str(rest);
    Ok((filled, used))
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
