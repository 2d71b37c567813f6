//! The records of requests, without plaintext secrets.

use crate::endpoint::Endpoint;
use crate::jwt::{Jwt, JwtRecord};
use crate::limits::{self, bytes_of, bytes_of_fields};
use crate::printable::Name;
use crate::request::Incoming;
use crate::secret::redacted;
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// One request and its outcome. Secrets are replaced by their length and
/// [`fingerprint`](crate::fingerprint); a JWT is shown by its header and claims.
///
/// A record keeps at most 2 KiB of the path, 8 KiB of the query, 16 KiB of the headers, 16 KiB of a JWT and a body of 32 KiB;
/// whatever exceeds that is listed in [`dropped`](Self::dropped). `Display` writes one line of printable ASCII for a log.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RequestRecord {
    /// Counts up from 1.
    pub number: u64,
    /// The log id in the response's `x-tt-logid` header.
    pub log_id: String,
    /// When it arrived, by the mock's clock, in milliseconds since the UNIX epoch.
    pub at_unix_ms: u64,
    /// The endpoint, if there is one at this path.
    pub endpoint: Option<Endpoint>,
    /// The method.
    pub method: String,
    /// The path as sent, still percent-encoded.
    pub path: String,
    /// The query's pairs, decoded.
    pub query: Vec<(String, String)>,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, if it was JSON.
    pub body: Option<Value>,
    /// The JWT of the `Authorization` header, decoded whether or not it is valid.
    pub jwt: Option<JwtRecord>,
    /// The outcome.
    pub outcome: Outcome,
    /// The faults that were applied, as text.
    pub faults: Vec<String>,
    /// What was too large to keep, as text: `body: 70000 bytes`, `query: 800 of 900 pairs`. Empty for an ordinary request.
    pub dropped: Vec<String>,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// In progress, or abandoned by the client before the response.
    Open,
    /// Answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The error code: a word, or the number of a shape C error.
        error: Option<String>,
    },
    /// A fault closed the connection.
    ConnectionReset,
    /// A fault withheld the response.
    NeverAnswered,
}

impl fmt::Display for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = Shortened(&self.path);
        write!(f, "#{} {} {path}", self.number, self.method)?;
        if let Some(grant_type) = self.grant_type() {
            write!(
                f,
                " [{}]",
                Name(grant_type.rsplit(':').next().unwrap_or(grant_type))
            )?;
        }
        match &self.outcome {
            Outcome::Open => f.write_str(" -> open")?,
            Outcome::Answered {
                status,
                error: None,
            } => write!(f, " -> {status}")?,
            Outcome::Answered {
                status,
                error: Some(error),
            } => write!(f, " -> {status} {}", Name(error))?,
            Outcome::ConnectionReset => f.write_str(" -> connection reset")?,
            Outcome::NeverAnswered => f.write_str(" -> never answered")?,
        }
        for fault in &self.faults {
            write!(f, " ({})", Name(fault))?;
        }
        write!(f, " logid {}", self.log_id)
    }
}

/// A path for one line of a log: percent-encoded unless printable ASCII, and shortened.
struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 256;
        let start = prefix(self.0, SHOWN);
        write!(f, "{}", utf8_percent_encode(start, CONTROLS))?;
        if start.len() < self.0.len() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// The longest prefix of at most this many bytes that ends at a character boundary.
fn prefix(text: &str, at_most: usize) -> &str {
    &text[..text.floor_char_boundary(at_most)]
}

/// The first pairs that fit, and the total number if some do not.
fn pairs_that_fit(
    mut pairs: Vec<(String, String)>,
    at_most: usize,
    what: &str,
    dropped: &mut Vec<String>,
) -> Vec<(String, String)> {
    let of = pairs.len();
    let mut left = at_most;
    pairs.retain(|(name, value)| {
        let rest = left.checked_sub(48 + name.len() + value.len());
        left = rest.unwrap_or(left);
        rest.is_some()
    });
    // Otherwise thousands of dropped pairs would still occupy memory.
    pairs.shrink_to_fit();
    if pairs.len() < of {
        dropped.push(format!("{what}: {} of {of} pairs", of - pairs.len()));
    }
    pairs
}

impl RequestRecord {
    /// The record of a request that has just arrived.
    pub(crate) fn of(
        incoming: &Incoming,
        endpoint: Option<Endpoint>,
        log_id: String,
        at_unix_ms: u64,
        body: Option<&Value>,
        jwt: Option<&Jwt<'_>>,
    ) -> Self {
        let mut dropped = Vec::new();
        let path = prefix(&incoming.path, limits::RECORDED_PATH);
        if path.len() < incoming.path.len() {
            let bytes = incoming.path.len() - path.len();
            dropped.push(format!("path: {bytes} of {} bytes", incoming.path.len()));
        }
        let (query, headers) = (&incoming.query, &incoming.headers);
        let query = pairs_that_fit(
            redact_query(query),
            limits::RECORDED_QUERY,
            "query",
            &mut dropped,
        );
        let headers = pairs_that_fit(
            redact_headers(headers),
            limits::RECORDED_HEADERS,
            "headers",
            &mut dropped,
        );
        let body = body.map(redact_body).filter(|body| {
            let fits = bytes_of(body) <= limits::RECORDED_BODY;
            if !fits {
                let bytes = incoming.body.as_ref().map_or(0, Bytes::len);
                dropped.push(format!("body: {bytes} bytes"));
            }
            fits
        });
        if incoming.body.is_none() {
            let bytes = limits::BODY_BYTES;
            dropped.push(format!("body: more than {bytes} bytes, refused"));
        }
        let jwt = jwt.filter(|jwt| {
            let bytes = bytes_of_fields(&jwt.header) + bytes_of_fields(&jwt.claims);
            let fits = bytes <= limits::RECORDED_JWT;
            if !fits {
                dropped.push(format!("jwt: {bytes} bytes"));
            }
            fits
        });
        let method = prefix(incoming.method.as_str(), limits::RECORDED_METHOD);
        Self {
            number: 0,
            log_id,
            at_unix_ms,
            endpoint,
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            headers,
            body,
            jwt: jwt.map(Jwt::record),
            outcome: Outcome::Open,
            faults: Vec::new(),
            dropped,
        }
    }

    /// Its approximate memory.
    fn bytes(&self) -> usize {
        let pairs = self.query.iter().chain(&self.headers);
        let pairs: usize = pairs
            .map(|(name, value)| 48 + name.len() + value.len())
            .sum();
        let jwt = self.jwt.as_ref().map_or(0, |jwt| {
            bytes_of_fields(&jwt.header) + bytes_of_fields(&jwt.claims)
        });
        let body = self.body.as_ref().map_or(0, bytes_of);
        512 + self.path.len() + pairs + jwt + body
    }

    /// The `grant_type` of a token request.
    #[must_use]
    pub fn grant_type(&self) -> Option<&str> {
        self.body.as_ref()?.get("grant_type")?.as_str()
    }

    /// The HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A deviation that lenient mode accepts, for third-party clients. There are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tolerance {
    /// An optional field sent as `null`.
    NullOption,
    /// A body field that is not documented.
    UnknownField,
    /// An `Authorization` header that is only the word `Bearer`, on an endpoint without credentials.
    EmptyBearer,
    /// A JWT audience whose port differs from the one that was called.
    AudienceWithPort,
    /// Two consecutive slashes in the path.
    DoubleSlash,
    /// A code verifier (or plain challenge) with fewer than 43 characters.
    ShortVerifier,
    /// An authorize URL without `state`, or with an empty one.
    MissingState,
    /// `POST` instead of `GET` when a chat is retrieved.
    PostForGet,
    /// A JWT whose header has no `typ`.
    MissingTyp,
}

/// A part of a request that Coze's documentation does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// The [`RequestRecord::number`] of the request.
    pub request: u64,
    /// The endpoint, if there is one at the path.
    pub endpoint: Option<Endpoint>,
    /// Where in the request: `body/scope`, `header/Authorization`, `query/state`, `jwt/claims/aud`.
    pub place: String,
    /// The rule. Never contains a value that the client sent.
    pub rule: String,
    /// Set if lenient mode accepted it.
    pub tolerated: Option<Tolerance>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request #{}", self.request)?;
        if let Some(endpoint) = self.endpoint {
            write!(f, " ({endpoint})")?;
        }
        write!(f, ": {}: {}", self.place, self.rule)?;
        if self.tolerated.is_some() {
            f.write_str(" (tolerated)")?;
        }
        Ok(())
    }
}

/// A part of a request that is valid but not recommended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Note {
    /// The [`RequestRecord::number`] of the request.
    pub request: u64,
    /// Where in the request.
    pub place: String,
    /// The recommendation.
    pub advice: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "request #{}: {}: {}",
            self.request, self.place, self.advice
        )
    }
}

/// The latest requests, violations and notes, and their total numbers.
pub(crate) struct Log {
    inner: Mutex<Inner>,
    capacity: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct Inner {
    numbered: u64,
    requests: VecDeque<RequestRecord>,
    /// The approximate memory of the requests.
    bytes: usize,
    /// The number of requests that were dropped.
    forgotten: u64,
    violations: VecDeque<Violation>,
    notes: VecDeque<Note>,
    violations_ever: u64,
}

impl Log {
    pub(crate) fn new(capacity: usize, max_bytes: usize) -> Self {
        Self {
            inner: Mutex::default(),
            capacity,
            max_bytes,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the record of a new request, and numbers it.
    pub(crate) fn open(&self, mut record: RequestRecord) -> u64 {
        let mut inner = self.lock();
        inner.numbered += 1;
        record.number = inner.numbered;
        inner.bytes += record.bytes();
        inner.requests.push_back(record);
        // The latest is always kept: it is smaller than the minimum of `max_bytes`.
        while inner.requests.len() > self.capacity || inner.bytes > self.max_bytes {
            let Some(oldest) = inner.requests.pop_front() else {
                break;
            };
            inner.bytes -= oldest.bytes();
            inner.forgotten += 1;
        }
        inner.numbered
    }

    /// Stores the outcome of request `number`, and returns its record.
    pub(crate) fn close(&self, number: u64, finding: Finding) -> Option<RequestRecord> {
        let mut inner = self.lock();
        inner.violations_ever += finding.unlisted;
        for violation in finding.violations {
            inner.violations_ever += 1;
            push_bounded(&mut inner.violations, violation, self.capacity);
        }
        for note in finding.notes {
            push_bounded(&mut inner.notes, note, self.capacity);
        }
        let first = inner.requests.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        let record = inner.requests.get_mut(at)?;
        record.outcome = finding.outcome;
        record.faults = finding.faults;
        if !finding.observed {
            return None;
        }
        Some(record.clone())
    }

    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        self.lock().requests.iter().cloned().collect()
    }

    /// The requests after this one that fit into one response, and whether there are more.
    pub(crate) fn requests_since(&self, number: u64) -> (Vec<RequestRecord>, bool) {
        let inner = self.lock();
        let mut later = inner
            .requests
            .iter()
            .filter(|record| record.number > number)
            .peekable();
        let mut bytes = 0;
        let mut fitting = Vec::new();
        while let Some(record) = later.next_if(|record| {
            bytes += record.bytes();
            bytes <= limits::REQUESTS_ANSWERED
        }) {
            fitting.push(record.clone());
        }
        (fitting, later.peek().is_some())
    }

    pub(crate) fn requests_ever(&self) -> u64 {
        self.lock().numbered
    }

    pub(crate) fn requests_forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.lock().violations.iter().cloned().collect()
    }

    pub(crate) fn violations_ever(&self) -> u64 {
        self.lock().violations_ever
    }

    pub(crate) fn notes(&self) -> Vec<Note> {
        self.lock().notes.iter().cloned().collect()
    }

    /// Removes everything except the numbering: a request in progress must not complete another one's record.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        let numbered = inner.numbered;
        *inner = Inner {
            numbered,
            ..Inner::default()
        };
    }
}

/// The findings about a request.
pub(crate) struct Finding {
    pub(crate) outcome: Outcome,
    pub(crate) faults: Vec<String>,
    pub(crate) violations: Vec<Violation>,
    /// Violations beyond the limit: counted, not listed.
    pub(crate) unlisted: u64,
    pub(crate) notes: Vec<Note>,
    /// Whether an observer needs the finished record.
    pub(crate) observed: bool,
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, capacity: usize) {
    if queue.len() >= capacity {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Headers without secrets, which describe the client. The values of all others are redacted.
const PLAIN_HEADERS: [&str; 14] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "api-version",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "origin",
    "transfer-encoding",
    "user-agent",
    "x-coze-client-user-agent",
];

fn redact_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut out = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        let shown = match name.as_str() {
            plain if PLAIN_HEADERS.contains(&plain) => text.into_owned(),
            "authorization" => redact_authorization(&text),
            _ => redacted(&text),
        };
        out.push((name.as_str().to_owned(), shown));
    }
    out
}

/// Keeps the scheme, to distinguish a client that sends `Basic` from one that sends `Bearer`.
fn redact_authorization(value: &str) -> String {
    match value.split_once(' ') {
        Some((scheme, rest))
            if scheme.len() <= 12 && scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) =>
        {
            format!("{scheme} {}", redacted(rest))
        }
        _ if value.eq_ignore_ascii_case("bearer") => value.to_owned(),
        _ => redacted(value),
    }
}

/// Body fields and query parameters with public values. All others are redacted, including unknown ones.
const PLAIN_FIELDS: [&str; 17] = [
    "bot_id",
    "client_id",
    "code_challenge_method",
    "connector_id",
    "duration_seconds",
    "grant_type",
    "is_published",
    "page_index",
    "page_num",
    "page_size",
    "publish_status",
    "redirect_uri",
    "response_type",
    "scope",
    "space_id",
    "user_code",
    "workspace_id",
];

fn redact_query(pairs: &[(String, String)]) -> Vec<(String, String)> {
    let shown = |(name, value): &(String, String)| {
        let value = if PLAIN_FIELDS.contains(&name.as_str()) {
            value.clone()
        } else {
            redacted(value)
        };
        (name.clone(), value)
    };
    pairs.iter().map(shown).collect()
}

fn redact_body(body: &Value) -> Value {
    let Value::Object(fields) = body else {
        return redact_value(body);
    };
    let shown = fields.iter().map(|(name, value)| {
        let value = if PLAIN_FIELDS.contains(&name.as_str()) {
            value.clone()
        } else {
            redact_value(value)
        };
        (name.clone(), value)
    });
    Value::Object(shown.collect())
}

/// Redacts every string inside and keeps the structure.
fn redact_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(redacted(text)),
        Value::Array(items) => Value::Array(items.iter().map(redact_value).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), redact_value(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dropped_pairs_occupy_no_memory() {
        let pairs = vec![("a".to_owned(), "1".to_owned()); 8000];
        let mut dropped = Vec::new();
        let kept = pairs_that_fit(pairs, limits::RECORDED_QUERY, "query", &mut dropped);
        assert_eq!(kept.len(), limits::RECORDED_QUERY / 50);
        assert!(kept.capacity() < 2 * kept.len(), "{}", kept.capacity());
        assert_eq!(dropped, ["query: 7837 of 8000 pairs"]);
    }

    #[test]
    fn everything_not_known_to_be_public_is_redacted() {
        let body = redact_body(
            &json!({"client_id": "app", "code": "hush", "assertion": {"deep": ["hush"]}, "scope": {"a": "b"}}),
        );
        assert!(!body.to_string().contains("hush"), "{body}");
        assert_eq!(body["client_id"], "app");
        assert_eq!(body["scope"]["a"], "b");
        let mut headers = HeaderMap::new();
        headers.insert(
            "authorization",
            http::HeaderValue::from_static("Bearer hush"),
        );
        headers.insert("x-api-key", http::HeaderValue::from_static("hush"));
        headers.insert("accept", http::HeaderValue::from_static("*/*"));
        let shown = format!("{:?}", redact_headers(&headers));
        assert!(
            !shown.contains("hush")
                && shown.contains("Bearer <4 characters")
                && shown.contains("*/*"),
            "{shown}"
        );
    }
}
