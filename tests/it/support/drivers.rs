//! Drivers of other languages, installed once per build folder by `tests/drivers/install`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::tools::successful;

/// A program in `tests/drivers`.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(name)
}

/// A program of the virtual environment that has the Python drivers.
pub fn python(program: &str) -> Command {
    Command::new(environment().join("bin").join(program))
}

/// Runs a Python program of `tests/drivers`, and gives what it printed.
///
/// # Panics
/// If it fails.
pub fn run_python(name: &str, arguments: &[&str]) -> String {
    let mut command = python("python");
    command.arg(source(name)).args(arguments);
    successful(command.output().expect("Python is installed"))
}

/// Runs a Java program of `tests/drivers` with pgjdbc, and gives what it printed.
///
/// # Panics
/// If it fails.
pub fn run_java(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("java");
    command.args(["-cp", "/usr/share/java/postgresql.jar"]).arg(source(name)).args(arguments);
    successful(command.output().expect("a JDK is installed"))
}

/// The virtual environment; whoever comes first makes it.
fn environment() -> PathBuf {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&cache).expect("the build folder is writable");
    let lock = File::create(cache.join("drivers.lock")).expect("it is writable");
    lock.lock().expect("file locks work in the build folder");
    let folder = cache.join("drivers");
    let output = Command::new(source("install")).arg(&folder).output();
    successful(output.expect("it is a script"));
    folder
}
