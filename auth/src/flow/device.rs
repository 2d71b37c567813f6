//! Device authorization: a program without a browser of its own.

use std::{
    fmt,
    time::{Duration, Instant},
};

use coze_oauth_client::types;
use coze_wire::Secret;
use url::Url;

use crate::{
    Error, ErrorCode, ErrorKind, Flow, OAuthClient, RefreshToken, Result, Token,
    client::Credentials,
    clock::Clock,
    input::{PathId, required},
    token::Timing,
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
pub struct DeviceFlow {
    client: OAuthClient,
    client_id: String,
}

impl DeviceFlow {
    /// The flow of one device application.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the client id is empty or holds a control
    /// character. Surrounding white space is dropped.
    pub fn new(client: OAuthClient, client_id: impl AsRef<str>) -> Result<Self> {
        let client_id = required("client id", client_id.as_ref())
            .map_err(|error| error.in_flow(Flow::Device))?;
        Ok(Self { client, client_id })
    }

    /// Asks for a device code and a user code (RFC 8628 section 3.1).
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when Coze says no; those of the transport and of answers that
    /// are none.
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
        let clock = self.client.clock();
        self.client
            .start_device_authorization(&self.client_id, workspace, |answer, timing, log_id| {
                DeviceAuthorization::from_answer(answer, timing, log_id, clock)
            })
            .await
    }

    /// Waits until the person has decided.
    ///
    /// It asks every [`interval`](DeviceAuthorization::interval), 5 seconds slower after each
    /// `slow_down`, and at half the pace after a time-out, a broken connection, HTTP 429 or 5xx (RFC 8628
    /// section 3.5), honouring `Retry-After`. It ends by itself when the device code expires. Drop the
    /// future to cancel: it stops at once.
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) with [`AccessDenied`](ErrorCode::AccessDenied): the person said
    ///   no; with [`ExpiredToken`](ErrorCode::ExpiredToken): Coze calls the device code too old.
    /// - [`DeviceCodeExpired`](ErrorKind::DeviceCodeExpired): time ran out. If the last request failed,
    ///   its error is the source.
    /// - Any other error that waiting does not mend.
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
        let clock = self.client.clock();
        let mut pace = Pace::new(authorization.interval);
        let mut last_error: Option<Error> = None;
        let mut requests = 0;
        loop {
            let remaining = authorization.remaining();
            if pace.next >= remaining {
                clock.sleep(remaining).await;
                return Err(authorization.expired(last_error));
            }
            clock.sleep(pace.next).await;

            let asked = self.poll_once(authorization);
            let outcome = tokio::select! {
                biased;
                outcome = asked => outcome,
                () = clock.sleep(authorization.remaining()) => {
                    return Err(authorization.expired(last_error));
                }
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
                Err(error) if error.is_retryable() => {
                    pace.back_off(error.retry_after());
                    last_error = Some(error.clone());
                    PollStatus::Failed(error)
                }
                Err(error) => return Err(error),
            };
            observe(&PollStep {
                requests,
                status,
                next_in: pace.next,
                remaining: authorization.remaining(),
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
            client_id: self.client_id.clone(),
            device_code: authorization.device_code.clone(),
            grant_type: Default::default(),
        };
        let credentials = credentials(&authorization.device_code);
        match self.client.issue_token(&credentials, grant.into()).await {
            Ok(token) => Ok(Poll::Granted(token.issued_to(&self.client_id))),
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
        self.client
            .refresh(Flow::Device, &self.client_id, None, refresh_token)
            .await
    }

    pub(crate) fn client(&self) -> &OAuthClient {
        &self.client
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }
}

fn credentials(in_body: &Secret) -> Credentials<'_> {
    Credentials {
        flow: Flow::Device,
        bearer: None,
        body: vec![in_body],
    }
}

/// How long to wait between two polls (RFC 8628 section 3.5).
struct Pace {
    /// The interval from now on.
    interval: Duration,
    /// The wait before the next request: the interval, or what `Retry-After` asked for.
    next: Duration,
}

impl Pace {
    /// What `slow_down` adds for good.
    const SLOWER_BY: Duration = Duration::from_secs(5);
    /// Failures double the interval up to this.
    const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

    fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: interval,
        }
    }

    fn keep(&mut self) {
        self.next = self.interval;
    }

    fn slow_down(&mut self) {
        self.interval += Self::SLOWER_BY;
        self.next = self.interval;
    }

    fn back_off(&mut self, retry_after: Option<Duration>) {
        let doubled = (self.interval * 2).min(Self::LONGEST_BACK_OFF);
        self.interval = self.interval.max(doubled);
        self.next = self.interval.max(retry_after.unwrap_or_default());
    }
}

/// A device authorization under way: what to show to the person, and what to poll with.
///
/// It holds the device code, which `Debug` does not print.
#[derive(Clone)]
pub struct DeviceAuthorization {
    device_code: Secret,
    user_code: String,
    verification_uri: String,
    interval: Duration,
    expires_in: Duration,
    expires: Instant,
    log_id: Option<String>,
    clock: Clock,
}

impl DeviceAuthorization {
    /// When the server gives no interval or no sensible one (RFC 8628 section 3.2).
    const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
    /// A year: far beyond any device code, and nowhere near an overflow.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

    fn from_answer(
        answer: types::DeviceCode,
        timing: &Timing,
        log_id: Option<String>,
        clock: &Clock,
    ) -> Result<Self> {
        let user_code = match answer.user_code {
            types::UserCode::String(code) => code,
            types::UserCode::Int64(code) => code.to_string(),
        };
        if answer.device_code.is_empty() || user_code.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidAnswer,
                "the answer holds an empty device code or user code",
            ));
        }
        let opens_in_a_browser = Url::parse(&answer.verification_uri)
            .is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
        if !opens_in_a_browser {
            return Err(Error::new(
                ErrorKind::InvalidAnswer,
                "the answer holds no address for the person to open",
            ));
        }
        let interval = match u64::try_from(answer.interval) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds).min(Self::LONGEST),
            _ => Self::DEFAULT_INTERVAL,
        };
        let expires_in = u64::try_from(answer.expires_in).unwrap_or_default();
        let expires_in = Duration::from_secs(expires_in).min(Self::LONGEST);
        Ok(Self {
            device_code: answer.device_code,
            user_code,
            verification_uri: answer.verification_uri,
            interval,
            expires_in,
            // It began to run when the server answered, at the earliest when the request was sent.
            expires: timing.began + expires_in,
            log_id,
            clock: clock.clone(),
        })
    }

    /// The code that the person confirms, such as `WDJB-MJHT`. It is meant to be shown.
    #[must_use]
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// The address that the person opens, without the user code.
    #[must_use]
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }

    /// The address with the user code in it (`?user_code=…`), for a link or a QR code.
    #[must_use]
    pub fn verification_url(&self) -> String {
        match Url::parse(&self.verification_uri) {
            Ok(mut url) => {
                url.query_pairs_mut()
                    .append_pair("user_code", &self.user_code);
                url.into()
            }
            Err(_) => self.verification_uri.clone(),
        }
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

    /// How long the person still has to decide.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.expires
            .saturating_duration_since(self.clock.monotonic())
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
            .field("verification_uri", &self.verification_uri)
            .field("interval", &self.interval)
            .field("expires_in", &self.expires_in)
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}

/// How it stands after one request.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "one comes every few seconds; a box would only be in the way of matching"
)]
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
        pace.keep();
        assert_eq!(pace.next, secs(44));
        pace.back_off(None);
        pace.back_off(None);
        assert_eq!(pace.next, secs(60), "up to a minute");
        pace.slow_down();
        assert_eq!(pace.next, secs(65), "but slow_down is always obeyed");
        pace.back_off(None);
        assert_eq!(pace.next, secs(65), "and never taken back");
    }
}
