//! The mock as a `tower::Service`: the entry point for the socket and for in-process tests.

use crate::body::{MockBody, ServiceError};
use crate::core::Core;
use crate::dispatch;
use crate::host::{Authority, Called};
use crate::limits;
use crate::request::Incoming;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The mock as an in-process service. Clones share one mock.
///
/// It accepts requests with any body type. The body of a response is immediately available ([`MockBody`]).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use coze_mock::{MockCoze, defaults};
/// use http_body_util::Empty;
/// use tower::ServiceExt as _;
///
/// let mock = MockCoze::builder().build()?;
/// let request = http::Request::get("https://api.coze.test/v1/users/me")
///     .header("Authorization", format!("Bearer {}", defaults::PERSONAL_ACCESS_TOKEN))
///     .body(Empty::<bytes::Bytes>::new())?;
/// let response = mock.service().oneshot(request).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MockService {
    core: Arc<Core>,
    /// The timeout of a request's body; not needed in process.
    body_timeout: Option<Duration>,
}

impl MockService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let body_timeout = None;
        Self { core, body_timeout }
    }

    pub(crate) fn with_body_timeout(self, body_timeout: Duration) -> Self {
        let body_timeout = Some(body_timeout);
        Self {
            body_timeout,
            ..self
        }
    }
}

impl fmt::Debug for MockService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockService")
    }
}

impl<B> tower::Service<Request<B>> for MockService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<MockBody>;
    type Error = ServiceError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let core = Arc::clone(&self.core);
        let body_timeout = self.body_timeout;
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let mut incoming = incoming(&core, parts);
            let reading = read(body);
            incoming.body = match body_timeout {
                None => reading.await?,
                Some(time) => match tokio::time::timeout(time, reading).await {
                    Ok(read) => read?,
                    Err(_) => return Ok(dispatch::body_is_late(&core, &incoming)),
                },
            };
            dispatch::respond(&core, incoming).await
        })
    }
}

/// The body, unless it exceeds the size limit.
async fn read<B>(body: B) -> Result<Option<Bytes>, ServiceError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, limits::BODY_BYTES).collect().await {
        Ok(body) => Ok(Some(body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(_) => Err(ServiceError::request_body()),
    }
}

/// A request before its body is read.
fn incoming(core: &Core, parts: Parts) -> Incoming {
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    let called = Called::of(target, parts.headers.get_all(header::HOST));
    let authority = called
        .authority()
        .map_or_else(|| core.own_authority(), Authority::as_str);
    let query = parts.uri.query().unwrap_or_default();
    Incoming {
        query: url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        path: parts.uri.path().to_owned(),
        method: parts.method,
        headers: parts.headers,
        body: Some(Bytes::new()),
        authority: authority.to_owned(),
        called,
        scheme: if parts.uri.scheme_str() == Some("https") {
            "https"
        } else {
            "http"
        },
    }
}
