//! TLS with clients and servers, by rustls; the only place that knows where cryptography comes from.
//!
//! Job: make what a configuration says into something that shakes hands ([`Acceptor`],
//! [`Connector`]), and lead a connection through its handshake ([`TlsStream`] is one that is over it).
//! Handshakes are the control plane's; the [`Channel`] of a finished one goes to a worker.
//!
//! There are no session tickets, no early data and no renegotiation, as in PostgreSQL.

mod channel;
mod ciphers;
mod stream;
mod verify;
mod x509;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, pem,
};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use channel::{Channel, ChannelError};
pub use stream::{Parts, TlsStream};

use crate::config::{Config, General, Host, NamedFile, ServerTls, SslMode};
use verify::Verifier;

/// The application protocol of PostgreSQL.
///
/// Source: the registry of ALPN protocol ids; PostgreSQL `PG_ALPN_PROTOCOL`.
const APPLICATION_PROTOCOL: &[u8] = b"postgresql";

/// Why a configuration cannot be used: what is in its files is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file is not what it should be.
    #[error("{file}: no {what} in PEM format: {source}")]
    Pem {
        /// Where it is.
        file: String,
        /// What should be in it.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file has nothing of what it should have.
    #[error("{file}: no {what} in PEM format")]
    Empty {
        /// Where it is.
        file: String,
        /// What should be in it.
        what: &'static str,
    },
    /// Key and certificate, or authorities and revocations, are of no use together.
    #[error("{files}: {reason}")]
    Unusable {
        /// Where they are.
        files: String,
        /// Why.
        reason: String,
    },
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke, or ended before its time.
    #[error("connection lost during the TLS handshake")]
    Lost(#[source] io::Error),
    /// The peers cannot agree, or do not trust each other.
    #[error("TLS handshake failed: {0}")]
    Tls(ChannelError),
    /// Something that is no name of a host was to be reached.
    #[error("no name for a certificate")]
    Name,
    /// A panic or the end of the process.
    #[error("handshake was given up")]
    Abandoned,
}

/// Shakes hands with clients, as one configuration says.
pub struct Acceptor {
    mode: SslMode,
    config: Option<Arc<ServerConfig>>,
    binding: Option<Arc<[u8]>>,
}

impl Acceptor {
    /// Makes one from what the files hold.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(general: &General) -> Result<Self, SetupError> {
        let tls = &general.client_tls;
        let mode = tls.client_tls_sslmode;
        if mode == SslMode::Disable {
            return Ok(Self { mode, config: None, binding: None });
        }
        let provider = ciphers::provider(&tls.client_tls_ciphers, &tls.client_tls13_ciphers);
        let chain = certificates(&tls.client_tls_cert_file)?;
        let key = key(&tls.client_tls_key_file)?;
        let binding = chain.first().and_then(|own| x509::end_point(own)).map(Arc::from);
        let unusable = |files: &[&NamedFile], error: &dyn fmt::Display| unusable(files, error);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(ciphers::versions(tls.client_tls_protocols))
            .map_err(|error| unusable(&[], &error))?;
        let builder = if mode.verifies() || general.asks_for_certificates() {
            let roots = Arc::new(roots(&tls.client_tls_ca_file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .with_crls(revocations(&tls.client_tls_crl_file)?);
            // Where only some must show one, it is asked for, and one that is shown must be good.
            let verifier =
                if mode.verifies() { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| {
                unusable(&[&tls.client_tls_ca_file, &tls.client_tls_crl_file], &error)
            })?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            unusable(&[&tls.client_tls_key_file, &tls.client_tls_cert_file], &error)
        })?;
        config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // Who lists suites means the order too.
        config.ignore_client_order =
            !(tls.client_tls_ciphers.is_empty() && tls.client_tls13_ciphers.is_empty());
        Ok(Self { mode, config: Some(Arc::new(config)), binding })
    }

    /// Says whether clients may use TLS.
    pub fn is_on(&self) -> bool {
        self.config.is_some()
    }

    /// Says whether clients must use TLS, unless they come through a Unix socket.
    pub fn is_required(&self) -> bool {
        self.mode.is_required()
    }

    /// Shakes hands with a client that has sent `fresh` so far.
    ///
    /// Not cancel safe: the connection is of no use then.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the client has been sent an alert where one is due.
    pub async fn accept(
        &self,
        tcp: tokio::net::TcpStream,
        fresh: Vec<u8>,
    ) -> Result<TlsStream, HandshakeError> {
        let config = self.config.clone().ok_or(HandshakeError::Abandoned)?;
        let channel = UnbufferedServerConnection::new(config)
            .map(|connection| Box::new(Channel::server(connection)))
            .map_err(|error| HandshakeError::Tls(error.into()))?;
        TlsStream::shake(tcp, channel, fresh, self.binding.clone()).await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Shakes hands with servers, as the settings of one or more pools say.
#[derive(Clone)]
pub struct Connector {
    mode: SslMode,
    config: Arc<ClientConfig>,
}

impl Connector {
    fn new(tls: &ServerTls) -> Result<Self, SetupError> {
        let mode = tls.server_tls_sslmode;
        let provider = ciphers::provider(&tls.server_tls_ciphers, &tls.server_tls13_ciphers);
        let authorities = if mode.verifies() {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(&tls.server_tls_ca_file)?),
                Arc::clone(&provider),
            )
            .with_crls(revocations(&tls.server_tls_crl_file)?)
            .build()
            .map_err(|error| {
                unusable(&[&tls.server_tls_ca_file, &tls.server_tls_crl_file], &error)
            })?;
            Some(verifier)
        } else {
            None
        };
        let verifier = Verifier { provider: Arc::clone(&provider), mode, authorities };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(ciphers::versions(tls.server_tls_protocols))
            .map_err(|error| unusable(&[], &error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = if tls.server_tls_cert_file.is_none() {
            builder.with_no_client_auth()
        } else {
            let chain = certificates(&tls.server_tls_cert_file)?;
            builder.with_client_auth_cert(chain, key(&tls.server_tls_key_file)?).map_err(
                |error| unusable(&[&tls.server_tls_key_file, &tls.server_tls_cert_file], &error),
            )?
        };
        config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { mode, config: Arc::new(config) })
    }

    /// Says whether a connection that the server does not encrypt is of no use.
    pub fn is_required(&self) -> bool {
        self.mode.is_required()
    }

    /// Shakes hands with the server at `host`.
    ///
    /// Not cancel safe: the connection is of no use then.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect(
        &self,
        tcp: tokio::net::TcpStream,
        host: &str,
    ) -> Result<TlsStream, HandshakeError> {
        // An interface is no part of an address' name.
        let host = host.split_once('%').map_or(host, |(address, _)| address);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| HandshakeError::Name)?;
        let channel = UnbufferedClientConnection::new(Arc::clone(&self.config), name)
            .map(|connection| Box::new(Channel::client(connection)))
            .map_err(|error| HandshakeError::Tls(error.into()))?;
        let stream = TlsStream::shake(tcp, channel, Vec::new(), None).await?;
        let certificate = stream.channel().peer_certificate();
        let binding = certificate.and_then(|server| x509::end_point(server)).map(Arc::from);
        Ok(stream.with_binding(binding))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The connectors of a configuration: reading a file of authorities takes milliseconds, so it is
/// done once.
#[derive(Debug, Default)]
pub struct Connectors {
    /// Locked for a look-up, or for making one that is not there yet.
    known: Mutex<Vec<(ServerTls, Connector)>>,
}

impl Connectors {
    /// Makes all connectors of a configuration.
    ///
    /// # Errors
    /// See [`SetupError`]; with the name of the first database that has it.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let connectors = Self::default();
        let general = &config.general.server_tls;
        let databases = config.databases.values().filter(|entry| entry.is_over_tcp());
        for tls in databases.map(|entry| general.with(&entry.tls)) {
            connectors.find(&tls)?;
        }
        Ok(connectors)
    }

    /// Puts those of another configuration in the place of these.
    pub fn replace(&self, new: Self) {
        let new = new.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Returns the connector for a server at `host`; `None` if TLS is off, or it is on this machine
    /// behind a Unix socket.
    ///
    /// # Errors
    /// See [`SetupError`]; not for what [`new`](Self::new) has made.
    pub fn of(&self, host: &Host, tls: &ServerTls) -> Result<Option<Connector>, SetupError> {
        match host {
            Host::Tcp(_) => self.find(tls),
            Host::Unix(_) => Ok(None),
        }
    }

    fn find(&self, tls: &ServerTls) -> Result<Option<Connector>, SetupError> {
        if tls.server_tls_sslmode == SslMode::Disable {
            return Ok(None);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connector)) = known.iter().find(|(of, _)| of == tls) {
            return Ok(Some(connector.clone()));
        }
        let connector = Connector::new(tls)?;
        known.push((tls.clone(), connector.clone()));
        Ok(Some(connector))
    }
}

fn unusable(files: &[&NamedFile], reason: &dyn fmt::Display) -> SetupError {
    let files = files.iter().filter(|file| !file.is_none()).map(|file| path(file));
    let files: Vec<String> = files.collect();
    SetupError::Unusable { files: files.join(", "), reason: reason.to_string() }
}

fn path(file: &NamedFile) -> String {
    file.path().display().to_string()
}

fn certificates(file: &NamedFile) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let what = "certificate";
    let certificates = all::<CertificateDer<'static>>(file, what)?;
    if certificates.is_empty() {
        return Err(SetupError::Empty { file: path(file), what });
    }
    Ok(certificates)
}

fn revocations(file: &NamedFile) -> Result<Vec<CertificateRevocationListDer<'static>>, SetupError> {
    let what = "list of revoked certificates";
    let lists = all::<CertificateRevocationListDer<'static>>(file, what)?;
    if lists.is_empty() && !file.is_none() {
        return Err(SetupError::Empty { file: path(file), what });
    }
    Ok(lists)
}

fn all<T: PemObject>(file: &NamedFile, what: &'static str) -> Result<Vec<T>, SetupError> {
    T::pem_slice_iter(file.content().unwrap_or_default())
        .collect::<Result<_, _>>()
        .map_err(|source| SetupError::Pem { file: path(file), what, source })
}

fn key(file: &NamedFile) -> Result<PrivateKeyDer<'static>, SetupError> {
    PrivateKeyDer::from_pem_slice(file.content().unwrap_or_default())
        .map_err(|source| SetupError::Pem { file: path(file), what: "private key", source })
}

/// Reads the authorities in a file; none means the public ones.
fn roots(file: &NamedFile) -> Result<RootCertStore, SetupError> {
    if file.is_none() {
        let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
        return Ok(RootCertStore { roots });
    }
    let mut roots = RootCertStore::empty();
    let certificates = certificates(file)?;
    // As rustls advises: a bundle may hold some that nobody can use.
    let (_, unusable) = roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        let reason = format!("none of {unusable} certificates can be an authority's");
        return Err(SetupError::Unusable { files: path(file), reason });
    }
    Ok(roots)
}
