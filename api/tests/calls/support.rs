//! A transport with scripted responses, byte for byte.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coze_api::CozeApi;
use coze_auth::{
    AccessToken, Endpoint, OAuthClient, TokenFuture, TokenProvider,
    testing::{SendError, SendErrorKind, SendFuture, Transport},
};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A response, or a failure.
pub(crate) enum Answer {
    Response {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<Part>,
    },
    Fails(SendErrorKind),
    Never,
}

/// A part of a body.
#[derive(Clone)]
pub(crate) enum Part {
    Bytes(Bytes),
    Wait(Duration),
    Reset,
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl Answer {
    /// An event stream with this body.
    pub(crate) fn events(body: impl IntoIterator<Item = Part>) -> Self {
        Self::response(200, "text/event-stream; charset=utf-8", body)
    }

    pub(crate) fn json(status: u16, text: &str) -> Self {
        Self::response(status, "application/json", [text.into()])
    }

    pub(crate) fn response(status: u16, kind: &str, body: impl IntoIterator<Item = Part>) -> Self {
        Self::Response {
            status,
            headers: vec![
                ("content-type", kind.to_owned()),
                ("x-tt-logid", "log-1".to_owned()),
            ],
            body: body.into_iter().collect(),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Response { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

/// A received request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) body: String,
}

/// A provider without a runtime of its own, whose time would not be paused.
#[derive(Default)]
struct NumberedTokens(AtomicU32);

impl NumberedTokens {
    fn current(&self) -> AccessToken {
        AccessToken::new(format!("token-{}", self.0.load(Ordering::Relaxed))).unwrap()
    }
}

impl TokenProvider for NumberedTokens {
    fn cached(&self) -> Option<AccessToken> {
        Some(self.current())
    }

    fn fetch(&self) -> TokenFuture<'_> {
        Box::pin(std::future::ready(Ok(self.current())))
    }

    fn invalidate(&self, token: &AccessToken) {
        if token.expose() == self.current().expose() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Coze(Arc<State>);

#[derive(Default)]
struct State {
    answers: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<Request>>,
    open_bodies: Arc<AtomicU32>,
}

impl Coze {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let coze = Self::default();
        coze.0.answers.lock().unwrap().extend(answers);
        coze
    }

    /// A client whose tokens are `token-0`, `token-1` and so on.
    pub(crate) fn api(&self) -> CozeApi {
        CozeApi::new(self.client(), NumberedTokens::default())
    }

    pub(crate) fn client(&self) -> OAuthClient {
        OAuthClient::builder()
            .endpoint(Endpoint::custom("http://localhost").unwrap())
            .transport(self.clone())
            .build()
            .unwrap()
    }

    pub(crate) fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.0.requests.lock().unwrap()
    }

    pub(crate) fn tokens(&self) -> Vec<String> {
        let requests = self.requests();
        requests
            .iter()
            .map(|request| request.token.clone())
            .collect()
    }

    /// The number of bodies that were neither read to their end nor dropped.
    pub(crate) fn open_bodies(&self) -> u32 {
        self.0.open_bodies.load(Ordering::SeqCst)
    }
}

struct Open(Arc<AtomicU32>);

impl Open {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Transport for Coze {
    fn send(&self, request: reqwest::Request) -> SendFuture<'_> {
        let token = request.headers()["authorization"].to_str().unwrap();
        let body = request.body().and_then(|body| body.as_bytes());
        self.requests().push(Request {
            at: Instant::now(),
            url: request.url().to_string(),
            token: token.trim_start_matches("Bearer ").to_owned(),
            body: String::from_utf8(body.unwrap_or_default().to_vec()).unwrap(),
        });
        let answer = self.0.answers.lock().unwrap().pop_front();
        let answer = answer.expect("a response for each request");
        let open = Open::new(&self.0.open_bodies);
        Box::pin(async move {
            let (status, headers, parts) = match answer {
                Answer::Fails(kind) => return Err(SendError::new(kind, "scripted")),
                Answer::Never => std::future::pending().await,
                Answer::Response {
                    status,
                    headers,
                    body,
                } => (status, headers, body),
            };
            let body = stream::iter(parts).filter_map(move |part| {
                let _ = &open;
                async {
                    match part {
                        Part::Bytes(bytes) => Some(Ok(bytes)),
                        Part::Reset => Some(Err(std::io::Error::from(
                            std::io::ErrorKind::ConnectionReset,
                        ))),
                        Part::Wait(wait) => {
                            tokio::time::sleep(wait).await;
                            None
                        }
                    }
                }
            });
            let mut response = http::Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let body = reqwest::Body::wrap_stream(body);
            Ok(response.body(body).unwrap().into())
        })
    }
}
