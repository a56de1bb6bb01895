//! The words of a command: names, quoted names, literals, punctuation; comments are passed over.
//!
//! Source: PostgreSQL manual, "Lexical Structure". Unlike there, a word may hold anything but white
//! space, quotes and `=,;()`, and its letters keep their case: values and names need no quotes, as
//! in PgBouncer's console.

use super::command::SyntaxError;

/// One word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token<'a> {
    /// A name, keyword or number as it was typed.
    Word(&'a str),
    /// What stood in double quotes; doubled ones are single.
    Quoted(String),
    /// What stood in single quotes; doubled ones are single.
    Literal(String),
    /// One of `=,;()`.
    Symbol(char),
}

/// Cuts `text` into its words.
///
/// # Errors
/// [`SyntaxError::Unterminated`] if a quote or a comment has no end.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_blank(rest)?;
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let token = match first {
            '"' => {
                let (name, behind) = quoted(rest, '"', "quoted identifier")?;
                rest = behind;
                Token::Quoted(name)
            }
            '\'' => {
                let (value, behind) = quoted(rest, '\'', "quoted string")?;
                rest = behind;
                Token::Literal(value)
            }
            '=' | ',' | ';' | '(' | ')' => {
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
                Token::Symbol(first)
            }
            _ => {
                let (word, behind) = rest.split_at(word_length(rest));
                rest = behind;
                Token::Word(word)
            }
        };
        tokens.push(token);
    }
}

/// Returns what is left behind white space and comments.
fn skip_blank(text: &str) -> Result<&str, SyntaxError> {
    let mut rest = text.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, behind)| behind)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            behind_comment(comment)?
        } else {
            return Ok(rest);
        }
        .trim_start();
    }
}

/// Returns what is left behind a comment that has begun; comments nest.
fn behind_comment(text: &str) -> Result<&str, SyntaxError> {
    let mut depth = 1;
    let mut rest = text;
    while let Some(at) = rest.find(['*', '/']) {
        let here = rest.get(at..).unwrap_or_default();
        let step = if here.starts_with("/*") {
            depth += 1;
            2
        } else if here.starts_with("*/") {
            depth -= 1;
            2
        } else {
            1
        };
        rest = here.get(step..).unwrap_or_default();
        if depth == 0 {
            return Ok(rest);
        }
    }
    Err(SyntaxError::Unterminated { what: "/* comment" })
}

/// Reads what stands in quotes at the start of `text`, and returns what is behind.
fn quoted<'a>(
    text: &'a str,
    quote: char,
    what: &'static str,
) -> Result<(String, &'a str), SyntaxError> {
    let mut content = String::new();
    let mut rest = text.get(1..).unwrap_or_default();
    loop {
        let (part, behind) = rest.split_once(quote).ok_or(SyntaxError::Unterminated { what })?;
        content.push_str(part);
        let Some(next) = behind.strip_prefix(quote) else { return Ok((content, behind)) };
        content.push(quote);
        rest = next;
    }
}

/// Bytes of the word at the start of `text`, at least one character.
fn word_length(text: &str) -> usize {
    let is_end = |at: usize, c: char| {
        let here = text.get(at..).unwrap_or_default();
        c.is_whitespace()
            || matches!(c, '"' | '\'' | '=' | ',' | ';' | '(' | ')')
            || here.starts_with("--")
            || here.starts_with("/*")
    };
    let end = text.char_indices().skip(1).find(|(at, c)| is_end(*at, *c));
    end.map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match tokens(text) {
            Ok(tokens) => tokens
                .iter()
                .map(|token| match token {
                    Token::Word(word) => (*word).to_owned(),
                    Token::Quoted(name) => format!("[{name}]"),
                    Token::Literal(value) => format!("<{value}>"),
                    Token::Symbol(symbol) => symbol.to_string(),
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn words_are_cut() {
        check("", "");
        check("SHOW pools;", "SHOW pools ;");
        check("  pause\t\"my \"\"db\"\"\"\n;;", "pause [my \"db\"] ; ;");
        check("SET a='it''s' ,b", "SET a = <it's> , b");
        check("select version()", "select version ( )");
        check("kill my-db.2*ä", "kill my-db.2*ä");
        check("set unix_socket_dir = /tmp", "set unix_socket_dir = /tmp");
        check("set t=-1", "set t = -1");
    }

    #[test]
    fn comments_are_passed_over() {
        check("-- all of it", "");
        check("-- one\nshow -- two\n state--three", "show state");
        check("/* a /* b */ ** / c */ show/**/state/*x*/", "show state");
        check("show '--' \"/*\"", "show <--> [/*]");
    }

    #[test]
    fn what_has_no_end_is_refused() {
        check("pause \"x", "unterminated quoted identifier");
        check("set a = 'x''", "unterminated quoted string");
        check("show /* /* */ state", "unterminated /* comment");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_quotes_give_back_what_was_put_in(text in "[ -~äß\n]{0,40}") {
            let _ = tokens(&text);
            let quoted = format!("\"{}\"", text.replace('"', "\"\""));
            prop_assert_eq!(tokens(&quoted), Ok(vec![Token::Quoted(text.clone())]));
            let literal = format!("'{}'", text.replace('\'', "''"));
            prop_assert_eq!(tokens(&literal), Ok(vec![Token::Literal(text)]));
        }
    }
}
