//! The keys about TLS: what they are, how they are read, and the files that they name.
//!
//! The bytes of those files are a part of the configuration, so that another certificate in the
//! same file is a difference. What is in them is not looked at here.

use super::checked::{AuthType, Config};
use super::file::{NamedFile, file};
use super::problem::Reason;
use super::raw::{Section, Walk, join};
use super::read;
use super::suggest;
use super::value::Value;
use super::{Hint, Unavailable};
/// Whether connections are encrypted, and who must show what. In rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the other side can and, being a client, wants to.
    Allow,
    /// The same.
    Prefer,
    /// Always encrypted.
    Require,
    /// And the other side shows a certificate of an authority that we trust.
    VerifyCa,
    /// And, being a server, it is in the name of the host that we wanted.
    VerifyFull,
}

impl SslMode {
    const CHOICES: [&'static str; 6] =
        ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

    /// Returns it as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Says whether a connection is never left unencrypted.
    pub fn is_required(self) -> bool {
        self >= Self::Require
    }

    /// Says whether the other side must show a certificate of an authority that we trust.
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }
}

/// Versions of TLS; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsProtocols {
    /// 1.2 and 1.3.
    All,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

impl TlsProtocols {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "secure",
            Self::Tls12 => "tlsv1.2",
            Self::Tls13 => "tlsv1.3",
        }
    }
}

/// Cipher suites by OpenSSL's names, in order of preference; empty means all.
pub type Ciphers = Vec<&'static str>;

/// The cipher suites of TLS 1.2 that there are; older ones have no forward secrecy or no AEAD.
pub const TLS12_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// The cipher suites of TLS 1.3 that there are.
pub const TLS13_CIPHERS: [&str; 3] =
    ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];

/// The keys of `[general]` about TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether clients may, or must, use TLS; and show a certificate.
    pub client_tls_sslmode: SslMode,
    /// Our private key.
    pub client_tls_key_file: NamedFile,
    /// Our certificate, and those between it and its authority.
    pub client_tls_cert_file: NamedFile,
    /// Whose certificates clients may show.
    pub client_tls_ca_file: NamedFile,
    /// Which of these certificates have been revoked.
    pub client_tls_crl_file: NamedFile,
    /// The versions that are spoken.
    pub client_tls_protocols: TlsProtocols,
    /// Of TLS 1.2.
    pub client_tls_ciphers: Ciphers,
    /// Of TLS 1.3.
    pub client_tls13_ciphers: Ciphers,
}

/// The keys of `[general]` about TLS with servers; or what holds for one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether servers are asked for TLS, or must have it; and what is checked.
    pub server_tls_sslmode: SslMode,
    /// Whose certificates servers may show; none means the public authorities.
    pub server_tls_ca_file: NamedFile,
    /// Which of these certificates have been revoked.
    pub server_tls_crl_file: NamedFile,
    /// Our private key, for a server that asks for a certificate.
    pub server_tls_key_file: NamedFile,
    /// Our certificate, for a server that asks for one.
    pub server_tls_cert_file: NamedFile,
    /// The versions that are spoken.
    pub server_tls_protocols: TlsProtocols,
    /// Of TLS 1.2.
    pub server_tls_ciphers: Ciphers,
    /// Of TLS 1.3.
    pub server_tls13_ciphers: Ciphers,
}

/// The keys of `[databases.NAME]` about TLS with its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTls {
    /// See [`ServerTls::server_tls_sslmode`].
    pub server_tls_sslmode: Option<SslMode>,
    /// See [`ServerTls::server_tls_ca_file`].
    pub server_tls_ca_file: Option<NamedFile>,
    /// See [`ServerTls::server_tls_crl_file`].
    pub server_tls_crl_file: Option<NamedFile>,
    /// See [`ServerTls::server_tls_key_file`].
    pub server_tls_key_file: Option<NamedFile>,
    /// See [`ServerTls::server_tls_cert_file`].
    pub server_tls_cert_file: Option<NamedFile>,
    /// See [`ServerTls::server_tls_protocols`].
    pub server_tls_protocols: Option<TlsProtocols>,
}

impl ServerTls {
    /// Returns what holds for a database that says `own` itself.
    #[must_use]
    pub fn with(&self, own: &DatabaseTls) -> Self {
        let file = |own: &Option<NamedFile>, all: &NamedFile| own.as_ref().unwrap_or(all).clone();
        Self {
            server_tls_sslmode: own.server_tls_sslmode.unwrap_or(self.server_tls_sslmode),
            server_tls_ca_file: file(&own.server_tls_ca_file, &self.server_tls_ca_file),
            server_tls_crl_file: file(&own.server_tls_crl_file, &self.server_tls_crl_file),
            server_tls_key_file: file(&own.server_tls_key_file, &self.server_tls_key_file),
            server_tls_cert_file: file(&own.server_tls_cert_file, &self.server_tls_cert_file),
            server_tls_protocols: own.server_tls_protocols.unwrap_or(self.server_tls_protocols),
            server_tls_ciphers: self.server_tls_ciphers.clone(),
            server_tls13_ciphers: self.server_tls13_ciphers.clone(),
        }
    }
}

pub(super) fn client(section: &mut Section<'_, '_>) -> ClientTls {
    let none = NamedFile::default;
    ClientTls {
        client_tls_sslmode: section.get("client_tls_sslmode", SslMode::Disable, ssl_mode),
        client_tls_key_file: section.get("client_tls_key_file", none(), file),
        client_tls_cert_file: section.get("client_tls_cert_file", none(), file),
        client_tls_ca_file: section.get("client_tls_ca_file", none(), file),
        client_tls_crl_file: section.get("client_tls_crl_file", none(), file),
        client_tls_protocols: section.get("client_tls_protocols", TlsProtocols::All, protocols),
        client_tls_ciphers: section.get("client_tls_ciphers", vec![], ciphers),
        client_tls13_ciphers: section.get("client_tls13_ciphers", vec![], ciphers13),
    }
}

pub(super) fn server(section: &mut Section<'_, '_>) -> ServerTls {
    let none = NamedFile::default;
    ServerTls {
        server_tls_sslmode: section.get("server_tls_sslmode", SslMode::Prefer, ssl_mode),
        server_tls_ca_file: section.get("server_tls_ca_file", none(), file),
        server_tls_crl_file: section.get("server_tls_crl_file", none(), file),
        server_tls_key_file: section.get("server_tls_key_file", none(), file),
        server_tls_cert_file: section.get("server_tls_cert_file", none(), file),
        server_tls_protocols: section.get("server_tls_protocols", TlsProtocols::All, protocols),
        server_tls_ciphers: section.get("server_tls_ciphers", vec![], ciphers),
        server_tls13_ciphers: section.get("server_tls13_ciphers", vec![], ciphers13),
    }
}

pub(super) fn database(section: &mut Section<'_, '_>) -> DatabaseTls {
    DatabaseTls {
        server_tls_sslmode: section.find("server_tls_sslmode", ssl_mode),
        server_tls_ca_file: section.find("server_tls_ca_file", file),
        server_tls_crl_file: section.find("server_tls_crl_file", file),
        server_tls_key_file: section.find("server_tls_key_file", file),
        server_tls_cert_file: section.find("server_tls_cert_file", file),
        server_tls_protocols: section.find("server_tls_protocols", protocols),
    }
}

fn ssl_mode(value: &Value) -> Result<SslMode, Reason> {
    match read::text(value)?.as_str() {
        "disable" => Ok(SslMode::Disable),
        "allow" => Ok(SslMode::Allow),
        "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-ca" => Ok(SslMode::VerifyCa),
        "verify-full" => Ok(SslMode::VerifyFull),
        other => Err(Reason::NotAChoice {
            found: other.to_owned(),
            choices: &SslMode::CHOICES,
            hint: suggest::nearest(other, SslMode::CHOICES).map_or(Hint::None, Hint::Word),
        }),
    }
}

/// Versions of TLS, with commas; PgBouncer's words for several of them are known.
fn protocols(value: &Value) -> Result<TlsProtocols, Reason> {
    let (mut has_12, mut has_13) = (false, false);
    for word in read::words(value)? {
        match word.to_ascii_lowercase().as_str() {
            "secure" | "default" | "all" => (has_12, has_13) = (true, true),
            "tlsv1.2" => has_12 = true,
            "tlsv1.3" => has_13 = true,
            "tlsv1" | "tlsv1.0" | "tlsv1.1" | "legacy" => {
                // RFC 8996.
                let phrase = "TLS before 1.2 is".to_owned();
                return Err(Reason::Unavailable(Unavailable::Value(phrase)));
            }
            _ => {
                let expected = "\"secure\", \"tlsv1.2\", \"tlsv1.3\", or both of them";
                return Err(Reason::Malformed { found: word, expected });
            }
        }
    }
    match (has_12, has_13) {
        (true, true) => Ok(TlsProtocols::All),
        (true, false) => Ok(TlsProtocols::Tls12),
        (false, true) => Ok(TlsProtocols::Tls13),
        (false, false) => Err(Reason::Empty),
    }
}

fn ciphers(value: &Value) -> Result<Ciphers, Reason> {
    named(
        value,
        &TLS12_CIPHERS,
        "\"default\", or a list with colons of ECDHE-ECDSA-AES256-GCM-SHA384, \
         ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-ECDSA-CHACHA20-POLY1305, \
         ECDHE-RSA-AES256-GCM-SHA384, ECDHE-RSA-AES128-GCM-SHA256, ECDHE-RSA-CHACHA20-POLY1305",
    )
}

fn ciphers13(value: &Value) -> Result<Ciphers, Reason> {
    named(
        value,
        &TLS13_CIPHERS,
        "\"\" for all, or a list with colons of TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, \
         TLS_CHACHA20_POLY1305_SHA256",
    )
}

fn named(
    value: &Value,
    known: &'static [&'static str],
    expected: &'static str,
) -> Result<Ciphers, Reason> {
    let text = read::text(value)?;
    // All that there are, are all of these. PgBouncer's words.
    if matches!(text.as_str(), "" | "default" | "secure" | "fast" | "normal" | "all") {
        return Ok(Vec::new());
    }
    let find = |name: &str| known.iter().find(|known| **known == name.trim()).copied();
    let ciphers: Option<Ciphers> = text.split([':', ',']).map(find).collect();
    ciphers.ok_or(Reason::Malformed { found: text, expected })
}

/// Checks keys against each other; says nothing if there is any other problem.
pub(super) fn check_together(walk: &mut Walk<'_>, config: &Config) {
    if !walk.is_all_clean() {
        return;
    }
    let client = &config.general.client_tls;
    let mode = client.client_tls_sslmode;
    let needed = [
        ("client_tls_key_file", client.client_tls_key_file.is_none() && mode != SslMode::Disable),
        ("client_tls_cert_file", client.client_tls_cert_file.is_none() && mode != SslMode::Disable),
        ("client_tls_ca_file", client.client_tls_ca_file.is_none() && mode.verifies()),
    ];
    for (key, is_missing) in needed {
        if is_missing {
            walk.report(join("general", "client_tls_sslmode"), Reason::Needs { key });
        }
    }
    if config.general.auth_type == AuthType::Cert && !mode.verifies() {
        walk.report(join("general", "auth_type"), Reason::CertWithoutCa);
    }
    check_server(walk, "general", &config.general.server_tls);
    for (name, database) in &config.databases {
        if database.tls != DatabaseTls::default() {
            let tls = config.general.server_tls.with(&database.tls);
            check_server(walk, &join("databases", name), &tls);
        }
    }
}

fn check_server(walk: &mut Walk<'_>, section: &str, tls: &ServerTls) {
    let (key, certificate) = ("server_tls_key_file", "server_tls_cert_file");
    match (tls.server_tls_key_file.is_none(), tls.server_tls_cert_file.is_none()) {
        (true, false) => walk.report(join(section, certificate), Reason::Needs { key }),
        (false, true) => walk.report(join(section, key), Reason::Needs { key: certificate }),
        (true, true) | (false, false) => {}
    }
    // Anybody can have a certificate of a public authority: it says nothing without the name.
    if tls.server_tls_sslmode == SslMode::VerifyCa && tls.server_tls_ca_file.is_none() {
        let reason = Reason::Needs { key: "server_tls_ca_file" };
        walk.report(join(section, "server_tls_sslmode"), reason);
    }
}

/// Reads all files that are in use, and reports those that cannot be read.
pub(super) fn read_files(walk: &mut Walk<'_>, config: &mut Config) {
    let client = &mut config.general.client_tls;
    if client.client_tls_sslmode != SslMode::Disable {
        for (key, file) in [
            ("client_tls_key_file", &mut client.client_tls_key_file),
            ("client_tls_cert_file", &mut client.client_tls_cert_file),
            ("client_tls_ca_file", &mut client.client_tls_ca_file),
            ("client_tls_crl_file", &mut client.client_tls_crl_file),
        ] {
            file.read(walk, "general", key);
        }
    }
    let server = &mut config.general.server_tls;
    let modes = config.databases.values().map(|database| database.tls.server_tls_sslmode);
    let is_used = |mode: Option<SslMode>| mode.is_some_and(|mode| mode != SslMode::Disable);
    if is_used(Some(server.server_tls_sslmode)) || modes.into_iter().any(is_used) {
        for (key, file) in [
            ("server_tls_ca_file", &mut server.server_tls_ca_file),
            ("server_tls_crl_file", &mut server.server_tls_crl_file),
            ("server_tls_key_file", &mut server.server_tls_key_file),
            ("server_tls_cert_file", &mut server.server_tls_cert_file),
        ] {
            file.read(walk, "general", key);
        }
    }
    for (name, database) in &mut config.databases {
        let tls = &mut database.tls;
        if !is_used(Some(tls.server_tls_sslmode.unwrap_or(server.server_tls_sslmode))) {
            continue;
        }
        let section = join("databases", name);
        for (key, file) in [
            ("server_tls_ca_file", &mut tls.server_tls_ca_file),
            ("server_tls_crl_file", &mut tls.server_tls_crl_file),
            ("server_tls_key_file", &mut tls.server_tls_key_file),
            ("server_tls_cert_file", &mut tls.server_tls_cert_file),
        ] {
            if let Some(file) = file {
                file.read(walk, &section, key);
            }
        }
    }
}

impl Default for DatabaseTls {
    fn default() -> Self {
        let mut walk = Walk::new("", "", &|_| None);
        database(&mut Section::new(&mut walk, String::new(), None))
    }
}
