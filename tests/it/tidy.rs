//! The rules of `src/ARCHITECTURE.md` that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

/// Ranks of the code map; a module uses only lower ranks, itself, and what stands beside it here.
const RANKS: [(&str, u8, &[&str]); 26] = [
    ("wire", 0, &[]),
    ("secret", 0, &[]),
    ("sql", 0, &[]),
    ("config", 1, &[]),
    ("fault", 1, &[]),
    ("log", 1, &[]),
    ("metrics", 1, &[]),
    ("signals", 1, &[]),
    ("net", 2, &[]),
    ("auth", 3, &[]),
    ("backend", 4, &[]),
    ("pool", 5, &[]),
    ("replication", 6, &[]),
    ("session", 7, &[]),
    ("worker", 7, &["session"]),
    ("control", 8, &[]),
    ("admin", 9, &[]),
    ("import", 9, &[]),
    ("status", 9, &[]),
    ("operator", 9, &[]),
    ("check", 9, &[]),
    ("password", 9, &[]),
    ("demo", 10, &[]),
    ("cli", 11, &[]),
    ("app", 11, &[]),
    ("main", 11, &[]),
];

/// Longest file, without tests.
const LINES_MAX: usize = 850;

fn rank(module: &str) -> (u8, &'static [&'static str]) {
    let found = RANKS.iter().find(|(name, ..)| *name == module);
    let (_, rank, beside) = found.unwrap_or_else(|| panic!("{module} has no rank"));
    (*rank, beside)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("it is a folder of ours") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

fn product() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("it is text");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        let inside = path.strip_prefix(&root).expect("it is in there");
        let first = inside.iter().next().expect("it has a name").to_string_lossy();
        (first.trim_end_matches(".rs").to_owned(), inside.display().to_string(), text)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn modules_use_only_lower_ranks() {
    for (module, path, text) in product() {
        if module == "lib" {
            continue;
        }
        let (own, beside) = rank(&module);
        for used in text.split("crate::").skip(1) {
            let used: String =
                used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if used.is_empty() || used == module || beside.contains(&used.as_str()) {
                continue;
            }
            assert!(rank(&used).0 < own, "{path} uses {used}, which is not below it");
        }
    }
}

#[test]
fn files_can_be_read_in_one_go() {
    for (_, path, text) in product() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{path} has {lines} lines");
    }
}

#[test]
fn message_tags_are_written_in_one_place() {
    for (module, path, text) in product() {
        let is_protocol = ["session", "worker", "backend"].contains(&module.as_str());
        if is_protocol && !path.contains("login") && !path.contains("startup") {
            for tag in ["b'Z'", "b'Q'", "b'P'", "b'B'", "b'C'", "b'H'"] {
                assert!(!text.contains(tag), "{path} has {tag}");
            }
        }
    }
}

/// The table of points says the truth about its tests.
#[test]
fn every_point_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("README.md")).expect("it is there");
    let mut points = Vec::new();
    for row in table.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let number = cells[0].get(1..).and_then(|number| number.parse::<u32>().ok());
        let Some(number) = number else { continue };
        points.push(number);
        let last = cells.last().expect("a row has cells");
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        let names: Vec<&str> = names.into_iter().filter(|name| name.contains("::")).collect();
        assert!(
            !names.is_empty() || last.contains("open: "),
            "{}: no test and no reason",
            cells[0]
        );
        for name in names {
            assert!(is_test(root, name), "{}: there is no test {name}", cells[0]);
        }
    }
    assert_eq!(points, (1..=56).collect::<Vec<u32>>());
}

/// Says whether there is a test of this name, as nextest gives it.
fn is_test(root: &Path, name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").expect("a path");
    let inside = module.strip_suffix("::tests").unwrap_or(module);
    let files = [module, inside].into_iter().flat_map(|module| {
        let path = module.replace("::", "/");
        [format!("tests/it/{path}.rs"), format!("tests/it/{path}/mod.rs"), format!("src/{path}.rs")]
    });
    let needle = format!("fn {function}(");
    files.map(|file| fs::read_to_string(root.join(file)).unwrap_or_default()).any(|text| {
        text.split("#[test]").skip(1).any(|test| test.trim_start().starts_with(&needle))
    })
}
