//! `pgtandem`: argv → configuration → [`pgtandem::app`] → exit code.
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong, 128 and more a
//! signal ended the demo.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use pgtandem::cli::{Cli, Command};
use pgtandem::{app, config, control, demo, import, log};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        None | Some(Command::Run) => run(&cli),
        Some(Command::Check) => check(&cli),
        Some(Command::Import { file }) => run_import(file),
        Some(Command::Demo(args)) => run_demo(*args),
    }
}

fn run(cli: &Cli) -> ExitCode {
    let path = cli.config_path();
    let read = config::Source::read(&path).and_then(|source| Ok((source.parse()?, source)));
    let (config, source) = match read {
        Ok(read) => read,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    if let Err(error) = log::init(&control::log_settings(&config.general)) {
        complain(&error.to_string());
        return ExitCode::from(2);
    }
    let ended = app::run(&path, source, config);
    log::flush();
    match ended {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{:#}", anyhow::Error::from(error)));
            ExitCode::FAILURE
        }
    }
}

fn check(cli: &Cli) -> ExitCode {
    let path = cli.config_path();
    match config::load(&path) {
        Ok(config) => {
            let mut out = std::io::stdout().lock();
            for advice in config.advice() {
                let _ = writeln!(out, "advice: {advice}");
            }
            let _ = writeln!(out, "{}: ok", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

fn run_import(file: &Path) -> ExitCode {
    let imported = match import::import(file) {
        Ok(imported) => imported,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    if std::io::stdout().lock().write_all(imported.text.as_bytes()).is_err() {
        complain("cannot write to standard output");
        return ExitCode::FAILURE;
    }
    let mut err = std::io::stderr().lock();
    for note in &imported.notes {
        let _ = writeln!(err, "{note}");
    }
    if imported.has_secrets {
        let _ = writeln!(err, "the output holds passwords: let nobody else read it (chmod 600)");
    }
    match imported.mismatch {
        None => ExitCode::SUCCESS,
        Some(mismatch) => {
            complain(&format!("the output is not accepted by `pgtandem check`:\n{mismatch}"));
            ExitCode::FAILURE
        }
    }
}

fn run_demo(args: demo::Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start the demo: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            complain(&format!("{:#}", anyhow::Error::from(error)));
            ExitCode::from(code)
        }
    }
}

/// Says on standard error what went wrong; nobody is left to tell if that fails too.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "pgtandem: {text}");
}
