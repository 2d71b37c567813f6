//! [`CachedProvider`]: caches the token of one flow and refreshes it before it expires.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use super::{
    Stats, TokenFuture, TokenProvider,
    engine::{self, Engine, Key, Options, Requests, refresh_when_due},
    slot::Slot,
    source::{FnSource, JwtSource, Source},
};
use crate::{
    AccessToken, Endpoint, JwtFlow, JwtTokenRequest, OAuthClient, Result, Token, UserFlow,
    clock::{Clock, Tick},
    flow::app::App,
    lifespan::Lifespan,
    lifespan::RefreshMode,
    retry::circuit_breaker::CircuitBreaker,
    sign_in::{SignIn, StoredSource},
};

/// Keeps a flow's token fresh for a whole service. Clones are cheap and the same provider.
///
/// - A valid token is read without a lock, an allocation or a wait ([`cached`](TokenProvider::cached)).
/// - When there is none, one request gets it for all who ask, and all get its result, error too. A caller
///   who goes away stops nobody else's.
/// - In the last fifth of its life (the last five minutes of a long one) a token is still served, and one
///   request in the background gets the next. If that fails, the old one serves until its end.
/// - After a failure there is a backoff, half a second and growing to 15 (to 60 where the server refused, or while the
///   old token is still served), or what the server asks for, an hour at most; callers without a token get the
///   error at once, with the time of the next try as its [`retry_after`](crate::Error::retry_after). A fresh sign-in that is put
///   into the [store](crate::store) ends it, within a second also if another process has put it there.
/// - No task runs while it is idle, except to retry a failed save to the store.
/// - A token that the API refused ([`invalidate`](TokenProvider::invalidate)) is replaced, once in 10 seconds at
///   most.
///
/// Refreshes of rotating tokens run on a runtime of their own, whose thread is started when it is needed and ends ten
/// seconds later. All else runs on the caller's tokio runtime, if that has worker threads; else there, too.
///
/// A thread that belongs to no runtime may wait for a token with any `block_on`. A worker thread of a runtime must not:
/// tokio's `block_on` panics there, and that of another crate (`futures::executor`) holds the worker. When all workers are
/// held so, nobody drives the request that they wait for. In a worker, `.await` the token, or call
/// `tokio::task::block_in_place(|| Handle::current().block_on(provider.token()))`.
///
/// ```no_run
/// # async fn example(jwt: coze_auth::JwtFlow) -> coze_auth::Result<()> {
/// use coze_auth::CachedProvider;
///
/// let provider = CachedProvider::jwt(jwt).build();
///
/// // On every request:
/// let token = provider.token().await?;
/// let request = coze_auth::reqwest::Client::new()
///     .get("https://api.coze.com/v1/users/me")
///     .header("Authorization", token.authorization());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CachedProvider(Arc<Shared>);

struct Shared {
    slot: ArcSwapOption<Slot>,
    engine: Engine<Arc<Shared>>,
    requests: Arc<Requests>,
    source: Arc<dyn Source>,
    /// Reads of tokens that were replaced; those of the current one are in its slot.
    served_before: AtomicU64,
}

/// How long getting a token may take, with all attempts, unless the caller says otherwise.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// Makes a [`CachedProvider`].
#[must_use]
pub struct CachedProviderBuilder {
    source: Arc<dyn Source>,
    breaker: Arc<CircuitBreaker>,
    first: Option<Token>,
    clock: Clock,
    refresh: RefreshMode,
    deadline: Duration,
}

impl CachedProviderBuilder {
    fn new<S: Source>(source: impl FnOnce(Arc<CircuitBreaker>) -> S) -> Self {
        let breaker = Arc::new(CircuitBreaker::always_closed());
        let source = source(Arc::clone(&breaker));
        let clock = source.client().map(OAuthClient::clock);
        Self {
            clock: clock.cloned().unwrap_or_default(),
            source: Arc::new(source),
            breaker,
            first: None,
            refresh: RefreshMode::default(),
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Replaces a token that will end soon by the caller who finds it so, who waits: for one-shot programs, where a request in
    /// the background would die with `main`, and burn a rotating refresh token. By default it is replaced in the background,
    /// while the old one is still served.
    pub fn refresh_in_line(mut self) -> Self {
        self.refresh = RefreshMode::InLine;
        self
    }

    /// How long getting a token may take, with all attempts; 60 seconds by default, a day at most. Callers who
    /// have no token wait that long. Only a refresh that was sent is waited for longer, as long as the
    /// client's request time-out, and the store that keeps its answer for a few seconds more: to cut it off could
    /// lose the next refresh token.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Takes the time from this clock, for tests; a provider of one of Coze's flows has that of its client.
    #[cfg(feature = "testing")]
    pub fn test_clock(mut self, clock: crate::testing::TestClock) -> Self {
        self.clock = Clock::Test(clock);
        self
    }

    /// The provider. Nothing is sent before the first caller asks.
    #[must_use]
    pub fn build(self) -> CachedProvider {
        let options = Options {
            refresh: self.refresh,
            deadline: self.deadline,
            is_stored: self.source.stored().is_some(),
        };
        let shared = Arc::new(Shared {
            slot: ArcSwapOption::empty(),
            engine: Engine::new(self.clock, self.breaker, options),
            requests: Arc::new(Requests::of(Arc::clone(&self.source))),
            source: self.source,
            served_before: AtomicU64::new(0),
        });
        if let Some(first) = self.first {
            if let Some(stored) = shared.source.stored() {
                stored.serves(&AccessToken::from(&first));
            }
            // A token that has ended is replaced by the first caller.
            let now = shared.engine.clock.tick();
            let life = Lifespan::of(&first, now, crate::random::jitter());
            let _ = life.map(|life| shared.install(&first, life, now));
        }
        CachedProvider(shared)
    }
}

impl fmt::Debug for CachedProviderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedProviderBuilder")
            .field("refresh", &self.refresh)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl CachedProvider {
    /// The application's own tokens, by JWT: everything it may do.
    pub fn jwt(flow: JwtFlow) -> CachedProviderBuilder {
        Self::jwt_for(flow, JwtTokenRequest::default())
    }

    /// The application's tokens, by JWT: for less, for longer, or for somebody else.
    pub fn jwt_for(flow: JwtFlow, request: JwtTokenRequest) -> CachedProviderBuilder {
        let flow = Arc::new(flow);
        CachedProviderBuilder::new(|breaker| JwtSource {
            flow,
            request,
            breaker,
        })
    }

    /// The tokens of another exchange: a gateway, workload identity, or anything else that yields an access token and how
    /// long that lives from then on. One exchange at a time serves all callers, and is made again ahead of the token's end;
    /// after a failure there is a backoff. An error that [says so](crate::Error::is_retryable) is retried within the deadline.
    ///
    /// ```
    /// use std::time::Duration;
    /// use coze_auth::{AccessToken, CachedProvider, Error};
    ///
    /// async fn ask_gateway() -> coze_auth::Result<(AccessToken, Duration)> {
    ///     // A request to the gateway, whose errors become `Error::of_provider(..)`, and `.transient()` where another
    ///     // attempt may help.
    ///     Ok((AccessToken::new("token-of-the-gateway")?, Duration::from_secs(900)))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coze_auth::Result<()> {
    /// let provider = CachedProvider::from_fn(ask_gateway).build();
    /// assert_eq!(provider.token().await?.expose(), "token-of-the-gateway");
    /// # Ok(()) }
    /// ```
    pub fn from_fn<F, Fut>(exchange: F) -> CachedProviderBuilder
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(AccessToken, Duration)>> + Send + 'static,
    {
        CachedProviderBuilder::new(|breaker| FnSource { exchange, breaker })
    }

    /// The tokens of a user who signed in by this flow ([`WebFlow`](crate::WebFlow), [`PkceFlow`](crate::PkceFlow) or
    /// [`DeviceFlow`](crate::DeviceFlow)). The sign-in is kept in a store, and shared with whoever else uses that: of all
    /// processes and machines, one at a time refreshes it, and the others use what it got. See [`sign_in`](crate::sign_in).
    ///
    /// A valid token that is stored is used as it is. If nobody is signed in, or the sign-in has ended, callers get
    /// [`NotSignedIn`](crate::ErrorKind::NotSignedIn) until [`SignIn::put`] brings a fresh one.
    ///
    /// ```no_run
    /// # async fn example(web: coze_auth::WebFlow, token: coze_auth::Token) -> coze_auth::Result<()> {
    /// use coze_auth::{CachedProvider, SignIn, store::MemoryStore};
    ///
    /// let sign_in = SignIn::new(MemoryStore::new(), "default")?; // or a store of coze-auth-stores
    /// sign_in.put(&token).await?; // when the user has signed in
    /// let provider = CachedProvider::stored(web, sign_in).build();
    /// # Ok(()) }
    /// ```
    pub fn stored(flow: impl UserFlow, sign_in: SignIn) -> CachedProviderBuilder {
        Self::of_app(flow.app(), sign_in)
    }

    pub(crate) fn of_app(app: &Arc<App>, sign_in: SignIn) -> CachedProviderBuilder {
        let app = Arc::clone(app);
        CachedProviderBuilder::new(|breaker| StoredSource::new(app, sign_in, breaker))
    }

    /// The tokens of a user who has just signed in by this flow, **kept in memory only**: when the process ends, so does the
    /// sign-in, because its refresh token has rotated. A token without a refresh token is served to its end.
    pub fn in_memory(flow: impl UserFlow, signed_in: Token) -> CachedProviderBuilder {
        let builder = Self::stored(flow, SignIn::in_memory(&signed_in));
        CachedProviderBuilder {
            first: Some(signed_in),
            ..builder
        }
    }

    /// A token: the cached one, else a fetched one.
    ///
    /// # Errors
    ///
    /// Those of the flow, when there is no valid token and none could be got; its
    /// [`retry_after`](crate::Error::retry_after) says when the next request will be made.
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => engine::fetch(&self.0).await,
        }
    }

    /// The statistics of this provider.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Starts no more requests, and waits for the one in flight and for its save, so that a rotated refresh token is not
    /// lost. A failed save is retried for ten seconds. Valid tokens are still served.
    ///
    /// # Errors
    ///
    /// Why a sign-in could not be saved: it is lost when the program ends, unless the store works again before that. Called
    /// once more, this waits for that again. [`unsaved_error`](Stats::unsaved_error) tells the same.
    pub async fn shutdown(&self) -> Result<()> {
        self.0.engine.close();
        self.0.requests.settle().await
    }
}

impl TokenProvider for CachedProvider {
    #[inline]
    fn cached(&self) -> Option<AccessToken> {
        let slot = self.0.slot.load();
        let slot = slot.as_ref()?;
        if !self.0.serves(slot) {
            return None;
        }
        let shard = slot.copies.read();
        Some(slot.copies.copy(shard).clone())
    }

    fn fetch(&self) -> TokenFuture<'_> {
        Box::pin(engine::fetch(&self.0))
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        self.0.source.client().map(OAuthClient::endpoint)
    }

    fn invalidate(&self, token: &AccessToken) {
        engine::invalidate(&self.0, token);
    }

    fn shutdown(&self) -> TokenFuture<'_, ()> {
        Box::pin(self.shutdown())
    }
}

impl fmt::Debug for CachedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedProvider")
            .field("refresh", &self.0.engine.refresh_mode())
            .field("stats", &self.0.stats())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Whether this token may be served without a wait; starts its refresh where that is due.
    #[inline]
    fn serves(self: &Arc<Self>, slot: &Slot) -> bool {
        let now = self.engine.clock.tick();
        slot.life.is_fresh(now) || self.serves_when_due(slot, now)
    }

    #[cold]
    fn serves_when_due(self: &Arc<Self>, slot: &Slot, now: Tick) -> bool {
        if self.engine.refresh_mode() == RefreshMode::InLine || !slot.life.is_valid(now) {
            return false;
        }
        refresh_when_due(self, now);
        true
    }

    fn stats(&self) -> Stats {
        let mut stats = self.engine.stats();
        self.requests.add_to(&mut stats);
        stats.served_from_cache = self.served_before.load(Ordering::Relaxed);
        if let Some(slot) = &*self.slot.load() {
            let now = self.engine.clock.tick();
            stats.served_from_cache += slot.copies.reads();
            stats.expires_in = slot.life.is_valid(now).then(|| slot.life.remaining(now));
            stats.cached = u64::from(stats.expires_in.is_some());
        }
        stats
    }

    /// Counts the reads of a token that was replaced.
    fn replaced(&self, slot: &Slot) {
        let reads = slot.copies.reads();
        self.served_before.fetch_add(reads, Ordering::Relaxed);
    }
}

impl Key for Arc<Shared> {
    fn engine(&self) -> &Engine<Self> {
        &self.engine
    }

    fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    fn new_source(&self) -> Result<Arc<dyn Source>> {
        Ok(Arc::clone(&self.source))
    }

    fn read<T>(&self, now: Tick, read: impl FnOnce(&AccessToken, &Lifespan) -> T) -> Option<T> {
        let slot = self.slot.load();
        let slot = slot.as_ref().filter(|slot| slot.life.is_valid(now))?;
        Some(read(slot.copies.token(), &slot.life))
    }

    fn install(&self, token: &Token, life: Lifespan, _: Tick) -> AccessToken {
        let slot = Slot::new(token, life);
        let access_token = slot.copies.token().clone();
        if let Some(replaced) = self.slot.swap(Some(Arc::new(slot))) {
            self.replaced(&replaced);
        }
        access_token
    }

    fn remove(&self, token: &AccessToken) -> bool {
        let current = self.slot.load();
        let Some(slot) = &*current else {
            return false;
        };
        if !slot.copies.token().is(token) {
            return false;
        }
        let previous = self.slot.compare_and_swap(&current, None);
        let was_there = previous
            .as_ref()
            .is_some_and(|previous| Arc::ptr_eq(previous, slot));
        if was_there {
            self.replaced(slot);
        }
        was_there
    }

    fn release(&self, _: &Arc<Requests>) {}
}

#[cfg(all(test, feature = "testing"))]
mod tests;
