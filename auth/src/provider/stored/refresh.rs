//! Getting a token of a stored sign-in: looking, leasing, refreshing, and what to believe of a refusal.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    Doubted, Owner, RefreshMode,
    budget::{Budget, LAST_LOOK, LONGEST_SAVE, no_answer},
    save::Kept,
    shut_down,
};
use crate::{
    AccessToken, Error, ErrorCode, ErrorKind, Result, Token,
    provider::{
        lifespan::{margin, refresh_window},
        retry::{AtDeadline, random_fraction, retrying},
    },
    store::{Lease, LeaseKind, Leasing, Record, Saved},
};

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

/// What came of the right to refresh.
enum Refreshed {
    Token(Token),
    /// The answer could not be saved yet, so the lease is kept.
    Unsaved(Token),
    /// Nothing: it is better to look anew.
    Anew,
}

/// Between two looks into the store while another owner has the lease: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(25);
const LONGEST_LOOK: Duration = Duration::from_millis(400);
const LONGEST_RELEASE: Duration = Duration::from_secs(2);
/// A stored token that ends sooner is not worth handing out: it would be over when it is put in place.
const LEAST_LIFE: Duration = Duration::from_millis(50);

impl Owner {
    pub(super) async fn get(self: &Arc<Self>, mode: RefreshMode, budget: &Budget) -> Result<Token> {
        if let Some(token) = self.unsaved_token(budget).await? {
            return Ok(token);
        }
        let mut pause = FIRST_LOOK;
        loop {
            let due = match self.look(mode, budget).await? {
                Look::Use(token) => return Ok(token),
                Look::Refresh(due) => due,
            };
            let failure = match self.lease(budget).await {
                Ok(Leasing::Got(lease)) => match self.refresh_under(lease, mode, budget).await {
                    Ok(Some(token)) => return Ok(token),
                    Ok(None) if !budget.is_spent() => None,
                    Ok(None) => Some(self.busy(None)),
                    Err(error) => Some(error),
                },
                Ok(Leasing::Held { by }) => {
                    // In line, a caller waits only if there is no valid token.
                    let good = (mode == RefreshMode::InLine).then(|| self.good(&due));
                    if let Some(token) = good.flatten() {
                        return Ok(token);
                    }
                    budget.is_spent().then(|| self.busy(by))
                }
                Err(error) => Some(error),
            };
            if let Some(failure) = failure {
                return self.instead_of(failure, &due);
            }
            if self.closing.load(Ordering::Relaxed) {
                return Err(shut_down());
            }
            sleep(budget.at_most(pause.mul_f64(0.5 + random_fraction()))).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Refreshes with the lease in hand, and gives it back, unless the answer is yet to be saved.
    async fn refresh_under(
        self: &Arc<Self>,
        lease: Box<dyn Lease>,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Option<Token>> {
        let token = match self.refresh(&*lease, mode, budget).await {
            Ok(Refreshed::Unsaved(token)) => {
                self.save_in_background(lease);
                return Ok(Some(token));
            }
            Ok(Refreshed::Token(token)) => Ok(Some(token)),
            Ok(Refreshed::Anew) => Ok(None),
            Err(error) => Err(error),
        };
        self.release(lease).await;
        token
    }

    async fn refresh(
        &self,
        lease: &dyn Lease,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Refreshed> {
        let due = match self.look(mode, budget).await? {
            Look::Use(token) => return Ok(Refreshed::Token(token)),
            Look::Refresh(due) => due,
        };
        let redeemed = &due.record;
        if let Some((refusal, believed_from)) = self.doubt(redeemed) {
            return self
                .believe(redeemed, refusal, believed_from, mode, budget)
                .await;
        }
        // The same refresh token again: if the first attempt went through, it is spent either way.
        let refreshed = retrying(
            &self.breaker,
            budget.deadline,
            AtDeadline::Await,
            || async {
                self.may_send(lease, redeemed, budget).await?;
                self.flow.refresh(redeemed.refresh_token()).await
            },
        )
        .await;
        match refreshed {
            Ok(token) => match self.keep(redeemed, &token).await {
                Kept::Stored => self.give(redeemed, token).map(Refreshed::Token),
                Kept::InMemory => self.give(redeemed, token).map(Refreshed::Unsaved),
                Kept::Aside => Ok(Refreshed::Anew),
            },
            Err(error) if error.code() == Some(&ErrorCode::InvalidGrant) => {
                let believed_from = Instant::now() + self.grace(lease, budget);
                self.state().doubted = Some(Doubted {
                    refresh_token: redeemed.refresh_token().clone(),
                    refusal: error.clone(),
                    believed_from,
                });
                self.believe(redeemed, error, believed_from, mode, budget)
                    .await
            }
            // The lease is lost, or the record has moved on.
            Err(error) if error.kind() == ErrorKind::StoreBusy => Ok(Refreshed::Anew),
            Err(error) => Err(error),
        }
    }

    /// Asked before each attempt: whether the lease is still held, the record still the one that was read, and a save
    /// still possible.
    async fn may_send(&self, lease: &dyn Lease, redeemed: &Record, budget: &Budget) -> Result<()> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(shut_down());
        }
        budget.bound(lease.prove_save(redeemed)).await?;
        // An attempt that begins now would outlive the lease.
        if budget.is_spent() {
            return Err(no_answer());
        }
        Ok(())
    }

    /// Loads what is stored, and says what to do with it.
    async fn look(&self, mode: RefreshMode, budget: &Budget) -> Result<Look> {
        let asked = Instant::now();
        let puts = self.sign_in.puts();
        let loaded = budget.bound(self.sign_in.load()).await?;
        {
            let mut state = self.state();
            state.puts = puts;
            let record = loaded.as_ref().map(|stored| stored.record.refresh_token());
            state.loaded = record.cloned();
        }
        let stored = loaded.ok_or_else(|| self.nobody())?;
        let record = stored.record;
        self.expect_of_this_app(&record)?;
        if record.dead().is_some() {
            return Err(self.over(&record));
        }
        let lived = stored.age.saturating_add(asked.elapsed());
        let whole = record.life_when_stored();
        let life = whole.saturating_sub(lived.saturating_add(margin(whole)));
        let served_on = {
            let state = self.state();
            if state.is_refused(&record) {
                // An API that refuses every token must not cause a refresh for each call.
                state.has_just_refreshed_for_refusal()
            } else if state.is_given(&record) {
                false
            } else {
                mode == RefreshMode::InBackground || life > refresh_window(whole)
            }
        };
        if served_on && life > LEAST_LIFE {
            return self.take_over(&record, life).map(Look::Use);
        }
        Ok(Look::Refresh(Due {
            ends: Instant::now() + life,
            record,
        }))
    }

    /// Whether another sign-in that lives is stored than the one that was loaded last.
    pub(super) async fn has_fresh_sign_in(&self) -> bool {
        let puts = self.sign_in.puts();
        let loaded = timeout(LAST_LOOK, self.sign_in.load()).await;
        self.state().puts = puts;
        let Ok(Ok(Some(stored))) = loaded else {
            return false;
        };
        let known = self.state().loaded.clone();
        stored.record.dead().is_none() && known.is_none_or(|known| !stored.record.holds(&known))
    }

    /// Uses a token that is stored.
    fn take_over(&self, record: &Record, life: Duration) -> Result<Token> {
        let token = Token::stored(record, life, self.flow.client().clock())?;
        let access_token = AccessToken::of(token.access_token())?;
        let mut state = self.state();
        if !state.is_given(record) {
            self.reused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(profile = %self.profile(), ?life, "using the token that is stored");
        }
        state.given = Some(access_token);
        state.was_removed = false;
        Ok(token)
    }

    /// What is stored, as long as it is good, though it is time to refresh.
    fn good(&self, due: &Due) -> Option<Token> {
        let life = due.ends.saturating_duration_since(Instant::now());
        if life <= LEAST_LIFE || self.state().is_refused(&due.record) {
            return None;
        }
        self.take_over(&due.record, life).ok()
    }

    /// What could not be refreshed may still be good. A token that the cache has is served by it anyway, and its
    /// callers are to hear of the failure.
    fn instead_of(&self, failure: Error, due: &Due) -> Result<Token> {
        if self.state().is_given(&due.record) {
            return Err(failure);
        }
        let token = self.good(due).ok_or_else(|| failure.clone())?;
        tracing::warn!(
            profile = %self.profile(), kind = ?failure.kind(), what = failure.what(),
            "the stored token could not be refreshed: it is used as it is"
        );
        Ok(token)
    }

    /// Hands a refreshed token to the cache.
    fn give(&self, redeemed: &Record, token: Token) -> Result<Token> {
        let access_token = AccessToken::of(token.access_token())?;
        let mut state = self.state();
        if state.is_refused(redeemed) {
            state.refreshed_for_refusal = Some(Instant::now());
        }
        state.refused = None;
        state.given = Some(access_token);
        state.doubted = None;
        state.was_removed = false;
        Ok(token)
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
    ) -> Result<Refreshed> {
        let mut pause = FIRST_LOOK;
        loop {
            match self.look(mode, budget).await? {
                Look::Use(token) => return Ok(Refreshed::Token(token)),
                Look::Refresh(now) if !now.record.holds(redeemed.refresh_token()) => {
                    return Ok(Refreshed::Anew);
                }
                Look::Refresh(_) => {}
            }
            let left = believed_from.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if !self.mark_dead(redeemed, &refusal).await {
                    return Err(refusal);
                }
                return Ok(match self.look(mode, budget).await? {
                    Look::Use(token) => Refreshed::Token(token),
                    Look::Refresh(_) => Refreshed::Anew,
                });
            }
            if budget.is_spent() || self.closing.load(Ordering::Relaxed) {
                return Err(self.in_doubt(&refusal, left));
            }
            sleep(budget.at_most(pause).min(left)).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Says in the store that only a person can help, so that nobody sends the refresh token again. The record stays:
    /// should its answer turn up after all, it can still be saved. True if a sign-in that lives was stored just before.
    async fn mark_dead(&self, record: &Record, refusal: &Error) -> bool {
        let store = self.sign_in.store();
        let dead = record.died(refusal);
        let marked = store.save(self.profile(), record.refresh_token(), &dead);
        let marked = timeout(LAST_LOOK, marked).await;
        if let Ok(Ok(Saved::MovedOn(Some(now)))) = &marked
            && now.record.dead().is_none()
        {
            return true;
        }
        tracing::warn!(
            profile = %self.profile(), log_id = refusal.log_id(),
            "the sign-in is over: the person must sign in again"
        );
        match marked {
            // From now on the store tells.
            Ok(Ok(_)) => self.state().doubted = None,
            Ok(Err(error)) => {
                tracing::warn!(profile = %self.profile(), kind = ?error.kind(), "that could not be stored");
            }
            Err(_) => tracing::warn!(profile = %self.profile(), "that could not be stored in time"),
        }
        false
    }

    /// How long after `invalid_grant` another owner may still save what the refresh token was redeemed for: as long as
    /// its request and its save may take. A lease that was released, or ends only with its owner, is kept until its
    /// answer is saved, so there is no other.
    fn grace(&self, lease: &dyn Lease, budget: &Budget) -> Duration {
        match self.sign_in.store().lease_kind() {
            LeaseKind::ForItsHold if lease.was_taken_over() => budget.request + LONGEST_SAVE,
            LeaseKind::ForItsHold | LeaseKind::UntilOwnerDies => Duration::ZERO,
        }
    }

    async fn lease(&self, budget: &Budget) -> Result<Leasing> {
        let leasing = self.sign_in.store().lease(self.profile(), budget.hold());
        budget.bound(leasing).await
    }

    pub(super) async fn release(&self, lease: Box<dyn Lease>) {
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
}
