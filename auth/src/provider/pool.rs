//! What all pools share: the tokens of very many keys.
//!
//! An idle key is one small entry of a bounded [cache](TokenCache): the token and its life. What a request for a token
//! needs (a source, the callers who wait, the backoff after a failure) exists only while there is something to remember.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    AccessToken, RefreshMode,
    cached::DEFAULT_DEADLINE,
    circuit_breaker::CircuitBreaker,
    engine::{Engine, Key, Options, Requests, refresh_when_due},
    lifespan::Lifespan,
    source::Source,
    token_cache::{AsHashed, Cached, Name, TokenCache},
};
use crate::{
    Error, Result, Token,
    clock::{Clock, Tick},
    runtime::RunsOn,
};

/// What the keys of a pool stand for.
pub(super) trait Members: Send + Sync + 'static {
    /// What is needed besides a key's name to get its token.
    type Request: Clone + Send + Sync + 'static;

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

/// One key of a pool.
pub(super) struct Member<M: Members> {
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

/// How a pool has done so far, for your own metrics: the same figures as of a
/// [provider](crate::ProviderStats).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolStats {
    /// Tokens that are kept now. One that has ended, or that nobody asks for, is dropped within the next
    /// minute in which the pool is used or asked for this.
    pub cached: u64,
    /// Tokens served without a wait.
    pub served_from_cache: u64,
    /// Times that a new token was wanted. Each may have been loaded from a store, or may have taken several requests;
    /// while the circuit breaker is open, none.
    pub refreshes: u64,
    /// Requests made to Coze, each attempt counted.
    pub requests: u64,
    /// Callers who waited for a refresh that another had begun.
    pub coalesced: u64,
    /// Tokens that were loaded from the store: no request was sent for them.
    pub reused: u64,
    /// Users whose sign-in is not in its store, because a save failed: it is in memory only, and the save is retried. If
    /// the process ends before that, they have to sign in again.
    pub unsaved: u64,
    /// Refreshes that ended without a token; not those that the open circuit breaker turned away.
    pub failures: u64,
    /// The last failure of any key, if no refresh has succeeded since.
    pub last_error: Option<Error>,
}

impl<M: Members> Pool<M> {
    pub(super) fn new(
        members: M,
        clock: Clock,
        limits: Limits,
        runs_on: RunsOn,
        refuses_at_once: bool,
    ) -> Arc<Self> {
        let breaker = CircuitBreaker::with_permits(limits.max_concurrent_requests);
        let options = Options {
            refresh: RefreshMode::InBackground,
            deadline: limits.deadline,
            runs_on,
            refuses_at_once,
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
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> PoolStats {
        let counted = self.engine.counted();
        let (mut reused, mut unsaved) = (counted.reused, 0);
        for source in self.active().values().filter_map(|active| active.source()) {
            reused += source.reused();
            unsaved += u64::from(source.unsaved().is_some());
        }
        PoolStats {
            cached: self.tokens.len(self.engine.clock.tick()) as u64,
            served_from_cache: self.tokens.served(),
            refreshes: counted.refreshes,
            requests: counted.requests,
            coalesced: counted.coalesced,
            reused,
            unsaved,
            failures: counted.failures,
            last_error: counted.last_error,
        }
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
        if unused && let Some(source) = requests.source() {
            self.engine.counters.add_reused(source.reused());
        }
        unused
    }
}

impl<M: Members> Member<M> {
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    #[inline]
    pub(super) fn cached(&self) -> Option<AccessToken> {
        let now = self.pool.engine.clock.tick();
        let (token, is_fresh) = self.pool.tokens.serve(&self.name, now, |cached| {
            (cached.token.clone(), cached.life.is_fresh(now))
        })?;
        if !is_fresh {
            refresh_when_due(self, now);
        }
        Some(token)
    }

    /// Its source, if there is something to remember.
    pub(super) fn source(&self) -> Option<Arc<dyn Source>> {
        self.pool.active().get(&self.name)?.source()
    }

    /// Drops its token, whatever that is, and ends its backoff.
    pub(super) fn forget_token(&self) {
        if let Some(requests) = self.pool.active().get(&self.name) {
            requests.flight.outdate();
        }
        self.pool.tokens.remove_if(&self.name, |_| true);
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

    fn install(&self, token: &Token, life: Lifespan, now: Tick) -> Result<AccessToken> {
        let token = AccessToken::of(token.access_token())?;
        let cached = Cached::new(token.clone(), life, now);
        self.pool.tokens.insert(self.name.clone(), cached);
        Ok(token)
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
