//! Disaster after disaster under load; after each, both sides are equal, row by row.
//!
//! A run is a sequence of rounds. In each, transactions of many kinds run at all isolation levels,
//! one thing goes wrong and is put right again; then the writers pause, the secondary catches up, and
//! all tables are compared. Meanwhile somebody reads the secondary, and checks in every snapshot that
//! what must hold does: money neither comes nor goes, balances are what was moved, work is done once.
//!
//! `PGTANDEM_IT_CHAOS_ROUNDS` says how many rounds, `PGTANDEM_IT_CHAOS_SEED` which sequence;
//! `make chaos` runs 200.

mod disaster;
mod random;
mod relay;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use self::disaster::{DISASTERS, Outcome};
use self::random::Random;
use self::world::World;

/// A number from the environment.
fn number(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("it is a number"),
        Err(_) => otherwise(),
    }
}

#[test]
fn rounds() {
    let rounds = number("PGTANDEM_IT_CHAOS_ROUNDS", || 5);
    let seed = number("PGTANDEM_IT_CHAOS_SEED", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.expect("it is after 1970").subsec_micros())
    });
    eprintln!("chaos: {rounds} rounds, PGTANDEM_IT_CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let mut world = World::start();
    let (mut order, mut counts) = (Vec::new(), BTreeMap::<&str, u64>::new());
    let began = Instant::now();
    for round in 1..=rounds {
        if order.is_empty() {
            order = DISASTERS.to_vec();
            random.shuffle(&mut order);
        }
        let (name, strike) = order.pop().expect("there are some");
        let at = Instant::now();
        eprintln!("chaos: round {round}, {name}");
        match strike(&mut world, &mut random) {
            Outcome::Happened => *counts.entry(name).or_default() += 1,
            Outcome::Impossible(why) => eprintln!("chaos: no {name}: {why}"),
        }
        let struck = at.elapsed();
        world.assert_equal();
        eprintln!("chaos: equal, {struck:.1?} + {:.1?}", at.elapsed().saturating_sub(struck));
    }
    let done = world.end();
    let list: Vec<_> = counts.iter().map(|(name, count)| format!("{count} × {name}")).collect();
    eprintln!(
        "chaos: {rounds} rounds in {:.0?}, seed {seed}: {}; {done}; all equal",
        began.elapsed(),
        list.join(", ")
    );
}
