//! The wording of the repository: finds phrases of `xtask/words.txt` in prose, messages and names.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Files and folders that are checked.
const CHECKED: &[&str] = &[
    ".ci",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "README.zh-CN.md",
    "api",
    "auth",
    "benches",
    "cli",
    "credentials",
    "docs",
    "examples",
    "fuzz",
    "mock",
    "spec",
    "stores",
    "tests",
    "wire",
    "xtask",
];

const EXTENSIONS: &[&str] = &["md", "rs", "sh", "toml", "yaml"];

/// Names that are skipped: builds, recorded inputs, and tables that programs generate from recorded figures and messages.
const SKIPPED: &[&str] = &[
    "FAULTS.md",
    "RESULTS.md",
    "TORTURE.md",
    "corpus",
    "generated",
    "snapshots",
    "target",
];

struct Phrase {
    /// In lower case, between spaces.
    needle: String,
    text: &'static str,
    better: &'static str,
}

/// All findings in the workspace, as `file:line: message`.
pub(crate) fn findings(root: &Path) -> Result<Vec<String>> {
    let phrases = phrases();
    let mut found = Vec::new();
    for entry in CHECKED {
        check_path(root, entry, &phrases, &mut found)?;
    }
    Ok(found)
}

fn phrases() -> Vec<Phrase> {
    include_str!("../words.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(text, better)| Phrase {
            needle: format!(" {text} "),
            text,
            better,
        })
        .collect()
}

fn check_path(
    root: &Path,
    relative: &str,
    phrases: &[Phrase],
    found: &mut Vec<String>,
) -> Result<()> {
    let path = root.join(relative);
    let cannot = || format!("cannot read {}", path.display());
    if path.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).with_context(cannot)? {
            names.push(entry.with_context(cannot)?.file_name());
        }
        names.sort();
        for name in names.iter().filter_map(|name| name.to_str()) {
            if !SKIPPED.contains(&name) {
                check_path(root, &format!("{relative}/{name}"), phrases, found)?;
            }
        }
    } else if path.is_file() && is_checked(&path, relative) {
        let text = fs::read_to_string(&path).with_context(cannot)?;
        for (index, line) in text.lines().enumerate() {
            for phrase in in_line(line, phrases) {
                found.push(format!(
                    "{relative}:{}: \"{}\"; better: {}",
                    index + 1,
                    phrase.text,
                    phrase.better
                ));
            }
        }
    }
    Ok(())
}

fn is_checked(path: &Path, relative: &str) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.map_or(relative.starts_with(".ci/"), |extension| {
        EXTENSIONS.contains(&extension)
    })
}

/// The phrases in a line, each at word boundaries and not across punctuation. Names count too: an underscore separates words.
fn in_line<'p>(line: &str, phrases: &'p [Phrase]) -> impl Iterator<Item = &'p Phrase> {
    let mut words = String::from(" ");
    for c in line.replace("dead_code", "").chars() {
        match c {
            '_' | '-' | ' ' => words.push(' '),
            c if c.is_alphanumeric() || c == '\'' => words.extend(c.to_lowercase()),
            _ => words.push_str(" . "),
        }
    }
    words.push(' ');
    phrases
        .iter()
        .filter(move |phrase| words.contains(&phrase.needle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    fn texts(line: &str) -> Vec<&'static str> {
        in_line(line, &phrases())
            .map(|phrase| phrase.text)
            .collect()
    }

    #[test]
    fn phrases_are_found_in_prose_and_in_names() {
        let once = concat!("works", " ", "once");
        assert_eq!(texts(&format!("/// A code {once}.")), [once]);
        assert_eq!(texts(concat!("fn a_code_works", "_once() {")), [once]);
        assert_eq!(
            texts(concat!("// An", "ew: it begins.")),
            [concat!("an", "ew")]
        );
    }

    #[test]
    fn parts_of_words_and_code_are_not_found() {
        assert!(texts("a deadline, newer release, amended, #[allow(dead_code)]").is_empty());
        assert!(texts("json!({\"error\": word}), client.at(rest)").is_empty());
    }

    #[test]
    fn every_line_has_a_phrase_and_a_better_one() {
        let phrases = phrases();
        let lines = include_str!("../words.txt").lines().count();
        assert_eq!(phrases.len() + 1, lines, "a line without ` = `");
        assert!(phrases.iter().all(|phrase| !phrase.better.is_empty()));
    }

    #[test]
    fn everything_that_is_checked_exists() {
        let root = root::find().expect("tests run in the workspace");
        for entry in CHECKED {
            assert!(root.join(entry).exists(), "{entry}");
        }
    }
}
