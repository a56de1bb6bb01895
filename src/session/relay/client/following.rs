//! Which statements are definitions that follow to secondaries, by their text.

use crate::sql::{self, Action, Class, Definition, Dialect, Kind, Lexer, Object, Temporary, Verb};

/// A definition that is to follow.
pub(super) struct Following<'a> {
    pub(super) text: &'a [u8],
    /// What the server cannot tell from what it finds: words.
    pub(super) how: String,
    /// The relation that it is about, if its name is plain.
    pub(super) target: Option<&'a [u8]>,
    /// Whether it drops that.
    pub(super) is_drop: bool,
}

/// Says whether a statement is a definition that follows.
pub(super) fn follows_by_text(text: &[u8], dialect: Dialect) -> bool {
    let action = sql::classify(text, dialect).action;
    matches!(action, Action::Define(definition) if follows(&definition))
}

/// Says whether a statement reads data that the client sends behind it.
pub(super) fn reads_data(text: &[u8], dialect: Dialect) -> bool {
    let Class { action, .. } = sql::classify(text, dialect);
    action == Action::Copy && Lexer::new(text, dialect).any(|token| token.is("stdin"))
}

/// Says whether a definition is made on secondaries too: not what cannot be in a transaction, goes
/// with its session, is the whole cluster's, or says who may do what and where else data is.
fn follows(definition: &Definition<'_>) -> bool {
    if definition.is_alone || definition.temporary != Temporary::No {
        return false;
    }
    // ALL IN TABLESPACE: about places only.
    if definition.verb == Verb::Alter && definition.name.eq_ignore_ascii_case(b"all") {
        return false;
    }
    let is_ours = !matches!(definition.verb, Verb::Permit | Verb::Reassign | Verb::Import);
    is_ours
        && !matches!(
            definition.object,
            Object::Database
                | Object::DefaultPrivileges
                | Object::EventTrigger
                | Object::ForeignDataWrapper
                | Object::ForeignTable
                | Object::LargeObject
                | Object::Other
                | Object::Owned
                | Object::Publication
                | Object::Role
                | Object::Server
                | Object::Subscription
                | Object::System
                | Object::Tablespace
                | Object::UserMapping
        )
}

/// Reads a definition that is to follow.
pub(super) fn following(text: &[u8], dialect: Dialect) -> Option<Following<'_>> {
    let Action::Define(definition) = sql::classify(text, dialect).action else { return None };
    if !follows(&definition) {
        return None;
    }
    let has = |word: &str| Lexer::new(text, dialect).any(|token| token.is(word));
    let mut how = Vec::new();
    match (definition.verb, definition.object) {
        (Verb::Alter, Object::Table) if has("type") && has("using") => how.push("using"),
        (Verb::Alter, Object::Type) if has("add") && has("value") => how.push("label"),
        (Verb::Alter, Object::Type | Object::Domain) => how.push("type"),
        (Verb::Create, Object::Type) if has("enum") => how.push("enum"),
        (Verb::Alter, Object::Table) if has("validate") => how.push("validate"),
        _ => {}
    }
    if definition.has_query {
        how.push("query");
        // Then what is there already is left as it is.
        if is_if_not_exists(text, dialect) {
            how.push("lenient");
        }
    }
    let is_relation = matches!(
        definition.object,
        Object::Index | Object::MaterializedView | Object::Sequence | Object::Table | Object::View
    );
    let is_on_table = matches!(definition.object, Object::Policy | Object::Trigger)
        || (definition.verb, definition.object) == (Verb::Create, Object::Index);
    let name = if is_on_table { name_behind_on(text, dialect) } else { definition.name };
    let has_target = is_relation || is_on_table;
    let target = Some(name).filter(|name| has_target && is_plain(name, dialect));
    // Then it is looked what it is, before it is gone.
    let is_drop = definition.verb == Verb::Drop && is_relation && target.is_some();
    if is_drop {
        how.push("drop");
    }
    Some(Following { text, how: how.join(" "), target, is_drop })
}

/// Says whether IF NOT EXISTS is in a statement before its query.
fn is_if_not_exists(text: &[u8], dialect: Dialect) -> bool {
    let mut tokens = Lexer::new(text, dialect).take_while(|token| !token.is("as"));
    tokens.any(|token| token.is("if")) && tokens.next().is_some_and(|token| token.is("not"))
}

/// The name of the table behind ON.
fn name_behind_on(text: &[u8], dialect: Dialect) -> &[u8] {
    let mut tokens = Lexer::new(text, dialect);
    if !tokens.any(|token| token.is("on")) {
        return &[];
    }
    tokens.accept("only");
    let Some(first) = tokens.next() else { return &[] };
    let mut end = first.end();
    while tokens.accept_symbol(b'.') {
        let Some(part) = tokens.next() else { break };
        end = part.end();
    }
    text.get(first.at..end).unwrap_or_default()
}

/// Says whether a name is one that `to_regclass` reads.
fn is_plain(name: &[u8], dialect: Dialect) -> bool {
    let mut count = 0;
    let is_part = Lexer::new(name, dialect).enumerate().all(|(place, token)| {
        count += 1;
        let is_name = matches!(token.kind, Kind::Word | Kind::Quoted);
        if place % 2 == 0 { is_name } else { token.kind == Kind::Symbol(b'.') }
    });
    is_part && (count == 1 || count == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows() {
        let check = |text: &str, expected: Option<(&str, Option<&str>)>| {
            let found = following(text.as_bytes(), Dialect::default());
            let found = found.map(|found| {
                let target = found.target.map(|name| String::from_utf8_lossy(name).into_owned());
                (found.how, target)
            });
            let expected =
                expected.map(|(how, target)| (how.to_owned(), target.map(str::to_owned)));
            assert_eq!(found, expected, "{text}");
        };
        check("CREATE TABLE s.\"T\" (id int)", Some(("", Some("s.\"T\""))));
        check("alter table only t add c int", Some(("", Some("t"))));
        check("ALTER TABLE t ALTER c TYPE int USING c::int", Some(("using", Some("t"))));
        check("ALTER TYPE m ADD VALUE 'x'", Some(("label", None)));
        check("CREATE TYPE m AS ENUM ('x')", Some(("enum", None)));
        check("DROP TABLE IF EXISTS a.b", Some(("drop", Some("a.b"))));
        check("DROP TABLE IF EXISTS a.b.c", Some(("", None)));
        check("DROP VIEW U&\"v\"", Some(("", None)));
        check("DROP FUNCTION f()", Some(("", None)));
        check("ALTER TYPE m RENAME VALUE 'a' TO 'b'", Some(("type", None)));
        check("CREATE INDEX i ON ONLY s.t (a)", Some(("", Some("s.t"))));
        check("CREATE INDEX ON t (a)", Some(("", Some("t"))));
        check(
            "CREATE TRIGGER g AFTER UPDATE OF a ON t EXECUTE FUNCTION f()",
            Some(("", Some("t"))),
        );
        check("DROP TRIGGER g ON t", Some(("", Some("t"))));
        check("SELECT 1 AS id INTO t", Some(("query", Some("t"))));
        check("CREATE TABLE IF NOT EXISTS t AS SELECT 1", Some(("query lenient", Some("t"))));
        check("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", Some(("query", Some("t"))));
        check("ALTER TABLE t VALIDATE CONSTRAINT c", Some(("validate", Some("t"))));
        check("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", Some(("", None)));
        check("COMMENT ON TABLE t IS 'x'", Some(("", Some("t"))));
        for passed in [
            "SELECT 1",
            "TRUNCATE t",
            "CREATE TEMP TABLE t (id int)",
            "CREATE INDEX CONCURRENTLY i ON t (id)",
            "CREATE ROLE r",
            "GRANT ALL ON t TO r",
            "COMMENT ON ROLE r IS 'x'",
            "VACUUM t",
            "DO 'BEGIN END'",
            "CREATE DATABASE d",
            "ALTER SYSTEM SET work_mem = 1",
            "BEGIN",
            "ALTER TABLE ALL IN TABLESPACE x SET TABLESPACE y",
        ] {
            check(passed, None);
        }
    }
}
