//! A token that is always valid: read without a lock, got once for all callers, and got anew before it ends.

use std::{
    convert::Infallible,
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use tokio::{runtime::Handle, time::Instant};

use super::{
    AccessToken, TokenFuture, TokenProvider,
    flight::{Boarding, Destination, FIRST_PAUSE, Flights, Runtime, Takeoff, take_off},
    lifespan::Lifespan,
    slot::Slot,
    source::{JwtSource, MintFuture, Source, jitter},
};
use crate::{
    DeviceFlow, Error, JwtFlow, JwtTokenRequest, PkceFlow, Result, Token, WebFlow,
    clock::{Clock, Tick},
    sign_in::{SignIn, StoredSource, UserFlow},
};

/// Keeps a flow's token fresh for a whole service. Clones are cheap and the same provider.
///
/// - A valid token is read without a lock, an allocation or a wait ([`cached`](TokenProvider::cached)).
/// - When there is none, one request gets it for all who ask, and all get its result, error too. A caller
///   who goes away stops nobody else's.
/// - In the last fifth of its life (the last five minutes of a long one) a token is still served, and one
///   request in the background gets the next. If that fails, the old one serves until its end.
/// - After a failure there is a pause, half a second and growing to 15 (to 60 where the server refused, or while the
///   old token is still served), or what the server asks for, an hour at most; callers without a token get the
///   error at once, with the time of the next try as its [`retry_after`](Error::retry_after).
/// - At rest there is no task, but while a [stored](crate::store) sign-in could not be saved, which is tried on.
/// - A token that the API refused ([`invalidate`](TokenProvider::invalidate)) is replaced, once in 10 seconds at
///   most.
///
/// It needs a tokio runtime.
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
///     .header("Authorization", token.into_authorization());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CachedProvider(Arc<Shared>);

struct Shared {
    slot: ArcSwapOption<Slot>,
    clock: Clock,
    flights: Flights,
    source: Box<dyn Source>,
    options: Options,
    runtime: Runtime,
    counters: Counters,
}

struct Options {
    refresh: RefreshMode,
    deadline: Duration,
    jitter: f64,
}

#[derive(Default)]
struct Counters {
    /// Reads of tokens that were replaced; those of the current one are in its slot.
    served_before: AtomicU64,
    refreshes: AtomicU64,
    coalesced: AtomicU64,
    failures: AtomicU64,
}

/// When a token that will end soon is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RefreshMode {
    /// In the background, while the old one is still served: for services.
    #[default]
    InBackground,
    /// By the caller who finds it so, who waits: for one-shot programs, where a request in the background
    /// would die with `main`, and burn a rotating refresh token.
    InLine,
}

/// How long getting a token may take, with all attempts, unless the caller says otherwise.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// How a [`CachedProvider`] has done so far, for one's own metrics.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProviderStats {
    /// Tokens served without a wait. Reads at the very moment when a token is replaced may be missed.
    pub served_from_cache: u64,
    /// Requests for a token that were begun (each may have taken several attempts).
    pub refreshes: u64,
    /// Callers who waited for a request that another had begun.
    pub coalesced: u64,
    /// Tokens that another owner of the same [stored](crate::store) sign-in had refreshed: no request was sent.
    pub adopted: u64,
    /// Why the sign-in that the current token belongs to is not in its [store](crate::store), if it is not: it is in
    /// memory only, and saving it is tried on. If the process ends before that, the person has to sign in again.
    pub unsaved: Option<Error>,
    /// Requests that ended without a token.
    pub failures: u64,
    /// The last failure, if none has succeeded since.
    pub last_error: Option<Error>,
    /// How long the current token will be served yet; `None` when there is none.
    pub expires_in: Option<Duration>,
}

/// Makes a [`CachedProvider`].
#[must_use]
pub struct CachedProviderBuilder {
    source: Box<dyn Source>,
    first: Option<Token>,
    clock: Clock,
    refresh: RefreshMode,
    deadline: Duration,
    runtime: Option<Handle>,
}

impl CachedProviderBuilder {
    fn new(source: impl Source, clock: Clock) -> Self {
        Self {
            source: Box::new(source),
            first: None,
            clock,
            refresh: RefreshMode::default(),
            deadline: DEFAULT_DEADLINE,
            runtime: None,
        }
    }

    /// When a token that will end soon is replaced; in the background by default.
    pub fn refresh(mut self, refresh: RefreshMode) -> Self {
        self.refresh = refresh;
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

    /// Gets tokens on this runtime, instead of the caller's own: for callers whose runtime may end, or stand
    /// still, while a token is being got.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The provider. Nothing is sent before the first caller asks.
    #[must_use]
    pub fn build(self) -> CachedProvider {
        let shared = Arc::new(Shared {
            slot: ArcSwapOption::empty(),
            clock: self.clock,
            flights: Flights::new(),
            source: self.source,
            options: Options {
                refresh: self.refresh,
                deadline: self.deadline,
                jitter: jitter(),
            },
            runtime: Runtime::new(self.runtime),
            counters: Counters::default(),
        });
        if let Some(first) = self.first {
            // A token that has ended meanwhile is replaced by the first caller.
            let _ = shared.install(&first);
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
        Self::jwt_for(flow, JwtTokenRequest::new())
    }

    /// The application's tokens, by JWT: for less, for longer, or for somebody else.
    pub fn jwt_for(flow: JwtFlow, request: JwtTokenRequest) -> CachedProviderBuilder {
        let clock = flow.client().clock().clone();
        CachedProviderBuilder::new(JwtSource { flow, request }, clock)
    }

    /// The tokens of a person who signed in through a web application. The sign-in is kept in a store, and
    /// shared with whoever else uses that: of all processes and machines, one at a time refreshes it, and the others
    /// use what it got. See [`store`](crate::store).
    ///
    /// A valid token that is stored is used as it is. If nobody is signed in, or the sign-in is over, callers get
    /// [`NotSignedIn`](crate::ErrorKind::NotSignedIn) until [`SignIn::put`] brings a fresh one.
    pub fn web(flow: WebFlow, sign_in: SignIn) -> CachedProviderBuilder {
        Self::stored(UserFlow::Web(flow), sign_in)
    }

    /// As [`web`](Self::web), for a PKCE sign-in.
    pub fn pkce(flow: PkceFlow, sign_in: SignIn) -> CachedProviderBuilder {
        Self::stored(UserFlow::Pkce(flow), sign_in)
    }

    /// As [`web`](Self::web), for a device sign-in.
    pub fn device(flow: DeviceFlow, sign_in: SignIn) -> CachedProviderBuilder {
        Self::stored(UserFlow::Device(flow), sign_in)
    }

    fn stored(flow: UserFlow, sign_in: SignIn) -> CachedProviderBuilder {
        let clock = flow.client().clock().clone();
        CachedProviderBuilder::new(StoredSource::new(Arc::new(flow), sign_in), clock)
    }

    /// The tokens of a person who signed in through a web application, **kept in memory only**: when the
    /// process ends, so does the sign-in, because its refresh token has rotated.
    pub fn web_in_memory(flow: WebFlow, signed_in: Token) -> CachedProviderBuilder {
        Self::in_memory(UserFlow::Web(flow), signed_in)
    }

    /// As [`web_in_memory`](Self::web_in_memory), for a PKCE sign-in.
    pub fn pkce_in_memory(flow: PkceFlow, signed_in: Token) -> CachedProviderBuilder {
        Self::in_memory(UserFlow::Pkce(flow), signed_in)
    }

    /// As [`web_in_memory`](Self::web_in_memory), for a device sign-in.
    pub fn device_in_memory(flow: DeviceFlow, signed_in: Token) -> CachedProviderBuilder {
        Self::in_memory(UserFlow::Device(flow), signed_in)
    }

    fn in_memory(flow: UserFlow, signed_in: Token) -> CachedProviderBuilder {
        let clock = flow.client().clock().clone();
        let source = StoredSource::in_memory(Arc::new(flow), &signed_in);
        let mut builder = CachedProviderBuilder::new(source, clock);
        builder.first = Some(signed_in);
        builder
    }

    /// A token: the cached one, else a fetched one.
    ///
    /// # Errors
    ///
    /// Those of the flow, when there is no valid token and none could be got; its
    /// [`retry_after`](Error::retry_after) says when the next request will be made.
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => self.0.fetch().await,
        }
    }

    /// The cached token, borrowed: the fastest way to look at it. `None` when one has to be fetched.
    ///
    /// Drop it soon, and don't hold it over an `.await`.
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

    /// How it has done so far.
    #[must_use]
    pub fn stats(&self) -> ProviderStats {
        self.0.stats()
    }

    /// Begins no more requests, and waits for the one that is under way and for its save, so that a rotated refresh
    /// token is not lost. A save that failed is tried again for ten seconds. Valid tokens are still served.
    ///
    /// # Errors
    ///
    /// Why a sign-in could not be saved: it is lost when the program ends, unless the store works again before that. Called
    /// once more, this waits for that again. [`unsaved`](ProviderStats::unsaved) tells the same.
    pub async fn shutdown(&self) -> Result<()> {
        self.0.source.close();
        if let Some(flight) = self.0.flights.close() {
            // Its callers get the result; here only its end counts.
            let _ = flight.landed().await;
        }
        self.0.source.settle().await;
        self.0.source.unsaved().map_or(Ok(()), Err)
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
        Box::pin(self.0.fetch())
    }

    fn invalidate(&self, token: &AccessToken) {
        self.0.invalidate(token);
    }
}

impl fmt::Debug for CachedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedProvider")
            .field("refresh", &self.0.options.refresh)
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
            None => unreachable!("a borrowed token is made of a slot"),
        }
    }
}

impl fmt::Debug for BorrowedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BorrowedToken(****)")
    }
}

impl Shared {
    /// Whether this token may be served without a wait; starts its refresh where that is due.
    #[inline]
    fn serves(self: &Arc<Self>, slot: &Slot) -> bool {
        let now = self.clock.tick();
        slot.life.is_fresh(now) || self.serves_though_not_fresh(slot, now)
    }

    #[cold]
    fn serves_though_not_fresh(self: &Arc<Self>, slot: &Slot, now: Tick) -> bool {
        if !slot.life.is_good(now) {
            return false;
        }
        match self.options.refresh {
            RefreshMode::InLine => false,
            RefreshMode::InBackground => {
                if slot.life.claim_refresh(now) {
                    self.refresh_in_background(slot, now);
                }
                true
            }
        }
    }

    fn refresh_in_background(self: &Arc<Self>, slot: &Slot, now: Tick) {
        let Ok(runtime) = self.runtime.handle() else {
            // Nobody can get one here; perhaps the next caller can.
            slot.life.refresh_again(now);
            return;
        };
        match self.flights.board(|| None::<Infallible>) {
            Ok(Boarding::Started(takeoff, _)) => self.take_off(takeoff, &runtime),
            // Its landing brings another token, or gives the duty back.
            Ok(Boarding::Joined(_)) => {}
            Ok(Boarding::Refused(error)) => {
                let pause = error.retry_after().unwrap_or(self.options.deadline);
                slot.life.refresh_again(now + pause);
            }
            Err(never) => match never {},
        }
    }

    async fn fetch(self: &Arc<Self>) -> Result<AccessToken> {
        let good = || {
            let slot = self.slot.load();
            let slot = slot.as_ref()?;
            let now = self.clock.tick();
            let in_line = self.options.refresh == RefreshMode::InLine;
            (slot.life.is_good(now) && (slot.life.is_fresh(now) || !in_line))
                .then(|| slot.copies.token().clone())
        };
        let runtime = self.runtime.handle()?;
        let landed = match self.flights.board(good) {
            Err(token) => return Ok(token),
            Ok(Boarding::Joined(waiting)) => {
                self.counters.coalesced.fetch_add(1, Ordering::Relaxed);
                waiting.landed().await
            }
            Ok(Boarding::Started(takeoff, waiting)) => {
                self.take_off(takeoff, &runtime);
                waiting.landed().await
            }
            Ok(Boarding::Refused(error)) => Err(error),
        };
        // A refresh that failed leaves the old token, as long as that is valid.
        landed.or_else(|error| self.still_good().ok_or(error))
    }

    fn still_good(&self) -> Option<AccessToken> {
        let slot = self.slot.load();
        let slot = slot.as_ref()?;
        slot.life
            .is_good(self.clock.tick())
            .then(|| slot.copies.token().clone())
    }

    fn take_off(self: &Arc<Self>, takeoff: Takeoff, runtime: &Handle) {
        self.counters.refreshes.fetch_add(1, Ordering::Relaxed);
        let patience = self.options.deadline;
        take_off(takeoff, Arc::clone(self), patience, runtime);
    }

    /// Puts a token in place, for everybody to read.
    fn install(&self, token: &Token) -> Result<AccessToken> {
        let life = Lifespan::of(token, self.clock.tick(), self.options.jitter)?;
        let slot = Slot::new(token, life)?;
        let access_token = slot.copies.token().clone();
        if let Some(replaced) = self.slot.swap(Some(Arc::new(slot))) {
            self.counters
                .served_before
                .fetch_add(replaced.copies.reads(), Ordering::Relaxed);
        }
        Ok(access_token)
    }

    fn invalidate(&self, token: &AccessToken) {
        let current = self.slot.load();
        let Some(slot) = current
            .as_ref()
            .filter(|slot| slot.copies.token().is(token))
        else {
            return;
        };
        let give_up = || {
            let previous = self.slot.compare_and_swap(&current, None);
            let was_there = previous
                .as_ref()
                .is_some_and(|previous| Arc::ptr_eq(previous, slot));
            if was_there {
                self.counters
                    .served_before
                    .fetch_add(slot.copies.reads(), Ordering::Relaxed);
                tracing::debug!("the API refused the access token; the next caller gets another");
            }
            was_there
        };
        if self.source.heeds_refusal(token) {
            give_up();
        } else {
            self.flights.invalidate(give_up);
        }
    }

    fn stats(&self) -> ProviderStats {
        let slot = self.slot.load();
        let now = self.clock.tick();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProviderStats {
            served_from_cache: count(&self.counters.served_before)
                + slot.as_ref().map_or(0, |slot| slot.copies.reads()),
            refreshes: count(&self.counters.refreshes),
            coalesced: count(&self.counters.coalesced),
            adopted: self.source.adopted(),
            unsaved: self.source.unsaved(),
            failures: count(&self.counters.failures),
            last_error: self.flights.last_error(),
            expires_in: slot
                .as_ref()
                .filter(|slot| slot.life.is_good(now))
                .map(|slot| slot.life.remaining(now)),
        }
    }
}

impl Destination for Arc<Shared> {
    fn mint(&self, deadline: Instant) -> MintFuture<'_> {
        self.source.mint(self.options.refresh, deadline)
    }

    fn land(&self, takeoff: &Takeoff, minted: Result<Token>) {
        let installed = minted
            .and_then(|token| self.install(&token))
            .map_err(|error| error.in_flow(self.source.flow()));
        if installed.is_err() {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        if installed.is_ok() {
            self.flights.land(takeoff, installed, None);
            return;
        }
        // The old token, if there is one, is served on; its refresh waits as everybody does.
        let now = self.clock.tick();
        let slot = self.slot.load();
        let still_served = slot.as_ref().filter(|slot| slot.life.is_good(now));
        let left = still_served.map(|slot| slot.life.remaining(now));
        let pause = self.flights.land(takeoff, installed, left);
        if let Some(slot) = still_served {
            slot.life.refresh_again(now + pause.unwrap_or(FIRST_PAUSE));
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
