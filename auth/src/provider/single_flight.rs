//! Single flight: concurrent callers that need the token of one key share one request.
//!
//! The request belongs to no caller: it ends when it completes or at its own deadline, not when a caller is dropped. If its
//! runtime ends, it is abandoned, and a waiting caller starts another.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use tokio::{sync::Notify, time::Instant};

use crate::{
    AccessToken, Error, Result,
    retry::{BETWEEN_INVALIDATIONS, Backoff},
    runtime::lock,
};

/// The requests of one key, of which at most one is in flight.
#[derive(Default)]
pub(super) struct SingleFlight(Mutex<State>);

#[derive(Default)]
struct State {
    in_flight: Option<Arc<InFlight>>,
    backoff: Backoff,
    /// When a token that the API refused was last invalidated.
    invalidated: Option<Instant>,
    /// The request in flight may return a token of a sign-in that has been replaced or signed out since.
    is_stale: bool,
}

/// A request and its result.
#[derive(Default)]
pub(super) struct InFlight {
    outcome: OnceLock<Outcome>,
    done: Notify,
}

#[derive(Clone)]
pub(super) enum Outcome {
    Completed(Result<AccessToken>),
    /// No result: its runtime ended.
    Abandoned,
}

/// What a request is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Get a token.
    Mint,
    /// Check the store for a fresh sign-in during a backoff and, if there is one, get a token.
    CheckStore,
}

/// What a caller that needs a token has to do.
pub(super) enum Begin {
    /// Wait for the request that is in flight.
    Joined(Arc<InFlight>),
    /// Start the request, then wait for it.
    Leader(Arc<InFlight>, Purpose),
    /// Return the error of the last request: its backoff has not ended.
    BackOff(Error),
}

impl InFlight {
    /// Waits until the request ends. Needs no runtime.
    pub(super) async fn outcome(&self) -> Outcome {
        // Created before the check, so that a completion between the two is not missed.
        let done = self.done.notified();
        if self.outcome.get().is_none() {
            done.await;
        }
        let outcome = self.outcome.get().cloned();
        outcome.unwrap_or(Outcome::Abandoned)
    }

    fn end(&self, outcome: Outcome) {
        let _ = self.outcome.set(outcome);
        self.done.notify_waiters();
    }
}

impl SingleFlight {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Joins the request in flight, or begins one. Returns the value of `known` as an error if there is one, because no
    /// request is needed then. During a backoff, `news` is `None` if there is no store to check; otherwise it says whether
    /// a fresh sign-in is known to be in the store.
    pub(super) fn begin<T>(
        &self,
        known: impl FnOnce() -> Option<T>,
        news: impl FnOnce() -> Option<bool>,
    ) -> Result<Begin, T> {
        let mut state = self.state();
        if let Some(in_flight) = &state.in_flight {
            return Ok(Begin::Joined(Arc::clone(in_flight)));
        }
        // A request installs its token before it completes, so the caller may have missed it.
        if let Some(known) = known() {
            return Err(known);
        }
        let purpose = match state.backoff.error() {
            None => Purpose::Mint,
            Some(_) if news().is_some_and(|known| state.backoff.may_check_store(known)) => {
                Purpose::CheckStore
            }
            Some(error) => return Ok(Begin::BackOff(error)),
        };
        state.is_stale = false;
        let in_flight = Arc::<InFlight>::default();
        state.in_flight = Some(Arc::clone(&in_flight));
        Ok(Begin::Leader(in_flight, purpose))
    }

    fn end(&self, outcome: impl FnOnce(&mut State) -> Outcome) {
        let (outcome, in_flight) = {
            let mut state = self.state();
            (outcome(&mut state), state.in_flight.take())
        };
        if let Some(in_flight) = in_flight {
            in_flight.end(outcome);
        }
    }

    /// Completes the request in flight and wakes its waiters. If it is stale, its token is removed and the waiters retry.
    pub(super) fn complete(&self, token: AccessToken, remove: impl FnOnce(&AccessToken)) {
        self.end(|state| {
            state.backoff = Backoff::default();
            if std::mem::take(&mut state.is_stale) {
                remove(&token);
                return Outcome::Abandoned;
            }
            Outcome::Completed(Ok(token))
        });
    }

    /// Ends the backoff and marks the request in flight as stale, because the sign-in has changed.
    pub(super) fn outdate(&self) {
        let mut state = self.state();
        state.backoff = Backoff::default();
        state.is_stale = state.in_flight.is_some();
    }

    /// Completes the request in flight with an error. Returns the backoff, if there is one. It ends no later than the token
    /// that is `still_served`. If the request is stale, its waiters retry, and there is no backoff.
    pub(super) fn fail(
        &self,
        mut error: Error,
        still_served: Option<std::time::Duration>,
    ) -> Option<std::time::Duration> {
        let mut backoff = None;
        self.end(|state| {
            if std::mem::take(&mut state.is_stale) {
                return Outcome::Abandoned;
            }
            backoff = state.backoff.record(&mut error, still_served);
            Outcome::Completed(Err(error))
        });
        backoff
    }

    /// Ends the request in flight, which has found no fresh sign-in. The backoff continues.
    pub(super) fn back_off(&self) {
        self.end(|state| match state.backoff.error() {
            Some(error) => Outcome::Completed(Err(error)),
            None => Outcome::Abandoned,
        });
    }

    /// Ends the request in flight without a result.
    pub(super) fn abandon(&self) {
        self.end(|_| Outcome::Abandoned);
    }

    /// Ends the backoff, because a fresh sign-in has been stored.
    pub(super) fn end_backoff(&self) {
        self.state().backoff = Backoff::default();
    }

    pub(super) fn in_flight(&self) -> Option<Arc<InFlight>> {
        self.state().in_flight.clone()
    }

    /// Whether nothing is in flight, in backoff or recently invalidated.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.in_flight.is_none()
            && state.backoff.error().is_none()
            && !has_just_invalidated(&state)
    }

    /// Removes a token that the API refused, unless another one was removed within [`BETWEEN_INVALIDATIONS`]. `remove`
    /// returns whether the token was cached. It runs under the lock, so that a second caller with the same token returns
    /// only after the removal.
    pub(super) fn invalidate(&self, remove: impl FnOnce() -> bool) {
        let mut state = self.state();
        if !has_just_invalidated(&state) && remove() {
            state.invalidated = Some(Instant::now());
        }
    }
}

fn has_just_invalidated(state: &State) -> bool {
    state
        .invalidated
        .is_some_and(|last| last.elapsed() < BETWEEN_INVALIDATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn begin(flight: &SingleFlight) -> Begin {
        flight.begin(|| None::<()>, || None).unwrap()
    }

    fn lead(flight: &SingleFlight) -> Arc<InFlight> {
        let Begin::Leader(in_flight, Purpose::Mint) = begin(flight) else {
            panic!("this caller should be the leader");
        };
        in_flight
    }

    #[tokio::test]
    async fn all_callers_join_one_request_and_get_its_result() {
        let flight = SingleFlight::default();
        let first = lead(&flight);
        let Begin::Joined(second) = begin(&flight) else {
            panic!("the second caller should join");
        };
        flight.complete(AccessToken::new("czs_1").unwrap(), |_| ());
        for waiting in [first, second] {
            let Outcome::Completed(Ok(token)) = waiting.outcome().await else {
                panic!("it should be complete");
            };
            assert_eq!(token.expose(), "czs_1");
        }
        lead(&flight);
    }

    #[tokio::test]
    async fn waiters_of_an_abandoned_request_may_start_another() {
        let flight = SingleFlight::default();
        let first = lead(&flight);
        flight.abandon();
        assert!(matches!(first.outcome().await, Outcome::Abandoned));
        lead(&flight);
    }

    #[tokio::test(start_paused = true)]
    async fn during_a_backoff_the_store_may_be_checked() {
        let flight = SingleFlight::default();
        lead(&flight);
        flight.fail(Error::new(ErrorKind::Connect, "down"), None);
        assert!(matches!(begin(&flight), Begin::BackOff(_)));
        let check = || flight.begin(|| None::<()>, || Some(false)).unwrap();
        assert!(matches!(check(), Begin::Leader(_, Purpose::CheckStore)));
        flight.back_off();
        assert!(matches!(check(), Begin::BackOff(_)), "just checked");
        flight.end_backoff();
        lead(&flight);
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_one_refused_token_is_removed_in_ten_seconds() {
        let flight = SingleFlight::default();
        flight.invalidate(|| true);
        assert!(!flight.is_idle());
        flight.invalidate(|| panic!("one was just removed"));
        tokio::time::advance(BETWEEN_INVALIDATIONS).await;
        assert!(flight.is_idle());
    }
}
