//! Each fault of the mock as a caller of coze-auth sees it: error kind, status,
//! `Retry-After` and log id are what a caller can act on, so they have to be exact.

use coze_auth::{
    Endpoint, Error, ErrorCode, ErrorKind, Flow, OAuthClient, PkceFlow, RefreshToken, Result,
    Token, UserFlow, reqwest,
};
use coze_mock::{
    Decision, Endpoint as MockEndpoint, ErrorShape, Fault, FaultBody, MockCoze, OAuthErrorCode,
    RetryAfter, Target, Times, When, defaults,
};
use tokio::time::Instant;

use crate::support::{
    Interruption, REDIRECT_URI, START, Stage, jwt_flow, millis, pass, secs, status, unix,
};

/// A signed-in client whose refreshes fail.
struct Unlucky {
    stage: Stage,
    pkce: PkceFlow,
    refresh_token: RefreshToken,
}

impl Unlucky {
    async fn new() -> Self {
        let stage = Stage::new();
        let token = stage.pkce_sign_in().await;
        Self {
            pkce: stage.pkce(),
            refresh_token: token.refresh_token().unwrap().clone(),
            stage,
        }
    }

    /// Refreshes with this fault.
    async fn refresh(&self, fault: Fault) -> Result<Token> {
        let faults = self.stage.mock.faults();
        faults.add(fault, Target::refresh(), Times::ONCE);
        let outcome = self.pkce.refresh(&self.refresh_token).await;
        assert!(faults.pending().is_empty(), "the fault was applied");
        outcome
    }

    /// Refreshes with this fault, which must cause an error that names the endpoint.
    async fn refused(&self, fault: Fault) -> Error {
        let error = self.refresh(fault).await.unwrap_err();
        assert_eq!(error.flow(), Some(Flow::Pkce), "{error}");
        let endpoint = "https://api.coze.test/api/permission/oauth2/token";
        assert_eq!(error.endpoint(), Some(endpoint), "{error}");
        error
    }

    /// The same for a fault with a response, whose log id must be in the error.
    async fn answered(&self, fault: Fault) -> Error {
        let error = self.refused(fault).await;
        let log_id = self.stage.last_log_id();
        assert_eq!(error.log_id(), Some(log_id.as_str()), "{error}");
        error
    }

    /// Whether the refresh token is still valid.
    fn is_live(&self) -> bool {
        let sign_in = self.stage.mock.sign_in_of(self.refresh_token.expose());
        let fingerprint = coze_mock::fingerprint(self.refresh_token.expose());
        sign_in.unwrap().live_refresh_token() == Some(fingerprint.as_str())
    }
}

#[tokio::test(start_paused = true)]
async fn latency_is_waited_for() {
    let unlucky = Unlucky::new().await;
    let began = Instant::now();
    let token = unlucky.refresh(Fault::latency(secs(29))).await.unwrap();
    assert_eq!(began.elapsed(), secs(29));
    let granted = unlucky.stage.granted(&token);
    assert_eq!(Some(token.expires_at()), granted.expires_at.map(unix));
}

#[tokio::test(start_paused = true)]
async fn latency_beyond_the_timeout_is_a_timeout() {
    let unlucky = Unlucky::new().await;
    let began = Instant::now();
    let error = unlucky.refused(Fault::latency(secs(31))).await;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), secs(30), "the default");
    assert!(error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_reset_connection_is_interrupted_whether_or_not_the_request_took_effect() {
    for (when, live) in [
        (When::BeforeProcessing, true),
        (When::AfterProcessing, false),
    ] {
        let unlucky = Unlucky::new().await;
        let error = unlucky.refused(Fault::ConnectionReset { when }).await;
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{when:?}");
        assert_eq!((status(&error), error.log_id()), (None, None), "{when:?}");
        assert!(error.is_retryable(), "{when:?}");
        assert_eq!(unlucky.is_live(), live, "{when:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_response_is_a_timeout_whether_or_not_the_request_took_effect() {
    for (when, live) in [
        (When::BeforeProcessing, true),
        (When::AfterProcessing, false),
    ] {
        let unlucky = Unlucky::new().await;
        let began = Instant::now();
        let error = unlucky.refused(Fault::Timeout { when }).await;
        assert_eq!(error.kind(), ErrorKind::Timeout, "{when:?}");
        assert_eq!(began.elapsed(), secs(30), "{when:?}");
        assert_eq!((status(&error), error.log_id()), (None, None), "{when:?}");
        assert_eq!(unlucky.is_live(), live, "{when:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_reports_retry_after() {
    let unlucky = Unlucky::new().await;
    let error = unlucky.answered(Fault::too_many_requests(7)).await;
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(status(&error), Some(429));
    assert_eq!(error.code(), Some(&ErrorCode::Api(4013)));
    assert_eq!(error.retry_after(), Some(secs(7)));
    assert!(error.is_retryable());
    assert!(unlucky.is_live());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_date_counts_by_the_servers_clock() {
    for local_ahead in [0, 3600, -3600] {
        let unlucky = Unlucky::new().await;
        unlucky.stage.clock.set_wall_offset_secs(local_ahead);
        for body in [FaultBody::Json, FaultBody::Html, FaultBody::Empty] {
            let error = unlucky
                .answered(Fault::Status {
                    status: 429,
                    body,
                    retry_after: Some(RetryAfter::DateInSeconds(90)),
                })
                .await;
            assert_eq!(
                error.retry_after(),
                Some(secs(90)),
                "{local_ahead} {body:?}"
            );
            assert!(error.is_retryable(), "{body:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_error_is_retryable_with_any_body() {
    let unlucky = Unlucky::new().await;
    for code in [500, 502, 503, 504] {
        for body in [FaultBody::Json, FaultBody::Html, FaultBody::Empty] {
            let error = unlucky
                .answered(Fault::Status {
                    status: code,
                    body,
                    retry_after: Some(RetryAfter::Seconds(3)),
                })
                .await;
            let (kind, word) = match body {
                FaultBody::Json => (ErrorKind::Refused, Some(&ErrorCode::InternalError)),
                FaultBody::Html | FaultBody::Empty => (ErrorKind::InvalidAnswer, None),
                other => panic!("no error is known for {other:?}"),
            };
            assert_eq!(
                (error.kind(), error.code()),
                (kind, word),
                "{code} {body:?}"
            );
            assert_eq!(status(&error), Some(code), "{body:?}");
            assert_eq!(error.retry_after(), Some(secs(3)), "{code} {body:?}");
            assert!(error.is_retryable(), "{code} {body:?}");
        }
    }
    assert!(unlucky.is_live(), "none of them took effect");
}

#[tokio::test(start_paused = true)]
async fn a_truncated_response_is_an_error_without_the_token() {
    let unlucky = Unlucky::new().await;
    let error = unlucky.answered(Fault::TruncatedJson).await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert_eq!(status(&error), Some(200));
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("czu_"), "{shown}");
    assert!(!unlucky.is_live(), "the request took effect");
}

#[tokio::test(start_paused = true)]
async fn a_token_with_the_wrong_content_type_is_accepted() {
    let unlucky = Unlucky::new().await;
    let token = unlucky.refresh(Fault::WrongContentType).await.unwrap();
    unlucky.stage.granted(&token);
}

#[tokio::test(start_paused = true)]
async fn a_response_of_two_mib_is_not_read_completely() {
    let unlucky = Unlucky::new().await;
    let error = unlucky.answered(Fault::OversizedBody).await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert_eq!(status(&error), Some(200));
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_has_its_own_error_kind() {
    let unlucky = Unlucky::new().await;
    for code in [301, 302, 303, 307, 308] {
        let error = unlucky
            .answered(Fault::Redirect {
                status: code,
                location: "https://stranger.example/token".into(),
            })
            .await;
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{code}");
        assert_eq!(status(&error), Some(code));
        assert!(!error.is_retryable(), "{code}");
        assert!(!error.to_string().contains("stranger"), "{error}");
    }
    assert!(unlucky.is_live());
}

#[tokio::test(start_paused = true)]
async fn an_error_with_status_200_is_an_error_in_each_shape() {
    let unlucky = Unlucky::new().await;
    for (shape, code, expected) in [
        (
            ErrorShape::A,
            OAuthErrorCode::InvalidGrant,
            ErrorCode::InvalidGrant,
        ),
        (
            ErrorShape::B,
            OAuthErrorCode::AccessDeny,
            ErrorCode::AccessDeny,
        ),
        (
            ErrorShape::C,
            OAuthErrorCode::InvalidGrant,
            ErrorCode::Api(4000),
        ),
    ] {
        let error = unlucky
            .answered(Fault::ErrorWithStatus200 { shape, code })
            .await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{shape:?}");
        assert_eq!(error.code(), Some(&expected), "{shape:?}");
        assert_eq!(status(&error), Some(200), "{shape:?}");
        assert!(!error.is_retryable(), "{shape:?}");
        assert!(error.message().is_some(), "{shape:?}");
    }
    let internal = Fault::ErrorWithStatus200 {
        shape: ErrorShape::A,
        code: OAuthErrorCode::InternalError,
    };
    assert!(unlucky.answered(internal).await.is_retryable());
    assert!(unlucky.is_live());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_date_does_not_change_a_lifetime() {
    for (skew, lifetime) in [(600, 900), (-600, 900), (-7200, 900), (7200, 900)] {
        let unlucky = Unlucky::new().await;
        let fault = Fault::SkewedDate { seconds: skew };
        let token = unlucky.refresh(fault).await.unwrap();
        assert_eq!(token.remaining(), secs(lifetime), "{skew}");
        let end = unlucky.stage.granted(&token).expires_at;
        assert_eq!(Some(token.expires_at()), end.map(unix), "{skew}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_lifetime_is_reported() {
    let unlucky = Unlucky::new().await;
    pass(secs(5)).await;
    let fault = Fault::ShortLivedTokens { seconds: 2 };
    let token = unlucky.refresh(fault).await.unwrap();
    assert_eq!(token.remaining(), secs(2));
    assert!(!token.remaining().is_zero());
    unlucky.stage.granted(&token);
    pass(secs(2)).await;
    assert!(token.remaining().is_zero());
    let token = token.access_token().expose();
    assert!(unlucky.stage.mock.granted(token).is_none());
}

#[tokio::test(start_paused = true)]
async fn every_request_of_every_flow_reports_a_gateway_error() {
    let stage = Stage::new();
    let token = stage.web_sign_in().await;
    let authorization = stage.device().start().await.unwrap();
    let refresh_token = token.refresh_token().unwrap();
    let gateway = Fault::Status {
        status: 502,
        body: FaultBody::Html,
        retry_after: None,
    };
    stage
        .mock
        .faults()
        .add(gateway, Target::Any, Times::Forever);
    let jwt = coze_auth::JwtTokenRequest::default;
    for (flow, error) in [
        (Flow::Web, stage.web().refresh(refresh_token).await.err()),
        (Flow::Pkce, stage.pkce().refresh(refresh_token).await.err()),
        (
            Flow::Device,
            stage.device().refresh(refresh_token).await.err(),
        ),
        (Flow::Device, stage.device().start().await.err()),
        (
            Flow::Device,
            stage.device().start_in_workspace("7001").await.err(),
        ),
        (
            Flow::Device,
            stage.device().poll_once(&authorization).await.err(),
        ),
        (Flow::Jwt, stage.jwt().token().await.err()),
        (
            Flow::Jwt,
            stage.jwt().token_for(&jwt().account("1")).await.err(),
        ),
        (
            Flow::Jwt,
            stage.jwt().token_for(&jwt().enterprise("1")).await.err(),
        ),
    ] {
        let error = error.unwrap();
        assert_eq!(error.flow(), Some(flow), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
        assert_eq!(status(&error), Some(502), "{error}");
        assert!(error.log_id().is_some(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_continues_to_poll_through_temporary_faults() {
    let stage = Stage::new();
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    for fault in [
        Fault::internal_error(),
        Fault::too_many_requests(40),
        Fault::ConnectionReset {
            when: When::BeforeProcessing,
        },
    ] {
        stage
            .mock
            .faults()
            .add(fault, MockEndpoint::Token, Times::ONCE);
    }
    stage
        .mock
        .approve_device(authorization.user_code())
        .unwrap();
    let token = device.poll(&authorization).await.unwrap();
    stage.granted(&token);
    let at: Vec<_> = stage
        .token_requests()
        .iter()
        .map(|request| request.at_unix_ms / 1000 - START)
        .collect();
    // Doubled after each failure; `Retry-After` applies if it is longer.
    assert_eq!(at, [5, 15, 55, 95]);
}

#[tokio::test(start_paused = true)]
async fn a_code_is_resent_only_if_it_was_certainly_not_sent() {
    let attempts_over = |cut, repaired_after| async move {
        let stage = Stage::new();
        let web = stage.web();
        let (page, login) = web.login(REDIRECT_URI).begin().unwrap();
        let callback = stage.person(page.as_str(), Decision::Approve);
        stage.network.cut(cut);
        let network = stage.network.clone();
        let repaired = tokio::spawn(async move {
            pass(repaired_after).await;
            network.repair();
        });
        let outcome = web.complete(login, &callback).await;
        repaired.await.unwrap();
        (
            outcome.map_err(|error| error.kind()).err(),
            stage.network.attempts(),
        )
    };
    let soon = attempts_over(Interruption::Refused, millis(500)).await;
    assert_eq!(
        soon,
        (None, 3),
        "immediately, after 0.2 s, after 0.8 s more"
    );
    let late = attempts_over(Interruption::Refused, secs(5)).await;
    assert_eq!(late, (Some(ErrorKind::Connect), 3));
    let silent = attempts_over(Interruption::Silent, millis(500)).await;
    assert_eq!(silent, (Some(ErrorKind::Timeout), 1));
}

/// Over a socket, with real resets and timeouts.
async fn over_a_socket(fault: Fault) -> Error {
    let timeout = match fault {
        Fault::Timeout { .. } => secs(6),
        _ => secs(30),
    };
    let mock = MockCoze::start().await.unwrap();
    mock.faults().add(fault, MockEndpoint::Token, Times::ONCE);
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(mock.url()).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
        .request_timeout(timeout)
        .build()
        .unwrap();
    let error = jwt_flow(client).token().await.unwrap_err();
    assert_eq!(
        mock.request_count(),
        1,
        "no request is repeated automatically"
    );
    error
}

#[tokio::test]
async fn a_tcp_reset_is_interrupted() {
    for when in [When::BeforeProcessing, When::AfterProcessing] {
        let error = over_a_socket(Fault::ConnectionReset { when }).await;
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    }
}

#[tokio::test]
async fn a_silent_socket_is_a_timeout() {
    let when = When::BeforeProcessing;
    let error = over_a_socket(Fault::Timeout { when }).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_redirect_over_a_socket_is_not_followed() {
    let elsewhere = MockCoze::start().await.unwrap();
    let location = format!("{}/api/permission/oauth2/token", elsewhere.url());
    let error = over_a_socket(Fault::Redirect {
        status: 307,
        location,
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
    assert_eq!(elsewhere.request_count(), 0);
}

#[tokio::test]
async fn two_mib_over_a_socket_are_not_read_completely() {
    let error = over_a_socket(Fault::OversizedBody).await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
    assert!(error.log_id().is_some(), "{error}");
}

#[tokio::test]
async fn a_stopped_server_is_a_connect_error() {
    // A port that is bound, so that no other process can use it, but not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(url).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
        .build()
        .unwrap();
    let device = coze_auth::DeviceFlow::new(client, defaults::DEVICE_CLIENT_ID).unwrap();
    let error = device.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert!(error.is_retryable());
}
