//! The facts of Coze's own documents, as committed under `spec/upstream/`, one per line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::facts::{self, Facts};

/// The folder of the snapshot, relative to the workspace.
pub(crate) const FOLDER: &str = "spec/upstream";

/// The name of the merged document as a source.
pub(crate) const MERGED: &str = "merged";

/// The files of the snapshot: from the documentation pages, and from the merged document.
const FILES: [&str; 2] = ["pages.json", "merged.json"];

/// The sources of each operation, each with its facts: the name of a documentation page, or [`MERGED`].
pub(crate) type Snapshot = BTreeMap<String, BTreeMap<String, Facts>>;

/// Where Coze's documents are.
#[derive(Args)]
pub(crate) struct Documents {
    /// Folder with one OpenAPI file per documentation page, named like the page
    #[arg(long)]
    pages: std::path::PathBuf,
    /// Coze's merged OpenAPI document
    #[arg(long)]
    merged: std::path::PathBuf,
}

/// Replaces the snapshot with the facts of `documents`.
pub(crate) fn import(root: &Path, documents: &Documents) -> Result<()> {
    let mut pages = Snapshot::new();
    let entries = std::fs::read_dir(&documents.pages)
        .with_context(|| format!("cannot read {}", documents.pages.display()))?;
    for entry in entries {
        let path = entry?.path();
        if let (Some(name), Some("yaml")) = (stem(&path), extension(&path)) {
            add(&mut pages, name, &path)?;
        }
    }
    if pages.is_empty() {
        bail!("there is no page in {}", documents.pages.display());
    }
    let mut merged = Snapshot::new();
    add(&mut merged, MERGED, &documents.merged)?;

    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for (file, snapshot) in FILES.into_iter().zip([pages, merged]) {
        let facts = snapshot.values().flat_map(BTreeMap::values);
        println!(
            "{FOLDER}/{file}: {} operations, {} facts",
            snapshot.len(),
            facts.map(BTreeMap::len).sum::<usize>()
        );
        let text = serde_json::to_string_pretty(&snapshot)? + "\n";
        std::fs::write(folder.join(file), text)
            .with_context(|| format!("cannot write {FOLDER}/{file}"))?;
    }
    Ok(())
}

/// Reads the committed snapshot.
pub(crate) fn read(root: &Path) -> Result<Snapshot> {
    let mut all = Snapshot::new();
    for file in FILES {
        let text = std::fs::read_to_string(root.join(FOLDER).join(file))
            .with_context(|| format!("cannot read {FOLDER}/{file}"))?;
        let snapshot: Snapshot =
            serde_json::from_str(&text).with_context(|| format!("{FOLDER}/{file}"))?;
        for (operation, sources) in snapshot {
            all.entry(operation).or_default().extend(sources);
        }
    }
    Ok(all)
}

fn add(snapshot: &mut Snapshot, source: &str, path: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let document: Value = serde_saphyr::from_str(&text)
        .with_context(|| format!("cannot parse {}", path.display()))?;
    for (operation, facts) in facts::of(&document) {
        let sources = snapshot.entry(operation).or_default();
        sources.insert(source.to_owned(), facts);
    }
    Ok(())
}

fn stem(path: &Path) -> Option<&str> {
    path.file_stem()?.to_str()
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}
