//! A token for each of very many end users.
//!
//! A session at rest is one small entry of a [bounded cache](SessionCache): the token and its life. What a
//! request for a token needs (a flight, its waiting callers, the pause after a failure) exists only while it
//! does.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    AccessToken, TokenFuture, TokenProvider,
    cached::DEFAULT_DEADLINE,
    flight::{Boarding, Destination, FIRST_PAUSE, Flights, Runtime, Takeoff, take_off},
    lifespan::Lifespan,
    session_cache::{Key, Session, SessionCache},
    source::{AssumedLifetime, AtDeadline, MintFuture, jitter, retrying},
};
use crate::{Error, ErrorKind, Flow, JwtFlow, JwtTokenRequest, Result, Token, clock::Tick};

/// Keeps the tokens of many sessions fresh: one per session name, scope, session context, duration, and
/// account or enterprise.
///
/// A session name is Coze's documented way to keep end users apart: nobody sees another's conversations
/// (<https://www.coze.cn/open/docs/developer_guides/session_isolation>).
///
/// Each session behaves as a [`CachedProvider`](crate::CachedProvider) does, with one request for all
/// callers of a session. The pool is bounded: over its capacity the sessions least worth keeping are
/// dropped, as are those that nobody asked for in a while; they simply get a token anew. At most so many
/// [requests](SessionPoolBuilder::concurrent_requests) run at once, and others wait for their turn.
///
/// When more in a row than may run at once have found a server that is down, or asks for a pause, that is an outage:
/// as many attempts a second (or in the pause that the server asks for, up to 15 seconds) find out when it is back,
/// whatever number of sessions want a token. Meanwhile nobody waits: whoever finds no turn free gets the kind and
/// status of the last failure at once, and about when a turn may be free as its
/// [`retry_after`](Error::retry_after). Tokens that are valid are still served.
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
    sessions: SessionCache,
    /// Of sessions that are getting a token, or have failed to or lost one a short while ago; others are swept out.
    flights: Mutex<HashMap<Key, Arc<Flights>>>,
    minting: Arc<Semaphore>,
    outage: Outage,
    deadline: Duration,
    runtime: Runtime,
    refreshes: AtomicU64,
    coalesced: AtomicU64,
    failures: AtomicU64,
    assumed_lifetime: AssumedLifetime,
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
    /// How many sessions are kept at most; 100,000 by default. They are spread by chance over parts of about a
    /// thousand each, so when nine tenths of the room are taken, or more, a few may be dropped before it is full.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.capacity = capacity;
        self
    }

    /// After how long without a call a session is dropped; 15 minutes by default.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// How many requests for tokens may run at once; 32 by default. So many are also made each second of an outage,
    /// and when more than so many in a row have failed, [it is one](SessionPool).
    pub fn concurrent_requests(mut self, concurrent_requests: usize) -> Self {
        self.concurrent_requests = concurrent_requests.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How long getting a token may take, with all attempts and the wait for one's turn; 60 seconds by
    /// default. In an [outage](SessionPool) nobody waits for a turn.
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
        let now = self.flow.client().clock().tick();
        SessionPool(Arc::new(Pool {
            sessions: SessionCache::new(self.capacity, self.idle, now),
            flow: self.flow,
            flights: Mutex::default(),
            minting: Arc::new(Semaphore::new(self.concurrent_requests)),
            outage: Outage::after(self.concurrent_requests),
            deadline: self.deadline,
            runtime: Runtime::new(self.runtime),
            refreshes: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            assumed_lifetime: AssumedLifetime::default(),
        }))
    }
}

/// How a [`SessionPool`] has done so far, for one's own metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Sessions that are kept now. One that has ended, or that nobody asks for, is dropped within the next
    /// minute in which the pool is used or asked for this.
    pub sessions: u64,
    /// Requests for a token that were begun (each may have taken several attempts, or, in an outage, none).
    pub refreshes: u64,
    /// Callers who waited for a request that another had begun.
    pub coalesced: u64,
    /// Requests that ended without a token, also for want of a turn before the deadline; not those that an outage left
    /// unmade.
    pub failures: u64,
}

impl Pool {
    fn now(&self) -> Tick {
        self.flow.client().clock().tick()
    }

    fn all_flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flights>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no point in asking for a turn, if there is none.
    fn refusal(&self) -> Option<Error> {
        if self.minting.available_permits() > 0 {
            return None;
        }
        self.outage.refusal()
    }

    /// Waits for a turn to make an attempt, or says why there is none.
    async fn turn(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = sleep_until(deadline) => Err(Error::new(
                ErrorKind::Timeout,
                "other sessions' requests took until the deadline; more of them may run at once (concurrent_requests)",
            )),
            Ok(turn) = Arc::clone(&self.minting).acquire_owned() => Ok(turn),
            Some(refusal) = self.outage.next_refusal() => Err(refusal),
        }
    }

    /// Drops a session's flights, unless there is something to remember, or a caller is about to board: two
    /// callers with different flights would be two requests.
    fn forget(&self, key: &Key, landed: &Arc<Flights>) {
        let mut all = self.all_flights();
        let unused = all.get(key).is_some_and(|current| {
            // Held here and in the map: new holders come by the map only, which is locked.
            Arc::ptr_eq(current, landed) && Arc::strong_count(current) == 2
        });
        if unused && landed.is_at_rest() {
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
        PoolStats {
            sessions: self.0.sessions.len(self.0.now()) as u64,
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
        let known = || {
            let token = self.good().map(Ok);
            token.or_else(|| self.pool.refusal().map(Err))
        };
        let landed = match flights.board(known) {
            Err(known) => return known,
            Ok(Boarding::Joined(waiting)) => {
                // Whoever waits has boarded: the flights may be forgotten when they have landed.
                drop(flights);
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
        landed.or_else(|error| self.good().ok_or(error))
    }

    fn flights(&self) -> Arc<Flights> {
        let mut all = self.pool.all_flights();
        // When it is full it is swept, and has room for as many again as are left: so sweeps cost each entry no more
        // than growth does, however many there are.
        if all.len() == all.capacity() && !all.contains_key(&self.key) {
            all.retain(|_, flights| Arc::strong_count(flights) > 1 || !flights.is_at_rest());
            let left = all.len();
            all.shrink_to(2 * left);
            all.reserve(left);
        }
        Arc::clone(
            all.entry(Arc::clone(&self.key))
                .or_insert_with(|| Arc::new(Flights::new())),
        )
    }

    fn good(&self) -> Option<AccessToken> {
        self.look(self.pool.now(), |session| session.token.clone())
    }

    #[inline]
    fn look<T>(&self, now: Tick, look: impl FnOnce(&Session) -> T) -> Option<T> {
        self.pool.sessions.get(&self.key, now, look)
    }

    #[cold]
    fn refresh_in_background(&self, now: Tick) {
        let Ok(runtime) = self.pool.runtime.handle() else {
            return;
        };
        let claimed = self.look(now, |session| session.life.claim_refresh(now));
        if claimed != Some(true) {
            return;
        }
        let flights = self.flights();
        match flights.board(|| self.pool.refusal()) {
            Ok(Boarding::Started(takeoff, _)) => self.take_off(flights, takeoff, &runtime),
            Ok(Boarding::Joined(_)) => {}
            Ok(Boarding::Refused(error)) | Err(error) => {
                let pause = error.retry_after().unwrap_or(self.pool.deadline);
                self.look(now, |session| session.life.refresh_again(now + pause));
            }
        }
    }

    fn take_off(&self, flights: Arc<Flights>, takeoff: Takeoff, runtime: &Handle) {
        self.pool.refreshes.fetch_add(1, Ordering::Relaxed);
        let session = SessionFlight {
            session: self.clone(),
            flights,
            last_error: Mutex::default(),
        };
        take_off(takeoff, session, self.pool.deadline, runtime);
    }
}

impl TokenProvider for SessionProvider {
    fn cached(&self) -> Option<AccessToken> {
        let now = self.pool.now();
        let (token, is_fresh) = self.look(now, |session| {
            (session.token.clone(), session.life.is_fresh(now))
        })?;
        if !is_fresh {
            self.refresh_in_background(now);
        }
        Some(token)
    }

    fn fetch(&self) -> TokenFuture<'_> {
        Box::pin(self.fetch_token())
    }

    fn invalidate(&self, token: &AccessToken) {
        let is_current = self.look(self.pool.now(), |session| session.token.is(token));
        if is_current == Some(true) {
            self.flights()
                .invalidate(|| self.pool.sessions.remove(&self.key, token));
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

/// Tells when the server gives no session a token: each session pauses by itself, but a hundred thousand of them would
/// still be a hundred thousand callers to a server that is down.
struct Outage {
    failures: watch::Sender<Failures>,
    /// When more than so many are in a row, it is one.
    tolerated: usize,
}

#[derive(Default)]
struct Failures {
    /// When the server last decided anything, for whatever session.
    heard: Option<Instant>,
    /// Attempts since then that have found a server that could not answer.
    in_a_row: usize,
    /// In an outage only.
    refusal: Option<Refusal>,
}

/// What those hear in an outage who find no turn free.
struct Refusal {
    error: Error,
    /// When the turn ends that failed last.
    until: Instant,
}

impl Failures {
    /// All who hear it come again when a turn may be free, but not at the same moment.
    fn refusal(&self) -> Option<Error> {
        let Refusal { error, until } = self.refusal.as_ref()?;
        let left = until.saturating_duration_since(Instant::now());
        let pause = left.max(FIRST_PAUSE).mul_f64(jitter());
        let error = error.clone().in_flow(Flow::Jwt);
        Some(error.with_retry_after(Some(pause)))
    }
}

/// In an outage, a turn ends so long after its attempt, or when the server asks for it.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// But no later than this, so that callers hear of its end.
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(15);
/// A server that has decided nothing for so long is down for whoever is cut off at the deadline.
const SILENCE: Duration = Duration::from_secs(5);

impl Outage {
    fn after(tolerated: usize) -> Self {
        Self {
            failures: watch::Sender::default(),
            tolerated,
        }
    }

    fn refusal(&self) -> Option<Error> {
        self.failures.borrow().refusal()
    }

    /// The same, once there is an outage.
    async fn next_refusal(&self) -> Option<Error> {
        let mut failures = self.failures.subscribe();
        let outage = failures.wait_for(|failures| failures.refusal.is_some());
        outage.await.ok()?.refusal()
    }

    /// Whether it tells anything about the server that an attempt was cut off.
    fn is_silent(&self) -> bool {
        let heard = self.failures.borrow().heard;
        heard.is_none_or(|heard| heard.elapsed() >= SILENCE)
    }

    /// Hears how an attempt ended; in an outage it says how long its turn lasts yet.
    fn pause_after(&self, answer: &Result<Token>) -> Option<Duration> {
        let error = match answer {
            Err(error) if error.is_retryable() => error,
            // It has not asked the server.
            Err(error) if error.status().is_none() => return None,
            _ => {
                self.failures.send_if_modified(|failures| {
                    *failures = Failures {
                        heard: Some(Instant::now()),
                        ..Failures::default()
                    };
                    false // Nobody waits for that.
                });
                return None;
            }
        };
        let pause = error.retry_after().unwrap_or_default();
        let pause = pause.clamp(OUTAGE_PAUSE, LONGEST_OUTAGE_PAUSE);
        let mut is_outage = false;
        self.failures.send_if_modified(|failures| {
            failures.in_a_row = failures.in_a_row.saturating_add(1);
            is_outage = failures.in_a_row > self.tolerated;
            if !is_outage {
                return false;
            }
            let refusal = Refusal {
                error: error.for_others(
                    "the server gives no session a token now, so it was not asked for this one",
                ),
                until: Instant::now() + pause,
            };
            failures.refusal.replace(refusal).is_none()
        });
        is_outage.then_some(pause)
    }
}

/// A request for a session's token. It keeps the session's flights alive while it is in the air.
struct SessionFlight {
    session: SessionProvider,
    flights: Arc<Flights>,
    /// Of its attempts.
    last_error: Mutex<Option<Error>>,
}

impl SessionFlight {
    fn last_error(&self) -> MutexGuard<'_, Option<Error>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one attempt when it is its turn. The turn lasts for an attempt, not for the waits between two; in an
    /// outage it lasts on, whatever becomes of the flight. That there is no turn is final: hence a result in a result.
    async fn attempt(&self, deadline: Instant) -> Result<Result<Token>> {
        let pool = &self.session.pool;
        let turn = match pool.turn(deadline).await {
            Ok(turn) => turn,
            Err(refusal) => return Ok(Err(self.refused(refusal))),
        };
        let asked = pool.flow.token_for(&self.session.request);
        let answer = timeout_at(deadline, asked).await;
        let is_cut_off = answer.is_err();
        let answer = answer.unwrap_or_else(|_| {
            let late = "no token came before the deadline";
            Err(Error::new(ErrorKind::Timeout, late))
        });
        if (!is_cut_off || pool.outage.is_silent())
            && let Some(pause) = pool.outage.pause_after(&answer)
        {
            tokio::spawn(async move {
                sleep(pause).await;
                drop(turn);
            });
        }
        answer.map(Ok).map_err(|error| {
            let before = self.last_error().replace(error.clone());
            // That time ran out tells less than what the server had said before.
            before.filter(|_| is_cut_off).unwrap_or(error)
        })
    }

    /// Who has asked the server hears what it said, and when to ask again.
    fn refused(&self, refusal: Error) -> Error {
        match &*self.last_error() {
            Some(own) => own.clone().with_retry_after(refusal.retry_after()),
            None => refusal,
        }
    }

    /// Whether an outage has left it without an attempt. Who has waited in vain until the deadline is not told when to
    /// come again.
    fn is_unmade(&self, error: &Error) -> bool {
        self.last_error().is_none() && error.retry_after().is_some()
    }
}

impl Destination for SessionFlight {
    fn mint(&self, deadline: Instant) -> MintFuture<'_> {
        Box::pin(async move {
            // Each attempt ends at the deadline by itself.
            let attempt = || self.attempt(deadline);
            retrying(deadline, AtDeadline::Await, attempt).await?
        })
    }

    fn land(&self, takeoff: &Takeoff, minted: Result<Token>) {
        let SessionProvider { pool, key, .. } = &self.session;
        let now = pool.now();
        let session = minted
            .inspect(|token| pool.assumed_lifetime.warn_of(token))
            .and_then(|token| {
                let life = Lifespan::of(&token, now, jitter())?;
                let token = AccessToken::of(token.access_token())?;
                Ok(Session::new(token, life, now))
            })
            .map_err(|error| error.in_flow(Flow::Jwt));
        match session {
            Ok(session) => {
                let token = session.token.clone();
                pool.sessions.insert(Arc::clone(key), session);
                self.flights.land(takeoff, Ok(token), None);
                pool.forget(key, &self.flights);
            }
            Err(error) => {
                let pause = if self.is_unmade(&error) {
                    self.flights.call_off(takeoff, error)
                } else {
                    pool.failures.fetch_add(1, Ordering::Relaxed);
                    let left = self
                        .session
                        .look(now, |session| session.life.remaining(now));
                    self.flights.land(takeoff, Err(error), left)
                };
                let next_try = now + pause.unwrap_or(FIRST_PAUSE);
                self.session
                    .look(now, |session| session.life.refresh_again(next_try));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, OAuthClient, SignFuture, Signer};

    struct Never;

    impl Signer for Never {
        fn sign<'a>(&'a self, _: &'a [u8]) -> SignFuture<'a> {
            Box::pin(std::future::pending())
        }
    }

    fn pool() -> SessionPool {
        let client = OAuthClient::new(Endpoint::COM).unwrap();
        let flow = JwtFlow::builder(client)
            .client_id("1")
            .key_id("k")
            .signer(Never)
            .build();
        SessionPool::builder(flow.unwrap()).build()
    }

    #[test]
    fn flights_that_a_caller_is_about_to_board_are_not_forgotten_when_another_lands() {
        let pool = pool();
        let session = pool.session("alice");
        let landed = session.flights();
        let about_to_board = session.flights();
        pool.0.forget(&session.key, &landed);
        assert!(
            Arc::ptr_eq(&session.flights(), &about_to_board),
            "the next caller boards the same"
        );
        drop(about_to_board);
        pool.0.forget(&session.key, &landed);
        assert!(pool.0.all_flights().is_empty());
    }

    #[test]
    fn flights_that_another_took_the_place_of_are_let_be() {
        let pool = pool();
        let session = pool.session("alice");
        let stale = Arc::new(Flights::new());
        let current = session.flights();
        pool.0.forget(&session.key, &stale);
        assert!(Arc::ptr_eq(&session.flights(), &current));
    }
}
