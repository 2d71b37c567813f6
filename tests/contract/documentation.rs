//! Checks the statements of the documentation against the code.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The parts of a line between backticks.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_limit_is_the_one_in_the_code() {
    let table = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let mut rows = 0;
    for row in table.lines().filter(|line| line.contains(".rs` `")) {
        let last = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let [file, name, value] = quoted(last)[..] else {
            panic!("a row names a file, a constant and its value: {row}");
        };
        let code = std::fs::read_to_string(root().join(file)).unwrap_or_else(|_| panic!("{row}"));
        let is_it = code.lines().any(|line| {
            let declared = line.split_once(&format!("const {name}: "));
            declared.is_some_and(|(_, rest)| rest.ends_with(&format!(" = {value};")))
        });
        assert!(is_it, "{file} has no `{name} = {value}`: {row}");
        rows += 1;
    }
    assert!(rows > 20, "{rows} rows");
}

/// The constants of these files, except those that a caller can't notice.
#[test]
fn every_limit_of_retries_and_calls_is_in_the_table() {
    let table = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let internal = ["COARSE_STEP", "NEVER", "RATE_LIMIT"];
    for file in [
        "api/src/dispatch.rs",
        "api/src/wait.rs",
        "auth/src/retry.rs",
        "auth/src/refresh_window.rs",
    ] {
        let code = std::fs::read_to_string(root().join(file)).unwrap();
        let constants = code.lines().filter_map(|line| {
            let (_, declared) = line.split_once("const ")?;
            let (name, type_and_value) = declared.split_once(": ")?;
            (type_and_value.contains(" = ") && !internal.contains(&name)).then_some(name)
        });
        let constants: Vec<_> = constants.collect();
        assert!(!constants.is_empty(), "{file}");
        for name in constants {
            let row = format!("`{file}` `{name}` = ");
            assert!(
                table.contains(&row),
                "docs/limits.md lacks {name} of {file}"
            );
        }
    }
}
