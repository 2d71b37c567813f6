//! Tortures stored sign-ins, and writes down what was lost.
//!
//! The program is the example `torture` of `coze-tests`, and the mock is another process. Each run is one JSON file under
//! `benches/torture/`, written here with what it ran on; `benches/TORTURE.md` is made of all of them.

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

#[derive(Args)]
pub(crate) struct Race {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 64)]
    processes: u32,
    #[arg(long, default_value_t = 120)]
    seconds: u32,
    /// How long access tokens live, in seconds
    #[arg(long, default_value_t = 5)]
    access_token_lifetime: u32,
    /// How long the mock takes for a refresh, in milliseconds
    #[arg(long, default_value_t = 50)]
    latency: u32,
    /// The clocks of a third of the processes are an hour fast, those of another third an hour slow
    #[arg(long)]
    skewed_clocks: bool,
    /// By how much more a refresh may miss its window, in milliseconds, because a busy machine stalls processes
    #[arg(long, default_value_t = 0)]
    forgive_ms: u32,
}

#[derive(Args)]
pub(crate) struct Crash {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 1000)]
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
    /// Write the figures here, instead of under benches/torture/, and leave benches/TORTURE.md alone
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
        Show::Race(race) => torture(&root, &race.common, &race.name(), &race.arguments()),
        Show::Crash(crash) => torture(&root, &crash.common, &crash.name(), &crash.arguments()),
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

fn torture(root: &Path, common: &Common, name: &str, arguments: &[String]) -> Result<ExitCode> {
    let programs = Programs::build(root, common.debug)?;
    let (mut figures, succeeded) = programs.torture(arguments)?;
    figures["on"] = conditions(common);
    let text = serde_json::to_string_pretty(&figures)? + "\n";
    match &common.json {
        Some(json) => write(json, &text)?,
        None => {
            write(&folder(root).join(format!("{name}.json")), &text)?;
            write_report(root)?;
        }
    }
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn folder(root: &Path) -> PathBuf {
    root.join("benches/torture")
}

impl Race {
    fn name(&self) -> String {
        let mut name = self.common.name("race");
        if self.skewed_clocks {
            name.push_str("-skewed-clocks");
        }
        name
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.common.arguments("race");
        for (option, value) in [
            ("--processes", self.processes),
            ("--seconds", self.seconds),
            ("--access-token-lifetime", self.access_token_lifetime),
            ("--latency", self.latency),
            ("--forgive-ms", self.forgive_ms),
        ] {
            arguments.extend([option.to_owned(), value.to_string()]);
        }
        if self.skewed_clocks {
            arguments.push("--skewed-clocks".to_owned());
        }
        arguments
    }
}

impl Crash {
    fn name(&self) -> String {
        self.common.name("crash")
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.common.arguments("crash");
        arguments.extend(["--kills".to_owned(), self.kills.to_string()]);
        arguments
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
fn conditions(common: &Common) -> Value {
    let redis = (common.store == Store::Redis)
        .then(|| machine::said_by("redis-server", &["--version"]))
        .and_then(|said| {
            let version = said.split(' ').find_map(|word| word.strip_prefix("v="))?;
            Some(version.to_owned())
        });
    json!({
        "machine": machine::name(),
        "date": machine::date(),
        "rustc": machine::compiler(),
        "version": env!("CARGO_PKG_VERSION"),
        "redis": redis,
        "optimised": !common.debug,
    })
}

fn write_report(root: &Path) -> Result<ExitCode> {
    let runs = report::read(&folder(root))?;
    ensure!(
        !runs.is_empty(),
        "there is nothing under benches/torture/ yet"
    );
    write(&root.join("benches/TORTURE.md"), &report::render(&runs))?;
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
            json: None,
            debug: false,
        }
    }

    #[test]
    fn every_run_of_the_report_is_one_that_can_be_asked_for() {
        for line in ALL {
            let show = parsed(&line.replace("STORE", "plain")).unwrap();
            assert!(matches!(show, Show::Race(_) | Show::Crash(_)), "{line}");
        }
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
            forgive_ms: 0,
        };
        assert_eq!(race.name(), "race-redis-reuse-revokes-family-skewed-clocks");
        let crash = Crash {
            common: common(Store::Plain),
            kills: 1000,
        };
        assert_eq!(crash.name(), "crash-plain-reuse-revokes-family");
        assert_eq!(
            crash.arguments().join(" "),
            "crash --store plain --reuse-revokes-family --kills 1000"
        );
    }
}
