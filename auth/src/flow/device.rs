//! Device authorization: a program without a browser of its own.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use coze_oauth_client::types;
use coze_wire::{Secret, is_invisible, sanitize_to};
use serde_json::Value;
use url::{Host, Url};

use super::app::App;
use crate::{
    ClientId, Endpoint, Error, ErrorCode, ErrorKind, Flow, OAuthClient, RefreshToken, Result,
    Token,
    answer::{Answer, Object, not_as_described},
    clock::Clock,
    expiry::{Granted, poll_interval},
    input::PathId,
};

/// The device authorization flow: a terminal, a television, anything where a person signs in on
/// another device.
///
/// 1. [`start`](Self::start) gives a user code and an address to show.
/// 2. [`poll`](Self::poll) waits until the person has decided, or the code is too old.
/// 3. [`refresh`](Self::refresh) gets the next token. Each refresh token works once.
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
/// println!("Open {} and confirm {}", authorization.verification_url(), authorization.user_code());
/// let token = device.poll(&authorization).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DeviceFlow(pub(super) Arc<App>);

impl DeviceFlow {
    /// The flow of one device application.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the client id is empty or holds a control
    /// character. Surrounding white space is dropped.
    pub fn new(client: OAuthClient, client_id: impl Into<ClientId>) -> Result<Self> {
        App::new(Flow::Device, client, &client_id.into(), None).map(Self)
    }

    /// Asks for a device code and a user code (RFC 8628 section 3.1).
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) when Coze refuses.
    /// - [`InvalidAnswer`](ErrorKind::InvalidAnswer) when the answer has no user code that can be shown, or its
    ///   [`verification_uri`](DeviceAuthorization::verification_uri) is not one that a user should open.
    /// - Those of the transport and of other invalid answers.
    pub async fn start(&self) -> Result<DeviceAuthorization> {
        self.start_for(None).await
    }

    /// As [`start`](Self::start), limited to one workspace (enterprise plans).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); also [`InvalidInput`](ErrorKind::InvalidInput) when the workspace id
    /// can't stand in a path.
    pub async fn start_in_workspace(
        &self,
        workspace_id: impl AsRef<str>,
    ) -> Result<DeviceAuthorization> {
        let workspace = PathId::new("workspace", workspace_id.as_ref())
            .map_err(|error| error.in_flow(Flow::Device))?;
        self.start_for(Some(&workspace)).await
    }

    async fn start_for(&self, workspace: Option<&PathId>) -> Result<DeviceAuthorization> {
        let (client, client_id) = (self.client(), self.0.client_id());
        let (endpoint, clock) = (client.endpoint(), client.clock());
        client
            .start_device_authorization(client_id, workspace, |answer, object| {
                DeviceAuthorization::from_answer(answer, object, endpoint, clock)
            })
            .await
    }

    /// Waits until the user has decided.
    ///
    /// It asks every [`interval`](DeviceAuthorization::interval), and 5 seconds slower after each `slow_down` (RFC 8628
    /// section 3.5). What decides nothing ends nothing: after a time-out, a broken connection, an HTTP error, or an answer
    /// that is not Coze's (the page of a captive portal), it asks at half the pace, honouring `Retry-After`, until Coze
    /// answers again. The last request is made just before the device code expires, and its answer is awaited. Then it
    /// ends by itself. Drop the future to cancel: it stops at once.
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) with [`AccessDenied`](ErrorCode::AccessDenied): the user refused;
    ///   with [`ExpiredToken`](ErrorCode::ExpiredToken): Coze calls the device code too old; with another code: polling
    ///   can't help.
    /// - [`DeviceCodeExpired`](ErrorKind::DeviceCodeExpired): time ran out. If the last request failed,
    ///   its error is the source.
    /// - Those of answers that granted a token which can't be used: [`Error::refresh_token`] may hold the sign-in.
    pub async fn poll(&self, authorization: &DeviceAuthorization) -> Result<Token> {
        self.poll_with(authorization, |_| {}).await
    }

    /// As [`poll`](Self::poll), and tells an observer after each request how it stands, for a progress
    /// line.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub async fn poll_with(
        &self,
        authorization: &DeviceAuthorization,
        mut observe: impl FnMut(&PollStep) + Send,
    ) -> Result<Token> {
        let clock = self.client().clock();
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

            // An answer that comes a little late may hold the only copy of a token.
            let patience = authorization.remaining().max(LATEST_ANSWER);
            let outcome = tokio::select! {
                biased;
                outcome = self.poll_once(authorization) => outcome,
                () = clock.sleep(patience) => return Err(authorization.expired(last_error)),
            };
            requests += 1;
            let status = match outcome {
                Ok(Poll::Granted(token)) => return Ok(token),
                Ok(Poll::Pending) => {
                    pace.keep();
                    last_error = None;
                    PollStatus::Pending
                }
                Ok(Poll::SlowDown) => {
                    pace.slow_down();
                    last_error = None;
                    PollStatus::SlowDown
                }
                Err(error) if decides(&error) => return Err(error),
                Err(error) => {
                    pace.back_off(error.retry_after());
                    last_error = Some(error.clone());
                    PollStatus::Failed(error)
                }
            };
            let remaining = authorization.remaining();
            observe(&PollStep {
                requests,
                status,
                next_in: pace.wait(remaining).duration,
                remaining,
            });
        }
    }

    /// Asks once how it stands, for a caller with a loop of its own. Wait for
    /// [`interval`](DeviceAuthorization::interval) between two calls, and 5 seconds longer from each
    /// [`Poll::SlowDown`] on.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll), but errors that may pass are given as they are: see
    /// [`is_retryable`](Error::is_retryable).
    pub async fn poll_once(&self, authorization: &DeviceAuthorization) -> Result<Poll> {
        let grant = types::DeviceCodeGrant {
            client_id: self.0.client_id().to_owned(),
            device_code: authorization.device_code.clone(),
            grant_type: Default::default(),
        };
        let credentials = self.0.credentials(vec![&authorization.device_code]);
        match self.client().issue_token(&credentials, grant.into()).await {
            Ok(token) => Ok(Poll::Granted(token.issued_to(self.0.client_id()))),
            Err(error) => match error.code() {
                Some(ErrorCode::AuthorizationPending) => Ok(Poll::Pending),
                Some(ErrorCode::SlowDown) => Ok(Poll::SlowDown),
                _ => Err(error),
            },
        }
    }

    /// Gets the next token. The refresh token sent is dead afterwards, and the answer holds a new one.
    ///
    /// # Errors
    ///
    /// As [`WebFlow::refresh`](crate::WebFlow::refresh).
    pub async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        self.0.refresh(refresh_token).await
    }
}

/// Whether polling can't help any more: Coze refused, has granted a token that can't be used, or nothing could be sent.
/// Everything else, whatever came instead of Coze's answer, may be over at the next request.
fn decides(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Refused => error.code().is_some() && !error.is_retryable(),
        ErrorKind::Connect
        | ErrorKind::Timeout
        | ErrorKind::Interrupted
        | ErrorKind::Redirected
        | ErrorKind::InvalidAnswer => error.refresh_token().is_some(),
        _ => true,
    }
}

/// A request that is under way when the device code expires is waited for until it has had this long.
const LATEST_ANSWER: Duration = Duration::from_secs(5);

/// How long to wait between two polls (RFC 8628 section 3.5).
struct Pace {
    /// What the server asks for.
    interval: Duration,
    /// What failures have made of it.
    backed_off: Duration,
    /// What `Retry-After` asked for.
    asked: Duration,
    /// The wait before the next request: the longest of these.
    next: Duration,
}

/// A wait before a request.
struct Wait {
    duration: Duration,
    /// Its request is the one just before the code's end.
    is_last: bool,
    /// The server asked to be left alone until the code's end.
    skips_request: bool,
}

impl Pace {
    /// What each `slow_down` adds, permanently.
    const SLOWER_BY: Duration = Duration::from_secs(5);
    /// Failures double the interval up to this.
    const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
    /// The last request is made so long before the code's end.
    const LAST_BEFORE_END: Duration = Duration::from_millis(500);

    fn new(interval: Duration) -> Self {
        Self {
            interval,
            backed_off: interval,
            asked: Duration::ZERO,
            next: interval,
        }
    }

    /// The wait before the next request. The last one comes just before the code's end, and one interval at least after
    /// the request before it: so a wait is stretched to the end if no further request would fit behind it.
    fn wait(&self, remaining: Duration) -> Wait {
        let last = remaining.saturating_sub(Self::LAST_BEFORE_END.min(remaining / 4));
        let is_last = self.next + self.interval > last;
        let skips_request = self.asked > last;
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

    fn keep(&mut self) {
        *self = Self::new(self.interval);
    }

    fn slow_down(&mut self) {
        self.interval += Self::SLOWER_BY;
        self.keep();
    }

    fn back_off(&mut self, retry_after: Option<Duration>) {
        let doubled = (self.backed_off * 2).min(Self::LONGEST_BACK_OFF);
        self.backed_off = self.backed_off.max(doubled);
        self.asked = retry_after.unwrap_or_default();
        self.next = self.backed_off.max(self.asked);
    }
}

/// A device authorization under way: what to show to the person, and what to poll with.
///
/// It holds the device code, which `Debug` does not print.
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
    /// The answer may hold the only device code of a login that goes on: only what can't be done without is asked for.
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
        // Nobody could type a character that is not seen.
        let user_code = sanitize_to(&user_code, &[], LONGEST_USER_CODE);
        if user_code.is_empty() || user_code.chars().count() > LONGEST_USER_CODE {
            return Err(not_as_described(format!(
                "the answer's user_code can't be shown: it has no visible character, or more than {LONGEST_USER_CODE}"
            )));
        }
        let verification_uri = object
            .text("verification_uri")
            .ok_or_else(|| missing("verification_uri", "the address that the user opens"))?;
        let verification_uri = checked_verification_uri(&verification_uri, endpoint)
            .map_err(|why| not_as_described(format!("the answer's verification_uri {why}")))?;
        let timing = answer.timing;
        let granted = Granted::device_code();
        let mut life = granted.life(object.value("expires_in").as_ref(), timing);
        if life.granted.is_zero() {
            // Nobody could use the code: that can't be meant.
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

    /// The code that the user confirms, such as `WDJB-MJHT`. It is meant to be shown: it is one line, and has no control
    /// characters or others that are not seen.
    #[must_use]
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// The address that the user opens, without the user code. It is an `https` URL (`http` is accepted for loopback hosts, and
    /// for the hosts of an [`Endpoint`] that has such bases) without a user name, all in ASCII: a host in another alphabet
    /// shows as it is looked up (`xn--…`), so none passes for another.
    #[must_use]
    pub fn verification_uri(&self) -> &str {
        self.verification_uri.as_str()
    }

    /// The address with the user code in it (`?user_code=…`), for a link or a QR code. It is made from these two; a
    /// `verification_uri_complete` (RFC 8628 section 3.2) of the answer is ignored.
    #[must_use]
    pub fn verification_url(&self) -> String {
        let mut url = self.verification_uri.clone();
        url.query_pairs_mut()
            .append_pair("user_code", &self.user_code);
        url.into()
    }

    /// The least time between two polls, as the server asks for; 5 seconds when it does not say.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How long the person had to decide when it began.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// How long the user still has to decide: by the monotonic clock, or by the wall clock if that says less, because
    /// the former may stand still while a system is suspended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let monotonic = self
            .expires
            .saturating_duration_since(self.clock.monotonic());
        let wall = self.expires_wall.duration_since(self.clock.wall());
        monotonic.min(wall.unwrap_or_default())
    }

    /// Coze's log id of the answer that began it.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    fn expired(&self, last_error: Option<Error>) -> Error {
        let error = Error::new(
            ErrorKind::DeviceCodeExpired,
            format!(
                "nobody confirmed the user code within {} s",
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

/// Coze's have 9 characters.
const LONGEST_USER_CODE: usize = 100;

/// In bytes. Coze's have some 30; a QR code or a terminal's line takes no more than this either.
const LONGEST_VERIFICATION_URI: usize = 2048;

/// An address that a user may be asked to open; or why not, without quoting it.
fn checked_verification_uri(uri: &str, endpoint: &Endpoint) -> Result<Url, &'static str> {
    // A URL parser drops some of these.
    if uri.contains(|c: char| is_invisible(c) || c.is_whitespace()) {
        return Err("holds white space, a control character, or another that is not seen");
    }
    if uri.len() > LONGEST_VERIFICATION_URI {
        return Err("is longer than 2,048 bytes");
    }
    let url = Url::parse(uri).map_err(|_| "is not a URL")?;
    let Some(host) = url.host() else {
        return Err("has no host");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if coze_wire::is_loopback(&url) || is_http_host_of(endpoint, &host) => Ok(url),
        "http" => Err("is not an https URL"),
        _ => Err("is not an address that a browser opens"),
    }
}

/// Whether the endpoint itself is reached at this host by plain `http`: the caller has allowed it by name.
fn is_http_host_of(endpoint: &Endpoint, host: &Host<&str>) -> bool {
    let bases = [endpoint.api_base(), endpoint.www_base()];
    let mut bases = bases.iter().filter_map(|base| Url::parse(base).ok());
    bases.any(|base| base.scheme() == "http" && base.host().as_ref() == Some(host))
}

/// How it stands after one request.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "one comes every few seconds; a box would only be in the way of matching"
)]
#[non_exhaustive]
pub enum Poll {
    /// The person approved.
    Granted(Token),
    /// The person has not decided yet.
    Pending,
    /// The person has not decided yet, and the next request must come 5 seconds later from now on.
    SlowDown,
}

/// One step of [`DeviceFlow::poll_with`], for an observer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PollStep {
    /// How many requests were made so far.
    pub requests: u32,
    /// What the last one said.
    pub status: PollStatus,
    /// The wait before the next one.
    pub next_in: Duration,
    /// How long the person still has to decide.
    pub remaining: Duration,
}

/// What a request of [`DeviceFlow::poll_with`] said.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PollStatus {
    /// The person has not decided yet.
    Pending,
    /// The same, and polling goes on more slowly.
    SlowDown,
    /// The request failed in a way that may pass; polling goes on more slowly.
    Failed(Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_down_adds_five_seconds_each_and_failures_double() {
        let secs = Duration::from_secs;
        let mut pace = Pace::new(secs(1));
        pace.slow_down();
        pace.slow_down();
        assert_eq!(pace.next, secs(11));
        pace.keep();
        assert_eq!(pace.next, secs(11), "for good");
        pace.back_off(None);
        assert_eq!(pace.next, secs(22));
        pace.back_off(Some(secs(100)));
        assert_eq!(pace.next, secs(100), "Retry-After counts once");
        pace.back_off(None);
        assert_eq!(pace.next, secs(60), "up to a minute");
        pace.keep();
        assert_eq!(pace.next, secs(11), "until Coze answers again");
        pace.interval = secs(65);
        pace.keep();
        pace.back_off(None);
        assert_eq!(pace.next, secs(65), "slow_down is never taken back");
    }

    #[test]
    fn the_last_poll_comes_just_before_the_end_and_no_sooner_than_an_interval_after_the_one_before()
    {
        for (interval, life, polls) in [
            (1, 3, &[1000, 2500][..]),
            (5, 12, &[5000, 11_500]),
            (5, 300, &[]),
            // An interval of the code's life or more.
            (5, 5, &[4500]),
            (600, 300, &[299_500]),
            (1, 1, &[750]),
        ] {
            let pace = Pace::new(Duration::from_secs(interval));
            let life = Duration::from_secs(life);
            let mut at = Duration::ZERO;
            let mut made = Vec::new();
            loop {
                let wait = pace.wait(life - at);
                assert!(made.is_empty() || wait.duration >= pace.interval);
                at += wait.duration;
                made.push(at.as_millis());
                if wait.is_last {
                    break;
                }
            }
            assert!(life - at <= Pace::LAST_BEFORE_END, "{interval} {life:?}");
            assert!(polls.is_empty() || made == polls, "{made:?}");
        }
    }
}
