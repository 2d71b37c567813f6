//! What all pools share: the tokens of very many keys.
//!
//! An idle key is one small entry of a bounded [cache](TokenCache): the token and its life. What a request for a token
//! needs (a source, the callers who wait, the backoff after a failure) exists only while there is something to remember.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    AccessToken, RefreshMode, Stats, TokenFuture, TokenProvider,
    cached::DEFAULT_DEADLINE,
    circuit_breaker::CircuitBreaker,
    engine::{Engine, Key, Options, Requests, fetch, invalidate, refresh_when_due},
    lifespan::Lifespan,
    source::Source,
    token_cache::{AsHashed, Cached, Name, TokenCache},
};
use crate::{Endpoint, OAuthClient, Result, Token, clock::Tick, runtime::lock};

/// What the keys of a pool stand for. Public in name only, as the parameter of a public type: nobody outside can name it.
pub trait Members: Send + Sync + 'static {
    /// The public name of their provider.
    const PROVIDER: &'static str;
    /// Whether their tokens are of stored sign-ins.
    const IS_STORED: bool;
    /// What is needed besides a key's name to get its token.
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
    /// Of keys for which there is something to remember; others are swept out.
    active: Mutex<Active>,
}

/// A map of so many entries is not worth shrinking.
const MOST_ROOM_TO_SPARE: usize = 4096;

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

/// Makes a pool: `P` is [`SessionPool`](crate::SessionPool) or [`UserPool`](crate::UserPool).
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

impl<P> PoolBuilder<P> {
    pub(super) fn new(build: impl FnOnce(Limits) -> P + Send + Sync + 'static) -> Self {
        Self {
            limits: Limits {
                capacity: 100_000,
                idle_timeout: Duration::from_secs(900),
                max_concurrent_requests: 32,
                deadline: DEFAULT_DEADLINE,
            },
            build: Box::new(build),
        }
    }

    /// How many tokens are kept at most; 100,000 by default. They are spread by chance over parts of about a
    /// thousand each, so when nine tenths of the room are taken, or more, a few may be dropped before it is full.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.limits.capacity = capacity;
        self
    }

    /// After how long without a call a token is dropped; 15 minutes by default.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.limits.idle_timeout = idle_timeout;
        self
    }

    /// How many requests for tokens may run at once; 32 by default. When more than so many in a row have found the
    /// server down, the circuit breaker opens, and so many are made each second until it is back.
    pub fn max_concurrent_requests(mut self, max_concurrent_requests: usize) -> Self {
        self.limits.max_concurrent_requests = max_concurrent_requests;
        self
    }

    /// How long getting a token may take, with all attempts and the wait for its turn; 60 seconds by default, a day at
    /// most. While the circuit breaker is open, nobody waits for a turn.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// The pool. Nothing is sent before the first caller asks.
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

    /// Begins no more requests, and waits for those in flight and for their saves.
    pub(super) async fn shutdown(&self) -> Result<()> {
        self.engine.close();
        let active: Vec<_> = self.active().values().cloned().collect();
        let ends = active.iter().map(|requests| requests.settle());
        join_all(ends).await.into_iter().collect()
    }

    /// Whether nothing is to be remembered, and nobody else holds it: new holders come by the map only, which is locked.
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

    /// A token: the cached one, else one from the store or from Coze.
    ///
    /// # Errors
    ///
    /// As [`CachedProvider::token`](crate::CachedProvider::token).
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => fetch(self).await,
        }
    }

    /// What is remembered of its requests, if there is anything.
    pub(super) fn active(&self) -> Option<Arc<Requests>> {
        self.pool.active().get(&self.name).cloned()
    }

    /// Drops its token, whatever that is, and ends its backoff.
    pub(super) fn forget_token(&self) {
        if let Some(requests) = self.active() {
            requests.flight.outdate();
        }
        self.pool.tokens.remove_if(&self.name, |_| true);
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
        // When it is full it is swept, and has room for as many again as are left: so sweeps cost each entry no more
        // than growth does, however many there are.
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
    fn look<T>(&self, now: Tick, look: impl FnOnce(&AccessToken, &Lifespan) -> T) -> Option<T> {
        let look = |cached: &Cached| look(&cached.token, &cached.life);
        self.pool.tokens.get(&self.name, now, look)
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
            // The room that a herd has left behind.
            if active.capacity() > MOST_ROOM_TO_SPARE && active.len() < active.capacity() / 8 {
                let left = active.len();
                active.shrink_to(2 * left);
            }
        }
    }
}
