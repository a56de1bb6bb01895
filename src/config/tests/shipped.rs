//! The `proxy.toml` we ship against the code: every key, its default, a description.

use std::collections::BTreeMap;

use super::parse;
use crate::config::kind::Kind;
use crate::config::{Config, Database, General, Metrics};

/// The file in the root of the repository.
const SHIPPED: &str = include_str!("../../../proxy.toml");

/// The keys that have no default, which the shipped file can only show by example.
const WITHOUT_DEFAULT: [&str; 3] = ["dbname", "user", "password"];

/// Takes the `#` off the lines of the shipped file that are sections or keys.
fn uncommented(keep: impl Fn(&str) -> bool) -> String {
    let is_setting = |line: &str| {
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        line.starts_with('[') || (is_key && keep(key))
    };
    let lines = SHIPPED.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if is_setting(setting) => setting,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let config = parse(SHIPPED);
    let databases = BTreeMap::from([("*".to_owned(), Database::default())]);
    let (general, metrics) = (General::default(), Metrics::default());
    assert_eq!(config, Config { general, metrics, databases, users: BTreeMap::new() });
}

#[test]
fn the_shipped_file_shows_every_key_and_no_other() {
    let text = uncommented(|_| true);
    let table: toml::Table = text.parse().unwrap();
    let keys = |path: &[&str]| -> Vec<String> {
        let section = path.iter().fold(&table, |table, name| table[*name].as_table().unwrap());
        section.keys().cloned().collect()
    };
    for (kind, path) in [
        (Kind::General, &["general"][..]),
        (Kind::Metrics, &["metrics"]),
        (Kind::Database, &["databases", "*"]),
        (Kind::User, &["users", "alice"]),
    ] {
        let mut known = kind.keys();
        known.sort_unstable();
        assert_eq!(keys(path), known, "{path:?}");
    }
    assert_eq!(keys(&[]), ["databases", "general", "metrics", "users"]);
}

#[test]
fn the_shipped_file_shows_every_default() {
    let config = parse(&uncommented(|key| !WITHOUT_DEFAULT.contains(&key)));
    assert_eq!(config.general, General::default());
    assert_eq!(config.metrics, Metrics::default());
    let databases = BTreeMap::from([("*".to_owned(), Database::default())]);
    let bare = Config { databases, ..Config::default() };
    // Every override is said, and says what holds without it.
    let user = &config.users["alice"];
    let database = &config.databases["*"];
    assert_eq!(config.pool_settings("app", "alice"), bare.pool_settings("app", "alice"));
    assert_eq!(config.pool_settings("app", "bob"), bare.pool_settings("app", "bob"));
    assert_eq!(format!("{user:?}").matches("None").count(), 1, "the password: {user:?}");
    assert_eq!(format!("{database:?}").matches("None").count(), 3, "{database:?}");
}

#[test]
fn every_key_of_the_shipped_file_has_a_description() {
    for line in SHIPPED.lines().filter(|line| line.contains(" = ")) {
        let is_prose = line.starts_with("# Durations") || line.starts_with("# \"${NAME}\"");
        assert!(is_prose || line.split_once("  # ").is_some(), "{line}");
        assert!(line.len() <= 140, "{line}");
    }
}
