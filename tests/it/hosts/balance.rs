//! Which server of a list is used.

use std::{
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{WHO, base, config, connect, console, database, logged, pair, start};
use crate::support::{
    cluster::{Cluster, free_port},
    config::Config,
    login::Login,
    poll,
    proxy::Proxy,
    wire::Client,
};

/// The servers of as many backends of `app`, all in use at a time: their ports, and who has them.
fn servers_of(proxy: &Proxy, count: usize) -> (Vec<String>, Vec<Client>) {
    let mut clients: Vec<_> = (0..count).map(|_| connect(proxy, "app")).collect();
    let who = |client: &mut Client| {
        client.rows("BEGIN");
        client.value(WHO)
    };
    (clients.iter_mut().map(who).collect(), clients)
}

fn count(ports: &[String], port: u16) -> usize {
    ports.iter().filter(|known| **known == port.to_string()).count()
}

fn pool_of_four(config: Config) -> Config {
    config.general("default_pool_size = 4").general("server_login_retry = 1")
}

#[test]
fn connections_go_round_the_list() {
    let (primary, standby) = pair();
    let ports = [primary.port(), standby.port()];
    let Some(proxy) = start(pool_of_four(config(&ports, &[]))) else { return };
    let (used, _clients) = servers_of(&proxy, 4);
    assert_eq!([count(&used, ports[0]), count(&used, ports[1])], [2, 2], "{used:?}");
    let mut console = console(&proxy);
    let rows = console.rows("SHOW SERVERS");
    let of = |port: u16| rows.iter().filter(|row| row[5] == port.to_string()).count();
    assert_eq!([of(ports[0]), of(ports[1])], [2, 2], "{rows:?}");
    let databases = console.rows("SHOW DATABASES");
    let app = databases.iter().find(|row| row[0] == "app").expect("it is listed");
    assert_eq!(app[1], "127.0.0.1,127.0.0.1");
    assert_eq!(app[15], "round-robin");
    assert_eq!(app[19], format!("127.0.0.1:{},127.0.0.1:{}", ports[0], ports[1]));
    assert_eq!(app[20], "any");
}

#[test]
fn without_balancing_the_first_good_one_sticks() {
    let (mut primary, standby) = pair();
    let ports = [primary.port(), standby.port()];
    let keys = ["load_balance_hosts = \"disable\""];
    let Some(proxy) = start(pool_of_four(config(&ports, &keys))) else { return };
    assert_eq!(count(&servers_of(&proxy, 4).0, ports[0]), 4);
    primary.crash();
    poll("the loss is noticed", || console(&proxy).rows("SHOW SERVERS").is_empty());
    let (used, clients) = servers_of(&proxy, 4);
    assert_eq!(count(&used, ports[1]), 4);
    primary.restart();
    poll("it is found again", || logged(&proxy, "server answers again") > 0);
    drop(clients);
    poll("all are closed", || console(&proxy).rows("SHOW SERVERS").is_empty());
    assert_eq!(count(&servers_of(&proxy, 4).0, ports[1]), 4, "it does not go back by itself");
}

#[test]
fn a_dead_server_is_found_out_once_and_left_alone() {
    let cluster = Cluster::shared();
    let ports = [free_port(), cluster.port()];
    let two = database(pool_of_four(config(&ports, &[])), "two", &ports, &[]);
    let Some(proxy) = start(two) else { return };
    let (used, _clients) = servers_of(&proxy, 4);
    assert_eq!(count(&used, ports[1]), 4);
    assert_eq!(connect(&proxy, "two").value(WHO), ports[1].to_string());
    assert_eq!(logged(&proxy, "left alone"), 1, "for all databases and pools");
    // It is tried again in the background, and used when it is there.
    let listener = TcpListener::bind(("127.0.0.1", ports[0])).expect("nobody has it");
    drop(listener.accept().expect("the proxy looks after it"));
}

/// A port whose queue is full: whoever connects gets no answer. As long as the streams live.
fn deaf_port() -> (u16, Socket, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("loopback");
    socket.listen(0).expect("it is bound");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("IPv4");
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        filling.push(stream);
    }
    (address.port(), socket, filling)
}

#[test]
fn a_server_that_swallows_packets_costs_a_part_of_the_time_once() {
    let cluster = Cluster::shared();
    let (deaf, _socket, _filling) = deaf_port();
    let config = config(&[deaf, cluster.port()], &[]).general("server_connect_timeout = 4");
    let Some(proxy) = start(config.user("dave", &[])) else { return };
    let began = Instant::now();
    assert_eq!(connect(&proxy, "app").value(WHO), cluster.port().to_string());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let mut dave = Login::new("dave", "app").connect(&proxy.tcp()).expect("trusted");
    let began = Instant::now();
    assert_eq!(dave.value(WHO), cluster.port().to_string());
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_refuses_the_login_ends_the_search() {
    let cluster = Cluster::shared();
    let ports = [cluster.port(), free_port()];
    let keys = ["load_balance_hosts = \"disable\"", "failover_timeout = 60"];
    let config = database(base(), "none", &ports, &[&keys[..], &["dbname = \"none\""]].concat());
    let Some(proxy) = start(config) else { return };
    let said =
        Login::new("postgres", "none").connect(&proxy.tcp()).err().expect("no such database");
    assert!(format!("{said:?}").contains("3D000"), "{said:?}");
}
