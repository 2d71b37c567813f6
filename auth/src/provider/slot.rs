//! The token that is current, laid out for being read on every request by all cores at once.
//!
//! Measured on two cores: cloning one shared header value, or loading a shared `Arc`, puts one reference
//! count between all cores, and two threads together become slower than one. So the token is there once
//! per shard, each on cache lines of its own, and a thread keeps to its shard.

use std::{
    cell::Cell,
    sync::{
        LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use super::{AccessToken, lifespan::Lifespan};
use crate::Token;

/// How many copies there are of a token that many threads read: as many as cores, rounded up to a power of two, so that
/// a mask finds one; dividing by a length took longer than the read itself.
static SHARDS: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(16, |cores| cores.get().next_power_of_two()));

/// The number of this thread: threads are numbered in turn, and a mask makes a shard of it.
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

/// A copy of the token for some threads, and how often they read it, on cache lines of its own: 128 bytes, as processors
/// fetch lines in pairs, or have such long ones.
#[derive(Debug)]
#[repr(align(128))]
struct Copy {
    token: AccessToken,
    reads: AtomicU64,
}

/// One token, from its arrival to its end.
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

/// A token for many threads.
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

    /// The token, for anything but a warm read.
    pub(super) fn token(&self) -> &AccessToken {
        &self.0[0].token
    }

    /// Counts a read by this thread, and says from which shard it reads.
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

    /// How often it was read.
    pub(super) fn reads(&self) -> u64 {
        self.0
            .iter()
            .map(|copy| copy.reads.load(Ordering::Relaxed))
            .sum()
    }
}
