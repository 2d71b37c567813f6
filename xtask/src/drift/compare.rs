//! Compares our operations with the sources of a snapshot, and the result with the list of deliberate differences.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Deserialize;

use super::facts::{AGAIN, ANY, Facts, Operations, WORD};
use super::snapshot::Snapshot;

/// The type of the side on which something is absent.
const ABSENT: &str = "absent";

/// The place of a finding about an operation as a whole, and its type.
const OPERATION: &str = "operation";

/// A difference between our description and Coze's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Method and path.
    pub(crate) operation: String,
    pub(crate) place: String,
    ours: String,
    /// The types of the sources, joined by `or`.
    upstream: String,
    /// The names of the sources that were compared.
    sources: String,
}

impl Finding {
    /// The text that `at` of an entry is matched against.
    fn subject(&self) -> String {
        format!("{} {}", self.operation, self.place)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}: ours {}, upstream {}",
            self.operation, self.place, self.ours, self.upstream
        )?;
        match self.sources.as_str() {
            "" => Ok(()),
            sources => write!(f, " ({sources})"),
        }
    }
}

/// The deliberate differences. In `at`, `*` stands for any text, but not for a word of an enum.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Differences {
    /// Places at which a source is wrong: its facts there and below are ignored.
    #[serde(default)]
    wrong_sources: Vec<WrongSource>,
    /// Deliberate findings.
    #[serde(default)]
    differences: Vec<Difference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrongSource {
    /// The name of a page, or `merged`; `*` as in `at`.
    wrong: String,
    at: Vec<String>,
    reason: String,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    at: Vec<String>,
    /// The words of the enum at each of these places.
    #[serde(default)]
    words: Vec<String>,
    ours: String,
    upstream: String,
    reason: String,
    source: String,
}

/// The findings that are not listed, and the errors of the list.
pub(crate) struct Outcome {
    pub(crate) findings: Vec<Finding>,
    /// Entries that no longer apply.
    pub(crate) unneeded: Vec<String>,
}

/// Compares `ours` with `snapshot`.
///
/// # Errors
///
/// If an entry has no reason or no source.
pub(crate) fn compare(
    ours: &Operations,
    snapshot: &Snapshot,
    differences: &Differences,
) -> Result<Outcome> {
    differences.check()?;
    let mut unneeded = Vec::new();
    let mut sources = snapshot.clone();
    for entry in &differences.wrong_sources {
        for at in &entry.at {
            let before = findings(ours, &sources);
            sources = without(sources, &entry.wrong, at);
            if findings(ours, &sources) == before {
                unneeded.push(format!("{} is wrong at {at}", entry.wrong));
            }
        }
    }
    let mut listed = BTreeSet::new();
    let findings = findings(ours, &sources);
    for entry in &differences.differences {
        for at in &entry.places() {
            let matching = findings.iter().enumerate().filter(|(_, finding)| {
                finding.ours == entry.ours
                    && finding.upstream == entry.upstream
                    && matches(at, &finding.subject())
            });
            let before = listed.len();
            listed.extend(matching.map(|(index, _)| index));
            if listed.len() == before {
                unneeded.push(format!(
                    "{at}: ours {}, upstream {}",
                    entry.ours, entry.upstream
                ));
            }
        }
    }
    let findings = findings
        .into_iter()
        .enumerate()
        .filter(|(index, _)| !listed.contains(index))
        .map(|(_, finding)| finding)
        .collect();
    Ok(Outcome { findings, unneeded })
}

impl Difference {
    /// The places, each with each of the words.
    fn places(&self) -> Vec<String> {
        if self.words.is_empty() {
            return self.at.clone();
        }
        let of_words = |at| self.words.iter().map(move |word| format!("{at} = {word}"));
        self.at.iter().flat_map(of_words).collect()
    }

    /// A place at which this entry is about any word of an enum, if there is one.
    fn any_word(&self) -> Option<String> {
        let is_about_words = [&self.ours, &self.upstream]
            .iter()
            .any(|type_| *type_ == WORD);
        let is_any = |at: &String| {
            let word = at.rsplit_once(" = ").map(|(_, word)| word);
            is_about_words && word.is_none_or(|word| word.contains('*'))
        };
        self.places().into_iter().find(is_any)
    }
}

impl Differences {
    fn check(&self) -> Result<()> {
        let wrong = self
            .wrong_sources
            .iter()
            .map(|w| (&w.at, &w.reason, &w.source));
        let meant = self
            .differences
            .iter()
            .map(|d| (&d.at, &d.reason, &d.source));
        for (at, reason, source) in wrong.chain(meant) {
            if at.is_empty() || reason.trim().is_empty() || source.trim().is_empty() {
                bail!(
                    "an entry needs `at`, a reason and a source: {}",
                    at.join(", ")
                );
            }
        }
        if let Some(at) = self.differences.iter().find_map(Difference::any_word) {
            bail!("an entry about words needs each word, not `*`: {at}");
        }
        Ok(())
    }
}

/// `snapshot` without the facts of `source` at and below `at`.
fn without(mut snapshot: Snapshot, source: &str, at: &str) -> Snapshot {
    for (operation, sources) in &mut snapshot {
        for (name, facts) in sources.iter_mut() {
            if matches(source, name) {
                let wrong: Vec<String> = facts
                    .keys()
                    .filter(|place| matches(at, &format!("{operation} {place}")))
                    .cloned()
                    .collect();
                facts.retain(|place, _| !wrong.iter().any(|w| w == place || is_below(place, w)));
            }
        }
    }
    snapshot
}

/// All differences, in order. Nothing is reported below a difference.
fn findings(ours: &Operations, snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    for (operation, facts) in ours {
        match snapshot.get(operation) {
            Some(sources) => of_operation(operation, facts, sources, &mut found),
            None => found.push(Finding {
                operation: operation.clone(),
                place: OPERATION.to_owned(),
                ours: OPERATION.to_owned(),
                upstream: ABSENT.to_owned(),
                sources: String::new(),
            }),
        }
    }
    let lacking = snapshot
        .iter()
        .filter(|(name, _)| !ours.contains_key(*name));
    found.extend(lacking.map(|(operation, sources)| Finding {
        operation: operation.clone(),
        place: OPERATION.to_owned(),
        ours: ABSENT.to_owned(),
        upstream: OPERATION.to_owned(),
        sources: names(sources),
    }));
    found
}

/// The names of the sources.
fn names(sources: &BTreeMap<String, Facts>) -> String {
    let names: Vec<&str> = sources.keys().map(String::as_str).collect();
    names.join(", ")
}

fn of_operation(
    operation: &str,
    ours: &Facts,
    sources: &BTreeMap<String, Facts>,
    found: &mut Vec<Finding>,
) {
    let places: BTreeSet<&String> = sources
        .values()
        .flat_map(Facts::keys)
        .chain(ours.keys())
        .collect();
    let mut done: Vec<&str> = Vec::new();
    for place in places {
        if done.iter().any(|done| is_below(place, done)) {
            continue;
        }
        let ours = ours.get(place).map(String::as_str);
        let upstream: BTreeSet<&str> = sources
            .values()
            .filter_map(|facts| facts.get(place))
            .map(String::as_str)
            .collect();
        match (ours, upstream.is_empty()) {
            (Some(AGAIN), false) if upstream.contains("object") => {}
            (Some("object"), false) if upstream.iter().all(|type_| *type_ == AGAIN) => {}
            (Some(_), false) if upstream.iter().all(|type_| *type_ == ANY) => {}
            (Some(ours), false) if upstream.contains(ours) => continue,
            _ => {
                let upstream: Vec<&str> = upstream.into_iter().collect();
                found.push(Finding {
                    operation: operation.to_owned(),
                    place: place.clone(),
                    ours: ours.unwrap_or(ABSENT).to_owned(),
                    upstream: match upstream.as_slice() {
                        [] => ABSENT.to_owned(),
                        types => types.join(" or "),
                    },
                    sources: names(sources),
                });
            }
        }
        done.push(place);
    }
}

/// Whether `place` is a part of `above`: a field, an item, a value or a word.
fn is_below(place: &str, above: &str) -> bool {
    place
        .strip_prefix(above)
        .is_some_and(|rest| rest.starts_with([' ', '.', '[', '{']))
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, pattern)) => text.strip_prefix(start).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(pattern, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::facts;

    /// An operation with a field, a word and a type to change.
    const OURS: &str = "
paths:
  /v1/messages:
    get:
      parameters:
        - {name: order, in: query, schema: {type: string, enum: [asc, desc]}}
      responses:
        '200':
          content:
            application/json:
              schema:
                properties:
                  data:
                    type: array
                    items: {properties: {id: {type: string}, size: {type: integer}}}
";

    fn operations(yaml: &str) -> Operations {
        facts::of(&serde_saphyr::from_str(yaml).unwrap())
    }

    fn snapshot(sources: &[(&str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for (name, yaml) in sources {
            for (operation, facts) in operations(yaml) {
                let sources = snapshot.entry(operation).or_default();
                sources.insert((*name).to_owned(), facts);
            }
        }
        snapshot
    }

    /// The findings and the unneeded entries, as lines.
    fn drift(ours: &str, sources: &[(&str, &str)], differences: &str) -> Vec<String> {
        let differences: Differences = serde_saphyr::from_str(differences).unwrap();
        let outcome = compare(&operations(ours), &snapshot(sources), &differences).unwrap();
        let findings = outcome.findings.iter().map(ToString::to_string);
        findings.chain(outcome.unneeded).collect()
    }

    fn drift_of(from: &str, to: &str) -> Vec<String> {
        assert!(OURS.contains(from), "no {from:?}");
        drift(&OURS.replace(from, to), &[("page", OURS)], "{}")
    }

    #[test]
    fn the_same_description_has_no_findings() {
        assert_eq!(drift_of("", ""), [""; 0]);
    }

    #[test]
    fn a_renamed_field_is_named_in_both_directions() {
        assert_eq!(
            drift_of("{id: ", "{message_id: "),
            [
                "GET /v1/messages: answer data[].id: ours absent, upstream string (page)",
                "GET /v1/messages: answer data[].message_id: ours string, upstream absent (page)",
            ]
        );
    }

    #[test]
    fn a_wrong_type_a_word_and_a_parameter_are_named() {
        assert_eq!(
            drift_of("{type: integer}", "{type: string}"),
            ["GET /v1/messages: answer data[].size: ours string, upstream integer (page)"]
        );
        assert_eq!(
            drift_of("[asc, desc]", "[asc]"),
            ["GET /v1/messages: query order = desc: ours absent, upstream word (page)"]
        );
        assert_eq!(
            drift_of("[asc, desc]", "[asc, desc, random]"),
            ["GET /v1/messages: query order = random: ours word, upstream absent (page)"]
        );
        assert_eq!(
            drift_of("in: query", "in: header"),
            [
                "GET /v1/messages: header order: ours string, upstream absent (page)",
                "GET /v1/messages: query order: ours absent, upstream string (page)",
            ]
        );
    }

    #[test]
    fn a_wrong_method_or_path_is_an_operation_that_coze_does_not_have() {
        assert_eq!(
            drift_of("    get:", "    post:"),
            [
                "POST /v1/messages: operation: ours operation, upstream absent",
                "GET /v1/messages: operation: ours absent, upstream operation (page)",
            ]
        );
        assert_eq!(
            drift_of("/v1/messages:", "/v1/message:"),
            [
                "GET /v1/message: operation: ours operation, upstream absent",
                "GET /v1/messages: operation: ours absent, upstream operation (page)",
            ]
        );
    }

    #[test]
    fn every_operation_of_coze_is_described_or_listed() {
        let cancel = OURS.replace("/v1/messages:", "/v1/messages/cancel:");
        let sources = [("page", OURS), ("cancel", &cancel)];

        assert_eq!(
            drift(OURS, &sources, "{}"),
            ["GET /v1/messages/cancel: operation: ours absent, upstream operation (cancel)"]
        );
        let listed = "differences: [{at: ['* /v1/messages/* operation'], ours: absent, upstream: operation, reason: r, source: s}]";
        assert_eq!(drift(OURS, &sources, listed), [""; 0]);
        assert_eq!(
            drift(OURS, &[("page", OURS)], listed),
            ["* /v1/messages/* operation: ours absent, upstream operation"]
        );
    }

    #[test]
    fn the_words_of_an_entry_are_those_that_differ() {
        let listed = "differences: [{at: ['* query order'], words: [random, newest], ours: word, upstream: absent, reason: r, source: s}]";
        let ours = |words: &str| OURS.replace("[asc, desc]", words);
        let sources = [("page", OURS)];

        assert_eq!(
            drift(&ours("[asc, desc, random, newest]"), &sources, listed),
            [""; 0]
        );
        assert_eq!(
            drift(&ours("[asc, desc, randon, newest]"), &sources, listed),
            [
                "GET /v1/messages: query order = randon: ours word, upstream absent (page)",
                "* query order = random: ours word, upstream absent",
            ]
        );
    }

    #[test]
    fn an_entry_about_any_word_is_refused() {
        for at in ["* query order = *", "* query order = a*", "* query *", "*"] {
            let entry = format!(
                "differences: [{{at: ['{at}'], ours: word, upstream: absent, reason: r, source: s}}]"
            );
            let differences: Differences = serde_saphyr::from_str(&entry).unwrap();

            let outcome = compare(&operations(OURS), &snapshot(&[]), &differences);

            let error = outcome.err().map(|error| error.to_string());
            assert!(
                error.is_some_and(|error| error.contains("needs each word")),
                "{at}"
            );
        }
    }

    #[test]
    fn below_a_missing_field_nothing_more_is_reported() {
        assert_eq!(
            drift_of("                  data:", "                  items:"),
            [
                "GET /v1/messages: answer data: ours absent, upstream array (page)",
                "GET /v1/messages: answer items: ours array, upstream absent (page)",
            ]
        );
    }

    #[test]
    fn a_type_is_that_of_any_source_unless_one_is_wrong() {
        let merged = OURS.replace("{type: integer}", "{type: string}");
        let sources = [("page", OURS), ("merged", merged.as_str())];

        assert_eq!(drift(OURS, &sources, "{}"), [""; 0]);
        assert_eq!(drift(&merged, &sources, "{}"), [""; 0]);
        let wrong =
            "wrong_sources: [{wrong: page, at: ['* answer data[].size'], reason: r, source: s}]";
        assert_eq!(
            drift(OURS, &sources, wrong),
            ["GET /v1/messages: answer data[].size: ours integer, upstream string (merged, page)"]
        );
    }

    #[test]
    fn a_field_of_any_source_is_described_unless_the_source_is_wrong() {
        let merged = OURS.replace("{id: ", "{kind: {type: string}, id: ");
        let sources = [("page", OURS), ("merged", merged.as_str())];

        assert_eq!(
            drift(OURS, &sources, "{}"),
            ["GET /v1/messages: answer data[].kind: ours absent, upstream string (merged, page)"]
        );
        let wrong = "wrong_sources: [{wrong: merged, at: ['GET /v1/messages answer data'], reason: r, source: s}]";
        assert_eq!(drift(OURS, &sources, wrong), [""; 0]);
        assert_eq!(
            drift(OURS, &[("page", OURS)], wrong),
            ["merged is wrong at GET /v1/messages answer data"],
            "an entry that does not apply"
        );
    }

    #[test]
    fn a_listed_difference_is_none_until_it_no_longer_applies() {
        let ours = OURS.replace("[asc, desc]", "[asc, desc, random, newest]");
        let listed = "differences: [{at: ['* query order = random', '* query order = newest'], ours: word, upstream: absent, reason: r, source: s}]";

        assert_eq!(drift(&ours, &[("page", OURS)], listed), [""; 0]);
        assert_eq!(
            drift(OURS, &[("page", OURS)], listed),
            [
                "* query order = random: ours word, upstream absent",
                "* query order = newest: ours word, upstream absent",
            ]
        );
        let other = OURS.replace("{id: {type: string}", "{id: {type: integer}");
        let other_type = "differences: [{at: ['* answer data[].id'], ours: boolean, upstream: string, reason: r, source: s}]";
        assert_eq!(
            drift(&other, &[("page", OURS)], other_type),
            [
                "GET /v1/messages: answer data[].id: ours integer, upstream string (page)",
                "* answer data[].id: ours boolean, upstream string",
            ],
            "an entry about something else at the same place"
        );
    }

    #[test]
    fn an_entry_without_a_reason_is_refused() {
        let entry =
            "differences: [{at: ['*'], ours: word, upstream: absent, reason: ' ', source: s}]";
        let differences: Differences = serde_saphyr::from_str(entry).unwrap();

        let outcome = compare(&Operations::new(), &Snapshot::new(), &differences);

        assert!(outcome.is_err_and(|error| error.to_string().contains("a reason and a source")));
    }

    #[test]
    fn what_is_inside_itself_is_compared_once() {
        let nested = |depth: &str| {
            format!(
                "
paths:
  /v1/folders:
    get:
      responses: {{'200': {{content: {{application/json: {{schema: {depth}}}}}}}}}
components:
  schemas:
    Folder: {{type: object, properties: {{inner: {{$ref: '#/components/schemas/Folder'}}}}}}
"
            )
        };
        let ours = nested("{$ref: '#/components/schemas/Folder'}");
        let deeper =
            nested("{type: object, properties: {inner: {$ref: '#/components/schemas/Folder'}}}");

        assert_eq!(drift(&ours, &[("page", &deeper)], "{}"), [""; 0]);
        assert_eq!(drift(&deeper, &[("page", &ours)], "{}"), [""; 0]);
    }
}
