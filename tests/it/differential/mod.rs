//! The same frontend messages to PostgreSQL and through the proxy: the answers must be the same
//! messages.
//!
//! Random sequences of one or two clients are played on both sides, in all [`setup`]s, while another
//! client of the same pool interferes. A sequence is made from its seed; the seed also says in which
//! setup it is played. Between two sequences the connections are kept.
//!
//! A sequence needs no model of the server. What is awaited of the proxy is what PostgreSQL has said
//! at the same place, and each sequence ends in messages whose answers can be told from all others
//! ([`play`]). Only process ids, places in PostgreSQL's source, and what no client can rely on is not
//! compared (`Reply::detail`).
//!
//! What PostgreSQL itself answers otherwise when it is asked again is no difference.
//!
//! [`a_few_random_sequences`] are always the same; `make differential` plays new ones:
//!
//! - `PGTANDEM_IT_SEQUENCES`: how many (else none);
//! - `PGTANDEM_IT_FIRST`: the first seed;
//! - `PGTANDEM_IT_SEED`: only this one.

mod everywhere;
mod generate;
mod interfere;
mod logins;
mod play;
mod script;
mod setup;
mod shrink;

use std::{
    fmt::Write,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

pub use everywhere::everywhere;
use generate::{Author, Keeps};
use interfere::interfere;
use setup::{Lane, SETUPS, Setup, World, make_database};
use shrink::shrink;

use crate::support::{EndsWith, cluster::Cluster, login::Login};

/// A campaign ends when so many sequences have differed.
const FAILURES_MAX: usize = 20;

/// Sequences of [`a_few_random_sequences`].
const FEW: u64 = 300;

/// Which sequences are played.
struct Campaign {
    first: u64,
    count: u64,
    played: AtomicU64,
    /// Sequences that PostgreSQL itself does not always answer alike.
    unsteady: AtomicU64,
    failures: Mutex<Vec<String>>,
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let Ok(value) = text.parse() else { panic!("{name}={text}") };
    Some(value)
}

impl Campaign {
    /// What is asked for: one seed, or so many sequences; `None` if nothing is.
    fn from_env() -> Option<Self> {
        let (first, count) = match setting("PGTANDEM_IT_SEED") {
            Some(seed) => (seed, 1),
            None => (setting("PGTANDEM_IT_FIRST").unwrap_or(0), setting("PGTANDEM_IT_SEQUENCES")?),
        };
        Some(Self::new(first, count))
    }

    fn new(first: u64, count: u64) -> Self {
        let (played, unsteady) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { first, count, played, unsteady, failures: Mutex::default() }
    }

    /// Plays all sequences.
    ///
    /// # Panics
    /// If one has differed.
    fn run(self) {
        let world = World::start();
        let is_over = AtomicBool::new(false);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let _ends = EndsWith(&is_over);
            let lanes: Vec<_> = SETUPS
                .iter()
                .map(|setup| {
                    let (campaign, world, is_over) = (&self, &world, &is_over);
                    scope.spawn(move || {
                        let login = Login::new("postgres", setup.name);
                        interfere(&world.proxy(setup).tcp(), &login, setup.keeps, is_over);
                    });
                    scope.spawn(move || campaign.play(world, setup))
                })
                .collect();
            for lane in lanes {
                if let Err(panic) = lane.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        let failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        let played = self.played.load(Ordering::Relaxed);
        let unsteady = self.unsteady.load(Ordering::Relaxed);
        eprintln!(
            "{played} sequences from seed {} on, {} differ, {unsteady} prove nothing, {} s",
            self.first,
            failures.len(),
            started.elapsed().as_secs()
        );
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert_eq!(played + unsteady, self.count);
        assert!(unsteady <= 1 + played / 1_000, "{unsteady} sequences prove nothing");
    }

    /// Plays the sequences of one setup.
    fn play(&self, world: &World, setup: &'static Setup) {
        let mut lane = world.lane(setup);
        let seeds = self.first..self.first + self.count;
        for seed in seeds.filter(|seed| std::ptr::eq(Setup::of(*seed), setup)) {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).len();
            if failures >= FAILURES_MAX {
                return;
            }
            let script = Author::write(seed, setup.keeps, setup.clients());
            if let Some(difference) = lane.differ(&script) {
                if !lane.is_steady(&script) {
                    eprintln!("seed {seed}: PostgreSQL does not always answer alike");
                    self.unsteady.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let story = explain(&mut lane, script, &difference);
                let story = format!("--- seed {seed}, {} ---\n{story}", setup.name);
                eprintln!("{story}");
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(story);
            }
            let played = self.played.fetch_add(1, Ordering::Relaxed) + 1;
            if played.is_multiple_of(5_000) {
                eprintln!("{played} sequences played");
            }
        }
    }
}

/// The shortest script that shows the difference too.
fn explain(lane: &mut Lane, script: script::Script, difference: &str) -> String {
    let mut story = String::new();
    let Some(mut seen) = lane.differ_afresh(&script) else {
        let _ = write!(story, "{script}{difference}\n(not over new connections)");
        return story;
    };
    let shortest = shrink(script, |script| {
        let found = lane.differ_afresh(script);
        let differs = found.is_some();
        if let Some(found) = found {
            seen = found;
        }
        differs
    });
    let _ = write!(story, "{shortest}{seen}");
    story
}

#[test]
fn a_few_random_sequences() {
    Campaign::new(0, FEW).run();
}

#[test]
#[ignore = "`make differential` plays them"]
fn random_sequences() {
    match Campaign::from_env() {
        Some(campaign) => campaign.run(),
        None => eprintln!("no sequences: `make differential` plays them"),
    }
}

#[test]
fn a_difference_is_found_and_shrunk() {
    let cluster = Cluster::shared();
    let databases = ["plain", "german"];
    for name in databases {
        make_database(cluster, name);
    }
    let mut observer = cluster.superuser("postgres");
    observer.rows("ALTER DATABASE german SET datestyle = 'German'");
    let mut lane = Lane::between(cluster, databases, cluster.tcp());
    let script = (0..1_000)
        .map(|seed| Author::write(seed, Keeps::Session, 1))
        .find(|script| lane.differ(script).is_some())
        .expect("some script looks at a date");
    let shortest = shrink(script, |script| lane.differ_afresh(script).is_some());
    assert!(shortest.acts.len() == 1, "{shortest}");
    observer.rows("ALTER DATABASE german RESET datestyle");
    assert_eq!(lane.differ_afresh(&shortest), None);
}
