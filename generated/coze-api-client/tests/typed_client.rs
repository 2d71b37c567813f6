//! What the typed client sends, and what it makes of answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use coze_api_client::types::{
    ApiError, BotAnswer, BotsAnswer, PublishStatus, PublishedBotsAnswer, UserAnswer,
};
use coze_api_client::{Client, Error};
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

fn user() -> Value {
    json!({"user_id": "7201", "user_name": "ada", "nick_name": "Ada", "avatar_url": "https://example.com/a.png"})
}

#[tokio::test]
async fn the_token_goes_into_the_header_and_the_log_id_comes_back() {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200)
        .insert_header("x-tt-logid", "log_1")
        .set_body_json(json!({"code": 0, "msg": "", "data": user(), "detail": {"logid": "log_1"}}));
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let bearer = Bearer::new(&Secret::from("pat_1")).unwrap();
    let exchange = Exchange::new().with_bearer(bearer);

    let client = client(&server, exchange.clone());
    let answer = client.get_current_user().send().await.unwrap();

    let UserAnswer::UserEnvelope(envelope) = answer.into_inner() else {
        panic!("a user was taken for an error");
    };
    assert_eq!(envelope.data.nick_name, "Ada");
    assert_eq!(envelope.detail.unwrap().logid.as_deref(), Some("log_1"));
    assert_eq!(exchange.captured().unwrap().log_id(), Some("log_1"));
    let request = only_request(&server).await;
    assert_eq!(request.method, "GET");
    assert_eq!(request.url.path(), "/v1/users/me");
    assert_eq!(request.url.query(), None);
    assert_eq!(request.headers["authorization"], "Bearer pat_1");
    assert!(
        !request.headers.contains_key("api-version"),
        "{:?}",
        request.headers
    );
}

#[tokio::test]
async fn only_what_is_set_is_in_the_query() {
    let empty_page = json!({"code": 0, "data": {"total": 0, "items": []}});
    let server = server(200, empty_page).await;
    let client = client(&server, Exchange::new());

    let call = client.list_bots().workspace_id("7001");
    call.send().await.unwrap();
    let call = client.list_bots().workspace_id("a&b=c");
    let call = call.publish_status(PublishStatus::UnpublishedDraft);
    let call = call.connector_id("1024").page_num(2).page_size(50);
    call.send().await.unwrap();

    let requests = server.received_requests().await.unwrap();
    let queries: Vec<_> = requests.iter().map(|each| each.url.query()).collect();
    assert_eq!(
        queries,
        [
            Some("workspace_id=7001"),
            Some(
                "connector_id=1024&page_num=2&page_size=50&publish_status=unpublished_draft\
                 &workspace_id=a%26b%3Dc"
            ),
        ]
    );
}

#[tokio::test]
async fn a_bot_is_asked_for_by_an_escaped_id_and_by_version() {
    let server = server(200, json!({"code": 0, "data": {"bot_id": "a/b"}})).await;
    let client = client(&server, Exchange::new());

    let call = client.get_bot().bot_id("a/b").is_published(false);
    let answer = call.send().await.unwrap();

    assert!(matches!(answer.into_inner(), BotAnswer::BotEnvelope(_)));
    let request = only_request(&server).await;
    assert_eq!(request.url.path(), "/v1/bots/a%2Fb");
    assert_eq!(request.url.query(), Some("is_published=false"));
}

#[tokio::test]
async fn the_deprecated_calls_about_bots_have_parameters_of_their_own() {
    let bot = json!({"bot_id": "7101", "bot_name": "Weather", "publish_time": "1795262400"});
    let page = json!({"code": 0, "data": {"total": 1, "space_bots": [bot]}});
    let list_server = server(200, page).await;
    let client_of_list = client(&list_server, Exchange::new());
    let call = client_of_list.list_published_bots().space_id("7001");
    let answer = call.page_index(2).page_size(50).send().await.unwrap();
    let PublishedBotsAnswer::PublishedBotsEnvelope(page) = answer.into_inner() else {
        panic!("a page was taken for an error");
    };
    let published = page.data.space_bots[0].publish_time.as_deref();
    assert_eq!(published, Some("1795262400"));
    let request = only_request(&list_server).await;
    assert_eq!(request.url.path(), "/v1/space/published_bots_list");
    let query = Some("page_index=2&page_size=50&space_id=7001");
    assert_eq!(request.url.query(), query);

    let server = server(200, json!({"code": 0, "data": {"bot_id": "7101"}})).await;
    let call = client(&server, Exchange::new());
    let answer = call.get_published_bot().bot_id("7101").send().await;
    let answer = answer.unwrap().into_inner();
    assert!(matches!(answer, BotAnswer::BotEnvelope(_)));
    let request = only_request(&server).await;
    assert_eq!(request.url.path(), "/v1/bot/get_online_info");
    assert_eq!(request.url.query(), Some("bot_id=7101"));
}

#[tokio::test]
async fn a_code_other_than_zero_is_an_error_at_any_status_and_beside_any_data() {
    let error = |data: Value| {
        let mut body = json!({"code": 4100, "msg": "m", "detail": {"logid": "l"}});
        body["data"] = data;
        body
    };
    let bodies = [
        json!({"code": 4100, "msg": "m", "detail": {"logid": "l"}}),
        json!({"code": 4100, "msg": "m", "detail": {"logid": "l"}, "unknown": 1}),
        error(Value::Null),
        error(json!({})),
        error(json!("")),
        error(user()),
    ];
    for body in bodies {
        for status in [200, 400, 401, 500] {
            let server = server(status, body.clone()).await;
            let client = client(&server, Exchange::new());

            let error: ApiError = match client.get_current_user().send().await {
                Ok(answer) => match answer.into_inner() {
                    UserAnswer::ApiError(error) => error,
                    UserAnswer::UserEnvelope(_) => panic!("{body} was taken for a user"),
                },
                Err(Error::ErrorResponse(answer)) => answer.into_inner(),
                Err(other) => panic!("{status} {body}: {other:?}"),
            };

            assert_eq!(error.code, 4100, "{status} {body}");
            assert_eq!(error.msg.as_deref(), Some("m"), "{status} {body}");
            assert_eq!(error.detail.unwrap().logid.as_deref(), Some("l"));
        }
    }
}

#[tokio::test]
async fn a_success_that_the_types_cannot_hold_is_an_error_with_code_zero() {
    for data in [
        json!({"total": "many", "items": []}),
        json!(null),
        json!({}),
    ] {
        let server = server(200, json!({"code": 0, "msg": "", "data": data})).await;
        let client = client(&server, Exchange::new());

        let answer = client.list_bots().workspace_id("7001").send().await;

        match answer.unwrap().into_inner() {
            BotsAnswer::ApiError(error) => assert_eq!(error.code, 0),
            BotsAnswer::BotsEnvelope(page) => panic!("{page:?}"),
        }
    }
}

#[test]
fn words_numbers_and_fields_that_nobody_listed_break_nothing() {
    let answer: BotAnswer = serde_json::from_value(json!({
        "code": 0,
        "msg": "Success",
        "data": {
            "bot_id": "7379462189365198898",
            "bot_mode": 3,
            "default_user_input_type": "telepathy",
            "onboarding_info": {"prologue": "", "suggested_questions": null},
            "model_info": {"model_id": "1", "response_format": "verse", "temperature": 1},
            "variables": [{"keyword": "town", "channel": "elsewhere"}],
            "suggest_reply_info": {"reply_mode": "disable"},
        },
        "a new field": true,
    }))
    .unwrap();

    let BotAnswer::BotEnvelope(envelope) = answer else {
        panic!("a bot was taken for an error");
    };
    let bot = envelope.data;
    assert_eq!(bot.bot_mode, Some(3));
    assert_eq!(bot.model_info.unwrap().temperature, Some(1.0));
    assert_eq!(bot.onboarding_info.unwrap().suggested_questions, None);
    assert_eq!(bot.variables[0].channel.as_deref(), Some("elsewhere"));
    assert!(bot.plugin_info_list.is_empty());
}
