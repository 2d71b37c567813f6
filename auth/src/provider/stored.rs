//! A person's sign-in, whose refresh token rotates and has one owner at a time.
//!
//! Coze's refresh token works once. So whoever wants to refresh takes the store's lease, loads again, and uses what
//! another owner has refreshed meanwhile; else lets the store prove that it can save, refreshes, saves, and
//! releases. The lease only prevents duplicate refreshes: a save is a compare-and-set, and does not need it.
//!
//! The process's own clock decides nothing here: how old a stored token is, the store's clock tells.

use std::{
    future::Future,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    AccessToken, RefreshMode,
    flight::BETWEEN_INVALIDATIONS,
    lifespan::refresh_window,
    source::{AtDeadline, MintFuture, SettleFuture, Source, random_fraction, retrying},
};
use crate::{
    DeviceFlow, Error, ErrorCode, ErrorKind, Flow, OAuthClient, PkceFlow, RefreshToken, Result,
    Token, WebFlow,
    store::{Lease, LeaseKind, Leasing, Profile, Record, Saved, SignIn, Stored},
};

/// A flow whose tokens a person granted.
pub(super) enum UserFlow {
    Web(WebFlow),
    Pkce(PkceFlow),
    Device(DeviceFlow),
}

impl UserFlow {
    fn kind(&self) -> Flow {
        match self {
            Self::Web(_) => Flow::Web,
            Self::Pkce(_) => Flow::Pkce,
            Self::Device(_) => Flow::Device,
        }
    }

    pub(super) fn client(&self) -> &OAuthClient {
        match self {
            Self::Web(flow) => flow.client(),
            Self::Pkce(flow) => flow.client(),
            Self::Device(flow) => flow.client(),
        }
    }

    async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        match self {
            Self::Web(flow) => flow.refresh(refresh_token).await,
            Self::Pkce(flow) => flow.refresh(refresh_token).await,
            Self::Device(flow) => flow.refresh(refresh_token).await,
        }
    }
}

/// The tokens of a stored sign-in.
pub(super) struct StoredSource {
    flow: UserFlow,
    sign_in: SignIn,
    /// Nobody else can reach the store.
    alone: bool,
    state: Mutex<State>,
    adopted: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The token that the cache was given last.
    given: Option<AccessToken>,
    /// The token that the API refused last.
    refused: Option<AccessToken>,
    /// When a token was last refreshed because the API refused the one before.
    refreshed_for_refusal: Option<Instant>,
    unsaved: Option<Unsaved>,
    doubted: Option<Doubted>,
}

/// An answer that the store did not take, though it had proved that it could.
#[derive(Clone)]
struct Unsaved {
    redeemed: Record,
    token: Token,
}

/// A refresh token that Coze refused, though another owner may have redeemed it, and save yet.
struct Doubted {
    refresh_token: RefreshToken,
    refusal: Error,
    believed_from: Instant,
}

/// What a look into the store says.
enum Look {
    /// This token is to be used.
    Use(Token),
    /// It is time to refresh; what is stored may be used as long as that fails.
    Refresh(Due),
}

/// A stored sign-in that is to be refreshed.
struct Due {
    record: Record,
    /// When its access token ends.
    ends: Instant,
}

const LAST_LOOK: Duration = Duration::from_secs(2);
/// Between two looks into the store while another owner has the lease: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(25);
const LONGEST_LOOK: Duration = Duration::from_millis(400);

/// A save that fails is tried for this long at most before the token is handed out unsaved.
const LONGEST_SAVE: Duration = Duration::from_secs(10);
const FIRST_SAVE_WAIT: Duration = Duration::from_millis(50);
/// After that long a save that failed is tried again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl StoredSource {
    pub(super) fn new(flow: UserFlow, sign_in: SignIn) -> Self {
        Self {
            flow,
            sign_in,
            alone: false,
            state: Mutex::default(),
            adopted: AtomicU64::new(0),
        }
    }

    /// The same, kept in memory. A token without a refresh token is served to its end.
    pub(super) fn in_memory(flow: UserFlow, signed_in: &Token) -> Self {
        let source = Self::new(flow, SignIn::in_memory(Record::of(signed_in).ok()));
        source.state().given = AccessToken::of(signed_in.access_token()).ok();
        Self {
            alone: true,
            ..source
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self) -> &Profile {
        self.sign_in.profile()
    }

    async fn get(&self, mode: RefreshMode, deadline: Instant) -> Result<Token> {
        let budget = Budget::until(deadline, self.flow.client().request_timeout());
        if let Some(token) = self.save_unsaved(&budget).await? {
            return Ok(token);
        }
        let mut pause = FIRST_LOOK;
        loop {
            let due = match self.look(mode, &budget).await? {
                Look::Use(token) => return Ok(token),
                Look::Refresh(due) => due,
            };
            let leasing = self.lease(&budget).await;
            let refused = match leasing {
                Ok(Leasing::Got(lease)) => {
                    let refreshed = self.refresh_under(&*lease, mode, &budget).await;
                    self.release(lease).await;
                    match refreshed {
                        Ok(Some(token)) => return Ok(token),
                        Ok(None) => continue,
                        Err(error) => error,
                    }
                }
                Ok(Leasing::Held { by }) if budget.is_spent() => self.busy(by),
                Ok(Leasing::Held { .. }) => {
                    sleep(budget.at_most(pause.mul_f64(0.5 + random_fraction()))).await;
                    pause = (pause * 2).min(LONGEST_LOOK);
                    continue;
                }
                Err(error) => error,
            };
            return self.still_usable(&due).ok_or(refused);
        }
    }

    /// Under the lease: looks again, then refreshes. `None` when it is better to look anew.
    async fn refresh_under(
        &self,
        lease: &dyn Lease,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Option<Token>> {
        let due = match self.look(mode, budget).await? {
            Look::Use(token) => return Ok(Some(token)),
            Look::Refresh(due) => due,
        };
        let redeemed = &due.record;
        if let Some((refusal, believed_from)) = self.doubt(redeemed) {
            return self
                .believe(redeemed, refusal, believed_from, mode, budget)
                .await;
        }
        match budget.bound(lease.prove_save(redeemed)).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StoreBusy && !budget.is_spent() => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if budget.is_spent() {
            return Err(no_answer());
        }
        // The same refresh token again: if the first attempt went through, it is spent either way.
        let refreshed = retrying(budget.deadline, AtDeadline::Await, || {
            self.flow.refresh(redeemed.refresh_token())
        })
        .await;
        match refreshed {
            Ok(token) => self.keep(redeemed, token, budget).await,
            Err(error) if error.code() == Some(&ErrorCode::InvalidGrant) => {
                let believed_from = Instant::now() + self.grace(budget);
                self.state().doubted = Some(Doubted {
                    refresh_token: redeemed.refresh_token().clone(),
                    refusal: error.clone(),
                    believed_from,
                });
                self.believe(redeemed, error, believed_from, mode, budget)
                    .await
            }
            Err(error) => Err(error),
        }
    }

    /// Loads what is stored, and says what to do with it.
    async fn look(&self, mode: RefreshMode, budget: &Budget) -> Result<Look> {
        let loaded = budget.bound(self.sign_in.load()).await?;
        let stored = loaded.ok_or_else(|| self.nobody())?;
        let record = &stored.record;
        if record.dead().is_some() {
            return Err(self.over(record));
        }
        let life = life_of(&stored);
        let state = self.state();
        let is = |token: &Option<AccessToken>| {
            let token = token.as_ref();
            token.is_some_and(|token| record.access_token().ct_eq(token.expose()))
        };
        let served_on = if is(&state.refused) {
            // An API that refuses every token must not cause a refresh for each call.
            state.has_just_refreshed_for_refusal()
        } else if is(&state.given) {
            false
        } else {
            mode == RefreshMode::InBackground || life > refresh_window(record.life_when_stored())
        };
        drop(state);
        if served_on && !life.is_zero() {
            return self.take_over(record, life).map(Look::Use);
        }
        Ok(Look::Refresh(Due {
            ends: Instant::now() + life,
            record: stored.record,
        }))
    }

    /// Uses a token that is stored.
    fn take_over(&self, record: &Record, life: Duration) -> Result<Token> {
        let token = Token::stored(record, life, self.flow.client().clock())?;
        let access_token = AccessToken::of(token.access_token())?;
        let mut state = self.state();
        if !state
            .given
            .as_ref()
            .is_some_and(|given| given.is(&access_token))
        {
            self.adopted.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(profile = %self.profile(), ?life, "using the token that is stored");
        }
        state.given = Some(access_token);
        Ok(token)
    }

    /// What is stored, when it could not be refreshed, as long as it is good. A token that the cache has is served by
    /// it anyway, and the failure is to be told.
    fn still_usable(&self, due: &Due) -> Option<Token> {
        let life = due.ends.saturating_duration_since(Instant::now());
        let is = |token: &Option<AccessToken>| {
            let token = token.as_ref();
            token.is_some_and(|token| due.record.access_token().ct_eq(token.expose()))
        };
        let state = self.state();
        let usable = !life.is_zero() && !is(&state.refused) && !is(&state.given);
        drop(state);
        usable
            .then(|| self.take_over(&due.record, life).ok())
            .flatten()
    }

    /// Saves what the refresh token was redeemed for: the only live sign-in there is now. `None` when what is stored
    /// has moved on meanwhile.
    async fn keep(
        &self,
        redeemed: &Record,
        token: Token,
        budget: &Budget,
    ) -> Result<Option<Token>> {
        let until = Instant::now() + budget.save;
        let mut wait = FIRST_SAVE_WAIT;
        loop {
            match self.save(redeemed, &token, until).await {
                Ok(Kept::Stored) => break,
                Ok(Kept::MovedOn) => return Ok(None),
                Err(_) if Instant::now() + wait < until => {
                    sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => {
                    tracing::error!(
                        profile = %self.profile(), kind = ?error.kind(), what = error.what(),
                        "the refreshed sign-in could not be saved: it is kept in memory, and saved as soon as possible"
                    );
                    self.state().unsaved = Some(Unsaved {
                        redeemed: redeemed.clone(),
                        token: token.clone(),
                    });
                    break;
                }
            }
        }
        self.give(redeemed, token).map(Some)
    }

    /// One try to save. The record is made anew for each, because the token's life runs on.
    async fn save(&self, redeemed: &Record, token: &Token, until: Instant) -> Result<Kept> {
        let successor = redeemed.successor(token);
        let store = self.sign_in.store();
        let saving = store.save(self.profile(), redeemed.refresh_token(), &successor);
        let saved = timeout_at(until, saving).await;
        match saved.unwrap_or_else(|_| Err(no_answer()))? {
            Saved::Saved => Ok(Kept::Stored),
            Saved::MovedOn(_) => {
                tracing::warn!(
                    profile = %self.profile(),
                    "the sign-in moved on while it was refreshed: the answer was set aside, and what is stored is used"
                );
                Ok(Kept::MovedOn)
            }
        }
    }

    /// Hands a refreshed token to the cache.
    fn give(&self, redeemed: &Record, token: Token) -> Result<Token> {
        let access_token = AccessToken::of(token.access_token())?;
        let mut state = self.state();
        let refused = state.refused.take();
        if refused.is_some_and(|refused| redeemed.access_token().ct_eq(refused.expose())) {
            state.refreshed_for_refusal = Some(Instant::now());
        }
        state.given = Some(access_token);
        state.doubted = None;
        Ok(token)
    }

    /// Saves what an earlier refresh could not. Returns its token if that is to be used on.
    async fn save_unsaved(&self, budget: &Budget) -> Result<Option<Token>> {
        let Some(Unsaved { redeemed, token }) = self.state().unsaved.clone() else {
            return Ok(None);
        };
        let until = Instant::now() + budget.save;
        let saved = self.save(&redeemed, &token, until).await;
        let life = token.remaining();
        match saved {
            Ok(Kept::MovedOn) => {
                self.state().unsaved = None;
                Ok(None)
            }
            Ok(Kept::Stored) => {
                tracing::info!(profile = %self.profile(), "the refreshed sign-in is saved now");
                self.state().unsaved = None;
                let is_due = life <= refresh_window(token.lifetime());
                Ok((!is_due && !self.is_refused(&token)).then_some(token))
            }
            // To refresh again, or to load, would not help: the store is behind.
            Err(_) if !life.is_zero() && !self.is_refused(&token) => Ok(Some(token)),
            Err(error) => Err(error),
        }
    }

    fn is_refused(&self, token: &Token) -> bool {
        let state = self.state();
        let refused = state.refused.as_ref();
        refused.is_some_and(|refused| token.access_token().ct_eq(refused.expose()))
    }

    /// What is known against this refresh token, if Coze has refused it.
    fn doubt(&self, record: &Record) -> Option<(Error, Instant)> {
        let state = self.state();
        let doubted = state.doubted.as_ref()?;
        record
            .holds(&doubted.refresh_token)
            .then(|| (doubted.refusal.clone(), doubted.believed_from))
    }

    /// `invalid_grant` means that a person must sign in, unless another owner has redeemed the refresh token and
    /// is about to save: looks into the store until that can't be any more.
    async fn believe(
        &self,
        redeemed: &Record,
        refusal: Error,
        believed_from: Instant,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Option<Token>> {
        let mut pause = FIRST_LOOK;
        loop {
            match self.look(mode, budget).await? {
                Look::Use(token) => return Ok(Some(token)),
                Look::Refresh(now) if !now.record.holds(redeemed.refresh_token()) => {
                    return Ok(None);
                }
                Look::Refresh(_) => {}
            }
            let left = believed_from.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.mark_dead(redeemed, &refusal).await;
                return Err(refusal);
            }
            if budget.is_spent() {
                return Err(refusal.with_retry_after(Some(left)));
            }
            sleep(budget.at_most(pause).min(left)).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Says in the store that only a person can help, so that nobody sends the refresh token again. The record stays:
    /// should its answer turn up after all, it can still be saved.
    async fn mark_dead(&self, record: &Record, refusal: &Error) {
        tracing::warn!(
            profile = %self.profile(), log_id = refusal.log_id(),
            "the sign-in is over: the person must sign in again"
        );
        let store = self.sign_in.store();
        let dead = record.died(refusal);
        let marked = store.save(self.profile(), record.refresh_token(), &dead);
        match timeout(LONGEST_SAVE, marked).await {
            Ok(Ok(Saved::Saved | Saved::MovedOn(_))) => {}
            Ok(Err(error)) => {
                tracing::warn!(profile = %self.profile(), kind = ?error.kind(), "that could not be stored");
            }
            Err(_) => tracing::warn!(profile = %self.profile(), "that could not be stored in time"),
        }
    }

    /// How long after `invalid_grant` another owner may still save what the refresh token was redeemed for: as long as
    /// its request and its save may take. Where a lease ends only with its owner, there is no other.
    fn grace(&self, budget: &Budget) -> Duration {
        match self.sign_in.store().lease_kind() {
            _ if self.alone => Duration::ZERO,
            LeaseKind::UntilOwnerDies => Duration::ZERO,
            LeaseKind::ForItsHold => budget.request + budget.save,
        }
    }

    async fn lease(&self, budget: &Budget) -> Result<Leasing> {
        let leasing = self.sign_in.store().lease(self.profile(), budget.hold());
        budget.bound(leasing).await
    }

    async fn release(&self, lease: Box<dyn Lease>) {
        // It ends by itself, too.
        match timeout(LONGEST_RELEASE, lease.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(profile = %self.profile(), kind = ?error.kind(), "a lease was not released");
            }
            Err(_) => {
                tracing::debug!(profile = %self.profile(), "a lease was not released in time")
            }
        }
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
        Error::new(
            ErrorKind::NotSignedIn,
            format!("nobody is signed in under profile {}", self.profile()),
        )
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
}

const LONGEST_RELEASE: Duration = Duration::from_secs(2);

/// Where a redeemed refresh token's answer went.
enum Kept {
    Stored,
    /// Aside: another record is stored, or none.
    MovedOn,
}

impl State {
    fn has_just_refreshed_for_refusal(&self) -> bool {
        self.refreshed_for_refusal
            .is_some_and(|last| last.elapsed() < BETWEEN_INVALIDATIONS)
    }
}

impl Source for StoredSource {
    fn flow(&self) -> Flow {
        self.flow.kind()
    }

    fn mint(&self, mode: RefreshMode, deadline: Instant) -> MintFuture<'_> {
        Box::pin(self.get(mode, deadline))
    }

    fn heeds_refusal(&self, refused: &AccessToken) -> bool {
        self.state().refused = Some(refused.clone());
        true
    }

    fn undone(&self) -> Option<Duration> {
        let state = self.state();
        state.unsaved.as_ref().map(|_| SAVE_AGAIN_AFTER)
    }

    fn settle(&self) -> SettleFuture<'_> {
        Box::pin(async {
            let patience = LONGEST_SAVE.min(self.flow.client().request_timeout());
            let budget = Budget::until(Instant::now() + patience, patience);
            let mut wait = FIRST_SAVE_WAIT;
            while self.state().unsaved.is_some() && !budget.is_spent() {
                let _ = self.save_unsaved(&budget).await;
                if self.state().unsaved.is_some() {
                    sleep(budget.at_most(wait)).await;
                    wait *= 2;
                }
            }
        })
    }

    fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::Relaxed)
    }
}

/// What is left of a stored access token's life.
fn life_of(stored: &Stored) -> Duration {
    let life = stored.record.life_when_stored();
    life.saturating_sub(stored.age)
}

/// The time that one refresh has. The lease is held for all of it, so that nothing begins that could outlive it.
struct Budget {
    /// No look and no attempt begins after it.
    deadline: Instant,
    /// What the last attempt may take beyond it.
    request: Duration,
    /// What a save may take beyond that.
    save: Duration,
}

impl Budget {
    fn until(deadline: Instant, request: Duration) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        Self {
            deadline,
            request,
            save: left.min(LONGEST_SAVE),
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_spent(&self) -> bool {
        self.left().is_zero()
    }

    fn at_most(&self, wait: Duration) -> Duration {
        wait.min(self.left())
    }

    fn hold(&self) -> Duration {
        self.left() + self.request + self.save
    }

    /// Bounds a look into the store: one that hangs must not hold up a caller for ever. Even when time is up there
    /// is some for a last look, because `invalid_grant` is not believed without it.
    async fn bound<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(self.left().max(LAST_LOOK), asked)
            .await
            .unwrap_or_else(|_| Err(no_answer()))
    }
}

fn no_answer() -> Error {
    Error::new(
        ErrorKind::Store,
        "the store of sign-ins did not answer before the deadline",
    )
}
