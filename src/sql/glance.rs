//! The first look at every text, made for those that applications send all the time.
//!
//! Budget: one pass of `memchr` over the text, and a few comparisons per parenthesis in it.

use super::lexer::is_in_word;

/// What a first look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glance {
    /// One statement that reads or changes rows, and nothing else.
    Plain,
    /// One BEGIN, START TRANSACTION, COMMIT, END or ROLLBACK; not to a savepoint.
    Transaction,
    /// It has to be looked at token by token.
    Unclear,
}

/// Looks at a query. What is [`Glance::Plain`] is so in every dialect.
pub fn glance(query: &[u8]) -> Glance {
    let query = query.trim_ascii();
    let query = query.strip_suffix(b";").map_or(query, <[u8]>::trim_ascii_end);
    let Some(query) = behind_comment(query) else { return Glance::Unclear };
    let length = query.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (first, rest) = query.split_at_checked(length).unwrap_or_default();
    // No word is longer than this; eight bytes compare as one number.
    let mut word = [0_u8; 8];
    let Some(letters) = word.get_mut(..length) else { return Glance::Unclear };
    letters.copy_from_slice(first);
    word.make_ascii_lowercase();
    match &word {
        b"select\0\0" | b"with\0\0\0\0" if is_free_of_effects(rest) && !has_into(rest) => {
            Glance::Plain
        }
        b"insert\0\0" | b"update\0\0" | b"delete\0\0" if is_free_of_effects(rest) => Glance::Plain,
        b"begin\0\0\0" | b"commit\0\0" | b"end\0\0\0\0\0" | b"rollback" if rest.is_empty() => {
            Glance::Transaction
        }
        _ => Glance::Unclear,
    }
}

/// Skips a comment in front, as programs put it there to say who they are.
fn behind_comment(query: &[u8]) -> Option<&[u8]> {
    let Some(comment) = query.strip_prefix(b"/*") else { return Some(query) };
    let end = memchr::memmem::find(comment, b"*/")?;
    let (inside, behind) = comment.split_at_checked(end)?;
    let is_nested = memchr::memmem::find(inside, b"/*").is_some() || inside.ends_with(b"/");
    behind.get(2..).filter(|_| !is_nested).map(<[u8]>::trim_ascii_start)
}

/// Says whether it is one statement and calls nothing that leaves something behind.
fn is_free_of_effects(text: &[u8]) -> bool {
    memchr::memchr3_iter(b'(', b';', b'&', text).all(|at| match text.get(at) {
        Some(b'(') => is_harmless_before_call(text.get(..at).unwrap_or_default()),
        // U&"…" may be any name.
        Some(b'&') => text.get(at + 1) != Some(&b'"'),
        _ => false,
    })
}

/// Says whether what stands before a parenthesis is surely not a function of [`super::calls`].
fn is_harmless_before_call(before: &[u8]) -> bool {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0B;
    let blanks = before.iter().rev().take_while(|byte| is_blank(byte)).count();
    let (before, blank) = before.split_at(before.len() - blanks);
    // There may be a comment between the name and the parenthesis. It would be on the last line: each
    // line is looked at once, however many parentheses begin one.
    let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if blank.iter().any(is_line_end) {
        let line = before.rsplit(is_line_end).next().unwrap_or_default();
        if memchr::memmem::find(line, b"--").is_some() {
            return false;
        }
    }
    let name = match before.split_last() {
        // The end of a comment.
        Some((b'/', _)) => return false,
        Some((b'"', quoted)) => quoted.rsplit(|byte| *byte == b'"').next().unwrap_or_default(),
        _ => {
            let length = before.iter().rev().take_while(|byte| is_in_word(**byte)).count();
            before.get(before.len() - length..).unwrap_or_default()
        }
    };
    !may_leave_something(name)
}

/// Says whether a function of this name may be one of [`super::calls`].
fn may_leave_something(name: &[u8]) -> bool {
    let starts = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let is_word = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    match name.first().map(u8::to_ascii_lowercase) {
        Some(b's') => starts("set") && !is_word("set"),
        Some(b'p') => starts("pg_"),
        Some(b'c') => is_word("currval") || starts("crosstab") || is_word("connectby"),
        Some(b'd') => starts("dblink"),
        Some(b'h') => starts("hypopg"),
        Some(b'l') => is_word("lastval"),
        Some(b'q') => starts("query_to"),
        Some(b't') => starts("ts_"),
        Some(_) | None => false,
    }
}

/// Says whether the letters of INTO are in the text.
fn has_into(text: &[u8]) -> bool {
    memchr::memchr2_iter(b'i', b'I', text).any(|at| {
        let rest = text.get(at + 1..at + 4).unwrap_or_default();
        rest.eq_ignore_ascii_case(b"nto")
    })
}
