//! The recorded results of each SDK in a file of `tests/conformance/`, by its name. The results of an SDK that did not
//! run are kept.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};
use similar::TextDiff;

use super::{OURS, Row, SDKS, write};

/// The file's contents with these rows.
pub(super) fn with<T: DeserializeOwned>(
    path: &Path,
    rows: &[Row],
    of: impl Fn(&Row) -> T,
) -> Result<BTreeMap<String, T>> {
    let mut sdks: BTreeMap<String, T> = serde_json::from_str(&present(path, "{}")?)
        .with_context(|| format!("{} is damaged: delete it", path.display()))?;
    for row in rows {
        sdks.insert(row.name.to_owned(), of(row));
    }
    sdks.retain(|sdk, _| sdk == OURS || SDKS.iter().any(|known| known.name == sdk));
    Ok(sdks)
}

pub(super) fn json(sdks: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(sdks)? + "\n")
}

/// Whether the file has these contents; writes them if `update`.
pub(super) fn check(path: &Path, wanted: &str, update: bool) -> Result<bool> {
    let name = path.file_name().unwrap_or_default().display();
    let present = present(path, "")?;
    if present == wanted {
        println!("{name} matches what was found");
    } else if update {
        write(path, wanted)?;
        println!("  written  {name}");
    } else {
        let diff = TextDiff::from_lines(present.as_str(), wanted);
        print!("{}", diff.unified_diff().header("current", "expected"));
        eprintln!(
            "{name} differs: if that is intended, run `cargo xtask conformance --update` and commit the result"
        );
        return Ok(false);
    }
    Ok(true)
}

fn present(path: &Path, otherwise: &str) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(otherwise.to_owned()),
        read => read.with_context(|| format!("cannot read {}", path.display())),
    }
}
