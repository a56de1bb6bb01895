//! Names and strings by their meaning: without quotes, in the case that PostgreSQL gives them.

use super::lexer::{Kind, Token};

/// Longest name that PostgreSQL keeps (`NAMEDATALEN` - 1); the rest of a longer one is cut off.
const NAME_MAX: usize = 63;

/// A name as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    token: Token<'a>,
}

impl<'a> Name<'a> {
    /// Makes a name of a token, if it can be one.
    pub fn of(token: Token<'a>) -> Option<Self> {
        matches!(token.kind, Kind::Word | Kind::Quoted).then_some(Self { token })
    }

    /// Returns the bytes of the name as the server has them.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + 'a {
        let is_quoted = self.token.kind == Kind::Quoted;
        let inside = if is_quoted { inner(self.token.text) } else { self.token.text };
        undoubled(inside, b'"')
            .map(move |byte| if is_quoted { byte } else { byte.to_ascii_lowercase() })
            .take(NAME_MAX)
    }

    /// Returns the name as the server has it.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().collect()
    }

    /// Says whether this is the name `name`, which is in lower case.
    pub fn is(&self, name: &str) -> bool {
        self.bytes().eq(name.bytes())
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().eq(other.bytes())
    }
}

impl Eq for Name<'_> {}

/// Returns what a string says, if that is written in it plainly: without escapes, in one part.
pub fn text_of<'a>(literal: &Token<'a>) -> Option<impl Iterator<Item = u8> + Clone + 'a> {
    let inside = match literal.kind {
        Kind::Literal => inner(literal.text),
        Kind::LiteralEscaped => {
            let text = literal.text;
            let text = text.strip_prefix(b"E").or_else(|| text.strip_prefix(b"e")).unwrap_or(text);
            Some(inner(text)).filter(|inside| !inside.contains(&b'\\'))?
        }
        Kind::Word
        | Kind::Quoted
        | Kind::QuotedUnicode
        | Kind::LiteralOther
        | Kind::LiteralDollar
        | Kind::Number
        | Kind::Parameter
        | Kind::Symbol(_)
        | Kind::Unfinished => return None,
    };
    // A continuation on another line has a quote that is not doubled.
    let quotes = || inside.split(|byte| *byte == b'\'');
    let is_one_part = quotes().count() % 2 == 1 && {
        let mut parts = quotes().skip(1);
        loop {
            match (parts.next(), parts.next()) {
                (Some([]), Some(_)) => {}
                (None, _) => break true,
                _ => break false,
            }
        }
    };
    is_one_part.then(|| undoubled(inside, b'\''))
}

fn inner(quoted: &[u8]) -> &[u8] {
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default()
}

/// Returns bytes with every doubled quote made one.
fn undoubled(inside: &[u8], quote: u8) -> impl Iterator<Item = u8> + Clone + '_ {
    let mut was_quote = false;
    inside.iter().copied().filter(move |byte| {
        was_quote = *byte == quote && !was_quote;
        *byte != quote || was_quote
    })
}
