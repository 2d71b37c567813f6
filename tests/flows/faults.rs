//! Each fault that the mock can cause, as a caller of coze-auth sees it: the kind of error, the status, when to
//! come back and the log id are all that a caller can act on, so they have to be exact.

use coze_auth::{
    Endpoint, Error, ErrorCode, ErrorKind, Flow, OAuthClient, PkceFlow, RefreshToken, Result,
    Token, reqwest,
};
use coze_mock::{
    Decision, Endpoint as At, ErrorShape, ErrorWord, Fault, FaultBody, MockCoze, RetryAfter,
    Target, Times, When, defaults,
};
use tokio::time::Instant;

use crate::support::{Cut, REDIRECT_URI, START, Stage, jwt_flow, millis, pass, secs, status, unix};

/// A signed-in client whose refreshes go wrong.
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

    /// Refreshes while this fault strikes.
    async fn refresh(&self, fault: Fault) -> Result<Token> {
        let faults = self.stage.mock.faults();
        faults.add(fault, Target::refresh(), Times::ONCE);
        let outcome = self.pkce.refresh(&self.refresh_token).await;
        assert!(faults.pending().is_empty(), "the fault struck");
        outcome
    }

    /// Refreshes while this fault strikes, which must be an error that tells where it happened.
    async fn refused(&self, fault: Fault) -> Error {
        let error = self.refresh(fault).await.unwrap_err();
        assert_eq!(error.flow(), Some(Flow::Pkce), "{error}");
        let endpoint = "https://api.coze.test/api/permission/oauth2/token";
        assert_eq!(error.endpoint(), Some(endpoint), "{error}");
        error
    }

    /// The same, with an answer, whose log id must be in the error.
    async fn answered(&self, fault: Fault) -> Error {
        let error = self.refused(fault).await;
        let log_id = self.stage.last_log_id();
        assert_eq!(error.log_id(), Some(log_id.as_str()), "{error}");
        error
    }

    /// Whether the refresh token that was sent still works.
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
async fn latency_beyond_the_time_out_is_one() {
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
async fn an_answer_that_never_comes_is_a_time_out_whether_or_not_the_request_took_effect() {
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
async fn too_many_requests_say_when_to_come_back() {
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
async fn the_date_to_come_back_at_counts_by_the_servers_clock() {
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
async fn a_server_error_may_pass_whatever_its_body_is() {
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
async fn a_truncated_answer_is_no_answer_and_shows_no_token() {
    let unlucky = Unlucky::new().await;
    let error = unlucky.answered(Fault::TruncatedJson).await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert_eq!(status(&error), Some(200));
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("czu_"), "{shown}");
    assert!(!unlucky.is_live(), "the request took effect");
}

#[tokio::test(start_paused = true)]
async fn a_token_with_the_wrong_content_type_is_a_token() {
    let unlucky = Unlucky::new().await;
    let token = unlucky.refresh(Fault::WrongContentType).await.unwrap();
    unlucky.stage.granted(&token);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_two_mib_is_not_read_to_its_end() {
    let unlucky = Unlucky::new().await;
    let error = unlucky.answered(Fault::OversizedBody).await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert_eq!(status(&error), Some(200));
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_an_error_of_its_own() {
    let unlucky = Unlucky::new().await;
    for code in [301, 302, 303, 307, 308] {
        let error = unlucky
            .answered(Fault::Redirect {
                status: code,
                location: "https://stranger.example/token".into(),
            })
            .await;
        assert_eq!(error.kind(), ErrorKind::Redirected, "{code}");
        assert_eq!(status(&error), Some(code));
        assert!(!error.is_retryable(), "{code}");
        assert!(!error.to_string().contains("stranger"), "{error}");
    }
    assert!(unlucky.is_live());
}

#[tokio::test(start_paused = true)]
async fn an_error_in_an_answer_of_status_200_is_an_error_in_each_shape() {
    let unlucky = Unlucky::new().await;
    for (shape, word, code) in [
        (
            ErrorShape::A,
            ErrorWord::InvalidGrant,
            ErrorCode::InvalidGrant,
        ),
        (ErrorShape::B, ErrorWord::AccessDeny, ErrorCode::AccessDeny),
        (ErrorShape::C, ErrorWord::InvalidGrant, ErrorCode::Api(4000)),
    ] {
        let error = unlucky
            .answered(Fault::ErrorWithStatus200 { shape, word })
            .await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{shape:?}");
        assert_eq!(error.code(), Some(&code), "{shape:?}");
        assert_eq!(status(&error), Some(200), "{shape:?}");
        assert!(!error.is_retryable(), "{shape:?}");
        assert!(error.message().is_some(), "{shape:?}");
    }
    let internal = Fault::ErrorWithStatus200 {
        shape: ErrorShape::A,
        word: ErrorWord::InternalError,
    };
    assert!(unlucky.answered(internal).await.is_retryable());
    assert!(unlucky.is_live());
}

#[tokio::test(start_paused = true)]
async fn a_date_that_is_wrong_neither_kills_a_token_nor_lengthens_its_life() {
    for (skew, lifetime) in [(600, 900), (-600, 900), (-7200, 900), (7200, 900)] {
        let unlucky = Unlucky::new().await;
        let fault = Fault::SkewedDate { seconds: skew };
        let token = unlucky.refresh(fault).await.unwrap();
        assert_eq!(token.lifetime(), secs(lifetime), "{skew}");
        let end = unlucky.stage.granted(&token).expires_at;
        assert_eq!(Some(token.expires_at()), end.map(unix), "{skew}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_token_is_known_to_be_one() {
    let unlucky = Unlucky::new().await;
    pass(secs(5)).await;
    let fault = Fault::ShortLivedTokens { seconds: 2 };
    let token = unlucky.refresh(fault).await.unwrap();
    assert_eq!(token.lifetime(), secs(2));
    assert!(!token.is_expired());
    unlucky.stage.granted(&token);
    pass(secs(2)).await;
    assert!(token.is_expired());
    let token = token.access_token().expose();
    assert!(unlucky.stage.mock.granted(token).is_none());
}

#[tokio::test(start_paused = true)]
async fn every_request_of_every_flow_sees_a_gateways_error() {
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
    let jwt = coze_auth::JwtTokenRequest::new;
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
async fn a_device_polls_on_through_faults_that_pass() {
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
        stage.mock.faults().add(fault, At::Token, Times::ONCE);
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
    // Doubled after each failure; `Retry-After` counts where it is longer.
    assert_eq!(at, [5, 15, 55, 95]);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_could_not_be_sent_is_sent_again_and_one_that_may_have_been_is_not() {
    let attempts_over = |cut, mended_after| async move {
        let stage = Stage::new();
        let web = stage.web();
        let (page, login) = web.login(REDIRECT_URI).begin().unwrap();
        let callback = stage.person(page.as_str(), Decision::Approve);
        stage.line.cut(cut);
        let line = stage.line.clone();
        let mended = tokio::spawn(async move {
            pass(mended_after).await;
            line.mend();
        });
        let outcome = web.complete(login, &callback).await;
        mended.await.unwrap();
        (
            outcome.map_err(|error| error.kind()).err(),
            stage.line.attempts(),
        )
    };
    let soon = attempts_over(Cut::Refused, millis(500)).await;
    assert_eq!(soon, (None, 3), "at once, after 0.2 s, after 0.8 s more");
    let late = attempts_over(Cut::Refused, secs(5)).await;
    assert_eq!(late, (Some(ErrorKind::Connect), 3));
    let silent = attempts_over(Cut::Silent, millis(500)).await;
    assert_eq!(silent, (Some(ErrorKind::Timeout), 1));
}

/// Over a socket, where resets and time-outs are real.
async fn over_a_socket(fault: Fault) -> Error {
    let patience = match fault {
        Fault::Timeout { .. } => secs(6),
        _ => secs(30),
    };
    let mock = MockCoze::start().await.unwrap();
    mock.faults().add(fault, At::Token, Times::ONCE);
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(mock.url()).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
        .request_timeout(patience)
        .build()
        .unwrap();
    let error = jwt_flow(client).token().await.unwrap_err();
    assert_eq!(mock.request_count(), 1, "nothing is repeated by itself");
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
async fn a_silent_socket_is_a_time_out() {
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
    assert_eq!(error.kind(), ErrorKind::Redirected, "{error}");
    assert_eq!(elsewhere.request_count(), 0);
}

#[tokio::test]
async fn two_mib_over_a_socket_are_cut_off() {
    let error = over_a_socket(Fault::OversizedBody).await;
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
    assert!(error.log_id().is_some(), "{error}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_no_connection() {
    // A port that is taken, so that nobody else can have it, and where nobody listens.
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
