//! Typed calls of the [Coze](https://www.coze.com) API (扣子), with an access token that is kept fresh.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mock = coze_mock::MockCoze::start().await?;
//! # let endpoint = coze_auth::Endpoint::custom(mock.url())?;
//! # let token = coze_mock::defaults::PERSONAL_ACCESS_TOKEN;
//! use coze_api::CozeApi;
//! use coze_auth::FixedToken;
//!
//! let coze = CozeApi::builder(FixedToken::new(token)?)
//!     .endpoint(endpoint) // Endpoint::COM by default
//!     .build()?;
//!
//! let me = coze.call(|api| async move { api.get_current_user().exchange().await }).await?;
//! println!("{} (log id {:?})", me.data.user_name, me.log_id());
//!
//! let page = coze
//!     .call(|api| async move {
//!         let bots = api.list_bots().workspace_id("7001");
//!         bots.page_num(1).page_size(20).exchange().await
//!     })
//!     .await?;
//! for bot in &page.data.items {
//!     println!("{} {}", bot.id, bot.name);
//! }
//! # Ok(()) }
//! ```
//!
//! The operations and their builders come from `coze-api-client`, which is generated from an OpenAPI description of Coze's
//! API. [`CozeApi::call`] adds:
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
//! For `reqwest-middleware` there is `TokenMiddleware` (feature `middleware`), and for a [tower](https://docs.rs/tower) HTTP
//! client `TokenLayer` (feature `tower`). Both recover from a refused token as [`CozeApi::call`] does. Neither needs the
//! typed client, which is the feature `client` (on by default).

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "client"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "middleware")]
mod middleware;
#[cfg(any(feature = "middleware", feature = "tower"))]
mod recovery;
#[cfg(feature = "tower")]
mod tower;

#[cfg(feature = "tower")]
pub use self::{
    recovery::Peeked,
    tower::{TokenLayer, TokenService},
};
#[cfg(feature = "client")]
pub use client::{CozeApi, CozeApiBuilder, Reply};
#[cfg(feature = "middleware")]
pub use middleware::TokenMiddleware;

/// The typed client that [`CozeApi::call`] passes to its closure, and the types of its operations. In the examples of the
/// operations it is called `client`.
#[cfg(feature = "client")]
pub use coze_api_client::{Client, types};
pub use coze_auth::{
    Endpoint, Error, ErrorCode, ErrorKind, OAuthClient, Result, TokenProvider, reqwest,
};
/// What the closure of a [`CozeApi::call`] returns: a typed response, or none.
#[cfg(feature = "client")]
pub use coze_wire::{Answer, NoAnswer};
