//! One request and its response.
//!
//! Generated clients call [`Exchange::execute`] as their `exec` hook. Their own errors drop the headers of a response that
//! they can't decode, print its body, and read it without a limit. An `Exchange` therefore captures status, headers and
//! body, up to a limit, before the generated client reads them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{AGE, AUTHORIZATION, DATE},
};

use zeroize::Zeroizing;

use crate::{Bearer, Secret, SendError, SendErrorKind, Transport, sanitize_log_id};

/// The maximum number of bytes that are read from a response body (1 MiB). Coze's responses have a few hundred.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// The initial capacity of the buffer of a body whose length is not announced. A buffer that grows leaves copies of the body in
/// memory that are not wiped.
const INITIAL_CAPACITY: usize = 16 * 1024;

/// The header that carries Coze's log id, which users quote to support.
pub const LOG_ID_HEADER: &str = "x-tt-logid";

/// progenitor adds this header, which Coze does not define.
const API_VERSION_HEADER: &str = "api-version";

/// The context of one request: its credential, and later its response.
///
/// It is the `inner` value of a generated client. Create one for each request. Clones share the captured response.
///
/// ```
/// use coze_wire::{Bearer, Exchange, Secret};
///
/// let exchange = Exchange::new().with_bearer(Bearer::new(&Secret::from("client-secret"))?);
/// assert!(exchange.outcome().is_none(), "nothing has been sent");
/// # Ok::<(), coze_wire::InvalidBearer>(())
/// ```
#[derive(Clone, Default)]
pub struct Exchange {
    bearer: Option<Bearer>,
    secrets: Vec<Secret>,
    headers: Vec<(HeaderName, HeaderValue)>,
    transport: Option<Arc<dyn Transport>>,
    kept: Arc<Mutex<Kept>>,
}

/// The state of the last request.
#[derive(Default)]
struct Kept {
    url: Option<reqwest::Url>,
    outcome: Option<Outcome>,
}

impl Exchange {
    /// An exchange without a credential, over the generated client's own [`reqwest::Client`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends this bearer as the `Authorization` header, and adds its credential to the [secrets](Self::with_secrets).
    #[must_use]
    pub fn with_bearer(mut self, bearer: Bearer) -> Self {
        self.secrets.push(bearer.credential());
        self.bearer = Some(bearer);
        self
    }

    /// Adds secrets that the request carries elsewhere, such as in its body. If the server repeats them, they are redacted
    /// in the log id and in a [`SendError`].
    #[must_use]
    pub fn with_secrets(mut self, secrets: impl IntoIterator<Item = Secret>) -> Self {
        self.secrets.extend(secrets);
        self
    }

    /// The secrets that the request carries.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// Adds this header to the request.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends through this transport instead of the client's own.
    #[must_use]
    pub fn with_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The outcome of the last request; `None` if no request has finished.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.lock().outcome.clone()
    }

    /// The URL of the last request, without its query; `None` if none was sent.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.lock().url.clone().map(without_query)
    }

    /// The last response; `None` if there was none.
    #[must_use]
    pub fn captured(&self) -> Option<Captured> {
        match self.outcome() {
            Some(Outcome::Answered(captured)) => Some(captured),
            _ => None,
        }
    }

    /// Sends a request once, captures the response, and returns an equal one. This is the `exec` hook of every generated
    /// client.
    ///
    /// # Errors
    ///
    /// If there is no response. The error's source is the [`SendError`] of the [outcome](Self::outcome); nothing else of the
    /// HTTP client's error is included. If the body is incomplete or longer than [`BODY_LIMIT`], reading the body of the
    /// returned response fails.
    pub async fn execute(
        &self,
        client: &reqwest::Client,
        request: reqwest::Request,
    ) -> reqwest::Result<reqwest::Response> {
        match self.open(client, request).await {
            Ok(response) => Ok(self.capture(response, BODY_LIMIT).await.into_response()),
            Err(error) => {
                // Only reqwest can create a `reqwest::Error`. Reading a body that fails wraps our error in one.
                let failing = failing_response(StatusCode::BAD_GATEWAY, HeaderMap::new(), error);
                let body = failing.bytes().await?;
                Ok(rebuilt_response(
                    StatusCode::BAD_GATEWAY,
                    HeaderMap::new(),
                    body.into(),
                ))
            }
        }
    }

    /// Sends a request once, and returns as soon as the head of the response is there. Its body is read by
    /// [`capture`](Self::capture), or as a stream.
    ///
    /// # Errors
    ///
    /// If there is no response. The [outcome](Self::outcome) holds the same error.
    pub async fn open(
        &self,
        client: &reqwest::Client,
        mut request: reqwest::Request,
    ) -> Result<reqwest::Response, SendError> {
        self.prepare(request.headers_mut());
        *self.lock() = Kept {
            url: Some(request.url().clone()),
            outcome: None,
        };
        let sent = match &self.transport {
            None => client
                .execute(request)
                .await
                .map_err(|error| SendError::from_reqwest(&error, &self.secrets)),
            Some(transport) => transport
                .send(request)
                .await
                .map_err(|error| error.without(&self.secrets)),
        };
        sent.inspect_err(|error| self.keep(Outcome::Failed(error.clone())))
    }

    fn prepare(&self, headers: &mut HeaderMap) {
        headers.remove(API_VERSION_HEADER);
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(bearer) = &self.bearer {
            headers.insert(AUTHORIZATION, bearer.header_value().clone());
        }
    }

    /// Reads the body of a response, at most `limit` bytes of it, and keeps it as the [outcome](Self::outcome).
    pub async fn capture(&self, mut response: reqwest::Response, limit: usize) -> Captured {
        let most = limit.min(BODY_LIMIT);
        let announced = response.content_length();
        let capacity = announced.map_or(INITIAL_CAPACITY, |length| {
            usize::try_from(length).unwrap_or(most)
        });
        let mut incoming = IncomingResponse {
            exchange: self,
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: Zeroizing::new(Vec::with_capacity(capacity.min(most))),
            is_kept: false,
        };
        let body_state = loop {
            match response.chunk().await {
                Ok(None) => break BodyState::Complete,
                Ok(Some(chunk)) => {
                    let room = limit - incoming.body.len();
                    let fits = &chunk[..chunk.len().min(room)];
                    incoming.body.extend_from_slice(fits);
                    if chunk.len() > room {
                        break BodyState::TooLarge;
                    }
                }
                Err(error) => {
                    let error = SendError::from_reqwest(&error, &self.secrets);
                    break BodyState::Broken(error);
                }
            }
        };
        incoming.keep(body_state)
    }

    fn keep(&self, outcome: Outcome) {
        self.lock().outcome = Some(outcome);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("bearer", &self.bearer)
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}

/// A response whose body is being read. If the reader is dropped, as after a timeout, the bytes received so far are kept:
/// they may contain the only copy of a token.
struct IncomingResponse<'e> {
    exchange: &'e Exchange,
    status: StatusCode,
    headers: HeaderMap,
    /// Wiped when the last copy is dropped, because it contains tokens.
    body: Zeroizing<Vec<u8>>,
    is_kept: bool,
}

impl IncomingResponse<'_> {
    fn keep(&mut self, body_state: BodyState) -> Captured {
        self.is_kept = true;
        let log_id = self.headers.get(LOG_ID_HEADER);
        let log_id = log_id.and_then(|log_id| log_id.to_str().ok());
        let captured = Captured {
            status: self.status,
            log_id: log_id.and_then(|log_id| sanitize_log_id(log_id, &self.exchange.secrets)),
            headers: Arc::new(std::mem::take(&mut self.headers)),
            body: Bytes::from_owner(std::mem::take(&mut self.body)),
            body_state,
        };
        self.exchange.keep(Outcome::Answered(captured.clone()));
        captured
    }
}

impl Drop for IncomingResponse<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.keep(BodyState::Broken(SendError::new(
                SendErrorKind::Timeout,
                "the response was not complete in time",
            )));
        }
    }
}

/// The query and the user info may contain secrets.
fn without_query(mut url: reqwest::Url) -> String {
    url.set_query(None);
    url.set_fragment(None);
    // This fails only for URLs without a host, which can't be requested.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

fn rebuilt_response(
    status: StatusCode,
    headers: HeaderMap,
    body: reqwest::Body,
) -> reqwest::Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.into()
}

fn failing_response(status: StatusCode, headers: HeaderMap, error: SendError) -> reqwest::Response {
    let failing = futures_util::stream::iter([Err::<Bytes, SendError>(error)]);
    rebuilt_response(status, headers, reqwest::Body::wrap_stream(failing))
}

/// The outcome of a request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outcome {
    /// The server responded, with any status.
    Answered(Captured),
    /// There is no response.
    Failed(SendError),
}

/// A captured response, with at most [`BODY_LIMIT`] bytes of its body, or as many as the caller of [`Exchange::capture`] allowed.
#[derive(Clone)]
pub struct Captured {
    status: StatusCode,
    log_id: Option<String>,
    headers: Arc<HeaderMap>,
    body: Bytes,
    body_state: BodyState,
}

/// Whether the body of a response was read completely.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum BodyState {
    /// The whole body was read.
    Complete,
    /// The body is longer than the limit.
    TooLarge,
    /// The connection failed, or the timeout elapsed, before the end of the body.
    Broken(SendError),
}

impl Captured {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// All headers, unchecked: they may contain anything, secrets included.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Coze's log id, from the `x-tt-logid` header, [sanitized](sanitize_log_id).
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The server's clock, from the `Date` header, in whole seconds. `None` for a response with an `Age` header, which comes
    /// from a cache (RFC 9111 section 5.1).
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        if self.headers.contains_key(AGE) {
            return None;
        }
        httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()
    }

    /// The body, as far as it was read. It may contain tokens: do not print it.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body, without a copy: it is wiped when its last owner is dropped.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Whether the body was read completely.
    #[must_use]
    pub fn body_state(&self) -> &BodyState {
        &self.body_state
    }
}

impl Captured {
    /// An equal answer for a generated client, whose body fails as the captured one did.
    fn into_response(self) -> reqwest::Response {
        let Self {
            status,
            headers,
            body,
            body_state,
            ..
        } = self;
        let headers = Arc::unwrap_or_clone(headers);
        match body_state {
            BodyState::Complete => rebuilt_response(status, headers, body.into()),
            BodyState::TooLarge => {
                let error = SendError::new(
                    SendErrorKind::Interrupted,
                    format!("the answer is longer than {} bytes", body.len()),
                );
                failing_response(status, headers, error)
            }
            BodyState::Broken(error) => failing_response(status, headers, error),
        }
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("status", &self.status)
            .field("log_id", &self.log_id())
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("body_state", &self.body_state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use wiremock::{
        Mock, MockServer, ResponseTemplate,
        matchers::{any, header},
    };

    use super::*;
    use crate::{Secret, SendFuture, http_client};

    async fn server_answering(answer: ResponseTemplate) -> MockServer {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(answer).mount(&server).await;
        server
    }

    async fn get(exchange: &Exchange, url: &str) -> reqwest::Result<reqwest::Response> {
        let client = http_client(url).unwrap();
        let request = client
            .get(url)
            .header(API_VERSION_HEADER, "1")
            .build()
            .unwrap();
        exchange.execute(&client, request).await
    }

    #[tokio::test]
    async fn a_response_is_captured_and_returned() {
        let server = server_answering(
            ResponseTemplate::new(418)
                .insert_header(LOG_ID_HEADER, "log-1")
                .insert_header("date", "Sun, 22 Nov 2026 12:00:00 GMT")
                .set_body_string("hush"),
        )
        .await;
        let exchange = Exchange::new();
        let response = get(&exchange, &format!("{}?q=hush", server.uri()))
            .await
            .unwrap();
        assert_eq!(response.status(), 418);
        assert_eq!(response.text().await.unwrap(), "hush");

        let captured = exchange.captured().unwrap();
        assert_eq!(captured.status(), 418);
        assert_eq!(captured.log_id(), Some("log-1"));
        assert_eq!(
            captured.date().map(httpdate::fmt_http_date).as_deref(),
            Some("Sun, 22 Nov 2026 12:00:00 GMT")
        );
        assert_eq!(captured.body(), b"hush");
        assert_eq!(exchange.url(), Some(format!("{}/", server.uri())));
        assert!(matches!(captured.body_state(), BodyState::Complete));
        assert!(!format!("{exchange:?}").contains("hush"));
    }

    #[tokio::test]
    async fn the_received_part_of_an_endless_body_is_captured() {
        use futures_util::{StreamExt, stream};

        struct Endless;
        impl Transport for Endless {
            fn send(&self, _: reqwest::Request) -> SendFuture<'_> {
                let begun = stream::iter([Ok::<_, SendError>(Bytes::from("{\"refresh"))]);
                let body = reqwest::Body::wrap_stream(begun.chain(stream::pending()));
                Box::pin(async { Ok(http::Response::new(body).into()) })
            }
        }
        let exchange = Exchange::new().with_transport(Arc::new(Endless));
        let answer = get(&exchange, "http://127.0.0.1:1/");
        let in_time = tokio::time::timeout(std::time::Duration::from_millis(20), answer).await;
        assert!(in_time.is_err(), "it never ends");
        let captured = exchange.captured().unwrap();
        assert_eq!(captured.body(), b"{\"refresh");
        assert!(matches!(captured.body_state(), BodyState::Broken(_)));
    }

    #[tokio::test]
    async fn the_date_of_a_cached_response_is_ignored() {
        let answer = ResponseTemplate::new(200)
            .insert_header("date", "Sun, 22 Nov 2026 12:00:00 GMT")
            .insert_header("age", "3600");
        let server = server_answering(answer).await;
        let exchange = Exchange::new();
        get(&exchange, &server.uri()).await.unwrap();
        assert_eq!(exchange.captured().unwrap().date(), None);
    }

    #[tokio::test]
    async fn the_bearer_is_added_and_progenitors_header_is_removed() {
        let server = MockServer::start().await;
        Mock::given(header("authorization", "Bearer hush"))
            .and(header("x-more", "1"))
            .respond_with(ResponseTemplate::new(200))
            .mount(&server)
            .await;
        let exchange = Exchange::new()
            .with_bearer(Bearer::new(&Secret::from("hush")).unwrap())
            .with_header(
                HeaderName::from_static("x-more"),
                HeaderValue::from_static("1"),
            );
        assert_eq!(get(&exchange, &server.uri()).await.unwrap().status(), 200);
        let requests = server.received_requests().await.unwrap();
        assert!(!requests[0].headers.contains_key(API_VERSION_HEADER));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read_completely() {
        for (length, fits) in [(BODY_LIMIT, true), (BODY_LIMIT + 1, false)] {
            let server =
                server_answering(ResponseTemplate::new(200).set_body_bytes(vec![b'x'; length]))
                    .await;
            let exchange = Exchange::new();
            let response = get(&exchange, &server.uri()).await.unwrap();
            let body = response.bytes().await;
            let captured = exchange.captured().unwrap();
            assert_eq!(body.is_ok(), fits, "{length}");
            assert_eq!(
                matches!(captured.body_state(), BodyState::Complete),
                fits,
                "{length}"
            );
            assert!(captured.body().len() <= BODY_LIMIT);
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let target = server_answering(ResponseTemplate::new(200)).await;
        let server =
            server_answering(ResponseTemplate::new(307).insert_header("location", target.uri()))
                .await;
        let exchange = Exchange::new();
        assert_eq!(get(&exchange, &server.uri()).await.unwrap().status(), 307);
        assert!(target.received_requests().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_refused_connection_and_an_interrupted_one_have_different_kinds() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/?secret=hush", listener.local_addr().unwrap());
        let closing = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::io::AsyncReadExt::read(&mut connection, &mut [0; 1024])
                .await
                .unwrap();
        });
        let exchange = Exchange::new();
        let mut printed = String::new();
        for expected in [SendErrorKind::Interrupted, SendErrorKind::Connect] {
            let error = get(&exchange, &url).await.unwrap_err();
            let Some(Outcome::Failed(kept)) = exchange.outcome() else {
                panic!("{expected:?}: {:?}", exchange.outcome());
            };
            assert_eq!(kept.kind(), expected, "{kept}");
            printed.push_str(&format!("{error} {error:?} {kept} {kept:?}"));
        }
        assert!(!printed.contains("hush"), "{printed}");
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_custom_transport_is_used_and_its_failure_reaches_the_caller() {
        struct Down;
        impl Transport for Down {
            fn send(&self, _: reqwest::Request) -> SendFuture<'_> {
                Box::pin(async { Err(SendError::new(SendErrorKind::Connect, "down")) })
            }
        }
        let exchange = Exchange::new().with_transport(Arc::new(Down));
        let error = get(&exchange, "http://127.0.0.1:1/").await.unwrap_err();
        assert!(
            std::iter::successors(error.source(), |e| (*e).source())
                .any(|e| e.to_string() == "no connection (down)"),
            "{error:?}"
        );
        assert!(matches!(exchange.outcome(), Some(Outcome::Failed(_))));
    }
}
