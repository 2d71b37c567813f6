//! The token that is current, laid out for being read on every request by all cores at once.
//!
//! Measured on two cores: cloning one shared header value, or loading a shared `Arc`, puts one reference
//! count between all cores, and two threads together become slower than one. So the token is there once
//! per shard, each on cache lines of its own, and a thread keeps to its shard.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use crossbeam_utils::CachePadded;

use super::AccessToken;
use crate::{Result, Token, clock::Tick};

/// How many copies there are of a token that many threads read.
const SHARDS: usize = 16;

/// The shard of this thread: threads are dealt out in turn.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        shard.get()
    })
}

/// A copy of the token for some threads, and how often they read it.
#[derive(Debug)]
struct Copy {
    token: AccessToken,
    reads: AtomicU64,
}

/// One token, from its arrival to its end.
#[derive(Debug)]
pub(super) struct Slot {
    copies: Box<[CachePadded<Copy>]>,
    /// Nobody gets it from here on.
    ends: Tick,
    /// On the monotonic clock: from here on it is served on, and a new one is got. It is put off while one is
    /// being got, and after one could not be got.
    refresh_from: CachePadded<AtomicU64>,
}

/// The token is given up this much before its end, for the request that it is about to make and for the
/// coarse clock's step: a fiftieth of its life, at most two seconds.
fn margin(lifetime: Duration) -> Duration {
    (lifetime / 50).min(Duration::from_secs(2))
}

impl Slot {
    /// Takes a token that has this long to live from now. `window` is how long before the end a new one is
    /// got.
    pub(super) fn new(
        token: &Token,
        remaining: Duration,
        now: Tick,
        window: Duration,
        shared_by_many: bool,
    ) -> Result<Self> {
        let shards = if shared_by_many { SHARDS } else { 1 };
        let copies: Result<Vec<_>> = (0..shards)
            .map(|_| {
                // Each from a buffer of its own: clones of one buffer would share its reference count.
                let token = AccessToken::of(token.access_token())?;
                let reads = AtomicU64::new(0);
                Ok(CachePadded::new(Copy { token, reads }))
            })
            .collect();
        let usable = remaining.saturating_sub(margin(remaining));
        let refresh_from = now + usable.saturating_sub(window);
        Ok(Self {
            copies: copies?.into_boxed_slice(),
            ends: now + usable,
            refresh_from: CachePadded::new(AtomicU64::new(refresh_from.monotonic)),
        })
    }

    /// The copy for this thread.
    #[inline]
    pub(super) fn token(&self) -> &AccessToken {
        &self.copy().token
    }

    /// Counts a read by this thread.
    #[inline]
    pub(super) fn count_read(&self) {
        self.copy().reads.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn copy(&self) -> &Copy {
        &self.copies[shard() % self.copies.len()]
    }

    /// How often it was read.
    pub(super) fn reads(&self) -> u64 {
        self.copies
            .iter()
            .map(|copy| copy.reads.load(Ordering::Relaxed))
            .sum()
    }

    /// Whether it may be served: on both clocks its end has not come.
    #[inline]
    pub(super) fn is_good(&self, now: Tick) -> bool {
        now.monotonic < self.ends.monotonic && now.wall < self.ends.wall
    }

    /// Whether it is time to get another.
    #[inline]
    pub(super) fn wants_refresh(&self, now: Tick) -> bool {
        now.monotonic >= self.refresh_from.load(Ordering::Relaxed)
    }

    /// Takes the duty to get another, which one caller has at a time.
    pub(super) fn claim_refresh(&self, now: Tick) -> bool {
        let due = self.refresh_from.load(Ordering::Relaxed);
        now.monotonic >= due
            && self
                .refresh_from
                .compare_exchange(due, u64::MAX, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Gives the duty back: from then on somebody may take it again.
    pub(super) fn refresh_again(&self, at: Tick) {
        self.refresh_from.store(at.monotonic, Ordering::Relaxed);
    }

    /// How long it may still be served.
    pub(super) fn remaining(&self, now: Tick) -> Duration {
        let nanos = |end: u64, now: u64| Duration::from_nanos(end.saturating_sub(now));
        nanos(self.ends.monotonic, now.monotonic).min(nanos(self.ends.wall, now.wall))
    }
}
