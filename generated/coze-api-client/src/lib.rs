//! Typed operations of Coze's API: chats, messages and conversations, users, workspaces and bots.
//!
//! `cargo xtask gen` generates the types, builders and groups from the description in `spec/api/`; only this file is
//! written by hand. A builder produces a finished request ([`coze_wire::Operation`]) and sends nothing: `coze-api`
//! sends it, with a token, retries, streams and pages. Use that crate.
//!
//! ```
//! use coze_api_client::{Client, types::EnterMessage};
//! use coze_wire::{Dispatcher, Operation};
//!
//! let client = Client::new("https://api.coze.com", Dispatcher::new(()));
//! let call = client.chat().create().bot_id("7379462189365198898").user_id("user_1").message("Hello");
//! let request = call.into_call()?.request;
//! assert_eq!(request.url().as_str(), "https://api.coze.com/v3/chat");
//! # Ok::<(), coze_wire::Unbuilt>(())
//! ```
//!
//! Responses are parsed tolerantly: few fields are required, and an enum keeps unknown words.

#![forbid(unsafe_code)]

#[rustfmt::skip]
#[allow(unreachable_pub, clippy::all, clippy::pedantic)]
mod generated;

use std::sync::Arc;

use coze_wire::{Call, Dispatcher, OperationInfo, RequestParts, Unbuilt, reqwest::Method};

pub use generated::*;

/// The client. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Client {
    base_url: Arc<str>,
    dispatcher: Dispatcher,
}

impl Client {
    /// A client for this base URL, whose calls the dispatcher sends.
    #[must_use]
    pub fn new(base_url: impl Into<Arc<str>>, dispatcher: Dispatcher) -> Self {
        Self {
            base_url: base_url.into(),
            dispatcher,
        }
    }

    pub(crate) fn parts(&self, method: Method, path: &'static str) -> RequestParts {
        RequestParts::new(method, &self.base_url, path)
    }

    pub(crate) fn call(
        self,
        info: &'static OperationInfo,
        parts: RequestParts,
    ) -> Result<Call, Unbuilt> {
        Ok(Call::new(self.dispatcher, info, parts.finish()?))
    }
}

/// A message of the user.
impl From<&str> for types::EnterMessage {
    fn from(text: &str) -> Self {
        Self::new(types::MessageRole::User, text)
            .type_(types::MessageType::Question)
            .content_type(types::MessageContentType::Text)
    }
}

/// A message of the user.
impl From<String> for types::EnterMessage {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}
