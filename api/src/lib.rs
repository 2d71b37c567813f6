//! Typed calls of the [Coze](https://www.coze.com) API (扣子), with an access token that is always valid.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mock = coze_mock::MockCoze::start().await?;
//! # let endpoint = coze_auth::Endpoint::custom(mock.url())?;
//! # let token = coze_mock::defaults::PERSONAL_ACCESS_TOKEN;
//! # let [bot_id, _] = coze_mock::defaults::BOT_IDS;
//! use coze_api::{prelude::*, types::ChatEvent};
//! use coze_auth::FixedToken;
//!
//! let coze = CozeApi::builder(FixedToken::new(token)?)
//!     .endpoint(endpoint) // Endpoint::COM by default
//!     .build()?;
//!
//! let chat = coze.chat().stream().bot_id(bot_id).user_id("user_1").message("Will it rain in Oslo?");
//! let mut events = chat.send().await?;
//! while let Some(event) = events.try_next().await? {
//!     if let ChatEvent::MessageDelta(part) = event {
//!         print!("{}", part.content);
//!     }
//! }
//! # assert!(mock.violations().is_empty());
//! # Ok(()) }
//! ```
//!
//! | | |
//! |---|---|
//! | a call | `coze.users().me().send()`: a [`Reply`], the answer with its log id |
//! | a stream | `coze.chat().stream()…send()`: an [`EventStream`], which ends with its end marker or with an error |
//! | a chat that is waited for | `coze.chat().create()…and_wait().send()`: [`WaitExt`] |
//! | a list | `coze.bots().list()…by_item()` and `by_page()`: [`SendExt`] |
//! | a message of texts, images and files | [`MessageParts`] |
//! | limits of one call | `coze.users().me().timeout(…).retries(0).send()`: [`SendExt`] |
//! | limits of all calls | [`CozeApi::builder`] |
//!
//! The builders of the operations are those of `coze-api-client`, which is generated from a description of the API.
//! [`send`](SendExt::send) adds:
//!
//! - the current token of any [`TokenProvider`], for each attempt;
//! - errors as in `coze-auth`: Coze's code and message, HTTP status, log id, and a hint. A non-zero `code` is an error at
//!   any HTTP status;
//! - recovery from a refused token: if the API refuses it (HTTP 401, code 4100 or 700012006, or code 4101 about the
//!   token), the provider renews it, and the call is retried once.
//!
//! # With another HTTP client
//!
//! Providers do not need this crate. With plain `reqwest`:
//!
//! ```no_run
//! # async fn example(
//! #     http: reqwest::Client,
//! #     provider: coze_auth::CachedProvider,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use coze_auth::{AccessToken, TokenProvider};
//!
//! let get = |token: &AccessToken| {
//!     let request = http.get("https://api.coze.com/v1/users/me");
//!     request.header("Authorization", token.authorization()).send()
//! };
//! let token = provider.token().await?;
//! let mut response = get(&token).await?;
//! if response.status() == 401 {
//!     provider.invalidate(&token); // the provider gets a new token
//!     response = get(&provider.token().await?).await?;
//! }
//! # Ok(()) }
//! ```
//!
//! With `reqwest-middleware`, feature `middleware`: see `TokenMiddleware`. With a [tower](https://docs.rs/tower) client, feature
//! `tower`: see `TokenLayer`. Both recover from a refused token as [`send`](SendExt::send) does. Neither needs the typed client, the
//! feature `client`, which is on by default.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "client"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod decode;
#[cfg(feature = "client")]
mod dispatch;
#[cfg(feature = "client")]
mod error;
#[cfg(feature = "client")]
mod message;
#[cfg(feature = "middleware")]
mod middleware;
#[cfg(feature = "client")]
mod pages;
#[cfg(any(feature = "client", feature = "middleware", feature = "tower"))]
mod recovery;
#[cfg(any(feature = "middleware", feature = "tower"))]
mod refusal;
#[cfg(feature = "client")]
mod send;
#[cfg(feature = "client")]
mod stream;
#[cfg(feature = "tower")]
mod tower;
#[cfg(feature = "client")]
mod wait;

#[cfg(feature = "client")]
pub use self::{
    decode::{Decode, RawBody},
    error::{Error, Result},
    message::MessageParts,
    send::{Configured, SendExt},
    stream::EventStream,
    wait::{Wait, WaitExt},
};
#[cfg(feature = "tower")]
pub use self::{
    refusal::Peeked,
    tower::{TokenLayer, TokenService},
};
#[cfg(feature = "client")]
pub use client::{CozeApi, CozeApiBuilder, Reply};
#[cfg(feature = "middleware")]
pub use middleware::TokenMiddleware;

/// The groups of operations, their builders, and the types of requests and responses. In the examples of the
/// operations, `coze` is a [`CozeApi`].
#[cfg(feature = "client")]
pub use coze_api_client::{Client, builder, group, types};
pub use coze_auth::{Endpoint, ErrorCode, ErrorKind, OAuthClient, TokenProvider, reqwest};
/// The errors of a provider; without the typed client there are no others.
#[cfg(not(feature = "client"))]
pub use coze_auth::{Error, Result};
#[cfg(feature = "credentials")]
#[cfg_attr(docsrs, doc(cfg(feature = "credentials")))]
pub use coze_credentials::{self as credentials, DefaultCredentials};

/// The imports that most callers need: `use coze_api::prelude::*`.
#[cfg(feature = "client")]
pub mod prelude {
    pub use crate::{CozeApi, SendExt, WaitExt};
    pub use futures_util::{StreamExt, TryStreamExt};
}
/// Operations and their parts.
#[cfg(feature = "client")]
pub use coze_wire::operation;
