//! Cipher suites by the names that OpenSSL and PgBouncer have for them.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::config::{Ciphers, TlsProtocols};

/// The suites, with OpenSSL's names.
const SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Names a suite.
pub(super) fn name(suite: &SupportedCipherSuite) -> &'static str {
    let known = SUITES.iter().find(|(_, known)| known.suite() == suite.suite());
    known.map_or("unknown", |(name, _)| name)
}

/// Makes the provider of all cryptography, limited to these suites; none means all.
pub(super) fn provider(tls12: &Ciphers, tls13: &Ciphers) -> Arc<CryptoProvider> {
    let all = default_provider();
    let chosen = |names: &Ciphers, is_13: bool| -> Vec<SupportedCipherSuite> {
        if names.is_empty() {
            let of_version = |suite: &&SupportedCipherSuite| suite.tls13().is_some() == is_13;
            return all.cipher_suites.iter().filter(of_version).copied().collect();
        }
        let find = |name: &&str| SUITES.iter().find(|(known, _)| known == name);
        names.iter().filter_map(find).map(|(_, suite)| *suite).collect()
    };
    let cipher_suites = [chosen(tls13, true), chosen(tls12, false)].concat();
    Arc::new(CryptoProvider { cipher_suites, ..all })
}

/// Lists the versions of TLS to speak.
pub(super) fn versions(protocols: TlsProtocols) -> &'static [&'static SupportedProtocolVersion] {
    const TLS12_ONLY: &[&SupportedProtocolVersion] = &[&TLS12];
    const TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
    match protocols {
        TlsProtocols::All => rustls::ALL_VERSIONS,
        TlsProtocols::Tls12 => TLS12_ONLY,
        TlsProtocols::Tls13 => TLS13_ONLY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TLS12_CIPHERS, TLS13_CIPHERS};

    #[test]
    fn every_suite_has_its_name_and_no_other_is_spoken() {
        let (tls12, tls13) = (TLS12_CIPHERS.to_vec(), TLS13_CIPHERS.to_vec());
        let chosen = provider(&tls12, &tls13);
        assert_eq!(chosen.cipher_suites.len(), SUITES.len());
        assert_eq!(provider(&vec![], &vec![]).cipher_suites.len(), SUITES.len());
        let names: Vec<&str> = chosen.cipher_suites.iter().map(name).collect();
        assert_eq!(names, [&tls13[..], &tls12[..]].concat());
        let one = provider(&vec!["ECDHE-RSA-AES128-GCM-SHA256"], &vec!["TLS_AES_128_GCM_SHA256"]);
        assert_eq!(one.cipher_suites.len(), 2);
    }
}
