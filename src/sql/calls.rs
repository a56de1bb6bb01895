//! What a statement leaves behind in the session by the functions it calls and the objects it makes.

use super::lexer::{Kind, Lexer, Token};
use super::name::Name;

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
    /// No advisory lock of the session is left: `pg_advisory_unlock_all`.
    pub const UNLOCK_ALL: Self = Self(1 << 2);
    /// A temporary object.
    pub const TEMPORARY: Self = Self(1 << 3);
    /// A temporary object that goes with the transaction: ON COMMIT DROP.
    pub const TEMPORARY_LOCAL: Self = Self(1 << 4);
    /// Something that only the end of the session takes back: the seed of `random()`, a connection
    /// of `dblink`, a replication origin, a backup, …
    pub const LASTING: Self = Self(1 << 5);
    /// It reads what other statements of the session left behind: `currval`, `lastval`.
    pub const SEQUENCE: Self = Self(1 << 6);
    /// It runs a text as a statement, and the text has something in it that would be one of these.
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

/// Functions that leave something behind when they are called.
///
/// Advisory locks by prefix, because there are many: see [`of_call`].
const CALLS: [(&str, Traces); 26] = [
    ("set_config", Traces::SETTING),
    ("pg_advisory_unlock_all", Traces::UNLOCK_ALL),
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
    let mut has_hint = false;
    let mut before: Option<Token<'_>> = None;
    let mut rest = tokens;
    while let Some(token) = rest.next() {
        let called = match token.kind {
            Kind::Symbol(b'(') => before.map_or(Traces::NONE, |name| of_call(&name, rest)),
            // An INTO that is not INSERT's or MERGE's makes a table.
            Kind::Word if token.is("into") && !before.is_some_and(|word| is_before_into(&word)) => {
                of_into(rest)
            }
            _ => Traces::NONE,
        };
        runs_text |= called.has(Traces::HIDDEN);
        has_hint |= token.is_literal() && hints_at_state(token.text);
        found = found.and(Traces(called.0 & !Traces::HIDDEN.0));
        before = Some(token);
    }
    if runs_text && has_hint { found.and(Traces::HIDDEN) } else { found }
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
        None if is_session_lock(name) => Traces::LOCK,
        None => Traces::NONE,
    }
}

/// Says whether a function takes or gives back advisory locks that outlive the transaction. One
/// given back may be the first of two, so that it proves nothing.
fn is_session_lock(name: Name<'_>) -> bool {
    [
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_try_advisory_lock",
        "pg_try_advisory_lock_shared",
    ]
    .iter()
    .any(|lock| name.is(lock))
}

/// Says whether the third argument is the constant `true`.
fn is_local(mut arguments: Lexer<'_>) -> bool {
    let mut depth = 0_usize;
    let mut commas = 0;
    while let Some(token) = arguments.next() {
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

fn of_into(mut tokens: Lexer<'_>) -> Traces {
    tokens.accept_any(&["local", "global"]);
    let is_temporary = tokens.accept_any(&["temp", "temporary"]);
    tokens.accept("table");
    let is_temporary = is_temporary || tokens.next().is_some_and(|name| is_temporary_schema(&name));
    if is_temporary { Traces::TEMPORARY } else { Traces::NONE }
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
pub(super) fn contains(text: &[u8], hint: &[u8]) -> bool {
    text.windows(hint.len()).any(|window| window.eq_ignore_ascii_case(hint))
}
