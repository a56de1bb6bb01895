//! The registry under reloads and sweeps.

use super::*;

fn config(text: &str) -> Config {
    Config::parse(text, "proxy.toml", &|_| None).expect("it is correct")
}

impl Registry {
    fn make(&self, config: &Config, database: &str, user: &str) -> Option<Arc<Spec>> {
        self.pool(|| Arc::new(config.clone()), database, user)
    }
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_reload_touches_only_what_has_changed() {
    let registry = Registry::default();
    let old = config("[databases.a]\n[databases.b]\n[databases.c]\n[databases.d]\n");
    for name in ["a", "b", "c", "d"] {
        assert!(registry.make(&old, name, "u").is_some());
    }
    assert_eq!(registry.changes(&old), []);
    let new = config("[databases.a]\n[databases.b]\npool_size = 7\n[databases.c]\nport = 9\n");
    let expected =
        [("b", PoolEffect::Updated), ("c", PoolEffect::Recycled), ("d", PoolEffect::Removed)];
    let expected = expected.map(|(database, effect)| PoolChange {
        database: database.to_owned(),
        user: "u".to_owned(),
        effect,
    });
    assert_eq!(registry.changes(&new), expected);
    assert_eq!(registry.changes(&new), expected, "asking changes nothing");
    registry.reload(&new);
    assert_eq!(registry.changes(&new), []);
    let generation = |name| registry.make(&new, name, "u").expect("it is there").generation();
    assert_eq!(["a", "b", "c"].map(generation), [0, 0, 1]);
    assert!(registry.make(&new, "d", "u").is_none());
    registry.reload(&old);
    let back = registry.make(&old, "d", "u").expect("it is back");
    assert_eq!(back.generation(), 0);
}

#[test]
fn the_star_stands_for_what_has_no_section() {
    let registry = Registry::default();
    let star = config("[databases.\"*\"]\nport = 1\n");
    let pool = registry.make(&star, "x", "u").expect("anything is there");
    let named = config("[databases.\"*\"]\nport = 2\n[databases.x]\nport = 1\ndbname = \"x\"\n");
    assert_eq!(registry.changes(&named), [], "the same in other words");
    registry.reload(&config("[databases.y]\n"));
    assert!(pool.is_removed());
}

#[test]
fn a_pool_that_logs_in_as_somebody_else_counts_there() {
    let registry = Registry::default();
    let old = config("[databases.a]\n[users.u]\nmax_user_connections = 1\n");
    let new = config(
        "[databases.a]\nuser = \"v\"\n[users.u]\nmax_user_connections = 3\n\
         [users.v]\nmax_user_connections = 1\n",
    );
    let spec = registry.make(&old, "a", "u").expect("it is there");
    let _as_u = spec.ledger.reserve(0).expect("1 of 1");
    assert!(spec.ledger.reserve(0).is_err());
    registry.reload(&new);
    assert_eq!(spec.generation(), 1);
    let _as_v = spec.ledger.reserve(0).expect("1 of 1");
    assert!(spec.ledger.reserve(0).is_err());
    let users = registry.users();
    assert_eq!((users["u"].connections, users["v"].connections), (1, 1));
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let registry = Registry::default();
    let star = config("[databases.\"*\"]\n[databases.named]\n");
    let start = Instant::now();
    for name in ["idle", "client", "backend", "held", "named", "paused"] {
        assert!(registry.make(&star, name, "u").is_some());
    }
    let find = |name| registry.pools(Some(name)).pop().expect("it is there");
    let seat = crate::pool::spec::Seat::new(&find("client"));
    let permit = find("backend").ledger.reserve(0).expect("free");
    let held = find("held");
    registry.gate(&star, "paused").expect("it has been used").pause();
    assert!(registry.gate(&star, "unknown").is_none());
    assert_eq!(registry.unused(Some(HOUR), start), []);
    let later = start + HOUR;
    assert_eq!(registry.unused(None, later), [], "for ever");
    assert_eq!(registry.sweep(&star, None, later), 0);
    assert_eq!(registry.unused(Some(HOUR), later).len(), 4, "idle, held, named, paused");
    assert_eq!(registry.sweep(&star, Some(HOUR), later), 3, "idle, named, paused");
    let left: Vec<String> = registry.databases().into_keys().collect();
    assert_eq!(left, ["backend", "client", "held", "named", "paused"]);
    drop((seat, permit, held));
    // They are found unused now, and forgotten an hour later.
    assert_eq!(registry.unused(Some(HOUR), later).len(), 1, "nobody holds it any more");
    assert_eq!(registry.sweep(&star, Some(HOUR), later), 1);
    assert_eq!(registry.sweep(&star, Some(HOUR), later + HOUR), 2);
    let left: Vec<String> = registry.databases().into_keys().collect();
    assert_eq!(left, ["named", "paused"]);
    assert!(registry.users().is_empty());
    let numbers: BTreeSet<u32> = (0..6)
        .map(|at| registry.make(&star, &at.to_string(), "u").expect("new").number.0)
        .collect();
    assert_eq!(numbers, (0..6).collect(), "numbers are used again");
}

#[test]
fn a_removed_database_is_forgotten_at_once() {
    let registry = Registry::default();
    let old = config("[databases.a]\n[databases.b]\n");
    let pool = registry.make(&old, "a", "u").expect("it is there");
    let seat = crate::pool::spec::Seat::new(&pool);
    drop(pool);
    registry.gate(&old, "a").expect("it is there").pause();
    let new = config("[databases.b]\n");
    registry.reload(&new);
    let now = Instant::now();
    assert_eq!(registry.sweep(&new, Some(HOUR), now), 0, "a client is left");
    drop(seat);
    assert_eq!(registry.sweep(&new, Some(HOUR), now), 1);
    assert!(registry.databases().is_empty(), "it does not stay because it is paused");
}
