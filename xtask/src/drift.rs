//! `cargo xtask drift`: compares our description of the API with Coze's own documents, field by field, in both
//! directions.
//!
//! Coze has two sources: a documentation page per operation, from which Coze's own generator made an OpenAPI file each,
//! and one merged OpenAPI document. `drift import` reads both and writes their facts to `spec/upstream/`. `drift`
//! compares those with our description:
//!
//! - A field, a parameter, a media type or an enum's word that any source has must be in ours, and vice versa.
//! - A type must be that of at least one of the sources.
//! - An operation that a source has beside ours (the first two parts of its path are the same) must be in ours.
//!
//! Every other difference is listed in `spec/differences.yaml`, with its reason and its source. An entry that no longer
//! applies is an error, too.

mod compare;
mod facts;
mod snapshot;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use self::compare::Differences;
use crate::document::Document;
use crate::{root, spec, walk};

const DIFFERENCES: &str = "spec/differences.yaml";

/// The files of this command in `spec/`.
pub(crate) const FILES: &[&str] = &[DIFFERENCES, snapshot::FOLDER];

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Replace the facts under spec/upstream/ with those of Coze's documents
    Import(snapshot::Documents),
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let root = root::find()?;
    match &options.command {
        Some(Command::Import(documents)) => {
            snapshot::import(&root, documents)?;
            Ok(ExitCode::SUCCESS)
        }
        None => check(&root),
    }
}

fn check(root: &Path) -> Result<ExitCode> {
    let document = Document::read(root, spec::API)?;
    let places = document.places()?;
    let ours = facts::of(&document.tree);
    let text = std::fs::read_to_string(root.join(DIFFERENCES))
        .with_context(|| format!("cannot read {DIFFERENCES}"))?;
    let differences: Differences = serde_saphyr::from_str(&text).context(DIFFERENCES)?;
    let outcome =
        compare::compare(&ours, &snapshot::read(root)?, &differences).context(DIFFERENCES)?;
    for finding in &outcome.findings {
        let (file, line) = places.of(&pointer(&finding.operation));
        println!("{file}:{line}: {finding}");
    }
    for entry in &outcome.unneeded {
        println!("{DIFFERENCES}: no longer applies: {entry}");
    }
    if outcome.findings.is_empty() && outcome.unneeded.is_empty() {
        println!("{} operations agree with Coze's documents", ours.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{} difference(s) from Coze's documents and {} entries that no longer apply: correct the description, or {DIFFERENCES}",
        outcome.findings.len(),
        outcome.unneeded.len()
    );
    Ok(ExitCode::FAILURE)
}

/// The position of `POST /v3/chat` in the description.
fn pointer(operation: &str) -> String {
    let (method, path) = operation.split_once(' ').unwrap_or_default();
    walk::join(&walk::join("/paths", path), &method.to_lowercase())
}
