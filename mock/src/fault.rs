//! Fault injection: failures of the network, of a gateway or of the server, on demand.

use crate::answer::{Answer, ErrorShape, HTML, OAuthErrorCode, error_body};
use crate::endpoint::Endpoint;
use crate::limits;
use crate::scripted_response::{
    EditedResponse, NOT_FINAL, ScriptedResponse, When, final_status, is_final,
};
use crate::stream::{ScriptedReply, ScriptedStream};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A fault to inject. In JSON, for the control endpoint, a fault is an object with one key:
/// `{"status": {"status": 503, "body": "html"}}`, `{"latency": {"millis": 200}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// A delay before the request is processed (in tokio's time, which tests can pause). Can be combined with any other fault.
    Latency {
        /// How long.
        #[serde(rename = "millis", with = "millis")]
        delay: Duration,
    },
    /// The connection is closed with a TCP reset; in process, the service returns an error.
    ConnectionReset {
        /// Whether the request took effect.
        when: When,
    },
    /// No response is ever sent, so the client has to time out.
    Timeout {
        /// Whether the request took effect.
        when: When,
    },
    /// An HTTP error status; the request has no effect.
    Status {
        /// For example 429, 500, 502, 503 or 504.
        status: u16,
        /// The body.
        #[serde(default)]
        body: FaultBody,
        /// A `Retry-After` header.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// The real response, truncated in the middle of its JSON.
    TruncatedJson,
    /// The real response with content type `text/plain`.
    WrongContentType,
    /// The real response after 2 MiB of white space: valid JSON that a careful client does not read completely.
    OversizedBody,
    /// A redirect; the request has no effect.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The `Location`.
        location: String,
    },
    /// HTTP 200 with an error in its body; the request has no effect.
    ErrorWithStatus200 {
        /// The body's shape.
        shape: ErrorShape,
        /// The error code (shape C carries the number 4000 instead).
        code: OAuthErrorCode,
    },
    /// The real response with edits: a changed member, a removed header, a truncated body.
    Edited(EditedResponse),
    /// A scripted response instead of the real one.
    Scripted(ScriptedResponse),
    /// An event stream that is sent otherwise than usual. Applies only to requests that ask for a stream.
    Stream(ScriptedStream),
    /// What the bot answers. Applies only to requests that start a chat. Can be combined with any other fault.
    Reply(ScriptedReply),
    /// The `Date` header is wrong by this much; expiry times are not. Can be combined with any other fault. (For a server whose whole
    /// clock is wrong, give the mock another [`MockClock`](crate::MockClock).)
    SkewedDate {
        /// Seconds ahead; negative if behind.
        seconds: i64,
    },
    /// Access tokens live only this long, whatever was requested. Can be combined with any other fault.
    ShortLivedTokens {
        /// The lifetime.
        seconds: u64,
    },
}

/// The body of a [`Fault::Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultBody {
    /// Coze's JSON: `internal_error` in the mock's [`ErrorShape`] from the OAuth endpoints, shape C from the API.
    #[default]
    Json,
    /// A gateway's HTML page.
    Html,
    /// An empty body.
    Empty,
}

/// The two forms of a `Retry-After` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RetryAfter {
    /// A number of seconds.
    Seconds(u64),
    /// A date this many seconds ahead of the mock's clock.
    DateInSeconds(u64),
}

impl Fault {
    /// A status with Coze's JSON body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status {
            status,
            body: FaultBody::Json,
            retry_after: None,
        }
    }

    /// 429 with `Retry-After` in seconds.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::Status {
            status: 429,
            body: FaultBody::Json,
            retry_after: Some(RetryAfter::Seconds(retry_after_seconds)),
        }
    }

    /// The documented `internal_error`.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::status(500)
    }

    /// A delay before the request is processed.
    #[must_use]
    pub fn latency(delay: Duration) -> Self {
        Self::Latency { delay }
    }

    /// Whether this fault changes how a request is processed and keeps the real response. Such faults can be combined.
    fn is_modifier(&self) -> bool {
        matches!(
            self,
            Self::Latency { .. } | Self::SkewedDate { .. } | Self::ShortLivedTokens { .. }
        )
    }

    /// The script for a chat that the request starts.
    pub(crate) fn as_reply(&self) -> Option<&ScriptedReply> {
        match self {
            Self::Reply(reply) => Some(reply),
            _ => None,
        }
    }

    /// The script for the real event stream, which a request that is refused does not get.
    pub(crate) fn as_stream(&self) -> Option<&ScriptedStream> {
        match self {
            Self::Stream(stream) if !stream.replaces() => Some(stream),
            _ => None,
        }
    }

    /// Whether it can apply to a request at all.
    fn suits(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::Stream(_) => asked.for_stream,
            Self::Reply(_) => asked.endpoint == Endpoint::CreateChat,
            _ => true,
        }
    }

    /// Its approximate memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Edited(edited) => edited.bytes(),
            Self::Scripted(scripted) => scripted.bytes(),
            Self::Stream(stream) => stream.bytes(),
            Self::Reply(reply) => reply.bytes(),
            Self::Redirect { location, .. } => location.len(),
            _ => 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        const LONGEST: u64 = limits::LONGEST_SECONDS;
        match self {
            Self::Latency { delay } if *delay > limits::LONGEST => {
                Err("has millis outside 0 to 3155760000000 (100 years)")
            }
            Self::ShortLivedTokens { seconds } if *seconds > LONGEST => {
                Err("has seconds outside 0 to 3155760000 (100 years)")
            }
            Self::SkewedDate { seconds } if seconds.unsigned_abs() > LONGEST => {
                Err("has seconds outside -3155760000 to 3155760000 (100 years)")
            }
            Self::Status { status, .. } if !is_final(*status) => Err(NOT_FINAL),
            Self::Redirect { status, .. } if !matches!(status, 301 | 302 | 303 | 307 | 308) => {
                Err("is not a redirect: one of 301, 302, 303, 307, 308")
            }
            Self::Redirect { location, .. } if HeaderValue::from_str(location).is_err() => {
                Err("has a location that is not a valid header value")
            }
            Self::Edited(edited) => edited.check(),
            Self::Scripted(scripted) => scripted.check(),
            Self::Stream(stream) => stream.check(),
            _ => Ok(()),
        }
    }
}

impl From<EditedResponse> for Fault {
    fn from(edited: EditedResponse) -> Self {
        Self::Edited(edited)
    }
}

impl From<ScriptedResponse> for Fault {
    fn from(scripted: ScriptedResponse) -> Self {
        Self::Scripted(scripted)
    }
}

impl From<ScriptedStream> for Fault {
    fn from(stream: ScriptedStream) -> Self {
        Self::Stream(stream)
    }
}

impl From<ScriptedReply> for Fault {
    fn from(reply: ScriptedReply) -> Self {
        Self::Reply(reply)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |when: &When| match when {
            When::BeforeProcessing => "before processing",
            When::AfterProcessing => "after processing",
        };
        match self {
            Self::Latency { delay } => write!(f, "latency {} ms", delay.as_millis()),
            Self::ConnectionReset { when } => write!(f, "connection reset {}", after(when)),
            Self::Timeout { when } => write!(f, "time-out {}", after(when)),
            Self::Status { status, .. } => write!(f, "status {status}"),
            Self::TruncatedJson => f.write_str("truncated JSON"),
            Self::WrongContentType => f.write_str("wrong content type"),
            Self::OversizedBody => f.write_str("oversized body"),
            Self::Redirect { status, .. } => write!(f, "redirect {status}"),
            Self::ErrorWithStatus200 { code, .. } => write!(f, "200 with {code}"),
            Self::Edited(edited) => write!(f, "edited answer {}", edited.places()),
            Self::Scripted(scripted) => write!(f, "scripted answer {}", scripted.status()),
            Self::Stream(_) => f.write_str("scripted stream"),
            Self::Reply(_) => f.write_str("scripted reply"),
            Self::SkewedDate { seconds } => write!(f, "date skewed by {seconds} s"),
            Self::ShortLivedTokens { seconds } => write!(f, "tokens of {seconds} s"),
        }
    }
}

/// The requests that a fault applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// All of Coze's endpoints.
    Any,
    /// One endpoint.
    Endpoint(Endpoint),
    /// Token requests with this `grant_type`, at any token endpoint.
    GrantType(String),
}

impl Target {
    /// Refresh requests.
    #[must_use]
    pub fn refresh() -> Self {
        Self::GrantType("refresh_token".into())
    }

    fn bytes(&self) -> usize {
        match self {
            Self::GrantType(grant_type) => grant_type.len(),
            Self::Any | Self::Endpoint(_) => 0,
        }
    }

    fn covers(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Endpoint(wanted) => *wanted == asked.endpoint,
            Self::GrantType(wanted) => {
                asked.endpoint.issues_tokens() && asked.grant_type == Some(wanted)
            }
        }
    }
}

/// What a fault's target is compared with.
pub(crate) struct Asked<'r> {
    pub(crate) endpoint: Endpoint,
    pub(crate) grant_type: Option<&'r str>,
    /// Whether the request asks for an event stream.
    pub(crate) for_stream: bool,
}

impl From<Endpoint> for Target {
    fn from(endpoint: Endpoint) -> Self {
        Self::Endpoint(endpoint)
    }
}

/// How many requests a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Times {
    /// The next `n` requests.
    Next(u32),
    /// All requests, until the faults are cleared.
    Forever,
}

impl Times {
    /// The next one.
    pub const ONCE: Self = Self::Next(1);
}

/// A planned fault.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlannedFault {
    /// Its id, for [`Faults::remove`].
    pub id: u64,
    /// The fault.
    pub fault: Fault,
    /// The requests that it applies to.
    pub target: Target,
    /// How many requests it still applies to; `None` for all.
    pub remaining: Option<u32>,
}

/// The planned faults. For a matching request, every latency, skewed date and short lifetime applies, of the scripted replies only
/// the one that was planned first, and so of all others. Each that applies counts down by one. A scripted reply applies
/// when the chat starts, and a script for the bot's stream when the stream starts: a request that is refused counts
/// down neither.
#[derive(Default)]
pub struct Faults {
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    last_id: u64,
    faults: Vec<PlannedFault>,
}

impl Faults {
    /// Plans a fault and returns its id. An invalid or informational status is sent as 500.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coze_mock::Error> {
    /// use coze_mock::{Endpoint, Fault, MockCoze, Target, Times, When};
    ///
    /// let mock = MockCoze::builder().build()?;
    /// mock.faults().add(Fault::too_many_requests(2), Endpoint::Token, Times::Next(2));
    /// mock.faults().add(Fault::ConnectionReset { when: When::AfterProcessing }, Target::refresh(), Times::ONCE);
    /// # Ok(()) }
    /// ```
    pub fn add(&self, fault: impl Into<Fault>, target: impl Into<Target>, times: Times) -> u64 {
        let mut plan = self.lock();
        plan.last_id += 1;
        let id = plan.last_id;
        let remaining = match times {
            Times::Next(count) => Some(count),
            Times::Forever => None,
        };
        plan.faults.push(PlannedFault {
            id,
            fault: fault.into(),
            target: target.into(),
            remaining,
        });
        id
    }

    /// Removes a planned fault; `false` if there is no such fault.
    pub fn remove(&self, id: u64) -> bool {
        let mut plan = self.lock();
        let before = plan.faults.len();
        plan.faults.retain(|planned| planned.id != id);
        plan.faults.len() < before
    }

    /// The faults that are still planned.
    #[must_use]
    pub fn pending(&self) -> Vec<PlannedFault> {
        self.lock().faults.clone()
    }

    /// Whether one more fault is within the limits.
    pub(crate) fn has_room_for(&self, fault: &Fault, target: &Target) -> bool {
        let faults = &self.lock().faults;
        let planned = faults
            .iter()
            .map(|one| one.fault.bytes() + one.target.bytes());
        let bytes = planned.sum::<usize>() + fault.bytes() + target.bytes();
        faults.len() < limits::FAULTS && bytes <= limits::FAULT_BYTES
    }

    /// Removes all planned faults.
    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self, asked: &Asked<'_>) -> Applied {
        let mut applied = Applied::default();
        let mut plan = self.lock();
        if plan.faults.is_empty() {
            return applied;
        }
        for planned in &mut plan.faults {
            let is_second = !planned.fault.is_modifier() && applied.outcome.is_some();
            if is_second || !planned.applies_to(asked) || planned.fault.as_reply().is_some() {
                continue;
            }
            if planned.fault.as_stream().is_some() {
                applied.outcome = Some(planned.fault.clone());
                continue;
            }
            planned.count_down();
            applied.add(&planned.fault);
        }
        plan.drop_used();
        applied
    }

    /// Takes the first of these scripts, when it applies.
    pub(crate) fn take_script<T: Clone>(
        &self,
        asked: &Asked<'_>,
        applied: &mut Applied,
        script: impl Fn(&Fault) -> Option<&T>,
    ) -> Option<T> {
        let mut plan = self.lock();
        let mut faults = plan.faults.iter_mut();
        let planned = faults.find(|one| one.applies_to(asked) && script(&one.fault).is_some())?;
        let taken = script(&planned.fault).cloned();
        planned.count_down();
        applied.name(&planned.fault);
        plan.drop_used();
        taken
    }
}

impl Plan {
    fn drop_used(&mut self) {
        self.faults.retain(|planned| planned.remaining != Some(0));
    }
}

impl PlannedFault {
    fn applies_to(&self, asked: &Asked<'_>) -> bool {
        self.remaining != Some(0) && self.target.covers(asked) && self.fault.suits(asked)
    }

    fn count_down(&mut self) {
        self.remaining = self.remaining.map(|left| left.saturating_sub(1));
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("pending", &self.pending())
            .finish()
    }
}

/// The faults that apply to one request.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) latency: Duration,
    pub(crate) skew_seconds: i64,
    pub(crate) token_lifetime: Option<Duration>,
    pub(crate) outcome: Option<Fault>,
    names: Vec<String>,
    /// Faults beyond the limit: counted, not named.
    unnamed: usize,
}

impl Applied {
    /// The names of the faults, for the record of the request.
    pub(crate) fn into_names(self) -> Vec<String> {
        let mut names = self.names;
        if self.unnamed > 0 {
            names.push(format!("{} more", self.unnamed));
        }
        names
    }

    fn name(&mut self, fault: &Fault) {
        if self.names.len() < limits::FAULTS_OF_A_REQUEST {
            let name = fault.to_string();
            self.names
                .push(name.chars().take(limits::FAULT_NAME).collect());
        } else {
            self.unnamed += 1;
        }
    }

    fn add(&mut self, fault: &Fault) {
        self.name(fault);
        match fault {
            Fault::Latency { delay } => self.latency = self.latency.saturating_add(*delay),
            Fault::SkewedDate { seconds } => {
                self.skew_seconds = self.skew_seconds.saturating_add(*seconds)
            }
            Fault::ShortLivedTokens { seconds } => {
                self.token_lifetime = Some(Duration::from_secs(*seconds))
            }
            outcome => self.outcome = Some(outcome.clone()),
        }
    }
}

/// The response of a fault that replaces processing; `None` for faults that need the real response or send none.
pub(crate) fn answer_instead(
    fault: &Fault,
    endpoint: Endpoint,
    shape: ErrorShape,
    now: Duration,
    log_id: &str,
) -> Option<Answer> {
    match fault {
        Fault::Status {
            status,
            body,
            retry_after,
        } => {
            let status = final_status(*status);
            let answer = match body {
                FaultBody::Empty => Answer::empty(status),
                FaultBody::Html => Answer::of_type(status, HTML, gateway_page(status)),
                FaultBody::Json if endpoint.is_api() || status == StatusCode::TOO_MANY_REQUESTS => {
                    let code = if status == StatusCode::TOO_MANY_REQUESTS {
                        4013
                    } else {
                        4000
                    };
                    Answer::api_error(status, code, reason(status), log_id)
                }
                FaultBody::Json => {
                    let code = OAuthErrorCode::InternalError;
                    let body = error_body(shape, code, code.default_message(), log_id);
                    Answer::json(status, &body).with_error(code.as_str())
                }
            };
            Some(match retry_after {
                None => answer,
                Some(RetryAfter::Seconds(seconds)) => {
                    answer.with_header(header::RETRY_AFTER, &seconds.to_string())
                }
                Some(RetryAfter::DateInSeconds(seconds)) => {
                    let at = now.saturating_add(Duration::from_secs(*seconds));
                    answer.with_header(header::RETRY_AFTER, &http_date(at, 0))
                }
            })
        }
        Fault::Redirect { status, location } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::TEMPORARY_REDIRECT);
            Some(Answer::empty(status).with_header(header::LOCATION, location))
        }
        Fault::ErrorWithStatus200 { shape, code } => Some(
            Answer::json(
                StatusCode::OK,
                &error_body(*shape, *code, code.default_message(), log_id),
            )
            .with_error(code.as_str()),
        ),
        _ => None,
    }
}

/// The real response, changed by the fault.
pub(crate) fn spoil(fault: &Fault, mut answer: Answer) -> Answer {
    match fault {
        Fault::TruncatedJson => answer.body = answer.body.slice(..answer.body.len() * 2 / 3),
        Fault::WrongContentType => {
            answer.headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
        }
        Fault::OversizedBody => answer.body = behind_white_space(&answer.body),
        _ => {}
    }
    answer
}

const OVERSIZE: usize = 2 * 1024 * 1024;

fn behind_white_space(body: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(OVERSIZE + body.len());
    out.put_bytes(b' ', OVERSIZE);
    out.put_slice(body);
    out.freeze()
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("error")
}

fn gateway_page(status: StatusCode) -> String {
    let title = format!("{} {}", status.as_u16(), reason(status));
    format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n")
}

/// An HTTP date, shifted by `skew_seconds`.
pub(crate) fn http_date(since_epoch: Duration, skew_seconds: i64) -> String {
    // The year 9999 is the last one that the format can represent.
    const LAST: u64 = 253_402_300_799;
    let seconds = since_epoch
        .as_secs()
        .saturating_add_signed(skew_seconds)
        .min(LAST);
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
}

mod millis {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(
        delay: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
