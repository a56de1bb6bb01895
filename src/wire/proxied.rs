//! The header that a balancer puts in front of a connection: whose it is. PROXY protocol, versions 1
//! and 2.
//!
//! Source: HAProxy `doc/proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cursor::Cursor;

/// How a header of version 1 begins.
const V1: &[u8] = b"PROXY ";

/// LIMIT: bytes of a header of version 1, its end included.
const V1_BYTES_MAX: usize = 107;

/// How a header of version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a header of version 2 before its addresses.
const V2_BYTES: usize = 16;

/// LIMIT: bytes of a header of version 2; those of balancers in use have less than 200 behind the
/// addresses.
const V2_BYTES_MAX: usize = 4096;

/// What a header begins with.
pub const FIRST_BYTES: [u8; 2] = [b'P', b'\r'];

/// What the beginning of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It is not all there: so many bytes must be seen to tell more.
    Incomplete(usize),
    /// A header of so many bytes. It says whose the connection is; `None` says that it is the
    /// balancer's own, or that it does not know.
    Header(usize, Option<SocketAddr>),
    /// No header.
    Other,
    /// It begins like a header, and is none.
    Malformed,
}

/// Looks at the beginning of a connection.
pub fn read(bytes: &[u8]) -> Beginning {
    let begins = |signature: &[u8]| {
        let seen = bytes.len().min(signature.len());
        bytes.get(..seen) == signature.get(..seen)
    };
    if begins(V1) {
        if bytes.len() < V1.len() { Beginning::Incomplete(bytes.len() + 1) } else { v1(bytes) }
    } else if begins(V2) {
        if bytes.len() < V2_BYTES { Beginning::Incomplete(V2_BYTES) } else { v2(bytes) }
    } else {
        Beginning::Other
    }
}

fn v1(bytes: &[u8]) -> Beginning {
    let seen = bytes.get(..bytes.len().min(V1_BYTES_MAX)).unwrap_or_default();
    let Some(end) = memchr::memmem::find(seen, b"\r\n") else {
        let is_too_long = bytes.len() >= V1_BYTES_MAX;
        return if is_too_long {
            Beginning::Malformed
        } else {
            Beginning::Incomplete(bytes.len() + 1)
        };
    };
    let line = seen.get(V1.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let Some(line) = line else { return Beginning::Malformed };
    let length = end + b"\r\n".len();
    let mut words = line.split(' ');
    let is_v4 = match words.next() {
        Some("UNKNOWN") => return Beginning::Header(length, None),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Beginning::Malformed,
    };
    let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == is_v4);
    let (Some(source), Some(_)) = (address(), address()) else { return Beginning::Malformed };
    let mut port = || {
        let word = words.next()?;
        let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
        word.parse::<u16>().ok().filter(|_| is_number)
    };
    let (Some(source_port), Some(_)) = (port(), port()) else { return Beginning::Malformed };
    if words.next().is_some() {
        return Beginning::Malformed;
    }
    Beginning::Header(length, Some(SocketAddr::new(source, source_port)))
}

fn v2(bytes: &[u8]) -> Beginning {
    let header = || -> Option<Beginning> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(V2.len()).ok()?;
        let (command, family) = (cursor.u8().ok()?, cursor.u8().ok()?);
        let length = usize::from(u16::from_be_bytes([cursor.u8().ok()?, cursor.u8().ok()?]));
        let total = V2_BYTES + length;
        if total > V2_BYTES_MAX {
            return None;
        }
        if bytes.len() < total {
            return Some(Beginning::Incomplete(total));
        }
        let addresses = bytes.get(V2_BYTES..total)?;
        match command {
            // LOCAL: the balancer looks whether we are there.
            0x20 => Some(Beginning::Header(total, None)),
            0x21 => source(family, addresses, total),
            _ => None,
        }
    };
    header().unwrap_or(Beginning::Malformed)
}

/// Reads the source of addresses; `None` says that they are not what `family` says.
fn source(family: u8, addresses: &[u8], total: usize) -> Option<Beginning> {
    let (ip, ports) = match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let (source, rest) = addresses.split_first_chunk::<4>()?;
            (IpAddr::V4(Ipv4Addr::from(*source)), rest.get(4..)?)
        }
        0x21 => {
            let (source, rest) = addresses.split_first_chunk::<16>()?;
            (IpAddr::V6(Ipv6Addr::from(*source)), rest.get(16..)?)
        }
        // Unspecified, datagrams, Unix sockets: the client has no address of ours.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => return Some(Beginning::Header(total, None)),
        _ => return None,
    };
    let (port, rest) = ports.split_first_chunk::<2>()?;
    rest.first_chunk::<2>()?;
    let source = SocketAddr::new(ip, u16::from_be_bytes(*port));
    Some(Beginning::Header(total, Some(source)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1() {
        let check = |text: &str, expected: Beginning| {
            assert_eq!(read(text.as_bytes()), expected, "{text}");
        };
        let v4 = "PROXY TCP4 192.0.2.1 10.0.0.1 5000 6432\r\n";
        check(v4, Beginning::Header(v4.len(), Some(address("192.0.2.1:5000"))));
        check(&format!("{v4}rest"), Beginning::Header(v4.len(), Some(address("192.0.2.1:5000"))));
        let v6 = "PROXY TCP6 2001:db8::1 ::1 5000 6432\r\n";
        check(v6, Beginning::Header(v6.len(), Some(address("[2001:db8::1]:5000"))));
        let unknown = "PROXY UNKNOWN anything at all\r\n";
        check(unknown, Beginning::Header(unknown.len(), None));
        check("PROXY TCP4 192.0", Beginning::Incomplete(17));
        check("PRO", Beginning::Incomplete(4));
        for bad in [
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY \r\n",
        ] {
            check(bad, Beginning::Malformed);
        }
        check(&format!("PROXY {}", "x".repeat(V1_BYTES_MAX)), Beginning::Malformed);
        check("", Beginning::Incomplete(1));
        check("\0\0\0\x08", Beginning::Other);
        check("PROXIE", Beginning::Other);
    }

    #[test]
    fn version_2() {
        let check = |bytes: &[u8], expected: Beginning| assert_eq!(read(bytes), expected);
        let v4 = v2(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0x13, 0x88, 0x19, 0x20, 4, 0, 1, 9]);
        check(&v4, Beginning::Header(v4.len(), Some(address("192.0.2.1:5000"))));
        let mut addresses = [0; 36];
        (addresses[15], addresses[33]) = (1, 80);
        let v6 = v2(0x21, 0x21, &addresses);
        check(&v6, Beginning::Header(v6.len(), Some(address("[::1]:80"))));
        check(&v4[..20], Beginning::Incomplete(v4.len()));
        check(&v4[..5], Beginning::Incomplete(V2_BYTES));
        check(&v2(0x20, 0, b""), Beginning::Header(V2_BYTES, None));
        check(&v2(0x21, 0x31, &[0; 216]), Beginning::Header(V2_BYTES + 216, None));
        check(&v2(0x21, 0x11, &[0; 11]), Beginning::Malformed);
        check(&v2(0x21, 0x41, &[0; 12]), Beginning::Malformed);
        check(&v2(0x22, 0x11, &[0; 12]), Beginning::Malformed);
        check(&v2(0x11, 0x11, &[0; 12]), Beginning::Malformed);
        check(&v2(0x21, 0x11, &vec![0; V2_BYTES_MAX]), Beginning::Malformed);
    }

    proptest! {
        #[test]
        fn no_input_panics_and_nothing_is_asked_for_that_is_there(
            is_v2: bool,
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [if is_v2 { V2 } else { V1 }, &rest[..]].concat();
            match read(&bytes) {
                Beginning::Incomplete(total) => {
                    prop_assert!(total > bytes.len() && total <= V2_BYTES_MAX);
                }
                Beginning::Header(length, _) => prop_assert!(length <= bytes.len()),
                Beginning::Other | Beginning::Malformed => {}
            }
        }
    }
}
