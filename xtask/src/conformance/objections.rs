//! The violations in the requests of each SDK: `tests/conformance/violations.json`.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mock::Findings;
use super::{Row, recorded};

/// The mock's observations of one SDK.
#[derive(Default)]
pub(super) struct Seen {
    requests: Vec<(&'static str, Value)>,
    pub(super) findings: Findings,
}

impl Seen {
    pub(super) fn add(&mut self, flow: &'static str, requests: Vec<Value>) {
        let requests = requests.into_iter().map(|request| (flow, request));
        self.requests.extend(requests);
    }

    pub(super) fn last_request(&self) -> u64 {
        let numbers = self.requests.iter().map(|(_, request)| &request["number"]);
        numbers.filter_map(Value::as_u64).max().unwrap_or_default()
    }

    /// The flow and the request with this number.
    pub(super) fn request(&self, number: &Value) -> Option<(&'static str, &Value)> {
        let mut requests = self.requests.iter();
        let (flow, request) = requests.find(|(_, request)| request["number"] == *number)?;
        Some((flow, request))
    }
}

/// Compares the violations with those that are recorded, or records them if `update`.
pub(super) fn check(folder: &Path, rows: &[Row], update: bool) -> Result<bool> {
    let path = folder.join("violations.json");
    let sdks = recorded::with(&path, rows, |row| objections(&row.seen))?;
    recorded::check(&path, &recorded::json(&sdks)?, update)
}

/// The recorded violations.
#[derive(Deserialize, Serialize)]
struct Objections {
    violations: Vec<Objection>,
    notes: Vec<Objection>,
}

#[derive(Deserialize, PartialEq, Serialize)]
struct Objection {
    place: String,
    rule: String,
    /// The tolerance by which lenient mode accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerated: Option<String>,
    /// The requests, by flow.
    #[serde(rename = "in")]
    places: Vec<String>,
}

fn objections(seen: &Seen) -> Objections {
    Objections {
        violations: grouped(seen, &seen.findings.violations, "rule"),
        notes: grouped(seen, &seen.findings.notes, "advice"),
    }
}

fn grouped(seen: &Seen, found: &[Value], rule: &str) -> Vec<Objection> {
    let mut groups: Vec<Objection> = Vec::new();
    for each in found {
        let text = |name: &str| each[name].as_str().map(str::to_owned);
        let what = Objection {
            place: text("place").unwrap_or_default(),
            rule: text(rule).unwrap_or_default(),
            tolerated: text("tolerated"),
            places: Vec::new(),
        };
        let place = match seen.request(&each["request"]) {
            Some((flow, request)) => format!(
                "{flow}: {} {}",
                request["method"].as_str().unwrap_or_default(),
                request["path"].as_str().unwrap_or_default()
            ),
            None => "outside of any flow".to_owned(),
        };
        let same = |group: &&mut Objection| {
            group.place == what.place
                && group.rule == what.rule
                && group.tolerated == what.tolerated
        };
        match groups.iter_mut().find(same) {
            Some(group) if group.places.contains(&place) => {}
            Some(group) => group.places.push(place),
            None => groups.push(Objection {
                places: vec![place],
                ..what
            }),
        }
    }
    groups
}
