//! SET and RESET.
//!
//! Source: PostgreSQL `gram.y` (`set_rest`, `VariableResetStmt`), `guc_funcs.c`
//! (`flatten_set_variable_args`).

use super::lexer::{Dialect, Kind, Lexer, Token};
use super::name::{Name, text_of};

/// How long a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Until it is set again.
    Session,
    /// Until the transaction ends.
    Local,
}

/// What a SET or RESET is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A parameter by its name as it was written, which may have parts: `my.parameter`.
    Parameter(&'a [u8]),
    /// RESET ALL.
    All,
    /// The isolation level and the like of this transaction.
    Transaction,
    /// The same, as default of those that follow.
    Characteristics,
    /// SET CONSTRAINTS: of this transaction.
    Constraints,
}

/// To what it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// What it was when the session began: RESET, TO DEFAULT.
    Default,
    /// One constant or several, as written, separated by commas.
    Constants(&'a [u8]),
    /// Something that only the server can work out.
    Unclear,
}

/// A SET or RESET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<'a> {
    /// How long it holds.
    pub scope: Scope,
    /// What is set.
    pub target: Target<'a>,
    /// To what.
    pub value: Value<'a>,
}

impl<'a> Setting<'a> {
    /// Reads what follows SET.
    pub(super) fn set(text: &'a [u8], mut tokens: Lexer<'a>) -> Self {
        if tokens.accept("constraints") {
            return Self::of(Scope::Local, Target::Constraints, Value::Unclear);
        }
        let mut scope = Scope::Session;
        let behind_session = {
            let mut ahead = tokens;
            ahead.accept("session").then_some(ahead)
        };
        if let Some(mut ahead) = behind_session {
            if ahead.accept("characteristics") {
                return Self::of(scope, Target::Characteristics, Value::Unclear);
            }
            // SET SESSION AUTHORIZATION is not a parameter "authorization".
            if !ahead.peek().is_some_and(|token| token.is("authorization")) {
                tokens = ahead;
            }
        } else if tokens.accept("local") {
            scope = Scope::Local;
        }
        Self::rest(text, tokens, scope)
    }

    /// Reads `set_rest`.
    fn rest(text: &'a [u8], mut tokens: Lexer<'a>, scope: Scope) -> Self {
        let parameter = |name: &'static str| Target::Parameter(name.as_bytes());
        let mut words = tokens;
        if words.accept("transaction") {
            // Behind LOCAL too: it never outlives the transaction.
            return Self::of(Scope::Local, Target::Transaction, Value::Unclear);
        }
        if words.accept("time") && words.accept("zone") {
            return Self::of(scope, parameter("timezone"), Value::Unclear);
        }
        words = tokens;
        if words.accept("session") && words.accept("authorization") {
            return Self::of(scope, parameter("session_authorization"), value(text, words));
        }
        words = tokens;
        if words.accept("xml") && words.accept("option") {
            return Self::of(scope, parameter("xmloption"), value(text, words));
        }
        for (word, name) in
            [("role", "role"), ("names", "client_encoding"), ("schema", "search_path")]
        {
            words = tokens;
            let is_assignment = |token: Token<'_>| token.is("to") || is_dot_or_equals(&token);
            if words.accept(word) && !words.peek().is_some_and(is_assignment) {
                return Self::of(scope, parameter(name), value(text, words));
            }
        }
        match written_name(text, &mut tokens) {
            Some(name) if tokens.accept("to") || tokens.accept_symbol(b'=') => {
                Self::of(scope, Target::Parameter(name), value(text, tokens))
            }
            Some(name) => Self::of(scope, Target::Parameter(name), Value::Unclear),
            None => Self::of(scope, Target::All, Value::Unclear),
        }
    }

    /// Reads what follows RESET.
    pub(super) fn reset(text: &'a [u8], mut tokens: Lexer<'a>) -> Self {
        let target = if tokens.accept("all") {
            Target::All
        } else if tokens.accept("transaction") {
            Target::Transaction
        } else if tokens.accept("time") {
            Target::Parameter(b"timezone")
        } else if tokens.accept("session") {
            Target::Parameter(b"session_authorization")
        } else {
            Target::Parameter(written_name(text, &mut tokens).unwrap_or_default())
        };
        Self::of(Scope::Session, target, Value::Default)
    }

    fn of(scope: Scope, target: Target<'a>, value: Value<'a>) -> Self {
        Self { scope, target, value }
    }
}

impl Value<'_> {
    /// Returns the constants as PostgreSQL understands them.
    pub fn constants(&self, dialect: Dialect) -> Option<Vec<Vec<u8>>> {
        let Value::Constants(text) = *self else { return None };
        let mut values = Vec::new();
        let mut tokens = Lexer::new(text, dialect);
        loop {
            values.push(constant(text, &mut tokens)?);
            match tokens.next() {
                None => return Some(values),
                Some(end) if end.kind == Kind::Symbol(b';') => return Some(values),
                Some(comma) if comma.kind == Kind::Symbol(b',') => {}
                Some(_) => return None,
            }
        }
    }
}

fn is_dot_or_equals(token: &Token<'_>) -> bool {
    matches!(token.kind, Kind::Symbol(b'.' | b'='))
}

/// Takes a parameter's name (`var_name`).
pub(super) fn written_name<'a>(text: &'a [u8], tokens: &mut Lexer<'a>) -> Option<&'a [u8]> {
    let first = tokens.next()?;
    Name::of(first)?;
    let mut end = first.end();
    while tokens.accept_symbol(b'.') {
        let part = tokens.next()?;
        Name::of(part)?;
        end = part.end();
    }
    text.get(first.at..end)
}

/// Returns the name of a parameter without its quotes.
///
/// Parameters are found without regard to case.
pub(super) fn parameter_name(written: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(written.len());
    for token in Lexer::new(written, Dialect::default()) {
        match Name::of(token) {
            Some(part) => name.extend(part.bytes()),
            None => name.extend_from_slice(token.text),
        }
    }
    name
}

impl Target<'_> {
    /// Returns the parameter's name as the server has it, without its quotes.
    pub fn parameter(&self) -> Option<Vec<u8>> {
        match self {
            Self::Parameter(written) => Some(parameter_name(written)),
            Self::All | Self::Transaction | Self::Characteristics | Self::Constraints => None,
        }
    }
}

/// Reads the value to the end of the statement.
fn value<'a>(text: &'a [u8], tokens: Lexer<'a>) -> Value<'a> {
    let mut ahead = tokens;
    let Some(first) = ahead.next() else { return Value::Unclear };
    if first.is("default") && ahead.next().is_none() {
        return Value::Default;
    }
    let list = text.get(first.at..).unwrap_or_default();
    Value::Constants(list)
}

/// Takes one constant (`var_value`): a string, a word, or a number with its sign.
fn constant<'a>(text: &'a [u8], tokens: &mut Lexer<'a>) -> Option<Vec<u8>> {
    let first = tokens.next()?;
    if first.is_literal() {
        return text_of(&first).map(Iterator::collect);
    }
    if let Some(name) = Name::of(first) {
        return Some(name.to_vec());
    }
    let mut end = first.end();
    let is_in = |next: &Token<'_>| !matches!(next.kind, Kind::Symbol(b',' | b';'));
    while let Some(next) = tokens.peek().filter(is_in) {
        tokens.next();
        end = next.end();
    }
    let written = text.get(first.at..end)?;
    let digits = written.strip_prefix(b"-").or_else(|| written.strip_prefix(b"+"));
    let is_number =
        digits.unwrap_or(written).iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    is_number.then(|| written.strip_prefix(b"+").unwrap_or(written).to_vec())
}
