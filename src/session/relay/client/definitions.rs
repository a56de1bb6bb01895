//! Definitions of a client whose database has secondaries: each has the server write it into the change
//! log behind it, in the same transaction, by a call that the client does not see.
//!
//! What the call is given goes as parameters of a Bind, which no SQL of the client can read. A Query
//! with definitions in it is sent as the messages of the extended protocol, statement by statement up
//! to one Sync: that is one implicit transaction too.
//!
//! LIMIT: a Query or a definition above [`LOOKED_AT_MAX`] is not looked at.

use std::sync::Arc;

use super::{Message, Step};
use crate::backend::link::{Effect, Unnamed};
use crate::config::Ddl;
use crate::fault::{Fault, SqlState};
use crate::pool::definitions::Proof;
use crate::session::front::{Front, StatementRules};
use crate::sql::{
    self, Action, Charset, Class, Definition, Dialect, Glance, Kind, Lexer, Object, Temporary, Verb,
};
use crate::wire::cursor::Cursor;
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};
use crate::wire::frontend;
use crate::wire::tag::frontend as tag;

/// Longest Query that is looked at. LIMIT: it must be held as a whole.
const LOOKED_AT_MAX: usize = 16 << 20;

/// Statement and portal of the call. No client reaches them: they have our prefix.
const NAME: &[u8] = b"pgtandem_define";

/// The call. What the caller has set is read here, because it is not set inside.
const CALL: &[u8] = b"SELECT pgtandem.define($1, $2, $3, $4, $5, $6, pg_catalog.to_regclass($7), \
    pg_catalog.current_setting('search_path'), current_user::pg_catalog.text, \
    pg_catalog.current_setting('standard_conforming_strings'))";

/// The types of its parameters: bytea int8 text bytea text text text.
const CALL_TYPES: [u32; 7] = [17, 20, 25, 17, 25, 25, 25];

/// Says for the transaction what kind of thing is about to be dropped: afterwards nobody can tell.
const LOOK: &[u8] = b"SELECT pg_catalog.set_config('pgtandem.dropped', (SELECT c.relpersistence \
    FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1))\
    ::pg_catalog.text, true)";

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is none, or one that does not follow.
    Passed,
    /// It follows.
    Followed,
}

/// A definition that is to follow.
struct Following<'a> {
    text: &'a [u8],
    /// What the server cannot tell from what it finds: words.
    how: String,
    /// The relation that it is about, if its name is plain.
    target: Option<&'a [u8]>,
    /// Whether it drops that.
    is_drop: bool,
}

impl<'a> Message<'a, '_> {
    /// Does what is to be done for definitions, if this is about any; `None` if the message is to be
    /// treated like all others.
    pub(super) fn define(&mut self) -> Option<Result<Step, Fault>> {
        match self.header.tag {
            tag::QUERY => self.define_query().map(Ok),
            tag::PARSE => self.note_parse().map(Ok),
            tag::BIND => {
                self.note_bind();
                None
            }
            tag::EXECUTE => self.define_execute().map(Ok),
            _ => None,
        }
    }

    fn define_query(&mut self) -> Option<Step> {
        if self.header.message_bytes() > LOOKED_AT_MAX {
            return None;
        }
        let Some(body) = self.body() else { return Some(Step::Incomplete) };
        let text = Cursor::new(body).cstr().ok()?;
        if sql::glance(text) != Glance::Unclear {
            return None;
        }
        let dialect = dialect(self.front);
        let parts: Vec<_> = sql::statements(text, dialect).collect();
        let is_followed = |part: &sql::Part<'_>| fate(part.text, dialect) == Fate::Followed;
        if !parts.iter().any(is_followed) {
            return None;
        }
        if self.policy() == Ddl::Refuse {
            return Some(self.refuse_query());
        }
        if parts.len() > 1 && parts.iter().any(|part| reads_data(part.text, dialect)) {
            return Some(self.fail_query(&Fault::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "COPY FROM STDIN and definitions cannot be in one query",
            )));
        }
        let before = self.front.take_unnamed();
        let mut effect = Effect::None;
        if self.front.rules != StatementRules::Pass {
            effect = self.unnamed_changed(before, false);
        } else if before != Unnamed::None {
            self.front.prepared_mut().unnamed = before;
        }
        for part in &parts {
            let following = following(part.text, dialect);
            if let Some(following) = following.as_ref().filter(|following| following.is_drop) {
                self.look(following);
            }
            let effect = std::mem::take(&mut effect);
            self.send_as_extended(text, part, following.is_some(), effect);
            if let Some(following) = following {
                self.call(&following);
            }
        }
        encode::close_statement(self.splice.insert(), b"");
        self.link.expect.push(Awaited::Close, Reply::Swallow, Effect::Noted);
        encode::sync(self.splice.insert());
        self.link.expect.push(Awaited::Sync, Reply::Forward, Effect::None);
        self.link.has_unnamed = false;
        Some(self.skip())
    }

    /// Sends one statement of a Query. What precedes it is white space, so that positions in errors
    /// are those of the query.
    fn send_as_extended(
        &mut self,
        query: &[u8],
        part: &sql::Part<'_>,
        is_definition: bool,
        effect: Effect,
    ) {
        let before = query.get(..part.at).unwrap_or_default();
        let out = self.splice.insert();
        encode::message(out, tag::PARSE, |out| {
            out.push(0);
            // One for each character of UTF-8; for each byte in other encodings of several bytes.
            let blanks = before.iter().filter(|byte| **byte & 0xc0 != 0x80);
            out.extend(blanks.map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            out.extend_from_slice(part.text);
            out.extend_from_slice(&[0, 0, 0]);
        });
        bind(out, b"", b"", &[]);
        if !is_definition {
            encode::message(out, tag::DESCRIBE, |out| out.extend_from_slice(b"P\0"));
        }
        execute(out, b"");
        self.link.expect.push(Awaited::Parse, Reply::Swallow, effect);
        self.link.expect.push(Awaited::Bind, Reply::Swallow, Effect::None);
        if !is_definition {
            self.link.expect.push(Awaited::Describe, Reply::Rows, Effect::None);
        }
        self.link.expect.push(Awaited::Execute, Reply::Forward, Effect::None);
    }

    /// Refuses a definition, or remembers the text of a statement that keeps its name.
    fn note_parse(&mut self) -> Option<Step> {
        if self.header.message_bytes() > LOOKED_AT_MAX {
            return None;
        }
        let Some(body) = self.body() else { return Some(Step::Incomplete) };
        let parse = frontend::parse(body).ok()?;
        let text = Cursor::new(parse.definition).cstr().ok()?;
        let is_followed = is_definition(text, dialect(self.front));
        if is_followed && self.policy() == Ddl::Refuse {
            let fault = refused();
            return Some(self.refuse(&fault));
        }
        if !self.is_kept(parse.name) {
            let text = is_followed.then(|| Arc::from(text));
            self.front.defining.statements.set(parse.name, text);
        }
        None
    }

    /// Says whether the text of a statement is found in the client's books.
    fn is_kept(&self, name: &[u8]) -> bool {
        match self.front.rules {
            StatementRules::Pass => false,
            StatementRules::Unnamed => name.is_empty(),
            StatementRules::Rename { .. } => true,
        }
    }

    /// Remembers whether a portal stands for a definition.
    fn note_bind(&mut self) {
        let Some(bind) = frontend::bind(self.body_so_far()) else { return };
        let text = if self.is_kept(bind.statement) {
            let prepared = self.front.prepared();
            let definition = if bind.statement.is_empty() {
                prepared.and_then(|prepared| match &prepared.unnamed {
                    Unnamed::Kept(definition) => Some(&**definition),
                    Unnamed::None | Unnamed::TooLong => None,
                })
            } else {
                let found = prepared.and_then(|prepared| prepared.find(bind.statement));
                found.map(|statement| statement.definition())
            };
            let text = definition.and_then(|definition| Cursor::new(definition).cstr().ok());
            text.filter(|text| is_definition(text, dialect(self.front))).map(Arc::from)
        } else {
            self.front.defining.statements.find(bind.statement).cloned()
        };
        let portals = &mut self.front.defining.portals;
        if text.is_some() || !portals.is_empty() {
            portals.set(bind.portal, text);
        }
    }

    fn define_execute(&mut self) -> Option<Step> {
        if self.front.defining.portals.is_empty() {
            return None;
        }
        let Some(body) = self.body() else { return Some(Step::Incomplete) };
        let portal = Cursor::new(body).cstr().ok()?;
        let text = Arc::clone(self.front.defining.portals.find(portal)?);
        let dialect = dialect(self.front);
        let following = following(&text, dialect)?;
        if following.is_drop {
            self.look(&following);
        }
        let step = self.extended(Awaited::Execute, Effect::None);
        self.call(&following);
        Some(step)
    }

    /// Has the server note what kind of thing is about to be dropped.
    fn look(&mut self, following: &Following<'_>) {
        let Some(target) = following.target else { return };
        self.run(LOOK, &[25], &[(0, Some(target))]);
    }

    /// Has the server write a definition down that it has just made.
    fn call(&mut self, following: &Following<'_>) {
        let Some(definitions) = self.front.definitions.clone() else { return };
        let how = following.how.as_str();
        let Some(Proof { nonce, digest }) = definitions.prove(self.link.pid, how, following.text)
        else {
            // Nobody follows yet, or nobody could be asked; secondaries find out by themselves.
            return;
        };
        let nonce = nonce.to_string();
        let parameters = [
            (1, Some(digest.as_slice())),
            (0, Some(nonce.as_bytes())),
            (0, Some(how.as_bytes())),
            (1, Some(following.text)),
            (0, Some(definitions.include.as_bytes())),
            (0, Some(definitions.exclude.as_bytes())),
            (0, following.target),
        ];
        self.run(CALL, &CALL_TYPES, &parameters);
    }

    /// Has the server run a statement of ours, of which the client sees nothing.
    fn run(&mut self, text: &[u8], types: &[u32], parameters: &[(i16, Option<&[u8]>)]) {
        let out = self.splice.insert();
        // They may be there, if the last time was cut short.
        encode::close_statement(out, NAME);
        encode::message(out, tag::PARSE, |out| {
            encode::cstr(out, NAME);
            encode::cstr(out, text);
            out.extend_from_slice(&length(types.len()).to_be_bytes());
            types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
        });
        close_portal(out, NAME);
        bind(out, NAME, NAME, parameters);
        execute(out, NAME);
        close_portal(out, NAME);
        encode::close_statement(out, NAME);
        for awaited in [
            Awaited::Close,
            Awaited::Parse,
            Awaited::Close,
            Awaited::Bind,
            Awaited::Execute,
            Awaited::Close,
            Awaited::Close,
        ] {
            self.link.expect.push(awaited, Reply::Swallow, Effect::Noted);
        }
    }

    fn policy(&self) -> Ddl {
        self.front.definitions.as_ref().map_or(Ddl::Ignore, |definitions| definitions.policy)
    }

    fn refuse_query(&mut self) -> Step {
        self.fail_query(&refused())
    }

    /// Fails a Query in the place of the server.
    fn fail_query(&mut self, fault: &Fault) -> Step {
        let step = self.refuse(fault);
        encode::sync(self.splice.insert());
        self.link.expect.push(Awaited::Sync, Reply::Forward, Effect::None);
        step
    }
}

fn refused() -> Fault {
    Fault::error(
        SqlState::FEATURE_NOT_SUPPORTED,
        "definitions are refused, because this database has secondaries (ddl = \"refuse\")",
    )
}

/// What the client's settings make of its texts.
fn dialect(front: &Front) -> Dialect {
    let value = |name: &[u8]| front.params.value(name);
    Dialect {
        charset: value(b"client_encoding").map_or(Charset::default(), Charset::of),
        is_backslash_escape: value(b"standard_conforming_strings") == Some(b"off"),
    }
}

/// Says whether a statement is a definition that follows.
fn is_definition(text: &[u8], dialect: Dialect) -> bool {
    sql::glance(text) == Glance::Unclear && fate(text, dialect) == Fate::Followed
}

fn reads_data(text: &[u8], dialect: Dialect) -> bool {
    let Class { action, .. } = sql::classify(text, dialect);
    action == Action::Copy && Lexer::new(text, dialect).any(|token| token.is("stdin"))
}

fn fate(text: &[u8], dialect: Dialect) -> Fate {
    match sql::classify(text, dialect).action {
        Action::Define(definition) if follows(&definition) => Fate::Followed,
        _ => Fate::Passed,
    }
}

/// Says whether a definition is made on secondaries too: not what cannot be in a transaction, goes
/// with its session, is the whole cluster's, or says who may do what and where else data is.
fn follows(definition: &Definition<'_>) -> bool {
    if definition.is_alone || definition.temporary != Temporary::No {
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
fn following(text: &[u8], dialect: Dialect) -> Option<Following<'_>> {
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
        _ => {}
    }
    if definition.has_query {
        how.push("query");
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
        match token.kind {
            Kind::Word | Kind::Quoted => place % 2 == 0,
            Kind::Symbol(b'.') => place % 2 == 1,
            _ => false,
        }
    });
    is_part && (count == 1 || count == 3)
}

fn length(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

/// Appends a Bind with parameters of the given formats.
fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], parameters: &[(i16, Option<&[u8]>)]) {
    encode::message(out, tag::BIND, |out| {
        encode::cstr(out, portal);
        encode::cstr(out, statement);
        let count = length(parameters.len()).to_be_bytes();
        out.extend_from_slice(&count);
        parameters.iter().for_each(|(format, _)| out.extend_from_slice(&format.to_be_bytes()));
        out.extend_from_slice(&count);
        for (_, value) in parameters {
            let bytes = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
            out.extend_from_slice(&bytes.to_be_bytes());
            out.extend_from_slice(value.unwrap_or_default());
        }
        out.extend_from_slice(&[0, 0]);
    });
}

fn execute(out: &mut Vec<u8>, portal: &[u8]) {
    encode::message(out, tag::EXECUTE, |out| {
        encode::cstr(out, portal);
        out.extend_from_slice(&[0; 4]);
    });
}

fn close_portal(out: &mut Vec<u8>, name: &[u8]) {
    encode::message(out, tag::CLOSE, |out| {
        out.push(b'P');
        encode::cstr(out, name);
    });
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
        ] {
            check(passed, None);
        }
    }
}
