//! API calls with automatic tokens: each response is typed, each error contains what to report to
//! Coze, and a revoked token costs one more token request and one more call, never a loop.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coze_api::{CozeApi, Reply, SendExt, TokenMiddleware, types};
use coze_auth::{
    CachedProvider, Endpoint, Error, ErrorCode, ErrorKind, FixedToken, OAuthClient, TokenProvider,
    reqwest,
};
use coze_mock::{
    Endpoint as MockEndpoint, ErrorShape, Fault, MockCoze, OAuthErrorCode, RequestRecord,
    ScriptedResponse, Times, defaults,
};
use http_body_util::{BodyDataStream, Full};

use crate::support::{Interruption, Stage, edit_json, jwt_flow, millis, pass, secs, status};

/// A mock on a socket, and a service that calls it.
struct Service {
    mock: MockCoze,
    provider: CachedProvider,
}

impl Service {
    /// Redirects the next call to another origin, a mock that records what it receives.
    async fn redirects_elsewhere(&self) -> MockCoze {
        let elsewhere = MockCoze::start().await.unwrap();
        let fault = Fault::Redirect {
            status: 307,
            location: format!("{}/v1/users/me", elsewhere.url()),
        };
        self.mock
            .faults()
            .add(fault, MockEndpoint::UsersMe, Times::ONCE);
        elsewhere
    }

    async fn start() -> Self {
        let mock = MockCoze::start().await.unwrap();
        let client = OAuthClient::builder().endpoint(endpoint(&mock)).http(http);
        let provider = CachedProvider::jwt(jwt_flow(client.build().unwrap())).build();
        Self { mock, provider }
    }

    fn api(&self) -> CozeApi {
        api_with(self.provider.clone(), &self.mock)
    }

    /// Revokes the current token of the service.
    async fn lose_token(&self) {
        let token = self.provider.token().await.unwrap();
        assert!(self.mock.revoke_access_token(token.expose()));
    }

    fn middleware(&self) -> reqwest_middleware::ClientWithMiddleware {
        let layer = TokenMiddleware::new(self.provider.clone(), &endpoint(&self.mock));
        reqwest_middleware::ClientBuilder::new(http().build().unwrap())
            .with(layer)
            .build()
    }

    fn me_url(&self) -> String {
        format!("{}/v1/users/me", self.mock.url())
    }
}

fn endpoint(mock: &MockCoze) -> Endpoint {
    Endpoint::custom(mock.url()).unwrap()
}

fn http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tls_certs_only([])
}

fn api_with(provider: impl TokenProvider, mock: &MockCoze) -> CozeApi {
    CozeApi::builder(provider)
        .endpoint(endpoint(mock))
        .http(http)
        .build()
        .unwrap()
}

/// An in-process client of the mock, with its provider.
fn in_process(stage: &Stage) -> (CozeApi, CachedProvider) {
    let provider = CachedProvider::jwt(stage.jwt()).build();
    (CozeApi::new(stage.client(), provider.clone()), provider)
}

async fn me(api: &CozeApi) -> coze_api::Result<Reply<types::User>> {
    api.users().me().send().await
}

/// The number of token requests, and of requests for the current user.
fn requests(mock: &MockCoze) -> (usize, usize) {
    let requests = mock.requests();
    let count = |at| {
        let here = |request: &&RequestRecord| request.endpoint == Some(at);
        requests.iter().filter(here).count()
    };
    (count(MockEndpoint::Token), count(MockEndpoint::UsersMe))
}

#[tokio::test]
async fn each_operation_decodes() {
    let service = Service::start().await;
    let api = service.api();
    let me = me(&api).await.unwrap();
    assert_eq!(me.user_name, "mock_user");
    let log_id = service.mock.requests().pop().unwrap().log_id;
    assert_eq!(me.log_id(), Some(log_id.as_str()));

    let workspaces = api.workspaces().list().send().await.unwrap();
    assert_eq!(workspaces.workspaces[0].id, defaults::WORKSPACE_ID);

    let bots = api.bots().list().workspace_id(defaults::WORKSPACE_ID);
    let bots = bots.page_num(2).page_size(1).send().await.unwrap();
    assert_eq!(bots.items.len(), 1);
    assert_eq!(bots.items[0].id, defaults::BOT_IDS[1]);

    let bot = api.bots().get().bot_id(defaults::BOT_IDS[0]);
    let bot = bot.send().await.unwrap();
    assert_eq!(bot.name.as_deref(), Some("First mock bot"));
    assert_eq!(requests(&service.mock).0, 1, "one token for all of them");
    service.mock.assert_clean();
}

#[tokio::test]
async fn a_nonzero_code_is_an_error_at_status_200() {
    let service = Service::start().await;
    let fault = Fault::ErrorWithStatus200 {
        shape: ErrorShape::C,
        code: OAuthErrorCode::InvalidRequest,
    };
    service
        .mock
        .faults()
        .add(fault, MockEndpoint::UsersMe, Times::ONCE);
    let error = me(&service.api()).await.unwrap_err();
    assert_refused(&service.mock, &error, 200, 4000);
    assert_eq!(
        requests(&service.mock),
        (1, 1),
        "the error does not concern the token"
    );
}

#[track_caller]
fn assert_refused(mock: &MockCoze, error: &Error, http_status: u16, code: i64) {
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(status(error), Some(http_status), "{error}");
    assert_eq!(error.code(), Some(&ErrorCode::Api(code)), "{error}");
    let log_id = mock.requests().pop().unwrap().log_id;
    assert_eq!(error.log_id(), Some(log_id.as_str()), "{error}");
    assert!(error.message().is_some(), "{error}");
}

#[tokio::test]
async fn a_missing_permission_is_an_error_without_a_new_token() {
    let service = Service::start().await;
    let error = service
        .api()
        .bots()
        .get()
        .bot_id("unknown")
        .send()
        .await
        .unwrap_err();
    assert_refused(&service.mock, &error, 403, 4101);
    assert_eq!(service.mock.request_count(), 2, "a token and a call");
}

#[tokio::test]
async fn an_invalid_fixed_token_is_an_error_after_one_call() {
    let mock = MockCoze::start().await.unwrap();
    let api = api_with(FixedToken::new("pat_revoked").unwrap(), &mock);
    let error = me(&api).await.unwrap_err();
    assert_refused(&mock, &error, 401, 700_012_006);
    assert_eq!(requests(&mock), (0, 1));
    let shown = format!("{error} {error:?} {api:?}");
    assert!(!shown.contains("pat_revoked"), "{shown}");
}

#[tokio::test]
async fn a_valid_fixed_token_is_sent_unchanged() {
    let mock = MockCoze::start().await.unwrap();
    let token = FixedToken::new(defaults::PERSONAL_ACCESS_TOKEN).unwrap();
    me(&api_with(token, &mock)).await.unwrap();
    mock.assert_clean();
}

#[tokio::test]
async fn a_revoked_token_is_replaced_and_the_call_repeated_once() {
    let service = Service::start().await;
    let api = service.api();
    me(&api).await.unwrap();
    service.lose_token().await;
    me(&api).await.unwrap();
    assert_eq!(requests(&service.mock), (2, 3));
    me(&api).await.unwrap();
    assert_eq!(requests(&service.mock), (2, 4), "later calls succeed");
    service.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn every_form_of_a_refused_token_is_recovered() {
    for (http_status, code) in [
        (401, 700_012_006),
        (200, 4100),
        (200, 700_012_006),
        (401, 1),
    ] {
        let stage = Stage::new();
        stage.network.rewrites(move |response| {
            if response.status() == 401 {
                *response.status_mut() = http::StatusCode::from_u16(http_status).unwrap();
                edit_json(response, |json| json["code"] = code.into());
            }
        });
        let (api, provider) = in_process(&stage);
        let revoked = provider.token().await.unwrap();
        stage.mock.revoke_access_token(revoked.expose());
        let outcome = me(&api).await;
        assert!(outcome.is_ok(), "{http_status} {code}: {outcome:?}");
        assert_eq!(requests(&stage.mock), (2, 2), "{http_status} {code}");
    }
}

/// The response of `POST /v3/chat` to an invalid token.
const WRONG_TOKEN: &str = "The token you entered is incorrect. Please double-check";

#[tokio::test(start_paused = true)]
async fn a_refused_new_token_is_not_renewed_again() {
    let stage = Stage::new();
    stage.network.rewrites(|response| {
        let body = std::str::from_utf8(response.body()).unwrap();
        if body.contains("user_name") {
            *response.body_mut() = format!(r#"{{"code":4101,"msg":"{WRONG_TOKEN}"}}"#).into();
        }
    });
    let (api, _) = in_process(&stage);
    for tokens in [2, 2] {
        let error = me(&api).await.unwrap_err();
        assert!(error.hint().contains("permission"), "{}", error.hint());
        assert_eq!(stage.token_requests().len(), tokens, "one renewal in 10 s");
    }

    let stage = Stage::new();
    refuse_all(&stage);
    let (api, _) = in_process(&stage);
    let error = me(&api).await.unwrap_err();
    let hint = error.hint();
    assert!(hint.contains("the token is not the cause"), "{hint}");
}

/// Lets the API refuse every token.
fn refuse_all(stage: &Stage) {
    stage.network.rewrites(|response| {
        let body = std::str::from_utf8(response.body()).unwrap();
        if body.contains("user_name") {
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
            let refusal = br#"{"code":4100,"msg":"authentication is invalid"}"#;
            *response.body_mut() = Bytes::from_static(refusal);
            response.headers_mut().remove("content-length");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_is_returned_as_the_error() {
    let stage = Stage::new();
    refuse_all(&stage);
    let (api, _) = in_process(&stage);
    let error = me(&api).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::Api(4100)));
    assert_eq!(status(&error), Some(401));
    assert_eq!(requests(&stage.mock), (2, 2), "no loop");
}

#[tokio::test(start_paused = true)]
async fn an_api_that_refuses_every_token_does_not_cause_a_renewal_per_call() {
    let stage = Stage::new();
    refuse_all(&stage);
    let (api, _) = in_process(&stage);
    for _ in 0..50 {
        let error = me(&api).await.unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::Api(4100)));
    }
    assert_eq!(requests(&stage.mock), (2, 51));
    pass(secs(10)).await;
    me(&api).await.unwrap_err();
    assert_eq!(
        requests(&stage.mock),
        (3, 53),
        "one more renewal after a while"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_with_a_revoked_token_cause_one_renewal() {
    let stage = Stage::new();
    let (api, provider) = in_process(&stage);
    let revoked = provider.token().await.unwrap();
    stage.mock.revoke_access_token(revoked.expose());
    stage.network.takes(millis(50));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let api = api.clone();
            tokio::spawn(async move { me(&api).await.unwrap() })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(requests(&stage.mock), (2, 200));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_sign_in_requires_sign_in() {
    let stage = Stage::new();
    let first = stage.web_sign_in().await;
    let refresh_token = first.refresh_token().unwrap().expose().to_owned();
    let provider = CachedProvider::in_memory(stage.web(), first).build();
    let api = CozeApi::new(stage.client(), provider);
    me(&api).await.unwrap();
    stage.mock.revoke_sign_in(&refresh_token);
    let error = me(&api).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant));
    assert!(error.hint().contains("sign in again"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_token_no_call_is_sent() {
    let stage = Stage::new();
    stage.network.cut(Interruption::Refused);
    let (api, _) = in_process(&stage);
    let error = me(&api).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert_eq!(error.flow(), Some(coze_auth::Flow::Jwt));
    assert_eq!(stage.mock.request_count(), 0);
}

#[tokio::test]
async fn calls_can_be_spawned_and_share_one_provider() {
    let service = Service::start().await;
    let provider: Arc<dyn TokenProvider> = Arc::new(service.provider.clone());
    let api = api_with(provider, &service.mock);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let api = api.clone();
            tokio::spawn(async move { api.users().me().send().await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().user_name, "mock_user");
    }
    assert_eq!(requests(&service.mock), (1, 20));
}

#[tokio::test]
async fn a_redirect_does_not_leak_the_token() {
    let service = Service::start().await;
    let elsewhere = service.redirects_elsewhere().await;
    let error = me(&service.api()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert_eq!(elsewhere.request_count(), 0);
}

#[tokio::test]
async fn the_timeouts_of_the_http_builder_are_replaced() {
    let mock = MockCoze::start().await.unwrap();
    let at_once = || {
        http()
            .timeout(Duration::ZERO)
            .connect_timeout(Duration::ZERO)
            .user_agent("another")
    };
    let api = CozeApi::builder(FixedToken::new(defaults::PERSONAL_ACCESS_TOKEN).unwrap())
        .endpoint(endpoint(&mock))
        .http(at_once)
        .product("my-service/1.2")
        .build()
        .unwrap();
    me(&api).await.unwrap();
    let request = mock.requests().pop().unwrap();
    let user_agent = request.header("user-agent").unwrap();
    assert!(user_agent.ends_with(" my-service/1.2"), "{user_agent}");
    mock.assert_clean();
}

#[tokio::test]
async fn a_silent_server_causes_the_configured_timeout() {
    // The connection is accepted, but nothing reads from it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let api = CozeApi::builder(FixedToken::new("pat_1").unwrap())
        .endpoint(Endpoint::custom(url).unwrap())
        .http(|| http().timeout(secs(3600)))
        .request_timeout(millis(1))
        .build()
        .unwrap();
    let outcome = tokio::time::timeout(secs(10), me(&api)).await;
    let error = outcome.expect("the call times out").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

// The middleware for other clients

#[tokio::test]
async fn the_middleware_adds_the_token_and_recovers_once() {
    let service = Service::start().await;
    let client = service.middleware();
    let get = || async { client.get(service.me_url()).send().await.unwrap() };
    assert_eq!(get().await.status(), 200);
    service.lose_token().await;
    assert_eq!(get().await.status(), 200);
    assert_eq!(requests(&service.mock), (2, 3));
    service.mock.assert_clean();
}

#[tokio::test]
async fn a_layered_client_recovers_from_a_refusal_at_status_200_and_hands_on_everything_else() {
    let text = "x".repeat(70_000);
    for (code, msg, media_type, calls) in [
        (4100, "authentication is invalid", "application/json", 2),
        (
            4101,
            "the token is incorrect",
            "application/json; charset=utf-8",
            2,
        ),
        (4101, "no permission for this bot", "application/json", 1),
        (4100, "authentication is invalid", "text/event-stream", 1),
        (4100, &*text, "application/json", 1),
    ] {
        let service = Service::start().await;
        let body = serde_json::json!({"code": code, "msg": msg}).to_string();
        let scripted = ScriptedResponse::new(200, body.clone().into_bytes());
        let fault = Fault::Scripted(scripted.header("content-type", media_type));
        service
            .mock
            .faults()
            .add(fault, MockEndpoint::UsersMe, Times::ONCE);
        let answer = service
            .middleware()
            .get(service.me_url())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.url().as_str(), service.me_url());
        let is_handed_on = answer.text().await.unwrap() == body;
        assert_eq!(is_handed_on, calls == 1, "{code} {msg:.30} {media_type}");
        assert_eq!(
            requests(&service.mock),
            (calls, calls),
            "{code} {msg:.30} {media_type}"
        );
    }
}

#[tokio::test]
async fn the_middleware_returns_the_401_of_an_invalid_fixed_token() {
    let mock = MockCoze::start().await.unwrap();
    let layer = TokenMiddleware::new(FixedToken::new("pat_revoked").unwrap(), &endpoint(&mock));
    let client = reqwest_middleware::ClientBuilder::new(http().build().unwrap())
        .with(layer)
        .build();
    let url = format!("{}/v1/users/me", mock.url());
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(requests(&mock), (0, 1));
}

#[tokio::test]
async fn the_middleware_sends_a_stream_once() {
    let service = Service::start().await;
    let client = service.middleware();
    service.lose_token().await;
    let body = BodyDataStream::new(Full::<Bytes>::from("x"));
    let request = client.get(service.me_url());
    let request = request.body(reqwest::Body::wrap_stream(body));
    assert_eq!(request.send().await.unwrap().status(), 401);
    assert_eq!(requests(&service.mock).1, 1);
    let next = client.get(service.me_url()).send().await.unwrap();
    assert_eq!(next.status(), 200, "the refused token is replaced");
}

#[tokio::test]
async fn no_call_sends_the_token_to_another_origin() {
    let service = Service::start().await;
    let elsewhere = MockCoze::start().await.unwrap();
    let client = OAuthClient::builder().endpoint(endpoint(&service.mock));
    let client = client.http(http).build().unwrap();
    let token = service.provider.token().await.unwrap();
    let here = service.me_url();
    for url in [
        format!("{}/v1/users/me", elsewhere.url()),
        here.replace("127.0.0.1", "localhost"),
        here.replace("http:", "https:"),
        here.replace("127.0.0.1", "127.0.0.1@localhost"),
    ] {
        let request = reqwest::Request::new(reqwest::Method::GET, url.parse().unwrap());
        let refused = client.api_call(&token).open(request).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        assert!(refused.to_string().contains("nowhere else"), "{refused}");
    }
    assert_eq!(requests(&service.mock).1 + elsewhere.requests().len(), 0);
    let request = reqwest::Request::new(reqwest::Method::GET, here.parse().unwrap());
    client.api_call(&token).open(request).await.unwrap();
}

#[tokio::test]
async fn the_middleware_sends_no_token_to_another_origin() {
    let service = Service::start().await;
    let elsewhere = MockCoze::start().await.unwrap();
    let client = service.middleware();
    let url = format!("{}/v1/users/me", elsewhere.url());
    client.get(&url).send().await.unwrap();
    let localhost = elsewhere.url().replace("127.0.0.1", "localhost");
    client
        .get(format!("{localhost}/v1/users/me"))
        .send()
        .await
        .unwrap();
    // This client follows redirects, as reqwest does by default.
    let fault = Fault::Redirect {
        status: 307,
        location: url,
    };
    service
        .mock
        .faults()
        .add(fault, MockEndpoint::UsersMe, Times::ONCE);
    client.get(service.me_url()).send().await.unwrap();
    let there = elsewhere.requests();
    assert_eq!(there.len(), 3);
    for request in &there {
        assert_eq!(request.header("authorization"), None, "{request}");
    }
}

#[tokio::test]
async fn a_401_of_another_origin_does_not_invalidate_the_token() {
    let service = Service::start().await;
    let _elsewhere = service.redirects_elsewhere().await;
    let answer = service.middleware().get(service.me_url()).send().await;
    assert_eq!(answer.unwrap().status(), 401);
    assert_eq!(requests(&service.mock), (1, 1), "the token is valid");
}
