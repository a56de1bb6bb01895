//! What a statement leaves behind in the session by the functions it calls and the objects it makes.

use super::lexer::{Dialect, Kind, Lexer, Token};
use super::name::{Name, text_of};
use super::setting::{parameter_name, written_name};

/// What a statement may leave behind in its session; a set of the constants below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces(u16);

impl Traces {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A parameter, by `set_config` that is not plainly local to the transaction.
    pub const SETTING: Self = Self(1);
    /// An advisory lock of the session.
    pub const LOCK: Self = Self(1 << 1);
    /// It gives back advisory locks of the session.
    pub const UNLOCK: Self = Self(1 << 2);
    /// A temporary object.
    pub const TEMPORARY: Self = Self(1 << 3);
    /// A temporary object that goes with the transaction: ON COMMIT DROP.
    pub const TEMPORARY_LOCAL: Self = Self(1 << 4);
    /// Something that only the end of the session takes back: the seed of `random()`, a connection
    /// of `dblink`, a replication origin, a backup, …
    pub const LASTING: Self = Self(1 << 5);
    /// It reads what other statements of the session left behind: `currval`, `lastval`.
    pub const SEQUENCE: Self = Self(1 << 6);
    /// It runs a text as a statement, and the text has something in it that would be one of these:
    /// see [`settings_of`] for what it may set.
    pub const HIDDEN: Self = Self(1 << 7);

    /// Says whether all of `other` is in this set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Says whether nothing is in this set.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns what is in either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Functions that leave something behind when they are called, or take something back.
const CALLS: [(&str, Traces); 32] = [
    ("set_config", Traces::SETTING),
    ("pg_advisory_lock", Traces::LOCK),
    ("pg_advisory_lock_shared", Traces::LOCK),
    ("pg_try_advisory_lock", Traces::LOCK),
    ("pg_try_advisory_lock_shared", Traces::LOCK),
    ("pg_advisory_unlock", Traces::UNLOCK),
    ("pg_advisory_unlock_shared", Traces::UNLOCK),
    ("pg_advisory_unlock_all", Traces::UNLOCK),
    ("currval", Traces::SEQUENCE),
    ("lastval", Traces::SEQUENCE),
    ("setseed", Traces::LASTING),
    ("dblink_connect", Traces::LASTING),
    ("dblink_connect_u", Traces::LASTING),
    ("dblink_open", Traces::LASTING),
    ("dblink_send_query", Traces::LASTING),
    ("set_limit", Traces::LASTING),
    ("set_user", Traces::LASTING),
    ("hypopg_create_index", Traces::LASTING),
    ("hypopg_hide_index", Traces::LASTING),
    ("pg_start_backup", Traces::LASTING),
    ("pg_backup_start", Traces::LASTING),
    ("pg_replication_origin_session_setup", Traces::LASTING),
    ("pg_create_logical_replication_slot", Traces::LASTING),
    ("pg_create_physical_replication_slot", Traces::LASTING),
    ("pg_copy_logical_replication_slot", Traces::LASTING),
    ("pg_copy_physical_replication_slot", Traces::LASTING),
    ("query_to_xml", Traces::HIDDEN),
    ("query_to_xml_and_xmlschema", Traces::HIDDEN),
    ("ts_stat", Traces::HIDDEN),
    ("ts_rewrite", Traces::HIDDEN),
    ("crosstab", Traces::HIDDEN),
    ("connectby", Traces::HIDDEN),
];

/// What in a text that is run as a statement would leave something behind.
const HINTS: [&[u8]; 16] = [
    b"set",
    b"reset",
    b"temp",
    b"advisory",
    b"listen",
    b"prepare",
    b"hold",
    b"discard",
    b"load",
    b"execute",
    b"dblink",
    b"origin",
    b"backup",
    b"_slot",
    b"currval",
    b"lastval",
];

/// Looks through the tokens of one statement.
pub(super) fn traces(tokens: Lexer<'_>) -> Traces {
    let mut found = Traces::NONE;
    let mut runs_text = false;
    let mut before: Option<Token<'_>> = None;
    let mut rest = tokens;
    while let Some(token) = rest.next() {
        let called = match token.kind {
            Kind::Symbol(b'(') => before.map_or(Traces::NONE, |name| of_call(&name, rest)),
            _ => Traces::NONE,
        };
        runs_text |= called.has(Traces::HIDDEN);
        found = found.and(Traces(called.0 & !Traces::HIDDEN.0));
        before = Some(token);
    }
    let mut literals = tokens.filter(Token::is_literal);
    if runs_text && literals.any(|literal| hints_at_state(literal.text)) {
        found = found.and(Traces::HIDDEN);
    }
    found
}

/// Returns what a call of `name` leaves behind, whose arguments follow.
fn of_call(name: &Token<'_>, arguments: Lexer<'_>) -> Traces {
    let name = match Name::of(*name) {
        Some(name) => name,
        // Its meaning is hidden in escapes.
        None if name.kind == Kind::QuotedUnicode => return Traces::LASTING,
        None => return Traces::NONE,
    };
    let listed = CALLS.iter().find(|(listed, _)| name.is(listed));
    match listed {
        Some((_, Traces::SETTING)) if is_local(arguments) => Traces::NONE,
        Some((_, traces)) => *traces,
        None => Traces::NONE,
    }
}

/// LIMIT: tokens of the arguments of a call that are looked at. Calls may be nested without end, and
/// each is looked at.
const ARGUMENT_TOKENS_MAX: usize = 32;

/// Says whether the third argument is plainly the constant `true`.
fn is_local(mut arguments: Lexer<'_>) -> bool {
    let mut depth = 0_usize;
    let mut commas = 0;
    for _ in 0..ARGUMENT_TOKENS_MAX {
        let Some(token) = arguments.next() else { return false };
        match token.kind {
            Kind::Symbol(b'(' | b'[') => depth += 1,
            Kind::Symbol(b')' | b']') if depth == 0 => return false,
            Kind::Symbol(b')' | b']') => depth -= 1,
            Kind::Symbol(b',') if depth == 0 => {
                commas += 1;
                if commas == 2 {
                    return arguments.accept("true") && arguments.accept_symbol(b')');
                }
            }
            _ => {}
        }
    }
    false
}

/// Says whether INTO behind this word is not that of SELECT INTO.
pub(super) fn is_before_into(before: &Token<'_>) -> bool {
    before.is("insert")
        || before.is("merge")
        || before.is("as")
        || before.kind == Kind::Symbol(b'.')
}

/// Says whether a name is, or begins as, that of a schema for temporary objects.
pub(super) fn is_temporary_schema(token: &Token<'_>) -> bool {
    match Name::of(*token) {
        Some(name) => name.bytes().take(7).eq(*b"pg_temp"),
        None => token.kind == Kind::QuotedUnicode,
    }
}

/// Says whether a text that is run may leave something behind.
pub(super) fn hints_at_state(text: &[u8]) -> bool {
    HINTS.iter().any(|hint| contains(text, hint))
}

/// Says whether `hint`, in lower case, is in `text`, in any case.
fn contains(text: &[u8], hint: &[u8]) -> bool {
    let Some((first, rest)) = hint.split_first() else { return true };
    memchr::memchr2_iter(*first, first.to_ascii_uppercase(), text).any(|at| {
        let behind = text.get(at + 1..).unwrap_or_default();
        behind.get(..rest.len()).is_some_and(|found| found.eq_ignore_ascii_case(rest))
    })
}

/// Returns the names of parameters that a statement with [`Traces::SETTING`] or [`Traces::HIDDEN`]
/// may set; `None` if some are worked out when it runs.
///
/// Names that it only may set are among them: it does no harm to look at one too many.
pub fn settings_of(text: &[u8], dialect: Dialect) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut tokens = Lexer::new(text, dialect);
    while let Some(token) = tokens.next() {
        if token.is_literal() && hints_at_state(token.text) {
            inside_of(&token, dialect, &mut names)?;
        } else {
            called(&token, tokens, &mut names)?;
        }
    }
    Some(names)
}

/// Adds what a text may set that is run.
fn inside_of(literal: &Token<'_>, dialect: Dialect, names: &mut Vec<Vec<u8>>) -> Option<()> {
    let plain: Vec<u8>;
    let inside = if literal.kind == Kind::LiteralDollar {
        dollar_quoted(literal.text)
    } else {
        plain = text_of(literal)?.collect();
        &plain
    };
    let mut tokens = Lexer::new(inside, dialect);
    let mut is_worked_out = false;
    let mut has_hint = false;
    while let Some(token) = tokens.next() {
        is_worked_out |= token.is("execute");
        has_hint |= token.is_literal() && hints_at_state(token.text);
        if token.is("set") {
            let mut ahead = tokens;
            ahead.accept("session");
            names.extend(written_name(inside, &mut ahead).map(parameter_name));
        } else {
            called(&token, tokens, names)?;
        }
    }
    (!is_worked_out || !has_hint).then_some(())
}

/// Adds the name that a call of `set_config` has as a constant, if this is one.
fn called(function: &Token<'_>, mut arguments: Lexer<'_>, names: &mut Vec<Vec<u8>>) -> Option<()> {
    let is_call = Name::of(*function).is_some_and(|name| name.is("set_config"));
    if !is_call || !arguments.accept_symbol(b'(') || is_local(arguments) {
        return Some(());
    }
    let name = text_of(&arguments.next()?)?.collect();
    names.push(name);
    arguments.accept_symbol(b',').then_some(())
}

/// Returns what is between the two delimiters.
fn dollar_quoted(text: &[u8]) -> &[u8] {
    let tag = text.iter().skip(1).position(|byte| *byte == b'$').map_or(0, |at| at + 2);
    text.get(tag..text.len().saturating_sub(tag)).unwrap_or_default()
}
