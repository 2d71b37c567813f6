//! The race: many processes ask for the token of one sign-in, while tokens live for seconds.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::background::Background;
use crate::ledger::{RefreshWindow, SignIn};
use crate::stage::Stage;
use crate::tally::{Tally, add, count, counted, quantile};
use crate::watch::{Reads, Seen, look_on, read_on};
use crate::worker::{PROFILE, Summary};
use crate::{Common, Result, millis, runtime};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 64)]
    processes: usize,
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How long access tokens live, in seconds
    #[arg(long, default_value_t = 5)]
    access_token_lifetime: u64,
    /// How long the mock takes for a refresh, in milliseconds
    #[arg(long, default_value_t = 50)]
    latency: u64,
    /// The clocks of a third of the processes are an hour fast, those of another third an hour slow
    #[arg(long)]
    skewed_clocks: bool,
}

const START_AT_MOST: Duration = Duration::from_secs(120);
const END_AT_MOST: Duration = Duration::from_secs(120);
/// A refresh is early by no more than the stall that made it so, and that took as long; so however slow a machine is, it
/// refreshes less often than this in the life of a token.
const TOO_MANY_IN_A_LIFE: u64 = 5;
const HOUR: i64 = 3600;

/// What the clocks' steps, rounding to milliseconds and the way of a request amount to.
const ROUNDING: Duration = Duration::from_millis(50);
/// Who can't trust the own clock goes by the `Date` header, which cuts a second off, and by how long the request took.
const BY_DATE: Duration = Duration::from_millis(1000 + 250);

/// All that was found out.
struct Outcome {
    summary: Summary,
    reads: Reads,
    seen: Seen,
    sign_ins: Vec<SignIn>,
    survives: Result<(), String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let stage = options.common.stage(options.access_token_lifetime)?;
    let sign_in = stage.setup.sign_in(PROFILE)?;
    let id = runtime()?.block_on(stage.person_signs_in(&sign_in))?;
    stage.mock.takes_time(options.latency)?;
    let workers = start(&stage, options)?;
    let stop = AtomicBool::new(false);
    let (summary, reads, seen) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            text(
                stage
                    .setup
                    .sign_in(PROFILE)
                    .and_then(|own| read_on(&own, &stop)),
            )
        });
        let looker = scope.spawn(|| text(look_on(&stage, &sign_in, id, &stop)));
        let summary = race(workers, options);
        stop.store(true, Ordering::Relaxed);
        let joined = |_| "a watching thread panicked".to_owned();
        (
            summary,
            reader.join().map_err(joined).flatten(),
            looker.join().map_err(joined).flatten(),
        )
    });
    let outcome = Outcome {
        summary: summary?,
        reads: reads?,
        seen: seen?,
        // As the race left it: the survivor's refresh is forced.
        sign_ins: stage.mock.ledger()?,
        survives: survives(&stage),
    };
    let losses = losses(&outcome, options);
    options
        .common
        .conclude(&figures(&outcome, options, &losses), &losses)
}

/// Errors that may cross a thread.
fn text<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

type Worker = (Background, Receiver<String>);

fn start(stage: &Stage, options: &Options) -> Result<Vec<Worker>> {
    let seconds = options.seconds.to_string();
    let mut workers = Vec::new();
    for number in 0..options.processes {
        let wrong_by = match number % 3 {
            1 if options.skewed_clocks => HOUR,
            2 if options.skewed_clocks => -HOUR,
            _ => 0,
        };
        let wrong_by = wrong_by.to_string();
        let mut role = vec!["worker", "--seconds", &seconds, "--wrong-by", &wrong_by];
        if number % 4 == 3 {
            role.push("--in-line");
        }
        workers.push(Background::start(stage.setup.process(&role)?)?);
    }
    for (_, lines) in &workers {
        lines
            .recv_timeout(START_AT_MOST)
            .map_err(|_| "a worker did not start")?;
    }
    Ok(workers)
}

fn race(mut workers: Vec<Worker>, options: &Options) -> Result<Summary> {
    for (worker, _) in &mut workers {
        worker.say("go")?;
    }
    let mut all = Summary::default();
    let mut wait = Duration::from_secs(options.seconds) + END_AT_MOST;
    for (_, lines) in &workers {
        let Ok(line) = lines.recv_timeout(wait) else {
            count(&mut all.errors, "a process ended or hung without a word");
            continue;
        };
        all.add(&serde_json::from_str(&line)?);
        // They end together.
        wait = END_AT_MOST;
    }
    Ok(all)
}

impl Summary {
    fn add(&mut self, one: &Self) {
        self.asked += one.asked;
        self.served += one.served;
        add(&mut self.errors, &one.errors);
        self.api_calls += one.api_calls;
        self.refused += one.refused;
        self.recovered += one.recovered;
        self.refused_twice += one.refused_twice;
        self.slowest_wait_ms = self.slowest_wait_ms.max(one.slowest_wait_ms);
        self.flights += one.flights;
        self.adopted += one.adopted;
    }
}

/// Whether a fresh process still has the sign-in: it is served, refreshes, and the API takes the new token.
fn survives(stage: &Stage) -> Result<(), String> {
    let role = [
        "refresher",
        "--profile",
        PROFILE,
        "--refreshes",
        "1",
        "--call",
    ];
    let ended = text(stage.setup.process(&role))?
        .stderr(std::process::Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    Err(said.lines().last().unwrap_or("it said nothing").to_owned())
}

impl Outcome {
    fn sum(&self, of: impl Fn(&SignIn) -> usize) -> usize {
        self.sign_ins.iter().map(of).sum()
    }

    /// What was read in the store, and was never issued as it stood there.
    fn unknown_tokens(&self) -> usize {
        let is_issued = |(refresh_token, access_token): &&(String, String)| {
            let mut generations = self.sign_ins.iter().flat_map(|family| &family.generations);
            generations.any(|generation| {
                generation.refresh_token == *refresh_token
                    && generation.access_token == *access_token
            })
        };
        self.reads
            .seen
            .iter()
            .filter(|pair| !is_issued(pair))
            .count()
    }
}

fn window(options: &Options) -> RefreshWindow {
    RefreshWindow {
        granted: Duration::from_secs(options.access_token_lifetime),
        misjudged: if options.skewed_clocks {
            ROUNDING + BY_DATE
        } else {
            ROUNDING
        },
    }
}

fn losses(outcome: &Outcome, options: &Options) -> Vec<String> {
    let mut losses = Vec::new();
    let tolerate_timing = options.common.tolerate_timing;
    let mut none = |count: u64, what: &str| {
        if count > 0 {
            losses.push(format!("{count} {what}"));
        }
    };
    let total = |tally: &Tally| tally.values().sum::<u64>();
    let (seen, reads, summary) = (&outcome.seen, &outcome.reads, &outcome.summary);
    let leads: Vec<_> = outcome
        .sign_ins
        .iter()
        .flat_map(|family| window(options).leads(family))
        .collect();
    let early = leads.iter().filter(|lead| lead.is_early()).count();
    let late = leads.iter().filter(|lead| lead.is_late()).count();
    none(total(&seen.lost), "sign-ins lost");
    none(
        outcome.sum(SignIn::reuses) as u64,
        "refresh tokens sent again after they were redeemed",
    );
    none(
        outcome.sum(SignIn::breaks) as u64,
        "breaks in the chain of generations",
    );
    none(total(&seen.refreshes_refused), "refreshes refused");
    if !tolerate_timing {
        none(early as u64, "refreshes before their window");
        none(late as u64, "refreshes after the access token's end");
    }
    none(
        total(&reads.errors) + reads.missing,
        "reads of the store that found no sign-in",
    );
    none(
        outcome.unknown_tokens() as u64,
        "stored pairs of tokens that were never issued",
    );
    none(
        total(&counted(&summary.errors, tolerate_timing)),
        "errors in the processes",
    );
    none(
        summary.refused_twice,
        "tokens refused, and the next one too",
    );
    none(seen.missed, "requests not looked at");
    let refreshed = outcome.sum(SignIn::redemptions) as u64;
    let answered = seen.refreshes_answered;
    if refreshed != answered {
        losses.push(format!(
            "{refreshed} generations were redeemed, and {answered} refreshes answered"
        ));
    }
    let lives = options.seconds / options.access_token_lifetime;
    if refreshed < if tolerate_timing { 1 } else { lives } {
        losses.push(format!("{refreshed} refreshes only: that was no race"));
    }
    if tolerate_timing && refreshed > lives.max(1) * TOO_MANY_IN_A_LIFE {
        losses.push(format!("{refreshed} refreshes, where {lives} were due"));
    }
    if let Err(why) = &outcome.survives {
        losses.push(format!("a fresh process can't go on: {why}"));
    }
    losses
}

fn figures(outcome: &Outcome, options: &Options, losses: &[String]) -> Value {
    let common = &options.common;
    let (seen, reads, summary) = (&outcome.seen, &outcome.reads, &outcome.summary);
    let leads: Vec<_> = outcome
        .sign_ins
        .iter()
        .flat_map(|family| window(options).leads(family))
        .collect();
    let lead_ms: Vec<_> = leads.iter().map(|lead| lead.lead_ms).collect();
    json!({
        "show": "race",
        "store": common.store.as_str(),
        "processes": options.processes,
        "seconds": options.seconds,
        "access_token_lifetime": options.access_token_lifetime,
        "reuse_revokes_family": common.reuse_revokes_family,
        "refresh_revokes_access_token": common.refresh_revokes_access_token,
        "latency_ms": options.latency,
        "skewed_clocks": options.skewed_clocks,
        "tolerate_timing": common.tolerate_timing,
        "sign_ins": outcome.sign_ins.len(),
        "refreshes": seen.refreshes_answered,
        "tokens_handed_out": summary.served,
        "flights": summary.flights,
        "adopted": summary.adopted,
        "slowest_wait_ms": summary.slowest_wait_ms,
        "lost": seen.lost,
        "first_loss_ms": seen.first_loss.map(millis),
        "reused": outcome.sum(SignIn::reuses),
        "broken_chains": outcome.sum(SignIn::breaks),
        "refused_refreshes": seen.refreshes_refused,
        "lead_ms": {
            "earliest": quantile(&lead_ms, 1.0),
            "median": quantile(&lead_ms, 0.5),
            "latest": quantile(&lead_ms, 0.0),
        },
        "lead_at_most_ms": leads.iter().map(|lead| lead.most_ms).max(),
        "early": leads.iter().filter(|lead| lead.is_early()).count(),
        "late": leads.iter().filter(|lead| lead.is_late()).count(),
        "reads_of_store": reads.reads,
        "unreadable": reads.errors,
        "missing": reads.missing,
        "slow_reads": reads.slow,
        "unknown_tokens": outcome.unknown_tokens(),
        "api_calls": seen.api_calls,
        "api_refused": seen.api_refused,
        "never_answered": seen.never_answered,
        "recovered": summary.recovered,
        "refused_twice": summary.refused_twice,
        "errors": summary.errors,
        "survives": outcome.survives.is_ok(),
        "losses": losses,
    })
}
