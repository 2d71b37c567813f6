//! The race test: many processes request the token of one sign-in, with tokens that live for seconds.

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
    /// The lifetime of access tokens, in seconds
    #[arg(long, default_value_t = 5)]
    access_token_lifetime: u64,
    /// The latency of a refresh, in milliseconds
    #[arg(long, default_value_t = 50)]
    latency: u64,
    /// A third of the processes have clocks that are an hour fast, another third an hour slow
    #[arg(long)]
    skewed_clocks: bool,
}

const START_TIMEOUT: Duration = Duration::from_secs(120);
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// A refresh is early by at most the duration of the stall that caused it. So however slow a machine is, it
/// refreshes less often than this during the lifetime of a token.
const MAX_REFRESHES_PER_LIFETIME: u64 = 5;
const HOUR: i64 = 3600;

/// The resolution of the clocks, rounding to milliseconds, and network latency.
const ROUNDING: Duration = Duration::from_millis(50);
/// With clock skew, a process uses the `Date` header, with a resolution of one second, and the request duration.
const BY_DATE: Duration = Duration::from_millis(1000 + 250);

/// All findings.
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
    let id = runtime()?.block_on(stage.user_signs_in(&sign_in))?;
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
        // The state right after the race: the survivor forces a refresh.
        sign_ins: stage.mock.ledger()?,
        survives: survives(&stage),
    };
    let losses = losses(&outcome, options);
    options
        .common
        .conclude(&figures(&outcome, options, &losses), &losses)
}

/// Errors that can be sent between threads.
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
            .recv_timeout(START_TIMEOUT)
            .map_err(|_| "a worker did not start")?;
    }
    Ok(workers)
}

fn race(mut workers: Vec<Worker>, options: &Options) -> Result<Summary> {
    for (worker, _) in &mut workers {
        worker.say("go")?;
    }
    let mut all = Summary::default();
    let mut wait = Duration::from_secs(options.seconds) + END_TIMEOUT;
    for (_, lines) in &workers {
        let Ok(line) = lines.recv_timeout(wait) else {
            count(&mut all.errors, "a process ended or hung without a report");
            continue;
        };
        all.add(&serde_json::from_str(&line)?);
        // They end at the same time.
        wait = END_TIMEOUT;
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
        self.loaded += one.loaded;
    }
}

/// Whether a new process can use the sign-in: it gets a token, refreshes, and the API accepts the new token.
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
    Err(said
        .lines()
        .last()
        .unwrap_or("it printed nothing")
        .to_owned())
}

impl Outcome {
    fn sum(&self, of: impl Fn(&SignIn) -> usize) -> usize {
        self.sign_ins.iter().map(of).sum()
    }

    /// The number of pairs of tokens that were read from the store and never issued.
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
        none(late as u64, "refreshes after the access token's expiry");
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
    none(summary.refused_twice, "tokens refused twice in a row");
    none(seen.missed, "requests not checked");
    let refreshed = outcome.sum(SignIn::redemptions) as u64;
    let answered = seen.refreshes_answered;
    if refreshed != answered {
        losses.push(format!(
            "{refreshed} generations were redeemed, and {answered} refreshes answered"
        ));
    }
    let lives = options.seconds / options.access_token_lifetime;
    if refreshed < if tolerate_timing { 1 } else { lives } {
        losses.push(format!("only {refreshed} refreshes: too few for a race"));
    }
    if tolerate_timing && refreshed > lives.max(1) * MAX_REFRESHES_PER_LIFETIME {
        losses.push(format!("{refreshed} refreshes, where {lives} were due"));
    }
    if let Err(why) = &outcome.survives {
        losses.push(format!("a new process cannot refresh: {why}"));
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
        "loaded": summary.loaded,
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
