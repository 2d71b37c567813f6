//! The builder of a mock.

use crate::answer::ErrorShape;
use crate::app::{App, AppsFile};
use crate::clock::MockClock;
use crate::error::Error;
use crate::options::Options;
use crate::record::RequestRecord;
use crate::resources::{Bot, User, Workspace};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Builds a mock. See [`MockCoze::builder`](crate::MockCoze::builder).
///
/// By default the mock is strict, follows the real clock, and has the apps of [`defaults`](crate::defaults).
///
/// Durations are at most 100 years. An option outside its limits makes [`build`](Self::build) and
/// [`start`](Self::start) return an [`Error::Option`] that names it.
#[must_use = "a builder does nothing until `start` or `build`"]
pub struct Builder {
    pub(crate) options: Options,
    pub(crate) apps: Vec<App>,
    pub(crate) default_apps: bool,
    pub(crate) clock: MockClock,
    pub(crate) listen: SocketAddr,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            options: Options::default(),
            apps: Vec::new(),
            default_apps: true,
            clock: MockClock::real(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// Accepts the deviations listed in [`Tolerance`](crate::Tolerance), for third-party clients. Each case is still recorded.
    pub fn lenient(mut self, lenient: bool) -> Self {
        self.options.lenient = lenient;
        self
    }

    /// Registers an app in addition to the default ones. It replaces an app with the same client id.
    pub fn app(mut self, app: App) -> Self {
        self.apps.push(app);
        self
    }

    /// Removes the default apps.
    pub fn no_default_apps(mut self) -> Self {
        self.default_apps = false;
        self
    }

    /// Registers the apps (and access tokens) of an apps file, instead of the default ones.
    ///
    /// # Errors
    ///
    /// [`Error::AppsFile`] if the text does not have the documented form.
    pub fn apps_json(mut self, json: &str) -> Result<Self, Error> {
        let file = AppsFile::parse(json)?;
        if let Some(access_tokens) = file.access_tokens {
            self.options.access_tokens = access_tokens;
        }
        self.apps.extend(file.apps.into_iter().map(App::from));
        Ok(self.no_default_apps())
    }

    /// Registers a personal or service access token, in addition to
    /// [`PERSONAL_ACCESS_TOKEN`](crate::defaults::PERSONAL_ACCESS_TOKEN).
    pub fn access_token(mut self, access_token: impl Into<String>) -> Self {
        self.options.access_tokens.push(access_token.into());
        self
    }

    /// The clock to read, [`MockClock::real`] by default.
    pub fn clock(mut self, clock: MockClock) -> Self {
        self.clock = clock;
        self
    }

    /// The address that [`start`](Self::start) listens on. Default: `127.0.0.1:0`, a free port of the loopback interface.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Also serves the control endpoints under `/_mock/`, for tests in other languages. Off by default: anyone who can reach
    /// them has full control of the mock.
    pub fn control_endpoints(mut self, serve: bool) -> Self {
        self.options.control = serve;
        self
    }

    /// Revokes the whole token family when a redeemed refresh token is sent again. Whether Coze does that is not known.
    /// Off by default.
    pub fn reuse_revokes_family(mut self, revokes: bool) -> Self {
        self.options.reuse_revokes_family = revokes;
        self
    }

    /// A refresh revokes the access token that was issued with the refresh token. Whether Coze does that is not known. Off by default.
    pub fn refresh_revokes_access_token(mut self, revokes: bool) -> Self {
        self.options.refresh_revokes_access_token = revokes;
        self
    }

    /// The shape of the errors of the OAuth endpoints.
    pub fn error_shape(mut self, shape: ErrorShape) -> Self {
        self.options.error_shape = shape;
        self
    }

    /// The minimum interval between two polls (whole seconds; 5 s by default).
    pub fn device_interval(mut self, interval: Duration) -> Self {
        self.options.device_interval = interval;
        self
    }

    /// The lifetime of device codes (whole seconds; 300 s by default).
    pub fn device_code_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.device_code_lifetime = lifetime;
        self
    }

    /// The lifetime of authorization codes (10 minutes by default, RFC 6749's maximum; Coze documents none).
    pub fn code_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.code_lifetime = lifetime;
        self
    }

    /// The lifetime of users' access tokens (15 minutes by default).
    pub fn access_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.access_token_lifetime = lifetime;
        self
    }

    /// The lifetime of refresh tokens (30 days by default).
    pub fn refresh_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.refresh_token_lifetime = lifetime;
        self
    }

    /// The leeway for the clock of a client that signs JWTs (10 s by default).
    pub fn jwt_leeway(mut self, leeway: Duration) -> Self {
        self.options.jwt_leeway = leeway;
        self
    }

    /// Adds a host that the `aud` of JWTs may name, with or without the port that the client called. Default: the host that
    /// the client called.
    pub fn audience(mut self, host: impl Into<String>) -> Self {
        self.options.audiences.push(host.into());
        self
    }

    /// The `http` or `https` URL under which clients reach the mock, if it differs from their `Host` header: it is the prefix
    /// of the `verification_uri`.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.options.public_url = Some(url.into());
        self
    }

    /// The user who signs in.
    pub fn user(mut self, user: User) -> Self {
        self.options.user = user;
        self
    }

    /// Adds a workspace to the mock's API.
    pub fn workspace(mut self, workspace: Workspace) -> Self {
        self.options.workspaces.push(workspace);
        self
    }

    /// Adds a bot to the mock's API.
    pub fn bot(mut self, bot: Bot) -> Self {
        self.options.bots.push(bot);
        self
    }

    /// The number of requests, violations and notes that are kept: the latest 10,000 by default, from 1 to 1,000,000.
    pub fn log_capacity(mut self, requests: usize) -> Self {
        self.options.log_capacity = requests;
        self
    }

    /// The approximate memory for the kept requests: 64 MiB by default, from 128 KiB to 1 GiB. Beyond it the
    /// oldest are dropped and [counted](crate::MockCoze::forgotten_requests).
    pub fn log_bytes(mut self, bytes: usize) -> Self {
        self.options.log_bytes = bytes;
        self
    }

    /// The maximum number of concurrent connections: 4096 by default, from 1 to 65,536. Further connections wait.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.options.connections.at_most = connections;
        self
    }

    /// The timeout of an idle connection, and of a request's line and headers: 60 s by default, at least 1 ms and at
    /// most a day. Then it is closed.
    pub fn head_timeout(mut self, time: Duration) -> Self {
        self.options.connections.head_timeout = time;
        self
    }

    /// The timeout of a request's body, and of a client that does not read the response: 30 s by default, at least 1 ms and at
    /// most a day. After it the request is answered with 408, or the connection is closed.
    pub fn body_timeout(mut self, time: Duration) -> Self {
        self.options.connections.body_timeout = time;
        self
    }

    /// Calls `observer` after each request, for a log.
    pub fn on_request(mut self, observer: impl Fn(&RequestRecord) + Send + Sync + 'static) -> Self {
        self.options.observer = Some(Arc::new(observer));
        self
    }
}
