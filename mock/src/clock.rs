//! The mock's clock: real, following tokio's, or frozen. Tests can advance and reset it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The clock that the mock reads for expiry, polling intervals and its `Date` header.
///
/// Clones share one clock: advancing one advances all.
///
/// ```
/// use coze_mock::MockClock;
/// use std::time::Duration;
///
/// let clock = MockClock::frozen_at(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
/// clock.advance(Duration::from_secs(900));
/// assert_eq!(clock.unix_seconds(), 1_800_000_900);
/// ```
#[derive(Clone)]
pub struct MockClock(Arc<Inner>);

struct Inner {
    source: Source,
    /// Nanoseconds by which tests advanced the clock: enough for five centuries.
    advanced: AtomicU64,
}

enum Source {
    System,
    Tokio {
        start: tokio::time::Instant,
        start_since_epoch: Duration,
    },
    Frozen(Duration),
}

impl MockClock {
    /// The machine's wall clock plus the time by which tests advanced it. The default.
    #[must_use]
    pub fn real() -> Self {
        Self::new(Source::System)
    }

    /// Starts at the machine's wall clock and from then on follows `tokio::time`, so that under
    /// `#[tokio::test(start_paused = true)]` client and mock share one time. For in-process use.
    #[must_use]
    pub fn following_tokio() -> Self {
        Self::following_tokio_from(SystemTime::now())
    }

    /// As [`following_tokio`](Self::following_tokio), starting at a given time.
    #[must_use]
    pub fn following_tokio_from(start: SystemTime) -> Self {
        Self::new(Source::Tokio {
            start: tokio::time::Instant::now(),
            start_since_epoch: since_epoch(start),
        })
    }

    /// Does not move until it is advanced.
    #[must_use]
    pub fn frozen_at(time: SystemTime) -> Self {
        Self::new(Source::Frozen(since_epoch(time)))
    }

    fn new(source: Source) -> Self {
        Self(Arc::new(Inner {
            source,
            advanced: AtomicU64::new(0),
        }))
    }

    /// Advances the clock. [`reset`](Self::reset) undoes that.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // The closure always returns a value, so the update can't fail.
        let _ = self
            .0
            .advanced
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |so_far| {
                Some(so_far.saturating_add(by))
            });
    }

    /// Undoes every [`advance`](Self::advance).
    ///
    /// Tokens, codes and records keep their times. [`MockCoze::reset`](crate::MockCoze::reset) removes them too.
    pub fn reset(&self) {
        self.0.advanced.store(0, Ordering::Relaxed);
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH
            .checked_add(self.since_epoch())
            .unwrap_or(UNIX_EPOCH)
    }

    /// The time now in whole UNIX seconds, as in token responses and the `Date` header.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        self.since_epoch().as_secs()
    }

    pub(crate) fn since_epoch(&self) -> Duration {
        let base = match &self.0.source {
            Source::System => since_epoch(SystemTime::now()),
            Source::Tokio {
                start,
                start_since_epoch,
            } => start_since_epoch
                .saturating_add(tokio::time::Instant::now().saturating_duration_since(*start)),
            Source::Frozen(at) => *at,
        };
        base.saturating_add(Duration::from_nanos(
            self.0.advanced.load(Ordering::Relaxed),
        ))
    }
}

impl Default for MockClock {
    fn default() -> Self {
        Self::real()
    }
}

impl fmt::Debug for MockClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.0.source {
            Source::System => "real",
            Source::Tokio { .. } => "following tokio",
            Source::Frozen(_) => "frozen",
        };
        f.debug_struct("MockClock")
            .field("source", &source)
            .field("unix_seconds", &self.unix_seconds())
            .finish()
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn millis(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_follows_tokio_moves_with_paused_time() {
        let clock =
            MockClock::following_tokio_from(UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.unix_seconds(), 1_000_003_605);
    }

    #[test]
    fn advancing_saturates() {
        let clock = MockClock::frozen_at(UNIX_EPOCH);
        clock.advance(Duration::MAX);
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.unix_seconds(), u64::MAX / 1_000_000_000);
        clock.reset();
        assert_eq!(clock.unix_seconds(), 0);
    }
}
