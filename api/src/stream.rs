//! [`EventStream`]: a stream of events that ends with its end marker or an error.

use std::{
    borrow::Cow,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use coze_auth::{ApiCall, Error as AuthError, ErrorKind};
use coze_wire::{Retry, Secret, SendError, StreamEvent, sanitize};
use futures_util::{Stream, StreamExt, stream::FusedStream};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    Error, Result,
    dispatch::{Chunks, Limits, Origin, after, may_be_processed, timed_out},
};

/// The events of a response, as they arrive.
///
/// It ends (`None`) only after the end marker, or after an event that interrupts the chat. If the connection is closed
/// before that or is silent for too long, or Coze reports an error, the stream returns an error and ends. The error has
/// the log id and, if the request or an event had them, the ids of the [chat](Error::chat_id) and its
/// [conversation](Error::conversation_id), with which the chat can be retrieved. If the operation starts or continues a
/// chat, and the stream was cut, the [fate](Error::is_fate_unknown) of the call is unknown.
///
/// Dropping it closes the connection. The whole stream has no timeout, only its first byte
/// ([`timeout`](crate::SendExt::timeout)) and the silence between bytes
/// ([`idle_timeout`](crate::SendExt::idle_timeout)). [`send`](crate::SendExt::send) returns it with its first event: if that
/// refuses the token, the token is renewed and the request is sent once more, as for other operations. A later event that
/// refuses it is an error of the stream. An event with an undocumented name is returned unchanged, in the
/// variant `Other`.
///
/// ```
/// use coze_api::{EventStream, Result};
/// use coze_wire::StreamEvent;
///
/// async fn count<E: StreamEvent>(mut events: EventStream<E>) -> Result<usize> {
///     let mut count = 0;
///     while let Some(_event) = events.try_next().await? {
///         count += 1;
///     }
///     Ok(count)
/// }
/// ```
pub struct EventStream<E> {
    /// `None` once it has ended.
    events: Option<Pin<Box<SseByteStream<Arriving>>>>,
    /// The first event, until the caller takes it.
    first: Option<Box<Result<E>>>,
    arrived: Arc<Arrived>,
    event_limit: usize,
    origin: Origin,
    log_id: Option<String>,
    end_data: Option<String>,
}

impl<E: StreamEvent> EventStream<E> {
    /// Waits for the first event, because that may refuse the token, which can be renewed before any other event only.
    ///
    /// # Errors
    ///
    /// If the first event refuses the token. Every other error is that of the first [`next`](Self::next).
    pub(crate) async fn open(origin: Origin, body: Chunks, limits: Limits) -> Result<Self> {
        let mut stream = Self::new(origin, body, limits);
        match stream.next().await {
            Some(Err(error)) if error.is_token_refused() => return Err(error),
            first => stream.first = first.map(Box::new),
        }
        Ok(stream)
    }

    fn new(origin: Origin, body: Chunks, limits: Limits) -> Self {
        let deadline = after(Instant::now(), limits.idle_timeout);
        let log_id = origin.call.log_id(None);
        let arrived = Arc::<Arrived>::default();
        let arriving = Arriving {
            body,
            arrived: Arc::clone(&arrived),
            idle_timeout: limits.idle_timeout,
            event_limit: limits.event_limit,
            deadline,
            has_grace: true,
            alarm: Box::pin(sleep_until(deadline)),
            secrets: origin.call.secrets().to_vec(),
        };
        Self {
            events: Some(Box::pin(SseByteStream::new(arriving))),
            first: None,
            arrived,
            event_limit: limits.event_limit,
            origin,
            log_id,
            end_data: None,
        }
    }

    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<E>> {
        StreamExt::next(self).await
    }

    /// The next event; `None` after the last one.
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) when Coze reports an error in the stream.
    /// - [`Interrupted`](ErrorKind::Interrupted) when the stream ends before its end marker, or the connection is
    ///   closed.
    /// - [`Timeout`](ErrorKind::Timeout) when the stream is silent for too long.
    /// - [`InvalidAnswer`](ErrorKind::InvalidAnswer) when an event is too long, or does not match the description.
    pub async fn try_next(&mut self) -> Result<Option<E>> {
        self.next().await.transpose()
    }

    /// What an event is for the caller; `None` if it is not passed on. An event that ends the stream closes the
    /// connection.
    // Events are large, and each call that is not inlined copies them.
    #[inline(always)]
    fn step(&mut self, event: Sse) -> Option<Result<E>> {
        let names = E::NAMES;
        let name = event.event.as_deref().unwrap_or("message");
        let data = event.data.as_deref().unwrap_or_default();
        if names.end.contains(&name) {
            self.end_data = event.data;
            self.events = None;
            return None;
        }
        if names.error.contains(&name) {
            if self.is_cut(data) {
                return Some(Err(self.cut_short()));
            }
            return Some(Err(self.reported(data)));
        }
        // An event without data is ignored (HTML, section 9.2.6).
        event.data.as_ref()?;
        self.note_ids(name, data);
        if names.interrupt.contains(&name) {
            self.events = None;
        }
        let mut json = serde_json::Deserializer::from_str(data);
        Some(match E::read(name, &mut json) {
            Ok(Some(read)) if json.end().is_ok() => Ok(read),
            Ok(None) if self.is_cut(data) => Err(self.cut_short()),
            Ok(None) => {
                let data = event.data.unwrap_or_default();
                let name = event.event.unwrap_or_else(|| "message".to_owned());
                Ok(E::other(name, data))
            }
            _ => Err(self.not_as_described(name, data)),
        })
    }

    #[cold]
    fn not_as_described(&self, name: &str, data: &str) -> Error {
        if self.arrived.is_at_end() {
            // The event is truncated.
            return self.cut_short();
        }
        let subject = format!("the event {name}");
        if serde_json::from_str::<IgnoredAny>(data).is_err() {
            let what = format!("{subject} is not valid JSON");
            return self.error(self.call().error(ErrorKind::InvalidAnswer, &what));
        }
        // Parse it again, to get the path of the error.
        let mut json = serde_json::Deserializer::from_str(data);
        let mut track = serde_path_to_error::Track::new();
        let read = E::read(
            name,
            serde_path_to_error::Deserializer::new(&mut json, &mut track),
        );
        let why = read.err().map(|why| why.to_string()).unwrap_or_default();
        let path = track.path().to_string();
        self.error(self.call().not_as_described(&subject, &path, &why, data))
    }

    /// Whether an event without a description was cut by the end of the body. Coze's events are JSON, so the last one
    /// is whole if its JSON is.
    fn is_cut(&self, data: &str) -> bool {
        self.arrived.is_at_end() && serde_json::from_str::<IgnoredAny>(data).is_err()
    }

    /// An error event of Coze's: `{code, msg}`, or `{error_code, error_message}`.
    fn reported(&self, data: &str) -> Error {
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        let code = ["code", "error_code"]
            .iter()
            .find_map(|name| data.get(name));
        let code = code.and_then(|code| code.as_i64().or_else(|| code.as_str()?.parse().ok()));
        let messages = ["msg", "error_message", "message"];
        let message = messages.iter().find_map(|name| data.get(name)?.as_str());
        let message = message.unwrap_or_default();
        self.error(self.call().refused(code, message))
    }

    fn note_ids(&mut self, name: &str, data: &str) {
        #[derive(Deserialize)]
        struct Ids<'a> {
            #[serde(borrow)]
            id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            chat_id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            conversation_id: Option<Cow<'a, str>>,
        }
        let known = &mut self.origin.ids;
        if known.chat.is_some() && known.conversation.is_some() {
            return;
        }
        let Ok(ids) = serde_json::from_str::<Ids<'_>>(data) else {
            return;
        };
        let is_chat = name.starts_with("conversation.chat.");
        let chat_id = ids.chat_id.or(ids.id.filter(|_| is_chat));
        let secrets = self.origin.call.secrets();
        let shown = |id: Cow<'_, str>| coze_wire::sanitize_log_id(&id, secrets);
        known.chat = known.chat.take().or_else(|| shown(chat_id?));
        let conversation_id = ids.conversation_id;
        known.conversation = known
            .conversation
            .take()
            .or_else(|| shown(conversation_id?));
    }

    fn failed(&self, error: &sse_stream::Error) -> Error {
        let sse_stream::Error::Body(cause) = error else {
            if self.arrived.is_at_end() {
                // A character is truncated.
                return self.cut_short();
            }
            let what = format!("the stream can't be read: {error}");
            return self.error(self.call().error(ErrorKind::InvalidAnswer, &what));
        };
        match cause.downcast_ref() {
            Some(Fault::Transport(error)) => self.error(self.call().unanswered(error.clone())),
            Some(Fault::Silent(after)) => {
                self.of_chat(timed_out(self.call(), &format!("nothing for {after:?}")))
            }
            Some(Fault::TooLong) | None => self.too_long(),
        }
    }

    fn too_long(&self) -> Error {
        let what = format!(
            "an event of the stream is longer than {} bytes",
            self.event_limit
        );
        self.error(self.call().error(ErrorKind::InvalidAnswer, &what))
    }

    fn cut_short(&self) -> Error {
        let what = "the stream ended before its end marker";
        self.error(self.call().error(ErrorKind::Interrupted, what))
    }

    fn call(&self) -> &ApiCall {
        &self.origin.call
    }

    fn error(&self, error: AuthError) -> Error {
        self.of_chat(error.into())
    }

    fn of_chat(&self, error: Error) -> Error {
        let Origin { operation, ids, .. } = &self.origin;
        let error = error.in_operation(operation);
        let error = error.of_chat(ids.chat.clone(), ids.conversation.clone());
        if operation.retry != Retry::Read && may_be_processed(&error) {
            error.with_unknown_fate()
        } else {
            error
        }
    }
}

impl<E> EventStream<E> {
    /// Coze's log id (`x-tt-logid`); quote it to Coze's support. It is available before the first event.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The id of the chat: the request's, or else that of the first event that contains it.
    #[must_use]
    pub fn chat_id(&self) -> Option<&str> {
        self.origin.ids.chat.as_deref()
    }

    /// The id of the conversation: the request's, or else that of the first event that contains it.
    #[must_use]
    pub fn conversation_id(&self) -> Option<&str> {
        self.origin.ids.conversation.as_deref()
    }

    /// The data of the end marker, once it has arrived: for a chatflow, JSON with a `debug_url`.
    #[must_use]
    pub fn end_data(&self) -> Option<&str> {
        self.end_data.as_deref()
    }

    /// Makes a text of an event safe to display, such as the message of a chat's `last_error`, which may repeat the access
    /// token of the request: see [`sanitize`].
    #[must_use]
    pub fn sanitized(&self, text: &str) -> String {
        sanitize(text, self.origin.call.secrets())
    }

    fn has_ended(&self) -> bool {
        self.events.is_none() && self.first.is_none()
    }
}

impl<E: StreamEvent> Stream for EventStream<E> {
    type Item = Result<E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<E>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(*first));
        }
        loop {
            let Some(events) = &mut self.events else {
                return Poll::Ready(None);
            };
            let step = match ready!(events.as_mut().poll_next(context)) {
                Some(Ok(event)) if self.arrived.take() <= self.event_limit => self.step(event),
                Some(Ok(_)) => Some(Err(self.too_long())),
                Some(Err(error)) => Some(Err(self.failed(&error))),
                None => Some(Err(self.cut_short())),
            };
            if let Some(Err(_)) = step {
                // Closes the connection.
                self.events = None;
            }
            if step.is_some() {
                return Poll::Ready(step);
            }
        }
    }
}

impl<E: StreamEvent> FusedStream for EventStream<E> {
    fn is_terminated(&self) -> bool {
        self.has_ended()
    }
}

impl<E> fmt::Debug for EventStream<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("operation", &self.origin.operation.id)
            .field("log_id", &self.log_id)
            .field("chat_id", &self.chat_id())
            .field("conversation_id", &self.conversation_id())
            .field("has_ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

// The position in the line that is consumed.
const LINE_START: u8 = 0;
/// After a carriage return, whose line feed may follow.
const AFTER_CR: u8 = 1;
const AFTER_COMMENT_CR: u8 = 2;
const IN_LINE: u8 = 3;
const IN_COMMENT: u8 = 4;

/// The progress of the parser in the body.
#[derive(Default)]
struct Arrived {
    /// The bytes since the last event, without comments.
    since_event: AtomicUsize,
    /// `LINE_START` and so on.
    position: AtomicU8,
    is_at_end: AtomicBool,
}

impl Arrived {
    /// The length of the event that was parsed last.
    fn take(&self) -> usize {
        let length = self.since_event.load(Ordering::Relaxed);
        self.since_event.store(0, Ordering::Relaxed);
        length
    }

    /// Counts bytes that the parser has consumed. Comments, and the empty lines between them, may go on for as long as
    /// the stream does, so they don't count. No concurrent calls: one task at a time polls the parser and its stream.
    fn count(&self, mut bytes: &[u8]) {
        let mut since_event = self.since_event.load(Ordering::Relaxed);
        let mut position = self.position.load(Ordering::Relaxed);
        while let Some(first) = bytes.first() {
            if matches!(position, AFTER_CR | AFTER_COMMENT_CR) {
                let is_counted = position == AFTER_CR && since_event > 0;
                position = LINE_START;
                if *first == b'\n' {
                    since_event += usize::from(is_counted);
                    bytes = &bytes[1..];
                    continue;
                }
            }
            if position == LINE_START {
                position = if *first == b':' { IN_COMMENT } else { IN_LINE };
            }
            let is_comment = position == IN_COMMENT;
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            let length = end.map_or(bytes.len(), |end| end + 1);
            let is_between_events = end == Some(0) && since_event == 0;
            if !is_comment && !is_between_events {
                since_event += length;
            }
            if let Some(end) = end {
                position = match (bytes[end], is_comment) {
                    (b'\r', false) => AFTER_CR,
                    (b'\r', true) => AFTER_COMMENT_CR,
                    _ => LINE_START,
                };
            }
            bytes = &bytes[length..];
        }
        self.since_event.store(since_event, Ordering::Relaxed);
        self.position.store(position, Ordering::Relaxed);
    }

    /// Whether the body has ended.
    fn is_at_end(&self) -> bool {
        self.is_at_end.load(Ordering::Relaxed)
    }
}

/// A part of the body. It records how much of it the parser has consumed.
struct Part {
    bytes: Bytes,
    arrived: Arc<Arrived>,
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.arrived.count(&self.bytes[..count]);
        self.bytes.advance(count);
    }
}

/// If a stream is polled late, because its caller was busy or blocked the runtime, parts may have arrived that the
/// connection has not passed on yet: they get this time.
const GRACE: Duration = Duration::from_secs(1);
/// A timer that fires within this time is not late.
const ON_TIME: Duration = Duration::from_millis(10);

/// The body as it arrives, with its timeouts and its limit.
struct Arriving {
    body: Chunks,
    arrived: Arc<Arrived>,
    idle_timeout: Duration,
    event_limit: usize,
    /// When the next part must have arrived.
    deadline: Instant,
    /// Whether the deadline may still be extended by `GRACE`.
    has_grace: bool,
    /// A timer that fires at the deadline or earlier.
    alarm: Pin<Box<Sleep>>,
    secrets: Vec<Secret>,
}

/// Why the body ended early.
#[derive(Debug)]
enum Fault {
    Transport(SendError),
    Silent(Duration),
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

impl Stream for Arriving {
    type Item = std::result::Result<Part, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.arrived.is_at_end() {
            return Poll::Ready(None);
        }
        if self.arrived.since_event.load(Ordering::Relaxed) > self.event_limit {
            return Poll::Ready(Some(Err(Fault::TooLong)));
        }
        match self.body.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.has_grace = true;
                self.deadline = after(Instant::now(), self.idle_timeout);
                Poll::Ready(Some(Ok(self.part(bytes))))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = SendError::from_reqwest(&error, &self.secrets);
                Poll::Ready(Some(Err(Fault::Transport(error))))
            }
            Poll::Ready(None) => {
                // The empty line after the last event may be missing.
                self.arrived.is_at_end.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Ok(self.part(Bytes::from_static(b"\n\n")))))
            }
            Poll::Pending => loop {
                let deadline = self.deadline;
                // The timer is reset only after it has fired, because most parts arrive long before the deadline.
                if self.alarm.deadline() > deadline || self.alarm.is_elapsed() {
                    self.alarm.as_mut().reset(deadline);
                }
                ready!(self.alarm.as_mut().poll(context));
                let now = Instant::now();
                if now > deadline + ON_TIME && self.has_grace {
                    self.has_grace = false;
                    self.deadline = after(now, GRACE);
                } else if now >= deadline {
                    return Poll::Ready(Some(Err(Fault::Silent(self.idle_timeout))));
                }
            },
        }
    }
}

impl Arriving {
    fn part(&self, bytes: Bytes) -> Part {
        Part {
            bytes,
            arrived: Arc::clone(&self.arrived),
        }
    }
}
