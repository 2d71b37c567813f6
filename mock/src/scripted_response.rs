//! Responses that a test defines: the real one with edits, or a scripted one, optionally with broken framing.

use crate::answer::{Answer, End, HeaderEdit, JSON, LOG_ID};
use crate::limits::bytes_of;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether a request takes effect before the fault hides its response from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum When {
    /// It has no effect: a refresh token in it stays valid.
    BeforeProcessing,
    /// It took effect: a refresh token in it is redeemed, and its successor is lost.
    AfterProcessing,
}

/// The real response with edits. The request takes effect first: a refresh token or an approved device code is redeemed. A refresh
/// token, access token or device code that an edit replaces by another string is accepted by that string afterwards,
/// so that a client can continue with what it received.
///
/// ```
/// # fn main() -> Result<(), coze_mock::Error> {
/// use coze_mock::{Edit, EditedResponse, Framing, MockCoze, Target, Times};
///
/// let mock = MockCoze::builder().build()?;
/// let without_expiry = EditedResponse::new([Edit::remove("/expires_in"), Edit::set("/token_type", "mac")]);
/// mock.faults().add(without_expiry, Target::refresh(), Times::ONCE);
///
/// let cut = EditedResponse::new([]).framed(Framing::new().cut_behind("refresh_token"));
/// mock.faults().add(cut.header("Age", "30").without_header("Date"), Target::refresh(), Times::ONCE);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditedResponse {
    edits: Vec<Edit>,
    headers: Headers,
    framing: Framing,
}

/// A scripted response: any status, headers and body, such as the page of a captive portal. Only `Date` is the
/// mock's, unless it is set here; `Content-Type` is JSON unless it is set here.
///
/// ```
/// # fn main() -> Result<(), coze_mock::Error> {
/// use coze_mock::{Endpoint, MockCoze, ScriptedResponse, Times};
///
/// let mock = MockCoze::builder().build()?;
/// let portal = ScriptedResponse::new(200, "<html>Please sign in</html>").header("Content-Type", "text/html");
/// mock.faults().add(portal, Endpoint::Token, Times::ONCE);
///
/// let wrong_token = r#"{"code": 4101, "msg": "The token you entered is incorrect."}"#;
/// mock.faults().add(ScriptedResponse::new(200, wrong_token), Endpoint::UsersMe, Times::ONCE);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedResponse {
    status: u16,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    body: ScriptedBody,
    #[serde(default)]
    framing: Framing,
    #[serde(default = "before_processing")]
    when: When,
}

/// One edit of a JSON response. `at` is a JSON pointer (RFC 6901), such as `/expires_in`, `/data/user_id` or `/data/items/0`. An edit
/// has no effect if what it changes does not exist: the parent of a new member, an element of a list, a member to remove or
/// to duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Edit {
    /// Sets or adds a member, or replaces an element of a list. The index `-` adds an element at the end.
    Set {
        /// The member or the element.
        at: String,
        /// Its value.
        value: Value,
    },
    /// Removes a member, or an element of a list; those after it move up.
    Remove {
        /// The member or the element.
        at: String,
    },
    /// Duplicates a member of an object: once with its real value, once with another.
    Repeat {
        /// The member.
        at: String,
        /// The other value.
        value: Value,
        /// The position of the real value.
        true_one: Place,
    },
    /// Writes `expires_in` in another form.
    Expiry {
        /// The form.
        form: ExpiryForm,
        /// Whether it is written as a string.
        #[serde(default)]
        text: bool,
        /// Added to the real time; negative for the past. The real lifetime of the token does not change.
        #[serde(default)]
        shift_seconds: i64,
    },
}

/// A position among two members of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// The first.
    First,
    /// The last.
    Last,
}

/// The forms in which a server may write the expiry of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExpiryForm {
    /// Seconds since the UNIX epoch.
    Absolute,
    /// Milliseconds since the UNIX epoch.
    AbsoluteMillis,
    /// Seconds from now.
    Relative,
    /// Milliseconds from now.
    RelativeMillis,
}

/// The body of a [`ScriptedResponse`], or the bytes of a [`ScriptedStream`](crate::ScriptedStream). In JSON: a string, or a list of bytes (`[255, 123]`) if it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "body is text, or a list of bytes from 0 to 255")]
#[non_exhaustive]
pub enum ScriptedBody {
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// How the bytes of a response are sent. In process, an incomplete body ends with an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Framing {
    before: String,
    behind: String,
    cut: Option<Cut>,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Cut {
    Bytes(usize),
    Behind(String),
}

/// Headers by name; `None` removes the header.
type Headers = BTreeMap<String, Option<String>>;

impl Edit {
    /// Sets or adds a member, or replaces an element of a list.
    pub fn set(at: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Set {
            at: at.into(),
            value: value.into(),
        }
    }

    /// Removes a member, or an element of a list.
    pub fn remove(at: impl Into<String>) -> Self {
        Self::Remove { at: at.into() }
    }

    /// Duplicates a member.
    pub fn repeat(at: impl Into<String>, value: impl Into<Value>, true_one: Place) -> Self {
        Self::Repeat {
            at: at.into(),
            value: value.into(),
            true_one,
        }
    }

    /// Writes `expires_in` in another form.
    #[must_use]
    pub fn expiry(form: ExpiryForm) -> Self {
        Self::Expiry {
            form,
            text: false,
            shift_seconds: 0,
        }
    }

    fn at(&self) -> &str {
        match self {
            Self::Set { at, .. } | Self::Remove { at } | Self::Repeat { at, .. } => at,
            Self::Expiry { .. } => EXPIRES_IN,
        }
    }

    /// Edits the response. A duplicated member is left for the splices.
    fn apply(&self, answer: &mut Value, now: Duration, splices: &mut Vec<Splice>) {
        let Some((parent, name)) = self.at().rsplit_once('/') else {
            return;
        };
        let name = name.replace("~1", "/").replace("~0", "~");
        let members = match answer.pointer_mut(parent) {
            Some(Value::Object(members)) => members,
            Some(Value::Array(list)) => return self.apply_to_list(list, &name),
            _ => return,
        };
        match self {
            Self::Set { value, .. } => {
                members.insert(name, value.clone());
            }
            Self::Remove { .. } => {
                members.remove(&name);
            }
            Self::Repeat {
                value, true_one, ..
            } => {
                let Some(known) = members.get_mut(&name) else {
                    return;
                };
                let (first, last) = match true_one {
                    Place::First => (&*known, value),
                    Place::Last => (value, &*known),
                };
                let twice = format!("{first},{}:{last}", Value::from(name));
                let placeholder = Value::from(format!("\0coze-mock-{}\0", splices.len()));
                splices.push(Splice {
                    at: self.at().to_owned(),
                    placeholder: placeholder.clone(),
                    truth: std::mem::replace(known, placeholder),
                    twice,
                });
            }
            Self::Expiry {
                form,
                text,
                shift_seconds,
            } => {
                let Some(known) = members.get_mut(&name) else {
                    return;
                };
                let Some(told) = known.as_i64() else { return };
                let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                let is_absolute = told >= 1_000_000_000;
                let relative = if is_absolute {
                    told.saturating_sub(now)
                } else {
                    told
                };
                let relative = relative.saturating_add(*shift_seconds);
                let told = match form {
                    ExpiryForm::Relative => relative,
                    ExpiryForm::RelativeMillis => relative.saturating_mul(1000),
                    ExpiryForm::Absolute => now.saturating_add(relative),
                    ExpiryForm::AbsoluteMillis => now.saturating_add(relative).saturating_mul(1000),
                };
                *known = match text {
                    true => Value::from(told.to_string()),
                    false => Value::Number(Number::from(told)),
                };
            }
        }
    }

    /// Edits a list. An index is as in RFC 6901 and RFC 6902: `-` is the place after the last element.
    fn apply_to_list(&self, list: &mut Vec<Value>, index: &str) {
        let at = parse_index(index).filter(|at| *at < list.len());
        match (self, at) {
            (Self::Set { value, .. }, None) if index == "-" => list.push(value.clone()),
            (Self::Set { value, .. }, Some(at)) => list[at] = value.clone(),
            (Self::Remove { .. }, Some(at)) => drop(list.remove(at)),
            _ => {}
        }
    }
}

const EXPIRES_IN: &str = "/expires_in";

/// The index of an element, in the form of RFC 6901 section 4: digits without a leading zero.
fn parse_index(text: &str) -> Option<usize> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_canonical.then(|| text.parse().ok()).flatten()
}

/// A duplicated member, which a [`Value`] cannot represent: it is spliced into the text in place of a unique marker.
struct Splice {
    at: String,
    placeholder: Value,
    truth: Value,
    twice: String,
}

impl EditedResponse {
    /// The real response with these edits, applied in order.
    #[must_use]
    pub fn new(edits: impl Into<Vec<Edit>>) -> Self {
        Self {
            edits: edits.into(),
            ..Self::default()
        }
    }

    /// Sets a header, replacing the real one.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a header.
    #[must_use]
    pub fn without_header(mut self, name: impl Into<String>) -> Self {
        self.headers.insert(name.into(), None);
        self
    }

    /// Sets the framing.
    #[must_use]
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !self.edits.iter().all(|edit| edit.at().starts_with('/')) {
            return Err("has an edit whose `at` is not a JSON pointer, such as /expires_in");
        }
        check_headers(&self.headers)
    }

    /// Its approximate memory.
    pub(crate) fn bytes(&self) -> usize {
        let edit = |edit: &Edit| {
            let value = match edit {
                Edit::Set { value, .. } | Edit::Repeat { value, .. } => bytes_of(value),
                Edit::Remove { .. } | Edit::Expiry { .. } => 0,
            };
            size_of::<Edit>() + edit.at().len() + value
        };
        let edits: usize = self.edits.iter().map(edit).sum();
        edits + bytes_of_headers(&self.headers) + self.framing.bytes()
    }

    /// Describes the fault without values.
    pub(crate) fn places(&self) -> String {
        let places: Vec<&str> = self.edits.iter().map(Edit::at).collect();
        places.join(" ")
    }

    /// Edits the real response. If it is JSON, returns it before and after the edits.
    pub(crate) fn apply(&self, answer: &mut Answer, now: Duration) -> Option<(Value, Value)> {
        let edited = self.edit(answer, now);
        frame(answer, &self.headers, &self.framing);
        edited
    }

    fn edit(&self, answer: &mut Answer, now: Duration) -> Option<(Value, Value)> {
        let known: Value = serde_json::from_slice(&answer.body).ok()?;
        let mut edited = known.clone();
        let mut splices = Vec::new();
        for edit in &self.edits {
            edit.apply(&mut edited, now, &mut splices);
        }
        let mut text = edited.to_string();
        // In reverse order, because a later splice may contain the marker of an earlier one.
        for splice in splices.into_iter().rev() {
            text = text.replace(&splice.placeholder.to_string(), &splice.twice);
            if let Some(member) = edited.pointer_mut(&splice.at) {
                *member = splice.truth;
            }
        }
        answer.body = text.into();
        Some((known, edited))
    }
}

impl ScriptedResponse {
    /// A response to a request that has no effect. A status below 200 is sent as 500.
    #[must_use]
    pub fn new(status: u16, body: impl Into<ScriptedBody>) -> Self {
        Self {
            status,
            headers: Headers::new(),
            body: body.into(),
            framing: Framing::default(),
            when: When::BeforeProcessing,
        }
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a header: `Date` or `Content-Type`.
    #[must_use]
    pub fn without_header(mut self, name: impl Into<String>) -> Self {
        self.headers.insert(name.into(), None);
        self
    }

    /// Sets the framing.
    #[must_use]
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Lets the request take effect first.
    #[must_use]
    pub fn after_processing(mut self) -> Self {
        self.when = When::AfterProcessing;
        self
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !is_final(self.status) {
            return Err(NOT_FINAL);
        }
        check_headers(&self.headers)
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Its approximate memory.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + bytes_of_headers(&self.headers) + self.framing.bytes()
    }

    pub(crate) fn when(&self) -> When {
        self.when
    }

    pub(crate) fn answer(&self) -> Answer {
        let status = final_status(self.status);
        let body = self.body.to_bytes();
        let mut answer = match body.is_empty() {
            true => Answer::empty(status),
            false => Answer::of_type(status, JSON, body),
        };
        answer.header_edits.push((LOG_ID, None));
        frame(&mut answer, &self.headers, &self.framing);
        answer
    }
}

pub(crate) const NOT_FINAL: &str = "is not the status of a final response: 200 to 999";

/// Statuses below 200 are informational: a final response follows.
pub(crate) fn is_final(status: u16) -> bool {
    (200..1000).contains(&status)
}

/// The status of a final response; 500 for any other number.
pub(crate) fn final_status(status: u16) -> StatusCode {
    let status = Some(status).filter(|status| is_final(*status));
    status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The approximate memory of headers.
fn bytes_of_headers(headers: &Headers) -> usize {
    let header = |(name, value): (&String, &Option<String>)| {
        64 + name.len() + value.as_ref().map_or(0, String::len)
    };
    headers.iter().map(header).sum()
}

fn before_processing() -> When {
    When::BeforeProcessing
}

impl ScriptedBody {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_slice())
    }
}

impl Default for ScriptedBody {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl From<&str> for ScriptedBody {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for ScriptedBody {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for ScriptedBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Value> for ScriptedBody {
    fn from(json: Value) -> Self {
        Self::Text(json.to_string())
    }
}

impl Framing {
    /// Its approximate memory.
    fn bytes(&self) -> usize {
        let cut = match &self.cut {
            Some(Cut::Behind(member)) => member.len(),
            Some(Cut::Bytes(_)) | None => 0,
        };
        self.before.len() + self.behind.len() + cut
    }

    /// Correct framing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds text before the body, such as a byte order mark.
    #[must_use]
    pub fn before(mut self, text: impl Into<String>) -> Self {
        self.before = text.into();
        self
    }

    /// Adds text after the body.
    #[must_use]
    pub fn behind(mut self, text: impl Into<String>) -> Self {
        self.behind = text.into();
        self
    }

    /// Truncates the body after this many bytes.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(Cut::Bytes(bytes));
        self
    }

    /// Truncates the body after the value of the first member of this name.
    #[must_use]
    pub fn cut_behind(mut self, member: impl Into<String>) -> Self {
        self.cut = Some(Cut::Behind(member.into()));
        self
    }

    /// Sends the body chunked and closes the connection instead of sending the last chunk.
    #[must_use]
    pub fn without_last_chunk(mut self) -> Self {
        self.end = End::NoLastChunk;
        self
    }

    /// Announces this many more bytes in `Content-Length` than are sent, then closes the connection.
    #[must_use]
    pub fn missing(mut self, bytes: u64) -> Self {
        self.end = End::Missing(bytes);
        self
    }

    fn length(&self, framed: &[u8]) -> usize {
        let cut = match &self.cut {
            None => None,
            Some(Cut::Bytes(bytes)) => Some(*bytes),
            Some(Cut::Behind(member)) => end_of_value(framed, member),
        };
        cut.unwrap_or(framed.len()).min(framed.len())
    }
}

/// The end of the value of the first member of this name.
fn end_of_value(json: &[u8], member: &str) -> Option<usize> {
    let name = format!("{}:", Value::from(member));
    let at = json
        .windows(name.len())
        .position(|window| window == name.as_bytes())?;
    let from = at + name.len();
    let mut values = serde_json::Deserializer::from_slice(json.get(from..)?).into_iter::<Value>();
    values.next()?.ok()?;
    Some(from + values.byte_offset())
}

fn frame(answer: &mut Answer, headers: &Headers, framing: &Framing) {
    let body = std::mem::take(&mut answer.body);
    let mut framed =
        BytesMut::with_capacity(framing.before.len() + body.len() + framing.behind.len());
    framed.put_slice(framing.before.as_bytes());
    framed.put_slice(&body);
    framed.put_slice(framing.behind.as_bytes());
    framed.truncate(framing.length(&framed));
    answer.body = framed.freeze();
    answer.end = framing.end;
    answer
        .header_edits
        .extend(headers.iter().filter_map(header));
}

/// A valid header. Those that frame a body are set by the mock.
fn header((name, value): (&String, &Option<String>)) -> Option<HeaderEdit> {
    let name = HeaderName::try_from(name).ok()?;
    if [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ]
    .contains(&name)
    {
        return None;
    }
    let value = match value {
        Some(value) => Some(HeaderValue::try_from(value).ok()?),
        None => None,
    };
    Some((name, value))
}

fn check_headers(headers: &Headers) -> Result<(), &'static str> {
    if headers.iter().all(|entry| header(entry).is_some()) {
        return Ok(());
    }
    Err("has an invalid header, or one that frames a body: use framing instead")
}
