//! Clients and backends, one by one: SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS.

use std::time::{Duration, SystemTime};

use super::rows::{address, flag, int, owned, seconds_and_micros, text};
use crate::admin::Admin;
use crate::admin::books::Rows;
use crate::admin::clock::utc;
use crate::admin::seats::Occupant;
use crate::net::Peer;
use crate::wire::rows::Value;
use crate::worker::{ClientReport, ClientState, HeldFor, ServerReport, ServerState};

/// One socket, whichever kind; turned into columns in one place.
struct Socket<'a> {
    kind: &'static str,
    user: &'a str,
    database: &'a str,
    state: &'static str,
    peer: (Option<Peer>, u16),
    local: (Option<Peer>, u16),
    connected: SystemTime,
    requested: SystemTime,
    wait: Option<Duration>,
    is_close_needed: bool,
    id: u64,
    link: Option<u64>,
    process: Option<i32>,
    tls: Option<String>,
    application_name: String,
    prepared_statements: usize,
    unsent_bytes: usize,
    held_bytes: usize,
    /// What in its session keeps the two together.
    pinned: &'static str,
}

impl Admin {
    pub(super) async fn list_clients(&self) -> Rows {
        let inventory = self.control.list().await;
        let port = self.control.config().general.listen_port;
        let clients = inventory.clients.iter().map(|client| of_client(client, port).columns());
        clients.chain(self.consoles(port)).collect()
    }

    pub(super) async fn list_servers(&self) -> Rows {
        let inventory = self.control.list().await;
        inventory.servers.iter().map(|server| of_server(server).columns()).collect()
    }

    /// Lists all sockets, or those that do something now.
    pub(super) async fn list_sockets(&self, are_active: bool) -> Rows {
        let inventory = self.control.list().await;
        let port = self.control.config().general.listen_port;
        let is_wanted = |state: &str| !are_active || state == "active";
        let clients = inventory.clients.iter().map(|client| of_client(client, port));
        let servers = inventory.servers.iter().map(of_server);
        let occupants = self.seats.occupants();
        let consoles = occupants.iter().map(|occupant| of_console(occupant, port));
        let sockets = clients.chain(consoles).chain(servers);
        sockets.filter(|socket| is_wanted(socket.state)).map(Socket::buffer_columns).collect()
    }

    fn consoles(&self, port: u16) -> Rows {
        let occupants = self.seats.occupants();
        occupants.iter().map(|occupant| of_console(occupant, port).columns()).collect()
    }
}

impl Socket<'_> {
    /// The columns of SHOW CLIENTS and SHOW SERVERS.
    fn columns(self) -> Vec<Value> {
        let later = self.later();
        let pinned = text(self.pinned);
        self.first().into_iter().chain(later).chain([pinned]).collect()
    }

    /// The columns of SHOW SOCKETS, which have the state of the buffers in between. What PgBouncer
    /// says of its packet buffers is said of the bytes we hold.
    fn buffer_columns(self) -> Vec<Value> {
        let later = self.later();
        let (held, unsent) = (int(self.held_bytes), int(self.unsent_bytes));
        let buffers = [held.clone(), int(0), int(0), int(0), int(0), held, unsent];
        self.first_of_socket().into_iter().chain(buffers).chain(later).collect()
    }

    /// In SHOW SOCKETS a state says whose it is.
    fn first_of_socket(self) -> Vec<Value> {
        let prefix = if self.kind == "S" { "sv" } else { "cl" };
        let state = owned(format!("{prefix}_{}", self.state));
        let mut columns = self.first();
        if let Some(column) = columns.get_mut(3) {
            *column = state;
        }
        columns
    }

    fn first(self) -> Vec<Value> {
        let [addr, port] = address(self.peer.0, self.peer.1);
        let [local_addr, local_port] = address(self.local.0, self.local.1);
        let [wait, wait_us] = seconds_and_micros(self.wait.unwrap_or_default());
        vec![
            text(self.kind),
            owned(self.user),
            owned(self.database),
            text(self.state),
            addr,
            port,
            local_addr,
            local_port,
            owned(utc(self.connected)),
            owned(utc(self.requested)),
            wait,
            wait_us,
            flag(self.is_close_needed),
            owned(pointer(self.id)),
            self.link.map_or(text(""), |link| owned(pointer(link))),
            int(self.process.unwrap_or(0)),
            owned(self.tls.unwrap_or_default()),
            owned(self.application_name),
        ]
    }

    fn later(&self) -> [Value; 3] {
        [text("none"), int(self.prepared_statements), int(self.id)]
    }
}

/// What PgBouncer has the address of an object for: something to tell sockets apart by.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

fn pinned(reason: Option<HeldFor>) -> &'static str {
    reason.filter(|reason| reason.is_pin()).map_or("", HeldFor::as_str)
}

fn of_client(client: &ClientReport, port: u16) -> Socket<'_> {
    let state = match client.state {
        // A client between two transactions is active to PgBouncer.
        ClientState::Idle | ClientState::Active | ClientState::Refused => "active",
        ClientState::Waiting => "waiting",
        ClientState::WaitingLogin => "waiting_login",
        ClientState::Leaving | ClientState::Closing => "justfree",
    };
    Socket {
        kind: "C",
        user: &client.spec.user,
        database: &client.spec.database,
        state,
        peer: (client.peer, port),
        local: (client.local, port),
        connected: client.connected,
        requested: client.requested,
        wait: client.wait,
        is_close_needed: client.is_close_needed,
        id: client.id,
        link: client.link,
        process: client.process,
        tls: client.tls.clone(),
        application_name: client.application_name.clone(),
        prepared_statements: client.prepared_statements,
        unsent_bytes: client.unsent_bytes,
        held_bytes: client.held_bytes,
        pinned: pinned(client.keeps),
    }
}

fn of_server(server: &ServerReport) -> Socket<'_> {
    let state = match server.state {
        ServerState::Idle => "idle",
        ServerState::Used => "used",
        ServerState::Active => "active",
        ServerState::Tested => "tested",
        ServerState::BeingCanceled => "being_canceled",
    };
    let port = server.origin.server.port;
    Socket {
        kind: "S",
        user: &server.spec.user,
        database: &server.spec.database,
        state,
        peer: (server.peer, port),
        local: (server.local, port),
        connected: server.connected,
        requested: server.requested,
        wait: None,
        is_close_needed: server.is_close_needed,
        id: server.id,
        link: server.link,
        process: Some(server.process),
        tls: server.tls.clone(),
        application_name: server.application_name.clone(),
        prepared_statements: server.prepared_statements,
        unsent_bytes: server.unsent_bytes,
        held_bytes: server.held_bytes,
        pinned: pinned(server.held.map(|held| held.reason)),
    }
}

fn of_console(occupant: &Occupant, port: u16) -> Socket<'_> {
    Socket {
        kind: "C",
        user: &occupant.user,
        database: &occupant.database,
        state: "active",
        peer: (Some(occupant.peer), port),
        local: (occupant.local, port),
        connected: occupant.connected,
        requested: occupant.requested(),
        wait: None,
        is_close_needed: false,
        id: occupant.id,
        link: None,
        process: None,
        tls: occupant.tls.clone(),
        application_name: occupant.application_name(),
        prepared_statements: 0,
        unsent_bytes: 0,
        held_bytes: 0,
        pinned: "",
    }
}
