//! Authorities and certificates of one test, and a client that speaks TLS without our code.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::support::{
    PATIENCE,
    cluster::{Cluster, private_dir, private_file},
    config::Config,
    fixture::Fixture,
    login::Address,
    message::{SSL_REQUEST, untagged},
    reaper,
    tools::tool,
    wire::{Client, Stream},
};

/// A folder with an authority and what it has signed.
pub struct Authority {
    dir: PathBuf,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Founds one; its certificate is in `ca.crt`.
    pub fn new() -> Self {
        let dir = private_dir("pgtandem-it-tls-");
        reaper::adopt_dir(&dir);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("there is entropy");
        let certificate = params.self_signed(&key).expect("a sound certificate");
        private_file(&dir, "ca.crt", &certificate.pem());
        Self { dir, certificate, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate for somebody of this name, who is known by these names and addresses;
    /// makes `<file>.crt` and `<file>.key`.
    pub fn sign(&self, file: &str, common_name: &str, names: &[&str]) {
        self.sign_with(file, common_name, names, 1);
    }

    /// The same, with a serial number.
    pub fn sign_with(&self, file: &str, common_name: &str, names: &[&str], serial: u64) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("sound names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("there is entropy");
        let certificate = params.signed_by(&key, &self.issuer).expect("a sound certificate");
        private_file(&self.dir, &format!("{file}.crt"), &certificate.pem());
        private_file(&self.dir, &format!("{file}.key"), &key.serialize_pem());
    }

    /// Revokes the certificate with this serial number, in `ca.crl`.
    pub fn revoke(&self, serial: u64) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a sound list");
        private_file(&self.dir, "ca.crl", &list.pem().expect("it can be written"));
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A key of `proxy.toml` that names a file of it.
    pub fn line(&self, key: &str, name: &str) -> String {
        format!("{key} = \"{}\"", self.file(name).display())
    }

    /// Settings under which clients may use TLS, with the certificate `server`.
    pub fn for_clients(&self, mode: &str) -> impl Fn(Config) -> Config {
        let lines = [
            format!("client_tls_sslmode = \"{mode}\""),
            self.line("client_tls_key_file", "server.key"),
            self.line("client_tls_cert_file", "server.crt"),
            self.line("client_tls_ca_file", "ca.crt"),
        ];
        move |config| lines.iter().fold(config, |config, line| config.general(line))
    }

    /// What a client of ours needs to trust it; `own` names a certificate to show.
    pub fn client_config(&self, own: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a sound certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_root_certificates(roots);
        match own {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::pem_file_iter(self.file(&format!("{name}.crt")))
                    .expect("it was signed")
                    .collect::<Result<_, _>>()
                    .expect("PEM");
                let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key")));
                config.with_client_auth_cert(chain, key.expect("PEM")).expect("they fit")
            }
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.dir).is_ok() {
            reaper::release_dir(&self.dir);
        }
    }
}

/// An authority, and a proxy whose clients may or must use TLS.
pub fn fixture(mode: &str, configure: impl FnOnce(Config) -> Config) -> (Authority, Fixture) {
    let authority = Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    let fixture = Fixture::start(|config| configure(authority.for_clients(mode)(config)));
    (authority, fixture)
}

/// Asks for TLS and shakes hands.
///
/// # Errors
/// What rustls says; or that there is no TLS.
pub fn shake(address: &Address, config: ClientConfig) -> Result<Client, String> {
    let mut client = address.open();
    client.send(&[untagged(SSL_REQUEST, b"")]);
    match client.byte() {
        Some(b'S') => shake_over(client, config),
        other => Err(format!("no TLS: {other:?}")),
    }
}

/// Shakes hands over an open connection.
///
/// # Errors
/// What rustls says.
pub fn shake_over(client: Client, config: ClientConfig) -> Result<Client, String> {
    let mut tcp = client.into_tcp();
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket has one");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a sound configuration");
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).map_err(|error| error.to_string())?;
    }
    tcp.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket has one");
    Ok(Client::over(Stream::Tls(Box::new(rustls::StreamOwned::new(tls, tcp)))))
}

/// `psql` with these settings of libpq.
pub fn psql(address: &Address, database: &str, settings: &str) -> Command {
    let mut command = tool("psql", address, "unused");
    // Nobody's home has certificates of its own.
    command.env_remove("PGDATABASE").env("HOME", "/nowhere").args([
        "-X",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
    ]);
    command.arg(format!("dbname={database} {settings}"));
    command
}

/// A server with TLS, whose certificate is `server` of the authority, and with these rules.
pub fn server(authority: &Authority, rules: &str) -> Cluster {
    let hba = private_file(&authority.dir, "pg_hba.conf", rules);
    let file = |name: &str| authority.file(name).display().to_string();
    Cluster::start_with(&format!(
        "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'\n\
         hba_file = '{}'\n",
        file("server.crt"),
        file("server.key"),
        file("ca.crt"),
        hba.display()
    ))
}
