//! Where a cached provider's next token comes from: the seam between caching and the flows.

use std::{future::Future, pin::Pin, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use tokio::time::Instant;

use super::{AccessToken, RefreshMode};
use crate::{Error, ErrorKind, Flow, JwtFlow, JwtTokenRequest, Result, Token};

pub(crate) type MintFuture<'a> = Pin<Box<dyn Future<Output = Result<Token>> + Send + 'a>>;
pub(crate) type LookFuture<'a> = Pin<Box<dyn Future<Output = Result<Option<Token>>> + Send + 'a>>;
pub(crate) type SettleFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Gets new tokens. Calls never overlap.
pub(crate) trait Source: Send + Sync + 'static {
    /// The flow that it goes by.
    fn flow(&self) -> Flow;

    /// Gets one before the deadline, trying again where that can help.
    fn mint(&self, mode: RefreshMode, deadline: Instant) -> MintFuture<'_>;

    /// A token that is there without a request, another than it gave last: a provider in backoff asks once a second at most.
    fn look(&self, _mode: RefreshMode, _deadline: Instant) -> LookFuture<'_> {
        Box::pin(async { Ok(None) })
    }

    /// Moves when a fresh sign-in was put by this process: it ends every backoff.
    fn changes(&self) -> u64 {
        0
    }

    /// Hears that the API refused a token that it got. True if it keeps by itself from getting another for every
    /// refusal.
    fn heeds_refusal(&self, _refused: &AccessToken) -> bool {
        false
    }

    /// Begins nothing new any more.
    fn close(&self) {}

    /// Does what is undone, as far as that is possible.
    fn settle(&self) -> SettleFuture<'_> {
        Box::pin(async {})
    }

    /// Why the last token's sign-in is not saved, if it is not.
    fn unsaved(&self) -> Option<Error> {
        None
    }

    /// How many of the tokens it got had been refreshed by another owner.
    fn adopted(&self) -> u64 {
        0
    }
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

    fn mint(&self, _: RefreshMode, deadline: Instant) -> MintFuture<'_> {
        Box::pin(retrying(deadline, AtDeadline::CutOff, || {
            self.flow.token_for(&self.request)
        }))
    }
}

/// The first wait between two attempts, before jitter; each later one doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Attempts after the first.
const MOST_RETRIES: usize = 4;

/// What becomes of an attempt that is under way at the deadline. None is begun after it.
#[derive(Clone, Copy)]
pub(crate) enum AtDeadline {
    /// It is cut off.
    CutOff,
    /// It is waited for, as long as a request may take: it may redeem something that works once.
    Await,
}

/// Tries until it works, an error comes that waiting does not mend, or time runs out: exponential waits
/// with full jitter, never shorter than `Retry-After` asks.
pub(crate) async fn retrying<T, F>(
    deadline: Instant,
    at_deadline: AtDeadline,
    attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
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
pub(crate) fn random_fraction() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}
