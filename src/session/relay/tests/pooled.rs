//! Clients over a few backends, as the worker has them, without sockets: every byte moves when the
//! dice say so.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{Message, read_all};
use super::postgres::Postgres;
use crate::backend::link::{Effect, Link};
use crate::backend::params::ParamSet;
use crate::session::front::{Front, StatementRules};
use crate::session::relay::{self, Shared, Stop, from_client, from_server};
use crate::wire::encode;
use crate::wire::expect::{Awaited, Reply};

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
            // Often everything, so that pipelines arrive as such.
            Self::Random(_) if self.below(2) == 0 => whole,
            Self::Random(_) => 1 + self.below(whole),
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
    received: Vec<u8>,
    lease: Option<usize>,
    is_fresh: bool,
    /// Nothing can be done with `inbox` until something else happens.
    is_stalled: bool,
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
        let params = params();
        let client = || Client {
            front: Front::new(rules, Arc::clone(&params)),
            bursts: VecDeque::new(),
            unsent: Vec::new(),
            inbox: Vec::new(),
            received: Vec::new(),
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
        let mut bytes = Vec::new();
        for message in burst {
            message.encode(&mut bytes);
        }
        self.clients[client].bursts.push_back((after, bytes));
    }

    /// Has a client send `count` bursts, each once those before have been answered.
    pub(super) fn plan_many(
        &mut self,
        client: usize,
        count: usize,
        burst: impl Fn(usize) -> Burst,
    ) {
        for number in 0..count {
            self.plan(client, number * 2, &burst(number));
        }
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
        read_all(&self.clients[client].received)
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
            let is_due = client.bursts.front().is_some_and(|(after, _)| {
                *after <= whole_messages(&client.received)
            });
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
        client.received.extend(replies);
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
        client.received.extend_from_slice(turn.to_client);
        let consumed = turn.consumed;
        backend.unread.drain(..consumed);
        client.is_stalled = false;
        self.release_if_over(lessee);
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
        let ours = backend.server.statement_names();
        if client.front.rules.renames() && !is_tainted {
            assert_eq!(ours.len(), backend.link.held.len(), "books are wrong: {ours:?}");
        }
        client.lease = None;
        client.is_stalled = false;
        backend.leased_by = None;
        if is_tainted {
            *backend = Backend::new(&self.params);
        }
        // Somebody may wait for it.
        for client in &mut self.clients {
            client.is_stalled = false;
        }
    }
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

/// How many whole messages are there, without those that come asynchronously.
fn whole_messages(bytes: &[u8]) -> usize {
    let mut whole = 0;
    let mut end = 0;
    while let Some(rest) = bytes.get(end..) {
        let Ok(Some(header)) = crate::wire::header::read(rest, u32::MAX >> 1) else { break };
        if rest.len() < header.message_bytes() {
            break;
        }
        end += header.message_bytes();
        whole += usize::from(header.tag != crate::wire::tag::backend::PARAMETER_STATUS);
    }
    whole
}

/// What clients get that have a server each; per client and burst.
pub(super) fn direct(scripts: &[Vec<Burst>]) -> Vec<Vec<Vec<String>>> {
    let one = |script: &Vec<Burst>| {
        let mut server = Postgres::default();
        script
            .iter()
            .map(|burst| {
                let mut bytes = Vec::new();
                burst.iter().for_each(|message| message.encode(&mut bytes));
                server.receive(&bytes);
                while server.has_input() {
                    server.step();
                }
                read_all(&std::mem::take(&mut server.output))
            })
            .collect()
    };
    scripts.iter().map(one).collect()
}
