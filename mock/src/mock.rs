//! The handle of a mock: the user's decisions, the clock, the faults, and the recorded requests.

use crate::app::App;
use crate::authorize::Decision;
use crate::builder::Builder;
use crate::clock::MockClock;
use crate::core::Core;
use crate::defaults;
use crate::error::Error;
use crate::fault::Faults;
use crate::host::Called;
use crate::record::{Note, RequestRecord, Violation};
use crate::request::Incoming;
use crate::server::{self, Server};
use crate::service::MockService;
use crate::state::{GrantedToken, TokenFamily};
use crate::visit;
use http::{HeaderMap, Method};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use url::Url;

/// A mock of Coze. Clones share one mock, which stops when the last one is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coze_mock::Error> {
/// use coze_mock::{Decision, MockCoze, defaults};
///
/// let mock = MockCoze::start().await?;
/// // The client under test sends its user's browser to the authorize page:
/// let page = format!(
///     "{}/api/permission/oauth2/authorize?response_type=code&client_id={}&redirect_uri={}&state=xyz",
///     mock.url(), defaults::WEB_CLIENT_ID, "http%3A%2F%2F127.0.0.1%3A8080%2Fcallback",
/// );
/// // The user's decision is one call:
/// let callback = mock.authorize(&page, Decision::Approve)?;
/// assert!(callback.as_str().starts_with("http://127.0.0.1:8080/callback?code="));
/// mock.assert_clean();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MockCoze {
    core: Arc<Core>,
    server: Arc<RwLock<Option<Server>>>,
}

impl Builder {
    /// Builds the mock without a socket. Call it through [`MockCoze::service`].
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for an option outside its limits, [`Error::App`] for an invalid app,
    /// [`Error::KeyGeneration`] and [`Error::NoRandomness`] if the operating system fails.
    pub fn build(mut self) -> Result<MockCoze, Error> {
        self.options.check()?;
        let mut apps = if self.default_apps {
            defaults::apps()
        } else {
            Vec::new()
        };
        apps.extend(self.apps);
        let core = Arc::new(Core::new(self.options, apps, self.clock)?);
        Ok(MockCoze::new(core))
    }

    /// Builds the mock and serves it over HTTP in background tasks of the current tokio runtime, until it is
    /// [shut down](MockCoze::shutdown) or its last clone is dropped.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`Error::Listen`].
    pub async fn start(self) -> Result<MockCoze, Error> {
        let listen = self.listen;
        let mock = self.build()?;
        let server = server::start(Arc::clone(mock.core()), listen).await?;
        Ok(mock.with_server(server))
    }
}

impl MockCoze {
    /// Starts a strict mock with the [default apps](crate::defaults) on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if there is none; [`Error::KeyGeneration`] and [`Error::NoRandomness`] from the system.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Returns a builder, to configure a mock.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            server: Arc::default(),
        }
    }

    pub(crate) fn with_server(self, server: Server) -> Self {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = Some(server);
        self
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The base URL, `http://127.0.0.1:PORT`, which is both the API base and the WWW base. An in-process mock returns
    /// `https://api.coze.test`, for clients that need one.
    #[must_use]
    pub fn url(&self) -> &str {
        self.core
            .listening_at
            .get()
            .map_or("https://api.coze.test", String::as_str)
    }

    /// The URL under which clients reach the mock: [`Builder::public_url`] without a trailing slash, else [`url`](Self::url).
    #[must_use]
    pub fn public_url(&self) -> &str {
        let public = self.core.options.public.as_ref();
        public.map_or(self.url(), |public| &public.base)
    }

    /// The listening address, if there is a socket.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.server
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|server| server.address)
    }

    /// The mock as a `tower::Service`, for in-process calls. It shares its state with the socket.
    #[must_use]
    pub fn service(&self) -> MockService {
        MockService::new(Arc::clone(&self.core))
    }

    /// Stops listening and closes every connection. The handle still returns the records.
    pub async fn shutdown(&self) {
        let server = self
            .server
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut server) = server {
            server.shutdown().await;
        }
    }

    /// The registered apps, by client id.
    #[must_use]
    pub fn apps(&self) -> Vec<App> {
        let mut apps: Vec<App> = self
            .core
            .apps
            .values()
            .map(|registered| registered.app.clone())
            .collect();
        apps.sort_by(|one, other| one.client_id().cmp(other.client_id()));
        apps
    }

    /// One app.
    #[must_use]
    pub fn app(&self, client_id: &str) -> Option<App> {
        self.core
            .apps
            .get(client_id)
            .map(|registered| registered.app.clone())
    }

    /// The configured personal and service access tokens.
    #[must_use]
    pub fn fixed_access_tokens(&self) -> &[String] {
        &self.core.options.access_tokens
    }

    /// The private key of the default JWT app, PKCS#8 PEM.
    ///
    /// # Errors
    ///
    /// [`Error::KeyGeneration`] if it could not be generated. A mock with the default apps has already generated it.
    pub fn default_jwt_private_key_pem(&self) -> Result<&'static str, Error> {
        defaults::jwt_private_key_pem()
    }

    /// Deactivates or activates an app, as its owner can in the console; a deactivated one is refused with `access_deny`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchApp`].
    pub fn set_app_active(&self, client_id: &str, active: bool) -> Result<(), Error> {
        let registered = self
            .core
            .apps
            .get(client_id)
            .ok_or_else(|| Error::NoSuchApp(client_id.to_owned()))?;
        registered.active.store(active, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the user open the authorize URL and decide. Returns the callback URL to which the browser is redirected.
    ///
    /// Only the path and query of the URL matter, not the host. The visit is recorded as a request.
    ///
    /// # Errors
    ///
    /// [`Error::Authorize`] if a browser would have been shown an error page instead of the consent page.
    pub fn authorize(&self, authorize_url: &str, decision: Decision) -> Result<Url, Error> {
        let url =
            Url::parse(authorize_url).map_err(|_| Error::Authorize("this is not a URL".into()))?;
        let incoming = Incoming {
            method: Method::GET,
            path: url.path().to_owned(),
            query: url.query_pairs().into_owned().collect(),
            headers: HeaderMap::new(),
            body: Some(bytes::Bytes::new()),
            authority: url.authority().to_owned(),
            called: Called::Unnamed,
            scheme: "https",
        };
        let callback = visit::authorize(&self.core, &incoming, decision == Decision::Approve)
            .map_err(Error::Authorize)?;
        Url::parse(&callback).map_err(|_| Error::Authorize("the callback is not a URL".into()))
    }

    /// Lets the user enter the user code and approve.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchUserCode`] if no authorization with this code is pending.
    pub fn approve_device(&self, user_code: &str) -> Result<(), Error> {
        self.decide_device(user_code, Decision::Approve)
    }

    /// Lets the user enter the user code and refuse.
    ///
    /// # Errors
    ///
    /// As [`approve_device`](Self::approve_device).
    pub fn deny_device(&self, user_code: &str) -> Result<(), Error> {
        self.decide_device(user_code, Decision::Deny)
    }

    fn decide_device(&self, user_code: &str, decision: Decision) -> Result<(), Error> {
        let now = self.core.now();
        if self
            .core
            .state()
            .devices
            .decide(user_code, decision == Decision::Approve, now)
        {
            return Ok(());
        }
        Err(Error::NoSuchUserCode)
    }

    /// The clock. `mock.clock().advance(...)` advances it.
    #[must_use]
    pub fn clock(&self) -> &MockClock {
        &self.core.clock
    }

    /// The planned faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// The latest requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.core.log.requests()
    }

    /// The number of requests so far, including those no longer kept.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.core.log.requests_ever()
    }

    /// The latest violations of the contract, including those that lenient mode accepted.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.core.log.violations()
    }

    /// The latest notes: requests that are valid but not recommended.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        self.core.log.notes()
    }

    /// Fails the test if any request violated the contract, accepted or not.
    ///
    /// # Panics
    ///
    /// If there are violations; the message lists them.
    #[track_caller]
    #[allow(clippy::panic, reason = "it is an assertion, for tests")]
    pub fn assert_clean(&self) {
        let count = self.core.log.violations_ever();
        if count == 0 {
            return;
        }
        let list: Vec<String> = self.violations().iter().map(ToString::to_string).collect();
        panic!("{count} violations of the contract:\n{}", list.join("\n"));
    }

    /// The sign-ins of users, each with all generations of its refresh token.
    #[must_use]
    pub fn ledger(&self) -> Vec<TokenFamily> {
        self.core.state().tokens.ledger()
    }

    /// The sign-in that a refresh token belongs to, whether or not the token is still valid.
    #[must_use]
    pub fn sign_in_of(&self, refresh_token: &str) -> Option<TokenFamily> {
        let state = self.core.state();
        let id = state.tokens.sign_in_of(refresh_token)?;
        state.tokens.sign_in(id)
    }

    /// The properties of an access token, if it is valid.
    #[must_use]
    pub fn granted(&self, access_token: &str) -> Option<GrantedToken> {
        let now = self.core.now();
        self.core.state().tokens.access(access_token, now).cloned()
    }

    /// Revokes an access token; `false` if it was not valid.
    pub fn revoke_access_token(&self, access_token: &str) -> bool {
        self.core.state().tokens.revoke_access(access_token)
    }

    /// Revokes a sign-in, given any of its refresh tokens, as when a user withdraws the app's access.
    pub fn revoke_sign_in(&self, refresh_token: &str) -> bool {
        let now = self.core.now();
        let mut state = self.core.state();
        state
            .tokens
            .sign_in_of(refresh_token)
            .is_some_and(|id| state.tokens.revoke_family(id, now))
    }

    /// Ends the user's login session behind a sign-in, given any of its refresh tokens: a refresh is then refused with `access_deny` and
    /// "login session invalid", until the user signs in again.
    pub fn end_login(&self, refresh_token: &str) -> bool {
        let now = self.core.now();
        let mut state = self.core.state();
        state
            .tokens
            .sign_in_of(refresh_token)
            .is_some_and(|id| state.tokens.end_login(id, now))
    }

    /// The number of requests that were dropped from the log since the last [`reset`](Self::reset). [`requests`](Self::requests) lists the
    /// others. See [`Builder::log_capacity`] and [`Builder::log_bytes`].
    #[must_use]
    pub fn forgotten_requests(&self) -> u64 {
        self.core.log.requests_forgotten()
    }

    /// Removes everything that clients did and the planned faults, and undoes every advance of the clock
    /// ([`MockClock::reset`]), so that tests do not affect each other. Apps are kept, and all are active again.
    ///
    /// ```
    /// # fn main() -> Result<(), coze_mock::Error> {
    /// use coze_mock::MockCoze;
    /// use std::time::{Duration, SystemTime};
    ///
    /// let mock = MockCoze::builder().build()?;
    /// mock.clock().advance(Duration::from_secs(86_400));
    /// mock.reset();
    /// assert!(mock.clock().now() <= SystemTime::now());
    /// # Ok(()) }
    /// ```
    pub fn reset(&self) {
        self.core.reset();
        self.core.clock.reset();
    }

    /// As [`reset`](Self::reset), but keeps the clock as it is.
    pub fn reset_keeping_clock(&self) {
        self.core.reset();
    }
}

impl fmt::Debug for MockCoze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockCoze")
            .field("url", &self.url())
            .field("clock", self.clock())
            .finish_non_exhaustive()
    }
}
