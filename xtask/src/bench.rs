//! Runs the benchmarks, and writes their results.
//!
//! The benchmarks are programs in the separate workspace `benches/`. Each writes its rows as JSON, and defines what a row measures and
//! whether its goal is met. This module combines the rows and adds the machine and the versions.

use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{cargo, compile, machine, root};

/// The programs under `benches/src/bin/`, in the order of the table. A new one costs a line here.
const PROGRAMS: &[&str] = &[
    "reads",
    "allocations",
    "herd",
    "mint",
    "exchange",
    "sessions",
    "streams",
    "memory",
    "background",
    "soak",
    "command",
    "weight",
];

/// The crates that are compared with the toolkit; their versions are those of the lock file.
const PEERS: &[&str] = &[
    "async-openai",
    "gcp_auth",
    "google-cloud-auth",
    "yup-oauth2",
    "arc-swap",
    "aws-lc-rs",
    "reqwest",
    "tokio",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only check in seconds that everything works: the figures mean little, and benches/RESULTS.md is not written
    #[arg(long)]
    quick: bool,
    /// Write the rows here, and nothing under benches/
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only measure what compiling the client of the API costs, and write nothing but `--json`
    #[arg(long)]
    client: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) row: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// `None`, like `met`, for a figure without a goal.
    pub(crate) goal: Option<String>,
    pub(crate) met: Option<bool>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let root = root::find()?;
    if options.client {
        let rows = compile::rows(&root)?;
        print!("{}", table(&rows));
        if let Some(json) = &options.json {
            write(json, &(serde_json::to_string_pretty(&rows)? + "\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let manifest = root.join("benches/Cargo.toml");
    let built = cargo("build", &manifest).arg("--bins").status()?;
    ensure!(built.success(), "the benchmarks do not build");

    let mut rows = compile::rows(&root)?;
    let mut failed = Vec::new();
    for program in PROGRAMS {
        println!("\n{program}");
        let (more, succeeded) = run_program(program, options.quick, &manifest)?;
        rows.extend(more);
        if !succeeded {
            failed.push(*program);
        }
    }

    let kept = options.json.is_none() && !options.quick;
    let json = match &options.json {
        Some(json) => Some(json.clone()),
        None => kept.then(|| root.join("benches/results.json")),
    };
    if let Some(json) = json {
        write(&json, &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    }
    if kept {
        write(
            &root.join("benches/RESULTS.md"),
            &results(&rows, &conditions(&root)?),
        )?;
    }

    let missed = rows.iter().filter(|row| row.met == Some(false)).count();
    let goals = rows.iter().filter(|row| row.met.is_some()).count();
    println!("\n{} of {goals} goals met", goals - missed);
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn cargo(verb: &str, manifest: &Path) -> Command {
    let mut command = cargo::command();
    command
        .args([verb, "--quiet", "--release", "--locked", "--manifest-path"])
        .arg(manifest);
    command
}

/// The rows of a program, and whether it succeeded: the soak test fails if it misses a goal, and still writes rows.
fn run_program(program: &str, quick: bool, manifest: &Path) -> Result<(Vec<Row>, bool)> {
    let name = format!("coze-bench-{}-{program}.json", std::process::id());
    let json = std::env::temp_dir().join(name);
    let mut command = cargo("run", manifest);
    command.args(["--bin", program, "--"]);
    if quick {
        command.arg("--quick");
    }
    let status = command.arg("--json").arg(&json).status()?;
    let Ok(text) = std::fs::read_to_string(&json) else {
        eprintln!("{program} wrote no figures ({status})");
        return Ok((Vec::new(), false));
    };
    let _ = std::fs::remove_file(&json);
    let rows = serde_json::from_str(&text).with_context(|| format!("the rows of {program}"))?;
    Ok((rows, status.success()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written  {}", path.display());
    Ok(())
}

/// The machine, versions and date of a measurement.
struct Conditions {
    machine: String,
    date: String,
    rustc: String,
    versions: String,
}

fn conditions(root: &Path) -> Result<Conditions> {
    let lock = std::fs::read_to_string(root.join("benches/Cargo.lock"))
        .context("cannot read benches/Cargo.lock")?;
    let versions: Vec<_> = PEERS
        .iter()
        .filter_map(|peer| Some(format!("{peer} {}", version_in(&lock, peer)?)))
        .collect();
    Ok(Conditions {
        machine: machine::name(),
        date: machine::date(),
        rustc: machine::compiler(),
        versions: versions.join(", "),
    })
}

/// The version of a package in a lock file; of several, the newest, which is last.
fn version_in(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines();
    let mut version = None;
    while let Some(line) = lines.next() {
        if line == name {
            let next = lines.next()?.strip_prefix("version = ")?;
            version = Some(next.trim_matches('"').to_owned());
        }
    }
    version
}

fn results(rows: &[Row], on: &Conditions) -> String {
    let mut out = format!(
        "# Results\n\n\
         Written by `cargo xtask bench`; [README.md](README.md) tells what each row measures.\n\n\
         - Machine: {}\n- Date: {}\n- Compiler: {}\n- Measured beside it: {}\n\n",
        on.machine, on.date, on.rustc, on.versions
    );
    out.push_str(&table(rows));
    out
}

fn table(rows: &[Row]) -> String {
    let mut out =
        "| row | value | unit | goal | met | note |\n|---|--:|---|---|---|---|\n".to_owned();
    for row in rows {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {met} | {} |",
            row.row,
            row.value,
            row.unit,
            row.goal.as_deref().unwrap_or_default(),
            row.note.replace('|', "/")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_several_versions_is_used() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n\n\
                    [[package]]\nname = \"a\"\nversion = \"2.0.0\"\n\n\
                    [[package]]\nname = \"ab\"\nversion = \"3.0.0\"\n";
        assert_eq!(version_in(lock, "a").as_deref(), Some("2.0.0"));
        assert_eq!(version_in(lock, "b"), None);
    }

    #[test]
    fn a_missed_goal_is_highlighted() {
        let row = |met| Row {
            row: "read".to_owned(),
            value: 1.25,
            unit: "x".to_owned(),
            goal: Some("<= 1.2".to_owned()),
            met,
            note: "a | b".to_owned(),
        };
        let on = Conditions {
            machine: "m".to_owned(),
            date: "d".to_owned(),
            rustc: "r".to_owned(),
            versions: "v".to_owned(),
        };
        let text = results(&[row(Some(false)), row(None)], &on);
        assert!(
            text.contains("| read | 1.25 | x | <= 1.2 | **no** | a / b |"),
            "{text}"
        );
        assert!(
            text.contains("| read | 1.25 | x | <= 1.2 |  | a / b |"),
            "{text}"
        );
    }
}
