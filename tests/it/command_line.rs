//! The command line: what `check` and `run` say about settings, and their exit codes.

use std::{
    fs,
    process::{Command, Output},
};

use crate::support::{
    cluster::{Cluster, free_port, private_dir},
    login::Login,
    proxy::Subject,
    tools::feed,
};

/// Runs our program on a configuration; nothing if something else is under test.
fn pgtandem(config: Option<&str>, arguments: &[&str]) -> Option<Output> {
    let Subject::Pgtandem(program) = Subject::current() else {
        return None;
    };
    let dir = private_dir("pgtandem-it-cli-");
    let file = dir.join("proxy.toml");
    if let Some(text) = config {
        fs::write(&file, text).expect("the folder is ours");
    }
    let output = Command::new(program)
        .arg("--config")
        .arg(&file)
        .args(arguments)
        .current_dir(&dir)
        .output()
        .expect("our program is built");
    fs::remove_dir_all(&dir).expect("the folder is ours");
    Some(output)
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams.map(|stream| String::from_utf8_lossy(stream).into_owned()).concat()
}

const GOOD: &str = "\
[general]
listen_port = 6432
[databases.app]
host = \"127.0.0.1\"
[users.alice]
password = \"secret\"
";

const BAD: &str = "\
[general]
listen_prot = 6432
pool_mode = \"transactoin\"
default_pool_size = -3
query_wait_timeout = \"soon\"
[databases.app]
prot = 5432
";

#[test]
fn check_accepts_good_settings() {
    let Some(output) = pgtandem(Some(GOOD), &["check"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains("secret"));
}

#[test]
fn check_names_all_problems_at_once() {
    let Some(output) = pgtandem(Some(BAD), &["check"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let text = text(&output);
    for hint in [
        "listen_prot",
        "listen_port",
        "transactoin",
        "default_pool_size",
        "query_wait_timeout",
        "prot",
    ] {
        assert!(text.contains(hint), "no word of {hint}:\n{text}");
    }
    for line in ["2", "3", "4", "5", "7"] {
        assert!(text.contains(line), "no word of line {line}:\n{text}");
    }
}

#[test]
fn run_refuses_bad_settings() {
    for arguments in [&["run"][..], &[]] {
        let Some(output) = pgtandem(Some(BAD), arguments) else {
            return;
        };
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("default_pool_size"), "{}", text(&output));
    }
}

#[test]
fn files_that_are_not_there_or_not_toml_are_refused() {
    for command in ["run", "check"] {
        for config in [None, Some("[general\n"), Some("\u{0}"), Some("general = 1")] {
            let Some(output) = pgtandem(config, &[command]) else {
                return;
            };
            assert_eq!(output.status.code(), Some(2), "{config:?}: {}", text(&output));
            assert!(!text(&output).is_empty());
        }
    }
}

#[test]
fn occupied_port_is_a_clear_failure() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = occupied.local_addr().expect("bound").port();
    let config =
        format!("[general]\nlisten_port = {port}\nunix_socket_dir = \"\"\n[databases.app]\n");
    let Some(output) = pgtandem(Some(&config), &["run"]) else {
        return;
    };
    assert!(output.status.code().is_some_and(|code| code != 0), "{}", output.status);
    assert!(text(&output).contains(&port.to_string()), "{}", text(&output));
}

#[test]
fn secrets_never_reach_the_log() {
    let port = free_port();
    let config = format!(
        "[general]\nlisten_port = {port}\nunix_socket_dir = \"/nonexistent/dir\"\n\
         [databases.app]\npassword = \"hush-hush\"\n[users.alice]\npassword = \"sh-quiet\"\n\
         nonsense = 1\n"
    );
    for command in ["run", "check"] {
        let Some(output) = pgtandem(Some(&config), &[command]) else {
            return;
        };
        assert_ne!(output.status.code(), Some(0));
        let text = text(&output);
        assert!(!text.contains("hush-hush") && !text.contains("sh-quiet"), "{text}");
    }
}

#[test]
fn help_and_version_are_given() {
    for (argument, expected) in [("--help", "check"), ("--version", "pgtandem")] {
        let Some(output) = pgtandem(None, &[argument]) else {
            return;
        };
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    let Some(output) = pgtandem(None, &["no-such-command"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn check_says_who_can_read_passwords_and_what_has_no_effect() {
    let config = "[general]\nreserve_pool_timeout = 1\nsyslog_ident = \"x\"\n[databases.app]\n\
                  [users.alice]\npassword = \"secret\"\n[users.nobody]\n";
    let Some(output) = pgtandem(Some(config), &["check"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    let advice = text.lines().filter(|line| line.starts_with("advice: ")).count();
    assert_eq!(advice, 4, "{text}");
    for part in ["chmod 600", "reserve_pool_timeout", "syslog_ident", "users.nobody"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn check_logs_in_everywhere() {
    let cluster = Cluster::shared();
    let (port, nobody) = (cluster.port(), free_port());
    let config = format!(
        "[general]\nserver_connect_timeout = 5\n\
         [databases.app]\nport = {port}\ndbname = \"t1\"\npool_size = 200\n\
         [databases.socket]\nhost = \"{}\"\nport = {port}\ndbname = \"t1\"\nuser = \"bob\"\n\
         password = \"bob-pw\"\n\
         [databases.wrong]\nport = {port}\ndbname = \"t1\"\nuser = \"alice\"\npassword = \"no\"\n\
         [databases.missing]\nport = {port}\n\
         [databases.down]\nport = {nobody}\n\
         [databases.list]\nhost = \"127.0.0.1,127.0.0.1\"\nport = [{nobody}, {port}]\n\
         dbname = \"t1\"\ntarget_session_attrs = \"standby\"\n\
         [databases.\"*\"]\nport = {port}\n\
         [users.alice]\npassword = \"alice-pw\"\n",
        cluster.socket_dir().display()
    );
    let Some(output) = pgtandem(Some(&config), &["check", "--connect"]) else {
        return;
    };
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no line of {name}:\n{text}")).to_owned()
    };
    for name in ["app", "socket", "*"] {
        assert!(line(name).contains("ok: PostgreSQL 1"), "{text}");
        assert!(line(name).contains("max_connections 120, login "), "{text}");
    }
    assert!(line("socket").contains("as \"bob\" at /"), "{text}");
    assert!(line("wrong").contains("FAILED: 28P01: "), "{text}");
    assert!(line("missing").contains("FAILED: 3D000: "), "{text}");
    assert!(line("down").contains("FAILED: 08001: "), "{text}");
    let of_list: Vec<&str> = text.lines().filter(|line| line.starts_with("list: ")).collect();
    assert_eq!(of_list.len(), 2, "{text}");
    assert!(of_list[0].contains("FAILED: 08001: "), "{text}");
    assert!(of_list[1].contains(", primary (not wanted), max_connections"), "{text}");
    assert!(text.contains("the server allows 117 (max_connections 120, 3 of them"), "{text}");
    for secret in ["alice-pw", "bob-pw"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Runs `pgtandem password` on standard input.
fn secret(arguments: &[&str], input: &[u8]) -> Option<Output> {
    let Subject::Pgtandem(program) = Subject::current() else {
        return None;
    };
    let mut command = Command::new(program);
    command.arg("password").args(arguments);
    Some(feed(command, input))
}

#[test]
fn postgresql_takes_the_secrets_that_we_make() {
    let cluster = Cluster::start();
    for (typed, sent, iterations) in [
        ("simple\n", "simple", "4096"),
        ("with blanks \n", "with blanks ", "10"),
        ("no line break", "no line break", "20000"),
        // SASLprep: a soft hyphen is nothing, a Roman numeral is letters, another blank is a blank.
        ("I\u{ad}\u{2168}\u{a0}x\n", "IIX x", "4096"),
    ] {
        let Some(output) = secret(&["--iterations", iterations], typed.as_bytes()) else {
            return;
        };
        assert!(output.status.success(), "{}", text(&output));
        let secret = String::from_utf8(output.stdout).expect("ASCII");
        let secret = secret.trim_end();
        assert!(secret.starts_with(&format!("SCRAM-SHA-256${iterations}:")), "{secret}");
        let mut superuser = cluster.superuser("postgres");
        superuser.rows(&format!("ALTER ROLE alice PASSWORD '{secret}'"));
        let stored = superuser.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'");
        assert_eq!(stored, secret, "it is taken for a secret, not for a password");
        // The other side normalises for itself what it is given.
        for password in [sent, typed.trim_end_matches('\n')] {
            let login = Login::new("alice", "postgres").password(password);
            assert!(login.connect(&cluster.tcp()).is_ok(), "{typed:?} {password:?}");
        }
        let wrong = Login::new("alice", "postgres").password("wrong");
        assert!(wrong.connect(&cluster.tcp()).is_err());
    }
}

#[test]
fn secrets_can_be_pasted_into_the_file() {
    let Some(output) = secret(&["--user", "al\"ice"], b"x\n") else {
        return;
    };
    let section = text(&output);
    assert!(
        section.starts_with("[users.") && section.contains("\npassword = \"SCRAM-"),
        "{section}"
    );
    let config = format!("[databases.app]\n{section}");
    let output = pgtandem(Some(&config), &["check"]).expect("it is our program");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for (arguments, input) in [(&[][..], &b""[..]), (&[], b"\n"), (&["--iterations", "0"], b"x\n")]
    {
        let output = secret(arguments, input).expect("it is our program");
        assert!(!output.status.success() && output.stdout.is_empty(), "{}", text(&output));
    }
}
