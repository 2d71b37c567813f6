//! The maintainers' commands, run as `cargo xtask`.
//!
//! - `gen` turns each description in `spec/` into a typed client under `generated/` and, for those
//!   that the mock serves, into JSON Schemas under `mock/schemas/`.
//! - `gen --check` tells whether these files are up to date, and whether there are some of no description.
//! - `lint` holds the descriptions to the rules that the rest relies on.
//! - `conformance` runs the official SDKs against the mock.
//! - `bench` runs the benchmarks and writes `benches/RESULTS.md`.
//! - `torture` runs many processes at one stored sign-in, or kills them, and writes `benches/TORTURE.md`.
//!
//! This program depends on no crate of the workspace: it must build when generated code does not. Where it needs other
//! packages' programs, it builds and starts them.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what a command is for"
)]

mod bench;
mod cargo;
mod conformance;
mod document;
mod generate;
mod json_schema;
mod lint;
mod machine;
mod mock_schemas;
mod normalise;
mod place;
mod root;
mod torture;
mod walk;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::document::Document;
use crate::generate::Freshness;

/// Every spec, and what is made from it. A new one costs a line here and a crate skeleton under
/// `generated/`.
const SPECS: &[Spec] = &[
    Spec {
        name: "coze-oauth",
        client: "coze-oauth-client",
        mock_schemas: true,
    },
    Spec {
        name: "coze-api",
        client: "coze-api-client",
        mock_schemas: true,
    },
];

/// One description in `spec/`.
struct Spec {
    /// File name in `spec/`, without `.yaml`.
    name: &'static str,
    /// The crate under `generated/` that holds the typed client.
    client: &'static str,
    /// Whether the mock serves it, and so needs its schemas.
    mock_schemas: bool,
}

impl Spec {
    /// Path of the description, relative to the workspace.
    fn source(&self) -> String {
        format!("spec/{}.yaml", self.name)
    }
}

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
        /// Write nothing; fail with a diff if a generated file is stale or missing, or if one is of no description
        #[arg(long)]
        check: bool,
    },
    /// Hold spec/ to the rules that the generator and the mock rely on
    Lint,
    /// Run the official SDKs and coze-auth against the mock, and compare their requests
    Conformance(conformance::Options),
    /// Run the benchmarks under benches/ and write RESULTS.md and results.json there
    Bench(bench::Options),
    /// Torture stored sign-ins, and write benches/TORTURE.md
    #[command(subcommand)]
    Torture(torture::Show),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Gen { check: false } => generate_all(),
        Command::Gen { check: true } => check_all(),
        Command::Lint => lint_all(),
        Command::Conformance(options) => conformance::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Torture(show) => torture::run(&show),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// What the commands read of a description before progenitor sees it.
#[derive(Debug)]
pub struct Reading {
    /// The description as JSON.
    pub tree: Value,
    /// What `lint` prints, a finding in each.
    pub findings: Vec<String>,
    /// What `gen` writes for the mock.
    pub schemas: Result<String>,
}

/// Reads a description. `source` is its path, as errors and findings name it.
///
/// # Errors
///
/// When the text is not YAML, or not OpenAPI 3.0: with the source, and the line if there is one.
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
            "of no description that `cargo xtask gen` knows: {}; delete what is left over, or add the description to SPECS in xtask/src/main.rs",
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
        let document = Document::read(&root, &spec.source())?;
        for finding in lint::findings(&document)? {
            println!("{finding}");
            count += 1;
        }
    }
    if count == 0 {
        println!("{} spec(s), no findings", SPECS.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{count} finding(s) in spec/");
    Ok(ExitCode::FAILURE)
}
