//! The `Source` of a provider whose sign-in is stored, and what this process remembers about that sign-in.
//!
//! The age of a stored token is measured by the store's clock, never by a local clock.

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
    refresh::{Budget, FINAL_LOAD},
    save::Successor,
};
use crate::{
    AccessToken, Error, ErrorKind, RefreshToken, Result, StoreErrorKind, Token, clock::Clock,
    flow::app::App, refresh_window::RefreshMode, retry::BETWEEN_INVALIDATIONS,
    retry::circuit_breaker::CircuitBreaker, runtime::lock,
};

/// The stored sign-in of a provider.
pub struct StoredSource(Arc<Refresher>);

/// Refreshes the sign-in for one provider; other providers and processes may share the sign-in.
pub(super) struct Refresher {
    pub(super) app: Arc<App>,
    pub(super) sign_in: SignIn,
    pub(super) breaker: Arc<CircuitBreaker>,
    /// No further refresh is started.
    pub(super) is_closing: AtomicBool,
    state: Mutex<State>,
    pub(super) loaded: AtomicU64,
}

/// The hash of an access token: compares tokens without keeping them.
pub(super) type Print = Box<str>;

#[derive(Default)]
pub(super) struct State {
    /// The token that the provider serves.
    pub(super) given: Option<Print>,
    /// The token that the API refused most recently, and when it would have expired.
    pub(super) refused: Option<(Print, Instant)>,
    /// When the last refresh because of a refusal by the API took place.
    pub(super) refreshed_for_refusal: Option<Instant>,
    /// The successor saved most recently, in case a failover of the store loses it.
    pub(super) saved: Option<Box<SavedLast>>,
    /// Refresh tokens that were refused with `invalid_grant`, oldest first.
    pub(super) refused_grants: VecDeque<RefusedGrant>,
    /// Owner ids of this process's runs that ended without a successor: nobody has to wait for their intents.
    pub(super) ended_runs: VecDeque<String>,
    /// Owners whose intents count as held locks, and the end of the wait for each, by this process's clock.
    pub(super) holders: HashMap<String, Instant>,
    /// The refresh token loaded most recently, and the number of `put` calls of this process at that time.
    pub(super) loaded: Option<Print>,
    pub(super) puts: u64,
    /// The last successor arrived after the user had signed out.
    pub(super) was_signed_out: bool,
}

pub(super) struct SavedLast {
    pub(super) sign_in: String,
    pub(super) generation: u64,
    pub(super) refresh_token: RefreshToken,
}

/// A refresh token that was refused with `invalid_grant`. It is never sent again. Another owner may have redeemed it
/// and may still save the successor.
#[derive(Clone)]
pub(super) struct RefusedGrant {
    pub(super) refresh_token: String,
    pub(super) refusal: Error,
    /// Other owners have until then to save.
    pub(super) grace_until: Instant,
    /// The owners with an intent at the first load after the refusal. `None` before that load.
    pub(super) waits_for: Option<Vec<String>>,
}

/// The maximum number of remembered refusals, and of remembered runs.
const MOST_REMEMBERED: usize = 8;

/// Appends an item, and removes the oldest one at the maximum.
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

    /// Returns a token before the deadline, from the store or from Coze.
    pub(crate) async fn mint(&self, mode: RefreshMode, deadline: Instant) -> Result<Token> {
        let budget = Budget::until(deadline, self.0.app.client().request_timeout());
        self.0.get(mode, &budget).await
    }

    /// Whether the store holds another sign-in than at the last `mint`, which ends the backoff. Only loads; no request
    /// is sent.
    pub(crate) async fn has_fresh_sign_in(&self) -> bool {
        self.0.has_fresh_sign_in().await
    }

    /// Whether this process has put a fresh sign-in since the last load.
    pub(crate) fn has_news(&self) -> bool {
        let known = self.0.state().puts;
        self.0.sign_in.puts() != known
    }

    /// Tells the source which token the provider serves, at its creation: if that token is stored, it is due for a
    /// refresh.
    pub(crate) fn serves(&self, current: &AccessToken) {
        self.0.state().given = Some(print(current.expose()));
    }

    /// Tells the source that the provider serves no token: a stored one is served if it is valid.
    pub(crate) fn serves_none(&self) {
        self.0.state().given = None;
    }

    /// Records that the API refused a token, and when that would have expired. Refreshes because of refusals are
    /// rate-limited.
    pub(crate) fn note_refused_token(&self, refused: &AccessToken, valid_until: Instant) {
        self.0.state().refused = Some((print(refused.expose()), valid_until));
    }

    pub(crate) fn sign_in(&self) -> &SignIn {
        &self.0.sign_in
    }

    /// Stops new refreshes.
    pub(crate) fn close(&self) {
        self.0.is_closing.store(true, Ordering::Relaxed);
    }

    /// The number of tokens that were loaded from the store, without a request.
    pub(crate) fn loaded(&self) -> u64 {
        self.0.loaded.load(Ordering::Relaxed)
    }

    /// Whether no state is lost if the source is dropped and recreated for the next caller.
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

    /// Fails if the record belongs to another app, or to an app at another endpoint: the refresh token would be sent to
    /// a server that it is not for, and the refusal would mark a live sign-in as ended.
    pub(super) fn expect_of_this_app(&self, record: &Record) -> Result<()> {
        let endpoint = self.app.client().endpoint();
        for (whose, what, theirs, ours) in [
            (
                "of another app",
                "client id",
                record.client_id(),
                self.app.client_id(),
            ),
            (
                "at another endpoint",
                "API base",
                record.api_base(),
                endpoint.api_base(),
            ),
        ] {
            if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
                return Err(Error::invalid_input(format!(
                    "profile {} holds the sign-in {whose}: its {what} is {}, not {ours}; use another profile, or sign \
                     out of that one first",
                    self.sign_in.profile(),
                    sanitize(theirs, &[])
                )));
            }
        }
        Ok(())
    }

    /// Whether the store holds a live sign-in other than the one loaded last.
    async fn has_fresh_sign_in(&self) -> bool {
        let puts = self.sign_in.puts();
        let loaded = timeout(FINAL_LOAD, self.sign_in.load()).await;
        let mut state = self.state();
        state.puts = puts;
        let Ok(Ok(Some(record))) = loaded else {
            return false;
        };
        !record.has_ended() && state.loaded != Some(print(record.refresh_token().expose()))
    }

    /// Saves the successor again if a failover of the store has rolled back an acknowledged save. The access token is
    /// no longer known. Returns whether it did so.
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
            "the store holds an older refresh token than the one that was saved; saving the newer one again"
        );
        let saved = self.sign_in.save(&lost, None, until).await;
        saved.map(|_| true).map_err(Error::from)
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

    pub(super) fn not_signed_in(&self) -> Error {
        let profile = self.sign_in.profile();
        let what = if self.state().was_signed_out {
            format!("profile {profile} was signed out during a refresh")
        } else {
            format!("nobody is signed in under profile {profile}")
        };
        Error::new(ErrorKind::NotSignedIn, what)
    }

    pub(super) fn sign_in_ended(&self, record: &Record) -> Error {
        let profile = self.sign_in.profile();
        record.end(format!("the sign-in of profile {profile} has ended"))
    }

    /// Coze has refused the refresh token, but the refusal is not confirmed.
    pub(super) fn unconfirmed_refusal(&self, refusal: &Error, left: Duration) -> Error {
        Error::new(
            ErrorKind::Store(StoreErrorKind::Busy),
            format!(
                "Coze refused the refresh token of profile {}; another owner may have redeemed it and may still save the successor",
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

/// A moment on both clocks, because the monotonic clock may stop while the machine is suspended.
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

    /// The elapsed time: the larger of the two clocks' values.
    pub(super) fn elapsed(self, clock: &Clock) -> Duration {
        let monotonic = clock.monotonic().saturating_duration_since(self.monotonic);
        let wall = clock.wall().duration_since(self.wall);
        monotonic.max(wall.unwrap_or_default())
    }
}
