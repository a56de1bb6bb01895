//! Where a definition says that something is to be kept.

use std::ops::Range;

use super::lexer::{Dialect, Kind, Lexer, Token};

/// What a name behind TABLESPACE is a part of, if it is none of these before it: the name of the
/// thing that is made.
const BEFORE_NAMES: [&str; 7] = ["table", "index", "view", "exists", "concurrently", "on", "only"];

/// Returns where the names of tablespaces are in a CREATE or ALTER of a table, index or materialized
/// view.
///
/// TABLESPACE is no reserved word: a column may be called so, too. Those are in parentheses where
/// something is made, and not behind SET where it is changed.
pub fn tablespaces(text: &[u8], dialect: Dialect) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut tokens = Lexer::new(text, dialect);
    let mut before: Option<Token<'_>> = None;
    let is_change = tokens.peek().is_some_and(|first| first.is("alter"));
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Symbol(b'(') => depth += 1,
            Kind::Symbol(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && !is_change && token.is("as") {
            // A query follows.
            break;
        }
        if token.is("tablespace")
            && let Some(before) = &before
            && let Some(name) = tokens.peek().filter(is_name)
        {
            let is_clause = if is_change || depth > 0 {
                before.is("index") || is_change && before.is("set")
            } else {
                before.kind != Kind::Symbol(b'.')
                    && !BEFORE_NAMES.iter().any(|word| before.is(word))
            };
            if is_clause {
                found.push(name.at..name.end());
            }
        }
        before = Some(token);
    }
    found
}

fn is_name(token: &Token<'_>) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tablespaces() {
        let check = |text: &str, expected: &[&str]| {
            let found = tablespaces(text.as_bytes(), Dialect::default());
            let found: Vec<&str> = found.into_iter().filter_map(|at| text.get(at)).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("CREATE TABLE t (id int) TABLESPACE x", &["x"]);
        check(
            "create table t (id int primary key using index tablespace \"X\") tablespace y",
            &["\"X\"", "y"],
        );
        check("CREATE INDEX ON t (a) TABLESPACE x WHERE a > 0", &["x"]);
        check("ALTER TABLE t SET TABLESPACE x, ADD COLUMN tablespace text", &["x"]);
        check("ALTER TABLE t ADD PRIMARY KEY (a) USING INDEX TABLESPACE x", &["x"]);
        check(
            "CREATE MATERIALIZED VIEW v TABLESPACE x AS SELECT tablespace FROM pg_tables",
            &["x"],
        );
        for none in [
            "CREATE TABLE t (tablespace text)",
            "CREATE TABLE tablespace PARTITION OF t DEFAULT",
            "CREATE TABLE s.tablespace PARTITION OF t DEFAULT",
            "CREATE TABLE IF NOT EXISTS tablespace (id int)",
            "ALTER TABLE t ALTER tablespace SET NOT NULL",
            "ALTER TABLE t RENAME tablespace TO x",
            "CREATE TABLE t AS SELECT tablespace x FROM pg_tables",
            "CREATE INDEX i ON tablespace (a)",
        ] {
            check(none, &[]);
        }
    }
}
