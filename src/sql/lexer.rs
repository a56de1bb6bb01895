//! Tokens: where words, names, literals and comments begin and end.
//!
//! Source: PostgreSQL `src/backend/parser/scan.l`, whose states and rules are cited by name.

/// What decides where tokens end, beside the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// How characters beyond ASCII are written.
    pub charset: Charset,
    /// `standard_conforming_strings` is off: a backslash escapes in every string.
    pub is_backslash_escape: bool,
}

/// How a client encoding writes characters beyond ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Charset {
    /// Every byte of such a character has its high bit set (UTF-8, LATIN1, EUC_*, …).
    #[default]
    Apart,
    /// The byte behind one with the high bit set belongs to it, and may look like ASCII.
    Pairs,
    /// As [`Charset::Pairs`], but 0xA1 to 0xDF stand alone.
    ShiftJis,
}

impl Charset {
    /// Returns the charset of a `client_encoding` as the server reports it.
    pub fn of(encoding: &[u8]) -> Self {
        match encoding {
            b"BIG5" | b"GBK" | b"UHC" | b"GB18030" | b"JOHAB" => Self::Pairs,
            b"SJIS" | b"SHIFT_JIS_2004" => Self::ShiftJis,
            _ => Self::Apart,
        }
    }

    /// Returns the number of bytes that must be looked at as one.
    fn step(self, byte: u8) -> usize {
        let is_single = match self {
            Self::Apart => true,
            Self::Pairs => byte < 0x80,
            Self::ShiftJis => byte < 0x80 || (0xA1..=0xDF).contains(&byte),
        };
        if is_single { 1 } else { 2 }
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyword or an identifier without quotes.
    Word,
    /// `"name"`.
    Quoted,
    /// `U&"name"`.
    QuotedUnicode,
    /// `'text'`, where a backslash is a character.
    Literal,
    /// `E'text'`, or any string while backslashes escape.
    LiteralEscaped,
    /// `U&'text'`, `B'bits'`, `X'bits'`.
    LiteralOther,
    /// `$tag$text$tag$`.
    LiteralDollar,
    /// Digits.
    Number,
    /// `$1`.
    Parameter,
    /// One byte of an operator or of punctuation.
    Symbol(u8),
    /// A quote or comment that has no end; nothing comes behind it, and PostgreSQL refuses it.
    Unfinished,
}

/// One token and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// As it was written, with its quotes.
    pub text: &'a [u8],
    /// Where it begins.
    pub at: usize,
}

impl Token<'_> {
    /// Says whether this is the keyword `word`, whatever its case.
    pub fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word.as_bytes())
    }

    /// Says whether this is a string of any kind.
    pub fn is_literal(&self) -> bool {
        matches!(
            self.kind,
            Kind::Literal | Kind::LiteralEscaped | Kind::LiteralOther | Kind::LiteralDollar
        )
    }

    /// Returns where it ends.
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// Reads tokens; a copy of it looks ahead.
#[derive(Debug, Clone, Copy)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    dialect: Dialect,
}

impl<'a> Lexer<'a> {
    /// Starts at the first byte of `text`.
    pub fn new(text: &'a [u8], dialect: Dialect) -> Self {
        Self { text, at: 0, dialect }
    }

    /// Returns the next token without taking it.
    pub fn peek(&self) -> Option<Token<'a>> {
        self.clone_of().next()
    }

    /// Takes the next token if it is the keyword `word`.
    pub fn accept(&mut self, word: &str) -> bool {
        self.accept_if(|token| token.is(word))
    }

    /// Takes the next token if it is one of these keywords.
    pub fn accept_any(&mut self, words: &[&str]) -> bool {
        self.accept_if(|token| words.iter().any(|word| token.is(word)))
    }

    /// Takes the next token if it is this byte of punctuation.
    pub fn accept_symbol(&mut self, symbol: u8) -> bool {
        self.accept_if(|token| token.kind == Kind::Symbol(symbol))
    }

    fn accept_if(&mut self, is_wanted: impl Fn(&Token<'a>) -> bool) -> bool {
        let mut ahead = *self;
        let is_found = ahead.next().is_some_and(|token| is_wanted(&token));
        if is_found {
            *self = ahead;
        }
        is_found
    }

    fn clone_of(&self) -> Self {
        *self
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    fn rest(&self, at: usize) -> &'a [u8] {
        self.text.get(at..).unwrap_or_default()
    }

    /// Skips white space and comments; an unfinished comment is returned as a token.
    fn skip_blank(&mut self) -> Option<Token<'a>> {
        loop {
            match (self.byte(self.at)?, self.byte(self.at + 1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, _) => self.at += 1,
                (b'-', Some(b'-')) => self.at = self.line_end(self.at),
                (b'/', Some(b'*')) => match self.comment_end(self.at) {
                    Some(end) => self.at = end,
                    None => return Some(self.take(Kind::Unfinished, self.text.len())),
                },
                _ => return None,
            }
        }
    }

    fn line_end(&self, from: usize) -> usize {
        memchr::memchr2(b'\n', b'\r', self.rest(from)).map_or(self.text.len(), |ahead| from + ahead)
    }

    /// Returns the end of a comment that may have others inside (`xcstart`, `xcstop`).
    fn comment_end(&self, from: usize) -> Option<usize> {
        let mut at = from + 2;
        let mut depth = 1_usize;
        loop {
            at += memchr::memchr2(b'/', b'*', self.rest(at))?;
            match (self.byte(at), self.byte(at + 1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ => at += 1,
            }
        }
    }

    fn take(&mut self, kind: Kind, end: usize) -> Token<'a> {
        let at = self.at;
        self.at = end;
        Token { kind, text: self.text.get(at..end).unwrap_or_default(), at }
    }

    fn take_until(&mut self, kind: Kind, end: Option<usize>) -> Token<'a> {
        match end {
            Some(end) => self.take(kind, end),
            None => self.take(Kind::Unfinished, self.text.len()),
        }
    }

    /// Takes a string whose quote is at `quote`.
    fn take_literal(&mut self, kind: Kind, quote: usize) -> Token<'a> {
        let end = self.literal_end(quote, kind == Kind::LiteralEscaped);
        self.take_until(kind, end)
    }

    /// Returns the end of a string and of its continuations on following lines (`quotecontinue`),
    /// in which backslashes mean what they mean in the first part.
    fn literal_end(&self, quote: usize, is_escaped: bool) -> Option<usize> {
        let mut end = self.quoted_end(quote, b'\'', is_escaped)?;
        while let Some(next) = self.continuation(end) {
            end = self.quoted_end(next, b'\'', is_escaped)?;
        }
        Some(end)
    }

    /// Returns where the quote of a string's continuation is: behind white space with a line end,
    /// and comments that end with their line.
    fn continuation(&self, from: usize) -> Option<usize> {
        let mut at = from;
        let mut is_new_line = false;
        loop {
            match (self.byte(at)?, self.byte(at + 1)) {
                (b'\n' | b'\r', _) => {
                    is_new_line = true;
                    at += 1;
                }
                (b' ' | b'\t' | 0x0B | 0x0C, _) => at += 1,
                (b'-', Some(b'-')) => at = self.line_end(at),
                (b'\'', _) if is_new_line => return Some(at),
                _ => return None,
            }
        }
    }

    /// Returns the end of what begins with the quote at `from`; a doubled quote is part of it.
    fn quoted_end(&self, from: usize, quote: u8, is_escaped: bool) -> Option<usize> {
        let mut at = from + 1;
        loop {
            at += self.find_quote(at, quote, is_escaped)?;
            if self.byte(at)? == b'\\' {
                at += 1 + self.dialect.charset.step(self.byte(at + 1)?);
            } else if self.byte(at + 1) == Some(quote) {
                at += 2;
            } else {
                return Some(at + 1);
            }
        }
    }

    /// Finds the next quote, or backslash that escapes. No quote is the second byte of a character
    /// in any encoding; a backslash may be.
    fn find_quote(&self, from: usize, quote: u8, is_escaped: bool) -> Option<usize> {
        let rest = self.rest(from);
        let charset = self.dialect.charset;
        if !is_escaped {
            return memchr::memchr(quote, rest);
        }
        if charset == Charset::Apart {
            return memchr::memchr2(quote, b'\\', rest);
        }
        let mut at = 0;
        loop {
            let byte = *rest.get(at)?;
            if byte == quote || byte == b'\\' {
                return Some(at);
            }
            at += charset.step(byte);
        }
    }

    fn word_end(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(byte) = self.byte(at).filter(|byte| is_in_word(*byte)) {
            at += self.dialect.charset.step(byte);
        }
        at.min(self.text.len())
    }

    fn digits_end(&self, from: usize) -> usize {
        let digits = self.rest(from).iter().take_while(|byte| byte.is_ascii_digit());
        from + digits.count()
    }

    /// Takes what begins with a letter: a word, or a string or name with a prefix.
    fn take_word(&mut self, first: u8) -> Token<'a> {
        let next = (self.byte(self.at + 1), self.byte(self.at + 2));
        match (first.to_ascii_lowercase(), next) {
            (b'e', (Some(b'\''), _)) => self.take_literal(Kind::LiteralEscaped, self.at + 1),
            (b'b' | b'x', (Some(b'\''), _)) => self.take_literal(Kind::LiteralOther, self.at + 1),
            (b'u', (Some(b'&'), Some(b'\''))) => self.take_literal(Kind::LiteralOther, self.at + 2),
            (b'u', (Some(b'&'), Some(b'"'))) => {
                let end = self.quoted_end(self.at + 2, b'"', false);
                self.take_until(Kind::QuotedUnicode, end)
            }
            _ => self.take(Kind::Word, self.word_end(self.at)),
        }
    }

    /// Takes what begins with a dollar: a parameter, or a quoted text (`dolqdelim`).
    fn take_dollar(&mut self) -> Token<'a> {
        let next = self.byte(self.at + 1);
        if next.is_some_and(|byte| byte.is_ascii_digit()) {
            return self.take(Kind::Parameter, self.digits_end(self.at + 1));
        }
        let mut tag_end = self.at + 1;
        if next.is_some_and(is_word_start) {
            while let Some(byte) = self.byte(tag_end).filter(|b| *b != b'$' && is_in_word(*b)) {
                tag_end += self.dialect.charset.step(byte);
            }
        }
        let Some(tag) = self.text.get(self.at..=tag_end).filter(|tag| tag.ends_with(b"$")) else {
            return self.take(Kind::Symbol(b'$'), self.at + 1);
        };
        let inside = tag_end + 1;
        let end = memchr::memmem::find(self.rest(inside), tag);
        self.take_until(Kind::LiteralDollar, end.map(|ahead| inside + ahead + tag.len()))
    }
}

#[expect(clippy::copy_iterator, reason = "a copy looks ahead")]
impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(unfinished) = self.skip_blank() {
            return Some(unfinished);
        }
        let first = self.byte(self.at)?;
        Some(match first {
            b'\'' if self.dialect.is_backslash_escape => {
                self.take_literal(Kind::LiteralEscaped, self.at)
            }
            b'\'' => self.take_literal(Kind::Literal, self.at),
            b'"' => {
                let end = self.quoted_end(self.at, b'"', false);
                self.take_until(Kind::Quoted, end)
            }
            b'$' => self.take_dollar(),
            b'0'..=b'9' => self.take(Kind::Number, self.digits_end(self.at)),
            _ if is_word_start(first) => self.take_word(first),
            _ => self.take(Kind::Symbol(first), self.at + 1),
        })
    }
}

/// `ident_start`.
fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// `ident_cont`.
pub(super) fn is_in_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}
