//! The commands as a maintainer runs them, in a temporary workspace.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests panic on failure")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CLIENT: &str = "generated/coze-oauth-client/src/generated.rs";
const SPEC: &str = "spec/coze-oauth.yaml";

/// A workspace with only the descriptions of this repository.
struct Workspace(tempfile::TempDir);

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
        let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec");
        copy(&repository, &folder.path().join("spec"));
        Self(folder)
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    fn read(&self, relative: &str) -> String {
        std::fs::read_to_string(self.path(relative)).unwrap()
    }

    fn edit(&self, relative: &str, from: &str, to: &str) {
        let text = self.read(relative);
        assert!(text.contains(from), "{relative} has no {from:?}");
        std::fs::write(self.path(relative), text.replacen(from, to, 1)).unwrap();
    }

    fn xtask(&self, arguments: &[&str]) -> Output {
        xtask(self.0.path(), arguments)
    }
}

/// Copies a folder and everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

fn xtask(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .env_remove("CARGO_MANIFEST_DIR")
        .current_dir(folder)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_new_field_is_stale_until_it_is_generated() {
    let workspace = Workspace::new();
    let generated = workspace.xtask(&["gen"]);
    assert!(generated.status.success(), "{}", stderr(&generated));
    assert!(
        stdout(&generated).contains(CLIENT),
        "{}",
        stdout(&generated)
    );
    let current = workspace.xtask(&["gen", "--check"]);
    assert!(
        current.status.success(),
        "{}{}",
        stdout(&current),
        stderr(&current)
    );
    let before = workspace.read(CLIENT);

    workspace.edit(
        SPEC,
        "        duration_seconds:\n",
        "        colour:\n          description: A colour.\n          type: string\n        duration_seconds:\n",
    );
    let stale = workspace.xtask(&["gen", "--check"]);

    assert_eq!(stale.status.code(), Some(1));
    assert!(
        stdout(&stale).contains("\n+        pub colour: "),
        "{}",
        stdout(&stale)
    );
    assert!(
        stdout(&stale).contains("mock/schemas/coze-oauth.json"),
        "{}",
        stdout(&stale)
    );
    assert!(
        stderr(&stale).contains("cargo xtask gen"),
        "{}",
        stderr(&stale)
    );
    assert_eq!(workspace.read(CLIENT), before, "--check wrote");

    assert!(workspace.xtask(&["gen"]).status.success());
    assert!(workspace.read(CLIENT).contains("pub colour: "));
    assert!(workspace.xtask(&["gen", "--check"]).status.success());
}

#[test]
fn a_missing_generated_file_is_stale_too() {
    let workspace = Workspace::new();

    let missing = workspace.xtask(&["gen", "--check"]);

    assert_eq!(missing.status.code(), Some(1));
    assert!(stdout(&missing).contains(CLIENT), "{}", stdout(&missing));
    assert!(!workspace.path(CLIENT).exists(), "--check wrote");
}

#[test]
fn unexpected_files_are_found() {
    let workspace = Workspace::new();
    assert!(workspace.xtask(&["gen"]).status.success());
    for stray in [
        "spec/new.yaml",
        "generated/old-client/src/generated.rs",
        "mock/schemas/old.json",
    ] {
        let path = workspace.path(stray);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    let found = workspace.xtask(&["gen", "--check"]);

    assert_eq!(found.status.code(), Some(1));
    for stray in [
        "spec/new.yaml",
        "generated/old-client",
        "mock/schemas/old.json",
    ] {
        assert!(stderr(&found).contains(stray), "{}", stderr(&found));
    }
}

#[test]
fn lint_accepts_the_repository_and_reports_a_violation() {
    let workspace = Workspace::new();
    let clean = workspace.xtask(&["lint"]);
    assert!(clean.status.success(), "{}", stdout(&clean));

    workspace.edit(SPEC, "      operationId: issue_token\n", "");
    let broken = workspace.xtask(&["lint"]);

    assert_eq!(broken.status.code(), Some(1));
    let finding = stdout(&broken);
    assert!(finding.starts_with("spec/coze-oauth.yaml:"), "{finding}");
    assert!(finding.contains("operationId"), "{finding}");
}

#[test]
fn unreadable_descriptions_are_named() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path(SPEC), "openapi: [\n").unwrap();
    for arguments in [&["gen"][..], &["gen", "--check"], &["lint"]] {
        let output = workspace.xtask(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            stderr(&output).starts_with("error: spec/coze-oauth.yaml:"),
            "{}",
            stderr(&output)
        );
    }

    std::fs::remove_file(workspace.path(SPEC)).unwrap();
    let output = workspace.xtask(&["gen"]);
    assert!(
        stderr(&output).contains("spec/coze-oauth.yaml"),
        "{}",
        stderr(&output)
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let output = xtask(elsewhere.path(), &["gen"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("[workspace]"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_field_that_is_renamed_in_the_description_is_named_by_drift() {
    let workspace = Workspace::new();
    let agrees = workspace.xtask(&["drift"]);
    assert!(agrees.status.success(), "{}", stdout(&agrees));

    workspace.edit(
        "spec/api/message.yaml",
        "        reasoning_content:\n",
        "        reasoning_contents:\n",
    );
    let renamed = workspace.xtask(&["drift"]);

    assert_eq!(renamed.status.code(), Some(1));
    let found = stdout(&renamed);
    for finding in [
        "spec/api/message.yaml:",
        "GET /v1/conversation/message/retrieve: answer data.reasoning_content: ours absent, upstream string",
        "GET /v1/conversation/message/retrieve: answer data.reasoning_contents: ours string, upstream absent",
    ] {
        assert!(found.contains(finding), "{found}");
    }
}
