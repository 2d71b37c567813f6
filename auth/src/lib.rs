//! Sign-in flows and access tokens for the [Coze](https://www.coze.com) API (扣子).
//!
//! Every call to Coze's API needs an access token. This crate has a flow for each of Coze's ways to get one:
//!
//! | who signs in | flow | type | refresh |
//! |---|---|---|---|
//! | a developer, with a token from the console (PAT, SAT) | token | [`FixedToken`] | never |
//! | users of a web application with a backend | web | [`WebFlow`] | refresh token |
//! | users of a desktop, mobile or single-page application | PKCE | [`PkceFlow`] | refresh token |
//! | a user at a terminal or another device without a browser | device | [`DeviceFlow`] | refresh token |
//! | no user: a service acts as the application | JWT | [`JwtFlow`] | a new JWT |
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> coze_auth::Result<()> {
//! use coze_auth::{CachedProvider, Endpoint, JwtFlow, OAuthClient, PrivateKey};
//!
//! let key = PrivateKey::from_pem_file("private_key.pem")?;
//! let client = OAuthClient::new(Endpoint::COM)?;
//! let jwt = JwtFlow::new(client, "client-id".into(), "public key fingerprint".into(), key)?;
//! let provider = CachedProvider::jwt(jwt).build();
//!
//! // On every request; waits only if there is no valid token:
//! let token = provider.token().await?;
//! // Send it: request.header("Authorization", token.authorization())
//! # Ok(()) }
//! ```
//!
//! A flow gets one token; a provider caches it and keeps it valid:
//!
//! | tokens | provider |
//! |---|---|
//! | a fixed token | [`FixedToken`] |
//! | of the application, by JWT | [`CachedProvider::jwt`] |
//! | of one user, stored: see [`sign_in`] | [`CachedProvider::stored`] |
//! | of one user, in memory | [`CachedProvider::in_memory`] |
//! | of many signed-in users, stored: see [`store`] | [`UserPool`] |
//! | of many end users, by JWT | [`SessionPool`] |
//! | of another exchange, such as a gateway or workload identity | [`CachedProvider::from_fn`] |
//! | your own | implement [`TokenProvider`] |
//!
//! If you have the console's `coze_oauth_config.json`, or the environment variables of the official SDKs' examples,
//! start at [`OAuthConfig`].
//!
//! # Guarantees
//!
//! - Secrets (tokens, codes, verifiers, client secrets, keys, JWTs) are in no `Debug`, error, log or panic message. The
//!   values that hold them are wiped from memory when dropped. This crate can't wipe the copies in the HTTP and TLS
//!   stacks and in the clients of the stores (Redis's command buffers, the keyring's D-Bus messages).
//! - Every text from outside is sanitized before it appears in an error, a `Debug` or a log line of this crate: one
//!   line of limited length, without control, bidirectional or invisible characters and without the secrets of the
//!   request. An error of another library becomes a [`ForeignError`]. One exception, with the feature `http2`: at levels `DEBUG` and `TRACE`, `h2`
//!   logs the debug data of an HTTP/2 GOAWAY frame, in which a server may repeat a secret. If you keep such logs, set
//!   `h2` and `hyper` to `info`.
//! - An [`Error`] has the flow, endpoint, HTTP status, [error code](ErrorCode), message and log id, and a hint what to
//!   do. Branch on [`Error::kind`] and [`Error::code`].
//! - Requests are sent to `https` only, except to loopback and to hosts that you allow by name, and follow no redirect.
//!   The HTTP client does not retry. A flow repeats a request only if that does no harm: a code that could not be sent,
//!   or a JWT that was refused because of a wrong clock. A provider retries after retryable errors. At most 1 MiB of a
//!   response is read.
//! - A refresh token is single-use, so a stored sign-in has one owner at a time, across threads, processes and
//!   machines: see [`sign_in`]. The crate `coze-auth-stores` has stores in files, in the keyring and in Redis; your own
//!   store implements [`store::Store`].
//! - Each request is a [`tracing`](https://docs.rs/tracing) event at level `DEBUG`: flow, endpoint, status, log id,
//!   duration.
//!
//! # Features
//!
//! - `http2`, off by default: HTTP/2 with servers that offer it. Without it, requests are HTTP/1.1. It is on by default in
//!   `coze-api`, whose calls and streams share the client's connections.
//! - `testing`, off by default: the module `testing` with a controllable clock, an in-process transport, and the test
//!   suite for stores.
//!
//! Persistent stores are in the crate `coze-auth-stores`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod access_token;
mod answer;
mod api_call;
mod client;
mod clock;
mod config;
mod endpoint;
mod error;
mod expires_in;
mod flow;
mod ids;
mod input;
mod provider;
mod random;
mod refresh_token;
mod refresh_window;
mod retry;
mod runtime;
pub mod sign_in;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod user_agent;

pub use access_token::AccessToken;
pub use api_call::ApiCall;
pub use client::{OAuthClient, OAuthClientBuilder};
pub use config::{ConfiguredFlow, OAuthConfig};
pub use endpoint::{Endpoint, EndpointBuilder};
pub use error::{Error, ErrorCode, ErrorKind, Flow, Result};
pub use flow::{
    app::UserFlow,
    authorization_code::{Login, LoginBuilder},
    device::{DeviceAuthorization, DeviceFlow, Poll, PollStep},
    jwt::{JwtFlow, JwtTokenRequest, PrivateKey, Scope, SignFuture, Signer},
    pkce::PkceFlow,
    web::WebFlow,
};
pub use ids::{ClientId, KeyId};
pub use provider::{
    BorrowedToken, CachedProvider, CachedProviderBuilder, FixedToken, GetToken, PoolBuilder,
    SessionPool, SessionProvider, Stats, TokenFuture, TokenProvider, UserPool, UserProvider,
};
pub use refresh_token::RefreshToken;
pub use refresh_window::RefreshMode;
pub use sign_in::SignIn;
pub use store::StoreErrorKind;
pub use token::Token;

pub use coze_wire::{ForeignError, Secret};
pub use reqwest;
pub use url::Url;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_shareable<T: Clone + Send + Sync + 'static>() {}
    fn assert_send<T: Send>(_: T) {}

    #[test]
    fn flows_are_shared_and_their_futures_spawned() {
        assert_shareable::<OAuthClient>();
        assert_shareable::<WebFlow>();
        assert_shareable::<PkceFlow>();
        assert_shareable::<DeviceFlow>();
        assert_shareable::<JwtFlow>();
        assert_shareable::<FixedToken>();
        assert_shareable::<Token>();
        assert_shareable::<CachedProvider>();
        assert_shareable::<SessionPool>();
        assert_shareable::<SessionProvider>();

        fn futures(
            web: &WebFlow,
            pkce: &PkceFlow,
            device: &DeviceFlow,
            jwt: &JwtFlow,
            refresh_token: &RefreshToken,
            authorization: &DeviceAuthorization,
        ) {
            assert_send(web.refresh(refresh_token));
            assert_send(pkce.refresh(refresh_token));
            assert_send(device.poll(authorization));
            assert_send(jwt.token());
        }
        let _ = futures;
    }
}
