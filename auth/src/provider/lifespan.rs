//! From when to when a token is served, and from when on another is got.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{Error, ErrorKind, Result, Token, clock::Tick};

/// The life of one token, on both clocks.
#[derive(Debug)]
pub(super) struct Lifespan {
    /// Nobody gets it from here on.
    ends: Tick,
    /// From here on, on either clock, it is served on and another is got. It is put off while one is being got,
    /// and after one could not be got, but never beyond the end: so one look at it tells a fresh token.
    refresh_from: AtomicU64,
    refresh_from_wall: AtomicU64,
}

/// The last part of a token's life, in which the next one is got, is a fifth of it, and this at most.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);

/// The last part of such a life, before jitter.
pub(crate) fn refresh_window(life: Duration) -> Duration {
    (life / 5).min(LONGEST_WINDOW)
}

/// A token is given up this much before its end, for the request that it is about to make and for the
/// coarse clock's step: a fiftieth of its life, at most two seconds.
pub(crate) fn margin(life: Duration) -> Duration {
    (life / 50).min(Duration::from_secs(2))
}

impl Lifespan {
    /// The life of a token that has just come. The jitter, around 1, spreads the refreshes of many
    /// instances.
    ///
    /// # Errors
    ///
    /// When it is over already.
    pub(super) fn of(token: &Token, now: Tick, jitter: f64) -> Result<Self> {
        let life = token.remaining();
        let served = life.saturating_sub(margin(life));
        if served.is_zero() {
            return Err(Error::new(
                ErrorKind::InvalidAnswer,
                "the token had expired when it came; check Coze's and this machine's clock",
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

    /// Whether the token may be served and nothing is to be done: neither its end nor the time to get another
    /// has come. What every read asks.
    #[inline]
    pub(super) fn is_fresh(&self, now: Tick) -> bool {
        now.monotonic < self.refresh_from.load(Ordering::Relaxed)
            && now.wall < self.refresh_from_wall.load(Ordering::Relaxed)
    }

    /// Whether the token may be served: its end has come on neither clock.
    #[inline]
    pub(super) fn is_good(&self, now: Tick) -> bool {
        now.monotonic < self.ends.monotonic && now.wall < self.ends.wall
    }

    /// Takes the duty to get another, if it is time and nobody has it.
    pub(super) fn claim_refresh(&self, now: Tick) -> bool {
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

    /// Gives the duty back: from then on somebody may take it again.
    pub(super) fn refresh_again(&self, at: Tick) {
        self.refresh_from_wall
            .store(at.wall.min(self.ends.wall), Ordering::Relaxed);
        self.refresh_from
            .store(at.monotonic.min(self.ends.monotonic), Ordering::Relaxed);
    }

    /// How long the token may still be served.
    pub(super) fn remaining(&self, now: Tick) -> Duration {
        let nanos = |end: u64, now: u64| Duration::from_nanos(end.saturating_sub(now));
        nanos(self.ends.monotonic, now.monotonic).min(nanos(self.ends.wall, now.wall))
    }
}
