//! The lifetime of a token if clocks disagree: a token that is served after its expiry is refused by the
//! API, and one that is discarded too early costs an exchange.
//!
//! Each test starts at the same time by the server's clock; the local clock differs from it.

use std::time::{Duration, SystemTime};

use coze_auth::{Token, UserFlow};
use serde_json::json;

use crate::support::{InProcess, Step, device, refresh_token};

/// The server's clock when the request is sent, in UNIX seconds.
const SERVER_NOW: u64 = 1_800_000_000;

fn unix(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A token response whose `Date` is the server's clock.
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
async fn with_a_correct_clock_the_lifetime_is_exact() {
    let (_, token) = token(0, answer(IN_15_MINUTES)).await;
    assert_eq!(token.expires_at(), unix(SERVER_NOW + 900));
    assert_eq!(token.remaining(), secs(900));

    tokio::time::sleep(Duration::from_millis(899_999)).await;
    assert_eq!(token.remaining(), Duration::from_millis(1));
    assert!(!token.remaining().is_zero());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(token.remaining(), Duration::ZERO);
    assert!(token.remaining().is_zero());
}

#[tokio::test(start_paused = true)]
async fn with_a_wrong_clock_the_resolution_of_date_is_subtracted() {
    for local_ahead in [3600, -3600] {
        let (_, token) = token(local_ahead, answer(IN_15_MINUTES)).await;
        assert_eq!(token.expires_at(), unix(SERVER_NOW + 900), "{local_ahead}");
        assert_eq!(token.remaining(), secs(899), "{local_ahead}");

        tokio::time::sleep(secs(898)).await;
        assert!(!token.remaining().is_zero(), "{local_ahead}");
        tokio::time::sleep(secs(1)).await;
        assert!(token.remaining().is_zero(), "{local_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_wrong_clock_the_network_latency_is_subtracted_too() {
    for local_ahead in [3600, -3600] {
        // `Date` may have been generated at any time during these four seconds.
        let (_, token) = token(local_ahead, answer(IN_15_MINUTES).after(secs(4))).await;
        assert_eq!(token.remaining(), secs(895), "{local_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_date_the_local_clock_is_used() {
    for (local_ahead, expected) in [(0, 900), (-60, 960), (60, 840), (3600, 0)] {
        let (_, token) = token(local_ahead, answer_without_date(IN_15_MINUTES)).await;
        assert_eq!(token.remaining(), secs(expected), "{local_ahead}");
        assert_eq!(token.remaining().is_zero(), expected == 0, "{local_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalid_date_counts_as_missing() {
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
async fn time_passes_while_the_system_is_suspended() {
    // During suspend the wall clock advances and the monotonic clock does not.
    let (server, token) = token(0, answer(IN_15_MINUTES)).await;
    tokio::time::sleep(secs(10)).await;
    server.clock().set_wall_offset_secs(600);
    assert_eq!(token.remaining(), secs(290));
    server.clock().set_wall_offset_secs(889);
    assert_eq!(token.remaining(), secs(1));
    server.clock().set_wall_offset_secs(890);
    assert!(token.remaining().is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_back_does_not_extend_a_lifetime() {
    let (server, token) = token(0, answer(IN_15_MINUTES)).await;
    server.clock().set_wall_offset_secs(-3600);
    assert_eq!(token.remaining(), secs(900));
    tokio::time::sleep(secs(899)).await;
    assert_eq!(token.remaining(), secs(1));
    tokio::time::sleep(secs(1)).await;
    assert!(token.remaining().is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_clone_expires_with_its_original() {
    let (_, token) = token(0, answer(IN_15_MINUTES)).await;
    tokio::time::sleep(secs(100)).await;
    assert_eq!(token.clone().remaining(), secs(800));
}

#[tokio::test(start_paused = true)]
async fn extreme_expiries_neither_panic_nor_become_unlimited() {
    let assumed = (unix(SERVER_NOW + 900), secs(900));
    for (expires_in, (expires_at, remaining)) in [
        (0, (unix(SERVER_NOW), secs(0))),
        (-1, (unix(SERVER_NOW), secs(0))),
        (i64::MIN, (unix(SERVER_NOW), secs(0))),
        // The longest lifetime that a flow can grant.
        (86_400, (unix(SERVER_NOW + 86_400), secs(86_400))),
        (86_401, assumed),
        // The largest value that is a duration, and the smallest that is a timestamp.
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
