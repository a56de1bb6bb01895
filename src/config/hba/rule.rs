//! One line of `pg_hba.conf`.
//!
//! Source: PostgreSQL `src/backend/libpq/hba.c`, `parse_hba_line`, whose words are used where
//! something is wrong.

use std::net::IpAddr;
use std::path::PathBuf;

use regex::Regex;

use super::text::{Field, Line, Token};
use crate::config::network::Network;

/// Whom a rule is about, and what it demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// How they come.
    pub connection: Connection,
    /// The databases they want.
    pub databases: Vec<DatabaseNames>,
    /// Who they say they are.
    pub users: Vec<UserNames>,
    /// Where they come from; every address for [`Connection::Local`].
    pub addresses: Addresses,
    /// What is demanded of them.
    pub method: RuleMethod,
    /// The certificate that is demanded besides.
    pub certificate: CertificateDemand,
    /// The map from who they are elsewhere to who they may be here; empty is none.
    pub map: String,
    /// Where it was written.
    pub file: PathBuf,
    /// Its line there, counted from 1.
    pub line: usize,
}

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Through a Unix socket.
    Local,
    /// Over TCP, with TLS or without.
    Host,
    /// With TLS.
    HostSsl,
    /// Without TLS.
    HostNoSsl,
}

/// Databases, as clients call them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseNames {
    /// All of them.
    All,
    /// The one that is called as the user.
    SameUser,
    /// None: connections that ask for the stream of a server.
    Replication,
    /// This one.
    Name(String),
    /// Those with such a name.
    Like(Pattern),
}

/// Users, as clients log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserNames {
    /// All of them.
    All,
    /// This one.
    Name(String),
    /// Those with such a name.
    Like(Pattern),
}

/// Addresses of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// All of them.
    All,
    /// Those of this machine.
    SameHost,
    /// Those of the networks that this machine is in.
    SameNet,
    /// Those of one network.
    Network(Network),
}

/// What is demanded of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMethod {
    /// Nothing.
    Trust,
    /// It is refused.
    Reject,
    /// The password itself.
    Password,
    /// An MD5 challenge, or SCRAM where a SCRAM secret is stored.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// A certificate in its name.
    Cert,
    /// That the system knows it as whom it says it is.
    Peer,
}

/// The certificate that is demanded besides a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateDemand {
    /// None.
    None,
    /// One of an authority that we trust.
    Valid,
    /// And in the name of the user.
    OfUser,
}

/// A regular expression; matches anywhere unless it says otherwise.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let invalid = |error: regex::Error| {
            // The library draws a picture; what is wrong is its last line.
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("invalid regular expression {text:?}: {last}")
        };
        Regex::new(text).map(Self).map_err(invalid)
    }

    /// Returns it.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Methods of PostgreSQL's that there are not here.
const OTHER_METHODS: [&str; 9] =
    ["ident", "gss", "sspi", "pam", "bsd", "ldap", "radius", "oauth", "any"];

impl Rule {
    /// Reads a line.
    pub(super) fn parse(line: &Line) -> Result<Self, String> {
        let mut fields = line.fields.iter();
        let connection = connection(single(fields.next(), "connection type")?)?;
        let missing = |what: &str| format!("end-of-line before {what}");
        let databases = fields.next().ok_or_else(|| missing("database specification"))?;
        let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
        let users = fields.next().ok_or_else(|| missing("role specification"))?;
        let users = users.iter().map(user).collect::<Result<_, _>>()?;
        let addresses = match connection {
            Connection::Local => Addresses::All,
            Connection::Host | Connection::HostSsl | Connection::HostNoSsl => {
                let address = fields.next().ok_or_else(|| missing("IP address specification"))?;
                addresses(single(Some(address), "host address")?, || {
                    let mask = fields.next().ok_or_else(|| missing("netmask specification"))?;
                    single(Some(mask), "netmask")
                })?
            }
        };
        let method = fields.next().ok_or_else(|| missing("authentication method"))?;
        let method = method_of(single(Some(method), "authentication type")?)?;
        let mut rule = Self {
            connection,
            databases,
            users,
            addresses,
            method,
            certificate: CertificateDemand::None,
            map: String::new(),
            file: line.file.clone(),
            line: line.number,
        };
        rule.check_method()?;
        for option in fields.flatten() {
            rule.option(&option.text)?;
        }
        Ok(rule)
    }

    fn check_method(&mut self) -> Result<(), String> {
        match (self.method, self.connection) {
            (RuleMethod::Peer, Connection::Host | Connection::HostSsl | Connection::HostNoSsl) => {
                Err("peer authentication is only supported on local sockets".to_owned())
            }
            (RuleMethod::Cert, Connection::Local | Connection::Host | Connection::HostNoSsl) => {
                Err("cert authentication is only supported on hostssl connections".to_owned())
            }
            (RuleMethod::Cert, Connection::HostSsl) => {
                self.certificate = CertificateDemand::OfUser;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn option(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("authentication option not in name=value format: {text}"))?;
        match name {
            "map" if matches!(self.method, RuleMethod::Cert | RuleMethod::Peer) => {
                value.clone_into(&mut self.map);
                Ok(())
            }
            "map" => Err("authentication option \"map\" is only valid for authentication methods \
                          peer and cert"
                .to_owned()),
            "clientcert" if self.connection != Connection::HostSsl => {
                Err("clientcert can only be configured for \"hostssl\" rows".to_owned())
            }
            "clientcert" => {
                self.certificate = match (value, self.method) {
                    ("verify-full", _) => CertificateDemand::OfUser,
                    ("verify-ca", RuleMethod::Cert) => {
                        return Err("clientcert only accepts \"verify-full\" when using \"cert\" \
                                    authentication"
                            .to_owned());
                    }
                    ("verify-ca", _) => CertificateDemand::Valid,
                    _ => return Err(format!("invalid value for clientcert: {value:?}")),
                };
                Ok(())
            }
            "clientname" if value == "CN" && self.connection == Connection::HostSsl => Ok(()),
            "clientname" => {
                Err(format!("clientname={value} is not available in this version, only CN is"))
            }
            _ => Err(format!("unrecognized authentication option name: {name:?}")),
        }
    }

    /// Says whether it asks for a certificate.
    pub fn wants_certificate(&self) -> bool {
        self.certificate > CertificateDemand::None
    }
}

fn single<'t>(field: Option<&'t Field>, what: &str) -> Result<&'t Token, String> {
    match field.map(Vec::as_slice) {
        Some([token]) => Ok(token),
        // Of nothing but an empty file with names.
        None | Some([]) => Err(format!("end-of-line before {what}")),
        Some(_) => Err(format!("multiple values specified for {what}")),
    }
}

fn connection(token: &Token) -> Result<Connection, String> {
    Ok(match token.text.as_str() {
        "local" => Connection::Local,
        // GSSAPI encryption is never used.
        "host" | "hostnogssenc" => Connection::Host,
        "hostssl" => Connection::HostSsl,
        "hostnossl" => Connection::HostNoSsl,
        "hostgssenc" => {
            return Err("hostgssenc record cannot match because GSSAPI is not supported".to_owned());
        }
        other => return Err(format!("invalid connection type {other:?}")),
    })
}

fn database(token: &Token) -> Result<DatabaseNames, String> {
    if let Some(pattern) = token.text.strip_prefix('/') {
        return Pattern::new(pattern).map(DatabaseNames::Like);
    }
    Ok(match token.text.as_str() {
        "all" if !token.is_quoted => DatabaseNames::All,
        "sameuser" if !token.is_quoted => DatabaseNames::SameUser,
        "replication" if !token.is_quoted => DatabaseNames::Replication,
        "samerole" | "samegroup" if !token.is_quoted => {
            return Err(format!(
                "{:?} is not available in this version: who is in which role is not known here",
                token.text
            ));
        }
        name => DatabaseNames::Name(name.to_owned()),
    })
}

fn user(token: &Token) -> Result<UserNames, String> {
    if let Some(pattern) = token.text.strip_prefix('/') {
        return Pattern::new(pattern).map(UserNames::Like);
    }
    Ok(match token.text.as_str() {
        "all" if !token.is_quoted => UserNames::All,
        name if name.starts_with('+') && !token.is_quoted => {
            return Err(format!(
                "{name:?} is not available in this version: who is in which role is not known here"
            ));
        }
        name => UserNames::Name(name.to_owned()),
    })
}

fn addresses<'t>(
    token: &Token,
    mask: impl FnOnce() -> Result<&'t Token, String>,
) -> Result<Addresses, String> {
    if token.is("all") {
        return Ok(Addresses::All);
    } else if token.is("samehost") {
        return Ok(Addresses::SameHost);
    } else if token.is("samenet") {
        return Ok(Addresses::SameNet);
    }
    let text = token.text.as_str();
    if text.contains('/') {
        let network = Network::parse(text)
            .ok_or_else(|| format!("invalid IP address or CIDR mask in address {text:?}"))?;
        return Ok(Addresses::Network(network));
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(format!("{text:?}: names of hosts are not available in this version"));
    };
    let mask = &mask()?.text;
    let parsed = mask.parse().map_err(|_| format!("invalid IP mask {mask:?}"))?;
    Network::with_mask(address, parsed)
        .map(Addresses::Network)
        .ok_or_else(|| "IP address and mask do not match".to_owned())
}

fn method_of(token: &Token) -> Result<RuleMethod, String> {
    Ok(match token.text.as_str() {
        "trust" => RuleMethod::Trust,
        "reject" => RuleMethod::Reject,
        "password" => RuleMethod::Password,
        "md5" => RuleMethod::Md5,
        "scram-sha-256" => RuleMethod::Scram,
        "cert" => RuleMethod::Cert,
        "peer" => RuleMethod::Peer,
        other if OTHER_METHODS.contains(&other) => {
            return Err(format!("method {other:?} is not available in this version"));
        }
        other => return Err(format!("invalid authentication method {other:?}")),
    })
}
