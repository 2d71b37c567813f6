//! Getting a token of a stored sign-in: looking, locking, refreshing, and what to believe of a refusal.

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
    store_error,
    unsaved::LONGEST_SAVE,
};
use crate::{
    Error, ErrorKind, RefreshToken, Result, Token,
    clock::Clock,
    lifespan::{RefreshMode, expiry_margin, refresh_window},
    random,
    retry::{AtDeadline, LONGEST_DEADLINE, retrying},
    runtime::{lock, spawn_on_process},
    store::{Key, LockLifetime, Owner, Store, StoreError, StoreErrorKind, TryLock, Version},
};

/// Between two looks into the store while another owner has the lock: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(25);
const LONGEST_LOOK: Duration = Duration::from_millis(400);
/// For a look into the store when time is up.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(2);
const LONGEST_RELEASE: Duration = Duration::from_secs(2);
/// A stored token that ends sooner is not worth handing out: it would have ended when it is put in place.
const LEAST_LIFE: Duration = Duration::from_millis(50);
/// How long others are held back after the server, or the line to it, has failed: by default, and at most.
const NOT_BEFORE: Duration = Duration::from_secs(5);
const LONGEST_NOT_BEFORE: Duration = Duration::from_secs(15);

/// The time that one refresh has. The lock is taken for all of it, so that nothing begins that could outlive it.
pub(super) struct Budget {
    /// No look and no attempt begins after it.
    deadline: Instant,
    /// What the last attempt may take beyond it.
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

    fn is_spent(&self) -> bool {
        self.left().is_zero()
    }

    /// What the store may take: one that hangs must not hold up a caller for ever. Even when time is up there is some for a last look,
    /// because `invalid_grant` is not believed without it.
    pub(super) fn for_the_store(&self) -> Instant {
        Instant::now() + self.left().max(LAST_LOOK)
    }

    /// What the attempt that is about to begin, and its save, may take.
    fn attempt(&self) -> Duration {
        self.request + LONGEST_SAVE
    }
}

/// What a look into the store says.
pub(super) enum Look {
    /// This token is to be used.
    Use(Token),
    /// It is time to refresh; what is stored may be used as long as that fails.
    Refresh(Due),
}

/// A stored sign-in that is to be refreshed.
pub(super) struct Due {
    current: Current,
    /// When its access token ends.
    ends: Instant,
    /// Why nothing is to be sent now, if the server asked to be left alone.
    held_back: Option<Error>,
}

/// A record as it stands in the store.
#[derive(Clone)]
struct Current {
    record: Record,
    version: Version,
    /// When the store was asked for it, or to write it, and its age then.
    age: Option<Duration>,
    asked: Moment,
}

impl Current {
    fn age(&self, clock: &Clock) -> Option<Duration> {
        Some(self.age?.saturating_add(self.asked.elapsed(clock)))
    }

    /// The record for the next write.
    fn rebased(&self, clock: &Clock) -> Record {
        self.record.rebased(self.age(clock))
    }
}

/// What a refresh token was redeemed for.
struct Answer {
    /// The refresh token that takes its place, if there is another.
    refresh_token: Option<RefreshToken>,
    /// The access token, or why it can't be used. The refresh token lives either way.
    token: Result<Token>,
}

/// What came of the lock.
enum Refreshed {
    Token(Box<Token>),
    /// Another owner holds the sign-in, by an intent that outlives its lock.
    Held(String),
    /// Nothing: it is better to look again.
    Again,
}

/// One run of refresh, with all its attempts.
struct Run {
    owner: Owner,
    lifetime: LockLifetime,
    /// The lock ends this long after it was asked for.
    began: Moment,
    ttl: Duration,
    current: Mutex<Current>,
    failures: Mutex<Failures>,
}

/// How the attempts of a run have failed.
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
        let mut wait = FIRST_LOOK;
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
            // In line, a caller waits for another owner only if there is no valid token.
            if held_by.is_some()
                && mode == RefreshMode::InLine
                && let Some(token) = self.good(&due)
            {
                return Ok(token);
            }
            if budget.is_spent() {
                return self.instead_of(self.busy(held_by.flatten()), &due);
            }
            if self.is_closing() {
                return Err(shut_down());
            }
            sleep(wait.mul_f64(0.5 + random::fraction()).min(budget.left())).await;
            wait = (wait * 2).min(LONGEST_LOOK);
        }
    }

    /// Tries to get the lock; says who has it.
    async fn lock(&self, budget: &Budget) -> Result<Result<Lock, Option<String>>> {
        let store = self.sign_in.store();
        // It is released whatever becomes of the answer.
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
                // There is nothing to release.
                lock.store = None;
                Ok(Err(by))
            }
            Err(error) => Err(store_error(error)),
        }
    }

    /// Refreshes with the lock in hand, and releases it, unless the successor is still to be saved.
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
            // The same refresh token again: if the first attempt was processed, it has been redeemed either way.
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
                remember(&mut self.state().over, run.owner.id().to_owned());
                lock.release().await;
                ended
            }
        }
    }

    /// One attempt. Nothing is sent unless the intent has just been written, and the rest of the lock covers the request and its save.
    async fn attempt(&self, run: &Run, budget: &Budget) -> Result<Answer> {
        if self.is_closing() {
            return Err(shut_down());
        }
        if self.sign_in.unsaved_successor().is_some() {
            return Err(changed("a successor is to be saved first"));
        }
        self.write_intent(run, budget).await?;
        if budget.is_spent() {
            return Err(no_answer());
        }
        let left = run.ttl.saturating_sub(run.began.elapsed(self.clock()));
        if run.lifetime == LockLifetime::Ttl && left < budget.attempt() {
            return Err(changed("the lock ends too soon for another attempt"));
        }
        let redeemed = run.current().record.refresh_token().clone();
        let token = self.app.refresh(&redeemed).await;
        let refresh_token = match &token {
            Ok(token) => token.refresh_token(),
            // All that came of it.
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
            let write = record.write(padding).map_err(store_error)?;
            let written = self.sign_in.write(Some(&current.version), &write, until);
            match written.await {
                // A store that limits the size of a record takes it without padding. One that is full takes neither.
                Err(error) if error.kind() == StoreErrorKind::Full && padding > 0 => padding = 0,
                written => break written.map_err(store_error)?,
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

    /// Saves what the refresh token was redeemed for.
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
                self.give(&current.record, &token);
                Ok(token.into())
            }
            saved => {
                self.state().was_signed_out = matches!(saved, Saved::SignedOut);
                tracing::warn!(
                    profile = %self.sign_in.profile(),
                    "the sign-in was replaced or signed out while it was refreshed: what is stored is used"
                );
                Ok(Refreshed::Again)
            }
        }
    }

    /// Ends a run without tokens.
    async fn ended(
        &self,
        run: &Run,
        failure: Option<Error>,
        mode: RefreshMode,
        budget: &Budget,
    ) -> Result<Refreshed> {
        match failure {
            None => self.believe(run, mode, budget).await,
            Some(error) if error.needs_sign_in() => {
                self.remember_refusal(&run.current().record, error, budget);
                self.believe(run, mode, budget).await
            }
            Some(error) => {
                self.withdraw(run, &error, budget).await;
                // The record has changed, or the lock was too old.
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

    /// Takes back the intent of a run that can't bring a successor any more, and holds others back if the server asked for that.
    async fn withdraw(&self, run: &Run, error: &Error, budget: &Budget) {
        let current = run.current();
        let not_before = run.not_before(error);
        let is_ours = |intent: &Intent| intent.owner == run.owner.id();
        let has_intent = current.record.intents.iter().any(is_ours);
        // A lock that is bound to a process tells others all that an intent does.
        if !has_intent || run.lifetime == LockLifetime::ProcessBound && not_before.is_none() {
            return;
        }
        let mut record = current.rebased(self.clock());
        intent::withdraw(&mut record.intents, &run.owner);
        record.not_before = not_before.or(record.not_before);
        let until = Instant::now() + budget.left().max(LAST_LOOK).min(LONGEST_SAVE);
        if let Err(error) = self.replace(&current.version, &record, until).await {
            // It ends by its time.
            tracing::debug!(profile = %self.sign_in.profile(), kind = ?error.kind(), "an intent was not withdrawn");
        }
    }

    /// Writes a record in place of this version; `None` if there is another.
    async fn replace(
        &self,
        version: &Version,
        record: &Record,
        until: Instant,
    ) -> Result<Option<Version>, StoreError> {
        let write = record.write(0)?;
        self.sign_in.write(Some(version), &write, until).await
    }

    /// Loads what is stored, and says what to do with it.
    pub(super) async fn look(&self, mode: RefreshMode, budget: &Budget) -> Result<Look> {
        let clock = self.clock();
        loop {
            let asked = Moment::now(clock);
            let until = budget.for_the_store();
            let puts = self.sign_in.puts();
            let loaded = self.sign_in.look(until).await.map_err(store_error)?;
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
                Some((Entry::Tombstone(_), _)) | None => return Err(self.nobody()),
            };
            self.expect_of_this_app(&record)?;
            if self.restore(&record, until).await? {
                continue;
            }
            if record.has_ended() {
                return Err(self.over(&record));
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
                // An API that refuses every token must not cause a refresh for each call.
                state.has_just_refreshed_for_refusal()
            } else if state.is_given(record) {
                false
            } else {
                mode == RefreshMode::InBackground || life > refresh_window(lifetime)
            }
        };
        if is_served && life > LEAST_LIFE && record.access_token().is_some() {
            return self.reuse(record, life).map(Look::Use);
        }
        let not_before = now.not_before.as_ref();
        Ok(Look::Refresh(Due {
            ends: Instant::now() + life,
            held_back: not_before.map(|not_before| self.held_back(not_before)),
            current,
        }))
    }

    /// Uses a token that is stored.
    fn reuse(&self, record: &Record, life: Duration) -> Result<Token> {
        let token = record.token(life, self.clock())?;
        let mut state = self.state();
        if !state.is_given(record) {
            self.loaded.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(profile = %self.sign_in.profile(), ?life, "using the token that is stored");
        }
        state.given = Some(print(token.access_token().expose()));
        state.was_signed_out = false;
        drop(state);
        self.holds(record.clone());
        Ok(token)
    }

    /// Remembers the refresh token that is current, in case the store loses it.
    fn holds(&self, record: Record) {
        let mut state = self.state();
        state.loaded = Some(print(record.refresh_token().expose()));
        state.saved = Some(Box::new(SavedLast {
            refresh_token: record.refresh_token().clone(),
            generation: record.generation,
            sign_in: record.sign_in,
        }));
    }

    /// What is stored, as long as it is good, though it is time to refresh.
    fn good(&self, due: &Due) -> Option<Token> {
        let life = due.ends.saturating_duration_since(Instant::now());
        let record = &due.current.record;
        if life <= LEAST_LIFE || self.state().is_refused(record) {
            return None;
        }
        self.reuse(record, life).ok()
    }

    /// What could not be refreshed may still be good. A token that the provider has is served by it anyway, and its callers are to hear of
    /// the failure.
    fn instead_of(&self, failure: Error, due: &Due) -> Result<Token> {
        if self.state().is_given(&due.current.record) {
            return Err(failure);
        }
        let token = self.good(due).ok_or_else(|| failure.clone())?;
        tracing::warn!(
            profile = %self.sign_in.profile(), kind = ?failure.kind(), what = failure.what(),
            "the stored token could not be refreshed: it is used as it is"
        );
        Ok(token)
    }

    /// Hands a refreshed token to the provider.
    fn give(&self, redeemed: &Record, token: &Token) {
        let mut state = self.state();
        if state.is_refused(redeemed) {
            state.refreshed_for_refusal = Some(Instant::now());
        }
        state.refused = None;
        state.given = Some(print(token.access_token().expose()));
        state.was_signed_out = false;
    }

    /// The token of a successor that is unsaved, as long as it is good. Once it is due for a refresh, it has to be saved first: nothing is
    /// refreshed that could not be saved.
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

    /// Another owner whose intent holds the sign-in as a lock would: it has lost its lock, or is about to.
    fn holder(&self, current: &Current) -> Option<String> {
        let age = current.age(self.clock());
        let now = Instant::now();
        let intents = &current.record.intents;
        let mut state = self.state();
        let State { holders, over, .. } = &mut *state;
        holders.retain(|owner, _| intents.iter().any(|intent| intent.owner == *owner));
        let mut held_by = None;
        for intent in intents
            .iter()
            .filter(|intent| !over.contains(&intent.owner))
        {
            let left = intent.holds(age);
            // It waits at most that long from first sight, whatever ages the store tells.
            let until = holders
                .entry(intent.owner.clone())
                .or_insert_with(|| now + left.min(LONGEST_DEADLINE));
            if !left.is_zero() && *until > now {
                held_by.get_or_insert_with(|| crate::error::store::presentable_name(&intent.name));
            }
        }
        held_by
    }

    /// What is known against this refresh token, if Coze has rejected it.
    fn refused_grant(&self, record: &Record) -> Option<RefusedGrant> {
        let refresh_token = record.fingerprint();
        let state = self.state();
        let mut refused = state.refused_grants.iter();
        refused
            .find(|refused| refused.refresh_token == refresh_token)
            .cloned()
    }

    /// `invalid_grant` means that the user must sign in, unless another owner has redeemed the refresh token and is about to save: looks
    /// into the store until that can't be any more.
    async fn believe(&self, run: &Run, mode: RefreshMode, budget: &Budget) -> Result<Refreshed> {
        let mut wait = FIRST_LOOK;
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
                    // Somebody else has written: load again.
                    false => continue,
                }
            }
            if budget.is_spent() || self.is_closing() {
                return Err(self.in_doubt(&refused.refusal, left));
            }
            sleep(wait.min(budget.left()).min(left)).await;
            wait = (wait * 2).min(LONGEST_LOOK);
        }
    }

    /// Whether an owner may still save that had an intent in the record when this process first loaded it after its `invalid_grant`. Where
    /// the lock ends with its process, they are dead: we hold it.
    fn waits_for(&self, run: &Run, now: &Current) -> bool {
        let age = now.age(self.clock());
        let others = now
            .record
            .intents
            .iter()
            .filter(|intent| intent.owner != run.owner.id());
        let mut state = self.state();
        let others: Vec<String> = others
            .filter(|intent| intent.counts(age) && !state.over.contains(&intent.owner))
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

    /// Marks the record that was just loaded as ended. False if another was written in between.
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
            tracing::warn!(profile = %self.sign_in.profile(), kind = ?error.kind(), "that could not be stored");
        }
        true
    }

    fn held_back(&self, not_before: &NotBefore) -> Error {
        let left = Duration::from_millis(not_before.ms).min(LONGEST_NOT_BEFORE);
        let profile = self.sign_in.profile();
        let status = not_before
            .status
            .and_then(|status| http::StatusCode::from_u16(status).ok());
        let error = match status {
            Some(status) => Error::new(
                ErrorKind::Refused,
                format!("the server has just refused to refresh the sign-in of profile {profile}"),
            )
            .with_status(status),
            None => Error::new(
                ErrorKind::Connect,
                format!(
                    "the server could not be reached just now to refresh the sign-in of profile {profile}"
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

    /// How long others are to leave the server alone after this last failure, if it said so.
    fn not_before(&self, error: &Error) -> Option<NotBefore> {
        let failures = lock(&self.failures);
        let all = |count: u32| failures.attempts > 0 && count == failures.attempts;
        let status = error.status().map(|status| status.as_u16());
        // Any other error, such as a lock that ended while the system slept, says nothing about the server.
        let holds_back = match status {
            Some(429) => true,
            Some(503) if error.retry_after().is_some() => true,
            Some(_) => all(failures.server_errors),
            // A connection that one machine can't make says nothing about others.
            None => {
                error.kind() == ErrorKind::Connect
                    && self.lifetime == LockLifetime::ProcessBound
                    && all(failures.no_connection)
            }
        };
        holds_back.then(|| NotBefore {
            ms: millis(
                error
                    .retry_after()
                    .unwrap_or(NOT_BEFORE)
                    .min(LONGEST_NOT_BEFORE),
            ),
            status,
        })
    }
}

/// A lock that is held.
pub(super) struct Lock {
    /// None once it is released.
    store: Option<Arc<dyn Store>>,
    key: Key,
    owner: Owner,
    lifetime: LockLifetime,
    /// It ends this long after it was asked for, if it does not end with its process.
    began: Moment,
    ttl: Duration,
}

impl Lock {
    pub(super) async fn release(mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        // If it fails, it ends by itself.
        if !matches!(
            timeout(LONGEST_RELEASE, store.unlock(&self.key, &self.owner)).await,
            Ok(Ok(()))
        ) {
            tracing::debug!(profile = %self.key.profile(), "a lock was not released");
        }
    }
}

impl Drop for Lock {
    /// A run that was cut off, with its runtime or because its answer did not come in time, must not leave a lock behind that lasts as
    /// long as the process.
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
    store_error(StoreError::new(
        StoreErrorKind::Transient,
        "the store of sign-ins did not answer before the deadline",
    ))
}
