//! Conversations, messages and chats: the state behind the API.

use crate::client::*;
use coze_mock::{Endpoint, MockCoze, Outcome, ScriptedReply, Times, Tolerance, defaults};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const PAT: &str = defaults::PERSONAL_ACCESS_TOKEN;

fn document() -> Value {
    serde_json::from_str(include_str!("../../schemas/coze-api.json")).expect("JSON")
}

/// Fails unless the value is as the schema of the description says.
fn assert_described(document: &Value, schema: &Value, value: &Value, what: &str) {
    let mut root = schema.clone();
    root["$defs"] = document["$defs"].clone();
    let validator = jsonschema::validator_for(&root).expect("a schema");
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}: {value}: {errors:?}");
}

pub(crate) fn question(text: &str) -> Value {
    json!({"bot_id": defaults::BOT_ID, "user_id": "user_1",
        "additional_messages": [{"role": "user", "content": text, "content_type": "text"}]})
}

impl Client {
    /// The answer to a call that succeeds.
    async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let authorization = format!("Bearer {PAT}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &authorization),
        ];
        let text = match &body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let headers = if body.is_null() {
            &headers[1..]
        } else {
            &headers
        };
        let reply = self.call(method.clone(), path, headers, &text).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json["code"]),
            (200, &json!(0)),
            "{method} {path}: {}",
            reply.json
        );
        reply.json
    }

    /// Starts a chat that is not streamed: its conversation and its id.
    async fn chat(&self, body: Value) -> (String, String) {
        let chat = self.ok(Method::POST, "/v3/chat", body).await["data"].take();
        assert_eq!(chat["status"], "in_progress");
        let text = |name: &str| chat[name].as_str().expect("a text").to_owned();
        (text("conversation_id"), text("id"))
    }

    async fn about_chat(&self, path: &str, (conversation, chat): &(String, String)) -> Value {
        let path = format!("/v3/chat/{path}?conversation_id={conversation}&chat_id={chat}");
        self.ok(Method::GET, &path, Value::Null).await["data"].take()
    }

    async fn messages(&self, conversation: &str, body: Value) -> Value {
        let path = format!("/v1/conversation/message/list?conversation_id={conversation}");
        self.ok(Method::POST, &path, body).await
    }
}

/// The contents of messages.
fn contents(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().expect("messages");
    messages
        .iter()
        .map(|message| message["content"].as_str().expect("a text"))
        .collect()
}

#[tokio::test]
async fn every_described_operation_answers_every_described_request() {
    let document = document();
    let client = Client::new();
    let ids = [
        ("conversation_id", "7381473525342978089"),
        ("chat_id", "7382159487131697202"),
        ("message_id", "7382159494123470858"),
        ("bot_id", "7379462189365198898"),
        ("workspace_id", defaults::WORKSPACE_ID),
        ("space_id", defaults::WORKSPACE_ID),
    ];
    let operations = document["operations"].as_array().expect("operations");
    for operation in operations {
        let name = operation["operation_id"].as_str().expect("a name");
        let mut path = operation["path"].as_str().expect("a path").to_owned();
        let mut separator = '?';
        for parameter in operation["parameters"].as_array().expect("parameters") {
            let known = ids.iter().find(|(known, _)| parameter["name"] == **known);
            let Some((known, id)) = known else { continue };
            if parameter["in"] == "path" {
                path = path.replace(&format!("{{{known}}}"), id);
            } else if parameter["required"] == true {
                path = format!("{path}{separator}{known}={id}");
                separator = '&';
            }
        }
        let method: Method = operation["method"]
            .as_str()
            .and_then(|method| method.parse().ok())
            .expect("a method");
        let requests = operation["examples"]["request"].as_object();
        let requests: Vec<Value> = match requests {
            Some(examples) => examples.values().cloned().collect(),
            None => vec![Value::Null],
        };
        for request in requests {
            let answer = client.ok(method.clone(), &path, request).await;
            assert_described(&document, &operation["responses"]["200"], &answer, name);
        }
    }
    client.mock.assert_clean();
}

#[tokio::test]
async fn an_unknown_id_is_refused() {
    let client = Client::new();
    let conversation = client
        .ok(Method::POST, "/v1/conversation/create", json!({}))
        .await;
    let conversation = conversation["data"]["id"].as_str().expect("an id");
    for path in [
        "/v1/conversation/retrieve?conversation_id=1".to_owned(),
        "/v1/conversation/retrieve?conversation_id=none".to_owned(),
        format!("/v1/conversation/message/retrieve?conversation_id={conversation}&message_id=1"),
        format!("/v3/chat/retrieve?conversation_id={conversation}&chat_id=1"),
        format!("/v3/chat/message/list?conversation_id={conversation}&chat_id=1"),
    ] {
        let reply = client.get(&path, PAT).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json["code"]),
            (403, &json!(4101)),
            "{path}"
        );
    }
    let path = "/v3/chat?conversation_id=1";
    let chat = client.post(path, PAT, &question("Hi")).await;
    assert_eq!(chat.json["code"], 4101);
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_chat_with_a_bad_token_is_refused_with_status_200() {
    let client = Client::new();
    let reply = client.post("/v3/chat", "wrong", &question("Hi")).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json["code"]),
        (200, &json!(4101))
    );
    let message = reply.text("msg");
    assert!(message.starts_with("The token you entered is incorrect."));
    assert_eq!(
        reply.json["detail"]["logid"].as_str(),
        reply.header("x-tt-logid")
    );
    let mut streamed = question("Hi");
    streamed["stream"] = true.into();
    let reply = client.post("/v3/chat", "wrong", &streamed).await;
    assert_eq!(reply.json["code"], 4101);
    assert_eq!(
        reply.header("content-type"),
        Some("application/json; charset=utf-8")
    );

    // The bot is looked up first.
    let mut unknown = question("Hi");
    unknown["bot_id"] = "0".into();
    let reply = client.post("/v3/chat", "wrong", &unknown).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json["code"]),
        (200, &json!(4200))
    );

    // All others are refused as usual.
    let path = "/v3/chat/retrieve?conversation_id=1&chat_id=1";
    let reply = client.get(path, "wrong").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json["code"]),
        (401, &json!(700_012_006))
    );
}

#[tokio::test]
async fn a_chat_goes_on_while_it_is_polled() {
    let client = Client::new();
    let chat = client.chat(question("Will it rain?")).await;
    assert_eq!(
        client.about_chat("message/list", &chat).await,
        json!([]),
        "listing is no polling"
    );
    let statuses = [
        client.about_chat("retrieve", &chat).await["status"].take(),
        client.about_chat("retrieve", &chat).await["status"].take(),
        client.about_chat("retrieve", &chat).await["status"].take(),
    ];
    assert_eq!(statuses, ["in_progress", "completed", "completed"]);
    let messages = client.about_chat("message/list", &chat).await;
    assert_eq!(contents(&messages), ["You said: Will it rain?"]);
    assert_eq!(messages[0]["type"], "answer");
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_chat_continues_with_the_clock() {
    let client = Client::new();
    let chat = client.chat(question("Will it rain?")).await;
    let path = format!("/v3/chat?conversation_id={}", chat.0);
    let reply = ScriptedReply::new().text("It stopped.");
    let faults = client.mock.faults();
    faults.add(reply, Endpoint::CreateChat, Times::ONCE);
    let mut streamed = question("And now?");
    streamed["stream"] = true.into();
    for second in [question("And now?"), streamed] {
        let second = client.post(&path, PAT, &second).await;
        assert_eq!(
            (second.status.as_u16(), &second.json["code"]),
            (200, &json!(4016)),
            "a conversation runs one chat at a time"
        );
    }
    assert_eq!(faults.pending().len(), 1, "no chat has started");
    client.mock.clock().advance(Duration::from_secs(2));
    let messages = client.about_chat("message/list", &chat).await;
    assert_eq!(contents(&messages), ["You said: Will it rain?"]);
    let done = client.about_chat("retrieve", &chat).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["completed_at"], START + 2);
    client.ok(Method::POST, &path, question("And now?")).await;
}

#[tokio::test]
async fn a_chat_can_be_canceled_until_it_ends() {
    let client = Client::new();
    let unfinished = ScriptedReply::new().unfinished();
    let faults = client.mock.faults();
    faults.add(unfinished, Endpoint::CreateChat, Times::ONCE);
    let chat = client.chat(question("Will it rain?")).await;
    client.mock.clock().advance(Duration::from_secs(3600));
    for _ in 0..5 {
        let chat = client.about_chat("retrieve", &chat).await;
        assert_eq!(chat["status"], "in_progress");
    }
    let body = json!({"conversation_id": chat.0, "chat_id": chat.1});
    let canceled = client
        .ok(Method::POST, "/v3/chat/cancel", body.clone())
        .await;
    assert_eq!(canceled["data"]["status"], "canceled");
    assert_eq!(
        client.about_chat("retrieve", &chat).await["status"],
        "canceled"
    );
    let again = client.post("/v3/chat/cancel", PAT, &body).await;
    assert_eq!(
        (again.status.as_u16(), &again.json["code"]),
        (400, &json!(4000))
    );
    let path = format!("/v3/chat?conversation_id={}", chat.0);
    client.ok(Method::POST, &path, question("And now?")).await;
}

#[tokio::test]
async fn a_chat_can_fail() {
    let client = Client::new();
    let failing = ScriptedReply::new().failure(5000, "event interval error");
    let faults = client.mock.faults();
    faults.add(failing, Endpoint::CreateChat, Times::ONCE);
    let chat = client.chat(question("Will it rain?")).await;
    client.mock.clock().advance(Duration::from_secs(2));
    let failed = client.about_chat("retrieve", &chat).await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(
        failed["last_error"],
        json!({"code": 5000, "msg": "event interval error"})
    );
    assert_eq!(failed["failed_at"], START + 2);
    assert_eq!(client.about_chat("message/list", &chat).await, json!([]));
}

#[tokio::test]
async fn a_chat_waits_for_the_outputs_of_tools() {
    let client = Client::new();
    let reply = ScriptedReply::new()
        .tool_call("read_thermometer", r#"{"room":"hall"}"#)
        .tool_call("read_clock", "{}");
    let faults = client.mock.faults();
    faults.add(reply, Endpoint::CreateChat, Times::ONCE);
    let chat = client.chat(question("How warm is it?")).await;
    client.mock.clock().advance(Duration::from_secs(2));
    let waiting = client.about_chat("retrieve", &chat).await;
    assert_eq!(waiting["status"], "requires_action");
    let calls = &waiting["required_action"]["submit_tool_outputs"]["tool_calls"];
    let thermometer = json!({"id": "call_1", "type": "function",
        "function": {"name": "read_thermometer", "arguments": r#"{"room":"hall"}"#}});
    assert_eq!(calls[0], thermometer);
    assert_eq!(calls[1]["id"], "call_2");

    let path = format!(
        "/v3/chat/submit_tool_outputs?conversation_id={}&chat_id={}",
        chat.0, chat.1
    );
    let output = |id: &str, output: &str| json!({"tool_call_id": id, "output": output});
    for outputs in [
        json!([output("call_1", "21")]),
        json!([output("call_1", "21"), output("call_1", "21")]),
        json!([output("call_1", "21"), output("call_3", "noon")]),
        json!([
            output("call_1", "21"),
            output("call_2", "noon"),
            output("call_3", "")
        ]),
    ] {
        let reply = client
            .post(&path, PAT, &json!({"tool_outputs": outputs}))
            .await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json["code"]),
            (400, &json!(4000)),
            "{outputs}"
        );
    }
    let outputs = json!({"tool_outputs": [output("call_2", "noon"), output("call_1", "21")]});
    let going_on = client.ok(Method::POST, &path, outputs.clone()).await;
    assert_eq!(going_on["data"]["status"], "in_progress");
    client.about_chat("retrieve", &chat).await;
    let done = client.about_chat("retrieve", &chat).await;
    assert_eq!(done["status"], "completed");
    let messages = client.about_chat("message/list", &chat).await;
    let kinds: Vec<&str> = messages
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| message["type"].as_str().expect("a type"))
        .collect();
    let expected = [
        "function_call",
        "function_call",
        "tool_response",
        "tool_response",
        "answer",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(messages[4]["content"], "The tools answered: 21, noon");
    let late = client.post(&path, PAT, &outputs).await;
    assert_eq!(late.json["code"], 4000);
    client.mock.assert_clean();

    // The messages between question and answer are listed only if they are asked for.
    let listed = client.messages(&chat.0, json!({"order": "asc"})).await;
    assert_eq!(
        contents(&listed["data"]),
        ["How warm is it?", "The tools answered: 21, noon"]
    );
    let body = json!({"include_middle_message": true, "chat_id": chat.1});
    let all = client.messages(&chat.0, body).await;
    assert_eq!(all["data"].as_array().map(Vec::len), Some(6));

    // They are deleted with the answer, not one by one.
    let path = format!(
        "/v1/conversation/message/delete?conversation_id={}&message_id={}",
        chat.0,
        messages[0]["id"].as_str().expect("an id")
    );
    let refused = client.post(&path, PAT, &json!({})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json["code"]),
        (400, &json!(4000))
    );
    assert_eq!(client.mock.violations()[0].place, "query/message_id");
    let answer = messages[4]["id"].as_str().expect("an id");
    let path = format!(
        "/v1/conversation/message/delete?conversation_id={}&message_id={answer}",
        chat.0
    );
    client.ok(Method::POST, &path, Value::Null).await;
    let body = json!({"include_middle_message": true});
    let left = client.messages(&chat.0, body).await;
    assert_eq!(contents(&left["data"]), ["How warm is it?"]);
}

#[tokio::test]
async fn a_chat_that_is_not_saved_leaves_nothing_behind() {
    let client = Client::new();
    let mut body = question("Hi");
    body["auto_save_history"] = false.into();
    body["stream"] = true.into();
    let reply = client.post("/v3/chat", PAT, &body).await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let data = text.lines().find_map(|line| line.strip_prefix("data:"));
    let started: Value = serde_json::from_str(data.expect("an event")).expect("JSON");
    let id = |name: &str| started[name].as_str().expect("an id").to_owned();
    let chat = (id("conversation_id"), id("id"));
    let path = format!(
        "/v3/chat/retrieve?conversation_id={}&chat_id={}",
        chat.0, chat.1
    );
    assert_eq!(client.get(&path, PAT).await.json["code"], 4101);
    let listed = client.messages(&chat.0, json!({})).await;
    assert_eq!(listed["data"], json!([]));
}

#[tokio::test]
async fn a_question_may_have_several_parts_or_be_asked_before() {
    let client = Client::new();
    let parts = json!([{"type": "text", "text": "Where is"}, {"type": "image", "file_id": "7901"},
        {"type": "text", "text": "this?"}]);
    let mut body = question(&parts.to_string());
    body["additional_messages"][0]["content_type"] = "object_string".into();
    let chat = client.chat(body).await;
    client.mock.clock().advance(Duration::from_secs(2));
    let messages = client.about_chat("message/list", &chat).await;
    assert_eq!(contents(&messages), ["You said: Where is this?"]);

    let conversation = json!({"messages": [{"role": "user", "content": "Will it rain?"},
        {"role": "assistant", "content": "Where?"}]});
    let conversation = client
        .ok(Method::POST, "/v1/conversation/create", conversation)
        .await;
    let id = conversation["data"]["id"].as_str().expect("an id");
    assert_eq!(
        conversation["data"]["name"], "Will it rain?",
        "named after the first message of the user"
    );
    let path = format!("/v3/chat?conversation_id={id}");
    let body = json!({"bot_id": defaults::BOT_ID, "user_id": "user_1"});
    let chat = client.ok(Method::POST, &path, body).await;
    let chat = chat["data"]["id"].as_str().expect("an id").to_owned();
    client.mock.clock().advance(Duration::from_secs(2));
    let messages = client
        .about_chat("message/list", &(id.to_owned(), chat))
        .await;
    assert_eq!(contents(&messages), ["You said: Will it rain?"]);
    client.mock.assert_clean();
}

#[tokio::test]
async fn messages_are_created_read_changed_and_deleted() {
    let client = Client::new();
    let conversation = client
        .ok(Method::POST, "/v1/conversation/create", json!({}))
        .await;
    let id = conversation["data"]["id"].as_str().expect("an id");
    let path = |verb: &str| format!("/v1/conversation/message/{verb}?conversation_id={id}");
    let body = json!({"role": "user", "content": "I live in Oslo.", "content_type": "text",
        "meta_data": {"order": "17"}});
    let created = client.ok(Method::POST, &path("create"), body).await["data"].take();
    assert_eq!(created["type"], "question");
    assert_eq!(created["created_at"], START);
    let message = created["id"].as_str().expect("an id");
    let path = |verb: &str| format!("{}&message_id={message}", path(verb));
    let read = client.ok(Method::GET, &path("retrieve"), Value::Null).await;
    assert_eq!(read["data"], created);

    client.mock.clock().advance(Duration::from_secs(5));
    let change = json!({"content": "I live in Bergen.", "content_type": "text"});
    let changed = client.ok(Method::POST, &path("modify"), change).await["message"].take();
    assert_eq!(changed["content"], "I live in Bergen.");
    assert_eq!(changed["meta_data"], json!({"order": "17"}));
    assert_eq!(changed["updated_at"], START + 5);
    let change = json!({"meta_data": {"order": "18"}});
    let changed = client.ok(Method::POST, &path("modify"), change).await["message"].take();
    assert_eq!(changed["content"], "I live in Bergen.");
    let deleted = client.ok(Method::POST, &path("delete"), Value::Null).await;
    assert_eq!(deleted["data"], changed);
    let gone = client.get(&path("retrieve"), PAT).await;
    assert_eq!(gone.json["code"], 4101);
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_change_of_a_message_needs_contents_with_their_type_or_meta_data() {
    let ids = "conversation_id=7381473525342978089&message_id=7382159494123470860";
    let path = format!("/v1/conversation/message/modify?{ids}");
    for (body, place) in [
        (json!({}), "body/content"),
        (json!({"content_type": "text"}), "body/content"),
        (
            json!({"content": "", "content_type": "text"}),
            "body/content",
        ),
        (json!({"meta_data": {}}), "body/content"),
        (json!({"content": "Hi"}), "body/content_type"),
        (
            json!({"content": "Hi", "meta_data": {"order": "17"}}),
            "body/content_type",
        ),
    ] {
        let client = Client::new();
        let reply = client.post(&path, PAT, &body).await;
        let status = reply.status.as_u16();
        assert_eq!((status, &reply.json["code"]), (400, &json!(4000)), "{body}");
        let violations = client.mock.violations();
        assert_eq!(violations.len(), 1, "{body}");
        assert_eq!(violations[0].place, place, "{body}");
    }
}

#[tokio::test]
async fn messages_are_listed_page_by_page_in_both_directions() {
    let client = Client::new();
    let messages: Vec<Value> = (1..=5)
        .map(|number| json!({"role": "user", "content": number.to_string()}))
        .collect();
    let body = json!({"messages": messages});
    let conversation = client
        .ok(Method::POST, "/v1/conversation/create", body)
        .await;
    let id = conversation["data"]["id"].as_str().expect("an id");
    let all = client.messages(id, json!({})).await;
    assert_eq!(contents(&all["data"]), ["5", "4", "3", "2", "1"]);
    assert_eq!(all["has_more"], false);

    for (order, pages) in [
        ("desc", [vec!["5", "4"], vec!["3", "2"], vec!["1"]]),
        ("asc", [vec!["1", "2"], vec!["3", "4"], vec!["5"]]),
    ] {
        let mut body = json!({"order": order, "limit": 2});
        let mut firsts = Vec::new();
        for (number, expected) in pages.iter().enumerate() {
            let page = client.messages(id, body.clone()).await;
            assert_eq!(&contents(&page["data"]), expected, "{body}");
            assert_eq!(page["has_more"], number < 2, "{body}");
            let ids = page["data"].as_array().expect("messages");
            assert_eq!(ids.first().map(|one| &one["id"]), Some(&page["first_id"]));
            assert_eq!(ids.last().map(|one| &one["id"]), Some(&page["last_id"]));
            body["after_id"] = page["last_id"].clone();
            firsts.push(page["first_id"].clone());
        }
        // Back from the last page: what comes right before it.
        let back = json!({"order": order, "limit": 2, "before_id": firsts[2]});
        let page = client.messages(id, back).await;
        assert_eq!(&contents(&page["data"]), &pages[1]);
        assert_eq!(page["has_more"], true);
        let back = json!({"order": order, "limit": 2, "before_id": firsts[1]});
        let page = client.messages(id, back).await;
        assert_eq!(&contents(&page["data"]), &pages[0]);
        assert_eq!(page["has_more"], false);
    }
    // A position may be that of a message that has been deleted.
    let third = all["data"][2]["id"].as_str().expect("an id");
    let path = format!("/v1/conversation/message/delete?conversation_id={id}&message_id={third}");
    client.ok(Method::POST, &path, Value::Null).await;
    let page = client.messages(id, json!({"after_id": third})).await;
    assert_eq!(contents(&page["data"]), ["2", "1"]);
    let page = client.messages(id, json!({"after_id": "0"})).await;
    assert_eq!(contents(&page["data"]), ["5", "4", "2", "1"]);
    client.mock.assert_clean();
}

#[tokio::test]
async fn conversations_are_listed_renamed_cleared_and_deleted() {
    let client = Client::new();
    let mut ids = Vec::new();
    for number in 0..3 {
        let body = json!({"bot_id": defaults::BOT_ID, "name": format!("No. {number}"),
            "meta_data": {"order": "17"}});
        let created = client
            .ok(Method::POST, "/v1/conversation/create", body)
            .await;
        assert_eq!(created["data"]["meta_data"], json!({"order": "17"}));
        ids.push(created["data"]["id"].as_str().expect("an id").to_owned());
    }
    // Without a bot, with another one, or through another channel it is not in the list.
    for body in [
        json!({}),
        json!({"bot_id": defaults::BOT_IDS[1]}),
        json!({"bot_id": defaults::BOT_ID, "connector_id": "999"}),
    ] {
        client
            .ok(Method::POST, "/v1/conversation/create", body)
            .await;
    }
    let listed = async |query: &str| -> (Vec<String>, bool) {
        let path = format!("/v1/conversations?bot_id={}{query}", defaults::BOT_ID);
        let page = client.ok(Method::GET, &path, Value::Null).await["data"].take();
        let list = page["conversations"].as_array().expect("a list");
        let id = |one: &Value| one["id"].as_str().expect("an id").to_owned();
        (list.iter().map(id).collect(), page["has_more"] == true)
    };
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(listed("").await, (newest_first.clone(), false));
    assert_eq!(listed("&sort_order=ASC").await, (ids.clone(), false));
    assert_eq!(
        listed("&page_size=2").await,
        (newest_first[..2].to_vec(), true)
    );
    assert_eq!(
        listed("&page_size=2&page_num=2").await,
        (newest_first[2..].to_vec(), false)
    );
    assert_eq!(listed("&connector_id=999").await.0.len(), 1);

    let path = format!("/v1/conversations/{}", ids[0]);
    let renamed = client
        .ok(Method::PUT, &path, json!({"name": "Weather"}))
        .await;
    assert_eq!(renamed["data"]["name"], "Weather");
    let before = renamed["data"]["last_section_id"].clone();
    let section = client
        .ok(Method::POST, &format!("{path}/clear"), Value::Null)
        .await;
    assert_eq!(section["data"]["conversation_id"], ids[0].as_str());
    assert_ne!(section["data"]["id"], before);
    let retrieve = format!("/v1/conversation/retrieve?conversation_id={}", ids[0]);
    let read = client.ok(Method::GET, &retrieve, Value::Null).await;
    assert_eq!(read["data"]["last_section_id"], section["data"]["id"]);

    client.ok(Method::DELETE, &path, Value::Null).await;
    assert_eq!(client.get(&retrieve, PAT).await.json["code"], 4101);
    assert_eq!(listed("").await.0, newest_first[..2]);
    client.mock.assert_clean();

    let patched = client.call(Method::PATCH, &path, &[], "").await;
    assert_eq!(
        (patched.status.as_u16(), patched.header("allow")),
        (405, Some("PUT, DELETE"))
    );
}

#[tokio::test]
async fn feedback_is_for_answers_of_a_chat() {
    let client = Client::new();
    let chat = client.chat(question("Will it rain?")).await;
    client.mock.clock().advance(Duration::from_secs(2));
    let answer = client.about_chat("message/list", &chat).await[0]["id"].take();
    let listed = client.messages(&chat.0, json!({"order": "asc"})).await;
    let path = |message: &Value| {
        let message = message.as_str().expect("an id");
        format!("/v1/conversations/{}/messages/{message}/feedback", chat.0)
    };
    let like = json!({"feedback_type": "like"});
    client.ok(Method::POST, &path(&answer), like.clone()).await;
    client.ok(Method::DELETE, &path(&answer), Value::Null).await;
    let reply = client
        .post(&path(&listed["data"][0]["id"]), PAT, &like)
        .await;
    assert_eq!(reply.json["code"], 4000, "a question");
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_wrong_request_is_refused_and_recorded() {
    let message = |more: Value| {
        let mut body = question("Hi");
        for (name, value) in more.as_object().expect("fields") {
            body["additional_messages"][0][name] = value.clone();
        }
        body
    };
    let with = |name: &str, value: Value| {
        let mut body = question("Hi");
        body[name] = value;
        body
    };
    let mut draft_of_a_version = with("publish_status", json!("unpublished_draft"));
    draft_of_a_version["bot_version"] = "1795266000000".into();
    for (body, place, rule) in [
        (
            json!({"bot_id": defaults::BOT_ID}),
            "body/user_id",
            "required",
        ),
        (
            with("stream", json!("yes")),
            "body/stream",
            "must be of type boolean",
        ),
        (with("bot", json!("x")), "body/bot", "unknown field"),
        (
            with("meta_data", json!(null)),
            "body/meta_data",
            "must be of type object",
        ),
        (
            message(json!({"role": "system"})),
            "body/additional_messages/0/role",
            "one of [\"user\",\"assistant\"]",
        ),
        (
            message(json!({"id": "1"})),
            "body/additional_messages/0/id",
            "unknown field",
        ),
        (
            with("additional_messages", json!([])),
            "body/additional_messages",
            "at least one in a new conversation",
        ),
        (
            with("publish_status", json!("nonsense")),
            "body/publish_status",
            r#"one of ["published_online","unpublished_draft"]"#,
        ),
        (
            draft_of_a_version,
            "body/bot_version",
            "not with the draft of the bot",
        ),
        (
            with("auto_save_history", json!(false)),
            "body/auto_save_history",
            "must be true without stream",
        ),
    ] {
        let client = Client::new();
        let reply = client.post("/v3/chat", PAT, &body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json["code"]),
            (400, &json!(4000)),
            "{body}"
        );
        let violations = client.mock.violations();
        let found: Vec<_> = violations
            .iter()
            .map(|one| (one.place.as_str(), one.rule.as_str(), one.endpoint))
            .collect();
        assert_eq!(found, [(place, rule, Some(Endpoint::CreateChat))], "{body}");
    }
    let client = Client::new();
    let headers = [("authorization", &*format!("Bearer {PAT}"))];
    let reply = client
        .call(
            Method::POST,
            "/v3/chat",
            &headers,
            &question("Hi").to_string(),
        )
        .await;
    assert_eq!(reply.json["code"], 4000);
    assert_eq!(client.mock.violations()[0].place, "header/Content-Type");
}

/// As cozepy 0.20.0 sends them.
#[tokio::test]
async fn lenient_mode_accepts_what_an_official_sdk_sends() {
    let client = Client::of(MockCoze::builder().lenient(true));
    let body = json!({"bot_id": defaults::BOT_ID, "user_id": "user_1", "stream": false,
        "additional_messages": [{"role": "user", "type": "question", "content": "Hi",
            "content_type": "text", "meta_data": null, "id": "", "conversation_id": "", "section_id": null,
            "bot_id": "", "chat_id": "", "created_at": null, "updated_at": null, "reasoning_content": null}]});
    let chat = client.chat(body).await;
    let path = format!(
        "/v3/chat/retrieve?conversation_id={}&chat_id={}",
        chat.0, chat.1
    );
    let polled = client.ok(Method::POST, &path, Value::Null).await;
    assert_eq!(polled["data"]["status"], "in_progress");
    let violations = client.mock.violations();
    let last = violations.last().expect("a violation");
    assert_eq!(
        (last.place.as_str(), last.tolerated),
        ("method", Some(Tolerance::PostForGet))
    );
    assert!(violations.iter().all(|one| one.tolerated.is_some()));

    let strict = Client::new();
    let reply = strict.post(&path, PAT, &json!({})).await;
    assert_eq!(reply.status, 405);
    assert_eq!(strict.mock.violations()[0].rule, "must be GET");
}

#[tokio::test]
async fn streamed_answers_are_as_described() {
    let document = document();
    let client = Client::new();
    let faults = client.mock.faults();
    for reply in [
        ScriptedReply::new(),
        ScriptedReply::new().tool_call("read_clock", "{}"),
        ScriptedReply::new().failure(5000, "event interval error"),
    ] {
        faults.add(reply, Endpoint::CreateChat, Times::ONCE);
        let mut body = question("Will it rain?");
        body["stream"] = true.into();
        let reply = client.post("/v3/chat", PAT, &body).await;
        let stream = std::str::from_utf8(&reply.body).expect("text");
        assert!(stream.ends_with("event:done\ndata:\"[DONE]\"\n\n"));
        for event in stream.split("\n\n").filter(|event| !event.is_empty()) {
            let (name, data) = event.split_once('\n').expect("two lines");
            let name = name.strip_prefix("event:").expect("a name");
            let data = data.strip_prefix("data:").expect("data");
            let data: Value = serde_json::from_str(data).expect("JSON");
            if name != "done" {
                let events = &document["events"]["ChatEvent"]["events"];
                assert_described(&document, &events[name]["data"], &data, name);
            }
        }
    }
    let streamed = client.mock.requests();
    let ok = |record: &coze_mock::RequestRecord| {
        matches!(record.outcome, Outcome::Answered { status: 200, .. })
    };
    assert!(streamed.iter().all(ok));
    client.mock.assert_clean();
}
