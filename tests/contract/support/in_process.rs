//! A scripted in-process server for tests of time: without a socket, a
//! paused clock is exact.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use coze_auth::{
    Endpoint, OAuthClient, OAuthClientBuilder, reqwest,
    testing::{SendError, SendErrorKind, TestClock, in_process},
};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::Instant;

/// The reaction to one request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The connection breaks, or cannot be established.
    Fail(SendErrorKind),
    /// There is no response.
    Hang,
    /// The same after a delay.
    After(Duration, Box<Step>),
}

impl Step {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }

    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(crate) fn with_header(self, name: &'static str, value: impl Into<String>) -> Self {
        match self {
            Self::Answer {
                status,
                mut headers,
                body,
            } => {
                headers.push((name, value.into()));
                Self::Answer {
                    status,
                    headers,
                    body,
                }
            }
            other => panic!("{other:?} has no headers"),
        }
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self::After(delay, Box::new(self))
    }
}

/// A received request and its time since the start of the server.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) at: Duration,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// The server. Each request uses the next step of the script; the last step is repeated.
#[derive(Clone)]
pub(crate) struct InProcess {
    began: Instant,
    clock: TestClock,
    steps: Arc<Mutex<VecDeque<Step>>>,
    recorded: Arc<Mutex<Vec<Recorded>>>,
}

impl InProcess {
    /// Starts with this wall-clock time. Call it inside a runtime.
    pub(crate) fn start(wall: SystemTime, script: impl IntoIterator<Item = Step>) -> Self {
        Self {
            began: Instant::now(),
            clock: TestClock::starting_at(wall),
            steps: Arc::new(Mutex::new(script.into_iter().collect())),
            recorded: Arc::default(),
        }
    }

    /// Replaces the rest of the script.
    pub(crate) fn answers_from_now_on(&self, step: Step) {
        *self.steps.lock().unwrap() = [step].into();
    }

    pub(crate) fn clock(&self) -> &TestClock {
        &self.clock
    }

    /// The time since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn client(&self) -> OAuthClient {
        self.client_builder().build().unwrap()
    }

    pub(crate) fn client_builder(&self) -> OAuthClientBuilder {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<reqwest::Body>| {
            let server = server.clone();
            async move { server.answer(&request).await }
        });
        OAuthClient::builder()
            .endpoint(Endpoint::COM)
            .transport(in_process(service))
            .test_clock(self.clock.clone())
    }

    /// The received requests.
    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.recorded.lock().unwrap().clone()
    }

    async fn answer(
        &self,
        request: &http::Request<reqwest::Body>,
    ) -> Result<http::Response<Full<Bytes>>, SendError> {
        self.record(request);
        let mut step = {
            let mut steps = self.steps.lock().unwrap();
            match steps.len() {
                0 => panic!("the script is empty"),
                1 => steps[0].clone(),
                _ => steps.pop_front().unwrap(),
            }
        };
        loop {
            match step {
                Step::After(delay, then) => {
                    tokio::time::sleep(delay).await;
                    step = *then;
                }
                Step::Hang => match std::future::pending::<Infallible>().await {},
                Step::Fail(kind) => return Err(SendError::new(kind, "scripted failure")),
                Step::Answer {
                    status,
                    headers,
                    body,
                } => {
                    let mut response = http::Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    return Ok(response.body(Full::from(body)).unwrap());
                }
            }
        }
    }

    fn record(&self, request: &http::Request<reqwest::Body>) {
        let authorization = request.headers().get(http::header::AUTHORIZATION);
        let body = request.body().as_bytes().unwrap_or_default();
        self.recorded.lock().unwrap().push(Recorded {
            at: self.elapsed(),
            path: request.uri().path().to_owned(),
            authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
            body: serde_json::from_slice(body).unwrap_or_default(),
        });
    }
}
