//! SQL `DEALLOCATE` of a statement that the client prepared through the protocol.
//!
//! The server has that under a name of ours, and keeps it for others. So it drops an empty statement in
//! its place, which it has been given in the same write: whether that succeeds, in which words, and what it
//! does to the transaction, it says itself.
//!
//! LIMIT: only in a Query of its own.

use super::{Message, Step};
use crate::backend::link::Effect;
use crate::sql::{self, Action, Names};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};

/// What the server drops. No client reaches it: it has our prefix.
const NAME: &[u8] = b"pgtandem_deallocated";

const QUERY: &[u8] = b"DEALLOCATE pgtandem_deallocated";

/// How such a text begins.
const WORD: &[u8] = b"deallocate";

impl Message<'_, '_> {
    /// Returns the name that a Query deallocates, if it does nothing else.
    pub(super) fn deallocated(&self, text: &[u8]) -> Option<Box<[u8]>> {
        let start = text.trim_ascii_start().get(..WORD.len())?;
        if !self.front.rules.renames() || !start.eq_ignore_ascii_case(WORD) {
            return None;
        }
        let dialect = self.front.params.lexical();
        let mut parts = sql::statements(text, dialect);
        let (Some(only), None) = (parts.next(), parts.next()) else { return None };
        let Action::Deallocate(Names::One(name)) = sql::classify(only.text, dialect).action else {
            return None;
        };
        Some(name.to_vec().into())
    }

    /// Has the server drop the stand-in for the client's statement `name`. `effect` is the Query's.
    pub(super) fn deallocate(&mut self, name: Box<[u8]>, effect: Effect) -> Step {
        let out = self.splice.insert();
        // It may be there, if the last time it was not dropped.
        encode::close_statement(out, NAME);
        encode::parse(out, NAME, &[0, 0, 0]);
        encode::query(out, QUERY);
        let expect = &mut self.link.expect;
        expect.push(Awaited::Close, Reply::Swallow, effect);
        expect.push(Awaited::Parse, Reply::Swallow, Effect::None);
        expect.push(Awaited::Query, Reply::Forward, Effect::Deallocated(name));
        self.skip()
    }
}
