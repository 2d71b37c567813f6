//! The text of a description in `spec/`: what the maintainers' commands read of it.

use std::collections::BTreeSet;

use serde_json::Value;

const SOURCE: &str = "spec/small.yaml";

/// Reads any text as a description, and asserts:
///
/// - An error names the file, and says something.
/// - A finding names a line that there is.
/// - JSON is YAML: what was read, written as JSON, reads the same, with the same findings and the same schemas for the mock.
pub fn check(text: &str) {
    let reading = match xtask::read(SOURCE, text.to_owned()) {
        Ok(reading) => reading,
        Err(error) => {
            let error = format!("{error:#}");
            assert!(error.contains(SOURCE), "{error} {text:?}");
            assert!(error.len() > SOURCE.len() + 10, "{error} {text:?}");
            return;
        }
    };
    // In YAML, a carriage return alone ends a line too.
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = lines.lines().count();
    let mut messages = BTreeSet::new();
    for finding in &reading.findings {
        let place = finding
            .strip_prefix(SOURCE)
            .and_then(|f| f.strip_prefix(':'));
        let mut parts = place.unwrap_or_default().splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
        let (line, column) = (number(), number());
        let is_there = line.is_some_and(|line| (1..=lines.max(1)).contains(&line));
        assert!(is_there && column >= Some(1), "{finding} {text:?}");
        messages.insert(parts.next().unwrap_or_default().to_owned());
    }

    let json = reading.tree.to_string();
    let again = xtask::read(SOURCE, json.clone());
    let again = again.unwrap_or_else(|error| panic!("{error:#} {json} {text:?}"));
    assert_eq!(again.tree, reading.tree, "{text:?}");
    let read_again: BTreeSet<_> = again
        .findings
        .iter()
        .filter_map(|finding| finding.splitn(4, ':').nth(3))
        .map(str::to_owned)
        .collect();
    assert_eq!(read_again, messages, "{text:?}");
    match (reading.schemas, again.schemas) {
        (Ok(schemas), Ok(same)) => {
            assert_eq!(schemas, same, "{text:?}");
            let schemas: Value = serde_json::from_str(&schemas).expect("JSON was written");
            assert!(schemas["operations"].is_array(), "{text:?}");
        }
        (Err(error), Err(_)) => {
            let error = format!("{error:#}");
            assert!(error.contains(SOURCE), "{error} {text:?}");
        }
        _ => panic!("the schemas depend on how it is written: {text:?}"),
    }
}
