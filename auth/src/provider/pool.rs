//! The implementation that all pools share.
//!
//! An idle key is one small entry in a bounded [cache](TokenCache): its token and lifespan. The state of its requests (the
//! source, the request in flight, the backoff) exists only while it is needed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    Stats, TokenFuture, TokenProvider,
    cached::DEFAULT_DEADLINE,
    engine::{Engine, Key, Options, Requests, fetch, invalidate, refresh_when_due},
    source::Source,
    token_cache::{AsHashed, Cached, Name, TokenCache},
};
use crate::{
    AccessToken, Endpoint, OAuthClient, Result, Token, clock::Tick, refresh_window::Lifespan,
    refresh_window::RefreshMode, retry::circuit_breaker::CircuitBreaker, runtime::lock,
};

/// The kind of a pool's keys: sessions or users. Declared `pub` because it bounds a public type; it can't be named from
/// outside the crate.
pub trait Members: Send + Sync + 'static {
    /// The public name of their provider, for `Debug`.
    const PROVIDER: &'static str;
    /// Whether their tokens belong to stored sign-ins.
    const IS_STORED: bool;
    /// Parameters of a token request besides the key's name.
    type Request: Clone + Send + Sync + 'static;

    fn client(&self) -> &OAuthClient;

    fn new_source(
        &self,
        name: &str,
        request: &Self::Request,
        breaker: &Arc<CircuitBreaker>,
    ) -> Result<Arc<dyn Source>>;
}

pub(super) struct Pool<M: Members> {
    pub(super) members: M,
    pub(super) engine: Engine<Member<M>>,
    tokens: TokenCache,
    /// The request state of keys that have any. Idle entries are removed.
    active: Mutex<Active>,
}

/// A map with this capacity or less is not shrunk.
const MOST_SPARE_CAPACITY: usize = 4096;

type Active = HashMap<Name, Arc<Requests>, AsHashed>;

/// The provider of one key of a pool.
pub struct Member<M: Members> {
    pub(super) pool: Arc<Pool<M>>,
    name: Name,
    pub(super) request: M::Request,
}

impl<M: Members> Clone for Member<M> {
    fn clone(&self) -> Self {
        Self {
            pool: Arc::clone(&self.pool),
            name: self.name.clone(),
            request: self.request.clone(),
        }
    }
}

/// Builds a pool: `P` is [`SessionPool`](crate::SessionPool) or [`UserPool`](crate::UserPool).
#[must_use]
pub struct PoolBuilder<P> {
    limits: Limits,
    build: Box<dyn FnOnce(Limits) -> P + Send + Sync>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    capacity: u64,
    idle_timeout: Duration,
    max_concurrent_requests: usize,
    deadline: Duration,
}

/// How many tokens a pool keeps, by default.
const CAPACITY: u64 = 100_000;
/// How long a pool keeps a token that nobody asks for, by default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(900);
/// How many token requests a pool sends at the same time, by default.
const MAX_CONCURRENT_REQUESTS: usize = 32;

impl<P> PoolBuilder<P> {
    pub(super) fn new(build: impl FnOnce(Limits) -> P + Send + Sync + 'static) -> Self {
        Self {
            limits: Limits {
                capacity: CAPACITY,
                idle_timeout: IDLE_TIMEOUT,
                max_concurrent_requests: MAX_CONCURRENT_REQUESTS,
                deadline: DEFAULT_DEADLINE,
            },
            build: Box::new(build),
        }
    }

    /// The maximum number of cached tokens; 100,000 by default. The cache is split into shards of about a thousand tokens,
    /// so a full shard may drop tokens when the whole cache is about 90% full.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.limits.capacity = capacity;
        self
    }

    /// A token that has not been used for this long is dropped; 15 minutes by default.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.limits.idle_timeout = idle_timeout;
        self
    }

    /// The maximum number of concurrent token requests; 32 by default. When more consecutive requests than this have found
    /// the server down, the circuit breaker opens and allows this many attempts a second until the server responds.
    pub fn max_concurrent_requests(mut self, max_concurrent_requests: usize) -> Self {
        self.limits.max_concurrent_requests = max_concurrent_requests;
        self
    }

    /// How long it may take to get a token, including all attempts and the wait for a permit; 60 seconds by default, at
    /// most a day. While the circuit breaker is open, callers don't wait for a permit.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// Builds the pool. No request is sent until a token is needed.
    #[must_use]
    pub fn build(self) -> P {
        (self.build)(self.limits)
    }
}

impl<P> fmt::Debug for PoolBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<M: Members> Pool<M> {
    pub(super) fn new(members: M, limits: Limits) -> Arc<Self> {
        let clock = members.client().clock().clone();
        let breaker = CircuitBreaker::with_permits(limits.max_concurrent_requests);
        let options = Options {
            refresh: RefreshMode::InBackground,
            deadline: limits.deadline,
            is_stored: M::IS_STORED,
        };
        Arc::new(Self {
            members,
            tokens: TokenCache::new(limits.capacity, limits.idle_timeout, clock.tick()),
            engine: Engine::new(clock, Arc::new(breaker), options),
            active: Mutex::default(),
        })
    }

    pub(super) fn member(
        self: &Arc<Self>,
        name: impl Into<Arc<str>>,
        request: M::Request,
    ) -> Member<M> {
        Member {
            pool: Arc::clone(self),
            name: self.tokens.name(name),
            request,
        }
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        lock(&self.active)
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.engine.stats();
        for requests in self.active().values() {
            requests.add_to(&mut stats);
        }
        stats.cached = self.tokens.len(self.engine.clock.tick()) as u64;
        stats.served_from_cache = self.tokens.served();
        stats
    }

    /// Starts no more requests, and waits for those in flight and for their saves.
    pub(super) async fn shutdown(&self) -> Result<()> {
        self.engine.close();
        let active: Vec<_> = self.active().values().cloned().collect();
        let ends = active.iter().map(|requests| requests.shut_down());
        join_all(ends).await.into_iter().collect()
    }

    /// Whether the state is idle and has no other holders than `held`. The caller has locked the map, so no new holder can
    /// appear.
    fn is_unused(&self, requests: &Arc<Requests>, held: usize) -> bool {
        let unused = Arc::strong_count(requests) == held && requests.is_idle();
        if unused {
            let mut dropped = Stats::default();
            requests.add_to(&mut dropped);
            self.engine.counters.add_loaded(dropped.loaded_from_store);
        }
        unused
    }
}

impl<M: Members> Member<M> {
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the cached token, or else one from the store or from Coze.
    ///
    /// # Errors
    ///
    /// Those of [`CachedProvider::token`](crate::CachedProvider::token).
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => fetch(self).await,
        }
    }

    /// The state of its requests, if there is any.
    pub(super) fn active(&self) -> Option<Arc<Requests>> {
        self.pool.active().get(&self.name).cloned()
    }

    /// Drops its token and ends its backoff, because the sign-in has changed.
    pub(super) fn forget_token(&self) {
        let drop_token = || {
            self.pool.tokens.remove_if(&self.name, |_| true);
        };
        match self.active() {
            Some(requests) => requests.forget(drop_token),
            None => drop_token(),
        }
    }
}

impl<M: Members> TokenProvider for Member<M> {
    #[inline]
    fn cached(&self) -> Option<AccessToken> {
        let now = self.pool.engine.clock.tick();
        let (token, is_fresh) = self.pool.tokens.serve(&self.name, now, |cached| {
            (cached.token.clone(), cached.life.is_fresh(now))
        })?;
        if !is_fresh {
            refresh_when_due(self, now);
        }
        Some(token)
    }

    fn fetch(&self) -> TokenFuture<'_> {
        Box::pin(fetch(self))
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        Some(self.pool.members.client().endpoint())
    }

    fn invalidate(&self, token: &AccessToken) {
        invalidate(self, token);
    }

    /// Waits for the request in flight and for its save. The pool, and with it this provider, goes on: its own `shutdown` ends it.
    fn shutdown(&self) -> TokenFuture<'_, ()> {
        Box::pin(async {
            match self.active() {
                Some(requests) => requests.settle().await,
                None => Ok(()),
            }
        })
    }
}

impl<M: Members> fmt::Debug for Member<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(M::PROVIDER).field(&self.name()).finish()
    }
}

impl<M: Members> Key for Member<M> {
    fn engine(&self) -> &Engine<Self> {
        &self.pool.engine
    }

    fn requests(&self) -> Arc<Requests> {
        let mut active = self.pool.active();
        // A full map is swept, and its capacity is set to twice the number of remaining entries. So the amortized cost of
        // sweeps is constant per entry.
        if active.len() == active.capacity() && !active.contains_key(&self.name) {
            active.retain(|_, requests| !self.pool.is_unused(requests, 1));
            let left = active.len();
            active.shrink_to(2 * left);
            active.reserve(left);
        }
        Arc::clone(active.entry(self.name.clone()).or_default())
    }

    fn new_source(&self) -> Result<Arc<dyn Source>> {
        let Pool {
            members, engine, ..
        } = &*self.pool;
        members.new_source(self.name(), &self.request, &engine.breaker)
    }

    #[inline]
    fn read<T>(&self, now: Tick, read: impl FnOnce(&AccessToken, &Lifespan) -> T) -> Option<T> {
        let read = |cached: &Cached| read(&cached.token, &cached.life);
        self.pool.tokens.get(&self.name, now, read)
    }

    fn install(&self, token: &Token, life: Lifespan, now: Tick) -> AccessToken {
        let token = AccessToken::from(token);
        let cached = Cached::new(token.clone(), life, now);
        self.pool.tokens.insert(self.name.clone(), cached);
        token
    }

    fn remove(&self, token: &AccessToken) -> bool {
        let is_it = |cached: &Cached| cached.token.is(token);
        self.pool.tokens.remove_if(&self.name, is_it)
    }

    fn release(&self, requests: &Arc<Requests>) {
        let mut active = self.pool.active();
        let is_current = active
            .get(&self.name)
            .is_some_and(|current| Arc::ptr_eq(current, requests));
        if is_current && self.pool.is_unused(requests, 2) {
            active.remove(&self.name);
            // Frees the memory that a burst of requests has left allocated.
            if active.capacity() > MOST_SPARE_CAPACITY && active.len() < active.capacity() / 8 {
                let left = active.len();
                active.shrink_to(2 * left);
            }
        }
    }
}
