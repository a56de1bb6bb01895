//! Clients over a few backends, as the worker has them, without sockets: every byte moves when the
//! dice say so.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{Message, encoded, read_all};
use super::postgres::Postgres;
use crate::backend::link::{Effect, Link};
use crate::backend::params::ParamSet;
use crate::backend::statements::{NAME_PREFIX, Scope};
use crate::session::front::{Front, StatementRules};
use crate::session::relay::{self, Shared, Stop, from_client, from_server};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};
use crate::wire::header;
use crate::wire::tag::backend;

/// How the bytes are cut and who is next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dice {
    /// Everything that is there, at once; backends in turn.
    All,
    /// One byte of a client, then everything that follows from it; backends in turn.
    Bytes,
    /// Anything, by xorshift64.
    Random(u64),
}

impl Dice {
    pub(super) fn seeded(seed: u64) -> Self {
        // Xorshift stays at zero for ever, and close seeds begin alike.
        Self::Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        match self {
            Self::All | Self::Bytes => 0,
            Self::Random(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                usize::try_from(*state % u64::try_from(bound.max(1)).expect("small"))
                    .expect("small")
            }
        }
    }

    fn part(&mut self, whole: usize) -> usize {
        match self {
            Self::All => whole,
            Self::Bytes => whole.min(1),
            Self::Random(_) => {
                // Often everything, so that pipelines arrive as such.
                let is_whole = self.below(2) == 0;
                if is_whole { whole } else { 1 + self.below(whole) }
            }
        }
    }
}

/// What a client sends without waiting.
pub(super) type Burst = Vec<Message>;

#[derive(Debug)]
struct Backend {
    link: Link,
    server: Postgres,
    /// Sent by the server, not handled yet.
    unread: Vec<u8>,
    leased_by: Option<usize>,
}

#[derive(Debug)]
struct Client {
    front: Front,
    /// What it will send, and how many messages it must have got before.
    bursts: VecDeque<(usize, Vec<u8>)>,
    /// Not sent yet of the current burst.
    unsent: Vec<u8>,
    /// Sent, not handled yet.
    inbox: Vec<u8>,
    received: Received,
    lease: Option<usize>,
    is_fresh: bool,
    /// Nothing can be done with `inbox` until something else happens.
    is_stalled: bool,
}

/// What a client got.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    /// Whole messages at its start, without those that come asynchronously.
    messages: usize,
    /// Where the message behind them starts.
    counted: usize,
}

impl Received {
    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let Ok(Some(next)) = header::read(&self.bytes[self.counted..], u32::MAX >> 1) {
            if self.bytes.len() < self.counted + next.message_bytes() {
                break;
            }
            self.counted += next.message_bytes();
            self.messages += usize::from(next.tag != backend::PARAMETER_STATUS);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Send(usize),
    Relay(usize),
    Serve(usize),
    Answer(usize),
}

/// The pool.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Shared,
    backends: Vec<Backend>,
    clients: Vec<Client>,
    params: Arc<ParamSet>,
    next_backend: usize,
    dice: Dice,
}

/// The parameters that everybody begins with.
fn params() -> Arc<ParamSet> {
    let reported: [(&[u8], &[u8]); 2] = [(b"DateStyle", b"ISO"), (b"application_name", b"app")];
    Arc::new(ParamSet::from_reported(reported.into_iter()))
}

impl Backend {
    fn new(params: &Arc<ParamSet>) -> Self {
        Self {
            link: Link::new(Arc::clone(params)),
            server: Postgres::default(),
            unread: Vec::new(),
            leased_by: None,
        }
    }
}

impl Pool {
    pub(super) fn new(rules: StatementRules, clients: usize, backends: usize, dice: Dice) -> Self {
        let (scope, params) = (Scope::fresh(), params());
        let client = || Client {
            front: Front::new(rules, scope, Arc::clone(&params)),
            bursts: VecDeque::new(),
            unsent: Vec::new(),
            inbox: Vec::new(),
            received: Received::default(),
            lease: None,
            is_fresh: false,
            is_stalled: false,
        };
        Self {
            shared: Shared::default(),
            backends: (0..backends).map(|_| Backend::new(&params)).collect(),
            clients: (0..clients).map(|_| client()).collect(),
            params,
            next_backend: 0,
            dice,
        }
    }

    /// Has a client send `burst` once it has got `after` messages in all.
    pub(super) fn plan(&mut self, client: usize, after: usize, burst: &[Message]) {
        self.clients[client].bursts.push_back((after, encoded(burst)));
    }

    /// Goes on until nothing can happen any more.
    pub(super) fn run(&mut self) {
        // LIMIT: a test that does not end is worse than one that fails.
        for _ in 0..2_000_000 {
            let Some(action) = self.choose() else { return };
            match action {
                Action::Send(client) => self.send(client),
                Action::Relay(client) => self.relay(client),
                Action::Serve(backend) => self.serve(backend),
                Action::Answer(backend) => self.answer(backend),
            }
        }
        panic!("it never ends");
    }

    /// What a client got, message by message.
    pub(super) fn received(&self, client: usize) -> Vec<String> {
        read_all(&self.clients[client].received.bytes)
    }

    /// The value of a parameter as the client last saw it.
    pub(super) fn parameter(&self, client: usize, name: &str) -> Vec<u8> {
        let value = self.clients[client].front.params.value(name.as_bytes());
        value.unwrap_or_default().to_vec()
    }

    /// Tags of all messages that servers have read, one text each.
    pub(super) fn has_read(&self) -> Vec<String> {
        let text = |backend: &Backend| String::from_utf8_lossy(&backend.server.has_read).into();
        self.backends.iter().map(text).collect()
    }

    /// Statements that the servers hold, in all.
    pub(super) fn statements(&self) -> usize {
        self.backends.iter().map(|backend| backend.server.statement_names().len()).sum()
    }

    /// Says whether no client keeps a backend.
    pub(super) fn is_free(&self) -> bool {
        self.clients.iter().all(|client| client.lease.is_none())
    }

    fn choose(&mut self) -> Option<Action> {
        let mut actions = Vec::new();
        for (key, backend) in self.backends.iter().enumerate() {
            if backend.server.has_input() {
                actions.push(Action::Serve(key));
            }
            if !backend.server.output.is_empty() {
                actions.push(Action::Answer(key));
            }
        }
        let is_any_free = self.backends.iter().any(|backend| backend.leased_by.is_none());
        for (key, client) in self.clients.iter().enumerate() {
            let may_relay = client.lease.is_some() || is_any_free;
            if !client.inbox.is_empty() && !client.is_stalled && may_relay {
                actions.push(Action::Relay(key));
            }
        }
        for (key, client) in self.clients.iter().enumerate() {
            let is_due =
                client.bursts.front().is_some_and(|(after, _)| *after <= client.received.messages);
            if !client.unsent.is_empty() || is_due {
                actions.push(Action::Send(key));
            }
        }
        let chosen = self.dice.below(actions.len());
        actions.get(chosen).copied()
    }

    fn send(&mut self, key: usize) {
        let client = &mut self.clients[key];
        if client.unsent.is_empty() {
            client.unsent = client.bursts.pop_front().expect("due").1;
        }
        let part = self.dice.part(client.unsent.len());
        client.inbox.extend(client.unsent.drain(..part));
        client.is_stalled = false;
    }

    fn relay(&mut self, key: usize) {
        let Some(lease) = self.lease(key) else { return };
        let client = &mut self.clients[key];
        let backend = &mut self.backends[lease];
        let mut out = Vec::new();
        if std::mem::take(&mut client.is_fresh) {
            restore_parameters(client, backend, &mut out);
        }
        let mut replies = Vec::new();
        let turn = from_client(
            &client.inbox,
            &mut client.front,
            &mut backend.link,
            &mut self.shared,
            &mut out,
            &mut replies,
        );
        let turn = turn.expect("a message that is allowed");
        backend.server.receive(turn.to_server);
        let consumed = turn.consumed;
        // What stays is the start of a message, or has to wait for replies.
        client.is_stalled = true;
        assert_ne!(turn.stop, Stop::Terminate);
        if turn.stop == Stop::Drained {
            assert!(client.inbox.len() - consumed < 1 << 20, "left unread");
        }
        client.inbox.drain(..consumed);
        client.received.extend(&replies);
        self.ask(key);
        self.release_if_over(key);
    }

    fn serve(&mut self, key: usize) {
        self.backends[key].server.step();
    }

    fn answer(&mut self, key: usize) {
        let backend = &mut self.backends[key];
        let part = self.dice.part(backend.server.output.len());
        backend.unread.extend(backend.server.output.drain(..part));
        let lessee = backend.leased_by.expect("a backend that nobody uses says nothing");
        let client = &mut self.clients[lessee];
        let mut out = Vec::new();
        let turn = from_server(
            &backend.unread,
            &mut client.front,
            &mut backend.link,
            &mut self.shared,
            &mut out,
        );
        let turn = turn.unwrap_or_else(|failure| panic!("{failure}: {:?}", backend.link.expect));
        client.received.extend(turn.to_client);
        let consumed = turn.consumed;
        backend.unread.drain(..consumed);
        client.is_stalled = false;
        self.ask(lessee);
        self.release_if_over(lessee);
    }

    /// As the worker does it.
    fn ask(&mut self, key: usize) {
        let client = &mut self.clients[key];
        let Some(lease) = client.lease.filter(|_| client.front.passage.is_boundary()) else {
            return;
        };
        let backend = &mut self.backends[lease];
        if backend.link.expect.must_ask() {
            let mut question = Vec::new();
            encode::sync(&mut question);
            encode::close_statement(&mut question, relay::NOTHING_NAME);
            encode::sync(&mut question);
            backend.server.receive(&question);
            for awaited in [Awaited::Sync, Awaited::Close, Awaited::Sync] {
                backend.link.expect.push(awaited, Reply::Swallow, Effect::None);
            }
        }
    }

    fn lease(&mut self, key: usize) -> Option<usize> {
        if let Some(lease) = self.clients[key].lease {
            return Some(lease);
        }
        let count = self.backends.len();
        let from = match self.dice {
            Dice::All | Dice::Bytes => self.next_backend,
            Dice::Random(_) => self.dice.below(count),
        };
        let free = (0..count)
            .map(|step| (from + step) % count)
            .find(|at| self.backends[*at].leased_by.is_none())?;
        self.next_backend = free + 1;
        self.backends[free].leased_by = Some(key);
        self.backends[free].link.has_unnamed = false;
        self.clients[key].lease = Some(free);
        self.clients[key].is_fresh = true;
        Some(free)
    }

    fn release_if_over(&mut self, key: usize) {
        let client = &mut self.clients[key];
        let Some(lease) = client.lease else { return };
        let backend = &mut self.backends[lease];
        let is_kept = client.front.rules == StatementRules::Pass || client.front.is_pinned();
        if is_kept || !relay::is_at_rest(&client.front, &backend.link) {
            return;
        }
        assert!(backend.unread.is_empty(), "released with output unread");
        let is_tainted = backend.link.expect.is_tainted();
        assert!(
            is_tainted || backend.server.is_at_rest(),
            "released in the middle: {:?}",
            backend.server
        );
        let mut ours = backend.server.statement_names();
        ours.retain(|name| is_ours(name));
        if client.front.rules.renames() && !is_tainted {
            assert_eq!(ours.len(), backend.link.held.len(), "books are wrong: {ours:?}");
        }
        client.lease = None;
        backend.leased_by = None;
        if is_tainted {
            *backend = Backend::new(&self.params);
        }
    }
}

/// Says whether a name is that of a statement that clients share: our prefix and a number.
fn is_ours(name: &str) -> bool {
    let number = name.as_bytes().strip_prefix(NAME_PREFIX).unwrap_or_default();
    number.last().is_some_and(u8::is_ascii_digit)
}

/// As the worker does it.
fn restore_parameters(client: &Client, backend: &mut Backend, out: &mut Vec<u8>) {
    let mut sql = Vec::new();
    backend.link.params.write_changes_to(&client.front.params, &mut sql);
    if let Some((b';', one)) = sql.split_last() {
        encode::query(out, one);
        backend.link.expect.push(Awaited::Query, Reply::Swallow, Effect::None);
    }
}

/// What clients get that have a server each; per client and burst.
pub(super) fn direct(scripts: &[Vec<Burst>]) -> Vec<Vec<Vec<String>>> {
    let one = |script: &Vec<Burst>| {
        let mut server = Postgres::default();
        script
            .iter()
            .map(|burst| {
                server.receive(&encoded(burst));
                while server.has_input() {
                    server.step();
                }
                read_all(&std::mem::take(&mut server.output))
            })
            .collect()
    };
    scripts.iter().map(one).collect()
}
