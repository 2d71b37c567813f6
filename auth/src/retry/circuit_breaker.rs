//! The circuit breaker of a pool, and the permits for its requests.
//!
//! Each key has its own backoff, but many thousands of keys would still overload a server that is down. So the number of
//! concurrent requests is limited, and each needs a permit. When more consecutive attempts than there are permits have
//! found the server down, the circuit opens: a permit is released only a second after its attempt (half-open: these few
//! attempts detect recovery), and callers that find no free permit fail immediately. The first response from the server
//! closes the circuit.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Error, ErrorKind, Result,
    retry::{CircuitOpen, after_open_circuit, permit_kept_for},
};

/// Grants a permit for each attempt and records its outcome.
pub struct CircuitBreaker {
    /// `None` for a single provider, whose backoff has the same effect.
    limit: Option<Limit>,
    /// Attempts so far.
    requests: AtomicU64,
}

struct Limit {
    permits: Arc<Semaphore>,
    most: usize,
    failures: watch::Sender<Failures>,
}

#[derive(Default)]
struct Failures {
    /// When the server last gave a definite response, for any key.
    heard: Option<Instant>,
    /// Attempts since then that have found the server down.
    in_a_row: usize,
    /// While the circuit is open: the last failure, and when its permit will be free.
    open: Option<(Error, Instant)>,
}

impl Failures {
    fn refusal(&self) -> Option<Error> {
        let (error, next_permit) = self.open.as_ref()?;
        let after = after_open_circuit(*next_permit);
        Some(error.clone().with_retry_after(Some(after)))
    }
}

/// The permit for one attempt.
pub(crate) struct Permit {
    _held: Option<OwnedSemaphorePermit>,
}

/// An attempt that is cancelled at its deadline counts as a failure of the server only if the server has given no definite
/// response for this long.
const SILENCE: Duration = Duration::from_secs(5);

impl CircuitBreaker {
    /// A circuit breaker that never opens and only counts attempts.
    pub(crate) fn always_closed() -> Self {
        Self {
            limit: None,
            requests: AtomicU64::new(0),
        }
    }

    /// A circuit breaker with this number of permits.
    pub(crate) fn with_permits(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            limit: Some(Limit {
                permits: Arc::new(Semaphore::new(most)),
                most,
                failures: watch::Sender::default(),
            }),
            ..Self::always_closed()
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The error for a caller that needs a permit, if the circuit is open and all permits are in use.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let limit = self.limit.as_ref()?;
        if limit.permits.available_permits() > 0 {
            return None;
        }
        limit.failures.borrow().refusal()
    }

    /// Acquires a permit. Waits for one while the circuit is closed.
    pub(crate) async fn permit(&self, deadline: Instant) -> Result<Permit> {
        let Some(limit) = &self.limit else {
            return Ok(Permit { _held: None });
        };
        let mut failures = limit.failures.subscribe();
        let acquired = Arc::clone(&limit.permits).acquire_owned();
        let refusal = async {
            let open = failures.wait_for(|failures| failures.open.is_some());
            open.await.ok().and_then(|failures| failures.refusal())
        };
        let no_permit = || {
            Error::new(
                ErrorKind::Timeout,
                "no permit for a request was free before the deadline; consider a higher max_concurrent_requests",
            )
        };
        let (acquired, refusal) = (pin!(acquired), pin!(refusal));
        let first = select(acquired, refusal);
        match select(pin!(sleep_until(deadline)), first).await {
            Either::Left(_) => Err(no_permit()),
            Either::Right((Either::Left((permit, _)), _)) => Ok(Permit { _held: permit.ok() }),
            Either::Right((Either::Right((refusal, _)), _)) => {
                Err(refusal.unwrap_or_else(no_permit))
            }
        }
    }

    /// Records the outcome of an attempt, and releases its permit unless the circuit is open.
    pub(crate) fn record(&self, permit: Permit, failure: Option<&Error>, is_cut_off: bool) {
        use ErrorKind::{Provider, ShutDown, Signing, Store};
        // Errors of these kinds come from the caller's code, the store or a shutdown, before a request is sent. So the
        // attempt is not counted as a request, and says nothing about the server even if it may be retried.
        if failure
            .is_some_and(|error| matches!(error.kind(), Provider | ShutDown | Signing | Store(_)))
        {
            return;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(limit) = &self.limit else {
            return;
        };
        let now = Instant::now();
        let failure = match failure {
            Some(error) if error.is_retryable() => error,
            // There was no response, and not because the server is down.
            Some(error) if error.status().is_none() => return,
            // A definite response closes the circuit.
            _ => {
                limit.failures.send_if_modified(|failures| {
                    *failures = Failures {
                        heard: Some(now),
                        ..Failures::default()
                    };
                    false // Waiters are notified only when the circuit opens.
                });
                return;
            }
        };
        let heard = limit.failures.borrow().heard;
        let is_silent = heard.is_none_or(|heard| now.duration_since(heard) >= SILENCE);
        if is_cut_off && !is_silent {
            return;
        }
        let kept_for = permit_kept_for(failure);
        let mut is_open = false;
        limit.failures.send_if_modified(|failures| {
            failures.in_a_row = failures.in_a_row.saturating_add(1);
            is_open = failures.in_a_row > limit.most;
            if !is_open {
                return false;
            }
            // Omits the URL, text and log id, which belong to another caller's request.
            let error = failure
                .for_others(
                    "no request was sent, because requests for other tokens found the server down",
                )
                .with_own_source(CircuitOpen);
            failures.open.replace((error, now + kept_for)).is_none()
        });
        if is_open {
            tokio::spawn(async move {
                sleep(kept_for).await;
                drop(permit);
            });
        }
    }
}
