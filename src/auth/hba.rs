//! Which rule decides about a client.
//!
//! Source: PostgreSQL `src/backend/libpq/hba.c`, `check_hba`.

use std::net::IpAddr;

use crate::config::{Addresses, Connection, DatabaseNames, Rule, UserNames};
use crate::net::system::Interface;

/// What is known of a client before it has proven anything.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Where it comes from; `None` through a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether it uses TLS.
    pub has_tls: bool,
    /// The database it wants.
    pub database: &'a str,
    /// Whether it asks for physical replication, which is of no database.
    pub is_physical: bool,
    /// Who it says it is.
    pub user: &'a str,
}

/// Returns the first rule that is about this client; `None` refuses it. `interfaces` are asked
/// for only where a rule goes by them.
pub fn decide<'r>(
    rules: &'r [Rule],
    caller: &Caller<'_>,
    interfaces: &dyn Fn() -> Vec<Interface>,
) -> Option<&'r Rule> {
    rules.iter().find(|rule| {
        caller.comes_by(rule.connection)
            && rule.databases.iter().any(|names| caller.wants(names))
            && rule.users.iter().any(|names| caller.is_one_of(names))
            && caller.is_from(&rule.addresses, interfaces)
    })
}

impl Caller<'_> {
    fn comes_by(&self, connection: Connection) -> bool {
        match (connection, self.address) {
            (Connection::Local, None) | (Connection::Host, Some(_)) => true,
            (Connection::HostSsl, Some(_)) => self.has_tls,
            (Connection::HostNoSsl, Some(_)) => !self.has_tls,
            (Connection::Local, Some(_))
            | (Connection::Host | Connection::HostSsl | Connection::HostNoSsl, None) => false,
        }
    }

    fn wants(&self, names: &DatabaseNames) -> bool {
        if self.is_physical {
            // `check_db`: only the keyword is about it, whatever it calls its database.
            return matches!(names, DatabaseNames::Replication);
        }
        match names {
            DatabaseNames::All => true,
            DatabaseNames::SameUser => self.database == self.user,
            DatabaseNames::Replication => false,
            DatabaseNames::Name(name) => name == self.database,
            DatabaseNames::Like(pattern) => pattern.regex().is_match(self.database),
        }
    }

    fn is_one_of(&self, names: &UserNames) -> bool {
        match names {
            UserNames::All => true,
            UserNames::Name(name) => name == self.user,
            UserNames::Like(pattern) => pattern.regex().is_match(self.user),
        }
    }

    fn is_from(&self, addresses: &Addresses, interfaces: &dyn Fn() -> Vec<Interface>) -> bool {
        let Some(address) = self.address else { return true };
        match addresses {
            Addresses::All => true,
            Addresses::Network(network) => network.contains(address),
            Addresses::SameHost => {
                interfaces().iter().any(|own| own.address == address.to_canonical())
            }
            Addresses::SameNet => interfaces()
                .iter()
                .any(|own| own.network.is_some_and(|network| network.contains(address))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CertificateDemand, Network, RuleMethod};

    fn rule(connection: Connection, addresses: Addresses) -> Rule {
        Rule {
            connection,
            databases: vec![DatabaseNames::Replication, DatabaseNames::SameUser],
            users: vec![UserNames::All],
            addresses,
            method: RuleMethod::Trust,
            certificate: CertificateDemand::None,
            map: String::new(),
            file: "hba".into(),
            line: 1,
        }
    }

    fn caller(address: Option<&str>, has_tls: bool) -> Caller<'static> {
        let address = address.map(|address| address.parse().unwrap());
        Caller { address, has_tls, database: "u", is_physical: false, user: "u" }
    }

    fn own() -> Vec<Interface> {
        let address = "192.0.2.1".parse().unwrap();
        vec![Interface { address, network: Network::with_prefix(address, 24) }]
    }

    #[test]
    fn the_way_and_the_address_count() {
        let check = |connection, addresses, caller: Caller<'_>, expected: bool| {
            let rules = [rule(connection, addresses)];
            assert_eq!(decide(&rules, &caller, &own).is_some(), expected, "{rules:?} {caller:?}");
        };
        let (all, there) = (|| Addresses::All, Some("192.0.2.9"));
        check(Connection::Local, all(), caller(None, false), true);
        check(Connection::Local, all(), caller(there, false), false);
        check(Connection::Host, all(), caller(None, false), false);
        for has_tls in [false, true] {
            check(Connection::Host, all(), caller(there, has_tls), true);
            check(Connection::HostSsl, all(), caller(there, has_tls), has_tls);
            check(Connection::HostNoSsl, all(), caller(there, has_tls), !has_tls);
        }
        for (address, is_here, is_near) in [
            ("192.0.2.1", true, true),
            ("::ffff:192.0.2.1", true, true),
            ("192.0.2.9", false, true),
            ("192.0.3.1", false, false),
            ("::1", false, false),
        ] {
            let caller = caller(Some(address), false);
            check(Connection::Host, Addresses::SameHost, caller, is_here);
            check(Connection::Host, Addresses::SameNet, caller, is_near);
        }
    }

    #[test]
    fn the_first_rule_decides_and_replication_is_no_database() {
        let mut rules =
            [rule(Connection::Local, Addresses::All), rule(Connection::Local, Addresses::All)];
        rules[1].line = 2;
        let line =
            |rules: &[Rule], caller: &Caller<'_>| decide(rules, caller, &own).map(|rule| rule.line);
        assert_eq!(line(&rules, &caller(None, false)), Some(1));
        rules[0].users = vec![UserNames::Name("other".to_owned())];
        assert_eq!(line(&rules, &caller(None, false)), Some(2));
        let named = Caller { database: "replication", ..caller(None, false) };
        assert_eq!(line(&rules, &named), None);
        let physical = Caller { is_physical: true, ..named };
        assert_eq!(line(&rules, &physical), Some(2));
        rules[1].databases = vec![DatabaseNames::All, DatabaseNames::Name("replication".into())];
        assert_eq!(line(&rules, &named), Some(2));
        assert_eq!(line(&rules, &physical), None);
    }
}
