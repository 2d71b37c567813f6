//! Single flight: however many callers want a token, one request gets it for all of them.
//!
//! A flight is a task of its own. It ends by landing, or by its own deadline, never because a caller went
//! away; and it always lands, even when it panics or its runtime is shut down.

use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{runtime::Handle, sync::watch, time::Instant};

use super::{AccessToken, source::MintFuture};
use crate::{Error, ErrorKind, Result, Token};

/// The result of a flight, once there is one.
type Landed = Option<Result<AccessToken>>;

/// The flights of one provider, of which at most one is in the air.
pub(super) struct Flights(Mutex<State>);

#[derive(Default)]
struct State {
    in_the_air: Option<watch::Receiver<Landed>>,
    /// In a row, and since callers go without a token, if they do.
    failures: u32,
    failures_are_felt: bool,
    grounded: Option<Grounded>,
    /// The last failure, if none has succeeded since.
    last_error: Option<Error>,
    closed: bool,
    /// When a token was last given up because the API refused it.
    invalidated: Option<Instant>,
}

impl State {
    fn has_just_invalidated(&self) -> bool {
        self.invalidated
            .is_some_and(|last| last.elapsed() < BETWEEN_INVALIDATIONS)
    }
}

/// A token that the API refused is given up once in this time at most.
pub(crate) const BETWEEN_INVALIDATIONS: Duration = Duration::from_secs(10);

/// After a failure, nothing starts for a while.
struct Grounded {
    error: Error,
    until: Instant,
}

/// What a caller who wants a token is told.
pub(super) enum Boarding {
    /// Wait for the flight that is in the air.
    Joined(Waiting),
    /// Start a flight, then wait for it.
    Started(Takeoff, Waiting),
    /// Not now: the last one failed, or the provider is shut down.
    Refused(Error),
}

/// A caller's seat.
pub(super) struct Waiting(watch::Receiver<Landed>);

/// The duty to fly and to land.
pub(super) struct Takeoff(watch::Sender<Landed>);

/// The pause after the first failure; each later one doubles it, and it grows anew when the old token has ended. So
/// when a server is back, callers wait for the next try about as long as they have been without a token, at the most.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// While nobody feels it, because the old token is served, or while it helps nobody to try, because the server has
/// decided.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// While callers go without a token until the next try, and it may well help. A dead server then sees the five attempts
/// of a request every 15 seconds and some, however many callers there are.
const LONGEST_FELT_PAUSE: Duration = Duration::from_secs(15);
/// The coarse clock, by which a token ends, is behind the one that pauses are measured on: by less than this.
const COARSE_STEP: Duration = Duration::from_millis(20);
/// The longest pause that a server's `Retry-After` can cause.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(3600);

impl Flights {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight in the air, or prepares one, unless `landed_meanwhile` finds that there is no need
    /// any more.
    pub(super) fn board<T>(
        &self,
        landed_meanwhile: impl FnOnce() -> Option<T>,
    ) -> Result<Boarding, T> {
        let mut state = self.state();
        // A flight that was lost without landing, if its pilot could not even do that, is none.
        if let Some(flight) = &state.in_the_air
            && flight.has_changed().is_ok()
        {
            return Ok(Boarding::Joined(Waiting(flight.clone())));
        }
        // A flight puts its token in place before it lands.
        if let Some(token) = landed_meanwhile() {
            return Err(token);
        }
        if state.closed {
            return Ok(Boarding::Refused(Error::new(
                ErrorKind::ShutDown,
                "the provider was shut down",
            )));
        }
        if let Some(grounded) = &state.grounded {
            let left = grounded.until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let error = grounded.error.clone().with_retry_after(Some(left));
                return Ok(Boarding::Refused(error));
            }
        }
        let (takeoff, flight) = watch::channel(None);
        state.in_the_air = Some(flight.clone());
        Ok(Boarding::Started(Takeoff(takeoff), Waiting(flight)))
    }

    /// Ends the flight in the air and tells all who wait. Returns the pause after a failure; it does not last
    /// longer than the token that is `still_served`.
    pub(super) fn land(
        &self,
        takeoff: &Takeoff,
        mut result: Result<AccessToken>,
        still_served: Option<Duration>,
    ) -> Option<Duration> {
        let pause = {
            let mut state = self.state();
            state.in_the_air = None;
            match &mut result {
                Ok(_) => {
                    state.failures = 0;
                    state.grounded = None;
                    state.last_error = None;
                    None
                }
                // The caller's own mistake: another caller need not wait for it to pass. Nor need who has just
                // signed in.
                Err(error) if passes_at_once(error.kind(), still_served.is_some()) => {
                    state.last_error = Some(error.clone());
                    None
                }
                Err(error) => {
                    let is_felt = still_served.is_none();
                    if is_felt && !state.failures_are_felt {
                        state.failures = 0;
                    }
                    state.failures_are_felt = is_felt;
                    let pause = pause_after(state.failures, error, still_served);
                    *error = error.clone().with_retry_after(Some(pause));
                    state.failures = state.failures.saturating_add(1);
                    state.last_error = Some(error.clone());
                    state.grounded = Some(Grounded {
                        error: error.clone(),
                        until: Instant::now() + pause,
                    });
                    Some(pause)
                }
            }
        };
        if let Err(error) = &result {
            tracing::warn!(
                kind = ?error.kind(), code = ?error.code(), log_id = error.log_id(),
                "no new access token"
            );
        }
        takeoff.0.send_replace(Some(result));
        pause
    }

    /// Ends a flight that has not left the ground, so that nothing is known by it: nobody has to pause for that. Returns
    /// when to try again.
    pub(super) fn call_off(&self, takeoff: &Takeoff, error: Error) -> Option<Duration> {
        let pause = error.retry_after();
        self.state().in_the_air = None;
        takeoff.0.send_replace(Some(Err(error)));
        pause
    }

    /// Whether there is nothing to remember: no flight, no pause.
    pub(super) fn is_at_rest(&self) -> bool {
        let state = self.state();
        let paused = state
            .grounded
            .as_ref()
            .is_some_and(|grounded| Instant::now() < grounded.until);
        state.in_the_air.is_none() && !paused && !state.has_just_invalidated()
    }

    /// Gives up a token that the API refused, unless that has just been done: an API that refuses every token must
    /// not cause a request for each call. Of two callers who were refused the same token the second one waits here
    /// until it is gone, so that it does not find it again. `give_up` says whether it was there.
    pub(super) fn invalidate(&self, give_up: impl FnOnce() -> bool) {
        let mut state = self.state();
        if !state.has_just_invalidated() && give_up() {
            state.invalidated = Some(Instant::now());
        }
    }

    /// The last failure, if none has succeeded since.
    pub(super) fn last_error(&self) -> Option<Error> {
        self.state().last_error.clone()
    }

    /// Starts no more flights, and gives the one in the air, if any.
    pub(super) fn close(&self) -> Option<Waiting> {
        let mut state = self.state();
        state.closed = true;
        state.in_the_air.clone().map(Waiting)
    }
}

/// While a token is still served there is no hurry, but it must not end before a healthy server was asked
/// again: the grown pause takes half of what is left, and a pause that the server asked for all of it. When there is
/// no token, what the server asked for is kept to in full.
fn pause_after(failures_before: u32, error: &Error, still_served: Option<Duration>) -> Duration {
    let is_decided = error.kind() == ErrorKind::Refused && !error.is_retryable();
    let longest = if still_served.is_some() || is_decided {
        LONGEST_PAUSE
    } else {
        LONGEST_FELT_PAUSE
    };
    let grown = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures_before));
    let grown = grown.min(longest);
    let asked = error
        .retry_after()
        .unwrap_or_default()
        .min(LONGEST_ASKED_PAUSE);
    match still_served {
        None => grown.max(asked),
        Some(left) => grown
            .min((left / 2).max(FIRST_PAUSE))
            .max(asked)
            .min(left.saturating_sub(COARSE_STEP)),
    }
}

fn passes_at_once(kind: ErrorKind, is_served: bool) -> bool {
    match kind {
        ErrorKind::InvalidInput => true,
        ErrorKind::NotSignedIn => !is_served,
        _ => false,
    }
}

impl Waiting {
    /// Waits for the landing.
    pub(super) async fn landed(mut self) -> Result<AccessToken> {
        match self.0.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or_else(|| Err(lost())),
            Err(_) => Err(lost()),
        }
    }
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Interrupted,
        "the request for a token was given up: it panicked, or its runtime was shut down",
    )
}

/// What a flight is for.
pub(super) trait Destination: Send + Sync + 'static {
    /// Gets a token.
    fn mint(&self, deadline: Instant) -> MintFuture<'_>;

    /// Puts it in place, and ends the flight.
    fn land(&self, takeoff: &Takeoff, minted: Result<Token>);
}

/// Where flights run: the runtime that was chosen, else the caller's, else the first caller's.
pub(super) struct Runtime {
    pub(super) chosen: Option<Handle>,
    first: OnceLock<Handle>,
}

impl Runtime {
    pub(super) fn new(chosen: Option<Handle>) -> Self {
        Self {
            chosen,
            first: OnceLock::new(),
        }
    }

    /// # Errors
    ///
    /// When there is none.
    pub(super) fn handle(&self) -> Result<Handle> {
        if let Some(chosen) = &self.chosen {
            return Ok(chosen.clone());
        }
        match Handle::try_current() {
            Ok(current) => {
                let _ = self.first.set(current.clone());
                Ok(current)
            }
            Err(_) => self.first.get().cloned().ok_or_else(|| {
                Error::new(
                    ErrorKind::System,
                    "a provider needs a tokio runtime to get a token",
                )
            }),
        }
    }
}

/// The longest that anybody may be willing to wait: a day.
pub(crate) const LONGEST_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Flies one flight, in a task of its own that no caller's end can cancel, and lands it whatever happens.
pub(super) fn take_off(
    takeoff: Takeoff,
    destination: impl Destination,
    patience: Duration,
    runtime: &Handle,
) {
    let pilot = Pilot {
        destination,
        takeoff: Some(takeoff),
    };
    runtime.spawn(pilot.fly(patience.min(LONGEST_PATIENCE)));
}

struct Pilot<D: Destination> {
    destination: D,
    takeoff: Option<Takeoff>,
}

impl<D: Destination> Pilot<D> {
    async fn fly(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let minting = AssertUnwindSafe(self.destination.mint(deadline));
        let minted = minting.catch_unwind().await;
        self.land(minted.unwrap_or_else(|_panic| Err(lost())));
    }

    fn land(mut self, minted: Result<Token>) {
        if let Some(takeoff) = self.takeoff.take() {
            self.destination.land(&takeoff, minted);
        }
    }
}

impl<D: Destination> Drop for Pilot<D> {
    fn drop(&mut self) {
        if let Some(takeoff) = self.takeoff.take() {
            self.destination.land(&takeoff, Err(lost()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Error {
        Error::new(ErrorKind::Connect, "down")
    }

    fn board(flights: &Flights) -> Boarding {
        match flights.board(|| None::<()>) {
            Ok(boarding) => boarding,
            Err(()) => unreachable!("nothing landed meanwhile"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_joins_the_one_flight_and_gets_its_result() {
        let flights = Flights::new();
        let Boarding::Started(takeoff, first) = board(&flights) else {
            panic!("the first caller starts");
        };
        let Boarding::Joined(second) = board(&flights) else {
            panic!("the second one joins");
        };
        let token = AccessToken::new("czs_1").unwrap();
        assert_eq!(flights.land(&takeoff, Ok(token), None), None);
        assert_eq!(first.landed().await.unwrap().expose(), "czs_1");
        assert_eq!(second.landed().await.unwrap().expose(), "czs_1");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_pause_grows_and_tells_the_time_of_the_next_try() {
        let refused = || Error::new(ErrorKind::Refused, "no");
        let dead_server = [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0];
        let a_decision = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
        for (failure, pauses) in [
            (failure as fn() -> Error, &dead_server[..]),
            (refused, &a_decision),
        ] {
            let flights = Flights::new();
            for seconds in pauses {
                let expected = Duration::from_secs_f64(*seconds);
                let Boarding::Started(takeoff, _) = board(&flights) else {
                    panic!("a pause is over");
                };
                let pause = flights.land(&takeoff, Err(failure()), None);
                assert_eq!(pause, Some(expected));
                let Boarding::Refused(error) = board(&flights) else {
                    panic!("a pause has begun");
                };
                assert_eq!(error.kind(), failure().kind());
                assert_eq!(error.retry_after(), pause);
                tokio::time::advance(expected).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_ends_the_growth() {
        let flights = Flights::new();
        for result in [Err(failure()), AccessToken::new("czs_1"), Err(failure())] {
            let Boarding::Started(takeoff, _) = board(&flights) else {
                panic!("a pause is over");
            };
            let failed = result.is_err();
            let pause = flights.land(&takeoff, result, None);
            assert_eq!(pause, failed.then_some(FIRST_PAUSE));
            tokio::time::advance(FIRST_PAUSE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_anew_when_callers_go_without_a_token() {
        let flights = Flights::new();
        let served = Some(Duration::from_secs(100));
        let mut pauses = Vec::new();
        for still_served in [served, served, served, None, None, None] {
            let Boarding::Started(takeoff, _) = board(&flights) else {
                panic!("a pause is over");
            };
            let pause = flights.land(&takeoff, Err(failure()), still_served);
            pauses.push(pause.unwrap());
            tokio::time::advance(pause.unwrap()).await;
        }
        let expected = [1, 2, 4, 1, 2, 4].map(|halves| FIRST_PAUSE * halves);
        assert_eq!(pauses, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_may_ask_for_a_longer_pause() {
        let flights = Flights::new();
        let Boarding::Started(takeoff, _) = board(&flights) else {
            panic!("the first caller starts");
        };
        let error = failure().with_retry_after(Some(Duration::from_secs(20)));
        assert_eq!(
            flights.land(&takeoff, Err(error), None),
            Some(Duration::from_secs(20))
        );
    }

    #[test]
    fn a_pause_ends_before_the_token_that_is_still_served_or_with_it() {
        let secs = Duration::from_secs;
        let asked = |seconds| failure().with_retry_after(Some(secs(seconds)));
        for (failures, error, left, pause) in [
            (0, failure(), secs(100), FIRST_PAUSE),
            (9, failure(), secs(100), secs(50)),
            (9, failure(), secs(1), secs(1) / 2),
            (9, failure(), secs(1) / 2, secs(1) / 2 - COARSE_STEP),
            (9, failure(), COARSE_STEP / 2, Duration::ZERO),
            (0, asked(30), secs(100), secs(30)),
            (0, asked(300), secs(100), secs(100) - COARSE_STEP),
        ] {
            assert_eq!(pause_after(failures, &error, Some(left)), pause);
        }
    }
}
