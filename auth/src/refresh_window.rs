//! The expiry margin and the refresh window: until when a token is served, and from when its refresh may start.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{Error, ErrorKind, Result, Token, clock::Tick};

/// When a token is replaced that is about to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RefreshMode {
    /// In the background, while the old token is still served: for services.
    #[default]
    InBackground,
    /// On demand, by the caller that finds the token due for a refresh, which waits: for short-lived programs. A
    /// request in the background would end with `main`, and the rotated refresh token would be lost.
    InLine,
}

/// The lifetime of one token, on both clocks.
#[derive(Debug)]
pub(crate) struct Lifespan {
    /// The token is not served from this moment on.
    ends: Tick,
    /// From this moment, on either clock, the token is still served but should be refreshed. Postponed while a refresh is
    /// in flight and after a failed one, but never beyond `ends`: one comparison identifies a fresh token.
    refresh_from: AtomicU64,
    refresh_from_wall: AtomicU64,
}

/// The refresh window is a fifth of the token's lifetime, and at most this.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);

/// The refresh window of a token with this lifetime, before jitter.
pub(crate) fn refresh_window(life: Duration) -> Duration {
    (life / 5).min(LONGEST_WINDOW)
}

/// The expiry margin: a token is not served in the last fiftieth of its lifetime, at most two seconds. It covers the
/// latency of the caller's request and the resolution of the coarse clock.
pub(crate) fn expiry_margin(life: Duration) -> Duration {
    (life / 50).min(Duration::from_secs(2))
}

impl Lifespan {
    /// The lifespan of a new token. `jitter`, around 1, spreads the refreshes of many instances.
    ///
    /// # Errors
    ///
    /// If the token has already expired.
    pub(crate) fn of(token: &Token, now: Tick, jitter: f64) -> Result<Self> {
        let life = token.remaining();
        let served = life.saturating_sub(expiry_margin(life));
        if served.is_zero() {
            return Err(Error::new(
                ErrorKind::InvalidAnswer,
                "the token had already expired when it was received; check the clocks of Coze and this machine",
            )
            .with_log_id(token.log_id().map(str::to_owned)));
        }
        let window = refresh_window(life).mul_f64(jitter);
        let refresh_from = now + served.saturating_sub(window);
        Ok(Self {
            ends: now + served,
            refresh_from: AtomicU64::new(refresh_from.monotonic),
            refresh_from_wall: AtomicU64::new(refresh_from.wall),
        })
    }

    /// Whether the token may be served and no refresh is due. Called by every read.
    #[inline]
    pub(crate) fn is_fresh(&self, now: Tick) -> bool {
        now.monotonic < self.refresh_from.load(Ordering::Relaxed)
            && now.wall < self.refresh_from_wall.load(Ordering::Relaxed)
    }

    /// Whether the token may be served: it has expired on neither clock.
    #[inline]
    pub(crate) fn is_valid(&self, now: Tick) -> bool {
        now.monotonic < self.ends.monotonic && now.wall < self.ends.wall
    }

    /// Claims the refresh, if it is due and not claimed.
    pub(crate) fn claim_refresh(&self, now: Tick) -> bool {
        let due = self.refresh_from.load(Ordering::Relaxed);
        let claimed = due < self.ends.monotonic
            && !self.is_fresh(now)
            && self
                .refresh_from
                .compare_exchange(
                    due,
                    self.ends.monotonic,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if claimed {
            self.refresh_from_wall
                .store(self.ends.wall, Ordering::Relaxed);
        }
        claimed
    }

    /// Releases the claim, so that another caller can refresh later.
    pub(crate) fn refresh_again(&self, at: Tick) {
        self.refresh_from_wall
            .store(at.wall.min(self.ends.wall), Ordering::Relaxed);
        self.refresh_from
            .store(at.monotonic.min(self.ends.monotonic), Ordering::Relaxed);
    }

    /// How long the token may still be served.
    pub(crate) fn remaining(&self, now: Tick) -> Duration {
        let nanos = |end: u64, now: u64| Duration::from_nanos(end.saturating_sub(now));
        nanos(self.ends.monotonic, now.monotonic).min(nanos(self.ends.wall, now.wall))
    }
}
