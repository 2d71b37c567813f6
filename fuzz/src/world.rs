//! A scripted in-process server, its client, and a clock that advances only while something waits.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use coze_auth::{
    DeviceFlow, Endpoint, Error, OAuthClient, PkceFlow, WebFlow, reqwest,
    testing::{SendError, SendErrorKind, SendFuture, TestClock, Transport},
};
use serde_json::Value;
use tokio::{runtime::Runtime, time::Instant};

use super::oracle::Body;

/// The local clock at the start of a check, in UNIX seconds.
pub const NOW: u64 = 1_800_000_000;

/// Part of every secret in the requests and responses of the checks. Nothing else
/// contains it, so output with it leaks a secret.
pub const HUSH: &str = "hush";
pub const REDEEMED: &str = "rt-hush-redeemed-0123456789";
pub const CLIENT_ID: &str = "client-1";
pub const CLIENT_SECRET: &str = "secret-hush-0123456789";

/// A response of the server.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// The `Date` header.
    pub date: Option<String>,
    /// Whether there is an `Age` header, as from a cache.
    pub has_age: bool,
    pub log_id: Option<String>,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
    /// Whether the connection breaks after the body.
    pub is_broken: bool,
    /// The latency.
    pub took: Duration,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            date: None,
            has_age: false,
            log_id: None,
            retry_after: None,
            body: body.into(),
            is_broken: false,
            took: Duration::ZERO,
        }
    }

    /// Adds a `Date` header that is this many seconds ahead of the local clock.
    pub fn dated(mut self, ahead: i64) -> Self {
        let date = NOW.checked_add_signed(ahead).unwrap_or_default();
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(date);
        self.date = Some(httpdate::fmt_http_date(date));
        self
    }

    /// The strings of these members that occur nowhere else in its body.
    pub(crate) fn secrets<'b>(&self, body: &'b Body, names: &[&str]) -> Vec<&'b str> {
        let log_id = self.log_id.as_deref().unwrap_or_default();
        let mut secrets = body.secrets(names);
        secrets.retain(|secret| !log_id.contains(secret));
        secrets
    }

    /// The `Date` header in UNIX seconds, if it counts.
    pub(crate) fn server_time(&self) -> Option<f64> {
        let date = self.date.as_deref().filter(|_| !self.has_age)?;
        let date = httpdate::parse_http_date(date).ok()?;
        let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(since_epoch.as_secs_f64())
    }

    fn response(&self) -> reqwest::Response {
        let mut parts = vec![Ok(Bytes::from(self.body.clone()))];
        if self.is_broken {
            parts.push(Err(SendError::new(
                SendErrorKind::Interrupted,
                "the last chunk is missing",
            )));
        }
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
        let mut response = http::Response::builder().status(self.status);
        for (name, value) in [
            ("date", self.date.as_deref()),
            ("age", self.has_age.then_some("60")),
            ("x-tt-logid", self.log_id.as_deref()),
            ("retry-after", self.retry_after.as_deref()),
        ] {
            if let Some(value) = value {
                response = response.header(name, value);
            }
        }
        response.body(body).expect("valid headers").into()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("date", &self.date)
            .field("has_age", &self.has_age)
            .field("log_id", &self.log_id)
            .field("retry_after", &self.retry_after)
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("is_broken", &self.is_broken)
            .field("took", &self.took)
            .finish()
    }
}

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) body: Value,
}

impl Request {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name)?.as_str()
    }
}

#[derive(Default)]
struct Script {
    /// The last one is repeated for all further requests.
    answers: VecDeque<Answer>,
    requests: Vec<Request>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

impl Server {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Server {
    fn send(&self, request: reqwest::Request) -> SendFuture<'_> {
        Box::pin(async move {
            let body = request.body().and_then(reqwest::Body::as_bytes);
            let body = serde_json::from_slice(body.unwrap_or_default()).unwrap_or_default();
            let answer = {
                let mut script = self.script();
                script.requests.push(Request {
                    at: Instant::now(),
                    body,
                });
                match script.answers.len() {
                    0 | 1 => script.answers.front().cloned(),
                    _ => script.answers.pop_front(),
                }
            };
            let answer = answer.ok_or_else(|| {
                SendError::new(SendErrorKind::Connect, "no request is expected here")
            })?;
            if !answer.took.is_zero() {
                tokio::time::sleep(answer.took).await;
            }
            Ok(answer.response())
        })
    }
}

/// The server, its client and the clock. One per thread, because creating a client takes longer than a check.
pub(crate) struct World {
    server: Server,
    clock: TestClock,
    client: OAuthClient,
}

impl World {
    fn new() -> Self {
        let server = Server::default();
        let clock = TestClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
        let client = OAuthClient::builder()
            .endpoint(Endpoint::COM)
            .transport(server.clone())
            .test_clock(clock.clone())
            .build()
            .expect("a client");
        Self {
            server,
            clock,
            client,
        }
    }

    /// Sets the wall clock to [`NOW`], and resets the state.
    async fn begin(&self) {
        *self.server.script() = Script::default();
        self.clock.set_wall_offset_secs(0);
        let since = |wall: SystemTime| {
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
            wall.duration_since(start).unwrap_or_default()
        };
        let cut_off = Duration::from_nanos(since(self.clock.wall()).subsec_nanos().into());
        if !cut_off.is_zero() {
            tokio::time::advance(Duration::from_secs(1) - cut_off).await;
        }
        let passed = i64::try_from(since(self.clock.wall()).as_secs()).expect("a short time");
        self.clock.set_wall_offset_secs(-passed);
    }

    /// Sets the responses; the last one is repeated. Removes the recorded requests.
    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        *self.server.script() = Script {
            answers: answers.into_iter().collect(),
            requests: Vec::new(),
        };
    }

    /// The requests since the responses were set.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.server.script().requests.clone()
    }

    pub(crate) fn device(&self) -> DeviceFlow {
        DeviceFlow::new(self.client.clone(), CLIENT_ID).expect("a valid client id")
    }

    pub(crate) fn web(&self) -> WebFlow {
        WebFlow::new(self.client.clone(), CLIENT_ID.into(), CLIENT_SECRET.into())
            .expect("a valid client")
    }

    pub(crate) fn pkce(&self) -> PkceFlow {
        PkceFlow::new(self.client.clone(), CLIENT_ID).expect("a valid client id")
    }
}

/// Runs a check in this thread's world.
pub(crate) fn run(check: impl AsyncFnOnce(&World)) {
    thread_local! {
        static WORLD: (Runtime, World) = {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let world = runtime.block_on(async { World::new() });
            (runtime, world)
        };
    }
    WORLD.with(|(runtime, world)| {
        runtime.block_on(async {
            world.begin().await;
            check(world).await;
        });
    });
}

/// Asserts that the output of an error contains none of these secrets and no control character.
pub(crate) fn assert_fit_to_be_shown(error: &Error, secrets: &[&str], what: &dyn std::fmt::Debug) {
    let shown = format!("{error} {}", error.hint());
    assert!(!shown.chars().any(char::is_control), "{shown:?} {what:?}");
    assert_hushed(&format!("{shown} {error:?} {error:#?}"), secrets, what);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        assert_hushed(&format!("{cause} {cause:?}"), secrets, what);
        source = cause.source();
    }
}

pub(crate) fn assert_hushed(shown: &str, secrets: &[&str], what: &dyn std::fmt::Debug) {
    for secret in secrets {
        assert!(
            !shown.contains(secret),
            "{secret:?} leaked: {shown:?} {what:?}"
        );
    }
}
