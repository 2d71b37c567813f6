//! One call of an operation: the interface between generated builders and the client that sends their requests.
//!
//! A generated builder implements [`Operation`]: it becomes a [`Call`], which is a finished request with a description
//! of its operation. A builder sends nothing. The client that sends the call is in its [`Dispatcher`]: it adds the
//! token, sends, retries and parses the response, in the same way for all operations. So neither this crate nor a
//! generated one knows the errors of that client.
//!
//! # What generated code guarantees
//!
//! - The generated client is `Clone` and owns its data; its inner value is a [`Dispatcher`]. Builders own a clone of
//!   the client, and are `Clone`, `Send` and `'static`.
//! - Each builder implements [`Operation`]. [`into_call`](Operation::into_call) builds a request with the full URL, the
//!   query, the documented constant headers, `Accept` and the body, but without `Authorization`, user agent and
//!   `api-version`.
//! - [`Operation::Answer`] is one of [`Data`], [`Whole`], [`Empty`], [`Raw`] or [`Events`], with the generated type of
//!   the contents. The client parses the envelope (`code`, `msg`, `detail`); no generated type contains it.
//! - A list also implements [`Paged`], and the enum of a stream's events implements [`StreamEvent`].
//! - No setter has the name of a method that every operation has: `send`, `timeout`, `retries`, `body_limit`,
//!   `event_limit`, `idle_timeout`, `configured`, `by_page`, `by_item`, `and_wait`, `into_call`.
//!
//! ```
//! use coze_wire::{
//!     Call, Data, Dispatcher, Operation, OperationInfo, Page, Paged, Position, Retry, Unbuilt, reqwest,
//! };
//!
//! #[derive(Clone)]
//! pub struct Client {
//!     base_url: String,
//!     http: reqwest::Client,
//!     dispatcher: Dispatcher,
//! }
//!
//! #[derive(Clone)]
//! pub struct ListBots {
//!     client: Client,
//!     page_num: Result<Option<i64>, String>,
//!     workspace_id: Result<String, String>,
//! }
//!
//! #[derive(serde::Deserialize)]
//! pub struct BotPage {
//!     items: Vec<Bot>,
//!     total: Option<u64>,
//! }
//!
//! #[derive(serde::Deserialize, serde::Serialize)]
//! pub struct Bot {
//!     id: String,
//! }
//!
//! impl Operation for ListBots {
//!     type Answer = Data<BotPage>;
//!
//!     const INFO: &'static OperationInfo = &OperationInfo { id: "list_bots", retry: Retry::Read };
//!
//!     fn into_call(self) -> Result<Call, Unbuilt> {
//!         let workspace_id = self.workspace_id.map_err(Unbuilt::new)?;
//!         let page_num = self.page_num.map_err(Unbuilt::new)?;
//!         let request = self.client.http.get(format!("{}/v1/bots", self.client.base_url));
//!         let request = request.query(&[("workspace_id", workspace_id)]);
//!         let request = request.query(&[("page_num", page_num)]).build();
//!         Ok(Call::new(self.client.dispatcher, Self::INFO, request.map_err(Unbuilt::new)?))
//!     }
//! }
//!
//! impl Paged for ListBots {
//!     type Item = Bot;
//!     type Page = BotPage;
//!
//!     fn position(&self) -> Position {
//!         Position::Number(self.page_num.as_ref().ok().copied().flatten().unwrap_or(1))
//!     }
//!
//!     fn at(mut self, position: Position) -> Self {
//!         self.page_num = Ok(position.number());
//!         self
//!     }
//!
//!     fn page(&self, page: BotPage) -> Page<Bot> {
//!         Page { items: page.items, total: page.total, has_more: None, next: None }
//!     }
//! }
//!
//! let list = ListBots {
//!     client: Client {
//!         base_url: "http://localhost".into(),
//!         http: coze_wire::http_client("http://localhost").unwrap(),
//!         dispatcher: Dispatcher::new(()), // the client that sends the calls
//!     },
//!     page_num: Ok(None),
//!     workspace_id: Ok("7001".into()),
//! };
//! let call = list.at(Position::Number(2)).into_call().unwrap();
//! assert_eq!(call.request.url().as_str(), "http://localhost/v1/bots?workspace_id=7001&page_num=2");
//! ```

use std::{any::Any, convert::Infallible, fmt, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Deserializer, Serialize, de::DeserializeOwned};

use crate::sanitize;

/// A request of an operation, with all of its parameters. Generated builders implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an operation of the API",
    label = "this is not an operation",
    note = "operations are the builders that a client's groups return, such as `coze.chat().create()`"
)]
pub trait Operation: Sized + Send + 'static {
    /// The form of the response: [`Data`], [`Whole`], [`Empty`], [`Raw`] or [`Events`].
    type Answer;

    /// The description of the operation.
    const INFO: &'static OperationInfo;

    /// Builds the request.
    ///
    /// # Errors
    ///
    /// [`Unbuilt`] when a parameter is missing or can't be sent.
    fn into_call(self) -> Result<Call, Unbuilt>;
}

/// The description of an operation, the same for all of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationInfo {
    /// The name, such as `create_chat`.
    pub id: &'static str,
    /// When it may be retried.
    pub retry: Retry,
}

/// When a call may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Changes nothing: a GET, or a list that is requested by POST. It is retried after every retryable failure.
    Read,
    /// Changes something: it is retried only if the server did not process it.
    Write,
}

/// The response is the data of the envelope: `{"code": 0, "msg": "", "data": T}`.
pub struct Data<T>(PhantomData<fn() -> T>);

/// The response is the whole envelope, because members other than `data` belong to it: `T` has a member `data`.
pub struct Whole<T>(PhantomData<fn() -> T>);

/// The response is the envelope without contents.
pub struct Empty(Infallible);

/// The response is a body of any type, such as a file, which is not parsed; or an envelope with an error.
///
/// ```
/// use coze_wire::{Call, Dispatcher, Operation, OperationInfo, Raw, Retry, Unbuilt, reqwest};
///
/// pub struct DownloadFile {
///     dispatcher: Dispatcher,
///     http: reqwest::Client,
///     url: String,
/// }
///
/// impl Operation for DownloadFile {
///     type Answer = Raw;
///
///     const INFO: &'static OperationInfo = &OperationInfo { id: "download_file", retry: Retry::Read };
///
///     fn into_call(self) -> Result<Call, Unbuilt> {
///         let request = self.http.get(self.url).header("accept", "*/*").build();
///         Ok(Call::new(self.dispatcher, Self::INFO, request.map_err(Unbuilt::new)?))
///     }
/// }
/// ```
pub struct Raw(Infallible);

/// The response is a stream of these events, or an envelope with an error.
pub struct Events<E>(PhantomData<fn() -> E>);

/// The events of a kind of stream: an enum with a variant for each documented event, and one for all others. Generated
/// from the description, which lists the names of the events.
///
/// ```
/// use coze_wire::{EventNames, StreamEvent};
/// use serde::{Deserialize, Deserializer};
///
/// #[derive(Deserialize)]
/// pub struct Message {
///     content: String,
/// }
///
/// #[non_exhaustive]
/// pub enum ChatEvent {
///     MessageDelta(Message),
///     Other { event: String, data: String },
/// }
///
/// impl StreamEvent for ChatEvent {
///     const NAMES: &'static EventNames =
///         &EventNames { end: &["done"], interrupt: &[], error: &["error"] };
///
///     fn read<'de, D: Deserializer<'de>>(event: &str, data: D) -> Result<Option<Self>, D::Error> {
///         match event {
///             "conversation.message.delta" => {
///                 Message::deserialize(data).map(|message| Some(Self::MessageDelta(message)))
///             }
///             _ => Ok(None),
///         }
///     }
///
///     fn other(event: String, data: String) -> Self {
///         Self::Other { event, data }
///     }
/// }
///
/// let data = &mut serde_json::Deserializer::from_str(r#"{"content":"Hi"}"#);
/// let event = ChatEvent::read("conversation.message.delta", data)?;
/// assert!(matches!(event, Some(ChatEvent::MessageDelta(message)) if message.content == "Hi"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event of the API's streams",
    note = "`Events` takes an enum from the description, such as `ChatEvent`"
)]
pub trait StreamEvent: Sized + Send + Unpin + 'static {
    /// The names of the events that are not passed to callers.
    const NAMES: &'static EventNames;

    /// Parses an event. `None` if its name is not documented.
    ///
    /// # Errors
    ///
    /// When the data does not match the description.
    fn read<'de, D: Deserializer<'de>>(event: &str, data: D) -> Result<Option<Self>, D::Error>;

    /// An event whose name is not documented, unchanged.
    fn other(event: String, data: String) -> Self;
}

/// The names of the events with a special meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventNames {
    /// The end marker.
    pub end: &'static [&'static str],
    /// Events that are passed to callers and end the stream: it continues with another call.
    pub interrupt: &'static [&'static str],
    /// Events that report an error, as `{code, msg}` or `{error_code, error_message}`.
    pub error: &'static [&'static str],
}

/// An operation whose response is a page of a list. Generated builders implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list",
    note = "use `.send()`: only lists have `by_page()` and `by_item()`"
)]
pub trait Paged: Operation + Clone {
    /// The type of the list's items. `Serialize`, so that two pages can be compared.
    type Item: Serialize + Send + 'static;

    /// The type of the response, as in [`Data`] or [`Whole`].
    type Page: DeserializeOwned + Send + 'static;

    /// The position of the requested page.
    fn position(&self) -> Position;

    /// The same request for another page.
    #[must_use]
    fn at(self, position: Position) -> Self;

    /// Converts a response to this request.
    fn page(&self, page: Self::Page) -> Page<Self::Item>;
}

/// The position of a page in its list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Position {
    /// A page number; the first page is 1.
    Number(i64),
    /// A cursor from the previous page: a token, or the id of its last item, or of its first one if the list is read backwards.
    /// Empty for the first page.
    Token(String),
}

impl Position {
    /// The page number, unless pages have cursors.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Token(_) => None,
        }
    }

    /// The cursor, unless pages are numbered.
    #[must_use]
    pub fn token(self) -> Option<String> {
        match self {
            Self::Token(token) => Some(token).filter(|token| !token.is_empty()),
            Self::Number(_) => None,
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The number of items in the whole list, if the response has it.
    pub total: Option<u64>,
    /// Whether there is another page, if the response says so.
    pub has_more: Option<bool>,
    /// The cursor of the next page: a token, or the id of the last item, or of the first one if the list is read backwards.
    /// `None` if pages are numbered.
    pub next: Option<String>,
}

/// A finished request, with the description of its operation.
pub struct Call {
    /// The client that sends it.
    pub dispatcher: Dispatcher,
    /// The description of the operation.
    pub info: &'static OperationInfo,
    /// The request, without a token.
    pub request: reqwest::Request,
    /// The options of this call.
    pub options: CallOptions,
}

impl Call {
    /// A call with default options.
    #[must_use]
    pub fn new(
        dispatcher: Dispatcher,
        info: &'static OperationInfo,
        request: reqwest::Request,
    ) -> Self {
        Self {
            dispatcher,
            info,
            request,
            options: CallOptions::default(),
        }
    }
}

impl fmt::Debug for Call {
    // Omits the body, which may contain anything, and the query, which may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("operation", &self.info.id)
            .field("method", self.request.method())
            .field("path", &self.request.url().path())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The options of one call; `None` stands for the client's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// The timeout of an attempt, including the response. For a stream, up to its first byte.
    pub timeout: Option<Duration>,
    /// How long a stream may be silent after its first byte.
    pub idle_timeout: Option<Duration>,
    /// The maximum number of retries.
    pub retries: Option<u32>,
    /// The maximum size of a response body, in bytes.
    pub body_limit: Option<usize>,
    /// The maximum size of an event of a stream, in bytes.
    pub event_limit: Option<usize>,
}

impl CallOptions {
    /// Fills unset options with `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            timeout: self.timeout.or(others.timeout),
            idle_timeout: self.idle_timeout.or(others.idle_timeout),
            retries: self.retries.or(others.retries),
            body_limit: self.body_limit.or(others.body_limit),
            event_limit: self.event_limit.or(others.event_limit),
        }
    }
}

/// The client that sends the calls of a generated client, as an opaque value: only the crate that created it can use
/// it.
#[derive(Clone)]
pub struct Dispatcher(Arc<dyn Any + Send + Sync>);

impl Dispatcher {
    /// Wraps this value.
    #[must_use]
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it is of this type.
    #[must_use]
    pub fn downcast<T: Any + Send + Sync>(self) -> Option<Arc<T>> {
        self.0.downcast().ok()
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

/// The request could not be built. The text names the parameter, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbuilt(String);

impl Unbuilt {
    /// An error with this reason.
    #[must_use]
    pub fn new(why: impl fmt::Display) -> Self {
        Self(sanitize(&why.to_string(), &[]))
    }
}

impl fmt::Display for Unbuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unbuilt {}

#[cfg(test)]
mod tests {
    use super::*;

    static INFO: OperationInfo = OperationInfo {
        id: "retrieve_chat",
        retry: Retry::Read,
    };

    #[test]
    fn debug_of_a_call_shows_neither_query_nor_body() {
        let http = crate::http_client("http://localhost").unwrap();
        let request = http.post("http://user:hush@localhost/v3/chat?conversation_id=hush");
        let request = request.body("hush").build().unwrap();
        let call = Call::new(Dispatcher::new("hush"), &INFO, request);
        let shown = format!("{call:?} {:?}", call.dispatcher);
        assert!(shown.contains("retrieve_chat") && shown.contains("/v3/chat"));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn only_the_creator_of_a_dispatcher_can_downcast_it() {
        let dispatcher = Dispatcher::new(7_u8);
        assert_eq!(dispatcher.clone().downcast::<u8>().as_deref(), Some(&7));
        assert!(dispatcher.downcast::<u16>().is_none());
    }

    #[test]
    fn the_reason_of_unbuilt_is_sanitized() {
        let why = Unbuilt::new("token pat_0123456789abcdef\n is wrong");
        assert_eq!(why.to_string(), "token ****  is wrong");
    }
}
