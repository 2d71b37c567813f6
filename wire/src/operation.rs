//! One call of an operation: what generated builders make, and what a client above them sends.
//!
//! A generated builder implements [`Operation`]: it becomes a [`Call`], which is a finished request and what is known about
//! it. It sends nothing: the client that carries the call is found in its [`Dispatcher`], and puts in the token, sends, retries
//! and reads the answer, for all operations alike. So neither this crate nor a generated one knows the errors of that client.
//!
//! # What generated code provides
//!
//! - The generated client is `Clone` and owns what it holds; its inner value is a [`Dispatcher`]. Builders own a clone of the
//!   client, and are `Clone`, `Send` and `'static`.
//! - Each builder implements [`Operation`]. [`into_call`](Operation::into_call) is what `send` was up to `build()`: the request has
//!   the full URL, the query, the documented constant headers, `Accept` and the body, but no `Authorization`, no user agent and
//!   no `api-version`.
//! - [`Operation::Answer`] is one of [`Data`], [`Whole`], [`Empty`] or [`Events`], with the generated type of what is
//!   answered. The envelope (`code`, `msg`, `detail`) is read above; no generated type holds it.
//! - A list implements [`Paged`] too.
//! - No setter has the name of a method that callers find on every operation: `send`, `timeout`, `retries`, `body_limit`,
//!   `idle_timeout`, `by_page`, `by_item`, `into_call`.
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
//!     fn page(page: BotPage) -> Page<Bot> {
//!         Page { items: page.items, total: page.total, has_more: None, next: None }
//!     }
//! }
//!
//! let list = ListBots {
//!     client: Client {
//!         base_url: "http://localhost".into(),
//!         http: coze_wire::http_client("http://localhost").unwrap(),
//!         dispatcher: Dispatcher::new(()), // the client above
//!     },
//!     page_num: Ok(None),
//!     workspace_id: Ok("7001".into()),
//! };
//! let call = list.at(Position::Number(2)).into_call().unwrap();
//! assert_eq!(call.request.url().as_str(), "http://localhost/v1/bots?workspace_id=7001&page_num=2");
//! ```

use std::{any::Any, convert::Infallible, fmt, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::sanitize;

/// A request of an operation, with everything that the operation needs set. Generated builders implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an operation of the API",
    label = "this has no request",
    note = "operations are the builders that the groups of a client give, such as `coze.chat().create()`"
)]
pub trait Operation: Sized + Send + 'static {
    /// What is answered: [`Data`], [`Whole`], [`Empty`] or [`Events`].
    type Answer;

    /// What is the same for each call of it.
    const INFO: &'static OperationInfo;

    /// The finished request.
    ///
    /// # Errors
    ///
    /// [`Unbuilt`] when a parameter is missing, or can't be sent.
    fn into_call(self) -> Result<Call, Unbuilt>;
}

/// What is the same for each call of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationInfo {
    /// Its name in the description, such as `create_chat`.
    pub id: &'static str,
    /// Whether it may be sent again.
    pub retry: Retry,
}

/// When a call may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It changes nothing: a GET, or a list that is asked for by POST. It is sent again after a failure that may pass.
    Read,
    /// It changes something: it is sent again only where the server has not processed it.
    Write,
}

/// The data of the envelope: `{"code": 0, "msg": "", "data": T}`.
pub struct Data<T>(PhantomData<fn() -> T>);

/// The whole envelope, where members beside `data` are part of the answer: `T` has a member `data`.
pub struct Whole<T>(PhantomData<fn() -> T>);

/// Nothing but the envelope.
pub struct Empty(Infallible);

/// A stream of events, or in its place an envelope that holds an error. `F` names the family of events, such as
/// [`ChatEvents`]: events have no schema, so the client above has a type for each family.
pub struct Events<F>(PhantomData<fn() -> F>);

/// The events of a chat: `POST /v3/chat` with `stream`, outputs of tools that are submitted with `stream`, and
/// `POST /v1/workflows/chat`.
pub struct ChatEvents(Infallible);

/// An operation whose answer is a page of a list. Generated builders implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer in pages",
    note = "use `.send()`: only lists have `by_page()` and `by_item()`"
)]
pub trait Paged: Operation + Clone {
    /// What the list is of. It can be written, so that two pages can be compared.
    type Item: Serialize + Send + 'static;

    /// The answer: the type in [`Data`] or [`Whole`].
    type Page: DeserializeOwned + Send + 'static;

    /// The page that this request asks for.
    fn position(&self) -> Position;

    /// The same request for another page.
    #[must_use]
    fn at(self, position: Position) -> Self;

    /// Takes an answer apart.
    fn page(page: Self::Page) -> Page<Self::Item>;
}

/// Where a page is in its list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Position {
    /// Pages are counted, from 1.
    Number(i64),
    /// The page before this one named it: by a token, or by the id of its last item. Empty for the first page.
    Token(String),
}

impl Position {
    /// The number, if pages are counted.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Token(_) => None,
        }
    }

    /// The token, if the page is named by one.
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
    /// What is on it.
    pub items: Vec<T>,
    /// How many items the whole list has, if the answer says so.
    pub total: Option<u64>,
    /// Whether another page follows, if the answer says so.
    pub has_more: Option<bool>,
    /// What the next page is named by: a token, or the id of the last item. `None` where pages are counted.
    pub next: Option<String>,
}

/// A finished request, and what is known about it.
pub struct Call {
    /// What the generated client holds: whoever sends this.
    pub dispatcher: Dispatcher,
    /// What is the same for each call of this operation.
    pub info: &'static OperationInfo,
    /// The request, without a token.
    pub request: reqwest::Request,
    /// What the caller wants to be different this time.
    pub options: CallOptions,
}

impl Call {
    /// A call with no options.
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
    // The body may be anything, and the query may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("operation", &self.info.id)
            .field("method", self.request.method())
            .field("path", &self.request.url().path())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What a caller wants to be different in one call; `None` is as the client has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// How long an attempt may take, up to the last byte of its answer. For a stream, up to its first event.
    pub timeout: Option<Duration>,
    /// How long a stream may bring nothing, from its first event on.
    pub idle_timeout: Option<Duration>,
    /// How often it is sent again at most.
    pub retries: Option<u32>,
    /// The most of an answer's body that is read, in bytes; of a stream, the most of one event.
    pub body_limit: Option<usize>,
}

/// Whoever sends the calls of a generated client: any value, which only the crate that made it can make use of.
#[derive(Clone)]
pub struct Dispatcher(Arc<dyn Any + Send + Sync>);

impl Dispatcher {
    /// Holds this value.
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

/// A request could not be built. It says why, names a parameter, and holds no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbuilt(String);

impl Unbuilt {
    /// For this reason.
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
    fn a_call_shows_neither_its_query_nor_its_body() {
        let http = crate::http_client("http://localhost").unwrap();
        let request = http.post("http://user:hush@localhost/v3/chat?conversation_id=hush");
        let request = request.body("hush").build().unwrap();
        let call = Call::new(Dispatcher::new("hush"), &INFO, request);
        let shown = format!("{call:?} {:?}", call.dispatcher);
        assert!(shown.contains("retrieve_chat") && shown.contains("/v3/chat"));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn a_dispatcher_is_known_to_its_maker_only() {
        let dispatcher = Dispatcher::new(7_u8);
        assert_eq!(dispatcher.clone().downcast::<u8>().as_deref(), Some(&7));
        assert!(dispatcher.downcast::<u16>().is_none());
    }

    #[test]
    fn why_a_request_was_not_built_is_sanitized() {
        let why = Unbuilt::new("token pat_0123456789abcdef\n is wrong");
        assert_eq!(why.to_string(), "token ****  is wrong");
    }
}
