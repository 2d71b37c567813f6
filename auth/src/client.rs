//! [`OAuthClient`]: sends all requests of the flows.
//!
//! A flow passes its typed request to the client, which sends it through the generated client. [`Answer`] parses the
//! captured response of the [`Exchange`].

use std::{fmt, sync::Arc, time::Duration};

use coze_oauth_client::{Client, types};
use coze_wire::{
    Bearer, Captured, Exchange, HttpClientError, NoAnswer, Outcome, Secret, SendError,
    SendErrorKind, Transport, sanitize,
};
use http::{HeaderName, HeaderValue, header::USER_AGENT};
use url::Url;

use crate::{
    AccessToken, Endpoint, Error, ErrorKind, Flow, RefreshToken, Result, Token,
    answer::{Answer, Object},
    clock::Clock,
    expires_in::{Granted, Timing},
    input::PathId,
    runtime,
    user_agent::{self, CLIENT_USER_AGENT},
};

/// What all flows share: the endpoint, the HTTP client, the user agent and the timeouts.
///
/// Create one and pass it to every flow; clones are cheap and share their connections.
///
/// ```
/// use coze_auth::{DeviceFlow, Endpoint, OAuthClient};
///
/// let client = OAuthClient::builder()
///     .endpoint(Endpoint::CN)
///     .product("my-service/1.2")
///     .build()?;
/// let device = DeviceFlow::new(client, "my-client-id.app.coze")?;
/// # Ok::<(), coze_auth::Error>(())
/// ```
#[derive(Clone)]
pub struct OAuthClient(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    /// The API base of the endpoint.
    api_base: Url,
    http: reqwest::Client,
    /// For requests that redeem something single-use: one connection each, so that a request does not depend on another
    /// runtime.
    http_without_pool: reqwest::Client,
    transport: Option<Arc<dyn Transport>>,
    request_timeout: Duration,
    user_agent: HeaderValue,
    client_user_agent: HeaderValue,
    clock: Clock,
}

impl OAuthClient {
    /// A client for an endpoint, with defaults for the rest.
    ///
    /// # Errors
    ///
    /// As [`OAuthClientBuilder::build`].
    pub fn new(endpoint: Endpoint) -> Result<Self> {
        Self::builder().endpoint(endpoint).build()
    }

    /// Creates a builder, to configure the client.
    pub fn builder() -> OAuthClientBuilder {
        OAuthClientBuilder::default()
    }

    /// The endpoint of its requests.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The timeout of a request, including its response.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient")
            .field("endpoint", &self.0.endpoint)
            .field("request_timeout", &self.0.request_timeout)
            .field("user_agent", &self.0.user_agent)
            .finish_non_exhaustive()
    }
}

/// Builds an [`OAuthClient`].
#[must_use]
pub struct OAuthClientBuilder {
    endpoint: Endpoint,
    http: Box<dyn Fn() -> reqwest::ClientBuilder + Send + Sync>,
    transport: Option<Arc<dyn Transport>>,
    connect_timeout: Duration,
    request_timeout: Duration,
    product: Option<String>,
    clock: Clock,
}

impl Default for OAuthClientBuilder {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            http: Box::new(reqwest::Client::builder),
            transport: None,
            connect_timeout: coze_wire::CONNECT_TIMEOUT,
            request_timeout: coze_wire::REQUEST_TIMEOUT,
            product: None,
            clock: Clock::default(),
        }
    }
}

impl fmt::Debug for OAuthClientBuilder {
    // Without the builder of the HTTP client: its default headers and proxies may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClientBuilder")
            .field("endpoint", &self.endpoint)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("product", &self.product)
            .finish_non_exhaustive()
    }
}

impl OAuthClientBuilder {
    /// The endpoint; [`Endpoint::COM`] by default.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Your own HTTP client: for a proxy, root certificates, or a resolver.
    ///
    /// Pass a function that returns a builder. Two clients are built from it, because requests that redeem something
    /// single-use (a code, a device code, a refresh token) share no connections. Redirects and automatic retries are
    /// switched off, which is not possible for a finished client; so is `connection_verbose`, which would log all
    /// secrets. The builder's `connect_timeout`, `timeout` and `user_agent` are replaced by
    /// [`connect_timeout`](Self::connect_timeout), [`request_timeout`](Self::request_timeout) and
    /// [`product`](Self::product), or their defaults. Use the `reqwest` that this crate re-exports.
    ///
    /// Unless the builder configures proxies, an `https` endpoint uses those of the environment (`HTTPS_PROXY`,
    /// `ALL_PROXY`; `http`, `https`, `socks4` and `socks5` URLs). They are not used for a loopback host, nor for plain
    /// `http`, where a proxy would see the credentials. A proxy that you set with `.proxy(…)` is used for every
    /// endpoint, including loopback.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use coze_auth::{OAuthClient, reqwest};
    ///
    /// let http = || reqwest::Client::builder().no_proxy(); // `.timeout(…)` here would be replaced
    /// let client = OAuthClient::builder().http(http).request_timeout(Duration::from_secs(10)).build()?;
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    pub fn http(
        mut self,
        http: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.http = Box::new(http);
        self
    }

    /// The timeout of establishing a connection; 5 seconds by default.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// The timeout of a request, including its response; 30 seconds by default.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = request_timeout;
        self
    }

    /// Appends your own product to the user agent, as `name/version`; none by default.
    pub fn product(mut self, product: impl Into<String>) -> Self {
        self.product = Some(product.into());
        self
    }

    /// Sends requests through this transport instead of a socket, for tests.
    #[cfg(feature = "testing")]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Uses this clock, for tests.
    #[cfg(feature = "testing")]
    pub fn test_clock(mut self, clock: crate::testing::TestClock) -> Self {
        self.clock = Clock::Test(clock);
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// - [`System`](ErrorKind::System) when the endpoint's URL is `https` and the system has no CA certificates.
    /// - [`InvalidInput`](ErrorKind::InvalidInput) when the product is not valid in a header, or the HTTP client can't
    ///   be built (see the error's source).
    pub fn build(self) -> Result<OAuthClient> {
        let builder = || {
            let http = (self.http)()
                .connect_timeout(self.connect_timeout)
                .timeout(self.request_timeout);
            match self.transport {
                None => http,
                // Sends nothing, so it needs no certificates.
                Some(_) => http.tls_certs_only([]),
            }
        };
        let api_base = self.endpoint.api_base();
        let not_a_url = |error| {
            Error::new(ErrorKind::InvalidInput, "the API base is not a URL").with_source(error)
        };
        let parsed_base = Url::parse(api_base).map_err(not_a_url)?;
        let http = coze_wire::http_client_from(api_base, builder).map_err(no_http_client)?;
        let without_pool = || builder().pool_max_idle_per_host(0);
        let http_without_pool =
            coze_wire::http_client_from(api_base, without_pool).map_err(no_http_client)?;
        Ok(OAuthClient(Arc::new(Shared {
            endpoint: self.endpoint,
            api_base: parsed_base,
            http,
            http_without_pool,
            transport: self.transport,
            request_timeout: self.request_timeout,
            user_agent: user_agent::user_agent(self.product.as_deref())?,
            client_user_agent: user_agent::client_user_agent()?,
            clock: self.clock,
        })))
    }
}

fn no_http_client(error: HttpClientError) -> Error {
    let (kind, what) = if error.is_missing_certificates() {
        (
            ErrorKind::System,
            "https needs CA certificates, and this system has none",
        )
    } else {
        (
            ErrorKind::InvalidInput,
            "the HTTP client could not be built",
        )
    };
    Error::new(kind, what).with_source(error)
}

/// The token endpoint of a grant: that of the app, an account or an enterprise.
pub(crate) enum TokenPath {
    Own,
    Account(PathId),
    Enterprise(PathId),
}

/// The delays before a code is sent again that could not be sent.
const CONNECT_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// The secrets of a request: they are sent with it, and redacted from errors.
pub(crate) struct Credentials<'a> {
    pub(crate) flow: Flow,
    /// The client secret or the JWT.
    pub(crate) bearer: Option<&'a Secret>,
    /// Secrets in the body.
    pub(crate) body: Vec<&'a Secret>,
}

/// A request in flight: its purpose, and the capture of its response.
pub(crate) struct Call {
    flow: Option<Flow>,
    pub(crate) exchange: Exchange,
}

impl OAuthClient {
    /// Sends a grant to the token endpoint of the app.
    pub(crate) async fn issue_token(
        &self,
        credentials: &Credentials<'_>,
        grant: types::TokenRequest,
    ) -> Result<Token> {
        let (call, client) = self.oauth_call(credentials)?;
        let sent = client.issue_token().body(grant).exchange();
        self.token(&call, sent, &Granted::token(None)).await
    }

    /// Waits for the response and reads its token.
    async fn token<A>(
        &self,
        call: &Call,
        sent: impl Future<Output = std::result::Result<A, NoAnswer>>,
        granted: &Granted,
    ) -> Result<Token> {
        self.read(call, sent, |answer| answer.token(granted, &self.0.clock))
            .await
    }

    /// Redeems a refresh token.
    pub(crate) async fn refresh(
        &self,
        flow: Flow,
        client_id: &str,
        client_secret: Option<&Secret>,
        refresh_token: &RefreshToken,
    ) -> Result<Token> {
        let grant = types::RefreshTokenGrant {
            client_id: client_id.to_owned(),
            grant_type: Default::default(),
            refresh_token: refresh_token.secret().clone(),
        };
        let credentials = Credentials {
            flow,
            bearer: client_secret,
            body: vec![refresh_token.secret()],
        };
        let token = self.issue_token(&credentials, grant.into()).await?;
        Ok(token.issued_to(client_id, self.endpoint()))
    }

    /// Redeems an authorization code. It is sent again only if the connection could not be established or the server
    /// did not process the request: a code is redeemed by the first request that reaches Coze.
    pub(crate) async fn redeem_code(
        &self,
        credentials: &Credentials<'_>,
        grant: types::AuthorizationCodeGrant,
    ) -> Result<Token> {
        for wait in CONNECT_AGAIN_AFTER {
            match self.issue_token(credentials, grant.clone().into()).await {
                Err(error) if error.kind() == ErrorKind::Connect => {
                    self.clock().sleep(wait).await;
                }
                outcome => {
                    let issued = |token: Token| token.issued_to(&grant.client_id, self.endpoint());
                    return outcome.map(issued);
                }
            }
        }
        let token = self.issue_token(credentials, grant.clone().into()).await?;
        Ok(token.issued_to(&grant.client_id, self.endpoint()))
    }

    /// Sends a JWT grant to the token endpoint of the app, an account or an enterprise.
    pub(crate) async fn issue_token_for(
        &self,
        path: &TokenPath,
        credentials: &Credentials<'_>,
        grant: types::JwtBearerGrant,
        asked: Option<Duration>,
    ) -> Result<Token> {
        let (call, client) = self.oauth_call(credentials)?;
        let sent = async {
            match path {
                TokenPath::Own => client.issue_token().body(grant).exchange().await,
                TokenPath::Account(id) => {
                    let request = client.issue_account_token().account_id(id.as_str());
                    request.body(grant).exchange().await
                }
                TokenPath::Enterprise(id) => {
                    let request = client.issue_enterprise_token().enterprise_id(id.as_str());
                    request.body(grant).exchange().await
                }
            }
        };
        self.token(&call, sent, &Granted::token(asked)).await
    }

    /// Starts a device authorization, in one workspace or in all.
    pub(crate) async fn start_device_authorization<T>(
        &self,
        client_id: &str,
        workspace: Option<&PathId>,
        read: impl FnOnce(&Answer<'_>, &Object<'_>) -> Result<T>,
    ) -> Result<T> {
        let (call, client) = self.oauth_call(&Credentials {
            flow: Flow::Device,
            bearer: None,
            body: Vec::new(),
        })?;
        let body = types::DeviceCodeRequest {
            client_id: client_id.to_owned(),
        };
        let sent = async {
            match workspace {
                None => {
                    let request = client.start_device_authorization();
                    request.body(body).exchange().await
                }
                Some(id) => {
                    let request = client.start_workspace_device_authorization();
                    let request = request.workspace_id(id.as_str());
                    request.body(body).exchange().await
                }
            }
        };
        self.read(&call, sent, |answer| {
            answer.read(|object| read(answer, object))
        })
        .await
    }

    fn oauth_call(&self, credentials: &Credentials<'_>) -> Result<(Call, Client)> {
        let bearer = match credentials.bearer {
            None => None,
            Some(bearer) => Some(Bearer::new(bearer).map_err(|why| {
                Error::invalid_input(format!("the credential {why}")).in_flow(credentials.flow)
            })?),
        };
        let secrets = credentials.body.iter().map(|secret| (*secret).clone());
        let call = Call {
            flow: Some(credentials.flow),
            exchange: self.exchange(bearer).with_secrets(secrets),
        };
        // A lost JWT does no harm, so its requests share connections, unless their runtime is about to end.
        let shares = credentials.flow == Flow::Jwt && !runtime::is_process_runtime();
        let http = if shares {
            &self.0.http
        } else {
            &self.0.http_without_pool
        };
        let client = Client::new_with_client(
            self.0.endpoint.api_base(),
            http.clone(),
            call.exchange.clone(),
        );
        Ok((call, client))
    }

    fn exchange(&self, bearer: Option<Bearer>) -> Exchange {
        let mut exchange = Exchange::new()
            .with_header(USER_AGENT, self.0.user_agent.clone())
            .with_header(
                HeaderName::from_static(CLIENT_USER_AGENT),
                self.0.client_user_agent.clone(),
            );
        if let Some(bearer) = bearer {
            exchange = exchange.with_bearer(bearer);
        }
        if let Some(transport) = &self.0.transport {
            exchange = exchange.with_transport(Arc::clone(transport));
        }
        exchange
    }

    pub(crate) fn call_with(&self, token: &AccessToken) -> Call {
        Call {
            flow: None,
            exchange: self.exchange(Some(token.bearer())),
        }
    }

    /// Whether a URL is at the endpoint: its scheme, host and port are those of the API base.
    pub(crate) fn is_at_endpoint(&self, url: &Url) -> bool {
        let base = &self.0.api_base;
        url.scheme() == base.scheme()
            && url.host() == base.host()
            && url.port_or_known_default() == base.port_or_known_default()
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    /// Waits for the response and parses the captured bytes, whatever the generated client makes of them.
    async fn read<A, T>(
        &self,
        call: &Call,
        sent: impl Future<Output = std::result::Result<A, NoAnswer>>,
        read: impl FnOnce(&Answer<'_>) -> Result<T>,
    ) -> Result<T> {
        let clock = &self.0.clock;
        let (began, began_wall) = (clock.monotonic(), clock.wall());
        let sent = self.in_time(sent).await;
        let ended = clock.monotonic();
        let outcome = call.exchange.outcome();
        let captured = match &outcome {
            Some(Outcome::Answered(captured)) => Some(captured),
            _ => None,
        };
        let timing = Timing {
            began,
            began_wall,
            ended,
            ended_wall: clock.wall(),
            date: captured.and_then(Captured::date),
        };
        let answer = captured.map(|captured| Answer {
            captured,
            timing: &timing,
            secrets: call.exchange.secrets(),
        });
        let log_id = answer.as_ref().and_then(Answer::log_id_of_whole);
        let read = match (answer, &outcome) {
            (Some(answer), _) => read(&answer),
            (None, Some(Outcome::Failed(error))) => Err(Error::unanswered(error.clone())),
            (None, _) if call.exchange.url().is_none() => {
                let why = match sent {
                    Some(Err(no_answer)) => no_answer.why_unbuilt(),
                    _ => None,
                };
                let why = why.map(|why| sanitize(&why, call.exchange.secrets()));
                Err(Error::invalid_input("the request could not be built").with_message(why))
            }
            (None, _) => Err(Error::unanswered(SendError::new(
                SendErrorKind::Timeout,
                format!("nothing within {:?}", self.0.request_timeout),
            ))),
        };
        call.trace(captured, log_id.as_deref(), &timing, read.as_ref().err());
        read.map_err(|error| call.locate(error.with_wall_correction(timing.wall_correction())))
    }

    /// Enforces the request timeout for a transport of your own; reqwest enforces it itself. `None` after the timeout.
    async fn in_time<T>(&self, sent: impl Future<Output = T>) -> Option<T> {
        if self.0.transport.is_none() {
            return Some(sent.await);
        }
        tokio::time::timeout(self.0.request_timeout, sent)
            .await
            .ok()
    }
}

impl Call {
    /// Adds the location to an error.
    pub(crate) fn locate(&self, error: Error) -> Error {
        let error = match self.flow {
            Some(flow) => error.in_flow(flow),
            None => error,
        };
        match self.exchange.url() {
            Some(url) => error.at_endpoint(url),
            None => error,
        }
    }

    fn trace(
        &self,
        captured: Option<&Captured>,
        log_id: Option<&str>,
        timing: &Timing,
        error: Option<&Error>,
    ) {
        let flow = self.flow.map(tracing::field::display);
        let endpoint = self.exchange.url();
        let endpoint = endpoint.as_deref();
        let status = captured.map(|captured| captured.status().as_u16());
        let duration_ms = timing.ended.duration_since(timing.began).as_millis() as u64;
        match error {
            None => tracing::debug!(
                flow,
                endpoint,
                status,
                log_id,
                duration_ms,
                "the request succeeded"
            ),
            Some(error) => {
                let kind = tracing::field::debug(error.kind());
                let code = error.code().map(tracing::field::display);
                tracing::debug!(
                    flow,
                    endpoint,
                    status,
                    log_id,
                    duration_ms,
                    kind,
                    code,
                    "the request failed"
                );
            }
        }
    }
}
