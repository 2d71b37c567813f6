//! Tests of chats with the generated operations: messages, streams, waiting.

use coze_api::{ErrorKind, MessageParts, prelude::*, types::*};

use crate::support::{Answer, Coze, Request, secs};

fn chat(status: &str) -> Answer {
    let text = r#"{"code":0,"data":{"id":"7001","conversation_id":"7381","status":"STATUS"}}"#;
    Answer::json(200, &text.replace("STATUS", status))
}

fn create(api: &CozeApi) -> coze_api::builder::CreateChat {
    api.chat()
        .create()
        .bot_id("7379")
        .user_id("user_1")
        .message("Hello")
}

fn body(request: &Request) -> serde_json::Value {
    serde_json::from_str(&request.body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_chat_is_streamed() {
    let text = "event:conversation.message.delta\ndata:{\"content\":\"Hi\",\"role\":\"robot\"}\n\n\
        event:conversation.mood\ndata:{}\n\nevent:done\ndata:\"[DONE]\"\n\n";
    let coze = Coze::new([Answer::events([text.into()])]);
    let api = coze.api();
    let mut events = api
        .chat()
        .stream()
        .bot_id("B")
        .user_id("u")
        .message("Hello")
        .send()
        .await
        .unwrap();
    let mut said = String::new();
    let mut unknown = Vec::new();
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            ChatEvent::MessageDelta(message) => {
                said.push_str(&message.content);
                assert_eq!(message.role, Some(MessageRole::Other("robot".to_owned())));
            }
            ChatEvent::Other { event, .. } => unknown.push(event),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        (&*said, unknown),
        ("Hi", vec!["conversation.mood".to_owned()])
    );
    assert_eq!(body(&coze.requests()[0])["stream"], true);
}

#[tokio::test(start_paused = true)]
async fn messages_parameters_and_variables_are_passed() {
    let coze = Coze::new([chat("completed")]);
    let call = create(&coze.api())
        .message(MessageParts::new().text("Where?").image_id("7901"))
        .parameters(serde_json::Map::from_iter([("days".to_owned(), 3.into())]))
        .custom_variables([("home_town".to_owned(), "Oslo".to_owned())]);
    call.send().await.unwrap();
    let sent = body(&coze.requests()[0]);
    assert_eq!(sent["additional_messages"][0]["content"], "Hello");
    let parts = &sent["additional_messages"][1];
    assert_eq!(parts["content_type"], "object_string");
    assert_eq!(
        parts["content"],
        r#"[{"type":"text","text":"Where?"},{"type":"image","file_id":"7901"}]"#
    );
    assert_eq!(sent["parameters"]["days"], 3);
    assert_eq!(sent["custom_variables"]["home_town"], "Oslo");
}

#[tokio::test(start_paused = true)]
async fn every_final_status_of_a_chat_is_returned() {
    for status in ["completed", "failed", "canceled", "requires_action"] {
        let coze = Coze::new([
            chat("created"),
            chat("in_progress"),
            chat("new_word"),
            chat(status),
        ]);
        let ended = create(&coze.api()).and_wait().send().await.unwrap();
        assert_eq!(ended.status, Some(ChatStatus::from(status)));
        assert_eq!(ended.log_id(), Some("log-1"));
        let requests = coze.requests();
        assert_eq!(requests.len(), 4);
        let asked = "http://localhost/v3/chat/retrieve?conversation_id=7381&chat_id=7001";
        assert!(
            requests[1..].iter().all(|request| request.url == asked),
            "{requests:?}"
        );
        let pauses = requests
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_millis());
        assert_eq!(pauses.collect::<Vec<_>>(), [1000, 1500, 2250]);
    }
    let coze = Coze::new([chat("completed")]);
    create(&coze.api()).and_wait().send().await.unwrap();
    assert_eq!(coze.requests().len(), 1, "the chat has already ended");
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_chat_ends_at_the_deadline() {
    let began = tokio::time::Instant::now();
    let coze = Coze::new((0..4).map(|_| chat("in_progress")));
    let wait = create(&coze.api()).and_wait().deadline(secs(7));
    let error = wait.send().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        (error.chat_id(), error.conversation_id()),
        (Some("7001"), Some("7381"))
    );
    assert!(error.hint().contains("retrieve"), "{}", error.hint());
    assert!(
        coze.requests()
            .iter()
            .all(|request| !request.url.contains("cancel"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_while_a_response_is_awaited() {
    for (answers, is_fate_unknown) in [
        (vec![Answer::Never], true),
        (vec![chat("created"), Answer::Never], false),
    ] {
        let began = tokio::time::Instant::now();
        let coze = Coze::new(answers);
        let chat = create(&coze.api()).conversation_id("7381");
        let error = chat.and_wait().deadline(secs(5)).send().await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), 5, "{error}");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.is_fate_unknown(), is_fate_unknown);
        assert_eq!(error.conversation_id(), Some("7381"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_chat_is_canceled_at_the_deadline_if_requested() {
    let coze = Coze::new([chat("in_progress"), chat("in_progress"), chat("canceled")]);
    let wait = create(&coze.api())
        .and_wait()
        .deadline(secs(2))
        .cancel_at_deadline();
    let error = wait.send().await.unwrap_err();
    assert!(error.to_string().contains("was canceled"), "{error}");
    let requests = coze.requests();
    let last = requests.last().unwrap();
    assert!(last.url.ends_with("/v3/chat/cancel"), "{}", last.url);
    assert_eq!(body(last)["chat_id"], "7001");
}

#[tokio::test(start_paused = true)]
async fn temporary_errors_of_polls_are_ignored_and_others_are_returned_with_the_chat() {
    let down = (0..3).map(|_| Answer::json(502, "no"));
    let coze = Coze::new(
        [chat("created")]
            .into_iter()
            .chain(down)
            .chain([chat("completed")]),
    );
    create(&coze.api()).and_wait().send().await.unwrap();

    let coze = Coze::new([
        chat("created"),
        Answer::json(200, r#"{"code":4200,"msg":"gone"}"#),
    ]);
    let error = create(&coze.api()).and_wait().send().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.chat_id()),
        (ErrorKind::Refused, Some("7001"))
    );
}

#[tokio::test(start_paused = true)]
async fn tool_outputs_are_submitted_and_the_chat_is_awaited() {
    let coze = Coze::new([chat("in_progress"), chat("completed")]);
    let submit = coze.api().chat().submit_tool_outputs();
    let submit = submit.conversation_id("7381").chat_id("7001");
    let submit = submit.tool_output(ToolOutput::new("call_1", "21"));
    let ended = submit.and_wait().send().await.unwrap();
    assert_eq!(ended.status, Some(ChatStatus::Completed));
    let sent = body(&coze.requests()[0]);
    let output = serde_json::json!([{"tool_call_id": "call_1", "output": "21"}]);
    assert_eq!(sent["tool_outputs"], output);
}

#[tokio::test(start_paused = true)]
async fn after_failed_polls_the_status_at_the_deadline_is_unknown() {
    let down = || Answer::json(502, r#"{"code":5000,"msg":"down"}"#);
    let polls = |last: Option<Answer>| {
        let failing = (0..6).map(|_| down());
        [chat("in_progress")].into_iter().chain(failing).chain(last)
    };
    for (answers, expected) in [
        (Coze::new(polls(None)), "down"),
        (Coze::new([chat("created"), Answer::Never]), "no response"),
    ] {
        let wait = create(&answers.api())
            .retries(0)
            .and_wait()
            .deadline(secs(17));
        let error = wait.send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let shown = error.to_string();
        assert!(
            shown.contains("unknown") && shown.contains(expected),
            "{shown}"
        );
        assert!(!shown.contains("still running"), "{shown}");
        assert_eq!(error.chat_id(), Some("7001"));
    }
    let coze = Coze::new([chat("created"), down(), chat("in_progress")]);
    let wait = create(&coze.api()).retries(0).and_wait().deadline(secs(3));
    let shown = wait.send().await.unwrap_err().to_string();
    assert!(shown.contains("still running"), "the last poll: {shown}");
}

#[tokio::test(start_paused = true)]
async fn the_cancellation_at_the_deadline_takes_at_most_10_seconds() {
    let began = tokio::time::Instant::now();
    let coze = Coze::new([chat("in_progress"), chat("in_progress"), Answer::Never]);
    let wait = create(&coze.api()).and_wait().deadline(secs(2));
    let error = wait.cancel_at_deadline().send().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 12);
    let shown = error.to_string();
    assert!(shown.contains("nothing within 10s"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn the_options_of_the_operation_apply_to_the_polls() {
    let coze = Coze::new([chat("in_progress"), Answer::Never, chat("completed")]);
    let wait = create(&coze.api()).timeout(secs(3)).and_wait();
    wait.send().await.unwrap();
    let requests = coze.requests();
    let waited = requests[2].at - requests[1].at;
    assert_eq!(waited.as_millis(), 3000 + 1500);
}
