//! The stage of all tests: a mock, an in-process client, one clock for both, and a simulated network that
//! can be interrupted, delayed and observed.

use std::{
    error::Error as StdError,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use coze_auth::{
    AccessToken, DeviceFlow, Endpoint, Error, JwtFlow, OAuthClient, OAuthClientBuilder, PkceFlow,
    PrivateKey, Token, WebFlow, reqwest,
    testing::{SendError, SendErrorKind, TestClock, in_process},
};
use coze_mock::{Builder, Decision, GrantedToken, MockClock, MockCoze, RequestRecord, defaults};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde_json::Value;
use tower::ServiceExt;

/// The start of every stage by the mock's clock, in UNIX seconds.
pub(crate) const START: u64 = 1_800_000_000;

/// A redirect URI of the mock's web and PKCE apps.
pub(crate) const REDIRECT_URI: &str = "http://127.0.0.1:8080/callback";

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn unix(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(seconds)
}

/// Advances the shared time.
pub(crate) async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// A mock and its client. Create it inside a runtime with paused time.
pub(crate) struct Stage {
    pub(crate) mock: MockCoze,
    /// The client's clock. Its wall clock can be skewed; the mock's is always correct.
    pub(crate) clock: TestClock,
    pub(crate) network: Network,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::of(MockCoze::builder())
    }

    pub(crate) fn of(builder: Builder) -> Self {
        let mock = builder
            .clock(MockClock::following_tokio_from(unix(START)))
            .build()
            .unwrap();
        Self {
            network: Network(Arc::new(NetworkInner {
                mock: mock.clone(),
                state: Mutex::default(),
            })),
            mock,
            clock: TestClock::starting_at(unix(START)),
        }
    }

    pub(crate) fn client_builder(&self) -> OAuthClientBuilder {
        let network = self.network.clone();
        let service = tower::service_fn(move |request| network.clone().carry(request));
        OAuthClient::builder()
            .endpoint(Endpoint::custom(self.mock.url()).unwrap())
            .transport(in_process(service))
            .test_clock(self.clock.clone())
    }

    pub(crate) fn client(&self) -> OAuthClient {
        self.client_builder().build().unwrap()
    }

    pub(crate) fn web(&self) -> WebFlow {
        let secret = defaults::WEB_CLIENT_SECRET;
        WebFlow::new(self.client(), defaults::WEB_CLIENT_ID.into(), secret.into()).unwrap()
    }

    pub(crate) fn pkce(&self) -> PkceFlow {
        PkceFlow::new(self.client(), defaults::PKCE_CLIENT_ID).unwrap()
    }

    pub(crate) fn device(&self) -> DeviceFlow {
        DeviceFlow::new(self.client(), defaults::DEVICE_CLIENT_ID).unwrap()
    }

    pub(crate) fn jwt(&self) -> JwtFlow {
        jwt_flow(self.client())
    }

    /// A service that claims to be an app that is not registered.
    pub(crate) fn jwt_of_another_app(&self) -> JwtFlow {
        JwtFlow::new(
            self.client(),
            "another.app.coze".into(),
            defaults::JWT_PUBLIC_KEY_ID.into(),
            signer(),
        )
        .unwrap()
    }

    /// Lets a user approve in a browser, and the web app get its tokens.
    pub(crate) async fn web_sign_in(&self) -> Token {
        let web = self.web();
        let (page, login) = web.login(REDIRECT_URI).begin().unwrap();
        let callback = self.person(page.as_str(), Decision::Approve);
        web.complete(login, &callback).await.unwrap()
    }

    /// The same with PKCE.
    pub(crate) async fn pkce_sign_in(&self) -> Token {
        let pkce = self.pkce();
        let (page, login) = pkce.login(REDIRECT_URI).begin().unwrap();
        let callback = self.person(page.as_str(), Decision::Approve);
        pkce.complete(login, &callback).await.unwrap()
    }

    /// Lets a user approve a device, and the device get its tokens.
    pub(crate) async fn device_sign_in(&self) -> Token {
        let device = self.device();
        let authorization = device.start().await.unwrap();
        self.mock.approve_device(authorization.user_code()).unwrap();
        device.poll(&authorization).await.unwrap()
    }

    /// The callback URL after the user's decision.
    pub(crate) fn person(&self, page: &str, decision: Decision) -> String {
        self.mock.authorize(page, decision).unwrap().into()
    }

    /// The mock's properties of a token; panics if it is not valid.
    #[track_caller]
    pub(crate) fn granted(&self, token: &Token) -> GrantedToken {
        let granted = self.mock.granted(token.access_token().expose());
        granted.expect("a token that is valid for the mock")
    }

    /// Whether the API would accept the token now.
    pub(crate) fn takes(&self, token: &AccessToken) -> bool {
        self.mock.granted(token.expose()).is_some()
    }

    /// The token requests that reached the mock.
    pub(crate) fn token_requests(&self) -> Vec<RequestRecord> {
        use coze_mock::Endpoint::{AccountToken, EnterpriseToken, Token};
        let mut requests = self.mock.requests();
        requests.retain(|request| {
            matches!(
                request.endpoint,
                Some(Token | AccountToken | EnterpriseToken)
            )
        });
        requests
    }

    /// One claim of each JWT that reached the mock.
    pub(crate) fn jwt_claims(&self, name: &str) -> Vec<Value> {
        let requests = self.token_requests().into_iter();
        requests
            .map(|request| request.jwt.expect("a JWT").claims[name].clone())
            .collect()
    }

    /// The log id of the last response.
    pub(crate) fn last_log_id(&self) -> String {
        self.mock.requests().pop().expect("a request").log_id
    }
}

/// The parsed key of the mock's JWT app.
fn signer() -> Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    let parsed =
        || Arc::new(PrivateKey::from_pem(defaults::jwt_private_key_pem().unwrap()).unwrap());
    Arc::clone(KEY.get_or_init(parsed))
}

/// The service that is the mock's JWT app.
pub(crate) fn jwt_flow(client: OAuthClient) -> JwtFlow {
    JwtFlow::new(
        client,
        defaults::JWT_CLIENT_ID.into(),
        defaults::JWT_PUBLIC_KEY_ID.into(),
        signer(),
    )
    .unwrap()
}

/// The status and log id in an error.
pub(crate) fn status(error: &Error) -> Option<u16> {
    error.status().map(|status| status.as_u16())
}

type Rewrite = Box<dyn Fn(&mut http::Response<Bytes>) + Send>;
type Unreached = Box<dyn StdError + Send + Sync>;
type AnswerBody = UnsyncBoxBody<Bytes, Unreached>;

/// The simulated network to the mock. Clones share one network.
#[derive(Clone)]
pub(crate) struct Network(Arc<NetworkInner>);

struct NetworkInner {
    mock: MockCoze,
    state: Mutex<NetworkState>,
}

#[derive(Default)]
struct NetworkState {
    cut: Option<Interruption>,
    takes: Duration,
    rewrite: Option<Rewrite>,
    attempts: u64,
    in_flight: usize,
    most_in_flight: usize,
    bearers: Vec<String>,
}

/// How an interrupted network behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Connections fail immediately.
    Refused,
    /// Requests are lost, and no response arrives.
    Silent,
}

impl Network {
    fn with<T>(&self, change: impl FnOnce(&mut NetworkState) -> T) -> T {
        change(&mut self.0.state.lock().unwrap())
    }

    pub(crate) fn cut(&self, cut: Interruption) {
        self.with(|state| state.cut = Some(cut));
    }

    pub(crate) fn repair(&self) {
        self.with(|state| state.cut = None);
    }

    /// Sets the latency of each request.
    pub(crate) fn takes(&self, duration: Duration) {
        self.with(|state| state.takes = duration);
    }

    /// Rewrites each response.
    pub(crate) fn rewrites(&self, rewrite: impl Fn(&mut http::Response<Bytes>) + Send + 'static) {
        self.with(|state| state.rewrite = Some(Box::new(rewrite)));
    }

    /// The number of attempted requests, whether or not they reached the mock.
    pub(crate) fn attempts(&self) -> u64 {
        self.with(|state| state.attempts)
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.with(|state| state.most_in_flight)
    }

    /// The bearer tokens that were sent.
    pub(crate) fn bearers(&self) -> Vec<String> {
        self.with(|state| state.bearers.clone())
    }

    async fn carry(
        self,
        request: http::Request<reqwest::Body>,
    ) -> Result<http::Response<AnswerBody>, Unreached> {
        let bearer = request.headers().get("authorization");
        let bearer = bearer.and_then(|bearer| bearer.to_str().ok()?.strip_prefix("Bearer "));
        let (cut, takes) = self.with(|state| {
            state.attempts += 1;
            state.bearers.extend(bearer.map(str::to_owned));
            (state.cut, state.takes)
        });
        match cut {
            None => {}
            Some(Interruption::Refused) => {
                return Err(
                    SendError::new(SendErrorKind::Connect, "the network is interrupted").into(),
                );
            }
            Some(Interruption::Silent) => std::future::pending().await,
        }
        let _in_flight = InFlight::enter(&self);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let response = self.0.mock.service().oneshot(request).await?;
        if self.with(|state| state.rewrite.is_none()) {
            return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()));
        }
        let (parts, body) = response.into_parts();
        let mut response = http::Response::from_parts(parts, body.collect().await?.to_bytes());
        self.with(|state| {
            if let Some(rewrite) = &state.rewrite {
                rewrite(&mut response);
            }
        });
        Ok(response.map(|body| Full::new(body).map_err(Into::into).boxed_unsync()))
    }
}

struct InFlight(Network);

impl InFlight {
    fn enter(network: &Network) -> Self {
        network.with(|state| {
            state.in_flight += 1;
            state.most_in_flight = state.most_in_flight.max(state.in_flight);
        });
        Self(network.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.with(|state| state.in_flight -= 1);
    }
}

/// Rewrites a JSON body.
pub(crate) fn edit_json(response: &mut http::Response<Bytes>, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(response.body()).expect("JSON");
    edit(&mut json);
    *response.body_mut() = json.to_string().into();
    response.headers_mut().remove("content-length");
}
