//! Logins by rules: which one is about a client, and what it demands besides a password.
//!
//! Source: PostgreSQL `src/backend/libpq/auth.c`, `ClientAuthentication`, `auth_peer`,
//! `CheckCertAuth`.

use crate::auth::hba::{Caller, decide};
use crate::config::{CertificateDemand, Rule, RuleMethod};
use crate::fault::{Fault, SqlState};
use crate::net::tls::TlsStream;
use crate::net::{Peer, system};
use crate::session::startup::{Conversation, Request};

use super::Login;
use super::proof::{Method, ProofError, Reason};

/// Why a rule, or that there is none, keeps a client out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ruling {
    #[error("no rule is about it")]
    NoRule,
    #[error("a rule rejects it")]
    Rejected,
    #[error("a rule demands a certificate, and it has shown none")]
    NoCertificate,
    #[error("its certificate is not in the name of the user, nor mapped to it")]
    Certificate,
    #[error("it need prove nothing, but its certificate is not in the name of the user")]
    Trust,
    #[error("the system does not know it as the user, nor as somebody mapped to it")]
    Peer,
}

/// A client that a rule keeps out.
#[derive(Debug, thiserror::Error)]
#[error("{ruling}{place}")]
pub(super) struct RuledOut {
    ruling: Ruling,
    /// Where the rule is written; our log only.
    place: String,
    /// As PostgreSQL describes a connection.
    connection: String,
    user: String,
}

impl RuledOut {
    /// Says what the client is told, all of it 28000.
    pub(super) fn fault(&self) -> Fault {
        let Self { connection, user, .. } = self;
        let message = match self.ruling {
            Ruling::NoRule => format!("no pg_hba.conf entry for {connection}"),
            Ruling::Rejected => format!("pg_hba.conf rejects connection for {connection}"),
            Ruling::NoCertificate => "connection requires a valid client certificate".to_owned(),
            Ruling::Certificate => {
                format!("certificate authentication failed for user \"{user}\"")
            }
            Ruling::Trust => format!("\"trust\" authentication failed for user \"{user}\""),
            Ruling::Peer => format!("Peer authentication failed for user \"{user}\""),
        };
        Fault::fatal(SqlState::INVALID_AUTHORIZATION, message)
    }
}

/// What a rule leaves to be done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Demand<'a> {
    /// Nothing.
    Nothing,
    /// A password; and behind that [`Login::after`].
    Password(Method, &'a Rule),
}

impl<'a> Login<'a> {
    /// Finds the rule about a client, and does what it demands before any password.
    pub(super) async fn by_rule(
        self,
        request: &Request,
        conversation: &Conversation,
    ) -> Result<Demand<'a>, ProofError> {
        let caller = self.caller(request, conversation);
        let out = |ruling, rule: Option<&Rule>| ruled_out(ruling, rule, &caller);
        let rules = self.reception.config.general.auth.auth_hba_file.entries();
        let rule =
            decide(rules, &caller, &system::interfaces).ok_or_else(|| out(Ruling::NoRule, None))?;
        let name = conversation.stream.tls().and_then(TlsStream::peer_common_name);
        let has_certificate =
            conversation.stream.tls().is_some_and(|tls| tls.channel().peer_certificate().is_some());
        if rule.certificate > CertificateDemand::None && !has_certificate {
            return Err(out(Ruling::NoCertificate, Some(rule)).into());
        }
        let method = match rule.method {
            RuleMethod::Trust | RuleMethod::Cert => None,
            RuleMethod::Reject => return Err(out(Ruling::Rejected, Some(rule)).into()),
            RuleMethod::Password => Some(Method::Plain),
            RuleMethod::Md5 => Some(Method::Md5),
            RuleMethod::Scram => Some(Method::Scram),
            RuleMethod::Peer => {
                let uid = conversation.stream.peer_uid();
                let account = match uid {
                    Some(uid) => system::account(uid).await,
                    None => None,
                };
                if !self.maps(rule, account.as_deref(), &request.user) {
                    return Err(out(Ruling::Peer, Some(rule)).into());
                }
                None
            }
        };
        if let Some(method) = method {
            return Ok(Demand::Password(method, rule));
        }
        if rule.certificate == CertificateDemand::OfUser && !self.maps(rule, name, &request.user) {
            let is_trusted = rule.method == RuleMethod::Trust;
            let ruling = if is_trusted { Ruling::Trust } else { Ruling::Certificate };
            return Err(out(ruling, Some(rule)).into());
        }
        Ok(Demand::Nothing)
    }

    /// Does what a rule demands behind a password; what fails here counts as a wrong one.
    pub(super) fn after(
        self,
        rule: &Rule,
        request: &Request,
        conversation: &Conversation,
    ) -> Result<(), ProofError> {
        let user = &request.user;
        let name = conversation.stream.tls().and_then(TlsStream::peer_common_name);
        if rule.certificate == CertificateDemand::OfUser && !self.maps(rule, name, user) {
            let reason = Reason::Certificate;
            return Err(ProofError::Denied { user: user.clone(), reason });
        }
        Ok(())
    }

    fn maps(self, rule: &Rule, elsewhere: Option<&str>, user: &str) -> bool {
        let maps = &self.config.general.auth.auth_ident_file;
        elsewhere.is_some_and(|elsewhere| maps.allows(&rule.map, elsewhere, user))
    }

    fn caller<'r>(self, request: &'r Request, conversation: &Conversation) -> Caller<'r> {
        let address = match self.peer() {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        };
        Caller {
            address,
            has_tls: conversation.stream.tls().is_some(),
            database: &request.database,
            is_physical: request.is_physical(),
            user: &request.user,
        }
    }
}

fn ruled_out(ruling: Ruling, rule: Option<&Rule>, caller: &Caller<'_>) -> RuledOut {
    let host = caller.address.as_ref().map_or("[local]".to_owned(), ToString::to_string);
    let Caller { user, database, .. } = caller;
    let encryption = if caller.has_tls { "SSL encryption" } else { "no encryption" };
    let connection =
        format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}");
    let place = rule.map(|rule| format!(" ({}:{})", rule.file.display(), rule.line));
    let place = place.unwrap_or_default();
    RuledOut { ruling, place, connection, user: (*user).to_owned() }
}
