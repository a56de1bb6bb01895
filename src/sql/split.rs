//! The statements of a query.

use super::lexer::{Dialect, Kind, Lexer, Token};

/// One statement of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its text from the first token to the last, without the semicolon.
    pub text: &'a [u8],
    /// Where it begins in the query.
    pub at: usize,
}

/// Cuts `query` at the semicolons between its statements.
///
/// Empty statements are left out: what lies between two parts is white space, comments and
/// semicolons. The bodies of SQL functions (`BEGIN ATOMIC … END`) and what stands in parentheses
/// (`CREATE RULE … DO (…; …)`) are part of their statement.
pub fn statements(query: &[u8], dialect: Dialect) -> Statements<'_> {
    Statements { query, lexer: Lexer::new(query, dialect) }
}

/// See [`statements`].
#[derive(Debug, Clone)]
pub struct Statements<'a> {
    query: &'a [u8],
    lexer: Lexer<'a>,
}

impl<'a> Iterator for Statements<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let mut range: Option<(usize, usize)> = None;
        let mut nesting = Nesting::default();
        for token in self.lexer.by_ref() {
            if nesting.ends_with(&token) {
                if range.is_some() {
                    break;
                }
                nesting = Nesting::default();
                continue;
            }
            let (from, _) = range.unwrap_or((token.at, 0));
            range = Some((from, token.end()));
        }
        let (from, to) = range?;
        Some(Part { text: self.query.get(from..to).unwrap_or_default(), at: from })
    }
}

/// How far the innermost statement has come towards defining a routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Lead {
    /// Nothing of it was read.
    #[default]
    Start,
    Create,
    CreateOr,
    /// `CREATE [OR REPLACE] FUNCTION | PROCEDURE …`: may have a body.
    Routine,
    /// The word before was BEGIN, in such a statement.
    RoutineBegin,
    Other,
}

/// What a semicolon would be inside of.
#[derive(Debug, Clone, Copy, Default)]
struct Nesting {
    parentheses: usize,
    bodies: usize,
    lead: Lead,
}

impl Nesting {
    /// Takes the next token; says whether it ends the outermost statement.
    fn ends_with(&mut self, token: &Token<'_>) -> bool {
        match token.kind {
            Kind::Symbol(b'(') => self.parentheses += 1,
            Kind::Symbol(b')') => self.parentheses = self.parentheses.saturating_sub(1),
            _ => {}
        }
        if self.parentheses > 0 {
            return false;
        }
        if token.kind == Kind::Symbol(b';') {
            self.lead = Lead::Start;
            return self.bodies == 0;
        }
        self.lead = match self.lead {
            // In a body END stands where a statement would begin: it cannot be one there.
            Lead::Start if self.bodies > 0 && token.is("end") => {
                self.bodies -= 1;
                Lead::Other
            }
            Lead::Start if token.is("create") => Lead::Create,
            Lead::Create if token.is("or") => Lead::CreateOr,
            Lead::CreateOr if token.is("replace") => Lead::Create,
            Lead::Create if token.is("function") || token.is("procedure") => Lead::Routine,
            Lead::RoutineBegin if token.is("atomic") => {
                self.bodies += 1;
                Lead::Start
            }
            Lead::Routine | Lead::RoutineBegin if token.is("begin") => Lead::RoutineBegin,
            Lead::Routine | Lead::RoutineBegin => Lead::Routine,
            Lead::Start | Lead::Create | Lead::CreateOr | Lead::Other => Lead::Other,
        };
        false
    }
}
