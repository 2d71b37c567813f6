//! A session pool while the server is down: the circuit breaker limits requests, no caller waits, and an error concerns only its own session.

use std::time::Duration;

use coze_auth::{Error, ErrorKind, Flow, JwtTokenRequest, SessionPool};
use coze_mock::{Endpoint as MockEndpoint, Fault, Times, When};
use tokio::time::Instant;

use crate::support::{Interruption, Stage, jwt_flow, millis, pass, secs, status};

#[tokio::test(start_paused = true)]
async fn the_circuit_breaker_limits_requests_of_many_sessions() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(8)
        .deadline(secs(20))
        .build();
    stage.network.cut(Interruption::Refused);
    let users: Vec<_> = (0..1000)
        .map(|user| {
            let session = pool.session(format!("user-{user}"));
            tokio::spawn(async move {
                let error = session.token().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
                while let Err(error) = session.token().await {
                    tokio::time::sleep(error.retry_after().unwrap_or(secs(1))).await;
                }
            })
        })
        .collect();
    pass(secs(60)).await;
    // As many as open the circuit breaker, then at most 8 per second.
    let attempts = stage.network.attempts();
    assert!((8 * 50..8 * 62).contains(&attempts), "{attempts} attempts");
    assert_eq!(pool.stats().cached, 0);

    stage.network.repair();
    let repaired = Instant::now();
    for user in users {
        user.await.unwrap();
    }
    assert!(repaired.elapsed() < secs(20), "{:?}", repaired.elapsed());
    assert_eq!(pool.stats().cached, 1000);
}

#[tokio::test(start_paused = true)]
async fn all_sessions_respect_a_retry_after() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(2)
        .build();
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(10),
        MockEndpoint::Token,
        Times::Forever,
    );
    let users: Vec<_> = (0..100)
        .map(|user| {
            let session = pool.session(format!("user-{user}"));
            tokio::spawn(async move {
                while let Err(error) = session.token().await {
                    assert_eq!(status(&error), Some(429), "{error}");
                    assert!(error.is_retryable(), "{error}");
                    pass(error.retry_after().unwrap()).await;
                }
            })
        })
        .collect();
    pass(secs(61)).await;
    for user in users {
        assert!(!user.is_finished(), "it continues to retry");
    }
    let attempts = stage.token_requests().len();
    assert!((12..=18).contains(&attempts), "{attempts} attempts");
}

/// Concurrent callers of this many sessions. Each gets an error.
async fn ask_in_vain(pool: &SessionPool, users: std::ops::Range<u32>) -> Vec<Error> {
    let callers: Vec<_> = users
        .map(|user| {
            let session = pool.session(format!("user-{user}"));
            tokio::spawn(async move { session.token().await.unwrap_err() })
        })
        .collect();
    let mut errors = Vec::new();
    for caller in callers {
        errors.push(caller.await.unwrap());
    }
    errors
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_fails_new_sessions_immediately_and_serves_cached_tokens() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.max_concurrent_requests(8).build();
    let lucky = pool.session("lucky");
    let held = lucky.token().await.unwrap();
    let before = stage.network.attempts();
    stage.network.cut(Interruption::Refused);

    // A hundred new sessions per second.
    for users in (0..6000).step_by(100) {
        let asked = Instant::now();
        for error in ask_in_vain(&pool, users..users + 100).await {
            assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
            let retry_after = error.retry_after().unwrap();
            assert!(
                (millis(375)..=millis(1250)).contains(&retry_after),
                "{error:?}"
            );
        }
        // The permitted sessions have retried.
        assert!(asked.elapsed() <= millis(201), "{:?}", asked.elapsed());

        let asked = Instant::now();
        ask_in_vain(&pool, 10_000 + users..10_100 + users).await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert_eq!(lucky.token().await.unwrap().expose(), held.expose());
        pass(millis(1010)).await;
    }
    let attempts = stage.network.attempts() - before;
    assert!((8 * 50..8 * 62).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_fails_waiting_callers() {
    let stage = Stage::new();
    let client = stage.client_builder().request_timeout(secs(5));
    let pool = SessionPool::builder(jwt_flow(client.build().unwrap()))
        .max_concurrent_requests(4)
        .build();
    stage.network.cut(Interruption::Silent);
    let began = Instant::now();
    for error in ask_in_vain(&pool, 0..100).await {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    // Four requests that timed out and four more open the circuit breaker.
    let waited = began.elapsed();
    assert!((secs(10)..secs(11)).contains(&waited), "{waited:?}");
    assert_eq!(stage.network.attempts(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_until_the_deadline_opens_the_breaker() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(4)
        .deadline(secs(10))
        .build();
    stage.network.cut(Interruption::Silent);
    for users in [0..100, 100..200] {
        let began = Instant::now();
        ask_in_vain(&pool, users).await;
        assert_eq!(began.elapsed(), secs(10));
    }
    // Four at a time are permitted; one more consecutive failure opens the circuit breaker.
    let began = Instant::now();
    let refused = ask_in_vain(&pool, 200..300).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(
        refused
            .iter()
            .all(|error| error.kind() == ErrorKind::Timeout)
    );
    assert_eq!(stage.network.attempts(), 8);
    assert_eq!(pool.stats().failures, 200);
}

#[tokio::test(start_paused = true)]
async fn a_steady_stream_of_sessions_opens_the_breaker_too() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(4)
        .deadline(secs(10))
        .build();
    pool.session("earlier").token().await.unwrap();
    stage.network.cut(Interruption::Silent);
    let mut callers = Vec::new();
    for user in 0..300 {
        let session = pool.session(format!("user-{user}"));
        callers.push(tokio::spawn(async move {
            let asked = Instant::now();
            session.token().await.map(drop).unwrap_err();
            asked.elapsed()
        }));
        pass(millis(100)).await;
    }
    let mut waited = Vec::new();
    for caller in callers {
        waited.push(caller.await.unwrap());
    }
    // The sessions of the last ten seconds, except the four half-open attempts.
    let long = waited[200..].iter().filter(|waited| **waited > millis(1));
    assert!(long.count() <= 4 * 10, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_earlier_error_is_reported_after_the_server_falls_silent() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).deadline(secs(10)).build();
    let faults = stage.mock.faults();
    faults.add(Fault::internal_error(), MockEndpoint::Token, Times::ONCE);
    let when = When::BeforeProcessing;
    faults.add(Fault::Timeout { when }, MockEndpoint::Token, Times::Forever);
    let began = Instant::now();
    let error = pool.session("a").token().await.unwrap_err();
    assert_eq!(began.elapsed(), secs(10));
    assert_eq!(status(&error), Some(500), "{error}");
    assert!(error.log_id().is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_only_waiting_callers_cause_requests() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.max_concurrent_requests(8).build();
    stage.network.cut(Interruption::Refused);
    for user in 0..3000 {
        let session = pool.session(format!("impatient-{user}"));
        let _ = tokio::time::timeout(millis(10), session.token()).await;
    }
    stage.network.takes(millis(50));
    stage.network.repair();
    let repaired = Instant::now();
    let callers: Vec<_> = (0..100)
        .map(|user| {
            let session = pool.session(format!("user-{user}"));
            tokio::spawn(async move {
                while let Err(error) = session.token().await {
                    pass(error.retry_after().unwrap()).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(repaired.elapsed() < secs(4), "{:?}", repaired.elapsed());
    assert!(stage.token_requests().len() <= 110, "no other caller waits");

    // Afterwards the breaker is closed.
    let other = pool.session("other");
    let asked = Instant::now();
    other.token().await.unwrap();
    assert_eq!(asked.elapsed(), millis(50));
}

#[tokio::test(start_paused = true)]
async fn invalid_requests_do_not_affect_the_breaker() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.max_concurrent_requests(8).build();
    stage.network.cut(Interruption::Refused);
    let callers: Vec<_> = (0..200)
        .map(|user| {
            let request = JwtTokenRequest::default().session_name(format!("user-{user}"));
            let session = pool.provider(match user % 2 {
                0 => request,
                _ => request.duration(Duration::MAX),
            });
            tokio::spawn(async move { session.token().await.is_err() })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    let attempts = stage.network.attempts();
    assert!((9..=16).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn an_error_contains_nothing_of_another_session() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(2)
        .build();
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(10),
        MockEndpoint::AccountToken,
        Times::Forever,
    );
    let accounts: Vec<_> = (0..100).map(|number| format!("90000{number:03}")).collect();
    let callers: Vec<_> = accounts
        .iter()
        .map(|account| {
            let request = JwtTokenRequest::default().account(account);
            let session = pool.provider(request);
            tokio::spawn(async move { session.token().await.map(drop).unwrap_err() })
        })
        .collect();
    let mut errors = Vec::new();
    for caller in callers {
        errors.push(caller.await.unwrap());
    }
    let requests = stage.token_requests();
    assert!(!requests.is_empty());
    for (account, error) in accounts.iter().zip(errors) {
        assert_eq!(status(&error), Some(429), "{error}");
        assert_eq!(error.flow(), Some(Flow::Jwt), "{error}");
        let shown = format!("{error} {error:?}");
        let mut own = requests
            .iter()
            .filter(|request| request.path.contains(account));
        if own.clone().next().is_some() {
            let hears = own.any(|request| shown.contains(&request.log_id));
            assert!(
                hears,
                "the error of {account} does not name its own request: {shown}"
            );
        }
        for other in accounts.iter().filter(|other| *other != account) {
            // A log id may contain the same digits.
            let url = format!("/account/{other}/");
            assert!(
                !shown.contains(&url),
                "the error of {account} names {other}: {shown}"
            );
        }
        for request in requests
            .iter()
            .filter(|request| !request.path.contains(account))
        {
            let log_id = &request.log_id;
            assert!(
                !shown.contains(log_id),
                "the error of {account} names {log_id}: {shown}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_gets_few_requests_and_waiting_sessions_have_no_tasks() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(8)
        .build();
    stage.network.cut(Interruption::Silent);
    let waiting: Vec<_> = (0..10_000)
        .map(|user| {
            let session = pool.session(format!("user-{user}"));
            tokio::spawn(async move { session.token().await.map(drop).unwrap_err() })
        })
        .collect();
    pass(secs(5)).await;
    assert_eq!(stage.network.attempts(), 8);
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(tasks < waiting.len() + 1500, "{tasks}");
    let began = Instant::now();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().kind(), ErrorKind::Timeout);
    }
    assert!(began.elapsed() <= secs(55), "{:?}", began.elapsed());
}
