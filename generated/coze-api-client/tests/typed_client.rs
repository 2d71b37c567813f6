//! The requests that builders become, and how answers are read.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use coze_api_client::Client;
use coze_api_client::types::{
    Bot, BotPage, Chat, ChatEvent, ChatStatus, ConversationPage, EnterMessage, Message,
    MessageContentType, MessagePage, MessageRole, PublishStatus, PublishedBotPage, SortOrder,
    SubmitToolOutputsBody, ToolOutput, User, WorkspacePage,
};
use coze_wire::reqwest::{Body, Request};
use coze_wire::{Dispatcher, Operation, Paged, Position, Retry, StreamEvent};
use serde_json::{Value, json};

fn coze() -> Client {
    Client::new("https://coze.test", Dispatcher::new(()))
}

fn request(operation: impl Operation) -> Request {
    operation.into_call().unwrap().request
}

/// Method, and path with query.
fn line(operation: impl Operation) -> String {
    let request = request(operation);
    let url = request.url().as_str();
    let path = url.strip_prefix("https://coze.test").unwrap();
    format!("{} {path}", request.method())
}

fn body(operation: impl Operation) -> Value {
    let request = request(operation);
    assert_eq!(request.headers()["content-type"], "application/json");
    serde_json::from_slice(request.body().and_then(Body::as_bytes).unwrap()).unwrap()
}

#[test]
fn only_what_is_set_is_in_the_query() {
    let list = coze().bots().list().workspace_id("7001");
    assert_eq!(line(list), "GET /v1/bots?workspace_id=7001");
    let list = coze().bots().list().workspace_id("a&b=c");
    let list = list.publish_status(PublishStatus::UnpublishedDraft);
    assert_eq!(
        line(list.page_num(2).page_size(50)),
        "GET /v1/bots?workspace_id=a%26b%3Dc&publish_status=unpublished_draft&page_num=2&page_size=50"
    );
}

#[test]
fn a_path_is_escaped_and_cannot_be_left() {
    let get = |id: &str| coze().bots().get().bot_id(id).is_published(false);
    assert_eq!(line(get("a/b")), "GET /v1/bots/a%2Fb?is_published=false");
    assert!(get("..").into_call().is_err());
    let feedback = coze().messages().delete_feedback();
    let feedback = feedback.conversation_id("c").message_id("m");
    assert_eq!(
        line(feedback),
        "DELETE /v1/conversations/c/messages/m/feedback"
    );
}

#[test]
fn a_request_holds_no_header_that_the_client_above_sets() {
    let request = request(coze().users().me());
    let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["accept"]);
    assert!(request.body().is_none());
}

#[test]
fn what_is_missing_is_named() {
    let chat = coze().chat().create().bot_id("7");
    assert_eq!(
        chat.into_call().unwrap_err().to_string(),
        "user_id is required"
    );
    let list = coze().bots().list();
    assert_eq!(
        list.into_call().unwrap_err().to_string(),
        "workspace_id is required"
    );
}

#[test]
fn both_forms_of_a_chat_say_which_they_are() {
    let chat = coze().chat().create();
    let chat = chat.bot_id("7").user_id("u").message("Hello");
    let sent = json!({
        "bot_id": "7", "user_id": "u", "stream": false,
        "additional_messages": [
            {"role": "user", "type": "question", "content": "Hello", "content_type": "text"},
        ],
    });
    assert_eq!(body(chat), sent);

    let stream = coze().chat().stream().bot_id("7").user_id("u");
    let stream = stream.message("Hello").conversation_id("c");
    assert_eq!(line(stream.clone()), "POST /v3/chat?conversation_id=c");
    assert_eq!(body(stream.clone())["stream"], true);
    assert_eq!(request(stream).headers()["accept"], "text/event-stream");
}

#[test]
fn maps_lists_and_objects_are_set_without_a_literal() {
    let output = ToolOutput::new("call_1", "21");
    let submit = coze().chat().submit_tool_outputs().tool_outputs([output]);
    let submit = submit.tool_output(ToolOutput::new("call_2", "22"));
    assert_eq!(
        body(submit.conversation_id("c").chat_id("d"))["tool_outputs"],
        json!([
            {"tool_call_id": "call_1", "output": "21"}, {"tool_call_id": "call_2", "output": "22"},
        ])
    );
    let message = EnterMessage::new(MessageRole::Assistant, "Yes");
    let conversation = coze().conversations().create().meta_data([("order", "17")]);
    assert_eq!(
        body(conversation.message(message.meta_data([("a", "b")]))),
        json!({
            "meta_data": {"order": "17"},
            "messages": [{"role": "assistant", "content": "Yes", "meta_data": {"a": "b"}}],
        })
    );
    let chat = coze().chat().create().bot_id("7").user_id("u");
    let chat = chat
        .parameters([("days", json!(3))])
        .additional_messages([] as [&str; 0]);
    let sent = body(chat);
    assert_eq!(sent["parameters"], json!({"days": 3}));
    assert_eq!(
        sent["additional_messages"],
        json!([]),
        "an empty list is sent"
    );
}

#[test]
fn reads_and_lists_can_be_sent_again() {
    fn retry<O: Operation>(_: O) -> Retry {
        O::INFO.retry
    }
    assert_eq!(retry(coze().chat().retrieve()), Retry::Read);
    assert_eq!(retry(coze().messages().list()), Retry::Read, "by POST");
    assert_eq!(retry(coze().chat().stream()), Retry::Write);
    assert_eq!(retry(coze().conversations().delete()), Retry::Write);
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn an_unknown_word_of_an_enum_is_kept_and_written_back() {
    let answer = json!({"id": "1", "conversation_id": "2", "status": "paused"});
    let chat: Chat = read(answer.clone());
    assert_eq!(chat.status, Some(ChatStatus::Other("paused".to_owned())));
    assert_eq!(serde_json::to_value(chat).unwrap(), answer);

    let answer = json!({"role": "tool", "type": "hint", "content": "", "content_type": "video"});
    let message: Message = read(answer.clone());
    let kind = message.content_type.as_ref();
    assert_eq!(kind.map(MessageContentType::as_str), Some("video"));
    assert_eq!(serde_json::to_value(message).unwrap(), answer);

    let list = coze().conversations().list().bot_id("7");
    let list = list.sort_order(SortOrder::from("RANDOM"));
    assert_eq!(
        line(list),
        "GET /v1/conversations?bot_id=7&sort_order=RANDOM"
    );
}

#[test]
fn null_and_missing_lists_are_none_and_unknown_fields_are_ignored() {
    let bot: Bot = read(json!({"bot_id": "1", "plugin_info_list": null, "new": {}}));
    assert!(bot.plugin_info_list.is_none() && bot.workflow_info_list.is_none());
    let message: Message = read(json!({}));
    assert_eq!(message.content, "");
}

#[test]
fn an_empty_list_may_be_missing_or_null_in_an_answer() {
    fn is_empty<T: serde::Serialize + serde::de::DeserializeOwned>(fields: &[&str], empty: Value) {
        let nulls = fields.iter().map(|name| ((*name).to_owned(), Value::Null));
        for answer in [json!({}), Value::Object(nulls.collect())] {
            let page: T = read(answer);
            assert_eq!(serde_json::to_value(page).unwrap(), empty);
        }
    }
    is_empty::<MessagePage>(&["data"], json!({"data": []}));
    is_empty::<ConversationPage>(&["conversations"], json!({"conversations": []}));
    is_empty::<BotPage>(&["items", "total"], json!({"items": [], "total": 0}));
    let published = json!({"space_bots": [], "total": 0});
    is_empty::<PublishedBotPage>(&["space_bots", "total"], published);
    let workspaces = json!({"workspaces": [], "total_count": 0});
    is_empty::<WorkspacePage>(&["workspaces", "total_count"], workspaces);
    is_empty::<Message>(&["content"], json!({"content": ""}));

    for wrong in [json!({"data": {}}), json!({"data": [1]})] {
        assert!(serde_json::from_value::<MessagePage>(wrong).is_err());
    }
    for sent in [json!({}), json!({"tool_outputs": null})] {
        let sent = serde_json::from_value::<SubmitToolOutputsBody>(sent);
        assert!(sent.is_err(), "requests stay strict");
    }
}

#[test]
fn only_the_id_of_a_user_is_required() {
    let user: User = read(json!({"user_id": "1", "nick_name": null}));
    assert_eq!(user.user_id, "1");
    assert!(user.user_name.is_empty() && user.nick_name.is_empty() && user.avatar_url.is_empty());
    assert!(serde_json::from_value::<User>(json!({"user_name": "ada"})).is_err());
}

#[test]
fn pages_are_turned_by_number() {
    let list = coze().conversations().list().bot_id("7").page_size(2);
    assert_eq!(list.position(), Position::Number(1));
    let next = list.at(Position::Number(2));
    assert_eq!(next.position(), Position::Number(2));
    assert_eq!(
        line(next.clone()),
        "GET /v1/conversations?bot_id=7&page_num=2&page_size=2"
    );
    let answer: ConversationPage = read(json!({"has_more": true, "conversations": [{"id": "1"}]}));
    let turned = next.page(answer);
    assert_eq!((turned.items.len(), turned.has_more), (1, Some(true)));
    assert_eq!((turned.total, turned.next), (None, None));
    let answer: BotPage = read(json!({"total": 21, "items": []}));
    assert_eq!(coze().bots().list().page(answer).total, Some(21));
}

#[test]
fn pages_are_turned_by_cursor() {
    let list = coze().messages().list().conversation_id("c").limit(2);
    assert_eq!(list.position(), Position::Token(String::new()));
    let next = list.clone().at(Position::Token("m2".to_owned()));
    assert_eq!(body(next), json!({"after_id": "m2", "limit": 2}));
    let answer =
        json!({"data": [{"id": "m3"}], "first_id": "m1", "last_id": "m3", "has_more": false});
    let page = list.page(read::<MessagePage>(answer.clone()));
    let found = (page.next.as_deref(), page.has_more);
    assert_eq!(found, (Some("m3"), Some(false)));

    for nowhere in ["0", ""] {
        let list = list.clone().before_id(nowhere);
        assert_eq!(list.position(), Position::Token(String::new()));
        assert_eq!(list.page(read(answer.clone())).next.as_deref(), Some("m3"));
    }
    let back = list.before_id("m9").after_id("0");
    assert_eq!(back.position(), Position::Token("m9".to_owned()));
    assert_eq!(back.page(read(answer)).next.as_deref(), Some("m1"));
    let next = back.at(Position::Token("m1".to_owned()));
    assert_eq!(
        body(next),
        json!({"after_id": "0", "before_id": "m1", "limit": 2})
    );
}

#[test]
fn events_have_their_variant_and_unknown_ones_none() {
    let data = || json!({"content": "Hi", "role": "assistant"});
    let event = ChatEvent::read("conversation.message.delta", data()).unwrap();
    let Some(ChatEvent::MessageDelta(message)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(message.content, "Hi");
    assert_eq!(ChatEvent::read("conversation.new", data()).unwrap(), None);
    assert_eq!(ChatEvent::NAMES.end, ["done"]);
    assert!(ChatEvent::read("conversation.chat.created", data()).is_err());
}
