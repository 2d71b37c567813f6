//! Descriptions in `spec/`, as the maintainers' commands parse them.

use std::collections::BTreeSet;

use serde_json::Value;

const SOURCE: &str = "spec/small.yaml";

/// Parses arbitrary text as a description, and asserts:
///
/// - An error names the file and has a message.
/// - A finding names an existing line.
/// - JSON is YAML: the parsed description, written as JSON, has the same findings and the same schemas for the mock.
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
    // In YAML, a single carriage return also ends a line.
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
        _ => panic!("the schemas depend on the notation: {text:?}"),
    }
}
