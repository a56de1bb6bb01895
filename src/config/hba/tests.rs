//! Files of rules and maps, with all that can be wrong with them.

use super::*;
use crate::config::{Config, ConfigError, Source};

/// Reads a configuration with these rules and maps.
fn load(rules: &str, maps: &str) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hba"), rules).unwrap();
    std::fs::write(path("ident"), maps).unwrap();
    std::fs::write(path("names"), "ann,bob # and\n\"c d\" @more\n").unwrap();
    std::fs::write(path("more"), "eve\n").unwrap();
    std::fs::write(path("loop"), "include loop\n").unwrap();
    std::fs::write(path("rules"), "host all included all md5\nhost all x all nonsense\n").unwrap();
    let text = format!(
        "[general]\nauth_type = \"hba\"\nauth_hba_file = \"{}\"\nauth_ident_file = \"{}\"\n\
         [databases.a]\n",
        path("hba").display(),
        path("ident").display()
    );
    std::fs::write(path("proxy.toml"), text).unwrap();
    let source = Source::read(&path("proxy.toml")).unwrap();
    let place = format!("{}/", folder.path().display());
    source.parse().map_err(|error| match error {
        ConfigError::Invalid { problems } => {
            problems.iter().map(|problem| problem.to_string().replace(&place, "")).collect()
        }
        ConfigError::Read { .. } => vec![error.to_string()],
    })
}

fn rules(text: &str) -> Vec<Rule> {
    let config = load(text, "").unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    config.general.auth.auth_hba_file.entries().to_vec()
}

fn problems(rules: &str) -> Vec<String> {
    load(rules, "").expect_err("it is wrong")
}

#[test]
fn rules_are_understood() {
    let rules = rules(
        "# everybody\nlocal all all peer map=m\nhost app,\"all\" ann,/^b.*$ 10.0.0.0/8 \\\n md5\n\
         hostnossl sameuser,replication @names 10.0.0.1 255.0.0.0 scram-sha-256\n\
         hostssl all all samenet reject\nhostnogssenc all all samehost password\n\
         host all all ::1/128 trust\n",
    );
    assert_eq!(rules.len(), 6);
    assert_eq!((rules[0].method, rules[0].map.as_str()), (RuleMethod::Peer, "m"));
    let name = |name: &str| DatabaseNames::Name(name.to_owned());
    assert_eq!(rules[1].databases, [name("app"), name("all")]);
    assert_eq!(rules[1].line, 3);
    assert!(matches!(rules[1].users[1], UserNames::Like(_)));
    assert_eq!(rules[2].databases, [DatabaseNames::SameUser, DatabaseNames::Replication]);
    let user = |name: &str| UserNames::Name(name.to_owned());
    assert_eq!(rules[2].users, ["ann", "bob", "c d", "eve"].map(user));
    assert_eq!((rules[2].connection, rules[2].method), (Connection::HostNoSsl, RuleMethod::Scram));
    assert_eq!((&rules[3].addresses, rules[3].method), (&Addresses::SameNet, RuleMethod::Reject));
    assert_eq!(
        (&rules[4].addresses, rules[4].method),
        (&Addresses::SameHost, RuleMethod::Password)
    );
}

#[test]
fn everything_that_is_wrong_is_reported_with_its_line() {
    let said = problems(
        "hosts all all all md5\nhost\nhost all\nhost all all\nhost all all 10.0.0.1\n\
         host all all 10.0.0.1 255.0.0.0\nhost all all all\nhost all all all nonsense\n\
         host all all all ldap\nhost all all example.com md5\nhost all all 10.0.0.0/33 md5\n\
         host all all 10.0.0.1 :: md5\nhost all +group all md5\nhost samerole all all md5\n\
         host all all all peer\nhost all all all cert\nlocal all all md5 map=m\n\
         host all all all md5 clientcert=verify-ca\nlocal all all peer nonsense=1\n\
         local all all peer nonsense\nhost all /( all md5\nhost,local all all all md5\n\
         hostssl all all all cert\nhost \"all all md5\nhost all @nowhere all md5\n\
         local all all trust\n",
    );
    let expected = [
        "invalid connection type \"hosts\"",
        "end-of-line before database specification",
        "end-of-line before role specification",
        "end-of-line before IP address specification",
        "end-of-line before netmask specification",
        "end-of-line before authentication method",
        "end-of-line before authentication method",
        "invalid authentication method \"nonsense\"",
        "method \"ldap\" is not available in this version",
        "\"example.com\": names of hosts are not available in this version",
        "invalid IP address or CIDR mask in address \"10.0.0.0/33\"",
        "IP address and mask do not match",
        "\"+group\" is not available in this version: who is in which role is not known here",
        "\"samerole\" is not available in this version: who is in which role is not known here",
        "peer authentication is only supported on local sockets",
        "cert authentication is only supported on hostssl connections",
        "authentication option \"map\" is only valid for authentication methods peer and cert",
        "clientcert can only be configured for \"hostssl\" rows",
        "unrecognized authentication option name: \"nonsense\"",
        "authentication option not in name=value format: nonsense",
        "invalid regular expression \"(\": unclosed group",
        "multiple values specified for connection type",
        "client certificates can only be checked with client_tls_ca_file, and client_tls_sslmode \
         other than \"disable\"",
        "a quoted name has no end",
        "nowhere: cannot be read: No such file or directory (os error 2)",
    ];
    let expected: Vec<String> =
        expected.iter().enumerate().map(|(at, text)| format!("hba:{}: {text}", at + 1)).collect();
    assert_eq!(said, expected);
}

#[test]
fn files_include_others() {
    let said = problems("include rules\nlocal all all trust\n");
    assert_eq!(said, ["rules:2: invalid authentication method \"nonsense\""]);
    assert_eq!(rules("include_if_exists nowhere\nlocal all all trust\n").len(), 1);
    let said = problems("include nowhere\nlocal all all trust\n");
    assert!(said[0].starts_with("hba:1: nowhere: cannot be read"), "{said:?}");
    let said = problems("include loop\nlocal all all trust\n");
    assert_eq!(said, ["loop:1: loop: too many files in files"]);
}

#[test]
fn a_file_that_lets_nobody_in_is_not_meant() {
    assert_eq!(problems("# nothing\n"), ["hba:1: there is no rule in it: nobody could log in"]);
    let missing = "[general]\nauth_type = \"hba\"\n[databases.a]\n";
    let error = Config::parse(missing, "f", &|_| None).expect_err("no file").to_string();
    assert_eq!(error, "f:2: general.auth_type: needs auth_hba_file too");
}

#[test]
fn maps_say_who_may_be_whom() {
    let maps = "m root postgres # the owner\nm \"we ird\" all\nm /^(.*)@example\\.com$ \\1\n\
                m /^(.*)@example\\.com$ x-\\1-\\1\nm /^dba root\nother ann /^a\n";
    let config = load("local all all trust", maps).unwrap();
    let file = &config.general.auth.auth_ident_file;
    let check = |map: &str, system: &str, user: &str, expected: bool| {
        assert_eq!(file.allows(map, system, user), expected, "{map} {system} {user}");
    };
    check("m", "root", "postgres", true);
    check("m", "root", "root", false);
    check("m", "we ird", "anybody", true);
    check("m", "ann@example.com", "ann", true);
    check("m", "ann@example.com", "bob", false);
    check("m", "ann@example.com.evil", "ann", false);
    check("m", "ann@example.com", "x-ann-\\1", true);
    check("m", "dba7", "root", true);
    check("other", "ann", "alice", true);
    check("other", "ann", "bob", false);
    check("nowhere", "ann", "ann", false);
    check("", "ann", "ann", true);
    check("", "ann", "bob", false);
}

#[test]
fn what_is_wrong_with_maps_is_reported() {
    let said = load("local all all trust", "m a\nm a,b c\nm /( c\nm /a x\\1\nm a +g\nm a b c\n");
    let expected = [
        "ident:1: missing entry at end of line",
        "ident:2: multiple values in ident field",
        "ident:3: invalid regular expression \"(\": unclosed group",
        "ident:4: regular expression \"a\" has no subexpressions as requested by backreference in \
         \"x\\\\1\"",
        "ident:5: \"+g\" is not available in this version: who is in which role is not known here",
        "ident:6: more than a map, a system user and a database user",
    ];
    assert_eq!(said.expect_err("it is wrong"), expected);
}
