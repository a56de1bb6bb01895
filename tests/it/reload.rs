//! Reading the settings again.

use crate::support::{fixture::Fixture, message::query, poll};

#[test]
fn sighup_takes_new_settings_without_losing_anybody() {
    let mut fixture = Fixture::transaction();
    let (mut a, mut b) = (fixture.connect(), fixture.connect());
    assert_eq!(a.query("begin"), "C BEGIN | Z T");
    b.send(&[query("begin")]);
    b.assert_quiet();
    fixture.proxy.reload(|config| config.general("default_pool_size = 2"));
    // The second backend is there for the one who already waits.
    assert_eq!(b.ready(1), "C BEGIN | Z T");
    assert_eq!(fixture.backends(), 2);
    for client in [&mut a, &mut b] {
        assert_eq!(client.query("commit"), "C COMMIT | Z I");
    }
}

#[test]
fn sighup_adds_databases_and_users() {
    let mut fixture = Fixture::transaction();
    let connect = |fixture: &Fixture| {
        crate::support::login::Login::new("alice", "added").connect(&fixture.proxy.tcp())
    };
    assert!(connect(&fixture).is_err());
    let mut old = fixture.connect();
    let port = format!("port = {}", fixture.cluster.port());
    fixture.proxy.reload(|config| {
        config
            .database("added", &["host = \"127.0.0.1\"", &port, "dbname = \"t1\""])
            .user("alice", &["password = \"alice-pw\""])
    });
    poll("the new database is known", || connect(&fixture).is_ok());
    let mut new = connect(&fixture).expect("it was");
    assert_eq!(new.value("select current_user"), "alice");
    assert_eq!(old.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
}

#[test]
fn sighup_with_a_broken_file_keeps_the_old_settings() {
    let mut fixture = Fixture::transaction();
    let mut a = fixture.connect();
    let before = fixture.proxy.log().len();
    fixture.proxy.reload(|config| config.extra("\n[general\nnonsense"));
    poll("the failure is logged", || fixture.proxy.log()[before..].lines().count() > 0);
    assert_eq!(a.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    assert_eq!(fixture.connect().query("select 2"), "T | D 2 | C SELECT 1 | Z I");
    assert!(fixture.proxy.is_running());
}
