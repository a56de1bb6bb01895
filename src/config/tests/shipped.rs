//! The `proxy.toml` we ship against the code: every key, its default, a description.

use std::collections::BTreeMap;

use super::parse;
use crate::config::kind::Kind;
use crate::config::{Config, Database, General, Metrics, PoolSettings, Replication, Secondary};

/// The file in the root of the repository.
const SHIPPED: &str = include_str!("../../../proxy.toml");

/// The keys that have no default, which the shipped file can only show by example.
const WITHOUT_DEFAULT: [&str; 5] = ["dbname", "user", "password", "admin_user", "admin_password"];

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
        (Kind::Replication, &["databases", "app", "replication"]),
        (Kind::Secondary, &["databases", "app", "secondaries", "new"]),
    ] {
        let mut known = kind.keys();
        known.sort_unstable();
        assert_eq!(keys(path), known, "{path:?}");
    }
    assert_eq!(keys(&[]), ["databases", "general", "metrics", "users"]);
}

#[test]
fn the_shipped_file_shows_every_default() {
    let with_admin = uncommented(|key| !WITHOUT_DEFAULT.contains(&key) || key == "admin_user");
    let config = parse(&with_admin);
    assert_eq!(config.general, General::default());
    assert_eq!(config.metrics, Metrics::default());
    let databases = BTreeMap::from([("*".to_owned(), Database::default())]);
    let bare = Config { databases, ..Config::default() };
    // Every override is said, and says what holds without it.
    let user = &config.users["alice"];
    let database = &config.databases["*"];
    for user in ["alice", "bob"] {
        let shown = config.pool_settings("app", user).expect("it is there");
        // It has a secondary, and the bare one has not.
        let shown = PoolSettings { definitions: None, ..shown };
        assert_eq!(Some(shown), bare.pool_settings("app", user));
    }
    assert_eq!(format!("{user:?}").matches("None").count(), 1, "the password: {user:?}");
    assert_eq!(format!("{database:?}").matches("None").count(), 4, "{database:?}");
    let app = &config.databases["app"];
    let admin_user = Some("app_owner".to_owned());
    assert_eq!(app.replication, Some(Replication { admin_user, ..Replication::default() }));
    assert_eq!(app.secondaries["new"], Secondary::default());
}

#[test]
fn every_key_of_the_shipped_file_has_a_description() {
    // A text of several lines has it behind the last.
    let is_begun = |line: &str| line.ends_with("\"\"\"\\");
    for line in SHIPPED.lines().filter(|line| line.contains(" = ") && !is_begun(line)) {
        let is_prose = line.starts_with("# Durations") || line.starts_with("# \"${NAME}\"");
        assert!(is_prose || line.split_once("  # ").is_some(), "{line}");
        assert!(line.len() <= 140, "{line}");
    }
}
