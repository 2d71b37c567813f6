//! Scripted replies of the mock's bot, and scripted event streams.

use crate::answer::{Answer, JSON, shape_c};
use crate::body::Part;
use crate::limits;
use crate::scripted_response::ScriptedBody;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::time::Duration;

/// A script for an event stream: its end, its timing, and its chunks. Planned like a fault, for requests of a stream;
/// other requests are answered as usual. A request that is refused does not use up a script for the bot's reply.
///
/// ```
/// # fn main() -> Result<(), coze_mock::Error> {
/// use coze_mock::{Endpoint, MockCoze, ScriptedStream, Times};
/// use std::time::Duration;
///
/// let mock = MockCoze::builder().build()?;
/// // The bot's own reply, cut after three events:
/// mock.faults().add(ScriptedStream::reply().cut_after(3), Endpoint::CreateChat, Times::ONCE);
/// // Slow, with comments, every character split:
/// let slow = ScriptedStream::reply().first_event_after(Duration::from_secs(2)).pause(Duration::from_millis(100));
/// mock.faults().add(slow.comments().chunks_of(1), Endpoint::CreateChat, Times::ONCE);
/// // JSON instead of the stream, and your own bytes:
/// mock.faults().add(ScriptedStream::refused(4000, "Bad request."), Endpoint::CreateChat, Times::ONCE);
/// mock.faults().add(ScriptedStream::raw("event:done\ndata:\"[DONE]\"\n\n"), Endpoint::CreateChat, Times::ONCE);
/// # Ok(()) }
/// ```
///
/// In JSON, for the control endpoint, all members are optional: `{"stream": {"content": "reply", "end": {"cut": 3},
/// "first_event_millis": 2000, "pause_millis": 100, "comments": true, "byte_order_mark": true, "chunk_bytes": 1}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ScriptedStream {
    content: Content,
    end: StreamEnd,
    first_event_millis: u64,
    pause_millis: u64,
    comments: bool,
    byte_order_mark: bool,
    chunk_bytes: Option<NonZeroUsize>,
}

/// The contents of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    /// The reply of the mock's bot. The request takes effect.
    #[default]
    Reply,
    /// JSON with status 200 instead of a stream. The request has no effect.
    Refused(ReportedError),
    /// These bytes; the request has no effect.
    Raw(ScriptedBody),
}

/// How the stream ends. The numbers count the events before the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StreamEnd {
    #[default]
    Complete,
    Cut(usize),
    Reset(usize),
    Error {
        after: usize,
        #[serde(flatten)]
        error: ReportedError,
    },
}

/// An error as the API reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReportedError {
    pub(crate) code: i64,
    pub(crate) msg: String,
}

impl ReportedError {
    fn new(code: i64, msg: impl Into<String>) -> Self {
        let msg = msg.into();
        Self { code, msg }
    }
}

impl ScriptedStream {
    fn of(content: Content) -> Self {
        Self {
            content,
            ..Self::default()
        }
    }

    /// The reply of the mock's bot. The request takes effect, however the stream ends: the chat can be retrieved.
    #[must_use]
    pub fn reply() -> Self {
        Self::of(Content::Reply)
    }

    /// An error in JSON, with status 200, instead of the stream. The request has no effect.
    #[must_use]
    pub fn refused(code: i64, msg: impl Into<String>) -> Self {
        Self::of(Content::Refused(ReportedError::new(code, msg)))
    }

    /// These bytes, as `text/event-stream`. The request has no effect. An event ends with an empty line.
    #[must_use]
    pub fn raw(bytes: impl Into<ScriptedBody>) -> Self {
        Self::of(Content::Raw(bytes.into()))
    }

    /// Ends the stream properly after this many events, without the end marker.
    #[must_use]
    pub fn cut_after(mut self, events: usize) -> Self {
        self.end = StreamEnd::Cut(events);
        self
    }

    /// Resets the connection after this many events; in process, the body ends with an error
    /// ([`ServiceError::is_connection_reset`](crate::ServiceError::is_connection_reset)).
    #[must_use]
    pub fn reset_after(mut self, events: usize) -> Self {
        self.end = StreamEnd::Reset(events);
        self
    }

    /// Ends the stream with an `error` event after this many events.
    #[must_use]
    pub fn error_after(mut self, events: usize, code: i64, msg: impl Into<String>) -> Self {
        let error = ReportedError::new(code, msg);
        self.end = StreamEnd::Error {
            after: events,
            error,
        };
        self
    }

    /// A pause before the first event, after the headers of the response. For one before the headers, add
    /// [`Fault::latency`](crate::Fault::latency). Like all pauses, in whole milliseconds of tokio's time, which tests can pause.
    #[must_use]
    pub fn first_event_after(mut self, pause: Duration) -> Self {
        self.first_event_millis = millis(pause);
        self
    }

    /// A pause between events.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause_millis = millis(pause);
        self
    }

    /// A comment, `:keepalive`, before each event.
    #[must_use]
    pub fn comments(mut self) -> Self {
        self.comments = true;
        self
    }

    /// A byte order mark before everything else.
    #[must_use]
    pub fn byte_order_mark(mut self) -> Self {
        self.byte_order_mark = true;
        self
    }

    /// Sends the stream in chunks of this many bytes, with a separate write for each; 0 counts as 1. With 1, every
    /// multi-byte character is split.
    #[must_use]
    pub fn chunks_of(mut self, bytes: usize) -> Self {
        self.chunk_bytes = Some(NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN));
        self
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let longest = millis(limits::LONGEST);
        if self.first_event_millis > longest || self.pause_millis > longest {
            return Err("has a pause outside 0 to 3155760000000 ms (100 years)");
        }
        Ok(())
    }

    /// The approximate memory that it uses.
    pub(crate) fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Reply => 0,
            Content::Refused(error) => error.msg.len(),
            Content::Raw(body) => body.len(),
        };
        let end = match &self.end {
            StreamEnd::Error { error, .. } => error.msg.len(),
            StreamEnd::Complete | StreamEnd::Cut(_) | StreamEnd::Reset(_) => 0,
        };
        content + end
    }

    /// Whether the script does not use the real response.
    pub(crate) fn replaces(&self) -> bool {
        self.content != Content::Reply
    }

    /// The response of a script that does not use the real one.
    pub(crate) fn answer_instead(&self, log_id: &str) -> Option<Answer> {
        match &self.content {
            Content::Reply => None,
            Content::Refused(error) => {
                let body = shape_c(error.code, &error.msg, log_id).to_string();
                let answer = Answer::of_type(StatusCode::OK, JSON, body);
                Some(answer.with_error(&error.code.to_string()))
            }
            Content::Raw(body) => {
                let mut answer = Answer::stream(body.to_bytes());
                self.apply(&mut answer);
                Some(answer)
            }
        }
    }

    /// Changes how a stream is sent. A response that is not a stream, such as a refusal, is unchanged.
    pub(crate) fn apply(&self, answer: &mut Answer) {
        if !answer.is_stream {
            return;
        }
        let all = events(&answer.body);
        let mut sent: Vec<Bytes> = match &self.end {
            StreamEnd::Complete => all.collect(),
            StreamEnd::Cut(count) | StreamEnd::Reset(count) => all.take(*count).collect(),
            StreamEnd::Error { after, error } => {
                let error = event("error", &json!({"code": error.code, "msg": error.msg}));
                all.take(*after).chain([error]).collect()
            }
        };
        if self.comments {
            for event in &mut sent {
                *event = joined(b":keepalive\n\n", event);
            }
        }
        if self.byte_order_mark {
            let rest = sent.first().cloned().unwrap_or_default();
            let marked = joined("\u{feff}".as_bytes(), &rest);
            match sent.first_mut() {
                Some(first) => *first = marked,
                None => sent.push(marked),
            }
        }
        let mut parts = Vec::new();
        for (number, event) in sent.iter().enumerate() {
            let pause = if number == 0 {
                self.first_event_millis
            } else {
                self.pause_millis
            };
            if pause > 0 {
                parts.push(Part::Pause(Duration::from_millis(pause)));
            }
            let size = self.chunk_bytes.map_or(event.len(), NonZeroUsize::get);
            for from in (0..event.len()).step_by(size.max(1)) {
                let to = from.saturating_add(size).min(event.len());
                parts.push(Part::Bytes(event.slice(from..to)));
            }
        }
        if matches!(self.end, StreamEnd::Reset(_)) {
            parts.push(Part::Reset);
        }
        answer.stalls &= self.end == StreamEnd::Complete;
        answer.parts = Some(parts);
    }
}

/// The reply of the mock's bot to a chat, instead of an echo. Planned like a fault, for requests that start a chat,
/// streamed or not. It can be combined with any fault and with a [`ScriptedStream`].
///
/// ```
/// # fn main() -> Result<(), coze_mock::Error> {
/// use coze_mock::{Endpoint, MockCoze, ScriptedReply, Times};
///
/// let mock = MockCoze::builder().build()?;
/// mock.faults().add(ScriptedReply::new().text("It will rain."), Endpoint::CreateChat, Times::ONCE);
/// // The chat requires an action; after its output has been submitted, the bot answers with the text:
/// let tool = ScriptedReply::new().tool_call("read_thermometer", r#"{"room":"hall"}"#).text("It is warm.");
/// mock.faults().add(tool, Endpoint::CreateChat, Times::ONCE);
/// mock.faults().add(ScriptedReply::new().failure(5000, "event interval error"), Endpoint::CreateChat, Times::ONCE);
/// # Ok(()) }
/// ```
///
/// In JSON, for the control endpoint: `{"reply": {"text": "It is warm.", "tool_calls": [{"name": "read_thermometer",
/// "arguments": "{\"room\":\"hall\"}"}]}}`, `{"reply": {"failure": {"code": 5000, "msg": "event interval error"}}}`,
/// `{"reply": {"unfinished": true}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ScriptedReply {
    pub(crate) text: Option<String>,
    pub(crate) tool_calls: Vec<ScriptedToolCall>,
    pub(crate) failure: Option<ReportedError>,
    pub(crate) unfinished: bool,
}

/// A tool call for the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScriptedToolCall {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) arguments: String,
}

impl ScriptedReply {
    /// The default reply: an echo of the question.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bot answers with this text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The bot first requires this tool, so the chat requires an action. Can be called repeatedly. `arguments` are JSON
    /// in a string.
    #[must_use]
    pub fn tool_call(mut self, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        let (name, arguments) = (name.into(), arguments.into());
        self.tool_calls.push(ScriptedToolCall { name, arguments });
        self
    }

    /// The chat fails with this error.
    #[must_use]
    pub fn failure(mut self, code: i64, msg: impl Into<String>) -> Self {
        self.failure = Some(ReportedError::new(code, msg));
        self
    }

    /// The bot never ends: the chat stays in progress until it is canceled, and a stream falls silent.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.unfinished = true;
        self
    }

    /// The approximate memory that it uses.
    pub(crate) fn bytes(&self) -> usize {
        let call = |call: &ScriptedToolCall| 64 + call.name.len() + call.arguments.len();
        self.text.as_ref().map_or(0, String::len)
            + self.tool_calls.iter().map(call).sum::<usize>()
            + self.failure.as_ref().map_or(0, |error| error.msg.len())
    }
}

/// An event of a stream, as Coze sends it.
pub(crate) fn event(name: &str, data: &Value) -> Bytes {
    format!("event:{name}\ndata:{data}\n\n").into()
}

/// The events of a stream: each ends with an empty line, except possibly the last one.
pub(crate) fn events(stream: &Bytes) -> impl Iterator<Item = Bytes> + use<> {
    let mut rest = stream.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.windows(2).position(|window| window == b"\n\n");
        Some(rest.split_to(end.map_or(rest.len(), |end| end + 2)))
    })
}

fn joined(one: &[u8], other: &[u8]) -> Bytes {
    let mut both = BytesMut::with_capacity(one.len() + other.len());
    both.put_slice(one);
    both.put_slice(other);
    both.freeze()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
