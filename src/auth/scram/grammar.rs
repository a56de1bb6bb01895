//! The grammar of SCRAM messages: RFC 5802, section 7.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::ScramError;
use super::keys::{self, KEY_LEN};

/// server-first-message.
pub(super) struct Challenge<'a> {
    /// Both nonces.
    pub(super) nonce: &'a [u8],
    pub(super) salt: Vec<u8>,
    /// At least one.
    pub(super) iterations: u32,
}

impl<'a> Challenge<'a> {
    pub(super) fn parse(server_first: &'a [u8]) -> Result<Self, ScramError> {
        let mut attributes = Attributes::new(server_first);
        let nonce = attributes.take(b'r')?;
        if !is_nonce(nonce) {
            return Err(ScramError::Malformed { what: "nonce" });
        }
        let salt = BASE64
            .decode(attributes.take(b's')?)
            .map_err(|_| ScramError::Malformed { what: "salt" })?;
        let iterations = decimal(attributes.take(b'i')?)
            .ok_or(ScramError::Malformed { what: "iteration count" })?;
        attributes.skip_optional()?;
        Ok(Self { nonce, salt, iterations })
    }
}

/// The comma-separated `letter=value` pairs of a message.
pub(super) struct Attributes<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: Some(text) }
    }

    /// Takes the next pair, which must be called `letter`.
    pub(super) fn take(&mut self, letter: u8) -> Result<&'a [u8], ScramError> {
        match self.next()? {
            Some((found, value)) if found == letter => Ok(value),
            Some((b'm', _)) => Err(ScramError::Extension),
            Some(_) | None => Err(ScramError::Malformed { what: "order of attributes" }),
        }
    }

    /// Passes over optional extensions up to the end; both sides must ignore unknown ones.
    pub(super) fn skip_optional(&mut self) -> Result<(), ScramError> {
        while let Some((letter, _)) = self.next()? {
            if letter == b'm' {
                return Err(ScramError::Extension);
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, ScramError> {
        let Some(rest) = self.rest else {
            return Ok(None);
        };
        let (pair, rest) = match split_at_comma(rest) {
            Some((pair, rest)) => (pair, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        match pair {
            [letter, b'=', value @ ..] if letter.is_ascii_alphabetic() && !value.contains(&0) => {
                Ok(Some((*letter, value)))
            }
            _ => Err(ScramError::Malformed { what: "attribute" }),
        }
    }
}

/// What a client says about channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gs2<'a> {
    /// It does not know it (`n`).
    Unsupported,
    /// It knows it, and has not been offered it (`y`).
    NotOffered,
    /// It demands it (`p`), of this type.
    Bound(&'a [u8]),
}

/// Cuts the gs2 header off client-first-message, and returns client-first-message-bare too.
pub(super) fn gs2_header(client_first: &[u8]) -> Result<(Gs2<'_>, &[u8]), ScramError> {
    let malformed = ScramError::Malformed { what: "gs2 header" };
    let (flag, rest) = split_at_comma(client_first).ok_or(malformed)?;
    let header = match flag {
        b"n" => Gs2::Unsupported,
        b"y" => Gs2::NotOffered,
        [b'p', b'=', kind @ ..] => Gs2::Bound(kind),
        _ => return Err(malformed),
    };
    match split_at_comma(rest).ok_or(malformed)? {
        (b"", bare) => Ok((header, bare)),
        ([b'a', b'=', ..], _) => Err(ScramError::AuthorizationIdentity),
        _ => Err(malformed),
    }
}

/// Splits client-final-message into what is signed and the proof, which is always last.
pub(super) fn split_proof(client_final: &[u8]) -> Result<(&[u8], [u8; KEY_LEN]), ScramError> {
    memchr::memrchr(b',', client_final)
        .and_then(|at| client_final.split_at_checked(at))
        .and_then(|(signed, tail)| Some((signed, keys::decode(tail.strip_prefix(b",p=")?)?)))
        .ok_or(ScramError::Malformed { what: "proof" })
}

fn split_at_comma(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, tail) = text.split_at_checked(memchr::memchr(b',', text)?)?;
    Some((head, tail.strip_prefix(b",")?))
}

/// Printable ASCII without comma, not empty: RFC 5802, section 7, `nonce`.
pub(super) fn is_nonce(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// Reads a positive number without sign or blanks that fits PostgreSQL's `int`.
pub(super) fn decimal(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: i32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    u32::try_from(number).ok().filter(|number| *number > 0)
}
