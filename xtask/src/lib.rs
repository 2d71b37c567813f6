//! The maintainers' commands, run as `cargo xtask`.
//!
//! - `gen` turns each description in `spec/` into a typed client under `generated/`, and into JSON Schemas under `mock/schemas/`.
//! - `gen --check` checks that these files are up to date, and that there are no others.
//! - `lint` checks the descriptions, and the wording of the repository.
//! - `drift` compares our description of the API with what Coze's own documents say.
//! - `conformance` runs the official SDKs against the mock.
//! - `bench` runs the benchmarks and writes `benches/RESULTS.md`.
//! - `torture` runs many processes that share one stored sign-in, or kills them, and writes `benches/TORTURE.md`.
//!
//! This program depends on no crate of the workspace, because it must build even if generated code does not. If it needs other
//! packages' programs, it builds and starts them.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command prints its results"
)]

mod bench;
mod calls;
mod cargo;
mod compile;
mod conformance;
mod document;
mod drift;
mod expand;
mod generate;
mod json_schema;
mod lint;
mod machine;
mod mock_schemas;
mod normalise;
mod place;
mod root;
pub mod spec;
mod torture;
mod types;
mod walk;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::document::Document;
use crate::generate::Freshness;
use crate::spec::SPECS;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Maintainers' commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the typed clients and the mock's schemas from spec/
    Gen {
        /// Write nothing; fail with a diff if a generated file is stale or missing, or if there is an unexpected one
        #[arg(long)]
        check: bool,
    },
    /// Check the descriptions in spec/, and the wording of the repository
    Lint,
    /// Compare spec/ with Coze's own documents, field by field
    Drift(drift::Options),
    /// Run the official SDKs and coze-auth against the mock, and compare their requests
    Conformance(conformance::Options),
    /// Run the benchmarks under benches/ and write RESULTS.md and results.json there
    Bench(bench::Options),
    /// Torture-test stored sign-ins, and write benches/TORTURE.md
    #[command(subcommand)]
    Torture(torture::Show),
}

/// Runs the command of the arguments.
#[must_use]
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Gen { check: false } => generate_all(),
        Command::Gen { check: true } => check_all(),
        Command::Lint => lint_all(),
        Command::Drift(options) => drift::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Torture(show) => torture::run(&show),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The results of reading a description, before progenitor processes it.
#[derive(Debug)]
pub struct Reading {
    /// The description as JSON.
    pub tree: Value,
    /// The findings of `lint`.
    pub findings: Vec<String>,
    /// The schemas that `gen` writes for the mock.
    pub schemas: Result<String>,
}

/// Reads a description. `source` is its path for errors and findings.
///
/// # Errors
///
/// If the text is not YAML or not OpenAPI 3.0: with the source, and the line if it is known.
pub fn read(source: &str, text: String) -> Result<Reading> {
    let document = Document::parse(source, text)?;
    let findings = lint::findings(&document)?;
    Ok(Reading {
        findings: findings.iter().map(ToString::to_string).collect(),
        schemas: mock_schemas::render(&document),
        tree: document.tree,
    })
}

fn generate_all() -> Result<ExitCode> {
    let root = root::find()?;
    let started = Instant::now();
    for file in generate::files(&root, SPECS)? {
        let state = match file.freshness(&root)? {
            Freshness::Current => "unchanged",
            Freshness::Stale { .. } | Freshness::Missing => {
                file.write(&root)?;
                "written"
            }
        };
        println!("{state:>9}  {}", file.path);
    }
    println!("in {} ms", started.elapsed().as_millis());
    Ok(ExitCode::SUCCESS)
}

fn check_all() -> Result<ExitCode> {
    let root = root::find()?;
    let mut stale = 0;
    for file in generate::files(&root, SPECS)? {
        let present = match file.freshness(&root)? {
            Freshness::Current => continue,
            Freshness::Stale { present } => present,
            Freshness::Missing => String::new(),
        };
        stale += 1;
        print!("{}", file.diff(&present));
    }
    if stale != 0 {
        eprintln!(
            "{stale} generated file(s) differ from spec/: run `cargo xtask gen` and commit the result"
        );
        return Ok(ExitCode::FAILURE);
    }
    let strays = generate::strays(&root, SPECS)?;
    if !strays.is_empty() {
        eprintln!(
            "without a description in SPECS: {}; delete them, or add the description to SPECS in xtask/src/spec.rs",
            strays.join(", ")
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("generated files are up to date");
    Ok(ExitCode::SUCCESS)
}

fn lint_all() -> Result<ExitCode> {
    let root = root::find()?;
    let mut count = 0;
    for spec in SPECS {
        let document = Document::read(&root, spec.source)?;
        for finding in lint::findings(&document)? {
            println!("{finding}");
            count += 1;
        }
    }
    for finding in words::findings(&root)? {
        println!("{finding}");
        count += 1;
    }
    if count == 0 {
        println!("{} spec(s), no findings", SPECS.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{count} finding(s)");
    Ok(ExitCode::FAILURE)
}
