//! Typed client of Coze's OAuth endpoints: issue a token for any grant, refresh it, start a device
//! authorization.
//!
//! `cargo xtask gen` generates the types and functions from the description `spec/coze-oauth.yaml`;
//! only this file is written by hand. It sends each request through a [`coze_wire::Exchange`], which
//! adds the credential and captures the response: status, log id, the server's time and the body.
//!
//! Most programs should use the crate `coze-auth`, which keeps tokens valid, polls, and validates
//! responses. For the calls alone, this is enough:
//!
//! ```
//! use coze_oauth_client::{Client, types};
//! use coze_wire::{Bearer, Exchange, Secret};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let coze = wiremock::MockServer::start().await;
//! # wiremock::Mock::given(wiremock::matchers::path("/api/permission/oauth2/token"))
//! #     .and(wiremock::matchers::header("authorization", "Bearer my-client-secret"))
//! #     .respond_with(wiremock::ResponseTemplate::new(200)
//! #         .insert_header("x-tt-logid", "20261122")
//! #         .set_body_json(
//! #             serde_json::json!({"access_token": "czu_1", "expires_in": 1795349700})))
//! #     .mount(&coze).await;
//! # let base_url = coze.uri();
//! // let base_url = "https://api.coze.com";
//! let http = coze_wire::http_client(&base_url)?;
//! let exchange = Exchange::new().with_bearer(Bearer::new(&Secret::from("my-client-secret"))?);
//! let client = Client::new_with_client(&base_url, http, exchange.clone());
//!
//! let grant: types::RefreshTokenGrant = types::RefreshTokenGrant::builder()
//!     .client_id("8173420653665306615182245269.app.coze")
//!     .refresh_token("rt_0")
//!     .try_into()?;
//! let answer = client.issue_token().body(grant).send().await?.into_inner();
//!
//! match answer {
//!     types::TokenAnswer::Token(token) => println!("valid until {}", token.expires_in),
//!     types::TokenAnswer::ErrorAnswer(error) => println!("refused with status 200: {error:?}"),
//! }
//! let log_id = exchange.captured().and_then(|answer| answer.log_id().map(str::to_owned));
//! # assert_eq!(log_id.as_deref(), Some("20261122"));
//! # Ok(())
//! # }
//! ```
//!
//! [`Error`] is progenitor's: its `Display` prints the body of a response that it can't decode. Do not
//! show or log it; use [`coze_wire::Exchange::captured`].

#![forbid(unsafe_code)]

#[rustfmt::skip]
#[allow(missing_docs, unreachable_patterns, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod generated;

pub use generated::*;

use progenitor_client::{ClientHooks, OperationInfo};

impl ClientHooks<coze_wire::Exchange> for Client {
    async fn exec(
        &self,
        request: reqwest::Request,
        _operation: &OperationInfo,
    ) -> reqwest::Result<reqwest::Response> {
        self.inner.execute(&self.client, request).await
    }
}
