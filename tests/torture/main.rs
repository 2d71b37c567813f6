//! Torture tests of stored sign-ins with single-use refresh tokens: many processes share one, and processes are killed.
//!
//! `cargo xtask torture` builds and starts this, with the mock in a separate process. [`race`] and [`crash`] are
//! the two tests; [`worker`] and [`refresher`] are the processes that they start. Whether something was lost is
//! decided by the mock's ledger ([`ledger`]) alone. [`plain`] is a naive store
//! for comparison: its losses are counted, but are not failures.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these processes communicate over standard output"
)]

mod background;
mod coze;
mod crash;
mod ledger;
mod mock;
mod plain;
mod probe;
mod race;
mod random;
mod redis;
mod refresher;
mod setup;
mod stage;
mod tally;
mod watch;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::setup::{Setup, StoreName};
use crate::stage::Stage;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "torture", about = "Tortures stored sign-ins")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Many processes request the token of one sign-in
    Race(race::Options),
    /// Processes are killed while they refresh
    Crash(crash::Options),
    /// One of the racing processes
    #[command(hide = true)]
    Worker(worker::Options),
    /// A process to be killed
    #[command(hide = true)]
    Refresher(refresher::Options),
}

/// The options of both tests.
#[derive(Args)]
struct Common {
    /// The program of the mock
    #[arg(long, value_name = "PROGRAM")]
    mock: PathBuf,
    /// The store of the sign-in
    #[arg(long, value_enum)]
    store: StoreName,
    /// The mock revokes the token family when a refresh token is sent twice
    #[arg(long)]
    reuse_revokes_family: bool,
    /// The mock revokes the previous access token on refresh
    #[arg(long)]
    refresh_revokes_access_token: bool,
    /// For a busy or stalling machine: ignore failures of timing and frequency
    #[arg(long)]
    tolerate_timing: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

impl Common {
    fn stage(&self, access_token_lifetime: u64) -> Result<Stage> {
        let mut options = vec![
            "--access-token-lifetime".to_owned(),
            access_token_lifetime.to_string(),
        ];
        if self.reuse_revokes_family {
            options.push("--reuse-revokes-family".to_owned());
        }
        if self.refresh_revokes_access_token {
            options.push("--refresh-revokes-access-token".to_owned());
        }
        Stage::set(&self.mock, &options, self.store)
    }

    /// Writes the figures, reports the losses, and fails if there must be none.
    fn conclude(&self, figures: &Value, losses: &[String]) -> Result<ExitCode> {
        let text = format!("{figures:#}\n");
        std::fs::write(&self.json, &text)
            .map_err(|error| format!("cannot write {}: {error}", self.json.display()))?;
        print!("{text}");
        for loss in losses {
            eprintln!("LOSS: {loss}");
        }
        // The plain store is expected to lose sign-ins.
        Ok(if losses.is_empty() || self.store == StoreName::Plain {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut cause = error.source();
            while let Some(deeper) = cause {
                text.push_str(&format!(": {deeper}"));
                cause = deeper.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Race(options) => race::run(&options),
        Command::Crash(options) => crash::run(&options),
        Command::Worker(options) => alone(worker::run(Setup::inherited()?, options)),
        Command::Refresher(options) => alone(refresher::run(Setup::inherited()?, options)),
    }
}

/// One thread per process, because there are many processes.
fn alone(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    runtime()?.block_on(work)?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
