//! `cargo xtask drift`: compares our description of the API with Coze's own documents, field by field, in both
//! directions.
//!
//! Coze has two sources: a documentation page per operation, from which Coze's own generator made an OpenAPI file each,
//! and one merged OpenAPI document. `drift import` reads both and writes their facts to `spec/upstream/`. `drift`
//! compares those with our description:
//!
//! - A field, a parameter, a media type or an enum's word that any source has must be in ours, and vice versa.
//! - A type must be that of at least one of the sources.
//! - An operation that any source has must be in ours, and vice versa.
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
use self::snapshot::Snapshot;
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
    let (upstream, differences) = known(root)?;
    let outcome = compare::compare(&ours, &upstream, &differences).context(DIFFERENCES)?;
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

/// The committed facts and differences.
fn known(root: &Path) -> Result<(Snapshot, Differences)> {
    let text = std::fs::read_to_string(root.join(DIFFERENCES))
        .with_context(|| format!("cannot read {DIFFERENCES}"))?;
    let differences = serde_saphyr::from_str(&text).context(DIFFERENCES)?;
    Ok((snapshot::read(root)?, differences))
}

/// The position of `POST /v3/chat` in the description.
fn pointer(operation: &str) -> String {
    let (method, path) = operation.split_once(' ').unwrap_or_default();
    walk::join(&walk::join("/paths", path), &method.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::facts::Operations;
    use super::*;

    struct Known {
        ours: Operations,
        upstream: Snapshot,
        differences: Differences,
    }

    impl Known {
        fn read() -> Self {
            let root = root::find().unwrap();
            let (upstream, differences) = known(&root).unwrap();
            Self {
                ours: facts::of(&Document::read(&root, spec::API).unwrap().tree),
                upstream,
                differences,
            }
        }

        /// The findings and the unneeded entries.
        fn drift(&self, ours: &Operations) -> Vec<String> {
            let outcome = compare::compare(ours, &self.upstream, &self.differences).unwrap();
            let findings = outcome.findings.iter().map(ToString::to_string);
            findings.chain(outcome.unneeded).collect()
        }
    }

    #[test]
    fn the_description_agrees_with_cozes_documents() {
        let known = Known::read();

        assert_eq!(known.drift(&known.ours), [""; 0]);
    }

    #[test]
    fn an_operation_that_is_left_out_is_reported() {
        let known = Known::read();

        for operation in known.ours.keys() {
            let mut ours = known.ours.clone();
            ours.remove(operation);
            assert!(!known.drift(&ours).is_empty(), "{operation}");
        }
    }

    #[test]
    fn a_misspelt_word_is_reported() {
        let known = Known::read();

        for (operation, word) in [
            ("GET /v3/chat/retrieve", "answer data.status = canceled"),
            ("GET /v3/chat/message/list", "answer data[].role = user"),
            ("POST /v3/chat", "stream data.type = verbose"),
            ("GET /v1/conversations", "query sort_order = DESC"),
        ] {
            let mut ours = known.ours.clone();
            let facts = ours.get_mut(operation).unwrap();
            let type_ = facts.remove(word).unwrap();
            facts.insert(format!("{word}x"), type_);
            let finding = format!("{operation}: {word}x: ours word, upstream absent");
            let found = known.drift(&ours);
            assert!(
                found.iter().any(|line| line.starts_with(&finding)),
                "{finding}: {found:?}"
            );
        }
    }
}
