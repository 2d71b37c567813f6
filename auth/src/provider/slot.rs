//! The token that is current, laid out for being read on every request by all cores at once.
//!
//! Measured on two cores: cloning one shared header value, or loading a shared `Arc`, puts one reference
//! count between all cores, and two threads together become slower than one. So the token is there once
//! per shard, each on cache lines of its own, and a thread keeps to its shard.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crossbeam_utils::CachePadded;

use super::{AccessToken, lifespan::Lifespan};
use crate::{Result, Token};

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
    pub(super) life: Lifespan,
}

impl Slot {
    pub(super) fn new(token: &Token, life: Lifespan) -> Result<Self> {
        let copies: Result<Vec<_>> = (0..SHARDS)
            .map(|_| {
                // Each from a buffer of its own: clones of one buffer would share its reference count.
                let token = AccessToken::of(token.access_token())?;
                let reads = AtomicU64::new(0);
                Ok(CachePadded::new(Copy { token, reads }))
            })
            .collect();
        Ok(Self {
            copies: copies?.into_boxed_slice(),
            life,
        })
    }

    /// The copy for this thread.
    #[inline]
    pub(super) fn token(&self) -> &AccessToken {
        &self.copy().token
    }

    /// Counts a read by this thread. Two threads that share a shard may count one for two: an addition that
    /// can't miss costs as much as the rest of the read.
    #[inline]
    pub(super) fn count_read(&self) {
        let reads = &self.copy().reads;
        reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
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
}
