//! Parses a response into the type of its operation.

use std::{fmt, future::Future, ops::Deref};

use bytes::Bytes;
use coze_auth::{ApiCall, ErrorKind, Result as AuthResult};
use coze_wire::{
    BodyState, Captured, Data, Empty, EnvelopeData, Events, Raw, StreamEvent, Whole, sanitize,
};
use reqwest::header::CONTENT_TYPE;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use crate::{
    EventStream, Reply, Result,
    dispatch::{Answered, Body},
};

/// Parses the response of an operation. Implemented for the response forms of `coze-wire`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a response of the API",
    note = "the response of an operation is `Data<T>`, `Whole<T>` (`T: DeserializeOwned`), `Empty`, `Raw` or `Events<E>` (`E: StreamEvent`)"
)]
pub trait Decode: Sized + 'static {
    /// The type that [`send`](crate::SendExt::send) returns.
    type Reply: Send;

    /// Whether the response may be an event stream.
    #[doc(hidden)]
    const HAS_EVENTS: bool = false;

    /// Parses the response. Of a stream, it waits for the first event, because that may refuse the token.
    ///
    /// # Errors
    ///
    /// When the response is an error, or does not match the description.
    #[doc(hidden)]
    fn decode(answered: Answered) -> impl Future<Output = Result<Self::Reply>> + Send;
}

/// The usual form of a success. Without a code, or with one that is not a number, the tolerant parser decides.
#[derive(Deserialize)]
struct Envelope<T> {
    code: i64,
    data: T,
}

/// The envelope without its data.
#[derive(Deserialize)]
struct Code {
    code: i64,
}

/// The data of a success whose code the tolerant parser has checked.
#[derive(Deserialize)]
struct Held<T> {
    data: T,
}

impl<T: DeserializeOwned + Send + 'static> Decode for Data<T> {
    type Reply = Reply<T>;

    async fn decode(answered: Answered) -> Result<Reply<T>> {
        answered.read(
            |body| {
                let envelope: Envelope<T> = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(envelope.data)
            },
            |held: Held<EnvelopeData<T>>| held.data.0,
        )
    }
}

impl<T: DeserializeOwned + Send + 'static> Decode for Whole<T> {
    type Reply = Reply<T>;

    async fn decode(answered: Answered) -> Result<Reply<T>> {
        answered.read(
            |body| {
                let envelope: Code = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(())?;
                serde_json::from_slice(body).ok()
            },
            |whole| whole,
        )
    }
}

impl Decode for Empty {
    type Reply = Reply<()>;

    async fn decode(answered: Answered) -> Result<Reply<()>> {
        answered.read(
            |body| {
                let envelope: Code = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(())
            },
            |_: IgnoredAny| (),
        )
    }
}

/// The body of a response that is not parsed, such as a file: the reply of an operation with the response form
/// [`Raw`]. It derefs to its bytes.
///
/// A JSON object with one of Coze's error codes is an error, as for other operations, and so is every status but 2xx. Any
/// other body is returned, JSON too. Its size is limited by [`body_limit`](crate::SendExt::body_limit).
///
/// ```no_run
/// use coze_api::{
///     CozeApi, SendExt,
///     operation::{Call, Dispatcher, Operation, OperationInfo, Raw, Retry, Unbuilt},
///     reqwest::{Method, Request},
/// };
///
/// /// An operation of your own.
/// struct Download(Dispatcher, Request);
///
/// impl Operation for Download {
///     type Answer = Raw;
///
///     const INFO: &'static OperationInfo = &OperationInfo { id: "download", retry: Retry::Read };
///
///     fn into_call(self) -> Result<Call, Unbuilt> {
///         Ok(Call::new(self.0, Self::INFO, self.1))
///     }
/// }
///
/// # async fn example(coze: CozeApi, url: coze_api::reqwest::Url) -> Result<(), Box<dyn std::error::Error>> {
/// let file = Download(coze.dispatcher(), Request::new(Method::GET, url));
/// let file = file.body_limit(100 * 1024 * 1024).send().await?;
/// println!("{} bytes of {:?}", file.len(), file.content_type());
/// std::fs::write("file", file.into_inner().into_bytes())?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RawBody {
    content_type: Option<String>,
    bytes: Bytes,
}

impl RawBody {
    /// The value of the `Content-Type` header, such as `audio/mpeg`, if there is one.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The bytes, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Deref for RawBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for RawBody {
    // The bytes may contain anything, secrets included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBody")
            .field("content_type", &self.content_type)
            .field("bytes", &format_args!("{} bytes", self.bytes.len()))
            .finish()
    }
}

impl Decode for Raw {
    type Reply = Reply<RawBody>;

    async fn decode(answered: Answered) -> Result<Reply<RawBody>> {
        let (call, captured) = answered.captured()?;
        if !captured.status().is_success() || starts_as_object(captured.body()) {
            let read = call.read::<IgnoredAny>(&captured);
            // Any other JSON may be what was asked for.
            let is_of_coze = |error: &coze_auth::Error| {
                !captured.status().is_success() || error.code().is_some()
            };
            if let Err(error) = read
                && is_of_coze(&error)
            {
                return Err(error.into());
            }
        }
        match captured.body_state() {
            BodyState::Complete => {}
            BodyState::Broken(error) => return Err(call.unanswered(error.clone()).into()),
            // More than the limit.
            _ => {
                let what = format!("the answer is longer than {} bytes", captured.body().len());
                return Err(call.error(ErrorKind::InvalidAnswer, &what).into());
            }
        }
        let log_id = call.log_id(None);
        let content_type = captured.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let body = RawBody {
            content_type: content_type.map(|value| sanitize(value, call.secrets())),
            bytes: captured.into_body(),
        };
        Ok(Reply::new(body, log_id))
    }
}

/// Whether a body may be a JSON object: its first byte after a byte order mark and blanks is a brace.
fn starts_as_object(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    body.trim_ascii_start().starts_with(b"{")
}

impl<E: StreamEvent> Decode for Events<E> {
    type Reply = EventStream<E>;

    const HAS_EVENTS: bool = true;

    async fn decode(answered: Answered) -> Result<EventStream<E>> {
        let Answered { origin, body } = answered;
        match body {
            Body::Events { body, limits } => EventStream::open(origin, body, limits).await,
            Body::Read(captured) => {
                // An error that it holds, first.
                let read = origin.call.read::<IgnoredAny>(&captured);
                let what = "the response is JSON; expected an event stream";
                let unexpected = || origin.call.error(ErrorKind::InvalidAnswer, what);
                Err(read.err().unwrap_or_else(unexpected).into())
            }
        }
    }
}

impl Answered {
    /// Parses a success on the fast path. If that fails, the tolerant parser is used, whose error says what is wrong.
    fn read<T, R: DeserializeOwned>(
        self,
        quickly: impl FnOnce(&[u8]) -> Option<T>,
        value: impl FnOnce(R) -> T,
    ) -> Result<Reply<T>> {
        let (call, captured) = self.captured()?;
        let is_success = captured.status().is_success();
        let read = match is_success.then(|| quickly(captured.body())).flatten() {
            Some(value) => Ok(value),
            None => call.read(&captured).map(value),
        };
        match read {
            Ok(value) => Ok(Reply::new(value, call.log_id(Some(&captured)))),
            Err(error) => Err(error.into()),
        }
    }

    /// The call and its complete response.
    fn captured(self) -> AuthResult<(ApiCall, Captured)> {
        let call = self.origin.call;
        match self.body {
            Body::Read(captured) => Ok((call, captured)),
            Body::Events { .. } => {
                let what = "the response is an event stream; expected a complete body";
                Err(call.error(ErrorKind::InvalidAnswer, what))
            }
        }
    }
}
