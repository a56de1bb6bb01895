//! What the relay costs per message: no sockets, one client and the backend it leases.
//!
//! Each exchange is what a client sends up to its Sync and what the server answers. Its messages
//! are counted in both directions.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgtandem::backend::link::Link;
use pgtandem::backend::params::ParamSet;
use pgtandem::backend::statements::Scope;
use pgtandem::session::front::{Front, StatementRules};
use pgtandem::session::relay::{Shared, from_client, from_server, is_at_rest};
use pgtandem::wire::header::{self, MESSAGE_BYTES_MAX};
use pgtandem::wire::tag::{backend, frontend};
use pgtandem::wire::{encode, expect::TransactionStatus};

/// Bytes of a DataRow's body: some ten columns.
const ROW: &[u8] = &[b'r'; 120];

/// Rows of the large result.
const ROWS: u64 = 1_000;

/// What `pgbench -S` asks.
const SQL: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;";

/// One client and the backend it leases.
struct Pair {
    front: Front,
    link: Link,
    shared: Shared,
    out: Vec<u8>,
    replies: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let params = Arc::new(ParamSet::default());
        Self {
            front: Front::new(
                StatementRules::Rename { limit: 200 },
                Scope::fresh(),
                Arc::clone(&params),
            ),
            link: Link::new(params),
            shared: Shared::default(),
            out: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Relays what the client sends and what the server answers; returns how many bytes went on.
    fn exchange(&mut self, exchange: &Exchange) -> usize {
        let Self { front, link, shared, out, replies } = self;
        out.clear();
        let there = from_client(&exchange.client, front, link, shared, out, replies)
            .map_or(0, |turn| turn.to_server.len());
        out.clear();
        let back = from_server(&exchange.server, front, link, shared, out)
            .map_or(0, |turn| turn.to_client.len());
        there + back
    }

    /// The same once, checked.
    fn try_out(&mut self, exchange: &Exchange) {
        let bytes = self.exchange(exchange);
        assert!(bytes >= exchange.server.len(), "everything that was answered goes to the client");
        assert!(is_at_rest(&self.front, &self.link), "the exchange is whole");
        assert_eq!(self.link.expect.status(), TransactionStatus::Idle);
    }
}

/// What a client sends, and the answer.
struct Exchange {
    client: Vec<u8>,
    server: Vec<u8>,
    /// Messages in both directions.
    messages: u64,
}

impl Exchange {
    fn new(client: &[(u8, &[u8])], server: &[(u8, &[u8])]) -> Self {
        let messages = u64::try_from(client.len() + server.len()).unwrap_or(u64::MAX);
        Self { client: encoded(client), server: encoded(server), messages }
    }

    fn simple() -> Self {
        let text = [SQL, b"\0"].concat();
        Self::new(&[(frontend::QUERY, text.as_slice())], &result(1))
    }

    fn extended() -> Self {
        let parse = [b"\0", SQL, b"\0\0\0"].concat();
        let client = [
            (frontend::PARSE, parse.as_slice()),
            (frontend::BIND, b"\0\0\0\0\0\x01\0\0\0\x06123456\0\0"),
            (frontend::DESCRIBE, b"P\0"),
            (frontend::EXECUTE, b"\0\0\0\0\0"),
            (frontend::SYNC, b""),
        ];
        let completed = [(backend::PARSE_COMPLETE, &b""[..]), (backend::BIND_COMPLETE, b"")];
        Self::new(&client, &[&completed[..], &result(1)].concat())
    }

    fn prepare() -> Self {
        let parse = [b"P0_1\0", SQL, b"\0\0\0"].concat();
        let client = [(frontend::PARSE, parse.as_slice()), (frontend::SYNC, b"")];
        Self::new(&client, &[(backend::PARSE_COMPLETE, b""), (backend::READY_FOR_QUERY, b"I")])
    }

    fn prepared() -> Self {
        let client: [(u8, &[u8]); 4] = [
            (frontend::BIND, b"\0P0_1\0\0\0\0\x01\0\0\0\x06123456\0\0"),
            (frontend::DESCRIBE, b"P\0"),
            (frontend::EXECUTE, b"\0\0\0\0\0"),
            (frontend::SYNC, b""),
        ];
        let completed = [(backend::BIND_COMPLETE, &b""[..])];
        Self::new(&client, &[&completed[..], &result(1)].concat())
    }

    fn rows() -> Self {
        let text = [SQL, b"\0"].concat();
        Self::new(&[(frontend::QUERY, text.as_slice())], &result(ROWS))
    }
}

/// A result with so many rows, and ReadyForQuery.
fn result(rows: u64) -> Vec<(u8, &'static [u8])> {
    let mut messages: Vec<(u8, &[u8])> = vec![(backend::ROW_DESCRIPTION, &[b't'; 33])];
    messages.extend((0..rows).map(|_| (backend::DATA_ROW, ROW)));
    messages.push((backend::COMMAND_COMPLETE, b"SELECT 1\0"));
    messages.push((backend::READY_FOR_QUERY, b"I"));
    messages
}

fn encoded(messages: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, body) in messages {
        encode::message(&mut bytes, *tag, |out| out.extend_from_slice(body));
    }
    bytes
}

fn headers(criterion: &mut Criterion) {
    let rows: Vec<(u8, &[u8])> = (0..ROWS).map(|_| (backend::DATA_ROW, ROW)).collect();
    let bytes = encoded(&rows);
    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(bytes.as_slice());
            let mut messages = 0;
            while let Ok(Some(header)) = header::read(rest, MESSAGE_BYTES_MAX) {
                rest = rest.get(header.message_bytes()..).unwrap_or_default();
                messages += 1;
            }
            messages
        });
    });
    group.finish();
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    for (name, exchange) in [
        ("simple", Exchange::simple()),
        ("extended", Exchange::extended()),
        ("prepared", Exchange::prepared()),
        ("rows_1000", Exchange::rows()),
    ] {
        let mut pair = Pair::new();
        pair.try_out(&Exchange::prepare());
        pair.try_out(&exchange);
        group.throughput(Throughput::Elements(exchange.messages));
        group.bench_function(name, |bencher| {
            bencher.iter(|| pair.exchange(black_box(&exchange)));
        });
    }
    group.finish();
}

criterion_group!(benches, headers, relay);
criterion_main!(benches);
