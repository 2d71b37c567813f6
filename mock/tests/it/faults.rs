//! One test per kind of fault: what the client observes, and whether the request took effect.

use crate::client::*;
use coze_mock::{
    Endpoint, ErrorShape, Fault, FaultBody, OAuthErrorCode, Outcome, RetryAfter, Target, Times,
    When, defaults,
};
use http::Request;
use http_body_util::Full;
use serde_json::json;
use std::time::{Duration, SystemTime};

/// A client with a refresh token. Whether that token is still valid shows whether a request took effect.
struct Refresher {
    client: Client,
    refresh_token: String,
}

impl Refresher {
    async fn new() -> Self {
        let client = Client::new();
        let refresh_token = client.web_tokens().await.text("refresh_token").to_owned();
        Self {
            client,
            refresh_token,
        }
    }

    fn plan(&self, fault: Fault) {
        self.client
            .mock
            .faults()
            .add(fault, Target::refresh(), Times::ONCE);
    }

    async fn refresh(&self) -> Reply {
        let body = refresh(defaults::WEB_CLIENT_ID, &self.refresh_token);
        self.client
            .post(TOKEN, defaults::WEB_CLIENT_SECRET, &body)
            .await
    }

    fn request(&self) -> Request<Full<bytes::Bytes>> {
        let body = refresh(defaults::WEB_CLIENT_ID, &self.refresh_token).to_string();
        Request::post(format!("https://api.coze.test{TOKEN}"))
            .header("content-type", "application/json")
            .header(
                "authorization",
                format!("Bearer {}", defaults::WEB_CLIENT_SECRET),
            )
            .body(Full::from(body))
            .expect("a request")
    }

    /// The fault no longer applies: checks a second attempt with the same token.
    async fn assert_token_is_valid(&self, lives: bool) {
        assert!(self.client.mock.faults().pending().is_empty());
        let reply = self.refresh().await;
        assert_eq!(reply.status == 200, lives, "{}", reply.json);
    }
}

#[tokio::test(start_paused = true)]
async fn latency() {
    let refresher = Refresher::new().await;
    refresher.plan(Fault::latency(Duration::from_secs(3)));
    let before = tokio::time::Instant::now();
    assert_eq!(refresher.refresh().await.status, 200);
    assert_eq!(before.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn connection_reset_before_and_after_processing() {
    for (when, lives) in [
        (When::BeforeProcessing, true),
        (When::AfterProcessing, false),
    ] {
        let refresher = Refresher::new().await;
        refresher.plan(Fault::ConnectionReset { when });
        let error = refresher
            .client
            .send(refresher.request())
            .await
            .expect_err("a reset");
        assert!(error.is_connection_reset());
        assert_eq!(
            refresher
                .client
                .mock
                .requests()
                .pop()
                .expect("a record")
                .outcome,
            Outcome::ConnectionReset
        );
        refresher.assert_token_is_valid(lives).await;
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_before_and_after_processing() {
    for (when, lives) in [
        (When::BeforeProcessing, true),
        (When::AfterProcessing, false),
    ] {
        let refresher = Refresher::new().await;
        refresher.plan(Fault::Timeout { when });
        let answer = tokio::time::timeout(
            Duration::from_secs(3600),
            refresher.client.send(refresher.request()),
        )
        .await;
        assert!(answer.is_err(), "no response within an hour");
        assert_eq!(
            refresher
                .client
                .mock
                .requests()
                .pop()
                .expect("a record")
                .outcome,
            Outcome::NeverAnswered
        );
        refresher.assert_token_is_valid(lives).await;
    }
}

#[tokio::test]
async fn too_many_requests_with_retry_after() {
    let refresher = Refresher::new().await;
    refresher.plan(Fault::too_many_requests(7));
    let reply = refresher.refresh().await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(reply.json["code"], 4013);

    let retry_after = Some(RetryAfter::DateInSeconds(90));
    refresher.plan(Fault::Status {
        status: 429,
        body: FaultBody::Empty,
        retry_after,
    });
    let date = refresher
        .refresh()
        .await
        .header("retry-after")
        .and_then(|date| httpdate::parse_http_date(date).ok());
    assert_eq!(
        date,
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(START + 90))
    );
    refresher.assert_token_is_valid(true).await;
}

#[tokio::test]
async fn server_errors_with_json_html_or_no_body() {
    let refresher = Refresher::new().await;
    for status in [500, 502, 503, 504] {
        for body in [FaultBody::Json, FaultBody::Html, FaultBody::Empty] {
            refresher.plan(Fault::Status {
                status,
                body,
                retry_after: None,
            });
            let reply = refresher.refresh().await;
            assert_eq!(reply.status, status);
            assert!(reply.header("x-tt-logid").is_some());
            match body {
                FaultBody::Json => assert_eq!(reply.text("error_code"), "internal_error"),
                FaultBody::Html => {
                    assert_eq!(
                        reply.header("content-type"),
                        Some("text/html; charset=utf-8")
                    );
                    assert!(reply.body.starts_with(b"<html>"));
                }
                FaultBody::Empty => {
                    assert!(reply.body.is_empty() && reply.header("content-type").is_none())
                }
                other => panic!("no body is known for {other:?}"),
            }
        }
    }
    refresher
        .client
        .mock
        .faults()
        .add(Fault::status(503), Endpoint::UsersMe, Times::ONCE);
    let reply = refresher
        .client
        .get("/v1/users/me", defaults::PERSONAL_ACCESS_TOKEN)
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.json["code"].as_i64()),
        (503, Some(4000)),
        "shape C from the API"
    );
    refresher.assert_token_is_valid(true).await;
}

#[tokio::test]
async fn truncated_json() {
    let refresher = Refresher::new().await;
    refresher.plan(Fault::TruncatedJson);
    let reply = refresher.refresh().await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.starts_with(b"{\"access_token\":\"czu_") && reply.json.is_null());
    refresher.assert_token_is_valid(false).await;
}

#[tokio::test]
async fn wrong_content_type() {
    let refresher = Refresher::new().await;
    refresher.plan(Fault::WrongContentType);
    let reply = refresher.refresh().await;
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(reply.text("access_token").starts_with("czu_"));
    refresher.assert_token_is_valid(false).await;
}

#[tokio::test]
async fn oversized_body() {
    let refresher = Refresher::new().await;
    refresher.plan(Fault::OversizedBody);
    let reply = refresher.refresh().await;
    assert!(reply.body.len() > 2 * 1024 * 1024);
    assert!(
        reply.text("access_token").starts_with("czu_"),
        "it is still valid JSON"
    );
}

#[tokio::test]
async fn redirect_to_another_host() {
    let refresher = Refresher::new().await;
    for status in [301, 302, 303, 307, 308] {
        refresher.plan(Fault::Redirect {
            status,
            location: "https://stranger.example/token".into(),
        });
        let reply = refresher.refresh().await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("location")),
            (status, Some("https://stranger.example/token"))
        );
    }
    refresher.assert_token_is_valid(true).await;
}

#[tokio::test]
async fn status_200_with_each_shape_of_error() {
    let refresher = Refresher::new().await;
    for (shape, field, value) in [
        (ErrorShape::Both, "error_code", json!("invalid_grant")),
        (ErrorShape::Both, "error", json!("invalid_grant")),
        (ErrorShape::A, "error_code", json!("invalid_grant")),
        (ErrorShape::B, "error", json!("invalid_grant")),
        (ErrorShape::C, "code", json!(4000)),
    ] {
        refresher.plan(Fault::ErrorWithStatus200 {
            shape,
            code: OAuthErrorCode::InvalidGrant,
        });
        let reply = refresher.refresh().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json[field], value, "{}", reply.json);
    }
    refresher.assert_token_is_valid(true).await;
}

#[tokio::test]
async fn skewed_date_header() {
    let refresher = Refresher::new().await;
    for seconds in [3600, -3600] {
        refresher.plan(Fault::SkewedDate { seconds });
        let reply = refresher.client.mock.faults().pending();
        assert_eq!(reply.len(), 1);
        let body = refresh(defaults::WEB_CLIENT_ID, "unknown");
        let reply = refresher
            .client
            .post(TOKEN, defaults::WEB_CLIENT_SECRET, &body)
            .await;
        let date =
            httpdate::parse_http_date(reply.header("date").expect("a date")).expect("a date");
        assert_eq!(
            date,
            SystemTime::UNIX_EPOCH + Duration::from_secs(START.saturating_add_signed(seconds))
        );
    }
    let reply = refresher.refresh().await;
    assert_eq!(
        reply.header("date"),
        Some("Fri, 15 Jan 2027 08:00:00 GMT"),
        "the mock's own clock is correct"
    );
}

#[tokio::test]
async fn short_lived_tokens() {
    let refresher = Refresher::new().await;
    refresher.plan(Fault::ShortLivedTokens { seconds: 2 });
    let reply = refresher.refresh().await;
    assert_eq!(reply.json["expires_in"], START + 2);
    refresher
        .client
        .mock
        .clock()
        .advance(Duration::from_secs(2));
    assert!(
        refresher
            .client
            .mock
            .granted(reply.text("access_token"))
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn faults_can_be_combined_and_count_down() {
    let client = Client::new();
    let faults = client.mock.faults();
    faults.add(
        Fault::latency(Duration::from_secs(1)),
        Target::Any,
        Times::Forever,
    );
    faults.add(Fault::status(502), Endpoint::DeviceCode, Times::Next(2));
    faults.add(Fault::status(503), Endpoint::DeviceCode, Times::ONCE);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.start_device().await.status.as_u16());
    }
    assert_eq!(statuses, [502, 502, 503, 200]);
    assert_eq!(client.web_tokens().await.status, 200, "another endpoint");
    assert_eq!(faults.pending().len(), 1);
    let record = client.mock.requests().into_iter().next().expect("a record");
    assert_eq!(record.faults, ["latency 1000 ms", "status 502"]);
    faults.clear();
    assert!(faults.pending().is_empty());
}
