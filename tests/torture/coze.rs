//! How the tortured processes talk to Coze: one client, the web flow, a provider, and one API call.

use std::time::Duration;

use coze_auth::reqwest::{self, StatusCode};
use coze_auth::{
    AccessToken, CachedProvider, CachedProviderBuilder, Endpoint, OAuthClient, OAuthClientBuilder,
    SignIn, WebFlow,
};

use crate::Result;
use crate::setup::Setup;

/// Longer than machines stall: whoever gives up on a refresh that was committed has lost the sign-in. Not much longer, as
/// the lock in Redis of a killed process is held for all of it.
pub(crate) const REQUEST_AT_MOST: Duration = Duration::from_secs(5);
pub(crate) const TOKEN_AT_MOST: Duration = Duration::from_secs(8);
/// What a Redis may take for an answer.
pub(crate) const REDIS_AT_MOST: Duration = Duration::from_secs(5);

/// No root certificates: loading them costs more than everything that is measured here, and the mock has no TLS.
fn http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_certs_only([])
}

pub(crate) fn client(setup: &Setup) -> Result<OAuthClientBuilder> {
    Ok(OAuthClient::builder()
        .endpoint(Endpoint::custom(&setup.api_base)?)
        .http(http)
        .request_timeout(REQUEST_AT_MOST))
}

pub(crate) fn flow(setup: &Setup, client: OAuthClient) -> Result<WebFlow> {
    Ok(WebFlow::new(
        client,
        &setup.client_id,
        &setup.client_secret,
    )?)
}

pub(crate) fn provider(flow: &WebFlow, sign_in: &SignIn) -> CachedProviderBuilder {
    CachedProvider::stored(flow.clone(), sign_in.clone()).deadline(TOKEN_AT_MOST)
}

/// The API behind the tokens.
pub(crate) struct Api {
    http: reqwest::Client,
    users_me: String,
}

impl Api {
    pub(crate) fn new(setup: &Setup) -> Result<Self> {
        Ok(Self {
            http: http().no_proxy().timeout(Duration::from_secs(30)).build()?,
            users_me: format!("{}/v1/users/me", setup.api_base),
        })
    }

    /// Whether the API takes the token.
    pub(crate) async fn takes(&self, token: &AccessToken) -> Result<bool> {
        let request = self
            .http
            .get(&self.users_me)
            .header("authorization", token.authorization());
        match request.send().await?.status() {
            StatusCode::OK => Ok(true),
            StatusCode::UNAUTHORIZED => Ok(false),
            other => Err(format!("the API answered with HTTP {other}").into()),
        }
    }
}
