//! A layer for [tower](https://docs.rs/tower) services.

use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use coze_auth::{AccessToken, Endpoint, TokenProvider};
use http::{Request, Response, header::AUTHORIZATION};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;
use url::Url;

use crate::{
    recovery::Bound,
    refusal::{Peeked, is_refused, peek},
};

/// Adds a provider's token to the requests of a tower HTTP client that go to Coze. If the API refuses the token, the request
/// is retried once with a new token, under the same rules as in [`TokenMiddleware`](crate::TokenMiddleware) (feature
/// `middleware`).
///
/// Request bodies must be `Clone`, as `Full<Bytes>` is. Only requests with an absolute URI can go to Coze.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use bytes::Bytes;
/// use coze_api::TokenLayer;
/// use coze_auth::{Endpoint, FixedToken};
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// // Stands in for a client such as hyper-util's.
/// let http = service_fn(|request: Request<Full<Bytes>>| async move {
///     assert_eq!(request.headers()["authorization"], "Bearer pat_abc");
///     Ok::<_, std::io::Error>(Response::new(Full::<Bytes>::from("{}")))
/// });
/// let layer = TokenLayer::new(FixedToken::new("pat_abc").unwrap(), &Endpoint::COM);
/// let client = ServiceBuilder::new().layer(layer).service(http);
/// let request = Request::get("https://api.coze.com/v1/users/me").body(Full::default()).unwrap();
/// assert!(client.oneshot(request).await.unwrap().status().is_success());
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct TokenLayer(Bound);

impl TokenLayer {
    /// Sends this provider's token to this endpoint.
    pub fn new(provider: impl TokenProvider, endpoint: &Endpoint) -> Self {
        Self(Bound::new(provider, endpoint))
    }
}

impl<S> Layer<S> for TokenLayer {
    type Service = TokenService<S>;

    fn layer(&self, inner: S) -> TokenService<S> {
        let bound = self.0.clone();
        TokenService { inner, bound }
    }
}

/// The service of a [`TokenLayer`].
#[derive(Debug, Clone)]
pub struct TokenService<S> {
    inner: S,
    bound: Bound,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<S, B, R> Service<Request<B>> for TokenService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Clone + Send + 'static,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Send,
{
    type Response = Response<Peeked<R>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // `self.inner` is ready, so this call uses it. The clone replaces it, and is polled for readiness before the next call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let bound = self.bound.clone();
        Box::pin(async move {
            let url = Url::parse(&request.uri().to_string());
            if !url.is_ok_and(|url| bound.is_origin_of(&url)) {
                let response = inner.call(request).await.map_err(Into::into)?;
                return Ok(response.map(Peeked::unread));
            }
            let again = request.clone();
            let token = bound.token().await?;
            let sent = inner.call(with_token(request, &token));
            let (refused, response) = check_response(sent.await.map_err(Into::into)?).await;
            if !refused {
                return Ok(response);
            }
            let Some(other) = bound.token_instead_of(&token).await? else {
                return Ok(response);
            };
            poll_fn(|context| inner.poll_ready(context))
                .await
                .map_err(Into::into)?;
            let sent = inner.call(with_token(again, &other));
            let response = sent.await.map_err(Into::into)?;
            Ok(response.map(Peeked::unread))
        })
    }
}

fn with_token<B>(mut request: Request<B>, token: &AccessToken) -> Request<B> {
    let authorization = token.authorization().clone();
    request.headers_mut().insert(AUTHORIZATION, authorization);
    request
}

/// Whether the response refuses the token, and the unchanged response.
async fn check_response<R>(response: Response<R>) -> (bool, Response<Peeked<R>>)
where
    R: Body<Data = Bytes> + Unpin,
{
    let (parts, body) = response.into_parts();
    let (refused, body) = match is_refused(parts.status, &parts.headers) {
        Some(refused) => (refused, Peeked::unread(body)),
        None => peek(body).await,
    };
    (refused, Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use coze_auth::CachedProvider;
    use http::header::CONTENT_TYPE;
    use http_body_util::{BodyExt, Full};
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The response for this URL, and the tokens that were sent. The first request gets the response `first`.
    async fn sent(url: &str, first: Response<&'static str>) -> (Bytes, Vec<Option<String>>) {
        let counter = AtomicU32::new(0);
        let provider = CachedProvider::from_fn(move || {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let token = AccessToken::new(format!("token-{number}"));
            async { Ok((token?, Duration::from_secs(3600))) }
        });
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let first = Arc::new(Mutex::new(Some(first)));
        let seen = Arc::clone(&tokens);
        let http = service_fn(move |request: Request<Full<Bytes>>| {
            let token = request.headers().get(AUTHORIZATION);
            let token = token.map(|token| token.to_str().unwrap().to_owned());
            seen.lock().unwrap().push(token);
            let response = first.lock().unwrap().take();
            let response = response.unwrap_or_else(|| Response::new("well"));
            async { Ok::<_, Infallible>(response.map(Full::<Bytes>::from)) }
        });
        let client = TokenLayer::new(provider.build(), &Endpoint::COM).layer(http);
        let request = Request::post(url).body(Full::from("body")).unwrap();
        let response = client.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let tokens = std::mem::take(&mut *tokens.lock().unwrap());
        (body, tokens)
    }

    fn json(text: &'static str) -> Response<&'static str> {
        let json = Response::builder().header(CONTENT_TYPE, "application/json");
        json.body(text).unwrap()
    }

    const CHAT: &str = "https://api.coze.com/v3/chat";

    #[tokio::test]
    async fn a_request_with_a_rejected_token_is_retried_once() {
        let unauthorized = Response::builder().status(401).body("no").unwrap();
        for refusal in [
            unauthorized,
            json(r#"{"code":4100,"msg":"authentication is invalid"}"#),
            json(r#"{"code":4101,"msg":"the token is incorrect"}"#),
        ] {
            let (body, tokens) = sent(CHAT, refusal).await;
            assert_eq!(body, "well");
            let both = ["Bearer token-0", "Bearer token-1"].map(|token| Some(token.to_owned()));
            assert_eq!(tokens, both);
        }
    }

    #[tokio::test]
    async fn other_errors_are_returned_without_a_retry() {
        let text = r#"{"code":4101,"msg":"no permission"}"#;
        let (body, tokens) = sent(CHAT, json(text)).await;
        assert_eq!((&*body, tokens.len()), (text.as_bytes(), 1));
        let stream = Response::builder().header(CONTENT_TYPE, "text/event-stream");
        let stream = stream.body(r#"{"code":4100}"#).unwrap();
        assert_eq!(sent(CHAT, stream).await.1.len(), 1);
    }

    #[tokio::test]
    async fn no_token_is_sent_to_another_origin() {
        for url in [
            "https://api.coze.cn/v3/chat",
            "http://api.coze.com/v3/chat",
            "/v3/chat",
        ] {
            let unauthorized = Response::builder().status(401).body("no").unwrap();
            let (body, tokens) = sent(url, unauthorized).await;
            assert_eq!((&*body, tokens), (&b"no"[..], vec![None]), "{url}");
        }
    }
}
