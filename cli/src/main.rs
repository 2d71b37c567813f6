//! The program `coze`: signs in to Coze, prints access tokens, calls the API, chats.
//!
//! A command returns what went wrong as a [`Failure`], which decides the exit code. A signal drops the running command;
//! what must not be lost (a sign-in that is being saved, a refresh in flight) is finished by [`Session::close`]
//! before the program ends, unless the user presses Ctrl-C again.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod hints;
mod json;
mod session;
mod signals;
mod terminal;
mod token;

use std::{pin::pin, process::ExitCode, time::Duration};

use clap::Parser;

use args::{Arguments, Command};
use failure::{Exit, Failure, Result};
use session::Session;
use signals::Signals;
use terminal::Terminal;

/// A user who has pressed Ctrl-C is told what the program still waits for, unless it ends within this time.
const NOTICE_AFTER: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let terminal = Terminal::new(&arguments.global);
    let profile = arguments.global.profile.clone();
    let failures = run(arguments, &terminal);
    let exit = failures.first().map(Failure::exit);
    for failure in failures {
        terminal.report(&failure.for_profile(profile.as_deref()));
    }
    exit.map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit as u8))
}

/// Runs a command. All failures are to be reported; the first one decides the exit code.
fn run(arguments: Arguments, terminal: &Terminal) -> Vec<Failure> {
    let Arguments { command, global } = arguments;
    if let Command::Completions { shell } = command {
        return Vec::from_iter(commands::completions::run(shell).err());
    }
    // One thread: a warm token is only a file read.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return vec![error.into()],
    };
    let session = Session::new(terminal, global.profile);
    let failures = runtime.block_on(async {
        let mut signals = Signals::new();
        let outcome = tokio::select! {
            biased;
            exit = signals.next() => Err(Failure::silent(exit)),
            outcome = dispatch(command, &session) => outcome,
        };
        close(&session, &mut signals, Vec::from_iter(outcome.err())).await
    });
    // A thread may still wait for a line of standard input.
    runtime.shutdown_background();
    failures
}

/// Finishes what must not be lost, and adds what could not be finished. A signal does not stop that, but Ctrl-C after another
/// signal does. Other signals may come in pairs, as SIGTERM and SIGHUP from a supervisor.
async fn close(
    session: &Session<'_>,
    signals: &mut Signals,
    mut failures: Vec<Failure>,
) -> Vec<Failure> {
    let mut is_signalled = failures.iter().any(|failure| failure.exit().is_by_signal());
    let mut is_noticed = false;
    let mut closing = pin!(session.close());
    loop {
        tokio::select! {
            biased;
            unfinished = &mut closing => {
                for failure in unfinished {
                    if failures.iter().all(|known| known.message() != failure.message()) {
                        failures.push(failure);
                    }
                }
                return failures;
            }
            exit = signals.next() => {
                if is_signalled && exit == Exit::Interrupted {
                    let what = "interrupted again: what was being saved may be lost";
                    failures.insert(0, Failure::new(Exit::Interrupted, what));
                    return failures;
                }
                if !is_signalled {
                    is_signalled = true;
                    failures.push(Failure::silent(exit));
                }
            }
            () = tokio::time::sleep(NOTICE_AFTER), if is_signalled && !is_noticed => {
                is_noticed = true;
                session.terminal.note("Finishing what must not be lost; Ctrl-C again abandons it.");
            }
        }
    }
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
