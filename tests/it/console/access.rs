//! Who gets in to the console, and who may do what there.

use crate::support::{
    cluster::{ALICE, BOB},
    fixture::Fixture,
    login::Login,
    message::query,
    poll,
    reply::Answers,
    tools::tool,
};

use super::{as_user, console, fixture, with_console};

fn refused(fixture: &Fixture, login: &Login) -> String {
    let said = login.connect(&fixture.proxy.tcp()).err().expect("this login is to be refused");
    said[said.len() - 2..].iter().cloned().collect::<Answers>().to_string()
}

#[test]
fn both_names_lead_to_the_console() {
    let fixture = fixture();
    for database in ["pgtandem", "pgbouncer"] {
        for (user, is_admin) in [("admin", "on"), ("stats", "off")] {
            for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
                let login = Login::new(user, database);
                let mut client = login.connect(&address).expect("it may use the console");
                let version = format!("{}/pgtandem", env!("CARGO_PKG_VERSION"));
                assert_eq!(client.parameters["server_version"], version);
                assert_eq!(client.parameters["client_encoding"], "UTF8");
                assert_eq!(client.parameters["standard_conforming_strings"], "on");
                assert_eq!(client.parameters["is_superuser"], is_admin);
                assert_eq!(client.query("show version").len(), 4);
            }
        }
    }
}

#[test]
fn others_are_refused_once_they_have_proven_who_they_are() {
    let fixture = Fixture::start(|config| {
        let password = |(_, password): (&str, &str)| format!("password = \"{password}\"");
        config
            .general("auth_type = \"scram-sha-256\"")
            .general("admin_users = \"alice\"")
            .user("alice", &[&password(ALICE)])
            .user("bob", &[&password(BOB)])
    });
    let login = |user: &str, password: &str| Login::new(user, "pgtandem").password(password);
    assert!(login(ALICE.0, ALICE.1).connect(&fixture.proxy.tcp()).is_ok());
    assert_eq!(refused(&fixture, &login(BOB.0, BOB.1)), "E FATAL 42501 | EOF");
    // Who does not know a password does not learn who may use the console, nor who exists.
    let words = |user: &str| {
        let said = login(user, "wrong").connect(&fixture.proxy.tcp()).err().expect("wrong");
        said.iter().map(|reply| reply.detail().replace(user, "USER")).collect::<Vec<_>>()
    };
    let wrong = words(ALICE.0);
    assert_eq!(words(BOB.0), wrong);
    assert_eq!(words("nobody"), wrong);
    assert_eq!(words("pgbouncer"), wrong, "no proof is needed on the Unix socket only");
}

#[test]
fn we_ourselves_need_no_password_on_the_unix_socket() {
    let fixture = Fixture::start(|config| config.general("auth_type = \"scram-sha-256\""));
    for user in ["pgtandem", "pgbouncer"] {
        for database in ["pgtandem", "pgbouncer"] {
            let login = Login::new(user, database);
            let mut client = login.connect(&fixture.proxy.unix()).expect("it is us");
            assert_eq!(client.parameters["is_superuser"], "on");
            assert_eq!(client.query("show version").last(), "Z I");
            assert_eq!(refused(&fixture, &login), "E FATAL 28P01 | EOF");
        }
    }
    // Another name of ours, and the same name for a real database, are nothing special.
    for login in [Login::new("root", "pgtandem"), Login::new("pgtandem", &fixture.database)] {
        let said = login.connect(&fixture.proxy.unix()).err().expect("a password is due");
        assert_eq!(said[said.len() - 2].sqlstate(), "28P01");
    }
}

#[test]
fn another_user_of_the_machine_needs_a_password() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else.
        return;
    }
    let fixture = Fixture::start(|config| config.general("auth_type = \"scram-sha-256\""));
    // psql of the tests runs as another user than the proxy.
    let mut command = tool("psql", &fixture.proxy.unix(), "pgtandem");
    command.env("PGUSER", "pgtandem").args(["-X", "-w", "-c", "show version"]);
    let output = command.output().expect("psql is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("no password supplied"), "{complaint}");
}

#[test]
fn g55_the_console_is_open_when_max_client_conn_is_reached() {
    let fixture = Fixture::start(|config| with_console(config).general("max_client_conn = 1"));
    let _only = fixture.connect();
    assert_eq!(refused(&fixture, &fixture.login()), "E FATAL 53300 | EOF");
    let mut consoles: Vec<_> = (0..5).map(|_| console(&fixture)).collect();
    for console in &mut consoles {
        assert_eq!(console.query("show state").last(), "Z I");
    }
}

#[test]
fn seats_are_bounded_and_the_last_ones_are_for_administrators() {
    let fixture = fixture();
    let watchers: Vec<_> = (0..90).map(|_| as_user(&fixture, "stats")).collect();
    assert_eq!(refused(&fixture, &Login::new("stats", "pgtandem")), "E FATAL 53300 | EOF");
    let admins: Vec<_> = (0..10).map(|_| console(&fixture)).collect();
    assert_eq!(refused(&fixture, &Login::new("admin", "pgtandem")), "E FATAL 53300 | EOF");
    drop((watchers, admins));
    poll("the seats are free", || {
        Login::new("stats", "pgbouncer").connect(&fixture.proxy.tcp()).is_ok()
    });
}

#[test]
fn g55_watchers_may_look_and_not_touch() {
    let fixture = fixture();
    let mut client = as_user(&fixture, "stats");
    for sql in ["show pools", "show config", "show waits", "select version()", "begin", "commit"] {
        assert_eq!(client.query(sql).last().split(' ').next(), Some("Z"), "{sql}");
    }
    let database = &fixture.database;
    for sql in [
        "show fds",
        "pause",
        "resume",
        "suspend",
        "reload",
        "reload dry run",
        "kill_client 1",
        "reconnect",
        "wait_close",
        "shutdown",
        "set query_timeout = 5",
        &format!("pause {database}"),
        &format!("kill {database}"),
        &format!("disable {database}"),
        &format!("enable {database}"),
    ] {
        assert_eq!(client.query(sql), "E 42501 | Z I", "{sql}");
    }
    assert_eq!(fixture.connect().value("select 1"), "1", "nothing has happened");
}

#[test]
fn a_reload_changes_who_may_do_what() {
    let mut fixture = fixture();
    fixture.proxy.reload(|config| config.general("admin_users = \"stats\""));
    poll("the new administrator is known", || {
        as_user(&fixture, "stats").parameters["is_superuser"] == "on"
    });
    assert_eq!(refused(&fixture, &Login::new("admin", "pgtandem")), "E FATAL 42501 | EOF");
}

#[test]
fn startup_parameters_of_any_kind_are_accepted() {
    let fixture = fixture();
    let login = [
        ("application_name", "Ünterm Tisch"),
        ("client_encoding", "LATIN1"),
        ("DateStyle", "German"),
        ("extra_float_digits", "3"),
        ("search_path", "x"),
        ("options", "-c geqo=off"),
        ("no_such_parameter", "x"),
    ]
    .iter()
    .fold(Login::new("admin", "pgtandem"), |login, (name, value)| login.parameter(name, value));
    let mut client = login.connect(&fixture.proxy.tcp()).expect("they mean nothing here");
    // What is told is what holds.
    assert_eq!(client.parameters["client_encoding"], "UTF8");
    assert_eq!(client.parameters["DateStyle"], "ISO, MDY");
    assert_eq!(client.parameters["application_name"], "Ünterm Tisch");
    assert_eq!(super::column(&mut client, "show clients", "application_name"), ["Ünterm Tisch"]);
}

#[test]
fn g55_the_console_can_be_killed_by_another() {
    let fixture = fixture();
    let (mut one, mut two) = (console(&fixture), console(&fixture));
    let ids = super::column(&mut one, "show clients", "id");
    assert_eq!(ids.len(), 2);
    assert_eq!(one.query(&format!("kill_client {}", ids[1])), "C KILL_CLIENT | Z I");
    assert_eq!(two.until_end(), "E FATAL 57P01 | EOF");
    // And so can oneself.
    let ptr = super::column(&mut one, "show clients", "ptr");
    one.send(&[query(&format!("KILL_CLIENT {};", ptr[0]))]);
    assert_eq!(one.until_end(), "C KILL_CLIENT | Z I | E FATAL 57P01 | EOF");
}

#[test]
fn who_leaves_gives_up_the_seat() {
    let fixture = fixture();
    let mut client = console(&fixture);
    drop(as_user(&fixture, "stats"));
    poll("the other one is gone", || super::column(&mut client, "show clients", "id").len() == 1);
}
