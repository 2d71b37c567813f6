//! Runs cargo for the programs of other packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// The cargo that started this program, without the variables that it sets for this package: build scripts that read
/// them would run again.
pub(crate) fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix));
        if of_this_package {
            command.env_remove(name);
        }
    }
    command
}

/// Builds the mock, and an example of `coze-tests` that uses it. The output contains their paths.
pub(crate) fn build_with_mock(root: &Path, example: &str) -> Command {
    let mut build = command();
    build.current_dir(root).args([
        "build",
        "--quiet",
        "--package=coze-mock",
        "--features=coze-mock/program",
        "--bin=coze-mock",
        "--package=coze-tests",
        "--example",
        example,
        "--message-format=json-render-diagnostics",
    ]);
    build
}

/// The path of a built program, from cargo's messages.
pub(crate) fn executable(messages: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no program {name}"))
}
