//! Snapshots: the requests of all SDKs beside each other, one file per flow, and what the mock objected to.
//!
//! What differs between runs and machines is replaced: secrets are redacted by the mock already, times and random values
//! here, and so are the versions of languages and systems. A file holds all SDKs; one that did not run this time keeps
//! what the file says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use similar::TextDiff;

use super::checks::{error_of, header_of, status_of};
use super::mock::Findings;
use super::{FLOWS, OURS, Outcome, Row, SDKS};

/// Headers of the transport, which say nothing about the SDK's use of the API.
const LEFT_OUT: [&str; 9] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-coze-client-user-agent",
];

/// Headers by which a client names itself: the same in every request, so they have a file of their own.
const NAMES: [&str; 2] = ["user-agent", "x-coze-client-user-agent"];

/// The field that says what a request asks for.
const REQUEST: &str = "request";
const ABSENT: &str = "<absent>";
const NO_REQUEST: &str = "<no request>";

/// What the mock saw of one SDK.
#[derive(Default)]
pub(super) struct Seen {
    flows: Vec<SeenFlow>,
    pub(super) findings: Findings,
}

struct SeenFlow {
    name: &'static str,
    /// Why, where the SDK lacks the flow.
    lacks: Option<String>,
    requests: Vec<Value>,
}

impl Seen {
    pub(super) fn add(
        &mut self,
        name: &'static str,
        (outcome, detail): &(Outcome, String),
        requests: Vec<Value>,
    ) {
        let lacks = (*outcome == Outcome::Lacks).then(|| detail.clone());
        self.flows.push(SeenFlow {
            name,
            lacks,
            requests,
        });
    }

    pub(super) fn last_request(&self) -> u64 {
        self.requests()
            .map(|(_, request)| number_of(request))
            .max()
            .unwrap_or_default()
    }

    /// Flow and request of the request with this number.
    pub(super) fn request(&self, number: &Value) -> Option<(&'static str, &Value)> {
        self.requests()
            .find(|(_, request)| request["number"] == *number)
    }

    fn requests(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.flows
            .iter()
            .flat_map(|flow| flow.requests.iter().map(|request| (flow.name, request)))
    }
}

fn number_of(request: &Value) -> u64 {
    request["number"].as_u64().unwrap_or_default()
}

/// A snapshot as it is and as it should be.
pub(super) struct File {
    pub(super) name: String,
    pub(super) present: String,
    pub(super) wanted: String,
}

impl File {
    pub(super) fn diff(&self) -> String {
        TextDiff::from_lines(&self.present, &self.wanted)
            .unified_diff()
            .context_radius(3)
            .header(
                &format!("tests/conformance/golden/{} (as it is)", self.name),
                &format!("tests/conformance/golden/{} (as seen now)", self.name),
            )
            .to_string()
    }
}

/// All snapshots.
pub(super) fn files(folder: &Path, rows: &[Row]) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for flow in FLOWS {
        let name = format!("{flow}.json");
        let present = present(folder, &name)?;
        let mut sides = match &present {
            Some(text) => parse::<Snapshot>(&name, text)?.into_sides(),
            None => BTreeMap::new(),
        };
        for row in rows {
            if let Some(side) = row.seen.side(flow) {
                sides.insert(row.name.to_owned(), side);
            }
        }
        sides.retain(|sdk, _| is_known(sdk));
        files.push(File {
            wanted: print(&Snapshot::compare(flow, sides))?,
            name,
            present: present.unwrap_or_default(),
        });
    }
    files.push(per_sdk(folder, "clients.json", rows, |row| {
        clients(&row.seen)
    })?);
    files.push(per_sdk(folder, "violations.json", rows, |row| {
        objections(&row.seen)
    })?);
    Ok(files)
}

/// A file with one entry per SDK.
fn per_sdk<T: Serialize + DeserializeOwned>(
    folder: &Path,
    name: &str,
    rows: &[Row],
    entry: impl Fn(&Row) -> T,
) -> Result<File> {
    let present = present(folder, name)?;
    let mut entries: BTreeMap<String, T> = match &present {
        Some(text) => parse(name, text)?,
        None => BTreeMap::new(),
    };
    for row in rows {
        entries.insert(row.name.to_owned(), entry(row));
    }
    entries.retain(|sdk, _| is_known(sdk));
    Ok(File {
        name: name.to_owned(),
        present: present.unwrap_or_default(),
        wanted: print(&entries)?,
    })
}

fn is_known(sdk: &str) -> bool {
    sdk == OURS || SDKS.iter().any(|known| known.name == sdk)
}

fn present(folder: &Path, name: &str) -> Result<Option<String>> {
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| {
        format!(
            "tests/conformance/golden/{name} is not a snapshot: delete it and run with --update"
        )
    })
}

fn print(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

/// What one SDK did in a flow.
enum Side {
    Requests(Vec<Fields>),
    Lacks(String),
}

/// A request as a flat list: `body/client_id`, `header/authorization`, `jwt/claims/aud`.
type Fields = BTreeMap<String, Value>;

/// A snapshot of a flow.
#[derive(Deserialize, Serialize)]
struct Snapshot {
    flow: String,
    /// The SDKs that have it.
    sdks: BTreeSet<String>,
    /// The others, and why.
    lacks: BTreeMap<String, String>,
    requests: Vec<Compared>,
}

/// One request of all SDKs: what they have in common, and what not.
#[derive(Deserialize, Serialize)]
struct Compared {
    /// Method and path: one text, or one per SDK where they differ.
    request: Value,
    same: Fields,
    differ: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Snapshot {
    fn compare(flow: &str, sides: BTreeMap<String, Side>) -> Self {
        let mut lacks = BTreeMap::new();
        let mut all = BTreeMap::new();
        for (sdk, side) in sides {
            match side {
                Side::Requests(requests) => {
                    all.insert(sdk, requests);
                }
                Side::Lacks(why) => {
                    lacks.insert(sdk, why);
                }
            }
        }
        let most = all.values().map(Vec::len).max().unwrap_or_default();
        Self {
            flow: flow.to_owned(),
            sdks: all.keys().cloned().collect(),
            lacks,
            requests: (0..most).map(|at| Compared::of(&all, at)).collect(),
        }
    }

    fn into_sides(self) -> BTreeMap<String, Side> {
        let mut sides: BTreeMap<String, Side> = self
            .lacks
            .into_iter()
            .map(|(sdk, why)| (sdk, Side::Lacks(why)))
            .collect();
        for sdk in self.sdks {
            let requests = self
                .requests
                .iter()
                .filter_map(|compared| compared.of_sdk(&sdk));
            sides.insert(sdk.clone(), Side::Requests(requests.collect()));
        }
        sides
    }
}

impl Compared {
    fn of(all: &BTreeMap<String, Vec<Fields>>, at: usize) -> Self {
        let made: BTreeMap<&String, &Fields> = all
            .iter()
            .filter_map(|(sdk, requests)| Some((sdk, requests.get(at)?)))
            .collect();
        let names: BTreeSet<&String> = made.values().flat_map(|fields| fields.keys()).collect();
        let (mut same, mut differ) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let values: BTreeMap<String, Value> = made
                .iter()
                .map(|(sdk, fields)| {
                    let value = fields.get(name).cloned();
                    ((*sdk).clone(), value.unwrap_or_else(|| ABSENT.into()))
                })
                .collect();
            match only(&values) {
                Some(value) => {
                    same.insert(name.clone(), value.clone());
                }
                None => {
                    differ.insert(name.clone(), values);
                }
            }
        }
        // First in the file, as it says what the rest is about.
        let requests: BTreeMap<String, Value> = all
            .keys()
            .map(|sdk| {
                let request = made.get(sdk).and_then(|fields| fields.get(REQUEST));
                (
                    sdk.clone(),
                    request.cloned().unwrap_or_else(|| NO_REQUEST.into()),
                )
            })
            .collect();
        same.remove(REQUEST);
        differ.remove(REQUEST);
        Self {
            request: match only(&requests) {
                Some(request) => request.clone(),
                None => Value::Object(requests.into_iter().collect()),
            },
            same,
            differ,
        }
    }

    /// The request of one SDK, if it made one here.
    fn of_sdk(&self, sdk: &str) -> Option<Fields> {
        let request = match &self.request {
            Value::Object(requests) => requests.get(sdk)?,
            request => request,
        };
        if request == NO_REQUEST {
            return None;
        }
        let mut fields = self.same.clone();
        fields.insert(REQUEST.into(), request.clone());
        for (name, values) in &self.differ {
            match values.get(sdk) {
                Some(value) if value != ABSENT => {
                    fields.insert(name.clone(), value.clone());
                }
                _ => {}
            }
        }
        Some(fields)
    }
}

/// The value that all have.
fn only(values: &BTreeMap<String, Value>) -> Option<&Value> {
    let mut values = values.values();
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

impl Seen {
    fn side(&self, flow: &str) -> Option<Side> {
        let seen = self.flows.iter().find(|seen| seen.name == flow)?;
        if let Some(why) = &seen.lacks {
            return Some(Side::Lacks(why.clone()));
        }
        let mut requests: Vec<Fields> = Vec::new();
        for request in &seen.requests {
            let fields = fields_of(request);
            // How often a device asks in vain is a matter of time.
            let again =
                error_of(request) == "authorization_pending" && requests.last() == Some(&fields);
            if !again {
                requests.push(fields);
            }
        }
        Some(Side::Requests(requests))
    }
}

/// A request without what differs from run to run.
fn fields_of(request: &Value) -> Fields {
    let mut fields = Fields::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    fields.insert(
        REQUEST.into(),
        format!("{} {}", text(&request["method"]), text(&request["path"])).into(),
    );
    let answer = format!("{} {}", status_of(request), error_of(request));
    fields.insert("answer".into(), answer.trim_end().into());
    for pair in request["query"].as_array().into_iter().flatten() {
        fields.insert(format!("query/{}", text(&pair[0])), still(&pair[1]));
    }
    for header in request["headers"].as_array().into_iter().flatten() {
        let name = text(&header[0]);
        if !LEFT_OUT.contains(&name.as_str()) {
            fields.insert(format!("header/{name}"), still(&header[1]));
        }
    }
    if !request["body"].is_null() {
        flatten("body", &request["body"], &mut fields);
    }
    if !request["jwt"].is_null() {
        fields.insert("header/authorization".into(), "Bearer <jwt>".into());
        flatten("jwt/header", &request["jwt"]["header"], &mut fields);
        claims(&request["jwt"]["claims"], request, &mut fields);
    }
    fields
}

/// One entry per leaf. A list of plain values is a leaf.
fn flatten(at: &str, value: &Value, fields: &mut Fields) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (name, value) in entries {
                flatten(&format!("{at}/{name}"), value, fields);
            }
        }
        other => {
            fields.insert(at.to_owned(), still(other));
        }
    }
}

/// The mock shows a secret by length and fingerprint: the fingerprint is another each time.
fn still(value: &Value) -> Value {
    let Some(text) = value.as_str() else {
        return value.clone();
    };
    match (text.find(" characters, sha256 "), text.ends_with('>')) {
        (Some(end), true) => format!("{} characters>", &text[..end]).into(),
        _ => value.clone(),
    }
}

fn claims(claims: &Value, request: &Value, fields: &mut Fields) {
    flatten("jwt/claims", claims, fields);
    let seconds = |name: &str| claims[name].as_i64();
    let mut replace = |name: &str, by: String| {
        fields.insert(format!("jwt/claims/{name}"), by.into());
    };
    if let Some(issued_at) = seconds("iat") {
        let now = request["at_unix_ms"].as_i64().unwrap_or_default() / 1000;
        // A busy machine may need a moment between the signature and the request.
        let shown = match now - issued_at {
            0..=30 => "<now>".to_owned(),
            ago => format!("<now - {ago}>"),
        };
        replace("iat", shown);
        if let Some(expires_at) = seconds("exp") {
            replace("exp", format!("<iat + {}>", expires_at - issued_at));
        }
    }
    if let Some(jti) = claims["jti"].as_str() {
        replace("jti", format!("<{} characters>", jti.chars().count()));
    }
    if let Some(audience) = claims["aud"].as_str() {
        let port = header_of(request, "host").and_then(|host| Some(host.rsplit_once(':')?.1));
        let behind = port.and_then(|port| audience.strip_suffix(port)?.strip_suffix(':'));
        if let Some(host) = behind {
            replace("aud", format!("{host}:<port>"));
        }
    }
}

/// How an SDK names itself, by kind of request. More than one value means that it does not always say the same.
fn clients(seen: &Seen) -> BTreeMap<String, BTreeMap<String, Vec<Value>>> {
    let mut found: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    for (_, request) in seen.requests() {
        let has_headers = request["headers"]
            .as_array()
            .is_some_and(|headers| !headers.is_empty());
        if !has_headers {
            continue; // a page that the person opened
        }
        let is_api = request["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/v1/"));
        let kind = if is_api { "api" } else { "oauth" };
        for name in NAMES {
            let value = match header_of(request, name) {
                None => ABSENT.into(),
                Some(value) if name == "user-agent" => without_versions(value).into(),
                Some(value) => client_without_versions(value),
            };
            let values = found
                .entry(kind.to_owned())
                .or_default()
                .entry(name.to_owned())
                .or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    found
}

/// `cozepy/0.20.0 python/3.11 linux/12` to `cozepy/0.20.0 python/<version> <os>/<version>`. The version of `coze-auth`
/// is that of this workspace: a release must not change a snapshot.
fn without_versions(user_agent: &str) -> String {
    let mut products = user_agent.split(' ').enumerate().map(|(at, product)| {
        let name = product.split('/').next().unwrap_or(product);
        match at {
            0 if name == "cozerust" => format!("{name}/<version>"),
            0 => product.to_owned(),
            1 => format!("{name}/<version>"),
            2 => "<os>/<version>".to_owned(),
            _ => product.to_owned(),
        }
    });
    let first = products.next().unwrap_or_default();
    products.fold(first, |text, product| text + " " + &product)
}

fn client_without_versions(client: &str) -> Value {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(client) else {
        return client.into();
    };
    if fields.get("lang").is_some_and(|lang| lang == "rust") {
        fields.insert("version".into(), "<version>".into());
    }
    for (name, by) in [
        ("lang_version", "<version>"),
        ("os_name", "<os>"),
        ("os_version", "<version>"),
    ] {
        if let Some(value) = fields.get_mut(name) {
            *value = by.into();
        }
    }
    fields.sort_keys();
    Value::Object(fields)
}

/// What the mock objected to.
#[derive(Deserialize, Serialize)]
struct Objections {
    violations: Vec<Objection>,
    notes: Vec<Objection>,
}

#[derive(Deserialize, PartialEq, Serialize)]
struct Objection {
    place: String,
    rule: String,
    /// The word under which lenient mode let it pass.
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
            None => "outside of all flows".to_owned(),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    }

    fn three_sides() -> BTreeMap<String, Side> {
        BTreeMap::from([
            (
                "java".to_owned(),
                Side::Requests(vec![
                    fields(&[("request", "GET /a"), ("body/x", "1")]),
                    fields(&[("request", "GET /b")]),
                ]),
            ),
            (
                "node".to_owned(),
                Side::Requests(vec![fields(&[("request", "GET /a")])]),
            ),
            ("python".to_owned(), Side::Lacks("no argument".to_owned())),
        ])
    }

    #[test]
    fn what_differs_stands_beside_each_other() {
        let snapshot = Snapshot::compare("web", three_sides());

        assert_eq!(snapshot.requests[0].request, "GET /a");
        assert_eq!(snapshot.requests[0].differ["body/x"]["node"], ABSENT);
        assert_eq!(
            snapshot.requests[1].request,
            json!({"java": "GET /b", "node": NO_REQUEST})
        );
        assert_eq!(snapshot.lacks["python"], "no argument");
    }

    #[test]
    fn a_snapshot_that_is_read_and_written_again_is_the_same() {
        let first = print(&Snapshot::compare("web", three_sides())).unwrap();

        let read: Snapshot = parse("web.json", &first).unwrap();
        let second = print(&Snapshot::compare("web", read.into_sides())).unwrap();

        assert_eq!(first, second);
    }

    #[test]
    fn nothing_of_a_run_or_a_machine_is_left_in_a_request() {
        let request = |time: i64, port: u16, mark: &str| {
            json!({
                "number": time,
                "at_unix_ms": time * 1000 + 7,
                "method": "POST",
                "path": "/token",
                "query": [["state", format!("<4 characters, sha256 {mark}>")]],
                "headers": [
                    ["host", format!("127.0.0.1:{port}")],
                    ["authorization", format!("Bearer <{port} characters, sha256 {mark}>")],
                    ["content-type", "application/json"],
                ],
                "body": {"code": format!("<43 characters, sha256 {mark}>"), "scope": null},
                "jwt": {
                    "header": {"alg": "RS256"},
                    "claims": {"aud": format!("127.0.0.1:{port}"), "iat": time - 1, "exp": time + 599, "jti": "x".repeat(36)},
                },
                "outcome": {"answered": {"status": 200, "error": null}},
            })
        };

        let one = fields_of(&request(1_800_000_000, 40_001, "0123456789ab"));
        let other = fields_of(&request(1_900_000_000, 51, "ba9876543210"));

        assert_eq!(one, other);
        assert_eq!(one["jwt/claims/exp"], "<iat + 600>");
        assert_eq!(one["jwt/claims/aud"], "127.0.0.1:<port>");
        assert_eq!(one["body/code"], "<43 characters>");
        assert_eq!(one["body/scope"], Value::Null);
        assert_eq!(one["answer"], "200");
    }

    #[test]
    fn versions_of_the_language_and_the_system_are_replaced_and_those_of_sdks_are_not() {
        assert_eq!(
            without_versions("cozepy/0.20.0 python/3.11 linux/12.11"),
            "cozepy/0.20.0 python/<version> <os>/<version>"
        );
        assert_eq!(
            without_versions("cozerust/0.1.0 rust/1.95.0 linux/6.1"),
            "cozerust/<version> rust/<version> <os>/<version>"
        );
        let client =
            client_without_versions(r#"{"version":"1.3.9","lang":"node","os_name":"darwin"}"#);
        assert_eq!(
            client,
            json!({"version": "1.3.9", "lang": "node", "os_name": "<os>"})
        );
    }
}
