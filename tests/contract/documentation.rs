//! Checks the statements of the documentation against the code.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

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
    let internal = ["COARSE_STEP", "NEVER"];
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

const README: &str = "README.md";
const README_IN_CHINESE: &str = "README.zh-CN.md";

fn readmes() -> [String; 2] {
    [README, README_IN_CHINESE].map(|name| std::fs::read_to_string(root().join(name)).unwrap())
}

/// The fenced blocks of code, with their languages.
fn blocks(text: &str) -> Vec<&str> {
    let parts: Vec<_> = text.split("```").collect();
    assert!(parts.len() % 2 == 1, "a block has no end");
    parts.into_iter().skip(1).step_by(2).collect()
}

/// The targets of a text's links.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1);
    targets
        .map(|rest| rest.split(')').next().unwrap())
        .collect()
}

/// The rows of a text's tables: how many cells, which code, which links.
fn rows(text: &str) -> Vec<(usize, Vec<&str>, Vec<&str>)> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.map(|row| (row.matches('|').count() - 1, quoted(row), links(row)))
        .collect()
}

#[test]
fn both_readmes_have_the_same_code() {
    let [english, chinese] = readmes();
    let expected = blocks(&english);
    assert!(expected.len() > 3, "{} blocks", expected.len());
    assert_eq!(blocks(&chinese), expected);
}

#[test]
fn tables_of_both_readmes_have_the_same_rows() {
    let [english, chinese] = readmes();
    let expected = rows(&english);
    assert!(expected.len() > 5, "{} rows", expected.len());
    assert_eq!(rows(&chinese), expected);
}

#[test]
fn both_readmes_link_to_each_other_and_to_the_same_files() {
    let [english, chinese] = readmes();
    assert_eq!(
        other_links(&chinese, README),
        other_links(&english, README_IN_CHINESE)
    );
}

/// What one of the two links to except the other, which it names in its first lines.
fn other_links<'t>(text: &'t str, other: &str) -> BTreeSet<&'t str> {
    let start: String = text.lines().take(3).collect();
    assert!(start.contains(&format!("]({other})")), "{start}");
    let mut links: BTreeSet<_> = links(text).into_iter().collect();
    links.remove(other);
    for link in links.iter().filter(|link| !link.contains("://")) {
        assert!(root().join(link).exists(), "{link}");
    }
    links
}
