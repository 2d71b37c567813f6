//! A middleware for `reqwest-middleware`.

use coze_auth::{AccessToken, Endpoint, TokenProvider};
use http::{Extensions, header::AUTHORIZATION};
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Error, Middleware, Next, Result};

use crate::{
    recovery::Bound,
    refusal::{is_refused, peek},
};

/// Adds a provider's token to the requests of a `reqwest-middleware` client that go to Coze. If the API refuses the token
/// (HTTP 401, or JSON with code 4100, 700012006, or 4101 about the token, at any status), the request is retried once with
/// a new token.
///
/// Requests to other origins than that of the endpoint's API base are not changed: no token is sent there. A request whose
/// body can't be cloned (a stream) is not retried, but the next one gets a new token. To find an error code, up to 64 KiB of an `application/json` response
/// are buffered before it is returned, unchanged. Other responses are not buffered, so streams are not delayed.
///
/// You configure the HTTP client, and its proxies. A proxy of `HTTP_PROXY` or `ALL_PROXY` can read a token that is sent to
/// a mock over plain `http`. In that case call `.no_proxy()`, or create the client with `coze_wire::http_client`. Do not
/// enable `connection_verbose`, which logs all traffic, tokens included.
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
/// let response = client.get("https://api.coze.com/v1/users/me").send().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TokenMiddleware(Bound);

impl TokenMiddleware {
    /// Sends this provider's token to this endpoint.
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
        // A client that follows redirects may return the response of another origin, which got no token.
        if !self.0.is_origin_of(response.url()) {
            return Ok(response);
        }
        let (refused, response) = check_response(response).await?;
        if !refused {
            return Ok(response);
        }
        let Some(again) = again else {
            // The body of the request is a stream, which can't be sent again.
            self.0.invalidate(&token);
            return Ok(response);
        };
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

/// Whether the response refuses the token, and the unchanged response.
async fn check_response(response: Response) -> Result<(bool, Response)> {
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
