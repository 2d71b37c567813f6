//! What official SDKs rely on.

use crate::client::*;
use coze_mock::defaults;
use http::Method;
use serde_json::json;

async fn post(client: &Client, path: &str, content_type: Option<&str>, body: &str) -> Reply {
    let token = format!("Bearer {}", defaults::PERSONAL_ACCESS_TOKEN);
    let mut headers = vec![("authorization", token.as_str())];
    headers.extend(content_type.map(|value| ("content-type", value)));
    client.call(Method::POST, path, &headers, body).await
}

#[tokio::test]
async fn a_chat_is_in_progress_as_soon_as_it_is_created() {
    // Python asks how far a chat is only while it is in progress.
    let client = Client::new();
    let chat = json!({
        "bot_id": defaults::BOT_IDS[0],
        "user_id": "user_1",
        "additional_messages": [{"role": "user", "content": "Hello", "content_type": "text"}],
    });
    let json = Some("application/json");
    let reply = post(&client, "/v3/chat", json, &chat.to_string()).await;
    assert_eq!(
        reply.json["data"]["status"], "in_progress",
        "{}",
        reply.json
    );
}

#[tokio::test]
async fn a_call_without_any_of_its_optional_fields_needs_no_body() {
    let client = Client::new();
    let form = Some("application/x-www-form-urlencoded"); // as Node sends it
    for content_type in [None, form, Some("application/json")] {
        let created = post(&client, "/v1/conversation/create", content_type, "").await;
        let id = created.json["data"]["id"].as_str().expect("an id");
        let list = format!("/v1/conversation/message/list?conversation_id={id}");
        let listed = post(&client, &list, content_type, "").await;
        assert_eq!(listed.json["data"], json!([]), "{}", listed.json);
    }
    let refused = post(&client, "/v1/conversation/create", form, "name=x").await;
    assert_eq!(refused.json["code"], 4000);
    let refused = post(&client, "/v3/chat", None, "").await;
    assert_eq!(refused.json["code"], 4000, "a chat needs a bot");
}
