use coze_mock::defaults;
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{path, query_param, query_param_is_missing},
};

use crate::{
    assert_run,
    support::{Run, World, events, start_mock},
};

fn chat(id: &str) -> String {
    json!({"id": id, "conversation_id": "77", "bot_id": "7101", "status": "created"}).to_string()
}

fn part(kind: &str, content: &str) -> String {
    part_of(Some("1"), kind, content)
}

fn part_of(id: Option<&str>, kind: &str, content: &str) -> String {
    json!({"id": id, "role": "assistant", "type": kind, "content": content, "content_type": "text"})
        .to_string()
}

fn answer(parts: &[&str]) -> ResponseTemplate {
    let created = chat("1");
    let deltas: Vec<_> = parts.iter().map(|text| part("answer", text)).collect();
    let mut all = vec![("conversation.chat.created", created.as_str())];
    all.extend(
        deltas
            .iter()
            .map(|delta| ("conversation.message.delta", delta.as_str())),
    );
    let follow_up = part("follow_up", "And then?");
    all.push(("conversation.message.completed", &follow_up));
    all.push(("done", r#""[DONE]""#));
    ResponseTemplate::new(200).set_body_raw(events(&all), "text/event-stream")
}

fn world(server: &MockServer) -> World {
    World::new()
        .set("COZE_API_BASE", server.uri())
        .set("COZE_API_TOKEN", "pat_hush")
        .set("COZE_BOT_ID", "7101")
}

async fn server() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(path("/v3/chat"))
        .and(query_param_is_missing("conversation_id"))
        .respond_with(answer(&["Hel", "lo"]))
        .mount(&server)
        .await;
    Mock::given(path("/v3/chat"))
        .and(query_param("conversation_id", "77"))
        .respond_with(answer(&["Again"]))
        .mount(&server)
        .await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_printed_unchanged() {
    let parts = [
        "☀\u{fe0f} 👨\u{200d}👩\u{200d}👧 می\u{200c}خواهم\r",
        "\nlo\u{1b}[31m\u{202e}",
    ];
    let server = MockServer::start().await;
    Mock::given(path("/v3/chat"))
        .respond_with(answer(&parts))
        .mount(&server)
        .await;
    let run = world(&server).run(&["chat", "Hi"]);
    assert_eq!(run.success(), parts.concat() + "\n");
    let sent: Value = server.received_requests().await.unwrap()[0]
        .body_json()
        .unwrap();
    assert_eq!(sent["additional_messages"][0]["content"], "Hi");
    assert_eq!(sent["user_id"], "coze-cli");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn an_answer_controls_no_terminal() {
    let server = MockServer::start().await;
    Mock::given(path("/v3/chat"))
        .respond_with(answer(&["❤\u{fe0f}\r\nlo\u{1b}[31m\r", "\n\u{202e}"]))
        .mount(&server)
        .await;
    let world = world(&server);
    let mut command = world.command(["chat", "Hi"]);
    command.stdin(std::process::Stdio::inherit());
    let mut terminal = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    let shown = terminal.exp_eof().unwrap();
    // Each byte is read as a character of its own, and the terminal ends each line by a carriage return.
    let shown: Vec<u8> = shown.chars().map(|c| c as u8).collect();
    let expected = "❤\u{fe0f}\r\nlo\\u{1b}[31m\r\n\\u{202e}\r\n";
    assert_eq!(String::from_utf8(shown).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_an_answer_is_printed_once() {
    let delta = |id, text| ("conversation.message.delta", part_of(id, "answer", text));
    let completed = |id, text| {
        (
            "conversation.message.completed",
            part_of(id, "answer", text),
        )
    };
    for (events, expected) in [
        (vec![completed(Some("2"), "whole")], "Hel\nwhole\n"),
        (
            vec![delta(Some("1"), "lo"), completed(Some("1"), "Hello")],
            "Hello\n",
        ),
        (
            vec![
                completed(Some("1"), "Hel"),
                delta(Some("2"), ""),
                delta(Some("2"), "a"),
                delta(Some("2"), "b"),
                completed(Some("2"), "ab"),
                delta(Some("3"), ""),
                completed(Some("3"), "c"),
            ],
            "Hel\nab\nc\n",
        ),
        (vec![delta(None, "lo"), completed(None, "Hello")], "Hello\n"),
    ] {
        let mut events: Vec<_> = events
            .iter()
            .map(|(name, data)| (*name, data.as_str()))
            .collect();
        events.push(("done", r#""[DONE]""#));
        let run = run_of(world, &events).await;
        assert_eq!(run.success(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_not_utf_8_is_named_after_the_answers_before_it() {
    let run = world(&server().await).run_with_input(&["chat"], b"Hi\r\n\n\xff\n");
    assert_eq!((run.code, run.stdout.as_str()), (2, "Hello\n"), "{run}");
    assert!(
        run.stderr.contains("line 3 of the input is not UTF-8"),
        "{run}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_a_conversation() {
    let server = server().await;
    assert_run!(world(&server).run_with_input(&["chat"], "Hi\n\nAnd?\n"));
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_of_the_mock_answers() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock).set("COZE_BOT_ID", defaults::BOT_IDS[0]);
    assert!(
        world
            .run(&["chat", "Hello, bot!"])
            .success()
            .contains("Hello, bot!")
    );
    let run = world.run_with_input(&["chat"], "first\nsecond\n");
    assert_eq!(run.success().lines().count(), 2, "{run}");
    let run = world.run(&["chat", "--bot", "1", "Hi"]);
    assert_eq!(run.code, 4, "{run}");
    assert!(run.stderr.contains("4200"), "{run}");
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_chat_is_a_refusal() {
    let server = MockServer::start().await;
    let created = chat("1");
    let failed = json!({"id": "1", "conversation_id": "77", "status": "failed",
        "last_error": {"code": 718010206, "msg": "The balance is insufficient"}})
    .to_string();
    let stream = events(&[
        ("conversation.chat.created", &created),
        ("conversation.chat.failed", &failed),
        ("done", r#""[DONE]""#),
    ]);
    let response = ResponseTemplate::new(200).set_body_raw(stream, "text/event-stream");
    Mock::given(path("/v3/chat"))
        .respond_with(response)
        .mount(&server)
        .await;
    assert_run!(world(&server).run(&["chat", "Hi"]));
}

/// The run of a chat whose answer begins with "Hel", and continues with these events.
async fn run_of(world_of: impl Fn(&MockServer) -> World, more: &[(&str, &str)]) -> Run {
    let server = MockServer::start().await;
    let (created, delta) = (chat("1"), part("answer", "Hel"));
    let mut all = vec![
        ("conversation.chat.created", created.as_str()),
        ("conversation.message.delta", &delta),
    ];
    all.extend(more);
    let response = ResponseTemplate::new(200).set_body_raw(events(&all), "text/event-stream");
    Mock::given(path("/v3/chat"))
        .respond_with(response)
        .mount(&server)
        .await;
    world_of(&server).run(&["chat", "Hi"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_ends_its_line() {
    let waits = json!({"id": "1", "conversation_id": "77", "status": "requires_action"});
    let waits = waits.to_string();
    let too_many = json!({"id": "1", "conversation_id": "77", "status": "failed",
        "last_error": {"code": 4013, "msg": "too many requests"}});
    let too_many = too_many.to_string();
    for (more, code) in [
        (&[][..], 5),
        (&[("error", r#"{"code": 5000, "msg": "it failed"}"#)], 4),
        (&[("error", r#"{"code": 4013, "msg": "too many"}"#)], 6),
        (&[("conversation.chat.requires_action", waits.as_str())], 4),
        (&[("conversation.chat.failed", too_many.as_str())], 6),
    ] {
        let run = run_of(world, more).await;
        assert_eq!((run.code, run.stdout.as_str()), (code, "Hel\n"), "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_failed_chat_has_no_secret() {
    let failed = json!({"id": "1", "conversation_id": "77", "status": "failed",
        "last_error": {"code": 1, "msg": "no: Authorization: Bearer pat_hush\n\u{9b}31m"}});
    let failed = failed.to_string();
    let run = run_of(world, &[("conversation.chat.failed", &failed)]).await;
    assert_eq!((run.code, run.stdout.as_str()), (4, "Hel\n"), "{run}");
    assert!(
        run.stderr.contains("with code 1: no: Authorization"),
        "{run}"
    );
    assert!(!run.to_string().contains("hush"), "{run}");
    assert_eq!(run.stderr.lines().count(), 1, "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_to_be_asked_for_again() {
    let chinese = |server: &MockServer| world(server).set("LANG", "zh_CN.UTF-8");
    let run = run_of(chinese, &[]).await;
    assert_eq!(run.code, 5, "{run}");
    assert!(run.stderr.contains("请勿直接重试，先用对话 ID"), "{run}");
}

#[test]
fn a_chat_needs_a_bot() {
    assert_run!(World::new().run(&["chat", "Hi"]));
}
