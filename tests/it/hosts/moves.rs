//! Servers move: a reload changes the list, a name gets another address.

use std::{fs, path::Path, time::Duration};

use super::{WHO, base, config, connect, console, database, pair, start};
use crate::support::{
    cluster::private_dir,
    fake::{Caller, FakeServer},
    let_pass, poll,
};

#[test]
fn a_reload_keeps_what_is_still_listed() {
    let (primary, standby) = pair();
    let ports = [primary.port(), standby.port()];
    let config = config(&ports, &[]).general("default_pool_size = 2");
    let Some(mut proxy) = start(config) else { return };
    let (mut one, mut two) = (connect(&proxy, "app"), connect(&proxy, "app"));
    for client in [&mut one, &mut two] {
        client.rows("BEGIN");
    }
    let of = |client: &mut crate::support::wire::Client| (client.value(WHO), client.backend_pid());
    let mut used = [of(&mut one), of(&mut two)];
    used.sort_by_key(|(port, _)| *port != ports[1].to_string());
    let (kept, left) = (used[0].1.clone(), used[1].1.clone());
    assert_eq!(used[0].0, ports[1].to_string(), "each has one");
    proxy.reload(|config| database(config, "app", &[ports[1]], &[]));
    let mut console = console(&proxy);
    poll("it is reloaded", || {
        console.rows("SHOW SERVERS").iter().any(|row| row[12] == "1" && row[15] == left)
    });
    for client in [&mut one, &mut two] {
        assert_eq!(client.query("COMMIT"), "C COMMIT | Z I", "transactions go on");
    }
    for client in [&mut one, &mut two] {
        assert_eq!(of(client), (ports[1].to_string(), kept.clone()));
    }
    let pids: Vec<String> =
        console.rows("SHOW SERVERS").into_iter().map(|row| row[15].clone()).collect();
    assert!(!pids.contains(&left), "{pids:?}");
}

/// Has names come from a file instead of the system, in one process. Debian: libnss-wrapper.
const NSS_WRAPPER: &str = "libnss_wrapper.so";

fn is_installed() -> bool {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    folders.iter().any(|folder| Path::new(folder).join(NSS_WRAPPER).exists())
}

#[test]
fn a_name_that_moves_takes_the_backends_along() {
    assert!(is_installed(), "{NSS_WRAPPER} is needed: .ci/install test");
    let answering = |name: &'static str| {
        move |mut caller: Caller| {
            caller.welcome();
            while caller.query().is_some() {
                caller.answer(name);
            }
        }
    };
    let first = FakeServer::start(answering("first"));
    let address = format!("127.0.0.2:{}", first.port());
    let second = FakeServer::start_at(&address, answering("second"));
    let folder = private_dir("pgtandem-it-names-");
    let hosts = folder.join("hosts");
    fs::write(&hosts, "127.0.0.1 db.test\n").expect("it is ours");
    let config = base()
        .general("dns_max_ttl = 1")
        .env("LD_PRELOAD", NSS_WRAPPER)
        .env("NSS_WRAPPER_HOSTS", &hosts.display().to_string())
        .database("app", &["host = \"db.test\"", &format!("port = {}", first.port())]);
    let Some(proxy) = start(config) else { return };
    let mut client = connect(&proxy, "app");
    let answer = |name: &str| format!("D {name} | C SELECT 1 | Z I");
    assert_eq!(client.query("select 1"), answer("first").as_str());
    let names = console(&proxy).rows("SHOW DNS_HOSTS");
    assert_eq!((names[0][0].as_str(), names[0][2].as_str()), ("db.test", "127.0.0.1"));
    // As long as the name stays, so do the backends.
    let_pass(Duration::from_millis(2500));
    assert_eq!(first.connections(), 1);
    fs::write(folder.join("new"), "127.0.0.2 db.test\n").expect("it is ours");
    fs::rename(folder.join("new"), &hosts).expect("it is ours");
    poll("it is used", || client.query("select 1") == answer("second").as_str());
    assert_eq!((first.connections(), second.connections()), (1, 1));
    fs::remove_dir_all(folder).expect("it is ours");
}
