//! Gets a token of a stored sign-in: loads the record, locks it, refreshes it, and confirms an `invalid_grant` before
//! the sign-in is marked as ended.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    intent::{self, Intent, PADDING},
    record::{Entry, NotBefore, Record, millis},
    save::{Saved, Successor},
    source::{Moment, Refresher, RefusedGrant, SavedLast, State, print, remember, shut_down},
    unsaved::LONGEST_SAVE,
};
use crate::{
    Error, ErrorKind, RefreshToken, Result, Token,
    clock::Clock,
    random,
    refresh_window::{RefreshMode, expiry_margin, refresh_window},
    retry::{self, AtDeadline, LONGEST_DEADLINE, retrying},
    runtime::{lock, spawn_on_process},
    store::{Key, LockLifetime, Owner, Store, StoreError, StoreErrorKind, TryLock, Version},
};

/// The first and the longest interval between two loads while another owner holds the lock.
const FIRST_POLL: Duration = Duration::from_millis(25);
const LONGEST_POLL: Duration = Duration::from_millis(400);
/// The timeout of the final load, after the deadline of the refresh.
pub(super) const FINAL_LOAD: Duration = Duration::from_secs(2);
const LONGEST_RELEASE: Duration = Duration::from_secs(2);
/// A stored token with a shorter remaining lifetime is not used: it could expire before the caller sends it.
const MIN_REMAINING: Duration = Duration::from_millis(50);

/// The time budget of one refresh. The lock's TTL covers all of it, so that no step can outlive the lock.
pub(super) struct Budget {
    /// No load and no attempt starts after it.
    deadline: Instant,
    /// The timeout of a request; the last attempt may end this long after the deadline.
    request: Duration,
}

impl Budget {
    pub(super) fn until(deadline: Instant, request: Duration) -> Self {
        Self {
            deadline,
            request: request.min(LONGEST_DEADLINE),
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_exhausted(&self) -> bool {
        self.left().is_zero()
    }

    /// The deadline for a call to the store, so that a store that hangs does not block a caller. After the deadline of
    /// the refresh there is still time for a final load, because `invalid_grant` is not accepted without one.
    pub(super) fn for_the_store(&self) -> Instant {
        Instant::now() + self.left().max(FINAL_LOAD)
    }

    /// The maximum duration of one attempt and its save.
    fn attempt(&self) -> Duration {
        self.request + LONGEST_SAVE
    }
}

/// The decision after a load.
#[allow(
    clippy::large_enum_variant,
    reason = "it is returned once per load, and is not kept"
)]
pub(super) enum Look {
    /// Use this token.
    Use(Token),
    /// Refresh. The stored token may be used if that fails.
    Refresh(Due),
}

/// A stored sign-in that is due for a refresh.
pub(super) struct Due {
    current: Current,
    /// When its access token expires.
    ends: Instant,
    /// The error to return while "not before" applies: no request may be sent.
    held_back: Option<Error>,
}

/// A record as it is stored.
#[derive(Clone)]
struct Current {
    record: Record,
    version: Version,
    /// The record's age when the load or write was started, and that moment.
    age: Option<Duration>,
    asked: Moment,
}

impl Current {
    fn age(&self, clock: &Clock) -> Option<Duration> {
        Some(self.age?.saturating_add(self.asked.elapsed(clock)))
    }

    /// The record for the next write, with its durations reduced by the age.
    fn rebased(&self, clock: &Clock) -> Record {
        self.record.rebased(self.age(clock))
    }
}

/// The tokens of a refresh response.
struct Answer {
    /// The new refresh token. `None` if the old one remains valid.
    refresh_token: Option<RefreshToken>,
    /// The access token, or why it is unusable. The refresh token is valid in both cases.
    token: Result<Token>,
}

/// The result of a refresh under the lock.
enum Refreshed {
    Token(Box<Token>),
    /// The intent of another owner is unexpired, although its lock has ended. The owner's name.
    Held(String),
    /// No result: the caller loads the record again.
    Again,
}

/// One refresh, with all its attempts.
struct Run {
    owner: Owner,
    lifetime: LockLifetime,
    /// When the lock was requested. It ends `ttl` after that.
    began: Moment,
    ttl: Duration,
    current: Mutex<Current>,
    failures: Mutex<Failures>,
}

/// Counts the failed attempts of a run by kind.
#[derive(Default)]
struct Failures {
    attempts: u32,
    server_errors: u32,
    no_connection: u32,
}

impl From<Token> for Refreshed {
    fn from(token: Token) -> Self {
        Self::Token(Box::new(token))
    }
}

impl Refresher {
    pub(super) async fn get(self: &Arc<Self>, mode: RefreshMode, budget: &Budget) -> Result<Token> {
        let mut wait = FIRST_POLL;
        loop {
            if let Some(token) = self.unsaved_token(budget).await? {
                return Ok(token);
            }
            let due = match self.look(mode, budget).await? {
                Look::Use(token) => return Ok(token),
                Look::Refresh(due) => due,
            };
            if let Some(error) = &due.held_back {
                return self.instead_of(error.clone(), &due);
            }
            let held_by = match self.lock(budget).await {
                Ok(Ok(lock)) => match self.refresh_under(lock, mode, budget).await {
                    Ok(Refreshed::Token(token)) => return Ok(*token),
                    Ok(Refreshed::Held(by)) => Some(Some(by)),
                    Ok(Refreshed::Again) => None,
                    Err(error) => return self.instead_of(error, &due),
                },
                Ok(Err(by)) => Some(by),
                Err(error) => return self.instead_of(error, &due),
            };
            // A refresh on demand waits for another owner only if there is no valid token.
            if held_by.is_some()
                && mode == RefreshMode::InLine
                && let Some(token) = self.still_valid(&due)
            {
                return Ok(token);
            }
            if budget.is_exhausted() {
                return self.instead_of(self.busy(held_by.flatten()), &due);
            }
            if self.is_closing() {
                return Err(shut_down());
            }
            sleep(wait.mul_f64(0.5 + random::fraction()).min(budget.left())).await;
            wait = (wait * 2).min(LONGEST_POLL);
        }
    }

    /// Tries to acquire the lock. The inner error is the name of the owner that holds it.
    async fn lock(&self, budget: &Budget) -> Result<Result<Lock, Option<String>>> {
        let store = self.sign_in.store();
        // Created before the request, so that the lock is released even if the response is lost.
        let mut lock = Lock {
            store: Some(Arc::clone(store)),
            key: Key::record(self.sign_in.profile()),
            owner: Owner::new(*random::bytes()?, Owner::this_process()),
            lifetime: LockLifetime::Ttl,
            began: Moment::now(self.clock()),
            ttl: budget.left() + budget.attempt(),
        };
        let asked = store.try_lock(&lock.key, &lock.owner, lock.ttl);
        match super::in_time(budget.for_the_store(), asked).await {
            Ok(TryLock::Acquired(lifetime)) => {
                lock.lifetime = lifetime;
                Ok(Ok(lock))
            }
            Ok(TryLock::Held { by }) => {
                // Another owner holds it: there is nothing to release.
                lock.store = None;
                Ok(Err(by))
            }
            Err(error) => Err(Error::from(error)),
        }
    }

    /// Refreshes under the lock, and releases it unless the successor is still unsaved.
    async fn refresh_under(
        self: &Arc<Self>,
        lock: Lock,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Refreshed> {
        let looked = self.look(mode, budget).await.and_then(|look| match look {
            Look::Refresh(due) => match &due.held_back {
                Some(error) => self.instead_of(error.clone(), &due).map(Look::Use),
                None => Ok(Look::Refresh(due)),
            },
            used => Ok(used),
        });
        let due = match looked {
            Ok(Look::Refresh(due)) => due,
            other => {
                lock.release().await;
                return other.map(|look| match look {
                    Look::Use(token) => token.into(),
                    Look::Refresh(_) => Refreshed::Again,
                });
            }
        };
        if lock.lifetime == LockLifetime::Ttl
            && let Some(by) = self.holder(&due.current)
        {
            lock.release().await;
            return Ok(Refreshed::Held(by));
        }
        let run = Run {
            owner: lock.owner.clone(),
            lifetime: lock.lifetime,
            began: lock.began,
            ttl: lock.ttl,
            current: Mutex::new(due.current),
            failures: Mutex::default(),
        };
        let refreshed = match self.refused_grant(&run.current().record) {
            Some(_) => Err(None),
            // Every attempt sends the same refresh token: if the first one was processed, the token has been redeemed
            // in any case.
            None => retrying(&self.breaker, budget.deadline, AtDeadline::Await, || {
                self.attempt(&run, budget)
            })
            .await
            .map_err(Some),
        };
        match refreshed {
            Ok(answer) => self.keep(&run, answer, lock).await,
            Err(failure) => {
                let ended = self.ended(&run, failure, mode, budget).await;
                remember(&mut self.state().ended_runs, run.owner.id().to_owned());
                lock.release().await;
                ended
            }
        }
    }

    /// One attempt. The request is sent only after the intent has been written, and only if the rest of the lock's TTL
    /// covers the request and the save.
    async fn attempt(&self, run: &Run, budget: &Budget) -> Result<Answer> {
        if self.is_closing() {
            return Err(shut_down());
        }
        if self.sign_in.unsaved_successor().is_some() {
            return Err(changed("an earlier successor must be saved first"));
        }
        self.write_intent(run, budget).await?;
        if budget.is_exhausted() {
            return Err(no_answer());
        }
        let left = run.ttl.saturating_sub(run.began.elapsed(self.clock()));
        if run.lifetime == LockLifetime::Ttl && left < budget.attempt() {
            return Err(changed(
                "the rest of the lock's TTL is too short for another attempt",
            ));
        }
        let redeemed = run.current().record.refresh_token().clone();
        let token = self.app.refresh(&redeemed).await;
        let refresh_token = match &token {
            Ok(token) => token.refresh_token(),
            // The access token was unusable, but the response has a refresh token.
            Err(error) => error.refresh_token(),
        };
        match (refresh_token.cloned(), token) {
            (None, Err(error)) => {
                run.failed(&error);
                Err(error)
            }
            (refresh_token, token) => Ok(Answer {
                refresh_token,
                token,
            }),
        }
    }

    async fn write_intent(&self, run: &Run, budget: &Budget) -> Result<()> {
        let current = run.current();
        let clock = self.clock();
        let asked = Moment::now(clock);
        let mut record = current.rebased(clock);
        let hold = run.ttl.saturating_sub(run.began.elapsed(clock));
        let own = Intent::new(&run.owner, record.fingerprint(), hold);
        intent::renew(&mut record.intents, own);
        let until = budget.for_the_store();
        let mut padding = PADDING;
        let written = loop {
            let write = record.write(padding)?;
            let written = self.sign_in.write(Some(&current.version), &write, until);
            match written.await {
                // A store that limits the size of a record accepts it without padding; a full store rejects both.
                Err(error) if error.kind() == StoreErrorKind::Full && padding > 0 => padding = 0,
                written => break written?,
            }
        };
        let version =
            written.ok_or_else(|| changed("the sign-in has changed since it was loaded"))?;
        *lock(&run.current) = Current {
            record,
            version,
            age: Some(Duration::ZERO),
            asked,
        };
        Ok(())
    }

    /// Saves the successor.
    async fn keep(&self, run: &Run, answer: Answer, lock: Lock) -> Result<Refreshed> {
        let current = run.current();
        let Answer {
            refresh_token,
            token,
        } = answer;
        let redeemed = current.record.clone();
        let successor = Successor::new(redeemed, refresh_token, token.as_ref().ok().cloned());
        let known = (current.record.clone(), current.version);
        let kept = self
            .sign_in
            .keep(&successor, known, lock, self.clock())
            .await;
        match kept {
            Saved::Stored => {
                self.holds(successor.record());
                let token = token?;
                self.note_given(&current.record, &token);
                Ok(token.into())
            }
            saved => {
                self.state().was_signed_out = matches!(saved, Saved::SignedOut);
                tracing::warn!(
                    profile = %self.sign_in.profile(),
                    "the sign-in was replaced or signed out during the refresh; loading it again"
                );
                Ok(Refreshed::Again)
            }
        }
    }

    /// Completes a run that got no tokens.
    async fn ended(
        &self,
        run: &Run,
        failure: Option<Error>,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Refreshed> {
        match failure {
            None => self.confirm_refusal(run, mode, budget).await,
            Some(error) if error.needs_sign_in() => {
                self.remember_refusal(&run.current().record, error, budget);
                self.confirm_refusal(run, mode, budget).await
            }
            Some(error) => {
                self.withdraw(run, &error, budget).await;
                // The record has changed, or the rest of the lock's TTL was too short.
                if error.kind() == ErrorKind::Store(StoreErrorKind::Busy) {
                    return Ok(Refreshed::Again);
                }
                Err(error)
            }
        }
    }

    fn remember_refusal(&self, record: &Record, refusal: Error, budget: &Budget) {
        let refused = RefusedGrant {
            refresh_token: record.fingerprint(),
            refusal,
            grace_until: Instant::now() + budget.attempt(),
            waits_for: None,
        };
        remember(&mut self.state().refused_grants, refused);
    }

    /// Withdraws the intent of a run without a successor, and writes "not before" if the server asked for a delay.
    async fn withdraw(&self, run: &Run, error: &Error, budget: &Budget) {
        let current = run.current();
        let not_before = run.not_before(error);
        let is_ours = |intent: &Intent| intent.owner == run.owner.id();
        let has_intent = current.record.intents.iter().any(is_ours);
        // With a process-bound lock, an intent carries no additional information, so it may stay.
        if !has_intent || run.lifetime == LockLifetime::ProcessBound && not_before.is_none() {
            return;
        }
        let mut record = current.rebased(self.clock());
        intent::withdraw(&mut record.intents, &run.owner);
        record.not_before = not_before.or(record.not_before);
        let until = Instant::now() + budget.left().max(FINAL_LOAD).min(LONGEST_SAVE);
        if let Err(error) = self.replace(&current.version, &record, until).await {
            // The intent expires.
            tracing::debug!(profile = %self.sign_in.profile(), kind = ?error.kind(), "an intent was not withdrawn");
        }
    }

    /// Replaces this version of the record. `None` after a conflict.
    async fn replace(
        &self,
        version: &Version,
        record: &Record,
        until: Instant,
    ) -> Result<Option<Version>, StoreError> {
        let write = record.write(0)?;
        self.sign_in.write(Some(version), &write, until).await
    }

    /// Loads the record and decides what to do.
    pub(super) async fn look(&self, mode: RefreshMode, budget: &Budget) -> Result<Look> {
        let clock = self.clock();
        loop {
            let asked = Moment::now(clock);
            let until = budget.for_the_store();
            let puts = self.sign_in.puts();
            let loaded = self.sign_in.look(until).await?;
            {
                let mut state = self.state();
                state.puts = puts;
                state.loaded = match &loaded {
                    Some((Entry::Record(record), _)) => {
                        Some(print(record.refresh_token().expose()))
                    }
                    _ => None,
                };
            }
            let (record, stored) = match loaded {
                Some((Entry::Record(record), stored)) => (*record, stored),
                Some((Entry::Damaged(error), _)) => return Err(self.sign_in.damaged(&error)),
                Some((Entry::Tombstone(_), _)) | None => return Err(self.not_signed_in()),
            };
            self.expect_of_this_app(&record)?;
            if self.restore(&record, until).await? {
                continue;
            }
            if record.has_ended() {
                return Err(self.sign_in_ended(&record));
            }
            let current = Current {
                record,
                version: stored.version,
                age: stored.age,
                asked,
            };
            return self.judge(current, mode);
        }
    }

    fn judge(&self, current: Current, mode: RefreshMode) -> Result<Look> {
        let record = &current.record;
        let now = current.rebased(self.clock());
        let lifetime = record.lifetime();
        let life = now.life().saturating_sub(expiry_margin(lifetime));
        let is_served = {
            let state = self.state();
            if state.is_refused(record) {
                // Prevents one refresh per call if the API refuses every token.
                state.has_just_refreshed_for_refusal()
            } else if state.is_given(record) {
                false
            } else {
                mode == RefreshMode::InBackground || life > refresh_window(lifetime)
            }
        };
        if is_served && life > MIN_REMAINING && record.access_token().is_some() {
            return self.reuse(record, life).map(Look::Use);
        }
        let not_before = now.not_before.as_ref();
        Ok(Look::Refresh(Due {
            ends: Instant::now() + life,
            held_back: not_before.map(|not_before| self.held_back(not_before)),
            current,
        }))
    }

    /// Builds the stored token for reuse.
    fn reuse(&self, record: &Record, life: Duration) -> Result<Token> {
        let token = record.token(life, self.clock())?;
        let mut state = self.state();
        if !state.is_given(record) {
            self.loaded.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(profile = %self.sign_in.profile(), ?life, "reusing the stored token");
        }
        state.given = Some(print(token.access_token().expose()));
        state.was_signed_out = false;
        drop(state);
        self.holds(record.clone());
        Ok(token)
    }

    /// Remembers the current refresh token, in case a failover of the store loses it. An earlier generation, whose refresh
    /// token has been redeemed, is not remembered instead.
    fn holds(&self, record: Record) {
        let mut state = self.state();
        let is_earlier = |saved: &SavedLast| {
            saved.sign_in == record.sign_in && saved.generation > record.generation
        };
        if state.saved.as_deref().is_some_and(is_earlier) {
            return;
        }
        state.loaded = Some(print(record.refresh_token().expose()));
        state.saved = Some(Box::new(SavedLast {
            refresh_token: record.refresh_token().clone(),
            generation: record.generation,
            sign_in: record.sign_in,
        }));
    }

    /// The stored token, if it is still valid although it is due for a refresh.
    fn still_valid(&self, due: &Due) -> Option<Token> {
        let life = due.ends.saturating_duration_since(Instant::now());
        let record = &due.current.record;
        if life <= MIN_REMAINING || self.state().is_refused(record) {
            return None;
        }
        self.reuse(record, life).ok()
    }

    /// After a failed refresh: the stored token if it is still valid. If the provider already serves that token, the
    /// error is returned, so that the provider backs off.
    fn instead_of(&self, failure: Error, due: &Due) -> Result<Token> {
        if self.state().is_given(&due.current.record) {
            return Err(failure);
        }
        let token = self.still_valid(due).ok_or_else(|| failure.clone())?;
        tracing::warn!(
            profile = %self.sign_in.profile(), kind = ?failure.kind(), what = failure.what(),
            "the stored token could not be refreshed; using it until it expires"
        );
        Ok(token)
    }

    /// Records which token the provider is given.
    fn note_given(&self, redeemed: &Record, token: &Token) {
        let mut state = self.state();
        if state.is_refused(redeemed) {
            state.refreshed_for_refusal = Some(Instant::now());
        }
        state.refused = None;
        state.given = Some(print(token.access_token().expose()));
        state.was_signed_out = false;
    }

    /// The token of an unsaved successor, while it is valid. Once it is due for a refresh, the successor must be saved
    /// first: nothing is refreshed that could not be saved.
    async fn unsaved_token(&self, budget: &Budget) -> Result<Option<Token>> {
        let Some(successor) = self.sign_in.unsaved_successor() else {
            return Ok(None);
        };
        self.sign_in.save_in_background(self.clock());
        let is_refused = self.state().is_refused(&successor.record());
        let token = successor.token().filter(|_| !is_refused);
        if let Some(token) = token
            && token.remaining() > refresh_window(token.lifetime())
        {
            return Ok(Some(token.clone()));
        }
        let until = budget.for_the_store().min(Instant::now() + LONGEST_SAVE);
        if self.sign_in.save_unsaved(None, until).await.is_some() {
            return Ok(None);
        }
        match token {
            Some(token) if !token.remaining().is_zero() => Ok(Some(token.clone())),
            _ => self.sign_in.why_unsaved().map_or(Ok(None), Err),
        }
    }

    /// Another owner whose unexpired intent counts as a held lock: it may have lost its lock early, for example in a
    /// failover.
    fn holder(&self, current: &Current) -> Option<String> {
        let age = current.age(self.clock());
        let now = Instant::now();
        let intents = &current.record.intents;
        let mut state = self.state();
        let State {
            holders,
            ended_runs,
            ..
        } = &mut *state;
        holders.retain(|owner, _| intents.iter().any(|intent| intent.owner == *owner));
        let mut held_by = None;
        for intent in intents
            .iter()
            .filter(|intent| !ended_runs.contains(&intent.owner))
        {
            let left = intent.holds(age);
            // The wait is limited by this process's clock, whatever age the store reports.
            let until = holders
                .entry(intent.owner.clone())
                .or_insert_with(|| now + left.min(LONGEST_DEADLINE));
            if !left.is_zero() && *until > now {
                held_by.get_or_insert_with(|| crate::error::store::presentable_name(&intent.name));
            }
        }
        held_by
    }

    /// The earlier refusal of this refresh token by Coze, if there was one.
    fn refused_grant(&self, record: &Record) -> Option<RefusedGrant> {
        let refresh_token = record.fingerprint();
        let state = self.state();
        let mut refused = state.refused_grants.iter();
        refused
            .find(|refused| refused.refresh_token == refresh_token)
            .cloned()
    }

    /// Confirms an `invalid_grant`: the user must sign in, unless another owner has redeemed the refresh token and has
    /// yet to save the successor. Loads the record until no other owner can.
    async fn confirm_refusal(
        &self,
        run: &Run,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Refreshed> {
        let mut wait = FIRST_POLL;
        loop {
            let now = match self.look(mode, budget).await? {
                Look::Use(token) => return Ok(token.into()),
                Look::Refresh(due) => due.current,
            };
            let Some(refused) = self.refused_grant(&now.record) else {
                return Ok(Refreshed::Again);
            };
            let waits_for = self.waits_for(run, &now);
            let left = refused
                .grace_until
                .saturating_duration_since(Instant::now());
            if !waits_for || left.is_zero() {
                match self.mark_ended(run, &now, &refused.refusal, budget).await {
                    true => return Err(refused.refusal),
                    // Another owner has written: load again.
                    false => continue,
                }
            }
            if budget.is_exhausted() || self.is_closing() {
                return Err(self.unconfirmed_refusal(&refused.refusal, left));
            }
            sleep(wait.min(budget.left()).min(left)).await;
            wait = (wait * 2).min(LONGEST_POLL);
        }
    }

    /// Whether another owner may still save. Only owners with an intent count that was present at the first load after
    /// the `invalid_grant`. With a process-bound lock, which this run holds, the processes of the other owners have
    /// ended.
    fn waits_for(&self, run: &Run, now: &Current) -> bool {
        let age = now.age(self.clock());
        let others = now
            .record
            .intents
            .iter()
            .filter(|intent| intent.owner != run.owner.id());
        let mut state = self.state();
        let others: Vec<String> = others
            .filter(|intent| intent.counts(age) && !state.ended_runs.contains(&intent.owner))
            .map(|intent| intent.owner.clone())
            .collect();
        let refresh_token = now.record.fingerprint();
        let mut refused = state.refused_grants.iter_mut();
        let Some(refused) = refused.find(|refused| refused.refresh_token == refresh_token) else {
            return false;
        };
        let waits_for = refused.waits_for.get_or_insert_with(|| others.clone());
        run.lifetime == LockLifetime::Ttl && others.iter().any(|owner| waits_for.contains(owner))
    }

    /// Marks the loaded record as ended. False after a conflict.
    async fn mark_ended(&self, run: &Run, now: &Current, refusal: &Error, budget: &Budget) -> bool {
        let mut record = now.rebased(self.clock()).with_ended(refusal);
        intent::withdraw(&mut record.intents, &run.owner);
        record.not_before = None;
        let until = budget.for_the_store();
        let marked = self.replace(&now.version, &record, until).await;
        if matches!(marked, Ok(None)) {
            return false;
        }
        tracing::warn!(
            profile = %self.sign_in.profile(), log_id = refusal.log_id(),
            "the sign-in has ended: the user must sign in again"
        );
        if let Err(error) = marked {
            tracing::warn!(profile = %self.sign_in.profile(), kind = ?error.kind(), "the ended sign-in could not be marked");
        }
        true
    }

    fn held_back(&self, not_before: &NotBefore) -> Error {
        let left = retry::capped_not_before(Duration::from_millis(not_before.ms));
        let profile = self.sign_in.profile();
        let status = not_before
            .status
            .and_then(|status| http::StatusCode::from_u16(status).ok());
        let error = match status {
            Some(status) => Error::new(
                ErrorKind::Refused,
                format!(
                    "the server has recently refused to refresh the sign-in of profile {profile}"
                ),
            )
            .with_status(status),
            None => Error::new(
                ErrorKind::Connect,
                format!(
                    "the server was recently unreachable for a refresh of the sign-in of profile {profile}"
                ),
            ),
        };
        error.with_retry_after(Some(left))
    }
}

impl Run {
    fn current(&self) -> Current {
        lock(&self.current).clone()
    }

    fn failed(&self, error: &Error) {
        let mut failures = lock(&self.failures);
        failures.attempts += 1;
        failures.server_errors += u32::from(
            error
                .status()
                .is_some_and(|status| status.is_server_error()),
        );
        failures.no_connection += u32::from(error.kind() == ErrorKind::Connect);
    }

    /// "Not before" for other owners, if this last failure was one of the server.
    fn not_before(&self, error: &Error) -> Option<NotBefore> {
        let failures = lock(&self.failures);
        let all = |count: u32| failures.attempts > 0 && count == failures.attempts;
        let status = error.status().map(|status| status.as_u16());
        // Other errors, such as a lock that ended while the system was suspended, are not failures of the server.
        let holds_back = match status {
            Some(429) => true,
            Some(503) if error.retry_after().is_some() => true,
            Some(_) => all(failures.server_errors),
            // A single failed connection may be a problem of this machine only.
            None => {
                error.kind() == ErrorKind::Connect
                    && self.lifetime == LockLifetime::ProcessBound
                    && all(failures.no_connection)
            }
        };
        holds_back.then(|| NotBefore {
            ms: millis(retry::not_before(error)),
            status,
        })
    }
}

/// A held lock, released when dropped.
pub(super) struct Lock {
    /// `None` once it is released.
    store: Option<Arc<dyn Store>>,
    key: Key,
    owner: Owner,
    lifetime: LockLifetime,
    /// When it was requested. Unless it is bound to the process, it ends `ttl` after that.
    began: Moment,
    ttl: Duration,
}

impl Lock {
    pub(super) async fn release(mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        // The lock ends with its TTL or its process.
        if !matches!(
            timeout(LONGEST_RELEASE, store.unlock(&self.key, &self.owner)).await,
            Ok(Ok(()))
        ) {
            tracing::debug!(profile = %self.key.profile(), "a lock could not be released");
        }
    }
}

impl Drop for Lock {
    /// Releases the lock of a cancelled run: its runtime ended, or the lock's response did not arrive in time. A
    /// process-bound lock would otherwise remain held until the process ends.
    fn drop(&mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        let (key, owner) = (self.key.clone(), self.owner.clone());
        let unlock = async move {
            let _ = timeout(LONGEST_RELEASE, store.unlock(&key, &owner)).await;
        };
        let _ = spawn_on_process(Box::pin(unlock));
    }
}

fn changed(what: &str) -> Error {
    Error::new(ErrorKind::Store(StoreErrorKind::Busy), what)
}

fn no_answer() -> Error {
    Error::from(StoreError::new(
        StoreErrorKind::Transient,
        "the store of sign-ins did not answer before the deadline",
    ))
}
