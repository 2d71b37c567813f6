//! Where a cached provider's next token comes from: the seam between caching and the flows.

use std::{future::Future, pin::Pin, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    DeviceFlow, Error, ErrorCode, ErrorKind, Flow, JwtFlow, JwtTokenRequest, PkceFlow,
    RefreshToken, Result, Token, WebFlow,
};

pub(super) type MintFuture<'a> = Pin<Box<dyn Future<Output = Result<Token>> + Send + 'a>>;

/// Gets new tokens. Calls never overlap.
pub(super) trait Source: Send + Sync + 'static {
    /// The flow that it goes by.
    fn flow(&self) -> Flow;

    /// Gets one before the deadline, trying again where that can help.
    fn mint(&self, deadline: Instant) -> MintFuture<'_>;
}

/// The JWT flow: a fresh JWT for each attempt.
pub(super) struct JwtSource {
    pub(super) flow: JwtFlow,
    pub(super) request: JwtTokenRequest,
}

impl Source for JwtSource {
    fn flow(&self) -> Flow {
        Flow::Jwt
    }

    fn mint(&self, deadline: Instant) -> MintFuture<'_> {
        Box::pin(retrying(deadline, AtDeadline::CutOff, || {
            self.flow.token_for(&self.request)
        }))
    }
}

/// A flow whose tokens a person granted.
pub(super) enum UserFlow {
    Web(WebFlow),
    Pkce(PkceFlow),
    Device(DeviceFlow),
}

impl UserFlow {
    fn kind(&self) -> Flow {
        match self {
            Self::Web(_) => Flow::Web,
            Self::Pkce(_) => Flow::Pkce,
            Self::Device(_) => Flow::Device,
        }
    }

    async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        match self {
            Self::Web(flow) => flow.refresh(refresh_token).await,
            Self::Pkce(flow) => flow.refresh(refresh_token).await,
            Self::Device(flow) => flow.refresh(refresh_token).await,
        }
    }
}

/// The refresh token of a person's grant, which rotates. Kept in memory only.
pub(super) struct RefreshSource {
    flow: UserFlow,
    record: Mutex<Record>,
}

enum Record {
    Live(RefreshToken),
    /// Coze does not take the refresh token any more: only the person can help.
    Dead(Error),
}

impl RefreshSource {
    pub(super) fn new(flow: UserFlow, refresh_token: Option<RefreshToken>) -> Self {
        let record = match refresh_token {
            Some(refresh_token) => Record::Live(refresh_token),
            None => Record::Dead(nothing_to_refresh_with(flow.kind())),
        };
        Self {
            flow,
            record: Mutex::new(record),
        }
    }
}

fn nothing_to_refresh_with(flow: Flow) -> Error {
    Error::new(
        ErrorKind::Refused,
        "there is no refresh token to get a new access token with",
    )
    .with_code(ErrorCode::InvalidGrant)
    .in_flow(flow)
}

impl Source for RefreshSource {
    fn flow(&self) -> Flow {
        self.flow.kind()
    }

    fn mint(&self, deadline: Instant) -> MintFuture<'_> {
        Box::pin(async move {
            let mut record = self.record.lock().await;
            let refresh_token = match &*record {
                Record::Live(refresh_token) => refresh_token.clone(),
                Record::Dead(error) => return Err(error.clone()),
            };
            // The same refresh token again: if the first attempt went through, it is spent either way.
            let refreshed = retrying(deadline, AtDeadline::Await, || {
                self.flow.refresh(&refresh_token)
            })
            .await;
            match &refreshed {
                // If no other is issued, the old one stays (RFC 6749 section 6).
                Ok(token) => {
                    if let Some(next) = token.refresh_token() {
                        *record = Record::Live(next.clone());
                    }
                }
                Err(error) if error.code() == Some(&ErrorCode::InvalidGrant) => {
                    *record = Record::Dead(error.clone());
                }
                Err(_) => {}
            }
            refreshed
        })
    }
}

/// The first wait between two attempts, before jitter; each later one doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Attempts after the first.
const MOST_RETRIES: usize = 4;

/// What becomes of an attempt that is under way at the deadline. None is begun after it.
#[derive(Clone, Copy)]
pub(super) enum AtDeadline {
    /// It is cut off.
    CutOff,
    /// It is waited for, as long as a request may take: it may redeem something that works once.
    Await,
}

/// Tries until it works, an error comes that waiting does not mend, or time runs out: exponential waits
/// with full jitter, never shorter than `Retry-After` asks.
pub(super) async fn retrying<F>(
    deadline: Instant,
    at_deadline: AtDeadline,
    attempt: impl FnMut() -> F,
) -> Result<Token>
where
    F: Future<Output = Result<Token>>,
{
    let mut last_error = None;
    let waits = ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_factor(2.0)
        .with_max_delay(LONGEST_WAIT)
        .with_max_times(MOST_RETRIES);
    let attempts = attempt
        .retry(waits)
        .sleep(tokio::time::sleep)
        .when(Error::is_retryable)
        .adjust(|error, wait| {
            let wait = wait?
                .mul_f64(random_fraction())
                .max(error.retry_after().unwrap_or_default());
            let left = deadline.saturating_duration_since(Instant::now());
            (wait < left).then_some(wait)
        })
        .notify(|error: &Error, wait| {
            tracing::debug!(kind = ?error.kind(), ?wait, "Coze gave no token; trying again");
            last_error = Some(error.clone());
        });
    match at_deadline {
        AtDeadline::Await => attempts.await,
        AtDeadline::CutOff => match tokio::time::timeout_at(deadline, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => Err(last_error.unwrap_or_else(|| {
                Error::new(ErrorKind::Timeout, "no token came before the deadline")
            })),
        },
    }
}

/// Spreads the refreshes of many instances: 0.75 to 1.25.
pub(super) fn jitter() -> f64 {
    0.75 + random_fraction() / 2.0
}

/// Evenly spread over 0 to 1; 1 where the system has no random bytes.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}
