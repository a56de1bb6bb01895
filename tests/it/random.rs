//! Random scripts of several clients, run against PostgreSQL and through the proxy: every answer
//! must be the same.
//!
//! A failure names its seed; `PGTANDEM_IT_SEED` runs only that one.

use crate::support::{
    fixture::{Fixture, Peer},
    message::*,
};

/// Clients of one script; the pool has as many backends, so that open transactions block nobody.
const CLIENTS: usize = 3;
const BATCHES: usize = 25;

/// Statement texts; some cannot be parsed, some fail at run time.
const TEXTS: [&str; 12] = [
    "select 1",
    "select 'two'",
    "select $1::text",
    "select g from generate_series(1, 5) g",
    "select 1 / g from generate_series(0, 1) g",
    "selec",
    "select * from nowhere",
    "show application_name",
    "set statement_timeout = '73s'",
    "show statement_timeout",
    "select pg_advisory_lock_shared(1)",
    "",
];

const QUERIES: [&str; 30] = [
    "select 1",
    "select 2; select 3",
    "begin",
    "commit",
    "rollback",
    "select 1/0",
    "begin; select 1",
    "set application_name = 'x'",
    "set local application_name = 'y'",
    "reset application_name",
    "deallocate all",
    "discard all",
    "",
    "selec",
    "savepoint s",
    "rollback to s",
    "set statement_timeout = '70s'",
    "set local statement_timeout = '71s'; set lock_timeout = '72s'",
    "reset statement_timeout",
    "reset all; select 1/0",
    "show statement_timeout",
    "show lock_timeout",
    "set role dave",
    "reset role",
    "select current_user",
    "select set_config('my.x', 'y', false)",
    "select nullif(current_setting('my.x', true), '')",
    "create temp table if not exists mine (a int)",
    "drop table if exists mine",
    "select count(*) from pg_class where relname = 'mine' and relnamespace = pg_my_temp_schema()",
];

/// A small generator, good enough to choose (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sides = u64::try_from(sides).expect("64-bit");
        usize::try_from((self.0 >> 33) % sides).expect("64-bit")
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }

    fn name(&mut self) -> &'static str {
        self.pick(&["", "a", "b", "c", "d"])
    }

    fn portal(&mut self) -> &'static str {
        self.pick(&["", "", "p", "q"])
    }
}

/// One message, or a little group of them.
fn step(dice: &mut Dice) -> Vec<Bytes> {
    match dice.roll(16) {
        0..=3 => vec![parse(dice.name(), dice.pick(&TEXTS))],
        4..=5 => {
            let name = dice.name();
            vec![parse(name, dice.pick(&TEXTS)), bind_values("", name, &["v"]), execute("")]
        }
        6..=7 => vec![bind(dice.portal(), dice.name())],
        8 => vec![bind_values(dice.portal(), dice.name(), &["v"])],
        9 => vec![describe_statement(dice.name())],
        10 => vec![describe_portal(dice.portal())],
        11 => vec![execute(dice.portal())],
        12 => vec![execute_rows(dice.portal(), 2)],
        13 => vec![close_statement(dice.name())],
        14 => vec![close_portal(dice.portal())],
        _ => vec![flush()],
    }
}

/// What one client sends before it reads the answers.
#[derive(Clone)]
struct Batch {
    client: usize,
    /// Bytes per packet; 0 = all at once.
    piece: usize,
    messages: Vec<Bytes>,
}

fn batch(dice: &mut Dice) -> Batch {
    let client = dice.roll(CLIENTS);
    let piece = if dice.roll(5) == 0 { 1 + dice.roll(20) } else { 0 };
    let mut messages = Vec::new();
    if dice.roll(3) > 0 {
        for _ in 0..=dice.roll(3) {
            for _ in 0..dice.roll(7) {
                messages.extend(step(dice));
            }
            messages.push(sync());
        }
    }
    if messages.is_empty() || dice.roll(4) == 0 {
        messages.push(query(dice.pick(&QUERIES)));
    }
    Batch { client, piece, messages }
}

fn play(peer: &Peer, script: &[Batch]) {
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|number| peer.connect(&format!("client {number}"))).collect();
    for Batch { client, piece, messages } in script {
        let client = &mut clients[*client];
        if *piece == 0 {
            client.run(messages);
        } else {
            client.send_in_pieces(messages, *piece);
            client.ready(messages.iter().filter(|message| b"QS".contains(&message[0])).count());
        }
    }
    for mut client in clients {
        client.query("rollback");
    }
}

/// Leaves out batches, then messages, as long as the two sides still differ.
fn shrink(fixture: &Fixture, mut script: Vec<Batch>) -> Vec<Batch> {
    let differs =
        |script: &[Batch]| fixture.compare(|peer| play(peer, script), without_reason).is_err();
    for number in (0..script.len()).rev() {
        let mut shorter = script.clone();
        shorter.remove(number);
        if differs(&shorter) {
            script = shorter;
        }
    }
    for number in 0..script.len() {
        for message in (0..script[number].messages.len()).rev() {
            let mut shorter = script.clone();
            let messages = &mut shorter[number].messages;
            let removed = messages.remove(message);
            // A Sync less, and what follows an error would never be answered.
            let is_needed = removed[0] == b'S' && messages.get(message) != Some(&sync());
            let ends = messages.last().is_none_or(|last| b"QS".contains(&last[0]));
            if ends && !is_needed && differs(&shorter) {
                script = shorter;
            }
        }
    }
    script
}

/// Where a message is wrong in several ways, the proxy may see another one first.
fn without_reason(answer: String) -> String {
    let reasons = ["C42P05", "C42601", "C42P01", "C25P02", "E 08P01"];
    match answer.find(": E ") {
        Some(end) if reasons.iter().any(|reason| answer.contains(reason)) => {
            format!("{}: E", &answer[..end])
        }
        _ => answer,
    }
}

fn play_all(first: u64, settings: &str) {
    let seeds = match std::env::var("PGTANDEM_IT_SEED").map(|seed| seed.parse()) {
        Ok(Ok(seed)) => seed..=seed,
        _ => first..=first + 39,
    };
    let fixture = Fixture::start(|config| {
        config.general(&format!("default_pool_size = {CLIENTS}")).general(settings)
    });
    for seed in seeds {
        let mut dice = Dice(seed);
        let script: Vec<_> = (0..BATCHES).map(|_| batch(&mut dice)).collect();
        if fixture.compare(|peer| play(peer, &script), without_reason).is_err() {
            eprintln!("--- seed {seed} differs ---");
            let shortest = shrink(&fixture, script);
            let difference = fixture.compare(|peer| play(peer, &shortest), without_reason);
            panic!("seed {seed}: {}", difference.err().unwrap_or_default());
        }
    }
}

#[test]
fn random_scripts_with_many_statements() {
    play_all(1_000, "max_prepared_statements = 200");
}

#[test]
fn random_scripts_with_constant_eviction() {
    play_all(2_000, "max_prepared_statements = 1");
}

#[test]
fn random_scripts_with_two_workers() {
    play_all(3_000, "workers = 2");
}

#[test]
fn random_scripts_in_session_mode() {
    play_all(4_000, "pool_mode = \"session\"");
}
