//! Who clients are: channel binding, and certificates.

use super::support::{fixture, psql, shake};
use crate::support::{
    cluster::ALICE,
    config::Config,
    fixture::Fixture,
    message::{PROTOCOL_3_0, message, startup},
    tools::{feed, successful},
};

fn with_alice(config: Config) -> Config {
    let password = format!("password = \"{}\"", ALICE.1);
    config.general("auth_type = \"scram-sha-256\"").user(ALICE.0, &[&password])
}

#[test]
fn libpq_binds_its_proof_to_the_connection() {
    let (_authority, fixture) = fixture("prefer", with_alice);
    let run = |settings: &str| {
        let mut psql = psql(&fixture.proxy.tcp(), &fixture.database, settings);
        feed(
            {
                psql.env("PGUSER", ALICE.0).env("PGPASSWORD", ALICE.1);
                psql
            },
            b"select 1",
        )
    };
    for settings in [
        "sslmode=require channel_binding=require",
        "sslmode=require channel_binding=require ssl_max_protocol_version=TLSv1.2",
        "sslmode=require channel_binding=disable",
        "sslmode=disable",
    ] {
        assert_eq!(successful(run(settings)), "1\n", "{settings}");
    }
    let refused = run("sslmode=disable channel_binding=require");
    assert!(!refused.status.success(), "there is nothing to bind to");
}

#[test]
fn a_hidden_offer_is_noticed() {
    let (authority, fixture) = fixture("require", with_alice);
    let log_in = |mechanism: &[u8], first: &[u8]| {
        let mut client = shake(&fixture.proxy.tcp(), authority.client_config(None)).expect("TLS");
        client
            .send(&[startup(PROTOCOL_3_0, &[("user", ALICE.0), ("database", &fixture.database)])]);
        let offered = client.reply();
        let list = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        assert_eq!(&offered.body()[4..], list);
        let length = u32::try_from(first.len()).expect("short").to_be_bytes();
        client.send(&[message(b'p', &[mechanism, b"\0", &length, first].concat())]);
        let said = client.reply();
        (said.tag(), said.sqlstate(), said.field(b'M').unwrap_or_default())
    };
    let refused = |code: &str, text: &str| (b'E', code.to_owned(), text.to_owned());
    // As PostgreSQL says it.
    let negotiation = refused("28000", "SCRAM channel binding negotiation error");
    assert_eq!(log_in(b"SCRAM-SHA-256", b"y,,n=,r=abc"), negotiation);
    assert_eq!(log_in(b"SCRAM-SHA-256", b"n,,n=,r=abc").0, b'R');
    let end_point = b"p=tls-server-end-point,,n=,r=abc";
    assert_eq!(log_in(b"SCRAM-SHA-256-PLUS", end_point).0, b'R');
    for (mechanism, first) in [
        (&b"SCRAM-SHA-256"[..], &end_point[..]),
        (b"SCRAM-SHA-256-PLUS", b"n,,n=,r=abc"),
        (b"SCRAM-SHA-256-PLUS", b"y,,n=,r=abc"),
        (b"SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=abc"),
    ] {
        assert_eq!(log_in(mechanism, first).1, "08P01", "{}", first.escape_ascii());
    }
}

#[test]
fn a_certificate_says_who_a_client_is() {
    let (authority, fixture) =
        fixture("verify-full", |config| config.general("auth_type = \"cert\""));
    authority.sign("dave", "dave", &[]);
    authority.sign("eve", "eve", &[]);
    let run = |name: &str, user: &str| {
        let (file, address) =
            (|kind: &str| authority.file(kind).display().to_string(), fixture.proxy.tcp());
        let certificate = if name.is_empty() {
            // Else libpq looks for one at home.
            "sslcert=/nowhere sslkey=/nowhere".to_owned()
        } else {
            format!(
                "sslcert={} sslkey={}",
                file(&format!("{name}.crt")),
                file(&format!("{name}.key"))
            )
        };
        let mut psql = psql(&address, &fixture.database, &format!("sslmode=require {certificate}"));
        psql.env("PGUSER", user);
        feed(psql, b"select current_user")
    };
    assert_eq!(successful(run("dave", "dave")), "dave\n");
    let complaint = |output: std::process::Output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let other = complaint(run("eve", "dave"));
    assert!(other.contains("certificate authentication failed for user \"dave\""), "{other}");
    complaint(run("", "dave"));
    // One that another authority has signed.
    let stranger = super::support::Authority::new();
    stranger.sign("dave", "dave", &[]);
    let mut config = authority.client_config(None);
    assert!(
        shake(&fixture.proxy.tcp(), config.clone())
            .and_then(|client| { fixture.login().over(client).map_err(|said| format!("{said:?}")) })
            .is_err(),
        "no certificate"
    );
    config = stranger.client_config(Some("dave"));
    assert!(shake(&fixture.proxy.tcp(), config).is_err());
    // A Unix socket has no certificates.
    let refused = fixture.login().connect(&fixture.proxy.unix()).err().expect("no certificate");
    assert_eq!(refused[0].to_string(), "E FATAL 28000");
    assert_eq!(successful(run("dave", "dave")), "dave\n");
}

#[test]
fn certificates_can_be_revoked() {
    let authority = super::support::Authority::new();
    authority.sign("server", "localhost", &["localhost", "127.0.0.1"]);
    authority.sign_with("dave", "dave", &[], 7);
    authority.sign_with("eve", "eve", &[], 8);
    authority.revoke(8);
    let fixture = Fixture::start(|config| {
        authority.for_clients("verify-ca")(config)
            .general(&authority.line("client_tls_crl_file", "ca.crl"))
    });
    let log_in = |name: &str| {
        shake(&fixture.proxy.tcp(), authority.client_config(Some(name)))
            .and_then(|client| fixture.login().over(client).map_err(|said| format!("{said:?}")))
    };
    assert_eq!(log_in("dave").expect("a good one").value("select 1"), "1");
    assert!(log_in("eve").is_err(), "it has been revoked");
}
