//! The relay between scripted clients and model servers.
//!
//! The law of all these tests: what a client gets through the pool is, message by message, what it
//! would get from a server of its own, however the bytes are cut and whoever else is there.

mod bytes;
mod message;
mod points;
mod pooled;
mod postgres;
mod random;

use self::message::Message::{
    self, Bind, ClosePortal, CloseStatement, CopyData, CopyDone, CopyFail, DescribePortal,
    DescribeStatement, Execute, Flush, FunctionCall, Parse, ParseLong, ParseTypes, Query, Raw,
    Sync,
};
use self::pooled::{Burst, Dice, Pool, direct};
use crate::session::front::StatementRules;

/// All ways of cutting that every script is run with.
fn all_dice() -> impl Iterator<Item = Dice> {
    let random = (1..12).map(Dice::seeded);
    [Dice::All, Dice::Bytes].into_iter().chain(random)
}

/// Runs bursts one after the other, each to its end, on each number of backends and in every way
/// of cutting; compares with servers of their own.
#[track_caller]
fn check_with(rules: StatementRules, backends: &[usize], bursts: &[(usize, Burst)]) {
    let clients = 1 + bursts.iter().map(|(client, _)| *client).max().expect("somebody");
    let scripts: Vec<Vec<Burst>> = (0..clients)
        .map(|client| {
            let own = bursts.iter().filter(|(of, _)| *of == client);
            own.map(|(_, burst)| burst.clone()).collect()
        })
        .collect();
    let expected = direct(&scripts);
    for backends in backends {
        for dice in all_dice() {
            let mut pool = Pool::new(rules, clients, *backends, dice);
            for (client, burst) in bursts {
                pool.plan(*client, 0, burst);
                pool.run();
            }
            for (client, expected) in expected.iter().enumerate() {
                let expected = expected.concat();
                let received = pool.received(client);
                let place = format!("client {client}, {backends} backends, {dice:?}");
                assert_eq!(received, expected, "{place}, read {:?}", pool.has_read());
            }
        }
    }
}

/// As [`check_with`], with up to `limit` statements on each of one to three backends.
#[track_caller]
fn check(limit: usize, bursts: &[(usize, Burst)]) {
    check_with(StatementRules::Rename { limit }, &[1, 2, 3], bursts);
}
