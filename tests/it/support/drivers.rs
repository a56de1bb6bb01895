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
    Command::new(installed("python").join("bin").join(program))
}

/// A Python program of `tests/drivers`.
pub fn python_program(name: &str) -> Command {
    let mut command = python("python");
    command.arg(source(name));
    command
}

/// A Java program of `tests/drivers`, with pgjdbc.
pub fn java_program(name: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1"]);
    command.args(["-cp", "/usr/share/java/postgresql.jar"]).arg(source(name));
    command
}

/// A program of `tests/drivers` for Node.js, with its drivers.
pub fn node_program(name: &str) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed("node").join("node_modules")).arg(source(name));
    command
}

/// A program that was built by `tests/drivers/install`.
pub fn built_program(kind: &str, path: &str) -> Command {
    Command::new(installed(kind).join(path))
}

/// Runs a Python program of `tests/drivers`, and gives what it printed.
///
/// # Panics
/// If it fails.
pub fn run_python(name: &str, arguments: &[&str]) -> String {
    let mut command = python_program(name);
    successful(command.args(arguments).output().expect("Python is installed"))
}

/// Runs a Java program of `tests/drivers` with pgjdbc, and gives what it printed.
///
/// # Panics
/// If it fails.
pub fn run_java(name: &str, arguments: &[&str]) -> String {
    let mut command = java_program(name);
    successful(command.args(arguments).output().expect("a JDK is installed"))
}

/// The folder with what programs of one kind need; whoever comes first makes it.
fn installed(kind: &str) -> PathBuf {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&cache).expect("the build folder is writable");
    let lock = File::create(cache.join(format!("drivers-{kind}.lock"))).expect("it is writable");
    lock.lock().expect("file locks work in the build folder");
    let folder = cache.join(format!("drivers-{kind}"));
    let output = Command::new(source("install")).arg(kind).arg(&folder).output();
    successful(output.expect("it is a script"));
    folder
}
