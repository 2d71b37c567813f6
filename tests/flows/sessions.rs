//! Sessions keep end users apart, so the one thing that may never happen is that two share a token; and there are
//! very many, so requests, memory and failures must stay those of each alone.

use std::{collections::HashSet, time::Duration};

use coze_auth::{
    AccessToken, Error, ErrorKind, Flow, JwtTokenRequest, Scope, SessionContext, SessionPool,
    SessionProvider, TokenProvider,
};
use coze_mock::{Endpoint as At, Fault, Times, When};
use tokio::time::Instant;

use crate::support::{Cut, Stage, edit_json, jwt_flow, millis, pass, secs, status};

fn pool(stage: &Stage) -> SessionPool {
    SessionPool::builder(stage.jwt()).build()
}

async fn token(pool: &SessionPool, user: &str) -> AccessToken {
    pool.session(user).token().await.unwrap()
}

/// Requests of which no two are the same.
fn different_requests() -> Vec<JwtTokenRequest> {
    let new = JwtTokenRequest::new;
    let device = |id: &str| SessionContext::DeviceId(id.to_owned());
    let consumer = |id: &str| SessionContext::CustomConsumer(id.to_owned());
    vec![
        new(),
        new().session_name("a"),
        new().session_name("A"),
        new().session_name("a "),
        new().session_name("a\""),
        new().session_name("(None, None, None, None, None)"),
        new().session_name("None"),
        new().session_name("a").duration(secs(900)),
        new().session_name("a").duration(secs(901)),
        new().session_name("a").scope(Scope::bot_chat(["1"])),
        new().session_name("a").scope(Scope::bot_chat(["1", "2"])),
        new().session_name("a").scope(Scope::bot_chat(["1, 2"])),
        new().session_name("a").scope(Scope::bot_chat(["1\", \"2"])),
        new()
            .session_name("a")
            .scope(Scope::new().workspace_permissions(["1"], ["p"])),
        new()
            .session_name("a")
            .scope(Scope::new().workflow_permissions(["1"], ["p"])),
        new().session_name("a").session_context(device("d")),
        new().session_name("a").session_context(consumer("d")),
        new().session_name("a").session_context(device("e")),
        new().session_context(device("a")),
        new().session_name("a").account("1"),
        new().session_name("a").enterprise("1"),
        new().account("a"),
        new().enterprise("a"),
        new().account("1").session_context(device("d")),
    ]
}

#[tokio::test(start_paused = true)]
async fn different_requests_never_share_a_token_and_equal_ones_always_do() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let requests = different_requests();
    let mut tokens = Vec::new();
    for request in &requests {
        tokens.push(pool.provider(request.clone()).token().await.unwrap());
    }
    let different: HashSet<_> = tokens.iter().map(AccessToken::expose).collect();
    assert_eq!(different.len(), requests.len());
    for (request, token) in requests.iter().zip(&tokens) {
        let again = pool.provider(request.clone()).token().await.unwrap();
        assert_eq!(again.expose(), token.expose(), "{request:?}");
    }
    assert_eq!(stage.token_requests().len(), requests.len());
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_session_gets_the_token_of_its_own_request() {
    let stage = Stage::new();
    let pool = pool(&stage);
    for user in ["alice", "bob", "用户"] {
        let token = token(&pool, user).await;
        let granted = stage.mock.granted(token.expose()).unwrap();
        assert_eq!(granted.session_name.as_deref(), Some(user));
    }
    let request = JwtTokenRequest::new()
        .session_name("carol")
        .account("9001")
        .duration(secs(60));
    let token = pool.provider(request).token().await.unwrap();
    let granted = stage.mock.granted(token.expose()).unwrap();
    assert_eq!(granted.session_name.as_deref(), Some("carol"));
    assert_eq!(granted.account_id.as_deref(), Some("9001"));
    let until = granted.expires_at.unwrap();
    assert_eq!(until, stage.mock.clock().unix_seconds() + 60);
}

/// A thousand callers at once, on fifty sessions; each must get its own session's token.
async fn thousand_callers_on_fifty_sessions(stage: &Stage, pool: &SessionPool) {
    let callers: Vec<_> = (0..1000)
        .map(|number| {
            let user = format!("user-{}", number % 50);
            let session = pool.session(user.clone());
            (
                user,
                tokio::spawn(async move { session.token().await.unwrap() }),
            )
        })
        .collect();
    for (user, caller) in callers {
        let token = caller.await.unwrap();
        let granted = stage.mock.granted(token.expose()).unwrap();
        assert_eq!(granted.session_name, Some(user));
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_on_fifty_sessions_cause_fifty_requests() {
    let stage = Stage::new();
    stage.line.takes(millis(50));
    let pool = pool(&stage);
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 50);
    let stats = pool.stats();
    assert_eq!((stats.refreshes, stats.coalesced), (50, 950));
    assert_eq!((stats.failures, stats.sessions), (0, 50));

    // All have just expired: the same again.
    pass(secs(900)).await;
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 100);
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_inside_the_window_cause_one_request_and_nobody_waits() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let session = pool.session("alice");
    let old = session.token().await.unwrap();
    pass(secs(880)).await;
    stage.line.takes(secs(2));
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(session.token().await.unwrap().expose(), old.expose());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    pass(secs(3)).await;
    assert_ne!(session.token().await.unwrap().expose(), old.expose());
    assert_eq!(stage.token_requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn sessions_get_their_tokens_so_many_at_once_and_no_more() {
    let stage = Stage::new();
    stage.line.takes(millis(50));
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.concurrent_requests(4).build();
    let began = Instant::now();
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.line.most_in_flight(), 4, "no more, and no fewer");
    assert_eq!(began.elapsed(), millis(13 * 50));
    assert_eq!(stage.token_requests().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_ones_turn_counts_for_the_deadline() {
    let stage = Stage::new();
    stage.line.takes(secs(4));
    let pool = SessionPool::builder(stage.jwt())
        .concurrent_requests(1)
        .deadline(secs(6))
        .build();
    let session = |user| pool.session(user);
    let (one, two) = (session("one"), session("two"));
    let (first, second) = tokio::join!(one.token(), two.token());
    first.unwrap();
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Timeout);
    pass(secs(4)).await;
    token(&pool, "two").await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_for_a_retry_keeps_nobody_else_waiting() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.concurrent_requests(1).build();
    let faults = stage.mock.faults();
    faults.add(Fault::too_many_requests(30), At::Token, Times::ONCE);
    let (unlucky, lucky) = (pool.session("unlucky"), pool.session("lucky"));
    let unlucky = tokio::spawn(async move { unlucky.token().await });
    pass(secs(1)).await;
    let began = Instant::now();
    lucky.token().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    unlucky.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_many_threads_fifty_sessions_cause_fifty_requests_too() {
    let stage = Stage::new();
    stage.line.takes(millis(20));
    let pool = pool(&stage);
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 50);
    let most = stage.line.most_in_flight();
    assert!(most <= 32, "{most}: the default limit");
}

#[tokio::test(start_paused = true)]
async fn no_more_sessions_are_kept_than_there_is_room_for() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).capacity(100).build();
    for number in 0..400 {
        let user = format!("user-{number}");
        let granted = token(&pool, &user).await;
        let granted = stage.mock.granted(granted.expose()).unwrap();
        assert_eq!(granted.session_name, Some(user));
    }
    let sessions = pool.stats().sessions;
    assert!((1..=100).contains(&sessions), "{sessions}");
    assert!(sessions >= 90, "room is used: {sessions}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_dropped_simply_gets_a_token_anew() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).capacity(1).build();
    for _ in 0..3 {
        for user in ["alice", "bob", "carol"] {
            let token = token(&pool, user).await;
            let granted = stage.mock.granted(token.expose()).unwrap();
            assert_eq!(granted.session_name.as_deref(), Some(user));
        }
    }
    assert!(pool.stats().sessions <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_small_pool_still_makes_one_request_for_all_callers_of_a_session() {
    let stage = Stage::new();
    stage.line.takes(millis(50));
    let pool = SessionPool::builder(stage.jwt()).capacity(5).build();
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_small_pool_still_pauses_each_session_after_its_failure() {
    let stage = Stage::new();
    let app = coze_mock::defaults::JWT_CLIENT_ID;
    stage.mock.set_app_active(app, false).unwrap();
    let pool = SessionPool::builder(stage.jwt()).capacity(5).build();
    let began = Instant::now();
    for _ in 0..10 {
        for number in 0..50 {
            let session = pool.session(format!("user-{number}"));
            session.token().await.unwrap_err();
        }
    }
    assert!(began.elapsed() < millis(500), "no pause is over yet");
    assert_eq!(pool.stats().refreshes, 50, "each was tried once");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_nobody_asks_for_are_dropped_while_others_are_asked_for() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).idle(secs(120)).build();
    let one = token(&pool, "alice").await;
    for _ in 0..5 {
        token(&pool, "bob").await;
        pass(secs(50)).await;
        assert!(pool.session("alice").cached().is_some(), "she is asked for");
    }
    for _ in 0..5 {
        token(&pool, "bob").await;
        pass(secs(50)).await;
    }
    assert_eq!(pool.stats().sessions, 1, "bob's");
    let other = token(&pool, "alice").await;
    assert_ne!(one.expose(), other.expose());
    assert_eq!(stage.token_requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_gone_on_time_whoever_looks() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).idle(secs(120)).build();
    token(&pool, "alice").await;
    pass(secs(119)).await;
    assert_eq!(pool.stats().sessions, 1);
    pass(secs(1)).await;
    assert!(pool.session("alice").cached().is_none());
    pass(secs(60)).await;
    assert_eq!(pool.stats().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_time_of_nothing_keeps_nothing() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.idle(Duration::ZERO).build();
    let one = token(&pool, "alice").await;
    let other = token(&pool, "alice").await;
    assert_ne!(one.expose(), other.expose());
}

#[tokio::test(start_paused = true)]
async fn ended_sessions_are_dropped_from_all_of_a_large_pool() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).capacity(50_000).build();
    for number in 0..300 {
        token(&pool, &format!("user-{number}")).await;
    }
    assert_eq!(pool.stats().sessions, 300);
    pass(secs(900)).await;
    assert_eq!(pool.stats().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_drops_no_idle_sessions_can_be_had() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .idle(Duration::MAX)
        .build();
    token(&pool, "alice").await;
    assert_eq!(pool.stats().sessions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_without_a_deadline_can_be_had() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.deadline(Duration::MAX).build();
    pool.session("alice").token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_never_ends_is_kept() {
    let stage = Stage::new();
    stage.line.rewrites(|response| {
        edit_json(response, |json| json["expires_in"] = i64::MAX.into());
    });
    let pool = SessionPool::builder(stage.jwt())
        .idle(Duration::MAX)
        .build();
    let first = token(&pool, "alice").await;
    pass(secs(3600)).await;
    assert_eq!(token(&pool, "alice").await.expose(), first.expose());
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_gets_another_token_and_never_the_old() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let request = JwtTokenRequest::new().session_name("alice");
    let session = pool.provider(request.duration(secs(10)));
    let mut tokens = HashSet::new();
    for _ in 0..600 {
        let token = session.token().await.unwrap();
        assert!(stage.takes(&token));
        tokens.insert(token.expose().to_owned());
        pass(millis(700)).await;
    }
    assert!((42..=60).contains(&tokens.len()), "{}", tokens.len());
    let requests = stage.token_requests().len();
    assert!(
        requests - tokens.len() <= 1,
        "the last one may not have been read yet"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_server_a_token_serves_to_its_end_and_no_longer() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let session = pool.session("alice");
    session.token().await.unwrap();
    stage.line.cut(Cut::Refused);
    let mut served = 0;
    while let Some(token) = session.cached() {
        assert!(stage.takes(&token));
        served += 1;
        pass(secs(1)).await;
    }
    assert!((890..900).contains(&served), "{served}");
    let error = session.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
}

#[tokio::test(start_paused = true)]
async fn a_system_that_slept_gets_another_token() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let session = pool.session("alice");
    session.token().await.unwrap();
    stage.mock.clock().advance(secs(3600));
    stage.clock.set_wall_offset_secs(3600);
    assert!(session.cached().is_none());
    assert!(stage.takes(&session.token().await.unwrap()));
}

async fn is_refused(session: &SessionProvider) -> bool {
    session.token().await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_failure_pauses_its_session_and_no_other() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let (unlucky, lucky) = (pool.session("unlucky"), pool.session("lucky"));
    let faults = stage.mock.faults();
    faults.add(Fault::status(503), At::Token, Times::Next(5));
    let error = unlucky.token().await.unwrap_err();
    assert_eq!(status(&error), Some(503));
    lucky.token().await.unwrap();
    let before = stage.token_requests().len();
    for _ in 0..100 {
        assert!(is_refused(&unlucky).await);
        // Another handle of the same session.
        assert!(is_refused(&pool.session("unlucky")).await);
    }
    assert_eq!(stage.token_requests().len(), before, "it pauses");
    pass(secs(1)).await;
    assert!(!is_refused(&unlucky).await);
    assert_eq!(pool.stats().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_not_hammered_by_many_sessions() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .concurrent_requests(8)
        .deadline(secs(20))
        .build();
    stage.line.cut(Cut::Refused);
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
    // As many as make an outage; then 8 at most a second.
    let attempts = stage.line.attempts();
    assert!((8 * 50..8 * 62).contains(&attempts), "{attempts} attempts");
    assert_eq!(pool.stats().sessions, 0);

    stage.line.mend();
    let mended = Instant::now();
    for user in users {
        user.await.unwrap();
    }
    assert!(mended.elapsed() < secs(20), "{:?}", mended.elapsed());
    assert_eq!(pool.stats().sessions, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_server_asks_for_is_kept_by_all_sessions() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .concurrent_requests(2)
        .build();
    let faults = stage.mock.faults();
    faults.add(Fault::too_many_requests(10), At::Token, Times::Forever);
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
        assert!(!user.is_finished(), "it tries on");
    }
    let attempts = stage.token_requests().len();
    assert!((12..=18).contains(&attempts), "{attempts} attempts");
}

/// Callers of so many sessions, all at once. Each hears an error.
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
async fn in_an_outage_a_new_session_hears_so_at_once_and_one_with_a_token_is_served() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.concurrent_requests(8).build();
    let lucky = pool.session("lucky");
    let held = lucky.token().await.unwrap();
    let before = stage.line.attempts();
    stage.line.cut(Cut::Refused);

    // A hundred new ones each second.
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
        // Those who were let through have tried to be so once more.
        assert!(asked.elapsed() <= millis(201), "{:?}", asked.elapsed());

        let asked = Instant::now();
        ask_in_vain(&pool, 10_000 + users..10_100 + users).await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert_eq!(lucky.token().await.unwrap().expose(), held.expose());
        pass(millis(1010)).await;
    }
    let attempts = stage.line.attempts() - before;
    assert!((8 * 50..8 * 62).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_to_those_who_wait_for_their_turn() {
    let stage = Stage::new();
    let client = stage.client_builder().request_timeout(secs(5));
    let pool = SessionPool::builder(jwt_flow(client.build().unwrap()))
        .concurrent_requests(4)
        .build();
    stage.line.cut(Cut::Silent);
    let began = Instant::now();
    for error in ask_in_vain(&pool, 0..100).await {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    // Four requests that timed out, and four more: then it is known.
    let waited = began.elapsed();
    assert!((secs(10)..secs(11)).contains(&waited), "{waited:?}");
    assert_eq!(stage.line.attempts(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_until_the_deadline_is_down() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .concurrent_requests(4)
        .deadline(secs(10))
        .build();
    stage.line.cut(Cut::Silent);
    for users in [0..100, 100..200] {
        let began = Instant::now();
        ask_in_vain(&pool, users).await;
        assert_eq!(began.elapsed(), secs(10));
    }
    // Four at a time were let through, and one in a row more than that is an outage.
    let began = Instant::now();
    let refused = ask_in_vain(&pool, 200..300).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(
        refused
            .iter()
            .all(|error| error.kind() == ErrorKind::Timeout)
    );
    assert_eq!(stage.line.attempts(), 8);
    assert_eq!(pool.stats().failures, 200);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_down_for_a_steady_stream_of_sessions_too() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .concurrent_requests(4)
        .deadline(secs(10))
        .build();
    let _ = token(&pool, "earlier").await;
    stage.line.cut(Cut::Silent);
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
    // Those of the last ten seconds; but for the four who find out when it is back.
    let long = waited[200..].iter().filter(|waited| **waited > millis(1));
    assert!(long.count() <= 4 * 10, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_said_is_told_though_it_falls_silent() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).deadline(secs(10)).build();
    let faults = stage.mock.faults();
    faults.add(Fault::internal_error(), At::Token, Times::ONCE);
    let when = When::BeforeProcessing;
    faults.add(Fault::Timeout { when }, At::Token, Times::Forever);
    let began = Instant::now();
    let error = pool.session("a").token().await.unwrap_err();
    assert_eq!(began.elapsed(), secs(10));
    assert_eq!(status(&error), Some(500), "{error}");
    assert!(error.log_id().is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_callers_are_served_and_not_those_who_have_gone_away() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.concurrent_requests(8).build();
    stage.line.cut(Cut::Refused);
    for user in 0..3000 {
        let session = pool.session(format!("impatient-{user}"));
        let _ = tokio::time::timeout(millis(10), session.token()).await;
    }
    stage.line.takes(millis(50));
    stage.line.mend();
    let mended = Instant::now();
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
    assert!(mended.elapsed() < secs(4), "{:?}", mended.elapsed());
    assert!(stage.token_requests().len() <= 110, "nobody else wants one");

    // And then it is as it was.
    let other = pool.session("other");
    let asked = Instant::now();
    other.token().await.unwrap();
    assert_eq!(asked.elapsed(), millis(50));
}

#[tokio::test(start_paused = true)]
async fn requests_that_cannot_be_hide_no_outage() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.concurrent_requests(8).build();
    stage.line.cut(Cut::Refused);
    let callers: Vec<_> = (0..200)
        .map(|user| {
            let request = JwtTokenRequest::new().session_name(format!("user-{user}"));
            let session = pool.provider(match user % 2 {
                0 => request,
                _ => request.duration(Duration::MAX),
            });
            tokio::spawn(async move { is_refused(&session).await })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    let attempts = stage.line.attempts();
    assert!((9..=16).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_of_another_sessions_request() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .concurrent_requests(2)
        .build();
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(10),
        At::AccountToken,
        Times::Forever,
    );
    let accounts: Vec<_> = (0..100).map(|number| format!("90000{number:03}")).collect();
    let callers: Vec<_> = accounts
        .iter()
        .map(|account| {
            let request = JwtTokenRequest::new().account(account);
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
            assert!(hears, "{account} hears nothing of its own request: {shown}");
        }
        for other in accounts.iter().filter(|other| *other != account) {
            assert!(
                !shown.contains(other),
                "{account} hears of {other}: {shown}"
            );
        }
        for request in requests
            .iter()
            .filter(|request| !request.path.contains(account))
        {
            let log_id = &request.log_id;
            assert!(
                !shown.contains(log_id),
                "{account} hears of {log_id}: {shown}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_fails_for_itself_and_sends_nothing() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let request = JwtTokenRequest::new().session_name("alice");
    let endless = pool.provider(request.duration(Duration::MAX));
    let error = endless.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(stage.line.attempts(), 0);
    token(&pool, "alice").await;
}

#[tokio::test(start_paused = true)]
async fn only_the_current_token_of_a_session_can_be_invalidated() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let bystander = token(&pool, "bystander").await;
    let session = pool.session("alice");
    let first = session.token().await.unwrap();
    session.invalidate(&bystander);
    assert!(session.cached().is_some(), "another session's is not its");
    session.invalidate(&first);
    assert!(session.cached().is_none());
    let second = session.token().await.unwrap();
    assert_ne!(first.expose(), second.expose());
    session.invalidate(&first);
    assert_eq!(session.token().await.unwrap().expose(), second.expose());
    let token = token(&pool, "bystander").await;
    assert_eq!(token.expose(), bystander.expose());
    assert_eq!(stage.token_requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_stops_nobody_elses_request() {
    let stage = Stage::new();
    stage.line.takes(millis(50));
    let pool = pool(&stage);
    let session = pool.session("alice");
    let impatient = tokio::time::timeout(millis(10), session.token()).await;
    assert!(impatient.is_err());
    session.token().await.unwrap();
    assert_eq!(stage.token_requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_debugged_shows_a_secret() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let mut shown = format!("{builder:?}");
    let pool = builder.build();
    let session = pool.session("alice");
    let token = session.token().await.unwrap();
    shown.push_str(&format!(
        "{pool:?} {session:?} {token:?} {:?}",
        pool.stats()
    ));
    assert!(!shown.contains(token.expose()), "{shown}");
    assert!(!shown.contains("czs_"), "{shown}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    for jwt in stage.line.bearers() {
        assert!(!shown.contains(&jwt), "{shown}");
    }
}
