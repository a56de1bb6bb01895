//! `auth_type = "hba"`: the same rules as PostgreSQL, with PostgreSQL beside us.

use std::{fs, path::PathBuf};

use super::{ending, refusal};
use crate::{
    support::{
        cluster::{Cluster, private_dir, private_file},
        config::Config,
        fixture::Fixture,
        login::{Address, Login},
        poll,
        proxy::Proxy,
        reaper,
    },
    tls::support::{Authority, server, shake},
};

/// Rules that both can follow. The roles behind them are those of every cluster.
const RULES: &str = "\
local all postgres trust
local all dave peer map=m
local all carol peer
local all alice scram-sha-256
local sameuser all reject
host all bob 127.0.0.1/32 md5
host t1 alice 127.0.0.1/32 scram-sha-256
host all dave 10.0.0.0/8,x reject
host all dave 10.0.0.0/8 trust
host \"all\" carol all trust
host all single 127.0.0.0 255.0.0.0 reject
host x,t1 @names samehost trust
host all lonely samenet \\
  reject
hostssl all all all trust
hostnossl postgres alice ::1/128 trust
";

/// `RULES` without what is wrong in it.
fn sound() -> String {
    RULES
        .lines()
        .filter(|line| !line.contains(",x reject"))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// A folder with the files of rules and maps.
struct Folder(PathBuf);

impl Folder {
    fn new(rules: &str) -> Self {
        let dir = private_dir("pgtandem-it-hba-");
        reaper::adopt_dir(&dir);
        private_file(&dir, "hba", rules);
        private_file(&dir, "names", "locked # nobody\n\"dave\"\n");
        private_file(&dir, "ident", "m root dave\nm /^(.*)oo(.*)$ \\1ootje\n");
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("the folder is ours");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.0).is_ok() {
            reaper::release_dir(&self.0);
        }
    }
}

/// A proxy that goes by the rules in a folder, in front of the shared cluster.
fn proxy(dir: &Folder) -> Proxy {
    let cluster = Cluster::shared();
    Proxy::start(cluster, by_rules(Fixture::config(cluster, "t1"), dir))
}

fn by_rules(config: Config, dir: &Folder) -> Config {
    let port = format!("port = {}", Cluster::shared().port());
    config
        .general("auth_type = \"hba\"")
        .general(&format!("auth_hba_file = \"{}\"", dir.file("hba").display()))
        .general(&format!("auth_ident_file = \"{}\"", dir.file("ident").display()))
        .general("auth_user = \"postgres\"")
        .database("postgres", &["host = \"127.0.0.1\"", &port])
}

#[test]
fn postgresql_decides_the_same() {
    let dir = Folder::new(&sound());
    let judge = Cluster::start_with(&format!(
        "hba_file = '{}'\nident_file = '{}'\n",
        dir.file("hba").display(),
        dir.file("ident").display()
    ));
    let proxy = proxy(&dir);
    let mut kinds = std::collections::BTreeSet::new();
    for user in ["postgres", "alice", "bob", "carol", "dave", "single", "lonely", "locked"] {
        for password in [format!("{user}-pw"), "wrong".to_owned()] {
            for database in ["t1", "postgres"] {
                for is_unix in [false, true] {
                    let login = Login::new(user, database).password(&password);
                    let of = |tcp: Address, unix: Address| {
                        ending(&login, if is_unix { &unix } else { &tcp })
                    };
                    let theirs = of(judge.tcp(), judge.unix());
                    let ours = of(proxy.tcp(), proxy.unix());
                    let what = format!("{user} {password} {database} unix={is_unix}");
                    // Who may log in at all is the server's own business.
                    if theirs.contains("is not permitted to log in") {
                        assert!(ours.contains("is not permitted to log in"), "{what}: {ours}");
                        continue;
                    }
                    assert_eq!(ours, theirs, "{what}");
                    kinds.insert(theirs.chars().take(24).collect::<String>());
                }
            }
        }
    }
    assert!(kinds.len() >= 5, "{kinds:?}");
}

#[test]
fn rules_of_later_versions_are_understood() {
    let dir = Folder::new(
        "local all postgres trust\ninclude more\nhost /^t[0-9]$ /^(al|bo) all trust\n\
         host all all all reject\n",
    );
    dir.write("more", "host all carol all trust\n");
    let proxy = proxy(&dir);
    let of = |user: &str, database: &str| ending(&Login::new(user, database), &proxy.tcp());
    assert!(of("carol", "postgres").starts_with("28P01 no password"), "let in, without a password");
    assert!(of("alice", "t1").starts_with("28P01 no password"), "let in, without a password");
    let rejected = "28000 pg_hba.conf rejects connection for host \"127.0.0.1\", user \"alice\", \
                    database \"postgres\", no encryption";
    assert_eq!(of("alice", "postgres"), rejected);
    assert!(of("dave", "t1").starts_with("28000 pg_hba.conf rejects"));
}

#[test]
fn a_broken_file_is_refused_as_a_whole() {
    let dir = Folder::new("local all all trust\nhost all dave all trust\n");
    let proxy = proxy(&dir);
    let dave = || ending(&Login::new("dave", "t1"), &proxy.tcp());
    assert_eq!(dave(), "ok");
    dir.write("hba", RULES);
    proxy.signal("HUP");
    poll("the log says what is wrong", || {
        proxy.log().contains("hba:8: multiple values specified for host address")
    });
    assert_eq!(dave(), "ok");
    dir.write("hba", "local all all trust\nhost all dave all reject\n");
    proxy.signal("HUP");
    poll("the new rules hold", || dave().starts_with("28000 pg_hba.conf rejects"));
    // So do those of files that are named in it.
    dir.write("hba", "local all all trust\nhost all @names all trust\n");
    proxy.signal("HUP");
    poll("the names are read", || dave() == "ok");
    dir.write("names", "nobody\n");
    proxy.signal("HUP");
    poll("the names are read again", || dave().starts_with("28000 no pg_hba.conf entry"));
}

const TLS_RULES: &str = "\
local all all trust
hostssl all dave all cert
hostssl all erin all cert map=m
hostssl all alice all scram-sha-256 clientcert=verify-full
hostssl all bob all md5 clientcert=verify-ca
hostssl all locked all trust clientcert=verify-full
hostnossl all all all trust
";

#[test]
fn certificates_are_demanded_as_postgresql_does() {
    let authority = Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    for name in ["alice", "dave", "root"] {
        authority.sign(name, name, &[]);
    }
    let ident = private_file(&authority.file(""), "ident", "m root erin\n");
    let judge = server(&authority, TLS_RULES);
    for cluster in [&judge, Cluster::shared()] {
        cluster.superuser("postgres").rows("CREATE ROLE erin LOGIN");
    }
    // The server finds its maps beside its data.
    let theirs = judge.socket_dir().join("data/pg_ident.conf");
    fs::copy(&ident, theirs).expect("it is ours");
    judge.superuser("postgres").rows("SELECT pg_reload_conf()");
    let dir = Folder::new(TLS_RULES);
    fs::copy(&ident, dir.file("ident")).expect("the folder is ours");
    let config = by_rules(Fixture::config(Cluster::shared(), "t1"), &dir);
    let proxy = Proxy::start(Cluster::shared(), authority.for_clients("allow")(config));
    let ask = |address: &Address, login: &Login, own: Option<&str>| match shake(
        address,
        authority.client_config(own),
    ) {
        Ok(client) => login.over(client).map_or_else(|said| refusal(&said), |_| "ok".into()),
        Err(error) => error,
    };
    for (user, password) in [
        ("dave", ""),
        ("erin", ""),
        ("alice", "alice-pw"),
        ("alice", "x"),
        ("bob", "bob-pw"),
        ("locked", ""),
    ] {
        let login = Login::new(user, "t1").password(password);
        for own in [None, Some("alice"), Some("dave"), Some("root")] {
            poll("the server has read its maps", || {
                ask(&judge.tcp(), &Login::new("erin", "t1"), Some("root")) == "ok"
            });
            let theirs = ask(&judge.tcp(), &login, own);
            let ours = ask(&proxy.tcp(), &login, own);
            assert_eq!(ours, theirs, "{user} {password} {own:?}");
        }
        let (theirs, ours) = (ending(&login, &judge.tcp()), ending(&login, &proxy.tcp()));
        // What is known of them without a password opens no server that wants one.
        let is_known = ours.starts_with("28P01 no password") && theirs == "ok";
        assert!(is_known || ours == theirs, "{user} in the clear: {ours}, {theirs}");
    }
}
