//! What can go wrong, and how it is put right.

use std::time::Duration;

use super::random::Random;
use super::world::{Filler, World};
use crate::support::let_pass;
use crate::support::proxy::Proxy;

/// What came of it.
pub enum Outcome {
    Happened,
    Impossible(String),
}

/// Lets something go wrong, and puts it right.
pub type Strike = fn(&mut World, &mut Random) -> Outcome;

pub const DISASTERS: [(&str, Strike); 13] = [
    ("proxy killed", kill_proxy),
    ("proxy stopped for a while", stop_proxy),
    ("two proxies", two_proxies),
    ("proxy dies at a step", fault),
    ("primary crashes", crash_primary),
    ("primary hangs for a while", stop_primary),
    ("secondary crashes", crash_secondary),
    ("secondary hangs for a while", stop_secondary),
    ("connections ended by the servers", terminate),
    ("connections reset by the network", reset),
    ("network swallows for a while", swallow),
    ("disk of the secondary full", fill_disk),
    ("both servers crash", crash_both),
];

fn some_time(random: &mut Random) {
    let_pass(Duration::from_millis(100 + random.below(400)));
}

fn kill_proxy(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    // Dropped is killed.
    world.restart_proxy();
    Outcome::Happened
}

fn stop_proxy(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    world.proxy.signal("STOP");
    some_time(random);
    world.proxy.signal("CONT");
    Outcome::Happened
}

fn two_proxies(world: &mut World, random: &mut Random) -> Outcome {
    let second = Proxy::start(&world.primary, world.config());
    some_time(random);
    world.replace_proxy(second);
    Outcome::Happened
}

fn fault(world: &mut World, random: &mut Random) -> Outcome {
    let places =
        ["apply_begun", "apply_some", "apply_done", "apply_committed", "staged", "defined"];
    let place = format!("{}:{}", random.pick(&places), 1 + random.below(4));
    let mortal = Proxy::start(&world.primary, world.config().env("PGTANDEM_FAULT", &place));
    world.replace_proxy(mortal);
    for _ in 0..300 {
        if !world.proxy.is_running() {
            world.proxy.wait();
            break;
        }
        let_pass(Duration::from_millis(10));
    }
    world.restart_proxy();
    Outcome::Happened
}

fn crash_primary(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    world.primary.crash();
    let_pass(Duration::from_millis(random.below(300)));
    world.primary.restart();
    Outcome::Happened
}

fn crash_secondary(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    world.secondary.crash();
    let_pass(Duration::from_millis(random.below(300)));
    world.secondary.restart();
    Outcome::Happened
}

fn crash_both(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    world.primary.crash();
    world.secondary.crash();
    world.primary.restart();
    world.secondary.restart();
    Outcome::Happened
}

fn stop_primary(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    let _stopped = world.primary.freeze();
    some_time(random);
    Outcome::Happened
}

fn stop_secondary(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    let _stopped = world.secondary.freeze();
    some_time(random);
    Outcome::Happened
}

fn terminate(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name LIKE 'pgtandem replication%'";
    for cluster in [&world.primary, &world.secondary] {
        if random.below(3) > 0 {
            cluster.superuser("postgres").rows(sql);
        }
    }
    Outcome::Happened
}

fn reset(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    world.relay.reset();
    Outcome::Happened
}

fn swallow(world: &mut World, random: &mut Random) -> Outcome {
    some_time(random);
    world.relay.swallow();
    some_time(random);
    world.relay.pass();
    Outcome::Happened
}

fn fill_disk(world: &mut World, random: &mut Random) -> Outcome {
    let disk = match &world.disk {
        Ok(disk) => disk,
        Err(why) => return Outcome::Impossible(why.clone()),
    };
    let filler = Filler::fill(disk);
    some_time(random);
    some_time(random);
    drop(filler);
    Outcome::Happened
}
