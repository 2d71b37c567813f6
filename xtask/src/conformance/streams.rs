//! How each SDK handles a faulty event stream: `tests/conformance/streams.json`, and the same as a table, `STREAMS.md`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::mock::Mock;
use super::{Driver, OURS, Outcome, Row, SDKS, recorded};

/// The flow that a driver runs for each case.
const FLOW: &str = "stream";

/// The number of events before the fault.
const EVENTS_BEFORE: usize = 3;

struct Case {
    name: &'static str,
    what: &'static str,
    /// The `stream` of the mock's `/_mock/faults`.
    script: fn() -> Value,
    ends_well: bool,
}

const CASES: [Case; 6] = [
    Case {
        name: "complete",
        what: "complete, with `done`",
        script: || json!({}),
        ends_well: true,
    },
    Case {
        name: "cut",
        what: "ends after three events, without `done`",
        script: || json!({"end": {"cut": EVENTS_BEFORE}}),
        ends_well: false,
    },
    Case {
        name: "reset",
        what: "connection reset after three events",
        // A client may lose data that arrived before the reset and was not read.
        script: || json!({"end": {"reset": EVENTS_BEFORE}, "pause_millis": 200}),
        ends_well: false,
    },
    Case {
        name: "comment",
        what: "a comment line, `:keepalive`, before each event",
        script: || json!({"comments": true}),
        ends_well: true,
    },
    Case {
        name: "error_event",
        what: "an `error` event after three events",
        script: || json!({"end": {"error": {"after": EVENTS_BEFORE, "code": 4016, "msg": "busy"}}}),
        ends_well: false,
    },
    Case {
        name: "json",
        what: "JSON with code 4000 and status 200 in place of the stream",
        script: || json!({"content": {"refused": {"code": 4000, "msg": "wrong parameter"}}}),
        ends_well: false,
    },
];

/// What a caller of an SDK sees, by case.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Seen {
    /// The name and the version of the SDK.
    sdk: String,
    cases: BTreeMap<String, Stream>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Stream {
    /// The events that the caller receives, as the SDK names them.
    events: Vec<String>,
    /// The error that the caller gets; `null` if the stream ends like a complete one.
    error: Option<Failure>,
    /// The number of chats that the SDK requested.
    #[serde(default)]
    requests: usize,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Failure {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    /// Coze's error code, if the error has it as a property.
    code: Value,
    /// Whether the error has the property.
    log_id: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chat_id: Option<bool>,
}

/// Runs every case.
pub(super) fn run(driver: &mut Driver, mock: &Mock) -> Result<Seen> {
    let base = mock.ready()["coze_api_base"].as_str().unwrap_or_default();
    let mut cases = BTreeMap::new();
    for case in &CASES {
        let about = || format!("the stream {}", case.name);
        mock.plan(
            &json!({"fault": {"stream": (case.script)()}, "target": {"endpoint": "create_chat"}}),
        )
        .with_context(about)?;
        let before = mock.request_count()?;
        let answer = driver.ask(FLOW).with_context(about)?;
        ensure!(
            answer.outcome == Outcome::Pass,
            "{}: {}",
            about(),
            answer.detail
        );
        let mut seen: Stream = serde_json::from_str(&answer.detail).with_context(about)?;
        seen.requests = mock.requests_since(before)?.len();
        if let Some(error) = &mut seen.error {
            error.message = without_ids(&error.message.replace(base, "<mock>"));
        }
        cases.insert(case.name.to_owned(), seen);
    }
    Ok(Seen {
        sdk: format!("{} {}", driver.sdk, driver.version),
        cases,
    })
}

/// Errors in our own results: an incomplete stream must end with an error, and a complete one without.
pub(super) fn faults(seen: &Seen) -> Vec<String> {
    let of = |name: &str| seen.cases.get(name);
    let mut faults = Vec::new();
    for case in &CASES {
        let Some(stream) = of(case.name) else {
            faults.push(format!("{} did not run", case.name));
            continue;
        };
        if case.ends_well != stream.error.is_none() {
            faults.push(format!("{}: the error is {:?}", case.name, stream.error));
        }
        let all = of("complete").map_or(0, |complete| complete.events.len());
        let wanted = match case.name {
            _ if case.ends_well => all,
            "json" => 0,
            _ => EVENTS_BEFORE,
        };
        if stream.events.len() != wanted || all <= EVENTS_BEFORE {
            faults.push(format!("{}: the events are {:?}", case.name, stream.events));
        }
        if stream.requests != 1 {
            faults.push(format!("{}: {} requests", case.name, stream.requests));
        }
    }
    faults
}

/// Ids differ between runs.
fn without_ids(message: &str) -> String {
    const SHORTEST: usize = 15;
    let mut shown = String::new();
    let mut word = String::new();
    let end_word = |word: &mut String, shown: &mut String| {
        let is_id = word.len() >= SHORTEST && word.contains(|c: char| c.is_ascii_digit());
        shown.push_str(if is_id { "<id>" } else { word });
        word.clear();
    };
    for character in message.chars() {
        if character.is_ascii_alphanumeric() {
            word.push(character);
        } else {
            end_word(&mut word, &mut shown);
            shown.push(character);
        }
    }
    end_word(&mut word, &mut shown);
    shown
}

/// Compares both files, or writes them if `update`.
pub(super) fn check(folder: &Path, rows: &[Row], update: bool) -> Result<bool> {
    let path = folder.join("streams.json");
    let found = recorded::with(&path, rows, |row| row.streams.clone())?;
    let is_same = recorded::check(&path, &recorded::json(&found)?, update)?;
    Ok(recorded::check(&folder.join("STREAMS.md"), &table(&found), update)? && is_same)
}

/// The table in Markdown.
fn table(found: &BTreeMap<String, Seen>) -> String {
    let ours = found.get(OURS);
    let others = SDKS.iter().filter_map(|sdk| found.get(sdk.name));
    let columns: Vec<_> = ours.into_iter().chain(others).collect();
    let mut text = String::from(
        "<!-- Written by `cargo xtask conformance --update`. Do not edit. -->\n\n\
         # What a caller sees of a stream that goes wrong\n\n\
         Each SDK asked the mock for a streamed chat, and the mock sent it as in the first column. All that a caller got to see is in \
         [streams.json](streams.json). `done`, where an SDK hands it on, is not counted.\n\n| stream |",
    );
    for seen in &columns {
        text.push_str(&format!(" {} |", seen.sdk));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len()));
    for case in &CASES {
        text.push_str(&format!("\n| {} |", case.what));
        for seen in &columns {
            let cell = seen.cases.get(case.name).map_or_else(String::new, cell);
            text.push_str(&format!(" {cell} |"));
        }
    }
    text.push('\n');
    text
}

fn cell(stream: &Stream) -> String {
    let count = |of: &dyn Fn(&str) -> bool| stream.events.iter().filter(|name| of(name)).count();
    let events = count(&|name| !matches!(name, "done" | "error"));
    let mut text = format!("{events} events");
    if count(&|name| name == "error") > 0 {
        text.push_str(", `error` as one more");
    }
    match &stream.error {
        None => text.push_str("; then the end, no error"),
        Some(error) => {
            let message = error.message.replace(['\n', '|', '`'], " ");
            text.push_str(&format!("; then `{}`: `{message}`", error.kind));
            let has_code = !error.code.is_null() && error.code != 0;
            let missing = (!has_code).then_some("code");
            let missing: Vec<_> = missing
                .into_iter()
                .chain((!error.log_id).then_some("log id"))
                .collect();
            if !missing.is_empty() {
                text.push_str(&format!(" (without {})", missing.join(", ")));
            }
        }
    }
    if stream.requests != 1 {
        text.push_str(&format!("; {} requests", stream.requests));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(events: usize, error: bool) -> Stream {
        Stream {
            events: vec!["conversation.message.delta".to_owned(); events],
            error: error.then(|| Failure {
                kind: "Interrupted".to_owned(),
                message: "cut".to_owned(),
                code: Value::Null,
                log_id: true,
                chat_id: Some(true),
            }),
            requests: 1,
        }
    }

    fn good() -> Seen {
        let cases = CASES.iter().map(|case| {
            let events = match case.name {
                _ if case.ends_well => 5,
                "json" => 0,
                _ => EVENTS_BEFORE,
            };
            (case.name.to_owned(), seen(events, !case.ends_well))
        });
        Seen {
            sdk: "coze 1".to_owned(),
            cases: cases.collect(),
        }
    }

    #[test]
    fn ours_fails_if_a_cut_stream_ends_well_or_a_comment_is_an_error() {
        assert_eq!(faults(&good()), Vec::<String>::new());
        for (case, wrong) in [
            ("cut", seen(EVENTS_BEFORE, false)),
            ("comment", seen(5, true)),
            ("comment", seen(4, false)),
            ("json", seen(1, true)),
            (
                "reset",
                Stream {
                    requests: 2,
                    ..seen(EVENTS_BEFORE, true)
                },
            ),
        ] {
            let mut broken = good();
            broken.cases.insert(case.to_owned(), wrong);
            let faults = faults(&broken);
            assert!(
                faults.len() == 1 && faults[0].starts_with(case),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn ids_are_not_shown_and_words_are() {
        assert_eq!(
            without_ids("log id 0179526600000A1B2C, incomprehensibilities, code 700012006"),
            "log id <id>, incomprehensibilities, code 700012006"
        );
    }

    #[test]
    fn a_cell_says_how_a_stream_ended() {
        let mut stream = seen(3, false);
        stream
            .events
            .extend(["error".to_owned(), "done".to_owned()]);
        assert_eq!(
            cell(&stream),
            "3 events, `error` as one more; then the end, no error"
        );
        assert_eq!(
            cell(&seen(3, true)),
            "3 events; then `Interrupted`: `cut` (without code)"
        );
    }
}
