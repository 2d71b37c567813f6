//! The token cache of a pool: bounded, and without expired and idle tokens.
//!
//! It consists of many small shards, each with its own lock: there is little contention, and one shard can be swept
//! quickly. So no background task is needed: a caller that finds a sweep due sweeps one shard.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quick_cache::{UnitWeighter, unsync::Cache};

use crate::clock::Tick;
use crate::{AccessToken, refresh_window::Lifespan};

/// The name of a key with its precomputed hash.
#[derive(Clone)]
pub(super) struct Name {
    hash: u64,
    text: Arc<str>,
}

impl Name {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A hasher that returns the precomputed hash of a [`Name`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AsHashed(u64);

impl BuildHasher for AsHashed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for AsHashed {
    fn write(&mut self, bytes: &[u8]) {
        // Not used by `Name`, which only calls `write_u64`.
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A cached token.
pub(super) struct Cached {
    pub(super) token: AccessToken,
    pub(super) life: Lifespan,
    /// When it was last used, approximately.
    last_used: AtomicU64,
}

impl Cached {
    pub(super) fn new(token: AccessToken, life: Lifespan, now: Tick) -> Self {
        Self {
            token,
            life,
            last_used: AtomicU64::new(now.monotonic),
        }
    }
}

/// A bounded, sharded cache of tokens.
pub(super) struct TokenCache {
    // Entries hold their tokens inline: an `Arc` per token takes more memory and one more memory access per read.
    shards: Box<[Shard]>,
    /// Randomly keyed, because names may be chosen by end users.
    hasher: RandomState,
    capacity_of_shard: usize,
    /// The idle timeout in nanoseconds.
    idle_timeout: u64,
    /// The interval between the sweeps of two shards, in nanoseconds.
    between_sweeps: u64,
    next_sweep: AtomicU64,
    sweeps: AtomicUsize,
}

struct Shard {
    tokens: RwLock<Tokens>,
    /// The number of tokens served.
    served: AtomicU64,
}

type Tokens = Cache<Name, Cached, UnitWeighter, AsHashed>;

/// The target size of a shard. Large enough that shards fill evenly; small enough that a caller can sweep one: measured, 6
/// us if nothing is dropped, and 0.8 ms if everything is.
const TOKENS_OF_SHARD: u64 = 1024;
/// A sweep releases the lock after this many dropped tokens.
const DROPPED_AT_ONCE: usize = 64;
const MOST_SHARDS: u64 = 4096;
/// Every shard is swept once in this time, or in the idle timeout if that is shorter.
const LONGEST_ROUND: Duration = Duration::from_secs(60);
const SHORTEST_ROUND: Duration = Duration::from_secs(1);
/// The resolution of `last_used` in nanoseconds, so that most reads don't write.
const LAST_USED_STEP: u64 = 1_000_000_000;

impl TokenCache {
    /// A cache with this capacity, from which tokens are dropped after `idle_timeout` without use.
    pub(super) fn new(capacity: u64, idle_timeout: Duration, now: Tick) -> Self {
        let shards = (capacity / TOKENS_OF_SHARD).clamp(1, MOST_SHARDS);
        let capacity_of_shard = usize::try_from(capacity / shards).unwrap_or(usize::MAX);
        let round = nanos(idle_timeout.clamp(SHORTEST_ROUND, LONGEST_ROUND));
        let between_sweeps = round / shards;
        Self {
            shards: (0..shards)
                .map(|_| Shard {
                    tokens: RwLock::new(new_tokens(capacity_of_shard)),
                    served: AtomicU64::new(0),
                })
                .collect(),
            hasher: RandomState::new(),
            capacity_of_shard,
            idle_timeout: nanos(idle_timeout),
            between_sweeps,
            next_sweep: AtomicU64::new(now.monotonic.saturating_add(between_sweeps)),
            sweeps: AtomicUsize::new(0),
        }
    }

    /// The name of a key.
    pub(super) fn name(&self, text: impl Into<Arc<str>>) -> Name {
        let text = text.into();
        Name {
            hash: self.hasher.hash_one(&*text),
            text,
        }
    }

    /// Reads the valid token of a key, if there is one, and counts it as served.
    #[inline]
    pub(super) fn serve<T>(
        &self,
        name: &Name,
        now: Tick,
        use_token: impl FnOnce(&Cached) -> T,
    ) -> Option<T> {
        let served = self.get(name, now, use_token)?;
        self.shard(name).served.fetch_add(1, Ordering::Relaxed);
        Some(served)
    }

    /// The number of tokens served.
    pub(super) fn served(&self) -> u64 {
        let served = self.shards.iter().map(|shard| &shard.served);
        served.map(|served| served.load(Ordering::Relaxed)).sum()
    }

    /// Reads the valid token of a key, if there is one. `use_token` runs under the shard's read lock, so keep it short.
    #[inline]
    pub(super) fn get<T>(
        &self,
        name: &Name,
        now: Tick,
        use_token: impl FnOnce(&Cached) -> T,
    ) -> Option<T> {
        if self.sweep_is_due(now) {
            self.sweep_next(now);
        }
        let shard = read(self.shard(name));
        let cached = shard.get(name)?;
        if !self.keeps(cached, now) {
            return None;
        }
        let step = LAST_USED_STEP.min(self.idle_timeout / 16);
        let last_used = cached.last_used.load(Ordering::Relaxed);
        if now.monotonic > last_used.saturating_add(step) {
            cached.last_used.store(now.monotonic, Ordering::Relaxed);
        }
        Some(use_token(cached))
    }

    /// Inserts or replaces the token of a key.
    pub(super) fn insert(&self, name: Name, cached: Cached) {
        write(self.shard(&name)).insert(name, cached);
    }

    /// Removes the token of a key, if the predicate holds for it. Returns whether one was removed.
    pub(super) fn remove_if(&self, name: &Name, predicate: impl FnOnce(&Cached) -> bool) -> bool {
        write(self.shard(name)).remove_if(name, predicate).is_some()
    }

    /// The number of tokens after all sweeps that are due. It includes tokens that have expired since their last sweep.
    pub(super) fn len(&self, now: Tick) -> usize {
        while self.sweep_is_due(now) {
            self.sweep_next(now);
        }
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, name: &Name) -> &Shard {
        let count = self.shards.len() as u64;
        // The low bits of the hash select the shard; the shard's own cache uses others.
        let hash = name.hash as u32;
        &self.shards[((u64::from(hash) * count) >> 32) as usize]
    }

    fn keeps(&self, cached: &Cached, now: Tick) -> bool {
        let last_used = cached.last_used.load(Ordering::Relaxed);
        cached.life.is_valid(now) && now.monotonic.saturating_sub(last_used) < self.idle_timeout
    }

    #[inline]
    fn sweep_is_due(&self, now: Tick) -> bool {
        now.monotonic >= self.next_sweep.load(Ordering::Relaxed)
    }

    /// Sweeps the next shard, unless another caller already does.
    #[cold]
    fn sweep_next(&self, now: Tick) {
        let due = self.next_sweep.load(Ordering::Relaxed);
        // Missed sweeps are made up for, but at most one round of them.
        let round = self.between_sweeps * self.shards.len() as u64;
        let next = due.max(now.monotonic.saturating_sub(round)) + self.between_sweeps;
        let claimed = due <= now.monotonic
            && self
                .next_sweep
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if claimed {
            let number = self.sweeps.fetch_add(1, Ordering::Relaxed);
            self.sweep(&self.shards[number % self.shards.len()], now);
        }
    }

    fn sweep(&self, shard: &Shard, now: Tick) {
        let dropped: Vec<Name> = read(shard)
            .iter()
            .filter(|(_, cached)| !self.keeps(cached, now))
            .map(|(name, _)| name.clone())
            .collect();
        for names in dropped.chunks(DROPPED_AT_ONCE) {
            let mut tokens = write(shard);
            for name in names {
                // It may have been replaced.
                tokens.remove_if(name, |cached| !self.keeps(cached, now));
            }
            if tokens.is_empty() {
                // Frees the memory of the entries.
                *tokens = new_tokens(self.capacity_of_shard);
            }
        }
    }
}

fn new_tokens(capacity: usize) -> Tokens {
    Cache::with(
        capacity,
        capacity as u64,
        UnitWeighter,
        AsHashed::default(),
        Default::default(),
    )
}

fn read(shard: &Shard) -> RwLockReadGuard<'_, Tokens> {
    shard.tokens.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &Shard) -> RwLockWriteGuard<'_, Tokens> {
    shard.tokens.write().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{Token, clock::Clock};

    fn at(seconds: u64) -> Tick {
        let nanos = seconds * 1_000_000_000;
        Tick {
            monotonic: nanos,
            wall: nanos,
        }
    }

    /// A token with a lifetime of 1000 seconds, which is served for 998 seconds.
    fn session(now: Tick) -> Cached {
        let token = Token::for_test("czs_1", Duration::from_secs(1000), &Clock::System);
        let life = Lifespan::of(&token, now, 1.0).unwrap();
        Cached::new(AccessToken::new("czs_1").unwrap(), life, now)
    }

    impl TokenCache {
        fn key(&self, number: u64) -> Name {
            self.name(format!("user-{number}"))
        }
    }

    fn filled(capacity: u64, sessions: u64, idle_timeout: Duration) -> TokenCache {
        let cache = TokenCache::new(capacity, idle_timeout, at(0));
        for number in 0..sessions {
            cache.insert(cache.key(number), session(at(0)));
        }
        cache
    }

    fn kept(cache: &TokenCache) -> usize {
        cache.shards.iter().map(|shard| read(shard).len()).sum()
    }

    #[test]
    fn a_cache_of_any_size_respects_and_uses_its_capacity() {
        for capacity in [1, 2, 33, 1500, 3000, 5001] {
            let cache = filled(capacity, 3 * capacity, Duration::MAX);
            let kept = kept(&cache) as u64;
            assert!(kept <= capacity, "{kept} of {capacity}");
            assert!(kept >= capacity * 9 / 10, "{kept} of {capacity}");
        }
        assert_eq!(kept(&filled(0, 10, Duration::MAX)), 0);
        assert_eq!(kept(&filled(u64::MAX, 10, Duration::MAX)), 10);
    }

    #[test]
    fn each_due_call_sweeps_one_shard_and_a_round_sweeps_all() {
        let cache = filled(4 * TOKENS_OF_SHARD, 1000, Duration::MAX);
        let mut before = kept(&cache);
        assert_eq!(before, 1000);
        for shard in 1..=4 {
            assert!(
                cache.get(&cache.key(0), at(999), |_| ()).is_none(),
                "expired"
            );
            let after = kept(&cache);
            assert!(after < before, "{after} after {shard} calls");
            before = after;
        }
        assert_eq!(before, 0);
        let memory = |shard: &Shard| read(shard).memory_used().total();
        assert_eq!(cache.shards.iter().map(memory).sum::<usize>(), 0);
    }

    #[test]
    fn no_call_sweeps_before_the_next_sweep_is_due() {
        let cache = filled(2 * TOKENS_OF_SHARD, 1000, Duration::MAX);
        let sweeps = || cache.sweeps.load(Ordering::Relaxed);
        for second in 0..300 {
            for _ in 0..10 {
                assert!(cache.get(&cache.key(0), at(second), |_| ()).is_some());
            }
            assert_eq!(sweeps() as u64, second / 30, "at {second} s");
        }
        assert_eq!(kept(&cache), 1000);
    }

    #[test]
    fn at_most_one_round_of_missed_sweeps_is_made_up_for() {
        let cache = filled(4 * TOKENS_OF_SHARD, 1000, Duration::MAX);
        for _ in 0..100 {
            cache.get(&cache.key(0), at(900), |_| ());
        }
        let sweeps = cache.sweeps.load(Ordering::Relaxed);
        assert!((4..=5).contains(&sweeps), "{sweeps}");
    }

    #[test]
    fn only_sessions_in_use_are_kept_beyond_the_idle_timeout() {
        let cache = filled(100, 10, Duration::from_secs(100));
        for second in (0..=300).step_by(10) {
            assert!(cache.get(&cache.key(7), at(second), |_| ()).is_some());
            let idle = cache.get(&cache.key(8), at(second), |_| ()).is_none();
            assert!(!idle, "also in use");
            let expected = if second < 120 { 10 } else { 2 };
            assert_eq!(cache.len(at(second)), expected, "at {second} s");
        }
        assert!(cache.get(&cache.key(7), at(399), |_| ()).is_some());
        assert!(cache.get(&cache.key(8), at(400), |_| ()).is_none());
    }

    #[test]
    fn remove_if_removes_only_the_matching_token() {
        let cache = filled(100, 1, Duration::MAX);
        let other = AccessToken::new("czs_2").unwrap();
        assert!(!cache.remove_if(&cache.key(0), |cached| cached.token.is(&other)));
        assert_eq!(kept(&cache), 1);
        let same = AccessToken::new("czs_1").unwrap();
        assert!(cache.remove_if(&cache.key(0), |cached| cached.token.is(&same)));
        assert_eq!(kept(&cache), 0);
    }

    #[test]
    fn many_threads_can_use_and_sweep_it_concurrently() {
        let cache = filled(3 * TOKENS_OF_SHARD, 0, Duration::from_secs(1));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for step in 0..5000 {
                        let now = at(step / 50);
                        cache.insert(cache.key(step % 500 + thread), session(now));
                        cache.get(&cache.key(step % 300), now, |session| session.token.clone());
                    }
                });
            }
        });
        assert_eq!(cache.len(at(200)), 0);
    }
}
