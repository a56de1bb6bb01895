//! The command line: what `check` and `run` say about settings, and their exit codes.

use std::{
    fs,
    process::{Command, Output},
};

use crate::support::{
    cluster::{free_port, private_dir},
    proxy::Subject,
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
