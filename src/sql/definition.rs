//! Statements that change what there is in the database, not what is in its tables.

use super::calls::is_temporary_schema;
use super::lexer::{Kind, Lexer, Token};

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// CREATE.
    Create,
    /// ALTER.
    Alter,
    /// DROP.
    Drop,
    /// COMMENT ON, SECURITY LABEL.
    Describe,
    /// GRANT, REVOKE.
    Permit,
    /// REASSIGN OWNED.
    Reassign,
    /// REFRESH MATERIALIZED VIEW.
    Refresh,
    /// IMPORT FOREIGN SCHEMA.
    Import,
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as in PostgreSQL")]
pub enum Object {
    AccessMethod,
    Aggregate,
    Cast,
    Collation,
    Column,
    Constraint,
    Conversion,
    Database,
    DefaultPrivileges,
    Domain,
    EventTrigger,
    Extension,
    ForeignDataWrapper,
    ForeignTable,
    Function,
    Index,
    Language,
    LargeObject,
    MaterializedView,
    Operator,
    OperatorClass,
    OperatorFamily,
    /// DROP OWNED, REASSIGN OWNED.
    Owned,
    Policy,
    Procedure,
    Publication,
    /// ROLE, USER, GROUP.
    Role,
    Routine,
    Rule,
    Schema,
    Sequence,
    Server,
    Statistics,
    Subscription,
    /// ALTER SYSTEM.
    System,
    Table,
    Tablespace,
    TextSearch,
    Transform,
    Trigger,
    Type,
    UserMapping,
    View,
    /// One that is not known here, or any: GRANT, SECURITY LABEL.
    Other,
}

/// A statement that changes objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition<'a> {
    /// What it does.
    pub verb: Verb,
    /// To what.
    pub object: Object,
    /// The first name behind it, as written with its schema; empty if there is none.
    pub name: &'a [u8],
    /// CREATE TABLE AS, SELECT INTO: it fills the table from a query.
    pub has_query: bool,
    /// It makes a temporary object, as far as the statement says.
    pub temporary: Temporary,
    /// It cannot be part of a transaction block.
    pub is_alone: bool,
}

/// Whether an object goes with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporary {
    /// It stays.
    No,
    /// It goes with the session.
    Session,
    /// It goes with the transaction.
    Transaction,
}

/// First words of objects; the longest comes first where one is the beginning of another.
const OBJECTS: [(&[&str], Object); 43] = [
    (&["access", "method"], Object::AccessMethod),
    (&["aggregate"], Object::Aggregate),
    (&["cast"], Object::Cast),
    (&["collation"], Object::Collation),
    (&["column"], Object::Column),
    (&["constraint"], Object::Constraint),
    (&["conversion"], Object::Conversion),
    (&["database"], Object::Database),
    (&["default", "privileges"], Object::DefaultPrivileges),
    (&["domain"], Object::Domain),
    (&["event", "trigger"], Object::EventTrigger),
    (&["extension"], Object::Extension),
    (&["foreign", "data", "wrapper"], Object::ForeignDataWrapper),
    (&["foreign", "table"], Object::ForeignTable),
    (&["function"], Object::Function),
    (&["group"], Object::Role),
    (&["index"], Object::Index),
    (&["language"], Object::Language),
    (&["large", "object"], Object::LargeObject),
    (&["materialized", "view"], Object::MaterializedView),
    (&["operator", "class"], Object::OperatorClass),
    (&["operator", "family"], Object::OperatorFamily),
    (&["operator"], Object::Operator),
    (&["owned"], Object::Owned),
    (&["policy"], Object::Policy),
    (&["procedure"], Object::Procedure),
    (&["publication"], Object::Publication),
    (&["role"], Object::Role),
    (&["routine"], Object::Routine),
    (&["rule"], Object::Rule),
    (&["schema"], Object::Schema),
    (&["sequence"], Object::Sequence),
    (&["server"], Object::Server),
    (&["statistics"], Object::Statistics),
    (&["subscription"], Object::Subscription),
    (&["system"], Object::System),
    (&["table"], Object::Table),
    (&["tablespace"], Object::Tablespace),
    (&["text", "search"], Object::TextSearch),
    (&["transform"], Object::Transform),
    (&["trigger"], Object::Trigger),
    (&["type"], Object::Type),
    (&["view"], Object::View),
];

impl<'a> Definition<'a> {
    /// Reads what follows CREATE.
    pub(super) fn create(text: &'a [u8], mut tokens: Lexer<'a>) -> Self {
        let mut is_temporary = false;
        loop {
            if tokens.accept_any(&["temp", "temporary"]) {
                is_temporary = true;
            } else if tokens.accept("constraint") {
                // CREATE CONSTRAINT TRIGGER.
            } else if !tokens.accept_any(&[
                "or",
                "replace",
                "global",
                "local",
                "unlogged",
                "unique",
                "recursive",
                "trusted",
                "procedural",
            ]) {
                break;
            }
        }
        let object = object(&mut tokens);
        let is_concurrent = tokens.accept("concurrently");
        let mut made = Self::of(text, Verb::Create, object, tokens);
        made.is_alone = is_concurrent
            || matches!(object, Object::Database | Object::Tablespace | Object::Subscription);
        let is_temporary = is_temporary || is_in_temporary_schema(made.name, object, tokens);
        made.has_query =
            object == Object::MaterializedView || (object == Object::Table && has_query(tokens));
        if is_temporary {
            let goes = is_dropped_on_commit(tokens);
            made.temporary = if goes { Temporary::Transaction } else { Temporary::Session };
        }
        made
    }

    /// Reads what follows ALTER, DROP, COMMENT ON or REFRESH.
    pub(super) fn change(text: &'a [u8], verb: Verb, mut tokens: Lexer<'a>) -> Self {
        tokens.accept("procedural");
        let object = object(&mut tokens);
        let is_concurrent = object == Object::Index && tokens.accept("concurrently");
        let mut made = Self::of(text, verb, object, tokens);
        made.is_alone = match verb {
            Verb::Drop => {
                let alone = [Object::Database, Object::Tablespace, Object::Subscription];
                is_concurrent || alone.contains(&object)
            }
            Verb::Alter => match object {
                Object::System => true,
                Object::Database => has_words(tokens, &["set", "tablespace"]),
                Object::Table => {
                    has_words(tokens, &["detach", "partition"])
                        && has_words(tokens, &["concurrently"])
                }
                _ => false,
            },
            Verb::Create
            | Verb::Describe
            | Verb::Permit
            | Verb::Reassign
            | Verb::Refresh
            | Verb::Import => false,
        };
        made
    }

    /// SELECT INTO, whose INTO was read.
    pub(super) fn into(text: &'a [u8], mut tokens: Lexer<'a>) -> Self {
        tokens.accept_any(&["local", "global"]);
        let is_temporary = tokens.accept_any(&["temp", "temporary"]);
        tokens.accept("unlogged");
        tokens.accept("table");
        let mut made = Self::of(text, Verb::Create, Object::Table, tokens);
        made.has_query = true;
        if is_temporary || is_in_temporary_schema(made.name, Object::Table, tokens) {
            made.temporary = Temporary::Session;
        }
        made
    }

    pub(super) fn of(text: &'a [u8], verb: Verb, object: Object, mut tokens: Lexer<'a>) -> Self {
        skip_condition(&mut tokens);
        tokens.accept("only");
        let name = written_name(text, &mut tokens);
        let temporary = Temporary::No;
        Self { verb, object, name, has_query: false, temporary, is_alone: false }
    }
}

/// Takes the words of an object.
fn object(tokens: &mut Lexer<'_>) -> Object {
    for (words, object) in OBJECTS {
        let mut ahead = *tokens;
        if words.iter().all(|word| ahead.accept(word)) {
            *tokens = ahead;
            return object;
        }
    }
    // USER is a role, unless MAPPING follows.
    if tokens.accept("user") {
        return if tokens.accept("mapping") { Object::UserMapping } else { Object::Role };
    }
    Object::Other
}

/// Takes `IF [NOT] EXISTS`.
fn skip_condition(tokens: &mut Lexer<'_>) {
    let mut ahead = *tokens;
    if ahead.accept("if") {
        ahead.accept("not");
        if ahead.accept("exists") {
            *tokens = ahead;
        }
    }
}

/// Takes a name and its schema, as written.
pub(super) fn written_name<'a>(text: &'a [u8], tokens: &mut Lexer<'a>) -> &'a [u8] {
    let is_name =
        |token: &Token<'_>| matches!(token.kind, Kind::Word | Kind::Quoted | Kind::QuotedUnicode);
    // CREATE INDEX ON: it has no name.
    let Some(first) = tokens.peek().filter(|token| is_name(token) && !token.is("on")) else {
        return &[];
    };
    tokens.next();
    let mut end = first.end();
    while tokens.accept_symbol(b'.') {
        let Some(part) = tokens.next() else { break };
        end = part.end();
    }
    text.get(first.at..end).unwrap_or_default()
}

/// Says whether an object is made in a schema for temporary ones.
fn is_in_temporary_schema(name: &[u8], object: Object, mut tokens: Lexer<'_>) -> bool {
    match object {
        // They are where their table is, which was made before.
        Object::Index | Object::Trigger | Object::Rule | Object::Policy => false,
        // Names in parentheses, with schemas of their own.
        Object::Operator | Object::Cast | Object::TextSearch => {
            tokens.any(|token| is_temporary_schema(&token))
        }
        _ => tokens_of(name).next().is_some_and(|schema| is_temporary_schema(&schema)),
    }
}

fn tokens_of(name: &[u8]) -> Lexer<'_> {
    Lexer::new(name, super::Dialect::default())
}

/// Says whether AS and a query follow, outside of parentheses.
fn has_query(tokens: Lexer<'_>) -> bool {
    outside(tokens).any(|token| token.is("as"))
}

/// Says whether ON COMMIT DROP follows, outside of parentheses.
fn is_dropped_on_commit(tokens: Lexer<'_>) -> bool {
    has_words(tokens, &["on", "commit", "drop"])
}

/// Says whether these words follow one another somewhere outside of parentheses.
fn has_words(tokens: Lexer<'_>, words: &[&str]) -> bool {
    let mut matched = 0;
    outside(tokens).any(|token| {
        let is_next = words.get(matched).is_some_and(|word| token.is(word));
        matched = if is_next {
            matched + 1
        } else {
            usize::from(words.first().is_some_and(|word| token.is(word)))
        };
        matched == words.len()
    })
}

/// The tokens that are in no parentheses.
fn outside(tokens: Lexer<'_>) -> impl Iterator<Item = Token<'_>> {
    let mut depth = 0_usize;
    tokens.filter(move |token| {
        match token.kind {
            Kind::Symbol(b'(') => depth += 1,
            Kind::Symbol(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    })
}
