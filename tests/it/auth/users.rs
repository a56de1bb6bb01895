//! `auth_file`: PgBouncer's list of users.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::support::{
    cluster::{ALICE, BOB, CAROL, Cluster},
    config::Config,
    fixture::Fixture,
    login::Login,
    poll,
    proxy::Subject,
};

/// A list of users in a folder of its own.
struct List {
    folder: TempDir,
}

impl List {
    fn new(text: &str) -> Self {
        let list = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        list.write(text);
        list
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("users.txt")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("the folder is ours");
    }

    fn named_by(&self, config: Config, auth_type: &str) -> Config {
        config
            .general(&format!("auth_file = \"{}\"", self.path().display()))
            .general(&format!("auth_type = \"{auth_type}\""))
    }
}

fn stored_secret(role: &str) -> String {
    let sql = format!("select rolpassword from pg_authid where rolname = '{role}'");
    Cluster::shared().superuser("postgres").value(&sql)
}

/// How a login ends: the method and who the server says we are, or the code.
fn outcome(fixture: &Fixture, user: &str, password: &str) -> String {
    match Login::new(user, &fixture.database).password(password).connect(&fixture.proxy.tcp()) {
        Ok(mut client) => {
            let method = client.login_method;
            format!("{method} {}", client.value("select current_user"))
        }
        Err(said) => said.iter().rev().nth(1).map_or("EOF".to_owned(), ToString::to_string),
    }
}

#[test]
fn all_forms_of_secrets_log_in_and_open_servers() {
    let list = List::new(&format!(
        "; made by hand\n\"alice\" \"{}\"\n\"bob\" \"{}\"\n\"carol\" \"carol-pw\" \"ignored\"\n\
         \"dave\" \"\"\n",
        stored_secret("alice"),
        stored_secret("bob")
    ));
    let fixture = Fixture::start(|config| list.named_by(config, "md5"));
    assert_eq!(outcome(&fixture, ALICE.0, ALICE.1), "scram alice");
    assert_eq!(outcome(&fixture, BOB.0, BOB.1), "md5 bob");
    assert_eq!(outcome(&fixture, CAROL.0, CAROL.1), "md5 carol");
    for (user, password) in [("alice", "x"), ("dave", ""), ("nobody", "x"), ("carol", "ignored")] {
        assert_eq!(outcome(&fixture, user, password), "E FATAL 28P01", "{user}");
    }
}

#[test]
fn whom_the_list_knows_the_server_is_not_asked_about() {
    let list = List::new("\"alice\" \"\"\n\"carol\" \"own\"\n");
    let fixture = Fixture::start(|config| {
        list.named_by(config, "scram-sha-256").general("auth_user = \"postgres\"")
    });
    assert_eq!(outcome(&fixture, "alice", "alice-pw"), "E FATAL 28P01");
    assert_eq!(outcome(&fixture, "carol", "carol-pw"), "E FATAL 28P01");
    Cluster::shared().superuser("postgres").rows("CREATE ROLE erin LOGIN PASSWORD 'erin-pw'");
    assert_eq!(outcome(&fixture, "erin", "erin-pw"), "scram erin");
}

#[test]
fn sections_go_before_the_list() {
    let list = List::new("\"alice\" \"another\"\n\"carol\" \"carol-pw\"\n");
    let fixture = Fixture::start(|config| {
        list.named_by(config, "plain")
            .user("alice", &["password = \"alice-pw\""])
            .user("carol", &["pool_size = 2"])
    });
    assert_eq!(outcome(&fixture, "alice", "alice-pw"), "password alice");
    assert_eq!(outcome(&fixture, "alice", "another"), "E FATAL 28P01");
    // A section without a password leaves it to the list.
    assert_eq!(outcome(&fixture, "carol", "carol-pw"), "password carol");
}

#[test]
fn a_reload_reads_the_list_again_and_refuses_a_broken_one() {
    let list = List::new("\"carol\" \"old\"\n\"alice\" \"alice-pw\"\n");
    let fixture = Fixture::start(|config| list.named_by(config, "plain"));
    // The server disagrees about carol: that is a question of the list too.
    assert_eq!(outcome(&fixture, "carol", "carol-pw"), "E FATAL 28P01");
    assert_eq!(outcome(&fixture, "alice", "alice-pw"), "password alice");
    list.write("\"carol\" \"carol-pw\"\n\"dave\" \"anything\"\n");
    fixture.proxy.signal("HUP");
    poll("the list has been read", || outcome(&fixture, "dave", "anything") == "password dave");
    assert_eq!(outcome(&fixture, "carol", "carol-pw"), "password carol");
    assert_eq!(outcome(&fixture, "carol", "old"), "E FATAL 28P01");
    assert_eq!(outcome(&fixture, "alice", "alice-pw"), "E FATAL 28P01");

    list.write("\"carol\" \"new\"\n\"dave\"\n");
    fixture.proxy.signal("HUP");
    poll("the log says what is wrong", || {
        let wanted = format!("{}:2: expected \"name\" \"password\"", list.path().display());
        fixture.proxy.log().contains(&wanted.replace('"', "\\\""))
            || fixture.proxy.log().contains(&wanted)
    });
    assert_eq!(outcome(&fixture, "carol", "carol-pw"), "password carol");
    assert!(!fixture.proxy.log().contains("carol-pw"), "secrets are not logged");
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let list = List::new("\"carol\" \"new\"\n\nnonsense\n");
    let config = list.folder.path().join("proxy.toml");
    let text = format!("[general]\nauth_file = \"{}\"\n[databases.a]\n", list.path().display());
    fs::write(&config, text).expect("the folder is ours");
    let Subject::Pgtandem(program) = Subject::current() else { return };
    let output = Command::new(program).arg("--config").arg(&config).arg("check").output();
    let output = output.expect("our program is built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("users.txt:3: expected \"name\" \"password\""), "{said}");
    assert!(!said.contains("new"), "{said}");
}
