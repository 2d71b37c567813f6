//! The cached provider with a real client and the mock, which knows the state of every token. The unit tests of the provider use
//! a script instead, and cannot tell whether a token is still valid or a sign-in is lost.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use coze_auth::{
    AccessToken, CachedProvider, CachedProviderBuilder, Error, ErrorCode, ErrorKind, Flow, Token,
    TokenProvider,
};
use coze_mock::{
    Endpoint as MockEndpoint, ErrorShape, Fault, FaultBody, MockCoze, OAuthErrorCode, RetryAfter,
    Target, Times, TokenFamily, When, defaults,
};
use tokio::time::Instant;

use crate::support::{Interruption, START, Stage, edit_json, millis, pass, secs, status};

fn jwt(stage: &Stage) -> CachedProvider {
    CachedProvider::jwt(stage.jwt()).build()
}

/// Reads the cached token every second until there is none. Each one must be valid.
async fn read_to_the_end(stage: &Stage, provider: &CachedProvider) -> u64 {
    let began = Instant::now();
    while let Some(token) = provider.cached() {
        assert!(stage.takes(&token), "expired after {:?}", began.elapsed());
        pass(secs(1)).await;
    }
    began.elapsed().as_secs()
}

/// A sign-in of each user flow, and the provider that keeps it fresh.
async fn user_flows(stage: &Stage) -> [(&'static str, Token, CachedProviderBuilder); 3] {
    let web = stage.web_sign_in().await;
    let pkce = stage.pkce_sign_in().await;
    let device = stage.device_sign_in().await;
    [
        (
            "web",
            web.clone(),
            CachedProvider::in_memory(stage.web(), web),
        ),
        (
            "pkce",
            pkce.clone(),
            CachedProvider::in_memory(stage.pkce(), pkce),
        ),
        (
            "device",
            device.clone(),
            CachedProvider::in_memory(stage.device(), device),
        ),
    ]
}

fn sign_in(stage: &Stage, first: &Token) -> TokenFamily {
    let refresh_token = first.refresh_token().unwrap();
    stage.mock.sign_in_of(refresh_token.expose()).unwrap()
}

// Retries

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_a_new_jwt() {
    let stage = Stage::new();
    for fault in [
        Fault::internal_error(),
        Fault::ConnectionReset {
            when: When::AfterProcessing,
        },
        Fault::Status {
            status: 502,
            body: FaultBody::Html,
            retry_after: None,
        },
        Fault::Timeout {
            when: When::AfterProcessing,
        },
    ] {
        stage
            .mock
            .faults()
            .add(fault, MockEndpoint::Token, Times::ONCE);
    }
    let provider = jwt(&stage);
    let token = provider.token().await.unwrap();
    assert!(stage.takes(&token));
    let mut ids: Vec<_> = stage
        .jwt_claims("jti")
        .iter()
        .map(ToString::to_string)
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "four faults, then a token");
    assert_eq!(stage.token_requests().len(), 5);
    let stats = provider.stats();
    assert_eq!((stats.refreshes, stats.failures), (1, 0));
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_in_number() {
    let stage = Stage::new();
    let faults = stage.mock.faults();
    faults.add(Fault::status(503), MockEndpoint::Token, Times::Forever);
    let began = Instant::now();
    let error = jwt(&stage).token().await.unwrap_err();
    assert_eq!(status(&error), Some(503));
    assert_eq!(stage.token_requests().len(), 5);
    assert!(
        began.elapsed() <= secs(3),
        "0.2 + 0.4 + 0.8 + 1.6 s at most"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_in_time() {
    let stage = Stage::new();
    stage.network.cut(Interruption::Silent);
    let provider = CachedProvider::jwt(stage.jwt()).deadline(secs(45)).build();
    let began = Instant::now();
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), secs(45));
    assert_eq!(
        stage.network.attempts(),
        2,
        "the first timed out after 30 s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_timeout_by_the_deadline_names_the_flow() {
    let stage = Stage::new();
    stage.network.cut(Interruption::Silent);
    let provider = CachedProvider::jwt(stage.jwt()).deadline(secs(5)).build();
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.flow(), Some(Flow::Jwt), "{error}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    for retry_after in [RetryAfter::Seconds(17), RetryAfter::DateInSeconds(17)] {
        let stage = Stage::new();
        let fault = Fault::Status {
            status: 429,
            body: FaultBody::Json,
            retry_after: Some(retry_after),
        };
        stage
            .mock
            .faults()
            .add(fault, MockEndpoint::Token, Times::ONCE);
        let began = Instant::now();
        jwt(&stage).token().await.unwrap();
        assert_eq!(began.elapsed(), secs(17), "{retry_after:?}");
        assert_eq!(stage.token_requests().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_beyond_the_deadline_is_an_immediate_error() {
    let stage = Stage::new();
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(50),
        MockEndpoint::Token,
        Times::ONCE,
    );
    let provider = CachedProvider::jwt(stage.jwt()).deadline(secs(40)).build();
    let began = Instant::now();
    let error = provider.token().await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(error.retry_after(), Some(secs(50)));

    pass(secs(49)).await;
    let error = provider.token().await.unwrap_err();
    assert_eq!(
        error.retry_after(),
        Some(secs(1)),
        "the rest of the backoff"
    );
    assert_eq!(
        stage.token_requests().len(),
        1,
        "no further request is sent"
    );
    pass(secs(1)).await;
    provider.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_excessive_retry_after_is_capped() {
    let stage = Stage::new();
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(u64::MAX),
        MockEndpoint::Token,
        Times::ONCE,
    );
    let error = jwt(&stage).token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(status(&error), Some(429));
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_deadline_is_supported() {
    let stage = Stage::new();
    let provider = CachedProvider::jwt(stage.jwt())
        .deadline(Duration::MAX)
        .build();
    let token = provider.token().await.unwrap();
    assert!(stage.takes(&token));
}

#[tokio::test(start_paused = true)]
async fn non_retryable_errors_are_not_retried() {
    let wrong_key = |stage: &Stage| {
        let key = coze_auth::PrivateKey::from_pem(defaults::jwt_private_key_pem().unwrap());
        coze_auth::JwtFlow::new(
            stage.client(),
            defaults::JWT_CLIENT_ID.into(),
            "another-key".into(),
            key.unwrap(),
        )
        .unwrap()
    };
    let stage = Stage::new();
    let provider = CachedProvider::jwt(wrong_key(&stage)).build();
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidClient));
    assert_eq!(stage.token_requests().len(), 1);

    let stage = Stage::new();
    let app = defaults::JWT_CLIENT_ID;
    stage.mock.set_app_active(app, false).unwrap();
    let provider = jwt(&stage);
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::AccessDeny));
    assert_eq!(stage.token_requests().len(), 1);
    // The owner activates the app again: after the backoff calls succeed, without a restart.
    stage.mock.set_app_active(app, true).unwrap();
    pass(secs(1)).await;
    provider.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_every_caller_learns_the_time_of_the_next_attempt() {
    let stage = Stage::new();
    let faults = stage.mock.faults();
    faults.add(Fault::status(503), MockEndpoint::Token, Times::Next(5));
    let provider = jwt(&stage);
    let during = provider.token().await.unwrap_err();
    let after = provider.token().await.unwrap_err();
    assert_eq!(after.retry_after(), Some(millis(500)));
    assert_eq!(
        during.retry_after(),
        Some(millis(500)),
        "callers that waited for the failed request learn it too"
    );
}

// Time

#[tokio::test(start_paused = true)]
async fn a_clock_skew_of_an_hour_costs_a_second_jwt_and_serves_no_expired_token() {
    for offset in [3600, -3600] {
        let stage = Stage::new();
        stage.clock.set_wall_offset_secs(offset);
        let provider = jwt(&stage);
        let token = provider.token().await.unwrap();
        assert!(stage.takes(&token), "{offset}");
        let statuses: Vec<_> = stage
            .token_requests()
            .iter()
            .map(coze_mock::RequestRecord::status)
            .collect();
        assert_eq!(statuses, [Some(401), Some(200)], "{offset}");
        let issued_at = stage.jwt_claims("iat").pop().unwrap().as_u64().unwrap();
        assert!(
            issued_at.abs_diff(START - 30) <= 1,
            "signed with the server's time"
        );

        stage.network.cut(Interruption::Refused);
        let served = read_to_the_end(&stage, &provider).await;
        assert!((890..900).contains(&served), "{offset}: {served}");
        stage.mock.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_correction_is_remembered_until_it_is_wrong() {
    let stage = Stage::new();
    stage.clock.set_wall_offset_secs(-3600);
    let jwt = stage.jwt();
    let mut requests = Vec::new();
    for offset in [-3600, -3600, 0, 0] {
        stage.clock.set_wall_offset_secs(offset);
        let before = stage.token_requests().len();
        stage.granted(&jwt.token().await.unwrap());
        requests.push(stage.token_requests().len() - before);
    }
    assert_eq!(requests, [2, 1, 2, 1], "the clock was corrected in between");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_a_server_whose_clock_agrees_costs_one_jwt() {
    for (ahead, requests) in [(0, 1), (4, 1), (-4, 1), (3600, 2), (-3600, 2)] {
        let stage = Stage::new();
        let refusal = Fault::ErrorWithStatus200 {
            shape: ErrorShape::A,
            code: OAuthErrorCode::InvalidClient,
        };
        let faults = stage.mock.faults();
        faults.add(refusal, MockEndpoint::Token, Times::Next(2));
        stage.clock.set_wall_offset_secs(ahead);
        let refused = stage.jwt().token().await.unwrap_err();
        assert_eq!(refused.code(), Some(&ErrorCode::InvalidClient), "{refused}");
        assert_eq!(stage.token_requests().len(), requests, "{ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_corrected_clock_satisfies_a_server_without_leeway() {
    for offset in [3600, -3600] {
        let stage = Stage::of(MockCoze::builder().jwt_leeway(Duration::ZERO));
        stage.clock.set_wall_offset_secs(offset);
        let token = stage.jwt().token().await;
        assert!(token.is_ok(), "{offset}: {:?}", token.err());
    }
}

#[tokio::test(start_paused = true)]
async fn any_clock_skew_is_corrected() {
    for (ahead, requests) in [
        (0, 1),
        (1, 1),
        (5, 1),
        (6, 1),
        (29, 1),
        (32, 2),
        (3600, 2),
        (-5, 1),
        (-500, 1),
        (-3600, 2),
        (23 * 3600, 2),
    ] {
        let stage = Stage::of(MockCoze::builder().jwt_leeway(Duration::ZERO));
        stage.clock.set_wall_offset_secs(ahead);
        let token = stage.jwt().token().await;
        assert!(token.is_ok(), "{ahead}: {:?}", token.err());
        assert_eq!(stage.token_requests().len(), requests, "{ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_cannot_choose_the_time_of_a_jwt() {
    for ahead in [2 * 24 * 3600, -2 * 24 * 3600] {
        let stage = Stage::of(MockCoze::builder().jwt_leeway(Duration::ZERO));
        stage.clock.set_wall_offset_secs(ahead);
        let error = stage.jwt().token().await.unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::InvalidClient), "{error}");
        assert_eq!(stage.token_requests().len(), 1, "{ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_jwt_refused_for_another_reason_is_signed_again_at_most_once() {
    let stage = Stage::new();
    stage.clock.set_wall_offset_secs(3600);
    let error = stage.jwt_of_another_app().token().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidClient));
    assert_eq!(stage.token_requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refreshing_provider_with_clock_skew_serves_no_expired_token() {
    for offset in [3600, -3600] {
        let stage = Stage::new();
        stage.clock.set_wall_offset_secs(offset);
        for (flow, first, builder) in user_flows(&stage).await {
            let provider = builder.build();
            for _ in 0..3000 {
                let token = provider.token().await.unwrap();
                assert!(stage.takes(&token), "{flow} {offset}");
                pass(secs(1)).await;
            }
            let generations = sign_in(&stage, &first).generations.len();
            assert!((4..=6).contains(&generations), "{flow}: {generations}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_moves_the_clocks_of_client_and_mock() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    let token = provider.token().await.unwrap();
    let (wall, mocks) = (stage.clock.wall(), stage.mock.clock().now());
    stage.clock.advance(secs(901)).await;
    assert_eq!(stage.clock.wall(), wall + secs(901));
    assert_eq!(stage.mock.clock().now(), mocks + secs(901));
    assert!(!stage.takes(&token));
    assert!(stage.takes(&provider.token().await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn after_suspend_an_expired_token_is_replaced() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    let before = provider.token().await.unwrap();
    // The monotonic clock does not advance during suspend.
    stage.mock.clock().advance(secs(3600));
    stage.clock.set_wall_offset_secs(3600);
    assert!(!stage.takes(&before));
    assert!(provider.cached().is_none());
    let after = provider.token().await.unwrap();
    assert!(stage.takes(&after));
    assert_eq!(stage.token_requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_suspend_into_the_refresh_window_it_refreshes() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    provider.token().await.unwrap();
    stage.mock.clock().advance(secs(880));
    stage.clock.set_wall_offset_secs(880);
    assert!(provider.cached().is_some(), "18 s are left");
    pass(secs(1)).await;
    assert_eq!(stage.token_requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_corrected_clock_does_not_extend_a_lifetime() {
    let stage = Stage::new();
    stage.clock.set_wall_offset_secs(3600);
    let provider = jwt(&stage);
    provider.token().await.unwrap();
    stage.clock.set_wall_offset_secs(0);
    stage.network.cut(Interruption::Refused);
    let served = read_to_the_end(&stage, &provider).await;
    assert!((890..900).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn without_a_date_a_correct_clock_suffices() {
    let stage = Stage::new();
    stage.network.rewrites(|response| {
        response.headers_mut().remove("date");
    });
    let provider = jwt(&stage);
    provider.token().await.unwrap();
    stage.network.cut(Interruption::Refused);
    let served = read_to_the_end(&stage, &provider).await;
    assert!((890..900).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn without_a_date_clock_skew_is_not_corrected() {
    let stage = Stage::new();
    stage.network.rewrites(|response| {
        response.headers_mut().remove("date");
    });
    stage.clock.set_wall_offset_secs(-3600);
    let error = jwt(&stage).token().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidClient));
    assert!(error.hint().contains("clock"), "{error}");
    assert_eq!(stage.token_requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duration_instead_of_an_expiry_needs_no_clock() {
    for offset in [0, 3600, -3600] {
        for with_date in [true, false] {
            let stage = Stage::new();
            let first = stage.pkce_sign_in().await;
            stage.clock.set_wall_offset_secs(offset);
            stage.network.takes(secs(2));
            stage.network.rewrites(move |response| {
                edit_json(response, |json| json["expires_in"] = 900.into());
                if !with_date {
                    response.headers_mut().remove("date");
                }
            });
            let provider = CachedProvider::in_memory(stage.pkce(), first).build();
            let old = provider.token().await.unwrap();
            provider.invalidate(&old);
            provider.token().await.unwrap();
            stage.network.cut(Interruption::Refused);
            let served = read_to_the_end(&stage, &provider).await;
            assert!(
                (890..900).contains(&served),
                "{offset} {with_date}: {served}"
            );
        }
    }
}

// The refresh token

#[tokio::test(start_paused = true)]
async fn a_sign_in_is_refreshed_over_many_generations() {
    let stage = Stage::of(MockCoze::builder().reuse_revokes_family(true));
    for (flow, first, builder) in user_flows(&stage).await {
        let provider = builder.build();
        // Five hours with a token about every minute and occasional faults.
        for minute in 0..300 {
            if minute % 7 == 0 {
                let faults = stage.mock.faults();
                faults.add(Fault::status(503), Target::refresh(), Times::Next(2));
            }
            let token = provider.token().await.unwrap();
            assert!(stage.takes(&token), "{flow} in minute {minute}");
            pass(secs(60)).await;
        }
        stage.mock.faults().clear();
        provider.shutdown().await.unwrap();

        let sign_in = sign_in(&stage, &first);
        let generations = &sign_in.generations;
        assert!(generations.len() >= 20, "{flow}: {}", generations.len());
        let (live, redeemed) = generations.split_last().unwrap();
        assert!(redeemed.iter().all(|one| one.redeemed_at_unix_ms.is_some()));
        assert_eq!(
            sign_in.live_refresh_token(),
            Some(live.refresh_token.as_str())
        );
        assert_eq!(sign_in.reuse_attempts(), 0, "{flow}");
        let served = provider.token().await.unwrap();
        assert_eq!(
            live.access_token,
            coze_mock::fingerprint(served.expose()),
            "{flow}: the current token is that of the last generation"
        );
    }
    assert_eq!(stage.mock.ledger().len(), 3, "no user signed in again");
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn every_attempt_of_a_refresh_sends_the_same_refresh_token() {
    let stage = Stage::new();
    for (flow, first, builder) in user_flows(&stage).await {
        let provider = builder.build();
        let old = provider.token().await.unwrap();
        let before = stage.token_requests().len();
        for fault in [
            Fault::internal_error(),
            Fault::too_many_requests(2),
            Fault::ConnectionReset {
                when: When::BeforeProcessing,
            },
        ] {
            stage
                .mock
                .faults()
                .add(fault, Target::refresh(), Times::ONCE);
        }
        provider.invalidate(&old);
        let token = provider.token().await.unwrap();
        assert!(stage.takes(&token), "{flow}");
        let requests = stage.token_requests().split_off(before);
        assert_eq!(requests.len(), 4, "{flow}");
        let bodies: Vec<_> = requests.iter().map(|request| &request.body).collect();
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{flow}");
        let sign_in = sign_in(&stage, &first);
        assert_eq!(
            (sign_in.generations.len(), sign_in.reuse_attempts()),
            (2, 0)
        );
    }
    stage.mock.assert_clean();
}

/// The message must tell the reader what to do.
#[track_caller]
fn assert_requires_sign_in(error: &Error) {
    assert!(error.needs_sign_in(), "{error}");
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant), "{error}");
    assert!(error.hint().contains("sign in again"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_invalid_refresh_token_requires_sign_in_and_is_not_sent_again() {
    let stage = Stage::new();
    for (flow, first, builder) in user_flows(&stage).await {
        let provider = builder.build();
        let old = provider.token().await.unwrap();
        let refresh_token = first.refresh_token().unwrap().expose();
        assert!(stage.mock.revoke_sign_in(refresh_token));
        let before = stage.network.attempts();
        // The API refuses the token, and the caller reports it.
        provider.invalidate(&old);
        let error = provider.token().await.unwrap_err();
        assert_requires_sign_in(&error);
        assert!(error.log_id().is_some(), "{flow}");
        for _ in 0..100 {
            pass(secs(61)).await;
            assert_requires_sign_in(&provider.token().await.unwrap_err());
        }
        assert_eq!(stage.network.attempts() - before, 1, "{flow}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_with_a_lost_response_serves_the_old_token_and_then_requires_sign_in() {
    let stage = Stage::new();
    let first = stage.pkce_sign_in().await;
    let provider = CachedProvider::in_memory(stage.pkce(), first.clone()).build();
    pass(secs(880)).await;
    let lost = Fault::ConnectionReset {
        when: When::AfterProcessing,
    };
    stage
        .mock
        .faults()
        .add(lost, Target::refresh(), Times::ONCE);
    let mut served = 0;
    while let Some(token) = provider.cached() {
        assert!(stage.takes(&token));
        served += 1;
        pass(secs(1)).await;
    }
    assert!(
        served >= 17,
        "{served}: until its expiry, not until the failure"
    );
    assert_requires_sign_in(&provider.token().await.unwrap_err());
    let refreshes = stage.token_requests().len() - 1;
    assert_eq!(refreshes, 2, "the lost one and one later attempt");
}

#[tokio::test(start_paused = true)]
async fn an_ended_login_session_is_reported_and_backs_off() {
    let stage = Stage::new();
    let first = stage.web_sign_in().await;
    let refresh_token = first.refresh_token().unwrap().expose().to_owned();
    let provider = CachedProvider::in_memory(stage.web(), first).build();
    stage.mock.end_login(&refresh_token);
    pass(secs(900)).await;
    let before = stage.network.attempts();
    for _ in 0..600 {
        let error = provider.token().await.unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::AccessDeny));
        assert!(error.hint().contains("sign in again"), "{error}");
        pass(secs(1)).await;
    }
    let requests = stage.network.attempts() - before;
    assert!(requests <= 16, "{requests} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_stored_sign_in_with_an_expired_token_is_refreshed_on_first_use() {
    let stage = Stage::new();
    let first = stage.device_sign_in().await;
    pass(secs(29 * 24 * 3600)).await;
    let provider = CachedProvider::in_memory(stage.device(), first).build();
    let token = provider.token().await.unwrap();
    assert!(stage.takes(&token));
}

#[tokio::test(start_paused = true)]
async fn a_sent_refresh_is_awaited_beyond_the_deadline() {
    let stage = Stage::new();
    let first = stage.web_sign_in().await;
    let provider = CachedProvider::in_memory(stage.web(), first.clone())
        .deadline(secs(5))
        .build();
    let old = provider.token().await.unwrap();
    provider.invalidate(&old);
    stage.network.takes(secs(20));
    let began = Instant::now();
    let new = provider.token().await.unwrap();
    assert_eq!(began.elapsed(), secs(20));
    assert!(stage.takes(&new));
    stage.network.takes(Duration::ZERO);
    pass(secs(900)).await;
    assert!(stage.takes(&provider.token().await.unwrap()));
    assert_eq!(sign_in(&stage, &first).reuse_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_short_deadline_leaves_room_for_another_attempt_of_a_refresh() {
    let stage = Stage::new();
    let first = stage.web_sign_in().await;
    let provider = CachedProvider::in_memory(stage.web(), first)
        .deadline(secs(20))
        .build();
    let old = provider.token().await.unwrap();
    provider.invalidate(&old);
    let faults = stage.mock.faults();
    faults.add(Fault::status(503), Target::refresh(), Times::ONCE);
    let token = provider.token().await.unwrap();
    assert!(stage.takes(&token));
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_a_refresh_in_flight() {
    let stage = Stage::new();
    let first = stage.web_sign_in().await;
    let provider = CachedProvider::in_memory(stage.web(), first.clone()).build();
    pass(secs(880)).await;
    stage.network.takes(secs(5));
    assert!(provider.cached().is_some());
    let began = Instant::now();
    pass(secs(1)).await;
    provider.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), secs(5));
    let served = provider.cached().unwrap();
    let sign_in = sign_in(&stage, &first);
    assert_eq!(sign_in.generations.len(), 2);
    assert_eq!(
        sign_in.generations[1].access_token,
        coze_mock::fingerprint(served.expose())
    );
    pass(secs(900)).await;
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShutDown);
    assert_eq!(
        stage.token_requests().len(),
        2,
        "no request starts afterwards"
    );
}

// One request for all

async fn herd(provider: &CachedProvider) -> Vec<AccessToken> {
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let provider = provider.clone();
            tokio::spawn(async move { provider.token().await.unwrap() })
        })
        .collect();
    let mut tokens = Vec::new();
    for caller in callers {
        tokens.push(caller.await.unwrap());
    }
    tokens
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_cause_one_request() {
    let stage = Stage::new();
    stage.network.takes(millis(50));
    let provider = jwt(&stage);
    let began = Instant::now();
    let first = herd(&provider).await;
    assert_eq!(stage.token_requests().len(), 1, "on an empty cache");
    assert_eq!(began.elapsed(), millis(50), "one round trip for all");

    pass(secs(900)).await;
    let began = Instant::now();
    let second = herd(&provider).await;
    assert_eq!(stage.token_requests().len(), 2, "just expired");
    assert_eq!(began.elapsed(), millis(50));

    pass(secs(890)).await;
    let began = Instant::now();
    let third = herd(&provider).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits");
    pass(secs(1)).await;
    assert_eq!(stage.token_requests().len(), 3, "inside the window");
    for (herd, number) in [(&first, 1), (&second, 2), (&third, 2)] {
        let same = herd.iter().all(|token| token.expose() == herd[0].expose());
        assert!(same, "all callers of group {number} got the same token");
    }
    assert_eq!(
        third[0].expose(),
        second[0].expose(),
        "the old token is served"
    );
    let stats = provider.stats();
    assert_eq!((stats.refreshes, stats.coalesced), (3, 2 * 999));
    assert_eq!(stats.served_from_cache, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_callers_on_many_threads_cause_one_request() {
    let stage = Stage::new();
    stage.network.takes(millis(20));
    let provider = jwt(&stage);
    let first = herd(&provider).await;
    assert_eq!(stage.token_requests().len(), 1);

    // All of them report that the API refused it.
    let callers: Vec<_> = first
        .into_iter()
        .map(|refused| {
            let provider = provider.clone();
            tokio::spawn(async move {
                provider.invalidate(&refused);
                let next = provider.token().await.unwrap();
                assert_ne!(next.expose(), refused.expose());
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(stage.token_requests().len(), 2);
    assert_eq!(stage.network.most_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_of_a_failing_server_share_one_error_and_a_backoff() {
    let stage = Stage::new();
    stage.network.cut(Interruption::Refused);
    let provider = jwt(&stage);
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let provider = provider.clone();
            tokio::spawn(async move { provider.token().await.unwrap_err() })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().kind(), ErrorKind::Connect);
    }
    assert_eq!(stage.network.attempts(), 5, "one request with its attempts");
    let mut errors = 0;
    for _ in 0..300 {
        errors += u32::from(provider.token().await.is_err());
        pass(secs(1)).await;
    }
    assert_eq!(errors, 300);
    // Backoffs of 0.5, 1, 2, 4, 8, 15, 15 ... s between requests of at most 5 attempts within 3 s.
    let attempts = stage.network.attempts();
    assert!(
        (100..=125).contains(&attempts),
        "{attempts} in five minutes"
    );
    stage.network.repair();
    pass(secs(15)).await;
    provider.token().await.unwrap();
    let stats = provider.stats();
    assert!(stats.last_error.is_none() && stats.failures >= 7);
}

#[tokio::test(start_paused = true)]
async fn under_load_only_the_first_caller_waits() {
    let stage = Stage::new();
    stage.network.takes(millis(50));
    let fault = Fault::ShortLivedTokens { seconds: 5 };
    stage
        .mock
        .faults()
        .add(fault, MockEndpoint::Token, Times::Forever);
    let provider = jwt(&stage);
    provider.token().await.unwrap();
    for _ in 0..6000 {
        let token = provider.cached().expect("nobody waits");
        assert!(stage.takes(&token));
        pass(millis(10)).await;
    }
    let requests = stage.token_requests().len();
    assert!((12..=22).contains(&requests), "{requests} in a minute");
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_token_is_not_noticed() {
    // At any end within the window, the backoff after a failure must not outlast the token.
    for outage in (10..220).step_by(10) {
        let stage = Stage::new();
        let provider = jwt(&stage);
        provider.token().await.unwrap();
        pass(secs(670)).await;
        stage.network.cut(Interruption::Refused);
        for second in 0..300 {
            if second == outage {
                stage.network.repair();
            }
            let token = provider.token().await;
            assert!(
                token.is_ok(),
                "{second} s after 670 s; the outage ended after {outage} s"
            );
            pass(secs(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_background_refresh_the_caller_waits_and_no_task_remains() {
    let stage = Stage::new();
    stage.network.takes(millis(50));
    let first = stage.pkce_sign_in().await;
    let provider = CachedProvider::in_memory(stage.pkce(), first.clone())
        .refresh(coze_auth::RefreshMode::InLine)
        .build();
    let old = provider.token().await.unwrap();
    pass(secs(880)).await;
    let began = Instant::now();
    let new = provider.token().await.unwrap();
    assert_eq!(began.elapsed(), millis(50));
    assert_ne!(old.expose(), new.expose());
    assert!(stage.takes(&new));
    tokio::task::yield_now().await;
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(tasks, 0);
    assert_eq!(sign_in(&stage, &first).generations.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_the_current_token_can_be_invalidated() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    let first = provider.token().await.unwrap();
    stage.mock.revoke_access_token(first.expose());
    provider.invalidate(&first);
    let second = provider.token().await.unwrap();
    assert!(stage.takes(&second));
    for _ in 0..100 {
        // Callers with the old token report it late.
        provider.invalidate(&first);
        assert_eq!(provider.token().await.unwrap().expose(), second.expose());
    }
    assert_eq!(stage.token_requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn consecutively_refused_tokens_are_replaced_every_ten_seconds() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    for _ in 0..100 {
        let token = provider.token().await.unwrap();
        provider.invalidate(&token);
        pass(secs(1)).await;
    }
    assert_eq!(stage.token_requests().len(), 1 + 10);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_invalidated_during_its_refresh_is_not_served_after_it() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    let old = provider.token().await.unwrap();
    pass(secs(880)).await;
    stage.network.takes(secs(2));
    assert!(provider.cached().is_some(), "a refresh starts");
    provider.invalidate(&old);
    assert!(provider.cached().is_none());
    let new = provider.token().await.unwrap();
    assert_ne!(new.expose(), old.expose());
    assert_eq!(
        stage.token_requests().len(),
        2,
        "it joined the refresh in flight"
    );
}

// Counters, tracing and Debug

#[tokio::test(start_paused = true)]
async fn counters_match_the_requests() {
    let stage = Stage::new();
    let provider = jwt(&stage);
    assert_eq!(provider.stats().expires_in, None);
    provider.token().await.unwrap();
    assert_eq!(provider.stats().expires_in, Some(secs(898)));
    for _ in 0..10 {
        provider.cached().unwrap();
    }
    pass(secs(880)).await;
    stage.network.cut(Interruption::Refused);
    provider.cached().unwrap();
    pass(secs(4)).await;
    let stats = provider.stats();
    assert_eq!(stats.served_from_cache, 11);
    assert_eq!((stats.refreshes, stats.failures), (2, 1));
    assert_eq!(stats.last_error.unwrap().kind(), ErrorKind::Connect);

    stage.network.repair();
    provider.cached().unwrap();
    pass(secs(1)).await;
    let stats = provider.stats();
    assert_eq!((stats.refreshes, stats.failures), (3, 1));
    assert!(stats.last_error.is_none());
    assert_eq!(
        stats.served_from_cache, 12,
        "including those of the replaced token"
    );
}

#[derive(Clone, Default)]
pub(crate) struct Traced(Arc<Mutex<Vec<u8>>>);

impl Traced {
    /// Everything that is traced on this thread until the guard is dropped.
    pub(crate) fn from_now_on() -> (Self, impl Sized) {
        let traced = Self::default();
        let writer = traced.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        // With a single dispatcher, tracing asks only the thread that reaches a callsite first, possibly that of
        // another test, whether there is a subscriber, and caches a negative result.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        let watching = tracing::subscriber::set_default(subscriber);
        (traced, (second, watching))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn tracing_and_debug_output_contain_no_secret() {
    let (traced, _watching) = Traced::from_now_on();

    let stage = Stage::new();
    let mut secrets = vec![defaults::WEB_CLIENT_SECRET.to_owned()];
    let mut shown = String::new();
    let jwt = CachedProvider::jwt(stage.jwt());
    shown.push_str(&format!("{jwt:?}"));
    let mut providers = vec![jwt.build()];
    for (_, first, builder) in user_flows(&stage).await {
        secrets.push(first.refresh_token().unwrap().expose().to_owned());
        shown.push_str(&format!("{builder:?}"));
        providers.push(builder.build());
    }
    let faults = stage.mock.faults();
    faults.add(Fault::internal_error(), MockEndpoint::Token, Times::Next(3));
    faults.add(Fault::TruncatedJson, MockEndpoint::Token, Times::ONCE);
    for _ in 0..4 {
        for provider in &providers {
            match provider.token().await {
                Ok(token) => {
                    secrets.push(token.expose().to_owned());
                    shown.push_str(&format!("{token:?}"));
                    provider.invalidate(&token);
                }
                Err(error) => shown.push_str(&format!("{error} {error:?}")),
            }
            shown.push_str(&format!("{provider:?} {:?}", provider.stats()));
        }
        pass(secs(61)).await;
    }
    secrets.extend(stage.network.bearers());
    let traced = traced.text();
    for expected in [
        "the token request failed; retrying",
        "the token request failed",
        "refused the access token",
    ] {
        assert!(traced.contains(expected), "{expected:?} is traced");
    }
    assert!(secrets.len() > 20, "{}", secrets.len());
    for secret in &secrets {
        assert!(!traced.contains(secret.as_str()), "a secret was traced");
        assert!(
            !shown.contains(secret.as_str()),
            "a secret is in the Debug output"
        );
    }
}
