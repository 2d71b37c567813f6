//! Finds the workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The workspace of this program: the one in which cargo runs it (`CARGO_MANIFEST_DIR`,
/// set by `cargo run`), else the one around the current directory.
pub(crate) fn find() -> Result<PathBuf> {
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(manifest_dir) => PathBuf::from(manifest_dir),
        None => std::env::current_dir().context("cannot determine the current directory")?,
    };
    above(&start)
}

/// The closest folder at or above `start` whose `Cargo.toml` declares a workspace.
fn above(start: &Path) -> Result<PathBuf> {
    for folder in start.ancestors() {
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        if text.lines().any(|line| line.trim() == "[workspace]") {
            return Ok(folder.to_owned());
        }
    }
    bail!(
        "no Cargo.toml with [workspace] at or above {}; run this inside the workspace",
        start.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_finds_the_workspace_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let member = folder.path().join("member/src");
        std::fs::create_dir_all(&member).unwrap();
        std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
        std::fs::write(folder.path().join("member/Cargo.toml"), "[package]\n").unwrap();

        assert_eq!(above(&member).unwrap(), folder.path());
    }

    #[test]
    fn a_folder_outside_any_workspace_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();

        let error = above(folder.path()).unwrap_err().to_string();

        assert!(
            error.contains(&folder.path().display().to_string()),
            "{error}"
        );
        assert!(error.contains("[workspace]"), "{error}");
    }
}
