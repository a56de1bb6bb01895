//! What is refused, and in which words.

use std::time::Duration;

use super::{SCRAM, env, parse};
use crate::config::Config;
use crate::secret::Secret;

/// Checks that `text` has exactly these problems, as they are printed without the file's name.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = match Config::parse(text, "f", &env) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let found: Vec<&str> = found.lines().map(|line| line.strip_prefix("f:").unwrap()).collect();
    assert_eq!(found, expected, "{text}");
}

/// Checks one line in a section, expecting at most one problem.
#[track_caller]
fn check_line(section: &str, line: &str, expected: &str) {
    let key = line.split_once(' ').unwrap().0;
    let expected = format!("2: {section}.{key}: {expected}");
    check(&format!("[{section}]\n{line}\n"), &[&expected]);
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_lines() {
    let text = r#"
[general]
pool_mod = "session"
listen_port = 70000
auth_type = "scram"

[database.app]
host = "h"

[databases.app]
host = 5
prot = 5432
password = ""

[users.bob]
pool_mode = "transactional"
query_timeout = "5 parsecs"
"#;
    check(
        text,
        &[
            r#"3: general.pool_mod: unknown key; did you mean "pool_mode"?"#,
            "4: general.listen_port: 70000 is out of range, expected 0 to 65535",
            r#"5: general.auth_type: "scram" is not one of trust, plain, md5, scram-sha-256, cert, hba"#,
            r#"7: database: unknown section; did you mean "databases"?"#,
            "11: databases.app.host: expected a string, or a list of strings, found an integer",
            r#"12: databases.app.prot: unknown key; did you mean "port"?"#,
            "13: databases.app.password: must not be empty",
            "16: users.bob.pool_mode: \"transactional\" is not one of session, transaction, \
             statement; did you mean \"transaction\"?",
            "17: users.bob.query_timeout: \"5 parsecs\" is not a duration: write a number with \
             ms, s, min, h or d, such as \"250ms\"",
        ],
    );
}

#[test]
fn text_that_is_not_toml() {
    check(
        "[general]\nlisten_port = \n",
        &["2: string values must be quoted, expected literal string"],
    );
    // What comes before the first error is checked all the same, what comes after it is not.
    check(
        "[general]\nworkers = -1\nworkers = 2\nlog_levle = \"info\"\n",
        &["2: general.workers: -1 is out of range, expected 0 to 1024", "3: duplicate key workers"],
    );
}

#[test]
fn unknown_keys_and_sections() {
    let check = |text: &str, expected: &str| check(text, &[expected]);
    check("[genral]\n", r#"1: genral: unknown section; did you mean "general"?"#);
    check("[pgbouncer]\n", r#"1: pgbouncer: unknown section; did you mean "general"?"#);
    check("[colours]\n", "1: colours: unknown section");
    check("listen_port = 1\n", "1: listen_port: unknown key; it belongs in [general]");
    check(
        "[databases.app]\nlisten_port = 1\n",
        "2: databases.app.listen_port: unknown key; it belongs in [general]",
    );
    check(
        "[users.bob]\nmin_pool_size = 1\n",
        "2: users.bob.min_pool_size: unknown key; it belongs in [general]",
    );
    check(
        "[general]\npassword = \"x\"\n",
        "2: general.password: unknown key; it belongs in [databases.NAME]",
    );
    check(
        "[general]\npool_size = 5\n",
        r#"2: general.pool_size: unknown key; did you mean "default_pool_size"?"#,
    );
    check(
        "[databases.app]\ndatabase = \"x\"\n",
        r#"2: databases.app.database: unknown key; did you mean "dbname"?"#,
    );
    check(
        "[databases.app.replicaton]\n",
        r#"1: databases.app.replicaton: unknown section; did you mean "replication"?"#,
    );
    check("[databases.\"a.b\"]\n\"x y\" = 1\n", r#"2: databases."a.b"."x y": unknown key"#);
    check("[databases]\n\n[general]\n\"\" = 1\n", r#"4: general."": unknown key"#);
}

#[test]
fn replication_and_secondaries() {
    let any = "a secondary follows one database: give it a section of its own";
    check(
        "[databases.\"*\".replication]\nadmin_user = \"u\"\n",
        &[&format!("1: databases.\"*\".replication: {any}")],
    );
    check(
        "[databases.\"*\".secondaries.b]\n",
        &[&format!("1: databases.\"*\".secondaries: {any}")],
    );
    check(
        "[databases.a]\n[databases.a.secondaries.b]\n",
        &["2: databases.a.secondaries: secondaries need a section \"replication\" beside them"],
    );
    check(
        "[databases.a.replication]\n",
        &[
            "1: databases.a.replication.admin_user: needed, unless the database has a user: the role \
           that owns the tables",
        ],
    );
    check("[databases.a]\nuser = \"u\"\n[databases.a.replication]\n", &[]);
    let section = "databases.a.replication";
    check_line(section, "consistency = \"eventual\"", "\"eventual\" is not one of async");
    check_line(section, "ddl = \"replay\"", "\"replay\" is not one of follow, refuse, ignore");
    check_line(section, "batch_rows = 0", "0 is out of range, expected 1 to 1000000");
    check_line(
        section,
        "tables = [\"orders\"]",
        "\"orders\" is not a pattern of tables such as \"public.orders\" or \"shop.*\"",
    );
    check_line(section, "user = \"u\"", "unknown key; did you mean \"admin_user\"?");
    check_line(
        "databases.a.secondaries.b",
        "pool_size = 1",
        "1 is out of range, expected 2 to 1000",
    );
    check(
        "[databases.a.replication]\nadmin_user = \"u\"\n[databases.a.secondaries]\nb = 5\n",
        &["4: databases.a.secondaries.b: expected a section, found an integer"],
    );
}

#[test]
fn an_address_to_be_asked_at() {
    for bad in ["x", "localhost:1", "127.0.0.1", ":9930", "1.2.3.4:99999"] {
        let expected = format!(
            "2: metrics.listen: {bad:?} is not an IP address and a port, such as \
             \"127.0.0.1:9930\" or \"[::]:9930\""
        );
        check(&format!("[metrics]\nlisten = {bad:?}\n"), &[&expected]);
    }
    let hint = r#"2: metrics.listen_addr: unknown key; did you mean "listen"?"#;
    check("[metrics]\nlisten_addr = \"\"\n", &[hint]);
}

#[test]
fn what_comes_in_later_versions() {
    let check = |text: &str, key: &str| {
        check(text, &[&format!("{key} not available in this version")]);
    };
    for (key, later) in [
        ("consistency", ["shadow", "sync", "atomic"].as_slice()),
        ("capture", &["logical", "statement"]),
    ] {
        for value in later {
            check(
                &format!("[databases.a.replication]\nadmin_user = \"u\"\n{key} = \"{value}\"\n"),
                &format!("3: databases.a.replication.{key}: {value:?} is"),
            );
        }
    }
    check("[general]\nclient_tls_dheparams = 1\n", "2: general.client_tls_dheparams: is");
    check("[general]\npool_idle_timeout = 1\n", "2: general.pool_idle_timeout: is");
    check("[general]\nauth_type = \"ldap\"\n", "2: general.auth_type: \"ldap\" is");
    check("[general]\nauth_type = \"pam\"\n", "2: general.auth_type: \"pam\" is");
    check("[databases.a]\nhost = \"@a\"\n", "2: databases.a.host: an abstract socket is");
    check("[users.\"*\"]\n", "1: users.\"*\": a section for all other users is");
}

#[test]
fn sections_of_the_wrong_shape() {
    check("general = 5\n", &["1: general: expected a section, found an integer"]);
    check("users = \"${NONE}\"\n", &["1: users: expected a section, found a string"]);
    check("[[databases]]\nhost = \"a\"\n", &["1: databases: expected a section, found a list"]);
    check(
        "[databases]\napp = \"host=localhost\"\n",
        &["2: databases.app: expected a section, found a string"],
    );
    check(
        "[databases.pgbouncer]\n",
        &["1: databases.pgbouncer: this name is reserved for the admin console"],
    );
    check("[databases.\"\"]\n", &["1: databases.\"\": must not be empty"]);
    check("[users.\"a\\u0000\"]\n", &["1: users.\"a\\0\": must not contain a NUL character"]);
}

#[test]
fn wrong_types() {
    let check = |line: &str, expected: &str| {
        check_line("general", line, &format!("expected {expected}"));
    };
    check("listen_port = \"6432\"", "a whole number, found a string");
    check("listen_port = 64.32", "a whole number, found a fraction");
    check("listen_addr = 5", "a list of strings, or a string with commas, found an integer");
    check("listen_addr = [\"::1\", 5]", "a string, found an integer");
    check("workers = true", "a whole number, found a boolean");
    check("tcp_keepalive = 1", "true or false, found an integer");
    check("tcp_keepalive = \"true\"", "true or false, found a string");
    check("log_level = {}", "a string, found a section");
    check("query_timeout = false", "a duration such as 30 or \"250ms\", found a boolean");
    check("query_timeout = 2026-01-01", "a duration such as 30 or \"250ms\", found a date");
    check("max_packet_size = 1.5", "a size such as 65536 or \"64KiB\", found a fraction");
    check("unix_socket_mode = true", "an octal mode such as \"0770\", found a boolean");
}

#[test]
fn values_out_of_range() {
    let check = |line: &str, found: &str, expected: &str| {
        let reason = format!("{found} is out of range, expected {expected}");
        check_line("general", line, &reason);
    };
    check("listen_port = -1", "-1", "0 to 65535");
    check("max_client_conn = 0", "0", "1 to 10000000");
    check("default_pool_size = -3", "-3", "1 to 262143");
    check("min_pool_size = 262144", "262144", "0 to 262143");
    check("workers = 9223372036854775807", "9223372036854775807", "0 to 1024");
    check("workers = 9223372036854775808", "9223372036854775808", "a number of at most 64 bits");
    check("tcp_keepcnt = 128", "128", "0 to 127");
    check("tcp_keepidle = \"1500ms\"", "1.5s", "whole seconds, 0 to 32767");
    check("tcp_keepintvl = \"1d\"", "86400s", "whole seconds, 0 to 32767");
    check("query_timeout = -1", "-1", "0 or 1ms to 3650d");
    check("query_timeout = 1e300", "1e300", "0 or 1ms to 3650d");
    check("query_timeout = nan", "NaN", "0 or 1ms to 3650d");
    check("query_timeout = 0.0001", "0.0001", "0 or 1ms to 3650d");
    check("query_timeout = \"4000d\"", "4000d", "0 or 1ms to 3650d");
    check("max_packet_size = \"2GiB\"", "2GiB", "1024 to 2147483647");
    check("max_packet_size = -1", "-1", "1024 to 2147483647");
    check("unix_socket_mode = 0o1777", "0o1777", "0o0 to 0o777");
    let unlimited = "0 would mean an unlimited pool, which is refused because the bound is what \
        protects the server; set the greatest number of connections to open";
    check_line("general", "default_pool_size = 0", unlimited);
    check_line("databases.a", "pool_size = 0", unlimited);
    check_line("users.a", "pool_size = 0", unlimited);
    check_line("databases.a", "port = 0", "0 is out of range, expected 1 to 65535");
    check_line("databases.a", "port = [1, 65536]", "65536 is out of range, expected 1 to 65535");
    check_line("databases.a", "port = \"1,x\"", "\"1,x\" is not a whole number, or a list of them");
    check_line(
        "databases.a",
        "port = [1, 2]",
        "2 ports for 1 hosts: give one for each, or one for all",
    );
    check_line(
        "general",
        "server_role_check_period = 0.5",
        "500ms is out of range, expected 1s to 3650d",
    );
}

#[test]
fn malformed_texts() {
    let not_octal = "is not an octal mode such as \"0770\"";
    check_line("general", "unix_socket_mode = \"0789\"", &format!("\"0789\" {not_octal}"));
    check_line("general", "unix_socket_mode = 777", &format!("\"777\" {not_octal}"));
    check_line(
        "general",
        "unix_socket_dir = \"run\"",
        "\"run\" is not an absolute path such as \"/run/postgresql\"",
    );
    check_line(
        "general",
        &format!("unix_socket_dir = \"/{}\"", "d".repeat(92)),
        "a socket in this directory would have a path of 108 bytes, the limit is 107",
    );
    check_line(
        "general",
        "listen_addr = \"127.0.0.1:6432\"",
        "\"127.0.0.1:6432\" is not an address to listen on, such as \"127.0.0.1\", \"::1\" or \"*\"",
    );
    for host in ["a b", "h:5432", "[::1]", "-x", "postgres://h", "fe80::1%", &"h".repeat(256)] {
        check_line(
            "databases.a",
            &format!("host = {host:?}"),
            &format!(
                "{host:?} is not a host name, an IP address or an absolute path; the port has its own key",
            ),
        );
    }
    check_line("databases.a", "host = \"\"", "must not be empty");
    check_line("databases.a", "host = \"a,,b\"", "must not be empty");
    check_line("databases.a", "host = []", "must not be empty");
    check_line("databases.a", "dbname = \"\"", "must not be empty");
    check_line("databases.a", "user = \"a\\u0000b\"", "must not contain a NUL character");
    let levels = "is not one of off, error, warn, info, debug, trace";
    check_line(
        "general",
        "log_level = \"inof\"",
        &format!("\"inof\" {levels}; did you mean \"info\"?"),
    );
    check_line("general", "log_level = \"info,a=x\"", &format!("\"x\" {levels}"));
    check_line(
        "general",
        "max_packet_size = \"1MB\"",
        "\"1MB\" is not a size: write a number of \
        bytes, or with KiB, MiB or GiB, such as \"64MiB\"",
    );
}

#[test]
fn passwords() {
    let bad = "begins like a SCRAM secret and is not \
        SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>";
    for secret in [
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$4096:…",
        "SCRAM-SHA-256$0:c2FsdA==$AAAA:BBBB",
        &SCRAM.replace("4096", "many"),
        SCRAM.trim_end_matches('='),
        &format!("{SCRAM}A"),
    ] {
        check_line("users.a", &format!("password = \"{secret}\""), bad);
    }
    for secret in [SCRAM, "md5d41d8cd98f00b204e9800998ecf8427e", "plain", "md5rocks", "pa$$word"] {
        let config = parse(&format!("[users.a]\npassword = \"{secret}\"\n"));
        assert_eq!(config.users["a"].password, Some(Secret::new(secret)));
        assert!(!format!("{config:?}").contains(secret));
    }
}

#[test]
fn environment_variables() {
    let check_password = |text: &str, expected: &str| {
        let config = parse(&format!("[users.a]\npassword = '{text}'\n"));
        assert_eq!(config.users["a"].password, Some(Secret::new(expected)), "{text}");
    };
    check_password("${PASSWORD}", "s3cret");
    check_password("a${PASSWORD}b${_a1}", "as3cretbx");
    check_password("$${PASSWORD}", "${PASSWORD}");
    check_password("$$${PASSWORD}", "$${PASSWORD}");
    check_password("$PASSWORD $ {} $", "$PASSWORD $ {} $");

    let config = parse(
        "[general]\nlisten_port = \"${PORT}\"\nlog_connections = \"${YES}\"\n\
         query_timeout = \"${PERIOD}\"\nadmin_users = [\"${_a1}\"]\nserver_reset_query = \"${EMPTY}\"\n",
    );
    assert_eq!(config.general.listen_port, 6543);
    assert!(config.general.log_connections);
    assert_eq!(config.general.pool.query_timeout, Duration::from_millis(250));
    assert_eq!(config.general.admin_users, ["x"]);
    assert_eq!(config.general.pool.server_reset_query, "");

    let bad = "bad reference to an environment variable: write ${NAME}, or $${ for a plain ${";
    for text in ["${", "${}", "${A", "${A B}", "${1A}", "x${PORT}${"] {
        check_line("users.a", &format!("password = \"{text}\""), bad);
    }
    check_line("users.a", "password = \"${NONE}\"", "environment variable NONE is not set");
    check_line("users.a", "password = \"${EMPTY}\"", "must not be empty");
    check_line("general", "workers = \"${WORD}\"", "\"seven\" is not a whole number");
    check_line("general", "tcp_keepalive = \"${WORD}\"", "\"seven\" is not true or false");
}

#[test]
fn keys_that_contradict_each_other() {
    check(
        "[general]\nlisten_addr = \"\"\n\nunix_socket_dir = \"\"\n",
        &[
            "2: general.listen_addr: nothing to listen on: both listen_addr and unix_socket_dir are empty",
        ],
    );
    check(
        "[general]\nlisten_addr = \"\"\nunix_socket_dir = 1\n",
        &["3: general.unix_socket_dir: expected a string, found an integer"],
    );
    check(
        "[general]\nmin_pool_size = 21\n",
        &["2: general.min_pool_size: min_pool_size 21 is above the pool's size of 20"],
    );
    check(
        "[general]\nmin_pool_size = 5\n[databases.\"*\"]\npool_size = 4\n",
        &["3: databases.\"*\".min_pool_size: min_pool_size 5 is above the pool's size of 4"],
    );
    check(
        "[general]\nmin_pool_size = 21\ndefault_pool_size = true\n",
        &["3: general.default_pool_size: expected a whole number, found a boolean"],
    );
}
