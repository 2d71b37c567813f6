//! Sign-in flows and access tokens for the [Coze](https://www.coze.com) API (扣子).
//!
//! Every call to Coze's API needs an access token. This crate gets one, in whichever of Coze's ways fits:
//!
//! | who signs in | flow | start at | refresh |
//! |---|---|---|---|
//! | a developer, with a token from the console (PAT, SAT) | token | [`FixedToken`] | never |
//! | the users of a web application with a backend | web | [`WebFlow`] | refresh token |
//! | the users of a desktop, mobile or single-page application | PKCE | [`PkceFlow`] | refresh token |
//! | a person at a terminal or another device without a browser | device | [`DeviceFlow`] | refresh token |
//! | nobody: a service acting as the application | JWT | [`JwtFlow`] | a new JWT |
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
//! // On every request; it waits only when there is no valid token:
//! let token = provider.token().await?;
//! // Send it: request.header("Authorization", token.authorization())
//! # Ok(()) }
//! ```
//!
//! A flow gets one token when it is told to; a provider always has a valid one:
//!
//! | whose token | provider |
//! |---|---|
//! | one that never changes | [`FixedToken`] |
//! | the application's own, by JWT | [`CachedProvider::jwt`] |
//! | a user's, by refresh token, kept in a store: see [`sign_in`] | [`CachedProvider::stored`] |
//! | the same, kept in memory | [`CachedProvider::in_memory`] |
//! | each of very many signed-in users', by refresh token, kept in a [`store`] | [`UserPool`] |
//! | each of very many end users', by JWT | [`SessionPool`] |
//! | that of another exchange: a gateway, workload identity | [`CachedProvider::from_fn`] |
//! | yours | implement [`TokenProvider`] |
//!
//! Whoever has the console's `coze_oauth_config.json`, or the environment variables of the official SDKs'
//! examples, starts at [`OAuthConfig`].
//!
//! # What to rely on
//!
//! - Secrets (tokens, codes, verifiers, client secrets, keys, JWTs) are in no `Debug`, error, log or panic
//!   message. The values that hold them are wiped from memory when dropped; what the HTTP and TLS stacks and the
//!   clients of the stores (Redis's command buffers, the keyring's D-Bus messages) copy on the way is theirs, and is
//!   not wiped.
//! - All text from outside passes one filter before it gets into an error, a `Debug` or a log line of this crate: it is
//!   one line, cut, and without control, bidirectional or invisible characters and the request's secrets. Another
//!   library's error becomes a [`ForeignError`]. One thing is beyond us: at level `DEBUG` and below, `h2` logs the debug
//!   data of an HTTP/2 GOAWAY, in which a server may repeat a secret. Where such logs are kept, set `h2` and `hyper`
//!   to `info`.
//! - An [`Error`] tells flow, endpoint, HTTP status, [Coze's word](ErrorCode), message, log id, and what to do.
//!   Branch on [`Error::kind`] and [`Error::code`].
//! - Requests go to `https` only (loopback, and hosts that you allow by name, excepted) and follow no redirect.
//!   The HTTP client repeats none. A flow repeats one only where it can't do harm: a code that could not be
//!   sent, a JWT that a wrong clock spoiled; a provider tries again on errors that may pass. At most 1 MiB of
//!   an answer is read.
//! - A refresh token works once, so a stored sign-in has one owner at a time, across threads, processes and machines:
//!   see [`sign_in`]. Stores in files, in the keyring and in Redis are in `coze-auth-stores`; your own implements
//!   [`store::Store`].
//! - Each exchange is a [`tracing`](https://docs.rs/tracing) event at level `DEBUG`: flow, endpoint, status, log
//!   id, duration.
//!
//! # Features
//!
//! - `testing`, off by default: a controllable clock, an in-process transport, and the suite that every store passes, in the
//!   module `testing`.
//!
//! Stores that keep sign-ins when the program ends are in the crate `coze-auth-stores`.

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
mod expiry;
mod flow;
mod ids;
mod input;
mod lifespan;
mod provider;
mod random;
mod refresh_token;
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
    CachedProvider, CachedProviderBuilder, FixedToken, GetToken, PoolBuilder, SessionPool,
    SessionProvider, Stats, TokenFuture, TokenProvider, UserPool, UserProvider,
};
pub use refresh_token::RefreshToken;
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
