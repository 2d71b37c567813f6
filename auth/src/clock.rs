//! The crate's only source of time: a monotonic clock for lifetimes, a wall clock for comparison with the server, and
//! sleep. Tests replace all three with a `TestClock`.

use std::time::{Duration, Instant, SystemTime};

#[cfg(feature = "testing")]
pub use testing::TestClock;

/// The clock of an [`OAuthClient`](crate::OAuthClient) and of its tokens.
#[derive(Debug, Clone, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    #[cfg(feature = "testing")]
    Test(TestClock),
}

impl Clock {
    /// Whether this is the system clock, not a test clock.
    pub(crate) fn is_systems(&self) -> bool {
        matches!(self, Self::System)
    }

    /// Never goes back. Stops while the system is suspended.
    pub(crate) fn monotonic(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            #[cfg(feature = "testing")]
            Self::Test(clock) => clock.monotonic(),
        }
    }

    /// The local wall clock, which may be skewed.
    pub(crate) fn wall(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            #[cfg(feature = "testing")]
            Self::Test(clock) => clock.wall(),
        }
    }

    /// Reads both clocks cheaply, for the read of a cached token on every request.
    ///
    /// On Linux these are the coarse clocks: at most a few milliseconds late and read without a system call.
    /// `Instant::now` costs 20 ns more.
    #[inline]
    pub(crate) fn tick(&self) -> Tick {
        match self {
            Self::System => Tick::now(),
            #[cfg(feature = "testing")]
            Self::Test(clock) => Tick {
                monotonic: nanos(clock.elapsed()),
                wall: nanos(since_epoch(clock.wall())),
            },
        }
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        // Tokio's timer is real in production, and follows tokio's paused time as TestClock does.
        tokio::time::sleep(duration).await;
    }
}

/// A moment on both clocks, in nanoseconds: monotonic since an arbitrary origin, wall since 1970. `u64` overflows in the
/// year 2554.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) monotonic: u64,
    pub(crate) wall: u64,
}

impl Tick {
    #[cfg(target_os = "linux")]
    #[inline]
    fn now() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let nanos = |id| {
            let time = clock_gettime(id);
            time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
        };
        Self {
            monotonic: nanos(ClockId::MonotonicCoarse),
            wall: nanos(ClockId::RealtimeCoarse),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn now() -> Self {
        static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        Self {
            monotonic: nanos(ORIGIN.elapsed()),
            wall: nanos(since_epoch(SystemTime::now())),
        }
    }
}

impl std::ops::Add<Duration> for Tick {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self {
            monotonic: self.monotonic.saturating_add(nanos(duration)),
            wall: self.wall.saturating_add(nanos(duration)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(any(feature = "testing", not(target_os = "linux")))]
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(feature = "testing")]
mod testing {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
        time::{Duration, Instant, SystemTime},
    };

    /// A clock that follows tokio's paused time and whose wall clock can be skewed.
    ///
    /// Use it with `#[tokio::test(start_paused = true)]` (which needs tokio's feature `test-util`) and an in-process transport
    /// ([`in_process`](crate::testing::in_process)): then sleeping takes no time, and
    /// every lifetime is exact. Clones are the same clock.
    ///
    /// `coze-mock`'s `MockClock::following_tokio_from(clock.wall())` follows tokio's time too, so one
    /// [`advance`](Self::advance) moves both clocks.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use coze_auth::testing::TestClock;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    /// let clock = TestClock::starting_at(start);
    /// clock.advance(Duration::from_secs(60)).await; // at once
    /// assert_eq!(clock.wall(), start + Duration::from_secs(60));
    ///
    /// clock.set_wall_offset_secs(3600); // the local clock is an hour fast
    /// assert_eq!(clock.wall(), start + Duration::from_secs(3660));
    /// # });
    /// ```
    #[derive(Debug, Clone)]
    pub struct TestClock {
        began: Instant,
        wall_at_start: SystemTime,
        wall_offset_secs: Arc<AtomicI64>,
    }

    impl TestClock {
        /// A clock whose wall time is now `wall`. Call it inside a tokio runtime.
        #[must_use]
        pub fn starting_at(wall: SystemTime) -> Self {
            Self {
                began: tokio::time::Instant::now().into_std(),
                wall_at_start: wall,
                wall_offset_secs: Arc::default(),
            }
        }

        /// Advances tokio's time. Timers that are due fire in order before this returns.
        ///
        /// Returns immediately if tokio's time is paused; otherwise sleeps for the whole duration.
        pub async fn advance(&self, by: Duration) {
            tokio::time::sleep(by).await;
        }

        /// Sets the skew of the wall clock in seconds, to simulate a wrong local clock or a suspended system.
        pub fn set_wall_offset_secs(&self, seconds: i64) {
            self.wall_offset_secs.store(seconds, Ordering::SeqCst);
        }

        pub(super) fn elapsed(&self) -> Duration {
            self.monotonic().duration_since(self.began)
        }

        /// Tokio's time.
        pub(super) fn monotonic(&self) -> Instant {
            tokio::time::Instant::now().into_std()
        }

        /// The wall clock.
        #[must_use]
        pub fn wall(&self) -> SystemTime {
            let shown = self.wall_at_start + self.monotonic().duration_since(self.began);
            let offset = self.wall_offset_secs.load(Ordering::SeqCst);
            let distance = Duration::from_secs(offset.unsigned_abs());
            if offset < 0 {
                shown - distance
            } else {
                shown + distance
            }
        }
    }
}
