//! Tortures stored sign-ins, and writes down what was lost.
//!
//! The program is the example `torture` of `coze-tests`, and the mock is another process. Each run is one JSON file, written
//! here with what it ran on. Those with the default numbers are kept under `benches/torture/`, and `benches/TORTURE.md` is made
//! of all of them; others are written under `target/torture/`.

mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::{cargo, machine, root};

/// What `cargo xtask torture` was asked to do.
#[derive(Subcommand)]
pub(crate) enum Show {
    /// Many processes ask for the token of one sign-in, while tokens live for seconds
    Race(Race),
    /// A process is killed while it refreshes, again and again
    Crash(Crash),
    /// Every run of benches/TORTURE.md, one after the other: half an hour
    All,
    /// Write benches/TORTURE.md from the files under benches/torture/
    Report,
}

/// The numbers of the runs that are kept, unless told otherwise.
const PROCESSES: u32 = 64;
const SECONDS: u32 = 120;
const ACCESS_TOKEN_LIFETIME: u32 = 5;
const LATENCY: u32 = 50;
const KILLS: u32 = 1000;

#[derive(Args)]
pub(crate) struct Race {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = PROCESSES)]
    processes: u32,
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
    /// How long access tokens live, in seconds
    #[arg(long, default_value_t = ACCESS_TOKEN_LIFETIME)]
    access_token_lifetime: u32,
    /// How long the mock takes for a refresh, in milliseconds
    #[arg(long, default_value_t = LATENCY)]
    latency: u32,
    /// The clocks of a third of the processes are an hour fast, those of another third an hour slow
    #[arg(long)]
    skewed_clocks: bool,
}

#[derive(Args)]
pub(crate) struct Crash {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = KILLS)]
    kills: u32,
}

#[derive(Args)]
struct Common {
    /// Where the sign-in is kept
    #[arg(long, value_enum)]
    store: Store,
    /// The mock ends a whole sign-in when a refresh token is sent twice
    #[arg(long)]
    reuse_revokes_family: bool,
    /// The mock ends the old access token with each refresh
    #[arg(long)]
    refresh_revokes_access_token: bool,
    /// The machine is busy, or stalls: what only comes at the wrong time, or too seldom, fails nothing
    #[arg(long)]
    tolerate_timing: bool,
    /// Write the figures here, and leave benches/TORTURE.md alone; without, those of a run with the default numbers
    /// are written under benches/torture/, and others under target/torture/
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Build without optimisation, to see in less time that nothing is lost; the times mean little
    #[arg(long)]
    debug: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    /// A file for each profile, of `FileStore`
    File,
    /// A Redis server, of `RedisStore`; needs redis-server
    Redis,
    /// A JSON file without lock or compare, for comparison: its losses fail nothing
    Plain,
}

impl Store {
    fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Redis => "redis",
            Self::Plain => "plain",
        }
    }
}

pub(crate) fn run(show: &Show) -> Result<ExitCode> {
    let root = root::find()?;
    match show {
        Show::Race(race) => torture(&root, race.run()),
        Show::Crash(crash) => torture(&root, crash.run()),
        Show::All => run_all(),
        Show::Report => write_report(&root),
    }
}

fn run_all() -> Result<ExitCode> {
    let mut failed = Vec::new();
    for run_of in ALL {
        for store in Store::value_variants() {
            let line = run_of.replace("STORE", store.as_str());
            println!("\ntorture {line}");
            if run(&parsed(&line)?)? != ExitCode::SUCCESS {
                failed.push(line);
            }
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// What `cargo xtask torture` with these words would do.
fn parsed(line: &str) -> Result<Show> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        show: Show,
    }
    let words = std::iter::once("torture").chain(line.split(' '));
    Ok(<Line as clap::Parser>::try_parse_from(words)?.show)
}

/// The runs of the report, on each store.
const ALL: [&str; 5] = [
    "race --store STORE",
    "race --store STORE --reuse-revokes-family",
    "race --store STORE --refresh-revokes-access-token",
    "race --store STORE --skewed-clocks",
    "crash --store STORE",
];

fn torture(root: &Path, run: Run<'_>) -> Result<ExitCode> {
    // As it is built, whatever is changed while it runs.
    let conditions = conditions(root, run.common);
    let programs = Programs::build(root, run.common.debug)?;
    let (mut figures, succeeded) = programs.torture(&run.arguments)?;
    figures["on"] = conditions;
    let text = serde_json::to_string_pretty(&figures)? + "\n";
    write(&run.file(root), &text)?;
    if run.is_kept() {
        write_report(root)?;
    }
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the runs that are kept write.
const KEPT: &str = "benches/torture";
const REPORT: &str = "benches/TORTURE.md";
/// Where the others are written.
const OTHERS: &str = "target/torture";

/// One run, as it was asked for.
struct Run<'a> {
    common: &'a Common,
    name: String,
    arguments: Vec<String>,
    has_default_numbers: bool,
}

impl Run<'_> {
    /// Whether it is one of the report: hurried ones must not take their place.
    fn is_kept(&self) -> bool {
        let common = self.common;
        let is_strict = !common.debug && !common.tolerate_timing;
        common.json.is_none() && is_strict && self.has_default_numbers
    }

    fn file(&self, root: &Path) -> PathBuf {
        if let Some(json) = &self.common.json {
            return json.clone();
        }
        let folder = if self.is_kept() { KEPT } else { OTHERS };
        root.join(folder).join(format!("{}.json", self.name))
    }
}

/// An option with a number: what it is, and what it is by default.
type Number = (&'static str, u32, u32);

fn with_numbers(mut arguments: Vec<String>, numbers: &[Number]) -> Vec<String> {
    for (option, number, _) in numbers {
        arguments.extend([(*option).to_owned(), number.to_string()]);
    }
    arguments
}

fn are_defaults(numbers: &[Number]) -> bool {
    numbers.iter().all(|(_, number, default)| number == default)
}

impl Race {
    fn run(&self) -> Run<'_> {
        let numbers = [
            ("--processes", self.processes, PROCESSES),
            ("--seconds", self.seconds, SECONDS),
            (
                "--access-token-lifetime",
                self.access_token_lifetime,
                ACCESS_TOKEN_LIFETIME,
            ),
            ("--latency", self.latency, LATENCY),
        ];
        let mut name = self.common.name("race");
        let mut arguments = with_numbers(self.common.arguments("race"), &numbers);
        if self.skewed_clocks {
            name.push_str("-skewed-clocks");
            arguments.push("--skewed-clocks".to_owned());
        }
        Run {
            common: &self.common,
            name,
            arguments,
            has_default_numbers: are_defaults(&numbers),
        }
    }
}

impl Crash {
    fn run(&self) -> Run<'_> {
        let numbers = [("--kills", self.kills, KILLS)];
        Run {
            common: &self.common,
            name: self.common.name("crash"),
            arguments: with_numbers(self.common.arguments("crash"), &numbers),
            has_default_numbers: are_defaults(&numbers),
        }
    }
}

impl Common {
    fn options(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.reuse_revokes_family, "reuse-revokes-family"),
            (
                self.refresh_revokes_access_token,
                "refresh-revokes-access-token",
            ),
        ]
        .into_iter()
        .filter_map(|(is_set, option)| is_set.then_some(option))
    }

    /// The name of the run's file: each combination of options has its own.
    fn name(&self, show: &str) -> String {
        let mut name = format!("{show}-{}", self.store.as_str());
        for option in self.options() {
            name.push('-');
            name.push_str(option);
        }
        name
    }

    fn arguments(&self, show: &str) -> Vec<String> {
        let mut arguments = vec![
            show.to_owned(),
            "--store".to_owned(),
            self.store.as_str().to_owned(),
        ];
        arguments.extend(self.options().map(|option| format!("--{option}")));
        if self.tolerate_timing {
            arguments.push("--tolerate-timing".to_owned());
        }
        arguments
    }
}

/// The programs of this workspace that take part.
struct Programs {
    mock: PathBuf,
    torture: PathBuf,
}

impl Programs {
    fn build(root: &Path, debug: bool) -> Result<Self> {
        let mut build = cargo::build_with_mock(root, "torture");
        if !debug {
            build.arg("--release");
        }
        let built = build.stderr(Stdio::inherit()).output()?;
        ensure!(
            built.status.success(),
            "the mock and the torture program do not build"
        );
        let messages = String::from_utf8(built.stdout)?;
        Ok(Self {
            mock: cargo::executable(&messages, "coze-mock")?,
            torture: cargo::executable(&messages, "torture")?,
        })
    }

    /// The figures of a run, and whether nothing was lost.
    fn torture(&self, arguments: &[String]) -> Result<(Value, bool)> {
        let name = format!("coze-torture-{}.json", std::process::id());
        let json = std::env::temp_dir().join(name);
        let status = Command::new(&self.torture)
            .args(arguments)
            .arg("--mock")
            .arg(&self.mock)
            .arg("--json")
            .arg(&json)
            .status()
            .context("cannot start the torture program")?;
        let text = std::fs::read_to_string(&json)
            .with_context(|| format!("the run gave no figures ({status})"))?;
        let _ = std::fs::remove_file(&json);
        Ok((serde_json::from_str(&text)?, status.success()))
    }
}

/// What it ran on.
fn conditions(root: &Path, common: &Common) -> Value {
    let redis = (common.store == Store::Redis)
        .then(|| machine::said_by("redis-server", &["--version"]))
        .and_then(|said| {
            let version = said.split(' ').find_map(|word| word.strip_prefix("v="))?;
            Some(version.to_owned())
        });
    let mut conditions = json!({
        "machine": machine::name(),
        "date": machine::date(),
        "rustc": machine::compiler(),
        "version": env!("CARGO_PKG_VERSION"),
        "redis": redis,
        "optimised": !common.debug,
    });
    // What the runs before this one wrote is no change.
    if let Some(commit) = machine::commit(root, &[KEPT, REPORT]) {
        conditions["commit"] = commit.into();
    }
    conditions
}

fn write_report(root: &Path) -> Result<ExitCode> {
    let runs = report::read(&root.join(KEPT))?;
    ensure!(!runs.is_empty(), "there is nothing under {KEPT} yet");
    write(&root.join(REPORT), &report::render(&runs))?;
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written  {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(store: Store) -> Common {
        Common {
            store,
            reuse_revokes_family: true,
            refresh_revokes_access_token: false,
            tolerate_timing: false,
            json: None,
            debug: false,
        }
    }

    /// The file of a run that is asked for with these words.
    fn file_of(line: &str) -> PathBuf {
        let root = Path::new("");
        match parsed(line).unwrap() {
            Show::Race(race) => race.run().file(root),
            Show::Crash(crash) => crash.run().file(root),
            Show::All | Show::Report => panic!("{line}"),
        }
    }

    #[test]
    fn every_run_of_the_report_is_one_that_can_be_asked_for() {
        for line in ALL {
            let show = parsed(&line.replace("STORE", "plain")).unwrap();
            assert!(matches!(show, Show::Race(_) | Show::Crash(_)), "{line}");
            let file = file_of(&line.replace("STORE", "file"));
            assert!(file.starts_with(KEPT), "{line}: {}", file.display());
        }
    }

    #[test]
    fn a_run_that_was_shortened_or_tolerant_does_not_replace_one_that_is_kept() {
        for line in [
            "race --store file --seconds 5",
            "race --store file --processes 8",
            "race --store file --access-token-lifetime 60",
            "race --store file --latency 0",
            "race --store file --debug",
            "race --store file --tolerate-timing",
        ] {
            assert_eq!(file_of(line), Path::new("target/torture/race-file.json"));
        }
        let crash = file_of("crash --store redis --kills 50");
        assert_eq!(crash, Path::new("target/torture/crash-redis.json"));
        let elsewhere = file_of("race --store file --json here.json");
        assert_eq!(elsewhere, Path::new("here.json"));
    }

    #[test]
    fn each_combination_of_options_has_a_file_of_its_own() {
        let race = Race {
            common: common(Store::Redis),
            processes: 64,
            seconds: 120,
            access_token_lifetime: 5,
            latency: 50,
            skewed_clocks: true,
        };
        assert_eq!(
            race.run().name,
            "race-redis-reuse-revokes-family-skewed-clocks"
        );
        let crash = Crash {
            common: common(Store::Plain),
            kills: 1000,
        };
        assert_eq!(crash.run().name, "crash-plain-reuse-revokes-family");
        assert_eq!(
            crash.run().arguments.join(" "),
            "crash --store plain --reuse-revokes-family --kills 1000"
        );
    }
}
