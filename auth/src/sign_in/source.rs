//! A stored sign-in as a source of tokens: what one provider knows of it.
//!
//! How old a stored token is, the store's clock tells; this process's own is not asked.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use coze_wire::sanitize;
use tokio::time::{Instant, timeout};

use super::{
    Record, SignIn,
    record::hash,
    refresh::{Budget, LAST_LOOK},
    save::Successor,
    store_error,
};
use crate::{
    AccessToken, Error, ErrorKind, RefreshToken, Result, StoreErrorKind, Token, clock::Clock,
    flow::app::App, lifespan::RefreshMode, retry::BETWEEN_INVALIDATIONS,
    retry::circuit_breaker::CircuitBreaker, runtime::lock,
};

/// The tokens of a stored sign-in.
pub struct StoredSource(Arc<Refresher>);

/// One of those who may refresh the sign-in.
pub(super) struct Refresher {
    pub(super) app: Arc<App>,
    pub(super) sign_in: SignIn,
    pub(super) breaker: Arc<CircuitBreaker>,
    /// No refresh is begun any more.
    pub(super) is_closing: AtomicBool,
    state: Mutex<State>,
    pub(super) loaded: AtomicU64,
}

/// Tells access tokens apart without keeping them.
pub(super) type Print = Box<str>;

#[derive(Default)]
pub(super) struct State {
    /// The token that the provider was given last.
    pub(super) given: Option<Print>,
    /// The token that the API refused last, and when it would have ended.
    pub(super) refused: Option<(Print, Instant)>,
    /// When a token was last refreshed because the API refused the one before.
    pub(super) refreshed_for_refusal: Option<Instant>,
    /// The successor that was saved last: a failover may lose it.
    pub(super) saved: Option<Box<SavedLast>>,
    /// Refresh tokens that got `invalid_grant`, the last one last.
    pub(super) refused_grants: VecDeque<RefusedGrant>,
    /// Our own owners whose runs ended without a successor: what intents they left behind hold nobody up.
    pub(super) over: VecDeque<String>,
    /// Owners whose intents hold the lock, and until when at most, by this process's clock.
    pub(super) holders: HashMap<String, Instant>,
    /// The refresh token that was loaded last, and how often this process had put the sign-in then.
    pub(super) loaded: Option<Print>,
    pub(super) puts: u64,
    /// A successor of ours came after the user had signed out.
    pub(super) was_signed_out: bool,
}

pub(super) struct SavedLast {
    pub(super) sign_in: String,
    pub(super) generation: u64,
    pub(super) refresh_token: RefreshToken,
}

/// A refresh token that Coze rejected, though another owner may have redeemed it, and still save. It is never sent again.
#[derive(Clone)]
pub(super) struct RefusedGrant {
    pub(super) refresh_token: String,
    pub(super) refusal: Error,
    /// Until then other owners have time to save.
    pub(super) grace_until: Instant,
    /// The owners whose intents stood in the record when it was loaded after that; not known before.
    pub(super) waits_for: Option<Vec<String>>,
}

/// So many refused grants, and ended runs, are remembered.
const MOST_REMEMBERED: usize = 8;

/// Remembers one more, and forgets the oldest of too many.
pub(super) fn remember<T>(known: &mut VecDeque<T>, new: T) {
    if known.len() == MOST_REMEMBERED {
        known.pop_front();
    }
    known.push_back(new);
}

impl StoredSource {
    pub(crate) fn new(app: Arc<App>, sign_in: SignIn, breaker: Arc<CircuitBreaker>) -> Self {
        Self(Arc::new(Refresher {
            app,
            sign_in,
            breaker,
            is_closing: AtomicBool::new(false),
            state: Mutex::default(),
            loaded: AtomicU64::new(0),
        }))
    }

    pub(crate) fn app(&self) -> &App {
        &self.0.app
    }

    /// Gets a token before the deadline, from the store or from Coze.
    pub(crate) async fn mint(&self, mode: RefreshMode, deadline: Instant) -> Result<Token> {
        let budget = Budget::until(deadline, self.0.app.client().request_timeout());
        self.0.get(mode, &budget).await
    }

    /// Whether another sign-in is stored than the last `mint` knew, so that a backoff after that is over. It loads, and
    /// sends nothing.
    pub(crate) async fn has_fresh_sign_in(&self) -> bool {
        self.0.has_fresh_sign_in().await
    }

    /// Whether this process has put a fresh sign-in there since the last load.
    pub(crate) fn has_news(&self) -> bool {
        let known = self.0.state().puts;
        self.0.sign_in.puts() != known
    }

    /// Hears, when it is made, which token is served: a stored one that is the same is due for its refresh.
    pub(crate) fn serves(&self, current: &AccessToken) {
        self.0.state().given = Some(print(current.expose()));
    }

    /// Hears that the API refused a token, which would have been valid until then. It limits how often it gets another for
    /// that.
    pub(crate) fn heed_refusal(&self, refused: &AccessToken, valid_until: Instant) {
        self.0.state().refused = Some((print(refused.expose()), valid_until));
    }

    pub(crate) fn sign_in(&self) -> &SignIn {
        &self.0.sign_in
    }

    /// Begins no more refreshes.
    pub(crate) fn close(&self) {
        self.0.is_closing.store(true, Ordering::Relaxed);
    }

    /// How many of the tokens it got were loaded from the store: no request was sent for them.
    pub(crate) fn loaded(&self) -> u64 {
        self.0.loaded.load(Ordering::Relaxed)
    }

    /// Whether nothing is lost when it is dropped, and made again by the next caller.
    pub(crate) fn is_idle(&self) -> bool {
        let now = Instant::now();
        let state = self.0.state();
        let is_refused = state.refused.as_ref();
        self.0.sign_in.unsaved_successor().is_none()
            && state
                .refused_grants
                .iter()
                .all(|refused| refused.grace_until <= now)
            && !state.has_just_refreshed_for_refusal()
            && is_refused.is_none_or(|(_, until)| *until <= now)
    }
}

impl Refresher {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn clock(&self) -> &Clock {
        self.app.client().clock()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    /// Another app's refresh token would be rejected, and its sign-in marked as ended though it lives.
    pub(super) fn expect_of_this_app(&self, record: &Record) -> Result<()> {
        let ours = self.app.client_id();
        match record.client_id() {
            Some(theirs) if theirs != ours => Err(Error::invalid_input(format!(
                "profile {} holds the sign-in of another app: its client id is {}, not {ours}; name another profile, \
                 or sign out of that one first",
                self.sign_in.profile(),
                sanitize(theirs, &[])
            ))),
            _ => Ok(()),
        }
    }

    /// Whether another sign-in that lives is stored than the one that was loaded last.
    async fn has_fresh_sign_in(&self) -> bool {
        let puts = self.sign_in.puts();
        let loaded = timeout(LAST_LOOK, self.sign_in.load()).await;
        let mut state = self.state();
        state.puts = puts;
        let Ok(Ok(Some(record))) = loaded else {
            return false;
        };
        !record.has_ended() && state.loaded != Some(print(record.refresh_token().expose()))
    }

    /// A failover rolled back a save that was acknowledged: saves it again, without its access token. True if it did.
    pub(super) async fn restore(&self, stored: &Record, until: Instant) -> Result<bool> {
        let lost = {
            let state = self.state();
            let saved = state.saved.as_ref().filter(|saved| {
                saved.sign_in == stored.sign_in && saved.generation > stored.generation
            });
            saved.map(|saved| {
                Successor::restored(
                    stored.clone(),
                    saved.refresh_token.clone(),
                    saved.generation,
                )
            })
        };
        let Some(lost) = lost else {
            return Ok(false);
        };
        tracing::warn!(
            profile = %self.sign_in.profile(),
            "the store holds an earlier refresh token than was saved: the later one is saved again"
        );
        let saved = self.sign_in.save(&lost, None, until).await;
        saved.map(|_| true).map_err(store_error)
    }

    pub(super) fn busy(&self, by: Option<String>) -> Error {
        let by = by.map(|by| sanitize(&by, &[]));
        Error::new(
            ErrorKind::Store(StoreErrorKind::Busy),
            format!(
                "{} has been refreshing the sign-in of profile {} for too long",
                by.as_deref().unwrap_or("another owner"),
                self.sign_in.profile()
            ),
        )
    }

    pub(super) fn nobody(&self) -> Error {
        let profile = self.sign_in.profile();
        let what = if self.state().was_signed_out {
            format!("profile {profile} was signed out while its sign-in was refreshed")
        } else {
            format!("nobody is signed in under profile {profile}")
        };
        Error::new(ErrorKind::NotSignedIn, what)
    }

    pub(super) fn over(&self, record: &Record) -> Error {
        let profile = self.sign_in.profile();
        record.end(format!("the sign-in of profile {profile} has ended"))
    }

    /// Coze has rejected the refresh token, but that is not believed yet.
    pub(super) fn in_doubt(&self, refusal: &Error, left: Duration) -> Error {
        Error::new(
            ErrorKind::Store(StoreErrorKind::Busy),
            format!(
                "Coze rejected the refresh token of profile {}; another owner may have redeemed it, and still save its successor",
                self.sign_in.profile()
            ),
        )
        .with_log_id(refusal.log_id().map(str::to_owned))
        .with_retry_after(Some(left))
    }
}

impl State {
    pub(super) fn is_refused(&self, record: &Record) -> bool {
        is(self.refused.as_ref().map(|(token, _)| token), record)
    }

    pub(super) fn is_given(&self, record: &Record) -> bool {
        is(self.given.as_ref(), record)
    }

    pub(super) fn has_just_refreshed_for_refusal(&self) -> bool {
        self.refreshed_for_refusal
            .is_some_and(|last| last.elapsed() < BETWEEN_INVALIDATIONS)
    }
}

fn is(known: Option<&Print>, record: &Record) -> bool {
    let token = record.access_token().map(|token| print(token.expose()));
    token.is_some_and(|token| known == Some(&token))
}

pub(super) fn print(secret: &str) -> Print {
    hash(secret.as_bytes()).into()
}

pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::ShutDown, "the provider was shut down")
}

/// A moment on both clocks: the monotonic one stands still while the machine is suspended.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    monotonic: std::time::Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now(clock: &Clock) -> Self {
        Self {
            monotonic: clock.monotonic(),
            wall: clock.wall(),
        }
    }

    /// How long ago it was, by the clock that says more.
    pub(super) fn elapsed(self, clock: &Clock) -> Duration {
        let monotonic = clock.monotonic().saturating_duration_since(self.monotonic);
        let wall = clock.wall().duration_since(self.wall);
        monotonic.max(wall.unwrap_or_default())
    }
}
