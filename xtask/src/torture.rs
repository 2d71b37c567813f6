//! Torture-tests stored sign-ins, and reports what was lost.
//!
//! The program is the example `torture` of `coze-tests`; the mock is a separate process. Each run writes one JSON file,
//! to which this module adds machine and commit. Runs with default options are kept under `benches/torture/`, and `benches/TORTURE.md` is generated
//! from them; others are written under `target/torture/`.

mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::{cargo, machine, root};

/// The options of `cargo xtask torture`.
#[derive(Subcommand)]
pub(crate) enum Show {
    /// Many processes request the token of one sign-in, with tokens that live for seconds
    Race(Race),
    /// Processes are killed during refreshes
    Crash(Crash),
    /// Every run of benches/TORTURE.md, in sequence; takes half an hour
    All,
    /// Write benches/TORTURE.md from the files under benches/torture/
    Report,
}

/// The default options, which the kept runs use.
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
    /// The lifetime of access tokens, in seconds
    #[arg(long, default_value_t = ACCESS_TOKEN_LIFETIME)]
    access_token_lifetime: u32,
    /// The latency of a refresh, in milliseconds
    #[arg(long, default_value_t = LATENCY)]
    latency: u32,
    /// A third of the processes have clocks that are an hour fast, another third an hour slow
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
    /// The store of the sign-in
    #[arg(long, value_enum)]
    store: Store,
    /// The mock revokes the token family when a refresh token is sent twice
    #[arg(long)]
    reuse_revokes_family: bool,
    /// The mock revokes the previous access token on refresh
    #[arg(long)]
    refresh_revokes_access_token: bool,
    /// For a busy or stalling machine: ignore failures of timing and frequency
    #[arg(long)]
    tolerate_timing: bool,
    /// Write the figures to this file, and do not change benches/TORTURE.md; by default, the figures of a run with default options
    /// are written under benches/torture/, and others under target/torture/
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Build without optimisation, to check faster that nothing is lost; the times mean little
    #[arg(long)]
    debug: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    /// A file for each profile, of `FileStore`
    File,
    /// A Redis server, of `RedisStore`; needs redis-server
    Redis,
    /// A JSON file without lock or compare, for comparison: its losses are not failures
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

/// Parses the options of `cargo xtask torture`.
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
    // The commit at build time, even if files change during the run.
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

/// The folder of the kept runs.
const KEPT: &str = "benches/torture";
const REPORT: &str = "benches/TORTURE.md";
/// The folder of other runs.
const OTHERS: &str = "target/torture";

/// One run with its options.
struct Run<'a> {
    common: &'a Common,
    name: String,
    arguments: Vec<String>,
    has_default_numbers: bool,
}

impl Run<'_> {
    /// Whether it belongs to the report: runs with other options must not replace those.
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

/// A numeric option: its name, value and default.
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

    /// The file name of the run: each combination of options has its own.
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

/// The programs of this workspace that are used.
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

    /// The figures of a run, and whether it succeeded.
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
            .with_context(|| format!("the run wrote no figures ({status})"))?;
        let _ = std::fs::remove_file(&json);
        Ok((serde_json::from_str(&text)?, status.success()))
    }
}

/// The machine and the commit.
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
    // Files written by earlier runs do not count as changes.
    if let Some(commit) = machine::commit(root, &[KEPT, REPORT]) {
        conditions["commit"] = commit.into();
    }
    conditions
}

fn write_report(root: &Path) -> Result<ExitCode> {
    let runs = report::read(&root.join(KEPT))?;
    ensure!(!runs.is_empty(), "there are no runs under {KEPT}");
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

    /// The file of a run with these options.
    fn file_of(line: &str) -> PathBuf {
        let root = Path::new("");
        match parsed(line).unwrap() {
            Show::Race(race) => race.run().file(root),
            Show::Crash(crash) => crash.run().file(root),
            Show::All | Show::Report => panic!("{line}"),
        }
    }

    #[test]
    fn every_run_of_the_report_has_valid_options() {
        for line in ALL {
            let show = parsed(&line.replace("STORE", "plain")).unwrap();
            assert!(matches!(show, Show::Race(_) | Show::Crash(_)), "{line}");
            let file = file_of(&line.replace("STORE", "file"));
            assert!(file.starts_with(KEPT), "{line}: {}", file.display());
        }
    }

    #[test]
    fn a_run_with_other_options_does_not_replace_a_kept_one() {
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
    fn each_combination_of_options_has_its_own_file() {
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
