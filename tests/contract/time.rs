//! How long a token lives when clocks disagree: a token that is served after its end is refused by the
//! API, and one that is thrown away too early costs an exchange.
//!
//! Each test begins at the same moment by the server's clock; the local clock is set apart from it.

use std::time::{Duration, SystemTime};

use coze_auth::Token;
use serde_json::json;

use crate::support::{InProcess, Step, device, refresh_token};

/// The server's clock when the request is made, in UNIX seconds.
const SERVER_NOW: u64 = 1_800_000_000;

fn unix(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A token answer whose `Date` is the server's clock.
fn answer(expires_in: i64) -> Step {
    answer_without_date(expires_in).with_header("date", httpdate::fmt_http_date(unix(SERVER_NOW)))
}

fn answer_without_date(expires_in: i64) -> Step {
    let body = json!({"access_token": "at_1", "refresh_token": "rt_1", "expires_in": expires_in});
    Step::json(200, &body)
}

/// 15 minutes from now, as Coze writes it.
const IN_15_MINUTES: i64 = SERVER_NOW as i64 + 900;

/// Gets a token while the local clock is this many seconds ahead of the server's.
async fn token(local_ahead: i64, answer: Step) -> (InProcess, Token) {
    let local = SERVER_NOW.checked_add_signed(local_ahead).unwrap();
    let server = InProcess::start(unix(local), [answer]);
    let token = device(server.client())
        .refresh(&refresh_token())
        .await
        .unwrap();
    (server, token)
}

#[tokio::test(start_paused = true)]
async fn with_a_right_clock_a_token_lives_to_the_second_and_no_longer() {
    let (_, token) = token(0, answer(IN_15_MINUTES)).await;
    assert_eq!(token.expires_at(), unix(SERVER_NOW + 900));
    assert_eq!(token.lifetime(), secs(900));

    tokio::time::sleep(Duration::from_millis(899_999)).await;
    assert_eq!(token.remaining(), Duration::from_millis(1));
    assert!(!token.is_expired());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(token.remaining(), Duration::ZERO);
    assert!(token.is_expired());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_by_an_hour_costs_the_second_that_date_cuts_off() {
    for local_ahead in [3600, -3600] {
        let (_, token) = token(local_ahead, answer(IN_15_MINUTES)).await;
        assert_eq!(token.expires_at(), unix(SERVER_NOW + 900), "{local_ahead}");
        assert_eq!(token.remaining(), secs(899), "{local_ahead}");

        tokio::time::sleep(secs(898)).await;
        assert!(!token.is_expired(), "{local_ahead}");
        tokio::time::sleep(secs(1)).await;
        assert!(token.is_expired(), "{local_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_wrong_clock_the_time_on_the_way_is_given_up_too() {
    for local_ahead in [3600, -3600] {
        // `Date` may have been written at any moment of these four seconds.
        let (_, token) = token(local_ahead, answer(IN_15_MINUTES).after(secs(4))).await;
        assert_eq!(token.remaining(), secs(895), "{local_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_date_the_local_clock_is_believed() {
    for (local_ahead, expected) in [(0, 900), (-60, 960), (60, 840), (3600, 0)] {
        let (_, token) = token(local_ahead, answer_without_date(IN_15_MINUTES)).await;
        assert_eq!(token.remaining(), secs(expected), "{local_ahead}");
        assert_eq!(token.is_expired(), expected == 0, "{local_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_date_that_is_none_is_as_good_as_none() {
    let nonsense = answer_without_date(IN_15_MINUTES).with_header("date", "yesterday");
    let (_, token) = token(0, nonsense).await;
    assert_eq!(token.remaining(), secs(900));
}

#[tokio::test(start_paused = true)]
async fn a_relative_expiry_needs_no_clock_and_counts_from_the_request() {
    for local_ahead in [0, 3600, -3600] {
        for step in [answer(900), answer_without_date(900)] {
            let (_, token) = token(local_ahead, step.after(secs(2))).await;
            assert_eq!(token.remaining(), secs(898), "{local_ahead}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_system_wakes_up_with_less_time_left_or_none() {
    // The wall clock runs on while the system sleeps, the monotonic one stands still.
    let (server, token) = token(0, answer(IN_15_MINUTES)).await;
    tokio::time::sleep(secs(10)).await;
    server.clock().set_wall_offset_secs(600);
    assert_eq!(token.remaining(), secs(290));
    server.clock().set_wall_offset_secs(889);
    assert_eq!(token.remaining(), secs(1));
    server.clock().set_wall_offset_secs(890);
    assert!(token.is_expired());
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_back_lengthens_no_life() {
    let (server, token) = token(0, answer(IN_15_MINUTES)).await;
    server.clock().set_wall_offset_secs(-3600);
    assert_eq!(token.remaining(), secs(900));
    tokio::time::sleep(secs(899)).await;
    assert_eq!(token.remaining(), secs(1));
    tokio::time::sleep(secs(1)).await;
    assert!(token.is_expired());
}

#[tokio::test(start_paused = true)]
async fn a_clone_lives_as_long_as_its_original() {
    let (_, token) = token(0, answer(IN_15_MINUTES)).await;
    tokio::time::sleep(secs(100)).await;
    assert_eq!(token.clone().remaining(), secs(800));
}

#[tokio::test(start_paused = true)]
async fn odd_expiries_neither_panic_nor_live_for_ever_by_mistake() {
    let assumed = (unix(SERVER_NOW + 900), secs(900));
    for (expires_in, (expires_at, remaining)) in [
        (0, (unix(SERVER_NOW), secs(0))),
        (-1, (unix(SERVER_NOW), secs(0))),
        (i64::MIN, (unix(SERVER_NOW), secs(0))),
        // The last life that a flow can issue.
        (86_400, (unix(SERVER_NOW + 86_400), secs(86_400))),
        (86_401, assumed),
        // The last that is a duration, and the first that is a time.
        (999_999_999, assumed),
        (1_000_000_000, (unix(1_000_000_000), secs(0))),
        // After 2038.
        (4_102_444_800, assumed),
        (i64::MAX, assumed),
    ] {
        let (_, token) = token(0, answer(expires_in)).await;
        assert_eq!(token.expires_at(), expires_at, "{expires_in}");
        assert_eq!(token.remaining(), remaining, "{expires_in}");
    }
}
