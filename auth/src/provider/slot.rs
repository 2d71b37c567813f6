//! The current token of a provider, laid out for concurrent reads by all cores.
//!
//! A single shared header value or `Arc` has one reference count, which all cores contend for: measured on two cores, two
//! threads together read more slowly than one. So there is one copy of the token per shard, on separate cache lines, and
//! each thread reads from its own shard.

use std::{
    cell::Cell,
    sync::{
        LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use crate::{AccessToken, Token, refresh_window::Lifespan};

/// The number of copies: the number of cores, rounded up to a power of two, so that a mask selects a shard. A division took
/// longer than the read itself.
static SHARDS: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(16, |cores| cores.get().next_power_of_two()));

/// The number of this thread, in order of first use. The caller masks it to select a shard.
#[inline]
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

/// One copy of the token and its read count. Aligned to 128 bytes, because some processors fetch cache lines in pairs or
/// have lines of that length.
#[derive(Debug)]
#[repr(align(128))]
struct Copy {
    token: AccessToken,
    reads: AtomicU64,
}

/// One token and its lifespan.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) copies: Copies,
    pub(super) life: Lifespan,
}

impl Slot {
    pub(super) fn new(token: &Token, life: Lifespan) -> Self {
        let copies = Copies::of(&token.into());
        Self { copies, life }
    }
}

/// The copies of a token, one per shard.
#[derive(Debug)]
pub(super) struct Copies(Box<[Copy]>);

impl Copies {
    pub(super) fn of(token: &AccessToken) -> Self {
        let copies = (0..*SHARDS).map(|_| {
            let (token, reads) = (token.padded(), AtomicU64::new(0));
            Copy { token, reads }
        });
        Self(copies.collect())
    }

    /// The token, for uses other than the hot read path.
    pub(super) fn token(&self) -> &AccessToken {
        &self.0[0].token
    }

    /// Counts a read by this thread and returns its shard.
    #[inline]
    pub(super) fn read(&self) -> usize {
        let shard = shard() & (self.0.len() - 1);
        self.0[shard].reads.fetch_add(1, Ordering::Relaxed);
        shard
    }

    /// The token of a shard.
    #[inline]
    pub(super) fn copy(&self, shard: usize) -> &AccessToken {
        &self.0[shard].token
    }

    /// The number of reads from all shards.
    pub(super) fn reads(&self) -> u64 {
        self.0
            .iter()
            .map(|copy| copy.reads.load(Ordering::Relaxed))
            .sum()
    }
}
