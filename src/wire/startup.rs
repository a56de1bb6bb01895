//! The first packet of a connection, which has no tag: startup, encryption or cancel request.
//!
//! Job: check its length before anybody reserves memory for it, tell its kinds apart, cut the list
//! of startup parameters, and write the same packets for connections that we open. What the
//! parameters mean is not decided here.
//!
//! Source: PostgreSQL `src/backend/postmaster/postmaster.c`, `ProcessStartupPacket`, and
//! `src/include/libpq/pqcomm.h`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use super::cursor::Cursor;
use super::{encode, tag};

/// Longest accepted first packet, in bytes without its length word.
///
/// Source: `MAX_STARTUP_PACKET_LENGTH` in `pqcomm.h`.
pub const MAX_STARTUP_BYTES: usize = 10_000;

/// Longest accepted secret of a cancel request, in bytes (protocol 3.2; 3.0 always has 4).
pub const MAX_CANCEL_SECRET_BYTES: usize = 256;

/// Bytes of the length word in front of every first packet.
pub const LENGTH_BYTES: usize = 4;

/// Start of the names of protocol options in the list of startup parameters.
const PROTOCOL_OPTION_PREFIX: &[u8] = b"_pq_.";

/// Stands in the place of the version in a cancel request.
const CANCEL_REQUEST: Version = Version { major: 1234, minor: 5678 };

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3 since 2003.
    pub major: u16,
    /// 0, or 2 with PostgreSQL 18 and later; greasing clients send 9999.
    pub minor: u16,
}

impl Version {
    /// The newest version that we speak: cancel keys of any length.
    pub const NEWEST: Self = Self { major: 3, minor: 2 };
    /// The oldest version that we speak: cancel keys have a secret of four bytes.
    pub const OLDEST: Self = Self { major: 3, minor: 0 };
    /// Stands in the place of the version in a request for TLS.
    pub const SSL_REQUEST: Self = Self { major: 1234, minor: 5679 };
    /// Stands in the place of the version in a request for GSSAPI encryption.
    pub const GSSENC_REQUEST: Self = Self { major: 1234, minor: 5680 };

    /// Says whether the secret of a cancel key may have any length.
    pub fn has_long_keys(self) -> bool {
        self >= Self::NEWEST
    }

    fn to_be_bytes(self) -> [u8; 4] {
        let [a, b] = self.major.to_be_bytes();
        let [c, d] = self.minor.to_be_bytes();
        [a, b, c, d]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Name and value of a startup parameter; neither holds a zero byte.
pub type Parameter<'a> = (&'a [u8], &'a [u8]);

/// What a client opens a connection with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket<'a> {
    /// The startup message of a session.
    Startup {
        /// What the client would like to speak; the major version is ours.
        protocol: Version,
        /// Names and values in order of first appearance, each name once; the last value won.
        parameters: Vec<Parameter<'a>>,
    },
    /// A request for TLS; one byte of answer is due.
    SslRequest,
    /// A request for GSSAPI encryption; one byte of answer is due.
    GssEncRequest,
    /// A request to cancel what another session runs; nothing is answered.
    Cancel {
        /// The first half of the cancel key.
        pid: i32,
        /// The second half, 1 to [`MAX_CANCEL_SECRET_BYTES`] bytes.
        secret: &'a [u8],
    },
}

/// A first packet that PostgreSQL would refuse too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Too short or too long; the peer does not speak our protocol, so it gets no answer.
    #[error("invalid length of startup packet")]
    Length,
    /// Another major version than ours; also a repeated encryption request.
    #[error(
        "unsupported frontend protocol {0}: server supports {oldest} to {newest}",
        oldest = Version::OLDEST,
        newest = Version::NEWEST
    )]
    Protocol(Version),
    /// The list of parameters does not end with the packet.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

/// Returns how many bytes follow the length word `head`, at most [`MAX_STARTUP_BYTES`].
///
/// # Errors
/// [`StartupError::Length`]; nothing may be reserved or answered then.
pub fn body_length(head: [u8; LENGTH_BYTES]) -> Result<usize, StartupError> {
    let length = usize::try_from(i32::from_be_bytes(head)).map_err(|_| StartupError::Length)?;
    match length.checked_sub(LENGTH_BYTES) {
        Some(body @ 4..=MAX_STARTUP_BYTES) => Ok(body),
        Some(_) | None => Err(StartupError::Length),
    }
}

/// Reads a first packet, given without its length word.
///
/// # Errors
/// As PostgreSQL: see [`StartupError`].
pub fn parse(body: &[u8]) -> Result<FirstPacket<'_>, StartupError> {
    if body.len() > MAX_STARTUP_BYTES {
        return Err(StartupError::Length);
    }
    let mut cursor = Cursor::new(body);
    match version(&mut cursor)? {
        Version::SSL_REQUEST => Ok(FirstPacket::SslRequest),
        Version::GSSENC_REQUEST => Ok(FirstPacket::GssEncRequest),
        CANCEL_REQUEST => cancel(cursor),
        protocol if protocol.major == Version::NEWEST.major => {
            Ok(FirstPacket::Startup { protocol, parameters: parameters(cursor)? })
        }
        protocol => Err(StartupError::Protocol(protocol)),
    }
}

/// Says whether a startup parameter is a protocol option rather than a setting.
pub fn is_protocol_option(name: &[u8]) -> bool {
    name.starts_with(PROTOCOL_OPTION_PREFIX)
}

/// Returns the version to speak with a client that asks for `protocol`, and appends the one
/// `NegotiateProtocolVersion` that is due to one which asked for more than we know: a minor version
/// above ours, or any protocol option.
///
/// The manual speaks of the newest *minor* version, but PostgreSQL sends both halves and libpq
/// compares both, so we do as they do.
///
/// Source: PostgreSQL 18 `src/backend/tcop/backend_startup.c`, `SendNegotiateProtocolVersion`.
pub fn negotiate(out: &mut Vec<u8>, protocol: Version, parameters: &[Parameter<'_>]) -> Version {
    let spoken = protocol.min(Version::NEWEST);
    let names = parameters.iter().map(|(name, _)| *name);
    let options: Vec<&[u8]> = names.filter(|name| is_protocol_option(name)).collect();
    if protocol > spoken || !options.is_empty() {
        negotiate_protocol_version(out, spoken, &options);
    }
    spoken
}

/// Appends `NegotiateProtocolVersion`: the version to speak, and the options that we do not know.
fn negotiate_protocol_version(out: &mut Vec<u8>, version: Version, options: &[&[u8]]) {
    encode::message(out, tag::backend::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.extend_from_slice(&version.to_be_bytes());
        let count = u32::try_from(options.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for option in options {
            encode::cstr(out, option);
        }
    });
}

/// Appends a startup message; names must not be empty.
pub fn write_startup(out: &mut Vec<u8>, protocol: Version, parameters: &[Parameter<'_>]) {
    encode::untagged(out, |out| {
        out.extend_from_slice(&protocol.to_be_bytes());
        for (name, value) in parameters {
            encode::cstr(out, name);
            encode::cstr(out, value);
        }
        out.push(0);
    });
}

/// Appends a request for TLS.
pub fn write_ssl_request(out: &mut Vec<u8>) {
    encode::untagged(out, |out| out.extend_from_slice(&Version::SSL_REQUEST.to_be_bytes()));
}

/// Appends a cancel request.
pub fn write_cancel(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    encode::untagged(out, |out| {
        out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

fn version(cursor: &mut Cursor<'_>) -> Result<Version, StartupError> {
    let word = cursor.bytes(4).ok().and_then(|word| <[u8; 4]>::try_from(word).ok());
    let [a, b, c, d] = word.ok_or(StartupError::Length)?;
    Ok(Version { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) })
}

fn cancel(mut cursor: Cursor<'_>) -> Result<FirstPacket<'_>, StartupError> {
    let pid = cursor.i32().map_err(|_| StartupError::Length)?;
    let secret = cursor.rest();
    match secret.len() {
        1..=MAX_CANCEL_SECRET_BYTES => Ok(FirstPacket::Cancel { pid, secret }),
        _ => Err(StartupError::Length),
    }
}

fn parameters(mut cursor: Cursor<'_>) -> Result<Vec<Parameter<'_>>, StartupError> {
    let mut parameters: Vec<Parameter<'_>> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    loop {
        let name = cursor.cstr().map_err(|_| StartupError::Layout)?;
        if name.is_empty() {
            cursor.finish().map_err(|_| StartupError::Layout)?;
            return Ok(parameters);
        }
        let value = cursor.cstr().map_err(|_| StartupError::Layout)?;
        match places.entry(name) {
            Entry::Vacant(place) => {
                place.insert(parameters.len());
                parameters.push((name, value));
            }
            Entry::Occupied(place) => {
                if let Some(parameter) = parameters.get_mut(*place.get()) {
                    parameter.1 = value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROTOCOL_3_0: &[u8] = &[0, 3, 0, 0];

    fn startup(protocol: &[u8], list: &[u8]) -> Vec<u8> {
        [protocol, list].concat()
    }

    #[test]
    fn the_length_is_checked_before_memory_is_reserved() {
        let check = |length: i32, expected| assert_eq!(body_length(length.to_be_bytes()), expected);
        for length in [i32::MIN, -1, 0, 3, 4, 7, 10_005, i32::MAX] {
            check(length, Err(StartupError::Length));
        }
        check(8, Ok(4));
        check(10_004, Ok(10_000));
        // "GET " and the start of a TLS hello, as port scanners send them.
        assert_eq!(body_length(*b"GET "), Err(StartupError::Length));
        assert_eq!(body_length([0x16, 3, 1, 2]), Err(StartupError::Length));
    }

    #[test]
    fn the_requests_have_their_codes() {
        let check = |body: &[u8], expected| assert_eq!(parse(body), expected, "{body:?}");
        check(&[4, 210, 22, 47], Ok(FirstPacket::SslRequest));
        check(&[4, 210, 22, 48], Ok(FirstPacket::GssEncRequest));
        let cancel = [4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3, 4];
        check(&cancel, Ok(FirstPacket::Cancel { pid: 7, secret: &[1, 2, 3, 4] }));
        check(&cancel[..9], Ok(FirstPacket::Cancel { pid: 7, secret: &[1] }));
        check(&cancel[..8], Err(StartupError::Length));
        check(&cancel[..5], Err(StartupError::Length));
        let secret = [9; MAX_CANCEL_SECRET_BYTES + 1];
        let long = [&cancel[..8], &secret].concat();
        check(&long, Err(StartupError::Length));
        check(&long[..long.len() - 1], Ok(FirstPacket::Cancel { pid: 7, secret: &secret[1..] }));
        check(&[], Err(StartupError::Length));
        check(&[0, 3, 0], Err(StartupError::Length));
    }

    #[test]
    fn other_major_versions_are_named() {
        let check = |body: &[u8], text: &str| {
            let error = parse(body).map_err(|error| error.to_string());
            assert_eq!(error.expect_err("refused"), text);
        };
        check(&[0, 2, 0, 0, 0], "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
        check(&[0, 4, 0, 1], "unsupported frontend protocol 4.1: server supports 3.0 to 3.2");
        // What a second encryption request is told.
        assert_eq!(
            StartupError::Protocol(Version::SSL_REQUEST).to_string(),
            "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2"
        );
    }

    #[test]
    fn parameters_are_cut_as_postgresql_does() {
        let check = |list: &[u8], expected: Result<&[Parameter<'_>], StartupError>| {
            let body = startup(PROTOCOL_3_0, list);
            let expected = expected.map(|parameters| FirstPacket::Startup {
                protocol: Version::OLDEST,
                parameters: parameters.to_vec(),
            });
            assert_eq!(parse(&body), expected, "{}", list.escape_ascii());
        };
        check(b"\0", Ok(&[]));
        check(b"user\0a\0\0", Ok(&[(b"user", b"a")]));
        check(b"user\0\0\0", Ok(&[(b"user", b"")]));
        check(b"user\0\xff\0\0", Ok(&[(b"user", b"\xff")]));
        check(b"user\0a\0x\0y\0user\0b\0\0", Ok(&[(b"user", b"b"), (b"x", b"y")]));
        for bad in
            [&b""[..], b"user\0a\0", b"user\0a", b"user\0\0", b"user\0", b"\0\0", b"u\0a\0\0z"]
        {
            check(bad, Err(StartupError::Layout));
        }
    }

    #[test]
    fn negotiation_is_offered_exactly_when_due() {
        let check = |minor, parameters: &[Parameter<'_>], spoken, expected: &[u8]| {
            let mut out = Vec::new();
            let version = negotiate(&mut out, Version { major: 3, minor }, parameters);
            assert_eq!((version, &*out), (Version { major: 3, minor: spoken }, expected));
        };
        let plain: &[Parameter<'_>] = &[(b"user", b"a")];
        check(0, plain, 0, b"");
        check(1, plain, 1, b"");
        check(2, plain, 2, b"");
        check(3, plain, 2, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
        check(
            9999,
            &[(b"user", b"a"), (b"_pq_.b", b""), (b"_pq_.c", b"1")],
            2,
            b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.b\0_pq_.c\0",
        );
        check(0, &[(b"_pq_.b", b"")], 0, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.b\0");
    }

    proptest! {
        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..300), head: [u8; 4]) {
            let _ = body_length(head);
            let _ = parse(&body);
            let _ = parse(&startup(PROTOCOL_3_0, &body));
        }

        #[test]
        fn a_startup_message_reads_back(
            values in proptest::collection::btree_map("[a-z_.]{1,12}", "[^\0]{0,20}", 0..20)
        ) {
            let parameters: Vec<Parameter<'_>> =
                values.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            let mut out = Vec::new();
            let protocol = Version::NEWEST;
            write_startup(&mut out, protocol, &parameters);
            let (head, body) = out.split_first_chunk().expect("a length word");
            prop_assert_eq!(body_length(*head), Ok(body.len()));
            prop_assert_eq!(parse(body), Ok(FirstPacket::Startup { protocol, parameters }));
        }

        #[test]
        fn a_cancel_request_reads_back(
            pid: i32,
            secret in proptest::collection::vec(any::<u8>(), 1..=MAX_CANCEL_SECRET_BYTES)
        ) {
            let mut out = Vec::new();
            write_cancel(&mut out, pid, &secret);
            let (head, body) = out.split_first_chunk().expect("a length word");
            prop_assert_eq!(body_length(*head), Ok(body.len()));
            prop_assert_eq!(parse(body), Ok(FirstPacket::Cancel { pid, secret: &secret }));
        }
    }
}
