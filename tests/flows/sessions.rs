//! Sessions separate end users, so two sessions must never share a token. There are
//! many sessions, so requests, memory and failures must stay independent.

use std::{collections::HashSet, time::Duration};

use coze_auth::{
    AccessToken, ErrorKind, JwtTokenRequest, Scope, SessionPool, SessionProvider, TokenProvider,
};
use coze_mock::{Endpoint as MockEndpoint, Fault, Times};
use tokio::time::Instant;

use crate::support::{Interruption, Stage, millis, pass, secs, status};

fn pool(stage: &Stage) -> SessionPool {
    SessionPool::builder(stage.jwt()).build()
}

async fn token(pool: &SessionPool, user: &str) -> AccessToken {
    pool.session(user).token().await.unwrap()
}

/// Requests that all differ.
fn different_requests() -> Vec<JwtTokenRequest> {
    let new = JwtTokenRequest::default;
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
            .scope(Scope::default().workspace_permissions(["1"], ["p"])),
        new()
            .session_name("a")
            .scope(Scope::default().workflow_permissions(["1"], ["p"])),
        new().session_name("a").device_id("d"),
        new().session_name("a").custom_consumer("d"),
        new().session_name("a").device_id("e"),
        new().device_id("a"),
        new().session_name("a").account("1"),
        new().session_name("a").enterprise("1"),
        new().account("a"),
        new().enterprise("a"),
        new().account("1").device_id("d"),
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
async fn a_session_gets_the_token_of_its_request() {
    let stage = Stage::new();
    let pool = pool(&stage);
    for user in ["alice", "bob", "用户"] {
        let token = token(&pool, user).await;
        let granted = stage.mock.granted(token.expose()).unwrap();
        assert_eq!(granted.session_name.as_deref(), Some(user));
    }
    let request = JwtTokenRequest::default()
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

/// A thousand concurrent callers on fifty sessions. Each must get the token of its own session.
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
    stage.network.takes(millis(50));
    let pool = pool(&stage);
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 50);
    let stats = pool.stats();
    assert_eq!((stats.refreshes, stats.coalesced), (50, 950));
    assert_eq!((stats.failures, stats.cached), (0, 50));

    // The same when all have just expired.
    pass(secs(900)).await;
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 100);
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_in_the_refresh_window_cause_one_request_and_none_waits() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let session = pool.session("alice");
    let old = session.token().await.unwrap();
    pass(secs(880)).await;
    stage.network.takes(secs(2));
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
async fn concurrent_requests_are_limited() {
    let stage = Stage::new();
    stage.network.takes(millis(50));
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.max_concurrent_requests(4).build();
    let began = Instant::now();
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.network.most_in_flight(), 4, "exactly the limit");
    assert_eq!(began.elapsed(), millis(13 * 50));
    assert_eq!(stage.token_requests().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_permit_counts_towards_the_deadline() {
    let stage = Stage::new();
    stage.network.takes(secs(4));
    let pool = SessionPool::builder(stage.jwt())
        .max_concurrent_requests(1)
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
async fn a_session_in_backoff_holds_no_permit() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.max_concurrent_requests(1).build();
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(30),
        MockEndpoint::Token,
        Times::ONCE,
    );
    let (unlucky, lucky) = (pool.session("unlucky"), pool.session("lucky"));
    let unlucky = tokio::spawn(async move { unlucky.token().await });
    pass(secs(1)).await;
    let began = Instant::now();
    lucky.token().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    unlucky.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_sessions_on_many_threads_cause_fifty_requests() {
    let stage = Stage::new();
    stage.network.takes(millis(20));
    let pool = pool(&stage);
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 50);
    let most = stage.network.most_in_flight();
    assert!(most <= 32, "{most}: the default limit");
}

#[tokio::test(start_paused = true)]
async fn the_capacity_is_respected() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).capacity(100).build();
    for number in 0..400 {
        let user = format!("user-{number}");
        let granted = token(&pool, &user).await;
        let granted = stage.mock.granted(granted.expose()).unwrap();
        assert_eq!(granted.session_name, Some(user));
    }
    let sessions = pool.stats().cached;
    assert!((1..=100).contains(&sessions), "{sessions}");
    assert!(sessions >= 90, "the capacity is used: {sessions}");
}

#[tokio::test(start_paused = true)]
async fn an_evicted_session_gets_a_new_token() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).capacity(1).build();
    for _ in 0..3 {
        for user in ["alice", "bob", "carol"] {
            let token = token(&pool, user).await;
            let granted = stage.mock.granted(token.expose()).unwrap();
            assert_eq!(granted.session_name.as_deref(), Some(user));
        }
    }
    assert!(pool.stats().cached <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_small_pool_still_shares_one_request_per_session() {
    let stage = Stage::new();
    stage.network.takes(millis(50));
    let pool = SessionPool::builder(stage.jwt()).capacity(5).build();
    thousand_callers_on_fifty_sessions(&stage, &pool).await;
    assert_eq!(stage.token_requests().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_small_pool_still_backs_off_per_session() {
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
    assert!(began.elapsed() < millis(500), "no backoff has ended");
    assert_eq!(pool.stats().refreshes, 50, "one attempt per session");
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_are_evicted_while_others_are_used() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .idle_timeout(secs(120))
        .build();
    let one = token(&pool, "alice").await;
    for _ in 0..5 {
        token(&pool, "bob").await;
        pass(secs(50)).await;
        assert!(pool.session("alice").cached().is_some(), "it is in use");
    }
    for _ in 0..5 {
        token(&pool, "bob").await;
        pass(secs(50)).await;
    }
    assert_eq!(pool.stats().cached, 1, "bob's");
    let other = token(&pool, "alice").await;
    assert_ne!(one.expose(), other.expose());
    assert_eq!(stage.token_requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_evicted_on_time() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .idle_timeout(secs(120))
        .build();
    token(&pool, "alice").await;
    pass(secs(119)).await;
    assert_eq!(pool.stats().cached, 1);
    pass(secs(1)).await;
    assert!(pool.session("alice").cached().is_none());
    pass(secs(60)).await;
    assert_eq!(pool.stats().cached, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_of_zero_keeps_nothing() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.idle_timeout(Duration::ZERO).build();
    let one = token(&pool, "alice").await;
    let other = token(&pool, "alice").await;
    assert_ne!(one.expose(), other.expose());
}

#[tokio::test(start_paused = true)]
async fn expired_sessions_are_evicted_from_a_large_pool() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt()).capacity(50_000).build();
    for number in 0..300 {
        token(&pool, &format!("user-{number}")).await;
    }
    assert_eq!(pool.stats().cached, 300);
    pass(secs(900)).await;
    assert_eq!(pool.stats().cached, 0);
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_can_be_disabled() {
    let stage = Stage::new();
    let pool = SessionPool::builder(stage.jwt())
        .idle_timeout(Duration::MAX)
        .build();
    token(&pool, "alice").await;
    assert_eq!(pool.stats().cached, 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_can_be_disabled() {
    let stage = Stage::new();
    let builder = SessionPool::builder(stage.jwt());
    let pool = builder.deadline(Duration::MAX).build();
    pool.session("alice").token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_gets_a_new_token() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let request = JwtTokenRequest::default().session_name("alice");
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
        "the last one may not have been read"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_server_a_token_is_served_until_it_expires() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let session = pool.session("alice");
    session.token().await.unwrap();
    stage.network.cut(Interruption::Refused);
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
async fn after_suspend_an_expired_token_is_replaced() {
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
async fn a_failure_backs_off_only_its_session() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let (unlucky, lucky) = (pool.session("unlucky"), pool.session("lucky"));
    let faults = stage.mock.faults();
    faults.add(Fault::status(503), MockEndpoint::Token, Times::Next(5));
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
async fn an_invalid_request_fails_alone_and_sends_nothing() {
    let stage = Stage::new();
    let pool = pool(&stage);
    let request = JwtTokenRequest::default().session_name("alice");
    let endless = pool.provider(request.duration(Duration::MAX));
    let error = endless.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(stage.network.attempts(), 0);
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
    assert!(
        session.cached().is_some(),
        "the token of another session is ignored"
    );
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
async fn a_cancelled_caller_does_not_cancel_the_request() {
    let stage = Stage::new();
    stage.network.takes(millis(50));
    let pool = pool(&stage);
    let session = pool.session("alice");
    let impatient = tokio::time::timeout(millis(10), session.token()).await;
    assert!(impatient.is_err());
    session.token().await.unwrap();
    assert_eq!(stage.token_requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn debug_output_contains_no_secret() {
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
    for jwt in stage.network.bearers() {
        assert!(!shown.contains(&jwt), "{shown}");
    }
}
