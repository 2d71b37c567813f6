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
    failures: u32,
    grounded: Option<Grounded>,
    closed: bool,
}

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

/// The pause after the first failure; each later one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
        if let Some(flight) = &state.in_the_air {
            return Ok(Boarding::Joined(Waiting(flight.clone())));
        }
        // A flight puts its token in place before it lands.
        if let Some(token) = landed_meanwhile() {
            return Err(token);
        }
        if state.closed {
            return Ok(Boarding::Refused(Error::new(
                ErrorKind::InvalidInput,
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

    /// Ends the flight in the air and tells all who wait. Returns the pause after a failure.
    pub(super) fn land(&self, takeoff: &Takeoff, result: Result<AccessToken>) -> Option<Duration> {
        if let Err(error) = &result {
            tracing::warn!(
                kind = ?error.kind(), code = ?error.code(), log_id = error.log_id(),
                "no new access token"
            );
        }
        let pause = {
            let mut state = self.state();
            state.in_the_air = None;
            match &result {
                Ok(_) => {
                    state.failures = 0;
                    state.grounded = None;
                    None
                }
                Err(error) => {
                    let pause = pause_after(state.failures, error);
                    state.failures = state.failures.saturating_add(1);
                    state.grounded = Some(Grounded {
                        error: error.clone(),
                        until: Instant::now() + pause,
                    });
                    Some(pause)
                }
            }
        };
        takeoff.0.send_replace(Some(result));
        pause
    }

    /// The last failure, if none has succeeded since.
    pub(super) fn last_error(&self) -> Option<Error> {
        let state = self.state();
        state
            .grounded
            .as_ref()
            .map(|grounded| grounded.error.clone())
    }

    /// Starts no more flights, and gives the one in the air, if any.
    pub(super) fn close(&self) -> Option<Waiting> {
        let mut state = self.state();
        state.closed = true;
        state.in_the_air.clone().map(Waiting)
    }
}

fn pause_after(failures_before: u32, error: &Error) -> Duration {
    let grown = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures_before));
    grown
        .max(error.retry_after().unwrap_or_default())
        .min(LONGEST_PAUSE)
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

/// Flies one flight, in a task of its own that no caller's end can cancel, and lands it whatever happens.
///
/// The first runtime on which this is called is kept, so that a call from outside of any runtime can fly
/// too.
pub(super) fn take_off(
    takeoff: Takeoff,
    destination: impl Destination,
    patience: Duration,
    kept: &OnceLock<Handle>,
) {
    let pilot = Pilot {
        destination,
        takeoff: Some(takeoff),
    };
    if let Ok(runtime) = Handle::try_current() {
        let _ = kept.set(runtime.clone());
        runtime.spawn(pilot.fly(patience));
    } else if let Some(runtime) = kept.get() {
        runtime.spawn(pilot.fly(patience));
    } else {
        pilot.land(Err(Error::invalid_input(
            "a cached provider needs a tokio runtime",
        )));
    }
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
        assert_eq!(flights.land(&takeoff, Ok(token)), None);
        assert_eq!(first.landed().await.unwrap().expose(), "czs_1");
        assert_eq!(second.landed().await.unwrap().expose(), "czs_1");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_pause_grows_and_tells_the_time_of_the_next_try() {
        let flights = Flights::new();
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            let Boarding::Started(takeoff, _) = board(&flights) else {
                panic!("a pause is over");
            };
            let pause = flights.land(&takeoff, Err(failure()));
            assert_eq!(pause, Some(Duration::from_secs(expected)));
            let Boarding::Refused(error) = board(&flights) else {
                panic!("a pause has begun");
            };
            assert_eq!(error.kind(), ErrorKind::Connect);
            assert_eq!(error.retry_after(), pause);
            tokio::time::advance(Duration::from_secs(expected)).await;
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
            let pause = flights.land(&takeoff, result);
            assert_eq!(pause, failed.then_some(FIRST_PAUSE));
            tokio::time::advance(FIRST_PAUSE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_may_ask_for_a_longer_pause() {
        let flights = Flights::new();
        let Boarding::Started(takeoff, _) = board(&flights) else {
            panic!("the first caller starts");
        };
        let error = failure().with_retry_after(Some(Duration::from_secs(20)));
        assert_eq!(
            flights.land(&takeoff, Err(error)),
            Some(Duration::from_secs(20))
        );
    }
}
