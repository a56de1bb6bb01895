//! `pgtandem`: argv → configuration → [`pgtandem::app`] → exit code.
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong, 128 and more a
//! signal ended the demo.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use pgtandem::cli::{Cli, Command};
use pgtandem::{app, check, config, control, demo, import, log, operator, password};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        None | Some(Command::Run) => run(&cli),
        Some(Command::Check(args)) => run_check(&cli, *args),
        Some(Command::Password(args)) => run_password(args),
        Some(Command::Import { file }) => run_import(file),
        Some(Command::Replication(args)) => run_operator(&cli, args),
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

fn run_check(cli: &Cli, args: check::Args) -> ExitCode {
    let path = cli.config_path();
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    if let Err(error) = check::tls(&config) {
        complain(&error.to_string());
        return ExitCode::from(2);
    }
    let mut advice = config.advice();
    advice.extend(check::file_advice(&path, &config));
    let mut out = std::io::stdout().lock();
    let mut is_failure = false;
    if args.connect {
        let Some(runtime) = small_runtime() else { return ExitCode::FAILURE };
        let reports = runtime.block_on(check::connect(&config));
        for report in &reports {
            is_failure |= report.is_failure();
            let _ = writeln!(out, "{report}");
        }
        advice.extend(check::capacity_advice(&config, &reports));
    }
    for advice in advice {
        let _ = writeln!(out, "advice: {advice}");
    }
    if is_failure {
        let _ = writeln!(out, "{}: not every server lets us in", path.display());
        return ExitCode::FAILURE;
    }
    let _ = writeln!(out, "{}: ok", path.display());
    ExitCode::SUCCESS
}

fn run_password(args: &password::Args) -> ExitCode {
    match password::run(args) {
        Ok(secret) => match std::io::stdout().lock().write_all(secret.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            complain(&format!("{:#}", anyhow::Error::from(error)));
            ExitCode::FAILURE
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

fn run_operator(cli: &Cli, args: &operator::Args) -> ExitCode {
    let failure = ExitCode::from(args.command.failure_code());
    let config = match config::load(&cli.config_path()) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return failure;
        }
    };
    let Some(runtime) = small_runtime() else { return failure };
    match runtime.block_on(operator::run(args, &config)) {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            failure
        }
    }
}

fn run_demo(args: demo::Args) -> ExitCode {
    let Some(runtime) = small_runtime() else { return ExitCode::FAILURE };
    match runtime.block_on(demo::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            complain(&format!("{:#}", anyhow::Error::from(error)));
            ExitCode::from(code)
        }
    }
}

/// Makes a runtime for one thing; complains if there is none.
fn small_runtime() -> Option<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .inspect_err(|error| complain(&format!("cannot start: {error}")))
        .ok()
}

/// Says on standard error what went wrong; nobody is left to tell if that fails too.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "pgtandem: {text}");
}
