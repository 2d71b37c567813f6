//! [`CachedProvider`]: caches the token of one flow and refreshes it before it expires.

use std::{
    fmt,
    future::Future,
    ops::Deref,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};

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
    refresh_window::Lifespan,
    refresh_window::RefreshMode,
    retry::circuit_breaker::CircuitBreaker,
    sign_in::{Server, SignIn, StoredSource},
};

/// Keeps one flow's token valid for a whole service. Clones are cheap and share the token.
///
/// - A valid token is read without a lock, an allocation or a wait ([`cached`](TokenProvider::cached)).
/// - Without a valid token, one request serves all callers, which share its result, including an error. A caller that
///   is cancelled does not affect the others.
/// - In the last fifth of its lifetime (at most the last five minutes), a token is still served while one request in
///   the background gets the next one. If the request fails, the old token is served until it expires.
/// - After a failure there is a backoff: half a second, growing to 15 seconds (to 60 after a refusal, or while the old
///   token is still served), or the server's `Retry-After`, at most an hour. Callers without a token get the error
///   immediately; its [`retry_after`](crate::Error::retry_after) says when the next request will be sent. A fresh
///   sign-in in the [store](crate::store) ends the backoff, within a second if another process has stored it.
/// - No task runs while idle, except to retry a failed save to the store.
/// - A token that the API refused ([`invalidate`](TokenProvider::invalidate)) is replaced, at most once in 10 seconds.
///
/// Refreshes of rotating tokens run on the process's own runtime, whose thread is started on demand and ends ten
/// seconds after the last refresh. Other requests run on the caller's tokio runtime if that has worker threads,
/// otherwise there too.
///
/// A thread outside of any runtime may wait for a token with any `block_on`. A worker thread of a runtime must not:
/// tokio's `block_on` panics there, and that of another crate (`futures::executor`) blocks the worker. If all workers
/// are blocked, nothing drives the request that they wait for. In a worker, `.await` the token, or call
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
    /// Reads of replaced tokens; the reads of the current one are in its slot.
    served_before: AtomicU64,
}

/// How long getting a token may take, including all attempts, by default.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// Builds a [`CachedProvider`].
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

    /// When a token is replaced that is about to expire; in the background by default.
    pub fn refresh(mut self, refresh: RefreshMode) -> Self {
        self.refresh = refresh;
        self
    }

    /// How long getting a token may take, including all attempts; 60 seconds by default, at most a day. Callers without
    /// a token wait that long. A refresh in flight is awaited longer, up to the client's request timeout and a few
    /// seconds for the save: cancelling it could lose the next refresh token.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Uses this clock, for tests. A provider of a flow uses that of the flow's client by default.
    #[cfg(feature = "testing")]
    pub fn test_clock(mut self, clock: crate::testing::TestClock) -> Self {
        self.clock = Clock::Test(clock);
        self
    }

    /// Builds the provider. No request is sent until a token is needed.
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
        if let Some(stored) = shared.source.stored() {
            let server = Arc::downgrade(&shared) as Weak<dyn Server>;
            stored.sign_in().serve_by(server);
        }
        if let Some(first) = self.first {
            if let Some(stored) = shared.source.stored() {
                stored.serves(&AccessToken::from(&first));
            }
            // The first caller replaces an expired token.
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
    /// The application's own tokens, by JWT, with all its permissions.
    pub fn jwt(flow: JwtFlow) -> CachedProviderBuilder {
        Self::jwt_for(flow, JwtTokenRequest::default())
    }

    /// The application's tokens, by JWT, with the parameters of the request: scope, duration, session or account.
    pub fn jwt_for(flow: JwtFlow, request: JwtTokenRequest) -> CachedProviderBuilder {
        let flow = Arc::new(flow);
        CachedProviderBuilder::new(|breaker| JwtSource {
            flow,
            request,
            breaker,
        })
    }

    /// The tokens of another exchange: a gateway, workload identity, or anything else that returns an access token and
    /// its remaining lifetime. One exchange at a time serves all callers, and it is repeated before the token expires.
    /// After a failure there is a backoff. [Retryable](crate::Error::is_retryable) errors are retried within the
    /// deadline.
    ///
    /// ```
    /// use std::time::Duration;
    /// use coze_auth::{AccessToken, CachedProvider, Error};
    ///
    /// async fn ask_gateway() -> coze_auth::Result<(AccessToken, Duration)> {
    ///     // A request to the gateway. Its errors become `Error::of_provider(..)`, with `.transient()` if a retry may
    ///     // succeed.
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

    /// The tokens of a user who signed in with this flow ([`WebFlow`](crate::WebFlow), [`PkceFlow`](crate::PkceFlow) or
    /// [`DeviceFlow`](crate::DeviceFlow)). The sign-in is stored, and shared by all processes and machines that use the
    /// store: one at a time refreshes it, and the others load the result. See [`sign_in`](crate::sign_in).
    ///
    /// A valid stored token is reused. If no user is signed in, or the sign-in has ended, callers get
    /// [`NotSignedIn`](crate::ErrorKind::NotSignedIn) until [`SignIn::put`] stores a fresh one.
    ///
    /// ```no_run
    /// # async fn example(web: coze_auth::WebFlow, token: coze_auth::Token) -> coze_auth::Result<()> {
    /// use coze_auth::{CachedProvider, SignIn, store::MemoryStore};
    ///
    /// let sign_in = SignIn::new(MemoryStore::new(), "default")?; // or a store of coze-auth-stores
    /// sign_in.put(&token).await?; // after the user has signed in
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

    /// The tokens of a user who has just signed in with this flow, **kept in memory only**: the sign-in is lost when
    /// the process ends, because its refresh token is rotated. A token without a refresh token is served until it
    /// expires.
    pub fn in_memory(flow: impl UserFlow, signed_in: Token) -> CachedProviderBuilder {
        let builder = Self::stored(flow, SignIn::in_memory(&signed_in));
        CachedProviderBuilder {
            first: Some(signed_in),
            ..builder
        }
    }

    /// Returns the cached token, or else a fetched one.
    ///
    /// # Errors
    ///
    /// The errors of the flow, if there is no valid token and none could be fetched.
    /// [`retry_after`](crate::Error::retry_after) says when the next request will be sent.
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => engine::fetch(&self.0).await,
        }
    }

    /// Borrows the cached token: the fastest way to read it. `None` if one has to be fetched.
    ///
    /// Drop it soon, and don't hold it across an `.await`.
    #[must_use]
    #[inline]
    pub fn borrow(&self) -> Option<BorrowedToken> {
        let slot = self.0.slot.load();
        let current = slot.as_ref()?;
        if !self.0.serves(current) {
            return None;
        }
        let shard = current.copies.read();
        Some(BorrowedToken { slot, shard })
    }

    /// The statistics of this provider.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Shuts the provider down: starts no more requests, and waits for the one in flight and for its save, so that a
    /// rotated refresh token is not lost. A failed save is retried for ten seconds. Valid tokens are still served.
    ///
    /// # Errors
    ///
    /// The error of a failed save. The sign-in is lost when the program ends, unless a later save succeeds. Another
    /// call waits for the save again. [`unsaved_error`](Stats::unsaved_error) is the same error.
    pub async fn shutdown(&self) -> Result<()> {
        self.0.engine.close();
        self.0.requests.shut_down().await
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

/// The current token, borrowed from a [`CachedProvider`].
pub struct BorrowedToken {
    slot: Guard<Option<Arc<Slot>>>,
    shard: usize,
}

impl Deref for BorrowedToken {
    type Target = AccessToken;

    #[inline]
    fn deref(&self) -> &AccessToken {
        match &*self.slot {
            Some(slot) => slot.copies.copy(self.shard),
            None => unreachable!("a borrowed token has a slot"),
        }
    }
}

impl fmt::Debug for BorrowedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BorrowedToken(****)")
    }
}

impl Shared {
    /// Whether this token may be served without a wait. Starts its refresh if that is due.
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

    /// Counts the reads of a replaced token.
    fn replaced(&self, slot: &Slot) {
        let reads = slot.copies.reads();
        self.served_before.fetch_add(reads, Ordering::Relaxed);
    }
}

impl Server for Shared {
    fn forget_token(&self) {
        self.requests.forget(|| {
            if let Some(forgotten) = self.slot.swap(None) {
                self.replaced(&forgotten);
            }
        });
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
