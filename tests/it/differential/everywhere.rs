//! Written scripts, played in every way of pooling: what they assert is PostgreSQL's own answer, and
//! the same through the proxy, whoever else is there.

use std::sync::atomic::AtomicBool;

use super::{
    generate::Keeps::{Session, Transaction},
    interfere::interfere,
};
use crate::support::{
    EndsWith,
    cluster::Cluster,
    fixture::{Fixture, Peer, first_difference},
    login::Login,
    proxy::Proxy,
};

/// Clients of one script at most: in session mode each has a backend.
const CLIENTS: usize = 5;

/// Plays a script against PostgreSQL, and through pools in transaction mode of one and of two
/// backends and in session mode, while another client interferes.
///
/// # Panics
/// If what the script asserts does not hold somewhere, or the clients of any two sides have got
/// different messages.
pub fn everywhere(script: impl Fn(&Peer)) {
    let session_size = CLIENTS + 1;
    let pools = [
        ("transaction_1", Transaction, "transaction", 1),
        ("transaction_2", Transaction, "transaction", 2),
        ("session", Session, "session", session_size),
    ];
    let cluster = Cluster::shared();
    let database = cluster.new_database();
    let config = pools.iter().fold(Fixture::config(cluster, &database), |config, pool| {
        let (name, _, mode, size) = pool;
        let mut lines = Fixture::place(cluster, &database).to_vec();
        lines.extend([format!("pool_mode = \"{mode}\""), format!("pool_size = {size}")]);
        config.database(name, &lines.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let fixture = Fixture { cluster, proxy: Proxy::start(cluster, config), database };
    // Before version 14 the server reports a parameter whenever it is set, also to what it is.
    let reports_changes = cluster.version() >= 140_000;
    let is_heard = |line: &String| reports_changes || !line.contains(": S ");
    let heard = |lines: Vec<String>| lines.into_iter().filter(is_heard).collect::<Vec<_>>();
    let direct = fixture.run("PostgreSQL itself", fixture.login(), fixture.cluster.tcp(), &script);
    let direct = heard(direct);
    for (name, keeps, ..) in pools {
        let (login, address) = (Login::new("postgres", name), fixture.proxy.tcp());
        let is_over = AtomicBool::new(false);
        let proxied = std::thread::scope(|scope| {
            let _ends = EndsWith(&is_over);
            scope.spawn(|| interfere(&address, &login, keeps, &is_over));
            fixture.run(name, login.clone(), address.clone(), &script)
        });
        if let Some(difference) = first_difference(&direct, &heard(proxied)) {
            panic!("{name}: {difference}");
        }
    }
}
