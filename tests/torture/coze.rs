//! The client of the tortured processes: the web flow, a provider, and one API call.

use std::time::Duration;

use coze_auth::reqwest::{self, StatusCode};
use coze_auth::{
    AccessToken, CachedProvider, CachedProviderBuilder, Endpoint, OAuthClient, OAuthClientBuilder,
    SignIn, WebFlow,
};

use crate::Result;
use crate::setup::Setup;

/// Longer than the machine stalls: a timeout of a committed refresh loses the sign-in. Not much longer, because
/// the Redis lock of a killed process lasts at least this long.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const TOKEN_DEADLINE: Duration = Duration::from_secs(8);
/// The timeout of Redis operations.
pub(crate) const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Without root certificates: the mock has no TLS, and loading them takes longer than everything measured here.
fn http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_certs_only([])
}

pub(crate) fn client(setup: &Setup) -> Result<OAuthClientBuilder> {
    Ok(OAuthClient::builder()
        .endpoint(Endpoint::custom(&setup.api_base)?)
        .http(http)
        .request_timeout(REQUEST_TIMEOUT))
}

pub(crate) fn flow(setup: &Setup, client: OAuthClient) -> Result<WebFlow> {
    Ok(WebFlow::new(
        client,
        setup.client_id.as_str().into(),
        setup.client_secret.as_str().into(),
    )?)
}

pub(crate) fn provider(flow: &WebFlow, sign_in: &SignIn) -> CachedProviderBuilder {
    CachedProvider::stored(flow.clone(), sign_in.clone()).deadline(TOKEN_DEADLINE)
}

/// The mock's API.
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

    /// Whether the API accepts the token.
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
