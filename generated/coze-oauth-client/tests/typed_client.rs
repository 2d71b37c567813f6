//! What the typed client sends, and what it makes of answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use coze_oauth_client::types::{
    AuthorizationCodeGrant, DeviceCodeAnswer, DeviceCodeRequest, JwtBearerGrant, OAuthErrorAnswer,
    TokenAnswer, TokenRequest, UserCode,
};
use coze_oauth_client::{Client, Error};
use coze_wire::{Bearer, Exchange, Secret};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

/// A server that gives the same answer to everything.
async fn server(status: u16, body: Value) -> MockServer {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(status).set_body_json(body);
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

fn client(server: &MockServer, exchange: Exchange) -> Client {
    let http = coze_wire::http_client(&server.uri()).unwrap();
    Client::new_with_client(&server.uri(), http, exchange)
}

async fn only_request(server: &MockServer) -> Request {
    let mut requests = server.received_requests().await.unwrap();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

fn code_grant() -> AuthorizationCodeGrant {
    AuthorizationCodeGrant::builder()
        .client_id("client_1")
        .code("code_1")
        .redirect_uri("https://example.com/cb")
        .try_into()
        .unwrap()
}

#[tokio::test]
async fn a_grant_names_itself_and_absent_fields_are_not_sent() {
    let server = server(
        200,
        json!({"access_token": "czu_1", "expires_in": 1795349700}),
    )
    .await;
    let bearer = Bearer::new(&Secret::from("client_secret_1")).unwrap();

    let client = client(&server, Exchange::new().with_bearer(bearer));
    client
        .issue_token()
        .body(code_grant())
        .send()
        .await
        .unwrap();

    let request = only_request(&server).await;
    assert_eq!(request.method, "POST");
    assert_eq!(request.url.path(), "/api/permission/oauth2/token");
    assert_eq!(request.headers["authorization"], "Bearer client_secret_1");
    assert_eq!(request.headers["content-type"], "application/json");
    assert!(
        !request.headers.contains_key("api-version"),
        "{:?}",
        request.headers
    );
    assert_eq!(
        request.body_json::<Value>().unwrap(),
        json!({
            "grant_type": "authorization_code",
            "client_id": "client_1",
            "code": "code_1",
            "redirect_uri": "https://example.com/cb",
        })
    );
}

#[tokio::test]
async fn an_empty_jwt_grant_leaves_the_duration_to_the_server() {
    let server = server(
        200,
        json!({"access_token": "czs_1", "expires_in": 1795349700}),
    )
    .await;

    let client = client(&server, Exchange::new());
    let grant = TokenRequest::from(JwtBearerGrant::default());
    client.issue_token().body(grant).send().await.unwrap();

    assert_eq!(
        only_request(&server).await.body_json::<Value>().unwrap(),
        json!({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"})
    );
}

#[tokio::test]
async fn ids_are_escaped_into_the_path() {
    let server = server(
        200,
        json!({"access_token": "czs_1", "expires_in": 1795349700}),
    )
    .await;

    let client = client(&server, Exchange::new());
    let call = client.issue_account_token().account_id("a/b?c#d%");
    call.body(JwtBearerGrant::default()).send().await.unwrap();

    assert_eq!(
        only_request(&server).await.url.path(),
        "/api/permission/oauth2/account/a%2Fb%3Fc%23d%25/token"
    );
}

/// How a test names the shape that an answer was taken for.
fn shape(error: &OAuthErrorAnswer) -> &'static str {
    match error {
        OAuthErrorAnswer::TokenError(_) => "A",
        OAuthErrorAnswer::DeviceError(_) => "B",
        OAuthErrorAnswer::ApiError(_) => "C",
    }
}

#[tokio::test]
async fn each_error_shape_is_told_at_any_status() {
    let bodies = [
        (
            json!({"error_code": "invalid_client", "error_message": "m", "error": "free text"}),
            "A",
        ),
        (
            json!({"error_code": "slow_down", "error": "slow_down", "error_description": "d"}),
            "A",
        ),
        (
            json!({"error": "authorization_pending", "error_description": "d"}),
            "B",
        ),
        (
            json!({"code": 4100, "msg": "m", "detail": {"logid": "l"}}),
            "C",
        ),
        (json!({"code": 4100, "msg": "m", "unknown": {}}), "C"),
    ];
    for (body, expected) in bodies {
        for status in [200, 400, 401, 500] {
            let server = server(status, body.clone()).await;
            let client = client(&server, Exchange::new());

            let answer = client.issue_token().body(code_grant()).send().await;

            let error = match answer {
                Ok(answer) => match answer.into_inner() {
                    TokenAnswer::ErrorAnswer(error) => error,
                    TokenAnswer::Token(_) => panic!("{body} was taken for a token"),
                },
                Err(Error::ErrorResponse(answer)) => answer.into_inner(),
                Err(other) => panic!("{status} {body}: {other:?}"),
            };
            assert_eq!(shape(&error), expected, "{status} {body}");
        }
    }
}

#[tokio::test]
async fn a_user_code_may_be_a_string_or_a_number_and_the_interval_may_be_absent() {
    for (sent, expected) in [
        (json!("WDJB-MJHT"), "WDJB-MJHT"),
        (json!(48213907), "48213907"),
    ] {
        let server = server(
            200,
            json!({"device_code": "dc_1", "user_code": sent,
                "verification_uri": "https://www.coze.com/device", "expires_in": 300}),
        )
        .await;
        let client = client(&server, Exchange::new());
        let request: DeviceCodeRequest = DeviceCodeRequest::builder()
            .client_id("client_1")
            .try_into()
            .unwrap();

        let answer = client
            .start_device_authorization()
            .body(request)
            .send()
            .await
            .unwrap();

        let DeviceCodeAnswer::DeviceCode(started) = answer.into_inner() else {
            panic!("a started authorization was taken for an error");
        };
        assert_eq!(started.user_code.to_string(), expected);
        assert_eq!(
            matches!(started.user_code, UserCode::Int64(_)),
            sent.is_number()
        );
        assert_eq!(started.interval, 5);
    }
}

#[test]
fn debug_prints_no_secret() {
    let mut grant = code_grant();
    grant.code_verifier = Some(Secret::from("verifier_1"));
    let answer: TokenAnswer = serde_json::from_value(
        json!({"access_token": "access_1", "refresh_token": "refresh_1", "expires_in": 1}),
    )
    .unwrap();

    let printed = format!(
        "{grant:?} {answer:?} {:?}",
        AuthorizationCodeGrant::builder().code("code_1")
    );

    for secret in ["code_1", "verifier_1", "access_1", "refresh_1"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
