//! Checked reads from a message body. Nothing here can panic or read past the end.

/// A message body was not what its tag promises; becomes SQLSTATE 08P01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The body ends inside a field.
    #[error("message ends inside a field")]
    Truncated,
    /// A string has no terminating zero byte.
    #[error("string without a terminating zero byte")]
    Unterminated,
    /// Bytes are left over behind the last field.
    #[error("bytes behind the last field")]
    Trailing,
    /// A field has a value that the protocol does not know.
    #[error("field has an unknown value")]
    UnknownValue,
}

/// A reading position in a message body.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Returns what has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Says whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Reads a big-endian 16-bit integer.
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    /// Reads a big-endian 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// Reads `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads a zero-terminated string, without its terminator.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed::Unterminated)?;
        let (text, rest) = self.rest.split_at_checked(end).ok_or(Malformed::Unterminated)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// Checks that everything has been read.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }
}
