//! Definitions of a client whose database has secondaries: each has the server write it into the change
//! log behind it, in the same transaction, by a call that the client does not see.
//!
//! What the call is given goes as parameters of a Bind, which no SQL of the client can read. A Query
//! with definitions in it is sent as the messages of the extended protocol, statement by statement up
//! to one Sync: that is one implicit transaction too.
//!
//! LIMIT: a Query or a definition above [`LOOKED_AT_MAX`] is not looked at.

use std::ops::Range;
use std::sync::Arc;

use super::following::{Following, following, follows_by_text, reads_data};
use super::{Message, Step};
use crate::backend::link::{Effect, Unnamed};
use crate::config::Ddl;
use crate::fault::{Fault, SqlState};
use crate::pool::definitions::Proof;
use crate::session::front::StatementRules;
use crate::sql::{self, Glance};
use crate::wire::cursor::Cursor;
use crate::wire::encode::{self, Parameter};
use crate::wire::expect::{Awaited, Reply};
use crate::wire::frontend;
use crate::wire::tag::frontend as tag;

/// Longest message that is looked at. LIMIT: it must be held as a whole.
pub(super) const LOOKED_AT_MAX: usize = 16 << 20;

/// Most statements of a Query with a definition among them. LIMIT: each is several messages.
const STATEMENTS_MAX: usize = 10_000;

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

impl Message<'_, '_> {
    /// Says whether a Query that may do more than change rows has definitions that follow.
    ///
    /// # Errors
    /// Why it must not run: 0A000 where definitions are refused or cannot follow, 54000.
    pub(super) fn has_definitions(&self, text: &[u8]) -> Result<bool, Fault> {
        let dialect = self.front.params.lexical();
        let parts = || sql::statements(text, dialect);
        if !parts().any(|part| follows_by_text(part.text, dialect)) {
            return Ok(false);
        }
        if self.refuses_definitions() {
            return Err(refused());
        }
        let count = parts().take(STATEMENTS_MAX + 1).count();
        if count > STATEMENTS_MAX {
            let what = "too many statements in one query with a definition";
            return Err(Fault::error(SqlState::PROGRAM_LIMIT_EXCEEDED, what));
        }
        if count > 1 && parts().any(|part| reads_data(part.text, dialect)) {
            return Err(Fault::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "COPY FROM STDIN and definitions cannot be in one query",
            ));
        }
        Ok(true)
    }

    /// Sends a Query with definitions in it.
    pub(super) fn define_query(&mut self, query: &[u8], mut effect: Effect) -> Step {
        let dialect = self.front.params.lexical();
        let mut parts = sql::statements(query, dialect).peekable();
        let mut from = 0;
        while let Some(part) = parts.next() {
            let following = following(part.text, dialect);
            if let Some(following) = following.as_ref().filter(|following| following.is_drop) {
                self.look(following);
            }
            // The semicolon is the client's, too, and what else is between two statements.
            let to = parts.peek().map_or(query.len(), |next| next.at);
            self.send_as_extended(query, from..to, std::mem::take(&mut effect));
            from = to;
            if let Some(following) = following {
                self.call(&following);
            }
        }
        encode::close_statement(self.splice.insert(), b"");
        self.link.expect.push(Awaited::Close, Reply::Swallow, Effect::Noted);
        encode::sync(self.splice.insert());
        self.link.expect.push(Awaited::Sync, Reply::Forward, Effect::None);
        self.link.has_unnamed = false;
        self.skip()
    }

    /// Sends one statement of a Query. What precedes it is white space, so that positions in errors
    /// are those of the query.
    fn send_as_extended(&mut self, query: &[u8], range: Range<usize>, effect: Effect) {
        let before = query.get(..range.start).unwrap_or_default();
        let out = self.splice.insert();
        encode::message(out, tag::PARSE, |out| {
            out.push(0);
            // One for each character of UTF-8; for each byte in other encodings of several bytes.
            let blanks = before.iter().filter(|byte| **byte & 0xc0 != 0x80);
            out.extend(blanks.map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            out.extend_from_slice(query.get(range).unwrap_or_default());
            out.extend_from_slice(&[0, 0, 0]);
        });
        encode::bind(out, b"", b"", &[]);
        // An EXPLAIN has rows, whatever it explains.
        encode::message(out, tag::DESCRIBE, |out| out.extend_from_slice(b"P\0"));
        encode::execute(out, b"");
        self.link.expect.push(Awaited::Parse, Reply::Swallow, effect);
        self.link.expect.push(Awaited::Bind, Reply::Swallow, Effect::None);
        self.link.expect.push(Awaited::Describe, Reply::Rows, Effect::None);
        self.link.expect.push(Awaited::Execute, Reply::Forward, Effect::None);
    }

    /// Refuses a definition, or remembers the text of a statement that keeps its name.
    pub(super) fn note_parse(&mut self) -> Option<Step> {
        self.front.definitions.as_ref()?;
        if self.header.message_bytes() > LOOKED_AT_MAX {
            return None;
        }
        let Some(body) = self.body() else { return Some(Step::Incomplete) };
        let parse = frontend::parse(body).ok()?;
        let text = Cursor::new(parse.definition).cstr().ok()?;
        let is_followed = self.is_definition(text);
        if is_followed && self.refuses_definitions() {
            let fault = refused();
            return Some(self.refuse(&fault));
        }
        if !self.is_kept(parse.name) && (is_followed || self.front.defining().is_some()) {
            let text = is_followed.then(|| Arc::from(text));
            self.front.defining_mut().statements.set(parse.name, text);
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
    pub(super) fn note_bind(&mut self) {
        if self.front.definitions.is_none() {
            return;
        }
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
            text.filter(|text| self.is_definition(text)).map(Arc::from)
        } else {
            self.front.defining().and_then(|has| has.statements.find(bind.statement).cloned())
        };
        if text.is_some() || self.front.defining().is_some() {
            self.front.defining_mut().portals.set(bind.portal, text);
        }
    }

    /// Sends an Execute of a definition with what is behind it; `None` if it is of something else.
    pub(super) fn define_execute(&mut self) -> Option<Step> {
        self.front.defining()?;
        let Some(body) = self.body() else { return Some(Step::Incomplete) };
        let portal = Cursor::new(body).cstr().ok()?;
        let text = Arc::clone(self.front.defining()?.portals.find(portal)?);
        let following = following(&text, self.front.params.lexical())?;
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
        self.run(LOOK, &[25], &[Parameter::Text(Some(target))]);
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
        let text = |bytes| Parameter::Text(Some(bytes));
        let parameters = [
            Parameter::Binary(&digest),
            text(nonce.as_bytes()),
            text(how.as_bytes()),
            Parameter::Binary(following.text),
            text(definitions.include.as_bytes()),
            text(definitions.exclude.as_bytes()),
            Parameter::Text(following.target),
        ];
        self.run(CALL, &CALL_TYPES, &parameters);
    }

    /// Has the server run a statement of ours, of which the client sees nothing.
    fn run(&mut self, text: &[u8], types: &[u32], parameters: &[Parameter<'_>]) {
        let out = self.splice.insert();
        // They may be there, if the last time was cut short.
        encode::close_statement(out, NAME);
        encode::parse_typed(out, NAME, text, types);
        encode::close_portal(out, NAME);
        encode::bind(out, NAME, NAME, parameters);
        encode::execute(out, NAME);
        encode::close_portal(out, NAME);
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

    fn refuses_definitions(&self) -> bool {
        let policy = self.front.definitions.as_ref().map(|definitions| definitions.policy);
        policy == Some(Ddl::Refuse)
    }

    fn is_definition(&self, text: &[u8]) -> bool {
        sql::glance(text) == Glance::Unclear && follows_by_text(text, self.front.params.lexical())
    }
}

fn refused() -> Fault {
    Fault::error(
        SqlState::FEATURE_NOT_SUPPORTED,
        "definitions are refused, because this database has secondaries (ddl = \"refuse\")",
    )
}
