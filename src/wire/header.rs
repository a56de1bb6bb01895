//! Message headers: one tag byte and a length that counts itself.

/// Bytes of a header: tag and length.
pub const HEADER_BYTES: usize = 5;

/// The largest length PostgreSQL accepts: `PQ_LARGE_MESSAGE_LIMIT` (`MaxAllocSize - 1`) of
/// `src/include/libpq/libpq.h`.
pub const MESSAGE_BYTES_MAX: u32 = 0x3fff_fffe;

/// A length word that no message can have; becomes SQLSTATE 08P01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message {tag:#04x} has length {length}")]
pub struct BadLength {
    /// The message's tag.
    pub tag: u8,
    /// The length as it came.
    pub length: u32,
}

/// The header of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What kind of message it is.
    pub tag: u8,
    /// Bytes of the body, without tag and length.
    pub body_bytes: u32,
}

impl Header {
    /// Bytes of the whole message: header and body.
    pub fn message_bytes(self) -> usize {
        HEADER_BYTES + usize::try_from(self.body_bytes).unwrap_or(usize::MAX - HEADER_BYTES)
    }
}

/// Reads the header at the start of `bytes`; `None` if it is not all there yet.
///
/// The length is checked against `length_max` before anybody reserves memory for the body.
///
/// # Errors
/// [`BadLength`] if the length is below 4 or above `length_max`.
pub fn read(bytes: &[u8], length_max: u32) -> Result<Option<Header>, BadLength> {
    let Some(([tag, length @ ..], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    match length.checked_sub(4) {
        Some(body_bytes) if length <= length_max => Ok(Some(Header { tag: *tag, body_bytes })),
        _ => Err(BadLength { tag: *tag, length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_once_all_five_bytes_are_there() {
        assert_eq!(read(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(read(b"Q\0\0\0\x06a", 100), Ok(Some(Header { tag: b'Q', body_bytes: 2 })));
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        assert_eq!(read(b"Q\0\0\0\x03", 100), Err(BadLength { tag: b'Q', length: 3 }));
        assert_eq!(read(b"Q\0\0\0\x65", 100), Err(BadLength { tag: b'Q', length: 101 }));
        assert_eq!(
            read(b"Q\xff\xff\xff\xff", MESSAGE_BYTES_MAX),
            Err(BadLength { tag: b'Q', length: u32::MAX })
        );
    }
}
