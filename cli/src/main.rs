//! The program `coze`: signs in to Coze, prints access tokens, calls the API, chats.
//!
//! A command returns what went wrong as a [`Failure`], which decides the exit code. Ctrl-C and SIGTERM drop the running command;
//! what must not be lost (a sign-in that is being saved, a refresh in flight) is finished by [`Session::close`]
//! before the program ends.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod hints;
mod session;
mod terminal;
mod token;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use failure::{Exit, Failure, Result};
use session::Session;
use terminal::Terminal;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let terminal = Terminal::new(&arguments.global);
    match run(arguments, &terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.report(&failure);
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn run(arguments: Arguments, terminal: &Terminal) -> Result<()> {
    let Arguments { command, global } = arguments;
    if let Command::Completions { shell } = command {
        return commands::completions::run(shell);
    }
    // One thread: a warm token is only a file read.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let session = Session::new(terminal, global.profile);
    let outcome = runtime.block_on(async {
        let outcome = tokio::select! {
            // First, so that signals are handled from the start.
            biased;
            exit = signalled() => Err(Failure::silent(exit)),
            outcome = dispatch(command, &session) => outcome,
        };
        outcome.and(session.close().await)
    });
    // A thread may still wait for a line of standard input.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command, session: &Session<'_>) -> Result<()> {
    match command {
        Command::Api(options) => commands::api::run(options, session).await,
        Command::Chat(options) => commands::chat::run(options, session).await,
        Command::Completions { shell } => commands::completions::run(shell),
        Command::Jwt(options) => commands::jwt::run(options, session).await,
        Command::Doctor(options) => commands::doctor::run(options, session).await,
        Command::Header(options) => commands::token::header(options, session).await,
        Command::Token(options) => commands::token::run(options, session).await,
        Command::Login(options) => commands::login::run(options, session).await,
        Command::Logout { all } => commands::logout::run(all, session).await,
        Command::Profiles { json } => commands::profiles::run(json, session).await,
        Command::Status { json } => commands::status::run(json, session).await,
        Command::Whoami { json } => commands::whoami::run(json, session).await,
        Command::Mock(options) => commands::mock::run(options, session).await,
    }
}

/// Waits for Ctrl-C, or for a request to end.
async fn signalled() -> Exit {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Signals can't be handled: the system ends the program.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupted => Exit::Interrupted,
        () = terminated() => Exit::Terminated,
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
        terminate.recv().await;
    } else {
        std::future::pending::<()>().await;
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending::<()>().await;
}
