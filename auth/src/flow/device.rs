//! [`DeviceFlow`]: the device authorization grant (RFC 8628), for programs without a browser.
//!
//! `Pace` decides the time between two polls: the interval, `slow_down`, backoff after failures, and `Retry-After`.

use std::{
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use coze_oauth_client::types;
use coze_wire::{Secret, is_invisible, sanitize_to};
use futures_util::future::{Either, select};
use serde_json::Value;
use url::{Host, Url};

use super::app::App;
use crate::{
    ClientId, Endpoint, Error, ErrorCode, ErrorKind, Flow, OAuthClient, Result, Token,
    answer::{Answer, Object, not_as_described},
    clock::Clock,
    expires_in::{Granted, poll_interval},
    input::PathId,
};

/// The device authorization flow, for command-line programs and devices without a browser: the user signs in on another
/// device.
///
/// 1. [`start`](Self::start) returns a user code and a URL to show to the user.
/// 2. [`poll`](Self::poll) waits until the user approves or refuses, or the device code expires.
/// 3. [`refresh`](crate::UserFlow::refresh) gets the next token. Refresh tokens are single-use.
///
/// Sources: RFC 8628; <https://www.coze.cn/open/docs/developer_guides/oauth_device_code>.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::{DeviceFlow, Endpoint, OAuthClient};
///
/// let device = DeviceFlow::new(OAuthClient::new(Endpoint::COM)?, "client-id")?;
///
/// let authorization = device.start().await?;
/// println!("Open {} and confirm {}", authorization.verification_uri_complete(), authorization.user_code());
/// let token = device.poll(&authorization).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DeviceFlow(pub(super) Arc<App>);

impl DeviceFlow {
    /// Creates the flow of one device application.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the client id is empty or contains a control
    /// character. Surrounding white space is removed.
    pub fn new(client: OAuthClient, client_id: impl Into<ClientId>) -> Result<Self> {
        App::new(Flow::Device, client, &client_id.into(), None).map(Self)
    }

    /// Requests a device code and a user code (RFC 8628 section 3.1).
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) when Coze refuses.
    /// - [`InvalidAnswer`](ErrorKind::InvalidAnswer) when the response has no user code that can be shown, or its
    ///   [`verification_uri`](DeviceAuthorization::verification_uri) is not safe to open.
    /// - Errors of the transport, and other invalid responses.
    pub async fn start(&self) -> Result<DeviceAuthorization> {
        self.start_for(None).await
    }

    /// Like [`start`](Self::start), but limits the grant to one workspace (enterprise plans).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); also [`InvalidInput`](ErrorKind::InvalidInput) when the workspace id
    /// is not valid in a URL path.
    pub async fn start_in_workspace(
        &self,
        workspace_id: impl AsRef<str>,
    ) -> Result<DeviceAuthorization> {
        let workspace = PathId::new("workspace", workspace_id.as_ref())
            .map_err(|error| error.in_flow(Flow::Device))?;
        self.start_for(Some(&workspace)).await
    }

    async fn start_for(&self, workspace: Option<&PathId>) -> Result<DeviceAuthorization> {
        let (client, client_id) = (self.0.client(), self.0.client_id());
        let (endpoint, clock) = (client.endpoint(), client.clock());
        client
            .start_device_authorization(client_id, workspace, |answer, object| {
                DeviceAuthorization::from_answer(answer, object, endpoint, clock)
            })
            .await
    }

    /// Polls until the user has decided, or the device code expires.
    ///
    /// It polls every [`interval`](DeviceAuthorization::interval), and adds 5 seconds to the interval after each `slow_down`
    /// (RFC 8628 section 3.5). Transient failures do not end it: after a timeout, a broken connection, an HTTP error, or a
    /// response that is not Coze's (the page of a captive portal), the interval doubles up to a minute, and `Retry-After` is
    /// honoured, until Coze responds again. The last request is sent just before the device code expires, and its response
    /// is awaited for a few seconds. To cancel, drop the future.
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) with [`AccessDenied`](ErrorCode::AccessDenied): the user refused;
    ///   with [`ExpiredToken`](ErrorCode::ExpiredToken): the device code has expired, according to Coze; with another code:
    ///   a non-retryable error.
    /// - [`DeviceCodeExpired`](ErrorKind::DeviceCodeExpired): the device code expired locally. If the last request failed,
    ///   its error is the source.
    /// - Coze granted a token, but its access token can't be used: [`Error::refresh_token`] may contain the refresh token.
    pub async fn poll(&self, authorization: &DeviceAuthorization) -> Result<Token> {
        self.poll_with(authorization, |_| {}).await
    }

    /// Like [`poll`](Self::poll), and calls `observe` after each request, for example to show progress.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub async fn poll_with(
        &self,
        authorization: &DeviceAuthorization,
        mut observe: impl FnMut(&PollStep) + Send,
    ) -> Result<Token> {
        let clock = self.0.client().clock();
        let mut pace = Pace::new(authorization.interval);
        let mut last_error: Option<Error> = None;
        let mut requests = 0;
        let mut was_last = false;
        loop {
            let remaining = authorization.remaining();
            if was_last || remaining.is_zero() {
                clock.sleep(remaining).await;
                return Err(authorization.expired(last_error));
            }
            let wait = pace.wait(remaining);
            was_last = wait.is_last;
            clock.sleep(wait.duration).await;
            if wait.skips_request {
                continue;
            }

            // A late response may contain the only copy of a token.
            let timeout = authorization.remaining().max(MIN_RESPONSE_TIMEOUT);
            let poll = pin!(self.poll_once(authorization));
            let outcome = match select(poll, pin!(clock.sleep(timeout))).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => return Err(authorization.expired(last_error)),
            };
            requests += 1;
            let error = match outcome {
                Ok(Poll::Granted(token)) => return Ok(token),
                Ok(Poll::Pending) => {
                    pace.reset();
                    None
                }
                Ok(Poll::SlowDown) => {
                    pace.slow_down();
                    None
                }
                Err(error) if ends_polling(&error) => return Err(error),
                Err(error) => {
                    pace.back_off(error.retry_after());
                    Some(error)
                }
            };
            last_error.clone_from(&error);
            let remaining = authorization.remaining();
            observe(&PollStep {
                requests,
                error,
                next_in: pace.wait(remaining).duration,
                remaining,
            });
        }
    }

    /// Polls once, for your own polling loop. Wait for [`interval`](DeviceAuthorization::interval) between two calls, and
    /// add 5 seconds to the interval after each [`Poll::SlowDown`].
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll), and transient errors too: see [`is_retryable`](Error::is_retryable).
    pub async fn poll_once(&self, authorization: &DeviceAuthorization) -> Result<Poll> {
        let grant = types::DeviceCodeGrant {
            client_id: self.0.client_id().to_owned(),
            device_code: authorization.device_code.clone(),
            grant_type: Default::default(),
        };
        let credentials = self.0.credentials(vec![&authorization.device_code]);
        match self
            .0
            .client()
            .issue_token(&credentials, grant.into())
            .await
        {
            Ok(token) => {
                let endpoint = self.0.client().endpoint();
                Ok(Poll::Granted(token.issued_to(self.0.client_id(), endpoint)))
            }
            Err(error) => match error.code() {
                Some(ErrorCode::AuthorizationPending) => Ok(Poll::Pending),
                Some(ErrorCode::SlowDown) => Ok(Poll::SlowDown),
                _ => Err(error),
            },
        }
    }
}

/// Whether an error ends polling: Coze refused, granted a token that can't be used, or the request can't be sent at all.
/// All other errors may be transient.
fn ends_polling(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Refused => error.code().is_some() && !error.is_retryable(),
        ErrorKind::Connect
        | ErrorKind::Timeout
        | ErrorKind::Interrupted
        | ErrorKind::InvalidAnswer => error.refresh_token().is_some(),
        _ => true,
    }
}

/// The minimum time that a request gets for its response, even if the device code expires before.
const MIN_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Decides the delay between two polls (RFC 8628 section 3.5).
struct Pace {
    /// The server's interval, with 5 seconds added for each `slow_down`.
    interval: Duration,
    /// The interval after backoff.
    backed_off: Duration,
    /// The last `Retry-After`.
    retry_after: Duration,
    /// The delay before the next request: the longest of these.
    next: Duration,
}

/// The delay before a request.
struct Wait {
    duration: Duration,
    /// The request is the last one before the device code expires.
    is_last: bool,
    /// `Retry-After` ends after the device code expires.
    skips_request: bool,
}

impl Pace {
    /// Each `slow_down` adds this to the interval, permanently.
    const SLOWER_BY: Duration = Duration::from_secs(5);
    /// The cap of the doubled interval after failures.
    const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
    /// The last request is sent this long before the device code expires.
    const LAST_BEFORE_EXPIRY: Duration = Duration::from_millis(500);

    fn new(interval: Duration) -> Self {
        Self {
            interval,
            backed_off: interval,
            retry_after: Duration::ZERO,
            next: interval,
        }
    }

    /// The delay before the next request. The last request is sent just before the device code expires, and at least one
    /// interval after the previous one. A delay is therefore extended if no further request would fit after it.
    fn wait(&self, remaining: Duration) -> Wait {
        let last = remaining.saturating_sub(Self::LAST_BEFORE_EXPIRY.min(remaining / 4));
        let is_last = self.next + self.interval > last;
        let skips_request = self.retry_after > last;
        Wait {
            duration: match (skips_request, is_last) {
                (true, _) => remaining,
                (_, true) => last,
                (_, false) => self.next,
            },
            is_last,
            skips_request,
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.interval);
    }

    fn slow_down(&mut self) {
        self.interval += Self::SLOWER_BY;
        self.reset();
    }

    fn back_off(&mut self, retry_after: Option<Duration>) {
        let doubled = (self.backed_off * 2).min(Self::LONGEST_BACK_OFF);
        self.backed_off = self.backed_off.max(doubled);
        self.retry_after = retry_after.unwrap_or_default();
        self.next = self.backed_off.max(self.retry_after);
    }
}

/// A pending device authorization: the user code and URL to show to the user, and the device code to poll with.
///
/// `Debug` does not print the device code.
#[derive(Clone)]
pub struct DeviceAuthorization {
    device_code: Secret,
    user_code: String,
    verification_uri: Url,
    interval: Duration,
    expires_in: Duration,
    expires: Instant,
    expires_wall: SystemTime,
    log_id: Option<String>,
    clock: Clock,
}

impl DeviceAuthorization {
    /// Reads the response tolerantly: only the fields without which the flow can't continue are required.
    fn from_answer(
        answer: &Answer<'_>,
        object: &Object<'_>,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<Self> {
        let missing = |name: &str, expected: &str| {
            let mismatch = object.mismatch(name, expected);
            answer.refusal_or(object, not_as_described(mismatch))
        };
        let device_code = object
            .text("device_code")
            .ok_or_else(|| missing("device_code", "a string"))?;
        // The documentation calls it an Integer, and shows a string.
        let user_code = match object.value("user_code") {
            Some(Value::String(code)) if !code.is_empty() => code,
            Some(Value::Number(code)) => code.to_string(),
            _ => return Err(missing("user_code", "a string or a number")),
        };
        // A user can't type an invisible character.
        let user_code = sanitize_to(&user_code, &[], LONGEST_USER_CODE);
        if user_code.is_empty() || user_code.chars().count() > LONGEST_USER_CODE {
            return Err(not_as_described(format!(
                "the response's user_code can't be shown: it has no visible character, or more than {LONGEST_USER_CODE}"
            )));
        }
        let verification_uri = object
            .text("verification_uri")
            .ok_or_else(|| missing("verification_uri", "the address that the user opens"))?;
        let verification_uri = checked_verification_uri(&verification_uri, endpoint)
            .map_err(|why| not_as_described(format!("the response's verification_uri {why}")))?;
        let timing = answer.timing;
        let granted = Granted::device_code();
        let mut life = granted.life(object.value("expires_in").as_ref(), timing);
        if life.granted.is_zero() {
            // A code that has already expired is useless, so the default lifetime is assumed.
            life = granted.life(None, timing);
        }
        Ok(Self {
            device_code: Secret::from(device_code.as_str()),
            user_code,
            verification_uri,
            interval: poll_interval(object.value("interval").as_ref()),
            expires_in: life.granted,
            expires: timing.ended + life.lifetime,
            expires_wall: timing.ended_wall + life.lifetime,
            log_id: answer.log_id(Some(object)),
            clock: clock.clone(),
        })
    }

    /// The code that the user confirms, such as `WDJB-MJHT`. It is safe to display: one line without control characters or
    /// other invisible characters.
    #[must_use]
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// The URL that the user opens, without the user code. It is an `https` URL without a user name (`http` is accepted for
    /// loopback hosts, and for the hosts of an [`Endpoint`] that uses `http`). It is all ASCII: an internationalised host name
    /// is in Punycode (`xn--…`), so that it can't imitate another one.
    #[must_use]
    pub fn verification_uri(&self) -> &str {
        self.verification_uri.as_str()
    }

    /// The verification URI with the user code in its query (`?user_code=…`), for a link or a QR code (RFC 8628 section 3.2).
    /// It is built here: a field of that name in the response is ignored.
    #[must_use]
    pub fn verification_uri_complete(&self) -> String {
        let mut url = self.verification_uri.clone();
        url.query_pairs_mut()
            .append_pair("user_code", &self.user_code);
        url.into()
    }

    /// The minimum time between two polls: the server's `interval`, or 5 seconds by default.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The lifetime of the device code when it was issued.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// The remaining lifetime of the device code: by the monotonic clock or the wall clock, whichever is less. The monotonic
    /// clock may stop while the system is suspended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let monotonic = self
            .expires
            .saturating_duration_since(self.clock.monotonic());
        let wall = self.expires_wall.duration_since(self.clock.wall());
        monotonic.min(wall.unwrap_or_default())
    }

    fn expired(&self, last_error: Option<Error>) -> Error {
        let error = Error::new(
            ErrorKind::DeviceCodeExpired,
            format!(
                "the user did not confirm the user code within {} s",
                self.expires_in.as_secs()
            ),
        )
        .in_flow(Flow::Device)
        .with_log_id(self.log_id.clone());
        match last_error {
            Some(last_error) => error.with_source(last_error),
            None => error,
        }
    }
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization")
            .field("device_code", &self.device_code)
            .field("user_code", &self.user_code)
            .field("verification_uri", &self.verification_uri())
            .field("interval", &self.interval)
            .field("expires_in", &self.expires_in)
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}

/// In characters. Coze's user codes have 9.
const LONGEST_USER_CODE: usize = 100;

/// In bytes. Coze's verification URIs have about 30.
const LONGEST_VERIFICATION_URI: usize = 2048;

/// Parses a verification URI that is safe to open. The error says why it is not, without quoting it.
fn checked_verification_uri(uri: &str, endpoint: &Endpoint) -> Result<Url, &'static str> {
    // A URL parser silently removes some of these.
    if uri.contains(|c: char| is_invisible(c) || c.is_whitespace()) {
        return Err("contains white space, a control character or another invisible character");
    }
    if uri.len() > LONGEST_VERIFICATION_URI {
        return Err("is longer than 2,048 bytes");
    }
    let url = Url::parse(uri).map_err(|_| "is not a URL")?;
    let Some(host) = url.host() else {
        return Err("has no host");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user name or password");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if coze_wire::is_loopback(&url) || is_http_host_of(endpoint, &host) => Ok(url),
        "http" => Err("is not an https URL"),
        _ => Err("is not an http or https URL"),
    }
}

/// Whether the endpoint itself uses plain `http` with this host: then the caller has allowed it explicitly.
fn is_http_host_of(endpoint: &Endpoint, host: &Host<&str>) -> bool {
    let bases = [endpoint.api_base(), endpoint.www_base()];
    let mut bases = bases.iter().filter_map(|base| Url::parse(base).ok());
    bases.any(|base| base.scheme() == "http" && base.host().as_ref() == Some(host))
}

/// The result of [`DeviceFlow::poll_once`].
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "a value is returned every few seconds, and a box would make matching harder"
)]
#[non_exhaustive]
pub enum Poll {
    /// The user approved.
    Granted(Token),
    /// The user has not decided yet.
    Pending,
    /// The user has not decided yet, and the interval must be 5 seconds longer from now on.
    SlowDown,
}

/// One step of [`DeviceFlow::poll_with`], for an observer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PollStep {
    /// The number of requests so far.
    pub requests: u32,
    /// The transient error of the last request, after which polling continues. `None` if Coze answered that the user has not
    /// decided yet.
    pub error: Option<Error>,
    /// The delay before the next request. It is longer after an error, and after Coze asked to slow down.
    pub next_in: Duration,
    /// The remaining lifetime of the device code.
    pub remaining: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slow_down_adds_five_seconds_and_failures_double_the_interval() {
        let secs = Duration::from_secs;
        let mut pace = Pace::new(secs(1));
        pace.slow_down();
        pace.slow_down();
        assert_eq!(pace.next, secs(11));
        pace.reset();
        assert_eq!(pace.next, secs(11), "slow_down is permanent");
        pace.back_off(None);
        assert_eq!(pace.next, secs(22));
        pace.back_off(Some(secs(100)));
        assert_eq!(pace.next, secs(100), "Retry-After applies once");
        pace.back_off(None);
        assert_eq!(pace.next, secs(60), "up to a minute");
        pace.reset();
        assert_eq!(
            pace.next,
            secs(11),
            "a response of Coze's resets the backoff"
        );
        pace.interval = secs(65);
        pace.reset();
        pace.back_off(None);
        assert_eq!(pace.next, secs(65), "the cap does not shorten the interval");
    }

    #[test]
    fn the_last_poll_is_just_before_expiry_and_an_interval_after_the_previous_one() {
        for (interval, lifetime, polls) in [
            (1, 3, &[1000, 2500][..]),
            (5, 12, &[5000, 11_500]),
            (5, 300, &[]),
            // The interval is not shorter than the code's lifetime.
            (5, 5, &[4500]),
            (600, 300, &[299_500]),
            (1, 1, &[750]),
        ] {
            let pace = Pace::new(Duration::from_secs(interval));
            let lifetime = Duration::from_secs(lifetime);
            let mut at = Duration::ZERO;
            let mut made = Vec::new();
            loop {
                let wait = pace.wait(lifetime - at);
                assert!(made.is_empty() || wait.duration >= pace.interval);
                at += wait.duration;
                made.push(at.as_millis());
                if wait.is_last {
                    break;
                }
            }
            assert!(
                lifetime - at <= Pace::LAST_BEFORE_EXPIRY,
                "{interval} {lifetime:?}"
            );
            assert!(polls.is_empty() || made == polls, "{made:?}");
        }
    }
}
