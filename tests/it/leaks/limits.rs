//! `session_state = "pin"` and `"reject"`, and how many clients may be pinned.

use super::{KINDS, PROTOCOLS, pinned, send};
use crate::support::{config::Config, fixture::Fixture, message::*, poll};

fn fixture(configure: impl FnOnce(Config) -> Config) -> Fixture {
    let fixture = Fixture::start(|config| {
        let config = config.general("default_pool_size = 2").general("admin_users = \"postgres\"");
        configure(config)
    });
    fixture.observer().rows(super::kinds::SCHEMA);
    fixture
}

#[test]
fn what_would_be_left_is_refused_if_so_configured() {
    let fixture = fixture(|config| config.general("session_state = \"reject\""));
    let mut client = fixture.connect();
    // What runs in a block of code is not refused, but found.
    let plain = KINDS.iter().filter(|kind| !kind.leave.starts_with("do "));
    // What is reported goes with its client all the same.
    for kind in plain.filter(|kind| !kind.leave.contains("authorization")) {
        for protocol in PROTOCOLS {
            let answer = send(&mut client, protocol, kind.leave);
            assert!(answer.contains("E 0A000"), "{}: {answer}", kind.leave);
            assert!(answer.contains("Z I"), "{}: {answer}", kind.leave);
            assert_eq!(client.value(kind.look), kind.other, "{}", kind.leave);
        }
    }
    assert!(pinned(&fixture).is_empty());
    client.send(&[query("listen x")]);
    let replies = client.replies_until(|reply| reply.tag() == b'Z');
    assert!(replies[0].field(b'H').is_some_and(|hint| hint.contains("pool_mode")));
    assert_eq!(client.query("begin; select 1"), "C BEGIN | T | D 1 | C SELECT 1 | Z T");
    assert_eq!(client.query("listen x"), "E 0A000 | Z E");
    assert_eq!(client.query("select 1"), "E 25P02 | Z E");
    assert_eq!(client.query("rollback"), "C ROLLBACK | Z I");
    assert_eq!(
        client.query("begin; set local role dave; commit"),
        "C BEGIN | C SET | C COMMIT | Z I"
    );
    assert_eq!(client.query("set application_name = 'x'"), "C SET | S application_name=x | Z I");
}

#[test]
fn parameters_pin_if_so_configured() {
    let fixture = fixture(|config| config.general("session_state = \"pin\""));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    a.query("set statement_timeout = '77s'");
    assert_eq!(a.value("show statement_timeout"), "77s");
    assert_eq!(b.value("show statement_timeout"), "0");
    assert_eq!(pinned(&fixture), ["parameter"]);
    a.query("discard all");
    assert_eq!(a.value("show statement_timeout"), "0");
    assert!(pinned(&fixture).is_empty());
}

#[test]
fn no_more_clients_are_pinned_than_may_be() {
    let fixture = fixture(|config| config.general("max_pinned_connections = 1"));
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("listen x"), "C LISTEN | Z I");
    for protocol in PROTOCOLS {
        let answer = send(&mut b, protocol, "create temp table leak (a int)");
        assert!(answer.contains("E 53300"), "{answer}");
    }
    // Parameters go with their client.
    assert_eq!(b.query("set statement_timeout = '77s'"), "C SET | Z I");
    assert_eq!(a.query("select pg_advisory_lock(1)"), "T | D  | C SELECT 1 | Z I");
    a.query("discard all");
    poll("the place is free", || {
        b.query("create temp table leak (a int)") == "C CREATE TABLE | Z I"
    });
    assert_eq!(a.query("listen x"), "E 53300 | Z I");
    drop(b);
    poll("the place is free", || a.query("listen x") == "C LISTEN | Z I");
}
