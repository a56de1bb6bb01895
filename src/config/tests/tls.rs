//! The keys about TLS: how they are read, what they need, and the files that they name.

use super::{env, parse};
use crate::config::{Config, Source, SslMode, TlsProtocols};

fn error(text: &str) -> String {
    Config::parse(text, "f", &env).expect_err("it is wrong").to_string()
}

#[test]
fn words_of_pgbouncer_are_understood() {
    let protocols = |value: &str| {
        parse(&format!("[general]\nserver_tls_protocols = {value}\n")).general.server_tls
    };
    let check = |value, expected| assert_eq!(protocols(value).server_tls_protocols, expected);
    check("\"secure\"", TlsProtocols::All);
    check("\"all\"", TlsProtocols::All);
    check("\"tlsv1.2,tlsv1.3\"", TlsProtocols::All);
    check("[\"TLSv1.3\"]", TlsProtocols::Tls13);
    check("\"tlsv1.2\"", TlsProtocols::Tls12);
    let ciphers = |value: &str| {
        let text = format!("[general]\nserver_tls_ciphers = \"{value}\"\n");
        parse(&text).general.server_tls.server_tls_ciphers
    };
    for all in ["", "default", "secure", "normal", "fast", "all"] {
        assert!(ciphers(all).is_empty(), "{all}");
    }
    let two = "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305";
    assert_eq!(ciphers(two).join(":"), two);
}

#[test]
fn what_there_is_not_is_refused_in_so_many_words() {
    let check = |line: &str, expected: &str| {
        let text = error(&format!("[general]\n{line}\n"));
        assert!(text.starts_with(&format!("f:2: general.{expected}")), "{text}");
    };
    check("client_tls_sslmode = \"verify\"", "client_tls_sslmode: \"verify\" is not one of");
    check("client_tls_protocols = \"tlsv1.1\"", "client_tls_protocols: TLS before 1.2 is not");
    check("client_tls_protocols = \"\"", "client_tls_protocols: must not be empty");
    check("client_tls_protocols = \"ssl3\"", "client_tls_protocols: \"ssl3\" is not \"secure\"");
    check("server_tls_ciphers = \"HIGH:!aNULL\"", "server_tls_ciphers: \"HIGH:!aNULL\" is not");
    check(
        "server_tls_ciphers = \"TLS_AES_128_GCM_SHA256\"",
        "server_tls_ciphers: \"TLS_AES_128_GCM_SHA256\" is not",
    );
    check("client_tls_dheparams = \"auto\"", "client_tls_dheparams: is not available");
}

#[test]
fn keys_that_need_each_other_are_there_together() {
    let check = |text: &str, expected: &str| assert_eq!(error(text), expected);
    check(
        "[general]\nclient_tls_sslmode = \"require\"\nclient_tls_key_file = \"k\"\n",
        "f:2: general.client_tls_sslmode: needs client_tls_cert_file too",
    );
    check(
        "[general]\nclient_tls_sslmode = \"verify-ca\"\nclient_tls_key_file = \"k\"\n\
         client_tls_cert_file = \"c\"\n",
        "f:2: general.client_tls_sslmode: needs client_tls_ca_file too",
    );
    check(
        "[general]\nauth_type = \"cert\"\n",
        "f:2: general.auth_type: \"cert\" needs client_tls_sslmode = \"verify-ca\" or \
         \"verify-full\"",
    );
    check(
        "[databases.a]\nserver_tls_sslmode = \"verify-ca\"\n",
        "f:2: databases.a.server_tls_sslmode: needs server_tls_ca_file too",
    );
    check(
        "[general]\nserver_tls_key_file = \"k\"\n",
        "f:2: general.server_tls_key_file: needs server_tls_cert_file too",
    );
    // The public authorities will do for a name.
    parse("[databases.a]\nserver_tls_sslmode = \"verify-full\"\n");
}

#[test]
fn databases_override_what_holds_for_all() {
    let config = parse(
        "[general]\nserver_tls_sslmode = \"require\"\nserver_tls_protocols = \"tlsv1.3\"\n\
         server_tls_ca_file = \"all\"\n[databases.a]\nserver_tls_sslmode = \"verify-full\"\n\
         server_tls_ca_file = \"own\"\n[databases.b]\n[databases.c]\nserver_tls_ca_file = \"\"\n",
    );
    let tls = |database: &str| config.pool_settings(database, "u").unwrap().tls;
    let (a, b, c) = (tls("a"), tls("b"), tls("c"));
    assert_eq!(
        (a.server_tls_sslmode, b.server_tls_sslmode),
        (SslMode::VerifyFull, SslMode::Require)
    );
    assert_eq!(a.server_tls_ca_file.path().to_str(), Some("own"));
    assert_eq!(b.server_tls_ca_file.path().to_str(), Some("all"));
    assert!(c.server_tls_ca_file.is_none());
    assert_eq!(a.server_tls_protocols, TlsProtocols::Tls13);
}

#[test]
fn files_are_a_part_of_the_configuration_if_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("proxy.toml"), folder.path().join("key"));
    let read = |mode: &str| {
        let text = format!(
            "[general]\nclient_tls_sslmode = \"{mode}\"\nclient_tls_key_file = \"{0}\"\n\
             client_tls_cert_file = \"{0}\"\n[databases.a]\n",
            key.display()
        );
        std::fs::write(&file, text).unwrap();
        Source::read(&file).unwrap().parse()
    };
    let missing = read("allow").expect_err("there is no such file").to_string();
    let line = format!("{}:3: general.client_tls_key_file: ", file.display());
    assert!(missing.starts_with(&line) && missing.contains("cannot be read"), "{missing}");
    assert!(read("disable").is_ok(), "nobody needs it");
    std::fs::write(&key, "hunter2").unwrap();
    let before = read("allow").unwrap();
    assert_eq!(before.general.client_tls.client_tls_key_file.content(), Some(&b"hunter2"[..]));
    assert!(!format!("{before:?}").contains("hunter2"), "it is not shown");
    assert_eq!(before, read("allow").unwrap());
    std::fs::write(&key, "hunter3").unwrap();
    let difference = before.difference(&read("allow").unwrap());
    assert_eq!(difference.general, ["client_tls_key_file", "client_tls_cert_file"]);
}
