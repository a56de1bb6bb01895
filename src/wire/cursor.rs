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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_in_order() {
        let mut cursor = Cursor::new(b"\x07\x01\x02\xff\xff\xff\xfetext\0abrest");
        assert_eq!(cursor.u8(), Ok(7));
        assert_eq!(cursor.i16(), Ok(0x0102));
        assert_eq!(cursor.i32(), Ok(-2));
        assert_eq!(cursor.cstr(), Ok(&b"text"[..]));
        assert_eq!(cursor.bytes(2), Ok(&b"ab"[..]));
        assert_eq!(cursor.rest(), b"rest");
        assert_eq!(cursor.finish(), Err(Malformed::Trailing));
        assert_eq!(cursor.bytes(4), Ok(&b"rest"[..]));
        assert!(cursor.is_empty());
        assert_eq!(cursor.finish(), Ok(()));
    }

    #[test]
    fn a_field_that_is_not_all_there_is_not_read() {
        let mut cursor = Cursor::new(b"abc");
        assert_eq!(cursor.i32(), Err(Malformed::Truncated));
        assert_eq!(cursor.bytes(4), Err(Malformed::Truncated));
        assert_eq!(cursor.bytes(usize::MAX), Err(Malformed::Truncated));
        assert_eq!(cursor.cstr(), Err(Malformed::Unterminated));
        assert_eq!(cursor.rest(), b"abc", "a read that fails takes nothing");
        assert_eq!(cursor.bytes(3), Ok(&b"abc"[..]));
        assert_eq!(cursor.u8(), Err(Malformed::Truncated));
        assert_eq!(cursor.i16(), Err(Malformed::Truncated));
        assert_eq!(cursor.cstr(), Err(Malformed::Unterminated));
        assert_eq!(cursor.bytes(0), Ok(&b""[..]));
    }

    proptest! {
        #[test]
        fn no_order_of_reads_panics_or_invents_bytes(
            body in vec(prop_oneof![Just(0u8), any::<u8>()], 0..32),
            reads in vec((0..5u8, any::<usize>()), 0..16),
        ) {
            let mut cursor = Cursor::new(&body);
            for (read, count) in reads {
                let before = cursor.rest().len();
                let taken = match read {
                    0 => cursor.u8().map_or(0, |_| 1),
                    1 => cursor.i16().map_or(0, |_| 2),
                    2 => cursor.i32().map_or(0, |_| 4),
                    3 => cursor.cstr().map_or(0, |text| text.len() + 1),
                    _ => cursor.bytes(count % 40).map_or(0, <[u8]>::len),
                };
                prop_assert_eq!(cursor.rest().len() + taken, before);
                prop_assert!(body.ends_with(cursor.rest()));
            }
        }
    }
}
