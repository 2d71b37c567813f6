//! A layer for clients of one's own.

use std::{fmt, sync::Arc};

use coze_auth::{AccessToken, Endpoint, TokenProvider};
use http::{Extensions, StatusCode, header::AUTHORIZATION};
use reqwest::{Request, Response, Url};
use reqwest_middleware::{Error, Middleware, Next, Result};
use url::Origin;

/// Puts a provider's token into the requests of a `reqwest-middleware` client that go to Coze, and tries
/// once more, with the next token, after an HTTP 401.
///
/// Requests to any other origin than the endpoint's API base pass untouched: no token is sent there. A
/// request whose body is a stream can't be sent twice, and keeps its 401.
///
/// The HTTP client is yours, and so are its proxies: one that `HTTP_PROXY` or `ALL_PROXY` names would see a token that goes
/// to a mock by plain `http`. There, call `.no_proxy()`, or make the client with `coze_wire::http_client`. Do not
/// switch on its `connection_verbose`, which logs every byte, tokens included.
///
/// ```no_run
/// # async fn example(provider: coze_auth::CachedProvider) -> Result<(), Box<dyn std::error::Error>> {
/// use coze_api::TokenMiddleware;
/// use coze_auth::Endpoint;
///
/// let http = coze_wire::http_client(Endpoint::COM.api_base())?;
/// let client = reqwest_middleware::ClientBuilder::new(http)
///     .with(TokenMiddleware::new(provider, &Endpoint::COM))
///     .build();
/// let answer = client.get("https://api.coze.com/v1/users/me").send().await?;
/// # Ok(()) }
/// ```
pub struct TokenMiddleware {
    provider: Arc<dyn TokenProvider>,
    origin: Option<Origin>,
}

impl TokenMiddleware {
    /// A layer that sends this provider's token to this endpoint.
    pub fn new(provider: impl TokenProvider, endpoint: &Endpoint) -> Self {
        Self {
            provider: Arc::new(provider),
            // An endpoint's base is a checked URL; were it none, no request would be taken for Coze's.
            origin: Url::parse(endpoint.api_base())
                .ok()
                .map(|base| base.origin()),
        }
    }

    async fn send(
        &self,
        token: &AccessToken,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let authorization = token.authorization().clone();
        request.headers_mut().insert(AUTHORIZATION, authorization);
        next.run(request, extensions).await
    }
}

#[async_trait::async_trait]
impl Middleware for TokenMiddleware {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        if Some(request.url().origin()) != self.origin {
            return next.run(request, extensions).await;
        }
        let again = request.try_clone();
        let token = self.provider.token().await.map_err(Error::middleware)?;
        let response = self.send(&token, request, extensions, next.clone()).await?;
        // A client that follows redirects may bring the answer of another origin, which says nothing about our token.
        let refused = response.status() == StatusCode::UNAUTHORIZED
            && Some(response.url().origin()) == self.origin;
        let Some(again) = again.filter(|_| refused) else {
            return Ok(response);
        };
        self.provider.invalidate(&token);
        let other = self.provider.token().await.map_err(Error::middleware)?;
        if other.expose() == token.expose() {
            return Ok(response);
        }
        self.send(&other, again, extensions, next).await
    }
}

impl fmt::Debug for TokenMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMiddleware")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
