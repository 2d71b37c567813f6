//! A person's sign-in, whose refresh token rotates and has one owner at a time.
//!
//! Coze's refresh token works once. So whoever wants to refresh takes the store's lease, loads again, and uses what
//! another owner has refreshed meanwhile; else lets the store prove that it can save, refreshes, saves, and
//! releases. The lease only prevents duplicate refreshes: a save is a compare-and-set, and does not need it.
//!
//! How old a stored token is, the store's clock tells; this process's own is not asked.

mod budget;
mod refresh;
mod save;
mod user_flow;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

pub(super) use self::user_flow::UserFlow;
use self::{budget::Budget, save::Unsaved};
use super::{
    AccessToken, RefreshMode,
    circuit_breaker::CircuitBreaker,
    retry::BETWEEN_INVALIDATIONS,
    source::{Source, SourceFuture},
};
use crate::{
    Error, ErrorCode, ErrorKind, Flow, RefreshToken, Result, Token,
    error::presentable,
    store::{Profile, Record, SignIn},
};

/// The tokens of a stored sign-in.
pub(super) struct StoredSource(Arc<Owner>);

/// One of those who may own the sign-in for the time of a refresh.
struct Owner {
    flow: Arc<UserFlow>,
    sign_in: SignIn,
    breaker: Arc<CircuitBreaker>,
    /// No refresh is begun any more.
    closing: AtomicBool,
    state: Mutex<State>,
    /// Saves don't overlap, so that a late one does not find its record replaced by the next.
    saving: tokio::sync::Mutex<()>,
    reused: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The token that the cache was given last.
    given: Option<AccessToken>,
    /// The token that the API refused last, and when it would have ended.
    refused: Option<(AccessToken, Instant)>,
    /// When a token was last refreshed because the API refused the one before.
    refreshed_for_refusal: Option<Instant>,
    unsaved: Option<Unsaved>,
    doubted: Option<Doubted>,
    /// The refresh token that was loaded last, and how often the sign-in had been put then.
    loaded: Option<RefreshToken>,
    puts: u64,
    /// An answer of ours was set aside, because its sign-in had been removed meanwhile.
    was_removed: bool,
}

/// A refresh token that Coze refused, though another owner may have redeemed it, and save yet.
struct Doubted {
    refresh_token: RefreshToken,
    refusal: Error,
    believed_from: Instant,
}

impl StoredSource {
    pub(super) fn new(flow: Arc<UserFlow>, sign_in: SignIn, breaker: Arc<CircuitBreaker>) -> Self {
        Self::of(flow, sign_in, breaker, State::default())
    }

    /// The same, kept in memory. A token without a refresh token is served to its end.
    pub(super) fn in_memory(
        flow: Arc<UserFlow>,
        signed_in: &Token,
        breaker: Arc<CircuitBreaker>,
    ) -> Self {
        let state = State {
            given: AccessToken::of(signed_in.access_token()).ok(),
            ..State::default()
        };
        let sign_in = SignIn::in_memory(Record::of(signed_in).ok());
        Self::of(flow, sign_in, breaker, state)
    }

    fn of(
        flow: Arc<UserFlow>,
        sign_in: SignIn,
        breaker: Arc<CircuitBreaker>,
        state: State,
    ) -> Self {
        Self(Arc::new(Owner {
            flow,
            sign_in,
            breaker,
            closing: AtomicBool::new(false),
            state: Mutex::new(state),
            saving: tokio::sync::Mutex::default(),
            reused: AtomicU64::new(0),
        }))
    }
}

impl Source for StoredSource {
    fn flow(&self) -> Option<Flow> {
        Some(self.0.flow.kind())
    }

    fn mint(&self, mode: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        let budget = Budget::until(deadline, self.0.flow.client().request_timeout());
        Box::pin(async move { self.0.get(mode, &budget).await })
    }

    fn serves(&self, current: &AccessToken) {
        self.0.state().given = Some(current.clone());
    }

    fn look(&self) -> SourceFuture<'_, bool> {
        Box::pin(self.0.has_fresh_sign_in())
    }

    fn news(&self) -> Option<bool> {
        let known = self.0.state().puts;
        Some(self.0.sign_in.puts() != known)
    }

    fn heeds_refusal(&self, refused: &AccessToken, valid_until: Instant) -> bool {
        self.0.state().refused = Some((refused.clone(), valid_until));
        true
    }

    fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }

    fn settle(&self) -> SourceFuture<'_, ()> {
        Box::pin(self.0.settle())
    }

    fn is_idle(&self) -> bool {
        let now = Instant::now();
        let state = self.0.state();
        state.unsaved.is_none()
            && state.doubted.is_none()
            && !state.has_just_refreshed_for_refusal()
            && state
                .refused
                .as_ref()
                .is_none_or(|(_, until)| *until <= now)
    }

    fn reused(&self) -> u64 {
        self.0.reused.load(Ordering::Relaxed)
    }

    fn unsaved(&self) -> Option<Error> {
        let state = self.0.state();
        state.unsaved.as_ref().map(Unsaved::why)
    }
}

impl Owner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self) -> &Profile {
        self.sign_in.profile()
    }

    fn busy(&self, by: Option<String>) -> Error {
        Error::new(
            ErrorKind::StoreBusy,
            format!(
                "{} has been refreshing the sign-in of profile {} for too long",
                by.as_deref().unwrap_or("another owner"),
                self.profile()
            ),
        )
    }

    fn nobody(&self) -> Error {
        let profile = self.profile();
        let what = if self.state().was_removed {
            format!(
                "the sign-in of profile {profile} was removed while it was refreshed; \
                 the tokens that came for it are set aside in the store"
            )
        } else {
            format!("nobody is signed in under profile {profile}")
        };
        Error::new(ErrorKind::NotSignedIn, what)
    }

    /// Another app's refresh token would be refused, and its sign-in marked as over though it lives.
    fn expect_of_this_app(&self, record: &Record) -> Result<()> {
        let ours = self.flow.client_id();
        match record.client_id() {
            Some(theirs) if theirs != ours => Err(Error::invalid_input(format!(
                "profile {} holds the sign-in of another app: its client id is {}, not {ours}; name another profile, \
                 or remove that sign-in first",
                self.profile(),
                presentable(theirs, &[])
            ))),
            _ => Ok(()),
        }
    }

    fn over(&self, record: &Record) -> Error {
        let dead = record.dead();
        Error::new(
            ErrorKind::NotSignedIn,
            format!("the sign-in of profile {} is over", self.profile()),
        )
        .with_code(ErrorCode::InvalidGrant)
        .with_log_id(dead.and_then(|dead| dead.log_id.clone()))
    }

    /// Coze has refused the refresh token, but that is not believed yet.
    fn in_doubt(&self, refusal: &Error, left: Duration) -> Error {
        Error::new(
            ErrorKind::StoreBusy,
            format!(
                "Coze refused the refresh token of profile {}; another owner may have redeemed it, and save yet",
                self.profile()
            ),
        )
        .with_log_id(refusal.log_id().map(str::to_owned))
        .with_retry_after(Some(left))
    }
}

impl State {
    fn is_refused(&self, record: &Record) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|(token, _)| is(token, record))
    }

    fn is_given(&self, record: &Record) -> bool {
        let given = self.given.as_ref();
        given.is_some_and(|token| is(token, record))
    }

    fn has_just_refreshed_for_refusal(&self) -> bool {
        self.refreshed_for_refusal
            .is_some_and(|last| last.elapsed() < BETWEEN_INVALIDATIONS)
    }
}

fn is(token: &AccessToken, record: &Record) -> bool {
    record.access_token().ct_eq(token.expose())
}

fn shut_down() -> Error {
    Error::new(ErrorKind::ShutDown, "the provider was shut down")
}
