//! The handle of a mock: the person's part, the clock, the faults, and what clients did.

use crate::app::App;
use crate::builder::Builder;
use crate::clock::MockClock;
use crate::core::{Core, Incoming};
use crate::defaults;
use crate::error::Error;
use crate::fault::Faults;
use crate::host::Called;
use crate::record::{Note, RequestRecord, Violation};
use crate::server::Server;
use crate::service::MockService;
use crate::state::{GrantedToken, SignIn};
use http::{HeaderMap, Method};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use url::Url;

/// What a person does on the consent page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Lets the app in.
    Approve,
    /// Refuses.
    Deny,
}

/// A mock of Coze. Clones are the same mock; it stops when the last one is dropped.
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
/// // The person's part is one call:
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

impl MockCoze {
    /// Starts a strict mock with the [default apps](crate::defaults) on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if there is none; [`Error::KeyGeneration`] and [`Error::NoRandomness`] from the system.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Sets a mock up.
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

    /// The base URL, `http://127.0.0.1:PORT`: API base and WWW base in one. In-process mocks have none, and give
    /// `https://api.coze.test`, for clients that want one all the same.
    #[must_use]
    pub fn url(&self) -> &str {
        self.core
            .listening_at
            .get()
            .map_or("https://api.coze.test", String::as_str)
    }

    /// The URL under which clients reach the mock: [`Builder::public_url`] without a slash at its end, or else [`url`](Self::url).
    #[must_use]
    pub fn public_url(&self) -> &str {
        let public = self.core.options.public.as_ref();
        public.map_or(self.url(), |public| &public.base)
    }

    /// The address listened on, if there is a socket.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.server
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|server| server.address)
    }

    /// The mock as a `tower::Service`, to be called in process; it and the socket share one state.
    #[must_use]
    pub fn service(&self) -> MockService {
        MockService::new(Arc::clone(&self.core))
    }

    /// Stops listening and closes every connection; the handle still tells what happened.
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

    /// The personal and service access tokens that it was set up with.
    #[must_use]
    pub fn fixed_access_tokens(&self) -> &[String] {
        &self.core.options.access_tokens
    }

    /// The private key of the default JWT app, PKCS#8 PEM.
    ///
    /// # Errors
    ///
    /// [`Error::KeyGeneration`] if it could not be generated, which a mock with the default apps has already done.
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

    /// A person opens the authorize URL and decides. Returns where the browser is sent: the callback.
    ///
    /// The host of the URL does not matter, its path and query do; the visit is recorded as a request.
    ///
    /// # Errors
    ///
    /// [`Error::Authorize`] where a browser would have seen an error page instead of the consent page.
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
        let callback = self
            .core
            .person_authorizes(&incoming, decision == Decision::Approve)
            .map_err(Error::Authorize)?;
        Url::parse(&callback).map_err(|_| Error::Authorize("the callback is not a URL".into()))
    }

    /// A person enters the user code and approves.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchUserCode`] if nothing waits for a decision under this code.
    pub fn approve_device(&self, user_code: &str) -> Result<(), Error> {
        self.decide_device(user_code, Decision::Approve)
    }

    /// A person enters the user code and refuses.
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

    /// The clock: `mock.clock().advance(...)` moves time forward.
    #[must_use]
    pub fn clock(&self) -> &MockClock {
        &self.core.clock
    }

    /// The plan of faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// The latest requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.core.log.requests()
    }

    /// How many requests there were, kept or not.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.core.log.requests_ever()
    }

    /// The latest breaches of the contract, those that lenient mode tolerated among them.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.core.log.violations()
    }

    /// What is allowed and could be done better.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        self.core.log.notes()
    }

    /// Fails the test if any request broke the contract, tolerated or not.
    ///
    /// # Panics
    ///
    /// Then, listing the violations.
    #[track_caller]
    #[allow(clippy::panic, reason = "it is an assertion, for tests")]
    pub fn assert_clean(&self) {
        let count = self.core.log.violations_ever();
        if count == 0 {
            return;
        }
        let list: Vec<String> = self.violations().iter().map(ToString::to_string).collect();
        panic!("{count} breaches of the contract:\n{}", list.join("\n"));
    }

    /// The sign-ins of users, each with its generations of refresh tokens.
    #[must_use]
    pub fn ledger(&self) -> Vec<SignIn> {
        self.core.state().tokens.ledger()
    }

    /// The sign-in that a refresh token belongs to, whether or not it is still alive.
    #[must_use]
    pub fn sign_in_of(&self, refresh_token: &str) -> Option<SignIn> {
        let state = self.core.state();
        let id = state.tokens.sign_in_of(refresh_token)?;
        state.tokens.sign_in(id)
    }

    /// What an access token stands for, if it is alive.
    #[must_use]
    pub fn granted(&self, access_token: &str) -> Option<GrantedToken> {
        let now = self.core.now();
        self.core.state().tokens.access(access_token, now).cloned()
    }

    /// Ends an access token at once; `false` if it was not alive.
    pub fn revoke_access_token(&self, access_token: &str) -> bool {
        self.core.state().tokens.revoke_access(access_token)
    }

    /// Ends a sign-in, given any of its refresh tokens: what happens when a user takes the app's access back.
    pub fn revoke_sign_in(&self, refresh_token: &str) -> bool {
        let now = self.core.now();
        let mut state = self.core.state();
        state
            .tokens
            .sign_in_of(refresh_token)
            .is_some_and(|id| state.tokens.revoke_family(id, now))
    }

    /// Ends the user's login behind a sign-in, given any of its refresh tokens: refreshing is then refused with `access_deny` and
    /// "login session invalid", until the user signs in again.
    pub fn end_login(&self, refresh_token: &str) -> bool {
        let now = self.core.now();
        let mut state = self.core.state();
        state
            .tokens
            .sign_in_of(refresh_token)
            .is_some_and(|id| state.tokens.end_login(id, now))
    }

    /// How many requests there were no room for since the last [`reset`](Self::reset): [`requests`](Self::requests) lists the
    /// others. See [`Builder::log_capacity`] and [`Builder::log_bytes`].
    #[must_use]
    pub fn forgotten_requests(&self) -> u64 {
        self.core.log.requests_forgotten()
    }

    /// Forgets everything that clients did, and the planned faults, and sets the clock back to where it would be if it had never
    /// been moved ([`MockClock::reset`]), so that one test's time is not the next one's. Apps stay, all active again.
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

    /// As [`reset`](Self::reset), and the clock stays where it was moved to.
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
