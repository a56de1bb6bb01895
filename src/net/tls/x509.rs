//! The few things that we must know of a certificate and rustls does not tell: the subject's common
//! name, the hash that it was signed with, and whether it has alternative names.
//!
//! Reads DER within its bounds, and takes no decision about trust: who is trusted was settled before.
//!
//! Source: RFC 5280, section 4.1; ITU-T X.690 for the encoding.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The constructed, context-specific tag 0: the version of a certificate.
const VERSION: u8 = 0xa0;
/// The constructed, context-specific tag 3: the extensions of a certificate.
const EXTENSIONS: u8 = 0xa3;

/// The kinds of strings that hold ASCII or UTF-8: UTF8String, PrintableString, T61String, IA5String.
const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];

/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// 1.2.840.113549.1.1, PKCS #1; the last arc says which: RFC 8017, appendix C.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3, `ecdsa-with-SHA2`; the last arc says which: RFC 5758, section 3.2.
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// Returns the channel binding data `tls-server-end-point` of a server's certificate: its hash, by
/// the function that it was signed with, or SHA-256 where that is weaker.
///
/// `None` where there is no such single function, as with Ed25519; or where PostgreSQL up to
/// version 16 does not find it either, as with RSASSA-PSS. Then no binding must be offered.
///
/// Source: RFC 5929, section 4.1; PostgreSQL `be_tls_get_certificate_hash`.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Reader(Reader(certificate).of(SEQUENCE)?);
    fields.of(SEQUENCE)?;
    let algorithm = Reader(fields.of(SEQUENCE)?).of(OBJECT_IDENTIFIER)?;
    let (arc, family) = algorithm.split_last()?;
    let hash = match (family, arc) {
        // md5, sha1 and sha256 with RSA; ecdsa-with-SHA256.
        (PKCS1, 4 | 5 | 11) | (ECDSA_SHA2, 2) => Sha256::digest(certificate).to_vec(),
        (PKCS1, 12) | (ECDSA_SHA2, 3) => Sha384::digest(certificate).to_vec(),
        (PKCS1, 13) | (ECDSA_SHA2, 4) => Sha512::digest(certificate).to_vec(),
        _ => return None,
    };
    Some(hash)
}

/// Returns the first common name of a certificate's subject, if it is text.
pub(super) fn common_name(certificate: &[u8]) -> Option<&str> {
    let mut names = Reader(subject(certificate)?);
    while let Some(relative) = names.of(SET) {
        let mut attribute = Reader(Reader(relative).of(SEQUENCE)?);
        if attribute.of(OBJECT_IDENTIFIER)? == COMMON_NAME {
            let (tag, value) = attribute.next()?;
            let text = TEXTS.contains(&tag).then_some(value)?;
            return std::str::from_utf8(text).ok().filter(|name| !name.contains('\0'));
        }
    }
    None
}

/// Says whether a certificate has alternative names: then its common name is none of a host.
pub(super) fn has_alternative_names(certificate: &[u8]) -> bool {
    let find = || -> Option<bool> {
        let mut rest = after_version(certificate)?;
        while let Some((tag, value)) = rest.next() {
            if tag != EXTENSIONS {
                continue;
            }
            let mut extensions = Reader(Reader(value).of(SEQUENCE)?);
            while let Some(extension) = extensions.of(SEQUENCE) {
                if Reader(extension).of(OBJECT_IDENTIFIER)? == SUBJECT_ALT_NAME {
                    return Some(true);
                }
            }
        }
        Some(false)
    };
    // What cannot be read might have some.
    find().unwrap_or(true)
}

/// Returns the RDNSequence of the subject.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let mut fields = after_version(certificate)?;
    // serialNumber, signature, issuer, validity.
    for _ in 0..4 {
        fields.next()?;
    }
    fields.of(SEQUENCE)
}

/// Returns what is in a TBSCertificate behind its version, which may be left out.
fn after_version(certificate: &[u8]) -> Option<Reader<'_>> {
    let tbs = Reader(Reader(certificate).of(SEQUENCE)?).of(SEQUENCE)?;
    let mut fields = Reader(tbs);
    let (tag, _) = fields.next()?;
    Some(if tag == VERSION { fields } else { Reader(tbs) })
}

/// Cuts DER into tags and contents.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Takes the next element, which must have this tag.
    fn of(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Takes the next element: its tag, of one byte, and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            short @ 0..=0x7f => (usize::from(*short), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA512,
    };

    use super::*;

    fn certificate(common_name: Option<&str>, names: &[&str], key: &KeyPair) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "an organization");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_found() {
        let key = KeyPair::generate().unwrap();
        let check = |common: Option<&str>, names: &[&str]| {
            let der = certificate(common, names, &key);
            assert_eq!(common_name(&der), common);
            assert_eq!(has_alternative_names(&der), !names.is_empty());
        };
        check(Some("alice"), &[]);
        check(Some("äöü"), &["localhost"]);
        check(None, &["localhost"]);
        check(None, &[]);
        check(Some(&"x".repeat(300)), &[]);
        assert_eq!(common_name(&certificate(Some("a\0b"), &[], &key)), None);
    }

    #[test]
    fn the_binding_is_made_with_the_signature_s_hash() {
        let binding = |algorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let der = certificate(Some("a"), &[], &key);
            (end_point(&der), der)
        };
        let (hash, der) = binding(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(hash, Some(Sha256::digest(der).to_vec()));
        let (hash, der) = binding(&PKCS_RSA_SHA512);
        assert_eq!(hash, Some(Sha512::digest(der).to_vec()));
        assert_eq!(binding(&PKCS_ED25519).0, None);
    }

    proptest! {
        #[test]
        fn no_input_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), at: usize, byte: u8) {
            let read = |der: &[u8]| {
                let _ = (common_name(der).map(str::len), has_alternative_names(der), end_point(der));
            };
            read(&bytes);
            let key = KeyPair::generate().unwrap();
            let mut der = certificate(Some("alice"), &["localhost"], &key);
            let at = at % der.len();
            der[at] = byte;
            read(&der);
            read(&der[..at]);
            bytes.splice(0..0, der);
            read(&bytes);
        }
    }
}
