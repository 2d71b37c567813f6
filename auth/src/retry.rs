//! Retry policies of token requests: the delays between the attempts of one request, the backoff of a key after a failed
//! request, "not before" for the other owners of a stored sign-in, and how long the circuit breaker keeps a permit.
//!
//! `Retry-After` is parsed here, and its caps are here: of the parsed header (`LONGEST_RETRY_AFTER`), of a backoff (`LONGEST_ASKED`), of
//! "not before" (`LONGEST_NOT_BEFORE`) and of a permit (`LONGEST_OPEN`). API calls have their own policy, in
//! `api/src/dispatch.rs`.

use std::{
    fmt,
    future::Future,
    time::{Duration, SystemTime},
};

use coze_wire::Captured;
use http::header::RETRY_AFTER;
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) mod circuit_breaker;

use crate::{Error, ErrorKind, Result, random};
use circuit_breaker::CircuitBreaker;

/// The cap on a parsed `Retry-After`, against overflow and implausible values; each use has a lower cap.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The `Retry-After` of a response: seconds, or a date, compared with the server's clock, or else this machine's at the end of
/// the response (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(response: &Captured, ended: SystemTime) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(value).ok()?;
            let server_now = response.date().unwrap_or(ended);
            until.duration_since(server_now).unwrap_or_default()
        }
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

/// The longest deadline: a day.
pub(crate) const LONGEST_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// The minimum interval between two invalidations. An API that refuses every token must not cause a token request for
/// each call.
pub(crate) const BETWEEN_INVALIDATIONS: Duration = Duration::from_secs(10);

// Attempts of one request

/// The delay after the first attempt, before jitter; each later one doubles.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MOST_ATTEMPTS: u32 = 5;

/// What happens to an attempt that is in flight at the deadline. No attempt starts after the deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtDeadline {
    /// It is cancelled.
    CutOff,
    /// It is awaited up to the request timeout: it may redeem a single-use token.
    Await,
}

/// Makes attempts, each with a permit of the circuit breaker, until one succeeds or fails with a non-retryable error, or
/// time runs out: exponential delays with full jitter, never shorter than `Retry-After` asks.
pub(crate) async fn retrying<T, F>(
    breaker: &CircuitBreaker,
    deadline: Instant,
    at_deadline: AtDeadline,
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut last_error: Option<Error> = None;
    let mut delay = FIRST_DELAY;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let permit = match breaker.permit(deadline).await {
            Ok(permit) => permit,
            // The server's response to this request is more specific, but does not say when to retry.
            Err(no_permit) => {
                let after = no_permit.retry_after();
                return Err(last_error.map_or(no_permit, |own| own.with_retry_after(after)));
            }
        };
        let attempted = attempt();
        let outcome = match at_deadline {
            AtDeadline::Await => Some(attempted.await),
            AtDeadline::CutOff => timeout_at(deadline, attempted).await.ok(),
        };
        let is_cut_off = outcome.is_none();
        let outcome = outcome.unwrap_or_else(|| {
            let late = "no token was received before the deadline";
            Err(Error::new(ErrorKind::Timeout, late))
        });
        breaker.record(permit, outcome.as_ref().err(), is_cut_off);
        let error = match outcome {
            Ok(token) => return Ok(token),
            // The server's last response is more useful than a timeout.
            Err(late) if is_cut_off => return Err(last_error.unwrap_or(late)),
            Err(error) => error,
        };
        let wait = delay
            .mul_f64(random::fraction())
            .max(error.retry_after().unwrap_or_default());
        let left = deadline.saturating_duration_since(Instant::now());
        // The server has redeemed the refresh token even if its response was truncated.
        let may_help = error.is_retryable() && error.refresh_token().is_none();
        if !may_help || attempts == MOST_ATTEMPTS || wait >= left {
            return Err(error);
        }
        tracing::debug!(kind = ?error.kind(), ?wait, "the token request failed; retrying");
        last_error = Some(error);
        sleep(wait).await;
        delay *= 2;
    }
}

// The other owners of a stored sign-in

/// How long other owners do not refresh after a 5xx, a 429 or a failed connection, without a `Retry-After`.
const NOT_BEFORE: Duration = Duration::from_secs(5);
/// The cap of a `Retry-After` for other owners.
const LONGEST_NOT_BEFORE: Duration = Duration::from_secs(15);

/// How long other owners do not refresh after this failure of the server.
pub(crate) fn not_before(failure: &Error) -> Duration {
    capped_not_before(failure.retry_after().unwrap_or(NOT_BEFORE))
}

/// Caps a stored "not before", which another program may have written.
pub(crate) fn capped_not_before(stored: Duration) -> Duration {
    stored.min(LONGEST_NOT_BEFORE)
}

// The circuit breaker

/// How long an open circuit keeps a permit after its attempt, unless the server's `Retry-After` is longer.
const OPEN_FOR: Duration = Duration::from_secs(1);
/// The cap, so that callers notice the server's recovery.
const LONGEST_OPEN: Duration = Duration::from_secs(15);

/// How long the permit of an attempt is kept if the attempt found the server down.
pub(crate) fn permit_kept_for(error: &Error) -> Duration {
    let asked = error.retry_after().unwrap_or_default();
    asked.clamp(OPEN_FOR, LONGEST_OPEN)
}

/// The suggested delay for a caller that an open circuit rejected: until the next permit may be free, with jitter.
pub(crate) fn after_open_circuit(next_permit: Instant) -> Duration {
    let left = next_permit.saturating_duration_since(Instant::now());
    left.max(FIRST_BACKOFF).mul_f64(random::jitter())
}

/// The source of a server error that is returned to a caller without a request, because the circuit is open.
#[derive(Debug)]
pub(crate) struct CircuitOpen;

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the circuit breaker is open")
    }
}

impl std::error::Error for CircuitOpen {}

impl CircuitOpen {
    pub(crate) fn caused(error: &Error) -> bool {
        std::error::Error::source(error).is_some_and(|source| source.is::<Self>())
    }
}

// The backoff of a key

/// The failures of one key. During a backoff no request is sent for the key, and callers get the last error.
#[derive(Default)]
pub(crate) struct Backoff {
    /// Consecutive failures. The count restarts when the old token has expired.
    failures: u32,
    /// Whether the last failure left callers without a token.
    callers_go_without: bool,
    /// The last failure and the end of its backoff.
    last: Option<(Error, Instant)>,
    /// When the store was last checked during this backoff.
    checked: Option<Instant>,
}

/// The backoff after the first failure. Each further failure doubles it. It is reset when the old token expires, so that
/// callers wait for a recovered server no longer than they have already been without a token.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// The cap while the old token is served, or after a non-retryable refusal.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// The cap while callers have no token and a retry may succeed. A server that is down gets at most five attempts in this
/// time, regardless of the number of callers.
const LONGEST_WITHOUT_TOKEN: Duration = Duration::from_secs(15);
/// The longest backoff that a server's `Retry-After` can cause.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// The resolution of the coarse clock, which determines when a token expires. Backoffs use a precise clock.
const COARSE_STEP: Duration = Duration::from_millis(20);
/// The minimum interval between two checks of the store during a backoff, which delays requests but not loads.
const BETWEEN_STORE_CHECKS: Duration = Duration::from_secs(1);

impl Backoff {
    /// The last failure, with the remaining backoff as its `retry_after`; `None` if a request may be sent now.
    pub(crate) fn error(&self) -> Option<Error> {
        let (error, until) = self.last.as_ref()?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| error.clone().with_retry_after(Some(left)))
    }

    /// Whether the store may be checked for a fresh sign-in now. Always, if one `is_known` to have been stored.
    pub(crate) fn may_check_store(&mut self, is_known: bool) -> bool {
        let now = Instant::now();
        let is_due = |checked: Instant| now.duration_since(checked) >= BETWEEN_STORE_CHECKS;
        let may = is_known || self.checked.is_none_or(is_due);
        if may {
            self.checked = Some(now);
        }
        may
    }

    /// Records a failure and sets the error's `retry_after`. Returns the backoff, if there is one. It ends no later than
    /// the token that is `still_served`.
    pub(crate) fn record(
        &mut self,
        error: &mut Error,
        still_served: Option<Duration>,
    ) -> Option<Duration> {
        self.checked = None;
        let delay = if CircuitOpen::caused(error) {
            // No request was sent for this key, so this is not one of its failures.
            error.retry_after()?
        } else if is_callers_own(error.kind(), still_served.is_some()) {
            self.last = None;
            return None;
        } else {
            let goes_without = still_served.is_none();
            if goes_without && !self.callers_go_without {
                self.failures = 0;
            }
            self.callers_go_without = goes_without;
            let delay = backoff(self.failures, error, still_served);
            self.failures = self.failures.saturating_add(1);
            delay
        };
        *error = error.clone().with_retry_after(Some(delay));
        self.last = Some((error.clone(), Instant::now() + delay));
        Some(delay)
    }
}

/// The backoff after a failure. While a token is still served, the exponential backoff is at most half of the token's
/// remaining lifetime, so that there is another attempt before it expires; a `Retry-After` can extend the backoff up to
/// the token's expiry. Without a token, a `Retry-After` applies up to `LONGEST_ASKED`.
fn backoff(failures_before: u32, error: &Error, still_served: Option<Duration>) -> Duration {
    let is_decided = error.kind() == ErrorKind::Refused && !error.is_retryable();
    let longest = if still_served.is_some() || is_decided {
        LONGEST_BACKOFF
    } else {
        LONGEST_WITHOUT_TOKEN
    };
    let grown = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures_before));
    let grown = grown.min(longest);
    let asked = error.retry_after().unwrap_or_default().min(LONGEST_ASKED);
    match still_served {
        None => grown.max(asked),
        Some(left) => grown
            .min((left / 2).max(FIRST_BACKOFF))
            .max(asked)
            .min(left.saturating_sub(COARSE_STEP)),
    }
}

/// Whether a failure concerns only this caller, so that there is no backoff for others: invalid input, or no sign-in, since
/// the user may sign in at any time.
fn is_callers_own(kind: ErrorKind, is_served: bool) -> bool {
    match kind {
        ErrorKind::InvalidInput => true,
        ErrorKind::NotSignedIn => !is_served,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Error {
        Error::new(ErrorKind::Connect, "down")
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_grows_and_the_error_has_it_as_retry_after() {
        let refused = || Error::new(ErrorKind::Refused, "no");
        let server_down = [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0];
        let non_retryable = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
        for (failure, delays) in [
            (failure as fn() -> Error, &server_down[..]),
            (refused, &non_retryable),
        ] {
            let mut backoff = Backoff::default();
            for seconds in delays {
                let expected = Duration::from_secs_f64(*seconds);
                assert!(backoff.error().is_none(), "the last one has ended");
                let mut error = failure();
                assert_eq!(backoff.record(&mut error, None), Some(expected));
                assert_eq!(error.retry_after(), Some(expected));
                let last = backoff.error().unwrap();
                assert_eq!(last.kind(), failure().kind());
                assert_eq!(last.retry_after(), Some(expected));
                tokio::time::advance(expected).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_is_reset_when_callers_are_without_a_token() {
        let mut backoff = Backoff::default();
        let served = Some(Duration::from_secs(100));
        let delays = [served, served, served, None, None, None]
            .map(|still_served| backoff.record(&mut failure(), still_served).unwrap());
        assert_eq!(
            delays,
            [1, 2, 4, 1, 2, 4].map(|halves| FIRST_BACKOFF * halves)
        );
    }

    #[test]
    fn a_backoff_ends_no_later_than_the_token_that_is_still_served() {
        let secs = Duration::from_secs;
        let asked = |seconds| failure().with_retry_after(Some(secs(seconds)));
        for (failures, error, left, delay) in [
            (0, failure(), secs(100), FIRST_BACKOFF),
            (9, failure(), secs(100), secs(50)),
            (9, failure(), secs(1), secs(1) / 2),
            (9, failure(), secs(1) / 2, secs(1) / 2 - COARSE_STEP),
            (9, failure(), COARSE_STEP / 2, Duration::ZERO),
            (0, asked(30), secs(100), secs(30)),
            (0, asked(300), secs(100), secs(100) - COARSE_STEP),
        ] {
            assert_eq!(backoff(failures, &error, Some(left)), delay);
        }
        assert_eq!(backoff(0, &asked(20), None), secs(20));
        assert_eq!(backoff(0, &asked(7200), None), LONGEST_ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_checked_once_a_second_and_immediately_after_a_fresh_sign_in() {
        let mut backoff = Backoff::default();
        backoff.record(&mut failure(), None);
        for expected in [true, false, false] {
            assert_eq!(backoff.may_check_store(false), expected);
        }
        assert!(backoff.may_check_store(true));
        tokio::time::advance(BETWEEN_STORE_CHECKS).await;
        assert!(backoff.may_check_store(false));
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_input_causes_no_backoff_for_others() {
        let mut backoff = Backoff::default();
        let mut error = Error::invalid_input("wrong");
        assert_eq!(backoff.record(&mut error, None), None);
        assert!(backoff.error().is_none());
    }
}
