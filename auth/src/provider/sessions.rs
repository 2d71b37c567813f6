//! A token for each of very many end users.
//!
//! A session at rest is one small entry of a bounded cache: the token and its life. What a request for a
//! token needs (a flight, its waiting callers, the pause after a failure) exists only while it does.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant as StdInstant},
};

use moka::{Expiry, sync::Cache};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use super::{
    AccessToken, TokenFuture, TokenProvider,
    cached::DEFAULT_DEADLINE,
    flight::{Boarding, Destination, FIRST_PAUSE, Flights, Runtime, Takeoff, take_off},
    lifespan::Lifespan,
    source::{AtDeadline, MintFuture, jitter, retrying},
};
use crate::{Flow, JwtFlow, JwtTokenRequest, Result, Token};

/// Keeps the tokens of many sessions fresh: one per session name, scope, session context, duration, and
/// account or enterprise.
///
/// A session name is Coze's documented way to keep end users apart: nobody sees another's conversations
/// (<https://www.coze.cn/open/docs/developer_guides/session_isolation>).
///
/// Each session behaves as a [`CachedProvider`](crate::CachedProvider) does, with one request for all
/// callers of a session. The pool is bounded: over its capacity the sessions least worth keeping are
/// dropped, as are those that nobody asked for in a while; they simply get a token anew. At most so many
/// requests run at once.
///
/// ```no_run
/// # async fn example(jwt: coze_auth::JwtFlow) -> coze_auth::Result<()> {
/// use coze_auth::{JwtTokenRequest, Scope, SessionPool};
///
/// let pool = SessionPool::builder(jwt).build();
///
/// // On every request of a user:
/// let token = pool.session("user-42").token().await?;
///
/// // Or with less than everything:
/// let request = JwtTokenRequest::new()
///     .session_name("user-42")
///     .scope(Scope::bot_chat(["bot-1"]));
/// let token = pool.provider(request).token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionPool(Arc<Pool>);

struct Pool {
    flow: JwtFlow,
    tokens: Cache<Key, Arc<Session>>,
    /// Only of sessions that are getting a token, or have failed to a short while ago.
    flights: Mutex<HashMap<Key, Arc<Flights>>>,
    minting: Semaphore,
    deadline: Duration,
    runtime: Runtime,
    refreshes: AtomicU64,
    coalesced: AtomicU64,
    failures: AtomicU64,
}

/// A request for a token, in a form that only equal requests share.
type Key = Arc<str>;

/// A session's token.
struct Session {
    token: AccessToken,
    life: Lifespan,
}

/// Drops a token from memory when it has ended.
struct AtItsEnd {
    flow: JwtFlow,
}

impl Expiry<Key, Arc<Session>> for AtItsEnd {
    fn expire_after_create(
        &self,
        _: &Key,
        session: &Arc<Session>,
        _: StdInstant,
    ) -> Option<Duration> {
        Some(session.life.remaining(self.flow.client().clock().tick()))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        session: &Arc<Session>,
        updated: StdInstant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, session, updated)
    }
}

/// Makes a [`SessionPool`].
#[derive(Debug)]
#[must_use]
pub struct SessionPoolBuilder {
    flow: JwtFlow,
    capacity: u64,
    idle: Duration,
    concurrent_requests: usize,
    deadline: Duration,
    runtime: Option<Handle>,
}

impl SessionPoolBuilder {
    /// How many sessions are kept at most; 100,000 by default.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.capacity = capacity;
        self
    }

    /// After how long without a call a session is dropped; 15 minutes by default.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// How many requests for tokens may run at once; 32 by default.
    pub fn concurrent_requests(mut self, concurrent_requests: usize) -> Self {
        self.concurrent_requests = concurrent_requests.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How long getting a token may take, with all attempts and the wait for one's turn; 60 seconds by
    /// default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Gets tokens on this runtime, instead of the caller's own.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The pool. Nothing is sent before the first caller asks.
    #[must_use]
    pub fn build(self) -> SessionPool {
        let expiry = AtItsEnd {
            flow: self.flow.clone(),
        };
        SessionPool(Arc::new(Pool {
            flow: self.flow,
            tokens: Cache::builder()
                .max_capacity(self.capacity)
                .time_to_idle(self.idle.min(LONGEST_IDLE))
                .expire_after(expiry)
                .build(),
            flights: Mutex::default(),
            minting: Semaphore::new(self.concurrent_requests),
            deadline: self.deadline,
            runtime: Runtime::new(self.runtime),
            refreshes: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }))
    }
}

/// What is remembered of sessions without a token is swept whenever it has grown to this many more.
const SWEEP_EVERY: usize = 1024;

/// moka takes no longer time.
const LONGEST_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a [`SessionPool`] has done so far, for one's own metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Sessions that are kept now; it may lag behind a little.
    pub sessions: u64,
    /// Requests for a token that were begun (each may have taken several attempts).
    pub refreshes: u64,
    /// Callers who waited for a request that another had begun.
    pub coalesced: u64,
    /// Requests that ended without a token.
    pub failures: u64,
}

impl Pool {
    fn all_flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flights>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops a session's flights, unless there is something to remember, or they have been dropped and begun
    /// anew meanwhile.
    fn forget(&self, key: &Key, flights: &Arc<Flights>) {
        let mut all = self.all_flights();
        let current = all.get(key);
        if current.is_some_and(|current| Arc::ptr_eq(current, flights)) && flights.is_at_rest() {
            all.remove(key);
        }
    }
}

impl SessionPool {
    /// A pool of the sessions of one application.
    pub fn builder(flow: JwtFlow) -> SessionPoolBuilder {
        SessionPoolBuilder {
            flow,
            capacity: 100_000,
            idle: Duration::from_secs(900),
            concurrent_requests: 32,
            deadline: DEFAULT_DEADLINE,
            runtime: None,
        }
    }

    /// The provider of an end user's session.
    #[must_use]
    pub fn session(&self, session_name: impl Into<String>) -> SessionProvider {
        self.provider(JwtTokenRequest::new().session_name(session_name))
    }

    /// The provider for a request of any kind.
    #[must_use]
    pub fn provider(&self, request: JwtTokenRequest) -> SessionProvider {
        SessionProvider {
            pool: Arc::clone(&self.0),
            key: request.key().into(),
            request: Arc::new(request),
        }
    }

    /// How it has done so far.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.0.tokens.run_pending_tasks();
        PoolStats {
            sessions: self.0.tokens.entry_count(),
            refreshes: count(&self.0.refreshes),
            coalesced: count(&self.0.coalesced),
            failures: count(&self.0.failures),
        }
    }
}

impl fmt::Debug for SessionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPool")
            .field("flow", &self.0.flow)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The token of one session of a [`SessionPool`]. Cheap to make and to clone; it holds no token itself.
#[derive(Clone)]
pub struct SessionProvider {
    pool: Arc<Pool>,
    key: Key,
    request: Arc<JwtTokenRequest>,
}

impl SessionProvider {
    /// A token: the cached one, else a fetched one.
    ///
    /// # Errors
    ///
    /// As [`CachedProvider::token`](crate::CachedProvider::token).
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => self.fetch_token().await,
        }
    }

    async fn fetch_token(&self) -> Result<AccessToken> {
        let runtime = self.pool.runtime.handle()?;
        let flights = self.flights();
        let landed = match flights.board(|| self.good().map(|session| session.token.clone())) {
            Err(token) => return Ok(token),
            Ok(Boarding::Joined(waiting)) => {
                self.pool.coalesced.fetch_add(1, Ordering::Relaxed);
                waiting.landed().await
            }
            Ok(Boarding::Started(takeoff, waiting)) => {
                self.take_off(flights, takeoff, &runtime);
                waiting.landed().await
            }
            Ok(Boarding::Refused(error)) => Err(error),
        };
        // A refresh that failed leaves the old token, as long as that is valid.
        landed.or_else(|error| {
            self.good()
                .map(|session| session.token.clone())
                .ok_or(error)
        })
    }

    fn flights(&self) -> Arc<Flights> {
        let mut all = self.pool.all_flights();
        if all.len() % SWEEP_EVERY == SWEEP_EVERY - 1 && !all.contains_key(&self.key) {
            all.retain(|_, flights| Arc::strong_count(flights) > 1 || !flights.is_at_rest());
        }
        Arc::clone(
            all.entry(Arc::clone(&self.key))
                .or_insert_with(|| Arc::new(Flights::new())),
        )
    }

    fn good(&self) -> Option<Arc<Session>> {
        let session = self.pool.tokens.get(&self.key)?;
        let now = self.pool.flow.client().clock().tick();
        session.life.is_good(now).then_some(session)
    }

    #[cold]
    fn refresh_in_background(&self, session: &Session) {
        let now = self.pool.flow.client().clock().tick();
        let Ok(runtime) = self.pool.runtime.handle() else {
            return;
        };
        if !session.life.claim_refresh(now) {
            return;
        }
        let flights = self.flights();
        match flights.board(|| None::<Infallible>) {
            Ok(Boarding::Started(takeoff, _)) => self.take_off(flights, takeoff, &runtime),
            Ok(Boarding::Joined(_)) => {}
            Ok(Boarding::Refused(error)) => {
                let pause = error.retry_after().unwrap_or(self.pool.deadline);
                session.life.refresh_again(now + pause);
            }
            Err(never) => match never {},
        }
    }

    fn take_off(&self, flights: Arc<Flights>, takeoff: Takeoff, runtime: &Handle) {
        self.pool.refreshes.fetch_add(1, Ordering::Relaxed);
        let session = SessionFlight {
            session: self.clone(),
            flights,
        };
        take_off(takeoff, session, self.pool.deadline, runtime);
    }
}

impl TokenProvider for SessionProvider {
    fn cached(&self) -> Option<AccessToken> {
        let session = self.pool.tokens.get(&self.key)?;
        let now = self.pool.flow.client().clock().tick();
        if !session.life.is_good(now) {
            return None;
        }
        if !session.life.is_fresh(now) {
            self.refresh_in_background(&session);
        }
        Some(session.token.clone())
    }

    fn fetch(&self) -> TokenFuture<'_> {
        Box::pin(self.fetch_token())
    }

    fn invalidate(&self, token: &AccessToken) {
        let current = self.pool.tokens.get(&self.key);
        if current.is_some_and(|session| session.token.is(token)) && self.flights().may_invalidate()
        {
            self.pool.tokens.invalidate(&self.key);
        }
    }
}

impl fmt::Debug for SessionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionProvider")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// A request for a session's token. It keeps the session's flights alive while it is in the air.
struct SessionFlight {
    session: SessionProvider,
    flights: Arc<Flights>,
}

impl Destination for SessionFlight {
    fn mint(&self, deadline: Instant) -> MintFuture<'_> {
        Box::pin(async move {
            let pool = &self.session.pool;
            // One's turn lasts for an attempt, not for the waits between two.
            let attempt = || async {
                let _turn = pool.minting.acquire().await;
                pool.flow.token_for(&self.session.request).await
            };
            retrying(deadline, AtDeadline::CutOff, attempt).await
        })
    }

    fn land(&self, takeoff: &Takeoff, minted: Result<Token>) {
        let SessionProvider { pool, key, .. } = &self.session;
        let now = pool.flow.client().clock().tick();
        let session = minted
            .and_then(|token| {
                let life = Lifespan::of(&token, now, jitter())?;
                let token = AccessToken::of(token.access_token())?;
                Ok(Session { token, life })
            })
            .map_err(|error| error.in_flow(Flow::Jwt));
        match session {
            Ok(session) => {
                let token = session.token.clone();
                pool.tokens.insert(Arc::clone(key), Arc::new(session));
                self.flights.land(takeoff, Ok(token), None);
                pool.forget(key, &self.flights);
            }
            Err(error) => {
                pool.failures.fetch_add(1, Ordering::Relaxed);
                let still_served = self.session.good();
                let left = still_served
                    .as_ref()
                    .map(|session| session.life.remaining(now));
                let pause = self.flights.land(takeoff, Err(error), left);
                if let Some(session) = still_served {
                    session
                        .life
                        .refresh_again(now + pause.unwrap_or(FIRST_PAUSE));
                }
            }
        }
    }
}
