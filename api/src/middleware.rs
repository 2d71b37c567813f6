//! A layer for `reqwest-middleware`.

use coze_auth::{AccessToken, Endpoint, TokenProvider};
use http::{Extensions, header::AUTHORIZATION};
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Error, Middleware, Next, Result};

use crate::{
    bound::Bound,
    recovery::{is_refused, peek},
};

/// Puts a provider's token into the requests of a `reqwest-middleware` client that go to Coze, and tries once more, with the
/// next token, when the API refuses it: HTTP 401, or JSON with code 4100, 700012006, or 4101 about the token, at any status.
///
/// Requests to any other origin than the endpoint's API base pass untouched: no token is sent there. A request whose body
/// can't be cloned (a stream) is sent once. To find a code, up to 64 KiB of an `application/json` response are read before
/// it is handed on, unchanged; no other response is, so that streams begin at once.
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
#[derive(Debug)]
pub struct TokenMiddleware(Bound);

impl TokenMiddleware {
    /// A layer that sends this provider's token to this endpoint.
    pub fn new(provider: impl TokenProvider, endpoint: &Endpoint) -> Self {
        Self(Bound::new(provider, endpoint))
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
        if !self.0.is_origin_of(request.url()) {
            return next.run(request, extensions).await;
        }
        let again = request.try_clone();
        let token = self.0.token().await.map_err(Error::middleware)?;
        let sent = next.clone().run(with_token(request, &token), extensions);
        let response = sent.await?;
        // A client that follows redirects may bring the response of another origin, which says nothing about our token.
        let Some(again) = again.filter(|_| self.0.is_origin_of(response.url())) else {
            return Ok(response);
        };
        let (refused, response) = judged(response).await?;
        if !refused {
            return Ok(response);
        }
        let other = self.0.token_instead_of(&token).await;
        match other.map_err(Error::middleware)? {
            Some(other) => next.run(with_token(again, &other), extensions).await,
            None => Ok(response),
        }
    }
}

fn with_token(mut request: Request, token: &AccessToken) -> Request {
    let authorization = token.authorization().clone();
    request.headers_mut().insert(AUTHORIZATION, authorization);
    request
}

/// Whether the response refuses the token, and the same response.
async fn judged(response: Response) -> Result<(bool, Response)> {
    if let Some(refused) = is_refused(response.status(), response.headers()) {
        return Ok((refused, response));
    }
    let url = response.url().clone();
    let (parts, body) = http::Response::from(response).into_parts();
    let (refused, body) = peek(body).await;
    let body = Body::wrap(body);
    let response = http::Response::builder().url(url).body(body);
    let mut response = response.map_err(Error::middleware)?;
    *response.status_mut() = parts.status;
    *response.version_mut() = parts.version;
    *response.headers_mut() = parts.headers;
    response.extensions_mut().extend(parts.extensions);
    Ok((refused, response.into()))
}
